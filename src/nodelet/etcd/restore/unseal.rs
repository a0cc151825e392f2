//! The plain snapshot in a sealed one. Opened beside etcd's data, in a directory that only root reads, and
//! away again once the data are made.

use std::path::{Path, PathBuf};

use super::RestoreRun;
use super::check::{WHAT, unusable};
use crate::backup::verify;
use crate::host::blocking;
use crate::host::fs::{Attrs, HostFs};
use crate::host::space;
use crate::model::{BelievedManifest, Fault, FaultCode};
use crate::nodelet::etcd::key::{Key, openers};
use crate::telemetry::chain;

const PRIVATE: u32 = 0o700;

/// What is in it, as a file. With a key file where one was named; else with the plane's help.
pub(super) async fn plain(
    fs: &HostFs,
    run: &RestoreRun,
    sealed: &Path,
    believed: &BelievedManifest,
    key: Option<&str>,
) -> Result<PathBuf, Fault> {
    let manifest = believed.manifest();
    let dir = run.opening_dir();
    let place = fs.at(&dir);
    let failed = |why: String| unusable(why, "check the disk with etcd's data");
    // It, and what is made of it. Before anybody is asked for a key.
    let room = space::of(&place).map_err(|e| failed(e.to_string()))?;
    room.require(&place, manifest.plain_bytes.saturating_mul(2))
        .map_err(|e| Fault::new(FaultCode::DiskFull, WHAT, e.to_string()).fix(space::FIX))?;
    let key = key.map_or(Key::OfThePlane, Key::Named);
    let keys = openers(fs, key, sealed, believed)
        .await
        .map_err(not_opened)?;
    fs.make_dir(&dir, &Attrs::mode(PRIVATE))
        .map_err(|e| failed(chain(&e)))?;
    let path = format!("{dir}/snapshot.db");
    let opened = verify::plain(fs, sealed, manifest, keys, &path).await;
    let opened = opened.map_err(not_opened)?;
    // Its bytes go to the disk.
    let placed = blocking(move || opened.place()).await;
    placed.map_err(|e| failed(chain(&e)))?;
    Ok(fs.at(path))
}

/// Whatever it was: nothing was changed.
fn not_opened(fault: Fault) -> Fault {
    Fault {
        what: format!("{WHAT}: {}", fault.what),
        ..fault
    }
}
