//! A plane's end of the tunnel: TLS, websocket, `mux`, and an HTTP service behind it. It does what the test says:
//! answers, drains, goes down, comes back, is busy.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::identity::{self, Identity, Owners};
use pf9_hostagent::model::{Digest, HostId, RenewAnswer, RenewRequest, Secret, SigningKey};
use pf9_hostagent::mux::{self, Handle, Role, Websocket};
use pf9_hostagent::wire::{self, Code, Config, Side};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::support::within;

/// Chunks of the long answer, and the size of each.
pub(super) const CHUNKS: u64 = 40;
const CHUNK: usize = 1000;
/// TLS sessions that it can take up again: a few days of a long run fill them, so that they do not pass for growth of the
/// host in the same process.
const TICKETS: usize = 32;

pub(super) type Authority = CertifiedIssuer<'static, KeyPair>;

/// A new one.
pub(super) fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("key");
    CertifiedIssuer::self_signed(params, key).expect("authority")
}

/// An authority, and a host it knows.
pub(super) struct World {
    pub(super) ca: Arc<Authority>,
    pub(super) fs: HostFs,
    _dir: Option<tempfile::TempDir>,
}

impl World {
    pub(super) fn new() -> Self {
        drop(tracing_subscriber::fmt().with_test_writer().try_init());
        Self::at(tempfile::tempdir().expect("tempdir"))
    }

    /// With this root for the host, which goes with it.
    pub(super) fn at(dir: tempfile::TempDir) -> Self {
        let world = Self::on(HostFs::new(dir.path()));
        Self {
            _dir: Some(dir),
            ..world
        }
    }

    /// With this root for the host.
    pub(super) fn on(fs: HostFs) -> Self {
        pf9_hostagent::tls::install();
        let ca = Arc::new(authority());
        for made in ["/run/pf9", "/var/log/pf9/comms"] {
            std::fs::create_dir_all(fs.at(made)).expect("mkdir");
        }
        Self { ca, fs, _dir: None }
    }

    /// The host knows these peers, best first.
    pub(super) fn enrol(&self, peers: &[&Peer]) {
        self.enrol_with(peers, |_| {});
    }

    /// As [`Self::enrol`], with a modified certificate.
    pub(super) fn enrol_with(&self, peers: &[&Peer], say: impl FnOnce(&mut CertificateParams)) {
        let host_id = HostId::random();
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, host_id.to_string());
        say(&mut params);
        let certificate = params.signed_by(&key, &*self.ca).expect("certificate");
        let endpoint = |p: &&Peer| format!("wss://{}{}", p.address, mux::TUNNEL_PATH);
        let identity = Identity {
            host_id,
            key: Secret::new(key.serialize_pem()),
            certificate: certificate.pem(),
            plane_ca: self.ca.pem(),
            trust: vec![SigningKey::generate().expect("key").0.trusted()],
            endpoints: peers.iter().map(endpoint).collect(),
            trust_version: None,
            machine: pf9_hostagent::model::MachineMarks::default(),
        };
        identity::save(&self.fs, &identity, &Owners::current_user()).expect("save");
    }

    fn server(&self) -> TlsAcceptor {
        let key = KeyPair::generate().expect("key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("params");
        let certificate = params.signed_by(&key, &*self.ca).expect("certificate");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.der().clone()).expect("root");
        let provider = pf9_hostagent::tls::provider();
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .expect("verifier");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("tls 1.3")
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("identity");
        config.session_storage = ServerSessionMemoryCache::new(TICKETS);
        TlsAcceptor::from(Arc::new(config))
    }
}

/// The start of a session as the peer saw it.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) handle: Handle,
    pub(super) instance: String,
    pub(super) slot: String,
    /// What the host showed.
    pub(super) certificate: Option<Digest>,
}

/// What the peer has done so far, and may do.
#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) sessions: Vec<Seen>,
    pub(super) answered: u64,
    pub(super) long_begun: u64,
    pub(super) refused: u64,
    pub(super) muted: u64,
    pub(super) renewals: u64,
    /// Sessions that were and are over.
    pub(super) ended: u64,
}

struct Shared {
    state: watch::Sender<State>,
    /// Chunks of long answers that may be sent.
    released: watch::Sender<u64>,
    /// Status for refusing handshakes, and `Retry-After`.
    refuse: Mutex<Option<(StatusCode, Option<u64>)>>,
    /// The next session gets GOAWAY, and then nothing, not even its end.
    mute: Mutex<bool>,
    /// The authority that signs renewals.
    signer: Mutex<Option<Arc<Authority>>>,
    /// How long from now on what it signs is valid; as long as certificates can be, if not told.
    life: Mutex<Option<Duration>>,
    /// Of each session.
    config: Config,
}

pub(super) struct Peer {
    pub(super) address: SocketAddr,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    listening: Option<JoinSet<()>>,
}

impl Peer {
    pub(super) async fn start(world: &World) -> Self {
        Self::start_with(world, Config::default()).await
    }

    /// With these bounds of its sessions.
    pub(super) async fn start_with(world: &World, config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let mut peer = Self {
            address: listener.local_addr().expect("address"),
            acceptor: world.server(),
            shared: Arc::new(Shared {
                state: watch::Sender::default(),
                released: watch::Sender::new(0),
                refuse: Mutex::new(None),
                mute: Mutex::new(false),
                signer: Mutex::new(None),
                life: Mutex::new(None),
                config,
            }),
            listening: None,
        };
        peer.accept(listener);
        peer
    }

    fn accept(&mut self, listener: TcpListener) {
        let (acceptor, shared) = (self.acceptor.clone(), Arc::clone(&self.shared));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
                // Outlives the listener, as sessions do.
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(socket).await else {
                        return;
                    };
                    let shown = tls.get_ref().1.peer_certificates();
                    let shown = shown.and_then(|c| c.first()).map(|c| Digest::of(c));
                    let service = service_fn(move |request: Request<Incoming>| {
                        let answer = upgrade(&shared, request, shown);
                        async { Ok::<_, Infallible>(answer) }
                    });
                    drop(
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(tls), service)
                            .with_upgrades()
                            .await,
                    );
                });
            }
        });
        self.listening = Some(tasks);
    }

    /// Stops listening; sessions continue.
    pub(super) async fn stop_listening(&mut self) {
        if let Some(mut tasks) = self.listening.take() {
            tasks.shutdown().await;
        }
    }

    /// Listens again, at the same address.
    pub(super) async fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("bind again");
        self.accept(listener);
    }

    /// Sends GOAWAY on the newest session.
    pub(super) fn leave(&self, come_back: Duration) {
        let newest = self.state().sessions.pop().expect("a session");
        newest
            .handle
            .leave(Code::GoingAway, come_back, "the peer restarts");
    }

    pub(super) fn busy(&self, retry_after: u64) {
        self.refuse(StatusCode::SERVICE_UNAVAILABLE, Some(retry_after));
    }

    /// From now on it accepts no tunnel.
    pub(super) fn refuse(&self, status: StatusCode, retry_after: Option<u64>) {
        *self.shared.refuse.lock().expect("lock") = Some((status, retry_after));
    }

    /// Sends GOAWAY on the next session and nothing after it, until something is released.
    pub(super) fn mute_once(&self) {
        *self.shared.mute.lock().expect("lock") = true;
    }

    /// From now on renewals are signed, by this authority.
    pub(super) fn renew_by(&self, authority: &Arc<Authority>) {
        *self.shared.signer.lock().expect("lock") = Some(Arc::clone(authority));
    }

    /// What it signs from now on is valid for so long.
    pub(super) fn renew_for(&self, life: Duration) {
        *self.shared.life.lock().expect("lock") = Some(life);
    }

    /// Sessions that ended count no more.
    pub(super) fn forget_all_but_newest(&self) {
        self.shared.state.send_modify(|s| {
            let old = s.sessions.len().saturating_sub(1);
            s.sessions.drain(..old);
        });
    }

    pub(super) fn release(&self, chunks: u64) {
        self.shared.released.send_replace(chunks);
    }

    pub(super) fn state(&self) -> State {
        self.shared.state.borrow().clone()
    }

    /// Waits until the condition holds.
    pub(super) async fn until(&self, so: impl FnMut(&State) -> bool) -> State {
        let mut changes = self.shared.state.subscribe();
        within(changes.wait_for(so)).await.expect("peer").clone()
    }
}

fn upgrade(
    shared: &Arc<Shared>,
    mut request: Request<Incoming>,
    shown: Option<Digest>,
) -> Response<Empty<Bytes>> {
    let mut answer = Response::new(Empty::new());
    if let Some((status, after)) = *shared.refuse.lock().expect("lock") {
        shared.state.send_modify(|s| s.refused += 1);
        *answer.status_mut() = status;
        let after = after.map(|after| (header::RETRY_AFTER, HeaderValue::from(after)));
        answer.headers_mut().extend(after);
        return answer;
    }
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned() else {
        // Only asked whether it would accept.
        *answer.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return answer;
    };
    let asked = request.headers().clone();
    let upgrading = hyper::upgrade::on(&mut request);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrading.await else {
            return;
        };
        let upgraded = TokioIo::new(upgraded);
        let mute = std::mem::take(&mut *shared.mute.lock().expect("lock"));
        if mute {
            leave_and_hold(&shared, upgraded).await;
        } else {
            session(shared, upgraded, &asked, shown).await;
        }
    });
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = derive_accept_key(key.as_bytes());
    let accept = HeaderValue::from_str(&accept).expect("header");
    let rows = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(mux::SUBPROTOCOL),
        ),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    answer.headers_mut().extend(HeaderMap::from_iter(rows));
    answer
}

/// A plane that drains a session, learns that it has drained, and does not end.
async fn leave_and_hold(shared: &Shared, mut upgraded: TokioIo<hyper::upgrade::Upgraded>) {
    let hello = wire::Frame::Hello(wire::Hello {
        version: wire::limits::VERSION,
        initial_window: wire::limits::INITIAL_WINDOW,
        max_streams: wire::limits::STREAMS_MAX,
        capabilities: Vec::new(),
    });
    let farewell = wire::Frame::GoAway(wire::StreamId(0), Code::GoingAway, 0, "so long".into());
    for frame in [hello, farewell] {
        let message = frame.encode();
        let header = [0x82, u8::try_from(message.len()).expect("a short one")];
        upgraded.write_all(&header).await.expect("write");
        upgraded.write_all(&message).await.expect("write");
    }
    upgraded.flush().await.expect("flush");
    upgraded
        .read_to_end(&mut Vec::new())
        .await
        .expect("its close");
    shared.state.send_modify(|s| s.muted += 1);
    let mut released = shared.released.subscribe();
    drop(released.wait_for(|r| *r > 0).await);
}

async fn session(
    shared: Arc<Shared>,
    upgraded: TokioIo<hyper::upgrade::Upgraded>,
    asked: &HeaderMap,
    shown: Option<Digest>,
) {
    let socket = Websocket::new(Box::new(upgraded), Role::Server, Bytes::new());
    let (handle, mut incoming, driver) = mux::session(socket, Side::Plane, shared.config);
    let text = |name| {
        let value = asked.get(name).and_then(|v| v.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let seen = Seen {
        handle,
        instance: text(mux::INSTANCE_HEADER),
        slot: text(mux::SLOT_HEADER),
        certificate: shown,
    };
    shared.state.send_modify(|s| s.sessions.push(seen));
    let of_all = Arc::clone(&shared);
    let streams = async {
        let mut running = JoinSet::new();
        while let Some(opened) = incoming.next().await {
            assert_eq!(opened.open.service, mux::HOST_API);
            let shared = Arc::clone(&shared);
            running.spawn(async move {
                let Ok(stream) = opened.accept() else {
                    return;
                };
                let service = service_fn(move |request: Request<Incoming>| {
                    let shared = Arc::clone(&shared);
                    async move {
                        let answer = match request.uri().path() {
                            "/v1/hosts/self/renew" => renew(&shared, request).await,
                            _ => answer(&shared, &request),
                        };
                        Ok::<_, Infallible>(answer)
                    }
                });
                let http = hyper::server::conn::http1::Builder::new();
                drop(http.serve_connection(TokioIo::new(stream), service).await);
            });
        }
        while running.join_next().await.is_some() {}
    };
    tokio::join!(driver, streams);
    of_all.state.send_modify(|s| s.ended += 1);
}

type Body = BoxBody<Bytes, Infallible>;

fn answer(shared: &Shared, request: &Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/long" => {
            shared.state.send_modify(|s| s.long_begun += 1);
            let released = shared.released.subscribe();
            let chunks =
                futures_util::stream::unfold((0, released), |(n, mut released)| async move {
                    if n == CHUNKS {
                        return None;
                    }
                    released.wait_for(|r| *r > n).await.ok()?;
                    Some((Ok(Frame::data(chunk(n))), (n + 1, released)))
                });
            Response::new(StreamBody::new(chunks).boxed())
        }
        _ => {
            shared.state.send_modify(|s| s.answered += 1);
            Response::new(Full::new(Bytes::from_static(b"hello")).boxed())
        }
    }
}

/// From a moment ago until so much later than now, by the machine's own clock: TLS knows no other.
pub(super) fn valid_for(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = rcgen::date_time_ymd(1970, 1, 1) + now.expect("after 1970");
    params.not_before = now - Duration::from_secs(300);
    params.not_after = now + life;
}

/// Valid, and due for renewal since a while.
pub(super) fn due(params: &mut CertificateParams) {
    valid_for(params, Duration::from_secs(10_000));
    params.not_before -= Duration::from_secs(100_000);
}

async fn renew(shared: &Shared, request: Request<Incoming>) -> Response<Body> {
    let signer = shared.signer.lock().expect("lock").clone();
    let body = request
        .into_body()
        .collect()
        .await
        .expect("body")
        .to_bytes();
    shared.state.send_modify(|s| s.renewals += 1);
    let Some(signer) = signer else {
        let mut refused = Response::new(Empty::new().boxed());
        *refused.status_mut() = StatusCode::NOT_FOUND;
        return refused;
    };
    let asked: RenewRequest = serde_json::from_slice(&body).expect("request");
    // A requesting host names itself, and this peer trusts it.
    let mut csr = rcgen::CertificateSigningRequestParams::from_pem(&asked.csr).expect("csr");
    if let Some(life) = *shared.life.lock().expect("lock") {
        valid_for(&mut csr.params, life);
    }
    let answer = RenewAnswer {
        schema: 1,
        certificate: csr.signed_by(&*signer).expect("signed").pem(),
    };
    let json = serde_json::to_vec(&answer).expect("json");
    Response::new(Full::new(Bytes::from(json)).boxed())
}

fn chunk(n: u64) -> Bytes {
    let mut random = fastrand::Rng::with_seed(n);
    (0..CHUNK).map(|_| random.u8(..)).collect()
}

/// The long answer, complete.
pub(super) fn long_answer() -> Vec<u8> {
    (0..CHUNKS).flat_map(chunk).collect()
}
