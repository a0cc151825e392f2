//! Whose is what; images, with a containerd of our own.

mod containerd;
mod imports;

use std::sync::Arc;

use super::*;
use crate::host::fs::Attrs;
use containerd::{Does, daemon};

#[tokio::test]
async fn a_runtime_reports_its_status_and_refuses_in_its_own_words() {
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    let runtime = Runtime::new(fs.clone());
    let silent = runtime.says().await.expect_err("no listener");
    assert!(matches!(silent, CallError::Nobody { .. }), "{silent}");
    let script = |n: usize, _: &str| match n {
        0 => Does::Serves,
        _ => Does::Refuses(14, "server is not initialized yet"),
    };
    let _daemon = daemon(&fs, Arc::default(), Box::new(script));
    let status = runtime.says().await.expect("a status");
    assert!(status.condition("RuntimeReady").is_some_and(|c| c.holds));
    let network = status.condition("NetworkReady").expect("reported");
    assert!(!network.holds && network.message == "no plugin");
    assert_eq!(status.info["config"], "{}");
    let refused = runtime.says().await.expect_err("a refusal").to_string();
    assert!(refused.contains("not initialized yet"), "{refused}");
}

#[test]
fn images_are_told_by_what_their_names_stand_for() {
    let image = |name: &str, digest: &str| {
        let target = Message::default()
            .text(1, "type")
            .text(2, digest)
            .number(3, 7);
        Message::default()
            .text(1, name)
            .entry(2, "label", "x")
            .inside(3, &target)
    };
    let all = Message::default()
        .inside(1, &image("a:1", "sha256:1"))
        .inside(1, &image("b:1", "sha256:2"));
    let bytes = all.done();
    let read = listed(&bytes).expect("a list");
    let pairs: Vec<_> = read.iter().map(|(n, d)| (&**n, &**d)).collect();
    assert_eq!(pairs, [("a:1", "sha256:1"), ("b:1", "sha256:2")]);
    assert_eq!(listed(&bytes[..bytes.len() - 1]), None, "cut off");
}

#[test]
fn only_our_mounts_and_shims_are_ours() {
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    let put = |path: &str, text: &str| {
        fs.write(path, text.as_bytes(), &Attrs::mode(0o644))
            .expect("write");
    };
    put(
        "/proc/self/mountinfo",
        "1 2 0:1 / / rw - ext4 x rw\n\
         3 2 0:1 / /var/lib/containerd/x rw - overlay x rw\n\
         4 2 0:1 / /run/pf9-containerd/io/rootfs rw - overlay x rw\n\
         5 2 0:1 / /var/lib/pf9/kubelet/pods/a\\040b rw - tmpfs x rw\n\
         6 2 0:4 net:[4026532201] /run/netns/cni-theirs rw - nsfs nsfs rw\n\
         7 2 0:4 net:[4026532202] /run/pf9-containerd/io.containerd.grpc.v1.cri/netns/cni-1 \
         rw - nsfs nsfs rw\n",
    );
    put(
        "/proc/100/cmdline",
        "/usr/bin/containerd-shim-runc-v2\0-address\0/run/containerd/containerd.sock\0",
    );
    put(
        "/proc/101/cmdline",
        "/opt/pf9/stacks/x/bin/containerd-shim-runc-v2\0-address\0/run/pf9-containerd/containerd.sock\0",
    );
    put(
        "/proc/102/mountinfo",
        "1 2 0:1 / / rw - overlay overlay rw,upperdir=/var/lib/docker/x\n",
    );
    put(
        "/proc/103/mountinfo",
        "1 2 0:1 / / rw - overlay overlay rw,upperdir=/var/lib/pf9/containerd/x\n",
    );
    // A person edits a file of ours, and one of our services runs: neither is killed.
    put(
        "/proc/104/cmdline",
        "vim\0/opt/pf9/stacks/x/bin/containerd-shim-runc-v2\0",
    );
    fs.link("/proc/105/exe", "/opt/pf9/stacks/x/bin/etcd")
        .expect("link");
    let runtime = Runtime::new(fs);
    let pids: Vec<u32> = runtime.processes().iter().map(|p| p.pid).collect();
    assert_eq!(pids, [101, 103]);
    assert_eq!(
        runtime.mounts(),
        [
            "/run/pf9-containerd/io/rootfs",
            "/var/lib/pf9/kubelet/pods/a b",
            "/run/pf9-containerd/io.containerd.grpc.v1.cri/netns/cni-1"
        ],
        "no name of another runtime, although nobody lives there"
    );
}
