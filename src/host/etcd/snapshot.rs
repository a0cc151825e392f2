//! A snapshot of a member, as a stream: by etcd's own protocol (gRPC on HTTP/2), because its JSON
//! gateway writes every byte as text and takes several times as long.
//!
//! ```text
//! message ─► DATA: 0x00, length (4 bytes), SnapshotResponse { 2: bytes that remain, 3: blob, 4: version }
//! the last blob is the SHA-256 of all others; the end is trailers with `grpc-status: 0`
//! ```
//!
//! What comes is checked as it comes: a stream that ends early, says less than it promised, or whose
//! bytes are not those that etcd read, ends in an error and never in a snapshot.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Etcd, EtcdError};
use crate::host::protobuf::{Value, fields};
use crate::model::Hasher;
use crate::telemetry::chain;

/// Connecting and the head of the answer. etcd opens the snapshot before it answers.
const BEGIN: Duration = Duration::from_secs(30);
/// Longest between two messages: etcd reads from its disk.
const STALL: Duration = Duration::from_secs(60);
/// Bytes that etcd may send ahead of what is taken. On a machine with work to do each side waits milliseconds for its turn,
/// and as often as a window is used up: with half a MiB a snapshot took three times as long as etcd's own tool does.
pub const WINDOW: u32 = 4 * 1024 * 1024;
/// Longest message: etcd sends blobs of 32 KiB.
pub const MESSAGE_MAX: usize = 128 * 1024;
/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// The checksum that etcd sends as the last blob.
const SUM: usize = 32;
/// What is asked: a message without fields, not compressed.
const QUESTION: [u8; PREFIX] = [0; PREFIX];

/// A stream of one snapshot. Dropped, the connection closes.
pub struct SnapshotStream {
    url: String,
    body: Incoming,
    /// The connection's own work.
    _connection: JoinSet<()>,
    buffer: BytesMut,
    ready: VecDeque<Bytes>,
    check: Check,
    version: Option<String>,
    whole: bool,
}

/// What was promised and what came.
struct Check {
    /// Checksum of all blobs but the last.
    sum: Hasher,
    /// The newest blob, not yet known to be the last.
    held: Option<Bytes>,
    /// Bytes that are to come, the checksum aside.
    remains: Option<u64>,
    /// The newest blob came after all that was promised: it is the checksum, and the last.
    at_end: bool,
    /// Bytes that came.
    came: u64,
}

impl Etcd {
    /// Asks for a snapshot. Its bytes are those of the file that `etcdutl` takes.
    pub async fn snapshot(&self) -> Result<SnapshotStream, EtcdError> {
        let url = format!("{}/etcdserverpb.Maintenance/Snapshot", self.base);
        match timeout(BEGIN, self.ask_snapshot(&url)).await {
            Ok(asked) => asked,
            Err(_) => Err(broken(&url, "it did not start in time")),
        }
    }

    async fn ask_snapshot(&self, url: &str) -> Result<SnapshotStream, EtcdError> {
        let bad = |why: String| broken(url, why);
        let uri: Uri = url.parse().map_err(|e| bad(format!("{e}")))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(super::ports::ETCD);
        let tcp = TcpStream::connect((host, port));
        let tcp = tcp.await.map_err(|e| bad(e.to_string()))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri.clone())
            .header(http::header::CONTENT_TYPE, "application/grpc")
            .header(http::header::TE, "trailers")
            .body(Full::new(Bytes::from_static(&QUESTION)))
            .map_err(|e| bad(e.to_string()))?;
        let mut connection = JoinSet::new();
        let answer = if uri.scheme_str() == Some("https") {
            let name = ServerName::try_from(host.to_owned()).map_err(|e| bad(e.to_string()))?;
            let connector = TlsConnector::from(Arc::clone(&self.http2));
            let tls = connector.connect(name, tcp).await;
            let tls = tls.map_err(|e| bad(e.to_string()))?;
            send(tls, request, &mut connection).await
        } else {
            send(tcp, request, &mut connection).await
        };
        let answer = answer.map_err(|e| bad(chain(&e)))?;
        if !answer.status().is_success() {
            return Err(bad(format!("HTTP status {}", answer.status().as_u16())));
        }
        // A refusal comes as a head alone.
        if let Some(why) = refusal(answer.headers()) {
            return Err(bad(why));
        }
        Ok(SnapshotStream {
            url: url.to_owned(),
            body: answer.into_body(),
            _connection: connection,
            buffer: BytesMut::new(),
            ready: VecDeque::new(),
            check: Check::new(),
            version: None,
            whole: false,
        })
    }
}

async fn send<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    connection: &mut JoinSet<()>,
) -> Result<http::Response<Incoming>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, work) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake(TokioIo::new(stream))
        .await?;
    connection.spawn(async move {
        // The reader of the stream sees the error.
        drop(work.await);
    });
    sender.send_request(request).await
}

impl SnapshotStream {
    /// The next bytes of the file; `None`: it is whole, and what etcd read.
    pub async fn next(&mut self) -> Result<Option<Bytes>, EtcdError> {
        loop {
            if let Some(blob) = self.ready.pop_front() {
                return Ok(Some(blob));
            }
            if self.whole {
                return Ok(None);
            }
            let frame = timeout(STALL, self.body.frame()).await;
            let frame = frame.map_err(|_| self.broken("it stalled"))?;
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.take(&data)?,
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        self.end(&trailers)?;
                    }
                },
                Some(Err(e)) => return Err(self.broken(chain(&e))),
                None => return Err(self.broken("it ended without a reason")),
            }
        }
    }

    /// The version of what etcd stores, if it says one; known with the first bytes.
    pub fn storage_version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    fn take(&mut self, data: &[u8]) -> Result<(), EtcdError> {
        self.buffer.extend_from_slice(data);
        while let Some(message) = cut(&mut self.buffer).map_err(|why| self.broken(why))? {
            let message =
                Message::read(&message).ok_or_else(|| self.broken("it cannot be read"))?;
            if self.version.is_none() {
                self.version = message.version;
            }
            let blob = self.check.take(message.remains, message.blob);
            let blob = blob.map_err(|why| self.broken(why))?;
            self.ready.extend(blob);
        }
        Ok(())
    }

    fn end(&mut self, trailers: &HeaderMap) -> Result<(), EtcdError> {
        if let Some(why) = refusal(trailers) {
            return Err(self.broken(why));
        }
        if !trailers.contains_key(STATUS) {
            return Err(self.broken("it ended without a status"));
        }
        if !self.buffer.is_empty() {
            return Err(self.broken("it ended within a message"));
        }
        let last = self.check.finish().map_err(|why| self.broken(why))?;
        self.ready.push_back(last);
        self.whole = true;
        Ok(())
    }

    fn broken(&self, why: impl Into<String>) -> EtcdError {
        broken(&self.url, why)
    }
}

// === impl Check ===

impl Check {
    fn new() -> Self {
        Self {
            sum: Hasher::new(),
            held: None,
            remains: None,
            at_end: false,
            came: 0,
        }
    }

    /// Takes a blob and returns the previous one, now known not to be the last.
    fn take(&mut self, remains: u64, blob: Bytes) -> Result<Option<Bytes>, String> {
        let before = self.held.take();
        if let Some(before) = &before {
            self.sum.update(before);
            self.came = self.came.saturating_add(before.len() as u64);
        }
        let promised = match self.remains {
            // The first says how much there is.
            None => remains,
            // The last blob is the checksum, which no count covers; nothing follows it.
            Some(0) if self.at_end || blob.len() > SUM => {
                return Err("it sends more than announced".to_owned());
            }
            Some(0) => {
                self.at_end = true;
                0
            }
            Some(left) => left
                .checked_sub(blob.len() as u64)
                .ok_or("it sends more than announced")?,
        };
        if promised != remains {
            return Err(format!("{remains} bytes should remain, not {promised}"));
        }
        self.remains = Some(remains);
        self.held = Some(blob);
        Ok(before)
    }

    /// The end: the last blob, which is the checksum of all others.
    fn finish(&mut self) -> Result<Bytes, &'static str> {
        let last = self.held.take().ok_or("it is empty")?;
        if !self.at_end || self.came == 0 {
            return Err("it is not whole");
        }
        let sum = std::mem::take(&mut self.sum).finish();
        if last.len() != SUM || sum.0.as_slice() != last {
            return Err("its checksum differs from the one that etcd sent");
        }
        Ok(last)
    }
}

/// One message of the stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    remains: u64,
    blob: Bytes,
    version: Option<String>,
}

/// The next whole message, if there is one.
fn cut(buffer: &mut BytesMut) -> Result<Option<Bytes>, &'static str> {
    let Some((&prefix, _)) = buffer.split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let [compressed, length @ ..] = prefix;
    if compressed != 0 {
        return Err("it is compressed, which was not asked for");
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MESSAGE_MAX {
        return Err("a message of it is too large");
    }
    if buffer.len() < PREFIX + length {
        return Ok(None);
    }
    buffer.advance(PREFIX);
    Ok(Some(buffer.split_to(length).freeze()))
}

impl Message {
    /// Reads a `SnapshotResponse`; fields of later versions are skipped.
    fn read(bytes: &Bytes) -> Option<Self> {
        const REMAINS: u64 = 2;
        const BLOB: u64 = 3;
        const VERSION: u64 = 4;
        let mut message = Self::default();
        for field in fields(bytes) {
            match field.ok()? {
                (REMAINS, Value::Number(remains)) => message.remains = remains,
                // A part of the same bytes, not a copy.
                (BLOB, Value::Bytes(blob)) => message.blob = bytes.slice_ref(blob),
                (VERSION, Value::Bytes(text)) => {
                    let text = std::str::from_utf8(text).ok()?;
                    message.version = (!text.is_empty()).then(|| text.to_owned());
                }
                (_, Value::Number(_) | Value::Bytes(_) | Value::Fixed) => {}
            }
        }
        Some(message)
    }
}

const STATUS: &str = "grpc-status";

/// The other side's words, if it refuses.
fn refusal(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let status = text(STATUS)?;
    let why = text("grpc-message").unwrap_or_default();
    let why: String = why.chars().take(WORDS_MAX).collect();
    (status != "0").then(|| format!("etcd refuses: {why} (status {status})"))
}

/// Most characters of a refusal that are kept.
const WORDS_MAX: usize = 300;

fn broken(url: &str, why: impl Into<String>) -> EtcdError {
    EtcdError::Snapshot {
        url: url.to_owned(),
        why: why.into(),
    }
}

#[cfg(test)]
pub(super) mod tests;
