//! DOCUMENTS: desired state in, status out.

use std::process::ExitCode;

use pf9_hostagent::app::{Daemon, Runtime, daemon};
use pf9_hostagent::hostagent;

fn main() -> ExitCode {
    let this = Daemon {
        name: "pf9-hostagent",
        about: "Host agent: the desired spec in, the observed status out",
        runtime: Runtime::Single,
    };
    daemon(&this, hostagent::start).into()
}
