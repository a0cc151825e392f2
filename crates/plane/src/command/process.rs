//! The plane as a process: it runs until a signal. Its store can be put back while it does not run.

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::put;
use crate::bootstrap;
use crate::serve::{CONNECTIONS_MAX, ServeConfig, Server};
use pf9_hostagent::model::{Fault, FaultCode};

/// The store, the sockets, the log, and files being served.
const OTHER_DESCRIPTORS: usize = 1024;

/// Runs the plane until it is told to stop.
pub(super) async fn serve(config: ServeConfig) -> Result<(), Fault> {
    let cannot =
        |e: std::io::Error| Fault::new(FaultCode::PlaneStart, "cannot start", e.to_string());
    let mut term = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut int = signal(SignalKind::interrupt()).map_err(cannot)?;
    allow_descriptors();
    let mut asked = async || {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    };
    if config.etcd.is_some() {
        // While another plane holds the store this one waits, which is a healthy state.
        notify(sd_notify::NotifyState::Ready);
    }
    let server = tokio::select! {
        // cancel-safe: an interrupted start is abandoned
        started = Server::start(config) => started?,
        () = asked() => return Ok(()),
    };
    put(None, &format!("ready {}\n", server.public_url()))?;
    notify(sd_notify::NotifyState::Ready);
    let lost = tokio::select! {
        // cancel-safe: waits for signals only
        () = asked() => None,
        to = server.lost(), if !crate::mutant("seat-ends") => Some(to),
    };
    tracing::info!("stopping");
    notify(sd_notify::NotifyState::Stopping);
    server.stop_unless(asked()).await;
    match lost {
        None => Ok(()),
        // Memory may be older than the store: the next start reads the store again, and waits for its turn.
        Some(to) => {
            let why = format!("another plane has the store: {to}");
            let fault = Fault::new(FaultCode::PlaneStart, "the plane exited", why);
            Err(fault.fix("start it again: it stands by until the store is free"))
        }
    }
}

/// Descriptors of one connection: its own; and of one that another plane passes on, also that plane's and the near end.
const DESCRIPTORS_EACH: usize = 3;

/// The usual soft limit of 1024 is for programs that use select(2).
fn allow_descriptors() {
    let want = CONNECTIONS_MAX * DESCRIPTORS_EACH + OTHER_DESCRIPTORS;
    let want = u64::try_from(want).unwrap_or(u64::MAX);
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let to = want.min(hard).max(soft);
        setrlimit(Resource::RLIMIT_NOFILE, to, hard).map(|()| to)
    });
    match raised {
        Ok(have) if have < want => tracing::warn!(have, want, "the limit of open files is low"),
        Ok(_) => {}
        Err(why) => tracing::warn!(%why, "cannot raise the limit of open files"),
    }
}

fn notify(state: sd_notify::NotifyState<'_>) {
    // Without systemd there is nobody to notify.
    if let Err(e) = sd_notify::notify(&[state]) {
        tracing::debug!(why = %e, "systemd was not notified");
    }
}

/// Replaces the store with its earlier copy.
pub(super) fn put_back(dir: &Path) -> Result<(), Fault> {
    let kept = bootstrap::put_back(dir).map_err(|e| {
        let why = crate::refusal::chain(&e);
        let fault = Fault::new(FaultCode::PlaneStart, "the store is not restored", why);
        match e.fix() {
            Some(fix) => fault.fix(fix),
            None => fault.fix("stop the plane first, if it runs"),
        }
    })?;
    let kept = kept.display();
    put(
        None,
        &format!(
            "the earlier store is restored; the newer one is kept at {kept}\nstart the plane, then see pf9-plane \
             recover\n"
        ),
    )
}
