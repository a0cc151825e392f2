//! flannel as the pod network: its objects, made from the cluster's networks (part of order 206).
//!
//! Two images of the stack make it, both upstream's, under any name: `flannel` (the daemon) and `flannel-cni-plugin`
//! (the program that the runtime calls). nodelet writes no CNI configuration then: the daemon's pod brings it when it
//! comes, and the node is Ready after that.
//!
//! Every node's pods are those that the plane gave it (`spec.podCIDR`, which the plane writes), tunnelled by VXLAN:
//! who wants routes between nodes in one network has the built-in one. Names and places are ours, so that they go with
//! the role: the bridge is the built-in network's, the link is called by our number, what is noted is below our own
//! directories.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::host::ours::network::{FLANNEL_VNI, POD_BRIDGE};
use crate::host::ours::paths::CONTAINERD_STATE;
use crate::model::{NetworkPlugin, paths};
use crate::nodelet::step::Step;

use super::cni::NETWORK;
use super::{PhaseContext, Wait, layout};

/// Its objects, and the account that it asks the API as.
const NAME: &str = "flannel";
const NAMESPACE: &str = "kube-system";
/// Where its files are in its pod.
const CONFIG: &str = "/etc/kube-flannel";
/// What it takes on a node with a few hundred others.
const CPU: &str = "100m";
const MEMORY: &str = "50Mi";

/// Nothing where the cluster has another network.
pub(super) fn steps(ctx: &PhaseContext) -> Result<Vec<Step>, Wait> {
    match ctx.node.network.plugin {
        NetworkPlugin::Flannel => {}
        NetworkPlugin::Bridge | NetworkPlugin::Calico | NetworkPlugin::None => {
            return Ok(Vec::new());
        }
    }
    let object = |object| Step::Object { object };
    Ok(objects(ctx)?.into_iter().map(object).collect())
}

fn objects(ctx: &PhaseContext) -> Result<[Value; 5], Wait> {
    let [role, binding] = rights();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta()});
    Ok([account, role, binding, configuration(ctx), daemons(ctx)?])
}

fn meta() -> Value {
    json!({"name": NAME, "namespace": NAMESPACE, "labels": {"app": NAME}})
}

/// It reads where nodes are and what their pods are, and notes its own end of the tunnel.
fn rights() -> [Value; 2] {
    let api = "rbac.authorization.k8s.io/v1";
    let meta = json!({"name": "pf9:flannel", "labels": {"app": NAME}});
    let rule = |what: &str, verbs: &[&str]| json!({"apiGroups": [""], "resources": [what], "verbs": verbs});
    let role = json!({
        "apiVersion": api,
        "kind": "ClusterRole",
        "metadata": meta,
        "rules": [rule("nodes", &["get", "list", "watch"]), rule("nodes/status", &["patch"])],
    });
    let binding = json!({
        "apiVersion": api,
        "kind": "ClusterRoleBinding",
        "metadata": meta,
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "pf9:flannel",
        },
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
    });
    [role, binding]
}

fn configuration(ctx: &PhaseContext) -> Value {
    let pods = ctx.node.network.pods_cidr.trunc();
    let network = match pods.addr() {
        IpAddr::V4(_) => json!({"Network": pods}),
        IpAddr::V6(_) => json!({"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": pods}),
    };
    let mut network = network;
    // Chains have a name by which they are known; the tables of its other way are as many as its releases.
    network["EnableNFTables"] = false.into();
    network["Backend"] = json!({"Type": "vxlan", "VNI": FLANNEL_VNI});
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": meta(),
        "data": {
            "cni-conf.json": format!("{:#}\n", plugins(ctx)),
            "net-conf.json": format!("{network:#}\n"),
        },
    })
}

/// As the runtime reads it.
fn plugins(ctx: &PhaseContext) -> Value {
    let mut delegate = json!({"bridge": POD_BRIDGE, "hairpinMode": true, "isDefaultGateway": true});
    if let Some(mtu) = ctx.node.network.mtu {
        delegate["mtu"] = mtu.into();
    }
    json!({
        "cniVersion": "0.4.0",
        "name": NETWORK,
        "plugins": [
            {
                "type": "flannel",
                "subnetFile": format!("{}/subnet.env", state()),
                "dataDir": format!("{}/flannel", paths::CNI_STATE),
                "ipam": {"dataDir": format!("{}/networks", paths::CNI_STATE)},
                "delegate": delegate,
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    })
}

/// The daemon's state of this boot: without it no pod gets an address.
fn state() -> String {
    format!("{CONTAINERD_STATE}/flannel")
}

fn daemons(ctx: &PhaseContext) -> Result<Value, Wait> {
    let mount = |name: &str, at: &str| json!({"name": name, "mountPath": at});
    let copy = |name: &str, image: &str, from: &str, to: &str, mounts: Value| {
        json!({
            "name": name, "image": image, "imagePullPolicy": "IfNotPresent",
            "command": ["cp"], "args": ["-f", from, to], "volumeMounts": mounts,
        })
    };
    let plugin = copy(
        "plugin",
        ctx.image("flannel-cni-plugin")?,
        "/flannel",
        "/opt/cni/bin/flannel",
        json!([mount("plugins", "/opt/cni/bin")]),
    );
    let configuration = copy(
        "configuration",
        ctx.image("flannel")?,
        &format!("{CONFIG}/cni-conf.json"),
        "/etc/cni/net.d/10-flannel.conflist",
        json!([
            mount("cni", "/etc/cni/net.d"),
            mount("configuration", CONFIG)
        ]),
    );
    let daemon = json!({
        "name": NAME,
        "image": ctx.image("flannel")?,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/opt/bin/flanneld"],
        "args": [
            "--ip-masq",
            "--kube-subnet-mgr",
            "--iface=$(NODE_IP)",
            format!("--subnet-file={}/subnet.env", state()),
        ],
        "env": [
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "NODE_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
        ],
        "resources": {"requests": {"cpu": CPU, "memory": MEMORY}},
        "securityContext": {
            "privileged": false,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]},
        },
        "volumeMounts": [
            mount("state", &state()),
            mount("configuration", CONFIG),
            mount("lock", "/run/xtables.lock"),
        ],
    });
    let host = |name: &str, path: &str, kind: &str| json!({"name": name, "hostPath": {"path": path, "type": kind}});
    let pod = json!({
        "hostNetwork": true,
        "priorityClassName": "system-node-critical",
        "serviceAccountName": NAME,
        // Wherever a node is, whatever it lacks: what it lacks may be this.
        "tolerations": [{"operator": "Exists"}],
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "initContainers": [plugin, configuration],
        "containers": [daemon],
        "volumes": [
            host("state", &state(), "DirectoryOrCreate"),
            host("plugins", layout::CNI_BIN_OWN, "Directory"),
            host("cni", paths::CNI_CONF, "Directory"),
            // The very file that all who change the rules wait for.
            host("lock", "/run/xtables.lock", "FileOrCreate"),
            {"name": "configuration", "configMap": {"name": NAME}},
        ],
    });
    let labels = json!({"app": NAME});
    Ok(json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": meta(),
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodelet::phase::{PhaseId, samples, steps};

    fn flannel(pods: &str) -> PhaseContext {
        let mut ctx = samples::with_flannel(samples::master("1.37.2"));
        ctx.node.network.pods_cidr = pods.parse().expect("net");
        ctx
    }

    fn text(ctx: &PhaseContext, file: &str) -> Value {
        let text = configuration(ctx)["data"][file].clone();
        serde_json::from_str(text.as_str().expect("text")).expect("json")
    }

    #[test]
    fn it_is_told_the_clusters_network_of_either_version() {
        let v4 = text(&flannel("10.244.0.0/16"), "net-conf.json");
        assert_eq!(v4["Network"], "10.244.0.0/16");
        assert_eq!(v4.get("IPv6Network"), None);
        let v6 = text(&flannel("fd00:244::/48"), "net-conf.json");
        assert_eq!(v6["IPv6Network"], "fd00:244::/48");
        assert_eq!(
            (&v6["EnableIPv4"], &v6["EnableIPv6"]),
            (&false.into(), &true.into())
        );
        assert_eq!(v6.get("Network"), None);
        for net in [&v4, &v6] {
            assert_eq!(net["Backend"], json!({"Type": "vxlan", "VNI": FLANNEL_VNI}));
        }
    }

    /// The plugin reads what the daemon writes, and both where it goes with the role.
    #[test]
    fn what_it_leaves_on_a_node_is_in_places_of_ours() {
        let mut ctx = flannel("10.244.0.0/16");
        ctx.node.network.mtu = Some(1400);
        let plugins = text(&ctx, "cni-conf.json");
        let first = &plugins["plugins"][0];
        let pod = daemons(&ctx).expect("pods")["spec"]["template"]["spec"].clone();
        let args = pod["containers"][0]["args"].to_string();
        let noted = first["subnetFile"].as_str().expect("a path");
        assert!(args.contains(&format!("--subnet-file={noted}")), "{args}");
        assert_eq!(first["delegate"]["bridge"], POD_BRIDGE);
        assert_eq!(first["delegate"]["mtu"], 1400);
        let volumes = pod["volumes"].as_array().expect("volumes");
        let of_the_host = volumes
            .iter()
            .filter_map(|v| v.pointer("/hostPath/path").and_then(Value::as_str));
        let written = [noted, first["dataDir"].as_str().expect("a path")];
        for path in of_the_host.chain(written) {
            let ours = crate::host::ours::paths::of_the_role(path);
            assert!(ours || path == "/run/xtables.lock", "{path}");
        }
        // Every mount is of a volume.
        let names: Vec<&Value> = volumes.iter().map(|v| &v["name"]).collect();
        for list in ["initContainers", "containers"] {
            for container in pod[list].as_array().expect("containers") {
                for mount in container["volumeMounts"].as_array().expect("mounts") {
                    assert!(names.contains(&&mount["name"]), "{mount}");
                }
            }
        }
    }

    /// nodelet brings no CNI configuration, the objects come with the add-ons, and the node is Ready at the end.
    #[test]
    fn a_cluster_with_it_has_its_objects_and_no_network_of_nodelets() {
        let ctx = flannel("10.244.0.0/16");
        let keys = |id, ctx: &PhaseContext| -> Vec<String> {
            let steps = steps(id, ctx).expect("steps");
            steps.iter().map(Step::key).collect()
        };
        assert!(keys(PhaseId::Network, &ctx).is_empty());
        let cni = keys(PhaseId::Cni, &ctx);
        assert!(!cni.iter().any(|k| k.ends_with(".conflist")), "{cni:?}");
        assert!(
            cni.iter().any(|k| k.contains(layout::CNI_BIN_OWN)),
            "{cni:?}"
        );
        let addons = keys(PhaseId::Addons, &ctx);
        let at = |key: &str| addons.iter().position(|k| k == key);
        let pods = at("object:apps/v1/DaemonSet/kube-system/flannel").expect("its pods");
        let ready = |keys: &[String]| keys.iter().position(|k| k.starts_with("probe:node-ready"));
        assert!(ready(&addons) > Some(pods), "{addons:?}");
        assert_eq!(ready(&keys(PhaseId::WaitServices, &ctx)), None);
        // A worker's comes from the masters that are there.
        let worker = samples::with_flannel(samples::worker("1.37.2"));
        let wait = keys(PhaseId::WaitServices, &worker);
        assert!(ready(&wait).is_some(), "{wait:?}");
        for other in [
            NetworkPlugin::Bridge,
            NetworkPlugin::Calico,
            NetworkPlugin::None,
        ] {
            let mut ctx = ctx.clone();
            ctx.node.network.plugin = other;
            let all = keys(PhaseId::Addons, &ctx);
            assert!(!all.iter().any(|k| k.contains("flannel")), "{all:?}");
        }
        let images = |ctx: &PhaseContext| {
            let mut all = keys(PhaseId::Images, ctx);
            all.extend(keys(PhaseId::WaitServices, ctx));
            all.iter().filter(|k| k.contains("flannel")).count()
        };
        assert_eq!((images(&ctx), images(&worker)), (2, 2));
        let mut bridge = worker;
        bridge.node.network.plugin = NetworkPlugin::Bridge;
        assert_eq!(images(&bridge), 0, "nobody runs them there");
    }
}
