//! [`Step`]: the complete list of what this software can do to a machine.
//!
//! A step is a *desired fact with a way to get there*: "this file has this content", "this unit
//! runs with these inputs", "this probe answers". Phases are pure functions that list steps; the
//! host is asked which of them are already so ([`Observed`]); the plan is the rest, in order; the
//! runner applies each and looks again. So every step is idempotent by construction, a dry run is
//! exact, and removal is the list of artefacts read backwards.

pub mod table;
pub mod trial;

pub use table::{Proof, StepPart, Traits};
pub use trial::{Judge, TrialStep};

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::etcd::data::Held;
use crate::model::{
    CertPurpose, Digest, EtcdGone, EtcdMember, ProxyMode, REVOKED_LABEL, StackRef, pem_bytes,
};
use crate::os;

/// One desired fact. Closed on purpose: a reviewer reads this enum and knows every effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// A regular file has exactly this content, mode and owner.
    File(FileStep),
    /// A directory exists with this mode and owner. Its content is not looked at.
    Dir(DirStep),
    /// A symbolic link points there.
    Link {
        /// Where it is.
        path: String,
        /// What it says.
        target: String,
    },
    /// Nothing is at this path. Recursive; refused for what is not of the role
    /// ([`crate::host::ours::paths::of_the_role`]).
    Absent {
        /// What goes away.
        path: String,
    },
    /// A private key exists (made on the host, never leaves it) with a signing request beside it.
    Key {
        /// What for; says where.
        purpose: CertPurpose,
    },
    /// The service-account key pair of this master exists.
    ServiceAccountKey,
    /// The stack is unpacked and verified, beside the active one.
    Unpacked {
        /// Which.
        stack: StackRef,
    },
    /// A program of the unpacked stack takes the configuration it is going to be started with.
    Tried(TrialStep),
    /// The next etcd may have this master's data: the one that runs has made them ready for it.
    EtcdDataReady {
        /// The stack that it comes with: where that one is active, it has them.
        stack: StackRef,
        /// Its version.
        wants: semver::Version,
    },
    /// The stack is the active one.
    Stack {
        /// Which.
        stack: StackRef,
    },
    /// etcd's programs are those of this stack.
    EtcdStack {
        /// Which.
        stack: StackRef,
    },
    /// Every byte of the active stack is on the disk, after it was seen to be right.
    StackOnDisk {
        /// Which.
        stack: StackRef,
    },
    /// A kernel module is loaded or built in.
    Module {
        /// e.g. `br_netfilter`.
        name: String,
        /// A host without it is still fine (e.g. built-in functions without a module name).
        optional: bool,
    },
    /// A kernel parameter has this value now (files for the next boot are `File` steps).
    Sysctl {
        /// e.g. `net.ipv4.ip_forward`.
        key: String,
        /// e.g. `1`.
        value: String,
    },
    /// An image of the stack is in the runtime, namespace `k8s.io`.
    Image {
        /// Its reference.
        reference: String,
        /// The archive's path on the host.
        archive: String,
        /// Digest of the archive: a stack that was built again may call another image the same.
        #[serde(default)]
        bytes: Option<Digest>,
    },
    /// A systemd unit of ours is loaded, enabled, active, and was last started with these inputs.
    Unit(UnitStep),
    /// Something answers as it should.
    Probe(ProbeStep),
    /// An object is in the cluster and says at least this (server-side apply).
    Object {
        /// apiVersion, kind, metadata… as JSON.
        object: serde_json::Value,
    },
    /// Nothing of an add-on that we applied is in the cluster.
    AddonGone {
        /// Its name.
        addon: String,
        /// apiVersion, kind and metadata of its objects, in the order that they go.
        objects: Vec<serde_json::Value>,
    },
    /// The node is schedulable, unless a person cordoned it.
    Uncordon {
        /// Node name.
        node: String,
    },
    /// Pods are moved away (best effort, bounded) and the node is cordoned.
    Drain {
        /// Node name.
        node: String,
    },
    /// The other members of etcd no longer count on this one. Where it is the only one, that is so already; where they
    /// cannot do without it, nothing after it is done.
    EtcdMemberGone {
        /// This master's member.
        member: EtcdMember,
        /// Whatever the others lose by it; tried for a bounded time then.
        #[serde(default)]
        force: bool,
    },
    /// This master is a member of an etcd that was there before it, and the settings with which it
    /// starts say so. Asked of the others once: its data remember it.
    EtcdJoined {
        /// This master's member.
        member: EtcdMember,
        /// The file of those settings.
        settings: String,
    },
    /// This master founds etcd together with others, and none of them counts it as a started member: a master that they
    /// do count has lost its data, and joins.
    EtcdFounds {
        /// This master's member.
        member: EtcdMember,
        /// The file of the settings with which it starts.
        settings: String,
    },
    /// What this member of etcd is stands apart from its data.
    EtcdNoted,
    /// The others expect this master's member where it is: its machine's address may have changed.
    EtcdAddress {
        /// This master's member.
        member: EtcdMember,
    },
    /// None of these hosts has a member of etcd left. Done by the master whose member leads, by the member's id, one at
    /// a time, and only where the rest keeps a quorum.
    EtcdMemberOut {
        /// Hosts that are gone, as the plane says.
        gone: Vec<EtcdGone>,
    },
    /// The others count this member's vote: it has caught up with them.
    EtcdVotes {
        /// This master's member.
        member: EtcdMember,
    },
    /// A unit of ours is stopped, disabled and its file gone.
    UnitGone {
        /// e.g. `pf9-kubelet.service`.
        unit: String,
    },
    /// No container of ours runs; shims, mounts and network namespaces are gone.
    ContainersGone,
    /// Links, routes and packet-filter chains of ours are gone.
    NetworkGone {
        /// Links to delete.
        links: Vec<String>,
        /// Routes with this protocol number.
        routes: u8,
        /// Chain name prefixes to flush and delete, e.g. `KUBE-`, `CNI-`, `PF9-`.
        chains: Vec<String>,
        /// Names of tables of nftables, of any family.
        #[serde(default)]
        tables: Vec<String>,
        /// Name prefixes of sets of addresses.
        #[serde(default)]
        sets: Vec<String>,
    },
    /// Routes to the other nodes' pods, and the rules of the pod network, are in the kernel. Created once by a unit,
    /// which stays active when they are flushed.
    PodNetwork {
        /// The program that makes them, and knows whether the rules are there.
        script: String,
        /// Pods, and the node that they are on.
        routes: Vec<(IpNet, IpAddr)>,
    },
    /// Ports of the machine lead to their pods. The plugin creates them once, with the pod; a flush of the packet
    /// filter removes them permanently.
    HostPorts {
        /// The network's name.
        network: String,
        /// Where the plugins are.
        plugins: String,
    },
    /// flannel tunnels by the node's address. It reads that when it starts, and continues with the previous one where
    /// the machine's changed; kubelet restarts it.
    TunnelledBy {
        /// The node's address.
        ip: IpAddr,
    },
    /// kube-proxy's rules are in the packet filter: it looks for them itself, and only for some.
    ProxyRules {
        /// By what it works.
        by: ProxyMode,
        /// The cluster is of IPv6.
        v6: bool,
    },
    /// Nothing that kept network policies is left in the packet filter.
    PolicyRulesGone,
    /// Nothing of kube-proxy's is left in the packet filter that it does not use.
    ProxyRulesGone {
        /// What it does not use.
        of: ProxyMode,
    },
    /// This run of the distribution's package manager was started; its own unit finishes it.
    OsUpdate {
        /// Which.
        run: os::OsRun,
    },
    /// The machine was told to restart.
    Reboot {
        /// The boot that is to end.
        boot: String,
    },
}

/// A regular file.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct FileStep {
    /// Absolute path.
    pub path: String,
    /// What it holds. Configuration is text, so it is kept as text.
    pub content: String,
    /// How that stands in the file.
    #[serde(default, skip_serializing_if = "Encoding::is_text")]
    pub encoding: Encoding,
    /// Permission bits.
    pub mode: u32,
    /// `user:group`; `root:root` mostly.
    pub owner: String,
}

/// How a file's content stands in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// As it is.
    #[default]
    Text,
    /// The content is a list of revoked certificates in PEM, the file is its DER: the newer releases
    /// of Go, and so of etcd, read no other.
    RevokedDer,
}

/// A directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirStep {
    /// Absolute path.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// `user:group`.
    pub owner: String,
    /// Removed with everything in it when the role goes (data of the role), or kept when not empty.
    pub remove_with_content: bool,
}

/// A systemd unit of ours. Its file is a `File` step before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitStep {
    /// e.g. `pf9-kubelet.service`.
    pub unit: String,
    /// Digest over everything that makes a restart necessary when it changes (unit file, its
    /// configuration, its binary). Compared with what the ledger says it was last started with.
    pub inputs: Digest,
    /// Files (paths) whose repair makes a restart necessary although the inputs are the same:
    /// the process may have read the damaged text.
    pub restart_on: Vec<String>,
    /// `Type=oneshot`, `RemainAfterExit=yes`.
    pub oneshot: bool,
}

/// Something that must answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeStep {
    /// What is asked.
    pub probe: Probe,
    /// How long it may take to come true after the steps before it. Bounded by
    /// [`PROBE_WAIT_MAX`].
    pub within: Duration,
}

/// Longest a probe is waited for: etcd with a large database takes minutes, not more.
pub const PROBE_WAIT_MAX: Duration = Duration::from_secs(900);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "probe", rename_all = "kebab-case")]
pub enum Probe {
    /// The runtime answers on its socket.
    RuntimeReady,
    /// The runtime says of itself what its configuration means: pointers into what it calls its
    /// configuration (CRI `Status`), and values.
    RuntimeAsMeant {
        /// e.g. `/cni/binDirs`.
        meant: BTreeMap<String, serde_json::Value>,
    },
    /// The local etcd member is healthy (and has a leader).
    EtcdHealthy,
    /// The data of etcd are where they should be. Asked only where they are not: it holds etcd back.
    EtcdData {
        /// The problem and its remedies.
        held: Held,
    },
    /// `http://127.0.0.1:10248/healthz`.
    KubeletHealthy,
    /// `http://127.0.0.1:10256/healthz`.
    KubeProxyHealthy,
    /// `/readyz` or `/healthz` of this API server, by the given kubeconfig's identity.
    ApiHealthy {
        /// Base URL, e.g. `https://127.0.0.1:6443`.
        url: String,
    },
    /// A static pod is well, and the one whose manifest was written last: kubelet takes a while to replace
    /// the one before, which answers meanwhile.
    StaticPodCurrent {
        /// Its pod, as kubelet shows it in the API.
        pod: String,
        /// Digest of what it must be restarted for, as its annotation says.
        inputs: String,
    },
    /// The node object says Ready.
    NodeReady {
        /// Node name.
        node: String,
    },
    /// Swap is off.
    SwapOff,
    /// Nobody else listens on this TCP port (our own unit may).
    PortFree {
        /// The port.
        port: u16,
        /// The unit (of ours) that will use it.
        unit: String,
    },
    /// Any of these paths exists (a library or tool of the distribution).
    AnyPath {
        /// What it belongs to, for the message.
        package: String,
        /// Any of them is enough.
        paths: Vec<String>,
    },
}

/// What the host says about a step, or the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "seen", rename_all = "kebab-case")]
pub enum Observed {
    /// It is so.
    Same,
    /// It is not there at all.
    Missing,
    /// It is otherwise; says how, as text.
    Differs {
        /// e.g. `mode is 0600, not 0644`.
        how: String,
    },
    /// It cannot be done before something comes from elsewhere; says what. Not a failure: the plan
    /// ends there, and waits.
    Awaits {
        /// In words, e.g. `the plane's bindings for this master`.
        what: String,
    },
    /// It has to be done, but not now; says what has to change first. Not a failure, and nothing after it needs it: the
    /// rest of the plan is done meanwhile.
    Later {
        /// In words, e.g. `member m3 to answer: …`.
        what: String,
    },
    /// Could not tell; says why. Counts as not so.
    Unknown {
        /// The failure.
        why: String,
    },
}

// === impl Step ===

impl Step {
    /// Names the fact, independent of its value: two steps with the same key are about the same
    /// thing. Used in the snapshot, the ledger and the journal.
    pub fn key(&self) -> String {
        match self {
            Self::File(f) => format!("file:{}", f.path),
            Self::Dir(d) => format!("dir:{}", d.path),
            Self::Link { path, .. } => format!("link:{path}"),
            Self::Absent { path } => format!("absent:{path}"),
            Self::Key { purpose } => format!("key:{}", purpose.dir()),
            Self::ServiceAccountKey => "key:service-account".into(),
            Self::Unpacked { .. } => "unpacked".into(),
            Self::Tried(t) => format!("tried:{}", t.program),
            Self::EtcdDataReady { .. } => "etcd-data-ready".into(),
            Self::Stack { .. } => "stack".into(),
            Self::EtcdStack { .. } => "etcd-stack".into(),
            Self::StackOnDisk { .. } => "stack-on-disk".into(),
            Self::Module { name, .. } => format!("module:{name}"),
            Self::Sysctl { key, .. } => format!("sysctl:{key}"),
            Self::Image { reference, .. } => format!("image:{reference}"),
            Self::Unit(u) => format!("unit:{}", u.unit),
            Self::Probe(p) => format!("probe:{}", p.probe.word()),
            Self::Object { object } => {
                let text = |p: &str| object.pointer(p).and_then(|v| v.as_str()).unwrap_or("");
                format!(
                    "object:{}/{}/{}/{}",
                    text("/apiVersion"),
                    text("/kind"),
                    text("/metadata/namespace"),
                    text("/metadata/name")
                )
            }
            Self::AddonGone { addon, .. } => format!("addon-gone:{addon}"),
            Self::Uncordon { node } => format!("uncordon:{node}"),
            Self::Drain { node } => format!("drain:{node}"),
            Self::EtcdMemberGone { member, .. } => format!("etcd-member-gone:{}", member.host_id),
            Self::EtcdFounds { member, .. } => format!("etcd-founds:{}", member.host_id),
            Self::EtcdNoted => "etcd-noted".into(),
            Self::EtcdAddress { member } => format!("etcd-address:{}", member.host_id),
            Self::EtcdMemberOut { .. } => "etcd-member-out".into(),
            Self::EtcdJoined { member, .. } => format!("etcd-joined:{}", member.host_id),
            Self::EtcdVotes { member } => format!("etcd-votes:{}", member.host_id),
            Self::UnitGone { unit } => format!("unit-gone:{unit}"),
            Self::ContainersGone => "containers-gone".into(),
            Self::NetworkGone { .. } => "network-gone".into(),
            Self::PodNetwork { .. } => "pod-network".into(),
            Self::HostPorts { .. } => "host-ports".into(),
            Self::TunnelledBy { .. } => "tunnelled-by".into(),
            Self::ProxyRules { by, .. } => format!("proxy-rules:{by}"),
            Self::PolicyRulesGone => "policy-rules-gone".into(),
            Self::ProxyRulesGone { of } => format!("proxy-rules-gone:{of}"),
            Self::OsUpdate { .. } => "os-update".into(),
            Self::Reboot { .. } => "reboot".into(),
        }
    }
}

impl Probe {
    /// The unit whose state is part of the answer, if one is.
    pub fn unit(&self) -> Option<&str> {
        match self {
            Self::PortFree { unit, .. } => Some(unit),
            Self::RuntimeReady
            | Self::RuntimeAsMeant { .. }
            | Self::EtcdHealthy
            | Self::EtcdData { .. }
            | Self::KubeletHealthy
            | Self::KubeProxyHealthy
            | Self::ApiHealthy { .. }
            | Self::StaticPodCurrent { .. }
            | Self::NodeReady { .. }
            | Self::SwapOff
            | Self::AnyPath { .. } => None,
        }
    }

    /// The word in keys and messages.
    pub fn word(&self) -> String {
        match self {
            Self::RuntimeReady => "runtime-ready".into(),
            Self::RuntimeAsMeant { .. } => "runtime-as-meant".into(),
            Self::EtcdHealthy => "etcd-healthy".into(),
            Self::EtcdData { .. } => "etcd-data".into(),
            Self::KubeletHealthy => "kubelet-healthy".into(),
            Self::KubeProxyHealthy => "kube-proxy-healthy".into(),
            Self::ApiHealthy { url } => format!("api-healthy:{url}"),
            Self::StaticPodCurrent { pod, .. } => format!("static-pod-current:{pod}"),
            Self::NodeReady { node } => format!("node-ready:{node}"),
            Self::SwapOff => "swap-off".into(),
            Self::PortFree { port, .. } => format!("port-free:{port}"),
            Self::AnyPath { package, .. } => format!("has:{package}"),
        }
    }
}

impl FileStep {
    /// The bytes of the file; `None` when the content is not what its encoding says.
    pub fn bytes(&self) -> Option<Cow<'_, [u8]>> {
        match self.encoding {
            Encoding::Text => Some(Cow::Borrowed(self.content.as_bytes())),
            Encoding::RevokedDer => pem_bytes(&self.content, REVOKED_LABEL).map(Cow::Owned),
        }
    }
}

impl Encoding {
    fn is_text(&self) -> bool {
        *self == Self::Text
    }
}

impl std::fmt::Debug for FileStep {
    /// Shows the digest, never the content: a file may hold something private.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileStep")
            .field("path", &self.path)
            .field("sha256", &Digest::of(self.content.as_bytes()).short())
            .field("mode", &format_args!("{:04o}", self.mode))
            .field("owner", &self.owner)
            .finish()
    }
}
