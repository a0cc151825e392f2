use super::super::output::Show;
use super::super::proxy_test::{TestReport, Trial};
use super::super::status::used::Used;
use super::super::status::{Overall, StatusReport, UnitReport};
use super::*;
use crate::egress::{Hop, Passed};
use crate::model::{
    ApiAddressStatus, Authority, CertificateStatus, ClusterId, Digest, DiskHealth, DownloadStatus,
    Expiry, FaultCode, Generation, HostId, KubeProxyStatus, MaintenanceBy, MaintenanceStatus,
    NodeState, NodeStatus, PhaseId, PhaseState, PhaseStatus, ProxyMode, RepairStatus,
    RevivedStatus, Role, RollId, StackRef, Timestamp, TunnelState, TunnelStatus, UpgradeStage,
    UpgradeState, UpgradeStatus,
};
use crate::nodelet::plan::StepWords;
use crate::preflight::{Disk, MachineFacts, OverlayTrial, Report, Skips};

const WIDTH: usize = 100;

fn at(text: &str) -> Timestamp {
    format!("2026-11-21T{text}Z").parse().expect("time")
}

fn unit(name: &str, state: &str) -> UnitReport {
    UnitReport {
        name: name.into(),
        unit: format!("pf9-{name}.service"),
        good: matches!(state, "running" | "idle" | "done"),
        state: state.into(),
        restarts: 0,
    }
}

fn phase(id: PhaseId, state: PhaseState) -> PhaseStatus {
    PhaseStatus {
        id,
        name: id.name().into(),
        order: id.order(),
        state,
        message: None,
        started_at: Some(at("09:59:48")),
        took_ms: Some(u64::from(id.order()) * 37),
    }
}

/// A node of `role` whose phases before `stuck` are done; `stuck` itself is in `state`.
fn node(role: Role, stuck: Option<PhaseId>, state: PhaseState) -> NodeStatus {
    let phases = PhaseId::ALL
        .iter()
        .filter(|p| p.applies_to(role))
        .map(|id| match stuck {
            Some(stuck) if *id == stuck => phase(*id, state),
            Some(stuck) if *id > stuck => phase(*id, PhaseState::NotStarted),
            Some(_) | None => phase(*id, PhaseState::Running),
        });
    let cluster = "0c3b5c1e-5d6f-4a6e-9a40-3b2f1d0e9c87";
    NodeStatus {
        revision: 41,
        generation: Generation(7),
        role,
        cluster_id: Some(cluster.parse::<ClusterId>().expect("id")),
        state: NodeState::Ok,
        phases: phases.collect(),
        last_sweep_at: Some(at("09:59:30")),
        stack: Some(stack()),
        api_address: (role == Role::Master).then(|| ApiAddressStatus {
            address: "10.1.0.250".parse().expect("ip"),
            here: true,
            interface: Some("eth0".into()),
            holder: Some("master-1".into()),
            since: Some(at("09:57:00")),
            fault: None,
        }),
        kube_proxy: Some(KubeProxyStatus {
            mode: ProxyMode::Nftables,
            why: "chosen, for this machine has nft and kernel 6.18.1".into(),
        }),
        certificates: [("kubelet/apiserver", 300), ("kube-proxy/apiserver", 361)]
            .map(|(name, days)| CertificateStatus {
                name: name.into(),
                authority: Authority::Cluster,
                digest: Digest::of(name.as_bytes()),
                issuer: Digest::of(b"cluster"),
                not_before: at("09:00:00"),
                not_after: at("10:00:00") + jiff::SignedDuration::from_hours(24 * days),
            })
            .into(),
        ..NodeStatus::default()
    }
}

fn stack() -> StackRef {
    StackRef {
        name: "pf9-kube".into(),
        version: "1.36.3-1".into(),
        manifest: Digest::of(b"x"),
    }
}

fn tunnel() -> TunnelStatus {
    TunnelStatus {
        schema: 1,
        orders: Vec::new(),
        state: TunnelState::Connected {
            since: at("06:47:00"),
        },
        endpoint: Some("wss://plane.example:8443/v1/tunnel".into()),
        rtt_us: Some(4100),
        streams: 3,
        bytes_in: 1,
        bytes_out: 2,
        last_contact: Some(at("09:59:58")),
        last_fault: None,
        sessions: Vec::new(),
        certificates: Vec::new(),
    }
}

fn good(role: Role) -> StatusReport {
    let id = "6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11";
    StatusReport {
        schema: 1,
        taken_at: at("10:00:00"),
        state: Overall::Ok,
        reason: None,
        host_name: "node-1".into(),
        host_id: Some(id.parse::<HostId>().expect("id")),
        version: "0.1.0",
        change: crate::model::AgentStatus::default(),
        agent: vec![
            unit("comms", "running"),
            unit("hostagent", "running"),
            unit("nodelet", "running"),
        ],
        tunnel: Some(tunnel()),
        acknowledged_at: Some(at("09:59:48")),
        generation: Some(Generation(7)),
        refused: None,
        download: None,
        node: Some(node(role, None, PhaseState::Running)),
        services: ["containerd", "etcd", "kubelet", "kube-proxy"]
            .iter()
            .filter(|s| role == Role::Master || **s != "etcd")
            .map(|s| unit(s, "running"))
            .collect(),
        disks: vec![DiskHealth {
            path: "/var/opt/pf9".into(),
            total_bytes: 100 << 30,
            available_bytes: 61 << 30,
            total_inodes: 0,
            free_inodes: 0,
        }],
        pressure: Some(crate::model::Pressure {
            io: Some(crate::model::Stall::default()),
            ..Default::default()
        }),
        time: None,
        link_changes: Vec::new(),
        used: [
            ("logs", 12, Some(350)),
            ("stacks", 640, None),
            ("state", 2, None),
            ("programs", 24, None),
        ]
        .map(|(what, mib, most)| Used {
            what,
            path: "/",
            bytes: mib << 20,
            most_bytes: most.map(|mib: u64| mib << 20),
            at_least: what == "stacks",
        })
        .into(),
        drift: None,
        certificates: certificates(role),
        warnings: Vec::new(),
    }
}

/// A node with a few repairs, one of them still open.
fn repaired() -> StatusReport {
    let mut report = good(Role::Worker);
    let what = |n: u64| {
        [
            "start pf9-kubelet.service",
            "write /etc/sysctl.d/90-pf9-kubernetes.conf",
        ][usize::from(n.is_multiple_of(2))]
    };
    let status = report.node.as_mut().expect("node");
    status.repairs = (1..=5)
        .map(|number| RepairStatus {
            number,
            at: at(&format!("09:5{number}:00")),
            what: what(number).into(),
            why: "it is not what was written".into(),
        })
        .collect();
    status.revived = vec![RevivedStatus {
        unit: "pf9-containerd.service".into(),
        times: 2,
        last_at: at("09:12:00"),
        why: "it did not answer for two minutes".into(),
    }];
    let step = StepWords {
        phase: PhaseId::Kubelet,
        what: what(1).into(),
        why: "it is stopped".into(),
    };
    report.drift = Some(vec![step; 10]);
    report
}

/// The tunnel's, and the node's own.
fn certificates(role: Role) -> Vec<Expiry> {
    let days = |days: i64| at("10:00:00") + jiff::SignedDuration::from_hours(24 * days);
    let tunnel = [("host", 310), ("plane-ca", 3000)];
    let tunnel = tunnel.map(|(name, n)| Expiry::new(name, days(n)));
    let node = node(role, None, PhaseState::Running).certificates;
    tunnel
        .into_iter()
        .chain(node.iter().map(Expiry::from))
        .collect()
}

fn maintenance() -> MaintenanceStatus {
    MaintenanceStatus {
        by: MaintenanceBy::Root,
        reason: "the disk of /var/lib/pf9 is replaced".into(),
        since: at("09:20:00"),
        until: at("11:20:00"),
    }
}

fn screens() -> Vec<(&'static str, StatusReport)> {
    let mut converging = good(Role::Worker);
    converging.state = Overall::Converging;
    let mut status = node(Role::Worker, Some(PhaseId::Certs), PhaseState::Waiting);
    for phase in &mut status.phases {
        if phase.state == PhaseState::Waiting {
            phase.message = Some("4 certificates from the plane".into());
        }
    }
    status.stack = None;
    converging.node = Some(status);
    converging.download = Some(DownloadStatus {
        stack: stack(),
        have: 220 << 20,
        total: 900 << 20,
        fault: None,
    });

    let mut retrying = good(Role::Master);
    retrying.state = Overall::Retrying;
    retrying.reason = Some(
        Fault::new(
            FaultCode::Unit,
            "cannot start etcd",
            "127.0.0.1:2379 did not answer within 600 s: connection refused; its last words: \
             mvcc: database space exceeded",
        )
        .fix("see journalctl -u pf9-etcd; make room on the disk of /var/lib/pf9/etcd")
        .next_try(at("10:00:12")),
    );
    let mut status = node(Role::Master, Some(PhaseId::EtcdStart), PhaseState::Failed);
    status.attempts = 4;
    for phase in &mut status.phases {
        if phase.state == PhaseState::Failed {
            let message = "127.0.0.1:2379 did not answer within 600 s: connection refused; its \
                           last words: mvcc: database space exceeded";
            phase.message = Some(message.into());
        }
    }
    status.current_step = Some("waits for 127.0.0.1:2379/health".into());
    retrying.node = Some(status);
    retrying.services[1] = unit("etcd", "failed (exit-code)");
    retrying.services[1].restarts = 17;
    retrying.refused = Some(
        Fault::new(
            FaultCode::DocumentUntrusted,
            "spec 8 refused",
            "the signature does not match",
        )
        .fix("the last good one stays in force"),
    );

    let mut offline = good(Role::Worker);
    offline.state = Overall::Offline;
    let why = Fault::new(
        FaultCode::PlaneRefused,
        "the plane cannot be reached",
        "plane.example:8443 does not accept connections",
    )
    .fix("the node keeps running meanwhile; check network and plane")
    .next_try(at("10:00:41"));
    offline.reason = Some(why);
    if let Some(tunnel) = &mut offline.tunnel {
        tunnel.state = TunnelState::Waiting {
            next_try: at("10:00:41"),
        };
        tunnel.last_contact = Some(at("08:12:09"));
    }
    offline.acknowledged_at = Some(at("08:11:40"));

    let mut down = good(Role::Worker);
    down.state = Overall::AgentDown;
    let why = "pf9-hostagent.service is failed (exit-code)";
    down.reason = Some(
        Fault::new(FaultCode::AgentDown, "hostagent does not run", why).fix(
            "journalctl -n 30 -u pf9-hostagent.service; then systemctl restart \
             pf9-hostagent.service; the node itself keeps running",
        ),
    );
    down.agent[1] = unit("hostagent", "failed (exit-code)");
    down.node = None;
    down.generation = None;
    down.acknowledged_at = None;
    down.disks.clear();

    let mut halved = good(Role::Worker);
    halved.tunnel = Some(super::tunnel::sessions());

    let mut expired = good(Role::Worker);
    expired.tunnel = Some(super::tunnel::renewing());
    let why = Fault::new(
        FaultCode::CsrRefused,
        "cannot renew the host certificate",
        "the certificate is not signed: the plane's store failed",
    )
    .fix("see the plane's log")
    .next_try(at("10:00:41"));
    expired.certificates[0] = Expiry {
        renew_at: Some(at("06:00:00")),
        fault: Some(why),
        ..Expiry::new("host", at("09:30:00"))
    };
    expired.warnings = expired.certificates[0]
        .warning(at("10:00:00"))
        .into_iter()
        .collect();

    let mut idle = good(Role::Worker);
    idle.state = Overall::Idle;
    idle.node = None;
    idle.services.clear();
    idle.generation = Some(Generation(0));
    idle.agent[2] = unit("nodelet", "idle");

    let mut put_back = good(Role::Worker);
    put_back.state = Overall::Retrying;
    let fault = Fault::new(
        FaultCode::UpgradeFailed,
        "this node is not on stack pf9-kube 1.37.2-1",
        "the node was not healthy on it within 300 s",
    )
    .fix("see /var/log/pf9/kube/kube.log for what it waited for, then start the upgrade again");
    put_back.reason = Some(fault.clone().next_try(at("10:00:12")));
    if let Some(node) = &mut put_back.node {
        node.upgrade = Some(UpgradeStatus {
            roll: RollId(uuid::Uuid::nil()),
            stage: UpgradeStage::Node,
            stack: StackRef {
                version: "1.37.2-1".into(),
                ..stack()
            },
            state: UpgradeState::PutBack,
            attempts: 2,
            fault: Some(fault),
            since: at("09:40:00"),
            os: None,
        });
    }

    let mut resting = good(Role::Worker);
    resting.state = Overall::Maintenance;
    let left = "left as it is: start kubelet (pf9-kubelet.service is not running)";
    resting.reason = Some(maintenance().fault(Some(left)));
    resting.services[1] = unit("kubelet", "stopped");
    if let Some(node) = &mut resting.node {
        node.maintenance = Some(maintenance());
    }

    vec![
        ("status-ok.txt", good(Role::Master)),
        ("status-maintenance.txt", resting),
        ("status-put-back.txt", put_back),
        ("status-converging.txt", converging),
        ("status-retrying.txt", retrying),
        ("status-offline.txt", offline),
        ("status-agent-down.txt", down),
        ("status-certificate-expired.txt", expired),
        ("status-idle.txt", idle),
        ("status-one-session-down.txt", halved),
        ("status-repaired.txt", repaired()),
    ]
}

#[test]
fn status_screens_are_the_reviewed_ones() {
    for (name, report) in screens() {
        golden(name, &report.screen(WIDTH).text(false));
        let json = serde_json::to_value(&report).expect("json");
        schema::check("status.json", &json);
    }
    let (_, ok) = screens().swap_remove(0);
    let json = serde_json::to_string_pretty(&ok).expect("json");
    golden("status-ok.json", &format!("{json}\n"));
}

/// One screen is one screen: a master with everything on it fits a common terminal.
#[test]
fn a_status_fits_one_screen() {
    for (name, report) in screens() {
        let text = report.screen(WIDTH).text(false);
        let lines = text.lines().count();
        assert!(lines <= 46, "{name} has {lines} lines");
        let widest = text.lines().map(|l| l.chars().count()).max();
        assert!(widest <= Some(WIDTH), "{name} is {widest:?} wide");
    }
}

/// What is wider than the terminal has one word that is: a path, an address.
pub(super) fn fits(name: &str, text: &str, width: usize) {
    for line in text.lines() {
        let long = line.rsplit(' ').next().unwrap_or_default();
        let without = line.strip_suffix(long).unwrap_or_default().trim_end();
        let is_word = long.chars().count() > 25 && without.chars().count() <= width;
        let fits = line.chars().count() <= width || is_word;
        assert!(fits, "{name} at {width} columns: {line}");
    }
}

#[test]
fn a_status_fits_a_narrow_terminal() {
    for (name, report) in screens() {
        for width in [60, 72, 80] {
            fits(name, &report.screen(width).text(false), width);
        }
    }
}

#[test]
fn check_screens_are_the_reviewed_ones() {
    let rig = Rig::new();
    let mut facts = MachineFacts::read(&rig.host, 0, at("10:00:00")).expect("facts");
    facts.arch = "x86_64".into();
    facts.disks = vec![Disk {
        paths: vec![
            "/opt/pf9/stacks",
            "/var/lib/pf9",
            "/var/opt/pf9",
            "/var/log/pf9",
        ],
        total: 100 << 30,
        available: 61 << 30,
        inodes: None,
    }];
    // What this machine's own file systems can is no matter here.
    facts.overlay_trial = OverlayTrial::Works;
    facts.programs.insert("systemctl".into());
    facts.mounts_shared = Some(true);
    facts.port_range = ("32768 60999".into(), String::new());
    let skips = Skips::parse(&["clock=it is tried elsewhere".to_owned()]).expect("skips");
    let report = |facts: &MachineFacts| Report::of_machine(facts, &skips);
    golden(
        "check-node-good.txt",
        &report(&facts).screen(WIDTH).text(false),
    );
    facts.swaps = vec!["/dev/sda2".into()];
    facts.cpus = 1;
    golden(
        "check-node-bad.txt",
        &report(&facts).screen(WIDTH).text(false),
    );
    for width in [60, 72, 80] {
        fits("check", &report(&facts).screen(width).text(false), width);
    }
}

#[test]
fn plan_screens_are_the_reviewed_ones() {
    use crate::nodelet::plan::{PlanWords, StepWords, Waits};
    let (first, second) = (PhaseId::ALL[3], PhaseId::ALL[4]);
    let step = |phase, what: &str, why: &str| StepWords {
        phase,
        what: what.into(),
        why: why.into(),
    };
    let some = PlanWords {
        steps: vec![
            step(
                first,
                "write /etc/pf9/containerd/config.toml",
                "mode is 0600, not 0644",
            ),
            step(second, "start pf9-containerd.service", "it is missing"),
            step(
                second,
                "wait until the container runtime answers",
                "what it checks is being restarted",
            ),
        ],
        waits: Some(Waits {
            phase: PhaseId::ALL[5],
            what: "the download of stack pf9-kube 1.36.3-1".into(),
        }),
        api_address: None,
        maintenance: Some(maintenance()),
    };
    let none = PlanWords {
        steps: Vec::new(),
        waits: None,
        api_address: Some(ApiAddressStatus {
            address: "10.1.0.250".parse().expect("ip"),
            here: false,
            interface: Some("eth0".into()),
            holder: Some("master-2".into()),
            since: None,
            fault: None,
        }),
        maintenance: None,
    };
    let screen = |plan| super::super::plan::Plan(plan).screen(WIDTH).text(false);
    golden("plan-some.txt", &screen(some));
    golden("plan-none.txt", &screen(none));
}

#[test]
fn the_way_to_the_plane_is_shown_hop_by_hop() {
    let passed = |rows: &[(Hop, u64, &str)]| {
        let row = |(hop, took_us, found): &(Hop, u64, &str)| Passed {
            hop: *hop,
            took_us: *took_us,
            found: (*found).to_owned(),
        };
        rows.iter().map(row).collect()
    };
    let hops = [
        (Hop::ProxyResolve, 1210, "10.0.0.5"),
        (Hop::ProxyConnect, 380, "10.0.0.5:3128"),
        (Hop::ProxyTunnel, 24_100, "to plane.example:443"),
        (Hop::Tls, 31_900, "TLS 1.3"),
        (
            Hop::Websocket,
            12_300,
            "it knows this host and accepts tunnels",
        ),
    ];
    let fault = Fault::new(
        FaultCode::ProxyDenies,
        "cannot connect to wss://other.example/v1/tunnel",
        "the proxy http://proxy.corp:3128 does not connect to other.example:443: it answered 403 Forbidden",
    )
    .fix("have the proxy's administrator allow CONNECT to the plane's name and port");
    let report = TestReport {
        proxy: "http://proxy.corp:3128".parse().ok(),
        tries: vec![
            Trial {
                endpoint: "wss://plane.example/v1/tunnel".into(),
                passed: passed(&hops),
                failed: None,
                fault: None,
                took_us: 69_890,
            },
            Trial {
                endpoint: "wss://other.example/v1/tunnel".into(),
                passed: passed(&hops[..2]),
                failed: Some(Hop::ProxyTunnel),
                fault: Some(fault),
                took_us: 9000,
            },
        ],
    };
    golden("proxy-test.txt", &report.screen(WIDTH).text(false));
}

#[test]
fn help_is_the_reviewed_one() {
    let mut root = super::super::args::command().term_width(WIDTH);
    let version = crate::model::document::AGENT_VERSION;
    golden("help.txt", &root.render_help().to_string());
    root.build();
    let help = |name: String, verb: &clap::Command| {
        let mut verb = verb.clone().term_width(WIDTH);
        let text = verb.render_long_help().to_string();
        golden(&name, &text.replace(version, "VERSION"));
    };
    for verb in root.get_subcommands() {
        help(format!("help-{}.txt", verb.get_name()), verb);
        // "help" of a verb with verbs of its own repeats them.
        for inner in verb.get_subcommands().filter(|v| v.get_name() != "help") {
            if verb.get_name() != "help" {
                help(
                    format!("help-{}-{}.txt", verb.get_name(), inner.get_name()),
                    inner,
                );
            }
        }
    }
}
