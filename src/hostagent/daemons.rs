//! What memory each program of ours and of the node holds, as its control group says.
//!
//! Anonymous memory only: what a leak is made of. The files that a program reads count for its group as well, come and
//! go, and would hide it. `/proc` is no way: this process sees no other one there, and must not.

use crate::host::fs::HostFs;
use crate::host::ours::units;
use crate::model::DaemonHealth;

/// Whose memory is reported, where they run.
const UNITS: [&str; 7] = [
    units::COMMS,
    units::HOSTAGENT,
    units::NODELET,
    units::CONTAINERD,
    units::ETCD,
    units::KUBELET,
    units::KUBE_PROXY,
];
/// Where groups are with each version of control groups, and how their files and lines are called there.
const VERSIONS: [Version; 2] = [
    Version {
        slice: "/sys/fs/cgroup/system.slice",
        own: "anon",
        limit: "memory.max",
    },
    Version {
        slice: "/sys/fs/cgroup/memory/system.slice",
        own: "total_rss",
        limit: "memory.limit_in_bytes",
    },
];
/// Forty lines of a name and a number.
const FILE_MAX: u64 = 16 * 1024;
/// Version 1 says the largest number of pages where there is no limit; no machine has an exabyte.
const NO_LIMIT: u64 = 1 << 60;

struct Version {
    slice: &'static str,
    own: &'static str,
    limit: &'static str,
}

/// Those that run; what cannot be read is left out.
pub(super) fn read(fs: &HostFs) -> Vec<DaemonHealth> {
    let one = |unit: &&str| VERSIONS.iter().find_map(|version| of(fs, version, unit));
    UNITS.iter().filter_map(one).collect()
}

fn of(fs: &HostFs, version: &Version, unit: &str) -> Option<DaemonHealth> {
    let text = |file: &str| {
        let path = format!("{}/{unit}/{file}", version.slice);
        fs.read_text(path, FILE_MAX).ok().flatten()
    };
    let stat = text("memory.stat")?;
    let own = stat.lines().find_map(|line| {
        let (name, bytes) = line.split_once(' ')?;
        (name == version.own).then(|| bytes.trim().parse().ok())?
    })?;
    let limit = text(version.limit).and_then(|text| text.trim().parse().ok());
    Some(DaemonHealth {
        unit: unit.to_owned(),
        memory_bytes: own,
        // `max` is no number.
        limit_bytes: limit.filter(|bytes| *bytes < NO_LIMIT).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(fs: &HostFs, path: &str, text: &str) {
        let at = fs.at(path);
        std::fs::create_dir_all(at.parent().expect("parent")).expect("directory");
        std::fs::write(at, text).expect("write");
    }

    #[test]
    fn memory_of_each_daemon_is_its_own_with_either_version_of_control_groups() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        assert_eq!(read(&fs), []);
        let two = "/sys/fs/cgroup/system.slice/pf9-comms.service";
        put(
            &fs,
            &format!("{two}/memory.stat"),
            "anon 100\nfile 9000\nanon_thp 7\n",
        );
        put(&fs, &format!("{two}/memory.max"), "600\n");
        let etcd = "/sys/fs/cgroup/system.slice/pf9-etcd.service";
        put(&fs, &format!("{etcd}/memory.stat"), "file 9\nanon 200\n");
        put(&fs, &format!("{etcd}/memory.max"), "max\n");
        let one = "/sys/fs/cgroup/memory/system.slice/pf9-kubelet.service";
        put(
            &fs,
            &format!("{one}/memory.stat"),
            "rss 1\ntotal_cache 5\ntotal_rss 300\n",
        );
        put(
            &fs,
            &format!("{one}/memory.limit_in_bytes"),
            "9223372036854771712\n",
        );
        put(
            &fs,
            "/sys/fs/cgroup/system.slice/ssh.service/memory.stat",
            "anon 1\n",
        );
        let told: Vec<_> = read(&fs)
            .into_iter()
            .map(|d| (d.unit, d.memory_bytes, d.limit_bytes))
            .collect();
        assert_eq!(
            told,
            [
                ("pf9-comms.service".into(), 100, 600),
                ("pf9-etcd.service".into(), 200, 0),
                ("pf9-kubelet.service".into(), 300, 0),
            ]
        );
        put(&fs, &format!("{two}/memory.stat"), "file 9000\n");
        assert_eq!(read(&fs).len(), 2, "half a word is none");
    }
}
