//! Orders and records for tests.

use super::links::Name;
use super::record::{Record, Stage};
use crate::model::{AgentPackage, AgentSpec, Digest, Generation, PackageFile, PackageFormat};

pub(crate) fn order(generation: u64, version: &str) -> AgentSpec {
    AgentSpec {
        generation: Generation(generation),
        target: AgentPackage {
            version: version.parse().expect("version"),
            packages: vec![PackageFile {
                format: PackageFormat::Deb,
                arch: super::arch().into(),
                sha256: Digest::of(version.as_bytes()),
                bytes: 1,
                path: format!("v1/agent/packages/{version}"),
            }],
            security: false,
        },
        previous: None,
        prove_within_seconds: 60,
    }
}

pub(in crate::agent) fn record_at(stage: Stage, generation: u64, version: &str) -> Record {
    let from = Name::of(&semver::Version::new(0, 1, 0));
    Record::new(order(generation, version), Some(from)).at(stage, None)
}
