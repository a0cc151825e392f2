//! A plane: the host API on a Unix socket, as comms would serve it, with faults on demand.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pf9_hostagent::model::{
    CertificateBatch, CertificateOrder, DeltaOffer, Digest, Envelope, Event, EventBatch, Fault,
    FaultCode, FreshNonce, Generation, HostStatus, IssuedCertificate, NodeFacts, NodeState, Nonce,
    OperationResult, PendingOperation, PendingOperations, Spec,
};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::support::newer::newer;
use crate::support::within;

type Body = UnsyncBoxBody<Bytes, io::Error>;

#[derive(Default)]
pub(crate) struct PlaneSide {
    spec: Option<Envelope>,
    /// Sent at the next poll, whatever was requested.
    forced: Option<Envelope>,
    /// Answered instead of any spec.
    pub(crate) banned: Option<Fault>,
    pub(crate) statuses: Vec<HostStatus>,
    pub(crate) events: Vec<Event>,
    /// Every received document, verbatim, and its path.
    pub(crate) came: Vec<(String, Bytes)>,
    /// The orders the host carried, as signed.
    pub(crate) orders: Vec<Envelope>,
    /// What it knows about the machine.
    pub(crate) facts: Option<NodeFacts>,
    pub(crate) reports: Vec<Envelope>,
    /// Answered instead of accepting root's facts.
    pub(crate) facts_refused: Option<Fault>,
    /// Operations pending for the host.
    pub(crate) pending: Vec<PendingOperation>,
    /// Their results; including answers that are then lost.
    pub(crate) results: Vec<OperationResult>,
    pub(crate) results_fail: u32,
    nonces: u64,
    pub(crate) certificates_fail: u32,
    pub(crate) manifests: BTreeMap<Digest, Envelope>,
    pub(crate) archives: BTreeMap<Digest, Vec<u8>>,
    /// The next archive connections break off after this many bytes.
    pub(crate) cuts: Vec<usize>,
    /// Offsets from which archives were requested.
    pub(crate) ranges: Vec<Option<u64>>,
    /// Deltas to a stack and from another one: the offer, and the bytes.
    pub(crate) deltas: BTreeMap<(Digest, Digest), Told>,
    /// This many requests for an offer break off.
    pub(crate) offers_break: u32,
    /// This many are answered with: it is being made.
    pub(crate) offers_coming: u32,
    /// They are answered with garbage.
    pub(crate) offers_garbled: bool,
    /// A plane of the next version: each of its answers has fields this one does not know.
    pub(crate) newer: bool,
    /// Requests about stacks, without their common prefix.
    pub(crate) asked: Vec<String>,
}

/// A delta.
pub(crate) type Told = (DeltaOffer, Option<Vec<u8>>);

pub(crate) struct FakePlane {
    side: Arc<watch::Sender<PlaneSide>>,
    socket: PathBuf,
    server: Mutex<Option<AbortHandle>>,
}

impl PlaneSide {
    pub(crate) fn event(&self, kind: &str) -> Option<&Event> {
        self.events.iter().find(|e| e.kind == kind)
    }

    pub(crate) fn last_state(&self) -> Option<NodeState> {
        self.statuses.last().map(|s| s.state)
    }

    /// The reason in the newest status, if it has this code.
    pub(crate) fn reason(&self, code: FaultCode) -> Option<Fault> {
        let reason = self.statuses.last()?.reason.clone()?;
        (reason.code == code).then_some(reason)
    }
}

impl FakePlane {
    pub(crate) fn start(socket: PathBuf) -> Self {
        let plane = Self {
            side: Arc::new(watch::Sender::new(PlaneSide::default())),
            socket,
            server: Mutex::new(None),
        };
        plane.listen();
        plane
    }

    fn listen(&self) {
        let listener = UnixListener::bind(&self.socket).expect("bind");
        let side = Arc::clone(&self.side);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                while connections.try_join_next().is_some() {}
                let side = Arc::clone(&side);
                connections.spawn(async move {
                    let service = service_fn(move |r| serve(Arc::clone(&side), r));
                    let http = hyper::server::conn::http1::Builder::new();
                    // Connections are cut on purpose here.
                    drop(http.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        *self.server.lock().expect("lock") = Some(task.abort_handle());
    }

    /// Ends every connection and stops listening.
    pub(crate) fn go_away(&self) {
        if let Some(server) = self.server.lock().expect("lock").take() {
            server.abort();
        }
        std::fs::remove_file(&self.socket).expect("socket");
    }

    pub(crate) async fn come_back(&self) {
        // The old listener is closed when its task was dropped.
        tokio::task::yield_now().await;
        self.listen();
    }

    /// Makes a spec the newest.
    pub(crate) fn offer(&self, envelope: Envelope) {
        self.side.send_modify(|s| s.spec = Some(envelope));
    }

    /// Sends a document once although it was not requested.
    pub(crate) fn force(&self, envelope: Envelope) {
        self.side.send_modify(|s| s.forced = Some(envelope));
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut PlaneSide)) {
        self.side.send_modify(change);
    }

    /// What came so far counts no more: a test that goes through years keeps it nowhere.
    pub(crate) fn forget(&self) {
        self.change(|p| {
            p.statuses.clear();
            p.events.clear();
            p.came.clear();
            p.orders.clear();
            p.reports.clear();
            p.results.clear();
            p.ranges.clear();
            p.asked.clear();
        });
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&PlaneSide) -> T) -> T {
        look(&self.side.borrow())
    }

    pub(crate) async fn until<T>(&self, mut look: impl FnMut(&PlaneSide) -> Option<T>) -> T {
        let mut watch = self.side.subscribe();
        within(async {
            loop {
                if let Some(found) = look(&watch.borrow_and_update()) {
                    return found;
                }
                watch.changed().await.expect("the plane is there");
            }
        })
        .await
    }
}

async fn serve(
    side: Arc<watch::Sender<PlaneSide>>,
    request: Request<Incoming>,
) -> io::Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(|b| b.to_bytes())
        .unwrap_or_default();
    let path = head.uri.path().to_owned();
    let query = head.uri.query().unwrap_or_default();
    let digest = path
        .split('/')
        .nth(3)
        .and_then(|d| d.parse::<Digest>().ok());
    if !body.is_empty() {
        side.send_modify(|s| s.came.push((path.clone(), body.clone())));
    }
    if let Some(what) = path.strip_prefix("/v1/stacks/") {
        side.send_modify(|s| s.asked.push(what.to_owned()));
    }
    let range = head.headers.get(http::header::RANGE);
    let from = range
        .and_then(|r| r.to_str().ok())
        .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let answer = match (head.method.as_str(), path.as_str(), digest) {
        ("GET", "/v1/hosts/self/spec", _) => spec(&side, query).await,
        ("POST", "/v1/hosts/self/status", _) => {
            let status = serde_json::from_slice(&body).expect("status");
            side.send_modify(|s| s.statuses.push(status));
            reply(204, Bytes::new())
        }
        ("POST", "/v1/hosts/self/events", _) => {
            let batch: EventBatch = serde_json::from_slice(&body).expect("events");
            side.send_modify(|s| s.events.extend(batch.events));
            reply(204, Bytes::new())
        }
        ("GET", "/v1/hosts/self/operations", _) => {
            let mut watch = side.subscribe();
            let waits = watch.wait_for(|s| !s.pending.is_empty());
            // The end of the wait is an answer, too.
            drop(tokio::time::timeout(Duration::from_secs(5), waits).await);
            let operations = side.borrow().pending.clone();
            match operations.is_empty() {
                true => reply(204, Bytes::new()),
                false => json(200, &PendingOperations { operations }),
            }
        }
        ("POST", "/v1/hosts/self/operations", _) => {
            let result: OperationResult = serde_json::from_slice(&body).expect("result");
            let mut lost = false;
            side.send_modify(|s| {
                lost = s.results_fail > 0;
                s.results_fail = s.results_fail.saturating_sub(1);
                if !lost {
                    s.pending.retain(|p| p.id != result.id);
                    s.results.push(result);
                }
            });
            match lost {
                true => reply(503, Bytes::new()),
                false => reply(204, Bytes::new()),
            }
        }
        ("POST", "/v1/hosts/self/nonce", _) => {
            side.send_modify(|s| s.nonces += 1);
            let number = side.borrow().nonces.to_string();
            json(
                200,
                &FreshNonce {
                    nonce: Nonce(Digest::of(number.as_bytes())),
                },
            )
        }
        ("POST", "/v1/hosts/self/certificates", _) => {
            order(&side, serde_json::from_slice(&body).expect("order"))
        }
        ("GET", "/v1/hosts/self/facts", _) => match side.borrow().facts.as_ref() {
            Some(facts) => json(200, facts),
            None => reply(204, Bytes::new()),
        },
        ("POST", "/v1/hosts/self/facts", _) => {
            let said: Envelope = serde_json::from_slice(&body).expect("facts");
            side.send_modify(|s| s.reports.push(said));
            match side.borrow().facts_refused.as_ref() {
                Some(fault) => json(409, fault),
                None => reply(204, Bytes::new()),
            }
        }
        ("GET", path, Some(digest)) if path.ends_with("/manifest") => {
            match side.borrow().manifests.get(&digest) {
                Some(envelope) => json(200, envelope),
                None => not_found(),
            }
        }
        ("GET", path, Some(digest)) if path.ends_with("/archive") || path.ends_with("/package") => {
            let all = side.borrow().archives.get(&digest).cloned();
            archive(&side, all, from)
        }
        ("GET", path, Some(to)) if path.contains("/from/") => delta(&side, to, path, from)?,
        _ => not_found(),
    };
    let is_newer = side.borrow().newer;
    Ok(match is_newer {
        true => of_the_next_version(answer).await,
        false => answer,
    })
}

/// A document with additional fields; anything else unchanged.
async fn of_the_next_version(answer: Response<Body>) -> Response<Body> {
    let (head, body) = answer.into_parts();
    let bytes = body.collect().await.expect("whole").to_bytes();
    let document = serde_json::from_slice(&bytes).map(newer);
    let bytes = match document {
        Ok(document) => serde_json::to_vec(&document).expect("json").into(),
        Err(_) => bytes,
    };
    let mut answer =
        Response::from_parts(head, Body::new(Full::new(bytes).map_err(|e| match e {})));
    answer.headers_mut().remove(http::header::CONTENT_LENGTH);
    answer
}

async fn spec(side: &watch::Sender<PlaneSide>, query: &str) -> Response<Body> {
    let number = |key: &str| -> u64 {
        let mut pairs = query.split('&').filter_map(|p| p.split_once('='));
        pairs
            .find(|(k, _)| *k == key)
            .and_then(|(_, v)| v.parse().ok())
            .expect(key)
    };
    if let Some(fault) = side.borrow().banned.as_ref() {
        return json(403, fault);
    }
    let (seen, wait) = (Generation(number("seen")), number("wait"));
    let newer = |s: &PlaneSide| {
        let generation = s.spec.as_ref().map(generation_of);
        s.forced.is_some() || generation.is_some_and(|g| g != seen)
    };
    let mut watch = side.subscribe();
    let held = watch.wait_for(newer);
    if tokio::time::timeout(Duration::from_secs(wait), held)
        .await
        .is_err()
    {
        return reply(204, Bytes::new());
    }
    let mut found = None;
    side.send_modify(|s| found = s.forced.take().or_else(|| s.spec.clone()));
    json(200, &found.expect("a spec"))
}

fn generation_of(envelope: &Envelope) -> Generation {
    content::<Spec>(envelope).generation
}

/// The payload of an envelope, without checking its signature.
pub(crate) fn content<T: serde::de::DeserializeOwned>(envelope: &Envelope) -> T {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(&envelope.payload)
        .expect("base64");
    serde_json::from_slice(&bytes).expect("content")
}

fn order(side: &watch::Sender<PlaneSide>, envelope: Envelope) -> Response<Body> {
    let mut refused = false;
    let order: CertificateOrder = content(&envelope);
    let batch = CertificateBatch {
        cluster_id: order.cluster_id,
        certificates: order
            .requests
            .iter()
            .map(|r| IssuedCertificate {
                purpose: r.purpose,
                certificate: format!("signed {}", r.csr),
            })
            .collect(),
    };
    side.send_modify(|s| {
        refused = s.certificates_fail > 0;
        s.certificates_fail = s.certificates_fail.saturating_sub(1);
        s.orders.push(envelope);
    });
    if refused {
        let fault = Fault::new(
            FaultCode::HostNotAttached,
            "certificates refused",
            "not yet",
        );
        return json(403, &fault);
    }
    json(200, &batch)
}

/// A delta, or its offer.
fn delta(
    side: &watch::Sender<PlaneSide>,
    to: Digest,
    path: &str,
    begin: Option<u64>,
) -> io::Result<Response<Body>> {
    let mut words = path.split('/').skip(5);
    let from = words.next().and_then(|from| from.parse().ok());
    let found = from.and_then(|from| side.borrow().deltas.get(&(to, from)).cloned());
    if words.next() == Some("delta") {
        return Ok(archive(side, found.and_then(|(_, bytes)| bytes), begin));
    }
    let (mut breaks, mut coming) = (false, false);
    side.send_modify(|s| {
        (breaks, coming) = (s.offers_break > 0, s.offers_coming > 0);
        s.offers_break = s.offers_break.saturating_sub(1);
        s.offers_coming = s.offers_coming.saturating_sub(1);
    });
    match (breaks, found) {
        (true, _) => Err(io::Error::other("the tunnel is cut")),
        (false, _) if coming => {
            let fault = Fault::new(
                FaultCode::PlaneBusy,
                "there is none yet",
                "it is being made",
            );
            Ok(json(503, &fault))
        }
        (false, _) if side.borrow().offers_garbled => Ok(json(200, &["no", "offer"])),
        (false, Some((offer, _))) => Ok(json(200, &offer)),
        (false, None) => Ok(not_found()),
    }
}

fn archive(
    side: &watch::Sender<PlaneSide>,
    all: Option<Vec<u8>>,
    from: Option<u64>,
) -> Response<Body> {
    let Some(all) = all else {
        return not_found();
    };
    let mut cut = None;
    side.send_modify(|s| {
        s.ranges.push(from);
        cut = (!s.cuts.is_empty()).then(|| s.cuts.remove(0));
    });
    let start = usize::try_from(from.unwrap_or(0)).expect("small");
    let rest = Bytes::from(all).slice(start..);
    let length = rest.len();
    let total = start + length;
    let sent = Ok(Frame::data(rest.slice(..cut.unwrap_or(length))));
    let end = stream::once(async move {
        // The data sent leaves the buffers before the connection breaks.
        tokio::task::yield_now().await;
        cut.map(|_| Err(io::Error::other("cut")))
    });
    let frames = stream::iter([sent]).chain(end.filter_map(std::future::ready));
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_LENGTH, length.into());
    if from.is_some() {
        let range = format!("bytes {start}-{}/{total}", total - 1);
        headers.insert(http::header::CONTENT_RANGE, range.parse().expect("header"));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

fn not_found() -> Response<Body> {
    json(
        404,
        &Fault::new(
            FaultCode::NotFound,
            "call refused",
            "there is no such thing",
        ),
    )
}

fn json<T: serde::Serialize>(status: u16, value: &T) -> Response<Body> {
    reply(status, serde_json::to_vec(value).expect("json").into())
}

fn reply(status: u16, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body).map_err(|e| match e {})));
    *response.status_mut() = StatusCode::from_u16(status).expect("status");
    response
}
