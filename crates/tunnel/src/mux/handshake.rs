//! From HTTP to a websocket, on the dialling side.
//!
//! HTTP is hyper's; only the websocket's own headers are checked here. Bytes that the peer sent right after its answer
//! are kept.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::upgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::SUBPROTOCOL;
use super::transport::Transport;
use super::websocket::{Role, Websocket};

/// Why there is no websocket.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The plane refused.
    #[error("the plane answered {status}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// When to retry.
        retry_after: Option<Duration>,
        /// The body of the refusal; at most [`SAID_MAX`] bytes.
        said: Bytes,
    },
    /// The server does not speak our websocket.
    #[error("the answer is not a websocket handshake: {0}")]
    Foreign(&'static str),
    /// The connection broke, or the answer is not HTTP.
    #[error("the handshake broke")]
    Http(#[source] hyper::Error),
    /// Host or path are not valid in a request.
    #[error("the request cannot be written")]
    Request(#[source] http::Error),
}

/// Most bytes of a refusal that are read: a message, and signed documents of a few KiB.
const SAID_MAX: usize = 256 * 1024;

/// Requests a tunnel from the server at the other end of `io`. `more` are additional headers. Returns the websocket,
/// and the headers of the answer.
pub async fn connect<S>(
    io: S,
    host: &str,
    path: &str,
    more: HeaderMap,
) -> Result<(Websocket, HeaderMap), HandshakeError>
where
    S: Transport + 'static,
{
    let key = generate_key();
    let mut request = Request::get(path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, &key)
        .header(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
        .body(Empty::<Bytes>::new())
        .map_err(HandshakeError::Request)?;
    request.headers_mut().extend(more);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
        .await
        .map_err(HandshakeError::Http)?;
    let connection = connection.with_upgrades();
    // Owns the sender: a refused handshake drops it, and the connection ends instead of waiting for another request.
    let key = &key;
    let asked = async move {
        let answer = sender
            .send_request(request)
            .await
            .map_err(HandshakeError::Http)?;
        let answer = check(answer, key).await?;
        let headers = answer.headers().clone();
        let upgraded = upgrade::on(answer).await.map_err(HandshakeError::Http)?;
        Ok((upgraded, headers))
    };
    // The connection does the work of both; it ends with the upgrade.
    let (asked, _) = tokio::join!(asked, connection);
    let (upgraded, headers): (_, HeaderMap) = asked?;
    let parts = upgraded
        .downcast::<TokioIo<S>>()
        .map_err(|_| HandshakeError::Foreign("the connection is not the one that was made"))?;
    let io = parts.io.into_inner();
    let socket = Websocket::new(Box::new(io), Role::Client, parts.read_buf);
    Ok((socket, headers))
}

/// Asks the server at the other end of `io` whether it would accept a tunnel, without starting one. (The same request
/// without the upgrade: the server refuses it where it would refuse the tunnel.) `more` are additional headers.
pub async fn ask<S>(
    io: S,
    host: &str,
    path: &str,
    more: HeaderMap,
) -> Result<Option<String>, HandshakeError>
where
    S: Transport + 'static,
{
    let mut request = Request::get(path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(HandshakeError::Request)?;
    request.headers_mut().extend(more);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
        .await
        .map_err(HandshakeError::Http)?;
    // Owns the sender: the connection ends with the head of the answer, its body is not read.
    let asked = async move {
        let answer = sender.send_request(request).await;
        answer
            .map_err(HandshakeError::Http)
            .map(|a| (a.status(), retry_after(&a), date(&a)))
    };
    let (answer, _) = tokio::join!(asked, connection);
    match answer? {
        (StatusCode::UPGRADE_REQUIRED | StatusCode::BAD_REQUEST, _, date) => Ok(date),
        (status, _, _) if status.is_success() || status.is_informational() => Err(
            HandshakeError::Foreign("it answers a request that is not for a websocket"),
        ),
        (status, retry_after, _) => Err(HandshakeError::Refused {
            status,
            retry_after,
            said: Bytes::new(),
        }),
    }
}

/// The server's time, from its answer.
fn date(answer: &Response<Incoming>) -> Option<String> {
    let value = answer.headers().get(header::DATE)?;
    value.to_str().ok().map(str::to_owned)
}

fn retry_after(answer: &Response<Incoming>) -> Option<Duration> {
    let value = answer.headers().get(header::RETRY_AFTER)?;
    value.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

async fn check(
    answer: Response<Incoming>,
    key: &str,
) -> Result<Response<Incoming>, HandshakeError> {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (status, retry_after) = (answer.status(), retry_after(&answer));
        // Without its body it is still a refusal.
        let said = Limited::new(answer.into_body(), SAID_MAX).collect().await;
        return Err(HandshakeError::Refused {
            status,
            retry_after,
            said: said.map(|s| s.to_bytes()).unwrap_or_default(),
        });
    }
    let get = |name: header::HeaderName| answer.headers().get(name);
    let accept = derive_accept_key(key.as_bytes());
    if get(header::SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes) != Some(accept.as_bytes()) {
        return Err(HandshakeError::Foreign("the key was not answered"));
    }
    if get(header::SEC_WEBSOCKET_PROTOCOL).map(HeaderValue::as_bytes)
        != Some(SUBPROTOCOL.as_bytes())
    {
        return Err(HandshakeError::Foreign("it speaks another protocol"));
    }
    if get(header::SEC_WEBSOCKET_EXTENSIONS).is_some() {
        return Err(HandshakeError::Foreign(
            "it uses extensions that were not requested",
        ));
    }
    Ok(answer)
}
