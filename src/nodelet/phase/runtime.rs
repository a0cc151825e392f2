//! containerd: its configuration and unit (order 40), running and answering (order 45).
//!
//! | file | what |
//! |---|---|
//! | `config` | the configuration, by schema, and its trial |
//!
//! Root, state, socket, CNI directories and runc's state are the node's own: a Docker or containerd
//! that is already on the machine is neither used nor disturbed.

mod config;

pub(super) use config::trial;

use std::time::Duration;

use crate::model::paths;
use crate::nodelet::step::{Probe, Step};

use super::env::EnvText;
use super::render::{
    Inputs, PRIVATE_DIR, PROGRAM, PUBLIC, PUBLIC_DIR, UnitText, dir, file, oneshot, probe,
    shared_dir, unit, yaml,
};
use super::{PhaseContext, Steps, Wait, layout};
use config::{as_meant, config};

/// containerd loads its metadata and reconnects to every shim before it answers.
const START: Duration = Duration::from_secs(120);
/// The CRI refuses questions for a moment after the runtime answers others.
const SAYS: Duration = Duration::from_secs(30);

pub(super) fn configure(ctx: &PhaseContext) -> Steps {
    let mut steps = vec![
        shared_dir(layout::DATA_DIR, PUBLIC_DIR),
        dir(paths::CONTAINERD_ROOT, PRIVATE_DIR),
        dir(layout::CONTAINERD_DIR, PUBLIC_DIR),
        dir(layout::CONTAINERD_REGISTRIES, PUBLIC_DIR),
    ];
    for (registry, endpoints) in &ctx.node.runtime.mirrors {
        let folder = format!(
            "{}/{}",
            layout::CONTAINERD_REGISTRIES,
            registry_dir(registry)
        );
        steps.push(dir(folder.clone(), PUBLIC_DIR));
        let text = hosts_toml(registry, endpoints);
        steps.push(file(format!("{folder}/hosts.toml"), text, PUBLIC));
    }
    steps.extend(drop_ins(ctx));
    steps.extend([
        file(layout::CONTAINERD_CONFIG, config(ctx)?, PUBLIC),
        file(
            layout::unit_file(layout::CONTAINERD_UNIT),
            unit_text(ctx),
            PUBLIC,
        ),
        file(layout::CONTAINERD_SHUTDOWN, shutdown(), PROGRAM),
        file(
            layout::unit_file(layout::PODS_UNIT),
            pods_unit_text(ctx),
            PUBLIC,
        ),
        file(layout::CRICTL_CONFIG, crictl(), PUBLIC),
        file(layout::NODE_ENV, node_env(ctx)?, PUBLIC),
    ]);
    Ok(steps)
}

pub(super) fn start(ctx: &PhaseContext) -> Steps {
    let mut inputs = Inputs::new()
        .add("unit", &unit_text(ctx))
        .add("config", &config(ctx)?)
        .add_digest("program", ctx.program("bin/containerd"));
    let mut read = vec![layout::CONTAINERD_CONFIG.to_owned()];
    for (name, text) in &ctx.drop_ins.files {
        inputs = inputs.add(name, text);
        read.push(drop_in(name));
    }
    let read: Vec<&str> = read.iter().map(String::as_str).collect();
    Ok(vec![
        unit(layout::CONTAINERD_UNIT, inputs, &read),
        oneshot(
            layout::PODS_UNIT,
            Inputs::new().add("unit", &pods_unit_text(ctx)),
            &[],
        ),
        probe(Probe::RuntimeReady, START),
        probe(as_meant(ctx), SAYS),
    ])
}

/// Copies of the drop-ins that the spec allows, beside our file. containerd reads only these, so that what is left in
/// the spec's directory changes nothing before it was tried, not even when the runtime is started by a boot. Copies of
/// deleted drop-ins are removed.
fn drop_ins(ctx: &PhaseContext) -> Vec<Step> {
    let there = &ctx.drop_ins;
    let mut steps = Vec::new();
    if !there.files.is_empty() {
        steps.push(dir(layout::CONTAINERD_DROP_INS, PUBLIC_DIR));
    }
    for (name, text) in &there.files {
        steps.push(file(drop_in(name), text.clone(), PUBLIC));
    }
    let stale = there
        .copies
        .iter()
        .filter(|name| !there.files.contains_key(*name));
    steps.extend(stale.map(|name| Step::Absent {
        path: drop_in(name),
    }));
    steps
}

fn drop_in(name: &str) -> String {
    format!("{}/{name}", layout::CONTAINERD_DROP_INS)
}

fn unit_text(ctx: &PhaseContext) -> String {
    UnitText::new("Container runtime of the Kubernetes node")
        .set("Documentation", "https://containerd.io")
        .set("After", "network.target local-fs.target dbus.service")
        // A node comes back by itself, however often it takes.
        .set("StartLimitIntervalSec", "0")
        .section("Service")
        .set("Type", "notify")
        .set("Environment", &PhaseContext::service_path())
        .command(
            &layout::bin("containerd"),
            &[format!("--config={}", layout::CONTAINERD_CONFIG)],
        )
        .set("Delegate", "yes")
        // Containers outlive a restart of the runtime.
        .set("KillMode", "process")
        .set("Restart", "always")
        .set("RestartSec", "2")
        .set("LimitNOFILE", "1048576")
        .set("LimitNPROC", "infinity")
        .set("LimitCORE", "infinity")
        .set("TasksMax", "infinity")
        .set_if(ctx.facts.can_lower_oom_score, "OOMScoreAdjust", "-999")
        .wanted_at_boot()
}

/// A unit that is there for its end: what starts last stops first, so the containers go while the
/// runtime, the network and etcd are there (an API server ends quickly only while its etcd is). These
/// do not wait for each other because of it when the machine starts.
fn pods_unit_text(ctx: &PhaseContext) -> String {
    let mut after = vec![layout::CONTAINERD_UNIT, layout::NETWORK_UNIT];
    if ctx.is_master() {
        after.push(layout::ETCD_UNIT);
    }
    UnitText::new("Containers of the Kubernetes node, ended in order when the machine goes down")
        .set("After", &after.join(" "))
        .section("Service")
        .set("Type", "oneshot")
        .set("RemainAfterExit", "yes")
        .set("ExecStop", &format!("-{}", layout::CONTAINERD_SHUTDOWN))
        .set("TimeoutStopSec", "60")
        .wanted_at_boot()
}

/// When the machine shuts down nothing else ends the containers: it would wait the full time-out for each that ignores
/// `SIGTERM`. kubelet stops meanwhile, and is waited for: it would start them again.
fn shutdown() -> String {
    let ctr = layout::bin("ctr");
    let socket = paths::CONTAINERD_SOCKET;
    let kubelet = layout::KUBELET_UNIT;
    format!(
        r#"#!/bin/sh
# Written by pf9-nodeletd; changes are undone.
# Ends the containers when the machine goes down; does nothing when only this unit stops.
set -u
PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
[ "$(systemctl is-system-running)" = stopping ] || exit 0

ctr() {{ {ctr} --address {socket} --namespace k8s.io "$@"; }}

# Whether kubelet starts nothing any more.
kubelet_rests() {{
  case "$(systemctl is-active {kubelet})" in inactive|failed|unknown) ;; *) return 1 ;; esac
}}

# Process ids of the running containers that a filter names.
running() {{
  ids=$(ctr containers list --quiet "$1")
  ctr tasks list | while read -r id pid state _; do
    case "$state:$ids" in RUNNING:*"$id"*) echo "$pid" ;; esac
  done
}}

# The first process of a container does not get a SIGTERM that it does not catch.
catches() {{
  while read -r key mask; do
    if [ "$key" = SigCgt: ]; then
      [ $((0x${{mask#????????????}} & 0x4000)) -ne 0 ]
      return
    fi
  done < "/proc/$1/status" 2>/dev/null
  return 1
}}

# Asks them to end, and ends those that have not after some tenths of a second.
end() {{
  tenths=$2 left=
  for pid in $(running "$1"); do
    if catches "$pid"; then
      kill -TERM "$pid" && left="$left $pid"
    else
      kill -KILL "$pid"
    fi
  done
  while [ -n "$left" ] && [ "$tenths" -gt 0 ]; do
    sleep 0.1
    tenths=$((tenths - 1))
    still=
    for pid in $left; do
      kill -0 "$pid" 2>/dev/null && still="$still $pid"
    done
    left=$still
  done
  for pid in $left; do
    kill -KILL "$pid"
  done
}}

tenths=100
until kubelet_rests || [ "$tenths" -eq 0 ]; do
  sleep 0.1
  tenths=$((tenths - 1))
done
kind='labels."io.cri-containerd.kind"'
name='labels."io.kubernetes.container.name"'
end "$kind==container,$name!=kube-apiserver" 300
# It listens no more after a moment, but would wait a minute for those who watch it.
end "$kind==container" 30
end "$kind==sandbox" 10
exit 0
"#
    )
}

/// `hosts.toml` of one registry: the mirrors in order, then the registry itself.
fn hosts_toml(registry: &str, endpoints: &[String]) -> String {
    // The name people use for Docker's registry is not the host that serves it.
    let server = if registry == "docker.io" {
        "registry-1.docker.io"
    } else {
        registry
    };
    let mut text = format!(
        "# Written by pf9-nodeletd; changes are undone.\nserver = {}\n",
        quoted(&format!("https://{server}"))
    );
    for endpoint in endpoints {
        text.push_str(&format!(
            "\n[host.{}]\ncapabilities = [\"pull\", \"resolve\"]\n",
            quoted(endpoint)
        ));
    }
    text
}

/// A registry's name as one directory name: whatever a spec says, it stays below its parent.
fn registry_dir(registry: &str) -> String {
    let name: String = registry
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | ':' | '_' => c,
            _ => '_',
        })
        .collect();
    if name.trim_matches('.').is_empty() {
        "_".into()
    } else {
        name
    }
}

/// A TOML basic string; JSON's escapes are valid in it.
fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

fn crictl() -> String {
    let endpoint = format!("unix://{}", paths::CONTAINERD_SOCKET);
    yaml(&serde_json::json!({
        "runtime-endpoint": endpoint,
        "image-endpoint": endpoint,
        "timeout": 10,
    }))
}

fn node_env(ctx: &PhaseContext) -> Result<String, Wait> {
    let socket = format!("unix://{}", paths::CONTAINERD_SOCKET);
    let kubeconfig = if ctx.is_master() { "admin" } else { "nodelet" };
    let head = format!(
        "# For people: `set -a; . {}; set +a`: ctr, crictl and kubectl then mean this node.\n",
        layout::NODE_ENV
    );
    let mut file = EnvText::with_head(&head)
        .path_first(layout::BIN)
        .set("CONTAINERD_ADDRESS", paths::CONTAINERD_SOCKET)
        .set("CONTAINERD_NAMESPACE", "k8s.io")
        .set("CRI_CONFIG_FILE", layout::CRICTL_CONFIG)
        .set("CONTAINER_RUNTIME_ENDPOINT", &socket)
        .set("KUBECONFIG", &layout::kubeconfig(kubeconfig));
    if ctx.is_master() {
        file = super::etcd::client_env(file);
    }
    Ok(file.text()?)
}

/// Where containerd's CNI library keeps results, whatever the configuration.
pub(super) fn cni_cache() -> [Step; 2] {
    [
        shared_dir("/var/lib/cni", PRIVATE_DIR),
        dir("/var/lib/cni/results", PRIVATE_DIR),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_cannot_leave_its_directory() {
        assert_eq!(
            registry_dir("registry.example:5000"),
            "registry.example:5000"
        );
        assert_eq!(registry_dir("../../etc"), ".._.._etc");
        assert_eq!(registry_dir(".."), "_");
        let text = hosts_toml("docker.io", &["https://m\"]\n[x".into()]);
        let table: toml::Table = text.parse().expect("valid TOML");
        assert_eq!(
            table["server"].as_str(),
            Some("https://registry-1.docker.io")
        );
        assert_eq!(table["host"].as_table().map(|t| t.len()), Some(1));
    }
}
