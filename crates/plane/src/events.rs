//! Events of hosts: each stored once, the newest thousand per host.

use serde_json::{Value, json};
use uuid::Uuid;

use super::records::{EVENT_IDS, EVENT_MARKS, EVENT_NEXT, EVENTS, EventMark, ReceivedEvent};
use super::refusal::{Answer, Refusal};
use super::state::Change;
use super::store::Read;
use pf9_hostagent::model::{EVENT_BATCH_MAX, Event, EventBatch, FaultCode, HostId, Timestamp};

/// Kept per host; a host that flaps for a day stays below.
const KEPT: u64 = 1000;
/// Longest id, kind and message.
const ID_MAX: usize = 128;
const KIND_MAX: usize = 64;
const MESSAGE_MAX: usize = 4096;

/// Takes in delivered events. Duplicates are dropped; returns the new ones.
///
/// Identity is the event's id alone. Its number only shows gaps: a spool that was lost or reset starts counting again,
/// and none of its events is mistaken for a duplicate. What a host's disk did not take has the name of another spool, and
/// numbers that go on.
pub(super) fn take(change: &mut Change<'_>, host: HostId, batch: EventBatch) -> Answer<Vec<Event>> {
    let EventBatch { spool, events } = batch;
    if events.len() > EVENT_BATCH_MAX {
        let why = format!("{} events, at most {EVENT_BATCH_MAX}", events.len());
        return Err(Refusal::bad(
            FaultCode::BatchTooLarge,
            "events refused",
            why,
        ));
    }
    let at = host.to_string();
    let mut mark = change.get(&EVENT_MARKS, &at)?;
    let before = mark;
    let mut taken = Vec::new();
    for event in events {
        check(&event)?;
        if change
            .get(&EVENT_IDS, &format!("{host}/{}", event.id))?
            .is_some()
        {
            continue;
        }
        if let (Some(spool), Some(seq)) = (spool, event.seq) {
            if let Some(lost) = missing(mark, seq) {
                let words = format!(
                    "{lost} events of this host are lost: its spool was full, or a file of it damaged"
                );
                add(change, host, own("events-lost", &words, change.now))?;
            }
            mark = Some(EventMark { spool, seq });
        }
        add(change, host, event.clone())?;
        taken.push(event);
    }
    if let Some(mark) = mark.filter(|_| mark != before) {
        change.put(&EVENT_MARKS, &at, &mark)?;
    }
    Ok(taken)
}

/// How many numbers are missing before this one.
fn missing(mark: Option<EventMark>, seq: u64) -> Option<u64> {
    let lost = seq.checked_sub(mark?.seq)?.checked_sub(1)?;
    (lost > 0).then_some(lost)
}

fn add(change: &mut Change<'_>, host: HostId, event: Event) -> Answer<()> {
    let next = change.get(&EVENT_NEXT, &host.to_string())?.unwrap_or(0);
    let received_at = change.now;
    change.put(&EVENT_IDS, &format!("{host}/{}", event.id), &next)?;
    let row = ReceivedEvent { received_at, event };
    change.put(&EVENTS, &at(host, next), &row)?;
    if let Some(old) = next.checked_sub(KEPT) {
        forget(change, host, old)?;
    }
    change.put(&EVENT_NEXT, &host.to_string(), &(next + 1))?;
    Ok(())
}

/// An event of the plane's own about a host, while it is enrolled.
pub(super) fn note(change: &mut Change<'_>, host: HostId, kind: &str, said: &str) -> Answer<()> {
    add(change, host, own(kind, said, change.now))
}

/// An event of the plane's own.
fn own(kind: &str, said: &str, now: Timestamp) -> Event {
    Event {
        id: format!("plane-{}", Uuid::new_v4().simple()),
        seq: None,
        at: now,
        kind: kind.to_owned(),
        message: cut(said).to_owned(),
        fault: None,
    }
}

/// Cut to the length of a message.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MESSAGE_MAX))
        .unwrap_or_default()
}

fn forget(change: &mut Change<'_>, host: HostId, number: u64) -> Answer<()> {
    let key = at(host, number);
    if let Some(old) = change.get(&EVENTS, &key)? {
        change.remove(&EVENT_IDS, &format!("{host}/{}", old.event.id))?;
        change.remove(&EVENTS, &key)?;
    }
    Ok(())
}

fn check(event: &Event) -> Answer<()> {
    for (field, len, max) in [
        ("id", event.id.len(), ID_MAX),
        ("kind", event.kind.len(), KIND_MAX),
        ("message", event.message.len(), MESSAGE_MAX),
    ] {
        if len > max || (len == 0 && field != "message") {
            let why = format!("an event's {field} has {len} bytes, 1 to {max} are allowed");
            return Err(Refusal::bad(FaultCode::EventInvalid, "events refused", why));
        }
    }
    Ok(())
}

/// A host's events, oldest first.
pub(super) fn list(rows: &impl Read, host: HostId) -> Answer<Value> {
    let events = rows.with_prefix(&EVENTS, &format!("{host}/"))?;
    Ok(events
        .into_iter()
        .map(|(_, e)| json!({"received_at": e.received_at, "event": e.event}))
        .collect())
}

/// Zero-padded, so that text order is number order.
fn at(host: HostId, number: u64) -> String {
    format!("{host}/{number:020}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::tables;
    use crate::store::Store;

    #[test]
    fn the_newest_events_are_kept_and_deduplicated() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&dir.path().join("s"), &tables()).expect("store");
        let now = Timestamp::from_second(1_800_000_000).expect("time");
        let host = HostId::random();
        let event = |n: u64| Event {
            id: format!("b-{n}"),
            seq: None,
            at: now,
            kind: "state".into(),
            message: String::new(),
            fault: None,
        };
        let deliver = |from: u64, to: u64| {
            let batch = EventBatch {
                spool: None,
                events: (from..to).map(event).collect(),
            };
            let done: Answer<_> = store.write(|w| take(&mut Change::new(w, now), host, batch));
            done.expect("taken").len()
        };
        for start in (0..1200).step_by(200) {
            assert_eq!(deliver(start, start + 200), 200);
        }
        assert_eq!(deliver(1000, 1200), 0, "all of them were seen");
        let kept = store
            .read()
            .expect("read")
            .with_prefix(&EVENTS, "")
            .expect("rows");
        assert_eq!(kept.len() as u64, KEPT);
        assert_eq!(kept[0].1.event.id, "b-200");
        let ids = store
            .read()
            .expect("read")
            .with_prefix(&EVENT_IDS, "")
            .expect("rows");
        assert_eq!(ids.len() as u64, KEPT, "what is forgotten leaves no trace");
    }

    #[test]
    fn missing_numbers_count_whatever_the_spool_is_called_and_smaller_ones_begin_anew() {
        let spool = Uuid::from_u128(1);
        let mark = |seq| Some(EventMark { spool, seq });
        assert_eq!(missing(mark(4), 8), Some(3));
        assert_eq!(missing(mark(4), 5), None);
        assert_eq!(missing(mark(4), 1), None, "installed again");
        assert_eq!(missing(None, 8), None, "the first that is heard of it");
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let now = Timestamp::from_second(0).expect("time");
        let good = Event {
            id: "a".into(),
            seq: None,
            at: now,
            kind: "k".into(),
            message: String::new(),
            fault: None,
        };
        assert!(check(&good).is_ok());
        for bad in [
            Event {
                id: String::new(),
                ..good.clone()
            },
            Event {
                id: "x".repeat(ID_MAX + 1),
                ..good.clone()
            },
            Event {
                kind: "x".repeat(KIND_MAX + 1),
                ..good.clone()
            },
            Event {
                message: "x".repeat(MESSAGE_MAX + 1),
                ..good.clone()
            },
        ] {
            assert!(check(&bad).is_err());
        }
    }
}
