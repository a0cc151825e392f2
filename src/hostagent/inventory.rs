//! What the machine is. Read from `/proc`, `/etc/os-release` and the kernel's address list.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;

use crate::host::facts;
use crate::host::fs::HostFs;
use crate::model::{Interface, Inventory};

/// Largest file of `/proc` that is read: `/proc/cpuinfo` of a machine with hundreds of processors.
const PROC_MAX: u64 = 4 * 1024 * 1024;
/// Most interfaces that are reported; a node has one per pod, which are no inventory.
const INTERFACES_MAX: usize = 64;

/// Names (prefixes) of interfaces that containers and bridges come with.
const FOREIGN_PREFIXES: &[&str] = &[
    "lo",
    "veth",
    "cali",
    "cni",
    "pf9cni",
    "docker",
    "br-",
    "tap",
    "vnet",
    "kube-ipvs",
    "flannel",
];

/// The kernel's boot id; empty when it cannot be read.
pub(super) fn boot_id(fs: &HostFs) -> String {
    proc_text(fs, "/proc/sys/kernel/random/boot_id")
        .trim()
        .to_owned()
}

/// Time since boot.
pub(super) fn uptime(fs: &HostFs) -> Duration {
    proc_text(fs, "/proc/uptime")
        .split_whitespace()
        .next()
        .and_then(|s| s.parse().ok())
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
        .unwrap_or_default()
}

/// Everything about the machine that seldom changes.
pub(super) fn read(fs: &HostFs) -> Inventory {
    let os = facts::os_release(fs).unwrap_or_default();
    let cpuinfo = proc_text(fs, "/proc/cpuinfo");
    let interfaces = interfaces();
    let default = default_route(&proc_text(fs, "/proc/net/route"));
    Inventory {
        hostname: proc_text(fs, "/proc/sys/kernel/hostname").trim().to_owned(),
        os: os.pretty,
        os_id: os.id,
        os_version: os.version,
        kernel: proc_text(fs, "/proc/sys/kernel/osrelease")
            .trim()
            .to_owned(),
        arch: arch().to_owned(),
        cpus: std::thread::available_parallelism()
            .map_or(0, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        cpu_model: cpu_model(&cpuinfo),
        memory_bytes: meminfo(&proc_text(fs, "/proc/meminfo"), "MemTotal").unwrap_or(0),
        addresses: addresses(&interfaces, default.as_deref()),
        interfaces,
    }
}

/// One field of `/proc/meminfo`, in bytes.
pub(super) fn meminfo(text: &str, field: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// A file of `/proc`; empty when it cannot be read, because the rest is still worth telling.
pub(super) fn proc_text(fs: &HostFs, path: &str) -> String {
    fs.read_text(path, PROC_MAX)
        .ok()
        .flatten()
        .unwrap_or_default()
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn cpu_model(cpuinfo: &str) -> String {
    // x86 says "model name"; ARM may say nothing but "CPU part".
    for key in ["model name", "Model", "CPU part"] {
        let found = cpuinfo
            .lines()
            .filter_map(|l| l.split_once(':'))
            .find(|(k, _)| k.trim() == key);
        if let Some((_, value)) = found {
            return value.trim().to_owned();
        }
    }
    String::new()
}

/// The interface of the IPv4 default route, from `/proc/net/route`.
fn default_route(text: &str) -> Option<String> {
    text.lines()
        .skip(1)
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .filter(|f| f.get(1) == Some(&"00000000"))
        .min_by_key(|f| f.get(6).and_then(|m| m.parse::<u64>().ok()))
        .and_then(|f| f.first().map(|name| (*name).to_owned()))
}

fn interfaces() -> Vec<Interface> {
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    let Ok(list) = getifaddrs() else {
        return Vec::new();
    };
    for entry in list {
        let name = entry.interface_name;
        let foreign = FOREIGN_PREFIXES.iter().any(|p| name.starts_with(p));
        if foreign || (found.len() >= INTERFACES_MAX && !found.contains_key(&name)) {
            continue;
        }
        let interface = found.entry(name.clone()).or_insert_with(|| Interface {
            name,
            mac: String::new(),
            addresses: Vec::new(),
        });
        let Some(address) = entry.address else {
            continue;
        };
        if let Some(mac) = address.as_link_addr().and_then(|l| l.addr()) {
            interface.mac = mac.map(|b| format!("{b:02x}")).join(":");
        }
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let v6 = address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
        interface.addresses.extend(v4.or(v6).filter(is_of_interest));
    }
    let mut all: Vec<_> = found.into_values().collect();
    for interface in &mut all {
        interface.addresses.sort_unstable();
    }
    all
}

fn is_of_interest(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !link_local && !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified()
}

fn addresses(interfaces: &[Interface], default: Option<&str>) -> Vec<IpAddr> {
    let (first, rest): (Vec<_>, Vec<_>) = interfaces
        .iter()
        .partition(|i| Some(i.name.as_str()) == default);
    first
        .into_iter()
        .chain(rest)
        .flat_map(|i| i.addresses.iter().copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_with_the_lowest_metric_counts() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
            wlan0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\n\
            eth1\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\n";
        assert_eq!(default_route(text).as_deref(), Some("eth1"));
        assert_eq!(default_route(""), None);
    }

    #[test]
    fn the_default_routes_addresses_come_first() {
        let interface = |name: &str, ip: &str| Interface {
            name: name.into(),
            mac: String::new(),
            addresses: vec![ip.parse().expect("ip")],
        };
        let all = [interface("a", "10.0.0.1"), interface("b", "10.0.0.2")];
        let found = addresses(&all, Some("b"));
        assert_eq!(
            found.first().map(ToString::to_string).as_deref(),
            Some("10.0.0.2")
        );
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn any_processor_has_an_inventory() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: Xeon\n"), "Xeon");
        assert_eq!(cpu_model("processor\t: 0\nCPU part\t: 0xd0c\n"), "0xd0c");
        assert_eq!(cpu_model(""), "");
        assert_eq!(
            meminfo("MemTotal:  16 kB\nMemFree: 1 kB", "MemTotal"),
            Some(16384)
        );
        assert_eq!(meminfo("MemTotal: x", "MemTotal"), None);
    }

    #[test]
    fn this_machine_has_one() {
        let inventory = read(&HostFs::real());
        assert!(!inventory.hostname.is_empty() && !inventory.kernel.is_empty());
        assert!(inventory.cpus > 0 && inventory.memory_bytes > 0);
        assert!(!boot_id(&HostFs::real()).is_empty());
        assert!(uptime(&HostFs::real()) > Duration::ZERO);
    }
}
