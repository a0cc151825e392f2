//! What the machine has.

use super::facts::Disk;
use super::trial::OverlayTrial;
use super::{Check, Facts, Group, Severity, gib};
use crate::host::ours::paths::{LINK_FIX, PROGRAMS};
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
    if !facts.read_only.is_empty() {
        let at = facts.read_only.join(", ");
        return check.fail(
            format!("{at} is mounted read-only"),
            format!("make {at} writable"),
        );
    }
    for disk in &facts.disks {
        let need: u64 = NEEDS
            .iter()
            .filter(|n| disk.paths.contains(&n.path))
            .map(|n| n.bytes)
            .sum();
        let at = disk.paths.join(", ");
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

/// Whether programs can be run where they lie, or will.
pub(super) fn programs(facts: &Facts) -> Check {
    let found = match facts.noexec.as_slice() {
        [] => "programs can be run there".to_owned(),
        some => format!("mounted noexec: {}", some.join(", ")),
    };
    let wanted = format!("programs in {} can be run", PROGRAMS.join(", "));
    let check = Check::new(Group::Resources, "programs", found, wanted);
    if facts.noexec.is_empty() {
        return check;
    }
    check.fail(
        "the agent's own programs are there, or Kubernetes, its runtime and etcd will be",
        "mount it without noexec (mount -o remount,exec, and in /etc/fstab)",
    )
}

/// Whether directories are such, where the node makes or finds them by their names.
pub(super) fn links(facts: &Facts) -> Check {
    let links: Vec<String> = facts
        .links
        .iter()
        .map(|(path, target)| format!("{path} is a link to {target}"))
        .collect();
    let found = match links.as_slice() {
        [] => "none".to_owned(),
        some => some.join("; "),
    };
    let check = Check::new(
        Group::Resources,
        "links",
        found,
        "no link in the place of a directory of ours",
    );
    if links.is_empty() {
        return check;
    }
    check.fail(
        "what is mounted or deleted below a directory is known by its own name",
        LINK_FIX,
    )
}

/// Whether the runtime can mount images where it will keep them.
pub(super) fn runtime_storage(facts: &Facts) -> Check {
    let (found, why) = match &facts.overlay_trial {
        OverlayTrial::Works => ("an overlay was mounted there and used".to_owned(), None),
        OverlayTrial::NotTried(why) => (format!("not tried: {why}"), None),
        OverlayTrial::Fails { at, why } | OverlayTrial::Full { at, why } => {
            (format!("{at}: {why}"), Some(why))
        }
    };
    let wanted = format!("overlays work below {}", paths::CONTAINERD_ROOT);
    let check = Check::new(Group::Resources, "runtime-storage", found, wanted);
    match (&facts.overlay_trial, why) {
        (OverlayTrial::NotTried(why), _) => check.skip(why.clone()),
        // What is free, and how many files there may be, another check counts; a quota it may not see.
        (OverlayTrial::Full { .. }, _) => match disk(facts).severity {
            Severity::Fail => check.skip("see disk"),
            Severity::Skip | Severity::Ok | Severity::Warn => check.fail(
                "no file can be made there, whatever is free: a quota is reached",
                "raise the quota there, or mount a disk of its own at /var/lib/pf9",
            ),
        },
        (_, None) => check,
        (_, Some(_)) => check.fail(
            "the container runtime mounts every image as an overlay",
            "mount a disk with ext4 (with filetype) or XFS (with ftype=1) at /var/lib/pf9",
        ),
    }
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
        match facts.swaps.iter().any(|area| area.starts_with("/dev/zram")) {
            false => "swapoff -a, and take swap out of /etc/fstab",
            // It is in no fstab, and would be back with the next boot.
            true => {
                "swapoff -a, and remove what makes swap of memory: package zram-tools, or systemd-zram-generator \
                 (or an empty /etc/systemd/zram-generator.conf)"
            }
        },
    )
}
