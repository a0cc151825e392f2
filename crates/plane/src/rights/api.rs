//! A cluster's API, through the tunnel of the first master that answers: one connection, one call
//! after the other.
//!
//! The other end is a machine that may be compromised: every answer is bounded, and only names of ours from it become
//! part of a request.

use std::time::Duration;

use axum::body::Body;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1::SendRequest;
use serde_json::{Value, json};

use super::bindings::{OF_CLUSTER, OF_SYSTEM, PEOPLE, PREFIX};
use super::{Change, NODES, READY, RightsSeen};
use crate::http::escaped;
use pf9_hostagent::model::NodeName;
use pf9_hostagent::telemetry::chain;

/// One call: answered from memory or by etcd, or the API server is unhealthy.
const CALL: Duration = Duration::from_secs(15);
/// Objects per answer. A node with its images is 10 to 20 KB.
const PAGE: usize = 250;
/// Longest answer: such a page, four times over.
const ANSWER_MAX: usize = 16 * 1024 * 1024;
/// Most pages of a list: twice the largest cluster.
const PAGES_MAX: usize = 40;
/// Longest continue token that is sent back; etcd's are under 200 bytes.
const CONTINUE_MAX: usize = 4096;
/// Longest name that is repeated.
pub(crate) const NAME_MAX: usize = 253;
/// How much of an answer is repeated in errors.
const SAID_MAX: usize = 300;

/// A connection to the API.
pub(crate) struct Api(SendRequest<Body>);

impl Api {
    pub(crate) fn new(sender: SendRequest<Body>) -> Self {
        Self(sender)
    }

    /// Reads the objects we reconcile.
    pub(super) async fn look(&mut self) -> Result<RightsSeen, String> {
        let mut seen = RightsSeen::default();
        for collection in [OF_CLUSTER, OF_SYSTEM] {
            let keep = |object: Value| {
                let name = object.pointer("/metadata/name")?.as_str()?.to_owned();
                is_ours(&name).then(|| ((collection.to_owned(), name), object))
            };
            seen.bindings.extend(self.list(collection, keep).await?);
        }
        seen.nodes.extend(self.list(NODES, node).await?);
        Ok(seen)
    }

    /// A page that is not JSON.
    pub(crate) async fn text(&mut self, path: &str) -> Result<String, String> {
        match self.answer(&Method::GET, path, None).await? {
            (200..=299, bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            (status, said) => Err(refused(&Method::GET, path, status, &said)),
        }
    }

    /// Everything in a collection for which `keep` returns a value, page by page.
    pub(crate) async fn list<T>(
        &mut self,
        collection: &str,
        keep: impl Fn(Value) -> Option<T>,
    ) -> Result<Vec<T>, String> {
        self.selected(collection, "", keep).await
    }

    /// The same, restricted by labels; without any: all.
    pub(crate) async fn selected<T>(
        &mut self,
        collection: &str,
        labels: &str,
        keep: impl Fn(Value) -> Option<T>,
    ) -> Result<Vec<T>, String> {
        let mut all = Vec::new();
        let mut place = String::new();
        let selected = match labels {
            "" => String::new(),
            labels => format!("&labelSelector={}", escaped(labels)),
        };
        for _ in 0..PAGES_MAX {
            let path = format!("{collection}?limit={PAGE}{selected}{place}");
            let mut page = self.call(Method::GET, &path, None).await?;
            if let Value::Array(items) = page["items"].take() {
                all.extend(items.into_iter().filter_map(&keep));
            }
            place = match page.pointer("/metadata/continue").and_then(Value::as_str) {
                None | Some("") => return Ok(all),
                Some(place) if place.len() > CONTINUE_MAX => {
                    return Err(format!("its list of {collection} has no next page"));
                }
                Some(place) => format!("&continue={}", escaped(place)),
            };
        }
        Err(format!("its list of {collection} has too many pages"))
    }

    /// Makes one change. An object that already exists, or is already gone, is fine: the next pass decides.
    pub(super) async fn make(&mut self, change: &Change) -> Result<(), String> {
        let (method, path, body) = match change {
            Change::Create { collection, object } => {
                (Method::POST, collection, Some((JSON, object)))
            }
            Change::Patch { path, patch } => (Method::PATCH, path, Some((MERGE_PATCH, patch))),
            Change::Delete { path } => (Method::DELETE, path, None),
        };
        match self.answer(&method, path, body).await? {
            (200..=299, _) => Ok(()),
            (404, _) if method == Method::DELETE => Ok(()),
            (status, said) => Err(refused(&method, path, status, &said)),
        }
    }

    async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Value, String> {
        match self.answer(&method, path, body).await? {
            (200..=299, bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| format!("its answer to {method} {path} is not valid JSON: {e}")),
            (status, said) => Err(refused(&method, path, status, &said)),
        }
    }

    async fn answer(
        &mut self,
        method: &Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<(u16, Vec<u8>), String> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "kubernetes")
            .header(header::ACCEPT, JSON);
        let request = match body {
            Some((kind, value)) => request
                .header(header::CONTENT_TYPE, kind)
                .body(Body::from(value.to_string())),
            None => request.body(Body::empty()),
        };
        let request = request.map_err(|e| e.to_string())?;
        let asked = async {
            self.0.ready().await.map_err(|e| chain(&e))?;
            let response = self.0.send_request(request).await.map_err(|e| chain(&e))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), ANSWER_MAX)
                .collect()
                .await;
            let bytes = body.map_err(|e| e.to_string())?.to_bytes();
            Ok((status, bytes.to_vec()))
        };
        match tokio::time::timeout(CALL, asked).await {
            Ok(answer) => answer.map_err(|why: String| format!("{method} {path}: {why}")),
            Err(_) => Err(format!(
                "{method} {path}: no answer within {} s",
                CALL.as_secs()
            )),
        }
    }
}

const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";

/// A text in an object, by its JSON pointer; as much of it as a name may have.
pub(crate) fn text<'a>(value: &'a Value, at: &str) -> &'a str {
    let text = value
        .pointer(at)
        .and_then(Value::as_str)
        .unwrap_or_default();
    text.get(..text.floor_char_boundary(NAME_MAX))
        .unwrap_or_default()
}

/// The name of a binding that we made: others are ignored, and appear in no path.
fn is_ours(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b":-".contains(&b);
    (name.starts_with(PREFIX) || name.starts_with(PEOPLE)) && name.bytes().all(plain)
}

/// A `Status` as a message.
fn refused(method: &Method, path: &str, status: u16, said: &[u8]) -> String {
    let value: Value = serde_json::from_slice(said).unwrap_or_default();
    let message = value
        .get("message")
        .and_then(Value::as_str)
        .unwrap_or("no message");
    let message: String = message.chars().take(SAID_MAX).collect();
    format!("{method} {path}: {status}, {message}")
}

/// The fields of a node that we use. Nothing else is kept: there may be thousands.
fn node(mut object: Value) -> Option<(String, Value)> {
    let name: NodeName = object.pointer("/metadata/name")?.as_str()?.parse().ok()?;
    let metadata = object["metadata"].take();
    let taints = object["spec"]["taints"].take();
    let pods = object["spec"]["podCIDR"].take();
    let node = json!({
        "metadata": {
            "labels": metadata["labels"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "spec": {"taints": taints, "podCIDR": pods},
        READY: ready(&object),
    });
    Some((name.to_string(), node))
}

/// Whether it is Ready; null if it has not reported. A node with a silent kubelet is not Ready.
fn ready(object: &Value) -> Option<bool> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let mut ready = conditions.iter().filter(|c| c["type"] == "Ready");
    Some(ready.next()?["status"] == "True")
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;

    use super::super::marks::{Marks, patch};
    use super::*;

    /// Otherwise it would be marked again with every pass.
    #[test]
    fn marks_of_a_node_are_observed() {
        let marks = Marks {
            labels: &[("a".to_owned(), "b".to_owned())].into(),
            taints: &["key=:NoSchedule".to_owned()],
            role_keys: &[],
            pods: Some("10.20.3.0/24".parse().expect("net")),
        };
        let mut live = json!({"metadata": {"name": "n1"}, "spec": {}, "status": {}});
        let seen = |live: &Value| node(live.clone()).expect("a node").1;
        let given = patch(&seen(&live), &marks).expect("something to do");
        live["metadata"]["labels"] = given["metadata"]["labels"].clone();
        live["spec"] = given["spec"].clone();
        assert_eq!(patch(&seen(&live), &marks), None);
        assert_eq!(seen(&live).get("status"), None);
    }

    type Says = fn(&str, &str) -> (u16, String);

    /// A fake API server that answers a method and a path.
    async fn api(says: Says) -> Api {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let path = request.uri().to_string();
            let (status, body) = says(request.method().as_str(), &path);
            let answer = http::Response::builder().status(status);
            std::future::ready(answer.body(Body::from(body)))
        });
        let server = hyper::server::conn::http1::Builder::new();
        tokio::spawn(server.serve_connection(TokioIo::new(far), service));
        let client = hyper::client::conn::http1::handshake(TokioIo::new(near));
        let (sender, connection) = client.await.expect("handshake");
        tokio::spawn(connection);
        Api::new(sender)
    }

    fn page(names: &[&str], place: &str) -> (u16, String) {
        let named = |name| json!({"metadata": {"name": name, "resourceVersion": "1"}, "spec": {}});
        let items: Vec<Value> = names.iter().map(named).collect();
        let page = json!({"items": items, "metadata": {"continue": place}});
        (200, page.to_string())
    }

    /// Lists continue where the API server says, and its token is escaped in the request.
    #[tokio::test]
    async fn a_list_is_read_to_its_end() {
        let mut api = api(|_, path| match path.split_once('?') {
            Some((NODES, "limit=250")) => page(&["a", "../b"], "x&limit=1#"),
            Some((NODES, "limit=250&continue=x%26limit%3D1%23")) => page(&["c"], ""),
            Some((OF_CLUSTER | OF_SYSTEM, _)) => page(&["pf9:host:a", "theirs"], ""),
            _ => (404, String::new()),
        })
        .await;
        let seen = api.look().await.expect("seen");
        let nodes: Vec<&str> = seen.nodes.keys().map(String::as_str).collect();
        assert_eq!(nodes, ["a", "c"], "only names that can be a node's");
        let bindings = seen.bindings.keys().map(|(_, name)| name.as_str());
        assert!(bindings.eq(["pf9:host:a", "pf9:host:a"]));
    }

    #[tokio::test]
    async fn what_does_not_end_is_refused() {
        let says: [(Says, &str); 3] = [
            (|_, _| page(&[], "on"), "too many pages"),
            (
                |_, _| page(&[], &"x".repeat(CONTINUE_MAX + 1)),
                "has no next page",
            ),
            (
                |_, _| (200, " ".repeat(ANSWER_MAX + 1)),
                "length limit exceeded",
            ),
        ];
        for (says, words) in says {
            let said = api(says).await.look().await.expect_err("refused");
            assert!(said.contains(words), "{words}: {said}");
        }
    }

    #[tokio::test]
    async fn deleting_a_gone_object_succeeds_and_a_refusal_fails() {
        let mut api = api(|method, path| match (method, path) {
            ("DELETE", "/gone") => (404, String::new()),
            _ => (403, json!({"message": "not you"}).to_string()),
        })
        .await;
        let delete = |path: &str| Change::Delete {
            path: path.to_owned(),
        };
        api.make(&delete("/gone")).await.expect("gone");
        let said = api.make(&delete("/there")).await.expect_err("refused");
        assert_eq!(said, "DELETE /there: 403, not you");
        let patch = Change::Patch {
            path: "/gone".into(),
            patch: json!({}),
        };
        api.make(&patch).await.expect_err("refused");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_api_is_not_waited_for() {
        let (near, _silent) = tokio::io::duplex(1024);
        let client = hyper::client::conn::http1::handshake(TokioIo::new(near));
        let (sender, connection) = client.await.expect("handshake");
        tokio::spawn(connection);
        let began = tokio::time::Instant::now();
        let said = Api::new(sender).look().await.expect_err("no answer");
        assert!(said.ends_with("no answer within 15 s"), "{said}");
        assert_eq!(began.elapsed().as_secs(), CALL.as_secs());
    }

    #[test]
    fn only_names_of_ours_are_looked_at() {
        assert!(is_ours("pf9:host:kube-proxies-07"));
        assert!(is_ours("pf9:role:reader"));
        for theirs in [
            "cluster-admin",
            "pf9:host:../x",
            "pf9:host:a/b",
            "pf9:host:A",
            "x:pf9:host:a",
        ] {
            assert!(!is_ours(theirs), "{theirs}");
        }
    }

    #[test]
    fn words_of_a_refusal_are_bounded() {
        let long = json!({"message": "x".repeat(9000)}).to_string();
        assert!(refused(&Method::GET, "/x", 403, long.as_bytes()).len() < 400);
    }
}
