//! How much a peer may send.
//!
//! Every stream begins with [`INITIAL_WINDOW`](super::limits::INITIAL_WINDOW), which is guaranteed to all `STREAMS_MAX`
//! of them. The rest of the connection's cap is a [`Pool`]: a stream whose reader keeps up doubles its window while
//! half of it is used in less than two round trips, so a window grows to the bandwidth-delay product and no further. A
//! stream may hold [`SHARE`] times what is free: one stream alone gets most of the pool, and a later one finds
//! something left, grows, and the others give back until all have the same. When the pool runs low, streams that do not
//! need their window return half of it, down to the initial one. A peer returns credit it has no use for
//! ([`Receiving::returned`]).
//!
//! A stream's holding covers its window *and* all credit the peer has not used, so the sum of all grants never exceeds
//! the cap: memory is bounded by construction, and no stream ever waits for another one's reader. The initial windows
//! of streams that *this* side opens come out of the pool too: only the peer's are guaranteed.

use std::time::Duration;

use super::Time;
use super::limits::LEAVING_WINDOW;

/// The rest of the cap, for growing windows.
#[derive(Debug)]
pub(super) struct Pool {
    free: u64,
    size: u64,
    /// The session drains: nothing grows beyond [`LEAVING_WINDOW`] any more.
    leaving: bool,
}

/// One direction of one stream, seen from its receiver.
#[derive(Debug)]
pub(super) struct Receiving {
    /// Bytes that arrived.
    received: u64,
    /// Bytes the application consumed.
    consumed: u64,
    /// Bytes the peer may send in total.
    granted: u64,
    /// Current window.
    window: u64,
    /// The initial window, below which it never goes.
    floor: u64,
    /// The part of it that is guaranteed outside the pool.
    guaranteed: u64,
    /// The part this stream holds of the pool.
    held: u64,
    /// `consumed` when the window was last judged, and the time.
    judged: (u64, Time),
}

/// A window is "fast" when half of it was used within this many round trips.
const FAST_ROUND_TRIPS: u32 = 2;
/// A window is "slow" (may be shrunk) when half of it lasted this many round trips.
const SLOW_ROUND_TRIPS: u32 = 16;
/// Below this fraction of the pool there is pressure.
const PRESSURE: u64 = 2;
/// How many times the free amount one stream may hold: one has 4/5 of the pool, `n` busy ones have 4/(4n+1) of it each.
/// More would give one stream more on a very long path, and leave less to later ones while readers stall: what those
/// hold comes back only when they read. (2, which was 2/3 for one, left it behind a separate TCP connection at 40 ms.)
const SHARE: u64 = 4;
/// A round trip counts as at least this long: on loopback measured times are noise.
const ROUND_TRIP_MIN: Duration = Duration::from_micros(500);
/// New credit is sent when it is this fraction of the window: the rest is what a stream carries in a round trip.
/// Halves, as in HTTP/2, would leave half of a capped window unused.
const CREDIT_PART: u64 = 16;
/// Less credit than this waits, unless it is half the window: a frame, a record and a wake-up at the other side per 128
/// KiB are negligible, per 4 KiB they would not be.
const CREDIT_WORTH: u64 = 128 * 1024;

// === impl Pool ===

impl Pool {
    pub(super) fn new(size: u64) -> Self {
        Self {
            free: size,
            size,
            leaving: false,
        }
    }

    /// Never more than is free: a window is at most its floor and its [`Pool::share`].
    fn take(&mut self, n: u64) {
        debug_assert!(n <= self.free, "{n} of {}", self.free);
        self.free = self.free.saturating_sub(n);
    }

    fn give(&mut self, back: u64) {
        self.free = (self.free + back).min(self.size);
    }

    /// From here on windows grow only a little.
    pub(super) fn leaves(&mut self) {
        self.leaving = true;
    }

    /// Most that `streams` can hold of it from here on, once it drains.
    pub(super) fn bound(&self, streams: u64) -> u64 {
        let grows = streams.saturating_mul(LEAVING_WINDOW);
        (self.size - self.free).saturating_add(grows).min(self.size)
    }

    /// Nobody holds any of it.
    pub(super) fn is_whole(&self) -> bool {
        self.free == self.size
    }

    fn under_pressure(&self) -> bool {
        self.free < self.size / PRESSURE
    }

    /// What a stream that holds `held` may hold in total, given what the others hold.
    fn share(&self, held: u64) -> u64 {
        let share = (self.free + held).saturating_mul(SHARE) / (SHARE + 1);
        match self.leaving {
            true => share.min(held.max(LEAVING_WINDOW)),
            false => share,
        }
    }
}

// === impl Receiving ===

impl Receiving {
    /// For a stream the peer opened: its initial window is guaranteed.
    pub(super) fn of_peer(floor: u32, now: Time) -> Self {
        let floor = u64::from(floor);
        Self {
            received: 0,
            consumed: 0,
            granted: floor,
            window: floor,
            floor,
            guaranteed: floor,
            held: 0,
            judged: (0, now),
        }
    }

    /// For a stream this side opens: its initial window comes out of the pool, if there is enough.
    pub(super) fn own(floor: u32, now: Time, pool: &mut Pool) -> Option<Self> {
        let held = u64::from(floor);
        if held > pool.free {
            return None;
        }
        pool.take(held);
        Some(Self {
            guaranteed: 0,
            held,
            ..Self::of_peer(floor, now)
        })
    }

    /// Bytes that arrived so far, and the present window.
    pub(super) fn numbers(&self) -> (u64, u64) {
        (self.received, self.window)
    }

    /// Takes in `n` bytes; false when the peer had no credit for them.
    pub(super) fn received(&mut self, n: u64) -> bool {
        self.received += n;
        self.received <= self.granted
    }

    /// The application consumed `n` bytes. Returns new credit worth sending to the peer.
    pub(super) fn consumed(
        &mut self,
        n: u64,
        now: Time,
        round_trip: Duration,
        pool: &mut Pool,
    ) -> Option<u64> {
        self.consumed = (self.consumed + n).min(self.received);
        let (before, at) = self.judged;
        if self.consumed - before >= self.window / 2 {
            self.resize(now.since(at), round_trip, pool);
            self.judged = (self.consumed, now);
        }
        self.settle(pool);
        let upto = self.consumed + self.window;
        let step = (self.window / CREDIT_PART)
            .max(CREDIT_WORTH)
            .min(self.window / 2);
        if upto < self.granted + step {
            return None;
        }
        self.granted = upto;
        Some(upto)
    }

    /// Half the window was used, and it took this long.
    fn resize(&mut self, took: Duration, round_trip: Duration, pool: &Pool) {
        let round_trip = round_trip.max(ROUND_TRIP_MIN);
        let share = (self.guaranteed + pool.share(self.held)).max(self.floor);
        if took < round_trip * FAST_ROUND_TRIPS {
            self.window = (self.window * 2).min(share);
        } else if pool.under_pressure() && took > round_trip * SLOW_ROUND_TRIPS {
            self.window = (self.window / 2).min(share).max(self.floor);
        }
    }

    /// The peer has no use for the credit beyond `keeps`. It knew of `had` when it sent that: if more was granted
    /// meanwhile, that is on its way and counts. False when it returns what it used or never had, or keeps less than
    /// any stream begins with: it would wait for ever.
    pub(super) fn returned(&mut self, had: u64, keeps: u64, pool: &mut Pool) -> bool {
        if keeps < self.received + self.floor || keeps > had || had > self.granted {
            return false;
        }
        if had == self.granted {
            self.granted = keeps;
            self.window = (keeps - self.consumed).max(self.floor).min(self.window);
            self.settle(pool);
        }
        true
    }

    /// Holds exactly what the window and the outstanding credit need. A window that shrank releases as the peer uses up
    /// its credit, not before.
    fn settle(&mut self, pool: &mut Pool) {
        let out = self.granted.saturating_sub(self.consumed);
        let needed = self.window.max(out).saturating_sub(self.guaranteed);
        if needed > self.held {
            pool.take(needed - self.held);
        } else {
            pool.give(self.held - needed);
        }
        self.held = needed;
    }

    /// The stream is over: returns its part of the pool.
    pub(super) fn release(&mut self, pool: &mut Pool) {
        pool.give(std::mem::take(&mut self.held));
    }

    /// Most bytes this stream can make its receiver hold.
    #[cfg(test)]
    pub(super) fn bound(&self) -> u64 {
        self.granted - self.consumed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const RTT: Duration = Duration::from_millis(10);

    #[test]
    fn grows_while_the_reader_keeps_up_and_stops_at_the_product() {
        let mut pool = Pool::new(1 << 30);
        let mut w = Receiving::of_peer(1000, Time(0));
        // The path carries 100 000 bytes per round trip.
        let (mut now, mut sent) = (Time(0), 0u64);
        for _ in 0..200 {
            let burst = (w.granted - sent).min(100_000);
            assert!(w.received(burst));
            sent += burst;
            now = now.plus(RTT);
            w.consumed(burst, now, RTT, &mut pool);
        }
        assert!((200_000..=800_000).contains(&w.window), "{}", w.window);
    }

    /// Streams whose senders always have data, each on a path of its own.
    struct Path {
        pool: Pool,
        streams: Vec<Carried>,
        now: Time,
    }

    struct Carried {
        window: Receiving,
        /// Arrival times and amounts.
        under_way: VecDeque<(Time, u64)>,
        sent: u64,
    }

    impl Path {
        /// Per round trip.
        const STEPS: u32 = 100;
        /// Bytes a path carries per step: a little more than any window allows.
        const WIDTH: u64 = (32 << 20) / 100;

        fn new(pool: u64) -> Self {
            Self {
                pool: Pool::new(pool),
                streams: Vec::new(),
                now: Time(0),
            }
        }

        fn join(&mut self) {
            self.streams.push(Carried {
                window: Receiving::of_peer(32 * 1024, self.now),
                under_way: VecDeque::new(),
                sent: 0,
            });
        }

        /// Bytes each stream carried in this many round trips.
        fn run(&mut self, round_trips: u32) -> Vec<u64> {
            let consumed = |s: &Carried| s.window.consumed;
            let before: Vec<_> = self.streams.iter().map(consumed).collect();
            for _ in 0..round_trips * Self::STEPS {
                self.now = self.now.plus(RTT / Self::STEPS);
                for s in &mut self.streams {
                    let burst = (s.window.granted - s.sent).min(Self::WIDTH);
                    s.under_way.push_back((self.now.plus(RTT), burst));
                    s.sent += burst;
                    while let Some((_, n)) = s.under_way.pop_front_if(|(at, _)| *at <= self.now) {
                        assert!(s.window.received(n));
                        s.window.consumed(n, self.now, RTT, &mut self.pool);
                    }
                }
            }
            let after = self.streams.iter().map(consumed);
            after.zip(before).map(|(a, b)| a - b).collect()
        }
    }

    #[test]
    fn a_stream_alone_carries_most_of_the_pool_in_a_round_trip() {
        let pool = 32 << 20;
        let mut path = Path::new(pool);
        path.join();
        path.run(50);
        let carried = path.run(10)[0] / 10;
        assert!(carried > pool * 4 / 7, "{carried} of {pool}");
    }

    #[test]
    fn who_comes_later_gets_as_much_as_who_was_first() {
        let mut path = Path::new(32 << 20);
        path.join();
        path.run(50);
        for _ in 0..3 {
            path.join();
        }
        path.run(100);
        let carried = path.run(10);
        let (least, most) = (carried.iter().min(), carried.iter().max());
        let (Some(least), Some(most)) = (least, most) else {
            panic!("no streams");
        };
        assert!(most - least < most / 4, "{carried:?}");
    }

    #[test]
    fn pressure_takes_back_from_the_slow() {
        let mut pool = Pool::new(64_000);
        let mut w = Receiving::of_peer(1000, Time(0));
        for _ in 0..20 {
            let n = w.granted - w.consumed;
            assert!(w.received(n));
            w.consumed(n, Time(1), RTT, &mut pool);
        }
        assert!(w.window > 43_000, "{}", w.window);
        assert!(pool.under_pressure());
        let mut now = Time(1);
        for _ in 0..10 {
            now = now.plus(Duration::from_secs(1));
            let n = w.granted - w.received;
            assert!(w.received(n));
            w.consumed(n, now, RTT, &mut pool);
        }
        assert!(w.window <= 32_000, "{}", w.window);
        assert!(!pool.under_pressure());
    }

    #[test]
    fn returned_credit_is_the_pools_again() {
        let mut path = Path::new(32 << 20);
        path.join();
        path.run(50);
        let w = &mut path.streams[0].window;
        // Everything in flight arrives, and nothing more is sent.
        assert!(w.received(w.granted - w.received - 1_000_000));
        w.consumed(
            u64::MAX / 2,
            path.now,
            Duration::from_secs(60),
            &mut path.pool,
        );
        let mut known = w.granted;
        for _ in 0..20 {
            let keeps = w.received + ((known - w.received) / 2).max(w.floor);
            assert!(w.returned(known, keeps, &mut path.pool));
            known = keeps;
        }
        assert_eq!((w.window, w.held), (w.floor, 0));
        assert_eq!(path.pool.free, path.pool.size);
    }

    #[test]
    fn a_return_that_crossed_new_credit_changes_nothing() {
        let mut pool = Pool::new(100_000);
        let mut w = Receiving::of_peer(1000, Time(0));
        assert!(w.received(500));
        let known = w.granted;
        let upto = w.consumed(500, Time(1), RTT, &mut pool);
        assert!(upto.is_some_and(|upto| upto > known + 500));
        let before = (w.granted, w.window, w.held);
        // It kept the initial window, of what it knew of.
        assert!(
            !w.returned(known, 1000, &mut pool),
            "less than it must keep"
        );
        assert!(w.returned(known + 500, 1500, &mut pool));
        assert_eq!((w.granted, w.window, w.held), before);
        assert!(!w.returned(w.granted + 1, 1500, &mut pool), "never granted");
        assert!(
            !w.returned(w.granted, w.granted + 1, &mut pool),
            "more than it had"
        );
    }

    #[test]
    fn own_streams_are_paid_by_the_pool() {
        let mut pool = Pool::new(2500);
        let mut streams: Vec<_> = (0..2)
            .map(|_| Receiving::own(1000, Time(0), &mut pool).expect("there is room"))
            .collect();
        assert!(Receiving::own(1000, Time(0), &mut pool).is_none());
        streams[0].release(&mut pool);
        assert!(Receiving::own(1000, Time(0), &mut pool).is_some());
    }

    #[test]
    fn more_than_granted_is_seen() {
        let mut w = Receiving::of_peer(10, Time(0));
        assert!(w.received(10));
        assert!(!w.received(1));
    }

    proptest! {
        /// For any order of reads: what the peer may send is covered by the floor or the pool, and when all was read it
        /// may send something.
        #[test]
        fn the_cap_holds(steps in prop::collection::vec((0usize..4, 0u64..6000, 0u64..40_000), 1..400)) {
            let mut pool = Pool::new(20_000);
            let mut streams: Vec<_> = (0..2).map(|_| Receiving::of_peer(1000, Time(0))).collect();
            streams.extend((0..2).filter_map(|_| Receiving::own(1000, Time(0), &mut pool)));
            let mut now = Time(0);
            for (i, n, wait) in steps {
                now = Time(now.0 + wait);
                let w = &mut streams[i];
                let left = w.granted - w.received;
                if n > 5000 && left > w.floor {
                    let keeps = w.received + (left / 2).max(w.floor);
                    prop_assert!(w.returned(w.granted, keeps, &mut pool));
                } else {
                    let n = n.min(left);
                    prop_assert!(w.received(n));
                    w.consumed(n, now, RTT, &mut pool);
                }
                prop_assert!(w.bound() <= w.guaranteed + w.held);
                prop_assert!(w.bound() > 0, "the peer waits for credit for ever");
                let held: u64 = streams.iter().map(|w| w.held).sum();
                prop_assert_eq!(held + pool.free, pool.size);
            }
            for w in &mut streams { w.release(&mut pool); }
            prop_assert_eq!(pool.free, pool.size);
        }
    }
}
