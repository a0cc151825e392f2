//! `pf9-comms`: BYTES. Holds the tunnel to the management plane.

use std::process::ExitCode;

use pf9_hostagent::app::{Daemon, daemon};

fn main() -> ExitCode {
    daemon(&Daemon::COMMS, pf9_hostagent::comms::start).into()
}
