//! Patch releases that a cluster takes automatically, by its policy: which one, what blocks it, and its start. The task
//! that looks and asks is `automatic`.
//!
//! They start as an operator's upgrade does: what the store knows first, then the findings of the cluster's own API, which
//! is asked only if nothing else blocks. What blocks a patch may be over with any report of a master; until then `waiting`
//! says what it is: from the same rows, and from the API's last answer, which the cluster's row keeps.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::window::Patches;
use super::{
    Begin, By, Finding, Kind, Policy, Roll, State, Weight, gates, http, newest, plan, require_free,
};
use crate::agents::repository::trusted;
use crate::records::{CLUSTERS, Cluster, SPECS, STATUSES, Stack};
use crate::refusal::{Answer, Refusal};
use crate::state::Change;
use crate::store::Read;
use crate::{recover, stacks, view};
use pf9_hostagent::model::{
    ClusterId, Digest, DocumentKind, Fault, FaultCode, HostId, NodeName, StackRef, TrustStore,
};

/// A patch for a cluster to take.
#[derive(Debug, PartialEq)]
struct Patch {
    stack: StackRef,
    /// Its steps ignore the window.
    at_once: bool,
    /// A person cancelled the last upgrade, and nothing was imported since: no report starts another one.
    cancelled: bool,
}

/// What a cluster's API had against a patch when it was last asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Blocked {
    to: StackRef,
    fault: Fault,
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

/// A master's status was stored: what blocked a patch may be over.
pub(super) fn heard(change: &mut Change<'_>, cluster: &Cluster, host: HostId) {
    if cluster.masters().any(|m| m.host == host) {
        consider(change, cluster);
    }
}

/// Has the task look at it, if it takes patches now.
pub(super) fn consider(change: &mut Change<'_>, cluster: &Cluster) {
    if takes_patches(cluster) {
        change.consider(cluster.id);
    }
}

/// A cluster's patch that nothing the plane knows blocks: its API is asked next.
pub(super) struct Free {
    pub(super) cluster: Cluster,
    pub(super) to: StackRef,
}

/// Those of these clusters (none: of all), and what failed for others.
pub(super) fn free(
    rows: &impl Read,
    which: Option<&BTreeSet<ClusterId>>,
    now: Timestamp,
) -> Answer<(Vec<Free>, Vec<Refusal>)> {
    let mut clusters = Vec::new();
    match which {
        Some(ids) => {
            for id in ids {
                clusters.extend(rows.get(&CLUSTERS, &id.to_string())?);
            }
        }
        None => clusters.extend(rows.all(&CLUSTERS)?.into_iter().map(|(_, cluster)| cluster)),
    }
    clusters.retain(takes_patches);
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    if clusters.is_empty() {
        return Ok((found, failed));
    }
    let supply = Supply::load(rows)?;
    for cluster in clusters {
        match weighed(rows, &supply, &cluster, now) {
            Ok(Some((patch, None))) => found.push(Free {
                cluster,
                to: patch.stack,
            }),
            Ok(Some((_, Some(_))) | None) => {}
            // The others do not wait for it.
            Err(refusal) => failed.push(refusal),
        }
    }
    Ok((found, failed))
}

/// What the cluster's API said is known: starts the patch, as an operator's upgrade starts, or keeps what blocks it. True
/// if it started.
pub(super) fn start(
    change: &mut Change<'_>,
    id: ClusterId,
    to: &StackRef,
    asked: Vec<Finding>,
) -> Answer<bool> {
    let Some(mut cluster) = change.get(&CLUSTERS, &id.to_string())? else {
        return Ok(false);
    };
    let supply = Supply::load(&**change)?;
    let patch = match weighed(&**change, &supply, &cluster, change.now)? {
        Some((patch, None)) if patch.stack == *to => patch,
        // Something else is wanted, or blocks it meanwhile.
        Some(_) | None => return Ok(false),
    };
    if let Some(finding) = gates::stands(&asked, &[]) {
        let fault = blocked(&cluster, to, finding);
        keep(change, &mut cluster, to, fault)?;
        return Ok(false);
    }
    cluster.patch_blocked = None;
    let begin = Begin {
        to: patch.stack,
        policy: Policy {
            any_time: patch.at_once,
            ..Policy::default()
        },
        by: By::PatchPolicy,
        despite: Vec::new(),
    };
    http::begin_unless(change, &mut cluster, begin, asked)?;
    Ok(true)
}

/// Keeps what the cluster's API has against it, for people.
fn keep(change: &mut Change<'_>, cluster: &mut Cluster, to: &StackRef, fault: Fault) -> Answer<()> {
    let blocked = Some(Blocked {
        to: to.clone(),
        fault,
    });
    if cluster.patch_blocked == blocked {
        return Ok(());
    }
    if let Some(blocked) = &blocked {
        tracing::warn!(cluster = %cluster.id, "{}", blocked.fault);
    }
    cluster.patch_blocked = blocked;
    Ok(change.put(&CLUSTERS, &cluster.id.to_string(), cluster)?)
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
    let mut waiting = BTreeMap::new();
    for cluster in clusters {
        let Some((patch, blocked)) = weighed(rows, &supply, cluster, now)? else {
            continue;
        };
        let said = cluster.patch_blocked.as_ref();
        let said = said.filter(|said| said.to == patch.stack);
        if let Some(fault) = blocked.or_else(|| said.map(|said| said.fault.clone())) {
            waiting.insert(cluster.id, fault);
        }
    }
    Ok(waiting)
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

/// The patch that the policy asks for, and what blocks it as far as the store knows.
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
    let blocked = match held(rows, cluster, &patch, now)? {
        Some(fault) => Some(fault),
        None => found(rows, cluster, &patch.stack, now)?,
    };
    Ok(Some((patch, blocked)))
}

/// What only a person, or the next import, ends.
fn held(
    rows: &impl Read,
    cluster: &Cluster,
    patch: &Patch,
    now: Timestamp,
) -> Answer<Option<Fault>> {
    if patch.cancelled {
        return Ok(Some(cancelled(cluster, &patch.stack)));
    }
    for master in cluster.masters() {
        let id = master.host.to_string();
        let said = rows.get(&STATUSES, &id)?;
        let Some(said) = said.filter(|said| view::is_responding(said, now)) else {
            continue;
        };
        let issued = rows.get(&SPECS, &id)?.map(|spec| spec.generation);
        if recover::is_beyond_belief(&said.status, issued) {
            return Ok(Some(odd(&master.node_name, &patch.stack)));
        }
        if recover::is_ahead(&said.status, issued) {
            return Ok(Some(restored(&master.node_name, &patch.stack)));
        }
    }
    Ok(None)
}

/// What blocks an upgrade to it, by an operator as well.
fn found(
    rows: &impl Read,
    cluster: &Cluster,
    to: &StackRef,
    now: Timestamp,
) -> Answer<Option<Fault>> {
    // The end of the previous one may not have been acknowledged yet.
    let free = require_free(cluster, &not_started(to));
    match free.and_then(|()| plan::make(rows, cluster, to, now)) {
        Ok(plan) => {
            Ok(gates::stands(&plan.found, &[]).map(|finding| blocked(cluster, to, finding)))
        }
        Err(refusal) if refusal.status.is_client_error() => {
            let mut fault = *refusal.fault;
            fault.what = not_started(to);
            Ok(Some(fault))
        }
        // The store failed: that is nothing about the patch.
        Err(refusal) => Err(refusal),
    }
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

/// Nothing starts before a person recovered the plane: its records may lack an upgrade.
fn restored(master: &NodeName, to: &StackRef) -> Fault {
    let why = format!(
        "this plane was restored from a backup: node {master} has a newer spec than its records"
    );
    Fault::new(FaultCode::RollNotNow, not_started(to), why).fix("run pf9-plane recover")
}

/// `pf9-plane recover` leaves such a host alone as well.
fn odd(master: &NodeName, to: &StackRef) -> Fault {
    let why = format!("node {master} says that it follows a spec that no plane can have issued");
    Fault::new(FaultCode::RollNotNow, not_started(to), why)
        .fix("inspect that machine: what reports for it may not be its agent")
}

/// The newest of its minor that is newer than what it has, and than the last decision.
fn wanted(cluster: &Cluster, all: &[Stack], trust: &TrustStore) -> Option<Patch> {
    let own = all.iter().find(|s| s.reference == cluster.stack)?;
    let version = |s: &Stack| s.kubernetes.parse::<semver::Version>().ok();
    let has = version(own)?;
    let last = newest(cluster, Kind::Stack);
    // A roll that a person reverted or cancelled is not started again automatically.
    let since = last.map(|r| r.began_at);
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
    let cancelled = last.filter(|roll| roll.state == State::Cancelled);
    let came = |roll: &Roll| {
        let ended = roll.ended_at.unwrap_or(roll.began_at);
        newer.iter().any(|(_, at, _)| *at > ended)
    };
    Some(Patch {
        stack: newest.reference.clone(),
        at_once,
        cancelled: cancelled.is_some_and(|roll| !came(roll)),
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
    use crate::compute::tests::{add, cluster, host, now};
    use crate::records::{STACKS, tables};
    use crate::rolls::testing::{key, roll_to, stack};
    use crate::rolls::{Goal, Way};
    use crate::store::Store;
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
    fn after_a_cancelled_upgrade_only_a_later_import_starts_a_patch() {
        let all = [stack("1.36.3-1", 0, false), stack("1.36.4-1", 2, false)];
        let mut cluster = cluster();
        cluster.stack = all[0].reference.clone();
        cluster.settings.upgrade.patches = Patches::Window;
        let held = |roll: Option<Roll>| {
            let mut cluster = cluster.clone();
            cluster.roll = roll;
            wanted(&cluster, &all, &trust()).expect("wanted").cancelled
        };
        assert!(!held(None), "there was none");
        // Began before the import; ended before or after it.
        let upgrade = |state, ended| Roll {
            state,
            began_at: now() + SignedDuration::from_hours(1),
            ended_at: Some(now() + ended),
            ..roll_to(&cluster, &cluster.stack)
        };
        let [before, after] = [90, 180].map(SignedDuration::from_mins);
        let update = |state, other: &Roll| Roll {
            goal: Goal::Os(OsOrder::default()),
            other: Some(Box::new(other.clone())),
            ..upgrade(state, after)
        };
        let (done, stopped) = (
            upgrade(State::Done, after),
            upgrade(State::Cancelled, after),
        );
        for (roll, want) in [
            (done.clone(), false),
            (stopped.clone(), true),
            (upgrade(State::Cancelled, before), false),
            (update(State::Done, &stopped), true),
            (update(State::Cancelled, &done), false),
        ] {
            assert_eq!(held(Some(roll.clone())), want, "{roll:?}");
        }
    }

    /// A patch for a cluster of a master and this worker, weighed.
    fn weighed_in(
        change: impl FnOnce(&mut Change<'_>, HostId),
    ) -> Answer<Option<(Patch, Option<Fault>)>> {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&dir.path().join("s"), &tables()).expect("store");
        let all = [stack("1.36.3-1", 0, false), stack("1.36.4-1", 1, false)];
        let mut cluster = cluster();
        add(&mut cluster, &[(1, true), (2, false)]).expect("attach");
        cluster.stack = all[0].reference.clone();
        cluster.settings.upgrade.patches = Patches::Window;
        let kept: Answer<()> = store.write(|write| {
            let mut open = Change::new(write, now());
            for stack in &all {
                open.put(&STACKS, &stack.reference.manifest.to_string(), stack)?;
            }
            change(&mut open, host(2));
            Ok(())
        });
        kept.expect("kept");
        let supply = Supply {
            stacks: all.into(),
            trust: trust(),
        };
        weighed(&store.read().expect("read"), &supply, &cluster, now())
    }

    #[test]
    fn a_store_that_fails_is_no_finding() {
        let (_, fault) = weighed_in(|_, _| {}).expect("read").expect("wanted");
        assert!(fault.is_some(), "its master never reported");
        let failed = weighed_in(|change, host| {
            let rows = STATUSES.as_type::<u64>();
            change.put(&rows, &host.to_string(), &5).expect("put");
        });
        let refusal = failed.expect_err("its row cannot be read");
        assert!(refusal.status.is_server_error(), "{}", refusal.fault);
    }
}
