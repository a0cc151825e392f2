//! A node whose machine has another address: the node follows.
//!
//! Root of the machine signed the new one, and it was checked not to be taken before (`orders`). The spec that is then
//! signed carries the rest: certificates, kubelet, and routes of the others. A node whose address is still on its
//! machine keeps it, whatever other addresses the machine has: an additional or newly preferred one changes nothing.
//!
//! A worker follows immediately: everything that uses its address gets the new one with it. A master's etcd member is
//! relied on, so it follows while every other master is healthy, and therefore one at a time: each of the others can be
//! reached at its known address, and has a quorum with the rest until the moved one is back. If they have no quorum,
//! because it was one of two or others are down or moved as well, it follows if it is the missing member: it starts at
//! its new address, reaches those that have not moved, and they count it again. If all of them moved at once, none
//! reaches any other, and no spec repairs that: the fault says so, with the remedy.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;

use super::claims;
use super::events;
use super::orders::NO_FACTS;
use super::records::{CLUSTERS, Cluster, Host, Member, SPECS, STATUSES};
use super::refusal::{Answer, Refusal};
use super::shared_address;
use super::state::{self, Change};
use super::store::Read;
use super::view::{is_responding, state_of};
use pf9_hostagent::model::etcd::quorum::Tally;
use pf9_hostagent::model::{
    FACTS_ADDRESSES_MAX, FaultCode, HostId, HostStatus, Interface, NodeFacts, NodeState, Role,
};

/// A master other than the one that moved.
struct Beside {
    /// What is wrong with it, as a sentence.
    wrong: Option<String>,
    etcd: Etcd,
    /// Voting members, by its etcd's last count; 0: unknown.
    votes: usize,
}

/// What its etcd member reports, if it is still reachable at its known address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Etcd {
    /// It has a leader.
    Led,
    /// It runs, or may run, and has no leader.
    Leaderless,
    /// Unknown, or unreachable.
    Unknown,
}

/// Lets the node of this host follow, if it has to and can; otherwise the fault says why it does not.
pub(super) fn follow(change: &mut Change<'_>, me: &Host, facts: &NodeFacts) -> Answer<()> {
    let Some(id) = me.cluster else {
        return Ok(());
    };
    let mut cluster = state::cluster(&**change, id)?;
    let Some(to) = where_to(&cluster, me.id, facts) else {
        return Ok(());
    };
    let status = change.get(&STATUSES, &me.id.to_string())?;
    let interfaces = status.map(|s| s.status.inventory.interfaces);
    let interfaces = interfaces.unwrap_or_default();
    let grounds = claims::grounds(claims::THIS_HOST, facts, &interfaces);
    claims::require_apart(NO_FACTS, &cluster.settings, &grounds)?;
    let beside = beside(&**change, &cluster, me.id, change.now)?;
    let from = moves(&mut cluster, me.id, to, &interfaces, &beside)?;
    let said = format!("the node follows its machine from {from} to {to}");
    tracing::warn!(host = %me.id, %from, %to, "the node follows its machine's address");
    events::note(change, me.id, "address-followed", &said)?;
    change.put(&CLUSTERS, &cluster.id.to_string(), &cluster)?;
    change.touch_cluster(&cluster);
    Ok(())
}

/// The node's new address, if its machine no longer has the previous one.
fn where_to(cluster: &Cluster, host: HostId, facts: &NodeFacts) -> Option<IpAddr> {
    let member = cluster.member(host)?;
    // With more addresses than are reported the node's may be among the missing ones.
    let all_told = facts.addresses.len() < FACTS_ADDRESSES_MAX;
    if facts.addresses.contains(&member.ip) || !all_told {
        return None;
    }
    let v4 = matches!(cluster.settings.pods_cidr, IpNet::V4(_));
    facts.address(v4, cluster.settings.master_ip)
}

/// Gives the member its new address, if allowed; returns the previous one.
fn moves(
    cluster: &mut Cluster,
    host: HostId,
    to: IpAddr,
    interfaces: &[Interface],
    beside: &[Beside],
) -> Answer<IpAddr> {
    let shared = shared_address::of(cluster);
    let member = cluster.members.iter_mut().find(|m| m.host == host);
    let Some(member) = member else {
        return Err(Refusal::conflict(
            FaultCode::HostNotAttached,
            NO_FACTS,
            "it is in no cluster",
        ));
    };
    if member.role == Role::Master {
        may_move(member, to, beside)?;
        let moved = Member {
            ip: to,
            ..member.clone()
        };
        if let Some(why) =
            shared.and_then(|shared| shared_address::off_link(shared, &moved, interfaces))
        {
            let what = stays(member, to);
            let fix = "give it an address in that network";
            return Err(Refusal::conflict(
                FaultCode::ApiAddressOffLink,
                what,
                format!("masterIp: {why}"),
            )
            .fix(fix));
        }
    }
    Ok(std::mem::replace(&mut member.ip, to))
}

fn stays(member: &Member, to: IpAddr) -> String {
    let name = &member.node_name;
    format!(
        "master {name} does not follow its machine from {} to {to} yet",
        member.ip
    )
}

fn may_move(member: &Member, to: IpAddr, beside: &[Beside]) -> Answer<()> {
    let wrong: Vec<&str> = beside.iter().filter_map(|b| b.wrong.as_deref()).collect();
    if wrong.is_empty() || is_what_lacks(beside) {
        return Ok(());
    }
    let why = format!(
        "etcd knows it by its address, so the others have to be healthy without it, or lack only \
         this one for their quorum: {}",
        wrong.join("; ")
    );
    let fix = format!(
        "it continues automatically when they are; where several masters lost their addresses at once, give \
         them back ({} to this one, in addition to the new one: ip address add), then remove them \
         one after the other",
        member.ip
    );
    Err(Refusal::conflict(FaultCode::MasterMovesLater, stays(member, to), why).fix(fix))
}

/// The others report no quorum, and together with this one those that have not moved have one.
fn is_what_lacks(beside: &[Beside]) -> bool {
    let listed = beside.iter().map(|b| b.votes).max().unwrap_or_default();
    let leaderless = |b: &&Beside| b.etcd == Etcd::Leaderless;
    let tally = Tally {
        votes: if crate::mutant("moved-votes") {
            beside.len() + 1
        } else {
            listed.max(beside.len() + 1)
        },
        answer: beside.iter().filter(leaderless).count() + 1,
    };
    let none_led = crate::mutant("moved-led") || beside.iter().all(|b| b.etcd != Etcd::Led);
    crate::mutant("moved-lacks") || none_led && tally.is_enough()
}

/// The masters other than this host. A worker needs none of them.
fn beside(
    rows: &impl Read,
    cluster: &Cluster,
    host: HostId,
    now: Timestamp,
) -> Answer<Vec<Beside>> {
    let mut all = Vec::new();
    if !cluster.is_master(host) {
        return Ok(all);
    }
    for master in cluster.masters().filter(|m| m.host != host) {
        let at = master.host.to_string();
        let said = rows.get(&STATUSES, &at)?;
        let spec = rows.get(&SPECS, &at)?;
        let wanted = spec.map(|s| s.generation).unwrap_or_default();
        let heard = said.filter(|s| is_responding(s, now));
        let heard = heard
            .as_ref()
            .map(|s| (&s.status, state_of(&s.status, wanted)));
        all.push(looked_at(master, heard));
    }
    Ok(all)
}

/// `heard`: status and state of a host that reports, as far as they are about the newest spec.
fn looked_at(master: &Member, heard: Option<(&HostStatus, NodeState)>) -> Beside {
    let wrong = wrong(master, heard).map(|why| format!("master {} {why}", master.node_name));
    let here = heard.filter(|(status, _)| is_at_home(master, status));
    let etcd = here.and_then(|(status, _)| status.node.as_ref()?.etcd.as_ref());
    let votes = etcd.map_or(0, |e| e.members.iter().filter(|m| !m.learner).count());
    let etcd = match etcd {
        Some(etcd) if etcd.leader.is_some() => Etcd::Led,
        Some(etcd) if etcd.seen_at.is_some() && etcd.fault.is_some() => Etcd::Leaderless,
        Some(_) | None => Etcd::Unknown,
    };
    Beside { wrong, etcd, votes }
}

fn is_at_home(master: &Member, status: &HostStatus) -> bool {
    status.inventory.addresses.contains(&master.ip)
}

fn wrong(master: &Member, heard: Option<(&HostStatus, NodeState)>) -> Option<String> {
    let (status, state) = match heard {
        None => return Some("does not report".into()),
        Some(heard) => heard,
    };
    // The cause first: one that moved as well is rarely healthy.
    if !is_at_home(master, status) {
        return Some(format!("lost its address {}", master.ip));
    }
    (state != NodeState::Ok).then(|| format!("is {}", state.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::tests::{add, cluster, host};
    use crate::recover::tests::reports;
    use pf9_hostagent::model::{EtcdStatus, Fault};

    fn facts(addresses: &[&str]) -> NodeFacts {
        let all: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().expect("ip")).collect();
        NodeFacts::new("node-2", &all)
    }

    fn two() -> Cluster {
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, false)]).expect("attach");
        c
    }

    #[test]
    fn a_node_follows_only_an_address_that_is_gone() {
        let c = two();
        let to =
            |addresses: &[&str]| where_to(&c, host(2), &facts(addresses)).map(|ip| ip.to_string());
        assert_eq!(to(&["10.1.0.2"]), None);
        assert_eq!(
            to(&["10.1.0.77", "10.1.0.2"]),
            None,
            "it is reached where it was"
        );
        assert_eq!(
            to(&["10.1.0.77", "192.0.2.1"]).as_deref(),
            Some("10.1.0.77"),
            "the way out's"
        );
        assert_eq!(to(&[]), None, "there is none to follow to");
        assert_eq!(to(&["fd00::2"]), None, "of another version");
        let many: Vec<IpAddr> = (0..FACTS_ADDRESSES_MAX)
            .map(|n| format!("10.9.0.{n}").parse().expect("ip"))
            .collect();
        let many = NodeFacts::new("node-2", &many);
        assert_eq!(
            where_to(&c, host(2), &many),
            None,
            "it may be among those that are not told"
        );
        assert_eq!(
            where_to(&c, host(9), &facts(&["10.1.0.9"])),
            None,
            "none of this cluster"
        );
        let mut shared = c.clone();
        shared.settings.master_ip = Some("10.1.0.250".parse().expect("ip"));
        let to = where_to(&shared, host(2), &facts(&["10.1.0.250", "10.1.0.78"]));
        assert_eq!(to.map(|ip| ip.to_string()).as_deref(), Some("10.1.0.78"));
    }

    fn is(etcd: Etcd, wrong: Option<&str>) -> Beside {
        Beside {
            wrong: wrong.map(str::to_owned),
            etcd,
            votes: 0,
        }
    }

    /// An etcd without a quorum is started by the member that comes back, at whatever address.
    #[test]
    fn a_master_missing_for_the_quorum_follows_at_once() {
        let away = || is(Etcd::Unknown, Some("does not report"));
        let stands_still = || is(Etcd::Leaderless, Some("is retrying"));
        let works = || is(Etcd::Led, Some("is retrying"));
        for (beside, enough) in [
            (vec![stands_still()], true),
            (vec![works()], false),
            (vec![away()], false),
            (vec![stands_still(), away()], true),
            (vec![stands_still(), works()], false),
            (vec![away(), away()], false),
            (vec![stands_still(), away(), away(), away()], false),
            (vec![stands_still(), stands_still(), away(), away()], true),
        ] {
            assert_eq!(is_what_lacks(&beside), enough, "{}", beside.len());
        }
        // etcd counts members of dead hosts until they are removed.
        let five = Beside {
            votes: 5,
            ..stands_still()
        };
        assert!(!is_what_lacks(&[five, away()]));
    }

    #[test]
    fn a_master_without_quorum_reports_it() {
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, true)]).expect("attach");
        let other = c.member(host(1)).expect("a master").clone();
        let mut status = reports(1, Some((Role::Master, c.id)));
        status.inventory.addresses = vec![other.ip];
        let etcd = |status: &HostStatus| {
            let seen = looked_at(&other, Some((status, NodeState::Retrying)));
            assert_eq!(seen.wrong.as_deref().map(|w| w.contains("is ")), Some(true));
            seen.etcd
        };
        assert_eq!(etcd(&status), Etcd::Unknown);
        let mut said = EtcdStatus::default();
        let mut told = |said: &EtcdStatus| {
            status.node.as_mut().expect("a node").etcd = Some(said.clone());
            etcd(&status)
        };
        // Not asked yet.
        assert_eq!(told(&said), Etcd::Unknown);
        said.seen_at = Some(Timestamp::UNIX_EPOCH);
        assert_eq!(told(&said), Etcd::Unknown);
        said.fault = Some(Fault::new(FaultCode::EtcdNotHealthy, "etcd", "no leader"));
        assert_eq!(told(&said), Etcd::Leaderless);
        said.leader = Some("1".into());
        assert_eq!(told(&said), Etcd::Led);
        // At another address nobody reaches it, whatever it reports.
        status.inventory.addresses.clear();
        let seen = looked_at(&other, Some((&status, NodeState::Retrying)));
        assert_eq!(seen.etcd, Etcd::Unknown);
    }

    #[test]
    fn a_master_follows_while_every_other_one_is_well() {
        let to: IpAddr = "10.1.0.77".parse().expect("ip");
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, true), (3, true), (4, false)]).expect("attach");
        let before = c.clone();
        let sick = [is(Etcd::Led, Some("master node-3 is failed"))];
        let refused = moves(&mut c, host(2), to, &[], &sick).expect_err("it stays");
        assert_eq!(refused.fault.code, FaultCode::MasterMovesLater);
        assert!(
            refused.fault.why.contains("node-3 is failed")
                && refused.fault.fix.contains("10.1.0.2"),
            "{}",
            refused.fault
        );
        assert_eq!(c, before);
        let from = moves(&mut c, host(2), to, &[], &[])
            .map_err(|r| r.fault)
            .expect("it follows");
        assert_eq!(from.to_string(), "10.1.0.2");
        assert_eq!(c.member(host(2)).map(|m| m.ip), Some(to));
        // A worker waits for nobody.
        let worker = "10.1.0.78".parse().expect("ip");
        moves(&mut c, host(4), worker, &[], &sick)
            .map_err(|r| r.fault)
            .expect("it follows");
    }

    #[test]
    fn masters_follow_one_after_the_other() {
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, true)]).expect("attach");
        let other = c.member(host(1)).expect("a master").clone();
        let mut status = reports(1, Some((Role::Master, c.id)));
        status.inventory.addresses = vec![other.ip];
        assert_eq!(wrong(&other, Some((&status, NodeState::Ok))), None);
        let why = wrong(&other, Some((&status, NodeState::Converging)));
        assert_eq!(why.as_deref(), Some("is converging"));
        assert_eq!(wrong(&other, None).as_deref(), Some("does not report"));
        // Both moved at once: neither would find the other.
        status.inventory.addresses = vec!["10.1.0.99".parse().expect("ip")];
        let why = wrong(&other, Some((&status, NodeState::Ok))).expect("moved as well");
        assert!(why.contains("lost its address 10.1.0.1"), "{why}");
    }
}
