//! What the service's answers mean: pure. Every text of it is hostile input.

use crate::backup::archive::ArchiveError;
use crate::model::Timestamp;

/// Signatures are good for this long; clocks may differ by as much.
pub(super) const SIGNED_SECONDS: u64 = 900;
/// A clock that is off by this much is what a refusal is taken to be about: less is forgiven by every
/// service.
const CLOCK_OFF_SECONDS: i64 = 600;
/// Longest words of the service that are repeated.
const SAID_MAX: usize = 200;

/// The head of an answer that is not success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// `x-amz-bucket-region`.
    pub(super) region: Option<String>,
    /// `Date`.
    pub(super) date: Option<Timestamp>,
}

/// What was asked, for the words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) region: &'a str,
    pub(super) bucket: &'a str,
    pub(super) key: &'a str,
    /// This machine's clock.
    pub(super) now: Timestamp,
}

/// An upload in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Upload {
    pub(super) key: String,
    pub(super) id: String,
}

/// Why the service did not do what was asked.
pub(super) fn refusal(head: &Head, body: &str, asked: Asked<'_>) -> ArchiveError {
    let code = element(body, "Code").unwrap_or_default();
    let said = said(head.status, body, &code);
    if let Some(elsewhere) = elsewhere(head, body, &code, asked.region) {
        return elsewhere;
    }
    let off = head
        .date
        .map(|theirs| asked.now.as_second().saturating_sub(theirs.as_second()));
    let is_off = off.is_some_and(|off| off.abs() >= CLOCK_OFF_SECONDS);
    match (code.as_str(), head.status) {
        ("RequestTimeTooSkewed", _) | (_, 403) if is_off || code == "RequestTimeTooSkewed" => {
            let off = off.unwrap_or_default();
            ArchiveError::Clock {
                seconds: off.unsigned_abs(),
                ahead: off > 0,
            }
        }
        ("NoSuchBucket", _) => ArchiveError::NoBucket {
            bucket: asked.bucket.to_owned(),
        },
        ("NoSuchUpload", _) => ArchiveError::UploadGone,
        ("QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage", _) | (_, 507) => {
            ArchiveError::Full { said }
        }
        // A slow connection, in the words of some services; others say 408.
        ("RequestTimeout" | "SlowDown" | "InternalError" | "ServiceUnavailable", _)
        | (_, 408 | 425 | 429 | 500 | 502 | 503 | 504) => ArchiveError::Busy { said },
        (_, 401 | 403) => ArchiveError::Denied { said },
        // An answer to HEAD has no words.
        ("NoSuchKey" | "", 404) => ArchiveError::Missing {
            file: asked.key.to_owned(),
        },
        _ => ArchiveError::Answer { said },
    }
}

/// The bucket is in another region, or behind another address.
fn elsewhere(head: &Head, body: &str, code: &str, asked: &str) -> Option<ArchiveError> {
    let region = head.region.clone().or_else(|| element(body, "Region"));
    let region = region.filter(|r| r != asked).map(|r| clip(&r));
    let moved = matches!(head.status, 301 | 302 | 307 | 308)
        || matches!(code, "PermanentRedirect" | "TemporaryRedirect");
    if !moved && region.is_none() {
        return None;
    }
    Some(ArchiveError::OtherRegion {
        asked: asked.to_owned(),
        there: region.or_else(|| element(body, "Endpoint").map(|e| clip(&e))),
    })
}

/// Some answers say 200 and hold an error: a service that works long begins to answer before it is
/// done.
pub(super) fn hidden_refusal(body: &str) -> bool {
    element(body, "Error").is_some()
}

/// The uploads of a listing, and (key, id) that the next page begins after.
pub(super) fn uploads(body: &str) -> (Vec<Upload>, Option<Upload>) {
    let mut all = Vec::new();
    let mut rest = body;
    while let Some((one, after)) = cut(rest, "Upload") {
        if let (Some(key), Some(id)) = (element(one, "Key"), element(one, "UploadId")) {
            all.push(Upload { key, id });
        }
        rest = after;
    }
    let more = element(body, "IsTruncated").as_deref() == Some("true");
    let marker = || {
        Some(Upload {
            key: element(body, "NextKeyMarker")?,
            id: element(body, "NextUploadIdMarker")?,
        })
    };
    (all, marker().filter(|_| more))
}

fn said(status: u16, body: &str, code: &str) -> String {
    let message = element(body, "Message").unwrap_or_default();
    match (code, message.as_str()) {
        ("", _) => status.to_string(),
        (code, "") => clip(&format!("{status} {code}")),
        (code, message) => clip(&format!("{status} {code}: {message}")),
    }
}

fn clip(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(SAID_MAX).collect()
}

/// The text of the first element of this name. (The answers that this is asked of are a few flat
/// elements; a parser was weighed, and says no more.)
fn element(xml: &str, name: &str) -> Option<String> {
    cut(xml, name).map(|(inside, _)| unescape(inside.trim()))
}

/// What is inside of the first element of this name, and what comes after it.
fn cut<'a>(xml: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let open = format!("<{name}>");
    let (_, rest) = xml.split_once(&open)?;
    rest.split_once(&format!("</{name}>"))
}

fn unescape(text: &str) -> String {
    // The ampersand last: what it makes is no entity.
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#34;", "\"")
        .replace("&apos;", "'")
        .replace("&#39;", "'")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_764_000_000;

    fn told(status: u16, region: Option<&str>, off: i64, body: &str) -> String {
        let at = |second| Timestamp::from_second(second).expect("time");
        let head = Head {
            status,
            region: region.map(str::to_owned),
            date: Some(at(NOW - off)),
        };
        let asked = Asked {
            region: "eu-1",
            bucket: "b",
            key: "k",
            now: at(NOW),
        };
        refusal(&head, body, asked).to_string()
    }

    fn error(code: &str, more: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m &amp; n</Message>{more}</Error>"
        )
    }

    #[test]
    fn each_refusal_is_what_it_is_about() {
        let region = "<Region>us-2</Region>";
        for (status, of, off, body, words) in [
            (
                403,
                None,
                0,
                error("InvalidAccessKeyId", ""),
                "refuses the credentials: 403 InvalidAccessKeyId: m & n",
            ),
            (
                403,
                None,
                0,
                error("SignatureDoesNotMatch", ""),
                "refuses the credentials",
            ),
            (401, None, 0, String::new(), "refuses the credentials: 401"),
            (
                403,
                None,
                3600,
                error("AccessDenied", ""),
                "3600 s ahead of",
            ),
            (
                403,
                None,
                -3600,
                error("RequestTimeTooSkewed", ""),
                "3600 s behind",
            ),
            (
                403,
                None,
                300,
                error("AccessDenied", ""),
                "refuses the credentials",
            ),
            (404, None, 0, error("NoSuchBucket", ""), "no bucket b"),
            (404, None, 0, error("NoSuchKey", ""), "k is missing"),
            (404, None, 0, String::new(), "k is missing"),
            (
                404,
                None,
                0,
                error("NoSuchUpload", ""),
                "no longer knows the upload",
            ),
            (
                301,
                Some("us-2"),
                0,
                String::new(),
                "not in region eu-1 but in us-2",
            ),
            (
                301,
                None,
                0,
                error("PermanentRedirect", "<Endpoint>b.s3.x</Endpoint>"),
                "but in b.s3.x",
            ),
            (307, None, 0, String::new(), "not in region eu-1"),
            (
                400,
                None,
                0,
                error("AuthorizationQueryParametersError", region),
                "but in us-2",
            ),
            (
                403,
                Some("eu-1"),
                0,
                error("AccessDenied", ""),
                "refuses the credentials",
            ),
            (507, None, 0, error("XMinioStorageFull", ""), "it is full"),
            (403, None, 0, error("QuotaExceeded", ""), "it is full"),
            (
                503,
                None,
                0,
                error("SlowDown", ""),
                "is unavailable: 503 SlowDown",
            ),
            (400, None, 0, error("RequestTimeout", ""), "is unavailable"),
            (502, None, 0, "<html>".to_owned(), "is unavailable: 502"),
            (
                400,
                None,
                0,
                error("InvalidRequest", ""),
                "answered 400 InvalidRequest",
            ),
            (418, None, 0, "x".to_owned(), "answered 418"),
        ] {
            let told = told(status, of, off, &body);
            assert!(told.contains(words), "{status} {body}: {told}");
        }
    }

    #[test]
    fn what_passes_is_tried_again_and_nothing_else() {
        let asked = Asked {
            region: "r",
            bucket: "b",
            key: "k",
            now: Timestamp::UNIX_EPOCH,
        };
        for (status, passes) in [
            (503, true),
            (500, true),
            (429, true),
            (408, true),
            (403, false),
            (404, false),
            (400, false),
            (507, false),
        ] {
            let head = Head {
                status,
                ..Head::default()
            };
            assert_eq!(refusal(&head, "", asked).passes(), passes, "{status}");
        }
    }

    #[test]
    fn a_listing_of_uploads_is_read_page_by_page() {
        let one =
            |k: &str| format!("<Upload><Key>p/{k}&amp;</Key><UploadId>{k}1</UploadId></Upload>");
        let page = format!(
            "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>p/b</NextKeyMarker>\
             <NextUploadIdMarker>b1</NextUploadIdMarker>{}{}<Upload><Key>x</Key></Upload></ListMultipartUploadsResult>",
            one("a"),
            one("b")
        );
        let (all, next) = uploads(&page);
        assert_eq!(
            all.iter().map(|u| u.key.as_str()).collect::<Vec<_>>(),
            ["p/a&", "p/b&"]
        );
        assert_eq!(
            next,
            Some(Upload {
                key: "p/b".into(),
                id: "b1".into()
            })
        );
        let last = page.replace("true", "false");
        assert_eq!(uploads(&last).1, None);
    }

    proptest! {
        /// No answer makes words that are long, or that hold lines of their own.
        #[test]
        fn words_are_bounded(status in any::<u16>(), region in prop::option::of(".{0,400}"), code in ".{0,50}", message in "(?s).{0,800}") {
            let body = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
            let told = told(status, region.as_deref(), 0, &body);
            prop_assert!(told.chars().count() < 2 * SAID_MAX && !told.contains(char::is_control), "{told}");
        }
    }
}
