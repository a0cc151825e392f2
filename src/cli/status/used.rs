//! What is ours on the disks of this machine, and how much it may become.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde::Serialize;

use crate::host::fs::HostFs;
use crate::model::{api_audit_most_bytes, paths};
use crate::telemetry::LogConfig;

/// Most entries of a place that are counted: a screen does not wait for more. Two stacks have a thousand.
const ENTRIES_MAX: usize = 20_000;
/// A block of `stat`, whatever the file system's own are.
const BLOCK: u64 = 512;

/// A place of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct Used {
    /// What is there: `logs`, `stacks`, `backups`, `state`, `programs`.
    pub(in crate::cli) what: &'static str,
    /// Where.
    pub(in crate::cli) path: &'static str,
    /// What it takes of the disk.
    pub(in crate::cli) bytes: u64,
    /// What it never exceeds, where that is one number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) most_bytes: Option<u64>,
    /// There are more files than were counted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::cli) at_least: bool,
}

/// Places of ours, and which of them are looked at apart. Not the runtime's images and containers: how much they take is
/// kubelet's to bound, and there are too many files to count them for a screen.
const PLACES: [(&str, &str); 5] = [
    ("logs", paths::LOG_DIR),
    ("stacks", paths::STACKS),
    ("backups", paths::ETCD_BACKUPS),
    ("state", "/var/opt/pf9"),
    ("programs", paths::AGENT_PROGRAMS),
];

/// What each place takes; those that are not there, or that this user may not read, are left out.
pub(super) fn look(host: &HostFs, log: &LogConfig) -> Vec<Used> {
    // Only a master has an API server, and who may not see its audit does not count it either.
    let audit = match fs::symlink_metadata(host.at(paths::API_AUDIT_DIR)) {
        Ok(_) => api_audit_most_bytes(),
        Err(_) => 0,
    };
    let used = PLACES.into_iter().filter_map(|(what, path)| {
        let others: Vec<PathBuf> = PLACES
            .iter()
            .filter(|(_, other)| *other != path)
            .map(|(_, other)| host.at(other))
            .collect();
        let (bytes, at_least) = taken(host.at(path), &others)?;
        Some(Used {
            what,
            path,
            bytes,
            most_bytes: (what == "logs").then(|| log.most_bytes().saturating_add(audit)),
            at_least,
        })
    });
    used.collect()
}

/// Bytes below a directory on its own file system, links not followed; `others` are counted elsewhere.
fn taken(root: PathBuf, others: &[PathBuf]) -> Option<(u64, bool)> {
    let device = fs::symlink_metadata(&root)
        .ok()
        .filter(|m| m.is_dir())?
        .dev();
    let (mut bytes, mut seen) = (0u64, 0);
    let mut todo = vec![root];
    let mut first = true;
    while let Some(dir) = todo.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            // Where the place itself may not be read nothing is known of it.
            Err(_) if first => return None,
            Err(_) => continue,
        };
        first = false;
        for entry in entries.flatten() {
            seen += 1;
            if seen > ENTRIES_MAX {
                return Some((bytes, true));
            }
            // From the directory entry: no path is walked for it, and no link followed.
            let Ok(meta) = entry.metadata() else {
                continue;
            };
            if meta.dev() != device {
                continue;
            }
            if meta.is_dir() {
                let path = entry.path();
                if others.contains(&path) {
                    continue;
                }
                todo.push(path);
            }
            bytes = bytes.saturating_add(meta.blocks().saturating_mul(BLOCK));
        }
    }
    Some((bytes, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_counted_once_and_nothing_outside_of_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        let put = |path: &str, size: usize| {
            let at = host.at(path);
            fs::create_dir_all(at.parent().expect("parent")).expect("directory");
            fs::write(at, vec![7; size]).expect("write");
        };
        put("/var/log/pf9/comms/comms.log", 1 << 20);
        put("/var/opt/pf9/nodelet/journal", 1 << 16);
        put(&format!("{}/a.db.age", paths::ETCD_BACKUPS), 1 << 21);
        put("/var/log/theirs", 1 << 22);
        std::os::unix::fs::symlink(host.at("/var/log"), host.at("/var/log/pf9/link"))
            .expect("link");
        let used = look(&host, &LogConfig::default());
        let of = |what: &str| used.iter().find(|u| u.what == what).map(|u| u.bytes);
        let near = |bytes: Option<u64>, want: u64| {
            bytes.is_some_and(|b| b >= want && b < want + (1 << 16))
        };
        assert!(
            near(of("logs"), 1 << 20) && near(of("state"), 1 << 16) && near(of("backups"), 1 << 21),
            "{used:?}"
        );
        assert_eq!(of("stacks"), None);
        let logs = used.iter().find(|u| u.what == "logs").expect("logs");
        let most = LogConfig::default().most_bytes();
        assert_eq!(logs.most_bytes, Some(most));
        // On a master.
        put(&format!("{}/audit.log", paths::API_AUDIT_DIR), 1 << 20);
        let used = look(&host, &LogConfig::default());
        let logs = used.iter().find(|u| u.what == "logs").expect("logs");
        assert!(near(Some(logs.bytes), 2 << 20), "{used:?}");
        assert_eq!(logs.most_bytes, Some(most + api_audit_most_bytes()));
    }
}
