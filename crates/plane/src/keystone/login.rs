//! Authentication, and the requested scope.
//!
//! Every failure has the same words: nobody learns whether a user exists. A password attempt waits in the queue of its
//! origin, and wrong ones count against the account (`passwords`).

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::bootstrap::ADMIN_ROW;
use crate::fair::Origin;
use crate::guard;
use crate::logins::{LIFE, Login, Scope};
use crate::passwords::TooOften;
use crate::people::{
    CREDENTIALS, Credential, CredentialId, DEFAULT_DOMAIN, DOMAINS, DomainId, Place, ProjectId,
    USERS, User, find, keep,
};
use crate::refusal::{Answer, Refusal};
use crate::secrets::PasswordHash;
use crate::state::Plane;
use crate::store::Read;
use pf9_hostagent::model::{Fault, FaultCode, Secret};

#[derive(Deserialize)]
pub(crate) struct AuthBody {
    pub(super) auth: Auth,
}
#[derive(Deserialize)]
pub(super) struct Auth {
    pub(super) identity: Identity,
    #[serde(default)]
    pub(super) scope: Option<Value>,
}
#[derive(Deserialize)]
pub(super) struct Identity {
    methods: Vec<String>,
    password: Option<Password>,
    token: Option<TokenMethod>,
    application_credential: Option<CredentialMethod>,
}
#[derive(Deserialize)]
struct Password {
    user: Named,
}
#[derive(Deserialize)]
struct TokenMethod {
    id: Secret<String>,
}
#[derive(Deserialize)]
struct CredentialMethod {
    id: Option<String>,
    name: Option<String>,
    user: Option<Named>,
    secret: Secret<String>,
}
/// A user or a project reference: an id, or a name in a domain.
#[derive(Deserialize)]
struct Named {
    id: Option<String>,
    name: Option<String>,
    domain: Option<NamedDomain>,
    password: Option<Secret<String>>,
}
#[derive(Deserialize)]
struct NamedDomain {
    id: Option<String>,
    name: Option<String>,
}

const REFUSED: &str = "login refused";

fn wrong() -> Refusal {
    let why = "user or password is wrong";
    let fault = Fault::new(FaultCode::LoginRefused, REFUSED, why);
    Refusal::new(
        StatusCode::UNAUTHORIZED,
        fault.fix("the administrator's first password is in the plane's state directory"),
    )
}

fn no_scope(what: &str) -> Refusal {
    let why = format!("auth.scope.{what}: you have no role there");
    let fault = Fault::new(FaultCode::ProjectUnknown, REFUSED, why);
    Refusal::new(
        StatusCode::UNAUTHORIZED,
        fault.fix("GET /keystone/v3/auth/projects lists yours"),
    )
}

fn too_often(why: &str, wait: Duration) -> Refusal {
    // Never zero, which would mean at once.
    let seconds = wait.as_secs() + 1;
    let fault =
        Fault::new(FaultCode::TooOften, REFUSED, why).fix(format!("try again in {seconds} s"));
    Refusal {
        retry_after: Some(seconds),
        ..Refusal::new(StatusCode::TOO_MANY_REQUESTS, fault)
    }
}

/// The token that the caller gets.
pub(super) async fn authenticate(plane: &Arc<Plane>, origin: Origin, auth: &Auth) -> Answer<Login> {
    let identity = &auth.identity;
    let [method] = &identity.methods[..] else {
        return Err(unsupported("auth.identity.methods: give exactly one"));
    };
    let missing = || unsupported("auth.identity lacks what its method needs");
    match method.as_str() {
        "password" => {
            let named = &identity.password.as_ref().ok_or_else(missing)?.user;
            let user = by_password(plane, origin, named).await?;
            let now = pf9_hostagent::seam::clock::now();
            let rows = plane.read()?;
            Ok(Login {
                scope: scope(&rows, auth.scope.as_ref(), &user)?,
                user: user.id,
                created_at: now,
                expires_at: now + LIFE,
                credential: None,
                methods: vec!["password".into()],
                kept_as: None,
            })
        }
        "token" => {
            let token = identity.token.as_ref().ok_or_else(missing)?;
            by_token(plane, token, auth.scope.as_ref())
        }
        "application_credential" => {
            let said = identity.application_credential.as_ref();
            by_credential(
                plane,
                origin,
                said.ok_or_else(missing)?,
                auth.scope.as_ref(),
            )
            .await
        }
        _ => Err(unsupported(
            "auth.identity.methods: password, token or application_credential",
        )),
    }
}

fn unsupported(why: &str) -> Refusal {
    Refusal::bad(FaultCode::MethodUnsupported, REFUSED, why)
}

async fn by_password(plane: &Arc<Plane>, origin: Origin, named: &Named) -> Answer<User> {
    let tried = named.password.as_ref().ok_or_else(wrong)?;
    let user = find_user(&plane.read()?, named)?;
    let kept = user.as_ref().and_then(|u| u.password.as_ref());
    let account = account(named, user.as_ref());
    let asked = user
        .as_ref()
        .zip(kept)
        .map(|(u, kept)| (u.id.as_str(), kept));
    check(plane, origin, &account, asked, tried).await?;
    // Read again: hashing took its time.
    let user = user.ok_or_else(wrong)?;
    usable(&plane.read()?, user.id.as_str())
}

/// A user who may log in.
fn usable(rows: &impl Read, id: &str) -> Answer<User> {
    let user: User = rows.get(&USERS, id)?.ok_or_else(wrong)?;
    let domain = rows.get(&DOMAINS, user.domain.as_str())?;
    match user.enabled && domain.is_some_and(|d| d.enabled) {
        true => Ok(user),
        false => Err(wrong()),
    }
}

/// The key for counting wrong attempts: the same whether the user exists or not.
fn account(named: &Named, user: Option<&User>) -> String {
    match (user, &named.id, &named.name) {
        (Some(user), _, _) => user.id.to_string(),
        (None, Some(id), _) => format!("id {id}"),
        (None, None, name) => format!("name {}", name.as_deref().unwrap_or_default()),
    }
}

/// Whether a secret is right; the refusal if not.
pub(crate) async fn check(
    plane: &Plane,
    origin: Origin,
    account: &str,
    asked: Option<(&str, &PasswordHash)>,
    tried: &Secret<String>,
) -> Answer<()> {
    let decoy: Option<User> = plane.read()?.get(&USERS, ADMIN_ROW)?;
    let decoy = decoy.and_then(|u| u.password).ok_or_else(wrong)?;
    let checked = plane.passwords.check(origin, account, asked, &decoy, tried);
    match checked.await.map_err(too_soon)? {
        true => Ok(()),
        false => Err(wrong()),
    }
}

/// Refusal with Retry-After.
pub(crate) fn too_soon(often: TooOften) -> Refusal {
    let (why, wait) = match often {
        TooOften::Wrong(wait) => ("too many wrong passwords came from this address", wait),
        TooOften::WrongHere(wait) => (
            "too many wrong passwords for this account came from this address",
            wait,
        ),
        TooOften::Logins(wait) => ("too many tokens for this person", wait),
        TooOften::Busy(wait) => ("too many logins at once", wait),
    };
    too_often(why, wait)
}

fn find_user(rows: &impl Read, named: &Named) -> Answer<Option<User>> {
    match (&named.id, &named.name) {
        (Some(id), _) => match crate::people::UserId::of(id) {
            Some(id) => Ok(rows.get(&USERS, id.as_str())?),
            None => Ok(None),
        },
        (None, Some(name)) => match find_domain(rows, named.domain.as_ref())? {
            Some(domain) => find::user_named(rows, &domain, name),
            None => Ok(None),
        },
        (None, None) => Ok(None),
    }
}

/// Without one, the default domain.
fn find_domain(rows: &impl Read, named: Option<&NamedDomain>) -> Answer<Option<DomainId>> {
    match named {
        None => Ok(DomainId::of(DEFAULT_DOMAIN)),
        Some(NamedDomain { id: Some(id), .. }) => {
            let id = DomainId::of(id);
            let row = match &id {
                Some(id) => rows.get(&DOMAINS, id.as_str())?,
                None => None,
            };
            Ok(row.map(|d| d.id))
        }
        Some(NamedDomain {
            name: Some(name), ..
        }) => Ok(find::domain_named(rows, name)?.map(|d| d.id)),
        Some(_) => Ok(None),
    }
}

/// Exchanges a token for one of another scope, with no later expiry.
fn by_token(plane: &Plane, said: &TokenMethod, wanted: Option<&Value>) -> Answer<Login> {
    let rows = plane.read()?;
    let who = guard::who(&rows, said.id.expose())?;
    if who.login.credential.is_some() || who.rights.kubernetes_only || who.login.kept_as.is_some() {
        let why = "this token cannot be exchanged for another one";
        return Err(Refusal::forbidden(FaultCode::TokenScope, REFUSED, why));
    }
    let mut methods = who.login.methods.clone();
    if !methods.iter().any(|m| m == "token") {
        methods.push("token".into());
    }
    Ok(Login {
        scope: scope(&rows, wanted, &who.user)?,
        created_at: who.login.created_at,
        expires_at: who.login.expires_at,
        user: who.user.id,
        credential: None,
        methods,
        kept_as: None,
    })
}

async fn by_credential(
    plane: &Arc<Plane>,
    origin: Origin,
    said: &CredentialMethod,
    wanted: Option<&Value>,
) -> Answer<Login> {
    let found = find_credential(&plane.read()?, said)?;
    let name = said.id.as_ref().or(said.name.as_ref());
    let account = match &found {
        Some(credential) => format!("credential {}", credential.id),
        None => format!("credential {}", name.map_or("", String::as_str)),
    };
    let asked = found.as_ref().map(|c| (account.as_str(), &c.secret));
    check(plane, origin, &account, asked, &said.secret).await?;
    let credential = found.ok_or_else(wrong)?;
    let now = pf9_hostagent::seam::clock::now();
    if credential.expires_at.is_some_and(|end| end <= now) {
        return Err(wrong());
    }
    let rows = plane.read()?;
    let user = usable(&rows, credential.user.as_str())?;
    // It is for one project. A client may name it, but no other.
    let scope = Scope::Project(credential.project.clone());
    if let Some(wanted) = wanted
        && self::scope(&rows, Some(wanted), &user)? != scope
    {
        return Err(no_scope("project"));
    }
    let has = find::roles(&rows, &Place::Project(credential.project.clone()), &user.id)?;
    if !keep::has_each(&has, &credential.roles) {
        return Err(wrong());
    }
    let ends = now + LIFE;
    Ok(Login {
        scope,
        user: user.id,
        created_at: now,
        expires_at: credential.expires_at.map_or(ends, |end| end.min(ends)),
        credential: Some(credential.id),
        methods: vec!["application_credential".into()],
        kept_as: None,
    })
}

fn find_credential(rows: &impl Read, said: &CredentialMethod) -> Answer<Option<Credential>> {
    if let Some(id) = &said.id {
        return match CredentialId::of(id) {
            Some(id) => Ok(rows.get(&CREDENTIALS, id.as_str())?),
            None => Ok(None),
        };
    }
    let (Some(name), Some(user)) = (&said.name, &said.user) else {
        return Ok(None);
    };
    let Some(user) = find_user(rows, user)? else {
        return Ok(None);
    };
    let mine = keep::credentials_of(rows, &user.id)?;
    Ok(mine.into_iter().find(|c| c.name == *name))
}

/// The scope of a token; without one, the user's default project if the user has a role in it.
fn scope(rows: &impl Read, wanted: Option<&Value>, user: &User) -> Answer<Scope> {
    let has = |place: &Place| Ok::<_, Refusal>(!find::roles(rows, place, &user.id)?.is_empty());
    let Some(wanted) = wanted.filter(|w| !w.is_null() && *w != "unscoped") else {
        if let Some(project) = &user.default_project
            && find::project(rows, project.as_str())
                .is_ok_and(|p| find::is_open(rows, &p).is_ok_and(|o| o))
            && has(&Place::Project(project.clone()))?
            && wanted.is_none()
        {
            return Ok(Scope::Project(project.clone()));
        }
        return Ok(Scope::Nothing);
    };
    let named = |field: &str| -> Answer<Option<Named>> {
        let said = wanted.get(field).cloned();
        let read = said.map(serde_json::from_value).transpose();
        read.map_err(|_| no_scope(field))
    };
    if wanted.get("system").is_some() {
        return match has(&Place::Plane)? {
            true => Ok(Scope::Plane),
            false => Err(no_scope("system")),
        };
    }
    if let Some(said) = named("domain")? {
        let said = NamedDomain {
            id: said.id,
            name: said.name,
        };
        let id = find_domain(rows, Some(&said))?.ok_or_else(|| no_scope("domain"))?;
        let open = rows.get(&DOMAINS, id.as_str())?.is_some_and(|d| d.enabled);
        return match open && has(&Place::Domain(id.clone()))? {
            true => Ok(Scope::Domain(id)),
            false => Err(no_scope("domain")),
        };
    }
    let said = named("project")?.ok_or_else(|| no_scope("project"))?;
    let project = match (&said.id, &said.name) {
        (Some(id), _) => ProjectId::of(id).and_then(|id| find::project(rows, id.as_str()).ok()),
        (None, Some(name)) => match find_domain(rows, said.domain.as_ref())? {
            Some(domain) => find::project_named(rows, &domain, name)?,
            None => None,
        },
        (None, None) => None,
    };
    let project = project.ok_or_else(|| no_scope("project"))?;
    match find::is_open(rows, &project)? && has(&Place::Project(project.id.clone()))? {
        true => Ok(Scope::Project(project.id)),
        false => Err(no_scope("project")),
    }
}
