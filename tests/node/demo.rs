//! The demo as the tests use it: `scripts/demo`, and commands on its machines.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub(crate) type Outcome<T = ()> = Result<T, String>;

/// Machines of every test.
pub(crate) const NODES: [&str; 2] = ["master-1", "worker-1"];

/// Brings the demo up, if it is not.
pub(crate) fn up() -> Outcome<String> {
    demo(&["up", "--masters", "1", "--workers", "1"])
}

/// Runs `scripts/demo` and returns what it printed.
pub(crate) fn demo(args: &[&str]) -> Outcome<String> {
    finished(command(args), args)
}

/// A running `scripts/demo`.
pub(crate) fn start(args: &[&str]) -> Outcome<std::process::Child> {
    command(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("scripts/demo: {e}"))
}

/// Runs a shell command on a machine.
pub(crate) fn shell(node: &str, script: &str) -> Outcome<String> {
    demo(&["shell", node, "sh", "-c", script])
}

/// Kubernetes' answer, through the plane.
pub(crate) fn kubectl(args: &[&str]) -> Outcome<String> {
    let mut words = vec!["kubectl"];
    words.extend(args);
    demo(&words)
}

/// `pf9-plane` of the demo's plane.
pub(crate) fn plane(args: &[&str]) -> Outcome<String> {
    let mut command = Command::new(state().join("bin/pf9-plane"));
    command
        .args(args)
        .arg("--state-dir")
        .arg(state().join("plane"));
    finished(command, args)
}

/// The demo's only cluster, by its `pf9-plane` name.
pub(crate) fn cluster() -> Outcome<String> {
    let list = plane(&["cluster", "list", "--json"])?;
    let list: Value = serde_json::from_str(&list).map_err(|e| e.to_string())?;
    let id = list[0]["uuid"].as_str().ok_or("no cluster")?;
    Ok(id.to_owned())
}

/// The demo's directory for the state of a machine.
pub(crate) fn machine_dir(node: &str) -> PathBuf {
    state().join("nodes").join(node)
}

/// The demo's directory.
pub(crate) fn state() -> PathBuf {
    let state = std::env::var("PF9_DEMO_STATE").unwrap_or_else(|_| "/var/lib/pf9-demo".into());
    PathBuf::from(state)
}

/// Polls until `check` succeeds; its last error is the failure.
pub(crate) fn eventually(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> Outcome,
) -> Outcome {
    let begun = Instant::now();
    loop {
        match check() {
            Ok(()) => {
                println!("{what}: after {:.1} s", begun.elapsed().as_secs_f32());
                return Ok(());
            }
            Err(why) if begun.elapsed() >= limit => {
                return Err(format!("{what}: not within {limit:?}: {why}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(500)),
        }
    }
}

/// Whether the node object was written by this boot's kubelet and is Ready. `source` answers `kubectl get node -o
/// json`.
pub(crate) fn is_ready(node: &str, source: impl Fn() -> Outcome<String>) -> Outcome {
    let boot = shell(node, "cat /proc/sys/kernel/random/boot_id")?;
    let object: Value = serde_json::from_str(&source()?).map_err(|e| e.to_string())?;
    let seen = object["status"]["nodeInfo"]["bootID"].as_str();
    if seen != Some(boot.trim()) {
        return Err(format!("kubelet of this boot has not reported ({seen:?})"));
    }
    let ready = object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["type"] == "Ready");
    match ready {
        Some(c) if c["status"] == "True" => Ok(()),
        Some(c) => Err(format!("{}: {}", c["reason"], c["message"])),
        None => Err("no Ready condition".into()),
    }
}

/// [`is_ready`] as seen through plane and tunnel.
pub(crate) fn ready_through_plane(node: &str) -> Outcome {
    is_ready(node, || {
        kubectl(&["get", "node", node, "-o", "json", "--request-timeout=10s"])
    })
}

/// [`is_ready`] as seen on the master itself, without plane and tunnel. A raw request: any other `kubectl get` leaves a
/// discovery cache in the home directory of the machine's root, which is not ours.
pub(crate) fn ready_on_master(node: &str) -> Outcome {
    is_ready(node, || {
        shell(
            "master-1",
            &format!(
                "/opt/pf9/stacks/current/bin/kubectl --kubeconfig={ADMIN_KUBECONFIG} \
                 get --raw /api/v1/nodes/{node} --request-timeout=10s"
            ),
        )
    })
}

/// The administrator's kubeconfig that nodelet writes on masters.
const ADMIN_KUBECONFIG: &str = "/etc/pf9/kube.d/kubeconfigs/admin.yaml";

/// The role's state is `ok`. Without the plane `pf9ctl status` exits with a code of its own, which does not matter
/// here.
pub(crate) fn agent_is_ok(node: &str) -> Outcome {
    let text = shell(node, "pf9ctl status --json || :")?;
    let status: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    match status.pointer("/node/state").and_then(Value::as_str) {
        Some("ok") => Ok(()),
        _ => Err(format!("pf9ctl status: {}", not_ok(&status))),
    }
}

/// The state, and the phases that have not converged.
fn not_ok(status: &Value) -> Value {
    let node = &status["node"];
    let phases = node["phases"].as_array().into_iter().flatten();
    let others: Vec<&Value> = phases.filter(|p| p["state"] != "running").collect();
    json!({"state": node["state"], "phases": others, "warnings": status["warnings"]})
}

/// `scripts/demo` with these arguments.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/demo"));
    // Cargo's environment for its children would make the release build of `up` a different one.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG")
            || text.starts_with("CARGO_BIN")
            || text.starts_with("NEXTEST")
            || [
                "CARGO",
                "CARGO_MANIFEST_DIR",
                "CARGO_CRATE_NAME",
                "LD_LIBRARY_PATH",
            ]
            .contains(&&*text)
        {
            command.env_remove(&name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

fn finished(mut command: Command, args: &[&str]) -> Outcome<String> {
    let output = command.output().map_err(|e| format!("scripts/demo: {e}"))?;
    said(output, args)
}

/// Output of a finished `scripts/demo`, or why it failed.
pub(crate) fn said(output: Output, args: &[&str]) -> Outcome<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!(
        "scripts/demo {}: {}\n{text}{}",
        args.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    ))
}
