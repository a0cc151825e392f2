//! Manifests of the stack, kept applied (order 206). Masters only.

use crate::nodelet::step::Step;

use super::{Context, Steps, services};

pub(super) fn steps(ctx: &Context) -> Steps {
    let objects = ctx.addons.iter().cloned();
    let mut steps: Vec<Step> = objects.map(|object| Step::Object { object }).collect();
    steps.extend(services::ready_at_the_end(ctx));
    Ok(steps)
}
