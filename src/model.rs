//! Pure data that both sides speak: documents, names and the rules that bind them.
//!
//! No IO, no clock, no runtime: everything here is a value or a function of values.
//!
//! | file | holds |
//! |---|---|
//! | `ids`       | [`HostId`], [`ClusterId`], [`Generation`], [`Digest`], [`NodeName`] |
//! | `fault`     | [`Fault`]: what, why, what to do, next try; the same words everywhere |
//! | `secret`    | [`Secret`]: a value that no log can show |
//! | `envelope`  | [`Envelope`]: a signed document, [`TrustStore`], [`SigningKey`] |
//! | `spec`      | [`Spec`]: the desired state of one host |
//! | `phase`     | [`PhaseId`]: names and order of the phases per role |
//! | `status`    | [`HostStatus`], [`NodeStatus`]: what was observed |
//! | `tunnel`    | [`TunnelStatus`], [`TunnelStreams`]: what comms says of itself |
//! | `stack`     | [`StackManifest`], [`StackRef`] |
//! | `pki`       | [`CertPurpose`], [`CertProfile`]: who may have which certificate |
//! | `trust`     | [`TrustDocument`]: whom a host believes, and how that changes |
//! | `machine`   | [`MachineMarks`]: what a copy of a machine does not share, and who is one |
//! | `api`       | bodies of the host API and of enrolment |
//! | `paths`     | where things live on a node |

mod api;
mod envelope;
mod fault;
mod ids;
mod machine;
pub mod paths;
mod phase;
mod pki;
mod secret;
mod spec;
mod stack;
mod status;
mod trust;
mod tunnel;

pub use api::*;
pub use envelope::*;
pub use fault::*;
pub use ids::*;
pub use machine::*;
pub use phase::*;
pub use pki::*;
pub use secret::*;
pub use spec::*;
pub use stack::*;
pub use status::*;
pub use trust::*;
pub use tunnel::*;

pub use jiff::Timestamp;
