//! Enrolment: a one-time token and a signing request become a host.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::backups;
use super::ca::ProvenKey;
use super::claims;
use super::hostkey::{self, Entry};
use super::http::{Doc, STRANGER_MAX};
use super::orders;
use super::records::{HOSTS, Host, REMOVED, Renewal};
use super::refusal::{Answer, Refusal};
use super::state::{Change, Plane};
use super::store::Read;
use super::tokens;
use super::{machines, trust};
use pf9_hostagent::model::{
    Digest, DocumentKind, EnrolAnswer, EnrolRequest, Enrolment, FaultCode, TrustedKey,
};

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
        return Err(Refusal::bad(
            FaultCode::SchemaUnsupported,
            "enrolment refused",
            why,
        ));
    }
    // A stranger is refused before taking the store's write lock.
    tokens::good(
        &plane.read()?,
        &request.token,
        pf9_hostagent::seam::clock::now(),
    )?;
    let host = request.host_id;
    let shared = Arc::clone(&plane);
    let (entry, certificate) = plane
        .change(move |change| enrol(change, &shared, &request))
        .await?;
    match entry {
        // Ends a session with an older key of this host.
        Entry::Pinned => plane.sessions.end(host, "the host enrolled again"),
        // Its old key pair is valid until the new one has connected: a lost answer loses nothing.
        Entry::Next => {}
    }
    tracing::info!(%host, ?entry, "host enrolled");
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

fn enrol(
    change: &mut Change<'_>,
    plane: &Plane,
    request: &EnrolRequest,
) -> Answer<(Entry, String)> {
    // The token first: a stranger costs no signature check.
    let project = tokens::consume(change, &request.token, request.host_id)?;
    let key = ProvenKey::from_csr(&request.csr)?;
    let said = statement(request)?;
    let (id, row) = (request.host_id, request.host_id.to_string());
    let before = change.get(&HOSTS, &row)?;
    if let Some(before) = before.as_ref().filter(|b: &&Host| b.project != project) {
        let why = format!(
            "host {} belongs to another project than the token",
            before.id
        );
        return Err(Refusal::conflict(FaultCode::HostEnrolled, REFUSED, why).fix(
            "make a token in the host's project, have the host removed there first, or enrol with a new host id",
        ));
    }
    let proven = proven(request)?;
    // A token admits a new machine. It must not admit it as an existing one: that would hand out what that host has,
    // including the certificates of a cluster's node.
    let same_order_key = before
        .as_ref()
        .is_none_or(|b| b.order_key == request.order_key);
    let entry = hostkey::entry(
        before.as_ref(),
        &key.digest(),
        proven.as_ref(),
        same_order_key,
        change.now,
    );
    let entry = entry.ok_or_else(|| {
        let why = format!("host {row} has another key, and this enrolment did not prove it");
        Refusal::conflict(FaultCode::HostEnrolled, "enrolment refused", why).fix(format!(
            "if the key is lost: pf9-plane host allow-reenrol {row} on the plane, then a new token; \
             else enrol with a new host id"
        ))
    })?;
    let order_key = order_key(before.as_ref(), entry, request)?;
    let stated = before.as_ref().and_then(|b| b.facts.clone());
    let (new, pem) = hostkey::issue(&plane.ca, id, &key, plane.host_life, change.now)?;
    let mut host = before.unwrap_or(Host {
        id,
        project,
        hostname: String::new(),
        enrolled_at: change.now,
        key: new.key,
        certificate: new.certificate,
        order_key: order_key.clone(),
        facts: None,
        authorised: false,
        cluster: None,
        forced: false,
        agent: None,
        agent_pinned: false,
        maintenance: None,
        renewal: Renewal::default(),
    });
    host.hostname.clone_from(&said.facts.hostname);
    host.order_key = order_key;
    host.enrolled_at = change.now;
    match entry {
        Entry::Pinned => host.pin(new),
        Entry::Next => host.renewal.next = Some(new),
    }
    // A machine with a name or address it must not have still becomes a host: it reports again, gets the refusal, and a
    // person sees it there.
    match orders::check_claims(&**change, &host, &said.facts) {
        Ok(()) => host.facts = Some(said.facts),
        Err(refusal) if refusal.status.is_client_error() => {
            plane.refused.note(host.id, &refusal.fault);
        }
        Err(refusal) => return Err(refusal),
    }
    claims::index::note(change, id, stated.as_ref(), host.facts.as_ref())?;
    change.put(&HOSTS, &row, &host)?;
    if let Some(cluster) = host.cluster.filter(|_| !same_order_key) {
        // Backups it signed before stay trusted, and those signed with the new key are.
        backups::signs_anew(change, cluster, &host)?;
    }
    // A removed host that is admitted again is an ordinary host, and no other host can take its id.
    change.remove(&REMOVED, &row)?;
    change.touch(id);
    machines::enrolled(change, id, request.machine.as_ref())?;
    Ok((entry, pem))
}

/// The key that the request proves to hold, beside the one it brings; refused if the proof is wrong.
fn proven(request: &EnrolRequest) -> Answer<Option<Digest>> {
    let Some(proof) = &request.proof else {
        return Ok(None);
    };
    let key = ProvenKey::from_csr(proof)?;
    let wanted = EnrolRequest::possession(&request.token, request.host_id, &request.csr);
    if key.states() != Some(wanted.to_string().as_str()) {
        let why = "the proof of the present key is one of another enrolment";
        return Err(Refusal::bad(
            FaultCode::ProofInvalid,
            "enrolment refused",
            why,
        ));
    }
    Ok(Some(key.digest()))
}

/// The statement of the host's root about this enrolment, signed with the key that comes with it.
fn statement(request: &EnrolRequest) -> Answer<Enrolment> {
    let kind = DocumentKind::Enrolment;
    let said: Enrolment = orders::open(REFUSED, kind, &request.statement, &request.order_key)?;
    orders::said_by(REFUSED, request.host_id, said.schema, said.host_id)?;
    let token = Digest::of(request.token.expose().as_bytes());
    if said.token != token || said.csr != Digest::of(request.csr.as_bytes()) {
        let why = "root signed it for another token or another key of the tunnel";
        return Err(Refusal::forbidden(FaultCode::OrderForeign, REFUSED, why));
    }
    let bad = |why| Refusal::bad(FaultCode::FactsInvalid, REFUSED, why);
    said.facts.check().map_err(bad)?;
    Ok(said)
}

/// The key that root signs orders with. A pinned key stays: a token admits a machine, it does not make it root of
/// another one. Only with the operator's permission, or for an unknown host id, a new one is accepted together with a
/// new tunnel key.
fn order_key(before: Option<&Host>, entry: Entry, request: &EnrolRequest) -> Answer<TrustedKey> {
    match (before.map(|b| &b.order_key), entry) {
        (Some(pinned), Entry::Next) if *pinned != request.order_key => Err(Refusal::conflict(
            FaultCode::OrderKeyPinned,
            REFUSED,
            format!(
                "root of host {id} orders with key {}, and key {} was sent",
                pinned.id,
                request.order_key.id,
                id = request.host_id,
            ),
        )
        .fix(format!(
            "if the key is lost: pf9-plane host allow-reenrol {} on the plane, then a new token; \
             else enrol with a new host id",
            request.host_id
        ))),
        (Some(_) | None, Entry::Pinned | Entry::Next) => Ok(request.order_key.clone()),
    }
}
