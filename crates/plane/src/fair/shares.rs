//! A rate limit per key: token buckets that are remembered while they matter.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use pf9_hostagent::app::Bucket;

/// Buckets remembered. A full bucket need not be; this many that are not full, within the time that one takes to fill,
/// are a flood of origins, against which rate limits are of no use.
const REMEMBERED_MAX: usize = 16 * 1024;

/// A bucket per key.
#[derive(Clone, Debug)]
pub(crate) struct Shares<K> {
    fresh: Bucket,
    of: HashMap<K, Bucket>,
}

impl<K: Hash + Eq> Shares<K> {
    /// Each allows a burst of `burst`, and one more in every `every`.
    pub(crate) fn new(every: Duration, burst: u32) -> Self {
        Self {
            fresh: Bucket::every(every, burst),
            of: HashMap::new(),
        }
    }

    /// Takes one from this key's bucket, or says how long until there is one. `now` is measured from any fixed moment.
    pub(crate) fn take(&mut self, who: K, now: Duration) -> Result<(), Duration> {
        self.make_room(&who, now);
        let fresh = self.fresh;
        self.of.entry(who).or_insert(fresh).take(now)
    }

    /// Whether there is one, without taking it.
    pub(crate) fn has(&self, who: &K, now: Duration) -> Result<(), Duration> {
        self.of
            .get(who)
            .map_or(Ok(()), |share| share.clone().take(now))
    }

    fn make_room(&mut self, who: &K, now: Duration) {
        if self.of.len() < REMEMBERED_MAX || self.of.contains_key(who) {
            return;
        }
        self.of.retain(|_, share| !share.is_full(now));
        if self.of.len() >= REMEMBERED_MAX {
            self.of.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_bucket_and_a_check_takes_nothing() {
        let mut shares = Shares::new(Duration::from_secs(6), 2);
        let at = Duration::from_secs(100);
        assert_eq!(shares.has(&1, at), Ok(()));
        assert_eq!(shares.take(1, at), Ok(()));
        assert_eq!(shares.take(1, at), Ok(()));
        let wait = shares.has(&1, at).expect_err("nothing is left");
        assert_eq!(wait, Duration::from_secs(6));
        assert_eq!(shares.take(2, at), Ok(()));
        assert_eq!(shares.take(1, at + wait), Ok(()));
    }

    #[test]
    fn remembered_buckets_are_bounded() {
        let mut shares = Shares::new(Duration::from_secs(60), 1);
        for who in 0..4 * REMEMBERED_MAX {
            assert_eq!(shares.take(who, Duration::from_secs(1)), Ok(()));
            assert!(shares.of.len() <= REMEMBERED_MAX);
        }
        // Full buckets are dropped first, and only those where that is enough.
        let mut shares = Shares::new(Duration::from_secs(60), 1);
        for who in 0..REMEMBERED_MAX {
            let at = if who == 7 { 1000 } else { 1 };
            assert_eq!(shares.take(who, Duration::from_secs(at)), Ok(()));
        }
        assert_eq!(
            shares.take(REMEMBERED_MAX, Duration::from_secs(1001)),
            Ok(())
        );
        assert!(shares.take(7, Duration::from_secs(1001)).is_err());
    }
}
