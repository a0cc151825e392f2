//! Alerts of a plane whose rows are in etcd, and of its successor.

use std::time::Duration;

use pf9_plane::{ServeConfig, Server};
use serde_json::Value;

use super::super::bed::Bed;
use super::{Hook, certificate, key, tell, within};
use crate::planes::cluster::{Cluster, Mode, free};

/// Longer than the lease of the previous one, on a busy machine.
const LONG: Duration = Duration::from_secs(60);

async fn soon<T>(work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(LONG, work).await;
    done.expect("it takes too long")
}

/// The plane that sent it.
fn teller(told: &Value) -> String {
    told["externalURL"]
        .as_str()
        .expect("where it is from")
        .to_owned()
}

/// An alert waits for a target that does not accept it. Its plane is cut off from etcd, and sends nothing once it
/// knows; its successor sends the same alert, once.
#[tokio::test]
async fn a_waiting_alert_is_sent_by_the_plane_that_takes_over() {
    let cluster = Cluster::start();
    let (ways, by) = cluster.ways().await;
    let place = cluster.place_by(&by);
    let bed = soon(Bed::with(|config| config.etcd = Some(place))).await;
    let ops = Hook::new(503).await;
    tell(&bed, "ops", "alertmanager", &ops.url()).await;
    let node = bed.host("n1", "10.1.0.1").await;
    certificate(&node, false).await;
    let tried = ops.nth(1).await;
    assert_eq!(teller(&tried.1), bed.url);

    for way in &ways {
        way.set(Mode::Cut);
    }
    soon(async {
        while bed.admin_get("/store").await.1["answers"] != "no" {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    // One in flight may still arrive.
    let known = ops.all().len() + 1;
    let dir = tempfile::tempdir().expect("tempdir");
    let config = ServeConfig {
        etcd: Some(cluster.place()),
        ..ServeConfig::new(dir.path(), free())
    };
    let second = soon(Server::start(config)).await.expect("it takes over");
    ops.answer(200);
    let (told, by_second) = soon(async {
        loop {
            let all = ops.all();
            let by_second = all
                .iter()
                .filter(|t| teller(&t.1) == second.public_url())
                .count();
            if by_second > 0 {
                return (all, by_second);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert_eq!(by_second, 1, "once");
    assert!(told.iter().all(|t| key(t) == key(&tried)), "the same alert");
    let by_first = told.len() - by_second;
    assert!(
        by_first <= known,
        "{by_first} by one that cannot note what arrives"
    );
    within(second.stop()).await;
}
