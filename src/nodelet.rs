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
//! | `trust`     | whom to believe from now on; whether this machine is a copy |
//! | `engine`    | the loop |
//! | `misconfigured` | why the loop does not begin |
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
pub mod misconfigured;
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
pub mod trust;
pub mod watch;
pub mod words;

use std::time::Duration;

use crate::app::{Config, TaskGroup};
use crate::host::Host;
use crate::host::fs::HostFs;
use crate::model::{Fault, Timestamp};

/// Puts nodelet's tasks into the group: the loop and the socket. With a wrong configuration the
/// socket answers all the same and the loop begins when it is right; `[log]` counts from the next
/// start on.
pub async fn start(
    fs: HostFs,
    config: Result<Config, Fault>,
    group: &mut TaskGroup,
) -> Result<(), Fault> {
    let host = Host::new(fs.clone());
    let listener = server::listener(&host)?;
    let (inbox, jobs) = inbox::Inbox::open(fs.clone(), Timestamp::now());
    let (mut board, status) = status::Board::new(&fs);
    let (wake, woken) = tokio::sync::watch::channel(0);
    let shutdown = group.shutdown();
    let ledger = engine::ledger(&host, &board)?;
    let server = server::Server {
        host: host.clone(),
        inbox,
        status,
        wake,
    };
    group.essential("socket", server::serve(server, listener, shutdown.clone()));
    group.essential("engine", async move {
        let right = match config {
            Ok(config) => Some(config),
            Err(fault) => {
                misconfigured::until_right(&fs, &mut board, &jobs, fault, &shutdown).await
            }
        };
        if let Some(config) = right {
            let sweep = Duration::from_secs(config.nodelet.sweep_s);
            let engine = engine::Engine::new(host, ledger, board, jobs, woken, shutdown, sweep);
            engine.run().await;
        }
    });
    Ok(())
}
