//! Names and addresses that are taken: pure.
//!
//! A certificate of a node carries its name and its address. A machine chooses both, so each is
//! judged here before anything is signed for it: the plane when a host reports, when it is attached
//! and when it orders; the node when a spec names it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{AddressRange, EtcdMember, HostId, NodeName, NodeSpec, Role};

/// DNS suffix of a cluster whose operator chose none; no machine has a name below it.
const DEFAULT_DOMAIN: &str = "cluster.local";
/// Last labels that resolve to services inside a cluster, whatever its domain is: `<name>.svc`,
/// and `<service>.<namespace>` of Kubernetes' own namespaces.
const SERVICE_SUFFIXES: &[&str] = &[
    "svc",
    "default",
    "kube-system",
    "kube-public",
    "kube-node-lease",
];

/// Names and addresses of others. Even an empty one knows the reserved ones: loopback, `kubernetes`, …
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    domains: Vec<String>,
    names: BTreeMap<String, String>,
    addresses: BTreeMap<IpAddr, String>,
    networks: Vec<(IpNet, String)>,
    ranges: Vec<(AddressRange, String)>,
}

/// A name or an address that belongs to another host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Collision {
    /// Which.
    pub claimed: String,
    /// Whose it is.
    pub whose: String,
}

// === impl Taken ===

impl Taken {
    /// Names at or below this suffix belong to the cluster.
    pub fn add_domain(&mut self, domain: &str) {
        self.domains.push(plain(domain));
    }

    /// A name, or an address written as text.
    pub fn add(&mut self, name_or_address: &str, whose: impl Into<String>) {
        match name_or_address.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) => self.add_address(ip, whose),
            Err(_) => drop(self.names.insert(plain(name_or_address), whose.into())),
        }
    }

    /// An address.
    pub fn add_address(&mut self, ip: IpAddr, whose: impl Into<String>) {
        self.addresses.insert(ip.to_canonical(), whose.into());
    }

    /// Every address of a network.
    pub fn add_network(&mut self, net: IpNet, whose: impl Into<String>) {
        self.networks.push((net, whose.into()));
    }

    /// Addresses that services are given.
    pub fn add_pool(&mut self, pool: &[AddressRange]) {
        let whose = "the pool of services of type LoadBalancer";
        self.ranges
            .extend(pool.iter().map(|range| (*range, whose.to_owned())));
    }

    /// Whether a machine may have this name.
    pub fn check_name(&self, name: &NodeName) -> Result<(), Collision> {
        let name = name.as_str();
        let whose = self.owner_of_name(name);
        whose.map_or(Ok(()), |whose| {
            Err(Collision {
                claimed: format!("name {name}"),
                whose,
            })
        })
    }

    /// Whether a machine may have this address.
    pub fn check_address(&self, ip: IpAddr) -> Result<(), Collision> {
        let whose = self.owner_of_address(ip.to_canonical());
        whose.map_or(Ok(()), |whose| {
            Err(Collision {
                claimed: format!("address {ip}"),
                whose,
            })
        })
    }

    fn owner_of_name(&self, name: &str) -> Option<String> {
        let last = name.rsplit('.').next().unwrap_or(name);
        // A certificate for the name 10.21.0.1 is one for the address.
        if last.bytes().all(|b| b.is_ascii_digit()) {
            return Some("addresses: it ends with a number".into());
        }
        if last == "localhost" || name == "localhost.localdomain" {
            return Some("every machine for itself".into());
        }
        let is_api = matches!(name, "kubernetes" | "kubernetes.default");
        if is_api || name.starts_with("kubernetes.default.") {
            return Some("the Kubernetes API".into());
        }
        if SERVICE_SUFFIXES.contains(&last) {
            return Some(format!("the services of a cluster: it ends with {last}"));
        }
        let domains = self.domains.iter().map(String::as_str);
        let mut domains = domains.chain([DEFAULT_DOMAIN]);
        if let Some(domain) = domains.find(|d| is_below(name, d)) {
            return Some(format!("the services of a cluster, domain {domain}"));
        }
        self.names.get(name).cloned()
    }

    fn owner_of_address(&self, ip: IpAddr) -> Option<String> {
        if let Some(kind) = special(ip) {
            return Some(kind.to_owned());
        }
        let owner = self.addresses.get(&ip).cloned();
        let owner = owner.or_else(|| {
            let mut networks = self.networks.iter();
            let (net, whose) = networks.find(|(net, _)| net.contains(&ip))?;
            Some(format!("{whose} {net}"))
        });
        owner.or_else(|| {
            let mut ranges = self.ranges.iter();
            let (range, whose) = ranges.find(|(range, _)| range.contains(ip))?;
            Some(format!("{whose}, {range}"))
        })
    }
}

/// What belongs to others, as far as a node knows it from its own spec.
pub fn taken_by_spec(host: HostId, role: Role, node: &NodeSpec) -> Taken {
    let mut taken = Taken::default();
    let api = "the Kubernetes API";
    taken.add_domain(&node.network.cluster_domain);
    taken.add_network(node.network.services_cidr, "the services network");
    taken.add_network(node.network.pods_cidr, "the pod network");
    taken.add_pool(&node.network.load_balancer);
    for peer in &node.network.peers {
        taken.add_address(peer.node_ip, "another node");
    }
    let others = |m: &&EtcdMember| m.host_id != host;
    for member in node.etcd.members.iter().filter(others) {
        taken.add_address(member.ip, format!("host {}", member.host_id));
    }
    for san in &node.api.extra_sans {
        taken.add(san, api);
    }
    // Without a shared address the API is reached at the first master's own.
    let is_own = role == Role::Master && node.api.host == node.node_ip.to_string();
    if !is_own {
        taken.add(&node.api.host, api);
    }
    taken
}

/// Addresses that are no machine's among others.
fn special(ip: IpAddr) -> Option<&'static str> {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    match () {
        () if ip.is_loopback() => Some("every machine for itself (loopback)"),
        () if ip.is_unspecified() => Some("nobody (unspecified)"),
        () if link_local => Some("one link only (link-local)"),
        () if ip.is_multicast() || broadcast => Some("many (multicast or broadcast)"),
        () => None,
    }
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_lowercase()
}

impl fmt::Display for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} belongs to {}", self.claimed, self.whose)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cluster() -> Taken {
        let mut taken = Taken::default();
        taken.add_domain("corp.example.");
        taken.add("API.example.com", "the Kubernetes API");
        taken.add("10.1.0.250", "the Kubernetes API");
        taken.add("fd00::250", "the Kubernetes API");
        taken.add_address("10.1.0.9".parse().expect("ip"), "host b");
        taken.add("other", "host b");
        for (net, whose) in [
            ("10.20.0.0/16", "the pod network"),
            ("fd20::/64", "the pod network"),
            ("10.21.0.0/22", "the services network"),
        ] {
            taken.add_network(net.parse().expect("net"), whose);
        }
        taken
    }

    fn name(taken: &Taken, text: &str) -> Result<(), String> {
        let name = text.parse().expect(text);
        taken.check_name(&name).map_err(|c| c.to_string())
    }

    fn address(taken: &Taken, text: &str) -> Result<(), String> {
        let ip = text.parse().expect(text);
        taken.check_address(ip).map_err(|c| c.to_string())
    }

    #[test]
    fn names_of_the_api_of_services_and_of_others_are_theirs() {
        for (text, whose) in [
            ("kubernetes", "the Kubernetes API"),
            ("kubernetes.default", "the Kubernetes API"),
            ("kubernetes.default.svc", "the Kubernetes API"),
            ("kubernetes.default.svc.corp.example", "the Kubernetes API"),
            ("api.example.com", "the Kubernetes API"),
            ("localhost", "every machine"),
            ("n1.localhost", "every machine"),
            ("localhost.localdomain", "every machine"),
            ("etcd.kube-system", "kube-system"),
            ("x.y.svc", "svc"),
            ("corp.example", "domain corp.example"),
            ("x.pod.corp.example", "domain corp.example"),
            ("n1.cluster.local", "domain cluster.local"),
            ("10.21.0.1", "addresses"),
            ("n1.10", "addresses"),
            ("other", "host b"),
        ] {
            let said = name(&cluster(), text).expect_err(text);
            assert!(
                said.starts_with(&format!("name {text} belongs to ")) && said.contains(whose),
                "{said}"
            );
        }
        // The last of these are as near as an honest name gets.
        for text in [
            "n1",
            "n1.example.com",
            "kubernetes-1",
            "svc.example.com",
            "notcorp.example",
            "another",
        ] {
            assert_eq!(name(&cluster(), text), Ok(()), "{text}");
        }
        assert_eq!(name(&Taken::default(), "other"), Ok(()));
        assert!(name(&Taken::default(), "kubernetes.default.svc.a.b").is_err());
    }

    #[test]
    fn addresses_of_the_cluster_and_of_others_are_theirs() {
        for (text, whose) in [
            ("10.21.0.1", "the services network 10.21.0.0/22"),
            ("10.20.255.255", "the pod network 10.20.0.0/16"),
            ("fd20::7", "the pod network fd20::/64"),
            ("::ffff:10.21.0.1", "the services network"),
            ("10.1.0.250", "the Kubernetes API"),
            ("fd00::250", "the Kubernetes API"),
            ("10.1.0.9", "host b"),
            ("127.0.0.53", "loopback"),
            ("::1", "loopback"),
            ("0.0.0.0", "unspecified"),
            ("169.254.169.254", "link-local"),
            ("fe80::1", "link-local"),
            ("224.0.0.1", "multicast"),
            ("255.255.255.255", "broadcast"),
        ] {
            let said = address(&cluster(), text).expect_err(text);
            assert!(said.contains(whose), "{said}");
        }
        for text in ["10.1.0.1", "10.22.0.1", "fd00::1", "192.0.2.1"] {
            assert_eq!(address(&cluster(), text), Ok(()), "{text}");
        }
    }

    proptest! {
        /// No spelling of what is taken gets through, and nothing but what is taken is refused.
        #[test]
        fn an_address_is_refused_exactly_when_it_is_somebodys(bits: u32, near: bool) {
            // Half of them near the networks, where the borders are.
            let bits = if near { 0x0a14_0000 + bits % 0x0002_0000 } else { bits };
            let v4 = std::net::Ipv4Addr::from(bits);
            let taken = cluster();
            let inside = bits >> 16 == 0x0a14 || bits >> 10 == 0x0a15_0000 >> 10;
            let theirs = ["10.1.0.250", "10.1.0.9"].contains(&v4.to_string().as_str());
            let nobodys = special(v4.into()).is_some();
            let refused = taken.check_address(v4.into()).is_err();
            prop_assert_eq!(refused, inside || theirs || nobodys);
            let mapped = v4.to_ipv6_mapped();
            prop_assert_eq!(taken.check_address(mapped.into()).is_err(), refused);
        }

        /// Whatever is put in front of the cluster's domain or of `svc` is a service's name.
        #[test]
        fn nothing_below_a_domain_of_the_cluster_is_a_machines(
            labels in proptest::collection::vec("[a-z]([a-z0-9-]{0,8}[a-z0-9])?", 1..5),
            end in prop::sample::select(vec!["svc", "corp.example", "cluster.local", "default"]),
        ) {
            let text = format!("{}.{end}", labels.join("."));
            let name: NodeName = text.parse().expect("a DNS name");
            prop_assert!(cluster().check_name(&name).is_err(), "{}", text);
            // The same labels without the end are a machine's, unless they are one of these alone.
            let bare: NodeName = format!("{}.example.net", labels.join(".")).parse().expect("name");
            let api = labels.starts_with(&["kubernetes".into(), "default".into()]);
            prop_assert_eq!(cluster().check_name(&bare).is_err(), api, "{}", bare);
        }
    }
}
