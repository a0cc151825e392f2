//! A cluster starts over from a snapshot.

use std::fs;

use pf9_hostagent::egress::Egress;
use pf9_hostagent::host::fs::Attrs;
use pf9_hostagent::model::{FaultCode, Timestamp, paths};
use pf9_hostagent::nodelet::etcd::restore::run::{Went, step};
use pf9_hostagent::nodelet::etcd::restore::source::Shelves;
use pf9_hostagent::nodelet::etcd::restore::stage::RestoreContext;
use pf9_hostagent::nodelet::etcd::restore::{By, RestoreGoal, RestoreRun, Restores, Source};
use serde_json::Value;
use uuid::Uuid;

use crate::lab::{Lab, Machine, Programs, VERSIONS};

const SNAPSHOT: &str = "/root/s.db";
const KEYS: usize = 20;
/// A foreign file on etcd's disk.
const SOMEBODYS: &str = "/var/lib/pf9/etcd/somebodys";

/// Header of an etcd answer.
struct Head {
    cluster: u64,
    revision: i64,
}

fn head(machine: &Machine) -> Head {
    let said = machine.ctl(&["get", "no-such-key", "-w", "json"]);
    let said: Value = serde_json::from_str(&said).expect("json");
    let header = &said["header"];
    Head {
        cluster: header["cluster_id"].as_u64().expect("cluster"),
        revision: header["revision"].as_i64().expect("revision"),
    }
}

pub(crate) fn write_keys(machine: &Machine) {
    for n in 0..KEYS {
        machine.ctl(&["put", &format!("k{n}"), &format!("v{n}")]);
    }
}

pub(crate) fn all_keys_are_there(machine: &Machine) {
    let said = machine.ctl(&["get", "k", "--prefix", "--keys-only"]);
    let keys = said.lines().filter(|line| !line.is_empty()).count();
    assert_eq!(keys, KEYS, "{said}");
    assert_eq!(machine.ctl(&["get", "k7"]), "k7\nv7\n");
}

fn snapshot(machine: &Machine) {
    let at = machine.fs.at(SNAPSHOT);
    fs::create_dir_all(at.parent().expect("directory")).expect("directory");
    machine.ctl(&["snapshot", "save", &at.to_string_lossy()]);
}

pub(crate) fn lose_the_data(machine: &Machine) {
    machine.kill();
    fs::remove_dir_all(machine.fs.at(format!("{}/member", paths::ETCD_DATA))).expect("gone");
}

pub(crate) fn ask(machine: &Machine, goal: RestoreGoal) {
    let cluster = machine.node.spec().cluster_id;
    let run = RestoreRun::asked(
        Uuid::from_u128(7),
        By::Root,
        cluster,
        goal,
        Timestamp::now(),
    );
    Restores::of(&machine.fs).save(&run).expect("asked");
}

fn restore() -> RestoreGoal {
    RestoreGoal::Restored(Source {
        file: SNAPSHOT.into(),
        recovery_key: None,
        any_cluster: false,
        signers: None,
        unsigned: true,
    })
}

/// Takes steps as long as possible.
pub(crate) fn go(machine: &mut Machine) -> Went {
    machine.inside(async |node| {
        let shelves = Shelves::default();
        loop {
            let hands = RestoreContext {
                host: &node.host,
                node: &node.ctx.node,
                egress: &Ok(Egress::direct()),
                shelves: &shelves,
            };
            match step(hands, Timestamp::now()).await {
                Went::On(_) => {}
                end => return end,
            }
        }
    })
}

fn data(machine: &Machine) -> Vec<String> {
    machine.fs.list(paths::ETCD_DATA).expect("list")
}

#[test]
fn a_lone_master_is_restored_and_old_watches_are_told_to_look_anew() {
    for version in VERSIONS {
        let mut lab = Lab::new(version, 1);
        let only = &mut lab.machines[0];
        only.settled();
        write_keys(only);
        snapshot(only);
        only.ctl(&["put", "late", "1"]);
        let before = head(only);
        lose_the_data(only);
        ask(only, restore());
        assert_eq!(go(only), Went::Ended(None), "{version}: {}", only.log());
        only.settled();
        all_keys_are_there(only);
        assert_eq!(only.ctl(&["get", "late"]), "", "{version}: it came after");
        let after = head(only);
        assert_ne!(after.cluster, before.cluster, "{version}");
        assert!(after.revision > before.revision, "{version}");
        let said = only.refused(&["watch", "k1", "--rev", &before.revision.to_string()]);
        assert!(said.contains("compacted"), "{version}: {said}");
        only.ctl(&["put", "again", "1"]);
    }
}

#[test]
fn the_data_of_all_three_are_lost_and_the_cluster_is_whole_again() {
    all_are_lost(3);
}

#[test]
fn the_data_of_all_five_are_lost_and_the_cluster_is_whole_again() {
    all_are_lost(5);
}

fn all_are_lost(count: u8) {
    let mut lab = Lab::new("3.7.3", count);
    lab.settled();
    write_keys(&lab.machines[0]);
    snapshot(&lab.machines[0]);
    let before = head(&lab.machines[0]);
    for machine in &lab.machines {
        lose_the_data(machine);
    }
    ask(&lab.machines[0], restore());
    assert_eq!(go(&mut lab.machines[0]), Went::Ended(None));
    lab.machines[0].settled();
    for machine in &mut lab.machines[1..] {
        ask(machine, RestoreGoal::Rejoined);
        assert_eq!(go(machine), Went::Ended(None));
        settles(machine);
    }
    whole(&mut lab, before);
}

/// Two of five still have their data, and no quorum: with the restored one they are one cluster again.
#[test]
fn five_of_which_three_are_lost_are_one_cluster_again() {
    let mut lab = Lab::new("3.7.3", 5);
    lab.settled();
    write_keys(&lab.machines[0]);
    snapshot(&lab.machines[0]);
    lab.machines[0].ctl(&["put", "late", "1"]);
    let before = head(&lab.machines[0]);
    for machine in &lab.machines[..3] {
        lose_the_data(machine);
    }
    ask(&lab.machines[0], restore());
    // A member without a quorum still runs: it stops before the new cluster begins.
    assert!(matches!(go(&mut lab.machines[0]), Went::Waits(_)));
    for machine in &mut lab.machines[3..] {
        ask(machine, RestoreGoal::Rejoined);
        assert!(matches!(go(machine), Went::Waits(_)));
        assert_eq!(data(machine), ["member"]);
    }
    assert_eq!(go(&mut lab.machines[0]), Went::Ended(None));
    lab.machines[0].settled();
    for machine in &mut lab.machines[1..3] {
        ask(machine, RestoreGoal::Rejoined);
    }
    for machine in &mut lab.machines[1..] {
        assert_eq!(go(machine), Went::Ended(None));
        settles(machine);
    }
    assert_eq!(lab.machines[4].ctl(&["get", "late"]), "");
    for machine in &lab.machines[3..] {
        let names = data(machine);
        assert!(names.iter().any(|n| n.starts_with("before-")), "{names:?}");
    }
    whole(&mut lab, before);
}

/// A restore while members still run: at no time do two clusters answer.
#[test]
fn others_that_run_are_waited_for_and_keep_their_data_until_the_new_cluster_answers() {
    let mut lab = Lab::new("3.7.3", 3);
    lab.settled();
    write_keys(&lab.machines[0]);
    snapshot(&lab.machines[0]);
    lab.machines[0].ctl(&["put", "late", "1"]);
    let before = head(&lab.machines[0]);
    ask(&lab.machines[0], restore());
    let Went::Waits(what) = go(&mut lab.machines[0]) else {
        panic!("two others run");
    };
    for other in &lab.machines[1..] {
        assert!(what.contains(&other.ip.to_string()), "{what}");
        assert!(other.is_up());
    }
    assert!(lab.machines[0].is_up(), "nothing was stopped");
    for n in 1..3 {
        ask(&lab.machines[n], RestoreGoal::Rejoined);
        assert!(matches!(go(&mut lab.machines[n]), Went::Waits(_)));
        assert!(!lab.machines[n].is_up());
        assert_eq!(data(&lab.machines[n]), ["member"]);
    }
    assert_eq!(go(&mut lab.machines[0]), Went::Ended(None));
    lab.machines[0].settled();
    for n in 1..3 {
        assert_eq!(go(&mut lab.machines[n]), Went::Ended(None));
        settles(&mut lab.machines[n]);
    }
    assert_eq!(lab.machines[2].ctl(&["get", "late"]), "");
    whole(&mut lab, before);
}

/// Joining takes several passes: the others add it first, then it starts, then it gets a vote. And etcd takes no new
/// member before its members have known each other for a while.
fn settles(machine: &mut Machine) {
    for _ in 0..5 {
        machine.settled_in_time();
        if machine.plan().is_settled() {
            return;
        }
    }
    panic!("{}", machine.log());
}

fn whole(lab: &mut Lab, before: Head) {
    let all = lab.machines.len();
    for machine in &mut lab.machines {
        all_keys_are_there(machine);
        let after = head(machine);
        assert_ne!(after.cluster, before.cluster);
        assert!(after.revision > before.revision);
        let members = machine.members();
        let votes = members.iter().filter(|m| !m.is_learner).count();
        assert_eq!((members.len(), votes), (all, all), "{members:?}");
    }
}

/// A data directory on a disk of its own stays there.
#[test]
fn a_data_directory_that_is_a_mount_is_restored_within_it() {
    let mut lab = Lab::new("3.7.3", 1);
    let only = &mut lab.machines[0];
    only.mount(paths::ETCD_DATA);
    only.settled();
    write_keys(only);
    snapshot(only);
    ask(only, restore());
    assert_eq!(go(only), Went::Ended(None));
    only.settled();
    all_keys_are_there(only);
    let names = data(only);
    assert!(names.iter().any(|n| n.starts_with("before-")), "{names:?}");
}

/// Lets the machine run this when etcdutl is about to make the data.
fn before_each_restore(machine: &Machine, command: &str) {
    let real = Programs::of("3.7.3").dir;
    let dir = machine.fs.at("/wrapped");
    fs::create_dir_all(&dir).expect("directory");
    for name in ["etcd", "etcdctl"] {
        // Not a symlink: the machine's root differs.
        if !dir.join(name).exists() {
            fs::copy(real.join(name), dir.join(name)).expect("a copy");
        }
    }
    let etcdutl = real.join("etcdutl");
    let text = format!(
        "#!/bin/sh\n[ \"$1 $2\" != \"snapshot restore\" ] || {command}\nexec {} \"$@\"\n",
        etcdutl.display()
    );
    let attrs = Attrs::mode(0o755);
    machine
        .fs
        .write("/wrapped/etcdutl", text.as_bytes(), &attrs)
        .expect("write");
    machine.use_programs(&Programs { dir });
}

/// Another process fills the disk while the new data are made: that is reported, the new data are removed, and the
/// cluster keeps the old ones. With room again the restore succeeds.
#[test]
fn a_disk_that_fills_in_the_middle_changes_nothing_and_is_said() {
    let mut lab = Lab::new("3.7.3", 1);
    let only = &mut lab.machines[0];
    only.small_disk(paths::ETCD_DATA, "512m");
    only.settled();
    write_keys(only);
    snapshot(only);
    let disk = only.fs.at(SOMEBODYS);
    let fills = format!(
        "/bin/dd if=/dev/zero of={} bs=64k 2>/dev/null",
        disk.display()
    );
    before_each_restore(only, &fills);
    ask(only, restore());
    let Went::Ended(Some(fault)) = go(only) else {
        panic!("not refused");
    };
    assert_eq!(fault.code, FaultCode::DiskFull, "{fault}");
    assert!(only.is_up());
    let mut names = data(only);
    names.sort();
    assert_eq!(names, ["member", "somebodys"]);
    only.fs.remove_file(SOMEBODYS).expect("remove");
    only.settled();
    all_keys_are_there(only);
    before_each_restore(only, "true");
    ask(only, restore());
    assert_eq!(go(only), Went::Ended(None));
    only.settled();
    all_keys_are_there(only);
}

/// Its tool would accept it, and etcd would not start with it.
#[test]
fn a_snapshot_of_a_newer_etcd_is_refused_before_anything_is_touched() {
    let newer = Lab::new("3.7.3", 1);
    let bytes = {
        let mut newer = newer;
        newer.machines[0].settled();
        write_keys(&newer.machines[0]);
        snapshot(&newer.machines[0]);
        fs::read(newer.machines[0].fs.at(SNAPSHOT)).expect("snapshot")
    };
    let mut lab = Lab::new("3.6.16", 1);
    let only = &mut lab.machines[0];
    only.settled();
    write_keys(only);
    put(only, &bytes);
    only.calls();
    let fault = refused(only);
    assert_eq!(fault.code, FaultCode::EtcdRestoreUnfit, "{fault}");
    assert!(fault.what.contains("3.6.16"), "{fault}");
}

#[test]
fn a_file_that_is_cut_empty_damaged_or_foreign_is_refused_and_nothing_is_touched() {
    let mut lab = Lab::new("3.7.3", 1);
    let only = &mut lab.machines[0];
    only.settled();
    write_keys(only);
    snapshot(only);
    let good = fs::read(only.fs.at(SNAPSHOT)).expect("snapshot");
    let mut damaged = good.clone();
    damaged[5000] ^= 1;
    let database = good[..good.len() - 32].to_vec();
    only.calls();
    for (bytes, said) in [
        (good[..good.len() / 2].to_vec(), "no snapshot has"),
        (Vec::new(), "it is empty"),
        (damaged, "the digest at its end"),
        (database, "no snapshot has"),
        (sealed(vec![7; 16384]), "etcdutl does not open it"),
        (b"#!/bin/sh\n".to_vec(), "no snapshot has"),
    ] {
        put(only, &bytes);
        let fault = refused(only);
        assert!(fault.why.contains(said), "{fault}");
    }
    // A plain snapshot does not name its cluster.
    put(only, &good);
    let RestoreGoal::Restored(mut source) = restore() else {
        unreachable!("it is one");
    };
    source.unsigned = false;
    ask(only, RestoreGoal::Restored(source));
    let Went::Ended(Some(fault)) = go(only) else {
        panic!("not refused");
    };
    assert_eq!(fault.code, FaultCode::BackupUntrusted, "{fault}");
}

/// With the digest at its end that a snapshot has.
fn sealed(bytes: Vec<u8>) -> Vec<u8> {
    let digest = pf9_hostagent::model::Digest::of(&bytes).0;
    [bytes, digest.to_vec()].concat()
}

fn put(machine: &Machine, bytes: &[u8]) {
    let at = machine.fs.at(SNAPSHOT);
    fs::create_dir_all(at.parent().expect("directory")).expect("directory");
    fs::write(at, bytes).expect("write");
}

/// The restore of this file is refused; etcd is untouched and has its old data.
fn refused(machine: &mut Machine) -> pf9_hostagent::model::Fault {
    ask(machine, restore());
    let Went::Ended(Some(fault)) = go(machine) else {
        panic!("not refused");
    };
    let calls = machine.calls();
    assert!(calls.is_empty(), "{calls:?}");
    assert_eq!(data(machine), ["member"]);
    assert!(machine.is_up());
    all_keys_are_there(machine);
    fault
}
