//! A client of the CRI like kubelet: the part of `runtime.v1.RuntimeService` that tests need, each call over its own
//! connection.

use std::path::PathBuf;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::protobuf::Message;

/// Making a pod on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A runtime's socket.
pub(crate) struct Cri(pub(crate) PathBuf);

impl Cri {
    /// The answer, or the status and message of a refusal.
    pub(crate) async fn call(&self, name: &str, question: Message) -> Result<Bytes, String> {
        let asked = self.exchange(name, question.freeze());
        tokio::time::timeout(PATIENCE, asked)
            .await
            .expect("in time")
    }

    async fn exchange(&self, name: &str, question: Bytes) -> Result<Bytes, String> {
        let stream = UnixStream::connect(&self.0).await.expect("it listens");
        let io = TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .expect("HTTP/2");
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(question.len() as u32);
        body.put_slice(&question);
        let request = http::Request::post(format!("http://cri/runtime.v1.RuntimeService/{name}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body.freeze()))
            .expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        let (head, body) = answer.into_parts();
        let body = body.collect().await.expect("all of it");
        let end = body.trailers().cloned().unwrap_or(head.headers);
        let word = |name: &str| {
            end.get(name)
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default()
        };
        match word("grpc-status") {
            "0" => Ok(body.to_bytes().slice(5..)),
            status => Err(format!("{status}: {}", word("grpc-message"))),
        }
    }
}
