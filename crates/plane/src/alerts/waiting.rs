//! What waits for a target, and when each of it is tried: pure.
//!
//! A target that answers 4xx refuses one notice and takes others. So each entry of an outbox has a back-off of its own,
//! beside the target's (`turns`), which is for one that takes nothing. A notice that is refused [`TRIES`] times is
//! dropped; its alert's next one is then the next. No order but that of one alert is kept.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Alert;
use super::engine::Notice;
use super::turns::pause;

/// Refusals of a notice until it is dropped. The last is nine hours after the first: an expired token that is mended in
/// the morning loses nothing, and what can never be taken does not wait for ever.
const TRIES: u32 = 20;
/// Longest pause between them: what was mended in a file is noticed within the hour.
const AGAIN_MAX: Duration = Duration::from_secs(3600);

/// Outbox entry of a target for one alert.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Waiting {
    /// It fires.
    #[serde(default)]
    pub(super) begin: Option<Told>,
    /// It is over.
    #[serde(default)]
    pub(super) end: Option<Told>,
    /// Refusals of what is next of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<Refusals>,
}

/// The part of an entry that says when it is tried.
#[derive(Debug, Deserialize)]
pub(super) struct Rest {
    #[serde(default)]
    refused: Option<Refusals>,
}

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) notice: Notice,
    pub(super) at: Timestamp,
    pub(super) alert: Alert,
}

/// That a target refuses a notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusals {
    times: u32,
    /// The last one.
    pub(super) at: Timestamp,
    /// What was answered to it.
    pub(super) why: String,
}

/// Notices that a target refused until they were dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Dropped {
    pub(super) times: u64,
    /// The last one.
    pub(super) at: Option<Timestamp>,
    /// What was answered to it.
    pub(super) why: Option<String>,
}

/// What becomes of a notice that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// For the first time: it waits.
    First,
    /// It waits.
    Again,
    /// It is dropped.
    Dropped,
    /// It did not wait any more.
    Gone,
}

/// What of an outbox is tried now, in order of time. What was refused before goes last: nothing that was not tried yet
/// waits for it.
pub(super) fn due(mut all: Vec<(String, Waiting)>, now: Timestamp) -> Vec<(String, Waiting)> {
    all.retain(|(_, waiting)| rests(waiting.refused.as_ref(), now).is_none());
    all.sort_by_key(|(_, waiting)| (waiting.refused.is_some(), waiting.since()));
    all
}

/// How long one that was refused is not tried; none: it is.
fn rests(refused: Option<&Refusals>, now: Timestamp) -> Option<Duration> {
    let refused = refused?;
    // A clock that was set back must not hold it for longer: then it is tried.
    let since = Duration::try_from(now.duration_since(refused.at)).ok()?;
    let left = pause(refused.times, AGAIN_MAX).checked_sub(since)?;
    (!left.is_zero()).then_some(left)
}

// === impl Waiting ===

impl Waiting {
    /// Since when part of it is waiting.
    pub(super) fn since(&self) -> Option<Timestamp> {
        self.begin.as_ref().or(self.end.as_ref()).map(|t| t.at)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.begin.is_none() && self.end.is_none()
    }

    /// That it was refused, if it was.
    pub(super) fn refusals(&self) -> Option<&Refusals> {
        self.refused.as_ref()
    }

    /// One more to tell of its alert. Newer words do not make it as if it had never been refused.
    pub(super) fn take_in(&mut self, told: Told) {
        match told.notice {
            Notice::Resolved => self.end = Some(told),
            Notice::Fired | Notice::Raised | Notice::Repeated => {
                // Newer words of an alert never sent to the target: it still begins.
                let notice = self.begin.as_ref().map_or(told.notice, |b| b.notice);
                self.begin = Some(Told { notice, ..told });
            }
        }
    }

    /// Delivered: removes it, unless newer words came meanwhile.
    pub(super) fn arrived(&mut self, told: &Told) {
        self.refused = None;
        if self.begin.as_ref() == Some(told) {
            self.begin = None;
        } else if self.end.as_ref() == Some(told) {
            self.end = None;
        } else if let Some(newer) = &mut self.begin {
            // The target has it now: newer words no longer begin it.
            newer.notice = Notice::Raised;
        }
    }

    /// Refused: it waits, or is dropped.
    pub(super) fn refuse(&mut self, told: &Told, why: &str, now: Timestamp) -> Refused {
        let part = match told.notice {
            Notice::Resolved => &mut self.end,
            Notice::Fired | Notice::Raised | Notice::Repeated => &mut self.begin,
        };
        let Some(there) = part.as_ref() else {
            return Refused::Gone;
        };
        let before = self.refused.as_ref().map_or(0, |refused| refused.times);
        let mut times = before.saturating_add(1);
        if times >= TRIES {
            if there == told {
                *part = None;
                self.refused = None;
                return Refused::Dropped;
            }
            // Newer words came meanwhile: they are tried, once.
            times = TRIES - 1;
        }
        self.refused = Some(Refusals {
            times,
            at: now,
            why: why.to_owned(),
        });
        match before {
            0 => Refused::First,
            _ => Refused::Again,
        }
    }

    /// As if it had never been refused: the target is another one. Says whether it was.
    pub(super) fn forgive(&mut self) -> bool {
        self.refused.take().is_some()
    }
}

impl Rest {
    /// How long it is not tried; none: it is.
    pub(super) fn left(&self, now: Timestamp) -> Option<Duration> {
        rests(self.refused.as_ref(), now)
    }
}

impl Dropped {
    /// One more.
    pub(super) fn count(&mut self, at: Timestamp, why: &str) {
        self.times = self.times.saturating_add(1);
        self.at = Some(at);
        self.why = Some(why.to_owned());
    }
}

#[cfg(test)]
mod tests;
