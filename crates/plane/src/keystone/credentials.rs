//! Application credentials: a program's own login, with some of its user's roles in one project.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::page::{self, Query, ThePlane};
use super::tokens::micros;
use super::users::hashed;
use crate::guard::{Person, Who};
use crate::http::{Doc, Path};
use crate::logins::Scope;
use crate::people::{CREDENTIALS, Credential, CredentialId, Place, RoleId, UserId, find, keep};
use crate::refusal::{Answer, Refusal};
use crate::secrets;
use crate::store::Read;
use crate::strangers::Outside;
use pf9_hostagent::model::{FaultCode, Secret, Timestamp};

#[derive(Deserialize)]
pub(crate) struct Body {
    application_credential: SaidCredential,
}
#[derive(Deserialize)]
struct SaidCredential {
    name: Option<String>,
    description: Option<String>,
    secret: Option<Secret<String>>,
    expires_at: Option<String>,
    roles: Option<Vec<SaidRole>>,
    #[serde(default)]
    unrestricted: bool,
    access_rules: Option<Vec<Value>>,
}
#[derive(Deserialize)]
struct SaidRole {
    id: Option<String>,
    name: Option<String>,
}

const WHAT: &str = "no application credential was made";
/// Most roles of one credential.
const ROLES_MAX: usize = 20;

fn shown(rows: &impl Read, row: &Credential) -> Answer<Value> {
    let mut roles = Vec::new();
    for id in &row.roles {
        if let Ok(role) = find::role(rows, id.as_str()) {
            roles.push(json!({"id": role.id, "name": role.name, "domain_id": null}));
        }
    }
    Ok(json!({
        "id": row.id, "name": row.name, "description": row.description,
        "project_id": row.project, "user_id": row.user, "roles": roles,
        "expires_at": row.expires_at.map(micros), "unrestricted": row.unrestricted,
        "system": null,
    }))
}

fn plural(user: &UserId) -> String {
    format!("users/{user}/application_credentials")
}

/// A token from an application credential may manage none, unless it is unrestricted.
fn require_free(rows: &impl Read, who: &Who) -> Answer<()> {
    let of = match &who.login.credential {
        Some(id) => rows.get(&CREDENTIALS, id.as_str())?,
        None => return Ok(()),
    };
    if of.is_some_and(|c: Credential| c.unrestricted) {
        return Ok(());
    }
    let why = "an application credential may create or delete others only if it is unrestricted";
    Err(Refusal::forbidden(
        FaultCode::TokenScope,
        "request refused",
        why,
    ))
}

/// `GET /v3/users/{user_id}/application_credentials`.
pub(crate) async fn list(
    State(plane): ThePlane,
    Path(user): Path<String>,
    query: Query,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let user = find::user(&rows, &user)?.id;
    let mut all = Vec::new();
    for row in keep::credentials_of(&rows, &user)? {
        all.push(shown(&rows, &row)?);
    }
    let path = plural(&user);
    page::list(&plane, &path, &path, &query, all)
}

fn find_one(rows: &impl Read, user: &str, id: &str) -> Answer<Credential> {
    let user = find::user(rows, user)?.id;
    let row = match CredentialId::of(id) {
        Some(id) => rows.get(&CREDENTIALS, id.as_str())?,
        None => None,
    };
    row.filter(|c: &Credential| c.user == user)
        .ok_or_else(|| find::none("application credential", id))
}

/// `GET /v3/users/{user_id}/application_credentials/{credential_id}`.
pub(crate) async fn get(
    State(plane): ThePlane,
    Path((user, id)): Path<(String, String)>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let row = find_one(&rows, &user, &id)?;
    let value = shown(&rows, &row)?;
    Ok(page::one(
        &plane,
        "application_credential",
        &plural(&row.user),
        value,
    ))
}

/// `POST /v3/users/{user_id}/application_credentials`: one's own, in the project of the token. The secret is shown
/// once.
pub(crate) async fn make(
    Person(who): Person,
    State(plane): ThePlane,
    Extension(outside): Extension<Outside>,
    Path(user): Path<String>,
    Doc(body): Doc<Body>,
) -> Answer<(StatusCode, Json<Value>)> {
    let said = body.application_credential;
    if user != who.user.id.as_str() {
        let why = "only its own user may create it";
        return Err(Refusal::forbidden(FaultCode::NotAllowed, WHAT, why));
    }
    let Scope::Project(project) = who.login.scope.clone() else {
        let why = "the token has no project scope";
        return Err(Refusal::forbidden(FaultCode::TokenScope, WHAT, why)
            .fix("log in to the project it is meant for"));
    };
    let bad = |why: &str| Refusal::bad(FaultCode::BodyMalformed, WHAT, why);
    if said.access_rules.is_some_and(|rules| !rules.is_empty()) {
        return Err(bad("application_credential.access_rules: not supported"));
    }
    let expires_at = said.expires_at.as_deref().map(moment).transpose();
    let expires_at = expires_at
        .map_err(|()| bad("application_credential.expires_at: a time, as 2030-01-31T12:00:00"))?;
    let secret = match said.secret {
        Some(secret) => secret,
        None => secrets::fresh()?,
    };
    let hash = hashed(&plane, &outside, secret.clone()).await?;
    let (named, fresh) = (said.roles, Arc::clone(&who));
    let row = plane
        .change(move |change| {
            require_free(&**change, &fresh)?;
            let place = Place::Project(project.clone());
            // The token's current roles; an unrestricted credential gives no more than it has.
            let mut has = find::roles(&**change, &place, &fresh.user.id)?;
            has.retain(|id| fresh.roles.iter().any(|role| role.id == *id));
            let roles = match named {
                None => has.iter().cloned().collect(),
                Some(named) => wanted_roles(&**change, named)?,
            };
            if roles.is_empty() || !keep::has_each(&has, &roles) {
                let why = "application_credential.roles: empty, or a role the token does not have";
                return Err(Refusal::forbidden(FaultCode::NotAllowed, WHAT, why));
            }
            let row = Credential {
                id: CredentialId::fresh(),
                user: fresh.user.id.clone(),
                project,
                name: said.name.unwrap_or_default(),
                description: said.description.unwrap_or_default(),
                roles,
                secret: hash,
                created_at: change.now,
                expires_at,
                unrestricted: said.unrestricted,
            };
            keep::put_credential(change, &row)?;
            Ok(row)
        })
        .await?;
    let mut value = shown(&plane.read()?, &row)?;
    value["secret"] = json!(secret.expose());
    Ok(page::made(
        &plane,
        "application_credential",
        &plural(&row.user),
        value,
    ))
}

fn wanted_roles(rows: &impl Read, named: Vec<SaidRole>) -> Answer<Vec<RoleId>> {
    let mut roles = Vec::new();
    for said in named.into_iter().take(ROLES_MAX) {
        let role = match (&said.id, &said.name) {
            (Some(id), _) => find::role(rows, id)?,
            (None, name) => {
                let name = name.as_deref().unwrap_or_default();
                let all = rows.all(&crate::people::ROLES)?;
                let found = all.into_iter().map(|(_, r)| r).find(|r| r.name == name);
                found.ok_or_else(|| find::none("role", name))?
            }
        };
        roles.push(role.id);
    }
    Ok(roles)
}

/// A time as Keystone's clients write it: with a time zone, or without one for UTC.
fn moment(said: &str) -> Result<Timestamp, ()> {
    let zoned = said.parse().ok();
    zoned.or_else(|| format!("{said}Z").parse().ok()).ok_or(())
}

/// `DELETE /v3/users/{user_id}/application_credentials/{credential_id}`.
pub(crate) async fn delete(
    Person(who): Person,
    State(plane): ThePlane,
    Path((user, id)): Path<(String, String)>,
) -> Answer<StatusCode> {
    page::done(&plane, move |change| {
        require_free(&**change, &who)?;
        let row = find_one(&**change, &user, &id)?;
        keep::delete_credential(change, &row)
    })
    .await
}
