use super::plane::{Manner, Plane};
use super::*;
use crate::model::{
    DocumentKind, Envelope, Farewell, FaultCode, Generation, HostId, NodeState, NodeStatus,
    PhaseId, PhaseState, PhaseStatus, Role, TrustStore, paths,
};

fn node(role: Role, state: NodeState, revision: u64) -> NodeStatus {
    NodeStatus {
        revision,
        generation: Generation(3),
        role,
        state,
        phases: vec![PhaseStatus {
            id: PhaseId::ALL[0],
            name: PhaseId::ALL[0].name().into(),
            order: PhaseId::ALL[0].order(),
            state: PhaseState::Running,
            message: None,
            started_at: None,
            took_ms: None,
        }],
        current_step: Some("stop pf9-kubelet.service".into()),
        ..NodeStatus::default()
    }
}

/// A prepared machine with a role, and its files.
fn prepared() -> Rig {
    let rig = Rig::new();
    crate::identity::write_host_id(&rig.host, HostId::random()).expect("id");
    for path in [
        paths::HOST_KEY,
        "/etc/pf9/trust/k.json",
        "/etc/pf9/kube.d/kubelet/config.yaml",
        "/etc/systemd/system/pf9-kubelet.service",
        "/var/opt/pf9/hostagent/spec.json",
        "/var/log/pf9/kube/kube.log",
    ] {
        rig.file(path, "x");
    }
    for unit in super::super::context::AGENT_UNITS {
        rig.unit(unit, &["enabled", "active"]);
    }
    rig
}

impl Rig {
    /// nodelet that removes the role when told: three looks later its files are gone.
    fn nodelet(&self) {
        let looks = Shared::new(None::<u32>);
        let host = self.host.clone();
        self.serve(paths::NODELET_SOCKET, move |request| {
            match (request.method.as_str(), request.path.as_str()) {
                ("PUT", "/v1/assignment-none") => {
                    looks.set(Some(0));
                    Reply::empty()
                }
                ("GET", "/v1/status") => match looks.get() {
                    None => ok_json(&node(Role::Worker, NodeState::Ok, 1)),
                    Some(n) if n < 3 => {
                        looks.set(Some(n + 1));
                        ok_json(&node(Role::Worker, NodeState::Converging, 2 + u64::from(n)))
                    }
                    Some(_) => {
                        host.remove_file("/etc/systemd/system/pf9-kubelet.service")
                            .expect("remove");
                        ok_json(&node(Role::None, NodeState::Ok, 9))
                    }
                },
                _ => Reply::not_found(&request.path),
            }
        });
    }

    fn plane_hears(&self) -> Shared<Vec<String>> {
        let heard = Shared::new(Vec::new());
        let tell = heard.clone();
        self.serve(paths::PLANE_SOCKET, move |request| {
            let mut all = tell.get();
            all.push(format!("{} {}", request.method, request.path));
            tell.set(all);
            Reply::empty()
        });
        heard
    }
}

#[tokio::test]
async fn the_way_back_leaves_the_package_and_nothing_else() {
    let rig = prepared();
    rig.nodelet();
    let heard = rig.plane_hears();
    let ran = rig.run(&["decommission-node", "--yes"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    golden("decommission.txt", &ran.text);
    assert_eq!(heard.get(), ["POST /v1/hosts/self/leave"]);
    let ours: Vec<_> = rig
        .files()
        .into_keys()
        .filter(|p| p.to_string_lossy().contains("pf9"))
        .collect();
    assert_eq!(
        ours,
        [
            PathBuf::from("etc/pf9/hostagent.toml"),
            "opt/pf9/agent/current/bin/pf9-comms".into()
        ]
    );
    assert!(!rig.host.at("/run/pf9ctl.lock").exists());
    for unit in super::super::context::AGENT_UNITS {
        assert!(
            !rig.unit_is(unit, "enabled") && !rig.unit_is(unit, "active"),
            "{unit}"
        );
    }
    let calls = rig.calls();
    let at = |call: &str| {
        calls
            .find(call)
            .unwrap_or_else(|| panic!("{call}: {calls}"))
    };
    assert!(
        at("stop pf9-hostagent.service") < at("disable pf9-comms.service"),
        "no new spec may come while the role is removed: {calls}"
    );
}

/// A directory and files of a person's, mounted over what is ours: the machine is clean nevertheless.
#[tokio::test]
async fn what_others_mounted_over_ours_is_kept_and_named() {
    let rig = prepared();
    rig.nodelet();
    let theirs = [
        "/etc/pf9/kube.d/kubelet/config.yaml",
        "/etc/sysctl.d/90-pf9-kubernetes.conf",
        "/var/lib/pf9/deep/theirs",
    ];
    rig.file(theirs[1], "x");
    rig.file(&format!("{}/precious", theirs[2]), "x");
    let list = theirs.map(|at| format!("1 2 0:1 / {at} rw - ext4 x rw\n"));
    rig.file("/proc/self/mountinfo", &list.concat());
    let ran = rig.run(&["decommission-node", "--yes", "--local"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    let text = unwrapped(&ran.text);
    assert!(
        text.contains(" CLEAN ") && !text.contains("NOT CLEAN"),
        "{text}"
    );
    for at in theirs {
        assert!(
            text.contains(&format!("{at} is yours and is kept")),
            "{text}"
        );
        assert!(rig.host.at(at).exists(), "{at}");
    }
    assert!(rig.host.at("/var/lib/pf9/deep/theirs/precious").exists());
    assert!(!rig.host.at("/etc/pf9/trust/k.json").exists());
}

/// On one line: where a line breaks depends on how long a temporary directory's name is.
fn unwrapped(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

#[tokio::test]
async fn a_plane_that_is_away_does_not_hold_it_up() {
    let rig = prepared();
    rig.nodelet();
    let ran = rig.run(&["decommission-node", "--yes"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    // It has no certificate to name in a farewell.
    let text = unwrapped(&ran.text);
    for words in ["the plane could not be told", "pf9-plane host remove"] {
        assert!(text.contains(words), "{words}: {text}");
    }

    let rig = prepared();
    rig.nodelet();
    let heard = rig.plane_hears();
    let ran = rig.run(&["decommission-node", "--yes", "--local"]).await;
    assert_eq!((ran.exit, heard.get().len()), (Exit::Ok, 0), "{}", ran.text);
}

/// The identity goes, so what the plane is to hear later is signed before: for the certificate that the host had.
#[tokio::test]
async fn what_the_plane_could_not_be_told_is_kept_signed_and_outlives_the_rest() {
    for (how, leaves) in [
        (&["--local-only"][..], true),
        (&[], true),
        // As a package that is removed.
        (&["--no-farewell"], false),
    ] {
        let rig = Rig::new();
        let plane = Plane::start(Manner::Accept).await;
        rig.daemons_are_up();
        let ran = rig.prep(&plane.url, &plane.token, &[]).await;
        assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
        let id = crate::identity::host_id(&rig.host).expect("id");
        let id = id.expect("a host");
        let root = crate::identity::order_key::load(&rig.host, id).expect("key");
        let trust = TrustStore::new([root.public()]).expect("trust");
        let certificate = crate::identity::certificate(&rig.host).expect("read");
        let path = format!("/root/pf9-farewell-{id}.json");

        let line = ["node", "decommission", "--local-only", "--dry-run"];
        let ran = rig.run(&line).await;
        assert!(ran.text.contains(&path), "announced: {}", ran.text);
        assert!(!rig.host.at(&path).exists());
        let line = ["node", "decommission", "--yes"];
        let line: Vec<&str> = line.iter().chain(how).copied().collect();
        let ran = rig.run(&line).await;
        assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
        assert!(!rig.host.at(paths::ORDER_KEY).exists());
        assert_eq!(rig.host.at(&path).exists(), leaves, "{how:?}");
        let said = unwrapped(&ran.text);
        if !leaves {
            assert!(said.contains("pf9-plane host remove"), "{said}");
            continue;
        }
        for words in [path.as_str(), "pf9-plane host farewell FILE"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        let text = rig.host.read_text(&path, 4096).expect("read");
        let signed: Envelope = serde_json::from_str(&text.expect("written")).expect("signed");
        let said: Farewell = signed
            .open(DocumentKind::Farewell, &trust)
            .expect("by root of the host");
        assert_eq!((said.host_id, Some(said.certificate)), (id, certificate));
    }
}

/// Killed at any point after root's order: a boot does not bring hostagent back, with what would make
/// the machine a node again.
#[tokio::test]
async fn while_the_role_goes_hostagent_does_not_start_at_boot() {
    let rig = prepared();
    let seen = Shared::new(Vec::new());
    let (tell, host) = (seen.clone(), rig.host.clone());
    let looks = Shared::new(0_u64);
    rig.serve(paths::NODELET_SOCKET, move |request| {
        if request.method.as_str() == "PUT" {
            looks.set(1);
            return Reply::empty();
        }
        let n = looks.get();
        if n > 0 {
            let enabled = host.at("/units/pf9-hostagent.service.enabled").exists();
            tell.set([tell.get(), vec![enabled]].concat());
            looks.set(n + 1);
        }
        ok_json(&node(Role::Worker, NodeState::Converging, n))
    });
    let ran = rig
        .run(&["decommission-node", "--yes", "--wait", "1"])
        .await;
    assert_eq!(ran.exit, Exit::Failed, "{}", ran.text);
    let seen = seen.get();
    assert!(
        !seen.is_empty() && seen.iter().all(|enabled| !enabled),
        "{seen:?}"
    );
    for state in ["enabled", "active"] {
        assert!(
            rig.unit_is("pf9-hostagent.service", state),
            "given up: {state}"
        );
    }
}

/// Nobody waits with nodelet for a quorum that may be away for days; what it waits for is said, and what
/// would not wait.
#[tokio::test]
async fn a_master_that_others_need_is_named_at_once_and_goes_by_force() {
    let rig = prepared();
    let orders = Shared::new(Vec::new());
    let heard = orders.clone();
    rig.serve(paths::NODELET_SOCKET, move |request| {
        if request.method.as_str() == "PUT" {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            heard.set([heard.get(), vec![body]].concat());
            return Reply::empty();
        }
        if heard.get().is_empty() {
            return ok_json(&node(Role::Master, NodeState::Ok, 1));
        }
        let mut held = node(Role::None, NodeState::Retrying, 2);
        let what = "this master stays: etcd would lose its quorum";
        let fault = Fault::new(FaultCode::EtcdQuorum, what, "no answer from m3").fix("--force");
        held.reason = Some(fault);
        ok_json(&held)
    });
    let ran = rig.run(&["decommission-node", "--yes"]).await;
    assert_eq!(ran.exit, Exit::Failed, "{}", ran.text);
    for words in ["no answer from m3", "--force"] {
        assert!(ran.text.contains(words), "{words}: {}", ran.text);
    }
    assert!(
        rig.unit_is("pf9-hostagent.service", "active"),
        "nothing else was touched"
    );
    let ran = rig
        .run(&["decommission-node", "--yes", "--force", "--wait", "1"])
        .await;
    assert_eq!(ran.exit, Exit::Failed, "it waits for what is done now");
    assert_eq!(orders.get(), [r#"{"force":false}"#, r#"{"force":true}"#]);
}

#[tokio::test]
async fn a_role_that_stays_stops_everything_else() {
    let rig = prepared();
    rig.serve(paths::NODELET_SOCKET, |request| {
        match request.method.as_str() {
            "PUT" => Reply::empty(),
            _ => {
                let mut status = node(Role::Worker, NodeState::Retrying, 1);
                let why = "/var/lib/pf9/kubelet/pods/x is busy";
                status.reason = Some(
                    Fault::new(FaultCode::Internal, "cannot unmount", why).fix("end what uses it"),
                );
                ok_json(&status)
            }
        }
    });
    let heard = rig.plane_hears();
    let files = rig.files();
    let ran = rig
        .run(&["decommission-node", "--yes", "--wait", "1"])
        .await;
    assert_eq!(ran.exit, Exit::Failed, "{}", ran.text);
    for words in [
        "the role is not removed yet",
        "nodelet continues until the role is gone",
        "pods/x is busy",
        "end what uses it",
    ] {
        assert!(ran.text.contains(words), "{words}: {}", ran.text);
    }
    assert_eq!((rig.files(), heard.get().len()), (files, 0));
    assert!(
        rig.unit_is("pf9-hostagent.service", "active"),
        "it runs again"
    );
}

#[tokio::test]
async fn a_refusal_keeps_nodelets_words() {
    let rig = prepared();
    rig.serve(paths::NODELET_SOCKET, |request| {
        match request.method.as_str() {
            "PUT" => no(
                FaultCode::HostAttached,
                "an installation is at a step that cannot be left",
            ),
            _ => ok_json(&node(Role::Worker, NodeState::Ok, 1)),
        }
    });
    let ran = rig.run(&["decommission-node", "--yes"]).await;
    assert_eq!(ran.exit, Exit::Failed);
    assert!(
        ran.text.contains("at a step that cannot be left"),
        "{}",
        ran.text
    );
}

#[tokio::test]
async fn what_is_left_is_listed_and_is_a_failure() {
    let rig = prepared();
    rig.nodelet();
    rig.file("/etc/sysctl.d/10-pf9-tuning.conf", "a person's, perhaps");
    rig.file("/sys/class/net/pf9cni0/mtu", "1500");
    let ran = rig.run(&["decommission-node", "--yes"]).await;
    assert_eq!(ran.exit, Exit::Failed, "{}", ran.text);
    assert!(ran.text.contains("   NOT CLEAN\n"), "{}", ran.text);
    for left in ["/etc/sysctl.d/10-pf9-tuning.conf", "link pf9cni0"] {
        let line = format!("left         {left}");
        assert!(ran.text.contains(&line), "{line}: {}", ran.text);
    }
}

/// What nodelet's ledger did not know of goes anyway where it is ours by its exact name: the
/// link that makes nodelet start at boot, links of units whose files are gone, settings.
#[tokio::test]
async fn what_is_ours_by_name_goes_without_a_ledger() {
    use crate::host::ours::paths::{MODULES_FILE, NODELET_AT_BOOT, SYSCTL_FILE};
    let rig = prepared();
    rig.nodelet();
    let wants = "/etc/systemd/system/multi-user.target.wants";
    let links = [
        NODELET_AT_BOOT.to_owned(),
        format!("{wants}/pf9-kubelet.service"),
    ];
    for link in &links {
        rig.host.link(link, "/lib/systemd/system/x").expect("link");
    }
    for file in [SYSCTL_FILE, MODULES_FILE] {
        rig.file(file, "x");
    }
    rig.file(&format!("{wants}/docker.service"), "theirs");
    let ran = rig.run(&["decommission-node", "--yes"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert_eq!(rig.host.list(wants).expect("list"), ["docker.service"]);
    for file in [SYSCTL_FILE, MODULES_FILE] {
        assert!(!rig.host.at(file).exists(), "{file}");
    }
}

/// A write that power or a signal cut off leaves its temporary file; none of them is in the way.
#[tokio::test]
async fn interrupted_writes_leave_nothing_behind() {
    let rig = prepared();
    rig.nodelet();
    let temp = |name: &str| format!(".pf9-tmp-41-100-0-{name}.tmp");
    for dir in [
        "/etc/pf9",
        "/etc/pf9/conf.d",
        "/etc/pf9/kube.d/certs/admin",
        "/etc/systemd/system",
        "/etc/systemd/system/multi-user.target.wants",
        "/etc/sysctl.d",
        "/etc/modules-load.d",
        "/opt/pf9/stacks",
        "/var/opt/pf9",
    ] {
        rig.file(&format!("{dir}/{}", temp("pf9-kubelet.service")), "half");
    }
    let ran = rig.run(&["decommission-node", "--yes"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    let files = rig.files().into_keys();
    let left: Vec<_> = files
        .filter(|p| p.to_string_lossy().contains("pf9-tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn nobody_to_ask_means_no() {
    let rig = prepared();
    let files = rig.files();
    for (line, why) in [
        (&["decommission-node"][..], "no terminal"),
        (&["node", "decommission", "--no-prompt"], "prompts are off"),
    ] {
        let ran = rig.run(line).await;
        assert_eq!(ran.exit, Exit::Usage, "{}", ran.text);
        assert!(
            ran.text.contains(why) && ran.text.contains("give --yes"),
            "{}",
            ran.text
        );
        assert_eq!(rig.files(), files);
    }
}

#[tokio::test]
async fn a_bare_machine_is_clean_already() {
    let rig = Rig::new();
    std::fs::remove_dir(rig.host.at("/run/pf9")).expect("bare");
    let ran = rig.run(&["decommission-node", "--yes"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert!(ran.text.contains("no role to remove"), "{}", ran.text);
}

/// What is shown before is what goes, and looking takes nothing away.
#[tokio::test]
async fn a_dry_run_takes_nothing_away_and_names_everything_that_goes_then() {
    let mut rig = prepared();
    rig.json = true;
    rig.nodelet();
    rig.plane_hears();
    let before = rig.files();
    let calls = rig.calls();
    let ran = rig.run(&["decommission-node", "--dry-run", "--json"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    let going: serde_json::Value = serde_json::from_str(&ran.text).expect("json");
    assert_eq!(rig.files(), before);
    let asked = rig.calls().split_off(calls.len());
    assert!(
        !asked.contains("stop") && !asked.contains("disable"),
        "{asked}"
    );
    assert_eq!(going["role"], true);
    let said = |key: &str, what: &str| {
        going[key]
            .as_array()
            .is_some_and(|all| all.iter().any(|w| w == what))
    };
    for unit in super::super::context::AGENT_UNITS {
        assert!(said("units", unit), "{unit}: {going:#}");
    }
    let ran = rig.run(&["decommission-node", "--yes", "--json"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    let done: serde_json::Value = serde_json::from_str(&ran.text).expect("json");
    let removed = done["removed"].as_array().expect("removed");
    assert!(removed.len() > 3, "{removed:?}");
    for path in removed {
        assert!(
            said("paths", path.as_str().expect("path")),
            "{path} was not announced"
        );
    }
    // Paths that are gone without being announced.
    let ours = |path: &PathBuf| format!("/{}", path.display());
    let after = rig.files();
    for gone in before.keys().filter(|p| !after.contains_key(*p)).map(ours) {
        let announced = going["paths"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|p| p.as_str());
        assert!(
            announced.into_iter().any(|p| gone.starts_with(p)),
            "{gone} was not announced"
        );
    }
}
