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
//! | `pinned`   | the TLS verifier that trusts exactly one certificate authority |
//! | `store`    | [`save`], [`load`], [`trust`], [`host_id`], [`remove`] |

mod enrol;
mod material;
mod pinned;
mod store;

#[cfg(test)]
mod tests;

pub use enrol::{EnrolError, EnrolOrder, enrol};
pub use material::Identity;
pub use store::{
    IdentityError, Owners, TunnelIdentity, host_id, load, remove, save, trust, write_host_id,
};
