//! What the machine must offer, asked before anything is changed on it: tools of the distribution,
//! no swap, free ports. A port counts as free while a service of ours holds it.

use std::time::Duration;

use crate::host::ours::ports;
use crate::model::StackManifest;
use crate::nodelet::step::{Probe, Step};

use super::PhaseContext;
use super::render::probe;

/// A port that is just being given back.
const PORT: Duration = Duration::from_secs(5);

pub(super) fn steps(ctx: &PhaseContext, stack: &StackManifest) -> Vec<Step> {
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
fn ports(ctx: &PhaseContext) -> Vec<(u16, &'static str)> {
    let here = ports::ALL.iter().filter(|p| ctx.is_master() || !p.masters);
    here.map(|p| match p.port {
        // The cluster's settings say where.
        ports::API => (ctx.node.api.port, p.unit),
        port => (port, p.unit),
    })
    .collect()
}
