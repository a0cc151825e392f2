use super::*;
use crate::model::{HostId, paths};

/// A prepared machine with a role that was copied.
fn copied() -> (Rig, HostId) {
    let rig = Rig::new();
    let host = HostId::random();
    crate::identity::write_host_id(&rig.host, host).expect("id");
    for path in [
        paths::HOST_KEY,
        paths::HOST_CERT,
        paths::TICKETS,
        // Of a prep-node that was interrupted before the disk was copied.
        "/etc/pf9/.before/etc/pf9/host_id.conf",
        "/etc/pf9/root/offered/6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11.json",
        "/etc/pf9/kube.d/certs/apiserver/request.key",
        "/etc/systemd/system/pf9-kubelet.service",
        "/var/opt/pf9/hostagent/spec.json",
        "/var/opt/pf9/hostagent/events/1.json",
        "/var/opt/pf9/nodelet/spec.json",
        "/var/opt/pf9/nodelet/spec.json.prev",
        "/var/opt/pf9/nodelet/ledger.json",
    ] {
        rig.file(path, "x");
    }
    for unit in super::super::context::AGENT_UNITS {
        rig.unit(unit, &["enabled", "active"]);
    }
    rig.unit("pf9-kubelet.service", &["active"]);
    (rig, host)
}

#[tokio::test]
async fn reset_stops_first_and_leaves_nothing_that_acts_as_the_other_machine() {
    let (rig, host) = copied();
    let ran = rig.run(&["identity", "reset", "--yes"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    for words in [
        " RESET ",
        "node decommission --local",
        "node prep with a new token",
    ] {
        assert!(ran.text.contains(words), "{words}: {}", ran.text);
    }
    let left: Vec<String> = rig
        .files()
        .into_keys()
        .map(|p| p.to_string_lossy().into_owned())
        .filter(|p| p.starts_with("etc/pf9/") || p.starts_with("var/"))
        .collect();
    // The ledger knows what of the role has to be removed.
    assert_eq!(
        left,
        ["etc/pf9/hostagent.toml", "var/opt/pf9/nodelet/ledger.json"]
    );
    assert!(!rig.unit_is("pf9-kubelet.service", "active"));
    for unit in super::super::context::AGENT_UNITS {
        assert!(!rig.unit_is(unit, "active"), "{unit}");
    }
    let id = crate::identity::host_id(&rig.host).expect("read");
    assert_eq!(id, None, "not {host} any more");
    // Again is fine.
    let ran = rig.run(&["identity", "reset", "--yes"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
}

#[tokio::test]
async fn nobody_to_ask_means_no_and_says_what_would_be_done() {
    let (mut rig, host) = copied();
    let files = rig.files();
    let ran = rig.run(&["identity", "reset"]).await;
    assert_eq!(ran.exit, Exit::Usage, "{}", ran.text);
    for words in ["give --yes", "stop the Kubernetes node", &host.to_string()] {
        assert!(ran.text.contains(words), "{words}: {}", ran.text);
    }
    rig.uid = 1000;
    let ran = rig.run(&["identity", "reset", "--yes"]).await;
    assert!(ran.text.contains("it needs root"), "{}", ran.text);
    assert_eq!(rig.files(), files);
}

#[tokio::test]
async fn show_says_when_the_machine_is_another() {
    let rig = Rig::new();
    std::fs::remove_dir_all(rig.host.at("/run/systemd/container")).ok();
    rig.host
        .remove_file("/run/systemd/container")
        .expect("no container");
    let host = HostId::random();
    crate::identity::write_host_id(&rig.host, host).expect("id");
    rig.file("/sys/class/dmi/id/product_uuid", "4c4c4544-0042\n");
    let marks = crate::identity::look_at_machine(&rig.host, host);
    rig.file(
        paths::MACHINE,
        &serde_json::to_string(&marks).expect("json"),
    );
    let ran = rig.run(&["identity", "show"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert!(ran.text.contains("no sign of a copy"), "{}", ran.text);
    rig.file("/sys/class/dmi/id/product_uuid", "99999999-0001\n");
    let ran = rig.run(&["identity", "show"]).await;
    assert_eq!(ran.exit, Exit::Failed, "{}", ran.text);
    for words in ["firmware UUID", "identity reset", "accept-machine"] {
        assert!(ran.text.contains(words), "{words}: {}", ran.text);
    }
    // What comms reads is what root sees.
    let ran = rig.run(&["identity", "note"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    let noted = crate::identity::this_machine(&rig.host, host);
    assert_eq!(noted, crate::identity::look_at_machine(&rig.host, host));
}
