//! Keeps the sessions up: one loop per slot, each dials, runs, waits, again; for ever.
//!
//! With one endpoint there is one slot; with more there are [`SESSIONS`], to different endpoints.
//! When the plane says farewell the slot dials again at once, while the old session finishes its
//! streams beside the new one.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::dial::{DialError, Dialled, TRY, TunnelRoute};
use super::endpoints::{Claim, Endpoints};
use super::serve::Serve;
use super::session;
use super::sessions::{NewSession, Sessions};
use super::status::StatusBoard;
use crate::app::{Beat, CommsConfig};
use crate::model::{Fault, FaultCode};
use crate::mux;
use crate::wire::limits::{BLOCK, CONNECTION_WINDOW, PINNED_MAX, SEND_TOTAL};
use crate::wire::{Code, Time};

/// Sessions at the same time, to different endpoints: one may go away while the other carries.
pub(super) const SESSIONS: u8 = mux::SLOTS_MAX;
/// Old sessions of a slot that may drain beside the new one. A plane that comes and goes faster
/// than streams end does not pile them up; the plane has the same bound.
pub(super) const DRAINING_MAX: usize = 4;
/// Bytes that all old sessions that drain may make this program hold: as much as one whole session.
/// A plane that restarts has one; more only fit when they carry less than they could.
pub(super) const DRAINING_BYTES: u64 = SESSION_BYTES;
/// Bytes that one session may make this program hold: received and not taken by those they are for,
/// with the blocks they came in, and waiting to be sent.
pub(super) const SESSION_BYTES: u64 =
    CONNECTION_WINDOW + (PINNED_MAX * BLOCK) as u64 + SEND_TOTAL as u64;

/// Longest wait without a look at the clock: the timer stands still while the machine sleeps, and
/// who wakes after an hour should not wait for the rest of a minute.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What all slots share.
pub(super) struct Link {
    /// This host's identity; another one after a renewal.
    route: watch::Sender<TunnelRoute>,
    /// The endpoints, each once, best first.
    urls: Vec<String>,
    config: CommsConfig,
    board: Arc<StatusBoard>,
    sessions: Arc<Sessions>,
    serve: Arc<Serve>,
    endpoints: watch::Sender<Endpoints>,
    clock: mux::Clock,
    /// This run of the program, for the plane's fencing.
    instance: HeaderValue,
}

/// How a session or a try ended, for the wait that follows.
struct Ended {
    fault: Fault,
    lived: Option<Duration>,
    hint: Option<Duration>,
}

/// How many slots there are for so many endpoints.
fn slots(endpoints: usize) -> u8 {
    u8::try_from(endpoints).unwrap_or(SESSIONS).min(SESSIONS)
}

// === impl Link ===

impl Link {
    pub(super) fn new(
        route: TunnelRoute,
        config: CommsConfig,
        sessions: Arc<Sessions>,
        serve: Arc<Serve>,
    ) -> Self {
        // The same endpoint twice would be two sessions to it.
        let mut seen = std::collections::BTreeSet::new();
        let mut urls = route.endpoints().to_vec();
        urls.retain(|url| seen.insert(url.clone()));
        let slots = slots(urls.len());
        let endpoints = Endpoints::new(urls.len(), config.reconnect_cap());
        let instance = uuid::Uuid::new_v4().simple().to_string();
        Self {
            route: watch::Sender::new(route),
            urls,
            config,
            board: Arc::new(StatusBoard::new(slots, Arc::clone(&sessions))),
            sessions,
            serve,
            endpoints: watch::Sender::new(endpoints),
            clock: mux::Clock::new(),
            // Hex digits are a header's value; an empty one would be a run of its own as well.
            instance: HeaderValue::from_str(&instance)
                .unwrap_or_else(|_| HeaderValue::from_static("")),
        }
    }

    /// What is known of the sessions.
    pub(super) fn board(&self) -> Arc<StatusBoard> {
        Arc::clone(&self.board)
    }

    /// This host's identity, and its way out.
    pub(super) fn route(&self) -> TunnelRoute {
        self.route.borrow().clone()
    }

    /// This host goes as the holder of another certificate from now on. Sessions that are up stay.
    pub(super) fn go_as(&self, route: TunnelRoute) {
        self.route.send_replace(route);
        self.endpoints.send_modify(Endpoints::forgive);
    }

    pub(super) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let link = self;
        let mut slots = JoinSet::new();
        for slot in 0..self::slots(link.urls.len()) {
            slots.spawn(Arc::clone(&link).keep(slot, shutdown.clone()));
        }
        // A slot that panicked would leave a host that is half connected: the group restarts.
        while let Some(ended) = slots.join_next().await {
            if ended.is_err() {
                return;
            }
        }
    }

    /// One slot.
    async fn keep(self: Arc<Self>, slot: u8, shutdown: CancellationToken) {
        let mut running = JoinSet::new();
        let beat = self.sessions.beat(format!("link of slot {slot}"));
        while let Some(index) = self.claim(slot, &beat, &shutdown).await {
            while running.try_join_next().is_some() {}
            let Some(endpoint) = self.urls.get(index) else {
                break;
            };
            self.board.connecting(slot, endpoint);
            let route = self.route();
            beat.within(TRY);
            let dialled = tokio::select! {
                // cancel-safe: a dial that is dropped leaves nothing behind
                () = shutdown.cancelled() => break,
                dialled = route.dial(endpoint, self.headers(slot)) => dialled,
            };
            let ended = match dialled {
                Ok(dialled) => {
                    // From here on the session's driver gives signs of life.
                    beat.rests();
                    let up = self.up(slot, index, dialled, &mut running, &shutdown);
                    match up.await {
                        Some(ended) => ended,
                        None => break,
                    }
                }
                Err(e) => {
                    let orders = e.copied().map(|c| c.documents).unwrap_or_default();
                    self.board.ordered(orders);
                    Ended {
                        fault: e.fault(endpoint),
                        lived: None,
                        hint: self.hint(&route, &e),
                    }
                }
            };
            self.ended(slot, index, ended);
        }
        beat.rests();
        // Each is bounded by itself.
        while running.join_next().await.is_some() {}
    }

    /// How long the plane wants to be left alone. What it said to a certificate that was replaced
    /// meanwhile says nothing about the present one.
    fn hint(&self, gone_as: &TunnelRoute, error: &DialError) -> Option<Duration> {
        let now = self.route.borrow();
        match gone_as.shows_what(&now) {
            true => error.retry_after(fastrand::f64()),
            false => None,
        }
    }

    /// Waits for an endpoint that may be dialled; `None` at shutdown.
    async fn claim(&self, slot: u8, beat: &Beat, shutdown: &CancellationToken) -> Option<usize> {
        let mut changes = self.endpoints.subscribe();
        while !shutdown.is_cancelled() {
            changes.mark_unchanged();
            beat.within(LOOK_AGAIN);
            let now = self.now();
            let mut claim = Claim::Never;
            self.endpoints.send_if_modified(|endpoints| {
                claim = endpoints.claim(slot, now);
                false
            });
            let wait = match claim {
                Claim::Now(index) => return Some(index),
                Claim::Later(index, at) => {
                    let wait = at.since(now);
                    let endpoint = self.urls.get(index);
                    self.board.waiting(slot, endpoint, after(wait));
                    wait
                }
                // Slots never outnumber endpoints; if they did, another slot's end would be the news.
                Claim::Never => Duration::MAX,
            };
            tokio::select! {
                // cancel-safe: all are
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(wait.min(LOOK_AGAIN)) => {}
                _ = changes.changed() => {}
            }
        }
        None
    }

    /// Runs a session until it is told to leave or ends; `None` at shutdown.
    async fn up(
        &self,
        slot: u8,
        index: usize,
        dialled: Dialled,
        running: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> Option<Ended> {
        let endpoint = self.urls.get(index)?.clone();
        let Dialled {
            socket,
            probe,
            kind,
        } = dialled;
        let begun = session::begin(socket, self.config.ping());
        let live = self.sessions.begin(NewSession {
            slot,
            kind,
            endpoint: endpoint.clone(),
            failures: self.endpoints.borrow().failures(index, self.now()),
            ping_interval: self.config.ping(),
            handle: begun.handle.clone(),
            probe,
        });
        tracing::info!(session = live.number, slot, endpoint, %kind, "tunnel is up");
        self.board.connected(slot, live.since);
        running.spawn(session::run(
            begun.ends,
            Arc::clone(&live),
            Arc::clone(&self.sessions),
            Arc::clone(&self.serve),
            shutdown.clone(),
        ));
        let began = self.now();
        let farewell = tokio::select! {
            // cancel-safe: both only watch
            () = shutdown.cancelled() => return None,
            farewell = begun.handle.peer_leaves() => farewell,
        };
        let lived = Some(self.now().since(began));
        if let Some(farewell) = farewell {
            self.bound_draining(slot);
            let why = match farewell.words.as_str() {
                "" => farewell.code.to_string(),
                words => format!("the plane closes the session ({}): {words}", farewell.code),
            };
            return Some(Ended {
                fault: down(&endpoint, why),
                lived,
                hint: Some(farewell.come_back_after),
            });
        }
        let closed = begun.handle.closed().await;
        Some(Ended {
            fault: down(&endpoint, closed.to_string()),
            lived,
            hint: None,
        })
    }

    /// Ends the oldest of the sessions that drain, if there are too many.
    fn bound_draining(&self, slot: u8) {
        let mut draining = self.sessions.all();
        draining.retain(|live| live.handle.is_leaving());
        let of_slot: Vec<_> = draining.iter().map(|live| live.slot == slot).collect();
        let bounds: Vec<_> = draining.iter().map(|live| live.handle.bound()).collect();
        for (live, goes) in draining.iter().zip(surplus(&of_slot, &bounds)) {
            if goes {
                live.handle
                    .close(Code::GoingAway, "too many old sessions are draining");
            }
        }
    }

    fn ended(&self, slot: u8, index: usize, ended: Ended) {
        let Ended { fault, lived, hint } = ended;
        let (now, random) = (self.now(), fastrand::f64());
        let mut wait = Duration::ZERO;
        self.endpoints.send_modify(|endpoints| {
            wait = endpoints.ended(index, lived, hint, random, now);
        });
        let fault = fault.next_try(after(wait));
        tracing::warn!(
            slot,
            code = fault.code.word(),
            wait_ms = wait.as_millis(),
            "{fault}"
        );
        self.board.ended(slot, fault, lived.is_some());
    }

    fn headers(&self, slot: u8) -> HeaderMap {
        HeaderMap::from_iter([
            (
                HeaderName::from_static(mux::INSTANCE_HEADER),
                self.instance.clone(),
            ),
            (
                HeaderName::from_static(mux::SLOT_HEADER),
                HeaderValue::from(u16::from(slot)),
            ),
        ])
    }

    fn now(&self) -> Time {
        self.clock.look();
        self.clock.now()
    }
}

/// Which of the sessions that drain, the oldest first, must go so that the rest has its bounds: of
/// this slot no more than [`DRAINING_MAX`], all together no more than [`DRAINING_BYTES`].
fn surplus(of_slot: &[bool], bounds: &[u64]) -> Vec<bool> {
    let mut count = of_slot.iter().filter(|of_slot| **of_slot).count();
    let mut bytes: u64 = bounds.iter().sum();
    let each = of_slot.iter().zip(bounds).map(|(of_slot, bound)| {
        let goes = bytes > DRAINING_BYTES || (*of_slot && count > DRAINING_MAX);
        if goes {
            count -= usize::from(*of_slot);
            bytes -= bound;
        }
        goes
    });
    each.collect()
}

fn down(endpoint: &str, why: String) -> Fault {
    Fault::new(
        FaultCode::TunnelDown,
        format!("the tunnel to {endpoint} ended"),
        why,
    )
}

fn after(wait: Duration) -> Timestamp {
    let now = crate::seam::clock::now();
    now.checked_add(wait).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The rest has its bounds, none goes without need, and a single one never does.
        #[test]
        fn only_the_oldest_go_and_only_as_many_as_must(
            all in prop::collection::vec((any::<bool>(), 0..=SESSION_BYTES), 0..12),
        ) {
            let (of_slot, bounds): (Vec<_>, Vec<_>) = all.iter().copied().unzip();
            let goes = surplus(&of_slot, &bounds);
            let stays = |n: usize| !goes[n];
            let bytes: u64 = (0..all.len()).filter(|n| stays(*n)).map(|n| bounds[n]).sum();
            let count = (0..all.len()).filter(|n| stays(*n) && of_slot[*n]).count();
            prop_assert!(bytes <= DRAINING_BYTES && count <= DRAINING_MAX);
            if let Some(last) = goes.iter().rposition(|g| *g) {
                // With it there would be too much, or too many.
                let with = bytes + bounds[last];
                prop_assert!(with > DRAINING_BYTES || count + usize::from(of_slot[last]) > DRAINING_MAX);
                prop_assert!(last + 1 < all.len(), "the newest stays");
            }
        }
    }
}
