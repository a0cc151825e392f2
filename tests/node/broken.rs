//! Machines that are broken in one way. A check reports what it can detect, only that check, and its remedy helps;
//! later defects are reported by the node, and repaired where it can.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::breaks::{BREAKS, Broken, COMMANDS, Shown};
use crate::demo::{NODES, Outcome, eventually, shell};

/// Measurements on a machine that is busy with tests: another value each time.
const MEASURED: [&str; 2] = ["etcd-disk", "clock-offset"];
/// The plane postpones a machine that dials it a hundred times in two minutes, as this one does here: each check is run
/// three times. That is no defect of the machine.
const PUT_OFF: &str = "the plane answered 503 Service Unavailable";
/// Seconds that a check may take on a machine that is busy with tests.
const QUICK: u64 = 20;
/// What the fastest of a few looks has to stay below: what a check itself takes, and is promised. (On a quiet
/// machine it is a fraction of a second: `scripts/bench agent`.)
const PROMISED: Duration = Duration::from_secs(3);
/// A tunnel that ends is noticed with its next word.
const NOTICED: Duration = Duration::from_secs(90);

/// Findings of checks by name: severity and text.
type Said = BTreeMap<String, (Severity, String)>;

/// Severity; a skipped check has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Warn,
    Fail,
}

/// The check as a shell line; its findings do not fail that line, unless it takes too long.
fn look() -> String {
    format!("timeout {QUICK} pf9ctl node check --json || [ $? != 124 ]")
}

fn said(report: &Value) -> Outcome<Said> {
    let checks = report["checks"]
        .as_array()
        .ok_or(format!("no checks: {report}"))?;
    let mut said = Said::new();
    for check in checks {
        let outcome = match check["outcome"].as_str() {
            Some("warn") => Severity::Warn,
            Some("fail") => Severity::Fail,
            Some("ok" | "skip") => continue,
            other => return Err(format!("an outcome {other:?}")),
        };
        let id = check["id"].as_str().unwrap_or_default();
        let words = format!("{} {} {}", check["found"], check["why"], check["fix"]);
        let put_off = outcome == Severity::Warn && words.contains(PUT_OFF);
        if !MEASURED.contains(&id) && !put_off {
            said.insert(id.to_owned(), (outcome, words));
        }
    }
    Ok(said)
}

/// Findings of a script of such lines ([`look`]), one after the other.
fn looks(node: &str, script: &str) -> Outcome<Vec<Said>> {
    let text = shell(node, script)?;
    let reports = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let each = reports.map(|report| said(&report.map_err(|e| format!("{e}: {text}"))?));
    each.collect()
}

fn look_at(node: &str) -> Outcome<Said> {
    looks(node, &look())?.pop().ok_or("no report".into())
}

/// The fastest of a few looks: what the others wait for is what else this machine does.
fn is_quick(node: &str) -> Outcome {
    let look = |_: u8| {
        let begun = Instant::now();
        look_at(node).map(|_| begun.elapsed())
    };
    let all: Vec<Duration> = (0..5).map(look).collect::<Outcome<_>>()?;
    println!("five checks: {all:.1?}");
    match all.iter().min() {
        Some(fastest) if *fastest < PROMISED => Ok(()),
        _ => Err(format!("no check within {PROMISED:?}: {all:?}")),
    }
}

/// Exactly this check says something, or says it worse, with these words.
fn speaks(before: &Said, now: &Said, id: &str, words: &str) -> Outcome {
    let was = |id: &str| before.get(id).map(|(outcome, _)| *outcome);
    let news = now
        .iter()
        .filter(|(id, (outcome, _))| was(id) < Some(*outcome));
    let news: Vec<_> = news.collect();
    match news.as_slice() {
        [(who, (_, said))] if *who == id && said.contains(words) => Ok(()),
        _ => Err(format!("{id} should say {words:?} alone: {news:?}")),
    }
}

/// Where the remedy is a command, what is run next is what the report says.
fn is_told(now: &Said, id: &str, mends: &str) -> Outcome {
    let words = now.get(id).map_or("", |(_, words)| words.as_str());
    match !COMMANDS.contains(&id) || words.contains(mends) {
        true => Ok(()),
        false => Err(format!("{id} does not say {mends:?}: {words}")),
    }
}

/// As before: the same checks report something, and nothing worse.
fn is_mended(before: &Said, now: &Said) -> Outcome {
    let short = |said: &Said| -> Vec<_> {
        let each = said.iter().map(|(id, (outcome, _))| (id.clone(), *outcome));
        each.collect()
    };
    match (short(before), short(now)) {
        (before, now) if before == now => Ok(()),
        (before, now) => Err(format!("before {before:?}, now {now:?}")),
    }
}

/// Every check of the table for which the test machines can be broken: it and no other one reports the defect, and its
/// remedy helps.
pub(crate) fn what_is_broken_is_said_by_its_check() -> Outcome {
    let node = NODES[1];
    is_quick(node)?;
    let before = look_at(node)?;
    let view = in_a_view(node, ":", ":")?;
    let mut wrong = Vec::new();
    for (id, shown) in BREAKS {
        let tried = match shown {
            Shown::Recorded { why, test } => {
                println!("{id}: in facts, by {test}: {why}");
                continue;
            }
            Shown::Machine(broken) => on_the_machine(node, id, broken, &before),
            Shown::View(broken) => in_a_view(node, broken.breaks, broken.mends).and_then(|now| {
                speaks(&view[0], &now[1], id, broken.says)?;
                is_told(&now[1], id, broken.mends)?;
                is_mended(&view[0], &now[2])
            }),
        };
        match tried {
            Ok(()) => println!("{id}: said, and good again after what it says was done"),
            Err(why) => wrong.push(format!("{id}: {why}")),
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n")),
    }
}

fn on_the_machine(node: &str, id: &str, broken: &Broken, before: &Said) -> Outcome {
    shell(node, broken.breaks)?;
    // A tunnel ends with its next message.
    let said = eventually(&format!("{id} is said"), NOTICED, || {
        let now = look_at(node)?;
        speaks(before, &now, id, broken.says)?;
        is_told(&now, id, broken.mends)
    });
    shell(node, broken.mends)?;
    said?;
    eventually(&format!("{id} is mended"), NOTICED, || {
        is_mended(before, &look_at(node)?)
    })
}

/// Before, while broken, and repaired, in a process with mounts of its own.
fn in_a_view(node: &str, breaks: &str, mends: &str) -> Outcome<Vec<Said>> {
    let look = look();
    let script = format!(
        "exec unshare --mount sh -e <<'END'\n{look}\n{{ {breaks}\n}} >/dev/null\n{look}\n{{ {mends}\n}} >/dev/null\n{look}\nEND\n"
    );
    let three = looks(node, &script)?;
    match three.len() {
        3 => Ok(three),
        n => Err(format!("{n} reports")),
    }
}
