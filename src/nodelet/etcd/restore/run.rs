//! One step of the restore that is under way: look, decide, do. What was interrupted continues with
//! the next one.

use super::plan::{self, Next};
use super::prepare::{RestorePrepared, clear, prepare};
use super::stage::RestoreContext;
use super::{By, RestoreGoal, RestoreRun, Restores, State};
use crate::host::fs::FsError;
use crate::model::{Fault, FaultCode, Timestamp};
use crate::telemetry::chain;

/// The result of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Went {
    /// None is under way.
    Nothing,
    /// It was done, as text; there is more to do.
    On(String),
    /// The restore has ended, one way or the other: phases go on. A refusal says why.
    Ended(Option<Fault>),
    /// Something from elsewhere is missing, as text.
    Waits(String),
    /// It is tried again.
    Failed(Fault),
}

/// Takes one step.
pub async fn step(hands: RestoreContext<'_>, now: Timestamp) -> Went {
    let restores = Restores::of(&hands.host.fs);
    let loaded = restores.take_up(now);
    let Some(mut run) = loaded.value else {
        return lost(&restores, loaded.fault);
    };
    if run.cluster != hands.node.cluster_id {
        let why = format!(
            "it was for cluster {}, and this master is of another one",
            run.cluster
        );
        let fault = Fault::new(FaultCode::EtcdRestoreForeign, "the restore has ended", why);
        return ended(hands, &restores, &run, fault, now);
    }
    let seen = match hands.look(&run).await {
        Ok(seen) => seen,
        Err(fault) => return Went::Failed(fault),
    };
    match plan::next(&run, &seen) {
        Next::Prepare => prepared(hands, &restores, run, now).await,
        Next::Do(stage) => match hands.act(&mut run, stage, now).await {
            Ok(()) if stage == plan::Stage::End => Went::Ended(None),
            Ok(()) => Went::On(stage.words().into()),
            Err(fault) => Went::Failed(fault),
        },
        Next::Wait(what) => Went::Waits(what),
        Next::Withdraw => {
            let why = "it was cancelled";
            let fault = Fault::new(FaultCode::Interrupted, "the restore has ended", why);
            ended(hands, &restores, &run, fault, now)
        }
        Next::Stuck(why, fix) => {
            let what = "the restore cannot continue";
            Went::Failed(Fault::new(FaultCode::EtcdRestore, what, why).fix(fix))
        }
    }
}

/// The record of the order is unreadable. The data stay where they are: the phase that starts etcd sees whether
/// they are missing, and says what to do.
fn lost(restores: &Restores, fault: Option<Fault>) -> Went {
    let Some(fault) = fault else {
        return Went::Nothing;
    };
    match restores.forget_run() {
        Ok(()) => Went::Ended(Some(fault)),
        Err(_) => Went::Failed(fault),
    }
}

async fn prepared(
    hands: RestoreContext<'_>,
    restores: &Restores,
    mut run: RestoreRun,
    now: Timestamp,
) -> Went {
    let source = match &run.goal {
        RestoreGoal::Restored(source) => source.clone(),
        RestoreGoal::Rejoined => return Went::On("nothing is prepared".into()),
    };
    match (prepare(hands, &run, &source).await, run.by) {
        (Ok(RestorePrepared::Coming(words)), By::Root | By::Plane) => Went::On(words),
        (Ok(RestorePrepared::Whole(warnings)), By::Root | By::Plane) => {
            for warning in &warnings {
                tracing::warn!(id = %run.id, "restored anyway: {warning}");
            }
            (run.state, run.warnings) = (State::Ready, warnings);
            match restores.save(&run) {
                Ok(()) => Went::On("the new data are prepared; nothing was stopped yet".into()),
                Err(e) => not_noted(&e),
            }
        }
        (Err(fault), By::Root) => ended(hands, restores, &run, fault, now),
        (Err(fault), By::Plane) => Went::Failed(fault),
    }
}

fn ended(
    hands: RestoreContext<'_>,
    restores: &Restores,
    run: &RestoreRun,
    why: Fault,
    now: Timestamp,
) -> Went {
    let end = clear(&hands.host.fs).and_then(|()| restores.end(run, Some(why.clone()), now));
    match end {
        Ok(()) => Went::Ended(Some(why)),
        Err(e) => not_noted(&e),
    }
}

fn not_noted(e: &FsError) -> Went {
    let what = "cannot record the progress of the restore";
    Went::Failed(Fault::new(FaultCode::EtcdRestore, what, chain(e)).fix("check the disk"))
}
