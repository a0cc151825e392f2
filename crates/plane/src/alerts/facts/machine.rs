//! What a machine is short of: memory, what all its programs wait for, and who keeps its clock.

use super::{Local, part, percent};
use crate::alerts::rules::Rule;
use pf9_hostagent::model::{HostStatus, Pressure, Stall, TimeKeeping};

/// Percent of memory: below it the kernel kills processes.
const MEMORY_LOW: u64 = 5;
/// Percent of a minute in which all programs that had work waited for memory. A machine with room for what it runs is
/// below 1; from a tenth on it looks for pages instead of working, long before anything is killed (`systemd-oomd` does at
/// 60).
const MEMORY_STALLED: f64 = 10.0;
/// The same for disks. Much higher: one program that writes on a machine that does nothing else (a backup, an image
/// that is unpacked) is half of a minute or more, and harms nobody.
const DISK_STALLED: f64 = 80.0;

/// All of it.
pub(super) fn said(status: &HostStatus) -> impl Iterator<Item = Local> {
    let waits = status.health.pressure.as_ref().map(stalled);
    let clock = status.health.time.as_ref().and_then(clock);
    let waits = waits.into_iter().flatten().flatten();
    memory(status).into_iter().chain(waits).chain(clock)
}

fn local(rule: Rule, why: String) -> Local {
    Local {
        rule,
        part: String::new(),
        urgency: rule.row().urgency,
        why,
        tried: String::new(),
    }
}

fn memory(status: &HostStatus) -> Option<Local> {
    let left = percent(
        status.health.memory_available_bytes,
        status.inventory.memory_bytes,
    );
    let left = left.filter(|left| *left < MEMORY_LOW)?;
    let why = format!("{left} % of its memory are available");
    Some(local(Rule::MemoryLow, why))
}

/// What all programs wait for. Kernels that do not measure it, and older agents, say nothing.
fn stalled(pressure: &Pressure) -> [Option<Local>; 2] {
    let of = |rule: Rule, what: &str, stall: Option<Stall>, most: f64| {
        // A host can say any number.
        let percent = stall?.full60.min(100.0);
        let why = format!("in {percent:.0} % of the last minute all of them waited for {what}");
        (percent >= most).then(|| local(rule, why))
    };
    [
        of(
            Rule::MemoryStalled,
            "memory",
            pressure.memory,
            MEMORY_STALLED,
        ),
        of(Rule::DiskStalled, "disks", pressure.io, DISK_STALLED),
    ]
}

/// Nobody keeps its clock. It need not be wrong yet: [`Rule::ClockSkew`] is about that.
fn clock(time: &TimeKeeping) -> Option<Local> {
    let why = match (&time.keeper, time.synchronised) {
        (None, _) => "no time service runs there".to_owned(),
        (Some(keeper), Some(false)) => {
            format!("{} has not synchronised it since boot", part(keeper))
        }
        (Some(_), Some(true) | None) => return None,
    };
    Some(local(Rule::ClockNotSynchronised, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recover::tests::reports;

    /// Rules and words of a machine with this.
    fn found(change: impl FnOnce(&mut HostStatus)) -> Vec<(Rule, String)> {
        let mut status = reports(1, None);
        change(&mut status);
        said(&status).map(|l| (l.rule, l.why)).collect()
    }

    #[test]
    fn all_programs_that_wait_are_a_finding_and_some_that_wait_are_none() {
        let stall = |some60, full60| {
            Some(Stall {
                some60,
                full60,
                ..Stall::default()
            })
        };
        let found = |memory, io| {
            found(|status| {
                // Processors that are all busy are no trouble.
                let cpu = stall(100.0, 100.0);
                status.health.pressure = Some(Pressure { cpu, memory, io });
            })
        };
        assert_eq!(found(None, None), [], "the kernel does not measure it");
        let busy = found(stall(100.0, 9.9), stall(100.0, 79.9));
        assert_eq!(busy, [], "something continues");
        let says = |percent: u8, what: &str| {
            format!("in {percent} % of the last minute all of them waited for {what}")
        };
        let memory = (Rule::MemoryStalled, says(10, "memory"));
        assert_eq!(found(stall(10.0, 10.0), None), [memory]);
        let disks = (Rule::DiskStalled, says(100, "disks"));
        assert_eq!(found(None, stall(1e300, 1e300)), [disks], "bounded");
    }

    #[test]
    fn a_clock_is_kept_by_who_runs_and_has_set_it() {
        let found = |keeper: Option<&str>, synchronised| {
            let all = found(|status| {
                let keeper = keeper.map(str::to_owned);
                status.health.time = Some(TimeKeeping {
                    keeper,
                    synchronised,
                });
            });
            let whys = all.into_iter().map(|(rule, why)| {
                assert_eq!(rule, Rule::ClockNotSynchronised);
                why
            });
            whys.collect::<Vec<String>>()
        };
        let well: [String; 0] = [];
        assert_eq!(found(Some("chrony"), None), well, "it says no more");
        assert_eq!(found(Some("systemd-timesyncd"), Some(true)), well);
        assert_eq!(found(None, None), ["no time service runs there"]);
        assert_eq!(
            found(Some("systemd-timesyncd"), Some(false)),
            ["systemd-timesyncd has not synchronised it since boot"]
        );
        let older = self::found(|status| status.health.time = None);
        assert_eq!(older, [], "an older agent");
    }
}
