use serde_json::json;

use super::*;
use crate::compute::tests::{add, cluster, host};

fn manifest(kubernetes: &str, parts: &[(&str, &str)]) -> StackManifest {
    let components: Vec<_> = parts
        .iter()
        .map(|(name, version)| json!({"name": name, "version": version}))
        .collect();
    serde_json::from_value(json!({
        "schema": 1, "name": "pf9-kube", "version": format!("{kubernetes}-1"), "kubernetes": kubernetes,
        "arch": "amd64", "archive": {"sha256": Digest::of(b"a"), "size": 1},
        "components": components, "files": [], "images": [],
    }))
    .expect("manifest")
}

/// Findings of a roll from one stack to another, in a cluster of two masters and two workers.
fn all_found(from: StackManifest, to: &StackManifest, seen: [Condition; 4]) -> Vec<Finding> {
    let mut cluster = cluster();
    add(
        &mut cluster,
        &[(1, true), (2, true), (3, false), (4, false)],
    )
    .expect("attach");
    let stacks = BTreeMap::from([(cluster.stack.manifest, from)]);
    let hosts = (1..).zip(seen).map(|(n, seen)| {
        let known = Known {
            seen,
            inventory: None,
        };
        (host(n), known)
    });
    findings(&Case {
        cluster: &cluster,
        stacks: &stacks,
        to,
        hosts: &hosts.collect(),
    })
}

/// The same by id, without findings about known versions: no test ran a stack of so few components.
fn found(from: StackManifest, to: &StackManifest, seen: [Condition; 4]) -> Vec<(String, Weight)> {
    let all = all_found(from, to, seen)
        .into_iter()
        .map(|f| (f.id, f.weight));
    let known = ("stack".to_owned(), Weight::Warns);
    all.filter(|found| *found != known).collect()
}

const WELL: [Condition; 4] = [Condition::Well; 4];

#[test]
fn minors_are_not_skipped_and_older_ones_are_another_way() {
    let of = |from, to| found(manifest(from, &[]), &manifest(to, &[]), WELL);
    assert_eq!(of("1.36.3", "1.37.2"), []);
    assert_eq!(of("1.37.2", "1.37.1"), [], "within a minor");
    let refused = [("minor".to_owned(), Weight::Refuses)];
    assert_eq!(of("1.35.5", "1.37.2"), refused);
    assert_eq!(of("1.37.2", "1.36.3"), refused);
}

#[test]
fn add_ons_that_the_next_stack_lacks_are_said() {
    let with = |kubernetes, files: &[&str]| StackManifest {
        addons: files.iter().map(|f| (*f).to_owned()).collect(),
        ..manifest(kubernetes, &[])
    };
    let from = with(
        "1.36.3",
        &["addons/05-coredns.yaml", "addons/20-metrics-server.yaml"],
    );
    let to = with("1.37.2", &["addons/07-coredns.yaml"]);
    let left = [("addon-left/metrics-server".to_owned(), Weight::Warns)];
    assert_eq!(found(from.clone(), &to, WELL), left);
    assert_eq!(found(from.clone(), &from, WELL), []);
}

#[test]
fn steps_that_nobody_tests_are_refused() {
    let of = |from: &[_], to: &[_]| found(manifest("1.36.3", from), &manifest("1.37.2", to), WELL);
    let good = of(
        &[("etcd", "3.6.16"), ("containerd", "2.3.7")],
        &[("etcd", "3.7.3"), ("containerd", "2.4.2")],
    );
    assert_eq!(good, []);
    let bad = of(
        &[("etcd", "3.5.35"), ("containerd", "2.2.9")],
        &[("etcd", "3.7.3"), ("containerd", "2.4.2")],
    );
    let refused = ["etcd-step", "containerd-step"].map(|id| (id.to_owned(), Weight::Refuses));
    assert_eq!(bad, refused);
}

#[test]
fn a_stack_that_goes_with_nothing_here_is_refused() {
    let of = found(manifest("1.37.2", &[]), &manifest("1.38.0", &[]), WELL);
    assert_eq!(of, [("stack".to_owned(), Weight::Refuses)]);
}

/// A version known to be bad is refused with the reason and its source; a mere note is shown.
#[test]
fn a_version_that_is_known_is_said_with_the_report_it_comes_from() {
    for (kubernetes, etcd, weight, words) in [
        (
            "1.36.3",
            "3.5.9",
            Weight::Refuses,
            [
                "health checks",
                "https://github.com/kubernetes/website/pull/54030",
            ],
        ),
        (
            "1.35.2",
            "3.6.16",
            Weight::Warns,
            [
                "StatefulSet controller",
                "https://github.com/kubernetes/kubernetes/issues/137409",
            ],
        ),
    ] {
        let to = manifest(kubernetes, &[("etcd", etcd)]);
        let all = all_found(to.clone(), &to, WELL);
        let known = all.iter().find(|f| f.id == "stack").expect("known");
        assert_eq!(known.weight, weight);
        let why = &known.fault.why;
        assert!(words.iter().all(|w| why.contains(w)), "{why}");
    }
}

#[test]
fn a_master_that_is_not_well_blocks_and_a_worker_is_said() {
    let to = manifest("1.37.2", &[]);
    let of = found(
        to.clone(),
        &to,
        [
            Condition::Away,
            Condition::Well,
            Condition::Unwell,
            Condition::Away,
        ],
    );
    let want = [
        ("node/node-1".to_owned(), Weight::Blocks),
        ("node/node-3".to_owned(), Weight::Warns),
        ("node/node-4".to_owned(), Weight::Warns),
    ];
    assert_eq!(of, want);
}

#[test]
fn other_work_on_masters_comes_first() {
    let mut cluster = cluster();
    add(&mut cluster, &[(1, true)]).expect("attach");
    crate::rotation::begin(
        &mut cluster,
        BTreeMap::new(),
        0,
        crate::compute::tests::now(),
    )
    .expect("begun");
    let found = other_walks(&cluster).expect("found");
    assert_eq!(found.weight, Weight::Refuses);
}

#[test]
fn what_blocks_is_overruled_by_its_name_and_what_is_refused_by_nobody() {
    let of = |id: &str, weight| finding(id, weight, blocked("w", "y"));
    let all = [of("a", Weight::Warns), of("b", Weight::Blocks)];
    assert_eq!(stands(&all, &[]).map(|f| f.id.as_str()), Some("b"));
    assert_eq!(stands(&all, &["b".into()]), None);
    let all = [of("c", Weight::Refuses)];
    assert!(stands(&all, &["c".into()]).is_some());
}

#[test]
fn what_is_started_again_is_what_differs_and_concerns_the_node() {
    let from = manifest(
        "1.36.3",
        &[("kubelet", "1.36.3"), ("etcd", "3.6.16"), ("runc", "1.5.3")],
    );
    let to = manifest(
        "1.37.2",
        &[("kubelet", "1.37.2"), ("etcd", "3.7.3"), ("runc", "1.5.3")],
    );
    let names = |master| -> Vec<String> {
        let all = changes(&from, &to, master).into_iter();
        all.map(|c| c.component).collect()
    };
    assert_eq!(names(true), ["etcd", "kubelet"]);
    assert_eq!(names(false), ["kubelet"]);
}
