//! The plane's end of the tunnel, made of the same parts as the plane's own.
//!
//! Handshakes take turns as they do there, and of many nodes as many may begin in a second. What is
//! missing is what is known of a host: no store is asked, no certificate looked up.
//!
//! Each TCP connection to one of two local addresses becomes a stream of that class to the node.

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::body::Incoming as Body;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pf9_hostagent::model::HostId;
use pf9_hostagent::mux::{self, Handle, Role, Websocket};
use pf9_hostagent::wire::{Class, Code, Config, Meta, Side};
use pf9_plane::{Budget, Full, Handshakes, TUNNELS_PER_S};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::prepare;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What `prepare` wrote.
    #[arg(long)]
    dir: PathBuf,
    /// Most bytes a session may make this end hold, MiB; the protocol's default when not given.
    #[arg(long)]
    window_mib: Option<u64>,
    /// Seconds between pings of this end; the protocol's default when not given.
    #[arg(long)]
    ping_s: Option<u64>,
    /// Sessions of many nodes side by side instead of the newest one only; as many may begin in a
    /// second as with the plane.
    #[arg(long)]
    many: bool,
    /// Where nodes connect.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// Longest a connection waits for a session.
const SESSION_WAIT: Duration = Duration::from_secs(30);

struct Plane {
    config: Config,
    /// How many sessions may begin, if they are many.
    budget: Option<Mutex<Budget>>,
    began: Instant,
    handshakes: Handshakes,
    current: watch::Sender<Option<Handle>>,
    up: std::sync::atomic::AtomicUsize,
}

pub(crate) fn run(args: Args) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(serve(args))
}

async fn serve(args: Args) -> Result<()> {
    let acceptor = TlsAcceptor::from(prepare::server_config(&args.dir)?);
    let mut config = Config::default();
    if let Some(mib) = args.window_mib {
        config.connection_window = mib << 20;
    }
    if let Some(seconds) = args.ping_s {
        config.ping_interval = Duration::from_secs(seconds);
    }
    let plane = Arc::new(Plane {
        config,
        budget: args.many.then(|| Mutex::new(Budget::new(TUNNELS_PER_S))),
        began: Instant::now(),
        handshakes: Handshakes::default(),
        current: watch::Sender::new(None),
        up: std::sync::atomic::AtomicUsize::new(0),
    });
    let interactive = local(&plane, Class::Interactive).await?;
    let bulk = local(&plane, Class::Bulk).await?;
    let listener = tokio::net::TcpSocket::new_v4()?;
    // Where a plane was before it, its connections may linger.
    listener.set_reuseaddr(true)?;
    listener.bind(args.listen)?;
    let listener = listener.listen(4096)?;
    tell(&format!("{} {interactive} {bulk}", listener.local_addr()?));
    loop {
        let (socket, _) = listener.accept().await?;
        let (acceptor, plane) = (acceptor.clone(), Arc::clone(&plane));
        tokio::spawn(async move {
            if let Err(e) = node(&plane, socket, acceptor).await {
                eprintln!("{e:#}");
            }
        });
    }
}

impl Plane {
    /// Lets a session begin, or says in how many seconds it may.
    fn admit(&self) -> Result<(), u64> {
        let Some(budget) = &self.budget else {
            return Ok(());
        };
        let mut budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
        // One process plays all hosts: none of them comes twice as far as the shares are concerned.
        let host = HostId::random();
        match budget.admit(host, self.began.elapsed()) {
            Ok(()) => Ok(()),
            Err(Full::All(after) | Full::Share(after)) => Err(after),
        }
    }
}

/// A line for the process that started this one.
fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more: then nobody misses it.
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}

async fn local(plane: &Arc<Plane>, class: Class) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let plane = Arc::clone(plane);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let session = plane.current.subscribe();
            tokio::spawn(carry(session, socket, class));
        }
    });
    Ok(address)
}

/// One TCP connection, one stream.
async fn carry(mut session: watch::Receiver<Option<Handle>>, socket: TcpStream, class: Class) {
    drop(socket.set_nodelay(true));
    let handle = {
        let up = tokio::time::timeout(SESSION_WAIT, session.wait_for(Option::is_some)).await;
        match up {
            Ok(Ok(handle)) => handle.clone(),
            Ok(Err(_)) | Err(_) => None,
        }
    };
    let Some(handle) = handle else {
        return;
    };
    match handle.open(prepare::SERVICE, class, Meta::new()) {
        // A stream that ended early is the load's to notice.
        Ok(stream) => drop(mux::splice(stream, Box::new(socket)).await),
        Err(e) => eprintln!("cannot open a stream: {e}"),
    }
}

/// One node: TLS, HTTP upgrade, session.
async fn node(plane: &Arc<Plane>, socket: TcpStream, acceptor: TlsAcceptor) -> Result<()> {
    let tls = plane.handshakes.accept(socket, &acceptor).await;
    let tls = tls.context("no TLS in time")?;
    let service = service_fn(|request: Request<Body>| {
        let answer = upgrade(plane, request);
        async { Ok::<_, Infallible>(answer) }
    });
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(mux::Secured::new(tls)), service)
        .with_upgrades()
        .await
        .context("HTTP")
}

fn upgrade(plane: &Arc<Plane>, mut request: Request<Body>) -> Response<Empty<Bytes>> {
    let mut answer = Response::new(Empty::new());
    if let Err(after) = plane.admit() {
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let after = HeaderValue::from(after);
        answer.headers_mut().insert(header::RETRY_AFTER, after);
        return answer;
    }
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
    let accept = key.map(|key| derive_accept_key(key.as_bytes()));
    let Some(Ok(accept)) = accept.map(|key| HeaderValue::from_str(&key)) else {
        *answer.status_mut() = StatusCode::BAD_REQUEST;
        return answer;
    };
    let upgrading = hyper::upgrade::on(&mut request);
    let plane = Arc::clone(plane);
    tokio::spawn(async move {
        match upgrading.await {
            Ok(upgraded) => session(&plane, TokioIo::new(upgraded)).await,
            Err(e) => eprintln!("upgrade: {e}"),
        }
    });
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(
        header::SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(mux::SUBPROTOCOL),
    );
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    answer
}

async fn session(plane: &Plane, upgraded: TokioIo<hyper::upgrade::Upgraded>) {
    let websocket = Websocket::new(Box::new(upgraded), Role::Server, Bytes::new());
    let (handle, mut incoming, driver) = mux::session(websocket, Side::Plane, plane.config);
    let before = plane.current.send_replace(Some(handle));
    let up = 1 + plane.up.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
    if plane.budget.is_some() {
        tell(&format!("up {up}"));
    } else {
        tell("up");
        if let Some(before) = before {
            before.close(Code::Replaced, "a newer session took over");
        }
    }
    let refuse = async {
        while let Some(opened) = incoming.next().await {
            opened.refuse(Code::UnknownService, 0, "no such service");
        }
    };
    let (closed, ()) = tokio::join!(driver, refuse);
    let up = plane.up.fetch_sub(1, std::sync::atomic::Ordering::AcqRel) - 1;
    if plane.budget.is_some() {
        tell(&format!("up {up}"));
    } else {
        tell(&format!("down {closed}"));
    }
}
