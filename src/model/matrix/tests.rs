//! The data is well formed and says what it may; the verdicts are the promised ones.

use std::path::Path;

use super::*;
use crate::model::{Digest, StackArchive, StackComponent};

fn stack(kubernetes: &str, parts: &[(&str, &str)]) -> StackManifest {
    StackManifest {
        schema: 1,
        name: "pf9-kube".into(),
        version: format!("{kubernetes}-1"),
        kubernetes: kubernetes.parse().expect("version"),
        arch: "amd64".into(),
        archive: StackArchive {
            sha256: Digest::of(b""),
            size: 0,
        },
        components: parts
            .iter()
            .map(|(name, version)| StackComponent {
                name: (*name).into(),
                version: (*version).into(),
            })
            .collect(),
        files: Vec::new(),
        images: Vec::new(),
        addons: Vec::new(),
        requires: Vec::new(),
        security: false,
    }
}

/// What the default stack consists of; a test bends one thing.
const GOOD: [(&str, &str); 5] = [
    ("kubelet", "1.37.2"),
    ("containerd", "2.4.2"),
    ("etcd", "3.7.3"),
    ("runc", "1.5.3"),
    ("cni-plugins", "1.10.0"),
];

fn with(part: &str, version: &'static str) -> Vec<(&'static str, &'static str)> {
    let bent = |(name, was)| (name, if name == part { version } else { was });
    GOOD.into_iter().map(bent).collect()
}

fn machine(systemd: &str, cgroup: u8, kernel: &str) -> Machine {
    Machine {
        arch: Some("amd64".into()),
        systemd: Some(systemd.into()),
        cgroup: Some(cgroup),
        kernel: Some(kernel.into()),
    }
}

/// The real rules, and one thing that ran.
fn matrix() -> Matrix {
    let mut matrix = Matrix::read(DATA).expect("the matrix");
    matrix.ran = vec![Ran {
        test: "a_test".into(),
        kubernetes: "1.37.2".into(),
        containerd: "2.4.2".into(),
        etcd: "3.7.3".into(),
        runc: "1.5.3".into(),
        cni_plugins: "1.10.0".into(),
        systemd: "252".into(),
        cgroup: 2,
    }];
    matrix
}

fn tested() -> Machine {
    machine("252", 2, "6.1.0-40-amd64")
}

fn refused(stack: &StackManifest, machine: &Machine) -> String {
    match matrix().fits(stack, machine) {
        Fit::Refused(fault) => {
            assert!(!fault.fix.is_empty(), "no way out: {fault}");
            fault.to_string()
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn what_ran_fits_and_its_other_patch_releases_too() {
    let matrix = matrix();
    assert_eq!(matrix.fits(&stack("1.37.2", &GOOD), &tested()), Fit::Tested);
    // As old as it may be.
    let parts = with("kubelet", "1.34.0");
    assert_eq!(
        matrix.fits(&stack("1.37.2", &parts), &tested()),
        Fit::Tested
    );
    let parts = with("containerd", "v2.4.9~ds1");
    assert_eq!(
        matrix.fits(&stack("1.37.5", &parts), &Machine::default()),
        Fit::Tested
    );
}

#[test]
fn what_no_test_ran_is_accepted_and_said() {
    let matrix = matrix();
    let said = |stack: &StackManifest, machine: &Machine| {
        let verdict = matrix.fits(stack, machine);
        assert!(matches!(verdict, Fit::Warned(_)), "{verdict:?}");
        verdict.warnings().join(" / ")
    };
    let other = stack("1.37.2", &with("containerd", "2.3.7"));
    assert_eq!(
        said(&other, &tested()),
        "no test ran Kubernetes 1.37 with containerd 2.3"
    );
    // What ran with another minor did not run with this one.
    let before = stack("1.36.3", &with("kubelet", "1.36.3"));
    let words = said(&before, &tested());
    assert_eq!(
        words,
        "no test ran Kubernetes 1.36 with containerd 2.4, etcd 3.7, runc 1.5, cni-plugins 1.10"
    );
    let silent = stack("1.37.2", &GOOD[..2]);
    let words = said(&silent, &tested());
    assert!(words.contains("a etcd of unknown version"), "{words}");
    let elsewhere = machine("257", 2, "6.1.0");
    let words = said(&stack("1.37.2", &GOOD), &elsewhere);
    assert_eq!(
        words,
        "no test ran on systemd 257 with control groups of version 2"
    );
    let old = said(&stack("1.34.4", &with("kubelet", "1.34.4")), &tested());
    assert!(old.contains("only as the start of an upgrade"), "{old}");
    // For clusters that have it; none is made with it.
    for (version, may) in [("1.34.4", false), ("1.35.4", true), ("1.37.2", true)] {
        let said = matrix.may_begin(&stack(version, &GOOD));
        assert_eq!(said.is_ok(), may, "{version}");
        if let Err(fault) = said {
            let text = fault.to_string();
            assert!(text.contains("only as the start of an upgrade"), "{text}");
            assert_eq!(fault.fix, "use a stack of Kubernetes 1.37");
        }
    }
    // A candidate has what its release has.
    for version in ["1.35.2", "1.35.2-rc.1"] {
        let known = said(&stack(version, &with("kubelet", "1.35.2")), &tested());
        assert!(
            known
                .contains("can get stuck (https://github.com/kubernetes/kubernetes/issues/137409)")
                && known.contains("a later patch release"),
            "{known}"
        );
    }
}

#[test]
fn what_cannot_go_together_is_refused_with_the_part_and_the_way_out() {
    let good = |kubernetes| stack(kubernetes, &GOOD);
    for (words, fault) in [
        (
            "Kubernetes 1.33 is not supported, 1.34 to 1.37 are",
            refused(&good("1.33.9"), &tested()),
        ),
        (
            "Kubernetes 1.20 is not supported",
            refused(&good("1.20.2"), &tested()),
        ),
        (
            "Kubernetes 1.38 is newer than this release knows",
            refused(&good("1.38.0"), &tested()),
        ),
        // A candidate is of its release: what it has is equally unknown.
        (
            "Kubernetes 1.38 is newer",
            refused(&good("1.38.0-rc.1"), &tested()),
        ),
        (
            "Kubernetes 2.0 is newer",
            refused(&good("2.0.0"), &tested()),
        ),
        ("kubelet 1.38.1 is newer than its API server", {
            refused(&stack("1.37.2", &with("kubelet", "1.38.1")), &tested())
        }),
        ("kubelet 1.33.0 is more than 3 minors older", {
            refused(&stack("1.37.2", &with("kubelet", "v1.33.0")), &tested())
        }),
        ("containerd 1.7.28", {
            refused(&stack("1.37.2", &with("containerd", "1.7.28")), &tested())
        }),
        (
            "containerd 1.6.20",
            refused(
                &stack("1.37.2", &with("containerd", "1.6.20~ds1-1")),
                &tested(),
            ),
        ),
        (
            "Kubernetes uses (https://github.com/kubernetes/website/pull/54030)",
            refused(&stack("1.37.2", &with("etcd", "3.4.23")), &tested()),
        ),
        (
            "etcd 3.4.23",
            refused(&stack("1.37.2", &with("etcd", "3.4.23")), &tested()),
        ),
        (
            "systemd 258",
            refused(&good("1.37.2"), &machine("258", 1, "6.1.0")),
        ),
        (
            "Linux 5.4.0",
            refused(&good("1.37.2"), &machine("260", 2, "5.4.0-200-generic")),
        ),
        ("built for amd64, this machine is arm64", {
            let other = Machine {
                arch: Some("arm64".into()),
                ..tested()
            };
            refused(&good("1.37.2"), &other)
        }),
    ] {
        assert!(fault.contains(words), "{words:?} is not in {fault:?}");
    }
}

#[test]
fn a_machine_alone_is_judged_without_a_stack() {
    let matrix = matrix();
    assert_eq!(matrix.of_machine(&tested()), Fit::Tested);
    let other = matrix.of_machine(&machine("252", 1, "6.1.0"));
    assert!(
        other.warnings().iter().any(|w| w.contains("version 1")),
        "{other:?}"
    );
    assert!(
        matrix
            .of_machine(&machine("258", 1, "6.1.0"))
            .refusal()
            .is_some()
    );
    assert_eq!(matrix.of_machine(&Machine::default()), Fit::Tested);
    let silent = Machine::of(&Inventory::default());
    assert_eq!(
        silent,
        Machine::default(),
        "what it does not say is not judged"
    );
    let mut warned = matrix.rule[0].clone();
    warned.when = BTreeMap::from([("kernel".to_owned(), VersionReq::STAR)]);
    warned.says = Says::Warned;
    let words = Matrix {
        rule: vec![warned],
        ..matrix
    };
    let said = words.of_machine(&tested());
    assert!(said.warnings()[0].starts_with("Linux 6.1.0: "), "{said:?}");
}

#[test]
fn versions_are_read_as_projects_and_distributions_write_them() {
    let read = |text| loose_version(text).map(|v| v.to_string());
    for (text, version) in [
        ("v2.4.2", "2.4.2"),
        ("252", "252.0.0"),
        ("252.39-1~deb12u1", "252.39.0"),
        ("6.1.0-40-amd64", "6.1.0"),
        ("1.6.20~ds1-1", "1.6.20"),
        ("1.10", "1.10.0"),
    ] {
        assert_eq!(read(text).as_deref(), Some(version), "{text}");
    }
    for none in ["", "v", "odd", "-1", "99999999999999999999"] {
        assert_eq!(read(none), None, "{none}");
    }
}

/// A typing error in the data would make a rule that never matches.
#[test]
fn the_data_names_what_is_judged() {
    let matrix = Matrix::read(DATA).expect("the matrix");
    let known = [&PARTS[..], &[KUBERNETES, SYSTEMD, CGROUP, KERNEL]].concat();
    for rule in &matrix.rule {
        assert!(
            !rule.when.is_empty() && rule.source.starts_with("https://"),
            "{rule:?}"
        );
        for part in rule.when.keys() {
            assert!(known.contains(&part.as_str()), "{part} is judged by nobody");
        }
    }
    let minors: Vec<Version> = matrix
        .kubernetes
        .iter()
        .filter_map(|m| loose_version(&m.minor))
        .collect();
    assert!(
        minors.len() > 1 && minors.is_sorted_by(|a, b| a > b),
        "newest first: {minors:?}"
    );
    assert!(matrix.skew.contains_key("kubelet"));
}

fn text_of(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Tested is what a machine test ran: the row is of a stack that is pinned, and the test is there
/// and is one that brings that stack up.
#[test]
fn nothing_is_called_tested_that_no_test_ran() {
    let data: toml::Table = DATA.parse().expect("the matrix");
    let pinned = data["stack"].as_array().expect("stacks");
    // However it is broken over lines.
    let brings: String = text_of("tests/node/matrix.rs").split_whitespace().collect();
    let mut tests = String::new();
    for entry in
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node")).expect("tests")
    {
        tests += &std::fs::read_to_string(entry.expect("entry").path()).expect("text");
    }
    for ran in &Matrix::read(DATA).expect("the matrix").ran {
        let is = |stack: &toml::Value| {
            let same = |key: &str, own: &str| stack.get(key).and_then(|v| v.as_str()) == Some(own);
            same("kubernetes", &ran.kubernetes)
                && same("containerd", &ran.containerd)
                && same("etcd", &ran.etcd)
                && same("runc", &ran.runc)
                && same("cni_plugins", &ran.cni_plugins)
        };
        assert!(pinned.iter().any(is), "no stack is pinned that is {ran:?}");
        let named = format!("\"{}\",\"{}\"", ran.test, ran.kubernetes);
        assert!(
            brings.contains(&named),
            "tests/node/matrix.rs does not say {named}"
        );
        let there = format!("fn {}()", ran.test);
        assert!(tests.contains(&there), "there is no {there}");
    }
}

#[test]
fn the_readme_shows_the_matrix() {
    const BEGIN: &str = "<!-- matrix: made from src/stack/matrix.toml -->\n";
    const END: &str = "<!-- matrix ends -->\n";
    let page = text_of("README.md");
    let (before, rest) = page.split_once(BEGIN).expect("the matrix begins");
    let (shown, after) = rest.split_once(END).expect("the matrix ends");
    let table = Matrix::read(DATA).expect("the matrix").table();
    if std::env::var_os("PF9_BLESS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        std::fs::write(path, [before, BEGIN, &table, END, after].concat()).expect("write");
        return;
    }
    assert!(
        shown == table,
        "the README's matrix differs; PF9_BLESS=1 writes it anew\n{table}"
    );
}
