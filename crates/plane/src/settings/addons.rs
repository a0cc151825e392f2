//! Addresses of services of type LoadBalancer, as far as a cluster's own settings say what they may be.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::{Answer, refused, require};
use pf9_hostagent::model::{
    AddressRange, NetworkPlugin, NetworkPolicies, POOL_RANGES_MAX, pool_fault,
};

/// A network that keeps NetworkPolicy objects has no second one beside it that does.
pub(super) fn check_policies(plugin: NetworkPlugin, policies: NetworkPolicies) -> Answer<()> {
    let both = plugin == NetworkPlugin::Calico && policies == NetworkPolicies::On;
    require(!both, "networkPolicies", || {
        "on: calico (networkPlugin) enforces them itself, and two controllers would drop what either of them drops; leave it out".into()
    })
}

const FIELD: &str = "loadBalancer.addresses";

/// Addresses of services of type LoadBalancer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewLoadBalancer {
    /// Ranges, networks or single addresses; none: services of that type get no address.
    #[serde(default)]
    addresses: Vec<String>,
}

impl NewLoadBalancer {
    /// The pool, if a cluster with these networks and this shared address may give it away.
    pub(super) fn pool(
        &self,
        pods: IpNet,
        services: IpNet,
        api: Option<IpAddr>,
    ) -> Answer<Vec<AddressRange>> {
        let told = &self.addresses;
        require(told.len() <= POOL_RANGES_MAX, FIELD, || {
            format!("{} ranges, at most {POOL_RANGES_MAX}", told.len())
        })?;
        let pool: Result<Vec<AddressRange>, _> = told.iter().map(|text| text.parse()).collect();
        let pool = pool.map_err(|e| refused(FIELD, &e.to_string()))?;
        if let Some(why) = pool_fault(&pool, pods, services) {
            return Err(refused(FIELD, &why));
        }
        let taken = api.and_then(|ip| pool.iter().find(|r| r.contains(ip)).map(|r| (ip, r)));
        match taken {
            Some((ip, range)) => Err(refused(
                FIELD,
                &format!("{range} has the address of the API, {ip} (masterIp)"),
            )),
            None => Ok(pool),
        }
    }
}
