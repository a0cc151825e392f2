//! Whose turn it is, and how a full database comes out of it.

use proptest::prelude::*;

use super::*;
use crate::host::etcd::Header;

const MIB: u64 = 1024 * 1024;
const QUOTA: u64 = 1000 * MIB;

/// A member with so many MiB of file and in use; 2 leads.
fn member(id: u64, file: u64, in_use: u64) -> MemberState {
    MemberState {
        id,
        name: format!("host-{id}"),
        status: Some(MemberStatus {
            header: Header {
                member_id: id,
                revision: 70,
                ..Header::default()
            },
            db_bytes: file * MIB,
            in_use_bytes: in_use * MIB,
            quota_bytes: QUOTA,
            leader: 2,
            index: 100,
            applied: 100,
            ..MemberStatus::default()
        }),
    }
}

fn three(members: [(u64, u64); 3]) -> ClusterSurvey {
    let members = (1..)
        .zip(members)
        .map(|(id, (file, used))| member(id, file, used));
    ClusterSurvey {
        members: members.collect(),
        ..ClusterSurvey::default()
    }
}

fn full(mut survey: ClusterSurvey) -> ClusterSurvey {
    survey.alarms.insert(Alarm {
        member_id: 1,
        kind: AlarmKind::NoSpace,
    });
    survey
}

fn dues(survey: &ClusterSurvey, compacted: Option<u64>) -> [Due; 3] {
    [1, 2, 3].map(|own| verdict(own, survey, compacted).due)
}

/// Who is to defragment, if one is.
fn turn(survey: &ClusterSurvey) -> Vec<u64> {
    let all = [1, 2, 3].into_iter();
    all.filter(|own| verdict(*own, survey, None).due == Due::Defragment)
        .collect()
}

#[test]
fn one_after_the_other_the_leader_last_and_only_when_it_is_worth_it() {
    assert_eq!(turn(&three([(400, 100), (400, 100), (400, 100)])), [1]);
    assert_eq!(turn(&three([(110, 100), (400, 100), (400, 100)])), [3]);
    assert_eq!(turn(&three([(110, 100), (400, 100), (110, 100)])), [2]);
    // A little, or a small part of it.
    assert!(turn(&three([(150, 60), (90, 1), (700, 400)])).is_empty());
    // Nearly full: a tenth of the quota is worth it.
    assert_eq!(turn(&three([(110, 100), (110, 100), (850, 740)])), [3]);
}

#[test]
fn nobody_stands_still_while_a_member_is_not_well() {
    let bend = |change: &dyn Fn(&mut MemberStatus)| {
        let mut survey = three([(400, 100), (110, 100), (110, 100)]);
        survey.members[2].status.as_mut().map(change);
        survey
    };
    assert_eq!(turn(&bend(&|_| {})), [1]);
    assert!(turn(&bend(&|s| s.errors.push("etcdserver: no leader".into()))).is_empty());
    assert!(turn(&bend(&|s| s.leader = 0)).is_empty());
    assert!(
        turn(&bend(&|s| s.index = 100_000)).is_empty(),
        "another is far behind"
    );
    let mut silent = three([(400, 100), (110, 100), (110, 100)]);
    silent.members[1].status = None;
    assert!(turn(&silent).is_empty());
}

#[test]
fn a_full_database_is_compacted_defragmented_and_disarmed_in_this_order() {
    // Followers do not count again what compaction freed.
    let stale = full(three([(1000, 990), (1000, 8), (1000, 990)]));
    assert_eq!(
        dues(&stale, Some(70)),
        [Due::Defragment, Due::Nothing, Due::Nothing]
    );
    // What a member that is behind says is stale.
    let mut behind = full(three([(1000, 990), (1000, 990), (1000, 8)]));
    for member in &mut behind.members[..2] {
        let status = member.status.as_mut().expect("it answers");
        (status.index, status.applied) = (100_000, 100_000);
    }
    assert!(dues(&behind, Some(70)).iter().all(|d| *d == Due::Nothing));
    // Nothing of it is known to be old before it was compacted.
    let survey = full(three([(1000, 990), (1000, 990), (1000, 990)]));
    assert_eq!(
        dues(&survey, None),
        [Due::Nothing, Due::Compact(70), Due::Nothing]
    );
    let survey = full(three([(1000, 300), (1000, 300), (1000, 300)]));
    assert_eq!(dues(&survey, Some(70))[0], Due::Defragment);
    assert_eq!(dues(&survey, Some(70))[1..], [Due::Nothing, Due::Nothing]);
    let survey = full(three([(301, 300), (1000, 300), (1000, 300)]));
    assert_eq!(dues(&survey, Some(70))[2], Due::Defragment);
    let survey = full(three([(301, 300), (1000, 300), (301, 300)]));
    assert_eq!(dues(&survey, Some(70))[1], Due::Defragment);
    let survey = full(three([(301, 300), (301, 300), (301, 300)]));
    let [one, leader, three] = dues(&survey, Some(70));
    assert_eq!((one, three), (Due::Nothing, Due::Nothing));
    assert_eq!(leader, Due::Disarm(survey.alarms.clone()));
}

#[test]
fn one_that_stays_full_is_explained_until_something_is_deleted() {
    let survey = full(three([(1000, 950), (1000, 950), (1000, 950)]));
    let said = verdict(2, &survey, Some(70));
    assert_eq!(said.due, Due::Nothing);
    let fault = said.fault.expect("explained");
    assert_eq!(fault.code, FaultCode::EtcdNoSpace);
    assert!(fault.why.contains("950 MiB are in use"), "{fault}");
    assert!(fault.why.contains("may have 1000 MiB"), "{fault}");
    assert!(
        fault.fix.contains("delete") && fault.fix.contains("etcdQuotaBytes"),
        "{fault}"
    );
    // Deleting is a newer revision: what it left behind can be forgotten.
    let mut deleted = survey;
    deleted.members[1]
        .status
        .as_mut()
        .expect("status")
        .header
        .revision = 71;
    assert_eq!(verdict(2, &deleted, Some(70)).due, Due::Compact(71));
}

#[test]
fn a_silent_member_and_different_data_are_for_people() {
    let mut survey = full(three([(1000, 300), (1000, 300), (1000, 300)]));
    survey.members[2].status = None;
    let said = verdict(2, &survey, None);
    assert_eq!(said.due, Due::Nothing);
    assert!(said.fault.expect("said").why.contains("host-3"));
    let mut survey = three([(400, 100), (400, 100), (400, 100)]);
    survey.alarms.insert(Alarm {
        member_id: 3,
        kind: AlarmKind::Corrupt,
    });
    let said = verdict(1, &survey, None);
    assert_eq!(said.due, Due::Nothing);
    assert_eq!(said.fault.expect("said").code, FaultCode::EtcdCorrupt);
}

fn surveys() -> impl Strategy<Value = ClusterSurvey> {
    let status = (0_u64..1100, 0_u64..1100, any::<bool>());
    (
        proptest::collection::vec(status, 1..6),
        any::<bool>(),
        1_u64..6,
    )
        .prop_map(|(all, is_full, leader)| {
            let members = (1..).zip(all).map(|(id, (file, used, answers))| {
                let mut one = member(id, file.max(used), used);
                if let Some(status) = &mut one.status {
                    status.leader = leader;
                }
                one.status = one.status.filter(|_| answers || id % 3 != 0);
                one
            });
            let survey = ClusterSurvey {
                members: members.collect(),
                ..ClusterSurvey::default()
            };
            if is_full { full(survey) } else { survey }
        })
}

proptest! {
    /// Whatever the members say: one at most stands still, none while another is silent, and an alarm
    /// is taken back only where every file is well below the quota.
    #[test]
    fn one_at_a_time(survey in surveys(), compacted in proptest::option::of(Just(70_u64))) {
        let dues: Vec<Due> = survey.members.iter().map(|m| verdict(m.id, &survey, compacted).due).collect();
        let busy = dues.iter().filter(|d| **d != Due::Nothing).count();
        prop_assert!(busy <= 1, "{dues:?}");
        let all_answer = survey.members.iter().all(|m| m.status.is_some());
        prop_assert!(all_answer || busy == 0);
        if dues.iter().any(|d| matches!(d, Due::Disarm(_))) {
            let files = survey.members.iter().filter_map(|m| m.status.as_ref());
            prop_assert!(files.clone().all(|s| s.db_bytes < QUOTA / 100 * 90));
        }
    }
}

#[test]
fn a_slow_disk_and_a_nearly_full_database_are_told_in_time() {
    use crate::model::EtcdStatus;
    let codes = |survey: &ClusterSurvey, us| {
        let etcd = EtcdStatus {
            fsync_p99_us: us,
            ..EtcdStatus::default()
        };
        let warnings = super::tend::warnings(survey, &etcd);
        warnings.iter().map(|w| w.code).collect::<Vec<_>>()
    };
    let well = three([(900, 100), (900, 100), (900, 100)]);
    assert_eq!(codes(&well, None), []);
    assert_eq!(codes(&well, Some(32_000)), []);
    assert_eq!(codes(&well, Some(128_000)), [FaultCode::EtcdDiskSlow]);
    let nearly = three([(900, 100), (900, 810), (900, 100)]);
    assert_eq!(codes(&nearly, None), [FaultCode::EtcdNearlyFull]);
    assert_eq!(codes(&full(nearly), None), [], "that is said otherwise");
}
