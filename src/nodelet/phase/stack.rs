//! What the machine must offer, and the stack on it (order 15): unpacked beside the active one, asked
//! whether its programs take their configuration, on a master whether its etcd may have the data, and
//! only then active.

use crate::model::Role;
use crate::nodelet::step::Step;

use super::{PhaseContext, Steps, Wait, images, needs, trials};

pub(super) fn steps(ctx: &PhaseContext) -> Steps {
    let mut steps = tried(ctx)?;
    let etcd = ctx.etcd_of();
    if ctx.role == Role::Master {
        let stack = etcd.stack.clone();
        let ready = |wants| Step::EtcdDataReady { stack, wants };
        steps.extend(etcd.version.map(ready));
        // A link of its own: the rest of the node changes its stack without it, and it without the rest.
        steps.push(Step::EtcdStack { stack: etcd.stack });
    }
    let stack = ctx.node.stack.clone();
    steps.push(Step::Stack { stack });
    Ok(steps)
}

/// All that can be had and tried of the stack while another one runs: nothing of it touches what does.
pub(super) fn beside(ctx: &PhaseContext) -> Steps {
    let mut steps = tried(ctx)?;
    steps.extend(images::beside(ctx)?);
    Ok(steps)
}

/// Unpacked, and its programs take their configuration.
fn tried(ctx: &PhaseContext) -> Steps {
    // First: what is missing shows while the download still runs.
    let mut steps = needs::steps(ctx, ctx.stack()?);
    if !ctx.stack_at_hand {
        return Err(Wait {
            what: format!("download of stack {}", ctx.node.stack),
            meanwhile: steps,
        });
    }
    let stack = ctx.node.stack.clone();
    steps.push(Step::Unpacked { stack });
    steps.extend(trials::trials(ctx)?.into_iter().map(Step::Tried));
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn a_masters_data_are_made_ready_when_all_is_tried_and_before_the_stack_is_active() {
        let all = steps(&samples::master("1.37.2")).expect("steps");
        let ready = all
            .iter()
            .position(|s| matches!(s, Step::EtcdDataReady { .. }));
        let ready = ready.expect("the data");
        let wants = |step: &Step| match step {
            Step::EtcdDataReady { wants, .. } => Some(wants.to_string()),
            _ => None,
        };
        assert_eq!(wants(&all[ready]).as_deref(), Some("3.7.3"));
        let tried = all.iter().rposition(|s| matches!(s, Step::Tried(_)));
        let active = all.iter().position(|s| matches!(s, Step::Stack { .. }));
        assert!(tried < Some(ready) && Some(ready) < active);
        let worker = steps(&samples::worker("1.37.2")).expect("steps");
        assert!(!worker.iter().any(|s| wants(s).is_some()));
    }
}
