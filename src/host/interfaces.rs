//! Network interfaces of the machine and their addresses, and the facts that follow.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;

use super::fs::{FsError, HostFs};
use super::neighbours::Link;
use super::ours::network::POD_BRIDGE;
use crate::model::{Interface, NodeFacts, a_machines_own};

/// Most interfaces that are looked at; a node has one per pod, which are no inventory.
const INTERFACES_MAX: usize = 64;
/// A host name has 64 bytes on Linux; a routing table has a line per route.
const PROC_MAX: u64 = 4 * 1024 * 1024;

/// Names (prefixes) of interfaces that containers and bridges come with.
const FOREIGN_PREFIXES: &[&str] = &[
    "lo",
    "veth",
    "cali",
    "cni",
    "pf9cni",
    "docker",
    "br-",
    "tap",
    "vnet",
    "kube-ipvs",
    "flannel",
];

/// What certificates of a node are made from. Read by root for what it signs, and by hostagent to
/// see when that is no longer so.
pub fn node_facts(fs: &HostFs) -> Result<NodeFacts, FsError> {
    let name = fs.read_text("/proc/sys/kernel/hostname", PROC_MAX)?;
    let addresses = addresses(fs, &interfaces());
    Ok(NodeFacts::new(name.unwrap_or_default().trim(), &addresses))
}

/// The machine's own interfaces, by name.
pub fn interfaces() -> Vec<Interface> {
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    let Ok(list) = getifaddrs() else {
        return Vec::new();
    };
    for entry in list {
        let name = entry.interface_name.clone();
        let foreign = FOREIGN_PREFIXES.iter().any(|p| name.starts_with(p));
        if foreign || (found.len() >= INTERFACES_MAX && !found.contains_key(&name)) {
            continue;
        }
        let interface = found.entry(name.clone()).or_insert_with(|| Interface {
            name,
            mac: String::new(),
            addresses: Vec::new(),
            networks: Vec::new(),
        });
        interface
            .networks
            .extend(network(&entry).map(|(_, net)| net.trunc()));
        let Some(address) = entry.address else {
            continue;
        };
        if let Some(mac) = address.as_link_addr().and_then(|l| l.addr()) {
            interface.mac = mac.map(|b| format!("{b:02x}")).join(":");
        }
        interface
            .addresses
            .extend(ip_of(&address).filter(is_of_interest));
    }
    let mut all: Vec<_> = found.into_values().collect();
    for interface in &mut all {
        interface.addresses.sort_unstable();
        interface.networks.sort_unstable();
        interface.networks.dedup();
    }
    all
}

/// The interface that has a network with this address in it: that of `own` where it is one of them,
/// else that with the smallest such network.
pub fn link_of(ip: IpAddr, own: IpAddr) -> Option<Link> {
    let all: Vec<InterfaceAddress> = getifaddrs().ok()?.collect();
    let name = chosen(
        all.iter().filter_map(|entry| {
            let usable = entry.flags.contains(InterfaceFlags::IFF_UP)
                && !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
            let (at, net) = network(entry).filter(|_| usable)?;
            Some((entry.interface_name.as_str(), at, net))
        }),
        ip,
        own,
    )?;
    let link = all.iter().find_map(|entry| {
        let link = entry.address.as_ref()?.as_link_addr()?;
        (entry.interface_name == name).then_some(*link)
    })?;
    Link::new(name, link)
}

/// The name of the interface that is to have `ip`, of those with these addresses in these networks.
fn chosen<'a>(
    all: impl Iterator<Item = (&'a str, IpAddr, IpNet)>,
    ip: IpAddr,
    own: IpAddr,
) -> Option<String> {
    let on_link = all.filter(|(name, _, net)| *name != POD_BRIDGE && a_machines_own(*net, ip));
    let best = on_link.max_by_key(|(_, at, net)| (*at == own, net.prefix_len()));
    best.map(|(name, _, _)| name.to_owned())
}

/// An address with the network it is in; one of its own alone is in none.
fn network(entry: &InterfaceAddress) -> Option<(IpAddr, IpNet)> {
    let ip = ip_of(entry.address.as_ref()?).filter(is_of_interest)?;
    let mask = ip_of(entry.netmask.as_ref()?)?;
    let net = IpNet::with_netmask(ip, mask).ok()?;
    (net.prefix_len() < net.max_prefix_len()).then_some((ip, net))
}

/// The networks that the machine's own interfaces are in.
pub fn networks() -> Vec<IpNet> {
    let Ok(list) = getifaddrs() else {
        return Vec::new();
    };
    let foreign = |name: &str| FOREIGN_PREFIXES.iter().any(|p| name.starts_with(p));
    let own = list.filter(|entry| !foreign(&entry.interface_name));
    let nets = own.filter_map(|entry| network(&entry).map(|(_, net)| net.trunc()));
    nets.take(INTERFACES_MAX).collect()
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

/// All addresses of these interfaces, the default route's first.
pub fn addresses(fs: &HostFs, interfaces: &[Interface]) -> Vec<IpAddr> {
    // Without a routing table there is no first one, and the rest is still worth telling.
    let table = fs.read_text("/proc/net/route", PROC_MAX).ok().flatten();
    let default = default_route(&table.unwrap_or_default());
    in_order(interfaces, default.as_deref())
}

fn is_of_interest(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !link_local && !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified()
}

/// The interface of the IPv4 default route, from `/proc/net/route`.
fn default_route(text: &str) -> Option<String> {
    text.lines()
        .skip(1)
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .filter(|f| f.get(1) == Some(&"00000000"))
        .min_by_key(|f| f.get(6).and_then(|m| m.parse::<u64>().ok()))
        .and_then(|f| f.first().map(|name| (*name).to_owned()))
}

fn in_order(interfaces: &[Interface], default: Option<&str>) -> Vec<IpAddr> {
    let (first, rest): (Vec<_>, Vec<_>) = interfaces
        .iter()
        .partition(|i| Some(i.name.as_str()) == default);
    first
        .into_iter()
        .chain(rest)
        .flat_map(|i| i.addresses.iter().copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_with_the_lowest_metric_counts() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
            wlan0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\n\
            eth1\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\n";
        assert_eq!(default_route(text).as_deref(), Some("eth1"));
        assert_eq!(default_route(""), None);
    }

    #[test]
    fn the_default_routes_addresses_come_first() {
        let interface = |name: &str, ip: &str| Interface {
            name: name.into(),
            mac: String::new(),
            addresses: vec![ip.parse().expect("ip")],
            networks: Vec::new(),
        };
        let all = [interface("a", "10.0.0.1"), interface("b", "10.0.0.2")];
        let found = in_order(&all, Some("b"));
        assert_eq!(
            found.first().map(ToString::to_string).as_deref(),
            Some("10.0.0.2")
        );
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn the_interface_with_the_nodes_own_address_comes_before_smaller_networks() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("ip");
        let all = [
            ("eth0", "10.1.0.1/16"),
            ("eth1", "10.1.0.9/24"),
            ("pf9cni0", "10.1.0.8/25"),
            ("eth2", "192.0.2.1/24"),
        ];
        let choose = |wanted: &str, own: &str| {
            let all = all.map(|(name, net)| {
                let net: IpNet = net.parse().expect("net");
                (name, net.addr(), net)
            });
            chosen(all.into_iter(), ip(wanted), ip(own))
        };
        assert_eq!(choose("10.1.0.250", "10.1.0.1").as_deref(), Some("eth0"));
        assert_eq!(choose("10.1.0.250", "192.0.2.1").as_deref(), Some("eth1"));
        assert_eq!(choose("10.1.7.250", "192.0.2.1").as_deref(), Some("eth0"));
        assert_eq!(choose("10.2.0.250", "10.1.0.1"), None);
        assert_eq!(choose("10.1.255.255", "10.1.0.1"), None, "everybody's");
    }

    #[test]
    fn this_machine_has_facts() {
        let facts = node_facts(&HostFs::real()).expect("facts");
        assert_eq!(facts.check(), Ok(()));
        let all = addresses(&HostFs::real(), &interfaces());
        assert!(all.starts_with(&facts.addresses));
    }
}
