//! Fire drills with real members and real backups: a good one passes, a bad one is reported, and nothing is left
//! behind, however a drill ends.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pf9_hostagent::backup::drill::{self, DIR, Drill};
use pf9_hostagent::backup::seal;
use pf9_hostagent::backup::shelf::SEALED;
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::model::{BackupManifest, DrillReport, FaultCode, Secret, Timestamp, paths};

use crate::backup;
use crate::lab::{Lab, Machine, Node, VERSIONS, client_of};

const BIN: &str = "/opt/pf9/stacks/current/bin";

/// A member with this many keys, a backup of it, and the key that opens that.
fn backed_up(only: &mut Machine, keys: usize) -> (BackupManifest, Secret<String>) {
    let (key, public) = seal::new_key();
    only.node.spec_mut().etcd.backup.recovery_recipient = Some(public);
    // The lab's machines have no distribution programs.
    let prlimit = only.fs.at("/usr/bin/prlimit");
    symlink("/usr/bin/prlimit", prlimit).expect("link");
    only.settled();
    for n in 0..keys {
        only.ctl(&["put", &format!("/registry/pods/{n}"), &"x".repeat(100)]);
    }
    let manifest = only.inside(async |node| taken(node).await);
    (manifest, key)
}

pub(crate) async fn taken(node: &mut Node) -> BackupManifest {
    let made = backup::taken(node, paths::ETCD_BACKUPS, 1 << 20);
    made.await.expect("a backup")
}

async fn drilled(node: &Node, manifest: &BackupManifest, key: &Secret<String>) -> DrillReport {
    let spec = node.spec();
    let live = client_of(&node.host.fs, spec.node_ip, spec);
    let keys = seal::keys(key).expect("keys");
    let sealed = sealed(manifest);
    let drill = Drill {
        fs: &node.host.fs,
        bin: BIN,
        sealed: &sealed,
        manifest,
        keys,
        live: Some(&live),
    };
    let scratch = drill::begin(&node.host.fs, manifest).expect("room");
    drill::run(scratch, drill, Timestamp::now()).await
}

fn sealed(manifest: &BackupManifest) -> String {
    format!("{}/{}{SEALED}", paths::ETCD_BACKUPS, manifest.name)
}

/// Processes that a drill of this machine started.
fn running(machine: &HostFs) -> Vec<PathBuf> {
    let dir = machine.at(DIR).display().to_string();
    let all = fs::read_dir("/proc").expect("proc");
    let pids = all.map(|entry| entry.expect("entry").path());
    let ours = pids.filter(|pid| {
        let words = fs::read(pid.join("cmdline")).unwrap_or_default();
        // A killed process that was not reaped yet has no command line.
        String::from_utf8_lossy(&words).contains(&dir)
    });
    ours.collect()
}

fn nothing_stays(machine: &HostFs) {
    let until = Instant::now() + Duration::from_secs(20);
    // Killed is not gone: that takes the kernel a moment.
    while !running(machine).is_empty() && Instant::now() < until {
        std::thread::yield_now();
    }
    assert_eq!(running(machine), Vec::<PathBuf>::new());
    assert!(!machine.at(DIR).exists(), "{:?}", machine.list(DIR));
}

#[test]
fn the_newest_backup_is_restored_counted_and_taken_away() {
    for version in VERSIONS {
        let mut lab = Lab::new(version, 1);
        let only = &mut lab.machines[0];
        let (manifest, key) = backed_up(only, 20);
        for n in 0..5 {
            only.ctl(&["put", "/registry/pods/0", &n.to_string()]);
        }
        // Leftovers of a drill that was killed.
        let left = only.fs.at(format!("{DIR}/data/member"));
        fs::create_dir_all(&left).expect("directory");
        let report = only.inside(async |node| drilled(node, &manifest, &key).await);
        assert_eq!(report.fault, None, "{version}");
        assert_eq!((report.keys, report.behind), (20, 5), "{version}");
        assert_eq!(report.backup, manifest.name);
        nothing_stays(&only.fs);
        // History was compacted: what can be counted is counted.
        only.ctl(&["compact", &(manifest.revision + 3).to_string()]);
        let report = only.inside(async |node| drilled(node, &manifest, &key).await);
        assert_eq!((report.fault, report.behind), (None, 5), "{version}");
    }
}

#[test]
fn what_is_not_what_it_should_be_fails_the_drill() {
    let mut lab = Lab::new("3.7.3", 1);
    let only = &mut lab.machines[0];
    let (manifest, key) = backed_up(only, 3);
    let code = |only: &mut Machine, manifest: &BackupManifest, key: &Secret<String>| {
        let report = only.inside(async |node| drilled(node, manifest, key).await);
        nothing_stays(&only.fs);
        report.fault.map(|f| (f.code, f.why))
    };
    let (another, _) = seal::new_key();
    let told = code(only, &manifest, &another).expect("another key");
    assert_eq!(told.0, FaultCode::KeyRefused, "{told:?}");

    let mut wrong = manifest.clone();
    wrong.revision += 1;
    let told = code(only, &wrong, &key).expect("another revision");
    assert_eq!(told.0, FaultCode::BackupBroken, "{told:?}");
    assert!(told.1.contains("is of another backup"), "{told:?}");

    let path = only.fs.at(sealed(&manifest));
    let mut bytes = fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).expect("write");
    let told = code(only, &manifest, &key).expect("a flipped bit");
    assert_ne!(told.0, FaultCode::KeyRefused, "{told:?}");
}

#[test]
fn a_drill_that_is_cut_off_leaves_nothing_and_was_bounded() {
    let mut lab = Lab::new("3.7.3", 1);
    let only = &mut lab.machines[0];
    let (manifest, key) = backed_up(only, 3);
    let limits = only.inside(async |node| {
        let fs = node.host.fs.clone();
        let started = async {
            loop {
                // Its socket exists: it serves.
                if let (true, [pid]) = (fs.at(DIR).join("socket").exists(), &*running(&fs)) {
                    return fs::read_to_string(pid.join("limits")).expect("limits");
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            biased;
            limits = started => limits,
            report = drilled(node, &manifest, &key) => panic!("it was not seen: {report:?}"),
        }
    });
    for bound in ["Max data size", "Max file size"] {
        let line = limits.lines().find(|l| l.starts_with(bound)).expect(bound);
        assert!(!line.contains("unlimited"), "{line}");
    }
    nothing_stays(&only.fs);
    let report = only.inside(async |node| drilled(node, &manifest, &key).await);
    assert_eq!(report.fault, None);
}
