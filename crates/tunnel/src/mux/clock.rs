//! Time since the start of something (a connection, a program), including time the machine slept.
//!
//! The kernel's monotonic clock, and so tokio's, stops while a machine is suspended. A peer silent for an hour of sleep
//! would count as just heard, and a connection that every firewall on the way has forgotten as alive. Changes of the
//! wall clock (`settimeofday`, NTP steps) have no effect here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use crate::wire::Time;

/// Time since it was made.
pub struct Clock {
    began: Instant,
    /// How long the machine has slept since boot; a function so that a test can let it sleep.
    sleeps: fn() -> Duration,
    slept_before: Duration,
    /// Microseconds asleep since the connection began, as of the last update.
    slept: AtomicU64,
}

// === impl Clock ===

impl Clock {
    /// One that starts now.
    #[expect(
        clippy::new_without_default,
        reason = "it begins when it is made: nothing about it is a default"
    )]
    pub fn new() -> Self {
        Self::with(slept)
    }

    pub(super) fn with(sleeps: fn() -> Duration) -> Self {
        Self {
            began: Instant::now(),
            sleeps,
            slept_before: sleeps(),
            slept: AtomicU64::new(0),
        }
    }

    /// Updates the time asleep; once per turn of the driver is enough.
    pub fn look(&self) {
        let slept = (self.sleeps)().saturating_sub(self.slept_before);
        self.slept.store(Time::at(slept).0, Ordering::Relaxed);
    }

    /// Time since it was made, as of the last update.
    pub fn now(&self) -> Time {
        Time::at(self.began.elapsed() + self.slept())
    }

    /// When `at` comes on tokio's clock, if the machine stays awake.
    pub(super) fn instant(&self, at: Time) -> Instant {
        self.began + Duration::from_micros(at.0).saturating_sub(self.slept())
    }

    fn slept(&self) -> Duration {
        Duration::from_micros(self.slept.load(Ordering::Relaxed))
    }
}

/// The boot-time clock counts sleep, the monotonic one does not. Read one after the other they differ by a few
/// nanoseconds more, never by less than the sleep.
fn slept() -> Duration {
    let read = |clock| clock_gettime(clock).map(Duration::from);
    match (
        read(ClockId::CLOCK_MONOTONIC),
        read(ClockId::CLOCK_BOOTTIME),
    ) {
        (Ok(awake), Ok(all)) => Duration::from_millis(
            u64::try_from(all.saturating_sub(awake).as_millis()).unwrap_or(u64::MAX),
        ),
        _ => Duration::ZERO,
    }
}
