//! The programs of a node, which are one file: the name that it is called by says which.
//!
//! | name | is |
//! |---|---|
//! | `pf9-comms` | BYTES: holds the tunnel to the management plane |
//! | `pf9-hostagent` | DOCUMENTS: desired state in, status out |
//! | `pf9-nodeletd` | EFFECTS: makes this machine a Kubernetes node, and undoes it |
//! | `pf9ctl` | the operator's hand |
//!
//! One file, because the four share most of what they are made of: it is downloaded, kept and held in memory once. What
//! each may do on a machine is its unit's to say (user, sandbox), as it was when they were four.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use pf9_hostagent::app::{Daemon, Exit, answering_daemon, daemon};
use pf9_hostagent::{cli, comms, hostagent, nodelet};

fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().and_then(OsStr::to_str);
    let exit = match name.unwrap_or_default() {
        "pf9-comms" => daemon(&Daemon::COMMS, comms::start),
        "pf9-hostagent" => daemon(&Daemon::HOSTAGENT, hostagent::start),
        "pf9-nodeletd" => answering_daemon(&Daemon::NODELETD, nodelet::start),
        "pf9ctl" => cli::main(),
        _ => nobody(),
    };
    exit.into()
}

/// Called by its own name, which none of the programs has.
fn nobody() -> Exit {
    let names = Daemon::ALL.map(|d| d.name).join(", ");
    let text = format!(
        "pf9-agent: this is {names} and pf9ctl in one file, and it was called by none of these names: \
         call the links beside it"
    );
    drop(writeln!(std::io::stderr(), "{text}"));
    Exit::Usage
}
