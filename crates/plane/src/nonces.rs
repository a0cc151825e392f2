//! Nonces that root's orders answer: each valid once, for minutes, by this plane's clock. In memory: after a restart a
//! host asks for another one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::secrets::{self, NoRandomness};
use pf9_hostagent::model::{Digest, HostId, Nonce};

/// How long an order may take: the signature needs milliseconds, a slow tunnel seconds.
pub(super) const LIFE: Duration = Duration::from_secs(300);
/// Most per host at a time: an order and a report of facts, and each again after a lost answer. Beyond it the oldest
/// becomes invalid.
const PER_HOST: usize = 4;

/// Issued nonces. One entry per host that asked: bounded by the number of hosts.
#[derive(Default)]
pub(super) struct Nonces(Mutex<HashMap<HostId, VecDeque<Given>>>);

struct Given {
    nonce: Nonce,
    at: Instant,
}

impl Nonces {
    /// A new one for this host.
    pub(super) fn give(&self, host: HostId, now: Instant) -> Result<Nonce, NoRandomness> {
        let nonce = Nonce(Digest(secrets::random()?));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = all.entry(host).or_default();
        if mine.len() >= PER_HOST {
            mine.pop_front();
        }
        mine.push_back(Given { nonce, at: now });
        Ok(nonce)
    }

    /// Whether this host was issued it recently and has not used it; marks it as used.
    pub(super) fn take(&self, host: HostId, nonce: Nonce, now: Instant) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mine) = all.get_mut(&host) else {
            return false;
        };
        mine.retain(|g| now.saturating_duration_since(g.at) < LIFE);
        let found = mine.iter().position(|g| g.nonce == nonce);
        if let Some(at) = found {
            mine.remove(at);
        }
        if mine.is_empty() {
            all.remove(&host);
        }
        found.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_valid_once_for_its_host_and_for_minutes() {
        let (nonces, now) = (Nonces::default(), Instant::now());
        let (a, b) = (HostId::random(), HostId::random());
        let first = nonces.give(a, now).expect("nonce");
        assert!(!nonces.take(b, first, now), "another host's");
        assert!(nonces.take(a, first, now));
        assert!(!nonces.take(a, first, now), "used");
        let late = nonces.give(a, now).expect("nonce");
        assert!(!nonces.take(a, late, now + LIFE), "too late");
        let guess = Nonce(Digest::of(b"guess"));
        assert!(!nonces.take(a, guess, now));
        assert!(nonces.0.lock().expect("lock").is_empty(), "nothing is kept");
    }

    #[test]
    fn only_a_hosts_newest_nonces_are_valid() {
        let (nonces, now, a) = (Nonces::default(), Instant::now(), HostId::random());
        let all: Vec<Nonce> = (0..100)
            .map(|_| nonces.give(a, now).expect("nonce"))
            .collect();
        let good = all.iter().filter(|n| nonces.take(a, **n, now)).count();
        assert_eq!(good, PER_HOST);
    }
}
