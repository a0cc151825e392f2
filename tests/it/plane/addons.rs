//! The catalogue of a cluster: what its stack has, how it is there, and turned on and off by who may.

use http::Method;
use pf9_hostagent::model::Digest;
use serde_json::{Value, json};

use super::bed::Bed;

/// A stack with a few add-ons of its own.
async fn stack(bed: &Bed) {
    let dir = tempfile::tempdir().expect("tempdir");
    let archive = b"an archive of no importance";
    let image = |name: &str| {
        json!({"reference": format!("pf9.local/{name}:v1.2.3"), "path": format!("images/{name}.tar"),
               "component": name, "roles": ["master", "worker"]})
    };
    let images = [
        "coredns",
        "kube-router",
        "metallb-controller",
        "metallb-speaker",
    ];
    let addons = [
        "addons/05-coredns.yaml",
        "addons/30-network-policies.yaml",
        "addons/40-load-balancer.yaml",
    ];
    let paths = images.map(|name| format!("images/{name}.tar"));
    let paths = paths.into_iter().chain(addons.map(str::to_owned));
    let files: Vec<Value> = paths
        .map(|path| {
            json!({"path": path, "mode": "644", "sha256": Digest::of(b""), "size": 0, "component": "x"})
        })
        .collect();
    let manifest = json!({
        "schema": 1, "name": "pf9-kube", "version": "1.37.2-1", "kubernetes": "1.37.2", "arch": "amd64",
        "archive": {"sha256": Digest::of(archive), "size": archive.len()}, "components": [], "files": files,
        "images": images.map(image), "addons": addons,
    });
    std::fs::write(dir.path().join("manifest.json"), manifest.to_string()).expect("write");
    std::fs::write(dir.path().join("stack.tar.zst"), archive).expect("write");
    let (status, said) = bed.admin("/stacks", json!({"path": dir.path()})).await;
    assert_eq!(status, 200, "{said}");
}

fn state<'a>(catalogue: &'a Value, name: &str) -> &'a str {
    let mut all = catalogue["addons"].as_array().expect("list").iter();
    let found = all.find(|a| a["name"] == name);
    found.expect(name)["state"].as_str().expect("state")
}

#[tokio::test]
async fn an_add_on_is_turned_on_comes_and_is_turned_off_again() {
    let bed = Bed::new().await;
    stack(&bed).await;
    let master = bed.host("m1", "10.0.0.1").await;
    let cluster = bed.cluster("blue").await;
    let (code, said) = bed.attach(cluster, &[(&master, true)]).await;
    assert_eq!(code, 200, "{said}");
    let path = format!("/qbert/v4/{{project}}/clusters/{cluster}/addons");
    let obeys = async || {
        let mut status = master.status("m1", "10.0.0.1");
        status["observed_generation"] = json!(master.current().await.generation);
        let (code, said) = master
            .call(Method::POST, "/v1/hosts/self/status", &status)
            .await;
        assert_eq!(code, 204, "{said}");
    };
    let turn = async |name: &str, body: Value| {
        let path = format!("{path}/{name}");
        bed.ask(Method::PUT, &path, body).await
    };
    let now = bed.get(&path).await;
    assert_eq!(state(&now, "coredns"), "coming", "no master has said so");
    obeys().await;
    let now = bed.get(&path).await;
    for (name, is) in [
        ("coredns", "on"),
        ("network-policies", "on"),
        ("load-balancer", "off"),
        ("flannel", "off"),
    ] {
        assert_eq!(state(&now, name), is, "{name}: {now}");
    }
    assert_eq!(now["addons"][0]["version"], "1.2.3");
    assert_eq!(now["stack"], "1.37.2-1");

    let pool = json!({"on": true, "addresses": ["10.0.9.0/28"]});
    let (status, said) = turn("load-balancer", pool).await;
    assert_eq!(status, 200, "{said}");
    let now = bed.get(&path).await;
    assert_eq!(
        state(&now, "load-balancer"),
        "coming",
        "its master was told, and has not followed"
    );
    obeys().await;
    let now = bed.get(&path).await;
    assert_eq!(state(&now, "load-balancer"), "on");
    let spec = master.current().await;
    assert!(
        serde_json::to_string(&spec)
            .expect("json")
            .contains("10.0.9"),
        "it is in what the master follows"
    );

    let (status, said) = turn("load-balancer", json!({"on": false})).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(state(&bed.get(&path).await, "load-balancer"), "going");
    obeys().await;
    assert_eq!(state(&bed.get(&path).await, "load-balancer"), "off");

    for (name, body, code) in [
        ("load-balancer", json!({"on": true}), 400),
        // An address of the node itself.
        (
            "load-balancer",
            json!({"on": true, "addresses": ["10.0.0.0/28"]}),
            400,
        ),
        ("coredns", json!({"on": false}), 409),
        ("nothing", json!({"on": false}), 409),
        ("network-policies", json!({"on": "no"}), 400),
    ] {
        let (status, said) = turn(name, body).await;
        assert_eq!(status, code, "{name}: {said}");
    }
    let (status, said) = bed.admin_get("/clusters/blue/addons").await;
    assert_eq!((status, state(&said, "coredns")), (200, "on"));
}
