//! A plane that stops: running work may finish in time, and is cut afterwards.

use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pf9_hostagent::model::CertPurpose;
use pf9_hostagent::mux;
use pf9_hostagent::wire::{Class, Meta};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};

use super::bed::{Bed, until, within};
use super::kube::{exec, master, watch, world};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_shell_and_a_watch_outlive_the_stop_until_they_end() {
    let mut bed = Bed::with(|config| config.drain = LONG).await;
    let (cluster, mut node, server, token) = world(&bed).await;
    let tunnel = node.tunnel.clone().expect("connected");
    let api = master(cluster, &mut node, CertPurpose::ApiServer).await;
    let mut shell = exec(&bed, &server, &token).await;
    let mut lines = watch(&bed, &server, &token).await;

    let stop = tokio::spawn(bed.server().stop());
    within(tunnel.peer_leaves()).await.expect("farewell");
    // Nothing new starts.
    let address = bed.url.trim_start_matches("https://");
    until(|| async { TcpStream::connect(address).await.err() }).await;
    for line in ["one\n", "two\n"] {
        shell.write_all(b"ping").await.expect("write");
        let mut said = [0; 4];
        within(shell.read_exact(&mut said)).await.expect("read");
        assert_eq!(&said, b"PING");
        api.lines.send(line).await.expect("watching");
        let got = within(lines.next()).await.expect("line").expect("bytes");
        assert_eq!(got, line);
    }
    assert!(!stop.is_finished(), "it waits for both");

    shell.shutdown().await.expect("shutdown");
    let mut rest = Vec::new();
    within(shell.read_to_end(&mut rest)).await.expect("end");
    drop(api.lines);
    assert!(within(lines.next()).await.is_none(), "ended, not cut");
    within(stop).await.expect("stopped");
}

#[tokio::test]
async fn what_is_left_after_the_drain_time_is_cut() {
    let mut bed = Bed::with(|config| config.drain = Duration::from_millis(200)).await;
    let (cluster, mut node, server, token) = world(&bed).await;
    let api = master(cluster, &mut node, CertPurpose::ApiServer).await;
    let mut shell = exec(&bed, &server, &token).await;
    let mut lines = watch(&bed, &server, &token).await;
    within(bed.server().stop()).await;
    let end = within(shell.read(&mut [0; 1])).await;
    assert!(!matches!(end, Ok(1..)), "{end:?}");
    let end = within(lines.next()).await.expect("not ended: cut");
    end.expect_err("cut");
    node.closed().await;
    drop(api);
}

/// A stream that the plane accepted cannot be opened elsewhere: its node does not know what was done.
#[tokio::test]
async fn an_accepted_stream_may_still_send_after_the_stop() {
    let mut bed = Bed::new().await;
    let node = bed.host("a", "10.1.0.1").await;
    let tunnel = node.tunnel.as_ref().expect("connected");
    let stream = tunnel.open(mux::HOST_API, Class::Bulk, Meta::new());
    let mut stream = stream.expect("open");
    // Frames keep their order: an answer to a later request proves that it was accepted.
    assert_eq!(node.report("a", "10.1.0.1").await.0, 204);
    let stop = tokio::spawn(bed.server().stop());
    within(tunnel.peer_leaves()).await.expect("farewell");
    let question = b"GET /v1/hosts/self/spec HTTP/1.1\r\nhost: plane\r\n\r\n";
    stream.write_all(question).await.expect("write");
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.expect("read");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    within(stop).await.expect("stopped");
}

#[tokio::test]
async fn a_second_signal_stops_without_waiting() {
    let mut bed = Bed::with(|config| config.drain = LONG).await;
    let (cluster, mut node, server, token) = world(&bed).await;
    let _api = master(cluster, &mut node, CertPurpose::ApiServer).await;
    let _shell = exec(&bed, &server, &token).await;
    within(bed.server().stop_unless(std::future::ready(()))).await;
    assert!(!bed.file("admin.sock").exists());
}

/// The program: the first signal lets a request continue, the second does not.
#[tokio::test]
async fn a_second_signal_ends_the_program_at_once() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut plane = tokio::process::Command::new(env!("CARGO_BIN_EXE_pf9-plane"))
        .args(["serve", "--listen", "127.0.0.1:0", "--drain-seconds", "600"])
        .arg("--state-dir")
        .arg(dir.path())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the plane starts");
    let mut said = BufReader::new(plane.stdout.take().expect("stdout")).lines();
    let ready = within(said.next_line()).await.expect("line").expect("text");
    let address = ready.strip_prefix("ready https://").expect("ready");

    // A request whose body does not arrive is answered after half a minute.
    let mut asks = UnixStream::connect(dir.path().join("admin.sock"))
        .await
        .expect("admin");
    let head = b"POST /tokens HTTP/1.1\r\nhost: plane\r\nexpect: 100-continue\r\n\
                 content-length: 5\r\n\r\n";
    asks.write_all(head).await.expect("write");
    let mut heard = [0; 25];
    within(asks.read_exact(&mut heard)).await.expect("go on");
    assert_eq!(&heard, b"HTTP/1.1 100 Continue\r\n\r\n");

    let pid = i32::try_from(plane.id().expect("runs")).expect("pid");
    let signal = || kill(Pid::from_raw(pid), Signal::SIGTERM).expect("signal");
    signal();
    until(|| async { TcpStream::connect(address).await.err() }).await;
    assert!(plane.try_wait().expect("look").is_none(), "it drains");
    signal();
    let mut rest = Vec::new();
    within(asks.read_to_end(&mut rest)).await.expect("end");
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    let ended = within(plane.wait()).await.expect("ended");
    assert!(ended.success(), "{ended}");
}
