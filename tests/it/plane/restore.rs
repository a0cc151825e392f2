//! A restore of a cluster's etcd, as the plane orders it.

use http::Method;
use pf9_hostagent::model::RestoreOrder;
use serde_json::{Value, json};

use super::etcd::World;

impl World {
    async fn restore(&self, method: Method, wanted: Value) -> (u16, Value) {
        let path = format!(
            "/qbert/v4/{{project}}/clusters/{}/etcd/restore",
            self.cluster
        );
        self.bed.ask(method, &path, wanted).await
    }

    /// This master's order about it.
    async fn told(&self, master: usize) -> Option<RestoreOrder> {
        let spec = self.masters[master].current().await;
        spec.assignment.node().expect("node").etcd.restore.clone()
    }

    async fn says(&self, master: usize, order: &RestoreOrder, state: &str) {
        let etcd = json!({"restore": {"id": order.id, "state": state}});
        self.reports(master, etcd).await;
    }

    /// Its newest backup.
    async fn has(&self, master: usize, backup: &str) {
        let last = json!({
            "name": backup, "taken_at": "2026-11-28T14:00:00Z", "revision": 7, "keys": 3,
            "sealed_bytes": 1, "sealed_sha256": "00".repeat(32), "etcd_version": "3.7.3",
        });
        self.reports(master, json!({"backups": {"last": last}}))
            .await;
    }
}

#[tokio::test]
async fn every_master_gets_the_go_after_the_founders_data_are_ready() {
    let world = World::new(3).await;
    let (code, said) = world.restore(Method::POST, json!({})).await;
    assert_eq!(code, 409, "nobody has a backup: {said}");
    world.has(0, "20261128T140000Z-r7").await;
    world.has(1, "20261128T143000Z-r9").await;
    let (code, said) = world.restore(Method::POST, json!({})).await;
    assert_eq!(code, 200, "{said}");
    let order = world.told(2).await.expect("in every spec");
    assert_eq!(order.founder, world.masters[1].id, "who has the newest");
    assert_eq!(order.snapshot, "20261128T143000Z-r9");
    assert!(!order.go, "nothing stops before the data are made");
    let (code, said) = world.restore(Method::POST, json!({})).await;
    assert_eq!(code, 409, "one at a time: {said}");

    world.says(0, &order, "ready").await;
    assert!(
        !world.told(2).await.expect("order").go,
        "only the founder's word counts"
    );
    world.says(1, &order, "ready").await;
    for master in 0..3 {
        assert!(
            world.told(master).await.expect("order").go,
            "master {master}"
        );
    }
    for master in [1, 2] {
        world.says(master, &order, "done").await;
        assert!(world.told(0).await.is_some(), "one has not streamed it");
    }
    world.says(0, &order, "done").await;
    for master in 0..3 {
        assert_eq!(world.told(master).await, None);
    }
    let (_, shown) = world.restore(Method::GET, Value::Null).await;
    assert_eq!(shown["restore"], Value::Null, "{shown}");
    assert_eq!(shown["masters"][0]["restore"]["state"], "done", "{shown}");
}

#[tokio::test]
async fn a_restore_is_withdrawn_and_a_founder_has_to_be_a_master() {
    let world = World::new(1).await;
    let stranger = json!({"backup": "x", "founder": uuid::Uuid::from_u128(7)});
    let (code, said) = world.restore(Method::POST, stranger).await;
    assert_eq!(code, 409, "{said}");
    let wanted = json!({"backup": "/root/s.db", "founder": world.masters[0].id,
                        "anyCluster": true, "recoveryKey": "/root/recovery.key"});
    let (code, said) = world.restore(Method::POST, wanted).await;
    assert_eq!(code, 200, "{said}");
    let order = world.told(0).await.expect("order");
    assert!(
        order.go && order.any_cluster,
        "a lone master waits for nobody"
    );
    assert_eq!(order.recovery_key.as_deref(), Some("/root/recovery.key"));
    let (code, said) = world.restore(Method::DELETE, Value::Null).await;
    assert_eq!((code, world.told(0).await), (200, None), "{said}");
}

/// The disks are dead, the archive is not: every master can fetch the named backup, and the newest is the one that a
/// master reports there.
#[tokio::test]
async fn a_backup_only_in_the_archive_is_restored() {
    let world = World::new(3).await;
    let name = "20261128T140000Z-r7";
    let (code, said) = world.restore(Method::POST, json!({"backup": name})).await;
    assert_eq!(code, 409, "there is no archive: {said}");
    let path = format!("/qbert/v4/{{project}}/clusters/{}", world.cluster);
    let backup = json!({"archive": {"kind": "dir", "path": "/mnt/nas", "mount": "/mnt/nas"}});
    let body = json!({"etcdBackup": backup});
    let (code, said) = world.bed.ask(Method::PATCH, &path, body).await;
    assert_eq!(code, 200, "{said}");
    let bad = json!({"etcdBackup": {"archive": {"kind": "dir", "path": "nas"}}});
    let (code, said) = world.bed.ask(Method::PATCH, &path, bad).await;
    assert_eq!(code, 400, "{said}");
    let said = said.to_string();
    assert!(
        said.contains("etcdBackup.archive.path") && said.contains("nas"),
        "{said}"
    );
    // The one that reported last prepares the data.
    world.reports(1, json!({})).await;
    let (code, said) = world.restore(Method::POST, json!({"backup": name})).await;
    assert_eq!(code, 200, "{said}");
    let order = world.told(0).await.expect("order");
    assert_eq!(
        (order.founder, order.snapshot.as_str()),
        (world.masters[1].id, name)
    );
    let (code, _) = world.restore(Method::DELETE, Value::Null).await;
    assert_eq!(code, 200);
    let archive =
        json!({"place": "/mnt/nas", "last": "20261128T150000Z-r9", "count": 1, "bytes": 1});
    world
        .reports(2, json!({"backups": {"archive": archive}}))
        .await;
    let (code, said) = world.restore(Method::POST, json!({})).await;
    assert_eq!(code, 200, "{said}");
    let order = world.told(0).await.expect("order");
    assert_eq!(order.founder, world.masters[2].id);
    assert_eq!(order.snapshot, "20261128T150000Z-r9");
    let spec = world.masters[0].current().await;
    let policy = &spec.assignment.node().expect("node").etcd.backup;
    assert!(policy.archive.is_some());
    assert_eq!(policy.drill_every_days, 7, "drills are made without a word");
}
