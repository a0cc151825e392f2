//! Images of the stack in the runtime (order 48).

use crate::model::paths;
use crate::nodelet::step::Step;

use super::{Context, Steps};

pub(super) fn steps(ctx: &Context) -> Steps {
    Ok(ctx
        .stack()?
        .images
        .iter()
        .filter(|image| image.roles.contains(&ctx.role))
        .map(|image| Step::Image {
            reference: image.reference.clone(),
            archive: format!("{}/{}", paths::STACK_CURRENT, image.path),
        })
        .collect())
}
