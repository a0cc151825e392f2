//! A file system that is full stops one step in words, and nothing else.

use nix::mount::{MsFlags, mount};

use crate::host::testing::{fill_up, in_namespaces};
use crate::model::{FaultCode, PhaseId};
use crate::nodelet::phase::PhaseSteps;
use crate::nodelet::rig::{Rig, file, phase};
use crate::nodelet::run::RunEnd;

const DISK: &str = "/etc/pf9/kube.d";

fn two_phases() -> Vec<PhaseSteps> {
    vec![
        phase(PhaseId::Network, vec![file("/etc/pf9/node.env", "a")]),
        phase(
            PhaseId::Misc,
            vec![file(&format!("{DISK}/big"), &"x".repeat(100_000))],
        ),
        phase(
            PhaseId::Kubelet,
            vec![file("/etc/pf9/crictl.yaml", "after that")],
        ),
    ]
}

#[tokio::test]
async fn a_full_file_system_is_named_with_what_helps_and_the_rest_goes_on() {
    const NAME: &str = "nodelet::tests::full_disk::a_full_file_system_is_named_with_what_helps_and_the_rest_goes_on";
    if in_namespaces(NAME, &["--mount"], ":").is_none() {
        return;
    }
    let mut rig = Rig::new();
    let disk = rig.fs.at(DISK);
    std::fs::create_dir_all(&disk).expect("directory");
    let (tmpfs, size) = (Some("tmpfs"), Some("size=1m"));
    mount(tmpfs, &disk, tmpfs, MsFlags::empty(), size).expect("mount");
    let ballast = fill_up(&disk);
    let phases = two_phases();
    let RunEnd::Failed { key, fault } = rig.converge(&phases).await else {
        panic!("there was room");
    };
    assert_eq!(key, format!("file:{DISK}/big"));
    assert_eq!(fault.code, FaultCode::DiskFull, "{fault}");
    assert!(fault.what.contains(DISK), "{fault}");
    let named = format!(" on {},", disk.display());
    assert!(fault.fix.contains(&named), "{fault:?}");
    assert!(
        rig.fs.at("/etc/pf9/node.env").exists(),
        "it needs nothing of it"
    );
    assert!(!rig.fs.at("/etc/pf9/crictl.yaml").exists());
    let left = rig.fs.list(DISK).expect("list");
    assert_eq!(
        left.len(),
        1,
        "the ballast, and no half of a file: {left:?}"
    );
    drop(ballast);
    assert_eq!(rig.converge(&phases).await, RunEnd::Done, "by itself");
    assert!(rig.plan(&phases).await.is_settled());
    assert_eq!(rig.fs.list(DISK).expect("list"), ["big"]);
}
