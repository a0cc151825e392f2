//! Which hosts are connected: one live session per host, the newest.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::HostId;
use crate::mux::Handle;
use crate::wire::Code;

/// When hosts may come back after the plane stopped: a restart takes about as long.
const COME_BACK: Duration = Duration::from_secs(2);

/// The live sessions.
#[derive(Default)]
pub(super) struct Sessions {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    live: HashMap<HostId, Session>,
}

struct Session {
    number: u64,
    tunnel: Handle,
}

impl Sessions {
    /// A host connected. An older session of the same host is ended: of two machines that claim
    /// to be one host, or of two connections of one machine, only the newest speaks for it.
    pub(super) fn begin(&self, host: HostId, tunnel: Handle) -> u64 {
        let mut inner = self.lock();
        inner.next += 1;
        let number = inner.next;
        let older = inner.live.insert(host, Session { number, tunnel });
        drop(inner);
        if let Some(older) = older {
            tracing::warn!(%host, "older session fenced");
            older
                .tunnel
                .close(Code::Replaced, "a newer session of this host began");
        }
        number
    }

    /// A session ended by itself.
    pub(super) fn over(&self, host: HostId, number: u64) {
        let mut inner = self.lock();
        if inner.live.get(&host).is_some_and(|s| s.number == number) {
            inner.live.remove(&host);
        }
    }

    /// Ends a host's session at once.
    pub(super) fn end(&self, host: HostId, why: &'static str) {
        let gone = self.lock().live.remove(&host);
        if let Some(session) = gone {
            session.tunnel.close(Code::NotAllowed, why);
        }
    }

    /// Lets a host's session finish what is under way, then end.
    pub(super) fn retire(&self, host: HostId, why: &'static str) {
        let gone = self.lock().live.remove(&host);
        if let Some(session) = gone {
            tracing::info!(%host, why, "session retired");
            session.tunnel.leave(Code::NotAllowed, Duration::ZERO, why);
        }
    }

    /// The plane stops: every host is told to come back.
    pub(super) fn drain(&self) {
        for session in self.lock().live.values() {
            session
                .tunnel
                .leave(Code::GoingAway, COME_BACK, "the plane stops");
        }
    }

    /// The way to a host, if it is connected.
    pub(super) fn tunnel(&self, host: HostId) -> Option<Handle> {
        self.lock().live.get(&host).map(|s| s.tunnel.clone())
    }

    /// Whether a host is connected.
    pub(super) fn is_connected(&self, host: HostId) -> bool {
        self.lock().live.contains_key(&host)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
