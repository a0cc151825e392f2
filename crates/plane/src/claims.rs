//! Which names and addresses are taken, as far as the plane knows: pure. Only `index` reads and writes rows: who stated
//! what.
//!
//! A certificate is valid in one cluster, so a host is checked against that cluster's API, services, pods and nodes,
//! and against hosts that may still join it. Hosts of other clusters may have the same names and addresses: sites often
//! use the same private networks.

pub(super) mod index;

use std::net::IpAddr;

use super::records::{Cluster, Host, Settings};
use super::refusal::{Answer, Refusal};
use pf9_hostagent::model::{
    ClusterId, FaultCode, Ground, HostId, Interface, NodeFacts, NodeName, Taken, clash,
};

const API: &str = "the Kubernetes API";

/// Names and addresses of a cluster, except those of its node `me`.
pub(super) fn of_cluster(cluster: &Cluster, me: Option<HostId>) -> Taken {
    let settings = &cluster.settings;
    let mut taken = Taken::default();
    taken.add_domain(&settings.cluster_domain);
    taken.add_network(settings.services_cidr, "the services network");
    taken.add_network(settings.pods_cidr, "the pod network");
    taken.add_pool(&settings.load_balancer);
    if let Some(ip) = settings.master_ip {
        taken.add_address(ip, API);
    }
    if let Some(name) = &settings.external_dns_name {
        taken.add(name, API);
    }
    for member in cluster.members.iter().filter(|m| Some(m.host) != me) {
        add(
            &mut taken,
            member.host,
            Some(&member.node_name),
            [Some(member.ip)],
        );
    }
    taken
}

/// Adds those that root of these hosts stated, for hosts that are in `cluster` or may join it.
pub(super) fn add_hosts<'a>(
    taken: &mut Taken,
    hosts: impl IntoIterator<Item = &'a Host>,
    cluster: Option<ClusterId>,
    shared: Option<IpAddr>,
) {
    let near = |h: &&Host| h.cluster.is_none() || h.cluster == cluster;
    for host in hosts.into_iter().filter(near) {
        let Some(facts) = &host.facts else {
            continue;
        };
        let name = facts.node_name().ok();
        add(taken, host.id, name.as_ref(), own(facts, shared));
    }
}

/// Adds a host's names.
pub(super) fn add<const N: usize>(
    taken: &mut Taken,
    host: HostId,
    name: Option<&NodeName>,
    addresses: [Option<IpAddr>; N],
) {
    let whose = format!("host {host}");
    for ip in addresses.into_iter().flatten() {
        taken.add_address(ip, &whose);
    }
    if let Some(name) = name {
        taken.add(name.as_str(), whose);
    }
}

/// Whether a machine may have the names and addresses that its root stated; the refusal names the conflict.
pub(super) fn check(
    what: &str,
    facts: &NodeFacts,
    taken: &Taken,
    shared: Option<IpAddr>,
) -> Answer<()> {
    let bad = |why| Refusal::bad(FaultCode::FactsInvalid, what, why);
    facts.check().map_err(bad)?;
    check_name(what, &name_of(what, facts)?, taken)?;
    let addresses = own(facts, shared).into_iter().flatten();
    for ip in addresses {
        check_address(what, ip, taken)?;
    }
    Ok(())
}

/// The node's name; a host name that is not a DNS name is refused.
pub(super) fn name_of(what: &str, facts: &NodeFacts) -> Answer<NodeName> {
    facts.node_name().map_err(|e| {
        Refusal::conflict(FaultCode::NodeNameInvalid, what, e.to_string())
            .fix("give the machine a host name that is a DNS name")
    })
}

pub(super) fn check_name(what: &str, name: &NodeName, taken: &Taken) -> Answer<()> {
    taken.check_name(name).map_err(|c| {
        Refusal::conflict(FaultCode::NodeNameTaken, what, c.to_string())
            .fix("give the machine a host name of its own, or remove the host that has it")
    })
}

pub(super) fn check_address(what: &str, ip: IpAddr, taken: &Taken) -> Answer<()> {
    taken.check_address(ip).map_err(|c| {
        Refusal::conflict(FaultCode::AddressTaken, what, c.to_string())
            .fix("give the machine an address of its own, or remove the host that has it")
    })
}

/// The networks a host is attached to. They are not signed facts: a host that reports wrong ones finds out itself.
pub(super) fn grounds(facts: &NodeFacts, interfaces: &[Interface]) -> Vec<Ground> {
    let mut all: Vec<Ground> = facts
        .addresses
        .iter()
        .map(|ip| Ground::address(*ip, "an address of this host"))
        .collect();
    for interface in interfaces {
        let name = format!("a network of this host ({})", interface.name);
        let networks = interface.networks.iter();
        all.extend(networks.map(|net| Ground::network(*net, &name)));
    }
    all
}

/// Refuses cluster networks that overlap with these.
pub(super) fn require_apart(what: &str, settings: &Settings, grounds: &[Ground]) -> Answer<()> {
    match clash(settings.pods_cidr, settings.services_cidr, grounds) {
        None => Ok(()),
        Some(why) => Err(Refusal::conflict(FaultCode::NetworksMeet, what, why)
            .fix("make the cluster with another network, or give the machine another one")),
    }
}

/// The addresses that the node could get.
fn own(facts: &NodeFacts, shared: Option<IpAddr>) -> [Option<IpAddr>; 2] {
    [facts.address(true, shared), facts.address(false, shared)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::tests::{add as attach, cluster, facts, host, host_row};
    use pf9_hostagent::model::ClusterId;

    fn said(name: &str, ip: &str, taken: &Taken) -> Result<(), String> {
        let facts = NodeFacts::new(name, &[ip.parse().expect("ip")]);
        check("x", &facts, taken, None).map_err(|r| format!("{} {}", r.fault.code, r.fault.why))
    }

    #[test]
    fn names_and_addresses_of_a_cluster_are_taken() {
        let mut c = cluster();
        c.settings.master_ip = Some("10.1.0.250".parse().expect("ip"));
        c.settings.external_dns_name = Some("k8s.example".into());
        attach(&mut c, &[(1, true), (2, false)]).expect("attach");
        let taken = of_cluster(&c, None);
        for (name, ip, code, whose) in [
            ("kubernetes.default.svc", "10.1.0.9", "node-name-taken", API),
            ("K8S.example", "10.1.0.9", "node-name-taken", API),
            ("node-1", "10.1.0.9", "node-name-taken", "host 0"),
            ("a_b", "10.1.0.9", "node-name-invalid", "node name"),
            (
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
                "10.1.0.9",
                "node-name-invalid",
                "at most 63 bytes",
            ),
            ("n9", "10.1.0.250", "address-taken", API),
            ("n9", "10.21.0.1", "address-taken", "services network"),
            ("n9", "10.20.0.1", "address-taken", "pod network"),
            ("n9", "10.1.0.2", "address-taken", "host 0"),
            ("n9", "127.0.0.1", "address-taken", "loopback"),
            ("", "10.1.0.9", "facts-invalid", "host name"),
        ] {
            let why = said(name, ip, &taken).expect_err(name);
            assert!(why.starts_with(code) && why.contains(whose), "{why}");
        }
        assert_eq!(said("n9", "10.1.0.9", &taken), Ok(()));
        assert_eq!(
            said("node-2", "10.1.0.2", &of_cluster(&c, Some(host(2)))),
            Ok(())
        );
        assert_eq!(
            said("node-2", "10.1.0.1", &of_cluster(&c, Some(host(2))))
                .map_err(|e| e.contains("host")),
            Err(true)
        );
    }

    #[test]
    fn a_shared_address_on_a_master_is_passed_over() {
        let shared = "10.1.0.250".parse().expect("ip");
        let mut c = cluster();
        c.settings.master_ip = Some(shared);
        let both = NodeFacts::new("n1", &[shared, "10.1.0.1".parse().expect("ip")]);
        let taken = of_cluster(&c, None);
        assert!(check("x", &both, &taken, Some(shared)).is_ok());
        assert_eq!(
            both.address(true, Some(shared)),
            Some("10.1.0.1".parse().expect("ip"))
        );
        assert_eq!(
            NodeFacts::new("n1", &[shared]).address(true, Some(shared)),
            None
        );
    }

    #[test]
    fn hosts_that_may_join_one_cluster_must_differ() {
        let elsewhere = ClusterId::random();
        let here = cluster().id;
        let (free, mine, far) = (
            host_row(1, None),
            host_row(2, Some(here)),
            host_row(3, Some(elsewhere)),
        );
        let judged = |cluster| {
            let mut taken = Taken::default();
            add_hosts(&mut taken, [&free, &mine, &far], cluster, None);
            [1, 2, 3].map(|n| check("x", &facts(n), &taken, None).is_ok())
        };
        assert_eq!(judged(None), [false, true, true]);
        assert_eq!(judged(Some(here)), [false, false, true]);
    }
}
