//! What is in the kernel's network: what should be there, and what should not.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::{Sweep, differs};
use crate::host::host_ports;
use crate::host::ours;
use crate::host::proc::Proc;
use crate::model::ProxyMode;
use crate::nodelet::step::Observed;
use crate::telemetry::chain;

/// The script asks the packet filter half a dozen times, and waits for others who change it.
const CHECK: Duration = Duration::from_secs(60);

impl Sweep<'_> {
    /// Of rules the script that made them knows.
    pub(super) async fn pod_network(&self, script: &str, routes: &[(IpNet, IpAddr)]) -> Observed {
        match self.host.net.lacks(script, CHECK).await {
            Ok(None) => {}
            Ok(Some(said)) => {
                let last = said.lines().last().unwrap_or("its check failed");
                return differs(last.trim_start_matches("pf9-network: "));
            }
            Err(e) => return Observed::Unknown { why: chain(&e) },
        }
        // Of a node that is alone none is asked for; and all of them are of one family.
        let Some((pods, _)) = routes.first() else {
            return Observed::Same;
        };
        let family = if pods.addr().is_ipv6() { "-6" } else { "-4" };
        let number = ours::network::ROUTE_PROTOCOL;
        let there = match self.host.net.routes_of(family, number).await {
            Ok(there) => there,
            Err(e) => return Observed::Unknown { why: chain(&e) },
        };
        match missing_route(&there, routes) {
            None => Observed::Same,
            Some((pods, node)) => differs(&format!("there is no route to {pods} via {node}")),
        }
    }

    pub(super) async fn proxy_rules(&self, by: ProxyMode, v6: bool) -> Observed {
        match self.host.net.leads_to_services(by, v6).await {
            Ok(true) => Observed::Same,
            Ok(false) => differs("the packet filter has no rules for services"),
            Err(e) => Observed::Unknown { why: chain(&e) },
        }
    }

    /// The plugin that made them knows.
    pub(super) async fn host_ports(&self, network: &str, plugins: &str) -> Observed {
        match host_ports::lost(&self.host.fs, network, plugins).await {
            Ok(lost) if lost.is_empty() => Observed::Same,
            Ok(lost) => differs(&format!("the ones of {} pods are missing", lost.len())),
            Err(e) => Observed::Unknown { why: chain(&e) },
        }
    }

    pub(super) fn tunnelled_by(&self, ip: IpAddr) -> Observed {
        match self.host.proc.tunnels_elsewhere(ip).first() {
            None => Observed::Same,
            Some(process) => differs(&format!(
                "{process} still tunnels over the node's previous address"
            )),
        }
    }

    pub(super) fn sets_gone(&self, prefixes: &[String]) -> Observed {
        left_of(self.host.net.sets(prefixes), "sets")
    }

    pub(super) async fn network_gone(
        &self,
        links: &[String],
        routes: u8,
        chains: &[String],
        tables: &[String],
    ) -> Observed {
        let left = self.host.net.links(links);
        if !left.is_empty() {
            return differs(&format!("there is {}", left.join(", ")));
        }
        match self.host.net.routes(routes).await {
            Ok(left) if left.is_empty() => {}
            Ok(left) => return differs(&format!("{} routes are there", left.len())),
            Err(e) => return Observed::Unknown { why: chain(&e) },
        }
        let seen = left_of(self.host.net.chains(chains).await, "chains");
        if seen != Observed::Same {
            return seen;
        }
        left_of(self.host.net.tables(tables).await, "tables")
    }

    /// Later while the one that writes them runs: it would write them again.
    pub(super) async fn policy_rules_gone(&self) -> Observed {
        let net = &self.host.net;
        let chains = net.chains(&ours::network::policy_chain_prefixes()).await;
        let mut seen = left_of(chains, "chains");
        if seen == Observed::Same {
            seen = left_of(net.sets(&ours::network::policy_set_prefixes()), "sets");
        }
        let proc = Proc::new(self.host.fs.clone());
        let runs = |pid| proc.name(pid) == ours::network::POLICY_KEEPER;
        if seen != Observed::Same && proc.pids().into_iter().any(runs) {
            return Observed::Later {
                what: "the controller of network policies to end on this node".into(),
            };
        }
        seen
    }

    pub(super) async fn proxy_rules_gone(&self, of: ProxyMode) -> Observed {
        let net = &self.host.net;
        match of {
            ProxyMode::Iptables => {
                let prefixes = ours::network::proxy_chain_prefixes();
                left_of(net.chains(&prefixes).await, "chains")
            }
            ProxyMode::Nftables => {
                left_of(net.tables(&ours::network::proxy_tables()).await, "tables")
            }
        }
    }
}

/// The first of these routes that is not among the kernel's, as `ip route show` writes them.
fn missing_route<'a>(
    there: &[String],
    routes: &'a [(IpNet, IpAddr)],
) -> Option<&'a (IpNet, IpAddr)> {
    let read = |line: &String| -> Option<(IpNet, IpAddr)> {
        let mut words = line.split_whitespace();
        let to = words.next()?;
        let to = match to.parse() {
            Ok(network) => network,
            // One address has no length there.
            Err(_) => IpNet::from(to.parse::<IpAddr>().ok()?),
        };
        words.find(|w| *w == "via")?;
        Some((to, words.next()?.parse().ok()?))
    };
    let there: std::collections::BTreeSet<_> = there.iter().filter_map(read).collect();
    routes.iter().find(|route| !there.contains(*route))
}

/// Whether nothing was found of what should not be there.
fn left_of<E: std::error::Error + 'static>(found: Result<Vec<String>, E>, what: &str) -> Observed {
    match found {
        Ok(left) if left.is_empty() => Observed::Same,
        Ok(left) => differs(&format!("{} {what} are there", left.len())),
        Err(e) => Observed::Unknown { why: chain(&e) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_is_gone_or_leads_elsewhere_is_missing() {
        let there = [
            "10.20.2.0/24 via 10.99.0.12 dev eth0",
            "10.20.3.0/24 via 10.99.0.13 dev eth0 metric 5",
            "10.20.4.7 via 10.99.0.14 dev eth0",
            "default dev eth0 scope link",
            "fd00:20:2::/64 via fd00::12 dev eth0 metric 1024 pref medium",
        ]
        .map(str::to_owned);
        let route = |to: &str, by: &str| (to.parse().expect("net"), by.parse().expect("ip"));
        let all = [
            route("10.20.2.0/24", "10.99.0.12"),
            route("10.20.3.0/24", "10.99.0.13"),
            route("10.20.4.7/32", "10.99.0.14"),
            route("fd00:20:2::/64", "fd00::12"),
        ];
        assert_eq!(missing_route(&there, &all), None);
        assert_eq!(missing_route(&there[1..], &all), Some(&all[0]));
        let moved = [route("10.20.3.0/24", "10.99.0.12")];
        assert_eq!(missing_route(&there, &moved), Some(&moved[0]));
        assert_eq!(missing_route(&[], &[]), None);
    }
}
