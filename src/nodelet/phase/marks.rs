//! Role label and taint (order 110), schedulable again (order 130).

use std::collections::BTreeMap;

use crate::nodelet::step::Step;

use super::{Context, Steps, Wait, services};

const PREFIX: &str = "node-role.kubernetes.io";

pub(super) fn marks(ctx: &Context) -> Steps {
    let wanted = taints(ctx)?;
    let without_taints = roles(ctx)?
        .into_iter()
        .filter(|key| !wanted.iter().any(|t| t.starts_with(&format!("{key}="))))
        .collect();
    let mut labels: BTreeMap<String, String> = ctx.node.labels.clone();
    labels.extend(roles(ctx)?.into_iter().map(|key| (key, String::new())));
    Ok(vec![Step::NodeMarks {
        node: ctx.node.node_name.to_string(),
        labels,
        taints: wanted,
        without_taints,
    }])
}

pub(super) fn uncordon(ctx: &Context) -> Steps {
    let node = ctx.node.node_name.to_string();
    let mut steps = vec![Step::Uncordon { node }];
    if !ctx.is_master() {
        steps.extend(services::ready_at_the_end(ctx));
    }
    Ok(steps)
}

/// Keys that tell the node's role, as labels and as taints.
fn roles(ctx: &Context) -> Result<Vec<String>, Wait> {
    let mut keys = vec![format!("{PREFIX}/{}", ctx.role)];
    if ctx.is_master() && ctx.kubernetes()?.has_control_plane_role() {
        keys.push(format!("{PREFIX}/control-plane"));
    }
    Ok(keys)
}

/// Taints, as `key=value:Effect`: also what kubelet registers with, so that no pod slips in.
pub(super) fn taints(ctx: &Context) -> Result<Vec<String>, Wait> {
    if !ctx.is_master() || ctx.node.allow_workloads_on_master {
        return Ok(Vec::new());
    }
    let keys = roles(ctx)?;
    Ok(keys
        .iter()
        .map(|key| format!("{key}=:NoSchedule"))
        .collect())
}
