//! What the machine does to a converged node: pods lose their network, or soon will, and no step of ours repairs it.
//! Each is one sentence with its remedy, and ends with its cause.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::egress::ProxyUrl;
use crate::host::Host;
use crate::host::facts::os_release;
use crate::host::fs::HostFs;
use crate::host::interfaces::{interfaces, networks};
use crate::host::kernel::interface_of;
use crate::host::mounts::{self, PRIVATE_FIX, PRIVATE_MEANS};
use crate::host::net::refuses_the_rest;
use crate::host::ours::network::POD_BRIDGE;
use crate::host::ours::ports;
use crate::host::ours::processes::{ProcessRule, process};
use crate::host::ours::units;
use crate::host::proc::Proc;
use crate::host::tools;
use crate::model::{Fault, FaultCode, NetworkPlugin, NodeName, NodeSpec, Role, paths};

/// A table that is so full takes no bursts.
const FULL_PERCENT: u64 = 90;
/// What the kernel says of one thing in one file; a routing table has a line per route.
const TEXT_MAX: u64 = 4 * 1024 * 1024;
/// What the kernel calls this machine.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// The warnings of this node's machine.
pub(super) async fn warnings(
    host: &Host,
    role: Role,
    node: &NodeSpec,
    proxy: Option<&ProxyUrl>,
) -> Vec<Fault> {
    let text = |path: &str| text(&host.fs, path);
    let mut said = Vec::new();
    if interface_of(node.node_ip).is_none() {
        let has = interfaces(&host.fs).into_iter().flat_map(|i| i.addresses);
        said.push(address_gone(node.node_ip, &has.collect::<Vec<_>>(), role));
    }
    said.extend(renamed(text(HOST_NAME).trim(), node));
    let v6 = node.node_ip.is_ipv6();
    let routes = text(if v6 {
        "/proc/net/ipv6_route"
    } else {
        "/proc/net/route"
    });
    said.extend(no_way_out(&routes, v6));
    let number = |path: &str| text(path).trim().parse::<u64>().ok();
    let tracked = number("/proc/sys/net/netfilter/nf_conntrack_count");
    let most = number("/proc/sys/net/netfilter/nf_conntrack_max");
    said.extend(tracked.zip(most).and_then(|(n, max)| connections(n, max)));
    let most = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"];
    let most = most.iter().filter_map(|path| number(path)).min();
    let running = threads(&text("/proc/loadavg"));
    said.extend(running.zip(most).and_then(|(n, max)| processes(n, max)));
    said.extend(given_away(
        &text("/proc/sys/net/ipv4/ip_local_port_range"),
        &text("/proc/sys/net/ipv4/ip_local_reserved_ports"),
        role,
        node.api.port,
    ));
    if let Some(proxy) = proxy
        && let Some(started_with) = runtime_environment(&host.proc)
    {
        said.extend(runtime_proxy(&proxy.to_string(), &started_with, node));
    }
    said.extend(forwarding(host, node).await);
    said.extend(mounts_private(&host.fs));
    said.extend(tools_gone(&host.fs));
    said
}

/// Another program may make the machine's mounts private at any time.
fn mounts_private(fs: &HostFs) -> Option<Fault> {
    // What cannot be read, or is not said, is left out here.
    let shared = mounts::is_shared(fs, paths::KUBELET_ROOT).ok().flatten()?;
    let what = "mounts of this machine are private";
    (!shared)
        .then(|| Fault::new(FaultCode::CheckMountPropagation, what, PRIVATE_MEANS).fix(PRIVATE_FIX))
}

/// An update of the distribution may take a program away that nobody else needed.
fn tools_gone(fs: &HostFs) -> Option<Fault> {
    let missing = tools::missing(fs);
    if missing.is_empty() {
        return None;
    }
    let names: Vec<&str> = missing.iter().map(|n| n.name).collect();
    let what = "programs that this node calls are gone";
    let why = format!("missing: {}", names.join(" "));
    // A file that cannot be read says nothing of the distribution.
    let os = os_release(fs).unwrap_or_default();
    Some(Fault::new(FaultCode::CheckTools, what, why).fix(tools::install(&os, &missing)))
}

fn text(fs: &HostFs, path: &str) -> String {
    // What cannot be read is left out here.
    fs.read_text(path, TEXT_MAX)
        .ok()
        .flatten()
        .unwrap_or_default()
}

fn address_gone(own: IpAddr, has: &[IpAddr], role: Role) -> Fault {
    let all: Vec<String> = has.iter().map(ToString::to_string).collect();
    let shown = match all.is_empty() {
        true => "none".to_owned(),
        false => all.join(", "),
    };
    let what = format!("this machine lost the node's address {own}");
    let why = format!(
        "its addresses are {shown}; kubelet and pods of this node cannot be reached at {own}"
    );
    let kept = format!("to keep {own}, reserve it where addresses are assigned");
    // What prevents it (an address that another machine holds, masters that are not well) the plane answers.
    let fix = match (role, has.iter().any(|ip| ip.is_ipv4() == own.is_ipv4())) {
        (_, false) => {
            format!("give the machine {own} again, or another one: the node follows automatically")
        }
        (Role::Master, true) => format!(
            "nothing, if the other masters are healthy and the plane is reachable: the node \
             follows automatically, and its member of etcd with it; {kept}"
        ),
        (Role::Worker | Role::None, true) => {
            format!("nothing, if the plane is reachable: the node follows automatically; {kept}")
        }
    };
    Fault::new(FaultCode::AddressGone, what, why).fix(fix)
}

/// A node is one object of Kubernetes, with its certificates and etcd member: another name would be another node, so it
/// never follows its machine's. A name that another host has, the plane refuses.
fn renamed(now: &str, node: &NodeSpec) -> Option<Fault> {
    let name = &node.node_name;
    let new = NodeName::of_host(now);
    // One that cannot be read says nothing.
    if now.is_empty() || new.as_ref() == Ok(name) {
        return None;
    }
    let what = format!("this machine is called {now} now, its node stays {name} in Kubernetes");
    let why = "a node keeps the name that its machine had when it was attached";
    let back = format!("hostnamectl set-hostname {name}");
    let fix = match new {
        Ok(new) => format!(
            "nothing, if that is intended; else {back}; for a node of the name {new}: drain it, pf9-plane cluster \
             detach NAME {}, then attach it again",
            node.host_id
        ),
        Err(bad) => format!("{back}; no node can have the new name: {bad}"),
    };
    Some(Fault::new(FaultCode::NodeRenamed, what, why).fix(fix))
}

/// In `/proc/net/route` destination and mask are zero, in `/proc/net/ipv6_route` the prefix' length (and the route does
/// not reject).
fn no_way_out(table: &str, v6: bool) -> Option<Fault> {
    let leads = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match v6 {
            true => fields.get(1) == Some(&"00") && fields.last() != Some(&"lo"),
            false => fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000"),
        }
    };
    if table.is_empty() || table.lines().any(leads) {
        return None;
    }
    let version = if v6 { "IPv6" } else { "IPv4" };
    let what = "this machine has no default route";
    let why = format!("{version}: packets of pods and of this node to other networks go nowhere");
    let fix =
        "ip route add default via GATEWAY, and the same where the machine's network is configured";
    Some(Fault::new(FaultCode::NoDefaultRoute, what, why).fix(fix))
}

fn is_full(n: u64, max: u64) -> bool {
    n.saturating_mul(100) >= max.saturating_mul(FULL_PERCENT) && max > 0
}

fn connections(n: u64, max: u64) -> Option<Fault> {
    let what =
        "the table of tracked connections is nearly full: new connections of pods will be dropped";
    let why = format!("{n} of {max} are in use");
    let fix = "see what has so many (conntrack -L), or raise net.netfilter.nf_conntrack_max";
    is_full(n, max).then(|| Fault::new(FaultCode::ConntrackFull, what, why).fix(fix))
}

/// The number of threads of the machine is behind the slash.
fn threads(loadavg: &str) -> Option<u64> {
    let both = loadavg.split_whitespace().nth(3)?;
    both.split_once('/')?.1.parse().ok()
}

fn processes(n: u64, max: u64) -> Option<Fault> {
    let what = "this machine can hardly start another process";
    let why = format!("{n} threads of {max} run");
    let fix = "see what has so many (ps -eLf), or raise kernel.pid_max and kernel.threads-max";
    is_full(n, max).then(|| Fault::new(FaultCode::ProcessesFull, what, why).fix(fix))
}

fn given_away(range: &str, reserved: &str, role: Role, api: u16) -> Option<Fault> {
    let is_master = match role {
        Role::Master => true,
        Role::Worker | Role::None => false,
    };
    let ours = ports::ALL.iter().filter(|p| is_master || !p.masters);
    let ours = ours.map(|p| if p.port == ports::API { api } else { p.port });
    let (open, all) = ports::given_away(range, reserved, ours)?;
    let list: Vec<String> = open.iter().map(ToString::to_string).collect();
    let range: Vec<&str> = range.split_whitespace().collect();
    let what = "ports of this node may be in use when its services start";
    let why = format!(
        "{} are in the kernel's ephemeral range ({})",
        list.join(","),
        range.join("-")
    );
    let fix =
        format!("sysctl -w net.ipv4.ip_local_reserved_ports={all}, and the same in /etc/sysctl.d");
    Some(Fault::new(FaultCode::PortsGivenAway, what, why).fix(fix))
}

/// What our runtime was started with; none while it does not run.
fn runtime_environment(proc: &Proc) -> Option<Vec<String>> {
    let named = |pid: &u32| proc.name(*pid) == "containerd";
    let ours = |pid: &u32| process(&proc.look(*pid)) == Some(ProcessRule::StackProgram);
    let pid = proc.pids().into_iter().filter(named).find(ours)?;
    Some(proc.environment(pid))
}

/// The way out of this machine is a proxy, and the runtime, which pulls images, does not have it; or it has it and would
/// go that way to the cluster's own addresses as well. An empty value means that it needs none, and is trusted.
fn runtime_proxy(proxy: &str, started_with: &[String], node: &NodeSpec) -> Option<Fault> {
    let value = |name: &str| {
        let named = started_with.iter().filter_map(|line| line.split_once('='));
        let mut named = named.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.trim())
    };
    let networks = [node.network.services_cidr, node.network.pods_cidr];
    let shown = networks.map(|net| net.trunc().to_string()).join(",");
    let domain = &node.network.cluster_domain;
    let line = format!(
        "systemctl edit {}, with [Service] and Environment=HTTPS_PROXY={proxy} NO_PROXY=localhost,127.0.0.0/8,.svc,\
         .{domain},{shown} (and the networks of the nodes and of registries beside them), then \
         systemctl restart {0}; pods keep running meanwhile",
        units::CONTAINERD
    );
    let (what, why, fix) = match value("HTTPS_PROXY") {
        Some("") => return None,
        None => (
            "images outside the stack are pulled without the proxy",
            format!(
                "[comms.proxy] names {proxy}, and the container runtime was started without one"
            ),
            format!("{line}. If they are reachable without a proxy: Environment=HTTPS_PROXY="),
        ),
        Some(_) => {
            let without = value("NO_PROXY").unwrap_or_default();
            let without: Vec<IpNet> = without
                .split(',')
                .filter_map(|p| p.trim().parse().ok())
                .collect();
            let asked = |net: &&IpNet| !without.iter().any(|other| other.contains(*net));
            let missing: Vec<String> = networks
                .iter()
                .filter(asked)
                .map(ToString::to_string)
                .collect();
            if missing.is_empty() {
                return None;
            }
            (
                "the container runtime uses the proxy for addresses of the cluster",
                format!(
                    "NO_PROXY of {} does not name {}",
                    units::CONTAINERD,
                    missing.join(", ")
                ),
                line,
            )
        }
    };
    Some(Fault::new(FaultCode::RuntimeProxy, what, why).fix(fix))
}

/// Another table of nftables refuses what is forwarded. That ours lets it pass does not count there.
async fn forwarding(host: &Host, node: &NodeSpec) -> Option<Fault> {
    match node.network.plugin {
        NetworkPlugin::Bridge | NetworkPlugin::Flannel | NetworkPlugin::Calico => {}
        NetworkPlugin::None => return None,
    }
    let pods = node.network.pods_cidr.trunc();
    // A failure to look is reported where the packet filter is reconciled.
    let tables = host.net.foreign_tables().await.ok()?;
    let (table, chain) = tables
        .iter()
        .find_map(|(name, text)| Some((name, refuses_forwarding(text, pods)?)))?;
    let what = "pods of this node may be unreachable, and may reach nothing";
    let why = format!(
        "chain {chain} of table {table} (nftables) drops forwarded packets and has no rule for {pods}"
    );
    let fix = match table.contains("firewalld") {
        true => format!(
            "firewall-cmd --permanent --zone=trusted --add-source={pods} --add-source={} && firewall-cmd --reload",
            networks(&host.fs)
                .iter()
                .find(|net| net.contains(&node.node_ip))
                .map_or_else(|| "NODES".to_owned(), ToString::to_string)
        ),
        false => {
            format!("allow traffic from and to {pods} there (nft list table {table})")
        }
    };
    Some(Fault::new(FaultCode::PodsNotForwarded, what, why).fix(fix))
}

/// The chain of a table, as `nft` shows it, that drops forwarded traffic without a rule of its own; none in a table that
/// speaks of our pods.
fn refuses_forwarding(table: &str, pods: IpNet) -> Option<String> {
    if table.contains(&pods.to_string()) || table.contains(POD_BRIDGE) {
        return None;
    }
    let (mut chain, mut forwards) = ("", false);
    for line in table.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ") {
            (chain, forwards) = (name.trim_end_matches(['{', ' ']), false);
        }
        forwards |= line.contains(" hook forward ");
        let refuses = line.ends_with("policy drop;") || refuses_the_rest(line);
        if forwards && refuses {
            return Some(chain.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn an_address_that_went_is_named_with_what_is_there_and_what_helps() {
        let gone = address_gone(
            ip("10.0.0.5"),
            &[ip("10.0.0.9"), ip("fd00::9")],
            Role::Worker,
        );
        assert!(gone.what.contains("10.0.0.5") && gone.why.contains("10.0.0.9, fd00::9"));
        assert!(gone.fix.contains("follows automatically"), "{gone}");
        let master = address_gone(ip("10.0.0.5"), &[ip("10.0.0.9")], Role::Master);
        assert!(master.fix.contains("other masters are healthy"), "{master}");
        let none = address_gone(ip("10.0.0.5"), &[ip("fd00::9")], Role::Master);
        assert!(
            none.fix.starts_with("give the machine 10.0.0.5 again"),
            "of another version: {none}"
        );
    }

    #[test]
    fn a_machine_with_another_name_is_told_what_its_node_is_called_and_what_helps() {
        let node = crate::nodelet::phase::samples::worker("1.37.2").node;
        let own = node.node_name.to_string();
        for same in [own.as_str(), &own.to_uppercase(), ""] {
            assert_eq!(renamed(same, &node), None, "{same:?}");
        }
        let said = renamed("Other", &node).expect("another name");
        assert_eq!(said.code, FaultCode::NodeRenamed);
        let stays = format!("its node stays {own} in Kubernetes");
        assert!(
            said.what.contains("called Other now") && said.what.contains(&stays),
            "{said}"
        );
        let both = [
            format!("hostnamectl set-hostname {own};"),
            format!("detach NAME {}", node.host_id),
            "a node of the name other:".to_owned(),
        ];
        for part in both {
            assert!(said.fix.contains(&part), "{part}: {said}");
        }
        // No node of that name can be had.
        let bad = renamed("db_1", &node).expect("another name");
        assert!(
            bad.fix.contains("db_1") && !bad.fix.contains("detach"),
            "{bad}"
        );
        // A longer name of the same machine is another name of the node.
        assert!(renamed(&format!("{own}.example"), &node).is_some());
    }

    /// Every one of them at once, on a machine that has them all.
    #[tokio::test]
    async fn each_of_them_is_looked_for_at_each_look() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let put = |path: &str, text: &str| {
            let attrs = crate::host::fs::Attrs::mode(0o755);
            fs.write(path, text.as_bytes(), &attrs).expect("write");
        };
        put("/proc/net/route", "Iface\tDestination\tGateway\n");
        put(HOST_NAME, "renamed\n");
        put("/proc/sys/net/netfilter/nf_conntrack_count", "95\n");
        put("/proc/sys/net/netfilter/nf_conntrack_max", "100\n");
        put("/proc/sys/kernel/pid_max", "1000\n");
        put("/proc/loadavg", "0.1 0.2 0.3 2/950 77\n");
        put("/proc/sys/net/ipv4/ip_local_port_range", "10000\t60999\n");
        put("/proc/8/comm", "containerd\n");
        put("/proc/8/environ", "A=1\0");
        fs.link("/proc/8/exe", "/opt/pf9/stacks/k/bin/containerd")
            .expect("link");
        put("/proc/self/mountinfo", "1 0 8:1 / / rw - ext4 /dev/a rw\n");
        put("/etc/os-release", "ID=rocky\nVERSION_ID=9.6\n");
        for tool in tools::TOOLS.iter().filter(|t| t.name != "conntrack") {
            put(&format!("/usr/sbin/{}", tool.name), "");
        }
        put(
            "/usr/sbin/nft",
            "#!/bin/sh\nif [ \"$2\" = tables ]; then echo table inet own; else printf 'table inet own {\\n\\tchain f {\\n\\t\\ttype \
             filter hook forward priority 0; policy drop;\\n\\t}\\n}\\n'; fi\n",
        );
        let mut node = crate::nodelet::phase::samples::worker("1.37.2").node;
        // For documentation: no machine's.
        node.node_ip = ip("192.0.2.7");
        let proxy = "http://proxy.example:3128".parse().expect("proxy");
        let said = warnings(&Host::new(fs), Role::Worker, &node, Some(&proxy)).await;
        let codes: Vec<FaultCode> = said.iter().map(|w| w.code).collect();
        let all = [
            FaultCode::AddressGone,
            FaultCode::NodeRenamed,
            FaultCode::NoDefaultRoute,
            FaultCode::ConntrackFull,
            FaultCode::ProcessesFull,
            FaultCode::PortsGivenAway,
            FaultCode::RuntimeProxy,
            FaultCode::PodsNotForwarded,
            FaultCode::CheckMountPropagation,
            FaultCode::CheckTools,
        ];
        assert_eq!(codes, all);
        let tools = said.last().expect("the last");
        assert_eq!(tools.why, "missing: conntrack");
        assert_eq!(tools.fix, "dnf install conntrack-tools");
    }

    #[test]
    fn a_machine_without_a_default_route_is_told() {
        const HEAD: &str =
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
        const NET: &str = "eth0\t0000630A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        const OUT: &str = "eth0\t00000000\t0100630A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(no_way_out(&format!("{HEAD}{NET}{OUT}"), false), None);
        let said = no_way_out(&format!("{HEAD}{NET}"), false).expect("said");
        assert_eq!(said.code, FaultCode::NoDefaultRoute);
        assert_eq!(no_way_out("", false), None, "it cannot be seen");
        let zero = "0".repeat(32);
        let line =
            |device: &str| format!("{zero} 00 {zero} 00 {zero} 00000400 1 0 00000003 {device}\n");
        assert_eq!(
            no_way_out(&format!("{}{}", line("lo"), line("eth0")), true),
            None
        );
        assert!(
            no_way_out(&line("lo"), true).is_some(),
            "the one that refuses"
        );
    }

    #[test]
    fn tables_that_are_nearly_full_are_told_in_time() {
        assert_eq!(connections(89, 100), None);
        assert_eq!(connections(0, 0), None);
        assert!(
            connections(90, 100)
                .expect("said")
                .why
                .contains("90 of 100")
        );
        assert_eq!(threads("0.1 0.2 0.3 2/950 77\n"), Some(950));
        assert_eq!(threads("odd"), None);
        assert_eq!(processes(89, 100), None);
        assert!(processes(950, 1000).is_some());
    }

    #[test]
    fn ports_that_the_kernel_gives_away_are_named_with_the_line_that_helps() {
        let of = |range: &str, reserved: &str, role| given_away(range, reserved, role, 16443);
        assert_eq!(of("32768\t60999\n", "\n", Role::Master), None);
        let said = of("10000\t60999\n", "\n", Role::Worker).expect("said");
        assert!(
            said.why.starts_with("10248,10249,10250,10256 are"),
            "{said}"
        );
        assert!(
            said.fix.contains("reserved_ports=10248,10249,10250,10256,"),
            "{said}"
        );
        let said = of("10000\t60999\n", "8080,10240-10260\n", Role::Master).expect("said");
        assert!(said.why.starts_with("16443 are"), "{said}");
        assert!(
            said.fix.contains("=8080,10240-10260,16443,"),
            "what is there stays: {said}"
        );
        assert_eq!(of("10000\t60999\n", "10240-10260", Role::Worker), None);
        assert_eq!(of("", "", Role::Master), None);
    }

    #[test]
    fn a_runtime_that_was_not_told_of_the_proxy_is_named_with_the_line_that_helps() {
        let mut node = crate::nodelet::phase::samples::worker("1.37.2").node;
        node.network.pods_cidr = "10.20.0.0/16".parse().expect("net");
        node.network.services_cidr = "10.21.0.0/22".parse().expect("net");
        let said = |lines: &[&str]| {
            let lines: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
            runtime_proxy("http://proxy:3128", &lines, &node)
        };
        let none = said(&["PATH=/bin"]).expect("said");
        assert_eq!(none.code, FaultCode::RuntimeProxy);
        for part in [
            "HTTPS_PROXY=http://proxy:3128 ",
            "10.21.0.0/22,10.20.0.0/16",
            ".svc",
        ] {
            assert!(none.fix.contains(part), "{none}");
        }
        assert_eq!(said(&["HTTPS_PROXY="]), None, "none is wanted");
        let all = ["https_proxy=http://p", "no_proxy=x, 10.20.0.0/15"];
        assert_eq!(said(&all), None, "a wider network holds both");
        let some = said(&["HTTPS_PROXY=http://p", "NO_PROXY=10.21.0.0/22"]).expect("said");
        assert!(some.why.ends_with("does not name 10.20.0.0/16"), "{some}");
    }

    /// As a machine's `/proc` shows them: another runtime of the machine is not ours.
    #[test]
    fn what_our_own_runtime_was_started_with_is_read() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let put = |path: &str, text: &str| {
            let attrs = crate::host::fs::Attrs::mode(0o600);
            fs.write(path, text.as_bytes(), &attrs).expect("write");
        };
        let proc = Proc::new(fs.clone());
        put("/proc/7/comm", "containerd\n");
        put("/proc/7/environ", "HTTPS_PROXY=http://other\0");
        fs.link("/proc/7/exe", "/usr/bin/containerd").expect("link");
        assert_eq!(runtime_environment(&proc), None);
        put("/proc/8/comm", "containerd\n");
        put("/proc/8/environ", "A=1\0HTTPS_PROXY=http://p:1\0");
        fs.link("/proc/8/exe", "/opt/pf9/stacks/k/bin/containerd")
            .expect("link");
        let read = runtime_environment(&proc).expect("it runs");
        assert_eq!(read, ["A=1", "HTTPS_PROXY=http://p:1"]);
    }

    /// What firewalld 1.3.3 makes of its zone `public`. With it, and with our jump in iptables' chain before it, no packet
    /// went to a pod or came from one.
    const FIREWALLD: &str = include_str!("machine/firewalld-1.3.txt");
    /// The same after what the warning says was done: packets went both ways.
    const FIREWALLD_TOLD: &str = include_str!("machine/firewalld-1.3-told.txt");

    #[test]
    fn a_firewall_that_forwards_nothing_is_seen_and_one_that_was_told_of_pods_is_none() {
        let pods: IpNet = "10.20.0.0/16".parse().expect("network");
        let refuses = |text: &str| refuses_forwarding(text, pods);
        assert_eq!(refuses(FIREWALLD).as_deref(), Some("filter_FORWARD"));
        assert_eq!(refuses(FIREWALLD_TOLD), None);
        let open = FIREWALLD.replace(
            "\t\tjump filter_FORWARD_ZONES\n\t\treject with icmpx admin-prohibited\n",
            "\t\tjump filter_FORWARD_ZONES\n",
        );
        assert_ne!(open, FIREWALLD);
        assert_eq!(refuses(&open), None, "what refuses input is not asked");
        let strict = "table ip own {\n\tchain f {\n\t\ttype filter hook forward priority 0; policy drop;\n\t}\n}\n";
        assert_eq!(refuses(strict).as_deref(), Some("f"));
        let counted = strict
            .replace("policy drop;", "policy accept;")
            .replace("\t}\n}", "\t\tcounter packets 1 bytes 2 drop\n\t}\n}");
        assert_eq!(refuses(&counted).as_deref(), Some("f"));
        let logged = strict
            .replace("policy drop;", "policy accept;")
            .replace("\t}\n}", "\t\tlog prefix \"no: \" reject\n\t}\n}");
        assert_eq!(refuses(&logged).as_deref(), Some("f"));
        let some = strict
            .replace("policy drop;", "policy accept;")
            .replace("\t}\n}", "\t\tip daddr 169.254.169.254 drop\n\t}\n}");
        assert_eq!(refuses(&some), None, "what refuses some is meant");
    }
}
