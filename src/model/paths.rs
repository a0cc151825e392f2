//! Where things live on a node. Tests put another root in front of them (`host::fs`).

/// Main configuration.
pub const CONFIG: &str = "/etc/pf9/hostagent.toml";
/// More configuration, read in order of name.
pub const CONFIG_DIR: &str = "/etc/pf9/conf.d";
/// What `pf9ctl proxy set` writes; world-readable, so never a password.
pub const PROXY_CONFIG: &str = "/etc/pf9/conf.d/50-proxy.toml";
/// `user:password` of the proxy; owner pf9-comms, 0600.
pub const PROXY_CREDENTIALS: &str = "/etc/pf9/proxy-credentials";
/// Key and secret for the bucket that backups of etcd go to; root, 0600.
pub const ETCD_ARCHIVE_CREDENTIALS: &str = "/etc/pf9/etcd-archive-credentials";
/// `host_id = <uuid>`.
pub const HOST_ID: &str = "/etc/pf9/host_id.conf";
/// Private key of the tunnel identity; owner pf9-comms, 0400.
pub const HOST_KEY: &str = "/etc/pf9/certs/hostagent/key.pem";
/// Certificate of the tunnel identity.
pub const HOST_CERT: &str = "/etc/pf9/certs/hostagent/cert.pem";
/// The pair that is to follow, key and certificate in one file, until a connection has shown it.
pub const HOST_NEXT: &str = "/etc/pf9/certs/hostagent/next.pem";
/// Authorities of the plane's certificate.
pub const PLANE_CA: &str = "/etc/pf9/certs/ca/plane.pem";
/// Where to connect, as stored by enrolment: a JSON list of `wss://` URLs.
pub const ENDPOINTS: &str = "/etc/pf9/endpoints.json";
/// Pinned signing keys, one JSON [`super::TrustedKey`] a file; root's.
pub const TRUST_DIR: &str = "/etc/pf9/trust";
/// Which [`super::TrustDocument`] the pinned keys and the plane's authorities are of; root's.
pub const TRUST_VERSION: &str = "/etc/pf9/trust/version";
/// The machine this identity was made on, as salted digests; root's.
pub const MACHINE: &str = "/etc/pf9/machine.json";
/// What the machine is now, as root sees it; noted before comms starts.
pub const MACHINE_NOW: &str = "/run/pf9-machine.json";
/// What only root reads: 0700.
pub const ROOT_DIR: &str = "/etc/pf9/root";
/// The key that root of this host orders certificates with; 0600.
pub const ORDER_KEY: &str = "/etc/pf9/root/order-key.json";
/// Keys that were made to enrol with, each named after its host id, until the plane has taken or refused them; 0700.
pub const ORDER_KEYS_OFFERED: &str = "/etc/pf9/root/offered";
/// Tunnel allow-list; root's.
pub const SERVICES_DIR: &str = "/etc/pf9/services.d";
/// Certificates, kubeconfigs and manifests of the node.
pub const KUBE_DIR: &str = "/etc/pf9/kube.d";
/// Certificates of the node, see [`super::CertPurpose::dir`].
pub const KUBE_CERTS: &str = "/etc/pf9/kube.d/certs";
/// Private key of this master that signs service-account tokens (PKCS#8 PEM, ECDSA P-256).
pub const SERVICE_ACCOUNT_KEY: &str = "/etc/pf9/kube.d/certs/service-account/key.pem";
/// Its public half (PEM).
pub const SERVICE_ACCOUNT_PUBLIC: &str = "/etc/pf9/kube.d/certs/service-account/public.pem";
/// Name of a private key below `KUBE_CERTS/<dir>`.
pub const CERT_KEY_FILE: &str = "request.key";
/// Name of a certificate below `KUBE_CERTS/<dir>`.
pub const CERT_FILE: &str = "request.crt";
/// Name of a signing request below `KUBE_CERTS/<dir>`.
pub const CERT_CSR_FILE: &str = "request.csr";
/// Name of the issuing authority's certificate below `KUBE_CERTS/<dir>`.
pub const CERT_CA_FILE: &str = "ca.crt";

/// State of comms.
pub const COMMS_STATE: &str = "/var/opt/pf9/comms";
/// Session tickets by endpoint; comms'.
pub const TICKETS: &str = "/var/opt/pf9/comms/tickets.json";
/// State of hostagent: accepted spec, event spool.
pub const HOSTAGENT_STATE: &str = "/var/opt/pf9/hostagent";
/// Downloaded stacks: `<manifest digest>.manifest.json`, `<manifest digest>.tar.zst`.
pub const STAGING: &str = "/var/opt/pf9/hostagent/staging";
/// State of nodelet: accepted spec, ledger, manifest of what was installed.
pub const NODELET_STATE: &str = "/var/opt/pf9/nodelet";
/// The plane's word that this machine is a copy; while it is there nodelet changes nothing.
pub const HOLD: &str = "/var/opt/pf9/nodelet/hold.json";
/// Root's order that the role goes.
pub const LOCAL_ORDER: &str = "/var/opt/pf9/nodelet/local-none.json";
/// Plain snapshots of etcd while they are looked at; 0700, and empty between.
pub const ETCD_SCRATCH: &str = "/var/opt/pf9/nodelet/etcd-scratch";
/// The restore of etcd that is under way.
pub const RESTORE_RUN: &str = "/var/opt/pf9/nodelet/etcd-restore.json";
/// Sealed backups of etcd, unless the spec names another directory; 0700.
pub const ETCD_BACKUPS: &str = "/var/opt/pf9/etcd-backups";
/// JSON status with the keys operators' tools know.
pub const KUBE_STATUS: &str = "/var/opt/pf9/kube_status";
/// Operators' checks.
pub const CHECK_D: &str = "/etc/pf9/check.d";
/// Operators' facts for the inventory.
pub const INVENTORY_D: &str = "/etc/pf9/inventory.d";
/// Which operations of the plane root allows; absent: those that disturb nothing.
pub const OPERATIONS_ALLOWED: &str = "/etc/pf9/operations.toml";
/// Operations of the plane that were started here, and how they ended.
pub const OPERATIONS: &str = "/var/opt/pf9/nodelet/operations.json";
/// Root agreed that the plane may have logs of this host, once.
pub const LOGS_ONCE: &str = "/var/opt/pf9/nodelet/logs-once.json";
/// Certificates to sign again before they are due.
pub const ROTATE: &str = "/var/opt/pf9/nodelet/rotate.json";
/// The maintenance this host is in; readable for everybody.
pub const MAINTENANCE: &str = "/var/opt/pf9/maintenance.json";
/// Unpacked stacks.
pub const STACKS: &str = "/opt/pf9/stacks";
/// Symlink to the active stack.
pub const STACK_CURRENT: &str = "/opt/pf9/stacks/current";

/// Symlink to the stack that etcd's programs are of: mostly the active one.
pub const STACK_ETCD: &str = "/opt/pf9/stacks/etcd-current";

/// Versions of this software, each in a directory called after it: `bin`, `units`.
pub const AGENT_PROGRAMS: &str = "/opt/pf9/agent";
/// Symlink to the version that runs.
pub const AGENT_CURRENT: &str = "/opt/pf9/agent/current";
/// Symlink to the version that was proven on this machine last.
pub const AGENT_LAST_GOOD: &str = "/opt/pf9/agent/last-good";
/// Which version is tried, and how far: root's, and everybody may read it.
pub const AGENT_STATE: &str = "/var/opt/pf9/agent";
/// Downloaded packages of this software, by their SHA-256.
pub const AGENT_STAGING: &str = "/var/opt/pf9/hostagent/agent";

/// Logs.
pub const LOG_DIR: &str = "/var/log/pf9";
/// The story of the role.
pub const KUBE_LOG: &str = "/var/log/pf9/kube/kube.log";
/// The API server's audit on a master. Beside the other logs and apart from them: it names people, so only root may
/// read it, and nothing that is sent anywhere takes from it.
pub const API_AUDIT_DIR: &str = "/var/log/pf9/kube/audit";

/// Where the tunnel's connections end now, an address a line. Comms writes it; it is comms' word and no proof.
pub const TUNNEL_ENDS: &str = "/run/pf9/tunnel-ends";
/// HTTP to the plane, through the tunnel (comms listens).
pub const PLANE_SOCKET: &str = "/run/pf9/plane.sock";
/// comms' own API.
pub const COMMS_SOCKET: &str = "/run/pf9/comms.sock";
/// hostagent's own API.
pub const HOSTAGENT_SOCKET: &str = "/run/pf9/hostagent.sock";
/// nodelet's API (systemd listens).
pub const NODELET_SOCKET: &str = "/run/pf9/nodelet.sock";

/// Runtime state of the node's container runtime; its own, so that no other runtime is disturbed.
pub const CONTAINERD_SOCKET: &str = "/run/pf9-containerd/containerd.sock";
/// Data of the node's container runtime.
pub const CONTAINERD_ROOT: &str = "/var/lib/pf9/containerd";
/// Data of kubelet.
pub const KUBELET_ROOT: &str = "/var/lib/pf9/kubelet";
/// Data of etcd.
pub const ETCD_DATA: &str = "/var/lib/pf9/etcd";
/// Address records of the CNI plugins.
pub const CNI_STATE: &str = "/var/lib/pf9/cni";
/// CNI configuration.
pub const CNI_CONF: &str = "/etc/pf9/cni/net.d";

/// User and group of hostagent.
pub const USER_HOSTAGENT: &str = "pf9";
/// User of comms.
pub const USER_COMMS: &str = "pf9-comms";
/// Group that may talk on the local sockets.
pub const GROUP: &str = "pf9";
