//! Trust anchors of hosts: each host's trust document, and which hosts have followed it.
//!
//! The document is made on request, and signed by every key that may be the only one a host knows: a host that was away
//! while a key was announced finds a signature that it trusts.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::Value;

use super::clocks;
use super::hostapi::Caller;
use super::keys::{Kind, Ring};
use super::machines::{self, MACHINES};
use super::records::{HOSTS, SPECS, STATUSES};
use super::refusal::{Answer, Refusal};
use super::state::Plane;
use super::store::Read;
use pf9_hostagent::model::{
    Digest, DocumentKind, Envelope, Generation, HoldOrder, HostId, HostStatus, Role, StatusAnswer,
    TRUST_SCHEMA, Timestamp, TrustAnswer, TrustDocument, TrustStatus, TrustVersion,
};

/// Version of a host's newest document.
pub(super) fn version(rows: &impl Read, ring: &Ring, host: HostId) -> Answer<TrustVersion> {
    let row = rows.get(&MACHINES, &host.to_string())?;
    Ok(TrustVersion {
        plane: ring.plane(),
        serial: ring.serial(),
        revision: row.map_or(0, |r| r.revision),
    })
}

/// `GET /v1/hosts/self/trust`.
pub(super) async fn get(
    Caller(host): Caller,
    State(plane): State<Arc<Plane>>,
) -> Answer<Json<TrustAnswer>> {
    let documents = documents(&plane.read()?, &plane.keys.ring(), host, None)?;
    Ok(Json(TrustAnswer { documents }))
}

/// A host's document under each signature.
pub(super) fn documents(
    rows: &impl Read,
    ring: &Ring,
    host: HostId,
    hold: Option<HoldOrder>,
) -> Answer<Vec<Envelope>> {
    let row = rows.get(&MACHINES, &host.to_string())?.unwrap_or_default();
    let document = TrustDocument {
        schema: TRUST_SCHEMA,
        host_id: host,
        version: version(rows, ring, host)?,
        issued_at: pf9_hostagent::seam::clock::now(),
        keys: ring.trusted(),
        authorities: ring.bundle(),
        machine: row.marks,
        hold,
    };
    let bytes = serde_json::to_vec(&document)
        .map_err(|e| Refusal::internal("cannot write the trust document", &e))?;
    let signers = ring.signing.signers();
    Ok(signers
        .map(|key| key.sign(DocumentKind::Trust, &bytes))
        .collect())
}

/// The answer to a host's report, if there is news.
pub(super) fn answer(
    rows: &impl Read,
    ring: &Ring,
    host: HostId,
    status: &HostStatus,
    now: Timestamp,
) -> Answer<Option<StatusAnswer>> {
    let newest = version(rows, ring, host)?;
    // An agent that cannot apply a document gets no notice. Nor one whose documents are newer than this plane's store:
    // it would refuse ours.
    let behind =
        |t: &TrustStatus| t.version != Some(newest) && newest.may_follow(t.version.as_ref());
    let trust = status.trust.as_ref().is_some_and(behind).then_some(newest);
    let mut notices = machines::notices(rows, host)?;
    notices.extend(clocks::notice(status.sent_at, now));
    let answer = StatusAnswer { trust, notices };
    Ok((answer != StatusAnswer::default()).then_some(answer))
}

/// One host, as far as a rotation of keys concerns it.
#[derive(Clone, Debug, Default)]
pub(super) struct Follower {
    /// What it reports to trust.
    pub(super) trust: Option<TrustStatus>,
    /// Generation of its newest spec.
    pub(super) generation: Generation,
    /// Generation that its node follows; none without a role.
    pub(super) node: Option<Generation>,
    /// The authority that issued its certificate.
    pub(super) authority: Option<Digest>,
}

/// What a host must have done before a step.
pub(super) enum Before<'a> {
    /// It trusts this signing key.
    TrustsKey(&'a str),
    /// It trusts this authority.
    TrustsAuthority(Digest),
    /// It needs no other signing key than this.
    NeedsKey(&'a str),
    /// It needs no other authority than this.
    NeedsAuthority(Digest),
}

impl Before<'_> {
    /// Why a host is not there yet; `None`: it is.
    pub(super) fn waits(&self, host: &Follower) -> Option<&'static str> {
        let Some(trust) = &host.trust else {
            return Some("it has not reported which keys it trusts");
        };
        let has_key = |id: &str| trust.keys.iter().any(|k| k == id);
        match self {
            Self::TrustsKey(id) => (!has_key(id)).then_some("it does not trust the new key yet"),
            Self::TrustsAuthority(ca) => {
                let trusts = trust.authorities.contains(ca);
                (!trusts).then_some("it does not trust the new authority yet")
            }
            Self::NeedsKey(id) => {
                let by = |signed: &Option<String>| signed.as_deref().is_none_or(|k| k == *id);
                if !has_key(id) {
                    Some("it does not trust the new key yet")
                } else if trust.spec_key.as_deref() != Some(*id) {
                    Some("its spec is signed by the old key")
                } else if host.node.is_some_and(|n| n < host.generation) {
                    Some("its node follows a spec signed by the old key")
                } else if !by(&trust.stack_key) {
                    Some("its stack is signed by the old key")
                } else {
                    None
                }
            }
            Self::NeedsAuthority(ca) => {
                if !trust.authorities.contains(ca) {
                    Some("it does not trust the new authority yet")
                } else if host.authority != Some(*ca) {
                    Some("its certificate is from the old authority")
                } else {
                    None
                }
            }
        }
    }
}

/// Every host that is not there yet, and why.
pub(super) fn who_waits(
    rows: &impl Read,
    before: &Before<'_>,
) -> Answer<Vec<(HostId, &'static str)>> {
    let mut waiting = Vec::new();
    for (key, host) in rows.all(&HOSTS)? {
        let status = rows.get(&STATUSES, &key)?.map(|s| s.status);
        let node = status.as_ref().and_then(|s| s.node.as_ref());
        let follower = Follower {
            generation: rows
                .get(&SPECS, &key)?
                .map(|s| s.generation)
                .unwrap_or_default(),
            node: node.filter(|n| n.role != Role::None).map(|n| n.generation),
            authority: rows.get(&MACHINES, &key)?.and_then(|m| m.authority),
            trust: status.and_then(|s| s.trust),
        };
        if let Some(why) = before.waits(&follower) {
            waiting.push((host.id, why));
        }
    }
    Ok(waiting)
}

/// The ids of a ring's keys of one kind: current, next, old.
pub(super) fn names(ring: &Ring, kind: Kind) -> [Option<String>; 3] {
    match kind {
        Kind::Signing => {
            let turn = &ring.signing;
            [Some(&turn.current), turn.next.as_ref(), turn.old.as_ref()]
                .map(|key| key.map(|k| k.id().to_owned()))
        }
        Kind::Authority => {
            let turn = &ring.authorities;
            [Some(&turn.current), turn.next.as_ref(), turn.old.as_ref()]
                .map(|ca| ca.map(|ca| Digest::of(ca.der()).to_string()))
        }
    }
}

/// The waiting hosts, for people and programs.
pub(super) fn waiting_json(waiting: &[(HostId, &'static str)]) -> Value {
    waiting
        .iter()
        .map(|(host, why)| serde_json::json!({"host": host, "why": why}))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower() -> Follower {
        Follower {
            trust: Some(TrustStatus {
                keys: vec!["a".into(), "b".into()],
                authorities: vec![Digest::of(b"x"), Digest::of(b"y")],
                spec_key: Some("b".into()),
                stack_key: Some("b".into()),
                version: None,
            }),
            generation: Generation(4),
            node: Some(Generation(4)),
            authority: Some(Digest::of(b"y")),
        }
    }

    #[test]
    fn nothing_is_taken_away_that_a_host_still_needs() {
        let b = Before::NeedsKey("b");
        let why = |change: &dyn Fn(&mut Follower)| {
            let mut host = follower();
            change(&mut host);
            b.waits(&host)
        };
        let trust = |change: fn(&mut TrustStatus)| {
            move |host: &mut Follower| change(host.trust.as_mut().expect("trust"))
        };
        assert_eq!(b.waits(&follower()), None);
        assert_eq!(
            why(&trust(|t| t.stack_key = None)),
            None,
            "no stack is fine"
        );
        assert_eq!(why(&|h| h.node = None), None, "no role is fine");
        assert!(why(&|h| h.trust = None).is_some());
        assert!(why(&|h| h.node = Some(Generation(3))).is_some());
        assert!(why(&trust(|t| t.spec_key = Some("a".into()))).is_some());
        assert!(why(&trust(|t| t.spec_key = None)).is_some());
        assert!(why(&trust(|t| t.stack_key = Some("a".into()))).is_some());
        assert!(why(&trust(|t| t.keys = vec!["a".into()])).is_some());

        let y = Before::NeedsAuthority(Digest::of(b"y"));
        assert_eq!(y.waits(&follower()), None);
        let mut old = follower();
        old.authority = Some(Digest::of(b"x"));
        assert_eq!(
            y.waits(&old),
            Some("its certificate is from the old authority")
        );
        assert_eq!(Before::TrustsKey("b").waits(&old), None);
        assert!(Before::TrustsKey("c").waits(&old).is_some());
        assert!(
            Before::TrustsAuthority(Digest::of(b"z"))
                .waits(&old)
                .is_some()
        );
    }
}
