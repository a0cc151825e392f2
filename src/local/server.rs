//! A small HTTP/1.1 server on a Unix socket.
//!
//! Every connection is a task of one [`JoinSet`] with a cap; every request has a body cap and a
//! deadline. The kernel says who called ([`Peer`]); the handler decides what they may do.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::model::Fault;

/// Bounds of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most connections at once; more wait in the kernel's backlog.
    pub connections: usize,
    /// Largest request body, bytes.
    pub body: usize,
    /// Longest a request may take, body and handler together.
    pub deadline: Duration,
}

/// Who called, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id.
    pub pid: Option<i32>,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Request {
    /// e.g. `GET`.
    pub method: Method,
    /// e.g. `/v1/status`.
    pub path: String,
    /// Query parameters; of a repeated one the last counts.
    pub query: BTreeMap<String, String>,
    /// The body, whole.
    pub body: Bytes,
    /// Who called.
    pub peer: Peer,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Reply {
    status: StatusCode,
    body: Bytes,
    kind: &'static str,
}

/// What nearly every answer is.
const JSON: &str = "application/json";

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A handful of our own daemons and a person with curl.
            connections: 64,
            // The largest document is a signed spec.
            body: crate::model::PAYLOAD_MAX * 2,
            // Long-polls wait up to a minute.
            deadline: Duration::from_secs(90),
        }
    }
}

// === impl Reply ===

impl Reply {
    /// `value` as JSON.
    pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self {
                status,
                body: body.into(),
                kind: JSON,
            },
            Err(e) => Self::fault(
                StatusCode::INTERNAL_SERVER_ERROR,
                &Fault::new("internal", "cannot write the answer", e.to_string()),
            ),
        }
    }

    /// 204.
    pub fn empty() -> Self {
        Self {
            status: StatusCode::NO_CONTENT,
            body: Bytes::new(),
            kind: JSON,
        }
    }

    /// A refusal in words.
    pub fn fault(status: StatusCode, fault: &Fault) -> Self {
        Self {
            status,
            body: serde_json::to_vec(fault).unwrap_or_default().into(),
            kind: JSON,
        }
    }

    /// Text of the given media type.
    pub fn text(status: StatusCode, kind: &'static str, text: String) -> Self {
        Self {
            status,
            body: text.into(),
            kind,
        }
    }

    /// 404 for a path nobody knows.
    pub fn not_found(path: &str) -> Self {
        let fault = Fault::new("not-found", "call refused", format!("there is no {path}"));
        Self::fault(StatusCode::NOT_FOUND, &fault)
    }

    /// The status, for tests and logs.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The body, for tests.
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// Binds `path` with the given mode, replacing what a former process left there.
///
/// The caller owns the directory; group access is by the directory's or the socket's group.
pub fn bind(path: &Path, mode: u32) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Serves until `shutdown`; then lets running requests end (bounded by their deadline).
pub async fn serve<F, Fut>(
    listener: UnixListener,
    limits: Limits,
    shutdown: CancellationToken,
    handler: F,
) where
    F: Fn(Request) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Reply> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        tokio::select! {
            // cancel-safe: accept, join_next and cancelled all are
            () = shutdown.cancelled() => break,
            _ = connections.join_next(), if connections.len() >= limits.connections => {}
            accepted = listener.accept(), if connections.len() < limits.connections => {
                match accepted {
                    Ok((stream, _)) => {
                        let done = shutdown.clone();
                        connections.spawn(connection(stream, limits, done, handler.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a local connection");
                        // Out of file descriptors: a pause lets some close; without it this loop
                        // would spin.
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

async fn connection<F, Fut>(
    stream: UnixStream,
    limits: Limits,
    shutdown: CancellationToken,
    handler: F,
) where
    F: Fn(Request) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Reply> + Send + 'static,
{
    let Ok(cred) = stream.peer_cred() else {
        return;
    };
    let peer = Peer {
        uid: cred.uid(),
        gid: cred.gid(),
        pid: cred.pid(),
    };
    let service = service_fn(move |request| answer(request, peer, limits, handler.clone()));
    let http = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Some(limits.deadline))
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(http);
    let result = tokio::select! {
        result = http.as_mut() => result,
        () = shutdown.cancelled() => {
            http.as_mut().graceful_shutdown();
            http.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "local connection ended early");
    }
}

async fn answer<F, Fut>(
    request: http::Request<Incoming>,
    peer: Peer,
    limits: Limits,
    handler: F,
) -> Result<http::Response<Full<Bytes>>, Infallible>
where
    F: Fn(Request) -> Fut + Sync,
    Fut: Future<Output = Reply>,
{
    let work = async {
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, limits.body).collect().await else {
            let why = format!("the body is broken or larger than {} bytes", limits.body);
            let fault = Fault::new("body-too-large", "call refused", why);
            return Reply::fault(StatusCode::PAYLOAD_TOO_LARGE, &fault);
        };
        handler(Request {
            method: head.method,
            path: head.uri.path().to_owned(),
            query: query(head.uri.query().unwrap_or("")),
            body: body.to_bytes(),
            peer,
        })
        .await
    };
    let reply = tokio::time::timeout(limits.deadline, work)
        .await
        .unwrap_or_else(|_| {
            let why = format!("it took longer than {:?}", limits.deadline);
            let fault = Fault::new("deadline", "call given up", why);
            Reply::fault(StatusCode::GATEWAY_TIMEOUT, &fault)
        });
    let mut response = http::Response::new(Full::new(reply.body));
    *response.status_mut() = reply.status;
    if reply.status != StatusCode::NO_CONTENT {
        response.headers_mut().insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static(reply.kind),
        );
    }
    Ok(response)
}

/// Numbers and plain words only: our own calls need no percent-decoding, and what looks otherwise
/// is passed on as it is.
fn query(text: &str) -> BTreeMap<String, String> {
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::{Client, LocalError};

    async fn start(
        limits: Limits,
    ) -> (
        tempfile::TempDir,
        Client,
        CancellationToken,
        tokio::task::JoinHandle<()>,
    ) {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("s.sock");
        let listener = bind(&path, 0o600).expect("bind");
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(
            listener,
            limits,
            stop.clone(),
            |r: Request| async move {
                match r.path.as_str() {
                    "/echo" => Reply::json(
                        StatusCode::OK,
                        &serde_json::json!({"len": r.body.len(), "uid": r.peer.uid, "q": r.query}),
                    ),
                    "/never" => std::future::pending().await,
                    other => Reply::not_found(other),
                }
            },
        ));
        (dir, Client::unix(path).expect("client"), stop, server)
    }

    #[tokio::test]
    async fn calls_carry_body_query_and_caller() {
        let (_dir, client, stop, server) = start(Limits::default()).await;
        let answer: Option<serde_json::Value> = client
            .send(Method::PUT, "/echo?after=7", "abc", Duration::from_secs(5))
            .await
            .expect("answer");
        let uid = nix::unistd::getuid().as_raw();
        let want = serde_json::json!({"len": 5, "uid": uid, "q": {"after": "7"}});
        assert_eq!(answer, Some(want));
        stop.cancel();
        server.await.expect("server ends");
    }

    #[tokio::test]
    async fn refusals_keep_their_words_and_limits_hold() {
        let limits = Limits {
            body: 10,
            deadline: Duration::from_millis(50),
            ..Limits::default()
        };
        let (_dir, client, _stop, _server) = start(limits).await;
        let wait = Duration::from_secs(5);
        let code = |e: LocalError| match e {
            LocalError::Refused { status, fault } => (status.as_u16(), fault.code),
            other => panic!("{other}"),
        };
        let gone = client.get::<()>("/nope", wait).await.expect_err("404");
        assert_eq!(code(gone), (404, "not-found".into()));
        let big = client
            .send::<_, ()>(Method::PUT, "/echo", "01234567890", wait)
            .await
            .expect_err("413");
        assert_eq!(code(big), (413, "body-too-large".into()));
        let late = client.get::<()>("/never", wait).await.expect_err("504");
        assert_eq!(code(late), (504, "deadline".into()));
    }

    #[tokio::test]
    async fn nobody_there_is_said_so() {
        let client = Client::unix("/nonexistent/x.sock").expect("client");
        let e = client
            .get::<()>("/", Duration::from_secs(5))
            .await
            .expect_err("unreachable");
        assert!(matches!(e, LocalError::Unreachable { .. }), "{e}");
    }
}
