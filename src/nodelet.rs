//! EFFECTS: turns a host into a node and keeps it one. The only part of this software that changes
//! a machine; it reaches no network but the node's own services.
//!
//! ```text
//! nodelet.sock ──► server ──► inbox (spec, signed, on disk) ──► engine
//!                                                                 │ one round
//!   context ─► phase::* (pure) ─► observe ─► plan (pure) ─► run ─► apply ─► ledger, journal
//!                                                                 │
//!                                     lifecycle (pure) ◄──────────┴──► status, kube_status, kube.log
//! ```
//!
//! | file | does |
//! |---|---|
//! | `server`    | the socket |
//! | `inbox`     | what it was told to do |
//! | `engine`    | the loop |
//! | `context`   | everything phases decide by |
//! | `phase`     | which steps a node consists of: pure |
//! | `step`      | the closed list of what can be done to a machine |
//! | `observe`   | asks the host about each step |
//! | `plan`      | what remains: pure |
//! | `check`     | one status check: these three, shown |
//! | `run`       | one step after the other, with intent and outcome |
//! | `apply`     | does a step |
//! | `removal`   | takes everything away again |
//! | `lifecycle` | ok, converging, retrying, failed: pure |
//! | `ledger`, `journal`, `store` | what was done, on disk |
//! | `certs`     | keys, requests, certificates |
//! | `peers`     | clients of the node's own services |
//! | `status`, `kube_status` | what is shown |
//! | `watch`     | files and processes that wake the loop |
//! | `owned`     | which paths are ours |
//! | `words`     | steps in plain words |

pub mod apply;
pub mod certs;
pub mod check;
pub mod context;
pub mod engine;
pub mod inbox;
pub mod journal;
pub mod kube_status;
pub mod ledger;
pub mod lifecycle;
pub mod observe;
pub mod owned;
pub mod peers;
pub mod phase;
pub mod plan;
pub mod removal;
#[cfg(test)]
mod rig;
pub mod run;
pub mod server;
pub mod status;
pub mod step;
pub mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod watch;
pub mod words;

use std::time::Duration;

use crate::app::{Config, TaskGroup};
use crate::host::Host;
use crate::host::fs::HostFs;
use crate::model::{Fault, Timestamp};

/// Puts nodelet's tasks into the group: the loop and the socket.
pub async fn start(fs: HostFs, config: Config, group: &mut TaskGroup) -> Result<(), Fault> {
    let host = Host::new(fs.clone());
    let listener = server::listener(&host)?;
    let (inbox, jobs) = inbox::Inbox::open(fs.clone(), Timestamp::now());
    let (board, status) = status::Board::new(&fs);
    let (wake, woken) = tokio::sync::watch::channel(0);
    let sweep = Duration::from_secs(config.nodelet.sweep_s);
    let shutdown = group.shutdown();
    let engine = engine::Engine::new(host.clone(), board, jobs, woken, shutdown.clone(), sweep)?;
    group.essential("engine", engine.run());
    let server = server::Server {
        host,
        inbox,
        status,
        wake,
    };
    group.essential("socket", server::serve(server, listener, shutdown));
    Ok(())
}
