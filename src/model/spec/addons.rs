//! What a cluster has beside Kubernetes itself: network policies, and addresses for services of type
//! LoadBalancer.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::NetworkPlugin;

/// Most ranges of a pool: no address plan is in more pieces, and each is written into the cluster.
pub const POOL_RANGES_MAX: usize = 32;
/// Most addresses of a pool: all of a /16. A larger one is a slip of the pen (of IPv6: a whole network).
pub(super) const POOL_ADDRESSES_MAX: u128 = 65_536;

/// Most add-ons that are kept out of a cluster: several times those that a stack brings.
pub(super) const OFF_MAX: usize = 64;
/// Longest name of one: it is the name of a file, and a label's value.
const NAME_MAX: usize = 63;

/// What is wrong with names of add-ons that are kept out of a cluster.
pub fn off_fault<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Option<String> {
    if names.len() > OFF_MAX {
        return Some(format!("{} names, at most {OFF_MAX}", names.len()));
    }
    let is_name = |name: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let ends = !name.starts_with('-') && !name.ends_with('-');
        (1..=NAME_MAX).contains(&name.len()) && ends && name.bytes().all(inner)
    };
    let mut names = names;
    let bad = names.find(|name| !is_name(name))?;
    Some(format!(
        "{:?} is not the name of an add-on: a-z, 0-9 and -, at most {NAME_MAX} characters",
        bad.chars().take(NAME_MAX).collect::<String>()
    ))
}

/// What a spec says about NetworkPolicy objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkPolicies {
    /// Kept on the built-in network and on flannel, which keep none, where the stack has what keeps them.
    #[default]
    Auto,
    /// Kept by the stack's controller, whatever network it is that keeps none itself.
    On,
    /// Not kept by us: a network plugin may.
    Off,
}

/// Addresses from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

/// A text that is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a range of addresses like 10.1.2.10-10.1.2.20 or 10.1.2.16/28")]
pub struct NoRange {
    text: String,
}

// === impl NetworkPolicies ===

impl NetworkPolicies {
    /// Whether a cluster with this network wants the stack's controller, where the stack has it.
    pub fn wanted(self, plugin: NetworkPlugin) -> bool {
        match self {
            Self::Auto => match plugin {
                NetworkPlugin::Bridge | NetworkPlugin::Flannel => true,
                NetworkPlugin::Calico | NetworkPlugin::None => false,
            },
            // Two who write rules for one policy would let through what either of them lets through, and drop what
            // either of them drops.
            Self::On => plugin != NetworkPlugin::Calico,
            Self::Off => false,
        }
    }

    /// Nothing was said.
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

// === impl AddressRange ===

impl AddressRange {
    /// Whether the address is one of these.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.same_version(ip) && self.first <= ip && ip <= self.last
    }

    fn same_version(&self, ip: IpAddr) -> bool {
        self.first.is_ipv4() == ip.is_ipv4()
    }

    fn meets(&self, first: IpAddr, last: IpAddr) -> bool {
        self.same_version(first) && self.first <= last && first <= self.last
    }

    fn meets_net(&self, net: IpNet) -> bool {
        self.meets(net.network(), net.broadcast())
    }

    /// All of it is in this network.
    pub fn is_within(&self, net: IpNet) -> bool {
        net.contains(&self.first) && net.contains(&self.last)
    }

    /// How many they are; saturating.
    fn count(&self) -> u128 {
        let number = |ip| match ip {
            IpAddr::V4(ip) => u128::from(u32::from(ip)),
            IpAddr::V6(ip) => u128::from(ip),
        };
        (number(self.last) - number(self.first)).saturating_add(1)
    }
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> Self {
        range.to_string()
    }
}

impl TryFrom<String> for AddressRange {
    type Error = NoRange;

    fn try_from(text: String) -> Result<Self, NoRange> {
        text.parse()
    }
}

impl std::str::FromStr for AddressRange {
    type Err = NoRange;

    fn from_str(text: &str) -> Result<Self, NoRange> {
        const SHOWN: usize = 80;
        let none = || NoRange {
            text: text.chars().take(SHOWN).collect(),
        };
        let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| none());
        let (first, last) = match (text.split_once('-'), text.contains('/')) {
            (Some((first, last)), _) => (address(first)?, address(last)?),
            (None, true) => {
                let net: IpNet = text.trim().parse().map_err(|_| none())?;
                (net.network(), net.broadcast())
            }
            (None, false) => (address(text)?, address(text)?),
        };
        match first.is_ipv4() == last.is_ipv4() && first <= last {
            true => Ok(Self { first, last }),
            false => Err(none()),
        }
    }
}

/// Addresses that no service can have, of both versions.
const NOBODYS: [&str; 8] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/3",
    "::/128",
    "::1/128",
    "fe80::/10",
    "ff00::/8",
];

/// What is wrong with a pool of addresses for services, given the cluster's networks.
pub fn pool_fault(pool: &[AddressRange], pods: IpNet, services: IpNet) -> Option<String> {
    if pool.len() > POOL_RANGES_MAX {
        return Some(format!("{} ranges, at most {POOL_RANGES_MAX}", pool.len()));
    }
    let mut sum: u128 = 0;
    for (i, range) in pool.iter().enumerate() {
        let nobodys = || NOBODYS.iter().filter_map(|net| net.parse().ok());
        if !range.same_version(pods.addr()) {
            return Some(format!(
                "{range} is not of the same IP version as the pods, {pods}"
            ));
        }
        if range.meets_net(pods) {
            return Some(format!("{range} has addresses of the pods, {pods}"));
        }
        if range.meets_net(services) {
            return Some(format!(
                "{range} has addresses of the services network, {services}"
            ));
        }
        if let Some(net) = nobodys().find(|net: &IpNet| range.meets_net(*net)) {
            return Some(format!(
                "{range} has addresses of {net}, which no service can have"
            ));
        }
        if let Some(other) = pool[..i].iter().find(|o| o.meets(range.first, range.last)) {
            return Some(format!("{range} overlaps {other}"));
        }
        sum = sum.saturating_add(range.count());
    }
    (sum > POOL_ADDRESSES_MAX).then(|| format!("{sum} addresses, at most {POOL_ADDRESSES_MAX}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> AddressRange {
        text.parse().expect("range")
    }

    fn fault(pool: &[&str], pods: &str, services: &str) -> Option<String> {
        let pool: Vec<AddressRange> = pool.iter().map(|text| range(text)).collect();
        pool_fault(
            &pool,
            pods.parse().expect("net"),
            services.parse().expect("net"),
        )
    }

    #[test]
    fn names_of_add_ons_are_names_of_files_and_labels() {
        assert_eq!(off_fault(["coredns", "metrics-server"].into_iter()), None);
        let long = "a".repeat(64);
        for bad in ["", "-a", "a-", "A", "a/b", "a.b", "a b", "ä", &long] {
            assert!(off_fault(["coredns", bad].into_iter()).is_some(), "{bad}");
        }
        let many = vec!["a"; OFF_MAX + 1];
        let why = off_fault(many.into_iter()).expect("many");
        assert!(why.contains("65 names, at most 64"), "{why}");
    }

    #[test]
    fn ranges_are_written_in_three_ways_and_read_back() {
        for (text, shown) in [
            ("10.1.2.10-10.1.2.20", "10.1.2.10-10.1.2.20"),
            ("10.1.2.17/28", "10.1.2.16-10.1.2.31"),
            ("10.1.2.3", "10.1.2.3-10.1.2.3"),
            ("fd00:1::10 - fd00:1::20", "fd00:1::10-fd00:1::20"),
        ] {
            let json = serde_json::to_value(range(text)).expect("json");
            assert_eq!(json, shown);
            let back: AddressRange = serde_json::from_value(json).expect("range");
            assert_eq!(back, range(text));
        }
        for text in [
            "",
            "-",
            "10.1.2.20-10.1.2.10",
            "10.1.2.1-fd00::1",
            "10.1.2.0/33",
            "10.1.2.1-10.1.2.2-10.1.2.3",
            "example.com",
        ] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pool_has_only_addresses_that_services_can_have() {
        let (pods, services) = ("10.20.0.0/16", "10.21.0.0/16");
        assert_eq!(fault(&["10.1.2.0/28", "10.1.3.1"], pods, services), None);
        assert_eq!(fault(&["10.0.0.0/16"], pods, services), None);
        assert_eq!(
            fault(&["fd00:1::/112"], "fd00:20::/48", "fd00:21::/108"),
            None
        );
        for (pool, word) in [
            (&["fd00:1::1"][..], "same IP version"),
            (&["10.19.255.0-10.20.0.0"], "addresses of the pods"),
            (&["10.21.9.0/24"], "services network"),
            (&["127.0.0.1"], "127.0.0.0/8"),
            (&["223.255.255.255-224.0.0.1"], "224.0.0.0/3"),
            (
                &["10.1.2.0/28", "10.1.2.15-10.1.2.16"],
                "overlaps 10.1.2.0-10.1.2.15",
            ),
            (
                &["10.1.0.0/16", "10.2.0.1"],
                "65537 addresses, at most 65536",
            ),
        ] {
            let why = fault(pool, pods, services).expect(word);
            assert!(why.contains(word), "{why}");
        }
        let many: Vec<String> = (0..=POOL_RANGES_MAX)
            .map(|n| format!("10.1.2.{n}"))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let why = fault(&many, pods, services).expect("many");
        assert!(why.contains("33 ranges, at most 32"), "{why}");
        let all = fault(&["fd00:1::/64"], "fd00:20::/48", "fd00:21::/108").expect("all");
        assert!(all.contains("at most"), "{all}");
    }

    proptest! {
        /// Whatever is accepted has none of what is others'.
        #[test]
        fn an_accepted_range_meets_no_network_of_the_cluster(first: u32, more in 0u32..100_000) {
            let last = first.saturating_add(more);
            let text = format!("{}-{}", IpAddr::V4(first.into()), IpAddr::V4(last.into()));
            let (pods, services): (IpNet, IpNet) =
                ("10.20.0.0/16".parse().expect("net"), "10.21.0.0/16".parse().expect("net"));
            let one = range(&text);
            if pool_fault(&[one], pods, services).is_none() {
                for ip in [first, last, first / 2 + last / 2] {
                    let ip = IpAddr::V4(ip.into());
                    prop_assert!(!pods.contains(&ip) && !services.contains(&ip));
                    prop_assert!(!ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified());
                }
                for net in [pods, services] {
                    prop_assert!(!one.contains(net.network()));
                }
            }
        }
    }
}
