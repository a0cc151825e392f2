//! One question to the service, and the same question again while that can help.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use reqwest::{Body, Response, Url};
use tokio::time::Instant;

use super::answer::{self, Asked, Head};
use super::{ArchiveError, S3};
use crate::host::tls;
use crate::host::work::{blocking, pieces};
use crate::model::{Timestamp, doubled, jittered};
use crate::telemetry::{causes, chain};

/// Longest answer that is no file: a page of a listing has a thousand entries.
const ANSWER_MAX: usize = 4 * 1024 * 1024;
/// What is read of a file at once.
const CHUNK: usize = 256 * 1024;
/// A connection that carries less is broken off and tried again: at this pace a gigabyte takes nine
/// hours.
const SLOWEST_BYTES_PER_SECOND: u64 = 32 * 1024;

/// How often and how long something is tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Tries in a row without anything done.
    pub(super) tries: u32,
    /// Before the second try; doubles.
    pub(super) first: Duration,
    /// Longest pause.
    pub(super) cap: Duration,
    /// The service has this long for an answer, beside the time that bytes take.
    pub(super) answer: Duration,
}

/// What a request carries.
#[derive(Clone, Debug)]
pub(super) enum Payload {
    Nothing,
    Text(Bytes),
    /// A piece of a file: read while it is sent.
    Piece {
        file: PathBuf,
        from: u64,
        len: u64,
    },
}

/// A question that can be asked again: it is signed again each time.
pub(super) struct Ask<'a, Sign: Fn(&Timestamp) -> Url> {
    pub(super) method: Method,
    pub(super) sign: Sign,
    pub(super) payload: Payload,
    /// The key it is about, for the words.
    pub(super) key: &'a str,
}

/// An answer that is success.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

// === impl Pace ===

impl Default for Pace {
    fn default() -> Self {
        Self {
            tries: 6,
            first: Duration::from_secs(1),
            cap: Duration::from_secs(30),
            answer: Duration::from_secs(60),
        }
    }
}

impl Pace {
    /// How long `bytes` may take in one request.
    fn request(self, bytes: u64) -> Duration {
        self.answer + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
    }

    /// The pause before the try of this number (the first is 0), with a random part: `random` is
    /// uniform in [0, 1).
    fn pause(self, failed: u32, random: f64) -> Duration {
        jittered(doubled(self.first, self.cap, failed), random)
    }
}

// === impl Payload ===

impl Payload {
    fn len(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Text(text) => text.len() as u64,
            Self::Piece { len, .. } => *len,
        }
    }

    async fn body(&self) -> Result<Body, ArchiveError> {
        let (file, from, len) = match self {
            Self::Nothing => return Ok(Body::from(Bytes::new())),
            Self::Text(text) => return Ok(Body::from(text.clone())),
            Self::Piece { file, from, len } => (file, *from, *len),
        };
        let at = file.clone();
        let opened = blocking(move || File::open(at)).await;
        let opened = opened.map_err(|source| ArchiveError::Io {
            action: "read",
            path: file.clone(),
            source,
        })?;
        Ok(Body::wrap_stream(pieces(opened, from, len, CHUNK)))
    }
}

// === impl S3 ===

impl S3 {
    /// Asks until there is an answer, it is no use, the tries are over, or `until` would pass.
    pub(super) async fn ask<Sign: Fn(&Timestamp) -> Url>(
        &self,
        ask: &Ask<'_, Sign>,
        until: Instant,
    ) -> Result<Answer, ArchiveError> {
        let mut failed = 0;
        loop {
            let error = match self.once(ask, until).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            failed += 1;
            self.pause(error, failed, until).await?;
        }
    }

    /// Waits before the next try; answers `error` when there is none left.
    pub(super) async fn pause(
        &self,
        error: ArchiveError,
        failed: u32,
        until: Instant,
    ) -> Result<(), ArchiveError> {
        let pause = self.pace.pause(failed, fastrand::f64());
        if !error.passes() || failed >= self.pace.tries || Instant::now() + pause >= until {
            return Err(error);
        }
        tracing::debug!(%error, failed, "retrying the archive");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    async fn once<Sign: Fn(&Timestamp) -> Url>(
        &self,
        ask: &Ask<'_, Sign>,
        until: Instant,
    ) -> Result<Answer, ArchiveError> {
        let within = self.pace.request(ask.payload.len());
        let asked = async {
            let response = self.begin(ask, HeaderMap::new()).await?;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = tls::body(response, ANSWER_MAX).await.map_err(away)?;
            let body = body.ok_or_else(|| ArchiveError::Answer {
                said: format!("more than {ANSWER_MAX} bytes"),
            })?;
            let body = String::from_utf8_lossy(&body).into_owned();
            match status.is_success() && !answer::hidden_refusal(&body) {
                true => Ok(Answer { headers, body }),
                false => Err(self.refused(status, &headers, &body, ask.key)),
            }
        };
        let within = within.min(until.saturating_duration_since(Instant::now()));
        tokio::time::timeout(within, asked)
            .await
            .unwrap_or(Err(ArchiveError::Slow {
                seconds: within.as_secs(),
            }))
    }

    /// Sends a question and answers the head of what comes back, whatever it is.
    pub(super) async fn begin<Sign: Fn(&Timestamp) -> Url>(
        &self,
        ask: &Ask<'_, Sign>,
        headers: HeaderMap,
    ) -> Result<Response, ArchiveError> {
        let now = (self.now)();
        self.http
            .request(ask.method.clone(), (ask.sign)(&now))
            .headers(headers)
            // A stream has no length of its own, and the service wants one.
            .header(header::CONTENT_LENGTH, ask.payload.len())
            .body(ask.payload.body().await?)
            .send()
            .await
            .map_err(away)
    }

    pub(super) fn refused(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: &str,
        key: &str,
    ) -> ArchiveError {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let head = Head {
            status: status.as_u16(),
            region: text("x-amz-bucket-region").map(str::to_owned),
            date: text("date").and_then(|d| {
                let zoned = jiff::fmt::rfc2822::parse(d).ok()?;
                Some(zoned.timestamp())
            }),
        };
        let asked = Asked {
            region: self.bucket.region(),
            bucket: self.bucket.name(),
            key,
            now: (self.now)(),
        };
        answer::refusal(&head, body, asked)
    }
}

/// What TLS said. An error of I/O names what it carries as its content, not as its source; and one may carry another.
fn of_tls<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref() {
        return Some(tls);
    }
    let carried = error.downcast_ref::<io::Error>()?.get_ref()?;
    of_tls(carried)
}

/// What the connection said. Addresses are left out: they are signed, and as good as a key for a
/// while.
pub(super) fn away(error: reqwest::Error) -> ArchiveError {
    let error = error.without_url();
    let foreign = causes(&error).find_map(|cause| match of_tls(cause) {
        Some(rustls::Error::InvalidCertificate(why)) => Some(why.to_string()),
        Some(_) | None => None,
    });
    match foreign {
        Some(why) => ArchiveError::Foreign { why },
        None => ArchiveError::Away { why: chain(&error) },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Pauses grow, are never longer than the cap, and never nothing.
        #[test]
        fn pauses_are_bounded(failed in 0u32..1000, random in -1.0f64..2.0) {
            let pace = Pace::default();
            let pause = pace.pause(failed, random);
            prop_assert!(pause <= pace.cap && pause >= pace.first / 2, "{pause:?}");
            prop_assert!(pace.pause(failed + 1, random) >= pause);
        }
    }
}
