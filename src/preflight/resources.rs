//! What the machine has.

use super::facts::Disk;
use super::{Check, Facts, Group, gib};
use crate::model::paths;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Below this kubelet, etcd and an API server do not fit beside each other. A machine sold with
/// 1 GiB shows a little less.
const MEMORY_LEAST: u64 = 900 * MIB;
/// Room for workloads on a worker, for a control plane on a master.
const MEMORY_GOOD: u64 = 1900 * MIB;
/// etcd's heartbeats starve on one.
const CPUS_GOOD: u32 = 2;
/// A stack has hundreds of files, an image thousands.
const INODES_LEAST: u64 = 50_000;
/// kubelet evicts pods when less than 10 % is left, and collects images at 15 %.
const FREE_PERCENT_GOOD: u64 = 15;

/// What one of our directories takes in the first hour.
pub(super) struct Need {
    pub(super) path: &'static str,
    pub(super) bytes: u64,
}

pub(super) const NEEDS: &[Need] = &[
    // The active stack and the one before it.
    Need {
        path: paths::STACKS,
        bytes: GIB,
    },
    // Images, containers, etcd.
    Need {
        path: "/var/lib/pf9",
        bytes: 3 * GIB / 2,
    },
    // A stack on its way.
    Need {
        path: "/var/opt/pf9",
        bytes: 512 * MIB,
    },
    // Bounded by the configuration.
    Need {
        path: paths::LOG_DIR,
        bytes: 256 * MIB,
    },
];

pub(super) fn memory(facts: &Facts) -> Check {
    let check = Check::new(
        Group::Resources,
        "memory",
        gib(facts.memory),
        "2 GiB or more",
    );
    if facts.memory < MEMORY_LEAST {
        return check.fail(
            "kubelet and its helpers need 1 GiB",
            "give the machine more memory",
        );
    }
    if facts.memory < MEMORY_GOOD {
        return check.warn("little is left for pods", "give the machine more memory");
    }
    check
}

pub(super) fn processors(facts: &Facts) -> Check {
    let check = Check::new(
        Group::Resources,
        "processors",
        facts.cpus.to_string(),
        format!("{CPUS_GOOD} or more"),
    );
    if facts.cpus < CPUS_GOOD {
        return check.warn("a control plane starves on one", "add a processor");
    }
    check
}

pub(super) fn disk(facts: &Facts) -> Check {
    let found: Vec<String> = facts.disks.iter().map(describe).collect();
    let all: u64 = NEEDS.iter().map(|n| n.bytes).sum();
    let check = Check::new(
        Group::Resources,
        "disk",
        found.join("; "),
        format!("{} free, writable", gib(all)),
    );
    if facts.disks.is_empty() {
        return check.skip("no file system can be asked");
    }
    for disk in &facts.disks {
        let need: u64 = NEEDS
            .iter()
            .filter(|n| disk.paths.contains(&n.path))
            .map(|n| n.bytes)
            .sum();
        let at = disk.paths.join(", ");
        if disk.read_only {
            return check.fail(
                format!("{at} is mounted read-only"),
                format!("make {at} writable"),
            );
        }
        if disk.available < need {
            return check.fail(
                format!("{at} needs {} for stack, images and logs", gib(need)),
                format!("make room for {at}, or mount a larger disk there"),
            );
        }
        if disk.inodes.is_some_and(|i| i < INODES_LEAST) {
            return check.fail(
                format!("{at} has too few inodes left"),
                format!("make room for {at}"),
            );
        }
    }
    match facts
        .disks
        .iter()
        .find(|d| d.available < d.total / 100 * FREE_PERCENT_GOOD)
    {
        Some(disk) => check.warn(
            format!(
                "kubelet evicts pods when {} is that full",
                disk.paths.join(", ")
            ),
            "make room",
        ),
        None => check,
    }
}

fn describe(disk: &Disk) -> String {
    // Our paths often share one file system: then the list would say nothing.
    let place = match disk.paths.as_slice() {
        paths if paths.len() == NEEDS.len() => String::new(),
        paths => format!(" at {}", paths.join(", ")),
    };
    format!("{} free{place}", gib(disk.available))
}

/// Whether what is unpacked can be run.
pub(super) fn programs(facts: &Facts) -> Check {
    let holds = |disk: &&Disk| disk.paths.contains(&paths::STACKS);
    let noexec = facts.disks.iter().find(holds).is_some_and(|d| d.noexec);
    let found = if noexec {
        "mounted noexec"
    } else {
        "programs can be run there"
    };
    let wanted = format!("programs in {} can be run", paths::STACKS);
    let check = Check::new(Group::Resources, "programs", found, wanted);
    if noexec {
        return check.fail(
            "Kubernetes, its runtime and etcd are unpacked there",
            "mount it without noexec (mount -o remount,exec, and in /etc/fstab)",
        );
    }
    check
}

pub(super) fn swap(facts: &Facts) -> Check {
    let found = match facts.swaps.as_slice() {
        [] => "off".to_owned(),
        areas => format!("on ({})", areas.join(", ")),
    };
    let check = Check::new(Group::Resources, "swap", found, "off");
    if facts.swaps.is_empty() {
        return check;
    }
    check.fail(
        "kubelet does not start with swap on, unless the cluster's kubelet.allowSwap says so",
        "swapoff -a, and take swap out of /etc/fstab",
    )
}
