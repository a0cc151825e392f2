//! Roles and role assignments. `admin`, `member` and `reader` mean something here; others are stored for other users of
//! Keystone, and allow nothing.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{RawPathParams, State};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::directory::Said;
use super::page::{self, Id, Query, ThePlane};
use crate::access::Action;
use crate::guard::{Person, Who};
use crate::http::{Doc, Path};
use crate::people::{
    Actor, Domain, Grant, Place, Project, ROLES, RoleId, RoleRow, User, find, keep,
};
use crate::refusal::{Answer, Refusal};
use crate::state::Plane;
use crate::store::Read;
use pf9_hostagent::model::FaultCode;

#[derive(Deserialize)]
pub(crate) struct RoleBody {
    role: Said,
}

fn role_json(row: &RoleRow) -> Value {
    json!({
        "id": row.id, "name": row.name, "description": row.description, "domain_id": null,
        "options": {},
    })
}

pub(crate) async fn roles(State(plane): ThePlane, query: Query) -> Answer<Json<Value>> {
    let all = plane.read()?.all(&ROLES)?;
    let rows = all.iter().map(|(_, r)| role_json(r)).collect();
    page::list(&plane, "roles", "roles", &query, rows)
}

pub(crate) async fn role(State(plane): ThePlane, Path(id): Id) -> Answer<Json<Value>> {
    let row = find::role(&plane.read()?, &id)?;
    Ok(page::one(&plane, "role", "roles", role_json(&row)))
}

pub(crate) async fn make_role(
    State(plane): ThePlane,
    Doc(body): Doc<RoleBody>,
) -> Answer<(StatusCode, Json<Value>)> {
    let said = body.role;
    let row = RoleRow {
        id: RoleId::fresh(),
        name: said.name.unwrap_or_default(),
        description: said.description.unwrap_or_default(),
    };
    let put = row.clone();
    plane.change(move |c| keep::put_role(c, &put)).await?;
    Ok(page::made(&plane, "role", "roles", role_json(&row)))
}

pub(crate) async fn change_role(
    State(plane): ThePlane,
    Path(id): Id,
    Doc(body): Doc<RoleBody>,
) -> Answer<Json<Value>> {
    let said = body.role;
    let row = plane
        .change(move |change| {
            let mut row = find::role(&**change, &id)?;
            row.name = said.name.unwrap_or(row.name);
            row.description = said.description.unwrap_or(row.description);
            keep::put_role(change, &row)?;
            Ok(row)
        })
        .await?;
    Ok(page::one(&plane, "role", "roles", role_json(&row)))
}

pub(crate) async fn delete_role(State(plane): ThePlane, Path(id): Id) -> Answer<StatusCode> {
    page::done(&plane, move |change| {
        let row = find::role(&**change, &id)?;
        keep::delete_role(change, &row)
    })
    .await
}

// === role assignments: the path names everything ===

/// Place and actor of a path: `/v3/{system | domains/… | projects/…}/{users/… | groups/…}/roles[/…]`.
fn said(rows: &impl Read, params: &RawPathParams) -> Answer<(Place, Actor, Option<RoleRow>)> {
    let (mut place, mut actor, mut role) = (Place::Plane, None, None);
    for (name, said) in params {
        match name {
            "project_id" => place = Place::Project(find::project(rows, said)?.id),
            "domain_id" => place = Place::Domain(find::domain(rows, said)?.id),
            "user_id" => actor = Some(Actor::User(find::user(rows, said)?.id)),
            "group_id" => actor = Some(Actor::Group(find::group(rows, said)?.id)),
            "role_id" => role = Some(find::role(rows, said)?),
            _ => {}
        }
    }
    let nobody = || {
        Refusal::bad(
            FaultCode::PathInvalid,
            "request refused",
            "it names no user or group",
        )
    };
    Ok((place, actor.ok_or_else(nobody)?, role))
}

fn grant_of(rows: &impl Read, params: &RawPathParams) -> Answer<Grant> {
    let (place, actor, role) = said(rows, params)?;
    let role = role.ok_or_else(|| find::none("role", ""))?.id;
    Ok(Grant { place, actor, role })
}

/// `GET …/roles`: of one actor in one place, granted directly.
pub(crate) async fn of_one(
    State(plane): ThePlane,
    params: RawPathParams,
    query: Query,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let (place, actor, _) = said(&rows, &params)?;
    let mut all = Vec::new();
    for role in find::granted(&rows, &place, &actor)? {
        all.push(role_json(&find::role(&rows, role.as_str())?));
    }
    page::list(&plane, "roles", "roles", &query, all)
}

/// `GET`, `HEAD …/roles/{role_id}`.
pub(crate) async fn has(State(plane): ThePlane, params: RawPathParams) -> Answer<StatusCode> {
    let rows = plane.read()?;
    let grant = grant_of(&rows, &params)?;
    match find::granted(&rows, &grant.place, &grant.actor)?.contains(&grant.role) {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(find::none("role assignment", grant.role.as_str())),
    }
}

/// `PUT …/roles/{role_id}`.
pub(crate) async fn give(State(plane): ThePlane, params: RawPathParams) -> Answer<StatusCode> {
    let grant = grant_of(&plane.read()?, &params)?;
    let given = grant.clone();
    plane.change(move |c| keep::grant(c, &given)).await?;
    tracing::info!(place = %grant.place, actor = %grant.actor, role = %grant.role, "role given");
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE …/roles/{role_id}`.
pub(crate) async fn take(State(plane): ThePlane, params: RawPathParams) -> Answer<StatusCode> {
    let grant = grant_of(&plane.read()?, &params)?;
    let taken = grant.clone();
    plane.change(move |c| keep::revoke(c, &taken)).await?;
    tracing::info!(place = %grant.place, actor = %grant.actor, role = %grant.role, "role taken");
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v3/role_assignments`, those visible to the token. `effective` resolves groups to their members.
pub(crate) async fn assignments(
    Person(who): Person,
    State(plane): ThePlane,
    query: Query,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let names = is_said(&query, "include_names");
    let effective = is_said(&query, "effective");
    let mut all = Vec::new();
    for grant in find::all_grants(&rows)? {
        let actors = match (&grant.actor, effective) {
            (Actor::Group(group), true) => users_in(&rows, group)?,
            (actor, _) => vec![actor.clone()],
        };
        for actor in actors {
            let one = Grant {
                actor,
                ..grant.clone()
            };
            if is_asked(&query, &one) && is_seen(&rows, &who, &one)? {
                all.push(assignment_json(&plane, &rows, &one, names)?);
            }
        }
    }
    let here = format!("{}/role_assignments", page::root(&plane));
    Ok(Json(json!({
        "role_assignments": all,
        "links": {"self": here, "previous": null, "next": null},
    })))
}

fn users_in(rows: &impl Read, group: &crate::people::GroupId) -> Answer<Vec<Actor>> {
    let mut users = Vec::new();
    for (key, ()) in rows.all(&crate::people::MEMBERS)? {
        if let Some((user, of)) = key.split_once('/')
            && of == group.as_str()
        {
            users.extend(crate::people::UserId::of(user).map(Actor::User));
        }
    }
    Ok(users)
}

/// A key without a value, or with one that is not false.
fn is_said(query: &BTreeMap<String, String>, key: &str) -> bool {
    let said = query.get(key).map(|v| v.to_ascii_lowercase());
    said.is_some_and(|v| v != "0" && v != "false")
}

fn is_asked(query: &BTreeMap<String, String>, grant: &Grant) -> bool {
    let (user, group) = match &grant.actor {
        Actor::User(id) => (Some(id.as_str()), None),
        Actor::Group(id) => (None, Some(id.as_str())),
    };
    let (project, domain, system) = match &grant.place {
        Place::Project(id) => (Some(id.as_str()), None, None),
        Place::Domain(id) => (None, Some(id.as_str()), None),
        Place::Plane => (None, None, Some("all")),
    };
    let has = [
        ("user.id", user),
        ("group.id", group),
        ("scope.project.id", project),
        ("scope.domain.id", domain),
        ("role.id", Some(grant.role.as_str())),
    ];
    let wrong = has
        .iter()
        .any(|(key, has)| query.get(*key).is_some_and(|wanted| *has != Some(wanted)));
    !wrong && (!query.contains_key("scope.system") || system.is_some())
}

/// Whether both ends of it are visible.
fn is_seen(rows: &impl Read, who: &Who, grant: &Grant) -> Answer<bool> {
    let actor = match &grant.actor {
        Actor::User(id) if *id == who.user.id => return Ok(true),
        Actor::User(id) => find::owner_of_user(rows, &find::user(rows, id.as_str())?)?,
        Actor::Group(id) => find::owner_of_group(rows, &find::group(rows, id.as_str())?)?,
    };
    let place = match &grant.place {
        Place::Plane => return Ok(who.may(Action::SeeGrants, &crate::access::Owner::Plane)),
        Place::Domain(id) => Some(crate::access::Owner::Domain(id.clone())),
        Place::Project(id) => find::owner_of_project(rows, id)?,
    };
    // A caller who sees a project sees its members, wherever they are from.
    let sees = |owner: &crate::access::Owner| who.may(Action::SeeAssignments, owner);
    Ok(place.is_some_and(|place| sees(&place)) || sees(&actor))
}

fn assignment_json(plane: &Plane, rows: &impl Read, grant: &Grant, names: bool) -> Answer<Value> {
    let of_domain = |d: &Domain| json!({"id": d.id, "name": d.name});
    let mut shown = json!({"role": {"id": grant.role}});
    if names {
        shown["role"]["name"] = json!(find::role(rows, grant.role.as_str())?.name);
    }
    let (kind, id) = match &grant.actor {
        Actor::User(id) => ("user", id.as_str()),
        Actor::Group(id) => ("group", id.as_str()),
    };
    shown[kind] = json!({"id": id});
    if names {
        let (name, domain) = match &grant.actor {
            Actor::User(id) => {
                let User { name, domain, .. } = find::user(rows, id.as_str())?;
                (name, domain)
            }
            Actor::Group(id) => {
                let group = find::group(rows, id.as_str())?;
                (group.name, group.domain)
            }
        };
        shown[kind]["name"] = json!(name);
        shown[kind]["domain"] = of_domain(&find::domain(rows, domain.as_str())?);
    }
    shown["scope"] = match &grant.place {
        Place::Plane => json!({"system": {"all": true}}),
        Place::Domain(id) if names => {
            json!({"domain": of_domain(&find::domain(rows, id.as_str())?)})
        }
        Place::Domain(id) => json!({"domain": {"id": id}}),
        Place::Project(id) if names => {
            let Project { name, domain, .. } = find::project(rows, id.as_str())?;
            let domain = of_domain(&find::domain(rows, domain.as_str())?);
            json!({"project": {"id": id, "name": name, "domain": domain}})
        }
        Place::Project(id) => json!({"project": {"id": id}}),
    };
    let place = match &grant.place {
        Place::Plane => "system".to_owned(),
        Place::Domain(id) => format!("domains/{id}"),
        Place::Project(id) => format!("projects/{id}"),
    };
    let root = page::root(plane);
    let link = format!("{root}/{place}/{kind}s/{id}/roles/{}", grant.role);
    shown["links"] = json!({"assignment": link});
    Ok(shown)
}
