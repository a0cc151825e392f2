//! How long a certificate lives, when it is renewed, and what a person must know about it: pure, the same for every
//! certificate of a node.

use crate::model::FaultCode;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::Fault;

/// Certificates of the plane begin this much before they are made: clocks may differ. Arithmetic
/// with a lifetime leaves this out, or a certificate of a few minutes would be born overdue.
pub const BACKDATED: SignedDuration = SignedDuration::from_mins(5);

/// But by no more than this part of their life.
const BACKDATED_PART: i32 = 10;

/// How long before it is made a certificate of this life begins.
pub fn backdating(life: SignedDuration) -> SignedDuration {
    BACKDATED.min(life / BACKDATED_PART)
}

/// The time a certificate is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// As it says.
    pub not_before: Timestamp,
    /// As it says.
    pub not_after: Timestamp,
}

/// When a certificate ends, and whether it will be renewed in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiry {
    /// Stable kebab-case word: `host`, `plane-ca`, or the purpose of a node's certificate.
    pub name: String,
    /// When it ends.
    pub not_after: Timestamp,
    /// When renewal is due; absent where that is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_at: Option<Timestamp>,
    /// Why the last try to renew it failed; gone with the renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

// === impl Life ===

impl Life {
    /// When it was made, as far as the certificate tells.
    pub fn begun(self) -> Timestamp {
        let said = self.not_after.duration_since(self.not_before);
        // What it says is its life and the backdating, which is a tenth of that life at the most.
        let backdated = BACKDATED.min(said / (BACKDATED_PART + 1));
        after(self.not_before, backdated.as_millis()).min(self.not_after)
    }

    /// When renewal is due: between two thirds and three quarters of its life, by `jitter` (0 to 1): a fleet that
    /// enrolled on one day does not renew on one day. A third of the life is left for obstacles.
    pub fn due(self, jitter: f64) -> Timestamp {
        let jitter = jitter.clamp(0.0, 1.0);
        self.at(2.0 / 3.0 + jitter / 12.0)
    }

    /// The moment when this part of it is over.
    pub fn at(self, part: f64) -> Timestamp {
        // A life of 200 years in milliseconds is far below 2^53: nothing is lost.
        let whole = self.whole_ms() as f64;
        after(self.begun(), (whole * part.clamp(0.0, 1.0)) as i128).min(self.not_after)
    }

    /// This part of it as a time.
    pub fn part(self, part: f64) -> std::time::Duration {
        let whole = u64::try_from(self.whole_ms()).unwrap_or(0);
        std::time::Duration::from_millis(whole).mul_f64(part.clamp(0.0, 1.0))
    }

    /// Whether it is over.
    pub fn is_over(self, now: Timestamp) -> bool {
        now >= self.not_after
    }

    fn whole_ms(self) -> i64 {
        let (from, until) = (self.begun(), self.not_after);
        until.as_millisecond().saturating_sub(from.as_millisecond())
    }
}

/// `ms` after a moment; never beyond the end of time.
fn after(at: Timestamp, ms: i128) -> Timestamp {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    let sum = at.as_millisecond().saturating_add(ms);
    Timestamp::from_millisecond(sum).unwrap_or(Timestamp::MAX)
}

// === impl Expiry ===

impl Expiry {
    /// One that nothing is known of but its end.
    pub fn new(name: impl Into<String>, not_after: Timestamp) -> Self {
        Self {
            name: name.into(),
            not_after,
            renew_at: None,
            fault: None,
        }
    }

    /// What a person must know: it is over, or due and not renewed. Gone when it is renewed.
    pub fn warning(&self, now: Timestamp) -> Option<Fault> {
        let why = match (&self.fault, self.renew_at) {
            (Some(fault), _) => Some(format!("{}: {}", fault.what, fault.why)),
            (None, Some(at)) if self.is_late(at, now) => {
                Some(format!("it was due at {}", second(at)))
            }
            (None, Some(_) | None) => None,
        };
        let end = second(self.not_after);
        let mut warning = if now >= self.not_after {
            let what = format!("certificate {} has expired", self.name);
            let why = why.unwrap_or_else(|| "it was not renewed in time".to_owned());
            Fault::new(
                FaultCode::CertificateExpired,
                what,
                format!("since {end}; {why}"),
            )
        } else {
            let what = format!("certificate {} is not renewed", self.name);
            let why = format!("{}; it expires at {end}", why?);
            Fault::new(FaultCode::CertificateNotRenewed, what, why)
        };
        if let Some(fault) = &self.fault {
            warning.fix.clone_from(&fault.fix);
            warning.next_try = fault.next_try;
        }
        Some(warning)
    }

    /// A renewal takes seconds; a third of what is left after it was due is time for a machine that
    /// was asleep, or a plane that was away.
    fn is_late(&self, renew_at: Timestamp, now: Timestamp) -> bool {
        let left = self.not_after.as_millisecond() - renew_at.as_millisecond();
        now >= after(renew_at, i128::from(left.max(0) / 3))
    }
}

fn second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("time")
    }

    fn life(begun: i64, length: i64) -> Life {
        Life {
            not_before: at(begun) - backdating(SignedDuration::from_secs(length)),
            not_after: at(begun + length),
        }
    }

    #[test]
    fn a_year_is_renewed_in_its_ninth_month_and_ten_seconds_in_the_seventh() {
        let year = life(0, 360);
        assert_eq!((year.begun(), year.due(0.0)), (at(0), at(240)));
        assert_eq!(year.due(1.0), at(270));
        let short = life(1_000_000, 12);
        assert_eq!(
            (short.due(0.0), short.due(1.0)),
            (at(1_000_008), at(1_000_009))
        );
        assert_eq!(short.part(0.25), std::time::Duration::from_secs(3));
    }

    proptest! {
        /// Never before two thirds, never after three quarters, never beyond its end; whatever a
        /// certificate says.
        #[test]
        fn it_is_due_in_its_last_third(
            from in -200_000_000_000i64..200_000_000_000,
            length in -1_000_000i64..4_000_000_000,
            jitter in -1.0f64..2.0,
        ) {
            let life = Life {
                not_before: at(from),
                not_after: Timestamp::from_second(from + length).unwrap_or(Timestamp::MAX),
            };
            let (begun, due) = (life.begun(), life.due(jitter));
            prop_assert!(begun <= life.not_after && due <= life.not_after.max(begun));
            let whole = life.not_after.as_millisecond() - begun.as_millisecond();
            let gone = due.as_millisecond() - begun.as_millisecond();
            prop_assert!(gone >= whole * 2 / 3 - 2, "{gone} of {whole}");
            prop_assert!(gone <= whole * 3 / 4 + 2, "{gone} of {whole}");
        }

        /// More jitter is never earlier.
        #[test]
        fn jitter_only_delays(length in 1i64..400_000_000, a in 0.0f64..1.0, b in 0.0f64..1.0) {
            let life = life(0, length);
            prop_assert!(life.due(a.min(b)) <= life.due(a.max(b)));
        }

        /// A warning is there from some moment on, and says the end.
        #[test]
        fn a_warning_comes_once_and_stays(due in 0i64..1000, left in 1i64..1000, t in 0i64..3000) {
            let expiry = Expiry { renew_at: Some(at(due)), ..Expiry::new("host", at(due + left)) };
            let warned = |t| expiry.warning(at(t)).is_some();
            prop_assert!(!warned(due - 1) && warned(due + left));
            prop_assert!(!warned(t) || warned(t + 1));
        }
    }

    #[test]
    fn a_warning_says_why_and_goes_with_the_renewal() {
        let mut expiry = Expiry {
            renew_at: Some(at(60)),
            ..Expiry::new("host", at(90))
        };
        assert_eq!(expiry.warning(at(69)), None, "it may take a while");
        let code = |e: &Expiry, t| e.warning(at(t)).map(|f| f.code.to_string());
        assert_eq!(
            code(&expiry, 70).as_deref(),
            Some("certificate-not-renewed")
        );
        let fault = Fault::new(
            FaultCode::PlaneAway,
            "cannot ask",
            "the plane does not answer",
        );
        expiry.fault = Some(fault.fix("wait").next_try(at(65)));
        let said = expiry.warning(at(61)).expect("warning");
        assert!(said.why.contains("the plane does not answer"), "{said}");
        assert_eq!((said.fix.as_str(), said.next_try), ("wait", Some(at(65))));
        assert_eq!(code(&expiry, 90).as_deref(), Some("certificate-expired"));
        expiry = Expiry::new("host", at(200));
        assert_eq!(expiry.warning(at(100)), None);
    }
}
