//! Rendered files and step lists, compared byte for byte with `tests/golden/phases/<case>/`; and
//! what holds for every context. What restarts when: `restarts`; what others of the machine have: `ground`.
//!
//! `PF9_BLESS=1 cargo test golden` rewrites them; the diff is the review.

use crate::model::FaultCode;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::{PhaseContext, PhaseSteps, all, layout, removal, samples, steps};
use crate::host::etcd::Member;
use crate::host::ours::paths as ours;
use crate::model::*;
use crate::nodelet::step::Step;

mod ground;
mod restarts;
mod trials;

fn cases() -> Vec<(&'static str, PhaseContext)> {
    let mut three = samples::master("1.36.3");
    three.node.etcd.members = (1..=3)
        .map(|n| EtcdMember {
            host_id: samples::host(n),
            ip: format!("10.99.0.{}", 10 + n).parse().expect("address"),
            joins: false,
        })
        .collect();
    three.node.etcd.heartbeat_ms = Some(250);
    three.node.etcd.quota_bytes = Some(4 << 30);
    three.node.etcd.election_ms = Some(2500);
    three.node.etcd.revoked = Some(samples::revoked());
    three.node.refused_uids = vec![samples::uid(8), samples::uid(9)];
    three.node.service_account_keys = vec!["-----BEGIN PUBLIC KEY-----\nother\n".into()];
    three.node.network.peers = vec![
        samples::peer("10.99.0.13", "10.244.3.0/24"),
        samples::peer("10.99.0.12", "10.244.2.0/24"),
    ];
    three.node.runtime.mirrors = BTreeMap::from([(
        "docker.io".into(),
        vec!["https://mirror.example.com".into()],
    )]);

    let mut own_network = samples::worker("1.36.3");
    own_network.node.network.plugin = NetworkPlugin::None;
    own_network.node.kubelet.allow_swap = true;

    let mut v6 = samples::master("1.37.2");
    v6.node.node_ip = "fd00:99::11".parse().expect("address");
    v6.node.api.host = "fd00:99::11".into();
    v6.node.pod_cidr = "fd00:244:0:1::/64".parse().expect("network");
    v6.node.network.pods_cidr = "fd00:244::/48".parse().expect("network");
    v6.node.network.services_cidr = "fd00:96::/108".parse().expect("network");
    v6.node.network.peers = vec![samples::peer("fd00:99::51", "fd00:244:0:2::/64")];
    v6.node.etcd.members[0].ip = v6.node.node_ip;
    v6.node.allow_workloads_on_master = true;

    let mut late = samples::master("1.36.3");
    late.node.etcd.members[0].joins = true;
    late.node.etcd.members.push(EtcdMember {
        host_id: samples::host(2),
        ip: "10.99.0.12".parse().expect("address"),
        joins: false,
    });

    let mut fresh = samples::worker("1.37.2");
    fresh.material.clear();

    vec![
        ("master-1.37-restricted", samples::master("1.37.2")),
        ("worker-1.37-restricted", samples::worker("1.37.2")),
        ("worker-1.37-without-certificates", fresh),
        ("master-1.36-one-of-three", samples::ordinary(three)),
        ("master-1.36-that-joins", samples::ordinary(late)),
        ("worker-1.36-own-network", samples::ordinary(own_network)),
        ("worker-1.34-cgroup-v1", samples::worker("1.34.4")),
        ("master-1.37-ipv6", samples::ordinary(v6)),
    ]
}

/// All steps, also those that can be done while a phase waits.
fn flat(phases: &[PhaseSteps]) -> Vec<&Step> {
    phases
        .iter()
        .flat_map(|p| match &p.steps {
            Ok(steps) => steps,
            Err(wait) => &wait.meanwhile,
        })
        .collect()
}

fn listing(ctx: &PhaseContext) -> String {
    let mut text = String::new();
    for phase in all(ctx) {
        text.push_str(&(format!("{} {}", phase.id.order(), phase.id) + "\n"));
        let list = match &phase.steps {
            Ok(list) => list,
            Err(wait) => {
                text.push_str(&(format!("  waits for {}", wait.what) + "\n"));
                &wait.meanwhile
            }
        };
        for step in list {
            text.push_str(&(format!("  {}", line(step)) + "\n"));
        }
    }
    text.push_str("removal\n");
    for step in removal(ctx, false) {
        text.push_str(&(format!("  {}", line(&step)) + "\n"));
    }
    text
}

/// One step in one line; a file's content is a file of its own.
fn line(step: &Step) -> String {
    match step {
        Step::File(f) => format!("file {} {:04o} {}", f.path, f.mode, f.owner),
        other => serde_json::to_string(other).expect("JSON"),
    }
}

/// After a later master nobody founds, not even a founder that lost its data; a joining master uses the members' own
/// list.
#[test]
fn who_joins_names_whom_the_members_name() {
    let mut ctx = samples::master("1.36.3");
    let (own, other) = (samples::host(1), samples::host(2));
    let founds = |ctx: &PhaseContext| {
        let founds = |s: &&Step| matches!(s, Step::File(f) if f.path == layout::ETCD_CLUSTER_ENV);
        flat(&all(ctx)).iter().any(founds)
    };
    assert!(founds(&ctx));
    ctx.node.etcd.members.push(EtcdMember {
        host_id: other,
        ip: "10.99.0.12".parse().expect("address"),
        joins: true,
    });
    assert!(!founds(&ctx));
    let member = |name: &str, ip: &str| Member {
        id: "7".into(),
        name: name.into(),
        peer_urls: vec![format!("https://{ip}:2380")],
        client_urls: Vec::new(),
        is_learner: name.is_empty(),
    };
    let members = [
        member(&own.to_string(), "10.99.0.11"),
        member("", "10.99.0.12"),
        member("", "10.99.0.99"),
    ];
    let joining = super::joining_settings(&ctx, &members).expect("good names");
    let line = format!(
        "ETCD_INITIAL_CLUSTER={own}=https://10.99.0.11:2380,{other}=https://10.99.0.12:2380,\
         7=https://10.99.0.99:2380\n"
    );
    assert!(joining.contains(&line), "{joining}");
    assert!(joining.contains("CLUSTER_STATE=existing\n"), "{joining}");
    assert!(super::settings_join(&joining));
    let founding = joining.replace("existing", "new");
    assert!(!super::settings_join(&founding));
    // What the others say is not taken for a name.
    for name in [
        "a=https://10.9.9.9:2380,b",
        "a\nETCD_FORCE_NEW_CLUSTER=true",
        "a,b",
    ] {
        let bad = [member(name, "10.99.0.11")];
        super::joining_settings(&ctx, &bad).expect_err(name);
    }
}

/// Pods ask where the DNS is, in every kind of services network.
#[test]
fn add_ons_and_kubelet_mean_the_same_dns() {
    for (services, server) in [
        ("10.96.0.0/16", "10.96.0.10"),
        ("10.0.255.240/28", "10.0.255.250"),
        ("fd00:96::/108", "fd00:96::a"),
        ("fd00:96::fff0/124", "fd00:96::fffa"),
    ] {
        let mut ctx = samples::master("1.37.2");
        ctx.node.network.services_cidr = services.parse().expect("network");
        ctx.node.network.cluster_domain = "k8s.example".into();
        let phases = all(&ctx);
        let text = |path: &str| {
            flat(&phases)
                .into_iter()
                .find_map(|s| match s {
                    Step::File(f) if f.path == path => Some(f.content.clone()),
                    _ => None,
                })
                .expect("the file")
        };
        let kubelet: serde_json::Value =
            serde_saphyr::from_str(&text(layout::KUBELET_CONFIG)).expect("YAML");
        assert_eq!(kubelet["clusterDNS"], serde_json::json!([server]));
        assert_eq!(kubelet["clusterDomain"], "k8s.example");
        let object = |kind: &str| {
            flat(&phases)
                .into_iter()
                .find_map(|s| match s {
                    Step::Object { object } if object["kind"] == kind => Some(object),
                    _ => None,
                })
                .expect("the object")
        };
        assert_eq!(object("Service")["spec"]["clusterIP"], server);
        let corefile = object("ConfigMap")["data"]["Corefile"].to_string();
        assert!(
            corefile.contains("kubernetes k8s.example in-addr.arpa"),
            "{corefile}"
        );
        assert!(!listing(&ctx).contains("__DNS__"), "a placeholder is left");
    }
}

#[test]
fn a_services_network_without_a_tenth_address_is_named() {
    for services in ["10.96.0.0/29", "fd00:96::/125"] {
        let mut ctx = samples::master("1.37.2");
        if services.contains(':') {
            ctx.node.node_ip = "fd00:99::11".parse().expect("address");
            ctx.node.etcd.members[0].ip = ctx.node.node_ip;
            ctx.node.pod_cidr = "fd00:244:0:1::/64".parse().expect("network");
            ctx.node.network.pods_cidr = "fd00:244::/48".parse().expect("network");
        }
        ctx.node.network.services_cidr = services.parse().expect("network");
        let spec = Spec {
            schema: SPEC_SCHEMA,
            host_id: ctx.host_id,
            generation: Generation(1),
            issued_at: ctx.now,
            assignment: Assignment::Master(Box::new(ctx.node.clone())),
            force: false,
            agent: None,
            maintenance: None,
        };
        let fault = spec.validate(ctx.host_id).expect_err("refused");
        assert_eq!(fault.code, FaultCode::SpecInvalid);
        assert!(fault.why.contains("has no tenth address"), "{fault}");
        let wait = steps(PhaseId::Addons, &ctx).expect_err("nothing is applied");
        assert!(wait.what.contains(services), "{}", wait.what);
    }
}

#[test]
fn files_and_steps_are_the_reviewed_ones() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/phases");
    let bless = std::env::var_os("PF9_BLESS").is_some();
    if bless && root.exists() {
        std::fs::remove_dir_all(&root).expect("remove");
    }
    let mut wrong = Vec::new();
    let mut written = BTreeSet::new();
    for (case, ctx) in cases() {
        let mut files = BTreeMap::from([(root.join(case).join("steps.txt"), listing(&ctx))]);
        for step in flat(&all(&ctx)) {
            if let Step::File(f) = step {
                let path = format!("{}/files{}", case, f.path);
                files.insert(root.join(path), f.content.clone());
            }
        }
        for (path, text) in files {
            if bless {
                std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
                std::fs::write(&path, &text).expect("write");
            }
            match std::fs::read_to_string(&path) {
                Ok(have) if have == text => {}
                Ok(_) => wrong.push(format!("{} differs", path.display())),
                Err(e) => wrong.push(format!("{}: {e}", path.display())),
            }
            written.insert(path);
        }
    }
    let mut there = BTreeSet::new();
    walk(&root, &mut there);
    wrong.extend(
        there
            .difference(&written)
            .map(|p| format!("{} is no longer rendered", p.display())),
    );
    assert!(
        wrong.is_empty(),
        "{}\nPF9_BLESS=1 writes them anew",
        wrong.join("\n")
    );
}

fn walk(dir: &Path, out: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("directory") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            walk(&path, out);
        } else {
            out.insert(path);
        }
    }
}

/// Contexts of every kind.
fn contexts() -> impl Strategy<Value = PhaseContext> {
    let flags = proptest::collection::vec(any::<bool>(), 10);
    (34u64..38, flags, 0usize..4, "[ -~]{1,20}").prop_map(|(minor, flags, peers, odd)| {
        let version = format!("1.{minor}.3");
        let mut ctx = if flags[0] {
            samples::master(&version)
        } else {
            samples::worker(&version)
        };
        if flags[1] {
            ctx = samples::ordinary(ctx);
        }
        ctx.node.allow_workloads_on_master = flags[2];
        ctx.node.kubelet.allow_swap = flags[3];
        ctx.facts.cgroup_v2 = flags[4];
        if flags[5] {
            ctx.node.network.plugin = NetworkPlugin::None;
        }
        if flags[6] {
            ctx.material.clear();
        }
        if flags[7] {
            ctx.manifest = None;
        }
        ctx.stack_at_hand = flags[8];
        ctx.node.network.peers = (0..peers)
            .map(|n| samples::peer(&format!("10.99.0.{}", 60 + n), &format!("10.244.{n}.0/24")))
            .collect();
        if flags[9] {
            // Text of people that reaches files.
            ctx.node.runtime.mirrors = BTreeMap::from([(odd.clone(), vec![odd.clone()])]);
            ctx.node.labels.insert(odd.clone(), odd);
        }
        ctx
    })
}

/// Where a step writes.
fn path(step: &Step) -> Option<&str> {
    match step {
        Step::File(f) => Some(&f.path),
        Step::Dir(d) => Some(&d.path),
        Step::Link { path, .. } | Step::Absent { path } => Some(path),
        Step::EtcdJoined { settings, .. } | Step::EtcdFounds { settings, .. } => Some(settings),
        Step::Key { .. }
        | Step::ServiceAccountKey
        | Step::Unpacked { .. }
        | Step::Tried(_)
        | Step::EtcdDataReady { .. }
        | Step::Stack { .. }
        | Step::Module { .. }
        | Step::Sysctl { .. }
        | Step::Image { .. }
        | Step::Unit(_)
        | Step::Probe(_)
        | Step::Object { .. }
        | Step::AddonGone { .. }
        | Step::PolicyRulesGone
        | Step::Uncordon { .. }
        | Step::Drain { .. }
        | Step::EtcdMemberGone { .. }
        | Step::EtcdMemberOut { .. }
        | Step::EtcdAddress { .. }
        | Step::EtcdNoted
        | Step::EtcdStack { .. }
        | Step::StackOnDisk { .. }
        | Step::EtcdVotes { .. }
        | Step::UnitGone { .. }
        | Step::ContainersGone
        | Step::NetworkGone { .. }
        | Step::PodNetwork { .. }
        | Step::HostPorts { .. }
        | Step::TunnelledBy { .. }
        | Step::ProxyRules { .. }
        | Step::ProxyRulesGone { .. }
        | Step::OsUpdate { .. }
        | Step::Reboot { .. } => None,
    }
}

/// Everything a phase writes is known to those who take it away: as ours, or as a directory of
/// others that is removed only where the ledger says that we made it.
fn may_write(path: &str) -> bool {
    // Parents of such directories; and what outlives the role, as logs do.
    const SHARED: [&str; 3] = ["/var/lib/kubelet", "/var/lib/cni", paths::API_AUDIT_DIR];
    let clean = path.split('/').all(|part| part != "." && part != "..");
    clean && (ours::ours_if_made(path) || SHARED.contains(&path))
}

proptest! {
    #[test]
    fn steps_hold_what_every_phase_promises(ctx in contexts()) {
        let phases = all(&ctx);
        prop_assert_eq!(&phases, &all(&ctx.clone()), "the same context, the same steps");
        let listed = flat(&phases);
        let mut keys = BTreeSet::new();
        let mut made = BTreeSet::new();
        for step in &listed {
            if let Some(path) = path(step) {
                prop_assert!(may_write(path), "{} is not ours", path);
            }
            match step {
                Step::File(f) => {
                    let parent = f.path.rsplit_once('/').map(|(p, _)| p).unwrap_or_default();
                    prop_assert!(
                        made.contains(parent) || parent == "/etc/pf9" || !f.path.contains("pf9/"),
                        "nothing makes the directory of {}", f.path
                    );
                    prop_assert!(!f.content.contains("PRIVATE KEY"), "{}", f.path);
                    // No processes at all, for runc since 1.4; before, it meant no limit.
                    let squeezed: String = f.content.to_lowercase().split_whitespace().collect();
                    for none in ["pidslimit:0", "pids_limit=0", "pids.limit=0", "pids.max=0", "tasksmax=0"] {
                        prop_assert!(!squeezed.contains(none), "{} in {}", none, f.path);
                    }
                    if f.path.ends_with(".yaml") {
                        let parsed: Result<serde_json::Value, _> = serde_saphyr::from_str(&f.content);
                        prop_assert!(parsed.is_ok(), "{}: {:?}", f.path, parsed);
                    }
                    if f.path.ends_with(".toml") {
                        let parsed: Result<toml::Table, _> = f.content.parse();
                        prop_assert!(parsed.is_ok(), "{}: {:?}", f.path, parsed);
                    }
                }
                Step::Dir(d) => { made.insert(d.path.clone()); }
                Step::Unit(u) => for file in &u.restart_on {
                    let known = listed.iter().any(|s| path(s) == Some(file));
                    prop_assert!(known, "{} names {}, which no step writes", u.unit, file);
                },
                _ => {}
            }
            // Shared parents may be named by several phases; nothing else twice.
            let shared = matches!(step, Step::Dir(d) if !d.remove_with_content);
            prop_assert!(keys.insert(step.key()) || shared, "{} twice", step.key());
        }
    }

    #[test]
    fn a_worker_has_nothing_of_the_control_plane(minor in 34u64..38) {
        let ctx = samples::worker(&format!("1.{minor}.0"));
        for step in flat(&all(&ctx)) {
            let text = serde_json::to_string(step).expect("JSON");
            for word in ["etcd", "apiserver:", "staticPodPath", "system:masters", "admin"] {
                prop_assert!(!text.contains(word), "{} in {}", word, text);
            }
        }
    }
}

#[test]
fn control_groups_of_version_1_are_asked_for_only_where_they_are() {
    for release in ["1.34.4", "1.36.3", "1.37.2"] {
        let mut ctx = samples::master(release);
        for unified in [false, true] {
            ctx.facts.cgroup_v2 = unified;
            let text = serde_json::to_string(&steps(PhaseId::Kubelet, &ctx)).expect("JSON");
            assert_eq!(text.contains("failCgroupV1: false"), !unified, "{release}");
        }
    }
}
