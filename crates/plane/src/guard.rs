//! The check at every route: who the caller is, who owns the thing, and whether the caller may.
//!
//! Routes declare what they need ([`Needs`], in `routes`); the owner of a thing follows from the names of the path's
//! parameters ([`owners`]), so that a route cannot name a thing and forget to check its owner. What a *body* names is
//! checked by its handler, with [`Person`].

use std::sync::Arc;

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::Method;
use http::request::Parts;

use super::access::{Action, Owner, Realm, Rights, Verdict, authorize};
use super::audit::Asked;
use super::bootstrap::PROJECT;
use super::http::bad_path;
use super::keystone::shown;
use super::logins::{LOGINS, Login, Scope};
use super::people::{
    CREDENTIALS, DEFAULT_DOMAIN, DOMAINS, Domain, DomainId, PROJECTS, Place, Project, ProjectId,
    ROLES, RoleRow, USERS, User, find,
};
use super::records::{CLUSTERS, HOSTS};
use super::refusal::{Answer, Refusal};
use super::secrets;
use super::state::{self, Plane};
use super::store::Read;
use super::strangers::Outside;
use super::{alerts, qbert, resmgr};
use pf9_hostagent::model::{ClusterId, FaultCode};

/// What a route requires of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// No token, with the reason.
    Nothing(&'static str),
    /// A token that allows this.
    May(Action),
}

/// The caller, with its current rights.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) rights: Rights,
    pub(super) user: User,
    pub(super) domain: Domain,
    /// The token's project, if it is scoped to one.
    pub(super) project: Option<(Project, Domain)>,
    /// The token's domain, if it is scoped to one.
    pub(super) of_domain: Option<Domain>,
    /// The roles there.
    pub(super) roles: Vec<RoleRow>,
    pub(super) login: Login,
    /// Digest of the token.
    pub(super) digest: String,
}

/// The caller. As a handler's argument it proves that the guard admitted it.
#[derive(Clone, Debug)]
pub(super) struct Person(pub(super) Arc<Who>);

/// The project that the path names.
#[derive(Clone, Debug)]
pub(super) struct Tenant(pub(super) ProjectId);

/// Configuration of the guard of one route.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) plane: Arc<Plane>,
    pub(super) needs: Needs,
    /// Prefix of its API; the guard sees only the rest of the path.
    pub(super) prefix: &'static str,
}

/// Middleware of every route.
pub(super) async fn guard(
    State(guard): State<Guard>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let Ok(params) = params else {
        return bad_path().into_response();
    };
    let Needs::May(action) = guard.needs else {
        return next.run(request).await;
    };
    let (who, project) = match admit(&guard.plane, action, &params, &mut request) {
        Ok(admitted) => admitted,
        Err(refusal) => return refusal.into_response(),
    };
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    // The plane's audit: every request that may have changed something, and who sent it.
    let asked = Asked::by(
        &guard.plane,
        &who,
        action,
        project,
        (guard.prefix, &request),
    );
    let response = next.run(request).await;
    asked.answered(response.status().as_u16()).await;
    response
}

fn admit(
    plane: &Plane,
    action: Action,
    params: &RawPathParams,
    request: &mut Request,
) -> Answer<(Arc<Who>, Option<ProjectId>)> {
    let token = shown(request.headers())?;
    let rows = plane.read()?;
    let who = Arc::new(who(&rows, token)?);
    if let Some(outside) = request.extensions().get::<Outside>() {
        outside.stranger.known();
    }
    let named = owners(plane, &rows, &who, params)?;
    if let Some(cluster) = named.cluster
        && matches!(who.login.scope, Scope::Cluster(only) if only != cluster)
    {
        return Err(state::no_cluster(cluster));
    }
    let judged = named.owners.iter().map(|(owner, missing)| {
        let verdict = authorize(action, &who.rights, owner);
        (verdict, missing)
    });
    let judged: Vec<_> = judged.collect();
    // Hidden things first: otherwise a refusal for one would reveal the other.
    if let Some((_, missing)) = judged.iter().find(|(v, _)| *v == Verdict::Hidden) {
        return Err((*missing).clone());
    }
    if judged.iter().any(|(v, _)| *v == Verdict::Refused) {
        return Err(refused(action));
    }
    if named.owners.is_empty() {
        let owner = match action.realm() {
            Realm::Plane => Owner::Plane,
            Realm::Fleet | Realm::Directory | Realm::Anybody => Owner::Somewhere,
        };
        who.require(action, &owner)?;
    }
    // The project of the named thing, or, for a project's matter that names none, the token's.
    let named_of = named.owners.iter().find_map(|(owner, _)| match owner {
        Owner::Project(id, _) => Some(id.clone()),
        Owner::Plane
        | Owner::Domain(_)
        | Owner::User { .. }
        | Owner::Group { .. }
        | Owner::Somewhere => None,
    });
    let own = who.rights.project.as_ref().map(|(id, _)| id.clone());
    let project = named_of.or(own.filter(|_| action.realm() == Realm::Fleet));
    let extensions = request.extensions_mut();
    extensions.insert(Person(Arc::clone(&who)));
    if let Some(tenant) = named.tenant {
        extensions.insert(Tenant(tenant));
    }
    Ok((who, project))
}

/// Refusal for a caller who may see it.
fn refused(action: Action) -> Refusal {
    let why = format!(
        "it needs the role {} ({}: {})",
        action.least().word(),
        action.word(),
        action.says()
    );
    Refusal::forbidden(FaultCode::NotAllowed, "request refused", why)
        .fix("ask for that role, or a user who has it")
}

/// What a path names.
#[derive(Default)]
struct Named {
    /// The owner of each, and the refusal for callers who may not see it.
    owners: Vec<(Owner, Refusal)>,
    tenant: Option<ProjectId>,
    cluster: Option<ClusterId>,
}

/// Parameters that name nothing with an owner; those that do have a case in [`owners`].
pub(super) const NOBODYS: [&str; 12] = [
    "file",
    "role",
    "verb",
    "source",
    "path",
    "role_id",
    "credential_id",
    "token_id",
    // Owned through the host, the cluster or the project before it in the path.
    "bundle_id",
    "addon",
    "receiver",
    "service_id",
];
/// Parameters that do.
#[cfg(test)]
pub(super) const SOMEBODYS: [&str; 9] = [
    "alert_id",
    "silence_id",
    "host",
    "cluster",
    "project",
    "project_id",
    "domain_id",
    "user_id",
    "group_id",
];

fn owners(plane: &Plane, rows: &impl Read, who: &Who, params: &RawPathParams) -> Answer<Named> {
    let mut named = Named::default();
    let mut of_cluster = None;
    for (name, said) in params {
        let found = match name {
            "host" => {
                let id = resmgr::host_id(said)?;
                let row = rows.get(&HOSTS, &id.to_string())?;
                (
                    project_owner(rows, row.map(|h| h.project))?,
                    state::no_host(id),
                )
            }
            "cluster" => {
                let id = qbert::cluster_id(said)?;
                let row = rows.get(&CLUSTERS, &id.to_string())?;
                let project = row.map(|c| c.project);
                named.cluster = Some(id);
                of_cluster.clone_from(&project);
                (project_owner(rows, project)?, state::no_cluster(id))
            }
            "alert_id" => alerts::http::owner_of_alert(plane, rows, said)?,
            "silence_id" => alerts::http::owner_of_silence(rows, said)?,
            "project" => {
                let id = which_project(rows, who, said)?;
                named.tenant.clone_from(&id);
                (project_owner(rows, id)?, find::none("project", said))
            }
            "project_id" => {
                let row = find::project(rows, said)?;
                (
                    Some(Owner::Project(row.id, row.domain)),
                    find::none("project", said),
                )
            }
            "domain_id" => {
                let row = find::domain(rows, said)?;
                (Some(Owner::Domain(row.id)), find::none("domain", said))
            }
            "user_id" => {
                let row = find::user(rows, said)?;
                (
                    Some(find::owner_of_user(rows, &row)?),
                    find::none("user", said),
                )
            }
            "group_id" => {
                let row = find::group(rows, said)?;
                (
                    Some(find::owner_of_group(rows, &row)?),
                    find::none("group", said),
                )
            }
            _ if NOBODYS.contains(&name) => continue,
            _ => {
                let why = std::io::Error::other(format!("parameter {name}"));
                return Err(Refusal::internal(
                    "a route names a resource without an owner",
                    &why,
                ));
            }
        };
        match found {
            (Some(owner), missing) => named.owners.push((owner, missing)),
            (None, missing) => return Err(missing),
        }
    }
    // A cluster of another project is not found below this one, even by a caller who may see both.
    if let (Some(tenant), Some(cluster)) = (&named.tenant, named.cluster)
        && of_cluster.as_ref() != Some(tenant)
    {
        return Err(state::no_cluster(cluster));
    }
    Ok(named)
}

fn project_owner(rows: &impl Read, project: Option<ProjectId>) -> Answer<Option<Owner>> {
    project.map_or(Ok(None), |id| find::owner_of_project(rows, &id))
}

/// A project by its id, or by its name in the domain of the token's project.
fn which_project(rows: &impl Read, who: &Who, said: &str) -> Answer<Option<ProjectId>> {
    if let Some(id) = ProjectId::of(said)
        && rows.get(&PROJECTS, id.as_str())?.is_some()
    {
        return Ok(Some(id));
    }
    if let Some((own, _)) = &who.project {
        return Ok((own.name == said).then(|| own.id.clone()));
    }
    let Some(domain) = DomainId::of(DEFAULT_DOMAIN) else {
        return Ok(None);
    };
    Ok(find::project_named(rows, &domain, said)?.map(|p| p.id))
}

/// The owner of this token, and its current rights.
pub(super) fn who(rows: &impl Read, token: &str) -> Answer<Who> {
    who_of(rows, secrets::kept(token))
}

/// The same by what is kept of the token.
pub(super) fn who_of(rows: &impl Read, digest: String) -> Answer<Who> {
    let no = Refusal::unauthenticated;
    let login: Login = rows
        .get(&LOGINS, &digest)?
        .ok_or_else(|| no("the token is unknown"))?;
    if login.expires_at <= pf9_hostagent::seam::clock::now() {
        return Err(no("the token expired"));
    }
    let user = rows.get(&USERS, login.user.as_str())?;
    let user: User = user.ok_or_else(|| no("the owner of the token is gone"))?;
    let domain = rows.get(&DOMAINS, user.domain.as_str())?;
    let domain: Domain = domain.ok_or_else(|| no("the owner of the token is gone"))?;
    if !user.enabled || !domain.enabled {
        return Err(no("the owner of the token is disabled"));
    }
    if login.created_at < user.since {
        return Err(no("the token was issued before the password was changed"));
    }
    let may = match &login.credential {
        None => None,
        Some(id) => {
            let row = rows.get(&CREDENTIALS, id.as_str())?;
            let row = row.filter(|c| {
                c.expires_at
                    .is_none_or(|end| pf9_hostagent::seam::clock::now() < end)
            });
            let row = row.ok_or_else(|| no("its application credential is gone"))?;
            Some(row.roles)
        }
    };
    let has = |place: &Place| {
        let mut roles = find::roles(rows, place, &user.id)?;
        if let Some(may) = &may {
            roles.retain(|role| may.contains(role));
        }
        Ok::<_, Refusal>(roles)
    };
    let mut rights = Rights {
        user: user.id.clone(),
        plane: None,
        domain: None,
        project: None,
        kubernetes_only: matches!(login.scope, Scope::Cluster(_)),
    };
    let (mut project, mut of_domain) = (None, None);
    let project_id = match &login.scope {
        Scope::Project(id) => Some(id.clone()),
        Scope::Cluster(id) => {
            let cluster = rows.get(&CLUSTERS, &id.to_string())?;
            Some(cluster.ok_or_else(|| no("its cluster is gone"))?.project)
        }
        Scope::Nothing | Scope::Domain(_) | Scope::Plane => None,
    };
    let roles = match (&login.scope, project_id) {
        (_, Some(id)) => {
            let row = rows.get(&PROJECTS, id.as_str())?;
            let row: Project = row.ok_or_else(|| no("its project is gone"))?;
            let its = rows.get(&DOMAINS, row.domain.as_str())?;
            let its: Domain = its.ok_or_else(|| no("its project is gone"))?;
            if !row.enabled || !its.enabled {
                return Err(no("its project is disabled"));
            }
            let roles = has(&Place::Project(id.clone()))?;
            // An application credential is limited to its project, whatever else its owner may.
            let plane = match may {
                None => find::greatest(&find::roles(rows, &Place::Plane, &user.id)?),
                Some(_) => None,
            };
            let mut here = find::greatest(&roles);
            if rights.kubernetes_only {
                here = here.max(plane);
            } else if is_planes_own(&row) {
                rights.plane = plane;
            }
            if roles.is_empty() && here.is_none() {
                return Err(no(
                    "the owner of the token no longer has a role in its project",
                ));
            }
            rights.project = here.map(|role| (id, role));
            project = Some((row, its));
            roles
        }
        (Scope::Domain(id), None) => {
            let row: Option<Domain> = rows.get(&DOMAINS, id.as_str())?;
            let row = row.filter(|d| d.enabled);
            let row = row.ok_or_else(|| no("its domain is gone or disabled"))?;
            let roles = has(&Place::Domain(id.clone()))?;
            rights.domain = find::greatest(&roles).map(|role| (id.clone(), role));
            of_domain = Some(row);
            roles
        }
        (Scope::Plane, None) => {
            let roles = has(&Place::Plane)?;
            rights.plane = find::greatest(&roles);
            roles
        }
        (Scope::Nothing | Scope::Project(_) | Scope::Cluster(_), None) => Default::default(),
    };
    if roles.is_empty() && matches!(login.scope, Scope::Domain(_) | Scope::Plane) {
        return Err(no("the owner of the token no longer has a role there"));
    }
    let mut named = Vec::new();
    for id in roles {
        named.extend(rows.get(&ROLES, id.as_str())?);
    }
    Ok(Who {
        rights,
        user,
        domain,
        project,
        of_domain,
        roles: named,
        login,
        digest,
    })
}

/// Tokens for the default project also carry their user's plane-wide role: Keystone calls it the admin project. A role
/// in that project alone is no plane-wide role.
pub(super) fn is_planes_own(project: &Project) -> bool {
    project.name == PROJECT && project.domain.as_str() == DEFAULT_DOMAIN
}

impl Who {
    /// Refuses what the caller may not do with something of this owner whose existence they may know.
    pub(super) fn require(&self, action: Action, owner: &Owner) -> Answer<()> {
        match authorize(action, &self.rights, owner) {
            Verdict::Allowed => Ok(()),
            Verdict::Refused | Verdict::Hidden => Err(refused(action)),
        }
    }

    /// Whether the caller may.
    pub(super) fn may(&self, action: Action, owner: &Owner) -> bool {
        authorize(action, &self.rights, owner) == Verdict::Allowed
    }

    /// `--force` needs a permission of its own.
    pub(super) fn require_insist(&self, rows: &impl Read, project: &ProjectId) -> Answer<()> {
        match find::owner_of_project(rows, project)? {
            Some(owner) => self.require(Action::Insist, &owner),
            None => Err(refused(Action::Insist)),
        }
    }

    /// The caller's name in audits and in Kubernetes: unique, and never one of Kubernetes' own names.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.domain.name, self.user.name)
    }

    /// Identifies the caller's token without revealing it.
    pub(super) fn mark(&self) -> &str {
        let digits = self.digest.rsplit(':').next().unwrap_or_default();
        digits.get(..16).unwrap_or(digits)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Person {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let person = parts.extensions.get::<Self>().cloned();
        person.ok_or_else(|| Refusal::unauthenticated("the request has no token"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Tenant {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let tenant = parts.extensions.get::<Self>().cloned();
        tenant.ok_or_else(|| find::none("project", ""))
    }
}
