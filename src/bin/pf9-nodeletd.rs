//! EFFECTS: makes this machine a Kubernetes node, and undoes it.

use std::process::ExitCode;

use pf9_hostagent::app::{Daemon, answering_daemon};

fn main() -> ExitCode {
    answering_daemon(&Daemon::NODELETD, pf9_hostagent::nodelet::start).into()
}
