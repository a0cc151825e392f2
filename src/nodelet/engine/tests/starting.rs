//! A machine that starts: its services come up by themselves before anything else is asked of it.

use std::sync::atomic::{AtomicUsize, Ordering};

use nix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::model::{CertPurpose, NodeSpec};
use crate::nodelet::certs;
use crate::nodelet::testing::{acceptor, pair};

/// Says that kubelet comes up the first two times that it is asked, and then that it failed.
const COMES_TWICE: &str = r#"state=activating
[ "$(wc -l < "$asked")" -le 2 ] || state=failed
printf 'Id=pf9-kubelet.service\nLoadState=loaded\nActiveState=%s\n' "$state""#;

/// A node whose systemd answers with this; each question leaves a line.
fn starting(answer: &str) -> Machine {
    let machine = Machine::node();
    let text = format!("#!/bin/sh\nasked=$(dirname \"$0\")/asked\necho >> \"$asked\"\n{answer}\n");
    let put = machine
        .fs
        .write("/usr/bin/systemctl", text.as_bytes(), &Attrs::mode(0o755));
    put.expect("write");
    machine
}

fn asked(machine: &Machine) -> usize {
    let text = machine.fs.read_text("/usr/bin/asked", 4096).expect("read");
    text.unwrap_or_default().lines().count()
}

/// That the spec of before the boot is there is no news that would end it.
#[tokio::test]
async fn what_comes_up_is_waited_for_with_the_spec_that_was_there() {
    let machine = starting(COMES_TWICE);
    let before = machine.begin().inbox;
    before.put(machine.worker(5)).expect("stored");
    let mut life = machine.begin();
    life.engine.let_it_come_up().await;
    assert_eq!(asked(&machine), 3, "until it failed");
}

#[tokio::test]
async fn a_new_order_is_worked_on_at_once() {
    let machine = starting(COMES_TWICE);
    let mut life = machine.begin();
    life.inbox.put(machine.worker(6)).expect("a good spec");
    life.engine.let_it_come_up().await;
    assert_eq!(asked(&machine), 1);
}

/// Serves the node: its kubelet was heard before the boot, from the third question on after it.
async fn serves(listener: TcpListener, tls: tokio_rustls::TlsAcceptor, questions: &AtomicUsize) {
    let at = |seconds: i64| {
        let now = crate::seam::clock::now() + SignedDuration::from_secs(seconds);
        format!("{now:.0}")
    };
    let (before, after) = (at(-60), at(1));
    loop {
        let (tcp, _) = listener.accept().await.expect("a connection");
        let mut stream = tls.accept(tcp).await.expect("TLS");
        let mut head = Vec::new();
        while stream.read_buf(&mut head).await.is_ok_and(|n| n > 0) {
            if !head.ends_with(b"\r\n\r\n") {
                continue;
            }
            head.clear();
            let said = match questions.fetch_add(1, Ordering::Relaxed) {
                0 | 1 => &before,
                _ => &after,
            };
            let body = serde_json::json!({"status": {"conditions": [
                {"type": "Ready", "status": "True", "lastHeartbeatTime": said}]}});
            let body = body.to_string();
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.expect("answer");
        }
    }
}

/// The first look takes the processors from a kubelet that has only begun to say something.
#[tokio::test]
async fn a_node_is_looked_at_when_the_kubelet_that_was_started_was_heard() {
    let up = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("clock"));
    let up = up.as_micros();
    let machine = starting(&format!(
        "printf 'Id=pf9-kubelet.service\\nLoadState=loaded\\nActiveState=active\\n\
         ActiveEnterTimestampMonotonic={up}\\n'"
    ));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind");
    let mut node = node(machine.cas.authorities.clone());
    node.api.host = "127.0.0.1".into();
    node.api.port = listener.local_addr().expect("address").port();
    let put = |purpose, node: &NodeSpec| {
        let (certificate, key) = pair(&machine.cas, purpose, node);
        for (file, text) in [(paths::CERT_FILE, certificate), (paths::CERT_KEY_FILE, key)] {
            let path = certs::path_of(purpose, file);
            let put = machine.fs.write(path, text.as_bytes(), &Attrs::mode(0o600));
            put.expect("write");
        }
    };
    put(CertPurpose::Nodelet, &node);
    let tls = acceptor(pair(&machine.cas, CertPurpose::ApiServer, &node));
    let mut life = machine.begin();
    let ledger = &mut life.engine.ledger.ledger;
    ledger.installed.as_mut().expect("installed").node = node;
    let questions = AtomicUsize::new(0);
    tokio::select! {
        () = serves(listener, tls, &questions) => {}
        () = life.engine.let_it_come_up() => {}
    }
    assert_eq!(questions.load(Ordering::Relaxed), 3);
}
