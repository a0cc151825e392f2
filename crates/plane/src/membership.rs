//! Membership of a cluster: attach and detach, pure.
//!
//! A request is checked as a whole before anything changes: several hosts attached together either all become nodes or
//! none does, and masters attached together form the first etcd cluster.

use std::collections::BTreeSet;

use ipnet::IpNet;
use jiff::Timestamp;

use super::claims;
use super::departures;
use super::etcd;
use super::records::{Cluster, Host, Member};
use super::refusal::{Answer, Refusal};
use super::shared_address;
use super::zones;
use pf9_hostagent::model::{FaultCode, HostId, Inventory, NodeFacts, Role, Taken};

/// Prefix of one node's pods in an IPv4 network: 254 addresses, above kubelet's usual 110 to 200.
const NODE_PREFIX_V4: u8 = 24;
/// The same for IPv6.
const NODE_PREFIX_V6: u8 = 64;
/// Most nodes of one cluster: what Kubernetes documents.
const NODES_MAX: usize = 5000;

/// A host to attach.
pub(super) struct Candidate<'a> {
    pub(super) host: HostId,
    pub(super) master: bool,
    /// Its zone, given by the operator.
    pub(super) zone: Option<&'a str>,
    /// The zone's region.
    pub(super) region: Option<&'a str>,
    /// Its name and addresses, signed by root; none if it has none that it may use.
    pub(super) facts: Option<&'a NodeFacts>,
    /// What it reported of its machine; none if it did not yet.
    pub(super) seen: Option<&'a Inventory>,
}

/// Adds nodes to a cluster. `others`: all other hosts, whose names and addresses are taken.
pub(super) fn attach<'a>(
    cluster: &mut Cluster,
    candidates: &[Candidate<'_>],
    others: impl IntoIterator<Item = &'a Host>,
    now: Timestamp,
) -> Answer<()> {
    if candidates.is_empty() {
        return Err(Refusal::bad(
            FaultCode::AttachEmpty,
            "attach refused",
            "no host is named",
        ));
    }
    let mut members = cluster.members.clone();
    let mut taken = claims::of_cluster(cluster, None);
    let shared = cluster.settings.master_ip;
    let others: Vec<&Host> = others.into_iter().collect();
    require_shareable(cluster, candidates, &others)?;
    claims::add_hosts(&mut taken, others, Some(cluster.id), shared);
    for candidate in candidates {
        let member = admit(cluster, &members, &taken, candidate, now)?;
        claims::add(
            &mut taken,
            member.host,
            Some(&member.node_name),
            [Some(member.ip)],
        );
        members.push(member);
    }
    if members.len() > NODES_MAX {
        return Err(Refusal::conflict(
            FaultCode::ClusterFull,
            "attach refused",
            format!("a cluster has at most {NODES_MAX} nodes"),
        ));
    }
    if !members.iter().any(|m| m.role == Role::Master) {
        return Err(Refusal::conflict(
            FaultCode::NoMaster,
            "attach refused",
            format!("cluster {} has no master yet", cluster.name),
        )
        .fix("attach a master first, or together with the workers (\"isMaster\": true)"));
    }
    let before = std::mem::replace(&mut cluster.members, members);
    // A worker does not change it.
    if candidates.iter().any(|c| c.master)
        && let Some(why) = zones::fault(cluster)
    {
        cluster.members = before;
        return Err(Refusal::conflict(
            FaultCode::ZonesUneven,
            "attach refused",
            format!("zone: {why}"),
        )
        .fix(
            "give each master a zone, with no more masters in one than etcd can lose; or give none a zone",
        ));
    }
    if let Some(why) = zones::split(cluster, candidates.iter().map(|c| c.host)) {
        cluster.members = before;
        return Err(
            Refusal::conflict(FaultCode::ZonesUneven, "attach refused", why)
                .fix("give all hosts of a zone the same region, or a zone of another name"),
        );
    }
    departures::forget(cluster);
    Ok(())
}

/// The masters' shared address must not belong to a machine.
fn require_shareable(
    cluster: &Cluster,
    candidates: &[Candidate<'_>],
    others: &[&Host],
) -> Answer<()> {
    let Some(ip) = shared_address::of(cluster) else {
        return Ok(());
    };
    let has = |c: &&Candidate<'_>| c.facts.is_some_and(|f| f.addresses.contains(&ip));
    let own = candidates.iter().find(has);
    let own = own.map(|c| format!("{ip} is an address of host {}", c.host));
    let owner = own.or_else(|| shared_address::owner(ip, Some(cluster), others.iter().copied()));
    match owner {
        None => Ok(()),
        Some(why) => Err(Refusal::conflict(
            FaultCode::AddressTaken,
            "attach refused",
            format!("masterIp: {why}"),
        )
        .fix("remove it from that machine, or create the cluster with another masterIp")),
    }
}

fn admit(
    cluster: &Cluster,
    members: &[Member],
    taken: &Taken,
    candidate: &Candidate<'_>,
    now: Timestamp,
) -> Answer<Member> {
    let host = candidate.host;
    let what = || format!("host {host} cannot be attached to cluster {}", cluster.name);
    if members.iter().any(|m| m.host == host) {
        return Err(Refusal::conflict(
            FaultCode::HostAttached,
            what(),
            "it is in this cluster already",
        ));
    }
    let facts = candidate.facts.ok_or_else(|| {
        Refusal::conflict(
            FaultCode::HostSilent,
            what(),
            "it has not reported a name and address that its root signed and that no other host has",
        )
        .fix("look at its warnings: pf9ctl status there, GET /resmgr/v1/hosts here")
    })?;
    let node_name = claims::name_of(&what(), facts)?;
    claims::check_name(&what(), &node_name, taken)?;
    let v4 = matches!(cluster.settings.pods_cidr, IpNet::V4(_));
    let ip = facts.address(v4, cluster.settings.master_ip);
    let ip = ip.ok_or_else(|| {
        Refusal::conflict(
            FaultCode::NoAddress,
            what(),
            "it has no address of its own of the pod network's IP version",
        )
    })?;
    claims::check_address(&what(), ip, taken)?;
    let unseen = Inventory::default();
    let seen = candidate.seen.unwrap_or(&unseen);
    let grounds = claims::grounds_before(claims::THIS_HOST, facts, seen);
    claims::require_apart(&what(), &cluster.settings, &grounds)?;
    let member = |pod_cidr| Member {
        host,
        role: if candidate.master {
            Role::Master
        } else {
            Role::Worker
        },
        node_name,
        ip,
        pod_cidr,
        attached_at: now,
        zone: candidate.zone.map(str::to_owned),
        region: candidate.region.map(str::to_owned),
        uid: departures::uid(cluster, host, now),
        joins: candidate.master && cluster.masters().next().is_some(),
        service_account_key: None,
        stack: None,
        etcd_stack: None,
        etcd_certificates: departures::came_back(&cluster.departed, host),
    };
    let pod_cidr = free_pod_cidr(cluster.settings.pods_cidr, members).ok_or_else(|| {
        let why = format!(
            "no part of containersCidr {} is free",
            cluster.settings.pods_cidr
        );
        Refusal::conflict(FaultCode::PodsCidrFull, what(), why)
    })?;
    let member = member(pod_cidr);
    if let Some(shared) = shared_address::of(cluster).filter(|_| candidate.master)
        && let Some(why) = shared_address::off_link(shared, &member, &seen.interfaces)
    {
        let fix =
            "give it an interface in that network, or create the cluster with another masterIp";
        let why = format!("masterIp: {why}");
        return Err(Refusal::conflict(FaultCode::ApiAddressOffLink, what(), why).fix(fix));
    }
    Ok(member)
}

/// Removes nodes from a cluster; whether they may leave at all is decided in `etcd::leave`. They drain their pods and
/// leave etcd before their rights end for good.
pub(super) fn detach(cluster: &mut Cluster, hosts: &[HostId], now: Timestamp) -> Answer<()> {
    if hosts.is_empty() {
        return Err(Refusal::bad(
            FaultCode::DetachEmpty,
            "detach refused",
            "no host is named",
        ));
    }
    for host in hosts {
        if cluster.member(*host).is_none() {
            let what = format!(
                "host {host} cannot be detached from cluster {}",
                cluster.name
            );
            let no = |why: &str| Refusal::conflict(FaultCode::HostNotAttached, what, why);
            return Err(match etcd::leave::is_on_its_way(cluster, *host) {
                true => no("it was detached already, and is leaving").fix(
                    "pf9ctl status on it says what it waits for; --force (\"force\": true) removes it even if etcd \
                     loses its quorum",
                ),
                false => no("it is not in this cluster"),
            });
        }
    }
    for host in hosts {
        departures::leave(cluster, *host, now, false);
    }
    Ok(())
}

/// Prefix length of one node's pods.
pub(super) fn node_prefix(pods: IpNet) -> u8 {
    match pods {
        IpNet::V4(_) => NODE_PREFIX_V4,
        IpNet::V6(_) => NODE_PREFIX_V6,
    }
}

/// The lowest free part of the pod network.
fn free_pod_cidr(pods: IpNet, members: &[Member]) -> Option<IpNet> {
    let taken: BTreeSet<IpNet> = members.iter().map(|m| m.pod_cidr).collect();
    pods.subnets(node_prefix(pods))
        .ok()?
        .take(NODES_MAX)
        .find(|net| !taken.contains(net))
}
