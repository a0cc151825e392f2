//! Stored alerts: open ones, and a bounded number of past ones.

use jiff::Timestamp;
use uuid::Uuid;

use super::{Alert, Silence, Subject};
use crate::refusal::Answer;
use crate::state::Change;
use crate::store::{Read, Rows};
use pf9_hostagent::model::HostId;

/// Alerts that are open, by id.
pub(super) const OPEN: Rows<Alert> = Rows::new("alerts");
/// Past alerts, by `<subject>/<end>/<id>`.
pub(super) const PAST: Rows<Alert> = Rows::new("alerts-past");
/// Where a past alert is among them, by its id.
const PAST_AT: Rows<String> = Rows::new("alerts-past-at");
/// Silences by id.
pub(super) const SILENCES: Rows<Silence> = Rows::new("alert-silences");

/// Kept per host or cluster: one that flaps all day displaces only its own.
pub(super) const PAST_OF_ONE: usize = 100;
/// Kept in all, including those of removed hosts: a list of them is read whole (`walk`).
const PAST_MAX: u64 = 20_000;
/// Deleted at once when there are more: finding the oldest reads all of them.
const PAST_GO: usize = 1_000;

/// Stores an open alert.
pub(super) fn put(change: &mut Change<'_>, alert: &Alert) -> Answer<()> {
    Ok(change.put(&OPEN, &alert.id.to_string(), alert)?)
}

/// It is over: moves it to the past ones.
pub(super) fn close(change: &mut Change<'_>, alert: &Alert) -> Answer<()> {
    change.remove(&OPEN, &alert.id.to_string())?;
    let whose = whose(alert.key.subject);
    let at = alert.resolved_at.unwrap_or(change.now);
    let at = place(&whose, at, alert.id);
    change.put(&PAST, &at, alert)?;
    change.put(&PAST_AT, &alert.id.to_string(), &at)?;
    let mine = change.with_prefix(&PAST, &format!("{whose}/"))?;
    let surplus = mine.len().saturating_sub(PAST_OF_ONE);
    drop_past(change, mine.iter().take(surplus))?;
    if change.count(&PAST)? > PAST_MAX {
        let mut all = change.all(&PAST)?;
        all.sort_by_key(|(_, a)| a.resolved_at);
        drop_past(change, all.iter().take(PAST_GO))?;
    }
    Ok(())
}

fn drop_past<'a>(
    change: &mut Change<'_>,
    those: impl Iterator<Item = &'a (String, Alert)>,
) -> Answer<()> {
    for (key, alert) in those {
        change.remove(&PAST, key)?;
        change.remove(&PAST_AT, &alert.id.to_string())?;
    }
    Ok(())
}

/// A past alert.
pub(super) fn past(rows: &impl Read, id: Uuid) -> Answer<Option<Alert>> {
    let Some(at) = rows.get(&PAST_AT, &id.to_string())? else {
        return Ok(None);
    };
    Ok(rows.get(&PAST, &at)?)
}

/// Past alerts of a host; without one: all.
pub(super) fn all_past(rows: &impl Read, host: Option<HostId>) -> Answer<Vec<Alert>> {
    let all = match host {
        Some(host) => rows.with_prefix(&PAST, &format!("{}/", whose(Subject::Host(host))))?,
        None => rows.all(&PAST)?,
    };
    Ok(all.into_iter().map(|(_, alert)| alert).collect())
}

/// A store of an older version has no index by id: it is built once.
pub(super) fn note_places(change: &mut Change<'_>) -> Answer<()> {
    if change.count(&PAST)? == change.count(&PAST_AT)? {
        return Ok(());
    }
    for (key, alert) in change.all(&PAST)? {
        change.put(&PAST_AT, &alert.id.to_string(), &key)?;
    }
    Ok(())
}

/// Zero-padded, so that text order is time order.
fn place(whose: &str, at: Timestamp, id: Uuid) -> String {
    format!("{whose}/{:020}/{id}", at.as_millisecond().max(0))
}

fn whose(subject: Subject) -> String {
    match subject {
        Subject::Fleet => "fleet".into(),
        Subject::Cluster(id) => format!("cluster-{id}"),
        Subject::Host(id) => format!("host-{id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::facts::tests::at;
    use crate::alerts::verbs::tests::{firing, world};

    #[test]
    fn past_alerts_are_bounded_per_host_and_a_flapping_one_displaces_only_its_own() {
        let world = world();
        world.at(0, |change| {
            let mut other = firing(2, 0);
            other.resolved_at = Some(at(1));
            close(change, &other)?;
            for n in 0..PAST_OF_ONE as i64 + 20 {
                let mut alert = firing(1, n);
                put(change, &alert)?;
                alert.resolved_at = Some(at(n));
                close(change, &alert)?;
            }
            Ok(())
        });
        let read = world.store.read().expect("read");
        assert!(read.all(&OPEN).expect("open").is_empty());
        let past_rows = read.all(&PAST).expect("past");
        assert_eq!(past_rows.len(), PAST_OF_ONE + 1);
        // Each is found by its id, and a deleted one is not.
        let found = |alert: &Alert| past(&read, alert.id).expect("read");
        assert!(past_rows.iter().all(|(_, a)| found(a).as_ref() == Some(a)));
        assert_eq!(read.all(&PAST_AT).expect("places").len(), past_rows.len());
        let of_host = all_past(&read, Some(crate::compute::tests::host(1))).expect("list");
        assert_eq!(of_host.len(), PAST_OF_ONE);
        assert_eq!(all_past(&read, None).expect("list").len(), past_rows.len());
        let of_one: Vec<_> = past_rows.iter().filter(|(_, a)| a.since != at(0)).collect();
        assert_eq!(of_one[0].1.since, at(20), "the oldest go");
    }

    /// What an older plane stored is found as well.
    #[test]
    fn a_store_without_places_gets_them() {
        let world = world();
        let mut alert = firing(1, 0);
        alert.resolved_at = Some(at(1));
        world.at(0, |change| {
            close(change, &alert)?;
            Ok(change.remove(&PAST_AT, &alert.id.to_string())?)
        });
        assert_eq!(world.at(0, |c| past(&**c, alert.id)), None);
        world.at(0, note_places);
        assert_eq!(world.at(0, |c| past(&**c, alert.id)), Some(alert));
    }
}
