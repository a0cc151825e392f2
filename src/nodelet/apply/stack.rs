//! The step that unpacks a stack beside the active one, while its archive still comes.
//!
//! ```text
//! prepare (beside its place) ────────► put in place ─► collect garbage
//!     └► each program: runs here? ─────┘
//!             ├ no: what was unpacked goes, the active stack stays
//!             └ yes: its trial, and what passes is remembered (`early`)
//! ```
//!
//! Trials of configurations that did not pass then come after it, then the step that makes the stack the active one.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::super::context::RefusedStack;
use super::super::fit::{Ran, Unfit};
use super::super::observe::record_of;
use super::super::roll;
use super::early::EarlyTrials;
use super::{Failed, Shared};
use crate::host::fs::HostFs;
use crate::host::work::long;
use crate::model::{Fault, NodeSpec, STACK_FILES_MAX, StackFile, StackRef, paths};
use crate::stack::{self, PreparedStack, StackError, programs};
use crate::telemetry::chain;

impl Shared<'_, '_> {
    pub(super) async fn unpacked(&self, want: &StackRef) -> Result<(), Failed> {
        let (tell, files) = mpsc::channel(STACK_FILES_MAX);
        let trials = {
            let all = self.alone().await;
            Arc::new(EarlyTrials::of(
                self.host,
                self.ctx,
                want,
                &all.ledger.ledger,
            ))
        };
        let unpacked = {
            let (fs, trust, stack) = (self.host.fs.clone(), self.trust.clone(), want.clone());
            let (stops, trials) = (self.stops.clone(), Arc::clone(&trials));
            let mut seen = move |file: &StackFile| {
                if programs::is_program(file) || trials.is_about(file) {
                    // Room for as many as a manifest may list; there is no receiver once the answer is known.
                    tell.try_send(file.clone()).ok();
                }
            };
            // Reads and writes GiB: not on the thread that serves the socket.
            beside(move || stack::prepare(&fs, &stack, &trust, stops, &mut seen))
        };
        let (prepared, run) = tokio::join!(unpacked, self.run_here(want, files, &trials));
        let prepared = match prepared {
            Ok(prepared) => self.runs_here(want, prepared, run).await?,
            Err(e) => return Err(self.not_prepared(want, e).await),
        };
        let content = prepared.content().clone();
        let (fs, keep) = (self.host.fs.clone(), self.kept(want).await);
        if let Err(e) = beside(move || put_in_place(&fs, &keep, prepared)).await {
            return Err(self.not_prepared(want, e).await);
        }
        let mut all = self.alone().await;
        // Each byte was compared with the manifest on its way to the disk: once is enough.
        match record_of(self.host, want, &content) {
            Ok(record) => all.memory.is_whole(record),
            Err(e) => tracing::debug!(error = %chain(&e), "the stack is verified again"),
        }
        let passed = trials.passed();
        if passed.is_empty() {
            return Ok(());
        }
        for trial in &passed {
            all.ledger.ledger.pass(&trial.program, trial.digest);
        }
        all.ledger.save()?;
        self.early().extend(passed);
        Ok(())
    }

    /// Stacks that stay, beside the active one and the one before it: those that this node is to have, and
    /// those that it has by the ledger.
    async fn kept(&self, want: &StackRef) -> Vec<StackRef> {
        let all = self.alone().await;
        let installed = all.ledger.ledger.installed.as_ref();
        let beside = all.memory.beside.clone();
        let nodes = [Some(&self.ctx.node), installed.map(|i| &i.node)];
        let of = |node: &NodeSpec| {
            let order = node.upgrade.as_ref().map(|order| order.stack.clone());
            [Some(node.stack.clone()), order]
        };
        let all = nodes.into_iter().flatten().flat_map(of).flatten();
        let of_the_roll = roll::stacks(&self.host.fs).into_iter();
        all.chain(of_the_roll)
            .chain(beside)
            .chain([want.clone()])
            .collect()
    }

    /// The ledger says that a stack is whole only when that outlives the power: until then every byte is
    /// looked at again after a start.
    pub(super) async fn stack_on_disk(&self, want: &StackRef) -> Result<(), Failed> {
        let Some(content) = self.ctx.manifest.clone() else {
            return Err(Failed::Why("its manifest is missing".into()));
        };
        let (fs, stack, files) = (self.host.fs.clone(), want.clone(), content.clone());
        if let Err(e) = beside(move || stack::keep_on_disk(&fs, &stack, &files)).await {
            return Err(self.not_prepared(want, e).await);
        }
        // With its images, as the runtime has them: see `Memory::imported`.
        let images = self.host.runtime.keep_on_disk().await;
        images.map_err(|e| Failed::of(&e))?;
        let record = record_of(self.host, want, &content).map_err(|e| Failed::of(&e))?;
        let mut all = self.alone().await;
        if all.memory.whole.get(&want.dir_name()) != Some(&record) {
            return Err(Failed::Why("it changed meanwhile".into()));
        }
        all.ledger.ledger.stack = Some(record);
        all.memory.imported.clear();
        Ok(all.ledger.save()?)
    }

    /// Whether its programs run here is known: what is active already did (a repair of it is not held up),
    /// and so did what was asked on this very machine.
    async fn is_known_to_run(&self, want: &StackRef) -> bool {
        let fs = &self.host.fs;
        stack::current(fs).ok().flatten().as_ref() == Some(want)
            || self.alone().await.memory.ran.as_ref() == Some(&Ran::now(fs, want))
    }

    /// Asks programs as they come, while the rest is unpacked, and has them read their configuration.
    async fn run_here(
        &self,
        want: &StackRef,
        files: mpsc::Receiver<StackFile>,
        trials: &Arc<EarlyTrials>,
    ) -> Result<(), Fault> {
        let Some(content) = &self.ctx.manifest else {
            return Ok(());
        };
        if self.is_known_to_run(want).await {
            return Ok(());
        }
        let fs = &self.host.fs;
        let then = |file: &StackFile| trials.make(file);
        programs::check_as_they_come(fs, &stack::incoming_of(want), content, files, &then).await
    }

    /// The stack when its programs run on this machine; `run`: what those said that came.
    async fn runs_here(
        &self,
        want: &StackRef,
        prepared: PreparedStack,
        mut run: Result<(), Fault>,
    ) -> Result<PreparedStack, Failed> {
        if self.is_known_to_run(want).await {
            return Ok(prepared);
        }
        let fs = &self.host.fs;
        if !prepared.is_new() {
            run = programs::check(fs, &prepared.dir(), prepared.content()).await;
        }
        let ran = Ran::now(fs, want);
        let Err(fault) = run else {
            self.alone().await.memory.ran = Some(ran);
            return Ok(prepared);
        };
        self.alone().await.memory.unfit = Some(Unfit::new(ran, fault.clone()));
        let fs = fs.clone();
        let gone = move || {
            prepared.discard(&fs);
            Ok(())
        };
        match beside(gone).await {
            Ok(()) => Err(Failed::Fault(fault)),
            Err(e) => Err(self.not_prepared(want, e).await),
        }
    }

    async fn not_prepared(&self, want: &StackRef, e: StackError) -> Failed {
        // It has to come on: a wait, and no fault.
        if matches!(e, StackError::NotWhole) {
            return Failed::Left;
        }
        let fault = e.fault(want);
        if is_bad_staging(&e) {
            self.alone().await.memory.refused_stack = Some(RefusedStack {
                stack: want.clone(),
                fault: fault.clone(),
            });
        }
        Failed::Fault(fault)
    }
}

/// Minutes of work: on a machine without another thread it waits.
async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StackError> + Send + 'static,
) -> Result<T, StackError> {
    long(work).await.unwrap_or_else(|lost| {
        Err(StackError::Io {
            action: "unpack it below",
            path: paths::STACKS.into(),
            source: lost.into(),
        })
    })
}

fn put_in_place(fs: &HostFs, keep: &[StackRef], prepared: PreparedStack) -> Result<(), StackError> {
    prepared.put_in_place(fs)?;
    match stack::collect_garbage(fs, keep) {
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
        | StackError::NotWhole
        | StackError::NotInstalled
        | StackError::Drifted { .. }
        | StackError::Fs(_)
        | StackError::Io { .. } => false,
    }
}
