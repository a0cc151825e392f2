//! Updates of the machines' own distribution in a working cluster: one node after the other, with a reboot where it is
//! required, and back in service where a package fails.

use std::time::Duration;

use serde_json::Value;

use crate::demo::{
    NODES, Outcome, agent_is_ok, cluster, demo, eventually, kubectl, plane, ready_through_plane,
    shell, up,
};

/// Two machines that fetch and install a package of a few bytes, and prove that they are healthy.
const A_ROLL: Duration = Duration::from_secs(420);
/// Three attempts, with a minute and two between them.
const THREE_TRIES: Duration = Duration::from_secs(540);
const SOON: Duration = Duration::from_secs(120);
/// Units whose processes keep running during the update.
const UNITS: &str = "pf9-kubelet pf9-containerd pf9-etcd pf9-kube-proxy";

/// A repository of files on the machine, with the versions in it; no other source of packages is used.
const REPOSITORY: &str = r#"
set -e
mkdir -p /srv/patches
echo 'deb [trusted=yes] file:/srv/patches ./' > /etc/apt/sources.list
rm -f /etc/apt/sources.list.d/*
"#;
/// `VERSION` of the package, with `POSTINST` as its script.
const PACKAGE: &str = r#"
set -e
at=$(mktemp -d)
mkdir -p "$at/p/DEBIAN" "$at/p/etc"
printf 'Package: tiny\nVersion: VERSION\nArchitecture: all\nMaintainer: t <t@t>\nDescription: t\n' > "$at/p/DEBIAN/control"
printf '#!/bin/sh\nPOSTINST\n' > "$at/p/DEBIAN/postinst"
chmod 755 "$at/p/DEBIAN/postinst"
echo theirs-VERSION > "$at/p/etc/tiny.conf"
echo /etc/tiny.conf > "$at/p/DEBIAN/conffiles"
dpkg-deb --build "$at/p" /srv/patches/tiny_VERSION.deb
rm -rf "$at"
cd /srv/patches
for d in *.deb; do
  dpkg-deb -f "$d"; echo "Filename: ./$d"; echo "Size: $(stat -c %s "$d")"
  echo "SHA256: $(sha256sum "$d" | cut -d' ' -f1)"; echo
done > Packages
"#;

#[test]
fn m_the_machines_patches_come_in_one_node_after_the_other_and_a_bad_one_stops() -> Outcome {
    up()?;
    let cluster = cluster()?;
    for node in NODES {
        shell(node, REPOSITORY)?;
        package(node, 1, "exit 0")?;
        shell(
            node,
            "dpkg -i /srv/patches/tiny_1.deb && echo edited > /etc/tiny.conf",
        )?;
        package(node, 2, "exit 0")?;
    }
    bare_pods_go()?;

    // A person's cordon is there at the end as at the beginning.
    kubectl(&["cordon", "worker-1"])?;
    let before = (units()?, containers()?);
    begin(&cluster)?;
    over(&cluster, 2)?;
    if (units()?, containers()?) != before {
        return Err("something was started again that need not be".into());
    }
    assert_eq!(cordoned("worker-1")?, "true", "a person did that");
    kubectl(&["uncordon", "worker-1"])?;
    for node in NODES {
        assert_eq!(shell(node, "cat /etc/tiny.conf")?.trim(), "edited");
    }

    for node in NODES {
        package(node, 3, "touch /run/reboot-required")?;
    }
    let boots = boots()?;
    begin(&cluster)?;
    over(&cluster, 3)?;
    let said = plane(&["cluster", "os-update", &cluster, "status"])?;
    assert!(said.contains("the machine was rebooted"), "{said}");
    for ((node, now), before) in NODES.iter().zip(self::boots()?).zip(boots) {
        assert_ne!(now, before, "{node} was restarted");
        assert_eq!(cordoned(node)?, "", "{node} is not left cordoned");
    }

    bad_one(&cluster)?;
    demo(&["down"]).map(drop)
}

/// A package of the worker fails: the update stops and names it, the node accepts pods again; once fixed, it continues.
fn bad_one(cluster: &str) -> Outcome {
    let worker = NODES[1];
    package(worker, 4, "test -e /srv/mended")?;
    begin(cluster)?;
    eventually("it stops", THREE_TRIES, || {
        let said = plane(&["cluster", "os-update", cluster, "status"])?;
        match said.contains("is stopped: node worker-1") && said.contains("tiny") {
            true => Ok(()),
            false => Err(said),
        }
    })?;
    println!("{}", plane(&["cluster", "os-update", cluster, "status"])?);
    eventually("the node takes pods again", SOON, || {
        ready_through_plane(worker)?;
        match cordoned(worker)?.as_str() {
            "" => Ok(()),
            other => Err(format!("cordoned: {other}")),
        }
    })?;
    shell(worker, "touch /srv/mended")?;
    plane(&["cluster", "os-update", cluster, "resume"])?;
    eventually("it is finished", A_ROLL, || {
        let said = plane(&["cluster", "os-update", cluster, "status"])?;
        let has = shell(
            worker,
            "dpkg-query -W -f '${db:Status-Status} ${Version}' tiny",
        )?;
        match said.contains("2 of 2 nodes done") && has == "installed 4" {
            true => Ok(()),
            false => Err(format!("{has}\n{said}")),
        }
    })
}

fn package(node: &str, version: u32, postinst: &str) -> Outcome {
    let script = PACKAGE
        .replace("VERSION", &version.to_string())
        .replace("POSTINST", postinst);
    shell(node, &script).map(drop)
}

/// The demo's own pods have no controller, and a drain would end them.
fn bare_pods_go() -> Outcome {
    kubectl(&["delete", "pod", "--all", "--now"]).map(drop)
}

fn begin(cluster: &str) -> Outcome {
    println!("{}", plane(&["cluster", "os-update", cluster, "--plan"])?);
    let begin = [
        "cluster",
        "os-update",
        cluster,
        "--drain-timeout",
        "120",
        "--prove",
        "180",
    ];
    plane(&begin).map(drop)
}

/// Every machine has this version of the package, and the plane says so. A rebooting machine ends as its container
/// does, and is booted from outside.
fn over(cluster: &str, version: u32) -> Outcome {
    let want = format!("installed {version}");
    eventually(&format!("version {version} everywhere"), A_ROLL, || {
        for node in NODES {
            if let Err(why) = shell(node, "true")
                && why.contains("is not running")
            {
                demo(&["crash", node])?;
            }
        }
        let said = plane(&["cluster", "os-update", cluster, "status"])?;
        if !said.contains("2 of 2 nodes done") || !said.contains(": done;") {
            return Err(said);
        }
        for node in NODES {
            let has = shell(
                node,
                "dpkg-query -W -f '${db:Status-Status} ${Version}' tiny",
            )?;
            if has != want {
                return Err(format!("{node}: {has}"));
            }
        }
        Ok(())
    })?;
    println!("{}", plane(&["cluster", "os-update", cluster, "status"])?);
    for node in NODES {
        eventually(&format!("{node} is ok"), SOON, || agent_is_ok(node))?;
    }
    Ok(())
}

fn cordoned(node: &str) -> Outcome<String> {
    kubectl(&["get", "node", node, "-o", "jsonpath={.spec.unschedulable}"])
}

fn boots() -> Outcome<Vec<String>> {
    NODES
        .iter()
        .map(|node| shell(node, "cat /proc/sys/kernel/random/boot_id"))
        .collect()
}

/// The processes of the nodes' units.
fn units() -> Outcome<Vec<String>> {
    let ask = format!("systemctl show -p Id -p MainPID -p InvocationID {UNITS}");
    NODES.iter().map(|node| shell(node, &ask)).collect()
}

/// The containers of pods that are not drained: static ones.
fn containers() -> Outcome<Vec<String>> {
    let said = kubectl(&[
        "get",
        "pods",
        "-n",
        "kube-system",
        "-l",
        "tier=control-plane",
        "-o",
        "json",
    ])?;
    let pods: Value = serde_json::from_str(&said).map_err(|e| e.to_string())?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let ids = pods
        .iter()
        .map(|p| p["status"]["containerStatuses"][0]["containerID"].to_string());
    let ids: Vec<String> = ids.collect();
    match ids.len() {
        3 => Ok(ids),
        n => Err(format!("{n} static pods: {said}")),
    }
}
