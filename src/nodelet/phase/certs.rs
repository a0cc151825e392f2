//! Keys, signing requests, certificates (order 20).
//!
//! Keys are made on the host; requests go up in the status document; certificates come down and
//! are written by the engine. An expiring certificate is asked for again and holds nothing up; a
//! missing or expired one does, for everything after it would only fail.

use std::collections::BTreeSet;

use crate::model::{Authority, CertPurpose, CertificateRequest, paths};
use crate::nodelet::step::Step;

use super::render::{PRIVATE_DIR, PUBLIC, PUBLIC_DIR, dir, file};
use super::{CertificateSeen, Context, Steps, Wait, layout};

/// A certificate is renewed when less than this part of its life is left.
const RENEW_BELOW_PERCENT: i128 = 30;
/// Purposes named in a message; the rest is counted.
const NAMED_MAX: usize = 3;

/// How a certificate stands at this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// There is none, or it has ended.
    Missing,
    /// It begins later: this host's clock is behind the plane's.
    TooEarly,
    /// Valid; its end is near.
    Ending,
    /// Valid for long.
    Good,
}

/// Certificates the plane is asked for now.
pub fn wanted(ctx: &Context) -> Vec<CertificateRequest> {
    purposes(ctx)
        .filter(|p| match standing(ctx, *p) {
            Standing::Missing | Standing::Ending => true,
            Standing::TooEarly | Standing::Good => false,
        })
        .filter_map(|p| ctx.material.get(&p)?.request.clone())
        .collect()
}

pub(super) fn steps(ctx: &Context) -> Steps {
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

fn purposes(ctx: &Context) -> impl Iterator<Item = CertPurpose> {
    let role = ctx.role;
    CertPurpose::ALL
        .iter()
        .copied()
        .filter(move |p| p.applies_to(role))
}

/// The authority a purpose's certificate is signed by: the one its users believe.
fn authority(ctx: &Context, purpose: CertPurpose) -> &str {
    let authorities = &ctx.node.authorities;
    match purpose.profile(&ctx.node).authority {
        Authority::Cluster => &authorities.cluster,
        Authority::Etcd => &authorities.etcd,
        Authority::FrontProxy => &authorities.front_proxy,
    }
}

fn directories(ctx: &Context) -> Vec<Step> {
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
pub(super) fn trusted_keys(ctx: &Context) -> Option<String> {
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

fn trusted_service_accounts(ctx: &Context) -> Option<Step> {
    if !ctx.is_master() {
        return None;
    }
    let text = trusted_keys(ctx)?;
    Some(file(layout::SERVICE_ACCOUNT_TRUSTED, text, PUBLIC))
}

fn standing(ctx: &Context, purpose: CertPurpose) -> Standing {
    match ctx
        .material
        .get(&purpose)
        .and_then(|m| m.certificate.as_ref())
    {
        None => Standing::Missing,
        Some(CertificateSeen { not_after, .. }) if *not_after <= ctx.now => Standing::Missing,
        Some(CertificateSeen { not_before, .. }) if *not_before > ctx.now => Standing::TooEarly,
        Some(seen) => {
            let life = seen.not_after.as_nanosecond() - seen.not_before.as_nanosecond();
            let left = seen.not_after.as_nanosecond() - ctx.now.as_nanosecond();
            if left.saturating_mul(100) < life.saturating_mul(RENEW_BELOW_PERCENT) {
                Standing::Ending
            } else {
                Standing::Good
            }
        }
    }
}

/// What is missing, in words.
fn missing(ctx: &Context) -> Option<String> {
    let of = |wanted: Standing| -> Vec<&'static str> {
        purposes(ctx)
            .filter(|p| standing(ctx, *p) == wanted)
            .map(CertPurpose::dir)
            .collect()
    };
    let (absent, early) = (of(Standing::Missing), of(Standing::TooEarly));
    if !absent.is_empty() {
        let noun = if absent.len() == 1 {
            "certificate"
        } else {
            "certificates"
        };
        let mut names = absent[..absent.len().min(NAMED_MAX)].join(", ");
        if absent.len() > NAMED_MAX {
            names.push_str(", …");
        }
        return Some(format!("{} {noun} from the plane ({names})", absent.len()));
    }
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

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use jiff::{SignedDuration, Timestamp};

    fn at(ctx: &Context, hours: i64) -> Context {
        let mut ctx = ctx.clone();
        ctx.now = Timestamp::from_second(hours * 3600).unwrap_or_default();
        ctx
    }

    /// Certificates valid from hour 0 to hour 1000.
    fn ctx() -> Context {
        let mut ctx = samples::master("1.20.2");
        for material in ctx.material.values_mut() {
            if let Some(seen) = &mut material.certificate {
                seen.not_before = Timestamp::UNIX_EPOCH;
                seen.not_after = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1000);
            }
        }
        ctx
    }

    #[test]
    fn an_ending_certificate_is_wanted_and_holds_nothing_up() {
        let ctx = ctx();
        assert!(wanted(&at(&ctx, 699)).is_empty());
        assert_eq!(
            wanted(&at(&ctx, 701)).len(),
            CertPurpose::ALL.len(),
            "all of a master's"
        );
        assert!(steps(&at(&ctx, 701)).is_ok());
    }

    #[test]
    fn an_ended_or_missing_certificate_is_waited_for() {
        let mut ctx = ctx();
        let wait = steps(&at(&ctx, 1000)).expect_err("ended");
        assert!(wait.what.starts_with("14 certificates"), "{}", wait.what);
        assert!(wait.meanwhile.iter().any(|s| matches!(s, Step::Key { .. })));
        if let Some(m) = ctx.material.get_mut(&CertPurpose::KubeletServer) {
            m.certificate = None;
        }
        let wait = steps(&at(&ctx, 1)).expect_err("missing");
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
