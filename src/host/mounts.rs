//! Mount points, from the kernel's own list.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::fs::{FsError, HostFs};

/// Largest `/proc/self/mountinfo`: thousands of pods' mounts.
pub(crate) const MOUNTINFO_MAX: u64 = 64 * 1024 * 1024;

/// What does not work where pods and the machine do not see each other's mounts.
pub const PRIVATE_MEANS: &str = "pods that mount something for others (storage drivers) do not start, and no pod sees \
    what the machine mounts later";
/// What helps there.
pub const PRIVATE_FIX: &str =
    "mount --make-rshared /, and let whatever made it private at boot do without";

/// Every mount point of this host, for people and for names of ours.
pub fn points(fs: &HostFs) -> Result<Vec<String>, FsError> {
    let all = all_points(fs)?.into_iter();
    Ok(all.map(|p| p.to_string_lossy().into_owned()).collect())
}

/// The same as they are: a name need not be text.
fn all_points(fs: &HostFs) -> Result<Vec<PathBuf>, FsError> {
    let text = fs.read("/proc/self/mountinfo", MOUNTINFO_MAX)?;
    let text = text.unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    Ok(points
        .map(|point| PathBuf::from(OsString::from_vec(unescaped(point))))
        .collect())
}

/// Mount points at a path or below it, as (the path itself is one, those below). Links on the way to it are followed:
/// the kernel names a mount by where it really is.
pub fn at_or_below(fs: &HostFs, path: impl AsRef<Path>) -> Result<(bool, Vec<String>), FsError> {
    let points = all_points(fs)?;
    let path = in_list(fs, path.as_ref());
    let below = points
        .iter()
        .filter(|p| p.starts_with(&path) && **p != path);
    let below = below.map(|p| p.to_string_lossy().into_owned()).collect();
    Ok((points.contains(&path), below))
}

/// What the kernel's list calls this path: its directory with links followed, and its name. A link in its own place is
/// not followed; what cannot be followed is taken as it is written.
pub fn path_in_list(fs: &HostFs, path: &str) -> String {
    let real = in_list(fs, Path::new(path));
    real.to_str().unwrap_or(path).to_owned()
}

fn in_list(fs: &HostFs, path: &Path) -> PathBuf {
    let real = || {
        let (dir, name) = (path.parent()?, path.file_name()?);
        let dir = fs.at(dir).canonicalize().ok()?;
        let root = fs.at("/").canonicalize().ok()?;
        let dir = Path::new("/").join(dir.strip_prefix(root).ok()?);
        Some(dir.join(name))
    };
    real().unwrap_or_else(|| path.to_owned())
}

/// Devices (as `stat` numbers them) whose file systems take no writes, by the kernel's list: as after an error of the disk.
/// What only a mount says of itself does not count: this process may have its own, narrower view.
pub fn read_only_devices(fs: &HostFs) -> Result<Vec<u64>, FsError> {
    let text = fs.read("/proc/self/mountinfo", MOUNTINFO_MAX)?;
    Ok(read_only_in(&String::from_utf8_lossy(
        &text.unwrap_or_default(),
    )))
}

fn read_only_in(mountinfo: &str) -> Vec<u64> {
    let device = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let (major, minor) = mount.split(' ').nth(2)?.split_once(':')?;
        let options = file_system.rsplit(' ').next()?;
        let number = nix::sys::stat::makedev(major.parse().ok()?, minor.parse().ok()?);
        options.split(',').any(|o| o == "ro").then_some(number)
    };
    mountinfo.lines().filter_map(device).collect()
}

/// What a directory is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where it is mounted.
    pub point: String,
    /// What is mounted, e.g. `/dev/sdb1`; for people, for devices change their names.
    pub source: String,
    /// e.g. `ext4`.
    pub fs_type: String,
}

/// What this path is on, whether it is there or not; `None` where the kernel's list does not say. Links on
/// the way are followed.
pub fn under(fs: &HostFs, path: &str) -> Result<Option<Mount>, FsError> {
    let text = fs.read("/proc/self/mountinfo", MOUNTINFO_MAX)?;
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    let root = fs.at("/").canonicalize();
    let real = fs.at(path).canonicalize().ok().zip(root.ok());
    let real = real.and_then(|(at, root)| Some(Path::new("/").join(at.strip_prefix(root).ok()?)));
    Ok(under_in(&text, real.as_deref().unwrap_or(Path::new(path))))
}

/// Whether what is mounted at this path by one is seen by everybody else (`shared`); `None` where the kernel's list does
/// not say what the path is on.
pub fn is_shared(fs: &HostFs, path: &str) -> Result<Option<bool>, FsError> {
    let Some(mount) = under(fs, path)? else {
        return Ok(None);
    };
    let text = fs.read("/proc/self/mountinfo", MOUNTINFO_MAX)?;
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    Ok(shared_in(&text, &mount.point))
}

/// Whether the last mount at this point is shared: it hides those before it.
fn shared_in(mountinfo: &str, point: &str) -> Option<bool> {
    let mut lines = mountinfo.lines().rev();
    lines.find_map(|line| {
        let (mount, _) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(4);
        (unescape(fields.next()?) == point)
            .then(|| fields.any(|field| field.starts_with("shared:")))
    })
}

fn under_in(mountinfo: &str, path: &Path) -> Option<Mount> {
    let mut found: Option<Mount> = None;
    for line in mountinfo.lines() {
        let Some((mount, source)) = line.split_once(" - ") else {
            continue;
        };
        let Some(point) = mount.split(' ').nth(4).map(unescape) else {
            continue;
        };
        let longest = found.as_ref().map_or(0, |f| f.point.len());
        // Of several stacked mounts the last one counts.
        if path.starts_with(&point) && point.len() >= longest {
            let mut fields = source.split(' ').map(unescape);
            found = Some(Mount {
                point,
                fs_type: fields.next().unwrap_or_default(),
                source: fields.next().unwrap_or_default(),
            });
        }
    }
    found
}

/// What a process's root is mounted from, out of its `mountinfo`: the root of the mount, its source
/// and the paths in its options (the layers of an overlay). Only of `/`: what else is mounted there
/// says nothing of where the process itself lives. Paths that are no more than `/` are left out.
pub(super) fn root_sources(mountinfo: &str) -> Vec<String> {
    // Of several stacked mounts the last one counts.
    let root = mountinfo
        .lines()
        .rfind(|l| l.split(' ').nth(4) == Some("/"));
    let Some((mount, source)) = root.and_then(|l| l.split_once(" - ")) else {
        return Vec::new();
    };
    let mut fields = source.splitn(3, ' ').skip(1);
    let (device, options) = (fields.next(), fields.next().unwrap_or_default());
    mount
        .split(' ')
        .nth(3)
        .into_iter()
        .chain(device)
        .chain(options.split([',', '=', ':']))
        .filter(|part| part.starts_with('/') && part.len() > 1)
        .map(unescape)
        .collect()
}

fn unescape(text: &str) -> String {
    String::from_utf8_lossy(&unescaped(text.as_bytes())).into_owned()
}

/// In `mountinfo` blanks, line breaks and what the kernel writes them with are three octal digits after a backslash.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let coded = tail.split_at_checked(3).filter(|_| *first == b'\\');
        let coded = coded.and_then(|(digits, after)| Some((octal(digits)?, after)));
        let (byte, after) = coded.unwrap_or((*first, tail));
        out.push(byte);
        rest = after;
    }
    out
}

fn octal(digits: &[u8]) -> Option<u8> {
    digits.iter().try_fold(0_u8, |n, digit| match digit {
        b'0'..=b'7' => n.checked_mul(8)?.checked_add(digit - b'0'),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before and after what the check says is done, in mounts of one's own.
    #[test]
    fn the_kernel_says_who_sees_what_is_mounted() {
        const TEST: &str = "host::mounts::tests::the_kernel_says_who_sees_what_is_mounted";
        let before = "mount --make-rprivate /";
        if crate::host::testing::in_namespaces(TEST, &["--mount"], before).is_none() {
            return;
        }
        let fs = HostFs::real();
        let is_shared = || is_shared(&fs, "/var/lib/pf9/not/there").expect("read");
        assert_eq!(is_shared(), Some(false));
        let mended = std::process::Command::new("mount")
            .args(["--make-rshared", "/"])
            .status();
        assert!(mended.expect("mount").success());
        assert_eq!(is_shared(), Some(true));
        // One below it that is private hides that.
        let text =
            "1 0 8:1 / / rw shared:1 - ext4 /dev/a rw\n2 1 8:2 / /var/lib rw - ext4 /dev/b rw\n";
        assert_eq!(shared_in(text, "/var/lib"), Some(false));
        assert_eq!(shared_in(text, "/"), Some(true));
        assert_eq!(shared_in("", "/"), None);
    }

    #[test]
    fn a_root_is_told_by_its_own_mount_only() {
        let container = "1 2 0:1 / / rw - overlay overlay rw,lowerdir=/var/a\\040b/1:/var/2,upperdir=/up\n\
                         2 1 8:1 /var/lib/pf9/kubelet/x /etc/hosts rw - ext4 /dev/sda rw\n";
        assert_eq!(root_sources(container), ["/var/a b/1", "/var/2", "/up"]);
        let bound = "1 2 8:1 /data/snapshots/3 / rw shared:1 - ext4 /dev/sda1 rw\n";
        assert_eq!(root_sources(bound), ["/data/snapshots/3", "/dev/sda1"]);
        assert_eq!(root_sources("").len(), 0);
    }

    /// `/var` on a data disk: a mount below is seen, whatever name leads to it.
    #[test]
    fn what_is_mounted_below_is_seen_through_links() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let list = "1 0 8:1 / /data/var/lib/pf9/kubelet/x rw - ext4 /dev/sda rw\n\
                    2 0 8:1 / /data/var/opt/pf9 rw - ext4 /dev/sda rw\n";
        let attrs = super::super::fs::Attrs::mode(0o644);
        fs.write("/proc/self/mountinfo", list.as_bytes(), &attrs)
            .expect("write");
        for dir in ["/data/var/lib/pf9/kubelet", "/data/var/opt/pf9"] {
            std::fs::create_dir_all(fs.at(dir)).expect("directory");
        }
        fs.link("/var", "data/var").expect("link");
        let seen = at_or_below(&fs, "/var/lib/pf9").expect("look");
        assert_eq!(
            seen,
            (false, vec!["/data/var/lib/pf9/kubelet/x".to_owned()])
        );
        assert_eq!(
            at_or_below(&fs, "/var/opt/pf9").expect("look"),
            (true, Vec::new())
        );
        assert!(fs.remove_tree("/var/lib/pf9").is_err());
        // A link itself is not what it leads to.
        fs.link("/link", "data").expect("link");
        assert_eq!(path_in_list(&fs, "/link"), "/link");
    }

    #[test]
    fn names_are_read_as_the_kernel_writes_them() {
        for (written, is) in [
            (&b"/a\\040b\\011c\\012d"[..], &b"/a b\tc\nd"[..]),
            // A backslash before digits of the name's own.
            (b"/a\\134040", b"/a\\040"),
            (b"/\xff\\04", b"/\xff\\04"),
            (b"/\\999\\777", b"/\\999\\777"),
        ] {
            assert_eq!(unescaped(written), is, "{}", written.escape_ascii());
        }
    }

    #[test]
    fn a_directory_is_on_the_nearest_mount_and_the_last_of_several() {
        let text = "1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
                    2 1 8:2 / /var/lib/pf9/etcd rw - xfs /dev/sdb1 rw\n\
                    3 1 8:3 / /var/lib/pf9/etcd-backups rw - xfs /dev/sdc1 rw\n\
                    4 1 8:4 / /mnt/a\\040b rw - ext4 /dev/sdd rw\n\
                    5 1 8:5 / /var/lib/pf9/etcd rw - ext4 /dev/sde rw\n";
        let of = |path: &str| under_in(text, Path::new(path)).map(|m| (m.point, m.source));
        let is = |point: &str, source: &str| Some((point.to_owned(), source.to_owned()));
        assert_eq!(of("/var/lib/pf9/etcd"), is("/var/lib/pf9/etcd", "/dev/sde"));
        assert_eq!(
            of("/var/lib/pf9/etcd/member"),
            is("/var/lib/pf9/etcd", "/dev/sde")
        );
        assert_eq!(of("/var/lib/pf9/etcd2"), is("/", "/dev/sda1"));
        assert_eq!(of("/mnt/a b/c"), is("/mnt/a b", "/dev/sdd"));
        assert_eq!(under_in("", Path::new("/x")), None);
    }
}
