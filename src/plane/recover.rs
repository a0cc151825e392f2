//! A plane that was restored from a backup: its hosts have newer specs than it, and refuse what it
//! sends. What they report says how far they are; a spec beyond that is obeyed again.
//!
//! Nothing is destroyed by the way: where a host says that it is a node and the restored rows say
//! that it is none, or another one, obeying would take the role away. Such a host is left out unless
//! its removal is asked for by name.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::compute;
use super::fleet;
use super::keys::{IDENTITY, IDENTITY_ROW, Ring};
use super::machines;
use super::records::{CLUSTERS, HOSTS};
use super::refusal::{Answer, Refusal};
use super::state::{Change, Plane};
use super::store::Read;
use super::trust;
use super::view::Known;
use crate::model::{
    Assignment, Digest, Fault, FaultCode, Generation, HostId, HostStatus, NodeState, Role,
    TrustStatus, TrustVersion,
};

/// Furthest a generation is raised: a thousand changes a day for years. A host that claims more
/// would use the numbers up.
const JUMP_MAX: u64 = 1_000_000;

/// What becomes of a host's refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// It obeys again; what is installed stays, or something is installed where nothing is.
    Obeys,
    /// It would obey, and by that remove the node it is.
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
    /// What changes for it, in words.
    pub(super) change: String,
}

/// What the plane can say of its own recovery.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Review {
    pub(super) rows: Vec<Row>,
    /// Hosts that have not reported since the plane started: they may be ahead, too.
    pub(super) silent: usize,
    /// Hosts that were told newer things of whom to believe than this plane would say.
    #[serde(default)]
    pub(super) told: usize,
}

/// Which hosts to raise.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    pub(super) hosts: Vec<HostId>,
    /// Of these, who may lose the node they are.
    #[serde(default)]
    pub(super) remove: Vec<HostId>,
}

/// Looks at every host.
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
                review
                    .rows
                    .extend(judge(&known, status, assignment.as_ref()));
            }
        }
    }
    Ok(review)
}

/// Raises the generations of these hosts: all of them, or none where one of them is not as it was
/// shown. Answers the new generations.
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
                                .fix("run pf9-plane recover again and look at what it shows"),
                        );
                    }
                }
                let above = row.plane_generation.max(row.host_generation);
                change.raise(host, above);
                raised.push((host, above.next()));
            }
            Ok(raised)
        })
        .await
}

/// Raises the numbers of the documents that say whom to believe, so that hosts take them again. What
/// they say is what this plane has: a key that was announced after the backup is lost with it.
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

/// What this plane's documents say of whom to believe.
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

    /// A host believes this, too.
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

/// The least version of a trust document that a host takes, which has applied one that ours cannot
/// follow, or another one of the same version: as many changes were made before the backup was
/// restored as after it. `None`: it takes ours, or its numbers are no plane's.
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

/// A host that believes nothing this plane signs: the backup is of before a key was replaced and
/// retired. No number helps there. `None`: it believes this plane, as far as it says.
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
        // An agent that does not say whom it trusts says whom not.
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
        true => "left out: it believes no key that this plane signs with".to_owned(),
        false => format!(
            "left out: it believes only what key {} signed, and this plane signs with {}",
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
                "restore a newer backup, or run on that machine pf9ctl prep-node --force --host-id \
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
            .fix("run pf9-plane recover again and look at what it shows")
    };
    let known = rows
        .get(&HOSTS, &host.to_string())?
        .ok_or_else(|| gone("it is not enrolled"))?;
    let known = fleet::known(plane, rows, known)?;
    let assignment = assignment(rows, &known)?;
    let ring = plane.keys.ring();
    heard(&known, plane.started)
        .and_then(|status| {
            deaf(&known, status, &ring).or_else(|| judge(&known, status, assignment.as_ref()))
        })
        .ok_or_else(|| gone("it is not ahead of the plane"))
}

fn assignment(rows: &impl Read, known: &Known) -> Answer<Option<Assignment>> {
    let cluster = match known.host.cluster {
        None => None,
        Some(id) => rows.get(&CLUSTERS, &id.to_string())?,
    };
    Ok(compute::assignment(known.host.id, cluster.as_ref()))
}

/// What it reported to this life of the plane; what is restored says nothing of now.
fn heard(known: &Known, started: Timestamp) -> Option<&HostStatus> {
    let received = known.status.as_ref()?;
    (received.received_at >= started).then_some(&received.status)
}

/// `None`: the host is not ahead of the plane.
fn judge(known: &Known, status: &HostStatus, next: Option<&Assignment>) -> Option<Row> {
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
        let why = format!("left out: no plane has signed {host} specs for a host; look at it");
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

/// The newest generation that the host or what is installed on it goes by.
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
        let why = "left out: its cluster has no master, so nothing can be said to it";
        return (Outcome::Left, why.to_owned());
    };
    // A host that does not need nodelet says so by being done with its spec without one.
    let idle =
        status.state == NodeState::Ok && status.observed_generation == status.accepted_generation;
    let now = match &status.node {
        Some(node) => node.installed.as_ref(),
        None if idle => None,
        None => {
            let why = "left out: it does not say yet whether it is a node; run this again soon";
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
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{ClusterId, DocumentKind, InstalledStatus, NodeStatus, SigningKey};
    use crate::plane::compute::tests::{add, cluster, host, host_row, now};
    use crate::plane::records::{IssuedSpec, ReceivedStatus};

    fn status(n: u8) -> HostStatus {
        serde_json::from_value(json!({
            "schema": 1, "host_id": host(n), "agent_version": "0", "boot_id": "b", "uptime_s": 1,
            "sent_at": now(), "accepted_generation": 0, "observed_generation": 0, "state": "ok",
            "reason": null, "refused": null, "node": null, "download": null,
            "inventory": {
                "hostname": format!("Node-{n}"), "os": "", "os_id": "", "os_version": "",
                "kernel": "", "arch": "amd64", "cpus": 1, "cpu_model": "", "memory_bytes": 1,
                "addresses": [format!("10.1.0.{n}")], "interfaces": [],
            },
            "health": {"load1": 0.0, "memory_available_bytes": 1, "disks": [], "warnings": []},
        }))
        .expect("status")
    }

    pub(in crate::plane) fn known(plane: u64) -> Known {
        let key = SigningKey::generate().expect("key").0;
        Known {
            host: host_row(1, None),
            status: None,
            copy: None,
            spec: Some(IssuedSpec {
                generation: Generation(plane),
                issued_at: now(),
                assignment: Assignment::None,
                envelope: key.sign(DocumentKind::Spec, b"{}"),
            }),
            connected: true,
            now: now(),
        }
    }

    pub(in crate::plane) fn reports(
        accepted: u64,
        installed: Option<(Role, ClusterId)>,
    ) -> HostStatus {
        let mut said = status(1);
        said.accepted_generation = Generation(accepted);
        said.observed_generation = Generation(accepted);
        let node: NodeStatus = serde_json::from_value(json!({
            "schema": 1, "revision": 1, "generation": accepted, "role": "worker",
            "cluster_id": null, "state": "ok", "reason": null, "attempts": 0, "phases": [],
            "current_step": null, "last_sweep_at": null, "stack": null, "wants_stack": null,
            "certificate_requests": [], "service_account_key": null, "certificates": [],
        }))
        .expect("node");
        said.node = installed.map(|(role, cluster_id)| NodeStatus {
            installed: Some(InstalledStatus {
                role,
                cluster_id,
                generation: Generation(accepted),
            }),
            ..node
        });
        said
    }

    fn worker() -> (Assignment, ClusterId) {
        let mut c = cluster();
        add(&mut c, &[(2, true), (1, false)]).expect("attach");
        let assignment = compute::assignment(host(1), Some(&c)).expect("assignment");
        (assignment, c.id)
    }

    fn outcome(plane: u64, said: &HostStatus, next: &Assignment) -> Option<Outcome> {
        judge(&known(plane), said, Some(next)).map(|row| row.outcome)
    }

    #[test]
    fn only_who_is_ahead_is_listed() {
        let none = Assignment::None;
        assert_eq!(outcome(5, &reports(5, None), &none), None);
        assert_eq!(outcome(6, &reports(5, None), &none), None);
        assert_eq!(outcome(4, &reports(5, None), &none), Some(Outcome::Obeys));
        let mut conflict = reports(5, None);
        conflict.refused = Some(Fault::new(FaultCode::SpecConflict, "a", "b"));
        assert_eq!(outcome(5, &conflict, &none), Some(Outcome::Obeys));
        assert_eq!(outcome(6, &conflict, &none), None, "it was before");
        // What is installed counts, though the agent's own state was lost.
        let (worker, cluster) = worker();
        let mut lost = reports(9, Some((Role::Worker, cluster)));
        lost.accepted_generation = Generation(2);
        lost.observed_generation = Generation(2);
        assert_eq!(outcome(4, &lost, &worker), Some(Outcome::Obeys));
    }

    #[test]
    fn who_was_told_more_is_told_again_with_greater_numbers() {
        let version = |plane, serial, revision| TrustVersion {
            plane: uuid::Uuid::from_u128(plane),
            serial,
            revision,
        };
        let has = |version| {
            let mut said = reports(1, None);
            said.trust = Some(crate::model::TrustStatus {
                version,
                ..Default::default()
            });
            said
        };
        let said = Said::default();
        let beyond = |ours, status: &HostStatus| super::beyond(ours, &said, status);
        let ours = version(1, 3, 5);
        assert_eq!(beyond(ours, &reports(1, None)), None, "it cannot be told");
        assert_eq!(beyond(ours, &has(None)), None);
        for taken in [version(1, 3, 5), version(1, 2, 0), version(2, 9, 9)] {
            assert_eq!(beyond(ours, &has(Some(taken))), None);
        }
        for ahead in [version(1, 4, 5), version(1, 3, 6), version(1, 9, 1)] {
            let next = beyond(ours, &has(Some(ahead))).expect("raised");
            assert!(next.may_follow(Some(&ahead)) && next.may_follow(Some(&ours)));
            assert_ne!(next, ahead, "it says something else under another number");
        }
        assert_eq!(beyond(ours, &has(Some(version(1, u64::MAX, 5)))), None);
    }

    #[test]
    fn who_believes_others_by_the_same_number_is_told_by_another() {
        let ours = TrustVersion {
            plane: uuid::Uuid::from_u128(1),
            serial: 3,
            revision: 5,
        };
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let said = Said {
            keys: ["k1".to_owned(), "k2".to_owned()].into(),
            authorities: [a, b].into(),
        };
        let next = |keys: &[&str], authorities: &[Digest]| {
            let mut status = reports(1, None);
            status.trust = Some(TrustStatus {
                version: Some(ours),
                keys: keys.iter().map(|k| (*k).to_owned()).collect(),
                authorities: authorities.to_vec(),
                ..Default::default()
            });
            beyond(ours, &said, &status)
        };
        assert_eq!(next(&["k2", "k1"], &[b, a]), None, "the order is none");
        for (keys, authorities) in [
            (&["k1", "k3"][..], &[a, b][..]),
            (&["k1"][..], &[a, b][..]),
            (&["k1", "k2"][..], &[a][..]),
            (&[][..], &[][..]),
        ] {
            let next = next(keys, authorities).expect("told anew");
            assert_eq!((next.serial, next.revision), (4, 5));
            assert!(next.may_follow(Some(&ours)));
        }
    }

    #[test]
    fn who_believes_no_key_of_this_plane_is_named_and_nothing_is_promised() {
        let trusting = |keys: &[&str]| {
            let mut said = reports(6, None);
            said.trust = Some(crate::model::TrustStatus {
                keys: keys.iter().map(|k| (*k).to_owned()).collect(),
                ..Default::default()
            });
            said
        };
        assert_eq!(why_deaf(&trusting(&["a", "b"]), &["a"], None), None);
        assert_eq!(why_deaf(&trusting(&["a"]), &["b", "a"], None), None);
        // Restored from before the key was announced, and from between that and its first signature.
        let lost = why_deaf(&trusting(&["b"]), &["a"], None).expect("named");
        assert!(lost.contains("only what key b signed"), "{lost}");
        assert!(lost.contains("prep-node --force --host-id"), "{lost}");
        let here = why_deaf(&trusting(&["b"]), &["a"], Some("b")).expect("named");
        assert!(here.contains("keys take-over signing"), "{here}");
        assert!(why_deaf(&trusting(&[]), &["a"], None).is_some());
        // An agent that does not tell: its refusal does.
        let mut silent = reports(6, None);
        assert_eq!(why_deaf(&silent, &["a"], None), None);
        silent.refused = Some(Fault::new(FaultCode::DocumentUntrusted, "a", "b"));
        assert!(why_deaf(&silent, &["a"], None).is_some());
    }

    #[test]
    fn a_node_is_never_removed_unasked() {
        let (worker, cluster) = worker();
        let node = |role, cluster| reports(9, Some((role, cluster)));
        let same = node(Role::Worker, cluster);
        assert_eq!(outcome(4, &same, &worker), Some(Outcome::Obeys));
        for (said, next) in [
            (&same, &Assignment::None),
            (&node(Role::Master, cluster), &worker),
            (&node(Role::Worker, ClusterId::random()), &worker),
        ] {
            assert_eq!(outcome(4, said, next), Some(Outcome::Removes));
        }
        assert_eq!(outcome(4, &reports(9, None), &worker), Some(Outcome::Obeys));
    }

    #[test]
    fn what_is_not_known_or_not_to_be_believed_is_left_out() {
        let (worker, _) = worker();
        let mut starting = reports(9, None);
        starting.observed_generation = Generation(0);
        starting.state = NodeState::Converging;
        assert_eq!(
            outcome(4, &starting, &Assignment::None),
            Some(Outcome::Left)
        );
        let liar = reports(u64::MAX, None);
        assert_eq!(outcome(4, &liar, &worker), Some(Outcome::Left));
        assert_eq!(
            outcome(0, &reports(JUMP_MAX, None), &worker),
            Some(Outcome::Obeys)
        );
        let row = judge(&known(4), &reports(9, None), None).expect("ahead");
        assert_eq!(row.outcome, Outcome::Left, "a cluster without a master");
    }

    #[test]
    fn what_was_restored_says_nothing_of_now() {
        let mut known = known(4);
        known.status = Some(ReceivedStatus {
            received_at: now(),
            status: reports(9, None),
        });
        let later = Timestamp::from_second(now().as_second() + 1).expect("time");
        assert!(heard(&known, later).is_none());
        assert!(heard(&known, now()).is_some());
    }
}
