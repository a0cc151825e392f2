//! A plane's real store for other crates' tests, reopened as often as it is killed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::bootstrap::STORE_FILE;
use super::events;
use super::people::ProjectId;
use super::records::{HOSTS, Host, Resting, SPECS, tables};
use super::refusal::{Answer, chain};
use super::specs;
use super::state::Change;
use super::store::testing::{self as contract, Place};
use super::store::{EtcdPlace, Read, Remote, Store, StoreError};
use pf9_hostagent::model::{Digest, EventBatch, HostId, MaintenanceOrder, SigningKey, Timestamp};

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

/// The store in an etcd, as soon as the seat is free.
async fn seated(
    place: &EtcdPlace,
    dir: &Path,
    tables: BTreeSet<&'static str>,
) -> Result<Arc<Store>, String> {
    let remote = Remote::take(place, "a test", None, |_| {}).await;
    let remote = remote.map_err(|e| chain(&e))?;
    let copy = dir.join("copy");
    let opening = tokio::task::spawn_blocking(move || {
        Store::open_remote(remote, &copy, Path::new("/none"), &tables)
    });
    let store = opening.await.expect("it ends").map_err(|e| chain(&e))?;
    Ok(Arc::new(store))
}

/// Numbers in an etcd, by the holder of the seat.
pub struct Numbers(Arc<Store>);

impl Numbers {
    /// Waits for the seat.
    pub async fn open(place: &EtcdPlace, dir: &Path) -> Result<Self, String> {
        seated(place, dir, contract::TABLES.into()).await.map(Self)
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

/// Specs of hosts in an etcd, by the holder of the seat: an order and the spec that follows from it are one write.
pub struct Orders {
    store: Arc<Store>,
    key: Arc<SigningKey>,
}

impl Orders {
    /// Waits for the seat. The planes of a fleet sign with one key.
    pub async fn open(
        place: &EtcdPlace,
        dir: &Path,
        key: &Arc<SigningKey>,
    ) -> Result<Self, String> {
        let store = seated(place, dir, tables()).await?;
        let key = Arc::clone(key);
        Ok(Self { store, key })
    }

    /// Orders a maintenance of this host; returns the generation of the spec that says so.
    pub async fn order(&self, host: HostId, reason: &str) -> Result<u64, String> {
        let (store, key) = (Arc::clone(&self.store), Arc::clone(&self.key));
        let reason = reason.to_owned();
        let writing = tokio::task::spawn_blocking(move || -> Answer<u64> {
            let now = Timestamp::UNIX_EPOCH;
            store.write(|w| {
                let known = w.get(&HOSTS, &host.to_string())?;
                let mut row = known.unwrap_or_else(|| new_host(host, &key));
                let order = MaintenanceOrder {
                    id: Uuid::new_v4(),
                    for_s: 3600,
                    reason,
                };
                row.maintenance = Some(Resting {
                    order,
                    ordered_at: now,
                    until: now,
                });
                w.put(&HOSTS, &host.to_string(), &row)?;
                let changed = specs::refresh(w, &[host].into(), &key, now)?;
                let (_, generation) = changed.first().expect("it says another thing");
                Ok(generation.0)
            })
        });
        let written = writing.await.expect("it ends");
        written.map_err(|refusal| refusal.fault.to_string())
    }

    /// The spec that this plane gives a host: its generation, and the document as it is signed.
    pub fn spec(&self, host: HostId) -> Option<(u64, String)> {
        let read = self.store.read().expect("read");
        let issued = read.get(&SPECS, &host.to_string()).expect("get")?;
        let text = serde_json::to_string(&issued.envelope).expect("text");
        Some((issued.generation.0, text))
    }

    /// Releases the seat.
    pub async fn leave(self) {
        self.store.leave().await;
    }
}

/// A host as it is after its enrolment.
fn new_host(id: HostId, key: &SigningKey) -> Host {
    Host {
        id,
        project: ProjectId::of("p").expect("an id"),
        hostname: "h".into(),
        enrolled_at: Timestamp::UNIX_EPOCH,
        key: Digest::of(b"k"),
        certificate: Digest::of(b"c"),
        order_key: key.trusted(),
        facts: None,
        authorised: false,
        cluster: None,
        forced: false,
        agent: None,
        agent_pinned: false,
        maintenance: None,
        renewal: Default::default(),
    }
}
