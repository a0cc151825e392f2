use super::report::fault_code;
use super::*;
use crate::app::Exit;
use crate::host::facts::OsRelease;
use crate::host::fs::{Attrs, HostFs};
use crate::host::kernel::ModuleState;
use crate::host::resolver::Resolver;
use crate::model::{FaultCode, Timestamp};

#[path = "../../tests/support/breaks.rs"]
mod breaks;
mod broken;
mod defects;

const GIB: u64 = 1 << 30;

/// A machine nothing is wrong with.
fn good() -> MachineFacts {
    MachineFacts {
        uid: 0,
        os: OsRelease {
            id: "debian".into(),
            version: "12".into(),
            pretty: "Debian GNU/Linux 12 (bookworm)".into(),
            like: Vec::new(),
        },
        arch: "x86_64".into(),
        systemd: true,
        systemd_version: None,
        kernel: "6.1.0-40-amd64".into(),
        host_name: "worker-1".into(),
        now: "2026-11-21T10:00:00Z".parse().expect("time"),
        clock_keeper: Some("chronyd".into()),
        memory: 4 * GIB,
        cpus: 2,
        disks: vec![Disk {
            paths: vec![
                "/opt/pf9/stacks",
                "/var/lib/pf9",
                "/var/opt/pf9",
                "/var/log/pf9",
            ],
            total: 100 * GIB,
            available: 60 * GIB,
            inodes: Some(1_000_000),
        }],
        read_only: Vec::new(),
        noexec: Vec::new(),
        links: Vec::new(),
        overlay_trial: OverlayTrial::Works,
        resolver: Resolver {
            path: "/etc/resolv.conf".into(),
            servers: vec!["10.0.0.1".parse().expect("ip")],
            missing: None,
        },
        kernel_log: true,
        mounts_shared: Some(true),
        port_range: ("32768 60999".into(), String::new()),
        leftovers: Vec::new(),
        swaps: Vec::new(),
        user_namespaces: 1000,
        cgroup_v2: true,
        controllers: ["cpu", "cpuset", "io", "memory", "pids"]
            .map(str::to_owned)
            .into(),
        modules: [
            ("overlay", ModuleState::Present),
            ("br_netfilter", ModuleState::Loadable),
            ("nf_conntrack", ModuleState::Present),
        ]
        .into(),
        programs: crate::host::tools::TOOLS
            .iter()
            .map(|t| t.name.to_owned())
            .collect(),
        libraries: ["/usr/lib64/libseccomp.so.2".to_owned()].into(),
        listeners: Vec::new(),
        kubernetes: Vec::new(),
        foreign_paths: Vec::new(),
        runtimes: Vec::new(),
        package_locks: Vec::new(),
        selinux: SeLinux::Absent,
        apparmor: true,
        limits: Limits::default(),
    }
}

fn evaluate(facts: &MachineFacts) -> Report {
    Report::of_machine(facts, &Skips::default())
}

#[test]
fn a_good_machine_passes_every_check() {
    let report = evaluate(&good());
    let bad: Vec<_> = report
        .checks
        .iter()
        .filter(|c| c.outcome != CheckOutcome::Ok)
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!((report.verdict, report.fault()), (CheckOutcome::Ok, None));
    assert!(report.checks.len() >= 12);
}

#[test]
fn the_verdict_is_the_worst_and_every_failure_is_told() {
    let mut facts = good();
    facts.cpus = 1;
    facts.swaps = vec!["/swap".into()];
    facts.uid = 5;
    let fault = evaluate(&facts).fault().expect("fault");
    assert!(
        fault.why.contains("root:") && fault.why.contains("swap:"),
        "{fault}"
    );
    assert_eq!(Exit::of(&fault), Exit::Refused);
}

#[test]
fn our_own_node_is_not_in_its_own_way() {
    let mut facts = good();
    facts.listeners = vec![TakenPort {
        port: 10250,
        process: Some(ProcessInfo {
            pid: 3,
            name: "kubelet".into(),
            ours: true,
        }),
    }];
    facts.kubernetes = vec![ProcessInfo {
        pid: 3,
        name: "kubelet".into(),
        ours: true,
    }];
    assert_eq!(evaluate(&facts).verdict, CheckOutcome::Ok);
}

/// A check that fails with an unknown word has no remedy either.
#[test]
fn every_check_has_a_code() {
    for entry in TABLE {
        assert_ne!(fault_code(entry.id), FaultCode::Newer, "{}", entry.id);
    }
}

#[test]
fn skipping_is_by_name_and_unknown_names_are_refused() {
    let mut facts = good();
    facts.swaps = vec!["/swap".into()];
    let given = ["swap=the cluster allows it".to_owned(), "memory".to_owned()];
    let skips = Skips::parse(&given).expect("skips");
    let report = Report::of_machine(&facts, &skips);
    assert_eq!(
        (report.verdict, report.count(CheckOutcome::Skip)),
        (CheckOutcome::Ok, 2)
    );
    let check = |id: &str| report.checks.iter().find(|c| c.id == id).expect("check");
    assert_eq!(check("swap").why, "by --skip: the cluster allows it");
    assert_eq!(check("memory").why, "by --skip: no reason was given");
    let fault = Skips::parse(&["swop=x".to_owned()]).expect_err("unknown");
    assert_eq!(Exit::of(&fault), Exit::Usage);
    assert!(fault.fix.contains("swap"), "{fault}");
}

/// Each check is shown to speak on a machine that has that defect and no other one: by `tests/node/broken.rs`, or, where
/// the test machines cannot have it, in facts, by a test that is there.
#[test]
fn every_check_is_shown_to_speak() {
    use breaks::{BREAKS, COMMANDS, Shown};
    let shown: Vec<&str> = BREAKS.iter().map(|(id, _)| *id).collect();
    let ours: Vec<&str> = TABLE.iter().map(|entry| entry.id).collect();
    assert_eq!(shown, ours, "tests/support/breaks.rs has each check once");
    assert!(COMMANDS.iter().all(|id| ours.contains(id)));
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/preflight");
    let files = ["", "/tests"].map(|below| std::fs::read_dir(format!("{dir}{below}")));
    let files = files.into_iter().flat_map(|dir| dir.expect("a directory"));
    let texts: Vec<String> = files
        .filter_map(|file| std::fs::read_to_string(file.expect("a file").path()).ok())
        .collect();
    for (id, shown) in BREAKS {
        match shown {
            Shown::Machine(broken) | Shown::View(broken) => {
                for text in [broken.breaks, broken.says, broken.mends] {
                    assert!(!text.trim().is_empty(), "{id}");
                }
            }
            Shown::Recorded { why, test } => {
                assert!(!why.is_empty(), "{id}");
                let name = format!("fn {test}()");
                assert!(texts.iter().any(|t| t.contains(&name)), "{id}: {test}");
            }
        }
    }
}

/// Nobody is warned of these, whatever they are.
#[test]
fn what_is_only_said_is_judged_by_nobody() {
    let mut facts = good();
    facts.selinux = SeLinux::Enforcing;
    facts.apparmor = false;
    facts.runtimes = vec![ProcessInfo {
        pid: 7,
        name: "dockerd".into(),
        ours: false,
    }];
    let report = evaluate(&facts);
    let said = |id: &str| {
        let check = report.checks.iter().find(|c| c.id == id).expect("check");
        assert_eq!(check.outcome, CheckOutcome::Ok, "{check:?}");
        check.found.clone()
    };
    assert!(said("selinux").contains("enforc"), "{}", said("selinux"));
    assert_ne!(said("apparmor"), "");
    assert!(said("other-runtime").contains("dockerd (process 7)"));
}

/// It is said, and is no defect: a machine that cannot is as good for everybody else.
#[test]
fn pods_that_want_ids_of_their_own_are_told_why_not() {
    type Bend = fn(&mut MachineFacts);
    let bend: [(Bend, &str); 3] = [
        (|_| (), super::kernel::USER_NAMESPACES),
        (|f| f.user_namespaces = 0, "max_user_namespaces is 0"),
        (|f| f.kernel = "6.2.16-x".into(), "Linux 6.2.16-x cannot"),
    ];
    for (bend, words) in bend {
        let mut facts = good();
        facts.kernel = "6.3.0".into();
        bend(&mut facts);
        let check = super::kernel::user_namespaces(&facts);
        assert_eq!(check.outcome, CheckOutcome::Ok);
        assert!(check.found.contains(words), "{}", check.found);
    }
}

#[test]
fn facts_are_read_from_the_files_of_the_machine() {
    let dir = tempfile::tempdir().expect("tempdir");
    let host = HostFs::new(dir.path());
    let files: &[(&str, &str)] = &[
        ("/etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n"),
        ("/proc/meminfo", "MemTotal:        2048 kB\nMemFree: 1 kB\n"),
        ("/proc/cpuinfo", "processor\t: 0\nmodel\nprocessor\t: 1\n"),
        (
            "/proc/swaps",
            "Filename Type Size Used Priority\n/dev/sdb1 partition 1 0 -2\n",
        ),
        ("/proc/sys/kernel/hostname", "n1\n"),
        ("/proc/sys/user/max_user_namespaces", "63\n"),
        ("/proc/filesystems", "nodev\tsysfs\nnodev\toverlay\n"),
        ("/sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n"),
        (
            "/proc/net/tcp",
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode\n\
             0: 0100007F:192B 00000000:0000 0A 0:0 0:0 0 0 0 4242 1 0\n\
             1: 0100007F:280A 0100007F:0050 01 0:0 0:0 0 0 0 4243 1 0\n",
        ),
        ("/proc/77/comm", "haproxy\n"),
        ("/proc/78/comm", "kubelet\n"),
        ("/proc/78/cgroup", "0::/system.slice\n"),
        ("/usr/sbin/conntrack", ""),
        ("/usr/lib64/libseccomp.so.2", ""),
        ("/run/systemd/system/x", ""),
        ("/run/systemd/container", "systemd-nspawn"),
        ("/opt/pf9/hostagent/x", ""),
    ];
    for (path, text) in files {
        host.write(path, text.as_bytes(), &Attrs::mode(0o644))
            .expect("write");
    }
    host.link("/proc/77/fd/3", "socket:[4242]").expect("link");
    host.link("/proc/78/exe", "/opt/pf9/stacks/k-1/bin/kubelet")
        .expect("link");
    let facts = MachineFacts::read(&host, 0, Timestamp::UNIX_EPOCH).expect("facts");
    assert_eq!((facts.memory, facts.cpus), (2048 * 1024, 2));
    assert_eq!(facts.swaps, ["/dev/sdb1"]);
    assert_eq!(facts.host_name, "n1");
    assert_eq!(facts.user_namespaces, 63);
    assert!(facts.systemd && facts.cgroup_v2 && facts.clock_keeper.is_some());
    assert_eq!(facts.modules.get("overlay"), Some(&ModuleState::Present));
    assert_eq!(
        facts.modules.get("nf_conntrack"),
        Some(&ModuleState::Unknown)
    );
    assert_eq!(facts.programs.iter().collect::<Vec<_>>(), ["conntrack"]);
    let taken: Vec<_> = facts.listeners.iter().map(|l| l.port).collect();
    assert_eq!(
        taken,
        [6443],
        "an outgoing connection from 10250 is no listener"
    );
    assert_eq!(facts.listeners[0].process.as_ref().map(|p| p.pid), Some(77));
    assert!(facts.kubernetes[0].ours, "its program is out of our stack");
    assert_eq!(facts.foreign_paths, ["/opt/pf9/hostagent"]);
    assert_eq!(
        facts.disks.len(),
        1,
        "one file system below the temporary directory"
    );
}
