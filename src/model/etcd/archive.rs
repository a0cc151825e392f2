//! [`ArchivePolicy`]: where a second copy of each backup goes, and how much is kept there.

use http::Uri;
use serde::{Deserialize, Serialize};

/// The archive that backups are kept at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivePolicy {
    /// Where.
    pub target: ArchiveTarget,
    /// How many backups of each host stay there.
    #[serde(default = "ArchivePolicy::keep_default")]
    pub keep: u32,
    /// How many bytes of each host stay there; the newest backup stays whatever its size.
    #[serde(default = "ArchivePolicy::bytes_default")]
    pub max_bytes: u64,
}

/// A place outside of the machine's own disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ArchiveTarget {
    /// A directory, usually of another machine's disk.
    Dir {
        /// Absolute.
        path: String,
        /// The mount point that the directory is below, or is. While nothing is mounted there the
        /// archive is refused: its copies would go to the very disk they are to outlive.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mount: Option<String>,
    },
    /// A bucket of an S3-compatible service. The credentials are in a file that root owns on each master.
    S3 {
        /// `https://host[:port]`, without the bucket.
        endpoint: String,
        /// The region that requests are signed for; what the service calls it.
        #[serde(default = "ArchiveTarget::region_default")]
        region: String,
        /// Name of the bucket; it must be there.
        bucket: String,
        /// What every key begins with; may be empty, and may have several parts.
        #[serde(default)]
        prefix: String,
        /// `https://host/bucket/key` instead of `https://bucket.host/key`: what most services that
        /// are not Amazon's want.
        #[serde(default)]
        path_style: bool,
        /// A file of PEM certificates on the master: the only authorities trusted. Absent: those
        /// of the machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        authority: Option<String>,
    },
}

/// Most backups of one host that an archive is asked to keep: one listing of a few pages.
pub const ARCHIVE_KEEP_MAX: u32 = 10_000;
/// Longest prefix or path: keys have at most 1024 bytes, and names need less than half of that.
const PLACE_MAX: usize = 512;

// === impl ArchivePolicy ===

impl ArchivePolicy {
    /// A week of half-hours.
    fn keep_default() -> u32 {
        7 * 48
    }

    fn bytes_default() -> u64 {
        100 * 1024 * 1024 * 1024
    }

    /// With as much kept there as is usual.
    pub fn new(target: ArchiveTarget) -> Self {
        Self {
            target,
            keep: Self::keep_default(),
            max_bytes: Self::bytes_default(),
        }
    }

    /// The field that cannot be meant so, and why; with its value, which is no secret.
    pub fn check(&self) -> Result<(), Unfit> {
        if !(1..=ARCHIVE_KEEP_MAX).contains(&self.keep) {
            let why = format!("{} is not from 1 to {ARCHIVE_KEEP_MAX}", self.keep);
            return Err(("archive.keep", why));
        }
        self.target.check()
    }
}

/// A field, and why it cannot be so.
type Unfit = (&'static str, String);

// === impl ArchiveTarget ===

impl ArchiveTarget {
    /// For services that know no regions.
    pub fn region_default() -> String {
        "us-east-1".to_owned()
    }

    fn check(&self) -> Result<(), Unfit> {
        match self {
            Self::Dir { path, mount } => {
                clean_path("archive.path", path)?;
                let Some(mount) = mount else { return Ok(()) };
                clean_path("archive.mount", mount)?;
                let inside = path
                    .strip_prefix(mount.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                match inside {
                    true => Ok(()),
                    false => Err((
                        "archive.mount",
                        format!("path {path} is not below mount {mount}"),
                    )),
                }
            }
            Self::S3 {
                endpoint,
                region,
                bucket,
                prefix,
                path_style: _,
                authority,
            } => {
                clean_endpoint(endpoint).map_err(|why| ("archive.endpoint", why))?;
                // Both become part of what is signed, and of addresses.
                word("archive.region", region)?;
                word("archive.bucket", bucket)?;
                clean_prefix(prefix)?;
                authority
                    .as_ref()
                    .map_or(Ok(()), |path| clean_path("archive.authority", path))
            }
        }
    }
}

/// How a person calls it.
impl std::fmt::Display for ArchiveTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dir { path, .. } => f.write_str(path),
            Self::S3 {
                endpoint, bucket, ..
            } => write!(f, "bucket {bucket} at {endpoint}"),
        }
    }
}

fn clean_endpoint(endpoint: &str) -> Result<(), String> {
    let form = "it is https://host[:port]";
    // Looked at first: the words of other errors must never carry a password.
    if endpoint.contains('@') {
        return Err(format!("it must hold no credentials; {form}"));
    }
    let bad = |why: &str| Err(format!("{:?} {why}; {form}", clip(endpoint)));
    let Ok(uri) = endpoint.parse::<Uri>() else {
        return bad("is not an address");
    };
    if !matches!(uri.scheme_str(), Some("https" | "http")) {
        return bad("has no scheme");
    }
    if uri.host().is_none_or(str::is_empty) {
        return bad("names no host");
    }
    match uri.query().is_some() || !matches!(uri.path(), "" | "/") {
        true => bad("must have no path; the bucket and the prefix are settings of their own"),
        false => Ok(()),
    }
}

fn word(field: &'static str, text: &str) -> Result<(), Unfit> {
    let clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let fits = (1..=63).contains(&text.len()) && text.chars().all(clean);
    match fits && text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        true => Ok(()),
        false => {
            let why = format!(
                "{:?} is not 1 to 63 letters, digits, dots and dashes",
                clip(text)
            );
            Err((field, why))
        }
    }
}

/// `.` and `..` are resolved by URL parsers, so a key with them becomes another one.
fn clean_prefix(prefix: &str) -> Result<(), Unfit> {
    let part = |part: &str| {
        let clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        !matches!(part, "" | "." | "..") && part.chars().all(clean)
    };
    match prefix.is_empty() || (prefix.len() <= PLACE_MAX && prefix.split('/').all(part)) {
        true => Ok(()),
        false => {
            let why = format!(
                "{:?} is not segments of letters, digits, dots, dashes and underscores, separated by /",
                clip(prefix)
            );
            Err(("archive.prefix", why))
        }
    }
}

fn clean_path(field: &'static str, path: &str) -> Result<(), Unfit> {
    let part = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(char::is_control);
    let parts = path.strip_prefix('/').filter(|rest| !rest.is_empty());
    match parts.is_some_and(|rest| rest.len() <= PLACE_MAX && rest.split('/').all(part)) {
        true => Ok(()),
        false => {
            let why = format!(
                "{:?} is not an absolute path without . and .. and a / at its end",
                clip(path)
            );
            Err((field, why))
        }
    }
}

/// As much of it as a message shows.
fn clip(text: &str) -> String {
    const SHOWN: usize = 100;
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(change: impl FnOnce(&mut serde_json::Value)) -> Result<(), Unfit> {
        let mut value = serde_json::json!({
            "target": {"kind": "s3", "endpoint": "https://s3.example.com", "bucket": "backups"}
        });
        change(&mut value["target"]);
        let policy: ArchivePolicy = serde_json::from_value(value).expect("policy");
        policy.check()
    }

    #[test]
    fn addresses_and_names_that_would_be_others_are_refused() {
        assert_eq!(s3(|_| {}), Ok(()));
        for good in ["", "a", "clusters/berlin-1"] {
            assert_eq!(s3(|t| t["prefix"] = good.into()), Ok(()), "{good}");
        }
        for bad in ["/a", "a/", "a//b", "a/../b", ".", "a b", "ä", "a%2f"] {
            assert!(s3(|t| t["prefix"] = bad.into()).is_err(), "{bad}");
        }
        for bad in ["", "a/b", "a..%", "-a", "a b"] {
            assert!(s3(|t| t["bucket"] = bad.into()).is_err(), "{bad}");
            assert!(s3(|t| t["region"] = bad.into()).is_err(), "{bad}");
        }
        for bad in [
            "s3.example.com",
            "ftp://a",
            "https://a/b",
            "https://a?b",
            "https://",
        ] {
            assert!(s3(|t| t["endpoint"] = bad.into()).is_err(), "{bad}");
        }
        let told = s3(|t| t["endpoint"] = "https://key:hunter2@a".into()).expect_err("password");
        assert_eq!(told.0, "archive.endpoint");
        assert!(!told.1.contains("hunter2"), "{}", told.1);
        let told = s3(|t| t["bucket"] = "a/b".into()).expect_err("bucket");
        assert_eq!(
            (told.0, told.1.contains("\"a/b\"")),
            ("archive.bucket", true)
        );
    }

    #[test]
    fn a_directory_is_below_its_mount() {
        let check = |path: &str, mount: Option<&str>| {
            let (path, mount) = (path.to_owned(), mount.map(str::to_owned));
            ArchivePolicy::new(ArchiveTarget::Dir { path, mount }).check()
        };
        assert_eq!(check("/mnt/nas/etcd", None), Ok(()));
        assert_eq!(check("/mnt/nas/etcd", Some("/mnt/nas")), Ok(()));
        assert_eq!(check("/mnt/nas", Some("/mnt/nas")), Ok(()));
        assert!(check("/mnt/nas2", Some("/mnt/nas")).is_err());
        for bad in ["", "/", "mnt", "/mnt/", "/mnt/../etc", "/mnt//a"] {
            assert!(check(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_archive_keeps_something() {
        let dir = ArchiveTarget::Dir {
            path: "/mnt/nas".into(),
            mount: None,
        };
        let mut policy = ArchivePolicy::new(dir);
        for (keep, good) in [(0, false), (1, true), (ARCHIVE_KEEP_MAX + 1, false)] {
            policy.keep = keep;
            assert_eq!(policy.check().is_ok(), good, "{keep}");
        }
    }
}
