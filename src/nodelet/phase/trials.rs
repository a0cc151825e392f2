//! What the programs of a stack are asked before it becomes the active one. Each trial is written
//! beside the files that it is about.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::nodelet::step::{Judge, TrialStep};

use super::{PhaseContext, Wait, control_plane, etcd, kube_proxy, kubelet, runtime};

/// How long a program may take to read its configuration: they take a third of a second each.
const WITHIN: Duration = Duration::from_secs(15);

/// All trials of this node, in the order its programs start.
pub(in crate::nodelet) fn trials(ctx: &PhaseContext) -> Result<Vec<TrialStep>, Wait> {
    let mut all = vec![runtime::trial(ctx)?];
    if ctx.is_master() {
        all.push(etcd::trial(ctx));
    }
    all.push(kubelet::trial(ctx));
    if ctx.is_master() {
        all.extend(control_plane::trials(ctx)?);
    }
    all.push(kube_proxy::trial(ctx)?);
    Ok(all)
}

/// The trial of a program that has no verb for it: it is given one value that it must refuse, with
/// the words of `expects`, and judges the rest by the way.
pub(super) fn stopped(
    ctx: &PhaseContext,
    program: &str,
    args: Vec<String>,
    files: BTreeMap<String, String>,
    expects: &[&str],
) -> TrialStep {
    let file = format!("bin/{program}");
    TrialStep {
        program: program.to_owned(),
        path: ctx.unpacked(&file),
        inside: None,
        bytes: ctx.program(&file),
        args,
        env: BTreeMap::new(),
        files,
        within: WITHIN,
        judge: Judge::Stopped {
            expects: expects.iter().map(|words| (*words).to_owned()).collect(),
            theirs: theirs(ctx).collect(),
        },
    }
}

/// Names that the spec gave: whose complaint it is that has one of them.
pub(super) fn theirs(ctx: &PhaseContext) -> impl Iterator<Item = String> + '_ {
    let node = &ctx.node;
    let (gates, flags) = (node.feature_gates.keys(), node.api.extra_args.keys());
    gates.chain(flags).cloned()
}
