//! Unauthenticated clients lock nobody out who is authenticated.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::bed::{Bed, until, within};

#[tokio::test]
async fn sixty_wrong_logins_do_not_delay_a_right_one() {
    // Making the bed logged in once.
    let bed = Bed::new().await;
    let password = std::fs::read_to_string(bed.file("admin-password")).expect("password");
    let wrong_answers = AtomicUsize::new(0);
    let wrong = async {
        let tries = (0..60).map(|n| {
            let (bed, answers) = (&bed, &wrong_answers);
            async move {
                let guess = format!("guess {n}");
                let (status, _, body) = bed.try_log_in("admin@pf9.local", &guess).await;
                assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
                answers.fetch_add(1, Ordering::SeqCst);
            }
        });
        futures_util::future::join_all(tries).await;
    };
    let right = async {
        // They are in progress: one has its answer.
        until(|| async { (wrong_answers.load(Ordering::SeqCst) > 0).then_some(()) }).await;
        let (status, _, body) = bed.try_log_in("admin@pf9.local", password.trim()).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        wrong_answers.load(Ordering::SeqCst)
    };
    let (_, answered) = tokio::join!(wrong, right);
    assert!(
        answered < 30,
        "{answered} of 60 wrong ones were answered first"
    );
}

#[tokio::test]
async fn an_address_that_guesses_gets_retry_after() {
    let bed = Bed::new().await;
    let mut told = None;
    // Some tokens come back meanwhile.
    for n in 0..=130 {
        let (status, headers, body) = bed
            .try_log_in(&format!("user-{}", n % 2), &format!("guess {n}"))
            .await;
        if status == StatusCode::TOO_MANY_REQUESTS {
            told = Some((n, headers, body));
            break;
        }
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
    }
    let (after, headers, body) = told.expect("an end");
    assert!(after >= 100, "{after}");
    let wait: u64 = headers["retry-after"]
        .to_str()
        .expect("text")
        .parse()
        .expect("seconds");
    assert!((1..=9).contains(&wait), "{wait}");
    let words = body["error"]["message"].as_str().expect("message");
    assert!(words.contains("too many wrong passwords"), "{body}");
}

/// Ends when the plane closes it.
async fn ended(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // Reset or closed: it is over.
    drop(stream.read_to_end(&mut rest).await);
}

#[tokio::test]
async fn a_full_plane_makes_room_among_strangers_and_keeps_who_is_known() {
    let bed = Bed::with(|config| config.connections = 8).await;
    let node = bed.host("a", "10.1.0.1").await;
    let tunnel = node.tunnel.clone().expect("connected");
    let address: SocketAddr = bed
        .url
        .trim_start_matches("https://")
        .parse()
        .expect("address");
    let mut crowd = JoinSet::new();
    for _ in 0..20 {
        let stream = TcpStream::connect(address).await.expect("connect");
        crowd.spawn(ended(stream));
    }
    // More than there are places: the oldest of them have to go.
    for _ in 0..13 {
        within(crowd.join_next())
            .await
            .expect("one")
            .expect("no panic");
    }
    assert_eq!(
        bed.get("/resmgr/v1/hosts").await.as_array().map(Vec::len),
        Some(1)
    );
    let pem = std::fs::read(bed.file("ca.pem")).expect("ca.pem");
    let ca = reqwest::Certificate::from_pem(&pem).expect("certificate");
    let fresh = reqwest::Client::builder().no_proxy().tls_certs_only([ca]);
    let fresh = fresh.build().expect("client");
    let answer = fresh.get(format!("{}/healthz", bed.url)).send().await;
    assert_eq!(answer.expect("an honest stranger is in").status(), 200);
    assert!(tunnel.ping().await.is_some(), "the tunnel is as it was");
    assert_eq!(node.report("a", "10.1.0.1").await.0, 204);
    let host = bed.get(&format!("/resmgr/v1/hosts/{}", node.id)).await;
    assert_eq!(host["pf9"]["connected"], json!(true));
}
