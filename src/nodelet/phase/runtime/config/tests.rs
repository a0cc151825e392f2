use std::path::Path;

use super::*;
use crate::nodelet::phase::samples;

/// A release of Kubernetes whose sample has this containerd.
const RELEASES: [(&str, &str, i64); 3] = [
    ("2.2", "1.34.4", 3),
    ("2.3", "1.36.3", 4),
    ("2.4", "1.37.2", 4),
];

/// `PF9_BLESS=1` rewrites them. The dumps beside them are what those releases of containerd say
/// about these files (`nodelet::trial` judges them).
#[test]
fn each_containerd_gets_the_reviewed_file_of_its_schema() {
    for (containerd, kubernetes, schema) in RELEASES {
        let mut ctx = samples::ordinary(samples::master(kubernetes));
        let version = ctx.stack().expect("manifest").component("containerd");
        assert!(
            version.is_some_and(|v| v.starts_with(containerd)),
            "{version:?}"
        );
        ctx.node.runtime.cdi = true;
        ctx.node.runtime.nri = true;
        let text = config(&ctx).expect("a manifest");
        let table: toml::Table = text.parse().expect("valid TOML");
        assert_eq!(table["version"].as_integer(), Some(schema));
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden/containerd")
            .join(containerd)
            .join("config.toml");
        if std::env::var_os("PF9_BLESS").is_some() {
            std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
            std::fs::write(&path, &text).expect("write");
        }
        let reviewed = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            text,
            reviewed,
            "{}; PF9_BLESS=1 writes it anew",
            path.display()
        );
    }
}

#[test]
fn nothing_gets_in_unless_the_spec_allows_it() {
    let says = |ctx: &PhaseContext| -> (toml::Value, toml::Value) {
        let table: toml::Table = config(ctx).expect("text").parse().expect("TOML");
        let plugins = &table["plugins"];
        let cdi = plugins["io.containerd.cri.v1.runtime"]["cdi_spec_dirs"].clone();
        (cdi, plugins["io.containerd.nri.v1.nri"].clone())
    };
    let mut ctx = samples::worker("1.37.2");
    let (cdi, nri) = says(&ctx);
    // An empty list would be the usual directories for containerd 2.4.
    assert_eq!(
        cdi,
        toml::Value::from(vec![layout::CDI_NONE]),
        "a directory that is none"
    );
    assert!(
        layout::CDI_NONE.starts_with(layout::CONTAINERD_STATE),
        "root's"
    );
    assert_eq!(nri["disable"].as_bool(), Some(true));
    assert!(config(&ctx).expect("text").contains("imports = []\n"));
    ctx.node.runtime.cdi = true;
    ctx.node.runtime.nri = true;
    let (cdi, nri) = says(&ctx);
    assert_eq!(cdi.as_array().map(Vec::len), Some(2));
    assert_eq!(nri["disable"].as_bool(), Some(false));
    let socket = nri["socket_path"].as_str().expect("a socket");
    assert!(
        socket.starts_with(layout::CONTAINERD_STATE),
        "{socket}: it goes with the role"
    );
}

/// A drop-in is a part of the configuration: tried, copied, and a reason to restart.
#[test]
fn a_drop_in_is_tried_copied_and_started_with() {
    use crate::model::PhaseId;
    use crate::nodelet::phase::steps;
    use crate::nodelet::step::Step;

    let mut ctx = samples::worker("1.37.2");
    let inputs = |ctx: &PhaseContext| {
        let steps = steps(PhaseId::RuntimeStart, ctx).expect("steps");
        steps.into_iter().find_map(|s| match s {
            Step::Unit(u) => Some((u.inputs, u.restart_on)),
            _ => None,
        })
    };
    let before = inputs(&ctx);
    ctx.drop_ins
        .files
        .insert("99-x.toml".into(), "version = 4\n".into());
    ctx.drop_ins.copies = vec!["10-old.toml".into(), "99-x.toml".into()];
    let copy = "/etc/pf9/containerd/conf.d/99-x.toml";
    let named = inputs(&ctx);
    assert_ne!(before, named);
    // Our own file says the same now: the content counts too.
    let other = "version = 4\n# edited\n".to_owned();
    let first = ctx.drop_ins.files.insert("99-x.toml".into(), other);
    assert_ne!(named, inputs(&ctx));
    ctx.drop_ins
        .files
        .extend(first.map(|text| ("99-x.toml".to_owned(), text)));
    assert!(inputs(&ctx).is_some_and(|(_, files)| files.iter().any(|f| f == copy)));
    assert!(
        config(&ctx)
            .expect("text")
            .contains("imports = [\"conf.d/99-x.toml\"]\n")
    );
    let tried = trial(&ctx).expect("trial");
    assert_eq!(tried.files["conf.d/99-x.toml"], "version = 4\n");
    let steps = steps(PhaseId::RuntimeConfigure, &ctx).expect("steps");
    assert!(
        steps
            .iter()
            .any(|s| matches!(s, Step::File(f) if f.path == copy))
    );
    let gone = "/etc/pf9/containerd/conf.d/10-old.toml";
    assert!(
        steps
            .iter()
            .any(|s| matches!(s, Step::Absent { path } if path == gone))
    );
}
