//! The management-plane stub; see the `pf9_plane` library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pf9_plane::main().into()
}
