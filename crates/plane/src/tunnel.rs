//! Tunnels: `GET /v1/tunnel` with a host certificate becomes a session.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use jiff::Timestamp;

use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::budget::Full;
use super::ca;
use super::hostapi::{self, Peer};
use super::hostkey::{self, By, Stranger};
use super::machines::{self, Hello};
use super::polls;
use super::records::{HOSTS, REMOVED};
use super::refusal::{Answer, Refusal, chain};
use super::serve::Until;
use super::sessions::Place;
use super::state::Plane;
use super::store::Read;
use super::strangers::Outside;
use pf9_hostagent::model::{Digest, FaultCode, HostId, Secret, SessionKind};
use pf9_hostagent::mux::{self, Handle, Incoming, Role, Websocket};
use pf9_hostagent::wire::{Code, Config, Side};

/// How long a session that is over may linger while its rest is cut.
const STOP_LINGER: Duration = Duration::from_secs(1);
/// How long streams may continue after the session's certificate expired: as long as nodes give an old session.
const OUTLIVED: Duration = Duration::from_secs(600);
/// Longest wait between reads of the clock, which may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The routes that hosts reach through their tunnels. Cheap to clone.
#[derive(Clone)]
pub(super) struct HostApi(Router);

impl HostApi {
    pub(super) fn of(plane: &Arc<Plane>) -> Self {
        Self(hostapi::router(Arc::clone(plane)))
    }
}

/// The certificate that a connection presented, DER.
#[derive(Clone, Debug)]
pub(super) struct Shown(pub(super) Arc<[u8]>);

/// The owner of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    /// What a session knows about its other end.
    pub(super) peer: Peer,
    is_news: bool,
}

/// The host that a certificate belongs to, and what it opens; see [`hostkey`].
pub(super) fn identify(
    rows: &impl Read,
    shown: Option<&Shown>,
    now: Timestamp,
) -> Answer<Admitted> {
    let refuse = |code: FaultCode, why: &str| {
        Refusal::forbidden(code, "tunnel refused", why).fix("run pf9ctl node prep with a new token")
    };
    let shown = shown.ok_or_else(|| {
        refuse(
            FaultCode::CertificateMissing,
            "the connection showed no host certificate",
        )
    })?;
    // TLS has verified our authority's signature; for a resumed session some time ago.
    let name = ca::common_name(&shown.0).unwrap_or_default();
    let (Ok(host), Some(life)) = (name.parse::<HostId>(), ca::life(&shown.0)) else {
        return Err(refuse(
            FaultCode::CertificateForeign,
            "it is not a host certificate",
        ));
    };
    let (row, certificate) = (host.to_string(), Digest::of(&shown.0));
    let (enrolled, removed) = (rows.get(&HOSTS, &row)?, rows.get(&REMOVED, &row)?);
    let judged = hostkey::standing(enrolled.as_ref(), removed.as_ref(), &certificate, life, now);
    let standing = judged.map_err(|why| match why {
        Stranger::Unknown => refuse(FaultCode::HostUnknown, "the host is no longer enrolled"),
        Stranger::Replaced => refuse(
            FaultCode::CertificateRevoked,
            "the host has a newer certificate",
        ),
        Stranger::Early => refuse(
            FaultCode::CertificateEarly,
            "it is not valid yet: check the clocks",
        ),
    })?;
    Ok(Admitted {
        peer: Peer {
            host,
            kind: standing.kind,
            by: By {
                certificate,
                ends: life.not_after,
            },
        },
        is_news: standing.is_news,
    })
}

/// A certificate that is presented for the first time becomes the pinned one.
async fn pin(plane: &Arc<Plane>, admitted: &Admitted) -> Answer<()> {
    if !admitted.is_news {
        return Ok(());
    }
    let Peer { host, by, .. } = admitted.peer;
    plane
        .change(move |change| hostkey::shown(change, host, &by.certificate))
        .await?;
    tracing::info!(%host, certificate = %by.certificate, "host certificate proven");
    // A host that could only renew has done so: it reconnects with a full session.
    let renewed = SessionKind::RenewalOnly;
    plane
        .sessions
        .retire_kind(host, renewed, "the certificate is renewed");
    Ok(())
}

/// The machine is checked before anything changes for the host that it may be a copy of: its sessions, and its pinned
/// key. Returns the next ticket.
async fn look_at_machine(
    plane: &Arc<Plane>,
    peer: Peer,
    begins: bool,
    hello: Hello,
    shown: Option<&Shown>,
) -> Answer<Option<Secret<String>>> {
    match peer.kind {
        SessionKind::Full | SessionKind::RenewalOnly => {}
        // Nothing is stored about a removed host, and its order of removal is for each machine.
        SessionKind::RemovalOnly => return Ok(None),
    }
    let certificate = shown.map(|s| Arc::clone(&s.0)).unwrap_or_default();
    machines::begin(plane, peer.host, begins, hello, certificate).await
}

/// `GET /v1/tunnel`.
pub(super) async fn accept(State(plane): State<Arc<Plane>>, mut parts: Parts) -> Answer<Response> {
    let outside = parts.extensions.remove::<Outside>();
    let (stranger, shown) = outside.map(|o| (o.stranger, o.shown)).unzip();
    let shown = shown.flatten();
    // A client that is not a host is refused here and uses nobody's budget: two reads of rows in memory.
    let admitted = identify(
        &plane.read()?,
        shown.as_ref(),
        pf9_hostagent::seam::clock::now(),
    )?;
    // A reconnecting fleet is told to spread before more work is done for it.
    plane.admit_tunnel(admitted.peer.host).map_err(|full| {
        let (why, after) = match full {
            Full::All(after) => ("many hosts reconnect at once", after),
            Full::Share(after) => ("this host opens too many tunnels", after),
        };
        Refusal::busy("tunnel refused", why, after)
    })?;
    let hello = Hello::of(&parts.headers)
        .map_err(|why| Refusal::bad(FaultCode::HandshakeInvalid, "tunnel refused", why))?;
    let key = match check_handshake(&parts) {
        Ok(key) => key,
        Err(only_asks) => {
            // Whether it would be accepted: acceptance also pins a certificate.
            if admitted.is_news {
                look_at_machine(&plane, admitted.peer, false, hello, shown.as_ref()).await?;
                pin(&plane, &admitted).await?;
            }
            return Err(only_asks);
        }
    };
    let place = Place::of(&parts.headers)
        .map_err(|why| Refusal::bad(FaultCode::HandshakeInvalid, "tunnel refused", why))?;
    let upgrade = parts.extensions.remove::<OnUpgrade>().ok_or_else(|| {
        Refusal::bad(
            FaultCode::UpgradeImpossible,
            "tunnel refused",
            "this connection cannot upgrade",
        )
    })?;
    let HostApi(router) = parts.extensions.remove().ok_or_else(|| {
        let why = "this listener has no host API";
        Refusal::bad(FaultCode::UpgradeImpossible, "tunnel refused", why)
    })?;
    let ticket = look_at_machine(&plane, admitted.peer, true, hello, shown.as_ref()).await?;
    pin(&plane, &admitted).await?;
    // Sessions of a host have a bound of their own.
    if let Some(stranger) = stranger {
        stranger.known();
    }
    let accept_key = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let shared = Arc::clone(&plane);
    let kind = admitted.peer.kind;
    plane
        .tasks
        .spawn(run(shared, admitted, place, shown, upgrade, router));
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(mux::SUBPROTOCOL),
        ),
        (
            header::SEC_WEBSOCKET_ACCEPT,
            HeaderValue::from_str(&accept_key)
                .map_err(|e| Refusal::internal("tunnel refused", &e))?,
        ),
        (
            HeaderName::from_static(mux::SESSION_HEADER),
            HeaderValue::from_static(kind.as_str()),
        ),
    ];
    let mut answer = (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
    if let Some(ticket) = ticket {
        let value = HeaderValue::from_str(ticket.expose())
            .map_err(|e| Refusal::internal("tunnel refused", &e))?;
        answer.headers_mut().insert(mux::TICKET_HEADER, value);
    }
    Ok(answer)
}

/// The websocket handshake of RFC 6455; returns the client's key.
fn check_handshake(parts: &Parts) -> Answer<String> {
    let header = |name: header::HeaderName| {
        let values = parts.headers.get_all(name).iter();
        values
            .filter_map(|v| v.to_str().ok())
            .collect::<Vec<_>>()
            .join(",")
    };
    let has = |name: header::HeaderName, word: &str| {
        header(name)
            .split(',')
            .any(|w| w.trim().eq_ignore_ascii_case(word))
    };
    let bad = |why: &str| Refusal::bad(FaultCode::HandshakeInvalid, "tunnel refused", why);
    if !has(header::CONNECTION, "upgrade") || !has(header::UPGRADE, "websocket") {
        return Err(bad("it is not a websocket handshake"));
    }
    if header(header::SEC_WEBSOCKET_VERSION) != "13" {
        return Err(bad("the websocket version is not 13"));
    }
    if !has(header::SEC_WEBSOCKET_PROTOCOL, mux::SUBPROTOCOL) {
        return Err(bad("the websocket protocol is not pf9-tunnel.v1"));
    }
    let key = header(header::SEC_WEBSOCKET_KEY);
    if key.is_empty() {
        return Err(bad("there is no Sec-WebSocket-Key"));
    }
    Ok(key)
}

/// One session, from the end of the handshake to the end of the connection.
async fn run(
    plane: Arc<Plane>,
    admitted: Admitted,
    place: Place,
    shown: Option<Shown>,
    upgrade: OnUpgrade,
    router: Router,
) {
    // Boxed, and so freed when it is done: the task lives for weeks.
    let begun = Box::pin(begin(&plane, admitted, place, shown, upgrade)).await;
    if let Some(begun) = begun {
        drive(&plane, admitted.peer, begun, router).await;
    }
}

/// A session that has just begun.
struct Begun {
    number: u64,
    handle: Handle,
    incoming: Incoming,
    driver: Box<mux::Driver>,
}

/// The upgraded connection becomes a session of its host.
async fn begin(
    plane: &Arc<Plane>,
    admitted: Admitted,
    place: Place,
    shown: Option<Shown>,
    upgrade: OnUpgrade,
) -> Option<Begun> {
    let Peer { host, kind, .. } = admitted.peer;
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(e) => {
            tracing::debug!(%host, why = chain(&e), "tunnel was not taken over");
            return None;
        }
    };
    let socket = Websocket::new(Box::new(TokioIo::new(upgraded)), Role::Server, Bytes::new());
    let (handle, incoming, driver) = mux::session(socket, Side::Plane, Config::default());
    let driver = Box::new(driver);
    let number = plane.sessions.begin(host, place, kind, handle.clone());
    tracing::info!(%host, session = number, %kind, "tunnel up");
    // The host may have been removed, or the plane told to stop, since the handshake.
    let still = plane.read().and_then(|rows| {
        let admitted = identify(&rows, shown.as_ref(), pf9_hostagent::seam::clock::now())?;
        plane.rights.connected(&rows, host);
        Ok(admitted)
    });
    match still {
        Ok(now) if now.peer == admitted.peer => {}
        Ok(_) => handle.close(
            Code::NotAllowed,
            "the rights of this certificate have changed",
        ),
        Err(refusal) => handle.close(Code::NotAllowed, &refusal.fault.why),
    }
    if plane.shutdown.is_cancelled() {
        handle.leave(Code::GoingAway, Duration::ZERO, "the plane stops");
    }
    Some(Begun {
        number,
        handle,
        incoming,
        driver,
    })
}

/// Everything that a session does from then on.
async fn drive(plane: &Arc<Plane>, peer: Peer, begun: Begun, router: Router) {
    let Begun {
        number,
        handle,
        incoming,
        driver,
    } = begun;
    let host = peer.host;
    let served = async {
        serve_streams(plane, peer, incoming, router).await;
        let closed = handle.closed().await;
        plane.sessions.over(host, number);
        tracing::info!(%host, session = number, why = %closed, "tunnel down");
    };
    // A driver outlives its session until the host has received everything.
    let driven = async {
        tokio::select! {
            _ = driver => {}
            () = cut(plane, &handle) => {}
            () = outlive(&handle, peer) => {}
        }
    };
    tokio::join!(driven, served);
}

/// Cuts the session when the plane's time to drain is over, and waits out the linger.
async fn cut(plane: &Plane, handle: &Handle) {
    plane.cut.cancelled().await;
    handle.close(Code::GoingAway, "the plane stops: the drain time ran out");
    tokio::time::sleep(STOP_LINGER).await;
}

/// Drains a session when its certificate expires. The host reconnects immediately, with its next one, or to renew;
/// running streams may finish.
async fn outlive(handle: &Handle, peer: Peer) {
    match peer.kind {
        SessionKind::Full => {}
        // Opened by an expired one, and allowed next to nothing.
        SessionKind::RenewalOnly | SessionKind::RemovalOnly => std::future::pending().await,
    }
    loop {
        let left = peer
            .by
            .ends
            .duration_since(pf9_hostagent::seam::clock::now());
        match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => tokio::time::sleep(left.min(LOOK_AGAIN)).await,
            Ok(_) | Err(_) => break,
        }
    }
    let words = "the certificate that opened this session has expired";
    handle.leave(Code::GoingAway, Duration::ZERO, words);
    tokio::time::sleep(OUTLIVED).await;
    handle.close(Code::NotAllowed, words);
    tokio::time::sleep(STOP_LINGER).await;
}

/// Serves the streams a host opens, until the connection is over.
async fn serve_streams(plane: &Arc<Plane>, peer: Peer, mut incoming: Incoming, router: Router) {
    let host = peer.host;
    // As many at a time as the protocol allows the host; they end with the session.
    let mut streams = JoinSet::new();
    loop {
        let opened = tokio::select! {
            opened = incoming.next() => opened,
            Some(_) = streams.join_next() => continue,
        };
        let Some(opened) = opened else {
            return;
        };
        if opened.open.service != mux::HOST_API {
            opened.refuse(Code::UnknownService, 0, "the plane has no such service");
            continue;
        }
        match opened.accept() {
            Ok(stream) => {
                let until = Until::of(plane);
                streams.spawn(polls::serve(stream, router.clone(), peer, until));
            }
            Err(e) => tracing::debug!(%host, why = %e, "stream was closed already"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of what such a function makes, whatever it is called with.
    fn size_of_task<A, B, C, D, E, G, F: Future>(_: fn(A, B, C, D, E, G) -> F) -> usize {
        size_of::<F>()
    }

    fn size_of_serving<A, B, C, D, F: Future>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Every host has one of the first and two of the second, for weeks.
    #[test]
    fn the_tasks_of_an_idle_session_are_small() {
        let (session, poll) = (size_of_task(run), size_of_serving(polls::serve));
        println!("a session's task: {session} bytes, a poll's: {poll}");
        // 1440 and 1264 with Rust 1.95.
        assert!(session <= 1536 && poll <= 1344, "{session} and {poll}");
    }
}
