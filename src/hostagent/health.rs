//! How the machine is: memory, load, the disks that matter to us, and warnings in words; among them
//! what the matrix says of the active stack.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::inventory::proc_text;
use crate::host::facts::meminfo;
use crate::host::fs::HostFs;
use crate::host::kernel::{CGROUP_V1_ENDS, CGROUP_V1_FIX, Kernel};
use crate::host::{mounts, space};
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

/// Of these nothing of ours has to be written: a machine may have it read-only for good.
const MAY_BE_READ_ONLY: &str = "/";

/// kubelet begins to evict pods at 10 % of its file system.
const DISK_LOW_PERCENT: u64 = 10;
/// Files that a look, an event, a backup and a certificate make, many times over.
const INODES_LOW: u64 = 256;
/// Below this the kernel's OOM killer is near.
const MEMORY_LOW_PERCENT: u64 = 5;

const MIB: u64 = 1024 * 1024;

const READ_ONLY_FIX: &str = "see dmesg for why, mend the disk, and make it writable (mount -o remount,rw); what waits for it continues \
     automatically";

/// Reads everything; what cannot be read is left out.
pub(super) fn read(fs: &HostFs) -> Health {
    let memory = proc_text(fs, "/proc/meminfo");
    let available = meminfo(&memory, "MemAvailable").unwrap_or(0);
    let total = meminfo(&memory, "MemTotal").unwrap_or(0);
    let disks = disks(fs);
    let mut warnings = warnings(&disks, available, total);
    warnings.extend(read_only(fs));
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

/// File systems that we write to and that take nothing any more, each told once.
fn read_only(fs: &HostFs) -> Vec<Fault> {
    // What cannot be read is left out here.
    let devices = mounts::read_only_devices(fs).unwrap_or_default();
    let mut seen = Vec::new();
    let ours = PATHS.iter().filter(|path| **path != MAY_BE_READ_ONLY);
    ours.filter_map(|path| {
        let device =
            device_of(&fs.at(path)).filter(|d| devices.contains(d) && !seen.contains(d))?;
        seen.push(device);
        let what = format!("the file system of {path} is read-only");
        let why = "nothing can be written there; after an error the kernel makes a file system so";
        Some(Fault::new(FaultCode::File, what, why).fix(READ_ONLY_FIX))
    })
    .collect()
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
    for disk in disks.iter().filter(|d| d.total_inodes > 0) {
        if disk.free_inodes < INODES_LOW {
            let what = format!(
                "the file system of {} has no room for more files",
                disk.path
            );
            let why = format!(
                "{} of its {} inodes are free",
                disk.free_inodes, disk.total_inodes
            );
            let fix = "delete what nobody needs (df -i shows the numbers), or make that file system anew with more inodes";
            all.push(Fault::new(FaultCode::DiskFull, what, why).fix(fix));
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
        let all = warnings(&[disk(free_mib, total_mib, (0, 0))], memory.0, memory.1);
        all.into_iter().map(|f| f.code.to_string()).collect()
    }

    fn disk(free_mib: u64, total_mib: u64, inodes: (u64, u64)) -> DiskHealth {
        DiskHealth {
            path: "/".into(),
            total_bytes: total_mib * MIB,
            available_bytes: free_mib * MIB,
            total_inodes: inodes.1,
            free_inodes: inodes.0,
        }
    }

    #[test]
    fn a_disk_that_has_room_and_takes_no_more_files_is_said_to_be_so() {
        let told = |inodes| warnings(&[disk(5_000, 10_000, inodes)], 50, 100).pop();
        assert_eq!(told((5_000, 10_000)), None);
        assert_eq!(told((0, 0)), None, "btrfs counts none");
        let fault = told((0, 4_096)).expect("a warning");
        assert_eq!(fault.code, FaultCode::DiskFull);
        assert_eq!(fault.why, "0 of its 4096 inodes are free");
    }

    #[test]
    fn a_disk_that_takes_nothing_any_more_is_said_once_and_a_root_that_never_did_is_not() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        for path in ["/proc/self", "/var/opt/pf9/hostagent", "/var/log/pf9"] {
            std::fs::create_dir_all(fs.at(path)).expect("directory");
        }
        let device = device_of(dir.path()).expect("device");
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        let list = |mount: &str, disk: &str| {
            let line = format!(
                "36 35 {major}:{minor} / / {mount},noatime shared:1 - ext4 /dev/sdb1 {disk},errors=remount-ro\n"
            );
            std::fs::write(fs.at("/proc/self/mountinfo"), line).expect("write");
            read_only(&fs)
        };
        assert_eq!(list("ro", "rw"), Vec::new(), "a view of its own");
        let told = list("rw", "ro");
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].code, FaultCode::File);
        assert!(
            told[0].what.contains("/opt/pf9 is read-only"),
            "{}",
            told[0].what
        );
        let only_root = PATHS.iter().filter(|p| **p == MAY_BE_READ_ONLY);
        assert_eq!(only_root.count(), 1);
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
