//! The management-plane stub; see `pf9_hostagent::plane`.

use std::process::ExitCode;

fn main() -> ExitCode {
    pf9_plane::main().into()
}
