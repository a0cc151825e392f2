//! Who this host is to the plane: id, key, certificate, trust anchors.
//!
//! ```text
//! token ─ enrol ─► HTTPS to the plane, whose chain must hold the CA the token names
//!                  └► Identity ─ save ─► /etc/pf9/{host_id.conf, certs/, trust/, endpoints.json}
//!                                            └► load (comms), trust (hostagent, nodelet), remove
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `material` | [`Identity`]: what enrolment yields, and the check that it belongs together |
//! | `enrol`    | [`enrol()`]: one call to the plane, every failure with its own code |
//! | `look`     | [`look()`]: whether a plane can be reached, before this host is one of its hosts |
//! | `pair`     | key and certificate in use, and the pair that is to follow: kept, taken over, dropped |
//! | `order_key` | [`order_key::OrderKey`]: what root orders with; never comms' or hostagent's |
//! | `verify`   | whose certificate is taken for the plane's: the one verifier of TLS |
//! | `trust`    | [`apply_trust`]: the host's new trust anchors; root's |
//! | `machine`  | [`look_at_machine`], and the machine this identity was made on |
//! | `policy`   | [`TlsPolicy`]: what `[comms.tls]` asks, for enrolment and tunnel alike |
//! | `store`    | [`save`], [`load`], [`trust()`], [`host_id`], [`remove`] |

mod enrol;
mod look;
mod machine;
mod material;
pub mod order_key;
mod pair;
mod policy;
mod store;
mod trust;
mod verify;

#[cfg(test)]
mod tests;

pub use enrol::{Distrust, EnrolError, EnrolOrder, SET_THE_CLOCK, early, enrol, not_believed};
pub use look::{ClockAnswer, look, look_at_clock};
pub use machine::{
    is_our_machine, look_at_machine, machine_fault, note_machine, pinned_machine, this_machine,
};
pub use material::Identity;
pub use pair::{NewKey, Pair, drop_next, keep_next, possession, settle, take_over};
pub use policy::TlsPolicy;
pub use store::{
    IdentityError, Owners, TunnelIdentity, believing_anew, certificate, for_tunnel, host_id, load,
    remove, save, trust, with, write_host_id,
};
pub use trust::{apply_trust, trust_status, trust_version};
