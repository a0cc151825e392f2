//! A program of its own that a test breaks: what its environment says of it, and what it tells.
//!
//! | variable | says |
//! |---|---|
//! | `PF9_FAULT`        | `POINT:FAULT`: where it breaks, and how |
//! | `PF9_FAULT_POINTS` | a file, to which each point that it passes adds a line ([`PassedPoint`]) |
//! | `PF9_FAULT_CLOCK`  | `stands`, or the seconds by which its clock is wrong |
//!
//! A point has a number and a name ([`At`]). A fault is `kill`, `power`, `torn` (a power cut that keeps names and loses
//! bytes), `stop`, or a number of `errno`.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use jiff::{SignedDuration, Timestamp};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::fault::{CallKind, Clock, InjectedFault, PowerLoss, Scope};

/// Where it breaks, and how.
pub const ENV: &str = "PF9_FAULT";
/// Where it tells what it passes.
pub const ENV_POINTS: &str = "PF9_FAULT_POINTS";
const ENV_CLOCK: &str = "PF9_FAULT_CLOCK";

/// Which point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// The first one is 0.
    Number(usize),
    /// See [`PassedPoint::name`].
    Name(String),
}

/// A point that a program passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedPoint {
    /// Its kind.
    pub kind: CallKind,
    /// `PLACE@CALLER#N`: its place in the seam, whose call it was, and which of these calls, from 1. The same in every
    /// run, whatever goes on beside it.
    pub name: String,
    /// About what: the last part of its path.
    pub about: String,
    /// It broke there.
    pub broke: bool,
}

impl At {
    pub(super) fn is(&self, number: usize, name: Option<&str>) -> bool {
        match self {
            Self::Number(at) => *at == number,
            Self::Name(at) => name == Some(at.as_str()),
        }
    }
}

impl PassedPoint {
    /// All that a program told; a last line that its end cut is none.
    pub fn all(told: &str) -> Vec<Self> {
        let lines = told.lines();
        lines.filter_map(|l| serde_json::from_str(l).ok()).collect()
    }

    /// Whether any of what a program told so far broke. That is asked again and again of one that goes on, so nothing is
    /// parsed.
    pub fn any_broke(told: &str) -> bool {
        told.contains(r#""broke":true"#)
    }

    pub(super) fn line(&self) -> String {
        let json = serde_json::to_string(self).expect("names and words");
        json + "\n"
    }

    /// For [`ENV`]: this happens there.
    pub fn with(&self, fault: InjectedFault) -> String {
        let fault = match fault {
            InjectedFault::Kill => "kill".to_owned(),
            InjectedFault::Power(PowerLoss::Everything) => "power".to_owned(),
            InjectedFault::Power(PowerLoss::Bytes) => "torn".to_owned(),
            InjectedFault::Stop => "stop".to_owned(),
            InjectedFault::Fail(errno) => (errno as i32).to_string(),
        };
        format!("{}:{fault}", self.name)
    }
}

/// The life of this program, if its environment says anything of it.
pub(super) fn scope() -> &'static Option<Arc<Scope>> {
    static PROGRAM: OnceLock<Option<Arc<Scope>>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let breaks = std::env::var(ENV).ok();
        let points = std::env::var_os(ENV_POINTS);
        let clock = std::env::var(ENV_CLOCK).ok();
        if breaks.is_none() && points.is_none() && clock.is_none() {
            return None;
        }
        let told = points.map(|at| open(Path::new(&at)));
        let scope = Scope::of_program(breaks.as_deref().and_then(read), told);
        if let Some(clock) = clock {
            scope.set_clock(match clock.parse() {
                Ok(seconds) => Clock::Off(SignedDuration::from_secs(seconds)),
                Err(_) => Clock::Stands(Timestamp::now()),
            });
        }
        Some(scope)
    })
}

fn open(at: &Path) -> File {
    let opened = OpenOptions::new().append(true).create(true).open(at);
    opened.expect("the file for points")
}

pub(super) fn read(told: &str) -> Option<(At, InjectedFault)> {
    let (point, fault) = told.rsplit_once(':')?;
    let fault = match fault {
        "kill" => InjectedFault::Kill,
        "power" => InjectedFault::Power(PowerLoss::Everything),
        "torn" => InjectedFault::Power(PowerLoss::Bytes),
        "stop" => InjectedFault::Stop,
        errno => InjectedFault::Fail(Errno::from_raw(errno.parse().ok()?)),
    };
    let at = match point.parse() {
        Ok(number) => At::Number(number),
        Err(_) => At::Name(point.to_owned()),
    };
    Some((at, fault))
}
