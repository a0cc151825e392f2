//! What the cluster says: readiness, and whether an object is as it should be.

use reqwest::StatusCode;
use serde_json::Value;

use super::{Sweep, differs};
use crate::host::kube::{Kube, KubeError};
use crate::model::{Digest, Timestamp};
use crate::nodelet::step::Observed;

/// The annotation with the digest of what a static pod is restarted for.
const INPUTS: &str = "/metadata/annotations/pf9.io~1inputs";

impl Sweep<'_> {
    pub(super) async fn node_ready(&mut self, name: &str) -> Observed {
        match self.node(name).await {
            Err(why) => Observed::Unknown { why },
            Ok(None) => differs("the node has not registered itself"),
            Ok(Some(node)) => match ready(&node) {
                Ok(()) => Observed::Same,
                Err(why) => differs(&format!("the node is not Ready: {why}")),
            },
        }
    }

    /// A static pod, as kubelet shows it in the API.
    pub(super) async fn static_pod(&mut self, name: &str, inputs: &str) -> Observed {
        let kube = match self.kube() {
            Ok(kube) => kube,
            Err(why) => return Observed::Unknown { why },
        };
        let path = format!("/api/v1/namespaces/kube-system/pods/{name}");
        let is_first = &mut self.memory.first_pods;
        let mut first = is_first.remove(name);
        match kube.get(&path).await {
            Err(e) => {
                is_first.extend(first.then(|| name.to_owned()));
                Observed::Unknown { why: e.to_string() }
            }
            Ok(pod) => {
                let runs = runs(pod.as_ref(), inputs, &mut first);
                is_first.extend(first.then(|| name.to_owned()));
                match runs {
                    Ok(()) => Observed::Same,
                    Err(why) => differs(&why),
                }
            }
        }
    }

    pub(super) async fn cordoned(&mut self, name: &str) -> Observed {
        match self.node(name).await {
            Err(why) => Observed::Unknown { why },
            Ok(None) => differs("the node has not registered itself"),
            Ok(Some(node)) => match Kube::cordoned(&node) {
                (_, true) => differs("it was cordoned when it was drained"),
                (_, false) => Observed::Same,
            },
        }
    }

    async fn node(&mut self, name: &str) -> Result<Option<Value>, String> {
        let kube = self.kube()?;
        kube.node(name).await.map_err(|e| e.to_string())
    }

    /// The client. That the API server answers was asked before ([`Sweep::look`]).
    fn kube(&mut self) -> Result<Kube, String> {
        if let Some(kube) = &self.kube {
            return Ok(kube.clone());
        }
        let fs = &self.host.fs;
        let kube = self.memory.peers.kube(fs, self.ctx.role, &self.ctx.node)?;
        Ok(self.kube.insert(kube).clone())
    }

    /// The same as this master's administrator.
    pub(super) fn admin(&mut self) -> Result<Kube, String> {
        if let Some(admin) = &self.admin {
            return Ok(admin.clone());
        }
        let admin = self.memory.peers.admin(&self.host.fs, &self.ctx.node)?;
        Ok(self.admin.insert(admin).clone())
    }
}

/// An object that the API server did not show.
pub(super) fn not_shown(error: &KubeError) -> Observed {
    match error {
        KubeError::NoSuchKind(_) => differs(&error.to_string()),
        // A new master has no rights before the plane knows it and reaches its API server; a removed one no longer has
        // any.
        KubeError::Refused {
            status: StatusCode::FORBIDDEN,
            ..
        } => Observed::Awaits {
            what: "the plane's bindings for this master".into(),
        },
        KubeError::Refused { .. }
        | KubeError::Tls(_)
        | KubeError::Unreachable { .. }
        | KubeError::Malformed { .. } => Observed::Unknown {
            why: error.to_string(),
        },
    }
}

/// A pod that is Ready, and was started with these inputs. One that kubelet shows nothing of is a
/// first one: kubelet tells the API of it a minute after, and until then there is none before it
/// that could be meant. Of one that it replaces it shows the old one until the new one runs.
fn runs(pod: Option<&Value>, inputs: &str, first: &mut bool) -> Result<(), String> {
    let Some(pod) = pod else {
        *first = true;
        return Ok(());
    };
    // When it begins to show the first one, it says nothing of its state for a moment.
    let was_first = std::mem::replace(first, false);
    let started = pod.pointer(INPUTS).and_then(Value::as_str);
    if started != Some(inputs) {
        return Err("kubelet has not replaced it yet".to_owned());
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        return Err("kubelet is replacing it".to_owned());
    }
    if was_first && ready_condition(pod).is_none() {
        *first = true;
        return Ok(());
    }
    ready(pod).map_err(|why| format!("it is not Ready: {why}"))
}

/// The Ready condition of a node or a pod.
fn ready_condition(object: &Value) -> Option<&Value> {
    let conditions = object
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .find(|c| c.get("type").and_then(Value::as_str) == Some("Ready"))
}

/// Why the cluster takes this node's kubelet for gone, if it does.
pub(in crate::nodelet) fn unheard(node: &Value) -> Option<String> {
    let condition = ready_condition(node)?;
    let text = |field: &str| condition.get(field).and_then(Value::as_str);
    (text("status") == Some("Unknown")).then(|| text("message").unwrap_or("no reason").to_owned())
}

/// Whether a node or a pod says that it is Ready.
pub(in crate::nodelet) fn ready(object: &Value) -> Result<(), String> {
    let condition = ready_condition(object);
    let text = |f: &str| {
        condition
            .and_then(|c| c.get(f))
            .and_then(Value::as_str)
            .unwrap_or("it has not reported yet")
    };
    match text("status") {
        "True" => Ok(()),
        _ => Err(text("message").to_owned()),
    }
}

/// Whether kubelet has said since then that its node is Ready. What it says has whole seconds.
pub(in crate::nodelet) fn ready_since(node: &Value, since: Timestamp) -> bool {
    let said = ready_condition(node).and_then(|c| c.get("lastHeartbeatTime"));
    let said = said.and_then(Value::as_str);
    let said = said.and_then(|at| at.parse::<Timestamp>().ok());
    ready(node).is_ok() && said.is_some_and(|at| at.as_second() >= since.as_second())
}

pub(in crate::nodelet) fn digest(object: &Value) -> Digest {
    Digest::of(object.to_string().as_bytes())
}

/// What the server counts changes by: the generation where a kind has one (its status may change
/// all the time), else the resource version.
pub(in crate::nodelet) fn version_of(live: &Value) -> String {
    let text = |p: &str| live.pointer(p).map(ToString::to_string);
    let uid = text("/metadata/uid").unwrap_or_default();
    let version = text("/metadata/generation").or_else(|| text("/metadata/resourceVersion"));
    format!("{uid} {}", version.unwrap_or_default())
}

/// True when everything that `desired` says is so in `live`, which may say more.
pub(in crate::nodelet) fn covers(desired: &Value, live: &Value) -> bool {
    match (desired, live) {
        (Value::Object(want), Value::Object(have)) => {
            want.iter().all(|(key, value)| match have.get(key) {
                Some(live) => covers(value, live),
                None => is_empty(value),
            })
        }
        (Value::Array(want), Value::Array(have)) => want
            .iter()
            .all(|value| have.iter().any(|live| covers(value, live))),
        (want, Value::Null) => is_empty(want),
        (want, have) => want == have || scalar(want).is_some_and(|w| Some(w) == scalar(have)),
    }
}

/// What a server leaves out.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
    }
}

/// Numbers, texts and quantities in one spelling: `1`, `"1"`, `"1000m"` are one.
fn scalar(value: &Value) -> Option<String> {
    let text = match value {
        Value::Number(n) => n.to_string(),
        Value::String(text) => text.clone(),
        Value::Bool(b) => return Some(b.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    let (digits, factor) = [
        ("Ki", 1024.0),
        ("Mi", 1024.0 * 1024.0),
        ("Gi", 1024.0 * 1024.0 * 1024.0),
        ("m", 0.001),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
    ]
    .iter()
    .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)))
    .unwrap_or((text.as_str(), 1.0));
    let plain = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match digits.parse::<f64>() {
        Ok(number) if plain => Some(format!("{:.6}", number * factor)),
        Ok(_) | Err(_) => Some(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_server_may_say_more_and_spell_differently() {
        let desired = json!({
            "metadata": {"name": "a", "labels": {"x": "1"}},
            "spec": {"cpu": "1000m", "list": [{"name": "b", "v": 1}], "empty": {}, "off": false},
        });
        let live = json!({
            "metadata": {"name": "a", "uid": "u", "labels": {"x": "1", "y": "2"}},
            "spec": {"cpu": "1", "list": [{"name": "z"}, {"name": "b", "v": 1, "d": true}]},
            "status": {},
        });
        assert!(covers(&desired, &live));
        let mut other = live.clone();
        other["spec"]["cpu"] = json!("2");
        assert!(!covers(&desired, &other));
        let mut other = live;
        other["metadata"]["labels"]["x"] = json!("9");
        assert!(!covers(&desired, &other));
    }

    #[test]
    fn a_right_that_is_not_there_yet_is_waited_for() {
        let refused = |status| {
            not_shown(&KubeError::Refused {
                call: "GET /x".into(),
                status,
                message: "no".into(),
                retry_after: None,
            })
        };
        let forbidden = refused(StatusCode::FORBIDDEN);
        assert!(
            matches!(forbidden, Observed::Awaits { .. }),
            "{forbidden:?}"
        );
        let broken = refused(StatusCode::INTERNAL_SERVER_ERROR);
        assert!(matches!(broken, Observed::Unknown { .. }), "{broken:?}");
    }

    #[test]
    fn a_node_is_ready_when_its_condition_says_so() {
        let node = |status: &str| {
            json!({"status": {"conditions": [
                {"type": "Ready", "status": status, "message": "no network"}]}})
        };
        assert_eq!(ready(&node("True")), Ok(()));
        assert_eq!(ready(&node("False")), Err("no network".into()));
        assert!(ready(&json!({})).is_err());
    }

    #[test]
    fn what_kubelet_said_before_it_was_started_says_nothing_of_the_node_now() {
        let node = |status: &str, at: &str| {
            json!({"status": {"conditions": [
                {"type": "Ready", "status": status, "lastHeartbeatTime": at}]}})
        };
        let started: Timestamp = "2026-01-01T10:00:05.9Z".parse().expect("time");
        let ready = |status, at| ready_since(&node(status, at), started);
        assert!(!ready("True", "2026-01-01T10:00:04Z"));
        assert!(
            ready("True", "2026-01-01T10:00:05Z"),
            "it says whole seconds"
        );
        assert!(ready("True", "2026-01-01T10:00:06Z"));
        assert!(!ready("False", "2026-01-01T10:00:06Z"));
        assert!(!ready("True", "soon") && !ready_since(&json!({}), started));
    }

    #[test]
    fn a_static_pod_runs_when_it_is_the_new_one_and_ready() {
        let pod = |inputs: &str, status: &str| {
            json!({
                "metadata": {"annotations": {"pf9.io/inputs": inputs}},
                "status": {"conditions": [
                    {"type": "Ready", "status": status, "message": "starting"}]},
            })
        };
        let ask = |pod: Option<&Value>, first: &mut bool| runs(pod, "new", first);
        let mut first = false;
        assert_eq!(ask(Some(&pod("new", "True")), &mut first), Ok(()));
        let old = ask(Some(&pod("old", "True")), &mut first);
        assert!(old.is_err(), "the one before");
        assert!(ask(Some(&pod("new", "False")), &mut first).is_err());
        let mut goes = pod("new", "True");
        goes["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(ask(Some(&goes), &mut first).is_err());
        assert!(ask(Some(&json!({})), &mut first).is_err());
        // The first one runs before kubelet shows it; then it is shown without a state.
        let mut mute = pod("new", "True");
        mute["status"] = json!({});
        assert!(
            ask(Some(&mute), &mut first).is_err(),
            "one that replaces another"
        );
        assert_eq!(ask(None, &mut first), Ok(()));
        assert_eq!(ask(Some(&mute), &mut first), Ok(()));
        assert_eq!(ask(Some(&mute), &mut first), Ok(()));
        assert!(ask(Some(&pod("new", "False")), &mut first).is_err());
        assert!(ask(Some(&mute), &mut first).is_err(), "no more");
    }
}
