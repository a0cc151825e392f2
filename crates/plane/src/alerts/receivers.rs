//! Receivers of projects: who is an admin of a project names where alerts of its hosts and clusters are sent.
//!
//! | | a target of the plane (`notify`) | a receiver of a project |
//! |---|---|---|
//! | gets | all alerts | those of the project |
//! | is | anywhere | where `reach` allows |
//! | its secrets | in files of the plane's machine | in the store; the bearer token is never shown |
//! | alerts that wait | 5000, in turns of projects | [`OUTBOX_MAX`] |
//! | how many | 20 | [`OF_ONE_MAX`], of a domain [`OF_DOMAIN_MAX`] |
//!
//! Each has an outbox and a back-off of its own, and `deliver` sends to each by itself: one that is slow or gone delays
//! and displaces nothing of another. Its outbox has the key `<project>.<name>`, which no target of the plane has.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use reqwest::Url;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use super::Alert;
use super::engine::Notice;
use super::notify::{self, Kind};
use super::reach::Reach;
use super::waiting::Dropped;
use crate::people::{DomainId, PROJECTS, ProjectId, find};
use crate::records::expose;
use crate::refusal::{Answer, Refusal};
use crate::state::{Change, Plane};
use crate::store::{Read, Rows};
use pf9_hostagent::model::{FaultCode, Secret};

/// Receivers by `<project>.<name>`.
pub(super) const RECEIVERS: Rows<Receiver> = Rows::new("alert-receivers");

/// Between project and name. Neither has it in it.
const BETWEEN: char = '.';
/// Receivers of one project: tickets, a chat, an Alertmanager, and two to move to.
const OF_ONE_MAX: usize = 5;
/// Receivers of one domain, whose admin makes as many projects as there may be: a quarter of all.
const OF_DOMAIN_MAX: usize = 250;
/// Receivers in all: each of them is looked at whenever something waits.
const IN_ALL_MAX: usize = 1000;
/// Alerts that wait for one receiver: a project of a hundred hosts that is lost, twice.
const OUTBOX_MAX: usize = 200;
/// Longest bearer token: signed ones (JWT) with some claims have this.
const TOKEN_MAX: usize = 2048;

/// How often what a receiver refused is all tried again because it was set anew as it is: each try is a request and a commit.
const FORGIVEN_EVERY: SignedDuration = SignedDuration::from_secs(60);

const WHAT: &str = "the receiver is not set";

/// Body of `PUT …/receivers/{name}`. It replaces all: a token never goes to another URL than the one it came with.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct WantedReceiver {
    kind: Kind,
    url: Secret<String>,
    /// The bearer token.
    #[serde(default)]
    secret: Option<Secret<String>>,
}

/// A receiver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Receiver {
    pub(super) project: ProjectId,
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Many are secrets themselves.
    #[serde(serialize_with = "expose")]
    url: Secret<String>,
    #[serde(default, serialize_with = "expose_some")]
    pub(super) secret: Option<Secret<String>>,
    set_at: Timestamp,
    /// Alerts dropped because too many were waiting.
    #[serde(default)]
    given_up: u64,
    #[serde(default)]
    dropped: Dropped,
}

fn expose_some<S: Serializer>(secret: &Option<Secret<String>>, s: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(Secret::expose).serialize(s)
}

impl Receiver {
    /// Where it is called.
    pub(super) fn url(&self) -> Result<Url, String> {
        notify::url_of(self.url.expose(), self.secret.is_some())
    }

    /// Whether it is called at the same place in the same way. (What is lost is counted meanwhile.)
    pub(super) fn is_called_as(&self, other: &Self) -> bool {
        let Self {
            project,
            name,
            kind,
            url,
            secret,
            set_at,
            given_up: _,
            dropped: _,
        } = self;
        (project, name, kind, url, secret, set_at)
            == (
                &other.project,
                &other.name,
                &other.kind,
                &other.url,
                &other.secret,
                &other.set_at,
            )
    }
}

/// The project whose receiver has an outbox of this name; none: it is a target of the plane.
pub(super) fn project_in(name: &str) -> Option<&str> {
    name.split_once(BETWEEN).map(|(project, _)| project)
}

fn place(project: &ProjectId, name: &str) -> String {
    format!("{project}{BETWEEN}{name}")
}

/// Adds each to the outboxes of its project.
pub(super) fn enqueue(change: &mut Change<'_>, notices: &[(Notice, Alert)]) -> Answer<()> {
    if notices.iter().all(|(_, alert)| alert.project.is_none()) {
        return Ok(());
    }
    for (key, receiver) in change.all(&RECEIVERS)? {
        let of = Some(&receiver.project);
        let mine = notices.iter().filter(|(_, a)| a.project.as_ref() == of);
        let mine: Vec<_> = mine.cloned().collect();
        enqueue_for(change, &key, receiver, &mine)?;
    }
    Ok(())
}

fn enqueue_for(
    change: &mut Change<'_>,
    key: &str,
    mut receiver: Receiver,
    notices: &[(Notice, Alert)],
) -> Answer<()> {
    if notices.is_empty() {
        return Ok(());
    }
    let dropped = notify::put_in(change, key, OUTBOX_MAX, notices)?;
    if dropped > 0 {
        receiver.given_up += dropped as u64;
        change.put(&RECEIVERS, key, &receiver)?;
    }
    Ok(())
}

/// One more notice was refused until it was dropped.
pub(super) fn count_dropped(change: &mut Change<'_>, key: &str, why: &str) -> Answer<()> {
    if let Some(mut receiver) = change.get(&RECEIVERS, key)? {
        receiver.dropped.count(change.now, why);
        change.put(&RECEIVERS, key, &receiver)?;
    }
    Ok(())
}

/// Why it is invalid. The URL and the token are not repeated.
fn fault(name: &str, wanted: &WantedReceiver, reach: &Reach) -> Option<String> {
    if let Some(why) = notify::name_fault(name) {
        return Some(why);
    }
    let url = match notify::url_of(wanted.url.expose(), wanted.secret.is_some()) {
        Ok(url) => url,
        Err(why) => return Some(why),
    };
    if let Some(why) = reach.fault(&url) {
        return Some(why);
    }
    // It becomes part of a header.
    let sound = |token: &str| {
        (1..=TOKEN_MAX).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic())
    };
    let token = wanted.secret.as_ref()?;
    (!sound(token.expose())).then(|| {
        format!("secret: 1 to {TOKEN_MAX} printable ASCII characters without spaces are needed")
    })
}

/// Adds or replaces one; a new one, and one with another URL, gets the alerts that fire already.
fn put(
    change: &mut Change<'_>,
    project: ProjectId,
    name: String,
    wanted: WantedReceiver,
    open: &[(Notice, Alert)],
) -> Answer<String> {
    // It may have been deleted since its admin was asked for.
    let found = find::project(&**change, project.as_str())?;
    let key = place(&project, &name);
    let before = change.get(&RECEIVERS, &key)?;
    if before.is_none() {
        require_room(&**change, &project, &found.domain)?;
    }
    // What is called at another place was never told what fires.
    let is_new = before
        .as_ref()
        .is_none_or(|b| b.kind != wanted.kind || b.url != wanted.url);
    // What it refused is tried at once, but no admin has it all tried again and again.
    let is_other = |b: &Receiver| is_new || b.secret != wanted.secret;
    let rested = |b: &Receiver| change.now.duration_since(b.set_at) >= FORGIVEN_EVERY;
    let tries = before.as_ref().is_some_and(|b| is_other(b) || rested(b));
    let (given_up, dropped) = before.map(|b| (b.given_up, b.dropped)).unwrap_or_default();
    let receiver = Receiver {
        project,
        name,
        kind: wanted.kind,
        url: wanted.url,
        secret: wanted.secret,
        set_at: change.now,
        given_up,
        dropped,
    };
    change.put(&RECEIVERS, &key, &receiver)?;
    if tries {
        notify::forgive(change, &key)?;
    }
    if is_new {
        enqueue_for(change, &key, receiver, open)?;
    }
    Ok(key)
}

/// Whether there may be another one.
fn require_room(rows: &impl Read, project: &ProjectId, domain: &DomainId) -> Answer<()> {
    let (mut of_project, mut of_domain, mut in_all) = (0, 0, 0);
    for (_, receiver) in rows.all(&RECEIVERS)? {
        let row = rows.get(&PROJECTS, receiver.project.as_str())?;
        of_project += usize::from(receiver.project == *project);
        of_domain += usize::from(row.is_some_and(|row| row.domain == *domain));
        in_all += 1;
    }
    for (many, most, whose) in [
        (of_project, OF_ONE_MAX, "the project has"),
        (of_domain, OF_DOMAIN_MAX, "the projects of its domain have"),
        (in_all, IN_ALL_MAX, "the plane has"),
    ] {
        if many >= most {
            let why = format!("{whose} {most} receivers already, the limit");
            return Err(Refusal::conflict(FaultCode::TooMany, WHAT, why));
        }
    }
    Ok(())
}

fn remove(change: &mut Change<'_>, key: &str) -> Answer<bool> {
    let was = change.get(&RECEIVERS, key)?.is_some();
    change.remove(&RECEIVERS, key)?;
    notify::empty(change, key)?;
    Ok(was)
}

/// The project is deleted.
pub(crate) fn forget_project(change: &mut Change<'_>, project: &ProjectId) -> Answer<()> {
    for (key, _) in change.with_prefix(&RECEIVERS, &place(project, ""))? {
        remove(change, &key)?;
    }
    Ok(())
}

/// Those in the store whose projects exist, each with its project's domain. A plane of before there were receivers
/// deletes projects without them.
pub(super) fn standing(rows: &impl Read) -> Answer<Vec<(String, Receiver, DomainId)>> {
    let mut all = Vec::new();
    for (key, receiver) in rows.all(&RECEIVERS)? {
        if let Some(project) = rows.get(&PROJECTS, receiver.project.as_str())? {
            all.push((key, receiver, project.domain));
        }
    }
    Ok(all)
}

/// Removes those that such a plane left.
pub(super) fn sweep(change: &mut Change<'_>) -> Answer<()> {
    for (key, receiver) in change.all(&RECEIVERS)? {
        if change.get(&PROJECTS, receiver.project.as_str())?.is_none() {
            remove(change, &key)?;
        }
    }
    Ok(())
}

/// Adds or replaces one.
pub(super) async fn put_on(
    plane: &Arc<Plane>,
    project: ProjectId,
    name: String,
    wanted: WantedReceiver,
) -> Answer<Value> {
    if let Some(why) = fault(&name, &wanted, &plane.alerts.reach) {
        return Err(Refusal::bad(FaultCode::AlertInvalid, WHAT, why));
    }
    let _turn = plane.alerts.turn.lock().await;
    let open: Vec<(Notice, Alert)> = {
        let inner = plane.alerts.inner();
        let told = inner
            .book
            .values()
            .filter(|a| a.project.as_ref() == Some(&project) && a.is_firing() && a.sent.is_some());
        told.map(|a| (Notice::Fired, a.clone())).collect()
    };
    let key = plane
        .change(move |change| put(change, project, name, wanted, &open))
        .await?;
    plane.alerts.outbox.notify_one();
    let rows = plane.read()?;
    match rows.get(&RECEIVERS, &key)? {
        Some(receiver) => shown(plane, &rows, &key, &receiver),
        // It was removed meanwhile.
        None => Ok(Value::Null),
    }
}

/// Removes one. Returns whether there was one.
pub(super) async fn remove_on(plane: &Arc<Plane>, project: &ProjectId, name: &str) -> Answer<bool> {
    let key = place(project, name);
    let was = plane.change({
        let key = key.clone();
        move |change| remove(change, &key)
    });
    let was = was.await?;
    plane.alerts.inner().ways.remove(&key);
    Ok(was)
}

/// Those of a project, or of all.
pub(super) fn list(
    plane: &Plane,
    rows: &impl Read,
    project: Option<&ProjectId>,
) -> Answer<Vec<Value>> {
    let prefix = project.map_or(String::new(), |project| place(project, ""));
    let all = rows.with_prefix(&RECEIVERS, &prefix)?.into_iter();
    all.map(|(key, receiver)| shown(plane, rows, &key, &receiver))
        .collect()
}

fn shown(plane: &Plane, rows: &impl Read, key: &str, receiver: &Receiver) -> Answer<Value> {
    let waits = notify::waiting_for(rows, key)?;
    let way = plane.alerts.inner().ways.get(key).cloned();
    let mut shown = json!({
        "project": receiver.project,
        "name": receiver.name,
        "kind": receiver.kind,
        "url": receiver.url.expose(),
        "hasSecret": receiver.secret.is_some(),
        "setAt": receiver.set_at,
    });
    notify::show_way(
        &mut shown,
        &waits,
        receiver.given_up,
        &receiver.dropped,
        &way.unwrap_or_default(),
    );
    Ok(shown)
}

#[cfg(test)]
mod tests;
