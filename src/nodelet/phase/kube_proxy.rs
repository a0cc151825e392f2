//! kube-proxy: by what it makes services (`mode`), configuration, unit, health; and that nothing of the
//! way it does not use is left in the packet filter, nor of network policies that are off (order 90).

mod mode;

pub use mode::proxy_mode;

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::host::ours::ports::{KUBE_PROXY_HEALTH, KUBE_PROXY_METRICS};
use crate::model::{Addon, CertPurpose, NetworkPlugin, ProxyMode};
use crate::nodelet::step::trial::TRIAL_ROOT;
use crate::nodelet::step::{Probe, Step, TrialStep};

use super::kubeconfigs::Kubeconfig;
use super::render::{PUBLIC, PUBLIC_DIR, UnitText, dir, file, probe, unit, yaml};
use super::{PhaseContext, Steps, Wait, certs, layout, reload, trials};

/// The first writing of all rules of a large cluster.
const HEALTHY: Duration = Duration::from_secs(120);

pub(super) fn steps(ctx: &PhaseContext) -> Steps {
    let mode = proxy_mode(ctx)?.mode;
    let (unit_text, config) = (unit_text(ctx), yaml(&config(ctx, mode)));
    let inputs = ctx
        .service_inputs(&unit_text, "bin/kube-proxy")
        .add("config", &config)
        .add("kubeconfig", &Kubeconfig::KubeProxy.text(ctx));
    let inputs = reload::inputs(inputs, ctx, &[CertPurpose::KubeProxy]);
    let kubeconfig = Kubeconfig::KubeProxy.path();
    let read = [layout::KUBE_PROXY_CONFIG, kubeconfig.as_str()];
    let unit_file = layout::unit_file(layout::KUBE_PROXY_UNIT);
    let mut steps = vec![
        dir(layout::KUBE_PROXY_DIR, PUBLIC_DIR),
        file(layout::KUBE_PROXY_CONFIG, config, PUBLIC),
        file(unit_file, unit_text, PUBLIC),
        unit(layout::KUBE_PROXY_UNIT, inputs, &read),
    ];
    // Its health is that of what the API server tells it.
    if !certs::are_over(ctx) {
        steps.push(probe(Probe::KubeProxyHealthy, HEALTHY));
        let v6 = ctx.node.pod_cidr.addr().is_ipv6();
        steps.push(Step::ProxyRules { by: mode, v6 });
    }
    // It does so itself when it starts, as far as it can, and does not say what it left. Later than
    // its start, for until then services are made by what was there.
    steps.push(Step::ProxyRulesGone { of: mode.other() });
    steps.extend(policies_off(ctx)?.then_some(Step::PolicyRulesGone));
    // After kubelet, which says the address to what it starts.
    if ctx.node.network.plugin == NetworkPlugin::Flannel {
        let ip = ctx.node.node_ip;
        steps.push(Step::TunnelledBy { ip });
    }
    Ok(steps)
}

/// On a network that is not ours the same program may be another's, and its rules too.
fn policies_off(ctx: &PhaseContext) -> Result<bool, Wait> {
    let network = &ctx.node.network;
    let kept = network.has(Addon::NetworkPolicies, ctx.stack()?);
    Ok(network.plugin != NetworkPlugin::None && !kept)
}

fn unit_text(ctx: &PhaseContext) -> String {
    UnitText::new("kube-proxy of the Kubernetes node")
        .set("Documentation", "https://kubernetes.io/docs/")
        .set(
            "After",
            &format!("network-online.target {}", layout::NETWORK_UNIT),
        )
        .set("Wants", "network-online.target")
        .set("StartLimitIntervalSec", "0")
        .section("Service")
        .set("Environment", &PhaseContext::service_path())
        .command(
            &layout::bin("kube-proxy"),
            &flags(layout::KUBE_PROXY_CONFIG),
        )
        .set("Restart", "always")
        .set("RestartSec", "2")
        .set("LimitNOFILE", "65536")
        .set_if(ctx.facts.can_lower_oom_score, "OOMScoreAdjust", "-999")
        .wanted_at_boot()
}

fn flags(config: &str) -> Vec<String> {
    vec![format!("--config={config}"), "--v=2".into()]
}

/// Whether kube-proxy takes what it is going to be started with.
pub(super) fn trial(ctx: &PhaseContext) -> Result<TrialStep, Wait> {
    const SCORE: &str = "KubeProxyConfiguration.KubeProxyLinuxConfiguration.OOMScoreAdj: Invalid \
                         value: -5000: must be within the range [-1000, 1000]";
    let mut config = config(ctx, proxy_mode(ctx)?.mode);
    config["oomScoreAdj"] = json!(-5000);
    let args = flags(&format!("{TRIAL_ROOT}/config.yaml"));
    let files = BTreeMap::from([("config.yaml".to_owned(), yaml(&config))]);
    Ok(trials::stopped(ctx, "kube-proxy", args, files, &[SCORE]))
}

fn config(ctx: &PhaseContext, mode: ProxyMode) -> Value {
    let node = &ctx.node;
    let own = vec![IpNet::from(node.node_ip)];
    let node_ports = match node.kube_proxy.node_port_networks.as_slice() {
        // Its word `primary` is the same, once it has asked the API server for the node.
        [] => own,
        networks => networks.iter().map(IpNet::trunc).collect(),
    };
    let mut config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        // The node's own address: else kube-proxy waits for the node object to learn it.
        "bindAddress": node.node_ip,
        "healthzBindAddress": format!("127.0.0.1:{KUBE_PROXY_HEALTH}"),
        "metricsBindAddress": format!("127.0.0.1:{KUBE_PROXY_METRICS}"),
        "clientConnection": {"kubeconfig": Kubeconfig::KubeProxy.path()},
        "clusterCIDR": node.network.pods_cidr,
        "hostnameOverride": node.node_name,
        "mode": mode.word(),
        "nodePortAddresses": node_ports,
        "oomScoreAdj": ctx.oom_score(-999),
    });
    if !ctx.facts.conntrack_tunable {
        // Zero leaves the kernel's values; kube-proxy would end where it may not set its own.
        config["conntrack"] = json!({
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        });
    }
    if !node.feature_gates.is_empty() {
        config["featureGates"] = json!(node.feature_gates);
    }
    config
}
