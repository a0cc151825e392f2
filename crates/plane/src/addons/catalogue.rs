//! The catalogue of a cluster: what its stack brings beside Kubernetes, of which version, how it is there, and how it is
//! turned on and off.
//!
//! Masters keep add-ons applied, object by object, and say `ok` when nothing of them differs: so one that is wanted is
//! `on` as soon as every master has followed its newest spec, and one that is not is `off`. One that a master says of that
//! it cannot be applied or taken out is `failed`, with its words.
//!
//! Some are settings of the cluster (`Addon`), and are turned by these; all others are the stack's, and the spec names those
//! that are off. Only the pod network has no switch: the addresses of all pods are of it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::guard::Person;
use crate::http::{Doc, Path};
use crate::records::{CLUSTERS, Cluster};
use crate::refusal::{Answer, Refusal};
use crate::settings::Tuning;
use crate::state::{self, Plane};
use crate::store::Read;
use crate::view::Known;
use crate::{fleet, kubeconfig, qbert, rolls, stacks};
use pf9_hostagent::model::{
    Addon, ClusterId, Fault, FaultCode, NodeState, StackManifest, Want, off_fault,
};

use super::used;

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
    /// A master could not do to it what is wanted.
    Failed,
}

/// What masters say.
#[derive(Clone, Debug, Default)]
struct Masters {
    /// Every one has followed its newest spec, and there is one.
    settled: bool,
    /// What they could not do: what and why.
    faults: Vec<Fault>,
}

impl Masters {
    /// What they could not do to this one.
    fn fault(&self, name: &str) -> Option<String> {
        let whose = format!("add-on {name}");
        let is_its = |fault: &&Fault| {
            let rest = fault.what.split_once(&whose).map(|(_, rest)| rest);
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '-'))
        };
        self.faults.iter().find(is_its).map(ToString::to_string)
    }

    /// How it is, and why where it failed.
    fn stage(&self, name: &str, is_wanted: bool) -> (Stage, Option<String>) {
        match (is_wanted, self.settled, self.fault(name)) {
            (_, false, Some(why)) => (Stage::Failed, Some(why)),
            (true, true, _) => (Stage::On, None),
            (true, false, None) => (Stage::Coming, None),
            (false, true, _) => (Stage::Off, None),
            (false, false, None) => (Stage::Going, None),
        }
    }
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
    /// It is to be there.
    wanted: bool,
    /// It can be turned on and off.
    switch: bool,
    /// The setting of the cluster that turns it, where it is one.
    setting: Option<&'static str>,
    /// What is given with it, when it is turned on.
    needs: Option<&'static str>,
}

/// A wanted state of one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Switch {
    pub(crate) on: bool,
    /// The load balancer's addresses.
    #[serde(default)]
    pub(crate) addresses: Vec<String>,
    /// Off, also where something uses it.
    #[serde(default)]
    pub(crate) force: bool,
}

/// All of this stack, in the order that they are applied; then what has no file.
fn entries(cluster: &Cluster, manifest: &StackManifest, masters: &Masters) -> Vec<Entry> {
    let files = manifest.addons.iter();
    let names =
        files.filter_map(|file| Addon::word_of(file).map(|word| (word, Addon::of_file(file))));
    let mut all: Vec<Entry> = names
        .map(|(word, addon)| match addon {
            Some(addon) => of_setting(cluster, manifest, addon, masters),
            None => of_stack(cluster, manifest, word, masters),
        })
        .collect();
    for addon in Addon::ALL {
        // Its stack lacks the file, or it never has one.
        if !all.iter().any(|entry| entry.name == addon.word()) {
            all.push(of_setting(cluster, manifest, addon, masters));
        }
    }
    all
}

fn of_stack(cluster: &Cluster, manifest: &StackManifest, word: &str, masters: &Masters) -> Entry {
    let wanted = !cluster.settings.addons_off.contains(word);
    let (state, why) = masters.stage(word, wanted);
    Entry {
        name: word.to_owned(),
        version: version(manifest, |component| component.starts_with(word)),
        state,
        why,
        wanted,
        switch: true,
        setting: None,
        needs: None,
    }
}

fn of_setting(
    cluster: &Cluster,
    manifest: &StackManifest,
    addon: Addon,
    masters: &Masters,
) -> Entry {
    let s = &cluster.settings;
    let lacking = addon.lacking(manifest);
    let is_wanted = match addon.want(s.network_plugin, s.network_policies, &s.load_balancer) {
        Want::No => false,
        Want::IfThere | Want::Must => true,
    };
    let (state, failed) = match is_wanted && lacking.is_some() {
        true => (Stage::Missing, None),
        false => masters.stage(addon.word(), is_wanted),
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
        why: failed.or_else(|| why(is_wanted, lacking.as_deref(), fixed, manifest)),
        wanted: is_wanted,
        switch: setting.is_some(),
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

/// The version of the first image that it runs; without one, the stack's own.
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

/// Faults of masters that are at their newest spec: what one says of the one before is over with it.
fn faults(masters: &[Known]) -> Vec<Fault> {
    let are = masters.iter().filter(|m| m.responding());
    let failing = are.filter(|m| match m.state() {
        Some(NodeState::Retrying | NodeState::Failed) => true,
        Some(NodeState::Ok | NodeState::Converging | NodeState::Maintenance) | None => false,
    });
    let said = failing.filter_map(|m| m.status.as_ref()?.status.reason.clone());
    said.collect()
}

fn shown(plane: &Plane, rows: &impl Read, cluster: &Cluster) -> Answer<Value> {
    // While masters are of two stacks, the one's that is in the cluster.
    let stack = rolls::addons_of(cluster).unwrap_or_else(|| cluster.stack.clone());
    let manifest = stacks::content(rows, &stack)?;
    let mut masters = fleet::nodes_of(plane, rows, cluster)?;
    masters.retain(|known| cluster.is_master(known.host.id));
    let masters = Masters {
        settled: settled(&masters),
        faults: faults(&masters),
    };
    let entries = entries(cluster, &manifest, &masters);
    Ok(json!({"stack": stack.version, "addons": entries}))
}

/// What turns one on or off.
#[derive(Debug)]
enum Turn {
    /// The cluster's settings.
    Setting(Box<Tuning>),
    /// It is the stack's, and is in or out of the list of those that are off.
    OfStack,
}

/// How one is turned in this cluster.
fn turn(cluster: &Cluster, has: &[String], name: &str, wanted: &Switch) -> Answer<Turn> {
    let what = || format!("add-on {name} stays as it is");
    let bad = |why: &str| Refusal::bad(FaultCode::ClusterInvalid, what(), why);
    let addon = Addon::ALL.into_iter().find(|addon| addon.word() == name);
    if wanted.on && wanted.force {
        return Err(bad("force: nothing is lost by an add-on that is turned on"));
    }
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
        (Some(Addon::Flannel | Addon::Calico), _, _) => {
            let why = "it is a pod network, which is chosen when the cluster is made (networkPlugin): every pod has its address of it";
            return Err(Refusal::conflict(FaultCode::ClusterInvalid, what(), why)
                .fix("make a cluster with another network, and move what runs here"));
        }
        (None, _, false) => return Err(bad("no addresses go with that")),
        (None, on, true) => {
            let is_off = cluster.settings.addons_off.contains(name);
            // One that the stack has not any more can still be wanted again.
            let is_known = has.iter().any(|word| word == name) || (on && is_off);
            if !is_known {
                let why = "the cluster's stack has no add-on of that name";
                return Err(Refusal::missing(FaultCode::AddonMissing, what(), why)
                    .fix("choose one of the catalogue: pf9-plane cluster addons NAME"));
            }
            return Ok(Turn::OfStack);
        }
    };
    serde_json::from_value(body)
        .map(|tuning| Turn::Setting(Box::new(tuning)))
        .map_err(|e| Refusal::internal("the setting was lost", &e))
}

/// Whether the cluster has it by its settings.
fn is_wanted(cluster: &Cluster, name: &str) -> bool {
    let s = &cluster.settings;
    let addon = Addon::ALL.into_iter().find(|addon| addon.word() == name);
    addon.map_or(!s.addons_off.contains(name), |addon| {
        addon.want(s.network_plugin, s.network_policies, &s.load_balancer) != Want::No
    })
}

/// Turns one on, or off if it is unused or the caller insists.
async fn switch(plane: &Arc<Plane>, id: ClusterId, name: &str, wanted: &Switch) -> Answer<()> {
    let (cluster, has) = {
        let rows = plane.read()?;
        let cluster = state::cluster(&rows, id)?;
        let stack = rolls::addons_of(&cluster).unwrap_or_else(|| cluster.stack.clone());
        let files = stacks::content(&rows, &stack)?.addons;
        let words = files.iter().filter_map(|file| Addon::word_of(file));
        (cluster, words.map(str::to_owned).collect::<Vec<_>>())
    };
    let how = turn(&cluster, &has, name, wanted)?;
    if !wanted.on && !wanted.force && is_wanted(&cluster, name) {
        used::require_unused(plane, &cluster, name).await?;
    }
    match how {
        Turn::Setting(tuning) => qbert::tune_this(plane, id, *tuning).await,
        Turn::OfStack => turn_of_stack(plane, id, name, wanted.on).await,
    }
}

async fn turn_of_stack(plane: &Arc<Plane>, id: ClusterId, name: &str, on: bool) -> Answer<()> {
    let word = name.to_owned();
    plane
        .change(move |change| {
            let mut cluster = state::cluster(&**change, id)?;
            let off = &mut cluster.settings.addons_off;
            let changed = match on {
                true => off.remove(&word),
                false => off.insert(word.clone()),
            };
            if let Some(why) = off_fault(off.iter().map(String::as_str)) {
                let what = format!("add-on {word} stays as it is");
                return Err(Refusal::bad(FaultCode::ClusterInvalid, what, why));
            }
            if changed {
                change.put(&CLUSTERS, &id.to_string(), &cluster)?;
                change.touch_cluster(&cluster);
            }
            Ok(())
        })
        .await?;
    tracing::info!(cluster = %id, addon = name, on, "add-on turned");
    Ok(())
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
    switch(&plane, qbert::cluster_id(&id)?, &name, &wanted).await?;
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
    switch(&plane, id, &name, &wanted).await?;
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

    fn masters(settled: bool) -> Masters {
        Masters {
            settled,
            faults: Vec::new(),
        }
    }

    fn stages(cluster: &Cluster, manifest: &StackManifest, settled: bool) -> Vec<(String, Stage)> {
        let all = entries(cluster, manifest, &masters(settled)).into_iter();
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
            let mut all = entries(c, manifest, &masters(true)).into_iter();
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
        let all = entries(&cluster(), &m, &masters(true));
        let of = |name: &str| {
            let found = all.iter().find(|e| e.name == name);
            found.map(|e| e.version.clone()).expect(name)
        };
        assert_eq!(of("coredns"), "1.12.3");
        assert_eq!(of("roles"), m.version);
        assert_eq!(of("network-policies"), "1");
    }

    fn switch(on: bool, addresses: &[&str]) -> Switch {
        Switch {
            on,
            addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
            force: false,
        }
    }

    #[test]
    fn settings_and_add_ons_of_the_stack_are_turned_and_nothing_else() {
        let pool = ["10.9.0.0/28"];
        let has = ["coredns".to_owned(), "network-policies".to_owned()];
        let mut c = cluster();
        for (name, wanted, is_setting) in [
            ("network-policies", switch(true, &[]), true),
            ("network-policies", switch(false, &[]), true),
            ("load-balancer", switch(true, &pool), true),
            ("load-balancer", switch(false, &[]), true),
            ("coredns", switch(false, &[]), false),
            ("coredns", switch(true, &[]), false),
        ] {
            let how = turn(&c, &has, name, &wanted).expect(name);
            assert_eq!(matches!(how, Turn::Setting(_)), is_setting, "{name}");
        }
        let forced = Switch {
            force: true,
            ..switch(true, &[])
        };
        for (name, wanted) in [
            ("network-policies", switch(true, &pool)),
            ("load-balancer", switch(true, &[])),
            ("load-balancer", switch(false, &pool)),
            ("flannel", switch(true, &[])),
            ("calico", switch(false, &[])),
            ("coredns", switch(true, &pool)),
            ("coredns", forced),
            ("metrics-server", switch(false, &[])),
            ("", switch(true, &[])),
        ] {
            assert!(turn(&c, &has, name, &wanted).is_err(), "{name}");
        }
        // Off is remembered beyond a stack that has it, and can be taken back.
        c.settings.addons_off.insert("metrics-server".into());
        turn(&c, &has, "metrics-server", &switch(true, &[])).expect("on");
        assert!(turn(&c, &has, "metrics-server", &switch(false, &[])).is_err());
    }

    #[test]
    fn one_that_is_off_goes_and_what_a_master_could_not_do_is_said_of_that_one_alone() {
        let mut c = cluster();
        c.settings.addons_off.insert("coredns".into());
        let of = |c: &Cluster, masters: &Masters, name: &str| {
            let mut all = entries(c, &whole(), masters).into_iter();
            let found = all.find(|e| e.name == name).expect("there");
            (found.state, found.why, found.wanted, found.switch)
        };
        let now = |stage| (stage, None, false, true);
        assert_eq!(of(&c, &masters(false), "coredns"), now(Stage::Going));
        assert_eq!(of(&c, &masters(true), "coredns"), now(Stage::Off));
        let fault = |what: &str| Fault::new(FaultCode::Object, what, "the API server says no");
        let said = Masters {
            settled: false,
            faults: vec![
                fault("cannot remove add-on coredns-of-ours"),
                fault("cannot remove add-on coredns"),
            ],
        };
        let (state, why, ..) = of(&c, &said, "coredns");
        assert_eq!(state, Stage::Failed);
        let words = "cannot remove add-on coredns: the API server says no";
        assert_eq!(why.as_deref(), Some(words));
        assert_eq!(
            of(&c, &said, "roles").0,
            Stage::Coming,
            "nobody speaks of it"
        );
        let object = Masters {
            settled: false,
            faults: vec![fault(
                "cannot apply ClusterRole pf9:see-nodes of add-on roles",
            )],
        };
        assert_eq!(of(&c, &object, "roles").0, Stage::Failed);
        // A pod network has no switch.
        assert!(!of(&c, &said, "flannel").3);
    }
}
