//! The host API: what nodes report and request through their tunnel.
//!
//! The host and what its session allows are known from the tunnel's certificate and stand in the request's extensions
//! as [`Peer`]; nothing in a request can change them. What each kind of session allows is one table, [`may`]: a handler
//! that takes a [`Caller`] is for full sessions only, the others take a [`Peer`] and name their call.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::agents;
use super::authorities;
use super::backups;
use super::bundles;
use super::etcd;
use super::events;
use super::fleet;
use super::hostkey::{self, By};
use super::http::{Doc, Path, Query, deadline, no_such_method, no_such_path};
use super::operations;
use super::orders;
use super::records::{HOSTS, REMOVED, ReceivedStatus, SPECS, STATUSES};
use super::refusal::{Answer, Refusal};
use super::rolls;
use super::stacks;
use super::state::Plane;
use super::store::Read;
use super::trust;
use pf9_hostagent::model::{
    DeltaOffer, Envelope, EventBatch, FaultCode, Generation, HostId, HostStatus, RenewAnswer,
    RenewRequest, STATUS_SCHEMA, SessionKind,
};

/// Longest wait of a long poll; below the idle timeouts of middleboxes.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Paths of the calls that wait for news.
pub(super) const SPEC: &str = "/v1/hosts/self/spec";
pub(super) const OPERATIONS: &str = "/v1/hosts/self/operations";

/// Version of the renewal documents.
const RENEW_SCHEMA: u32 = 1;

/// The other end of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    /// The host.
    pub(super) host: HostId,
    /// What its session allows.
    pub(super) kind: SessionKind,
    /// The certificate that opened it.
    pub(super) by: By,
}

/// The host at the other end of a full session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller(pub(super) HostId);

/// Calls, as far as kinds of sessions distinguish them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Spec,
    Status,
    Leave,
    Renew,
    Other,
}

/// Whether a session of this kind allows this call.
fn may(kind: SessionKind, call: Call) -> bool {
    match (kind, call) {
        (
            SessionKind::Full,
            Call::Spec | Call::Status | Call::Leave | Call::Renew | Call::Other,
        )
        | (SessionKind::RenewalOnly, Call::Renew)
        | (SessionKind::RemovalOnly, Call::Spec | Call::Status | Call::Leave) => true,
        (SessionKind::RenewalOnly, Call::Spec | Call::Status | Call::Leave | Call::Other)
        | (SessionKind::RemovalOnly, Call::Renew | Call::Other) => false,
    }
}

#[derive(Deserialize)]
pub(super) struct SpecQuery {
    #[serde(default)]
    after: Generation,
    seen: Option<Generation>,
    #[serde(default)]
    wait: u64,
}

/// The routes; requests need a [`Peer`] in their extensions.
pub(super) fn router(plane: Arc<Plane>) -> Router {
    Router::new()
        .route(SPEC, get(spec))
        .route("/v1/hosts/self/status", post(status))
        .route("/v1/hosts/self/trust", get(trust::get))
        .route("/v1/hosts/self/events", post(take_events))
        .route(OPERATIONS, get(operations::wait).post(operations::take))
        .route("/v1/hosts/self/renew", post(renew))
        .route("/v1/hosts/self/nonce", post(orders::nonce))
        .route("/v1/hosts/self/certificates", post(orders::certificates))
        .route(
            "/v1/hosts/self/facts",
            get(orders::known_facts).post(orders::facts),
        )
        .route("/v1/hosts/self/unwrap", post(backups::unwrap))
        .route("/v1/hosts/self/leave", post(leave))
        .route("/v1/stacks/{digest}/manifest", get(manifest))
        .route("/v1/stacks/{digest}/archive", get(archive))
        .route("/v1/stacks/{digest}/from/{old}", get(delta_offer))
        .route("/v1/stacks/{digest}/from/{old}/delta", get(delta))
        .route("/v1/agents/{digest}/package", get(agents::http::package))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(axum::middleware::from_fn(deadline))
        // Outside the deadline: it has its own, because a bundle is streamed as it is made.
        .route("/v1/hosts/self/bundles/{id}", put(bundles::take))
        .with_state(plane)
}

/// Answers the spec as soon as it differs from the one the host has; 204 when the wait is over.
async fn spec(
    peer: Peer,
    State(plane): State<Arc<Plane>>,
    Query(query): Query<SpecQuery>,
) -> Answer<Response> {
    let host = peer.may(&plane, Call::Spec)?;
    let wait = Duration::from_secs(query.wait).min(WAIT_MAX);
    let end = tokio::time::Instant::now() + wait;
    let news = plane.specs.subscribe(host);
    loop {
        // Before the rows are read: a spec signed between the two is not missed.
        let mut changed = pin!(news.notified());
        changed.as_mut().enable();
        if let Some(envelope) = unseen(&plane, host, &query)? {
            return Ok(Json(envelope).into_response());
        }
        let changed = tokio::select! {
            () = changed => true,
            () = tokio::time::sleep_until(end) => false,
            () = plane.shutdown.cancelled() => false,
        };
        if !changed {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
}

fn unseen(plane: &Plane, host: HostId, query: &SpecQuery) -> Answer<Option<Envelope>> {
    let issued = plane.read()?.get(&SPECS, &host.to_string())?;
    let is_news = |now: Generation| match query.seen {
        Some(seen) => now != seen,
        None => now > query.after,
    };
    Ok(issued.filter(|i| is_news(i.generation)).map(|i| i.envelope))
}

async fn status(
    peer: Peer,
    State(plane): State<Arc<Plane>>,
    Doc(status): Doc<HostStatus>,
) -> Answer<Response> {
    let host = peer.may(&plane, Call::Status)?;
    if status.schema != STATUS_SCHEMA {
        let why = format!("schema {} is not {STATUS_SCHEMA}", status.schema);
        return Err(Refusal::bad(
            FaultCode::SchemaUnsupported,
            "status refused",
            why,
        ));
    }
    if status.host_id != host {
        let why = format!("host_id {} is not yours", status.host_id);
        return Err(Refusal::forbidden(
            FaultCode::HostMismatch,
            "status refused",
            why,
        ));
    }
    match peer.kind {
        SessionKind::Full => {}
        SessionKind::RenewalOnly | SessionKind::RemovalOnly => {
            // For a removed host only the fact that it is done is stored.
            if fleet::followed_removal(&plane, status).await? {
                plane.sessions.retire(host, "the host is no longer a node");
            }
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
    let answer = trust::answer(
        &plane.read()?,
        &plane.keys.ring(),
        host,
        &status,
        pf9_hostagent::seam::clock::now(),
    )?;
    // Before the row takes it; stored or not, it was reported.
    plane
        .alerts
        .heard(host, &status, pf9_hostagent::seam::clock::now());
    let change = plane.change(move |change| {
        authorities::heard(change, host, &status)?;
        etcd::heard(change, host, &status)?;
        let received_at = change.now;
        let row = ReceivedStatus {
            received_at,
            status,
        };
        change.put(&STATUSES, &host.to_string(), &row)?;
        // It judges the neighbours' statuses together with this one.
        rolls::heard_of(change, host, &row.status)?;
        agents::runner::heard(change, host, &row.status)
    });
    let news = Box::pin(change).await?;
    if news {
        plane.agents.notify_one();
    }
    Ok(match answer {
        Some(answer) => Json(answer).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

async fn take_events(
    Caller(host): Caller,
    State(plane): State<Arc<Plane>>,
    Doc(batch): Doc<EventBatch>,
) -> Answer<StatusCode> {
    let told = plane
        .change(move |change| events::take(change, host, batch))
        .await?;
    plane
        .alerts
        .events(host, &told, pf9_hostagent::seam::clock::now());
    Ok(StatusCode::NO_CONTENT)
}

/// A certificate for a new key of the host, requested on a session opened by its present key.
async fn renew(
    peer: Peer,
    State(plane): State<Arc<Plane>>,
    Doc(request): Doc<RenewRequest>,
) -> Answer<Json<RenewAnswer>> {
    let host = peer.may(&plane, Call::Renew)?;
    if request.schema != RENEW_SCHEMA {
        let why = format!("schema {} is not {RENEW_SCHEMA}", request.schema);
        let what = "the certificate is not signed";
        return Err(Refusal::bad(FaultCode::SchemaUnsupported, what, why));
    }
    let shared = Arc::clone(&plane);
    let certificate = plane
        .change(move |change| {
            let (ca, life) = (&shared.ca, shared.host_life);
            hostkey::renew(change, ca, host, peer.by, &request.csr, life)
        })
        .await?;
    tracing::info!(%host, "next host certificate signed");
    Ok(Json(RenewAnswer {
        schema: RENEW_SCHEMA,
        certificate,
    }))
}

/// The node was decommissioned: it leaves its cluster and is no longer enrolled. It may report that twice, so enrolment
/// is not checked.
async fn leave(peer: Peer, State(plane): State<Arc<Plane>>) -> Answer<StatusCode> {
    let host = peer.may_by_kind(Call::Leave)?;
    if fleet::left(&plane, host).await? {
        // The answer still has to be sent: the session is drained, not cut.
        plane.sessions.retire(host, "the host left");
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn manifest(
    _: Caller,
    State(plane): State<Arc<Plane>>,
    Path(digest): Path<String>,
) -> Answer<Json<Envelope>> {
    stacks::manifest(&plane.read()?, &digest).map(Json)
}

async fn archive(
    _: Caller,
    State(plane): State<Arc<Plane>>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Answer<Response> {
    stacks::archive(&plane, &digest, &headers).await
}

async fn delta_offer(
    _: Caller,
    State(plane): State<Arc<Plane>>,
    Path((digest, old)): Path<(String, String)>,
) -> Answer<Json<DeltaOffer>> {
    stacks::deltas::offer(&plane, &digest, &old).map(Json)
}

async fn delta(
    _: Caller,
    State(plane): State<Arc<Plane>>,
    Path((digest, old)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer<Response> {
    stacks::deltas::serve(&plane, &digest, &old, &headers).await
}

impl Peer {
    /// The host, if its session allows this call and the certificate still counts.
    fn may(&self, plane: &Plane, call: Call) -> Answer<HostId> {
        let host = self.may_by_kind(call)?;
        let (rows, row) = (plane.read()?, host.to_string());
        let is_known = match self.kind {
            SessionKind::Full | SessionKind::RenewalOnly => rows.get(&HOSTS, &row)?.is_some(),
            SessionKind::RemovalOnly => {
                let removed = rows.get(&REMOVED, &row)?;
                removed.is_some_and(|r| pf9_hostagent::seam::clock::now() < r.until)
            }
        };
        if is_known {
            return Ok(host);
        }
        let why = format!("host {host} is no longer enrolled");
        Err(
            Refusal::forbidden(FaultCode::HostUnknown, "request refused", why)
                .fix("run pf9ctl node prep with a new token"),
        )
    }

    fn may_by_kind(&self, call: Call) -> Answer<HostId> {
        if may(self.kind, call) {
            return Ok(self.host);
        }
        let what = "request refused";
        Err(match self.kind {
            SessionKind::Full | SessionKind::RenewalOnly => {
                let why = "the host certificate has expired; this session is for its renewal only";
                Refusal::forbidden(FaultCode::SessionRenewalOnly, what, why)
                    .fix("nothing to do: the host renews it and reconnects automatically")
            }
            SessionKind::RemovalOnly => {
                let why = "the host was removed; this session is for its order of removal only";
                Refusal::forbidden(FaultCode::SessionRemovalOnly, what, why)
                    .fix("to make it a host again: pf9ctl node prep with a new token")
            }
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        parts.extensions.get::<Self>().copied().ok_or_else(|| {
            let why = "it did not come through a tunnel";
            Refusal::forbidden(FaultCode::TunnelOnly, "request refused", why)
        })
    }
}

impl FromRequestParts<Arc<Plane>> for Caller {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, plane: &Arc<Plane>) -> Result<Self, Refusal> {
        let peer = Peer::from_request_parts(parts, plane).await?;
        peer.may(plane, Call::Other).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_allows_what_its_kind_allows() {
        let all = [
            Call::Spec,
            Call::Status,
            Call::Leave,
            Call::Renew,
            Call::Other,
        ];
        let asks = |kind| {
            all.into_iter()
                .filter(|c| may(kind, *c))
                .collect::<Vec<_>>()
        };
        assert_eq!(asks(SessionKind::Full), all);
        assert_eq!(asks(SessionKind::RenewalOnly), [Call::Renew]);
        assert_eq!(asks(SessionKind::RemovalOnly), all[..3]);
    }
}
