//! What other modules' tests need of a plane: its real store, opened again as often as it is killed.

use std::path::Path;

use super::events;
use super::records::tables;
use super::refusal::Answer;
use super::state::Change;
use super::store::Store;
use pf9_hostagent::model::{EventBatch, HostId, Timestamp};

/// Events of hosts, on disk.
pub struct Shelf(Store);

impl Shelf {
    /// The one in this directory.
    pub fn open(dir: &Path) -> Self {
        Self(Store::open(&dir.join("store"), &tables()).expect("store"))
    }

    /// As a node's delivery is taken: both are what was sent.
    pub fn take(&self, host: &str, batch: &[u8]) {
        let host: HostId = host.parse().expect("a host");
        let batch: EventBatch = serde_json::from_slice(batch).expect("a batch");
        let now = Timestamp::UNIX_EPOCH;
        let done: Answer<_> = self
            .0
            .write(|w| events::take(&mut Change::new(w, now), host, batch));
        done.expect("taken");
    }

    /// What is kept of a host, oldest first.
    pub fn messages(&self, host: &str) -> Vec<String> {
        let host: HostId = host.parse().expect("a host");
        let read = self.0.read().expect("read");
        let all = events::list(&read, host).expect("events");
        let message = |e: &serde_json::Value| e["event"]["message"].as_str().map(str::to_owned);
        let all = all.as_array().expect("list").iter();
        all.filter_map(message).collect()
    }
}
