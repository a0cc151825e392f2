//! Refusals: one value, written in the format of the called API.
//!
//! Handlers return [`Refusal`]; it travels in the response's extensions, and the middleware of each API ([`Shape`])
//! writes the body. So a fault has the same code and words everywhere.

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use pf9_hostagent::host::refusals;
use pf9_hostagent::model::{Envelope, Fault, FaultCode};
pub(super) use pf9_hostagent::telemetry::chain;

/// Retry-After where the machine refuses: it has no room, or no thread, in seconds.
const REFUSED_S: u64 = 10;

/// A refused request.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// HTTP status.
    pub(super) status: StatusCode,
    /// What, why and what to do.
    pub(super) fault: Box<Fault>,
    /// Retry-After, seconds.
    pub(super) retry_after: Option<u64>,
    /// Signed documents sent along, for a peer that must be able to trust the refusal.
    pub(super) documents: Vec<Envelope>,
}

/// How an API writes its errors.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// A [`Fault`] as JSON: our own APIs.
    Fault,
    /// `{"error": {"code", "message", "title"}}`: Keystone.
    Keystone,
    /// `{"message": …}`: resmgr.
    Resmgr,
    /// `{"error": {"code", "message"}}`: qbert.
    Qbert,
    /// A Kubernetes `Status`, which kubectl displays well. Never with `Retry-After`: kubectl would retry silently for a
    /// minute instead of saying why.
    Kubernetes,
}

pub(super) type Answer<T> = Result<T, Refusal>;

impl Refusal {
    pub(super) fn new(status: StatusCode, fault: Fault) -> Self {
        Self {
            status,
            fault: Box::new(fault),
            retry_after: None,
            documents: Vec::new(),
        }
    }

    /// 400: the request itself is wrong.
    pub(super) fn bad(code: FaultCode, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Fault::new(code, what, why))
    }

    /// 404: no such thing.
    pub(super) fn missing(
        code: FaultCode,
        what: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        Self::new(StatusCode::NOT_FOUND, Fault::new(code, what, why))
    }

    /// 409: valid, but not in the present state.
    pub(super) fn conflict(
        code: FaultCode,
        what: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        Self::new(StatusCode::CONFLICT, Fault::new(code, what, why))
    }

    /// 403: not allowed.
    pub(super) fn forbidden(
        code: FaultCode,
        what: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        Self::new(StatusCode::FORBIDDEN, Fault::new(code, what, why))
    }

    /// 403: a copy of a host, with the signed order to hold.
    pub(super) fn copied(fault: Fault, documents: Vec<Envelope>) -> Self {
        Self {
            documents,
            ..Self::new(StatusCode::FORBIDDEN, fault)
        }
    }

    /// 401: not authenticated.
    pub(super) fn unauthenticated(why: &str) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            Fault::new(FaultCode::Unauthenticated, "request refused", why)
                .fix("get a token from POST /keystone/v3/auth/tokens"),
        )
    }

    /// 503: retry after this many seconds.
    pub(super) fn busy(what: &str, why: &str, retry_after: u64) -> Self {
        let fault = Fault::new(FaultCode::PlaneBusy, what, why)
            .fix("nothing to do: it is retried automatically");
        Self {
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, fault)
        }
    }

    /// 500: our own failure. The cause is logged; the caller only learns that there is one.
    pub(super) fn internal(what: &str, cause: &(dyn std::error::Error + 'static)) -> Self {
        let why = chain(cause);
        tracing::error!(what, why, "the plane failed");
        // The machine has no room, no processes, no memory: that passes.
        if let Some((code, fix)) = refusals::of(cause) {
            return Self {
                retry_after: Some(REFUSED_S),
                ..Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    Fault::new(code, what, why).fix(fix),
                )
            };
        }
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            Fault::new(FaultCode::PlaneFailed, what, why).fix("see the plane's log"),
        )
    }

    /// Adds the remedy.
    #[must_use]
    pub(super) fn fix(mut self, fix: impl Into<String>) -> Self {
        *self.fault = self.fault.fix(fix);
        self
    }

    fn body(&self, shape: Shape) -> serde_json::Value {
        let code = self.status.as_u16();
        let message = self.fault.to_string();
        let title = self.status.canonical_reason().unwrap_or("Error");
        match shape {
            Shape::Fault => {
                let mut body = json!(self.fault);
                if !self.documents.is_empty() {
                    body["documents"] = json!(self.documents);
                }
                body
            }
            Shape::Keystone => json!({"error": {
                "code": code, "message": message, "title": title, "fault": self.fault,
            }}),
            Shape::Resmgr => json!({"message": message, "fault": self.fault}),
            Shape::Qbert => json!({"error": {
                "code": code, "message": message, "fault": self.fault,
            }}),
            Shape::Kubernetes => json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": message, "reason": kube_reason(self.status), "code": code,
            }),
        }
    }
}

fn kube_reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "BadRequest",
        StatusCode::UNAUTHORIZED => "Unauthorized",
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::GATEWAY_TIMEOUT => "Timeout",
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
        _ => "InternalError",
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        write(self, Shape::Fault)
    }
}

impl From<Fault> for Refusal {
    /// A document that was parsed and is wrong.
    fn from(fault: Fault) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, fault)
    }
}

/// Rewrites a refusal in the format of the called API.
pub(super) fn reshape(shape: Shape, mut response: Response) -> Response {
    match response.extensions_mut().remove::<Refusal>() {
        Some(refusal) => write(refusal, shape),
        None => response,
    }
}

fn write(refusal: Refusal, shape: Shape) -> Response {
    let mut response: Response<Body> = (refusal.status, Json(refusal.body(shape))).into_response();
    if let Some(seconds) = refusal.retry_after {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response.extensions_mut().insert(refusal);
    response
}
