//! The store in an etcd that the operator names: the rows are there, and a copy of them is on this machine.
//!
//! ```text
//!            ┌─ reads ──► the copy (redb, made anew at every start)
//! plane ─────┤                 ▲ committed once etcd has it
//!            └─ a write: in the copy, then all its changes ─► etcd, in one transaction, if the seat is ours
//!
//! PREFIX/seat          who writes: a key under a lease         (seat)
//! PREFIX/head          name of the last step that was made     (steps)
//! PREFIX/rows/KIND/KEY a row, JSON
//! PREFIX/apply, redo/  a write that is too long for one transaction, on its way (steps)
//! PREFIX/moved         the rows are elsewhere now, by the operator's word
//! ```
//!
//! One plane has the seat and writes; others wait for it. Every transaction compares the seat's revision, which is no
//! other's ever, so a plane that lost it writes nothing, however late its request comes. Each names itself in `head`: one
//! whose answer was lost is asked about and neither lost nor made twice. Nobody else writes while the seat is ours, so the
//! copy is what etcd has and needs no watch; who takes the seat reads everything once.
//!
//! etcd is away: reads go on from the copy, writes are refused, and the one that was on its way waits for its end.
//!
//! | file | what |
//! |---|---|
//! | here      | the store's side: turns, commits, reading everything |
//! | `ops`     | changes cut into what etcd takes at a time: pure |
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

/// How long a write waits for the one before it: longer than an election of etcd.
const TURN: Duration = Duration::from_secs(5);
/// How often it looks whether etcd is away meanwhile.
const TURN_LOOK: Duration = Duration::from_millis(200);
/// How long one who asks for a change waits for its end before hearing that it is not known. Longer than a turn and
/// etcd's election together; shorter than clients wait.
const PATIENCE: Duration = Duration::from_secs(12);
/// How long a stop waits for the seat to be given back; else its lease ends by itself.
const LEAVE: Duration = Duration::from_secs(3);

/// Which etcd, and where in it.
#[derive(Clone, Debug)]
pub struct EtcdPlace {
    /// `https://HOST:PORT` of its members.
    pub endpoints: Vec<String>,
    /// The only authority that is believed, PEM.
    pub authority: PathBuf,
    /// Client certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Keys begin with it.
    pub prefix: String,
}

/// The seat, taken; everything that goes to etcd.
pub(crate) struct Remote {
    shared: Arc<Shared>,
    /// A write is under way.
    busy: Mutex<bool>,
    freed: Condvar,
    /// Its own, so that a lease is kept alive however busy the plane is, and writes can wait on any thread.
    runtime: Option<Runtime>,
}

/// What writes and the seat's keeper share.
struct Shared {
    gateway: Gateway,
    standing: watch::Sender<Standing>,
    /// What the last step was called, and the one that is on its way.
    head: Mutex<Head>,
    /// Asks the keeper to look at the seat now.
    look: tokio::sync::Notify,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Head {
    known: String,
    trying: Option<String>,
}

/// How it is between the plane and its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The seat is ours.
    Ours {
        /// Its revision.
        seat: i64,
        /// etcd has not been heard for too long.
        away: Option<Away>,
    },
    /// It is another's: this plane writes nothing any more.
    Lost(String),
}

/// Since when etcd is away, and what it is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Away {
    pub(crate) since: Timestamp,
    pub(crate) why: String,
}

/// The turn of one write.
pub(super) struct Turn<'a>(&'a Remote);

// === impl Remote ===

impl Remote {
    /// Takes the seat, for which it waits as long as another plane has it. `address` is where other planes may be told
    /// that this one is; `waits` is told who has the seat.
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
        // Held here already: whatever happens, the runtime is never dropped where that would wait.
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

    /// Every row, some at a time; what was left half written is finished first. Blocks.
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
        // Nobody else has written meanwhile: what was read at different moments is of one.
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

    /// These rows are elsewhere from now on. Blocks.
    pub(super) fn mark_moved(&self, to: &str) -> Result<(), StoreError> {
        let (shared, to) = (Arc::clone(&self.shared), to.to_owned());
        self.wait_for(async move { steps::mark_moved(&shared, &to).await })?
            .map_err(StoreError::from)
    }

    /// The turn of one write; they come one at a time. Refused at once while etcd is away.
    pub(super) fn turn(&self) -> Result<Turn<'_>, StoreError> {
        let until = Instant::now() + TURN;
        let mut busy = self.lock();
        loop {
            match &*self.shared.standing.borrow() {
                Standing::Lost(to) => return Err(StoreError::Lost(to.clone())),
                Standing::Ours {
                    away: Some(away), ..
                } => return Err(StoreError::Away(away.clone())),
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

    /// Makes these durable, all or none. Blocks until that is known, however long etcd is away.
    pub(super) fn commit(&self, changes: Changes) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let batches = ops::batches(ops::of(changes)?)?;
        let shared = Arc::clone(&self.shared);
        self.wait_for(async move { steps::commit(&shared, batches).await })?
            .map_err(StoreError::from)
    }

    /// The copy on this machine failed: what it has is not what etcd has.
    pub(super) fn give_up(&self, why: &str) {
        self.shared
            .standing
            .send_replace(Standing::Lost(format!("nobody: {why}")));
    }

    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.shared.standing.subscribe()
    }

    /// How long one who asks for a change waits for its end.
    pub(super) fn patience() -> Duration {
        PATIENCE
    }

    /// Gives the seat back, so that another plane need not wait for the lease to end.
    pub(crate) async fn leave(&self) {
        self.shared.stop.cancel();
        let shared = Arc::clone(&self.shared);
        let leaving = async move { seat::leave(&shared).await };
        let left = tokio::time::timeout(LEAVE, self.spawn(leaving)).await;
        if left.ok().flatten().is_none() {
            tracing::warn!("the seat was not released: it is free when its lease ends");
        }
    }

    /// The same for one who may block.
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

    /// Runs on the store's own threads; nothing: they are gone.
    async fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let running = self.runtime.as_ref()?.spawn(work);
        running.await.ok()
    }

    /// The same for a caller that may block: never on a thread of its own runtime.
    fn wait_for<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let runtime = self.runtime.as_ref().ok_or(StoreError::Stopped)?;
        let (done, wait) = mpsc::sync_channel(1);
        runtime.spawn(async move {
            // Who waited is gone: nobody wants to know.
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
