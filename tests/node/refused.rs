//! A configuration that its program refuses, on a running worker: a vendor's drop-in with a typo. The runtime keeps
//! running, also across a reboot, and the reason is reported; once fixed, it is applied.

use crate::demo::{
    NODES, Outcome, agent_is_ok, demo, eventually, ready_on_master, ready_through_plane, shell, up,
};
use crate::scenario::READY_AGAIN;

/// The directory that the demo's cluster allows.
const DIR: &str = "/etc/containerd/conf.d";
const COPY: &str = "/etc/pf9/containerd/conf.d/50-vendor.toml";

/// As a vendor's installer would write it, with this key in it.
fn drop_in(key: &str) -> String {
    format!(
        "mkdir -p {DIR} && cat > {DIR}/50-vendor.toml <<'END'\nversion = 4\n\
         [plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.vendor]\n\
         runtime_type = \"io.containerd.runc.v2\"\n{key} = \"overlayfs\"\nEND"
    )
}

/// The runtime's process, and the configuration of its next start.
fn runtime(node: &str) -> Outcome<(String, String)> {
    Ok((
        shell(
            node,
            "systemctl show -p MainPID,InvocationID pf9-containerd",
        )?,
        reads(node)?,
    ))
}

fn reads(node: &str) -> Outcome<String> {
    shell(
        node,
        "cd /etc/pf9/containerd && find . -name '*.toml' | sort | xargs sha256sum",
    )
}

/// What, why and what to do, as a person reads it.
fn refuses_in_words(node: &str) -> Outcome {
    let said = shell(node, "pf9ctl status || :")?;
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "nothing was changed",
        "50-vendor.toml",
        "snapshoter",
        "is dropped",
        "correct the drop-in",
    ] {
        if !said.contains(words) {
            return Err(format!("no {words:?} in {said}"));
        }
    }
    Ok(())
}

#[test]
fn eb_a_drop_in_that_the_runtime_would_lose_is_refused_and_put_right() -> Outcome {
    up()?;
    let node = NODES[1];
    agent_is_ok(node)?;
    let before = runtime(node)?;
    shell(node, &drop_in("snapshoter"))?;
    eventually("refused in words", READY_AGAIN, || refuses_in_words(node))?;
    assert_eq!(
        runtime(node)?,
        before,
        "the old process runs on with the old file"
    );
    ready_through_plane(node)?;

    demo(&["reboot", node])?;
    eventually("Ready after a boot", READY_AGAIN, || ready_on_master(node))?;
    eventually("still refused", READY_AGAIN, || refuses_in_words(node))?;
    assert_eq!(reads(node)?, before.1, "it was started with the old file");

    let booted = runtime(node)?;
    shell(node, &drop_in("snapshotter"))?;
    eventually("put right", READY_AGAIN, || {
        agent_is_ok(node)?;
        shell(node, &format!("cat {COPY}")).map(drop)
    })?;
    assert_ne!(runtime(node)?.0, booted.0, "it was started again with it");
    ready_through_plane(node)?;

    shell(node, "rm -r /etc/containerd")?;
    eventually("taken away", READY_AGAIN, || {
        agent_is_ok(node)?;
        match reads(node)? == before.1 {
            true => Ok(()),
            false => Err("the copy is still there".to_owned()),
        }
    })?;
    ready_through_plane(node)
}
