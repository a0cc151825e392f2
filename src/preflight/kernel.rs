//! What the kernel can do. Features are looked for, never versions.

use super::{CheckOutcome, Finding, MachineFacts};
use crate::host::kernel::{CGROUP_V1_ENDS, CGROUP_V1_FIX, ModuleState};
use crate::host::mounts::{PRIVATE_FIX, PRIVATE_MEANS};
use crate::model::loose_version;

/// Controllers a kubelet cannot do without.
pub(super) const CONTROLLERS: &[&str] = &["cpu", "cpuset", "memory", "pids"];

/// Modules, and a path that exists when the function is there however it came.
pub(super) const MODULES: &[(&str, &str)] = &[
    ("overlay", "/sys/module/overlay"),
    ("br_netfilter", "/proc/sys/net/bridge"),
    ("nf_conntrack", "/proc/sys/net/netfilter/nf_conntrack_max"),
];

pub(super) fn control_groups(facts: &MachineFacts) -> Finding {
    let version = if facts.cgroup_v2 {
        "version 2"
    } else {
        "version 1"
    };
    let have: Vec<&str> = facts.controllers.iter().map(String::as_str).collect();
    let check = Finding::new(
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
pub(super) fn user_namespaces(facts: &MachineFacts) -> Finding {
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
    Finding::new(found, USER_NAMESPACES)
}

/// What this check says where they work.
pub(super) const USER_NAMESPACES: &str = "pods can have user ids of their own";

/// Whether kubelet can watch for processes that the kernel killed for lack of memory.
pub(super) fn kernel_log(facts: &MachineFacts) -> Finding {
    let found = if facts.kernel_log { "there" } else { "absent" };
    let check = Finding::new(found, "/dev/kmsg");
    if facts.kernel_log {
        return check;
    }
    check.fail(
        "kubelet exits if it cannot read the kernel's log",
        "give this container the device /dev/kmsg; on a machine: mknod -m 600 /dev/kmsg c 1 11",
    )
}

/// Whether pods and the machine see each other's mounts.
pub(super) fn mount_propagation(facts: &MachineFacts) -> Finding {
    let found = match facts.mounts_shared {
        Some(true) => "shared",
        Some(false) => "private",
        None => "not known",
    };
    let check = Finding::new(found, "shared mounts");
    match facts.mounts_shared {
        Some(true) => check,
        Some(false) => check.warn(PRIVATE_MEANS, PRIVATE_FIX),
        None => check.skip("the kernel's list of mounts does not say"),
    }
}

pub(super) fn overlay(facts: &MachineFacts) -> Finding {
    feature(facts, "overlay", "containers' file systems are overlays")
}

pub(super) fn bridge_filter(facts: &MachineFacts) -> Finding {
    let check = feature(
        facts,
        "br_netfilter",
        "services do not reach pods of the same node without it",
    );
    match check.outcome {
        // It may be wanted by no one: a network plug-in of one's own need not be a bridge.
        CheckOutcome::Fail => {
            let (why, fix) = (check.why.clone(), check.fix.clone());
            check.warn(why, fix)
        }
        CheckOutcome::Ok | CheckOutcome::Warn | CheckOutcome::Skip => check,
    }
}

pub(super) fn connection_tracking(facts: &MachineFacts) -> Finding {
    feature(facts, "nf_conntrack", "kube-proxy does not work without it")
}

fn feature(facts: &MachineFacts, module: &'static str, why: &str) -> Finding {
    let state = facts.modules.get(module).copied();
    let found = match state {
        Some(ModuleState::Present) => "there",
        Some(ModuleState::Loadable) => "can be loaded",
        Some(ModuleState::Unknown) | None => "absent",
    };
    let check = Finding::new(found, format!("{module} in the kernel"));
    match state {
        Some(ModuleState::Present | ModuleState::Loadable) => check,
        Some(ModuleState::Unknown) | None => check.fail(
            why,
            format!("modprobe {module}, or use a kernel that has it"),
        ),
    }
}
