//! Masters whose machine's address changes. Their members keep their identity, and are found again.

use pf9_hostagent::model::EtcdMember;

use crate::lab::{Lab, until};

/// The members for the specs, at the machines' present addresses.
fn members(lab: &Lab) -> Vec<EtcdMember> {
    let mut members = lab.machines[0].node.spec().etcd.members.clone();
    for machine in &lab.machines {
        let own = members.iter_mut().find(|m| m.host_id == machine.host_id);
        own.expect("a master").ip = machine.ip;
    }
    members
}

/// As the plane does, once root of the machine reported its address.
fn tell(lab: &mut Lab) {
    let members = members(lab);
    for machine in &mut lab.machines {
        machine.told(&lab.pki, &members);
    }
}

/// Each member's peer address, by the list of the first.
fn expected(lab: &mut Lab) -> Vec<(String, String)> {
    let members = lab.machines[0].members();
    let mut all: Vec<_> = members
        .into_iter()
        .map(|m| (m.name, m.peer_urls.join(",")))
        .collect();
    all.sort();
    all
}

fn at_home(lab: &Lab) -> Vec<(String, String)> {
    let at = |m: &crate::lab::Machine| (m.host_id.to_string(), format!("https://{}:2380", m.ip));
    let mut all: Vec<_> = lab.machines.iter().map(at).collect();
    all.sort();
    all
}

#[test]
fn a_master_with_another_address_is_found_by_the_others_and_keeps_its_data() {
    let mut lab = Lab::new("3.7.3", 3);
    lab.settled();
    lab.machines[0].ctl(&["put", "a", "1"]);
    lab.machines[2].gets(13);
    tell(&mut lab);
    // In any order: for the others only a line in their specs has changed so far.
    for n in [2, 0, 1] {
        lab.machines[n].settled_in_time();
    }
    assert_eq!(expected(&mut lab), at_home(&lab));
    assert_eq!(lab.machines[2].ctl(&["get", "a"]), "a\n1\n");
    for machine in &mut lab.machines {
        assert!(machine.plan().is_settled());
    }
    // It counts again: with it and without another one there is a quorum.
    lab.machines[0].kill();
    lab.machines[2].ctl(&["put", "a", "2"]);
}

/// The machine was off meanwhile: its etcd cannot even listen at its old address.
#[test]
fn a_master_that_comes_back_at_another_address_starts_there() {
    let mut lab = Lab::new("3.7.3", 3);
    lab.settled();
    lab.machines[1].kill();
    lab.machines[1].crash();
    lab.machines[1].gets(12);
    tell(&mut lab);
    for n in [1, 0, 2] {
        lab.machines[n].settled_in_time();
    }
    until("it is expected where it is", || {
        expected(&mut lab) == at_home(&lab)
    });
}

#[test]
fn a_lone_master_with_another_address_goes_on_with_its_data() {
    for was_off in [false, true] {
        let mut lab = Lab::new("3.7.3", 1);
        lab.settled();
        lab.machines[0].ctl(&["put", "a", "1"]);
        if was_off {
            lab.machines[0].kill();
            lab.machines[0].crash();
        }
        lab.machines[0].gets(11);
        tell(&mut lab);
        lab.machines[0].settled_in_time();
        assert_eq!(lab.machines[0].ctl(&["get", "a"]), "a\n1\n");
        until("it is expected where it is", || {
            lab.machines[0].settled_in_time();
            expected(&mut lab) == at_home(&lab)
        });
        assert!(lab.machines[0].plan().is_settled());
    }
}

/// Without it the others have no quorum, so its new address cannot be recorded: it starts there, reaches those that
/// stayed, and updates them then.
fn those_that_moved_are_counted_again(moved: &[usize]) {
    let mut lab = Lab::new("3.7.3", u8::try_from(moved.len() + 1).expect("few"));
    lab.settled();
    lab.machines[0].ctl(&["put", "a", "1"]);
    for (n, address) in moved.iter().zip(12..) {
        lab.machines[*n].gets(address);
    }
    tell(&mut lab);
    for n in moved {
        lab.machines[*n].settled_in_time();
    }
    lab.machines[0].settled_in_time();
    assert_eq!(expected(&mut lab), at_home(&lab));
    for machine in &mut lab.machines {
        assert_eq!(machine.ctl(&["get", "a"]), "a\n1\n");
        assert!(machine.plan().is_settled());
    }
}

#[test]
fn one_of_two_that_moved_starts_where_it_is_and_is_counted_again() {
    those_that_moved_are_counted_again(&[1]);
}

#[test]
fn two_of_three_that_moved_at_once_start_where_they_are_and_are_counted_again() {
    those_that_moved_are_counted_again(&[1, 2]);
}

/// No member finds any other, and no spec repairs that. The plane's remedy does: the previous addresses, beside the new
/// ones, then removed one after the other.
#[test]
fn masters_that_all_moved_at_once_follow_one_after_the_other_from_where_they_were() {
    let mut lab = Lab::new("3.7.3", 2);
    lab.settled();
    lab.machines[0].ctl(&["put", "a", "1"]);
    for (machine, address) in lab.machines.iter().zip(11..) {
        machine.is_elsewhere(address);
    }
    let stands_still = "--command-timeout=2s";
    lab.machines[0].refused(&[stands_still, "put", "a", "2"]);
    for (machine, old) in lab.machines.iter().zip(1..) {
        machine.is_here_too(old);
    }
    lab.machines[0].ctl(&["put", "a", "2"]);
    for (n, address) in [(1, 12), (0, 11)] {
        lab.machines[n].gets(address);
        tell(&mut lab);
        lab.machines[n].settled_in_time();
        lab.machines[1 - n].settled_in_time();
    }
    assert_eq!(expected(&mut lab), at_home(&lab));
    assert_eq!(lab.machines[1].ctl(&["get", "a"]), "a\n2\n");
}
