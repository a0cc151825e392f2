//! The configuration is wrong: nothing is done to the host until it is right, and every answer
//! says why. What was installed runs on.
//!
//! Ending would be worse: the caller still waits at the socket, so systemd would start nodelet
//! again at once, and again.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::job::{self, Orders};
use super::lifecycle::{Failing, Lifecycle};
use super::status::NodeBoard;
use crate::app::Config;
use crate::host::fs::HostFs;
use crate::model::Fault;

/// How soon a corrected configuration is noticed. A few small files are read: that costs nothing,
/// and unlike a watch it misses no way in which files come about.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Shows the fault until the configuration is right; `None`: the process ends before.
pub async fn until_right(
    fs: &HostFs,
    board: &mut NodeBoard,
    orders: &watch::Receiver<Orders>,
    mut fault: Fault,
    shutdown: &CancellationToken,
) -> Option<Config> {
    loop {
        tracing::error!(code = fault.code.word(), "{fault}");
        show(board, &orders.borrow().clone(), &fault);
        let before = fault.clone();
        while fault == before {
            board.expects(LOOK_AGAIN);
            tokio::select! {
                // cancel-safe: both are
                () = shutdown.cancelled() => return None,
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            match Config::load(fs) {
                Ok(config) => {
                    tracing::info!("the configuration is valid again");
                    return Some(config);
                }
                Err(now) => fault = now,
            }
        }
    }
}

fn show(board: &mut NodeBoard, orders: &Orders, fault: &Fault) {
    let (role, cluster) = job::shown(orders.spec.known().map(|s| &s.assignment));
    board.spec(orders.generation(), role, cluster);
    board.lifecycle(&Lifecycle::Failed(Failing {
        key: "config".into(),
        attempts: 1,
        fault: fault.clone(),
        next_try: crate::seam::clock::now(),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::TaskGroup;
    use crate::host::fs::Attrs;
    use crate::local::Client;
    use crate::model::{NodeState, NodeStatus, paths};
    use crate::nodelet::testing::enrolled;

    #[tokio::test]
    async fn who_asks_is_told_and_work_begins_when_the_file_is_right() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        std::fs::create_dir_all(fs.at("/var/log/pf9/kube")).expect("log dir");
        std::fs::create_dir_all(fs.at("/run/pf9")).expect("socket's dir");
        enrolled(&fs);
        let configure = |text: &str| {
            fs.write(paths::CONFIG, text.as_bytes(), &Attrs::mode(0o644))
                .expect("configuration");
        };
        configure("[nodelet]\nsweeps = 60\n");
        let wrong = Config::load(&fs);
        let fault = wrong.clone().expect_err("a wrong configuration");

        let mut group = TaskGroup::new(CancellationToken::new());
        let stop = group.shutdown();
        crate::nodelet::start(fs.clone(), wrong, &mut group)
            .await
            .expect("it starts all the same");
        let client = Client::unix(fs.at(paths::NODELET_SOCKET)).expect("client");
        let wait = Duration::from_secs(30);
        let asked = async {
            let mut status: NodeStatus = client.get("/v1/status", wait).await.expect("status");
            let mut seen = vec![(status.state, status.reason.clone())];
            while seen.last().expect("one").0 != NodeState::Failed {
                let path = format!("/v1/status?after={}&wait=20", status.revision);
                status = client.get(&path, wait).await.expect("status");
                seen.push((status.state, status.reason.clone()));
            }
            assert_eq!(seen.pop(), Some((NodeState::Failed, Some(fault))));
            configure("[nodelet]\nsweep_s = 90\n");
            while status.state != NodeState::Ok {
                let path = format!("/v1/status?after={}&wait=20", status.revision);
                status = client.get(&path, wait).await.expect("status");
            }
            assert_eq!(status.reason, None);
            stop.cancel();
        };
        let (failed, ()) = tokio::join!(group.run(Duration::from_secs(5)), asked);
        assert_eq!(failed, None);
        let log = fs.read_text(paths::KUBE_LOG, 1 << 20).expect("read");
        let log = log.expect("kube.log");
        assert!(
            log.contains("failed: cannot use the configuration"),
            "{log}"
        );
        assert!(log.contains("nodelet.sweeps"), "{log}");
    }
}
