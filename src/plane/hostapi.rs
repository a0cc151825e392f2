//! The host API: what nodes say and ask through their tunnel.
//!
//! Who asks is known from the tunnel's certificate and stands in the request's extensions as
//! [`Caller`]; nothing in a request can change it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::certificates;
use super::events;
use super::fleet;
use super::http::{Doc, deadline, no_such_method, no_such_path};
use super::records::{CLUSTERS, HOSTS, ReceivedStatus, SPECS, STATUSES};
use super::refusal::{Answer, Refusal};
use super::stacks;
use super::state::{self, Change, Plane};
use super::store::Read;
use super::trust;
use crate::model::{
    CertificateBatch, CertificateOrder, Envelope, EventBatch, Generation, HostId, HostStatus,
    STATUS_SCHEMA,
};

/// Longest wait of a long poll; below the idle limits of what may stand between.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The host at the other end of the tunnel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller(pub(super) HostId);

#[derive(Deserialize)]
pub(super) struct SpecQuery {
    #[serde(default)]
    after: Generation,
    seen: Option<Generation>,
    #[serde(default)]
    wait: u64,
}

/// The routes; requests need a [`Caller`] among their extensions.
pub(super) fn router(plane: Arc<Plane>) -> Router {
    Router::new()
        .route("/v1/hosts/self/spec", get(spec))
        .route("/v1/hosts/self/status", post(status))
        .route("/v1/hosts/self/trust", get(trust::get))
        .route("/v1/hosts/self/events", post(take_events))
        .route("/v1/hosts/self/certificates", post(order))
        .route("/v1/hosts/self/leave", post(leave))
        .route("/v1/stacks/{digest}/manifest", get(manifest))
        .route("/v1/stacks/{digest}/archive", get(archive))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(axum::middleware::from_fn(deadline))
        .with_state(plane)
}

/// Answers the spec as soon as there is another than the host has seen; 204 when the wait is over.
async fn spec(
    Caller(host): Caller,
    State(plane): State<Arc<Plane>>,
    Query(query): Query<SpecQuery>,
) -> Answer<Response> {
    let wait = Duration::from_secs(query.wait).min(WAIT_MAX);
    let end = tokio::time::Instant::now() + wait;
    // Subscribed before the first look: a spec that is signed between the two is not missed.
    let mut news = plane.specs.subscribe(host);
    loop {
        news.mark_unchanged();
        if let Some(envelope) = unseen(&plane, host, &query)? {
            return Ok(Json(envelope).into_response());
        }
        let changed = tokio::select! {
            changed = news.changed() => changed.is_ok(),
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
    Caller(host): Caller,
    State(plane): State<Arc<Plane>>,
    Doc(status): Doc<HostStatus>,
) -> Answer<Response> {
    if status.schema != STATUS_SCHEMA {
        let why = format!("schema {} is not {STATUS_SCHEMA}", status.schema);
        return Err(Refusal::bad("schema-unsupported", "status refused", why));
    }
    if status.host_id != host {
        let why = format!("host_id {} is not yours", status.host_id);
        return Err(Refusal::forbidden("host-mismatch", "status refused", why));
    }
    let answer = trust::answer(&plane.read()?, &plane.keys.ring(), host, &status)?;
    plane
        .change(move |change| {
            learn_from(change, host, &status)?;
            let received_at = change.now;
            let row = ReceivedStatus {
                received_at,
                status,
            };
            Ok(change.put(&STATUSES, &host.to_string(), &row)?)
        })
        .await?;
    Ok(match answer {
        Some(answer) => Json(answer).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// A master's service-account key is in its status as well: should the order that carried it have
/// been lost, it is learnt here.
fn learn_from(change: &mut Change<'_>, host: HostId, status: &HostStatus) -> Answer<()> {
    let Some(node) = &status.node else {
        return Ok(());
    };
    let (Some(key), Some(id)) = (&node.service_account_key, node.cluster_id) else {
        return Ok(());
    };
    let row = state::host(&**change, host)?;
    let Some(cluster) = change.get(&CLUSTERS, &id.to_string())? else {
        return Ok(());
    };
    let is_master = cluster.masters().any(|m| m.host == host);
    if row.cluster != Some(id) || !is_master {
        return Ok(());
    }
    match certificates::learn_key(change, host, cluster, key) {
        Ok(()) => Ok(()),
        // A status is taken whatever it says: it is how faults reach a person.
        Err(refusal) if refusal.status.is_client_error() => {
            tracing::warn!(%host, fault = %refusal.fault, "service-account key ignored");
            Ok(())
        }
        Err(refusal) => Err(refusal),
    }
}

async fn take_events(
    Caller(host): Caller,
    State(plane): State<Arc<Plane>>,
    Doc(batch): Doc<EventBatch>,
) -> Answer<StatusCode> {
    plane
        .change(move |change| events::take(change, host, batch.events))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn order(
    Caller(host): Caller,
    State(plane): State<Arc<Plane>>,
    Doc(order): Doc<CertificateOrder>,
) -> Answer<Json<CertificateBatch>> {
    let batch = plane
        .change(move |change| certificates::order(change, host, &order))
        .await?;
    tracing::info!(%host, count = batch.certificates.len(), "certificates signed");
    Ok(Json(batch))
}

/// The node was decommissioned: it leaves its cluster and is enrolled no more.
async fn leave(
    LeavingCaller(host): LeavingCaller,
    State(plane): State<Arc<Plane>>,
) -> Answer<StatusCode> {
    if fleet::remove(&plane, host).await? {
        // The answer still has to travel: the session is drained, not cut.
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

/// A caller that may have left already; only leaving may be said twice.
struct LeavingCaller(HostId);

impl FromRequestParts<Arc<Plane>> for LeavingCaller {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, _: &Arc<Plane>) -> Result<Self, Refusal> {
        identity(parts).map(Self)
    }
}

impl FromRequestParts<Arc<Plane>> for Caller {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, plane: &Arc<Plane>) -> Result<Self, Refusal> {
        let host = identity(parts)?;
        if plane.read()?.get(&HOSTS, &host.to_string())?.is_none() {
            return Err(Refusal::forbidden(
                "host-unknown",
                "request refused",
                format!("host {host} is not enrolled any more"),
            )
            .fix("run pf9ctl prep-node with a new token"));
        }
        Ok(Self(host))
    }
}

fn identity(parts: &Parts) -> Answer<HostId> {
    let caller = parts.extensions.get::<Caller>().copied();
    caller.map(|c| c.0).ok_or_else(|| {
        Refusal::forbidden(
            "tunnel-only",
            "request refused",
            "it did not come through a tunnel",
        )
    })
}
