//! What comes over a node that works: its status says it with the remedy, and no longer once that was followed. All at
//! once, for each takes a sweep to be seen and another one to be gone.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::breaks::{BREAKS, Broken, Shown};
use crate::demo::{
    NODES, Outcome, agent_is_ok, eventually, kubectl, plane, ready_through_plane, shell,
};

/// A sweep a minute, and what it does.
const SWEPT: Duration = Duration::from_secs(150);

/// Checks of the machine whose defect the status of a node says as well, and its code there.
const CHECKED: [(&str, &str); 4] = [
    ("mount-propagation", "check-mount-propagation"),
    ("dns", "no-dns"),
    ("default-route", "no-default-route"),
    ("tools", "check-tools"),
];

/// A line of shell, the code that follows it, and another one that does what the remedy says.
const OTHERS: [(&str, &str, &str); 2] = [
    // Another container runtime is installed, and takes some of the addresses of the demo's pods.
    (
        "ip link add docker0 type bridge && ip address add 10.244.200.1/24 dev docker0 && ip link set docker0 up",
        "networks-meet",
        "ip link delete docker0",
    ),
    // What a storage driver's registrar makes that was not told kubelet's directory.
    (
        "mkdir /var/lib/kubelet/plugins_registry && touch /var/lib/kubelet/plugins_registry/driver-reg.sock",
        "csi-elsewhere",
        "rm -r /var/lib/kubelet/plugins_registry",
    ),
];

/// The kernel gives ports of the node away. The remedy is a command, which is run as it is written.
const GIVEN_AWAY: &str = "ports-given-away";
const GIVES_AWAY: &str = "cd /proc/sys/net/ipv4 && cat ip_local_port_range >/run/range && \
                          cat ip_local_reserved_ports >/run/reserved && echo '10000 60999' >ip_local_port_range";
const AS_BEFORE: &str = "cd /proc/sys/net/ipv4 && cat /run/range >ip_local_port_range && \
                         cat /run/reserved >ip_local_reserved_ports && rm /run/range /run/reserved";

fn broken(id: &str) -> Outcome<&'static Broken> {
    let row = BREAKS.iter().find(|(own, _)| *own == id);
    match row {
        Some((_, Shown::Machine(broken))) => Ok(broken),
        _ => Err(format!("{id} is not broken on the machine itself")),
    }
}

/// Warnings by code: the remedies.
fn warned(node: &str) -> Outcome<BTreeMap<String, String>> {
    let text = shell(node, "pf9ctl status --json || :")?;
    let status: Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
    let all = [&status["warnings"], &status["node"]["warnings"]];
    let all = all.into_iter().filter_map(Value::as_array).flatten();
    let each = all.filter_map(|w| {
        let fix = w["fix"].as_str().unwrap_or_default();
        Some((w["code"].as_str()?.to_owned(), fix.to_owned()))
    });
    Ok(each.collect())
}

pub(crate) fn is_said_and_heals_with_its_cause() -> Outcome {
    let node = NODES[1];
    let before = warned(node)?;
    let mut codes = vec![GIVEN_AWAY];
    let mut mends = Vec::new();
    let mut breaks = vec![GIVES_AWAY];
    for (id, code) in CHECKED {
        let broken = broken(id)?;
        codes.push(code);
        breaks.push(broken.breaks);
        mends.push(broken.mends);
    }
    for (breaks_it, code, mends_it) in OTHERS {
        codes.push(code);
        breaks.push(breaks_it);
        mends.push(mends_it);
    }
    for code in &codes {
        assert!(!before.contains_key(*code), "{code} before: {before:?}");
    }
    for line in breaks {
        shell(node, line)?;
    }
    let mut fixes = BTreeMap::new();
    let said = eventually("each is said", SWEPT, || {
        fixes = warned(node)?;
        let silent: Vec<_> = codes.iter().filter(|c| !fixes.contains_key(**c)).collect();
        match silent.is_empty() {
            true => Ok(()),
            false => Err(format!("not {silent:?}: {fixes:?}")),
        }
    });
    for line in mends {
        shell(node, line)?;
    }
    let heals = said.and_then(|()| {
        for code in &codes {
            assert_ne!(fixes[*code], "", "{code}: a remedy");
        }
        let command = fixes[GIVEN_AWAY].split(", and the same").next();
        shell(node, command.unwrap_or_default())?;
        eventually("none is said any longer", SWEPT, || {
            let now = warned(node)?;
            let left: Vec<_> = codes.iter().filter(|c| now.contains_key(**c)).collect();
            match left.is_empty() {
                true => agent_is_ok(node),
                false => Err(format!("{left:?}")),
            }
        })
    });
    shell(node, AS_BEFORE)?;
    heals?;
    ready_through_plane(node)
}

const RENAMED: &str = "node-renamed";
/// The plane refuses it.
const TAKEN: &str = "node-name-taken";

/// The machine gets another name, as `hostnamectl` gives it. What runs sees it; kubelet is started again, as by a reboot.
fn rename(node: &str, to: &str) -> Outcome {
    let line = format!(
        "echo {to} >/etc/hostname && hostname {to} && \
         systemctl restart pf9-kubelet && test $(cat /proc/sys/kernel/hostname) = {to}"
    );
    shell(node, &line).map(drop)
}

/// Codes that the plane's row of this host warns of.
fn warned_on_the_plane(host: &str) -> Outcome<Vec<String>> {
    let text = plane(&["host", "list", "--json"])?;
    let hosts: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let mut hosts = hosts.as_array().into_iter().flatten();
    let row = hosts.find(|row| row["id"] == host);
    let row = row.ok_or_else(|| format!("no {host} in {text}"))?;
    let all = row["message"]["warn"].as_array().into_iter().flatten();
    Ok(all
        .filter_map(|w| Some(w["code"].as_str()?.to_owned()))
        .collect())
}

/// A machine that is renamed, then gets the name of another host, then its own back: its node is the same all the time.
pub(crate) fn a_renamed_machine_keeps_its_node() -> Outcome {
    let node = NODES[1];
    let line = shell(node, "grep ^host_id /etc/pf9/host_id.conf")?;
    let host = line.rsplit(' ').next().unwrap_or_default().trim();
    let told = |renamed: bool, taken: bool| -> Outcome {
        let here: Vec<String> = warned(node)?.into_keys().collect();
        let there = warned_on_the_plane(host)?;
        let is_so = [&here, &there].into_iter().all(|codes| {
            let has = |code: &str| codes.iter().any(|c| c == code);
            has(RENAMED) == renamed && has(TAKEN) == taken
        });
        match is_so {
            true => Ok(()),
            false => Err(format!("here {here:?}, on the plane {there:?}")),
        }
    };
    told(false, false)?;
    let renamed = |to: &str, taken: bool| -> Outcome {
        rename(node, to)?;
        eventually(&format!("{node} is told to be {to}"), SWEPT, || {
            told(true, taken)?;
            ready_through_plane(node)?;
            agent_is_ok(node)
        })?;
        // Wrapped to the width of a terminal.
        let screen = shell(node, "pf9ctl status || :")?;
        let screen = screen.split_whitespace().collect::<Vec<_>>().join(" ");
        for words in [
            format!("called {to} now"),
            format!("stays {node} in Kubernetes"),
        ] {
            assert!(screen.contains(&words), "{words}: {screen}");
        }
        Ok(())
    };
    let said = renamed("renamed-1", false).and_then(|()| renamed(NODES[0], true));
    rename(node, node)?;
    said?;
    eventually("nothing of it is said any longer", SWEPT, || {
        told(false, false)?;
        ready_through_plane(node)?;
        agent_is_ok(node)
    })?;
    let nodes = kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])?;
    let mut nodes: Vec<&str> = nodes.split_whitespace().collect();
    nodes.sort_unstable();
    assert_eq!(nodes, NODES, "nothing was registered beside it");
    Ok(())
}
