//! Connections that are not authenticated yet: a full plane makes room among them, fairly.
//!
//! Each connection is a stranger until it has presented a host's valid certificate, or an operator's valid token. When
//! every place is taken, the origin with the most strangers loses its oldest; authenticated ones stay. A limit per
//! address was rejected: a fleet behind NAT is one address.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::fair::Origin;
use super::tunnel::Shown;

/// Unauthenticated connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Strangers(Arc<Mutex<ByOrigin>>);

#[derive(Debug, Default)]
struct ByOrigin {
    /// By origin, in order of arrival.
    of: BTreeMap<Origin, BTreeMap<u64, CancellationToken>>,
    /// The same, sorted by count.
    by_count: BTreeSet<(usize, Origin)>,
    next: u64,
}

/// One of them, until it is dropped or authenticated.
#[derive(Debug)]
pub(super) struct Stranger {
    board: Strangers,
    origin: Origin,
    number: u64,
}

/// Facts about a connection from outside; in the extensions of each of its requests.
#[derive(Clone, Debug)]
pub(super) struct Outside {
    pub(super) stranger: Arc<Stranger>,
    /// The certificate that TLS checked.
    pub(super) shown: Option<Shown>,
}

impl Strangers {
    /// Adds one, which ends when `cut` is cancelled.
    pub(super) fn enter(&self, origin: Origin, cut: CancellationToken) -> Stranger {
        let mut board = self.board();
        let number = board.next;
        board.next += 1;
        board.change(origin, |those| {
            those.insert(number, cut);
        });
        Stranger {
            board: self.clone(),
            origin,
            number,
        }
    }

    /// Cuts one off, if there is any.
    pub(super) fn make_room(&self) -> bool {
        let mut board = self.board();
        let Some(&(_, origin)) = board.by_count.last() else {
            return false;
        };
        board.change(origin, |those| {
            if let Some((_, cut)) = those.pop_first() {
                cut.cancel();
            }
        });
        true
    }

    fn board(&self) -> MutexGuard<'_, ByOrigin> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ByOrigin {
    fn change(&mut self, origin: Origin, work: impl FnOnce(&mut BTreeMap<u64, CancellationToken>)) {
        let those = self.of.entry(origin).or_default();
        self.by_count.remove(&(those.len(), origin));
        work(those);
        match those.len() {
            0 => drop(self.of.remove(&origin)),
            count => drop(self.by_count.insert((count, origin))),
        }
    }
}

impl Stranger {
    /// Where it comes from.
    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    /// It has authenticated: it stays.
    pub(super) fn known(&self) {
        self.board.board().change(self.origin, |those| {
            those.remove(&self.number);
        });
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.known();
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn origin(n: u8) -> Origin {
        Origin::of(SocketAddr::from(([10, 0, 0, n], 1)))
    }

    #[test]
    fn the_oldest_of_the_address_with_the_most_makes_room_and_known_hosts_stay() {
        let strangers = Strangers::default();
        let cut = || CancellationToken::new();
        let cuts: Vec<CancellationToken> = (0..5).map(|_| cut()).collect();
        let enter = |n: u8, i: usize| strangers.enter(origin(n), cuts[i].clone());
        let those = [
            enter(1, 0),
            enter(2, 1),
            enter(2, 2),
            enter(2, 3),
            enter(3, 4),
        ];
        let said = || -> Vec<bool> { cuts.iter().map(|c| c.is_cancelled()).collect() };
        those[1].known();
        assert!(strangers.make_room());
        assert_eq!(said(), [false, false, true, false, false]);
        // One each: equal counts go by address, and none is cut twice.
        for _ in 0..3 {
            assert!(strangers.make_room());
        }
        assert_eq!(said(), [true, false, true, true, true]);
        assert!(!strangers.make_room(), "who is known is not cut off");
    }

    #[test]
    fn nothing_is_left_of_who_is_gone() {
        let strangers = Strangers::default();
        for n in 0..100 {
            drop(strangers.enter(origin(n), CancellationToken::new()));
        }
        assert!(strangers.board().of.is_empty() && strangers.board().by_count.is_empty());
    }
}
