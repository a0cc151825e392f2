//! Secrets of a node are traced: each place has one of its own, and none of them appears in anything that the plane
//! receives, stores, shows or logs. A deliberate leak proves the search: it has to be found in each place.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use pf9_hostagent::host::fs::Attrs;
use pf9_hostagent::model::{
    Authority, CertificateStatus, ClusterId, MaintenanceRequest, NodeStatus, RepairStatus,
    Timestamp, paths,
};

use super::*;
use crate::identity::keep_nodelet;
use crate::support::full;

/// Every place of a node with something confidential, or where people put such things.
const PLACES: [&str; 28] = [
    paths::PROXY_CREDENTIALS,
    "/etc/pf9/certs/hostagent/next.pem",
    "/etc/pf9/containerd/conf.d/registry.toml",
    "/etc/pf9/etcd-archive-credentials",
    "/etc/pf9/inventory.d/asset",
    "/etc/pf9/kube.d/certs/apiserver/client/key.pem",
    "/etc/pf9/kube.d/certs/etcd/peer/key.pem",
    "/etc/pf9/kube.d/certs/kubelet/server/key.pem",
    "/etc/pf9/kube.d/certs/service-account/key.pem",
    "/etc/pf9/kube.d/kubeconfigs/admin.yaml",
    "/etc/pf9/kube.d/manifests/kube-apiserver.yaml",
    "/etc/pf9/operator.token",
    "/etc/pf9/root/recovery.key",
    "/etc/systemd/system/pf9-kubelet.service.d/proxy.conf",
    "/etc/environment",
    "/etc/apt/auth.conf",
    "/opt/pf9/agent/current/bin/of-a-person",
    "/root/.kube/config",
    "/run/pf9/environment",
    "/var/lib/pf9/containerd/config.json",
    "/var/lib/pf9/etcd/member/snap/db",
    "/var/lib/pf9/kubelet/pods/x/volumes/secret/token",
    "/var/log/pf9/kube/audit/audit.log",
    "/var/log/pf9/kube/kube.log",
    "/var/log/pods/default_x/app/0.log",
    "/var/opt/pf9/hostagent/of-a-person",
    "/var/opt/pf9/nodelet/journal",
    "/var/tmp/pf9-bundle",
];

/// One secret: where it is, and what it is.
type Secret = (String, String);

/// Where nodelet makes the keys of a node.
const KEYS: &str = "/etc/pf9/kube.d/certs";

/// Plants one in each place that should have one, and collects those that exist already.
fn plant(fs: &HostFs, has: fn(&str) -> bool) -> Vec<Secret> {
    let mut all = Vec::new();
    let places = PLACES.iter().enumerate().filter(|(_, place)| has(place));
    for (n, place) in places {
        let secret = BASE64.encode(format!("planted-{n:02}-{place:?}"));
        let secret = secret.trim_end_matches('=').to_owned();
        let text = format!("token: {secret}\n");
        let attrs = Attrs::mode(0o600);
        fs.write(place, text.as_bytes(), &attrs).expect(place);
        all.push(((*place).to_owned(), secret));
    }
    let text = |path: &str| fs.read_text(path, 1 << 20).expect("read").expect(path);
    // A line in the middle: the first one names the kind of key, and is the same in all.
    let key = text(paths::HOST_KEY);
    let line = key.lines().nth(2).expect("a key has lines");
    all.push((paths::HOST_KEY.to_owned(), line.to_owned()));
    let order: Value = serde_json::from_str(&text(paths::ORDER_KEY)).expect("json");
    let order = BASE64
        .decode(order["key"].as_str().expect("key"))
        .expect("base64");
    // PKCS#8 of Ed25519: the private bytes follow sixteen that are the same in all; the public ones are reported.
    all.push((paths::ORDER_KEY.to_owned(), BASE64.encode(&order[18..48])));
    all
}

/// Forms of a secret: plain, hexadecimal, and base64 at each of three offsets.
fn forms(secret: &str) -> Vec<String> {
    let hex: String = secret.bytes().map(|b| format!("{b:02x}")).collect();
    let mut all = vec![secret.to_owned(), hex];
    for before in 0..3 {
        let text = format!("{}{secret}", "-".repeat(before));
        let encoded = BASE64.encode(text);
        // The edges depend on neighbouring bytes.
        all.push(encoded[4..encoded.len() - 4].to_owned());
    }
    all
}

/// Which places on the plane's side have which secret.
fn leaks(seen: &[(String, Vec<u8>)], secrets: &[Secret]) -> BTreeSet<(String, String)> {
    let forms: Vec<_> = secrets.iter().map(|(of, s)| (of, forms(s))).collect();
    let mut all = BTreeSet::new();
    for (place, bytes) in seen {
        let text = String::from_utf8_lossy(bytes);
        let those = forms
            .iter()
            .filter(|(_, forms)| forms.iter().any(|form| text.contains(form)));
        all.extend(those.map(|(of, _)| (place.clone(), (*of).clone())));
    }
    all
}

/// Log of the plane (and of comms and hostagent, which are in the same process here).
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Of all that is logged by this thread while the guard lives.
    fn taken() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Plane {
    /// Everything that is received, stored and shown there.
    async fn everything(&self, host: HostId, cluster: &str) -> Vec<(String, Vec<u8>)> {
        let mut all = Vec::new();
        let (token, project) = self.login().await;
        let get = async |path: &str| {
            let url = format!("{}{path}", self.server.public_url());
            let request = self.rest().get(url).bearer_auth(&token);
            let answer = request.send().await.expect("answer");
            let status = answer.status();
            let text = answer.text().await.expect("text");
            assert!(status.is_success(), "{path}: {status} {text}");
            text
        };
        for (place, path) in [
            ("status", format!("/resmgr/v1/hosts/{host}")),
            ("hosts", "/resmgr/v1/hosts".into()),
            ("events", format!("/resmgr/v1/hosts/{host}/events")),
            ("operations", format!("/resmgr/v1/hosts/{host}/operations")),
            ("alerts", "/alerts/v1/alerts".into()),
            ("past alerts", "/alerts/v1/alerts?state=past".into()),
            ("report", format!("/alerts/v1/clusters/{cluster}/report")),
            (
                "availability",
                format!("/alerts/v1/clusters/{cluster}/availability"),
            ),
            (
                "clusters",
                format!("/qbert/v4/{project}/clusters/{cluster}"),
            ),
            ("nodes", format!("/qbert/v4/{project}/nodes")),
        ] {
            all.push((place.to_owned(), get(&path).await.into_bytes()));
        }
        let targets: Value = serde_json::from_str(&get("/metrics/targets").await).expect("json");
        for target in targets.as_array().expect("list") {
            let source = target["labels"]["source"].as_str().expect("source");
            // The tunnel's own metrics need a list of services, which this machine does not have.
            if !["tunnel", "etcd"].contains(&source) {
                let path = target["labels"]["__metrics_path__"].as_str().expect("path");
                let text = get(path).await;
                all.push((format!("metrics of {source}"), text.into_bytes()));
            }
        }
        for path in ["/hosts", "/clusters", "/alerts", "/keys"] {
            let answer = self.admin(Method::GET, path, &Value::Null).await;
            all.push((format!("admin {path}"), answer.to_string().into_bytes()));
        }
        for entry in std::fs::read_dir(self.dir.path()).expect("state") {
            let entry = entry.expect("entry");
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.metadata().expect("metadata").mode() & 0o170_000 == 0o100_000 {
                let bytes = std::fs::read(entry.path()).expect("file");
                all.push((format!("file {name}"), bytes));
            }
        }
        all
    }
}

/// A node that reports everything it can, without a secret.
fn honest(s: &mut NodeStatus, cluster: ClusterId) {
    full::status(s, cluster);
    s.certificate_requests.clear();
}

/// One that reports what it should not: in the words of a fault, of repairs, and in the name of a certificate.
fn leaky(s: &mut NodeStatus, secret: &str) {
    let why = format!("cannot read the kubeconfig: unknown key {secret}");
    s.reason = Some(Fault::new(FaultCode::Unit, "cannot start kubelet", why));
    s.repairs = (10..15)
        .map(|number| RepairStatus {
            number,
            at: Timestamp::now(),
            what: format!("write {secret}"),
            why: "it differs".into(),
        })
        .collect();
    s.certificates = vec![CertificateStatus {
        name: format!("kubelet/{secret}"),
        authority: Authority::Cluster,
        not_before: Timestamp::UNIX_EPOCH,
        not_after: Timestamp::UNIX_EPOCH,
        digest: Digest::of(b"a"),
        issuer: Digest::of(b"b"),
    }];
}

#[tokio::test]
async fn no_secret_of_a_node_is_on_the_plane_and_a_leak_is_found_wherever_it_comes_to() {
    pf9_hostagent::tls::install();
    let (log, _logged) = Log::taken();
    let plane = Plane::start().await;
    let host = HostId::random();
    let (_dir, fs) = host_root();
    plane.enrol_and_save(host, &fs).await;
    let node = FakeNode::start(&fs, host);
    let secrets = plant(&fs, |_| true);
    let daemons = Daemons::start(&fs).await;
    plane.until(host, |s| s.state == NodeState::Ok).await;
    let (cluster, _) = plane.cluster(1_000).await;
    let id: ClusterId = cluster.parse().expect("id");
    let attach = format!("{CLUSTERS}/{cluster}/attach");
    let hosts = json!([{"uuid": host, "isMaster": true}]);
    plane.operator(Method::POST, &attach, Some(&hosts)).await;
    node.say(|s| honest(s, id));
    let told = |s: &HostStatus| s.node.as_ref().is_some_and(|n| n.etcd.is_some());
    plane.until(host, told).await;

    let mut seen = plane.everything(host, &cluster).await;
    let logged = log.0.lock().expect("lock").clone();
    assert!(!logged.is_empty());
    seen.push(("log".into(), logged));
    assert_eq!(leaks(&seen, &secrets), BTreeSet::new());
    // Something was searched, in every place.
    let places: BTreeSet<&str> = seen.iter().map(|(place, _)| place.as_str()).collect();
    let shows = |place: &str| {
        let found = seen.iter().find(|(name, _)| name == place);
        found.is_some_and(|(_, bytes)| String::from_utf8_lossy(bytes).contains(&host.to_string()))
    };
    for place in ["status", "hosts", "report", "file plane.redb"] {
        assert!(shows(place), "{place} says nothing of the host: {places:?}");
    }

    // A leak of the kubeconfig's secret.
    let (of, secret) = secrets
        .iter()
        .find(|(of, _)| of.ends_with("admin.yaml"))
        .expect("planted");
    node.say(|s| leaky(s, secret));
    let wanted: BTreeSet<(String, String)> = [
        "status",
        "hosts",
        "events",
        "alerts",
        "report",
        "metrics of certificates",
        "file plane.redb",
        "log",
    ]
    .map(|place| (place.to_owned(), of.clone()))
    .into();
    within(async {
        loop {
            let mut seen = plane.everything(host, &cluster).await;
            seen.push(("log".into(), log.0.lock().expect("lock").clone()));
            let found = leaks(&seen, &secrets);
            let others: Vec<_> = found.iter().filter(|(_, name)| name != of).collect();
            assert!(others.is_empty(), "{others:?}");
            if found.is_superset(&wanted) {
                break;
            }
            let missing: Vec<_> = wanted.difference(&found).collect();
            eprintln!("not yet in {missing:?}");
            // No event says that it has reached all of them.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    daemons.stop().await;
    plane.server.stop().await;
}

/// Keys that nodelet made, collected as [`plant`] does for existing ones.
fn made(fs: &HostFs) -> Vec<Secret> {
    let mut all = Vec::new();
    let mut dirs = vec![fs.at(KEYS)];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("directory") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.ends_with("key.pem") || path.ends_with(paths::CERT_KEY_FILE) {
                let key = std::fs::read_to_string(&path).expect("key");
                let line = key.lines().nth(2).expect("a key has lines");
                all.push((path.display().to_string(), line.to_owned()));
            }
        }
    }
    all
}

/// The same with the real nodelet: it reads the planted secrets where it may, makes the keys of a master, has them
/// signed, refuses a stack (so that nothing of this machine is changed), and reports all of that.
#[tokio::test]
async fn the_real_nodelet_tells_no_secret_and_a_leak_of_its_own_is_found() {
    pf9_hostagent::tls::install();
    let (log, _logged) = Log::taken();
    let plane = Plane::start().await;
    let host = HostId::random();
    let (_dir, fs) = host_root();
    plane.enrol_and_save(host, &fs).await;
    let stop = CancellationToken::new();
    let nodelet = tokio::spawn(keep_nodelet(fs.clone(), Config::default(), stop.clone()));
    let daemons = Daemons::start(&fs).await;
    plane.until(host, |s| s.state == NodeState::Ok).await;
    // Nodelet would not have made a key that is already there.
    let mut secrets = plant(&fs, |place| !place.starts_with(KEYS));
    let (cluster, _) = plane.cluster(1_000).await;
    let attach = format!("{CLUSTERS}/{cluster}/attach");
    let hosts = json!([{"uuid": host, "isMaster": true}]);
    plane.operator(Method::POST, &attach, Some(&hosts)).await;
    // It has its certificates, and reports why it does not continue: the stack's program is invalid.
    let told = |s: &HostStatus| {
        s.node.as_ref().is_some_and(|n| {
            let signed = !n.certificates.is_empty() && n.certificate_requests.is_empty();
            n.role == Role::Master && signed && n.reason.is_some()
        })
    };
    let status = plane.until(host, told).await;
    let own = made(&fs);
    assert!(own.len() >= 10, "a master's keys: {own:?}");
    secrets.extend(own);
    let look = async || {
        let mut seen = plane.everything(host, &cluster).await;
        seen.push(("log".into(), log.0.lock().expect("lock").clone()));
        seen
    };
    let seen = look().await;
    assert_eq!(leaks(&seen, &secrets), BTreeSet::new());
    // The search covered nodelet's own reports.
    let why = status.node.and_then(|n| n.reason).expect("a reason").why;
    let shown = |(place, bytes): &&(String, Vec<u8>)| {
        place == "status"
            && String::from_utf8_lossy(bytes).contains(why.split('"').next().expect("words"))
    };
    assert!(seen.iter().any(|place| shown(&place)), "{why}");

    // Root's words are passed on: if root writes a secret there, root has published it.
    let (of, secret) = secrets
        .iter()
        .find(|(of, _)| of.ends_with("admin.yaml"))
        .expect("planted");
    let order = MaintenanceRequest {
        for_s: 600,
        reason: format!("the token is {secret}"),
    };
    let client = Client::unix(fs.at(paths::NODELET_SOCKET)).expect("client");
    let begun: Option<Value> = client
        .send(Method::POST, "/v1/maintenance", &order, PATIENCE)
        .await
        .expect("nodelet");
    assert!(begun.is_some());
    let wanted: BTreeSet<(String, String)> = ["status", "events", "file plane.redb"]
        .map(|place| (place.to_owned(), of.clone()))
        .into();
    within(async {
        loop {
            let found = leaks(&look().await, &secrets);
            let others: Vec<_> = found.iter().filter(|(_, name)| name != of).collect();
            assert!(others.is_empty(), "{others:?}");
            if found.is_superset(&wanted) {
                break;
            }
            let missing: Vec<_> = wanted.difference(&found).collect();
            eprintln!("not yet in {missing:?}");
            // No event says that it has reached all of them.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    daemons.stop().await;
    stop.cancel();
    within(nodelet).await.expect("ends");
    plane.server.stop().await;
}
