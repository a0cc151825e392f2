//! Operators in a hurry: a request repeated, concurrent, or half done costs no cluster its etcd.

use pf9_hostagent::model::{Assignment, CertPurpose, Fault, FaultCode};
use serde_json::{Value, json};

use super::bed::within;
use super::etcd::{Says, World, code};
use super::node::Node;

/// The code of a refusal of either interface.
fn refused(said: &Value) -> &str {
    said["fault"]["code"].as_str().unwrap_or(code(said))
}

#[tokio::test]
async fn of_two_concurrent_detaches_one_is_done_and_the_other_rechecked() {
    // One more may leave, and not two.
    let world = World::new(4).await;
    world.lists(0, &[0, 1, 2, 3]).await;
    world.set(3, Says::Nothing);
    let (first, second) = tokio::join!(world.detach(&[0], false), world.detach(&[1], false));
    let mut all = [(first, 0), (second, 1)];
    all.sort_by_key(|((status, _), _)| *status);
    let [((done, said), _), ((not, why), other)] = &all;
    assert_eq!(*done, 200, "{said}");
    assert_eq!(*not, 409, "{why}");
    assert!(
        ["cluster-changed", "etcd-quorum"].contains(&code(why)),
        "{why}"
    );
    // It has not left yet, and counts.
    let (status, why) = world.detach(&[*other], false).await;
    assert_eq!((status, code(&why)), (409, "etcd-quorum"), "{why}");
    let spec = world.masters[*other].current().await;
    assert!(spec.assignment.node().is_some(), "it stays what it is");
}

/// Detached while all were healthy; then another one died, and etcd needs this host, so it is held. Removing it now
/// would end its certificates, and with them the quorum.
#[tokio::test]
async fn a_leaving_master_is_removed_only_if_etcd_survives_it() {
    let world = World::new(3).await;
    world.lists(1, &[0, 1, 2]).await;
    let leaver = &world.masters[0];
    let key = rcgen::KeyPair::generate().expect("key");
    let asked = leaver
        .order(world.cluster, &key, &[CertPurpose::EtcdPeer])
        .await;
    let (status, said) = leaver.bring(&leaver.signed_order(&asked)).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(world.detach(&[0], false).await.0, 200);
    world.set(2, Says::Nothing);
    let (status, said) = world.remove(0, "").await;
    assert_eq!((status, refused(&said)), (409, "etcd-quorum"), "{said}");
    assert!(
        said["fault"]["what"]
            .as_str()
            .expect("words")
            .contains("m1 cannot leave"),
        "{said}"
    );
    assert_eq!(world.gone(1).await, [], "it takes its member out itself");
    let node = world.masters[1].current().await.assignment.node().cloned();
    let list = node.expect("node").etcd.revoked;
    // The others are healthy again: it leaves, and its certificates with it.
    world.set(2, Says::Yes);
    let (status, said) = world.remove(0, "").await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(world.gone(1).await.len(), 1, "the others take it out");
    let node = world.masters[1].current().await.assignment.node().cloned();
    assert_ne!(
        node.expect("node").etcd.revoked,
        list,
        "nothing of it is believed"
    );
}

#[tokio::test]
async fn a_held_master_leaves_after_a_second_forced_request() {
    let world = World::new(3).await;
    world.lists(1, &[0, 1, 2]).await;
    assert_eq!(world.detach(&[0], false).await.0, 200);
    world.set(2, Says::Nothing);
    let (status, said) = world.detach(&[0], false).await;
    assert_eq!((status, code(&said)), (409, "host-not-attached"), "{said}");
    let words = said["error"]["message"].as_str().expect("words");
    assert!(
        words.contains("is leaving") && words.contains("--force"),
        "{words}"
    );
    assert!(!world.masters[0].current().await.force);
    let (status, said) = world.detach(&[0], true).await;
    assert_eq!(status, 200, "{said}");
    let lost = said["lost"].as_str().expect("what is lost");
    assert!(lost.contains("loses its quorum"), "{lost}");
    let spec = world.masters[0].current().await;
    assert_eq!((spec.assignment, spec.force), (Assignment::None, true));
    let path = format!("/resmgr/v1/hosts/{}/events", world.masters[1].id);
    let events = world.bed.get(&path).await;
    let forced = events.as_array().expect("list").iter();
    assert_eq!(
        forced
            .filter(|e| e["event"]["kind"] == "forced-out")
            .count(),
        1,
        "{events}"
    );
    // Repeating it changes nothing.
    assert_eq!(world.detach(&[0], true).await.0, 200);
}

/// A removed host has no way to report, so it asks nobody whether it may leave.
#[tokio::test]
async fn a_removed_host_waits_for_nobody() {
    let mut world = World::new(3).await;
    world.lists(1, &[0, 1, 2]).await;
    assert_eq!(world.remove(0, "").await.0, 200);
    let removed = &mut world.masters[0];
    within(removed.closed()).await;
    removed.connect(&world.bed).await.expect("for its order");
    let spec = removed.current().await;
    assert_eq!((spec.assignment, spec.force), (Assignment::None, true));
    let (status, said) = world.remove(0, "").await;
    assert_eq!((status, refused(&said)), (404, "host-unknown"), "{said}");
    let (status, said) = world.remove(0, "?force=true").await;
    assert_eq!((status, refused(&said)), (404, "host-unknown"), "{said}");
    assert_eq!(world.gone(1).await.len(), 1);
    // It is counted until it is out.
    world.set(2, Says::Nothing);
    let (status, said) = world.remove(1, "").await;
    assert_eq!((status, refused(&said)), (409, "etcd-quorum"), "{said}");
}

#[tokio::test]
async fn orders_survive_a_restart_without_answering_members() {
    let mut world = World::new(3).await;
    world.lists(1, &[0, 1, 2]).await;
    world.set(2, Says::Nothing);
    assert_eq!(world.remove(2, "").await.0, 200);
    world.bed = world.bed.restart().await;
    let (status, shown) = world.bed.admin_get("/clusters/c/etcd").await;
    assert_eq!(status, 200, "{shown}");
    let members = shown["members"].as_array().expect("list");
    let state = |name: &str| {
        let member = members.iter().find(|m| m["name"] == name);
        member.map(|m| m["state"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(state("m3").as_deref(), Some("taken-out"), "{shown}");
    // A plane that has just started has no reports: nobody may leave on that basis.
    for force in [false, true] {
        let hosts = json!({"hosts": [world.masters[0].id], "force": force});
        let (status, said) = world.bed.admin("/clusters/c/detach", hosts).await;
        match force {
            false => assert_eq!(
                (status, said["code"].as_str()),
                (409, Some("etcd-quorum")),
                "{said}"
            ),
            true => assert_eq!(status, 200, "{said}"),
        }
    }
}

#[tokio::test]
async fn a_substitute_of_the_same_name_and_address_waits_until_the_dead_one_is_out() {
    let mut world = World::new(3).await;
    world.lists(1, &[0, 1, 2]).await;
    world.set(2, Says::Nothing);
    let dead = world.masters[2].id;
    assert_eq!(world.remove(2, "").await.0, 200);
    world.enrol_as("m3", "10.1.0.3").await;
    let new: &Node = world.masters.last().expect("it is there");
    let (status, said) = world.bed.attach(world.cluster, &[(new, true)]).await;
    assert_eq!(status, 200, "{said}");
    let spec = new.current().await;
    let etcd = &spec.assignment.node().expect("node").etcd;
    assert_eq!(
        etcd.gone.iter().map(|g| g.host_id).collect::<Vec<_>>(),
        [dead]
    );
    let own = etcd.members.iter().find(|m| m.host_id == new.id);
    assert!(own.is_some_and(|m| m.joins), "it founds nothing");
    let shown = world.shown().await;
    let of = |host| {
        let members = shown["members"].as_array().expect("list");
        let member = members.iter().find(|m| m["host"] == json!(host));
        member.map(|m| m["words"].as_str().unwrap_or_default().to_owned())
    };
    assert!(
        of(dead)
            .expect("the dead one")
            .contains("the others remove its member"),
        "{shown}"
    );
    assert_eq!(
        of(new.id).as_deref(),
        Some("waits until the member of m3 is removed")
    );
    assert_eq!(shown["votes"], 3, "the dead one counts until it is out");
    world.lists(0, &[0, 1]).await;
    assert_eq!(world.gone(0).await, []);
    assert_eq!(world.words("m3").await, "joins next");
}

/// Its memory may be older than a join or a leave.
#[tokio::test]
async fn a_master_without_etcd_gives_no_membership() {
    let world = World::new(3).await;
    world.lists(0, &[0, 1, 2]).await;
    let fault = Fault::new(
        FaultCode::EtcdNotHealthy,
        "etcd is not healthy",
        "no answer",
    );
    let member = json!({"id": "a0", "name": world.masters[0].id, "learner": false});
    let remembers = json!({"fault": fault, "members": [member]});
    world.reports(1, remembers).await;
    assert_eq!(world.shown().await["votes"], 3);
}
