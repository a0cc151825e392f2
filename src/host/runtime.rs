//! The container runtime of the node: containerd with its own socket and state.
//!
//! | file | what |
//! |---|---|
//! | here | questions; clearing away what it left |
//! | `cri` | its status, by the CRI |
//! | `import` | an image of the stack, written once |
//! | `archive` | what is in the archive of one |
//! | `grpc` | calls on its socket |

mod archive;
pub mod cri;
mod grpc;
mod import;

#[cfg(test)]
mod tests;

pub use grpc::CallError;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixStream;

use grpc::{ANSWER, Client};

use super::exec::{self, Cmd, ExecError};
use super::fs::HostFs;
use super::mounts;
use super::ours::{self, processes::Process};
use super::proc::Proc;
use super::protobuf::{Message, Value, fields};
use super::space;
use super::work::long;
use crate::model::paths;
use crate::seam::disk;
use crate::telemetry::chain;

/// Importing the largest control-plane image on a slow disk.
const IMPORT: Duration = Duration::from_secs(600);
/// Rounds of killing and unmounting: a shim that dies leaves its children to the next round.
const ROUNDS: usize = 20;
/// Pause between two rounds.
const ROUND_PAUSE: Duration = Duration::from_millis(250);
/// Namespace of containerd that Kubernetes uses.
const NAMESPACE: &str = "k8s.io";

/// The runtime of one host.
#[derive(Clone, Debug)]
pub struct Runtime {
    fs: HostFs,
}

/// Why an image is not in the runtime.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no room for it on the runtime's disk.
    #[error("there is no room for it on the disk of {}: {why}", at.display())]
    Full {
        /// The runtime's directory.
        at: PathBuf,
        /// In the words of who wrote.
        why: String,
    },
    /// The runtime's own tool did not do it.
    #[error(transparent)]
    Tool(#[from] ExecError),
}

/// What could not be removed.
#[derive(Debug, thiserror::Error)]
#[error("{} left: {}", left.len(), left.iter().take(5).cloned().collect::<Vec<_>>().join(", "))]
pub struct Leftovers {
    /// Mounts and processes, as text.
    pub left: Vec<String>,
}

impl Runtime {
    /// The runtime whose socket and stack are below this root.
    pub fn new(fs: HostFs) -> Self {
        Self { fs }
    }

    /// Its status, by the CRI: as kubelet would ask.
    pub async fn says(&self) -> Result<cri::Status, CallError> {
        cri::status(&self.socket()).await
    }

    /// All images: reference and digest of what it stands for.
    pub async fn images(&self) -> Result<BTreeMap<String, String>, CallError> {
        let mut client = Client::connect(&self.socket(), NAMESPACE, ANSWER).await?;
        let all = client.call(
            "containerd.services.images.v1.Images/List",
            Message::default(),
        );
        listed(&all.await?).ok_or(CallError::Answer("its list of images cannot be read"))
    }

    /// Imports an archive of one image. A plain one is written once; another, or one that this containerd does not
    /// take that way, by its own tool, which takes four times as long for it. `--local`: `ctr` unpacks it itself;
    /// otherwise every byte goes to containerd and back through a stream, which takes half as long again.
    pub async fn import(&self, archive: &str) -> Result<(), ImageError> {
        let at = self.fs.at(archive);
        match import::import(&self.fs, &self.socket(), at.clone()).await {
            Ok(true) => return Ok(()),
            Ok(false) => tracing::debug!(archive, "not a plain image"),
            // The tool needs more of it.
            Err(e) if e.lacks_room() => return Err(self.full(chain(&e))),
            Err(e) => {
                let why = chain(&e);
                tracing::warn!(archive, %why, "the image is imported by the runtime's own tool");
            }
        }
        let at = at.to_string_lossy();
        let import = ["images", "import", "--local", "--discard-unpacked-layers"];
        let args = [&["-n", NAMESPACE][..], &import, &[&*at]].concat();
        match self.ctr(IMPORT, &args).await {
            Ok(_) => Ok(()),
            Err(e) if chain(&e).contains(space::SAID) => Err(self.full(chain(&e))),
            Err(e) => Err(e.into()),
        }
    }

    fn full(&self, why: String) -> ImageError {
        let at = self.fs.at(paths::CONTAINERD_ROOT);
        ImageError::Full { at, why }
    }

    /// What it wrote is on the disk when this returns.
    pub async fn keep_on_disk(&self) -> std::io::Result<()> {
        let root = self.fs.at(paths::CONTAINERD_ROOT);
        let sync = move || match std::fs::File::open(root) {
            Ok(dir) => nix::unistd::syncfs(dir).map_err(Into::into),
            // None of its images either.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        };
        long(sync).await?
    }

    fn socket(&self) -> PathBuf {
        self.fs.at(paths::CONTAINERD_SOCKET)
    }

    /// Kills every shim and container process of ours and unmounts what they left. Works without a
    /// running containerd: [`ours::processes`] says which they are.
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
        for process in self.processes() {
            if let Ok(pid) = i32::try_from(process.pid) {
                // Gone in the meantime is what was wanted.
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
            left.push(process.to_string());
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

    /// Shims and container processes of ours: those of a shim that was killed are found too.
    fn processes(&self) -> Vec<Process> {
        let ours = Proc::new(self.fs.clone()).ours().into_iter();
        ours.filter(|(_, rule)| rule.killed_with_the_containers())
            .map(|(process, _)| process)
            .collect()
    }

    fn mounts(&self) -> Vec<String> {
        let mut points = mounts::points(&self.fs).unwrap_or_default();
        let roots = ours::paths::MOUNTED.map(|root| mounts::path_in_list(&self.fs, root));
        points.retain(|point| ours::paths::mounted_below(&roots, point));
        points
    }

    async fn ctr(&self, deadline: Duration, args: &[&str]) -> Result<String, ExecError> {
        let program = self.fs.at(paths::STACK_CURRENT).join("bin/ctr");
        let socket = self.socket();
        // `ctr` itself waits ten seconds for a listener.
        UnixStream::connect(&socket)
            .await
            .map_err(|source| ExecError::Start {
                program: format!("ctr: no listener on {}", socket.display()),
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

/// `ListImagesResponse`, as far as it is used.
fn listed(message: &[u8]) -> Option<BTreeMap<String, String>> {
    let mut images = BTreeMap::new();
    for image in fields(message) {
        let (1, Value::Bytes(image)) = image.ok()? else {
            continue;
        };
        let (mut name, mut digest) = (String::new(), String::new());
        for field in fields(image) {
            match field.ok()? {
                (1, Value::Bytes(text)) => name = String::from_utf8_lossy(text).into_owned(),
                (3, Value::Bytes(target)) => digest = digest_of(target)?,
                _ => {}
            }
        }
        images.insert(name, digest);
    }
    Some(images)
}

/// The digest of a `Descriptor`.
fn digest_of(target: &[u8]) -> Option<String> {
    for field in fields(target) {
        if let (2, Value::Bytes(text)) = field.ok()? {
            return Some(String::from_utf8_lossy(text).into_owned());
        }
    }
    Some(String::new())
}

/// Removes a control group and those below it, as far as they are empty.
fn remove_groups(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    // Not empty, or not there: nothing of ours then.
    disk::remove_dir(group).ok();
}
