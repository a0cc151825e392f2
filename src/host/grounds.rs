//! What this machine reaches now and could no longer reach beside a cluster network with the same addresses: its own
//! networks and addresses, its routes, its DNS servers, the plane.

use std::net::IpAddr;

use ipnet::IpNet;

use super::fs::{Found, HostFs};
use super::interfaces::{interfaces, plane_addresses};
use super::ours::network::{POD_BRIDGE, is_link_of_pods};
use super::resolver::Resolver;
use super::routes::{Route, routes};
use super::tunnel_ends::tunnel_ends;
use crate::model::{Ground, INVENTORY_DNS_MAX, INVENTORY_ROUTES_MAX, Interface, RouteTo, paths};

/// Most networks, routes and addresses that are compared; who has more has them from a routing protocol.
pub const GROUNDS_MAX: usize = 65_536;

/// What stands whatever the cluster: addresses, the networks of interfaces, the plane, DNS servers.
pub fn standing(fs: &HostFs) -> Vec<Ground> {
    let mut all = Vec::new();
    for ip in plane_addresses(fs) {
        all.push(Ground::address(ip, "where the plane is"));
    }
    // Of a plane that has a name, or is behind a proxy.
    for ip in tunnel_ends(fs) {
        all.push(Ground::address(ip, "where the tunnel to the plane goes"));
    }
    for interface in interfaces(fs) {
        let name = &interface.name;
        for net in interface.networks {
            all.push(Ground::network(
                net,
                format!("a network of this machine ({name})"),
            ));
        }
        for ip in interface.addresses {
            all.push(Ground::address(
                ip,
                format!("an address of this machine ({name})"),
            ));
        }
    }
    // An unreadable file names no server.
    let servers = Resolver::of(fs).unwrap_or_default();
    for ip in servers.servers {
        all.push(Ground::address(
            ip,
            format!("a DNS server of this machine ({})", servers.path),
        ));
    }
    all
}

/// Where its routes lead. Of a node some are its own.
pub fn ways(fs: &HostFs) -> impl Iterator<Item = Ground> {
    let all = routes(fs).into_iter().filter(|r| r.interface != POD_BRIDGE);
    all.map(|route| {
        let name = format!("a route of this machine ({})", route.interface);
        match route.gateway {
            true => Ground::route(route.net, name),
            false => Ground::link(route.net, name),
        }
    })
}

/// Networks behind links that came beside a node: a bridge of another container runtime, a VPN. Of other routes a node has
/// its own, to the pods of others.
pub fn links_beside(fs: &HostFs) -> impl Iterator<Item = Ground> {
    let beside = |r: &Route| !r.gateway && !is_link_of_pods(&r.interface);
    let all = routes(fs).into_iter().filter(beside);
    all.map(|route| {
        let name = format!("a route of this machine ({})", route.interface);
        Ground::link(route.net, name)
    })
}

/// DNS servers of this machine, for its inventory.
pub fn dns_servers(fs: &HostFs) -> Vec<IpAddr> {
    // An unreadable file names no server.
    let mut all = Resolver::of(fs).unwrap_or_default().servers;
    all.retain(|ip| !ip.is_loopback());
    all.truncate(INVENTORY_DNS_MAX);
    all
}

/// Where routes lead that have nothing to do with a node, for the inventory: of a machine that is one, none. Its routes to
/// other nodes' pods would be taken for its own when it is a machine again, in the minute before the next look. So it is
/// asked first: what a node has in the kernel goes before its directory.
pub fn routes_of_no_node(fs: &HostFs, interfaces: &[Interface]) -> Vec<RouteTo> {
    if !matches!(fs.found(paths::KUBE_DIR), Ok(Found::Nothing)) {
        return Vec::new();
    }
    let is_known = |net: IpNet| interfaces.iter().any(|i| i.networks.contains(&net));
    let all = routes(fs).into_iter().filter(|r| r.net.prefix_len() > 0);
    let all = all.filter(|r| r.interface != POD_BRIDGE && !is_known(r.net));
    let mut all: Vec<RouteTo> = all
        .map(|route| RouteTo {
            net: route.net,
            on_link: !route.gateway,
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    all.truncate(INVENTORY_ROUTES_MAX);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;

    const HEAD: &str =
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";

    fn machine(routes: &str, resolv: &str) -> (tempfile::TempDir, HostFs) {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let routes = format!("{HEAD}{routes}");
        for (path, text) in [
            ("/proc/net/route", routes.as_str()),
            ("/etc/resolv.conf", resolv),
        ] {
            fs.write(path, text.as_bytes(), &Attrs::mode(0o644))
                .expect("write");
        }
        (dir, fs)
    }

    fn told(fs: &HostFs, own: &[&str]) -> Vec<(String, bool)> {
        let eth0 = Interface {
            name: "eth0".into(),
            mac: String::new(),
            addresses: Vec::new(),
            networks: own.iter().map(|net| net.parse().expect("net")).collect(),
        };
        let all = routes_of_no_node(fs, &[eth0]);
        let each = all.into_iter().map(|r| (r.net.to_string(), r.on_link));
        each.collect()
    }

    #[test]
    fn an_inventory_has_what_routes_lead_to_unless_it_is_a_node() {
        let routes = "eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\n\
            eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
            docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\n\
            vpn\t0000140A\t0100A8C0\t0003\t0\t0\t0\t0000FFFF\n\
            vpn\t0000140A\t0100A8C0\t0003\t0\t0\t9\t0000FFFF\n";
        let (_dir, fs) = machine(routes, "");
        let docker = ("172.17.0.0/16".to_owned(), true);
        let vpn = ("10.20.0.0/16".to_owned(), false);
        assert_eq!(told(&fs, &["192.168.0.0/24"]), [vpn, docker]);
        assert_eq!(told(&fs, &[]).len(), 3, "of no interface that is listed");
        fs.write(format!("{}/x", paths::KUBE_DIR), b"", &Attrs::mode(0o600))
            .expect("write");
        assert_eq!(told(&fs, &[]), []);
    }

    #[test]
    fn an_inventory_is_bounded_whatever_the_machine_has() {
        let line = |n: usize| format!("bgp\t0000{n:02X}0A\t0100A8C0\t0003\t0\t0\t0\t0000FFFF\n");
        let routes: String = (0..INVENTORY_ROUTES_MAX + 9).map(line).collect();
        let resolv: String = (0..INVENTORY_DNS_MAX + 9)
            .map(|n| format!("nameserver 10.9.0.{n}\n"))
            .collect();
        let (_dir, fs) = machine(&routes, &resolv);
        assert_eq!(told(&fs, &[]).len(), INVENTORY_ROUTES_MAX);
        assert_eq!(dns_servers(&fs).len(), INVENTORY_DNS_MAX);
        // The machine itself answers for its pods' resolver alone.
        let (_dir, fs) = machine("", "nameserver 127.0.0.53\nnameserver 10.9.0.1\n");
        let alone: Vec<IpAddr> = vec!["10.9.0.1".parse().expect("ip")];
        assert_eq!(dns_servers(&fs), alone);
    }
}
