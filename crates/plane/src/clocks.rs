//! Clocks of hosts compared to the plane's: pure. A host whose clock is hours off rejects certificates that were just
//! signed, and the times in its etcd, logs and leases are wrong. It gets a notice over the connection it still has;
//! once its clock is set, its next status gets none.

use jiff::{SignedDuration, Timestamp};

use pf9_hostagent::model::{Fault, FaultCode};

/// More than a status takes in transit, and less than the skew that nodes allow in a new certificate.
const APART: SignedDuration = SignedDuration::from_mins(2);
const MINUTE_S: i64 = 60;
const HOUR_S: i64 = 3600;

/// The notice for a host that sent a status at this moment of its own clock; `now` is the plane's.
pub(super) fn notice(sent_at: Timestamp, now: Timestamp) -> Option<Fault> {
    let behind = now.duration_since(sent_at);
    if behind.abs() < APART {
        return None;
    }
    let side = if behind.is_positive() {
        "behind"
    } else {
        "ahead of"
    };
    let what = format!(
        "this machine's clock is {} {side} the plane's",
        shown(behind.abs())
    );
    let why = format!(
        "it reads {sent_at}, the plane {now}; certificates signed now are not valid here yet, or expire too soon"
    );
    let fix = "timedatectl set-ntp true, or set it by hand and install chrony; the node continues \
        automatically. If it is right, the plane's is wrong";
    Some(Fault::new(FaultCode::ClockOff, what, why).fix(fix))
}

/// `3 h 5 min`.
fn shown(by: SignedDuration) -> String {
    let (hours, minutes) = (by.as_secs() / HOUR_S, by.as_secs() % HOUR_S / MINUTE_S);
    match hours {
        0 => format!("{minutes} min"),
        hours => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_clock_gets_a_notice_until_it_is_set() {
        let now: Timestamp = "2026-11-29T10:00:00Z".parse().expect("time");
        let said = |minutes: i64| notice(now - SignedDuration::from_mins(minutes), now);
        for near in [-1, 0, 1] {
            assert_eq!(said(near), None);
        }
        let behind = said(185).expect("said");
        assert_eq!(behind.code, FaultCode::ClockOff);
        assert!(
            behind.what.contains("3 h 5 min behind the plane's"),
            "{behind}"
        );
        assert!(
            behind.why.contains("06:55") && behind.fix.contains("set-ntp"),
            "{behind}"
        );
        let ahead = said(-2).expect("said");
        assert!(ahead.what.contains("2 min ahead of the plane's"), "{ahead}");
        assert!(
            notice(Timestamp::MIN, Timestamp::MAX).is_some(),
            "whatever it says"
        );
    }
}
