//! What this machine reaches now and could no longer reach beside a cluster network with the same addresses: its own
//! networks and addresses, its routes, its DNS servers, the plane.

use super::fs::HostFs;
use super::interfaces::{interfaces, plane_addresses};
use super::ours::network::POD_BRIDGE;
use super::resolver::Resolver;
use super::routes::routes;
use super::tunnel_ends::tunnel_ends;
use crate::model::Ground;

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
            false => Ground::network(route.net, name),
        }
    })
}
