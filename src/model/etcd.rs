//! etcd, as plane and nodes speak of it. Pure data.
//!
//! | what | where it is |
//! |---|---|
//! | [`EtcdGone`] | [`EtcdSpec::gone`](super::EtcdSpec): whose member is to be taken out |
//! | [`quorum`]   | may a member leave, whose is taken out next |

mod gone;
pub mod quorum;

pub use gone::EtcdGone;
