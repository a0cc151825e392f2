//! What the machine is: `os-release`.

use std::collections::BTreeMap;

use super::fs::{FsError, HostFs};

/// The file is a dozen lines everywhere.
const OS_RELEASE_MAX: u64 = 64 * 1024;

/// `os-release`, as far as it is of use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OsRelease {
    /// `ID`, e.g. `debian`.
    pub id: String,
    /// `VERSION_ID`, e.g. `12`.
    pub version: String,
    /// `PRETTY_NAME`.
    pub pretty: String,
    /// `ID_LIKE`, split.
    pub like: Vec<String>,
}

/// Reads `/etc/os-release`, or the copy below `/usr/lib`.
pub fn os_release(fs: &HostFs) -> Result<OsRelease, FsError> {
    for path in ["/etc/os-release", "/usr/lib/os-release"] {
        if let Some(text) = fs.read_text(path, OS_RELEASE_MAX)? {
            return Ok(parse(&text));
        }
    }
    Ok(OsRelease::default())
}

fn parse(text: &str) -> OsRelease {
    let fields: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|l| l.split_once('='))
        .map(|(k, v)| (k.trim(), v.trim().trim_matches(['"', '\''])))
        .collect();
    let get = |k: &str| fields.get(k).copied().unwrap_or_default().to_owned();
    OsRelease {
        id: get("ID"),
        version: get("VERSION_ID"),
        pretty: get("PRETTY_NAME"),
        like: get("ID_LIKE")
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_optional() {
        let os = parse("ID=ubuntu\nVERSION_ID=\"22.04\"\nID_LIKE=debian\nPRETTY_NAME='U 22'\n");
        assert_eq!((os.id.as_str(), os.version.as_str()), ("ubuntu", "22.04"));
        assert_eq!(
            (os.like, os.pretty.as_str()),
            (vec!["debian".to_owned()], "U 22")
        );
    }
}
