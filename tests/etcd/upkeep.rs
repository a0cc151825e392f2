//! A database at its quota: it recovers on its own when compaction makes room, and is explained when not.

use std::time::{Duration, Instant};

use pf9_hostagent::host::etcd::{AlarmKind, Fsyncs};
use pf9_hostagent::host::tls;
use pf9_hostagent::model::{Fault, FaultCode};
use pf9_hostagent::nodelet::etcd::upkeep::{self, Due};

use crate::lab::{Lab, Machine, VERSIONS, until};

/// The smallest quota a spec allows: filled within seconds.
const QUOTA: u64 = 16 << 20;
/// Size of one value. Larger ones leave gaps in the file into which no other fits, more of them the slower the disk is.
const VALUE: usize = 4000;
/// Values in one write.
const TOGETHER: usize = 30;
/// More writes than fit.
const TOO_MANY: usize = 200;
/// Longest that a repair may take here.
const PATIENCE: Duration = Duration::from_secs(90);

/// Running masters with a small quota.
fn small(version: &str, count: u8) -> Lab {
    let mut lab = Lab::new(version, count);
    for machine in &mut lab.machines {
        machine.node.spec_mut().etcd.quota_bytes = Some(QUOTA);
    }
    lab.settled();
    lab
}

/// Writes until etcd accepts no more.
fn fill(machine: &Machine, key: impl Fn(usize) -> String) {
    let value = "x".repeat(VALUE);
    for n in 0..TOO_MANY {
        let key = key(n);
        let puts: String = (0..TOGETHER)
            .map(|part| format!("put {key}/{part} {value}\n"))
            .collect();
        // No condition; the writes; otherwise nothing.
        if let Err(why) = machine.ctl_fed(&["txn"], &format!("\n{puts}\n\n")) {
            assert!(why.contains("database space exceeded"), "{why}");
            return;
        }
    }
    panic!("it was never full");
}

/// One pass of this master's nodelet: what it finds and does. What it compacted is kept in `compacted`.
fn tend(
    machine: &mut Machine,
    peers: &[pf9_hostagent::host::etcd::Etcd],
    compacted: &mut Option<u64>,
) -> (Due, Option<Fault>) {
    let (own, all) = (machine.client(), peers.to_vec());
    let before = *compacted;
    let (due, fault) = machine.inside(async move |_| {
        let id = own.status().await.expect("status").header.member_id;
        let survey = upkeep::survey(&own, all, Some(QUOTA))
            .await
            .expect("survey");
        let verdict = upkeep::verdict(id, &survey, before);
        upkeep::act(&own, &verdict.due).await.expect("it is done");
        (verdict.due, verdict.fault)
    });
    if let Due::Compact(revision) = &due {
        *compacted = Some(*revision);
    }
    (due, fault)
}

/// Runs passes on every master until nothing is found; returns what was done, and the faults of the last passes.
fn tended(lab: &mut Lab, compacted: &mut [Option<u64>]) -> (Vec<Due>, Vec<Option<Fault>>) {
    let (mut done, end) = (Vec::new(), Instant::now() + PATIENCE);
    loop {
        let mut faults = Vec::new();
        let before = done.len();
        for (n, compacted) in compacted.iter_mut().enumerate() {
            // New ones: each pass has a runtime of its own, and connections do not outlive theirs.
            let peers: Vec<_> = lab.machines.iter().map(Machine::client).collect();
            let (due, fault) = tend(&mut lab.machines[n], &peers, compacted);
            done.extend((due != Due::Nothing).then_some(due));
            faults.push(fault);
        }
        if done.len() == before {
            return (done, faults);
        }
        assert!(Instant::now() < end, "{done:?} {faults:?}");
    }
}

/// The same, until no fault is left: members compact each in its own time.
fn healed(lab: &mut Lab, compacted: &mut [Option<u64>]) -> Vec<Due> {
    let (mut all, end) = (Vec::new(), Instant::now() + PATIENCE);
    loop {
        let (done, faults) = tended(lab, compacted);
        all.extend(done);
        if faults.iter().all(Option::is_none) {
            return all;
        }
        assert!(Instant::now() < end, "{all:?} {faults:?}");
    }
}

fn alarms(machine: &mut Machine) -> Vec<AlarmKind> {
    let client = machine.client();
    let alarms = machine.inside(async move |_| client.alarms().await);
    alarms.expect("alarms").iter().map(|a| a.kind).collect()
}

#[test]
fn a_full_database_of_old_revisions_is_healed_by_itself() {
    for version in VERSIONS {
        let mut lab = small(version, 1);
        fill(&lab.machines[0], |_| "same".into());
        assert_eq!(
            alarms(&mut lab.machines[0]),
            [AlarmKind::NoSpace],
            "{version}"
        );
        let done = healed(&mut lab, &mut [None]);
        assert!(
            matches!(done[..], [Due::Compact(_), Due::Defragment, Due::Disarm(_)]),
            "{version}: {done:?}"
        );
        assert_eq!(alarms(&mut lab.machines[0]), [], "{version}");
        lab.machines[0].ctl(&["put", "again", "1"]);
    }
}

#[test]
fn one_that_stays_full_is_explained_and_healed_when_something_is_deleted() {
    let mut lab = small("3.7.3", 1);
    fill(&lab.machines[0], |n| format!("key-{n}"));
    let mut compacted = [None];
    let (done, faults) = tended(&mut lab, &mut compacted);
    assert!(matches!(done[..], [Due::Compact(_)]), "{done:?}");
    let fault = faults[0].as_ref().expect("explained");
    assert_eq!(fault.code, FaultCode::EtcdNoSpace);
    assert!(
        fault.why.contains("may have 16 MiB") && fault.fix.contains("delete"),
        "{fault}"
    );
    assert_eq!(alarms(&mut lab.machines[0]), [AlarmKind::NoSpace]);

    lab.machines[0].ctl(&["del", "--prefix", "key-1"]);
    let done = healed(&mut lab, &mut compacted);
    assert!(matches!(done.last(), Some(Due::Disarm(_))), "{done:?}");
    lab.machines[0].ctl(&["put", "again", "1"]);
    assert!(
        lab.machines[0]
            .ctl(&["get", "key-2/0"])
            .starts_with("key-2/0\n")
    );
}

#[test]
fn three_members_are_defragmented_one_after_the_other_the_leader_last() {
    let mut lab = small("3.7.3", 3);
    fill(&lab.machines[1], |_| "same".into());
    until("every member knows that it is full", || {
        lab.machines.iter_mut().all(|m| !alarms(m).is_empty())
    });
    let done = healed(&mut lab, &mut [None, None, None]);
    assert!(matches!(done.first(), Some(Due::Compact(_))), "{done:?}");
    assert!(matches!(done.last(), Some(Due::Disarm(_))), "{done:?}");
    let defragmented = done.iter().filter(|d| **d == Due::Defragment).count();
    assert_eq!(defragmented, 3, "{done:?}");
    lab.machines[2].ctl(&["put", "again", "1"]);
}

/// The disk's latency is read from the real metrics.
#[test]
fn the_time_of_the_disk_is_known() {
    for version in VERSIONS {
        let mut lab = small(version, 1);
        let only = &mut lab.machines[0];
        for n in 0..110 {
            only.ctl(&["put", "a", &n.to_string()]);
        }
        let seen = only.inside(async |_| {
            let client = tls::plain().expect("client");
            Fsyncs::ask(&client, "http://127.0.0.1:2381").await
        });
        let p99 = seen.expect("metrics").p99_since(&Fsyncs::default());
        assert!(p99.is_some(), "{version}");
    }
}
