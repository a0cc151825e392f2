//! What other modules' tests need of a plane: its real store, opened again as often as it is killed.

use std::path::Path;

use super::events;
use super::records::tables;
use super::refusal::Answer;
use super::state::Change;
use super::store::Store;
use crate::model::{EventBatch, HostId, Timestamp};

/// Events of hosts, on disk.
pub(crate) struct Shelf(Store);

impl Shelf {
    /// The one in this directory.
    pub(crate) fn open(dir: &Path) -> Self {
        Self(Store::open(&dir.join("store"), &tables()).expect("store"))
    }

    /// As a node's delivery is taken.
    pub(crate) fn take(&self, host: HostId, batch: EventBatch) {
        let now = Timestamp::UNIX_EPOCH;
        let done: Answer<_> = self
            .0
            .write(|w| events::take(&mut Change::new(w, now), host, batch));
        done.expect("taken");
    }

    /// What is kept of a host, oldest first.
    pub(crate) fn messages(&self, host: HostId) -> Vec<String> {
        let read = self.0.read().expect("read");
        let all = events::list(&read, host).expect("events");
        let message = |e: &serde_json::Value| e["event"]["message"].as_str().map(str::to_owned);
        let all = all.as_array().expect("list").iter();
        all.filter_map(message).collect()
    }
}
