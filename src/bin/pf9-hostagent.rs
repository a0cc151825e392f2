//! DOCUMENTS: desired state in, status out.

use std::process::ExitCode;

use pf9_hostagent::app::{Daemon, daemon};

fn main() -> ExitCode {
    daemon(&Daemon::HOSTAGENT, pf9_hostagent::hostagent::start).into()
}
