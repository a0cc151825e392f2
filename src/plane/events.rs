//! Events of hosts: each kept once, the newest thousand per host.

use serde_json::{Value, json};

use super::records::{EVENT_IDS, EVENT_NEXT, EVENTS, ReceivedEvent};
use super::refusal::{Answer, Refusal};
use super::state::Change;
use super::store::Read;
use crate::model::{EVENT_BATCH_MAX, Event, FaultCode, HostId};

/// Kept per host; a host that flaps for a day stays below.
const KEPT: u64 = 1000;
/// Longest id, kind and message.
const ID_MAX: usize = 128;
const KIND_MAX: usize = 64;
const MESSAGE_MAX: usize = 4096;

/// Takes in what a host delivered. What was seen before is dropped; answers how many were new.
pub(super) fn take(change: &mut Change<'_>, host: HostId, events: Vec<Event>) -> Answer<usize> {
    if events.len() > EVENT_BATCH_MAX {
        let why = format!("{} events, at most {EVENT_BATCH_MAX}", events.len());
        return Err(Refusal::bad(
            FaultCode::BatchTooLarge,
            "events refused",
            why,
        ));
    }
    let mut next = change.get(&EVENT_NEXT, &host.to_string())?.unwrap_or(0);
    let mut taken = 0;
    for event in events {
        check(&event)?;
        let seen = format!("{host}/{}", event.id);
        if change.get(&EVENT_IDS, &seen)?.is_some() {
            continue;
        }
        let received_at = change.now;
        change.put(&EVENT_IDS, &seen, &next)?;
        change.put(
            &EVENTS,
            &at(host, next),
            &ReceivedEvent { received_at, event },
        )?;
        if let Some(old) = next.checked_sub(KEPT) {
            forget(change, host, old)?;
        }
        next += 1;
        taken += 1;
    }
    change.put(&EVENT_NEXT, &host.to_string(), &next)?;
    Ok(taken)
}

/// What the plane itself has to say of a host, for as long as it is known.
pub(super) fn note(change: &mut Change<'_>, host: HostId, kind: &str, said: &str) -> Answer<()> {
    let event = Event {
        id: format!("plane-{}", uuid::Uuid::new_v4().simple()),
        at: change.now,
        kind: kind.to_owned(),
        message: cut(said).to_owned(),
        fault: None,
    };
    take(change, host, vec![event]).map(drop)
}

/// As much as a message may hold.
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

/// What is kept of a host, oldest first.
pub(super) fn list(rows: &impl Read, host: HostId) -> Answer<Value> {
    let events = rows.with_prefix(&EVENTS, &format!("{host}/"))?;
    Ok(events
        .into_iter()
        .map(|(_, e)| json!({"received_at": e.received_at, "event": e.event}))
        .collect())
}

/// Zero-padded, so that the order of text is the order of numbers.
fn at(host: HostId, number: u64) -> String {
    format!("{host}/{number:020}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use crate::plane::records::tables;
    use crate::plane::store::Store;

    #[test]
    fn the_newest_are_kept_and_what_is_kept_is_known() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&dir.path().join("s"), &tables()).expect("store");
        let now = Timestamp::from_second(1_800_000_000).expect("time");
        let host = HostId::random();
        let event = |n: u64| Event {
            id: format!("b-{n}"),
            at: now,
            kind: "state".into(),
            message: String::new(),
            fault: None,
        };
        let deliver = |from: u64, to: u64| {
            let events = (from..to).map(event).collect();
            let done: Answer<usize> = store.write(|w| take(&mut Change::new(w, now), host, events));
            done.expect("taken")
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
    fn what_is_too_long_is_refused() {
        let now = Timestamp::from_second(0).expect("time");
        let good = Event {
            id: "a".into(),
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
