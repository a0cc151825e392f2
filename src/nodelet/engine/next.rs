//! What comes after a round.

use std::time::Duration;

use super::clock::until;
use crate::model::Fault;
use crate::nodelet::lifecycle::{Happened, Lifecycle};

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Next {
    pub(super) after: Duration,
    /// Files and processes wake it too.
    pub(super) watching: bool,
    /// There is nothing to stay for.
    pub(super) may_exit: bool,
}

impl Next {
    pub(super) fn now() -> Self {
        Self {
            after: Duration::ZERO,
            watching: false,
            may_exit: false,
        }
    }

    /// At the time the lifecycle says. Files and processes do not wake it: a service that dies
    /// again and again would make the pause none.
    pub(super) fn retry(lifecycle: &Lifecycle) -> Self {
        let at = lifecycle.failing().map(|f| f.next_try);
        let left = at.map_or(Duration::ZERO, |at| until(at, crate::seam::clock::now()));
        Self {
            after: left,
            watching: false,
            may_exit: false,
        }
    }

    pub(super) fn unwatched(self) -> Self {
        Self {
            watching: false,
            ..self
        }
    }
}

pub(super) fn failed(key: &str, fault: Fault) -> Happened {
    Happened::StepFailed {
        key: key.to_owned(),
        fault,
        at: crate::seam::clock::now(),
        jitter: fastrand::f64(),
    }
}
