//! The key that root orders with: offered, lost, unusable.

use super::*;
use crate::identity::order_key;

/// The plane may have pinned it, and then the machine is that host to it, whatever others it was to be meanwhile.
#[tokio::test]
async fn a_key_that_a_killed_run_offered_outlives_another_host_that_is_refused() {
    for damaged in [false, true] {
        let rig = Rig::new();
        rig.daemons(up());
        if damaged {
            rig.file(paths::ORDER_KEY, "damaged");
        }
        let first = HostId::random();
        order_key::offer(&rig.host, first).expect("offered");
        let at = format!("{}/{first}.json", paths::ORDER_KEYS_OFFERED);
        let key = rig.host.read(&at, 4096).expect("read");
        let refusing = Plane::start(refused_token(FaultCode::TokenUsed, "used")).await;
        rig.token(&refusing.token);
        let before = rig.files();
        let other = HostId::random().to_string();
        for line in [&["--host-id", other.as_str()][..], &[]] {
            let ran = rig.prep(&refusing.url, &refusing.token, line).await;
            assert_eq!(ran.exit, Exit::Refused, "{}", ran.text);
            assert_eq!(rig.files(), before, "{line:?}");
        }
        let plane = Plane::start(Manner::Accept).await;
        let ran = rig.prep(&plane.url, &plane.token, &[]).await;
        assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
        let id = crate::identity::host_id(&rig.host).expect("id");
        assert_eq!(id, Some(first));
        assert_eq!(rig.host.read(paths::ORDER_KEY, 4096).expect("read"), key);
        assert_eq!(rig.host.read(&at, 4096).expect("read"), None);
    }
}

/// Killed between making a key and enrolling with it, it is not what the plane knows.
#[tokio::test]
async fn a_host_that_lost_its_key_enrols_again_after_a_killed_run() {
    let rig = Rig::new();
    let plane = Plane::start(Manner::Accept).await;
    rig.daemons(up());
    assert_eq!(rig.prep(&plane.url, &plane.token, &[]).await.exit, Exit::Ok);
    let id = crate::identity::host_id(&rig.host).expect("id");
    let id = id.expect("a host");
    rig.host.remove_file(paths::ORDER_KEY).expect("lost");
    order_key::offer(&rig.host, id).expect("offered");
    let at = format!("{}/{id}.json", paths::ORDER_KEYS_OFFERED);
    let key = rig.host.read(&at, 4096).expect("read");
    assert!(order_key::fault(&rig.host, id).is_some(), "it is told");
    let ran = rig.prep(&plane.url, &plane.token, &[]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert!(ran.text.contains("it enrols again"), "{}", ran.text);
    assert_eq!(rig.host.read(paths::ORDER_KEY, 4096).expect("read"), key);
    assert_eq!(order_key::fault(&rig.host, id), None);
}

/// Files lost by mistake: the host id, the trust anchors. And an unusable key is not lost by an attempt that is
/// refused.
#[tokio::test]
async fn what_is_lost_of_an_identity_comes_back_and_a_refused_try_loses_nothing() {
    let rig = Rig::new();
    let plane = Plane::start(Manner::Accept).await;
    rig.daemons(up());
    assert_eq!(rig.prep(&plane.url, &plane.token, &[]).await.exit, Exit::Ok);
    let id = crate::identity::host_id(&rig.host).expect("id");
    let key = rig.host.read(paths::ORDER_KEY, 4096).expect("read");
    rig.host.remove_file(paths::HOST_ID).expect("lost");
    let ran = rig.prep(&plane.url, &plane.token, &[]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert_eq!(crate::identity::host_id(&rig.host).expect("id"), id);
    assert_eq!(rig.host.read(paths::ORDER_KEY, 4096).expect("read"), key);

    let keys = rig.host.list(paths::TRUST_DIR).expect("list");
    for name in keys.iter().filter(|n| n.ends_with(".json")) {
        let path = format!("{}/{name}", paths::TRUST_DIR);
        rig.host.remove_file(path).expect("lost");
    }
    let ran = rig.prep(&plane.url, &plane.token, &[]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    let words = "it has no trust anchor: it enrols again";
    assert!(ran.text.contains(words), "{}", ran.text);
    assert!(!crate::identity::trust(&rig.host).expect("trust").is_empty());

    let readable = crate::host::fs::Attrs::mode(0o644);
    let bytes = key.expect("there");
    rig.host
        .write(paths::ORDER_KEY, &bytes, &readable)
        .expect("write");
    let refusing = Plane::start(refused_token(FaultCode::TokenUsed, "used")).await;
    rig.token(&refusing.token);
    let before = rig.files();
    let ran = rig.prep(&refusing.url, &refusing.token, &["--force"]).await;
    assert_eq!(ran.exit, Exit::Refused, "{}", ran.text);
    assert_eq!(rig.files(), before, "the key that the plane knows is there");
}
