//! The plane's targets of alerts, and the outbox of each; those of projects are in `receivers`.
//!
//! A notice is stored before it is sent, in the transaction that changes the alert, and removed once delivered: it
//! arrives at least once, whatever is killed when, or is refused for good (`waiting`). An alert has at most two entries
//! in an outbox: that it fires, in its newest words, and that it is over. So an outbox is bounded by the number of
//! alerts, and by [`OUTBOX_MAX`]; beyond that the project with the most loses its oldest.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::board::Way;
use super::engine::Notice;
use super::verbs::project_of;
use super::waiting::{Dropped, Refused, Told, Waiting};
use super::{Alert, Subject, receivers};
use crate::fair::of_those_with_most;
use crate::people::ProjectId;
use crate::refusal::{Answer, Refusal};
use crate::state::{Change, Plane};
use crate::store::{Read, Rows};
use pf9_hostagent::model::{ClusterId, FaultCode, HostId};

/// Targets by name.
pub(super) const TARGETS: Rows<Target> = Rows::new("alert-targets");
/// Outboxes, by `<target>/<alert id>`.
pub(super) const OUTBOX: Rows<Waiting> = Rows::new("alert-outbox");

/// Most targets: each receives everything.
const TARGETS_MAX: usize = 20;
/// Alerts waiting for one target: losing the whole fleet is one alert; these are for a month without the target.
pub(super) const OUTBOX_MAX: usize = 5000;
/// Longest name and URL.
const NAME_MAX: usize = 63;
const URL_MAX: usize = 2048;

/// The format a target understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// The webhook format of Prometheus' Alertmanager, version 4.
    Alertmanager,
    /// Tickets: create, update, resolve.
    Ticket,
}

/// Body of `POST /notify`. Secrets are in files on the plane's machine, read at each delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// The URL; or a file with it, for URLs that are secrets themselves.
    #[serde(default)]
    pub(crate) url: Option<String>,
    #[serde(default)]
    pub(crate) url_file: Option<PathBuf>,
    /// A file with the bearer token.
    #[serde(default)]
    pub(crate) token_file: Option<PathBuf>,
    /// A file with trusted CAs; absent: those of the machine.
    #[serde(default)]
    pub(crate) ca_file: Option<PathBuf>,
}

/// A target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    #[serde(flatten)]
    pub(super) wanted: Wanted,
    pub(super) added_at: Timestamp,
    /// Alerts dropped because too many were waiting.
    #[serde(default)]
    pub(super) given_up: u64,
    #[serde(default)]
    pub(super) dropped: Dropped,
}

/// Adds these to every target's outbox.
pub(super) fn enqueue(change: &mut Change<'_>, notices: &[(Notice, Alert)]) -> Answer<()> {
    if notices.is_empty() {
        return Ok(());
    }
    for (name, _) in change.all(&TARGETS)? {
        enqueue_for(change, &name, notices)?;
    }
    Ok(())
}

fn enqueue_for(change: &mut Change<'_>, name: &str, notices: &[(Notice, Alert)]) -> Answer<()> {
    let surplus = put_in(change, name, OUTBOX_MAX, notices)?;
    if surplus == 0 {
        return Ok(());
    }
    tracing::error!(
        to = name,
        surplus,
        "too many alerts wait: the oldest are dropped, of the project with the most"
    );
    if let Some(mut target) = change.get(&TARGETS, name)? {
        target.given_up += surplus as u64;
        change.put(&TARGETS, name, &target)?;
    }
    Ok(())
}

/// Adds these to an outbox for at most so many alerts; answers how many of the oldest were dropped for that, of the
/// project with the most.
pub(super) fn put_in(
    change: &mut Change<'_>,
    name: &str,
    most: usize,
    notices: &[(Notice, Alert)],
) -> Answer<usize> {
    for (notice, alert) in notices {
        let key = place(name, alert);
        let mut waiting = change.get(&OUTBOX, &key)?.unwrap_or_default();
        waiting.take_in(Told {
            notice: *notice,
            at: change.now,
            alert: alert.clone(),
        });
        change.put(&OUTBOX, &key, &waiting)?;
    }
    let mut all = waiting_for(&**change, name)?;
    let surplus = all.len().saturating_sub(most);
    if surplus == 0 {
        return Ok(0);
    }
    all.sort_by_key(|(_, w)| w.since());
    let owners = owners(&**change, &all)?;
    let owned = owners.iter().zip(all.iter().map(|(key, _)| key.as_str()));
    for key in of_those_with_most(owned, surplus) {
        change.remove(&OUTBOX, key)?;
    }
    Ok(surplus)
}

/// The project of each; of an alert of the plane's own none.
fn owners(rows: &impl Read, all: &[(String, Waiting)]) -> Answer<Vec<Option<ProjectId>>> {
    let mut known: BTreeMap<(Option<ClusterId>, Option<HostId>), Option<ProjectId>> =
        BTreeMap::new();
    let mut owners = Vec::new();
    for (_, waiting) in all {
        let told = waiting.begin.as_ref().or(waiting.end.as_ref());
        let (cluster, host) = match told.map(|told| (told.alert.cluster, told.alert.key.subject)) {
            Some((None, Subject::Host(host))) => (None, Some(host)),
            Some((None, Subject::Cluster(cluster)) | (Some(cluster), _)) => (Some(cluster), None),
            Some((None, Subject::Fleet)) | None => (None, None),
        };
        let owner = match known.get(&(cluster, host)) {
            Some(owner) => owner.clone(),
            None => {
                let owner = project_of(rows, cluster, host)?;
                known.insert((cluster, host), owner.clone());
                owner
            }
        };
        owners.push(owner);
    }
    Ok(owners)
}

/// The outbox of a target.
pub(super) fn waiting_for(rows: &impl Read, target: &str) -> Answer<Vec<(String, Waiting)>> {
    Ok(rows.with_prefix(&OUTBOX, &format!("{target}/"))?)
}

/// Delivered: removes it, unless newer words came meanwhile.
pub(super) fn arrived(change: &mut Change<'_>, target: &str, told: &Told) -> Answer<()> {
    let key = place(target, &told.alert);
    let Some(mut waiting) = change.get(&OUTBOX, &key)? else {
        return Ok(());
    };
    waiting.arrived(told);
    put_back(change, &key, &waiting)
}

/// Refused: it waits, or is dropped and counted.
pub(super) fn refuse(
    change: &mut Change<'_>,
    target: &str,
    told: &Told,
    why: &str,
) -> Answer<Refused> {
    let key = place(target, &told.alert);
    let Some(mut waiting) = change.get(&OUTBOX, &key)? else {
        return Ok(Refused::Gone);
    };
    let refused = waiting.refuse(told, why, change.now);
    if refused == Refused::Gone {
        return Ok(refused);
    }
    put_back(change, &key, &waiting)?;
    if refused == Refused::Dropped {
        match receivers::project_in(target) {
            Some(_) => receivers::count_dropped(change, target, why)?,
            None => count_dropped(change, target, why)?,
        }
    }
    Ok(refused)
}

fn count_dropped(change: &mut Change<'_>, name: &str, why: &str) -> Answer<()> {
    if let Some(mut target) = change.get(&TARGETS, name)? {
        target.dropped.count(change.now, why);
        change.put(&TARGETS, name, &target)?;
    }
    Ok(())
}

fn put_back(change: &mut Change<'_>, key: &str, waiting: &Waiting) -> Answer<()> {
    match waiting.is_empty() {
        true => Ok(change.remove(&OUTBOX, key)?),
        false => Ok(change.put(&OUTBOX, key, waiting)?),
    }
}

/// What was refused is tried at once: the target was set anew.
pub(super) fn forgive(change: &mut Change<'_>, target: &str) -> Answer<()> {
    for (key, mut waiting) in waiting_for(&**change, target)? {
        if waiting.forgive() {
            change.put(&OUTBOX, &key, &waiting)?;
        }
    }
    Ok(())
}

fn place(target: &str, alert: &Alert) -> String {
    format!("{target}/{}", alert.id)
}

/// Why a name is invalid.
pub(super) fn name_fault(name: &str) -> Option<String> {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let sound = (1..=NAME_MAX).contains(&name.len()) && name.chars().all(word);
    (!sound).then(|| format!("name: 1 to {NAME_MAX} of a-z, 0-9 and - are needed"))
}

/// Why a target is invalid.
fn fault(wanted: &Wanted) -> Option<String> {
    if let Some(why) = name_fault(&wanted.name) {
        return Some(why);
    }
    let files = [
        ("urlFile", &wanted.url_file),
        ("tokenFile", &wanted.token_file),
        ("caFile", &wanted.ca_file),
    ];
    for (field, file) in files {
        if file.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Some(format!("{field}: give an absolute path"));
        }
    }
    match (&wanted.url, &wanted.url_file) {
        (Some(url), None) => url_of(url, wanted.token_file.is_some()).err(),
        (None, Some(_)) => None,
        (Some(_), Some(_)) | (None, None) => Some("url or urlFile, not both".into()),
    }
}

/// The URL of a target. A secret is sent only over TLS, or within the machine.
pub(super) fn url_of(text: &str, has_token: bool) -> Result<Url, String> {
    if text.len() > URL_MAX {
        return Err(format!("url: longer than {URL_MAX} bytes"));
    }
    // The text is not repeated: it may be the secret.
    let url = Url::parse(text).map_err(|e| format!("url: {e}"))?;
    let local = url.host_str().is_some_and(|host| {
        let host = host.trim_matches(['[', ']']);
        host == "localhost"
            || host
                .parse()
                .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    });
    match url.scheme() {
        "https" => {}
        "http" if has_token && !local => {
            return Err("url: a token is sent over https only, or to this machine".into());
        }
        "http" => {}
        _ => return Err("url: it is not http or https".into()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("url: no user and password in it; give a token in a file".into());
    }
    match url.host_str() {
        Some(_) => Ok(url),
        None => Err("url: it names no host".into()),
    }
}

fn add(change: &mut Change<'_>, wanted: Wanted) -> Answer<Target> {
    let what = "the target is not added";
    if let Some(why) = fault(&wanted) {
        return Err(Refusal::bad(FaultCode::AlertInvalid, what, why));
    }
    let before = change.get(&TARGETS, &wanted.name)?;
    if before.is_none() && change.all(&TARGETS)?.len() >= TARGETS_MAX {
        let why = format!("there are {TARGETS_MAX} targets already, the limit");
        return Err(Refusal::conflict(FaultCode::TooMany, what, why));
    }
    let (given_up, dropped) = before.map(|b| (b.given_up, b.dropped)).unwrap_or_default();
    let target = Target {
        added_at: change.now,
        given_up,
        dropped,
        wanted,
    };
    change.put(&TARGETS, &target.wanted.name, &target)?;
    forgive(change, &target.wanted.name)?;
    Ok(target)
}

fn remove(change: &mut Change<'_>, name: &str) -> Answer<bool> {
    let was = change.get(&TARGETS, name)?.is_some();
    change.remove(&TARGETS, name)?;
    empty(change, name)?;
    Ok(was)
}

/// Drops all that waits in an outbox.
pub(super) fn empty(change: &mut Change<'_>, name: &str) -> Answer<()> {
    for (key, _) in waiting_for(&**change, name)? {
        change.remove(&OUTBOX, &key)?;
    }
    Ok(())
}

/// Adds or changes a target. Alerts that already fire are sent at once, also to a new target.
pub(super) async fn add_on(plane: &Arc<Plane>, wanted: Wanted) -> Answer<Value> {
    let _turn = plane.alerts.turn.lock().await;
    let open: Vec<(Notice, Alert)> = {
        let inner = plane.alerts.inner();
        let told = inner
            .book
            .values()
            .filter(|a| a.is_firing() && a.sent.is_some());
        told.map(|a| (Notice::Fired, a.clone())).collect()
    };
    let target = plane
        .change(move |change| {
            let is_new = change.get(&TARGETS, &wanted.name)?.is_none();
            let target = add(change, wanted)?;
            if is_new {
                enqueue_for(change, &target.wanted.name, &open)?;
            }
            Ok(target)
        })
        .await?;
    plane.alerts.outbox.notify_one();
    Ok(shown(&target, &[], &Way::default()))
}

/// Removes a target.
pub(super) async fn remove_on(plane: &Arc<Plane>, name: String) -> Answer<bool> {
    let was = plane.change({
        let name = name.clone();
        move |change| remove(change, &name)
    });
    let was = was.await?;
    plane.alerts.inner().ways.remove(&name);
    Ok(was)
}

/// All targets, those of projects last.
pub(super) fn list(plane: &Plane) -> Answer<Value> {
    let rows = plane.read()?;
    let mut out = Vec::new();
    for (name, target) in rows.all(&TARGETS)? {
        let waits = waiting_for(&rows, &name)?;
        let way = plane.alerts.inner().ways.get(&name).cloned();
        out.push(shown(&target, &waits, &way.unwrap_or_default()));
    }
    out.extend(receivers::list(plane, &rows, None)?);
    Ok(out.into())
}

/// As operators see it.
fn shown(target: &Target, waits: &[(String, Waiting)], way: &Way) -> Value {
    let mut shown = json!(target.wanted);
    shown["addedAt"] = json!(target.added_at);
    show_way(&mut shown, waits, target.given_up, &target.dropped, way);
    shown
}

/// Adds how its deliveries are.
pub(super) fn show_way(
    shown: &mut Value,
    waits: &[(String, Waiting)],
    given_up: u64,
    dropped: &Dropped,
    way: &Way,
) {
    // What is refused alone waits beside others that arrive.
    let refused = waits.iter().filter_map(|(_, w)| w.refusals());
    let refused = refused.max_by_key(|refused| refused.at);
    let failing = way.failing.as_ref().or(refused.map(|refused| &refused.why));
    shown["waiting"] = json!(waits.len());
    shown["givenUp"] = json!(given_up);
    shown["refused"] = json!(dropped.times);
    shown["refusedAt"] = json!(dropped.at);
    shown["refusedWhy"] = json!(dropped.why);
    shown["arrivedAt"] = json!(way.arrived_at);
    shown["failing"] = json!(failing);
}

#[cfg(test)]
mod tests;
