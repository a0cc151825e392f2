//! Enrolment: a one-time token and a signing request become a host.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::ca::{LEAF_LIFE, Leaf, ProvenKey};
use super::http::{Doc, STRANGER_MAX};
use super::records::{HOSTS, Host};
use super::refusal::{Answer, Refusal};
use super::state::{Change, Plane};
use super::store::Read;
use super::tokens;
use super::{machines, trust};
use crate::model::{EnrolAnswer, EnrolRequest};

/// Longest host name of DNS.
const HOSTNAME_MAX: usize = 253;
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
    let ring = plane.keys.ring();
    let version = trust::version(&plane.read()?, &ring, host)?;
    Ok(Json(EnrolAnswer {
        schema: SCHEMA,
        certificate,
        ca: ring.bundle(),
        trust: ring.trusted(),
        endpoints: plane.endpoints.clone(),
        trust_version: Some(version),
    }))
}

fn enrol(change: &mut Change<'_>, plane: &Plane, request: &EnrolRequest) -> Answer<String> {
    // The token first: a stranger costs no signature.
    tokens::consume(change, &request.token, request.host_id)?;
    let key = ProvenKey::from_csr(&request.csr)?;
    let hostname = hostname(&request.hostname)?;
    let row = request.host_id.to_string();
    let before = change.get(&HOSTS, &row)?;
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
    let host = Host {
        id: request.host_id,
        hostname,
        enrolled_at: change.now,
        key: key.digest(),
        certificate: issued.digest,
        authorised: before.as_ref().is_some_and(|h| h.authorised),
        cluster: before.and_then(|h| h.cluster),
    };
    change.put(&HOSTS, &row, &host)?;
    change.touch(request.host_id);
    machines::enrolled(change, request.host_id, request.machine.as_ref())?;
    Ok(issued.pem)
}

fn hostname(name: &str) -> Answer<String> {
    let clean = !name.is_empty()
        && name.len() <= HOSTNAME_MAX
        && name.chars().all(|c| c.is_ascii_graphic());
    if clean {
        return Ok(name.to_owned());
    }
    Err(Refusal::bad(
        "hostname-invalid",
        "enrolment refused",
        format!("hostname must be 1 to {HOSTNAME_MAX} printable characters"),
    ))
}
