//! The server: one HTTPS port for everybody, one Unix socket for the administrator.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, Uri};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use jiff::SignedDuration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::agents;
use super::alerts;
use super::budget::TUNNELS_PER_S;
use super::bundles;
use super::ca::LEAF_LIFE;
use super::claims;
use super::fair::Origin;
use super::handshakes::Handshakes;
use super::passwords::Passwords;
use super::peers::{self, Relayed};
use super::refusal::chain;
use super::state::{Parts, Plane};
use super::store::{EtcdPlace, Standing};
use super::strangers::{Outside, Stranger, Strangers};
use super::terminal::{Terminal, TerminalConfig};
use super::tls::ServerTls;
use super::tunnel::Shown;
use super::{
    admin, bootstrap, endpoints, maintenance, rights, rolls, routes, stacks, standing, terminal,
};
use pf9_hostagent::model::{Fault, FaultCode};
use pf9_hostagent::mux;
use pf9_hostagent::seam::disk;

/// What [`Server::start`] needs.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// All state is below this directory.
    pub state_dir: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `https://host:port` as nodes and operators reach the plane; absent: the listen address.
    pub public_url: Option<String>,
    /// `wss://host:port` of every plane that nodes are told of when they enrol, best first; none:
    /// this one only.
    pub endpoints: Vec<String>,
    /// Tunnels that may begin in a second; absent: the default.
    pub tunnels_per_s: Option<u32>,
    /// Life of the certificates that are signed for nodes; absent: a year.
    pub certificate_life: Option<Duration>,
    /// How long what is under way may take after a stop was asked for.
    pub drain: Duration,
    /// Life of the certificates of hosts; they are renewed at two thirds of it.
    pub host_certificate: SignedDuration,
    /// Connections at a time.
    pub connections: usize,
    /// How often every cluster's API is asked whether it is there.
    pub probe_every: Duration,
    /// How often what a patch policy asks for and could not start is looked at again.
    pub patches_every: Duration,
    /// The etcd that the rows are in; absent: in the state directory.
    pub etcd: Option<EtcdPlace>,
    /// `HOST:PORT` at which other planes of the fleet reach this one; absent: the listen address, if it is a single one.
    pub peer: Option<String>,
    /// What the page's terminal is run with.
    pub terminal: TerminalConfig,
    /// Networks in which projects may have receivers of alerts, besides the internet; without TLS as well.
    pub receiver_networks: Vec<IpNet>,
    /// Networks in which they may have none although no interface of this machine is in them.
    pub inside_networks: Vec<IpNet>,
}

/// A running plane.
pub struct Server {
    plane: Arc<Plane>,
    address: SocketAddr,
    drain: Duration,
}

/// Connections at a time: two sessions of each of ten thousand hosts (two, or an old one that
/// drains and its replacement) and four thousand for operators. One that waits for its handshake
/// costs a socket and a kilobyte; `command` sees that there are descriptors for them.
pub(super) const CONNECTIONS_MAX: usize = 24_576;
/// How long a newcomer waits for the place of a stranger who was cut off for it.
const ROOM: Duration = Duration::from_secs(1);
/// How long a connection may be silent between requests, or dribble a header.
pub(super) const HEADER_DEADLINE: Duration = Duration::from_secs(60);
/// Largest header block; kubectl's longest is 8 KiB.
const HEADER_MAX: usize = 64 * 1024;
/// After a failed accept (no file descriptors): do not spin.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long what is under way may take after a stop was asked for, unless told otherwise. Where
/// there is one endpoint nobody connects before the old process is gone: long enough for a request
/// of every day, and not so long that one shell or watch keeps a whole fleet away. A supervisor must
/// wait for this and [`CUT`] before it kills the plane.
pub(super) const DRAIN: Duration = Duration::from_secs(5);
/// Longest drain that can be asked for: nodes give an old session no more.
pub(super) const DRAIN_MAX: Duration = Duration::from_secs(600);
/// How long connections may take to end after what they carried was cut.
const CUT: Duration = Duration::from_secs(5);
/// How long a connection that has asked nothing yet may take to ask when a stop is asked for. A
/// stream's request follows its OPEN closely: not to wait would lose it, and its node does not know
/// whether it was done.
const FIRST_REQUEST: Duration = Duration::from_secs(2);

impl ServeConfig {
    /// With nothing but what is needed.
    pub fn new(state_dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            state_dir: state_dir.into(),
            listen,
            public_url: None,
            endpoints: Vec::new(),
            tunnels_per_s: None,
            certificate_life: None,
            drain: DRAIN,
            host_certificate: LEAF_LIFE,
            connections: CONNECTIONS_MAX,
            probe_every: alerts::PROBE_EVERY,
            patches_every: rolls::automatic::LOOK_EVERY,
            etcd: None,
            peer: None,
            terminal: TerminalConfig::default(),
            receiver_networks: Vec::new(),
            inside_networks: Vec::new(),
        }
    }
}

// === impl Server ===

impl Server {
    /// Opens the state directory, listens, serves.
    pub async fn start(config: ServeConfig) -> Result<Self, Fault> {
        let cannot = |why: String| Fault::new(FaultCode::PlaneStart, "cannot start the plane", why);
        let now = pf9_hostagent::seam::clock::now();
        let with_fix = |why: String, fix: Option<String>| match fix {
            Some(fix) => cannot(why).fix(fix),
            None => cannot(why),
        };
        let bind = async || {
            TcpListener::bind(config.listen).await.map_err(|e| {
                cannot(format!("{}: {e}", config.listen)).fix("choose another --listen address")
            })
        };
        let (listener, started, peer) = match &config.etcd {
            None => {
                let started = bootstrap::start(&config.state_dir, now);
                let started = started.map_err(|e| with_fix(chain(&e), e.fix()))?;
                (bind().await?, started, None)
            }
            Some(place) => {
                // First: a plane that stands by passes on what comes there.
                let listener = bind().await?;
                let address = listener.local_addr().map_err(|e| cannot(e.to_string()))?;
                let peer = peers::own_address(config.peer.as_deref(), address)?;
                let at = config.public_url.clone();
                let at = at.unwrap_or_else(|| format!("https://{address}"));
                let started = peers::stand_by(&config, place, &listener, &at, peer.as_ref()).await;
                let started = started.map_err(|e| with_fix(chain(&e), e.fix()))?;
                (listener, started, peer)
            }
        };
        let address = listener.local_addr().map_err(|e| cannot(e.to_string()))?;
        let public = public_url(config.public_url.as_deref(), address)?;
        let endpoints = endpoints::all(&config.endpoints, &public.url)?;
        if started.first {
            tracing::info!(dir = %config.state_dir.display(), "new plane: administrator's password is in admin-password");
        }
        let plane = Arc::new(Plane::new(Parts {
            store: started.store,
            dir: config.state_dir.clone(),
            ring: started.ring,
            passwords: Passwords::new().map_err(|e| cannot(chain(&e)))?,
            public_url: public.url,
            endpoints: endpoints.urls,
            tunnels_per_s: config.tunnels_per_s.unwrap_or(TUNNELS_PER_S),
            certificate_life: config
                .certificate_life
                .and_then(|life| SignedDuration::try_from(life).ok())
                .unwrap_or(LEAF_LIFE),
            host_life: config.host_certificate,
            relayed: Relayed::new(address),
            peer: peer.as_ref().map(|p| p.at.clone()),
            terminal: Terminal::new(config.terminal.clone()).map_err(|e| cannot(chain(&e)))?,
            receiver_networks: config.receiver_networks.clone(),
            inside_networks: config.inside_networks.clone(),
        }));
        terminal::tidy(&plane.files);
        claims::index::settle(&plane.store).map_err(|e| with_fix(chain(&e), e.fix()))?;
        let mut names = server_names(&public.host, address);
        // One of them leads here, perhaps by another name.
        names.extend(endpoints.hosts);
        names.extend(peer.map(|p| p.host));
        let tls = ServerTls::new(&plane.keys.ring(), names, now).map_err(|e| cannot(chain(&e)))?;
        let tls = Arc::new(tls);
        let socket = admin_socket(&config.state_dir)
            .map_err(|e| cannot(format!("{}: {e}", admin::SOCKET)))?;
        let tasks = plane.tasks.clone();
        let accept = accept_tls(
            Arc::clone(&plane),
            listener,
            Arc::clone(&tls),
            config.connections,
        );
        tasks.spawn(accept);
        tasks.spawn(accept_admin(Arc::clone(&plane), socket));
        tasks.spawn(tls.keep_fresh(Arc::clone(&plane)));
        tasks.spawn(rights::keep(Arc::clone(&plane)));
        tasks.spawn(agents::runner::keep(
            Arc::clone(&plane),
            config.patches_every,
        ));
        tasks.spawn(rolls::automatic::keep(
            Arc::clone(&plane),
            config.patches_every,
        ));
        tasks.spawn(stacks::ahead::keep(Arc::clone(&plane)));
        tasks.spawn(maintenance::keep(Arc::clone(&plane)));
        tasks.spawn(bundles::keep(Arc::clone(&plane)));
        tasks.spawn(alerts::keep(Arc::clone(&plane)));
        tasks.spawn(alerts::deliver(Arc::clone(&plane)));
        tasks.spawn(alerts::probe(Arc::clone(&plane), config.probe_every));
        tasks.spawn(keep_refused(Arc::clone(&plane)));
        tasks.spawn(standing::tell(Arc::clone(&plane)));
        tasks.spawn(keep_whereabouts(Arc::clone(&plane)));
        tracing::info!(%address, url = plane.public_url, "ready");
        Ok(Self {
            plane,
            address,
            drain: config.drain.min(DRAIN_MAX),
        })
    }

    /// Waits until another plane has the store, and answers who: this one has to end then.
    pub async fn lost(&self) -> String {
        let Some(mut standing) = self.plane.store.standing() else {
            return std::future::pending().await;
        };
        let lost = standing.wait_for(|s| matches!(s, Standing::Lost(_))).await;
        match lost.as_deref() {
            Ok(Standing::Lost(to)) => to.clone(),
            Ok(Standing::Ours { .. }) | Err(_) => "nobody: the store is closed".into(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://host:port`, as it is reached.
    pub fn public_url(&self) -> &str {
        &self.plane.public_url
    }

    /// Drains: takes no new work, tells the hosts to come back, lets what is under way finish for
    /// as long as it may, ends the rest.
    pub async fn stop(self) {
        self.stop_unless(std::future::pending()).await;
    }

    /// As [`Server::stop`], but waits for nothing any more once `at_once` is ready.
    pub async fn stop_unless(self, at_once: impl Future<Output = ()>) {
        tokio::select! {
            () = self.drain() => {}
            () = at_once => tracing::warn!("stopping at once: open requests and streams are cut"),
        }
        self.plane.store.leave().await;
        let socket = self.plane.dir.join(admin::SOCKET);
        if let Err(e) = disk::remove_file(&socket) {
            tracing::debug!(why = %e, "admin socket was gone already");
        }
    }

    async fn drain(&self) {
        self.plane.sessions.drain();
        self.plane.shutdown.cancel();
        self.plane.tasks.close();
        let idle = || self.plane.tasks.wait();
        if tokio::time::timeout(self.drain, idle()).await.is_ok() {
            return;
        }
        tracing::info!(
            after_s = self.drain.as_secs(),
            "remaining requests and streams are cut"
        );
        self.plane.cut.cancel();
        if tokio::time::timeout(CUT, idle()).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
    }
}

async fn keep_refused(plane: Arc<Plane>) {
    plane.refused.keep(plane.shutdown.clone()).await;
}

async fn keep_whereabouts(plane: Arc<Plane>) {
    plane.whereabouts.keep(plane.shutdown.clone()).await;
}

struct PublicUrl {
    url: String,
    host: String,
}

fn public_url(given: Option<&str>, address: SocketAddr) -> Result<PublicUrl, Fault> {
    let bad = |why: &str| {
        Fault::new(
            FaultCode::Usage,
            "cannot start the plane",
            format!("--public-url: {why}"),
        )
        .fix("give it as https://HOST:PORT")
    };
    let Some(given) = given else {
        if address.ip().is_unspecified() {
            return Err(bad("is needed when --listen is no single address"));
        }
        return Ok(PublicUrl {
            url: format!("https://{address}"),
            host: address.ip().to_string(),
        });
    };
    let uri: Uri = given
        .trim_end_matches('/')
        .parse()
        .map_err(|_| bad("is not a URL"))?;
    if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") || uri.query().is_some()
    {
        return Err(bad("is not https://HOST:PORT"));
    }
    let authority = uri.authority().ok_or_else(|| bad("names no host"))?;
    if authority.as_str().contains('@') {
        return Err(bad("must not hold a user name"));
    }
    Ok(PublicUrl {
        url: format!("https://{authority}"),
        host: authority.host().trim_matches(['[', ']']).to_owned(),
    })
}

/// Names and addresses of the server's certificate.
fn server_names(public: &str, address: SocketAddr) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = ["localhost", "127.0.0.1", "::1", public]
        .into_iter()
        .map(str::to_owned)
        .collect();
    if !address.ip().is_unspecified() {
        names.insert(address.ip().to_string());
    }
    names
}

/// The store's lock says that we are the only plane here, so a socket that is left is stale.
fn admin_socket(dir: &Path) -> io::Result<UnixListener> {
    let path = dir.join(admin::SOCKET);
    match disk::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path)?;
    disk::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn accept_tls(
    plane: Arc<Plane>,
    listener: TcpListener,
    tls: Arc<ServerTls>,
    connections: usize,
) {
    let connections = Arc::new(Semaphore::new(connections));
    let handshakes = Arc::new(Handshakes::default());
    let strangers = Strangers::default();
    let router = routes::router(&plane);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = plane.shutdown.cancelled() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::warn!(why = %e, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Full: a stranger is cut off, who is known stays. One goes for each that comes, so no more
        // wait for a place than have left one.
        let free = Arc::clone(&connections).try_acquire_owned().ok();
        if free.is_none() && !strangers.make_room() {
            tracing::warn!("connection refused: too many connections");
            continue;
        }
        let until = Until::of(&plane).or_cut();
        let address = plane.relayed.client(address);
        let stranger = Arc::new(strangers.enter(Origin::of(address), until.cut.clone()));
        let (acceptor, router) = (tls.acceptor(), router.clone());
        let (handshakes, connections) = (Arc::clone(&handshakes), Arc::clone(&connections));
        plane.tasks.spawn(async move {
            let place = match free {
                Some(free) => Some(free),
                None => vacated(connections).await,
            };
            if place.is_some() {
                serve_tls(stream, &acceptor, &handshakes, router, stranger, until).await;
            }
        });
    }
}

/// The place of somebody who was cut off.
async fn vacated(connections: Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    let place = tokio::time::timeout(ROOM, connections.acquire_owned());
    place.await.ok()?.ok()
}

async fn serve_tls(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    handshakes: &Handshakes,
    router: Router,
    stranger: Arc<Stranger>,
    until: Until,
) {
    let accepted = tokio::select! {
        accepted = handshakes.accept_of(stranger.origin(), stream, acceptor) => accepted,
        () = until.cut.cancelled() => return,
        // Who is not connected yet finds another plane, or this one later.
        () = until.shutdown.cancelled() => return,
    };
    let Some(stream) = accepted else {
        return;
    };
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(|c| c.first());
    let shown = certificate.map(|c| Shown(Arc::from(c.as_ref())));
    let outside = Outside { stranger, shown };
    serve_http(mux::Secured::new(stream), router, Some(outside), until).await;
}

async fn accept_admin(plane: Arc<Plane>, listener: UnixListener) {
    let router = admin::router(Arc::clone(&plane));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = plane.shutdown.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, until) = (router.clone(), Until::of(&plane));
                plane
                    .tasks
                    .spawn(serve_http(stream, router, None::<Outside>, until));
            }
            Err(e) => {
                tracing::warn!(why = %e, "cannot accept on the admin socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// How long a connection is served.
#[derive(Clone)]
pub(super) struct Until {
    /// No further request is read.
    pub(super) shutdown: CancellationToken,
    /// Nothing goes on.
    pub(super) cut: CancellationToken,
}

impl Until {
    pub(super) fn of(plane: &Plane) -> Self {
        Self {
            shutdown: plane.shutdown.clone(),
            cut: plane.cut.clone(),
        }
    }

    /// The same for one connection, which may be cut by itself.
    fn or_cut(self) -> Self {
        Self {
            cut: self.cut.child_token(),
            ..self
        }
    }
}

/// Serves HTTP/1.1 on any byte stream until it ends. `known` stands in the extensions of every
/// request: what the connection itself proved.
pub(super) async fn serve_http<S, K>(stream: S, router: Router, known: Option<K>, until: Until)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    K: Clone + Send + Sync + 'static,
{
    let asked = CancellationToken::new();
    let asks = asked.clone();
    let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
        asks.cancel();
        if let Some(known) = known.clone() {
            request.extensions_mut().insert(known);
        }
        let service = hyper_util::service::TowerToHyperService::new(router.clone());
        hyper::service::Service::call(&service, request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(HEADER_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let last_request = async {
        until.shutdown.cancelled().await;
        // A connection without a request would be closed without an answer; it makes no difference
        // whether one comes in time.
        drop(tokio::time::timeout(FIRST_REQUEST, asked.cancelled()).await);
    };
    let mut last_request = std::pin::pin!(last_request);
    let mut stopping = false;
    let ended = loop {
        tokio::select! {
            // cancel-safe: the connection is kept, the others only watch
            ended = connection.as_mut() => break ended,
            () = last_request.as_mut(), if !stopping => {
                stopping = true;
                // Answers that are under way are finished; no further request is read.
                connection.as_mut().graceful_shutdown();
            }
            () = until.cut.cancelled() => return,
        }
    };
    if let Err(e) = ended {
        tracing::debug!(why = chain(&e), "connection ended");
    }
}
