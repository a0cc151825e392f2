//! Trials: a program of the stack reads its configuration in a temporary root before it is started
//! with it (`step::trial` says when and why).
//!
//! ```text
//! TrialStep ──► files below the temporary root ──► the program, bounded ──► Answer ──► judge (pure) ──► Ok, or what it would lose
//! ```
//!
//! | file | judges |
//! |---|---|
//! | `containerd` | `containerd config dump` |

mod containerd;

use super::step::trial::{TRIAL_ROOT, TRIAL_WAIT_MAX};
use super::step::{Judge, TrialStep};
use crate::host::Host;
use crate::host::exec::{self, Answer, Cmd};
use crate::host::fs::{Attrs, FsError};
use crate::model::{Fault, FaultCode, paths};
use crate::telemetry::chain;

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the program would lose or not understand, by name.
    pub why: String,
    /// What a person can do.
    pub fix: String,
}

/// The verdict on what the program said.
pub fn judge(trial: &TrialStep, said: &Answer) -> Result<(), Fault> {
    let verdict = match &trial.judge {
        Judge::Containerd { schema, unread } => containerd::judge(trial, *schema, unread, said),
    };
    verdict.map_err(|refusal| {
        let what = format!(
            "{} is not started with a configuration that it does not take; nothing was changed",
            trial.program
        );
        Fault::new(FaultCode::ConfigRefused, what, refusal.why).fix(refusal.fix)
    })
}

/// Makes the trial. What it needs on the disk is gone afterwards; what a crash left goes with the
/// next trial of the program, or with the agent.
pub async fn run(host: &Host, trial: &TrialStep) -> Result<(), Fault> {
    let root = format!("{}/trials/{}", paths::NODELET_STATE, trial.program);
    let failed = |e: FsError| {
        Fault::new(
            FaultCode::File,
            format!("cannot try the configuration of {}", trial.program),
            chain(&e),
        )
        .fix("look at the disk that holds /var/opt/pf9/nodelet")
    };
    host.fs.remove_tree(&root).map_err(failed)?;
    let said = match put(host, &root, trial) {
        Ok(()) => Ok(exec::ask(command(host, &root, trial)).await),
        Err(e) => Err(failed(e)),
    };
    host.fs.remove_tree(&root).map_err(failed)?;
    let said = said?.map_err(|e| {
        let what = format!(
            "{} of the stack does not run on this machine",
            trial.program
        );
        Fault::new(FaultCode::ProgramNotRunnable, what, chain(&e)).fix(format!(
            "see that {} may be executed (a file system mounted noexec, SELinux) and is built for \
             this machine; the stack of before stays active",
            trial.path
        ))
    })?;
    judge(trial, &said)
}

fn put(host: &Host, root: &str, trial: &TrialStep) -> Result<(), FsError> {
    let private = Attrs::mode(0o700);
    host.fs.make_dir(root, &private)?;
    for (path, content) in &trial.files {
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
    let root = host.fs.at(root);
    let root = root.to_string_lossy();
    let args = trial.args.iter().map(|arg| arg.replace(TRIAL_ROOT, &root));
    let mut cmd = Cmd::new(host.fs.at(&trial.path), trial.within.min(TRIAL_WAIT_MAX)).args(args);
    for (key, value) in &trial.env {
        cmd = cmd.env(key, value.replace(TRIAL_ROOT, &root));
    }
    cmd
}

#[cfg(test)]
mod tests;
