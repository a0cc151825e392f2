//! The kernel: modules, parameters, swap, control groups, capabilities.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::statvfs::{FsFlags, statvfs};

use super::exec::{self, Cmd, ExecError};
use super::facts;
use super::fs::{Found, FsError, HostFs};
use crate::seam::disk::Options;

/// Loading a module reads a file and runs its start function.
const MODPROBE: Duration = Duration::from_secs(30);
/// Largest file below `/proc` or `/lib/modules` that is read: `modules.dep` of a full kernel.
const PROC_FILE_MAX: u64 = 4 * 1024 * 1024;
/// `CAP_SYS_RESOURCE` in a capability mask.
const CAP_SYS_RESOURCE: u32 = 24;

/// When control groups of version 1 are being phased out. Sources: KEP 5573 (off by default in kubelet 1.35, removed no
/// earlier than 1.38, no date), change logs of systemd 258 and of runc 1.4.
pub const CGROUP_V1_ENDS: &str = "kubelet runs on version 1 only because this agent tells it to (it refuses since 1.35), and from \
     1.38 on any release may drop it; systemd 258 has dropped it, runc calls it deprecated since 1.4";
/// What a person can do about it.
pub const CGROUP_V1_FIX: &str = "before the cluster goes beyond 1.37: boot with systemd.unified_cgroup_hierarchy=1 on the \
     kernel's command line (a container or machine manager may have to do it for its guests)";

/// The kernel of one host.
#[derive(Clone, Debug)]
pub struct Kernel {
    fs: HostFs,
}

/// Whether a module is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleState {
    /// Loaded or built in.
    Present,
    /// `modprobe` can load it.
    Loadable,
    /// This kernel has no module of that name; the function may still be built in.
    Unknown,
}

/// A kernel operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A file below `/proc` or `/sys`.
    #[error(transparent)]
    File(#[from] FsError),
    /// A parameter this kernel does not have, or that may not be set here.
    #[error("cannot set {key} to {value}")]
    Sysctl {
        /// The parameter.
        key: String,
        /// What it should be.
        value: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A module could not be loaded.
    #[error("cannot load kernel module {name}")]
    Module {
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: ExecError,
    },
}

impl Kernel {
    /// The kernel whose `/proc` and `/sys` are below this root.
    pub fn new(fs: HostFs) -> Self {
        Self { fs }
    }

    /// Whether a module is loaded, loadable or unknown.
    pub fn module(&self, name: &str) -> Result<ModuleState, KernelError> {
        let plain = name.replace('-', "_");
        if self.fs.found(format!("/sys/module/{plain}"))? != Found::Nothing {
            return Ok(ModuleState::Present);
        }
        let loaded = self.text("/proc/modules")?;
        if loaded
            .lines()
            .any(|l| l.split(' ').next() == Some(plain.as_str()))
        {
            return Ok(ModuleState::Present);
        }
        let release = self.text("/proc/sys/kernel/osrelease")?;
        let dir = format!("/lib/modules/{}", release.trim());
        let names_it = |list: &str| {
            list.lines().any(|line| {
                let path = line.split(':').next().unwrap_or_default();
                let file = Path::new(path).file_name().unwrap_or_default();
                let file = file.to_string_lossy().replace('-', "_");
                file.split_once(".ko").map(|(stem, _)| stem) == Some(plain.as_str())
            })
        };
        if names_it(&self.text(&format!("{dir}/modules.builtin"))?) {
            return Ok(ModuleState::Present);
        }
        if names_it(&self.text(&format!("{dir}/modules.dep"))?) {
            return Ok(ModuleState::Loadable);
        }
        Ok(ModuleState::Unknown)
    }

    /// Loads a module: by systemd, in a unit that is gone afterwards, for this process may load none. (Not by
    /// `modprobe@.service`: systemd has it from 245 on, and RHEL 8 has 239.)
    pub async fn load_module(&self, name: &str) -> Result<(), KernelError> {
        let program = exec::program(&self.fs, "systemd-run");
        let unit = ["--quiet", "--wait", "--pipe", "--collect", "--"];
        let cmd = Cmd::new(program, MODPROBE)
            .args(unit)
            .args(["modprobe", "--", name]);
        exec::run(cmd)
            .await
            .map(drop)
            .map_err(|source| KernelError::Module {
                name: name.to_owned(),
                source,
            })
    }

    /// The value of a kernel parameter; `None` when this kernel has none of that name.
    pub fn sysctl(&self, key: &str) -> Result<Option<String>, KernelError> {
        let text = self.fs.read_text(sysctl_path(key), PROC_FILE_MAX)?;
        Ok(text.map(|t| t.split_whitespace().collect::<Vec<_>>().join(" ")))
    }

    /// Sets a kernel parameter now.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<(), KernelError> {
        let fail = |source| KernelError::Sysctl {
            key: key.to_owned(),
            value: value.to_owned(),
            source,
        };
        // A file of the kernel: written in place, there is nothing to rename.
        let mut file = Options::write()
            .open(self.fs.at(sysctl_path(key)))
            .map_err(fail)?;
        file.write_all(value.as_bytes()).map_err(fail)
    }

    /// Names of the swap areas in use.
    pub fn swaps(&self) -> Result<Vec<String>, KernelError> {
        let text = self.text("/proc/swaps")?;
        Ok(text
            .lines()
            .skip(1)
            .filter_map(|l| l.split_whitespace().next())
            .map(str::to_owned)
            .collect())
    }

    /// Control groups version 2 only.
    pub fn cgroup_v2(&self) -> Result<bool, KernelError> {
        let found = self.fs.found("/sys/fs/cgroup/cgroup.controllers")?;
        Ok(matches!(found, Found::File { .. }))
    }

    /// Control groups are of version 1, or of both. False where there are none at all.
    pub fn cgroup_v1(&self) -> Result<bool, KernelError> {
        let mounted = matches!(self.fs.found("/sys/fs/cgroup")?, Found::Dir { .. });
        Ok(mounted && !self.cgroup_v2()?)
    }

    /// 2, or 1 where that is there or both are; none where there are none, or nothing can be seen.
    pub fn cgroup_version(&self) -> Option<u8> {
        match (self.cgroup_v2().ok()?, self.cgroup_v1().ok()?) {
            (true, _) => Some(2),
            (false, true) => Some(1),
            (false, false) => None,
        }
    }

    /// systemd manages a hierarchy here that it may write, so its cgroup driver can work.
    pub fn systemd_cgroups(&self) -> Result<bool, KernelError> {
        if !matches!(self.fs.found("/run/systemd/system")?, Found::Dir { .. }) {
            return Ok(false);
        }
        if self.cgroup_v2()? {
            return Ok(self.writable("/sys/fs/cgroup"));
        }
        // Version 1: systemd has made its slices in the controllers only where it was allowed to.
        let memory = "/sys/fs/cgroup/memory";
        let slice = self.fs.found(format!("{memory}/system.slice"))?;
        Ok(matches!(slice, Found::Dir { .. }) && self.writable(memory))
    }

    /// Whether processes of this machine may lower an `oom_score_adj`: asked of process 1, because
    /// our own unit may be confined further than the runtime's.
    pub fn can_lower_oom_score(&self) -> Result<bool, KernelError> {
        let status = self.text("/proc/1/status")?;
        Ok(bounding_set(&status).is_none_or(|set| set >> CAP_SYS_RESOURCE & 1 == 1))
    }

    /// MTU of a network interface.
    pub fn mtu(&self, interface: &str) -> Result<Option<u32>, KernelError> {
        let text = self.text(&format!("/sys/class/net/{interface}/mtu"))?;
        Ok(text.trim().parse().ok())
    }

    /// Logical processors.
    pub fn cpus(&self) -> Result<u32, KernelError> {
        Ok(facts::cpus(&self.text("/proc/cpuinfo")?))
    }

    /// The table of tracked connections can be sized here: not in a network namespace of one's
    /// own, where the kernel shows such settings read-only.
    pub fn conntrack_tunable(&self) -> bool {
        let writable = |path: &str| {
            let meta = std::fs::metadata(self.fs.at(path)).ok()?;
            Some(meta.permissions().mode() & 0o200 != 0)
        };
        // Before its module is loaded another setting of the kind tells the same.
        writable("/proc/sys/net/netfilter/nf_conntrack_max")
            .or_else(|| writable("/proc/sys/net/core/rmem_max"))
            .unwrap_or(false)
    }

    /// The kernel's modules are on this machine.
    pub fn has_modules(&self) -> Result<bool, KernelError> {
        let release = self.text("/proc/sys/kernel/osrelease")?;
        let dir = format!("/lib/modules/{}", release.trim());
        Ok(!release.trim().is_empty() && matches!(self.fs.found(dir)?, Found::Dir { .. }))
    }

    /// Changes with every boot.
    pub fn boot_id(&self) -> Result<String, KernelError> {
        let text = self.text("/proc/sys/kernel/random/boot_id")?;
        Ok(text.trim().to_owned())
    }

    fn writable(&self, path: &str) -> bool {
        statvfs(&self.fs.at(path)).is_ok_and(|s| !s.flags().contains(FsFlags::ST_RDONLY))
    }

    fn text(&self, path: &str) -> Result<String, FsError> {
        Ok(self.fs.read_text(path, PROC_FILE_MAX)?.unwrap_or_default())
    }
}

/// Name of the interface that has this address.
pub fn interface_of(ip: IpAddr) -> Option<String> {
    let all = nix::ifaddrs::getifaddrs().ok()?;
    for entry in all {
        let Some(address) = entry.address else {
            continue;
        };
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let v6 = address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
        if v4.or(v6) == Some(ip) {
            return Some(entry.interface_name);
        }
    }
    None
}

fn sysctl_path(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}

fn bounding_set(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|l| l.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;

    fn host() -> (tempfile::TempDir, HostFs, Kernel) {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        (dir, fs.clone(), Kernel::new(fs))
    }

    fn put(fs: &HostFs, path: &str, text: &str) {
        fs.write(path, text.as_bytes(), &Attrs::mode(0o644))
            .expect("write");
    }

    #[test]
    fn modules_are_loaded_built_in_loadable_or_unknown() {
        let (_dir, fs, kernel) = host();
        put(&fs, "/proc/sys/kernel/osrelease", "6.1.0\n");
        put(&fs, "/proc/modules", "overlay 1 0 - Live 0x0\n");
        put(
            &fs,
            "/lib/modules/6.1.0/modules.builtin",
            "kernel/net/bridge/br-x.ko\n",
        );
        put(
            &fs,
            "/lib/modules/6.1.0/modules.dep",
            "kernel/net/ip_vs.ko.xz: kernel/a.ko\n",
        );
        let state = |name: &str| kernel.module(name).expect("module");
        assert_eq!(state("overlay"), ModuleState::Present);
        assert_eq!(state("br_x"), ModuleState::Present);
        assert_eq!(state("ip_vs"), ModuleState::Loadable);
        assert_eq!(state("a"), ModuleState::Unknown);
    }

    #[test]
    fn parameters_are_read_and_set_in_place() {
        let (_dir, fs, kernel) = host();
        put(&fs, "/proc/sys/net/ipv4/ip_forward", "0\n");
        let key = "net.ipv4.ip_forward";
        assert_eq!(kernel.sysctl(key).expect("get").as_deref(), Some("0"));
        kernel.set_sysctl(key, "1").expect("set");
        assert!(
            kernel
                .sysctl(key)
                .expect("get")
                .is_some_and(|v| v.starts_with('1'))
        );
        assert!(kernel.set_sysctl("no.such", "1").is_err());
        assert_eq!(kernel.sysctl("no.such").expect("get"), None);
    }

    #[test]
    fn a_dropped_capability_is_seen() {
        let (_dir, fs, kernel) = host();
        put(&fs, "/proc/1/status", "CapBnd:\t000001ffffffffff\n");
        assert!(kernel.can_lower_oom_score().expect("caps"));
        put(&fs, "/proc/1/status", "CapBnd:\t000001fffeffffff\n");
        assert!(!kernel.can_lower_oom_score().expect("caps"));
    }
}
