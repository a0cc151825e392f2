//! Where its data will be.

use super::facts::Disk;
use super::trial::OverlayTrial;
use super::{CheckOutcome, Finding, MachineFacts, Thresholds, gib};
use crate::host::ours::paths::{LINK_FIX, PROGRAMS};
use crate::model::paths;

/// Directories of ours that take room; how much says [`Thresholds`].
pub(super) const NEEDS: [&str; 4] = [
    paths::STACKS,
    "/var/lib/pf9",
    "/var/opt/pf9",
    paths::LOG_DIR,
];

pub(super) fn disk(facts: &MachineFacts) -> Finding {
    let found: Vec<String> = facts.disks.iter().map(describe).collect();
    let limits = &Thresholds::ours().storage;
    let check = Finding::new(
        found.join("; "),
        format!("{} free, writable", gib(limits.all())),
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
        let need: u64 = disk.paths.iter().map(|path| limits.need(path)).sum();
        let at = disk.paths.join(", ");
        if disk.available < need {
            return check.fail(
                format!("{at} needs {} for stack, images and logs", gib(need)),
                format!("free some space at {at}, or mount a larger disk there"),
            );
        }
        if disk.inodes.is_some_and(|i| i < limits.inodes_least) {
            return check.fail(
                format!("{at} has too few inodes left"),
                format!("free some space at {at}"),
            );
        }
    }
    match facts
        .disks
        .iter()
        .find(|d| d.available < d.total / 100 * limits.free_percent_good)
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
pub(super) fn programs(facts: &MachineFacts) -> Finding {
    let found = match facts.noexec.as_slice() {
        [] => "programs can be run there".to_owned(),
        some => format!("mounted noexec: {}", some.join(", ")),
    };
    let wanted = format!("programs in {} can be run", PROGRAMS.join(", "));
    let check = Finding::new(found, wanted);
    if facts.noexec.is_empty() {
        return check;
    }
    check.fail(
        "the agent's own programs are there, or Kubernetes, its runtime and etcd will be",
        "mount it without noexec (mount -o remount,exec, and in /etc/fstab)",
    )
}

/// Whether directories are such, where the node makes or finds them by their names.
pub(super) fn links(facts: &MachineFacts) -> Finding {
    let links: Vec<String> = facts
        .links
        .iter()
        .map(|(path, target)| format!("{path} is a link to {target}"))
        .collect();
    let found = match links.as_slice() {
        [] => "none".to_owned(),
        some => some.join("; "),
    };
    let check = Finding::new(found, "no link in place of one of the agent's directories");
    if links.is_empty() {
        return check;
    }
    check.fail(
        "mounts and deletions below a directory need its real path",
        LINK_FIX,
    )
}

/// Whether the runtime can mount images where it will keep them.
pub(super) fn runtime_storage(facts: &MachineFacts) -> Finding {
    let (found, why) = match &facts.overlay_trial {
        OverlayTrial::Works => ("an overlay was mounted there and used".to_owned(), None),
        OverlayTrial::NotTried(why) => (format!("not tested: {why}"), None),
        OverlayTrial::Fails { at, why } | OverlayTrial::Full { at, why } => {
            (format!("{at}: {why}"), Some(why))
        }
    };
    let wanted = format!("overlays work below {}", paths::CONTAINERD_ROOT);
    let check = Finding::new(found, wanted);
    match (&facts.overlay_trial, why) {
        (OverlayTrial::NotTried(why), _) => check.skip(why.clone()),
        // What is free, and how many files there may be, another check counts; a quota it may not see.
        (OverlayTrial::Full { .. }, _) => match disk(facts).outcome {
            CheckOutcome::Fail => check.skip("see disk"),
            CheckOutcome::Skip | CheckOutcome::Ok | CheckOutcome::Warn => check.fail(
                "no file can be created there although there is space: a quota is reached",
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
