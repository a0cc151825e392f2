//! HTTP manners shared by all of the plane's APIs: bounded bodies, deadlines, named fields.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;

use super::refusal::{Refusal, Shape, reshape};
use pf9_hostagent::model::{Fault, FaultCode, document};

/// A JSON body of at most `MAX` bytes. A malformed one is refused, naming the field.
pub(super) struct Doc<T, const MAX: usize = DOCUMENT_MAX>(pub(super) T);

/// Largest ordinary document: a host's status with a hundred interfaces is 60 KiB.
pub(super) const DOCUMENT_MAX: usize = 1024 * 1024;
/// Largest document of a stranger: a signing request and a token.
pub(super) const STRANGER_MAX: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// How long a handler may take to answer, beyond a wait that was asked for.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);

impl<T: DeserializeOwned, const MAX: usize, S: Send + Sync> FromRequest<S> for Doc<T, MAX> {
    type Rejection = Refusal;
    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let bytes = read_body(request.into_body(), MAX).await?;
        parse(&bytes).map(Self)
    }
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
                "request refused",
                format!("over {max} bytes"),
            ),
        )),
        Ok(Err(e)) => Err(Refusal::bad(
            FaultCode::BodyBroken,
            "request refused",
            e.to_string(),
        )),
        Err(_) => Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            Fault::new(
                FaultCode::BodySlow,
                "request refused",
                "its body did not arrive in time",
            ),
        )),
    }
}

/// Parses a document by the rule of [`document`]; the refusal names the field.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    document::readable(bytes).map_err(|why| {
        let why = format!("it {why}");
        Refusal::bad(FaultCode::DocumentNewer, "request refused", why)
            .fix("upgrade the plane first: no agent is newer than its plane")
    })?;
    // axum's reader keeps the path of the field, which serde_json alone does not.
    axum::Json::<T>::from_bytes(bytes)
        .map(|json| json.0)
        .map_err(|e| {
            let text = e.body_text();
            let why = text.split_once(": ").map_or(text.as_str(), |(_, why)| why);
            Refusal::bad(FaultCode::BodyMalformed, "request refused", why)
        })
}

/// Answers 404 for paths that are none.
pub(super) async fn no_such_path(request: Request) -> Refusal {
    let path: String = request.uri().path().chars().take(120).collect();
    Refusal::missing(
        FaultCode::NoSuchPath,
        format!("nothing at {path}"),
        "it is not a path of this API",
    )
}

/// Answers 405 for methods that are none.
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

/// Layer: a handler that hangs is answered for.
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

/// Layer: refusals in the shape of an API.
pub(super) fn shaped(
    shape: Shape,
) -> impl Fn(Response) -> std::future::Ready<Response> + Clone + Send + 'static {
    move |response| std::future::ready(reshape(shape, response))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_for_a_later_program_is_refused_in_words() {
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
