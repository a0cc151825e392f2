//! What leaves the host: the reviewed list of fields, and no secret.

use std::collections::BTreeSet;

use bytes::Bytes;
use pf9_hostagent::backup::seal::{self, Sealer};
use pf9_hostagent::backup::unwrap::Asking;
use pf9_hostagent::host::fs::{Attrs, HostFs};
use pf9_hostagent::model::{
    BackupTrust, Digest, DocumentKind, Envelope, Fault, FaultCode, FoundManifest, HostId,
    NodeState, Nonce, OperationKind, SigningKey, paths,
};
use serde_json::{Value, json};

use super::fixture::Bed;
use super::plane::content;
use crate::support::{full, schema};

/// Each field of each document, one per line; an unlisted field is not sent.
const PUBLISHED: &str = include_str!("../../golden/leaves-the-host.txt");
/// The same as a JSON Schema, for people and their tools.
const SCHEMA: &str = include_str!("../../../docs/schemas/report.json");
/// In files that our programs can read, and in no document.
const SECRET: &str = "c2VjcmV0LW9mLXRoaXMtaG9zdA";

/// Adds `document: a.b[].c` for every value in it.
fn fields(at: &str, value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(all) => {
            for (key, value) in all {
                let dot = if at.ends_with(' ') { "" } else { "." };
                fields(&format!("{at}{dot}{key}"), value, into);
            }
        }
        Value::Array(all) => {
            for value in all {
                fields(&format!("{at}[]"), value, into);
            }
        }
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            into.insert(at.to_owned());
        }
    }
}

/// The payload of a document that root signed.
fn opened(body: &[u8]) -> Value {
    match serde_json::from_slice::<Envelope>(body) {
        Ok(envelope) => content(&envelope),
        Err(_) => serde_json::from_slice(body).expect("json"),
    }
}

/// Root's request to the plane about a backup: signed here; the carrier does not matter.
fn unwrap_order(bed: &Bed) -> Value {
    let file = bed
        .fs
        .begin("/b.db.age", &Attrs::mode(0o600))
        .expect("file");
    let both = [seal::new_key().1, seal::new_key().1];
    let sealer = Sealer::new(file, &seal::recipients(&both).expect("keys")).expect("head");
    sealer.finish().expect("finish").0.place().expect("place");
    let asking = Asking::of(&bed.fs.at("/b.db.age")).expect("head");
    let nonce = Nonce(Digest::of(b"n"));
    let (root, _) = SigningKey::generate().expect("key");
    let manifest = json!({
        "schema": 1, "name": "20261128T140000Z-r7", "taken_at": "2026-11-28T14:00:00Z", "host_id": HostId::random(),
        "cluster_id": bed.cluster, "etcd_cluster_id": "cafe", "member_id": "beef", "revision": 7, "keys": 3,
        "hash": 1, "plain_bytes": 12, "sealed_bytes": 12, "sealed_sha256": Digest::of(b"x"),
        "etcd_version": "3.7.3", "kubernetes_version": "1.37.2", "recipients": ["age1"],
        "settings": {"cluster_name": "c", "api_host": "10.1.0.1", "api_port": 6443,
            "pods_cidr": "10.20.0.0/16", "services_cidr": "10.21.0.0/22", "cluster_domain": "cluster.local",
            "stack": {"name": "s", "version": "1", "manifest": Digest::of(b"m")}},
    });
    let text = serde_json::to_vec(&manifest).expect("json");
    let found = FoundManifest::of(root.sign(DocumentKind::Backup, &text)).expect("a manifest");
    let noted = found.believed(&BackupTrust::Unchecked).expect("taken");
    json!(asking.order(HostId::random(), &noted, nonce))
}

/// Every place of a node with something confidential.
const PLACES: [&str; 24] = [
    paths::HOST_KEY,
    paths::PROXY_CREDENTIALS,
    "/etc/pf9/certs/hostagent/next.pem",
    "/etc/pf9/etcd-archive-credentials",
    "/etc/pf9/kube.d/certs/apiserver/client/key.pem",
    "/etc/pf9/kube.d/certs/etcd/peer/key.pem",
    "/etc/pf9/kube.d/certs/kubelet/server/key.pem",
    "/etc/pf9/kube.d/certs/service-account/key.pem",
    "/etc/pf9/kube.d/kubeconfigs/admin.yaml",
    "/etc/pf9/operator.token",
    "/etc/pf9/root/order-key.json",
    "/etc/pf9/root/recovery.key",
    "/etc/pf9/containerd/conf.d/registry.toml",
    "/proc/pressure/memory",
    "/run/pf9/environment",
    "/run/systemd/timesync/synchronized",
    "/sys/fs/cgroup/system.slice/systemd-timesyncd.service/cgroup.procs",
    "/var/lib/pf9/etcd/member/snap/db",
    "/var/lib/pf9/kubelet/pods/x/volumes/secret/token",
    "/var/log/pods/default_x/app/0.log",
    "/var/log/pf9/kube/audit/audit.log",
    "/var/log/pf9/kube/kube.log",
    "/var/opt/pf9/comms/tickets.json",
    "/var/opt/pf9/hostagent/of-a-person",
];

/// Where in the documents that left the host the secret is.
fn leaks(came: &[(String, Bytes)]) -> Vec<String> {
    let has = |body: &[u8]| {
        let inner = || opened(body).to_string().contains(SECRET);
        String::from_utf8_lossy(body).contains(SECRET) || inner()
    };
    let leaks = came.iter().filter(|(_, body)| has(body));
    leaks.map(|(path, _)| path.clone()).collect()
}

/// The check above finds a leak: in the words of a fault, and in a document that root signed.
#[tokio::test]
async fn a_leak_would_be_caught() {
    let bed = Bed::new();
    let stack = bed.publish("1", 10_000);
    let _agent = bed.start().await;
    bed.plane.offer(bed.sign(1, bed.worker(&stack)));
    bed.node.until(|n| n.specs.last().cloned()).await;
    bed.node.say(|s| {
        s.state = NodeState::Retrying;
        let why = format!("cannot read {SECRET}");
        s.reason = Some(Fault::new(FaultCode::Unit, "cannot start etcd", why));
    });
    let found = bed
        .plane
        .until(|p| Some(leaks(&p.came)).filter(|found| !found.is_empty()))
        .await;
    assert!(found[0].ends_with("/status"), "{found:?}");
    let (root, _) = SigningKey::generate().expect("key");
    let signed = root.sign(
        DocumentKind::Facts,
        format!("{{\"a\": \"{SECRET}\"}}").as_bytes(),
    );
    let body = serde_json::to_vec(&signed).expect("json");
    assert!(
        !String::from_utf8_lossy(&body).contains(SECRET),
        "it is in base64"
    );
    assert_eq!(leaks(&[("/facts".into(), body.into())]), ["/facts"]);
}

/// The machine's own `/proc`, but for the pressure.
fn own_pressure(fs: &HostFs) {
    let proc = fs.at("/proc");
    std::fs::remove_file(&proc).expect("the link to the machine's");
    std::fs::create_dir_all(proc.join("pressure")).expect("directory");
    for entry in std::fs::read_dir("/proc").expect("list") {
        let entry = entry.expect("entry");
        if entry.file_name() != "pressure" {
            let at = proc.join(entry.file_name());
            std::os::unix::fs::symlink(entry.path(), at).expect("link");
        }
    }
}

#[tokio::test]
async fn what_leaves_the_host_is_what_is_published() {
    let bed = Bed::new();
    own_pressure(&bed.fs);
    for path in PLACES {
        // The seam creates no file there.
        if path.starts_with("/proc/") {
            std::fs::write(bed.fs.at(path), SECRET).expect(path);
            continue;
        }
        let attrs = Attrs::mode(0o600);
        bed.fs.write(path, SECRET.as_bytes(), &attrs).expect(path);
    }
    // Numbers are taken out of it, and nothing beside them.
    let pressure = format!("some avg10=1.50 avg60=0.50 avg300=0.00 total=7\n{SECRET}\n");
    for what in ["cpu", "io"] {
        let path = format!("/proc/pressure/{what}");
        std::fs::write(bed.fs.at(path), &pressure).expect("write");
    }
    let known = bed.plane.read(|p| p.facts.clone()).expect("as enrolled");
    let mut other = known.clone();
    other.hostname = "another".into();
    bed.plane.change(|p| p.facts = Some(other));
    let stack = bed.publish("1", 10_000);
    let _agent = bed.start().await;
    bed.plane.offer(bed.sign(1, bed.worker(&stack)));
    bed.node.until(|n| n.specs.last().cloned()).await;
    let cluster = bed.cluster;
    bed.node.say(|s| full::status(s, cluster));
    bed.node.until(|n| n.batches.last().cloned()).await;
    bed.plane.until(|p| p.event("stack-staged").map(drop)).await;
    bed.plane.force(bed.sign(0, bed.worker(&stack)));
    bed.plane.until(|p| p.event("spec-refused").map(drop)).await;
    bed.plane
        .until(|p| p.statuses.last()?.node.as_ref()?.reason.clone())
        .await;
    let ping = bed.operation(1, OperationKind::Ping);
    bed.plane.change(|p| p.pending.push(ping));
    bed.plane.until(|p| p.results.last().cloned()).await;
    bed.node.change(|n| n.refuse = true);
    let refused = bed.operation(2, OperationKind::Ping);
    bed.plane.change(|p| p.pending.push(refused));
    bed.plane.until(|p| p.results.get(1).cloned()).await;
    let came = bed.plane.read(|p| p.came.clone());
    assert_eq!(leaks(&came), Vec::<String>::new());
    let published: Value = serde_json::from_str(SCHEMA).expect("json");
    let unfit = |part: &str, document: &Value| {
        schema::faults(&published, &format!("/$defs/{part}"), document)
    };
    let mut left = BTreeSet::new();
    for (path, body) in &came {
        let (part, document) = (path.rsplit('/').next().unwrap_or_default(), opened(body));
        assert_eq!(unfit(part, &document), Vec::<String>::new(), "{document:#}");
        fields(&format!("{part}: "), &document, &mut left);
        let mut more = document;
        more["environment"] = json!("a field that is in no schema");
        assert_eq!(unfit(part, &more).len(), 1, "{part}");
    }
    for told in [
        "pressure.cpu.some10",
        "pressure.io.some60",
        "time.keeper",
        "time.synchronised",
    ] {
        let field = format!("status: health.{told}");
        assert!(left.contains(&field), "{field} was not told");
    }
    let mut order = unwrap_order(&bed);
    assert_eq!(unfit("unwrap", &order), Vec::<String>::new());
    // Signed as it is, and still readable.
    let envelope = serde_json::to_vec(&order["manifest"]).expect("json");
    order["manifest"] = opened(&envelope);
    let manifest = unfit("backup_manifest", &order["manifest"]);
    assert_eq!(manifest, Vec::<String>::new());
    assert!(!order.to_string().contains("AGE-SECRET"), "{order}");
    fields("unwrap: ", &order, &mut left);
    let published: BTreeSet<String> = PUBLISHED.lines().map(str::to_owned).collect();
    let more: Vec<_> = left.difference(&published).collect();
    assert!(more.is_empty(), "not published: {more:#?}");
    for document in [
        "certificates",
        "events",
        "facts",
        "operations",
        "status",
        "unwrap",
    ] {
        let of_it = format!("{document}: ");
        assert!(left.iter().any(|f| f.starts_with(&of_it)), "{document}");
    }
}
