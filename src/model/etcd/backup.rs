//! Backups: schedule, retention, recipients, and the manifest beside each.

use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ArchivePolicy;
use crate::model::{ClusterId, Digest, HostId, NodeSpec, StackRef};

/// Version of a backup's manifest.
pub const BACKUP_SCHEMA: u32 = 1;

/// Minutes between two backups of a master, by default.
const EVERY_MINUTES: u32 = 30;
/// The policy's bounds of that: below, a large database would be read all the time; above a week the
/// word backup means little.
const EVERY_MINUTES_MIN: u32 = 5;
const EVERY_MINUTES_MAX: u32 = 7 * 24 * 60;
/// How many are kept by default: a day's.
const KEEP: u32 = 48;
/// Most that may be kept: every look reads their manifests.
const KEEP_MAX: u32 = 1000;
/// Bytes of all of them, by default.
const MAX_BYTES: u64 = 16 * 1024 * 1024 * 1024;
/// Days between two fire drills, by default: on each master, so of three masters' backups one is tried
/// every two or three days. Auditors ask for a quarter's; a week costs a minute of one core.
const DRILL_EVERY_DAYS: u32 = 7;
/// Auditors ask for a year's.
const DRILL_EVERY_DAYS_MAX: u32 = 366;
/// Longest that a backup takes: 8 GiB, etcd's advised most, at 5 MiB/s, the slowest of disks.
pub const BACKUP_MAX: Duration = Duration::from_secs(30 * 60);
/// Longest text of an age recipient; `age1…` of X25519 has 62 characters.
const RECIPIENT_MAX: usize = 100;

/// Backups of etcd that a master makes by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPolicy {
    /// Minutes between two; each master has its own moment in them. 0: none are made by themselves.
    #[serde(default = "every_minutes")]
    pub every_minutes: u32,
    /// How many are kept on each master.
    #[serde(default = "keep")]
    pub keep: u32,
    /// Most bytes of them all; the newest is kept whatever it takes.
    #[serde(default = "max_bytes")]
    pub max_bytes: u64,
    /// Another directory than the agent's own; absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// The operator's recovery key, public half (`age1…`): opens a backup with the plane away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_recipient: Option<String>,
    /// The plane's key for this cluster, public half (`age1…`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plane_recipient: Option<String>,
    /// An archive for a copy of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchivePolicy>,
    /// Days between two fire drills that are made by themselves; each master has its own moment in them. 0:
    /// none are.
    #[serde(default = "drill_every_days")]
    pub drill_every_days: u32,
    /// A file on the masters with a private key that opens backups, for fire drills; absolute. Only root may
    /// read it. Absent: the plane opens the one backup that is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill_key: Option<String>,
}

/// What stands beside a sealed backup, and makes it count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupManifest {
    /// [`BACKUP_SCHEMA`].
    pub schema: u32,
    /// The name both files begin with: `<UTC time>-r<revision>`; sorts by time.
    pub name: String,
    /// When the snapshot was asked for.
    pub taken_at: Timestamp,
    /// The master it was taken on.
    pub host_id: HostId,
    /// The Kubernetes cluster.
    pub cluster_id: ClusterId,
    /// etcd's cluster, in hexadecimal.
    pub etcd_cluster_id: String,
    /// etcd's member, in hexadecimal.
    pub member_id: String,
    /// The newest revision in it.
    pub revision: u64,
    /// Keys in it, as that etcd's `etcdutl` counts: those that are there, or with 3.5 every revision of
    /// every key and a few of etcd's own.
    pub keys: u64,
    /// etcd's own checksum of the content, as `etcdutl snapshot status` prints it.
    pub hash: u32,
    /// Bytes of the plain snapshot.
    pub plain_bytes: u64,
    /// Bytes of the sealed file.
    pub sealed_bytes: u64,
    /// SHA-256 of the sealed file.
    pub sealed_sha256: Digest,
    /// Version of the etcd that gave it.
    pub etcd_version: String,
    /// Version of what it stores; etcd below 3.6 says none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_version: Option<String>,
    /// Version of Kubernetes, e.g. `1.37.2`.
    pub kubernetes_version: String,
    /// Keys that open it (`age1…`).
    pub recipients: Vec<String>,
    /// What a restore needs beside the data. No secret.
    pub settings: BackupSettings,
}

/// What the cluster was made with: a restored one has to be made alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSettings {
    /// The cluster's name.
    pub cluster_name: String,
    /// Where its API server is.
    pub api_host: String,
    /// On which port.
    pub api_port: u16,
    /// All pods.
    pub pods_cidr: IpNet,
    /// All services.
    pub services_cidr: IpNet,
    /// DNS suffix.
    pub cluster_domain: String,
    /// The stack that ran.
    pub stack: StackRef,
}

/// What is said of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupInfo {
    /// Its name.
    pub name: String,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// The newest revision in it.
    pub revision: u64,
    /// Keys in it.
    pub keys: u64,
    /// Bytes of the sealed file.
    pub sealed_bytes: u64,
    /// SHA-256 of the sealed file.
    pub sealed_sha256: Digest,
    /// Version of the etcd that gave it.
    pub etcd_version: String,
}

/// How a restore into a scratch etcd went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillReport {
    /// Which backup.
    pub backup: String,
    /// When the drill began.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Keys that were there again; 0 where it failed.
    pub keys: u64,
    /// Revisions of the live cluster that the backup did not have.
    pub behind: u64,
    /// Why it failed; absent: it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<crate::model::Fault>,
}

impl Default for BackupPolicy {
    fn default() -> Self {
        Self {
            every_minutes: EVERY_MINUTES,
            keep: KEEP,
            max_bytes: MAX_BYTES,
            dir: None,
            recovery_recipient: None,
            plane_recipient: None,
            archive: None,
            drill_every_days: DRILL_EVERY_DAYS,
            drill_key: None,
        }
    }
}

impl BackupPolicy {
    /// Defaults only.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Keys that open a backup. Without one no backup is made.
    pub fn recipients(&self) -> Vec<String> {
        let both = [&self.plane_recipient, &self.recovery_recipient];
        both.into_iter().flatten().cloned().collect()
    }

    /// Seconds between two fire drills that a master makes by itself; `None`: it makes none, because they are not
    /// wanted or no key opens a backup without a person.
    pub fn drills_every(&self) -> Option<i64> {
        // The plane opens what is sealed for it.
        let opens = self.drill_key.is_some() || self.plane_recipient.is_some();
        let days = i64::from(self.drill_every_days);
        (opens && days > 0).then_some(days * 24 * 3600)
    }

    /// Whether the newest backup, of this moment, is older than a person should accept: two periods
    /// and the longest that making one takes.
    pub fn is_stale(&self, now: Timestamp, newest: Timestamp) -> bool {
        let allowed = Duration::from_secs(u64::from(self.every_minutes) * 60) * 2 + BACKUP_MAX;
        let until = newest.saturating_add(allowed).unwrap_or(Timestamp::MAX);
        self.every_minutes > 0 && until < now
    }

    /// The field that cannot be, and why.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let every = self.every_minutes;
        if every != 0 && !(EVERY_MINUTES_MIN..=EVERY_MINUTES_MAX).contains(&every) {
            let why = format!(
                "{every} is not 0 (none) or from {EVERY_MINUTES_MIN} to {EVERY_MINUTES_MAX}"
            );
            return Some(("every_minutes", why));
        }
        if !(1..=KEEP_MAX).contains(&self.keep) {
            return Some(("keep", format!("{} is not from 1 to {KEEP_MAX}", self.keep)));
        }
        if let Some(why) = self.dir.as_deref().and_then(dir_fault) {
            return Some(("dir", why));
        }
        if self.drill_every_days > DRILL_EVERY_DAYS_MAX {
            let why = format!("{} is above {DRILL_EVERY_DAYS_MAX}", self.drill_every_days);
            return Some(("drill_every_days", why));
        }
        if let Some(why) = self.drill_key.as_deref().and_then(path_fault) {
            return Some(("drill_key", why));
        }
        if let Some(unfit) = self.archive.as_ref().and_then(|a| a.check().err()) {
            return Some(unfit);
        }
        for (field, recipient) in [
            ("recovery_recipient", &self.recovery_recipient),
            ("plane_recipient", &self.plane_recipient),
        ] {
            if let Some(why) = recipient.as_deref().and_then(recipient_fault) {
                return Some((field, why));
            }
        }
        None
    }
}

impl BackupSettings {
    /// Those of a node's cluster.
    pub fn of(node: &NodeSpec) -> Self {
        Self {
            cluster_name: node.cluster_name.clone(),
            api_host: node.api.host.clone(),
            api_port: node.api.port,
            pods_cidr: node.network.pods_cidr,
            services_cidr: node.network.services_cidr,
            cluster_domain: node.network.cluster_domain.clone(),
            stack: node.stack.clone(),
        }
    }
}

impl BackupManifest {
    /// What is said of it.
    pub fn info(&self) -> BackupInfo {
        BackupInfo {
            name: self.name.clone(),
            taken_at: self.taken_at,
            revision: self.revision,
            keys: self.keys,
            sealed_bytes: self.sealed_bytes,
            sealed_sha256: self.sealed_sha256,
            etcd_version: self.etcd_version.clone(),
        }
    }
}

/// Whether this is a name that a backup has: `20261128T140000Z-r123`.
pub fn is_backup_name(name: &str) -> bool {
    let Some((time, revision)) = name.split_once("-r") else {
        return false;
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let time = time.strip_suffix('Z').and_then(|t| t.split_once('T'));
    let time = time.is_some_and(|(d, t)| d.len() == 8 && t.len() == 6 && digits(d) && digits(t));
    time && revision.len() <= 20 && digits(revision)
}

/// Why a text is no age recipient, as far as its form says: bech32 of the kind `age1…`.
pub(super) fn recipient_fault(text: &str) -> Option<String> {
    let body = text.strip_prefix("age1");
    let good = text.len() <= RECIPIENT_MAX
        && body.is_some_and(|b| !b.is_empty() && b.bytes().all(|c| c.is_ascii_alphanumeric()));
    // Its text is not shown: it may be the private half.
    (!good).then(|| "is not an age public key (age1…)".to_owned())
}

fn dir_fault(dir: &str) -> Option<String> {
    crate::model::drop_in_dir_fault(dir)
}

fn path_fault(path: &str) -> Option<String> {
    let clean = |part: &str| !matches!(part, "." | "..") && !part.contains(char::is_control);
    let good = path.starts_with('/') && path.len() > 1 && path.split('/').all(clean);
    (!good).then(|| format!("{path:.100} is not an absolute path"))
}

fn drill_every_days() -> u32 {
    DRILL_EVERY_DAYS
}

fn every_minutes() -> u32 {
    EVERY_MINUTES
}

fn keep() -> u32 {
    KEEP
}

fn max_bytes() -> u64 {
    MAX_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_periods_without_one_are_stale() {
        let at = |s| Timestamp::from_second(s).expect("time");
        let policy = BackupPolicy::default();
        assert!(!policy.is_stale(at(5400), at(0)));
        assert!(policy.is_stale(at(5401), at(0)));
        let never = BackupPolicy {
            every_minutes: 0,
            ..policy
        };
        assert!(!never.is_stale(at(1_000_000), at(0)));
    }

    #[test]
    fn a_policy_that_cannot_be_kept_is_named_by_its_field() {
        let field = |change: fn(&mut BackupPolicy)| {
            let mut policy = BackupPolicy::default();
            change(&mut policy);
            policy.fault().map(|(field, _)| field)
        };
        assert_eq!(field(|_| ()), None);
        assert_eq!(field(|p| p.every_minutes = 0), None);
        assert_eq!(field(|p| p.every_minutes = 4), Some("every_minutes"));
        assert_eq!(field(|p| p.keep = 0), Some("keep"));
        assert_eq!(
            field(|p| p.drill_every_days = 367),
            Some("drill_every_days")
        );
        assert_eq!(
            field(|p| p.drill_key = Some("key".into())),
            Some("drill_key")
        );
        assert_eq!(
            field(|p| p.drill_key = Some("/etc/pf9/root/drill.key".into())),
            None
        );
        let nowhere = |p: &mut BackupPolicy| {
            p.archive = Some(ArchivePolicy::new(crate::model::ArchiveTarget::Dir {
                path: "nas".into(),
                mount: None,
            }));
        };
        assert_eq!(field(nowhere), Some("archive.path"));
        assert_eq!(field(|p| p.dir = Some("/mnt/backups".into())), None);
        assert_eq!(field(|p| p.dir = Some("/etc/pf9/x".into())), Some("dir"));
        assert_eq!(field(|p| p.dir = Some("relative".into())), Some("dir"));
        let wrong = Some("AGE-SECRET-KEY-1X".to_owned());
        let policy = BackupPolicy {
            recovery_recipient: wrong,
            ..BackupPolicy::default()
        };
        assert_eq!(
            policy.fault().map(|(field, _)| field),
            Some("recovery_recipient")
        );
        assert_eq!(field(|p| p.plane_recipient = Some("age1qpz".into())), None);
    }
}
