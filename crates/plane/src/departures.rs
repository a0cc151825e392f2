//! Nodes that leave: how much they are still trusted, and for how long. Pure, except for signing.
//!
//! A detached host is still ours: it drains its pods and removes its member from etcd, as the node it was. Its
//! bindings, service-account key and aggregator name go with the detach; its node object and etcd certificates go when
//! it reports that it is done, or after [`LEAVE_GRACE`]; those of a master not before its member is out
//! (`etcd::seats`), because the others' quorum may need it until then. A removed host is not trusted from the first
//! moment.
//!
//! ```text
//! member ──detach──► departed ──done, or timed out──► departed, ended ──certificates expired──► forgotten
//!        └─────────────────────────remove──────────────────────▲
//! ```

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::ca::{Authority, LEAF_LIFE};
use super::etcd::seats::{self, Said};
use super::records::{Cluster, Departed, EtcdCertificate};
use super::refusal::{Answer, Refusal};
use pf9_hostagent::model::{FaultCode, HostId, NodeUid, Role, SPEC_LIST_MAX};

/// How long a detached host may take to drain (300 s) and leave etcd: twice that.
pub(super) const LEAVE_GRACE: SignedDuration = SignedDuration::from_mins(10);
/// Most etcd certificates of one master at a time: of four purposes, sixty-four times. More could not be revoked within
/// the length of a spec.
const ETCD_CERTIFICATES_MAX: usize = 256;
/// Most departed hosts remembered: what a spec can name. The oldest workers are forgotten first; their certificates
/// expire next ([`LEAF_LIFE`]).
const DEPARTED_MAX: usize = SPEC_LIST_MAX;

/// A member leaves.
pub(super) fn leave(cluster: &mut Cluster, host: HostId, now: Timestamp, ended: bool) {
    let Some(at) = cluster.members.iter().position(|m| m.host == host) else {
        // Detached before, now removed.
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
        // Preferably one without revoked certificates.
        let plain = |d: &Departed| d.etcd_certificates.is_empty();
        let first = cluster.departed.iter().position(plain).unwrap_or(0);
        cluster.departed.remove(first);
    }
    if cluster.masters().next().is_none() {
        // The last master takes the etcd of all of them with it; the next masters found another.
        cluster.departed.iter_mut().for_each(|d| d.etcd = None);
    }
}

/// etcd certificates that a returning host still holds, from a departure that had not ended.
pub(super) fn came_back(departed: &[Departed], host: HostId) -> Vec<EtcdCertificate> {
    let still = departed.iter().filter(|d| d.host == host && !d.ended);
    still.flat_map(|d| d.etcd_certificates.clone()).collect()
}

/// The UID of a host that becomes a node: never one it had, because the previous ones are refused.
pub(super) fn uid(cluster: &Cluster, host: HostId, now: Timestamp) -> NodeUid {
    let had = |uid: &NodeUid| cluster.departed.iter().any(|d| d.uid == *uid);
    // Clocks are also set back.
    let mut at = now;
    loop {
        let uid = NodeUid::of(cluster.id, host, at);
        if !had(&uid) {
            return uid;
        }
        at += SignedDuration::from_nanos(1);
    }
}

/// Nodes that API servers refuse although their certificates are valid.
pub(super) fn refused_uids(cluster: &Cluster) -> Vec<NodeUid> {
    let ended = cluster.departed.iter().filter(|d| d.ended);
    let refused: BTreeSet<NodeUid> = ended.map(|d| d.uid).collect();
    refused.into_iter().collect()
}

/// Drops departures of hosts that are members again. Their certificates are now the member's ([`came_back`]); the node
/// is a new one, and a host that claims to be the previous node is refused.
pub(super) fn forget(cluster: &mut Cluster) {
    let Cluster {
        members, departed, ..
    } = cluster;
    let back = |d: &&mut Departed| !d.ended && members.iter().any(|m| m.host == d.host);
    for departure in departed.iter_mut().filter(back) {
        departure.ended = true;
        departure.etcd_certificates.clear();
    }
    // Its etcd member is its own again. A worker has none: a member it left is still to be removed.
    let is_master = |host| {
        members
            .iter()
            .any(|m| m.host == host && m.role == Role::Master)
    };
    for departure in departed.iter_mut().filter(|d| is_master(d.host)) {
        departure.etcd = None;
    }
}

/// Ends departures that are done or timed out, and forgets those without a valid certificate. True when something
/// changed.
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

/// Records a certificate that the etcd authority issued to a master.
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

/// Signs the etcd revocation list, unless the current one is sufficient: a new list restarts every member of etcd. A
/// list with more than the necessary entries is kept: an entry that a later list omits has expired.
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

    /// No reports, except from hosts that say they are done.
    pub(crate) fn done_if(is: impl Fn(HostId) -> bool) -> impl Fn(HostId) -> Said {
        move |host| Said {
            done: is(host),
            at: now(),
        }
    }

    /// A master reports that etcd lists these.
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
    fn a_detached_master_is_trusted_until_it_is_done_and_a_removed_one_not_at_all() {
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

        // Silent ones have their time; one that is removed meanwhile has not.
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
    fn a_host_back_in_time_keeps_its_certificates_and_otherwise_starts_over() {
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
        // Once no certificate of that time can be valid, nothing is remembered.
        assert!(settle(&mut c, now() + LEAF_LIFE, done_if(|_| false)));
        assert!(c.departed.is_empty());
        c.etcd_revoked = None;
        assert!(revoked(&mut c).is_empty());
    }

    #[test]
    fn a_sufficient_revocation_list_is_kept() {
        let mut c = world();
        leave(&mut c, host(2), now(), true);
        let signed = |c: &mut Cluster| {
            sign_revoked(c, now()).expect("signed");
            c.etcd_revoked.clone()
        };
        let before = signed(&mut c);
        // A worker that leaves has no etcd certificate, and old ones have expired.
        leave(&mut c, host(3), now(), true);
        assert_eq!(signed(&mut c), before);
        settle(&mut c, now() + LEAF_LIFE, done_if(|_| false));
        assert_eq!(signed(&mut c), before);
        // A new entry needs a new list, and an unreadable list or one of another authority does not count.
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
        // It comes back as a worker, without them.
        add(&mut c, &[(2, false)]).expect("attach");
        assert_eq!(seats::gone(&c).len(), 1);
        lists(&mut c, &[1]);
        assert!(seats::gone(&c).is_empty());
        assert!(settle(&mut c, now() + LEAF_LIFE, done_if(|_| true)));
        assert!(c.departed.is_empty());
    }

    /// Refused UIDs in the spec of the first master.
    fn refused(c: &Cluster) -> Vec<NodeUid> {
        let spec = crate::compute::assignment(host(1), Some(c)).expect("assignment");
        spec.node().expect("a node").refused_uids.clone()
    }

    #[test]
    fn a_node_that_left_is_refused_and_a_returning_host_is_a_new_node() {
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
        /// For any sequence: no member is refused, and no host that left for good is trusted.
        #[test]
        fn no_member_is_refused_and_every_former_one_is(
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
    fn certificates_that_could_not_be_revoked_are_not_issued() {
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
        // Ended ones take no place.
        let later = now() + LEAF_LIFE;
        note_etcd(&mut c, host(2), many(1), later).expect("there is room again");
    }
}
