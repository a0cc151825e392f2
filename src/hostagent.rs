//! DOCUMENTS: the desired spec in, the observed status out. Runs nothing, changes nothing.
//!
//! ```text
//!             plane (through comms, /run/pf9/plane.sock)
//!   spec ▼      ▲ status, events, certificate orders      ▼ stacks, certificates
//! ┌─────────────────────────────────────────────────────────────────────────────┐
//! │ spec_poll ─► spec_store      report ◄── status (pure)       download ─► staging │
//! │        └──► board: one watch channel with everything known ◄── events ─► spool  │
//! │ deliver, watch_node, relay, facts    sample ─► inventory, health               │
//! └─────────────────────────────────────────────────────────────────────────────┘
//!   spec, certificates, wake ▼      ▲ node status
//!             nodelet (/run/pf9/nodelet.sock)
//! ```
//!
//! | file | task or value |
//! |---|---|
//! | `board`      | [`board::Gathered`]: what is known; every task writes its part and wakes on changes |
//! | `plane`      | calls to the plane; says once when it is away and once when it is back |
//! | `spec_store` | the accepted spec, and whether nodelet is needed, on disk |
//! | `spec_poll`  | task: long-poll, accept ([`crate::model::accept()`]), store |
//! | `deliver`    | task: the accepted spec to nodelet, at start at once, plane or not |
//! | `watch_node` | task: nodelet's status, only while nodelet is needed |
//! | `watch_tunnel` | task: when the tunnel's certificates end, as comms says |
//! | `relay`      | task: certificate requests and root's orders up, certificates down |
//! | `facts`      | task: root's signed facts about the machine, up when they change |
//! | `operations` | task: the plane's operations to nodelet, and their results back |
//! | `order`      | one order: a number from the plane, root's signature from nodelet |
//! | `download`   | task: stacks into the staging directory |
//! | `agent`      | tasks: packages of this software likewise; the progress of a change of its version |
//! | `fetch`      | one file from the plane, with resume |
//! | `trust`      | task: trust documents from the plane to nodelet |
//! | `status`     | the status document from the facts: pure |
//! | `report`     | task: sends it when it changes and at least once a period (`hostagent.status_s`: `app/config`) |
//! | `events`     | task: events to the spool and up; `spool` is the bounded store |
//! | `sample`     | task: samples the machine; `inventory`, `health`, `daemons` read it, `links` compares two looks |
//! | `api`        | `GET /v1/status` on the local socket |

mod agent;
mod api;
mod board;
mod daemons;
mod deliver;
mod download;
mod events;
mod facts;
mod fetch;
mod health;
mod inventory;
mod links;
mod metrics;
mod operations;
mod order;
mod plane;
mod relay;
mod report;
mod sample;
mod spec_poll;
mod spec_store;
mod spool;
#[cfg(any(test, feature = "fault"))]
pub use spool::testing as spool_testing;
mod status;
mod trust;
mod watch_node;
mod watch_tunnel;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::{Config, Progress, TaskGroup};
use crate::host::blocking;
use crate::host::fs::HostFs;
use crate::identity;
use crate::local::{self, Client, Policy};
use crate::model::{Fault, FaultCode, HostId, Timestamp, paths};

use board::GatheredBoard;
use events::Events;
use plane::Plane;
use spec_store::SpecStore;

/// What every task shares. Cheap to clone.
#[derive(Clone)]
struct Agent {
    fs: HostFs,
    host_id: HostId,
    boot_id: String,
    board: GatheredBoard,
    events: Events,
    plane: Plane,
    nodelet: Client,
    progress: Progress,
    stop: CancellationToken,
}

/// Puts the agent's tasks into the group. Fails when the host is not enrolled, or when its socket
/// cannot be made.
pub async fn start(fs: HostFs, config: Config, group: &mut TaskGroup) -> Result<(), Fault> {
    crate::host::temps::collect(&fs, crate::host::ours::paths::WRITTEN_BY_HOSTAGENT);
    let host_id = identity::host_id(&fs)
        .map_err(|e| e.fault("cannot start"))?
        .ok_or_else(|| {
            Fault::new(
                FaultCode::NotEnrolled,
                "cannot start",
                "this host is not enrolled",
            )
            .fix("run pf9ctl node prep with the plane's URL and a token")
        })?;
    let boot_id = inventory::boot_id(&fs);
    let store = SpecStore::new(fs.clone());
    let board = GatheredBoard::default();
    let (events, queue) = events::channel();
    let call = |e: local::LocalError| e.fault("cannot start");
    let agent = Agent {
        plane: Plane::new(Client::unix(fs.at(paths::PLANE_SOCKET)).map_err(call)?),
        nodelet: Client::unix(fs.at(paths::NODELET_SOCKET)).map_err(call)?,
        progress: group.progress(),
        stop: group.shutdown(),
        fs,
        host_id,
        boot_id,
        board,
        events,
    };
    take_up(&agent, &store);
    let listener = local::bind(&agent.fs.at(paths::HOSTAGENT_SOCKET), 0o660).map_err(|e| {
        Fault::new(FaultCode::LocalSocket, "cannot start", e.to_string())
            .fix("check /run/pf9: systemd-tmpfiles creates it")
    })?;

    agent.task(group, "spec", spec_poll::run);
    agent.task(group, "deliver", deliver::run);
    agent.task(group, "watch-node", watch_node::run);
    agent.task(group, "watch-tunnel", watch_tunnel::run);
    agent.task(group, "relay", relay::run);
    agent.task(group, "facts", facts::run);
    agent.task(group, "download", download::run);
    agent.task(group, "agent-version", agent::watch);
    agent.task(group, "agent-package", agent::fetch);
    agent.task(group, "trust", trust::run);
    agent.task(group, "sample", sample::run);
    agent.task(group, "operations", operations::run);
    let period = Duration::from_secs(config.hostagent.status_s);
    agent.task(group, "report", move |agent| report::run(agent, period));
    let queue = Arc::new(tokio::sync::Mutex::new(queue));
    group.restart("events", {
        let agent = agent.clone();
        move || events::run(agent.clone(), Arc::clone(&queue))
    });
    let stop = agent.stop.clone();
    group.essential("api", async move {
        let answer = move |request| api::answer(agent.clone(), request);
        local::serve(listener, Policy::default(), stop, answer).await;
    });
    Ok(())
}

/// The state of the last run: the accepted spec, and whether nodelet has anything of ours.
fn take_up(agent: &Agent, store: &SpecStore) {
    let loaded = match identity::trust(&agent.fs) {
        Ok(trust) => store.load(&trust, agent.host_id, agent.now()),
        Err(e) => spec_store::Loaded::nothing(e.fault("cannot read the last accepted spec")),
    };
    if !loaded.quarantined.is_empty() {
        let fault = loaded.fault.as_ref().filter(|_| loaded.is_new);
        spec_poll::tell_quarantined(&agent.events, &loaded.quarantined, fault);
    }
    if let Some(fault) = &loaded.fault {
        tracing::warn!(code = fault.code.word(), "{fault}");
        // What was quarantined just now is told of above. That there is no spec is seen by each start until one is stored.
        if !loaded.is_new {
            spec_poll::tell_unusable(&agent.events, fault);
        }
    } else if let Some(accepted) = &loaded.spec {
        spec_poll::tell_accepted(&agent.events, accepted);
    }
    let generation = loaded.spec.as_ref().map(|s| s.spec.generation);
    agent.board.update(|facts| {
        facts.nodelet_needed = store.nodelet_needed();
        facts.spec = loaded.spec.map(Arc::new);
    });
    let message = match generation {
        Some(generation) => format!("agent started with spec generation {generation}"),
        None => "agent started without a spec".to_owned(),
    };
    tracing::info!(host_id = %agent.host_id, "{message}");
    agent.events.emit("agent-started", message, None);
}

impl Agent {
    /// A task that ends at shutdown (everything it writes is atomic, so it may be cut anywhere)
    /// and is restarted when it fails.
    fn task<F, Fut>(&self, group: &mut TaskGroup, name: &'static str, run: F)
    where
        F: Fn(Self) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let agent = self.clone();
        group.restart(name, move || {
            let (stop, work) = (agent.stop.clone(), run(agent.clone()));
            async move {
                tokio::select! {
                    // cancel-safe: see above
                    () = stop.cancelled() => {}
                    () = work => {}
                }
            }
        });
    }

    /// The wall clock; pure code gets it as an argument.
    fn now(&self) -> Timestamp {
        crate::seam::clock::now()
    }

    /// The wall clock after `wait`, for people.
    fn later(&self, wait: Duration) -> Timestamp {
        let now = self.now();
        now.checked_add(wait).unwrap_or(now)
    }
}

/// Most bytes that the plane, nodelet and local callers can make this program hold, added up; the
/// unit's `MemoryMax` is more (`app::memory`).
#[cfg(test)]
pub(crate) fn memory_most() -> u64 {
    /// Those that take an answer in at the same time: spec, relay, watch-node, download, agent-package,
    /// deliver, report, events, operations.
    const TASKS: usize = 9;
    /// The program and its libraries, the spec in force twice, the machine's inventory.
    const BASE: usize = 48 * 1024 * 1024;
    let answers = TASKS * local::ANSWER_MAX;
    (answers + Policy::default().bytes_max() + BASE) as u64
}
