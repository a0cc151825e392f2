//! The masters' shared address, judged by host reports: pure.
//!
//! Only the machines know their networks. So an impossible attach is refused as far as the hosts have reported their
//! networks; the masters find out the rest, and report it with their status. The networks are not signed facts: a host
//! that reports wrong ones becomes a master that cannot have the address, and nothing else.

use std::net::IpAddr;

use super::records::{Cluster, Host, Member};
use super::view::Known;
use pf9_hostagent::model::{ApiAddressStatus, Interface, NodeState, a_machines_own};
use pf9_hostagent::telemetry::{MetricKind, MetricsText};

/// Most networks in one message.
const NAMED_MAX: usize = 5;

/// The address that masters of this cluster share among themselves.
pub(super) fn of(cluster: &Cluster) -> Option<IpAddr> {
    let settings = &cluster.settings;
    settings.master_ip.filter(|_| settings.master_vip)
}

/// A host that has the address as its own. One of the cluster's masters has it rightly.
pub(super) fn owner<'a>(
    ip: IpAddr,
    cluster: Option<&Cluster>,
    hosts: impl IntoIterator<Item = &'a Host>,
) -> Option<String> {
    let near = |h: &Host| h.cluster.is_none() || h.cluster == cluster.map(|c| c.id);
    let shares = |h: &Host| cluster.is_some_and(|c| c.is_master(h.id));
    let mut others = hosts.into_iter().filter(|h| near(h) && !shares(h));
    let has = |h: &&Host| h.facts.iter().any(|f| f.addresses.contains(&ip));
    let owner = others.find(has)?;
    Some(format!(
        "{ip} is an address of host {} ({})",
        owner.id, owner.hostname
    ))
}

/// Why this master could not have the address, if its networks are known.
pub(super) fn off_link(ip: IpAddr, master: &Member, interfaces: &[Interface]) -> Option<String> {
    let networks = || interfaces.iter().flat_map(|i| &i.networks);
    // Interfaces missing from the inventory may be the relevant ones.
    let known = networks().any(|net| net.contains(&master.ip));
    if !known || networks().any(|net| a_machines_own(*net, ip)) {
        return None;
    }
    if let Some(net) = networks().find(|net| net.contains(&ip)) {
        let name = &master.node_name;
        return Some(format!(
            "{ip} stands for all of {net}, a network of master {name}, and is no machine's own"
        ));
    }
    let shown: Vec<String> = networks()
        .take(NAMED_MAX)
        .map(ToString::to_string)
        .collect();
    Some(format!(
        "{ip} is in no network of master {} ({})",
        master.node_name,
        shown.join(", ")
    ))
}

/// A master's last report about it.
pub(super) fn said(known: &Known) -> Option<&ApiAddressStatus> {
    let node = known.status.as_ref()?.status.node.as_ref()?;
    node.api_address.as_ref()
}

/// The same as metrics.
pub(super) fn numbers(known: &Known) -> MetricsText {
    let mut text = MetricsText::default();
    let (Some(said), Some(status)) = (said(known), &known.status) else {
        return text;
    };
    let address = said.address.to_string();
    let mut gauge = |name, help, value| {
        text.head(name, MetricKind::Gauge, help);
        text.row(name, &[("address", &address)], value);
    };
    let one = |yes: bool| f64::from(u8::from(yes));
    let help = "1 on the master that has the API's address.";
    gauge("pf9_api_address_here", help, one(said.here));
    let help = "1 if a master cannot hold it, or something is wrong with it.";
    gauge("pf9_api_address_fault", help, one(said.fault.is_some()));
    let help = "Seconds since this master last reported it.";
    let age = known.now.duration_since(status.received_at);
    gauge("pf9_api_address_told_age_seconds", help, age.as_secs_f64());
    text
}

/// The masters' reports about it.
fn told<'a>(
    cluster: &'a Cluster,
    nodes: &'a [Known],
) -> impl Iterator<Item = (&'a Member, &'a ApiAddressStatus)> {
    let ip = of(cluster);
    cluster.masters().filter_map(move |master| {
        let known = nodes.iter().find(|n| n.host.id == master.host)?;
        let said = said(known).filter(|_| known.responding())?;
        (Some(said.address) == ip).then_some((master, said))
    })
}

/// The master that reports that it has it.
pub(super) fn holder<'a>(cluster: &'a Cluster, nodes: &'a [Known]) -> Option<&'a Member> {
    let here = told(cluster, nodes).find(|(_, said)| said.here);
    here.map(|(master, _)| master)
}

/// What is wrong with it, one message each.
pub(super) fn warnings(cluster: &Cluster, nodes: &[Known]) -> Vec<String> {
    let faults = told(cluster, nodes).filter_map(|(master, said)| {
        let fault = said.fault.as_ref()?;
        Some(format!("masterIp: {}: {fault}", master.node_name))
    });
    let faults: Vec<String> = faults.collect();
    faults.into_iter().chain(nobodys(cluster, nodes)).collect()
}

/// No master has it, by the reports of masters that are not silent. While the first masters are being set up none could
/// have it.
fn nobodys(cluster: &Cluster, nodes: &[Known]) -> Option<String> {
    let ip = of(cluster)?;
    let is_master = |n: &&Known| cluster.is_master(n.host.id);
    let was_well = |n: &Known| n.responding() && n.state() == Some(NodeState::Ok);
    let said_before = |n: &Known| said(n).is_some();
    let masters = || nodes.iter().filter(is_master);
    let silent: Vec<&str> = masters()
        .filter(|n| said_before(n) && !n.responding())
        .filter_map(|n| Some(cluster.member(n.host.id)?.node_name.as_str()))
        .collect();
    let expected = masters().any(was_well) || !silent.is_empty();
    if !expected || holder(cluster, nodes).is_some() {
        return None;
    }
    let unheard = match &*silent {
        [] => String::new(),
        silent => format!("; no report from {}", silent.join(", ")),
    };
    Some(format!(
        "masterIp: no master reports that it has {ip}{unheard}: workers do not reach the API"
    ))
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::compute::tests::{add, cluster, host_row};
    use crate::records::ReceivedStatus;
    use crate::recover::tests::{known, reports};
    use pf9_hostagent::model::Role;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("ip")
    }

    #[test]
    fn a_machine_that_has_the_address_is_named_but_for_a_master_that_may() {
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, false)]).expect("attach");
        let rows = [
            host_row(1, Some(c.id)),
            host_row(2, Some(c.id)),
            host_row(3, None),
            host_row(4, Some(pf9_hostagent::model::ClusterId::random())),
        ];
        let owner = |text: &str| owner(ip(text), Some(&c), &rows);
        assert_eq!(owner("10.1.0.1"), None, "a master may have it");
        let worker = owner("10.1.0.2").expect("a worker may not");
        assert!(
            worker.starts_with("10.1.0.2 is an address of host "),
            "{worker}"
        );
        assert!(owner("10.1.0.3").is_some());
        assert_eq!(owner("10.1.0.4"), None, "another site");
        assert_eq!(owner("10.1.0.250"), None);
    }

    #[test]
    fn a_master_whose_networks_lack_the_address_is_named_with_them() {
        let mut c = cluster();
        add(&mut c, &[(1, true)]).expect("attach");
        let networks = |nets: &[&str]| {
            let networks = nets.iter().map(|n| n.parse().expect("net")).collect();
            vec![Interface {
                name: "eth0".into(),
                mac: String::new(),
                addresses: Vec::new(),
                networks,
            }]
        };
        let said = |nets: &[&str]| off_link(ip("10.1.7.250"), &c.members[0], &networks(nets));
        assert_eq!(said(&[]), None, "nothing is known");
        assert_eq!(
            said(&["192.0.2.0/24"]),
            None,
            "that of its own address is not"
        );
        assert_eq!(said(&["10.1.0.0/16"]), None);
        assert_eq!(
            said(&["10.1.0.0/24", "192.0.2.0/24"]).as_deref(),
            Some("10.1.7.250 is in no network of master node-1 (10.1.0.0/24, 192.0.2.0/24)")
        );
        let everybodys = networks(&["10.1.0.0/16"]);
        let said = off_link(ip("10.1.255.255"), &c.members[0], &everybodys).expect("refused");
        assert_eq!(
            said,
            "10.1.255.255 stands for all of 10.1.0.0/16, a network of master node-1, and is no \
             machine's own"
        );
    }

    #[test]
    fn that_nobody_has_it_is_said_once_a_master_could() {
        let shared = ip("10.1.0.250");
        let mut c = cluster();
        c.settings.master_ip = Some(shared);
        c.settings.master_vip = true;
        add(&mut c, &[(1, true), (2, true)]).expect("attach");
        let master = |n: u8, state: NodeState, here: Option<bool>, age: i64| {
            let mut known = known(1);
            known.host = host_row(n, Some(c.id));
            let mut status = reports(1, Some((Role::Master, c.id)));
            status.state = state;
            let node = status.node.as_mut().expect("a node");
            node.api_address = here.map(|here| ApiAddressStatus {
                address: shared,
                here,
                interface: None,
                holder: None,
                since: None,
                fault: None,
            });
            let received_at = known.now - SignedDuration::from_secs(age);
            known.status = Some(ReceivedStatus {
                received_at,
                status,
            });
            known
        };
        let ok = |n, here, age| master(n, NodeState::Ok, here, age);
        let young = |n| master(n, NodeState::Converging, Some(false), 1);
        assert!(warnings(&c, &[]).is_empty());
        assert!(warnings(&c, &[young(1), young(2)]).is_empty(), "not yet");
        let one_has_it = [ok(1, Some(false), 1), ok(2, Some(true), 1)];
        assert!(warnings(&c, &one_has_it).is_empty());
        let none = warnings(&c, &[ok(1, Some(false), 1), young(2)]);
        let words = "masterIp: no master reports that it has 10.1.0.250";
        assert_eq!(none, [format!("{words}: workers do not reach the API")]);
        // Its holder is silent.
        let silent = [ok(1, Some(true), 3600), ok(2, None, 3600)];
        let told = format!("{words}; no report from node-1: workers do not reach the API");
        assert_eq!(warnings(&c, &silent), [told]);
        c.settings.master_vip = false;
        assert!(warnings(&c, &silent).is_empty(), "somebody else's affair");
    }
}
