//! The plane, as it was reached: judged here, contacted by the caller.

use jiff::SignedDuration;

use super::{Finding, Thresholds};
use crate::model::{Fault, FaultCode, Timestamp};

/// What the checks of the plane look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlaneSeen {
    /// Every endpoint, in the order in which the tunnel prefers them.
    pub endpoints: Vec<EndpointSeen>,
    /// Why none was gone to.
    pub not_gone: Option<String>,
    /// Why none can be gone to.
    pub fault: Option<Fault>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSeen {
    /// Its URL.
    pub endpoint: String,
    /// The hops that went well, in their order.
    pub hops: Vec<HopSeen>,
    /// The hop that did not.
    pub failed: Option<String>,
    /// Why not.
    pub fault: Option<Fault>,
    /// What its clock said.
    pub clock: Option<ClockSeen>,
}

/// One hop of the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HopSeen {
    /// e.g. `TLS with the plane`.
    pub name: String,
    /// Microseconds.
    pub us: u64,
    /// What was found there.
    pub found: String,
}

/// The plane's clock, read through a question and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSeen {
    /// Our time when it was asked.
    pub sent: Timestamp,
    /// Our time when the answer was there.
    pub got: Timestamp,
    /// What the answer says (HTTP `Date`).
    pub date: Timestamp,
    /// Whether it is certain whose clock that is.
    pub proven: bool,
}

/// `Date` says whole seconds, and a server may show one that it made a second ago.
const DATE_SPAN_MS: i64 = 2000;

impl ClockSeen {
    /// How far our clock is ahead (behind: less than 0), and by how much that may be wrong, milliseconds.
    ///
    /// The answer was made between the question and its coming, when the plane's clock said something between `date`
    /// and two seconds more.
    pub fn offset_ms(&self) -> (i64, i64) {
        let ms = |from: Timestamp, to: Timestamp| {
            i64::try_from(to.duration_since(from).as_millis()).unwrap_or(i64::MAX)
        };
        let most = ms(self.date, self.got);
        let least = ms(self.date, self.sent).saturating_sub(DATE_SPAN_MS);
        // A clock that was set back between question and answer says nothing: as wide as that is.
        let (least, most) = (least.min(most), most.max(least));
        let half = most.saturating_sub(least) / 2;
        (least.saturating_add(half), half)
    }
}

/// The time of HTTP's `Date`: `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that is written today.
pub fn http_date(text: &str) -> Option<Timestamp> {
    let format = "%a, %d %b %Y %H:%M:%S GMT";
    let at = jiff::fmt::strtime::parse(format, text.trim()).ok()?;
    let at = at.to_datetime().ok()?;
    at.to_zoned(jiff::tz::TimeZone::UTC)
        .ok()
        .map(|z| z.timestamp())
}

pub(super) fn reached(seen: &PlaneSeen) -> Finding {
    let wanted = "every endpoint answers, and accepts this host's tunnel";
    if let Some(fault) = &seen.fault {
        return failed(Finding::new(fault.what.clone(), wanted), fault);
    }
    if let Some(why) = &seen.not_gone {
        return Finding::new("not tried", wanted).skip(why.clone());
    }
    let good = seen.endpoints.iter().filter(|e| e.fault.is_none());
    let (good, all) = (good.count(), seen.endpoints.len());
    let busy = seen.endpoints.iter().any(EndpointSeen::is_busy);
    let found = match (good, seen.endpoints.as_slice()) {
        (1, [one]) => format!("{} in {}", one.endpoint, millis(one.whole())),
        (_, [one]) if busy => format!("{}: reached, and busy", one.endpoint),
        (_, [one]) => format!("{}: not reached", one.endpoint),
        (_, _) => format!("{good} of {all} endpoints"),
    };
    let finding = Finding::new(found, wanted).evidence(lines(seen));
    let first = seen.endpoints.iter().find_map(|e| e.fault.as_ref());
    match first {
        None => finding,
        // A plane that has no room now is no defect of this machine or of its network.
        Some(fault) if good > 0 || busy => finding
            .warn(fault.why.clone(), fault.fix.clone())
            .code(fault.code),
        Some(fault) => failed(finding, fault),
    }
}

fn failed(finding: Finding, fault: &Fault) -> Finding {
    let finding = finding.fail(fault.why.clone(), fault.fix.clone());
    finding.code(fault.code)
}

impl EndpointSeen {
    /// It was reached, and puts everybody off, or this machine for it dialled often.
    fn is_busy(&self) -> bool {
        let fault = self.fault.as_ref();
        fault.is_some_and(|fault| fault.code == FaultCode::PlaneBusy)
    }

    fn whole(&self) -> u64 {
        self.hops.iter().map(|h| h.us).sum()
    }
}

fn lines(seen: &PlaneSeen) -> Vec<String> {
    let mut all = Vec::new();
    for endpoint in &seen.endpoints {
        all.push(endpoint.endpoint.clone());
        for hop in &endpoint.hops {
            all.push(format!(
                "  {}: {} ({})",
                hop.name,
                hop.found,
                millis(hop.us)
            ));
        }
        if let Some(hop) = &endpoint.failed {
            all.push(format!("  {hop}: failed"));
        }
        if let Some(fault) = &endpoint.fault {
            all.push(format!("  {}", fault.why));
        }
    }
    all
}

fn millis(us: u64) -> String {
    format!("{}.{} ms", us / 1000, us % 1000 / 100)
}

pub(super) fn clock_offset(seen: &PlaneSeen) -> Finding {
    let limits = &Thresholds::ours().time;
    let wanted = format!("within {} of the plane's", seconds(limits.offset_good_ms));
    let clocks = seen.endpoints.iter().filter_map(|e| e.clock.as_ref());
    // The answer that came soonest says most.
    let best = clocks.min_by_key(|c| c.offset_ms().1);
    let Some(clock) = best else {
        let why = seen.not_gone.clone();
        let why = why.unwrap_or_else(|| "no endpoint of the plane sent its time".to_owned());
        return Finding::new("not measured", wanted).skip(why);
    };
    let (offset, half) = clock.offset_ms();
    let way = if offset < 0 { "behind" } else { "ahead of" };
    let mut found = format!(
        "{} {way} the plane's, give or take {}",
        seconds(offset.saturating_abs()),
        seconds(half)
    );
    if !clock.proven {
        found.push_str(" (enrolment will show whose clock it is)");
    }
    let finding = Finding::new(found, wanted);
    // What is certain of it: no false alarm on a slow line.
    let certain = offset.saturating_abs().saturating_sub(half);
    let fix = "timedatectl set-ntp true (or chronyc makestep); then check again";
    if certain > limits.offset_most_ms {
        let why = "certificates that were just issued are not valid yet, or already expired";
        // An unauthenticated clock forbids nothing.
        return match clock.proven {
            true => finding.fail(why, fix),
            false => finding.warn(why, fix),
        };
    }
    if certain > limits.offset_good_ms {
        return finding.warn("logs and events of machines do not line up", fix);
    }
    finding
}

/// `0.4 s`, `3 min 5 s`.
fn seconds(ms: i64) -> String {
    if ms < 60_000 {
        return format!("{}.{} s", ms / 1000, ms % 1000 / 100);
    }
    let whole = SignedDuration::from_millis(ms).as_secs();
    match whole {
        0..=7199 => format!("{} min {} s", whole / 60, whole % 60),
        7200..=172_799 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} days", whole / 86_400),
    }
}

impl PlaneSeen {
    /// Nobody was gone to, and why.
    pub fn none(why: impl Into<String>) -> Self {
        Self {
            not_gone: Some(why.into()),
            ..Self::default()
        }
    }

    /// It cannot be gone to: the files that say how are not usable.
    pub fn unusable(fault: Fault) -> Self {
        Self {
            fault: Some(fault),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::CheckOutcome;
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-11-21T10:00:{text}Z").parse().expect("time")
    }

    fn clock(sent: &str, got: &str, date: &str) -> ClockSeen {
        ClockSeen {
            sent: at(sent),
            got: at(got),
            date: at(date),
            proven: true,
        }
    }

    fn told(clock: ClockSeen) -> PlaneSeen {
        PlaneSeen {
            endpoints: vec![EndpointSeen {
                endpoint: "wss://plane.example/v1/tunnel".into(),
                hops: vec![HopSeen {
                    name: "TLS with the plane".into(),
                    us: 31_900,
                    found: "TLS 1.3".into(),
                }],
                failed: None,
                fault: None,
                clock: Some(clock),
            }],
            ..PlaneSeen::default()
        }
    }

    #[test]
    fn the_offset_lies_in_what_is_said_wherever_the_truth_is() {
        // True offset and delays: what is measured must contain the truth.
        for offset in [-90_000_i64, -1500, 0, 700, 3000, 3_600_000] {
            for (there, back) in [(0_i64, 0_i64), (20, 20), (900, 0), (0, 900), (4000, 100)] {
                for made in [0_i64, 400, 999, 1600] {
                    let base = at("30");
                    let ms = SignedDuration::from_millis;
                    let served = base + ms(made);
                    // The plane shows a Date that is up to a second old.
                    let date = Timestamp::from_second(served.as_second() - i64::from(made >= 1000))
                        .expect("second");
                    let seen = ClockSeen {
                        sent: served + ms(offset - there),
                        got: served + ms(offset + back),
                        date,
                        proven: true,
                    };
                    let (said, half) = seen.offset_ms();
                    assert!(
                        (said - offset).abs() <= half + 1,
                        "{offset} ms is not in {said} ± {half}"
                    );
                }
            }
        }
    }

    #[test]
    fn only_what_is_certain_is_an_alarm() {
        let judged = |c: ClockSeen| clock_offset(&told(c)).outcome;
        assert_eq!(judged(clock("10.0", "10.1", "10")), CheckOutcome::Ok);
        // 3 s ahead or more, and it took no time.
        assert_eq!(judged(clock("15.0", "15.1", "10")), CheckOutcome::Warn);
        // It may be the line.
        assert_eq!(judged(clock("10.0", "16.0", "10")), CheckOutcome::Ok);
        let mut hour = clock("10.0", "10.1", "10");
        hour.date -= SignedDuration::from_hours(1);
        assert_eq!(judged(hour), CheckOutcome::Fail);
        let finding = clock_offset(&told(hour));
        assert!(
            finding.found.contains("59 min 59 s ahead of"),
            "{}",
            finding.found
        );
        hour.proven = false;
        assert_eq!(judged(hour), CheckOutcome::Warn);
        let mut behind = clock("10.0", "10.1", "10");
        behind.date += SignedDuration::from_hours(100);
        let finding = clock_offset(&told(behind));
        assert!(finding.found.contains("4 days behind"), "{}", finding.found);
        assert_eq!(
            clock_offset(&PlaneSeen::none("no")).outcome,
            CheckOutcome::Skip
        );
    }

    #[test]
    fn a_plane_that_is_busy_is_a_warning_and_one_that_is_not_reached_a_failure() {
        let judged = |codes: &[Option<FaultCode>]| {
            let mut seen = told(clock("10.0", "10.1", "10"));
            let [one] = &seen.endpoints[..] else {
                panic!("{seen:?}")
            };
            let with = |code: &Option<FaultCode>| EndpointSeen {
                fault: code.map(|code| Fault::new(code, "cannot connect", "it says so")),
                ..one.clone()
            };
            seen.endpoints = codes.iter().map(with).collect();
            let finding = reached(&seen);
            (finding.outcome, finding.found)
        };
        let (busy, away) = (Some(FaultCode::PlaneBusy), Some(FaultCode::PlaneTimeout));
        let (outcome, found) = judged(&[busy]);
        assert_eq!(outcome, CheckOutcome::Warn);
        assert!(found.ends_with("reached, and busy"), "{found}");
        assert_eq!(judged(&[away]).0, CheckOutcome::Fail);
        assert_eq!(judged(&[None]).0, CheckOutcome::Ok);
        // One that answers is enough, and one that would.
        assert_eq!(judged(&[away, None]).0, CheckOutcome::Warn);
        assert_eq!(judged(&[away, busy]).0, CheckOutcome::Warn);
        assert_eq!(judged(&[away, away]).0, CheckOutcome::Fail);
    }

    #[test]
    fn dates_are_read_and_nothing_else_is() {
        let want: Timestamp = "1994-11-06T08:49:37Z".parse().expect("time");
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(want));
        for bad in [
            "",
            "now",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 99 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(http_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn one_endpoint_that_does_not_answer_is_a_warning_and_all_of_them_a_failure() {
        let mut seen = told(clock("10.0", "10.1", "10"));
        assert_eq!(reached(&seen).outcome, CheckOutcome::Ok);
        let mut dead = seen.endpoints[0].clone();
        dead.failed = Some("TCP to the plane".into());
        dead.fault =
            Some(Fault::new(FaultCode::PlaneRefused, "a", "it does not answer").fix("look"));
        seen.endpoints.push(dead.clone());
        let finding = reached(&seen);
        assert_eq!(
            (finding.outcome, finding.code),
            (CheckOutcome::Warn, Some(FaultCode::PlaneRefused))
        );
        assert!(
            finding
                .evidence
                .iter()
                .any(|l| l.contains("TCP to the plane: failed"))
        );
        seen.endpoints = vec![dead];
        assert_eq!(reached(&seen).outcome, CheckOutcome::Fail);
    }
}
