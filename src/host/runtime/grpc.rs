//! gRPC calls on containerd's socket, each with one message and one answer.

use std::path::Path;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::host::protobuf::Message;

/// Calls that containerd answers from its database; a commit waits for its disk.
pub(super) const ANSWER: Duration = Duration::from_secs(20);
/// Longest answer: the list of a few hundred images.
const ANSWER_MAX: usize = 4 * 1024 * 1024;
/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// `ALREADY_EXISTS` and `NOT_FOUND` of gRPC.
const ALREADY_EXISTS: u32 = 6;
const NOT_FOUND: u32 = 5;

/// A connection; dropped, it closes.
pub(super) struct Client {
    sender: SendRequest<Full<Bytes>>,
    namespace: &'static str,
    lease: Option<String>,
    within: Duration,
    _connection: JoinSet<()>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It does not run, or not yet.
    #[error("no listener on {socket}")]
    Nobody {
        /// Where.
        socket: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke, or speaks something else.
    #[error("the container runtime's socket does not answer")]
    Broken(#[from] hyper::Error),
    /// In time.
    #[error("the container runtime did not answer within {} s", .0.as_secs())]
    Late(Duration),
    /// In its own words.
    #[error("the container runtime says: {message} ({code})")]
    Refused {
        /// gRPC's number for it.
        code: u32,
        /// Why.
        message: String,
    },
    /// What came is no answer.
    #[error("the container runtime's answer cannot be used: {0}")]
    Answer(&'static str),
}

impl CallError {
    /// What was to be made is there.
    pub(super) fn is_there(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == ALREADY_EXISTS)
    }

    /// What was asked for is not there.
    pub(super) fn is_not_there(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == NOT_FOUND)
    }
}

impl Client {
    /// Connects; calls are about this namespace, each answered within this time.
    pub(super) async fn connect(
        socket: &Path,
        namespace: &'static str,
        within: Duration,
    ) -> Result<Self, CallError> {
        let nobody = |source| CallError::Nobody {
            socket: socket.display().to_string(),
            source,
        };
        let stream = UnixStream::connect(socket).await.map_err(nobody)?;
        let hello = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let late = |_| CallError::Late(within);
        let (sender, work) = timeout(within, hello).await.map_err(late)??;
        let mut connection = JoinSet::new();
        connection.spawn(async move {
            // The caller sees the error.
            drop(work.await);
        });
        Ok(Self {
            sender,
            namespace,
            lease: None,
            within,
            _connection: connection,
        })
    }

    /// What is made from now on is kept while this lease is there.
    pub(super) fn under(&mut self, lease: String) {
        self.lease = Some(lease);
    }

    /// Asks, e.g. `containerd.services.images.v1.Images/List`.
    pub(super) async fn call(&mut self, what: &str, message: Message) -> Result<Bytes, CallError> {
        let within = self.within;
        timeout(within, self.exchange(what, message))
            .await
            .map_err(|_| CallError::Late(within))?
    }

    async fn exchange(&mut self, what: &str, message: Message) -> Result<Bytes, CallError> {
        let mut request = Request::post(format!("http://containerd/{what}"))
            .header(http::header::CONTENT_TYPE, "application/grpc")
            .header(http::header::TE, "trailers")
            .header("containerd-namespace", self.namespace);
        if let Some(lease) = &self.lease {
            request = request.header("containerd-lease", lease);
        }
        let request = request
            .body(Full::new(framed(&message.done())))
            .map_err(|_| CallError::Answer("the request cannot be built"))?;
        let answer = self.sender.send_request(request).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await;
        let body = body.map_err(|_| CallError::Answer("it broke off, or is too long"))?;
        // A refusal comes as a head alone.
        let end = body.trailers().cloned().unwrap_or(head.headers);
        verdict(&end)?;
        let body = body.to_bytes();
        message_of(&body).ok_or(CallError::Answer("its message is compressed or truncated"))
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX + message.len());
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(message);
    out.freeze()
}

/// The first message of an answer.
fn message_of(body: &Bytes) -> Option<Bytes> {
    let (prefix, rest) = body.split_at_checked(PREFIX)?;
    let &[0, a, b, c, d] = prefix else {
        return None;
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    (length <= rest.len()).then(|| body.slice(PREFIX..PREFIX + length))
}

fn verdict(end: &HeaderMap) -> Result<(), CallError> {
    let word = |name: &str| end.get(name).and_then(|v| v.to_str().ok());
    let code = word("grpc-status").and_then(|code| code.parse().ok());
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(CallError::Refused {
            code,
            message: word("grpc-message").unwrap_or_default().to_owned(),
        }),
        None => Err(CallError::Answer("it ended without a reason")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_first_message_and_a_refusal_says_why() {
        let framed = framed(b"abc");
        assert_eq!(message_of(&framed).as_deref(), Some(&b"abc"[..]));
        assert_eq!(message_of(&framed.slice(..7)), None, "cut off");
        assert_eq!(message_of(&Bytes::from_static(&[1, 0, 0, 0, 0])), None);
        let mut end = HeaderMap::new();
        verdict(&end).expect_err("no word");
        end.insert("grpc-status", "6".parse().expect("a value"));
        end.insert("grpc-message", "image x".parse().expect("a value"));
        let refused = verdict(&end).expect_err("refused");
        assert!(refused.is_there() && !refused.is_not_there());
        assert!(refused.to_string().contains("image x"), "{refused}");
        end.insert("grpc-status", "0".parse().expect("a value"));
        verdict(&end).expect("done");
    }
}
