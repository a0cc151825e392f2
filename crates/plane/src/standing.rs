//! Whether the plane's store answers, as shown by `/ready`, `/metrics/plane`, `pf9-plane store show`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::guard::Person;
use super::state::Plane;
use super::store::Standing;
use pf9_hostagent::telemetry::{METRICS_TYPE, MetricKind, MetricsText};

/// The store's condition.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Answers,
    /// Since when, and the reason.
    Away(String, String),
    /// Address of the plane that holds it.
    Anothers(String),
}

impl Said {
    fn of(standing: Option<&Standing>) -> Self {
        match standing {
            None | Some(Standing::Ours { away: None, .. }) => Self::Answers,
            Some(Standing::Ours {
                away: Some(away), ..
            }) => Self::Away(away.since.to_string(), away.why.clone()),
            Some(Standing::Lost(to)) => Self::Anothers(to.clone()),
        }
    }

    fn now(plane: &Plane) -> Self {
        match plane.store.standing() {
            Some(standing) => Self::of(Some(&*standing.borrow())),
            None => Self::of(None),
        }
    }

    /// Public: no address, no reason.
    fn ready(&self) -> (StatusCode, String) {
        match self {
            Self::Answers => (StatusCode::OK, "ok\n".into()),
            Self::Away(since, _) => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!(
                    "the store has not answered since {since}: changes are refused, tunnels stay up\n"
                ),
            ),
            Self::Anothers(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "another plane has the store: this one exits\n".into(),
            ),
        }
    }
}

/// `GET /ready`.
pub(super) async fn ready(State(plane): State<Arc<Plane>>) -> (StatusCode, String) {
    Said::now(&plane).ready()
}

/// `GET /metrics/plane`.
pub(super) async fn numbers(_: Person, State(plane): State<Arc<Plane>>) -> Response {
    let mut text = MetricsText::default();
    let name = "pf9_plane_store_answers";
    let help =
        "1 while the plane's store answers; 0: changes are refused, tunnels and reads continue.";
    text.head(name, MetricKind::Gauge, help);
    let answers = Said::now(&plane) == Said::Answers;
    text.row(name, &[], f64::from(u8::from(answers)));
    ([(header::CONTENT_TYPE, METRICS_TYPE)], String::from(text)).into_response()
}

/// `GET /store` of the administrator's socket.
pub(super) async fn show(State(plane): State<Arc<Plane>>) -> Json<Value> {
    let store = match plane.store.standing() {
        Some(_) => "etcd",
        None => "embedded",
    };
    Json(match Said::now(&plane) {
        Said::Answers => json!({"store": store, "answers": "yes"}),
        Said::Away(since, why) => {
            json!({"store": store, "answers": "no", "since": since, "why": why})
        }
        Said::Anothers(to) => {
            json!({"store": store, "answers": "no", "why": format!("another plane has it: {to}")})
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Away;

    #[test]
    fn who_is_not_ready_says_why_and_strangers_hear_no_address() {
        assert_eq!(Said::of(None).ready().0, StatusCode::OK);
        let ours = |away| Standing::Ours { seat: 7, away };
        assert_eq!(Said::of(Some(&ours(None))).ready().0, StatusCode::OK);
        let away = Away {
            since: jiff::Timestamp::UNIX_EPOCH,
            why: "etcd at https://10.0.0.1:2379 does not answer".into(),
        };
        for standing in [ours(Some(away)), Standing::Lost("https://10.0.0.2".into())] {
            let (status, text) = Said::of(Some(&standing)).ready();
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(text.contains("store") && !text.contains("10.0.0"), "{text}");
        }
    }
}
