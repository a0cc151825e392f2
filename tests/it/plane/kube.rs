//! The Kubernetes API through the tunnel: an API server with the certificate the plane signed, behind a node that
//! forwards bytes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming as Body};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pf9_hostagent::model::{CertPurpose, ClusterId};
use pf9_hostagent::mux::{Incoming, MuxStream, Opened};
use pf9_hostagent::wire::Code;
use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::bed::{Bed, within};
use super::etcd;
use super::node::Node;
use super::objects::Objects;

type Answer = http_body_util::combinators::BoxBody<Bytes, std::io::Error>;

/// A test's view and control of the API server.
pub(super) struct Api {
    /// `method path|authorization|host|client subject` of each request.
    pub(super) seen: mpsc::Receiver<String>,
    /// Lines of the watch.
    pub(super) lines: mpsc::Sender<&'static str>,
    /// The objects that the plane itself reads and changes; these requests are not in `seen`.
    pub(super) objects: Objects,
    _tasks: JoinSet<()>,
}

/// A master with an API server.
pub(super) async fn master(cluster: ClusterId, node: &mut Node, purpose: CertPurpose) -> Api {
    master_that(cluster, node, purpose, None).await
}

/// What an API server of a test answers; an error: it hangs up, or (that it would block) says nothing and does not end.
type Says = fn(&Request<Body>) -> io::Result<Response<Full<Bytes>>>;

/// A master whose API server answers like this.
pub(super) async fn master_with(
    cluster: ClusterId,
    node: &mut Node,
    purpose: CertPurpose,
    says: Says,
) -> Api {
    master_that(cluster, node, purpose, Some(says)).await
}

async fn master_that(
    cluster: ClusterId,
    node: &mut Node,
    purpose: CertPurpose,
    says: Option<Says>,
) -> Api {
    let key = KeyPair::generate().expect("key");
    let order = node.order(cluster, &key, &[purpose]).await;
    let (status, batch) = node.bring(&node.signed_order(&order)).await;
    assert_eq!(status, 200, "{batch}");
    let pem = batch["certificates"][0]["certificate"]
        .as_str()
        .expect("pem");
    let spec = node.current().await;
    let ca = &spec.assignment.node().expect("node").authorities.cluster;
    let acceptor = acceptor(pem, ca, &key);
    let mut incoming = node.incoming.take().expect("connected");
    let (seen_by, seen) = mpsc::channel(64);
    let (lines, watch) = mpsc::channel(1);
    let watch = Arc::new(tokio::sync::Mutex::new(watch));
    let objects = Objects::default();
    let kept = objects.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut streams = JoinSet::new();
        while let Some(opened) = incoming.next().await {
            if opened.open.service == etcd::SERVICE {
                streams.spawn(etcd::well(opened.accept().expect("accept")));
                continue;
            }
            if opened.open.service != "kube-apiserver" {
                opened.refuse(Code::UnknownService, 0, "not on this host's allow-list");
                continue;
            }
            let own = is_the_planes_own(&opened);
            let stream = opened.accept().expect("accept");
            if own {
                streams.spawn(kept.clone().serve(stream, acceptor.clone()));
                continue;
            }
            let (acceptor, seen, watch) = (acceptor.clone(), seen_by.clone(), Arc::clone(&watch));
            match says {
                Some(says) => streams.spawn(serve_as_told(stream, acceptor, says)),
                None => streams.spawn(serve(stream, acceptor, seen, watch)),
            };
        }
    });
    Api {
        seen,
        lines,
        objects,
        _tasks: tasks,
    }
}

fn acceptor(pem: &str, ca: &str, key: &KeyPair) -> TlsAcceptor {
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("pem");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der(ca)).expect("root");
    let provider = pf9_hostagent::tls::provider();
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .expect("verifier");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![der(pem)], key)
        .expect("certificate");
    TlsAcceptor::from(Arc::new(config))
}

/// Longest lifetime of the plane's own certificate: an hour, and clock skew.
const OWN_LIFE_S: i64 = 65 * 60;

/// The client certificate's subject. It cannot be revoked, so it must be short-lived.
pub(super) fn subject_of(session: &rustls::ServerConnection) -> String {
    let shown = session.peer_certificates().expect("client certificate");
    let (_, x) = x509_parser::parse_x509_certificate(&shown[0]).expect("x509");
    let life = x.validity();
    let seconds = life.not_after.timestamp() - life.not_before.timestamp();
    assert!(seconds <= OWN_LIFE_S, "{seconds} s");
    x.subject().to_string()
}

/// A stream that no operator requested.
pub(super) fn is_the_planes_own(opened: &Opened) -> bool {
    opened
        .open
        .meta
        .get("who")
        .map(String::as_str)
        .is_some_and(|who| ["rights", "upgrade", "availability", "addons"].contains(&who))
}

/// The next stream that an operator requested.
async fn next_asked(incoming: &mut Incoming) -> Option<Opened> {
    loop {
        let opened = incoming.next().await?;
        if !is_the_planes_own(&opened) {
            return Some(opened);
        }
        opened.refuse(Code::UnknownService, 0, "not on this host's allow-list");
    }
}

async fn serve_as_told(stream: MuxStream, acceptor: TlsAcceptor, says: Says) {
    let tls = acceptor.accept(stream).await.expect("TLS");
    let service = service_fn(move |request: Request<Body>| {
        let answer = says(&request);
        async move {
            match answer {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::future::pending().await,
                answer => answer,
            }
        }
    });
    let served = hyper::server::conn::http1::Builder::new();
    drop(served.serve_connection(TokioIo::new(tls), service).await);
}

type Watch = Arc<tokio::sync::Mutex<mpsc::Receiver<&'static str>>>;

async fn serve(stream: MuxStream, acceptor: TlsAcceptor, seen: mpsc::Sender<String>, watch: Watch) {
    // A plane that rejects the certificate hangs up.
    let Ok(tls) = acceptor.accept(stream).await else {
        return;
    };
    let subject = subject_of(tls.get_ref().1);
    let service = service_fn(move |request: Request<Body>| {
        let (seen, watch, subject) = (seen.clone(), Arc::clone(&watch), subject.clone());
        async move {
            let header = |name: &str| {
                let value = request.headers().get(name);
                value.map_or("-", |v| v.to_str().expect("text")).to_owned()
            };
            let line = format!(
                "{} {}|{}|{}|{subject}",
                request.method(),
                request.uri(),
                header("authorization"),
                header("host")
            );
            seen.send(line).await.expect("test listens");
            Ok::<_, std::io::Error>(answer(request, watch).await)
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(tls), service)
        .with_upgrades();
    drop(served.await);
}

async fn answer(mut request: Request<Body>, watch: Watch) -> Response<Answer> {
    let whole = |text: String| Full::new(Bytes::from(text)).map_err(|e| match e {}).boxed();
    if request.headers().contains_key("upgrade") {
        let protocol = request.headers()["upgrade"].clone();
        let upgrade = hyper::upgrade::on(&mut request);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut io = TokioIo::new(upgrade.await.expect("upgraded"));
            let mut word = [0; 4];
            while io.read_exact(&mut word).await.is_ok() {
                word.make_ascii_uppercase();
                io.write_all(&word).await.expect("write");
            }
            io.shutdown().await.expect("shutdown");
        });
        tasks.detach_all();
        return Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "Upgrade")
            .header("upgrade", protocol)
            .body(whole(String::new()))
            .expect("response");
    }
    if request.uri().query() == Some("watch=true") {
        let stream = futures_util::stream::unfold(watch, |watch| async move {
            let line = watch.lock().await.recv().await?;
            Some((Ok(Frame::data(Bytes::from_static(line.as_bytes()))), watch))
        });
        return Response::new(BodyExt::boxed(StreamBody::new(stream)));
    }
    let body = request
        .into_body()
        .collect()
        .await
        .expect("body")
        .to_bytes();
    Response::new(whole(format!("got {} bytes", body.len())))
}

/// The administrator's request for a kubeconfig with an embedded token.
pub(super) fn long_lived(cluster: impl serde::Serialize) -> Value {
    json!({"cluster": cluster, "long_lived": {"name": "a test", "ttl_s": 3600}})
}

/// A cluster of one connected master; the kubeconfig's server and token.
pub(super) async fn world(bed: &Bed) -> (ClusterId, Node, String, String) {
    bed.stack("1").await;
    let node = bed.host("m1", "10.1.0.1").await;
    let cluster = bed.cluster("c").await;
    let (status, said) = bed.attach(cluster, &[(&node, true)]).await;
    assert_eq!(status, 200, "{said}");
    let (status, body) = bed.admin("/kubeconfig", long_lived("c")).await;
    assert_eq!(status, 200, "{body}");
    let (server, token) = way_in(&body);
    (cluster, node, server, token)
}

/// The server and the token of a returned kubeconfig.
fn way_in(body: &Value) -> (String, String) {
    let text = body["kubeconfig"].as_str().expect("text");
    let value = |field: &str| {
        let line = text
            .lines()
            .find_map(|l| l.trim().strip_prefix(&format!("{field}: ")));
        line.expect(field).to_owned()
    };
    (value("server"), value("token"))
}

/// A shell: input comes back in capitals, four letters at a time.
pub(super) async fn exec(bed: &Bed, server: &str, token: &str) -> reqwest::Upgraded {
    let exec = bed
        .http
        .post(format!(
            "{server}/api/v1/namespaces/default/pods/x/exec?command=sh"
        ))
        .bearer_auth(token)
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .send();
    let answer = within(exec).await.expect("answer");
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["upgrade"], "SPDY/3.1");
    within(answer.upgrade()).await.expect("upgraded")
}

/// `kubectl get -w`.
pub(super) async fn watch(
    bed: &Bed,
    server: &str,
    token: &str,
) -> impl Stream<Item = reqwest::Result<Bytes>> + Unpin + use<> {
    let watch = bed
        .http
        .get(format!("{server}/api/v1/pods?watch=true"))
        .bearer_auth(token)
        .send();
    within(watch).await.expect("answer").bytes_stream()
}

#[tokio::test]
async fn requests_reach_the_api_server_as_the_planes_own_user() {
    let bed = Bed::new().await;
    let (cluster, mut node, server, token) = world(&bed).await;
    let mut api = master(cluster, &mut node, CertPurpose::ApiServer).await;
    let big = vec![7u8; 3_000_000];
    let posted = bed
        .http
        .post(format!("{server}/api/v1/pods?dryRun=All"))
        .bearer_auth(&token)
        .body(big)
        .send();
    let answer = within(posted).await.expect("answer");
    assert_eq!(answer.text().await.expect("text"), "got 3000000 bytes");
    let seen = within(api.seen.recv()).await.expect("request");
    let name = bed.url.trim_start_matches("https://");
    assert_eq!(
        seen,
        format!("POST /api/v1/pods?dryRun=All|-|{name}|CN=pf9:plane")
    );
}

#[tokio::test]
async fn a_watch_is_live() {
    let bed = Bed::new().await;
    let (cluster, mut node, server, token) = world(&bed).await;
    let api = master(cluster, &mut node, CertPurpose::ApiServer).await;
    let mut lines = watch(&bed, &server, &token).await;
    // Each line arrives before the next is even written: nothing on the way buffers.
    for line in ["one\n", "two\n"] {
        api.lines.send(line).await.expect("watching");
        let got = within(lines.next()).await.expect("line").expect("bytes");
        assert_eq!(got, line);
    }
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways() {
    let bed = Bed::new().await;
    let (cluster, mut node, server, token) = world(&bed).await;
    let _api = master(cluster, &mut node, CertPurpose::ApiServer).await;
    let mut io = exec(&bed, &server, &token).await;
    for (word, expected) in [(b"ping", b"PING"), (b"pong", b"PONG")] {
        io.write_all(word).await.expect("write");
        let mut got = [0; 4];
        within(io.read_exact(&mut got)).await.expect("read");
        assert_eq!(&got, expected);
    }
    io.shutdown().await.expect("shutdown");
    let mut rest = Vec::new();
    within(io.read_to_end(&mut rest)).await.expect("end");
    assert!(rest.is_empty());
}

/// The operator's client, the plane and the node use one id for a request.
#[tokio::test]
async fn a_request_has_one_name_everywhere() {
    let bed = Bed::new().await;
    let (_, mut node, server, token) = world(&bed).await;
    let mut incoming = node.incoming.take().expect("connected");
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{id}-00f067aa0ba902b7-01");
    let host = format!("{}/metrics/hosts/{}/tunnel", bed.url, node.id);
    for (url, header, sent, wanted) in [
        (
            format!("{server}/api"),
            "traceparent",
            parent.as_str(),
            Some(id),
        ),
        (
            format!("{server}/api"),
            "x-request-id",
            "my-own.name",
            Some("my-own.name"),
        ),
        (host, "x-request-id", "of a \"scrape\"", None),
    ] {
        let asked = bed.http.get(url).bearer_auth(&token).header(header, sent);
        let (answer, trace) = tokio::join!(within(asked.send()), async {
            let opened = within(next_asked(&mut incoming)).await.expect("opened");
            let trace = opened.open.meta.get("trace").cloned();
            opened.refuse(Code::UnknownService, 0, "not on this host's allow-list");
            trace.expect("a name")
        });
        let answer = answer.expect("answer");
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let said = answer.headers()["x-request-id"].to_str().expect("text");
        assert_eq!(said, trace);
        match wanted {
            Some(wanted) => assert_eq!(said, wanted),
            None => assert!(said.len() == 32 && said != sent, "{said}"),
        }
    }
}

#[tokio::test]
async fn an_unreachable_cluster_is_reported_in_words_kubectl_shows() {
    let bed = Bed::new().await;
    let (cluster, mut node, server, token) = world(&bed).await;
    let ask = async |url: String, token: String| {
        let answer = within(bed.http.get(url).bearer_auth(token).send())
            .await
            .expect("answer");
        let status = answer.status().as_u16();
        // kubectl would retry for a minute, silently.
        assert!(!answer.headers().contains_key("retry-after"));
        let body: Value = answer.json().await.expect("Status");
        assert_eq!(
            (&body["kind"], &body["code"]),
            (&json!("Status"), &json!(status))
        );
        (
            status,
            body["message"].as_str().expect("message").to_owned(),
        )
    };
    let api = format!("{server}/api");
    assert_eq!(ask(api.clone(), "guess".into()).await.0, 401);
    let unknown = server.replace(&cluster.to_string(), &ClusterId::random().to_string());
    assert_eq!(ask(format!("{unknown}/api"), token.clone()).await.0, 404);

    // The node does not know the service.
    let mut incoming = node.incoming.take().expect("connected");
    let (said, ()) = tokio::join!(ask(api.clone(), token.clone()), async {
        let opened = within(next_asked(&mut incoming)).await.expect("opened");
        assert_eq!(opened.open.service, "kube-apiserver");
        assert_eq!(
            opened.open.meta.get("who").map(String::as_str),
            Some("Default/admin@pf9.local")
        );
        opened.refuse(Code::UnknownService, 0, "not on this host's allow-list");
    });
    assert_eq!(said.0, 503);
    assert!(said.1.contains("allow-list"), "{}", said.1);

    // The endpoint has a certificate that the cluster's authority did not sign as `kubernetes`.
    node.incoming = Some(incoming);
    let _impostor = master(cluster, &mut node, CertPurpose::KubeletServer).await;
    let said = ask(api.clone(), token.clone()).await;
    assert_eq!(said.0, 503);
    assert!(said.1.contains("certificate"), "{}", said.1);

    node.tunnel
        .as_ref()
        .expect("connected")
        .close(Code::Cancelled, "gone");
    node.closed().await;
    super::bed::until(|| async {
        let host = bed.get(&format!("/resmgr/v1/hosts/{}", node.id)).await;
        (host["pf9"]["connected"] == json!(false)).then_some(())
    })
    .await;
    let said = ask(api, token).await;
    assert_eq!(said.0, 503);
    assert!(
        said.1.contains("none of its masters is connected"),
        "{}",
        said.1
    );
}

/// An API server that stops, or whose etcd does, accepts requests and answers nothing.
#[tokio::test]
async fn reads_are_retried_at_another_master_and_writes_are_not() {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let mut nodes = [
        bed.host("m1", "10.1.0.1").await,
        bed.host("m2", "10.1.0.2").await,
    ];
    let cluster = bed.cluster("c").await;
    let both: Vec<(&Node, bool)> = nodes.iter().map(|node| (node, true)).collect();
    let (status, said) = bed.attach(cluster, &both).await;
    assert_eq!(status, 200, "{said}");
    let (_, kubeconfig) = bed.admin("/kubeconfig", long_lived("c")).await;
    let (server, token) = way_in(&kubeconfig);
    // Whichever is tried first.
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let says: Says = |request| match ASKED.fetch_add(1, Ordering::SeqCst) {
        1 if request.uri().path() != "/never" => Ok(Response::new(Full::default())),
        _ => Err(io::ErrorKind::ConnectionReset.into()),
    };
    let [first, second] = &mut nodes;
    let _first = master_with(cluster, first, CertPurpose::ApiServer, says).await;
    let _second = master_with(cluster, second, CertPurpose::ApiServer, says).await;
    let ask = async |method: Method, path: &str, body: &'static str| {
        ASKED.store(0, Ordering::SeqCst);
        let asked = bed.http.request(method, format!("{server}{path}"));
        let asked = asked.bearer_auth(&token).body(body);
        let answer = within(asked.send()).await.expect("answer");
        (answer.status().as_u16(), ASKED.load(Ordering::SeqCst))
    };
    assert_eq!(ask(Method::GET, "/api/v1/pods", "").await, (200, 2));
    assert_eq!(ask(Method::POST, "/api/v1/pods", "{}").await, (502, 1));
    assert_eq!(ask(Method::DELETE, "/api/v1/pods/x", "").await, (502, 1));
    // A body may have been read in part.
    assert_eq!(ask(Method::GET, "/api/v1/pods", "{}").await, (502, 1));
    assert_eq!(
        ask(Method::GET, "/never", "").await,
        (502, 2),
        "not for ever"
    );
}

/// A host with two sessions, one of which dies silently.
#[tokio::test]
async fn a_dead_path_is_left_for_the_hosts_other_session() {
    const PROGRAM: &str = "00000000000000000000000000000001";
    let bed = Bed::new().await;
    let (cluster, node, server, token) = world(&bed).await;
    let mut nodes = [node.twin(), node.twin()];
    for (node, slot) in nodes.iter_mut().zip(["0", "1"]) {
        node.headers = super::tunnels::says(PROGRAM, slot);
        node.connect(&bed).await.expect("connected");
    }
    node.closed().await;
    let [first, second] = &mut nodes;
    let mut apis = [
        master(cluster, first, CertPurpose::ApiServer).await,
        master(cluster, second, CertPurpose::ApiServer).await,
    ];
    let get = async || {
        let get = bed.http.get(format!("{server}/api")).bearer_auth(&token);
        let answer = within(get.send()).await.expect("answer");
        let status = answer.status();
        (status, within(answer.text()).await.expect("text"))
    };
    assert_eq!(get().await, (StatusCode::OK, "got 0 bytes".to_owned()));
    let used = apis
        .iter_mut()
        .position(|api| api.seen.try_recv().is_ok())
        .expect("one of them was asked");
    nodes[used].freeze();
    assert_eq!(get().await, (StatusCode::OK, "got 0 bytes".to_owned()));
    apis[1 - used]
        .seen
        .try_recv()
        .expect("the other one was asked");
}
