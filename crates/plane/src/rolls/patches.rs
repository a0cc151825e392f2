//! Patch releases that a cluster takes automatically, by its policy.
//!
//! Evaluated when a stack is imported, when the policy changes and when a roll ends: the input changes a few times a
//! month. What blocked a patch then may be over with any report of a master. The cluster's own API is not asked before:
//! no API is removed within a minor, and a budget that never allows an eviction stops the roll at its node, with a
//! reason.

use super::window::Patches;
use super::{Begin, By, Kind, Part, Policy, State, gates, http, newest, plan};
use crate::agents::repository::trusted;
use crate::records::{CLUSTERS, Cluster, SPECS, Stack};
use crate::refusal::Answer;
use crate::stacks;
use crate::state::Change;
use crate::store::Read;
use pf9_hostagent::model::{Digest, DocumentKind, HostId, HostStatus, StackRef, TrustStore};

/// A patch for a cluster to take.
#[derive(Debug, PartialEq)]
struct Patch {
    stack: StackRef,
    /// Its steps ignore the window.
    at_once: bool,
}

/// A stack was imported: starts it on clusters whose policy wants it.
pub(crate) fn imported(change: &mut Change<'_>) -> Answer<()> {
    for (_, mut cluster) in change.all(&CLUSTERS)? {
        consider(change, &mut cluster)?;
    }
    Ok(())
}

/// A master's status was stored: starts what the cluster's policy asks for and could not start before, such as while that
/// master was unhealthy. Nothing is logged while something still blocks it.
pub(super) fn heard(
    change: &mut Change<'_>,
    cluster: &mut Cluster,
    host: HostId,
    status: &HostStatus,
) -> Answer<()> {
    // What a person cancelled goes on by a person's word, or with the next patch that is imported.
    let held = |roll: &super::Roll| {
        roll.state == State::Cancelled || roll.parts.values().any(Part::is_between)
    };
    if !takes_patches(cluster)
        || !cluster.masters().any(|m| m.host == host)
        || cluster.roll.as_ref().is_some_and(held)
    {
        return Ok(());
    }
    // A restored plane has older specs than its hosts: nothing starts before a person recovered it.
    let issued = change.get(&SPECS, &host.to_string())?;
    if issued.is_none_or(|spec| spec.generation != status.observed_generation) {
        return Ok(());
    }
    let (all, trust) = (stacks::list(&**change)?, trusted(&**change)?);
    let Some(patch) = wanted(cluster, &all, &trust) else {
        return Ok(());
    };
    let plan = plan::make(&**change, cluster, &patch.stack, change.now);
    match plan.is_ok_and(|plan| gates::stands(&plan.found, &[]).is_none()) {
        true => consider(change, cluster),
        false => Ok(()),
    }
}

fn takes_patches(cluster: &Cluster) -> bool {
    cluster.settings.upgrade.patches != Patches::Off
        && !cluster.members.is_empty()
        && !cluster.roll.as_ref().is_some_and(super::Roll::is_under_way)
}

/// Starts the roll that this cluster's policy asks for, if any, and stores it.
pub(crate) fn consider(change: &mut Change<'_>, cluster: &mut Cluster) -> Answer<()> {
    if !takes_patches(cluster) {
        return Ok(());
    }
    let all = stacks::list(&**change)?;
    let trust = trusted(&**change)?;
    let Some(patch) = wanted(cluster, &all, &trust) else {
        return Ok(());
    };
    let version = patch.stack.version.clone();
    // A refusal must not fail the import or report that triggered this.
    let plan = match plan::make(&**change, cluster, &patch.stack, change.now) {
        Ok(plan) => plan,
        Err(refusal) => {
            tracing::warn!(cluster = %cluster.id, stack = version, "patch not started: {}", refusal.fault);
            return Ok(());
        }
    };
    if let Some(finding) = gates::stands(&plan.found, &[]) {
        let id = &finding.id;
        tracing::warn!(cluster = %cluster.id, stack = version, id, "patch not started: {}", finding.fault);
        return Ok(());
    }
    let begin = Begin {
        to: patch.stack,
        policy: Policy {
            any_time: patch.at_once,
            ..Policy::default()
        },
        by: By::PatchPolicy,
        despite: Vec::new(),
    };
    let mut begun = cluster.clone();
    match http::begun(change, &mut begun, begin) {
        Ok(()) => *cluster = begun,
        // The end of the previous one has not been acknowledged yet.
        Err(refusal) if refusal.status.is_client_error() => {
            tracing::warn!(cluster = %cluster.id, stack = version, "patch not started: {}", refusal.fault);
        }
        Err(refusal) => return Err(refusal),
    }
    Ok(())
}

/// The newest of its minor that is newer than what it has, and than the last decision.
fn wanted(cluster: &Cluster, all: &[Stack], trust: &TrustStore) -> Option<Patch> {
    let own = all.iter().find(|s| s.reference == cluster.stack)?;
    let version = |s: &Stack| s.kubernetes.parse::<semver::Version>().ok();
    let has = version(own)?;
    // A roll that a person reverted or cancelled is not started again automatically.
    let since = newest(cluster, Kind::Stack).map(|r| r.began_at);
    let newer = all.iter().filter_map(|stack| {
        let of = version(stack)?;
        let follows = (of.major, of.minor) == (has.major, has.minor)
            && (of > has || (of == has && stack.imported_at > own.imported_at))
            && since.is_none_or(|since| stack.imported_at > since);
        follows.then_some((of, stack.imported_at, stack))
    });
    let newer: Vec<_> = newer.collect();
    let (_, _, newest) = newer.iter().max_by_key(|(of, at, _)| (of.clone(), *at))?;
    let at_once = match cluster.settings.upgrade.patches {
        Patches::AtOnce => newer.iter().any(|(_, _, s)| mends(s, trust)),
        Patches::Window | Patches::Off => false,
    };
    Some(Patch {
        stack: newest.reference.clone(),
        at_once,
    })
}

/// Whether the plane signed that it fixes a security fault.
fn mends(stack: &Stack, trust: &TrustStore) -> bool {
    match stack.envelope.verify(DocumentKind::StackManifest, trust) {
        Ok(bytes) => {
            Digest::of(&bytes) == stack.reference.manifest
                && stack.content().is_ok_and(|content| content.security)
        }
        Err(e) => {
            tracing::warn!(stack = %stack.reference, why = %e, "the stack's manifest cannot be verified");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::compute::tests::{cluster, now};
    use crate::rolls::Way;
    use crate::rolls::testing::{key, roll_to, stack};
    use pf9_hostagent::model::SigningKey;

    fn trust() -> TrustStore {
        TrustStore::new([key().trusted()]).expect("trust")
    }

    fn of(patches: Patches, all: &[Stack], began: Option<i64>) -> Option<(String, bool)> {
        let mut cluster = cluster();
        cluster.stack = all[0].reference.clone();
        cluster.settings.upgrade.patches = patches;
        cluster.roll = began.map(|hour| super::super::Roll {
            way: Way::Back,
            state: State::Done,
            began_at: now() + SignedDuration::from_hours(hour),
            ..roll_to(&cluster, &cluster.stack)
        });
        let found = wanted(&cluster, all, &trust())?;
        Some((found.stack.version, found.at_once))
    }

    #[test]
    fn the_newest_patch_of_the_minor_and_at_once_only_security_fixes() {
        let own = || stack("1.36.3-1", 0, false);
        let plain = [
            own(),
            stack("1.36.4-1", 1, false),
            stack("1.37.2-1", 2, true),
        ];
        for policy in [Patches::Window, Patches::AtOnce] {
            assert_eq!(of(policy, &plain, None), Some(("1.36.4-1".into(), false)));
        }
        let mends = [
            own(),
            stack("1.36.4-1", 1, true),
            stack("1.36.5-1", 2, false),
        ];
        let newest = |at_once| Some(("1.36.5-1".to_owned(), at_once));
        assert_eq!(of(Patches::Window, &mends, None), newest(false));
        assert_eq!(
            of(Patches::AtOnce, &mends, None),
            newest(true),
            "what mends is in it"
        );
        let rebuilt = [own(), stack("1.36.3-2", 1, true)];
        assert_eq!(
            of(Patches::AtOnce, &rebuilt, None),
            Some(("1.36.3-2".into(), true))
        );
        let old = [
            own(),
            stack("1.36.1-1", 1, true),
            stack("1.35.9-1", 2, true),
        ];
        assert_eq!(of(Patches::AtOnce, &old, None), None);
    }

    /// A row alone proves nothing, nor does a signature by another key or over something else.
    #[test]
    fn only_the_planes_signature_proves_a_security_fix() {
        let signed = || stack("1.36.4-1", 1, true);
        let plain = || stack("1.36.4-1", 1, false);
        let at_once = |patch: Stack| {
            let found = of(Patches::AtOnce, &[stack("1.36.3-1", 0, false), patch], None);
            found.expect("it follows").1
        };
        assert!(at_once(signed()));
        let bytes = signed()
            .envelope
            .verify(DocumentKind::StackManifest, &trust())
            .expect("signed");
        let (stranger, _) = SigningKey::generate().expect("key");
        let mut foreign = signed();
        foreign.envelope = stranger.sign(DocumentKind::StackManifest, &bytes);
        let mut of_a_kind = signed();
        of_a_kind.envelope = key().sign(DocumentKind::AgentRelease, &bytes);
        let mut changed = signed();
        changed.envelope = plain().envelope;
        changed.envelope.payload = signed().envelope.payload;
        let mut of_another = plain();
        of_another.envelope = signed().envelope;
        for forged in [foreign, of_a_kind, changed, of_another] {
            assert!(!at_once(forged.clone()), "{forged:?}");
        }
    }

    #[test]
    fn a_version_that_was_rolled_back_by_hand_is_not_restarted() {
        let all = [stack("1.36.3-1", 0, false), stack("1.36.4-1", 1, false)];
        assert_eq!(of(Patches::Window, &all, Some(2)), None);
        assert!(of(Patches::Window, &all, Some(0)).is_some());
    }
}
