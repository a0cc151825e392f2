//! The subset of resmgr v1: hosts and their one role.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::events;
use super::fleet;
use super::guard::Person;
use super::http::{Doc, Path, Query};
use super::maintenance;
use super::records::HOSTS;
use super::refusal::{Answer, Refusal};
use super::roster;
use super::state::{self, Plane};
use super::view::ROLE;
use pf9_hostagent::host::work::brief;
use pf9_hostagent::model::{FaultCode, HostId, MaintenanceRequest};

/// `GET /resmgr/v1/hosts`; `?limit=&continue=&search=&free=`: a page of them, hosts with faults first.
pub(super) async fn list(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
    Query(which): Query<roster::Which>,
) -> Answer<Json<Value>> {
    // Reads thousands of rows: not on a thread that moves bytes.
    let work = move || roster::list(&plane, &plane.read()?, &who.rights, &which);
    let listed = brief(work).await;
    listed
        .map_err(|e| Refusal::internal("the list was lost", &e))?
        .map(Json)
}

/// `GET /resmgr/v1/hosts/{id}`.
pub(super) async fn get(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let host = state::host(&rows, host_id(&id)?)?;
    Ok(Json(fleet::known(&plane, &rows, host)?.host_json()))
}

/// `GET /resmgr/v1/hosts/{id}/events`: a host's events, oldest first.
pub(super) async fn events(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let host = state::host(&rows, host_id(&id)?)?;
    Ok(Json(events::list(&rows, host.id)?))
}

/// `GET /resmgr/v1/roles`: there is only one.
pub(super) async fn roles(_: Person) -> Json<Value> {
    Json(json!([{
        "name": ROLE,
        "display_name": "Kubernetes node",
        "description": "May be attached to a cluster as master or worker",
        "active_version": pf9_hostagent::model::document::AGENT_VERSION,
        "default_settings": {},
    }]))
}

/// `PUT /resmgr/v1/hosts/{id}/roles/{role}`: authorise.
pub(super) async fn authorise(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path((id, role)): Path<(String, String)>,
) -> Answer<StatusCode> {
    let (id, ()) = (host_id(&id)?, known_role(&role)?);
    plane
        .change(move |change| {
            let mut host = state::host(&**change, id)?;
            host.authorised = true;
            Ok(change.put(&HOSTS, &id.to_string(), &host)?)
        })
        .await?;
    Ok(StatusCode::OK)
}

/// `DELETE /resmgr/v1/hosts/{id}/roles/{role}`: refused while the host is a node.
pub(super) async fn unauthorise(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path((id, role)): Path<(String, String)>,
) -> Answer<StatusCode> {
    let (id, ()) = (host_id(&id)?, known_role(&role)?);
    plane
        .change(move |change| {
            let mut host = state::host(&**change, id)?;
            if host.cluster.is_some() {
                let what = format!("role {ROLE} cannot be taken from host {id}");
                return Err(
                    Refusal::conflict(FaultCode::HostAttached, what, "it is in a cluster")
                        .fix("detach it first"),
                );
            }
            host.authorised = false;
            Ok(change.put(&HOSTS, &id.to_string(), &host)?)
        })
        .await?;
    Ok(StatusCode::OK)
}

/// Query of a removal.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveQuery {
    /// Even if etcd of its cluster loses its quorum by it.
    #[serde(default)]
    force: bool,
}

/// `DELETE /resmgr/v1/hosts/{id}`: removes the host from its cluster and from the plane.
pub(super) async fn remove(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Answer<Json<Value>> {
    if query.force {
        let rows = plane.read()?;
        let host = state::host(&rows, host_id(&id)?)?;
        who.require_insist(&rows, &host.project)?;
    }
    remove_this(&plane, host_id(&id)?, query.force)
        .await
        .map(Json)
}

/// `POST /resmgr/v1/hosts/{id}/maintenance`: suspends repairs and changes on the host for a time.
pub(super) async fn begin_maintenance(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Doc(wanted): Doc<MaintenanceRequest>,
) -> Answer<Json<Value>> {
    maintenance::begin_on(&plane, host_id(&id)?, wanted)
        .await
        .map(Json)
}

/// `DELETE /resmgr/v1/hosts/{id}/maintenance`.
pub(super) async fn end_maintenance(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
) -> Answer<Json<Value>> {
    maintenance::end_on(&plane, host_id(&id)?).await.map(Json)
}

pub(super) async fn remove_this(plane: &Arc<Plane>, host: HostId, force: bool) -> Answer<Value> {
    let lost = fleet::remove(plane, host, force).await?;
    plane.sessions.end(host, "the host was removed");
    Ok(json!({"host": host, "lost": lost}))
}

pub(super) fn host_id(text: &str) -> Answer<HostId> {
    text.parse().map_err(|e: pf9_hostagent::model::BadName| {
        Refusal::bad(FaultCode::HostIdInvalid, "request refused", e.to_string())
    })
}

fn known_role(role: &str) -> Answer<()> {
    if role == ROLE {
        return Ok(());
    }
    let role: String = role.chars().take(80).collect();
    Err(Refusal::missing(
        FaultCode::RoleUnknown,
        format!("no role {role}"),
        format!("the role is {ROLE}"),
    ))
}
