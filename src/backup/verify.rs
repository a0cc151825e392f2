//! Whether a backup is whole, and whether a file is a snapshot: `etcdutl` opens it. Never `etcdctl snapshot status`, which from 3.6 on
//! prints its help and succeeds, whatever the file is.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::seal::{self, ANOTHER};
use super::shelf;
use crate::host::exec::{self, Cmd};
use crate::host::fs::{Attrs, Begun, HostFs};
use crate::model::{BackupManifest, Fault, FaultCode, paths};
use crate::telemetry::chain;

/// It reads every page: 8 GiB at 10 MiB/s, the slowest of disks.
const OPENING: Duration = Duration::from_secs(15 * 60);

/// What `etcdutl` says of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opened {
    /// Checksum of the content.
    pub hash: u32,
    /// The newest revision.
    pub revision: u64,
    /// Keys, all their revisions counted.
    pub total_key: u64,
    /// Bytes that are in use.
    pub total_size: u64,
    /// Version of what is stored; etcd below 3.6 says none.
    #[serde(default)]
    pub version: String,
}

/// Opens the plain snapshot at this path of the machine with this `etcdutl`.
pub async fn test_open(etcdutl: &Path, snapshot: &Path) -> Result<Opened, Fault> {
    let what = "the snapshot is none";
    let cmd = Cmd::new(etcdutl, OPENING)
        .args(["snapshot", "status", "-w", "json"])
        .arg(snapshot);
    let broken = |why: String| Fault::new(FaultCode::BackupBroken, what, why);
    let said = exec::run(cmd).await.map_err(|e| broken(chain(&e)))?;
    let opened: Opened = serde_json::from_slice(&said.stdout)
        .map_err(|e| broken(format!("what etcdutl says of it cannot be read: {e}")))?;
    if opened.revision == 0 || opened.total_key == 0 {
        return Err(broken("there is nothing in it".to_owned()));
    }
    Ok(opened)
}

/// Whether the sealed file is the one that the manifest speaks of, byte for byte. No key is needed.
pub fn sealed(path: &Path, manifest: &BackupManifest) -> Result<(), Fault> {
    let what = format!("backup {} is broken", manifest.name);
    let broken = |why: String| Fault::new(FaultCode::BackupBroken, what.clone(), why).fix(ANOTHER);
    let found = seal::digest(path).map_err(|e| broken(e.to_string()))?;
    if found.bytes != manifest.sealed_bytes {
        let (is, was) = (found.bytes, manifest.sealed_bytes);
        return Err(broken(format!("its file has {is} bytes, not {was}")));
    }
    if found.sha256 != manifest.sealed_sha256 {
        return Err(broken(
            "its file is not the one that was written".to_owned(),
        ));
    }
    Ok(())
}

/// Writes what an opened backup holds into a file without a name, which is gone when it is dropped; and
/// looks whether it is what the manifest says: size, checksum, revision, keys.
pub async fn opened(
    fs: &HostFs,
    etcdutl: &Path,
    manifest: &BackupManifest,
    mut from: impl Read + Send + 'static,
) -> Result<Begun, Fault> {
    let what = format!("backup {} is broken", manifest.name);
    let broken = |why: String| Fault::new(FaultCode::BackupBroken, what.clone(), why).fix(ANOTHER);
    let private = Attrs::mode(0o700);
    let scratch = fs.make_dir(paths::ETCD_SCRATCH, &private);
    scratch.map_err(|e| broken(chain(&e)))?;
    let to = fs.begin(
        format!("{}/opened.db", paths::ETCD_SCRATCH),
        &Attrs::mode(0o600),
    );
    let mut to = to.map_err(|e| broken(chain(&e)))?;
    let copied =
        tokio::task::spawn_blocking(move || seal::copy(&mut from, &mut to).map(|n| (n, to)));
    let copied = copied.await.map_err(|e| broken(e.to_string()))?;
    let (bytes, to) = copied.map_err(|e| broken(chain(&e)))?;
    if bytes != manifest.plain_bytes {
        return Err(broken(format!(
            "it has {bytes} bytes, not {}",
            manifest.plain_bytes
        )));
    }
    let found = test_open(etcdutl, to.temporary()).await?;
    let is = (found.hash, found.revision, found.total_key);
    if is != (manifest.hash, manifest.revision, manifest.keys) {
        let why = format!(
            "it has revision {} and {} keys, not {} and {}, or other content",
            found.revision, found.total_key, manifest.revision, manifest.keys
        );
        return Err(broken(why));
    }
    Ok(to)
}

/// The manifest and the sealed file of a backup, by its name on the shelf or by the path of either.
pub fn find(fs: &HostFs, dir: &str, which: &str) -> Result<(BackupManifest, PathBuf), Fault> {
    let stem = which.strip_suffix(shelf::SEALED);
    let stem = stem
        .or_else(|| which.strip_suffix(shelf::MANIFEST))
        .unwrap_or(which);
    let stem = match stem.contains('/') {
        true => stem.to_owned(),
        false => format!("{dir}/{stem}"),
    };
    let what = format!("cannot use backup {which}");
    let bad = |why: String| Fault::new(FaultCode::BackupBroken, what.clone(), why).fix(ANOTHER);
    let beside = format!("{stem}{}", shelf::MANIFEST);
    let text = fs
        .read(&beside, shelf::MANIFEST_MAX)
        .map_err(|e| bad(chain(&e)))?;
    let text = text.ok_or_else(|| bad(format!("there is no {beside}")))?;
    let manifest = serde_json::from_slice(&text).map_err(|e| bad(format!("{beside}: {e}")))?;
    Ok((manifest, fs.at(format!("{stem}{}", shelf::SEALED))))
}
