//! A running plane and its operator.

use std::path::PathBuf;
use std::time::Duration;

use http::{Method, StatusCode};
use pf9_hostagent::model::{ClusterId, EnrolToken, HostId, NodeFacts};
use pf9_plane::{ServeConfig, Server};
use serde_json::{Value, json};

use super::node::Node;

/// Nothing here takes longer, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for `what`, but not for ever.
pub(super) async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

/// Asks again until there is an answer; for conditions without an event that could be awaited.
pub(super) async fn until<T, F: Future<Output = Option<T>>>(mut ask: impl FnMut() -> F) -> T {
    within(async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

pub(super) struct Bed {
    server: Option<Server>,
    pub(super) url: String,
    pub(super) http: reqwest::Client,
    admin: reqwest::Client,
    token: String,
    project: String,
    pub(super) dir: tempfile::TempDir,
}

impl Bed {
    /// A new plane with a logged-in operator.
    pub(super) async fn new() -> Self {
        Self::with_budget(None).await
    }

    /// One that admits this many tunnels per second.
    pub(super) async fn with_budget(tunnels_per_s: Option<u32>) -> Self {
        Self::with(|config| config.tunnels_per_s = tunnels_per_s).await
    }

    /// One that is started differently.
    pub(super) async fn with(change: impl FnOnce(&mut ServeConfig)) -> Self {
        Self::begun(tempfile::tempdir().expect("tempdir"), change).await
    }

    /// One whose state is there.
    pub(super) async fn at(dir: tempfile::TempDir) -> Self {
        Self::begun(dir, |_| {}).await
    }

    async fn begun(dir: tempfile::TempDir, change: impl FnOnce(&mut ServeConfig)) -> Self {
        let mut bed = Self::open(dir, "127.0.0.1:0", change).await;
        bed.log_in().await;
        bed
    }

    async fn open(
        dir: tempfile::TempDir,
        listen: &str,
        change: impl FnOnce(&mut ServeConfig),
    ) -> Self {
        pf9_hostagent::tls::install();
        let mut config = ServeConfig::new(dir.path(), listen.parse().expect("address"));
        change(&mut config);
        let server = Server::start(config).await.expect("the plane starts");
        let pem = std::fs::read(dir.path().join("ca.pem")).expect("ca.pem");
        let ca = reqwest::Certificate::from_pem(&pem).expect("certificate");
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([ca])
            .build()
            .expect("client");
        let admin = reqwest::Client::builder()
            .unix_socket(dir.path().join("admin.sock"))
            .build()
            .expect("client");
        Self {
            url: server.public_url().to_owned(),
            server: Some(server),
            http,
            admin,
            token: String::new(),
            project: String::new(),
            dir,
        }
    }

    async fn log_in(&mut self) {
        let password = std::fs::read_to_string(self.file("admin-password")).expect("password");
        let (status, headers, body) = self.try_log_in("admin@pf9.local", password.trim()).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        self.token = headers["x-subject-token"]
            .to_str()
            .expect("token")
            .to_owned();
        self.project = body["token"]["project"]["id"]
            .as_str()
            .expect("project")
            .to_owned();
    }

    pub(super) async fn try_log_in(
        &self,
        user: &str,
        password: &str,
    ) -> (StatusCode, http::HeaderMap, Value) {
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": user, "domain": {"id": "default"}, "password": password}}},
            "scope": {"project": {"name": "service", "domain": {"id": "default"}}},
        }});
        let url = format!("{}/keystone/v3/auth/tokens?nocatalog", self.url);
        let answer = self
            .http
            .post(url)
            .json(&body)
            .send()
            .await
            .expect("answer");
        let (status, headers) = (answer.status(), answer.headers().clone());
        (status, headers, answer.json().await.expect("json"))
    }

    /// Stops the plane and restarts it on the same port.
    pub(super) async fn restart(self) -> Self {
        self.restart_with(|_| {}).await
    }

    /// The same, started differently.
    pub(super) async fn restart_with(mut self, change: impl FnOnce(&mut ServeConfig)) -> Self {
        let server = self.server();
        let address = server.address().to_string();
        within(server.stop()).await;
        let mut again = Self::open(self.dir, &address, change).await;
        (again.token, again.project) = (self.token, self.project);
        again
    }

    /// The plane itself, to be stopped.
    pub(super) fn server(&mut self) -> Server {
        self.server.take().expect("running")
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An operator's request; `{project}` stands for the project.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let url = format!("{}{}", self.url, path.replace("{project}", &self.project));
        let mut request = self
            .http
            .request(method, url)
            .header("X-Auth-Token", &self.token);
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = within(request.send()).await.expect("answer");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("body");
        (
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    /// The answer as bytes.
    pub(super) async fn bytes(&self, path: &str) -> (u16, Vec<u8>) {
        let request = self.http.get(format!("{}{path}", self.url));
        let request = request.header("X-Auth-Token", &self.token);
        let answer = within(request.send()).await.expect("answer");
        let status = answer.status().as_u16();
        (status, within(answer.bytes()).await.expect("body").to_vec())
    }

    pub(super) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask(Method::GET, path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(Method::POST, path, body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// The administrator's request on the socket.
    pub(super) async fn admin(&self, path: &str, body: Value) -> (u16, Value) {
        let url = format!("http://plane{path}");
        let answer = within(self.admin.post(url).json(&body).send())
            .await
            .expect("answer");
        (answer.status().as_u16(), answer.json().await.expect("json"))
    }

    /// What the administrator's socket shows.
    pub(super) async fn admin_get(&self, path: &str) -> (u16, Value) {
        let url = format!("http://plane{path}");
        let answer = within(self.admin.get(url).send()).await.expect("answer");
        (answer.status().as_u16(), answer.json().await.expect("json"))
    }

    /// Another request of the administrator.
    pub(super) async fn ask_admin(&self, method: Method, path: &str) -> (u16, Value) {
        let url = format!("http://plane{path}");
        let answer = within(self.admin.request(method, url).send())
            .await
            .expect("answer");
        (answer.status().as_u16(), answer.json().await.expect("json"))
    }

    pub(super) async fn new_token(&self) -> EnrolToken {
        let (status, body) = self.admin("/tokens", json!({"ttl_s": 60})).await;
        assert_eq!(status, 200, "{body}");
        body["token"]
            .as_str()
            .expect("token")
            .parse()
            .expect("token")
    }

    /// A host that enrolled, connected and reported.
    pub(super) async fn host(&self, name: &str, ip: &str) -> Node {
        let token = self.new_token().await;
        let mut node = Node::new(HostId::random());
        node.facts = NodeFacts::new(name, &[ip.parse().expect("ip")]);
        node.enrol(self, &token).await.expect("enrolled");
        node.connect(self).await.expect("connected");
        let (status, body) = node.report(name, ip).await;
        assert_eq!(status, 204, "{body}");
        node
    }

    /// Imports a small stack; returns its directory.
    pub(super) async fn stack(&self, version: &str) -> Value {
        let dir = tempfile::tempdir().expect("tempdir");
        super::stacks::write(dir.path(), version, b"an archive of no importance");
        let (status, body) = self.admin("/stacks", json!({"path": dir.path()})).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    pub(super) async fn cluster(&self, name: &str) -> ClusterId {
        let made = self
            .post(
                "/qbert/v4/{project}/clusters",
                json!({"name": name, "containersCidr": "10.20.0.0/16",
                       "servicesCidr": "10.21.0.0/22", "networkPlugin": "bridge"}),
            )
            .await;
        made["uuid"].as_str().expect("uuid").parse().expect("uuid")
    }

    pub(super) async fn attach(&self, cluster: ClusterId, hosts: &[(&Node, bool)]) -> (u16, Value) {
        let hosts: Vec<Value> = hosts
            .iter()
            .map(|(node, master)| json!({"uuid": node.id, "isMaster": master}))
            .collect();
        let path = format!("/qbert/v4/{{project}}/clusters/{cluster}/attach");
        self.ask(Method::POST, &path, hosts.into()).await
    }

    pub(super) async fn detach(&self, cluster: ClusterId, hosts: &[&Node]) -> (u16, Value) {
        let hosts: Vec<Value> = hosts.iter().map(|n| json!({"uuid": n.id})).collect();
        let path = format!("/qbert/v4/{{project}}/clusters/{cluster}/detach");
        self.ask(Method::POST, &path, hosts.into()).await
    }
}
