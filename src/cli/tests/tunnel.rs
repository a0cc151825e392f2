use super::super::output::Show;
use super::super::tunnel::ping::{Tallies, round};
use super::super::tunnel::sessions::Sessions;
use super::super::tunnel::top::rates;
use super::*;
use crate::local::Method;
use crate::model::{
    FaultCode, STATUS_SCHEMA, SessionEnd, SessionKind, SessionPing, SessionState, SessionStatus,
    StreamClass, StreamDirection, StreamStatus, TcpStatus, Timestamp, TunnelPing, TunnelState,
    TunnelStatus, TunnelStreams, paths,
};

fn at(text: &str) -> Timestamp {
    format!("2026-11-21T{text}Z").parse().expect("time")
}

fn end(text: &str) -> SessionEnd {
    let why = "the plane answered 503 Service Unavailable";
    SessionEnd {
        at: at(text),
        fault: Fault::new(
            FaultCode::PlaneBusy,
            "cannot connect to wss://b.example:8443",
            why,
        )
        .fix("nothing to do: it is retried automatically"),
    }
}

fn session(slot: u8, state: SessionState) -> SessionStatus {
    let name = if slot == 0 { "a" } else { "b" };
    SessionStatus {
        slot,
        endpoint: Some(format!("wss://{name}.example:8443/v1/tunnel")),
        state,
        kind: SessionKind::Full,
        rtt_us: Some(4100),
        jitter_us: Some(230),
        streams: 3,
        bytes_in: 1_300_000,
        bytes_out: 3_500,
        tcp: Some(TcpStatus {
            rtt_us: 3900,
            rttvar_us: 400,
            cwnd: 10,
            unacked: 2,
            lost: 0,
            retransmits: 5,
        }),
        reconnects: 2,
        last_contact: Some(at("09:59:58")),
        last_end: None,
    }
}

pub(super) fn sessions() -> TunnelStatus {
    let (since, until) = (at("06:47:00"), at("10:04:00"));
    let mut waiting = session(
        1,
        SessionState::Waiting {
            next_try: at("10:00:41"),
        },
    );
    waiting.last_end = Some(end("09:59:50"));
    TunnelStatus {
        schema: STATUS_SCHEMA,
        orders: Vec::new(),
        state: TunnelState::Connected { since },
        endpoint: Some("wss://a.example:8443/v1/tunnel".into()),
        rtt_us: Some(4100),
        streams: 3,
        bytes_in: 1,
        bytes_out: 2,
        last_contact: Some(at("09:59:58")),
        last_fault: Some(end("09:59:50").fault),
        sessions: vec![
            session(0, SessionState::Connected { since }),
            SessionStatus {
                streams: 1,
                reconnects: 0,
                ..session(0, SessionState::Draining { since, until })
            },
            waiting,
        ],
        certificates: Vec::new(),
    }
}

/// One that is up, for the renewal only.
pub(super) fn renewing() -> TunnelStatus {
    let mut tunnel = sessions();
    tunnel.sessions.truncate(1);
    tunnel.sessions[0].kind = SessionKind::RenewalOnly;
    tunnel
}

fn stream(number: u32, service: &str, bytes: u64) -> StreamStatus {
    StreamStatus {
        session: 1,
        stream: number,
        endpoint: "wss://a.example:8443/v1/tunnel".into(),
        service: service.into(),
        who: match number % 2 {
            0 => "admin@pf9.local".into(),
            _ => String::new(),
        },
        direction: match number % 2 {
            0 => StreamDirection::ToNode,
            _ => StreamDirection::ToPlane,
        },
        class: match number % 2 {
            0 => StreamClass::Interactive,
            _ => StreamClass::Bulk,
        },
        opened_at: at("09:58:00"),
        window: 32 * 1024,
        queued: 700,
        bytes_in: bytes,
        bytes_out: bytes * 3,
    }
}

fn looks() -> (TunnelStreams, TunnelStreams) {
    let before = TunnelStreams {
        schema: STATUS_SCHEMA,
        taken_at: at("10:00:00"),
        open: 2,
        streams: vec![stream(2, "kubelet", 500), stream(3, "host-api", 1_000)],
    };
    let after = TunnelStreams {
        taken_at: at("10:00:02"),
        open: 700,
        streams: vec![
            stream(2, "kubelet", 500),
            stream(3, "host-api", 2_001_000),
            stream(4, "kube-apiserver-with-a-long-name", 4_096),
        ],
        ..before.clone()
    };
    (before, after)
}

#[test]
fn tunnel_screens_are_the_reviewed_ones() {
    let report = Sessions {
        taken_at: at("10:00:00"),
        tunnel: sessions(),
    };
    golden("tunnel-status.txt", &report.screen(100).text(false));
    let json = serde_json::to_string_pretty(&report).expect("json");
    golden("tunnel-status.json", &format!("{json}\n"));

    let ping = |slot: u8, rtt_us| SessionPing {
        session: u64::from(slot) + 1,
        slot,
        endpoint: format!("wss://{slot}.example/v1/tunnel"),
        rtt_us,
    };
    let mut text = String::new();
    let mut tallies = Tallies::default();
    let rounds = [
        vec![ping(0, Some(4_100)), ping(1, Some(900))],
        vec![ping(0, Some(4_300)), ping(1, None)],
        Vec::new(),
    ];
    for (seq, sessions) in (1..).zip(rounds) {
        text.push_str(&round(seq, &sessions).text(false));
        sessions.into_iter().for_each(|s| tallies.add(s));
    }
    text.push_str(&tallies.report().screen(100).text(false));
    golden("tunnel-ping.txt", &text);

    let (before, after) = looks();
    let top = rates(Some(&before), after.clone());
    golden("tunnel-top.txt", &top.screen(100).text(false));
    let mut narrow = rates(None, after);
    narrow.room = 2;
    let narrow = narrow.screen(60).text(false);
    golden("tunnel-top-narrow.txt", &narrow);
    assert!(narrow.lines().all(|l| l.chars().count() <= 60));
}

#[test]
fn rates_are_differences_over_the_time_between() {
    let (before, after) = looks();
    let value = serde_json::to_value(rates(Some(&before), after)).expect("json");
    let rows = value["streams"].as_array().expect("rows");
    let seen: Vec<_> = rows
        .iter()
        .map(|r| {
            (
                r["stream"].as_u64(),
                r["in_per_s"].as_u64(),
                r["out_per_s"].as_u64(),
            )
        })
        .collect();
    let want = [
        (Some(3), Some(1_000_000), Some(3_000_000)),
        (Some(4), Some(2_048), Some(6_144)),
        (Some(2), Some(0), Some(0)),
    ];
    assert_eq!(seen, want);
    // A clock that stood still divides by nothing.
    let (before, _) = looks();
    rates(Some(&before), before.clone());
}

#[tokio::test]
async fn ping_counts_what_it_sent_and_says_how_it_went() {
    let rig = Rig::new();
    let answers = Shared::new(vec![Some(2_000), Some(4_000), None]);
    let left = answers.clone();
    rig.serve(paths::COMMS_SOCKET, move |request| {
        assert_eq!(
            (&request.method, request.path.as_str()),
            (&Method::POST, "/v1/ping")
        );
        let mut rest = left.get();
        let rtt_us = rest.remove(0);
        left.set(rest);
        ok_json(&TunnelPing {
            schema: STATUS_SCHEMA,
            sessions: vec![SessionPing {
                session: 1,
                slot: 0,
                endpoint: "wss://a.example/v1/tunnel".into(),
                rtt_us,
            }],
        })
    });
    let ran = rig.run(&["tunnel", "ping", "-c", "3", "-i", "0.01"]).await;
    assert_eq!(ran.exit, Exit::Ok);
    for line in [
        "session 0 wss://a.example: seq=1 time=2.000 ms\n",
        "session 0 wss://a.example: seq=3 no answer\n",
        "3 sent, 2 answered, 33% lost\n",
        "rtt min/avg/max/mdev = 2.000/3.000/4.000/1.000 ms\n",
    ] {
        assert!(ran.text.contains(line), "{line} not in\n{}", ran.text);
    }
    assert_eq!(answers.get(), Vec::new());
}

#[tokio::test]
async fn without_a_session_ping_and_status_say_so_in_their_exit_code() {
    let mut rig = Rig::new();
    rig.json = true;
    rig.file(paths::HOST_CERT, "a host");
    let silent = rig.run(&["tunnel", "status", "--json"]).await;
    assert_eq!(silent.exit, Exit::Unavailable);
    let mut down = sessions();
    down.sessions.truncate(0);
    rig.serve(paths::COMMS_SOCKET, move |request| {
        match request.path.as_str() {
            "/v1/ping" => ok_json(&TunnelPing {
                schema: STATUS_SCHEMA,
                sessions: Vec::new(),
            }),
            _ => ok_json(&down),
        }
    });
    let ran = rig.run(&["tunnel", "ping", "-c", "1", "--json"]).await;
    assert_eq!(ran.exit, Exit::Unavailable);
    let value: serde_json::Value = serde_json::from_str(&ran.text).expect("one value");
    assert_eq!(value["sessions"], serde_json::json!([]));
    let ran = rig.run(&["tunnel", "status", "--json"]).await;
    assert_eq!(ran.exit, Exit::Unavailable);
}

#[tokio::test]
async fn top_ends_with_the_signal_and_once_is_one_screen() {
    let mut rig = Rig::new();
    let (before, _) = looks();
    rig.serve(paths::COMMS_SOCKET, move |request| {
        assert_eq!(request.path, "/v1/streams");
        let mut now = before.clone();
        now.taken_at = crate::seam::clock::now();
        ok_json(&now)
    });
    let ran = rig.run(&["tunnel", "top", "--once", "-i", "0.01"]).await;
    assert_eq!(ran.exit, Exit::Ok);
    assert_eq!(ran.text.matches("SERVICE").count(), 1, "{}", ran.text);
    assert!(!ran.text.contains('\x1b'), "plain where it is no terminal");

    let ctx = rig.context();
    ctx.stop.cancel();
    let ran = rig.run_in(&ctx, &["tunnel", "top"]).await;
    assert_eq!(ran.exit, Exit::Ok);
    assert!(ran.text.contains("kubelet"), "{}", ran.text);

    rig.json = true;
    let ran = rig.run(&["tunnel", "top", "--json", "-i", "0.01"]).await;
    let value: serde_json::Value = serde_json::from_str(&ran.text).expect("one value");
    assert_eq!(value["streams"][0]["in_per_s"], 0);
}

#[test]
fn intervals_have_bounds() {
    for bad in ["0", "-1", "x", "3601", "nan", "inf"] {
        let line = ["pf9ctl", "tunnel", "ping", "-i", bad];
        assert!(command().try_get_matches_from(line).is_err(), "{bad}");
    }
}
