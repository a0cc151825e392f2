//! `pf9-comms`: BYTES. Holds the tunnel to the management plane.

use std::process::ExitCode;

use pf9_hostagent::app::{Daemon, Runtime, daemon};

fn main() -> ExitCode {
    let comms = Daemon {
        name: "pf9-comms",
        about: "Holds the tunnel between this host and its management plane",
        // One thread: the cryptography of one connection is one core's work, and memory counts.
        runtime: Runtime::Single,
    };
    daemon(&comms, pf9_hostagent::comms::start).into()
}
