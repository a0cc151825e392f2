//! Kubeconfigs for access through the plane.
//!
//! A normal one has no secret in it: it calls `pf9ctl kube-token`, an exec credential plugin that gets a token of a few
//! minutes for the person who runs it. Long-lived ones are made on request, are listed, and can be withdrawn. Both are
//! valid for one cluster's Kubernetes API and metrics, and only as long as their user has a role in its project.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{StatusCode, header};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::access::Action;
use super::bootstrap::ADMIN_ROW;
use super::guard::{Person, Who};
use super::http::{Doc, Path};
use super::keystone::login::too_soon;
use super::logins::{self, KUBE_LIFE, KUBECONFIG_LIFE, LOGINS, Login, Scope};
use super::people::{USERS, User, UserId, find, keep};
use super::proxy::PREFIX;
use super::qbert::cluster_id;
use super::records::{CLUSTERS, Cluster};
use super::refusal::{Answer, Refusal};
use super::state::{self, Change, Plane};
use super::store::Read;
use pf9_hostagent::model::{ClusterId, FaultCode, Secret};

/// Long-lived kubeconfigs per user: beyond that a new one is refused, because none may end when another is made.
const KEPT_MAX: usize = 50;

/// The credential in a kubeconfig.
enum Shows<'a> {
    /// An embedded token.
    Token(&'a Secret<String>),
    /// The plugin.
    Plugin,
}

/// Names are quoted, so that "1.0" stays text: letters, digits, '-', '.' and '_'.
fn text(plane: &Plane, cluster: &Cluster, shows: &Shows<'_>) -> String {
    let server = format!("{}{PREFIX}{}", plane.public_url, cluster.id);
    let ca = BASE64.encode(plane.ca.pem());
    let name = &cluster.name;
    let user = match shows {
        Shows::Token(token) => format!("    token: {}\n", token.expose()),
        // The plane's address comes from the plugin's own file: a kubeconfig from elsewhere could send credentials elsewhere.
        Shows::Plugin => format!(
            "    exec:\n      \
               apiVersion: client.authentication.k8s.io/v1\n      \
               command: pf9ctl\n      \
               args:\n      \
               - kube-token\n      \
               - --cluster={}\n      \
               - --project={}\n      \
               installHint: pf9ctl is in the package of the agent; see pf9ctl kube-token --help\n      \
               interactiveMode: Never\n      \
               provideClusterInfo: false\n",
            cluster.id, cluster.project
        ),
    };
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: \"{name}\"\n  \
           cluster:\n    \
             server: {server}\n    \
             certificate-authority-data: {ca}\n\
         users:\n\
         - name: \"{name}-pf9\"\n  \
           user:\n{user}\
         contexts:\n\
         - name: \"{name}\"\n  \
           context:\n    \
             cluster: \"{name}\"\n    \
             user: \"{name}-pf9\"\n\
         current-context: \"{name}\"\n"
    )
}

/// Options of a long-lived one.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keep {
    /// For people: what it is for.
    pub(super) name: String,
    pub(super) ttl_s: i64,
}

/// Makes a long-lived one.
fn kept(
    change: &mut Change<'_>,
    user: UserId,
    cluster: ClusterId,
    wanted: &Keep,
    by: Option<&Login>,
) -> Answer<(Secret<String>, Login)> {
    let what = "no kubeconfig was made";
    keep::check_name("kubeconfig", &wanted.name)?;
    let life = SignedDuration::from_secs(wanted.ttl_s);
    if life <= SignedDuration::ZERO || life > KUBECONFIG_LIFE {
        let why = "ttl_s must be 1 s to 365 days";
        return Err(Refusal::bad(FaultCode::TtlInvalid, what, why));
    }
    let mine = logins::of_user(&**change, &user)?;
    let there = mine
        .iter()
        .filter(|(_, l)| l.kept_as.is_some() && l.expires_at > change.now);
    if there.count() >= KEPT_MAX {
        let why = format!("this person already has {KEPT_MAX}");
        return Err(Refusal::conflict(FaultCode::TooMany, what, why).fix("withdraw one first"));
    }
    let login = Login {
        user,
        scope: Scope::Cluster(cluster),
        created_at: change.now,
        expires_at: change.now + life,
        credential: by.and_then(|l| l.credential.clone()),
        methods: by.map_or_else(Vec::new, |l| l.methods.clone()),
        kept_as: Some(wanted.name.clone()),
    };
    let token = logins::add(change, &login)?;
    tracing::warn!(user = %login.user, cluster = %cluster, until = %login.expires_at, "long-lived kubeconfig made");
    Ok((token, login))
}

/// A kubeconfig for a cluster, for the administrator's socket: without a secret, or a long-lived one for a user.
pub(super) async fn make(
    plane: &Arc<Plane>,
    wanted: &str,
    long_lived: Option<Keep>,
    user: Option<String>,
) -> Answer<String> {
    let rows = plane.read()?;
    let cluster = find(&rows, wanted)?;
    let Some(keep) = long_lived else {
        return Ok(text(plane, &cluster, &Shows::Plugin));
    };
    let user = match user {
        Some(said) => person(&rows, &said)?,
        None => find::user(&rows, ADMIN_ROW)?,
    };
    let id = cluster.id;
    let (token, _) = plane
        .change(move |change| kept(change, user.id, id, &keep, None))
        .await?;
    Ok(text(plane, &cluster, &Shows::Token(&token)))
}

/// By id, or by `<domain>/<name>`.
pub(super) fn person(rows: &impl Read, said: &str) -> Answer<User> {
    let named = match said.split_once('/') {
        Some((domain, name)) => match find::domain_named(rows, domain)? {
            Some(domain) => find::user_named(rows, &domain.id, name)?,
            None => None,
        },
        None => rows.get(&USERS, said)?,
    };
    named.ok_or_else(|| find::none("user", said).fix("name it <domain>/<name>, or by its id"))
}

type Of<T> = (State<Arc<Plane>>, Path<T>);

/// `GET …/clusters/{cluster}/kubeconfig`.
pub(super) async fn get(
    _: Person,
    (State(plane), Path((_, id))): Of<(String, String)>,
) -> Answer<Response> {
    let cluster = state::cluster(&plane.read()?, cluster_id(&id)?)?;
    let kind = [(header::CONTENT_TYPE, "application/yaml")];
    Ok((kind, text(&plane, &cluster, &Shows::Plugin)).into_response())
}

/// `POST …/clusters/{cluster}/kube-token`: the plugin's token. It expires no later than the token it was requested
/// with.
pub(super) async fn token(
    Person(who): Person,
    (State(plane), Path((_, id))): Of<(String, String)>,
) -> Answer<Json<Value>> {
    let id = cluster_id(&id)?;
    let counted = plane.passwords.may_log_in(who.user.id.as_str());
    counted.map_err(too_soon)?;
    let (token, login) = plane
        .change(move |change| {
            let login = Login {
                user: who.user.id.clone(),
                scope: Scope::Cluster(id),
                created_at: change.now,
                expires_at: (change.now + KUBE_LIFE).min(who.login.expires_at),
                credential: who.login.credential.clone(),
                methods: who.login.methods.clone(),
                kept_as: None,
            };
            Ok((logins::add(change, &login)?, login))
        })
        .await?;
    Ok(Json(
        json!({"token": token.expose(), "expires_at": login.expires_at}),
    ))
}

/// `POST …/clusters/{cluster}/kubeconfigs`: a long-lived one. It is shown once.
pub(super) async fn keep(
    Person(who): Person,
    (State(plane), Path((_, id))): Of<(String, String)>,
    Doc(wanted): Doc<Keep>,
) -> Answer<(StatusCode, Json<Value>)> {
    let cluster = state::cluster(&plane.read()?, cluster_id(&id)?)?;
    let id = cluster.id;
    let (token, login) = plane
        .change(move |change| kept(change, who.user.id.clone(), id, &wanted, Some(&who.login)))
        .await?;
    let shown = json!({
        "kubeconfig": text(&plane, &cluster, &Shows::Token(&token)),
        "expires_at": login.expires_at,
    });
    Ok((StatusCode::CREATED, Json(shown)))
}

/// Id of a long-lived one: the beginning of its digest.
fn id_of(digest: &str) -> &str {
    let digits = digest.rsplit(':').next().unwrap_or_default();
    digits.get(..32).unwrap_or(digits)
}

/// Long-lived ones, for one cluster or all.
fn all(rows: &impl Read, cluster: Option<ClusterId>) -> Answer<Vec<(String, Login, ClusterId)>> {
    let of = |(digest, login): (String, Login)| match login.scope {
        Scope::Cluster(id) if login.kept_as.is_some() && cluster.is_none_or(|c| c == id) => {
            Some((digest, login, id))
        }
        _ => None,
    };
    Ok(rows.all(&LOGINS)?.into_iter().filter_map(of).collect())
}

fn shown(rows: &impl Read, found: &(String, Login, ClusterId)) -> Answer<Value> {
    let (digest, login, cluster) = found;
    let user = rows.get(&USERS, login.user.as_str())?;
    Ok(json!({
        "id": id_of(digest), "name": login.kept_as, "cluster": cluster,
        "user": login.user, "user_name": user.map(|u| u.name),
        "created_at": login.created_at, "expires_at": login.expires_at,
    }))
}

/// Whether a caller may see and revoke it: its owner, or an administrator of its project.
fn may_revoke(who: &Who, rows: &impl Read, found: &(String, Login, ClusterId)) -> Answer<bool> {
    let project = state::cluster(rows, found.2)?.project;
    let owner = find::owner_of_project(rows, &project)?;
    let all = owner.is_some_and(|owner| who.may(Action::SeeAllKubeconfigs, &owner));
    Ok(all || found.1.user == who.user.id)
}

/// `GET …/clusters/{cluster}/kubeconfigs`.
pub(super) async fn list(
    Person(who): Person,
    (State(plane), Path((_, id))): Of<(String, String)>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let mut out = Vec::new();
    for found in all(&rows, Some(cluster_id(&id)?))? {
        if may_revoke(&who, &rows, &found)? {
            out.push(shown(&rows, &found)?);
        }
    }
    Ok(Json(out.into()))
}

/// `DELETE …/clusters/{cluster}/kubeconfigs/{token_id}`.
pub(super) async fn withdraw(
    Person(who): Person,
    (State(plane), Path((_, id, kubeconfig))): Of<(String, String, String)>,
) -> Answer<StatusCode> {
    let cluster = cluster_id(&id)?;
    plane
        .change(move |change| {
            let mut found = all(&**change, Some(cluster))?.into_iter();
            let found = found.find(|f| id_of(&f.0) == kubeconfig);
            let none = || find::none("kubeconfig", &kubeconfig);
            let found = found.ok_or_else(none)?;
            match may_revoke(&who, &**change, &found)? {
                true => logins::remove(change, &found.0, &found.1),
                false => Err(none()),
            }
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All long-lived ones, for the administrator's socket.
pub(super) fn list_all(rows: &impl Read) -> Answer<Value> {
    let all = all(rows, None)?;
    let shown: Answer<Vec<Value>> = all.iter().map(|found| shown(rows, found)).collect();
    Ok(shown?.into())
}

/// Revokes one, through that socket.
pub(super) async fn withdraw_any(plane: &Arc<Plane>, id: String) -> Answer<Value> {
    plane
        .change(move |change| {
            let mut found = all(&**change, None)?.into_iter();
            let found = found.find(|f| id_of(&f.0) == id);
            let found = found.ok_or_else(|| find::none("kubeconfig", &id))?;
            logins::remove(change, &found.0, &found.1)?;
            Ok(json!({"id": id}))
        })
        .await
}

/// A cluster by name or id. A name used in several projects is ambiguous and refused.
pub(super) fn find(rows: &impl Read, wanted: &str) -> Answer<Cluster> {
    let clusters = rows.all(&CLUSTERS)?.into_iter().map(|(_, c)| c);
    let mut found = clusters.filter(|c| c.name == wanted || c.id.to_string() == wanted);
    let (first, second) = (found.next(), found.next());
    let wanted: String = wanted.chars().take(80).collect();
    match (first, second) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => {
            let what = format!("cluster {wanted} is ambiguous");
            let why = "several projects have a cluster of that name";
            Err(Refusal::conflict(FaultCode::ClusterExists, what, why)
                .fix("name it by its id: pf9-plane cluster list"))
        }
        (None, _) => Err(Refusal::missing(
            FaultCode::ClusterUnknown,
            format!("no cluster {wanted}"),
            "there is no cluster with that name or id",
        )
        .fix("see pf9-plane cluster list")),
    }
}
