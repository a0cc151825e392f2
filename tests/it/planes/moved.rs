//! A store moves from the state directory to etcd and back, only on the operator's order.

use std::path::Path;
use std::process::Command;

use pf9_hostagent::local::Method;
use pf9_plane::{EtcdPlace, ServeConfig, Server};
use serde_json::Value;

use super::cluster::{Cluster, free};
use super::{admin, silence, soon, whys};
use crate::support::within;

async fn copy(cluster: &Cluster, dir: &Path, to: &str) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pf9-plane"));
    command
        .args(["store", "copy", "--to", to])
        .arg("--state-dir")
        .arg(dir)
        .args(cluster.arguments());
    let done = tokio::task::spawn_blocking(move || command.output().expect("pf9-plane"));
    let done = soon(done).await.expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match done.status.success() {
        true => Ok(text(&done.stdout)),
        false => Err(text(&done.stderr)),
    }
}

fn config(cluster: Option<&Cluster>, dir: &Path) -> ServeConfig {
    ServeConfig {
        etcd: cluster.map(Cluster::place),
        ..ServeConfig::new(dir, free())
    }
}

async fn refused(config: ServeConfig) -> String {
    match soon(Server::start(config)).await {
        Ok(_) => panic!("it started"),
        Err(fault) => fault.to_string(),
    }
}

#[tokio::test]
async fn rows_move_to_etcd_and_back_and_no_plane_starts_on_the_old_copy() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path();
    let plane = soon(Server::start(config(None, path)))
        .await
        .expect("embedded");
    admin(path, Method::POST, "/silences", &silence("one"))
        .await
        .expect("a change");
    let said = copy(&cluster, path, "etcd")
        .await
        .expect_err("the plane runs");
    assert!(said.contains("cannot open the store"), "{said}");
    within(plane.stop()).await;
    // A new plane in etcd beside the existing one would have other keys.
    let said = refused(config(Some(&cluster), path)).await;
    assert!(said.contains("there is an embedded store"), "{said}");
    let authority = std::fs::read(path.join("ca.pem")).expect("authority");

    let said = copy(&cluster, path, "etcd").await.expect("copied");
    assert!(said.contains("rows are in etcd"), "{said}");
    let said = refused(config(None, path)).await;
    assert!(said.contains("--store etcd"), "{said}");
    let plane = soon(Server::start(config(Some(&cluster), path)))
        .await
        .expect("in etcd");
    let listed = admin(path, Method::GET, "/silences", &Value::Null).await;
    assert_eq!(whys(&listed.expect("a list")), ["one"]);
    admin(path, Method::POST, "/silences", &silence("two"))
        .await
        .expect("a change");
    let said = copy(&cluster, path, "embedded")
        .await
        .expect_err("the plane runs");
    assert!(said.contains("stop it first"), "{said}");
    within(plane.stop()).await;

    let said = copy(&cluster, path, "embedded").await.expect("copied");
    assert!(said.contains("rows are in the embedded store"), "{said}");
    let said = refused(config(Some(&cluster), path)).await;
    assert!(said.contains("were copied to an embedded store"), "{said}");
    let plane = soon(Server::start(config(None, path)))
        .await
        .expect("embedded");
    let listed = admin(path, Method::GET, "/silences", &Value::Null).await;
    assert_eq!(whys(&listed.expect("a list")), ["one", "two"]);
    assert_eq!(
        std::fs::read(path.join("ca.pem")).expect("authority"),
        authority
    );
    within(plane.stop()).await;
}

/// Another prefix is named, or etcd has lost everything: where a fleet was none begins anew, which no host would know.
#[tokio::test]
async fn an_empty_etcd_is_refused_where_a_fleet_was() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path();
    let plane = soon(Server::start(config(Some(&cluster), path)))
        .await
        .expect("a new fleet");
    admin(path, Method::POST, "/silences", &silence("one"))
        .await
        .expect("a change");
    within(plane.stop()).await;
    let authority = || std::fs::read(path.join("ca.pem")).expect("authority");
    let ours = authority();

    let elsewhere = || EtcdPlace {
        prefix: "/elsewhere/".into(),
        ..cluster.place()
    };
    let said = refused(ServeConfig {
        etcd: Some(elsewhere()),
        ..ServeConfig::new(path, free())
    })
    .await;
    assert!(said.contains("restore etcd from its snapshot"), "{said}");
    assert!(said.contains("plane-copy.redb"), "{said}");
    assert_eq!(cluster.ctl(&["get", "--prefix", "/elsewhere/rows/"]), "");
    // The right one is served as before.
    let plane = soon(Server::start(config(Some(&cluster), path)))
        .await
        .expect("the fleet");
    let listed = admin(path, Method::GET, "/silences", &Value::Null).await;
    assert_eq!(whys(&listed.expect("a list")), ["one"]);
    within(plane.stop()).await;

    let lose = || drop(cluster.ctl(&["del", "--prefix", &Cluster::key("")]));
    lose();
    for _ in 0..2 {
        let said = refused(config(Some(&cluster), path)).await;
        assert!(said.contains("restore etcd from its snapshot"), "{said}");
        assert_eq!(authority(), ours, "nothing here is another fleet's");
    }
    // One whose rows were only ever copied there has the file that they are from.
    let copied = tempfile::tempdir().expect("tempdir");
    let plane = soon(Server::start(config(None, copied.path()))).await;
    within(plane.expect("embedded").stop()).await;
    lose();
    copy(&cluster, copied.path(), "etcd").await.expect("copied");
    lose();
    let said = refused(config(Some(&cluster), copied.path())).await;
    assert!(said.contains(".in-etcd is a copy"), "{said}");
    // Where none was one begins.
    let new = tempfile::tempdir().expect("tempdir");
    let plane = soon(Server::start(config(Some(&cluster), new.path()))).await;
    within(plane.expect("a new fleet").stop()).await;
}
