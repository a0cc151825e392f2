//! A backup that only the archive has, brought here for as long as it is looked at. Nothing of it stays.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::context::CommandContext;
use crate::app::Config;
use crate::backup::archive::{self, Archive, ArchiveError};
use crate::backup::seal::Sealed;
use crate::backup::shelf::SEALED;
use crate::egress::Egress;
use crate::host::fs::{Attrs, HostFs};
use crate::host::space;
use crate::model::{
    ArchivePolicy, BackupTrust, BelievedManifest, EtcdView, Fault, FaultCode, HostId, paths,
};
use crate::telemetry::chain;

const WHAT: &str = "no backup was verified";
/// A few hundred short questions at most.
const FIND_MAX: Duration = Duration::from_secs(5 * 60);

/// What was brought; goes with the value.
pub(super) struct Brought {
    pub(super) believed: BelievedManifest,
    pub(super) sealed: PathBuf,
    /// Where it was.
    pub(super) from: String,
    fs: HostFs,
}

impl Drop for Brought {
    fn drop(&mut self) {
        clear(&self.fs);
    }
}

fn dir() -> String {
    format!("{}/brought", paths::ETCD_SCRATCH)
}

/// Also what one left that was killed.
fn clear(fs: &HostFs) {
    // What cannot be removed is tried again by the next one.
    drop(fs.remove_tree(dir()));
}

impl Brought {
    pub(super) async fn bring(
        ctx: &CommandContext,
        view: &EtcdView,
        second: &ArchivePolicy,
        name: &str,
        trust: &BackupTrust,
    ) -> Result<Self, Fault> {
        let fs = &ctx.host;
        let egress = egress(fs)?;
        let fails = |error: ArchiveError| error.fault(&second.target, WHAT);
        let cluster = view
            .cluster_id
            .ok_or_else(|| Fault::new(FaultCode::NoMaster, WHAT, "this host is not a master"))?;
        let find = archive::find(fs, second, &egress, &view.masters, name, (cluster, trust));
        let late = ArchiveError::Slow {
            seconds: FIND_MAX.as_secs(),
        };
        let found = tokio::select! {
            // cancel-safe: it only asks
            () = ctx.stop.cancelled() => return Err(ctx.interrupted(WHAT)),
            found = tokio::time::timeout(FIND_MAX, find) => found.unwrap_or(Err(late)),
        };
        let believed = found.map_err(fails)?;
        clear(fs);
        fs.make_dir(dir(), &Attrs::mode(0o700))
            .map_err(|e| Fault::new(FaultCode::File, WHAT, chain(&e)))?;
        let brought = Self {
            sealed: fs.at(format!("{}/{name}{SEALED}", dir())),
            from: format!("{}, of host {}", second.target, believed.manifest().host_id),
            believed,
            fs: fs.clone(),
        };
        brought.room()?;
        let manifest = brought.believed.manifest();
        let owner: HostId = manifest.host_id;
        let archive = Archive::open(fs, second, owner, &egress).map_err(fails)?;
        let sealed = Sealed {
            bytes: manifest.sealed_bytes,
            sha256: manifest.sealed_sha256,
        };
        tokio::select! {
            // What is half there goes with the value.
            () = ctx.stop.cancelled() => return Err(ctx.interrupted(WHAT)),
            got = archive.get(name, sealed, &brought.sealed) => got.map_err(fails)?,
        }
        Ok(brought)
    }

    /// For it, and for what is opened of it.
    fn room(&self) -> Result<(), Fault> {
        let full = |why: String| Fault::new(FaultCode::DiskFull, WHAT, why).fix(space::FIX);
        let manifest = self.believed.manifest();
        let room = space::of(&self.sealed).map_err(|e| full(e.to_string()))?;
        let need = manifest.sealed_bytes.saturating_add(manifest.plain_bytes);
        room.require(Path::new(&dir()), need)
            .map_err(|e| full(e.to_string()))
    }
}

/// The way that nodelet goes.
fn egress(fs: &HostFs) -> Result<Egress, Fault> {
    let config = Config::load(fs)?;
    Egress::load(fs, &config.comms.proxy)
}
