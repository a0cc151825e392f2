//! BYTES: one outbound tunnel to the plane, and nothing that looks inside.
//!
//! ```text
//!  /run/pf9/plane.sock ──► gate ──► stream "host-api" ─┐ sessions: which one
//!                                                      ├─► mux session ─► TLS 1.3 websocket ─► plane
//!  127.0.0.1:6443 … ◄── serve ◄── stream "kube-apiserver" ┘ (up to two, to different endpoints)
//!                        │ allow-list (services.d), audit          ▲
//!                        ▼                                  link: dial, run, wait, again
//!                   audit.log                               status ──► api ──► /run/pf9/comms.sock
//! ```
//!
//! | file | does |
//! |---|---|
//! | `services` | reads the allow-list; refuses what others could have written |
//! | `own`      | what this machine brings to a handshake: identity, marks, tickets |
//! | `tickets`  | session tickets, on disk |
//! | `dial`     | the way out, TLS, websocket; each failure in words |
//! | `endpoints` | which endpoint next, and when (the reconnect backoff): pure |
//! | `link`     | keeps the sessions up, one loop per slot |
//! | `session`  | one session from handshake to end, farewells included |
//! | `sessions` | those that are up; which takes the next stream |
//! | `ends`     | tells this machine's other daemons where the tunnel goes |
//! | `tcp`      | what the kernel knows of a connection |
//! | `serve`    | streams from the plane to local services |
//! | `local_tcp` | the connection to a service: a late write to it does not lose what it sent |
//! | `admit`    | who may ask, how many, how often: pure |
//! | `carry`    | a stream and its service joined; silence, byte counts |
//! | `gate`     | local connections to the plane |
//! | `audit`    | one line per stream |
//! | `renew`    | this host's own certificate: asked for, shown, taken over |
//! | `status`   | what is known of sessions and streams |
//! | `memory`   | what all of it may hold, added up |
//! | `metrics`  | the same for Prometheus: pure |
//! | `api`      | comms' own socket |

mod admit;
mod api;
mod audit;
mod carry;
mod dial;
mod endpoints;
mod ends;
mod gate;
mod link;
mod local_tcp;
#[cfg(test)]
pub(crate) mod memory;
mod metrics;
mod own;
mod renew;
mod serve;
mod services;
mod session;
mod sessions;
mod status;
mod tcp;
mod tickets;

use std::sync::Arc;

pub use dial::{Answered, DialError, TunnelRoute};
pub use services::{Service, Services, Target};

use crate::app::{Config, TaskGroup};
use crate::egress::Egress;
use crate::host::fs::HostFs;
use crate::model::{Fault, FaultCode, paths};
use api::Api;
use audit::Audit;
use link::Link;
use renew::Renewal;
use serve::Serve;
use sessions::Sessions;

/// Mode of our sockets: the group `pf9` may talk.
const SOCKET_MODE: u32 = 0o660;

/// Starts the tunnel's tasks.
pub async fn start(host: HostFs, config: Config, group: &mut TaskGroup) -> Result<(), Fault> {
    crate::host::temps::collect(&host, crate::host::ours::paths::WRITTEN_BY_COMMS);
    let services = Services::load(&host)?;
    tracing::info!(services = services.len(), "allow-list read");
    let egress = Egress::load(&host, &config.comms.proxy)?;
    let (tls, identity) = crate::identity::for_tunnel(&host, &config.comms.tls)?;
    let audit = Audit::at(host.at(paths::LOG_DIR).join("comms/audit.log"));
    let serve = Arc::new(Serve::new(services, audit));
    let sessions = Arc::new(Sessions::new(group.progress()));
    let link = Arc::new(Link::new(
        TunnelRoute::new(identity, egress).of_this_machine(host.clone(), tls.clone()),
        config.comms,
        Arc::clone(&sessions),
        Arc::clone(&serve),
    ));
    let renewal = Arc::new(Renewal {
        fs: host.clone(),
        policy: tls,
        link: Arc::clone(&link),
        sessions: Arc::clone(&sessions),
        board: link.board(),
    });

    let ends_of = Arc::clone(&sessions);
    let gate = local_socket(&host, paths::PLANE_SOCKET)?;
    let socket = local_socket(&host, paths::COMMS_SOCKET)?;
    let shutdown = group.shutdown();
    let counts = Arc::clone(&serve);
    group.essential("audit", async move { counts.audit.keep(shutdown).await });
    let api = Api {
        board: link.board(),
        sessions: Arc::clone(&sessions),
        serve,
        progress: group.progress(),
    };
    group.essential("gate", gate::run(gate, sessions, group.shutdown()));
    group.essential("api", api::run(socket, api, group.shutdown()));
    group.essential("link", link.run(group.shutdown()));
    let shutdown = group.shutdown();
    group.restart("ends", move || {
        ends::keep(host.clone(), Arc::clone(&ends_of), shutdown.clone())
    });
    let shutdown = group.shutdown();
    group.restart("renewal", move || {
        Arc::clone(&renewal).run(shutdown.clone())
    });
    Ok(())
}

fn local_socket(host: &HostFs, path: &str) -> Result<tokio::net::UnixListener, Fault> {
    let at = host.at(path);
    crate::local::bind(&at, SOCKET_MODE).map_err(|e| {
        Fault::new(
            FaultCode::Socket,
            format!("cannot listen on {}", at.display()),
            e.to_string(),
        )
        .fix("see that /run/pf9 exists and belongs to group pf9 (systemd-tmpfiles --create)")
    })
}
