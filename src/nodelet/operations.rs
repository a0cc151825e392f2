//! Operations of the plane: judged here by root's own means, done once, and noted.
//!
//! ```text
//! envelope ─► signature, host, number, end ─► root's list ─► rate, maintenance ─► noted as started ─► done ─► noted
//!   (`admit`, pure but for the files it is given)                                     │
//!                                                      killed in between: reported, and never started over
//! ```
//!
//! | file | what |
//! |---|---|
//! | here | the desk: one operation at a time |
//! | `admit` | whether one is to be done: pure |
//! | `record` | which were started, and how they ended; on disk |
//! | `allowed` | root's list |
//! | `act` | what each one does |
//! | `bundle` | a support bundle for the plane, or logs alone: the program that makes it |
//!
//! The carrier of an operation chooses only the moment, within its life: a compromised hostagent can hold one back, or
//! have nodelet look at it, and that is all.

mod act;
mod admit;
mod allowed;
mod bundle;
mod record;

pub use act::OperationContext;

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Mutex as Turn;
use tokio::time::Instant;

use super::status::KubeLogLine;
use super::{inbox, trust};
use crate::app::{Agreed, Bucket, Once, agreed};
use crate::host::fs::HostFs;
use crate::model::{
    DocumentKind, Envelope, Fault, FaultCode, OPERATION_SCHEMA, Operation, OperationResult,
    Outcome, Timestamp,
};

use admit::{OperationSeen, admit};
use record::Book;

/// In the long run one in this time; a person orders a handful and waits for them.
const EVERY: Duration = Duration::from_secs(10);
/// As many at once.
const BURST: u32 = 6;

/// See the module.
pub struct OperationsHandle {
    fs: HostFs,
    /// One at a time: what each one sees is what the one before it left.
    turn: Turn<()>,
    rate: Mutex<Bucket>,
    began: Instant,
    log: KubeLogLine,
}

impl OperationsHandle {
    /// A desk of this host; what was interrupted is noted as such.
    pub fn open(fs: HostFs, log: KubeLogLine) -> Self {
        Book::of(&fs).note_cut_off(crate::seam::clock::now());
        Self {
            fs,
            turn: Turn::new(()),
            rate: Mutex::new(Bucket::every(EVERY, BURST)),
            began: Instant::now(),
            log,
        }
    }

    /// Does one, or says why not. An error is for one without a trusted signature: its id means nothing.
    pub async fn take(
        &self,
        envelope: &Envelope,
        hands: &OperationContext<'_>,
    ) -> Result<OperationResult, Fault> {
        let _turn = self.turn.lock().await;
        let what = "operation refused";
        let (trusted, host) = inbox::trust_anchors(&self.fs)?;
        let operation: Operation = envelope
            .open(DocumentKind::Operation, &trusted)
            .map_err(|e| e.fault(what))?;
        let mut book = Book::of(&self.fs);
        if let Some(known) = book.result(operation.id) {
            // The answer was lost on its way. It is not done again.
            return Ok(known);
        }
        let now = crate::seam::clock::now();
        let seen = OperationSeen {
            host,
            now,
            last: book.last(),
            copy: trust::held(&self.fs),
            allowed: allowed::list(&self.fs),
            consent: self.consent(&operation, now),
            maintenance: hands.maintenance(),
        };
        let refused = admit(&operation, &seen).err();
        let refused = refused.or_else(|| self.too_often());
        let refused = match refused {
            // Before a consent for once is used for it.
            None if operation.what.consent().is_some() => bundle::under_way(hands.host).await,
            refused => refused,
        };
        let refused = refused.or_else(|| self.use_up(&seen));
        if let Some(fault) = refused {
            let result = result(&operation, Outcome::Refused { fault });
            // A number that is not newer than the last one is not noted: replays fill nothing.
            if operation.number > book.last() && operation.host_id == host {
                self.note(&mut book, &operation, Some(&result))?;
            }
            self.tell(&operation, &result);
            return Ok(result);
        }
        // From here on it is never started over, whatever happens.
        self.note(&mut book, &operation, None)?;
        let outcome = act::act(&operation, hands).await;
        let result = result(&operation, outcome);
        if let Err(fault) = self.note(&mut book, &operation, Some(&result)) {
            tracing::warn!(code = fault.code.word(), "{fault}");
        }
        self.tell(&operation, &result);
        Ok(result)
    }

    fn too_often(&self) -> Option<Fault> {
        let mut rate = self
            .rate
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let wait = rate.take(self.began.elapsed()).err()?;
        let why = format!("too many operations; retry in {} s", wait.as_secs() + 1);
        Some(Fault::new(FaultCode::TooOften, "operation refused", why).fix("order it again then"))
    }

    /// How root agreed to what leaves the host by this one.
    fn consent(&self, operation: &Operation, now: Timestamp) -> Result<Option<Agreed>, Fault> {
        let to = operation.what.consent();
        to.map(|to| agreed(&self.fs, to, now)).transpose()
    }

    /// A one-time consent is used up before anything starts under it: after an interruption it has to be given again.
    fn use_up(&self, seen: &OperationSeen) -> Option<Fault> {
        match seen.consent {
            Ok(Some(Agreed::Once)) => Once::remove(&self.fs).err(),
            Ok(Some(Agreed::Standing) | None) | Err(_) => None,
        }
    }

    fn note(
        &self,
        book: &mut Book,
        operation: &Operation,
        result: Option<&OperationResult>,
    ) -> Result<(), Fault> {
        book.note(operation, result).map_err(|why| {
            let what = "operation refused";
            Fault::new(FaultCode::StateIo, what, why)
                .fix("check the disk that holds /var/opt/pf9/nodelet: an operation that cannot be recorded is not carried out")
        })
    }

    /// The audit on the node: root reads it without the plane.
    fn tell(&self, operation: &Operation, result: &OperationResult) {
        let (id, what, outcome) = (operation.id, &operation.what, &result.outcome);
        tracing::info!(%id, number = operation.number, what = %what, outcome = outcome.word(), "operation of the plane");
        self.log
            .say(&format!("operation {id} of the plane, {what}: {outcome}"));
    }
}

fn result(operation: &Operation, outcome: Outcome) -> OperationResult {
    OperationResult {
        schema: OPERATION_SCHEMA,
        id: operation.id,
        at: crate::seam::clock::now(),
        outcome,
    }
}

#[cfg(test)]
mod tests;
