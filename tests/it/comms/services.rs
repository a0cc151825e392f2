//! Streams of the plane to services of this machine: permissions, rates, and the audit log.

use pf9_hostagent::host::fs::{Attrs, HostFs};
use pf9_hostagent::model::paths;
use pf9_hostagent::mux::Handle;
use pf9_hostagent::wire::{Class, Meta};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::Comms;
use super::peer::{Peer, World};
use crate::support::within;

/// A service of this machine that echoes; returns its allow-list entry.
pub(super) async fn echo(tasks: &mut JoinSet<()>, name: &str, more: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tasks.spawn(async move {
        let mut running = JoinSet::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            while running.try_join_next().is_some() {}
            running.spawn(async move {
                let (mut from, mut to) = socket.split();
                drop(tokio::io::copy(&mut from, &mut to).await);
            });
        }
    });
    format!("[[service]]\nname = \"{name}\"\nconnect = \"{address}\"\n{more}\n")
}

pub(super) async fn ask(tunnel: &Handle, service: &str, who: &str) -> Result<(), String> {
    let meta = Meta::from([("who".to_owned(), who.to_owned())]);
    let mut stream = tunnel
        .open(service, Class::Interactive, meta)
        .map_err(|e| e.to_string())?;
    let mut answer = [0; 4];
    let exchange = async {
        stream.write_all(b"ping").await?;
        stream.read_exact(&mut answer).await
    };
    within(exchange).await.map_err(|e| e.to_string())?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

#[tokio::test]
async fn services_say_who_how_often_and_for_how_long() {
    let world = World::new();
    let peer = Peer::start(&world).await;
    world.enrol(&[&peer]);
    let mut tasks = JoinSet::new();
    let list = [
        echo(&mut tasks, "for-a", "who = [\"a\"]").await,
        echo(&mut tasks, "slow", "opens_per_s = 1").await,
        echo(&mut tasks, "brief", "idle_s = 1").await,
    ];
    let file = "/etc/pf9/services.d/test.toml";
    world
        .fs
        .write(file, list.concat().as_bytes(), &Attrs::mode(0o644))
        .expect("write");
    let comms = Comms::start(&world.fs).await;
    let state = peer.until(|s| s.sessions.len() == 1).await;
    let tunnel = &state.sessions[0].handle;

    ask(tunnel, "for-a", "a").await.expect("a may");
    let refused = ask(tunnel, "for-a", "b").await.expect_err("b may not");
    assert!(refused.contains("not-allowed"), "{refused}");
    ask(tunnel, "slow", "a").await.expect("the first");
    let refused = ask(tunnel, "slow", "a").await.expect_err("the second");
    assert!(refused.contains("too-many"), "{refused}");

    let mut idle = tunnel
        .open("brief", Class::Interactive, Meta::new())
        .expect("open");
    idle.write_all(b"x").await.expect("write");
    assert_eq!(within(idle.read_u8()).await.expect("echo"), b'x');
    let end = within(idle.read_u8()).await.expect_err("silence ends it");
    assert_eq!(end.kind(), std::io::ErrorKind::TimedOut, "{end}");

    // A stream that is open when the tunnel breaks is in the audit log as well.
    let mut open = tunnel
        .open(
            "for-a",
            Class::Interactive,
            Meta::from([
                ("who".into(), "a".into()),
                ("trace".into(), "request-7".into()),
            ]),
        )
        .expect("open");
    open.write_all(b"12345").await.expect("write");
    within(open.read_exact(&mut [0; 5])).await.expect("echo");
    let metrics = metrics(&world.fs).await;
    for row in [
        "pf9_comms_sessions{state=\"connected\"} 1\n",
        "pf9_comms_refusals_total{reason=\"not-allowed\"} 1\n",
        "pf9_comms_refusals_total{reason=\"too-many\"} 1\n",
        "pf9_comms_reconnects_total{slot=\"0\"} 0\n",
    ] {
        assert!(metrics.contains(row), "{row} not in\n{metrics}");
    }
    tunnel.close(pf9_hostagent::wire::Code::Cancelled, "test");
    comms
        .until(|s| s.sessions.iter().all(|s| s.last_end.is_some()))
        .await;
    comms.stop().await;
    let log = world.fs.at(paths::LOG_DIR).join("comms/audit.log");
    let log = std::fs::read_to_string(log).expect("audit log");
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|l| serde_json::from_str(l).expect("json"))
        .collect();
    // About each stream, and nothing of its content.
    for line in &lines {
        let mut keys = line.as_object().expect("object").keys();
        let metadata = "at what stream service who trace why bytes_in bytes_out more";
        assert!(keys.all(|k| metadata.split(' ').any(|m| m == k)), "{line}");
    }
    assert!(!log.contains("12345") && !log.contains("ping"), "{log}");
    let opened = lines.iter().filter(|l| l["what"] == "open").count();
    let closed = lines.iter().filter(|l| l["what"] == "close").count();
    assert_eq!(
        (opened, closed),
        (4, 4),
        "every open, and how it ended: {log}"
    );
    let why = |what: &str, text: &str| {
        let found = lines
            .iter()
            .find(|l| l["what"] == what && l["why"].as_str().unwrap_or_default().contains(text));
        found.unwrap_or_else(|| panic!("{what} {text} not in\n{log}"))
    };
    assert_eq!(why("refuse", "\"b\" may not open it")["service"], "for-a");
    assert_eq!(
        why("refuse", "more than 1 streams were opened")["service"],
        "slow"
    );
    let idle = why("close", "idle for 1 s");
    assert_eq!(
        (&idle["bytes_in"], &idle["bytes_out"]),
        (&1.into(), &1.into())
    );
    let cut = why("close", "the tunnel is down");
    assert_eq!(cut["trace"], "request-7");
    assert_eq!(
        (&cut["bytes_in"], &cut["bytes_out"]),
        (&5.into(), &5.into())
    );
}

/// A caller that is refused and returns immediately must not fill the log.
#[tokio::test]
async fn refusals_that_are_alike_are_one_line_and_a_number() {
    let world = World::new();
    let peer = Peer::start(&world).await;
    world.enrol(&[&peer]);
    let comms = Comms::start(&world.fs).await;
    let state = peer.until(|s| s.sessions.len() == 1).await;
    let tunnel = &state.sessions[0].handle;
    for _ in 0..50 {
        ask(tunnel, "nothing", "a")
            .await
            .expect_err("no such service");
    }
    ask(tunnel, "nothing", "b").await.expect_err("nor for b");
    let metrics = metrics(&world.fs).await;
    let all = "pf9_comms_refusals_total{reason=\"unknown-service\"} 51\n";
    assert!(metrics.contains(all), "{metrics}");
    comms.stop().await;
    let log = world.fs.at(paths::LOG_DIR).join("comms/audit.log");
    let log = std::fs::read_to_string(log).expect("audit log");
    let lines: Vec<_> = log
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).expect("json"))
        .map(|l| format!("{} {} {}", l["who"], l["stream"].is_u64(), l["more"]))
        .collect();
    let wanted = ["\"a\" true null", "\"b\" true null", "\"a\" false 49"];
    assert_eq!(lines, wanted, "{log}");
}

async fn metrics(fs: &HostFs) -> String {
    let http = reqwest::Client::builder()
        .unix_socket(fs.at(paths::COMMS_SOCKET))
        .build()
        .expect("client");
    let answer = http
        .get("http://local/v1/metrics")
        .send()
        .await
        .expect("answer");
    let kind = answer.headers()["content-type"].to_str().expect("text");
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    answer.text().await.expect("text")
}
