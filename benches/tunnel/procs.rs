//! CPU time and memory of processes, from `/proc`.

use std::fs;

use anyhow::{Context, Result};

/// Ticks of a second in `/proc/*/stat`; the same on every Linux.
const TICKS: f64 = 100.0;
/// Where user and system time stand after the name's closing parenthesis.
const USER: usize = 11;
const SYSTEM: usize = 12;

/// User and system time of these processes so far, without children they waited for.
pub(crate) fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    let mut ticks = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
        let (_, after) = stat.rsplit_once(')').context("no name in stat")?;
        let fields: Vec<&str> = after.split_whitespace().collect();
        for at in [USER, SYSTEM] {
            let field = fields.get(at).context("stat is short")?;
            ticks += field.parse::<u32>().context("stat is not a number")?;
        }
    }
    Ok(f64::from(ticks) / TICKS)
}

/// Resident memory of each process, KiB.
pub(crate) fn resident_kib(pids: &[u32]) -> Result<Vec<u64>> {
    pids.iter().map(|pid| one(*pid)).collect()
}

fn one(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.split_whitespace().next());
    Ok(kib.context("no VmRSS")?.parse()?)
}
