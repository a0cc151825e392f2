//! How the machine is: memory, load, the disks that matter to us, and warnings in words; among them
//! what the matrix says of the active stack.

use super::inventory::proc_text;
use crate::host::disks;
use crate::host::facts::meminfo;
use crate::host::fs::HostFs;
use crate::host::kernel::{CGROUP_V1_ENDS, CGROUP_V1_FIX, Kernel};
use crate::model::{Fault, FaultCode, Fit, Health, Matrix};
use crate::stack::{self, programs};

/// Below this the kernel's OOM killer is near.
const MEMORY_LOW_PERCENT: u64 = 5;

const MIB: u64 = 1024 * 1024;

/// Reads everything; what cannot be read is left out.
pub(super) fn read(fs: &HostFs) -> Health {
    let memory = proc_text(fs, "/proc/meminfo");
    let available = meminfo(&memory, "MemAvailable").unwrap_or(0);
    let total = meminfo(&memory, "MemTotal").unwrap_or(0);
    let (disks, mut warnings) = disks::open(fs);
    warnings.extend(memory_low(available, total));
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

/// Findings about the active stack on this machine. They never remove it.
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

/// Version 1 works today; a warning for those who plan upgrades, for its support ends.
fn control_groups(fs: &HostFs) -> Option<Fault> {
    // What cannot be read is left out here.
    let old = Kernel::new(fs.clone()).cgroup_v1().unwrap_or(false);
    let what = "control groups of version 1 are being phased out";
    old.then(|| Fault::new(FaultCode::CgroupV1Ends, what, CGROUP_V1_ENDS).fix(CGROUP_V1_FIX))
}

fn memory_low(available: u64, total: u64) -> Option<Fault> {
    let percent = available.saturating_mul(100).checked_div(total)?;
    let why = format!("{} of {} MiB are available", available / MIB, total / MIB);
    let fault = Fault::new(FaultCode::MemoryLow, "memory is nearly used up", why);
    (percent < MEMORY_LOW_PERCENT)
        .then(|| fault.fix("stop some programs, or give the machine more memory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_where_the_kernel_would_begin() {
        let code = |available, total| memory_low(available, total).map(|f| f.code);
        assert_eq!(code(50, 100), None);
        assert_eq!(code(4, 100), Some(FaultCode::MemoryLow));
        assert_eq!(code(0, 0), None, "it cannot be seen");
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
