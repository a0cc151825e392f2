//! The chore of the fire drill: the newest backup, a key, and how the last one went, on disk.

use serde::{Deserialize, Serialize};

use super::keeper::Master;
use super::key::{Key, openers};
use super::trust;
use crate::backup::drill::{self, Drill};
use crate::backup::shelf::{self, SEALED, Shelf};
use crate::host::Host;
use crate::host::documents::{Document, Store};
use crate::host::fs::HostFs;
use crate::model::{BackupPolicy, ChoreAnswer, DrillReport, Fault, FaultCode, Timestamp};
use crate::nodelet::peers::Peers;
use crate::nodelet::phase::layout::ETCD_BIN;
use crate::telemetry::chain;

const LAST: &str = "/var/opt/pf9/nodelet/etcd-drilled.json";
/// A report with a fault.
const LAST_MAX: u64 = 16 * 1024;
const NOT_TRIED: &str = "no backup of etcd was drilled";

/// How the last drill went: a restart makes no new one due.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Last {
    schema: u32,
    report: DrillReport,
}

impl Document for Last {
    const SCHEMA: u32 = 1;
}

/// How the last one went, as far as anybody knows.
pub(super) fn last(fs: &HostFs) -> Option<DrillReport> {
    let loaded = store(fs).load(crate::seam::clock::now(), |last: Last| Ok(last.report));
    if let Some(fault) = &loaded.fault {
        tracing::warn!(code = fault.code.word(), "{fault}");
    }
    loaded.value
}

/// Tries the newest backup of this cluster. Opened by the key in this file; else by the one that the policy
/// names; else by the plane. An error: nothing was tried (the plane is away, the machine is busy), so it
/// is due as before. How one went is a report, good or bad, and is on disk.
pub(super) async fn run(
    host: &Host,
    peers: &mut Peers,
    master: &Master,
    key: Option<&str>,
) -> Result<DrillReport, Fault> {
    let report = tried(host, peers, master, key, crate::seam::clock::now()).await?;
    let kept = Last {
        schema: Last::SCHEMA,
        report: report.clone(),
    };
    if let Err(error) = store(&host.fs).save(&kept) {
        // It is in the status until the next start, and the next drill comes early then.
        tracing::warn!(
            error = chain(&error),
            "the result of the drill could not be stored"
        );
    }
    Ok(report)
}

async fn tried(
    host: &Host,
    peers: &mut Peers,
    master: &Master,
    key: Option<&str>,
    now: Timestamp,
) -> Result<DrillReport, Fault> {
    let (fs, node) = (&host.fs, &master.work.node);
    let not = |why: String| Fault::new(FaultCode::EtcdDrill, NOT_TRIED, why);
    let policy = &node.etcd.backup;
    let dir = shelf::dir(policy);
    let look = Shelf::look(fs, dir, &trust::of(fs, node)).map_err(|e| not(chain(&e)))?;
    let Some(newest) = look.newest_of(node.cluster_id) else {
        let why = "there is none of this cluster on this machine";
        return Err(not(why.to_owned()).fix("pf9ctl etcd backup"));
    };
    let manifest = newest.manifest();
    let sealed = format!("{dir}/{}{SEALED}", manifest.name);
    let scratch = drill::begin(fs, manifest)?;
    let key = whose(key, policy);
    let keys = openers(fs, key, &fs.at(&sealed), newest).await;
    let keys = keys.map_err(|fault| Fault {
        what: NOT_TRIED.to_owned(),
        ..fault
    })?;
    let live = peers.etcd(fs, node).ok();
    let drill = Drill {
        fs,
        bin: ETCD_BIN,
        sealed: &sealed,
        manifest,
        keys,
        live: live.as_ref(),
    };
    Ok(drill::run(scratch, drill, now).await)
}

fn whose<'a>(named: Option<&'a str>, policy: &'a BackupPolicy) -> Key<'a> {
    match (named, policy.drill_key.as_deref()) {
        (Some(file), _) => Key::Named(file),
        (None, Some(file)) => Key::Kept(file),
        (None, None) => Key::OfThePlane,
    }
}

/// What a drill answers to who ordered it.
pub(super) fn answer(report: &DrillReport) -> Result<ChoreAnswer, Fault> {
    match &report.fault {
        Some(fault) => Err(fault.clone()),
        None => Ok(ChoreAnswer {
            done: format!(
                "backup {} was restored into an etcd of its own in {} s: {} keys, {} revisions behind the live cluster",
                report.backup,
                report.took_ms / 1000,
                report.keys,
                report.behind
            ),
            backup: None,
            archived: Vec::new(),
        }),
    }
}

fn store(fs: &HostFs) -> Store {
    Store::new(fs.clone(), LAST, 0o600, LAST_MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::super::testing::{Does, FakePlane, NAME, backup};
    use super::*;
    use crate::backup::seal;
    use crate::host::fs::Attrs;
    use crate::model::{Generation, Role, Secret, paths};
    use crate::nodelet::job::Work;
    use crate::nodelet::testing::{Cas, enrolled, node};

    /// Opens what is no snapshot, too.
    const ETCDUTL: &str = r#"#!/bin/sh
case "$1 $2" in
"snapshot status") echo '{"hash":1,"revision":7,"totalKey":3,"totalSize":4096,"version":"3.7.0"}' ;;
"snapshot restore") ;;
*) exit 1 ;;
esac
"#;
    /// How far a drill comes here.
    const ETCD: &str = "#!/bin/sh\necho it was started >&2\nexit 1\n";

    struct World {
        host: Host,
        master: Master,
        key: Secret<String>,
        _dir: tempfile::TempDir,
    }

    /// A master with a backup that the plane can open.
    fn world() -> World {
        let dir = tempfile::tempdir().expect("directory");
        let fs = HostFs::new(dir.path());
        enrolled(&fs);
        for (program, text) in [("etcdutl", ETCDUTL), ("etcd", ETCD)] {
            fs.write(
                format!("{ETCD_BIN}/{program}"),
                text.as_bytes(),
                &Attrs::mode(0o755),
            )
            .expect("write");
        }
        let prlimit = fs.at("/usr/bin/prlimit");
        std::fs::create_dir_all(prlimit.parent().expect("directory")).expect("directory");
        std::os::unix::fs::symlink("/usr/bin/prlimit", prlimit).expect("link");
        let (key, public) = seal::new_key();
        let node = node(Cas::new().authorities);
        let stem = format!("{}/{NAME}", paths::ETCD_BACKUPS);
        backup(&fs, &node, &stem, b"all there is", &public);
        let work = Work {
            generation: Generation(1),
            role: Role::Master,
            node: Arc::new(node),
        };
        World {
            host: Host::new(fs),
            master: Master {
                host_id: work.node.host_id,
                work,
            },
            key,
            _dir: dir,
        }
    }

    impl World {
        async fn drilled(&self, key: Option<&str>) -> Result<DrillReport, Fault> {
            run(&self.host, &mut Peers::default(), &self.master, key).await
        }
    }

    #[tokio::test]
    async fn the_plane_opens_what_is_tried_and_how_it_went_is_kept() {
        let world = world();
        let plane = FakePlane::start(&world.host.fs, &world.key, Does::Opens);
        let report = world.drilled(None).await.expect("tried");
        let why = report.fault.clone().expect("no etcd").why;
        assert!(
            why.contains("it was started"),
            "it was opened and restored: {why}"
        );
        assert_eq!(plane.asked.load(Ordering::SeqCst), 1);
        assert_eq!(last(&world.host.fs), Some(report));
        assert!(!world.host.fs.at(drill::DIR).exists());
    }

    #[tokio::test]
    async fn what_could_not_be_tried_is_no_drill_and_leaves_nothing() {
        let world = world();
        let away = world.drilled(None).await.expect_err("nobody is there");
        assert!(away.fix.contains("--recovery-key"), "{away}");
        assert_eq!(away.what, NOT_TRIED);
        for does in [Does::Refuses, Does::GoesAway, Does::Lies] {
            let _plane = FakePlane::start(&world.host.fs, &world.key, does);
            world.drilled(None).await.expect_err("not opened");
        }
        let none = world
            .drilled(Some("/root/none.key"))
            .await
            .expect_err("no key");
        assert_eq!(none.code, FaultCode::KeyInvalid);
        // A machine without memory: before anybody is asked for a key.
        let meminfo = b"MemTotal: 100000 kB\nMemAvailable: 1000 kB\n";
        world
            .host
            .fs
            .write("/proc/meminfo", meminfo, &Attrs::mode(0o644))
            .expect("write");
        let plane = FakePlane::start(&world.host.fs, &world.key, Does::Opens);
        let busy = world.drilled(None).await.expect_err("no memory");
        assert_eq!(busy.code, FaultCode::MemoryLow, "{busy}");
        assert_eq!(plane.asked.load(Ordering::SeqCst), 0);
        assert_eq!(last(&world.host.fs), None);
        assert!(!world.host.fs.at(drill::DIR).exists());
    }

    /// One that stays on the machine is used only where no other user may read it.
    #[tokio::test]
    async fn a_key_of_the_policy_goes_before_the_plane_and_is_roots_alone() {
        let mut world = world();
        let mut node = (*world.master.work.node).clone();
        node.etcd.backup.drill_key = Some("/etc/pf9/root/drill.key".into());
        world.master.work.node = Arc::new(node);
        let plane = FakePlane::start(&world.host.fs, &world.key, Does::Opens);
        for (mode, tried) in [(0o644, false), (0o600, true)] {
            let key = world.key.expose().as_bytes();
            world
                .host
                .fs
                .write("/etc/pf9/root/drill.key", key, &Attrs::mode(mode))
                .expect("write");
            assert_eq!(world.drilled(None).await.is_ok(), tried, "{mode:o}");
        }
        assert_eq!(plane.asked.load(Ordering::SeqCst), 0);
    }
}
