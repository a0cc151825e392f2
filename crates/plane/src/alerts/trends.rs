//! Forecasts: how full things are, followed for twelve days, and when they run out. Pure.
//!
//! ```text
//!  status ─► said ─► Watched (memory: the highest of six hours) ─► Closed ─► Kept (row of a host) ─► foreseen ─► found
//! ```
//!
//! | file | holds |
//! |---|---|
//! | here     | what is followed, as a table; one host's row, and what is foreseen, in words |
//! | `series` | one number over time, in 96 bytes |
//! | `fit`    | the line through it, and whether there is one |
//!
//! Shares, so that a grown file system or a raised quota needs no rule of its own. The maximum of six hours, so that
//! what is emptied every night is level. Each host's six hours begin at its own moment: ten thousand series are not
//! fitted in the same second. Ends of certificates are known, so they are no forecast (`facts`).
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

/// What is kept of each host, by its id.
pub(super) const TRENDS: Rows<Kept> = Rows::new("trends");

/// Seconds of one slot: what is kept is the highest of it.
const SLOT_S: i64 = 6 * 3600;
/// A share: this many are all of it. What is more is told as 131 % of it.
const WHOLE: u16 = 50_000;
/// Most series of one host: five file systems with two numbers, etcd with two, seven programs, and some spare. A host
/// may report anything.
const SERIES_MAX: usize = 24;
/// Slots ahead that are told of: a week.
const AHEAD: f64 = 28.0;
/// Slots ahead that are a matter of today: two days.
const SOON: SignedDuration = SignedDuration::from_hours(48);

/// etcd's leaders change when its log waits longer for the disk; `EtcdDiskSlow` of the rules for Prometheus is the same.
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
    /// After the number of percents.
    of: &'static str,
    /// A value that came down by itself from so much, twice, is expected to do so again: something on the machine cleans
    /// up. `None` where only a restart brings it down.
    is_emptied: bool,
}

/// One thing of a host that is followed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Of {
    pub(super) kind: Kind,
    /// Which of several: a file system, a program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) part: String,
}

/// What is foreseen of it, by the slots of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Foreseen {
    /// In which slot all of it is used.
    pub(super) slot: u32,
    /// Where it is now, and what comes to it in a day.
    pub(super) level: u16,
    pub(super) a_day: u16,
}

/// A host between two slots, in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched {
    slot: u32,
    /// The highest of the slot that runs.
    open: Vec<(Of, u16)>,
    /// What the slots before it let foresee.
    pub(super) foreseen: Vec<(Of, Foreseen)>,
}

/// A slot that is over.
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
                of: "of the 100 ms that etcd bears are what a sync of its log takes",
                is_emptied: true,
            },
            Self::Memory => &Row {
                rule: Rule::MemoryGrowing,
                of: "of the memory that it may have are its own",
                is_emptied: false,
            },
        }
    }
}

/// What a status says of all that is followed, as shares.
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
    all.take(SERIES_MAX).collect()
}

/// Each host's slots begin at a moment of its own.
fn phase(host: HostId) -> i64 {
    let spread = host.0.as_u128() % u128::from(SLOT_S.unsigned_abs());
    i64::try_from(spread).unwrap_or(0)
}

/// The slot of a host that a moment is in.
pub(super) fn slot_of(host: HostId, at: Timestamp) -> u32 {
    u32::try_from((at.as_second() + phase(host)) / SLOT_S).unwrap_or(0)
}

/// When a slot of a host is over.
pub(super) fn end_of(host: HostId, slot: u32) -> Timestamp {
    let second = (i64::from(slot) + 1) * SLOT_S - phase(host);
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
}

// === impl Watched ===

impl Watched {
    /// Takes in what a host says; answers the slot that is over with it.
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
    /// Takes in a slot that is over.
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
        // Those that nothing was said of for longest.
        self.series.sort_by_key(|s| std::cmp::Reverse(s.last()));
        self.series.truncate(SERIES_MAX);
    }

    /// What of it is used up within a week: of what the host still tells.
    pub(super) fn foreseen(&self) -> Vec<(Of, Foreseen)> {
        let newest = self.series.iter().map(Series::last).max();
        let told = self.series.iter().filter(|s| Some(s.last()) == newest);
        told.filter_map(|s| Some((s.of.clone(), s.foreseen()?)))
            .collect()
    }
}

/// Takes slots that are over into a host's row; answers what it lets foresee. Of a host that is gone: nothing.
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

/// What is foreseen, for people: rule, which of several, urgency, and why.
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
        "{level} % {}, and {}.{} % more every day: all on {}",
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
