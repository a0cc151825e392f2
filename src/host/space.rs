//! Free space: checked before anything large starts, so that a disk is never filled to the brim.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use crate::model::FaultCode;

/// Left free on top of what is needed: logs, ledgers and etcd must be able to go on.
pub const RESERVE_BYTES: u64 = 128 * MIB;

/// A node with less than one part in so many free is under disk pressure: kubelet evicts pods and deletes images
/// (5 % of the file system of its pods).
const KUBELET_KEEPS: u64 = 20;

/// What a person does about a full disk.
pub const FIX: &str = "free some space or enlarge the file system; it is retried automatically";

/// The kernel's words for a full disk, as programs in Go repeat them.
pub const SAID: &str = "no space left on device";

const MIB: u64 = 1024 * 1024;

/// Too little room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} has {} MiB free, {} MiB are needed", path.display(), free / MIB, need.div_ceil(MIB))]
pub struct NoSpace {
    /// Where room is needed.
    pub path: PathBuf,
    /// Bytes that are free for us.
    pub free: u64,
    /// Bytes that are needed, reserve included.
    pub need: u64,
}

/// Size and free bytes of the file system that holds `path`, or will: the nearest parent that
/// exists is asked.
pub fn of(path: &Path) -> io::Result<Space> {
    let mut at = path;
    loop {
        match statvfs(at) {
            Ok(stat) => {
                let unit = stat.fragment_size();
                return Ok(Space {
                    total: stat.blocks().saturating_mul(unit),
                    free: stat.blocks_available().saturating_mul(unit),
                });
            }
            Err(nix::errno::Errno::ENOENT) => match at.parent() {
                Some(parent) => at = parent,
                None => return Err(io::ErrorKind::NotFound.into()),
            },
            Err(e) => return Err(e.into()),
        }
    }
}

/// Inodes of the file system that holds `path`: in all, and free for us. Both 0 where it has no such number (btrfs).
pub fn inodes(path: &Path) -> io::Result<(u64, u64)> {
    let stat = statvfs(path)?;
    Ok((stat.files(), stat.files_available()))
}

/// Room on one file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes an ordinary user may still write.
    pub free: u64,
}

impl Space {
    /// Likewise beside a node that runs: what kubelet begins to evict pods for stays free, too.
    pub fn require_beside(self, path: &Path, bytes: u64) -> Result<(), NoSpace> {
        self.require(path, bytes.saturating_add(self.total / KUBELET_KEEPS))
    }

    /// Refuses when `bytes` and the reserve do not fit; `path` is for the message.
    pub fn require(self, path: &Path, bytes: u64) -> Result<(), NoSpace> {
        let need = bytes.saturating_add(RESERVE_BYTES);
        if self.free >= need {
            return Ok(());
        }
        Err(NoSpace {
            path: path.to_path_buf(),
            free: self.free,
            need,
        })
    }
}

/// True for the errors of a full disk or a used-up quota.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The code of a failed write: a full disk, or `otherwise`.
pub fn code_of(error: &io::Error, otherwise: FaultCode) -> FaultCode {
    match is_full(error) {
        true => FaultCode::DiskFull,
        false => otherwise,
    }
}

/// [`FIX`], with the file system named: a directory may be on another one than its parent. Asked is the nearest
/// parent that exists. (By its device and not by the kernel's list: of what is bound to several places the one
/// that leads here counts.)
pub fn fix(path: &Path) -> String {
    match mount_point(path) {
        Ok(mount) if inodes(&mount).is_ok_and(|(all, free)| all > 0 && free == 0) => format!(
            "delete unneeded files on {} (df -i shows the numbers), or recreate that file system with more inodes; it is \
             retried automatically",
            mount.display()
        ),
        Ok(mount) => format!(
            "free some space on {}, or enlarge that file system; it is retried automatically",
            mount.display()
        ),
        Err(_) => FIX.to_owned(),
    }
}

/// What a person does about a file system that became read-only.
pub fn writable(path: &Path) -> String {
    let mount = mount_or(path);
    format!(
        "see dmesg for the cause, repair the disk, and make it writable (mount -o remount,rw {mount}); it is retried \
         automatically"
    )
}

/// What a person does about a disk that answers with errors.
pub fn repair(path: &Path) -> String {
    let mount = mount_or(path);
    format!(
        "see dmesg for the cause, and repair or replace the disk that holds {mount}; it is retried automatically"
    )
}

/// Where its file system is mounted; the path itself where that cannot be told.
fn mount_or(path: &Path) -> String {
    let mount = mount_point(path).unwrap_or_else(|_| path.to_owned());
    mount.display().to_string()
}

fn mount_point(path: &Path) -> io::Result<PathBuf> {
    let there = |at: &&Path| fs::symlink_metadata(at).is_ok();
    let nearest = path.ancestors().find(there).ok_or(io::ErrorKind::NotFound);
    let at = nearest?.canonicalize()?;
    let device = fs::metadata(&at)?.dev();
    let same = |at: &&Path| fs::metadata(at).is_ok_and(|m| m.dev() == device);
    let top = at.ancestors().take_while(same).last();
    Ok(top.unwrap_or(&at).to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_that_is_full_is_named() {
        let fix = fix(Path::new("/proc/self/fd/no/such/thing"));
        assert!(fix.contains(" on /proc, or"), "{fix}");
        assert!(super::fix(Path::new("/")).contains(" on /, or"));
    }

    #[test]
    fn a_full_disk_and_a_used_up_quota_have_one_code() {
        let code = |kind: io::ErrorKind| code_of(&kind.into(), FaultCode::Files);
        assert_eq!(code(io::ErrorKind::StorageFull), FaultCode::DiskFull);
        assert_eq!(code(io::ErrorKind::QuotaExceeded), FaultCode::DiskFull);
        assert_eq!(code(io::ErrorKind::NotFound), FaultCode::Files);
    }

    #[test]
    fn says_how_much_is_missing() {
        let space = Space {
            total: 10_000 * MIB,
            free: 120 * MIB,
        };
        let refused = space.require(Path::new("/opt/pf9/stacks"), 800 * MIB);
        assert_eq!(
            refused.map_err(|e| e.to_string()),
            Err("/opt/pf9/stacks has 120 MiB free, 928 MiB are needed".to_owned())
        );
        let enough = Space {
            total: 10_000 * MIB,
            free: 928 * MIB,
        };
        assert!(enough.require(Path::new("/x"), 800 * MIB).is_ok());
    }

    #[test]
    fn beside_a_node_that_runs_what_kubelet_keeps_stays_free() {
        let with = |free| Space {
            total: 10_000 * MIB,
            free,
        };
        let beside = |free| with(free).require_beside(Path::new("/x"), 800 * MIB);
        assert!(beside(1428 * MIB).is_ok());
        let refused = beside(1427 * MIB).map_err(|e| e.to_string());
        let words = "/x has 1427 MiB free, 1428 MiB are needed";
        assert_eq!(refused, Err(words.to_owned()));
        assert!(with(1427 * MIB).require(Path::new("/x"), 800 * MIB).is_ok());
    }

    #[test]
    fn asks_the_nearest_parent_that_exists() {
        let dir = tempfile::tempdir().expect("tempdir");
        let here = of(dir.path()).expect("space");
        let below = of(&dir.path().join("a/b/c")).expect("space");
        assert_eq!(here.total, below.total);
        assert!(here.total >= here.free && here.total > 0);
    }
}
