//! Whose is what; images, with a containerd of our own.

mod containerd;
mod imports;

use super::*;
use crate::host::fs::Attrs;

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
