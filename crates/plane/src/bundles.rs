//! Support bundles of hosts, or their logs alone, on an operator's request: ordered here, made and sent by a host whose
//! own operator agreed, stored here sealed for a limited time, read and removed by authorised callers.
//!
//! ```text
//! operator ─► order: a key is made, an operation signed ─► host ─► PUT: bounded, complete, sealed ─► DIR/ID.age
//!                                            operator ◄─ decrypted in transit ◄─┘   expiry: key, row, file are deleted
//! ```
//!
//! Each is sealed for its own key, which is only in its row: a copy of the files alone reveals nothing, and without its
//! row a bundle cannot be opened. With `sealFor` it is sealed for the caller's key; then this plane cannot open it
//! either. Order, arrival, download and removal are events of the host.
//!
//! | file | holds |
//! | here    | rows, what an order contains, retention |
//! | `files` | the bytes: received from a host, sent to an operator |
//! Ordered bundles, by `<host id>/<id>`.

mod files;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use age::secrecy::ExposeSecret;
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::events;
use super::guard::Person;
use super::http::{Doc, Path};
use super::operations;
use super::records::HOSTS;
use super::refusal::{Answer, Refusal, chain};
use super::resmgr::host_id;
use super::state::{self, Change, Plane};
use super::store::{Read, Rows};
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::host::space;
use pf9_hostagent::model::{
    BUNDLE_BYTES_MAX, Digest, Fault, FaultCode, HostId, LOG_LINES_MAX, OperationKind, Secret,
    SigningKey,
};

pub(super) use files::{fetch, fetch_here, take};

/// Directory of their files, below the state directory.
pub(super) const BUNDLES: Rows<Row> = Rows::new("bundles");
/// Where they are, below the state directory.
const DIR: &str = "/bundles";
/// Most per host at a time: support looks at one or two.
const OF_A_HOST_MAX: usize = 4;
/// Most bytes of all hosts on this plane's disk. A project may have half of what the others leave: none gets all of it,
/// however many hosts it has.
const BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Default retention.
pub(super) const KEEP: u32 = 7 * 24 * 3600;
/// Longest retention: a support case is closed by then.
const KEEP_MAX: u32 = 30 * 24 * 3600;
/// How long after the end of its operation one may still arrive: the host's own limit, and some room.
const COMES_WITHIN: SignedDuration = SignedDuration::from_mins(40);
/// Default number of lines of each log, where only logs are asked for.
pub(super) const LINES: u32 = 5000;
/// Default age of the oldest log lines.
pub(super) const SINCE: u32 = 24 * 3600;
/// Default size limit.
pub(super) const BYTES: u64 = 64 * 1024 * 1024;
/// How often expired ones are collected; they are not served in the meantime.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// An ordered bundle.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    /// Id of the operation.
    id: Uuid,
    host: HostId,
    by: String,
    ordered_at: Timestamp,
    /// Latest arrival.
    comes_until: Timestamp,
    /// End of retention.
    keep_until: Timestamp,
    max_bytes: u64,
    /// Contains only this.
    #[serde(default)]
    only: Option<Only>,
    /// The key that opens it; `None`: the operator has it.
    #[serde(default, serialize_with = "expose")]
    key: Option<Secret<String>>,
    /// Set once it has arrived.
    #[serde(default)]
    arrived: Option<Arrived>,
}

/// An arrived bundle.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Arrived {
    at: Timestamp,
    /// Size, sealed.
    bytes: u64,
    sha256: Digest,
}

fn expose<S: serde::Serializer>(key: &Option<Secret<String>>, s: S) -> Result<S::Ok, S::Error> {
    key.as_ref().map(|k| k.expose().as_str()).serialize(s)
}

/// A part of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Only {
    /// Logs of the agent, kubelet, etcd and the runtime.
    Logs,
}

/// An operator's order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Wanted {
    /// Only these parts: the host's operator may have agreed to logs alone, or once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) only: Option<Only>,
    /// Excludes the last so many seconds; only with `only`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until_seconds: Option<u32>,
    /// At most so many lines of each log; only with `only`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lines: Option<u32>,
    /// Logs of the last so many seconds.
    #[serde(default = "since")]
    pub(super) since_seconds: u32,
    #[serde(default = "bytes")]
    pub(super) max_bytes: u64,
    #[serde(default = "keep_seconds")]
    pub(super) keep_seconds: u32,
    /// A public key of age whose holder alone can open it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seal_for: Option<String>,
}

fn since() -> u32 {
    SINCE
}
fn bytes() -> u64 {
    BYTES
}
fn keep_seconds() -> u32 {
    KEEP
}

/// State of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It may still arrive.
    Awaited,
    Here,
    /// It did not arrive in time, or it expired.
    Over,
}

impl Row {
    /// A clock that is set back extends nothing.
    fn stage(&self, now: Timestamp) -> Stage {
        let left = self.keep_until.duration_since(now);
        let longest = SignedDuration::from_secs(KEEP_MAX.into());
        if now >= self.keep_until || left > longest {
            return Stage::Over;
        }
        match self.arrived {
            Some(_) => Stage::Here,
            None if now < self.comes_until => Stage::Awaited,
            None => Stage::Over,
        }
    }

    /// Upper bound of its disk usage.
    fn takes(&self) -> u64 {
        self.arrived.as_ref().map_or(self.max_bytes, |a| a.bytes)
    }

    fn shown(&self, now: Timestamp) -> Value {
        let word = match self.stage(now) {
            Stage::Awaited => "awaited",
            Stage::Here => "here",
            Stage::Over => "over",
        };
        json!({
            "id": self.id,
            "by": self.by,
            "orderedAt": self.ordered_at,
            "keepUntil": self.keep_until,
            "state": word,
            "bytes": self.arrived.as_ref().map(|a| a.bytes),
            "sha256": self.arrived.as_ref().map(|a| a.sha256),
            "arrivedAt": self.arrived.as_ref().map(|a| a.at),
            "opensHere": self.key.is_some(),
            "only": self.only,
        })
    }
}

fn at(host: HostId, id: Uuid) -> String {
    format!("{host}/{id}")
}

fn file(id: Uuid) -> String {
    format!("{DIR}/{id}.age")
}

fn rows_of(rows: &impl Read, host: HostId) -> Answer<Vec<Row>> {
    let rows = rows.with_prefix(&BUNDLES, &format!("{host}/"))?;
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// The row of a host's bundle, in any state.
fn row(rows: &impl Read, host: HostId, id: Uuid) -> Answer<Row> {
    rows.get(&BUNDLES, &at(host, id))?.ok_or_else(|| none(id))
}

fn none(id: Uuid) -> Refusal {
    let why = "it was never ordered, did not arrive, or has expired";
    Refusal::missing(FaultCode::NotFound, format!("no bundle {id}"), why)
}

/// Orders one from a host.
fn order(
    change: &mut Change<'_>,
    signing: &SigningKey,
    host: HostId,
    wanted: &Wanted,
    by: &str,
) -> Answer<Row> {
    let what = "the support bundle is not ordered";
    let now = change.now;
    if wanted.keep_seconds == 0 || wanted.keep_seconds > KEEP_MAX {
        let why = format!(
            "it would be kept for {} s; 1 to {KEEP_MAX} are allowed",
            wanted.keep_seconds
        );
        return Err(Refusal::bad(FaultCode::OperationInvalid, what, why));
    }
    if wanted.only.is_none() && (wanted.until_seconds.is_some() || wanted.lines.is_some()) {
        let why = "untilSeconds and lines need \"only\": \"logs\"";
        return Err(Refusal::bad(FaultCode::OperationInvalid, what, why));
    }
    let (key, seal_for) = match &wanted.seal_for {
        Some(own) => {
            let parsed = own.parse::<age::x25519::Recipient>();
            parsed.map_err(|why| {
                let why = format!("sealFor is not an age public key (age1…): {why}");
                Refusal::bad(FaultCode::OperationInvalid, what, why)
            })?;
            (None, own.clone())
        }
        None => {
            let key = age::x25519::Identity::generate();
            let secret = Secret::new(key.to_string().expose_secret().to_owned());
            (Some(secret), key.to_public().to_string())
        }
    };
    let project = state::host(&**change, host)?.project;
    let all = change.all(&BUNDLES)?;
    let alive = || all.iter().filter(|(_, r)| r.stage(now) != Stage::Over);
    let full = |why: String| {
        Refusal::conflict(FaultCode::TooMany, what, why)
            .fix("remove bundles that are no longer needed")
    };
    if alive().filter(|(_, r)| r.host == host).count() >= OF_A_HOST_MAX {
        return Err(full(format!("this host already has {OF_A_HOST_MAX}")));
    }
    let (mut mine, mut others) = (0_u64, 0_u64);
    for (_, row) in alive() {
        let of = change.get(&HOSTS, &row.host.to_string())?;
        let sum = match of.is_some_and(|of| of.project == project) {
            true => &mut mine,
            false => &mut others,
        };
        *sum = sum.saturating_add(row.takes());
    }
    let share = share(others);
    if mine.saturating_add(wanted.max_bytes) > share {
        return Err(full(format!(
            "this project's bundles have {mine} bytes, and may have {share}"
        )));
    }
    let (since_s, max_bytes) = (wanted.since_seconds, wanted.max_bytes);
    let what = match wanted.only {
        None => OperationKind::Bundle {
            since_s,
            max_bytes,
            seal_for,
        },
        Some(Only::Logs) => OperationKind::Logs {
            since_s,
            until_s: wanted.until_seconds.unwrap_or_default(),
            lines: wanted.lines.unwrap_or(LINES),
            max_bytes,
            seal_for,
        },
    };
    let wanted_operation = operations::Wanted {
        what,
        life_s: operations::LIFE,
    };
    let ordered = operations::order(change, signing, host, &wanted_operation, by)?.operation;
    let keep = SignedDuration::from_secs(wanted.keep_seconds.into());
    let later = |at: Timestamp, by| at.checked_add(by).unwrap_or(Timestamp::MAX);
    let row = Row {
        id: ordered.id,
        host,
        by: by.to_owned(),
        ordered_at: now,
        comes_until: later(ordered.expires_at, COMES_WITHIN),
        keep_until: later(now, keep),
        max_bytes: wanted.max_bytes,
        only: wanted.only,
        key,
        arrived: None,
    };
    change.put(&BUNDLES, &at(host, row.id), &row)?;
    Ok(row)
}

/// A project's quota, given the usage of the others.
fn share(others: u64) -> u64 {
    BYTES_MAX.saturating_sub(others) / 2
}

/// The store is on the same disk: incoming bundles must leave it room, whatever was ordered.
fn room(files: &HostFs, bytes: u64) -> Answer<()> {
    let what = "support bundle refused";
    let at = files.at(DIR);
    let space = space::of(&at).map_err(|e| Refusal::internal(what, &e))?;
    space.require(&at, bytes).map_err(|full| {
        let fault = Fault::new(FaultCode::DiskFull, what, full.to_string()).fix(space::FIX);
        Refusal::new(StatusCode::INSUFFICIENT_STORAGE, fault)
    })
}

/// Records the arrival.
fn arrived(
    change: &mut Change<'_>,
    host: HostId,
    id: Uuid,
    bytes: u64,
    sha256: Digest,
) -> Answer<()> {
    let mut row = row(&**change, host, id)?;
    let at_now = change.now;
    row.arrived = Some(Arrived {
        at: at_now,
        bytes,
        sha256,
    });
    change.put(&BUNDLES, &at(host, id), &row)?;
    let said = format!("bundle {id}: {bytes} bytes, kept until {}", row.keep_until);
    events::note(change, host, "bundle-arrived", &said)
}

/// Removes one, and records who removed it.
fn forget_one(change: &mut Change<'_>, host: HostId, id: Uuid, by: &str) -> Answer<()> {
    row(&**change, host, id)?;
    change.remove(&BUNDLES, &at(host, id))?;
    events::note(
        change,
        host,
        "bundle-removed",
        &format!("bundle {id}: by {by}"),
    )
}

/// For a host that is removed. The files follow with the next collection.
pub(super) fn forget(change: &mut Change<'_>, host: HostId) -> Answer<()> {
    for row in rows_of(&**change, host)? {
        change.remove(&BUNDLES, &at(host, row.id))?;
    }
    Ok(())
}

/// Expired rows.
fn over(rows: &impl Read, now: Timestamp) -> Answer<Vec<Row>> {
    let all = rows.all(&BUNDLES)?.into_iter().map(|(_, row)| row);
    Ok(all.filter(|r| r.stage(now) == Stage::Over).collect())
}

fn end_those(change: &mut Change<'_>) -> Answer<()> {
    for row in over(&**change, change.now)? {
        change.remove(&BUNDLES, &at(row.host, row.id))?;
        let (kind, why) = match row.arrived {
            Some(_) => ("bundle-over", "it has expired"),
            None => ("bundle-missed", "it did not arrive in time"),
        };
        let said = format!("bundle {}: {why}", row.id);
        events::note(change, row.host, kind, &said)?;
    }
    Ok(())
}

/// Uploads in progress: at most one per bundle.
#[derive(Debug, Default)]
pub(super) struct Receiving(Mutex<BTreeSet<Uuid>>);

/// One upload in progress.
struct Place<'a>(&'a Receiving, Uuid);

impl Receiving {
    fn begin(&self, id: Uuid) -> Option<Place<'_>> {
        let is_new = self.all().insert(id);
        // Created only if new: dropping it ends the upload.
        is_new.then(|| Place(self, id))
    }

    fn has(&self, id: Uuid) -> bool {
        self.all().contains(&id)
    }

    fn all(&self) -> std::sync::MutexGuard<'_, BTreeSet<Uuid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.all().remove(&self.1);
    }
}

/// Removes expired ones until the plane stops.
pub(super) async fn keep(plane: Arc<Plane>) {
    loop {
        if let Err(refusal) = look(&plane).await {
            tracing::warn!(
                "an expired support bundle is not removed yet: {}",
                refusal.fault
            );
        }
        // cancel-safe: waits only for time
        tokio::select! {
            () = plane.shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn look(plane: &Arc<Plane>) -> Answer<()> {
    // A write waits for the disk, so none is made when nothing changes.
    if !over(&plane.read()?, pf9_hostagent::seam::clock::now())?.is_empty() {
        plane.change(end_those).await?;
    }
    let here: BTreeSet<Uuid> = plane
        .read()?
        .all(&BUNDLES)?
        .into_iter()
        .map(|(_, row)| row.id)
        .collect();
    // Without its row nobody can open a file. Files of interrupted uploads have no id as their name.
    let names = plane.files.list(DIR).unwrap_or_default();
    for name in names {
        let id = name.strip_suffix(".age").and_then(|id| id.parse().ok());
        let stays = match id {
            Some(id) => here.contains(&id) || plane.receiving.has(id),
            None => !plane.receiving.all().is_empty(),
        };
        if !stays {
            let path = format!("{DIR}/{name}");
            if let Err(e) = plane.files.remove_file(&path) {
                tracing::warn!(path, why = %chain(&e), "the file of a support bundle cannot be removed");
            }
        }
    }
    Ok(())
}

/// Orders one on the running plane, and wakes the host.
pub(super) async fn order_on(
    plane: &Arc<Plane>,
    host: HostId,
    wanted: Wanted,
    by: String,
) -> Answer<Value> {
    let ring = plane.keys.ring();
    let who = by.clone();
    let row = plane
        .change(move |change| order(change, &ring.signing.current, host, &wanted, &by))
        .await?;
    tracing::info!(%host, id = %row.id, by = who, "support bundle ordered");
    plane.operations.announce([host]);
    Ok(row.shown(pf9_hostagent::seam::clock::now()))
}

/// A host's bundles, the oldest first.
pub(super) fn list(rows: &impl Read, host: HostId, now: Timestamp) -> Answer<Value> {
    let mut all = rows_of(rows, host)?;
    all.sort_by_key(|row| row.ordered_at);
    Ok(all.iter().map(|row| row.shown(now)).collect())
}

/// Removes one on the running plane, its file immediately.
pub(super) async fn remove_on(
    plane: &Arc<Plane>,
    host: HostId,
    id: Uuid,
    by: String,
) -> Answer<StatusCode> {
    tracing::info!(%host, %id, by, "support bundle removed");
    plane
        .change(move |change| forget_one(change, host, id, &by))
        .await?;
    look(plane).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The id in a path.
pub(super) fn bundle_id(text: &str) -> Answer<Uuid> {
    text.parse().map_err(|_| {
        let what = "no such bundle";
        Refusal::missing(FaultCode::NotFound, what, "it is not the id of a bundle")
    })
}

/// `GET /resmgr/v1/hosts/{id}/bundles`.
pub(super) async fn get(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let host = state::host(&rows, host_id(&id)?)?;
    list(&rows, host.id, pf9_hostagent::seam::clock::now()).map(Json)
}

/// `POST /resmgr/v1/hosts/{id}/bundles`.
pub(super) async fn post(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Doc(wanted): Doc<Wanted>,
) -> Answer<(StatusCode, Json<Value>)> {
    let shown = order_on(&plane, host_id(&id)?, wanted, who.name()).await?;
    Ok((StatusCode::ACCEPTED, Json(shown)))
}

/// `DELETE /resmgr/v1/hosts/{id}/bundles/{bundle_id}`.
pub(super) async fn delete(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
    Path((host, id)): Path<(String, String)>,
) -> Answer<StatusCode> {
    remove_on(&plane, host_id(&host)?, bundle_id(&id)?, who.name()).await
}

const _: () = assert!(BYTES <= BUNDLE_BYTES_MAX && LINES <= LOG_LINES_MAX);
