//! What the machine must offer, and the stack on it (order 15): unpacked beside the active one, asked
//! whether its programs take their configuration, and only then active.

use crate::nodelet::step::Step;

use super::{Context, Steps, Wait, needs, trials};

pub(super) fn steps(ctx: &Context) -> Steps {
    // First: what is missing shows while the download still runs.
    let mut steps = needs::steps(ctx, ctx.stack()?);
    if !ctx.stack_at_hand {
        return Err(Wait {
            what: format!("download of stack {}", ctx.node.stack),
            meanwhile: steps,
        });
    }
    let stack = || ctx.node.stack.clone();
    steps.push(Step::Unpacked { stack: stack() });
    steps.extend(trials::trials(ctx)?);
    steps.push(Step::Stack { stack: stack() });
    Ok(steps)
}
