//! The objects of an API server, as far as the plane uses them: lists page by page, merge patches, unique names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming as Body;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pf9_hostagent::mux::MuxStream;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use super::kube::subject_of;

/// Objects per page: few, so that lists have several pages.
const PAGE: usize = 3;

/// Objects by path, and who requested them.
#[derive(Clone, Default)]
pub(super) struct Objects(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    objects: BTreeMap<String, Value>,
    callers: Vec<String>,
    /// Changes of paths with this prefix are refused.
    forbidden: Option<String>,
    /// It reports not ready.
    ill: bool,
    /// How often this was requested.
    asked: BTreeMap<String, usize>,
}

impl Objects {
    /// Somebody other than the plane stores this.
    pub(super) fn put(&self, path: &str, object: Value) {
        self.0
            .lock()
            .expect("lock")
            .objects
            .insert(path.into(), object);
    }

    /// And this is removed.
    pub(super) fn remove(&self, path: &str) {
        self.0.lock().expect("lock").objects.remove(path);
    }

    pub(super) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().expect("lock").objects.get(path).cloned()
    }

    /// Every user that a binding names.
    pub(super) fn users(&self) -> Vec<String> {
        let kept = self.0.lock().expect("lock");
        let subjects = kept
            .objects
            .values()
            .filter_map(|o| o["subjects"].as_array());
        let users = subjects.flatten().filter(|s| s["kind"] == "User");
        let names = users.filter_map(|s| s["name"].as_str());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        names.dedup();
        names
    }

    pub(super) fn callers(&self) -> Vec<String> {
        self.0.lock().expect("lock").callers.clone()
    }

    /// Refuses changes of paths with this prefix.
    pub(super) fn forbid(&self, forbidden: Option<&str>) {
        self.0.lock().expect("lock").forbidden = forbidden.map(str::to_owned);
    }

    /// Sets whether it is ready.
    pub(super) fn well(&self, well: bool) {
        self.0.lock().expect("lock").ill = !well;
    }

    /// How often a path was requested.
    pub(super) fn asked(&self, path: &str) -> usize {
        let kept = self.0.lock().expect("lock");
        kept.asked.get(path).copied().unwrap_or(0)
    }

    /// Answers on one stream.
    pub(super) async fn serve(self, stream: MuxStream, acceptor: TlsAcceptor) {
        // A plane that rejects the certificate hangs up.
        let Ok(tls) = acceptor.accept(stream).await else {
            return;
        };
        let caller = subject_of(tls.get_ref().1);
        self.0.lock().expect("lock").callers.push(caller);
        let service = service_fn(move |request: Request<Body>| {
            let objects = self.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.expect("body").to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (status, answer) = objects.answer(&head.method, &head.uri, &body);
                let text = match answer {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                Response::builder()
                    .status(status)
                    .body(Full::new(Bytes::from(text)))
            }
        });
        let http = hyper::server::conn::http1::Builder::new();
        drop(http.serve_connection(TokioIo::new(tls), service).await);
    }

    fn answer(&self, method: &Method, uri: &http::Uri, body: &Value) -> (StatusCode, Value) {
        let mut kept = self.0.lock().expect("lock");
        let path = uri.path().to_owned();
        *kept.asked.entry(path.clone()).or_default() += 1;
        if path == "/readyz" {
            return match kept.ill {
                true => (StatusCode::INTERNAL_SERVER_ERROR, "etcd failed".into()),
                false => (StatusCode::OK, "ok".into()),
            };
        }
        if *method == Method::GET && path == "/metrics" {
            let said = kept.objects.get(&path).cloned();
            return (StatusCode::OK, said.unwrap_or_else(|| "".into()));
        }
        if *method == Method::GET {
            return (StatusCode::OK, page(&kept.objects, &path, uri.query()));
        }
        if kept
            .forbidden
            .as_ref()
            .is_some_and(|start| path.starts_with(start))
        {
            return (StatusCode::FORBIDDEN, json!({"message": "not you"}));
        }
        let done = if *method == Method::POST {
            let name = body["metadata"]["name"].as_str().expect("name");
            let new = format!("{path}/{name}");
            let free = !kept.objects.contains_key(&new);
            free.then(|| drop(kept.objects.insert(new, body.clone())))
        } else if *method == Method::DELETE {
            kept.objects.remove(&path).map(drop)
        } else {
            kept.objects
                .get_mut(&path)
                .map(|object| merge(object, body))
        };
        match done {
            Some(()) => (StatusCode::OK, json!({})),
            None => (StatusCode::CONFLICT, json!({"message": "it is otherwise"})),
        }
    }
}

fn page(objects: &BTreeMap<String, Value>, collection: &str, query: Option<&str>) -> Value {
    let query = query.unwrap_or_default();
    assert!(query.contains("limit="), "a list without a limit: {query}");
    let place = query.split("&continue=").nth(1).map_or(0, |text| {
        let number = text
            .strip_prefix("p%2F")
            .expect("handed back as it was, escaped");
        number.parse().expect("a place")
    });
    let items: Vec<&Value> = objects
        .iter()
        .filter(|(path, _)| path.rsplit_once('/').is_some_and(|(c, _)| c == collection))
        .map(|(_, object)| object)
        .collect();
    let next = (items.len() > place + PAGE).then(|| format!("p/{}", place + PAGE));
    let items: Vec<&Value> = items.into_iter().skip(place).take(PAGE).collect();
    json!({"items": items, "metadata": {"continue": next.unwrap_or_default()}})
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    for (key, value) in patch {
        merge(&mut target[key.as_str()], value);
    }
}
