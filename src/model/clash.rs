//! A cluster's networks and what is there already: pure.
//!
//! Pods and services have addresses that the cluster assigns, and every node routes them to itself or to other nodes.
//! Whatever had such an address before becomes unreachable from the node: the machine's own neighbours, its DNS server,
//! the plane. So both are compared wherever they meet: by the plane with what hosts reported, by the node with what it
//! sees.

use std::net::IpAddr;

use ipnet::IpNet;

/// Networks that somebody numbered have prefixes from here on: no private one is wider than 10.0.0.0/8 and fd00::/8. A
/// wider one without a router (the default route of PPP or of a virtual server's link, the halves of everything that a VPN
/// takes) leads to the rest of the world, and who is there is no neighbour.
const NEIGHBOURS_LEN_MIN: u8 = 8;

/// Something that is there, whatever the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground {
    what: What,
    /// Whose, or what for, e.g. `a network of this machine (eth0)`.
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Addresses in it are neighbours.
    Network(IpNet),
    /// Others are reached by it. One that is wider than the cluster's network is no harm: the narrower one wins.
    Route(IpNet),
    Address(IpAddr),
}

impl Ground {
    /// A network that a machine is in.
    pub fn network(net: IpNet, name: impl Into<String>) -> Self {
        Self::new(What::Network(net.trunc()), name)
    }

    /// A network that is reached by a router.
    pub fn route(net: IpNet, name: impl Into<String>) -> Self {
        Self::new(What::Route(net.trunc()), name)
    }

    /// What a route without a router leads to.
    pub fn link(net: IpNet, name: impl Into<String>) -> Self {
        match net.prefix_len() < NEIGHBOURS_LEN_MIN {
            true => Self::route(net, name),
            false => Self::network(net, name),
        }
    }

    /// An address that has to be reached.
    pub fn address(ip: IpAddr, name: impl Into<String>) -> Self {
        Self::new(What::Address(ip.to_canonical()), name)
    }

    fn new(what: What, name: impl Into<String>) -> Self {
        let name = name.into();
        Self { what, name }
    }

    fn is_in(&self, net: IpNet) -> bool {
        match self.what {
            What::Network(other) => net.contains(&other) || other.contains(&net),
            // The default route is wider than everything.
            What::Route(other) => net.contains(&other),
            What::Address(ip) => net.contains(&ip),
        }
    }
}

/// The first that cannot be beside these networks of a cluster, as text: the setting with its value, and what it meets
/// with its own.
pub fn clash(pods: IpNet, services: IpNet, grounds: &[Ground]) -> Option<String> {
    let both = [("containersCidr", pods), ("servicesCidr", services)];
    grounds.iter().find_map(|ground| {
        let (field, net) = both.into_iter().find(|(_, net)| ground.is_in(*net))?;
        let name = &ground.name;
        Some(match ground.what {
            What::Network(other) => format!("{field}: {net} overlaps {other}, {name}"),
            What::Route(other) => format!("{field}: {net} contains {other}, {name}"),
            What::Address(ip) => format!("{field}: {net} contains {ip}, {name}"),
        })
    })
}

/// The hosts of these URLs that are written as addresses.
pub fn addresses_of(urls: &[String]) -> Vec<IpAddr> {
    let hosts = urls.iter().filter_map(|url| host(url));
    hosts.filter_map(|host| host.parse().ok()).collect()
}

/// The others: names.
pub fn names_of(urls: &[String]) -> Vec<String> {
    let hosts = urls.iter().filter_map(|url| host(url));
    hosts
        .filter(|host| host.parse::<IpAddr>().is_err())
        .collect()
}

fn host(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    Some(uri.host()?.trim_matches(['[', ']']).to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("net")
    }

    fn said(ground: Ground) -> Option<String> {
        clash(net("10.20.0.0/16"), net("10.21.0.0/22"), &[ground])
    }

    #[test]
    fn both_values_and_the_setting_are_named() {
        let ip = |text: &str| text.parse().expect("ip");
        for (ground, words) in [
            (
                Ground::network(net("10.20.7.9/24"), "a network of n1"),
                "containersCidr: 10.20.0.0/16 overlaps 10.20.7.0/24, a network of n1",
            ),
            (
                Ground::network(net("10.0.0.0/8"), "a network of n1"),
                "containersCidr: 10.20.0.0/16 overlaps 10.0.0.0/8, a network of n1",
            ),
            (
                Ground::link(net("10.0.0.0/8"), "a route of n1"),
                "containersCidr: 10.20.0.0/16 overlaps 10.0.0.0/8, a route of n1",
            ),
            (
                Ground::route(net("10.21.1.0/24"), "a route"),
                "servicesCidr: 10.21.0.0/22 contains 10.21.1.0/24, a route",
            ),
            (
                Ground::address(ip("::ffff:10.20.0.53"), "a DNS server"),
                "containersCidr: 10.20.0.0/16 contains 10.20.0.53, a DNS server",
            ),
        ] {
            assert_eq!(said(ground).as_deref(), Some(words));
        }
        for ground in [
            Ground::network(net("10.22.0.0/16"), "x"),
            Ground::route(net("10.0.0.0/8"), "a wide route"),
            Ground::route(net("0.0.0.0/0"), "the default route"),
            Ground::link(net("0.0.0.0/0"), "the default route of a link"),
            Ground::link(net("0.0.0.0/1"), "half of everything, by a VPN"),
            Ground::address(ip("10.21.4.0"), "x"),
            Ground::network(net("fd00::/8"), "x"),
        ] {
            assert_eq!(said(ground), None);
        }
    }

    proptest! {
        /// No address of the cluster's networks clashes with one that was not named.
        #[test]
        fn what_is_let_through_shares_no_address(at: u32, len in 8u8..=32, route: bool) {
            let other: IpNet = ipnet::Ipv4Net::new(at.into(), len).expect("net").trunc().into();
            let (pods, services) = (net("10.20.0.0/16"), net("10.21.0.0/22"));
            let ground = if route { Ground::route(other, "x") } else { Ground::network(other, "x") };
            let let_through = clash(pods, services, &[ground]).is_none();
            let apart = |net: IpNet| net.broadcast() < other.network() || other.broadcast() < net.network();
            let wider = |net: IpNet| route && other.prefix_len() < net.prefix_len();
            let fine = |net: IpNet| apart(net) || wider(net);
            prop_assert_eq!(let_through, fine(pods) && fine(services));
        }
    }
}
