//! Version documents and the catalogue, for clients that discover before they call.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

use super::page::{self, Query, ThePlane};
use crate::guard::{Person, Who};
use crate::people::find;
use crate::refusal::Answer;
use crate::state::Plane;

const REGION: &str = "pf9";
/// The v3 version reported: the one that has application credentials and system scope, and nothing later.
const VERSION: &str = "v3.14";
const UPDATED: &str = "2020-04-07T00:00:00Z";
/// Interfaces that clients ask for; all have the same address.
const INTERFACES: [&str; 3] = ["public", "internal", "admin"];

fn version(plane: &Plane) -> Value {
    json!({
        "id": VERSION,
        "status": "stable",
        "updated": UPDATED,
        "links": [{"rel": "self", "href": format!("{}/", page::root(plane))}],
        "media-types": [{
            "base": "application/json",
            "type": "application/vnd.openstack.identity-v3+json",
        }],
    })
}

/// `GET /keystone`: the versions.
pub(crate) async fn versions(State(plane): ThePlane) -> Response {
    let body = json!({"versions": {"values": [version(&plane)]}});
    (StatusCode::MULTIPLE_CHOICES, Json(body)).into_response()
}

/// `GET /keystone/v3`.
pub(crate) async fn v3(State(plane): ThePlane) -> Json<Value> {
    Json(json!({"version": version(&plane)}))
}

/// Name, type and address of each service, as this token reaches it.
fn all(plane: &Plane, who: &Who) -> Vec<(&'static str, &'static str, String)> {
    let url = &plane.public_url;
    let mut all = vec![
        ("keystone", "identity", page::root(plane)),
        ("resmgr", "resmgr", format!("{url}/resmgr")),
    ];
    if let Some((project, _)) = &who.project {
        all.push(("qbert", "qbert", format!("{url}/qbert/v4/{}", project.id)));
    }
    all
}

fn endpoint(name: &str, interface: &str, url: &str) -> Value {
    json!({
        "id": format!("{name}-{interface}"), "interface": interface, "url": url,
        "region": REGION, "region_id": REGION,
    })
}

/// The catalogue of a token.
pub(super) fn catalog(plane: &Plane, who: &Who) -> Value {
    let entry = |(name, kind, url): (&str, &str, String)| {
        let endpoints: Vec<Value> = INTERFACES.iter().map(|i| endpoint(name, i, &url)).collect();
        json!({"id": name, "name": name, "type": kind, "endpoints": endpoints})
    };
    all(plane, who).into_iter().map(entry).collect()
}

fn service_json(name: &str, kind: &str) -> Value {
    json!({"id": name, "name": name, "type": kind, "enabled": true, "description": ""})
}

/// `GET /v3/services`.
pub(crate) async fn services(
    Person(who): Person,
    State(plane): ThePlane,
    query: Query,
) -> Answer<Json<Value>> {
    let rows = all(&plane, &who);
    let rows = rows.iter().map(|(name, kind, _)| service_json(name, kind));
    page::list(&plane, "services", "services", &query, rows.collect())
}

/// `GET /v3/services/{id}`.
pub(crate) async fn service(
    Person(who): Person,
    State(plane): ThePlane,
    crate::http::Path(id): crate::http::Path<String>,
) -> Answer<Json<Value>> {
    let rows = all(&plane, &who);
    let found = rows.iter().find(|(name, _, _)| *name == id);
    let (name, kind, _) = found.ok_or_else(|| find::none("service", &id))?;
    Ok(page::one(
        &plane,
        "service",
        "services",
        service_json(name, kind),
    ))
}

/// `GET /v3/endpoints`.
pub(crate) async fn endpoints(
    Person(who): Person,
    State(plane): ThePlane,
    query: Query,
) -> Answer<Json<Value>> {
    let mut rows = Vec::new();
    for (name, _, url) in all(&plane, &who) {
        for interface in INTERFACES {
            let mut row = endpoint(name, interface, &url);
            row["service_id"] = json!(name);
            row["enabled"] = json!(true);
            rows.push(row);
        }
    }
    page::list(&plane, "endpoints", "endpoints", &query, rows)
}

/// `GET /v3/regions`.
pub(crate) async fn regions(State(plane): ThePlane, query: Query) -> Answer<Json<Value>> {
    let row = json!({"id": REGION, "description": "", "parent_region_id": null});
    page::list(&plane, "regions", "regions", &query, vec![row])
}
