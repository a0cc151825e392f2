//! A machine that is good but for one thing, in facts: the check of that thing speaks, and no other one.

use super::*;

/// What spoils the machine, which check says so, how, with which exit code, naming what.
type Case = (
    fn(&mut MachineFacts),
    &'static str,
    CheckOutcome,
    Exit,
    &'static str,
);

#[test]
fn each_defect_is_named_with_a_remedy_and_an_exit_code() {
    let cases: &[Case] = &[
        (
            |f| f.uid = 1000,
            "root",
            CheckOutcome::Fail,
            Exit::Refused,
            "user id 1000",
        ),
        (
            |f| f.os.version = "10".into(),
            "distribution",
            CheckOutcome::Fail,
            Exit::Unsupported,
            "bookworm",
        ),
        (
            |f| {
                f.os = OsRelease {
                    id: "alpine".into(),
                    version: "3.20".into(),
                    pretty: "Alpine Linux v3.20".into(),
                    like: Vec::new(),
                };
            },
            "distribution",
            CheckOutcome::Fail,
            Exit::Unsupported,
            "Alpine Linux v3.20",
        ),
        (
            |f| {
                f.os.id = "linuxmint".into();
                f.os.like = vec!["ubuntu".into()];
            },
            "distribution",
            CheckOutcome::Warn,
            Exit::Ok,
            "",
        ),
        (
            |f| f.arch = "riscv64".into(),
            "architecture",
            CheckOutcome::Fail,
            Exit::Unsupported,
            "riscv64",
        ),
        (
            |f| f.systemd = false,
            "init",
            CheckOutcome::Fail,
            Exit::NotReady,
            "something else",
        ),
        (
            |f| f.systemd_version = Some("219".into()),
            "tested",
            CheckOutcome::Warn,
            Exit::Ok,
            "",
        ),
        (
            |f| {
                f.systemd_version = Some("260".into());
                f.kernel = "5.4.0".into();
            },
            "tested",
            CheckOutcome::Fail,
            Exit::NotReady,
            "systemd 260",
        ),
        (
            |f| f.noexec = vec!["/opt/pf9/stacks"],
            "programs",
            CheckOutcome::Fail,
            Exit::NotReady,
            "mounted noexec: /opt/pf9/stacks",
        ),
        (
            |f| f.links = vec![("/var/lib/pf9", "/data/pf9".into())],
            "links",
            CheckOutcome::Fail,
            Exit::NotReady,
            "/var/lib/pf9 is a link to /data/pf9",
        ),
        (
            |f| {
                f.overlay_trial = OverlayTrial::Fails {
                    at: "/var/lib".into(),
                    why: "an overlay cannot be mounted: Invalid argument".into(),
                };
            },
            "runtime-storage",
            CheckOutcome::Fail,
            Exit::NotReady,
            "/var/lib: an overlay cannot be mounted",
        ),
        (
            |f| f.resolver.servers = vec!["127.0.0.53".parse().expect("ip")],
            "dns",
            CheckOutcome::Fail,
            Exit::NotReady,
            "127.0.0.53 in /etc/resolv.conf",
        ),
        (
            |f| {
                let own = "127.0.0.1".parse().expect("ip");
                f.resolver.servers.push(own);
            },
            "dns",
            CheckOutcome::Warn,
            Exit::Ok,
            "",
        ),
        (
            |f| f.resolver.servers.clear(),
            "dns",
            CheckOutcome::Warn,
            Exit::Ok,
            "",
        ),
        (
            // 64 bytes: the kernel takes it, and each label is short enough.
            |f| f.host_name = format!("{}.{}", "a".repeat(31), "b".repeat(32)),
            "host-name",
            CheckOutcome::Fail,
            Exit::NotReady,
            "bbbb",
        ),
        (
            |f| f.host_name = "a".repeat(64),
            "host-name",
            CheckOutcome::Fail,
            Exit::NotReady,
            "aaaa",
        ),
        (
            |f| f.host_name = "db_1".into(),
            "host-name",
            CheckOutcome::Fail,
            Exit::NotReady,
            "db_1",
        ),
        (
            |f| f.host_name = "ip.10.0.0.1".into(),
            "host-name",
            CheckOutcome::Fail,
            Exit::NotReady,
            "ip.10.0.0.1",
        ),
        (
            |f| f.host_name = "localhost".into(),
            "host-name",
            CheckOutcome::Fail,
            Exit::NotReady,
            "localhost",
        ),
        (
            |f| f.now = "1970-01-02T00:00:00Z".parse().expect("time"),
            "clock",
            CheckOutcome::Fail,
            Exit::NotReady,
            "1970-01-02",
        ),
        (
            |f| f.clock_keeper = None,
            "clock",
            CheckOutcome::Warn,
            Exit::Ok,
            "",
        ),
        (
            |f| f.memory = GIB / 2,
            "memory",
            CheckOutcome::Fail,
            Exit::NotReady,
            "0.5 GiB",
        ),
        (
            |f| f.memory = 3 * GIB / 2,
            "memory",
            CheckOutcome::Warn,
            Exit::Ok,
            "",
        ),
        (
            |f| f.cpus = 1,
            "processors",
            CheckOutcome::Warn,
            Exit::Ok,
            "",
        ),
        (
            |f| f.disks[0].available = GIB,
            "disk",
            CheckOutcome::Fail,
            Exit::DiskFull,
            "1.0 GiB free",
        ),
        (
            |f| f.disks[0].available = 10 * GIB,
            "disk",
            CheckOutcome::Warn,
            Exit::Ok,
            "",
        ),
        (
            |f| f.disks[0].inodes = Some(7),
            "disk",
            CheckOutcome::Fail,
            Exit::DiskFull,
            "",
        ),
        (
            |f| f.read_only = vec!["/var/lib/pf9"],
            "disk",
            CheckOutcome::Fail,
            Exit::DiskFull,
            "",
        ),
        (
            |f| f.swaps = vec!["/dev/sda2".into()],
            "swap",
            CheckOutcome::Fail,
            Exit::NotReady,
            "on (/dev/sda2)",
        ),
        (
            |f| f.cgroup_v2 = false,
            "control-groups",
            CheckOutcome::Warn,
            Exit::Ok,
            "version 1 with cpu cpuset io memory pids",
        ),
        (
            |f| {
                f.controllers.remove("memory");
            },
            "control-groups",
            CheckOutcome::Fail,
            Exit::NotReady,
            "cpu cpuset io pids",
        ),
        (
            |f| {
                f.modules.insert("overlay", ModuleState::Unknown);
            },
            "overlay",
            CheckOutcome::Fail,
            Exit::NotReady,
            "absent",
        ),
        (
            |f| {
                f.modules.remove("br_netfilter");
            },
            "bridge-filter",
            CheckOutcome::Warn,
            Exit::Ok,
            "",
        ),
        (
            |f| {
                f.programs.remove("conntrack");
            },
            "tools",
            CheckOutcome::Fail,
            Exit::NotReady,
            "missing: conntrack",
        ),
        (
            |f| f.libraries.clear(),
            "libraries",
            CheckOutcome::Fail,
            Exit::NotReady,
            "libseccomp",
        ),
        (
            |f| {
                f.listeners = vec![TakenPort {
                    port: 10250,
                    process: Some(ProcessInfo {
                        pid: 812,
                        name: "nginx".into(),
                        ours: false,
                    }),
                }];
            },
            "ports",
            CheckOutcome::Fail,
            Exit::NotReady,
            "10250 (kubelet) is taken by nginx, process 812",
        ),
        (
            |f| {
                f.kubernetes = vec![ProcessInfo {
                    pid: 9,
                    name: "k3s-server".into(),
                    ours: false,
                }];
            },
            "other-kubelet",
            CheckOutcome::Fail,
            Exit::NotReady,
            "k3s-server (process 9)",
        ),
        (
            |f| f.foreign_paths = vec!["/opt/pf9/hostagent".into()],
            "other-agent",
            CheckOutcome::Fail,
            Exit::NotReady,
            "/opt/pf9/hostagent",
        ),
        (
            |f| f.swaps = vec!["/dev/zram0".into()],
            "swap",
            CheckOutcome::Fail,
            Exit::NotReady,
            "on (/dev/zram0)",
        ),
        (
            // The kernel of the test machines has no quota: as it is said where one is reached.
            |f| {
                f.overlay_trial = OverlayTrial::Full {
                    at: "/var/lib/pf9".into(),
                    why: "no file can be made there: Disk quota exceeded (os error 122)".into(),
                };
            },
            "runtime-storage",
            CheckOutcome::Fail,
            Exit::NotReady,
            "quota exceeded",
        ),
        (
            |f| f.kernel_log = false,
            "kernel-log",
            CheckOutcome::Fail,
            Exit::NotReady,
            "absent",
        ),
        (
            |f| f.mounts_shared = Some(false),
            "mount-propagation",
            CheckOutcome::Warn,
            Exit::Ok,
            "",
        ),
        (
            |f| f.port_range.0 = "10000 60999".into(),
            "ports-given-away",
            CheckOutcome::Warn,
            Exit::Ok,
            "",
        ),
        (
            |f| f.leftovers = vec!["/etc/cni/net.d".into()],
            "leftovers",
            CheckOutcome::Warn,
            Exit::Ok,
            "",
        ),
        (
            |f| {
                f.package_locks = vec![PackageLock {
                    path: "/var/lib/dpkg/lock-frontend",
                    holder: Some(ProcessInfo {
                        pid: 41,
                        name: "unattended-upgr".into(),
                        ours: false,
                    }),
                }];
            },
            "package-locks",
            CheckOutcome::Warn,
            Exit::Ok,
            "",
        ),
        (
            |f| f.limits.inotify_instances = Some(8),
            "limits",
            CheckOutcome::Warn,
            Exit::Ok,
            "",
        ),
    ];
    for (spoil, id, severity, exit, words) in cases {
        let mut facts = good();
        spoil(&mut facts);
        let report = evaluate(&facts);
        let odd: Vec<_> = report
            .checks
            .iter()
            .filter(|c| c.outcome != CheckOutcome::Ok)
            .collect();
        let [check] = odd.as_slice() else {
            panic!("{id}: exactly one check must speak: {odd:?}");
        };
        assert_eq!((&*check.id, check.outcome), (*id, *severity), "{check:?}");
        assert!(check.outcome <= check.severity.worst(), "{check:?}");
        assert_eq!(report.verdict, *severity, "{id}");
        assert!(!check.why.is_empty(), "{id}");
        let fault = report.fault();
        assert_eq!(fault.as_ref().map_or(Exit::Ok, Exit::of), *exit, "{id}");
        if let Some(fault) = fault {
            assert!(fault.why.contains(words), "{id}: {fault}");
            assert!(!fault.fix.is_empty(), "{id}: {fault}");
        }
    }
}
