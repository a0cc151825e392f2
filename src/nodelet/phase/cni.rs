//! CNI configuration and plugins (order 65).

use serde_json::json;

use crate::host::ours::paths::CALICO_STATE;
use crate::model::{NetworkPlugin, paths};
use crate::nodelet::step::Step;

use super::render::{PRIVATE_DIR, PUBLIC, PUBLIC_DIR, dir, file};
use super::{PhaseContext, Steps, layout, runtime};

/// The name of the pod network, ours, flannel's or calico's, in what the runtime notes of it.
pub(super) const NETWORK: &str = "pf9";

pub(super) fn steps(ctx: &PhaseContext) -> Steps {
    let mut steps = vec![
        dir(layout::CNI_DIR, PUBLIC_DIR),
        dir(paths::CNI_CONF, PUBLIC_DIR),
    ];
    steps.extend(runtime::cni_cache());
    match ctx.node.network.plugin {
        NetworkPlugin::Bridge => {
            steps.push(dir(paths::CNI_STATE, PRIVATE_DIR));
            steps.push(file(layout::CNI_CONFLIST, conflist(ctx), PUBLIC));
        }
        NetworkPlugin::Flannel => {
            steps.push(dir(paths::CNI_STATE, PRIVATE_DIR));
            steps.extend(own_plugins(ctx)?);
        }
        NetworkPlugin::Calico => {
            // Its daemon writes the node's name and MTU there and its plugin reads them, by this name alone.
            steps.push(dir(CALICO_STATE, PUBLIC_DIR));
            steps.extend(own_plugins(ctx)?);
        }
        NetworkPlugin::None => steps.extend(own_plugins(ctx)?),
    }
    // A foreign network is configured elsewhere.
    steps.extend(
        (ctx.node.network.plugin != NetworkPlugin::None).then(|| Step::HostPorts {
            network: NETWORK.into(),
            plugins: layout::CNI_BIN.into(),
        }),
    );
    Ok(steps)
}

/// A directory that others may add theirs to, with the stack's.
fn own_plugins(ctx: &PhaseContext) -> Steps {
    let mut steps = vec![
        dir("/opt/pf9/cni", PUBLIC_DIR),
        dir(layout::CNI_BIN_OWN, PUBLIC_DIR),
    ];
    steps.extend(ctx.stack()?.files.iter().filter_map(|f| {
        let name = f.path.strip_prefix("cni/")?;
        Some(Step::Link {
            path: format!("{}/{name}", layout::CNI_BIN_OWN),
            target: format!("{}/{name}", layout::CNI_BIN),
        })
    }));
    Ok(steps)
}

/// A Linux bridge with addresses out of this node's range. Masquerade is the node's, not the
/// plugin's: see the network phase.
fn conflist(ctx: &PhaseContext) -> String {
    let network = &ctx.node.network;
    let any = if ctx.node.pod_cidr.addr().is_ipv6() {
        "::/0"
    } else {
        "0.0.0.0/0"
    };
    let mut bridge = json!({
        "type": "bridge",
        "bridge": layout::POD_BRIDGE,
        "isGateway": true,
        "ipMasq": false,
        "hairpinMode": true,
        "ipam": {
            "type": "host-local",
            "dataDir": format!("{}/networks", paths::CNI_STATE),
            "ranges": [[{"subnet": ctx.node.pod_cidr.trunc().to_string()}]],
            "routes": [{"dst": any}],
        },
    });
    if let Some(mtu) = network.mtu.or(ctx.facts.mtu) {
        bridge["mtu"] = mtu.into();
    }
    let list = json!({
        "cniVersion": "0.4.0",
        "name": NETWORK,
        "plugins": [
            bridge,
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    });
    format!("{list:#}\n")
}
