//! The keeper on a machine without etcd, over its desk.

use std::sync::Arc;

use super::super::desk::{EtcdHandle, desk};
use super::super::testing::{NAME, backup as backup_of};
use super::*;
use crate::app::TaskGroup;
use crate::host::fs::{Attrs, HostFs};
use crate::local::{Method, Peer, Request, StatusCode};
use crate::model::{Generation, NodeSpec, paths};
use crate::nodelet::status::NodeBoard;
use crate::nodelet::testing::{Cas, enrolled, node};

struct World {
    desk: EtcdHandle,
    job: watch::Sender<Job>,
    board: NodeBoard,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

/// A keeper on a machine without etcd, and its inputs.
fn world(job: Job) -> (World, TaskGroup) {
    world_with(job, |_| {})
}

/// The same, on a machine that is made ready.
fn world_with(job: Job, ready: impl FnOnce(&HostFs)) -> (World, TaskGroup) {
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    ready(&fs);
    let stop = CancellationToken::new();
    let mut group = TaskGroup::new(stop.clone());
    let (job, working) = watch::channel(job);
    let (desk, inside) = desk();
    let board = NodeBoard::new(&fs).0;
    let beat = group.progress().beat("keeper");
    let etcd = board.etcd();
    let egress = Err(Fault::new(FaultCode::Interrupted, "no way out", "a test"));
    let keeper = EtcdKeeper::new(
        Host::new(fs),
        working,
        etcd,
        inside,
        beat,
        stop.clone(),
        egress,
    );
    group.finite("keeper", keeper.run());
    let world = World {
        desk,
        job,
        board,
        stop,
        _dir: dir,
    };
    (world, group)
}

impl World {
    async fn call(&self, method: Method, path: &str) -> (StatusCode, serde_json::Value) {
        self.call_with(method, path, b"").await
    }

    /// What is under way.
    async fn busy(&self) -> serde_json::Value {
        let (_, view) = self.call(Method::GET, "/v1/etcd").await;
        view["etcd"]["chore"].clone()
    }

    /// Until this chore is under way.
    async fn until_busy(&self, chore: Chore) {
        while self.busy().await != chore.words() {
            tokio::task::yield_now().await;
        }
    }

    async fn call_with(
        &self,
        method: Method,
        path: &str,
        body: &'static [u8],
    ) -> (StatusCode, serde_json::Value) {
        let request = Request {
            method,
            path: path.into(),
            query: Default::default(),
            body: body.into(),
            peer: Peer {
                uid: 0,
                gid: 0,
                pid: None,
            },
        };
        let reply = self.desk.answer(&request).await;
        let body = serde_json::from_slice(reply.body()).expect("json");
        (reply.status(), body)
    }
}

fn master_job() -> Job {
    job_of(node(Cas::new().authorities), Role::Master)
}

fn job_of(node: NodeSpec, role: Role) -> Job {
    Job::Node(Work {
        generation: Generation(1),
        role,
        node: Arc::new(node),
    })
}

/// A worker has no member, and a copy of a master does nothing in the original's name.
#[tokio::test]
async fn a_worker_and_a_copy_that_holds_do_nothing() {
    let worker = job_of(node(Cas::new().authorities), Role::Worker);
    let hold = |fs: &HostFs| {
        fs.write(paths::HOLD, b"held", &Attrs::mode(0o600))
            .expect("write");
    };
    for (world, group) in [world(worker), world_with(master_job(), hold)] {
        let asks = async {
            let (status, fault) = world.call(Method::POST, "/v1/etcd/backup").await;
            assert_eq!(status, StatusCode::CONFLICT);
            assert_eq!(fault["code"], "no-master", "{fault}");
            let (_, view) = world.call(Method::GET, "/v1/etcd").await;
            assert!(view.get("etcd").is_none(), "{view}");
            world.stop.cancel();
        };
        tokio::join!(group.run(Duration::from_secs(5)), asks);
    }
}

/// A chore that waits long for the plane ends when this host is assigned to another cluster, or to none; news of the
/// same node ends nothing.
#[tokio::test]
async fn a_chore_is_cut_off_by_another_job_and_not_by_news_of_the_same_one() {
    let mut other = node(Cas::new().authorities);
    other.cluster_id = crate::model::ClusterId::random();
    let worker = job_of(node(Cas::new().authorities), Role::Worker);
    for job in [
        job_of(other, Role::Master),
        worker,
        Job::Nothing(Generation(2)),
    ] {
        let mut plane = None;
        let silent_plane = |fs: &HostFs| {
            enrolled(fs);
            let (_, public) = crate::backup::seal::new_key();
            let stem = format!("{}/{NAME}", paths::ETCD_BACKUPS);
            backup_of(fs, &node(Cas::new().authorities), &stem, b"x", &public);
            let at = fs.at(paths::PLANE_SOCKET);
            std::fs::create_dir_all(at.parent().expect("directory")).expect("directory");
            // It takes connections, and never answers.
            plane = Some(std::os::unix::net::UnixListener::bind(at).expect("bind"));
        };
        let (world, group) = world_with(master_job(), silent_plane);
        let asks = async {
            let drill = world.call_with(Method::POST, "/v1/etcd/drill", b"{}");
            let meanwhile = async {
                world.until_busy(Chore::Drill).await;
                let mut same = node(Cas::new().authorities);
                same.etcd.backup.keep = 7;
                world.job.send_replace(job_of(same, Role::Master));
                // Any task that would end it for that gets to run.
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
                assert_eq!(world.busy().await, Chore::Drill.words());
                world.job.send_replace(job.clone());
            };
            let ((status, fault), ()) = tokio::join!(drill, meanwhile);
            assert_eq!(status, StatusCode::CONFLICT, "{fault}");
            assert_eq!(fault["code"], "interrupted", "{fault}");
            assert!(
                fault["why"]
                    .as_str()
                    .is_some_and(|w| w.contains("another node")),
                "{fault}"
            );
            world.stop.cancel();
        };
        tokio::join!(group.run(Duration::from_secs(20)), asks);
        drop(plane);
    }
}

#[tokio::test]
async fn without_a_member_there_is_nothing_to_order() {
    let (world, group) = world(Job::Nothing(Generation(1)));
    let asks = async {
        let (status, fault) = world.call(Method::POST, "/v1/etcd/backup").await;
        assert_eq!(status, StatusCode::CONFLICT);
        assert_eq!(fault["code"], "no-master", "{fault}");
        world.stop.cancel();
    };
    tokio::join!(group.run(Duration::from_secs(5)), asks);
}

/// What goes wrong is answered, shown with the same words, and gone with the role.
#[tokio::test]
async fn what_fails_is_answered_and_shown_and_a_role_that_goes_takes_it_along() {
    let (world, group) = world(master_job());
    let asks = async {
        let (status, fault) = world.call(Method::POST, "/v1/etcd/backup").await;
        assert_eq!(status, StatusCode::CONFLICT, "{fault}");
        let (_, view) = world.call(Method::GET, "/v1/etcd").await;
        assert_eq!(view["etcd"]["backups"]["failing"], fault);
        assert_eq!(view["etcd"]["fault"]["code"], "etcd-not-healthy");
        world.job.send_replace(Job::Nothing(Generation(2)));
        // It takes up one order more when it has seen that.
        let (_, fault) = world.call(Method::POST, "/v1/etcd/backup").await;
        assert_eq!(fault["code"], "no-master", "{fault}");
        let (_, view) = world.call(Method::GET, "/v1/etcd").await;
        assert!(view.get("etcd").is_none(), "{view}");
        world.stop.cancel();
    };
    tokio::join!(group.run(Duration::from_secs(5)), asks);
    drop(world.board);
}
