//! The subset of Keystone v3 that operators' tools use: password → token; and who bears a token.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::{Value, json};

use super::bootstrap::{ADMIN_ROW, PROJECT};
use super::fair::Origin;
use super::http::{Doc, STRANGER_MAX};
use super::passwords::TooOften;
use super::records::{LOGINS, Login, Scope, USERS, User};
use super::refusal::{Answer, Refusal};
use super::secrets;
use super::state::{Change, Plane};
use super::store::Read;
use super::strangers::Outside;
use crate::model::{ClusterId, Fault, FaultCode, Secret};

/// Life of an operator's token.
const LOGIN_LIFE: SignedDuration = SignedDuration::from_hours(24);
/// Life of a kubeconfig's token.
pub(super) const KUBECONFIG_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Most tokens at a time; the ones that end first make room.
const LOGINS_MAX: usize = 1000;

const SUBJECT_TOKEN: HeaderName = HeaderName::from_static("x-subject-token");
const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");

/// Whoever asked showed a valid operator's token. As a handler's argument: the proof.
pub(super) struct Operator;

#[derive(Deserialize)]
pub(super) struct AuthBody {
    auth: Auth,
}
#[derive(Deserialize)]
struct Auth {
    identity: Identity,
    #[serde(default)]
    scope: Option<Value>,
}
#[derive(Deserialize)]
struct Identity {
    methods: Vec<String>,
    password: Option<Password>,
}
#[derive(Deserialize)]
struct Password {
    user: PasswordUser,
}
#[derive(Deserialize)]
struct PasswordUser {
    name: Option<String>,
    id: Option<String>,
    password: Secret<String>,
}

/// `POST /keystone/v3/auth/tokens`.
pub(super) async fn issue(
    State(plane): State<Arc<Plane>>,
    Extension(outside): Extension<Outside>,
    Doc(body): Doc<AuthBody, STRANGER_MAX>,
) -> Answer<Response> {
    let user = authenticate(&plane, outside.stranger.origin(), &body.auth.identity).await?;
    check_scope(body.auth.scope.as_ref(), &user)?;
    let (secret, login) = plane
        .change(|c| new_login(c, Scope::Everything, LOGIN_LIFE))
        .await?;
    let token = describe(&user, &login, &plane.public_url);
    let mut response = (StatusCode::CREATED, Json(json!({"token": token}))).into_response();
    if let Ok(mut value) = HeaderValue::from_str(secret.expose()) {
        value.set_sensitive(true);
        response.headers_mut().insert(SUBJECT_TOKEN, value);
    }
    Ok(response)
}

async fn authenticate(plane: &Arc<Plane>, origin: Origin, identity: &Identity) -> Answer<User> {
    let wrong = || {
        Refusal::new(
            StatusCode::UNAUTHORIZED,
            Fault::new(
                FaultCode::LoginRefused,
                "login refused",
                "user or password is wrong",
            )
            .fix("the administrator's password is in the plane's state directory"),
        )
    };
    let password = match &identity.password {
        Some(password) if identity.methods.iter().any(|m| m == "password") => &password.user,
        _ => {
            let why = "auth.identity.methods must hold \"password\"";
            return Err(Refusal::bad(
                FaultCode::MethodUnsupported,
                "login refused",
                why,
            ));
        }
    };
    let user: User = plane.read()?.get(&USERS, ADMIN_ROW)?.ok_or_else(wrong)?;
    let named = password.name.as_deref() == Some(user.name.as_str())
        || password.id.as_deref() == Some(ADMIN_ROW);
    let asked = named.then_some((ADMIN_ROW, &user.password));
    let tried = &password.password;
    let checked = plane.passwords.check(origin, asked, &user.password, tried);
    match checked.await {
        Ok(true) => Ok(user),
        Ok(false) => Err(wrong()),
        Err(TooOften::Wrong(wait)) => {
            let why = "too many wrong passwords came from this address";
            Err(too_often(why, wait))
        }
        Err(TooOften::Busy(wait)) => Err(too_often("too many log in at once", wait)),
    }
}

fn too_often(why: &str, wait: Duration) -> Refusal {
    // Never zero, which would mean at once.
    let seconds = wait.as_secs() + 1;
    let fault = Fault::new(FaultCode::TooOften, "login refused", why)
        .fix(format!("try again in {seconds} s"));
    Refusal {
        retry_after: Some(seconds),
        ..Refusal::new(StatusCode::TOO_MANY_REQUESTS, fault)
    }
}

fn check_scope(scope: Option<&Value>, user: &User) -> Answer<()> {
    let Some(project) = scope.and_then(|s| s.get("project")) else {
        return Ok(());
    };
    let field = |name: &str| project.get(name).and_then(Value::as_str);
    if field("id") == Some(&user.project) || field("name") == Some(PROJECT) {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::UNAUTHORIZED,
        Fault::new(
            FaultCode::ProjectUnknown,
            "login refused",
            "auth.scope.project is no project of yours",
        )
        .fix(format!("the project is {PROJECT:?}")),
    ))
}

fn describe(user: &User, login: &Login, url: &str) -> Value {
    let domain = json!({"id": "default", "name": "Default"});
    let project = &user.project;
    let service = |kind: &str, name: &str, url: String| {
        json!({"type": kind, "name": name, "id": name, "endpoints": [
            {"interface": "public", "region": "pf9", "region_id": "pf9", "id": name, "url": url},
        ]})
    };
    json!({
        "methods": ["password"],
        "user": {"domain": domain, "id": ADMIN_ROW, "name": user.name},
        "project": {"domain": domain, "id": project, "name": PROJECT},
        "roles": [{"id": "admin", "name": "admin"}],
        "is_domain": false,
        "issued_at": login.created_at,
        "expires_at": login.expires_at,
        "catalog": [
            service("identity", "keystone", format!("{url}/keystone/v3")),
            service("resmgr", "resmgr", format!("{url}/resmgr")),
            service("qbert", "qbert", format!("{url}/qbert/v4/{project}")),
        ],
    })
}

/// Makes a token for an operator. Ended ones make room first.
pub(super) fn new_login(
    change: &mut Change<'_>,
    scope: Scope,
    life: SignedDuration,
) -> Answer<(Secret<String>, Login)> {
    let mut logins = change.all(&LOGINS)?;
    logins.sort_by_key(|(_, l)| l.expires_at);
    let surplus = (logins.len() + 1).saturating_sub(LOGINS_MAX);
    for (i, (key, login)) in logins.iter().enumerate() {
        if i < surplus || login.expires_at <= change.now {
            change.remove(&LOGINS, key)?;
        }
    }
    let secret = secrets::fresh()?;
    let login = Login {
        scope,
        created_at: change.now,
        expires_at: change.now + life,
    };
    change.put(&LOGINS, &secrets::kept(secret.expose()), &login)?;
    Ok((secret, login))
}

/// Forgets the tokens that were good for one cluster.
pub(super) fn forget_cluster(change: &mut Change<'_>, cluster: ClusterId) -> Answer<()> {
    for (key, login) in change.all(&LOGINS)? {
        if login.scope == Scope::Cluster(cluster) {
            change.remove(&LOGINS, &key)?;
        }
    }
    Ok(())
}

/// The token of a request: as Keystone's clients show it, or as those that cannot name headers of
/// their own do (kubectl, Prometheus).
pub(super) fn shown(headers: &HeaderMap) -> Answer<&str> {
    let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    text(header::AUTHORIZATION)
        .and_then(|v| v.strip_prefix("Bearer "))
        .or_else(|| text(AUTH_TOKEN))
        .map(str::trim)
        .ok_or_else(|| Refusal::unauthenticated("there is no bearer token"))
}

/// What a token is good for, if it is good. Who shows it is no stranger any more.
pub(super) fn scope_of(plane: &Plane, token: &str, outside: Option<&Outside>) -> Answer<Scope> {
    let login = plane.read()?.get(&LOGINS, &secrets::kept(token))?;
    match login {
        Some(login) if login.expires_at > crate::seam::clock::now() => {
            if let Some(outside) = outside {
                outside.stranger.known();
            }
            Ok(login.scope)
        }
        Some(_) => Err(Refusal::unauthenticated("the token expired")),
        None => Err(Refusal::unauthenticated("the token is unknown")),
    }
}

impl FromRequestParts<Arc<Plane>> for Operator {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, plane: &Arc<Plane>) -> Result<Self, Refusal> {
        let token = parts
            .headers
            .get(AUTH_TOKEN)
            .and_then(|v| v.to_str().ok())
            .ok_or_else(|| Refusal::unauthenticated("there is no X-Auth-Token header"))?;
        match scope_of(plane, token, parts.extensions.get())? {
            Scope::Everything => Ok(Self),
            Scope::Cluster(_) => Err(Refusal::forbidden(
                FaultCode::TokenScope,
                "request refused",
                "the token is good for one cluster's Kubernetes API only",
            )),
        }
    }
}
