//! The way out against proxies at the other end of a real socket.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::testing::{FakeProxy, Manner};
use super::*;
use crate::host::fs::Attrs;
use crate::model::{FaultCode, paths};

/// A host behind `proxy`, which knows this password.
fn egress(proxy: &str, credentials: Option<&str>, no_proxy: &str) -> Egress {
    let dir = tempfile::tempdir().expect("tempdir");
    let host = HostFs::new(dir.path());
    if let Some(line) = credentials {
        host.write(
            paths::PROXY_CREDENTIALS,
            line.as_bytes(),
            &Attrs::mode(0o600),
        )
        .expect("write");
    }
    let config = ProxyConfig::new(proxy.parse().expect("url"), no_proxy.parse().expect("list"));
    Egress::load(&host, &config).expect("egress")
}

/// Answers every connection with a greeting.
async fn plane() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut got = [0; 5];
            tcp.read_exact(&mut got).await.expect("read");
            tcp.write_all(&got).await.expect("write");
        }
    });
    address
}

async fn echoes(egress: &Egress, host: &str, port: u16) -> Journey {
    let mut journey = Journey::default();
    let mut tcp = egress
        .reach(host, port, &mut journey)
        .await
        .expect("reached");
    tcp.write_all(b"hello").await.expect("write");
    let mut got = [0; 5];
    tcp.read_exact(&mut got).await.expect("read");
    assert_eq!(&got, b"hello");
    journey
}

async fn code(proxy: &FakeProxy, credentials: Option<&str>) -> (String, String) {
    let egress = egress(&proxy.url(), credentials, "");
    let reached = egress
        .reach("plane.example", 443, &mut Journey::default())
        .await;
    let fault = reached.expect_err("not reached").fault("cannot connect");
    assert!(!fault.fix.is_empty(), "{fault}");
    (fault.code.to_string(), fault.why)
}

#[tokio::test]
async fn the_proxy_resolves_the_plane_and_nobody_here_does() {
    let plane = plane().await;
    // No name server knows it.
    let name = "plane.no-such-name.invalid";
    for manner in [Manner::Honest, Manner::Old, Manner::Basic("u:p:w")] {
        let proxy = FakeProxy::start(manner, &[(name, plane)]).await;
        let egress = egress(&proxy.url(), Some("u:p:w\n"), "");
        let journey = echoes(&egress, name, 443).await;
        assert_eq!(proxy.targets(), [format!("{name}:443")]);
        let hops: Vec<Hop> = journey.passed().iter().map(|p| p.hop).collect();
        assert_eq!(
            hops,
            [Hop::ProxyResolve, Hop::ProxyConnect, Hop::ProxyTunnel]
        );
    }
}

#[tokio::test]
async fn who_is_named_in_no_proxy_is_reached_straight() {
    let plane = plane().await;
    let proxy = FakeProxy::start(Manner::Honest, &[]).await;
    let egress = egress(&proxy.url(), None, "127.0.0.0/8");
    let journey = echoes(&egress, "127.0.0.1", plane.port()).await;
    assert_eq!(proxy.targets(), Vec::<String>::new());
    let hops: Vec<Hop> = journey.passed().iter().map(|p| p.hop).collect();
    assert_eq!(hops, [Hop::Resolve, Hop::Connect]);
    assert_eq!(egress.via("127.0.0.1", 1), None);
    assert!(egress.via("10.0.0.1", 1).is_some());
}

#[tokio::test]
async fn a_password_is_shown_only_when_there_is_one_and_each_no_has_its_code() {
    let proxy = FakeProxy::start(Manner::Basic("u:right"), &[]).await;
    assert_eq!(code(&proxy, None).await.0, "proxy-credentials-wanted");
    let (rejected, why) = code(&proxy, Some("u:wrong")).await;
    assert_eq!(rejected, "proxy-credentials-rejected");
    assert!(why.contains("\"u\"") && !why.contains("wrong"), "{why}");
    // The name leads nowhere from there.
    assert_eq!(code(&proxy, Some("u:right")).await.0, "proxy-cannot-reach");
}

#[tokio::test]
async fn each_answer_that_is_no_yes_has_its_code() {
    let rows: [(&[u8], &str); 14] = [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 99999999\r\n\r\n<html>", "proxy-denies"),
        (b"HTTP/1.1 405 x\r\n\r\n", "proxy-denies"),
        (b"HTTP/1.1 501 x\r\n\r\n", "proxy-denies"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n", "proxy-denies"),
        (b"HTTP/1.1 502 x\r\n\r\n", "proxy-cannot-reach"),
        (b"HTTP/1.0 503 x\r\n\r\n", "proxy-cannot-reach"),
        (b"HTTP/1.1 504 x\r\n\r\n", "proxy-cannot-reach"),
        (
            b"HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Negotiate abc==\r\n\r\n",
            "proxy-credentials-kind",
        ),
        (b"HTTP/1.1 407 x\r\n\r\n", "proxy-credentials-wanted"),
        (b"HTTP/1.0 401 x\r\n\r\n", "proxy-credentials-wanted"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "proxy-garbage"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>hello", "proxy-garbage"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "proxy-garbage"),
        (b"", "proxy-garbage"),
    ];
    for (said, want) in rows {
        let proxy = FakeProxy::start(Manner::Say(said.to_vec()), &[]).await;
        let text = String::from_utf8_lossy(said);
        let (got, why) = code(&proxy, None).await;
        assert_eq!(got, want, "{text}: {why}");
        assert!(!why.contains("html") && !why.contains("portal"), "{why}");
    }
}

#[tokio::test]
async fn an_endless_head_ends_at_the_bound() {
    for flood in [
        b"HTTP/1.1 200 OK\r\nx-pad: ".as_slice(),
        b"x: 0123456789abcdef\r\n",
    ] {
        let proxy = FakeProxy::start(Manner::Flood(flood), &[]).await;
        assert_eq!(code(&proxy, None).await.0, "proxy-garbage");
    }
}

#[tokio::test]
async fn interim_answers_without_end_do_not_outlive_the_deadline() {
    let proxy = FakeProxy::start(Manner::Flood(b"HTTP/1.1 100 Continue\r\n\r\n"), &[]).await;
    let egress = egress(&proxy.url(), None, "");
    let mut journey = Journey::default();
    let reached = egress.reach("plane.example", 443, &mut journey);
    let late = tokio::time::timeout(Duration::from_secs(1), reached).await;
    assert!(late.is_err(), "they are no answer");
}

#[tokio::test]
async fn a_deadline_strikes_at_the_hop_that_hangs() {
    let proxy = FakeProxy::start(Manner::Silent, &[]).await;
    let egress = egress(&proxy.url(), None, "");
    let mut journey = Journey::default();
    let asked = async {
        while proxy.targets().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        reached = egress.reach("plane.example", 443, &mut journey) => panic!("{reached:?}"),
        () = asked => {}
    }
    assert_eq!(journey.at().map(|(hop, _)| hop), Some(Hop::ProxyTunnel));
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_told_from_a_plane_that_is_not() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = free.local_addr().expect("address");
    drop(free);
    let fault = async |egress: Egress, host: &str, port: u16| {
        let reached = egress.reach(host, port, &mut Journey::default()).await;
        reached.expect_err("nobody").fault("x").code
    };
    let gone = egress(&format!("http://{address}"), None, "");
    assert_eq!(
        fault(gone, "plane.example", 443).await,
        FaultCode::ProxyRefused
    );
    let unknown = egress("http://no-such-name.invalid:1", None, "");
    assert_eq!(
        fault(unknown, "plane.example", 443).await,
        FaultCode::ProxyUnresolvable
    );
    let straight = Egress::direct();
    assert_eq!(
        fault(straight.clone(), "127.0.0.1", address.port()).await,
        FaultCode::PlaneRefused
    );
    assert_eq!(
        fault(straight, "no-such-name.invalid", 1).await,
        FaultCode::PlaneUnresolvable
    );
}
