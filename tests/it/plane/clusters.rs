//! From enrolled hosts to nodes of a cluster: specs, membership.

use http::Method;
use pf9_hostagent::model::{Assignment, NetworkPolicies, Role};
use pf9_plane::ServeConfig;
use serde_json::{Value, json};

use super::bed::{Bed, until};
use super::node::Node;

/// Hosts are told a name; whatever it means, no pod has that address.
#[tokio::test]
async fn a_cluster_that_would_cover_what_the_planes_name_means_is_refused() {
    let named = |config: &mut ServeConfig| config.endpoints = vec!["wss://localhost:8443".into()];
    let bed = Bed::with(named).await;
    bed.stack("1.37.2-1").await;
    until(|| async {
        let wanted = json!({"name": "c", "containersCidr": "127.0.0.0/16", "servicesCidr": "10.21.0.0/22",
                            "networkPlugin": "bridge"});
        let clusters = "/qbert/v4/{project}/clusters";
        let (status, said) = bed.ask(Method::POST, clusters, wanted).await;
        // Its own address is refused as well, and before the first look at the name.
        assert_eq!(status, 409, "{said}");
        let said = said["error"]["message"].as_str().expect("words");
        let words = "127.0.0.0/16 contains 127.0.0.1, where this plane is (localhost)";
        said.contains(words).then_some(())
    })
    .await;
}

#[tokio::test]
async fn hosts_become_nodes_and_hosts_again() {
    let bed = Bed::new().await;
    let (master, worker) = (
        bed.host("M1", "10.1.0.1").await,
        bed.host("w1", "10.1.0.2").await,
    );
    let first = master.current().await;
    assert_eq!(
        (first.generation.0, first.assignment),
        (1, Assignment::None)
    );

    let (status, said) = bed
        .ask(
            Method::POST,
            "/qbert/v4/{project}/clusters",
            json!({"name": "c", "containersCidr": "10.20.0.0/16", "servicesCidr": "10.21.0.0/22",
                   "networkPlugin": "bridge"}),
        )
        .await;
    assert_eq!(
        (status, said["error"]["fault"]["code"].as_str()),
        (400, Some("stack-unknown"))
    );
    let stack = bed.stack("1.37.2-1").await;
    let cluster = bed.cluster("c").await;
    // A running long poll returns the attach.
    let both = [(&master, true), (&worker, false)];
    let (news, attached) = tokio::join!(master.spec(1), bed.attach(cluster, &both));
    assert_eq!(attached.0, 200, "{}", attached.1);
    let spec = news.expect("news");
    let node = spec.assignment.node().expect("node");
    assert_eq!(
        (spec.generation.0, spec.assignment.role()),
        (2, Role::Master)
    );
    assert_eq!(node.node_name.as_str(), "m1");
    assert_eq!(json!(node.stack.manifest), stack["manifest"]);
    assert_eq!(node.network.peers[0].node_ip.to_string(), "10.1.0.2");
    let other = worker.spec(1).await.expect("spec");
    assert_eq!(other.assignment.role(), Role::Worker);
    assert_eq!(other.assignment.node().expect("node").api.host, "10.1.0.1");

    let nodes = bed.get("/qbert/v4/{project}/nodes").await;
    let names: Vec<_> = nodes
        .as_array()
        .expect("list")
        .iter()
        .map(|n| &n["name"])
        .collect();
    assert!(
        names.contains(&&json!("m1")) && names.contains(&&json!("w1")),
        "{names:?}"
    );
    let node = bed
        .get(&format!("/qbert/v4/{{project}}/nodes/{}", master.id))
        .await;
    // It reported ok, but for an older generation.
    assert_eq!(node["pf9"]["state"], json!("converging"));
    assert_eq!(
        (node["isMaster"].clone(), node["clusterName"].clone()),
        (json!(1), json!("c"))
    );
    let mut status = master.status("m1", "10.1.0.1");
    status["observed_generation"] = json!(2);
    master
        .call(Method::POST, "/v1/hosts/self/status", &status)
        .await;
    let node = bed
        .get(&format!("/qbert/v4/{{project}}/nodes/{}", master.id))
        .await;
    assert_eq!(node["pf9"]["state"], json!("ok"));

    let (status, said) = bed.detach(cluster, &[&master]).await;
    assert_eq!(
        (status, said["error"]["fault"]["code"].as_str()),
        (409, Some("last-master"))
    );
    assert_eq!(bed.detach(cluster, &[&worker]).await.0, 200);
    let gone = worker.spec(other.generation.0).await.expect("news");
    assert_eq!(gone.assignment, Assignment::None);
    let alone = master.spec(2).await.expect("news");
    assert!(
        alone
            .assignment
            .node()
            .expect("node")
            .network
            .peers
            .is_empty()
    );
    let path = format!("/qbert/v4/{{project}}/clusters/{cluster}");
    assert_eq!(bed.ask(Method::DELETE, &path, Value::Null).await.0, 200);
    let gone = master.spec(alone.generation.0).await.expect("news");
    assert_eq!(gone.assignment, Assignment::None);
    assert_eq!(bed.get("/qbert/v4/{project}/clusters").await, json!([]));
}

#[tokio::test]
async fn an_attach_is_all_or_nothing() {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let (a, b) = (
        bed.host("a", "10.1.0.1").await,
        bed.host("a", "10.1.0.2").await,
    );
    let cluster = bed.cluster("c").await;
    // It claims a name that another host has, and so cannot become a node.
    let (status, said) = bed.attach(cluster, &[(&a, true), (&b, false)]).await;
    assert_eq!(
        (status, said["error"]["fault"]["code"].as_str()),
        (409, Some("host-silent"))
    );
    assert_eq!(bed.get("/qbert/v4/{project}/nodes").await, json!([]));
    assert_eq!(a.current().await.generation.0, 1);
    // Restored from a backup: it has an older generation than the host saw. It reports that, once.
    let ask = |seen: u64| format!("/v1/hosts/self/spec?after=9&seen={seen}&wait=0");
    let (status, _) = a.call(Method::GET, &ask(9), &Value::Null).await;
    assert_eq!(status, 200, "an older one is told too");
    let (status, _) = a.call(Method::GET, &ask(1), &Value::Null).await;
    assert_eq!(status, 204, "but not again");
    let stranger = Node::new(pf9_hostagent::model::HostId::random());
    let (status, said) = bed.attach(cluster, &[(&a, true), (&stranger, false)]).await;
    assert_eq!(
        (status, said["error"]["fault"]["code"].as_str()),
        (404, Some("host-unknown"))
    );
    // A host is in one cluster at a time.
    assert_eq!(bed.attach(cluster, &[(&a, true)]).await.0, 200);
    let other = bed.cluster("d").await;
    let (status, said) = bed.attach(other, &[(&a, true)]).await;
    assert_eq!(
        (status, said["error"]["fault"]["code"].as_str()),
        (409, Some("host-attached"))
    );
}

/// Masters come in zones that may each be lost, or in none; and settings of the API server reach only masters.
#[tokio::test]
async fn zones_and_issuers_are_checked_and_reach_only_masters() {
    let bed = Bed::new().await;
    bed.stack("1.37.2-1").await;
    let cluster = bed.cluster("c").await;
    let mut masters = Vec::new();
    for n in 1..=3 {
        masters.push(bed.host(&format!("m{n}"), &format!("10.1.0.{n}")).await);
    }
    let worker = bed.host("w1", "10.1.0.9").await;
    let path = format!("/qbert/v4/{{project}}/clusters/{cluster}");
    let attach = async |zones: [Value; 3]| {
        let hosts = masters.iter().zip(zones);
        let hosts: Vec<Value> = hosts
            .map(|(m, zone)| {
                let region = zone.as_str().map(|_| "north");
                json!({"uuid": m.id, "isMaster": true, "zone": zone, "region": region})
            })
            .collect();
        bed.ask(Method::POST, &format!("{path}/attach"), hosts.into())
            .await
    };
    for (zones, words) in [
        (
            [json!("a"), json!("a"), json!("b")],
            "zone: \"a\" has 2 of 3",
        ),
        (
            [json!("a"), Value::Null, Value::Null],
            "zone: 1 of 3 masters has a zone (m1: \"a\")",
        ),
        ([json!("a b"), json!("b"), json!("c")], "\"a b\" is not"),
    ] {
        let (status, said) = attach(zones).await;
        let why = said["error"]["fault"]["why"].as_str().unwrap_or_default();
        assert!(
            (status == 409 || status == 400) && why.contains(words),
            "{said}"
        );
    }
    let (status, said) = attach([json!("a"), json!("b"), json!("c")]).await;
    assert_eq!(status, 200, "{said}");
    for (place, words) in [
        (json!({"zone": "a"}), "zone \"a\" would be in two regions"),
        (json!({"region": "x y"}), "region of host"),
    ] {
        let mut host = json!({"uuid": worker.id});
        host.as_object_mut()
            .expect("object")
            .extend(place.as_object().expect("object").clone());
        let said = bed
            .ask(Method::POST, &format!("{path}/attach"), json!([host]))
            .await;
        let why = said.1["error"]["fault"]["why"].as_str().unwrap_or_default();
        assert!(why.contains(words), "{said:?}");
    }
    assert_eq!(bed.attach(cluster, &[(&worker, false)]).await.0, 200);
    let spec = masters[1].current().await;
    let labels = &spec.assignment.node().expect("node").labels;
    assert_eq!(labels["topology.kubernetes.io/zone"], "b");
    assert_eq!(labels["topology.kubernetes.io/region"], "north");
    assert_eq!(bed.get(&path).await["warnings"], json!([]));

    let issuer = |prefix: &str| {
        json!({"podSecurity": {"enforce": "restricted"}, "audit": {"keepDays": 90}, "oidc": [{
            "url": "https://login.example.com", "audiences": ["kubernetes"],
            "authority": include_str!("../../support/issuer.pem"),
            "username": {"claim": "sub", "prefix": prefix},
        }]})
    };
    let (status, said) = bed.ask(Method::PATCH, &path, issuer("system:")).await;
    let why = said["error"]["fault"]["why"].as_str().unwrap_or_default();
    assert_eq!(status, 400, "{said}");
    assert!(
        why.starts_with("oidc[0].username.prefix: \"system:\""),
        "{said}"
    );
    let before = worker.current().await.generation;
    assert_eq!(bed.ask(Method::PATCH, &path, issuer("oidc:")).await.0, 200);
    let api = masters[0].current().await.assignment;
    let api = &api.node().expect("node").api;
    assert_eq!(api.oidc[0].username.prefix, "oidc:");
    assert!(!api.pod_security.is_default());
    assert_eq!(api.audit.keep_days(), 90);
    assert_eq!(
        worker.current().await.generation,
        before,
        "a worker has none"
    );
    let shown = bed.get(&path).await;
    assert_eq!(shown["oidc"][0]["url"], "https://login.example.com");
    assert_eq!(shown["podSecurity"]["warn"], "restricted");
    assert_eq!(shown["audit"], json!({"off": false, "keepDays": 90}));
}

/// Add-ons that the stack lacks are refused with field and value, and nothing changes; accepted ones reach the nodes.
#[tokio::test]
async fn add_ons_that_the_stack_lacks_are_refused_with_the_request() {
    let bed = Bed::new().await;
    bed.stack("1.37.2-1").await;
    let master = bed.host("m1", "10.1.0.1").await;
    let id = bed.cluster("c").await;
    assert_eq!(bed.attach(id, &[(&master, true)]).await.0, 200);
    let before = master.current().await.generation;
    let path = format!("/qbert/v4/{{project}}/clusters/{id}");
    for (body, words) in [
        (
            json!({"networkPolicies": "on"}),
            "networkPolicies: on, but stack pf9-kube 1.37.2-1 has no image of kube-router",
        ),
        (
            json!({"loadBalancer": {"addresses": ["10.1.0.64/30"]}}),
            "loadBalancer.addresses: 10.1.0.64-10.1.0.67, but stack",
        ),
    ] {
        let (status, said) = bed.ask(Method::PATCH, &path, body).await;
        let fault = &said["error"]["fault"];
        assert_eq!(
            (status, fault["code"].as_str()),
            (400, Some("addon-missing")),
            "{said}"
        );
        assert!(
            fault["why"].as_str().unwrap_or_default().starts_with(words),
            "{said}"
        );
    }
    assert_eq!(master.current().await.generation, before);
    // A network whose images the operator provides: the refusal names them, before there is a cluster.
    let calico = json!({"name": "d", "containersCidr": "10.20.0.0/16", "servicesCidr": "10.21.0.0/22",
                        "networkPlugin": "calico"});
    let (status, said) = bed
        .ask(Method::POST, "/qbert/v4/{project}/clusters", calico)
        .await;
    let why = said["error"]["fault"]["why"].as_str().unwrap_or_default();
    assert_eq!(status, 400, "{said}");
    assert!(
        why.starts_with("networkPlugin: calico, but stack pf9-kube 1.37.2-1 has no image of calico-node (quay.io/"),
        "{said}"
    );
    assert!(
        why.contains("calico-cni (quay.io/") && why.contains("calico-kube-controllers (quay.io/")
    );
    let off = json!({"networkPolicies": "off"});
    assert_eq!(bed.ask(Method::PATCH, &path, off).await.0, 200);
    let assignment = master.current().await.assignment;
    let network = &assignment.node().expect("node").network;
    assert_eq!(network.policies, NetworkPolicies::Off);
    assert_eq!(bed.get(&path).await["networkPolicies"], "off");
}

/// A shared address that cannot work is refused with field and value: one that a machine has, when the cluster is made
/// and when hosts are attached, and one that is in no network of a master.
#[tokio::test]
async fn an_impossible_shared_address_is_refused_with_the_request() {
    let bed = Bed::new().await;
    bed.stack("1.37.2-1").await;
    let other = bed.host("other", "10.1.0.250").await;
    let master = bed.host("m1", "10.1.0.1").await;
    let make = async |ip: &str| {
        let body = json!({"name": "c", "containersCidr": "10.20.0.0/16", "servicesCidr": "10.21.0.0/22",
                          "networkPlugin": "bridge", "masterIp": ip, "masterVipEnabled": true});
        bed.ask(Method::POST, "/qbert/v4/{project}/clusters", body)
            .await
    };
    let refused = |said: &Value, code: &str, words: &str| {
        let fault = &said["error"]["fault"];
        assert_eq!(fault["code"].as_str(), Some(code), "{said}");
        let why = fault["why"].as_str().unwrap_or_default();
        assert!(why.starts_with(words), "{said}");
    };
    let others = |ip: &str| format!("masterIp: {ip} is an address of host {}", other.id);
    let (status, said) = make("10.1.0.250").await;
    assert_eq!(status, 409, "{said}");
    refused(&said, "address-taken", &others("10.1.0.250"));
    let (status, said) = make("10.1.0.251").await;
    assert_eq!(status, 200, "{said}");
    let cluster = said["uuid"].as_str().expect("uuid").parse().expect("uuid");
    // A machine has got it since.
    assert_eq!(other.say("other", "10.1.0.251").await.0, 204);
    let (status, said) = bed.attach(cluster, &[(&master, true)]).await;
    assert_eq!(status, 409, "{said}");
    refused(&said, "address-taken", &others("10.1.0.251"));
    assert_eq!(other.say("other", "10.1.0.252").await.0, 204);
    let report = async |net: &str| {
        let mut status = master.status("m1", "10.1.0.1");
        status["inventory"]["interfaces"] =
            json!([{"name": "eth0", "mac": "", "addresses": ["10.1.0.1"], "networks": [net]}]);
        let path = "/v1/hosts/self/status";
        let (code, said) = master.call(Method::POST, path, &status).await;
        assert_eq!(code, 204, "{said}");
    };
    report("10.1.0.0/25").await;
    let (status, said) = bed.attach(cluster, &[(&master, true)]).await;
    assert_eq!(status, 409, "{said}");
    let words = "masterIp: 10.1.0.251 is in no network of master m1 (10.1.0.0/25)";
    refused(&said, "api-address-off-link", words);
    report("10.1.0.0/24").await;
    let (status, said) = bed.attach(cluster, &[(&master, true)]).await;
    assert_eq!(status, 200, "{said}");
}

/// What a host reaches, by its own word: where a cluster would cover it, the cluster is refused while no host could join it,
/// and the host when it is attached. An agent that reports nothing of it is attached as before.
#[tokio::test]
async fn a_cluster_that_would_cover_what_hosts_reach_is_refused_when_it_is_made_and_joined() {
    let bed = Bed::new().await;
    bed.stack("1.37.2-1").await;
    let make = async |name: &str| {
        let body = json!({"name": name, "containersCidr": "10.20.0.0/16", "servicesCidr": "10.21.0.0/22",
                          "networkPlugin": "bridge"});
        bed.ask(Method::POST, "/qbert/v4/{project}/clusters", body)
            .await
    };
    let report = async |node: &Node, name: &str, ip: &str, field: &str, value: Value| {
        let mut status = node.status(name, ip);
        status["inventory"][field] = value;
        let path = "/v1/hosts/self/status";
        let (code, said) = node.call(Method::POST, path, &status).await;
        assert_eq!(code, 204, "{said}");
    };
    let refused = |(status, said): (u16, Value), words: &str| {
        assert_eq!(status, 409, "{said}");
        let fault = &said["error"]["fault"];
        assert_eq!(fault["code"], "networks-meet", "{said}");
        assert_eq!(fault["why"], words, "{said}");
    };
    let dns = "servicesCidr: 10.21.0.0/22 contains 10.21.0.10, a DNS server of";
    let m1 = bed.host("m1", "10.1.0.1").await;
    report(&m1, "m1", "10.1.0.1", "dns_servers", json!(["10.21.0.10"])).await;
    refused(make("c").await, &format!("{dns} host m1"));
    let w1 = bed.host("w1", "10.1.0.2").await;
    let routes = json!([{"net": "10.20.4.0/24"}]);
    report(&w1, "w1", "10.1.0.2", "routes", routes.clone()).await;
    let (status, said) = make("c").await;
    assert_eq!(status, 409, "{said}");
    let why = said["error"]["fault"]["why"].as_str().expect("why");
    let all = "; 1 more of the hosts that are in no cluster could not join it either";
    assert!(why.ends_with(all), "{why}");
    // An agent that reports neither could join.
    let old = bed.host("old", "10.1.0.3").await;
    let (status, said) = make("c").await;
    assert_eq!(status, 200, "{said}");
    let cluster = said["uuid"].as_str().expect("uuid").parse().expect("uuid");
    let said = bed.attach(cluster, &[(&old, true), (&m1, false)]).await;
    refused(said, &format!("{dns} this host"));
    assert_eq!(bed.attach(cluster, &[(&old, true)]).await.0, 200);
    let route = "containersCidr: 10.20.0.0/16 contains 10.20.4.0/24, a route of this host";
    refused(bed.attach(cluster, &[(&w1, false)]).await, route);
    // What it has met since it became a node is no reason to lose it.
    report(&w1, "w1", "10.1.0.2", "routes", json!([])).await;
    assert_eq!(bed.attach(cluster, &[(&w1, false)]).await.0, 200);
    report(&w1, "w1", "10.1.0.2", "routes", routes).await;
    assert_eq!(w1.say("w1", "10.1.0.99").await.0, 204);
    let spec = w1.current().await;
    let node = spec.assignment.node().expect("it is a node");
    assert_eq!(node.node_ip.to_string(), "10.1.0.99");
}
