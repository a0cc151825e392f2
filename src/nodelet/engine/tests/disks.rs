//! Disks that only root sees: each look tells them.

use super::*;
use crate::host::testing::in_namespaces;

/// etcd's disk is full long before the one that everybody sees, and hostagent cannot look at it.
#[tokio::test]
async fn a_disk_below_a_closed_directory_is_told_by_each_look() {
    const NAME: &str =
        "nodelet::engine::tests::disks::a_disk_below_a_closed_directory_is_told_by_each_look";
    if in_namespaces(NAME, &["--mount"], "mount --make-rprivate /").is_none() {
        return;
    }
    let machine = Machine::node();
    let at = machine.fs.at(paths::ETCD_DATA);
    let sh = |line: &str| {
        let mut sh = std::process::Command::new("sh");
        let status = sh.args(["-ec", line, "sh"]).arg(&at).status().expect("sh");
        assert!(status.success(), "{line}");
    };
    let mut life = machine.begin();
    let mut told = async || {
        life.engine.round().await;
        let status = life.status.borrow();
        let disks: Vec<String> = status.disks.iter().map(|d| d.path.clone()).collect();
        let of_etcd = status.warnings.iter();
        let of_etcd = of_etcd.filter(|w| w.what.contains(paths::ETCD_DATA));
        let codes: Vec<FaultCode> = of_etcd.map(|w| w.code).collect();
        (disks, codes)
    };
    let nothing = (Vec::new(), Vec::new());
    assert_eq!(told().await, nothing, "others tell that file system");
    sh("mount -t tmpfs -o size=64m none \"$1\"");
    let etcd = vec![paths::ETCD_DATA.to_owned()];
    let full = vec![FaultCode::DiskFull];
    assert_eq!(told().await, (etcd.clone(), full));
    sh("mount -o remount,size=4g \"$1\"");
    assert_eq!(told().await, (etcd, Vec::new()));
    sh("umount \"$1\"");
    assert_eq!(told().await, nothing);
}
