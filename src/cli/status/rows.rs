//! Rows of the screen that are lists: certificates, what is ours on the disks, repairs, what differs. Pure.

use super::StatusReport;
use super::used::Used;
use crate::cli::output::{Ink, Screen};
use crate::cli::words::{ago, size, span};
use crate::model::{Expiry, NodeStatus, Timestamp};
use crate::nodelet::plan::StepWords;

/// Repairs that are shown; the document has more of them.
const REPAIRS_SHOWN: usize = 3;
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
