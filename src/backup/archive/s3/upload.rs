//! Multipart upload of a large file: started, resumed where an earlier run was interrupted, completed.

use std::collections::BTreeMap;
use std::path::Path;

use http::{Method, header};
use rusty_s3::actions::{CreateMultipartUpload, ListParts};
use tokio::time::Instant;

use super::answer::{self, Upload};
use super::call::{Ask, Payload};
use super::{ArchiveError, Pieces, S3, UPLOADS_MAX, unread};
use crate::model::Timestamp;

impl S3 {
    /// Aborts what earlier runs started, except an upload of `key` when that one is to be resumed.
    pub(super) async fn take_up(
        &self,
        key: &str,
        go_on: bool,
        until: Instant,
    ) -> Result<Option<String>, ArchiveError> {
        let mut mine = None;
        for upload in self.uploads(until).await? {
            if go_on && upload.key == key && mine.is_none() {
                mine = Some(upload.id);
                continue;
            }
            tracing::info!(key = %upload.key, "an interrupted upload is abandoned");
            let action = self.bucket.abort_multipart_upload(
                Some(&self.credentials),
                &upload.key,
                &upload.id,
            );
            let gone = self
                .question_until(
                    Method::DELETE,
                    &action,
                    Payload::Nothing,
                    &upload.key,
                    until,
                )
                .await;
            match gone {
                Ok(_) | Err(ArchiveError::UploadGone | ArchiveError::Missing { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(mine)
    }

    /// Uploads of this host that were started and not completed.
    async fn uploads(&self, until: Instant) -> Result<Vec<Upload>, ArchiveError> {
        let mut all: Vec<Upload> = Vec::new();
        let mut after: Option<Upload> = None;
        loop {
            // In order of name: it is signed so.
            let mut query = Vec::new();
            if let Some(after) = &after {
                query.push(("key-marker", after.key.as_str()));
            }
            query.push(("prefix", self.prefix.as_str()));
            if let Some(after) = &after {
                query.push(("upload-id-marker", after.id.as_str()));
            }
            query.push(("uploads", ""));
            let sign = |now: &Timestamp| self.signed(now, &query);
            let ask = Ask {
                method: Method::GET,
                sign,
                payload: Payload::Nothing,
                key: &self.prefix,
            };
            let (page, next) = match self.ask(&ask, until).await {
                Ok(answer) => answer::uploads(&answer.body),
                // Some services do not list uploads, and some keys may not. Whose bucket it is then
                // gives up what is old by a rule of the bucket.
                Err(error @ (ArchiveError::Answer { .. } | ArchiveError::Denied { .. })) => {
                    tracing::debug!(%error, "interrupted uploads cannot be listed");
                    return Ok(all);
                }
                Err(e) => return Err(e),
            };
            all.extend(page.into_iter().filter(|u| u.key.starts_with(&self.prefix)));
            match next {
                Some(next) if all.len() < UPLOADS_MAX => after = Some(next),
                Some(_) | None => return Ok(all),
            }
        }
    }

    pub(super) async fn put_pieces(
        &self,
        key: &str,
        mine: Option<String>,
        file: &Path,
        pieces: Pieces,
        until: Instant,
    ) -> Result<(), ArchiveError> {
        let (id, mut tags) = match mine {
            Some(id) => {
                let tags = self.pieces_there(key, &id, pieces, until).await?;
                tracing::info!(
                    key,
                    there = tags.len(),
                    of = pieces.count(),
                    "resuming an upload"
                );
                (id, tags)
            }
            None => (self.begin_upload(key, until).await?, BTreeMap::new()),
        };
        for number in 1..=pieces.count() {
            if tags.contains_key(&number) {
                continue;
            }
            let (from, len) = pieces.range(number);
            let action = self
                .bucket
                .upload_part(Some(&self.credentials), key, number, &id);
            let payload = Payload::Piece {
                file: file.to_path_buf(),
                from,
                len,
            };
            let answer = self
                .question_until(Method::PUT, &action, payload, key, until)
                .await?;
            let tag = answer
                .headers
                .get(header::ETAG)
                .and_then(|t| t.to_str().ok());
            let tag = tag.ok_or_else(|| ArchiveError::Answer {
                said: "no ETag for a part".to_owned(),
            })?;
            tags.insert(number, tag.to_owned());
        }
        self.complete(key, &id, &tags, until).await
    }

    pub(super) async fn begin_upload(
        &self,
        key: &str,
        until: Instant,
    ) -> Result<String, ArchiveError> {
        let action = self
            .bucket
            .create_multipart_upload(Some(&self.credentials), key);
        let answer = self
            .question_until(Method::POST, &action, Payload::Nothing, key, until)
            .await?;
        let begun = CreateMultipartUpload::parse_response(&answer.body).map_err(|e| unread(&e))?;
        Ok(begun.upload_id().to_owned())
    }

    /// Tags of the pieces that an earlier run brought there. One page: there are no more.
    async fn pieces_there(
        &self,
        key: &str,
        id: &str,
        pieces: Pieces,
        until: Instant,
    ) -> Result<BTreeMap<u16, String>, ArchiveError> {
        let action = self.bucket.list_parts(Some(&self.credentials), key, id);
        let answer = self
            .question_until(Method::GET, &action, Payload::Nothing, key, until)
            .await?;
        let listed = ListParts::parse_response(&answer.body).map_err(|e| unread(&e))?;
        Ok(pieces.there(listed.parts.into_iter().map(|p| (p.number, p.size, p.etag))))
    }

    async fn complete(
        &self,
        key: &str,
        id: &str,
        tags: &BTreeMap<u16, String>,
        until: Instant,
    ) -> Result<(), ArchiveError> {
        let tags = || tags.values().map(String::as_str);
        let credentials = Some(&self.credentials);
        let action = self
            .bucket
            .complete_multipart_upload(credentials, key, id, tags());
        let body = self
            .bucket
            .complete_multipart_upload(credentials, key, id, tags())
            .body();
        let payload = Payload::Text(body.into());
        let done = self
            .question_until(Method::POST, &action, payload, key, until)
            .await;
        match done {
            // Done by a try whose answer was lost: the object says.
            Err(ArchiveError::UploadGone) if self.size(key, until).await?.is_some() => Ok(()),
            other => other.map(drop),
        }
    }
}
