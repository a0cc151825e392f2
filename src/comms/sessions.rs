//! The sessions that are up, and which of them takes the next stream ([`pick`]).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::tcp::Probe;
use crate::app::{Beat, Candidate, Progress, is_silent, pick};
use crate::model::{SessionKind, TcpStatus};
use crate::mux::{Closed, Handle};
use crate::wire::Stats;

/// One session.
pub(super) struct Live {
    /// Counted since comms started.
    pub(super) number: u64,
    pub(super) slot: u8,
    /// What the plane says it is good for.
    pub(super) kind: SessionKind,
    pub(super) endpoint: String,
    pub(super) since: Timestamp,
    pub(super) handle: Handle,
    /// Gone when the session is over: a second descriptor keeps a connection open.
    probe: Mutex<Option<Probe>>,
    ping_interval: Duration,
    /// How often its endpoint had failed in a row when it came up.
    failures: u32,
    /// When the peer said farewell: when what is left is cut.
    until: Mutex<Option<Timestamp>>,
    /// Cancelled when it is over. Its streams wait for this and not for [`Handle::closed`], which
    /// is for few: it keeps them in a list.
    over: CancellationToken,
    /// Names of its streams, for people; as many as the protocol lets be open.
    names: Mutex<BTreeMap<u32, Name>>,
}

/// What is known of a stream beside its numbers.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub(super) service: String,
    pub(super) who: String,
    pub(super) opened_at: Timestamp,
}

/// A stream's name, for as long as this is kept.
pub(super) struct Named {
    live: Arc<Live>,
    stream: u32,
}

/// What a new session is made of.
pub(super) struct NewSession {
    pub(super) slot: u8,
    pub(super) kind: SessionKind,
    pub(super) endpoint: String,
    pub(super) failures: u32,
    pub(super) ping_interval: Duration,
    pub(super) handle: Handle,
    pub(super) probe: Option<Probe>,
}

/// All sessions.
pub(super) struct Sessions {
    live: watch::Sender<Vec<Arc<Live>>>,
    next: AtomicU64,
    /// The session that took the last stream.
    chosen: AtomicU64,
    /// Totals of ended sessions.
    past: Mutex<Totals>,
    progress: Progress,
}

/// What sessions carried, all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Payload bytes from the plane.
    pub(super) bytes_in: u64,
    /// Payload bytes to the plane.
    pub(super) bytes_out: u64,
    /// Streams that a session refused before anybody looked at what they are for.
    pub(super) refused: u64,
}

// === impl Totals ===

impl Totals {
    fn add(&mut self, stats: &Stats) {
        self.bytes_in += stats.bytes_in;
        self.bytes_out += stats.bytes_out;
        self.refused += stats.refused;
    }
}

// === impl Sessions ===

impl Sessions {
    pub(super) fn new(progress: Progress) -> Self {
        Self {
            progress,
            live: watch::Sender::new(Vec::new()),
            next: AtomicU64::new(1),
            chosen: AtomicU64::new(0),
            past: Mutex::default(),
        }
    }

    /// Signs of life of a loop that keeps sessions up, or of a session.
    pub(super) fn beat(&self, name: String) -> Beat {
        self.progress.beat(name)
    }

    /// A session came up.
    pub(super) fn begin(&self, new: NewSession) -> Arc<Live> {
        let live = Arc::new(Live {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            slot: new.slot,
            kind: new.kind,
            endpoint: new.endpoint,
            since: crate::seam::clock::now(),
            handle: new.handle,
            probe: Mutex::new(new.probe),
            ping_interval: new.ping_interval,
            failures: new.failures,
            until: Mutex::new(None),
            over: CancellationToken::new(),
            names: Mutex::default(),
        });
        self.live.send_modify(|all| all.push(Arc::clone(&live)));
        live
    }

    /// A session was told to leave; what it has left is cut `until`.
    pub(super) fn leaves(&self, live: &Live, until: Timestamp) {
        *live.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        self.live.send_modify(|_| {});
    }

    /// A session is over.
    pub(super) fn over(&self, live: &Live) {
        let stats = live.handle.stats();
        live.lock_probe().take();
        live.over.cancel();
        self.live.send_modify(|all| {
            all.retain(|l| l.number != live.number);
            self.lock_past().add(&stats);
        });
    }

    /// All of them, the oldest first.
    pub(super) fn all(&self) -> Vec<Arc<Live>> {
        self.live.borrow().clone()
    }

    /// Totals of all sessions, ended ones included.
    pub(super) fn totals(&self) -> Totals {
        // A session that ends meanwhile is in one of the two: `over` moves it under this lock.
        let all = self.live.borrow();
        let mut sum = *self.lock_past();
        for live in all.iter() {
            sum.add(&live.handle.stats());
        }
        sum
    }

    fn lock_past(&self) -> MutexGuard<'_, Totals> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes when sessions come and go.
    pub(super) fn changes(&self) -> watch::Receiver<Vec<Arc<Live>>> {
        self.live.subscribe()
    }

    /// The session for a new stream, waited for.
    pub(super) async fn ready(&self) -> Arc<Live> {
        let mut changes = self.live.subscribe();
        loop {
            let all = changes.borrow_and_update().clone();
            if let Some(live) = self.choose(&all) {
                return live;
            }
            if changes.changed().await.is_err() {
                // The sender is ours: it cannot be gone while this runs.
                std::future::pending::<()>().await;
            }
        }
    }

    fn choose(&self, all: &[Arc<Live>]) -> Option<Arc<Live>> {
        let candidates: Vec<_> = all.iter().map(|live| live.candidate()).collect();
        let chosen = pick(&candidates, self.chosen.load(Ordering::Relaxed))?;
        self.chosen.store(chosen, Ordering::Relaxed);
        all.iter().find(|l| l.number == chosen).cloned()
    }
}

// === impl Live, Named ===

impl Live {
    /// When what is left is cut, if it was told to leave.
    pub(super) fn draining_until(&self) -> Option<Timestamp> {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is over, and says why.
    pub(super) async fn ended(&self) -> Closed {
        self.over.cancelled().await;
        self.handle.closed().await
    }

    /// Its driver looks at the time at least this often: a peer that is silent is dead by then.
    pub(super) fn heard_within(&self) -> Duration {
        self.ping_interval * 3
    }

    /// What the kernel knows of the connection.
    pub(super) fn kernel(&self) -> Option<TcpStatus> {
        self.lock_probe().as_ref().and_then(|p| p.ask().ok())
    }

    /// Where its connection ends.
    pub(super) fn far_end(&self) -> Option<IpAddr> {
        self.lock_probe().as_ref().and_then(Probe::far_end)
    }

    /// Keeps a stream's name for as long as the answer lives.
    pub(super) fn name(self: &Arc<Self>, stream: u32, service: &str, who: &str) -> Named {
        let name = Name {
            service: service.to_owned(),
            who: who.to_owned(),
            opened_at: crate::seam::clock::now(),
        };
        self.lock_names().insert(stream, name);
        Named {
            live: Arc::clone(self),
            stream,
        }
    }

    pub(super) fn names(&self) -> BTreeMap<u32, Name> {
        self.lock_names().clone()
    }

    fn lock_probe(&self) -> MutexGuard<'_, Option<Probe>> {
        self.probe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_names(&self) -> MutexGuard<'_, BTreeMap<u32, Name>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn candidate(&self) -> Candidate {
        Candidate {
            number: self.number,
            leaving: self.handle.is_leaving(),
            silent: is_silent(self.handle.silence(), self.ping_interval),
            round_trip: self.handle.stats().round_trip,
            failures: self.failures,
        }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.live.lock_names().remove(&self.stream);
    }
}
