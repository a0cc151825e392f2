//! `current` and `last-good`: which version runs, and which one was proven here.

use std::fmt;

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::host::fs::{Found, FsError, HostFs};
use crate::model::paths;

/// Longest name of a version's directory.
const NAME_MAX: usize = 64;

/// The name of a version's directory below [`paths::AGENT_PROGRAMS`]: never a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Name(String);

impl Name {
    /// Where this version is.
    pub(super) fn of(version: &Version) -> Self {
        Self(version.to_string())
    }

    /// A name as a link has it; none where it leads elsewhere.
    fn parse(target: &str) -> Option<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
        let good = !target.is_empty() && target.len() <= NAME_MAX && target.chars().all(plain);
        (good && target != "." && target != "..").then(|| Self(target.to_owned()))
    }

    /// Its directory.
    pub(super) fn dir(&self) -> String {
        format!("{}/{}", paths::AGENT_PROGRAMS, self.0)
    }

    /// One of its programs.
    pub(super) fn program(&self, name: &str) -> String {
        format!("{}/bin/{name}", self.dir())
    }

    /// Its units.
    pub(super) fn units(&self) -> String {
        format!("{}/units", self.dir())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a link leads; none where it is none, or is no version's.
pub(super) fn read(fs: &HostFs, link: &str) -> Option<Name> {
    match fs.found(link) {
        Ok(Found::Link(target)) => Name::parse(target.to_str()?),
        Ok(Found::Nothing | Found::File { .. } | Found::Dir { .. } | Found::Other) | Err(_) => None,
    }
}

/// Lets it lead there, in one rename that is on the disk before this returns.
pub(super) fn point(fs: &HostFs, link: &str, to: &Name) -> Result<(), FsError> {
    fs.link(link, &to.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_names_a_directory_beside_it_and_nothing_else() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        assert_eq!(read(&fs, paths::AGENT_CURRENT), None);
        for (target, known) in [
            ("1.2.3", true),
            ("1.2.3-rc.1+b", true),
            (".kept", true),
            ("..", false),
            ("/etc", false),
            ("1.2.3/bin", false),
            ("", false),
        ] {
            if !target.is_empty() {
                fs.link(paths::AGENT_CURRENT, target).expect("link");
                assert_eq!(read(&fs, paths::AGENT_CURRENT).is_some(), known, "{target}");
            }
        }
        let name = Name::of(&Version::new(1, 2, 3));
        point(&fs, paths::AGENT_LAST_GOOD, &name).expect("point");
        assert_eq!(read(&fs, paths::AGENT_LAST_GOOD), Some(name.clone()));
        assert_eq!(name.program("pf9ctl"), "/opt/pf9/agent/1.2.3/bin/pf9ctl");
    }
}
