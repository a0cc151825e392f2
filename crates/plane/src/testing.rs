//! A plane's real store for other crates' tests, reopened as often as it is killed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bootstrap::STORE_FILE;
use super::events;
use super::records::tables;
use super::refusal::{Answer, chain};
use super::state::Change;
use super::store::testing::{self as contract, Place};
use super::store::{EtcdPlace, Read, Remote, Store, StoreError};
use pf9_hostagent::model::{EventBatch, HostId, Timestamp};

/// Events of hosts, on disk.
pub struct Shelf(Store);

impl Shelf {
    /// Opens the one in this directory.
    pub fn open(dir: &Path) -> Self {
        Self(Store::open(&dir.join("store"), &tables()).expect("store"))
    }

    /// Takes in a delivery as the host API does.
    pub fn take(&self, host: &str, batch: &[u8]) {
        let host: HostId = host.parse().expect("a host");
        let batch: EventBatch = serde_json::from_slice(batch).expect("a batch");
        let now = Timestamp::UNIX_EPOCH;
        let done: Answer<_> = self
            .0
            .write(|w| events::take(&mut Change::new(w, now), host, batch));
        done.expect("taken");
    }

    /// A host's messages, oldest first.
    pub fn messages(&self, host: &str) -> Vec<String> {
        let host: HostId = host.parse().expect("a host");
        let read = self.0.read().expect("read");
        let all = events::list(&read, host).expect("events");
        let message = |e: &serde_json::Value| e["event"]["message"].as_str().map(str::to_owned);
        let all = all.as_array().expect("list").iter();
        all.filter_map(message).collect()
    }
}

/// Leaves the store in this directory as the next version of the plane would: of a schema further, with a copy of this one's
/// beside it.
pub fn step_ahead(dir: &Path) {
    contract::ahead(&dir.join(STORE_FILE), &tables());
}

/// The contract of every store, for this etcd. Blocks.
pub fn contract_in_etcd(place: &EtcdPlace, dir: &Path) {
    contract::keep(&mut InEtcd {
        place: place.clone(),
        copy: dir.join("copy"),
        runtime: tokio::runtime::Runtime::new().expect("runtime"),
    });
}

struct InEtcd {
    place: EtcdPlace,
    copy: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Place for InEtcd {
    fn open(&mut self) -> Store {
        let taken = Remote::take(&self.place, "a test", None, |_| {});
        let remote = self.runtime.block_on(taken).expect("the seat");
        Store::open_remote(
            remote,
            &self.copy,
            Path::new("/none"),
            &contract::TABLES.into(),
        )
        .expect("open")
    }

    fn close(&mut self, store: Store) {
        self.runtime.block_on(store.leave());
    }
}

/// Numbers in an etcd, by the holder of the seat.
pub struct Numbers(Arc<Store>);

impl Numbers {
    /// Waits for the seat.
    pub async fn open(place: &EtcdPlace, dir: &Path) -> Result<Self, String> {
        let remote = Remote::take(place, "a test", None, |_| {}).await;
        let remote = remote.map_err(|e| chain(&e))?;
        let copy = dir.join("copy");
        let opening = tokio::task::spawn_blocking(move || {
            Store::open_remote(remote, &copy, Path::new("/none"), &contract::TABLES.into())
        });
        let store = opening.await.expect("it ends").map_err(|e| chain(&e))?;
        Ok(Self(Arc::new(store)))
    }

    /// Writes one.
    pub async fn set(&self, key: &str, to: u64) -> Result<(), String> {
        self.write(key, move |_| to).await.map(drop)
    }

    /// Adds one; returns the count.
    pub async fn add(&self, key: &str) -> Result<u64, String> {
        self.write(key, |now| now.unwrap_or(0) + 1).await
    }

    /// The value.
    pub fn get(&self, key: &str) -> Option<u64> {
        let read = self.0.read().expect("read");
        read.get(&contract::NUMBERS, key).expect("get")
    }

    /// Releases the seat.
    pub async fn leave(self) {
        self.0.leave().await;
    }

    async fn write(
        &self,
        key: &str,
        to: impl FnOnce(Option<u64>) -> u64 + Send + 'static,
    ) -> Result<u64, String> {
        let (store, key) = (Arc::clone(&self.0), key.to_owned());
        let writing = tokio::task::spawn_blocking(move || {
            store.write(|w| {
                let to = to(w.get(&contract::NUMBERS, &key)?);
                w.put(&contract::NUMBERS, &key, &to)?;
                Ok::<_, StoreError>(to)
            })
        });
        writing.await.expect("it ends").map_err(|e| chain(&e))
    }
}
