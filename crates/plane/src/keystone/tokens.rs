//! Tokens: issue, show, revoke; the catalogue; possible scopes.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::directory::{domain_json, project_json};
use super::login::{self, AuthBody};
use super::page::{self, Query, ThePlane};
use super::{SUBJECT_TOKEN, discovery};
use crate::access::{Action, Owner};
use crate::guard::{self, Person, Who, is_planes_own};
use crate::http::{Doc, STRANGER_MAX};
use crate::logins::{self, Scope};
use crate::people::{CREDENTIALS, Place, find};
use crate::refusal::{Answer, Refusal};
use crate::state::Plane;
use crate::store::Read;
use crate::strangers::Outside;
use pf9_hostagent::model::{FaultCode, Secret};

/// `POST /v3/auth/tokens`.
pub(crate) async fn issue(
    State(plane): ThePlane,
    Extension(outside): Extension<Outside>,
    crate::http::Query(query): Query,
    Doc(body): Doc<AuthBody, STRANGER_MAX>,
) -> Answer<Response> {
    let origin = outside.stranger.origin();
    let login = login::authenticate(&plane, origin, &body.auth).await?;
    let counted = plane.passwords.may_log_in(login.user.as_str());
    counted.map_err(login::too_soon)?;
    let secret = plane.change(move |c| logins::add(c, &login)).await?;
    let rows = plane.read()?;
    let who = guard::who(&rows, secret.expose())?;
    let token = describe(&plane, &rows, &who, !query.contains_key("nocatalog"))?;
    outside.stranger.known();
    let user = who.name();
    tracing::info!(who = user, token = who.mark(), methods = ?who.login.methods, "logged in");
    let mut response = (StatusCode::CREATED, Json(json!({"token": token}))).into_response();
    if let Some(value) = header(&secret) {
        response.headers_mut().insert(SUBJECT_TOKEN, value);
    }
    Ok(response)
}

fn header(secret: &Secret<String>) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(secret.expose()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A token as Keystone shows it.
fn describe(plane: &Plane, rows: &impl Read, who: &Who, catalog: bool) -> Answer<Value> {
    let domain = |d: &crate::people::Domain| json!({"id": d.id, "name": d.name});
    let roles: Vec<Value> = who
        .roles
        .iter()
        .map(|r| json!({"id": r.id, "name": r.name}))
        .collect();
    let mut token = json!({
        "methods": who.login.methods,
        "user": {
            "domain": domain(&who.domain), "id": who.user.id, "name": who.user.name,
            "password_expires_at": null,
        },
        "audit_ids": [who.mark()],
        "issued_at": micros(who.login.created_at),
        "expires_at": micros(who.login.expires_at),
    });
    if let Some((project, its)) = &who.project {
        token["project"] = json!({"domain": domain(its), "id": project.id, "name": project.name});
        token["is_domain"] = json!(false);
        token["is_admin_project"] = json!(is_planes_own(project));
    }
    if let Some(of) = &who.of_domain {
        token["domain"] = domain(of);
    }
    if who.login.scope == Scope::Plane {
        token["system"] = json!({"all": true});
    }
    if let Some(id) = &who.login.credential {
        let row = rows.get(&CREDENTIALS, id.as_str())?;
        token["application_credential"] = json!(
            row.map(|c| { json!({"id": c.id, "name": c.name, "restricted": !c.unrestricted}) })
        );
    }
    if who.login.scope != Scope::Nothing {
        token["roles"] = roles.into();
        if catalog {
            token["catalog"] = discovery::catalog(plane, who);
        }
    }
    Ok(token)
}

/// In Keystone's time format; its clients read no other.
pub(super) fn micros(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// The token the request is about; those of other people only for callers who may see role assignments of the whole
/// plane.
fn subject(rows: &impl Read, who: &Who, headers: &HeaderMap) -> Answer<Who> {
    let said = headers.get(SUBJECT_TOKEN).and_then(|v| v.to_str().ok());
    let none = || find::none("token", "of X-Subject-Token");
    let of = guard::who(rows, said.ok_or_else(none)?).map_err(|_| none())?;
    match of.user.id == who.user.id || who.may(Action::SeeGrants, &Owner::Plane) {
        true => Ok(of),
        false => Err(none()),
    }
}

/// `GET`, `HEAD /v3/auth/tokens`.
pub(crate) async fn show(
    Person(who): Person,
    State(plane): ThePlane,
    headers: HeaderMap,
    crate::http::Query(query): Query,
) -> Answer<Response> {
    let rows = plane.read()?;
    let of = subject(&rows, &who, &headers)?;
    let token = describe(&plane, &rows, &of, !query.contains_key("nocatalog"))?;
    let mut response = Json(json!({"token": token})).into_response();
    if let Some(said) = headers.get(SUBJECT_TOKEN) {
        response.headers_mut().insert(SUBJECT_TOKEN, said.clone());
    }
    Ok(response)
}

/// `DELETE /v3/auth/tokens`.
pub(crate) async fn revoke(
    Person(who): Person,
    State(plane): ThePlane,
    headers: HeaderMap,
) -> Answer<StatusCode> {
    let of = subject(&plane.read()?, &who, &headers)?;
    if of.user.id != who.user.id {
        who.require(Action::GrantPlane, &Owner::Plane)?;
    }
    let change =
        move |change: &mut crate::state::Change<'_>| logins::remove(change, &of.digest, &of.login);
    plane.change(change).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v3/auth/catalog`.
pub(crate) async fn catalog(Person(who): Person, State(plane): ThePlane) -> Answer<Json<Value>> {
    if who.login.scope == Scope::Nothing {
        let why = "the token has no scope";
        return Err(
            Refusal::forbidden(FaultCode::TokenScope, "request refused", why)
                .fix("log in to a project, a domain or the system"),
        );
    }
    let here = format!("{}/auth/catalog", page::root(&plane));
    Ok(Json(json!({
        "catalog": discovery::catalog(&plane, &who),
        "links": {"self": here, "previous": null, "next": null},
    })))
}

/// `GET /v3/auth/projects`, and the same for a user: projects where that user has a role.
pub(crate) async fn projects(
    Person(who): Person,
    State(plane): ThePlane,
    query: Query,
) -> Answer<Json<Value>> {
    projects_of(&plane, &who.user.id, "auth/projects", &query)
}

pub(super) fn projects_of(
    plane: &Plane,
    user: &crate::people::UserId,
    path: &str,
    query: &Query,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let mut all = Vec::new();
    for place in find::places(&rows, user)?.into_keys() {
        if let Place::Project(id) = place
            && let Ok(project) = find::project(&rows, id.as_str())
            && find::is_open(&rows, &project)?
        {
            all.push(project_json(&project));
        }
    }
    page::list(plane, "projects", path, query, all)
}

/// `GET /v3/auth/domains`.
pub(crate) async fn domains(
    Person(who): Person,
    State(plane): ThePlane,
    query: Query,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let mut all = Vec::new();
    for place in find::places(&rows, &who.user.id)?.into_keys() {
        if let Place::Domain(id) = place {
            let row = find::domain(&rows, id.as_str())?;
            all.extend(row.enabled.then(|| domain_json(&row)));
        }
    }
    page::list(&plane, "domains", "auth/domains", &query, all)
}

/// `GET /v3/auth/system`.
pub(crate) async fn system(Person(who): Person, State(plane): ThePlane) -> Answer<Json<Value>> {
    let has = !find::roles(&plane.read()?, &Place::Plane, &who.user.id)?.is_empty();
    let all: Vec<Value> = has.then(|| json!({"all": true})).into_iter().collect();
    let here = format!("{}/auth/system", page::root(&plane));
    Ok(Json(
        json!({"system": all, "links": {"self": here, "previous": null, "next": null}}),
    ))
}
