//! The catalogue of a cluster: what its stack has, how it is there, and turned on and off by who may.

use http::Method;
use pf9_hostagent::model::Digest;
use serde_json::{Value, json};

use super::bed::Bed;
use super::kube;
use pf9_hostagent::model::CertPurpose;

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
        "local-path-provisioner",
        "metrics-server",
        "kube-router",
        "metallb-controller",
        "metallb-speaker",
    ];
    let addons = [
        "addons/05-coredns.yaml",
        "addons/15-local-path.yaml",
        "addons/20-metrics-server.yaml",
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

    // Its master has no API server that could say who has such an address: on their own responsibility only.
    let (status, said) = turn("load-balancer", json!({"on": false})).await;
    assert_eq!(status, 409, "{said}");
    assert_eq!(state(&bed.get(&path).await, "load-balancer"), "on");
    let (status, said) = turn("load-balancer", json!({"on": false, "force": true})).await;
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
        // Its master has no API server that could say who uses it.
        ("coredns", json!({"on": false}), 409),
        ("flannel", json!({"on": true}), 409),
        ("calico", json!({"on": false}), 409),
        ("nothing", json!({"on": false}), 404),
        ("network-policies", json!({"on": "no"}), 400),
    ] {
        let (status, said) = turn(name, body).await;
        assert_eq!(status, code, "{name}: {said}");
    }
    let (status, said) = bed.admin_get("/clusters/blue/addons").await;
    assert_eq!((status, state(&said, "coredns")), (200, "on"));
}

/// One of the stack's own: off while nobody uses it, refused with who does, off all the same, told while it goes and where it
/// fails, and back again.
#[tokio::test]
async fn an_add_on_of_the_stack_goes_unless_it_is_in_use_and_comes_again() {
    let bed = Bed::new().await;
    stack(&bed).await;
    let mut master = bed.host("m1", "10.0.0.1").await;
    let cluster = bed.cluster("blue").await;
    let (code, said) = bed.attach(cluster, &[(&master, true)]).await;
    assert_eq!(code, 200, "{said}");
    let api = kube::master(cluster, &mut master, CertPurpose::ApiServer).await;
    let path = format!("/qbert/v4/{{project}}/clusters/{cluster}/addons");
    let tells = async |change: fn(&mut Value)| {
        let mut status = master.status("m1", "10.0.0.1");
        status["observed_generation"] = json!(master.current().await.generation);
        change(&mut status);
        let (code, said) = master
            .call(Method::POST, "/v1/hosts/self/status", &status)
            .await;
        assert_eq!(code, 204, "{said}");
    };
    let turn =
        async |name: &str, body: Value| bed.ask(Method::PUT, &format!("{path}/{name}"), body).await;
    let off = async || {
        let spec = serde_json::to_value(master.current().await).expect("json");
        spec["assignment"]["addons_off"].clone()
    };
    tells(|_| {}).await;
    assert_eq!(
        off().await,
        Value::Null,
        "an older agent need not know of it"
    );

    // A volume of it is somebody's data: who has it is said, with the field.
    let volume =
        |class: &str| json!({"metadata": {"name": "pvc-1"}, "spec": {"storageClassName": class}});
    let at = "/api/v1/persistentvolumes/pvc-1";
    api.objects.put(at, volume("local-path"));
    let (status, said) = turn("local-path", json!({"on": false})).await;
    assert_eq!(status, 409, "{said}");
    let words = said["error"]["message"].as_str().expect("words");
    for part in ["1 volumes (pvc-1)", "spec.storageClassName", "--force"] {
        assert!(words.contains(part), "{words}");
    }
    assert_eq!(state(&bed.get(&path).await, "local-path"), "on");
    assert_eq!(off().await, Value::Null, "nothing was changed");
    let (status, said) = turn("local-path", json!({"on": false, "force": true})).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(off().await, json!(["local-path"]));
    api.objects.put(at, volume("another"));

    // Nobody scales by it: it goes unasked, and all that is told of it is what the master says.
    let (status, said) = turn("metrics-server", json!({"on": false})).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(off().await, json!(["local-path", "metrics-server"]));
    assert_eq!(state(&bed.get(&path).await, "metrics-server"), "going");
    tells(|status| {
        status["state"] = json!("retrying");
        status["reason"] = json!({"code": "object", "what": "cannot remove add-on metrics-server",
            "why": "API server refused it", "fix": "", "retry_at": null});
    })
    .await;
    let now = bed.get(&path).await;
    assert_eq!(state(&now, "metrics-server"), "failed");
    assert_eq!(
        state(&now, "local-path"),
        "going",
        "that one is not spoken of"
    );
    let all = now["addons"].as_array().expect("list");
    let its = all.iter().find(|a| a["name"] == "metrics-server");
    let why = its.expect("there")["why"].as_str().expect("why");
    assert!(why.contains("API server refused it"), "{why}");
    tells(|_| {}).await;
    let now = bed.get(&path).await;
    assert_eq!(state(&now, "metrics-server"), "off");
    assert_eq!(state(&now, "local-path"), "off");
    assert_eq!(state(&now, "coredns"), "on");

    for name in ["metrics-server", "local-path"] {
        let (status, said) = turn(name, json!({"on": true})).await;
        assert_eq!(status, 200, "{name}: {said}");
        assert_eq!(state(&bed.get(&path).await, name), "coming");
    }
    assert_eq!(off().await, Value::Null);
    tells(|_| {}).await;
    assert_eq!(state(&bed.get(&path).await, "local-path"), "on");
}

/// What one master follows another may not have heard of yet, and one that is silent may not have followed.
#[tokio::test]
async fn one_is_there_when_every_master_has_followed() {
    let bed = Bed::new().await;
    stack(&bed).await;
    let names = ["m1", "m2", "m3"];
    let ips = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
    let mut masters = Vec::new();
    for (name, ip) in names.into_iter().zip(ips) {
        masters.push(bed.host(name, ip).await);
    }
    let cluster = bed.cluster("blue").await;
    let all: Vec<_> = masters.iter().map(|m| (m, true)).collect();
    let (code, said) = bed.attach(cluster, &all).await;
    assert_eq!(code, 200, "{said}");
    let path = format!("/qbert/v4/{{project}}/clusters/{cluster}/addons");
    for (i, master) in masters.iter().enumerate() {
        let now = bed.get(&path).await;
        for (name, is) in [("coredns", "coming"), ("load-balancer", "going")] {
            assert_eq!(state(&now, name), is, "{i} of 3 have followed");
        }
        let mut status = master.status(names[i], ips[i]);
        status["observed_generation"] = json!(master.current().await.generation);
        let (code, said) = master
            .call(Method::POST, "/v1/hosts/self/status", &status)
            .await;
        assert_eq!(code, 204, "{said}");
    }
    let now = bed.get(&path).await;
    assert_eq!(state(&now, "coredns"), "on");
    assert_eq!(state(&now, "load-balancer"), "off");
}
