//! Alerts over HTTP: the administrator's socket and operators' `/alerts/v1`; one body and one answer for both.
//!
//! | path | does |
//! |---|---|
//! | `GET /alerts`                    | what is open; `?state=past`: what was, the newest first |
//! | `GET /alerts/{id}`               | one of either |
//! | `POST /alerts/{id}/acknowledge`  | somebody sees to it |
//! | `GET`, `POST /silences`          | for a time nobody is told of these |
//! | `DELETE /silences/{id}`          | ends one before its time |
//! | `GET /clusters/{id}/availability` | how much of each month its API answered (the administrator names it) |
//! | `GET /clusters/{id}/report`      | what its nodes should be and are; `?day=YYYY-MM-DD`: were on that day |
//! | `GET`, `POST /notify`, `DELETE /notify/{name}` | who is told (the administrator alone: files of the plane's machine) |

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::routing::{delete, get, post};
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::notify::{self, Wanted};
use super::report::REPORTS;
use super::shelf::{PAST, SILENCES};
use super::verbs::{self, WantedAck, WantedSilence};
use super::{Alert, show};
use crate::model::{ClusterId, FaultCode, HostId};
use crate::plane::http::Doc;
use crate::plane::keystone::Operator;
use crate::plane::kubeconfig;
use crate::plane::records::Cluster;
use crate::plane::refusal::{Answer, Refusal};
use crate::plane::state::{self, Plane};
use crate::plane::store::Read;

/// Most alerts of what was in one answer.
const PAST_SHOWN: usize = 1000;

/// Which alerts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::plane) struct Which {
    state: Option<String>,
    cluster: Option<ClusterId>,
    host: Option<HostId>,
}

/// Operators' routes.
pub(in crate::plane) fn routes() -> Router<Arc<Plane>> {
    Router::new()
        .route("/v1/alerts", get(list))
        .route("/v1/alerts/{id}", get(one))
        .route("/v1/alerts/{id}/acknowledge", post(acknowledge))
        .route("/v1/silences", get(silences).post(silence))
        .route("/v1/silences/{id}", delete(unsilence))
        .route("/v1/clusters/{id}/availability", get(availability))
        .route("/v1/clusters/{id}/report", get(report))
}

/// The administrator's.
pub(in crate::plane) fn admin_routes() -> Router<Arc<Plane>> {
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
        let why = "its id is no UUID";
        Refusal::bad(FaultCode::AlertInvalid, "no such alert", why)
    })
}

fn list_of(plane: &Plane, which: &Which) -> Answer<Value> {
    let mut all: Vec<Alert> = match which.state.as_deref() {
        None | Some("open") => plane.alerts.inner().book.values().cloned().collect(),
        Some("past") => {
            let all = plane.read()?.all(&PAST)?;
            all.into_iter().map(|(_, a)| a).collect()
        }
        Some(_) => {
            let why = "state is open or past";
            return Err(Refusal::bad(FaultCode::AlertInvalid, "no list", why));
        }
    };
    all.retain(|alert| {
        let of_host = |host| alert.key.subject == super::Subject::Host(host);
        which.cluster.is_none_or(|id| alert.cluster == Some(id)) && which.host.is_none_or(of_host)
    });
    // The most urgent first, the newest first of those that are alike.
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

fn one_of(plane: &Plane, id: Uuid) -> Answer<Value> {
    let open = plane.alerts.inner();
    if let Some(alert) = open.book.values().find(|a| a.id == id) {
        return Ok(show::alert(alert));
    }
    drop(open);
    let past = plane.read()?.all(&PAST)?;
    let found = past.iter().find(|(_, a)| a.id == id);
    found.map(|(_, a)| show::alert(a)).ok_or_else(|| {
        let why = format!("there is none of id {id}, or it was long ago");
        Refusal::missing(FaultCode::NotFound, "no such alert", why)
    })
}

fn silences_of(plane: &Plane) -> Answer<Value> {
    let now = Timestamp::now();
    let all = plane.read()?.all(&SILENCES)?;
    let open = all.iter().filter(|(_, s)| now < s.until);
    Ok(open.map(|(_, s)| show::silence(s)).collect())
}

async fn end_silence(plane: &Arc<Plane>, text: &str) -> Answer<Value> {
    let id = id(text)?;
    let ended = verbs::unsilence_on(plane, id).await?;
    Ok(json!({"id": id, "ended": ended}))
}

async fn list(
    _: Operator,
    State(plane): State<Arc<Plane>>,
    Query(which): Query<Which>,
) -> Answer<Json<Value>> {
    list_of(&plane, &which).map(Json)
}

async fn one(
    _: Operator,
    State(plane): State<Arc<Plane>>,
    Path(text): Path<String>,
) -> Answer<Json<Value>> {
    one_of(&plane, id(&text)?).map(Json)
}

async fn acknowledge(
    _: Operator,
    State(plane): State<Arc<Plane>>,
    Path(text): Path<String>,
    Doc(wanted): Doc<WantedAck>,
) -> Answer<Json<Value>> {
    let alert = verbs::acknowledge_on(&plane, id(&text)?, wanted).await?;
    Ok(Json(show::alert(&alert)))
}

async fn silences(_: Operator, State(plane): State<Arc<Plane>>) -> Answer<Json<Value>> {
    silences_of(&plane).map(Json)
}

async fn silence(
    _: Operator,
    State(plane): State<Arc<Plane>>,
    Doc(wanted): Doc<WantedSilence>,
) -> Answer<(StatusCode, Json<Value>)> {
    let done = verbs::silence_on(&plane, wanted).await?;
    Ok((StatusCode::CREATED, Json(show::silence(&done))))
}

async fn unsilence(
    _: Operator,
    State(plane): State<Arc<Plane>>,
    Path(text): Path<String>,
) -> Answer<Json<Value>> {
    end_silence(&plane, &text).await.map(Json)
}

fn cluster_id(text: &str) -> Answer<ClusterId> {
    text.parse().map_err(|_| {
        let why = "its id is no UUID";
        Refusal::bad(FaultCode::AlertInvalid, "no such cluster", why)
    })
}

/// Of which day; absent: now.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct When {
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
        let why = "none was made on that day, or it was long ago";
        Refusal::missing(FaultCode::NotFound, "no such report", why)
    })
}

async fn availability(
    _: Operator,
    State(plane): State<Arc<Plane>>,
    Path(text): Path<String>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let cluster = state::cluster(&rows, cluster_id(&text)?)?;
    super::availability::shown(&rows, cluster.id).map(Json)
}

async fn report(
    _: Operator,
    State(plane): State<Arc<Plane>>,
    Path(text): Path<String>,
    Query(when): Query<When>,
) -> Answer<Json<Value>> {
    let cluster = state::cluster(&plane.read()?, cluster_id(&text)?)?;
    report_of(&plane, &cluster, &when).map(Json)
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
    list_of(&plane, &which).map(Json)
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
    silences_of(&plane).map(Json)
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

async fn admin_remove_target(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
) -> Answer<Json<Value>> {
    let was = notify::remove_on(&plane, name.clone()).await?;
    Ok(Json(json!({"name": name, "removed": was})))
}
