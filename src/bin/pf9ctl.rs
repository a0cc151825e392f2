//! The operator's hand on a node; see `pf9_hostagent::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    pf9_hostagent::cli::main().into()
}
