//! How long a maintenance still lasts, and the record of it: pure but for the file.
//!
//! ```text
//! same boot     what is left is what was left, less the time since by the kernel's clock (sleep counts):
//!               nobody can set that
//! another boot  the time since by the wall clock where that went forward; at least what this boot has lasted (the
//!               life of process 1: a container's kernel is its host's, and may be months old), and at least five
//!               minutes
//! ```
//!
//! So a clock that is set forward ends nothing while the machine runs, and one that is set back, or begins in
//! 1970 with every boot, makes nothing longer than twice its time: what is left is noted every five minutes, a
//! boot costs as much. (A clock that was wrong before a boot and right after it may end a maintenance early.
//! That is said, and nothing is done then that would not be done on any other day.)

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::documents::{Document, Store};
use super::fs::HostFs;
use crate::model::{
    MaintenanceBy, MaintenanceOrder, MaintenanceStatus, Timestamp, maintenance_fault, paths,
};

/// What is left is noted this often, and a boot costs at least as much.
pub const NOTE_EVERY: Duration = Duration::from_secs(300);
/// Two reasons, two times.
const RECORD_MAX: u64 = 8192;
/// Everybody may know of it: it is how hostagent learns that nodelet has something to say on a host without a role.
const MODE: u32 = 0o644;

/// Now, by the clocks that there are.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    /// The wall clock. It may be set.
    pub wall: Timestamp,
    /// Which boot it is.
    pub boot_id: String,
    /// The time since the kernel's start, sleep included.
    pub up: Duration,
    /// How long this boot has lasted. In a container that is less.
    pub lasted: Duration,
}

/// One order that is counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// Why.
    pub reason: String,
    /// When it began, by the wall clock then.
    pub since: Timestamp,
    /// What was left when it was noted.
    left_s: u64,
    /// When that was.
    noted_at: Timestamp,
    boot_id: String,
    up_s: u64,
}

/// The plane's order, counted or over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfPlane {
    /// Which.
    pub id: Uuid,
    /// None: it is over here, whatever the spec still says.
    pub span: Option<Span>,
}

/// What is on the disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceRecord {
    schema: u32,
    /// Root's.
    pub root: Option<Span>,
    /// The plane's.
    pub plane: Option<OfPlane>,
}

impl Document for MaintenanceRecord {
    const SCHEMA: u32 = 1;
}

/// Where it is.
pub fn store(fs: &HostFs) -> Store {
    Store::new(fs.clone(), paths::MAINTENANCE, MODE, RECORD_MAX)
}

/// Whether the record says maintenance: for callers that cannot ask nodelet without starting it.
pub fn is_noted(fs: &HostFs) -> bool {
    let record = store(fs).look(|r: MaintenanceRecord| Ok(r)).value;
    record.is_some_and(|r| r.is_counting())
}

impl Span {
    /// One that begins now.
    pub fn begin(reason: &str, for_s: u32, now: &Moment) -> Self {
        Self {
            reason: reason.to_owned(),
            since: now.wall,
            left_s: for_s.into(),
            noted_at: now.wall,
            boot_id: now.boot_id.clone(),
            up_s: now.up.as_secs(),
        }
    }

    /// How long it still lasts.
    pub fn left(&self, now: &Moment) -> Duration {
        let up = now.up.as_secs();
        let same = self.boot_id == now.boot_id && up >= self.up_s;
        let passed = if same {
            up - self.up_s
        } else {
            let by_wall = now.wall.duration_since(self.noted_at).as_secs();
            let by_wall = u64::try_from(by_wall).unwrap_or(0);
            let lasted = now.lasted.as_secs();
            by_wall.max(lasted).max(NOTE_EVERY.as_secs())
        };
        Duration::from_secs(self.left_s.saturating_sub(passed))
    }

    /// The same, noted again.
    fn noted(&self, now: &Moment) -> Self {
        Self {
            left_s: self.left(now).as_secs(),
            noted_at: now.wall,
            boot_id: now.boot_id.clone(),
            up_s: now.up.as_secs(),
            ..self.clone()
        }
    }

    fn is_to_be_noted(&self, now: &Moment) -> bool {
        let up = now.up.as_secs();
        self.boot_id != now.boot_id
            || up < self.up_s
            || up - self.up_s >= NOTE_EVERY.as_secs()
            || self.left(now).is_zero()
    }

    fn status(&self, by: MaintenanceBy, now: &Moment) -> Option<MaintenanceStatus> {
        let left = self.left(now);
        let until = now.wall.checked_add(left).unwrap_or(Timestamp::MAX);
        (!left.is_zero()).then(|| MaintenanceStatus {
            by,
            reason: self.reason.clone(),
            since: self.since,
            until,
        })
    }
}

impl MaintenanceRecord {
    /// An empty one.
    pub fn none() -> Self {
        Self {
            schema: Self::SCHEMA,
            root: None,
            plane: None,
        }
    }

    /// Nothing of it has to be remembered.
    pub fn is_empty(&self) -> bool {
        self.root.is_none() && self.plane.is_none()
    }

    fn is_counting(&self) -> bool {
        self.root.is_some() || self.plane.as_ref().is_some_and(|p| p.span.is_some())
    }

    /// The present maintenance.
    pub fn status(&self, now: &Moment) -> Option<MaintenanceStatus> {
        let root = self.root.as_ref();
        let root = root.and_then(|s| s.status(MaintenanceBy::Root, now));
        let plane = self.plane.as_ref().and_then(|p| p.span.as_ref());
        let plane = plane.and_then(|s| s.status(MaintenanceBy::Plane, now));
        root.into_iter().chain(plane).max_by_key(|s| s.until)
    }

    /// What the spec says now. `None`: nothing, or no longer anything.
    #[must_use]
    pub fn heeds(&self, order: Option<&MaintenanceOrder>, now: &Moment) -> Self {
        let order = order.filter(|o| maintenance_fault(o.for_s, &o.reason).is_none());
        let known = self.plane.as_ref();
        let plane = order.map(|order| match known.filter(|k| k.id == order.id) {
            Some(known) => known.clone(),
            None => OfPlane {
                id: order.id,
                span: Some(Span::begin(&order.reason, order.for_s, now)),
            },
        });
        Self {
            plane,
            ..self.clone()
        }
    }

    /// Root begins one, in place of one that root began before.
    #[must_use]
    pub fn begun_by_root(&self, reason: &str, for_s: u32, now: &Moment) -> Self {
        Self {
            root: Some(Span::begin(reason, for_s, now)),
            ..self.clone()
        }
    }

    /// Root ends it, also one that the plane began.
    #[must_use]
    pub fn ended(&self) -> Self {
        Self {
            root: None,
            plane: self.plane.as_ref().map(|p| OfPlane {
                id: p.id,
                span: None,
            }),
            ..self.clone()
        }
    }

    /// What to write to disk now, if anything is due: a maintenance that is over is dropped.
    pub fn to_note(&self, now: &Moment) -> Option<Self> {
        let plane = self.plane.as_ref().and_then(|p| p.span.as_ref());
        let due = [self.root.as_ref(), plane]
            .into_iter()
            .flatten()
            .any(|s| s.is_to_be_noted(now));
        let left = |span: &Span| Some(span.noted(now)).filter(|s| s.left_s > 0);
        due.then(|| Self {
            root: self.root.as_ref().and_then(left),
            plane: self.plane.as_ref().map(|p| OfPlane {
                id: p.id,
                span: p.span.as_ref().and_then(left),
            }),
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests;
