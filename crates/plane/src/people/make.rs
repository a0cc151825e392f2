//! The first people of a plane, and the upgrade of a store with one administrator and one project.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Actor, DEFAULT_DOMAIN, DEFAULT_DOMAIN_NAME, DOMAINS, Domain, DomainId, GRANTS, Grant, PROJECTS,
    Place, Project, ProjectId, ROLES, RoleId, RoleRow, USERS, User, UserId,
};
use crate::access::Role;
use crate::bootstrap::{ADMIN, ADMIN_ROW, PROJECT};
use crate::secrets::PasswordHash;
use crate::store::{Read, Rows, StoreError, Write};

/// Makes the default domain, the project `service`, the roles, and the administrator, who has `admin` plane-wide and in
/// that project.
pub(crate) fn first(
    write: &mut Write,
    project: ProjectId,
    password: PasswordHash,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some((domain, admin)) = DomainId::of(DEFAULT_DOMAIN).zip(UserId::of(ADMIN_ROW)) else {
        return Ok(());
    };
    let row = Domain {
        id: domain.clone(),
        name: DEFAULT_DOMAIN_NAME.to_owned(),
        description: String::new(),
        enabled: true,
    };
    write.put(&DOMAINS, domain.as_str(), &row)?;
    let row = Project {
        id: project.clone(),
        domain: domain.clone(),
        name: PROJECT.to_owned(),
        description: String::new(),
        enabled: true,
    };
    write.put(&PROJECTS, project.as_str(), &row)?;
    let row = User {
        id: admin.clone(),
        domain,
        name: ADMIN.to_owned(),
        description: String::new(),
        email: None,
        enabled: true,
        default_project: Some(project.clone()),
        password: Some(password),
        since: now,
    };
    write.put(&USERS, admin.as_str(), &row)?;
    for role in Role::ALL {
        let Some(id) = RoleId::of(role.word()) else {
            continue;
        };
        let row = RoleRow {
            name: role.word().to_owned(),
            description: String::new(),
            id: id.clone(),
        };
        write.put(&ROLES, id.as_str(), &row)?;
        if role != Role::Admin {
            continue;
        }
        for place in [Place::Plane, Place::Project(project.clone())] {
            let grant = Grant {
                place,
                actor: Actor::User(admin.clone()),
                role: id.clone(),
            };
            write.put(&GRANTS, &grant.key(), &grant)?;
        }
    }
    Ok(())
}

/// Rows of the previous schema, under their names of that time.
const USERS_THEN: Rows<Value> = Rows::new("users");
const LOGINS_THEN: Rows<Value> = Rows::new("logins");
const OWNED_THEN: [Rows<Value>; 3] = [
    Rows::new("hosts"),
    Rows::new("clusters"),
    Rows::new("tokens"),
];

/// From the first schema: hosts, clusters and join tokens move to the default project, tokens and kubeconfigs to the
/// administrator, whose password stays.
pub(crate) fn from_one(write: &mut Write) -> Result<(), StoreError> {
    let Some(admin) = write.get(&USERS_THEN, ADMIN_ROW)? else {
        // A store that was made and never used: the plane ended before it had an administrator.
        return Ok(());
    };
    let field = |name: &str| admin.get(name).cloned().unwrap_or_default();
    let unreadable = |source| StoreError::Row {
        rows: "users",
        key: ADMIN_ROW.to_owned(),
        source,
    };
    let password: PasswordHash = serde_json::from_value(field("password")).map_err(unreadable)?;
    let project: ProjectId = serde_json::from_value(field("project")).map_err(unreadable)?;
    first(write, project.clone(), password, Timestamp::UNIX_EPOCH)?;
    for rows in OWNED_THEN {
        for (key, mut row) in write.all(&rows)? {
            row["project"] = json!(project);
            write.put(&rows, &key, &row)?;
        }
    }
    for (key, mut row) in write.all(&LOGINS_THEN)? {
        if row["scope"] == "Everything" {
            row["scope"] = json!({"Project": project});
        }
        row["user"] = json!(ADMIN_ROW);
        write.put(&LOGINS_THEN, &key, &row)?;
        let at = crate::logins::index(ADMIN_ROW, &key);
        write.put(&crate::logins::OF_USER, &at, &())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
