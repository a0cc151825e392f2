//! Whether the plane's store answers, and where it is: as shown by `/ready`, `/metrics/plane`, `/v1/store` (the page) and
//! `pf9-plane store show`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::guard::Person;
use super::state::Plane;
use super::store::{EtcdPlace, Standing};
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

/// Tells pages when it is another.
pub(super) async fn tell(plane: Arc<Plane>) {
    let Some(mut standing) = plane.store.standing() else {
        return;
    };
    loop {
        tokio::select! {
            // cancel-safe: both are
            changed = standing.changed() => match changed {
                Ok(()) => plane.changes.tell(),
                Err(_) => return,
            },
            () = plane.shutdown.cancelled() => return,
        }
    }
}

/// `GET /v1/store`.
pub(super) async fn seen(_: Person, plane: State<Arc<Plane>>) -> Json<Value> {
    show(plane).await
}

/// `GET /store` of the administrator's socket.
pub(super) async fn show(State(plane): State<Arc<Plane>>) -> Json<Value> {
    let own = plane.peer.as_ref().unwrap_or(&plane.public_url);
    Json(shown(Said::now(&plane), plane.store.place(), own))
}

/// `own`: where this plane is.
fn shown(said: Said, place: Option<&EtcdPlace>, own: &str) -> Value {
    let Some(place) = place else {
        return json!({"store": "embedded", "answers": "yes"});
    };
    let mut shown = json!({"store": "etcd", "answers": "no", "at": place.endpoints, "prefix": place.prefix, "seat": own});
    match said {
        Said::Answers => shown["answers"] = "yes".into(),
        Said::Away(since, why) => {
            shown["since"] = since.into();
            shown["why"] = why.into();
        }
        Said::Anothers(to) => {
            shown["why"] = format!("another plane has it: {to}").into();
            shown["seat"] = to.into();
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Away;

    #[test]
    fn where_the_seat_is_stands_beside_what_the_store_says() {
        let of = |said| {
            let place = EtcdPlace {
                endpoints: vec!["https://e1:2379".into(), "https://e2:2379".into()],
                authority: "/ca".into(),
                certificate: "/cert".into(),
                key: "/key".into(),
                prefix: "/fleet/".into(),
            };
            let shown = shown(said, Some(&place), "a.plane:8443");
            assert!(!shown.to_string().contains("/key"), "{shown}");
            let text = |field: &str| shown[field].as_str().map(str::to_owned);
            (text("answers"), text("seat"), text("since"), text("why"))
        };
        let some = |text: &str| Some(text.to_owned());
        let here = some("a.plane:8443");
        assert_eq!(of(Said::Answers), (some("yes"), here.clone(), None, None));
        let away = Said::Away("1970".into(), "it is cut".into());
        let (since, why) = (some("1970"), some("it is cut"));
        assert_eq!(of(away), (some("no"), here, since, why));
        let why = some("another plane has it: b.plane");
        let anothers = Said::Anothers("b.plane".into());
        assert_eq!(of(anothers), (some("no"), some("b.plane"), None, why));
        let embedded = shown(Said::Answers, None, "a.plane:8443");
        assert_eq!(embedded, json!({"store": "embedded", "answers": "yes"}));
    }

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
