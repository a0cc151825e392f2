//! How much a peer may send.
//!
//! Every stream begins with [`INITIAL_WINDOW`](super::limits::INITIAL_WINDOW), which is guaranteed to all
//! `STREAMS_MAX` of them. What the connection's cap leaves over is a [`Pool`]: a stream whose
//! reader keeps up doubles its window while half of it is used in less than two round trips, so a
//! window grows to the bandwidth-delay product and no further. When the pool runs dry, streams
//! that do not need their window give half of it back, down to the guaranteed floor.
//!
//! The sum of all grants never exceeds the cap: memory is bounded by construction, and no stream
//! ever waits for another one's reader.

use std::time::Duration;

use super::Time;

/// What is left to grow windows with.
#[derive(Debug)]
pub(super) struct Pool {
    free: u64,
    size: u64,
}

/// One direction of one stream, seen from its receiver.
#[derive(Debug)]
pub(super) struct Receiving {
    /// Bytes that arrived.
    received: u64,
    /// Bytes the application took.
    consumed: u64,
    /// Bytes the peer may have sent in all.
    granted: u64,
    /// Current window.
    window: u64,
    /// Its floor.
    floor: u64,
    /// What this stream holds of the pool.
    held: u64,
    /// When credit was last given.
    granted_at: Time,
}

/// A window is "fast" when half of it was used within this many round trips.
const FAST_ROUND_TRIPS: u32 = 2;
/// A window is "slow" (may be shrunk) when half of it lasted this many round trips.
const SLOW_ROUND_TRIPS: u32 = 16;
/// Below this part of the pool there is pressure.
const PRESSURE: u64 = 8;
/// A round trip is taken to be at least this long: on loopback measured times are noise.
const ROUND_TRIP_MIN: Duration = Duration::from_micros(500);

// === impl Pool ===

impl Pool {
    pub(super) fn new(size: u64) -> Self {
        Self { free: size, size }
    }

    fn take(&mut self, want: u64) -> bool {
        if want > self.free {
            return false;
        }
        self.free -= want;
        true
    }

    fn give(&mut self, back: u64) {
        self.free = (self.free + back).min(self.size);
    }

    fn under_pressure(&self) -> bool {
        self.free < self.size / PRESSURE
    }
}

// === impl Receiving ===

impl Receiving {
    pub(super) fn new(floor: u32, now: Time) -> Self {
        let floor = u64::from(floor);
        Self {
            received: 0,
            consumed: 0,
            granted: floor,
            window: floor,
            floor,
            held: 0,
            granted_at: now,
        }
    }

    /// Bytes that arrived so far, and the window of now.
    pub(super) fn numbers(&self) -> (u64, u64) {
        (self.received, self.window)
    }

    /// Takes in `n` bytes; false when the peer had no credit for them.
    pub(super) fn received(&mut self, n: u64) -> bool {
        self.received += n;
        self.received <= self.granted
    }

    /// The application took `n` bytes. Returns new credit worth telling the peer.
    pub(super) fn consumed(
        &mut self,
        n: u64,
        now: Time,
        round_trip: Duration,
        pool: &mut Pool,
    ) -> Option<u64> {
        self.consumed = (self.consumed + n).min(self.received);
        let outstanding = self.granted - self.consumed;
        if outstanding > self.window / 2 {
            return None;
        }
        self.resize(now, round_trip, pool);
        let upto = self.consumed + self.window;
        if upto <= self.granted {
            return None;
        }
        self.granted = upto;
        self.granted_at = now;
        Some(upto)
    }

    fn resize(&mut self, now: Time, round_trip: Duration, pool: &mut Pool) {
        let round_trip = round_trip.max(ROUND_TRIP_MIN);
        let took = now.since(self.granted_at);
        if took < round_trip * FAST_ROUND_TRIPS {
            let more = self.window;
            if pool.take(more) {
                self.window += more;
                self.held += more;
            }
        } else if pool.under_pressure() && took > round_trip * SLOW_ROUND_TRIPS {
            let less = (self.window / 2).max(self.floor);
            let back = self.window - less;
            // What was granted before stays granted; it has been used up to half the old window,
            // so the peer's credit is never above the new one.
            self.window = less;
            self.held -= back.min(self.held);
            pool.give(back);
        }
    }

    /// The stream is over: its part of the pool goes back.
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
    use proptest::prelude::*;

    use super::*;

    const RTT: Duration = Duration::from_millis(10);

    #[test]
    fn grows_while_the_reader_keeps_up_and_stops_at_the_product() {
        let mut pool = Pool::new(1 << 30);
        let mut w = Receiving::new(1000, Time(0));
        // The path carries 100 000 bytes a round trip.
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

    #[test]
    fn pressure_takes_back_from_the_slow() {
        let mut pool = Pool::new(64_000);
        let mut w = Receiving::new(1000, Time(0));
        for _ in 0..6 {
            let n = w.granted - w.consumed;
            assert!(w.received(n));
            w.consumed(n, Time(1), RTT, &mut pool);
        }
        assert_eq!(w.window, 64_000);
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
    fn more_than_granted_is_seen() {
        let mut w = Receiving::new(10, Time(0));
        assert!(w.received(10));
        assert!(!w.received(1));
    }

    proptest! {
        /// Whatever is read when: the sum of all bounds stays below floor × streams + pool.
        #[test]
        fn the_cap_holds(steps in prop::collection::vec((0usize..4, 0u64..5000, 0u64..40_000), 1..400)) {
            let mut pool = Pool::new(20_000);
            let mut streams: Vec<_> = (0..4).map(|_| Receiving::new(1000, Time(0))).collect();
            let mut now = Time(0);
            for (i, n, wait) in steps {
                now = Time(now.0 + wait);
                let w = &mut streams[i];
                let n = n.min(w.granted - w.received);
                prop_assert!(w.received(n));
                w.consumed(n, now, RTT, &mut pool);
                let sum: u64 = streams.iter().map(Receiving::bound).sum();
                prop_assert!(sum <= 4 * 1000 + 20_000, "{}", sum);
            }
            for w in &mut streams { w.release(&mut pool); }
            prop_assert_eq!(pool.free, pool.size);
        }
    }
}
