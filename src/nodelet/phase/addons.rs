//! Manifests of the stack, kept applied, and the last question to a master (order 206). Masters only.
//!
//! A file that is an add-on of the cluster's settings ([`Addon`]) is applied where the cluster has it, and taken
//! out of the cluster where not, also where the stack has no such file (any more): what it made has names (`names`). Beside the load balancer's file stands what no file can say: the pool.
//! Any other file is applied unless the spec keeps its add-on out (`addons_off`): what it names is taken out then. Every
//! object of an add-on has its name as a label.
//!
//! While masters run two stacks the spec names the one whose add-ons are in the cluster: masters on the other stack
//! leave them alone, or the two would take turns overwriting each other.
//!
//! What a manifest cannot know when the stack is made stands in it as a placeholder, `ADDON_…` of the model. Texts of
//! the parsed object are filled in, so no value can change its structure.

mod names;

use serde_json::{Value, json};

use crate::model::{
    ADDON_DNS_DOMAIN, ADDON_DNS_SERVER, ADDON_IPV4, ADDON_IPV6, ADDON_LABEL, ADDON_MTU,
    ADDON_NODE_V4, ADDON_NODE_V6, ADDON_PODS_V4, ADDON_PODS_V6, ADDON_SERVICES, Addon,
};
use crate::nodelet::step::Step;

use super::render::Inputs;
use super::{PhaseContext, Steps, Wait, flannel, services, shared_address};

/// The namespace of the load balancer's file.
const LOAD_BALANCER: &str = "metallb-system";
/// In each placeholder, and in few other texts.
const TO_FILL: &str = "__";
/// Says in a pod's template which builds its images are of.
const BUILDS: &str = "pf9.io/images";

pub(super) fn steps(ctx: &PhaseContext) -> Steps {
    let mut steps: Vec<Step> = shared_address::flow(ctx).into_iter().collect();
    if ctx
        .node
        .addons
        .as_ref()
        .is_none_or(|of| *of == ctx.node.stack)
    {
        steps.extend(of_stack(ctx)?);
    }
    steps.extend(services::ready_at_the_end(ctx));
    steps.extend(services::static_pods_current(ctx)?);
    Ok(steps)
}

/// What the stack brings into the cluster, or the settings keep out of it.
fn of_stack(ctx: &PhaseContext) -> Steps {
    let mut steps = flannel::steps(ctx)?;
    for file in &ctx.addons {
        let addon = Addon::of_file(&file.path);
        let mut objects: Vec<Value> = file.objects.clone();
        if addon == Some(Addon::LoadBalancer) {
            objects.extend(pool(ctx));
        }
        let word = Addon::word_of(&file.path);
        let is_here = match addon {
            Some(addon) => has(ctx, addon)?,
            None => !word.is_some_and(|word| ctx.node.addons_off.iter().any(|off| off == word)),
        };
        match (is_here, word, addon) {
            (true, _, _) => {
                for object in &objects {
                    let object = of_this_build(filled(object, ctx)?, ctx)?;
                    steps.push(Step::Object {
                        object: labelled(object, word),
                    });
                }
            }
            // The add-on that gives pods their addresses is never removed from a cluster: it is there permanently, or
            // never was.
            (false, _, Some(addon)) if addon.is_network() => {}
            (false, Some(word), _) => steps.push(gone(word, &objects)),
            // Without a name it cannot be turned off.
            (false, None, _) => {}
        }
    }
    for addon in Addon::ALL {
        let named = names::of(addon);
        let has_file = ctx
            .addons
            .iter()
            .any(|f| Addon::of_file(&f.path) == Some(addon));
        if !has_file && !named.is_empty() && !has(ctx, addon)? {
            steps.push(gone(addon.word(), &named));
        }
    }
    Ok(steps)
}

fn has(ctx: &PhaseContext, addon: Addon) -> Result<bool, Wait> {
    Ok(ctx.node.network.has(addon, ctx.stack()?))
}

/// Says whose it is; see [`ADDON_LABEL`].
fn labelled(mut object: Value, word: Option<&str>) -> Value {
    if let Some(word) = word {
        object["metadata"]["labels"][ADDON_LABEL] = word.into();
    }
    object
}

/// Backwards: what others need goes last.
fn gone(word: &str, objects: &[Value]) -> Step {
    let named = |object: &Value| {
        let mut named = json!({
            "apiVersion": object["apiVersion"],
            "kind": object["kind"],
            "metadata": {"name": object["metadata"]["name"]},
        });
        if let Some(namespace) = object.pointer("/metadata/namespace") {
            named["metadata"]["namespace"] = namespace.clone();
        }
        named
    };
    Step::AddonGone {
        addon: word.to_owned(),
        objects: objects.iter().rev().map(named).collect(),
    }
}

/// The addresses, and that every node may answer for them.
fn pool(ctx: &PhaseContext) -> [Value; 2] {
    let addresses = &ctx.node.network.load_balancer;
    [
        pool_object("IPAddressPool", json!({"addresses": addresses})),
        pool_object("L2Advertisement", json!({"ipAddressPools": ["cluster"]})),
    ]
}

fn pool_object(kind: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "metallb.io/v1beta1",
        "kind": kind,
        "metadata": {"name": "cluster", "namespace": LOAD_BALANCER},
        "spec": spec,
    })
}

/// Pods of an image that was built again under its name are made again: their template says which build it is.
fn of_this_build(mut object: Value, ctx: &PhaseContext) -> Result<Value, Wait> {
    let stack = ctx.stack()?;
    let mut builds = Inputs::new();
    let mut any = false;
    for kind in ["initContainers", "containers"] {
        let pointer = format!("/spec/template/spec/{kind}");
        let containers = object.pointer(&pointer).and_then(Value::as_array);
        for name in containers
            .into_iter()
            .flatten()
            .filter_map(|c| c["image"].as_str())
        {
            if let Some(image) = stack.images.iter().find(|i| i.reference == name) {
                builds = builds.add_digest(name, ctx.program(&image.path));
                any = true;
            }
        }
    }
    if any {
        object["spec"]["template"]["metadata"]["annotations"][BUILDS] =
            builds.digest().to_string().into();
    }
    Ok(object)
}

fn filled(value: &Value, ctx: &PhaseContext) -> Result<Value, Wait> {
    Ok(match value {
        Value::String(text) => Value::String(text_of(text, ctx)?),
        Value::Array(list) => {
            let list: Result<_, Wait> = list.iter().map(|v| filled(v, ctx)).collect();
            Value::Array(list?)
        }
        Value::Object(map) => {
            let map: Result<_, Wait> = map
                .iter()
                .map(|(key, v)| Ok((key.clone(), filled(v, ctx)?)))
                .collect();
            Value::Object(map?)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    })
}

fn text_of(text: &str, ctx: &PhaseContext) -> Result<String, Wait> {
    // Of thousands of texts a dozen has something to fill in, and all are made in every sweep.
    if !text.contains(TO_FILL) {
        return Ok(text.to_owned());
    }
    let network = &ctx.node.network;
    let v4 = network.pods_cidr.addr().is_ipv4();
    let pods = network.pods_cidr.trunc().to_string();
    let if_so = |so: bool, text: &str| {
        if so {
            text.to_owned()
        } else {
            "none".to_owned()
        }
    };
    let text = text
        .replace(ADDON_PODS_V4, &if_so(v4, &pods))
        .replace(ADDON_PODS_V6, &if_so(!v4, &pods))
        .replace(ADDON_NODE_V4, &if_so(v4, "autodetect"))
        .replace(ADDON_NODE_V6, &if_so(!v4, "autodetect"))
        .replace(ADDON_MTU, &network.mtu.unwrap_or_default().to_string())
        .replace(ADDON_DNS_DOMAIN, &network.cluster_domain)
        .replace(ADDON_SERVICES, &network.services_cidr.trunc().to_string())
        .replace(ADDON_IPV4, &v4.to_string())
        .replace(ADDON_IPV6, &(!v4).to_string());
    if !text.contains(ADDON_DNS_SERVER) {
        return Ok(text);
    }
    // A spec without it is refused earlier; this checks instead of assuming.
    let server = ctx.node.dns_service_ip().ok_or_else(|| {
        Wait::for_what(format!(
            "a services network with a tenth address for the cluster's DNS: {} has none",
            network.services_cidr
        ))
    })?;
    Ok(text.replace(ADDON_DNS_SERVER, &server.to_string()))
}

#[cfg(test)]
mod tests {
    mod calico;

    use super::*;
    use crate::model::{NetworkPlugin, NetworkPolicies};
    use crate::nodelet::phase::{AddonFile, samples};

    fn master() -> PhaseContext {
        samples::with_addons(samples::ordinary(samples::master("1.37.2")))
    }

    fn keys(ctx: &PhaseContext) -> Vec<String> {
        let steps = steps(ctx).expect("steps");
        steps.iter().map(Step::key).collect()
    }

    #[test]
    fn what_a_cluster_has_is_applied_and_the_rest_is_taken_out_of_it() {
        const POLICIES: &str = "object:apps/v1/DaemonSet/kube-system/network-policies";
        const POOL: &str = "object:metallb.io/v1beta1/IPAddressPool/metallb-system/cluster";
        let has = |ctx: &PhaseContext, key: &str| keys(ctx).iter().any(|k| k == key);
        let mut ctx = master();
        assert!(has(&ctx, POLICIES) && has(&ctx, POOL));
        assert!(!has(&ctx, "addon-gone:network-policies"));
        ctx.node.network.load_balancer.clear();
        assert!(!has(&ctx, POOL) && has(&ctx, "addon-gone:load-balancer"));
        ctx.node.network.policies = NetworkPolicies::Off;
        assert!(!has(&ctx, POLICIES) && has(&ctx, "addon-gone:network-policies"));
        // A foreign network is not touched by default.
        ctx.node.network.policies = NetworkPolicies::Auto;
        ctx.node.network.plugin = NetworkPlugin::None;
        assert!(!has(&ctx, POLICIES));
        ctx.node.network.policies = NetworkPolicies::On;
        assert!(has(&ctx, POLICIES));
        // CoreDNS is no setting.
        assert!(has(&ctx, "object:v1/Service/kube-system/kube-dns"));
    }

    #[test]
    fn a_text_without_their_mark_has_no_placeholder() {
        let all = [
            ADDON_DNS_DOMAIN,
            ADDON_DNS_SERVER,
            ADDON_IPV4,
            ADDON_IPV6,
            ADDON_MTU,
            ADDON_NODE_V4,
            ADDON_NODE_V6,
            ADDON_PODS_V4,
            ADDON_PODS_V6,
            ADDON_SERVICES,
        ];
        let ctx = master();
        for placeholder in all {
            assert!(placeholder.contains(TO_FILL), "{placeholder}");
            let text = text_of(&format!("a {placeholder} b"), &ctx).expect("filled");
            assert!(!text.contains(placeholder), "{text}");
        }
        assert_eq!(text_of("a_b", &ctx).expect("as it is"), "a_b");
    }

    /// Masters of two stacks would write over each other's add-ons at every sweep.
    #[test]
    fn a_master_leaves_the_add_ons_of_another_stack_alone() {
        let mut ctx = master();
        let all = keys(&ctx);
        ctx.node.addons = Some(ctx.node.stack.clone());
        assert_eq!(keys(&ctx), all, "its own");
        let mut older = ctx.node.stack.clone();
        older.version = "1.36.3-1".into();
        ctx.node.addons = Some(older);
        let left = keys(&ctx);
        let theirs = |key: &String| key.starts_with("object:") || key.starts_with("addon-gone:");
        assert!(!left.iter().any(theirs), "{left:?}");
        let rest: Vec<String> = all.into_iter().filter(|key| !theirs(key)).collect();
        assert_eq!(left, rest, "all else goes on");
        // Neither does it take away what the older one has and it has not.
        ctx.node.network.load_balancer.clear();
        assert_eq!(keys(&ctx), rest);
    }

    /// An API server notes no manager for an object without any fields of its applier (1.37: an account of a name and a
    /// namespace), so it would not count as ours.
    #[test]
    fn every_object_of_an_add_on_says_whose_it_is() {
        let ctx = master();
        let labels: std::collections::BTreeSet<String> = of_stack(&ctx)
            .expect("steps")
            .into_iter()
            .filter_map(|step| match step {
                Step::Object { object } => Some(object),
                _ => None,
            })
            .map(|o| o["metadata"]["labels"][ADDON_LABEL].to_string())
            .collect();
        let words = ["coredns", "load-balancer", "network-policies"];
        assert_eq!(labels, words.map(|word| format!("{word:?}")).into());
    }

    /// One that is no setting is taken out by its name, all of it and nothing else, and comes again.
    #[test]
    fn an_add_on_of_the_stack_that_is_turned_off_goes_and_comes_again() {
        let mut ctx = master();
        let on = keys(&ctx);
        ctx.node.addons_off = vec!["coredns".into(), "none-of-its-stack".into()];
        let off = keys(&ctx);
        let is_its = |key: &&String| !off.contains(key);
        let its: Vec<&String> = on.iter().filter(is_its).collect();
        assert_eq!(its.len(), 6, "{its:?}");
        assert!(its.iter().all(|key| key.contains("dns")), "{its:?}");
        let more: Vec<&String> = off.iter().filter(|key| !on.contains(key)).collect();
        assert_eq!(more, ["addon-gone:coredns"]);
        let gone = steps(&ctx)
            .expect("steps")
            .into_iter()
            .find_map(|s| match s {
                Step::AddonGone { objects, .. } => Some(objects),
                _ => None,
            });
        let gone: Vec<String> = gone
            .expect("taken out")
            .into_iter()
            .map(|object| Step::Object { object }.key())
            .collect();
        assert_eq!(gone, its.into_iter().rev().cloned().collect::<Vec<_>>());
        ctx.node.addons_off.clear();
        assert_eq!(keys(&ctx), on);
        // What has a setting is turned by that alone.
        ctx.node.addons_off = vec!["network-policies".into()];
        assert_eq!(keys(&ctx), on);
    }

    /// The stack was exchanged for one without the file, and the setting was taken back before or after that.
    #[test]
    fn an_add_on_whose_file_the_stack_lacks_goes_by_its_names() {
        let whole = master();
        let mut ctx = whole.clone();
        ctx.node.network.load_balancer.clear();
        ctx.node.network.policies = NetworkPolicies::Off;
        let gone = |ctx: &PhaseContext| {
            let steps = steps(ctx).expect("steps");
            let gone = steps.into_iter().filter_map(|s| match s {
                Step::AddonGone { addon, objects } => Some((addon, objects)),
                _ => None,
            });
            gone.collect::<std::collections::BTreeMap<_, _>>()
        };
        let by_file = gone(&ctx);
        assert_eq!(by_file.len(), 2);
        let settings = |f: &AddonFile| Addon::of_file(&f.path).is_none();
        ctx.addons.retain(settings);
        assert_eq!(gone(&ctx), by_file, "the names are those of the files");
        // The setting is still there, and nothing could keep it: the same, and a warning says why.
        let mut ctx = whole;
        ctx.addons.retain(settings);
        let manifest = ctx.manifest.as_mut().expect("manifest");
        manifest.addons.clear();
        assert_eq!(gone(&ctx).keys().len(), 2);
    }

    /// What is looked at to know that all is gone goes last, and exists once.
    #[test]
    fn an_add_on_goes_backwards() {
        let mut ctx = master();
        ctx.node.network.load_balancer.clear();
        let steps = steps(&ctx).expect("steps");
        let gone = steps.iter().find_map(|s| match s {
            Step::AddonGone { objects, .. } => Some(objects),
            _ => None,
        });
        let gone = gone.expect("taken out");
        assert_eq!(gone[0]["kind"], "L2Advertisement");
        let last = gone.last().expect("last");
        assert_eq!(
            *last,
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "metallb-system"}})
        );
        assert!(gone.iter().all(|o| o.get("spec").is_none()));
    }

    #[test]
    fn a_stack_without_its_images_has_no_add_on_and_the_rest_goes_on() {
        let mut ctx = master();
        let manifest = ctx.manifest.as_mut().expect("manifest");
        manifest.images.retain(|i| i.component != "metallb-speaker");
        let keys = keys(&ctx);
        assert!(keys.contains(&"addon-gone:load-balancer".to_owned()));
        assert!(keys.iter().any(|k| k.ends_with("/network-policies")));
    }

    /// A pod's flags are whole: no placeholder is left in any add-on, of either IP version.
    #[test]
    fn placeholders_are_filled_in() {
        let mut ctx = master();
        for (pods, services, v4, v6) in [
            ("10.244.0.0/16", "10.96.0.0/16", "true", "false"),
            ("fd00:244::/48", "fd00:96::/108", "false", "true"),
        ] {
            ctx.node.network.pods_cidr = pods.parse().expect("net");
            ctx.node.network.services_cidr = services.parse().expect("net");
            let text = serde_json::to_string(&steps(&ctx).expect("steps")).expect("json");
            assert!(!text.contains("__"), "{text}");
            for flag in [
                format!("--enable-ipv4={v4}"),
                format!("--enable-ipv6={v6}"),
                format!("--service-cluster-ip-range={services}"),
            ] {
                assert!(text.contains(&flag), "{flag}");
            }
        }
    }

    /// Every file of the add-ons that are settings fits into an object of its own kind.
    #[test]
    fn every_object_has_a_name_and_a_kind() {
        let mut seen = std::collections::BTreeSet::new();
        for AddonFile { path, objects } in master().addons {
            for object in objects {
                for field in ["/apiVersion", "/kind", "/metadata/name"] {
                    let text = object.pointer(field).and_then(Value::as_str);
                    assert!(text.is_some_and(|t| !t.is_empty()), "{path}: {object}");
                }
                let key = Step::Object { object }.key();
                assert!(seen.insert(key.clone()), "{path}: {key} twice");
            }
        }
    }
}
