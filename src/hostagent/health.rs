//! How the machine is: memory, load, the disks that matter to us, and warnings in words; among them
//! what the matrix says of the active stack.

use super::inventory::proc_text;
use crate::host::disks;
use crate::host::facts::meminfo;
use crate::host::fs::HostFs;
use crate::host::kernel::{CGROUP_V1_ENDS, CGROUP_V1_FIX, Kernel};
use crate::model::{Fault, FaultCode, Fit, Health, Matrix, Pressure, Stall, TimeKeeping};
use crate::stack::{self, programs};

/// Below this the kernel's OOM killer is near.
const MEMORY_LOW_PERCENT: u64 = 5;

const MIB: u64 = 1024 * 1024;

/// Time services by their units. Their processes are not seen here: a unit that runs has a control group.
const KEEPERS: [(&str, &str); 9] = [
    (TIMESYNCD, "systemd-timesyncd"),
    ("chrony.service", "chrony"),
    ("chronyd.service", "chrony"),
    ("ntpsec.service", "ntpsec"),
    ("ntp.service", "ntp"),
    ("ntpd.service", "ntp"),
    ("openntpd.service", "openntpd"),
    ("ntpd-rs.service", "ntpd-rs"),
    // By PTP, as machines of a trading floor or a radio network are.
    ("phc2sys.service", "phc2sys"),
];
const TIMESYNCD: &str = "systemd-timesyncd.service";
/// Where control groups of units are, with each version of them.
const SLICES: [&str; 2] = [
    "/sys/fs/cgroup/system.slice",
    "/sys/fs/cgroup/systemd/system.slice",
];
/// systemd-timesyncd makes it when it has set the clock.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";
/// systemd makes it in a container, whose clock is that of the machine it runs on.
const CONTAINER: &str = "/run/systemd/container";

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
        pressure: Some(pressure(fs)),
        time: Some(time(fs)),
        // Told by who looks at interfaces again and again.
        link_changes: Vec::new(),
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

/// What the kernel measures of it.
fn pressure(fs: &HostFs) -> Pressure {
    let of = |what: &str| stall(&proc_text(fs, &format!("/proc/pressure/{what}")));
    Pressure {
        cpu: of("cpu"),
        memory: of("memory"),
        io: of("io"),
    }
}

/// Of two lines like `some avg10=0.12 avg60=0.40 avg300=0.38 total=123`.
fn stall(text: &str) -> Option<Stall> {
    let of = |kind: &str, span: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let mut words = line.split_whitespace();
        let percent: f64 = words
            .find_map(|word| word.strip_prefix(span))?
            .parse()
            .ok()?;
        (0.0..=100.0).contains(&percent).then_some(percent)
    };
    Some(Stall {
        some10: of("some ", "avg10=")?,
        some60: of("some ", "avg60=")?,
        // Kernels before 5.13 have no such line for processors.
        full10: of("full ", "avg10=").unwrap_or(0.0),
        full60: of("full ", "avg60=").unwrap_or(0.0),
    })
}

fn time(fs: &HostFs) -> TimeKeeping {
    if fs.at(CONTAINER).exists() {
        return TimeKeeping {
            keeper: Some("the machine".to_owned()),
            synchronised: None,
        };
    }
    let runs = |unit: &str| {
        let mut slices = SLICES.iter();
        slices.any(|slice| fs.at(format!("{slice}/{unit}")).exists())
    };
    let keeper = KEEPERS.iter().find(|(unit, _)| runs(unit));
    TimeKeeping {
        keeper: keeper.map(|(_, name)| (*name).to_owned()),
        // The others say it in no file that everybody may read.
        synchronised: keeper
            .filter(|(unit, _)| *unit == TIMESYNCD)
            .map(|_| fs.at(SYNCHRONISED).exists()),
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
    fn pressure_is_what_the_kernel_says_in_numbers_and_nothing_else() {
        let text = "some avg10=84.86 avg60=65.10 avg300=57.38 total=7062754888\n\
                    full avg10=0.50 avg60=0.25 avg300=0.00 total=0\n";
        let both = Stall {
            some10: 84.86,
            some60: 65.1,
            full10: 0.5,
            full60: 0.25,
        };
        assert_eq!(stall(text), Some(both));
        let old = Stall {
            full10: 0.0,
            full60: 0.0,
            ..both
        };
        let first = text.lines().next().expect("a line");
        assert_eq!(stall(first), Some(old), "a kernel before 5.13");
        for none in [
            "",
            "a word of somebody",
            "some avg10=secret avg60=1",
            "some avg10=NaN avg60=1",
            "some avg10=101 avg60=1",
        ] {
            assert_eq!(stall(none), None, "{none:?}");
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let none = pressure(&HostFs::new(dir.path()));
        assert_eq!(none, Pressure::default(), "a kernel without it");
    }

    #[test]
    fn who_keeps_the_clock_is_the_unit_that_runs() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let told = || {
            let told = time(&fs);
            (told.keeper, told.synchronised)
        };
        let make = |path: &str| std::fs::create_dir_all(fs.at(path)).expect("directory");
        assert_eq!(told(), (None, None));
        make("/sys/fs/cgroup/systemd/system.slice/chronyd.service");
        assert_eq!(told(), (Some("chrony".into()), None));
        make("/sys/fs/cgroup/system.slice/systemd-timesyncd.service");
        assert_eq!(told(), (Some("systemd-timesyncd".into()), Some(false)));
        make(SYNCHRONISED);
        assert_eq!(told(), (Some("systemd-timesyncd".into()), Some(true)));
        make(CONTAINER);
        assert_eq!(told(), (Some("the machine".into()), None));
    }

    #[test]
    fn version_1_of_control_groups_is_a_warning_and_no_control_groups_are_none() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let code = || control_groups(&fs).map(|f| f.code);
        assert_eq!(code(), None, "nothing is mounted");
        std::fs::create_dir_all(fs.at("/sys/fs/cgroup/memory")).expect("directory");
        let fault = control_groups(&fs).expect("version 1");
        assert_eq!(fault.code, FaultCode::CgroupV1Ends);
        // When it ends, and what to do.
        let (when, how) = ("1.38", "systemd.unified_cgroup_hierarchy=1");
        assert!(
            fault.why.contains(when) && fault.fix.contains(how),
            "{fault}"
        );
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
