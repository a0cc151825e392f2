//! `/run/pf9/plane.sock`: a local connection becomes a stream to the plane's host API.

use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::mux::{self, Handle};
use crate::wire::{Class, Meta};

/// Connections at once: hostagent's long-poll, its calls and a download, times a margin.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection waits for the tunnel before it is closed; its caller tries again.
const TUNNEL_WAIT: Duration = Duration::from_secs(5);

pub(super) async fn run(
    listener: UnixListener,
    session: watch::Receiver<Option<Handle>>,
    shutdown: CancellationToken,
) {
    let mut running = JoinSet::new();
    loop {
        while running.try_join_next().is_some() {}
        tokio::select! {
            // cancel-safe: all are
            () = shutdown.cancelled() => return,
            _ = running.join_next(), if running.len() >= CONNECTIONS_MAX => {}
            accepted = listener.accept(), if running.len() < CONNECTIONS_MAX => match accepted {
                Ok((socket, _)) => {
                    running.spawn(carry(socket, session.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on plane.sock");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn carry(socket: UnixStream, mut session: watch::Receiver<Option<Handle>>) {
    let handle = {
        let up = tokio::time::timeout(TUNNEL_WAIT, session.wait_for(Option::is_some)).await;
        match up {
            Ok(Ok(handle)) => handle.clone(),
            Ok(Err(_)) | Err(_) => None,
        }
    };
    // Without a tunnel the connection is closed: its caller knows how to wait.
    let Some(handle) = handle else {
        return;
    };
    // Documents and downloads share this service; a download must not delay a key stroke.
    match handle.open(mux::HOST_API, Class::Bulk, Meta::new()) {
        Ok(stream) => {
            let (_, result) = mux::splice(stream, socket).await;
            if let Err(error) = result {
                tracing::debug!(%error, "connection to the plane ended early");
            }
        }
        Err(error) => tracing::debug!(%error, "cannot open a stream to the plane"),
    }
}
