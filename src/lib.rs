//! The node-side host agent of a SaaS-managed Kubernetes, and the stub of its management plane.
//!
//! Three daemons, one noun each: `comms` moves **bytes**, `hostagent` moves **documents**,
//! `nodelet` makes **effects**. The picture is in `docs/architecture.md`; who may use whom is the
//! table in `tests/arch.rs`.
//!
//! ```text
//! wire ◄── mux (crates/tunnel) ◄── comms ──► identity
//! model ◄── egress (the way out: DNS, proxy) ◄── comms, identity
//! model ◄── local (HTTP + JSON over Unix sockets) ◄── comms, hostagent, nodelet, cli
//! seam (calls to the kernel that may fail) ◄── telemetry, local, host and whoever uses host
//! model ◄── host ◄── nodelet, stack, hostagent, preflight, identity, backup
//! model, host, local ◄── agent (its own version) ◄── nodelet, hostagent, cli
//! model, host ◄── os (the distribution's updates) ◄── nodelet, cli
//! model, host, egress ◄── backup (etcd's snapshots, sealed) ◄── nodelet, cli
//! app, cli ──► everything above    plane ──► model, wire, mux, stack    nobody ──► app, cli, plane
//! ```

pub mod agent;
pub mod app;
pub mod backup;
pub mod cli;
pub mod comms;
pub mod egress;
pub mod host;
pub mod hostagent;
pub mod identity;
pub mod local;
pub mod model;
pub mod nodelet;
pub mod os;
pub mod preflight;
pub mod seam;
pub mod stack;
pub mod telemetry;
pub mod tls;

pub use pf9_tunnel::{mux, wire};

#[cfg(any(test, feature = "fault"))]
#[path = "../tests/support/sample.rs"]
mod sample;
