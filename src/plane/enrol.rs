//! Enrolment: a one-time token and a signing request become a host.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::ca::{LEAF_LIFE, Leaf, ProvenKey};
use super::http::{Doc, STRANGER_MAX};
use super::orders;
use super::records::{HOSTS, Host};
use super::refusal::{Answer, Refusal};
use super::state::{Change, Plane};
use super::store::Read;
use super::tokens;
use crate::model::{Digest, DocumentKind, EnrolAnswer, EnrolRequest, Enrolment, TrustedKey};

const REFUSED: &str = "enrolment refused";
/// Version of the enrolment documents.
const SCHEMA: u32 = 1;

/// `POST /v1/enrol`.
pub(super) async fn post(
    State(plane): State<Arc<Plane>>,
    Doc(request): Doc<EnrolRequest, STRANGER_MAX>,
) -> Answer<Json<EnrolAnswer>> {
    if request.schema != SCHEMA {
        let why = format!("schema {} is not {SCHEMA}", request.schema);
        return Err(Refusal::bad("schema-unsupported", "enrolment refused", why));
    }
    let host = request.host_id;
    let shared = Arc::clone(&plane);
    let certificate = plane
        .change(move |change| enrol(change, &shared, &request))
        .await?;
    // Whoever is connected with an older certificate of this host is connected no more.
    plane.sessions.end(host, "the host enrolled again");
    tracing::info!(%host, "host enrolled");
    Ok(Json(EnrolAnswer {
        schema: SCHEMA,
        certificate,
        ca: plane.ca.pem().to_owned(),
        trust: vec![plane.signing.trusted()],
        endpoints: plane.endpoints.clone(),
    }))
}

fn enrol(change: &mut Change<'_>, plane: &Plane, request: &EnrolRequest) -> Answer<String> {
    // The token first: a stranger costs no signature.
    tokens::consume(change, &request.token, request.host_id)?;
    let key = ProvenKey::from_csr(&request.csr)?;
    let said = statement(request)?;
    let row = request.host_id.to_string();
    let before = change.get(&HOSTS, &row)?;
    let order_key = order_key(before.as_ref(), request)?;
    // A token lets a new machine in. It must not let it in as a machine that has work: that would
    // hand out the certificates of a cluster's node.
    let has_work = before.as_ref().filter(|b| b.cluster.is_some());
    if has_work.is_some_and(|b| b.key != key.digest()) {
        return Err(Refusal::conflict(
            "host-enrolled",
            "enrolment refused",
            format!("host {row} is a node of a cluster, with another key"),
        )
        .fix("detach or remove the host on the plane first, or enrol with a new host id"));
    }
    let leaf = Leaf::client(&row, &[], LEAF_LIFE);
    let issued = plane.ca.issue(&key, &leaf, change.now)?;
    let mut host = Host {
        id: request.host_id,
        hostname: said.facts.hostname.clone(),
        enrolled_at: change.now,
        key: key.digest(),
        certificate: issued.digest,
        order_key,
        facts: before.as_ref().and_then(|h| h.facts.clone()),
        authorised: before.as_ref().is_some_and(|h| h.authorised),
        cluster: before.and_then(|h| h.cluster),
    };
    // A machine that calls itself what it must not is a host all the same: it reports again, is
    // told so, and a person sees it there.
    match orders::judge(&**change, &host, &said.facts) {
        Ok(()) => host.facts = Some(said.facts),
        Err(refusal) if refusal.status.is_client_error() => {
            tracing::warn!(host = %host.id, code = refusal.fault.code, "{}", refusal.fault);
        }
        Err(refusal) => return Err(refusal),
    }
    change.put(&HOSTS, &row, &host)?;
    change.touch(request.host_id);
    Ok(issued.pem)
}

/// What root of the host says of this enrolment, signed with the key that comes with it.
fn statement(request: &EnrolRequest) -> Answer<Enrolment> {
    let kind = DocumentKind::Enrolment;
    let said: Enrolment = orders::open(REFUSED, kind, &request.statement, &request.order_key)?;
    orders::said_by(REFUSED, request.host_id, said.schema, said.host_id)?;
    let token = Digest::of(request.token.expose().as_bytes());
    if said.token != token || said.csr != Digest::of(request.csr.as_bytes()) {
        let why = "root signed it for another token or another key of the tunnel";
        return Err(Refusal::forbidden("order-foreign", REFUSED, why));
    }
    let bad = |why| Refusal::bad("facts-invalid", REFUSED, why);
    said.facts.check().map_err(bad)?;
    Ok(said)
}

/// The key that root orders with. The one that is pinned stays: a token lets a machine in, it does
/// not make it root of another one.
fn order_key(before: Option<&Host>, request: &EnrolRequest) -> Answer<TrustedKey> {
    match before.map(|b| &b.order_key) {
        Some(pinned) if *pinned != request.order_key => Err(Refusal::conflict(
            "order-key-pinned",
            REFUSED,
            format!(
                "root of host {} orders with key {}, and key {} was sent",
                request.host_id, pinned.id, request.order_key.id
            ),
        )
        .fix("remove the host on the plane first, or enrol with a new host id")),
        Some(_) | None => Ok(request.order_key.clone()),
    }
}
