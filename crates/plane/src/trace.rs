//! Request ids: one id in the operator's client, here and in the node's audit log.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The id of one request; in the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trace(String);

/// W3C's header, and the part of it that is the trace id.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_DIGITS: usize = 32;
/// The other usual header; the answer has it as well.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is accepted: a UUID is 36; it is in every line of a node's audit log.
const LENGTH_MAX: usize = 64;

impl Trace {
    /// For the plane's own requests.
    pub(super) fn new() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }

    /// The caller's own id if it is valid, otherwise a new one.
    fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
        let own = text(TRACEPARENT).and_then(trace_id);
        let own = own.or_else(|| text(REQUEST_ID).filter(|id| is_name(id)));
        own.map_or_else(Self::new, |own| Self(own.to_owned()))
    }

    /// For a stream's metadata.
    pub(super) fn entry(&self) -> (String, String) {
        ("trace".to_owned(), self.0.clone())
    }
}

/// `version-id-parent-flags`, all of it lower-case hex digits.
fn trace_id(traceparent: &str) -> Option<&str> {
    let hex = |part: &str, digits| {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        part.len() == digits && part.bytes().all(digit)
    };
    let mut parts = traceparent.splitn(4, '-');
    let (version, id) = (parts.next()?, parts.next()?);
    let (parent, rest) = (parts.next()?, parts.next()?);
    // Later versions may have more after the flags; ff is invalid.
    let flags = rest.split('-').next()?;
    let sound = hex(version, 2)
        && version != "ff"
        && hex(id, TRACE_DIGITS)
        && hex(parent, 16)
        && hex(flags, 2);
    // All zeros means none.
    (sound && id.bytes().any(|b| b != b'0')).then_some(id)
}

fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    (1..=LENGTH_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

/// Middleware: every request has an id, and its answer names it, refusals included.
pub(super) async fn layer(mut request: Request, next: Next) -> Response {
    let trace = Trace::of(request.headers());
    let said = HeaderValue::from_str(&trace.0);
    request.extensions_mut().insert(trace);
    let mut response = next.run(request).await;
    if let Ok(said) = said {
        response.headers_mut().insert(REQUEST_ID, said);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn of(traceparent: &str, request_id: &str) -> String {
        let rows = [(TRACEPARENT, traceparent), (REQUEST_ID, request_id)];
        let rows = rows.map(|(name, value)| (name, HeaderValue::from_str(value).expect("value")));
        Trace::of(&HeaderMap::from_iter(rows)).0
    }

    #[test]
    fn the_callers_name_is_kept_if_it_is_one() {
        let parent = format!("00-{ID}-00f067aa0ba902b7-01");
        assert_eq!(of(&parent, "other"), ID);
        assert_eq!(of(&format!("cc{}-more", &parent[2..]), "other"), ID);
        for wrong in [
            "",
            ID,
            &parent[1..],
            &parent[..54],
            &parent.to_uppercase(),
            &parent.replace("00-4", "ff-4"),
            &parent.replace(ID, &"0".repeat(TRACE_DIGITS)),
        ] {
            assert_eq!(of(wrong, "a-B_9.z"), "a-B_9.z", "{wrong}");
        }
    }

    #[test]
    fn what_is_no_name_is_not_repeated() {
        let long = "a".repeat(LENGTH_MAX + 1);
        for wrong in ["", "a b", "a\"b", "a{b", &long] {
            let (one, two) = (of("", wrong), of("", wrong));
            assert!(is_name(&one) && one.len() == TRACE_DIGITS, "{one}");
            assert_ne!(one, two);
        }
    }
}
