//! EFFECTS: turns a host into a node and keeps it one. The only part of this software that changes
//! a machine; it reaches no network but the node's own services, and the bucket that backups go to.
//!
//! ```text
//! nodelet.sock ──► server ──► inbox (spec, signed, on disk) ──► job (pure) ──► engine
//!                                                                 │ one round
//!   context ─► phase::* (pure) ─► observe ─► plan (pure) ─► run ─► apply ─► ledger, journal
//!                                                                 │
//!                                     lifecycle (pure) ◄──────────┴──► status, kube_status, kube.log
//! ```
//!
//! | file | does |
//! |---|---|
//! | `server`    | the socket |
//! | `inbox`     | the desired spec: verified, stored |
//! | `trust`     | trust documents of the plane; whether this machine is a copy |
//! | `job`       | what is to be done, from the order and from what is installed: pure |
//! | `fit`       | whether the desired stack fits this machine |
//! | `engine`    | the loop |
//! | `maintenance` | whether changes are suspended |
//! | `misconfigured` | answers with the reason while the configuration is wrong |
//! | `context`   | what phases decide by |
//! | `phase`     | which steps a node consists of: pure |
//! | `step`      | the closed list of what can be done to a machine |
//! | `observe`   | asks the host about each step |
//! | `plan`      | what remains: pure |
//! | `check`     | one status check: observe, plan, show |
//! | `run`       | one step after the other, with intent and outcome |
//! | `apply`     | does a step |
//! | `trial`     | lets a program read its configuration before it is started with it |
//! | `removal`   | removes the node |
//! | `roll`      | this node's part in a roll: what comes next, and the way back |
//! | `lifecycle` | ok, converging, retrying, failed: pure |
//! | `ledger`, `journal` | what was done, on disk |
//! | `certs`     | keys, requests, certificates |
//! | `orders`    | root's signed orders of certificates to the plane |
//! | `etcd`      | this master's member of etcd: its data, backups, upkeep |
//! | `address`   | the address that masters share: which master has it, and that it is configured |
//! | `operations` | operations of the plane, each once, where root allows it |
//! | `extensions` | operators' own programs, at intervals |
//! | `rotate`    | certificates that are replaced before they are due |
//! | `pulse`     | probes the node's services; those that hang are killed |
//! | `peers`     | clients of the node's own services |
//! | `machine`   | limits of the machine that hurt a healthy node |
//! | `policies`  | settings of the spec that the machine cannot provide |
//! | `status`, `kube_status` | the status document |
//! | `watch`     | files and processes that wake the loop |
//! | `words`     | steps in plain words |

// A new kind of step, probe or artefact must be decided about everywhere.
#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm))]

pub mod address;
pub mod apply;
pub mod certs;
pub mod check;
pub mod context;
pub mod engine;
pub mod etcd;
pub mod extensions;
mod fit;
mod ground;
pub mod inbox;
pub mod job;
pub mod journal;
pub mod kube_status;
pub mod ledger;
pub mod lifecycle;
mod machine;
pub mod maintenance;
mod metrics;
pub mod misconfigured;
pub mod observe;
pub mod operations;
pub mod orders;
pub mod peers;
pub mod phase;
pub mod plan;
mod policies;
pub mod pulse;
pub mod removal;
#[cfg(test)]
mod rig;
pub mod roll;
mod rotate;
pub mod run;
pub mod server;
pub mod status;
pub mod step;
#[cfg(test)]
mod testing;
#[cfg(test)]
pub(crate) mod tests;
pub mod trial;
pub mod trust;
pub mod watch;
pub mod words;

use std::time::Duration;

use crate::app::{Config, TaskGroup};
use crate::egress::Egress;
use crate::host::Host;
use crate::host::fs::HostFs;
use crate::host::ours::paths::WRITTEN_BY_ROOT;
use crate::host::temps;
use crate::model::Fault;

/// Puts nodelet's tasks into the group: the loop and the socket. With a wrong configuration the
/// socket answers anyway and the loop begins when it is right; `[log]` counts from the next
/// start on.
pub async fn start(
    fs: HostFs,
    config: Result<Config, Fault>,
    group: &mut TaskGroup,
) -> Result<(), Fault> {
    temps::collect(&fs, WRITTEN_BY_ROOT);
    let host = Host::new(fs.clone());
    let listener = server::listener(&host)?;
    let (inbox, orders) = inbox::Inbox::open(fs.clone(), crate::seam::clock::now());
    let (mut board, status) = status::NodeBoard::new(&fs);
    board.watched(group.progress().beat("engine"));
    let (wake, woken) = tokio::sync::watch::channel(0);
    let shutdown = group.shutdown();
    let ledger = engine::ledger(&host, &mut board);
    let (job, working) = tokio::sync::watch::channel(job::decide(&orders.borrow(), &ledger.seen()));
    let (desk, orders_of_root) = etcd::desk();
    let way = egress(&fs, &config);
    let keeper = etcd::EtcdKeeper::new(
        host.clone(),
        working.clone(),
        board.etcd(),
        orders_of_root,
        group.progress().beat("etcd keeper"),
        shutdown.clone(),
        way.clone(),
    );
    group.essential("etcd keeper", keeper.run());
    let (handover, leaving) = address::handover();
    let address = address::AddressKeeper::new(
        host.clone(),
        working.clone(),
        board.address(),
        group.progress().beat("api address"),
        shutdown.clone(),
        leaving,
    );
    group.essential("api address", address.run());
    let pulse = pulse::PulseKeeper::new(
        host.clone(),
        working.clone(),
        board.pulse(),
        group.progress().beat("pulse"),
        shutdown.clone(),
    );
    group.essential("pulse", pulse.run());
    let extensions = extensions::run(
        fs.clone(),
        board.extensions(),
        group.progress().beat("extensions"),
        shutdown.clone(),
    );
    group.essential("extensions", extensions);
    let maintenance = maintenance::MaintenanceHandle::open(host.clone());
    let server = server::Server {
        host: host.clone(),
        maintenance: maintenance.clone(),
        inbox,
        job: working,
        status,
        wake,
        etcd: desk,
        operations: operations::OperationsHandle::open(fs.clone(), board.log_line()),
        progress: group.progress(),
    };
    group.essential("socket", server::serve(server, listener, shutdown.clone()));
    group.essential("engine", async move {
        let right = match config {
            Ok(config) => Some(config),
            Err(fault) => {
                misconfigured::until_right(&fs, &mut board, &orders, fault, &shutdown).await
            }
        };
        if let Some(config) = right {
            let sweep = Duration::from_secs(config.nodelet.sweep_s);
            let told = engine::Told {
                orders,
                wake: woken,
                maintenance,
                shutdown,
                handover,
            };
            let engine = engine::Engine::new(host, ledger, board, job, told, sweep, way);
            // On the heap: the loop with all its steps is larger than what a thread likes to carry.
            Box::pin(engine.run()).await;
        }
    });
    Ok(())
}

/// The way to what is outside: only the backup archive is.
fn egress(fs: &HostFs, config: &Result<Config, Fault>) -> Result<Egress, Fault> {
    let config = config.as_ref().map_err(Clone::clone)?;
    Egress::load(fs, &config.comms.proxy)
}

/// Most bytes that callers, the machine and the node's own services can make this program hold, and
/// its largest helper with it, added up; the unit's `MemoryMax` is more (`app::memory`).
#[cfg(test)]
pub(crate) fn memory_most() -> u64 {
    use crate::host::{etcd, exec, kube, mounts};

    const MIB: u64 = 1024 * 1024;
    /// The program and its libraries, the ledger, the spec in force and what phases make of it.
    const BASE: u64 = 48 * MIB;
    /// A document's body, parsed, and its payload, and that parsed.
    const DOCUMENT_COPIES: u64 = 3;
    /// The loop's look at the host, and that of who asks for a plan.
    const LOOKS: u64 = 2;
    /// Two programs of a stack that say their version: kubelet and kube-proxy hold 59 and 48 MiB then,
    /// most of it pages of their files. (`ctr images import` of the largest image: 30 MiB; it streams.
    /// `etcdutl` maps the snapshot it opens: pages of a file, which the kernel takes back.)
    const HELPER: u64 = 112 * MIB;
    /// The backup archive: a page of its listing, as text, and what is read from that; of a
    /// file a few pieces. (A fire drill's programs are in a scope of their own.)
    const ARCHIVE: u64 = 16 * MIB;
    let socket = server::policy(crate::local::Callers::ByMode);
    let look = mounts::MOUNTINFO_MAX + (exec::STDOUT_MAX + kube::ANSWER_MAX) as u64;
    let documents = DOCUMENT_COPIES * socket.bodies as u64;
    let unpacking = crate::stack::unpack::MEMORY as u64;
    // A backup: what is on its way, one piece that is put together, and what waits for the disk.
    let pieces = (crate::backup::take::WAITING + 2) * etcd::MESSAGE_MAX;
    let backup = (u64::from(etcd::WINDOW) + pieces as u64).max(ARCHIVE);
    // A restore brings one from the archive, while the keeper may copy others there.
    socket.bytes_max() as u64
        + documents
        + LOOKS * look
        + unpacking
        + backup
        + ARCHIVE
        + BASE
        + HELPER
}
