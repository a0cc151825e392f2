//! Images of the stack in the runtime (order 48): those of this role, and of add-ons that the cluster has.

use crate::model::{Addon, paths};
use crate::nodelet::step::Step;

use super::{Context, Steps};

pub(super) fn steps(ctx: &Context) -> Steps {
    let stack = ctx.stack()?;
    let network = &ctx.node.network;
    let wanted = |component: &str| {
        Addon::of_component(component).is_none_or(|addon| network.has(addon, stack))
    };
    Ok(stack
        .images
        .iter()
        .filter(|image| image.roles.contains(&ctx.role) && wanted(&image.component))
        .map(|image| Step::Image {
            reference: image.reference.clone(),
            archive: format!("{}/{}", paths::STACK_CURRENT, image.path),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodelet::phase::samples;

    /// A hundred megabytes that nobody runs are on no node.
    #[test]
    fn images_of_add_ons_come_with_them() {
        let mut ctx = samples::with_addons(samples::worker("1.37.2"));
        let has = |ctx: &Context, component: &str| {
            let steps = steps(ctx).expect("steps");
            let of = |s: &Step| matches!(s, Step::Image { reference, .. } if reference.contains(component));
            steps.iter().any(of)
        };
        assert!(has(&ctx, "kube-router") && has(&ctx, "metallb-speaker") && has(&ctx, "pause"));
        ctx.node.network.load_balancer.clear();
        ctx.node.network.policies = crate::model::NetworkPolicies::Off;
        assert!(!has(&ctx, "kube-router") && !has(&ctx, "metallb") && has(&ctx, "pause"));
    }
}
