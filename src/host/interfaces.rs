//! Network interfaces of the machine and their addresses, and the facts that follow.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;

use super::fs::{FsError, HostFs};
use super::neighbours::Link;
use super::ours::network::POD_BRIDGE;
use super::routes;
use super::tunnel_ends::tunnel_ends;
use crate::model::{Interface, NodeFacts, a_machines_own, addresses_of, paths};

/// Most interfaces that are looked at; a node has one per pod, which are no inventory.
const INTERFACES_MAX: usize = 64;
/// A host name has 64 bytes on Linux; a routing table has a line per route.
const PROC_MAX: u64 = 4 * 1024 * 1024;

/// Names (prefixes) of interfaces that containers and bridges come with, unless the machine reaches others by one.
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
    "vxlan.calico",
    "vxlan-v6.calico",
];

/// What certificates of a node are made from. Read by root for what it signs, and by hostagent to
/// see when that is no longer so: both see the same, from files that everybody reads.
pub fn node_facts(fs: &HostFs) -> Result<NodeFacts, FsError> {
    let name = fs.read_text("/proc/sys/kernel/hostname", PROC_MAX)?;
    let addresses = addresses(fs, &interfaces(fs));
    Ok(NodeFacts::new(name.unwrap_or_default().trim(), &addresses))
}

/// The machine's own interfaces, by name; the addresses of each in the order of preference.
///
/// An interface counts as foreign by its name only while nothing leaves the machine by it: a bridge that carries the
/// default route, or the route to the plane, is the machine's own, whatever its name.
pub fn interfaces(fs: &HostFs) -> Vec<Interface> {
    let Ok(list) = getifaddrs() else {
        return Vec::new();
    };
    let ways = Ways::of(fs);
    let all = list.filter(|entry| !is_foreign(&entry.interface_name, &ways));
    gathered(all, &standing(fs))
}

fn is_foreign(name: &str, ways: &Ways) -> bool {
    FOREIGN_PREFIXES.iter().any(|p| name.starts_with(p)) && !ways.has(name)
}

fn gathered(
    entries: impl Iterator<Item = InterfaceAddress>,
    standing: &BTreeMap<IpAddr, Standing>,
) -> Vec<Interface> {
    let mut found: BTreeMap<String, (Interface, Vec<(Standing, IpAddr)>)> = BTreeMap::new();
    for entry in entries {
        let name = entry.interface_name.clone();
        if found.len() >= INTERFACES_MAX && !found.contains_key(&name) {
            continue;
        }
        let (interface, addresses) = found.entry(name.clone()).or_insert_with(|| {
            let interface = Interface {
                name,
                mac: String::new(),
                addresses: Vec::new(),
                networks: Vec::new(),
            };
            (interface, Vec::new())
        });
        let net = network(&entry);
        interface.networks.extend(net.map(|(_, net)| net.trunc()));
        let Some(address) = entry.address else {
            continue;
        };
        if let Some(mac) = address.as_link_addr().and_then(|l| l.addr()) {
            interface.mac = mac.map(|b| format!("{b:02x}")).join(":");
        }
        if let Some(ip) = ip_of(&address).filter(is_of_interest) {
            let alone = if net.is_none() {
                Standing::Alone
            } else {
                Standing::Own
            };
            let said = standing.get(&ip).copied().unwrap_or(Standing::Own);
            addresses.push((said.max(alone), ip));
        }
    }
    found.into_values().map(in_use_first).collect()
}

/// The kernel's own order, in which a virtual address comes behind the one that was there before it, but for
/// addresses that are worse than that.
fn in_use_first((mut interface, mut addresses): (Interface, Vec<(Standing, IpAddr)>)) -> Interface {
    addresses.retain(|(standing, _)| *standing != Standing::Passing);
    addresses.sort_by_key(|(standing, _)| *standing);
    interface.addresses = addresses.into_iter().map(|(_, ip)| ip).collect();
    interface.networks.sort_unstable();
    interface.networks.dedup();
    interface
}

/// How good an address is for others to reach the machine at; the best comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// The machine's, in a network.
    Own,
    /// In no network: mostly a virtual one that moves between machines.
    Alone,
    /// It is about to go, or another machine may have it.
    Unsure,
    /// A name for a day that hides the machine (RFC 8981): there is another one beside it, which stays.
    Passing,
}

/// What the kernel says of IPv6 addresses; those of IPv4 have no such states.
fn standing(fs: &HostFs) -> BTreeMap<IpAddr, Standing> {
    let text = fs.read_text("/proc/net/if_inet6", PROC_MAX).ok().flatten();
    let text = text.unwrap_or_default();
    text.lines().filter_map(standing_of).collect()
}

/// `<address> <index> <prefix length> <scope> <flags> eth0`, all hex.
fn standing_of(line: &str) -> Option<(IpAddr, Standing)> {
    const TEMPORARY: u32 = 0x01;
    const FAILED: u32 = 0x08;
    const DEPRECATED: u32 = 0x20;
    const TENTATIVE: u32 = 0x40;
    let mut fields = line.split_whitespace();
    let ip = u128::from_str_radix(fields.next()?, 16).ok()?;
    let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
    let standing = match flags {
        f if f & TEMPORARY != 0 => Standing::Passing,
        f if f & (FAILED | DEPRECATED | TENTATIVE) != 0 => Standing::Unsure,
        _ => return None,
    };
    Some((Ipv6Addr::from(ip).into(), standing))
}

/// The interfaces by which the machine reaches others.
#[derive(Debug, Default)]
struct Ways {
    /// Best first: the default route, then what leads to the plane; without either where the tunnel goes now. By IP
    /// version: v4, v6.
    by: [Vec<String>; 2],
}

impl Ways {
    fn of(fs: &HostFs) -> Self {
        Self::with(fs, || tunnel_ends(fs))
    }

    /// Where the tunnel ends now is asked only where nothing that stays says a way: it is gone while the plane is away.
    fn with(fs: &HostFs, ends: impl Fn() -> Vec<IpAddr>) -> Self {
        let all = routes::routes(fs);
        let plane = plane_addresses(fs);
        let of = |v4: bool| {
            let to = |ip: &IpAddr| routes::to(&all, *ip).filter(|_| ip.is_ipv4() == v4);
            let said = routes::default_of(&all, v4)
                .into_iter()
                .chain(plane.iter().filter_map(to));
            let mut ways: Vec<String> = said.map(|route| route.interface.clone()).collect();
            if ways.is_empty() {
                let seen = ends();
                ways.extend(
                    seen.iter()
                        .filter_map(to)
                        .map(|route| route.interface.clone()),
                );
            }
            ways
        };
        let by = [of(true), of(false)];
        Self { by }
    }

    fn has(&self, name: &str) -> bool {
        self.by.iter().flatten().any(|way| way == name)
    }

    /// Its place among the ways of this version.
    fn rank(&self, name: &str, v4: bool) -> usize {
        let ways = &self.by[usize::from(!v4)];
        ways.iter()
            .position(|way| way == name)
            .unwrap_or(usize::MAX)
    }
}

/// Addresses of the tunnel's endpoints, as far as enrolment stored them as addresses. Names are not resolved here: what
/// a machine reports about itself must not change with a DNS answer.
pub fn plane_addresses(fs: &HostFs) -> Vec<IpAddr> {
    let text = fs.read_text(paths::ENDPOINTS, PROC_MAX).ok().flatten();
    let urls: Vec<String> = text
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    addresses_of(&urls)
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
pub fn networks(fs: &HostFs) -> Vec<IpNet> {
    let own = interfaces(fs);
    let nets = own.into_iter().flat_map(|i| i.networks);
    nets.take(INTERFACES_MAX).collect()
}

/// Every address and every network of the machine, whatever its interface is called: what must not be reached in others'
/// name. An error where the kernel does not say.
pub fn all_networks() -> io::Result<Vec<IpNet>> {
    let each = |entry: InterfaceAddress| {
        let own = entry.address.as_ref().and_then(ip_of).map(IpNet::from);
        let net = network(&entry).map(|(_, net)| net.trunc());
        own.into_iter().chain(net)
    };
    Ok(getifaddrs()?.flat_map(each).collect())
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

/// All addresses of these interfaces, of each IP version those first by whose interface the default route leaves, or
/// else what is for the plane.
pub fn addresses(fs: &HostFs, interfaces: &[Interface]) -> Vec<IpAddr> {
    in_order(interfaces, &Ways::of(fs))
}

fn is_of_interest(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !link_local && !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified()
}

fn in_order(interfaces: &[Interface], ways: &Ways) -> Vec<IpAddr> {
    let of = |v4: bool| {
        let mut all: Vec<&Interface> = interfaces.iter().collect();
        all.sort_by_key(|i| ways.rank(&i.name, v4));
        let all = all.into_iter().flat_map(|i| i.addresses.iter().copied());
        all.filter(|ip| ip.is_ipv4() == v4).collect::<Vec<_>>()
    };
    [of(true), of(false)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        Interface {
            name: name.into(),
            mac: String::new(),
            addresses: addresses.iter().map(|ip| ip.parse().expect("ip")).collect(),
            networks: Vec::new(),
        }
    }

    fn ways(v4: &[&str], v6: &[&str]) -> Ways {
        let owned = |all: &[&str]| all.iter().map(|&n| n.to_owned()).collect();
        Ways {
            by: [owned(v4), owned(v6)],
        }
    }

    #[test]
    fn of_each_version_the_default_routes_addresses_come_first() {
        let all = [
            interface("a", &["10.0.0.1", "fd00::1"]),
            interface("b", &["10.0.0.2", "fd00::2"]),
            interface("c", &["10.0.0.3"]),
        ];
        let found = |ways: &Ways| {
            let found = in_order(&all, ways);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let both = found(&ways(&["c", "b"], &["b"]));
        assert_eq!(
            both,
            ["10.0.0.3", "10.0.0.2", "10.0.0.1", "fd00::2", "fd00::1"]
        );
        let none = found(&ways(&[], &[]));
        assert_eq!(
            none,
            ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2"]
        );
    }

    #[test]
    fn what_leaves_by_a_bridge_makes_it_the_machines_own() {
        let none = ways(&[], &[]);
        for name in [
            "br-lan",
            "br-1234567890ab",
            "docker0",
            "veth1",
            "lo",
            "flannel.159",
            // It has an address of the pods.
            "vxlan.calico",
            "vxlan-v6.calico",
            "cali1234567890a",
        ] {
            assert!(is_foreign(name, &none), "{name}");
        }
        for way in [ways(&["br-lan"], &[]), ways(&[], &["br-lan"])] {
            assert!(!is_foreign("br-lan", &way) && is_foreign("br-other", &way));
        }
        assert!(!is_foreign("eth0", &none));
    }

    #[test]
    fn the_plane_is_known_by_its_addresses_only() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        assert_eq!(plane_addresses(&fs).len(), 0);
        let urls =
            br#"["wss://10.1.0.5:8443/v1/tunnel","wss://plane.example/x","wss://[fd00::5]:1/"]"#;
        let attrs = super::super::fs::Attrs::mode(0o644);
        fs.write(paths::ENDPOINTS, urls, &attrs).expect("write");
        let found = plane_addresses(&fs);
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.1.0.5", "fd00::5"]
        );
        // The way there is by the route that there is, with a default route or without.
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                     br-lan\t0000010A\t00000000\t0001\t0\t0\t0\t0000FFFF\n";
        fs.write("/proc/net/route", table.as_bytes(), &attrs)
            .expect("write");
        assert!(Ways::of(&fs).has("br-lan"));
    }

    /// A machine without a default route, whose plane has a name: the tunnel goes somewhere anyway.
    #[test]
    fn where_no_route_says_the_way_the_tunnel_does() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let attrs = super::super::fs::Attrs::mode(0o644);
        let put = |path: &str, text: &str| fs.write(path, text.as_bytes(), &attrs).expect("write");
        let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n";
        let nets = format!(
            "{head}aaa\t0000090A\t00000000\t0001\t0\t0\t0\t0000FFFF\nbr-lan\t0000010A\t00000000\t0001\t0\t0\t0\t0000FFFF\n"
        );
        put("/proc/net/route", &nets);
        put(paths::ENDPOINTS, r#"["wss://plane.example/x"]"#);
        let end: IpAddr = "10.1.0.1".parse().expect("ip");
        let ways = || Ways::with(&fs, || vec![end]);
        assert!(ways().has("br-lan") && !ways().has("aaa"));
        let all = [
            interface("aaa", &["10.9.0.5"]),
            interface("br-lan", &["10.1.0.5"]),
        ];
        let first = |ways: &Ways| in_order(&all, ways)[0].to_string();
        assert_eq!(first(&ways()), "10.1.0.5");
        assert_eq!(first(&Ways::with(&fs, Vec::new)), "10.9.0.5", "nobody says");
        // What stays says more than what is there now.
        put(
            "/proc/net/route",
            &format!("{nets}aaa\t00000000\t0100090A\t0003\t0\t0\t0\t00000000\n"),
        );
        assert_eq!(first(&ways()), "10.9.0.5");
        put("/proc/net/route", &nets);
        put(paths::ENDPOINTS, r#"["wss://10.9.0.1/x"]"#);
        assert_eq!(first(&ways()), "10.9.0.5");
    }

    #[test]
    fn the_kernel_says_which_addresses_pass() {
        for (flags, expected) in [
            ("80", None),
            ("00", None),
            ("01", Some(Standing::Passing)),
            ("21", Some(Standing::Passing)),
            ("20", Some(Standing::Unsure)),
            ("60", Some(Standing::Unsure)),
            ("c8", Some(Standing::Unsure)),
        ] {
            let line = format!("fd000000000000000000000000000002 02 40 00 {flags}     eth0");
            let found = standing_of(&line);
            let ip: IpAddr = "fd00::2".parse().expect("ip");
            assert_eq!(found, expected.map(|s| (ip, s)), "{flags}");
        }
        assert_eq!(standing_of("x y"), None);
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

    fn sh(line: &str) {
        let out = std::process::Command::new("sh")
            .args(["-ec", line])
            .output();
        let out = out.expect("sh");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{line}: {said}");
    }

    /// Real interfaces, in a network of their own.
    #[test]
    fn a_machine_is_where_its_routes_say() {
        const TEST: &str = "host::interfaces::tests::a_machine_is_where_its_routes_say";
        let before = "ip link set lo up";
        if super::super::testing::in_namespaces(TEST, &["--net"], before).is_none() {
            return;
        }
        let fs = HostFs::real();
        let facts = || {
            let all = node_facts(&fs).expect("facts").addresses;
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        sh("ip link add aaa type veth peer name veth1; ip link set veth1 up; ip link set aaa up
            ip address add 10.9.0.1/24 dev aaa
            ip link add br-lan type bridge; ip link add vethp type veth peer name vethq
            ip link set vethp master br-lan; ip link set vethp up; ip link set vethq up; ip link set br-lan up
            ip address add 10.1.0.5/24 dev br-lan; ip address add 10.1.0.3/24 dev br-lan
            ip address add 10.1.0.2/32 dev br-lan");
        assert_eq!(facts(), ["10.9.0.1"], "a bridge that nothing leaves by");
        sh("ip route add default via 10.1.0.1 dev br-lan");
        // The second of its network and the one alone came later and sort first: virtual ones do.
        assert_eq!(facts(), ["10.1.0.5", "10.1.0.3", "10.1.0.2", "10.9.0.1"]);
        // Of several the one with the lower metric.
        sh("ip route add default via 10.9.0.254 dev aaa metric 5; ip route change default via 10.1.0.1 dev br-lan metric 50 ||
            { ip route del default via 10.1.0.1 dev br-lan; ip route add default via 10.1.0.1 dev br-lan metric 50; }");
        assert_eq!(facts().first().map(String::as_str), Some("10.9.0.1"));
        // A machine of IPv6 alone; one address is about to go.
        sh(
            "ip route flush default; ip -4 address flush dev br-lan; ip -4 address flush dev aaa
            ip -6 address add fd00:9::1/64 dev aaa nodad
            ip -6 address add fd00:1::5/64 dev br-lan nodad
            ip -6 address add fd00:1::2/64 dev br-lan nodad preferred_lft 0
            ip -6 route add default via fd00:1::1 dev br-lan",
        );
        assert_eq!(facts(), ["fd00:1::5", "fd00:1::2", "fd00:9::1"]);
    }

    #[test]
    fn this_machine_has_facts() {
        let facts = node_facts(&HostFs::real()).expect("facts");
        assert_eq!(facts.check(), Ok(()));
        let all = addresses(&HostFs::real(), &interfaces(&HostFs::real()));
        assert!(all.starts_with(&facts.addresses));
    }
}
