//! Planes whose signed certificates do not work.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::SignedDuration;
use pf9_hostagent::host::fs::Found;
use pf9_hostagent::identity::{self, TlsPolicy};
use pf9_hostagent::model::{Digest, Expiry, FaultCode, Timestamp, TunnelStatus, backdating, paths};

use super::peer::{Peer, World, authority, due};
use super::{Comms, get};

pub(super) fn host_of(status: &TunnelStatus) -> Option<&Expiry> {
    status.certificates.iter().find(|c| c.name == "host")
}

fn code_of(status: &TunnelStatus) -> Option<&str> {
    let fault = host_of(status)?.fault.as_ref()?;
    Some(fault.code.word())
}

pub(super) fn shows(world: &World) -> Digest {
    let identity = identity::load(&world.fs, &TlsPolicy::default()).expect("a pair");
    identity.expect("enrolled").certificate
}

#[tokio::test]
async fn a_new_pair_that_does_not_connect_is_rolled_back_said_and_asked_for_again() {
    let world = World::new();
    let peer = Peer::start(&world).await;
    let strange = Arc::new(authority());
    peer.renew_by(&strange);
    // Due for a while, and valid for half a minute more: the times of a renewal follow from that.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    world.enrol_with(&[&peer], |params| {
        let backdated = Duration::try_from(backdating(SignedDuration::from_secs(60)));
        let backdated = backdated.expect("positive");
        params.not_before = epoch + (now - backdated - Duration::from_secs(42));
        params.not_after = epoch + (now + Duration::from_secs(18));
    });
    let old = shows(&world);
    let comms = Comms::start(&world.fs).await;
    let status = comms
        .until(|s| code_of(s) == Some("certificate-unproven"))
        .await;
    let host = host_of(&status).expect("told");
    let warning = host.warning(Timestamp::now()).expect("a warning");
    assert!(
        warning.why.contains("the old one stays in use"),
        "{warning}"
    );
    assert!(warning.next_try.is_some(), "{warning:?}");
    // The old one is in use, and works.
    assert_eq!(shows(&world), old);
    assert_eq!(get(&world.fs, "/hello").await.expect("an answer"), b"hello");
    let asked = peer.state().renewals;

    // From now on the plane signs with an authority it accepts: requested again, presented, taken over, and all is
    // well.
    peer.renew_by(&world.ca);
    let well = |s: &TunnelStatus| {
        host_of(s).is_some_and(|h| h.fault.is_none() && h.not_after > host.not_after)
    };
    comms.until(well).await;
    assert!(peer.state().renewals > asked);
    assert_ne!(shows(&world), old);
    let next = world.fs.found(paths::HOST_NEXT).expect("found");
    assert_eq!(next, Found::Nothing);
    comms.stop().await;
}

#[tokio::test]
async fn a_plane_that_does_not_renew_is_named_until_it_does() {
    let world = World::new();
    let peer = Peer::start(&world).await;
    world.enrol_with(&[&peer], due);
    let comms = Comms::start(&world.fs).await;
    let status = comms.until(|s| code_of(s).is_some()).await;
    let fault = host_of(&status).and_then(|h| h.fault.clone()).expect("why");
    assert_eq!(fault.code, FaultCode::PlaneGarbage);
    assert!(fault.why.contains("404"), "{fault}");
    peer.renew_by(&world.ca);
    comms
        .until(|s| host_of(s).is_some_and(|h| h.fault.is_none()))
        .await;
    comms.stop().await;
}
