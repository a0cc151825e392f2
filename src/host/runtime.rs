//! The container runtime of the node: containerd with its own socket and state, reached with the
//! `ctr` of the active stack.

use std::path::Path;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixStream;

use super::exec::{self, Cmd, ExecError};
use super::fs::HostFs;
use super::mounts;
use crate::model::paths;

/// Questions are answered from containerd's database.
const ASK: Duration = Duration::from_secs(20);
/// Importing the largest control-plane image on a slow disk.
const IMPORT: Duration = Duration::from_secs(600);
/// Largest `/proc/<pid>/mountinfo`.
pub(crate) const MOUNTINFO_MAX: u64 = 64 * 1024 * 1024;
/// Largest `/proc/<pid>/cmdline` that is looked at.
const CMDLINE_MAX: u64 = 64 * 1024;
/// Rounds of killing and unmounting: a shim that dies leaves its children to the next round.
const ROUNDS: usize = 20;
/// Pause between two rounds.
const ROUND_PAUSE: Duration = Duration::from_millis(250);
/// Below these everything mounted is the runtime's or kubelet's: containers' roots, pods' volumes
/// and network namespaces. The directories themselves may be mount points that a person made, and
/// stay.
///
/// Names in `/run/netns` are not among them, not even those that nobody lives in: another runtime
/// makes a name before it starts the sandbox. Ours go below its own state
/// (`netns_mounts_under_state_dir`), so what to take away needs no guess and no running containerd.
const OUR_MOUNTS: [&str; 3] = [
    "/run/pf9-containerd/",
    "/var/lib/pf9/containerd/",
    "/var/lib/pf9/kubelet/",
];
/// Namespace of containerd that Kubernetes uses.
const NAMESPACE: &str = "k8s.io";

/// The runtime of one host.
#[derive(Clone, Debug)]
pub struct Runtime {
    fs: HostFs,
}

/// What could not be taken away.
#[derive(Debug, thiserror::Error)]
#[error("{} left: {}", left.len(), left.iter().take(5).cloned().collect::<Vec<_>>().join(", "))]
pub struct Leftovers {
    /// Mounts and processes, in words.
    pub left: Vec<String>,
}

impl Runtime {
    /// The runtime whose socket and stack are below this root.
    pub fn new(fs: HostFs) -> Self {
        Self { fs }
    }

    /// The daemon answers; says its version line.
    pub async fn version(&self) -> Result<String, ExecError> {
        let text = self.ctr(ASK, &["version"]).await?;
        let server = text.split("Server:").nth(1).unwrap_or_default();
        let version = server
            .lines()
            .find_map(|l| l.trim().strip_prefix("Version:"));
        Ok(version.unwrap_or_default().trim().to_owned())
    }

    /// References of all images.
    pub async fn images(&self) -> Result<Vec<String>, ExecError> {
        let text = self
            .ctr(ASK, &["-n", NAMESPACE, "images", "list", "-q"])
            .await?;
        Ok(text.lines().map(|l| l.trim().to_owned()).collect())
    }

    /// Imports a docker archive.
    pub async fn import(&self, archive: &str) -> Result<(), ExecError> {
        let at = self.fs.at(archive);
        let at = at.to_string_lossy();
        self.ctr(IMPORT, &["-n", NAMESPACE, "images", "import", &at])
            .await
            .map(drop)
    }

    /// Kills every shim and container process of ours and unmounts what they left. Works without a
    /// running containerd: the processes are found by the socket and the state directory that
    /// their arguments name.
    pub async fn clear(&self) -> Result<(), Leftovers> {
        let mut left = Vec::new();
        for round in 0..ROUNDS {
            if round > 0 {
                tokio::time::sleep(ROUND_PAUSE).await;
            }
            left = self.clear_once();
            if left.is_empty() {
                self.remove_pod_groups();
                return Ok(());
            }
        }
        Err(Leftovers { left })
    }

    /// True when no process or mount of ours is there.
    pub fn is_clear(&self) -> bool {
        self.processes().is_empty() && self.mounts().is_empty()
    }

    /// The empty control groups of pods. Those of another runtime's pods have processes in them,
    /// and the kernel keeps them.
    fn remove_pod_groups(&self) {
        const ROOT: &str = "/sys/fs/cgroup";
        let mut hierarchies = vec![ROOT.to_owned()];
        let names = self.fs.list(ROOT).unwrap_or_default();
        hierarchies.extend(names.iter().map(|n| format!("{ROOT}/{n}")));
        for hierarchy in hierarchies {
            for name in ["kubepods", "kubepods.slice"] {
                remove_groups(&self.fs.at(format!("{hierarchy}/{name}")));
            }
        }
    }

    fn clear_once(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (pid, name) in self.processes() {
            // Gone in the meantime is what was wanted.
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            left.push(format!("process {pid} ({name})"));
        }
        // The deepest first, as they are stacked.
        let mut mounts = self.mounts();
        mounts.sort_by_key(|m| std::cmp::Reverse(m.len()));
        for mount in mounts {
            if umount2(Path::new(&mount), MntFlags::MNT_DETACH).is_err() {
                left.push(format!("mount {mount}"));
            }
        }
        left
    }

    /// Shims of ours, and everything in their control groups' pods: children of a killed shim are
    /// found by the control group that kubelet made for pods.
    fn processes(&self) -> Vec<(i32, String)> {
        let mut found = Vec::new();
        for name in self.fs.list("/proc").unwrap_or_default() {
            let Ok(pid) = name.parse::<i32>() else {
                continue;
            };
            let read = |file: &str| {
                self.fs
                    .read(format!("/proc/{pid}/{file}"), CMDLINE_MAX)
                    .ok()
                    .flatten()
                    .unwrap_or_default()
            };
            let cmdline = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            let shim = cmdline.contains("containerd-shim")
                && (cmdline.contains(paths::CONTAINERD_SOCKET)
                    || cmdline.contains("/opt/pf9/stacks/"));
            let groups = read("cgroup");
            let pod = String::from_utf8_lossy(&groups)
                .lines()
                .any(|l| is_pod_group(l) && self.is_our_container(pid));
            if shim || pod {
                let word = cmdline.split(' ').next().unwrap_or_default().to_owned();
                found.push((pid, word));
            }
        }
        found
    }

    /// A container's root is mounted below the runtime's state: another runtime's pods are left
    /// alone.
    fn is_our_container(&self, pid: i32) -> bool {
        let info = self
            .fs
            .read(format!("/proc/{pid}/mountinfo"), MOUNTINFO_MAX)
            .ok()
            .flatten()
            .unwrap_or_default();
        let info = String::from_utf8_lossy(&info);
        info.lines()
            .any(|l| l.contains(paths::CONTAINERD_ROOT) || l.contains("/run/pf9-containerd"))
    }

    fn mounts(&self) -> Vec<String> {
        let mut points = mounts::points(&self.fs).unwrap_or_default();
        points.retain(|m| OUR_MOUNTS.iter().any(|ours| m.starts_with(ours)));
        points
    }

    async fn ctr(&self, deadline: Duration, args: &[&str]) -> Result<String, ExecError> {
        let program = self.fs.at(paths::STACK_CURRENT).join("bin/ctr");
        let socket = self.fs.at(paths::CONTAINERD_SOCKET);
        // `ctr` itself waits ten seconds for somebody to listen.
        UnixStream::connect(&socket)
            .await
            .map_err(|source| ExecError::Start {
                program: format!("ctr: nobody listens on {}", socket.display()),
                source,
            })?;
        let cmd = Cmd::new(program, deadline)
            .arg("--address")
            .arg(socket)
            .args(["--connect-timeout", "3s"])
            .args(args.iter().copied());
        Ok(exec::run(cmd).await?.text())
    }
}

/// Removes a control group and those below it, as far as they are empty.
fn remove_groups(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    // Not empty, or not there: nothing of ours then.
    std::fs::remove_dir(group).ok();
}

/// The control groups kubelet makes for pods, with either driver.
fn is_pod_group(line: &str) -> bool {
    line.contains("/kubepods")
}

#[cfg(test)]
mod tests {
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
        put("/proc/102/cgroup", "1:memory:/kubepods/besteffort/pod1/c\n");
        put(
            "/proc/102/mountinfo",
            "1 2 0:1 / / rw - overlay upperdir=/var/lib/docker/x\n",
        );
        put("/proc/103/cgroup", "1:memory:/kubepods/besteffort/pod1/c\n");
        put(
            "/proc/103/mountinfo",
            "1 2 0:1 / / rw - overlay upperdir=/var/lib/pf9/containerd/x\n",
        );
        let runtime = Runtime::new(fs);
        let pids: Vec<i32> = runtime.processes().into_iter().map(|p| p.0).collect();
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
}
