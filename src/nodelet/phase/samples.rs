//! Contexts for tests: the samples from which `golden` writes `tests/golden/phases`.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::{AddonFile, CertificateSeen, DropIns, HostFacts, Material, PhaseContext};
use crate::host::net::Nftables;
use crate::model::*;

/// Every sample's time.
fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 365 * 50)
}

pub(in crate::nodelet) fn host(n: u8) -> HostId {
    HostId(Uuid::from_bytes([n; 16]))
}

/// What a node's certificates say since the `n`th time that a host became one.
pub(super) fn uid(n: u8) -> NodeUid {
    NodeUid::of(ClusterId(Uuid::nil()), host(n), now())
}

pub(in crate::nodelet) fn pem(word: &str) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{word}\n-----END CERTIFICATE-----\n")
}

/// A list of revoked certificates, as far as files go.
pub(super) fn revoked() -> String {
    format!("-----BEGIN {REVOKED_LABEL}-----\nAf/+\n-----END {REVOKED_LABEL}-----\n")
}

/// An issuer of users.
pub(super) fn issuer() -> OidcIssuer {
    let claim = |claim: &str| ClaimSpec {
        claim: claim.into(),
        prefix: "oidc:".into(),
    };
    OidcIssuer {
        url: "https://login.example.com/realms/ops".into(),
        audiences: vec!["kubernetes".into(), "kubectl".into()],
        authority: pem("issuer"),
        username: claim("sub"),
        groups: Some(claim("groups")),
        required_claims: BTreeMap::from([("hd".into(), "example.com".into())]),
    }
}

/// A single master of a bridge cluster on a restricted host with control groups of version 1.
pub(in crate::nodelet) fn master(kubernetes: &str) -> PhaseContext {
    let node = node("master-1", "10.99.0.11", "10.244.0.0/24", kubernetes);
    sample(Role::Master, node, kubernetes)
}

/// Its worker.
pub(in crate::nodelet) fn worker(kubernetes: &str) -> PhaseContext {
    let mut node = node("worker-1", "10.99.0.51", "10.244.1.0/24", kubernetes);
    node.etcd = EtcdSpec::default();
    node.network.peers = vec![peer("10.99.0.11", "10.244.0.0/24")];
    sample(Role::Worker, node, kubernetes)
}

pub(in crate::nodelet) fn peer(node_ip: &str, pod_cidr: &str) -> NetworkPeer {
    NetworkPeer {
        node_ip: node_ip.parse().expect("address"),
        pod_cidr: pod_cidr.parse().expect("network"),
    }
}

/// An ordinary server: version 2, systemd in charge, nothing restricted.
pub(in crate::nodelet) fn ordinary(mut ctx: PhaseContext) -> PhaseContext {
    ctx.facts.cgroup_v2 = true;
    ctx.facts.systemd_cgroups = true;
    ctx.facts.can_lower_oom_score = true;
    ctx.facts.conntrack_tunable = true;
    ctx.facts.kernel_modules = true;
    ctx.facts.nftables = Nftables::Works {
        kernel: "6.1.0-40-amd64".into(),
    };
    ctx
}

fn sample(role: Role, node: NodeSpec, kubernetes: &str) -> PhaseContext {
    let material = CertPurpose::ALL
        .iter()
        .filter(|p| p.applies_to(role))
        .map(|p| (*p, material(*p)))
        .collect();
    PhaseContext {
        host_id: host(1),
        role,
        node,
        facts: HostFacts {
            cgroup_v2: false,
            systemd_cgroups: false,
            can_lower_oom_score: false,
            os_id: "debian".into(),
            mtu: Some(1500),
            interface: Some("eth0".into()),
            resolv_conf: "/etc/resolv.conf".into(),
            cpus: 2,
            conntrack_tunable: false,
            kernel_modules: false,
            nftables: Nftables::Lacking {
                why: "there is no program nft (package nftables)".into(),
            },
            client_manifests: false,
        },
        manifest: Some(manifest(kubernetes)),
        stack_at_hand: true,
        material,
        authorities: Vec::new(),
        drop_ins: DropIns::default(),
        etcd: Default::default(),
        service_account_key: (role == Role::Master)
            .then(|| "-----BEGIN PUBLIC KEY-----\nown\n-----END PUBLIC KEY-----\n".into()),
        etcd_of: None,
        cordoned: false,
        rotate: Default::default(),
        addons: match role {
            Role::Master => coredns(),
            Role::Worker | Role::None => Vec::new(),
        },
        now: now(),
    }
}

/// The add-on that `scripts/stack upstream` puts into a stack.
fn coredns() -> Vec<AddonFile> {
    let text = include_str!("../../../scripts/addons/05-coredns.yaml");
    let text = text.replace("@COREDNS@", "pf9.local/coredns:v1.14.7");
    vec![addon("addons/05-coredns.yaml", &text)]
}

fn addon(path: &str, text: &str) -> AddonFile {
    AddonFile {
        path: path.into(),
        objects: serde_saphyr::from_multiple(text).expect("YAML"),
    }
}

/// The context of a cluster whose network is flannel, and whose stack has it.
pub(in crate::nodelet) fn with_flannel(ctx: PhaseContext) -> PhaseContext {
    let mut ctx = with_addons(ctx);
    ctx.node.network.plugin = NetworkPlugin::Flannel;
    ctx
}

/// The context of a cluster whose network is calico, and whose stack has it.
pub(in crate::nodelet) fn with_calico(ctx: PhaseContext) -> PhaseContext {
    let mut ctx = with_addons(ctx);
    ctx.node.network.plugin = NetworkPlugin::Calico;
    ctx
}

/// With the add-ons that are settings of a cluster, and a pool of addresses.
pub(in crate::nodelet) fn with_addons(mut ctx: PhaseContext) -> PhaseContext {
    let files = [
        (
            "addons/30-network-policies.yaml",
            include_str!("../../../scripts/addons/30-network-policies.yaml"),
        ),
        (
            "addons/40-load-balancer.yaml",
            include_str!("../../../scripts/addons/40-load-balancer.yaml"),
        ),
        (
            "addons/50-calico.yaml",
            include_str!("../../../scripts/addons/50-calico.yaml"),
        ),
    ];
    let manifest = ctx.manifest.as_mut().expect("manifest");
    for addon in Addon::ALL {
        manifest
            .images
            .extend(addon.components().iter().map(|name| StackImage {
                reference: format!("pf9.local/{name}:v1"),
                path: format!("images/{name}.tar"),
                component: (*name).into(),
                roles: vec![Role::Master, Role::Worker],
            }));
    }
    for (path, text) in files {
        manifest.addons.push(path.into());
        if ctx.role != Role::Master {
            continue;
        }
        let mut text = text.to_owned();
        for (word, name) in [
            ("@KUBE_ROUTER@", "kube-router"),
            ("@METALLB_CONTROLLER@", "metallb-controller"),
            ("@METALLB_SPEAKER@", "metallb-speaker"),
            ("@CALICO_NODE@", "calico-node"),
            ("@CALICO_CNI@", "calico-cni"),
            ("@CALICO_KUBE_CONTROLLERS@", "calico-kube-controllers"),
        ] {
            text = text.replace(word, &format!("pf9.local/{name}:v1"));
        }
        ctx.addons.push(addon(path, &text));
    }
    ctx.node.network.load_balancer = vec![
        "10.99.0.200-10.99.0.209".parse().expect("range"),
        "10.99.1.0/28".parse().expect("range"),
    ];
    ctx
}

fn material(purpose: CertPurpose) -> Material {
    Material {
        request: Some(CertificateRequest {
            purpose,
            csr: format!("csr of {}", purpose.dir()),
        }),
        certificate: Some(CertificateSeen {
            digest: Digest::of(purpose.dir().as_bytes()),
            not_before: now() - SignedDuration::from_hours(24),
            not_after: now() + SignedDuration::from_hours(24 * 300),
            own: Digest::of(purpose.dir().as_bytes()),
            issuer: Digest::of(b"authority"),
        }),
    }
}

fn node(name: &str, ip: &str, pods: &str, kubernetes: &str) -> NodeSpec {
    NodeSpec {
        host_id: host(1),
        cluster_id: ClusterId(Uuid::from_bytes([0xc1; 16])),
        cluster_name: "demo".into(),
        node_name: name.parse().expect("name"),
        node_ip: ip.parse().expect("address"),
        pod_cidr: pods.parse().expect("network"),
        uid: Some(uid(1)),
        refused_uids: Vec::new(),
        labels: BTreeMap::from([("example.com/rack".into(), "r1".into())]),
        upgrade: None,
        addons: None,
        addons_off: Vec::new(),
        stack: StackRef {
            name: "pf9-kube".into(),
            version: format!("{kubernetes}-1"),
            manifest: Digest::of(kubernetes.as_bytes()),
        },
        authorities: Authorities {
            cluster: pem("cluster"),
            etcd: pem("etcd"),
            front_proxy: pem("front-proxy"),
        },
        api: ApiSpec {
            host: "10.99.0.11".into(),
            port: 6443,
            extra_sans: Vec::new(),
            shared: false,
            extra_args: BTreeMap::new(),
            oidc: Vec::new(),
            pod_security: Default::default(),
            audit: Default::default(),
        },
        network: NetworkSpec {
            plugin: NetworkPlugin::Bridge,
            pods_cidr: "10.244.0.0/16".parse().expect("network"),
            services_cidr: "10.96.0.0/16".parse().expect("network"),
            cluster_domain: "cluster.local".into(),
            mtu: None,
            peers: vec![peer("10.99.0.51", "10.244.1.0/24")],
            policies: Default::default(),
            load_balancer: Vec::new(),
        },
        etcd: EtcdSpec {
            members: vec![EtcdMember {
                host_id: host(1),
                ip: ip.parse().expect("address"),
                joins: false,
            }],
            heartbeat_ms: None,
            quota_bytes: None,
            election_ms: None,
            revoked: None,
            backup: Default::default(),
            restore: None,
            gone: Vec::new(),
            backup_signers: Vec::new(),
        },
        service_account_keys: Vec::new(),
        runtime: RuntimeSpec::default(),
        kubelet: KubeletSpec::default(),
        kube_proxy: KubeProxySpec::default(),
        allow_workloads_on_master: false,
        feature_gates: BTreeMap::new(),
    }
}

/// A stack of the components that belong to a release of Kubernetes.
pub(in crate::nodelet) fn manifest(kubernetes: &str) -> StackManifest {
    let version: semver::Version = kubernetes.parse().expect("version");
    let (containerd, etcd) = match version.minor {
        0..=34 => ("2.2.9", "3.6.16"),
        35 | 36 => ("2.3.7", "3.6.16"),
        37.. => ("2.4.2", "3.7.3"),
    };
    let both = vec![Role::Master, Role::Worker];
    let image = |component: &str, tag: &str, roles: &[Role]| StackImage {
        reference: format!("pf9.local/{component}:{tag}"),
        path: format!("images/{component}.tar"),
        component: component.into(),
        roles: roles.to_vec(),
    };
    let tag = format!("v{kubernetes}");
    let files = [
        "addons/10-x.yaml",
        "bin/containerd",
        "bin/etcd",
        "bin/kube-proxy",
        "bin/kubelet",
        "bin/runc",
        "cni/bridge",
        "cni/host-local",
        "cni/loopback",
        "cni/portmap",
    ];
    StackManifest {
        schema: STACK_SCHEMA,
        name: "pf9-kube".into(),
        version: format!("{kubernetes}-1"),
        kubernetes: version,
        arch: "amd64".into(),
        archive: StackArchive {
            sha256: Digest::of(b"archive"),
            size: 1,
        },
        components: [("containerd", containerd), ("etcd", etcd)]
            .map(|(name, version)| StackComponent {
                name: name.into(),
                version: version.into(),
            })
            .into(),
        files: files
            .map(|path| StackFile {
                path: path.into(),
                mode: 0o755,
                sha256: Digest::of(format!("{path} {kubernetes}").as_bytes()),
                size: 1,
                component: "x".into(),
            })
            .into(),
        images: vec![
            image("pause", "3.10.2", &both),
            image("kube-apiserver", &tag, &[Role::Master]),
            image("kube-controller-manager", &tag, &[Role::Master]),
            image("kube-scheduler", &tag, &[Role::Master]),
        ],
        addons: vec!["addons/10-x.yaml".into()],
        security: false,
        requires: vec![StackRequirement {
            package: "iptables".into(),
            any_of: vec!["/usr/sbin/iptables".into(), "/sbin/iptables".into()],
        }],
    }
}
