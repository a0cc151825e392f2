//! The node-side host agent of a SaaS-managed Kubernetes, and the stub of its management plane.
//!
//! Three daemons, one noun each: `comms` moves **bytes**, `hostagent` moves **documents**,
//! `nodelet` makes **effects**. The picture is in `docs/architecture.md`; who may use whom
//! is the table in `tests/arch/arrows.rs`, from which the picture below is made.
//!
//! ```text
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
