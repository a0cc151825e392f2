//! BYTES: one outbound tunnel to the plane, and nothing that looks inside.
//!
//! ```text
//!  /run/pf9/plane.sock ──► gate ──► stream "host-api" ─┐
//!                                                      ├─► mux session ─► TLS 1.3 websocket ─► plane
//!  127.0.0.1:6443 … ◄── serve ◄── stream "kube-apiserver" ┘        ▲
//!                        │ allow-list (services.d), audit          │
//!                        ▼                                  link: dial, run, wait, again
//!                   audit.log                               status ──► /run/pf9/comms.sock
//! ```
//!
//! | file | does |
//! |---|---|
//! | `services` | reads the allow-list; refuses what others could have written |
//! | `backoff`  | when to try again: pure |
//! | `dial`     | the way out, TLS, websocket; each failure in words |
//! | `link`     | keeps one session up |
//! | `serve`    | streams from the plane to local services |
//! | `gate`     | local connections to the plane |
//! | `audit`    | one line per stream |
//! | `status`   | what `pf9ctl status` shows of the tunnel |

mod audit;
mod backoff;
mod dial;
mod gate;
mod link;
mod serve;
mod services;
mod status;

use std::sync::Arc;

pub use dial::{DialError, Route};
pub use services::{Service, Services, Target};

use crate::app::{Config, TaskGroup};
use crate::egress::Egress;
use crate::host::fs::HostFs;
use crate::identity::TlsPolicy;
use crate::model::{Fault, paths};
use audit::Audit;
use link::Link;
use status::StatusBoard;

/// Mode of our sockets: the group `pf9` may talk.
const SOCKET_MODE: u32 = 0o660;

/// Starts the tunnel's tasks.
pub async fn start(host: HostFs, config: Config, group: &mut TaskGroup) -> Result<(), Fault> {
    let services = Services::load(&host)?;
    tracing::info!(services = services.len(), "allow-list read");
    let egress = Egress::load(&host, &config.comms.proxy)?;
    let tls = TlsPolicy::load(&host, &config.comms.tls)?;
    let identity = crate::identity::load(&host, &tls)
        .map_err(|e| {
            Fault::new(
                "identity-damaged",
                "cannot start the tunnel",
                crate::telemetry::chain(&e),
            )
            .fix("run pf9ctl prep-node again with a new token")
        })?
        .ok_or_else(|| {
            Fault::new(
                "not-enrolled",
                "cannot start the tunnel",
                "this host is not enrolled",
            )
            .fix("run pf9ctl prep-node")
        })?;
    let board = Arc::new(StatusBoard::new());
    let audit = Arc::new(Audit::at(host.at(paths::LOG_DIR).join("comms/audit.log")));
    let link = Link::new(
        Route::new(identity, egress),
        config.comms,
        Arc::clone(&board),
    );

    let gate = local_socket(&host, paths::PLANE_SOCKET)?;
    let api = local_socket(&host, paths::COMMS_SOCKET)?;
    group.essential("gate", gate::run(gate, link.current(), group.shutdown()));
    group.essential(
        "status",
        status::serve(api, board, link.current(), group.shutdown()),
    );
    group.essential(
        "link",
        link.run(Arc::new(services), audit, group.shutdown()),
    );
    Ok(())
}

fn local_socket(host: &HostFs, path: &str) -> Result<tokio::net::UnixListener, Fault> {
    let at = host.at(path);
    crate::local::bind(&at, SOCKET_MODE).map_err(|e| {
        Fault::new(
            "socket",
            format!("cannot listen on {}", at.display()),
            e.to_string(),
        )
        .fix("see that /run/pf9 exists and belongs to group pf9 (systemd-tmpfiles --create)")
    })
}
