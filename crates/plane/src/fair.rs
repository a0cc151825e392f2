//! Fairness among addresses: asking more often locks nobody else out.
//!
//! | | holds |
//! |---|---|
//! | [`Origin`]  | the caller, as far as an address identifies it |
//! | [`Fair`]    | slots that origins take in turns |
//! | [`Shares`]  | a rate limit per origin (or host) |
//!
//! None of them trusts what the other end claims: they run before anything is known about it. What is full of things
//! with owners makes room by [`of_those_with_most`].

mod shares;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

pub(super) use shares::Shares;

/// Where a connection comes from: an IPv4 address, or the 64-bit prefix of an IPv6 address, which one site has.
/// Machines behind one NAT are one origin and share its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Origin(IpAddr);

/// Slots that origins (or users, once authenticated) take in turns: however many callers of one are waiting, the next
/// free slot goes to another.
#[derive(Clone, Debug)]
pub(super) struct Fair<K: Ord + Copy = Origin>(Arc<Inner<K>>);

#[derive(Debug)]
struct Inner<K: Ord + Copy> {
    waiting_max: usize,
    line: Mutex<Line<K>>,
}

#[derive(Debug)]
struct Line<K: Ord + Copy> {
    free: usize,
    /// Waiting callers by origin, the longest waiting first.
    waiting: BTreeMap<K, VecDeque<oneshot::Sender<Place<K>>>>,
    /// The origins in `waiting`, in order of their turns.
    turns: VecDeque<K>,
    count: usize,
}

/// An occupied slot, released when dropped.
#[derive(Debug)]
pub(super) struct Place<K: Ord + Copy = Origin>(Option<Arc<Inner<K>>>);

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

/// So many of these keys, which are in their order, each from the owner that has the most then: one with many displaces
/// only its own.
pub(super) fn of_those_with_most<'k, O: Ord>(
    keys: impl IntoIterator<Item = (O, &'k str)>,
    surplus: usize,
) -> Vec<&'k str> {
    let mut of: BTreeMap<O, VecDeque<&'k str>> = BTreeMap::new();
    for (owner, key) in keys {
        of.entry(owner).or_default().push_back(key);
    }
    let mut gone = Vec::new();
    while gone.len() < surplus
        && let Some(most) = of.values_mut().max_by_key(|keys| keys.len())
        && let Some(key) = most.pop_front()
    {
        gone.push(key);
    }
    gone
}

// === impl Origin ===

impl Origin {
    /// The origin of a peer address.
    pub(super) fn of(address: SocketAddr) -> Self {
        Self(match address.ip().to_canonical() {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => {
                let network = u128::from(v6) >> 64 << 64;
                Ipv6Addr::from(network).into()
            }
        })
    }
}

// === impl Fair ===

impl<K: Ord + Copy> Fair<K> {
    /// `places` slots; at most `waiting_max` callers wait.
    pub(super) fn new(places: usize, waiting_max: usize) -> Self {
        Self(Arc::new(Inner {
            waiting_max,
            line: Mutex::new(Line {
                free: places,
                waiting: BTreeMap::new(),
                turns: VecDeque::new(),
                count: 0,
            }),
        }))
    }

    /// Waits for a slot. Cancel-safe: a waiter that gives up passes its slot on.
    ///
    /// # Errors
    /// The queue is full, and this origin has the most waiting callers.
    pub(super) async fn place(&self, origin: K) -> Result<Place<K>, TooMany> {
        let coming = {
            let mut line = self.0.line();
            if line.free > 0 {
                line.free -= 1;
                return Ok(Place(Some(Arc::clone(&self.0))));
            }
            line.queue(origin, self.0.waiting_max)?
        };
        coming.await.map_err(|_| TooMany)
    }
}

impl<K: Ord + Copy> Inner<K> {
    fn line(&self) -> MutexGuard<'_, Line<K>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord + Copy> Line<K> {
    fn queue(&mut self, origin: K, max: usize) -> Result<oneshot::Receiver<Place<K>>, TooMany> {
        if self.count >= max {
            self.forget_the_gone();
        }
        if self.count >= max {
            self.make_room(origin)?;
        }
        let (sender, receiver) = oneshot::channel();
        let queue = self.waiting.entry(origin).or_default();
        if queue.is_empty() {
            self.turns.push_back(origin);
        }
        queue.push_back(sender);
        self.count += 1;
        Ok(receiver)
    }

    /// The longest waiting keep their place: the origin with the most loses its newest caller, which may be the one
    /// asking.
    fn make_room(&mut self, asks: K) -> Result<(), TooMany> {
        let most = self.waiting.iter().max_by_key(|(_, queue)| queue.len());
        let (&origin, most) = most.map(|(o, q)| (o, q.len())).ok_or(TooMany)?;
        let own = self.waiting.get(&asks).map_or(0, VecDeque::len);
        if own >= most {
            return Err(TooMany);
        }
        if let Some(queue) = self.waiting.get_mut(&origin) {
            // Dropped: its caller gets "too many".
            queue.pop_back();
            self.count -= 1;
        }
        self.forget_the_gone();
        Ok(())
    }

    /// Callers that gave up leave their entries in the queue until the room is needed.
    fn forget_the_gone(&mut self) {
        self.waiting.retain(|_, queue| {
            queue.retain(|sender| !sender.is_closed());
            !queue.is_empty()
        });
        self.turns
            .retain(|origin| self.waiting.contains_key(origin));
        self.count = self.waiting.values().map(VecDeque::len).sum();
    }

    /// The next origin's turn: `gives` is asked of each of its callers until one takes the slot. A caller that gave up
    /// costs its origin no turn. False when nobody takes it.
    fn turn(&mut self, mut gives: impl FnMut(oneshot::Sender<Place<K>>) -> bool) -> bool {
        while let Some(origin) = self.turns.pop_front() {
            let Some(queue) = self.waiting.get_mut(&origin) else {
                continue;
            };
            let mut given = false;
            while !given && let Some(sender) = queue.pop_front() {
                self.count -= 1;
                given = gives(sender);
            }
            match queue.is_empty() {
                true => drop(self.waiting.remove(&origin)),
                false => self.turns.push_back(origin),
            }
            if given {
                return true;
            }
        }
        false
    }
}

impl<K: Ord + Copy> Drop for Place<K> {
    fn drop(&mut self) {
        let Some(inner) = self.0.take() else {
            return;
        };
        let mut line = inner.line();
        let given = line.turn(
            |sender| match sender.send(Place(Some(Arc::clone(&inner)))) {
                Ok(()) => true,
                // It gave up. Dropping the returned slot must not re-enter this code while the queue is locked.
                Err(mut place) => {
                    drop(place.0.take());
                    false
                }
            },
        );
        if !given {
            line.free += 1;
        }
    }
}

#[cfg(test)]
mod tests;
