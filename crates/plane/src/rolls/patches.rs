//! Patch releases that a cluster takes automatically, by its policy.
//!
//! Evaluated when a stack is imported, when the policy changes and when a roll ends: the input changes a few times a
//! month. What blocked a patch then may be over with any report of a master; until then `waiting` says what it is, from
//! the same rows. The cluster's own API is not asked before: no API is removed within a minor, and a budget that never
//! allows an eviction stops the roll at its node, with a reason.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::window::Patches;
use super::{
    Begin, By, Finding, Kind, Policy, State, Weight, gates, http, newest, plan, require_free,
};
use crate::agents::repository::trusted;
use crate::records::{CLUSTERS, Cluster, SPECS, Stack};
use crate::refusal::Answer;
use crate::stacks;
use crate::state::Change;
use crate::store::Read;
use pf9_hostagent::model::{
    ClusterId, Digest, DocumentKind, Fault, FaultCode, HostId, HostStatus, StackRef, TrustStore,
};

/// A patch for a cluster to take.
#[derive(Debug, PartialEq)]
struct Patch {
    stack: StackRef,
    /// Its steps ignore the window.
    at_once: bool,
}

/// What the policies of all clusters choose from.
struct Supply {
    stacks: Vec<Stack>,
    trust: TrustStore,
}

impl Supply {
    fn load(rows: &impl Read) -> Answer<Self> {
        Ok(Self {
            stacks: stacks::list(rows)?,
            trust: trusted(rows)?,
        })
    }
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
    if !takes_patches(cluster)
        || is_cancelled(cluster)
        || !cluster.masters().any(|m| m.host == host)
    {
        return Ok(());
    }
    // A restored plane has older specs than its hosts: nothing starts before a person recovered it.
    let issued = change.get(&SPECS, &host.to_string())?;
    if issued.is_none_or(|spec| spec.generation != status.observed_generation) {
        return Ok(());
    }
    let supply = Supply::load(&**change)?;
    match weighed(&**change, &supply, cluster, change.now)? {
        Some((patch, None)) => start(change, cluster, patch),
        Some((_, Some(_))) | None => Ok(()),
    }
}

/// A report changed a roll, which may have ended by it.
pub(super) fn ended(change: &mut Change<'_>, cluster: &mut Cluster) -> Answer<()> {
    match is_cancelled(cluster) {
        true => Ok(()),
        false => consider(change, cluster),
    }
}

/// Starts the roll that this cluster's policy asks for, if any, and stores it.
pub(crate) fn consider(change: &mut Change<'_>, cluster: &mut Cluster) -> Answer<()> {
    if !takes_patches(cluster) {
        return Ok(());
    }
    let supply = Supply::load(&**change)?;
    match weighed(&**change, &supply, cluster, change.now)? {
        Some((patch, None)) => start(change, cluster, patch),
        Some((_, Some(fault))) => {
            // A refusal must not fail the import or report that triggered this.
            tracing::warn!(cluster = %cluster.id, "{fault}");
            Ok(())
        }
        None => Ok(()),
    }
}

/// Clusters with a patch that their policy asks for and that does not start, each with what blocks it and what to do.
pub(crate) fn waiting(
    rows: &impl Read,
    clusters: &[Cluster],
    now: Timestamp,
) -> Answer<BTreeMap<ClusterId, Fault>> {
    if !clusters.iter().any(takes_patches) {
        return Ok(BTreeMap::new());
    }
    let supply = Supply::load(rows)?;
    let mut all = BTreeMap::new();
    for cluster in clusters {
        let Some((patch, blocked)) = weighed(rows, &supply, cluster, now)? else {
            continue;
        };
        let fault = match is_cancelled(cluster) {
            true => Some(cancelled(cluster, &patch.stack)),
            false => blocked,
        };
        all.extend(fault.map(|fault| (cluster.id, fault)));
    }
    Ok(all)
}

/// The same of one cluster.
pub(crate) fn waiting_for(
    rows: &impl Read,
    cluster: &Cluster,
    now: Timestamp,
) -> Answer<Option<Fault>> {
    Ok(waiting(rows, std::slice::from_ref(cluster), now)?.remove(&cluster.id))
}

fn takes_patches(cluster: &Cluster) -> bool {
    cluster.settings.upgrade.patches != Patches::Off
        && !cluster.members.is_empty()
        && !cluster.roll.as_ref().is_some_and(super::Roll::is_under_way)
}

/// What a person cancelled goes on by a person's word, or with the next patch that is imported; no report starts it.
fn is_cancelled(cluster: &Cluster) -> bool {
    newest(cluster, Kind::Stack).is_some_and(|roll| roll.state == State::Cancelled)
}

/// The patch that the policy asks for, and what blocks it. A store that fails is no reason of the cluster's.
fn weighed(
    rows: &impl Read,
    supply: &Supply,
    cluster: &Cluster,
    now: Timestamp,
) -> Answer<Option<(Patch, Option<Fault>)>> {
    if !takes_patches(cluster) {
        return Ok(None);
    }
    let Some(patch) = wanted(cluster, &supply.stacks, &supply.trust) else {
        return Ok(None);
    };
    let to = &patch.stack;
    // The end of the previous one may not have been acknowledged yet.
    let free = require_free(cluster, &not_started(to));
    let blocked = match free.and_then(|()| plan::make(rows, cluster, to, now)) {
        Ok(plan) => gates::stands(&plan.found, &[]).map(|finding| blocked(cluster, to, finding)),
        Err(refusal) if refusal.status.is_client_error() => {
            let mut fault = *refusal.fault;
            fault.what = not_started(to);
            Some(fault)
        }
        Err(refusal) => return Err(refusal),
    };
    Ok(Some((patch, blocked)))
}

fn start(change: &mut Change<'_>, cluster: &mut Cluster, patch: Patch) -> Answer<()> {
    let begin = Begin {
        to: patch.stack,
        policy: Policy {
            any_time: patch.at_once,
            ..Policy::default()
        },
        by: By::PatchPolicy,
        despite: Vec::new(),
    };
    http::begun(change, cluster, begin)
}

fn not_started(to: &StackRef) -> String {
    let version = &to.version;
    format!("the upgrade to stack {version}, which the patch policy asks for, is not started")
}

/// How a person starts it.
fn by_hand(cluster: &Cluster, to: &StackRef) -> String {
    let (name, version) = (&cluster.name, &to.version);
    format!("pf9-plane cluster upgrade {name} --to {version}")
}

/// In one sentence: what is not started, the finding, and what to do.
fn blocked(cluster: &Cluster, to: &StackRef, finding: &Finding) -> Fault {
    let (found, id) = (&finding.fault, &finding.id);
    let fix = match finding.weight {
        Weight::Blocks => {
            let by_hand = by_hand(cluster, to);
            format!(
                "{}; to start it anyway: {by_hand} --despite {id}",
                found.fix
            )
        }
        Weight::Refuses | Weight::Warns => found.fix.clone(),
    };
    let why = format!("{}: {}", found.what, found.why);
    Fault::new(found.code, not_started(to), why).fix(fix)
}

fn cancelled(cluster: &Cluster, to: &StackRef) -> Fault {
    let why = "the last upgrade was cancelled, and only a person or the next import starts one";
    let fix = format!("start it: {}", by_hand(cluster, to));
    Fault::new(FaultCode::RollNotNow, not_started(to), why).fix(fix)
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
            tracing::debug!(stack = %stack.reference, why = %e, "the stack's manifest cannot be verified");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::compute::tests::{cluster, now};
    use crate::rolls::testing::{key, roll_to, stack};
    use crate::rolls::{Goal, Roll, Way};
    use pf9_hostagent::model::{OsOrder, SigningKey};

    fn trust() -> TrustStore {
        TrustStore::new([key().trusted()]).expect("trust")
    }

    fn of(patches: Patches, all: &[Stack], began: Option<i64>) -> Option<(String, bool)> {
        let mut cluster = cluster();
        cluster.stack = all[0].reference.clone();
        cluster.settings.upgrade.patches = patches;
        cluster.roll = began.map(|hour| Roll {
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

    #[test]
    fn what_blocks_a_patch_is_said_with_what_to_do() {
        let (cluster, to) = (cluster(), stack("1.36.4-1", 1, false).reference);
        let of = |weight| {
            let fault = gates::blocked("node m1 is not healthy", "it is away").fix("look at it");
            let finding = gates::finding("node/m1", weight, fault);
            blocked(&cluster, &to, &finding).to_string()
        };
        let said = "the upgrade to stack 1.36.4-1, which the patch policy asks for, is not started: node m1 is not \
                    healthy: it is away; look at it";
        assert_eq!(of(Weight::Refuses), said, "nobody overrules it");
        let by_hand = format!(
            "pf9-plane cluster upgrade {} --to 1.36.4-1 --despite node/m1",
            cluster.name
        );
        let anyway = format!("{said}; to start it anyway: {by_hand}");
        assert_eq!(of(Weight::Blocks), anyway);
    }

    /// Only an upgrade counts: a cancelled update of the distributions says nothing about stacks.
    #[test]
    fn after_a_cancelled_upgrade_no_report_starts_a_patch() {
        let mut cluster = cluster();
        assert!(!is_cancelled(&cluster), "there was none");
        let upgrade = |state| Roll {
            state,
            ..roll_to(&cluster, &cluster.stack)
        };
        let update = |state, other: &Roll| Roll {
            goal: Goal::Os(OsOrder::default()),
            other: Some(Box::new(other.clone())),
            ..upgrade(state)
        };
        let (done, stopped) = (upgrade(State::Done), upgrade(State::Cancelled));
        let after = [
            (done.clone(), false),
            (stopped.clone(), true),
            (update(State::Done, &stopped), true),
            (update(State::Cancelled, &done), false),
        ];
        for (roll, held) in after {
            cluster.roll = Some(roll);
            assert_eq!(is_cancelled(&cluster), held, "{:?}", cluster.roll);
        }
    }
}
