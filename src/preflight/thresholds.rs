//! The numbers that checks compare with: one file of data (`thresholds.toml`), built in.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use ipnet::IpNet;
use serde::Deserialize;

use crate::model::Timestamp;

const DATA: &str = include_str!("thresholds.toml");

/// All of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    pub(super) platform: Platform,
    pub(super) resources: Resources,
    pub(super) storage: Storage,
    pub(super) limits: Limits,
    pub(super) time: Time,
    pub(super) network: Network,
    /// The plane's endpoints.
    pub plane: Plane,
    pub(super) certificates: Certificates,
    pub(super) agent: Agent,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Platform {
    pub(super) earliest_clock: Timestamp,
    pub(super) distributions: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resources {
    pub(super) memory_least_mib: u64,
    pub(super) memory_good_mib: u64,
    pub(super) processors_good: u32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Storage {
    pub(super) inodes_least: u64,
    pub(super) free_percent_good: u64,
    pub(super) fsync_good_ms: u64,
    pub(super) fsync_writes: usize,
    pub(super) fsync_try_ms: u64,
    pub(super) needs_mib: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) pid_max_least: u64,
    pub(super) inotify_instances_good: u64,
    pub(super) inotify_watches_good: u64,
    pub(super) file_max_good: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Time {
    pub(super) offset_good_ms: i64,
    pub(super) offset_most_ms: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Network {
    pub(super) mtu_least: u32,
    pub(super) pods: Option<IpNet>,
    pub(super) services: Option<IpNet>,
}

/// Thresholds for the plane's endpoints.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plane {
    /// Longest try of one endpoint, milliseconds.
    pub try_ms: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Certificates {
    pub(super) days_good: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Agent {
    pub(super) restarts_good: u32,
    pub(super) heard_good_s: i64,
}

const MIB: u64 = 1 << 20;

impl Thresholds {
    /// Those that this program was built with.
    pub fn ours() -> &'static Self {
        // A test reads it: what is built in is well formed.
        static OURS: LazyLock<Thresholds> =
            LazyLock::new(|| Thresholds::read(DATA).unwrap_or_default());
        &OURS
    }

    fn read(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

impl Storage {
    /// Bytes that this directory of ours takes in the first hour.
    pub(super) fn need(&self, path: &str) -> u64 {
        self.needs_mib
            .get(path)
            .map_or(0, |mib| mib.saturating_mul(MIB))
    }

    /// Bytes of all together.
    pub(super) fn all(&self) -> u64 {
        self.needs_mib.values().sum::<u64>().saturating_mul(MIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_well_formed_and_names_our_directories() {
        let ours = Thresholds::read(DATA).expect("thresholds.toml");
        let named: Vec<&str> = ours.storage.needs_mib.keys().map(String::as_str).collect();
        let mut want = crate::preflight::storage::NEEDS.to_vec();
        want.sort_unstable();
        assert_eq!(named, want);
        assert!(ours.resources.memory_least_mib < ours.resources.memory_good_mib);
        assert!(ours.network.pods.is_some() && ours.network.services.is_some());
        assert!(ours.time.offset_good_ms < ours.time.offset_most_ms);
    }

    #[test]
    fn a_word_that_is_not_known_is_an_error() {
        let more = format!("{DATA}\n[later]\nx = 1\n");
        assert!(Thresholds::read(&more).is_err());
    }
}
