//! How the machine is: memory, load, the disks that matter to us, and warnings in words; among them
//! what the matrix says of the active stack.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::inventory::proc_text;
use crate::host::facts::meminfo;
use crate::host::fs::HostFs;
use crate::host::kernel::{CGROUP_V1_ENDS, CGROUP_V1_FIX, Kernel};
use crate::host::space;
use crate::model::{DiskHealth, Fault, FaultCode, Fit, Health, Matrix};
use crate::stack::{self, programs};

/// Where we, the runtime and the logs write. (`/var/lib`, not our directory in it: that is closed
/// to this process, and the file system is the same.)
const PATHS: &[&str] = &[
    "/",
    "/opt/pf9",
    "/var/opt/pf9/hostagent",
    "/var/lib",
    "/var/log/pf9",
];

/// kubelet begins to evict pods at 10 % of its file system.
const DISK_LOW_PERCENT: u64 = 10;
/// Below this the kernel's OOM killer is near.
const MEMORY_LOW_PERCENT: u64 = 5;

const MIB: u64 = 1024 * 1024;

/// Reads everything; what cannot be read is left out.
pub(super) fn read(fs: &HostFs) -> Health {
    let memory = proc_text(fs, "/proc/meminfo");
    let available = meminfo(&memory, "MemAvailable").unwrap_or(0);
    let total = meminfo(&memory, "MemTotal").unwrap_or(0);
    let disks = disks(fs);
    let mut warnings = warnings(&disks, available, total);
    warnings.extend(control_groups(fs));
    warnings.extend(of_the_stack(fs));
    Health {
        load1: load1(&proc_text(fs, "/proc/loadavg")),
        memory_available_bytes: available,
        warnings,
        disks,
        daemons: super::daemons::read(fs),
    }
}

/// What is to be known about the active stack on this machine. It is never taken away for that.
fn of_the_stack(fs: &HostFs) -> Vec<Fault> {
    let Some(stack) = stack::active_content(fs) else {
        return Vec::new();
    };
    let name = format!("{} {}", stack.name, stack.version);
    match Matrix::ours().fits(&stack, &programs::machine(fs)) {
        Fit::Tested => Vec::new(),
        Fit::Warned(words) => {
            let what = format!("stack {name} runs on this machine with a warning");
            let fault = |why| Fault::new(FaultCode::StackUntried, &what, why);
            words.into_iter().map(fault).collect()
        }
        Fit::Refused(fault) => {
            let what = format!("stack {name} runs, but would not be accepted today");
            vec![Fault::new(fault.code, what, fault.why).fix(fault.fix)]
        }
    }
}

fn load1(loadavg: &str) -> f64 {
    loadavg
        .split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0.0)
}

/// One entry a file system, named by the first of our paths on it.
fn disks(fs: &HostFs) -> Vec<DiskHealth> {
    let mut seen = Vec::new();
    let mut disks = Vec::new();
    for path in PATHS {
        let at = fs.at(path);
        let Some(device) = device_of(&at) else {
            continue;
        };
        if seen.contains(&device) {
            continue;
        }
        seen.push(device);
        if let Ok(room) = space::of(&at) {
            // Of a path that is not there yet nothing is told.
            let (total_inodes, free_inodes) = space::inodes(&at).unwrap_or_default();
            disks.push(DiskHealth {
                path: (*path).to_owned(),
                total_bytes: room.total,
                available_bytes: room.free,
                total_inodes,
                free_inodes,
            });
        }
    }
    disks
}

fn device_of(path: &Path) -> Option<u64> {
    path.ancestors()
        .find_map(|p| std::fs::metadata(p).ok())
        .map(|meta| meta.dev())
}

/// Version 1 works today; whoever plans upgrades has to know that it ends.
fn control_groups(fs: &HostFs) -> Option<Fault> {
    // What cannot be read is left out here.
    let old = Kernel::new(fs.clone()).cgroup_v1().unwrap_or(false);
    let what = "control groups of version 1 end";
    old.then(|| Fault::new(FaultCode::CgroupV1Ends, what, CGROUP_V1_ENDS).fix(CGROUP_V1_FIX))
}

fn warnings(disks: &[DiskHealth], memory_available: u64, memory_total: u64) -> Vec<Fault> {
    let percent = |part: u64, whole: u64| part.saturating_mul(100).checked_div(whole);
    let mut all = Vec::new();
    for disk in disks {
        let (free, total) = (disk.available_bytes, disk.total_bytes);
        let why = format!(
            "{} has {} of {} MiB free",
            disk.path,
            free / MIB,
            total / MIB
        );
        let what = format!("the file system of {} is full", disk.path);
        if free < space::RESERVE_BYTES {
            all.push(Fault::new(FaultCode::DiskFull, what, why).fix(space::FIX));
        } else if percent(free, total).is_some_and(|p| p < DISK_LOW_PERCENT) {
            let what = what.replace("is full", "is nearly full");
            all.push(Fault::new(FaultCode::DiskNearlyFull, what, why).fix(space::FIX));
        }
    }
    if percent(memory_available, memory_total).is_some_and(|p| p < MEMORY_LOW_PERCENT) {
        let why = format!(
            "{} of {} MiB are available",
            memory_available / MIB,
            memory_total / MIB
        );
        let fault = Fault::new(FaultCode::MemoryLow, "memory is nearly used up", why);
        all.push(fault.fix("stop something, or give the machine more memory"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(free_mib: u64, total_mib: u64, memory: (u64, u64)) -> Vec<String> {
        let disk = DiskHealth {
            path: "/".into(),
            total_bytes: total_mib * MIB,
            available_bytes: free_mib * MIB,
            total_inodes: 0,
            free_inodes: 0,
        };
        let all = warnings(&[disk], memory.0, memory.1);
        all.into_iter().map(|f| f.code.to_string()).collect()
    }

    #[test]
    fn warnings_begin_where_kubelet_or_the_kernel_would() {
        assert_eq!(codes(5_000, 10_000, (50, 100)), Vec::<String>::new());
        assert_eq!(codes(999, 10_000, (50, 100)), ["disk-nearly-full"]);
        assert_eq!(codes(100, 10_000, (50, 100)), ["disk-full"]);
        assert_eq!(codes(5_000, 10_000, (4, 100)), ["memory-low"]);
        assert_eq!(codes(5_000, 10_000, (0, 0)), Vec::<String>::new());
    }

    #[test]
    fn version_1_of_control_groups_is_a_warning_and_no_control_groups_are_none() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let code = || control_groups(&fs).map(|f| f.code);
        assert_eq!(code(), None, "nothing is mounted");
        std::fs::create_dir_all(fs.at("/sys/fs/cgroup/memory")).expect("directory");
        assert_eq!(code(), Some(FaultCode::CgroupV1Ends));
        std::fs::write(fs.at("/sys/fs/cgroup/cgroup.controllers"), "memory\n").expect("write");
        assert_eq!(code(), None, "version 2");
    }

    #[test]
    fn this_machine_has_disks_each_once() {
        let health = read(&HostFs::real());
        assert!(health.disks.iter().any(|d| d.path == "/"));
        assert!(health.memory_available_bytes > 0);
    }
}
