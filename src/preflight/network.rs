//! How the machine is connected, as it sees itself.

use ipnet::IpNet;

use super::{Finding, Thresholds};
use crate::host::fs::{Found, HostFs};
use crate::host::grounds::{GROUNDS_MAX, standing, ways};
use crate::host::interfaces::networks as networks_of;
use crate::host::kernel::Kernel;
use crate::host::net::{Net, refuses_the_rest};
use crate::host::proc::Proc;
use crate::host::routes;
use crate::model::paths::KUBE_DIR;
use crate::model::{Ground, clash};
use crate::telemetry::chain;

/// firewalld's own table of nftables.
const FIREWALLD: &str = "inet firewalld";
/// `ufw.conf` is a page.
const FILE_MAX: u64 = 64 * 1024;

/// What the checks of the network look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSeen {
    /// The interface of the default route, by the version of the protocol.
    pub default_route: Vec<(&'static str, String)>,
    /// The MTU of each of these interfaces.
    pub mtu: Vec<(String, u32)>,
    /// It is a node already, and its networks are known.
    pub is_node: bool,
    /// The part of this machine's networks that a new cluster's networks would overlap.
    pub meets: Option<String>,
    /// Packet filters that may refuse what a node's own rules let through.
    pub filters: Vec<PacketFilter>,
    /// Why they could not be looked at.
    pub not_seen: Option<String>,
}

/// A foreign packet filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketFilter {
    /// Its owner: `firewalld`, `ufw`, or a table of nftables.
    pub name: String,
    /// What it refuses.
    pub refuses: String,
}

impl NetworkSeen {
    /// Looks; asks `nft` where it is, and changes nothing.
    pub async fn look(host: &HostFs, uid: u32) -> Self {
        let all = routes::routes(host);
        let kernel = Kernel::new(host.clone());
        let mut seen = Self::default();
        for (version, v4) in [("IPv4", true), ("IPv6", false)] {
            if let Some(route) = routes::default_of(&all, v4) {
                seen.default_route.push((version, route.interface.clone()));
            }
        }
        let mut names: Vec<String> = seen.default_route.iter().map(|(_, n)| n.clone()).collect();
        names.dedup();
        for name in names {
            if let Ok(Some(mtu)) = kernel.mtu(&name) {
                seen.mtu.push((name, mtu));
            }
        }
        seen.is_node = !matches!(host.found(KUBE_DIR), Ok(Found::Nothing));
        if let (Some((pods, services)), false) = (proposed(), seen.is_node) {
            let grounds = standing(host).into_iter().chain(ways(host));
            let grounds: Vec<Ground> = grounds.take(GROUNDS_MAX).collect();
            seen.meets = clash(pods, services, &grounds);
        }
        let tables = match uid {
            0 => Net::new(host.clone()).foreign_tables().await,
            _ => Ok(Vec::new()),
        };
        let proc = Proc::new(host.clone());
        let firewalld = |pid: u32| proc.name(pid) == "firewalld";
        let own = networks_of(host);
        let told = |(name, text): &(String, String)| name == FIREWALLD && lets_pass(text, &own);
        let runs = proc.pids().into_iter().any(firewalld);
        if runs && !tables.iter().flatten().any(told) {
            seen.filter("firewalld", "everything its zone does not allow");
        }
        let ufw = host.read_text("/etc/ufw/ufw.conf", FILE_MAX);
        let ufw = ufw.ok().flatten().unwrap_or_default();
        if ufw
            .lines()
            .any(|l| l.trim().eq_ignore_ascii_case("ENABLED=yes"))
        {
            seen.filter("ufw", "everything no rule of it allows");
        }
        if uid != 0 {
            seen.not_seen = Some("only root can list tables of nftables".to_owned());
            return seen;
        }
        match tables {
            Ok(tables) => {
                // What a firewalld that runs refuses was said.
                let others = tables.into_iter().filter(|(n, _)| !runs || n != FIREWALLD);
                for (name, text) in others {
                    for chain in refusing(&text) {
                        let refuses = format!("everything chain {chain} does not allow");
                        seen.filter(&format!("table {name} (nftables)"), &refuses);
                    }
                }
            }
            Err(e) => seen.not_seen = Some(chain(&e)),
        }
        seen
    }

    fn filter(&mut self, name: &str, refuses: &str) {
        self.filters.push(PacketFilter {
            name: name.to_owned(),
            refuses: refuses.to_owned(),
        });
    }
}

/// Whether firewalld was told to let nodes and pods pass: its zone `trusted`, which forwards as well, has this machine's own
/// network as a source, and another one. (Which one the pods will have is not known before there is a cluster; the status
/// of a node compares with its own.)
fn lets_pass(table: &str, own: &[IpNet]) -> bool {
    let source = |line: &str| {
        let rest = line.trim().strip_prefix("ip")?;
        let (net, rest) = rest.split_once("saddr ")?.1.split_once(' ')?;
        let net: IpNet = net.parse().ok()?;
        (rest == "goto filter_FWD_trusted").then_some(net)
    };
    let sources: Vec<IpNet> = table.lines().filter_map(source).collect();
    let is_own = |net: &&IpNet| own.contains(net);
    sources.iter().any(|net| is_own(&net)) && sources.iter().any(|net| !is_own(&net))
}

/// Chains of a table, as `nft` shows it, that refuse what comes in or passes unless a rule lets it: by their policy, or by
/// a last rule that refuses the rest, as RHEL and its kin have it.
fn refusing(table: &str) -> Vec<String> {
    let (mut chain, mut hooks, mut found) = ("", false, Vec::new());
    for line in table.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ") {
            (chain, hooks) = (name.trim_end_matches(['{', ' ']), false);
        }
        hooks |= line.contains(" hook forward ") || line.contains(" hook input ");
        let refuses = line.contains("policy drop") || refuses_the_rest(line);
        if hooks && refuses && found.last().is_none_or(|last| last != chain) {
            found.push(chain.to_owned());
        }
    }
    found
}

pub(super) fn default_route(seen: &NetworkSeen) -> Finding {
    let by: Vec<String> = seen
        .default_route
        .iter()
        .map(|(version, name)| format!("{version} by {name}"))
        .collect();
    let finding = |found: String| Finding::new(found, "one, of IPv4 or IPv6");
    match by.as_slice() {
        [] => finding("none".to_owned()).warn(
            "kube-proxy and the addresses of a node follow it",
            "ip route add default via GATEWAY, and in the network's configuration",
        ),
        some => finding(some.join(", ")),
    }
}

pub(super) fn mtu(seen: &NetworkSeen) -> Finding {
    let least = Thresholds::ours().network.mtu_least;
    let said: Vec<String> = seen
        .mtu
        .iter()
        .map(|(n, mtu)| format!("{mtu} on {n}"))
        .collect();
    let finding = Finding::new(said.join(", "), format!("{least} or more"));
    if seen.mtu.is_empty() {
        return finding.skip("no interface with a default route reports it");
    }
    match seen.mtu.iter().find(|(_, mtu)| *mtu < least) {
        None => finding,
        Some((name, _)) => finding.warn(
            "an overlay network leaves little or nothing of a packet",
            format!("ip link set dev {name} mtu 1500, if the network carries it"),
        ),
    }
}

/// Pods and services of a cluster, as the plane's page proposes them.
fn proposed() -> Option<(IpNet, IpNet)> {
    let network = &Thresholds::ours().network;
    network.pods.zip(network.services)
}

pub(super) fn networks(seen: &NetworkSeen) -> Finding {
    let Some((pods, services)) = proposed() else {
        return Finding::new("not compared", "").skip("no networks are proposed");
    };
    let wanted =
        format!("nothing in {pods} (pods) and {services} (services), which the plane proposes");
    match (seen.is_node, &seen.meets) {
        (true, _) => Finding::new("it is a node", wanted)
            .skip("overlaps of its cluster's networks are among the warnings of pf9ctl status"),
        (false, None) => Finding::new(format!("nothing in {pods} and {services}"), wanted),
        (false, Some(met)) => Finding::new(met.clone(), wanted).warn(
            "machines with such addresses are no longer reachable from a node",
            "create the cluster with other networks (containersCidr, servicesCidr), or give the machine others",
        ),
    }
}

pub(super) fn firewall(seen: &NetworkSeen) -> Finding {
    let said: Vec<String> = seen
        .filters
        .iter()
        .map(|f| format!("{} refuses {}", f.name, f.refuses))
        .collect();
    let found = match said.as_slice() {
        [] => "none that drops by default".to_owned(),
        some => some.join("; "),
    };
    let finding = Finding::new(found, "none that drops traffic between pods and nodes");
    match (&seen.not_seen, said.is_empty()) {
        (Some(why), true) => finding.skip(why.clone()),
        (None, true) => finding,
        (_, false) => finding.warn(
            "packets that the node's own rules accept have to pass there as well",
            "allow the networks of nodes and pods there (firewall-cmd --permanent --zone=trusted --add-source=NETWORK for \
             each, then firewall-cmd --reload), and ports 6443, 2379, 2380 and 10250 between nodes",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::CheckOutcome;
    use super::*;

    const TABLE: &str = "table inet filter {\n\tchain input {\n\t\ttype filter hook input priority filter; policy drop;\n\
        \t}\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n\t}\n\
        \tchain output {\n\t\ttype filter hook output priority filter; policy drop;\n\t}\n}\n";

    #[test]
    fn a_filter_is_named_with_what_it_refuses() {
        assert_eq!(refusing(TABLE), ["input"]);
        let accepts = TABLE.replace("policy drop", "policy accept");
        assert_eq!(refusing(&accepts), [""; 0]);
        for (rule, refuses) in [
            ("reject with icmpx type admin-prohibited", true),
            ("counter packets 1 bytes 60 drop", true),
            ("log prefix \"no: \" drop", true),
            ("drop", true),
            ("ip saddr 192.0.2.0/24 drop", false),
            ("counter packets 1 bytes 60 accept", false),
        ] {
            // In each of the three chains; what goes out is in nobody's way.
            let table =
                accepts.replace("policy accept;\n", &format!("policy accept;\n\t\t{rule}\n"));
            let found = refusing(&table);
            let both = ["input", "forward"];
            assert_eq!(found, if refuses { &both[..] } else { &[] }, "{rule}");
        }
        let mut seen = NetworkSeen::default();
        assert_eq!(firewall(&seen).outcome, CheckOutcome::Ok);
        seen.filter("firewalld", "everything");
        let finding = firewall(&seen);
        assert_eq!(finding.outcome, CheckOutcome::Warn);
        assert!(finding.found.contains("firewalld refuses everything"));
        let unseen = NetworkSeen {
            not_seen: Some("no".into()),
            ..NetworkSeen::default()
        };
        assert_eq!(firewall(&unseen).outcome, CheckOutcome::Skip);
    }

    /// As firewalld 1.3 shows it when the warning's line was run, and before.
    #[test]
    fn a_firewall_that_was_told_of_nodes_and_pods_is_none() {
        let own: Vec<IpNet> = vec!["10.99.0.0/24".parse().expect("net")];
        let told = include_str!("../nodelet/machine/firewalld-1.3-told.txt");
        assert!(lets_pass(told, &own));
        assert!(
            !lets_pass(told, &[]),
            "the nodes' network is not among them"
        );
        let before = include_str!("../nodelet/machine/firewalld-1.3.txt");
        assert!(!lets_pass(before, &own));
        let nodes_alone = told.replace("ip saddr 10.20.0.0/16 goto filter_FWD_trusted\n", "");
        assert_ne!(nodes_alone, told);
        assert!(!lets_pass(&nodes_alone, &own));
    }

    #[test]
    fn no_way_out_and_small_packets_are_told() {
        let mut seen = NetworkSeen::default();
        assert_eq!(default_route(&seen).outcome, CheckOutcome::Warn);
        assert_eq!(mtu(&seen).outcome, CheckOutcome::Skip);
        seen.default_route.push(("IPv4", "eth0".into()));
        seen.mtu.push(("eth0".into(), 1500));
        assert_eq!(default_route(&seen).outcome, CheckOutcome::Ok);
        assert_eq!(mtu(&seen).outcome, CheckOutcome::Ok);
        seen.mtu.push(("eth1".into(), 576));
        assert_eq!(mtu(&seen).outcome, CheckOutcome::Warn);
    }

    #[tokio::test]
    async fn a_machine_that_has_a_clusters_addresses_is_told_unless_it_is_a_node() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        let put = |path: &str, text: &str| {
            let attrs = crate::host::fs::Attrs::mode(0o644);
            host.write(path, text.as_bytes(), &attrs).expect("write");
        };
        let judged = async || {
            let seen = NetworkSeen::look(&host, 0).await;
            let finding = networks(&seen);
            (finding.outcome, finding.found, finding.fix)
        };
        put("/etc/resolv.conf", "nameserver 10.1.0.10\n");
        assert_eq!(judged().await.0, CheckOutcome::Ok);
        put("/etc/resolv.conf", "nameserver 10.21.0.10\n");
        let (outcome, found, fix) = judged().await;
        assert_eq!(outcome, CheckOutcome::Warn);
        assert!(found.contains("10.21.0.10, a DNS server"), "{found}");
        assert!(fix.contains("servicesCidr"), "{fix}");
        put(&format!("{KUBE_DIR}/x"), "");
        assert_eq!(judged().await.0, CheckOutcome::Skip);
    }

    #[tokio::test]
    async fn it_is_read_from_the_machines_files() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        let files = [
            (
                "/proc/net/route",
                "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                 eth7\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n",
            ),
            ("/sys/class/net/eth7/mtu", "9000\n"),
            ("/etc/ufw/ufw.conf", "# x\nENABLED=yes\n"),
            ("/proc/8/comm", "firewalld\n"),
        ];
        for (path, text) in files {
            host.write(path, text.as_bytes(), &crate::host::fs::Attrs::mode(0o644))
                .expect("write");
        }
        let seen = NetworkSeen::look(&host, 0).await;
        assert_eq!(seen.default_route, [("IPv4", "eth7".to_owned())]);
        assert_eq!(seen.mtu, [("eth7".to_owned(), 9000)]);
        let names: Vec<_> = seen.filters.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["firewalld", "ufw"]);
    }
}
