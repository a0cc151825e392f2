//! The Kubernetes API, with a client certificate of this node and the cluster's own authority.
//!
//! | file | what |
//! |---|---|
//! | here    | the client: get, apply (server side), patch, list, evict, delete; every call bounded |
//! | `drain` | moving pods away, on top of it |
//! | `others` | a namespace of ours that holds a foreign object |
//! | `versions` | what the server counts changes by, of all objects of one kind |

mod drain;
mod others;
mod versions;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::tls::{self, ClientIdentity, TlsError};
use crate::telemetry::causes;

pub use drain::{DRAIN_MARK, DrainBegan, DrainOutcome, DrainPass};
pub use versions::{Versions, version};

/// One call: the API server answers from memory or etcd, or it is not well.
const CALL: Duration = Duration::from_secs(10);
/// Largest answer: a list of all pods of one node, with their status.
pub(crate) const ANSWER_MAX: usize = 32 * 1024 * 1024;
/// Tries of a read-change-write that met another writer.
const CONFLICT_TRIES: usize = 5;
/// Our name in `managedFields`.
const FIELD_MANAGER: &str = "pf9-nodelet";

/// A client of one API server.
#[derive(Clone, Debug)]
pub struct Kube {
    base: String,
    client: reqwest::Client,
    /// Resource name of a kind, from discovery: (apiVersion, kind).
    kinds: Arc<Mutex<BTreeMap<(String, String), Resource>>>,
}

#[derive(Clone, Debug)]
struct Resource {
    plural: String,
    namespaced: bool,
}

/// A call that did not do it.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// The certificate or key cannot be used.
    #[error("cannot speak to the API server")]
    Tls(#[from] TlsError),
    /// No answer.
    #[error("API server {base} does not answer: {}", root_cause(source))]
    Unreachable {
        /// The server we asked.
        base: String,
        /// Why not.
        source: reqwest::Error,
    },
    /// It said no.
    #[error("API server refused {call}: {status}, {message}")]
    Refused {
        /// Method and path.
        call: String,
        /// HTTP status.
        status: StatusCode,
        /// Its words.
        message: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The answer is not what such a call answers.
    #[error("API server's answer to {call} cannot be used: {why}")]
    Malformed {
        /// Method and path.
        call: String,
        /// Why.
        why: String,
    },
    /// The object lacks a name or kind, or the server has no such kind.
    #[error("object {0} cannot be applied: the API server has no such kind, or it has no name")]
    NoSuchKind(String),
}

impl KubeError {
    /// True when asking again cannot help before something changes: it was a clear no.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Tls(_)
            | Self::Unreachable { .. }
            | Self::Malformed { .. }
            | Self::NoSuchKind(_) => None,
        }
    }

    /// True when there was no answer.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// The innermost cause: "connection refused" rather than "error sending request".
pub fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    causes(error)
        .last()
        .map_or_else(String::new, ToString::to_string)
}

impl Kube {
    /// A client for the API server at `base`, e.g. `https://127.0.0.1:6443`.
    pub fn new(base: &str, identity: ClientIdentity<'_>) -> Result<Self, KubeError> {
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            client: tls::client(identity)?,
            kinds: Arc::default(),
        })
    }

    /// The server says that it is ready. Servers without `/readyz` are asked for `/healthz`.
    pub async fn ready(&self) -> Result<(), KubeError> {
        match self.raw(Method::GET, "/readyz", None).await {
            Err(e) if e.status() == Some(StatusCode::NOT_FOUND) => {
                self.raw(Method::GET, "/healthz", None).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    /// An object at a path; `None` when there is none.
    pub async fn get(&self, path: &str) -> Result<Option<Value>, KubeError> {
        match self.json(Method::GET, path, None).await {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.status() == Some(StatusCode::NOT_FOUND) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The node object; `None` when there is none.
    pub async fn node(&self, name: &str) -> Result<Option<Value>, KubeError> {
        self.get(&format!("/api/v1/nodes/{name}")).await
    }

    /// Changes the node object by `change`, which is given the newest one and answers the merge
    /// patch, or nothing when it is fine. Another writer's change leads to another look.
    pub async fn change_node(
        &self,
        name: &str,
        change: impl Fn(&Value) -> Option<Value>,
    ) -> Result<(), KubeError> {
        let path = format!("/api/v1/nodes/{name}");
        let call = || format!("GET {path}");
        let mut last = None;
        for _ in 0..CONFLICT_TRIES {
            let node = self.json(Method::GET, &path, None).await?;
            let Some(mut patch) = change(&node) else {
                return Ok(());
            };
            let version = node
                .pointer("/metadata/resourceVersion")
                .cloned()
                .unwrap_or_default();
            let Some(map) = patch.as_object_mut() else {
                return Err(KubeError::Malformed {
                    call: call(),
                    why: "the change is not an object".into(),
                });
            };
            let meta = map.entry("metadata").or_insert_with(|| json!({}));
            meta["resourceVersion"] = version;
            let body = (MERGE_PATCH, patch);
            match self.json(Method::PATCH, &path, Some(body)).await {
                Err(e) if e.status() == Some(StatusCode::CONFLICT) => last = Some(e),
                other => return other.map(drop),
            }
        }
        Err(last.unwrap_or_else(|| KubeError::Malformed {
            call: call(),
            why: "it kept changing".into(),
        }))
    }

    /// The live object of this kind and name; `None` when there is none.
    pub async fn live(&self, object: &Value) -> Result<Option<Value>, KubeError> {
        let path = self.path_of(object).await?;
        self.get(&path).await
    }

    /// Makes an object in a collection. Answers it as it is then; that it is there already is a refusal
    /// (409).
    pub async fn create(&self, collection: &str, object: Value) -> Result<Value, KubeError> {
        let body = (PLAIN_JSON, object);
        self.json(Method::POST, collection, Some(body)).await
    }

    /// Writes an object over the one at `path`. Where the object names a version and the one that is there
    /// is of another, that is a refusal (409).
    pub async fn replace(&self, path: &str, object: Value) -> Result<Value, KubeError> {
        let body = (PLAIN_JSON, object);
        self.json(Method::PUT, path, Some(body)).await
    }

    /// Server-side apply; our fields win. Answers the object as it is now.
    pub async fn apply(&self, object: &Value) -> Result<Value, KubeError> {
        let path = self.path_of(object).await?;
        let path = format!("{path}?fieldManager={FIELD_MANAGER}&force=true");
        let body = (APPLY_PATCH, object.clone());
        self.json(Method::PATCH, &path, Some(body)).await
    }

    /// Deletes an object that we applied; a foreign or absent one is left alone.
    pub async fn forget(&self, object: &Value) -> Result<(), KubeError> {
        let path = match self.path_of(object).await {
            Err(KubeError::NoSuchKind(_)) => return Ok(()),
            path => path?,
        };
        if !self.get(&path).await?.is_some_and(|live| is_ours(&live)) {
            return Ok(());
        }
        if object["kind"] == "Namespace" {
            return self.forget_namespace(&path, object).await;
        }
        match self.raw(Method::DELETE, &path, None).await {
            Err(e) if e.status() == Some(StatusCode::NOT_FOUND) => Ok(()),
            answer => answer.map(drop),
        }
    }

    async fn path_of(&self, object: &Value) -> Result<String, KubeError> {
        let text = |p: &str| object.pointer(p).and_then(Value::as_str).unwrap_or("");
        let (api, kind) = (text("/apiVersion"), text("/kind"));
        let name = text("/metadata/name");
        let words = format!("{api} {kind} {name}");
        if api.is_empty() || kind.is_empty() || name.is_empty() {
            return Err(KubeError::NoSuchKind(words));
        }
        let resource = self.resource(api, kind).await?;
        let resource = resource.ok_or(KubeError::NoSuchKind(words))?;
        let root = api_root(api);
        let plural = &resource.plural;
        if !resource.namespaced {
            return Ok(format!("{root}/{plural}/{name}"));
        }
        let namespace = match text("/metadata/namespace") {
            "" => "default",
            other => other,
        };
        Ok(format!("{root}/namespaces/{namespace}/{plural}/{name}"))
    }

    async fn resource(&self, api: &str, kind: &str) -> Result<Option<Resource>, KubeError> {
        let key = (api.to_owned(), kind.to_owned());
        let known = |kinds: &BTreeMap<(String, String), Resource>| kinds.get(&key).cloned();
        if let Some(found) = known(&self.kinds.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(Some(found));
        }
        let Some(list) = self.get(&api_root(api)).await? else {
            return Ok(None);
        };
        let listed = resources(api, &list);
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.extend(listed);
        Ok(known(&kinds))
    }

    async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Value)>,
    ) -> Result<Value, KubeError> {
        let call = format!("{method} {path}");
        let bytes = self.raw(method, path, body).await?;
        serde_json::from_slice(&bytes).map_err(|e| KubeError::Malformed {
            call,
            why: e.to_string(),
        })
    }

    async fn raw(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Value)>,
    ) -> Result<Vec<u8>, KubeError> {
        self.accepted(PLAIN_JSON, method, path, body).await
    }

    /// The answer in one of these forms.
    async fn accepted(
        &self,
        forms: &'static str,
        method: Method,
        path: &str,
        body: Option<(&'static str, Value)>,
    ) -> Result<Vec<u8>, KubeError> {
        let call = format!("{method} {path}");
        let lost = |source| KubeError::Unreachable {
            base: self.base.clone(),
            source,
        };
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.base))
            .timeout(CALL)
            .header("accept", forms);
        if let Some((kind, value)) = body {
            request = request.header("content-type", kind).body(value.to_string());
        }
        let answer = request.send().await.map_err(lost)?;
        let status = answer.status();
        let retry_after = answer
            .headers()
            .get("retry-after")
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.parse().ok())
            .map(Duration::from_secs);
        let bytes = tls::body(answer, ANSWER_MAX).await.map_err(lost)?;
        let Some(bytes) = bytes else {
            return Err(KubeError::Malformed {
                call,
                why: format!("it is longer than {ANSWER_MAX} bytes"),
            });
        };
        if status.is_success() {
            return Ok(bytes);
        }
        Err(KubeError::Refused {
            call,
            status,
            message: said(&bytes),
            retry_after,
        })
    }
}

/// Whether an object was applied by us, and is not on its way out.
pub fn is_ours(live: &Value) -> bool {
    let managers = live.pointer("/metadata/managedFields");
    let managers = managers.and_then(Value::as_array).into_iter().flatten();
    let mut managers = managers.filter_map(|m| m.get("manager")?.as_str());
    live.pointer("/metadata/deletionTimestamp").is_none() && managers.any(|m| m == FIELD_MANAGER)
}

const MERGE_PATCH: &str = "application/merge-patch+json";
const APPLY_PATCH: &str = "application/apply-patch+yaml";
const PLAIN_JSON: &str = "application/json";

/// The `message` of a `Status` object, or the start of what was said instead.
fn said(bytes: &[u8]) -> String {
    const SHOWN: usize = 400;
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let text = match value.get("message").and_then(Value::as_str) {
        Some(message) => {
            // A disruption budget is named there only.
            let causes = value.pointer("/details/causes").and_then(Value::as_array);
            let causes = causes.into_iter().flatten();
            let named = causes.filter_map(|c| c.get("message")?.as_str());
            let mut text = message.to_owned();
            for cause in named.filter(|cause| !message.contains(cause)) {
                text = format!("{text}: {cause}");
            }
            text
        }
        None => String::from_utf8_lossy(bytes).into_owned(),
    };
    text.trim().chars().take(SHOWN).collect()
}

fn api_root(api: &str) -> String {
    if api.contains('/') {
        format!("/apis/{api}")
    } else {
        format!("/api/{api}")
    }
}

fn resources(api: &str, list: &Value) -> Vec<((String, String), Resource)> {
    let entries = list.get("resources").and_then(Value::as_array);
    entries
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let name = entry.get("name")?.as_str()?;
            if name.contains('/') {
                return None;
            }
            let kind = entry.get("kind")?.as_str()?;
            let resource = Resource {
                plural: name.to_owned(),
                namespaced: entry.get("namespaced")?.as_bool()?,
            };
            Some(((api.to_owned(), kind.to_owned()), resource))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discovery_skips_subresources() {
        let list = json!({"resources": [
            {"name": "deployments", "kind": "Deployment", "namespaced": true},
            {"name": "deployments/scale", "kind": "Scale", "namespaced": true},
        ]});
        let found = resources("apps/v1", &list);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1.plural, "deployments");
    }

    /// A person's own installation of the same name is not taken away.
    #[test]
    fn only_what_we_applied_is_ours() {
        let by = |manager: &str| json!({"metadata": {"managedFields": [{"manager": "kubectl"}, {"manager": manager}]}});
        assert!(is_ours(&by(FIELD_MANAGER)));
        assert!(!is_ours(&by("helm")));
        assert!(!is_ours(&json!({"metadata": {}})));
        let mut leaving = by(FIELD_MANAGER);
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(!is_ours(&leaving));
    }

    #[test]
    fn the_servers_words_are_shown_and_bounded() {
        assert_eq!(said(br#"{"message":"no such node"}"#), "no such node");
        assert_eq!(said(&[b'x'; 9000]).len(), 400);
    }
}
