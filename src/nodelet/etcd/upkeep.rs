//! Keeping the members' databases small, and getting a full one out of it. The decisions are pure; each
//! master takes them for its own member from what all of them say, and holds no lease: the order says
//! whose turn it is.
//!
//! ```text
//!                       no alarm               NOSPACE
//! ────────────────────┼──────────────────────┼────────────────────────────────────────────────
//! the leader's master │ its own, as the last │ compacts up to now, then its own, then takes the
//!                     │                      │ alarm back when every file is well below the quota
//! another master      │ its own, in its turn │ its own, in its turn
//! ```
//!
//! A member whose file holds much unused space defragments it ([`worth_it`]) when it is the first such member in the
//! order of their numbers, the leader last; only while every member answers, because it pauses meanwhile. After that it
//! has nothing to reclaim, so the next one is first.

mod survey;
mod tend;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

pub use survey::{ClusterSurvey, survey};
pub(super) use tend::Upkeep;

use crate::host::etcd::{Alarm, AlarmKind, Etcd, EtcdError, MemberStatus};
use crate::model::{Fault, FaultCode};

/// Less than this is not worth a second in which the member stands still.
const WORTH_BYTES: u64 = 100 * 1024 * 1024;
/// Where the file is this near to the quota, a tenth of the quota is worth it.
const NEARLY_FULL_PERCENT: u64 = 80;
/// What is in use has to be below this much of the quota for a full database to be healed: right
/// below the quota it would be full again within minutes.
const HEALED_PERCENT: u64 = 90;
/// etcd's own.
const QUOTA_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;
/// What a member may be behind before it counts as one that catches up.
const BEHIND_MAX: u64 = 5000;

/// A member, as it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberState {
    /// Its number.
    pub id: u64,
    /// Its name: the host's id.
    pub name: String,
    /// What it says; `None`: it does not answer.
    pub status: Option<MemberStatus>,
}

/// What this master is to do for its member now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// Give back what is not used.
    Defragment,
    /// Forget what is older than this revision: the database is full.
    Compact(u64),
    /// Take these alarms back: their cause is gone.
    Disarm(BTreeSet<Alarm>),
}

/// What is due, and what a person has to know.
#[derive(Clone, Debug, PartialEq)]
pub struct UpkeepVerdict {
    /// What is due here.
    pub due: Due,
    /// What is wrong with the cluster's database.
    pub fault: Option<Fault>,
}

/// What is due for the member `own`, which compacted up to `compacted` before.
pub fn verdict(own: u64, survey: &ClusterSurvey, compacted: Option<u64>) -> UpkeepVerdict {
    let quiet = |fault| UpkeepVerdict {
        due: Due::Nothing,
        fault,
    };
    let of = |kind| {
        survey
            .alarms
            .iter()
            .filter(move |a| a.kind == kind)
            .copied()
    };
    if let Some(alarm) = of(AlarmKind::Corrupt).next() {
        return quiet(Some(corrupt(survey, alarm)));
    }
    let full: BTreeSet<Alarm> = of(AlarmKind::NoSpace).collect();
    if full.is_empty() {
        let due = if first_worth_it(survey) == Some(own) {
            Due::Defragment
        } else {
            Due::Nothing
        };
        return UpkeepVerdict { due, fault: None };
    }
    if let Some(silent) = survey.members.iter().find(|m| m.status.is_none()) {
        return quiet(Some(full_and_silent(silent)));
    }
    heal(own, survey, full, compacted)
}

fn heal(
    own: u64,
    survey: &ClusterSurvey,
    full: BTreeSet<Alarm>,
    compacted: Option<u64>,
) -> UpkeepVerdict {
    let statuses = || survey.members.iter().filter_map(|m| m.status.as_ref());
    let here = statuses().find(|s| s.header.member_id == own);
    let leads = here.is_some_and(MemberStatus::leads);
    let quota = survey.quota();
    let below = |bytes: u64| bytes < quota / 100 * HEALED_PERCENT;
    let revision = here.map_or(0, |s| s.header.revision);
    let healing = |due| UpkeepVerdict {
        due,
        fault: Some(is_healed(survey)),
    };
    let due_here = |it_is: bool, due| healing(if it_is { due } else { Due::Nothing });
    if statuses().all(|s| below(s.db_bytes)) {
        return due_here(leads, Due::Disarm(full));
    }
    if !below(in_use(survey)) {
        let old = compacted.is_none_or(|before| revision > before);
        return match (leads, old) {
            (true, false) => UpkeepVerdict {
                due: Due::Nothing,
                fault: Some(is_full(survey)),
            },
            (true, true) | (false, _) => due_here(leads, Due::Compact(revision)),
        };
    }
    let next = in_turn(survey).find(|m| m.status.as_ref().is_some_and(|s| !below(s.db_bytes)));
    due_here(next.is_some_and(|m| m.id == own), Due::Defragment)
}

/// Does what is due, and says what that was.
pub async fn act(own: &Etcd, due: &Due) -> Result<String, EtcdError> {
    match due {
        Due::Nothing => Ok("there was nothing to do".to_owned()),
        Due::Compact(revision) => {
            own.compact(*revision).await?;
            Ok(format!("etcd was compacted up to revision {revision}"))
        }
        Due::Defragment => {
            let before = own.status().await?.db_bytes;
            own.defragment().await?;
            let after = own.status().await?.db_bytes;
            Ok(format!(
                "the database was defragmented: {} MiB, {} MiB before",
                mib(after),
                mib(before)
            ))
        }
        Due::Disarm(alarms) => {
            for alarm in alarms {
                own.disarm(*alarm).await?;
            }
            Ok("the alarm NOSPACE was disarmed".to_owned())
        }
    }
}

/// The member whose turn it is to give back what it does not use, if it is worth it and every member
/// is well.
fn first_worth_it(survey: &ClusterSurvey) -> Option<u64> {
    if !all_well(survey) {
        return None;
    }
    let quota = survey.quota();
    let worth = |m: &&MemberState| m.status.as_ref().is_some_and(|s| worth_it(s, quota));
    in_turn(survey).find(worth).map(|m| m.id)
}

/// Bytes that the cluster's keys take: the least that an up-to-date member reports, because all have the same keys, and
/// etcd counts free pages when it writes. After a compaction of a full database there are no writes, and followers keep
/// reporting what they used before (seen with 3.7.3: the leader 136 KiB, the others 15 MiB).
fn in_use(survey: &ClusterSurvey) -> u64 {
    let newest = newest(survey);
    let statuses = survey.members.iter().filter_map(|m| m.status.as_ref());
    let abreast = statuses.filter(|s| is_abreast(s, newest));
    abreast.map(|s| s.in_use_bytes).min().unwrap_or(0)
}

/// The newest entry of the log that a member has.
fn newest(survey: &ClusterSurvey) -> u64 {
    let statuses = survey.members.iter().filter_map(|m| m.status.as_ref());
    statuses.map(|s| s.index).max().unwrap_or(0)
}

fn is_abreast(status: &MemberStatus, newest: u64) -> bool {
    status.applied.saturating_add(BEHIND_MAX) >= newest
}

/// Every member answers, has a leader, and is not behind.
fn all_well(survey: &ClusterSurvey) -> bool {
    let newest = newest(survey);
    let is_well = |s: &MemberStatus| s.errors.is_empty() && s.leader != 0 && is_abreast(s, newest);
    survey
        .members
        .iter()
        .all(|m| m.status.as_ref().is_some_and(is_well))
}

/// Members in the order of their numbers, the leader last.
fn in_turn(survey: &ClusterSurvey) -> impl Iterator<Item = &MemberState> {
    let leads = |m: &&MemberState| m.status.as_ref().is_some_and(MemberStatus::leads);
    let mut members: Vec<&MemberState> = survey.members.iter().collect();
    members.sort_by_key(|m| (leads(m), m.id));
    members.into_iter()
}

/// Whether what this member does not use is worth a moment in which it stands still.
pub fn worth_it(status: &MemberStatus, quota: u64) -> bool {
    let free = status.free_bytes();
    let much = free >= WORTH_BYTES && free >= status.db_bytes / 2;
    let nearly_full = status.db_bytes >= quota / 100 * NEARLY_FULL_PERCENT;
    much || (nearly_full && free >= quota / 10)
}

fn no_space(why: String, fix: &str) -> Fault {
    let what = "etcd accepts no more writes: its database has reached its quota";
    Fault::new(FaultCode::EtcdNoSpace, what, why).fix(fix)
}

fn is_healed(survey: &ClusterSurvey) -> Fault {
    let why = format!("{}; nodelet frees space", used(survey));
    no_space(
        why,
        "wait: it is compacted, defragmented member by member, and the alarm is disarmed; if that is not enough, \
         the leader's master says so (pf9ctl etcd status)",
    )
}

fn is_full(survey: &ClusterSurvey) -> Fault {
    let why = format!("{}, and there is no old revision to compact", used(survey));
    no_space(
        why,
        "delete what fills it (kubectl delete still works; look for what there is most of with kubectl get --raw \
         /metrics | grep apiserver_resource_objects), or raise the cluster's etcdQuotaBytes; space \
         is then freed and the alarm disarmed automatically",
    )
}

fn full_and_silent(silent: &MemberState) -> Fault {
    let why = format!(
        "space is freed when every member answers, and {} does not",
        silent.named()
    );
    no_space(
        why,
        "bring its master back, or remove its host from the plane",
    )
}

fn corrupt(survey: &ClusterSurvey, alarm: Alarm) -> Fault {
    let member = survey.members.iter().find(|m| m.id == alarm.member_id);
    let named = member.map_or_else(|| format!("{:x}", alarm.member_id), MemberState::named);
    let what = "etcd's members have different data";
    let why = format!("{named} raised the alarm CORRUPT");
    let fix = "detach the master whose data are wrong and attach it again, so that it gets them \
               from the others; etcd's log says which one that is (journalctl -u pf9-etcd)";
    Fault::new(FaultCode::EtcdCorrupt, what, why).fix(fix)
}

/// The fullest member, as text.
fn used(survey: &ClusterSurvey) -> String {
    let statuses = survey.members.iter().filter_map(|m| m.status.as_ref());
    let largest = statuses.map(|s| s.db_bytes).max().unwrap_or(0);
    format!(
        "{} MiB are in use, the file has {} MiB and may have {} MiB",
        mib(in_use(survey)),
        mib(largest),
        mib(survey.quota())
    )
}

fn mib(bytes: u64) -> u64 {
    bytes / (1024 * 1024)
}

impl MemberState {
    /// For people: its name, or its number.
    pub fn named(&self) -> String {
        if self.name.is_empty() {
            format!("member {:x}", self.id)
        } else {
            format!("member {:x} ({})", self.id, self.name)
        }
    }
}
