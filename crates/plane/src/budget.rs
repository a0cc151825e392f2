//! Rate limit for new tunnels: pure.
//!
//! After a restart the whole fleet reconnects at once. Hosts beyond the rate get a Retry-After, each a little later
//! than the one before: the queue lives on the nodes and costs the plane one number.
//!
//! Before that, each host has a rate limit of its own: otherwise the holder of one certificate, stolen or copied, could
//! take every place in the queue and lock the whole fleet out.

use std::time::Duration;

use super::fair::Shares;
use pf9_hostagent::app::Bucket;
use pf9_hostagent::model::HostId;

/// New tunnels per second. A handshake costs about a millisecond of a core, so this is two fifths of one; ten thousand
/// hosts reconnect within half a minute.
pub const TUNNELS_PER_S: u32 = 400;
/// Longest Retry-After: a host that waits longer looks dead to its operator.
const RETRY_MAX: Duration = Duration::from_secs(120);
/// New tunnels one host may open at once: two sessions, each with the attempts that a bad network costs before backoff
/// grows.
const SHARE_BURST: u32 = 32;
/// Each takes this long to be available again: a healthy host dials less than once a minute.
const SHARE_EVERY: Duration = Duration::from_secs(1);

/// The rate limit of new tunnels.
#[derive(Clone, Debug)]
pub struct Budget {
    bucket: Bucket,
    /// Time between two places in the queue: a fifth more than between two tunnels, so that hosts returning as told
    /// find room beside newcomers.
    every: Duration,
    /// The last place given away.
    promised: Duration,
    /// Per-host limits of recent callers.
    shares: Shares<HostId>,
}

/// Why a tunnel is refused, and after how many seconds to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Too many hosts connect at once.
    All(u64),
    /// This host connects too often.
    Share(u64),
}

impl Budget {
    /// `per_second` tunnels, and as many in a burst.
    pub fn new(per_second: u32) -> Self {
        let per_second = per_second.max(1);
        Self {
            bucket: Bucket::new(per_second, per_second),
            every: Duration::from_secs(1) / per_second * 6 / 5,
            promised: Duration::ZERO,
            shares: Shares::new(SHARE_EVERY, SHARE_BURST),
        }
    }

    /// Admits a tunnel of this host, or says after how many seconds to retry. `now` is measured from any fixed moment.
    pub fn admit(&mut self, host: HostId, now: Duration) -> Result<(), Full> {
        if let Err(wait) = self.shares.take(host, now) {
            return Err(Full::Share(seconds(wait)));
        }
        let Err(wait) = self.bucket.take(now) else {
            return Ok(());
        };
        let first = now + wait;
        self.promised = (self.promised.max(first) + self.every).min(now + RETRY_MAX);
        Err(Full::All(seconds(self.promised - now)))
    }
}

/// The header holds whole seconds; never zero, which would mean at once.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use proptest::prelude::*;

    use super::*;

    const CAP: f64 = 60.0;

    fn id(host: usize) -> HostId {
        HostId(uuid::Uuid::from_u128(host as u128))
    }

    /// Hosts arrive at random within `arrival` seconds and honour Retry-After as nodes do: the wait, plus a jitter
    /// whose bound doubles. Returns when the last was admitted and how many requests that took.
    fn fleet(hosts: usize, arrival: f64, rate: u32, seed: u64) -> (f64, usize) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut budget = Budget::new(rate);
        let micros = |s: f64| (s * 1e6) as u64;
        let mut due: BinaryHeap<Reverse<(u64, i32, usize)>> = (0..hosts)
            .map(|host| Reverse((micros(random.f64() * arrival), 0, host)))
            .collect();
        let (mut last, mut asked) = (0, 0);
        while let Some(Reverse((now, tries, host))) = due.pop() {
            asked += 1;
            match budget.admit(id(host), Duration::from_micros(now)) {
                Ok(()) => last = now,
                Err(Full::All(after) | Full::Share(after)) => {
                    let bound = f64::from(2u32.saturating_pow(tries.min(6) as u32)).min(CAP);
                    let wait = after as f64 + random.f64() * bound;
                    due.push(Reverse((now + micros(wait), tries + 1, host)));
                }
            }
        }
        (last as f64 / 1e6, asked)
    }

    #[test]
    fn ten_thousand_hosts_that_come_at_once_are_in_within_forty_seconds() {
        for (seed, arrival, most) in [
            (1, 0.001, 40.0),
            (2, 1.0, 40.0),
            (3, 10.0, 40.0),
            (4, 20.0, 120.0),
        ] {
            let (last, asked) = fleet(10_000, arrival, TUNNELS_PER_S, seed);
            assert!(last < most, "the last one after {last} s");
            assert!(asked < 30_000, "{asked} requests");
        }
    }

    #[test]
    fn a_small_fleet_never_waits() {
        let (last, asked) = fleet(250, 0.001, TUNNELS_PER_S, 1);
        assert!(last < 0.01 && asked == 250);
    }

    #[test]
    fn one_host_that_keeps_connecting_locks_no_other_out() {
        let mut budget = Budget::new(TUNNELS_PER_S);
        let (thief, mut let_in) = (id(0), 0);
        // A thousand times a second, for a minute; every tenth of a second another host reconnects.
        for ms in 0..60_000 {
            let now = Duration::from_millis(ms);
            let_in += u32::from(budget.admit(thief, now).is_ok());
            if ms % 100 == 0 {
                assert_eq!(
                    budget.admit(id(ms as usize + 1), now),
                    Ok(()),
                    "after {ms} ms"
                );
            }
        }
        assert!(let_in <= SHARE_BURST + 60, "{let_in}");
        let told = budget.admit(thief, Duration::from_secs(60));
        assert!(matches!(told, Err(Full::Share(1..=2)) | Ok(())), "{told:?}");
    }

    proptest! {
        /// For any arrivals: Retry-After is never zero and never beyond the bound, and places follow each other.
        #[test]
        fn retry_after_is_bounded(rate in 1u32..1000, steps in prop::collection::vec(0u64..20_000, 1..2000)) {
            let mut budget = Budget::new(rate);
            let mut now = Duration::from_secs(5);
            let mut promised = Duration::ZERO;
            for (host, step) in steps.into_iter().enumerate() {
                now += Duration::from_micros(step);
                if let Err(Full::All(after)) = budget.admit(id(host), now) {
                    prop_assert!((1..=RETRY_MAX.as_secs()).contains(&after), "{after}");
                    let place = now + Duration::from_secs(after);
                    let slack = Duration::from_secs(1);
                    prop_assert!(place + slack >= promised, "a later one goes before");
                    promised = place;
                }
            }
        }
    }
}
