//! Which operations were started, and how they ended: on disk before anything is done.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::host::documents::{Document, Store};
use crate::host::fs::HostFs;
use crate::model::{
    Fault, FaultCode, OPERATION_SCHEMA, OPERATIONS_PENDING_MAX, Operation, OperationResult,
    Outcome, SAID_MAX, Timestamp, paths,
};
use crate::telemetry::chain;

/// Results that are kept: those that the plane may ask for again, twice over.
const KEPT: usize = OPERATIONS_PENDING_MAX * 2;
/// A fault has four texts of at most so many bytes in JSON.
const RECORD_MAX: u64 = (KEPT * (SAID_MAX * 16 + 1024)) as u64;
const MODE: u32 = 0o600;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    schema: u32,
    /// The highest number of all, dropped ones included.
    last: u64,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    id: Uuid,
    number: u64,
    what: String,
    /// None: it was started and has not ended yet.
    result: Option<OperationResult>,
}

impl Document for Record {
    const SCHEMA: u32 = 1;
}

/// The record of a host.
pub(super) struct Book {
    store: Store,
    record: Record,
    /// The record is unreadable: what was done is unknown, and nothing starts.
    lost: Option<Fault>,
}

impl Book {
    pub(super) fn of(fs: &HostFs) -> Self {
        let store = Store::new(fs.clone(), paths::OPERATIONS, MODE, RECORD_MAX);
        let loaded = store.look(Ok::<Record, _>);
        let none = Record {
            schema: Record::SCHEMA,
            ..Record::default()
        };
        Self {
            store,
            record: loaded.value.unwrap_or(none),
            lost: loaded.fault,
        }
    }

    /// The highest number that is known. Where the record is broken, none is higher: an old operation is not done
    /// twice because a file was lost. (The plane counts by its clock, so the next one is newer than a minute.)
    pub(super) fn last(&self) -> u64 {
        self.record.last
    }

    /// How this one ended. One that was started and has no end is running, or was interrupted.
    pub(super) fn result(&self, id: Uuid) -> Option<OperationResult> {
        let entry = self.record.entries.iter().find(|e| e.id == id)?;
        Some(
            entry
                .result
                .clone()
                .unwrap_or_else(|| cut_off(id, crate::seam::clock::now())),
        )
    }

    /// Notes a start or an end.
    pub(super) fn note(
        &mut self,
        operation: &Operation,
        result: Option<&OperationResult>,
    ) -> Result<(), String> {
        if let Some(lost) = self.lost.as_ref().filter(|_| result.is_none()) {
            tracing::warn!(code = lost.code.word(), "{lost}");
        }
        let record = &mut self.record;
        record.last = record.last.max(operation.number);
        record.entries.retain(|e| e.id != operation.id);
        record.entries.push(Entry {
            id: operation.id,
            number: operation.number,
            what: operation.what.to_string(),
            result: result.cloned(),
        });
        let over = record.entries.len().saturating_sub(KEPT);
        record.entries.drain(..over);
        self.store.save(record).map_err(|e| chain(&e))
    }

    /// Those started by a process that is gone.
    pub(super) fn note_cut_off(&mut self, now: Timestamp) {
        let open = self
            .record
            .entries
            .iter_mut()
            .filter(|e| e.result.is_none());
        let mut any = false;
        for entry in open {
            entry.result = Some(cut_off(entry.id, now));
            any = true;
        }
        if any && let Err(e) = self.store.save(&self.record) {
            tracing::warn!(error = %chain(&e), "interrupted operations could not be recorded");
        }
    }
}

fn cut_off(id: Uuid, at: Timestamp) -> OperationResult {
    let why =
        "nodelet stopped while it ran; how far it got is unknown, and it is not started again";
    OperationResult {
        schema: OPERATION_SCHEMA,
        id,
        at,
        outcome: Outcome::Failed {
            fault: Fault::new(FaultCode::Interrupted, "the operation was interrupted", why)
                .fix("inspect the host, then order it again"),
        },
    }
}

#[cfg(all(test, feature = "fault"))]
mod tests;
