//! A support bundle for the plane, or the logs of one alone.
//!
//! Not made in this process: `pf9ctl bundle` makes it, as it does for a person, in a unit of its own that ends with it.
//! It goes from there to the plane as it comes, by comms' socket: nothing of it is written to a disk of this host, and
//! nodelet sees none of it. The order says how much, and for which key it is sealed, and nothing else.

use std::time::Duration;

use serde::Deserialize;
use uuid::Uuid;

use super::act::failed;
use crate::host::Host;
use crate::host::exec::{self, Cmd, ProgramEnd};
use crate::host::ours::units;
use crate::model::{Fault, FaultCode, Outcome, paths};
use crate::telemetry::chain;

/// How long the end is waited for: less than the plane waits. One that takes longer continues.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// Longest that one may take, a slow line included.
const RUN_MAX_S: u32 = 1800;
/// The program itself needs 32 MiB at most; journalctl, which it calls, as much again.
const MEMORY_MIB: u32 = 64;
/// What the program says of it when it ended, and words of an error.
const ANSWER_MAX: usize = 64 * 1024;
/// Longest text of an error.
const WORDS_MAX: usize = 600;

const WHAT: &str = "no support bundle was sent";

/// What is asked for.
pub(super) struct Order<'a> {
    /// The operation's: the plane knows the bundle by it.
    pub(super) id: Uuid,
    pub(super) since_s: u32,
    /// Logs and nothing else.
    pub(super) only_logs: Option<OnlyLogs>,
    pub(super) max_bytes: u64,
    pub(super) seal_for: &'a str,
}

/// Which part of the logs.
pub(super) struct OnlyLogs {
    pub(super) until_s: u32,
    pub(super) lines: u32,
}

/// What the program says at its end.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Made(Made),
    Failed { fault: Fault },
}

/// The summary of a bundle that the plane has.
#[derive(Deserialize)]
struct Made {
    bytes: u64,
    files: u64,
    redactions: u64,
    left_out: Vec<String>,
}

/// Has one made and sent.
pub(super) async fn make(host: &Host, order: &Order<'_>) -> Outcome {
    let (fs, what) = (&host.fs, WHAT);
    let cmd = Cmd::new(exec::program(fs, "systemd-run"), WAIT_MAX)
        .keeps(ANSWER_MAX)
        .args(unit())
        .arg("--")
        .arg(fs.at(format!("{}/bin/pf9ctl", paths::AGENT_CURRENT)))
        .args(words(order));
    let answer = match exec::ask(cmd).await {
        Ok(answer) => answer,
        Err(e) => return failed(what, chain(&e)),
    };
    let said = cut(answer.stderr.trim());
    // It began between the look at it and the start.
    let began = match answer.ended {
        ProgramEnd::Code(0) | ProgramEnd::Signal(_) | ProgramEnd::Late => None,
        ProgramEnd::Code(_) => under_way(host).await,
    };
    match (answer.ended, serde_json::from_str(&answer.stdout)) {
        (ProgramEnd::Code(0), Ok(Said::Made(made))) => Outcome::done(made.words()),
        (ProgramEnd::Code(0), _) => Outcome::done("a support bundle was sent to the plane"),
        (ProgramEnd::Code(_), Ok(Said::Failed { fault })) => failed(what, cut(&fault.to_string())),
        (ProgramEnd::Code(code), _) => match began {
            Some(fault) => Outcome::Failed { fault },
            None => failed(
                what,
                format!("pf9ctl bundle ended with code {code}: {said}"),
            ),
        },
        (ProgramEnd::Signal(signal), _) => failed(
            what,
            format!(
                "pf9ctl bundle was ended by signal {signal} (it may have {MEMORY_MIB} MiB and {RUN_MAX_S} s): {said}"
            ),
        ),
        (ProgramEnd::Late, _) => Outcome::done(format!(
            "it takes longer than {} s and continues; the plane's list shows when it has arrived",
            WAIT_MAX.as_secs()
        )),
    }
}

/// Says so where one is being made: one that takes longer than its order is waited for continues, and the next order
/// comes while it does. Where systemd does not say whether, it is tried.
pub(super) async fn under_way(host: &Host) -> Option<Fault> {
    let unit = units::BUNDLE.to_owned();
    let shown = host.units.show(std::slice::from_ref(&unit)).await.ok()?;
    shown.get(&unit).filter(|u| u.active.is_up())?;
    let why = "another one of this host, or its logs, is being made";
    let fix = format!(
        "order it again when that one has arrived (pf9-plane host bundle list), at the latest {} min after it was started; \
         on the host: systemctl status {unit}",
        RUN_MAX_S / 60,
    );
    Some(Fault::new(FaultCode::Busy, WHAT, why).fix(fix))
}

fn cut(words: &str) -> String {
    words.chars().take(WORDS_MAX).collect()
}

impl Made {
    fn words(&self) -> String {
        let left_out = match self.left_out.len() {
            0 => String::new(),
            n => format!(", {n} left out or truncated"),
        };
        format!(
            "a support bundle of {} bytes was sent to the plane: {} files{left_out}, {} places redacted",
            self.bytes, self.files, self.redactions
        )
    }
}

fn words(order: &Order<'_>) -> Vec<String> {
    let mut words = vec![
        "bundle".to_owned(),
        "--json".to_owned(),
        format!("--to-plane={}", order.id),
        format!("--encrypt-to={}", order.seal_for),
        format!("--since={}s", order.since_s),
        format!("--max-size={}K", order.max_bytes >> 10),
    ];
    if let Some(logs) = &order.only_logs {
        words.extend([
            "--only=logs".to_owned(),
            format!("--until={}s", logs.until_s),
            format!("--lines={}", logs.lines),
        ]);
    }
    words
}

/// Arguments of `systemd-run`. It has the lowest priority of the machine, and is the first to be killed.
fn unit() -> Vec<String> {
    let (run_max, memory) = (
        format!("RuntimeMaxSec={RUN_MAX_S}"),
        format!("MemoryMax={MEMORY_MIB}M"),
    );
    let properties = [
        run_max.as_str(),
        memory.as_str(),
        "MemorySwapMax=0",
        "TasksMax=64",
        "CPUWeight=10",
        "IOWeight=10",
        "Nice=10",
        "OOMScoreAdjust=900",
        "TimeoutStopSec=5",
        "LimitCORE=0",
        "NoNewPrivileges=yes",
        "UMask=0077",
    ];
    let mut all = exec::in_unit(properties);
    // One at a time: memory, processor and disk of a machine are not for bundles.
    all.push(format!("--unit={}", units::BUNDLE));
    all
}
