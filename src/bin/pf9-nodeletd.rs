//! EFFECTS: makes this machine a Kubernetes node, and undoes it.

use std::process::ExitCode;

use pf9_hostagent::app::{Daemon, Runtime, answering_daemon};
use pf9_hostagent::nodelet;

fn main() -> ExitCode {
    let this = Daemon {
        name: "pf9-nodeletd",
        about: "Makes this machine a Kubernetes node, keeps it one, and undoes it",
        runtime: Runtime::Single,
    };
    answering_daemon(&this, nodelet::start).into()
}
