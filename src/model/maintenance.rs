//! Maintenance: for a time nothing on a host is repaired or changed, and its state is reported as usual.
//!
//! Root of the host begins it, or the plane with the signed spec. What may begin it, and for how long, is here;
//! how its time is counted on the host is `host::maintenance`.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Fault, FaultCode};

/// Longest that one order may last: a weekend with a day on either side. A host that has to stay untouched for longer
/// is detached; a forgotten maintenance must not become the usual state.
pub const MAINTENANCE_MAX: Duration = Duration::from_secs(72 * 3600);
/// Shortest: a look at the whole host takes seconds, and a shorter one would be over before it is seen.
pub const MAINTENANCE_MIN: Duration = Duration::from_secs(60);
/// Longest reason, in bytes: it stands in one line of a log.
pub const MAINTENANCE_REASON_MAX: usize = 256;

/// The plane's order, in the spec. It is counted from when the host first gets it, by the host's own clocks;
/// the plane takes it out of the spec when the time is over by its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceOrder {
    /// Which order: one that is over, or that root of the host ended, does not start over.
    pub id: Uuid,
    /// How long, in seconds.
    pub for_s: u32,
    /// Why, for people.
    pub reason: String,
}

/// The issuer of a maintenance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaintenanceBy {
    /// Root of this host.
    Root,
    /// The plane.
    Plane,
}

/// The maintenance that a host is in; of two the one that lasts longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceStatus {
    /// Its issuer.
    pub by: MaintenanceBy,
    /// Why.
    pub reason: String,
    /// When it began, by the host's clock.
    pub since: Timestamp,
    /// When it ends by itself, by the host's clock as it is now.
    pub until: Timestamp,
}

/// Root's order, on nodelet's socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceRequest {
    /// How long, in seconds.
    pub for_s: u32,
    /// Why.
    pub reason: String,
}

/// Why an order of maintenance is none.
pub fn maintenance_fault(for_s: u32, reason: &str) -> Option<String> {
    let length = Duration::from_secs(for_s.into());
    if length < MAINTENANCE_MIN || length > MAINTENANCE_MAX {
        return Some(format!(
            "it would last {for_s} s; {} s to {} h are allowed",
            MAINTENANCE_MIN.as_secs(),
            MAINTENANCE_MAX.as_secs() / 3600
        ));
    }
    if reason.trim().is_empty() || reason.len() > MAINTENANCE_REASON_MAX {
        return Some(format!(
            "its reason has {} bytes; 1 to {MAINTENANCE_REASON_MAX} are allowed",
            reason.trim().len()
        ));
    }
    let plain = !reason.chars().any(char::is_control);
    (!plain).then(|| "its reason is not one line of text".to_owned())
}

impl MaintenanceBy {
    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Plane => "plane",
        }
    }
}

impl std::fmt::Display for MaintenanceBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Root => "root of this host",
            Self::Plane => "the plane",
        })
    }
}

impl MaintenanceStatus {
    /// Why a host is not `ok`, in the words that go everywhere. `left`: what differs and is left as it is.
    pub fn fault(&self, left: Option<&str>) -> Fault {
        let differs = left.map(|l| format!("; {l}")).unwrap_or_default();
        let why = format!(
            "{} ordered it until {:.0}: {}{differs}",
            self.by, self.until, self.reason
        );
        Fault::new(
            FaultCode::Maintenance,
            "nothing is repaired or changed: this host is in maintenance",
            why,
        )
        .fix("to end it before its time: pf9ctl maintenance end on the host")
        .next_try(self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_an_end_and_a_reason() {
        assert_eq!(maintenance_fault(7200, "a disk is replaced"), None);
        assert_eq!(maintenance_fault(72 * 3600, "x"), None);
        for (for_s, reason) in [
            (0, "x"),
            (59, "x"),
            (72 * 3600 + 1, "x"),
            (u32::MAX, "x"),
            (7200, ""),
            (7200, "  "),
            (7200, "two\nlines"),
            (7200, &"x".repeat(MAINTENANCE_REASON_MAX + 1)),
        ] {
            assert!(
                maintenance_fault(for_s, reason).is_some(),
                "{for_s} {reason:?}"
            );
        }
    }
}
