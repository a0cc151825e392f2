//! People as they are now: role assignments and owners.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Actor, DOMAINS, Domain, DomainId, GRANTS, GROUPS, Grant, Group, GroupId, MEMBERS, PROJECTS,
    Place, Project, ProjectId, ROLES, RoleId, RoleRow, USERS, User, UserId, grants_of,
};
use crate::access::{Owner, Role};
use crate::refusal::{Answer, Refusal};
use crate::store::Read;
use pf9_hostagent::model::FaultCode;

/// "No such thing", whether there is none or the caller may not see it.
pub(crate) fn none(kind: &str, said: &str) -> Refusal {
    let said: String = said
        .chars()
        .filter(|c| !c.is_control())
        .take(super::ID_MAX)
        .collect();
    let code = match kind {
        "project" => FaultCode::ProjectUnknown,
        _ => FaultCode::NotFound,
    };
    Refusal::missing(
        code,
        format!("no {kind} {said}"),
        "there is none, or you have no access to it",
    )
}

macro_rules! by_id {
    ($( $name:ident, $id:ident, $row:ident, $table:ident, $kind:literal; )*) => {$(
        #[doc = concat!("The ", $kind, " of this id.")]
        pub(crate) fn $name(rows: &impl Read, said: &str) -> Answer<$row> {
            let row = match $id::of(said) {
                Some(id) => rows.get(&$table, id.as_str())?,
                None => None,
            };
            row.ok_or_else(|| none($kind, said))
        }
    )*};
}

by_id! {
    domain, DomainId, Domain, DOMAINS, "domain";
    project, ProjectId, Project, PROJECTS, "project";
    user, UserId, User, USERS, "user";
    group, GroupId, Group, GROUPS, "group";
    role, RoleId, RoleRow, ROLES, "role";
}

/// A domain by its name.
pub(crate) fn domain_named(rows: &impl Read, name: &str) -> Answer<Option<Domain>> {
    let all = rows.all(&DOMAINS)?.into_iter().map(|(_, d)| d);
    Ok(all.into_iter().find(|d| d.name == name))
}

/// A project by its name in a domain.
pub(crate) fn project_named(
    rows: &impl Read,
    domain: &DomainId,
    name: &str,
) -> Answer<Option<Project>> {
    let all = rows.all(&PROJECTS)?.into_iter().map(|(_, p)| p);
    Ok(all
        .into_iter()
        .find(|p| p.domain == *domain && p.name == name))
}

/// A user by name in a domain.
pub(crate) fn user_named(rows: &impl Read, domain: &DomainId, name: &str) -> Answer<Option<User>> {
    let all = rows.all(&USERS)?.into_iter().map(|(_, u)| u);
    Ok(all
        .into_iter()
        .find(|u| u.domain == *domain && u.name == name))
}

/// The groups of a user.
pub(crate) fn groups_of(rows: &impl Read, user: &UserId) -> Answer<Vec<GroupId>> {
    let prefix = format!("{user}/");
    let found = rows.with_prefix(&MEMBERS, &prefix)?;
    let ids = found
        .iter()
        .filter_map(|(key, ())| key.strip_prefix(&prefix));
    Ok(ids.filter_map(GroupId::of).collect())
}

/// Roles that an actor was granted directly in a place.
pub(crate) fn granted(rows: &impl Read, place: &Place, actor: &Actor) -> Answer<BTreeSet<RoleId>> {
    let found = rows.with_prefix(&GRANTS, &grants_of(place, actor))?;
    Ok(found.into_iter().map(|(_, grant)| grant.role).collect())
}

/// Current roles of a user in a place, directly and through groups.
pub(crate) fn roles(rows: &impl Read, place: &Place, user: &UserId) -> Answer<BTreeSet<RoleId>> {
    let mut all = granted(rows, place, &Actor::User(user.clone()))?;
    for group in groups_of(rows, user)? {
        all.extend(granted(rows, place, &Actor::Group(group))?);
    }
    Ok(all)
}

/// The greatest of them that means something here.
pub(crate) fn greatest(roles: &BTreeSet<RoleId>) -> Option<Role> {
    roles.iter().filter_map(|id| Role::of(id.as_str())).max()
}

/// Every place where a user has a role, with the roles there.
pub(crate) fn places(rows: &impl Read, user: &UserId) -> Answer<BTreeMap<Place, BTreeSet<RoleId>>> {
    let mut actors = BTreeSet::from([Actor::User(user.clone())]);
    actors.extend(groups_of(rows, user)?.into_iter().map(Actor::Group));
    let mut all: BTreeMap<Place, BTreeSet<RoleId>> = BTreeMap::new();
    for (_, grant) in rows.all(&GRANTS)? {
        if actors.contains(&grant.actor) {
            all.entry(grant.place).or_default().insert(grant.role);
        }
    }
    Ok(all)
}

/// All role assignments.
pub(crate) fn all_grants(rows: &impl Read) -> Answer<Vec<Grant>> {
    Ok(rows.all(&GRANTS)?.into_iter().map(|(_, g)| g).collect())
}

/// Whether tokens of this project may be valid: it and its domain are enabled.
pub(crate) fn is_open(rows: &impl Read, project: &Project) -> Answer<bool> {
    let domain = rows.get(&DOMAINS, project.domain.as_str())?;
    Ok(project.enabled && domain.is_some_and(|d| d.enabled))
}

/// Owner of a project.
pub(crate) fn owner_of_project(rows: &impl Read, id: &ProjectId) -> Answer<Option<Owner>> {
    let row = rows.get(&PROJECTS, id.as_str())?;
    Ok(row.map(|p| Owner::Project(p.id, p.domain)))
}

/// Owner of a user.
pub(crate) fn owner_of_user(rows: &impl Read, user: &User) -> Answer<Owner> {
    Ok(Owner::User {
        id: user.id.clone(),
        domain: user.domain.clone(),
        exalted: !roles(rows, &Place::Plane, &user.id)?.is_empty(),
    })
}

/// Owner of a group.
pub(crate) fn owner_of_group(rows: &impl Read, group: &Group) -> Answer<Owner> {
    let actor = Actor::Group(group.id.clone());
    Ok(Owner::Group {
        domain: group.domain.clone(),
        exalted: !granted(rows, &Place::Plane, &actor)?.is_empty(),
    })
}
