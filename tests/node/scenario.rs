//! Promises about whole machines.

use std::process::Command;
use std::time::Duration;

use crate::addons;
use crate::broken;
use crate::demo::{
    NODES, Outcome, agent_is_ok, demo, eventually, kubectl, machine_dir, ready_on_master,
    ready_through_plane, said, shell, start, up,
};
use crate::extensions;
use crate::hangs;
use crate::later;
use crate::maintained;
use crate::matrix;
use crate::moving;
use crate::network;
use crate::pages;
use crate::rights;
use crate::sample;
use crate::services;
use crate::terminal;

/// A node that was Ready is Ready again this long after its machine came back.
pub(crate) const READY_AGAIN: Duration = Duration::from_secs(150);
/// The units of a node; killing any of them must be repaired.
const DAEMONS: [&str; 7] = [
    "pf9-comms",
    "pf9-hostagent",
    "pf9-nodeletd",
    "pf9-containerd",
    "pf9-kubelet",
    "pf9-kube-proxy",
    "pf9-etcd",
];
/// How often each daemon of each machine is killed.
const KILLS: usize = 2;

#[test]
fn a_up_makes_ready_nodes_and_twice_is_harmless() -> Outcome {
    let first = up()?;
    println!("{first}");
    for node in NODES {
        ready_through_plane(node)?;
    }
    let hello = kubectl(&["logs", "hello-worker-1"])?;
    assert_eq!(hello.trim(), "hello from worker-1");
    let running = |node: &str| {
        shell(
            node,
            "systemctl show -p Id,InvocationID 'pf9-*.service' | grep -v -e nodeletd -e '^$'",
        )
    };
    let before = [running(NODES[0])?, running(NODES[1])?];
    up()?;
    assert_eq!(before, [running(NODES[0])?, running(NODES[1])?]);
    addons::answer()?;
    pages::lead_on()?;
    matrix::all_ran("a_up_makes_ready_nodes_and_twice_is_harmless")?;
    numbers_come_through_the_tunnel()?;
    an_idle_sweep_writes_its_line_only(NODES[0])
}

#[test]
fn ab_services_are_made_by_nftables_and_by_iptables() -> Outcome {
    up()?;
    services::change_their_ways()
}

/// What Prometheus would scrape: the agent's own metrics of each node, and etcd's of the master.
fn numbers_come_through_the_tunnel() -> Outcome {
    let master = NODES[0];
    let sources = [
        (master, "tunnel", "pf9_comms_sessions"),
        (NODES[1], "tunnel", "pf9_comms_sessions"),
        (master, "etcd", "etcd_server_has_leader 1"),
    ];
    let targets = demo(&["metrics"])?;
    for (node, source, line) in sources {
        let named = targets
            .lines()
            .any(|l| l.split_whitespace().take(2).eq([node, source]));
        assert!(named, "{node} {source} is no target: {targets}");
        let numbers = demo(&["metrics", node, source])?;
        assert!(
            numbers.lines().any(|l| l.starts_with(line)),
            "{node} {source} says no {line}: {numbers}"
        );
    }
    Ok(())
}

/// From one line of `kube.log` to the next, nodelet writes no file. Backups are not part of the sweep: each host makes
/// them at a time of its own, which may be now, and the directory for opening them exists from the first one on.
fn an_idle_sweep_writes_its_line_only(node: &str) -> Outcome {
    let told = || {
        shell(
            node,
            "grep 'status check: ' /var/log/pf9/kube/kube.log || :",
        )
    };
    shell(node, "pf9ctl etcd backup")?;
    let files = || {
        shell(
            node,
            "find /var/opt/pf9/nodelet /var/opt/pf9/kube_status /etc/pf9 \\
             -path /var/opt/pf9/nodelet/etcd-scratch -prune -o -printf '%p %i %C@ %s\\n' | sort",
        )
    };
    eventually(
        &format!("{node}: a check with nothing to do"),
        READY_AGAIN,
        || match told()?.lines().last() {
            Some(line) if line.contains("status check: ok - ") => Ok(()),
            other => Err(format!("the last check: {other:?}")),
        },
    )?;
    let (before, lines) = (files()?, told()?.lines().count());
    eventually(&format!("{node}: the next check"), READY_AGAIN, || {
        match told()?.lines().count() > lines {
            true => Ok(()),
            false => Err("no new line in kube.log".to_owned()),
        }
    })?;
    let line = told()?
        .lines()
        .last()
        .map(str::to_owned)
        .unwrap_or_default();
    assert!(line.contains("status check: ok - "), "{node}: {line}");
    assert_eq!(files()?, before, "{node}: an idle sweep wrote");
    Ok(())
}

#[test]
fn ac_a_broken_machine_is_told_and_one_that_moves_is_followed() -> Outcome {
    up()?;
    broken::what_is_broken_is_said_by_its_check()?;
    later::is_said_and_heals_with_its_cause()?;
    moving::a_worker_follows_its_machine()
}

#[test]
fn ad_what_hangs_or_is_flushed_works_again() -> Outcome {
    up()?;
    hangs::what_is_flushed_comes_back()?;
    hangs::what_is_replaced_comes_back()?;
    hangs::what_hangs_is_started_again()
}

#[test]
fn af_a_renamed_machine_keeps_its_node_and_operators_checks_their_sandbox() -> Outcome {
    up()?;
    extensions::are_bounded_by_the_machine()?;
    later::a_renamed_machine_keeps_its_node()
}

#[test]
fn b_reboot_and_power_loss_without_the_plane_end_ready() -> Outcome {
    up()?;
    demo(&["plane", "stop"])?;
    let ends = ["reboot", "crash"].map(|how| NODES.map(|node| (how, node)));
    for (how, node) in sample::of("ends of machines", ends.concat(), 2) {
        demo(&[how, node])?;
        eventually(&format!("{node} Ready after {how}"), READY_AGAIN, || {
            ready_on_master(node)?;
            agent_is_ok(node)
        })?;
    }
    demo(&["plane", "start"])?;
    for node in NODES {
        eventually(&format!("{node} seen by the plane"), READY_AGAIN, || {
            ready_through_plane(node)
        })?;
    }
    maintained::survives_power_loss_and_repairs_nothing()
}

#[test]
fn c_killed_daemons_while_converging_end_ready() -> Outcome {
    up()?;
    demo(&["detach", NODES[1], NODES[0]])?;
    let mut random = fastrand::Rng::with_seed(sample::seed());
    let mut killings: Vec<(&str, &str)> = NODES
        .iter()
        .flat_map(|node| DAEMONS.iter().map(move |daemon| (*node, *daemon)))
        .filter(|(node, daemon)| *daemon != "pf9-etcd" || node.starts_with("master"))
        .flat_map(|killing| [killing; KILLS])
        .collect();
    random.shuffle(&mut killings);
    let args = ["up", "--masters", "1", "--workers", "1"];
    let rising = start(&args)?;
    let mut killed = 0;
    for (node, daemon) in killings {
        // A random moment is the point here; nothing waits for it.
        std::thread::sleep(Duration::from_millis(random.u64(100..2500)));
        // A unit that does not exist yet cannot be killed, which is fine.
        let kill = format!(
            "systemctl is-active -q {daemon} && systemctl kill --kill-whom=main -s KILL {daemon} && echo killed || :"
        );
        if shell(node, &kill)?.contains("killed") {
            println!("killed {daemon} on {node}");
            killed += 1;
        }
    }
    let output = rising.wait_with_output().map_err(|e| e.to_string())?;
    said(output, &args)?;
    assert!(
        killed >= DAEMONS.len(),
        "only {killed} daemons could be killed"
    );
    for node in NODES {
        eventually(&format!("{node} Ready"), READY_AGAIN, || {
            ready_through_plane(node)?;
            agent_is_ok(node)
        })?;
    }
    Ok(())
}

#[test]
fn d_detached_machine_is_clean_and_can_come_back() -> Outcome {
    up()?;
    another_master_joins(NODES[1])?;
    for node in [NODES[1], NODES[0]] {
        // Like another runtime's, created before it starts its sandbox.
        shell(node, "ip netns add cni-theirs")?;
        demo(&["detach", node])?;
        let names = shell(node, "ls /run/netns && ip netns delete cni-theirs")?;
        assert_eq!(names.trim(), "cni-theirs", "{node}: network namespaces");
        nothing_runs(
            node,
            &[
                "/opt/pf9/stacks",
                "/var/lib/pf9",
                "/etc/pf9/kube.d",
                "/etc/pf9/cni",
            ],
        )?;
        let units = shell(node, "ls /etc/systemd/system | grep ^pf9- || :")?;
        let ours: Vec<_> = units
            .lines()
            .filter(|unit| {
                !["pf9-comms", "pf9-hostagent", "pf9-nodeletd"]
                    .iter()
                    .any(|own| unit.starts_with(own))
            })
            .collect();
        assert!(ours.is_empty(), "{node}: units are left: {ours:?}");
    }
    up()?;
    for node in NODES {
        ready_through_plane(node)?;
    }
    Ok(())
}

/// A second master, later than the first: the real etcd adds it and counts its vote.
fn another_master_joins(node: &str) -> Outcome {
    demo(&["detach", node])?;
    demo(&["attach", node, "--master"])?;
    let numbers = demo(&["metrics", node, "etcd"])?;
    for line in ["etcd_server_has_leader 1", "etcd_server_is_learner 0"] {
        assert!(
            numbers.lines().any(|l| l == line),
            "etcd of {node} says no {line}: {numbers}"
        );
    }
    ready_through_plane(node)
}

#[test]
fn e_files_of_a_node_are_good_for_that_node() -> Outcome {
    up()?;
    rights::of_a_worker_end_at_its_own_node(NODES[0], NODES[1])?;
    rights::are_waited_for(NODES[0])?;
    another_master_joins(NODES[1])?;
    rights::of_a_detached_master_are_worth_nothing(NODES[0], NODES[1])?;
    up()?;
    ready_through_plane(NODES[1])
}

#[test]
fn e_people_work_through_a_bad_network_beside_downloads() -> Outcome {
    up()?;
    terminal::is_who_is_signed_in()?;
    let networks: [fn() -> Outcome; 3] = [
        || network::people_work_beside_downloads(&NODES),
        || network::people_work_from_far(&NODES),
        || network::black_hole_is_noticed(NODES[1]),
    ];
    for network in sample::of("bad networks", networks, 1) {
        network()?;
    }
    Ok(())
}

#[test]
fn f_decommissioned_machine_is_as_it_was_before() -> Outcome {
    // Machines of its own: what other tests leave on theirs is not the product's.
    demo(&["down"])?;
    up()?;
    shell(NODES[1], THEIRS)?;
    leaves_when_its_pods_may(NODES[1])?;
    for node in [NODES[1], NODES[0]] {
        leaves_no_trace(node)?;
    }
    demo(&["down"])?;
    Ok(())
}

/// The agent is removed with its package; the machine's files are what they were before.
pub(crate) fn leaves_no_trace(node: &str) -> Outcome {
    shell(node, "pf9ctl node decommission --yes")?;
    let theirs = format!("if [ -e /srv/theirs ]; then {THEIRS_BELOW}; fi");
    shell(node, &theirs)?;
    shell(node, TAKE_AWAY)?;
    let stay = format!("if [ -e /srv/theirs ]; then {THEIRS_STAY}; else echo theirs; fi");
    let kept = shell(node, &stay)?;
    assert_eq!(
        kept.trim(),
        "theirs",
        "what was mounted below our directory"
    );
    is_as_before(node)
}

/// Nothing of the product is left, and the machine's files are what they were.
fn is_as_before(node: &str) -> Outcome {
    nothing_runs(
        node,
        &[
            "/opt/pf9",
            "/var/lib/pf9",
            "/etc/pf9",
            "/var/opt/pf9",
            "/var/log/pf9",
            "/run/pf9",
        ],
    )?;
    let left = shell(node, "getent passwd pf9 pf9-comms; getent group pf9 || :")?;
    assert_eq!(left, "", "{node}: users or groups are left");
    same_files(node)
}

/// With the package manager that installed it.
const TAKE_AWAY: &str = "if [ -e /etc/rpm/macros ]; then rpm -e pf9-hostagent; else apt-get purge -y pf9-hostagent; fi && \
                         rm -f /root/pf9-hostagent[_-]*";
/// People's files on machines: a drop-in for a unit of ours, and a directory of their own.
const THEIRS: &str = "mkdir -p /etc/systemd/system/pf9-kubelet.service.d /srv/theirs && \
                      printf '[Service]\\nNice=1\\n' >/etc/systemd/system/pf9-kubelet.service.d/50-theirs.conf && \
                      systemctl daemon-reload && echo theirs >/srv/theirs/file";
/// A file of theirs below a directory of ours, while only the package is installed.
const THEIRS_BELOW: &str =
    "mkdir -p /var/log/pf9/theirs && mount --bind /srv/theirs /var/log/pf9/theirs";
/// The same where kubelet mounts volumes.
const THEIRS_AS_KUBELETS: &str = "mkdir -p /var/lib/pf9/kubelet/plugins/theirs && \
                                  mount --bind /srv/theirs /var/lib/pf9/kubelet/plugins/theirs";
/// Files of the role that a person pinned by a mount of their own, a unit of it among them.
const PINNED: [&str; 2] = [
    "/etc/sysctl.d/90-pf9-kubernetes.conf",
    "/etc/systemd/system/pf9-kube-proxy.service",
];
/// The same in a directory that is the role's and holds no mounts of kubelet.
const THEIRS_IN_THE_ROLE: &str = "mkdir -p /var/lib/pf9/volumes/theirs && \
                                  mount --bind /srv/theirs /var/lib/pf9/volumes/theirs";
const THEIRS_IN_THE_ROLE_STAY: &str = "mountpoint -q /var/lib/pf9/volumes/theirs && \
                                       umount /var/lib/pf9/volumes/theirs && \
                                       rmdir -p --ignore-fail-on-non-empty /var/lib/pf9/volumes/theirs";
/// It is all there; then it is removed, by its owners.
const THEIRS_STAY: &str = "test -e /etc/systemd/system/pf9-kubelet.service.d/50-theirs.conf && \
                           mountpoint -q /var/log/pf9/theirs && cat /srv/theirs/file && \
                           umount /var/log/pf9/theirs && rmdir -p --ignore-fail-on-non-empty /var/log/pf9/theirs && \
                           rm -r /srv/theirs /etc/systemd/system/pf9-kubelet.service.d && systemctl daemon-reload";

/// A disruption budget that allows no eviction holds a decommission up for as long as a drain may take. It says so,
/// nothing else is touched meanwhile, and it continues when the budget allows it.
fn leaves_when_its_pods_may(node: &str) -> Outcome {
    let said = once_its_pods_may(node, &["pf9ctl", "decommission-node", "--yes"], || {
        let status = shell(node, "pf9ctl status --json || :")?;
        assert!(status.contains("drain"), "{node}: {status}");
        Ok(())
    })?;
    println!("{node}: {}", said.trim());
    Ok(())
}

/// The same for a package that is purged from a node that nobody decommissioned: the node is whole until its pods may go,
/// with its configuration, and then the package and the machine are clean. People's files that are mounted below our
/// directories stay: what kubelet might have mounted is unmounted, the rest is left and named.
pub(crate) fn is_purged_once_its_pods_may(node: &str) -> Outcome {
    for script in [THEIRS, THEIRS_BELOW, THEIRS_AS_KUBELETS, THEIRS_IN_THE_ROLE] {
        shell(node, script)?;
    }
    for file in PINNED {
        shell(node, &format!("mount --bind {file} {file}"))?;
    }
    let purge = format!("{{ {TAKE_AWAY}; }} 2>&1");
    let said = once_its_pods_may(node, &["sh", "-c", &purge], || {
        let whole =
            "test -d /etc/pf9/kube.d && test -e /etc/pf9/host_id.conf && ! test -e /usr/bin/pf9ctl";
        shell(node, whole).map(drop)
    })?;
    let named = ["/var/log/pf9/theirs", "/var/lib/pf9/volumes/theirs"];
    let named = named.into_iter().chain(PINNED);
    for words in ["removing the role"].into_iter().chain(named) {
        assert!(said.contains(words), "{node}: no {words:?} in {said}");
    }
    let state =
        "dpkg --audit; dpkg-query -W -f '${db:Status-Status}' pf9-hostagent 2>/dev/null || :";
    let left = shell(node, state)?;
    assert!(
        ["", "not-installed"].contains(&left.trim()),
        "{node}: {left}"
    );
    shell(node, THEIRS_IN_THE_ROLE_STAY)?;
    for file in PINNED {
        shell(node, &format!("umount {file} && rm {file}"))?;
    }
    assert_eq!(shell(node, THEIRS_STAY)?.trim(), "theirs", "{node}: {said}");
    is_as_before(node)
}

/// What such a command prints. `meanwhile` looks while it waits for the pods of the node.
fn once_its_pods_may(
    node: &str,
    words: &[&str],
    meanwhile: impl FnOnce() -> Outcome,
) -> Outcome<String> {
    let budget = "keep-them";
    kubectl(&[
        "create",
        "poddisruptionbudget",
        budget,
        "--selector=app=pf9-demo",
        "--min-available=1",
    ])?;
    let services =
        "systemctl show -p Id,ActiveState,InvocationID pf9-kubelet pf9-containerd pf9-kube-proxy";
    let before = shell(node, services)?;
    let leaving = start(&[&["shell", node][..], words].concat())?;
    let cordoned = "jsonpath={.spec.unschedulable}";
    eventually("the drain", READY_AGAIN, || {
        let now = kubectl(&["get", "node", node, "-o", cordoned])?;
        match now.trim() {
            "true" => Ok(()),
            other => Err(format!("unschedulable: {other:?}")),
        }
    })?;
    meanwhile()?;
    assert_eq!(
        shell(node, services)?,
        before,
        "{node}: only the drain began"
    );
    kubectl(&["get", "pod", &format!("hello-{node}")])?;
    kubectl(&["delete", "poddisruptionbudget", budget])?;
    let ended = leaving.wait_with_output().map_err(|e| e.to_string())?;
    said(ended, words)
}

/// No process, mount, link, rule or directory of ours.
fn nothing_runs(node: &str, gone: &[&str]) -> Outcome {
    // The agent's own keep running where only the role ended.
    let programs = match gone.contains(&"/opt/pf9") {
        true => "/opt/pf9",
        false => "/opt/pf9/(stacks|cni)",
    };
    let processes = format!(
        "ps -eo args= | grep -E '^({programs}|/usr/local/bin/kube|/pause|containerd-shim|/bin/sleep 2147483647)' || :"
    );
    let seen = [
        ("processes", processes.as_str()),
        (
            "mounts",
            "cut -d' ' -f2 /proc/mounts | grep -E '/(var/lib|run|opt)/pf9|/run/netns/|/var/lib/kubelet' || :",
        ),
        (
            "links",
            "ip -o link | grep -v -e ': lo:' -e ': host0@' || :",
        ),
        (
            "routes",
            "ip route | grep -v -e '^default' -e 'dev host0 proto kernel' || :",
        ),
        (
            "firewall rules",
            "iptables-save | grep -iE 'kube|cni|pf9' || :",
        ),
        (
            "tables of nftables",
            "nft list tables | grep -iE 'kube|cni|pf9' || :",
        ),
    ];
    for (what, script) in seen {
        let left = shell(node, script)?;
        assert_eq!(left, "", "{node}: {what} are left");
    }
    for path in gone {
        let left = shell(node, &format!("find {path} -mindepth 1 2>/dev/null || :"))?;
        assert_eq!(left, "", "{node}: {path} is not empty");
    }
    Ok(())
}

/// The machine's files compared with the listing from before the package was installed.
fn same_files(node: &str) -> Outcome {
    let dir = machine_dir(node);
    let output = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib/files.py"))
        .arg(dir.join("root"))
        .arg(dir.join("files-before.json"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{node}: files differ from before:\n{text}"
    );
    Ok(())
}
