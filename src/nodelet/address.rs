//! One address for a cluster's API, that its masters share: one of them has it at a time.
//!
//! ```text
//!  job (which node this is) ─► keeper ─► turn (pure) ─► lease in the cluster
//!                                │                         (this master's own API server)
//!                                ├─► the kernel: lent for seconds, lent again with each write
//!                                └─► neighbours: here it is
//! ```
//!
//! | file | does |
//! |---|---|
//! | `turn`   | whose turn it is: pure |
//! | `lease`  | the lease as an object of Kubernetes: pure |
//! | `keeper` | the task: asks, lends, announces |
//! | `words`  | what is wrong with it, for people: pure |
//!
//! The lease is written through the master's own API server. So the holder is a master whose API
//! server and etcd work, and one that cannot write gives it up before another may take it. While etcd
//! has no quorum no master has it: there is no API to reach then.
//!
//! Rejected: VRRP (keepalived), which many networks drop, which knows nothing of whether the API
//! answers, and whose package a node without internet does not have; and kube-vip, which is an image more
//! in every stack, with the rights of the node's root, for what is a lease and a command here.
//!
//! Before the loop stops this master's API server (another version of it, other settings, etcd restarted) it
//! asks for a [`Handover`]: the address is at another master's by then, and was away for a tenth of a second.
//!
//! What is left to chance: a virtual machine that was stopped as a whole and continues has its old address for at most
//! five seconds, until its first answer says otherwise. It announces nothing in that time, so neighbours go on to the
//! one that took over.

mod keeper;
mod lease;
mod turn;
mod words;

pub use keeper::{AddressKeeper, Handover, handover};
