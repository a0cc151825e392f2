//! Which hosts are connected: one program per host, the newest, with a few sessions beside each
//! other.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;

use crate::model::HostId;
use crate::mux::{self, Handle};
use crate::wire::Code;

/// When hosts may come back after the plane stopped: a restart takes about as long.
const COME_BACK: Duration = Duration::from_secs(2);
/// Old sessions of a host that may finish their streams beside the new ones: four a slot, as the
/// node itself allows.
const DRAINING_MAX: usize = 4 * mux::SLOTS_MAX as usize;

/// The live sessions.
#[derive(Default)]
pub(super) struct Sessions {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// The oldest of a host first. No host has an empty list.
    live: HashMap<HostId, Vec<Session>>,
}

struct Session {
    number: u64,
    place: Place,
    tunnel: Handle,
}

/// Which of a host's sessions this is, as the host says.
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
    /// From the handshake's headers. Without them: slot 0 of a program of its own.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, &'static str> {
        let text = |name| match headers.get(name) {
            Some(value) => value.to_str().map(Some).map_err(|_| "a header is no text"),
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

/// Which sessions a new one of the same host ends: of two programs that claim to be one host only
/// the newest speaks for it; in a slot the newest replaces what it was opened in place of, unless
/// that one is leaving anyway. Of those that leave only the newest few stay.
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
    /// A host connected. What the new session fences is ended at once: a host that comes back
    /// never waits for what is left of it.
    pub(super) fn begin(&self, host: HostId, place: Place, tunnel: Handle) -> u64 {
        let mut inner = self.lock();
        inner.next += 1;
        let number = inner.next;
        let all = inner.live.entry(host).or_default();
        let known: Vec<_> = all.iter().map(Session::known).collect();
        let ended = fenced(&known, place);
        let over: Vec<_> = all.extract_if(.., |s| ended.contains(&s.number)).collect();
        all.push(Session {
            number,
            place,
            tunnel,
        });
        drop(inner);
        for old in over {
            tracing::warn!(%host, session = old.number, by = number, "older session fenced");
            old.tunnel
                .close(Code::Replaced, "a newer session of this host began");
        }
        number
    }

    /// A session ended by itself.
    pub(super) fn over(&self, host: HostId, number: u64) {
        let mut inner = self.lock();
        if let Some(all) = inner.live.get_mut(&host) {
            all.retain(|s| s.number != number);
            if all.is_empty() {
                inner.live.remove(&host);
            }
        }
    }

    /// Ends a host's sessions at once.
    pub(super) fn end(&self, host: HostId, why: &'static str) {
        let gone = self.lock().live.remove(&host);
        for session in gone.into_iter().flatten() {
            session.tunnel.close(Code::NotAllowed, why);
        }
    }

    /// Lets a host's sessions finish what is under way, then end.
    pub(super) fn retire(&self, host: HostId, why: &'static str) {
        let gone = self.lock().live.remove(&host);
        for session in gone.into_iter().flatten() {
            tracing::info!(%host, session = session.number, why, "session retired");
            session.tunnel.leave(Code::NotAllowed, Duration::ZERO, why);
        }
    }

    /// The plane stops: every host is told to come back.
    pub(super) fn drain(&self) {
        for session in self.lock().live.values().flatten() {
            session
                .tunnel
                .leave(Code::GoingAway, COME_BACK, "the plane stops");
        }
    }

    /// The way to a host, if it is connected: its oldest session that takes streams, so that they
    /// do not change sides while nothing is wrong.
    pub(super) fn tunnel(&self, host: HostId) -> Option<Handle> {
        let inner = self.lock();
        let all = inner.live.get(&host)?;
        let able = all.iter().find(|s| !s.tunnel.is_leaving());
        able.map(|s| s.tunnel.clone())
    }

    /// Whether a host is connected.
    pub(super) fn is_connected(&self, host: HostId) -> bool {
        self.lock().live.contains_key(&host)
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
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

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

    /// A handle whose connection nobody drives: it can be told to leave, and is over when dropped.
    fn tunnel() -> (Handle, impl Sized) {
        use crate::wire::{Config, Side};
        let (io, far) = tokio::io::duplex(64);
        let socket = mux::Websocket::new(io, mux::Role::Server, bytes::Bytes::new());
        let (handle, incoming, driver) = mux::session(socket, Side::Plane, Config::default());
        (handle, (incoming, driver, far))
    }

    #[tokio::test]
    async fn streams_go_to_a_session_that_does_not_leave() {
        let (sessions, host) = (Sessions::default(), HostId::random());
        assert!(sessions.tunnel(host).is_none() && !sessions.is_connected(host));
        let ((zero, _zero), (one, _one)) = (tunnel(), tunnel());
        let first = sessions.begin(host, place(7, 0), zero.clone());
        let second = sessions.begin(host, place(7, 1), one.clone());
        zero.leave(Code::GoingAway, Duration::ZERO, "test");
        let chosen = sessions.tunnel(host).expect("the other one");
        assert!(!chosen.is_leaving());
        one.leave(Code::GoingAway, Duration::ZERO, "test");
        assert!(sessions.tunnel(host).is_none() && sessions.is_connected(host));
        sessions.over(host, first);
        sessions.over(host, second);
        assert!(!sessions.is_connected(host));
    }

    proptest! {
        /// Whatever hosts do: one program, one live session a slot, a bounded rest.
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
