//! Whether a file is a snapshot: `etcdutl` opens it. Never `etcdctl snapshot status`, which from 3.6 on
//! prints its help and succeeds, whatever the file is.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::host::exec::{self, Cmd};
use crate::model::{Fault, FaultCode};
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
