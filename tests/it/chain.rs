//! The whole chain without the effects: the real plane, the real tunnel, the real hostagent; only nodelet is a fake.

mod delta;
mod planted;
mod restored;
mod watched;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use pf9_hostagent::app::{Config, TaskGroup};
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::identity::{self, Identity, Owners};
use pf9_hostagent::local::{Client, Method};
use pf9_hostagent::model::{
    CertPurpose, CertificateRequest, Digest, EnrolToken, Fault, FaultCode, HostId, HostStatus,
    NodeState, Role,
};
use pf9_hostagent::{comms, hostagent, stack};
use pf9_plane::{ServeConfig, Server};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::node::FakeNode;
use crate::support::{PATIENCE, enrol, host_root, make_stack, within};

struct Plane {
    dir: tempfile::TempDir,
    server: Server,
}

impl Plane {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let server = serve(dir.path(), "127.0.0.1:0".parse().expect("address")).await;
        Self { dir, server }
    }

    async fn restart(self) -> Self {
        let address = self.server.address();
        self.server.stop().await;
        let server = serve(self.dir.path(), address).await;
        Self { server, ..self }
    }

    async fn admin(&self, method: Method, path: &str, body: &Value) -> Value {
        Client::unix(self.dir.path().join("admin.sock"))
            .expect("client")
            .send(method, path, body, PATIENCE)
            .await
            .expect("admin")
            .expect("answer")
    }

    async fn token(&self) -> EnrolToken {
        let made = self
            .admin(Method::POST, "/tokens", &json!({"ttl_s": 600}))
            .await;
        made["token"]
            .as_str()
            .expect("text")
            .parse()
            .expect("token")
    }

    async fn enrol(
        &self,
        token: &EnrolToken,
        host_id: HostId,
        fs: &HostFs,
    ) -> Result<Identity, Fault> {
        enrol(self.server.public_url(), token, host_id, fs).await
    }

    fn rest(&self) -> reqwest::Client {
        let ca = std::fs::read(self.dir.path().join("ca.pem")).expect("ca");
        let ca = reqwest::Certificate::from_pem(&ca).expect("pem");
        reqwest::Client::builder()
            .tls_certs_only([ca])
            .no_proxy()
            .build()
            .expect("client")
    }

    /// Logs in; returns the operator's token and project.
    async fn login(&self) -> (String, String) {
        let password = std::fs::read_to_string(self.dir.path().join("admin-password"));
        let user = json!({"name": "admin@pf9.local", "domain": {"id": "default"},
                          "password": password.expect("password").trim()});
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": "service", "domain": {"id": "default"}}}}});
        let url = format!("{}/keystone/v3/auth/tokens", self.server.public_url());
        let answer = self
            .rest()
            .post(url)
            .json(&body)
            .send()
            .await
            .expect("login");
        let token = answer.headers()["x-subject-token"]
            .to_str()
            .expect("text")
            .to_owned();
        let body: Value = answer.json().await.expect("json");
        let project = body["token"]["project"]["id"].as_str().expect("project");
        (token, project.to_owned())
    }

    async fn operator(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let (token, project) = self.login().await;
        let path = path.replace("{project}", &project);
        let url = format!("{}{path}", self.server.public_url());
        let mut request = self
            .rest()
            .request(method, url)
            .header("X-Auth-Token", token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.expect("answer");
        let status = answer.status();
        let text = answer.text().await.expect("text");
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// The host's last status on the plane, once it is as wanted.
    async fn until(&self, host: HostId, wanted: impl Fn(&HostStatus) -> bool) -> HostStatus {
        within(async {
            loop {
                let path = format!("/resmgr/v1/hosts/{host}");
                let found = self.operator(Method::GET, &path, None).await;
                let status = serde_json::from_value::<HostStatus>(found["pf9"].clone());
                if let Some(status) = status.ok().filter(|s| wanted(s)) {
                    return status;
                }
                // The operator's API has no long-poll.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
    }
}

/// The clusters API of operators.
const CLUSTERS: &str = "/qbert/v4/{project}/clusters";

impl Plane {
    /// Makes this root the host's, as `pf9ctl node prep` does.
    async fn enrol_and_save(&self, host: HostId, fs: &HostFs) {
        let enrolled = self.enrol(&self.token().await, host, fs).await;
        identity::save(fs, &enrolled.expect("enrolled"), &Owners::current_user()).expect("save");
    }

    /// A stack with a file of this size, and a cluster that runs it; returns the cluster's id and the stack's digest.
    async fn cluster(&self, size: usize) -> (String, Digest) {
        let dir = tempfile::tempdir().expect("tempdir");
        let (manifest, archive) = make_stack("1.37.2-1", size);
        std::fs::write(dir.path().join("manifest.json"), &manifest).expect("write");
        std::fs::write(dir.path().join("stack.tar.zst"), archive).expect("write");
        let path = json!({"path": dir.path()});
        self.admin(Method::POST, "/stacks", &path).await;
        let wanted = json!({"name": "c", "containersCidr": "10.20.0.0/16",
            "servicesCidr": "10.21.0.0/16", "networkPlugin": "bridge", "stack": "1.37.2-1"});
        let made = self.operator(Method::POST, CLUSTERS, Some(&wanted)).await;
        let cluster = made["uuid"].as_str().expect("uuid").to_owned();
        (cluster, Digest::of(&manifest))
    }
}

async fn serve(dir: &Path, listen: SocketAddr) -> Server {
    Server::start(ServeConfig::new(dir, listen))
        .await
        .expect("plane")
}

struct Daemons {
    stop: CancellationToken,
    run: JoinHandle<Option<&'static str>>,
}

impl Daemons {
    async fn start(fs: &HostFs) -> Self {
        let stop = CancellationToken::new();
        let mut group = TaskGroup::new(stop.clone());
        let config = Config::default();
        comms::start(fs.clone(), config.clone(), &mut group)
            .await
            .expect("comms");
        hostagent::start(fs.clone(), config, &mut group)
            .await
            .expect("hostagent");
        Self {
            stop,
            run: tokio::spawn(group.run(PATIENCE)),
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        assert_eq!(within(self.run).await.expect("ends"), None);
    }
}

#[tokio::test]
async fn a_host_enrols_is_attached_and_gets_spec_stack_and_certificates() {
    pf9_hostagent::tls::install();
    let plane = Plane::start().await;
    let host = HostId::random();
    let (_dir, fs) = host_root();
    plane.enrol_and_save(host, &fs).await;
    let node = FakeNode::start(&fs, host);
    let daemons = Daemons::start(&fs).await;
    let told = |s: &HostStatus, name| s.certificates.iter().any(|c| c.name == name);
    let first = plane
        .until(host, |s| s.state == NodeState::Ok && told(s, "host"))
        .await;
    assert!(told(&first, "plane-ca") && first.health.warnings.iter().all(|w| !w.code.is_expiry()));
    assert_eq!(node.read(|n| n.calls), 0, "nothing to do, nobody woken");

    let (cluster, digest) = plane.cluster(400_000).await;
    let attach = format!("{CLUSTERS}/{cluster}/attach");
    let hosts = json!([{"uuid": host, "isMaster": true}]);
    plane.operator(Method::POST, &attach, Some(&hosts)).await;

    node.until(|n| n.specs.last().cloned()).await;
    // When it begins to arrive, and when it is complete.
    node.until(|n| (n.wakes > 1).then_some(())).await;
    assert!(fs.at(stack::staged_archive(&digest)).exists());

    // As nodelet does: a key of its own, a request, and then the plane's signature.
    let attached = plane
        .until(host, |s| s.state == NodeState::Converging)
        .await;
    let generation = attached.accepted_generation;
    let key = rcgen::KeyPair::generate().expect("key");
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .and_then(|r| r.pem())
        .expect("csr");
    node.say(|s| {
        s.generation = generation;
        s.role = Role::Master;
        s.state = NodeState::Converging;
        s.cluster_id = cluster.parse().ok();
        s.certificate_requests = vec![CertificateRequest {
            purpose: CertPurpose::KubeletClient,
            csr,
        }];
    });
    let batch = node.until(|n| n.batches.last().cloned()).await;
    assert_eq!(batch.certificates.len(), 1);
    assert!(
        batch.certificates[0]
            .certificate
            .starts_with("-----BEGIN CERTIFICATE-----")
    );
    node.say(|s| {
        s.certificate_requests.clear();
        s.state = NodeState::Ok;
    });
    let is_master = |s: &HostStatus| s.node.as_ref().is_some_and(|n| n.role == Role::Master);
    plane
        .until(host, |s| s.state == NodeState::Ok && is_master(s))
        .await;

    // The plane is down while the host restarts; later it is back.
    let address = plane.server.address();
    daemons.stop().await;
    plane.server.stop().await;
    node.forget();
    let daemons = Daemons::start(&fs).await;
    node.until(|n| n.specs.last().cloned()).await;
    let server = serve(plane.dir.path(), address).await;
    let plane = Plane {
        server,
        dir: plane.dir,
    };
    plane
        .until(host, |s| {
            s.state == NodeState::Converging && s.reason.is_some()
        })
        .await;
    let plane = plane.restart().await;
    node.say(|s| {
        s.generation = generation;
        s.role = Role::Master;
    });
    plane.until(host, |s| s.state == NodeState::Ok).await;
    daemons.stop().await;
    plane.server.stop().await;
}

#[tokio::test]
async fn tokens_let_in_once_and_only_at_their_plane() {
    pf9_hostagent::tls::install();
    let plane = Plane::start().await;
    let token = plane.token().await;
    let (_dir, fs) = host_root();
    plane
        .enrol(&token, HostId::random(), &fs)
        .await
        .expect("enrolled");
    let code = async |token: &EnrolToken| {
        let refused = plane.enrol(token, HostId::random(), &fs).await;
        refused.expect_err("refused").code
    };
    assert_eq!(code(&token).await, FaultCode::TokenUsed);
    let mut unknown = plane.token().await;
    unknown.secret = pf9_hostagent::model::Secret::new("no-such-secret".into());
    assert_eq!(code(&unknown).await, FaultCode::TokenUnknown);
    let mut elsewhere = plane.token().await;
    elsewhere.ca = Digest::of(b"another plane");
    assert_eq!(code(&elsewhere).await, FaultCode::PlaneForeignCertificate);
    plane.server.stop().await;
}
