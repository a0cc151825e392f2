//! How many bulk bytes may be in flight, so that a keystroke need not wait behind them.
//!
//! A sent frame cannot be overtaken: it is in the kernel's buffers of both ends and of everything between them, and
//! whatever is sent next arrives after it. Credit does not bound that (windows grow to what the path carries, and a
//! receiver short of CPU time lets megabytes pile up in its socket). So while somebody types, bulk streams stop at a
//! limit on bytes that are sent and not known to have arrived. Pings tell what arrived: each has a position in the byte
//! stream, and its pong proves that everything before it was read.
//!
//! ```text
//!  sent ──────────┬─────── ping ──────┬───── ping ────► in flight ≤ limit
//!              answered            answered
//! ```
//!
//! The limit follows the delay those pings see beyond the unloaded round trip. The median of each round counts: a queue
//! delays all of them, a lost packet some. Above [`TARGET`] (or a fraction of the path's own length) the limit shrinks
//! in proportion (bytes in flight = rate × round trip); below half of it and in use it grows, at first twofold, after
//! delay was seen by what adds a little delay, then by more from round to round. While nobody types there is no limit,
//! and TCP alone decides. Interactive frames always pass.

use std::collections::VecDeque;
use std::time::Duration;

use super::Time;
use super::limits::DATA_MAX;

/// Bulk bytes in flight, and their limit.
#[derive(Debug)]
pub(super) struct InFlight {
    /// Payload bytes of all streams sent so far.
    sent: u64,
    /// Those of them that the peer is known to have read.
    arrived: u64,
    /// Pings that wait for their answer, with the bytes sent before each.
    marks: VecDeque<Mark>,
    base: Base,
    /// Somebody types (or did a moment ago).
    until: Option<Time>,
    limit: u64,
    /// A bulk stream had to wait since the round began.
    in_use: bool,
    round: Round,
    /// Consecutive rounds of growth.
    streak: u32,
    /// When the last trial began.
    tried: Time,
    trial: Trial,
}

/// A round with another limit, to learn its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trial {
    No,
    /// Half the limit: a constant delay must not be mistaken for the path's own.
    Less {
        /// The limit to return to.
        limit: u64,
    },
    /// Twice the smallest limit: if that takes no longer, the delay is not ours.
    More {
        /// Round trip at the smallest limit.
        took: Duration,
    },
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    token: u64,
    sent: u64,
    at: Time,
}

/// From one correction of the limit to the next: one round trip, and enough answers.
#[derive(Debug, Default)]
struct Round {
    ends_at: u64,
    /// No memory until somebody types: most sessions of a fleet never carry a keystroke.
    times: Vec<Duration>,
}

/// The round trip without our bytes: the shortest of the last one to two windows, or the time it takes even at the
/// smallest limit.
#[derive(Debug)]
struct Base {
    shortest: Duration,
    before: Duration,
    began: Time,
    unavoidable: Duration,
}

/// How long after its last byte an interactive stream counts as in use: longer than a person thinks, shorter than a
/// quiet watch.
const TYPING: Duration = Duration::from_secs(60);
/// Delay that bulk bytes may add to a round trip: imperceptible.
const TARGET: Duration = Duration::from_micros(400);
/// On a longer path they may add this fraction of the round trip: single frames take longer there, and the path's own
/// delay varies by as much.
const TARGET_PART: u32 = 4;
/// The first round of growth may add this fraction of the target; each further one in a row twice as much.
const STEP_PART: u32 = 4;
/// Growth begins as if this many rounds had gone well: twofold on any path.
const STREAK_FIRST: u32 = 12;
/// The limit never shrinks below this: on a path whose delay has other causes bulk must continue. It is what TCP has in
/// flight on a path that loses one packet in a hundred (half a dozen packets): more would wait in the sender's kernel,
/// where 64 KiB were six round trips.
const LIMIT_MIN: u64 = 8 * 1024;
/// Initial limit when somebody starts to type; a long fat path is full again after ten round trips.
const LIMIT_FIRST: u64 = 64 * 1024;
/// This many frames are in flight at the limit: one ahead of a keystroke is short.
const FRAMES_PER_LIMIT: usize = 8;
/// Upper bound: the largest window of the protocol.
const LIMIT_MAX: u64 = 1 << 30;
/// Answers that make a round.
const ANSWERS: usize = 4;
/// Answers of a round that count; a long one is known well enough by its first ones.
const ROUND_MAX: usize = 64;
/// Least number of pings per limit's worth of bytes.
const MARKS_MIN: u64 = 8;
/// Distance of pings on a fast path: closer ones would cost more than they tell.
const MARK_EVERY: u64 = 256 * 1024;
/// Pings per limit on a long path: what an answer releases leaves in one burst.
const MARKS_PER_LIMIT: u64 = 32;
/// Most pings waiting for an answer. A forgotten one only makes a measurement coarser.
const MARKS_MAX: usize = 64;
/// A round trip is forgotten after one to two of these: routes change.
const FORGET: Duration = Duration::from_secs(30);
/// Time between two trials.
const TRIAL_EVERY: Duration = Duration::from_secs(10);
/// The same at the smallest limit: a route that became longer looks like delay, and bulk should not crawl for long
/// because of that.
const TRIAL_AT_LEAST: Duration = Duration::from_secs(1);

// === impl InFlight ===

impl InFlight {
    pub(super) fn new(now: Time) -> Self {
        Self {
            sent: 0,
            arrived: 0,
            marks: VecDeque::new(),
            base: Base::new(now),
            until: None,
            limit: LIMIT_FIRST,
            in_use: false,
            round: Round::default(),
            streak: STREAK_FIRST,
            tried: now,
            trial: Trial::No,
        }
    }

    /// Bytes of an interactive stream passed, in either direction.
    pub(super) fn typed(&mut self, now: Time) {
        if self.until.is_none() {
            // What is in flight already shows in the first answers.
            self.arrived = self.sent;
            self.limit = LIMIT_FIRST;
            self.round.begin(self.sent);
            self.streak = STREAK_FIRST;
            self.tried = now;
            self.trial = Trial::No;
        }
        self.until = Some(now.plus(TYPING));
    }

    /// Whether a bulk stream may send now.
    pub(super) fn has_room(&mut self, now: Time) -> bool {
        let Some(until) = self.until else {
            return true;
        };
        if now >= until {
            self.until = None;
            return true;
        }
        let room = self.sent - self.arrived < self.limit;
        self.in_use |= !room;
        room
    }

    /// Somebody types, or did a moment ago.
    pub(super) fn is_limited(&self) -> bool {
        self.until.is_some()
    }

    /// Longest payload of a bulk stream's frame now.
    pub(super) fn frame_max(&self) -> usize {
        if self.until.is_none() {
            return DATA_MAX;
        }
        usize::try_from(self.limit).map_or(DATA_MAX, |n| (n / FRAMES_PER_LIMIT).min(DATA_MAX))
    }

    /// Payload bytes of a frame are sent.
    pub(super) fn sent(&mut self, n: usize) {
        self.sent += n as u64;
    }

    /// Whether a ping should be sent now to mark a position.
    pub(super) fn wants_mark(&self) -> bool {
        if self.until.is_none() {
            return false;
        }
        let marked = self.marks.back().map_or(self.arrived, |m| m.sent);
        let often = (self.limit / MARKS_MIN).min(MARK_EVERY);
        let every = often.max(self.limit / MARKS_PER_LIMIT);
        let unmarked = self.sent.saturating_sub(marked);
        unmarked >= every && self.marks.len() < MARKS_MAX
    }

    /// A ping is sent.
    pub(super) fn mark(&mut self, token: u64, now: Time) {
        if self.marks.len() == MARKS_MAX {
            self.marks.pop_front();
        }
        self.marks.push_back(Mark {
            token,
            sent: self.sent,
            at: now,
        });
    }

    /// A pong arrived. Returns the round trip it measured, if it was expected.
    pub(super) fn answered(&mut self, token: u64, now: Time) -> Option<Duration> {
        let at = self.marks.iter().position(|m| m.token == token)?;
        // Only the newest ping is answered: the answer covers those before it.
        let mark = self.marks.drain(..=at).next_back()?;
        let sample = now.since(mark.at);
        self.base.saw(sample, now);
        self.arrived = self.arrived.max(mark.sent);
        if self.until.is_some() {
            self.round.add(sample);
            if mark.sent >= self.round.ends_at && self.round.times.len() >= ANSWERS {
                self.correct(now);
            }
        }
        Some(sample)
    }

    fn correct(&mut self, now: Time) {
        let took = self.round.median();
        let trial = std::mem::replace(&mut self.trial, Trial::No);
        if let Trial::More { took: before } = trial
            && took < before * 5 / 4
        {
            self.base.unavoidable = took.min(before);
        }
        let base = self.base.get();
        let delay = took.saturating_sub(base);
        let target = TARGET.max(base / TARGET_PART);
        let least = self.limit == LIMIT_MIN && delay > target;
        let every = if least { TRIAL_AT_LEAST } else { TRIAL_EVERY };
        let due = now.since(self.tried) >= every;
        if due {
            self.tried = now;
        }
        let limit = if let Trial::Less { limit } = trial {
            limit
        } else if due && least {
            self.trial = Trial::More { took };
            LIMIT_MIN * 2
        } else if due {
            self.trial = Trial::Less { limit: self.limit };
            self.limit / 2
        } else if delay > target {
            self.streak = 0;
            let wanted = (base + target).as_secs_f64() / (base + delay).as_secs_f64();
            // One round is no proof: at most half at a time.
            (self.limit as f64 * wanted.max(0.5)) as u64
        } else if self.in_use && delay < target / 2 {
            let step = target / STEP_PART * (1 << self.streak.min(STREAK_FIRST));
            self.streak = self.streak.saturating_add(1);
            let more = step.as_secs_f64() / (base + delay).as_secs_f64().max(1e-6);
            (self.limit as f64 * (1.0 + more.min(1.0))) as u64
        } else {
            self.limit
        };
        self.limit = limit.clamp(LIMIT_MIN, LIMIT_MAX);
        self.in_use = false;
        self.round.begin(self.sent);
    }
}

impl Round {
    /// The first mark after this position ends it.
    fn begin(&mut self, sent: u64) {
        self.ends_at = sent + 1;
        self.times.clear();
    }

    fn add(&mut self, took: Duration) {
        if self.times.len() < ROUND_MAX {
            self.times.reserve_exact(ROUND_MAX - self.times.len());
            self.times.push(took);
        }
    }

    fn median(&mut self) -> Duration {
        let middle = self.times.len() / 2;
        if self.times.is_empty() {
            return Duration::ZERO;
        }
        *self.times.select_nth_unstable(middle).1
    }
}

// === impl Base ===

impl Base {
    fn new(now: Time) -> Self {
        Self {
            shortest: Duration::MAX,
            before: Duration::MAX,
            began: now,
            unavoidable: Duration::ZERO,
        }
    }

    fn saw(&mut self, sample: Duration, now: Time) {
        if now.since(self.began) >= FORGET {
            self.before = std::mem::replace(&mut self.shortest, Duration::MAX);
            self.unavoidable = Duration::ZERO;
            self.began = now;
        }
        self.shortest = self.shortest.min(sample);
    }

    fn get(&self) -> Duration {
        self.shortest.min(self.before).max(self.unavoidable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path with `rate` bytes per second and a round trip of `base`; bulk sends whatever it may.
    struct Path {
        control: InFlight,
        rate: f64,
        base: Duration,
        now: Time,
        /// When everything sent so far has left the bottleneck.
        free_at: f64,
        /// Nothing arrives before: a lost packet arrives a round trip later, and everything behind it.
        held_until: f64,
        /// Fraction of frames that are lost.
        loss: f64,
        pongs: VecDeque<(Time, u64)>,
        token: u64,
        delivered: u64,
        /// Round trips are longer by up to this, at random.
        wavers: Duration,
        random: fastrand::Rng,
    }

    impl Path {
        fn new(rate: f64, base: Duration) -> Self {
            Self {
                control: InFlight::new(Time(0)),
                rate,
                base,
                now: Time(0),
                free_at: 0.0,
                held_until: 0.0,
                loss: 0.0,
                pongs: VecDeque::new(),
                token: 0,
                delivered: 0,
                wavers: Duration::ZERO,
                random: fastrand::Rng::with_seed(7),
            }
        }

        fn seconds(&self) -> f64 {
            self.now.0 as f64 / 1e6
        }

        fn ping(&mut self) {
            self.token += 1;
            self.control.mark(self.token, self.now);
            let wavering = self.wavers.mul_f64(self.random.f64());
            let there = self.free_at.max(self.seconds()).max(self.held_until);
            let back = there + (self.base + wavering).as_secs_f64();
            // One connection: no pong overtakes another.
            let at = Time((back * 1e6) as u64).max(self.pongs.back().map_or(Time(0), |p| p.0));
            self.pongs.push_back((at, self.token));
        }

        /// Runs for a while; returns the worst wait of a keystroke in its second half.
        fn run(&mut self, length: Duration) -> Duration {
            let (began, end) = (self.now, self.now.plus(length));
            let mut worst = 0.0f64;
            self.ping();
            while self.now < end {
                self.control.typed(self.now);
                while let Some((_, token)) = self.pongs.pop_front_if(|(at, _)| *at <= self.now) {
                    self.control.answered(token, self.now);
                }
                // The sender has a socket's worth of data each time it is asked.
                for _ in 0..256 {
                    if !self.control.has_room(self.now) {
                        break;
                    }
                    let frame = self.control.frame_max();
                    self.control.sent(frame);
                    self.delivered += frame as u64;
                    self.free_at = self.free_at.max(self.seconds()) + frame as f64 / self.rate;
                    if self.random.f64() < self.loss {
                        self.held_until = self.free_at + self.base.as_secs_f64();
                    }
                    if self.control.wants_mark() {
                        self.ping();
                    }
                }
                if self.now.since(began) > length / 2 {
                    worst = worst.max(self.free_at - self.seconds());
                }
                self.now = self.now.plus(Duration::from_micros(20));
            }
            Duration::from_secs_f64(worst.max(0.0))
        }
    }

    #[test]
    fn a_key_stroke_waits_little_and_bulk_keeps_its_rate() {
        for (rate, base_us, worst_ms) in [
            (600e6, 60, 6),
            (600e6, 150_000, 100),
            (12e6, 20_000, 14),
            (1.25e6, 30_000, 40),
            // TCP that loses one packet in a hundred.
            (0.2e6, 80_000, 120),
        ] {
            let base = Duration::from_micros(base_us);
            let mut path = Path::new(rate, base);
            path.run(Duration::from_secs(6));
            let before = path.delivered;
            let worst = path.run(Duration::from_secs(4));
            let share = (path.delivered - before) as f64 / (rate * 4.0);
            assert!(
                worst <= Duration::from_millis(worst_ms),
                "{rate} B/s, {base:?}: waits {worst:?}, limit {}",
                path.control.limit
            );
            assert!(share > 0.85, "{rate} B/s, {base:?}: {share:.2} of the rate");
        }
    }

    #[test]
    fn a_path_that_wavers_by_itself_is_not_starved() {
        let mut path = Path::new(60e6, Duration::from_millis(20));
        path.wavers = Duration::from_millis(25);
        path.run(Duration::from_secs(40));
        let before = path.delivered;
        path.run(Duration::from_secs(10));
        let share = (path.delivered - before) as f64 / (60e6 * 10.0);
        assert!(share > 0.5, "{share:.2} of the rate");
    }

    #[test]
    fn lost_packets_are_no_queue() {
        let mut path = Path::new(4e6, Duration::from_millis(80));
        path.loss = 0.01;
        path.run(Duration::from_secs(20));
        let before = path.delivered;
        path.run(Duration::from_secs(10));
        let share = (path.delivered - before) as f64 / (4e6 * 10.0);
        assert!(share > 0.5, "{share:.2} of the rate");
    }

    #[test]
    fn nobody_types_nobody_waits() {
        let mut control = InFlight::new(Time(0));
        control.sent(1 << 40);
        assert!(control.has_room(Time(0)));
        assert!(!control.wants_mark());
        control.typed(Time(0));
        control.sent(LIMIT_FIRST as usize);
        assert!(!control.has_room(Time(1)));
        assert!(control.wants_mark());
        assert!(control.has_room(Time(0).plus(TYPING)));
    }

    #[test]
    fn an_answer_stands_for_the_pings_before_it_and_others_mean_nothing() {
        let mut control = InFlight::new(Time(0));
        control.typed(Time(0));
        for token in 1..=3 {
            control.sent(1000);
            control.mark(token, Time(token));
        }
        assert_eq!(
            control.answered(2, Time(12)),
            Some(Duration::from_micros(10))
        );
        assert_eq!(control.arrived, 2000);
        assert_eq!(control.answered(1, Time(13)), None);
        assert_eq!(control.answered(7, Time(13)), None);
        assert_eq!(
            control.answered(3, Time(13)),
            Some(Duration::from_micros(10))
        );
        assert_eq!(control.arrived, 3000);
        assert!(control.marks.is_empty());
    }
}
