//! A master's member of etcd, its backups and their proof: what nodelet reports, what the plane
//! orders, and what stands beside a backup. Pure data; both sides speak it.
//!
//! | what | where it is |
//! |---|---|
//! | [`EtcdStatus`]     | [`NodeStatus::etcd`](super::NodeStatus), on masters only |
//! | [`BackupPolicy`]   | [`EtcdSpec::backup`](super::EtcdSpec) |
//! | [`ArchivePolicy`]  | [`BackupPolicy::archive`] |
//! | [`BackupManifest`] | `NAME.json` beside `NAME.db.age`, signed; the sealed file counts with it only |
//! | [`BackupSigner`]   | [`EtcdSpec::backup_signers`](super::EtcdSpec): whose signature under it is trusted |
//! | [`BackupInfo`]     | what is said of one backup, to people and to the plane |
//! | [`DrillReport`]    | how the last restore into a scratch etcd went |
//! | [`UnwrapOrder`]    | how a master opens a backup with the plane's help |
//! | [`EtcdGone`]       | [`EtcdSpec::gone`](super::EtcdSpec): whose member is to be taken out |
//! | [`RestoreOrder`]   | [`EtcdSpec::restore`](super::EtcdSpec): the cluster starts over from a snapshot |
//! | [`quorum`]         | may a member leave, whose is taken out next |

mod archive;
mod backup;
mod gone;
pub mod quorum;
mod restore;
pub(crate) mod signed;
mod unwrap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use archive::{ARCHIVE_KEEP_MAX, ArchivePolicy, ArchiveTarget};
pub use backup::{
    BACKUP_MAX, BACKUP_SCHEMA, BackupInfo, BackupManifest, BackupPolicy, BackupSettings,
    DrillReport, is_backup_name,
};
pub use gone::EtcdGone;
pub use restore::{RestoreOrder, RestoreState, RestoreStatus};
pub use signed::{
    BACKUP_SIGNERS_MAX, BackupSigner, BackupTrust, BelievedManifest, FoundManifest, NoManifest,
    SIGNED_MANIFEST_MAX,
};
pub use unwrap::{STANZA_TEXT_MAX, STANZAS_MAX, UnwrapAnswer, UnwrapOrder, WrappedKey};

use super::{ClusterId, Fault, HostId};

/// What this master's member of etcd says of itself, and how its backups are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdStatus {
    /// When the member was last asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_at: Option<Timestamp>,
    /// Why it could not be asked, or why it is not healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// What is not wrong yet: a slow disk, a database that is nearly full.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Fault>,
    /// The cluster's id in hexadecimal, as etcd prints it; empty while nothing is known.
    #[serde(default)]
    pub cluster_id: String,
    /// This member's id in hexadecimal.
    #[serde(default)]
    pub member_id: String,
    /// The leader's id in hexadecimal; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Raft's term.
    #[serde(default)]
    pub term: u64,
    /// The revision of its data.
    #[serde(default)]
    pub revision: u64,
    /// Version of the program.
    #[serde(default)]
    pub version: String,
    /// Version of what it stores, e.g. `3.6.0`; etcd below 3.6 says none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_version: Option<String>,
    /// Bytes of the database file.
    #[serde(default)]
    pub db_bytes: u64,
    /// Bytes of it that are in use; the rest comes back by defragmentation.
    #[serde(default)]
    pub db_in_use_bytes: u64,
    /// Bytes at which it takes no more writes; 0 while that is unknown.
    #[serde(default)]
    pub quota_bytes: u64,
    /// 99 of 100 syncs of its log take at most this, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fsync_p99_us: Option<u64>,
    /// Every member that it knows of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<EtcdMemberStatus>,
    /// Alarms that are raised.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<EtcdAlarm>,
    /// The backups on this master.
    #[serde(default)]
    pub backups: BackupsStatus,
    /// The last fire drill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillReport>,
    /// Why the drill that is due could not be tried; absent after one that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill_failing: Option<Fault>,
    /// The restore that is under way, or the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreStatus>,
    /// The chore that is done now, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chore: Option<String>,
}

/// One member, as this one sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdMemberStatus {
    /// Its id in hexadecimal.
    pub id: String,
    /// Its name: the host id; empty until it was started once.
    #[serde(default)]
    pub name: String,
    /// Where the others reach it: what one without a name is known by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peer_urls: Vec<String>,
    /// It receives everything and has no vote yet.
    #[serde(default)]
    pub learner: bool,
    /// Whether it answers; absent: it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
}

/// One alarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdAlarm {
    /// Which member raised it, in hexadecimal.
    pub member: String,
    /// `NOSPACE`, `CORRUPT`.
    pub alarm: String,
}

/// The backups on this master.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupsStatus {
    /// The newest that was verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<BackupInfo>,
    /// How many there are.
    #[serde(default)]
    pub count: u32,
    /// Bytes of them all.
    #[serde(default)]
    pub bytes: u64,
    /// When the next one is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// Why the last try failed; absent after one that did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<Fault>,
    /// The archive; absent: the policy names none, or nothing was copied yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveStatus>,
    /// The newest is older than the policy allows for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

/// The archive of this master's backups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveStatus {
    /// Where.
    pub place: String,
    /// The newest backup that is there whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// When that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_at: Option<Timestamp>,
    /// How many are there.
    #[serde(default)]
    pub count: u32,
    /// Bytes of them all.
    #[serde(default)]
    pub bytes: u64,
    /// Why the last try failed; absent after one that did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<Fault>,
}

/// `GET /v1/etcd` on nodelet's socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdView {
    /// The member; absent where this host is no master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<EtcdStatus>,
    /// The directory of its backups; empty where this host is no master.
    #[serde(default)]
    pub dir: String,
    /// Its backups, oldest first.
    #[serde(default)]
    pub backups: Vec<BackupInfo>,
    /// The backup archive; absent: the policy names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchivePolicy>,
    /// Whose signature under a backup is trusted here.
    #[serde(default)]
    pub signers: Vec<BackupSigner>,
    /// The masters, in whose parts of the archive backups are looked for first.
    #[serde(default)]
    pub masters: Vec<HostId>,
    /// The cluster; absent where this host is no master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<ClusterId>,
}

/// A backup in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archived {
    /// Its name.
    pub name: String,
    /// The master that made it.
    pub host_id: HostId,
    /// Bytes of its files there.
    pub bytes: u64,
}

/// `POST /v1/etcd/drill`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillOrder {
    /// A file of this machine with a private key that opens the backup: never the key itself. Absent: the
    /// one that the policy names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_key: Option<String>,
}

/// What a chore answers to who ordered it: `POST /v1/etcd/…`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChoreAnswer {
    /// What was done, as text.
    pub done: String,
    /// The backup that was made, if that was the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupInfo>,
    /// The newest of the archive, oldest first, if that was the order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub archived: Vec<Archived>,
}

/// The largest database that may be asked for: below the first a cluster does not even start, above the
/// second etcd itself advises against it.
const QUOTA: std::ops::RangeInclusive<u64> = 16 << 20..=8 << 30;

/// What is wrong with a quota, as text.
pub fn quota_fault(bytes: Option<u64>) -> Option<String> {
    let bytes = bytes.filter(|bytes| !QUOTA.contains(bytes))?;
    let (least, most) = (QUOTA.start(), QUOTA.end());
    Some(format!("{bytes} is not {least} to {most}"))
}

impl EtcdStatus {
    /// Whether this one is news to a person: counters alone (time, size, revision) are not.
    pub fn is_news_after(&self, before: &Self) -> bool {
        let without_counts = |status: &Self| Self {
            seen_at: None,
            revision: 0,
            db_bytes: 0,
            db_in_use_bytes: 0,
            fsync_p99_us: None,
            ..status.clone()
        };
        without_counts(self) != without_counts(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_neither_too_small_for_a_cluster_nor_larger_than_etcd_advises() {
        for good in [None, Some(16 << 20), Some(8 << 30)] {
            assert_eq!(quota_fault(good), None);
        }
        for bad in [0, (16 << 20) - 1, (8 << 30) + 1, u64::MAX] {
            assert!(quota_fault(Some(bad)).is_some(), "{bad}");
        }
    }

    #[test]
    fn what_only_counts_on_is_no_news() {
        let before = EtcdStatus::default();
        let mut now = before.clone();
        (now.revision, now.db_bytes) = (7, 8);
        now.seen_at = Some(Timestamp::UNIX_EPOCH);
        assert!(!now.is_news_after(&before));
        now.leader = Some("1".into());
        assert!(now.is_news_after(&before));
        let mut failing = before.clone();
        failing.backups.stale = true;
        assert!(failing.is_news_after(&before));
    }
}
