//! Routes of keystone's API: tokens, users, groups, projects, domains, and who has which role where.

use axum::routing::{delete, get, patch, post, put};

use super::{Route, may, open};
use crate::access::Action::{self, *};
use crate::keystone::{credentials, directory, discovery, roles, tokens as logged, users};

pub(super) fn routes() -> Vec<Route> {
    let says = "it says what is spoken here";
    let mut all = vec![
        open("GET", "/", says, get(discovery::versions)),
        open("GET", "/v3", says, get(discovery::v3)),
        open("GET", "/v3/", says, get(discovery::v3)),
        open(
            "POST",
            "/v3/auth/tokens",
            "it gets one",
            post(logged::issue),
        ),
        may("GET", "/v3/auth/tokens", SeeOneself, get(logged::show)),
        may(
            "DELETE",
            "/v3/auth/tokens",
            SeeOneself,
            delete(logged::revoke),
        ),
        may("GET", "/v3/auth/catalog", SeeOneself, get(logged::catalog)),
        may(
            "GET",
            "/v3/auth/projects",
            SeeOneself,
            get(logged::projects),
        ),
        may("GET", "/v3/auth/domains", SeeOneself, get(logged::domains)),
        may("GET", "/v3/auth/system", SeeOneself, get(logged::system)),
        may("GET", "/v3/services", SeeOneself, get(discovery::services)),
        may(
            "GET",
            "/v3/services/{service_id}",
            SeeOneself,
            get(discovery::service),
        ),
        may(
            "GET",
            "/v3/endpoints",
            SeeOneself,
            get(discovery::endpoints),
        ),
        may("GET", "/v3/regions", SeeOneself, get(discovery::regions)),
        may("GET", "/v3/domains", SeeDomains, get(directory::domains)),
        may(
            "POST",
            "/v3/domains",
            ChangeDomains,
            post(directory::make_domain),
        ),
        may(
            "GET",
            "/v3/domains/{domain_id}",
            SeeDomains,
            get(directory::domain),
        ),
        may(
            "PATCH",
            "/v3/domains/{domain_id}",
            ChangeDomains,
            patch(directory::change_domain),
        ),
        may(
            "DELETE",
            "/v3/domains/{domain_id}",
            ChangeDomains,
            delete(directory::delete_domain),
        ),
        may("GET", "/v3/projects", SeeProjects, get(directory::projects)),
        may(
            "POST",
            "/v3/projects",
            ChangeProjects,
            post(directory::make_project),
        ),
        may(
            "GET",
            "/v3/projects/{project_id}",
            SeeProjects,
            get(directory::project),
        ),
        may(
            "PATCH",
            "/v3/projects/{project_id}",
            ChangeProjects,
            patch(directory::change_project),
        ),
        may(
            "DELETE",
            "/v3/projects/{project_id}",
            ChangeProjects,
            delete(directory::delete_project),
        ),
        may("GET", "/v3/roles", SeeOneself, get(roles::roles)),
        may("POST", "/v3/roles", ChangeRoles, post(roles::make_role)),
        may("GET", "/v3/roles/{role_id}", SeeOneself, get(roles::role)),
        may(
            "PATCH",
            "/v3/roles/{role_id}",
            ChangeRoles,
            patch(roles::change_role),
        ),
        may(
            "DELETE",
            "/v3/roles/{role_id}",
            ChangeRoles,
            delete(roles::delete_role),
        ),
        may(
            "GET",
            "/v3/role_assignments",
            SeeOneself,
            get(roles::assignments),
        ),
    ];
    all.extend(people());
    all.extend(grants(
        "/v3/system/users/{user_id}/roles",
        "/v3/system/users/{user_id}/roles/{role_id}",
        SeeGrants,
        GrantPlane,
    ));
    all.extend(grants(
        "/v3/system/groups/{group_id}/roles",
        "/v3/system/groups/{group_id}/roles/{role_id}",
        SeeGrants,
        GrantPlane,
    ));
    for (many, one) in [
        (
            "/v3/domains/{domain_id}/users/{user_id}/roles",
            "/v3/domains/{domain_id}/users/{user_id}/roles/{role_id}",
        ),
        (
            "/v3/domains/{domain_id}/groups/{group_id}/roles",
            "/v3/domains/{domain_id}/groups/{group_id}/roles/{role_id}",
        ),
        (
            "/v3/projects/{project_id}/users/{user_id}/roles",
            "/v3/projects/{project_id}/users/{user_id}/roles/{role_id}",
        ),
        (
            "/v3/projects/{project_id}/groups/{group_id}/roles",
            "/v3/projects/{project_id}/groups/{group_id}/roles/{role_id}",
        ),
    ] {
        all.extend(grants(many, one, SeeAssignments, Grant));
    }
    all
}

fn people() -> Vec<Route> {
    let user = "/v3/users/{user_id}";
    let password = "/v3/users/{user_id}/password";
    let credentials = "/v3/users/{user_id}/application_credentials";
    let credential = "/v3/users/{user_id}/application_credentials/{credential_id}";
    let group = "/v3/groups/{group_id}";
    let member = "/v3/groups/{group_id}/users/{user_id}";
    vec![
        may("GET", "/v3/users", SeeUsers, get(users::users)),
        may("POST", "/v3/users", ChangeUsers, post(users::make_user)),
        may("GET", user, SeeUsers, get(users::user)),
        may("PATCH", user, ChangeUsers, patch(users::change_user)),
        may("DELETE", user, ChangeUsers, delete(users::delete_user)),
        may(
            "POST",
            password,
            ChangePassword,
            post(users::change_password),
        ),
        may(
            "GET",
            "/v3/users/{user_id}/groups",
            SeeUsers,
            get(users::groups_of),
        ),
        may(
            "GET",
            "/v3/users/{user_id}/projects",
            SeeUsers,
            get(users::projects_of),
        ),
        may("GET", credentials, SeeCredentials, get(credentials::list)),
        may(
            "POST",
            credentials,
            ChangeCredentials,
            post(credentials::make),
        ),
        may("GET", credential, SeeCredentials, get(credentials::get)),
        may(
            "DELETE",
            credential,
            ChangeCredentials,
            delete(credentials::delete),
        ),
        may("GET", "/v3/groups", SeeGroups, get(users::groups)),
        may("POST", "/v3/groups", ChangeGroups, post(users::make_group)),
        may("GET", group, SeeGroups, get(users::group)),
        may("PATCH", group, ChangeGroups, patch(users::change_group)),
        may("DELETE", group, ChangeGroups, delete(users::delete_group)),
        may(
            "GET",
            "/v3/groups/{group_id}/users",
            SeeGroups,
            get(users::members),
        ),
        may("GET", member, SeeGroups, get(users::is_member)),
        may("PUT", member, ChangeGroups, put(users::join)),
        may("DELETE", member, ChangeGroups, delete(users::part)),
    ]
}

/// Roles that somebody has somewhere: the same wherever that is.
fn grants(many: &'static str, one: &'static str, see: Action, change: Action) -> Vec<Route> {
    vec![
        may("GET", many, see, get(roles::of_one)),
        may("GET", one, see, get(roles::has)),
        may("PUT", one, change, put(roles::give)),
        may("DELETE", one, change, delete(roles::take)),
    ]
}
