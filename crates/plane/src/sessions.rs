//! Connected hosts: one agent process per host, the newest, with a few concurrent sessions.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;

use pf9_hostagent::app::{Candidate, in_order, is_silent};
use pf9_hostagent::model::{HostId, SessionKind};
use pf9_hostagent::mux::{self, Handle};
use pf9_hostagent::wire::Code;
use pf9_hostagent::wire::limits::PING_INTERVAL;

/// When hosts should reconnect after the plane stopped: a restart takes about as long.
const COME_BACK: Duration = Duration::from_secs(2);
/// Old sessions of a host that may finish their streams beside the new ones: four per slot, as the node itself allows.
const DRAINING_MAX: usize = 4 * mux::SLOTS_MAX as usize;

/// The live sessions.
#[derive(Default)]
pub(super) struct Sessions {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// No host has an empty list.
    live: HashMap<HostId, Connected>,
}

#[derive(Default)]
struct Connected {
    /// The oldest first.
    all: Vec<Session>,
    /// The session that took the last stream.
    chosen: u64,
}

/// A session that accepts streams.
pub(super) struct Way {
    pub(super) number: u64,
    pub(super) tunnel: Handle,
}

struct Session {
    number: u64,
    place: Place,
    kind: SessionKind,
    tunnel: Handle,
}

/// Which of a host's sessions this is, as the host claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    instance: u128,
    slot: u8,
}

/// A session as [`fenced`] sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    number: u64,
    place: Place,
    leaving: bool,
}

impl Place {
    /// From the handshake's headers. Without them: slot 0 of a process of its own.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, &'static str> {
        let text = |name| match headers.get(name) {
            Some(value) => value
                .to_str()
                .map(Some)
                .map_err(|_| "a header is not UTF-8 text"),
            None => Ok(None),
        };
        let instance = match text(mux::INSTANCE_HEADER)? {
            None => uuid::Uuid::new_v4().as_u128(),
            Some(hex) => {
                const DIGITS: usize = 32;
                let all_hex = hex.bytes().all(|b| b.is_ascii_hexdigit());
                let number = u128::from_str_radix(hex, 16).ok();
                number
                    .filter(|_| all_hex && hex.len() == DIGITS)
                    .ok_or("the instance is not 32 hex digits")?
            }
        };
        let slot = match text(mux::SLOT_HEADER)? {
            None => 0,
            Some(digit) => digit
                .parse()
                .ok()
                .filter(|slot| *slot < mux::SLOTS_MAX)
                .ok_or("there is no such slot")?,
        };
        Ok(Self { instance, slot })
    }
}

/// Sessions that a new one of the same host ends: of two processes that claim to be one host only the newest speaks for
/// it; in a slot the newest replaces the session it was opened for, unless that one is draining anyway. Of the draining
/// ones only the newest few stay.
fn fenced(known: &[Known], new: Place) -> Vec<u64> {
    let (ours, foreign): (Vec<Known>, Vec<Known>) =
        known.iter().partition(|k| k.place.instance == new.instance);
    let (leaving, live): (Vec<Known>, Vec<Known>) = ours.into_iter().partition(|k| k.leaving);
    let surplus = leaving.len().saturating_sub(DRAINING_MAX);
    let replaced = live.into_iter().filter(|k| k.place.slot == new.slot);
    foreign
        .into_iter()
        .chain(replaced)
        .chain(leaving.into_iter().take(surplus))
        .map(|k| k.number)
        .collect()
}

impl Sessions {
    /// A host connected. Sessions fenced by the new one end immediately: a reconnecting host never waits for its old
    /// sessions.
    pub(super) fn begin(
        &self,
        host: HostId,
        place: Place,
        kind: SessionKind,
        tunnel: Handle,
    ) -> u64 {
        let mut inner = self.lock();
        inner.next += 1;
        let number = inner.next;
        let all = &mut inner.live.entry(host).or_default().all;
        let known: Vec<_> = all.iter().map(Session::known).collect();
        let ended = fenced(&known, place);
        let over: Vec<_> = all.extract_if(.., |s| ended.contains(&s.number)).collect();
        // Mostly the only one: a vector that grows takes four at once.
        all.reserve_exact(1);
        all.push(Session {
            number,
            place,
            kind,
            tunnel,
        });
        drop(inner);
        for old in over {
            tracing::warn!(%host, session = old.number, by = number, "older session replaced");
            old.tunnel
                .close(Code::Replaced, "a newer session of this host started");
        }
        number
    }

    /// A session ended.
    pub(super) fn over(&self, host: HostId, number: u64) {
        let mut inner = self.lock();
        if let Some(host_is) = inner.live.get_mut(&host) {
            host_is.all.retain(|s| s.number != number);
            if host_is.all.is_empty() {
                inner.live.remove(&host);
            }
        }
    }

    /// Ends a host's sessions immediately.
    pub(super) fn end(&self, host: HostId, why: &'static str) {
        let gone = self.lock().live.remove(&host);
        for session in gone.into_iter().flat_map(|c| c.all) {
            session.tunnel.close(Code::NotAllowed, why);
        }
    }

    /// Drains a host's sessions.
    pub(super) fn retire(&self, host: HostId, why: &'static str) {
        let gone = self.lock().live.remove(&host);
        for session in gone.into_iter().flat_map(|c| c.all) {
            tracing::info!(%host, session = session.number, why, "session retired");
            session.tunnel.leave(Code::NotAllowed, Duration::ZERO, why);
        }
    }

    /// Drains a host's sessions of this kind. They stay listed until they are over: no stream is opened on them anyway.
    pub(super) fn retire_kind(&self, host: HostId, kind: SessionKind, why: &'static str) {
        let inner = self.lock();
        let all = inner.live.get(&host).into_iter().flat_map(|c| &c.all);
        for session in all.filter(|s| s.kind == kind) {
            let code = Code::GoingAway;
            session.tunnel.leave(code, Duration::ZERO, why);
        }
    }

    /// The plane stops: every host is told to reconnect.
    pub(super) fn drain(&self) {
        for session in self.lock().live.values().flat_map(|c| &c.all) {
            session
                .tunnel
                .leave(Code::GoingAway, COME_BACK, "the plane stops");
        }
    }

    /// The sessions of a host, the best first (by the rule that the host uses as well): streams do not move while
    /// nothing is wrong. Only sessions that allow everything.
    pub(super) fn ways(&self, host: HostId) -> Vec<Way> {
        let inner = self.lock();
        let Some(Connected { all, chosen }) = inner.live.get(&host) else {
            return Vec::new();
        };
        let candidates: Vec<_> = all
            .iter()
            .filter(|s| s.kind == SessionKind::Full)
            .map(Session::candidate)
            .collect();
        let found = |number| {
            let session = all.iter().find(|s| s.number == number)?;
            let tunnel = session.tunnel.clone();
            Some(Way { number, tunnel })
        };
        let order = in_order(&candidates, *chosen);
        order.into_iter().filter_map(found).collect()
    }

    /// A session took a stream: the next one prefers it.
    pub(super) fn prefer(&self, host: HostId, number: u64) {
        if let Some(connected) = self.lock().live.get_mut(&host) {
            connected.chosen = number;
        }
    }

    /// Whether a host is connected with a full session.
    pub(super) fn is_connected(&self, host: HostId) -> bool {
        let inner = self.lock();
        let connected = inner.live.get(&host);
        connected.is_some_and(|c| c.all.iter().any(|s| s.kind == SessionKind::Full))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn known(&self) -> Known {
        Known {
            number: self.number,
            place: self.place,
            leaving: self.tunnel.is_leaving(),
        }
    }

    fn candidate(&self) -> Candidate {
        Candidate {
            number: self.number,
            leaving: self.tunnel.is_leaving(),
            silent: is_silent(self.tunnel.silence(), PING_INTERVAL),
            round_trip: self.tunnel.stats().round_trip,
            failures: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{IntoFuture, poll_fn};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Poll;

    use http::HeaderValue;
    use proptest::prelude::*;
    use tokio::task::JoinSet;

    use super::*;

    fn known(number: u64, instance: u128, slot: u8, leaving: bool) -> Known {
        Known {
            number,
            place: Place { instance, slot },
            leaving,
        }
    }

    fn place(instance: u128, slot: u8) -> Place {
        Place { instance, slot }
    }

    #[test]
    fn a_program_fences_others_and_its_own_slot() {
        let (a, b) = (known(1, 7, 0, false), known(2, 7, 1, false));
        assert_eq!(fenced(&[a, b], place(7, 1)), [2]);
        assert_eq!(fenced(&[a, b], place(8, 0)), [1, 2]);
        let leaving = known(1, 7, 0, true);
        assert_eq!(fenced(&[leaving, b], place(7, 0)), Vec::<u64>::new());
        assert_eq!(fenced(&[leaving, b], place(8, 0)), [1, 2]);
    }

    #[test]
    fn what_the_host_says_is_read_strictly() {
        let with = |instance: Option<&str>, slot: Option<&str>| {
            let mut headers = HeaderMap::new();
            let pairs = [(mux::INSTANCE_HEADER, instance), (mux::SLOT_HEADER, slot)];
            for (name, value) in pairs {
                if let Some(value) = value {
                    headers.insert(name, HeaderValue::from_str(value).expect("value"));
                }
            }
            Place::of(&headers)
        };
        let hex = "0123456789abcdef0123456789ABCDEF";
        let good = with(Some(hex), Some("1")).expect("good");
        assert_eq!(good, place(0x0123456789abcdef0123456789abcdef, 1));
        let none = with(None, None).expect("none");
        assert_eq!(none.slot, 0);
        assert_ne!(none.instance, with(None, None).expect("none").instance);
        let signed = format!("+{}", &hex[1..]);
        for bad in [
            "",
            "1",
            &hex[1..],
            &signed,
            "g123456789abcdef0123456789abcdef",
        ] {
            assert!(with(Some(bad), None).is_err(), "{bad}");
        }
        for bad in ["", "2", "-1", "x", "256"] {
            assert!(with(None, Some(bad)).is_err(), "{bad}");
        }
    }

    /// A handle whose connection is not driven: it can be drained, and is over when dropped.
    fn tunnel() -> (Handle, impl Sized) {
        use pf9_hostagent::wire::{Config, Side};
        let (io, far) = tokio::io::duplex(64);
        let socket = mux::Websocket::new(Box::new(io), mux::Role::Server, bytes::Bytes::new());
        let (handle, incoming, driver) = mux::session(socket, Side::Plane, Config::default());
        (handle, (incoming, driver, far))
    }

    #[tokio::test]
    async fn streams_go_to_a_session_that_does_not_leave() {
        let (sessions, host) = (Sessions::default(), HostId::random());
        assert!(sessions.ways(host).is_empty() && !sessions.is_connected(host));
        let ((zero, _zero), (one, _one)) = (tunnel(), tunnel());
        let first = sessions.begin(host, place(7, 0), SessionKind::Full, zero.clone());
        let second = sessions.begin(host, place(7, 1), SessionKind::Full, one.clone());
        zero.leave(Code::GoingAway, Duration::ZERO, "test");
        let ways: Vec<_> = sessions.ways(host).iter().map(|w| w.number).collect();
        assert_eq!(ways, [second], "the other one");
        one.leave(Code::GoingAway, Duration::ZERO, "test");
        assert!(sessions.ways(host).is_empty() && sessions.is_connected(host));
        sessions.over(host, first);
        sessions.over(host, second);
        assert!(!sessions.is_connected(host));
    }

    #[tokio::test]
    async fn nothing_is_opened_on_a_session_that_is_good_for_one_thing_only() {
        let (sessions, host) = (Sessions::default(), HostId::random());
        let mut kept = Vec::new();
        for (slot, kind) in [(0, SessionKind::RenewalOnly), (1, SessionKind::RemovalOnly)] {
            let (handle, ends) = tunnel();
            sessions.begin(host, place(7, slot), kind, handle.clone());
            assert!(sessions.ways(host).is_empty() && !sessions.is_connected(host));
            kept.push((handle, ends));
        }
        sessions.retire_kind(host, SessionKind::RenewalOnly, "test");
        let leaves: Vec<_> = kept.iter().map(|(handle, _)| handle.is_leaving()).collect();
        assert_eq!(leaves, [true, false]);
        let (full, _ends) = tunnel();
        let number = sessions.begin(host, place(7, 0), SessionKind::Full, full);
        let ways: Vec<_> = sessions.ways(host).iter().map(|w| w.number).collect();
        assert_eq!(ways, [number]);
        assert!(sessions.is_connected(host));
    }

    /// Both ends of a session, driven until it is frozen.
    fn driven(frozen: &Arc<AtomicBool>, tasks: &mut JoinSet<()>) -> Handle {
        use pf9_hostagent::wire::{Config, Side};
        let (near, far) = tokio::io::duplex(4096);
        let config = Config::default();
        let mut begin = |io, role, side| {
            let socket = mux::Websocket::new(Box::new(io), role, bytes::Bytes::new());
            let (handle, incoming, driver) = mux::session(socket, side, config);
            let (mut driver, frozen) = (Box::pin(driver.into_future()), Arc::clone(frozen));
            tasks.spawn(async move {
                let run = poll_fn(|cx| match frozen.load(Ordering::Relaxed) {
                    true => Poll::Pending,
                    false => driver.as_mut().poll(cx),
                });
                drop((run.await, incoming));
            });
            handle
        };
        begin(far, mux::Role::Client, Side::Node);
        begin(near, mux::Role::Server, Side::Plane)
    }

    /// By tokio's clock, which moves when nobody has work: on a busy machine a session that pings often dies by its own
    /// deadline before it is polled again.
    #[tokio::test(start_paused = true)]
    async fn a_path_that_is_silent_is_the_last_that_is_tried() {
        let mut tasks = JoinSet::new();
        let host = HostId::random();
        let sessions = Sessions::default();
        let (freeze, never) = (Arc::default(), Arc::default());
        let dies = driven(&freeze, &mut tasks);
        let lives = driven(&never, &mut tasks);
        // Both are fast: then only silence moves the streams.
        assert!(dies.ping().await.is_some() && lives.ping().await.is_some());
        let dies = sessions.begin(host, place(7, 0), SessionKind::Full, dies);
        let lives = sessions.begin(host, place(7, 1), SessionKind::Full, lives);
        let order = || -> Vec<_> { sessions.ways(host).iter().map(|w| w.number).collect() };
        assert_eq!(order(), [dies, lives]);
        // As long as both are heard nothing moves, however long it takes.
        tokio::time::sleep(PING_INTERVAL * 10).await;
        assert_eq!(order(), [dies, lives]);
        freeze.store(true, Ordering::Relaxed);
        tokio::time::sleep(PING_INTERVAL * 2).await;
        assert_eq!(order(), [lives, dies]);
    }

    proptest! {
        /// Whatever hosts do: one process, one live session per slot, a bounded number of draining ones.
        #[test]
        fn a_host_never_has_more_than_its_places(
            steps in prop::collection::vec((0u128..3, 0..mux::SLOTS_MAX, any::<u8>()), 1..100),
        ) {
            let mut all: Vec<Known> = Vec::new();
            for ((instance, slot, leaves), number) in steps.into_iter().zip(1u64..) {
                let new = place(instance, slot);
                let ended = fenced(&all, new);
                all.retain(|k| !ended.contains(&k.number));
                all.push(known(number, instance, slot, false));
                prop_assert!(all.iter().all(|k| k.place.instance == instance));
                let live: Vec<_> = all.iter().filter(|k| !k.leaving).map(|k| k.place.slot).collect();
                prop_assert!(live.len() <= usize::from(mux::SLOTS_MAX), "{live:?}");
                prop_assert!(live.iter().filter(|s| **s == slot).count() == 1);
                prop_assert!(all.len() - live.len() <= DRAINING_MAX);
                let count = all.len();
                if let Some(k) = all.get_mut(usize::from(leaves) % (count * 2)) {
                    k.leaving = true;
                }
            }
        }
    }
}
