//! Everything the checks look at, read once, changing nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::host::facts::{OsRelease, os_release};
use crate::host::fs::{Found, HostFs};
use crate::host::kernel::{Kernel, ModuleState};
use crate::model::{Fault, Timestamp, paths};
use crate::telemetry::chain;

/// Files below `/proc` that are read; a socket table of a busy machine is a few MiB.
const PROC_FILE_MAX: u64 = 32 * 1024 * 1024;

/// What the checks look at.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Effective user.
    pub uid: u32,
    /// Distribution.
    pub os: OsRelease,
    /// As Rust names it, e.g. `x86_64`.
    pub arch: String,
    /// systemd is process 1.
    pub systemd: bool,
    /// The kernel's host name.
    pub host_name: String,
    /// The clock.
    pub now: Timestamp,
    /// Who keeps the clock right, if somebody does.
    pub clock_keeper: Option<String>,
    /// Bytes of memory.
    pub memory: u64,
    /// Logical processors.
    pub cpus: u32,
    /// File systems that would take our data.
    pub disks: Vec<Disk>,
    /// Swap areas in use.
    pub swaps: Vec<String>,
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
    /// Who listens on the ports we want.
    pub listeners: Vec<Listener>,
    /// Processes whose names mean another Kubernetes.
    pub kubernetes: Vec<Process>,
    /// Left by another agent.
    pub foreign_paths: Vec<String>,
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
    /// Mounted read-only.
    pub read_only: bool,
}

/// Somebody listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// TCP port.
    pub port: u16,
    /// Who, if that can be seen.
    pub process: Option<Process>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// The kernel's name of it.
    pub name: String,
    /// It belongs to the node we made.
    pub ours: bool,
}

impl Facts {
    /// Reads the machine below `host`; `uid` is who asks.
    pub fn read(host: &HostFs, uid: u32, now: Timestamp) -> Result<Self, Fault> {
        let reader = Reader { host };
        let kernel = Kernel::new(host.clone());
        let fault = |e: &(dyn std::error::Error + 'static)| {
            Fault::new("facts", "cannot look at this machine", chain(e))
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
        let processes = reader.processes();
        Ok(Self {
            uid,
            os: os_release(host).map_err(|e| fault(&e))?,
            arch: std::env::consts::ARCH.to_owned(),
            systemd: reader.exists("/run/systemd/system"),
            host_name: reader.text("/proc/sys/kernel/hostname").trim().to_owned(),
            now,
            clock_keeper: reader.clock_keeper(&processes),
            memory: reader.memory(),
            cpus: reader.cpus(),
            disks: reader.disks(),
            swaps: kernel.swaps().map_err(|e| fault(&e))?,
            cgroup_v2,
            controllers: reader.controllers(cgroup_v2),
            modules,
            programs: super::software::TOOLS
                .iter()
                .filter(|t| reader.program(t.program))
                .map(|t| t.program.to_owned())
                .collect(),
            libraries: super::software::LIBRARIES
                .iter()
                .flat_map(|l| l.any_of)
                .filter(|p| reader.exists(p))
                .map(|p| (*p).to_owned())
                .collect(),
            listeners: reader.listeners(&processes),
            kubernetes: processes
                .into_iter()
                .filter(|p| super::conflicts::KUBERNETES.contains(&p.name.as_str()))
                .collect(),
            foreign_paths: super::conflicts::FOREIGN_PATHS
                .iter()
                .filter(|p| reader.exists(p))
                .map(|p| (*p).to_owned())
                .collect(),
        })
    }
}

/// Small readers; what cannot be read counts as not there, and its check says what it found.
struct Reader<'a> {
    host: &'a HostFs,
}

impl Reader<'_> {
    fn text(&self, path: &str) -> String {
        let text = self.host.read_text(path, PROC_FILE_MAX);
        text.ok().flatten().unwrap_or_default()
    }

    fn exists(&self, path: &str) -> bool {
        self.host.at(path).exists()
    }

    fn program(&self, name: &str) -> bool {
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|dir| self.exists(&format!("{dir}/{name}")))
    }

    fn memory(&self) -> u64 {
        let text = self.text("/proc/meminfo");
        let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
        let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or(0).saturating_mul(1024)
    }

    fn cpus(&self) -> u32 {
        let text = self.text("/proc/cpuinfo");
        let count = text.lines().filter(|l| l.starts_with("processor")).count();
        u32::try_from(count).unwrap_or(u32::MAX)
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

    fn clock_keeper(&self, processes: &[Process]) -> Option<String> {
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
            .find(|p| KEEPERS.contains(&p.name.as_str()))
            .map(|p| p.name.clone())
    }

    /// Our paths, grouped by the file system they would be on.
    fn disks(&self) -> Vec<Disk> {
        let mut disks: Vec<(u64, Disk)> = Vec::new();
        for need in super::resources::NEEDS {
            let at = self.host.at(need.path);
            let Some(there) = at.ancestors().find(|p| p.exists()) else {
                continue;
            };
            let Ok(stat) = statvfs(there) else { continue };
            let device = device_of(there);
            if let Some((_, disk)) = disks.iter_mut().find(|(d, _)| *d == device) {
                disk.paths.push(need.path);
                continue;
            }
            let block = stat.fragment_size();
            let disk = Disk {
                paths: vec![need.path],
                total: stat.blocks().saturating_mul(block),
                available: stat.blocks_available().saturating_mul(block),
                inodes: (stat.files() > 0).then(|| stat.files_available()),
                read_only: stat.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY),
            };
            disks.push((device, disk));
        }
        disks.into_iter().map(|(_, disk)| disk).collect()
    }

    fn processes(&self) -> Vec<Process> {
        let node = self.exists("/etc/systemd/system/pf9-kubelet.service");
        let names = self.host.list("/proc").unwrap_or_default();
        names
            .iter()
            .filter_map(|n| n.parse::<u32>().ok())
            .filter_map(|pid| {
                let name = self.text(&format!("/proc/{pid}/comm")).trim().to_owned();
                (!name.is_empty()).then(|| Process {
                    pid,
                    name,
                    ours: self.is_ours(pid, node),
                })
            })
            .collect()
    }

    /// A program out of our stack, or a container of the node we made.
    fn is_ours(&self, pid: u32, node: bool) -> bool {
        let exe = std::fs::read_link(self.host.at(format!("/proc/{pid}/exe")));
        if exe.is_ok_and(|e| e.starts_with(Path::new(paths::STACKS))) {
            return true;
        }
        node && self
            .text(&format!("/proc/{pid}/cgroup"))
            .contains("kubepods")
    }

    fn listeners(&self, processes: &[Process]) -> Vec<Listener> {
        let mut inodes: BTreeMap<u16, u64> = BTreeMap::new();
        for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
            for (port, inode) in listening(&self.text(table)) {
                if super::conflicts::PORTS.iter().any(|p| p.port == port) {
                    inodes.insert(port, inode);
                }
            }
        }
        if inodes.is_empty() {
            return Vec::new();
        }
        let owner = |inode: u64| {
            let wanted = format!("socket:[{inode}]");
            processes.iter().find(|p| {
                let dir = format!("/proc/{}/fd", p.pid);
                let fds = self.host.list(&dir).unwrap_or_default();
                fds.iter().any(|fd| {
                    matches!(self.host.found(format!("{dir}/{fd}")),
                        Ok(Found::Link(to)) if to.to_string_lossy() == wanted)
                })
            })
        };
        inodes
            .into_iter()
            .map(|(port, inode)| Listener {
                port,
                process: owner(inode).cloned(),
            })
            .collect()
    }
}

/// Listening sockets of `/proc/net/tcp`: port and inode.
fn listening(table: &str) -> Vec<(u16, u64)> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let port = fields.get(1)?.rsplit_once(':')?.1;
            if *fields.get(3)? != LISTEN {
                return None;
            }
            Some((
                u16::from_str_radix(port, 16).ok()?,
                fields.get(9)?.parse().ok()?,
            ))
        })
        .collect()
}

fn device_of(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).map(|m| m.dev()).unwrap_or(0)
}
