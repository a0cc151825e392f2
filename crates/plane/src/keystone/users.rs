//! Users, their passwords, and groups.

use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::directory::{Said, domain_of};
use super::page::{self, Id, Query, ThePlane};
use super::{login, tokens};
use crate::access::{Action, Owner};
use crate::guard::Person;
use crate::http::{Doc, Path};
use crate::people::{GROUPS, Group, GroupId, MEMBERS, ProjectId, USERS, User, UserId, find, keep};
use crate::refusal::{Answer, Refusal};
use crate::secrets::PasswordHash;
use crate::state::{Change, Plane};
use crate::store::Read;
use crate::strangers::Outside;
use pf9_hostagent::model::{FaultCode, Secret};

#[derive(Deserialize)]
pub(crate) struct UserBody {
    user: SaidUser,
}
#[derive(Deserialize)]
struct SaidUser {
    #[serde(flatten)]
    said: Said,
    email: Option<String>,
    password: Option<Secret<String>>,
    default_project_id: Option<String>,
}
#[derive(Deserialize)]
pub(crate) struct PasswordBody {
    user: SaidPassword,
}
#[derive(Deserialize)]
struct SaidPassword {
    password: Secret<String>,
    original_password: Secret<String>,
}
#[derive(Deserialize)]
pub(crate) struct GroupBody {
    group: Said,
}

fn user_json(row: &User) -> Value {
    let mut shown = json!({
        "id": row.id, "name": row.name, "domain_id": row.domain, "enabled": row.enabled,
        "description": row.description, "password_expires_at": null, "options": {},
    });
    if let Some(email) = &row.email {
        shown["email"] = json!(email);
    }
    if let Some(project) = &row.default_project {
        shown["default_project_id"] = json!(project);
    }
    shown
}

fn group_json(row: &Group) -> Value {
    json!({
        "id": row.id, "name": row.name, "domain_id": row.domain, "description": row.description,
    })
}

/// Hashed in its turn: it is slow.
pub(crate) async fn hashed(
    plane: &Plane,
    outside: &Outside,
    password: Secret<String>,
) -> Answer<PasswordHash> {
    keep::check_password(&password)?;
    let origin = outside.stranger.origin();
    let hash = plane.passwords.hash(origin, password).await;
    Ok(hash.map_err(login::too_soon)??)
}

/// Sets a password; invalidates everything older.
pub(crate) fn set_password(change: &Change<'_>, user: &mut User, hash: PasswordHash) {
    user.password = Some(hash);
    user.since = change.now;
}

// === users ===

pub(crate) async fn users(
    Person(who): Person,
    State(plane): ThePlane,
    query: Query,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let mut seen = Vec::new();
    for (_, user) in rows.all(&USERS)? {
        let owner = Owner::User {
            id: user.id.clone(),
            domain: user.domain.clone(),
            exalted: false,
        };
        if who.may(Action::SeeUsers, &owner) {
            seen.push(user_json(&user));
        }
    }
    page::list(&plane, "users", "users", &query, seen)
}

pub(crate) async fn user(State(plane): ThePlane, Path(id): Id) -> Answer<Json<Value>> {
    let row = find::user(&plane.read()?, &id)?;
    Ok(page::one(&plane, "user", "users", user_json(&row)))
}

fn default_project(rows: &impl Read, said: Option<&str>) -> Answer<Option<ProjectId>> {
    // Whether the user has a role there is checked at login.
    said.filter(|s| !s.is_empty())
        .map(|said| Ok(find::project(rows, said)?.id))
        .transpose()
}

pub(crate) async fn make_user(
    Person(who): Person,
    State(plane): ThePlane,
    Extension(outside): Extension<Outside>,
    Doc(body): Doc<UserBody>,
) -> Answer<(StatusCode, Json<Value>)> {
    let said = body.user;
    let hash = match said.password {
        Some(password) => Some(hashed(&plane, &outside, password).await?),
        None => None,
    };
    let row = plane
        .change(move |change| {
            let domain = domain_of(&**change, &who, said.said.domain_id.as_deref())?;
            who.require(Action::ChangeUsers, &Owner::Domain(domain.id.clone()))?;
            let row = User {
                id: UserId::fresh(),
                domain: domain.id,
                name: said.said.name.unwrap_or_default(),
                description: said.said.description.unwrap_or_default(),
                email: said.email,
                enabled: said.said.enabled.unwrap_or(true),
                default_project: default_project(&**change, said.default_project_id.as_deref())?,
                password: hash,
                since: change.now,
            };
            keep::put_user(change, &row)?;
            Ok(row)
        })
        .await?;
    Ok(page::made(&plane, "user", "users", user_json(&row)))
}

pub(crate) async fn change_user(
    State(plane): ThePlane,
    Extension(outside): Extension<Outside>,
    Path(id): Id,
    Doc(body): Doc<UserBody>,
) -> Answer<Json<Value>> {
    let said = body.user;
    let hash = match said.password {
        Some(password) => Some(hashed(&plane, &outside, password).await?),
        None => None,
    };
    let row = plane
        .change(move |change| {
            let mut row = find::user(&**change, &id)?;
            if let Some(hash) = hash {
                set_password(change, &mut row, hash);
            }
            if said.said.enabled == Some(false) {
                // Present tokens do not become valid again once the user is enabled.
                row.since = change.now;
            }
            if let Some(project) = said.default_project_id {
                row.default_project = default_project(&**change, Some(&project))?;
            }
            row.name = said.said.name.unwrap_or(row.name);
            row.description = said.said.description.unwrap_or(row.description);
            row.enabled = said.said.enabled.unwrap_or(row.enabled);
            row.email = said.email.or(row.email);
            keep::put_user(change, &row)?;
            Ok(row)
        })
        .await?;
    Ok(page::one(&plane, "user", "users", user_json(&row)))
}

pub(crate) async fn delete_user(State(plane): ThePlane, Path(id): Id) -> Answer<StatusCode> {
    page::done(&plane, move |change| {
        let row = find::user(&**change, &id)?;
        keep::delete_user(change, &row.id)
    })
    .await
}

/// `POST /v3/users/{user_id}/password`: by anybody who knows the current one.
pub(crate) async fn change_password(
    Person(who): Person,
    State(plane): ThePlane,
    Extension(outside): Extension<Outside>,
    Path(id): Id,
    Doc(body): Doc<PasswordBody>,
) -> Answer<StatusCode> {
    if who.login.credential.is_some() {
        let why = "an application credential cannot change a password";
        return Err(Refusal::forbidden(
            FaultCode::TokenScope,
            "request refused",
            why,
        ));
    }
    let said = body.user;
    keep::check_password(&said.password)?;
    let row = find::user(&plane.read()?, &id)?;
    let kept = row.password.as_ref().map(|kept| (row.id.as_str(), kept));
    let (origin, account) = (outside.stranger.origin(), row.id.as_str());
    login::check(&plane, origin, account, kept, &said.original_password).await?;
    let hash = hashed(&plane, &outside, said.password).await?;
    let before = row.since;
    page::done(&plane, move |change| {
        let mut row = find::user(&**change, &id)?;
        if row.since != before {
            let why = "the password was changed meanwhile";
            return Err(Refusal::conflict(FaultCode::Busy, "request refused", why));
        }
        set_password(change, &mut row, hash);
        keep::put_user(change, &row)
    })
    .await
}

/// `GET /v3/users/{user_id}/groups`.
pub(crate) async fn groups_of(
    State(plane): ThePlane,
    Path(id): Id,
    query: Query,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let row = find::user(&rows, &id)?;
    let mut all = Vec::new();
    for group in find::groups_of(&rows, &row.id)? {
        all.push(group_json(&find::group(&rows, group.as_str())?));
    }
    page::list(
        &plane,
        "groups",
        &format!("users/{}/groups", row.id),
        &query,
        all,
    )
}

/// `GET /v3/users/{user_id}/projects`.
pub(crate) async fn projects_of(
    State(plane): ThePlane,
    Path(id): Id,
    query: Query,
) -> Answer<Json<Value>> {
    let row = find::user(&plane.read()?, &id)?;
    tokens::projects_of(
        &plane,
        &row.id,
        &format!("users/{}/projects", row.id),
        &query,
    )
}

// === groups ===

pub(crate) async fn groups(
    Person(who): Person,
    State(plane): ThePlane,
    query: Query,
) -> Answer<Json<Value>> {
    let all = plane.read()?.all(&GROUPS)?.into_iter().map(|(_, g)| g);
    let seen = all.filter(|g| who.may(Action::SeeGroups, &Owner::Domain(g.domain.clone())));
    let rows = seen.map(|g| group_json(&g)).collect();
    page::list(&plane, "groups", "groups", &query, rows)
}

pub(crate) async fn group(State(plane): ThePlane, Path(id): Id) -> Answer<Json<Value>> {
    let row = find::group(&plane.read()?, &id)?;
    Ok(page::one(&plane, "group", "groups", group_json(&row)))
}

pub(crate) async fn make_group(
    Person(who): Person,
    State(plane): ThePlane,
    Doc(body): Doc<GroupBody>,
) -> Answer<(StatusCode, Json<Value>)> {
    let said = body.group;
    let row = plane
        .change(move |change| {
            let domain = domain_of(&**change, &who, said.domain_id.as_deref())?;
            who.require(Action::ChangeGroups, &Owner::Domain(domain.id.clone()))?;
            let row = Group {
                id: GroupId::fresh(),
                domain: domain.id,
                name: said.name.unwrap_or_default(),
                description: said.description.unwrap_or_default(),
            };
            keep::put_group(change, &row)?;
            Ok(row)
        })
        .await?;
    Ok(page::made(&plane, "group", "groups", group_json(&row)))
}

pub(crate) async fn change_group(
    State(plane): ThePlane,
    Path(id): Id,
    Doc(body): Doc<GroupBody>,
) -> Answer<Json<Value>> {
    let said = body.group;
    let row = plane
        .change(move |change| {
            let mut row = find::group(&**change, &id)?;
            row.name = said.name.unwrap_or(row.name);
            row.description = said.description.unwrap_or(row.description);
            keep::put_group(change, &row)?;
            Ok(row)
        })
        .await?;
    Ok(page::one(&plane, "group", "groups", group_json(&row)))
}

pub(crate) async fn delete_group(State(plane): ThePlane, Path(id): Id) -> Answer<StatusCode> {
    page::done(&plane, move |change| {
        let row = find::group(&**change, &id)?;
        keep::delete_group(change, &row.id)
    })
    .await
}

/// `GET /v3/groups/{group_id}/users`.
pub(crate) async fn members(
    State(plane): ThePlane,
    Path(id): Id,
    query: Query,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let row = find::group(&rows, &id)?;
    let mut all = Vec::new();
    for (key, ()) in rows.all(&MEMBERS)? {
        if let Some((user, group)) = key.split_once('/')
            && group == row.id.as_str()
        {
            all.push(user_json(&find::user(&rows, user)?));
        }
    }
    page::list(
        &plane,
        "users",
        &format!("groups/{}/users", row.id),
        &query,
        all,
    )
}

type Pair = Path<(String, String)>;

/// `PUT /v3/groups/{group_id}/users/{user_id}`.
pub(crate) async fn join(State(plane): ThePlane, Path((group, user)): Pair) -> Answer<StatusCode> {
    page::done(&plane, move |change| {
        let group = find::group(&**change, &group)?;
        let user = find::user(&**change, &user)?;
        keep::join(change, &user.id, &group.id)
    })
    .await
}

fn membership(rows: &impl Read, group: &str, user: &str) -> Answer<String> {
    let group = find::group(rows, group)?.id;
    let key = format!("{}/{group}", find::user(rows, user)?.id);
    match rows.get(&MEMBERS, &key)? {
        Some(()) => Ok(key),
        None => Err(find::none("member", user)),
    }
}

/// `GET`, `HEAD /v3/groups/{group_id}/users/{user_id}`.
pub(crate) async fn is_member(
    State(plane): ThePlane,
    Path((group, user)): Pair,
) -> Answer<StatusCode> {
    membership(&plane.read()?, &group, &user)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /v3/groups/{group_id}/users/{user_id}`.
pub(crate) async fn part(State(plane): ThePlane, Path((group, user)): Pair) -> Answer<StatusCode> {
    page::done(&plane, move |change| {
        let key = membership(&**change, &group, &user)?;
        Ok(change.remove(&MEMBERS, &key)?)
    })
    .await
}
