//! The directory of the backups.
//!
//! A backup is two files: `NAME.db.age`, and `NAME.json`, which is written after it and makes it count. A sealed file
//! without one is what an interrupted backup left. Files with other names are foreign and stay.

use std::collections::BTreeSet;

use crate::host::backups::{BackupFiles, look};
pub use crate::host::backups::{MANIFEST, MANIFEST_MAX, SEALED};
use crate::host::fs::{Found, FsError, HostFs};
use crate::model::{
    BackupManifest, BackupPolicy, BackupTrust, BelievedManifest, ClusterId, Timestamp, paths,
};

/// Most backups that are looked at, newest first: more than a policy may keep.
const LOOKED_AT_MAX: usize = 2000;

/// Content of the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shelf {
    /// What counts, oldest first.
    pub good: Vec<BelievedManifest>,
    /// Names whose sealed file has no manifest, or no sealed file to it, or another size than it says.
    pub broken: Vec<String>,
    /// Names whose manifest a later version of this program wrote: left alone.
    pub foreign: Vec<String>,
    /// Names whose manifest has no trusted signature: they do not count. They are also left alone: otherwise they would
    /// be deleted when a key is missing here by mistake.
    pub unbelieved: Vec<String>,
}

/// Where the backups are.
pub fn dir(policy: &BackupPolicy) -> &str {
    policy.dir.as_deref().unwrap_or(paths::ETCD_BACKUPS)
}

/// A name that nothing on the shelf has: two of one second would be written over each other.
pub fn free_name(
    fs: &HostFs,
    dir: &str,
    mut at: Timestamp,
    revision: u64,
) -> Result<String, FsError> {
    loop {
        let name = name(at, revision);
        let taken = |end| Ok(fs.found(format!("{dir}/{name}{end}"))? != Found::Nothing);
        if !(taken(SEALED)? || taken(MANIFEST)?) {
            return Ok(name);
        }
        // The end of time is no reason to stand still.
        let Ok(next) = at.checked_add(SECOND) else {
            return Ok(name);
        };
        at = next;
    }
}

/// What names tell apart.
const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

/// The name of a backup.
fn name(at: Timestamp, revision: u64) -> String {
    format!("{}-r{revision}", at.strftime("%Y%m%dT%H%M%SZ"))
}

/// When the backup of this name was taken.
pub fn taken_at(name: &str) -> Option<Timestamp> {
    let (time, _) = name.split_once("-r")?;
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", time).ok()?;
    jiff::tz::TimeZone::UTC.to_timestamp(time).ok()
}

pub use crate::model::is_backup_name as is_name;

impl Shelf {
    /// Looks at the directory. One that is not there is an empty one.
    pub fn look(fs: &HostFs, dir: &str, trust: &BackupTrust) -> Result<Self, FsError> {
        let mut names: BTreeSet<String> = BTreeSet::new();
        for file in fs.list(dir)? {
            let sealed = file.strip_suffix(SEALED);
            let name = sealed.or_else(|| file.strip_suffix(MANIFEST));
            names.extend(name.filter(|name| is_name(name)).map(str::to_owned));
        }
        let mut shelf = Self::default();
        let skipped = names.len().saturating_sub(LOOKED_AT_MAX);
        for name in names.into_iter().skip(skipped) {
            match look(fs, dir, &name)? {
                BackupFiles::Broken => shelf.broken.push(name),
                BackupFiles::Foreign => shelf.foreign.push(name),
                BackupFiles::Whole(found) => match found.believed(trust) {
                    Ok(manifest) => shelf.good.push(manifest),
                    Err(_) => shelf.unbelieved.push(name),
                },
            }
        }
        Ok(shelf)
    }

    /// Bytes of all that counts.
    pub fn bytes(&self) -> u64 {
        let each = self.good.iter().map(|m| m.manifest().sealed_bytes);
        each.fold(0, u64::saturating_add)
    }

    /// The newest of this cluster.
    pub fn newest_of(&self, cluster: ClusterId) -> Option<&BelievedManifest> {
        let of = |m: &&BelievedManifest| m.manifest().cluster_id == cluster;
        self.good.iter().rev().find(of)
    }

    /// What the good ones say, oldest first.
    pub fn manifests(&self) -> impl DoubleEndedIterator<Item = &BackupManifest> + Clone {
        self.good.iter().map(BelievedManifest::manifest)
    }

    /// Names that are to go: what is broken, and of the good the oldest that are too many or too
    /// large together. The newest of each cluster stays whatever it takes: a host that was taken from
    /// one by mistake may have the last there is.
    pub fn to_go(&self, policy: &BackupPolicy) -> Vec<String> {
        let mut go = self.broken.clone();
        let keep = usize::try_from(policy.keep).unwrap_or(usize::MAX).max(1);
        let (mut kept, mut bytes) = (0, 0_u64);
        let mut clusters = BTreeSet::new();
        for manifest in self.manifests().rev() {
            let newest = clusters.insert(manifest.cluster_id);
            // The oldest that is kept is newer than every one that is pruned.
            bytes = bytes.saturating_add(manifest.sealed_bytes);
            kept += 1;
            if !newest && (kept > keep || bytes > policy.max_bytes) {
                go.push(manifest.name.clone());
            }
        }
        go
    }
}

/// Takes a backup away: first what makes it count.
pub fn remove(fs: &HostFs, dir: &str, name: &str) -> Result<(), FsError> {
    fs.remove_file(format!("{dir}/{name}{MANIFEST}"))?;
    fs.remove_file(format!("{dir}/{name}{SEALED}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::fs::Attrs;
    use crate::model::etcd::signed::tests::signed;
    use crate::model::{
        BACKUP_SCHEMA, BackupSettings, BackupSigner, Digest, FoundManifest, HostId, SigningKey,
        StackRef,
    };

    /// The one that signs, and who trusts it.
    fn signer() -> (SigningKey, BackupTrust) {
        let (key, _) = SigningKey::generate().expect("key");
        let signer = BackupSigner {
            host_id: HostId(uuid::Uuid::from_u128(1)),
            key: key.trusted(),
        };
        (key, BackupTrust::Signers(vec![signer]))
    }

    pub(crate) fn manifest(second: i64, cluster: u128, bytes: u64) -> BackupManifest {
        let at = Timestamp::from_second(second).expect("time");
        BackupManifest {
            schema: BACKUP_SCHEMA,
            name: name(at, 7),
            taken_at: at,
            host_id: HostId(uuid::Uuid::from_u128(1)),
            cluster_id: ClusterId(uuid::Uuid::from_u128(cluster)),
            etcd_cluster_id: "cafe".into(),
            member_id: "beef".into(),
            revision: 7,
            keys: 3,
            hash: 1,
            plain_bytes: 10,
            sealed_bytes: bytes,
            sealed_sha256: Digest::of(b"x"),
            etcd_version: "3.7.3".into(),
            storage_version: None,
            kubernetes_version: "1.37.2".into(),
            recipients: Vec::new(),
            settings: BackupSettings {
                cluster_name: "c".into(),
                api_host: "10.1.2.3".into(),
                api_port: 6443,
                pods_cidr: "10.20.0.0/16".parse().expect("net"),
                services_cidr: "10.21.0.0/16".parse().expect("net"),
                cluster_domain: "cluster.local".into(),
                stack: StackRef {
                    name: "s".into(),
                    version: "1".into(),
                    manifest: Digest::of(b"m"),
                },
            },
        }
    }

    fn write(fs: &HostFs, file: &str, bytes: &[u8]) {
        let path = format!("/b/{file}");
        fs.write(path, bytes, &Attrs::mode(0o600)).expect("write");
    }

    fn lay(fs: &HostFs, key: &SigningKey, manifest: &BackupManifest) {
        let sealed = vec![0; usize::try_from(manifest.sealed_bytes).expect("small")];
        write(fs, &format!("{}{SEALED}", manifest.name), &sealed);
        let text = serde_json::to_vec(&signed(key, manifest)).expect("json");
        write(fs, &format!("{}{MANIFEST}", manifest.name), &text);
    }

    #[test]
    fn what_is_not_whole_does_not_count_and_what_is_not_ours_stays() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let (key, trust) = signer();
        let look = || Shelf::look(&fs, "/b", &trust).expect("look");
        assert_eq!(look(), Shelf::default());
        let all: Vec<_> = (0..8).map(|n| manifest(n, 1, 5)).collect();
        all.iter().for_each(|m| lay(&fs, &key, m));
        let file = |n: usize, end: &str| format!("{}{end}", all[n].name);
        // Cut off after the sealed file; a sealed file that is shorter; one that is gone; a manifest
        // that is none; and one of a later program.
        fs.remove_file(format!("/b/{}", file(1, MANIFEST)))
            .expect("remove");
        write(&fs, &file(2, SEALED), b"1234");
        fs.remove_file(format!("/b/{}", file(3, SEALED)))
            .expect("remove");
        write(&fs, &file(4, MANIFEST), b"{");
        let mut later = all[5].clone();
        later.schema = 9;
        lay(&fs, &key, &later);
        // Sealed by a stranger for the public keys that everybody knows, and put there; and one of ours that got
        // another's name.
        lay(&fs, &signer().0, &all[6]);
        let ours = serde_json::to_vec(&signed(&key, &all[0])).expect("json");
        write(&fs, &file(7, MANIFEST), &ours);
        write(&fs, "notes.json", b"a person's");
        write(&fs, "x.db.age", b"a person's");
        let shelf = look();
        let names = |of: &[usize]| of.iter().map(|n| all[*n].name.clone()).collect::<Vec<_>>();
        assert!(shelf.manifests().eq([&all[0]]));
        assert_eq!(shelf.broken, names(&[1, 2, 3, 4, 7]));
        assert_eq!(shelf.foreign, names(&[5]));
        assert_eq!(shelf.unbelieved, names(&[6]));
        for name in shelf.to_go(&BackupPolicy::default()) {
            remove(&fs, "/b", &name).expect("remove");
        }
        let left = [
            file(0, SEALED),
            file(0, MANIFEST),
            file(5, SEALED),
            file(5, MANIFEST),
            file(6, SEALED),
            file(6, MANIFEST),
            "notes.json".into(),
            "x.db.age".into(),
        ];
        let left: BTreeSet<String> = left.into();
        let found: BTreeSet<String> = fs.list("/b").expect("list").into_iter().collect();
        assert_eq!(found, left);
    }

    proptest! {
        /// Whatever the policy: the newest of each cluster stays, no more than it says beside them,
        /// and nothing goes that is newer than what is kept of its cluster.
        #[test]
        fn the_oldest_go(
            all in prop::collection::vec((0u128..3, 1u64..100), 0..40), keep in 1u32..10, max in 1u64..500,
        ) {
            let (key, trust) = signer();
            let good: Vec<_> = all.iter().enumerate()
                .map(|(n, (cluster, bytes))| manifest(n as i64, *cluster, *bytes))
                .collect();
            let believed = |m: &BackupManifest| {
                let found = FoundManifest::of(signed(&key, m)).expect("a manifest");
                found.believed(&trust).expect("believed")
            };
            let shelf = Shelf { good: good.iter().map(believed).collect(), ..Shelf::default() };
            let policy = BackupPolicy { keep, max_bytes: max, ..BackupPolicy::default() };
            let go: BTreeSet<_> = shelf.to_go(&policy).into_iter().collect();
            let kept: Vec<_> = good.iter().filter(|m| !go.contains(&m.name)).collect();
            let newest: BTreeSet<_> = good.iter()
                .filter_map(|m| shelf.newest_of(m.cluster_id))
                .map(|m| m.manifest().name.clone()).collect();
            prop_assert!(newest.is_disjoint(&go));
            let more: Vec<_> = kept.iter().filter(|m| !newest.contains(&m.name)).collect();
            prop_assert!(more.len() < usize::try_from(keep).expect("small") + 1);
            prop_assert!(more.iter().map(|m| m.sealed_bytes).sum::<u64>() <= max);
            for gone in good.iter().filter(|m| go.contains(&m.name)) {
                prop_assert!(more.iter().all(|m| m.taken_at > gone.taken_at));
            }
        }
    }
}
