//! A bucket of an S3-compatible service.
//!
//! ```text
//! put   small: one PUT            large: begin ► pieces (each tried again by itself) ► complete ► is it whole?
//!       An upload that another run began is gone on with when it is of the same file, else given up.
//! get   GET from the byte that is there on ► SHA-256
//! ```
//!
//! Addresses are signed (SigV4, `rusty-s3`), so no header of ours is a secret; an address is one, for a
//! quarter of an hour, and stands in no message. Integrity on the way up is TLS's and the size's: the
//! checksums of newer services are refused by older ones.
//!
//! | file | holds |
//! |---|---|
//! | `answer` | what answers mean, as text; pure |
//! | `call`   | one question, tried again while that can help |
//! | `upload` | a large file in pieces, continued where it was cut |

mod answer;
mod call;
mod upload;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use answer::SIGNED_SECONDS;
use bytes::Bytes;
use call::{Ask, Pace, Payload, away};
use http::{HeaderMap, HeaderValue, Method, header};
use rusty_s3::actions::ListObjectsV2;
use rusty_s3::actions::list_objects_v2::ListObjectsContent;
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use tokio::time::Instant;

use super::ArchiveError;
use super::plan::{Item, Pieces};
use crate::backup::blocking;
use crate::egress::Egress;
use crate::host::fs::HostFs;
use crate::host::part::{self, Begin};
use crate::host::tls;
use crate::model::{ARCHIVE_KEEP_MAX, Timestamp};
use crate::seam::disk::{self, Options};

/// How long a signature is good for.
const SIGNED: Duration = Duration::from_secs(SIGNED_SECONDS);
/// A question that carries no file is answered, tries included, within this.
const QUESTION: Duration = Duration::from_secs(5 * 60);
/// A file has this long, and what its bytes take at [`PACE_BYTES_PER_SECOND`] on top.
const FILE: Duration = Duration::from_secs(10 * 60);
/// The slowest way that is of any use: a gigabyte in two hours and a half.
const PACE_BYTES_PER_SECOND: u64 = 128 * 1024;
/// However large: the next backup is due, and an upload continues where it was cut.
const FILE_LONGEST: Duration = Duration::from_secs(6 * 3600);
/// Longest words of a refusal.
const REFUSAL_MAX: usize = 64 * 1024;
/// Longest silence in the middle of a file.
const SILENCE: Duration = Duration::from_secs(60);
/// A file of PEM authorities: the machine's own bundle has a quarter of a megabyte.
const AUTHORITY_MAX: u64 = 4 * 1024 * 1024;
/// Most files that one host's place is looked through for: two of each backup, and as many again.
const ITEMS_MAX: usize = 4 * ARCHIVE_KEEP_MAX as usize;
/// Most pages of a list: services put fewer than a thousand onto one, but an empty one that names a next one says nothing,
/// and could do so for ever.
const PAGES_MAX: usize = ITEMS_MAX / 100;
/// Most uploads that are looked at: there is one at a time, and one for each time it was cut.
const UPLOADS_MAX: usize = 1000;

/// What a policy says of a bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub(super) endpoint: &'a str,
    pub(super) region: &'a str,
    pub(super) bucket: &'a str,
    pub(super) prefix: &'a str,
    pub(super) path_style: bool,
    pub(super) authority: Option<&'a str>,
}

/// A bucket and who asks for it.
pub(super) struct S3 {
    http: reqwest::Client,
    bucket: Bucket,
    credentials: Credentials,
    /// What keys of all hosts begin with, the slash at its end included; may be empty.
    all: String,
    /// What keys begin with, the slash at its end included.
    prefix: String,
    pace: Pace,
    /// This machine's clock: signatures say when they were made.
    now: fn() -> Timestamp,
}

// === impl S3 ===

impl S3 {
    /// The bucket that the policy names.
    pub(super) fn open(
        host: &HostFs,
        target: Target<'_>,
        owner: &str,
        credentials: Credentials,
        egress: &Egress,
    ) -> Result<Self, ArchiveError> {
        let policy = |e: String| ArchiveError::Policy(e);
        let Target {
            endpoint,
            region,
            bucket,
            prefix,
            path_style,
            authority,
        } = target;
        let style = match path_style {
            true => UrlStyle::Path,
            false => UrlStyle::VirtualHost,
        };
        let endpoint = reqwest::Url::parse(endpoint).map_err(|e| policy(e.to_string()))?;
        let bucket = Bucket::new(endpoint, style, bucket.to_owned(), region.to_owned())
            .map_err(|e| policy(format!("not an address of a bucket: {e}")))?;
        let all = match prefix.is_empty() {
            true => String::new(),
            false => format!("{prefix}/"),
        };
        let prefix = format!("{all}{owner}/");
        let http = client(host, authority, egress)?;
        Ok(Self {
            http,
            bucket,
            credentials,
            all,
            prefix,
            pace: Pace::default(),
            now: crate::seam::clock::now,
        })
    }

    /// Puts a file there under a name, whole or not at all.
    pub(super) async fn put(&self, name: &str, file: &Path) -> Result<(), ArchiveError> {
        let total = length(file).await?;
        let until = Instant::now() + file_bound(total);
        let pieces = Pieces::of(total).ok_or_else(|| ArchiveError::Damaged {
            file: name.to_owned(),
            why: format!("{total} bytes are more than an object can have"),
        })?;
        let key = self.key(name);
        let mine = self.take_up(&key, pieces.count() > 1, until).await?;
        if pieces.count() == 1 {
            return self.put_whole(&key, file, total, until).await;
        }
        match self.put_pieces(&key, mine, file, pieces, until).await {
            // Given up by the service meanwhile, by a rule of the bucket's owner.
            Err(ArchiveError::UploadGone) => {
                self.put_pieces(&key, None, file, pieces, until).await?;
            }
            other => other?,
        }
        let there = self.size(&key, until).await?;
        match there == Some(total) {
            true => Ok(()),
            false => Err(ArchiveError::Damaged {
                file: name.to_owned(),
                why: format!("{total} bytes were sent, {} are there", there.unwrap_or(0)),
            }),
        }
    }

    /// Puts a short text there.
    pub(super) async fn put_text(&self, name: &str, text: &[u8]) -> Result<(), ArchiveError> {
        let key = self.key(name);
        let action = self.bucket.put_object(Some(&self.credentials), &key);
        let payload = Payload::Text(Bytes::copy_from_slice(text));
        self.question(Method::PUT, &action, payload, &key).await?;
        Ok(())
    }

    /// What is in this host's place, in order of name.
    pub(super) async fn list(&self) -> Result<Vec<Item>, ArchiveError> {
        let (objects, _) = self.listed(&self.prefix).await?;
        let named = |object: ListObjectsContent| {
            let file = object.key.strip_prefix(&self.prefix)?;
            Some(Item {
                file: file.to_owned(),
                bytes: object.size.unwrap_or(0),
            })
        };
        Ok(objects.into_iter().filter_map(named).collect())
    }

    /// The places of all hosts.
    pub(super) async fn neighbours(&self) -> Result<Vec<String>, ArchiveError> {
        let (_, places) = self.listed(&self.all).await?;
        let named = |place: String| {
            let name = place.strip_prefix(&self.all)?.strip_suffix('/')?;
            Some(name.to_owned())
        };
        Ok(places.into_iter().filter_map(named).collect())
    }

    /// What is below a prefix, and what has more below it.
    async fn listed(
        &self,
        prefix: &str,
    ) -> Result<(Vec<ListObjectsContent>, Vec<String>), ArchiveError> {
        let (mut objects, mut places) = (Vec::new(), Vec::new());
        let mut next: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut action = self.bucket.list_objects_v2(Some(&self.credentials));
            action.with_prefix(prefix);
            action.with_delimiter("/");
            if let Some(token) = next.take() {
                action.with_continuation_token(token);
            }
            let answer = self
                .question(Method::GET, &action, Payload::Nothing, prefix)
                .await?;
            let page = ListObjectsV2::parse_response(&answer.body).map_err(|e| unread(&e))?;
            objects.extend(page.contents);
            places.extend(page.common_prefixes.into_iter().map(|p| p.prefix));
            if objects.len() + places.len() > ITEMS_MAX {
                return Err(ArchiveError::Answer {
                    said: format!("more than {ITEMS_MAX} files below {prefix}"),
                });
            }
            match page.next_continuation_token {
                Some(token) => next = Some(token),
                None => return Ok((objects, places)),
            }
        }
        Err(ArchiveError::Answer {
            said: format!("a list of more than {PAGES_MAX} pages of what is below {prefix}"),
        })
    }

    /// A short text that is there.
    pub(super) async fn text(&self, name: &str) -> Result<String, ArchiveError> {
        let key = self.key(name);
        let action = self.bucket.get_object(Some(&self.credentials), &key);
        let asked = self.question(Method::GET, &action, Payload::Nothing, &key);
        asked
            .await
            .map(|answer| answer.body)
            .map_err(|e| own_name(e, name))
    }

    /// Brings a file of `total` bytes to `into`, after those that are there already.
    pub(super) async fn get(
        &self,
        name: &str,
        into: &Path,
        total: u64,
    ) -> Result<(), ArchiveError> {
        let until = Instant::now() + file_bound(total);
        let mut failed = 0;
        loop {
            let before = length(into).await.unwrap_or(0);
            if part::begin(Some(before), total) == Begin::Check && total > 0 {
                return Ok(());
            }
            let received = self.receive(name, into, before, total, until).await;
            let error = match received {
                Ok(()) => return Ok(()),
                Err(error) => own_name(error, name),
            };
            // A server that sends anything at all is tried again until the deadline.
            let more = length(into).await.unwrap_or(0) > before;
            failed = if more { 1 } else { failed + 1 };
            self.pause(error, failed, until).await?;
        }
    }

    /// Takes a file away; nothing there is fine.
    pub(super) async fn remove(&self, name: &str) -> Result<(), ArchiveError> {
        let key = self.key(name);
        let action = self.bucket.delete_object(Some(&self.credentials), &key);
        match self
            .question(Method::DELETE, &action, Payload::Nothing, &key)
            .await
        {
            Ok(_) | Err(ArchiveError::Missing { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn question<'a, A: S3Action<'a>>(
        &self,
        method: Method,
        action: &A,
        payload: Payload,
        key: &str,
    ) -> Result<call::Answer, ArchiveError> {
        let until = Instant::now() + QUESTION;
        self.question_until(method, action, payload, key, until)
            .await
    }

    async fn question_until<'a, A: S3Action<'a>>(
        &self,
        method: Method,
        action: &A,
        payload: Payload,
        key: &str,
        until: Instant,
    ) -> Result<call::Answer, ArchiveError> {
        let ask = Ask {
            method,
            sign: |now: &Timestamp| action.sign_with_time(SIGNED, now),
            payload,
            key,
        };
        self.ask(&ask, until).await
    }

    /// A question about the bucket that `rusty-s3` has no name for.
    fn signed(&self, now: &Timestamp, query: &[(&str, &str)]) -> reqwest::Url {
        rusty_s3::signing::sign(
            now,
            rusty_s3::Method::Get,
            self.bucket.base_url().clone(),
            self.credentials.key(),
            self.credentials.secret(),
            self.credentials.token(),
            self.bucket.region(),
            SIGNED_SECONDS,
            query.iter().copied(),
            std::iter::empty(),
        )
    }

    async fn put_whole(
        &self,
        key: &str,
        file: &Path,
        total: u64,
        until: Instant,
    ) -> Result<(), ArchiveError> {
        let action = self.bucket.put_object(Some(&self.credentials), key);
        let payload = Payload::Piece {
            file: file.to_path_buf(),
            from: 0,
            len: total,
        };
        let put = self.question_until(Method::PUT, &action, payload, key, until);
        put.await.map(drop)
    }

    /// Size of an object; `None` when there is none.
    async fn size(&self, key: &str, until: Instant) -> Result<Option<u64>, ArchiveError> {
        let action = self.bucket.head_object(Some(&self.credentials), key);
        let asked = self.question_until(Method::HEAD, &action, Payload::Nothing, key, until);
        let answer = match asked.await {
            Ok(answer) => answer,
            Err(ArchiveError::Missing { .. }) => return Ok(None),
            Err(e) => return Err(e),
        };
        let length = answer.headers.get(header::CONTENT_LENGTH);
        Ok(length.and_then(|v| v.to_str().ok()?.parse().ok()))
    }

    /// One try to bring a file from byte `have` on.
    async fn receive(
        &self,
        name: &str,
        into: &Path,
        have: u64,
        total: u64,
        until: Instant,
    ) -> Result<(), ArchiveError> {
        let (mut response, from) = self.from(&self.key(name), have, total).await?;
        let mut at = from;
        let file = open_at(into, from).await?;
        let received = async {
            loop {
                let silence = SILENCE.min(until.saturating_duration_since(Instant::now()));
                let chunk = tokio::time::timeout(silence, response.chunk()).await;
                let chunk = chunk.map_err(|_| slow(silence))?.map_err(away)?;
                let Some(chunk) = chunk else { return Ok(()) };
                let here = at;
                at = at.saturating_add(chunk.len() as u64);
                if at > total {
                    return Err(ArchiveError::Damaged {
                        file: name.to_owned(),
                        why: format!("it has more than {total} bytes"),
                    });
                }
                let file = Arc::clone(&file);
                let written = blocking(move || file.write_all_at(&chunk, here));
                written.await.map_err(write(into))?;
            }
        };
        received.await?;
        match at == total {
            true => blocking(move || file.sync_all()).await.map_err(write(into)),
            false => Err(ArchiveError::Away {
                why: format!("the answer ended after {at} of {total} bytes"),
            }),
        }
    }

    /// Asks for an object from byte `have` on; the answer, and from where it really is.
    async fn from(
        &self,
        key: &str,
        have: u64,
        total: u64,
    ) -> Result<(reqwest::Response, u64), ArchiveError> {
        let from = match part::begin(Some(have), total) {
            Begin::Resume(from) => from,
            Begin::Anew | Begin::Check => 0,
        };
        let action = self.bucket.get_object(Some(&self.credentials), key);
        let ask = Ask {
            method: Method::GET,
            sign: |now: &Timestamp| action.sign_with_time(SIGNED, now),
            payload: Payload::Nothing,
            key,
        };
        let mut headers = HeaderMap::new();
        if let Ok(range) = HeaderValue::try_from(format!("bytes={from}-")) {
            // Nothing to go on from: the whole is asked for, which an empty file has, too.
            (from > 0).then(|| headers.insert(header::RANGE, range));
        }
        let within = self.pace.answer;
        let response = tokio::time::timeout(within, self.begin(&ask, headers)).await;
        let response = response.map_err(|_| slow(within))??;
        let (status, headers) = (response.status(), response.headers().clone());
        if !status.is_success() {
            let body = tokio::time::timeout(within, tls::body(response, REFUSAL_MAX)).await;
            let body = body.ok().and_then(Result::ok).flatten();
            let body = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
            return Err(self.refused(status, &headers, &body, key));
        }
        let range = headers.get(header::CONTENT_RANGE);
        let range = range.and_then(|v| v.to_str().ok());
        match part::answer("the service", status.as_u16(), range, from, total) {
            Ok(part::RangeAnswer::GoesOn) => Ok((response, from)),
            Ok(part::RangeAnswer::Whole) => Ok((response, 0)),
            Err(said) => Err(ArchiveError::Answer { said }),
        }
    }
}

fn slow(within: Duration) -> ArchiveError {
    ArchiveError::Slow {
        seconds: within.as_secs(),
    }
}

/// Names in words are those of the host's place, not whole keys.
fn own_name(error: ArchiveError, name: &str) -> ArchiveError {
    match error {
        ArchiveError::Missing { .. } => ArchiveError::Missing {
            file: name.to_owned(),
        },
        other => other,
    }
}

fn unread(error: &dyn std::fmt::Display) -> ArchiveError {
    ArchiveError::Answer {
        said: format!("an answer that cannot be parsed: {error:.100}"),
    }
}

fn write(path: &Path) -> impl Fn(std::io::Error) -> ArchiveError {
    let path = path.to_path_buf();
    move |source| ArchiveError::Io {
        action: "write",
        path: path.clone(),
        source,
    }
}

async fn open_at(path: &Path, from: u64) -> Result<Arc<disk::File>, ArchiveError> {
    let at = path.to_path_buf();
    let opened = blocking(move || {
        let file = Options::write().create(0o600).open(at)?;
        file.set_len(from)?;
        Ok(Arc::new(file))
    });
    opened.await.map_err(write(path))
}

async fn length(path: &Path) -> Result<u64, ArchiveError> {
    let at = path.to_path_buf();
    let meta = blocking(move || std::fs::metadata(at)).await;
    meta.map(|m| m.len()).map_err(|source| ArchiveError::Io {
        action: "look at",
        path: path.to_path_buf(),
        source,
    })
}

/// How long a file of this size may take, tries included.
fn file_bound(bytes: u64) -> Duration {
    (FILE + Duration::from_secs(bytes / PACE_BYTES_PER_SECOND)).min(FILE_LONGEST)
}

fn client(
    host: &HostFs,
    authority: Option<&str>,
    egress: &Egress,
) -> Result<reqwest::Client, ArchiveError> {
    let roots = match authority {
        Some(path) => {
            let policy = |why: &str| ArchiveError::Policy(format!("authority {path}: {why}"));
            let pem = host.read(path, AUTHORITY_MAX)?;
            pem.ok_or_else(|| policy("there is no such file"))?
        }
        None => Vec::new(),
    };
    tls::outside(authority.map(|_| roots.as_slice()), |builder| {
        egress.on(builder)
    })
    .map_err(|e| ArchiveError::Policy(crate::telemetry::chain(&e)))
}
