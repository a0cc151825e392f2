//! The bucket against a real server, in good weather and in bad.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::testing::{BUCKET, KEY, SECRET, Server, Way, Weather};
use super::*;
use crate::egress::testing::{FakeProxy, Manner};
use crate::egress::{NoProxy, ProxyConfig};
use crate::host::fs::Attrs;
use crate::model::{ArchiveTarget, FaultCode, paths};

/// Three pieces.
const LARGE: usize = 20 * 1024 * 1024;
const FILE: &str = "20261128T120000Z-r7.db.age";

struct Local {
    dir: tempfile::TempDir,
    file: PathBuf,
    bytes: Vec<u8>,
}

fn local(len: usize) -> Local {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(7).fill(&mut bytes);
    let file = dir.path().join("sealed");
    std::fs::write(&file, &bytes).expect("write");
    Local { dir, file, bytes }
}

fn target(at: std::net::SocketAddr) -> Target<'static> {
    Target {
        endpoint: Box::leak(format!("http://{at}").into_boxed_str()),
        region: "us-east-1",
        bucket: BUCKET,
        prefix: "clusters/one",
        path_style: true,
        authority: None,
    }
}

fn open(target: Target<'_>, secret: &str) -> S3 {
    let root = tempfile::tempdir().expect("tempdir");
    let host = HostFs::new(root.path());
    let credentials = Credentials::new(KEY, secret);
    let mut s3 = S3::open(&host, target, "host-1", credentials, &Egress::direct()).expect("open");
    s3.pace = Pace {
        tries: 6,
        first: Duration::from_millis(1),
        cap: Duration::from_millis(5),
        answer: Duration::from_secs(5),
    };
    s3
}

fn at(at: std::net::SocketAddr) -> S3 {
    open(target(at), SECRET)
}

fn key(name: &str) -> String {
    format!("clusters/one/host-1/{name}")
}

fn code(error: &ArchiveError) -> FaultCode {
    let target = ArchiveTarget::Dir {
        path: "/x".into(),
        mount: None,
    };
    let fault = error.fault(&target, "cannot copy the backup");
    assert!(!fault.fix.is_empty(), "{fault}");
    for secret in [SECRET, "X-Amz-Signature", "Credential"] {
        assert!(!fault.to_string().contains(secret), "{fault}");
    }
    fault.code
}

#[tokio::test]
async fn files_of_every_size_come_back_as_they_were() {
    let server = Server::start().await;
    let s3 = at(server.at);
    for len in [1, 100_000, LARGE] {
        let local = local(len);
        s3.put(FILE, &local.file).await.expect("put");
        let there = std::fs::read(server.object(&key(FILE))).expect("object");
        assert!(there == local.bytes, "{len}");
        let into = local.dir.path().join("back");
        s3.get(FILE, &into, len as u64).await.expect("get");
        assert!(std::fs::read(&into).expect("file") == local.bytes, "{len}");
    }
    s3.put_text("20261128T120000Z-r7.json", b"{}")
        .await
        .expect("text");
    assert_eq!(
        s3.text("20261128T120000Z-r7.json").await.expect("text"),
        "{}"
    );
    let items = s3.list().await.expect("list");
    let mut items: Vec<_> = items.into_iter().map(|i| (i.file, i.bytes)).collect();
    items.sort();
    let expected = [
        (FILE.to_owned(), LARGE as u64),
        ("20261128T120000Z-r7.json".to_owned(), 2),
    ];
    assert_eq!(items, expected);
    for _ in 0..2 {
        s3.remove(FILE)
            .await
            .expect("remove, also what is not there");
    }
    assert_eq!(s3.list().await.expect("list").len(), 1);
}

#[tokio::test]
async fn what_breaks_off_is_sent_again_from_where_it_was() {
    let server = Server::start().await;
    let local = local(LARGE);
    for cut in [0, 100, 1_000_000, 9_000_000, 17_000_000] {
        let weather = [
            Weather::CutUp(cut),
            Weather::Says(
                "HTTP/1.1 503 Slow Down\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            ),
            Weather::CutDown(10),
        ];
        let way = Way::to(server.at, weather).await;
        at(way.at).put(FILE, &local.file).await.expect("put");
        let there = std::fs::read(server.object(&key(FILE))).expect("object");
        assert!(there == local.bytes, "{cut}");
        assert_eq!((server.begun().len(), server.pieces()), (0, 0), "{cut}");
        std::fs::remove_file(server.object(&key(FILE))).expect("remove");
    }
}

#[tokio::test]
async fn a_cut_upload_is_nothing_and_the_next_run_goes_on_with_it() {
    let server = Server::start().await;
    let local = local(LARGE);
    // One piece gets through, then nothing.
    let broken = std::iter::once(Weather::CutUp(12_000_000)).chain([Weather::CutUp(0); 20]);
    let way = Way::to(server.at, broken).await;
    let s3 = at(way.at);
    let error = s3.put(FILE, &local.file).await.expect_err("cut");
    assert_eq!(code(&error), FaultCode::EtcdArchiveAway, "{error}");
    way.forecast([]);
    assert_eq!(s3.list().await.expect("list"), []);
    assert_eq!((server.begun().len(), server.pieces()), (1, 1));

    way.up.store(0, Ordering::Relaxed);
    s3.put(FILE, &local.file).await.expect("put");
    let there = std::fs::read(server.object(&key(FILE))).expect("object");
    assert!(there == local.bytes);
    let sent = way.up.load(Ordering::Relaxed);
    assert!(
        sent < 13_000_000,
        "the first piece was not sent again: {sent}"
    );
    assert_eq!((server.begun().len(), server.pieces()), (0, 0));
}

#[tokio::test]
async fn uploads_of_other_files_are_given_up_and_nobody_elses() {
    let server = Server::start().await;
    let local = local(LARGE);
    let s3 = at(server.at);
    let until = Instant::now() + QUESTION;
    let old = key("20261128T110000Z-r6.db.age");
    s3.begin_upload(&old, until).await.expect("begin");
    let theirs = "clusters/one/host-2/20261128T110000Z-r6.db.age";
    s3.begin_upload(theirs, until).await.expect("begin");
    s3.put(FILE, &local.file).await.expect("put");
    assert_eq!(server.begun(), [theirs]);
    // A small file leaves none behind either.
    s3.begin_upload(&key(FILE), until).await.expect("begin");
    std::fs::write(&local.file, b"small").expect("write");
    s3.put(FILE, &local.file).await.expect("put");
    assert_eq!(server.begun(), [theirs]);
}

#[tokio::test]
async fn a_download_goes_on_where_it_was_cut() {
    let server = Server::start().await;
    let local = local(LARGE);
    at(server.at).put(FILE, &local.file).await.expect("put");
    let cuts = [5_000_000, 6_000_000, 100, 0, 2_000_000].map(Weather::CutDown);
    let way = Way::to(server.at, cuts).await;
    let into = local.dir.path().join("back");
    at(way.at)
        .get(FILE, &into, LARGE as u64)
        .await
        .expect("get");
    assert!(std::fs::read(&into).expect("file") == local.bytes);
    let came = way.down.load(Ordering::Relaxed);
    assert!(
        came < LARGE as u64 + 1_000_000,
        "nothing came twice: {came}"
    );
}

#[tokio::test]
async fn silence_ends_and_is_tried_again() {
    let server = Server::start().await;
    let local = local(1000);
    let way = Way::to(server.at, [Weather::Silent]).await;
    let mut s3 = at(way.at);
    s3.pace.answer = Duration::from_secs(1);
    s3.put(FILE, &local.file).await.expect("put");
    way.forecast([Weather::Silent; 20]);
    let mut s3 = at(way.at);
    s3.pace.answer = Duration::from_millis(50);
    let error = s3.put(FILE, &local.file).await.expect_err("silent");
    assert_eq!(code(&error), FaultCode::EtcdArchiveAway, "{error}");
}

fn an_hour_ahead() -> Timestamp {
    Timestamp::now() + jiff::SignedDuration::from_hours(1)
}

fn an_hour_behind() -> Timestamp {
    Timestamp::now() - jiff::SignedDuration::from_hours(1)
}

#[tokio::test]
async fn each_refusal_has_its_words() {
    let server = Server::start().await;
    let local = local(1000);
    let refused = async |s3: &S3| {
        let error = s3.put(FILE, &local.file).await.expect_err("refused");
        (code(&error), error.to_string())
    };
    let (wrong_secret, _) = refused(&open(target(server.at), "another")).await;
    assert_eq!(wrong_secret, FaultCode::EtcdArchiveDenied);
    let mut s3 = at(server.at);
    s3.credentials = Credentials::new("K2", SECRET);
    assert_eq!(refused(&s3).await.0, FaultCode::EtcdArchiveDenied);

    for (now, words) in [
        (an_hour_ahead as fn() -> Timestamp, "s ahead of"),
        (an_hour_behind, "s behind"),
    ] {
        let mut s3 = at(server.at);
        s3.now = now;
        let (code, said) = refused(&s3).await;
        assert_eq!(code, FaultCode::EtcdArchiveClock, "{said}");
        assert!(said.contains(words), "{said}");
    }

    let mut nowhere = target(server.at);
    nowhere.bucket = "no-such-bucket";
    let (code, said) = refused(&open(nowhere, SECRET)).await;
    assert_eq!(code, FaultCode::EtcdArchiveNoBucket, "{said}");
}

#[tokio::test]
async fn what_only_large_services_say_has_its_words_too() {
    let server = Server::start().await;
    let local = local(LARGE);
    for (says, code_of, words) in [
        (
            "HTTP/1.1 301 Moved Permanently\r\nx-amz-bucket-region: eu-north-1\r\nlocation: http://127.0.0.1:1/\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            FaultCode::EtcdArchiveOtherRegion,
            "but in eu-north-1",
        ),
        (
            "HTTP/1.1 507 Insufficient Storage\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            FaultCode::EtcdArchiveFull,
            "full",
        ),
        (
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 77\r\n\r\n<Error><Code>InternalError</Code><Message>We are sorry</Message></Error>     ",
            FaultCode::EtcdArchiveAway,
            "We are sorry",
        ),
        (
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nhey!",
            FaultCode::EtcdArchiveFailed,
            "cannot be parsed",
        ),
    ] {
        let way = Way::to(server.at, [Weather::Says(says); 20]).await;
        let s3 = at(way.at);
        let error = s3.put(FILE, &local.file).await.expect_err("refused");
        assert_eq!(code(&error), code_of, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(server.begun().len(), 0);
    }
}

#[tokio::test]
async fn a_list_that_never_ends_is_given_up() {
    let page = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 134\r\n\r\n<ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><NextContinuationToken>on</NextContinuationToken></ListBucketResult>";
    let (head, body) = page.split_once("\r\n\r\n").expect("a page");
    assert!(head.ends_with(&body.len().to_string()), "{}", body.len());
    let server = Server::start().await;
    // One page more and it would end.
    let way = Way::to(server.at, vec![Weather::Says(page); PAGES_MAX]).await;
    let error = at(way.at).list().await.expect_err("no end");
    assert!(error.to_string().contains("pages"), "{error}");
}

#[tokio::test]
async fn only_the_right_authority_is_believed() {
    let (server, authority) = Server::start_tls().await;
    let local = local(1000);
    let endpoint = format!("https://localhost:{}", server.at.port());
    let mut https = target(server.at);
    https.endpoint = &endpoint;
    let error = open(https, SECRET)
        .put(FILE, &local.file)
        .await
        .expect_err("unknown");
    assert_eq!(
        code(&error),
        FaultCode::EtcdArchiveForeignCertificate,
        "{error}"
    );

    let host = HostFs::new(local.dir.path());
    let pem = local.dir.path().join("ca.pem");
    std::fs::write(&pem, authority).expect("write");
    https.authority = Some("/ca.pem");
    let credentials = || Credentials::new(KEY, SECRET);
    let s3 = S3::open(&host, https, "host-1", credentials(), &Egress::direct()).expect("open");
    s3.put(FILE, &local.file).await.expect("put");
    std::fs::write(&pem, "nothing").expect("write");
    let error = S3::open(&host, https, "host-1", credentials(), &Egress::direct());
    let error = error.err().expect("no authority in it");
    assert_eq!(code(&error), FaultCode::EtcdArchiveInvalid, "{error}");
}

#[tokio::test]
async fn nobody_there_is_said_without_the_address_that_was_signed() {
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.local_addr().expect("address")
    };
    let local = local(10);
    let error = at(gone).put(FILE, &local.file).await.expect_err("nobody");
    assert_eq!(code(&error), FaultCode::EtcdArchiveAway, "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn what_is_longer_than_its_manifest_says_is_not_taken() {
    let server = Server::start().await;
    let local = local(1000);
    let s3 = at(server.at);
    s3.put(FILE, &local.file).await.expect("put");
    let into = local.dir.path().join("back");
    let error = s3.get(FILE, &into, 999).await.expect_err("longer");
    assert_eq!(code(&error), FaultCode::EtcdArchiveDamaged, "{error}");
    let error = s3
        .get("20261128T120000Z-r8.db.age", &into, 1)
        .await
        .expect_err("missing");
    assert_eq!(code(&error), FaultCode::EtcdArchiveMissing, "{error}");
}

/// As configured for comms: through the proxy, with its password, and TLS to the far end.
#[tokio::test]
async fn it_goes_the_way_that_the_proxy_settings_say() {
    let (server, authority) = Server::start_tls().await;
    let names = [("bucket.example", server.at)];
    let proxy = FakeProxy::start(Manner::Basic("u:p"), &names).await;
    let local = local(1000);
    let host = HostFs::new(local.dir.path());
    std::fs::write(local.dir.path().join("ca.pem"), authority).expect("write");
    let shown = Attrs::mode(0o600);
    host.write(paths::PROXY_CREDENTIALS, b"u:p\n", &shown)
        .expect("write");
    let config = ProxyConfig::new(proxy.url().parse().expect("url"), NoProxy::default());
    let egress = Egress::load(&host, &config).expect("egress");
    let mut https = target(server.at);
    https.endpoint = "https://bucket.example:9000";
    https.authority = Some("/ca.pem");
    let credentials = Credentials::new(KEY, SECRET);
    let s3 = S3::open(&host, https, "host-1", credentials, &egress).expect("open");
    s3.put(FILE, &local.file).await.expect("put");
    assert!(proxy.targets().iter().all(|t| t == "bucket.example:9000"));
    assert!(!proxy.targets().is_empty());
}
