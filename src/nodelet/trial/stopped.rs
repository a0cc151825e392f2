//! Programs without a verb for checking: each is given one value that it must refuse, so that it ends
//! with its own judgement of everything else and before it does anything.
//!
//! | program | the value | where its judgement stands |
//! |---|---|---|
//! | kube-apiserver, kube-controller-manager | `--secure-port=-1` | `"command failed" err="[…, …]"`, or `Error: …` |
//! | kube-scheduler | `parallelism: -1` | the same |
//! | kubelet | `healthzPort: -1` | the same; unknown fields in a line of their own; a gate it does not know in a panic |
//! | kube-proxy | `oomScoreAdj: -5000` | the same as kubelet's |
//! | etcd | a data directory that cannot be one | lines of JSON |
//!
//! Observed with Kubernetes 1.36.3 and 1.37.2, etcd 3.6.16 and 3.7.3. What is in the answer beside the one
//! complaint that was asked for is what the program would have against the configuration. An answer
//! without that complaint is a refusal too: the program ended before it came to it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::TrialRefusal;
use crate::host::exec::{ProgramEnd, ProgramOutput};

/// Most complaints that a refusal names.
const NAMED_MAX: usize = 5;
/// Longest complaint that is shown.
const SHOWN_MAX: usize = 300;
/// Before the reason, in the last line of a program of Kubernetes.
const FAILED: &str = "\"command failed\" err=";
/// Before the fields that a program does not know, and would ignore.
const LENIENT: &str = "\"Using lenient decoding as strict decoding failed\" err=";
/// How Go's own flags say it, with one dash, before they print what there is.
const NO_FLAG: &str = "flag provided but not defined: ";
/// What goes before the reasons themselves, for each program at most one; nobody needs it.
const PREFIXES: [&str; 9] = [
    "failed to parse kubelet flag: ",
    "failed to validate kubelet configuration, error: ",
    "failed to set feature gates from initial flags-based config: ",
    "failed to merge global and in-flight KubeletConfiguration while setting defaults, error: ",
    "failed to load kubelet config file, path: ",
    "failed complete: ",
    "failed validate: ",
    "strict decoding error: ",
    "invalid argument ",
];
/// And after them.
const SUFFIX: &str = ", path: &TypeMeta{Kind:,APIVersion:,}";

/// Whether the program had nothing against its configuration but what was put there. `expects` are the
/// words of that, by release; `theirs` are the names that the spec gave, not the agent.
pub(super) fn verdict(
    program: &str,
    expects: &[String],
    theirs: &[String],
    said: &ProgramOutput,
) -> Result<(), TrialRefusal> {
    let refused = |why: String| TrialRefusal {
        fix: fix(&why, theirs),
        why,
    };
    match said.ended {
        ProgramEnd::Late => {
            return Err(refused(
                "it did not report in time what it reads".to_owned(),
            ));
        }
        ProgramEnd::Code(_) | ProgramEnd::Signal(_) => {}
    }
    let complaints = if program == "etcd" {
        of_etcd(&said.stderr)
    } else {
        of_kubernetes(&said.stderr)
    };
    let (asked, left): (Vec<bool>, Vec<Option<String>>) =
        complaints.iter().map(|text| without(text, expects)).unzip();
    let named: BTreeSet<String> = left.into_iter().flatten().map(|c| words(&c)).collect();
    if !named.is_empty() {
        return Err(refused(listed(&named)));
    }
    if asked.iter().any(|asked| *asked) {
        Ok(())
    } else {
        Err(refused(
            "it exited without a reason; this agent does not know this release".to_owned(),
        ))
    }
}

/// What people can do depends on whose the words are.
fn fix(why: &str, theirs: &[String]) -> String {
    match theirs.iter().find(|name| names(why, name)) {
        Some(name) => format!(
            "correct {name} in the cluster's settings on the plane; until then the node keeps \
             running as it is"
        ),
        None => "use a stack that this agent knows, or a newer agent; until then the node keeps \
                 running as it is"
            .to_owned(),
    }
}

/// Whether a text has this name as a word: `Node` is not named by `NodeSwap`.
fn names(text: &str, name: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].trim_end_matches("--").chars().next_back();
        let after = text[at + name.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

/// What a program of Kubernetes has against its flags and files.
fn of_kubernetes(stderr: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in stderr.lines() {
        if let Some(text) = after(line, LENIENT).or_else(|| after(line, FAILED)) {
            found.push(bare(&unquoted(text)));
        } else if let Some(text) = line.strip_prefix("Error: ") {
            found.push(bare(text));
        } else if let Some(text) = line.strip_prefix("panic: ") {
            found.push(bare(text));
            // The rest is a trace.
            break;
        }
    }
    found
}

/// What etcd has against its variables, and flags if it were given any. It only warns of one that it does not know.
fn of_etcd(stderr: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in stderr.lines() {
        let Ok(entry) = serde_json::from_str::<Value>(line) else {
            let flag = line.trim().strip_prefix(NO_FLAG);
            found.extend(flag.map(|flag| format!("unknown flag: -{flag}")));
            continue;
        };
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        match (text("msg"), text("level")) {
            ("unrecognized environment variable", _) => {
                let variable = text("environment-variable");
                let name = variable.split('=').next().unwrap_or(variable);
                found.push(format!("unknown field {name}"));
            }
            ("failed to verify flags", _) => found.push(text("error").to_owned()),
            (msg, "error" | "fatal" | "panic") => found.push(msg.to_owned()),
            (_, _) => {}
        }
    }
    found
}

fn after<'a>(line: &'a str, mark: &str) -> Option<&'a str> {
    line.split_once(mark).map(|(_, rest)| rest)
}

/// A text in Go's quotes, as it was.
fn unquoted(text: &str) -> String {
    let Some(inner) = text.strip_prefix('"') else {
        return text.to_owned();
    };
    let mut plain = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next() {
                Some('n' | 't' | 'r') => plain.push(' '),
                Some(c) => plain.push(c),
                None => break,
            },
            c => plain.push(c),
        }
    }
    plain
}

/// Without what every such line has around it.
fn bare(text: &str) -> String {
    let mut text = text.trim();
    text = text.strip_suffix(SUFFIX).unwrap_or(text);
    while let Some(rest) = PREFIXES.iter().find_map(|p| text.strip_prefix(p)) {
        text = rest;
    }
    let list = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    list.unwrap_or(text).to_owned()
}

/// Whether the complaint that was asked for is in it, and what else is.
fn without(complaint: &str, expects: &[String]) -> (bool, Option<String>) {
    let mut left = complaint.to_owned();
    let mut asked = false;
    for expected in expects {
        if left.contains(expected.as_str()) {
            asked = true;
            left = left.replacen(expected.as_str(), "", 1);
        }
    }
    let left = left.trim_matches([',', ' ']).replace(", , ", ", ");
    (asked, (!left.is_empty()).then_some(left))
}

/// One complaint in a sentence of ours, where it is one of the usual ones.
fn words(complaint: &str) -> String {
    let text = complaint
        .strip_prefix("invalid configuration: ")
        .unwrap_or(complaint);
    let text = text
        .replace(", invalid configuration: ", ", ")
        .replace("unknown flag: ", "it knows no flag ")
        .replace("unrecognized feature gate: ", "it knows no feature gate ")
        .replace("unknown field ", "it would ignore ");
    let clipped: String = text.chars().take(SHOWN_MAX).collect();
    if clipped.len() < text.len() {
        format!("{clipped}…")
    } else {
        clipped
    }
}

fn listed(named: &BTreeSet<String>) -> String {
    let shown: Vec<&str> = named.iter().take(NAMED_MAX).map(String::as_str).collect();
    let more = named.len().saturating_sub(NAMED_MAX);
    let tail = if more > 0 {
        format!("; and {more} more")
    } else {
        String::new()
    };
    format!("{}{tail}", shown.join("; "))
}

#[cfg(test)]
mod tests;
