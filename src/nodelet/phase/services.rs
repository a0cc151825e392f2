//! The API server answers, the node is Ready (order 100); meanwhile images of add-ons come.

use std::time::Duration;

use crate::model::NetworkPlugin;
use crate::nodelet::step::{Probe, Step};

use super::render::probe;
use super::{PhaseContext, Steps, Wait, certs, control_plane, images};

/// A control plane that starts on a slow machine.
const API: Duration = Duration::from_secs(300);
/// kubelet reports every ten seconds; the first report comes when the runtime's network is up.
const READY: Duration = Duration::from_secs(180);

pub(super) fn steps(ctx: &PhaseContext) -> Steps {
    if let Some(what) = certs::over(ctx) {
        return Err(Wait::for_what(what));
    }
    let mut steps = images::of_addons(ctx)?;
    steps.push(probe(Probe::ApiHealthy { url: ctx.api_url() }, API));
    match ctx.node.network.plugin {
        NetworkPlugin::Bridge => steps.push(node_ready(ctx)),
        // A worker's comes from the masters.
        NetworkPlugin::Flannel | NetworkPlugin::Calico if !ctx.is_master() => {
            steps.push(node_ready(ctx));
        }
        // Ready only once a network is installed, perhaps as an add-on: checked at the end.
        NetworkPlugin::Flannel | NetworkPlugin::Calico | NetworkPlugin::None => {}
    }
    // In the background: only the next power cut makes it matter.
    let stack = ctx.node.stack.clone();
    steps.push(Step::StackOnDisk { stack });
    Ok(steps)
}

/// The last fact of a node whose network comes from elsewhere.
pub(super) fn ready_at_the_end(ctx: &PhaseContext) -> Option<Step> {
    match ctx.node.network.plugin {
        NetworkPlugin::Bridge => None,
        NetworkPlugin::Flannel | NetworkPlugin::Calico | NetworkPlugin::None => {
            Some(node_ready(ctx))
        }
    }
}

/// The static pods of this master are well, and those that their manifests describe. kubelet starts those again that
/// hang. Asked last: nothing here needs it, but the plane waits for this master's `ok` before it changes the next one.
pub(super) fn static_pods_current(ctx: &PhaseContext) -> Steps {
    let pods = control_plane::static_pods(ctx)?.into_iter();
    let ask = |(pod, inputs)| probe(Probe::StaticPodCurrent { pod, inputs }, API);
    Ok(pods.map(ask).collect())
}

fn node_ready(ctx: &PhaseContext) -> Step {
    let node = ctx.node.node_name.to_string();
    probe(Probe::NodeReady { node }, READY)
}
