//! What this master's member of etcd is, kept apart from its data: a master whose data vanished is otherwise
//! no different from a new one, and a new one founds a cluster.
//!
//! Written when the member was seen healthy with its data, and before it joins under another id; taken away
//! with the role only. Nothing that runs needs it.

use serde::{Deserialize, Serialize};

use crate::host::documents::{Document, Loaded, Store};
use crate::host::etcd_data::DataId;
use crate::host::fs::{FsError, HostFs};
use crate::host::mounts::Mount;
use crate::model::{Timestamp, paths};

/// Two ids, a mount and a time.
const MAX: u64 = 16 * 1024;
/// Root's.
const MODE: u32 = 0o600;

/// How the member began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Began {
    /// It founded its cluster, alone or with others.
    Founded,
    /// It joined others that were there.
    Joined,
    /// From a backup.
    Restored,
}

/// The member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdRecord {
    /// [`Document::SCHEMA`].
    pub schema: u32,
    /// Whose the data are; they say so themselves.
    pub data: DataId,
    /// How it began.
    pub began: Began,
    /// When that was noted.
    pub since: Timestamp,
    /// What the data directory was on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<Mount>,
    /// The others expect it, and it was not started yet: that it has no data is as it should be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expected: bool,
}

impl Document for EtcdRecord {
    const SCHEMA: u32 = 1;
}

fn store(fs: &HostFs) -> Store {
    let path = format!("{}/etcd.json", paths::NODELET_STATE);
    Store::new(fs.clone(), path, MODE, MAX)
}

/// Reads it and changes nothing.
pub fn look(fs: &HostFs) -> Loaded<EtcdRecord> {
    store(fs).look(Ok::<EtcdRecord, _>)
}

/// Writes it.
pub fn save(fs: &HostFs, record: &EtcdRecord) -> Result<(), FsError> {
    store(fs).save(record)
}

/// The role went.
pub fn forget(fs: &HostFs) -> Result<(), FsError> {
    store(fs).forget()
}
