//! The store in an etcd that the operator provides: the rows are there, and a copy of them is on this machine.
//!
//! ```text
//!            ┌─ reads ──► the copy (redb, rebuilt at every start)
//! plane ─────┤                 ▲ committed once etcd has it
//!            └─ a write: in the copy, then all its changes ─► etcd, in one transaction, if the seat is ours
//!
//! PREFIX/seat          the writer: a key under a lease           (seat)
//! PREFIX/head          name of the last step that was made       (steps)
//! PREFIX/rows/KIND/KEY a row, JSON
//! PREFIX/apply, redo/  a write too long for one transaction, in progress (steps)
//! PREFIX/moved         the rows are elsewhere, by the operator's order
//! ```
//!
//! One plane has the seat (a lease) and writes; others wait for it. Every transaction compares the seat's revision,
//! which is unique, so a plane that lost it writes nothing, however late its request arrives (fencing). Each
//! transaction names itself in `head`: if its answer is lost it is looked up, and neither lost nor made twice. Nobody
//! else writes while the seat is ours, so the copy equals etcd and needs no watch; a plane that takes the seat reads
//! everything once.
//!
//! While etcd is away, reads continue from the copy, writes are refused, and the one in progress waits for its outcome.
//!
//! | file | holds |
//! |---|---|
//! | here      | the store's side: turns, commits, reading everything |
//! | `ops`     | changes split into transactions that etcd accepts: pure |
//! | `gateway` | etcd's JSON gateway, by mutual TLS |
//! | `seat`    | taking, keeping and losing the seat |
//! | `steps`   | transactions under the seat, each made once |

mod gateway;
mod ops;
mod seat;
mod steps;

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::gateway::{CallError, Gateway};
use self::seat::Sitting;
use super::{Rows, StoreError};

pub(super) use self::ops::Changes;
pub(crate) use self::seat::Holder;

/// How long a write waits for the previous one: longer than an election of etcd.
const TURN: Duration = Duration::from_secs(5);
/// How often it checks meanwhile whether etcd is away.
const TURN_LOOK: Duration = Duration::from_millis(200);
/// How long the caller of a change waits before the answer is that the outcome is unknown. Longer than a turn and
/// etcd's election together; shorter than clients wait.
const PATIENCE: Duration = Duration::from_secs(12);
/// How long a stop waits for the seat to be released; otherwise its lease expires.
const LEAVE: Duration = Duration::from_secs(3);

/// An etcd, and the place in it.
#[derive(Clone, Debug)]
pub struct EtcdPlace {
    /// `https://HOST:PORT` of its members.
    pub endpoints: Vec<String>,
    /// The only trusted authority, PEM.
    pub authority: PathBuf,
    /// Client certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Prefix of its keys.
    pub prefix: String,
}

/// The held seat; every request to etcd.
pub(crate) struct Remote {
    shared: Arc<Shared>,
    /// A write is in progress.
    busy: Mutex<bool>,
    freed: Condvar,
    /// Its own, so that the lease is kept alive however busy the plane is, and writes can wait on any thread.
    runtime: Option<Runtime>,
}

/// Shared between writes and the seat's keeper.
struct Shared {
    gateway: Gateway,
    standing: watch::Sender<Standing>,
    /// Name of the last step, and of the one in progress.
    head: Mutex<Head>,
    /// Tells the keeper to check the seat now.
    look: tokio::sync::Notify,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Head {
    known: String,
    trying: Option<String>,
}

/// State of the connection to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The seat is ours.
    Ours {
        /// Its revision.
        seat: i64,
        /// etcd has not answered for too long.
        away: Option<Away>,
    },
    /// Another plane has it: this one writes nothing any more.
    Lost(String),
}

/// Since when etcd is away, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Away {
    pub(crate) since: Timestamp,
    pub(crate) why: String,
}

/// The turn of one write.
pub(super) struct Turn<'a>(&'a Remote);

// === impl Remote ===

impl Remote {
    /// Takes the seat, waiting as long as another plane has it. `address` is where this plane is reached, for other
    /// planes; `waits` gets the present holder.
    pub(crate) async fn take(
        place: &EtcdPlace,
        address: &str,
        peer: Option<&str>,
        waits: impl Fn(&Holder) + Send + 'static,
    ) -> Result<Self, StoreError> {
        let gateway = Gateway::new(place.clone()).map_err(StoreError::Etcd)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("pf9-store")
            .enable_all()
            .build()
            .map_err(|e| StoreError::Etcd(format!("cannot start a thread for it: {e}")))?;
        // Held from here on: the runtime must never be dropped where that would block.
        let remote = Self {
            shared: Arc::new(Shared {
                gateway,
                standing: watch::Sender::new(Standing::Lost("nobody".into())),
                head: Mutex::default(),
                look: tokio::sync::Notify::new(),
                stop: CancellationToken::new(),
            }),
            busy: Mutex::new(false),
            freed: Condvar::new(),
            runtime: Some(runtime),
        };
        let holder = Holder::new(address, peer);
        let shared = Arc::clone(&remote.shared);
        let taking = async move {
            let sitting = seat::take(&shared, &holder, waits).await?;
            Ok::<_, CallError>((holder, sitting))
        };
        let (holder, sitting) = remote
            .spawn(taking)
            .await
            .ok_or(StoreError::Stopped)?
            .map_err(refused)?;
        remote.sit(holder, sitting);
        Ok(remote)
    }

    fn sit(&self, holder: Holder, sitting: Sitting) {
        self.shared.lock().known = sitting.head;
        self.shared.standing.send_replace(Standing::Ours {
            seat: sitting.seat.revision,
            away: None,
        });
        let keeping = seat::keep(Arc::clone(&self.shared), holder, sitting.seat);
        if let Some(runtime) = &self.runtime {
            runtime.spawn(keeping);
        }
    }

    /// Every row, page by page; an unfinished write is completed first. Blocks.
    pub(super) fn read_all(
        &self,
        mut row: impl FnMut(&str, &str, &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        self.wait_for(async move { steps::finish(&shared).await })?
            .map_err(StoreError::from)?;
        let mut from = None;
        loop {
            let shared = Arc::clone(&self.shared);
            let page = self
                .wait_for(async move { shared.gateway.rows(from).await })?
                .map_err(refused)?;
            for (name, value) in &page.rows {
                row(&name.rows, &name.key, value)?;
            }
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        // Nobody else has written meanwhile: pages read at different times are consistent.
        let shared = Arc::clone(&self.shared);
        self.wait_for(async move { steps::still_ours(&shared).await })?
            .map_err(StoreError::from)
    }

    /// Where these rows were moved to, if they were. Blocks.
    pub(super) fn moved(&self) -> Result<Option<String>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let key = shared.gateway.key("moved");
        let found = self.wait_for(async move { shared.gateway.get(&key).await })?;
        let found = found.map_err(refused)?;
        Ok(found.map(|kv| String::from_utf8_lossy(&kv.value).into_owned()))
    }

    /// Marks these rows as moved. Blocks.
    pub(super) fn mark_moved(&self, to: &str) -> Result<(), StoreError> {
        let (shared, to) = (Arc::clone(&self.shared), to.to_owned());
        self.wait_for(async move { steps::mark_moved(&shared, &to).await })?
            .map_err(StoreError::from)
    }

    /// The turn of one write; writes are serialised. Refused immediately while etcd is away.
    pub(super) fn turn(&self) -> Result<Turn<'_>, StoreError> {
        let until = Instant::now() + TURN;
        let mut busy = self.lock();
        loop {
            match &*self.shared.standing.borrow() {
                Standing::Lost(to) => return Err(StoreError::Lost(to.clone())),
                Standing::Ours {
                    away: Some(away), ..
                } if !crate::mutant("store-away") => return Err(StoreError::Away(away.clone())),
                Standing::Ours { away: Some(_), .. } => {}
                Standing::Ours { away: None, .. } => {}
            }
            if !*busy {
                *busy = true;
                return Ok(Turn(self));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::Away(Away {
                    since: pf9_hostagent::seam::clock::now(),
                    why: "the previous write has not finished".into(),
                }));
            }
            let waited = self.freed.wait_timeout(busy, left.min(TURN_LOOK));
            busy = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Makes these durable, all or none. Blocks until the outcome is known, however long etcd is away.
    pub(super) fn commit(&self, changes: Changes) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let batches = ops::batches(ops::of(changes)?)?;
        let shared = Arc::clone(&self.shared);
        self.wait_for(async move { steps::commit(&shared, batches).await })?
            .map_err(StoreError::from)
    }

    /// The local copy failed: it no longer equals etcd.
    pub(super) fn give_up(&self, why: &str) {
        self.shared
            .standing
            .send_replace(Standing::Lost(format!("nobody: {why}")));
    }

    /// Where its etcd is.
    pub(super) fn place(&self) -> &EtcdPlace {
        self.shared.gateway.place()
    }

    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.shared.standing.subscribe()
    }

    /// How long the caller of a change waits for its outcome.
    pub(super) fn patience() -> Duration {
        PATIENCE
    }

    /// Releases the seat, so that another plane need not wait for the lease to expire.
    pub(crate) async fn leave(&self) {
        self.shared.stop.cancel();
        let shared = Arc::clone(&self.shared);
        let leaving = async move { seat::leave(&shared).await };
        let left = tokio::time::timeout(LEAVE, self.spawn(leaving)).await;
        if left.ok().flatten().is_none() {
            tracing::warn!("the seat was not released: it is free when its lease ends");
        }
    }

    /// The same for a blocking caller.
    pub(super) fn leave_now(&self) {
        self.shared.stop.cancel();
        let shared = Arc::clone(&self.shared);
        let left = async move {
            tokio::time::timeout(LEAVE, seat::leave(&shared))
                .await
                .is_ok()
        };
        if !matches!(self.wait_for(left), Ok(true)) {
            tracing::warn!("the seat was not released: it is free when its lease ends");
        }
    }

    /// Runs on the store's own threads; `None`: they have ended.
    async fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let running = self.runtime.as_ref()?.spawn(work);
        running.await.ok()
    }

    /// The same for a blocking caller: never on a thread of its own runtime.
    fn wait_for<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let runtime = self.runtime.as_ref().ok_or(StoreError::Stopped)?;
        let (done, wait) = mpsc::sync_channel(1);
        runtime.spawn(async move {
            // The receiver is gone: nobody needs the result.
            drop(done.send(work.await));
        });
        wait.recv().map_err(|_| StoreError::Stopped)
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.lock() = false;
        self.0.freed.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Head> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One row, by a plane that has not the seat: what it was at some moment.
pub(crate) async fn glance<T: DeserializeOwned>(
    place: &EtcdPlace,
    rows: &Rows<T>,
    key: &str,
) -> Result<Option<T>, StoreError> {
    let gateway = Gateway::new(place.clone()).map_err(StoreError::Etcd)?;
    let name = gateway.row_key(rows.name, key);
    let Some(found) = gateway.get(&name).await.map_err(refused)? else {
        return Ok(None);
    };
    let row = serde_json::from_slice(&found.value);
    row.map(Some)
        .map_err(|e| super::unreadable(rows.name, key, e))
}

fn refused(e: CallError) -> StoreError {
    StoreError::Etcd(e.to_string())
}
