//! What is wrong now, from host reports, the plane's own measurements, the rows, and the time. Pure.
//!
//! Nothing is sent from here: a finding becomes an alert only after its hold time (`engine`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::facts::{End, Flaps, HostFacts, Local};
use super::rules::{Rule, SILENT_BUSY_S, Urgency};
use super::trends::{self, Watched};
use super::{Key, Names, Subject};
use crate::people::ProjectId;
use crate::records::{Cluster, HOSTS, Member, Resting};
use crate::rolls;
use crate::shared_address;
use crate::store::Rows;
use pf9_hostagent::model::{ClusterId, HostId, NodeState, Role};

/// Silence is suspected after this long, so that its symptoms can wait for it: hosts report every half minute.
const SUSPECT: SignedDuration = SignedDuration::from_secs(90);
/// Fewer hosts than this are no fleet.
const FLEET_MIN: usize = 5;
/// More than a status takes in transit; hosts warn about their own clock from the same offset on.
const APART: SignedDuration = SignedDuration::from_mins(2);
/// How long the plane's observation of a cluster's nodes counts; it looks every minute, at large clusters every ten.
const SEEN_FOR: SignedDuration = SignedDuration::from_mins(15);

/// The same for its API, which is probed twice a minute.
const ASKED_FOR: SignedDuration = SignedDuration::from_mins(3);

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    pub(super) key: Key,
    pub(super) cluster: Option<ClusterId>,
    pub(super) names: Names,
    pub(super) urgency: Urgency,
    /// What is wrong in its own words, after the name.
    pub(super) says: String,
    pub(super) why: String,
    pub(super) tried: String,
    /// Since when, if that is known better than from the passes.
    pub(super) since: Option<Timestamp>,
    /// How long it must hold.
    pub(super) hold: SignedDuration,
}

/// What is known about one host between two passes.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    pub(super) facts: Option<HostFacts>,
    pub(super) flaps: Flaps,
    pub(super) trends: Watched,
}

/// What the plane itself observed of a cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct ClusterSeen {
    /// Whether its nodes are Ready, by name, and when that was read; `None` for a node that does not report.
    pub(super) nodes: Option<(Timestamp, BTreeMap<String, Option<bool>>)>,
    /// Why its API did not answer the last probe; `Ok`: it did.
    pub(super) api: Option<(Timestamp, Result<(), String>)>,
}

/// The fields of a host's row that a pass reads; the rest of ten thousand rows would be ten megabytes each time.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Glance {
    pub(super) id: HostId,
    pub(super) hostname: String,
    pub(super) project: ProjectId,
    pub(super) cluster: Option<ClusterId>,
    #[serde(default)]
    pub(super) maintenance: Option<Resting>,
}

pub(super) const GLANCES: Rows<Glance> = HOSTS.as_type();

/// All inputs.
pub(super) struct World<'a> {
    pub(super) now: Timestamp,
    /// When this run of the plane began: nothing was reported to it before.
    pub(super) started: Timestamp,
    pub(super) hosts: &'a [Glance],
    pub(super) clusters: &'a BTreeMap<ClusterId, Cluster>,
    pub(super) heard: &'a BTreeMap<HostId, Heard>,
    pub(super) seen: &'a BTreeMap<ClusterId, ClusterSeen>,
    pub(super) connected: &'a dyn Fn(HostId) -> bool,
    /// Why the fleet's roll stopped.
    pub(super) agents_stopped: Option<&'a str>,
}

/// One host with what belongs to it.
struct Of<'a> {
    host: &'a Glance,
    cluster: Option<&'a Cluster>,
    member: Option<&'a Member>,
    heard: Option<&'a Heard>,
    facts: Option<&'a HostFacts>,
    /// Its last report, while the plane ran.
    last: Option<Timestamp>,
}

/// All findings.
pub(super) fn all(world: &World<'_>) -> BTreeMap<Key, Finding> {
    let mut out = Vec::new();
    let mut silent = 0;
    for host in world.hosts {
        let of = Of::new(world, host);
        let quiet = silence(world, &of);
        silent += usize::from(quiet.is_some());
        out.extend(quiet);
        out.extend(
            of.heard
                .into_iter()
                .flat_map(|heard| foreseen(world, &of, heard)),
        );
        if let Some(facts) = of.facts {
            said(world, &of, facts, &mut out);
        }
        if let Some(heard) = of.heard {
            let flapping = heard.flaps.now(world.now);
            out.extend(flapping.map(|what| {
                let why = "it was repaired five times within ten minutes".to_owned();
                let tried = "each time it was repaired, and drifted again".to_owned();
                let mut finding = of.finding(Rule::UnitFlapping, what, why);
                finding.tried = tried;
                finding
            }));
        }
    }
    out.extend(fleet(world, silent));
    for cluster in world.clusters.values() {
        of_cluster(world, cluster, &mut out);
    }
    out.extend(world.agents_stopped.map(of_agents));
    out.into_iter().map(|f| (f.key.clone(), f)).collect()
}

/// Whether the absence of a finding means that it is over: not if the plane did not look recently.
pub(super) fn is_known(world: &World<'_>, key: &Key, cluster: Option<ClusterId>) -> bool {
    let seen = || world.seen.get(&cluster?);
    match key.rule {
        Rule::NodeNotReady => seen().is_some_and(|s| s.nodes_at(world.now).is_some()),
        Rule::ApiServerDown => seen().is_some_and(|s| s.api_at(world.now).is_some()),
        _ => match key.subject {
            Subject::Host(host) => world.heard.get(&host).is_some_and(|h| h.facts.is_some()),
            Subject::Cluster(_) | Subject::Fleet => true,
        },
    }
}

impl<'a> Of<'a> {
    fn new(world: &World<'a>, host: &'a Glance) -> Self {
        let cluster = host.cluster.and_then(|id| world.clusters.get(&id));
        let heard = world.heard.get(&host.id);
        let facts = heard.and_then(|h| h.facts.as_ref());
        Self {
            host,
            cluster,
            member: cluster.and_then(|c| c.member(host.id)),
            heard,
            facts,
            last: facts.map(|f| f.heard_at.max(world.started)),
        }
    }

    fn names(&self) -> Names {
        let member = self.member.map(|m| m.node_name.to_string());
        Names {
            host: Some(member.unwrap_or_else(|| self.host.hostname.clone())),
            cluster: self.cluster.map(|c| c.name.clone()),
        }
    }

    fn finding(&self, rule: Rule, part: &str, why: String) -> Finding {
        Finding {
            key: Key {
                rule,
                subject: Subject::Host(self.host.id),
                part: part.to_owned(),
            },
            cluster: self.cluster.map(|c| c.id),
            names: self.names(),
            urgency: rule.row().urgency,
            says: String::new(),
            why,
            tried: String::new(),
            since: None,
            hold: rule.hold(),
        }
    }
}

impl ClusterSeen {
    fn nodes_at(&self, now: Timestamp) -> Option<&BTreeMap<String, Option<bool>>> {
        let (at, nodes) = self.nodes.as_ref()?;
        (now.duration_since(*at) < SEEN_FOR).then_some(nodes)
    }

    fn api_at(&self, now: Timestamp) -> Option<&Result<(), String>> {
        let (at, said) = self.api.as_ref()?;
        (now.duration_since(*at) < ASKED_FOR).then_some(said)
    }
}

/// A host that reported once and is silent. A tunnel that reconnects is no silence: the last report counts, and a plane
/// that was down received none.
fn silence(world: &World<'_>, of: &Of<'_>) -> Option<Finding> {
    let (facts, last) = (of.facts?, of.last?);
    let busy = match facts.state {
        NodeState::Ok | NodeState::Failed | NodeState::Maintenance => false,
        NodeState::Converging | NodeState::Retrying => true,
    };
    if world.now.duration_since(last) < SUSPECT {
        return None;
    }
    let why = match facts.heard_at < world.started {
        true => format!(
            "it last reported at {}, before the plane was started",
            facts.heard_at
        ),
        false => format!("it last reported at {}", facts.heard_at),
    };
    let why = match (world.connected)(of.host.id) {
        true => format!("{why}; its tunnel is up, but nothing comes through it"),
        false => why,
    };
    let hold = match busy {
        true => SignedDuration::from_secs(SILENT_BUSY_S),
        false => Rule::HostNotResponding.hold(),
    };
    Some(Finding {
        since: Some(last),
        hold,
        tried: "it reconnects automatically as soon as it is on and can reach the plane".into(),
        ..of.finding(Rule::HostNotResponding, "", why)
    })
}

fn fleet(world: &World<'_>, silent: usize) -> Option<Finding> {
    let known = world.heard.values().filter(|h| h.facts.is_some()).count();
    if known < FLEET_MIN || silent * 2 <= known {
        return None;
    }
    let rule = Rule::FleetNotResponding;
    Some(Finding {
        key: Key {
            rule,
            subject: Subject::Fleet,
            part: String::new(),
        },
        cluster: None,
        names: Names::default(),
        urgency: rule.row().urgency,
        says: String::new(),
        // No exact number: it changes with every pass, and the hosts are listed among the symptoms.
        why: format!("more than half of {known} hosts are silent at the same time"),
        tried: "hosts continue without the plane, and reconnect automatically".into(),
        since: None,
        // Since it is suspected: the time of the suspicion already counts.
        hold: rule.hold() - SUSPECT,
    })
}

/// Findings from what a host reported.
fn said(world: &World<'_>, of: &Of<'_>, facts: &HostFacts, out: &mut Vec<Finding>) {
    out.extend(facts.local.iter().map(|local| {
        let Local {
            rule,
            part,
            urgency,
            why,
            tried,
        } = local;
        Finding {
            urgency: *urgency,
            tried: tried.clone(),
            ..of.finding(*rule, part, why.clone())
        }
    }));
    if let Some(since) = facts.trouble_since {
        out.push(Finding {
            says: not_converging(facts),
            since: Some(since),
            tried: format!("it failed {} times, and is retried", facts.attempts),
            ..of.finding(Rule::HostNotConverging, "", facts.reason.clone())
        });
    }
    if facts.behind.abs() >= APART {
        let side = match facts.behind.is_positive() {
            true => "behind",
            false => "ahead of",
        };
        let minutes = facts.behind.abs().as_mins();
        let why = format!("it is {minutes} min {side} the plane's");
        out.push(of.finding(Rule::ClockSkew, "", why));
    }
    certificates(world, of, facts, out);
    let Some((cluster, member)) = of.cluster.zip(of.member) else {
        return;
    };
    if !facts.addresses.is_empty() && !facts.addresses.contains(&member.ip) {
        let why = format!(
            "its node is at {}, which the machine no longer has",
            member.ip
        );
        let tried = "the node changes its address as soon as that is safe for etcd".to_owned();
        out.push(Finding {
            tried,
            ..of.finding(Rule::AddressChanged, "", why)
        });
    }
    let nodes = world
        .seen
        .get(&cluster.id)
        .and_then(|s| s.nodes_at(world.now));
    if let Some(Some(false)) = nodes.and_then(|n| n.get(member.node_name.as_str())) {
        let why = "the cluster's API reports it so".to_owned();
        out.push(of.finding(Rule::NodeNotReady, "", why));
    }
    if member.role == Role::Master {
        backups(world, of, cluster, member, facts, out);
    }
}

/// Forecasts of its trends for the coming week.
fn foreseen(world: &World<'_>, of: &Of<'_>, heard: &Heard) -> Vec<Finding> {
    let one = |(what, foreseen): &(trends::Of, trends::Foreseen)| {
        let (rule, part, urgency, why) = trends::told(of.host.id, what, foreseen, world.now);
        Finding {
            urgency,
            ..of.finding(rule, &part, why)
        }
    };
    heard.trends.foreseen.iter().map(one).collect()
}

/// The sentence that operators know.
fn not_converging(facts: &HostFacts) -> String {
    let state = match facts.state {
        NodeState::Ok => "Ok",
        NodeState::Converging => "Converging",
        NodeState::Retrying => "Retrying",
        NodeState::Failed => "Failed",
        NodeState::Maintenance => "Maintenance",
    };
    let role = match facts.role {
        Role::Master => "master",
        Role::Worker => "worker",
        Role::None => "none",
    };
    let retries = facts.attempts;
    format!("is not converging, status {state}, role {role}, retries {retries}")
}

fn certificates(world: &World<'_>, of: &Of<'_>, facts: &HostFacts, out: &mut Vec<Finding>) {
    // The host's view of its tunnel certificate is as old as its report; the plane knows the pinned one itself.
    for end in facts.ends.iter().filter(|end| end.late_at <= world.now) {
        let End {
            name,
            not_after,
            failed,
            ..
        } = end;
        let ended = *not_after <= world.now;
        let why = match ended {
            true => format!("it expired at {not_after}"),
            false => format!("it expires at {not_after}"),
        };
        let why = match failed.as_str() {
            "" => why,
            failed => format!("{why}; {failed}"),
        };
        out.push(Finding {
            urgency: match ended {
                true => Urgency::Critical,
                false => Rule::CertificateExpiring.row().urgency,
            },
            tried: match failed.is_empty() {
                true => String::new(),
                false => "its renewal failed, and is retried".into(),
            },
            ..of.finding(Rule::CertificateExpiring, name, why)
        });
    }
}

fn backups(
    world: &World<'_>,
    of: &Of<'_>,
    cluster: &Cluster,
    member: &Member,
    facts: &HostFacts,
    out: &mut Vec<Finding>,
) {
    let etcd = facts.etcd.as_ref();
    if let Some(fault) = etcd.and_then(|e| e.fault.as_ref()) {
        out.push(of.finding(Rule::EtcdUnhealthy, "", fault.clone()));
    }
    let newest = etcd.and_then(|e| e.backup_at);
    let policy = &cluster.settings.etcd_backup;
    if !policy.is_stale(world.now, newest.unwrap_or(member.attached_at)) {
        return;
    }
    let mut why = match newest {
        Some(at) => format!("the newest is from {at}"),
        None => format!(
            "there is none, and it has been a master since {}",
            member.attached_at
        ),
    };
    let failing = etcd.and_then(|e| e.backup_failing.as_ref());
    if let Some(failing) = failing {
        why = format!("{why}: {failing}");
    }
    out.push(Finding {
        tried: match failing {
            Some(_) => "it failed, and is retried".into(),
            None => String::new(),
        },
        ..of.finding(Rule::EtcdBackupStale, "", why)
    });
}

/// Findings about a cluster as a whole.
fn of_cluster(world: &World<'_>, cluster: &Cluster, out: &mut Vec<Finding>) {
    let finding = |rule: Rule, why: String| Finding {
        key: Key {
            rule,
            subject: Subject::Cluster(cluster.id),
            part: String::new(),
        },
        cluster: Some(cluster.id),
        names: Names {
            host: None,
            cluster: Some(cluster.name.clone()),
        },
        urgency: rule.row().urgency,
        says: String::new(),
        why,
        tried: String::new(),
        since: None,
        hold: rule.hold(),
    };
    let said = |m: &&Member| world.heard.get(&m.host).and_then(|h| h.facts.as_ref());
    let members: Vec<(&Member, &HostFacts)> = cluster
        .masters()
        .filter_map(|m| Some((m, said(&m)?)))
        .collect();
    // Only of masters that report: the last report of a silent one is stale.
    let speaking = members
        .iter()
        .filter(|(_, f)| world.now.duration_since(f.heard_at) < SUSPECT);
    let views: Vec<_> = speaking.filter_map(|(_, f)| f.etcd.as_ref()).collect();
    let mut unwell: BTreeMap<HostId, ()> = BTreeMap::new();
    if !views.is_empty() && views.iter().all(|v| !v.has_leader) {
        let why = "no master that answers has a leader".to_owned();
        out.push(Finding {
            tried: "nodelet starts what is not running; a majority is enough".into(),
            ..finding(Rule::EtcdNoQuorum, why)
        });
    }
    for view in &views {
        let bad = view.votes.iter().filter(|(_, well)| *well == Some(false));
        unwell.extend(bad.filter_map(|(host, _)| host.map(|h| (h, ()))));
    }
    let names: BTreeSet<HostId> = cluster.masters().map(|m| m.host).collect();
    for host in unwell.keys().filter(|h| names.contains(h)) {
        let Some(host) = world.hosts.iter().find(|h| h.id == *host) else {
            continue;
        };
        let of = Of::new(world, host);
        let why = "another master says that it does not answer".to_owned();
        let mut found = of.finding(Rule::EtcdUnhealthy, "", why);
        // Its own words say more.
        if let Some(own) = of
            .facts
            .and_then(|f| f.etcd.as_ref())
            .and_then(|e| e.fault.clone())
        {
            found.why = own;
        }
        out.push(found);
    }
    let api = world
        .seen
        .get(&cluster.id)
        .and_then(|s| s.api_at(world.now));
    if let Some(Err(why)) = api {
        out.push(Finding {
            tried: "kubelet restarts it if it exits, and the plane tries every master".into(),
            ..finding(Rule::ApiServerDown, why.clone())
        });
    }
    let speaking = members
        .iter()
        .filter(|(_, f)| world.now.duration_since(f.heard_at) < SUSPECT);
    out.extend(shared_address(cluster, speaking.copied(), &finding));
    if let Some(why) = rolls::stopped(cluster) {
        out.push(Finding {
            tried:
                "nodes that failed are back on their previous stack, and no other node is started"
                    .into(),
            ..finding(Rule::UpgradeStopped, super::facts::cut(&why))
        });
    }
}

/// No reporting master has the shared address, or a reporting one could not take it over. While the first masters are
/// being set up none can have it.
fn shared_address<'a>(
    cluster: &Cluster,
    speaking: impl Iterator<Item = (&'a Member, &'a HostFacts)>,
    finding: &dyn Fn(Rule, String) -> Finding,
) -> Vec<Finding> {
    let Some(ip) = shared_address::of(cluster) else {
        return Vec::new();
    };
    let said: Vec<_> = speaking
        .filter_map(|(master, facts)| {
            let shared = facts.shared.as_ref().filter(|s| s.address == ip)?;
            Some((&master.node_name, facts.state, shared))
        })
        .collect();
    let faults = said
        .iter()
        .filter_map(|(name, _, shared)| Some((name, shared.fault.as_ref()?)));
    if said.iter().any(|(_, _, shared)| shared.here) {
        let one = |(name, fault): (_, &String)| {
            let mut one = finding(Rule::SharedAddress, fault.clone());
            one.key.part = format!("{name}");
            one.urgency = Urgency::High;
            one.says =
                format!("has a shared address, {ip}, that its master {name} cannot take over");
            one
        };
        return faults.map(one).collect();
    }
    if !said.iter().any(|(_, state, _)| *state == NodeState::Ok) {
        return Vec::new();
    }
    let mut why = format!("no master that reports holds {ip}");
    for (name, fault) in faults {
        why = format!("{why}; {name}: {fault}");
    }
    let mut nobody = finding(Rule::SharedAddress, super::facts::cut(&why));
    nobody.tried = "every master that can take it retries every second".into();
    vec![nobody]
}

/// The fleet's own roll.
fn of_agents(why: &str) -> Finding {
    let rule = Rule::UpgradeStopped;
    Finding {
        key: Key {
            rule,
            subject: Subject::Fleet,
            part: "agents".into(),
        },
        cluster: None,
        names: Names::default(),
        urgency: rule.row().urgency,
        says: String::new(),
        why: super::facts::cut(why),
        tried: "hosts whose agent was not proven are back on their previous version".into(),
        since: None,
        hold: rule.hold(),
    }
}

#[cfg(test)]
pub(super) mod tests;
