//! The agent itself: which version a host is to run, and how far it says it is.
//!
//! A host gets its version in its signed spec ([`AgentSpec`]), node or not, and reports in its status what became of it
//! ([`AgentStatus`]). The previous version's package goes along: a rollback gives the machine's package database what
//! it had.

use std::ops::RangeInclusive;

use semver::Version;
use serde::{Deserialize, Serialize};

use super::stack::is_clean_relative;
use super::{Digest, Fault, Generation};

/// Packages of one version: two formats for two architectures.
pub const AGENT_PACKAGES_MAX: usize = 4;
/// Most bytes of a package. One has some 30 MB.
pub const AGENT_PACKAGE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Longest text of a version: it names directories.
pub const AGENT_VERSION_MAX: usize = 64;
/// Longest path of a package on the plane.
const PATH_MAX: usize = 200;
/// What nothing is said of.
const DEFAULT_PROVE_S: u32 = 300;

/// Which version of the agent a host is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSpec {
    /// Rises with every order: attempts are counted for one, and who gave one up waits for the next.
    pub generation: Generation,
    /// What it is to run.
    pub target: AgentPackage,
    /// What it runs when it gets this: the version to roll back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<AgentPackage>,
    /// Seconds that the new one has, once it is switched to, to show that it is well.
    #[serde(default = "default_prove_s")]
    pub prove_within_seconds: u32,
}

/// One version of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentPackage {
    /// Which.
    pub version: Version,
    /// Its packages; a host takes the one for it.
    pub packages: Vec<PackageFile>,
    /// It mends a fault of security: fleets whose policy says so go there at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub security: bool,
}

/// One package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageFile {
    /// For which package manager.
    pub format: PackageFormat,
    /// For which machines: `amd64`, `arm64` (in these words for both formats).
    pub arch: String,
    /// SHA-256 of the whole file.
    pub sha256: Digest,
    /// Size of the file.
    pub bytes: u64,
    /// Where the plane serves it, below the service that stacks are fetched from; e.g. `v1/agents/1f…/package`.
    pub path: String,
}

/// Whose package it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageFormat {
    /// dpkg's.
    Deb,
    /// rpm's.
    Rpm,
}

/// How far the agent of a host is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// What runs and says this; absent from an agent that cannot change itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// How far it is with the order.
    #[serde(default)]
    pub stage: AgentStage,
    /// What the order asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Version>,
    /// Which order the rest speaks of; 0: of none.
    #[serde(default)]
    pub generation: Generation,
    /// How often the switch was started for it.
    #[serde(default)]
    pub attempts: u32,
    /// Why it was put back or refused, or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Fault>,
    /// What the machine's link names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Version>,
    /// What was last proven here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<Version>,
    /// Whether the machine's package database says the same.
    #[serde(default)]
    pub database: PackageDatabase,
}

/// How far a host is with its newest order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum AgentStage {
    /// There is none.
    #[default]
    Idle,
    /// The package is on its way.
    Fetching,
    /// It is fetched, verified, and unpacked beside the one that runs.
    Ready,
    /// The link is changed, programs are restarted.
    Switching,
    /// The new one runs, and has to show that it is well.
    Proving,
    /// It is well.
    Proven,
    /// It was not: the one before runs again.
    PutBack,
    /// Nothing was changed.
    Refused,
}

/// What the machine's package database says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum PackageDatabase {
    /// The version that runs.
    #[default]
    Agrees,
    /// Still another one; the order comes later.
    Pending {
        /// What stands in the way.
        why: String,
    },
}

// === impl AgentSpec ===

impl AgentSpec {
    /// Seconds that a new version may take to be proven. A tunnel that comes back and one sweep take some ten;
    /// more than an hour helps none.
    pub const PROVE_S: RangeInclusive<u32> = 30..=3600;

    /// What is wrong with it: the field, and why.
    pub fn fault(&self) -> Option<(String, String)> {
        let s = self.prove_within_seconds;
        if !Self::PROVE_S.contains(&s) {
            let why = format!(
                "{s} s, between {} and {}",
                Self::PROVE_S.start(),
                Self::PROVE_S.end()
            );
            return Some(("prove_within_seconds".into(), why));
        }
        let named = [
            ("target", Some(&self.target)),
            ("previous", self.previous.as_ref()),
        ];
        for (name, package) in named {
            if let Some((field, why)) = package.and_then(AgentPackage::fault) {
                return Some((format!("{name}.{field}"), why));
            }
        }
        let same = self
            .previous
            .as_ref()
            .is_some_and(|p| p.version == self.target.version);
        let why = || format!("{} is the version it is to run", self.target.version);
        same.then(|| ("previous.version".into(), why()))
    }
}

// === impl AgentPackage ===

impl AgentPackage {
    /// The package for a machine.
    pub fn file(&self, format: PackageFormat, arch: &str) -> Option<&PackageFile> {
        self.packages
            .iter()
            .find(|p| p.format == format && p.arch == arch)
    }

    fn fault(&self) -> Option<(String, String)> {
        if let Some(why) = agent_version_fault(&self.version) {
            return Some(("version".into(), why));
        }
        let count = self.packages.len();
        if count == 0 || count > AGENT_PACKAGES_MAX {
            let why = format!("{count} entries, between 1 and {AGENT_PACKAGES_MAX}");
            return Some(("packages".into(), why));
        }
        for (i, file) in self.packages.iter().enumerate() {
            let at = |field: &str| format!("packages[{i}].{field}");
            if let Some((field, why)) = file.fault() {
                return Some((at(field), why));
            }
            let first = self.file(file.format, &file.arch);
            if first.is_some_and(|f| !std::ptr::eq(f, file)) {
                let why = format!("a second {} for {}", file.format.as_str(), file.arch);
                return Some((at("format"), why));
            }
        }
        None
    }
}

/// What keeps a version from being one of the agent: its text is the name of a directory.
pub fn agent_version_fault(version: &Version) -> Option<String> {
    let text = version.to_string();
    if text.len() > AGENT_VERSION_MAX {
        return Some(format!(
            "{} characters, at most {AGENT_VERSION_MAX}",
            text.len()
        ));
    }
    // Two builds of one version compare as equals; which of them is meant could not be said.
    (!version.build.is_empty()).then(|| format!("{text} names a build; a version is one content"))
}

// === impl PackageFile ===

impl PackageFile {
    fn fault(&self) -> Option<(&'static str, String)> {
        if !["amd64", "arm64"].contains(&self.arch.as_str()) {
            let arch: String = self.arch.chars().take(32).collect();
            return Some(("arch", format!("{arch:?} is neither amd64 nor arm64")));
        }
        if self.bytes == 0 || self.bytes > AGENT_PACKAGE_BYTES_MAX {
            let why = format!("{}, between 1 and {AGENT_PACKAGE_BYTES_MAX}", self.bytes);
            return Some(("bytes", why));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._+/".contains(&b);
        let ok = self.path.len() <= PATH_MAX
            && self.path.bytes().all(plain)
            && is_clean_relative(&self.path);
        let path: String = self.path.chars().take(PATH_MAX).collect();
        (!ok).then(|| {
            (
                "path",
                format!("{path:?} is not a path below the plane's service"),
            )
        })
    }
}

impl PackageFormat {
    /// The package format of a distribution; none where it is unknown. By the word `ID` of `os-release`.
    pub fn of_os(os_id: &str) -> Option<Self> {
        match os_id {
            "debian" | "ubuntu" => Some(Self::Deb),
            "almalinux" | "centos" | "fedora" | "ol" | "rhel" | "rocky" => Some(Self::Rpm),
            _ => None,
        }
    }

    /// The word in documents, and the ending of its files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
        }
    }
}

// === impl AgentStage ===

impl AgentStage {
    /// The order is done with, well or not.
    pub fn is_over(self) -> bool {
        match self {
            Self::Idle | Self::Proven | Self::PutBack | Self::Refused => true,
            Self::Fetching | Self::Ready | Self::Switching | Self::Proving => false,
        }
    }

    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Fetching => "fetching",
            Self::Ready => "ready",
            Self::Switching => "switching",
            Self::Proving => "proving",
            Self::Proven => "proven",
            Self::PutBack => "put-back",
            Self::Refused => "refused",
        }
    }
}

fn default_prove_s() -> u32 {
    DEFAULT_PROVE_S
}

#[cfg(test)]
pub(in crate::model) mod tests {
    use super::*;
    use crate::model::FaultCode;

    pub(in crate::model) fn package(version: Version) -> AgentPackage {
        AgentPackage {
            version,
            packages: vec![PackageFile {
                format: PackageFormat::Deb,
                arch: "amd64".into(),
                sha256: Digest([7; 32]),
                bytes: 1,
                path: "v1/agents/7/package".into(),
            }],
            security: true,
        }
    }

    /// Everything that an order can say.
    pub(in crate::model) fn spec() -> AgentSpec {
        AgentSpec {
            generation: Generation(3),
            target: package(Version::new(0, 2, 0)),
            previous: Some(package(Version::new(0, 1, 0))),
            prove_within_seconds: 120,
        }
    }

    /// Everything that a host can say.
    pub(in crate::model) fn status() -> AgentStatus {
        AgentStatus {
            version: Some(Version::new(0, 1, 0)),
            stage: AgentStage::PutBack,
            wanted: Some(Version::new(0, 2, 0)),
            generation: Generation(3),
            attempts: 2,
            why: Some(Fault::new(FaultCode::DiskFull, "what", "why").fix("fix")),
            current: Some(Version::new(0, 1, 0)),
            last_good: Some(Version::new(0, 1, 0)),
            database: PackageDatabase::Pending { why: "why".into() },
        }
    }

    #[test]
    fn an_order_is_bounded_and_names_its_fields() {
        let field = |change: &dyn Fn(&mut AgentSpec)| {
            let mut spec = spec();
            change(&mut spec);
            spec.fault().map(|(field, _)| field)
        };
        let file = |change: &dyn Fn(&mut PackageFile)| {
            field(&|s: &mut AgentSpec| s.target.packages.iter_mut().for_each(change))
        };
        assert_eq!(field(&|_| {}), None);
        assert_eq!(field(&|s| s.previous = None), None);
        let wrong = |name: &str| Some(name.to_owned());
        assert_eq!(
            field(&|s| s.prove_within_seconds = 29),
            wrong("prove_within_seconds")
        );
        assert_eq!(
            field(&|s| s.prove_within_seconds = 3601),
            wrong("prove_within_seconds")
        );
        assert_eq!(
            field(&|s| s.target.packages.clear()),
            wrong("target.packages")
        );
        let twice = |s: &mut AgentSpec| {
            s.target
                .packages
                .extend(package(Version::new(1, 0, 0)).packages)
        };
        assert_eq!(field(&twice), wrong("target.packages[1].format"));
        let five = |s: &mut AgentSpec| {
            let one = s.target.packages.clone();
            (0..4).for_each(|_| s.target.packages.extend(one.clone()));
        };
        assert_eq!(field(&five), wrong("target.packages"));
        let same = |s: &mut AgentSpec| s.previous = Some(s.target.clone());
        assert_eq!(field(&same), wrong("previous.version"));
        let long = |s: &mut AgentSpec| {
            s.target.version = format!("1.0.0-{}", "a".repeat(64))
                .parse()
                .expect("version");
        };
        assert_eq!(field(&long), wrong("target.version"));
        let build = |s: &mut AgentSpec| s.target.version = "1.0.0+2".parse().expect("version");
        assert_eq!(field(&build), wrong("target.version"));
        let none = |s: &mut AgentSpec| s.previous.iter_mut().for_each(|p| p.packages.clear());
        assert_eq!(field(&none), wrong("previous.packages"));
        assert_eq!(
            file(&|f| f.arch = "x86_64".into()),
            wrong("target.packages[0].arch")
        );
        assert_eq!(file(&|f| f.bytes = 0), wrong("target.packages[0].bytes"));
        let large = |f: &mut PackageFile| f.bytes = AGENT_PACKAGE_BYTES_MAX + 1;
        assert_eq!(file(&large), wrong("target.packages[0].bytes"));
        let long = "a".repeat(PATH_MAX + 1);
        for path in ["", "/v1/x", "v1/../x", "v1/x?y", "v1//x", "http://x", &long] {
            let path_is = |f: &mut PackageFile| f.path = path.into();
            assert_eq!(file(&path_is), wrong("target.packages[0].path"), "{path}");
        }
    }

    #[test]
    fn an_agent_that_knows_nothing_of_it_is_idle() {
        let nothing: AgentStatus = serde_json::from_str("{}").expect("read");
        assert_eq!(nothing, AgentStatus::default());
        assert!(nothing.stage.is_over());
    }

    #[test]
    fn words_are_those_of_the_documents() {
        let stages = [
            AgentStage::Idle,
            AgentStage::Fetching,
            AgentStage::Ready,
            AgentStage::Switching,
            AgentStage::Proving,
            AgentStage::Proven,
            AgentStage::PutBack,
            AgentStage::Refused,
        ];
        for stage in stages {
            let word = serde_json::to_value(stage).expect("json");
            assert_eq!(word, serde_json::json!(stage.as_str()));
        }
        for format in [PackageFormat::Deb, PackageFormat::Rpm] {
            let word = serde_json::to_value(format).expect("json");
            assert_eq!(word, serde_json::json!(format.as_str()));
        }
    }
}
