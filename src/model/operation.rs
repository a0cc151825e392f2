//! Operations: what the plane may have a host do, as one closed list. (Not *orders*: those are root's, to the plane.)
//!
//! An operation is signed, ends, and is done once. nodelet trusts it by the keys that root of the host trusts, and
//! does it only where root allows it: see `nodelet::operations`. There is no shell in it and no free text.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{CertPurpose, Fault, HostId};

/// Version of the operation's document.
pub const OPERATION_SCHEMA: u32 = 1;
/// Longest time from an operation to its end: the operator waits for it. A host that was away for longer does not
/// execute yesterday's orders.
pub const OPERATION_LIFE_MAX: Duration = Duration::from_secs(3600);
/// Longest that a log may be louder by an operation: a day of debugging; the log itself is bounded in bytes.
pub const LOUD_MAX: Duration = Duration::from_secs(24 * 3600);
/// Largest support bundle that is asked for: logs of a node in full, compressed, several times over.
pub const BUNDLE_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Smallest: the entries that say most fit.
pub const BUNDLE_BYTES_MIN: u64 = 1024 * 1024;
/// Logs of longer ago are not kept on a host in the long run.
pub const BUNDLE_SINCE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Newest lines of each log that are asked for at most: a page of them is read, not a day.
pub const LOG_LINES_MAX: u32 = 20_000;
/// Longest text of a result.
pub const SAID_MAX: usize = 1024;
/// Operations that wait for a host, and are sent at once.
pub const OPERATIONS_PENDING_MAX: usize = 16;

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// [`OPERATION_SCHEMA`].
    pub schema: u32,
    /// Which.
    pub id: Uuid,
    /// The host it is for.
    pub host_id: HostId,
    /// Rises with every operation for this host.
    pub number: u64,
    /// When it was ordered, by the plane's clock.
    pub issued_at: Timestamp,
    /// It does not start after that.
    pub expires_at: Timestamp,
    /// What to do.
    pub what: OperationKind,
}

/// The closed list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum OperationKind {
    /// Answer, down to root's part.
    Ping,
    /// Send the status now, with a fresh look at the machine.
    ResendStatus,
    /// Look at the whole node as a sweep does, and say what differs.
    RunChecks,
    /// Start one unit of ours again.
    Restart {
        /// Which.
        unit: OurUnit,
    },
    /// Have a certificate of the node signed again before it is due.
    Rotate {
        /// Which.
        certificate: CertPurpose,
    },
    /// Take a backup of etcd now.
    Backup,
    /// Let a program log more, or less, for a time.
    LogLevel {
        /// Which program.
        program: LogOf,
        /// How much.
        level: LogLevel,
        /// For how long.
        for_s: u32,
    },
    /// Send a support bundle, sealed, where the host's own operator has agreed to that.
    Bundle {
        /// Logs of the last so many seconds.
        since_s: u32,
        /// At most so large.
        max_bytes: u64,
        /// The public key of age that it is sealed for. It is signed with the rest, so the carrier of the bundle cannot
        /// have it sealed for another key.
        seal_for: String,
    },
    /// Send the components' own logs of a time and nothing else, sealed, where the host's own operator has agreed to
    /// that. A word of its own: an agent that does not know it sends nothing, rather than all that a bundle has.
    Logs {
        /// From so many seconds ago,
        since_s: u32,
        /// but not of the last so many.
        #[serde(default)]
        until_s: u32,
        /// At most so many lines of each log, the newest.
        lines: u32,
        /// At most so large.
        max_bytes: u64,
        /// The public key of age that they are sealed for.
        seal_for: String,
    },
}

/// What the host's own operator agrees to, beside root's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Support bundles.
    Bundle,
    /// The components' own logs.
    Logs,
}

/// Units that may be restarted without asking others. Not etcd, whose peers need to know, and not nodelet, which would
/// cut off its own answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OurUnit {
    /// kubelet.
    Kubelet,
    /// kube-proxy.
    KubeProxy,
    /// The container runtime; pods run on.
    Containerd,
    /// The tunnel: it comes back.
    Comms,
    /// Documents.
    Hostagent,
}

/// Programs whose log may be louder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogOf {
    /// hostagent.
    Hostagent,
    /// nodelet.
    Nodelet,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What a person has to see.
    Warn,
    /// As usual.
    Info,
    /// What a developer asks for.
    Debug,
}

/// What root asks of a daemon of this host, at its own socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevelRequest {
    /// How much.
    pub level: LogLevel,
    /// For how long.
    pub for_s: u32,
}

/// How much a daemon logs now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevelStatus {
    /// The filter that is in force.
    pub level: String,
    /// The one that is configured.
    pub usual: String,
    /// When that one is in force again, where another one is.
    pub until: Option<Timestamp>,
}

impl LogLevelRequest {
    /// Why it cannot be asked for, if so.
    pub fn fault(&self) -> Option<String> {
        loud_fault(self.for_s)
    }
}

/// A log is louder for a time, and none is loud for ever.
fn loud_fault(for_s: u32) -> Option<String> {
    let is_wrong = for_s == 0 || Duration::from_secs(for_s.into()) > LOUD_MAX;
    is_wrong.then(|| {
        format!(
            "a log level is changed for 1 s to {} h, not for {for_s} s",
            LOUD_MAX.as_secs() / 3600
        )
    })
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Outcome {
    /// It was done.
    Done {
        /// Its result.
        said: String,
    },
    /// It did not start.
    Refused {
        /// Why.
        fault: Fault,
    },
    /// It started and did not succeed.
    Failed {
        /// Why.
        fault: Fault,
    },
}

/// What a host says of an operation; also nodelet's answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationResult {
    /// [`OPERATION_SCHEMA`].
    pub schema: u32,
    /// Which.
    pub id: Uuid,
    /// When it ended, by the host's clock.
    pub at: Timestamp,
    /// How.
    pub outcome: Outcome,
}

/// Operations that wait for a host, oldest first: the answer to `GET /v1/hosts/self/operations`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingOperations {
    /// Each signed, with its id beside it for who cannot trust the signature.
    pub operations: Vec<PendingOperation>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingOperation {
    /// Which.
    pub id: Uuid,
    /// An [`Operation`], signed.
    pub envelope: super::Envelope,
}

impl OperationKind {
    /// The word that root allows it by.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::ResendStatus => "resend-status",
            Self::RunChecks => "run-checks",
            Self::Restart { .. } => "restart",
            Self::Rotate { .. } => "rotate",
            Self::Backup => "backup",
            Self::LogLevel { .. } => "log-level",
            Self::Bundle { .. } => "bundle",
            Self::Logs { .. } => "logs",
        }
    }

    /// Every word.
    pub const WORDS: [&'static str; 9] = [
        "ping",
        "resend-status",
        "run-checks",
        "restart",
        "rotate",
        "backup",
        "log-level",
        "bundle",
        "logs",
    ];

    /// Those that are allowed where root of the host says nothing: nothing that runs is disturbed by them. (A bundle
    /// and logs need a consent of their own beside this.)
    pub const HARMLESS: [&'static str; 7] = [
        "ping",
        "resend-status",
        "run-checks",
        "backup",
        "log-level",
        "bundle",
        "logs",
    ];

    /// It changes the node, and is not done in maintenance.
    pub fn changes_the_node(&self) -> bool {
        match self {
            Self::Restart { .. } | Self::Rotate { .. } => true,
            Self::Ping
            | Self::ResendStatus
            | Self::RunChecks
            | Self::Backup
            | Self::LogLevel { .. }
            | Self::Bundle { .. }
            | Self::Logs { .. } => false,
        }
    }

    /// The consent of the host's own operator that it needs beside root's list: something leaves the host by it.
    pub fn consent(&self) -> Option<Consent> {
        match self {
            Self::Bundle { .. } => Some(Consent::Bundle),
            Self::Logs { .. } => Some(Consent::Logs),
            Self::Ping
            | Self::ResendStatus
            | Self::RunChecks
            | Self::Restart { .. }
            | Self::Rotate { .. }
            | Self::Backup
            | Self::LogLevel { .. } => None,
        }
    }

    /// Why it cannot be ordered, if so.
    pub fn fault(&self) -> Option<String> {
        match self {
            Self::LogLevel { for_s, .. } => loud_fault(*for_s),
            Self::Bundle {
                since_s,
                max_bytes,
                seal_for,
            } => bundle_fault(*since_s, *max_bytes, seal_for),
            Self::Logs {
                since_s,
                until_s,
                lines,
                max_bytes,
                seal_for,
            } => {
                if until_s >= since_s {
                    return Some(format!(
                        "logs from {since_s} s ago to {until_s} s ago are an empty range: it must begin before it ends"
                    ));
                }
                if !(1..=LOG_LINES_MAX).contains(lines) {
                    return Some(format!(
                        "of each log 1 to {LOG_LINES_MAX} lines are sent, not {lines}"
                    ));
                }
                bundle_fault(*since_s, *max_bytes, seal_for)
            }
            Self::Ping
            | Self::ResendStatus
            | Self::RunChecks
            | Self::Restart { .. }
            | Self::Rotate { .. }
            | Self::Backup => None,
        }
    }
}

/// What a request for a bundle must keep to. Whether the key is one is for those to say who seal.
fn bundle_fault(since_s: u32, max_bytes: u64, seal_for: &str) -> Option<String> {
    /// A public key of age has 62 signs.
    const KEY_MAX: usize = 100;
    if since_s == 0 || Duration::from_secs(since_s.into()) > BUNDLE_SINCE_MAX {
        return Some(format!(
            "a bundle has logs of the last 1 s to {} days, not of {since_s} s",
            BUNDLE_SINCE_MAX.as_secs() / 86_400
        ));
    }
    if !(BUNDLE_BYTES_MIN..=BUNDLE_BYTES_MAX).contains(&max_bytes) {
        return Some(format!(
            "a bundle has {} to {} MiB, not {max_bytes} bytes",
            BUNDLE_BYTES_MIN >> 20,
            BUNDLE_BYTES_MAX >> 20
        ));
    }
    let is_key = seal_for.starts_with("age1")
        && seal_for.len() <= KEY_MAX
        && seal_for.bytes().all(|b| b.is_ascii_alphanumeric());
    (!is_key).then(|| "the key to seal the bundle for is not an age public key (age1…)".to_owned())
}

impl std::fmt::Display for OperationKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())?;
        match self {
            Self::Restart { unit } => write!(f, " {unit}"),
            Self::Rotate { certificate } => write!(f, " {}", certificate.dir()),
            Self::LogLevel {
                program,
                level,
                for_s,
            } => {
                write!(f, " of {program} to {level} for {for_s} s")
            }
            Self::Bundle {
                since_s, max_bytes, ..
            } => write!(f, " of {since_s} s, at most {max_bytes} bytes"),
            Self::Logs {
                since_s,
                until_s,
                lines,
                max_bytes,
                ..
            } => write!(
                f,
                " from {since_s} s to {until_s} s ago, at most {lines} lines of each and {max_bytes} bytes"
            ),
            Self::Ping | Self::ResendStatus | Self::RunChecks | Self::Backup => Ok(()),
        }
    }
}

impl OurUnit {
    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
            Self::Containerd => "containerd",
            Self::Comms => "comms",
            Self::Hostagent => "hostagent",
        }
    }
}

impl std::fmt::Display for OurUnit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Display for LogOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hostagent => "hostagent",
            Self::Nodelet => "nodelet",
        })
    }
}

impl LogLevel {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

impl std::fmt::Display for LogLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Outcome {
    /// Done, with words that fit.
    pub fn done(said: impl Into<String>) -> Self {
        let mut said: String = said.into();
        said.truncate(said.floor_char_boundary(SAID_MAX));
        Self::Done { said }
    }

    /// The word, for kinds of events.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Done { .. } => "done",
            Self::Refused { .. } => "refused",
            Self::Failed { .. } => "failed",
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done { said } => write!(f, "done: {said}"),
            Self::Refused { fault } => write!(f, "refused: {fault}"),
            Self::Failed { fault } => write!(f, "failed: {fault}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_closed_and_every_word_is_one_of_it() {
        let all = [
            OperationKind::Ping,
            OperationKind::ResendStatus,
            OperationKind::RunChecks,
            OperationKind::Restart {
                unit: OurUnit::Kubelet,
            },
            OperationKind::Rotate {
                certificate: CertPurpose::KubeletServer,
            },
            OperationKind::Backup,
            OperationKind::LogLevel {
                program: LogOf::Nodelet,
                level: LogLevel::Debug,
                for_s: 60,
            },
            OperationKind::Bundle {
                since_s: 60,
                max_bytes: BUNDLE_BYTES_MAX,
                seal_for: "age1x".to_owned(),
            },
            OperationKind::Logs {
                since_s: 60,
                until_s: 0,
                lines: 10,
                max_bytes: BUNDLE_BYTES_MAX,
                seal_for: "age1x".to_owned(),
            },
        ];
        assert_eq!(
            all.each_ref().map(OperationKind::word),
            OperationKind::WORDS
        );
        for what in &all {
            let json = serde_json::to_value(what).expect("json");
            assert_eq!(json["do"], what.word());
            assert_eq!(
                serde_json::from_value::<OperationKind>(json).expect("back"),
                *what
            );
            let harmless = OperationKind::HARMLESS.contains(&what.word());
            assert_eq!(harmless, !what.changes_the_node(), "{what}");
        }
        for wrong in [
            r#"{"do": "run", "command": "sh"}"#,
            r#"{"do": "restart", "unit": "pf9-etcd.service"}"#,
            r#"{"do": "restart", "unit": "nodelet"}"#,
        ] {
            serde_json::from_str::<OperationKind>(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn a_bundle_is_bounded_and_sealed_for_somebody() {
        let bundle = |since_s, max_bytes, seal_for: &str| OperationKind::Bundle {
            since_s,
            max_bytes,
            seal_for: seal_for.to_owned(),
        };
        assert_eq!(bundle(3600, BUNDLE_BYTES_MIN, "age1qx").fault(), None);
        let month = 30 * 24 * 3600;
        for (what, words) in [
            (bundle(0, BUNDLE_BYTES_MIN, "age1qx"), "logs of the last"),
            (bundle(month + 1, BUNDLE_BYTES_MIN, "age1qx"), "30 days"),
            (bundle(1, BUNDLE_BYTES_MIN - 1, "age1qx"), "1 to 128 MiB"),
            (bundle(1, BUNDLE_BYTES_MAX + 1, "age1qx"), "1 to 128 MiB"),
            (bundle(1, BUNDLE_BYTES_MIN, ""), "not an age public key"),
            (
                bundle(1, BUNDLE_BYTES_MIN, "age1 --output /etc/x"),
                "not an age public key",
            ),
            (
                bundle(1, BUNDLE_BYTES_MIN, &format!("age1{}", "q".repeat(100))),
                "not an age public key",
            ),
        ] {
            let fault = what.fault().expect(words);
            assert!(fault.contains(words), "{fault}");
        }
    }

    #[test]
    fn logs_are_of_a_time_that_has_a_beginning_and_so_many_lines() {
        let logs = |since_s, until_s, lines| OperationKind::Logs {
            since_s,
            until_s,
            lines,
            max_bytes: BUNDLE_BYTES_MIN,
            seal_for: "age1qx".to_owned(),
        };
        assert_eq!(logs(60, 0, 1).fault(), None);
        assert_eq!(logs(60, 59, LOG_LINES_MAX).fault(), None);
        for (what, words) in [
            (logs(60, 60, 1), "must begin before it ends"),
            (logs(0, 0, 1), "must begin before it ends"),
            (logs(30 * 24 * 3600 + 1, 0, 1), "30 days"),
            (logs(60, 0, 0), "20000 lines"),
            (logs(60, 0, LOG_LINES_MAX + 1), "20000 lines"),
        ] {
            let fault = what.fault().expect(words);
            assert!(fault.contains(words), "{fault}");
        }
    }
}
