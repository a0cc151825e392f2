//! What the machine is. Read from `/proc`, `/etc/os-release` and the kernel's address list.

use std::time::Duration;

use crate::host::facts::meminfo;
use crate::host::fs::HostFs;
use crate::host::kernel::Kernel;
use crate::host::{facts, grounds, interfaces};
use crate::model::Inventory;

/// Largest file of `/proc` that is read: `/proc/cpuinfo` of a machine with hundreds of processors.
const PROC_MAX: u64 = 4 * 1024 * 1024;

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
    let interfaces = interfaces::interfaces(fs);
    Inventory {
        hostname: proc_text(fs, "/proc/sys/kernel/hostname").trim().to_owned(),
        os: os.pretty,
        os_id: os.id,
        os_version: os.version,
        kernel: proc_text(fs, "/proc/sys/kernel/osrelease")
            .trim()
            .to_owned(),
        systemd: facts::systemd_version(fs).unwrap_or_default(),
        cgroup: Kernel::new(fs.clone()).cgroup_version(),
        arch: arch().to_owned(),
        cpus: facts::cpus(&cpuinfo),
        cpu_model: cpu_model(&cpuinfo),
        memory_bytes: meminfo(&proc_text(fs, "/proc/meminfo"), "MemTotal").unwrap_or(0),
        addresses: interfaces::addresses(fs, &interfaces),
        dns_servers: grounds::dns_servers(fs),
        routes: grounds::routes_of_no_node(fs, &interfaces),
        interfaces,
        // nodelet has them run.
        extensions: Default::default(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_processor_has_an_inventory() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: Xeon\n"), "Xeon");
        assert_eq!(cpu_model("processor\t: 0\nCPU part\t: 0xd0c\n"), "0xd0c");
        assert_eq!(cpu_model(""), "");
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
