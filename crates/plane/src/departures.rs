//! Nodes that leave: what is still trusted of them, and for how long. Pure, but for signing.
//!
//! A detached host is still ours: it moves its pods away and takes its member out of etcd, as the
//! node it was. Bindings, service-account key and the name of its aggregator are gone with the detach
//! anyway; its node object and etcd certificates go when it says that it is done, or after
//! [`LEAVE_GRACE`]; those of a master not before its member is out (`etcd::seats`), for until then the
//! others' quorum may need it. Of a removed host nothing is trusted from the first moment.
//!
//! ```text
//! member ──detach──► departed ──done, or its time is over──► departed, ended ──certificates ended──► forgotten
//!        └─────────────────────────remove──────────────────────▲
//! ```

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::ca::{Authority, LEAF_LIFE};
use super::etcd::seats::{self, Said};
use super::records::{Cluster, Departed, EtcdCertificate};
use super::refusal::{Answer, Refusal};
use pf9_hostagent::model::{FaultCode, HostId, NodeUid, Role, SPEC_LIST_MAX};

/// How long a detached host may take to move its pods away (300 s) and to leave etcd: twice that.
pub(super) const LEAVE_GRACE: SignedDuration = SignedDuration::from_mins(10);
/// Most certificates of etcd that one master may have at a time: of four purposes, sixty-four times.
/// More cannot be revoked within the length of a spec.
const ETCD_CERTIFICATES_MAX: usize = 256;
/// Most departed hosts that are remembered: what a spec can name. The oldest workers are forgotten first,
/// whose certificates of a node are the next to end by themselves ([`LEAF_LIFE`]).
const DEPARTED_MAX: usize = SPEC_LIST_MAX;

/// A member leaves.
pub(super) fn leave(cluster: &mut Cluster, host: HostId, now: Timestamp, ended: bool) {
    let Some(at) = cluster.members.iter().position(|m| m.host == host) else {
        // Detached before, and now removed.
        for departed in cluster.departed.iter_mut().filter(|d| d.host == host) {
            departed.ended |= ended;
            if let Some(seat) = &mut departed.etcd {
                seat.ordered |= ended;
            }
        }
        return;
    };
    let member = cluster.members.remove(at);
    cluster.departed.push(Departed {
        host,
        etcd: seats::vacate(&member, ended),
        node_name: member.node_name,
        left_at: now,
        ended,
        uid: member.uid,
        etcd_certificates: member.etcd_certificates,
    });
    if cluster.departed.len() > DEPARTED_MAX {
        // Rather one of whom no certificate is to be kept revoked.
        let plain = |d: &Departed| d.etcd_certificates.is_empty();
        let first = cluster.departed.iter().position(plain).unwrap_or(0);
        cluster.departed.remove(first);
    }
    if cluster.masters().next().is_none() {
        // With the last master goes the etcd of all of them; the next ones found another.
        cluster.departed.iter_mut().for_each(|d| d.etcd = None);
    }
}

/// What a host that comes back still holds: of a departure that had not ended.
pub(super) fn came_back(departed: &[Departed], host: HostId) -> Vec<EtcdCertificate> {
    let still = departed.iter().filter(|d| d.host == host && !d.ended);
    still.flat_map(|d| d.etcd_certificates.clone()).collect()
}

/// The UID of a host that becomes a node: one that it never had, for the previous ones are refused.
pub(super) fn uid(cluster: &Cluster, host: HostId, now: Timestamp) -> NodeUid {
    let had = |uid: &NodeUid| cluster.departed.iter().any(|d| d.uid == *uid);
    // Clocks are set back, too.
    let mut at = now;
    loop {
        let uid = NodeUid::of(cluster.id, host, at);
        if !had(&uid) {
            return uid;
        }
        at += SignedDuration::from_nanos(1);
    }
}

/// The nodes that API servers refuse although their certificates are good.
pub(super) fn refused_uids(cluster: &Cluster) -> Vec<NodeUid> {
    let ended = cluster.departed.iter().filter(|d| d.ended);
    let refused: BTreeSet<NodeUid> = ended.map(|d| d.uid).collect();
    refused.into_iter().collect()
}

/// Departures of those who are members again are over. What they keep is the member's now
/// ([`came_back`]); as a node they are another one, and a host that claims to be the one before is refused.
pub(super) fn forget(cluster: &mut Cluster) {
    let Cluster {
        members, departed, ..
    } = cluster;
    let back = |d: &&mut Departed| !d.ended && members.iter().any(|m| m.host == d.host);
    for departure in departed.iter_mut().filter(back) {
        departure.ended = true;
        departure.etcd_certificates.clear();
    }
    // Its member of etcd is its own again. A worker has none: what it left there is still to go.
    let is_master = |host| {
        members
            .iter()
            .any(|m| m.host == host && m.role == Role::Master)
    };
    for departure in departed.iter_mut().filter(|d| is_master(d.host)) {
        departure.etcd = None;
    }
}

/// Ends the departures that are done or whose time is over, and forgets those of whom no certificate
/// can be good. True when something changed.
pub(super) fn settle(cluster: &mut Cluster, now: Timestamp, said: impl Fn(HostId) -> Said) -> bool {
    let before = cluster.departed.clone();
    seats::order(cluster, now, &said);
    for departed in &mut cluster.departed {
        let over = now >= departed.left_at + LEAVE_GRACE && !seats::is_counted(departed);
        departed.ended |= over || said(departed.host).done;
    }
    let is_due = |d: &Departed| now >= d.left_at + LEAF_LIFE && !seats::is_counted(d);
    cluster.departed.retain(|d| !d.ended || !is_due(d));
    cluster.departed != before
}

/// Writes down what a master was given by the etcd authority.
pub(super) fn note_etcd(
    cluster: &mut Cluster,
    host: HostId,
    given: Vec<EtcdCertificate>,
    now: Timestamp,
) -> Answer<()> {
    let Some(member) = cluster.members.iter_mut().find(|m| m.host == host) else {
        return Ok(());
    };
    let known = &mut member.etcd_certificates;
    known.retain(|c| c.not_after > now);
    known.extend(given);
    if known.len() > ETCD_CERTIFICATES_MAX {
        let why = format!("host {host} has {ETCD_CERTIFICATES_MAX} certificates of etcd already");
        return Err(Refusal::conflict(
            FaultCode::EtcdCertificatesFull,
            "the certificate is not signed",
            why,
        )
        .fix("detach the host and attach it again"));
    }
    Ok(())
}

/// Signs the list of etcd certificates that are good no more, unless the one there is says it already: a new
/// list starts every member of etcd again. A list that names more than it has to is kept: what is left out of a
/// next one has ended by itself.
pub(super) fn sign_revoked(cluster: &mut Cluster, now: Timestamp) -> Answer<()> {
    let signer = Authority::load(&cluster.authorities.etcd, &cluster.keys.etcd)?;
    let ended = cluster.departed.iter().filter(|d| d.ended);
    let revoked = ended.flat_map(|d| &d.etcd_certificates);
    let serials: Vec<&str> = revoked.map(|c| c.serial.as_str()).collect();
    let signed = cluster.etcd_revoked.as_deref();
    if signed.is_some_and(|list| signer.has_revoked(list, &serials)) {
        return Ok(());
    }
    cluster.etcd_revoked = Some(signer.revoke(serials, now)?);
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::compute::tests::{add, cluster, host, now};
    use crate::etcd::Listed;
    use crate::membership::detach;
    use pf9_hostagent::model::{REVOKED_LABEL, pem_bytes};

    /// No host reports, but for those that say that they are done.
    pub(crate) fn done_if(is: impl Fn(HostId) -> bool) -> impl Fn(HostId) -> Said {
        move |host| Said {
            done: is(host),
            at: now(),
        }
    }

    /// A master says that etcd lists these.
    fn lists(c: &mut Cluster, hosts: &[u8]) {
        let one = |n: &u8| Listed {
            id: format!("{n:x}"),
            name: host(*n).to_string(),
            peer_urls: Vec::new(),
            learner: false,
        };
        let list: Vec<Listed> = hosts.iter().map(one).collect();
        seats::heard(c, &list);
    }

    /// Two masters and a worker; the second master has two etcd certificates.
    fn world() -> Cluster {
        let mut c = cluster();
        let (ca, key) = Authority::generate("etcd", now()).expect("authority");
        (c.authorities.etcd, c.keys.etcd) = (ca.pem().to_owned(), key);
        add(&mut c, &[(1, true), (2, true), (3, false)]).expect("attach");
        let given = ["40aa", "40bb"].map(|serial| EtcdCertificate {
            serial: serial.into(),
            not_after: now() + LEAF_LIFE,
        });
        note_etcd(&mut c, host(2), given.into(), now()).expect("noted");
        c
    }

    /// Serial numbers on the signed list; its signature is checked.
    fn revoked(c: &mut Cluster) -> Vec<String> {
        use x509_parser::prelude::FromDer;
        sign_revoked(c, now()).expect("signed");
        let pem = c.etcd_revoked.clone().expect("a list");
        let der = pem_bytes(&pem, REVOKED_LABEL).expect("PEM");
        let (rest, list) =
            x509_parser::revocation_list::CertificateRevocationList::from_der(&der).expect("list");
        assert!(rest.is_empty());
        let ca = super::super::ca::der_of(&c.authorities.etcd).expect("authority");
        let (_, ca) = x509_parser::certificate::X509Certificate::from_der(&ca).expect("authority");
        list.verify_signature(ca.public_key()).expect("signature");
        let serials = list.iter_revoked_certificates();
        serials
            .map(|r| format!("{:x}", r.user_certificate))
            .collect()
    }

    #[test]
    fn a_detached_master_is_believed_until_it_is_done_and_a_removed_one_not_at_all() {
        let mut c = world();
        assert!(revoked(&mut c).is_empty());
        detach(&mut c, &[host(2)], now()).expect("detach");
        assert!(c.member(host(2)).is_none());
        assert!(!settle(&mut c, now(), done_if(|_| false)));
        assert!(revoked(&mut c).is_empty());
        assert!(settle(&mut c, now(), done_if(|h| h == host(2))));
        assert_eq!(revoked(&mut c), ["40aa", "40bb"]);

        let mut c = world();
        leave(&mut c, host(2), now(), true);
        assert_eq!(revoked(&mut c), ["40aa", "40bb"]);

        // Silent ones have their time; who is removed meanwhile has not.
        let mut c = world();
        detach(&mut c, &[host(2)], now()).expect("detach");
        let mut gone = c.clone();
        // The others' quorum may need it: not before it is out.
        settle(&mut c, now() + LEAVE_GRACE, done_if(|_| false));
        assert!(revoked(&mut c).is_empty());
        lists(&mut c, &[1]);
        assert!(settle(&mut c, now() + LEAVE_GRACE, done_if(|_| false)));
        assert_eq!(revoked(&mut c), ["40aa", "40bb"]);
        leave(&mut gone, host(2), now(), true);
        assert_eq!(revoked(&mut gone), ["40aa", "40bb"]);
    }

    #[test]
    fn who_comes_back_in_time_keeps_what_he_has_and_else_begins_anew() {
        let mut c = world();
        detach(&mut c, &[host(2)], now()).expect("detach");
        add(&mut c, &[(2, true)]).expect("attach");
        assert_eq!(
            c.member(host(2)).expect("member").etcd_certificates.len(),
            2
        );
        assert!(revoked(&mut c).is_empty());
        detach(&mut c, &[host(2)], now()).expect("detach");
        settle(&mut c, now(), done_if(|_| true));
        add(&mut c, &[(2, true)]).expect("attach");
        assert!(
            c.member(host(2))
                .expect("member")
                .etcd_certificates
                .is_empty()
        );
        assert_eq!(revoked(&mut c), ["40aa", "40bb"]);
        // When no certificate of that time can be good, nothing is remembered.
        assert!(settle(&mut c, now() + LEAF_LIFE, done_if(|_| false)));
        assert!(c.departed.is_empty());
        c.etcd_revoked = None;
        assert!(revoked(&mut c).is_empty());
    }

    #[test]
    fn a_list_that_says_it_already_stays_as_it_is() {
        let mut c = world();
        leave(&mut c, host(2), now(), true);
        let signed = |c: &mut Cluster| {
            sign_revoked(c, now()).expect("signed");
            c.etcd_revoked.clone()
        };
        let before = signed(&mut c);
        // A worker that leaves has no certificate of etcd, and those of long ago have ended by themselves.
        leave(&mut c, host(3), now(), true);
        assert_eq!(signed(&mut c), before);
        settle(&mut c, now() + LEAF_LIFE, done_if(|_| false));
        assert_eq!(signed(&mut c), before);
        // One more is news, a list that is none or another authority's is no list.
        let given = EtcdCertificate {
            serial: "00cc".into(),
            not_after: now() + LEAF_LIFE,
        };
        note_etcd(&mut c, host(1), vec![given], now()).expect("noted");
        leave(&mut c, host(1), now(), true);
        assert_eq!(revoked(&mut c), ["40aa", "40bb", "cc"]);
        let mut other = c.clone();
        other.etcd_revoked = None;
        let (ca, key) = Authority::generate("another", now()).expect("authority");
        (other.authorities.etcd, other.keys.etcd) = (ca.pem().to_owned(), key);
        for other in [Some("nonsense".to_owned()), signed(&mut other)] {
            c.etcd_revoked.clone_from(&other);
            assert_ne!(signed(&mut c), other);
            assert_eq!(revoked(&mut c), ["40aa", "40bb", "cc"]);
        }
    }

    #[test]
    fn a_master_is_remembered_until_its_member_is_out() {
        let mut c = world();
        leave(&mut c, host(2), now(), true);
        settle(&mut c, now() + LEAF_LIFE, done_if(|_| true));
        assert_eq!(c.departed.len(), 1, "the others may still count on it");
        // As a worker it comes back without it.
        add(&mut c, &[(2, false)]).expect("attach");
        assert_eq!(seats::gone(&c).len(), 1);
        lists(&mut c, &[1]);
        assert!(seats::gone(&c).is_empty());
        assert!(settle(&mut c, now() + LEAF_LIFE, done_if(|_| true)));
        assert!(c.departed.is_empty());
    }

    /// What the spec of the first master says.
    fn refused(c: &Cluster) -> Vec<NodeUid> {
        let spec = crate::compute::assignment(host(1), Some(c)).expect("assignment");
        spec.node().expect("a node").refused_uids.clone()
    }

    #[test]
    fn a_node_that_left_is_refused_and_who_comes_back_is_another_one() {
        let mut c = world();
        let uid = |c: &Cluster, n| c.member(host(n)).expect("member").uid;
        let first = uid(&c, 3);
        detach(&mut c, &[host(3)], now()).expect("detach");
        assert!(
            refused(&c).is_empty(),
            "it moves its pods away as the node it was"
        );
        settle(&mut c, now(), done_if(|_| true));
        assert_eq!(refused(&c), [first]);
        add(&mut c, &[(3, false)]).expect("attach");
        let second = uid(&c, 3);
        assert_ne!(
            second, first,
            "what it gets now is not refused, not in the same moment either"
        );
        assert_eq!(refused(&c), [first], "what it had is");
        // Back before it is done.
        detach(&mut c, &[host(3)], now()).expect("detach");
        add(&mut c, &[(3, false)]).expect("attach");
        assert_ne!(uid(&c, 3), second);
        assert_eq!(
            refused(&c),
            BTreeSet::from([first, second])
                .into_iter()
                .collect::<Vec<_>>()
        );
        let later = now() + SignedDuration::from_secs(1);
        leave(&mut c, host(3), later, true);
        assert_eq!(refused(&c).len(), 3, "a removed one is refused at once");
        assert!(settle(&mut c, now() + LEAF_LIFE, done_if(|_| false)));
        assert_eq!(
            refused(&c).len(),
            1,
            "what has ended by itself needs no refusal"
        );
    }

    proptest::proptest! {
        /// Whatever comes and goes: no member is refused, and nobody who left for good is trusted.
        #[test]
        fn no_member_is_refused_and_everybody_who_left_is(
            steps in proptest::collection::vec((2u8..6, 0u8..4), 0..40),
        ) {
            let mut c = world();
            let mut over = BTreeSet::new();
            for (i, (n, what)) in steps.into_iter().enumerate() {
                let at = now() + SignedDuration::from_secs(i as i64 + 1);
                let member = c.member(host(n)).map(|m| m.uid);
                match (what, member) {
                    (0, None) => {
                        over.extend(c.departed.iter().filter(|d| d.host == host(n)).map(|d| d.uid));
                        crate::compute::tests::add_at(&mut c, &[(n, false)], at).expect("attach");
                    }
                    (1, Some(_)) => detach(&mut c, &[host(n)], at).expect("detach"),
                    (2, _) => {
                        over.extend(member);
                        over.extend(c.departed.iter().filter(|d| d.host == host(n)).map(|d| d.uid));
                        leave(&mut c, host(n), at, true);
                    }
                    _ => {
                        let done = |h| h == host(n);
                        over.extend(c.departed.iter().filter(|d| done(d.host)).map(|d| d.uid));
                        settle(&mut c, at, done_if(done));
                    }
                }
                let refused: BTreeSet<NodeUid> = refused(&c).into_iter().collect();
                proptest::prop_assert_eq!(&refused, &over);
                proptest::prop_assert!(c.members.iter().all(|m| !refused.contains(&m.uid)));
            }
        }
    }

    #[test]
    fn certificates_that_could_not_be_revoked_are_not_given() {
        let mut c = world();
        let many = |n: usize| {
            let one = |i| EtcdCertificate {
                serial: format!("{i:04x}"),
                not_after: now() + LEAF_LIFE,
            };
            (0..n).map(one).collect::<Vec<_>>()
        };
        let rest = ETCD_CERTIFICATES_MAX - 2;
        note_etcd(&mut c, host(2), many(rest), now()).expect("all fit");
        let refused = note_etcd(&mut c, host(2), many(1), now()).expect_err("one too many");
        assert_eq!(refused.fault.code, FaultCode::EtcdCertificatesFull);
        // Ended ones need no place.
        let later = now() + LEAF_LIFE;
        note_etcd(&mut c, host(2), many(1), later).expect("there is room again");
    }
}
