//! A small HTTP/1.1 server on a Unix socket.
//!
//! The [`Door`] says who came in. What a caller asks for is judged by its head; a body is read after that
//! only, within the bound of its route and within the bytes that all bodies together may have.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::door::{Caller, Callers, Door, Peer};
use super::share::Share;
use crate::model::{Fault, FaultCode};
use crate::seam::point_soon;

/// Body of a call that has nothing to say but its path.
pub const NOTE_MAX: usize = 4096;
/// Bytes kept of what a connection sends before its head is whole; longer heads are refused. Also
/// what a body is read in.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a caller that is not root may take for a head, and be idle between two calls: longer
/// than our own clients keep a connection.
const HEAD_WAIT: Duration = Duration::from_secs(20);
/// The same for root, whose places nobody else wants: a person types.
const ROOT_HEAD_WAIT: Duration = Duration::from_secs(60);
/// How long the body of a caller that is not root may take, and wait for its turn before that.
const BODY_WAIT: Duration = Duration::from_secs(10);

/// Who may ask a server for what, and how much of it.
#[derive(Clone)]
pub struct Policy {
    /// Who may call.
    pub callers: Callers,
    /// How many connections each may hold.
    pub share: Share,
    /// Longest a request may take, body and handler together.
    pub deadline: Duration,
    /// Bytes of bodies in memory at once: of root, and as much again of all others. No route has a
    /// larger bound.
    pub bodies: usize,
    /// Looks at a head, before the body is read: the most bytes it may have, or a refusal.
    pub body_bound: BodyBound,
}

/// See [`Policy::body_bound`].
pub type BodyBound = Arc<dyn Fn(&Head<'_>) -> Result<usize, Reply> + Send + Sync>;

/// What is known of a call before its body is read.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// e.g. `GET`.
    pub method: &'a Method,
    /// e.g. `/v1/status`.
    pub path: &'a str,
    /// The caller.
    pub peer: Peer,
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
    /// The caller.
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

impl Default for Policy {
    /// A read-only socket: every caller that the file mode admits.
    fn default() -> Self {
        Self {
            callers: Callers::ByMode,
            share: Share::default(),
            // Long-polls wait up to a minute.
            deadline: Duration::from_secs(90),
            bodies: 64 * 1024,
            body_bound: Arc::new(|_| Ok(NOTE_MAX)),
        }
    }
}

impl Policy {
    /// Most bytes that callers can make a server with this policy hold: heads and bodies. What
    /// handlers make of them comes on top.
    pub fn bytes_max(&self) -> usize {
        self.share.most() * HEAD_BYTES_MAX + 2 * self.bodies
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
                &Fault::new(
                    FaultCode::Internal,
                    "cannot write the answer",
                    e.to_string(),
                ),
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
        let fault = Fault::new(
            FaultCode::NotFound,
            "call refused",
            format!("there is no {path}"),
        );
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

/// Serves until `shutdown`; then lets running requests end (bounded by their deadline).
pub async fn serve<F, Fut>(
    listener: UnixListener,
    policy: Policy,
    shutdown: CancellationToken,
    handler: F,
) where
    F: Fn(Request) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Reply> + Send + 'static,
{
    let mut door = Door::new(listener, policy.callers.clone(), policy.share);
    let room = Arc::new(Room::new(policy));
    // Bounded by the door.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // cancel-safe: all are
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => {}
            caller = door.next() => {
                let (room, done) = (Arc::clone(&room), shutdown.clone());
                connections.spawn(connection(caller, room, done, handler.clone()));
            }
        }
    }
    // What comes from now on is for who runs next.
    drop(door);
    while connections.join_next().await.is_some() {}
}

/// What the connections of a server share.
struct Room {
    policy: Policy,
    /// Bytes of bodies that may still be read.
    root: Semaphore,
    others: Semaphore,
}

async fn connection<F, Fut>(
    caller: Caller,
    room: Arc<Room>,
    shutdown: CancellationToken,
    handler: F,
) where
    F: Fn(Request) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Reply> + Send + 'static,
{
    let Caller {
        stream,
        peer,
        place: _place,
    } = caller;
    let head_wait = if peer.is_root() {
        ROOT_HEAD_WAIT
    } else {
        HEAD_WAIT
    };
    let service = service_fn(move |request| {
        let (room, handler) = (Arc::clone(&room), handler.clone());
        async move {
            let response = room.answer(request, peer, handler).await;
            point_soon!(Reply, "answer").await.map(|()| response)
        }
    });
    let http = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Some(head_wait))
        .max_buf_size(HEAD_BYTES_MAX)
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

// === impl Room ===

impl Room {
    fn new(policy: Policy) -> Self {
        Self {
            root: Semaphore::new(policy.bodies),
            others: Semaphore::new(policy.bodies),
            policy,
        }
    }

    async fn answer<F, Fut>(
        &self,
        request: http::Request<Incoming>,
        peer: Peer,
        handler: F,
    ) -> http::Response<Full<Bytes>>
    where
        F: Fn(Request) -> Fut + Sync,
        Fut: Future<Output = Reply>,
    {
        let deadline = self.policy.deadline;
        let reply = timeout(deadline, self.work(request, peer, handler))
            .await
            .unwrap_or_else(|_| {
                let why = format!("it took longer than {deadline:?}");
                let fault = Fault::new(FaultCode::Deadline, "call given up", why);
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
        response
    }

    async fn work<F, Fut>(&self, request: http::Request<Incoming>, peer: Peer, handler: F) -> Reply
    where
        F: Fn(Request) -> Fut + Sync,
        Fut: Future<Output = Reply>,
    {
        let (head, body) = request.into_parts();
        let asked = Head {
            method: &head.method,
            path: head.uri.path(),
            peer,
        };
        let bound = match (self.policy.body_bound)(&asked) {
            Ok(bound) => bound.min(self.policy.bodies),
            Err(refusal) => return refusal,
        };
        // Held until the handler is done with the body.
        let (body, _bytes) = match self.body(body, bound, peer).await {
            Ok(read) => read,
            Err(refusal) => return refusal,
        };
        handler(Request {
            path: head.uri.path().to_owned(),
            query: query(head.uri.query().unwrap_or("")),
            method: head.method,
            body,
            peer,
        })
        .await
    }

    /// The body, whole, and what it takes of the bytes there are.
    async fn body(
        &self,
        body: Incoming,
        bound: usize,
        peer: Peer,
    ) -> Result<(Bytes, SemaphorePermit<'_>), Reply> {
        // Without a stated length, its bound counts.
        let said = body.size_hint().exact().map(usize::try_from);
        let size = said.unwrap_or(Ok(bound)).unwrap_or(usize::MAX);
        if size > bound {
            return Err(too_large(bound));
        }
        let (room, wait) = match peer.is_root() {
            true => (&self.root, self.policy.deadline),
            false => (&self.others, BODY_WAIT),
        };
        let reading = async {
            let bytes = room.acquire_many(u32::try_from(size).unwrap_or(u32::MAX));
            // Nobody closes it.
            let bytes = bytes.await.map_err(|_| slow())?;
            Ok((read(body, size, bound).await?, bytes))
        };
        timeout(wait, reading).await.unwrap_or_else(|_| Err(slow()))
    }
}

async fn read(mut body: Incoming, size: usize, bound: usize) -> Result<Bytes, Reply> {
    let mut all = Vec::with_capacity(size);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map(|f| f.into_data().unwrap_or_default()) else {
            let fault = Fault::new(
                FaultCode::BodyBroken,
                "call refused",
                "the body ended early",
            );
            return Err(Reply::fault(StatusCode::BAD_REQUEST, &fault));
        };
        if all.len() + data.len() > bound {
            return Err(too_large(bound));
        }
        all.extend_from_slice(&data);
    }
    Ok(all.into())
}

fn too_large(bound: usize) -> Reply {
    let why = format!("the body is larger than {bound} bytes");
    let fault = Fault::new(FaultCode::BodyTooLarge, "call refused", why);
    Reply::fault(StatusCode::PAYLOAD_TOO_LARGE, &fault)
}

fn slow() -> Reply {
    let why = "the body did not arrive in time, or others are being read";
    let fault = Fault::new(FaultCode::BodySlow, "call refused", why);
    Reply::fault(StatusCode::REQUEST_TIMEOUT, &fault)
}

impl Peer {
    /// The superuser.
    pub fn is_root(self) -> bool {
        self.uid == 0
    }
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
        policy: Policy,
    ) -> (
        tempfile::TempDir,
        Client,
        CancellationToken,
        tokio::task::JoinHandle<()>,
    ) {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("s.sock");
        let listener = crate::local::bind(&path, 0o600).expect("bind");
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(
            listener,
            policy,
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
        let (_dir, client, stop, server) = start(Policy::default()).await;
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
        let policy = Policy {
            body_bound: Arc::new(|_| Ok(10)),
            deadline: Duration::from_secs(1),
            ..Policy::default()
        };
        let (_dir, client, _stop, _server) = start(policy).await;
        let wait = Duration::from_secs(5);
        let code = |e: LocalError| match e {
            LocalError::Refused { status, fault } => (status.as_u16(), fault.code.to_string()),
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
