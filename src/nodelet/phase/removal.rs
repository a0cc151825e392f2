//! What is removed when a role ends, beside the artefacts that the ledger knows.

use crate::host::ours::network;
use crate::model::{EtcdMember, NetworkPlugin};
use crate::nodelet::step::Step;

use super::{PhaseContext, layout};

/// Everything that runs or is in the kernel, in the order it goes. Works whatever the node was,
/// and however far it came: each step is already so where nothing was installed.
///
/// A master leaves etcd before anything is destroyed: where the others cannot do without it, it stays
/// whole. `force`: whatever they lose.
pub fn removal(ctx: &PhaseContext, force: bool) -> Vec<Step> {
    let node = ctx.node.node_name.to_string();
    let gone = |unit: &str| Step::UnitGone { unit: unit.into() };
    let mut steps = vec![
        // While the API is still there.
        Step::Drain { node },
    ];
    // While it runs: the others then go on with a quorum of their own, instead of waiting for it.
    steps.extend(member(ctx).map(|member| Step::EtcdMemberGone { member, force }));
    steps.extend([
        // Before the containers, or it restarts them.
        gone(layout::KUBELET_UNIT),
        gone(layout::KUBE_PROXY_UNIT),
        gone(layout::PODS_UNIT),
        Step::ContainersGone,
        gone(layout::ETCD_UNIT),
        gone(layout::CONTAINERD_UNIT),
        gone(layout::NETWORK_UNIT),
        network_gone(ctx),
    ]);
    steps
}

/// calico calls what it makes as every other calico does: it goes where it was this node's pod network.
fn network_gone(ctx: &PhaseContext) -> Step {
    let others = match ctx.node.network.plugin {
        NetworkPlugin::Calico => network::calico(),
        NetworkPlugin::Bridge | NetworkPlugin::Flannel | NetworkPlugin::None => Default::default(),
    };
    Step::NetworkGone {
        links: [network::links(), others.links].concat(),
        routes: network::ROUTE_PROTOCOL,
        chains: [network::chain_prefixes(), others.chains].concat(),
        tables: [network::tables(), others.tables].concat(),
        sets: [network::policy_set_prefixes(), others.sets].concat(),
    }
}

/// This master's member of etcd, where there are others. By its address: removal works on a host
/// whose id is gone, too.
pub(in crate::nodelet) fn member(ctx: &PhaseContext) -> Option<EtcdMember> {
    let members = &ctx.node.etcd.members;
    let own = members.iter().find(|m| m.ip == ctx.node.node_ip)?;
    (ctx.is_master() && members.len() > 1).then(|| own.clone())
}
