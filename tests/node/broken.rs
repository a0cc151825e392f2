//! A machine that is broken in one way: `check-node` names that way and no other, and says what helps.
//!
//! What can be broken for one program alone is broken in namespaces of its own, on a machine that is a node and stays
//! one. What nodelet has to see is broken for all, and put right again.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::demo::{NODES, Outcome, agent_is_ok, eventually, ready_through_plane, shell, up};

/// A sweep and a half.
const SAID_WITHIN: Duration = Duration::from_secs(120);
/// `check-node` is asked by people who wait.
const SECONDS: f64 = 3.0;

/// What is broken, which check says so, with which words, and what it says to do.
struct Broken {
    breaks: &'static str,
    id: &'static str,
    words: &'static str,
    mends: &'static str,
}

const BROKEN: &[Broken] = &[
    Broken {
        breaks: "mount --bind /opt/pf9/stacks /opt/pf9/stacks; mount -o remount,bind,noexec /opt/pf9/stacks",
        id: "programs",
        words: "mounted noexec: /opt/pf9/stacks",
        mends: "mount -o remount,bind,exec /opt/pf9/stacks",
    },
    Broken {
        breaks: "mount -t ramfs none /var/lib/pf9/containerd",
        id: "runtime-storage",
        words: "/var/lib/pf9/containerd: ",
        mends: "mount -t tmpfs none /var/lib/pf9/containerd",
    },
    Broken {
        breaks: "mount -t tmpfs none /var/log; mkdir /var/log/pf9 /var/log/data; ln -s data /var/log/pods",
        id: "links",
        words: "/var/log/pods is a link to data",
        mends: "rm /var/log/pods; mkdir /var/log/pods; mount --bind /var/log/data /var/log/pods",
    },
    Broken {
        breaks: "hostname aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        id: "host-name",
        words: "at most 63 bytes",
        mends: "hostname worker-1",
    },
    Broken {
        breaks: "hostname db_1",
        id: "host-name",
        words: "db_1",
        mends: "hostname worker-1",
    },
    Broken {
        breaks: "echo nameserver 127.0.0.53 > /tmp/rc; mount --bind /tmp/rc /etc/resolv.conf",
        id: "dns",
        words: "only this machine itself",
        mends: "echo nameserver 10.99.0.1 > /tmp/rc",
    },
];

#[test]
fn ac_broken_machines_are_told_what_is_broken() -> Outcome {
    up()?;
    let node = NODES[1];
    let good = bad(&shell(node, "pf9ctl check-node --json || :")?)?;
    for broken in BROKEN {
        let Broken {
            breaks,
            id,
            words,
            mends,
        } = broken;
        let script = format!(
            "unshare --mount --uts sh -ec '{breaks}
             pf9ctl check-node --json > /tmp/broken || :
             {mends}
             pf9ctl check-node --json > /tmp/mended || :'
             cat /tmp/broken; echo =====; cat /tmp/mended; rm -f /tmp/broken /tmp/mended /tmp/rc"
        );
        let said = shell(node, &script)?;
        let (first, second) = said.split_once("=====").ok_or("no two reports")?;
        let mut expected = good.clone();
        expected.insert((*id).to_owned());
        assert_eq!(bad(first)?, expected, "{breaks}");
        assert!(first.contains(words), "{breaks}: {words}: {first}");
        assert_eq!(bad(second)?, good, "{mends}");
    }
    is_quick(node)?;
    no_trace(node)?;
    later(node)?;
    ready_through_plane(node)
}

/// The checks that failed.
fn bad(report: &str) -> Outcome<BTreeSet<String>> {
    let report: Value = serde_json::from_str(report).map_err(|e| format!("{e}: {report}"))?;
    let checks = report["checks"].as_array().cloned().unwrap_or_default();
    let failed = checks.iter().filter(|c| c["severity"] == "fail");
    Ok(failed
        .filter_map(|c| c["id"].as_str().map(str::to_owned))
        .collect())
}

fn is_quick(node: &str) -> Outcome {
    let script =
        "a=$(date +%s%N); pf9ctl check-node > /dev/null || :; b=$(date +%s%N); echo $((b - a))";
    let nanos: f64 = shell(node, script)?
        .trim()
        .parse()
        .map_err(|e| format!("{e}"))?;
    let took = nanos / 1e9;
    println!("check-node: {took:.2} s");
    assert!(took < SECONDS, "{took} s");
    Ok(())
}

fn no_trace(node: &str) -> Outcome {
    let left = shell(
        node,
        "find / -xdev -name .pf9-check; grep pf9-check /proc/mounts || :",
    )?;
    assert_eq!(left, "", "{node}");
    Ok(())
}

/// What becomes so on a node that is there: said, with what to do, and not said any more when it is over.
fn later(node: &str) -> Outcome {
    for (resolver, code, words) in [
        ("", "no-dns", "nothing is there"),
        (
            "nameserver 10.96.3.3",
            "networks-meet",
            "servicesCidr: 10.96.0.0/16 contains 10.96.3.3, a DNS server of this machine",
        ),
    ] {
        shell(node, "mv /etc/resolv.conf /etc/resolv.conf.kept")?;
        match resolver {
            "" => shell(node, "ln -s /nowhere/resolv.conf /etc/resolv.conf")?,
            line => shell(node, &format!("echo {line} > /etc/resolv.conf"))?,
        };
        let said = eventually(&format!("{node} says {code}"), SAID_WITHIN, || {
            let warning = warning(node, code)?.ok_or("nothing is said")?;
            let fix = warning["fix"].as_str().is_some_and(|fix| !fix.is_empty());
            match warning["why"]
                .as_str()
                .is_some_and(|why| why.contains(words))
                && fix
            {
                true => Ok(()),
                false => Err(warning.to_string()),
            }
        });
        shell(
            node,
            "rm -f /etc/resolv.conf; mv /etc/resolv.conf.kept /etc/resolv.conf",
        )?;
        said?;
        eventually(
            &format!("{node} says it no more"),
            SAID_WITHIN,
            || match warning(node, code)? {
                None => agent_is_ok(node),
                Some(warning) => Err(warning.to_string()),
            },
        )?;
    }
    Ok(())
}

fn warning(node: &str, code: &str) -> Outcome<Option<Value>> {
    let text = shell(node, "pf9ctl status --json || :")?;
    let status: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let all = status["node"]["warnings"].as_array().cloned();
    let mut all = all.unwrap_or_default().into_iter();
    Ok(all.find(|w| w["code"] == code))
}
