//! Alerts over HTTP: the administrator's socket and operators' `/alerts/v1`; the same bodies and answers for both.
//!
//! | path | does |
//! |---|---|
//! | `GET /alerts`                    | open alerts; `?state=past`: past ones, the newest first |
//! | `GET /alerts/{id}`               | one alert, open or past |
//! | `POST /alerts/{id}/acknowledge`  | marks it as being worked on |
//! | `GET`, `POST /silences`          | suppress notices for a time |
//! | `DELETE /silences/{id}`          | ends one before its time |
//! | `GET /clusters/{id}/availability` | for how much of each month its API answered (the administrator uses its name) |
//! | `GET /clusters/{id}/report`      | desired and observed state of its nodes; `?day=YYYY-MM-DD`: on that day |
//! | `GET /projects/{project}/receivers`, `PUT`, `DELETE …/{name}` | receivers of a project |
//! | `GET`, `POST /notify`, `DELETE /notify/{name}` | targets (administrator only: they name files on the plane's machine) |

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::routing::{delete, get, post};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::notify::{self, Wanted};
use super::receivers::{self, WantedReceiver};
use super::report::REPORTS;
use super::shelf::{self, SILENCES};
use super::verbs::{self, WantedAck, WantedSilence};
use super::{Alert, show};
use crate::access::{Action, Owner};
use crate::guard::{Person, Tenant, Who};
use crate::http::{Doc, Path, Query};
use crate::kubeconfig;
use crate::people::{ProjectId, find};
use crate::records::Cluster;
use crate::refusal::{Answer, Refusal};
use crate::state::{self, Plane};
use crate::store::Read;
use pf9_hostagent::model::{ClusterId, FaultCode, HostId};

/// Most past alerts in one answer.
const PAST_SHOWN: usize = 1000;

/// Filter of the list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Which {
    state: Option<String>,
    cluster: Option<ClusterId>,
    host: Option<HostId>,
}

/// The administrator's routes.
pub(crate) fn admin_routes() -> Router<Arc<Plane>> {
    Router::new()
        .route("/alerts", get(admin_list))
        .route("/alerts/{id}", get(admin_one))
        .route("/alerts/{id}/acknowledge", post(admin_acknowledge))
        .route("/silences", get(admin_silences).post(admin_silence))
        .route("/silences/{id}", delete(admin_unsilence))
        .route("/clusters/{name}/availability", get(admin_availability))
        .route("/clusters/{name}/report", get(admin_report))
        .route("/notify", get(admin_targets).post(admin_add_target))
        .route("/notify/{name}", delete(admin_remove_target))
}

fn id(text: &str) -> Answer<Uuid> {
    text.parse().map_err(|_| {
        let why = "its id is not a UUID";
        Refusal::bad(FaultCode::AlertInvalid, "no such alert", why)
    })
}

/// The owner of something about a cluster or a host; the plane where it is about all of them, or the subject is gone.
fn owner(rows: &impl Read, of: Option<ClusterId>, host: Option<HostId>) -> Answer<Owner> {
    let project = verbs::project_of(rows, of, host)?;
    let owner = project.map_or(Ok(None), |id| find::owner_of_project(rows, &id))?;
    Ok(owner.unwrap_or(Owner::Plane))
}

fn of_alert(rows: &impl Read, alert: &Alert) -> Answer<Owner> {
    let host = match alert.key.subject {
        super::Subject::Host(host) => Some(host),
        super::Subject::Cluster(_) | super::Subject::Fleet => None,
    };
    owner(rows, alert.cluster, host)
}

fn no_alert(id: Uuid) -> Refusal {
    let why = format!("no alert has id {id}, or it is too old to be kept");
    Refusal::missing(FaultCode::NotFound, "no such alert", why)
}

/// The owner of an alert, and the refusal for callers who may not see it.
pub(crate) fn owner_of_alert(
    plane: &Plane,
    rows: &impl Read,
    text: &str,
) -> Answer<(Option<Owner>, Refusal)> {
    let id = id(text)?;
    let owner = found(plane, id)?.map(|alert| of_alert(rows, &alert));
    Ok((owner.transpose()?, no_alert(id)))
}

/// The same for a silence.
pub(crate) fn owner_of_silence(rows: &impl Read, text: &str) -> Answer<(Option<Owner>, Refusal)> {
    let id = id(text)?;
    let row = rows.get(&SILENCES, &id.to_string())?;
    let owner = row.map(|s| owner(rows, s.cluster, s.host)).transpose()?;
    let why = format!("no silence has id {id}, or it has ended");
    let missing = Refusal::missing(FaultCode::NotFound, "no such silence", why);
    Ok((owner, missing))
}

/// The part of a list the caller may see; the administrator sees all.
fn kept<T>(who: Option<&Who>, all: &mut Vec<T>, owner: impl Fn(&T) -> Answer<Owner>) -> Answer<()> {
    let Some(who) = who else { return Ok(()) };
    let mut seen = Vec::new();
    for one in all.drain(..) {
        if who.may(Action::SeeAlerts, &owner(&one)?) {
            seen.push(one);
        }
    }
    *all = seen;
    Ok(())
}

/// Open ones at once; past ones when it is the caller's turn.
async fn list_of(plane: &Arc<Plane>, which: Which, who: Option<Arc<Who>>) -> Answer<Value> {
    if which.state.as_deref() != Some("past") {
        return list_now(plane, &which, who.as_deref());
    }
    let user = who.as_ref().map(|who| who.user.id.clone());
    let shared = Arc::clone(plane);
    let walk = move || list_now(&shared, &which, who.as_deref());
    plane.alerts.walks.walk(user.as_ref(), walk).await
}

fn list_now(plane: &Plane, which: &Which, who: Option<&Who>) -> Answer<Value> {
    let mut all: Vec<Alert> = match which.state.as_deref() {
        None | Some("open") => plane.alerts.inner().book.values().cloned().collect(),
        Some("past") => shelf::all_past(&plane.read()?, which.host)?,
        Some(_) => {
            let why = "state is open or past";
            return Err(Refusal::bad(FaultCode::AlertInvalid, "list refused", why));
        }
    };
    all.retain(|alert| {
        let of_host = |host| alert.key.subject == super::Subject::Host(host);
        which.cluster.is_none_or(|id| alert.cluster == Some(id)) && which.host.is_none_or(of_host)
    });
    let rows = plane.read()?;
    kept(who, &mut all, |alert| of_alert(&rows, alert))?;
    // The most urgent first, among equals the newest first.
    all.sort_by_key(|a| {
        let urgent = std::cmp::Reverse((a.resolved_at, a.urgency));
        (urgent, std::cmp::Reverse(a.since), a.id)
    });
    all.truncate(match which.state.as_deref() {
        Some("past") => PAST_SHOWN,
        Some(_) | None => usize::MAX,
    });
    Ok(all.iter().map(show::alert).collect())
}

fn found(plane: &Plane, id: Uuid) -> Answer<Option<Alert>> {
    let open = plane.alerts.inner();
    if let Some(alert) = open.book.values().find(|a| a.id == id) {
        return Ok(Some(alert.clone()));
    }
    drop(open);
    shelf::past(&plane.read()?, id)
}

fn one_of(plane: &Plane, id: Uuid) -> Answer<Value> {
    let alert = found(plane, id)?.ok_or_else(|| no_alert(id))?;
    Ok(show::alert(&alert))
}

fn silences_of(plane: &Plane, who: Option<&Who>) -> Answer<Value> {
    let now = pf9_hostagent::seam::clock::now();
    let rows = plane.read()?;
    let mut all = rows.all(&SILENCES)?;
    all.retain(|(_, s)| now < s.until);
    kept(who, &mut all, |(_, s)| owner(&rows, s.cluster, s.host))?;
    Ok(all.iter().map(|(_, s)| show::silence(s)).collect())
}

async fn end_silence(plane: &Arc<Plane>, text: &str) -> Answer<Value> {
    let id = id(text)?;
    let ended = verbs::unsilence_on(plane, id).await?;
    Ok(json!({"id": id, "ended": ended}))
}

pub(crate) async fn list(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
    Query(which): Query<Which>,
) -> Answer<Json<Value>> {
    list_of(&plane, which, Some(who)).await.map(Json)
}

pub(crate) async fn one(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path(text): Path<String>,
) -> Answer<Json<Value>> {
    one_of(&plane, id(&text)?).map(Json)
}

pub(crate) async fn acknowledge(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
    Path(text): Path<String>,
    Doc(mut wanted): Doc<WantedAck>,
) -> Answer<Json<Value>> {
    // A caller acts only in their own name.
    wanted.who = who.name();
    let alert = verbs::acknowledge_on(&plane, id(&text)?, wanted).await?;
    Ok(Json(show::alert(&alert)))
}

pub(crate) async fn silences(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
) -> Answer<Json<Value>> {
    silences_of(&plane, Some(&who)).map(Json)
}

pub(crate) async fn silence(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
    Doc(mut wanted): Doc<WantedSilence>,
) -> Answer<(StatusCode, Json<Value>)> {
    wanted.who = who.name();
    let rows = plane.read()?;
    // A silence that names both is checked against both: the caller may own only one of them.
    let named = [(wanted.cluster, None), (None, wanted.host)];
    let mut named: Vec<_> = named.into_iter().filter(|n| *n != (None, None)).collect();
    if named.is_empty() {
        named.push((None, None));
    }
    for (cluster, host) in named {
        who.require(Action::AnswerAlerts, &owner(&rows, cluster, host)?)?;
    }
    drop(rows);
    let done = verbs::silence_on(&plane, wanted).await?;
    Ok((StatusCode::CREATED, Json(show::silence(&done))))
}

pub(crate) async fn unsilence(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path(text): Path<String>,
) -> Answer<Json<Value>> {
    end_silence(&plane, &text).await.map(Json)
}

fn cluster_id(text: &str) -> Answer<ClusterId> {
    text.parse().map_err(|_| {
        let why = "its id is not a UUID";
        Refusal::bad(FaultCode::AlertInvalid, "no such cluster", why)
    })
}

/// The day; absent: now.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct When {
    day: Option<String>,
}

fn report_of(plane: &Plane, cluster: &Cluster, when: &When) -> Answer<Value> {
    let rows = plane.read()?;
    let Some(day) = &when.day else {
        return super::report::now(plane, &rows, cluster);
    };
    let plain = |b: u8| b.is_ascii_digit() || b == b'-';
    let found = match day.bytes().all(plain) {
        true => rows.get(&REPORTS, &format!("{}/{day}", cluster.id))?,
        false => None,
    };
    found.ok_or_else(|| {
        let why = "no report was made on that day, or it is too old to be kept";
        Refusal::missing(FaultCode::NotFound, "no such report", why)
    })
}

pub(crate) async fn availability(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path(text): Path<String>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let cluster = state::cluster(&rows, cluster_id(&text)?)?;
    super::availability::shown(&rows, cluster.id).map(Json)
}

pub(crate) async fn report(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path(text): Path<String>,
    Query(when): Query<When>,
) -> Answer<Json<Value>> {
    let cluster = state::cluster(&plane.read()?, cluster_id(&text)?)?;
    report_of(&plane, &cluster, &when).map(Json)
}

pub(crate) async fn list_receivers(
    Tenant(project): Tenant,
    State(plane): State<Arc<Plane>>,
) -> Answer<Json<Value>> {
    let all = receivers::list(&plane, &plane.read()?, Some(&project))?;
    Ok(Json(all.into()))
}

pub(crate) async fn set_receiver(
    Tenant(project): Tenant,
    State(plane): State<Arc<Plane>>,
    Path((_, name)): Path<(String, String)>,
    Doc(wanted): Doc<WantedReceiver>,
) -> Answer<Json<Value>> {
    let set = receivers::put_on(&plane, project, name, wanted).await?;
    Ok(Json(set))
}

pub(crate) async fn remove_receiver(
    Tenant(project): Tenant,
    State(plane): State<Arc<Plane>>,
    Path((_, name)): Path<(String, String)>,
) -> Answer<Json<Value>> {
    let removed = receivers::remove_on(&plane, &project, &name).await?;
    Ok(Json(json!({"name": name, "removed": removed})))
}

async fn admin_report(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
    Query(when): Query<When>,
) -> Answer<Json<Value>> {
    let cluster = kubeconfig::find(&plane.read()?, &name)?;
    report_of(&plane, &cluster, &when).map(Json)
}

async fn admin_availability(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let cluster = kubeconfig::find(&rows, &name)?;
    super::availability::shown(&rows, cluster.id).map(Json)
}

async fn admin_list(
    State(plane): State<Arc<Plane>>,
    Query(which): Query<Which>,
) -> Answer<Json<Value>> {
    list_of(&plane, which, None).await.map(Json)
}

async fn admin_one(
    State(plane): State<Arc<Plane>>,
    Path(text): Path<String>,
) -> Answer<Json<Value>> {
    one_of(&plane, id(&text)?).map(Json)
}

async fn admin_acknowledge(
    State(plane): State<Arc<Plane>>,
    Path(text): Path<String>,
    Doc(wanted): Doc<WantedAck>,
) -> Answer<Json<Value>> {
    let alert = verbs::acknowledge_on(&plane, id(&text)?, wanted).await?;
    Ok(Json(show::alert(&alert)))
}

async fn admin_silences(State(plane): State<Arc<Plane>>) -> Answer<Json<Value>> {
    silences_of(&plane, None).map(Json)
}

async fn admin_silence(
    State(plane): State<Arc<Plane>>,
    Doc(wanted): Doc<WantedSilence>,
) -> Answer<Json<Value>> {
    let done = verbs::silence_on(&plane, wanted).await?;
    Ok(Json(show::silence(&done)))
}

async fn admin_unsilence(
    State(plane): State<Arc<Plane>>,
    Path(text): Path<String>,
) -> Answer<Json<Value>> {
    end_silence(&plane, &text).await.map(Json)
}

async fn admin_targets(State(plane): State<Arc<Plane>>) -> Answer<Json<Value>> {
    notify::list(&plane).map(Json)
}

async fn admin_add_target(
    State(plane): State<Arc<Plane>>,
    Doc(wanted): Doc<Wanted>,
) -> Answer<Json<Value>> {
    notify::add_on(&plane, wanted).await.map(Json)
}

/// Whose it is; absent: the plane's.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Whose {
    project: Option<ProjectId>,
}

async fn admin_remove_target(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
    Query(whose): Query<Whose>,
) -> Answer<Json<Value>> {
    let was = match &whose.project {
        Some(project) => receivers::remove_on(&plane, project, &name).await?,
        None => notify::remove_on(&plane, name.clone()).await?,
    };
    Ok(Json(json!({"name": name, "removed": was})))
}
