//! How many connections each caller may hold: pure.
//!
//! Root has places of its own, so nobody can take the last one from it. Every other user has a
//! share, and all of them together have a bound: what one takes is not missing elsewhere.

use std::collections::BTreeMap;

/// Places of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Connections of all users but root, together.
    pub all: usize,
    /// Connections of each such user.
    pub each: usize,
    /// Connections of root, beside those.
    pub root: usize,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The caller has its share.
    Share(usize),
    /// All callers together have what there is.
    All(usize),
}

/// Places that are taken.
#[derive(Debug)]
pub(super) struct Held {
    share: Share,
    by: BTreeMap<u32, usize>,
}

const ROOT: u32 = 0;

impl Default for Share {
    fn default() -> Self {
        Self {
            all: 48,
            // One of our daemons holds a handful: a long-poll, a call or two, two that are idle.
            each: 16,
            // A person, scripts of the package, a monitoring agent; nobody of them waits for long.
            root: 32,
        }
    }
}

impl Share {
    /// Most connections at once.
    pub const fn most(self) -> usize {
        self.all + self.root
    }
}

// === impl Held ===

impl Held {
    pub(super) fn new(share: Share) -> Self {
        Self {
            share,
            by: BTreeMap::new(),
        }
    }

    /// Takes a place for a connection of `uid`.
    pub(super) fn admit(&mut self, uid: u32) -> Result<(), Full> {
        let has = self.by.get(&uid).copied().unwrap_or(0);
        let share = match uid {
            ROOT => self.share.root,
            _ => self.share.each,
        };
        if has >= share {
            return Err(Full::Share(share));
        }
        if uid != ROOT && self.others() >= self.share.all {
            return Err(Full::All(self.share.all));
        }
        self.by.insert(uid, has + 1);
        Ok(())
    }

    /// Gives a place back.
    pub(super) fn leave(&mut self, uid: u32) {
        if let Some(has) = self.by.get_mut(&uid) {
            *has = has.saturating_sub(1);
            if *has == 0 {
                // As many entries as there are connections, not as there ever were users.
                self.by.remove(&uid);
            }
        }
    }

    /// Bounded by `share.all`, and so is the time this takes.
    fn others(&self) -> usize {
        let others = self.by.iter().filter(|(uid, _)| **uid != ROOT);
        others.map(|(_, has)| has).sum()
    }
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Share(n) => write!(f, "it holds {n} connections, its limit"),
            Self::All(n) => write!(f, "{n} connections are open, the limit"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHARE: Share = Share {
        all: 7,
        each: 3,
        root: 2,
    };

    proptest! {
        /// Whatever others do: root gets each of its places, a user that holds less than its share
        /// is let in as long as all of them together hold less than theirs, and nothing is counted
        /// twice or for ever.
        #[test]
        fn nobody_takes_more_than_his_share_and_root_always_gets_in(
            steps in prop::collection::vec((any::<bool>(), 0u32..6), 1..400),
        ) {
            let mut held = Held::new(SHARE);
            let mut open: Vec<u32> = Vec::new();
            for (comes, uid) in steps {
                let of = |who: u32, open: &[u32]| open.iter().filter(|u| **u == who).count();
                if comes {
                    let root = of(ROOT, &open);
                    let fits = match uid {
                        ROOT => root < SHARE.root,
                        _ => of(uid, &open) < SHARE.each && open.len() - root < SHARE.all,
                    };
                    prop_assert_eq!(held.admit(uid).is_ok(), fits);
                    if fits {
                        open.push(uid);
                    }
                } else if let Some(at) = open.iter().position(|u| *u == uid) {
                    open.remove(at);
                    held.leave(uid);
                }
                prop_assert!(open.len() <= SHARE.most());
                prop_assert!(held.by.len() <= SHARE.most());
            }
            for uid in open {
                held.leave(uid);
            }
            prop_assert!(held.by.is_empty());
        }
    }
}
