//! Configuration: `/etc/pf9/hostagent.toml`, then `/etc/pf9/conf.d/*.toml` in order of name.
//!
//! Tables merge, everything else replaces. Unknown keys are errors, and *all* faults of *all* files are reported
//! together, each with its file and key: an operator repairs them in one pass.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::egress::ProxyConfig;
use crate::host::fs::HostFs;
use crate::model::{Fault, FaultCode, paths};
use crate::telemetry::LogConfig;
use crate::tls::TlsConfig;

/// The whole configuration of a host's daemons.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Logs of all daemons.
    pub log: LogConfig,
    /// The tunnel.
    pub comms: CommsConfig,
    /// Documents.
    pub hostagent: HostagentConfig,
    /// Effects.
    pub nodelet: NodeletConfig,
    /// What support may fetch.
    pub support: SupportConfig,
}

/// `[comms]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CommsConfig {
    /// Ping interval, seconds (2 to 60). A dead path is noticed within 2.5 intervals.
    pub ping_s: u64,
    /// Longest wait between two tries to connect, seconds (5 to 600).
    pub reconnect_cap_s: u64,
    /// The way out of the network.
    pub proxy: ProxyConfig,
    /// What is asked of TLS with the plane.
    pub tls: TlsConfig,
}

/// `[hostagent]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostagentConfig {
    /// Longest time between two status documents, seconds (10 to 600).
    pub status_s: u64,
}

/// `[nodelet]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeletConfig {
    /// Time between two full sweeps, seconds (30 to 3600).
    pub sweep_s: u64,
}

/// `[support]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SupportConfig {
    /// The plane may ask this host for a support bundle and gets it. Off unless the host's own operator says so.
    pub bundle_on_request: bool,
    /// The plane may ask this host for the components' own logs and gets them. Off unless the host's own operator says so.
    pub logs: bool,
}

impl Default for CommsConfig {
    fn default() -> Self {
        Self {
            // 2.5 × 8 s = 20 s until a dead path is noticed.
            ping_s: 8,
            reconnect_cap_s: 60,
            proxy: ProxyConfig::default(),
            tls: TlsConfig::default(),
        }
    }
}

impl Default for HostagentConfig {
    fn default() -> Self {
        Self { status_s: 60 }
    }
}

impl Default for NodeletConfig {
    fn default() -> Self {
        Self { sweep_s: 60 }
    }
}

impl CommsConfig {
    /// Ping interval.
    pub fn ping(&self) -> Duration {
        Duration::from_secs(self.ping_s)
    }
    /// Longest wait between two tries.
    pub fn reconnect_cap(&self) -> Duration {
        Duration::from_secs(self.reconnect_cap_s)
    }
}

/// Largest configuration file.
const FILE_MAX: u64 = 256 * 1024;

impl Config {
    /// Reads the configuration of `host`. No file at all means: the defaults.
    pub fn load(host: &HostFs) -> Result<Self, Fault> {
        let mut faults = Vec::new();
        let mut files = vec![paths::CONFIG.to_owned()];
        match host.list(paths::CONFIG_DIR) {
            Ok(names) => files.extend(
                names
                    .iter()
                    .filter(|n| Path::new(n).extension().is_some_and(|e| e == "toml"))
                    .map(|n| format!("{}/{n}", paths::CONFIG_DIR)),
            ),
            Err(e) => faults.push(crate::telemetry::chain(&e)),
        }
        let mut all = toml::Table::new();
        for file in &files {
            match host.read_text(file, FILE_MAX) {
                Ok(None) => {}
                Ok(Some(text)) => merge_file(&mut all, file, &text, &mut faults),
                Err(e) => faults.push(crate::telemetry::chain(&e)),
            }
        }
        let config = Self::deserialize(all).unwrap_or_default();
        config.check_ranges(&mut faults);
        if faults.is_empty() {
            return Ok(config);
        }
        Err(Fault::new(
            FaultCode::ConfigInvalid,
            "cannot use the configuration",
            faults.join("; "),
        )
        .fix("correct the named keys; see the comments in /etc/pf9/hostagent.toml"))
    }

    fn check_ranges(&self, faults: &mut Vec<String>) {
        let rows = [
            ("comms.ping_s", self.comms.ping_s, 2, 60),
            ("comms.reconnect_cap_s", self.comms.reconnect_cap_s, 5, 600),
            ("hostagent.status_s", self.hostagent.status_s, 10, 600),
            ("nodelet.sweep_s", self.nodelet.sweep_s, 30, 3600),
            ("log.max_mib", self.log.max_mib.into(), 1, 1024),
            ("log.keep", self.log.keep.into(), 0, 100),
        ];
        for (key, value, min, max) in rows {
            if !(min..=max).contains(&value) {
                faults.push(format!("{key} is {value}, must be {min} to {max}"));
            }
        }
        faults.extend(self.log.check().err());
    }
}

/// Merges one file. Each key is tried alone, so that one fault does not hide the next.
fn merge_file(all: &mut toml::Table, file: &str, text: &str, faults: &mut Vec<String>) {
    let table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(e) => {
            // Not with the line itself, as its own words have it: a password may stand there.
            let at = e.span().map_or(0, |span| span.start).min(text.len());
            let line = text
                .as_bytes()
                .iter()
                .take(at)
                .filter(|b| **b == b'\n')
                .count()
                + 1;
            faults.push(format!("{file}: line {line}: {}", e.message().trim()));
            return;
        }
    };
    merge_table(all, file, &mut Vec::new(), table, faults);
}

fn merge_table(
    all: &mut toml::Table,
    file: &str,
    at: &mut Vec<String>,
    table: toml::Table,
    faults: &mut Vec<String>,
) {
    for (key, value) in table {
        at.push(key);
        match value {
            toml::Value::Table(inner) if !inner.is_empty() => {
                merge_table(all, file, at, inner, faults);
            }
            value => match check_alone(at, &value) {
                // An empty one says nothing; only its name may be wrong.
                Ok(()) if value.is_table() => {}
                Ok(()) => insert(all, at, value),
                Err(why) => faults.push(format!("{file}: {}: {why}", at.join("."))),
            },
        }
        at.pop();
    }
}

fn check_alone(at: &[String], value: &toml::Value) -> Result<(), String> {
    let mut alone = toml::Table::new();
    insert(&mut alone, at, value.clone());
    match Config::deserialize(alone) {
        Ok(_) => Ok(()),
        Err(e) => Err(e.to_string().replace('\n', " ").trim().to_owned()),
    }
}

/// Puts `value` at a path of keys; tables on the way are made.
fn insert(into: &mut toml::Table, at: &[String], value: toml::Value) {
    match at {
        [] => {}
        [key] => {
            into.insert(key.clone(), value);
        }
        [key, rest @ ..] => {
            let inner = into
                .entry(key.clone())
                .or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, HostFs) {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        for (path, text) in files {
            host.write(path, text.as_bytes(), &Attrs::mode(0o644))
                .expect("write");
        }
        (dir, host)
    }

    #[test]
    fn no_file_means_the_defaults_and_later_files_win() {
        let (_dir, empty) = host(&[]);
        assert_eq!(Config::load(&empty), Ok(Config::default()));
        let (_dir, two) = host(&[
            (
                "/etc/pf9/hostagent.toml",
                "[comms]\nping_s = 4\nreconnect_cap_s = 9\n",
            ),
            ("/etc/pf9/conf.d/10-a.toml", "[comms]\nping_s = 5\n"),
            ("/etc/pf9/conf.d/README", "not toml"),
        ]);
        let config = Config::load(&two).expect("config");
        assert_eq!((config.comms.ping_s, config.comms.reconnect_cap_s), (5, 9));
    }

    #[test]
    fn tables_inside_tables_merge_too() {
        let (_dir, two) = host(&[
            (
                "/etc/pf9/hostagent.toml",
                "[comms]\nping_s = 4\n[comms.proxy]\nurl = \"http://a:1\"\nno_proxy = [\"x\"]\n",
            ),
            (
                "/etc/pf9/conf.d/10-a.toml",
                "[comms.proxy]\nurl = \"http://b:2\"\n[comms.tls]\nmin_version = \"1.2\"\n",
            ),
            ("/etc/pf9/conf.d/20-b.toml", "[comms.tls]\n[hostagent]\n"),
        ]);
        let comms = Config::load(&two).expect("config").comms;
        assert_eq!(comms.ping_s, 4);
        assert_eq!(
            comms.proxy.url.map(|u| u.to_string()).as_deref(),
            Some("http://b:2")
        );
        assert!(comms.proxy.no_proxy.names("x", 1));
        assert_eq!(comms.tls.min_version, crate::tls::MinVersion::V1_2);
    }

    #[test]
    fn a_password_in_a_file_is_a_fault_that_says_where_it_belongs() {
        let (_dir, broken) = host(&[("/etc/pf9/hostagent.toml", "\n[comms]\npassword hunter2\n")]);
        let fault = Config::load(&broken).expect_err("refused");
        assert!(
            fault.why.contains("line 3") && !fault.why.contains("hunter2"),
            "{fault}"
        );
        let (_dir, host) = host(&[(
            "/etc/pf9/conf.d/10-a.toml",
            "[comms.proxy]\nurl = \"http://u:hunter2@proxy:1\"\npassword = \"hunter2\"\n",
        )]);
        let fault = Config::load(&host).expect_err("refused");
        for part in [
            "comms.proxy.url: ",
            "comms.proxy.password: ",
            "/etc/pf9/proxy-credentials",
        ] {
            assert!(fault.why.contains(part), "{part} not in {}", fault.why);
        }
        assert!(!fault.to_string().contains("hunter2"), "{fault}");
    }

    #[test]
    fn a_word_that_is_no_level_does_not_silence_a_daemon() {
        let level = |level: &str| LogConfig {
            level: level.to_owned(),
            ..LogConfig::default()
        };
        for good in [
            "info",
            "WARN",
            "info,pf9_hostagent::comms=debug",
            "warn,hyper=off",
            "off",
        ] {
            assert_eq!(level(good).check(), Ok(()), "{good}");
        }
        for wrong in ["loud", "inf", "info,loud", "debgu,hyper=off"] {
            let said = level(wrong).check().expect_err(wrong);
            assert!(said.contains("is not a level"), "{said}");
        }
    }

    #[test]
    fn every_fault_is_reported_at_once_with_file_and_key() {
        let (_dir, host) = host(&[
            (
                "/etc/pf9/hostagent.toml",
                "[comms]\npong = 4\nping_s = \"x\"\n[nodelet]\nsweep_s = 5\n\
                 [log]\nlevel = \"info,x=loud\"\n",
            ),
            ("/etc/pf9/conf.d/10-a.toml", "[wat]\nx = 1\n"),
            ("/etc/pf9/conf.d/20-b.toml", "= broken"),
        ]);
        let fault = Config::load(&host).expect_err("faults");
        assert_eq!(fault.code, FaultCode::ConfigInvalid);
        for part in [
            "/etc/pf9/hostagent.toml: comms.pong",
            "/etc/pf9/hostagent.toml: comms.ping_s",
            "nodelet.sweep_s is 5, must be 30 to 3600",
            "log.level \"info,x=loud\"",
            "/etc/pf9/conf.d/10-a.toml: wat.x",
            "/etc/pf9/conf.d/20-b.toml",
        ] {
            assert!(fault.why.contains(part), "{part} not in {}", fault.why);
        }
    }
}
