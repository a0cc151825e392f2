//! HTTP conventions shared by all of the plane's APIs: bounded bodies, deadlines, named fields, and one form of
//! refusal: a handler takes its path, query and body from here, never from axum, whose errors have other words
//! (`tests/arch.rs` holds it).

use std::ops::Deref;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;

use super::refusal::{Refusal, Shape, reshape};
use pf9_hostagent::model::{Fault, FaultCode, document};

/// A JSON body of at most `MAX` bytes. A malformed one is refused, naming the field.
pub(super) struct Doc<T, const MAX: usize = DOCUMENT_MAX>(pub(super) T);

/// Largest ordinary document: a host's status with a hundred interfaces is 60 KiB.
pub(super) const DOCUMENT_MAX: usize = 1024 * 1024;
/// Largest document of an unauthenticated caller: a signing request and a token.
pub(super) const STRANGER_MAX: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// How long a handler may take to answer, beyond a wait that was requested.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);

impl<T: DeserializeOwned, const MAX: usize, S: Send + Sync> FromRequest<S> for Doc<T, MAX> {
    type Rejection = Refusal;
    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let bytes = read_body(request.into_body(), MAX).await?;
        parse(&bytes).map(Self)
    }
}

/// The query string. A malformed one is refused, naming the field.
pub(super) struct Query<T>(pub(super) T);

impl<T> Deref for Query<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let read = extract::Query::try_from_uri(&parts.uri);
        let extract::Query(read) = read.map_err(|e: QueryRejection| {
            Refusal::bad(FaultCode::QueryInvalid, REFUSED, reason(&e.body_text()))
                .fix("correct the query string")
        })?;
        Ok(Self(read))
    }
}

/// The path's parameters. One that is not text is refused.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let read = extract::Path::from_request_parts(parts, state).await;
        let extract::Path(read) = read.map_err(|_: PathRejection| bad_path())?;
        Ok(Self(read))
    }
}

/// Refusal for a path whose parameters cannot be read.
pub(super) fn bad_path() -> Refusal {
    let why = "a name in its path is not UTF-8 text";
    Refusal::bad(FaultCode::PathInvalid, REFUSED, why).fix("encode it (%..) as UTF-8")
}

const REFUSED: &str = "request refused";

/// The reason in an error of axum's, without its own introduction.
fn reason(said: &str) -> &str {
    said.split_once(": ").map_or(said, |(_, why)| why)
}

/// The whole body, if it is not too large and does not take too long.
pub(super) async fn read_body(body: Body, max: usize) -> Result<Bytes, Refusal> {
    let read = Limited::new(body, max).collect();
    match tokio::time::timeout(BODY_DEADLINE, read).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            Fault::new(
                FaultCode::BodyTooLarge,
                REFUSED,
                format!("over {max} bytes"),
            ),
        )),
        Ok(Err(e)) => Err(Refusal::bad(FaultCode::BodyBroken, REFUSED, e.to_string())),
        Err(_) => Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            Fault::new(
                FaultCode::BodySlow,
                REFUSED,
                "its body did not arrive in time",
            ),
        )),
    }
}

/// Parses a document by the rule of [`document`]; the refusal names the field.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    document::readable(bytes).map_err(|why| {
        let why = format!("it {why}");
        Refusal::bad(FaultCode::DocumentNewer, REFUSED, why)
            .fix("upgrade the plane first: no agent is newer than its plane")
    })?;
    // axum's reader keeps the path of the field, which serde_json alone does not.
    axum::Json::<T>::from_bytes(bytes)
        .map(|json| json.0)
        .map_err(|e| Refusal::bad(FaultCode::BodyMalformed, REFUSED, reason(&e.body_text())))
}

/// Answers 404 for unknown paths.
pub(super) async fn no_such_path(request: Request) -> Refusal {
    let path: String = request.uri().path().chars().take(120).collect();
    Refusal::missing(
        FaultCode::NoSuchPath,
        format!("nothing at {path}"),
        "it is not a path of this API",
    )
}

/// Answers 405 for unsupported methods.
pub(super) async fn no_such_method(request: Request) -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        Fault::new(
            FaultCode::NoSuchMethod,
            format!("{} refused", request.method()),
            "this path does not support the method",
        ),
    )
}

/// Middleware: answers for a handler that hangs.
pub(super) async fn deadline(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::new(
            StatusCode::GATEWAY_TIMEOUT,
            Fault::new(FaultCode::PlaneSlow, "request aborted", "it took too long"),
        )
        .into_response(),
    }
}

/// Middleware: refusals in the format of an API.
pub(super) fn shaped(
    shape: Shape,
) -> impl Fn(Response) -> std::future::Ready<Response> + Clone + Send + 'static {
    move |response| std::future::ready(reshape(shape, response))
}

/// Text as a query value.
pub(crate) fn escaped(text: &str) -> String {
    let one = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(b).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str) -> Parts {
        let request = http::Request::builder().uri(uri).body(());
        request.expect("request").into_parts().0
    }

    #[test]
    fn a_query_value_is_escaped() {
        assert_eq!(escaped("aZ9-_.~"), "aZ9-_.~");
        assert_eq!(escaped("a&limit=1#%ä"), "a%26limit%3D1%23%25%C3%A4");
    }

    #[tokio::test]
    async fn a_bad_query_is_refused_in_our_words_and_the_field_is_named() {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Asked {
            limit: Option<u16>,
        }
        let read = async |uri| {
            let read = Query::<Asked>::from_request_parts(&mut parts(uri), &()).await;
            read.map(|asked| asked.limit)
        };
        assert_eq!(read("/x?limit=7").await.expect("good"), Some(7));
        assert_eq!(read("/x").await.expect("none"), None);
        for (uri, names) in [
            ("/x?limit=many", "limit"),
            ("/x?limit=70000", "limit"),
            ("/x?limit=", "limit"),
            ("/x?limit=1&limit=2", "limit"),
            ("/x?lmit=1", "lmit"),
        ] {
            let refusal = read(uri).await.expect_err(uri);
            assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
            let fault = refusal.fault;
            assert_eq!(fault.code, FaultCode::QueryInvalid, "{uri}");
            assert!(fault.why.contains(names), "{uri}: {fault}");
            assert!(!fault.why.contains("deserialize"), "{uri}: {fault}");
        }
    }

    #[test]
    fn a_document_for_a_later_version_is_refused_in_words() {
        let refused = parse::<serde_json::Value>(br#"{"needs_agent": "99", "schema": 1}"#);
        let fault = refused.expect_err("later").fault;
        assert_eq!(fault.code, FaultCode::DocumentNewer);
        assert!(
            fault.why.starts_with("it needs agent 99 or newer"),
            "{fault}"
        );
        let now = format!(r#"{{"needs_agent": "{}"}}"#, document::AGENT_VERSION);
        parse::<serde_json::Value>(now.as_bytes()).expect("for this one");
    }
}
