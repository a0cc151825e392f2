//! What the machine has.

use super::{Finding, MachineFacts, Thresholds, gib};

const MIB: u64 = 1 << 20;

pub(super) fn memory(facts: &MachineFacts) -> Finding {
    let limits = &Thresholds::ours().resources;
    let check = Finding::new(gib(facts.memory), "2 GiB or more");
    if facts.memory < limits.memory_least_mib * MIB {
        return check.fail(
            "kubelet and its helpers need 1 GiB",
            "give the machine more memory",
        );
    }
    if facts.memory < limits.memory_good_mib * MIB {
        return check.warn("little is left for pods", "give the machine more memory");
    }
    check
}

pub(super) fn processors(facts: &MachineFacts) -> Finding {
    let good = Thresholds::ours().resources.processors_good;
    let check = Finding::new(facts.cpus.to_string(), format!("{good} or more"));
    if facts.cpus < good {
        return check.warn("a control plane starves on one", "add a processor");
    }
    check
}

pub(super) fn swap(facts: &MachineFacts) -> Finding {
    let found = match facts.swaps.as_slice() {
        [] => "off".to_owned(),
        areas => format!("on ({})", areas.join(", ")),
    };
    let check = Finding::new(found, "off");
    if facts.swaps.is_empty() {
        return check;
    }
    check.fail(
        "kubelet does not start with swap on, unless the cluster's kubelet.allowSwap says so",
        match facts.swaps.iter().any(|area| area.starts_with("/dev/zram")) {
            false => "swapoff -a, and remove swap from /etc/fstab",
            // It is in no fstab, and would be back with the next boot.
            true => {
                "swapoff -a, and remove what sets up swap in memory: package zram-tools, or systemd-zram-generator \
                 (or an empty /etc/systemd/zram-generator.conf)"
            }
        },
    )
}
