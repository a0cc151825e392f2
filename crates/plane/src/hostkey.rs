//! A host's key: which certificate opens which session, and how a key becomes the pinned one.
//!
//! | new key from | with | it becomes |
//! |---|---|---|
//! | a new host id | a token | pinned |
//! | the host, on a session of the pinned key | that session | next |
//! | an enrolment that proves the pinned key | a token | next |
//! | an enrolment the operator allowed | a token, and the permission, which is used up | pinned, the old one is invalid at once |
//! | an enrolment of an id that never connected, and that holds nothing | a token | pinned |
//! | any other enrolment | | refused |
//!
//! Both the pinned and the next certificate open sessions until a connection presents the next one: that one is then
//! pinned, and the other no longer opens any. A host whose next certificate got lost on the way therefore reconnects
//! with the old one.

use jiff::{SignedDuration, Timestamp};

use super::ca::{Leaf, ProvenKey};
use super::keys::Ca;
use super::records::{HOSTS, Host, Pinned, Removed, Renewal};
use super::refusal::{Answer, Refusal};
use super::state::{self, Change};
use super::tokens;
use pf9_hostagent::model::{Digest, FaultCode, HostId, Life, SessionKind};

/// What a certificate means for a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// The session it opens.
    pub(super) kind: SessionKind,
    /// The rows do not show yet that it was used.
    pub(super) is_news: bool,
}

/// Why a certificate opens no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stranger {
    /// No such host, or it is no longer enrolled.
    Unknown,
    /// The host has another certificate.
    Replaced,
    /// It is not valid yet.
    Early,
}

/// Judges a certificate of ours by the host's rows.
///
/// Expiry is excused, however long ago: the rows say whose key is valid, and they are read at every connection. Expiry
/// does not distinguish a thief from a machine that was off for two years; against a thief the host is removed, or
/// enrolled with another key.
pub(super) fn standing(
    host: Option<&Host>,
    removed: Option<&Removed>,
    certificate: &Digest,
    life: Life,
    now: Timestamp,
) -> Result<Standing, Stranger> {
    if now < life.not_before {
        return Err(Stranger::Early);
    }
    let Some(host) = host else {
        let known = removed.filter(|r| now < r.until && r.certificates.contains(certificate));
        return match known {
            Some(_) => Ok(Standing {
                kind: SessionKind::RemovalOnly,
                is_news: false,
            }),
            None => Err(Stranger::Unknown),
        };
    };
    let is_next = host.is_next(certificate);
    if !is_next && host.certificate != *certificate {
        return Err(Stranger::Replaced);
    }
    Ok(Standing {
        kind: match life.is_over(now) {
            true => SessionKind::RenewalOnly,
            false => SessionKind::Full,
        },
        is_news: is_next || !host.renewal.proven,
    })
}

/// A connection presented this certificate: if it is the next one it becomes the pinned one.
pub(super) fn shown(change: &mut Change<'_>, id: HostId, certificate: &Digest) -> Answer<()> {
    let mut host = state::host(&**change, id)?;
    if host.is_next(certificate)
        && let Some(next) = host.renewal.next.take()
    {
        host.pin(next);
    } else if host.certificate != *certificate {
        // Replaced between the check and this.
        return Ok(());
    }
    host.renewal.proven = true;
    Ok(change.put(&HOSTS, &id.to_string(), &host)?)
}

/// Signs a certificate for the key of `csr` and makes it the host's next one. Requested on a session opened with `by`:
/// the pinned certificate, or one before it that has not expired. (A session lives as long as the certificate that
/// opened it, so that a renewal cuts nothing.)
pub(super) fn renew(
    change: &mut Change<'_>,
    ca: &Ca,
    id: HostId,
    by: By,
    csr: &str,
    life: SignedDuration,
) -> Answer<String> {
    let what = "the certificate is not signed";
    let mut host = state::host(&**change, id)?;
    if host.certificate != by.certificate && change.now >= by.ends {
        let why = "the certificate that opened this session is no longer the host's";
        return Err(Refusal::forbidden(FaultCode::CertificateRevoked, what, why));
    }
    let key = ProvenKey::from_csr(csr)?;
    if key.digest() == host.key {
        let why = "it is for the key the host has already";
        return Err(Refusal::bad(FaultCode::KeyReused, what, why).fix("make a new key"));
    }
    let (next, pem) = issue(ca, id, &key, life, change.now)?;
    host.renewal.next = Some(next);
    change.put(&HOSTS, &id.to_string(), &host)?;
    Ok(pem)
}

/// The certificate that opened a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct By {
    /// Its digest.
    pub(super) certificate: Digest,
    /// Its expiry.
    pub(super) ends: Timestamp,
}

/// How a key from an enrolment is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// As the pinned one, immediately.
    Pinned,
    /// As the next one.
    Next,
}

/// Whether an enrolment may bring `key` for a host id. `proven`: a key whose possession it proved; `same_order_key`:
/// root of the host still has the pinned order key.
pub(super) fn entry(
    before: Option<&Host>,
    key: &Digest,
    proven: Option<&Digest>,
    same_order_key: bool,
    now: Timestamp,
) -> Option<Entry> {
    let Some(host) = before else {
        return Some(Entry::Pinned);
    };
    let is_its =
        |k: &Digest| host.key == *k || host.renewal.next.as_ref().is_some_and(|n| n.key == *k);
    let is_allowed = host.renewal.allowed_until.is_some_and(|until| now < until);
    // A host may have lost only one of its two keys. The operator's permission covers either.
    if is_allowed && !same_order_key {
        return Some(Entry::Pinned);
    }
    // A request signed with the pinned key proves possession of it.
    if is_its(key) || proven.is_some_and(is_its) {
        return Some(Entry::Next);
    }
    let holds_nothing = !host.renewal.proven && !host.authorised && host.cluster.is_none();
    (is_allowed || holds_nothing).then_some(Entry::Pinned)
}

/// Issues a host's certificate, and the row about it.
pub(super) fn issue(
    ca: &Ca,
    id: HostId,
    key: &ProvenKey,
    life: SignedDuration,
    now: Timestamp,
) -> Answer<(Pinned, String)> {
    let leaf = Leaf::client(&id.to_string(), &[], life);
    let issued = ca.issue(key, &leaf, now)?;
    let pinned = Pinned {
        key: key.digest(),
        certificate: issued.digest,
        ends: issued.not_after,
    };
    Ok((pinned, issued.pem))
}

/// Lets one enrolment bring another key for this host, for as long as `ttl`; returns until when.
pub(super) fn allow(change: &mut Change<'_>, id: HostId, ttl: SignedDuration) -> Answer<Timestamp> {
    tokens::check_ttl("no enrolment allowed", ttl)?;
    let mut host = state::host(&**change, id)?;
    let until = change.now + ttl;
    host.renewal.allowed_until = Some(until);
    change.put(&HOSTS, &id.to_string(), &host)?;
    Ok(until)
}

// === impl Host ===

impl Host {
    fn is_next(&self, certificate: &Digest) -> bool {
        let next = self.renewal.next.as_ref();
        next.is_some_and(|n| n.certificate == *certificate)
    }

    /// Pins this key; whatever else was valid is not any more.
    pub(super) fn pin(&mut self, new: Pinned) {
        self.key = new.key;
        self.certificate = new.certificate;
        self.renewal = Renewal {
            ends: Some(new.ends),
            ..Renewal::default()
        };
    }

    /// Every valid certificate.
    pub(super) fn certificates(&self) -> Vec<Digest> {
        let next = self.renewal.next.as_ref().map(|n| n.certificate);
        std::iter::once(self.certificate).chain(next).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use pf9_hostagent::model::ClusterId;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("time")
    }

    fn digest(n: u8) -> Digest {
        Digest::of(&[n])
    }

    fn host() -> Host {
        Host {
            key: digest(1),
            certificate: digest(11),
            renewal: Renewal {
                proven: true,
                ..Renewal::default()
            },
            ..crate::compute::tests::host_row(1, None)
        }
    }

    fn with_next(mut host: Host) -> Host {
        host.renewal.next = Some(Pinned {
            key: digest(2),
            certificate: digest(12),
            ends: at(200),
        });
        host
    }

    const LIFE: (i64, i64) = (0, 100);

    fn judged(host: &Host, certificate: u8, now: i64) -> Result<(SessionKind, bool), Stranger> {
        let life = Life {
            not_before: at(LIFE.0),
            not_after: at(LIFE.1),
        };
        let standing = standing(Some(host), None, &digest(certificate), life, at(now))?;
        Ok((standing.kind, standing.is_news))
    }

    #[test]
    fn both_certificates_open_sessions_and_no_third_one_does() {
        use SessionKind::{Full, RenewalOnly};
        let plain = host();
        assert_eq!(judged(&plain, 11, 50), Ok((Full, false)));
        assert_eq!(judged(&plain, 12, 50), Err(Stranger::Replaced));
        let both = with_next(plain);
        assert_eq!(judged(&both, 11, 50), Ok((Full, false)));
        assert_eq!(judged(&both, 12, 50), Ok((Full, true)));
        assert_eq!(judged(&both, 13, 50), Err(Stranger::Replaced));
        // For a pinned key expiry is excused, however long ago; for no other.
        assert_eq!(judged(&both, 11, 100), Ok((RenewalOnly, false)));
        assert_eq!(judged(&both, 11, 3_000_000_000), Ok((RenewalOnly, false)));
        assert_eq!(judged(&both, 13, 100), Err(Stranger::Replaced));
        assert_eq!(judged(&both, 11, -1), Err(Stranger::Early));
    }

    #[test]
    fn a_removed_host_opens_a_session_for_its_removal_until_its_time_is_over() {
        let removed = Removed {
            certificates: with_next(host()).certificates(),
            removed_at: at(10),
            until: at(90),
            forced: false,
        };
        let life = Life {
            not_before: at(0),
            not_after: at(50),
        };
        let standing_of = |n, now| standing(None, Some(&removed), &digest(n), life, at(now));
        for certificate in [11, 12] {
            // Also when it has expired: the machine was off.
            for now in [20, 60] {
                let kind = standing_of(certificate, now).map(|s| s.kind);
                assert_eq!(kind, Ok(SessionKind::RemovalOnly));
            }
            assert_eq!(standing_of(certificate, 90), Err(Stranger::Unknown));
        }
        assert_eq!(standing_of(13, 20), Err(Stranger::Unknown));
        assert_eq!(
            standing(None, None, &digest(11), life, at(20)),
            Err(Stranger::Unknown)
        );
    }

    #[test]
    fn pinning_a_new_key_forgets_the_old_one() {
        let mut host = with_next(host());
        host.renewal.allowed_until = Some(at(99));
        let next = host.renewal.next.clone().expect("next");
        host.pin(next);
        assert_eq!((host.key, host.certificate), (digest(2), digest(12)));
        assert_eq!(host.certificates(), [digest(12)]);
        let left = Renewal {
            ends: Some(at(200)),
            ..Renewal::default()
        };
        assert_eq!(host.renewal, left);
    }

    proptest! {
        /// A host that holds anything gets another key only through the pinned (or next) key, or the operator.
        #[test]
        fn only_the_pinned_key_or_the_operator_brings_another(
            key in 1u8..5,
            proof in prop::option::of(1u8..5),
            next in any::<bool>(),
            proven in any::<bool>(),
            authorised in any::<bool>(),
            attached in any::<bool>(),
            allowed in prop::option::of(0i64..20),
            same_order_key in any::<bool>(),
        ) {
            let mut row = if next { with_next(host()) } else { host() };
            row.renewal.proven = proven;
            row.authorised = authorised;
            row.cluster = attached.then(|| ClusterId(uuid::Uuid::from_u128(1)));
            row.renewal.allowed_until = allowed.map(at);
            let proof_key = proof.map(digest);
            let (new, proven_key) = (digest(key), proof_key.as_ref());
            let entry = entry(Some(&row), &new, proven_key, same_order_key, at(10));
            let is_its = |n: u8| n == 1 || (next && n == 2);
            let possessed = is_its(key) || proof.is_some_and(is_its);
            let by_operator = allowed.is_some_and(|until| until > 10);
            let worthless = !proven && !authorised && !attached;
            let anew = by_operator && !same_order_key;
            prop_assert_eq!(entry == Some(Entry::Next), possessed && !anew);
            prop_assert_eq!(
                entry == Some(Entry::Pinned),
                anew || !possessed && (by_operator || worthless)
            );
        }
    }
}
