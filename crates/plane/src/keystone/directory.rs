//! Domains and projects.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::page::{self, Id, Query, ThePlane};
use crate::access::{Action, Owner};
use crate::guard::{Person, Who};
use crate::http::{Doc, Path};
use crate::people::{DOMAINS, Domain, DomainId, PROJECTS, Project, ProjectId, find, keep};
use crate::refusal::Answer;
use crate::store::Read;

/// Fields of a body for any of them; an absent one is unchanged, or the default. Other fields that Keystone's clients
/// send have no meaning here.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Said {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) enabled: Option<bool>,
    pub(super) domain_id: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct DomainBody {
    domain: Said,
}
#[derive(Deserialize)]
pub(crate) struct ProjectBody {
    project: Said,
}

pub(super) fn domain_json(row: &Domain) -> Value {
    json!({
        "id": row.id, "name": row.name, "description": row.description, "enabled": row.enabled,
        "tags": [], "options": {},
    })
}

pub(super) fn project_json(row: &Project) -> Value {
    json!({
        "id": row.id, "name": row.name, "description": row.description, "enabled": row.enabled,
        "domain_id": row.domain, "parent_id": row.domain, "is_domain": false,
        "tags": [], "options": {},
    })
}

/// The domain named in a body; without one, the token's domain.
pub(super) fn domain_of(rows: &impl Read, who: &Who, said: Option<&str>) -> Answer<Domain> {
    let own = || match (&who.of_domain, &who.project) {
        (Some(of), _) => of.id.to_string(),
        (None, Some((project, _))) => project.domain.to_string(),
        (None, None) => who.user.domain.to_string(),
    };
    find::domain(rows, &said.map_or_else(own, str::to_owned))
}

// === domains ===

pub(crate) async fn domains(
    Person(who): Person,
    State(plane): ThePlane,
    query: Query,
) -> Answer<Json<Value>> {
    let all = plane.read()?.all(&DOMAINS)?.into_iter().map(|(_, d)| d);
    let seen = all.filter(|d| who.may(Action::SeeDomains, &Owner::Domain(d.id.clone())));
    let rows = seen.map(|d| domain_json(&d)).collect();
    page::list(&plane, "domains", "domains", &query, rows)
}

pub(crate) async fn domain(State(plane): ThePlane, Path(id): Id) -> Answer<Json<Value>> {
    let row = find::domain(&plane.read()?, &id)?;
    Ok(page::one(&plane, "domain", "domains", domain_json(&row)))
}

pub(crate) async fn make_domain(
    State(plane): ThePlane,
    Doc(body): Doc<DomainBody>,
) -> Answer<(StatusCode, Json<Value>)> {
    let said = body.domain;
    let row = Domain {
        id: DomainId::fresh(),
        name: said.name.unwrap_or_default(),
        description: said.description.unwrap_or_default(),
        enabled: said.enabled.unwrap_or(true),
    };
    let put = row.clone();
    plane.change(move |c| keep::put_domain(c, &put)).await?;
    Ok(page::made(&plane, "domain", "domains", domain_json(&row)))
}

pub(crate) async fn change_domain(
    State(plane): ThePlane,
    Path(id): Id,
    Doc(body): Doc<DomainBody>,
) -> Answer<Json<Value>> {
    let said = body.domain;
    let row = plane
        .change(move |change| {
            let mut row = find::domain(&**change, &id)?;
            row.name = said.name.unwrap_or(row.name);
            row.description = said.description.unwrap_or(row.description);
            row.enabled = said.enabled.unwrap_or(row.enabled);
            keep::put_domain(change, &row)?;
            Ok(row)
        })
        .await?;
    Ok(page::one(&plane, "domain", "domains", domain_json(&row)))
}

pub(crate) async fn delete_domain(State(plane): ThePlane, Path(id): Id) -> Answer<StatusCode> {
    page::done(&plane, move |change| {
        let row = find::domain(&**change, &id)?;
        keep::delete_domain(change, &row.id)
    })
    .await
}

// === projects ===

pub(crate) async fn projects(
    Person(who): Person,
    State(plane): ThePlane,
    query: Query,
) -> Answer<Json<Value>> {
    let all = plane.read()?.all(&PROJECTS)?.into_iter().map(|(_, p)| p);
    let owner = |p: &Project| Owner::Project(p.id.clone(), p.domain.clone());
    let seen = all.filter(|p| who.may(Action::SeeProjects, &owner(p)));
    let rows = seen.map(|p| project_json(&p)).collect();
    page::list(&plane, "projects", "projects", &query, rows)
}

pub(crate) async fn project(State(plane): ThePlane, Path(id): Id) -> Answer<Json<Value>> {
    let row = find::project(&plane.read()?, &id)?;
    Ok(page::one(&plane, "project", "projects", project_json(&row)))
}

pub(crate) async fn make_project(
    Person(who): Person,
    State(plane): ThePlane,
    Doc(body): Doc<ProjectBody>,
) -> Answer<(StatusCode, Json<Value>)> {
    let said = body.project;
    let row = plane
        .change(move |change| {
            let domain = domain_of(&**change, &who, said.domain_id.as_deref())?;
            who.require(Action::ChangeProjects, &Owner::Domain(domain.id.clone()))?;
            let row = Project {
                id: ProjectId::fresh(),
                domain: domain.id,
                name: said.name.unwrap_or_default(),
                description: said.description.unwrap_or_default(),
                enabled: said.enabled.unwrap_or(true),
            };
            keep::put_project(change, &row)?;
            Ok(row)
        })
        .await?;
    Ok(page::made(
        &plane,
        "project",
        "projects",
        project_json(&row),
    ))
}

pub(crate) async fn change_project(
    State(plane): ThePlane,
    Path(id): Id,
    Doc(body): Doc<ProjectBody>,
) -> Answer<Json<Value>> {
    let said = body.project;
    let row = plane
        .change(move |change| {
            let mut row = find::project(&**change, &id)?;
            row.name = said.name.unwrap_or(row.name);
            row.description = said.description.unwrap_or(row.description);
            row.enabled = said.enabled.unwrap_or(row.enabled);
            keep::put_project(change, &row)?;
            Ok(row)
        })
        .await?;
    Ok(page::one(&plane, "project", "projects", project_json(&row)))
}

pub(crate) async fn delete_project(State(plane): ThePlane, Path(id): Id) -> Answer<StatusCode> {
    page::done(&plane, move |change| {
        let row = find::project(&**change, &id)?;
        keep::delete_project(change, &row.id)
    })
    .await
}
