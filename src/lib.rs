//! The node-side host agent of a SaaS-managed Kubernetes, and the stub of its management plane.
//!
//! Three daemons, one noun each: `comms` moves **bytes**, `hostagent` moves **documents**, `nodelet` makes **effects**.
//! The picture is in `docs/architecture.md`; which module may use which is the table in `tests/arch/arrows.rs`, from
//! which the picture below is made.
//!
//! ```text
//! model     ► nobody
//! tls       ► nobody
//! seam      ► nobody
//! wire      ► nobody
//! mux       ► wire
//! telemetry ► seam model
//! local     ► seam model tls telemetry
//! host      ► seam model telemetry
//! egress    ► model host telemetry
//! identity  ► seam model host egress tls telemetry
//! stack     ► seam model host telemetry
//! backup    ► seam model host egress telemetry
//! preflight ► model host telemetry
//! agent     ► seam model local host telemetry
//! os        ► seam model host telemetry
//! app       ► model mux host egress telemetry tls
//! comms     ► seam model wire mux local host egress identity app telemetry
//! hostagent ► seam model local host identity stack agent app telemetry
//! nodelet   ► seam model local host identity stack agent os egress backup app telemetry
//! cli       ► seam model agent os local host egress identity backup comms nodelet preflight app telemetry tls
//! plane     ► seam model wire mux host app telemetry stack tls
//! ```
//!
//! | to change | begin at |
//! |---|---|
//! | a flag or setting of kubelet, for all releases or one | `nodelet::phase` (`kubelet`, `version`) |
//! | a phase | `model::phase`, then `nodelet::phase`, and what it waits for: `nodelet::phase::order` |
//! | how often the status is sent | `hostagent` (`report`), `app` (`config`) |
//! | the reconnect back-off | `comms` (`endpoints`), `app` (`backoff`) |
//! | a check of the machine, e.g. of its resources | `preflight` (`table`, `resources`), its code and remedy: `model::fault_code::remedies` (`checks`) |
//! | an API call for operators, e.g. of clusters | `crates/plane` (`routes`, `access`, `qbert`) |

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
