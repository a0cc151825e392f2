//! Whether a cluster can have the add-ons that its settings ask for: its stack has their images, and the
//! addresses that services are given are no node's. Pure; asked when a cluster is made, when its settings
//! or its stack change, and when hosts come to it. How those that it has are there, and turned on and off: `catalogue`; who would miss one:
//! `used`.

pub(super) mod catalogue;
mod used;

use super::records::{Cluster, Settings};
use super::refusal::{Answer, Refusal};
use pf9_hostagent::model::{Addon, FaultCode, StackManifest, Want};

/// Refuses what cannot be; `what` was asked for.
pub(super) fn require(what: &str, cluster: &Cluster, manifest: &StackManifest) -> Answer<()> {
    let bad = |field: &str, why: String, fix: &str| {
        let why = format!("{field}: {why}");
        Err(Refusal::bad(FaultCode::AddonMissing, what, why).fix(fix))
    };
    let settings = &cluster.settings;
    for addon in Addon::ALL {
        let want = addon.want(
            settings.network_plugin,
            settings.network_policies,
            &settings.load_balancer,
        );
        if want != Want::Must {
            continue;
        }
        if let Some(lacking) = addon.lacking(manifest) {
            let why = format!(
                "{}, but stack {} {} has {lacking}",
                told(settings, addon),
                manifest.name,
                manifest.version
            );
            let fix = match addon.is_network() {
                true => {
                    "bring the images (scripts/stack from-dir: images/COMPONENT.tar) in a stack of your own, or choose another \
                     network"
                }
                false => "choose a stack that has it, or revert the setting",
            };
            return bad(field(addon), why, fix);
        }
    }
    for member in &cluster.members {
        let mut pool = settings.load_balancer.iter();
        if let Some(range) = pool.find(|range| range.contains(member.ip)) {
            let why = format!(
                "{range} has the address {} of node {}",
                member.ip, member.node_name
            );
            return bad(
                field(Addon::LoadBalancer),
                why,
                "give services addresses that no machine has",
            );
        }
    }
    Ok(())
}

/// The add-ons of a stack that stay in the cluster when it gets another one: that has no file of them. Those that
/// are settings go by themselves.
pub(super) fn left_behind(before: &StackManifest, after: &StackManifest) -> Vec<String> {
    let has = |word: &str| after.addons.iter().any(|f| Addon::word_of(f) == Some(word));
    let files = before.addons.iter();
    let own = files.filter(|f| Addon::of_file(f).is_none());
    let left = own.filter_map(|f| Addon::word_of(f)).filter(|w| !has(w));
    left.map(str::to_owned).collect()
}

fn field(addon: Addon) -> &'static str {
    match addon {
        Addon::NetworkPolicies => "networkPolicies",
        Addon::LoadBalancer => "loadBalancer.addresses",
        Addon::Flannel | Addon::Calico => "networkPlugin",
    }
}

fn told(settings: &Settings, addon: Addon) -> String {
    match addon {
        Addon::NetworkPolicies => "on".into(),
        Addon::Flannel | Addon::Calico => addon.word().into(),
        Addon::LoadBalancer => {
            let pool = settings.load_balancer.iter();
            pool.map(ToString::to_string).collect::<Vec<_>>().join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::compute::tests::{add, cluster};
    use pf9_hostagent::model::{Digest, NetworkPlugin, NetworkPolicies};

    pub(super) fn manifest(components: &[&str], files: &[&str]) -> StackManifest {
        let image = |name: &&str| {
            json!({"reference": format!("pf9.local/{name}:1"), "path": format!("images/{name}.tar"),
                   "component": name, "roles": ["master", "worker"]})
        };
        let images: Vec<_> = components.iter().map(image).collect();
        let text = json!({
            "schema": 1, "name": "pf9-kube", "version": "1.37.2-1", "kubernetes": "1.37.2", "arch": "amd64",
            "archive": {"sha256": Digest::of(b"archive"), "size": 1},
            "components": [], "files": [], "images": images, "addons": files, "requires": [],
        });
        serde_json::from_value(text).expect("manifest")
    }

    fn said(cluster: &Cluster, manifest: &StackManifest) -> Option<String> {
        let answer = require("attach refused", cluster, manifest);
        answer.err().map(|r| r.fault.to_string())
    }

    #[test]
    fn an_add_on_that_the_stack_lacks_is_refused_with_field_and_value() {
        let none = manifest(&[], &[]);
        let mut c = cluster();
        assert_eq!(said(&c, &none), None, "nobody asked for anything");
        c.settings.network_policies = NetworkPolicies::On;
        let why = said(&c, &none).expect("refused");
        assert!(why.contains("networkPolicies: on, but stack"), "{why}");
        assert!(why.contains("no image of kube-router"), "{why}");
        c.settings.network_policies = NetworkPolicies::Auto;
        c.settings.load_balancer = vec!["10.1.0.64/30".parse().expect("range")];
        let half = manifest(&["metallb-controller"], &["addons/40-load-balancer.yaml"]);
        let why = said(&c, &half).expect("refused");
        assert!(
            why.contains("loadBalancer.addresses: 10.1.0.64-10.1.0.67, but stack"),
            "{why}"
        );
        assert!(why.contains("no image of metallb-speaker"), "{why}");
        let both = ["metallb-controller", "metallb-speaker"];
        let why = said(&c, &manifest(&both, &[])).expect("refused");
        assert!(why.contains("no add-on load-balancer"), "{why}");
        let whole = manifest(&both, &["addons/40-load-balancer.yaml"]);
        assert_eq!(said(&c, &whole), None);
        let mut c = cluster();
        c.settings.network_plugin = NetworkPlugin::Flannel;
        for (has, lacks) in [
            (&["flannel-cni-plugin"][..], "flannel"),
            (&["flannel"], "flannel-cni-plugin"),
        ] {
            let why = said(&c, &manifest(has, &[])).expect("refused");
            let words = "networkPlugin: flannel, but stack pf9-kube 1.37.2-1 has no image of";
            assert!(why.contains(&format!("{words} {lacks}")), "{why}");
        }
        let images = ["flannel", "flannel-cni-plugin"];
        assert_eq!(said(&c, &manifest(&images, &[])), None, "it has no file");
    }

    /// These images are not built here: an operator who wants the network has to know which to bring.
    #[test]
    fn a_network_whose_images_somebody_brings_names_every_one_that_is_missing() {
        let mut c = cluster();
        c.settings.network_plugin = NetworkPlugin::Calico;
        let why = said(&c, &manifest(&[], &[])).expect("refused");
        let words = "networkPlugin: calico, but stack pf9-kube 1.37.2-1 has no image of \
                     calico-node (quay.io/calico/node:v3.32.1), calico-cni (quay.io/calico/cni:v3.32.1), \
                     calico-kube-controllers (quay.io/calico/kube-controllers:v3.32.1)";
        assert!(why.contains(words), "{why}");
        let images = ["calico-node", "calico-kube-controllers"];
        let refused = require("attach refused", &c, &manifest(&images, &[])).expect_err("refused");
        let why = refused.fault.to_string();
        assert!(
            why.contains("no image of calico-cni (quay.io/calico/cni:v3.32.1)"),
            "{why}"
        );
        assert!(why.contains("images/COMPONENT.tar"), "{why}");
        let images = ["calico-node", "calico-cni", "calico-kube-controllers"];
        let why = said(&c, &manifest(&images, &[])).expect("refused");
        assert!(why.contains("has no add-on calico"), "{why}");
        let file = "addons/50-calico.yaml";
        assert_eq!(said(&c, &manifest(&images, &[file])), None);
        // A cluster of another network needs none of it.
        c.settings.network_plugin = NetworkPlugin::Bridge;
        assert_eq!(said(&c, &manifest(&[], &[])), None);
        let flannel = Addon::Flannel.lacking(&manifest(&[], &[])).expect("lacks");
        assert!(
            flannel.contains("flannel (ghcr.io/flannel-io/flannel:v"),
            "{flannel}"
        );
    }

    #[test]
    fn what_the_next_stack_has_no_file_of_is_named_unless_it_goes_by_itself() {
        let files = |files: &[&str]| manifest(&[], files);
        let before = files(&[
            "addons/05-coredns.yaml",
            "addons/20-metrics-server.yaml",
            "addons/40-load-balancer.yaml",
        ]);
        assert_eq!(left_behind(&before, &before), [""; 0]);
        // Under another number it is the same.
        let after = files(&["addons/07-coredns.yaml"]);
        assert_eq!(left_behind(&before, &after), ["metrics-server"]);
        assert_eq!(left_behind(&after, &before), [""; 0]);
    }

    #[test]
    fn no_node_has_an_address_of_the_pool() {
        let both = ["metallb-controller", "metallb-speaker"];
        let whole = manifest(&both, &["addons/40-load-balancer.yaml"]);
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, false)]).expect("attach");
        c.settings.load_balancer = vec!["10.1.0.2-10.1.0.9".parse().expect("range")];
        let why = said(&c, &whole).expect("refused");
        assert!(
            why.contains("10.1.0.2-10.1.0.9 has the address 10.1.0.2 of node node-2"),
            "{why}"
        );
        // A host that comes later is told whose the address is.
        let mut c = cluster();
        c.settings.load_balancer = vec!["10.1.0.2-10.1.0.9".parse().expect("range")];
        assert_eq!(
            add(&mut c, &[(1, true), (2, false)]),
            Err("address-taken".into())
        );
    }
}
