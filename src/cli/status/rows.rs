//! Rows of the screen that are lists: certificates, what is ours on the disks, repairs, what differs. Pure.

use super::StatusReport;
use super::used::Used;
use crate::cli::output::{Ink, Screen};
use crate::cli::words::{ago, size, span};
use crate::model::{Expiry, LinkChange, LinkEvent, NodeStatus, Pressure, TimeKeeping, Timestamp};
use crate::nodelet::plan::StepWords;

/// Repairs that are shown; the document has more of them.
const REPAIRS_SHOWN: usize = 3;
/// Changes of interfaces that are shown; the document has more of them.
const LINKS_SHOWN: usize = 3;
/// Percent of a minute from which waiting is felt.
const PRESSURE_FELT: f64 = 10.0;
/// Steps that are shown; `pf9ctl plan` has all.
const DRIFT_SHOWN: usize = 4;

/// How long every certificate is good, the first to end before the others.
pub(in crate::cli) fn certificates(all: &[Expiry], now: Timestamp) -> Option<String> {
    let mut all: Vec<&Expiry> = all.iter().collect();
    all.sort_by_key(|c| c.not_after);
    let each = all.iter().map(|c| match c.not_after <= now {
        true => format!("{} EXPIRED {}", c.name, ago(now, c.not_after)),
        false => format!("{} {}", c.name, span(c.not_after.duration_since(now))),
    });
    let text = each.collect::<Vec<_>>().join(" · ");
    (!text.is_empty()).then_some(text)
}

/// `logs 12 MiB of 350 MiB · stacks 1.2 GiB`.
pub(in crate::cli) fn used(all: &[Used]) -> Option<String> {
    let each = all.iter().map(|u| {
        let more = if u.at_least { "more than " } else { "" };
        let most = u.most_bytes.map(|most| format!(" of {}", size(most)));
        format!(
            "{} {more}{}{}",
            u.what,
            size(u.bytes),
            most.unwrap_or_default()
        )
    });
    let text = each.collect::<Vec<_>>().join(" · ");
    (!text.is_empty()).then_some(text)
}

/// What it is short of, a clock that nothing keeps, and interfaces that changed: nothing while all is well.
pub(in crate::cli) fn of_the_machine(screen: &mut Screen, report: &StatusReport, width: usize) {
    if let Some(text) = report.pressure.as_ref().and_then(pressure) {
        screen.row("pressure", Ink::Plain, &text, width);
    }
    if let Some(text) = report.time.as_ref().and_then(clock) {
        screen.row("clock", Ink::Warn, &text, width);
    }
    let newest = report.link_changes.iter().rev().take(LINKS_SHOWN);
    for (n, change) in newest.enumerate() {
        let head = if n == 0 { "interfaces" } else { "" };
        screen.row(head, Ink::Plain, &link(change, report.taken_at), width);
    }
}

fn link(change: &LinkChange, now: Timestamp) -> String {
    let what = match change.what {
        LinkEvent::Came => "was added",
        LinkEvent::Went => "is gone",
        LinkEvent::Up => "is up again",
        LinkEvent::Down => "went down",
    };
    format!("{}: {} {what}", ago(now, change.at), change.name)
}

/// `programs waited for cpu 84 %, io 12 % of the last minute`; nothing below what is felt.
fn pressure(pressure: &Pressure) -> Option<String> {
    let all = [
        ("cpu", pressure.cpu),
        ("memory", pressure.memory),
        ("io", pressure.io),
    ];
    if all.iter().all(|(_, stall)| stall.is_none()) {
        return Some("not measured by this kernel (boot it with psi=1)".to_owned());
    }
    let felt = all.into_iter().filter_map(|(what, stall)| {
        let percent = stall?.some60;
        (percent >= PRESSURE_FELT).then(|| format!("{what} {percent:.0} %"))
    });
    let text = felt.collect::<Vec<_>>().join(", ");
    (!text.is_empty()).then(|| format!("programs waited for {text} of the last minute"))
}

fn clock(time: &TimeKeeping) -> Option<String> {
    let fix = "timedatectl set-ntp true, or install chrony";
    match (&time.keeper, time.synchronised) {
        (None, _) => Some(format!("no time service runs: {fix}")),
        (Some(keeper), Some(false)) => Some(format!("{keeper} has not synchronised it since boot")),
        (Some(_), Some(true) | None) => None,
    }
}

/// What was put right lately, and what was restarted.
pub(in crate::cli) fn repairs(
    screen: &mut Screen,
    node: &NodeStatus,
    now: Timestamp,
    width: usize,
) {
    let newest = node.repairs.iter().rev().take(REPAIRS_SHOWN);
    let each = newest.map(|r| format!("{}: {} ({})", ago(now, r.at), r.what, r.why));
    let revived = node.revived.iter().map(|r| {
        let times = if r.times == 1 {
            "once".to_owned()
        } else {
            format!("{} times", r.times)
        };
        format!(
            "{}: {} was restarted, {times} so far: {}",
            ago(now, r.last_at),
            r.unit,
            r.why
        )
    });
    for (n, text) in each.chain(revived).enumerate() {
        screen.row(
            if n == 0 { "repaired" } else { "" },
            Ink::Plain,
            &text,
            width,
        );
    }
}

/// What is not as it should be, where that was asked for.
pub(in crate::cli) fn drift(screen: &mut Screen, report: &StatusReport, width: usize) {
    let Some(steps) = &report.drift else { return };
    if steps.is_empty() {
        screen.row("differs", Ink::Good, "nothing", width);
    }
    for (n, step) in steps.iter().take(DRIFT_SHOWN).enumerate() {
        let StepWords { what, why, .. } = step;
        screen.row(
            if n == 0 { "differs" } else { "" },
            Ink::Warn,
            &format!("{what}: {why}"),
            width,
        );
    }
    if let more @ 1.. = steps.len().saturating_sub(DRIFT_SHOWN) {
        screen.row(
            "",
            Ink::Warn,
            &format!("and {more} more: pf9ctl plan"),
            width,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Stall;

    #[test]
    fn pressure_is_shown_where_it_is_felt_and_where_the_kernel_measures_none() {
        let stall = |some60: f64| {
            Some(Stall {
                some60,
                ..Stall::default()
            })
        };
        let with = |cpu: f64, io: f64| Pressure {
            cpu: stall(cpu),
            memory: stall(0.2),
            io: stall(io),
        };
        assert_eq!(pressure(&with(9.9, 0.0)), None);
        let felt = "programs waited for cpu 84 %, io 12 % of the last minute";
        assert_eq!(pressure(&with(84.4, 12.0)).as_deref(), Some(felt));
        let none = pressure(&Pressure::default()).expect("a row");
        assert!(none.contains("psi=1"), "{none}");
    }

    #[test]
    fn a_clock_is_shown_that_nothing_keeps_or_sets() {
        let with = |keeper: Option<&str>, synchronised| {
            clock(&TimeKeeping {
                keeper: keeper.map(str::to_owned),
                synchronised,
            })
        };
        assert_eq!(with(Some("chrony"), None), None);
        assert_eq!(with(Some("systemd-timesyncd"), Some(true)), None);
        let never = with(Some("systemd-timesyncd"), Some(false)).expect("a row");
        assert!(never.contains("has not synchronised"), "{never}");
        let nobody = with(None, None).expect("a row");
        assert!(nobody.contains("install chrony"), "{nobody}");
    }

    #[test]
    fn a_change_of_an_interface_is_one_line() {
        let at = |second| Timestamp::from_second(second).expect("time");
        let change = LinkChange {
            at: at(100),
            name: "eth1".into(),
            what: LinkEvent::Down,
        };
        let text = link(&change, at(160));
        assert!(text.ends_with(": eth1 went down"), "{text}");
    }
}
