//! Calls over a Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::{Fault, FaultCode, document};
use crate::seam::point_soon;
use crate::telemetry::causes;

/// Largest JSON answer that is taken in: a status document with thousands of phases would not
/// reach it, a broken peer cannot fill memory.
pub(crate) const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// An idle connection is kept this long: well below what any server of ours allows (20 s), so
/// that a call never goes out on a connection the other side is just closing.
const KEEP_IDLE: Duration = Duration::from_secs(10);

/// Pause before another try to connect to a socket whose backlog is full at the moment. The kernel
/// answers at once to a non-blocking connect; it lets in the blocking ones one after the other.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

/// A client of one Unix socket. Cheap to clone; keeps connections alive.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    socket: PathBuf,
}

/// Why a call did not bring an answer.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Nobody listens, or the connection broke.
    #[error("cannot reach {socket}")]
    Unreachable {
        /// Which socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// No answer in time.
    #[error("no answer from {socket} within {after:?}")]
    Timeout {
        /// Which socket.
        socket: PathBuf,
        /// The deadline.
        after: Duration,
    },
    /// The other side said no, in its own words.
    #[error("{status}: {fault}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Its words.
        fault: Box<Fault>,
    },
    /// The answer is not what was expected.
    #[error("the answer of {socket} cannot be read: {why}")]
    Malformed {
        /// Which socket.
        socket: PathBuf,
        /// Why.
        why: String,
    },
}

// === impl Client ===

impl Client {
    /// A client of the socket at `socket`. Nothing is connected yet.
    pub fn unix(socket: impl AsRef<Path>) -> Result<Self, LocalError> {
        let socket = socket.as_ref().to_path_buf();
        crate::tls::install();
        let http = reqwest::Client::builder()
            .unix_socket(socket.clone())
            // No https here, and nobody to trust: without this every client reads all authorities of the machine, which
            // takes longer than all that pf9ctl status asks, and stays in the memory of a daemon.
            .tls_certs_only(std::iter::empty())
            .no_proxy()
            .pool_max_idle_per_host(2)
            .pool_idle_timeout(KEEP_IDLE)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|source| LocalError::Unreachable {
                socket: socket.clone(),
                source,
            })?;
        Ok(Self { http, socket })
    }

    /// `GET path`, parsed.
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        deadline: Duration,
    ) -> Result<T, LocalError> {
        let request = self.http.get(url(path));
        let bytes = self.answer(request, deadline).await?;
        self.parse(&bytes)
    }

    /// `GET path`, parsed; `None` when the answer is empty (204).
    pub async fn poll<T: DeserializeOwned>(
        &self,
        path: &str,
        deadline: Duration,
    ) -> Result<Option<T>, LocalError> {
        let request = self.http.get(url(path));
        let bytes = self.answer(request, deadline).await?;
        self.parse_some(&bytes)
    }

    /// Sends `body` as JSON; `None` when the answer is empty (204).
    pub async fn send<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
        deadline: Duration,
    ) -> Result<Option<T>, LocalError> {
        let request = self.http.request(method, url(path)).json(body);
        let bytes = self.answer(request, deadline).await?;
        self.parse_some(&bytes)
    }

    /// `GET path` for a large body, from byte `from` on; the deadline is for the headers only.
    pub async fn stream(
        &self,
        path: &str,
        from: Option<u64>,
        deadline: Duration,
    ) -> Result<reqwest::Response, LocalError> {
        let mut request = self.http.get(url(path));
        if let Some(from) = from {
            request = request.header(http::header::RANGE, format!("bytes={from}-"));
        }
        let response = tokio::time::timeout(deadline, self.sent(request))
            .await
            .map_err(|_| self.late(deadline))??;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = tokio::time::timeout(deadline, self.body(response))
            .await
            .map_err(|_| self.late(deadline))??;
        Err(refused(status, &bytes))
    }

    /// Sends a large body as it comes; an error in it breaks the call off. The deadline is for all of it. Sent once: what
    /// was sent of it cannot be had again.
    pub async fn send_stream<S>(
        &self,
        path: &str,
        body: S,
        deadline: Duration,
    ) -> Result<(), LocalError>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let body = reqwest::Body::wrap_stream(body);
        let request = self.http.put(url(path)).body(body);
        self.answer(request, deadline).await.map(drop)
    }

    async fn answer(
        &self,
        request: reqwest::RequestBuilder,
        deadline: Duration,
    ) -> Result<Bytes, LocalError> {
        let call = async {
            let response = self.sent(request).await?;
            let status = response.status();
            let bytes = self.body(response).await?;
            point_soon!(Reply, self.socket)
                .await
                .map_err(|e| self.malformed(e.to_string()))?;
            if status.is_success() {
                Ok(bytes)
            } else {
                Err(refused(status, &bytes))
            }
        };
        tokio::time::timeout(deadline, call)
            .await
            .map_err(|_| self.late(deadline))?
    }

    /// Sends the request, again as long as it finds the backlog full; the caller has the deadline.
    async fn sent(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, LocalError> {
        let mut this = request;
        loop {
            // A body that comes as a stream can be sent only once: then a full backlog is an error.
            let again = this.try_clone();
            match (this.send().await, again) {
                (Ok(response), _) => return Ok(response),
                (Err(e), Some(again)) if is_crowded(&e) => {
                    tokio::time::sleep(BACKLOG_PAUSE).await;
                    this = again;
                }
                (Err(e), _) => return Err(self.unreachable(e)),
            }
        }
    }

    async fn body(&self, mut response: reqwest::Response) -> Result<Bytes, LocalError> {
        let mut all = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(e))? {
            if all.len() + chunk.len() > ANSWER_MAX {
                return Err(self.malformed(format!("it is larger than {ANSWER_MAX} bytes")));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.into())
    }

    fn parse<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, LocalError> {
        document::read(bytes).map_err(|e| self.malformed(e.to_string()))
    }

    fn parse_some<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<Option<T>, LocalError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        self.parse(bytes).map(Some)
    }

    fn unreachable(&self, source: reqwest::Error) -> LocalError {
        LocalError::Unreachable {
            socket: self.socket.clone(),
            source,
        }
    }

    fn late(&self, after: Duration) -> LocalError {
        LocalError::Timeout {
            socket: self.socket.clone(),
            after,
        }
    }

    fn malformed(&self, why: String) -> LocalError {
        LocalError::Malformed {
            socket: self.socket.clone(),
            why,
        }
    }
}

// === impl LocalError ===

impl LocalError {
    /// The failure as a fault about `what`. A refusal keeps the other side's words.
    pub fn fault(&self, what: &str) -> Fault {
        match self {
            Self::Refused { fault, .. } => (**fault).clone(),
            Self::Unreachable { socket, source } => {
                let at = socket.display();
                // What a door says on closing may come before the question has left.
                let why = match source.is_connect() {
                    true => format!("no answer on {at}"),
                    false => format!(
                        "{at} was closed on this call: its program ended, or this user may not \
                         call, or has too many connections open"
                    ),
                };
                let fix = "see systemctl status 'pf9-*'";
                Fault::new(FaultCode::LocalUnreachable, what, why).fix(fix)
            }
            Self::Timeout { .. } => Fault::new(FaultCode::LocalTimeout, what, self.to_string()),
            Self::Malformed { .. } => Fault::new(FaultCode::LocalMalformed, what, self.to_string()),
        }
    }
}

/// The connection was not made because too many others are being made.
fn is_crowded(error: &reqwest::Error) -> bool {
    let io = causes(error).find_map(|e| e.downcast_ref::<std::io::Error>());
    error.is_connect() && io.is_some_and(|io| io.kind() == std::io::ErrorKind::WouldBlock)
}

fn url(path: &str) -> String {
    format!("http://local{path}")
}

fn refused(status: StatusCode, bytes: &[u8]) -> LocalError {
    let fault = serde_json::from_slice(bytes).unwrap_or_else(|_| {
        const SHOWN: usize = 200;
        let shown = String::from_utf8_lossy(bytes.get(..SHOWN.min(bytes.len())).unwrap_or(bytes));
        Fault::new(
            FaultCode::HttpError,
            "call refused",
            format!("{status} {shown}"),
        )
    });
    LocalError::Refused {
        status,
        fault: Box::new(fault),
    }
}
