//! Tunnels: `GET /v1/tunnel` with a host certificate becomes a session.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use jiff::Timestamp;

use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::ca;
use super::hostapi::{self, Caller};
use super::machines::{self, Hello};
use super::records::HOSTS;
use super::refusal::{Answer, Refusal, chain};
use super::serve::{Until, serve_http};
use super::sessions::Place;
use super::state::Plane;
use super::store::Read;
use crate::model::{Digest, HostId};
use crate::mux::{self, Handle, Incoming, Role, Websocket};
use crate::wire::{Code, Config, Side};

/// Longest a session that is over may linger when what is left of a stop is cut.
const STOP_LINGER: Duration = Duration::from_secs(1);

/// The certificate a connection showed, DER; among the extensions of each of its requests.
#[derive(Clone, Debug)]
pub(super) struct Shown(pub(super) Arc<[u8]>);

/// The host a certificate stands for, if it is the good one of an enrolled host.
pub(super) fn identify(rows: &impl Read, shown: Option<&Shown>) -> Answer<HostId> {
    let refuse = |code: &str, why: &str| {
        Refusal::forbidden(code, "tunnel refused", why).fix("run pf9ctl prep-node with a new token")
    };
    let shown = shown.ok_or_else(|| {
        refuse(
            "certificate-missing",
            "the connection showed no host certificate",
        )
    })?;
    // TLS has checked that our authority signed it, but for a resumed session that was some time ago.
    if !ca::is_current(&shown.0, Timestamp::now()) {
        return Err(refuse("certificate-expired", "it is not of this time"));
    }
    let name = ca::common_name(&shown.0).unwrap_or_default();
    let host: HostId = name
        .parse()
        .map_err(|_| refuse("certificate-foreign", "it is no host's certificate"))?;
    let row = rows
        .get(&HOSTS, &host.to_string())?
        .ok_or_else(|| refuse("host-unknown", "the host is not enrolled any more"))?;
    if row.certificate != Digest::of(&shown.0) {
        return Err(refuse(
            "certificate-revoked",
            "the host has a newer certificate",
        ));
    }
    Ok(host)
}

/// `GET /v1/tunnel`.
pub(super) async fn accept(State(plane): State<Arc<Plane>>, mut parts: Parts) -> Answer<Response> {
    let shown = parts.extensions.remove::<Shown>();
    // A fleet that comes back is told to spread before anything is looked up for it. Whoever shows
    // no certificate of ours is refused below and takes nobody's turn.
    if shown.is_some()
        && let Err(after) = plane.admit_tunnel()
    {
        let why = "many hosts come back at once";
        return Err(Refusal::busy("tunnel refused", why, after));
    }
    let host = identify(&plane.read()?, shown.as_ref())?;
    let key = check_handshake(&parts)?;
    let place = Place::of(&parts.headers)
        .map_err(|why| Refusal::bad("handshake-invalid", "tunnel refused", why))?;
    let hello = Hello::of(&parts.headers)
        .map_err(|why| Refusal::bad("handshake-invalid", "tunnel refused", why))?;
    let upgrade = parts.extensions.remove::<OnUpgrade>().ok_or_else(|| {
        Refusal::bad(
            "upgrade-impossible",
            "tunnel refused",
            "this connection cannot upgrade",
        )
    })?;
    // Before anything of the host that it may be a copy of is disturbed.
    let certificate = shown.as_ref().map(|s| Arc::clone(&s.0)).unwrap_or_default();
    let ticket = machines::begin(&plane, host, hello, certificate).await?;
    let accept_key = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let shared = Arc::clone(&plane);
    plane.tasks.spawn(run(shared, host, place, shown, upgrade));
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
    ];
    let mut answer = (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
    if let Some(ticket) = ticket {
        let value = HeaderValue::from_str(ticket.expose())
            .map_err(|e| Refusal::internal("tunnel refused", &e))?;
        answer.headers_mut().insert(mux::TICKET_HEADER, value);
    }
    Ok(answer)
}

/// The websocket handshake, as RFC 6455 wants it; answers the client's key.
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
    let bad = |why: &str| Refusal::bad("handshake-invalid", "tunnel refused", why);
    if !has(header::CONNECTION, "upgrade") || !has(header::UPGRADE, "websocket") {
        return Err(bad("it is no websocket handshake"));
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
    host: HostId,
    place: Place,
    shown: Option<Shown>,
    upgrade: OnUpgrade,
) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(e) => {
            tracing::debug!(%host, why = chain(&e), "tunnel was not taken over");
            return;
        }
    };
    let socket = Websocket::new(TokioIo::new(upgraded), Role::Server, Bytes::new());
    let (handle, incoming, driver) = mux::session(socket, Side::Plane, Config::default());
    let number = plane.sessions.begin(host, place, handle.clone());
    tracing::info!(%host, session = number, "tunnel up");
    // The host may have been removed, or the plane told to stop, since the handshake.
    let still = plane
        .read()
        .and_then(|rows| identify(&rows, shown.as_ref()));
    if let Err(refusal) = still {
        handle.close(Code::NotAllowed, &refusal.fault.why);
    }
    if plane.shutdown.is_cancelled() {
        handle.leave(Code::GoingAway, Duration::ZERO, "the plane stops");
    }
    let served = async {
        serve_streams(&plane, host, incoming).await;
        let closed = handle.closed().await;
        plane.sessions.over(host, number);
        tracing::info!(%host, session = number, why = %closed, "tunnel down");
    };
    // A driver outlives its session until the host has got all that was sent.
    let driven = async {
        tokio::select! {
            _ = Box::pin(driver) => {}
            () = cut(&plane, &handle) => {}
        }
    };
    tokio::join!(driven, served);
}

/// Ends the session when the plane's time to drain is over, and waits until nobody may linger.
async fn cut(plane: &Plane, handle: &Handle) {
    plane.cut.cancelled().await;
    handle.close(
        Code::GoingAway,
        "the plane stops: the time to finish is over",
    );
    tokio::time::sleep(STOP_LINGER).await;
}

/// Serves the streams a host opens, until the connection is over.
async fn serve_streams(plane: &Arc<Plane>, host: HostId, mut incoming: Incoming) {
    let router = hostapi::router(Arc::clone(plane));
    // As many at a time as the protocol lets the host open; gone with the session.
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
                streams.spawn(serve_http(
                    stream,
                    router.clone(),
                    Some(Caller(host)),
                    until,
                ));
            }
            Err(e) => tracing::debug!(%host, why = %e, "stream was gone already"),
        }
    }
}
