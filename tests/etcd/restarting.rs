//! Members restart one at a time: a change that reaches all masters in the same second loses no write.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pf9_hostagent::model::EtcdGone;
use pf9_hostagent::nodelet::plan::Waits;
use pf9_hostagent::nodelet::run::RunEnd;

use crate::lab::{Lab, Machine, Programs, client_of, until};

/// Longest a write may take with all its retries: an election on a busy machine. Three members that restart together
/// take longer, and writes fail meanwhile.
const A_WRITE: Duration = Duration::from_secs(15);

/// Longest until every member has had its turn.
const AT_REST: Duration = Duration::from_secs(240);

/// Three members, and a fourth machine that was a master once: it has a certificate, and no member.
fn three_and_one_that_left() -> Lab {
    let mut lab = Lab::new("3.7.3", 3);
    lab.settled();
    lab.add(4, &Programs::of("3.7.3"));
    lab
}

/// Whether the members at these addresses accept the former master.
fn is_heard(lab: &mut Lab, at: &[IpAddr]) -> Vec<bool> {
    let left = lab.machines.last_mut().expect("it is there");
    let (fs, spec) = (left.fs.clone(), left.node.spec().clone());
    let clients: Vec<_> = at.iter().map(|ip| client_of(&fs, *ip, &spec)).collect();
    left.inside(async move |_| {
        let mut heard = Vec::new();
        for client in &clients {
            heard.push(client.members().await.is_ok());
        }
        heard
    })
}

fn members(lab: &Lab) -> Vec<IpAddr> {
    lab.machines[..3].iter().map(|m| m.ip).collect()
}

/// Orders all masters to refuse the former master.
fn revoke(lab: &mut Lab) {
    let list = lab.pki.revoked(&[&lab.machines[3].fs]);
    tell(lab, &list);
}

fn tell(lab: &mut Lab, list: &str) {
    for machine in &mut lab.machines[..3] {
        machine.calls();
        machine.node.spec_mut().etcd.revoked = Some(list.to_owned());
    }
}

/// Observations during a run.
struct Watched {
    most_down: usize,
    writes: usize,
    slowest: Duration,
}

/// Runs every master's nodelet as often as its loop would, concurrently.
fn together(lab: &mut Lab) -> Watched {
    let up: Vec<_> = lab.machines[..3].iter().map(|m| m.watched()).collect();
    let mut write = lab.machines[0].writer(&members(lab));
    let (done, most, writes) = (
        AtomicBool::new(false),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    let slowest = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let down = up.iter().filter(|up| !up()).count();
                most.fetch_max(down, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(10));
            }
        });
        let writer = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while !done.load(Ordering::Relaxed) {
                let began = Instant::now();
                while let Err(why) = write() {
                    assert!(began.elapsed() < A_WRITE, "nobody takes a write: {why}");
                }
                writes.fetch_add(1, Ordering::Relaxed);
                slowest = slowest.max(began.elapsed());
            }
            slowest
        });
        let nodes: Vec<_> = lab.machines[..3]
            .iter_mut()
            .map(|m| scope.spawn(|| come_to_rest(m)))
            .collect();
        let ended: Vec<_> = nodes.into_iter().map(|n| n.join()).collect();
        done.store(true, Ordering::Relaxed);
        for end in ended {
            end.expect("a master");
        }
        writer.join().expect("the writer")
    });
    Watched {
        most_down: most.into_inner(),
        writes: writes.into_inner(),
        slowest,
    }
}

/// As the loop does: postponed work is checked again.
fn come_to_rest(machine: &mut Machine) {
    let end = Instant::now() + AT_REST;
    loop {
        machine.settled_in_time();
        let plan = machine.plan();
        if plan.is_settled() {
            return;
        }
        assert!(Instant::now() < end, "{plan:?}");
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_new_list_of_revoked_certificates_costs_no_write() {
    let mut lab = three_and_one_that_left();
    let at = members(&lab);
    assert_eq!(is_heard(&mut lab, &at), [true; 3]);
    revoke(&mut lab);
    let began = Instant::now();
    let watched = together(&mut lab);
    eprintln!(
        "{} writes, the slowest took {:?}, all of it {:?}",
        watched.writes,
        watched.slowest,
        began.elapsed()
    );
    assert_eq!(watched.most_down, 1, "one at a time");
    assert!(watched.writes > 3);
    for machine in &mut lab.machines[..3] {
        let again = machine
            .calls()
            .iter()
            .filter(|c| c.starts_with("restart "))
            .count();
        assert_eq!(again, 1);
        assert!(machine.plan().is_settled());
    }
    assert_eq!(is_heard(&mut lab, &at), [false; 3]);
}

/// A revoked client is refused as soon as the file is there, whichever member restarts next.
#[test]
fn while_one_is_dead_nobody_stops_and_a_new_list_counts_at_once_all_the_same() {
    let mut lab = three_and_one_that_left();
    let at = members(&lab);
    let of_nobody = lab.pki.revoked(&[]);
    tell(&mut lab, &of_nobody);
    together(&mut lab);
    lab.machines[2].kill();
    let dead = lab.machines[2].host_id.to_string();
    assert_eq!(is_heard(&mut lab, &at[..2]), [true; 2]);
    revoke(&mut lab);
    for n in 0..2 {
        let mut waits = None;
        until("it says for whom it waits", || {
            let end = lab.machines[n].settle();
            waits = lab.machines[n].plan().awaited();
            let named = |w: &Waits| w.what.contains(&format!("{dead} to answer"));
            matches!(end, RunEnd::Done) && waits.as_ref().is_some_and(named)
        });
        let calls = lab.machines[n].calls();
        assert!(!calls.iter().any(|c| c.starts_with("restart")), "{calls:?}");
    }
    assert_eq!(is_heard(&mut lab, &at[..2]), [false; 2]);
    lab.machines[1].ctl(&["put", "a", "1"]);
    // A member that is down asks nobody, and then it is the others' turn.
    assert_eq!(together(&mut lab).most_down, 1, "one at a time");
    for machine in &mut lab.machines[..3] {
        assert!(machine.plan().is_settled());
    }
}

/// Without a quorum, members that are down are started, with any change.
#[test]
fn without_a_quorum_everybody_who_is_down_starts() {
    let mut lab = three_and_one_that_left();
    lab.machines[1].kill();
    lab.machines[2].kill();
    revoke(&mut lab);
    let watched = together(&mut lab);
    assert_eq!(watched.most_down, 2, "as it was when it began");
    for machine in &mut lab.machines[..3] {
        assert!(machine.plan().is_settled());
    }
}

/// A leader that gets no specs any more is removed by another one, and nobody waits for it.
#[test]
fn a_leader_whose_host_is_gone_is_taken_out_though_it_lives() {
    let mut lab = three_and_one_that_left();
    let mut leader = None;
    until("there is a leader", || {
        leader = (0..3).find(|n| {
            let client = lab.machines[*n].client();
            let asked = lab.machines[*n].inside(async move |_| client.status().await);
            asked.is_ok_and(|me| me.leads())
        });
        leader.is_some()
    });
    let leader = leader.expect("a leader");
    let gone = lab.machines[leader].host_id;
    let rest: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    for n in &rest {
        let etcd = &mut lab.machines[*n].node.spec_mut().etcd;
        etcd.members.retain(|m| m.host_id != gone);
        etcd.gone = vec![EtcdGone {
            host_id: gone,
            member_id: None,
        }];
    }
    for n in rest.iter().rev() {
        lab.machines[*n].settled_in_time();
    }
    for n in rest {
        let client = lab.machines[n].client();
        until("it is out", || {
            let client = client.clone();
            let members = lab.machines[n].inside(async move |_| client.members().await);
            members.is_ok_and(|members| members.len() == 2)
        });
    }
}
