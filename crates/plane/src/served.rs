//! Files that hosts fetch: whole, or the part that `Range` asks for, so that an interrupted download continues.

use std::fs::File;
use std::path::PathBuf;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::refusal::{Answer, Refusal};
use pf9_hostagent::host::work::{blocking, pieces};
use pf9_hostagent::model::{Digest, Fault, FaultCode};

/// Bytes of a file that are held at a time: a stream's window is of this order.
pub(super) const CHUNK: usize = 256 * 1024;

/// A file that is served.
pub(super) struct Served {
    pub(super) path: PathBuf,
    /// Its size.
    pub(super) bytes: u64,
    /// Its tag: a continued download is of the same content.
    pub(super) sha256: Digest,
    /// Its media type.
    pub(super) media: &'static str,
}

impl Served {
    /// The file, or the part that is asked for.
    pub(super) async fn answer(&self, headers: &HeaderMap) -> Answer<Response> {
        let total = self.bytes;
        let etag = format!("\"{}\"", self.sha256);
        let range = wanted_range(headers, &etag, total)?;
        let (from, len) = range.unwrap_or((0, total));
        let gone = |e: std::io::Error| Refusal::internal("cannot read the file to serve", &e);
        let path = self.path.clone();
        let file = blocking(move || File::open(path)).await.map_err(gone)?;
        let body = Body::from_stream(pieces(file, from, len, CHUNK));
        let status = match range {
            Some(_) => StatusCode::PARTIAL_CONTENT,
            None => StatusCode::OK,
        };
        let mut response = (status, body).into_response();
        let mut set = |name, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(name, value);
            }
        };
        set(header::CONTENT_TYPE, self.media);
        set(header::ACCEPT_RANGES, "bytes");
        set(header::ETAG, &etag);
        set(header::CONTENT_LENGTH, &len.to_string());
        if range.is_some() && len > 0 {
            let part = format!("bytes {from}-{}/{total}", from + len - 1);
            set(header::CONTENT_RANGE, &part);
        }
        Ok(response)
    }
}

/// Start and length of the one range asked for; `None`: everything. Several ranges or an unknown
/// unit mean everything, as HTTP allows.
fn wanted_range(headers: &HeaderMap, etag: &str, total: u64) -> Answer<Option<(u64, u64)>> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|v: &HeaderValue| v.to_str().ok())
    };
    if text(header::IF_RANGE).is_some_and(|t| t != etag) {
        return Ok(None);
    }
    let Some(spec) = text(header::RANGE).and_then(|r| r.trim().strip_prefix("bytes=")) else {
        return Ok(None);
    };
    let Some((first, last)) = spec.split_once('-').filter(|_| !spec.contains(',')) else {
        return Ok(None);
    };
    let bounds = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => Some((first, last.saturating_add(1).min(total))),
        (Ok(first), Err(_)) if last.trim().is_empty() => Some((first, total)),
        (Err(_), Ok(suffix)) if first.trim().is_empty() => {
            Some((total.saturating_sub(suffix), total))
        }
        _ => return Ok(None),
    };
    match bounds {
        Some((from, end)) if from < end => Ok(Some((from, end - from))),
        _ => Err(Refusal::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            Fault::new(
                FaultCode::RangeInvalid,
                "range refused",
                format!("the file has {total} bytes"),
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_says() {
        let ask = |range: &str, if_range: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, range.parse().expect("header"));
            if let Some(tag) = if_range {
                headers.insert(header::IF_RANGE, tag.parse().expect("header"));
            }
            wanted_range(&headers, "\"e\"", 100).map_err(|r| r.status.as_u16())
        };
        assert_eq!(ask("bytes=0-", None), Ok(Some((0, 100))));
        assert_eq!(ask("bytes=40-", None), Ok(Some((40, 60))));
        assert_eq!(ask("bytes=10-19", None), Ok(Some((10, 10))));
        assert_eq!(ask("bytes=90-500", None), Ok(Some((90, 10))));
        assert_eq!(ask("bytes=-5", None), Ok(Some((95, 5))));
        assert_eq!(ask("bytes=100-", None), Err(416));
        assert_eq!(ask("bytes=-0", None), Err(416));
        for whole in ["bytes=1-2,4-5", "lines=1-2", "bytes=x", "bytes=9-3"] {
            assert_eq!(ask(whole, None), Ok(None), "{whole}");
        }
        assert_eq!(ask("bytes=40-", Some("\"e\"")), Ok(Some((40, 60))));
        assert_eq!(ask("bytes=40-", Some("\"old\"")), Ok(None));
    }
}
