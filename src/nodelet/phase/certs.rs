//! Keys, signing requests, certificates (order 20).
//!
//! Keys are made on the host; requests go up in the status document; certificates come down and
//! are written by the engine. One that is due for renewal is asked for again and holds nothing up.
//! A missing one does: nothing after it can be made. Where certificates are over (the machine was
//! off for long, or the plane away), services go on and are looked after, and only what must be
//! asked of the cluster waits: whatever a node has is worth more than none.

use std::collections::BTreeSet;

use crate::model::{CertPurpose, CertificateRequest, paths};
use crate::nodelet::step::Step;

use super::render::{PRIVATE_DIR, PUBLIC, PUBLIC_DIR, dir, file};
use super::renewal::{Standing, standing};
use super::{PhaseContext, Steps, Wait, layout};

/// Purposes named in a message; the rest is counted.
const NAMED_MAX: usize = 3;

/// Certificates the plane is asked for now.
pub fn wanted(ctx: &PhaseContext) -> Vec<CertificateRequest> {
    purposes(ctx)
        .filter(|p| standing(ctx, *p).is_wanted())
        .filter_map(|p| ctx.material.get(&p)?.request.clone())
        .collect()
}

pub(super) fn steps(ctx: &PhaseContext) -> Steps {
    let mut steps = directories(ctx);
    steps.extend(purposes(ctx).map(|purpose| Step::Key { purpose }));
    if ctx.is_master() {
        steps.push(Step::ServiceAccountKey);
    }
    steps.extend(purposes(ctx).map(|p| file(layout::ca(p), authority(ctx, p), PUBLIC)));
    match missing(ctx) {
        Some(what) => Err(Wait {
            what,
            meanwhile: steps,
        }),
        None => {
            steps.extend(trusted_service_accounts(ctx));
            Ok(steps)
        }
    }
}

fn purposes(ctx: &PhaseContext) -> impl Iterator<Item = CertPurpose> {
    let role = ctx.role;
    CertPurpose::ALL
        .iter()
        .copied()
        .filter(move |p| p.applies_to(role))
}

/// The authorities that the users of a purpose's certificate trust.
fn authority(ctx: &PhaseContext, purpose: CertPurpose) -> String {
    ctx.believed(purpose.profile(&ctx.node).authority)
}

fn directories(ctx: &PhaseContext) -> Vec<Step> {
    let mut below: BTreeSet<String> = purposes(ctx)
        .flat_map(|p| {
            let name = p.dir();
            let parent = name.split_once('/').map(|(parent, _)| parent);
            parent.into_iter().chain([name])
        })
        .map(|name| format!("{}/{name}", paths::KUBE_CERTS))
        .collect();
    if ctx.is_master() {
        below.insert(layout::SERVICE_ACCOUNT_DIR.into());
    }
    [
        dir(paths::KUBE_DIR, PUBLIC_DIR),
        dir(paths::KUBE_CERTS, PRIVATE_DIR),
    ]
    .into_iter()
    .chain(below.into_iter().map(|path| dir(path, PRIVATE_DIR)))
    .collect()
}

/// Own key and those of the other masters, in one file: nothing is left behind when one goes.
pub(super) fn trusted_keys(ctx: &PhaseContext) -> Option<String> {
    let own = ctx.service_account_key.as_ref()?;
    let keys: BTreeSet<&str> = ctx
        .node
        .service_account_keys
        .iter()
        .chain([own])
        .map(|pem| pem.trim())
        .filter(|pem| !pem.is_empty())
        .collect();
    Some(keys.into_iter().map(|pem| format!("{pem}\n")).collect())
}

fn trusted_service_accounts(ctx: &PhaseContext) -> Option<Step> {
    if !ctx.is_master() {
        return None;
    }
    let text = trusted_keys(ctx)?;
    Some(file(layout::SERVICE_ACCOUNT_TRUSTED, text, PUBLIC))
}

/// What is missing, as text.
fn missing(ctx: &PhaseContext) -> Option<String> {
    if let Some(what) = named(ctx, Standing::Missing) {
        return Some(what);
    }
    let early = of(ctx, Standing::TooEarly);
    if let Some(first) = early.first() {
        return Some(format!(
            "the clock: {} of the certificates begin later than this host's time ({first}, …); \
             set the clock",
            early.len()
        ));
    }
    (ctx.is_master() && ctx.service_account_key.is_none())
        .then(|| "the service-account key of this master".into())
}

/// Certificates whose life is over, as text; they are asked for.
pub(super) fn over(ctx: &PhaseContext) -> Option<String> {
    let what = named(ctx, Standing::Over)?;
    Some(format!("{what}: the current one has expired"))
}

/// Some of this node's certificates are over.
pub fn are_over(ctx: &PhaseContext) -> bool {
    !of(ctx, Standing::Over).is_empty()
}

fn of(ctx: &PhaseContext, wanted: Standing) -> Vec<&'static str> {
    purposes(ctx)
        .filter(|p| standing(ctx, *p) == wanted)
        .map(CertPurpose::dir)
        .collect()
}

fn named(ctx: &PhaseContext, wanted: Standing) -> Option<String> {
    let dirs = of(ctx, wanted);
    let noun = match dirs.len() {
        0 => return None,
        1 => "certificate",
        _ => "certificates",
    };
    let mut names = dirs[..dirs.len().min(NAMED_MAX)].join(", ");
    if dirs.len() > NAMED_MAX {
        names.push_str(", …");
    }
    Some(format!("{} {noun} from the plane ({names})", dirs.len()))
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use jiff::{SignedDuration, Timestamp};

    fn at(ctx: &PhaseContext, hours: i64) -> PhaseContext {
        let mut ctx = ctx.clone();
        ctx.now = Timestamp::from_second(hours * 3600).unwrap_or_default();
        ctx
    }

    /// Certificates valid from hour 0 to hour 1000.
    fn ctx() -> PhaseContext {
        let mut ctx = samples::master("1.37.2");
        for material in ctx.material.values_mut() {
            if let Some(seen) = &mut material.certificate {
                seen.not_before = Timestamp::UNIX_EPOCH;
                seen.not_after = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1000);
            }
        }
        ctx
    }

    #[test]
    fn a_certificate_is_wanted_from_two_thirds_of_its_life_and_holds_nothing_up() {
        let ctx = ctx();
        assert!(wanted(&at(&ctx, 633)).is_empty());
        assert_eq!(
            wanted(&at(&ctx, 701)).len(),
            CertPurpose::ALL.len(),
            "all of a master's"
        );
        assert!(steps(&at(&ctx, 701)).is_ok());
    }

    #[test]
    fn certificates_that_are_over_stop_only_what_asks_the_cluster() {
        let over = at(&ctx(), 1000);
        assert!(are_over(&over) && !are_over(&at(&over, 999)));
        assert_eq!(wanted(&over).len(), CertPurpose::ALL.len());
        let phases = crate::nodelet::phase::all(&over);
        let waits: Vec<_> = phases.iter().filter(|p| p.steps.is_err()).collect();
        let first = waits.first().expect("somebody waits");
        assert_eq!(first.id, crate::model::PhaseId::WaitServices);
        let what = &first.steps.as_ref().expect_err("waits").what;
        assert!(what.starts_with("14 certificates from the plane"), "{what}");
        assert!(what.ends_with("the current one has expired"), "{what}");
        // Before it: every unit as it was, and no question that the ended certificates cannot put.
        let before = |ctx: &PhaseContext| -> Vec<Step> {
            let phases = crate::nodelet::phase::all(ctx);
            let phases = phases.into_iter().filter(|p| p.id < first.id);
            phases.flat_map(|p| p.steps.unwrap_or_default()).collect()
        };
        let (good, ended) = (before(&at(&over, 1)), before(&over));
        assert!(ended.iter().all(|s| good.contains(s)), "nothing is another");
        let left_out: Vec<String> = good
            .iter()
            .filter(|s| !ended.contains(s))
            .map(Step::key)
            .collect();
        // What is noted of etcd is noted of one that was seen healthy.
        assert_eq!(
            left_out,
            [
                "probe:etcd-healthy",
                "etcd-noted",
                "probe:kube-proxy-healthy",
                "proxy-rules:iptables"
            ]
        );
    }

    #[test]
    fn a_missing_certificate_is_waited_for() {
        let mut ctx = ctx();
        if let Some(m) = ctx.material.get_mut(&CertPurpose::KubeletServer) {
            m.certificate = None;
        }
        let wait = steps(&at(&ctx, 1)).expect_err("missing");
        assert!(wait.meanwhile.iter().any(|s| matches!(s, Step::Key { .. })));
        assert_eq!(wait.what, "1 certificate from the plane (kubelet/server)");
        assert_eq!(wanted(&at(&ctx, 1)).len(), 1);
    }

    #[test]
    fn a_clock_behind_the_plane_is_named_and_asks_for_nothing() {
        let mut ctx = at(&ctx(), 1);
        ctx.now = Timestamp::UNIX_EPOCH - SignedDuration::from_hours(1);
        assert!(wanted(&ctx).is_empty());
        let wait = steps(&ctx).expect_err("too early");
        assert!(wait.what.contains("set the clock"), "{}", wait.what);
    }

    #[test]
    fn own_service_account_key_is_trusted_once() {
        let mut ctx = ctx();
        let own = ctx.service_account_key.clone().unwrap_or_default();
        ctx.node.service_account_keys = vec![own.clone(), format!("{own}\n"), "other".into()];
        let text = trusted_keys(&ctx).expect("a key");
        assert_eq!(text.matches(own.trim()).count(), 1);
        assert!(text.contains("other\n"));
    }
}
