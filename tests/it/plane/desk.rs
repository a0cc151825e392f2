//! What a person has who types on the page's terminal: a plane with a cluster, the real kubectl in its stack, and an API server
//! that says who asked it.

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming as Body;
use pf9_hostagent::model::{CertPurpose, ClusterId, Digest};
use pf9_plane::TerminalConfig;
use serde_json::{Value, json};

use super::access::{PASSWORD, World};
use super::bed::{Bed, within};
use super::kube;

/// The kubectl that stacks have.
pub(super) fn kubectl() -> &'static PathBuf {
    static AT: OnceLock<PathBuf> = OnceLock::new();
    AT.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/lib/tools.py");
        let said = std::process::Command::new("python3")
            .args([script, "kubectl"])
            .output();
        let said = said.expect("python3");
        let at = PathBuf::from(String::from_utf8_lossy(&said.stdout).trim());
        assert!(
            at.is_file(),
            "kubectl: {}",
            String::from_utf8_lossy(&said.stderr)
        );
        at
    })
}

pub(super) fn jail() -> PathBuf {
    env!("CARGO_BIN_EXE_pf9-plane").into()
}

/// A stack with nothing but kubectl.
async fn stack(bed: &Bed) {
    let dir = tempfile::tempdir().expect("tempdir");
    let body = std::fs::read(kubectl()).expect("kubectl");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(body.len() as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, "bin/kubectl", body.as_slice())
        .expect("tar");
    let archive = zstd::encode_all(tar.into_inner().expect("tar").as_slice(), 1).expect("zstd");
    let file = json!({"path": "bin/kubectl", "mode": "755", "sha256": Digest::of(&body), "size": body.len(), "component": "kubectl"});
    let arch = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let manifest = json!({
        "schema": 1, "name": "pf9-kube", "version": "1.37.2-1", "kubernetes": "1.37.2", "arch": arch,
        "archive": {"sha256": Digest::of(&archive), "size": archive.len()}, "components": [], "files": [file], "images": [],
    });
    std::fs::write(dir.path().join("manifest.json"), manifest.to_string()).expect("write");
    std::fs::write(dir.path().join("stack.tar.zst"), archive).expect("write");
    let (status, said) = bed.admin("/stacks", json!({"path": dir.path()})).await;
    assert_eq!(status, 200, "{said}");
}

/// How often the pod `later` was asked for.
pub(super) static LATER: AtomicUsize = AtomicUsize::new(0);

/// An API server with one pod, which is called as the person who asks; a reader may change nothing. Its watch says nothing and
/// goes on. `hangs` is never answered, `later` is to be asked for again, `new` is not there, and in `big` a pod has 2 MB.
fn says(request: &Request<Body>) -> io::Result<Response<Full<Bytes>>> {
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|v| v.to_str().ok());
        value.unwrap_or("nobody").to_owned()
    };
    let (user, group) = (header("impersonate-user"), header("impersonate-group"));
    let pod = |name: &str, says: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "annotations": {"x": says}}});
    let own = format!("{user}-{group}").replace(['/', ':'], ".");
    let status_of = |code: u16, reason: &str, message: &str| {
        (
            code,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code}),
        )
    };
    let kinds = json!([{"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod",
        "verbs": ["create", "delete", "get", "list", "patch", "watch"]}]);
    let asks = request.uri().query().unwrap_or_default();
    let path = request.uri().path();
    let name = path.rsplit('/').next().unwrap_or_default();
    if asks.contains("watch=true") || name == "hangs" {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let (status, said) = match (request.method(), path) {
        (&Method::GET, "/api") => (200, json!({"kind": "APIVersions", "versions": ["v1"]})),
        (&Method::GET, "/apis") => (
            200,
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}),
        ),
        (&Method::GET, "/api/v1") => (
            200,
            json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": kinds}),
        ),
        (&Method::GET, "/api/v1/namespaces/default/pods") => (
            200,
            json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "1"},
                "items": [pod(&own, "a\u{1b}[31mb\u{202e}c")]}),
        ),
        (&Method::GET, "/api/v1/namespaces/big/pods/it") => {
            (200, pod("it", &"y".repeat(2_000_000)))
        }
        (&Method::GET, _) if name == "later" => {
            LATER.fetch_add(1, Ordering::SeqCst);
            status_of(429, "TooManyRequests", "later")
        }
        (&Method::GET, _) if name == "new" => status_of(404, "NotFound", "there is none"),
        (&Method::GET, _) => (200, pod(name, "")),
        (_, _) if group == "pf9:role:reader" => {
            status_of(403, "Forbidden", &format!("{user} may not"))
        }
        (&Method::POST, "/api/v1/namespaces/default/pods") => (201, pod("new", "")),
        (&Method::PATCH, _) => (200, pod(name, "")),
        (_, _) => (
            200,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
        ),
    };
    let mut answer = Response::builder()
        .status(status)
        .header("content-type", "application/json");
    if status == 429 {
        answer = answer.header("retry-after", "1");
    }
    Ok(answer
        .body(Full::new(Bytes::from(said.to_string())))
        .expect("answer"))
}

/// A plane with a cluster whose API server is that, and two people.
pub(super) struct Desk {
    pub(super) world: World,
    pub(super) cluster: ClusterId,
    path: String,
    pub(super) admin: String,
    pub(super) reader: String,
    _api: kube::Api,
    _master: super::node::Node,
}

impl Desk {
    pub(super) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut TerminalConfig)) -> Self {
        let bed = Bed::with(|config| {
            config.terminal.jail = Some(jail());
            change(&mut config.terminal);
        });
        Self::on(bed.await).await
    }

    /// On a plane that is there, and has the jail.
    pub(super) async fn on(bed: Bed) -> Self {
        let world = World::of(bed).await;
        stack(&world.bed).await;
        let mut master = world.bed.host("m1", "10.1.0.1").await;
        let cluster = world.bed.cluster("c").await;
        let (status, said) = world.bed.attach(cluster, &[(&master, true)]).await;
        assert_eq!(status, 200, "{said}");
        let api = kube::master_with(cluster, &mut master, CertPurpose::ApiServer, says).await;
        let it = world
            .bed
            .get(&format!("/qbert/v4/{{project}}/clusters/{cluster}"))
            .await;
        let project = it["projectId"].as_str().expect("project").to_owned();
        let mut tokens = Vec::new();
        for (name, role) in [("alice", "admin"), ("rita", "reader")] {
            let user = world.user("default", name).await;
            world
                .grant(&format!("projects/{project}"), &user, role)
                .await;
            tokens.push(
                world
                    .log_in(&user, PASSWORD, json!({"project": {"id": project}}))
                    .await,
            );
        }
        let [admin, reader] = tokens.try_into().expect("two");
        let path = format!("/qbert/v4/{project}/clusters/{cluster}/kubectl");
        Self {
            world,
            cluster,
            path,
            admin,
            reader,
            _api: api,
            _master: master,
        }
    }

    pub(super) async fn begin(
        &self,
        token: &str,
        line: &str,
        text: Option<&str>,
    ) -> reqwest::Response {
        let url = format!("{}{}", self.world.bed.url, self.path);
        let body = json!({"line": line, "text": text});
        let asked = self
            .world
            .bed
            .http
            .post(url)
            .header("X-Auth-Token", token)
            .json(&body)
            .send();
        within(asked).await.expect("answer")
    }

    /// What it said, what it complained, and how it ended.
    pub(super) async fn run(
        &self,
        token: &str,
        line: &str,
        text: Option<&str>,
    ) -> (String, String, Value) {
        let answer = self.begin(token, line, text).await;
        assert_eq!(
            answer.status(),
            StatusCode::OK,
            "{line}: {}",
            answer.text().await.unwrap_or_default()
        );
        let all = within(answer.text()).await.expect("text");
        let (mut out, mut err, mut end) = (String::new(), String::new(), Value::Null);
        for event in all.split("\n\n").filter_map(|e| e.strip_prefix("data: ")) {
            let event: Value = serde_json::from_str(event).expect("json");
            out.push_str(event["out"].as_str().unwrap_or_default());
            err.push_str(event["err"].as_str().unwrap_or_default());
            if !event["end"].is_null() {
                end = event["end"].clone();
            }
        }
        (out, err, end)
    }

    /// Entries of the audit about this terminal, the newest first: what, and how it ended.
    pub(super) async fn audit(&self) -> Vec<(String, String, String)> {
        let (status, said) = self
            .world
            .ask(&self.admin, "GET", "/audit/v1/entries", None)
            .await;
        assert_eq!(status, 200, "{said}");
        let text = |e: &Value, field: &str| e[field].as_str().expect(field).to_owned();
        let all = said["entries"].as_array().expect("list").iter();
        let ran = all.filter(|e| e["method"] == "RUN");
        ran.map(|e| (text(e, "who"), text(e, "path"), text(e, "outcome")))
            .collect()
    }

    /// Directories of commands.
    pub(super) fn left(&self) -> usize {
        std::fs::read_dir(self.world.bed.file("terminal")).map_or(0, Iterator::count)
    }
}
