//! A stack that does not fit, on machines that run one: refused before anything is changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::demo::{
    NODES, Outcome, agent_is_ok, cluster, eventually, kubectl, plane, ready_through_plane, shell,
    up,
};

/// Download, unpacking and a pass.
const SOON: Duration = Duration::from_secs(180);

/// What must not change: processes of the node's services, the stack, the pod.
fn running(node: &str) -> Outcome<String> {
    shell(
        node,
        "systemctl show -p Id,InvocationID 'pf9-*.service' | grep -v -e nodeletd -e '^$'; \
         readlink /opt/pf9/stacks/current; ls -A /opt/pf9/stacks",
    )
}

fn hello(node: &str) -> Outcome<String> {
    let path = "jsonpath={.metadata.uid} {.status.containerStatuses[0].restartCount}";
    kubectl(&["get", "pod", &format!("hello-{node}"), "-o", path])
}

/// Two stacks that import and cannot run: a kubelet for another processor, and one with another version than its
/// manifest's. Every node refuses each while it prepares, so that the upgrade does not start, keeps what it has, and
/// continues when it is cancelled.
#[test]
fn dc_a_stack_that_does_not_fit_changes_nothing() -> Outcome {
    up()?;
    let before = [running(NODES[0])?, running(NODES[1])?];
    // Masters take no workloads.
    let pod = hello(NODES[1])?;
    let cluster = cluster()?;
    let own = shell(NODES[0], "readlink /opt/pf9/stacks/current")?;
    let own = own.trim().strip_prefix("pf9-kube-").unwrap_or_default();
    let kubernetes = own.split('-').next().unwrap_or_default().to_owned();
    for (name, bend, words) in [
        (
            "elsewhere",
            as_another_processor as fn(&Path) -> Outcome,
            "it is built for",
        ),
        ("other", as_another_version, "the manifest says"),
    ] {
        let made = bent(&kubernetes, name, bend)?;
        let version = format!("{kubernetes}-{name}");
        plane(&["stack", "import", &made.to_string_lossy()])?;
        // The demo's own pods have no controller.
        let despite = ["--despite", "pods-without-controller"];
        plane(
            &[
                &["cluster", "upgrade", &cluster, "--to", &version][..],
                &despite,
            ]
            .concat(),
        )?;
        for node in NODES {
            eventually(&format!("{node} refuses {version}"), SOON, || {
                let text = shell(node, "pf9ctl status --json || :")?;
                let status: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
                let said = &status["node"]["upgrade"];
                let fault = said["fault"].to_string();
                let all = ["stack-program", "bin/kubelet", words];
                match said["state"] == "refused" && all.iter().all(|w| fault.contains(w)) {
                    true => Ok(()),
                    false => Err(status["node"].to_string()),
                }
            })?;
            ready_through_plane(node)?;
        }
        // It stops for that within minutes: a node may have been busy.
        eventually("the upgrade says who refuses, and why", SOON, || {
            let said = plane(&["cluster", "upgrade", &cluster, "status"])?;
            match said.contains("refused") && said.contains("bin/kubelet") {
                true => Ok(()),
                false => Err(said),
            }
        })?;
        assert_eq!(
            before,
            [running(NODES[0])?, running(NODES[1])?],
            "{version}"
        );
        assert_eq!(pod, hello(NODES[1])?, "{version}");
        plane(&["cluster", "upgrade", &cluster, "cancel"])?;
        for node in NODES {
            eventually(&format!("{node} goes on"), SOON, || agent_is_ok(node))?;
        }
        assert_eq!(
            before,
            [running(NODES[0])?, running(NODES[1])?],
            "after {version}"
        );
        fs::remove_dir_all(made).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// A stack made from the files of the running one, with a modified kubelet.
fn bent(kubernetes: &str, name: &str, bend: fn(&Path) -> Outcome) -> Outcome<PathBuf> {
    let root = tempfile::tempdir().map_err(|e| e.to_string())?.keep();
    let files = root.join("files");
    let from = crate::demo::machine_dir(NODES[0]).join("root/opt/pf9/stacks/current");
    let from = fs::canonicalize(&from).map_err(|e| format!("{}: {e}", from.display()))?;
    for folder in ["bin", "cni", "images"] {
        let to = files.join(folder);
        fs::create_dir_all(&to).map_err(|e| e.to_string())?;
        for entry in fs::read_dir(from.join(folder)).map_err(|e| e.to_string())? {
            let entry = entry.map_err(|e| e.to_string())?;
            fs::copy(entry.path(), to.join(entry.file_name())).map_err(|e| e.to_string())?;
        }
    }
    bend(&files.join("bin/kubelet"))?;
    let manifest = fs::read_to_string(from.join(".manifest.json")).map_err(|e| e.to_string())?;
    let components = components(&manifest)?;
    fs::write(files.join("components.json"), components).map_err(|e| e.to_string())?;
    let out = root.join("out");
    let made = std::process::Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/stack"))
        .args(["from-dir"])
        .arg(&files)
        .args([
            "--version",
            &format!("{kubernetes}-{name}"),
            "--kubernetes",
            kubernetes,
            "--out",
        ])
        .arg(&out)
        .output()
        .map_err(|e| e.to_string())?;
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).into_owned());
    }
    fs::remove_dir_all(&files).map_err(|e| e.to_string())?;
    Ok(out)
}

fn as_another_processor(kubelet: &Path) -> Outcome {
    let mut bytes = fs::read(kubelet).map_err(|e| e.to_string())?;
    bytes[18] = if cfg!(target_arch = "x86_64") {
        183
    } else {
        62
    };
    fs::write(kubelet, bytes).map_err(|e| e.to_string())
}

fn as_another_version(kubelet: &Path) -> Outcome {
    fs::write(kubelet, "#!/bin/sh\necho Kubernetes v1.35.1\n").map_err(|e| e.to_string())
}

/// The versions in the signed manifest of the active stack.
fn components(envelope: &str) -> Outcome<String> {
    use base64::Engine as _;
    let envelope: Value = serde_json::from_str(envelope).map_err(|e| e.to_string())?;
    let payload = envelope["payload"].as_str().unwrap_or_default();
    let payload = base64::engine::general_purpose::STANDARD.decode(payload);
    let payload = payload.map_err(|e| e.to_string())?;
    let manifest: Value = serde_json::from_slice(&payload).map_err(|e| e.to_string())?;
    let list = manifest["components"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let all: serde_json::Map<String, Value> = list
        .into_iter()
        .filter_map(|c| Some((c["name"].as_str()?.to_owned(), c["version"].clone())))
        .collect();
    serde_json::to_string(&all).map_err(|e| e.to_string())
}
