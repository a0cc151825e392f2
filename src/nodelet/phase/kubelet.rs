//! kubelet: configuration (`config`), flags (`flags`), unit, health; on masters the static pods before it (order 80).
//! A setting of one Kubernetes minor asks `version`.
//!
//! The static pods are written here, after their images are in the runtime and etcd is healthy, not
//! with the kubeconfigs: on an upgrade kubelet would start them the moment they are written. The API server's
//! is there when kubelet starts; those of its clients follow with their images on a new master, and are there
//! before on one that had them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::host::ours::ports::{KUBELET, KUBELET_HEALTH};
use crate::model::{CertPurpose, paths};
use crate::nodelet::step::trial::TRIAL_ROOT;
use crate::nodelet::step::{Probe, Step, TrialStep};

use super::kubeconfigs::Kubeconfig;
use super::render::{PUBLIC, PUBLIC_DIR, UnitText, dir, file, probe, shared_dir, unit, yaml};
use super::{PhaseContext, Steps, control_plane, layout, reload, trials};

/// How long kubelet caches an authorization. Its own default of five minutes is how long a removed master could go on;
/// every reader of logs and metrics costs one question this often.
const AUTHORIZED_FOR: &str = "30s";
/// kubelet asks the runtime about every container before it is healthy.
const HEALTHY: Duration = Duration::from_secs(120);

pub(super) fn steps(ctx: &PhaseContext) -> Steps {
    let (unit_text, config) = (unit_text(ctx), yaml(&config(ctx)));
    let inputs = ctx
        .service_inputs(&unit_text, "bin/kubelet")
        .add("config", &config)
        .add("kubeconfig", &Kubeconfig::Kubelet.text(ctx))
        // A node that was attached again without a removal shows a refused certificate until kubelet
        // restarts: client-go keeps it for five minutes.
        .add("uid", &ctx.node.uid.map_or_else(String::new, String::from));
    let shown = [CertPurpose::KubeletServer, CertPurpose::KubeletClient];
    let inputs = reload::inputs(inputs, ctx, &shown);
    let mut steps = directories();
    steps.push(dir(layout::KUBELET_DIR, PUBLIC_DIR));
    steps.push(file(layout::KUBELET_CONFIG, config, PUBLIC));
    if ctx.is_master() {
        steps.extend(control_plane::steps(ctx)?);
        if ctx.facts.client_manifests {
            steps.extend(control_plane::clients(ctx)?);
        }
    }
    let unit_file = layout::unit_file(layout::KUBELET_UNIT);
    steps.push(file(unit_file, unit_text, PUBLIC));
    let kubeconfig = Kubeconfig::Kubelet.path();
    let read = [layout::KUBELET_CONFIG, kubeconfig.as_str()];
    steps.push(unit(layout::KUBELET_UNIT, inputs, &read));
    steps.push(probe(Probe::KubeletHealthy, HEALTHY));
    if ctx.is_master() && !ctx.facts.client_manifests {
        steps.extend(control_plane::clients(ctx)?);
    }
    Ok(steps)
}

/// Own data, and the places that kubelet writes to whatever its configuration.
fn directories() -> Vec<Step> {
    vec![
        dir(paths::KUBELET_ROOT, 0o750),
        // What is in it is world-writable, so that every pod can write: the directory keeps others out.
        dir(layout::VOLUMES, 0o700),
        shared_dir("/var/lib/kubelet", PUBLIC_DIR),
        dir("/var/lib/kubelet/device-plugins", 0o750),
        dir("/var/log/pods", PUBLIC_DIR),
        dir("/var/log/containers", PUBLIC_DIR),
    ]
}

fn unit_text(ctx: &PhaseContext) -> String {
    // Not etcd: an API server waits for it by itself, and what else kubelet does need not.
    let after = format!(
        "network-online.target {} {}",
        layout::CONTAINERD_UNIT,
        layout::NETWORK_UNIT
    );
    UnitText::new("kubelet of the Kubernetes node")
        .set("Documentation", "https://kubernetes.io/docs/")
        .set("After", &after)
        .set(
            "Wants",
            &format!("network-online.target {}", layout::CONTAINERD_UNIT),
        )
        .set("StartLimitIntervalSec", "0")
        .section("Service")
        .set("Type", "notify")
        .set("Environment", &PhaseContext::service_path())
        .command(
            &layout::bin("kubelet"),
            &flags(ctx, layout::KUBELET_CONFIG, paths::KUBELET_ROOT),
        )
        .set("Restart", "always")
        .set("RestartSec", "2")
        .set("LimitNOFILE", "1048576")
        .set("TasksMax", "infinity")
        // kubelet looks itself up among the accounted groups.
        .set("CPUAccounting", "yes")
        .set("MemoryAccounting", "yes")
        .set_if(ctx.facts.can_lower_oom_score, "OOMScoreAdjust", "-999")
        .wanted_at_boot()
}

/// Whether kubelet takes what it is going to be started with. It ends at an invalid port, before it
/// sends any request.
pub(super) fn trial(ctx: &PhaseContext) -> TrialStep {
    const PORT: &str = "invalid configuration: healthzPort (--healthz-port) -1 must be between 1 and \
                        65535, inclusive";
    let mut config = config(ctx);
    config["healthzPort"] = json!(-1);
    let args = flags(ctx, &format!("{TRIAL_ROOT}/config.yaml"), TRIAL_ROOT);
    let files = BTreeMap::from([("config.yaml".to_owned(), yaml(&config))]);
    trials::stopped(ctx, "kubelet", args, files, &[PORT])
}

fn flags(ctx: &PhaseContext, config: &str, root: &str) -> Vec<String> {
    let node = &ctx.node;
    vec![
        format!("--config={config}"),
        format!("--kubeconfig={}", Kubeconfig::Kubelet.path()),
        format!("--root-dir={root}"),
        format!("--cert-dir={root}/pki"),
        format!("--hostname-override={}", node.node_name),
        format!("--node-ip={}", node.node_ip),
        "--v=2".to_owned(),
    ]
}

fn endpoint() -> String {
    format!("unix://{}", paths::CONTAINERD_SOCKET)
}

fn config(ctx: &PhaseContext) -> Value {
    let node = &ctx.node;
    let serving = CertPurpose::KubeletServer;
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ctx.any_address(),
        "port": KUBELET,
        "readOnlyPort": 0,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": KUBELET_HEALTH,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": layout::ca(serving)},
        },
        // A caller keeps its access for this long after the right was removed.
        "authorization": {"mode": "Webhook", "webhook": {"cacheAuthorizedTTL": AUTHORIZED_FOR}},
        "tlsCertFile": layout::cert(serving),
        "tlsPrivateKeyFile": layout::key(serving),
        "tlsMinVersion": "VersionTLS12",
        // Certificates come from the plane, for keys that nodelet made.
        "rotateCertificates": false,
        "serverTLSBootstrap": false,
        "cgroupDriver": ctx.cgroup_driver().word(),
        "clusterDomain": node.network.cluster_domain,
        "clusterDNS": node.dns_service_ip().into_iter().collect::<Vec<_>>(),
        "resolvConf": ctx.facts.resolv_conf,
        "failSwapOn": !node.kubelet.allow_swap,
        "memorySwap": {"swapBehavior": swap(ctx)},
        // A pod that asks for nothing has the runtime's profile, as on other distributions.
        "seccompDefault": !node.kubelet.seccomp_unconfined,
        // A node that has no range of its own in the API learns that it is Ready only with its next
        // look at itself. It speaks up only when something changed.
        "nodeStatusUpdateFrequency": "5s",
        "nodeStatusReportFrequency": "5m",
        "containerRuntimeEndpoint": endpoint(),
        "maxPods": node.kubelet.max_pods,
        "oomScoreAdj": ctx.oom_score(-999),
        "volumePluginDir": format!("{}/volumeplugins", paths::KUBELET_ROOT),
        "containerLogMaxSize": "10Mi",
        "containerLogMaxFiles": 5,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "5%",
            "nodefs.inodesFree": "5%",
            "imagefs.available": "5%",
        },
    });
    if ctx.is_master() {
        config["staticPodPath"] = layout::MANIFESTS.into();
    }
    let taints = ctx.taints();
    if !taints.is_empty() {
        config["registerWithTaints"] = taints.iter().map(|t| taint_object(t)).collect();
    }
    if !ctx.facts.cgroup_v2 {
        // True by default since 1.35: such a machine would end kubelet.
        config["failCgroupV1"] = false.into();
    }
    if let Some(ids) = node.kubelet.ids_per_pod {
        config["userNamespaces"] = json!({"idsPerPod": ids});
    }
    if !node.feature_gates.is_empty() {
        config["featureGates"] = json!(node.feature_gates);
    }
    config
}

/// With control groups of version 1 kubelet ends at the other word, and it does so after its trial: there
/// pods use none, and the status says so (`policies`).
fn swap(ctx: &PhaseContext) -> &'static str {
    if ctx.node.kubelet.pods_swap && ctx.facts.cgroup_v2 {
        "LimitedSwap"
    } else {
        "NoSwap"
    }
}

/// `key=value:Effect` as an object.
fn taint_object(text: &str) -> Value {
    let (key_value, effect) = text.rsplit_once(':').unwrap_or((text, "NoSchedule"));
    let (key, value) = key_value.split_once('=').unwrap_or((key_value, ""));
    json!({"key": key, "value": value, "effect": effect})
}
