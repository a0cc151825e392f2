//! Which etcd works with whose data. What the gate refuses is tried for real on a copy and does not start; what it
//! allows, or prepares, does.

use std::fs;
use std::time::{Duration, Instant};

use pf9_hostagent::host::etcd::Lowering;
use pf9_hostagent::host::etcd_data::{self, DataSeen};
use pf9_hostagent::model::paths;
use pf9_hostagent::nodelet::etcd::version::{self, Gate};
use semver::Version;

use crate::lab::{Lab, Machine, Programs, copy_tree, until};

/// Longest that a member may take to start, or to give up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two polls of one.
const PAUSE: Duration = Duration::from_millis(50);

fn v(text: &str) -> Version {
    text.parse().expect("a version")
}

fn gate(machine: &mut Machine, has: &str, wants: &str) -> Gate {
    let (fs, has, wants) = (machine.fs.clone(), v(has), v(wants));
    machine.inside(async move |_| version::look(&fs, Some(&has), &wants).await)
}

fn refusal(gate: Gate) -> String {
    match gate {
        Gate::Refused(fault) => format!("{fault} / {}", fault.fix),
        other => panic!("not refused: {other:?}"),
    }
}

fn lowered_to(minor: u64) -> Gate {
    Gate::Prepare(Lowering::To(Version::new(3, minor, 0)))
}

/// Retried as the loop does: while another master prepares its data, the cluster works as the previous minor, and
/// nobody else may.
fn prepare(machine: &mut Machine, has: &str, wants: &str) {
    let (has, wants) = (v(has), v(wants));
    let end = Instant::now() + PATIENCE;
    loop {
        let (fs, client) = (machine.fs.clone(), machine.client());
        let (has, wants) = (has.clone(), wants.clone());
        let done =
            machine.inside(async move |_| version::prepare(&client, &fs, Some(&has), &wants).await);
        match done {
            Ok(_) => return,
            Err(fault) => assert!(Instant::now() < end, "{fault}\n{}", machine.log()),
        }
        std::thread::sleep(PAUSE);
    }
}

fn data(machine: &Machine) -> DataSeen {
    let seen = etcd_data::look(&machine.fs, paths::ETCD_DATA);
    seen.expect("readable").expect("data")
}

/// Waits until the cluster works as this minor.
fn works_as(machine: &Machine, minor: u64) {
    let end = Instant::now() + PATIENCE;
    loop {
        let seen = data(machine);
        if seen.cluster == Some(Version::new(3, minor, 0)) {
            return;
        }
        assert!(Instant::now() < end, "{seen:?}\n{}", machine.log());
        std::thread::sleep(PAUSE);
    }
}

/// Waits until nothing blocks the next etcd but what can be prepared for it.
fn open_for(machine: &mut Machine, has: &str, wants: &str) {
    until("the next etcd is let in", || {
        !matches!(gate(machine, has, wants), Gate::Refused(_))
    });
}

/// The next start uses this etcd, and it comes up.
fn goes_on_with(machine: &mut Machine, version: &str) {
    machine.stop();
    machine.use_programs(&Programs::of(version));
    machine.start();
    machine.settled();
}

/// This etcd is started with a copy of the data and gives up. The data stay as they were; `has` runs again afterwards.
fn really_refuses(machine: &mut Machine, has: &str, version: &str) {
    machine.stop();
    let (dir, aside) = (machine.fs.at(paths::ETCD_DATA), machine.fs.at("/tmp/aside"));
    copy_tree(&dir, &aside);
    machine.use_programs(&Programs::of(version));
    machine.start();
    let end = Instant::now() + PATIENCE;
    while machine.is_up() {
        let client = machine.client();
        let healthy = machine.inside(async move |_| client.healthy().await);
        assert!(healthy.is_err(), "{version} came up with data of {has}");
        assert!(
            Instant::now() < end,
            "{version} does not give up\n{}",
            machine.log()
        );
        std::thread::sleep(PAUSE);
    }
    fs::remove_dir_all(&dir).expect("remove what it left");
    fs::rename(&aside, &dir).expect("bring back what was there");
    goes_on_with(machine, has);
}

/// From 3.5 to 3.7 and back: every step that the gate refuses is tried for real, and every one that it allows.
#[test]
fn one_minor_at_a_time_up_and_down_again() {
    let mut lab = Lab::new("3.5.35", 1);
    let only = &mut lab.machines[0];
    only.settled();
    only.ctl(&["put", "a", "1"]);
    works_as(only, 5);

    let said = refusal(gate(only, "3.5.35", "3.7.3"));
    assert!(said.contains("a stack with etcd 3.6 first"), "{said}");
    really_refuses(only, "3.5.35", "3.7.3");
    // The patch release counts, whatever the data contain.
    let said = refusal(gate(only, "3.5.25", "3.6.16"));
    assert!(said.contains("a newer etcd 3.5"), "{said}");
    assert_eq!(gate(only, "3.5.35", "3.6.16"), Gate::Open);
    goes_on_with(only, "3.6.16");
    works_as(only, 6);

    // Healthy, and laid out for 3.6: 3.7 cannot read the log.
    assert!(data(only).log.old_entries > 0, "{:?}", data(only));
    assert_eq!(gate(only, "3.6.16", "3.7.3"), lowered_to(5));
    really_refuses(only, "3.6.16", "3.7.3");
    let starts = only.calls().len();
    prepare(only, "3.6.16", "3.7.3");
    assert!(
        starts > 0 && only.calls().is_empty(),
        "nothing is restarted for it"
    );
    let log = data(only).log;
    assert!(log.old_entries == 0 && log.snapshot.is_some(), "{log:?}");
    assert_eq!(gate(only, "3.6.16", "3.7.3"), Gate::Open);
    goes_on_with(only, "3.7.3");
    works_as(only, 7);
    assert_eq!(only.ctl(&["get", "a"]), "a\n1\n");

    assert_eq!(gate(only, "3.7.3", "3.6.16"), lowered_to(6));
    really_refuses(only, "3.7.3", "3.6.16");
    prepare(only, "3.7.3", "3.6.16");
    goes_on_with(only, "3.6.16");
    assert_eq!(only.ctl(&["get", "a"]), "a\n1\n");
    // And forward again, from a log that 3.7 wrote.
    works_as(only, 6);
    if gate(only, "3.6.16", "3.7.3") != Gate::Open {
        prepare(only, "3.6.16", "3.7.3");
    }
    goes_on_with(only, "3.7.3");
    assert_eq!(only.ctl(&["get", "a"]), "a\n1\n");
}

/// Each of three prepares its own data at the same time; none waits for another, except that a master still below 3.6
/// holds the others up.
#[test]
fn three_masters_go_together() {
    let mut lab = Lab::new("3.5.35", 3);
    lab.settled();
    lab.machines[0].ctl(&["put", "a", "1"]);
    for machine in &lab.machines {
        works_as(machine, 5);
    }
    for n in [0, 1] {
        goes_on_with(&mut lab.machines[n], "3.6.16");
    }
    let said = refusal(gate(&mut lab.machines[0], "3.6.16", "3.7.3"));
    assert!(
        said.contains("works as 3.5 until every master has 3.6"),
        "{said}"
    );
    goes_on_with(&mut lab.machines[2], "3.6.16");
    for machine in &mut lab.machines {
        works_as(machine, 6);
        machine.calls();
        // Each gets its order separately.
        open_for(machine, "3.6.16", "3.7.3");
    }
    for (has, wants, minor) in [("3.6.16", "3.7.3", 7), ("3.7.3", "3.6.16", 6)] {
        std::thread::scope(|scope| {
            for machine in &mut lab.machines {
                scope.spawn(|| prepare(machine, has, wants));
            }
        });
        for machine in &mut lab.machines {
            assert!(machine.calls().is_empty(), "nothing is restarted for it");
            goes_on_with(machine, wants);
        }
        for machine in &lab.machines {
            machine.calls();
            works_as(machine, minor);
            assert_eq!(machine.ctl(&["get", "a"]), "a\n1\n");
        }
    }
}

/// The numbers that etcd reports are those in its files.
#[test]
fn the_files_say_what_etcd_says() {
    for version in crate::lab::VERSIONS {
        let mut lab = Lab::new(version, 1);
        let only = &mut lab.machines[0];
        only.settled();
        let client = only.client();
        let said = only.inside(async move |_| client.status().await);
        let said = said.unwrap_or_else(|e| panic!("{version}: {e}"));
        let seen = data(only);
        assert_eq!(
            seen.log.cluster_id,
            Some(said.header.cluster_id),
            "{version}"
        );
        assert_eq!(seen.log.member_id, Some(said.header.member_id), "{version}");
        assert_eq!(seen.members.len(), 1, "{version}");
        assert_eq!(seen.members[0].id, said.header.member_id, "{version}");
        assert_eq!(seen.members[0].name, only.host_id.to_string(), "{version}");
        assert_eq!(said.version, version);
        assert!(said.leads() && !said.is_learner, "{version}: {said:?}");
    }
}
