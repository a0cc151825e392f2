//! Trials: a program of the stack reads its configuration in a temporary root before it is started
//! with it (`step::trial` says when and why).
//!
//! ```text
//! TrialStep ──► files below the temporary root ──► the program, bounded ──► Answer ──► verdict (pure) ──► Ok, or what it would lose
//! ```
//!
//! | file | judges |
//! |---|---|
//! | `containerd` | `containerd config dump` |
//! | `stopped` | programs that have no verb for it: Kubernetes' and etcd |

mod containerd;
mod stopped;

use std::time::Duration;

use super::step::trial::{TRIAL_ROOT, TRIAL_WAIT_MAX};
use super::step::{Judge, TrialStep};
use crate::host::Host;
use crate::host::exec::{self, Cmd, ExecError, ProgramOutput};
use crate::host::fs::{Attrs, FsError};
use crate::host::refusals;
use crate::host::work::long;
use crate::model::{Fault, FaultCode, paths};
use crate::stack::image;
use crate::telemetry::chain;

/// How often a program is started that the kernel still holds busy, and the pause between.
const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(25);

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialRefusal {
    /// What the program would lose or not understand, by name.
    pub why: String,
    /// What a person can do.
    pub fix: String,
}

/// The verdict on what the program said.
pub fn verdict(trial: &TrialStep, said: &ProgramOutput) -> Result<(), Fault> {
    let verdict = match &trial.judge {
        Judge::Containerd { schema, unread } => containerd::verdict(trial, *schema, unread, said),
        Judge::Stopped { expects, theirs } => {
            stopped::verdict(&trial.program, expects, theirs, said)
        }
    };
    verdict.map_err(|refusal| {
        let what = format!(
            "{} rejects its new configuration and is not restarted with it; nothing was changed",
            trial.program
        );
        Fault::new(FaultCode::ConfigRefused, what, refusal.why).fix(refusal.fix)
    })
}

/// Makes the trial. What it needs on the disk is gone afterwards; what a crash left goes with the
/// next trial of the program, or with the agent.
pub async fn run(host: &Host, trial: &TrialStep) -> Result<(), Fault> {
    let root = format!("{}/trials/{}", paths::NODELET_STATE, trial.program);
    let clean = || host.fs.remove_tree(&root);
    clean().map_err(|e| on_disk(trial, chain(&e)))?;
    let said = asked(host, &root, trial).await;
    clean().map_err(|e| on_disk(trial, chain(&e)))?;
    verdict(trial, &said?)
}

async fn asked(host: &Host, root: &str, trial: &TrialStep) -> Result<ProgramOutput, Fault> {
    put(host, root, trial).map_err(|e| on_disk(trial, chain(&e)))?;
    if let Some(inside) = trial.inside.clone() {
        let (archive, to) = (host.fs.at(&trial.path), host.fs.at(program_of(root)));
        let taken = long(move || image::take_out(&archive, &inside, &to)).await;
        let taken = taken.map_err(std::io::Error::from).flatten();
        taken.map_err(|e| match refusals::of(&e) {
            Some((code, fix)) => not_tried(trial, code, chain(&e)).fix(fix),
            None => on_disk(trial, chain(&e)),
        })?;
    }
    answer(host, root, trial).await.map_err(|e| {
        // It says nothing of the program: the trial is made again.
        if let Some((code, fix)) = refusals::of(&e) {
            return not_tried(trial, code, chain(&e)).fix(fix);
        }
        let what = format!(
            "{} of the stack does not run on this machine",
            trial.program
        );
        Fault::new(FaultCode::ProgramNotRunnable, what, chain(&e)).fix(format!(
            "check that {} may be executed (a file system mounted noexec, SELinux) and is built for this machine; the \
             previous stack stays active",
            trial.path
        ))
    })
}

fn on_disk(trial: &TrialStep, why: String) -> Fault {
    not_tried(trial, FaultCode::File, why).fix("check the disk that holds /var/opt/pf9/nodelet")
}

fn not_tried(trial: &TrialStep, code: FaultCode, why: String) -> Fault {
    let what = format!("cannot test the configuration of {}", trial.program);
    Fault::new(code, what, why)
}

/// A program that was written a moment ago may be open for writing in a child that another thread
/// just made and that is about to become something else; until then the kernel does not run it.
async fn answer(host: &Host, root: &str, trial: &TrialStep) -> Result<ProgramOutput, ExecError> {
    for _ in 0..BUSY_TRIES {
        match exec::ask(command(host, root, trial)).await {
            Err(ExecError::Start { source, .. })
                if source.kind() == std::io::ErrorKind::ExecutableFileBusy =>
            {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            said => return said,
        }
    }
    exec::ask(command(host, root, trial)).await
}

/// Where a program is that was taken out of an image.
fn program_of(root: &str) -> String {
    format!("{root}/program")
}

fn put(host: &Host, root: &str, trial: &TrialStep) -> Result<(), FsError> {
    let private = Attrs::mode(0o700);
    host.fs.make_dir(root, &private)?;
    let here = host.fs.at(root);
    let here = here.to_string_lossy();
    for (path, content) in &trial.files {
        let content = content.replace(TRIAL_ROOT, &here);
        let path = format!("{root}/{path}");
        if let Some((dir, _)) = path.rsplit_once('/') {
            host.fs.make_dir(dir, &private)?;
        }
        host.fs
            .write(&path, content.as_bytes(), &Attrs::mode(0o600))?;
    }
    Ok(())
}

fn command(host: &Host, root: &str, trial: &TrialStep) -> Cmd {
    let program = match trial.inside {
        Some(_) => host.fs.at(program_of(root)),
        None => host.fs.at(&trial.path),
    };
    let root = host.fs.at(root);
    let root = root.to_string_lossy();
    let args = trial.args.iter().map(|arg| arg.replace(TRIAL_ROOT, &root));
    let mut cmd = Cmd::new(program, trial.within.min(TRIAL_WAIT_MAX)).args(args);
    for (key, value) in &trial.env {
        cmd = cmd.env(key, value.replace(TRIAL_ROOT, &root));
    }
    cmd
}

#[cfg(test)]
mod tests;
