//! When a certificate is replaced: at two thirds of its life, each node at its own moment.
//!
//! A fleet that was attached in one hour has certificates of one age; were all renewed at the same
//! part of their life, the plane would have to sign for every node in the same hour a year later.
//! So each node has a place of its own in a window around two thirds, always the same one: nothing
//! is drawn again with every look.

use jiff::{SignedDuration, Timestamp};

use crate::model::{CertPurpose, Digest, HostId};

use super::{CertificateSeen, PhaseContext};

/// The window, in thirtieths of a life: two thirds are twenty of them.
const PARTS: i128 = 30;
/// The earliest moment.
const EARLIEST: i128 = 19;
/// How wide the window is.
const WIDTH: i128 = 2;

/// How a certificate stands at this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// There is none.
    Missing,
    /// Its life is over.
    Over,
    /// It begins later: this host's clock is behind the plane's.
    TooEarly,
    /// Valid; it is time for its successor.
    Due,
    /// Valid; its authority is trusted and signs no more.
    Superseded,
    /// Valid for long.
    Good,
}

impl Standing {
    /// The plane is asked for another one.
    pub(super) fn is_wanted(self) -> bool {
        match self {
            Self::Missing | Self::Over | Self::Due | Self::Superseded => true,
            Self::TooEarly | Self::Good => false,
        }
    }
}

/// A node's place in the window, from its id.
pub(super) fn place(host: HostId) -> u32 {
    let digest = Digest::of(host.to_string().as_bytes());
    let [a, b, c, d, ..] = digest.0;
    u32::from_be_bytes([a, b, c, d])
}

/// When a certificate of this life is replaced on a node with this place.
pub(super) fn due(not_before: Timestamp, not_after: Timestamp, place: u32) -> Timestamp {
    let begin = not_before.as_nanosecond();
    let life = not_after.as_nanosecond().saturating_sub(begin).max(0);
    let earliest = life * EARLIEST / PARTS;
    let own = (life * WIDTH / PARTS) * i128::from(place) / i128::from(u32::MAX);
    Timestamp::from_nanosecond(begin + earliest + own).unwrap_or(not_after)
}

/// The least time a replaced certificate has left when its successor is there.
pub(super) fn left_at_renewal(seen: &CertificateSeen) -> SignedDuration {
    let latest = due(seen.not_before, seen.not_after, u32::MAX);
    seen.not_after.duration_since(latest)
}

/// How the certificate for a purpose stands.
pub(super) fn standing(ctx: &PhaseContext, purpose: CertPurpose) -> Standing {
    let seen = ctx.material.get(&purpose);
    let Some(seen) = seen.and_then(|m| m.certificate.as_ref()) else {
        return Standing::Missing;
    };
    let of = purpose.profile(&ctx.node).authority;
    let signing = ctx
        .authorities
        .iter()
        .find(|a| a.authority == of && a.signs);
    let superseded = signing.is_some_and(|a| a.digest != seen.issuer);
    // Nothing outlives its authority: a successor that would end with it is no gain.
    let helps = signing.is_none_or(|a| a.not_after > seen.not_after);
    if seen.not_after <= ctx.now {
        Standing::Over
    } else if seen.not_before > ctx.now {
        Standing::TooEarly
    } else if superseded {
        Standing::Superseded
    } else if ctx.rotate.contains(&seen.own) || helps && is_due(ctx, seen) {
        Standing::Due
    } else {
        Standing::Good
    }
}

fn is_due(ctx: &PhaseContext, seen: &CertificateSeen) -> bool {
    ctx.now >= due(seen.not_before, seen.not_after, place(ctx.host_id))
}

/// When the standing of any certificate changes next by time alone.
pub fn next_change(ctx: &PhaseContext) -> Option<Timestamp> {
    let place = place(ctx.host_id);
    let seen = ctx.material.values().filter_map(|m| m.certificate.as_ref());
    seen.flat_map(|s| {
        [
            s.not_before,
            due(s.not_before, s.not_after, place),
            s.not_after,
        ]
    })
    .filter(|at| *at > ctx.now)
    .min()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples;
    use super::*;
    use crate::model::Authority;
    use crate::nodelet::phase::AuthoritySeen;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("time")
    }

    proptest! {
        /// Whatever the life: after three fifths, before the end, and the same at every look.
        #[test]
        fn every_place_is_in_the_window(begin in 0i64..4_000_000_000, life in 1i64..4_000_000_000, place: u32) {
            let due = due(at(begin), at(begin + life), place);
            let passed = due.as_nanosecond() - at(begin).as_nanosecond();
            let life = i128::from(life) * 1_000_000_000;
            prop_assert!(passed * 30 >= life * 19 - 30, "{passed} of {life}");
            prop_assert!(passed * 30 <= life * 21, "{passed} of {life}");
        }

        /// A thousand nodes with certificates of one moment: no minute has more than a handful.
        #[test]
        fn a_fleet_does_not_renew_in_one_minute(seed: u64) {
            let year = 365 * 24 * 3600;
            let mut minutes = std::collections::BTreeMap::new();
            for n in 0..1000u128 {
                let host = HostId(uuid::Uuid::from_u128((u128::from(seed) << 64) | n));
                let due = due(at(0), at(year), place(host));
                *minutes.entry(due.as_second() / 60).or_insert(0) += 1;
            }
            prop_assert!(minutes.values().all(|n| *n <= 6), "{minutes:?}");
        }
    }

    /// Certificates of a life of a thousand seconds that began at second 0.
    fn ctx(now: i64) -> PhaseContext {
        let mut ctx = samples::master("1.37.2");
        ctx.now = at(now);
        for material in ctx.material.values_mut() {
            if let Some(seen) = &mut material.certificate {
                seen.not_before = at(0);
                seen.not_after = at(1000);
            }
        }
        ctx
    }

    #[test]
    fn the_next_look_is_due_when_something_changes_by_time_alone() {
        let due = due(at(0), at(1000), place(ctx(1).host_id));
        assert_eq!(next_change(&ctx(-5)), Some(at(0)));
        assert_eq!(next_change(&ctx(1)), Some(due));
        assert_eq!(next_change(&ctx(900)), Some(at(1000)));
        assert_eq!(next_change(&ctx(1000)), None);
    }

    #[test]
    fn who_signs_decides_and_a_successor_must_last_longer() {
        let of = |ctx: &PhaseContext| standing(ctx, CertPurpose::KubeletServer);
        let mut late = ctx(800);
        assert_eq!(of(&late), Standing::Due);
        let issuer = late.material[&CertPurpose::KubeletServer]
            .certificate
            .as_ref()
            .expect("seen")
            .issuer;
        late.authorities = vec![AuthoritySeen {
            authority: Authority::Cluster,
            digest: issuer,
            not_before: at(0),
            not_after: at(1000),
            signs: true,
        }];
        assert_eq!(of(&late), Standing::Good, "its authority ends with it");
        late.authorities[0].not_after = at(1001);
        assert_eq!(of(&late), Standing::Due);
        late.now = at(10);
        assert_eq!(of(&late), Standing::Good);
        late.authorities[0].digest = Digest::of(b"another");
        assert_eq!(of(&late), Standing::Superseded);
        late.authorities[0].signs = false;
        assert_eq!(of(&late), Standing::Good, "believed only");
    }
}
