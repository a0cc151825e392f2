//! A few machines with nothing but etcd, or nothing but a container runtime.
//!
//! ```text
//! Lab ──► Machine   a root directory (files, keys, certificates; in memory), a network namespace with
//!   │        │      one address, a fake systemctl that really runs it
//!   │        └► Node   nodelet's in-memory state: driven by its own phases, plan and runner
//!   └► network      a bridge; the test itself has an address on it, for servers that machines call
//! ```
//!
//! Everything here dies with the test, however that ends: the members' process namespace ends when a pipe of the test
//! closes. Mounts and links are the test's own and vanish with it.
//!
//! | file | holds |
//! |---|---|
//! | `programs` | the etcd versions and their paths |
//! | `network`  | namespaces, addresses |
//! | `moved`    | changing a machine's address |
//! | `pki`      | the cluster's authorities |
//! | `node`     | nodelet on a machine |
//! | `cri`      | a client of a runtime, as kubelet is one |
//! | `nri`      | a plugin of a runtime |
//! | `protobuf` | the encoding of both |

pub(crate) mod cri;
mod moved;
mod network;
mod node;
pub(crate) mod nri;
mod pki;
mod programs;
pub(crate) mod protobuf;

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use pf9_hostagent::host::etcd::{Etcd, Member};
use pf9_hostagent::host::fs::{Attrs, HostFs};
use pf9_hostagent::host::ours::{ports, units};
use pf9_hostagent::host::tls::ClientIdentity;
use pf9_hostagent::model::{CertPurpose, Fault, HostId, NodeSpec, paths};
use pf9_hostagent::nodelet::certs;
use pf9_hostagent::nodelet::plan::Plan;
use pf9_hostagent::nodelet::run::RunEnd;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) use network::OUTSIDE;
pub(crate) use node::Node;
pub(crate) use programs::{Programs, VERSIONS, script};

/// Certificates of an etcd member, as server and client.
const OF_ETCD: [CertPurpose; 3] = [
    CertPurpose::EtcdServer,
    CertPurpose::EtcdPeer,
    CertPurpose::EtcdClient,
];

/// What every machine of a lab shares.
pub(crate) struct Lab {
    /// The machines; their addresses start at `10.99.7.1`.
    pub(crate) machines: Vec<Machine>,
    pub(crate) pki: pki::Pki,
    dir: Option<TempDir>,
}

/// One machine.
pub(crate) struct Machine {
    pub(crate) fs: HostFs,
    pub(crate) ip: IpAddr,
    pub(crate) host_id: HostId,
    /// nodelet's in-memory state.
    pub(crate) node: Node,
    network: network::Namespace,
    runtime: Runtime,
}

impl Lab {
    /// Machines with everything but etcd's settings; nothing runs. They are planned as founders.
    pub(crate) fn new(version: &str, count: u8) -> Self {
        Self::with(&Programs::of(version), count)
    }

    /// The same, with these programs.
    pub(crate) fn with(programs: &Programs, count: u8) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        separate(dir.path());
        network::bridge();
        let mut lab = Self {
            machines: Vec::new(),
            pki: pki::Pki::new(),
            dir: Some(dir),
        };
        for n in 1..=count {
            lab.add(n, programs);
        }
        let everybody: Vec<_> = lab.machines.iter().map(|m| (m.host_id, m.ip)).collect();
        for machine in &mut lab.machines {
            machine.node.spec_mut().etcd.members = pki::founders(&everybody);
        }
        lab
    }

    /// One more machine with this number; the specs of the others do not name it yet.
    pub(crate) fn add(&mut self, n: u8, programs: &Programs) -> &mut Machine {
        let dir = self.dir.as_ref().expect("the lab stands");
        let root = dir.path().join(format!("m{n}"));
        let machine = Machine::new(root, n, &self.pki, programs);
        self.machines.push(machine);
        self.machines.last_mut().expect("it is there")
    }

    /// Runs nodelet on every machine at once: founders wait for each other.
    pub(crate) fn settle(&mut self) -> Vec<RunEnd> {
        let ends = thread::scope(|scope| {
            let ends: Vec<_> = self
                .machines
                .iter_mut()
                .map(|m| scope.spawn(|| m.settle()))
                .collect();
            ends.into_iter().map(|end| end.join()).collect::<Vec<_>>()
        });
        ends.into_iter()
            .map(|end| end.expect("a machine's thread"))
            .collect()
    }

    /// The same, and nothing failed.
    pub(crate) fn settled(&mut self) {
        for (end, machine) in self.settle().into_iter().zip(&self.machines) {
            assert!(matches!(end, RunEnd::Done), "{end:?}\n{}", machine.log());
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.machines.clear();
        if let Some(dir) = self.dir.take() {
            // Its own mounts in it go with it. A failure leaves an empty directory behind.
            if let Err(e) = umount2(dir.path(), MntFlags::MNT_DETACH) {
                eprintln!("{}: {e}", dir.path().display());
            }
        }
    }
}

/// Gives this thread, and what it starts, its own network and mount namespaces, and the directory a tmpfs: an fsync
/// costs nothing there.
fn separate(dir: &Path) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "members have networks and mounts of their own: run these tests as root"
    );
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).expect("private mounts");
    let tmpfs = Some("tmpfs");
    mount(
        tmpfs,
        dir,
        tmpfs,
        MsFlags::empty(),
        Some("size=6g,mode=755"),
    )
    .expect("tmpfs");
}

impl Machine {
    fn new(root: PathBuf, n: u8, pki: &pki::Pki, programs: &Programs) -> Self {
        let fs = HostFs::new(&root);
        let write = |path: &str, text: &str, mode: u32| {
            fs.write(path, text.as_bytes(), &Attrs::mode(mode))
                .expect("write");
        };
        write(
            "/usr/bin/systemctl",
            include_str!("lab/systemctl.sh"),
            0o755,
        );
        write(
            "/usr/bin/journalctl",
            include_str!("lab/journalctl.sh"),
            0o755,
        );
        write("/proc/self/mountinfo", ROOT_MOUNT, 0o644);
        write("/proc/sys/net/ipv4/ip_forward", "0\n", 0o644);
        for dir in [
            "/var/log/pf9/kube",
            "/run/fake-systemd",
            "/tmp",
            paths::NODELET_STATE,
        ] {
            fs::create_dir_all(fs.at(dir)).expect("directory");
        }
        let network = network::Namespace::new(n);
        write("/run/fake-systemd/namespaces", &network.path(), 0o644);
        let host_id = HostId(uuid::Uuid::from_bytes([n; 16]));
        let ip = network::address(n);
        let spec = pki.spec(host_id, ip, n);
        for purpose in OF_ETCD {
            pki.certify(&fs, purpose, &spec);
        }
        let machine = Self {
            node: Node::begin(&fs, spec),
            runtime: runtime(),
            fs,
            ip,
            host_id,
            network,
        };
        machine.use_programs(programs);
        machine
    }

    /// Makes these the programs of the active stack. Running ones continue.
    pub(crate) fn use_programs(&self, programs: &Programs) {
        let bin = self.fs.at(format!("{}/bin", paths::STACK_CURRENT));
        fs::create_dir_all(&bin).expect("directory");
        let none = None::<&str>;
        mount(Some(&programs.dir), &bin, none, MsFlags::MS_BIND, none).expect("bind the programs");
        let of_etcd = self.fs.at(paths::STACK_ETCD);
        if !of_etcd.exists() {
            std::os::unix::fs::symlink("current", of_etcd).expect("link");
        }
    }

    /// Runs this on the machine: in its network, with its nodelet's state.
    pub(crate) fn inside<T: Send>(&mut self, work: impl AsyncFnOnce(&mut Node) -> T + Send) -> T {
        let Self {
            node,
            network,
            runtime,
            ..
        } = self;
        let done = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                network.enter();
                runtime.block_on(work(node))
            });
            thread.join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// nodelet's process ends and starts over: its in-memory state is gone.
    pub(crate) fn crash(&mut self) {
        let spec = self.node.spec().clone();
        self.runtime = runtime();
        self.node = Node::begin(&self.fs, spec);
    }

    /// What nodelet plans about etcd.
    pub(crate) fn plan(&mut self) -> Plan {
        self.inside(async |node| node.check().await)
    }

    /// Runs that, until there is nothing more to do.
    pub(crate) fn settle(&mut self) -> RunEnd {
        self.inside(async |node| node.settle().await)
    }

    /// The same, as often as the loop would: etcd takes no new member before its members have known each other for a
    /// while.
    pub(crate) fn settled_in_time(&mut self) {
        let mut end = None;
        let done = within(PATIENCE, || {
            end = Some(self.settle());
            matches!(end, Some(RunEnd::Done))
        });
        assert!(done, "{end:?}\n{}", self.log());
    }

    /// The same, and it fails with this.
    pub(crate) fn fails(&mut self) -> Fault {
        match self.settle() {
            RunEnd::Failed { fault, .. } => fault,
            other => panic!("it does not fail: {other:?}"),
        }
    }

    /// The same, and it succeeded.
    pub(crate) fn settled(&mut self) {
        let end = self.settle();
        assert!(matches!(end, RunEnd::Done), "{end:?}\n{}", self.log());
    }

    /// A client of this machine's member, by its address: usable from everywhere.
    pub(crate) fn client(&self) -> Etcd {
        client_of(&self.fs, self.ip, self.node.spec())
    }

    /// The members in this member's list.
    pub(crate) fn members(&mut self) -> Vec<Member> {
        let client = self.client();
        let members = self.inside(async move |_| client.members().await);
        members.unwrap_or_else(|e| panic!("{e}\n{}", self.log()))
    }

    /// `etcdctl` with these arguments, against this member; returns its output.
    ///
    /// Retried while a leader was lost, or nobody answers in time: a request that a member forwarded to a dead leader
    /// is never answered, however soon there is another one. A write may thus happen twice, with the same value.
    pub(crate) fn ctl(&self, words: &[&str]) -> String {
        let mut said = self.ctl_tried(words);
        let unanswered = ["leader failure", "leader changed", "deadline exceeded"];
        within(PATIENCE, || {
            let again = matches!(&said, Err(why) if unanswered.iter().any(|w| why.contains(w)));
            if again {
                said = self.ctl_tried(words);
            }
            !again
        });
        said.unwrap_or_else(|error| panic!("{words:?}: {error}\n{}", self.log()))
    }

    /// The same, and it is refused; returns the message.
    pub(crate) fn refused(&self, words: &[&str]) -> String {
        match self.ctl_tried(words) {
            Ok(said) => panic!("{words:?}: {said}"),
            Err(why) => why,
        }
    }

    /// The same; its error if it does not succeed.
    pub(crate) fn ctl_tried(&self, words: &[&str]) -> Result<String, String> {
        self.ctl_fed(words, "")
    }

    /// The same, with this standard input.
    pub(crate) fn ctl_fed(&self, words: &[&str], text: &str) -> Result<String, String> {
        let bin = self.fs.at(format!("{}/bin/etcdctl", paths::STACK_CURRENT));
        let at = self.fs.at("/tmp/words");
        fs::create_dir_all(self.fs.at("/tmp")).expect("directory");
        fs::write(&at, text).expect("write");
        let stdin = fs::File::open(&at).expect("words");
        let done = self.etcdctl(&bin).args(words).stdin(stdin).output();
        let done = done.expect("etcdctl");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if done.status.success() {
            Ok(text(&done.stdout))
        } else {
            Err(text(&done.stderr))
        }
    }

    fn etcdctl(&self, bin: &Path) -> std::process::Command {
        let file = |name| self.fs.at(certs::path_of(CertPurpose::EtcdClient, name));
        let mut command = self.network.command(bin);
        command
            .env(
                "ETCDCTL_ENDPOINTS",
                format!("https://127.0.0.1:{}", ports::ETCD),
            )
            .env("ETCDCTL_CACERT", file(paths::CERT_CA_FILE))
            .env("ETCDCTL_CERT", file(paths::CERT_FILE))
            .env("ETCDCTL_KEY", file(paths::CERT_KEY_FILE));
        command
    }

    /// Starts the unit, as at boot.
    pub(crate) fn start(&self) {
        self.systemctl("start");
    }

    /// Stops it cleanly.
    pub(crate) fn stop(&self) {
        self.systemctl("stop");
    }

    /// Kills it.
    pub(crate) fn kill(&self) {
        self.systemctl("kill");
    }

    /// Whether its process exists, usable while the machine is busy.
    pub(crate) fn watched(&self) -> impl Fn() -> bool + Send + use<> {
        let pid = self.fs.at(format!("/run/fake-systemd/{}.pid", units::ETCD));
        move || {
            let pid = fs::read_to_string(&pid).unwrap_or_default();
            let pid = pid.trim();
            !pid.is_empty() && Path::new("/proc").join(pid).exists()
        }
    }

    /// Writes through any of these members that accepts it, from this machine; the error if none does.
    pub(crate) fn writer(
        &self,
        to: &[IpAddr],
    ) -> impl FnMut() -> Result<(), String> + Send + use<> {
        let bin = self.fs.at(format!("{}/bin/etcdctl", paths::STACK_CURRENT));
        let urls = to.iter().map(|ip| format!("https://{ip}:{}", ports::ETCD));
        let mut command = self.etcdctl(&bin);
        command
            .env("ETCDCTL_ENDPOINTS", urls.collect::<Vec<_>>().join(","))
            .args(["--command-timeout=2s", "put", "written", "1"]);
        move || {
            let done = command.output().expect("etcdctl");
            match done.status.success() {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
            }
        }
    }

    /// Whether etcd runs.
    pub(crate) fn is_up(&self) -> bool {
        self.systemctl("show").contains("ActiveState=active")
    }

    /// Kills it from within a run on the machine.
    pub(crate) fn killer(&self) -> impl FnOnce() + Send + use<> {
        let fs = self.fs.clone();
        move || drop(systemctl(&fs, "kill"))
    }

    fn systemctl(&self, verb: &str) -> String {
        systemctl(&self.fs, verb)
    }

    /// Puts this many MiB of values into etcd.
    pub(crate) fn fill(&self, mib: usize) {
        // Below the limit of a request; in a file, because an argument's limit may be lower.
        let value = self.fs.at("/tmp/value");
        fs::write(&value, vec![b'x'; 1 << 20]).expect("write");
        let bin = self.fs.at(format!("{}/bin/etcdctl", paths::STACK_CURRENT));
        for n in 0..mib {
            let value = fs::File::open(&value).expect("value");
            let done = self
                .etcdctl(&bin)
                .args(["put", &format!("fill/{n}")])
                .stdin(value)
                .output();
            let done = done.expect("etcdctl");
            let why = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{why}\n{}", self.log());
        }
    }

    /// A disk of this size, e.g. `140m`.
    pub(crate) fn small_disk(&self, path: &str, size: &str) {
        let at = self.fs.at(path);
        fs::create_dir_all(&at).expect("directory");
        let (tmpfs, size) = (Some("tmpfs"), format!("size={size},mode=700"));
        mount(tmpfs, &at, tmpfs, MsFlags::empty(), Some(size.as_str())).expect("mount");
    }

    /// Calls to systemd since the last query.
    pub(crate) fn calls(&self) -> Vec<String> {
        let path = "/run/fake-systemd/calls";
        let text = self.fs.read_text(path, 1 << 20).expect("calls");
        self.fs.remove_file(path).expect("forget");
        text.unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// The end of etcd's log, or the runtime's.
    pub(crate) fn log(&self) -> String {
        let unit = match self.node.manifest {
            None => units::ETCD,
            Some(_) => units::CONTAINERD,
        };
        let path = format!("/run/fake-systemd/{unit}.log");
        let text = fs::read_to_string(self.fs.at(path)).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Mounts a disk (in memory) there: for etcd, and in the mount table that nodelet reads.
    pub(crate) fn mount(&self, path: &str) {
        let at = self.fs.at(path);
        fs::create_dir_all(&at).expect("directory");
        let tmpfs = Some("tmpfs");
        mount(
            tmpfs,
            &at,
            tmpfs,
            MsFlags::empty(),
            Some("size=1g,mode=700"),
        )
        .expect("mount");
        self.mounts(&format!(
            "{ROOT_MOUNT}99 1 0:99 / {path} rw - ext4 /dev/lab-disk rw\n"
        ));
    }

    /// Unmounts the disk there; its content is kept for the caller.
    pub(crate) fn unmount(&self, path: &str) -> Unmounted {
        let at = self.fs.at(path);
        let aside = self.fs.at("/run/lab-disk");
        fs::create_dir_all(&aside).expect("directory");
        let none = None::<&str>;
        mount(Some(&at), &aside, none, MsFlags::MS_BIND, none).expect("keep the disk");
        umount2(&at, MntFlags::MNT_DETACH).expect("unmount");
        self.mounts(ROOT_MOUNT);
        Unmounted {
            aside,
            path: path.to_owned(),
        }
    }

    /// Mounts it again.
    pub(crate) fn remount(&self, disk: &Unmounted) {
        let at = self.fs.at(&disk.path);
        fs::create_dir_all(&at).expect("directory");
        let none = None::<&str>;
        mount(Some(&disk.aside), &at, none, MsFlags::MS_BIND, none).expect("mount");
        let path = &disk.path;
        self.mounts(&format!(
            "{ROOT_MOUNT}99 1 0:99 / {path} rw - ext4 /dev/lab-disk rw\n"
        ));
    }

    fn mounts(&self, text: &str) {
        let attrs = Attrs::mode(0o644);
        self.fs
            .write("/proc/self/mountinfo", text.as_bytes(), &attrs)
            .expect("write");
    }
}

fn systemctl(fs: &HostFs, verb: &str) -> String {
    let done = std::process::Command::new(fs.at("/usr/bin/systemctl"))
        .args(["--no-ask-password", verb, "--", units::ETCD])
        .output()
        .expect("systemctl");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// An existing disk that is not mounted.
pub(crate) struct Unmounted {
    aside: PathBuf,
    path: String,
}

/// An election, and a member that catches up, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The root file system, in `mountinfo`.
const ROOT_MOUNT: &str = "1 0 8:1 / / rw - ext4 /dev/lab-root rw\n";

/// A client of the member at this address with the certificate of the machine below `fs`.
pub(crate) fn client_of(fs: &HostFs, ip: IpAddr, spec: &NodeSpec) -> Etcd {
    let read = |name| {
        let path = fs.at(certs::path_of(CertPurpose::EtcdClient, name));
        fs::read(path).expect("material")
    };
    let (certificate, key) = (read(paths::CERT_FILE), read(paths::CERT_KEY_FILE));
    let identity = ClientIdentity {
        authority: spec.authorities.etcd.as_bytes(),
        certificate: &certificate,
        key: &key,
    };
    Etcd::new(&format!("https://{ip}:{}", ports::ETCD), identity).expect("client")
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime")
}

/// Waits until a condition holds; the failure names it.
pub(crate) fn until(what: &str, so: impl FnMut() -> bool) {
    assert!(within(PATIENCE, so), "{what}: not within {PATIENCE:?}");
}

fn within(longest: Duration, mut so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + longest;
    while !so() {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(100));
    }
    true
}

/// Copies a directory with its content, with root's rights.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("directory");
    let mode = fs::metadata(from).expect("mode").permissions().mode();
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).expect("mode");
    for entry in fs::read_dir(from).expect("read") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("copy");
        }
    }
}
