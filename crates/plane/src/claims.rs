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
    ClusterId, FaultCode, Ground, HostId, INVENTORY_DNS_MAX, INVENTORY_ROUTES_MAX, Interface,
    Inventory, NodeFacts, NodeName, Taken, clash,
};

const API: &str = "the Kubernetes API";
/// Of a refusal that names the host before.
pub(super) const THIS_HOST: &str = "this host";

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

/// The addresses of a host (`whose`), and the networks it is attached to. The networks are not signed facts: a host that
/// reports wrong ones finds out itself.
pub(super) fn grounds(whose: &str, facts: &NodeFacts, interfaces: &[Interface]) -> Vec<Ground> {
    let mut all: Vec<Ground> = facts
        .addresses
        .iter()
        .map(|ip| Ground::address(*ip, format!("an address of {whose}")))
        .collect();
    for interface in interfaces {
        let name = format!("a network of {whose} ({})", interface.name);
        let networks = interface.networks.iter();
        all.extend(networks.map(|net| Ground::network(*net, &name)));
    }
    all
}

/// The same of a host that may become a node, and what it reaches beside: its DNS servers, and where its routes lead. Not
/// of one that is a node: it is kept, whatever its machine has met since, and follows its machine's address.
pub(super) fn grounds_before(whose: &str, facts: &NodeFacts, seen: &Inventory) -> Vec<Ground> {
    let mut all = grounds(whose, facts, &seen.interfaces);
    let servers = seen.dns_servers.iter().take(INVENTORY_DNS_MAX);
    all.extend(servers.map(|ip| Ground::address(*ip, format!("a DNS server of {whose}"))));
    let routes = seen.routes.iter().take(INVENTORY_ROUTES_MAX);
    all.extend(routes.map(|route| {
        let name = format!("a route of {whose}");
        match route.on_link {
            true => Ground::link(route.net, name),
            false => Ground::route(route.net, name),
        }
    }));
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
    use serde_json::{Value, json};

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

    fn met(seen: &Inventory) -> Option<String> {
        let grounds = grounds_before(THIS_HOST, &facts(7), seen);
        let said = require_apart("x", &cluster().settings, &grounds).map_err(|r| r.fault);
        let fault = said.err()?;
        assert!(fault.code == FaultCode::NetworksMeet && !fault.fix.is_empty());
        Some(fault.why)
    }

    #[test]
    fn what_a_host_has_or_reaches_is_compared_and_both_are_named() {
        let seen = |interfaces: Value, dns_servers: Value, routes: Value| Inventory {
            interfaces: serde_json::from_value(interfaces).expect("interfaces"),
            dns_servers: serde_json::from_value(dns_servers).expect("servers"),
            routes: serde_json::from_value(routes).expect("routes"),
            ..Inventory::default()
        };
        let eth1 = |net: &str| {
            let eth1 = json!([{"name": "eth1", "mac": "", "addresses": [], "networks": [net]}]);
            seen(eth1, json!([]), json!([]))
        };
        let dns = |ip: &str| seen(json!([]), json!(["10.1.0.53", ip]), json!([]));
        let route = |net: &str| seen(json!([]), json!([]), json!([{"net": net}]));
        let link = |net: &str| seen(json!([]), json!([]), json!([{"net": net, "on_link": true}]));
        for (seen, words) in [
            (
                eth1("10.21.2.0/24"),
                "servicesCidr: 10.21.0.0/22 overlaps 10.21.2.0/24, a network of this host (eth1)",
            ),
            (
                eth1("10.0.0.0/8"),
                "containersCidr: 10.20.0.0/16 overlaps 10.0.0.0/8, a network of this host (eth1)",
            ),
            (
                dns("10.21.0.10"),
                "servicesCidr: 10.21.0.0/22 contains 10.21.0.10, a DNS server of this host",
            ),
            (
                route("10.20.7.0/24"),
                "containersCidr: 10.20.0.0/16 contains 10.20.7.0/24, a route of this host",
            ),
            (
                link("10.16.0.0/12"),
                "containersCidr: 10.20.0.0/16 overlaps 10.16.0.0/12, a route of this host",
            ),
        ] {
            assert_eq!(met(&seen).as_deref(), Some(words));
        }
        for apart in [
            eth1("10.1.0.0/16"),
            dns("10.1.0.54"),
            // The narrower one wins.
            route("10.0.0.0/8"),
            link("172.17.0.0/16"),
            // What a VPN takes is no network of its neighbours.
            link("0.0.0.0/1"),
            // Of an agent that reports neither.
            Inventory::default(),
        ] {
            assert_eq!(met(&apart), None, "{apart:?}");
        }
    }

    #[test]
    fn of_what_a_host_reports_only_as_much_counts_as_an_agent_may_report() {
        let mut seen = Inventory::default();
        let away = "10.1.0.53".parse().expect("ip");
        seen.dns_servers = vec![away; INVENTORY_DNS_MAX];
        seen.dns_servers.push("10.20.0.53".parse().expect("ip"));
        assert_eq!(met(&seen), None);
        seen.dns_servers.remove(0);
        assert!(met(&seen).is_some());
    }
}
