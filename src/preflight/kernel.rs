//! What the kernel can do. Features are looked for, never versions.

use super::{Check, Facts, Group};
use crate::host::kernel::{CGROUP_V1_ENDS, CGROUP_V1_FIX, ModuleState};
use crate::model::loose_version;

/// Controllers a kubelet cannot do without.
pub(super) const CONTROLLERS: &[&str] = &["cpu", "cpuset", "memory", "pids"];

/// Modules, and a path that exists when the function is there however it came.
pub(super) const MODULES: &[(&str, &str)] = &[
    ("overlay", "/sys/module/overlay"),
    ("br_netfilter", "/proc/sys/net/bridge"),
    ("nf_conntrack", "/proc/sys/net/netfilter/nf_conntrack_max"),
];

pub(super) fn control_groups(facts: &Facts) -> Check {
    let version = if facts.cgroup_v2 {
        "version 2"
    } else {
        "version 1"
    };
    let have: Vec<&str> = facts.controllers.iter().map(String::as_str).collect();
    let check = Check::new(
        Group::Kernel,
        "control-groups",
        format!("{version} with {}", have.join(" ")),
        CONTROLLERS.join(" "),
    );
    let missing: Vec<&str> = CONTROLLERS
        .iter()
        .copied()
        .filter(|c| !facts.controllers.contains(*c))
        .collect();
    if missing.is_empty() && facts.cgroup_v2 {
        return check;
    }
    if missing.is_empty() {
        return check.warn(CGROUP_V1_ENDS, CGROUP_V1_FIX);
    }
    check.fail(
        format!("kubelet needs {}", missing.join(", ")),
        "boot with cgroup_enable=memory, or delegate the controllers to this container",
    )
}

/// The first kernel that shows a pod with ids of its own what it keeps in memory (tokens, secrets). The
/// one feature here that leaves no trace to look for.
const IDS_IN_MEMORY: (u64, u64) = (6, 3);

/// Whether pods can have user ids of their own (`hostUsers: false`). All others run without, so this is no
/// warning: most kernels of today cannot, and most clusters do not ask.
pub(super) fn user_namespaces(facts: &Facts) -> Check {
    let kernel = loose_version(&facts.kernel);
    let is_old = kernel.is_none_or(|k| (k.major, k.minor) < IDS_IN_MEMORY);
    let why = if facts.user_namespaces == 0 {
        Some("user.max_user_namespaces is 0".to_owned())
    } else if is_old {
        Some(format!(
            "Linux {} cannot show them their secrets, 6.3 can",
            facts.kernel
        ))
    } else {
        None
    };
    let found = match why {
        None => USER_NAMESPACES.to_owned(),
        Some(why) => format!("pods with hostUsers: false do not start: {why}"),
    };
    Check::new(Group::Kernel, "user-namespaces", found, USER_NAMESPACES)
}

/// What this check says where they work.
pub(super) const USER_NAMESPACES: &str = "pods can have user ids of their own";

/// The kernel's own values of these. One instance is what kubelet, the runtime and most programs that watch files take
/// each, of those that their user has, which is root for nearly all of them.
const INOTIFY_INSTANCES: u64 = 128;
const INOTIFY_WATCHES: u64 = 8192;
/// Below this a node ends with its first pods.
const PROCESSES_LEAST: u64 = 4096;
/// A little less than what the kernel allows by itself on a machine of 1 GiB.
const PROCESSES_GOOD: u64 = 7000;

/// Whether programs can watch files.
pub(super) fn inotify(facts: &Facts) -> Check {
    let found = match facts.inotify {
        Some((instances, watches)) => format!("{instances} instances, {watches} watches"),
        None => "not known".to_owned(),
    };
    let wanted =
        format!("{INOTIFY_INSTANCES} instances and {INOTIFY_WATCHES} watches for a user, or more");
    let check = Check::new(Group::Kernel, "inotify", found, wanted);
    match facts.inotify {
        None => check.skip("the kernel does not say"),
        Some((i, w)) if i >= INOTIFY_INSTANCES && w >= INOTIFY_WATCHES => check,
        Some(_) => check.fail(
            "kubelet, the runtime and pods watch files; who gets no watch does not start, or misses what changes",
            format!(
                "sysctl -w fs.inotify.max_user_instances={INOTIFY_INSTANCES} fs.inotify.max_user_watches={INOTIFY_WATCHES} \
                 (or more), and the same in /etc/sysctl.d"
            ),
        ),
    }
}

/// Whether there may be as many processes as pods have.
pub(super) fn processes(facts: &Facts) -> Check {
    let found = facts
        .processes_max
        .map_or_else(|| "not known".to_owned(), |n| format!("{n} at most"));
    let check = Check::new(
        Group::Kernel,
        "processes",
        found,
        format!("{PROCESSES_GOOD} or more"),
    );
    let fix =
        "sysctl -w kernel.pid_max=4194304 kernel.threads-max=100000, and the same in /etc/sysctl.d";
    match facts.processes_max {
        None => check.skip("the kernel does not say"),
        Some(n) if n < PROCESSES_LEAST => check.fail(
            "Kubernetes itself has a few hundred threads, and each pod some",
            fix,
        ),
        Some(n) if n < PROCESSES_GOOD => check.warn("a few large pods use that up", fix),
        Some(_) => check,
    }
}

/// Whether kubelet can hear of processes that the kernel ended for want of memory.
pub(super) fn kernel_log(facts: &Facts) -> Check {
    let found = if facts.kernel_log { "there" } else { "absent" };
    let check = Check::new(Group::Kernel, "kernel-log", found, "/dev/kmsg");
    if facts.kernel_log {
        return check;
    }
    check.fail(
        "kubelet ends where it cannot read the kernel's log",
        "give this container the device /dev/kmsg; on a machine: mknod -m 600 /dev/kmsg c 1 11",
    )
}

/// Whether pods and the machine see each other's mounts.
pub(super) fn mount_propagation(facts: &Facts) -> Check {
    let found = match facts.mounts_shared {
        Some(true) => "shared",
        Some(false) => "private",
        None => "not known",
    };
    let check = Check::new(Group::Kernel, "mount-propagation", found, "shared mounts");
    match facts.mounts_shared {
        Some(true) => check,
        Some(false) => check.warn(
            "pods that mount something for others (storage drivers) do not start, and what the machine mounts later no \
             pod sees",
            "mount --make-rshared /, and let whatever made it private at boot do without",
        ),
        None => check.skip("the kernel's list of mounts does not say"),
    }
}

pub(super) fn overlay(facts: &Facts) -> Check {
    feature(
        facts,
        "overlay",
        "overlay",
        "containers' file systems are overlays",
    )
}

pub(super) fn bridge_filter(facts: &Facts) -> Check {
    let check = feature(
        facts,
        "bridge-filter",
        "br_netfilter",
        "services do not reach pods of the same node without it",
    );
    match check.severity {
        // It may be wanted by no one: a network plug-in of one's own need not be a bridge.
        super::Severity::Fail => {
            let (why, fix) = (check.why.clone(), check.fix.clone());
            check.warn(why, fix)
        }
        super::Severity::Ok | super::Severity::Warn | super::Severity::Skip => check,
    }
}

pub(super) fn connection_tracking(facts: &Facts) -> Check {
    feature(
        facts,
        "connection-tracking",
        "nf_conntrack",
        "kube-proxy does not work without it",
    )
}

fn feature(facts: &Facts, id: &'static str, module: &'static str, why: &str) -> Check {
    let state = facts.modules.get(module).copied();
    let found = match state {
        Some(ModuleState::Present) => "there",
        Some(ModuleState::Loadable) => "can be loaded",
        Some(ModuleState::Unknown) | None => "absent",
    };
    let check = Check::new(Group::Kernel, id, found, format!("{module} in the kernel"));
    match state {
        Some(ModuleState::Present | ModuleState::Loadable) => check,
        Some(ModuleState::Unknown) | None => check.fail(
            why,
            format!("modprobe {module}, or use a kernel that has it"),
        ),
    }
}
