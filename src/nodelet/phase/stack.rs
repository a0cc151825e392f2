//! What the machine must offer, and the stack on it (order 15).

use crate::nodelet::step::Step;

use super::{Context, Steps, Wait, needs};

pub(super) fn steps(ctx: &Context) -> Steps {
    // First: what is missing shows while the download still runs.
    let mut steps = needs::steps(ctx, ctx.stack()?);
    if !ctx.stack_at_hand {
        return Err(Wait {
            what: format!("download of stack {}", ctx.node.stack),
            meanwhile: steps,
        });
    }
    steps.push(Step::Stack {
        stack: ctx.node.stack.clone(),
    });
    Ok(steps)
}
