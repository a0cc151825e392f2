//! Images of the stack in the runtime (order 48): those of this role, and of add-ons that the cluster has.
//!
//! Each is there before what makes a container of it. On a master only the API server holds kubelet up; what
//! talks to it comes while it starts (order 80), images of add-ons after that (order 100): nothing makes pods of
//! them before the phases after that. A worker has all of its images before it is Ready, for pods wait for such
//! nodes.

use crate::model::{Addon, StackImage, paths};
use crate::nodelet::step::Step;

use super::{PhaseContext, Steps, Wait};

/// When an image is needed on a master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needed {
    /// By kubelet and the API server.
    First,
    /// By those that talk to the API server.
    ByClients,
    /// By what is in the cluster.
    ByAddons,
}

fn needed(ctx: &PhaseContext, image: &StackImage) -> Needed {
    match &*image.component {
        _ if !ctx.is_master() => Needed::First,
        "pause" | "kube-apiserver" => Needed::First,
        "kube-controller-manager" | "kube-scheduler" => Needed::ByClients,
        _ => Needed::ByAddons,
    }
}

pub(super) fn steps(ctx: &PhaseContext) -> Steps {
    of(ctx, Needed::First)
}

/// Images of the controller manager and the scheduler.
pub(super) fn of_clients(ctx: &PhaseContext) -> Result<Vec<Step>, Wait> {
    of(ctx, Needed::ByClients)
}

/// The rest.
pub(super) fn of_addons(ctx: &PhaseContext) -> Result<Vec<Step>, Wait> {
    of(ctx, Needed::ByAddons)
}

/// All of them, out of the stack beside the active one.
pub(super) fn beside(ctx: &PhaseContext) -> Result<Vec<Step>, Wait> {
    let step = |image: &StackImage| Step::Image {
        reference: image.reference.clone(),
        archive: ctx.unpacked(&image.path),
        bytes: ctx.program(&image.path),
    };
    Ok(wanted(ctx)?.map(step).collect())
}

fn of(ctx: &PhaseContext, when: Needed) -> Result<Vec<Step>, Wait> {
    let step = |image: &StackImage| Step::Image {
        reference: image.reference.clone(),
        archive: format!("{}/{}", paths::STACK_CURRENT, image.path),
        bytes: ctx.program(&image.path),
    };
    let wanted = wanted(ctx)?.filter(|image| needed(ctx, image) == when);
    Ok(wanted.map(step).collect())
}

/// Images of this role, and of add-ons that the cluster has.
fn wanted(ctx: &PhaseContext) -> Result<impl Iterator<Item = &StackImage>, Wait> {
    let stack = ctx.stack()?;
    let network = &ctx.node.network;
    Ok(stack.images.iter().filter(|i| {
        let addon = Addon::of_component(&i.component);
        i.roles.contains(&ctx.role) && addon.is_none_or(|addon| network.has(addon, stack))
    }))
}

#[cfg(test)]
mod tests {
    use super::super::{PhaseId, samples, steps};
    use super::*;
    use crate::nodelet::step::FileStep;

    #[test]
    fn every_image_of_the_role_is_imported_and_before_what_makes_a_container_of_it() {
        for ctx in [samples::master("1.37.2"), samples::worker("1.37.2")].map(samples::with_addons)
        {
            let stack = ctx.stack().expect("a stack");
            let mut all: Vec<Step> = Vec::new();
            for id in [PhaseId::Images, PhaseId::Kubelet, PhaseId::WaitServices] {
                all.extend(steps(id, &ctx).expect("nothing is waited for"));
            }
            let at = |reference: &str| {
                let is = |s: &Step| matches!(s, Step::Image { reference: r, .. } if r == reference);
                all.iter().position(is)
            };
            let runs = |i: &&StackImage| {
                let addon = Addon::of_component(&i.component);
                let has = addon.is_none_or(|addon| ctx.node.network.has(addon, stack));
                i.roles.contains(&ctx.role) && has
            };
            for image in stack.images.iter().filter(runs) {
                let imported = at(&image.reference);
                assert!(imported.is_some(), "{}", image.reference);
                let pod = format!("/{}.yaml", image.component);
                let written = all.iter().position(|s| {
                    matches!(s, Step::File(FileStep { path, .. }) if path.ends_with(&pod) && path.contains("manifests"))
                });
                assert!(written.is_none_or(|w| imported < Some(w)), "{pod}");
            }
            let kubelet = all.iter().position(|s| matches!(s, Step::Unit(_)));
            let pause = at(ctx.image("pause").expect("pause"));
            assert!(pause < kubelet, "no pod starts without it");
        }
    }

    /// A hundred unused megabytes are on no node.
    #[test]
    fn images_of_add_ons_come_with_them() {
        let mut ctx = samples::with_addons(samples::worker("1.37.2"));
        let has = |ctx: &PhaseContext, component: &str| {
            let steps = steps(PhaseId::Images, ctx).expect("steps");
            let of = |s: &Step| matches!(s, Step::Image { reference, .. } if reference.contains(component));
            steps.iter().any(of)
        };
        assert!(has(&ctx, "kube-router") && has(&ctx, "metallb-speaker") && has(&ctx, "pause"));
        ctx.node.network.load_balancer.clear();
        ctx.node.network.policies = crate::model::NetworkPolicies::Off;
        assert!(!has(&ctx, "kube-router") && !has(&ctx, "metallb") && has(&ctx, "pause"));
    }

    /// A stack that was built again under the same names: its images come, and what runs from them starts over.
    #[test]
    fn another_build_of_an_image_reaches_what_runs_from_it() {
        let before = samples::with_addons(samples::ordinary(samples::master("1.37.2")));
        let texts = |ctx: &PhaseContext| -> std::collections::BTreeMap<String, String> {
            let phases = [
                PhaseId::Images,
                PhaseId::Kubelet,
                PhaseId::WaitServices,
                PhaseId::Addons,
            ];
            let steps = phases.iter().flat_map(|id| steps(*id, ctx).expect("steps"));
            steps
                .map(|s| (s.key(), serde_json::to_string(&s).expect("json")))
                .collect()
        };
        let all = texts(&before);
        for (component, runs) in [
            (
                "kube-scheduler",
                "file:/etc/pf9/kube.d/manifests/kube-scheduler.yaml",
            ),
            (
                "kube-apiserver",
                "file:/etc/pf9/kube.d/manifests/kube-apiserver.yaml",
            ),
            (
                "kube-router",
                "object:apps/v1/DaemonSet/kube-system/network-policies",
            ),
        ] {
            let mut after = before.clone();
            let stack = after.manifest.as_mut().expect("a stack");
            let image = stack.image(component).expect("an image").clone();
            stack.files.push(crate::model::StackFile {
                path: image.path,
                mode: 0o644,
                sha256: crate::model::Digest::of(b"built again"),
                size: 1,
                component: component.into(),
            });
            let now = texts(&after);
            let changed: Vec<&String> = now.keys().filter(|k| now[*k] != all[*k]).collect();
            for key in [
                format!("image:{}", image.reference.clone()),
                runs.to_owned(),
            ] {
                assert!(changed.contains(&&key), "{key}: {changed:?}");
            }
            let others = ["image:", "file:", "object:"]
                .iter()
                .map(|kind| changed.iter().filter(|k| k.starts_with(kind)).count());
            assert_eq!(
                others.sum::<usize>(),
                2,
                "and nothing else begins anew: {changed:?}"
            );
        }
    }
}
