//! What the programs of a stack are asked before it becomes the active one. Each trial is written
//! beside the files that it is about.

use crate::nodelet::step::Step;

use super::{Context, Wait, runtime};

/// All trials of this node, in the order its programs start.
pub(super) fn trials(ctx: &Context) -> Result<Vec<Step>, Wait> {
    let all = [runtime::trial(ctx)?];
    Ok(all.into_iter().map(Step::Tried).collect())
}
