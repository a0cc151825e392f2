//! Backups of real members, by the keeper, through its endpoint: each opens with either key and with anybody's tools;
//! an interrupted one is not a backup.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use pf9_hostagent::app::TaskGroup;
use pf9_hostagent::backup::shelf::{MANIFEST, SEALED, Shelf};
use pf9_hostagent::backup::take::{BackupOrigin, Taking, take};
use pf9_hostagent::backup::{seal, verify};
use pf9_hostagent::host::fs::{Attrs, HostFs};
use pf9_hostagent::local::{Method, Peer, Reply, Request, StatusCode};
use pf9_hostagent::model::{
    BackupManifest, BackupSettings, ChoreAnswer, EtcdView, Fault, FaultCode, Generation, Role,
    Secret, Timestamp, paths,
};
use pf9_hostagent::nodelet::etcd::{EtcdKeeper, desk};
use pf9_hostagent::nodelet::job::{Job, Work};
use tokio_util::sync::CancellationToken;

use crate::lab::{Lab, Machine, Node, VERSIONS};

const DIR: &str = paths::ETCD_BACKUPS;

/// Two keys; backups are sealed for the public halves.
struct Keys {
    plane: Secret<String>,
    recovery: Secret<String>,
}

fn keys_for(machine: &mut Machine) -> Keys {
    let policy = &mut machine.node.spec_mut().etcd.backup;
    let (plane, public) = seal::new_key();
    policy.plane_recipient = Some(public);
    let (recovery, public) = seal::new_key();
    policy.recovery_recipient = Some(public);
    Keys { plane, recovery }
}

fn call(method: Method, path: &str) -> Request {
    Request {
        method,
        path: path.into(),
        query: Default::default(),
        body: Default::default(),
        peer: Peer {
            uid: 0,
            gid: 0,
            pid: None,
        },
    }
}

/// Runs a keeper and sends it a request; its answer, and the view afterwards.
async fn asked(node: &mut Node, method: Method, path: &str) -> (Reply, EtcdView) {
    let work = Work {
        generation: Generation(1),
        role: Role::Master,
        node: std::sync::Arc::new(node.spec().clone()),
    };
    let (_job, working) = tokio::sync::watch::channel(Job::Node(work));
    let stop = CancellationToken::new();
    let mut group = TaskGroup::new(stop.clone());
    let (desk, inside) = desk();
    let keeper = EtcdKeeper::new(
        node.host.clone(),
        working,
        node.board.etcd(),
        inside,
        group.progress().beat("keeper"),
        stop.clone(),
        Err(Fault::new(FaultCode::Interrupted, "no way out", "a test")),
    );
    group.finite("keeper", keeper.run());
    let ask = async {
        let reply = desk.answer(&call(method, path)).await;
        let view = desk.answer(&call(Method::GET, "/v1/etcd")).await;
        stop.cancel();
        (reply, serde_json::from_slice(view.body()).expect("view"))
    };
    let (_, asked) = tokio::join!(group.run(Duration::from_secs(60)), ask);
    asked
}

/// A backup taken without the keeper.
pub(crate) async fn taken(
    node: &mut Node,
    dir: &str,
    db_bytes: u64,
) -> Result<BackupManifest, Fault> {
    let spec = node.spec().clone();
    let client = crate::lab::client_of(&node.host.fs, spec.node_ip, &spec);
    take(Taking {
        fs: &node.host.fs,
        etcd: &client,
        etcdutl: "/opt/pf9/stacks/current/bin/etcdutl",
        dir,
        recipients: spec.etcd.backup.recipients(),
        db_bytes,
        now: Timestamp::now(),
        about: BackupOrigin {
            host_id: spec.host_id,
            cluster_id: spec.cluster_id,
            etcd_cluster_id: "cafe".into(),
            member_id: "beef".into(),
            etcd_version: "3".into(),
            kubernetes_version: "1.37.2".into(),
            settings: BackupSettings::of(&spec),
        },
        sign: &node.signs(),
    })
    .await
}

fn plain(fs: &HostFs, name: &str, key: &Secret<String>) -> Result<Vec<u8>, Fault> {
    let keys = seal::keys(key)?;
    let sealed = fs.at(format!("{DIR}/{name}{SEALED}"));
    let mut opened = seal::open(&sealed, &keys)?;
    let mut bytes = Vec::new();
    opened
        .read_to_end(&mut bytes)
        .map_err(|e| Fault::new(FaultCode::BackupBroken, "it is broken", e.to_string()))?;
    Ok(bytes)
}

/// No leftovers remain besides backups.
fn nothing_else(fs: &HostFs, backups: usize) {
    let files = fs.list(DIR).expect("list");
    assert_eq!(files.len(), 2 * backups, "{files:?}");
    let scratch = fs.list(paths::ETCD_SCRATCH).expect("list");
    assert!(scratch.is_empty(), "{scratch:?}");
}

#[test]
fn a_backup_opens_with_either_key_and_is_what_etcd_has() {
    for version in VERSIONS {
        let mut lab = Lab::new(version, 1);
        let only = &mut lab.machines[0];
        let keys = keys_for(only);
        only.settled();
        // Leftover of a process that was killed.
        let left = format!("{DIR}/.pf9-tmp-4194305-1-0-new.db.age.tmp");
        only.fs
            .write(&left, b"half", &Attrs::mode(0o600))
            .expect("write");
        for n in 0..20 {
            only.ctl(&["put", &format!("/registry/pods/{n}"), &"x".repeat(1000)]);
        }
        let (reply, view) =
            only.inside(async |node| asked(node, Method::POST, "/v1/etcd/backup").await);
        assert_eq!(reply.status(), StatusCode::OK, "{reply:?}");
        let answer: ChoreAnswer = serde_json::from_slice(reply.body()).expect("answer");
        let made = answer.backup.expect("a backup");
        let shelf = Shelf::look(&only.fs, DIR, &only.node.believes()).expect("look");
        let newest = shelf.manifests().last().expect("one").clone();
        assert_eq!(newest.info(), made, "{version}");
        // etcdutl of 3.5 counts the keys of all buckets, the members' too.
        let counted = match version.starts_with("3.5.") {
            true => newest.keys > 20,
            false => newest.keys == 20,
        };
        assert!(counted, "{version}: {}", newest.keys);
        assert_eq!(view.etcd.expect("status").backups.last, Some(made));
        nothing_else(&only.fs, shelf.good.len());
        let of_the_plane = plain(&only.fs, &newest.name, &keys.plane).expect("opens");
        let of_recovery = plain(&only.fs, &newest.name, &keys.recovery).expect("opens");
        assert_eq!(of_the_plane, of_recovery);
        assert_eq!(of_the_plane.len() as u64, newest.plain_bytes);
        let stranger = plain(&only.fs, &newest.name, &seal::new_key().0);
        assert_eq!(
            stranger.expect_err("a stranger").code,
            FaultCode::KeyRefused
        );
        // Its content is a snapshot that etcd's own tool restores.
        let file = only.fs.at("/tmp/plain.db");
        std::fs::write(&file, &of_the_plane).expect("write");
        let etcdutl = only.fs.at("/opt/pf9/stacks/current/bin/etcdutl");
        let opened = only.inside({
            let (etcdutl, file) = (etcdutl.clone(), file.clone());
            async move |_| verify::test_open(&etcdutl, &file).await
        });
        let opened = opened.expect("opens");
        assert_eq!(
            (opened.hash, opened.revision),
            (newest.hash, newest.revision)
        );
        restored(&etcdutl, &file, &only.fs.at("/tmp/restored"));
    }
}

fn restored(etcdutl: &PathBuf, file: &PathBuf, to: &PathBuf) {
    let done = std::process::Command::new(etcdutl)
        .args(["snapshot", "restore"])
        .arg(file)
        .arg("--data-dir")
        .arg(to)
        .output()
        .expect("etcdutl");
    let why = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{why}");
}

/// A changed byte and a truncated file are detected by every reader.
#[test]
fn a_changed_or_shortened_backup_is_none() {
    let mut lab = Lab::new("3.7.3", 1);
    let only = &mut lab.machines[0];
    let keys = keys_for(only);
    only.settled();
    only.ctl(&["put", "a", "1"]);
    let made = only
        .inside(async |node| taken(node, DIR, 0).await)
        .expect("made");
    let path = only.fs.at(format!("{DIR}/{}{SEALED}", made.name));
    let good = std::fs::read(&path).expect("read");
    for at in [0, 100, 200, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).expect("write");
        assert_ne!(
            seal::digest(&path).expect("digest").sha256,
            made.sealed_sha256
        );
        plain(&only.fs, &made.name, &keys.recovery).expect_err("changed");
    }
    std::fs::write(&path, &good[..good.len() - 1]).expect("write");
    plain(&only.fs, &made.name, &keys.recovery).expect_err("short");
    let shelf = Shelf::look(&only.fs, DIR, &only.node.believes()).expect("look");
    assert_eq!((shelf.good, shelf.broken), (Vec::new(), vec![made.name]));
}

#[test]
fn an_etcd_that_dies_within_the_stream_leaves_nothing() {
    let mut lab = Lab::new("3.7.3", 1);
    let only = &mut lab.machines[0];
    keys_for(only);
    only.settled();
    // More than everything in flight at once.
    only.fill(48);
    let client = only.client();
    let kill = only.killer();
    let ended = only.inside(async move |_| {
        let mut snapshot = client.snapshot().await.expect("begins");
        snapshot.next().await.expect("the first").expect("bytes");
        kill();
        loop {
            match snapshot.next().await {
                Ok(Some(_)) => {}
                other => return other.map(drop).map_err(|e| e.to_string()),
            }
        }
    });
    ended.expect_err("it is not whole");
    let fault = only.inside(async |node| taken(node, DIR, 0).await);
    assert_eq!(fault.expect_err("no etcd").code, FaultCode::BackupFailed);
    nothing_else(&only.fs, 0);
}

/// A process stopped while it makes a backup, at any point: there is a complete backup or none.
#[test]
fn a_backup_that_is_dropped_anywhere_is_whole_or_none() {
    let mut lab = Lab::new("3.7.3", 1);
    let only = &mut lab.machines[0];
    let keys = keys_for(only);
    only.settled();
    only.fill(8);
    let mut polls = 1_u32;
    loop {
        let ended = only.inside(async |node| {
            let mut work = Box::pin(taken(node, DIR, 0));
            for _ in 0..polls {
                if let Some(made) = polled(&mut work).await {
                    return Some(made);
                }
            }
            None
        });
        // The runtime waits for the writer's thread when it ends.
        only.crash();
        let shelf = Shelf::look(&only.fs, DIR, &only.node.believes()).expect("look");
        for good in shelf.manifests() {
            let bytes = plain(&only.fs, &good.name, &keys.recovery).expect("whole");
            assert_eq!(bytes.len() as u64, good.plain_bytes);
        }
        let left = only.fs.list(paths::ETCD_SCRATCH).expect("list");
        assert!(left.is_empty(), "{left:?}");
        let named = |f: &String| f.ends_with(SEALED) || f.ends_with(MANIFEST);
        assert!(only.fs.list(DIR).expect("list").iter().all(named));
        if let Some(made) = ended {
            made.expect("made");
            break;
        }
        polls += polls.div_ceil(2);
    }
}

/// Polls it once: until it waits for something, and that has happened.
async fn polled<F: Future + Unpin>(work: &mut F) -> Option<F::Output> {
    use std::task::Poll;
    let mut pending = false;
    std::future::poll_fn(|cx| {
        if pending {
            return Poll::Ready(None);
        }
        match std::pin::Pin::new(&mut *work).poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => {
                pending = true;
                Poll::Pending
            }
        }
    })
    .await
}

#[test]
fn a_full_disk_is_said_before_and_while_and_leaves_nothing() {
    let mut lab = Lab::new("3.7.3", 1);
    let only = &mut lab.machines[0];
    keys_for(only);
    only.settled();
    only.fill(160);
    only.small_disk("/mnt/backups", "140m");
    // Checked first, where the size is known.
    let known = only.inside(async |node| taken(node, "/mnt/backups", 160 << 20).await);
    assert_eq!(known.expect_err("no room").code, FaultCode::DiskFull);
    let unknown = only.inside(async |node| taken(node, "/mnt/backups", 0).await);
    let fault = unknown.expect_err("no room");
    assert_eq!(fault.code, FaultCode::DiskFull, "{fault}");
    only.crash();
    assert_eq!(only.fs.list("/mnt/backups").expect("list").len(), 0);
    assert_eq!(only.fs.list(paths::ETCD_SCRATCH).expect("list").len(), 0);
}
