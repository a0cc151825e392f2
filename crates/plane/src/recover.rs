//! A plane that was restored from a backup: its hosts have newer specs than it, and refuse what it sends. Their reports
//! show their generations; a spec beyond those is accepted again.
//!
//! The stack in a node's rows is taken from its report, and a roll in the rows is halted (`rolls::recovered`): a backup
//! from before an upgrade downgrades no node.
//!
//! Nothing is destroyed on the way: if a host reports that it is a node and the restored rows say that it is none, or
//! another one, accepting the spec would remove the role. Such a host is left out unless its removal is requested by
//! name.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::compute;
use super::fleet;
use super::keys::{IDENTITY, IDENTITY_ROW, Ring};
use super::machines;
use super::records::{CLUSTERS, HOSTS, STATUSES};
use super::refusal::{Answer, Refusal};
use super::rolls::recovered;
use super::stacks;
use super::state::{self, Change, Plane};
use super::store::Read;
use super::trust;
use super::view::Known;
use pf9_hostagent::model::{
    Assignment, Digest, Fault, FaultCode, Generation, HostId, HostStatus, NodeState, Role,
    TrustStatus, TrustVersion,
};

/// Largest raise of a generation: a thousand changes a day for years. A host that claims more would exhaust the
/// numbers.
const JUMP_MAX: u64 = 1_000_000;

/// What happens to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// It accepts specs again; what is installed stays, or something is installed where nothing is.
    Obeys,
    /// It would accept the spec, and thereby remove its node.
    Removes,
    /// Nothing is done.
    Left,
}

/// One host whose spec is newer than the plane's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) host: HostId,
    pub(super) hostname: String,
    pub(super) plane_generation: Generation,
    pub(super) host_generation: Generation,
    pub(super) outcome: Outcome,
    /// What changes for it, as text.
    pub(super) change: String,
}

/// The plane's view of its own recovery.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Review {
    pub(super) rows: Vec<Row>,
    /// Hosts that have not reported since the plane started: they may be ahead as well.
    pub(super) silent: usize,
    /// Hosts with newer trust documents than this plane would send.
    #[serde(default)]
    pub(super) told: usize,
}

/// Hosts to raise.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    pub(super) hosts: Vec<HostId>,
    /// Those among them that may lose their node.
    #[serde(default)]
    pub(super) remove: Vec<HostId>,
}

/// Checks every host.
pub(super) fn review(plane: &Plane, rows: &impl Read) -> Answer<Review> {
    let mut review = Review::default();
    let ring = plane.keys.ring();
    for known in fleet::all(plane, rows)? {
        match heard(&known, plane.started) {
            None => review.silent += 1,
            Some(status) => {
                if let Some(row) = deaf(&known, status, &ring) {
                    review.rows.push(row);
                    continue;
                }
                let ours = trust::version(rows, &ring, known.host.id)?;
                review.told += usize::from(beyond(ours, &Said::by(&ring), status).is_some());
                let assignment = assignment(rows, &known)?;
                let row = row_of(&known, status, assignment.as_ref());
                let row = row.map(|row| with_its_stack(rows, row, status));
                review.rows.extend(row.transpose()?);
            }
        }
    }
    Ok(review)
}

/// Raises the generations of these hosts: all, or none if one of them is not as it was shown. Returns the new
/// generations.
pub(super) async fn recover(
    plane: &Arc<Plane>,
    wanted: Wanted,
) -> Answer<Vec<(HostId, Generation)>> {
    let this = Arc::clone(plane);
    plane
        .change(move |change| {
            say_anew(change, &this)?;
            let mut raised = Vec::new();
            for host in wanted.hosts {
                let row = row(&this, &**change, host)?;
                let named = wanted.remove.contains(&host);
                match row.outcome {
                    Outcome::Obeys => {}
                    Outcome::Removes if named => {}
                    Outcome::Removes | Outcome::Left => {
                        let what = format!("generation of host {host} not raised");
                        return Err(
                            Refusal::conflict(FaultCode::RecoverChanged, what, row.change)
                                .fix("run pf9-plane recover again and check what it shows"),
                        );
                    }
                }
                if row.outcome == Outcome::Obeys {
                    take_over(change, host)?;
                }
                let above = row.plane_generation.max(row.host_generation);
                change.raise(host, above);
                raised.push((host, above.next()));
            }
            Ok(raised)
        })
        .await
}

/// Raises the numbers of the trust documents, so that hosts accept them again. Their content is what this plane has: a
/// key that was announced after the backup is lost with it.
fn say_anew(change: &mut Change<'_>, plane: &Plane) -> Answer<()> {
    let ring = plane.keys.ring();
    let (said, mut serial) = (Said::by(&ring), ring.serial());
    for known in fleet::all(plane, &**change)? {
        let (host, Some(status)) = (known.host.id, heard(&known, plane.started)) else {
            continue;
        };
        if deaf(&known, status, &ring).is_some() {
            continue;
        }
        let ours = trust::version(&**change, &ring, host)?;
        let Some(next) = beyond(ours, &said, status) else {
            continue;
        };
        serial = serial.max(next.serial);
        machines::raise(change, host, next.revision)?;
    }
    if serial > ring.serial() {
        let stored = ring.stored().clone().raised(serial);
        let ring =
            Ring::load(stored).map_err(|e| Refusal::internal("the keys cannot be used", &e))?;
        change.put(&IDENTITY, IDENTITY_ROW, ring.stored())?;
        change.keys(Arc::new(ring), []);
    }
    Ok(())
}

/// The trust anchors in this plane's documents.
#[derive(Default)]
struct Said {
    keys: BTreeSet<String>,
    authorities: BTreeSet<Digest>,
}

impl Said {
    fn by(ring: &Ring) -> Self {
        Self {
            keys: ring.trusted().into_iter().map(|k| k.id).collect(),
            authorities: ring
                .authorities
                .all()
                .map(|a| Digest::of(a.der()))
                .collect(),
        }
    }

    /// A host trusts this as well.
    fn is_believed(&self, trust: &TrustStatus) -> bool {
        self.keys
            .iter()
            .eq(trust.keys.iter().collect::<BTreeSet<_>>())
            && self
                .authorities
                .iter()
                .eq(trust.authorities.iter().collect::<BTreeSet<_>>())
    }
}

/// The smallest version of a trust document that a host accepts, if it has applied one that ours cannot follow, or a
/// different one of the same version: as many changes were made before the restore as after it. `None`: it accepts
/// ours, or its numbers are not a plane's.
fn beyond(ours: TrustVersion, said: &Said, status: &HostStatus) -> Option<TrustVersion> {
    let trust = status.trust.as_ref()?;
    let have = trust.version?;
    let other = have == ours && !said.is_believed(trust);
    if ours.may_follow(Some(&have)) && !other {
        return None;
    }
    if other {
        let serial = have.serial + 1;
        return Some(TrustVersion { serial, ..ours });
    }
    let jump = |ours: u64, have: u64| have.saturating_sub(ours);
    let far = jump(ours.serial, have.serial).max(jump(ours.revision, have.revision));
    let next = |ours: u64, have: u64| if have > ours { have + 1 } else { ours };
    (far <= JUMP_MAX).then(|| TrustVersion {
        plane: ours.plane,
        serial: next(ours.serial, have.serial),
        revision: next(ours.revision, have.revision),
    })
}

/// A host that trusts nothing this plane signs: the backup is older than a key that was replaced and retired. No number
/// helps there. `None`: it trusts this plane, as far as it reports.
fn deaf(known: &Known, status: &HostStatus, ring: &Ring) -> Option<Row> {
    let signers: Vec<&str> = ring.signing.signers().map(|k| k.id()).collect();
    let next = ring.signing.next.as_ref().map(|k| k.id());
    let change = why_deaf(status, &signers, next)?;
    Some(Row {
        host: known.host.id,
        hostname: known.host.hostname.clone(),
        plane_generation: generation_of(known),
        host_generation: newest_of(status),
        outcome: Outcome::Left,
        change,
    })
}

fn why_deaf(status: &HostStatus, signers: &[&str], next: Option<&str>) -> Option<String> {
    let trusts = match &status.trust {
        Some(trust) => trust.keys.as_slice(),
        // An agent that does not report its trust anchors reports what it refused.
        None => {
            let refuses = |f: &Fault| f.code == FaultCode::DocumentUntrusted;
            status.refused.as_ref().filter(|f| refuses(f))?;
            &[]
        }
    };
    if trusts.iter().any(|k| signers.contains(&k.as_str())) {
        return None;
    }
    let what = match trusts.is_empty() {
        true => "skipped: it trusts none of the keys this plane signs with".to_owned(),
        false => format!(
            "skipped: it trusts only key {}, and this plane signs with {}",
            trusts.join(", "),
            signers.join(", ")
        ),
    };
    let helps = match next {
        Some(next) if trusts.iter().any(|k| k == next) => {
            "pf9-plane keys take-over signing: that key is announced here".to_owned()
        }
        Some(_) | None => {
            let id = status.host_id;
            format!(
                "restore a newer backup, or run on that machine pf9ctl node prep --force --host-id \
                 {id} with a new token: role and workloads stay"
            )
        }
    };
    Some(format!("{what}; {helps}; then run this again"))
}

fn row(plane: &Plane, rows: &impl Read, host: HostId) -> Answer<Row> {
    let gone = |why: &str| {
        let what = format!("generation of host {host} not raised");
        Refusal::conflict(FaultCode::RecoverChanged, what, why)
            .fix("run pf9-plane recover again and check what it shows")
    };
    let known = rows
        .get(&HOSTS, &host.to_string())?
        .ok_or_else(|| gone("it is not enrolled"))?;
    let known = fleet::known(plane, rows, known)?;
    let assignment = assignment(rows, &known)?;
    let ring = plane.keys.ring();
    let ahead = heard(&known, plane.started).and_then(|status| {
        let row = deaf(&known, status, &ring);
        let row = row.or_else(|| row_of(&known, status, assignment.as_ref()));
        row.map(|row| (row, status))
    });
    let (row, status) = ahead.ok_or_else(|| gone("it is not ahead of the plane"))?;
    with_its_stack(rows, row, status)
}

/// Left out if its stack cannot be adopted.
fn with_its_stack(rows: &impl Read, mut row: Row, status: &HostStatus) -> Answer<Row> {
    let node = status
        .node
        .as_ref()
        .filter(|_| row.outcome == Outcome::Obeys);
    if let Some(node) = node
        && let Err(why) = recovered::had(node, &stacks::list(rows)?)
    {
        (row.outcome, row.change) = (Outcome::Left, why);
    }
    Ok(row)
}

/// Sets the stack in this node's rows to the one it reports.
fn take_over(change: &mut Change<'_>, host: HostId) -> Answer<()> {
    let Some(mut cluster) = state::cluster_of(&**change, host)? else {
        return Ok(());
    };
    let said = change.get(&STATUSES, &host.to_string())?;
    let Some(node) = said.and_then(|said| said.status.node) else {
        return Ok(());
    };
    let Ok(Some(had)) = recovered::had(&node, &stacks::list(&**change)?) else {
        return Ok(());
    };
    recovered::take(&mut cluster, host, had);
    recovered::hold(&mut cluster);
    change.put(&CLUSTERS, &cluster.id.to_string(), &cluster)?;
    change.touch_cluster(&cluster);
    Ok(())
}

fn assignment(rows: &impl Read, known: &Known) -> Answer<Option<Assignment>> {
    let cluster = match known.host.cluster {
        None => None,
        Some(id) => rows.get(&CLUSTERS, &id.to_string())?,
    };
    Ok(compute::assignment(known.host.id, cluster.as_ref()))
}

/// Its report to this run of the plane; restored ones are not about the present.
fn heard(known: &Known, started: Timestamp) -> Option<&HostStatus> {
    let received = known.status.as_ref()?;
    (received.received_at >= started).then_some(&received.status)
}

/// `None`: the host is not ahead of the plane.
fn row_of(known: &Known, status: &HostStatus, next: Option<&Assignment>) -> Option<Row> {
    let plane = generation_of(known);
    let host = newest_of(status);
    let conflict = status
        .refused
        .as_ref()
        .is_some_and(|f| f.code.wants_greater_generation())
        && host == plane;
    if host <= plane && !conflict {
        return None;
    }
    let (outcome, change) = if host.0 - plane.0 > JUMP_MAX {
        let why = format!("skipped: no plane has signed {host} specs for a host; inspect it");
        (Outcome::Left, why)
    } else {
        becomes(status, next)
    };
    Some(Row {
        host: known.host.id,
        hostname: known.host.hostname.clone(),
        plane_generation: plane,
        host_generation: host,
        outcome,
        change,
    })
}

fn generation_of(known: &Known) -> Generation {
    let spec = known.spec.as_ref();
    spec.map_or(Generation::default(), |s| s.generation)
}

/// The host follows a newer spec than this plane issued to it.
pub(super) fn is_ahead(status: &HostStatus, issued: Option<Generation>) -> bool {
    newest_of(status) > issued.unwrap_or_default()
}

/// Further ahead than any plane counts: what reports for this host may not be its agent.
pub(super) fn is_beyond_belief(status: &HostStatus, issued: Option<Generation>) -> bool {
    let ahead = newest_of(status)
        .0
        .saturating_sub(issued.unwrap_or_default().0);
    ahead > JUMP_MAX
}

/// The newest generation that the host, or what is installed on it, follows.
fn newest_of(status: &HostStatus) -> Generation {
    let installed = status.node.as_ref().and_then(|n| n.installed.as_ref());
    let installed = installed.map_or(Generation::default(), |i| i.generation);
    status
        .accepted_generation
        .max(status.observed_generation)
        .max(installed)
}

fn becomes(status: &HostStatus, next: Option<&Assignment>) -> (Outcome, String) {
    let Some(next) = next else {
        let why = "skipped: its cluster has no master, so no spec can be made for it";
        return (Outcome::Left, why.to_owned());
    };
    // A host that needs no nodelet shows it by completing its spec without one.
    let idle =
        status.state == NodeState::Ok && status.observed_generation == status.accepted_generation;
    let now = match &status.node {
        Some(node) => node.installed.as_ref(),
        None if idle => None,
        None => {
            let why = "skipped: it has not reported yet whether it is a node; run this again soon";
            return (Outcome::Left, why.to_owned());
        }
    };
    let next_cluster = next.node().map(|n| n.cluster_id);
    let named = |role: Role, name: &str| format!("{role} of cluster {name}");
    let wanted = next.node().map(|n| named(next.role(), &n.cluster_name));
    match (now, wanted) {
        (None, None) => (Outcome::Obeys, "stays without a role".to_owned()),
        (None, Some(wanted)) => (Outcome::Obeys, format!("is made {wanted}")),
        (Some(now), Some(wanted))
            if now.role == next.role() && Some(now.cluster_id) == next_cluster =>
        {
            (
                Outcome::Obeys,
                format!("stays {wanted}, by the plane's settings"),
            )
        }
        (Some(now), wanted) => {
            let is = named(now.role, &now.cluster_id.to_string());
            let then = wanted.map_or_else(String::new, |w| format!(", and is made {w}"));
            (
                Outcome::Removes,
                format!("its node is REMOVED ({is}){then}"),
            )
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
