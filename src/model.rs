//! Pure data that both sides speak: documents, names and the rules that bind them.
//!
//! No IO, no clock, no runtime: everything here is a value or a function of values.
//!
//! | file | holds |
//! |---|---|
//! | `ids`       | [`HostId`], [`ClusterId`], [`Generation`], [`Digest`], [`NodeName`] |
//! | `fault`     | [`Fault`]: what, why, what to do, next try; the same words everywhere |
//! | `fault_code` | [`FaultCode`]: every failure, with its word and its [`FaultKind`] |
//! | `secret`    | [`Secret`]: a value that no log can show |
//! | `envelope`  | [`Envelope`]: a signed document, [`TrustStore`], [`SigningKey`] |
//! | `document`  | which additions to a document an older reader may ignore, which it must refuse |
//! | `spec`      | [`Spec`]: the desired state of one host |
//! | `kube_proxy` | [`KubeProxySpec`], [`KubeProxyStatus`]: by what services are made, and why |
//! | `api_address` | [`ApiAddressStatus`]: the address that masters share |
//! | `etcd`      | [`EtcdStatus`], [`BackupPolicy`], [`BackupManifest`]: the cluster's memory and its backups; [`etcd::quorum`]: who may leave |
//! | `needs`     | which fields of a spec an older agent must not ignore |
//! | `accept`     | [`accept()`]: whether a spec is to be obeyed; asked by hostagent and by nodelet |
//! | `phase`     | [`PhaseId`]: names and order of the phases per role |
//! | `status`    | [`HostStatus`], [`NodeStatus`]: what was observed |
//! | `health`    | [`Health`]: how a machine is |
//! | `tunnel`    | [`TunnelStatus`], [`TunnelStreams`]: what comms says of itself |
//! | `stack`     | [`StackManifest`], [`StackRef`] |
//! | `os`        | [`OsOrder`], [`OsReport`]: the updates of a node's distribution |
//! | `upgrade`   | [`UpgradeOrder`], [`UpgradeStatus`]: one node's part in a roll |
//! | `agent`     | [`AgentSpec`], [`AgentStatus`]: which version of the agent a host is to run |
//! | `matrix`    | [`Matrix`]: which stacks and machines go together: tested, refused or untried |
//! | `authorities` | [`Authorities`]: which of them sign, which are trusted beside |
//! | `pki`       | [`CertPurpose`], [`CertProfile`]: who may have which certificate |
//! | `renewal`   | [`Life`], [`Expiry`]: when a certificate is due and what is said of it |
//! | `order`     | [`CertificateOrder`], [`FactsReport`], [`Enrolment`]: what root of a host signs |
//! | `taken`     | [`Taken`]: names and addresses that belong to others |
//! | `trust`     | [`TrustDocument`]: a host's trust anchors, and how they change |
//! | `machine`   | [`MachineMarks`]: what a copy of a machine does not share, and who is one |
//! | `api`       | bodies of the host API and of enrolment |
//! | `marks`     | how a node's role shows in the cluster |
//! | `paths`     | where things live on a node |

mod accept;
mod addon;
mod agent;
mod api;
mod api_address;
mod authorities;
mod backoff;
mod clash;
pub mod document;
mod envelope;
pub mod etcd;
mod extension;
mod fault;
mod fault_code;
#[cfg(test)]
pub(crate) mod golden;
mod health;
mod ids;
mod kube_proxy;
mod machine;
mod maintenance;
mod marks;
mod matrix;
mod needs;
mod operation;
mod order;
mod os;
pub mod paths;
mod phase;
mod pki;
mod renewal;
mod secret;
mod spec;
mod stack;
mod status;
mod taken;
mod trust;
mod tunnel;
mod upgrade;

pub use accept::*;
pub use addon::*;
pub use agent::*;
pub use api::*;
pub use api_address::*;
pub use authorities::*;
pub use backoff::{doubled, jittered};
pub use clash::{Ground, addresses_of, clash, names_of};
pub use envelope::*;
pub use etcd::*;
pub use extension::*;
pub use fault::*;
pub use fault_code::*;
pub use health::*;
pub use ids::*;
pub use kube_proxy::*;
pub use machine::*;
pub use maintenance::*;
pub use marks::*;
pub use matrix::{EtcdDemand, EtcdWay, Fit, Machine, Matrix, loose_version, newest_of};
pub use operation::*;
pub use order::*;
pub use os::*;
pub use phase::*;
pub use pki::*;
pub use renewal::*;
pub use secret::*;
pub use spec::*;
pub use stack::*;
pub use status::*;
pub use taken::*;
pub use trust::*;
pub use tunnel::*;
pub use upgrade::*;

pub use jiff::Timestamp;
