//! Which fields of a spec an agent must heed, and since which version it can.
//!
//! Every field of a spec stands in [`FIELDS`]; a test holds the list. A new one gets a row here
//! that says what an older agent does, which does not know it: ignore it ([`Old::Ignores`], where not heeding it
//! does no harm), or refuse the spec ([`Old::Refuses`]). The plane asks [`needs_agent`] what the spec
//! it is about to sign really uses: a cluster that does not use an addition needs no newer agent.

use semver::Version;
use serde_json::Value;

use super::document::version;

/// What an agent does that is older than a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Old {
    /// It works as if the field were not there.
    Ignores,
    /// It must not work by this spec.
    Refuses,
}

/// A field, as a path in the document (`[]`: of every entry of a list; `{}`: of a map, whose keys
/// are the operator's), the agent version that brought it, and what an older one does.
type Field = (&'static str, &'static str, Old);

/// The first version that was ever installed.
const FIRST: &str = "0.1.0";

/// Every field of a spec.
const FIELDS: &[Field] = &[
    ("schema", FIRST, Old::Refuses),
    ("host_id", FIRST, Old::Refuses),
    ("generation", FIRST, Old::Refuses),
    ("issued_at", FIRST, Old::Ignores),
    ("assignment", FIRST, Old::Refuses),
    ("force", FIRST, Old::Refuses),
    // An agent that cannot change itself stays what it is; the plane sees that by its version.
    ("agent", FIRST, Old::Ignores),
    ("agent.generation", FIRST, Old::Ignores),
    ("agent.prove_within_seconds", FIRST, Old::Ignores),
    ("agent.target", FIRST, Old::Ignores),
    ("agent.target.version", FIRST, Old::Ignores),
    ("agent.target.packages", FIRST, Old::Ignores),
    ("agent.target.packages[].format", FIRST, Old::Ignores),
    ("agent.target.packages[].arch", FIRST, Old::Ignores),
    ("agent.target.packages[].sha256", FIRST, Old::Ignores),
    ("agent.target.packages[].bytes", FIRST, Old::Ignores),
    ("agent.target.packages[].path", FIRST, Old::Ignores),
    ("agent.target.security", FIRST, Old::Ignores),
    ("agent.previous", FIRST, Old::Ignores),
    ("agent.previous.version", FIRST, Old::Ignores),
    ("agent.previous.packages", FIRST, Old::Ignores),
    ("agent.previous.packages[].format", FIRST, Old::Ignores),
    ("agent.previous.packages[].arch", FIRST, Old::Ignores),
    ("agent.previous.packages[].sha256", FIRST, Old::Ignores),
    ("agent.previous.packages[].bytes", FIRST, Old::Ignores),
    ("agent.previous.packages[].path", FIRST, Old::Ignores),
    ("agent.previous.security", FIRST, Old::Ignores),
    ("maintenance", FIRST, Old::Refuses),
    ("maintenance.id", FIRST, Old::Refuses),
    ("maintenance.for_s", FIRST, Old::Refuses),
    ("maintenance.reason", FIRST, Old::Ignores),
    ("assignment.role", FIRST, Old::Refuses),
    ("assignment.host_id", FIRST, Old::Refuses),
    ("assignment.cluster_id", FIRST, Old::Refuses),
    ("assignment.cluster_name", FIRST, Old::Ignores),
    ("assignment.node_name", FIRST, Old::Refuses),
    ("assignment.node_ip", FIRST, Old::Refuses),
    ("assignment.pod_cidr", FIRST, Old::Refuses),
    ("assignment.uid", FIRST, Old::Refuses),
    ("assignment.refused_uids", FIRST, Old::Refuses),
    ("assignment.labels", FIRST, Old::Refuses),
    ("assignment.labels{}", FIRST, Old::Refuses),
    ("assignment.stack", FIRST, Old::Refuses),
    ("assignment.stack.name", FIRST, Old::Refuses),
    ("assignment.stack.version", FIRST, Old::Refuses),
    ("assignment.stack.manifest", FIRST, Old::Refuses),
    ("assignment.upgrade", FIRST, Old::Refuses),
    ("assignment.upgrade.roll", FIRST, Old::Refuses),
    ("assignment.upgrade.stage", FIRST, Old::Refuses),
    ("assignment.upgrade.stack", FIRST, Old::Refuses),
    ("assignment.upgrade.stack.name", FIRST, Old::Refuses),
    ("assignment.upgrade.stack.version", FIRST, Old::Refuses),
    ("assignment.upgrade.stack.manifest", FIRST, Old::Refuses),
    ("assignment.upgrade.drain", FIRST, Old::Refuses),
    ("assignment.upgrade.drain.timeout_s", FIRST, Old::Refuses),
    ("assignment.upgrade.drain.then", FIRST, Old::Refuses),
    ("assignment.upgrade.prove_s", FIRST, Old::Refuses),
    ("assignment.upgrade.probe", FIRST, Old::Refuses),
    ("assignment.upgrade.os", FIRST, Old::Refuses),
    ("assignment.upgrade.os.reboot", FIRST, Old::Refuses),
    ("assignment.upgrade.os.within_s", FIRST, Old::Refuses),
    ("assignment.addons", FIRST, Old::Refuses),
    ("assignment.addons.name", FIRST, Old::Refuses),
    ("assignment.addons.version", FIRST, Old::Refuses),
    ("assignment.addons.manifest", FIRST, Old::Refuses),
    ("assignment.addons_off", FIRST, Old::Refuses),
    ("assignment.authorities", FIRST, Old::Refuses),
    ("assignment.authorities.cluster", FIRST, Old::Refuses),
    ("assignment.authorities.etcd", FIRST, Old::Refuses),
    ("assignment.authorities.front_proxy", FIRST, Old::Refuses),
    ("assignment.api", FIRST, Old::Refuses),
    ("assignment.api.host", FIRST, Old::Refuses),
    ("assignment.api.port", FIRST, Old::Refuses),
    ("assignment.api.shared", FIRST, Old::Refuses),
    ("assignment.api.extra_sans", FIRST, Old::Refuses),
    ("assignment.api.extra_args", FIRST, Old::Refuses),
    ("assignment.api.extra_args{}", FIRST, Old::Refuses),
    ("assignment.api.oidc", FIRST, Old::Refuses),
    ("assignment.api.oidc[].url", FIRST, Old::Refuses),
    ("assignment.api.oidc[].audiences", FIRST, Old::Refuses),
    ("assignment.api.oidc[].authority", FIRST, Old::Refuses),
    ("assignment.api.oidc[].username", FIRST, Old::Refuses),
    ("assignment.api.oidc[].username.claim", FIRST, Old::Refuses),
    ("assignment.api.oidc[].username.prefix", FIRST, Old::Refuses),
    ("assignment.api.oidc[].groups", FIRST, Old::Refuses),
    ("assignment.api.oidc[].groups.claim", FIRST, Old::Refuses),
    ("assignment.api.oidc[].groups.prefix", FIRST, Old::Refuses),
    ("assignment.api.oidc[].required_claims", FIRST, Old::Refuses),
    (
        "assignment.api.oidc[].required_claims{}",
        FIRST,
        Old::Refuses,
    ),
    ("assignment.api.pod_security", FIRST, Old::Refuses),
    ("assignment.api.pod_security.enforce", FIRST, Old::Refuses),
    ("assignment.api.pod_security.warn", FIRST, Old::Refuses),
    ("assignment.api.pod_security.audit", FIRST, Old::Refuses),
    ("assignment.api.pod_security.version", FIRST, Old::Refuses),
    (
        "assignment.api.pod_security.exempt_namespaces",
        FIRST,
        Old::Refuses,
    ),
    ("assignment.api.audit", FIRST, Old::Refuses),
    ("assignment.api.audit.off", FIRST, Old::Refuses),
    ("assignment.api.audit.keep_days", FIRST, Old::Refuses),
    ("assignment.network", FIRST, Old::Refuses),
    ("assignment.network.plugin", FIRST, Old::Refuses),
    ("assignment.network.pods_cidr", FIRST, Old::Refuses),
    ("assignment.network.services_cidr", FIRST, Old::Refuses),
    ("assignment.network.cluster_domain", FIRST, Old::Refuses),
    ("assignment.network.mtu", FIRST, Old::Refuses),
    ("assignment.network.peers", FIRST, Old::Refuses),
    ("assignment.network.peers[].node_ip", FIRST, Old::Refuses),
    ("assignment.network.peers[].pod_cidr", FIRST, Old::Refuses),
    ("assignment.network.policies", FIRST, Old::Refuses),
    ("assignment.network.load_balancer", FIRST, Old::Refuses),
    ("assignment.etcd", FIRST, Old::Refuses),
    ("assignment.etcd.members", FIRST, Old::Refuses),
    ("assignment.etcd.members[].host_id", FIRST, Old::Refuses),
    ("assignment.etcd.members[].ip", FIRST, Old::Refuses),
    ("assignment.etcd.members[].joins", FIRST, Old::Refuses),
    ("assignment.etcd.heartbeat_ms", FIRST, Old::Ignores),
    ("assignment.etcd.election_ms", FIRST, Old::Ignores),
    ("assignment.etcd.quota_bytes", FIRST, Old::Ignores),
    ("assignment.etcd.revoked", FIRST, Old::Refuses),
    ("assignment.etcd.backup", FIRST, Old::Ignores),
    ("assignment.etcd.backup.every_minutes", FIRST, Old::Ignores),
    ("assignment.etcd.backup.keep", FIRST, Old::Ignores),
    ("assignment.etcd.backup.max_bytes", FIRST, Old::Ignores),
    ("assignment.etcd.backup.dir", FIRST, Old::Ignores),
    (
        "assignment.etcd.backup.recovery_recipient",
        FIRST,
        Old::Ignores,
    ),
    (
        "assignment.etcd.backup.plane_recipient",
        FIRST,
        Old::Ignores,
    ),
    (
        "assignment.etcd.backup.drill_every_days",
        FIRST,
        Old::Ignores,
    ),
    ("assignment.etcd.backup.drill_key", FIRST, Old::Ignores),
    ("assignment.etcd.backup.archive", FIRST, Old::Ignores),
    ("assignment.etcd.backup.archive.target", FIRST, Old::Ignores),
    (
        "assignment.etcd.backup.archive.target.kind",
        FIRST,
        Old::Ignores,
    ),
    (
        "assignment.etcd.backup.archive.target.endpoint",
        FIRST,
        Old::Ignores,
    ),
    (
        "assignment.etcd.backup.archive.target.region",
        FIRST,
        Old::Ignores,
    ),
    (
        "assignment.etcd.backup.archive.target.bucket",
        FIRST,
        Old::Ignores,
    ),
    (
        "assignment.etcd.backup.archive.target.prefix",
        FIRST,
        Old::Ignores,
    ),
    (
        "assignment.etcd.backup.archive.target.path_style",
        FIRST,
        Old::Ignores,
    ),
    (
        "assignment.etcd.backup.archive.target.authority",
        FIRST,
        Old::Ignores,
    ),
    ("assignment.etcd.backup.archive.keep", FIRST, Old::Ignores),
    (
        "assignment.etcd.backup.archive.max_bytes",
        FIRST,
        Old::Ignores,
    ),
    ("assignment.etcd.gone", FIRST, Old::Refuses),
    ("assignment.etcd.gone[].host_id", FIRST, Old::Refuses),
    ("assignment.etcd.gone[].member_id", FIRST, Old::Refuses),
    ("assignment.etcd.restore", FIRST, Old::Refuses),
    ("assignment.etcd.restore.id", FIRST, Old::Refuses),
    ("assignment.etcd.restore.founder", FIRST, Old::Refuses),
    ("assignment.etcd.restore.masters", FIRST, Old::Refuses),
    ("assignment.etcd.restore.snapshot", FIRST, Old::Refuses),
    ("assignment.etcd.restore.recovery_key", FIRST, Old::Refuses),
    ("assignment.etcd.restore.any_cluster", FIRST, Old::Refuses),
    ("assignment.etcd.restore.go", FIRST, Old::Refuses),
    ("assignment.etcd.restore.unsigned", FIRST, Old::Refuses),
    ("assignment.etcd.backup_signers", FIRST, Old::Refuses),
    (
        "assignment.etcd.backup_signers[].host_id",
        FIRST,
        Old::Refuses,
    ),
    ("assignment.etcd.backup_signers[].key", FIRST, Old::Refuses),
    (
        "assignment.etcd.backup_signers[].key.id",
        FIRST,
        Old::Refuses,
    ),
    (
        "assignment.etcd.backup_signers[].key.public_key",
        FIRST,
        Old::Refuses,
    ),
    ("assignment.service_account_keys", FIRST, Old::Refuses),
    ("assignment.runtime", FIRST, Old::Refuses),
    ("assignment.runtime.cgroup_driver", FIRST, Old::Refuses),
    ("assignment.runtime.mirrors", FIRST, Old::Refuses),
    ("assignment.runtime.mirrors{}", FIRST, Old::Refuses),
    ("assignment.runtime.drop_ins", FIRST, Old::Refuses),
    ("assignment.runtime.cdi", FIRST, Old::Refuses),
    ("assignment.runtime.nri", FIRST, Old::Refuses),
    ("assignment.kubelet", FIRST, Old::Refuses),
    ("assignment.kubelet.max_pods", FIRST, Old::Refuses),
    ("assignment.kubelet.allow_swap", FIRST, Old::Refuses),
    ("assignment.kube_proxy", FIRST, Old::Refuses),
    ("assignment.kube_proxy.mode", FIRST, Old::Refuses),
    (
        "assignment.kube_proxy.node_port_networks",
        FIRST,
        Old::Refuses,
    ),
    ("assignment.kubelet.pods_swap", FIRST, Old::Refuses),
    ("assignment.kubelet.seccomp_unconfined", FIRST, Old::Refuses),
    ("assignment.kubelet.ids_per_pod", FIRST, Old::Refuses),
    ("assignment.allow_workloads_on_master", FIRST, Old::Refuses),
    ("assignment.feature_gates", FIRST, Old::Refuses),
    ("assignment.feature_gates{}", FIRST, Old::Refuses),
];

/// Maps whose keys are no fields.
const MAPS: &[&str] = &[
    "assignment.labels",
    "assignment.runtime.mirrors",
    "assignment.api.extra_args",
    "assignment.api.oidc[].required_claims",
    "assignment.feature_gates",
];

/// The agent version that a spec needs by what it uses; `None`: every one ever installed will do.
pub(super) fn needs_agent(spec: &Value) -> Option<String> {
    needed(spec, FIELDS)
}

fn needed(spec: &Value, fields: &[Field]) -> Option<String> {
    let first = version(FIRST)?;
    let used = used(spec);
    let must = |(path, since, old): &Field| {
        let must = *old == Old::Refuses && used.iter().any(|u| u == path);
        must.then(|| version(since)).flatten()
    };
    let newest: Option<Version> = fields.iter().filter_map(must).max();
    newest.filter(|v| *v > first).map(|v| v.to_string())
}

/// Paths of all fields that say something: what is empty asks for nothing.
fn used(spec: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(spec, "", &mut found);
    found.sort();
    found.dedup();
    found
}

fn walk(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) if MAPS.contains(&at) => {
            if !fields.is_empty() {
                found.push(format!("{at}{{}}"));
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if at.is_empty() { "" } else { "." };
                let path = format!("{at}{dot}{name}");
                let empty = match value {
                    Value::Null | Value::Bool(false) => true,
                    Value::Array(entries) => entries.is_empty(),
                    Value::Object(fields) => fields.is_empty(),
                    Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
                };
                if !empty {
                    walk(value, &path, found);
                    found.push(path);
                }
            }
        }
        Value::Array(entries) => {
            for entry in entries {
                walk(entry, &format!("{at}[]"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::MaintenanceOrder;
    use crate::model::{
        AfterDrain, ApiAudit, ApiSpec, ArchivePolicy, ArchiveTarget, Assignment, Authorities,
        BackupPolicy, BackupSigner, CgroupDriverChoice, ClaimSpec, ClusterId, Digest, DrainPolicy,
        EtcdGone, EtcdMember, EtcdSpec, Generation, HostId, KubeProxySpec, KubeletSpec,
        NetworkPeer, NetworkPlugin, NetworkPolicies, NetworkSpec, NodeSpec, NodeUid, OidcIssuer,
        OsOrder, OsReboot, PodSecurity, PodSecurityLevel, ProxyModeChoice, RestoreOrder, RollId,
        RuntimeSpec, SPEC_SCHEMA, Spec, StackRef, Timestamp, UpgradeOrder, UpgradeStage,
    };

    /// A spec that uses everything there is. No `..Default`: a new field has to be thought of.
    pub(in crate::model) fn everything() -> Spec {
        let ip = "10.1.2.3".parse().expect("ip");
        let pods = "10.20.1.0/24".parse().expect("net");
        // Always the same ones: documents made from this are compared with files.
        let cluster_id = ClusterId(uuid::Uuid::from_u128(2));
        let host_id = HostId(uuid::Uuid::from_u128(1));
        let pem = || "-----BEGIN CERTIFICATE-----\n".to_owned();
        Spec {
            schema: SPEC_SCHEMA,
            host_id,
            generation: Generation(1),
            issued_at: Timestamp::UNIX_EPOCH,
            assignment: Assignment::Master(Box::new(NodeSpec {
                host_id,
                cluster_id,
                cluster_name: "c".into(),
                node_name: "n1".parse().expect("name"),
                node_ip: ip,
                pod_cidr: pods,
                uid: Some(NodeUid::of(cluster_id, host_id, Timestamp::UNIX_EPOCH)),
                refused_uids: vec![NodeUid::of(cluster_id, host_id, Timestamp::MIN)],
                labels: [("a".to_owned(), "b".to_owned())].into(),
                stack: StackRef {
                    name: "s".into(),
                    version: "1".into(),
                    manifest: Digest::of(b"m"),
                },
                upgrade: Some(UpgradeOrder {
                    roll: RollId(uuid::Uuid::from_u128(4)),
                    stage: UpgradeStage::Prepare,
                    stack: StackRef {
                        name: "s".into(),
                        version: "2".into(),
                        manifest: Digest::of(b"n"),
                    },
                    drain: DrainPolicy {
                        timeout_s: 60,
                        then: AfterDrain::Force,
                    },
                    prove_s: 120,
                    probe: true,
                    os: Some(OsOrder {
                        reboot: OsReboot::Never,
                        within_s: 600,
                    }),
                }),
                addons: Some(StackRef {
                    name: "s".into(),
                    version: "3".into(),
                    manifest: Digest::of(b"o"),
                }),
                addons_off: vec!["metrics-server".into()],
                authorities: Authorities {
                    cluster: pem(),
                    etcd: pem(),
                    front_proxy: pem(),
                },
                api: ApiSpec {
                    host: "10.1.2.3".into(),
                    port: 6443,
                    extra_sans: vec!["x".into()],
                    extra_args: [("event-ttl".to_owned(), "2h".to_owned())].into(),
                    oidc: vec![OidcIssuer {
                        url: "https://login.example.com".into(),
                        audiences: vec!["kubernetes".into()],
                        authority: pem(),
                        username: ClaimSpec {
                            claim: "sub".into(),
                            prefix: "oidc:".into(),
                        },
                        groups: Some(ClaimSpec {
                            claim: "groups".into(),
                            prefix: "oidc:".into(),
                        }),
                        required_claims: [("hd".to_owned(), "example.com".to_owned())].into(),
                    }],
                    pod_security: PodSecurity {
                        enforce: PodSecurityLevel::Baseline,
                        warn: Some(PodSecurityLevel::Restricted),
                        audit: Some(PodSecurityLevel::Restricted),
                        version: Some("v1.36".into()),
                        exempt_namespaces: vec!["ci".into()],
                    },
                    audit: ApiAudit {
                        off: true,
                        keep_days: Some(90),
                    },
                    shared: true,
                },
                network: NetworkSpec {
                    plugin: NetworkPlugin::Bridge,
                    pods_cidr: "10.20.0.0/16".parse().expect("net"),
                    services_cidr: "10.21.0.0/16".parse().expect("net"),
                    cluster_domain: "cluster.local".into(),
                    mtu: Some(1400),
                    peers: vec![NetworkPeer {
                        node_ip: "10.1.2.4".parse().expect("ip"),
                        pod_cidr: "10.20.2.0/24".parse().expect("net"),
                    }],
                    policies: NetworkPolicies::On,
                    load_balancer: vec!["10.1.2.64/28".parse().expect("range")],
                },
                etcd: EtcdSpec {
                    members: vec![EtcdMember {
                        host_id,
                        ip,
                        joins: true,
                    }],
                    heartbeat_ms: Some(100),
                    election_ms: Some(1000),
                    quota_bytes: Some(4 << 30),
                    revoked: Some("r".into()),
                    backup: BackupPolicy {
                        every_minutes: 60,
                        keep: 24,
                        max_bytes: 1 << 30,
                        dir: Some("/mnt/backups".into()),
                        recovery_recipient: Some("age1qpz".into()),
                        plane_recipient: Some("age1qry".into()),
                        drill_every_days: 30,
                        drill_key: Some("/etc/pf9/root/drill.key".into()),
                        archive: Some(ArchivePolicy {
                            target: ArchiveTarget::S3 {
                                endpoint: "https://s3.example.com".into(),
                                region: "eu-1".into(),
                                bucket: "backups".into(),
                                prefix: "clusters".into(),
                                path_style: true,
                                authority: Some("/etc/pf9/s3.pem".into()),
                            },
                            keep: 7,
                            max_bytes: 1 << 30,
                        }),
                    },
                    gone: vec![EtcdGone {
                        host_id,
                        member_id: Some("8e9e05c52164694d".into()),
                    }],
                    restore: Some(RestoreOrder {
                        id: uuid::Uuid::from_u128(1),
                        founder: host_id,
                        masters: vec![host_id],
                        snapshot: "20261128T143000Z-r7".into(),
                        recovery_key: Some("/root/recovery.key".into()),
                        any_cluster: true,
                        unsigned: true,
                        go: true,
                    }),
                    backup_signers: vec![BackupSigner {
                        host_id,
                        key: crate::model::TrustedKey {
                            id: "0011223344556677".into(),
                            public_key: "a2V5".into(),
                        },
                    }],
                },
                service_account_keys: vec!["k".into()],
                runtime: RuntimeSpec {
                    cgroup_driver: CgroupDriverChoice::Systemd,
                    mirrors: [("docker.io".to_owned(), vec!["https://m".to_owned()])].into(),
                    drop_ins: Some("/etc/containerd/conf.d".into()),
                    cdi: true,
                    nri: true,
                },
                kubelet: KubeletSpec {
                    max_pods: 100,
                    allow_swap: true,
                    pods_swap: true,
                    seccomp_unconfined: true,
                    ids_per_pod: Some(65_536),
                },
                kube_proxy: KubeProxySpec {
                    mode: ProxyModeChoice::Nftables,
                    node_port_networks: vec![pods],
                },
                allow_workloads_on_master: true,
                feature_gates: [("NodeSwap".to_owned(), true)].into(),
            })),
            force: true,
            agent: Some(crate::model::agent::tests::spec()),
            maintenance: Some(MaintenanceOrder {
                id: uuid::Uuid::from_u128(5),
                for_s: 7200,
                reason: "reason".into(),
            }),
        }
    }

    #[test]
    fn every_field_of_a_spec_has_a_decision() {
        let spec = serde_json::to_value(everything()).expect("json");
        let used: BTreeSet<String> = used(&spec).into_iter().collect();
        let decided: BTreeSet<String> = FIELDS.iter().map(|f| f.0.to_owned()).collect();
        assert_eq!(
            used, decided,
            "each field of a spec stands in FIELDS with what an older agent does"
        );
        assert_eq!(FIELDS.len(), decided.len(), "and once");
        let known = FIELDS.iter().all(|f| version(f.1).is_some());
        assert!(known, "a version cannot be read");
    }

    #[test]
    fn a_spec_needs_what_it_uses_and_no_more() {
        let table = [
            ("a", FIRST, Old::Refuses),
            ("hint", "0.9", Old::Ignores),
            ("list[].x", "0.5", Old::Refuses),
            ("flag", "0.6.1", Old::Refuses),
        ];
        let needs = |text: &str| {
            let spec = serde_json::from_str(text).expect("json");
            needed(&spec, &table)
        };
        assert_eq!(
            needs(r#"{"a": 1, "hint": 2, "list": [], "flag": false}"#),
            None
        );
        let one = needs(r#"{"a": 1, "list": [{}, {"x": 1}]}"#);
        assert_eq!(one.as_deref(), Some("0.5.0"));
        let both = needs(r#"{"list": [{"x": 1}], "flag": true}"#);
        assert_eq!(both.as_deref(), Some("0.6.1"));
    }

    #[test]
    fn what_all_agents_can_do_needs_none() {
        let spec = everything();
        let document: Value =
            serde_json::from_slice(&spec.document().expect("document")).expect("json");
        assert_eq!(document, serde_json::to_value(spec).expect("json"));
    }
}
