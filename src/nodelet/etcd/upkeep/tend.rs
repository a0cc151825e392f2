//! Upkeep on this master: what is shown of the members, and what was decided from it.

use std::time::Duration;

use super::super::chore::ChoreSeen;
use super::{ClusterSurvey, Due, UpkeepVerdict, act, all_well, mib, survey, verdict};
use crate::host::etcd::{Alarm, AlarmKind, Etcd, EtcdError, Fsyncs, MemberStatus};
use crate::host::fs::HostFs;
use crate::host::ours::ports;
use crate::host::tls;
use crate::model::{ChoreAnswer, EtcdAlarm, EtcdStatus, Fault, FaultCode, NodeSpec};
use crate::nodelet::peers;
use crate::telemetry::chain;

/// Where one sync in a hundred takes this long, elections come near: etcd's own advice is a tenth of it.
const SLOW_DISK: Duration = Duration::from_millis(100);
/// This much of the quota in use is reported while there is time to do something.
const NEARLY_FULL_PERCENT: u64 = 80;
/// Nothing could be done.
const NOT_TENDED: &str = "etcd's database was not maintained";

/// What is remembered between two looks.
#[derive(Default)]
pub(in crate::nodelet::etcd) struct Upkeep {
    /// Up to where this process compacted a full database.
    compacted: Option<u64>,
    due: Option<Due>,
    fsyncs: Option<Fsyncs>,
}

impl Upkeep {
    /// Looks at all members: into the status, and what the schedule decides by. What `own` said of its
    /// health is in the status already.
    pub(in crate::nodelet::etcd) async fn look(
        &mut self,
        fs: &HostFs,
        node: &NodeSpec,
        own: &Etcd,
        etcd: &mut EtcdStatus,
        seen: &mut ChoreSeen,
    ) {
        (seen.to_heal, seen.to_defragment) = (false, false);
        self.due = None;
        let Ok(status) = own.status().await else {
            // Said by who asked for its health.
            return;
        };
        show(&status, etcd);
        // A full database is no reason not to back it up.
        seen.healthy = status.leader != 0;
        etcd.fsync_p99_us = self.fsync().await.map(micros);
        match surveyed(fs, node, own).await {
            Ok(survey) => {
                show_all(&survey, etcd);
                let own = status.header.member_id;
                let UpkeepVerdict { due, fault } = verdict(own, &survey, self.compacted);
                seen.to_defragment = due == Due::Defragment && fault.is_none();
                seen.to_heal = due != Due::Nothing && fault.is_some();
                etcd.fault = fault.or(etcd.fault.take());
                etcd.warnings = warnings(&survey, etcd);
                self.due = Some(due);
            }
            Err(why) => tracing::debug!(why, "not all etcd members are known"),
        }
    }

    /// Does what the last look found due; that may be nothing, even for a full database.
    pub(in crate::nodelet::etcd) async fn heal(
        &mut self,
        own: &Etcd,
    ) -> Result<ChoreAnswer, Fault> {
        let due = self.due.take().unwrap_or(Due::Nothing);
        let done = act(own, &due).await.map_err(|e| not_done(&e))?;
        if let Due::Compact(revision) = due {
            self.compacted = Some(revision);
        }
        Ok(answer(done))
    }

    /// Defragments this master's member, whether it is worth it or not, if every member is well.
    pub(in crate::nodelet::etcd) async fn defragment(
        &self,
        fs: &HostFs,
        node: &NodeSpec,
        own: &Etcd,
    ) -> Result<ChoreAnswer, Fault> {
        let refuse = |why| Fault::new(FaultCode::EtcdNotTended, NOT_TENDED, why);
        let survey = surveyed(fs, node, own).await.map_err(refuse)?;
        if !all_well(&survey) {
            let why = "not every member is healthy, and this one does not answer while it is defragmented";
            return Err(refuse(why.to_owned()).fix("pf9ctl etcd status shows which one"));
        }
        let done = act(own, &Due::Defragment).await;
        Ok(answer(done.map_err(|e| not_done(&e))?))
    }

    async fn fsync(&mut self) -> Option<Duration> {
        let base = format!("http://127.0.0.1:{}", ports::ETCD_METRICS);
        let now = Fsyncs::ask(&tls::plain().ok()?, &base).await.ok()?;
        let before = self.fsyncs.replace(now.clone()).unwrap_or_default();
        now.p99_since(&before)
    }
}

async fn surveyed(fs: &HostFs, node: &NodeSpec, own: &Etcd) -> Result<ClusterSurvey, String> {
    let all = peers::etcd_members(fs, node)?;
    let survey = survey(own, all, node.etcd.quota_bytes).await;
    survey.map_err(|e| chain(&e))
}

fn show(status: &MemberStatus, etcd: &mut EtcdStatus) {
    etcd.cluster_id = format!("{:x}", status.header.cluster_id);
    etcd.member_id = format!("{:x}", status.header.member_id);
    etcd.leader = (status.leader != 0).then(|| format!("{:x}", status.leader));
    etcd.term = status.term;
    etcd.revision = status.header.revision;
    etcd.version.clone_from(&status.version);
    let storage = &status.storage_version;
    etcd.storage_version = (!storage.is_empty()).then(|| storage.clone());
    etcd.db_bytes = status.db_bytes;
    etcd.db_in_use_bytes = status.in_use_bytes;
}

fn show_all(survey: &ClusterSurvey, etcd: &mut EtcdStatus) {
    etcd.quota_bytes = survey.quota();
    etcd.alarms = survey.alarms.iter().map(shown).collect();
    for known in &mut etcd.members {
        let same = |m: &&super::MemberState| format!("{:x}", m.id) == known.id;
        let member = survey.members.iter().find(same);
        known.healthy = member.map(|m| m.status.as_ref().is_some_and(|s| s.leader != 0));
    }
}

fn shown(alarm: &Alarm) -> EtcdAlarm {
    EtcdAlarm {
        member: format!("{:x}", alarm.member_id),
        alarm: match alarm.kind {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
            AlarmKind::Other => "unknown",
        }
        .to_owned(),
    }
}

/// What is not wrong yet. `etcd` has what the disk did.
pub(super) fn warnings(survey: &ClusterSurvey, etcd: &EtcdStatus) -> Vec<Fault> {
    let mut all = Vec::new();
    if let Some(us) = etcd.fsync_p99_us.filter(|us| *us >= micros(SLOW_DISK)) {
        let what = "the disk of etcd is slow";
        let why = format!(
            "one sync of its log in a hundred takes {} ms or more",
            us / 1000
        );
        all.push(
            Fault::new(FaultCode::EtcdDiskSlow, what, why)
                .fix("give its directory a disk of its own, or a faster one; below 10 ms is good"),
        );
    }
    let statuses = survey.members.iter().filter_map(|m| m.status.as_ref());
    let most = statuses.map(|s| s.in_use_bytes).max().unwrap_or(0);
    let quota = survey.quota();
    if survey.alarms.is_empty() && most >= quota / 100 * NEARLY_FULL_PERCENT {
        let what = "etcd's database is nearly full";
        let why = format!("{} MiB of {} MiB are in use", mib(most), mib(quota));
        all.push(
            Fault::new(FaultCode::EtcdNearlyFull, what, why)
                .fix("delete what is not needed, or raise the cluster's etcdQuotaBytes"),
        );
    }
    all
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn not_done(error: &EtcdError) -> Fault {
    let fault = Fault::new(FaultCode::EtcdNotTended, NOT_TENDED, chain(error));
    fault.fix("it is retried automatically; see journalctl -u pf9-etcd")
}

fn answer(done: String) -> ChoreAnswer {
    tracing::info!("{done}");
    ChoreAnswer {
        done,
        backup: None,
        archived: Vec::new(),
    }
}
