//! Schedulable again (order 130).

use crate::nodelet::step::Step;

use super::{PhaseContext, Steps, services};

pub(super) fn steps(ctx: &PhaseContext) -> Steps {
    let node = ctx.node.node_name.to_string();
    let mut steps: Vec<Step> = match ctx.cordoned && !crate::mutant("uncordon-proven") {
        // It is made schedulable when it is proven.
        true => Vec::new(),
        false => vec![Step::Uncordon { node }],
    };
    if !ctx.is_master() {
        steps.extend(services::ready_at_the_end(ctx));
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn a_node_that_is_not_proven_stays_cordoned() {
        for mut ctx in [samples::master("1.37.2"), samples::worker("1.37.2")] {
            let uncordons = |ctx: &PhaseContext| {
                let steps = steps(ctx).expect("steps");
                steps.iter().any(|s| matches!(s, Step::Uncordon { .. }))
            };
            assert!(uncordons(&ctx));
            ctx.cordoned = true;
            assert!(!uncordons(&ctx));
        }
    }
}
