//! `etcd recovery-key`: a key pair in the format of `age-keygen`. The plane gets the public half only; the file belongs
//! where the plane and its nodes cannot reach it.

use std::path::PathBuf;

use clap::Parser;
use serde::Serialize;

use super::super::context::CommandContext;
use super::super::output::{Ink, Screen, Show};
use crate::app::Exit;
use crate::backup::seal;
use crate::host::fs::{Attrs, Found, HostFs};
use crate::model::{Fault, FaultCode};
use crate::telemetry::chain;

#[derive(Debug, Parser)]
pub(in super::super) struct RecoveryKeyArgs {
    /// Where the key goes (0600); nothing may be there.
    #[arg(value_name = "FILE")]
    pub(in super::super) file: PathBuf,
    /// One JSON value instead of lines.
    #[arg(long)]
    pub(in super::super) json: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Made {
    file: PathBuf,
    recipient: String,
}

pub(super) fn run(ctx: &CommandContext, args: &RecoveryKeyArgs) -> Result<Exit, Fault> {
    let what = "no recovery key was made";
    let cannot = |why: String| Fault::new(FaultCode::File, what, why);
    let here = std::env::current_dir().map_err(|e| cannot(e.to_string()))?;
    let file = here.join(&args.file);
    // The person's own path, whatever root the host's files are below.
    let fs = HostFs::real();
    if fs.found(&file).map_err(|e| cannot(chain(&e)))? != Found::Nothing {
        let why = format!("there is something at {} already", file.display());
        return Err(cannot(why).fix("name another file; a key that is in use must not be lost"));
    }
    let (key, recipient) = seal::new_key();
    let text = format!("# public key: {recipient}\n{}\n", key.expose());
    fs.write(&file, text.as_bytes(), &Attrs::mode(0o600))
        .map_err(|e| cannot(chain(&e)))?;
    ctx.out.show(&Made { file, recipient });
    Ok(Exit::Ok)
}

impl Show for Made {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        let file = self.file.display().to_string();
        screen.row("private", Ink::Plain, &file, width);
        screen.row("public", Ink::Bold, &self.recipient, width);
        let next = format!(
            "pf9-plane cluster backups NAME set --recovery-recipient {}",
            self.recipient
        );
        screen.row("tell", Ink::Plain, &next, width);
        let keep = "keep the file offline; who has it can read every backup made from now on";
        screen.row("keep", Ink::Warn, keep, width);
        screen.gap();
        screen
    }
}
