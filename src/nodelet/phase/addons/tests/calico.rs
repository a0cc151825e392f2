//! What `scripts/addons/50-calico.yaml` becomes in a cluster, and on its nodes.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::host::ours::{network, paths as ours};
use crate::model::{Addon, Matrix, NetworkPlugin};
use crate::nodelet::phase::{PhaseContext, PhaseId, cni, layout, removal, render, samples, steps};
use crate::nodelet::step::Step;

fn calico(pods: &str) -> PhaseContext {
    let mut ctx = samples::with_calico(samples::ordinary(samples::master("1.37.2")));
    ctx.node.network.pods_cidr = pods.parse().expect("net");
    ctx
}

fn keys(id: PhaseId, ctx: &PhaseContext) -> Vec<String> {
    let steps = steps(id, ctx).expect("steps");
    steps.iter().map(Step::key).collect()
}

/// What the file says, as it is applied.
fn objects(ctx: &PhaseContext) -> Vec<Value> {
    let its = ctx
        .addons
        .iter()
        .find(|f| Addon::of_file(&f.path) == Some(Addon::Calico));
    let names: BTreeSet<String> = its
        .expect("the file")
        .objects
        .iter()
        .map(|object| {
            Step::Object {
                object: object.clone(),
            }
            .key()
        })
        .collect();
    let applied = steps(PhaseId::Addons, ctx).expect("steps").into_iter();
    let objects: Vec<Value> = applied
        .filter(|step| names.contains(&step.key()))
        .filter_map(|step| match step {
            Step::Object { object } => Some(object),
            _ => None,
        })
        .collect();
    assert_eq!(objects.len(), names.len(), "all of it is applied");
    objects
}

fn object(ctx: &PhaseContext, kind: &str) -> Value {
    let found = objects(ctx).into_iter().find(|o| o["kind"] == kind);
    found.expect(kind)
}

fn plugin(ctx: &PhaseContext) -> Value {
    let text = object(ctx, "ConfigMap")["data"]["cni.conflist"].clone();
    serde_json::from_str(text.as_str().expect("text")).expect("JSON")
}

fn pod(ctx: &PhaseContext) -> Value {
    object(ctx, "DaemonSet")["spec"]["template"]["spec"].clone()
}

/// The value of a variable of a container.
fn told(container: &Value, name: &str) -> Value {
    let env = container["env"].as_array().expect("variables");
    let found = env.iter().find(|e| e["name"] == name);
    found.expect(name)["value"].clone()
}

/// All but the definitions, which say nothing but names.
#[test]
fn its_objects_are_the_reviewed_ones() {
    let all = objects(&calico("10.244.0.0/16"));
    let (definitions, rest): (Vec<Value>, Vec<Value>) = all
        .into_iter()
        .partition(|o| o["kind"] == "CustomResourceDefinition");
    assert_eq!(definitions.len(), 23);
    let text: Vec<String> = rest.iter().map(render::yaml).collect();
    let text = text.join("---\n");
    assert!(!text.contains("__") && !text.contains('@'), "filled in");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/calico.yaml");
    if std::env::var_os("PF9_BLESS").is_some() {
        std::fs::write(&path, &text).expect("write");
    }
    let golden = std::fs::read_to_string(&path).expect("golden file; PF9_BLESS=1 writes it");
    assert_eq!(text, golden, "PF9_BLESS=1 writes it anew");
}

#[test]
fn it_is_told_the_clusters_network_of_either_version() {
    for (net, v4, v6) in [
        ("10.244.0.0/16", true, false),
        ("fd00:244::/48", false, true),
    ] {
        let ctx = calico(net);
        let daemon = pod(&ctx)["containers"][0].clone();
        let network = |is: bool| if is { net } else { "none" };
        let address = |is: bool| if is { "autodetect" } else { "none" };
        for (name, value) in [
            ("CALICO_IPV4POOL_CIDR", network(v4)),
            ("CALICO_IPV6POOL_CIDR", network(v6)),
            ("IP", address(v4)),
            ("IP6", address(v6)),
            ("FELIX_IPV6SUPPORT", if v6 { "true" } else { "false" }),
            ("CALICO_IPV4POOL_VXLAN", "Always"),
            ("CALICO_IPV6POOL_VXLAN", "Always"),
            ("CALICO_NETWORKING_BACKEND", "vxlan"),
        ] {
            assert_eq!(told(&daemon, name), value, "{net}: {name}");
        }
        let ipam = plugin(&ctx)["plugins"][0]["ipam"].clone();
        let told = (v4.to_string(), v6.to_string());
        assert_eq!(
            (&ipam["assign_ipv4"], &ipam["assign_ipv6"]),
            (&json!(told.0), &json!(told.1))
        );
    }
    let mut ctx = calico("10.244.0.0/16");
    assert_eq!(plugin(&ctx)["plugins"][0]["mtu"], 0, "by the machine");
    ctx.node.network.mtu = Some(1400);
    assert_eq!(plugin(&ctx)["plugins"][0]["mtu"], 1400);
    assert_eq!(told(&pod(&ctx)["containers"][0], "FELIX_VXLANMTU"), "1400");
}

/// What it writes on a machine it writes where it goes with the role; the rest is the kernel's.
#[test]
fn what_it_leaves_on_a_node_is_in_places_of_ours() {
    let ctx = calico("10.244.0.0/16");
    let (pod, list) = (pod(&ctx), plugin(&ctx));
    let volumes = pod["volumes"].as_array().expect("volumes");
    let of_the_host = volumes
        .iter()
        .filter_map(|v| v.pointer("/hostPath/path").and_then(Value::as_str));
    let first = &list["plugins"][0];
    let written = [
        &first["ipam_lock_file"],
        &first["nodename_file"],
        &first["kubernetes"]["kubeconfig"],
    ];
    let written = written
        .into_iter()
        .map(|path| path.as_str().expect("a path"));
    for path in of_the_host.chain(written) {
        let is_ours = ours::of_the_role(path) || ours::below(ours::CALICO_STATE, path);
        let kernels = ["/run/xtables.lock", "/lib/modules", "/sys/fs/bpf"];
        assert!(is_ours || kernels.contains(&path), "{path}");
    }
    assert!(ours::ours_if_made(ours::CALICO_STATE));
    let made = keys(PhaseId::Cni, &ctx);
    assert!(
        made.contains(&format!("dir:{}", ours::CALICO_STATE)),
        "{made:?}"
    );
    // The plugin's links are the stack's, and the runtime looks where they are.
    let paths: Vec<&Value> = volumes
        .iter()
        .filter_map(|v| v.pointer("/hostPath/path"))
        .collect();
    assert!(paths.iter().any(|path| **path == layout::CNI_BIN_OWN));
    let installs = &pod["initContainers"][0];
    let name = told(installs, "CNI_CONF_NAME");
    let conflist = format!(
        "{}/{}",
        crate::model::paths::CNI_CONF,
        name.as_str().expect("text")
    );
    assert_eq!(conflist, ours::CALICO_CONFLIST);
    let skipped = told(installs, "SKIP_CNI_BINARIES");
    for file in &ctx.stack().expect("a stack").files {
        let Some(plugin) = file.path.strip_prefix("cni/") else {
            continue;
        };
        let mut all = skipped.as_str().expect("text").split(',');
        assert!(all.any(|name| name == plugin), "{plugin}");
    }
    // Host ports of its pods are looked after as those of the others' are.
    assert_eq!(list["name"], cni::NETWORK);
    let protocol = told(&pod["containers"][0], "FELIX_DEVICEROUTEPROTOCOL");
    assert_eq!(protocol, network::ROUTE_PROTOCOL.to_string());
    let names: Vec<&Value> = volumes.iter().map(|v| &v["name"]).collect();
    for kind in ["initContainers", "containers"] {
        for container in pod[kind].as_array().expect("containers") {
            for mount in container["volumeMounts"].as_array().expect("mounts") {
                assert!(names.contains(&&mount["name"]), "{mount}");
            }
        }
    }
}

/// nodelet brings no CNI configuration and no keeper of policies, its objects come with the add-ons, and the node is
/// Ready at the end.
#[test]
fn a_cluster_with_it_has_its_objects_and_nothing_that_it_does_itself() {
    let ctx = calico("10.244.0.0/16");
    assert!(keys(PhaseId::Network, &ctx).is_empty());
    let cni = keys(PhaseId::Cni, &ctx);
    assert!(!cni.iter().any(|k| k.ends_with(".conflist")), "{cni:?}");
    assert!(
        cni.iter().any(|k| k.contains(layout::CNI_BIN_OWN)),
        "{cni:?}"
    );
    let addons = keys(PhaseId::Addons, &ctx);
    let at = |key: &str| addons.iter().position(|k| k == key);
    let pods = at("object:apps/v1/DaemonSet/kube-system/calico-node").expect("its pods");
    let ready = |keys: &[String]| keys.iter().position(|k| k.starts_with("probe:node-ready"));
    assert!(ready(&addons) > Some(pods), "{addons:?}");
    assert_eq!(ready(&keys(PhaseId::WaitServices, &ctx)), None);
    assert!(
        at("addon-gone:network-policies").is_some(),
        "two keepers are one too many"
    );
    assert_eq!(
        at("object:apps/v1/DaemonSet/kube-system/network-policies"),
        None
    );
    let proxy = keys(PhaseId::KubeProxy, &ctx);
    assert!(
        proxy.iter().any(|k| k.contains("policy-rules-gone")),
        "{proxy:?}"
    );
    // A worker's comes from the masters that are there.
    let worker = samples::with_calico(samples::worker("1.37.2"));
    assert!(ready(&keys(PhaseId::WaitServices, &worker)).is_some());
    let images = |ctx: &PhaseContext| {
        let mut all = keys(PhaseId::Images, ctx);
        all.extend(keys(PhaseId::WaitServices, ctx));
        all.iter().filter(|k| k.contains("calico")).count()
    };
    assert_eq!((images(&ctx), images(&worker)), (3, 3));
}

/// What pods have their addresses of is not taken out from under them, whatever becomes of the stack; and those of
/// other clusters do not concern us.
#[test]
fn it_is_never_taken_out_of_a_cluster() {
    let says_calico = |ctx: &PhaseContext| {
        let all = keys(PhaseId::Addons, ctx);
        all.into_iter()
            .filter(|k| k.contains("calico"))
            .collect::<Vec<_>>()
    };
    let mut ctx = calico("10.244.0.0/16");
    assert!(!says_calico(&ctx).is_empty());
    let whole = ctx.clone();
    ctx.manifest
        .as_mut()
        .expect("manifest")
        .images
        .retain(|i| i.component != "calico-cni");
    assert_eq!(says_calico(&ctx), [""; 0], "a stack that lacks an image");
    for other in [
        NetworkPlugin::Bridge,
        NetworkPlugin::Flannel,
        NetworkPlugin::None,
    ] {
        let mut ctx = whole.clone();
        ctx.node.network.plugin = other;
        assert_eq!(says_calico(&ctx), [""; 0], "{other:?}");
    }
}

/// Its links, chains and sets have the same names in every Kubernetes.
#[test]
fn what_it_made_in_the_kernel_goes_where_it_was_the_pod_network_and_nowhere_else() {
    let gone = |ctx: &PhaseContext| {
        let steps = removal(ctx, false).into_iter();
        let mut all = steps.filter(|s| matches!(s, Step::NetworkGone { .. }));
        let step = all.next().expect("the step");
        assert!(all.next().is_none(), "one");
        serde_json::to_string(&step).expect("JSON")
    };
    let mut ctx = calico("10.244.0.0/16");
    let said = gone(&ctx);
    for name in [
        "vxlan.calico",
        "vxlan-v6.calico",
        "\"cali-\"",
        "\"calico\"",
        "\"cali4\"",
        "\"cali6\"",
    ] {
        assert!(said.contains(name), "{name}: {said}");
    }
    for other in [
        NetworkPlugin::Bridge,
        NetworkPlugin::Flannel,
        NetworkPlugin::None,
    ] {
        ctx.node.network.plugin = other;
        assert!(!gone(&ctx).contains("cali"), "{other:?}");
    }
}

/// A refusal for missing images names those that this file is written for.
#[test]
fn every_image_has_one_that_is_to_be_brought_and_all_are_of_one_release() {
    let images = Addon::Calico.components().iter().map(|name| {
        let image = Matrix::ours().supplied(name).expect(name);
        image.rsplit_once(':').expect("a tag").1
    });
    assert_eq!(images.collect::<BTreeSet<_>>().len(), 1);
    for name in Addon::Flannel.components() {
        assert!(Matrix::ours().supplied(name).is_some(), "{name}");
    }
}
