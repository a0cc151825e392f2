//! What the machine must offer, asked before anything is changed on it: tools of the distribution,
//! no swap, free ports. A port counts as free while a service of ours holds it.

use std::time::Duration;

use crate::model::StackManifest;
use crate::nodelet::step::{Probe, Step};

use super::render::probe;
use super::{Context, control_plane, etcd, kube_proxy, kubelet, layout};

/// A port that is just being given back.
const PORT: Duration = Duration::from_secs(5);

pub(super) fn steps(ctx: &Context, stack: &StackManifest) -> Vec<Step> {
    let tools = stack.requires.iter().map(|need| Probe::AnyPath {
        package: need.package.clone(),
        paths: need.any_of.clone(),
    });
    let swap = (!ctx.node.kubelet.allow_swap).then_some(Probe::SwapOff);
    let mut steps: Vec<Step> = tools
        .chain(swap)
        .map(|what| probe(what, Duration::ZERO))
        .collect();
    steps.extend(ports(ctx).into_iter().map(|(port, unit)| {
        let unit = unit.to_owned();
        probe(Probe::PortFree { port, unit }, PORT)
    }));
    steps
}

/// Ports of this node's services, with the unit that each belongs to.
fn ports(ctx: &Context) -> Vec<(u16, &'static str)> {
    let mut ports = vec![
        (kubelet::PORT, layout::KUBELET_UNIT),
        (kubelet::HEALTH_PORT, layout::KUBELET_UNIT),
        (kube_proxy::HEALTH_PORT, layout::KUBE_PROXY_UNIT),
        (kube_proxy::METRICS_PORT, layout::KUBE_PROXY_UNIT),
    ];
    if ctx.is_master() {
        ports.extend([
            (etcd::CLIENT_PORT, layout::ETCD_UNIT),
            (etcd::PEER_PORT, layout::ETCD_UNIT),
            (etcd::METRICS_PORT, layout::ETCD_UNIT),
            // kubelet starts the static pods.
            (ctx.node.api.port, layout::KUBELET_UNIT),
            (control_plane::CONTROLLER_MANAGER_PORT, layout::KUBELET_UNIT),
            (control_plane::SCHEDULER_PORT, layout::KUBELET_UNIT),
        ]);
    }
    ports
}
