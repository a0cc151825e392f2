//! The state of a node, as a pure machine: what happened → which state, and when the next try is.
//!
//! ```text
//!                       step failed            budget used up
//! converging ───────────────────────► retrying ─────────────► failed
//!     ▲ ▲                                │                       │
//!     │ └── new spec, removal ───────────┴───────────────────────┤
//!     │                                  settled                 │
//!     └──── drift ──── ok ◄──────────────────────────────────────┘
//!     ▲
//!     └── drift, new work ── maintenance ◄── it rests, whatever it was
//! ```
//!
//! The whole table is in `lifecycle/table.txt`; a test rewrites it and compares.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Fault, FaultCode, NodeState, Timestamp, doubled, jittered};

/// First pause after a failed step.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest pause while there is hope.
const BACKOFF_CAP: Duration = Duration::from_secs(60);
/// Failed tries after which a person is needed; the number operators of such agents know.
pub const ATTEMPTS_MAX: u32 = 10;
/// Pause between tries in `failed`: at least this.
const FAILED_PAUSE: Duration = Duration::from_secs(60);

/// Where a node stands. Each state carries what it alone has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Lifecycle {
    /// Everything is so.
    Ok,
    /// Work is under way or waits for something.
    Converging {
        /// What is waited for, if something is.
        waits: Option<String>,
    },
    /// A step failed.
    Retrying(Failing),
    /// It failed too often.
    Failed(Failing),
    /// Somebody ordered that nothing is repaired or changed.
    Maintenance(Fault),
}

/// A step that fails.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failing {
    /// [`super::step::Step::key`] of the step.
    pub key: String,
    /// Failed tries of this step in a row.
    pub attempts: u32,
    /// Why, as of the last one.
    pub fault: Fault,
    /// When it is tried again.
    pub next_try: Timestamp,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Happened {
    /// Another spec, or a removal, begins.
    NewWork,
    /// A sweep found something to do.
    Drift,
    /// A step failed.
    StepFailed {
        /// Its key.
        key: String,
        /// Why.
        fault: Fault,
        /// When.
        at: Timestamp,
        /// Random number from 0 to 1, for the jitter.
        jitter: f64,
    },
    /// Everything that can be done is done; the rest comes from elsewhere.
    Waits {
        /// What is waited for.
        what: String,
    },
    /// Everything is so.
    Settled,
    /// The node was looked at, and nothing is done, by order.
    Rests {
        /// The issuer, the end, and the drift.
        why: Fault,
    },
}

impl Lifecycle {
    /// A node whose host was not looked at yet.
    pub fn begin() -> Self {
        Self::Converging { waits: None }
    }

    /// The state after something happened.
    #[must_use]
    pub fn next(self, happened: Happened) -> Self {
        match (self, happened) {
            (_, Happened::NewWork) => Self::begin(),
            (_, Happened::Settled) => Self::Ok,
            (_, Happened::Rests { why }) => Self::Maintenance(why),
            // What failed before is tried again.
            (Self::Ok | Self::Maintenance(_), Happened::Drift) => Self::begin(),
            // What fails stays in sight until it was done.
            (
                now @ (Self::Converging { .. } | Self::Retrying(_) | Self::Failed(_)),
                Happened::Drift,
            ) => now,
            (_, Happened::Waits { what }) => Self::Converging { waits: Some(what) },
            (
                now,
                Happened::StepFailed {
                    key,
                    fault,
                    at,
                    jitter,
                },
            ) => {
                let before = match now {
                    Self::Retrying(f) | Self::Failed(f) if f.key == key => f.attempts,
                    Self::Ok
                    | Self::Converging { .. }
                    | Self::Retrying(_)
                    | Self::Failed(_)
                    | Self::Maintenance(_) => 0,
                };
                Self::after_failure(key, before.saturating_add(1), fault, at, jitter)
            }
        }
    }

    fn after_failure(key: String, attempts: u32, fault: Fault, at: Timestamp, jitter: f64) -> Self {
        let next_try = at
            .checked_add(pause(attempts, jitter))
            .unwrap_or(Timestamp::MAX);
        let failing = Failing {
            key,
            attempts,
            fault: fault.next_try(next_try),
            next_try,
        };
        if attempts > ATTEMPTS_MAX {
            Self::Failed(failing)
        } else {
            Self::Retrying(failing)
        }
    }

    /// The word in documents.
    pub fn state(&self) -> NodeState {
        match self {
            Self::Ok => NodeState::Ok,
            Self::Converging { .. } => NodeState::Converging,
            Self::Retrying(_) => NodeState::Retrying,
            Self::Failed(_) => NodeState::Failed,
            Self::Maintenance(_) => NodeState::Maintenance,
        }
    }

    /// The step that fails, if one does.
    pub fn failing(&self) -> Option<&Failing> {
        match self {
            Self::Ok | Self::Converging { .. } | Self::Maintenance(_) => None,
            Self::Retrying(f) | Self::Failed(f) => Some(f),
        }
    }

    /// Why it is not ok, in the words that go everywhere.
    pub fn reason(&self) -> Option<Fault> {
        match self {
            Self::Ok | Self::Converging { waits: None } => None,
            Self::Converging { waits: Some(what) } => Some(Fault::new(
                FaultCode::Waiting,
                "waiting",
                format!("for {what}"),
            )),
            Self::Retrying(f) | Self::Failed(f) => Some(f.fault.clone()),
            Self::Maintenance(why) => Some(why.clone()),
        }
    }
}

/// The pause after the n-th failure: doubling, capped, with jitter; slow once it is hopeless.
pub fn pause(attempts: u32, jitter: f64) -> Duration {
    let jitter = jitter.clamp(0.0, 1.0);
    if attempts > ATTEMPTS_MAX {
        // 60 s to 120 s: many nodes that fail for one reason do not try in step.
        return FAILED_PAUSE.mul_f64(1.0 + jitter);
    }
    jittered(doubled(BACKOFF_FIRST, BACKOFF_CAP, attempts), jitter)
}

#[cfg(test)]
mod tests;
