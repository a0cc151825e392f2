//! What is kept of alerts: those that are open, and what was, so much of it.

use jiff::Timestamp;
use uuid::Uuid;

use super::{Alert, Silence, Subject};
use crate::plane::refusal::Answer;
use crate::plane::state::Change;
use crate::plane::store::{Read, Rows};

/// Alerts that are open, by id.
pub(super) const OPEN: Rows<Alert> = Rows::new("alerts");
/// Alerts that are over, by `<whose>/<when it was over>/<id>`.
pub(super) const PAST: Rows<Alert> = Rows::new("alerts-past");
/// Silences by id.
pub(super) const SILENCES: Rows<Silence> = Rows::new("alert-silences");

/// Kept of one host or cluster: one that flaps all day leaves the others' alone.
pub(super) const PAST_OF_ONE: usize = 100;
/// Kept in all, of hosts that are gone as well: a list of them is read whole.
const PAST_MAX: u64 = 20_000;
/// So many go at once when there are more: to look for the oldest costs a walk over all.
const PAST_GO: usize = 1_000;

/// Puts an open alert, as it is now.
pub(super) fn put(change: &mut Change<'_>, alert: &Alert) -> Answer<()> {
    Ok(change.put(&OPEN, &alert.id.to_string(), alert)?)
}

/// It is over: it is kept among what was.
pub(super) fn close(change: &mut Change<'_>, alert: &Alert) -> Answer<()> {
    change.remove(&OPEN, &alert.id.to_string())?;
    let whose = whose(alert.key.subject);
    let at = alert.resolved_at.unwrap_or(change.now);
    change.put(&PAST, &place(&whose, at, alert.id), alert)?;
    let mine = change.with_prefix(&PAST, &format!("{whose}/"))?;
    let surplus = mine.len().saturating_sub(PAST_OF_ONE);
    for (key, _) in mine.iter().take(surplus) {
        change.remove(&PAST, key)?;
    }
    if change.count(&PAST)? > PAST_MAX {
        let mut all = change.all(&PAST)?;
        all.sort_by_key(|(_, a)| a.resolved_at);
        for (key, _) in all.iter().take(PAST_GO) {
            change.remove(&PAST, key)?;
        }
    }
    Ok(())
}

/// Zero-padded, so that the order of text is the order of times.
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
    use crate::plane::alerts::facts::tests::at;
    use crate::plane::alerts::verbs::tests::{firing, world};

    #[test]
    fn what_was_is_bounded_for_each_and_one_that_flaps_leaves_the_others_alone() {
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
        let past = read.all(&PAST).expect("past");
        assert_eq!(past.len(), PAST_OF_ONE + 1);
        let of_one: Vec<_> = past.iter().filter(|(_, a)| a.since != at(0)).collect();
        assert_eq!(of_one[0].1.since, at(20), "the oldest go");
    }
}
