//! File systems that a node of ours writes to: how full they are, and whether they take anything.
//!
//! Two look at them: hostagent at those that everybody sees ([`open`]), nodelet at what is mounted below directories that
//! only root may enter ([`closed`]): a disk of its own for etcd, for images, for pods. Each file system is listed once, by
//! one of the two.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::fs::HostFs;
use super::{mounts, space};
use crate::model::{DiskHealth, Fault, FaultCode, paths};

/// Where we, the runtime and the logs write. (`/var/lib`, not our directory in it: that is closed to hostagent, and
/// mostly the file system is the same.)
const OPEN: &[&str] = &[
    "/",
    "/opt/pf9",
    "/var/opt/pf9/hostagent",
    "/var/lib",
    "/var/log/pf9",
];

/// Where we write little, and what stops when nothing can be: mostly on a file system above or a small one in memory, whose
/// numbers change all the time.
const LITTLE: &[(&str, &str)] = &[
    (
        "/etc/pf9",
        "certificates cannot be renewed there, and no setting can be changed",
    ),
    (
        "/run/pf9",
        "a program of ours that starts cannot make its socket there",
    ),
];
/// A certificate and a socket, many times over.
const LITTLE_BYTES: u64 = MIB;

/// Where a disk of its own may be, and hostagent cannot look.
const CLOSED: &[&str] = &[
    "/var/lib/pf9",
    paths::ETCD_DATA,
    paths::CONTAINERD_ROOT,
    "/var/lib/kubelet",
];

/// We never need to write here: a machine may have it read-only permanently.
const MAY_BE_READ_ONLY: &str = "/";

/// kubelet begins to evict pods at 10 % of its file system.
const DISK_LOW_PERCENT: u64 = 10;
/// Files that a look, an event, a backup and a certificate make, many times over.
const INODES_LOW: u64 = 256;
/// Root's numbers are rounded to so many parts of a file system: a quiet machine's status stays as it is.
const PARTS: u64 = 256;

const MIB: u64 = 1024 * 1024;

/// Those that everybody sees, and what is wrong with them.
pub fn open(fs: &HostFs) -> (Vec<DiskHealth>, Vec<Fault>) {
    let (disks, mut warnings) = looked_at(fs, OPEN, &[]);
    let mut told: Vec<u64> = OPEN.iter().filter_map(|p| device_of(&fs.at(p))).collect();
    for (path, stops) in LITTLE {
        let at = fs.at(path);
        if let Some(device) = device_of(&at).filter(|d| !told.contains(d)) {
            warnings.extend(read_only(fs, &[*path], &told));
            warnings.extend(no_room_for_little(path, stops, &at));
            told.push(device);
        }
    }
    (disks, warnings)
}

fn no_room_for_little(path: &str, stops: &str, at: &Path) -> Option<Fault> {
    let room = space::of(at).ok().filter(|room| room.total > 0)?;
    let (all, free) = space::inodes(at).unwrap_or_default();
    let what = match (room.free < LITTLE_BYTES, all > 0 && free == 0) {
        (true, _) => "is full",
        (false, true) => "has no room for more files",
        (false, false) => return None,
    };
    let what = format!("the file system of {path} {what}");
    Some(Fault::new(FaultCode::DiskFull, what, stops).fix(space::fix(at)))
}

/// Those beside them that only root sees, and what is wrong with them. Free room is rounded down.
pub fn closed(fs: &HostFs) -> (Vec<DiskHealth>, Vec<Fault>) {
    let told: Vec<u64> = OPEN.iter().filter_map(|p| device_of(&fs.at(p))).collect();
    let (mut disks, warnings) = looked_at(fs, CLOSED, &told);
    for disk in &mut disks {
        disk.available_bytes = rounded(disk.available_bytes, disk.total_bytes);
        disk.free_inodes = rounded(disk.free_inodes, disk.total_inodes);
    }
    (disks, warnings)
}

fn rounded(free: u64, total: u64) -> u64 {
    let part = (total / PARTS).max(1);
    free / part * part
}

fn looked_at(fs: &HostFs, paths: &[&str], told: &[u64]) -> (Vec<DiskHealth>, Vec<Fault>) {
    let disks = disks(fs, paths, told);
    let mut warnings: Vec<Fault> = disks.iter().flat_map(no_room).collect();
    warnings.extend(read_only(fs, paths, told));
    (disks, warnings)
}

/// One entry a file system, named by the first of the paths on it.
fn disks(fs: &HostFs, paths: &[&str], told: &[u64]) -> Vec<DiskHealth> {
    let mut seen = told.to_vec();
    let mut disks = Vec::new();
    for path in paths {
        let at = fs.at(path);
        let Some(device) = device_of(&at) else {
            continue;
        };
        if seen.contains(&device) {
            continue;
        }
        seen.push(device);
        if let Ok(room) = space::of(&at) {
            // A path that is not there yet is left out.
            let (total_inodes, free_inodes) = space::inodes(&at).unwrap_or_default();
            disks.push(DiskHealth {
                path: (*path).to_owned(),
                total_bytes: room.total,
                available_bytes: room.free,
                total_inodes,
                free_inodes,
            });
        }
    }
    disks
}

/// File systems that we write to and that no longer accept writes, each listed once.
fn read_only(fs: &HostFs, paths: &[&str], told: &[u64]) -> Vec<Fault> {
    // What cannot be read is left out here.
    let devices = mounts::read_only_devices(fs).unwrap_or_default();
    let mut seen = told.to_vec();
    let ours = paths.iter().filter(|path| **path != MAY_BE_READ_ONLY);
    ours.filter_map(|path| {
        let device =
            device_of(&fs.at(path)).filter(|d| devices.contains(d) && !seen.contains(d))?;
        seen.push(device);
        let what = format!("the file system of {path} is read-only");
        let why = "nothing can be written there; the kernel remounts a file system read-only after an error";
        let fix = space::writable(&fs.at(path));
        Some(Fault::new(FaultCode::DiskFailed, what, why).fix(fix))
    })
    .collect()
}

fn device_of(path: &Path) -> Option<u64> {
    path.ancestors()
        .find_map(|p| std::fs::metadata(p).ok())
        .map(|meta| meta.dev())
}

/// What of a file system is used up, bytes and inodes.
fn no_room(disk: &DiskHealth) -> Vec<Fault> {
    let mut all = Vec::new();
    let (free, total) = (disk.available_bytes, disk.total_bytes);
    let why = format!(
        "{} has {} of {} MiB free",
        disk.path,
        free / MIB,
        total / MIB
    );
    let what = format!("the file system of {} is full", disk.path);
    let percent = free.saturating_mul(100).checked_div(total);
    if free < space::RESERVE_BYTES {
        all.push(Fault::new(FaultCode::DiskFull, what, why).fix(space::FIX));
    } else if percent.is_some_and(|p| p < DISK_LOW_PERCENT) {
        let what = what.replace("is full", "is nearly full");
        all.push(Fault::new(FaultCode::DiskNearlyFull, what, why).fix(space::FIX));
    }
    if disk.total_inodes > 0 && disk.free_inodes < INODES_LOW {
        let what = format!(
            "the file system of {} has no room for more files",
            disk.path
        );
        let why = format!(
            "{} of its {} inodes are free",
            disk.free_inodes, disk.total_inodes
        );
        let fix = "delete unneeded files (df -i shows the numbers), or recreate that file system with more inodes";
        all.push(Fault::new(FaultCode::DiskFull, what, why).fix(fix));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::in_namespaces;

    fn disk(free_mib: u64, total_mib: u64, inodes: (u64, u64)) -> DiskHealth {
        DiskHealth {
            path: "/".into(),
            total_bytes: total_mib * MIB,
            available_bytes: free_mib * MIB,
            total_inodes: inodes.1,
            free_inodes: inodes.0,
        }
    }

    #[test]
    fn warnings_begin_where_kubelet_would() {
        let codes = |free, total| -> Vec<_> {
            let all = no_room(&disk(free, total, (0, 0)));
            all.into_iter().map(|f| f.code).collect()
        };
        assert_eq!(codes(5_000, 10_000), Vec::<FaultCode>::new());
        assert_eq!(codes(999, 10_000), [FaultCode::DiskNearlyFull]);
        assert_eq!(codes(100, 10_000), [FaultCode::DiskFull]);
    }

    #[test]
    fn a_disk_that_has_room_and_takes_no_more_files_is_said_to_be_so() {
        let told = |inodes| no_room(&disk(5_000, 10_000, inodes)).pop();
        assert_eq!(told((5_000, 10_000)), None);
        assert_eq!(told((0, 0)), None, "btrfs counts none");
        let fault = told((0, 4_096)).expect("a warning");
        assert_eq!(fault.code, FaultCode::DiskFull);
        assert_eq!(fault.why, "0 of its 4096 inodes are free");
    }

    #[test]
    fn a_disk_that_takes_nothing_any_more_is_said_once_and_a_root_that_never_did_is_not() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        for path in ["/proc/self", "/var/opt/pf9/hostagent", "/var/log/pf9"] {
            std::fs::create_dir_all(fs.at(path)).expect("directory");
        }
        let device = device_of(dir.path()).expect("device");
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        let list = |mount: &str, disk: &str| {
            let line = format!(
                "36 35 {major}:{minor} / / {mount},noatime shared:1 - ext4 /dev/sdb1 {disk},errors=remount-ro\n"
            );
            std::fs::write(fs.at("/proc/self/mountinfo"), line).expect("write");
            read_only(&fs, OPEN, &[])
        };
        assert_eq!(list("ro", "rw"), Vec::new(), "a view of its own");
        let told = list("rw", "ro");
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].code, FaultCode::DiskFailed);
        assert!(
            told[0].what.contains("/opt/pf9 is read-only"),
            "{}",
            told[0].what
        );
        let only_root = OPEN.iter().filter(|p| **p == MAY_BE_READ_ONLY);
        assert_eq!(only_root.count(), 1);
    }

    /// etcd's disk is full long before the one that everybody sees.
    #[test]
    fn a_disk_below_a_closed_directory_is_told_and_what_others_tell_is_not() {
        let test = "host::disks::tests::a_disk_below_a_closed_directory_is_told_and_what_others_tell_is_not";
        let before = "mount --make-rprivate / && mount -t tmpfs none \"$1\" && mkdir -p \"$1/var/lib/pf9/etcd\" && \
                      mount -t tmpfs -o size=64m,nr_inodes=100 none \"$1/var/lib/pf9/etcd\"";
        let Some(dir) = in_namespaces(test, &["--mount"], before) else {
            return;
        };
        let fs = HostFs::new(&dir);
        let put = |name: &str| std::fs::write(fs.at(paths::ETCD_DATA).join(name), "x");
        put("wal").expect("write");
        let (disks, warnings) = closed(&fs);
        let told: Vec<&str> = disks.iter().map(|d| d.path.as_str()).collect();
        assert_eq!(told, [paths::ETCD_DATA]);
        let said: Vec<&str> = warnings.iter().map(|w| w.what.as_str()).collect();
        let full = "the file system of /var/lib/pf9/etcd is full";
        let files = "the file system of /var/lib/pf9/etcd has no room for more files";
        assert_eq!(said, [full, files]);
        // A few bytes are no news.
        put("snap").expect("write");
        assert_eq!(closed(&fs).0[0].available_bytes, disks[0].available_bytes);
        let open = open(&fs).0;
        assert!(open.iter().all(|d| d.path != paths::ETCD_DATA), "{open:?}");
    }

    #[test]
    fn this_machine_has_disks_each_once() {
        let (disks, _) = open(&HostFs::real());
        assert!(disks.iter().any(|d| d.path == "/"));
    }
}
