//! Changing people: allowed names, bounds, and cascades.

use std::collections::BTreeSet;

use super::{
    Actor, CREDENTIALS, CREDENTIALS_OF, Credential, DEFAULT_DOMAIN, DESCRIPTION_MAX, DOMAINS,
    DOMAINS_MAX, Domain, DomainId, GRANTS, GROUPS, GROUPS_MAX, GROUPS_OF_ONE_MAX, Grant, Group,
    GroupId, MEMBERS, NAME_MAX, PASSWORD_MAX, PASSWORD_MIN, PROJECTS, PROJECTS_MAX, Place, Project,
    ProjectId, ROLES, ROLES_MAX, RoleRow, USERS, USERS_MAX, User, UserId, find,
};
use crate::access::Role;
use crate::alerts;
use crate::bootstrap::ADMIN_ROW;
use crate::logins;
use crate::records::{CLUSTERS, HOSTS};
use crate::refusal::{Answer, Refusal};
use crate::state::Change;
use crate::store::Read;
use pf9_hostagent::model::{FaultCode, Secret};

const WHAT: &str = "request refused";

fn bad(why: impl Into<String>) -> Refusal {
    Refusal::bad(FaultCode::BodyMalformed, WHAT, why)
}

fn conflict(why: impl Into<String>) -> Refusal {
    Refusal::conflict(FaultCode::NotAllowed, WHAT, why)
}

/// A name is one line for people, goes into request headers, and contains no separators: a user is called
/// `<domain>/<name>` in Kubernetes, where `:` marks Kubernetes' own names.
pub(crate) fn check_name(kind: &str, name: &str) -> Answer<()> {
    let plain = |b: u8| b.is_ascii_graphic() || b == b' ';
    let edges = name.starts_with(' ') || name.ends_with(' ');
    let sound = (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(plain) && !edges;
    if sound && !name.contains([':', '/', '|', '\\', '"', '%']) {
        return Ok(());
    }
    Err(bad(format!(
        "{kind}.name: 1 to {NAME_MAX} printable ASCII characters, without : / | \\ \" %"
    )))
}

/// A description is text of a bounded length.
pub(crate) fn check_description(kind: &str, text: &str) -> Answer<()> {
    if text.len() <= DESCRIPTION_MAX {
        return Ok(());
    }
    Err(bad(format!(
        "{kind}.description: at most {DESCRIPTION_MAX} bytes"
    )))
}

/// A password is long enough, and short enough to be hashed for any caller.
pub(crate) fn check_password(password: &Secret<String>) -> Answer<()> {
    if (PASSWORD_MIN..=PASSWORD_MAX).contains(&password.expose().len()) {
        return Ok(());
    }
    Err(bad(format!(
        "user.password: {PASSWORD_MIN} to {PASSWORD_MAX} bytes"
    )))
}

fn require_room(kind: &str, there: usize, max: usize) -> Answer<()> {
    if there < max {
        return Ok(());
    }
    Err(conflict(format!("there are {max} {kind} already")).fix("delete one first"))
}

fn require_free(kind: &str, name: &str, taken: bool) -> Answer<()> {
    if !taken {
        return Ok(());
    }
    Err(conflict(format!("there is a {kind} {name:?} already")))
}

/// Stores a domain, new or changed.
pub(crate) fn put_domain(change: &mut Change<'_>, row: &Domain) -> Answer<()> {
    check_name("domain", &row.name)?;
    check_description("domain", &row.description)?;
    let all = change.all(&DOMAINS)?;
    let others = all.iter().filter(|(_, d)| d.id != row.id);
    require_free(
        "domain",
        &row.name,
        others.clone().any(|(_, d)| d.name == row.name),
    )?;
    require_room("domains", others.count(), DOMAINS_MAX)?;
    if row.id.as_str() == DEFAULT_DOMAIN && !row.enabled {
        return Err(conflict(
            "the default domain stays enabled: the administrator is in it",
        ));
    }
    Ok(change.put(&DOMAINS, row.id.as_str(), row)?)
}

/// Deletes a domain and its people; its projects have to be empty.
pub(crate) fn delete_domain(change: &mut Change<'_>, id: &DomainId) -> Answer<()> {
    let row = find::domain(&**change, id.as_str())?;
    if row.enabled {
        return Err(conflict("the domain is enabled").fix("disable it first"));
    }
    for (_, project) in change.all(&PROJECTS)? {
        if project.domain == *id {
            delete_project(change, &project.id)?;
        }
    }
    for (_, group) in change.all(&GROUPS)? {
        if group.domain == *id {
            delete_group(change, &group.id)?;
        }
    }
    for (_, user) in change.all(&USERS)? {
        if user.domain == *id {
            delete_user(change, &user.id)?;
        }
    }
    drop_grants(change, |g| g.place == Place::Domain(id.clone()))?;
    Ok(change.remove(&DOMAINS, id.as_str())?)
}

/// Stores a project.
pub(crate) fn put_project(change: &mut Change<'_>, row: &Project) -> Answer<()> {
    check_name("project", &row.name)?;
    check_description("project", &row.description)?;
    let all = change.all(&PROJECTS)?;
    let others = all.iter().map(|(_, p)| p);
    let others = others.filter(|p| p.id != row.id && p.domain == row.domain);
    require_free(
        "project",
        &row.name,
        others.clone().any(|p| p.name == row.name),
    )?;
    require_room("projects in the domain", others.count(), PROJECTS_MAX)?;
    Ok(change.put(&PROJECTS, row.id.as_str(), row)?)
}

/// Deletes an empty project.
pub(crate) fn delete_project(change: &mut Change<'_>, id: &ProjectId) -> Answer<()> {
    let row = find::project(&**change, id.as_str())?;
    let clusters = change.all(&CLUSTERS)?;
    let hosts = change.all(&HOSTS)?;
    let has_cluster = clusters.iter().any(|(_, c)| c.project == *id);
    if has_cluster || hosts.iter().any(|(_, h)| h.project == *id) {
        let why = format!("project {} has hosts or clusters", row.name);
        return Err(conflict(why).fix("remove them first"));
    }
    for (_, mut user) in change.all(&USERS)? {
        if user.default_project.as_ref() == Some(id) {
            user.default_project = None;
            change.put(&USERS, user.id.as_str(), &user)?;
        }
    }
    for (_, credential) in change.all(&CREDENTIALS)? {
        if credential.project == *id {
            delete_credential(change, &credential)?;
        }
    }
    drop_grants(change, |g| g.place == Place::Project(id.clone()))?;
    alerts::forget_project(change, id)?;
    Ok(change.remove(&PROJECTS, id.as_str())?)
}

/// Stores a user.
pub(crate) fn put_user(change: &mut Change<'_>, row: &User) -> Answer<()> {
    check_name("user", &row.name)?;
    check_description("user", &row.description)?;
    if row.email.as_ref().is_some_and(|e| e.len() > 4 * NAME_MAX) {
        return Err(bad(format!("user.email: at most {} bytes", 4 * NAME_MAX)));
    }
    let all = change.all(&USERS)?;
    let others = all.iter().map(|(_, u)| u);
    let others = others.filter(|u| u.id != row.id && u.domain == row.domain);
    require_free(
        "user",
        &row.name,
        others.clone().any(|u| u.name == row.name),
    )?;
    require_room("users in the domain", others.count(), USERS_MAX)?;
    if row.id.as_str() == ADMIN_ROW && !row.enabled {
        return Err(conflict("the administrator stays enabled"));
    }
    Ok(change.put(&USERS, row.id.as_str(), row)?)
}

/// Deletes a user, with every token, kubeconfig and credential.
pub(crate) fn delete_user(change: &mut Change<'_>, id: &UserId) -> Answer<()> {
    if id.as_str() == ADMIN_ROW {
        return Err(conflict("the administrator stays"));
    }
    for credential in credentials_of(&**change, id)? {
        delete_credential(change, &credential)?;
    }
    logins::forget(change, id, |_| true)?;
    for group in find::groups_of(&**change, id)? {
        change.remove(&MEMBERS, &format!("{id}/{group}"))?;
    }
    drop_grants(change, |g| g.actor == Actor::User(id.clone()))?;
    Ok(change.remove(&USERS, id.as_str())?)
}

/// Stores a group.
pub(crate) fn put_group(change: &mut Change<'_>, row: &Group) -> Answer<()> {
    check_name("group", &row.name)?;
    check_description("group", &row.description)?;
    let all = change.all(&GROUPS)?;
    let others = all.iter().map(|(_, g)| g);
    let others = others.filter(|g| g.id != row.id && g.domain == row.domain);
    require_free(
        "group",
        &row.name,
        others.clone().any(|g| g.name == row.name),
    )?;
    require_room("groups in the domain", others.count(), GROUPS_MAX)?;
    Ok(change.put(&GROUPS, row.id.as_str(), row)?)
}

/// Deletes a group; its members stay.
pub(crate) fn delete_group(change: &mut Change<'_>, id: &GroupId) -> Answer<()> {
    let end = format!("/{id}");
    for (key, ()) in change.all(&MEMBERS)? {
        if key.ends_with(&end) {
            change.remove(&MEMBERS, &key)?;
        }
    }
    drop_grants(change, |g| g.actor == Actor::Group(id.clone()))?;
    Ok(change.remove(&GROUPS, id.as_str())?)
}

/// Adds a user to a group.
pub(crate) fn join(change: &mut Change<'_>, user: &UserId, group: &GroupId) -> Answer<()> {
    let groups = find::groups_of(&**change, user)?;
    if !groups.contains(group) {
        require_room("groups of this user", groups.len(), GROUPS_OF_ONE_MAX)?;
    }
    Ok(change.put(&MEMBERS, &format!("{user}/{group}"), &())?)
}

/// Stores a role that means something elsewhere.
pub(crate) fn put_role(change: &mut Change<'_>, row: &RoleRow) -> Answer<()> {
    check_name("role", &row.name)?;
    check_description("role", &row.description)?;
    require_own_role(row)?;
    let all = change.all(&ROLES)?;
    let others = all.iter().filter(|(_, r)| r.id != row.id);
    require_free(
        "role",
        &row.name,
        others.clone().any(|(_, r)| r.name == row.name),
    )?;
    require_room("roles", others.count(), ROLES_MAX)?;
    Ok(change.put(&ROLES, row.id.as_str(), row)?)
}

fn require_own_role(row: &RoleRow) -> Answer<()> {
    match Role::of(row.id.as_str()) {
        None => Ok(()),
        Some(role) => Err(conflict(format!("role {} cannot be changed", role.word()))),
    }
}

/// Deletes such a role.
pub(crate) fn delete_role(change: &mut Change<'_>, row: &RoleRow) -> Answer<()> {
    require_own_role(row)?;
    drop_grants(change, |g| g.role == row.id)?;
    Ok(change.remove(&ROLES, row.id.as_str())?)
}

/// Assigns a role.
pub(crate) fn grant(change: &mut Change<'_>, grant: &Grant) -> Answer<()> {
    Ok(change.put(&GRANTS, &grant.key(), grant)?)
}

/// Revokes one. The administrator keeps the plane-wide role: nobody else could give it back.
pub(crate) fn revoke(change: &mut Change<'_>, grant: &Grant) -> Answer<()> {
    let key = grant.key();
    let is_admins = matches!(&grant.actor, Actor::User(id) if id.as_str() == ADMIN_ROW);
    if grant.place == Place::Plane
        && is_admins
        && Role::of(grant.role.as_str()) == Some(Role::Admin)
    {
        return Err(conflict("the administrator keeps the whole plane"));
    }
    if change.get(&GRANTS, &key)?.is_none() {
        return Err(find::none("role assignment", grant.role.as_str()));
    }
    Ok(change.remove(&GRANTS, &key)?)
}

fn drop_grants(change: &mut Change<'_>, which: impl Fn(&Grant) -> bool) -> Answer<()> {
    for (key, grant) in change.all(&GRANTS)? {
        if which(&grant) {
            change.remove(&GRANTS, &key)?;
        }
    }
    Ok(())
}

/// Application credentials of a user.
pub(crate) fn credentials_of(rows: &impl Read, user: &UserId) -> Answer<Vec<Credential>> {
    let prefix = format!("{user}/");
    let mut all = Vec::new();
    for (key, ()) in rows.with_prefix(&CREDENTIALS_OF, &prefix)? {
        let id = key.strip_prefix(&prefix).unwrap_or_default();
        all.extend(rows.get(&CREDENTIALS, id)?);
    }
    Ok(all)
}

/// Stores a new application credential.
pub(crate) fn put_credential(change: &mut Change<'_>, row: &Credential) -> Answer<()> {
    check_name("application_credential", &row.name)?;
    check_description("application_credential", &row.description)?;
    let mine = credentials_of(&**change, &row.user)?;
    let taken = mine.iter().any(|c| c.name == row.name);
    require_free("application credential", &row.name, taken)?;
    require_room(
        "application credentials of this user",
        mine.len(),
        super::CREDENTIALS_MAX,
    )?;
    change.put(&CREDENTIALS, row.id.as_str(), row)?;
    Ok(change.put(&CREDENTIALS_OF, &format!("{}/{}", row.user, row.id), &())?)
}

/// Deletes one, and the tokens obtained with it.
pub(crate) fn delete_credential(change: &mut Change<'_>, row: &Credential) -> Answer<()> {
    logins::forget(change, &row.user, |l| {
        l.credential.as_ref() == Some(&row.id)
    })?;
    change.remove(&CREDENTIALS, row.id.as_str())?;
    Ok(change.remove(&CREDENTIALS_OF, &format!("{}/{}", row.user, row.id))?)
}

/// Whether all of these roles are held.
pub(crate) fn has_each(has: &BTreeSet<super::RoleId>, wanted: &[super::RoleId]) -> bool {
    wanted.iter().all(|role| has.contains(role))
}
