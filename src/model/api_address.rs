//! The address that a cluster's masters share, as one of them sees it.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Fault;

/// Whether a machine of this network may have the address: one that stands for the network as a whole, or for every
/// machine in it, is refused.
pub fn a_machines_own(net: IpNet, ip: IpAddr) -> bool {
    let whole = match net {
        // A network of two addresses or one has neither (RFC 3021, RFC 6164).
        _ if net.max_prefix_len() - net.prefix_len() < 2 => false,
        IpNet::V4(net) => ip == net.network() || ip == net.broadcast(),
        IpNet::V6(net) => ip == net.network(),
    };
    net.contains(&ip) && !whole
}

/// Where the shared address is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiAddressStatus {
    /// The address.
    pub address: IpAddr,
    /// It is on this machine.
    #[serde(default)]
    pub here: bool,
    /// The interface of this machine that it is on, or would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The node that has it, by the lease; absent: none, or unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Since when this machine has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Why this machine cannot have it, or what is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

impl fmt::Display for ApiAddressStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address;
        match (self.here, &self.holder) {
            (true, _) => {
                let on = self.interface.as_deref().unwrap_or("an interface");
                write!(f, "{address} is here, on {on}")
            }
            (false, Some(holder)) => write!(f, "{address} is on {holder}"),
            (false, None) => write!(f, "{address} is on no master known to this one"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_a_network_is_no_machines() {
        let own = |net: &str, ip: &str| {
            a_machines_own(net.parse().expect("net"), ip.parse().expect("ip"))
        };
        assert!(own("10.1.0.0/24", "10.1.0.250"));
        assert!(own("10.1.0.0/16", "10.1.0.255"), "of a larger network");
        for nobodys in ["10.1.0.0", "10.1.0.255", "10.1.1.1"] {
            assert!(!own("10.1.0.0/24", nobodys), "{nobodys}");
        }
        assert!(own("10.1.0.0/31", "10.1.0.0") && own("10.1.0.0/32", "10.1.0.0"));
        assert!(!own("fd00::/64", "fd00::") && own("fd00::/64", "fd00::ffff"));
        assert!(own("fd00::/127", "fd00::"));
        assert!(!own("fd00::/64", "10.1.0.1"));
    }
}
