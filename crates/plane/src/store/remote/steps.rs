//! Transactions under the seat, each made exactly once, whatever is lost on the way.
//!
//! A step is made only while the seat has our revision and `head` names the previous step, and sets its own name there.
//! So one that arrives late, or twice, does nothing; and if its answer is lost, `head` tells whether it was made.
//!
//! ```text
//! a short write    [rows, head]                                   one step
//! a long one       [redo/ID/0] [redo/ID/1] … [apply]              from `apply` on it is made, also for the next holder of the seat
//!                  [rows of 0] [rows of 1] … [apply, redo gone]   and is completed before anything else
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::gateway::{self, CallError, Txn};
use super::ops::Op;
use super::seat::AGAIN;
use super::{Shared, Standing};
use crate::store::StoreError;

/// Why a step was not made; unless noted otherwise it never will be.
#[derive(Debug)]
pub(super) enum StepError {
    /// Another plane has the seat.
    Lost(String),
    /// etcd refuses.
    Refused(String),
    /// The plane stops; the outcome is unknown.
    Stopped,
}

/// Content of `apply`.
#[derive(Debug, Serialize, Deserialize)]
struct Apply {
    id: Uuid,
    parts: usize,
}

impl From<StepError> for StoreError {
    fn from(e: StepError) -> Self {
        match e {
            StepError::Lost(to) => Self::Lost(to),
            StepError::Refused(why) => Self::Etcd(why),
            StepError::Stopped => Self::Stopped,
        }
    }
}

/// Makes a write: all of it or nothing.
pub(super) async fn commit(shared: &Shared, mut batches: Vec<Vec<Op>>) -> Result<(), StepError> {
    if batches.len() == 1 {
        let ops = batches.pop().unwrap_or_default();
        return step(shared, rows(shared, &ops)).await;
    }
    let apply = Apply {
        id: Uuid::new_v4(),
        parts: batches.len(),
    };
    for (n, part) in batches.iter().enumerate() {
        let text = serde_json::to_vec(part).map_err(unsayable)?;
        let key = shared.gateway.key(&part_name(apply.id, n));
        step(shared, vec![gateway::put(&key, &text, None)]).await?;
    }
    let text = serde_json::to_vec(&apply).map_err(unsayable)?;
    let key = shared.gateway.key("apply");
    step(shared, vec![gateway::put(&key, &text, None)]).await?;
    // It is made. It is completed before any other write, however long etcd refuses; if the seat is lost meanwhile, the
    // next holder completes it.
    loop {
        let ended = async {
            for part in &batches {
                step(shared, rows(shared, part)).await?;
            }
            step(shared, over(shared)).await
        };
        match ended.await {
            Ok(()) | Err(StepError::Lost(_) | StepError::Stopped) => return Ok(()),
            Err(StepError::Refused(why)) => {
                tracing::error!(why, "etcd refuses the rest of a long write; retrying");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Completes a long write that the previous holder of the seat made and did not finish.
pub(super) async fn finish(shared: &Shared) -> Result<(), StepError> {
    let said = |e: CallError| StepError::Refused(e.to_string());
    let found = shared.gateway.get(&shared.gateway.key("apply")).await;
    if let Some(kv) = found.map_err(said)?
        && !crate::mutant("seat-apply")
    {
        let apply: Apply = serde_json::from_slice(&kv.value).map_err(unsayable)?;
        tracing::warn!(
            parts = apply.parts,
            "finishing a long write of the previous plane"
        );
        for n in 0..apply.parts {
            let name = part_name(apply.id, n);
            let part = shared.gateway.get(&shared.gateway.key(&name)).await;
            let part = part.map_err(said)?;
            let part = part.ok_or_else(|| StepError::Refused(format!("{name} is missing")))?;
            let ops: Vec<Op> = serde_json::from_slice(&part.value).map_err(unsayable)?;
            step(shared, rows(shared, &ops)).await?;
        }
    }
    // Parts of one that was never made are removed as well.
    step(shared, over(shared)).await
}

/// Checks that nobody else has had the seat since it is ours.
pub(super) async fn still_ours(shared: &Shared) -> Result<(), StepError> {
    step(shared, Vec::new()).await
}

/// Marks the rows as moved.
pub(super) async fn mark_moved(shared: &Shared, to: &str) -> Result<(), StepError> {
    let key = shared.gateway.key("moved");
    step(shared, vec![gateway::put(&key, to.as_bytes(), None)]).await
}

fn rows(shared: &Shared, ops: &[Op]) -> Vec<Value> {
    ops.iter().map(|op| shared.gateway.op(op)).collect()
}

fn over(shared: &Shared) -> Vec<Value> {
    let (apply, redo) = (shared.gateway.key("apply"), shared.gateway.key("redo/"));
    vec![gateway::delete(&apply), gateway::delete_below(&redo)]
}

fn part_name(id: Uuid, n: usize) -> String {
    format!("redo/{id}/{n:06}")
}

/// One step, until its outcome is known.
async fn step(shared: &Shared, mut ops: Vec<Value>) -> Result<(), StepError> {
    let name = Uuid::new_v4().to_string();
    let (seat_key, head_key) = (shared.gateway.key("seat"), shared.gateway.key("head"));
    ops.push(gateway::put(&head_key, name.as_bytes(), None));
    let known = {
        let mut head = shared.lock();
        head.trying = Some(name.clone());
        head.known.clone()
    };
    let mut txn = Txn::default()
        .then(ops)
        .otherwise([gateway::read(&seat_key), gateway::read(&head_key)]);
    // An earlier attempt may have been made, and its answer lost.
    let mut doubtful = false;
    loop {
        let seat = ours(shared)?;
        let fence = crate::mutant("seat-fence");
        let by_seat = gateway::made_at(&seat_key, seat);
        let by_head = gateway::holds(&head_key, &known);
        let by_seat = (!fence && !crate::mutant("seat-compare")).then_some(by_seat);
        let by_head = (!fence && !crate::mutant("seat-head")).then_some(by_head);
        txn = txn.only_when(by_seat.into_iter().chain(by_head));
        let tried = tokio::select! {
            // cancel-safe: the outcome is then unknown, and reported as such
            tried = shared.gateway.txn(&txn) => tried,
            () = shared.stop.cancelled() => return Err(StepError::Stopped),
        };
        match tried {
            Ok(done) if done.made => break,
            Ok(done) => {
                let mut read = done.read.into_iter();
                let (seat_now, head_now) = (read.next().flatten(), read.next().flatten());
                if head_now.is_some_and(|kv| kv.value == name.as_bytes()) {
                    break;
                }
                if seat_now.is_some_and(|kv| kv.create_revision == seat) {
                    let who = "a writer without the seat";
                    lost(shared, who);
                    return Err(StepError::Lost(who.into()));
                }
                another_seat(shared, seat).await?;
            }
            Err(CallError::Refused { at, why, .. }) if !doubtful => {
                shared.lock().trying = None;
                return Err(StepError::Refused(format!("etcd at {at} refuses: {why}")));
            }
            Err(_) => {
                doubtful = true;
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
    let mut head = shared.lock();
    head.known = name;
    head.trying = None;
    Ok(())
}

/// The seat's revision, while it is ours.
fn ours(shared: &Shared) -> Result<i64, StepError> {
    match &*shared.standing.borrow() {
        Standing::Ours { seat, .. } => Ok(*seat),
        Standing::Lost(to) => Err(StepError::Lost(to.clone())),
    }
}

/// The seat of this revision is gone: waits until it is taken again, or another plane has it.
async fn another_seat(shared: &Shared, gone: i64) -> Result<(), StepError> {
    shared.look.notify_one();
    let mut standing = shared.standing.subscribe();
    let differs = |s: &Standing| !matches!(s, Standing::Ours { seat, .. } if *seat == gone);
    tokio::select! {
        // cancel-safe: both are
        changed = standing.wait_for(differs) => changed.map(drop).map_err(|_| StepError::Stopped),
        () = shared.stop.cancelled() => Err(StepError::Stopped),
    }
}

fn lost(shared: &Shared, to: &str) {
    tracing::error!(to, "the seat was bypassed: this plane no longer writes");
    shared.standing.send_replace(Standing::Lost(to.into()));
}

fn unsayable(e: serde_json::Error) -> StepError {
    StepError::Refused(e.to_string())
}
