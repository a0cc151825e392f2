//! What is known about the tunnel, for people and for our other daemons.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::sessions::{Live, Sessions};
use crate::model::{
    Envelope, Expiry, Fault, FaultCode, STATUS_SCHEMA, STREAMS_SHOWN_MAX, SessionEnd, SessionKind,
    SessionState, SessionStatus, StreamClass, StreamDirection, StreamStatus, TRUST_ANSWER_MAX,
    TunnelState, TunnelStatus, TunnelStreams,
};
use crate::wire::Class;

/// What changes with the connections; the numbers come from the sessions when asked.
pub(super) struct StatusBoard {
    known: Mutex<Known>,
    /// Certificates of the tunnel itself.
    certificates: Mutex<Vec<Expiry>>,
    sessions: Arc<Sessions>,
}

struct Known {
    slots: Vec<Slot>,
    /// Ends and failed tries by the code of their fault: a closed list of words.
    failures: BTreeMap<FaultCode, u64>,
    /// What the plane ordered as it refused this machine.
    orders: Vec<Envelope>,
}

#[derive(Clone)]
struct Slot {
    state: SlotState,
    endpoint: Option<String>,
    connects: u64,
    last_contact: Option<Timestamp>,
    last_end: Option<SessionEnd>,
}

#[derive(Clone, Copy)]
enum SlotState {
    Connecting,
    Connected { since: Timestamp },
    Waiting { next_try: Timestamp },
}

// === impl StatusBoard ===

impl StatusBoard {
    pub(super) fn new(slots: u8, sessions: Arc<Sessions>) -> Self {
        let fresh = Slot {
            state: SlotState::Connecting,
            endpoint: None,
            connects: 0,
            last_contact: None,
            last_end: None,
        };
        Self {
            known: Mutex::new(Known {
                slots: vec![fresh; usize::from(slots)],
                failures: BTreeMap::new(),
                orders: Vec::new(),
            }),
            certificates: Mutex::default(),
            sessions,
        }
    }

    /// When the certificates of the tunnel end, and what is done about it.
    pub(super) fn certificates(&self, all: Vec<Expiry>) {
        *self.lock_certificates() = all;
    }

    pub(super) fn connecting(&self, slot: u8, endpoint: &str) {
        self.change(slot, |s| {
            s.state = SlotState::Connecting;
            s.endpoint = Some(endpoint.to_owned());
        });
    }

    pub(super) fn connected(&self, slot: u8, since: Timestamp) {
        self.change(slot, |s| {
            s.state = SlotState::Connected { since };
            s.connects += 1;
            s.last_contact = Some(since);
        });
        self.lock().orders.clear();
    }

    /// The plane refused this machine with these orders, or without any.
    pub(super) fn ordered(&self, mut orders: Vec<Envelope>) {
        orders.truncate(TRUST_ANSWER_MAX);
        self.lock().orders = orders;
    }

    pub(super) fn waiting(&self, slot: u8, endpoint: Option<&String>, next_try: Timestamp) {
        self.change(slot, |s| {
            s.state = SlotState::Waiting { next_try };
            s.endpoint = endpoint.cloned();
        });
    }

    /// A session or a try ended; `was_up`: the plane was reachable until now.
    pub(super) fn ended(&self, slot: u8, fault: Fault, was_up: bool) {
        let at = crate::seam::clock::now();
        let code = fault.code;
        self.change(slot, |s| {
            if let Some(next_try) = fault.next_try {
                s.state = SlotState::Waiting { next_try };
            }
            if was_up {
                s.last_contact = Some(at);
            }
            s.last_end = Some(SessionEnd { at, fault });
        });
        *self.lock().failures.entry(code).or_default() += 1;
    }

    /// Ends and failed tries so far, by the code of their fault.
    pub(super) fn failures(&self) -> BTreeMap<FaultCode, u64> {
        self.lock().failures.clone()
    }

    pub(super) fn status(&self, now: Timestamp) -> TunnelStatus {
        let live = self.sessions.all();
        let (slots, orders) = {
            let known = self.lock();
            (known.slots.clone(), known.orders.clone())
        };
        let mut sessions = Vec::new();
        for (number, slot) in (0u8..).zip(&slots) {
            let current = live
                .iter()
                .rev()
                .find(|l| l.slot == number && l.draining_until().is_none());
            sessions.push(slot.status(number, current, now));
            let old = live
                .iter()
                .filter(|l| l.slot == number && l.draining_until().is_some());
            sessions.extend(old.map(|l| draining(slot, l, now)));
        }
        TunnelStatus {
            orders,
            certificates: self.lock_certificates().clone(),
            ..summary(sessions)
        }
    }

    pub(super) fn streams(&self, now: Timestamp) -> TunnelStreams {
        let mut all = Vec::new();
        let mut open = 0;
        for live in self.sessions.all() {
            open += live.handle.stats().streams;
            let names = live.names();
            let room = STREAMS_SHOWN_MAX - all.len();
            for numbers in live.handle.streams(room) {
                let name = names.get(&numbers.stream.0);
                all.push(StreamStatus {
                    session: live.number,
                    stream: numbers.stream.0,
                    endpoint: live.endpoint.clone(),
                    service: name.map(|n| n.service.clone()).unwrap_or_default(),
                    who: name.map(|n| n.who.clone()).unwrap_or_default(),
                    direction: match numbers.local {
                        true => StreamDirection::ToPlane,
                        false => StreamDirection::ToNode,
                    },
                    class: match numbers.class {
                        Class::Interactive => StreamClass::Interactive,
                        Class::Bulk => StreamClass::Bulk,
                    },
                    // Refused or dialled just now: it has no name yet.
                    opened_at: name.map_or(now, |n| n.opened_at),
                    window: numbers.window,
                    queued: numbers.queued,
                    bytes_in: numbers.bytes_in,
                    bytes_out: numbers.bytes_out,
                });
            }
        }
        TunnelStreams {
            schema: STATUS_SCHEMA,
            taken_at: now,
            open,
            streams: all,
        }
    }

    fn change(&self, slot: u8, change: impl FnOnce(&mut Slot)) {
        let mut known = self.lock();
        if let Some(slot) = known.slots.get_mut(usize::from(slot)) {
            change(slot);
        }
        crate::app::tell(&line(&known.slots));
    }

    fn lock_certificates(&self) -> MutexGuard<'_, Vec<Expiry>> {
        self.certificates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For `systemctl status`.
fn line(slots: &[Slot]) -> String {
    let up = slots
        .iter()
        .find(|s| matches!(s.state, SlotState::Connected { .. }));
    let endpoint = |slot: &Slot| {
        slot.endpoint
            .clone()
            .unwrap_or_else(|| "the plane".to_owned())
    };
    if let Some(slot) = up {
        return format!("connected to {}", endpoint(slot));
    }
    let next = slots.iter().filter_map(|slot| match slot.state {
        SlotState::Waiting { next_try } => Some((next_try, slot)),
        SlotState::Connecting | SlotState::Connected { .. } => None,
    });
    match (next.min_by_key(|(at, _)| *at), slots.first()) {
        (Some((at, slot)), _) => {
            let why = slot
                .last_end
                .as_ref()
                .map_or("no connection", |end| end.fault.why.as_str());
            format!("not connected: {why}; next try at {at:.0}")
        }
        (None, Some(slot)) => format!("connecting to {}", endpoint(slot)),
        (None, None) => String::new(),
    }
}

// === impl Slot ===

impl Slot {
    fn status(&self, number: u8, live: Option<&Arc<Live>>, now: Timestamp) -> SessionStatus {
        let mut status = SessionStatus {
            slot: number,
            endpoint: self.endpoint.clone(),
            state: match self.state {
                SlotState::Connecting => SessionState::Connecting,
                SlotState::Connected { since } => SessionState::Connected { since },
                SlotState::Waiting { next_try } => SessionState::Waiting { next_try },
            },
            kind: SessionKind::Full,
            rtt_us: None,
            jitter_us: None,
            streams: 0,
            bytes_in: 0,
            bytes_out: 0,
            tcp: None,
            reconnects: self.connects.saturating_sub(1),
            last_contact: self.last_contact,
            last_end: self.last_end.clone(),
        };
        match (self.state, live) {
            (SlotState::Connected { .. }, Some(live)) => numbers(&mut status, live, now),
            (SlotState::Connected { .. }, None)
            | (SlotState::Connecting | SlotState::Waiting { .. }, _) => {}
        }
        status
    }
}

/// A session that finishes its streams beside the one of its slot.
fn draining(slot: &Slot, live: &Arc<Live>, now: Timestamp) -> SessionStatus {
    let mut status = slot.status(live.slot, None, now);
    status.endpoint = Some(live.endpoint.clone());
    status.last_end = None;
    status.state = SessionState::Draining {
        since: live.since,
        until: live.draining_until().unwrap_or(now),
    };
    numbers(&mut status, live, now);
    status
}

fn numbers(status: &mut SessionStatus, live: &Live, now: Timestamp) {
    status.last_contact = now.checked_sub(live.handle.silence()).ok();
    status.kind = live.kind;
    let stats = live.handle.stats();
    let micros = |d: std::time::Duration| u64::try_from(d.as_micros()).ok();
    status.rtt_us = stats.round_trip.and_then(micros);
    status.jitter_us = stats.round_trip.and_then(|_| micros(stats.jitter));
    status.streams = stats.streams;
    status.bytes_in = stats.bytes_in;
    status.bytes_out = stats.bytes_out;
    status.tcp = live.kernel();
}

/// All sessions in one word: pure.
fn summary(sessions: Vec<SessionStatus>) -> TunnelStatus {
    // What says most about the tunnel first: the longest up, then who dials, then who waits least.
    let rank = |s: &SessionStatus| match s.state {
        SessionState::Connected { since } => (0, since),
        SessionState::Connecting => (1, Timestamp::MIN),
        SessionState::Waiting { next_try } => (2, next_try),
        SessionState::Draining { since, .. } => (3, since),
    };
    let best = sessions.iter().min_by_key(|s| rank(s));
    let state = best.map_or(TunnelState::NotEnrolled, |s| match s.state {
        SessionState::Connected { since } => TunnelState::Connected { since },
        SessionState::Connecting | SessionState::Draining { .. } => TunnelState::Connecting,
        SessionState::Waiting { next_try } => TunnelState::Waiting { next_try },
    });
    let newest = sessions.iter().filter_map(|s| s.last_end.as_ref());
    let newest = newest.max_by_key(|end| end.at);
    TunnelStatus {
        schema: STATUS_SCHEMA,
        state,
        endpoint: best.and_then(|s| s.endpoint.clone()),
        rtt_us: best.and_then(|s| s.rtt_us),
        streams: sessions.iter().map(|s| s.streams).sum(),
        bytes_in: sessions.iter().map(|s| s.bytes_in).sum(),
        bytes_out: sessions.iter().map(|s| s.bytes_out).sum(),
        last_contact: sessions.iter().filter_map(|s| s.last_contact).max(),
        last_fault: newest.map(|end| end.fault.clone()),
        sessions,
        orders: Vec::new(),
        certificates: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).expect("time")
    }

    fn session(slot: u8, state: SessionState) -> SessionStatus {
        SessionStatus {
            slot,
            endpoint: Some(format!("wss://{slot}")),
            state,
            kind: SessionKind::Full,
            rtt_us: Some(u64::from(slot) + 1),
            jitter_us: None,
            streams: 1,
            bytes_in: 10,
            bytes_out: 20,
            tcp: None,
            reconnects: 0,
            last_contact: Some(at(i64::from(slot))),
            last_end: Some(SessionEnd {
                at: at(i64::from(slot)),
                fault: Fault::new(FaultCode::Internal, format!("end of {slot}"), ""),
            }),
        }
    }

    #[test]
    fn one_line_says_how_it_is_and_when_it_is_tried_again() {
        let slot = |state| Slot {
            state,
            endpoint: Some("wss://a".into()),
            connects: 0,
            last_contact: None,
            last_end: None,
        };
        let (up, dials) = (SlotState::Connected { since: at(1) }, SlotState::Connecting);
        assert_eq!(line(&[slot(dials), slot(up)]), "connected to wss://a");
        assert_eq!(line(&[slot(dials)]), "connecting to wss://a");
        let waits = |s| slot(SlotState::Waiting { next_try: at(s) });
        let mut first = waits(7);
        first.last_end = Some(SessionEnd {
            at: at(1),
            fault: Fault::new(FaultCode::PlaneBusy, "cannot connect", "it answered 503"),
        });
        let said = line(&[waits(9), first]);
        assert!(
            said.starts_with("not connected: it answered 503; next try at ")
                && said.ends_with(":07Z"),
            "{said}"
        );
    }

    #[test]
    fn one_session_that_is_up_is_a_tunnel() {
        let all = summary(vec![
            session(0, SessionState::Waiting { next_try: at(50) }),
            session(1, SessionState::Connected { since: at(9) }),
        ]);
        assert_eq!(all.state, TunnelState::Connected { since: at(9) });
        assert_eq!(
            (all.endpoint.as_deref(), all.rtt_us),
            (Some("wss://1"), Some(2))
        );
        assert_eq!((all.streams, all.bytes_in, all.bytes_out), (2, 20, 40));
        assert_eq!(all.last_fault.expect("fault").what, "end of 1");
    }

    #[test]
    fn without_one_the_next_try_counts_and_an_old_session_is_none() {
        let all = summary(vec![
            session(0, SessionState::Waiting { next_try: at(50) }),
            session(1, SessionState::Waiting { next_try: at(40) }),
        ]);
        assert_eq!(all.state, TunnelState::Waiting { next_try: at(40) });
        let draining = SessionState::Draining {
            since: at(1),
            until: at(99),
        };
        let all = summary(vec![
            session(0, SessionState::Waiting { next_try: at(50) }),
            session(0, draining),
        ]);
        assert_eq!(all.state, TunnelState::Waiting { next_try: at(50) });
        assert_eq!(summary(Vec::new()).state, TunnelState::NotEnrolled);
    }
}
