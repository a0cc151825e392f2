//! Trials of configurations that are made while a stack is unpacked, each as soon as its program is whole: what a
//! program is going to read is known before the stack comes.
//!
//! Only that one was passed counts, and is remembered as its own step remembers it; that step has nothing to do then. Whatever
//! else came of it is for the step to say, which asks the program again in its place: a stack that turns out to be damaged
//! takes its programs away while they are asked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::Instant;

use super::super::ledger::Ledger;
use super::super::phase::{self, PhaseContext};
use super::super::step::TrialStep;
use super::super::trial;
use crate::host::Host;
use crate::model::{Digest, StackFile, StackRef, paths};
use crate::stack;

/// Those of one stack.
#[derive(Debug)]
pub(super) struct EarlyTrials {
    host: Host,
    /// Where its files are until it has its place.
    incoming: PathBuf,
    /// By the file of the stack that they are about.
    trials: BTreeMap<String, TrialStep>,
    passed: Mutex<Vec<Passed>>,
}

/// A program that accepted its configuration.
#[derive(Clone, Debug)]
pub(in crate::nodelet) struct Passed {
    pub(in crate::nodelet) program: String,
    /// Of the trial.
    pub(super) digest: Digest,
    pub(in crate::nodelet) took: Duration,
}

impl EarlyTrials {
    /// What the programs of this stack are asked on this node and have not passed before.
    pub(super) fn of(host: &Host, ctx: &PhaseContext, want: &StackRef, ledger: &Ledger) -> Self {
        let place = format!("{}/{}/", paths::STACKS, want.dir_name());
        // What phases wait for is said by them.
        let all = phase::trials_of(ctx).unwrap_or_default();
        let new = all.into_iter().filter(|trial| {
            let passed = ledger.passed(&trial.program, &trial.digest());
            trial.bytes.is_some() && !passed
        });
        let by_file = new.filter_map(|trial| {
            let file = trial.path.strip_prefix(&place)?.to_owned();
            Some((file, trial))
        });
        Self {
            host: host.clone(),
            incoming: stack::incoming_of(want),
            trials: by_file.collect(),
            passed: Mutex::default(),
        }
    }

    /// A program is asked that is this file, or in it.
    pub(super) fn is_about(&self, file: &StackFile) -> bool {
        self.of_file(file).is_some()
    }

    fn of_file(&self, file: &StackFile) -> Option<&TrialStep> {
        let trial = self.trials.get(&file.path)?;
        (trial.bytes == Some(file.sha256)).then_some(trial)
    }

    /// Makes the trial that is about this file, if there is one.
    pub(super) fn make(self: &Arc<Self>, file: &StackFile) -> BoxFuture<'static, ()> {
        let Some(trial) = self.of_file(file).cloned() else {
            return async {}.boxed();
        };
        let (all, digest) = (Arc::clone(self), trial.digest());
        let path = self.incoming.join(&file.path);
        async move {
            let trial = TrialStep {
                path: path.to_string_lossy().into_owned(),
                ..trial
            };
            let began = Instant::now();
            match trial::run(&all.host, &trial).await {
                Ok(()) => all.lock().push(Passed {
                    program: trial.program,
                    digest,
                    took: began.elapsed(),
                }),
                Err(fault) => tracing::debug!(%fault, "its step tries it again"),
            }
        }
        .boxed()
    }

    /// In the order in which they passed.
    pub(super) fn passed(&self) -> Vec<Passed> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Passed>> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
