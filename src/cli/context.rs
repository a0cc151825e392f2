//! What every verb works with. Tests make one below a temporary root, with peers of their own.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::output::Output;
use crate::host::fs::{Found, HostFs};
use crate::host::units::Units;
use crate::identity::Owners;
use crate::local::{Client, LocalError};
use crate::model::{Fault, FaultCode, Timestamp, paths};

/// A daemon of ours answers from memory.
pub(super) const ASK: Duration = Duration::from_secs(5);

/// Why nobody answers there.
pub(super) const NO_HOST: &str = "this machine is not a host of a plane";
/// What makes it one.
pub(super) const MAKE_HOST: &str = "pf9ctl node prep --plane URL --token-file FILE";

/// Lives in memory only.
const LOCK: &str = "/run/pf9ctl.lock";

pub(super) use crate::host::ours::units::{
    AGENT as AGENT_UNITS, NODELET as NODELET_UNIT, ROLE as NODE_UNITS,
};

/// What every verb works with.
pub(super) struct CommandContext {
    /// The machine's files.
    pub(super) host: HostFs,
    /// Its systemd.
    pub(super) units: Units,
    /// Who owns the identity.
    pub(super) owners: Owners,
    /// The printer.
    pub(super) out: Output,
    /// Cancelled by a signal: end, and undo what was started.
    pub(super) stop: CancellationToken,
    /// Effective user id.
    pub(super) uid: u32,
    /// How often a wait looks again.
    pub(super) pause: Duration,
}

impl CommandContext {
    pub(super) fn new(root: &Path, out: Output) -> Self {
        let host = HostFs::new(root);
        Self {
            units: Units::new(host.clone()),
            host,
            owners: Owners::system(),
            out,
            stop: CancellationToken::new(),
            uid: nix::unistd::geteuid().as_raw(),
            pause: Duration::from_millis(250),
        }
    }

    /// The clock.
    pub(super) fn now(&self) -> Timestamp {
        crate::seam::clock::now()
    }

    /// A client of one of our sockets.
    pub(super) fn socket(&self, path: &str) -> Result<Client, LocalError> {
        Client::unix(self.host.at(path))
    }

    /// One question to one of our sockets.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        socket: &str,
        path: &str,
    ) -> Result<T, LocalError> {
        self.socket(socket)?.get(path, ASK).await
    }

    /// Only the administrator may do this.
    pub(super) fn need_root(&self, what: &str) -> Result<(), Fault> {
        match self.uid {
            0 => Ok(()),
            uid => Err(Fault::new(
                FaultCode::NotRoot,
                format!("cannot {what}"),
                format!("it needs root, this is user id {uid}"),
            )
            .fix("run it with sudo")),
        }
    }

    /// The failure to show: where no daemon answers because this machine is no host of a plane, that.
    pub(super) fn or_no_host(&self, fault: Fault) -> Fault {
        // Who may not look says what was seen.
        let is_none = matches!(self.host.found(paths::HOST_CERT), Ok(Found::Nothing));
        match fault.code == FaultCode::LocalUnreachable && is_none {
            true => Fault::new(FaultCode::NotPrepared, fault.what, NO_HOST).fix(MAKE_HOST),
            false => fault,
        }
    }

    /// Two runs at once would undo each other's work: held until the file is dropped.
    pub(super) fn lock(&self, what: &str) -> Result<File, Fault> {
        let path = self.host.at(LOCK);
        let busy = |why: &str| {
            let why = format!("{}: {why}", path.display());
            Fault::new(FaultCode::Busy, format!("cannot {what}"), why)
                .fix("wait until the other pf9ctl has finished")
        };
        let file = File::create(&path).map_err(|e| busy(&e.to_string()))?;
        file.try_lock().map_err(|e| busy(&e.to_string()))?;
        Ok(file)
    }

    /// Removes the lock's file: nothing of ours may be left.
    pub(super) fn unlock(&self) {
        // What is left of it is empty and gone with the next boot.
        drop(self.host.remove_file(LOCK));
    }

    /// A signal asked for the end.
    pub(super) fn interrupted(&self, what: &str) -> Fault {
        Fault::new(FaultCode::Interrupted, what, "interrupted by a signal")
    }
}
