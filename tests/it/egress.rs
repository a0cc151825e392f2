//! The way to a real plane: through a proxy, with tickets, with the operator's TLS settings.

use std::net::SocketAddr;
use std::time::Duration;

use pf9_hostagent::app::{Config, TaskGroup};
use pf9_hostagent::comms::{self, TunnelRoute};
use pf9_hostagent::egress::{Egress, Journey};
use pf9_hostagent::host::fs::{Attrs, HostFs};
use pf9_hostagent::identity::{self, EnrolOrder, Identity, Owners, TlsPolicy, order_key};
use pf9_hostagent::local::{Client, Method};
use pf9_hostagent::model::{
    EnrolToken, Fault, FaultCode, HostId, NodeFacts, TunnelState, TunnelStatus, paths,
};
use pf9_plane::{ServeConfig, Server};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::proxy::{FakeProxy, Manner};
use crate::support::{PATIENCE, within};

/// No name server knows it: only the proxy does.
const NAME: &str = "plane.no-such-name.invalid";

struct Plane {
    dir: tempfile::TempDir,
    server: Server,
}

/// A host below a root of its own, configured by `toml`.
struct Host {
    _dir: tempfile::TempDir,
    fs: HostFs,
    id: HostId,
}

impl Plane {
    async fn start(public_url: Option<&str>) -> Self {
        pf9_hostagent::tls::install();
        let dir = tempfile::tempdir().expect("tempdir");
        let server = Server::start(ServeConfig {
            public_url: public_url.map(str::to_owned),
            ..ServeConfig::new(dir.path(), SocketAddr::from(([127, 0, 0, 1], 0)))
        })
        .await
        .expect("plane");
        Self { dir, server }
    }

    async fn admin(&self, method: Method, path: &str, body: &Value) -> Value {
        let client = Client::unix(self.dir.path().join("admin.sock")).expect("client");
        let answer = client.send(method, path, body, PATIENCE).await;
        answer.expect("admin").unwrap_or(Value::Null)
    }

    async fn token(&self) -> EnrolToken {
        let made = self
            .admin(Method::POST, "/tokens", &json!({"ttl_s": 600}))
            .await;
        let text = made["token"].as_str().expect("text");
        text.parse().expect("token")
    }
}

impl Host {
    fn new(toml: &str, credentials: Option<&str>) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        for made in ["/run/pf9", "/var/log/pf9/comms"] {
            std::fs::create_dir_all(fs.at(made)).expect("mkdir");
        }
        let write = |path, text: &str, mode| {
            fs.write(path, text.as_bytes(), &Attrs::mode(mode))
                .expect("write");
        };
        write(paths::CONFIG, toml, 0o644);
        if let Some(line) = credentials {
            write(paths::PROXY_CREDENTIALS, line, 0o600);
        }
        let id = HostId::random();
        Self { _dir: dir, fs, id }
    }

    fn config(&self) -> Config {
        Config::load(&self.fs).expect("configuration")
    }

    fn way(&self) -> (Egress, TlsPolicy) {
        let comms = self.config().comms;
        let egress = Egress::load(&self.fs, &comms.proxy).expect("egress");
        let tls = TlsPolicy::load(&self.fs, &comms.tls).expect("tls");
        (egress, tls)
    }

    async fn enrol(&self, plane: &Plane) -> Result<Identity, Fault> {
        let (egress, tls) = self.way();
        let token = plane.token().await;
        let (root, _) = order_key::ensure(&self.fs, self.id)?;
        let identity = identity::enrol(&EnrolOrder {
            plane: plane.server.public_url(),
            token: &token,
            host_id: self.id,
            present: None,
            machine: pf9_hostagent::model::MachineMarks::default(),
            facts: &NodeFacts::new("n1", &[]),
            root: &root,
            egress: &egress,
            tls: &tls,
            deadline: PATIENCE,
        })
        .await
        .map_err(|e| e.fault())?;
        identity::save(&self.fs, &identity, &Owners::current_user()).expect("save");
        Ok(identity)
    }

    fn route(&self) -> TunnelRoute {
        let (egress, tls) = self.way();
        let identity = identity::load(&self.fs, &tls).expect("load");
        TunnelRoute::new(identity.expect("enrolled"), egress)
    }
}

/// Connects to the first endpoint, as `pf9ctl proxy test` does.
async fn go(route: &TunnelRoute) -> Result<(), Fault> {
    let endpoint = &route.endpoints()[0];
    let mut journey = Journey::default();
    let done = within(route.try_endpoint(endpoint, &mut journey)).await;
    done.map_err(|e| e.fault(endpoint))
}

#[tokio::test]
async fn a_host_enrols_and_tunnels_through_a_proxy_that_wants_a_password() {
    let plane = Plane::start(Some(&format!("https://{NAME}"))).await;
    let names = [(NAME, plane.server.address())];
    let proxy = FakeProxy::start(Manner::Basic("node:se:cret"), &names).await;
    let toml = format!("[comms.proxy]\nurl = \"{}\"\n", proxy.url());

    let straight = Host::new("", None).enrol(&plane).await;
    assert_eq!(
        straight.expect_err("no DNS").code,
        FaultCode::PlaneUnresolvable
    );
    let nameless = Host::new(&toml, None).enrol(&plane).await;
    let code = nameless.expect_err("no password").code;
    assert_eq!(code, FaultCode::ProxyCredentialsWanted);

    let host = Host::new(&toml, Some("node:se:cret\n"));
    host.enrol(&plane).await.expect("enrolled");
    let stop = CancellationToken::new();
    let mut group = TaskGroup::new(stop.clone());
    comms::start(host.fs.clone(), host.config(), &mut group)
        .await
        .expect("comms");
    let running = tokio::spawn(group.run(PATIENCE));
    let socket = host.fs.at(paths::COMMS_SOCKET);
    let state = async || {
        let client = Client::unix(&socket).expect("client");
        let status: TunnelStatus = client.get("/v1/status", PATIENCE).await.expect("status");
        status.state
    };
    let since = within(async {
        loop {
            if let TunnelState::Connected { since } = state().await {
                return since;
            }
            // The status has no event that could be awaited.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;

    // A test of the way uses the same way, and does not disturb the tunnel.
    go(&host.route()).await.expect("the plane knows this host");
    assert_eq!(state().await, TunnelState::Connected { since });
    let targets = proxy.targets();
    assert!(targets.len() >= 4 && targets.iter().all(|t| *t == format!("{NAME}:443")));

    stop.cancel();
    assert_eq!(within(running).await.expect("ends"), None);
    plane.server.stop().await;
}

/// The tunnel and enrolment report the same fault about the same proxy.
#[tokio::test]
async fn a_proxy_that_does_not_let_through_is_named_by_tunnel_and_enrolment() {
    let plane = Plane::start(None).await;
    let rows: [(&[u8], &str); 4] = [
        (b"HTTP/1.1 200 OK\r\n\r\n", "proxy-closed"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "proxy-denies"),
        (
            b"HTTP/1.1 407 x\r\nProxy-Authenticate: Basic\r\n\r\n",
            "proxy-credentials-wanted",
        ),
        (b"220 mail.example ESMTP\r\n", "proxy-garbage"),
    ];
    for (said, want) in rows {
        let host = Host::new("", None);
        host.enrol(&plane).await.expect("straight");
        let proxy = FakeProxy::start(Manner::Say(said.to_vec()), &[]).await;
        let toml = format!("[comms.proxy]\nurl = \"{}\"\n", proxy.url());
        let attrs = Attrs::mode(0o644);
        host.fs
            .write(paths::CONFIG, toml.as_bytes(), &attrs)
            .expect("write");
        let fault = go(&host.route()).await.expect_err(want);
        assert_eq!(fault.code.word(), want, "{fault}");
        let fault = host.enrol(&plane).await.expect_err(want);
        assert_eq!(fault.code.word(), want, "{fault}");
    }
    plane.server.stop().await;
}

#[tokio::test]
async fn pinned_keys_and_versions_are_asked_of_a_real_plane() {
    let plane = Plane::start(None).await;
    let ca = std::fs::read_to_string(plane.dir.path().join("ca.pem")).expect("ca");
    let pin = pin_of(&ca);
    let good = format!("[comms.tls]\npin_sha256 = [\"{pin}\"]\nmin_version = \"1.2\"\n");
    let host = Host::new(&good, None);
    host.enrol(&plane).await.expect("enrolled");
    assert_eq!(go(&host.route()).await, Ok(()));

    let other = "[comms.tls]\npin_sha256 = [\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"]\n";
    let attrs = Attrs::mode(0o644);
    host.fs
        .write(paths::CONFIG, other.as_bytes(), &attrs)
        .expect("write");
    let fault = go(&host.route()).await.expect_err("not pinned");
    assert_eq!(fault.code, FaultCode::PlaneForeignCertificate);
    assert!(fault.why.contains("comms.tls.pin_sha256"), "{fault}");
    let refused = Host::new(other, None).enrol(&plane).await;
    let code = refused.expect_err("not pinned").code;
    assert_eq!(code, FaultCode::PlaneForeignCertificate);
    plane.server.stop().await;
}

fn pin_of(pem: &str) -> String {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use x509_parser::prelude::{FromDer, X509Certificate};
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("pem");
    let (_, parsed) = X509Certificate::from_der(&der).expect("certificate");
    pf9_hostagent::tls::KeyPin::of(parsed.public_key().raw).to_string()
}
