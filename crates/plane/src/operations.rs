//! Operations of hosts: ordered here, signed, sent when the host polls, and stored with their results.
//!
//! ```text
//! operator ─► order (signed, numbered, with an expiry) ─► row ─► the host's long poll ─► nodelet checks, runs, answers
//!                                                         row ◄─────── result, once ◄──┘   (both are events)
//! ```
//!
//! One without an answer is sent again until it expires: the host runs each once, and repeats the same answer.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::events;
use super::guard::Person;
use super::hostapi::Caller;
use super::http::{Doc, Path, Query};
use super::refusal::{Answer, Refusal};
use super::resmgr::host_id;
use super::state::{self, Change, Plane};
use super::store::{Read, Rows};
use pf9_hostagent::model::{
    DocumentKind, Envelope, FaultCode, HostId, OPERATION_LIFE_MAX, OPERATION_SCHEMA,
    OPERATIONS_PENDING_MAX, Operation, OperationKind, OperationResult, Outcome, PendingOperation,
    PendingOperations, SAID_MAX, SigningKey,
};

/// Operations of a host, by `<host id>/<number>`.
pub(super) const OPERATIONS: Rows<Row> = Rows::new("operations");
/// Kept per host.
const KEPT: usize = 100;
/// How long an operation is valid by default: a connected host gets it within a second.
pub(super) const LIFE: u32 = 600;
/// Longest a host may wait for one.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// An ordered operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) operation: Operation,
    pub(super) envelope: Envelope,
    /// The operator who ordered it.
    pub(super) by: String,
    #[serde(default)]
    pub(super) result: Option<OperationResult>,
}

/// An operator's order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    pub(super) what: OperationKind,
    #[serde(default = "life")]
    pub(super) life_s: u32,
}

fn life() -> u32 {
    LIFE
}

/// Orders one. Numbers also rise with the clock: a plane restored from a backup continues beyond what hosts have seen.
pub(super) fn order(
    change: &mut Change<'_>,
    key: &SigningKey,
    id: HostId,
    wanted: &Wanted,
    by: &str,
) -> Answer<Row> {
    let what = "the operation is not ordered";
    let bad = |why: String| Refusal::bad(FaultCode::OperationInvalid, what, why);
    if let Some(why) = wanted.what.fault() {
        return Err(bad(why));
    }
    let longest = OPERATION_LIFE_MAX.as_secs();
    if wanted.life_s == 0 || u64::from(wanted.life_s) > longest {
        let why = format!(
            "it would be valid for {} s; 1 to {longest} are allowed",
            wanted.life_s
        );
        return Err(bad(why));
    }
    state::host(&**change, id)?;
    let now = change.now;
    let rows = rows_of(&**change, id)?;
    let pending = rows.iter().filter(|(_, row)| is_pending(row, now)).count();
    if pending >= OPERATIONS_PENDING_MAX {
        let why = format!("{pending} operations are pending for this host already");
        return Err(Refusal::conflict(FaultCode::TooMany, what, why)
            .fix("wait until they are answered or have ended"));
    }
    let last = rows.last().map_or(0, |(_, row)| row.operation.number);
    let by_clock = u64::try_from(now.as_second()).unwrap_or_default();
    let life = SignedDuration::from_secs(wanted.life_s.into());
    let operation = Operation {
        schema: OPERATION_SCHEMA,
        id: Uuid::new_v4(),
        host_id: id,
        number: (last + 1).max(by_clock),
        issued_at: now,
        expires_at: now.checked_add(life).unwrap_or(Timestamp::MAX),
        what: wanted.what.clone(),
    };
    let bytes = serde_json::to_vec(&operation)
        .map_err(|e| Refusal::internal("cannot write the operation", &e))?;
    let row = Row {
        envelope: key.sign(DocumentKind::Operation, &bytes),
        operation,
        by: by.to_owned(),
        result: None,
    };
    change.put(&OPERATIONS, &at(id, row.operation.number), &row)?;
    let surplus = (rows.len() + 1).saturating_sub(KEPT);
    for (key, _) in rows.iter().take(surplus) {
        change.remove(&OPERATIONS, key)?;
    }
    let said = format!("{} ({}) by {by}", row.operation.what, row.operation.id);
    events::note(change, id, "operation-ordered", &said)?;
    Ok(row)
}

fn rows_of(rows: &impl Read, id: HostId) -> Answer<Vec<(String, Row)>> {
    Ok(rows.with_prefix(&OPERATIONS, &format!("{id}/"))?)
}

fn is_pending(row: &Row, now: Timestamp) -> bool {
    row.result.is_none() && now < row.operation.expires_at
}

/// Zero-padded, so that text order is number order.
fn at(host: HostId, number: u64) -> String {
    format!("{host}/{number:020}")
}

/// Those the host has not answered.
fn pending(rows: &impl Read, id: HostId, now: Timestamp) -> Answer<PendingOperations> {
    let all = rows_of(rows, id)?.into_iter();
    let pending = all.filter(|(_, row)| is_pending(row, now));
    Ok(PendingOperations {
        operations: pending
            .map(|(_, row)| PendingOperation {
                id: row.operation.id,
                envelope: row.envelope,
            })
            .collect(),
    })
}

/// A host answered. Only the first answer counts: the host gives the same again.
fn answered(change: &mut Change<'_>, id: HostId, result: OperationResult) -> Answer<()> {
    let what = "result refused";
    if let Outcome::Done { said } = &result.outcome
        && said.len() > SAID_MAX
    {
        let why = format!("its text has {} bytes, {SAID_MAX} are allowed", said.len());
        return Err(Refusal::bad(FaultCode::OperationInvalid, what, why));
    }
    let rows = rows_of(&**change, id)?.into_iter();
    let mut mine = rows.filter(|(_, row)| row.operation.id == result.id);
    let Some((key, mut row)) = mine.next() else {
        let why = format!("{} was not ordered, or too long ago", result.id);
        return Err(Refusal::missing(FaultCode::NotFound, what, why));
    };
    if row.result.is_some() {
        return Ok(());
    }
    let kind = match result.outcome {
        Outcome::Done { .. } => "operation-done",
        Outcome::Refused { .. } => "operation-refused",
        Outcome::Failed { .. } => "operation-failed",
    };
    let said = format!("{} ({}): {}", row.operation.what, result.id, result.outcome);
    row.result = Some(result);
    change.put(&OPERATIONS, &key, &row)?;
    events::note(change, id, kind, &said)
}

/// For a host that is removed.
pub(super) fn forget(change: &mut Change<'_>, id: HostId) -> Answer<()> {
    for (key, _) in rows_of(&**change, id)? {
        change.remove(&OPERATIONS, &key)?;
    }
    Ok(())
}

/// As operators see it.
fn shown(row: &Row, now: Timestamp) -> Value {
    let word = match &row.result {
        Some(result) => result.outcome.word(),
        None if is_pending(row, now) => "pending",
        None => "expired",
    };
    json!({
        "id": row.operation.id,
        "what": row.operation.what.to_string(),
        "operation": row.operation.what,
        "by": row.by,
        "orderedAt": row.operation.issued_at,
        "expiresAt": row.operation.expires_at,
        "state": word,
        "said": row.result.as_ref().map(|r| r.outcome.to_string()),
        "result": row.result,
    })
}

/// Orders one on the running plane, and wakes the host.
pub(super) async fn order_on(
    plane: &Arc<Plane>,
    host: HostId,
    wanted: Wanted,
    by: String,
) -> Answer<Value> {
    if wanted.what.consent().is_some() {
        let why = "a bundle, or logs, need a key and a retention, which a bare operation lacks";
        return Err(Refusal::bad(
            FaultCode::OperationInvalid,
            "the operation is not ordered",
            why,
        )
        .fix("use pf9-plane host bundle order HOST, pf9-plane host logs HOST, or POST …/hosts/{id}/bundles"));
    }
    let ring = plane.keys.ring();
    let row = plane
        .change(move |change| order(change, &ring.signing.current, host, &wanted, &by))
        .await?;
    let (id, what) = (row.operation.id, row.operation.what.to_string());
    tracing::info!(%host, %id, what, by = row.by, "operation ordered");
    plane.operations.announce([host]);
    Ok(shown(&row, pf9_hostagent::seam::clock::now()))
}

/// A host's operations, oldest first.
pub(super) fn list(rows: &impl Read, host: HostId, now: Timestamp) -> Answer<Value> {
    let all = rows_of(rows, host)?;
    Ok(all.iter().map(|(_, row)| shown(row, now)).collect())
}

/// `POST /resmgr/v1/hosts/{id}/operations`.
pub(super) async fn post(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Doc(wanted): Doc<Wanted>,
) -> Answer<(StatusCode, Json<Value>)> {
    let shown = order_on(&plane, host_id(&id)?, wanted, who.name()).await?;
    Ok((StatusCode::ACCEPTED, Json(shown)))
}

/// `GET /resmgr/v1/hosts/{id}/operations`.
pub(super) async fn get(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let host = state::host(&rows, host_id(&id)?)?;
    list(&rows, host.id, pf9_hostagent::seam::clock::now()).map(Json)
}

/// How long the host waits.
#[derive(Deserialize)]
pub(super) struct PendingQuery {
    #[serde(default)]
    wait: u64,
}

/// `GET /v1/hosts/self/operations?wait=S`: unanswered ones, as soon as there are any; 204 when the wait is over.
pub(super) async fn wait(
    Caller(host): Caller,
    State(plane): State<Arc<Plane>>,
    Query(query): Query<PendingQuery>,
) -> Answer<Response> {
    let wait = Duration::from_secs(query.wait).min(WAIT_MAX);
    let end = tokio::time::Instant::now() + wait;
    let news = plane.operations.subscribe(host);
    loop {
        // Before the rows are read: one ordered between the two is not missed.
        let mut changed = pin!(news.notified());
        changed.as_mut().enable();
        let pending = pending(&plane.read()?, host, pf9_hostagent::seam::clock::now())?;
        if !pending.operations.is_empty() {
            return Ok(Json(pending).into_response());
        }
        let changed = tokio::select! {
            // cancel-safe: all are
            () = changed => true,
            () = tokio::time::sleep_until(end) => false,
            () = plane.shutdown.cancelled() => false,
        };
        if !changed {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
}

/// `POST /v1/hosts/self/operations`: a result.
pub(super) async fn take(
    Caller(host): Caller,
    State(plane): State<Arc<Plane>>,
    Doc(result): Doc<OperationResult>,
) -> Answer<StatusCode> {
    plane
        .change(move |change| answered(change, host, result))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::tests::{host, host_row, now};
    use crate::records::{HOSTS, tables};
    use crate::store::Store;
    use pf9_hostagent::model::{OurUnit, TrustStore};

    fn wanted(what: OperationKind) -> Wanted {
        Wanted { what, life_s: LIFE }
    }

    struct World {
        store: Store,
        key: SigningKey,
        _dir: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("tempdir");
            let store = Store::open(&dir.path().join("s"), &tables()).expect("store");
            let done: Answer<()> =
                store.write(|w| Ok(w.put(&HOSTS, &host(1).to_string(), &host_row(1, None))?));
            done.expect("host");
            let (key, _) = SigningKey::generate().expect("key");
            Self {
                store,
                key,
                _dir: dir,
            }
        }

        fn at<T>(&self, s: i64, work: impl FnOnce(&mut Change<'_>) -> Answer<T>) -> Answer<T> {
            let now = now() + SignedDuration::from_secs(s);
            self.store.write(|w| work(&mut Change::new(w, now)))
        }

        fn order(&self, s: i64, what: OperationKind) -> Answer<Row> {
            self.at(s, |c| {
                order(c, &self.key, host(1), &wanted(what), "somebody")
            })
        }
    }

    fn done(id: Uuid, said: &str) -> OperationResult {
        OperationResult {
            schema: OPERATION_SCHEMA,
            id,
            at: now(),
            outcome: Outcome::Done { said: said.into() },
        }
    }

    #[test]
    fn a_signed_operation_is_pending_until_answered_or_expired() {
        let world = World::new();
        let first = world.order(0, OperationKind::Ping).expect("ordered");
        let restart = OperationKind::Restart {
            unit: OurUnit::Kubelet,
        };
        let second = world.order(0, restart).expect("ordered");
        assert!(
            second.operation.number > first.operation.number,
            "also within a second"
        );
        let read = |s: i64| {
            let rows = world.store.read().expect("read");
            let now = now() + SignedDuration::from_secs(s);
            let pending = pending(&rows, host(1), now).expect("pending");
            pending
                .operations
                .into_iter()
                .map(|p| p.id)
                .collect::<Vec<_>>()
        };
        assert_eq!(read(0), [first.operation.id, second.operation.id]);
        let trust = TrustStore::new([world.key.trusted()]).expect("trust");
        let signed: Operation = second
            .envelope
            .open(DocumentKind::Operation, &trust)
            .expect("signed");
        assert_eq!(signed, second.operation);
        let answer = done(first.operation.id, "nodelet answers");
        for said in ["nodelet answers", "something else"] {
            let answer = done(answer.id, said);
            world
                .at(1, |c| answered(c, host(1), answer))
                .expect("taken");
        }
        assert_eq!(read(1), [second.operation.id]);
        assert_eq!(read(i64::from(LIFE)), Vec::<Uuid>::new());
        let rows = world.store.read().expect("read");
        let shown = list(&rows, host(1), now() + SignedDuration::from_hours(1)).expect("list");
        assert_eq!(
            shown[0]["said"], "done: nodelet answers",
            "the first answer counts"
        );
        assert_eq!(shown[1]["state"], "expired");
        let told = events::list(&rows, host(1)).expect("events");
        let kinds: Vec<_> = told
            .as_array()
            .expect("list")
            .iter()
            .map(|e| e["event"]["kind"].as_str().expect("kind").to_owned())
            .collect();
        assert_eq!(
            kinds,
            ["operation-ordered", "operation-ordered", "operation-done"]
        );
    }

    #[test]
    fn operations_are_bounded_and_foreign_answers_refused() {
        let world = World::new();
        for _ in 0..OPERATIONS_PENDING_MAX {
            world.order(0, OperationKind::Ping).expect("ordered");
        }
        world.order(0, OperationKind::Ping).expect_err("too many");
        for n in 1..=i64::try_from(KEPT).expect("small") {
            world
                .order(n * 1000, OperationKind::Ping)
                .expect("those before are over");
        }
        let rows = world.store.read().expect("read");
        assert_eq!(rows_of(&rows, host(1)).expect("rows").len(), KEPT);
        let unknown = done(Uuid::nil(), "x");
        world
            .at(0, |c| answered(c, host(1), unknown))
            .expect_err("nobody ordered it");
        let id = world
            .order(200_000, OperationKind::Ping)
            .expect("ordered")
            .operation
            .id;
        let long = done(id, &"x".repeat(SAID_MAX + 1));
        world
            .at(0, |c| answered(c, host(1), long))
            .expect_err("too long");
        let other = done(id, "x");
        world
            .at(0, |c| answered(c, host(2), other))
            .expect_err("another host's");
        for life_s in [0, 3601] {
            let wanted = Wanted {
                what: OperationKind::Ping,
                life_s,
            };
            let ordered = world.at(0, |c| order(c, &world.key, host(1), &wanted, "x"));
            ordered.expect_err("no such life");
        }
        world.at(0, |c| forget(c, host(1))).expect("forgotten");
        let rows = world.store.read().expect("read");
        assert_eq!(rows_of(&rows, host(1)).expect("rows").len(), 0);
    }
}
