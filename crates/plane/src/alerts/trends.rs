//! Forecasts: fill levels followed over twelve days, and when they run out. Pure.
//!
//! ```text
//!  status ─► said ─► Watched (memory: the highest of six hours) ─► Closed ─► Kept (row of a host) ─► foreseen ─► found
//! ```
//!
//! | file | holds |
//! |---|---|
//! | here     | what is followed, as a table; one host's row, and its forecasts, as text |
//! | `series` | one number over time, in 96 bytes |
//! | `fit`    | the line through it, and whether there is one |
//!
//! Shares of the total, so that a grown file system or a raised quota needs no rule of its own. The maximum of six
//! hours, so that what is emptied every night stays level. Each host's six hours begin at its own offset: ten thousand
//! series are not fitted in the same second. Expiry of certificates is known and needs no forecast (`facts`).
//!
//! Rejected: Prometheus' `predict_linear` (not every site has one; least squares follow one outlier); slots of a day
//! instead of six hours (a disk that fills in five days would be reported when it is full).

mod fit;
mod series;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use self::series::Series;
use super::facts::part;
use super::rules::{Rule, Urgency};
use crate::refusal::Answer;
use crate::state::Change;
use crate::store::{Read, Rows};
use pf9_hostagent::model::{HostId, HostStatus};

/// Stored series of each host, by its id.
pub(super) const TRENDS: Rows<Kept> = Rows::new("trends");

/// Seconds of one slot; its maximum is kept.
const SLOT_S: i64 = 6 * 3600;
/// A share: this is 100 %. Values above 131 % are capped there.
const WHOLE: u16 = 50_000;
/// Most series per host: five file systems with two numbers, etcd with two, seven programs, and some spare. A host may
/// report anything.
const SERIES_MAX: usize = 24;
/// Slots ahead that are reported: a week.
const AHEAD: f64 = 28.0;
/// What is due within this is a matter of today: two days.
const SOON: SignedDuration = SignedDuration::from_hours(48);

/// etcd's leaders change when its log waits longer for the disk; `EtcdDiskSlow` in the rules for Prometheus is the
/// same.
const SYNC_MAX_US: u64 = 100_000;

/// What is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Bytes,
    Inodes,
    Etcd,
    Sync,
    Memory,
}

/// One row of the table.
struct Row {
    rule: Rule,
    /// Text after the percentage.
    of: &'static str,
    /// A value that dropped on its own from this much, twice, is expected to do so again: something on the machine
    /// cleans up. `None` where only a restart lowers it.
    is_emptied: bool,
}

/// One followed thing of a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Of {
    pub(super) kind: Kind,
    /// Which of several: a file system, a program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) part: String,
}

/// Its forecast, in slots of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Foreseen {
    /// The slot in which it is used up.
    pub(super) slot: u32,
    /// The current level, and the growth per day.
    pub(super) level: u16,
    pub(super) a_day: u16,
}

/// A host between two slots, in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched {
    slot: u32,
    /// Maximum of the current slot.
    open: Vec<(Of, u16)>,
    /// Forecasts from the slots before it.
    pub(super) foreseen: Vec<(Of, Foreseen)>,
}

/// A finished slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    slot: u32,
    highest: Vec<(Of, u16)>,
}

/// The row of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    series: Vec<Series>,
}

// === impl Kind ===

impl Kind {
    fn row(self) -> &'static Row {
        match self {
            Self::Bytes => &Row {
                rule: Rule::DiskFilling,
                of: "of its bytes are used",
                is_emptied: true,
            },
            Self::Inodes => &Row {
                rule: Rule::DiskFilling,
                of: "of its inodes are used",
                is_emptied: true,
            },
            Self::Etcd => &Row {
                rule: Rule::EtcdFilling,
                of: "of its quota are in use",
                is_emptied: true,
            },
            Self::Sync => &Row {
                rule: Rule::EtcdSlowing,
                of: "of the 100 ms that etcd tolerates are used by a sync of its log",
                is_emptied: true,
            },
            Self::Memory => &Row {
                rule: Rule::MemoryGrowing,
                of: "of its memory limit are in use",
                is_emptied: false,
            },
        }
    }
}

/// All followed values of a status, as shares.
pub(super) fn said(status: &HostStatus) -> Vec<(Of, u16)> {
    let share = |kind: Kind, name: &str, used: u64, whole: u64| {
        let most = u128::from(series::NONE - 1);
        let share = (u128::from(used) * u128::from(WHOLE)).checked_div(u128::from(whole))?;
        let part = part(name);
        Some((Of { kind, part }, u16::try_from(share.min(most)).ok()?))
    };
    let disks = status.health.disks.iter().flat_map(|disk| {
        let used = |whole: u64, free: u64| whole.saturating_sub(free);
        let bytes = used(disk.total_bytes, disk.available_bytes);
        let inodes = used(disk.total_inodes, disk.free_inodes);
        [
            share(Kind::Bytes, &disk.path, bytes, disk.total_bytes),
            share(Kind::Inodes, &disk.path, inodes, disk.total_inodes),
        ]
    });
    let etcd = status.node.as_ref().and_then(|n| n.etcd.as_ref());
    let etcd = etcd.into_iter().flat_map(|etcd| {
        let sync = etcd.fsync_p99_us;
        [
            share(Kind::Etcd, "", etcd.db_in_use_bytes, etcd.quota_bytes),
            sync.and_then(|us| share(Kind::Sync, "", us, SYNC_MAX_US)),
        ]
    });
    let machine = status.inventory.memory_bytes;
    let daemons = status.health.daemons.iter().map(|daemon| {
        let whole = match daemon.limit_bytes {
            0 => machine,
            limit => limit.min(machine),
        };
        share(Kind::Memory, &daemon.unit, daemon.memory_bytes, whole)
    });
    let all = disks.chain(etcd).chain(daemons).flatten();
    let mut all: Vec<_> = all.take(SERIES_MAX).collect();
    // Kept for every host.
    all.shrink_to_fit();
    all
}

/// Each host's slots begin at an offset of its own.
fn phase(host: HostId) -> i64 {
    let spread = host.0.as_u128() % u128::from(SLOT_S.unsigned_abs());
    i64::try_from(spread).unwrap_or(0)
}

/// A host's slot at a moment.
pub(super) fn slot_of(host: HostId, at: Timestamp) -> u32 {
    u32::try_from((at.as_second() + phase(host)) / SLOT_S).unwrap_or(0)
}

/// When a host's slot ends.
pub(super) fn end_of(host: HostId, slot: u32) -> Timestamp {
    let second = (i64::from(slot) + 1) * SLOT_S - phase(host);
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
}

// === impl Watched ===

impl Watched {
    /// Takes in a report; returns the slot that it finishes.
    pub(super) fn hear(&mut self, slot: u32, said: Vec<(Of, u16)>) -> Option<Closed> {
        if slot != self.slot {
            let highest = std::mem::replace(&mut self.open, said);
            let closed = Closed {
                slot: std::mem::replace(&mut self.slot, slot),
                highest,
            };
            return (!closed.highest.is_empty()).then_some(closed);
        }
        for (of, share) in said {
            if let Some((_, highest)) = self.open.iter_mut().find(|(known, _)| *known == of) {
                *highest = share.max(*highest);
            } else if self.open.len() < SERIES_MAX {
                self.open.push((of, share));
            }
        }
        None
    }
}

// === impl Kept ===

impl Kept {
    /// Takes in a finished slot.
    pub(super) fn take(&mut self, closed: Closed) {
        let slot = closed.slot;
        for (of, share) in closed.highest {
            let known = self.series.iter().position(|s| s.of == of);
            let at = known.unwrap_or_else(|| {
                self.series.push(Series::new(of));
                self.series.len() - 1
            });
            self.series[at].push(slot, share);
        }
        self.series.retain(|s| !s.is_old(slot));
        // Those without a value for longest.
        self.series.sort_by_key(|s| std::cmp::Reverse(s.last()));
        self.series.truncate(SERIES_MAX);
    }

    /// What will be used up within a week, among what the host still reports.
    pub(super) fn foreseen(&self) -> Vec<(Of, Foreseen)> {
        let newest = self.series.iter().map(Series::last).max();
        let told = self.series.iter().filter(|s| Some(s.last()) == newest);
        told.filter_map(|s| Some((s.of.clone(), s.foreseen()?)))
            .collect()
    }
}

/// Takes finished slots into a host's row; returns the forecasts. None for a host that is gone.
pub(super) fn keep(
    change: &mut Change<'_>,
    host: HostId,
    closed: Closed,
) -> Answer<Vec<(Of, Foreseen)>> {
    let key = host.to_string();
    if change.get(&crate::records::HOSTS, &key)?.is_none() {
        return Ok(Vec::new());
    }
    let mut kept = change.get(&TRENDS, &key)?.unwrap_or_default();
    kept.take(closed);
    change.put(&TRENDS, &key, &kept)?;
    Ok(kept.foreseen())
}

/// The host is gone.
pub(crate) fn forget(change: &mut Change<'_>, host: HostId) -> Answer<()> {
    Ok(change.remove(&TRENDS, &host.to_string())?)
}

/// Forecasts for people: rule, which of several, urgency, and why.
pub(super) fn told(
    host: HostId,
    of: &Of,
    foreseen: &Foreseen,
    now: Timestamp,
) -> (Rule, String, Urgency, String) {
    let row = of.kind.row();
    let (at, whole) = (end_of(host, foreseen.slot), u32::from(WHOLE));
    let urgency = match at.duration_since(now) < SOON {
        true => Urgency::High,
        false => row.rule.row().urgency,
    };
    let level = u32::from(foreseen.level) * 100 / whole;
    let tenths = u32::from(foreseen.a_day) * 1000 / whole;
    let why = format!(
        "{level} % {}, growing by {}.{} % a day: 100 % on {}",
        row.of,
        tenths / 10,
        tenths % 10,
        at.strftime("%Y-%m-%d"),
    );
    let part = match of.kind {
        Kind::Inodes => format!("{}, inodes", of.part),
        Kind::Bytes | Kind::Etcd | Kind::Sync | Kind::Memory => of.part.clone(),
    };
    (row.rule, part, urgency, why)
}

#[cfg(test)]
mod tests;
