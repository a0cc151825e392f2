//! What a change restarts.

use std::collections::BTreeMap;

use super::super::{PhaseContext, all, layout, samples};
use super::flat;
use crate::model::*;
use crate::nodelet::step::{Step, UnitStep};

fn units(ctx: &PhaseContext) -> BTreeMap<String, UnitStep> {
    flat(&all(ctx))
        .into_iter()
        .filter_map(|s| match s {
            Step::Unit(u) => Some((u.unit.clone(), u.clone())),
            _ => None,
        })
        .collect()
}

#[test]
fn what_changes_decides_what_restarts() {
    type Change = fn(&mut PhaseContext);
    let base = samples::master("1.37.2");
    let table: [(&str, Change, &[&str]); 15] = [
        ("nothing", |_| {}, &[]),
        (
            "time",
            |c| c.now += jiff::SignedDuration::from_hours(1),
            &[],
        ),
        (
            "a label",
            |c| {
                c.node.labels.clear();
            },
            &[],
        ),
        (
            "another master",
            |c| {
                c.node.etcd.members.push(EtcdMember {
                    host_id: samples::host(9),
                    ip: "10.99.0.12".parse().expect("address"),
                    joins: true,
                })
            },
            &[],
        ),
        (
            "another master's key",
            |c| c.node.service_account_keys.push("x".into()),
            &[],
        ),
        (
            "another node",
            |c| {
                c.node
                    .network
                    .peers
                    .push(samples::peer("10.99.0.52", "10.244.2.0/24"))
            },
            &["pf9-network.service"],
        ),
        ("an add-on", |c| c.addons.clear(), &[]),
        (
            "pods",
            |c| c.node.kubelet.max_pods = 50,
            &["pf9-kubelet.service"],
        ),
        (
            "a feature gate",
            |c| {
                c.node.feature_gates.insert("A".into(), true);
            },
            &["pf9-kube-proxy.service", "pf9-kubelet.service"],
        ),
        (
            "a flag of the API server",
            |c| {
                let args = &mut c.node.api.extra_args;
                args.insert("event-ttl".into(), "2h".into());
            },
            &[],
        ),
        (
            "kubelet's serving certificate",
            |c| renew(c, CertPurpose::KubeletServer),
            &[],
        ),
        (
            "kubelet's client certificate",
            |c| renew(c, CertPurpose::KubeletClient),
            &[],
        ),
        (
            "a new authority of the cluster, believed",
            |c| c.node.authorities.cluster.push_str(&samples::pem("new")),
            &["pf9-kube-proxy.service", "pf9-kubelet.service"],
        ),
        (
            "etcd's authority",
            |c| c.node.authorities.etcd = samples::pem("new"),
            &["pf9-etcd.service"],
        ),
        (
            "cgroup driver",
            |c| c.node.runtime.cgroup_driver = CgroupDriverChoice::Systemd,
            &["pf9-containerd.service", "pf9-kubelet.service"],
        ),
    ];
    let before = units(&base);
    assert_eq!(before.len(), 6);
    for (what, change, restarted) in table {
        let mut ctx = base.clone();
        change(&mut ctx);
        let changed: Vec<String> = units(&ctx)
            .into_iter()
            .filter(|(name, unit)| before.get(name).map(|b| b.inputs) != Some(unit.inputs))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(changed, restarted, "{what}");
    }
}

fn renew(ctx: &mut PhaseContext, purpose: CertPurpose) {
    if let Some(seen) = ctx
        .material
        .get_mut(&purpose)
        .and_then(|m| m.certificate.as_mut())
    {
        seen.digest = Digest::of(b"renewed");
    }
}

/// The text of a static pod.
fn pod(ctx: &PhaseContext, name: &str) -> String {
    let path = format!("{}/{name}.yaml", layout::MANIFESTS);
    flat(&all(ctx))
        .into_iter()
        .find_map(|s| match s {
            Step::File(f) if f.path == path => Some(f.content.clone()),
            _ => None,
        })
        .expect("a static pod")
}

/// The units and static pods that differ.
fn restarted(before: &PhaseContext, after: &PhaseContext) -> Vec<String> {
    let (units_before, units_after) = (units(before), units(after));
    let units = units_after
        .iter()
        .filter(|(name, unit)| units_before.get(*name).map(|b| b.inputs) != Some(unit.inputs))
        .map(|(name, _)| name.clone());
    let pods = [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
    ];
    let pods = pods.into_iter().filter(|p| pod(before, p) != pod(after, p));
    units.chain(pods.map(str::to_owned)).collect()
}

#[test]
fn a_renewal_restarts_nobody() {
    for release in ["1.34.4", "1.36.3", "1.37.2"] {
        let base = samples::master(release);
        for purpose in CertPurpose::ALL {
            let mut ctx = base.clone();
            renew(&mut ctx, *purpose);
            let none = Vec::<String>::new();
            assert_eq!(restarted(&base, &ctx), none, "{release} {purpose:?}");
        }
    }
}

/// A life that is shorter than a component takes to read its files again: it is restarted, etcd
/// never is, and the runtime neither.
#[test]
fn a_short_life_restarts_who_would_read_it_too_late() {
    let mut base = samples::master("1.37.2");
    for material in base.material.values_mut() {
        let seen = material.certificate.as_mut().expect("seen");
        seen.not_after = seen.not_before + jiff::SignedDuration::from_mins(3);
    }
    let mut ctx = base.clone();
    CertPurpose::ALL.iter().for_each(|p| renew(&mut ctx, *p));
    assert_eq!(
        restarted(&base, &ctx),
        [
            "pf9-kube-proxy.service",
            "pf9-kubelet.service",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler"
        ]
    );
}

#[test]
fn who_signs_restarts_nothing() {
    let with = |cluster: [&str; 2]| {
        let mut ctx = samples::master("1.37.2");
        for of in Authority::ALL {
            *ctx.node.authorities.of_mut(*of) = cluster.map(samples::pem).concat();
        }
        ctx
    };
    assert_eq!(
        restarted(&with(["old", "new"]), &with(["new", "old"])),
        Vec::<String>::new()
    );
    assert!(!restarted(&samples::master("1.37.2"), &with(["old", "new"])).is_empty());
}

/// A kubelet that starts with the previous manifests, and is given others at once, waits two minutes for what the
/// older pods would have mounted.
#[test]
fn kubelet_is_started_again_with_the_manifests_that_stay() {
    let is_manifest =
        |step: &Step| matches!(step, Step::File(f) if f.path.starts_with(layout::MANIFESTS));
    let is_kubelet = |step: &Step| matches!(step, Step::Unit(u) if u.unit == layout::KUBELET_UNIT);
    for (before, written_first) in [(false, 1), (true, 3)] {
        let mut ctx = samples::master("1.37.2");
        ctx.facts.client_manifests = before;
        let phases = all(&ctx);
        let steps = flat(&phases);
        let starts = steps.iter().position(|s| is_kubelet(s)).expect("kubelet");
        let first = steps[..starts].iter().filter(|s| is_manifest(s)).count();
        assert_eq!(first, written_first, "there before: {before}");
        assert_eq!(steps.iter().filter(|s| is_manifest(s)).count(), 3);
    }
}
