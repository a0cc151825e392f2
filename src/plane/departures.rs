//! Nodes that leave: what is still believed of them, and for how long. Pure, but for signing.
//!
//! A detached host is still ours: it moves its pods away and takes its member out of etcd, as the
//! node it was. Bindings, service-account key and the name of its aggregator are gone with the detach
//! all the same; its node object and etcd certificates go when it says that it is done, or after
//! [`LEAVE_GRACE`]. Of a removed host nothing is believed from the first moment.
//!
//! ```text
//! member ──detach──► departed ──done, or its time is over──► departed, ended ──certificates ended──► forgotten
//!        └─────────────────────────remove──────────────────────▲
//! ```

use jiff::{SignedDuration, Timestamp};

use super::ca::{Authority, LEAF_LIFE};
use super::records::{Cluster, Departed, EtcdCertificate};
use super::refusal::{Answer, Refusal};
use crate::model::{FaultCode, HostId};

/// How long a detached host may take to move its pods away (300 s) and to leave etcd: twice that.
pub(super) const LEAVE_GRACE: SignedDuration = SignedDuration::from_mins(10);
/// Most certificates of etcd that one master may have at a time: of four purposes, sixty-four times.
/// More cannot be revoked within the length of a spec.
const ETCD_CERTIFICATES_MAX: usize = 256;
/// Most departed hosts that are remembered; the oldest workers are forgotten first. Their certificates of a
/// node end by themselves within [`LEAF_LIFE`].
const DEPARTED_MAX: usize = 5000;

/// A member leaves.
pub(super) fn leave(cluster: &mut Cluster, host: HostId, now: Timestamp, ended: bool) {
    let Some(at) = cluster.members.iter().position(|m| m.host == host) else {
        // Detached before, and now removed.
        let departed = cluster.departed.iter_mut().filter(|d| d.host == host);
        departed.for_each(|d| d.ended |= ended);
        return;
    };
    let member = cluster.members.remove(at);
    cluster.departed.push(Departed {
        host,
        node_name: member.node_name,
        left_at: now,
        ended,
        etcd_certificates: member.etcd_certificates,
    });
    if cluster.departed.len() > DEPARTED_MAX {
        // Rather one of whom no certificate is to be kept revoked.
        let plain = |d: &Departed| d.etcd_certificates.is_empty();
        let first = cluster.departed.iter().position(plain).unwrap_or(0);
        cluster.departed.remove(first);
    }
}

/// What a host that comes back still holds: of a departure that had not ended.
pub(super) fn came_back(departed: &[Departed], host: HostId) -> Vec<EtcdCertificate> {
    let still = departed.iter().filter(|d| d.host == host && !d.ended);
    still.flat_map(|d| d.etcd_certificates.clone()).collect()
}

/// Departures that had not ended are none for who is a member again.
pub(super) fn forget(cluster: &mut Cluster) {
    let Cluster {
        members, departed, ..
    } = cluster;
    departed.retain(|d| d.ended || !members.iter().any(|m| m.host == d.host));
}

/// Ends the departures that are done or whose time is over, and forgets those of whom no certificate
/// can be good. True when something changed.
pub(super) fn settle(
    cluster: &mut Cluster,
    now: Timestamp,
    is_done: impl Fn(HostId) -> bool,
) -> bool {
    let before = cluster.departed.clone();
    for departed in &mut cluster.departed {
        let over = now >= departed.left_at + LEAVE_GRACE;
        departed.ended |= over || is_done(departed.host);
    }
    cluster
        .departed
        .retain(|d| !d.ended || now < d.left_at + LEAF_LIFE);
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
            "no certificate was signed",
            why,
        )
        .fix("detach the host and attach it again"));
    }
    Ok(())
}

/// Signs the list of etcd certificates that are good no more.
pub(super) fn sign_revoked(cluster: &mut Cluster, now: Timestamp) -> Answer<()> {
    let signer = Authority::load(&cluster.authorities.etcd, &cluster.keys.etcd)?;
    let ended = cluster.departed.iter().filter(|d| d.ended);
    let revoked = ended.flat_map(|d| &d.etcd_certificates);
    let serials = revoked.map(|c| c.serial.as_str());
    cluster.etcd_revoked = Some(signer.revoke(serials, now)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{REVOKED_LABEL, pem_bytes};
    use crate::plane::compute::tests::{add, cluster, host, now};
    use crate::plane::membership::detach;

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
        assert!(!settle(&mut c, now(), |_| false));
        assert!(revoked(&mut c).is_empty());
        assert!(settle(&mut c, now(), |h| h == host(2)));
        assert_eq!(revoked(&mut c), ["40aa", "40bb"]);

        let mut c = world();
        leave(&mut c, host(2), now(), true);
        assert_eq!(revoked(&mut c), ["40aa", "40bb"]);

        // Silent ones have their time; who is removed meanwhile has not.
        let mut c = world();
        detach(&mut c, &[host(2)], now()).expect("detach");
        let mut gone = c.clone();
        assert!(settle(&mut c, now() + LEAVE_GRACE, |_| false));
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
        assert!(c.departed.is_empty());
        detach(&mut c, &[host(2)], now()).expect("detach");
        settle(&mut c, now(), |_| true);
        add(&mut c, &[(2, true)]).expect("attach");
        assert!(
            c.member(host(2))
                .expect("member")
                .etcd_certificates
                .is_empty()
        );
        assert_eq!(revoked(&mut c), ["40aa", "40bb"]);
        // When no certificate of that time can be good, nothing is remembered.
        assert!(settle(&mut c, now() + LEAF_LIFE, |_| false));
        assert!(c.departed.is_empty() && revoked(&mut c).is_empty());
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
