//! Schedulable again (order 130).

use crate::nodelet::step::Step;

use super::{Context, Steps, services};

pub(super) fn steps(ctx: &Context) -> Steps {
    let node = ctx.node.node_name.to_string();
    let mut steps = vec![Step::Uncordon { node }];
    if !ctx.is_master() {
        steps.extend(services::ready_at_the_end(ctx));
    }
    Ok(steps)
}
