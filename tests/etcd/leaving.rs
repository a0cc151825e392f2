//! Which masters may leave etcd, and whose member is removed by others.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use pf9_hostagent::model::{EtcdGone, FaultCode};
use pf9_hostagent::nodelet::ledger::LedgerFile;
use pf9_hostagent::nodelet::removal;
use pf9_hostagent::nodelet::run::RunEnd;

use crate::lab::{Lab, until};

/// The number of the machine whose member leads.
fn leader(lab: &mut Lab) -> usize {
    let mut found = None;
    until("there is a leader", || {
        found = (0..lab.machines.len()).find(|n| {
            let client = lab.machines[*n].client();
            let asked = lab.machines[*n].inside(async move |_| client.status().await);
            asked.is_ok_and(|me| me.leads())
        });
        found.is_some()
    });
    found.expect("a leader")
}

fn gone(lab: &Lab, n: usize) -> EtcdGone {
    EtcdGone {
        host_id: lab.machines[n].host_id,
        member_id: None,
    }
}

/// Tells the others that these are gone, and are no longer masters.
fn name(lab: &mut Lab, machines: &[usize]) {
    let gone: Vec<EtcdGone> = machines.iter().map(|n| gone(lab, *n)).collect();
    for machine in &mut lab.machines {
        let etcd = &mut machine.node.spec_mut().etcd;
        etcd.members
            .retain(|m| gone.iter().all(|g| g.host_id != m.host_id));
        etcd.gone.clone_from(&gone);
    }
}

#[test]
fn a_healthy_master_is_not_removed_while_another_one_is_dead() {
    let mut lab = Lab::new("3.7.3", 3);
    lab.settled();
    lab.machines[2].kill();
    let dead = lab.machines[2].host_id.to_string();
    // While the remaining two elect a leader neither of them is healthy.
    until("it says who is silent", || {
        let removal::RemovalEnd::Held(why) =
            lab.machines[0].inside(async |node| node.remove(false).await)
        else {
            panic!("it goes");
        };
        assert_eq!(why.code, FaultCode::EtcdQuorum);
        why.why.contains(&format!("no answer from {dead}"))
    });
    assert!(lab.machines[0].is_up(), "and runs on");
    lab.machines[1].ctl(&["put", "a", "1"]);
    assert_eq!(lab.machines[1].members().len(), 3);
    // When the dead one is back, it leaves; the others have everything.
    lab.machines[2].start();
    until("it goes", || {
        lab.machines[0].inside(async |node| node.remove(false).await) == removal::RemovalEnd::Done
    });
    assert!(!lab.machines[0].is_up());
    assert_eq!(lab.machines[1].members().len(), 2);
    assert_eq!(lab.machines[2].ctl(&["get", "a"]), "a\n1\n");
}

/// The quorum is checked at the step itself as well: a member may die in between.
#[test]
fn one_that_dies_after_the_first_question_holds_the_removal_at_the_step() {
    let mut lab = Lab::new("3.7.3", 3);
    lab.settled();
    let dies = Mutex::new(Some(lab.machines[2].killer()));
    let stands = |_: &LedgerFile| {
        if let Some(kill) = dies.lock().expect("lock").take() {
            kill();
        }
        true
    };
    let master = &mut lab.machines[0];
    let end = master.inside(async |node| node.remove_while(false, &stands).await);
    let removal::RemovalEnd::Held(why) = end else {
        panic!("it goes: {end:?}");
    };
    assert_eq!(why.code, FaultCode::EtcdQuorum, "{why}");
    assert!(master.is_up(), "nothing was stopped");
    let removing = master.inside(async |node| node.ledger.ledger.removing);
    assert!(!removing, "it can be taken back");
    lab.machines[2].start();
    until("all three are members", || {
        lab.machines[1].members().len() == 3
    });
}

/// Once its member is out it is no longer a master: withdrawing the order then comes too late.
#[test]
fn a_removal_whose_member_is_out_goes_to_its_end() {
    let mut lab = Lab::new("3.7.3", 3);
    lab.settled();
    let asked = AtomicUsize::new(0);
    // The order stands when the member is about to leave, and never again.
    let stands = |_: &LedgerFile| asked.fetch_add(1, Ordering::SeqCst) == 0;
    let master = &mut lab.machines[0];
    let end = master.inside(async |node| node.remove_while(false, &stands).await);
    assert_eq!(end, removal::RemovalEnd::Done);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert!(!lab.machines[0].is_up());
    assert_eq!(lab.machines[1].members().len(), 2);
}

#[test]
fn who_insists_is_removed_whatever_the_others_lose() {
    let mut lab = Lab::new("3.7.3", 3);
    lab.settled();
    lab.machines[2].kill();
    let end = lab.machines[0].inside(async |node| node.remove(true).await);
    assert_eq!(end, removal::RemovalEnd::Done);
    assert!(!lab.machines[0].is_up());
}

#[test]
fn a_dead_member_is_taken_out_where_the_plane_named_it_and_by_the_leader_alone() {
    let mut lab = Lab::new("3.7.3", 3);
    lab.settled();
    let leader = leader(&mut lab);
    let (dead, other) = ((leader + 1) % 3, (leader + 2) % 3);
    lab.machines[dead].kill();
    // No order names it: it stays.
    for n in [leader, other] {
        lab.machines[n].settled();
    }
    assert_eq!(lab.machines[leader].members().len(), 3);
    name(&mut lab, &[dead]);
    lab.machines[other].settled();
    assert_eq!(
        lab.machines[leader].members().len(),
        3,
        "who does not lead takes nobody out"
    );
    lab.machines[leader].settled();
    let left = lab.machines[other].members();
    assert_eq!(left.len(), 2);
    let name = lab.machines[dead].host_id.to_string();
    assert!(left.iter().all(|m| m.name != name), "{left:?}");
    assert!(lab.machines[leader].plan().is_settled());
}

/// A former member is named by its id, and the present one stays.
#[test]
fn an_order_by_id_means_that_member_only() {
    let mut lab = Lab::new("3.7.3", 3);
    lab.settled();
    let leader = leader(&mut lab);
    let mut order = gone(&lab, (leader + 1) % 3);
    order.member_id = Some("123abc".into());
    lab.machines[leader].node.spec_mut().etcd.gone = vec![order];
    lab.machines[leader].settled();
    assert_eq!(lab.machines[leader].members().len(), 3);
}

#[test]
fn nobody_is_taken_out_where_that_would_cost_the_quorum() {
    let mut lab = Lab::new("3.7.3", 3);
    lab.settled();
    let leader = leader(&mut lab);
    let (dead, named) = ((leader + 1) % 3, (leader + 2) % 3);
    lab.machines[dead].kill();
    name(&mut lab, &[named]);
    let plan = lab.machines[leader].plan();
    let waits = plan.waits.expect("it waits").what;
    let name = lab.machines[named].host_id.to_string();
    assert!(
        waits.contains(&name) && waits.contains("of the 2 left 1 would and 2 must"),
        "{waits}"
    );
    assert!(matches!(lab.machines[leader].settle(), RunEnd::Done));
    assert_eq!(lab.machines[leader].members().len(), 3);
}
