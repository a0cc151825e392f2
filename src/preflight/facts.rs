//! Everything the checks look at, read once, changing nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};

use super::trial::{self, OverlayTrial};
use crate::host::facts::{self, OsRelease, os_release, systemd_version};
use crate::host::fs::{Found, HostFs};
use crate::host::kernel::{Kernel, ModuleState};
use crate::host::mounts;
use crate::host::ours;
use crate::host::proc::{self, Proc};
use crate::host::resolver::Resolver;
use crate::host::tools::TOOLS;
use crate::model::{Fault, FaultCode, Timestamp, paths};
use crate::telemetry::chain;

/// Files of the kernel about the whole machine; `/proc/cpuinfo` of one with hundreds of processors.
const KERNEL_FILE_MAX: u64 = 4 * 1024 * 1024;

/// What the checks look at.
#[derive(Clone, Debug)]
pub struct MachineFacts {
    /// Effective user.
    pub uid: u32,
    /// Distribution.
    pub os: OsRelease,
    /// As Rust names it, e.g. `x86_64`.
    pub arch: String,
    /// systemd is process 1.
    pub systemd: bool,
    /// Its version, e.g. `252`.
    pub systemd_version: Option<String>,
    /// Kernel release.
    pub kernel: String,
    /// The kernel's host name.
    pub host_name: String,
    /// The clock.
    pub now: Timestamp,
    /// The program that keeps the clock, if any.
    pub clock_keeper: Option<String>,
    /// Bytes of memory.
    pub memory: u64,
    /// Logical processors.
    pub cpus: u32,
    /// File systems that would take our data.
    pub disks: Vec<Disk>,
    /// Our paths that would be on something that is mounted read-only. By path: one file system can be mounted
    /// twice, in two ways.
    pub read_only: Vec<&'static str>,
    /// Directories for programs that would be on something from which none can be run.
    pub noexec: Vec<&'static str>,
    /// Links in the place of directories, and where they lead.
    pub links: Vec<(&'static str, String)>,
    /// Whether an overlay works where the runtime will have them.
    pub overlay_trial: OverlayTrial,
    /// The DNS servers.
    pub resolver: Resolver,
    /// There is a log of the kernel to be read.
    pub kernel_log: bool,
    /// Whether what is mounted by one is seen by all: where pods' directories will be. None: the kernel's list does not
    /// say.
    pub mounts_shared: Option<bool>,
    /// `ip_local_port_range` and `ip_local_reserved_ports`, as the kernel prints them.
    pub port_range: (String, String),
    /// What another Kubernetes left that was here.
    pub leftovers: Vec<String>,
    /// Swap areas in use.
    pub swaps: Vec<String>,
    /// User namespaces that the kernel allows; none: it has none.
    pub user_namespaces: u64,
    /// Control groups version 2.
    pub cgroup_v2: bool,
    /// Controllers that can be used.
    pub controllers: BTreeSet<String>,
    /// Kernel functions: is it there?
    pub modules: BTreeMap<&'static str, ModuleState>,
    /// Programs that were found, by name.
    pub programs: BTreeSet<String>,
    /// Files that were found, of those in [`super::software::LIBRARIES`].
    pub libraries: BTreeSet<String>,
    /// Listeners on the ports we need.
    pub listeners: Vec<TakenPort>,
    /// Processes whose names mean another Kubernetes.
    pub kubernetes: Vec<ProcessInfo>,
    /// Left by another agent.
    pub foreign_paths: Vec<String>,
    /// Processes of another container runtime.
    pub runtimes: Vec<ProcessInfo>,
    /// Locks of the package manager that are held.
    pub package_locks: Vec<PackageLock>,
    /// Whether SELinux guards it.
    pub selinux: SeLinux,
    /// Whether AppArmor is there.
    pub apparmor: bool,
    /// What the kernel gives away at most.
    pub limits: Limits,
}

/// How far SELinux goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeLinux {
    /// It is not there.
    Absent,
    /// It says what it would refuse.
    Permissive,
    /// It refuses.
    Enforcing,
}

/// What the kernel gives away at most; `None` where it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Processes and threads.
    pub pid_max: Option<u64>,
    /// Open files.
    pub file_max: Option<u64>,
    /// Users of file watches, for each user.
    pub inotify_instances: Option<u64>,
    /// File watches, for each user.
    pub inotify_watches: Option<u64>,
}

/// A held lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageLock {
    /// Its file.
    pub path: &'static str,
    /// The holder; `None` where it cannot be seen.
    pub holder: Option<ProcessInfo>,
}

/// One file system and our paths on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Our paths that would be on it.
    pub paths: Vec<&'static str>,
    /// Bytes in all.
    pub total: u64,
    /// Bytes that may be used.
    pub available: u64,
    /// Files that may be made; 0 of 0 on file systems that do not count.
    pub inodes: Option<u64>,
}

/// Somebody listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenPort {
    /// TCP port.
    pub port: u16,
    /// The process, if it can be seen.
    pub process: Option<ProcessInfo>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its id.
    pub pid: u32,
    /// The kernel's name of it.
    pub name: String,
    /// It belongs to the node we made.
    pub ours: bool,
}

impl From<ours::processes::Process> for ProcessInfo {
    fn from(seen: ours::processes::Process) -> Self {
        Self {
            ours: ours::processes::process(&seen).is_some(),
            pid: seen.pid,
            name: seen.name,
        }
    }
}

impl From<proc::Listener> for TakenPort {
    fn from(seen: proc::Listener) -> Self {
        Self {
            port: seen.port,
            process: seen.holder.map(ProcessInfo::from),
        }
    }
}

impl MachineFacts {
    /// Reads the machine below `host`; `uid` is who asks.
    pub fn read(host: &HostFs, uid: u32, now: Timestamp) -> Result<Self, Fault> {
        let reader = Reader { host };
        let kernel = Kernel::new(host.clone());
        let fault = |e: &(dyn std::error::Error + 'static)| {
            Fault::new(FaultCode::Facts, "cannot inspect this machine", chain(e))
        };
        let cgroup_v2 = kernel.cgroup_v2().map_err(|e| fault(&e))?;
        let mut modules = BTreeMap::new();
        for (name, trace) in super::kernel::MODULES {
            let state = match reader.exists(trace) {
                true => ModuleState::Present,
                false => kernel.module(name).map_err(|e| fault(&e))?,
            };
            modules.insert(*name, state);
        }
        if reader
            .text("/proc/filesystems")
            .lines()
            .any(|l| l.trim_start_matches("nodev").trim() == "overlay")
        {
            modules.insert("overlay", ModuleState::Present);
        }
        let proc = Proc::new(host.clone());
        let names: Vec<(u32, String)> = proc
            .pids()
            .into_iter()
            .map(|pid| (pid, proc.name(pid)))
            .collect();
        Ok(Self {
            uid,
            os: os_release(host).map_err(|e| fault(&e))?,
            arch: std::env::consts::ARCH.to_owned(),
            systemd: reader.exists("/run/systemd/system"),
            systemd_version: systemd_version(host),
            kernel: reader.text("/proc/sys/kernel/osrelease").trim().to_owned(),
            host_name: reader.text("/proc/sys/kernel/hostname").trim().to_owned(),
            now,
            clock_keeper: reader.clock_keeper(&names),
            memory: reader.memory(),
            cpus: reader.cpus(),
            disks: reader.disks(),
            read_only: { reader.mounted(super::storage::NEEDS, FsFlags::ST_RDONLY) },
            noexec: reader.mounted(ours::paths::PROGRAMS, FsFlags::ST_NOEXEC),
            links: reader.links(),
            overlay_trial: match uid {
                0 => trial::overlay(host),
                _ => OverlayTrial::NotTried("only root can".into()),
            },
            resolver: Resolver::of(host).map_err(|e| fault(&e))?,
            kernel_log: reader.exists("/dev/kmsg"),
            mounts_shared: mounts::is_shared(host, paths::KUBELET_ROOT).map_err(|e| fault(&e))?,
            port_range: {
                let of = |name: &str| {
                    reader
                        .text(&format!("/proc/sys/net/ipv4/{name}"))
                        .trim()
                        .to_owned()
                };
                (of("ip_local_port_range"), of("ip_local_reserved_ports"))
            },
            leftovers: reader.leftovers(),
            swaps: kernel.swaps().map_err(|e| fault(&e))?,
            user_namespaces: reader.user_namespaces(),
            cgroup_v2,
            controllers: reader.controllers(cgroup_v2),
            modules,
            programs: TOOLS
                .iter()
                .filter(|t| reader.program(t.name))
                .map(|t| t.name.to_owned())
                .collect(),
            libraries: super::software::LIBRARIES
                .iter()
                .flat_map(|l| l.any_of)
                .filter(|p| reader.exists(p))
                .map(|p| (*p).to_owned())
                .collect(),
            listeners: proc
                .listeners(|port| ours::ports::of(port).is_some())
                .into_iter()
                .map(TakenPort::from)
                .collect(),
            kubernetes: names
                .iter()
                .filter(|(_, name)| super::conflicts::KUBERNETES.contains(&name.as_str()))
                .map(|(pid, _)| ProcessInfo::from(proc.look(*pid)))
                .collect(),
            foreign_paths: ours::paths::OTHER_AGENTS
                .iter()
                .filter(|p| reader.exists(p))
                .map(|p| (*p).to_owned())
                .collect(),
            runtimes: names
                .iter()
                .filter(|(_, name)| super::conflicts::RUNTIMES.contains(&name.as_str()))
                .map(|(pid, _)| ProcessInfo::from(proc.look(*pid)))
                .filter(|p| !p.ours)
                .collect(),
            package_locks: super::software::LOCKS
                .iter()
                .filter_map(|path| {
                    let holder = proc.lock_holder(path)?;
                    let holder = holder.map(ProcessInfo::from);
                    Some(PackageLock { path, holder })
                })
                .collect(),
            selinux: match reader.text("/sys/fs/selinux/enforce").trim() {
                "1" => SeLinux::Enforcing,
                "0" => SeLinux::Permissive,
                _ => SeLinux::Absent,
            },
            apparmor: reader
                .text("/sys/module/apparmor/parameters/enabled")
                .trim()
                == "Y",
            limits: reader.limits(),
        })
    }
}

/// Small readers; what cannot be read counts as not there, and its check says what it found.
struct Reader<'a> {
    host: &'a HostFs,
}

impl Reader<'_> {
    fn text(&self, path: &str) -> String {
        let text = self.host.read_text(path, KERNEL_FILE_MAX);
        text.ok().flatten().unwrap_or_default()
    }

    fn exists(&self, path: &str) -> bool {
        self.host.at(path).exists()
    }

    /// Directories with something in them that is not ours, and links, under the names that others use.
    fn leftovers(&self) -> Vec<String> {
        let ours = |dir: &str, name: &str| ours::paths::ours_if_made(&format!("{dir}/{name}"));
        let used = |dir: &&&str| {
            let names = self.host.list(dir).unwrap_or_default();
            names.iter().any(|name| !ours(dir, name))
        };
        let dirs = super::conflicts::LEFT_DIRS.iter().filter(used);
        // Every calico uses the same names; ours has its configuration in a directory of ours.
        let calico = self.exists(ours::paths::CALICO_CONFLIST);
        let ours = |name: &str| calico && ours::network::CALICO_LINKS.contains(&name);
        let link = |name: &&&str| self.exists(&format!("/sys/class/net/{name}")) && !ours(name);
        let links = super::conflicts::LEFT_LINKS.iter().filter(link);
        let dirs = dirs.map(|dir| (*dir).to_owned());
        dirs.chain(links.map(|name| format!("link {name}")))
            .collect()
    }

    fn limits(&self) -> Limits {
        let number = |path: &str| self.text(path).trim().parse().ok();
        Limits {
            pid_max: number("/proc/sys/kernel/pid_max"),
            file_max: number("/proc/sys/fs/file-max"),
            inotify_instances: number("/proc/sys/fs/inotify/max_user_instances"),
            inotify_watches: number("/proc/sys/fs/inotify/max_user_watches"),
        }
    }

    fn program(&self, name: &str) -> bool {
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|dir| self.exists(&format!("{dir}/{name}")))
    }

    fn memory(&self) -> u64 {
        facts::meminfo(&self.text("/proc/meminfo"), "MemTotal").unwrap_or(0)
    }

    fn cpus(&self) -> u32 {
        facts::cpus(&self.text("/proc/cpuinfo"))
    }

    fn user_namespaces(&self) -> u64 {
        let text = self.text("/proc/sys/user/max_user_namespaces");
        text.trim().parse().unwrap_or(0)
    }

    fn controllers(&self, v2: bool) -> BTreeSet<String> {
        if v2 {
            return self
                .text("/sys/fs/cgroup/cgroup.controllers")
                .split_whitespace()
                .map(str::to_owned)
                .collect();
        }
        super::kernel::CONTROLLERS
            .iter()
            .filter(|c| self.exists(&format!("/sys/fs/cgroup/{c}")))
            .map(|c| (*c).to_owned())
            .collect()
    }

    fn clock_keeper(&self, processes: &[(u32, String)]) -> Option<String> {
        // A container has the clock of the machine it runs on.
        if self.exists("/run/systemd/container") {
            return Some("the machine this container runs on".into());
        }
        if self.exists("/run/systemd/timesync/synchronized") {
            return Some("systemd-timesyncd".into());
        }
        const KEEPERS: &[&str] = &["chronyd", "ntpd", "ntpsec", "openntpd", "ntp-daemon"];
        processes
            .iter()
            .map(|(_, name)| name)
            .find(|name| KEEPERS.contains(&name.as_str()))
            .cloned()
    }

    /// Those of these paths that are, or would be, on something that is mounted like this.
    fn mounted(
        &self,
        all: impl IntoIterator<Item = &'static str>,
        how: FsFlags,
    ) -> Vec<&'static str> {
        let is = |path: &&'static str| {
            let at = self.host.at(path);
            let there = at.ancestors().find(|p| p.exists());
            let stat = there.and_then(|there| statvfs(there).ok());
            stat.is_some_and(|stat| stat.flags().contains(how))
        };
        all.into_iter().filter(is).collect()
    }

    fn links(&self) -> Vec<(&'static str, String)> {
        let link = |path: &'static str| match self.host.found(path).ok()? {
            Found::Link(target) => Some((path, target.display().to_string())),
            Found::Nothing | Found::File { .. } | Found::Dir { .. } | Found::Other => None,
        };
        ours::paths::NO_LINKS.into_iter().filter_map(link).collect()
    }

    /// Our paths, grouped by the file system they would be on.
    fn disks(&self) -> Vec<Disk> {
        let mut disks: Vec<(u64, Disk)> = Vec::new();
        for path in super::storage::NEEDS {
            let at = self.host.at(path);
            let Some(there) = at.ancestors().find(|p| p.exists()) else {
                continue;
            };
            let Ok(stat) = statvfs(there) else { continue };
            let device = device_of(there);
            if let Some((_, disk)) = disks.iter_mut().find(|(d, _)| *d == device) {
                disk.paths.push(path);
                continue;
            }
            let block = stat.fragment_size();
            let disk = Disk {
                paths: vec![path],
                total: stat.blocks().saturating_mul(block),
                available: stat.blocks_available().saturating_mul(block),
                inodes: (stat.files() > 0).then(|| stat.files_available()),
            };
            disks.push((device, disk));
        }
        disks.into_iter().map(|(_, disk)| disk).collect()
    }
}

fn device_of(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).map(|m| m.dev()).unwrap_or(0)
}
