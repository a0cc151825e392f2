//! How long the API server's audit is kept: who asked it for what.
//!
//! It is on by default: a person acts through the plane by impersonation, and only the API server can say what
//! became of it. What it takes of the disk is bounded whatever is told here, so that the agent's share of it stays one
//! number. Rejected: a size that a spec chooses. It would be one more way to fill the disk that etcd is on.

use serde::{Deserialize, Serialize};

/// Largest file of the audit, MiB.
pub const API_AUDIT_FILE_MIB: u32 = 32;
/// How many older files are kept beside it. All of it is a quarter of a gibibyte, about a quarter of a million requests.
pub const API_AUDIT_OLDER: u32 = 7;
/// How long an older file is kept where nothing is told: what happened last month can be looked up.
const KEEP_DAYS: u32 = 30;
/// Longest: ten years. More is a mistake of units.
const KEEP_DAYS_MAX: u32 = 3660;

/// The API server's audit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiAudit {
    /// There is none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub off: bool,
    /// Days after which an older file is deleted; absent: 30. Sooner where there are too many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_days: Option<u32>,
}

// === impl ApiAudit ===

impl ApiAudit {
    /// Nothing was said: it is kept for the usual time.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Days after which an older file is deleted.
    pub fn keep_days(&self) -> u32 {
        self.keep_days.unwrap_or(KEEP_DAYS)
    }

    /// What is wrong with it: the field, and why.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let days = self.keep_days();
        let good = (1..=KEEP_DAYS_MAX).contains(&days);
        // The API server takes 0 for no limit.
        (!good).then(|| ("keep_days", format!("{days} is not 1 to {KEEP_DAYS_MAX}")))
    }
}

/// What all of its files together never exceed.
pub fn api_audit_most_bytes() -> u64 {
    let files = u64::from(API_AUDIT_OLDER) + 1;
    files * (u64::from(API_AUDIT_FILE_MIB) << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_on_for_a_month_unless_told_and_never_without_a_bound() {
        let none = ApiAudit::default();
        assert!(none.is_default() && !none.off);
        assert_eq!((none.keep_days(), none.fault()), (30, None));
        let of = |days| ApiAudit {
            keep_days: Some(days),
            ..ApiAudit::default()
        };
        for good in [1, 90, KEEP_DAYS_MAX] {
            assert_eq!(of(good).fault(), None, "{good}");
            assert!(!of(good).is_default());
        }
        for bad in [0, KEEP_DAYS_MAX + 1, u32::MAX] {
            let field = of(bad).fault().map(|(field, _)| field);
            assert_eq!(field, Some("keep_days"), "{bad}");
        }
        assert_eq!(api_audit_most_bytes(), 256 << 20);
    }
}
