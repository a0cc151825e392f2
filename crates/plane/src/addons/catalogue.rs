//! The catalogue of a cluster: what its stack brings beside Kubernetes, of which version, how it is there, and how it is
//! turned on and off.
//!
//! Masters keep add-ons applied, object by object, and say `ok` when nothing of them differs: so one that is wanted is
//! `on` as soon as every master has followed its newest spec, and one that is not is `off`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::guard::Person;
use crate::http::{Doc, Path};
use crate::records::Cluster;
use crate::refusal::{Answer, Refusal};
use crate::settings::Tuning;
use crate::state::{self, Plane};
use crate::store::Read;
use crate::view::Known;
use crate::{fleet, kubeconfig, qbert, rolls, stacks};
use pf9_hostagent::model::{Addon, FaultCode, NodeState, StackManifest, Want};

/// How one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Stage {
    On,
    Off,
    /// It is wanted, and not every master has said that it is there.
    Coming,
    /// It is not wanted, and not every master has said that it is gone.
    Going,
    /// It is wanted, and the stack does not have it.
    Missing,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Entry {
    name: String,
    version: String,
    state: Stage,
    /// Why it is so, where that is not plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// The setting that turns it on and off; none: it comes with the stack, or with the cluster.
    setting: Option<&'static str>,
    /// What is given with it, when it is turned on.
    needs: Option<&'static str>,
}

/// What somebody wants of one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Switch {
    pub(crate) on: bool,
    /// Of the load balancer.
    #[serde(default)]
    pub(crate) addresses: Vec<String>,
}

/// All of this stack, in the order that they are applied; then what has no file.
fn entries(cluster: &Cluster, manifest: &StackManifest, settled: bool) -> Vec<Entry> {
    let files = manifest.addons.iter();
    let names =
        files.filter_map(|file| Addon::word_of(file).map(|word| (word, Addon::of_file(file))));
    let mut all: Vec<Entry> = names
        .map(|(word, addon)| match addon {
            Some(addon) => of_setting(cluster, manifest, addon, settled),
            None => Entry {
                name: word.to_owned(),
                version: version(manifest, |component| component.starts_with(word)),
                state: if settled { Stage::On } else { Stage::Coming },
                why: None,
                setting: None,
                needs: None,
            },
        })
        .collect();
    for addon in Addon::ALL {
        // Its stack lacks the file, or it never has one.
        if !all.iter().any(|entry| entry.name == addon.word()) {
            all.push(of_setting(cluster, manifest, addon, settled));
        }
    }
    all
}

fn of_setting(cluster: &Cluster, manifest: &StackManifest, addon: Addon, settled: bool) -> Entry {
    let s = &cluster.settings;
    let lacking = addon.lacking(manifest);
    let is_wanted = match addon.want(s.network_plugin, s.network_policies, &s.load_balancer) {
        Want::No => false,
        Want::IfThere | Want::Must => true,
    };
    let state = match (is_wanted, &lacking, settled) {
        (true, Some(_), _) => Stage::Missing,
        (true, None, true) => Stage::On,
        (true, None, false) => Stage::Coming,
        (false, _, true) => Stage::Off,
        (false, _, false) => Stage::Going,
    };
    let (setting, needs, fixed) = match addon {
        Addon::NetworkPolicies => (Some("networkPolicies"), None, None),
        Addon::LoadBalancer => (Some("loadBalancer.addresses"), Some("addresses"), None),
        Addon::Flannel | Addon::Calico => (
            None,
            None,
            Some("a cluster's network is chosen when it is made"),
        ),
    };
    Entry {
        name: addon.word().to_owned(),
        version: version(manifest, |component| {
            addon.components().contains(&component)
        }),
        state,
        why: why(is_wanted, lacking.as_deref(), fixed, manifest),
        setting,
        needs,
    }
}

/// What is not there for want of a setting is not there for want of an image, though it may want that as well.
fn why(
    is_wanted: bool,
    lacking: Option<&str>,
    fixed: Option<&str>,
    manifest: &StackManifest,
) -> Option<String> {
    let stack = &manifest.version;
    match (is_wanted, fixed, lacking) {
        (true, _, Some(what)) => Some(format!("stack {stack} has {what}")),
        (_, Some(fixed), _) => Some(fixed.to_owned()),
        (false, None, Some(what)) => Some(format!(
            "it is not wanted, and could not be turned on: stack {stack} has {what}"
        )),
        (_, None, None) => None,
    }
}

/// Of the first image that it runs; what runs none is the stack's own.
fn version(manifest: &StackManifest, is_its: impl Fn(&str) -> bool) -> String {
    let image = manifest.images.iter().find(|i| is_its(&i.component));
    let tag = image.and_then(|i| i.reference.rsplit_once(':'));
    tag.map_or(&*manifest.version, |(_, tag)| tag.trim_start_matches('v'))
        .to_owned()
}

/// Every master has followed its newest spec, and there is one.
fn settled(masters: &[Known]) -> bool {
    !masters.is_empty()
        && masters
            .iter()
            .all(|m| m.responding() && m.state() == Some(NodeState::Ok))
}

fn shown(plane: &Plane, rows: &impl Read, cluster: &Cluster) -> Answer<Value> {
    // While masters are of two stacks, the one's that is in the cluster.
    let stack = rolls::addons_of(cluster).unwrap_or_else(|| cluster.stack.clone());
    let manifest = stacks::content(rows, &stack)?;
    let mut masters = fleet::nodes_of(plane, rows, cluster)?;
    masters.retain(|known| cluster.is_master(known.host.id));
    let entries = entries(cluster, &manifest, settled(&masters));
    Ok(json!({"stack": stack.version, "addons": entries}))
}

/// The change of settings that turns one on or off.
fn tuning(name: &str, wanted: &Switch) -> Answer<Tuning> {
    let what = || format!("add-on {name} stays as it is");
    let bad = |why: &str| Refusal::bad(FaultCode::ClusterInvalid, what(), why);
    let addon = Addon::ALL.into_iter().find(|addon| addon.word() == name);
    let body = match (addon, wanted.on, wanted.addresses.is_empty()) {
        (Some(Addon::NetworkPolicies), on, true) => {
            json!({"networkPolicies": if on { "on" } else { "off" }})
        }
        (Some(Addon::LoadBalancer), true, false) => {
            json!({"loadBalancer": {"addresses": wanted.addresses}})
        }
        (Some(Addon::LoadBalancer), false, true) => json!({"loadBalancer": {"addresses": []}}),
        (Some(Addon::LoadBalancer), true, true) => {
            return Err(bad("it needs addresses that it may give to services").fix(
                "name ranges or networks that no machine has: \"addresses\": [\"10.1.2.16/28\"]",
            ));
        }
        (Some(Addon::NetworkPolicies), _, false) | (Some(Addon::LoadBalancer), false, false) => {
            return Err(bad("no addresses go with that"));
        }
        (Some(Addon::Flannel | Addon::Calico) | None, _, _) => {
            let why = "it comes with the stack, or with the network that the cluster was made with";
            return Err(Refusal::conflict(FaultCode::ClusterInvalid, what(), why)
                .fix("the catalogue says which have a setting"));
        }
    };
    serde_json::from_value(body).map_err(|e| Refusal::internal("the setting was lost", &e))
}

/// `GET …/clusters/{uuid}/addons`.
pub(crate) async fn get(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path((_, id)): Path<(String, String)>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let cluster = state::cluster(&rows, qbert::cluster_id(&id)?)?;
    shown(&plane, &rows, &cluster).map(Json)
}

/// `PUT …/clusters/{uuid}/addons/{addon}`: on or off.
pub(crate) async fn put(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path((_, id, name)): Path<(String, String, String)>,
    Doc(wanted): Doc<Switch>,
) -> Answer<StatusCode> {
    qbert::tune_this(&plane, qbert::cluster_id(&id)?, tuning(&name, &wanted)?).await?;
    Ok(StatusCode::OK)
}

/// The administrator's, who names the cluster.
pub(crate) async fn admin_show(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let cluster = kubeconfig::find(&rows, &name)?;
    shown(&plane, &rows, &cluster).map(Json)
}

/// See [`put`].
pub(crate) async fn admin_switch(
    State(plane): State<Arc<Plane>>,
    Path((cluster, name)): Path<(String, String)>,
    Doc(wanted): Doc<Switch>,
) -> Answer<Json<Value>> {
    let id = kubeconfig::find(&plane.read()?, &cluster)?.id;
    qbert::tune_this(&plane, id, tuning(&name, &wanted)?).await?;
    admin_show(State(plane), Path(cluster)).await
}

#[cfg(test)]
mod tests {
    use super::super::tests::manifest;
    use super::*;
    use crate::compute::tests::cluster;
    use pf9_hostagent::model::{NetworkPlugin, NetworkPolicies};

    fn whole() -> StackManifest {
        manifest(
            &[
                "coredns",
                "kube-router",
                "metallb-controller",
                "metallb-speaker",
            ],
            &[
                "addons/03-roles.yaml",
                "addons/05-coredns.yaml",
                "addons/30-network-policies.yaml",
                "addons/40-load-balancer.yaml",
            ],
        )
    }

    fn stages(cluster: &Cluster, manifest: &StackManifest, settled: bool) -> Vec<(String, Stage)> {
        let all = entries(cluster, manifest, settled).into_iter();
        all.map(|e| (e.name, e.state)).collect()
    }

    #[test]
    fn each_is_there_as_it_is_wanted_and_as_masters_say() {
        let mut c = cluster();
        let with = |policies: Stage, balancer: Stage, flannel: Stage, own: Stage| {
            let calico = match flannel {
                Missing => Off,
                stage => stage,
            };
            [
                ("roles", own),
                ("coredns", own),
                ("network-policies", policies),
                ("load-balancer", balancer),
                ("flannel", flannel),
                ("calico", calico),
            ]
            .map(|(name, stage)| (name.to_owned(), stage))
        };
        use Stage::{Coming, Going, Missing, Off, On};
        assert_eq!(stages(&c, &whole(), true), with(On, Off, Off, On));
        assert_eq!(
            stages(&c, &whole(), false),
            with(Coming, Going, Going, Coming)
        );
        c.settings.network_policies = NetworkPolicies::Off;
        c.settings.load_balancer = vec!["10.9.0.0/28".parse().expect("range")];
        assert_eq!(stages(&c, &whole(), true), with(Off, On, Off, On));
        c.settings.network_plugin = NetworkPlugin::Flannel;
        assert_eq!(stages(&c, &whole(), true), with(Off, On, Missing, On));
        // Whatever its stack has, all that could be are named.
        let none = manifest(&[], &[]);
        let all = stages(&c, &none, true);
        assert_eq!(all.len(), Addon::ALL.len());
        assert!(all.contains(&("load-balancer".to_owned(), Missing)));
    }

    #[test]
    fn why_one_is_not_there_is_the_setting_where_nobody_wants_it_and_else_the_stack() {
        let why = |c: &Cluster, manifest: &StackManifest, name: &str| {
            let mut all = entries(c, manifest, true).into_iter();
            all.find(|e| e.name == name).and_then(|e| e.why)
        };
        let (none, mut c) = (manifest(&[], &[]), cluster());
        c.settings.network_policies = NetworkPolicies::Off;
        let off = why(&c, &none, "network-policies").expect("why");
        assert!(
            off.starts_with("it is not wanted, and could not be turned on: stack"),
            "{off}"
        );
        assert_eq!(why(&c, &whole(), "network-policies"), None, "it can be");
        let fixed = Some("a cluster's network is chosen when it is made");
        assert_eq!(why(&c, &none, "flannel").as_deref(), fixed);
        c.settings.network_policies = NetworkPolicies::On;
        c.settings.network_plugin = NetworkPlugin::Flannel;
        for (name, image) in [("network-policies", "kube-router"), ("flannel", "flannel")] {
            let said = why(&c, &none, name).expect("why");
            let words = format!("stack {} has no image of {image}", none.version);
            assert!(said.starts_with(&words), "{said}");
        }
    }

    #[test]
    fn a_version_is_that_of_what_runs_and_else_the_stacks() {
        let mut m = whole();
        m.images[0].reference = "pf9.local/coredns:v1.12.3".to_owned();
        let all = entries(&cluster(), &m, true);
        let of = |name: &str| {
            let found = all.iter().find(|e| e.name == name);
            found.map(|e| e.version.clone()).expect(name)
        };
        assert_eq!(of("coredns"), "1.12.3");
        assert_eq!(of("roles"), m.version);
        assert_eq!(of("network-policies"), "1");
    }

    #[test]
    fn what_has_a_setting_is_turned_and_nothing_else() {
        let switch = |on, addresses: &[&str]| Switch {
            on,
            addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
        };
        let pool = ["10.9.0.0/28"];
        for (name, wanted) in [
            ("network-policies", switch(true, &[])),
            ("network-policies", switch(false, &[])),
            ("load-balancer", switch(true, &pool)),
            ("load-balancer", switch(false, &[])),
        ] {
            tuning(name, &wanted).expect(name);
        }
        for (name, wanted) in [
            ("network-policies", switch(true, &pool)),
            ("load-balancer", switch(true, &[])),
            ("load-balancer", switch(false, &pool)),
            ("flannel", switch(true, &[])),
            ("coredns", switch(false, &[])),
            ("", switch(true, &[])),
        ] {
            assert!(tuning(name, &wanted).is_err(), "{name}");
        }
    }
}
