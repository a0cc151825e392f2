//! What is ours on this machine beside the package (`host::ours` says so): its removal, and the proof
//! that it is gone.

use std::fs;
use std::path::Path;

use crate::host::fs::{FsError, HostFs};
use crate::host::mounts;
use crate::host::net::Net;
use crate::host::ours::{
    network,
    paths::{self, PathRule, Remover},
    units,
};
use crate::host::proc::Proc;
use crate::host::temps;
use crate::model::paths as names;

/// Which of our paths to take away; logs only when asked.
pub(super) fn trees(host: &HostFs, logs: bool) -> Result<Vec<String>, FsError> {
    let goes = |keeper: &Remover| match keeper {
        Remover::Role | Remover::Agent => true,
        Remover::Logs => logs,
    };
    let places = paths::PLACES.iter().filter(|(_, keeper)| goes(keeper));
    let mut all: Vec<String> = places.map(|(path, _)| (*path).to_owned()).collect();
    let config = host.list(paths::CONFIG_ROOT)?;
    let ours = config.iter().filter(|n| !paths::config_is_kept(n));
    all.extend(ours.map(|n| format!("{}/{n}", paths::CONFIG_ROOT)));
    // pf9ctl wrote it, among a person's own.
    all.push(names::PROXY_CONFIG.to_owned());
    let entries = paths::entries().into_iter();
    all.extend(
        entries
            .map(|(entry, _)| entry)
            .filter(|e| !is_mask(host, e)),
    );
    // Temporary files of interrupted writes; those in our directories are removed with them.
    let mut temps = temps::abandoned(host, paths::WRITTEN_BY_ROOT);
    temps.retain(|t| !all.iter().any(|tree| paths::below(tree, t)));
    all.extend(temps);
    all.retain(|t| fs::symlink_metadata(host.at(t)).is_ok());
    all.sort();
    all.dedup();
    Ok(all)
}

/// Removes empty parents that others may use too.
pub(super) fn remove_empty_parents(host: &HostFs) {
    for parent in paths::SHARED_PARENTS {
        // Not empty means: not only ours. That is no failure.
        drop(fs::remove_dir(host.at(parent)));
    }
}

/// What a person put there, for our units or over paths of ours: theirs, not left by us.
pub(super) fn kept(host: &HostFs) -> Result<Vec<String>, FsError> {
    let mut all = mounted(host)?;
    for dir in paths::SHARED {
        let names = host.list(dir)?.into_iter();
        let there = names.map(|name| format!("{dir}/{name}"));
        all.extend(there.filter(|path| paths::path(path) == Some(PathRule::DropIn)));
    }
    Ok(all)
}

/// Where something is mounted at a file of ours or below a directory of ours, by the kernel's names: of others, unless it is
/// what pods and the runtime mount, or a disk for our data.
fn mounted(host: &HostFs) -> Result<Vec<String>, FsError> {
    let real = |path: &str| mounts::path_in_list(host, path);
    let (disks, roots) = (paths::DISKS.map(real), paths::MOUNTED.map(real));
    let is_ours = |at: &String| {
        disks.contains(at)
            || roots
                .iter()
                .any(|root| at != root && paths::below(root, at))
    };
    let entries = paths::entries().into_iter().map(|(entry, _)| entry);
    let places = paths::PLACES.iter().map(|(place, _)| (*place).to_owned());
    let places = places.chain([paths::CONFIG_ROOT.to_owned()]);
    let mut all = Vec::new();
    for path in entries.chain(places) {
        let (is_mount, below) = mounts::at_or_below(host, &path)?;
        let is_file = is_mount && !host.at(&path).is_dir();
        all.extend(is_file.then(|| real(&path)));
        all.extend(below.into_iter().filter(|at| !is_ours(at)));
    }
    all.sort();
    all.dedup();
    Ok(all)
}

/// Everything of ours that is still there: paths, mounts, programs that run.
pub(super) fn left(host: &HostFs, logs: bool) -> Result<Vec<String>, FsError> {
    let theirs = mounted(host)?;
    let mut all = trees(host, logs)?;
    for dir in paths::SHARED {
        for name in host.list(dir)? {
            let path = format!("{dir}/{name}");
            // Those that are known by their exact names are among the trees.
            if paths::path(&path) == Some(PathRule::CalledAfterUs) && !is_mask(host, &path) {
                all.push(path);
            }
        }
    }
    let mut stays = Vec::new();
    for path in &all {
        if holds_only_mounts(host, path, true, &theirs)? {
            stays.push(path.clone());
        }
    }
    all.retain(|path| !stays.contains(path));
    for (root, _) in paths::PLACES {
        if stays.iter().any(|path| path == root) {
            continue;
        }
        let (_, below) = mounts::at_or_below(host, root)?;
        let left = below.iter().filter(|at| !theirs.contains(at));
        all.extend(left.map(|at| format!("mount {at}")));
    }
    let programs = Proc::new(host.clone()).ours().into_iter();
    all.extend(programs.map(|(p, _)| format!("process {} ({})", p.pid, p.program)));
    Ok(all)
}

/// Whether a path is a mount point of `theirs`, or of a disk that is empty (`disk`: it may be one; it can only be emptied), or
/// a directory with nothing in it but such, disks at [`paths::DISKS`].
fn holds_only_mounts(
    host: &HostFs,
    path: &str,
    disk: bool,
    theirs: &[String],
) -> Result<bool, FsError> {
    let (is_mount, below) = mounts::at_or_below(host, path)?;
    if is_mount && theirs.contains(&mounts::path_in_list(host, path)) {
        return Ok(true);
    }
    let may_stay = if is_mount { disk } else { !below.is_empty() };
    if !may_stay {
        return Ok(false);
    }
    let names = host.list(path)?;
    if names.is_empty() {
        return Ok(is_mount);
    }
    for name in names {
        let entry = format!("{path}/{name}");
        let disk = paths::DISKS.contains(&entry.as_str());
        if !holds_only_mounts(host, &entry, disk, theirs)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Links, routes and packet-filter chains that only we create.
pub(super) async fn network_left(host: &HostFs) -> Vec<String> {
    let net = Net::new(host.clone());
    let links = net.links(&network::links());
    let mut left: Vec<String> = links.iter().map(|l| format!("link {l}")).collect();
    let routes = net.routes(network::ROUTE_PROTOCOL).await;
    let chains = net.chains(&[network::CHAIN_PREFIX.to_owned()]).await;
    for (what, found) in [("route", routes), ("packet-filter chain", chains)] {
        match found {
            Ok(found) => left.extend(found.iter().map(|f| format!("{what} {f}"))),
            // A proof that cannot be made is none.
            Err(e) => left.push(format!("perhaps a {what}: {}", crate::telemetry::chain(&e))),
        }
    }
    left
}

/// True while units of the node role are there.
pub(super) fn role_units(host: &HostFs) -> bool {
    let found = host.list(paths::UNIT_DIR).unwrap_or_default();
    let role = found.iter().filter(|n| units::of_the_role(n));
    let mut role = role.map(|n| format!("{}/{n}", paths::UNIT_DIR));
    // One that somebody mounted another file over stays after the role.
    let is_mounted = |unit: &str| matches!(mounts::at_or_below(host, unit), Ok((true, _)));
    role.any(|unit| !is_mask(host, &unit) && !is_mounted(&unit))
}

/// True while anything of the node role is there.
pub(super) fn role_traces(host: &HostFs) -> bool {
    role_units(host) || host.at(names::KUBE_DIR).exists()
}

/// A package that was removed and not purged leaves its units masked.
fn is_mask(host: &HostFs, path: &str) -> bool {
    fs::read_link(host.at(path)).is_ok_and(|to| to == Path::new("/dev/null"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;
    use crate::host::ours::paths::NODELET_AT_BOOT;
    use crate::model::paths;

    fn host_with(files: &[&str]) -> (tempfile::TempDir, HostFs) {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        for path in files {
            host.write(path, b"x", &Attrs::mode(0o644)).expect("write");
        }
        (dir, host)
    }

    #[test]
    fn ours_goes_the_packages_and_other_peoples_stays() {
        let (_dir, host) = host_with(&[
            "/etc/pf9/hostagent.toml",
            "/etc/pf9/conf.d/mine.toml",
            "/etc/pf9/services.d/kubernetes.toml",
            "/etc/pf9/host_id.conf",
            paths::PROXY_CONFIG,
            paths::PROXY_CREDENTIALS,
            "/etc/pf9/certs/hostagent/key.pem",
            "/var/opt/pf9/nodelet/ledger",
            "/var/lib/pf9/etcd/db",
            "/var/lib/docker/x",
            "/opt/pf9/stacks/a/bin/kubelet",
            "/opt/pf9/elsewhere",
            "/var/log/pf9/comms/comms.log",
        ]);
        for tree in trees(&host, true).expect("trees") {
            host.remove_tree(&tree).expect("remove");
        }
        remove_empty_parents(&host);
        assert_eq!(left(&host, true).expect("left"), Vec::<String>::new());
        for kept in [
            "/etc/pf9/hostagent.toml",
            "/etc/pf9/conf.d/mine.toml",
            "/etc/pf9/services.d/kubernetes.toml",
            "/var/lib/docker/x",
            "/opt/pf9/elsewhere",
        ] {
            assert!(host.at(kept).exists(), "{kept}");
        }
    }

    /// Our units' own first line recommends one.
    #[test]
    fn a_persons_drop_in_is_told_and_no_remains() {
        let (_dir, host) = host_with(&[
            "/etc/systemd/system/pf9-kubelet.service.d/50-mine.conf",
            "/etc/systemd/system/pf9-nodeletd.socket.d/50-mine.conf",
            "/etc/systemd/system/docker.service.d/50-mine.conf",
            "/etc/systemd/system/pf9-of-another-version.service",
        ]);
        assert_eq!(
            kept(&host).expect("kept"),
            [
                "/etc/systemd/system/pf9-kubelet.service.d",
                "/etc/systemd/system/pf9-nodeletd.socket.d"
            ]
        );
        assert_eq!(
            left(&host, false).expect("left"),
            ["/etc/systemd/system/pf9-of-another-version.service"]
        );
        assert!(trees(&host, true).expect("trees").is_empty());
    }

    #[test]
    fn what_is_left_is_listed_whatever_it_is() {
        let (_dir, host) = host_with(&[
            "/etc/systemd/system/pf9-kubelet.service",
            "/etc/systemd/system/docker.service",
            "/etc/sysctl.d/90-pf9-kubernetes.conf",
            "/var/log/pf9/x",
        ]);
        host.link("/etc/systemd/system/pf9-comms.service", "/dev/null")
            .expect("mask");
        host.link(NODELET_AT_BOOT, "/lib/systemd/system/pf9-nodeletd.service")
            .expect("the engine's own link");
        host.link(
            "/proc/41/exe",
            "/opt/pf9/stacks/k/bin/containerd-shim-runc-v2 (deleted)",
        )
        .expect("exe");
        let mounts = "36 35 98:0 / /var/lib/pf9/kubelet/pods/x rw - tmpfs tmpfs rw\n\
                      37 35 98:0 / /var/lib/pf9x rw - tmpfs tmpfs rw\n";
        host.write(
            "/proc/self/mountinfo",
            mounts.as_bytes(),
            &Attrs::mode(0o444),
        )
        .expect("mounts");
        assert_eq!(
            left(&host, false).expect("left"),
            [
                "/etc/sysctl.d/90-pf9-kubernetes.conf",
                NODELET_AT_BOOT,
                "/etc/systemd/system/pf9-kubelet.service",
                "mount /var/lib/pf9/kubelet/pods/x",
                "process 41 (/opt/pf9/stacks/k/bin/containerd-shim-runc-v2 (deleted))",
            ]
        );
        assert!(role_traces(&host));
    }

    #[test]
    fn a_disk_mounted_there_is_emptied_and_stays() {
        let (_dir, host) = host_with(&["/var/lib/pf9/etcd/db", "/var/opt/pf9/x"]);
        let mounts = "36 35 98:0 / /var/lib/pf9 rw - ext4 /dev/sdb rw\n";
        host.write(
            "/proc/self/mountinfo",
            mounts.as_bytes(),
            &Attrs::mode(0o444),
        )
        .expect("mounts");
        for tree in trees(&host, true).expect("trees") {
            host.remove_tree(&tree).expect("remove");
        }
        assert_eq!(left(&host, true).expect("left"), Vec::<String>::new());
        assert!(host.at("/var/lib/pf9").exists());
    }

    /// Neither a disk for etcd alone nor what others mounted is left by us; what others mounted is told as theirs.
    #[test]
    fn a_disk_below_is_emptied_and_a_foreign_mount_is_told() {
        let mount = |point: &str| format!("36 35 98:0 / {point} rw - ext4 /dev/sdb rw\n");
        let backups = mount(paths::ETCD_BACKUPS);
        let disks = [mount(paths::ETCD_DATA), backups].concat();
        let unit = "/etc/systemd/system/pf9-kubelet.service";
        let foreign = ["/var/lib/pf9/deep/theirs", unit].map(mount).concat();
        let foreign = format!("{disks}{foreign}");
        let none: &[&str] = &[];
        let told = [unit, "/var/lib/pf9/deep/theirs"];
        for (mounts, expected) in [(&disks, none), (&foreign, &told[..])] {
            let (_dir, host) = host_with(&[
                "/var/lib/pf9/etcd/db",
                "/var/lib/pf9/deep/theirs/x",
                "/var/lib/pf9/x",
                "/var/opt/pf9/etcd-backups/x",
                "/var/opt/pf9/x",
                unit,
            ]);
            let attrs = Attrs::mode(0o444);
            host.write("/proc/self/mountinfo", mounts.as_bytes(), &attrs)
                .expect("mounts");
            for tree in trees(&host, true).expect("trees") {
                host.remove_tree_around(&tree, crate::host::ours::paths::may_be_disk)
                    .expect("remove");
            }
            assert_eq!(left(&host, true).expect("left"), none, "{mounts}");
            assert_eq!(kept(&host).expect("kept"), expected, "{mounts}");
            assert!(!role_units(&host), "{mounts}");
            for emptied in [paths::ETCD_DATA, paths::ETCD_BACKUPS] {
                assert_eq!(host.list(emptied).expect("list").len(), 0, "{mounts}");
                assert!(host.at(emptied).is_dir(), "{mounts}");
            }
            for theirs in ["/var/lib/pf9/deep/theirs/x", unit] {
                let is_there = host.at(theirs).exists();
                assert_eq!(is_there, !expected.is_empty(), "{mounts}");
            }
            // Something of ours beside it, and one of the runtime's mounts, are left nevertheless.
            let attrs = Attrs::mode(0o644);
            let ours = "/var/lib/pf9/kubelet/pods/a";
            let more = format!("{mounts}{}", mount(ours));
            host.write("/proc/self/mountinfo", more.as_bytes(), &attrs)
                .expect("mounts");
            host.write(format!("{ours}/x"), b"x", &attrs)
                .expect("write");
            let left = left(&host, true).expect("left");
            assert!(left.contains(&format!("mount {ours}")), "{left:?}");
            assert!(left.contains(&"/var/lib/pf9".to_owned()), "{left:?}");
            let told = kept(&host).expect("kept");
            assert_eq!(told, expected, "{mounts}");
        }
    }
}
