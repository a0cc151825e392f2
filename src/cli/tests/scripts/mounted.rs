//! What others mounted below or over what is ours, when the package goes.

use super::*;

/// File systems mounted below our directories: below pods' and the runtime's they are ours, elsewhere an operator's. No
/// byte of them is deleted, and the package is removed anyway.
#[test]
fn nothing_that_is_mounted_below_is_deleted() {
    const MOUNTS: &str = r#"set -e
mount --bind /opt/data /var/lib/pf9/kubelet/pods/a/volumes/b
mount --bind /opt/data "/var/lib/pf9/kubelet/pods/a/with a blank \\ and more"
mount --bind /opt/data /var/lib/pf9/somebodys
mount --bind /opt/data "/var/opt/pf9/deep/er/some  body's"
mount -t tmpfs none /etc/pf9/kube.d/tmpfs
echo x > /etc/pf9/kube.d/tmpfs/x
"#;
    for (script, argument) in [("deb/postrm", "purge"), ("rpm/postun.sh", "0")] {
        let rig = machine();
        rig.file("/opt/data/precious", "theirs");
        for dir in [
            "/var/lib/pf9/kubelet/pods/a/volumes/b",
            "/var/lib/pf9/kubelet/pods/a/with a blank \\ and more",
            "/var/lib/pf9/somebodys",
            "/var/opt/pf9/deep/er/some  body's",
            "/etc/pf9/kube.d/tmpfs",
        ] {
            std::fs::create_dir_all(rig.host.at(dir)).expect("directory");
        }
        rig.file("/var/opt/pf9/deep/beside", "ours");
        let said = run_with(rig.dir.path(), script, argument, MOUNTS);
        assert_eq!(
            std::fs::read_to_string(rig.host.at("/opt/data/precious")).expect("theirs"),
            "theirs",
            "{script}"
        );
        let config = |path: &String| !path.starts_with("etc/pf9/hostagent.toml");
        let kept: Vec<String> = left(&rig).into_iter().filter(config).collect();
        assert_eq!(kept, [""; 0], "{script}: {said}");
        // The places themselves are there: those that were mounted when it ran, and no others.
        let places = [
            "/var/lib/pf9/somebodys",
            "/var/opt/pf9/deep/er/some  body's",
            "/etc/pf9/kube.d/tmpfs",
        ];
        for place in places {
            assert!(rig.host.at(place).is_dir(), "{script}: {place}");
            assert!(
                said.contains(place),
                "{script} does not name {place}: {said}"
            );
        }
        assert_eq!(said.lines().count(), places.len(), "{script}: {said}");
        assert!(
            !rig.host.at("/var/lib/pf9/kubelet").exists(),
            "{script}: unmounted, and gone"
        );
    }
}

/// `/var` is a link to a data disk: what is mounted below it has another name in the kernel's list.
#[test]
fn nothing_that_is_mounted_behind_a_link_is_deleted() {
    const MOUNTS: &str = "mount --bind /opt/data /opt/disk/lib/pf9/somebodys || exit 1\n";
    for (script, argument) in [("deb/postrm", "purge"), ("rpm/postun.sh", "0")] {
        let rig = machine();
        rig.file("/opt/data/precious", "theirs");
        let (var, disk) = (rig.host.at("/var"), rig.host.at("/opt/disk"));
        std::fs::rename(&var, &disk).expect("move");
        std::os::unix::fs::symlink("opt/disk", &var).expect("link");
        std::fs::create_dir_all(disk.join("lib/pf9/somebodys")).expect("directory");
        let said = run_with(rig.dir.path(), script, argument, MOUNTS);
        let precious = rig.host.at("/opt/data/precious");
        assert!(precious.exists(), "{script}: {said}");
        assert!(said.contains("somebodys"), "{script}: {said}");
        assert!(!disk.join("lib/pf9/x").exists(), "{script}: {said}");
    }
}

/// Files mounted over files of ours: they stay, their sources too, and the package is removed anyway.
#[test]
fn a_file_that_is_mounted_over_stays_and_is_named() {
    let over = [
        ours::SYSCTL_FILE,
        "/etc/systemd/system/multi-user.target.wants/pf9-kubelet.service",
        "/etc/systemd/system/pf9-kubelet.service",
        paths::MACHINE_NOW,
        "/var/lib/pf9/deep/own.conf",
        "/etc/pf9/kube.d/own.conf",
        paths::PROXY_CONFIG,
    ];
    let mounts = over
        .map(|at| format!("mount --bind /opt/data/precious {at} || exit 1\n"))
        .concat();
    for (script, argument) in [("deb/postrm", "purge"), ("rpm/postun.sh", "0")] {
        let rig = machine();
        rig.file("/opt/data/precious", "theirs");
        // The rig makes a directory of every place.
        std::fs::remove_dir_all(rig.host.at(paths::MACHINE_NOW)).expect("a directory");
        for at in over {
            rig.file(at, "ours");
        }
        let said = run_with(rig.dir.path(), script, argument, &mounts);
        let precious = std::fs::read_to_string(rig.host.at("/opt/data/precious"));
        assert_eq!(precious.expect("theirs"), "theirs", "{script}");
        for at in over {
            let named = format!("is mounted there: {}\n", rig.host.at(at).display());
            assert!(said.contains(&named), "{script}: {at}: {said}");
        }
        assert_eq!(said.lines().count(), over.len(), "{script}: {said}");
        let mut kept = left(&rig);
        kept.retain(|path| !path.starts_with("etc/pf9/hostagent.toml"));
        // The rig lists nothing below `/run`.
        let stay = over.iter().filter(|at| !at.starts_with("/run/"));
        let mut stay: Vec<&str> = stay.map(|at| at.trim_start_matches('/')).collect();
        stay.sort_unstable();
        assert_eq!(kept, stay, "{script}: {said}");
    }
}

/// A disk at a directory of ours is emptied, and stays.
#[test]
fn a_disk_of_ours_is_emptied_and_stays() {
    let mounts: String = ["/var/lib/pf9", "/var/lib/pf9/etcd", "/var/opt/pf9"]
        .map(|at| {
            format!(
                "mount --bind /opt/disk{} {at} || exit 1\n",
                at.replace('/', "-")
            )
        })
        .concat();
    for (script, argument) in [("deb/postrm", "purge"), ("rpm/postun.sh", "0")] {
        let rig = machine();
        for disk in [
            "/opt/disk-var-lib-pf9",
            "/opt/disk-var-lib-pf9-etcd",
            "/opt/disk-var-opt-pf9",
        ] {
            rig.file(&format!("{disk}/a/b"), "ours");
            rig.file(&format!("{disk}/.hidden"), "ours");
        }
        std::fs::create_dir_all(rig.host.at("/opt/disk-var-lib-pf9/etcd")).expect("directory");
        let said = run_with(rig.dir.path(), script, argument, &mounts);
        let on_disks: Vec<_> = rig
            .files()
            .into_keys()
            .filter(|p| p.starts_with("opt/disk"))
            .collect();
        assert!(
            on_disks.is_empty() && said.is_empty(),
            "{script}: {on_disks:?} {said}"
        );
        for (disk, there) in [
            ("/opt/disk-var-lib-pf9/etcd", true),
            ("/opt/disk-var-lib-pf9-etcd", true),
            ("/opt/disk-var-opt-pf9/a", false),
        ] {
            assert_eq!(rig.host.at(disk).is_dir(), there, "{script}: {disk}");
        }
    }
}
