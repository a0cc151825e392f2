//! Room for what is never given up, on a file system that is full: what of ours goes for it, and in which order.
//!
//! ```text
//! the reserve ─► older logs ─► events that wait ─► backups, but the newest whole one of each cluster and signer
//! never: identity, spec, ledger, the audit of the tunnel's streams, that of the API server
//! ```
//!
//! A document that is needed at all costs ([`super::documents::Store::at_all_costs`]) and finds no room is written again,
//! once, when [`make`] has made some. Only what is on the same file system goes, and no more than is needed; what this
//! process may not delete stays. An event that goes is missing in the numbers, by which the plane counts it.
//!
//! The audits and their older files stay: they are evidence, and one who can fill a disk (with a pod, on many nodes) must not be
//! able to have them deleted by that. Both are bounded by their own rotation; the API server's lies in a directory below the
//! logs of the role, where nothing of this looks.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::backups::{self, BackupFiles, MANIFEST, SEALED};
use super::fs::{Attrs, FsError, HostFs};
use super::{mounts, space};
use crate::model::{is_backup_name, paths};
use crate::seam::disk;

/// A file of no use but its size: one that does without room elsewhere has it here.
const RESERVE: &str = "/var/opt/pf9/hostagent/reserve";
/// The largest of the documents, and what the file system takes for it.
const RESERVE_BYTES: usize = 1 << 20;
/// Beside the document's own bytes: blocks, a directory's growth, a journal.
const BESIDE: u64 = 64 * 1024;
/// Files that a document and its temporary one need, and a few others.
const FILES: u64 = 8;
/// What the names of the audit's older files begin with: see above.
const AUDIT: &str = "audit.log.";
const EVENTS: &str = "/var/opt/pf9/hostagent/events";

/// In the order in which they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Reserve,
    Log,
    Event,
    Backup,
}

/// What could go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Surplus {
    kind: Kind,
    /// The smaller, the sooner it goes.
    turn: u64,
    path: String,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::Reserve => "the reserve is used",
            Self::Log => "an older log is deleted",
            Self::Event => "an event that waits for the plane is dropped",
            Self::Backup => "an older backup of etcd is deleted",
        }
    }
}

/// Sees to it that there is a reserve, where there is room for one.
pub fn keep(fs: &HostFs) -> Result<(), FsError> {
    let at = fs.at(RESERVE);
    let is_there = std::fs::metadata(&at).is_ok_and(|m| m.len() >= RESERVE_BYTES as u64);
    let room = space::of(&at).is_ok_and(|s| s.require(&at, RESERVE_BYTES as u64).is_ok());
    if is_there || !room {
        return Ok(());
    }
    // No file system may make less of it.
    let bytes: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(RESERVE_BYTES)
        .collect();
    fs.write(RESERVE, &bytes, &Attrs::mode(0o600))
}

/// Makes room for so many bytes at this path. False: nothing could go.
pub(super) fn make(fs: &HostFs, at: &Path, bytes: u64) -> bool {
    let Some(device) = device(at) else {
        return false;
    };
    let need = bytes.saturating_add(BESIDE);
    let (mut freed, mut files) = (0_u64, 0);
    for one in surplus(fs) {
        let path = fs.at(&one.path);
        let meta = std::fs::symlink_metadata(&path).ok();
        let Some(meta) = meta.filter(|m| m.is_file() && m.dev() == device) else {
            continue;
        };
        // What somebody has open gives no room when its name goes: then enough has gone all the same. The second half of a
        // backup goes with its first: alone it is of no use, and nobody would find it.
        let is_half = one.kind == Kind::Backup
            && one
                .path
                .strip_suffix(SEALED)
                .is_some_and(|name| !fs.at(format!("{name}{MANIFEST}")).exists());
        if !is_half && (is_enough(at, need) || (freed >= need && files >= FILES)) {
            break;
        }
        if disk::remove_file(&path).is_ok() {
            tracing::warn!(
                path = one.path,
                "{}: its file system is full",
                one.kind.words()
            );
            freed = freed.saturating_add(meta.len());
            files += 1;
        }
    }
    files > 0
}

fn is_enough(at: &Path, need: u64) -> bool {
    let dir = at.parent().unwrap_or(at);
    let files = space::inodes(dir).is_ok_and(|(all, free)| all == 0 || free >= FILES);
    files && space::of(dir).is_ok_and(|s| s.free >= need)
}

fn device(at: &Path) -> Option<u64> {
    let meta = at.ancestors().find_map(|p| std::fs::metadata(p).ok());
    meta.map(|m| m.dev())
}

/// All that could go, what goes first in front. What cannot be listed stays.
fn surplus(fs: &HostFs) -> Vec<Surplus> {
    let mut all = vec![Surplus {
        kind: Kind::Reserve,
        turn: 0,
        path: RESERVE.to_owned(),
    }];
    all.extend(older_logs(fs));
    all.extend(events(fs));
    all.extend(older_backups(fs));
    all.sort();
    all
}

/// `x.log.3` before `x.log.2`; the one that is written stays.
fn older_logs(fs: &HostFs) -> impl Iterator<Item = Surplus> {
    let names = |dir: &str| fs.list(dir).unwrap_or_default();
    let of = names(paths::LOG_DIR);
    let found: Vec<_> = of
        .iter()
        .map(|name| format!("{}/{name}", paths::LOG_DIR))
        .flat_map(|dir| {
            let logs = names(&dir);
            let logs = logs.into_iter().filter(|name| !name.starts_with(AUDIT));
            logs.map(move |name| format!("{dir}/{name}"))
        })
        .filter_map(|path| {
            let (_, number) = path.rsplit_once(".log.")?;
            let age: u64 = number.parse().ok()?;
            Some(Surplus {
                kind: Kind::Log,
                turn: u64::MAX - age,
                path,
            })
        })
        .collect();
    found.into_iter()
}

fn events(fs: &HostFs) -> impl Iterator<Item = Surplus> {
    let names = fs.list(EVENTS).unwrap_or_default();
    names.into_iter().filter_map(|name| {
        Some(Surplus {
            kind: Kind::Event,
            turn: name.strip_suffix(".json")?.parse().ok()?,
            path: format!("{EVENTS}/{name}"),
        })
    })
}

/// Each with its manifest, which goes first: without it the rest counts for nothing. Only what is whole has a turn or
/// counts as the newest: beside a newest one that is broken the last good one would go. Which signer is trusted is not
/// known here: the newest of each stays. While a restore is under way none goes: it may be the one that is restored.
fn older_backups(fs: &HostFs) -> Vec<Surplus> {
    if fs.at(paths::RESTORE_RUN).exists() {
        return Vec::new();
    }
    // What is mounted there is another file system: it makes no room here, and where its server is gone the event loop
    // would hang. The kernel's list is asked, not the mount.
    if matches!(mounts::at_or_below(fs, paths::ETCD_BACKUPS), Ok((true, _))) {
        return Vec::new();
    }
    let files = fs.list(paths::ETCD_BACKUPS).unwrap_or_default();
    let mut names: Vec<&str> = files
        .iter()
        .filter_map(|file| file.strip_suffix(MANIFEST))
        .filter(|name| is_backup_name(name))
        .collect();
    names.sort_unstable();
    let mut seen = BTreeSet::new();
    let mut older = Vec::new();
    for name in names.into_iter().rev() {
        // What cannot be read may be worth more than it seems.
        let Ok(BackupFiles::Whole(found)) = backups::look(fs, paths::ETCD_BACKUPS, name) else {
            continue;
        };
        if !seen.insert((found.says().cluster_id, found.key_id().to_owned())) {
            older.push(name);
        }
    }
    let pairs = (0..).step_by(2).zip(older.into_iter().rev());
    let both = pairs.flat_map(|(turn, name)| [(turn, name, MANIFEST), (turn + 1, name, SEALED)]);
    both.map(|(turn, name, end)| Surplus {
        kind: Kind::Backup,
        turn,
        path: format!("{}/{name}{end}", paths::ETCD_BACKUPS),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::documents::{Document, Store};
    use crate::host::testing::{fill_up, in_namespaces};
    use crate::model::etcd::signed::tests::signed;
    use crate::model::{BackupManifest, SigningKey};

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Paper {
        schema: u32,
        text: String,
    }

    impl Document for Paper {
        const SCHEMA: u32 = 1;
    }

    const LOG: &str = "/var/log/pf9/nodelet/nodelet.log";
    const AUDITED: &str = "/var/log/pf9/comms/audit.log";
    const STATE: &str = "/var/opt/pf9/nodelet/ledger.json";

    fn backup(name: &str) -> [String; 2] {
        [".json", ".db.age"].map(|end| format!("{}/{name}{end}", paths::ETCD_BACKUPS))
    }

    /// Two of one cluster, and one of another.
    const BACKUPS: [(&str, u128); 3] = [
        ("20260101T000000Z-r1", 1),
        ("20260102T000000Z-r2", 2),
        ("20260103T000000Z-r3", 1),
    ];

    const SEALED_BYTES: usize = 100_000;

    /// Lays one down, as it is taken.
    fn lay(fs: &HostFs, key: &SigningKey, (name, cluster): (&str, u128)) {
        let manifest = BackupManifest {
            name: name.to_owned(),
            cluster_id: crate::model::ClusterId(uuid::Uuid::from_u128(cluster)),
            sealed_bytes: SEALED_BYTES as u64,
            ..crate::model::golden::backup_manifest()
        };
        let text = serde_json::to_vec(&signed(key, &manifest)).expect("json");
        let [says, sealed] = backup(name);
        put(fs, &says, &text);
        put(fs, &sealed, &vec![7; SEALED_BYTES]);
    }

    fn put(fs: &HostFs, path: &str, bytes: &[u8]) {
        let written = fs.write(path, bytes, &Attrs::mode(0o600));
        written.expect("room");
    }

    fn furnish(fs: &HostFs) {
        let some = vec![7; 100_000];
        put(fs, RESERVE, &some);
        put(fs, LOG, &some);
        for n in [1, 2] {
            put(fs, &format!("{LOG}.{n}"), &some);
            put(fs, &format!("{AUDITED}.{n}"), &some);
            put(
                fs,
                &format!("{}/audit-{n}.log", paths::API_AUDIT_DIR),
                &some,
            );
            put(fs, &format!("{EVENTS}/{n:020}.json"), &some);
        }
        let (key, _) = SigningKey::generate().expect("key");
        BACKUPS.into_iter().for_each(|one| lay(fs, &key, one));
    }

    /// Which backups could go, the first to go in front.
    fn to_go(fs: &HostFs) -> Vec<String> {
        let all = surplus(fs).into_iter().filter(|s| s.kind == Kind::Backup);
        all.map(|s| s.path).collect()
    }

    #[test]
    fn beside_newer_ones_that_are_broken_the_newest_whole_one_stays() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let (key, _) = SigningKey::generate().expect("key");
        BACKUPS.into_iter().for_each(|one| lay(&fs, &key, one));
        assert_eq!(to_go(&fs), backup(BACKUPS[0].0));
        // A sealed file that is gone, one that is cut off, and a manifest that was renamed.
        let broken = [
            "20260104T000000Z-r4",
            "20260105T000000Z-r5",
            "20260106T000000Z-r6",
        ];
        for name in broken {
            lay(&fs, &key, (name, 1));
        }
        let [gone, cut, renamed] = broken.map(backup);
        fs.remove_file(&gone[1]).expect("gone");
        put(&fs, &cut[1], b"half");
        let other = std::fs::read(fs.at(&backup(BACKUPS[2].0)[0])).expect("manifest");
        put(&fs, &renamed[0], &other);
        assert_eq!(to_go(&fs), backup(BACKUPS[0].0));
        // A stranger's takes no good one's place.
        let (stranger, _) = SigningKey::generate().expect("key");
        lay(&fs, &stranger, ("20260107T000000Z-r7", 1));
        assert_eq!(to_go(&fs), backup(BACKUPS[0].0));
        // The next good one does.
        lay(&fs, &key, ("20260108T000000Z-r8", 1));
        assert_eq!(
            to_go(&fs),
            [backup(BACKUPS[0].0), backup(BACKUPS[2].0)].concat()
        );
        // On a file system of their own they make no room, and are not looked at.
        let mount = format!("36 35 98:0 / {} rw - nfs4 far:/ rw\n", paths::ETCD_BACKUPS);
        std::fs::create_dir_all(fs.at("/proc/self")).expect("directory");
        std::fs::write(fs.at("/proc/self/mountinfo"), mount).expect("mounts");
        assert_eq!(to_go(&fs), [""; 0]);
    }

    #[test]
    fn logs_go_before_events_and_those_before_older_backups_and_nothing_else_goes() {
        let test = "host::room::tests::logs_go_before_events_and_those_before_older_backups_and_nothing_else_goes";
        let Some(dir) = in_namespaces(test, &["--mount"], "mount -t tmpfs -o size=8m none \"$1\"")
        else {
            return;
        };
        let fs = HostFs::new(dir);
        let store = Store::new(fs.clone(), STATE, 0o600, 1 << 20);
        let paper = |text: &str| Paper {
            schema: 1,
            text: text.repeat(20_000),
        };
        store.save(&paper("0")).expect("room");
        furnish(&fs);
        let there = || -> BTreeSet<String> {
            let all = surplus(&fs).into_iter().map(|s| s.path);
            let [newest, other] = [BACKUPS[2].0, BACKUPS[1].0].map(backup);
            let all = all.chain([LOG.to_owned()]).chain(newest).chain(other);
            all.filter(|path| fs.at(path).exists()).collect()
        };
        // A document whose predecessor goes has the room of that one.
        let fill = || {
            let gone = fs.remove_file(format!("{STATE}.prev"));
            gone.expect("nothing of before");
            fill_up(&fs.at("/"))
        };
        let mut before = there();
        // As most documents are: it is refused, and nothing goes for it.
        let full = fill();
        let refused = store.save(&paper("1")).expect_err("no room");
        assert!(space::is_full(&refused.source));
        assert_eq!(there(), before);
        drop(full);

        let store = store.at_all_costs();
        let [says, sealed] = backup(BACKUPS[0].0);
        let turns: [&[String]; 4] = [
            &[RESERVE.to_owned()],
            &[format!("{LOG}.2")],
            &[format!("{LOG}.1")],
            &[format!("{EVENTS}/{:020}.json", 1)],
        ];
        for (n, gone) in turns.into_iter().enumerate() {
            let _full = fill();
            store.save(&paper(&n.to_string())).expect("room is made");
            let now = there();
            let went: Vec<&String> = before.difference(&now).collect();
            assert_eq!(went, gone.iter().collect::<Vec<_>>(), "turn {n}");
            before = now;
        }
        // None while one of them may be being restored.
        let attrs = Attrs::mode(0o600);
        fs.write(paths::RESTORE_RUN, b"{}", &attrs).expect("room");
        for n in 0..2 {
            let _full = fill();
            assert_eq!(store.save(&paper("5")).is_ok(), n == 0, "the last event");
        }
        fs.remove_file(paths::RESTORE_RUN).expect("over");
        let _full = fill();
        store.save(&paper("6")).expect("room is made");
        assert!(!fs.at(says).exists() && !fs.at(sealed).exists());
        let _more = fill();
        let refused = store.save(&paper("7")).expect_err("nothing can go");
        assert!(space::is_full(&refused.source));
        // What is never given up, and whole.
        for path in backup(BACKUPS[1].0).into_iter().chain(backup(BACKUPS[2].0)) {
            assert!(fs.at(&path).exists(), "{path}");
        }
        for path in [
            LOG.to_owned(),
            format!("{AUDITED}.1"),
            format!("{AUDITED}.2"),
            format!("{}/audit-1.log", paths::API_AUDIT_DIR),
            format!("{}/audit-2.log", paths::API_AUDIT_DIR),
        ] {
            assert!(fs.at(&path).exists(), "{path}");
        }
        let kept = store.look(|p: Paper| Ok(p.text)).value.expect("whole");
        assert!(kept.starts_with('6'));
    }

    #[test]
    fn the_reserve_is_there_again_when_there_is_room() {
        let test = "host::room::tests::the_reserve_is_there_again_when_there_is_room";
        let Some(dir) = in_namespaces(
            test,
            &["--mount"],
            "mount -t tmpfs -o size=160m none \"$1\"",
        ) else {
            return;
        };
        let fs = HostFs::new(dir);
        let is_there = || fs.at(RESERVE).exists();
        let full = fill_up(&fs.at("/"));
        keep(&fs).expect("not now");
        assert!(!is_there(), "a full one is left alone");
        drop(full);
        keep(&fs).expect("there is room");
        let size = std::fs::metadata(fs.at(RESERVE)).expect("there").blocks() * 512;
        assert!(size >= RESERVE_BYTES as u64, "{size} bytes are taken");
    }
}
