//! Another containerd on the machine, at the common socket and with the common directories, which runs somebody's
//! container: it was there before the node and is there afterwards, with the same processes, whatever happens to ours
//! meanwhile.
//!
//! Shims of both keep their sockets in `/run/containerd/s`, which no configuration moves (containerd 2.4.2,
//! `pkg/shim`): cleaning up by directory would cut off theirs.

use std::time::Duration;

use crate::demo::{NODES, Outcome, agent_is_ok, demo, eventually, ready_through_plane, shell, up};
use crate::scenario::READY_AGAIN;

/// The other one's programs, unit, container: everything the test installs.
const BRING: &str = r#"
set -e
mkdir -p /opt/theirs/root/bin /etc/containerd
for lib in $(ldd /bin/sleep | grep -o '/[^ ]*'); do
    mkdir -p /opt/theirs/root${lib%/*} && cp -L "$lib" /opt/theirs/root"$lib"
done
cp -L /bin/sleep /opt/theirs/root/bin/
mkdir -p /opt/theirs/root/proc /opt/theirs/root/sys /opt/theirs/root/dev
/opt/theirs/bin/containerd config default > /etc/containerd/config.toml
cat > /etc/systemd/system/containerd.service <<'END'
[Service]
Environment=PATH=/opt/theirs/bin:/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=/opt/theirs/bin/containerd
Type=notify
Delegate=yes
KillMode=process
END
systemctl daemon-reload
systemctl start containerd
export PATH=/opt/theirs/bin:$PATH
ctr -n theirs run --detach --rootfs /opt/theirs/root somebodys /bin/sleep 100000
"#;

/// What must stay: the daemon, its shim and the container as processes that were not restarted, the daemon's objects,
/// its files.
const SEEN: &str = r#"
set -e
export PATH=/opt/theirs/bin:$PATH
systemctl show -p MainPID,InvocationID,ActiveState containerd
ctr namespaces list -q
ctr -n theirs tasks list
ctr -n theirs tasks exec --exec-id look$(date +%s%N) somebodys /bin/sleep 0
for pid in $(pgrep -f '[c]ontainerd-shim.* -address /run/containerd/containerd.sock'); do
    echo "shim $pid $(cut -d' ' -f22 /proc/$pid/stat)"
done
sha256sum /etc/containerd/config.toml
"#;

/// All of it is removed, also the directories that this daemon created: another test compares the machine's files.
const TAKE_AWAY: &str = r"
set -e
export PATH=/opt/theirs/bin:$PATH
ctr -n theirs tasks kill -s KILL somebodys
ctr -n theirs tasks delete somebodys
ctr -n theirs containers delete somebodys
systemctl stop containerd
rm -rf /etc/systemd/system/containerd.service /etc/containerd/config.toml /opt/theirs /opt/containerd /var/lib/containerd /run/containerd
for dir in /etc/containerd /etc/cni/net.d; do
    if [ -d $dir ]; then rmdir -p --ignore-fail-on-non-empty $dir; fi
done
systemctl daemon-reload
";

#[test]
fn dd_another_runtime_is_neither_used_nor_disturbed() -> Outcome {
    up()?;
    let node = NODES[1];
    shell(
        node,
        "mkdir -p /opt/theirs/bin && cd /opt/pf9/stacks/current/bin && \
         cp -L containerd containerd-shim-runc-v2 ctr runc /opt/theirs/bin/",
    )?;
    demo(&["detach", node])?;
    shell(node, BRING)?;
    let before = shell(node, SEEN)?;
    println!("{before}");
    let done = beside(node, &before);
    shell(node, TAKE_AWAY)?;
    done?;
    up()?;
    ready_through_plane(node)
}

fn beside(node: &str, before: &str) -> Outcome {
    let stays = |when: &str| {
        let now = shell(node, SEEN)?;
        match now == before {
            true => Ok(()),
            false => Err(format!("{when}: theirs was\n{before}and is\n{now}")),
        }
    };
    demo(&["attach", node])?;
    ready_through_plane(node)?;
    stays("the node is one")?;
    ours_is_elsewhere(node)?;
    shell(
        node,
        "systemctl kill --kill-whom=main -s KILL pf9-containerd",
    )?;
    eventually("ours is there again", READY_AGAIN, || agent_is_ok(node))?;
    stays("ours was killed")?;
    demo(&["detach", node])?;
    stays("the node is none any more")?;
    demo(&["attach", node])?;
    eventually("it is one again", Duration::from_secs(60), || {
        ready_through_plane(node)
    })?;
    stays("the node is one again")
}

/// The node's pods are in a runtime of its own, and kubelet uses that one.
fn ours_is_elsewhere(node: &str) -> Outcome {
    let theirs = shell(node, "/opt/theirs/bin/ctr -n k8s.io containers list -q")?;
    assert_eq!(theirs, "", "pods in somebody else's runtime");
    let ours = shell(
        node,
        "ps -eo args= | grep -c '[c]ontainerd-shim.* -address /run/pf9-containerd/' || :",
    )?;
    assert_ne!(ours.trim(), "0", "no pod runs by the node's own runtime");
    Ok(())
}
