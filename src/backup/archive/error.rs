//! [`ArchiveError`]: each way in which an archive does not do what it should, as text.

use std::path::PathBuf;

use crate::host::fs::FsError;
use crate::host::space;
use crate::model::{ArchiveTarget, Fault, FaultCode, paths};
use crate::telemetry::chain;

/// Why an archive did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The policy cannot be meant so.
    #[error("the policy is wrong: {0}")]
    Policy(String),
    /// The file of credentials cannot be used.
    #[error("{path}: {why}", path = paths::ETCD_ARCHIVE_CREDENTIALS)]
    Credentials {
        /// Why.
        why: String,
    },
    /// What should be mounted is not.
    #[error("nothing is mounted at {mount}")]
    NotMounted {
        /// Where.
        mount: String,
    },
    /// The service does not know the key, or the key may not do this.
    #[error("the service refuses the credentials: {said}")]
    Denied {
        /// Its words.
        said: String,
    },
    /// The two clocks are too far apart for signatures.
    #[error(
        "this machine's clock is {seconds} s {} that of the service",
        if *ahead { "ahead of" } else { "behind" }
    )]
    Clock {
        /// How far.
        seconds: u64,
        /// Ours is later.
        ahead: bool,
    },
    /// There is no such bucket.
    #[error("there is no bucket {bucket}")]
    NoBucket {
        /// Its name.
        bucket: String,
    },
    /// The bucket is elsewhere.
    #[error("the bucket is not in region {asked}{}", there.as_ref().map(|t| format!(" but in {t}")).unwrap_or_default())]
    OtherRegion {
        /// What the policy says.
        asked: String,
        /// Where it is, as the service says: a region, or the address to ask.
        there: Option<String>,
    },
    /// The service's certificate is not trusted.
    #[error("its certificate is not trusted: {why}")]
    Foreign {
        /// Why.
        why: String,
    },
    /// The service cannot be reached, or the connection broke off.
    #[error("{why}")]
    Away {
        /// Why; without the address, which is signed.
        why: String,
    },
    /// The service asks to come later.
    #[error("the service is unavailable: {said}")]
    Busy {
        /// Its words.
        said: String,
    },
    /// It takes longer than it may.
    #[error("it took longer than {seconds} s")]
    Slow {
        /// The bound.
        seconds: u64,
    },
    /// The archive takes no more.
    #[error("it is full: {said}")]
    Full {
        /// Its words.
        said: String,
    },
    /// There is no such file.
    #[error("{file} is missing")]
    Missing {
        /// Its name.
        file: String,
    },
    /// A started upload is no longer known.
    #[error("the service no longer knows the upload")]
    UploadGone,
    /// The file differs from the one that was written.
    #[error("{file} is invalid: {why}")]
    Damaged {
        /// Its name.
        file: String,
        /// In what.
        why: String,
    },
    /// Nobody who is trusted signed what is there.
    #[error("{}", .0.why)]
    Unsigned(Box<Fault>),
    /// The service answered what cannot be used.
    #[error("the service answered {said}")]
    Answer {
        /// What.
        said: String,
    },
    /// A local file.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A local file, too.
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl ArchiveError {
    /// Trying again can help, without a person.
    pub fn passes(&self) -> bool {
        match self {
            Self::Away { .. } | Self::Busy { .. } | Self::Slow { .. } => true,
            Self::Policy(_)
            | Self::Credentials { .. }
            | Self::NotMounted { .. }
            | Self::Denied { .. }
            | Self::Clock { .. }
            | Self::NoBucket { .. }
            | Self::OtherRegion { .. }
            | Self::Foreign { .. }
            | Self::Full { .. }
            | Self::Missing { .. }
            | Self::UploadGone
            | Self::Damaged { .. }
            | Self::Unsigned(_)
            | Self::Answer { .. }
            | Self::Io { .. }
            | Self::Fs(_) => false,
        }
    }

    /// It says nothing of other hosts' places: a key may be for one of them alone, and a directory may be damaged.
    pub(super) fn is_of_one_place(&self) -> bool {
        match self {
            Self::Denied { .. }
            | Self::Missing { .. }
            | Self::Damaged { .. }
            | Self::Unsigned(_)
            | Self::Answer { .. }
            | Self::Io { .. }
            | Self::Fs(_) => true,
            Self::Policy(_)
            | Self::Credentials { .. }
            | Self::NotMounted { .. }
            | Self::Clock { .. }
            | Self::NoBucket { .. }
            | Self::OtherRegion { .. }
            | Self::Foreign { .. }
            | Self::Away { .. }
            | Self::Busy { .. }
            | Self::Slow { .. }
            | Self::Full { .. }
            | Self::UploadGone => false,
        }
    }

    /// The error as a fault: `what` did not happen at `target`.
    pub fn fault(&self, target: &ArchiveTarget, what: &str) -> Fault {
        let (code, fix) = self.code_and_fix();
        Fault::new(code, format!("{what} ({target})"), chain(self)).fix(fix)
    }

    fn code_and_fix(&self) -> (FaultCode, String) {
        let (code, fix) = match self {
            Self::Policy(_) => (
                FaultCode::EtcdArchiveInvalid,
                "correct the archive in the cluster's settings",
            ),
            Self::Credentials { .. } => {
                return (FaultCode::EtcdArchiveCredentials, credentials_fix());
            }
            Self::NotMounted { .. } => (
                FaultCode::EtcdArchiveNotMounted,
                "mount it; until then backups are on this machine's disk only",
            ),
            Self::Denied { .. } => return (FaultCode::EtcdArchiveDenied, denied_fix()),
            Self::Clock { .. } => (
                FaultCode::EtcdArchiveClock,
                "set the clock of this machine (chrony or systemd-timesyncd)",
            ),
            Self::NoBucket { .. } => (
                FaultCode::EtcdArchiveNoBucket,
                "make the bucket, or correct its name, the endpoint or path_style in the cluster's settings",
            ),
            Self::OtherRegion { .. } => (
                FaultCode::EtcdArchiveOtherRegion,
                "correct region and endpoint in the cluster's settings",
            ),
            Self::Foreign { .. } => (
                FaultCode::EtcdArchiveForeignCertificate,
                "name the file with the service's authority as `authority` in the cluster's settings, or correct \
                 the endpoint; a proxy that inspects TLS cannot be used",
            ),
            Self::Away { .. } | Self::Busy { .. } | Self::Slow { .. } => (
                FaultCode::EtcdArchiveAway,
                "check the endpoint and the path to it; it is retried automatically",
            ),
            Self::Full { .. } => (
                FaultCode::EtcdArchiveFull,
                "enlarge the archive, or lower keep or max_bytes in the cluster's settings",
            ),
            Self::Missing { .. } => (
                FaultCode::EtcdArchiveMissing,
                "list what is there and name one of these",
            ),
            Self::Damaged { .. } => (
                FaultCode::EtcdArchiveDamaged,
                "use another backup; this one was changed or truncated in the archive",
            ),
            Self::Unsigned(fault) => return (fault.code, fault.fix.clone()),
            Self::UploadGone | Self::Answer { .. } => (
                FaultCode::EtcdArchiveFailed,
                "check that the endpoint is an S3-compatible service",
            ),
            Self::Io { source, .. } => return disk(source),
            Self::Fs(error) => return disk(&error.source),
        };
        (code, fix.to_owned())
    }
}

fn disk(error: &std::io::Error) -> (FaultCode, String) {
    match space::is_full(error) {
        true => (FaultCode::DiskFull, space::FIX.to_owned()),
        false => (
            FaultCode::EtcdArchiveFailed,
            "check the directory and its mount".to_owned(),
        ),
    }
}

fn credentials_fix() -> String {
    let path = paths::ETCD_ARCHIVE_CREDENTIALS;
    format!(
        "write the lines aws_access_key_id = … and aws_secret_access_key = … into {path}, then chown root {path} && chmod 0600 {path}"
    )
}

fn denied_fix() -> String {
    format!(
        "check the key in {} and that it may list, get, put and delete objects and list and abort uploads in the bucket",
        paths::ETCD_ARCHIVE_CREDENTIALS
    )
}
