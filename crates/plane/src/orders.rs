//! What root of a host sends through its tunnel: certificate orders, and facts about the machine.
//!
//! The tunnel is only the carrier. An order is trusted if it is signed with the key that enrolment pinned for this
//! host, names this host, and answers an unused nonce issued to it. The tunnel's key alone gets nothing signed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::certificates;
use super::claims;
use super::hostapi::Caller;
use super::http::Doc;
use super::moved;
use super::records::{CLUSTERS, HOSTS, Host, Member, SPECS};
use super::refusal::{Answer, Refusal};
use super::state::{self, Change, Plane};
use super::store::Read;
use pf9_hostagent::model::{
    CertificateBatch, CertificateOrder, DocumentKind, Envelope, FactsReport, Fault, FaultCode,
    FreshNonce, Generation, HostId, NodeFacts, Nonce, ORDER_SCHEMA, Taken, TrustStore, TrustedKey,
    Untrusted,
};

const NO_CERTIFICATE: &str = certificates::REFUSED;
pub(super) const NO_FACTS: &str = "the machine's name and addresses are not accepted";

/// `POST /v1/hosts/self/nonce`.
pub(super) async fn nonce(
    Caller(host): Caller,
    State(plane): State<Arc<Plane>>,
) -> Answer<Json<FreshNonce>> {
    let nonce = plane.nonces.give(host, Instant::now())?;
    Ok(Json(FreshNonce { nonce }))
}

/// `POST /v1/hosts/self/certificates`.
pub(super) async fn certificates(
    Caller(host): Caller,
    State(plane): State<Arc<Plane>>,
    Doc(said): Doc<Value>,
) -> Answer<Json<CertificateBatch>> {
    let shared = Arc::clone(&plane);
    let life = plane.certificate_life;
    let work = move |change: &mut Change<'_>| {
        let envelope = envelope(NO_CERTIFICATE, said)?;
        let row = state::host(&**change, host)?;
        let order: CertificateOrder = open(
            NO_CERTIFICATE,
            DocumentKind::Order,
            &envelope,
            &row.order_key,
        )?;
        said_by(NO_CERTIFICATE, host, order.schema, order.host_id)?;
        answers(NO_CERTIFICATE, &shared, host, order.nonce)?;
        certificates::in_cluster(&row, order.cluster_id)?;
        let issued = change.get(&SPECS, &host.to_string())?;
        let issued = issued.map(|i| i.generation).unwrap_or_default();
        is_newest(order.generation, issued)?;
        certificates::sign_order(change, host, &order, life)
    };
    let batch = plane.refused.told(host, plane.change(work).await)?;
    tracing::info!(%host, count = batch.certificates.len(), "certificates signed");
    Ok(Json(batch))
}

/// `GET /v1/hosts/self/facts`.
pub(super) async fn known_facts(
    Caller(host): Caller,
    State(plane): State<Arc<Plane>>,
) -> Answer<Response> {
    let row = state::host(&plane.read()?, host)?;
    Ok(match row.facts {
        Some(facts) => Json(facts).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// `POST /v1/hosts/self/facts`. A node in a cluster keeps the name it was attached with, and its address as long as its
/// machine has it; then it follows (`moved`).
pub(super) async fn facts(
    Caller(host): Caller,
    State(plane): State<Arc<Plane>>,
    Doc(said): Doc<Value>,
) -> Answer<StatusCode> {
    let shared = Arc::clone(&plane);
    let work = move |change: &mut Change<'_>| {
        let envelope = envelope(NO_FACTS, said)?;
        let mut row = state::host(&**change, host)?;
        let report: FactsReport = open(NO_FACTS, DocumentKind::Facts, &envelope, &row.order_key)?;
        said_by(NO_FACTS, host, report.schema, report.host_id)?;
        answers(NO_FACTS, &shared, host, report.nonce)?;
        check_claims(&**change, &row, &report.facts)?;
        moved::follow(change, &row, &report.facts)?;
        claims::index::note(change, host, row.facts.as_ref(), Some(&report.facts))?;
        row.facts = Some(report.facts);
        Ok(change.put(&HOSTS, &host.to_string(), &row)?)
    };
    plane.refused.told(host, plane.change(work).await)?;
    tracing::info!(%host, "name and addresses accepted");
    Ok(StatusCode::NO_CONTENT)
}

/// Whether this host may have the name and addresses its root stated: checked against its cluster, and against hosts
/// that may join the same one.
pub(super) fn check_claims(rows: &impl Read, me: &Host, facts: &NodeFacts) -> Answer<()> {
    let cluster = match me.cluster {
        Some(id) => rows.get(&CLUSTERS, &id.to_string())?,
        None => None,
    };
    let shared: Option<IpAddr> = cluster.as_ref().and_then(|c| c.settings.master_ip);
    let mut taken = match &cluster {
        Some(cluster) => claims::of_cluster(cluster, Some(me.id)),
        None => Taken::default(),
    };
    let rivals = claims::index::rivals(rows, facts)?;
    // It never meets hosts of another project.
    let others = rivals
        .iter()
        .filter(|h| h.id != me.id && h.project == me.project);
    claims::add_hosts(&mut taken, others, me.cluster, shared);
    let member = cluster.as_ref().and_then(|c| c.member(me.id));
    claims::check(NO_FACTS, facts, &taken, shared).map_err(|refusal| match member {
        Some(member) => with_its_node(refusal, member),
        None => refusal,
    })
}

/// What becomes of the node of a machine whose new name or address is refused.
fn with_its_node(mut refusal: Refusal, member: &Member) -> Refusal {
    let Member { node_name, ip, .. } = member;
    let fault = &refusal.fault;
    let why = format!(
        "{}; until then its node stays {node_name}, and at {ip}: it follows no other address",
        fault.why
    );
    let with = Fault::new(fault.code, fault.what.as_str(), why).fix(fault.fix.as_str());
    *refusal.fault = with;
    refusal
}

/// The signed document; anything else does not come from root.
pub(super) fn envelope(what: &str, said: Value) -> Answer<Envelope> {
    serde_json::from_value(said).map_err(|e| {
        let why = format!("it is not signed by root of the host ({e})");
        Refusal::forbidden(FaultCode::OrderUnsigned, what, why)
    })
}

/// Opens a document with a host's pinned key.
pub(super) fn open<T: DeserializeOwned>(
    what: &str,
    kind: DocumentKind,
    envelope: &Envelope,
    key: &TrustedKey,
) -> Answer<T> {
    let trust = TrustStore::new([key.clone()])
        .map_err(|fault| Refusal::bad(FaultCode::OrderKeyInvalid, what, fault.why))?;
    envelope.open(kind, &trust).map_err(|e| match e {
        Untrusted::UnknownKey(_) | Untrusted::BadSignature => Refusal::forbidden(
            FaultCode::OrderUnsigned,
            what,
            "it is not signed with the key that root of this host enrolled with",
        )
        .fix("on the host: pf9ctl node prep with a new token, after the operator allowed it"),
        Untrusted::Schema(_)
        | Untrusted::Kind
        | Untrusted::Newer(_)
        | Untrusted::Malformed(_)
        | Untrusted::Damaged => Refusal::bad(FaultCode::OrderMalformed, what, e.to_string()),
    })
}

/// Whether a document speaks for the host that sent it.
pub(super) fn said_by(what: &str, host: HostId, schema: u32, named: HostId) -> Answer<()> {
    if schema != ORDER_SCHEMA {
        let why = format!("schema {schema} is not {ORDER_SCHEMA}");
        return Err(Refusal::bad(FaultCode::SchemaUnsupported, what, why));
    }
    if named != host {
        let why = format!("host {named} signed it, and host {host} sent it");
        return Err(Refusal::forbidden(FaultCode::OrderForeign, what, why));
    }
    Ok(())
}

pub(super) fn answers(what: &str, plane: &Plane, host: HostId, nonce: Nonce) -> Answer<()> {
    if plane.nonces.take(host, nonce, Instant::now()) {
        return Ok(());
    }
    let minutes = super::nonces::LIFE.as_secs() / 60;
    let why = format!(
        "its nonce was not given to this host in the last {minutes} minutes, or was used before"
    );
    Err(Refusal::conflict(FaultCode::OrderReplayed, what, why)
        .fix("nothing to do: the host asks for another nonce"))
}

/// Only the newest spec may be signed for: under an older one the node may have been another.
fn is_newest(order: Generation, issued: Generation) -> Answer<()> {
    let why = format!("it is for spec generation {order}, the newest of this host is {issued}");
    match order.cmp(&issued) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => {
            Err(
                Refusal::conflict(FaultCode::OrderOlder, NO_CERTIFICATE, why)
                    .fix("nothing to do: the host orders again when it has taken the newest spec"),
            )
        }
        std::cmp::Ordering::Greater => {
            Err(
                Refusal::conflict(FaultCode::OrderNewer, NO_CERTIFICATE, why)
                    .fix("this plane has older data than the host: was it restored from a backup?"),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_generation_orders() {
        let code = |order, issued| {
            let judged = is_newest(Generation(order), Generation(issued));
            judged.map_err(|r| r.fault.code.to_string())
        };
        assert_eq!(code(7, 7), Ok(()));
        assert_eq!(code(6, 7), Err("order-older".into()));
        assert_eq!(code(8, 7), Err("order-newer".into()));
    }
}
