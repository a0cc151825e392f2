//! The version of the agent that a spec orders, on a host without a role.

use pf9_hostagent::agent;
use pf9_hostagent::host::fs::Attrs;
use pf9_hostagent::model::{
    AgentPackage, AgentSpec, AgentStage, Assignment, Digest, DocumentKind, Generation, PackageFile,
    PackageFormat,
};

use super::fixture::Bed;

/// Its package is fetched, even if the line breaks in the middle; nodelet, which such a host does not otherwise need,
/// gets the spec and is woken; the plane learns what is being waited for.
#[tokio::test]
async fn the_package_is_fetched_and_nodelet_woken_on_a_host_without_a_role() {
    let bed = Bed::new();
    let list = "/var/lib/dpkg/info/pf9-hostagent.list";
    bed.fs.write(list, b"", &Attrs::mode(0o644)).expect("list");
    let package = vec![7; 50_000];
    let file = PackageFile {
        format: PackageFormat::Deb,
        arch: agent::arch().into(),
        sha256: Digest::of(&package),
        bytes: package.len() as u64,
        path: format!("v1/agents/{}/package", Digest::of(&package)),
    };
    let version = semver::Version::new(9, 9, 9);
    let mut spec = bed.spec(1, Assignment::None);
    spec.agent = Some(AgentSpec {
        generation: Generation(4),
        target: AgentPackage {
            version: version.clone(),
            packages: vec![file.clone()],
            security: false,
        },
        previous: None,
        prove_within_seconds: 60,
    });
    bed.plane.change(|p| {
        p.archives.insert(file.sha256, package.clone());
        p.cuts = vec![20_000];
    });
    let _agent = bed.start().await;
    let bytes = serde_json::to_vec(&spec).expect("json");
    bed.plane.offer(bed.key.sign(DocumentKind::Spec, &bytes));
    bed.node.until(|n| n.specs.first().map(drop)).await;
    bed.node.until(|n| (n.wakes > 0).then_some(())).await;
    let staged = bed.fs.at(agent::staged(&file));
    bed.plane
        .until(|p| (p.ranges.len() == 2).then_some(()))
        .await;
    while std::fs::read(&staged).ok().as_ref() != Some(&package) {
        tokio::task::yield_now().await;
    }
    assert_eq!(bed.plane.read(|p| p.ranges.clone()), [None, Some(20_000)]);
    let said = bed
        .plane
        .until(|p| {
            let last = p.statuses.last()?;
            (last.agent.generation == Generation(4)).then(|| last.agent.clone())
        })
        .await;
    assert_eq!(said.stage, AgentStage::Fetching, "nobody has taken it up");
    assert_eq!(said.wanted, Some(version));
}
