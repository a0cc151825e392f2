//! The tunnel in Prometheus' text format: pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::model::document::AGENT_VERSION;
use crate::model::{FaultCode, SessionState, SessionStatus, TunnelStatus};
use crate::telemetry::{MetricKind as Kind, MetricsText as Text, vitals};

/// Why a stream was refused that no service was looked up for: too many were open or waited, or the
/// session was about to leave.
pub(super) const BY_SESSION: &str = "session-limit";

/// Everything that is counted.
pub(super) struct Numbers {
    pub(super) status: TunnelStatus,
    /// From and to the plane, since comms started.
    pub(super) bytes: (u64, u64),
    /// Ended sessions and failed tries by reason.
    pub(super) failures: BTreeMap<FaultCode, u64>,
    /// Refused streams by reason.
    pub(super) refusals: BTreeMap<&'static str, u64>,
}

impl Numbers {
    pub(super) fn text(&self, now: Timestamp) -> String {
        let mut text = Text::default();
        vitals(&mut text, "pf9-comms", AGENT_VERSION);
        self.sessions(&mut text, now);
        let all = &self.status.sessions;

        let m = "pf9_comms_reconnects_total";
        text.head(m, Kind::Counter, "Connections made after the first one.");
        for s in own(all) {
            text.row(m, &[("slot", &s.slot.to_string())], s.reconnects as f64);
        }
        let m = "pf9_comms_disconnects_total";
        text.head(
            m,
            Kind::Counter,
            "Sessions that ended and attempts that failed.",
        );
        for (reason, n) in &self.failures {
            text.row(m, &[("reason", reason.word())], *n as f64);
        }
        let m = "pf9_comms_refusals_total";
        text.head(m, Kind::Counter, "Streams of the plane that were refused.");
        for (reason, n) in &self.refusals {
            text.row(m, &[("reason", reason)], *n as f64);
        }
        let m = "pf9_comms_bytes_total";
        text.head(m, Kind::Counter, "Payload bytes of all sessions.");
        text.row(m, &[("direction", "in")], self.bytes.0 as f64);
        text.row(m, &[("direction", "out")], self.bytes.1 as f64);
        text.certificates(&self.status.certificates, now);
        let m = "pf9_comms_last_contact_age_seconds";
        text.head(m, Kind::Gauge, "Time since the plane was last heard.");
        if let Some(at) = self.status.last_contact {
            text.row(m, &[], now.duration_since(at).as_secs_f64().max(0.0));
        }
        text.into()
    }

    fn sessions(&self, text: &mut Text, now: Timestamp) {
        let all = &self.status.sessions;
        let m = "pf9_comms_sessions";
        text.head(m, Kind::Gauge, "Sessions by state.");
        for state in ["connected", "connecting", "draining", "waiting"] {
            let n = all.iter().filter(|s| word(s.state) == state).count();
            text.row(m, &[("state", state)], n as f64);
        }
        let until = |at: Timestamp| at.duration_since(now).as_secs_f64().max(0.0);
        type Value<'a> = &'a dyn Fn(&SessionStatus) -> Option<f64>;
        let rows: [(&str, &str, Value<'_>); 7] = [
            (
                "pf9_comms_rtt_seconds",
                "Smoothed round-trip time of pings.",
                &|s| s.rtt_us.map(seconds),
            ),
            (
                "pf9_comms_rtt_jitter_seconds",
                "Mean deviation of the round-trip time.",
                &|s| s.jitter_us.map(seconds),
            ),
            ("pf9_comms_streams", "Streams open now.", &|s| {
                Some(f64::from(s.streams))
            }),
            (
                "pf9_comms_tcp_retransmits",
                "Segments the kernel retransmitted on this connection.",
                &|s| s.tcp.map(|t| f64::from(t.retransmits)),
            ),
            (
                "pf9_comms_tcp_unacked",
                "Segments sent and not acknowledged.",
                &|s| s.tcp.map(|t| f64::from(t.unacked)),
            ),
            (
                "pf9_comms_tcp_rtt_seconds",
                "The kernel's round-trip time.",
                &|s| s.tcp.map(|t| seconds(t.rtt_us.into())),
            ),
            (
                "pf9_comms_next_try_seconds",
                "Time until a session that is down is dialled again.",
                &|s| match s.state {
                    SessionState::Waiting { next_try } => Some(until(next_try)),
                    SessionState::Connecting => Some(0.0),
                    SessionState::Connected { .. } | SessionState::Draining { .. } => None,
                },
            ),
        ];
        for (name, help, value) in rows {
            text.head(name, Kind::Gauge, help);
            // Old sessions of a slot would repeat its row: they are in the sums above.
            for s in own(all) {
                let (slot, place) = (s.slot.to_string(), s.endpoint.as_deref());
                let labels = [("slot", slot.as_str()), ("endpoint", place.unwrap_or(""))];
                if let Some(value) = value(s) {
                    text.row(name, &labels, value);
                }
            }
        }
    }
}

/// One a slot.
fn own(all: &[SessionStatus]) -> impl Iterator<Item = &SessionStatus> {
    let old = |s: &SessionStatus| matches!(s.state, SessionState::Draining { .. });
    all.iter().filter(move |s| !old(s))
}

fn word(state: SessionState) -> &'static str {
    match state {
        SessionState::Connecting => "connecting",
        SessionState::Connected { .. } => "connected",
        SessionState::Draining { .. } => "draining",
        SessionState::Waiting { .. } => "waiting",
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Expiry, Fault, STATUS_SCHEMA, SessionEnd, SessionKind, TcpStatus, TunnelState,
    };

    /// Reads the text as strictly as the format is written: every sample below its own HELP and
    /// TYPE, names and labels as allowed, no sample twice.
    fn parse(text: &str) -> BTreeMap<String, f64> {
        let name_ok = |n: &str| {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            !n.is_empty() && n.chars().all(word) && !n.starts_with(|c: char| c.is_ascii_digit())
        };
        assert!(text.ends_with('\n'), "the last line must end");
        let mut samples = BTreeMap::new();
        let (mut helped, mut family) = (Vec::new(), None);
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("help has words");
                assert!(name_ok(name) && !help.is_empty(), "{line}");
                assert!(!helped.contains(&name), "{name} twice");
                helped.push(name);
                family = None;
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("type has a word");
                assert_eq!(helped.last(), Some(&name), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(matches!(kind, "counter" | "gauge"), "{line}");
                family = Some(name);
            } else {
                let (key, value) = line.rsplit_once(' ').expect("a sample has a value");
                let (name, labels) = match key.split_once('{') {
                    Some((name, labels)) => (name, labels.strip_suffix('}').expect("closed")),
                    None => (key, ""),
                };
                assert_eq!(Some(name), family, "{line}");
                let mut rest = labels;
                while !rest.is_empty() {
                    let (label, after) = rest.split_once("=\"").expect("label");
                    assert!(name_ok(label), "{line}");
                    let (mut end, mut escaped) = (None, false);
                    for (at, c) in after.char_indices() {
                        match (escaped, c) {
                            (true, c) => {
                                assert!(matches!(c, '\\' | '"' | 'n'), "{line}");
                                escaped = false;
                            }
                            (false, '\\') => escaped = true,
                            (false, '"') => {
                                end = Some(at);
                                break;
                            }
                            (false, _) => {}
                        }
                    }
                    rest = &after[end.expect("value is closed") + 1..];
                    rest = match rest.strip_prefix(',') {
                        Some(more) => {
                            assert!(!more.is_empty(), "{line}");
                            more
                        }
                        None => {
                            assert!(rest.is_empty(), "{line}");
                            rest
                        }
                    };
                }
                let value: f64 = value.parse().expect("number");
                assert!(value.is_finite() && value >= 0.0, "{line}");
                assert_eq!(samples.insert(key.to_owned(), value), None, "{key} twice");
            }
        }
        samples
    }

    #[test]
    fn the_text_is_what_the_format_allows() {
        let at = |s| Timestamp::from_second(s).expect("time");
        let session = |slot: u8, state| SessionStatus {
            slot,
            endpoint: Some(format!("wss://a\"\\\n{slot}")),
            state,
            kind: SessionKind::Full,
            rtt_us: Some(4100),
            jitter_us: Some(200),
            streams: 3,
            bytes_in: 7,
            bytes_out: 8,
            tcp: Some(TcpStatus {
                retransmits: 5,
                ..TcpStatus::default()
            }),
            reconnects: 2,
            last_contact: Some(at(90)),
            last_end: Some(SessionEnd {
                at: at(1),
                fault: Fault::new(FaultCode::Internal, "x", "x"),
            }),
        };
        let (since, until) = (at(10), at(700));
        let numbers = Numbers {
            status: TunnelStatus {
                schema: STATUS_SCHEMA,
                orders: Vec::new(),
                state: TunnelState::Connected { since },
                endpoint: None,
                rtt_us: None,
                streams: 0,
                bytes_in: 0,
                bytes_out: 0,
                last_contact: Some(at(90)),
                last_fault: None,
                sessions: vec![
                    session(0, SessionState::Connected { since }),
                    session(0, SessionState::Draining { since, until }),
                    session(1, SessionState::Waiting { next_try: until }),
                ],
                certificates: vec![
                    Expiry::new("host", at(95)),
                    Expiry::new("plane-ca", at(1_800_000_000)),
                ],
            },
            bytes: (1000, 2000),
            failures: BTreeMap::from([(FaultCode::PlaneBusy, 4)]),
            refusals: BTreeMap::from([("not-allowed", 6)]),
        };
        let text = numbers.text(at(100));
        crate::telemetry::testing::promtool(&text);
        let samples = parse(&text);
        let want = [
            ("pf9_comms_sessions{state=\"connected\"}", 1.0),
            ("pf9_comms_sessions{state=\"draining\"}", 1.0),
            ("pf9_comms_sessions{state=\"waiting\"}", 1.0),
            ("pf9_comms_reconnects_total{slot=\"0\"}", 2.0),
            ("pf9_comms_disconnects_total{reason=\"plane-busy\"}", 4.0),
            ("pf9_comms_refusals_total{reason=\"not-allowed\"}", 6.0),
            ("pf9_comms_bytes_total{direction=\"in\"}", 1000.0),
            ("pf9_comms_last_contact_age_seconds", 10.0),
            (
                "pf9_certificate_not_after_seconds{name=\"plane-ca\"}",
                1.8e9,
            ),
            ("pf9_certificate_not_renewed{name=\"host\"}", 1.0),
            ("pf9_certificate_not_renewed{name=\"plane-ca\"}", 0.0),
            (
                "pf9_comms_next_try_seconds{slot=\"1\",endpoint=\"wss://a\\\"\\\\\\n1\"}",
                600.0,
            ),
            (
                "pf9_comms_rtt_seconds{slot=\"0\",endpoint=\"wss://a\\\"\\\\\\n0\"}",
                0.0041,
            ),
        ];
        for (key, value) in want {
            assert_eq!(samples.get(key), Some(&value), "{key}");
        }
        let next = |k: &&String| k.starts_with("pf9_comms_next_try_seconds");
        let next = samples.keys().filter(next).count();
        assert_eq!(next, 1, "who is connected dials nobody");
    }
}
