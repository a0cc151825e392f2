//! Rotation of a cluster's authorities while the cluster works. Pure.
//!
//! ```text
//!              everybody trusts        everybody's certificates       everybody trusts
//!              both; held a while        are from the new one           only the new one
//!   announced ────────────────► signing ────────────────────► retired ────────────────► done
//!       │ ▲                        │
//!       │ └──────── abort ─────────┘
//!       └─ abort ─► old ─► as before
//! ```
//!
//! The whole cluster moves one stage at a time; a member with the order confirms it with its status, by the authorities
//! it trusts and the issuers of its certificates. Masters get the order one after the other, each when the previous one
//! is healthy again, because there a new authority restarts the API server and etcd; workers follow, a tenth of them at
//! a time. So at any instant members are in two neighbouring stages, in which everybody trusts everybody: the tests
//! hold that property. A member that is away is waited for, and named.
//!
//! Everything is in the cluster's row: a restarted plane resumes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::records::{Cluster, expose};
use super::refusal::{Answer, Refusal};
use super::rolls;
use pf9_hostagent::model::{
    Authorities, Authority, CertificateStatus, Digest, FaultCode, HostId, Role, Secret,
};

/// One in this many workers may change at a time.
const WORKERS_PART: usize = 10;

/// Stage of a member, or of the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stage {
    /// Only the old one is trusted, and it signs.
    Old,
    /// Both are trusted, the old one signs.
    Announced,
    /// Both are trusted, the new one signs.
    Signing,
    /// Only the new one is trusted, and it signs.
    Retired,
}

/// A new authority.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Successor {
    /// Its certificate.
    pub(super) pem: String,
    /// Its private key, PKCS#8 PEM.
    #[serde(serialize_with = "expose")]
    pub(super) key: Secret<String>,
}

/// A rotation in progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Rotation {
    /// The new ones.
    pub(super) next: BTreeMap<Authority, Successor>,
    /// The stage that every member should reach.
    pub(super) stage: Stage,
    /// It was aborted: the stages are reverted.
    pub(super) back: bool,
    pub(super) began_at: Timestamp,
    /// How long everybody trusts both before the new one signs: pods learn of it from a file that kubelet rewrites
    /// every minute or two.
    pub(super) hold_s: i64,
    /// Since when every member has reached the stage.
    pub(super) complete_since: Option<Timestamp>,
    /// The stage each member was ordered to.
    pub(super) told: BTreeMap<HostId, Stage>,
    /// Members that have confirmed their ordered stage.
    pub(super) confirmed: BTreeSet<HostId>,
}

/// The relevant part of a member's report.
pub(super) struct Report<'a> {
    /// It is healthy, and the report is about the newest spec.
    pub(super) settled: bool,
    /// Its certificates and the authorities it trusts.
    pub(super) certificates: &'a [CertificateStatus],
}

/// Starts it; the caller makes the new authorities.
pub(super) fn begin(
    cluster: &mut Cluster,
    next: BTreeMap<Authority, Successor>,
    hold_s: i64,
    now: Timestamp,
) -> Answer<()> {
    if cluster.rotation.is_some() {
        return Err(Refusal::conflict(
            FaultCode::RotationUnderWay,
            "a second rotation is not started",
            format!("one of cluster {} is under way", cluster.name),
        )
        .fix("see pf9-plane cluster authorities show; wait, or abort it"));
    }
    // Both restart masters; so does a roll that only completes a withdrawn order.
    rolls::require_free(cluster, "the rotation is not started")?;
    cluster.rotation = Some(Rotation {
        next,
        stage: Stage::Announced,
        back: false,
        began_at: now,
        hold_s,
        complete_since: None,
        told: cluster
            .members
            .iter()
            .map(|m| (m.host, Stage::Old))
            .collect(),
        confirmed: BTreeSet::new(),
    });
    Ok(())
}

/// Aborts it: members that advanced go back. Not once the old one is being removed.
pub(super) fn abort(cluster: &mut Cluster) -> Answer<()> {
    let what = "the rotation is not aborted";
    let Some(rotation) = &mut cluster.rotation else {
        return Err(Refusal::conflict(
            FaultCode::RotationNone,
            what,
            "none is under way",
        ));
    };
    let to = match rotation.stage {
        Stage::Old => return Ok(()),
        // Members ordered to trust both stay; those ordered to use the new one's certificates go back.
        Stage::Signing => Stage::Announced,
        Stage::Announced if rotation.back => return Ok(()),
        Stage::Announced => Stage::Old,
        Stage::Retired => {
            return Err(Refusal::conflict(
                FaultCode::RotationTooLate,
                what,
                "the old authority is being removed already",
            )
            .fix("wait until it is finished, and start another one"));
        }
    };
    // Members that are changing turn round at once: they may not have started yet, and no other gets an order before
    // they are healthy again.
    let under_way: Vec<HostId> = rotation
        .told
        .iter()
        .filter(|(host, told)| **told == rotation.stage && !rotation.confirmed.contains(host))
        .map(|(host, _)| *host)
        .collect();
    for host in under_way {
        rotation.told.insert(host, to);
    }
    rotation.back = true;
    rotation.enter(to);
    Ok(())
}

/// A member reported. True when the row changes.
pub(super) fn heard(cluster: &mut Cluster, host: HostId, report: &Report<'_>) -> bool {
    if !waits_for(cluster, host) || !report.settled || !is_there(cluster, host, report.certificates)
    {
        return false;
    }
    match &mut cluster.rotation {
        Some(rotation) => rotation.confirmed.insert(host),
        None => false,
    }
}

/// This member has the order for the stage and has not confirmed it.
fn waits_for(cluster: &Cluster, host: HostId) -> bool {
    let known = cluster.member(host).is_some();
    cluster
        .rotation
        .as_ref()
        .is_some_and(|r| known && r.of(host) == r.stage && !r.confirmed.contains(&host))
}

/// Its trusted authorities and certificates match the stage.
fn is_there(cluster: &Cluster, host: HostId, seen: &[CertificateStatus]) -> bool {
    let Some(rotation) = &cluster.rotation else {
        return false;
    };
    rotation.next.keys().all(|which| {
        let expected = digests(&bundle(cluster, host, *which));
        let of = |authority: bool| {
            let seen = seen.iter().filter(move |c| c.is_authority() == authority);
            seen.filter(|c| c.authority == *which)
        };
        let believed: BTreeSet<Digest> = of(true).map(|c| c.digest).collect();
        let signer = expected.first().copied();
        believed == expected.iter().copied().collect()
            && of(false).all(|c| Some(c.issuer) == signer)
    })
}

/// Advances as far as possible. Returns whether the row changed; the caller recomputes the specs.
pub(super) fn advance(cluster: &mut Cluster, now: Timestamp) -> bool {
    let Some(mut rotation) = cluster.rotation.take() else {
        return false;
    };
    let mut changed = rotation.take_in(cluster);
    loop {
        changed |= rotation.tell(cluster);
        let all = cluster
            .members
            .iter()
            .all(|m| rotation.confirmed.contains(&m.host));
        if !all {
            break;
        }
        let since = *rotation.complete_since.get_or_insert_with(|| {
            changed = true;
            now
        });
        let held = now.duration_since(since) >= SignedDuration::from_secs(rotation.hold_s);
        match (rotation.stage, rotation.back) {
            (Stage::Announced, false) if !held => break,
            (Stage::Announced, false) => rotation.enter(Stage::Signing),
            (Stage::Announced, true) => rotation.enter(Stage::Old),
            (Stage::Signing, _) => rotation.enter(Stage::Retired),
            (Stage::Old, _) => return true,
            (Stage::Retired, _) => {
                finish(cluster, rotation);
                return true;
            }
        }
        changed = true;
    }
    cluster.rotation = Some(rotation);
    changed
}

fn finish(cluster: &mut Cluster, rotation: Rotation) {
    for (which, successor) in rotation.next {
        *cluster.authorities.of_mut(which) = successor.pem;
        *cluster.keys.of_mut(which) = successor.key;
    }
}

/// The certificates of an authority in this member's spec; the first one signs.
fn bundle(cluster: &Cluster, host: HostId, which: Authority) -> String {
    let old = cluster.authorities.of(which);
    let next = cluster.rotation.as_ref().and_then(|r| {
        let successor = r.next.get(&which)?;
        Some((r.of(host), successor.pem.as_str()))
    });
    match next {
        None | Some((Stage::Old, _)) => old.to_owned(),
        Some((Stage::Announced, new)) => format!("{old}{new}"),
        Some((Stage::Signing, new)) => format!("{new}{old}"),
        Some((Stage::Retired, new)) => new.to_owned(),
    }
}

/// The authorities in this member's spec.
pub(super) fn authorities(cluster: &Cluster, host: HostId) -> Authorities {
    let mut out = cluster.authorities.clone();
    for which in Authority::ALL {
        *out.of_mut(*which) = bundle(cluster, host, *which);
    }
    out
}

/// Certificate and key of the authority that signs for this member.
pub(super) fn signer(cluster: &Cluster, host: HostId, which: Authority) -> (&str, &Secret<String>) {
    let stage = cluster.rotation.as_ref().map(|r| r.of(host));
    chosen(cluster, stage, which)
}

/// The same for the plane itself: everybody trusts its certificate.
pub(super) fn own_signer(cluster: &Cluster, which: Authority) -> (&str, &Secret<String>) {
    chosen(cluster, cluster.rotation.as_ref().map(|r| r.stage), which)
}

/// Authorities that the plane trusts: all that a member may use.
pub(super) fn own_believed(cluster: &Cluster, which: Authority) -> Vec<&str> {
    let next = cluster.rotation.as_ref().and_then(|r| r.next.get(&which));
    let next = next.map(|s| s.pem.as_str());
    std::iter::once(cluster.authorities.of(which))
        .chain(next)
        .collect()
}

fn chosen(cluster: &Cluster, stage: Option<Stage>, which: Authority) -> (&str, &Secret<String>) {
    let next = cluster.rotation.as_ref().and_then(|r| r.next.get(&which));
    match (stage, next) {
        (Some(Stage::Signing | Stage::Retired), Some(next)) => (&next.pem, &next.key),
        (Some(Stage::Old | Stage::Announced) | None, _)
        | (Some(Stage::Signing | Stage::Retired), None) => {
            (cluster.authorities.of(which), cluster.keys.of(which))
        }
    }
}

/// Digests of the certificates in a text, in order.
fn digests(pem: &str) -> Vec<Digest> {
    let all = pf9_hostagent::model::certificates(pem).into_iter();
    all.filter_map(super::ca::der_of)
        .map(|der| Digest::of(&der))
        .collect()
}

// === impl Rotation ===

impl Rotation {
    /// The stage a member was ordered to. One that was attached meanwhile starts at the cluster's stage.
    fn of(&self, host: HostId) -> Stage {
        self.told.get(&host).copied().unwrap_or(self.stage)
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.complete_since = None;
        self.confirmed.clear();
    }

    /// Adds new members and forgets former ones.
    fn take_in(&mut self, cluster: &Cluster) -> bool {
        let before = (self.told.len(), self.confirmed.len());
        self.told.retain(|host, _| cluster.member(*host).is_some());
        self.confirmed
            .retain(|host| cluster.member(*host).is_some());
        let gone = before != (self.told.len(), self.confirmed.len());
        let stage = self.stage;
        let mut came = false;
        for member in &cluster.members {
            self.told.entry(member.host).or_insert_with(|| {
                came = true;
                stage
            });
        }
        if came {
            self.complete_since = None;
        }
        gone || came
    }

    /// Orders the next members to the stage.
    fn tell(&mut self, cluster: &Cluster) -> bool {
        let of_role = |role: Role| cluster.members.iter().filter(move |m| m.role == role);
        let mut changed = false;
        for role in [Role::Master, Role::Worker] {
            let count = of_role(role).count();
            let at_once = match role {
                Role::Master => 1,
                Role::Worker | Role::None => (count / WORKERS_PART).max(1),
            };
            let under_way = of_role(role)
                .filter(|m| self.of(m.host) == self.stage && !self.confirmed.contains(&m.host))
                .count();
            let next: Vec<HostId> = of_role(role)
                .filter(|m| self.of(m.host) != self.stage)
                .map(|m| m.host)
                .take(at_once.saturating_sub(under_way))
                .collect();
            for host in next {
                self.told.insert(host, self.stage);
                changed = true;
            }
            if of_role(role).any(|m| !self.confirmed.contains(&m.host)) {
                // Workers after the masters.
                break;
            }
        }
        changed
    }

    /// Members waited for: with an order and not there yet; then those whose turn comes.
    pub(super) fn waited_for(&self, cluster: &Cluster) -> (Vec<HostId>, Vec<HostId>) {
        let left = cluster.members.iter().map(|m| m.host);
        left.filter(|host| !self.confirmed.contains(host))
            .partition(|host| self.of(*host) == self.stage)
    }
}

#[cfg(test)]
mod tests;
