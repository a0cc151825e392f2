//! Networks and addresses of a cluster, all of one IP version.
//!
//! A cluster is IPv4 or IPv6. Two networks of a kind, or one of each (dual stack), are refused wherever they could be
//! given: nodes have one address, one pod range and one bridge, and a second family that works for services and not for
//! pods, or on some nodes only, is worse than none. A Service that asks for both families (`RequireDualStack`) is
//! refused by the API server itself.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use super::{Answer, NewCluster, clip, require};
use crate::membership::node_prefix;
use pf9_hostagent::model::NodeName;

/// The DNS service has the tenth address, so a services network needs a few bits.
const SERVICE_HOST_BITS_MIN: u8 = 4;
/// The refusal for a second network.
const ONE_VERSION: &str = "a cluster is IPv4 or IPv6, dual stack is not supported";

/// A network, but only one.
#[derive(Clone, Copy, Debug)]
pub(super) struct OneNet(pub(super) IpNet);

impl<'de> Deserialize<'de> for OneNet {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(One).map(Self)
    }
}

struct One;

impl<'de> Visitor<'de> for One {
    type Value = IpNet;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a network like 10.20.0.0/16")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<IpNet, E> {
        let shown = clip(text);
        if text.contains([',', ' ']) {
            return Err(E::custom(format!("{shown:?}: one network; {ONE_VERSION}")));
        }
        text.parse()
            .map_err(|_| E::custom(format!("{shown:?} is not a network like 10.20.0.0/16")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<IpNet, A::Error> {
        Err(A::Error::custom(format!(
            "a list: one network; {ONE_VERSION}"
        )))
    }
}

fn of_one_version(net: IpNet, ip: IpAddr) -> bool {
    matches!(
        (net, ip),
        (IpNet::V4(_), IpAddr::V4(_)) | (IpNet::V6(_), IpAddr::V6(_))
    )
}

fn is_broadcast_or_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_broadcast() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

impl NewCluster {
    pub(super) fn check_networks(&self) -> Answer<()> {
        let (pods, services) = (self.containers_cidr.0, self.services_cidr.0);
        let node = node_prefix(pods);
        require(pods.prefix_len() <= node, "containersCidr", || {
            format!("{pods} is too small: every node gets a /{node} of it")
        })?;
        let same_version = matches!(
            (pods, services),
            (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_))
        );
        require(same_version, "servicesCidr", || {
            format!(
                "{services} is not of the same IP version as containersCidr {pods}; {ONE_VERSION}"
            )
        })?;
        let overlap = pods.contains(&services.network()) || services.contains(&pods.network());
        require(!overlap, "servicesCidr", || {
            format!("{services} overlaps containersCidr {pods}")
        })?;
        let host_bits = services.max_prefix_len() - services.prefix_len();
        require(host_bits >= SERVICE_HOST_BITS_MIN, "servicesCidr", || {
            format!("{services} is too small")
        })
    }

    pub(super) fn check_addresses(&self) -> Answer<()> {
        require(self.k8s_api_port != Some(0), "k8sApiPort", || {
            "0 is not a port".into()
        })?;
        let pods = self.containers_cidr.0;
        if let Some(ip) = self.master_ip {
            require(of_one_version(pods, ip), "masterIp", || {
                format!(
                    "{ip} is not of the same IP version as containersCidr {pods}; {ONE_VERSION}"
                )
            })?;
            let inside = pods.contains(&ip) || self.services_cidr.0.contains(&ip);
            let usable = !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast();
            let usable = usable && !is_broadcast_or_link_local(ip);
            require(usable && !inside, "masterIp", || {
                format!("{ip} is not an address that nodes can reach")
            })?;
        }
        let given = self.master_ip.is_some() || !self.master_vip_enabled;
        require(given, "masterVipEnabled", || {
            "there is no masterIp that masters could share".into()
        })?;
        for (field, name) in [
            ("externalDnsName", &self.external_dns_name),
            ("dnsZone", &self.dns_zone),
        ] {
            if let Some(name) = name {
                let ok = name.parse::<NodeName>().is_ok();
                require(ok, field, || format!("{:?} is not a DNS name", clip(name)))?;
            }
        }
        Ok(())
    }
}
