//! Documents between agent and plane as they are today: what stands in each, for review.
//!
//! Every document is made with all that it can say, written, and compared with the file of its name
//! in `golden/shapes`; `PF9_BLESS=1 cargo test golden` rewrites them, and the diff is the review:
//! another shape is another thing that older programs read. No `..Default`: a new field has to be
//! thought of here.

mod etcd;
mod operations;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use etcd::backup_manifest;

use super::document;
use super::needs::tests::everything;
use super::*;

const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/model/golden/shapes");

fn host() -> HostId {
    HostId(uuid::Uuid::from_u128(1))
}

fn cluster() -> ClusterId {
    ClusterId(uuid::Uuid::from_u128(2))
}

fn at() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn ip() -> IpAddr {
    IpAddr::from([10, 1, 2, 3])
}

fn digest() -> Digest {
    Digest([7; 32])
}

fn fault() -> Fault {
    Fault {
        code: FaultCode::DiskFull,
        what: "what".into(),
        why: "why".into(),
        fix: "fix".into(),
        next_try: Some(at()),
    }
}

fn key() -> TrustedKey {
    TrustedKey {
        id: "0011223344556677".into(),
        public_key: "a2V5".into(),
    }
}

fn envelope() -> Envelope {
    Envelope {
        schema: 1,
        kind: DocumentKind::Spec,
        key_id: key().id,
        payload: "e30=".into(),
        signature: "c2ln".into(),
    }
}

fn marks() -> MachineMarks {
    MachineMarks {
        schema: MACHINE_SCHEMA,
        uuid: Some(digest()),
        serial: Some(digest()),
        interfaces: [digest()].into(),
    }
}

fn version() -> TrustVersion {
    TrustVersion {
        plane: uuid::Uuid::from_u128(3),
        serial: 4,
        revision: 5,
    }
}

fn facts() -> NodeFacts {
    NodeFacts {
        hostname: "n1".into(),
        addresses: vec![ip()],
    }
}

fn request() -> CertificateRequest {
    CertificateRequest {
        purpose: CertPurpose::Nodelet,
        csr: "csr".into(),
    }
}

fn stack_ref() -> StackRef {
    StackRef {
        name: "s".into(),
        version: "1".into(),
        manifest: digest(),
    }
}

pub(crate) fn node_status() -> NodeStatus {
    NodeStatus {
        schema: STATUS_SCHEMA,
        revision: 1,
        generation: Generation(2),
        role: Role::Worker,
        cluster_id: Some(cluster()),
        installed: Some(InstalledStatus {
            role: Role::Worker,
            cluster_id: cluster(),
            generation: Generation(2),
        }),
        wants_spec: true,
        state: NodeState::Retrying,
        reason: Some(fault()),
        attempts: 3,
        phases: vec![PhaseStatus {
            id: PhaseId::Cleanup,
            name: "cleanup".into(),
            order: 210,
            state: PhaseState::Waiting,
            message: Some("message".into()),
            started_at: Some(at()),
            took_ms: Some(4),
        }],
        current_step: Some("step".into()),
        last_sweep_at: Some(at()),
        warnings: vec![fault()],
        disks: super::health::tests::health(fault()).disks,
        maintenance: Some(MaintenanceStatus {
            by: MaintenanceBy::Plane,
            reason: "reason".into(),
            since: at(),
            until: at(),
        }),
        extensions: Some(ExtensionsStatus {
            checks: [(
                "raid/md0".to_owned(),
                ExtensionCheck {
                    ok: false,
                    found: "1 of 2".into(),
                    fix: "replace it".into(),
                },
            )]
            .into(),
            facts: facts_of_operators(),
            bad: [("check.d/bad".to_owned(), "why".to_owned())].into(),
        }),
        repairs: vec![RepairStatus {
            number: 1,
            at: at(),
            what: "start kubelet".into(),
            why: "it is not running".into(),
        }],
        kube_proxy: Some(KubeProxyStatus {
            mode: ProxyMode::Nftables,
            why: "why".into(),
        }),
        stack: Some(stack_ref()),
        wants_stack: Some(stack_ref()),
        upgrade: Some(UpgradeStatus {
            roll: RollId(uuid::Uuid::from_u128(4)),
            stage: UpgradeStage::Node,
            stack: stack_ref(),
            state: UpgradeState::PutBack,
            attempts: 2,
            fault: Some(fault()),
            since: at(),
            os: Some(OsReport {
                available: 3,
                security: 2,
                updated: 1,
                held: 4,
                reboot_needed: true,
                rebooted: true,
            }),
        }),
        certificate_requests: vec![request()],
        service_account_key: Some("key".into()),
        etcd: Some(etcd::status()),
        api_address: Some(ApiAddressStatus {
            address: ip(),
            here: true,
            interface: Some("eth0".into()),
            holder: Some("n1".into()),
            since: Some(at()),
            fault: Some(fault()),
        }),
        services: vec![ServiceStatus {
            unit: "pf9-kubelet.service".into(),
            state: ServiceState::Ill,
            since: at(),
            why: Some("why".into()),
        }],
        revived: vec![RevivedStatus {
            unit: "pf9-kubelet.service".into(),
            times: 2,
            last_at: at(),
            why: "it does not answer".into(),
        }],
        certificates: vec![CertificateStatus {
            name: "kubelet/server".into(),
            authority: Authority::Cluster,
            not_before: at(),
            not_after: at(),
            digest: digest(),
            issuer: digest(),
        }],
    }
}

fn facts_of_operators() -> BTreeMap<String, BTreeMap<String, FactValue>> {
    let facts = [
        ("leased".to_owned(), FactValue::Flag(true)),
        ("rack".to_owned(), FactValue::Text("r12".into())),
        ("slots".to_owned(), FactValue::Number(4.0)),
    ];
    [("rack".to_owned(), facts.into())].into()
}

fn inventory() -> Inventory {
    Inventory {
        hostname: "n1".into(),
        os: "os".into(),
        os_id: "id".into(),
        os_version: "1".into(),
        kernel: "6".into(),
        systemd: "252".into(),
        cgroup: Some(1),
        arch: "amd64".into(),
        cpus: 2,
        cpu_model: "model".into(),
        memory_bytes: 3,
        addresses: vec![ip()],
        interfaces: vec![Interface {
            name: "eth0".into(),
            mac: "02:00:00:00:00:01".into(),
            addresses: vec![ip()],
            networks: vec!["10.1.0.0/16".parse().expect("net")],
        }],
        dns_servers: vec![ip()],
        routes: vec![RouteTo {
            net: "172.17.0.0/16".parse().expect("net"),
            on_link: true,
        }],
        extensions: facts_of_operators(),
    }
}

pub(crate) fn status() -> HostStatus {
    HostStatus {
        schema: STATUS_SCHEMA,
        host_id: host(),
        agent_version: "0.1.0".into(),
        boot_id: "boot".into(),
        uptime_s: 1,
        sent_at: at(),
        acknowledged_at: Some(at()),
        accepted_generation: Generation(2),
        observed_generation: Generation(2),
        state: NodeState::Retrying,
        reason: Some(fault()),
        refused: Some(fault()),
        node: Some(node_status()),
        download: Some(DownloadStatus {
            stack: stack_ref(),
            have: 1,
            total: 2,
            fault: Some(fault()),
        }),
        certificates: vec![Expiry {
            name: "host".into(),
            not_after: at(),
            renew_at: Some(at()),
            fault: Some(fault()),
        }],
        inventory: inventory(),
        health: super::health::tests::health(fault()),
        trust: Some(TrustStatus {
            version: Some(version()),
            keys: vec![key().id],
            authorities: vec![digest()],
            spec_key: Some(key().id),
            stack_key: Some(key().id),
        }),
        agent: agent::tests::status(),
    }
}

fn manifest() -> StackManifest {
    StackManifest {
        schema: STACK_SCHEMA,
        name: "s".into(),
        version: "1".into(),
        kubernetes: semver::Version::new(1, 37, 2),
        arch: "amd64".into(),
        archive: StackArchive {
            sha256: digest(),
            size: 1,
        },
        components: vec![StackComponent {
            name: "kubelet".into(),
            version: "1.37.2".into(),
        }],
        files: vec![StackFile {
            path: "bin/kubelet".into(),
            mode: 0o755,
            sha256: digest(),
            size: 1,
            component: "kubelet".into(),
        }],
        images: vec![StackImage {
            reference: "r".into(),
            path: "images/r.tar".into(),
            component: "pause".into(),
            roles: vec![Role::Master, Role::Worker],
        }],
        addons: vec!["addons/a.yaml".into()],
        security: false,
        requires: vec![StackRequirement {
            package: "p".into(),
            any_of: vec!["/lib/p".into()],
        }],
    }
}

fn enrol_request() -> EnrolRequest {
    EnrolRequest {
        schema: 1,
        token: Secret::new("token".into()),
        host_id: host(),
        order_key: key(),
        statement: envelope(),
        csr: "csr".into(),
        machine: Some(marks()),
        proof: Some("proof".into()),
    }
}

fn enrol_answer() -> EnrolAnswer {
    EnrolAnswer {
        schema: 1,
        certificate: "pem".into(),
        ca: "pem".into(),
        trust: vec![key()],
        endpoints: vec!["wss://plane".into()],
        trust_version: Some(version()),
    }
}

fn enrolment() -> Enrolment {
    Enrolment {
        schema: ORDER_SCHEMA,
        host_id: host(),
        token: digest(),
        csr: digest(),
        facts: facts(),
    }
}

fn order() -> CertificateOrder {
    CertificateOrder {
        schema: ORDER_SCHEMA,
        host_id: host(),
        cluster_id: cluster(),
        generation: Generation(2),
        nonce: Nonce(digest()),
        requests: vec![request()],
        service_account_key: Some("key".into()),
    }
}

fn report() -> FactsReport {
    FactsReport {
        schema: ORDER_SCHEMA,
        host_id: host(),
        nonce: Nonce(digest()),
        facts: facts(),
    }
}

fn farewell() -> Farewell {
    Farewell {
        schema: ORDER_SCHEMA,
        host_id: host(),
        certificate: digest(),
        at: at(),
    }
}

fn unwrap_order() -> UnwrapOrder {
    UnwrapOrder {
        schema: ORDER_SCHEMA,
        host_id: host(),
        cluster_id: cluster(),
        nonce: Nonce(digest()),
        manifest: envelope(),
        stanzas: vec![WrappedKey {
            tag: "X25519".into(),
            args: vec!["share".into()],
            body: "a2V5".into(),
        }],
        recipient: "age1qpz".into(),
    }
}

fn batch() -> CertificateBatch {
    CertificateBatch {
        cluster_id: cluster(),
        certificates: vec![IssuedCertificate {
            purpose: CertPurpose::Nodelet,
            certificate: "pem".into(),
        }],
    }
}

fn events() -> EventBatch {
    EventBatch {
        spool: Some(uuid::Uuid::from_u128(6)),
        events: vec![Event {
            id: "boot-1".into(),
            seq: Some(7),
            at: at(),
            kind: "state".into(),
            message: "message".into(),
            fault: Some(fault()),
        }],
    }
}

fn trust() -> TrustDocument {
    TrustDocument {
        schema: TRUST_SCHEMA,
        host_id: host(),
        version: version(),
        issued_at: at(),
        keys: vec![key()],
        authorities: "pem".into(),
        machine: Some(marks()),
        hold: Some(HoldOrder {
            boot_id: "boot".into(),
            fault: fault(),
        }),
    }
}

fn status_answer() -> StatusAnswer {
    StatusAnswer {
        trust: Some(version()),
        notices: vec![fault()],
    }
}

/// The document is what its file says; it is readable, also with unknown additions.
fn shape<T: Serialize + DeserializeOwned>(name: &str, document: &T) {
    let now = serde_json::to_value(document).expect("written");
    let path = format!("{FILES}/{name}.json");
    if std::env::var_os("PF9_BLESS").is_some() {
        let text = serde_json::to_string_pretty(&now).expect("text");
        std::fs::write(&path, text + "\n").expect("write");
    }
    let golden = std::fs::read(&path).expect("golden file; PF9_BLESS=1 writes it");
    let golden: Value = serde_json::from_slice(&golden).expect("JSON");
    assert_eq!(now, golden, "{name}; PF9_BLESS=1 writes it anew");
    let mut later = golden.clone();
    add(&mut later);
    for text in [&golden, &later] {
        let text = serde_json::to_vec(text).expect("text");
        let read: T = document::read(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(
            serde_json::to_value(read).expect("written"),
            golden,
            "{name}"
        );
    }
    let newer = serde_json::json!({ document::NEEDS_AGENT: "99" }).to_string();
    let refused = document::read::<T>(newer.as_bytes())
        .err()
        .map(|e| e.to_string());
    assert!(
        refused.is_some_and(|why| why.contains("needs agent 99")),
        "{name}"
    );
}

/// An addition to every object, except where names are the operator's.
fn add(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                if !matches!(
                    name.as_str(),
                    "labels"
                        | "mirrors"
                        | "feature_gates"
                        | "extra_args"
                        | "required_claims"
                        // Names in it are operators'.
                        | "extensions"
                ) {
                    add(value);
                }
            }
            fields.insert("a_later_field".into(), "x".into());
        }
        Value::Array(entries) => entries.iter_mut().for_each(add),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn shapes_of_what_the_plane_says() {
    shape("spec", &everything());
    shape("stack-manifest", &manifest());
    shape("envelope", &envelope());
    operations::shapes_of_the_plane();
    shape("trust", &trust());
    shape(
        "trust-answer",
        &TrustAnswer {
            documents: vec![envelope()],
        },
    );
    shape("status-answer", &status_answer());
    shape("certificate-batch", &batch());
    shape("enrol-answer", &enrol_answer());
    let (schema, certificate) = (1, "pem".into());
    let answer = RenewAnswer {
        schema,
        certificate,
    };
    shape("renew-answer", &answer);
    shape(
        "nonce",
        &FreshNonce {
            nonce: Nonce(digest()),
        },
    );
    shape(
        "unwrap-answer",
        &UnwrapAnswer {
            sealed: "c2VhbGVk".into(),
        },
    );
    shape("fault", &fault());
}

#[test]
fn shapes_of_what_the_host_says() {
    shape("status", &status());
    shape("events", &events());
    operations::shapes_of_the_host();
    shape("enrol-request", &enrol_request());
    shape("enrolment", &enrolment());
    shape("certificate-order", &order());
    shape("facts-report", &report());
    shape("unwrap-order", &unwrap_order());
    shape("farewell", &farewell());
    shape("backup-manifest", &backup_manifest());
    shape(
        "renew-request",
        &RenewRequest {
            schema: 1,
            csr: "csr".into(),
        },
    );
}
