//! The other end of the administrator's socket: the command line's.

use std::path::PathBuf;
use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use pf9_hostagent::model::{Fault, FaultCode};
use serde::Serialize;
use serde_json::Value;
use tokio::net::UnixStream;

use super::super::refusal::chain;
use super::SOCKET;

/// Longest an answer may take: an import reads a gigabyte.
const DEADLINE: Duration = Duration::from_secs(600);
/// Largest answer: every host of a large fleet.
const ANSWER_MAX: usize = 256 * 1024 * 1024;

/// Asks the running plane of a state directory.
pub(crate) async fn ask<B: Serialize>(
    dir: &std::path::Path,
    method: Method,
    path: &str,
    body: &B,
) -> Result<Value, Fault> {
    let answer = called(
        dir,
        method,
        path,
        body,
        async |response: Called, away: &Away| {
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX);
            let bytes = body
                .collect()
                .await
                .map_err(|e| away.fault(e.to_string()))?;
            read_answer(status, &bytes.to_bytes())
        },
    );
    let late = || Away(dir.join(SOCKET)).fault("no answer in time".into());
    tokio::time::timeout(DEADLINE, answer)
        .await
        .map_err(|_| late())?
}

/// Lets the running plane write a file, piece by piece; answers its size. A silence ends it.
pub(crate) async fn download(
    dir: &std::path::Path,
    path: &str,
    to: &mut impl std::io::Write,
) -> Result<u64, Fault> {
    let cannot = |e: std::io::Error| {
        let what = "cannot write the file";
        Fault::new(FaultCode::OutputFailed, what, e.to_string())
    };
    called(
        dir,
        Method::GET,
        path,
        &Value::Null,
        async |response: Called, away: &Away| {
            let status = response.status();
            let mut body = response.into_body();
            if !status.is_success() {
                let body = Limited::new(body, ANSWER_MAX).collect().await;
                let bytes = body.map_err(|e| away.fault(e.to_string()))?.to_bytes();
                return Err(read_answer(status, &bytes)
                    .err()
                    .unwrap_or_else(|| away.fault(status.to_string())));
            }
            let mut all = 0;
            loop {
                let frame = tokio::time::timeout(DEADLINE, body.frame())
                    .await
                    .map_err(|_| away.fault("no more data".into()))?;
                let Some(frame) = frame else { break };
                let frame = frame.map_err(|e| away.fault(chain(&e)))?;
                let data = frame.into_data().unwrap_or_default();
                to.write_all(&data).map_err(cannot)?;
                all += data.len() as u64;
            }
            to.flush().map_err(cannot)?;
            Ok(all)
        },
    )
    .await
}

type Called = http::Response<hyper::body::Incoming>;

/// The plane does not answer on this socket.
struct Away(PathBuf);

impl Away {
    fn fault(&self, why: String) -> Fault {
        let why = format!("{}: {why}", self.0.display());
        Fault::new(FaultCode::PlaneAway, "cannot ask the plane", why)
            .fix("start it with pf9-plane serve --state-dir DIR, or correct --state-dir")
    }
}

/// One call; `read` parses its answer.
async fn called<B: Serialize, T>(
    dir: &std::path::Path,
    method: Method,
    path: &str,
    body: &B,
    read: impl AsyncFnOnce(Called, &Away) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let away = Away(dir.join(SOCKET));
    let stream = UnixStream::connect(&away.0)
        .await
        .map_err(|e| away.fault(e.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| away.fault(chain(&e)))?;
    let body = serde_json::to_vec(body).map_err(|e| away.fault(e.to_string()))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "plane")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(bytes::Bytes::from(body)))
        .map_err(|e| away.fault(e.to_string()))?;
    let answer = async {
        let response = sender.send_request(request).await;
        read(response.map_err(|e| away.fault(chain(&e)))?, &away).await
    };
    // The connection only has to live until the answer is complete.
    tokio::select! {
        answer = answer => answer,
        Err(e) = connection => Err(away.fault(chain(&e))),
    }
}

fn read_answer(status: StatusCode, bytes: &[u8]) -> Result<Value, Fault> {
    let garbage = |e: serde_json::Error| {
        Fault::new(
            FaultCode::PlaneGarbage,
            "cannot read the plane's answer",
            e.to_string(),
        )
    };
    if status.is_success() {
        return serde_json::from_slice(bytes).map_err(garbage);
    }
    Err(serde_json::from_slice::<Fault>(bytes).unwrap_or_else(garbage))
}
