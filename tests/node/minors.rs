//! The minors other than the newest, with which all other tests run.

use crate::demo::{NODES, Outcome, agent_is_ok, demo, eventually, kubectl, ready_through_plane};
use crate::scenario::READY_AGAIN;
use crate::{addons, matrix};

/// What `scripts/stack` builds, the default first.
const MATRIX: &str = include_str!("../../src/stack/matrix.toml");

#[test]
fn g_each_minor_before_comes_up_and_works() -> Outcome {
    let others = minors_before_the_newest()?;
    assert!(!others.is_empty(), "only one minor is pinned");
    for version in others {
        demo(&["down"])?;
        let minor = version.rsplit_once('.').map_or("", |(minor, _)| minor);
        demo(&[
            "up",
            "--masters",
            "1",
            "--workers",
            "1",
            "--kubernetes",
            minor,
        ])?;
        for node in NODES {
            eventually(&format!("{node} Ready"), READY_AGAIN, || {
                ready_through_plane(node)?;
                agent_is_ok(node)
            })?;
            let path = "jsonpath={.status.nodeInfo.kubeletVersion}";
            let kubelet = kubectl(&["get", "node", node, "-o", path])?;
            assert_eq!(kubelet, format!("v{version}"), "{node}");
        }
        let hello = kubectl(&["logs", "hello-worker-1"])?;
        assert_eq!(hello.trim(), "hello from worker-1");
        addons::answer()?;
        matrix::all_ran("g_each_minor_before_comes_up_and_works")?;
        demo(&["down"])?;
    }
    Ok(())
}

/// The version for each minor except the first.
fn minors_before_the_newest() -> Outcome<Vec<String>> {
    let matrix: toml::Table = MATRIX.parse().map_err(|e| format!("{e}"))?;
    let stacks = matrix["stack"].as_array().cloned().unwrap_or_default();
    let mut seen: Vec<String> = Vec::new();
    let mut versions = Vec::new();
    for version in stacks.iter().filter_map(|s| s["kubernetes"].as_str()) {
        let minor = version.rsplit_once('.').map_or(version, |(minor, _)| minor);
        if !seen.iter().any(|m| m == minor) {
            seen.push(minor.to_owned());
            versions.push(version.to_owned());
        }
    }
    Ok(versions.split_off(1.min(versions.len())))
}
