//! Planes as processes, killed at any moment.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pf9_hostagent::local::Method;
use serde_json::{Value, json};

use super::cluster::{Cluster, free};
use super::{admin, silence, soon, whys};

/// How often a plane is killed.
const KILLS: usize = 3;

/// A plane of its own process. It ends with its test, however that ends.
pub(crate) struct Process {
    pub(super) dir: PathBuf,
    child: Child,
    ready: tokio::sync::oneshot::Receiver<()>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
    }
}

impl Process {
    fn start(cluster: &Cluster, dir: &Path) -> Self {
        Self::start_at(cluster, dir, free(), &[])
    }

    /// With endpoints that hosts are told of.
    pub(crate) fn start_at(
        cluster: &Cluster,
        dir: &Path,
        listen: SocketAddr,
        endpoints: &[String],
    ) -> Self {
        let named = endpoints.iter().flat_map(|e| ["--endpoint", e.as_str()]);
        Self::start_with(cluster, dir, listen, &named.collect::<Vec<_>>())
    }

    /// With more arguments.
    pub(super) fn start_with(
        cluster: &Cluster,
        dir: &Path,
        listen: SocketAddr,
        more: &[&str],
    ) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_pf9-plane"))
            .args(["serve", "--store", "etcd", "--listen", &listen.to_string()])
            .arg("--state-dir")
            .arg(dir)
            .args(cluster.arguments())
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("pf9-plane");
        let out = child.stdout.take().expect("its output");
        let (told, ready) = tokio::sync::oneshot::channel();
        let reader = std::thread::spawn(move || {
            let mut told = Some(told);
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if line.starts_with("ready ")
                    && let Some(told) = told.take()
                {
                    told.send(()).ok();
                }
            }
        });
        Self {
            dir: dir.to_owned(),
            child,
            ready,
            reader: Some(reader),
        }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
        let reader = self.reader.take().expect("one");
        reader.join().expect("its output ends");
    }

    pub(super) fn signal(&self, which: &str) {
        let sent = Command::new("kill")
            .args([which, &self.child.id().to_string()])
            .status();
        assert!(sent.expect("kill").success());
    }

    /// What it has logged until now.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log/plane/plane.log")).unwrap_or_default()
    }

    pub(crate) async fn serves(&mut self) {
        soon(&mut self.ready).await.expect("it serves");
    }
}

/// Three times the serving one is killed in the middle of changes; another one takes over, and has every acknowledged
/// change, none twice.
#[tokio::test]
async fn a_plane_that_is_killed_at_any_moment_loses_no_acknowledged_change() {
    let cluster = Cluster::start();
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("tempdir"));
    let mut serving = Process::start(&cluster, dirs[0].path());
    serving.serves().await;
    let mut acknowledged: Vec<String> = Vec::new();
    let mut number = 0;
    for round in 0..KILLS {
        let mut waiting = Process::start(&cluster, dirs[(round + 1) % 2].path());
        let dir = serving.dir.clone();
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let writing = async {
            let mut done = Vec::new();
            // Only answered changes count. One in flight when the plane dies may exist or not.
            while stopped.try_recv().is_err() {
                number += 1;
                let why = format!("change-{number:04}");
                match admin(&dir, Method::POST, "/silences", &silence(&why)).await {
                    Ok(_) => done.push(why),
                    Err(_) => break,
                }
            }
            done
        };
        let killing = async {
            // Another moment in every run: whatever it is, the promise holds.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(100..400))).await;
            serving.kill();
            stop.send(()).ok();
        };
        let (done, ()) = tokio::join!(writing, killing);
        assert!(!done.is_empty(), "nothing was changed in round {round}");
        acknowledged.extend(done);
        waiting.serves().await;
        let listed = admin(&waiting.dir, Method::GET, "/silences", &Value::Null).await;
        let listed = whys(&listed.expect("a list"));
        for why in &acknowledged {
            let found = listed.iter().filter(|w| *w == why).count();
            assert_eq!(found, 1, "{why} of round {round}");
        }
        serving = waiting;
    }
    // The same plane: its signing keys are in the store.
    let authority = |n: usize| std::fs::read(dirs[n].path().join("ca.pem")).expect("authority");
    assert_eq!(authority(0), authority(1));
    let shown = admin(&serving.dir, Method::GET, "/store", &Value::Null).await;
    let shown = shown.expect("what it says of its store");
    assert_eq!(
        (&shown["store"], &shown["answers"]),
        (&json!("etcd"), &json!("yes"))
    );
    serving.kill();
}

/// Frozen for longer than its lease, like a machine that swaps or a VM being migrated: another one has taken over when
/// it wakes. It writes nothing any more, and ends.
#[tokio::test]
async fn a_plane_that_was_frozen_writes_nothing_when_it_wakes_and_ends() {
    let cluster = Cluster::start();
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("tempdir"));
    let mut first = Process::start(&cluster, dirs[0].path());
    first.serves().await;
    let one = admin(&first.dir, Method::POST, "/silences", &silence("one")).await;
    one.expect("a change");
    let mut second = Process::start(&cluster, dirs[1].path());
    first.signal("-STOP");
    second.serves().await;
    let two = admin(&second.dir, Method::POST, "/silences", &silence("two")).await;
    two.expect("a change");
    first.signal("-CONT");
    let late = admin(&first.dir, Method::POST, "/silences", &silence("late")).await;
    assert!(late.is_err(), "{late:?}");
    let ended = soon(async {
        loop {
            if let Some(ended) = first.child.try_wait().expect("its end") {
                return ended;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    assert!(!ended.await.success(), "a supervisor starts it again");
    let listed = admin(&second.dir, Method::GET, "/silences", &Value::Null).await;
    assert_eq!(whys(&listed.expect("a list")), ["one", "two"]);
    second.kill();
}
