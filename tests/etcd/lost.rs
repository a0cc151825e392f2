//! Lost data. No empty cluster is founded in the place of the real one.

use std::fs;

use pf9_hostagent::host::ours::units;
use pf9_hostagent::model::{FaultCode, paths};
use pf9_hostagent::nodelet::etcd::record;

use crate::lab::{Lab, Machine, copy_tree, until};

/// Moves the data of a stopped member away; returns where.
fn lose(machine: &Machine) -> std::path::PathBuf {
    machine.kill();
    let (data, aside) = (
        machine.fs.at(paths::ETCD_DATA),
        machine.fs.at("/root/etcd-moved"),
    );
    copy_tree(&data, &aside);
    fs::remove_dir_all(data.join("member")).expect("gone");
    aside
}

fn id_of(machine: &Machine) -> String {
    record::look(&machine.fs)
        .value
        .expect("it is noted")
        .data
        .member_id
}

#[test]
fn a_lone_master_whose_data_vanished_founds_nothing_and_says_what_helps() {
    let mut lab = Lab::new("3.7.3", 1);
    let only = &mut lab.machines[0];
    only.settled();
    only.ctl(&["put", "a", "1"]);
    let (before, aside) = (id_of(only), lose(only));
    only.crash();
    let why = only.fails();
    assert_eq!(why.code, FaultCode::EtcdData);
    for word in [paths::ETCD_DATA, "gone", " since 20", &before, "founded"] {
        assert!(why.why.contains(word), "{why}");
    }
    assert!(why.fix.contains("pf9ctl etcd restore"), "{why}");
    assert!(!why.why.contains("mount"), "{why}");
    // Nor does systemd alone, at boot or because the process died.
    only.calls();
    only.start();
    assert_eq!(
        only.calls(),
        [
            format!("start {}", units::ETCD),
            format!("condition {}", units::ETCD)
        ]
    );
    assert!(!only.is_up());
    assert!(!only.fs.at(paths::ETCD_DATA).join("member").exists());
    // Every further pass gives the same fault.
    assert_eq!(only.fails().code, FaultCode::EtcdData);
    copy_tree(&aside, &only.fs.at(paths::ETCD_DATA));
    only.settled();
    assert_eq!(only.ctl(&["get", "a"]), "a\n1\n");
    assert_eq!(id_of(only), before);
}

/// The note of the member was lost with its data: what is left, the settings, shows that there was a cluster.
#[test]
fn without_the_note_of_it_a_lone_master_founds_nothing_either() {
    let mut lab = Lab::new("3.7.3", 1);
    let only = &mut lab.machines[0];
    only.settled();
    lose(only);
    record::forget(&only.fs).expect("forget");
    let why = only.fails();
    assert!(
        why.code == FaultCode::EtcdData && why.why.contains("membership record is missing"),
        "{why}"
    );
    assert!(!only.is_up());
}

#[test]
fn a_disk_that_is_not_mounted_is_named_and_nothing_begins_in_its_place() {
    let mut lab = Lab::new("3.7.3", 1);
    let only = &mut lab.machines[0];
    only.mount(paths::ETCD_DATA);
    only.settled();
    only.ctl(&["put", "a", "1"]);
    only.kill();
    let disk = only.unmount(paths::ETCD_DATA);
    only.crash();
    let why = only.fails();
    assert_eq!(why.code, FaultCode::EtcdData);
    assert!(
        why.why
            .contains("/dev/lab-disk of type ext4 is not mounted"),
        "{why}"
    );
    assert!(why.fix.starts_with("mount it"), "{why}");
    only.start();
    assert!(!only.is_up(), "not at boot either");
    assert_eq!(
        fs::read_dir(only.fs.at(paths::ETCD_DATA))
            .expect("read")
            .count(),
        0
    );
    only.remount(&disk);
    only.settled();
    assert_eq!(only.ctl(&["get", "a"]), "a\n1\n");
}

/// Below the mount point is an older copy, of the same member.
#[test]
fn an_older_copy_below_the_mount_is_not_started() {
    let mut lab = Lab::new("3.7.3", 1);
    let only = &mut lab.machines[0];
    only.settled();
    let old = lose(only);
    only.mount(paths::ETCD_DATA);
    copy_tree(&old, &only.fs.at(paths::ETCD_DATA));
    only.settled();
    only.ctl(&["put", "a", "1"]);
    only.kill();
    let disk = only.unmount(paths::ETCD_DATA);
    copy_tree(&old, &only.fs.at(paths::ETCD_DATA));
    let why = only.fails();
    assert!(why.why.contains("is not mounted"), "{why}");
    assert!(!only.is_up());
    only.remount(&disk);
    only.settled();
    assert_eq!(only.ctl(&["get", "a"]), "a\n1\n");
}

#[test]
fn a_founder_that_lost_its_data_comes_back_to_the_others_as_a_new_member() {
    let mut lab = Lab::new("3.7.3", 3);
    lab.settled();
    lab.machines[0].ctl(&["put", "a", "1"]);
    let old = id_of(&lab.machines[2]);
    lose(&lab.machines[2]);
    lab.machines[2].crash();
    lab.machines[2].settled_in_time();
    let new = id_of(&lab.machines[2]);
    assert_ne!(new, old);
    assert_eq!(lab.machines[2].ctl(&["get", "a"]), "a\n1\n");
    let members = lab.machines[0].members();
    assert_eq!(members.len(), 3);
    assert!(members.iter().all(|m| !m.is_learner), "{members:?}");
    assert!(lab.machines[2].plan().is_settled());
    // Its data are now its own: the next loss is another member's.
    lab.machines[1].kill();
    assert_eq!(lab.machines[2].ctl(&["get", "a"]), "a\n1\n");
}

/// A reinstalled machine knows nothing, and has the order to found.
#[test]
fn a_founder_that_lost_everything_asks_the_others_before_it_founds() {
    let mut lab = Lab::new("3.6.16", 3);
    lab.settled();
    lab.machines[0].ctl(&["put", "a", "1"]);
    let last = &mut lab.machines[2];
    lose(last);
    record::forget(&last.fs).expect("forget");
    fs::remove_dir_all(last.fs.at("/etc/pf9/kube.d/etcd")).expect("settings");
    last.crash();
    last.settled_in_time();
    assert_eq!(last.ctl(&["get", "a"]), "a\n1\n");
    assert_eq!(lab.machines[0].members().len(), 3);
}

#[test]
fn a_member_whose_disk_is_missing_stays_a_member() {
    let mut lab = Lab::new("3.7.3", 3);
    lab.machines[2].mount(paths::ETCD_DATA);
    lab.settled();
    let before = lab.machines[0].members();
    lab.machines[2].kill();
    let disk = lab.machines[2].unmount(paths::ETCD_DATA);
    let why = lab.machines[2].fails();
    assert!(
        why.code == FaultCode::EtcdData && why.why.contains("not mounted"),
        "{why}"
    );
    assert_eq!(lab.machines[0].members(), before, "the disk has the data");
    lab.machines[2].remount(&disk);
    lab.machines[2].settled();
    assert_eq!(lab.machines[0].members(), before);
}

/// Two of three are lost: with the old member removed, one of two would be left. Nothing is done before another one is
/// back.
#[test]
fn without_a_quorum_of_the_others_a_lost_member_waits() {
    let mut lab = Lab::new("3.7.3", 3);
    lab.settled();
    lab.machines[0].ctl(&["put", "a", "1"]);
    lab.machines[1].kill();
    lose(&lab.machines[2]);
    let why = lab.machines[2].fails();
    assert_eq!(why.code, FaultCode::EtcdNotJoined, "{why}");
    assert!(!lab.machines[2].is_up());
    lab.machines[1].start();
    let back = &lab.machines[1];
    until("the other one is back", || back.is_up());
    lab.machines[2].settled_in_time();
    assert_eq!(lab.machines[2].ctl(&["get", "a"]), "a\n1\n");
    assert_eq!(lab.machines[0].members().len(), 3);
}

#[test]
fn another_members_data_are_not_started() {
    let mut lab = Lab::new("3.7.3", 3);
    lab.settled();
    lose(&lab.machines[2]);
    let theirs = lab.machines[1].fs.at(paths::ETCD_DATA);
    copy_tree(&theirs, &lab.machines[2].fs.at(paths::ETCD_DATA));
    let why = lab.machines[2].fails();
    assert_eq!(why.code, FaultCode::EtcdData);
    let other = id_of(&lab.machines[1]);
    assert!(
        why.why.contains(&format!("they are of member {other}")),
        "{why}"
    );
    assert!(!lab.machines[2].is_up());
}
