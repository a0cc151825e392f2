//! The step that unpacks a stack beside the active one.
//!
//! ```text
//! prepare (beside its place) ─► programs run here? ─► put in place ─► collect garbage
//!                                     └ no: what was unpacked goes, the active stack stays
//! ```
//!
//! Trials of configurations come after it, then the step that makes the stack the active one.

use super::super::context::RefusedStack;
use super::super::fit::{Ran, Unfit};
use super::{Effects, Failed};
use crate::host::fs::HostFs;
use crate::model::StackRef;
use crate::stack::{self, Prepared, StackError, programs};
use crate::telemetry::chain;

impl Effects<'_> {
    pub(super) async fn unpacked(&mut self, want: &StackRef) -> Result<(), Failed> {
        let prepared = {
            let (fs, trust, stack) = (self.host.fs.clone(), self.trust.clone(), want.clone());
            // Reads and writes GiB: not on the thread that serves the socket.
            blocking(move || stack::prepare(&fs, &stack, &trust)).await
        };
        let prepared = prepared.map_err(|e| self.not_prepared(want, e))?;
        let prepared = self.runs_here(want, prepared).await?;
        let (fs, stack) = (self.host.fs.clone(), want.clone());
        let done = blocking(move || put_in_place(&fs, &stack, prepared)).await;
        done.map_err(|e| self.not_prepared(want, e))
    }

    /// The stack when its programs run on this machine. What is active already did: a repair of it
    /// is not held up.
    async fn runs_here(&mut self, want: &StackRef, prepared: Prepared) -> Result<Prepared, Failed> {
        let fs = &self.host.fs;
        if stack::current(fs).ok().flatten().as_ref() == Some(want) {
            return Ok(prepared);
        }
        let ran = Ran::now(fs, want);
        if self.memory.ran.as_ref() == Some(&ran) {
            return Ok(prepared);
        }
        match programs::check(fs, &prepared.dir(), prepared.content()).await {
            Ok(()) => {
                self.memory.ran = Some(ran);
                Ok(prepared)
            }
            Err(fault) => {
                self.memory.unfit = Some(Unfit::new(ran, fault.clone()));
                let fs = fs.clone();
                let gone = move || {
                    prepared.discard(&fs);
                    Ok(())
                };
                blocking(gone)
                    .await
                    .map_err(|e| self.not_prepared(want, e))?;
                Err(Failed::Fault(fault))
            }
        }
    }

    fn not_prepared(&mut self, want: &StackRef, e: Lost) -> Failed {
        match e {
            Lost::Stack(e) => {
                let fault = e.fault(want);
                if is_bad_staging(&e) {
                    self.memory.refused_stack = Some(RefusedStack {
                        stack: want.clone(),
                        fault: fault.clone(),
                    });
                }
                Failed::Fault(fault)
            }
            Lost::Task(why) => Failed::Why(why),
        }
    }
}

/// Why the work on the disk did not end well.
enum Lost {
    Stack(StackError),
    Task(String),
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StackError> + Send + 'static,
) -> Result<T, Lost> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Lost::Stack),
        Err(e) => Err(Lost::Task(e.to_string())),
    }
}

fn put_in_place(fs: &HostFs, stack: &StackRef, prepared: Prepared) -> Result<(), StackError> {
    prepared.put_in_place(fs)?;
    match stack::collect_garbage(fs, std::slice::from_ref(stack)) {
        Ok(gone) if gone.is_empty() => {}
        Ok(gone) => tracing::info!(?gone, "old stacks removed"),
        // Costs space, not correctness; the next stack tries again.
        Err(e) => tracing::warn!(error = %chain(&e), "old stacks were not removed"),
    }
    Ok(())
}

/// What is staged is not what it should be: hostagent has to fetch it again.
fn is_bad_staging(e: &StackError) -> bool {
    match e {
        StackError::Untrusted(_)
        | StackError::OtherManifest { .. }
        | StackError::Invalid(_)
        | StackError::NotStaged { .. }
        | StackError::Damaged(_)
        | StackError::Entry { .. } => true,
        StackError::Space(_)
        | StackError::NotInstalled
        | StackError::Drifted { .. }
        | StackError::Fs(_)
        | StackError::Io { .. } => false,
    }
}
