//! What came back from a host, judged. Pure. The far side is not trusted: what is shown of its answer
//! is short and has no control characters.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::call::Target;
use crate::app::Exit;
use crate::host::exec::{ExecError, ProgramEnd, ProgramOutput};
use crate::telemetry::chain;

/// ssh's own: it did not come to run anything, or lost who ran it.
const SSH_FAILED: i32 = 255;
/// A shell's: there is no such program.
const NO_PROGRAM: i32 = 127;
/// Most of a host's words in one line.
const SHOWN: usize = 300;

/// How it stands with one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::cli) enum Stand {
    /// It worked.
    Done,
    /// The program there says that it did not.
    Failed,
    /// It was reached, and no answer of ours came.
    Silent,
    /// It was not reached.
    Unreachable,
    /// Its key is not the one that is known, or none is known.
    Unknown,
}

/// What one host said.
#[derive(Clone, Debug, Serialize)]
pub(in crate::cli) struct HostAnswer {
    pub(super) host: Target,
    pub(super) stand: Stand,
    /// How the program there ended, or what it comes to for this one.
    pub(super) exit: u8,
    /// In a sentence.
    pub(super) said: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) fix: String,
    pub(super) took_ms: u64,
    /// The document it answered, as its own schema has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) answer: Option<Value>,
}

/// Any of the documents that our program may answer, as far as it is looked at.
#[derive(Deserialize)]
struct Document {
    fault: Option<Failure>,
    checks: Option<Vec<CheckOf>>,
    host_id: Option<String>,
    steps: Option<Vec<Value>>,
    refused: Option<String>,
}

#[derive(Deserialize)]
struct Failure {
    what: String,
    why: String,
    #[serde(default)]
    fix: String,
}

#[derive(Deserialize)]
struct CheckOf {
    id: String,
    outcome: String,
    found: String,
}

pub(in crate::cli) fn answer_of(
    host: &Target,
    said: Result<ProgramOutput, ExecError>,
    took_ms: u64,
) -> HostAnswer {
    let (stand, exit, said, fix, answer) = match said {
        Ok(answer) => of(&answer),
        Err(e) => (Stand::Unreachable, Exit::Unavailable, chain(&e), "", None),
    };
    let fix = match (&answer, fix) {
        (Some((_, theirs)), "") => theirs.clone(),
        (_, ours) => ours.to_owned(),
    };
    HostAnswer {
        host: host.clone(),
        stand,
        exit: exit.code(),
        said: shown(&said),
        fix: shown(&fix),
        took_ms,
        answer: answer.map(|(value, _)| value),
    }
}

type Judged = (Stand, Exit, String, &'static str, Option<(Value, String)>);

fn of(answer: &ProgramOutput) -> Judged {
    let last = answer
        .stderr
        .lines()
        .map(str::trim)
        .rfind(|l| !l.is_empty());
    let last = last.unwrap_or_default().to_owned();
    let code = match answer.ended {
        ProgramEnd::Late => {
            let text = "it did not answer in time; what had started there may continue".to_owned();
            return (
                Stand::Silent,
                Exit::Unavailable,
                text,
                "look at it there",
                None,
            );
        }
        ProgramEnd::Signal(_) => SSH_FAILED,
        ProgramEnd::Code(code) => code,
    };
    let value: Option<Value> = serde_json::from_str(&answer.stdout).ok();
    let document = value.as_ref().and_then(|v| Document::deserialize(v).ok());
    if let (Some(document), Some(value)) = (document, value)
        && let Some((said, fix)) = sentence(&document)
    {
        let exit = Exit::ALL.iter().find(|e| i32::from(e.code()) == code);
        let exit = exit.copied().unwrap_or(Exit::Failed);
        let stand = if code == 0 {
            Stand::Done
        } else {
            Stand::Failed
        };
        return (stand, exit, said, "", Some((value, fix)));
    }
    match code {
        SSH_FAILED if answer.stderr.contains("Host key verification failed") => (
            Stand::Unknown,
            Exit::Untrusted,
            "ssh does not trust its host key: nothing was done there".to_owned(),
            "compare the key with what the machine's console says, then put it into known_hosts",
            None,
        ),
        SSH_FAILED => (
            Stand::Unreachable,
            Exit::Unavailable,
            last,
            "try: ssh HOST true",
            None,
        ),
        NO_PROGRAM => (
            Stand::Silent,
            Exit::Failed,
            format!("pf9ctl is not there: {last}"),
            "install the package pf9-hostagent there",
            None,
        ),
        code => (
            Stand::Silent,
            Exit::Failed,
            format!("no answer of pf9ctl came (exit code {code}): {last}"),
            "the user there must be root or have sudo without a password, and the package must be installed",
            None,
        ),
    }
}

/// A document in one sentence, and what to do; none where it is not one of ours.
fn sentence(document: &Document) -> Option<(String, String)> {
    if let Some(f) = &document.fault {
        return Some((format!("{}: {}", f.what, f.why), f.fix.clone()));
    }
    if let Some(checks) = &document.checks {
        let count = |outcome: &str| checks.iter().filter(|c| c.outcome == outcome).count();
        let bad: Vec<String> = checks
            .iter()
            .filter(|c| c.outcome == "fail")
            .map(|c| format!("{}: {}", c.id, c.found))
            .collect();
        let said = match bad.as_slice() {
            [] => format!(
                "fit for a node: {} good, {} to know about",
                count("ok"),
                count("warn")
            ),
            some => format!("not fit for a node: {}", some.join("; ")),
        };
        return Some((said, String::new()));
    }
    if let Some(why) = &document.refused {
        return Some((format!("it would be refused: {why}"), String::new()));
    }
    if let Some(steps) = &document.steps {
        return Some((
            format!("{} steps would be done", steps.len()),
            String::new(),
        ));
    }
    let id = document.host_id.as_ref()?;
    Some((format!("prepared: host {id}"), String::new()))
}

/// What a terminal may be given.
fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut text: String = text.chars().map(plain).take(SHOWN + 1).collect();
    if text.chars().count() > SHOWN {
        text = text.chars().take(SHOWN).collect::<String>() + "…";
    }
    text
}

/// 0: all of them. 8: some. Else what they all ended with, and 1 where that is not the same.
pub(super) fn exit(answers: &[HostAnswer]) -> Exit {
    let done = answers.iter().filter(|a| a.stand == Stand::Done).count();
    if done == answers.len() {
        return Exit::Ok;
    }
    if done > 0 {
        return Exit::Partial;
    }
    let first = answers.first().map(|a| a.exit);
    let same = answers.iter().all(|a| Some(a.exit) == first);
    let exit = Exit::ALL.iter().find(|e| same && Some(e.code()) == first);
    exit.copied().unwrap_or(Exit::Failed)
}

#[cfg(test)]
mod tests {
    use super::super::call::target;
    use super::*;

    fn judged(ended: ProgramEnd, stdout: &str, stderr: &str) -> HostAnswer {
        let answer = ProgramOutput {
            ended,
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        answer_of(&target("a").expect("host"), Ok(answer), 1)
    }

    #[test]
    fn each_way_to_end_has_its_word() {
        let code = ProgramEnd::Code;
        let good =
            r#"{"schema":2,"verdict":"ok","checks":[{"id":"swap","outcome":"ok","found":"off"}]}"#;
        let bad = r#"{"checks":[{"id":"swap","outcome":"fail","found":"on"}]}"#;
        let fault = r#"{"fault":{"code":"token-used","what":"a","why":"b","fix":"c"},"exit":77}"#;
        for (ended, stdout, stderr, stand, exit, words) in [
            (code(0), good, "", Stand::Done, Exit::Ok, "1 good"),
            (code(75), bad, "", Stand::Failed, Exit::NotReady, "swap: on"),
            (code(77), fault, "", Stand::Failed, Exit::Refused, "a: b"),
            (
                code(0),
                r#"{"host_id":"x"}"#,
                "",
                Stand::Done,
                Exit::Ok,
                "host x",
            ),
            (code(9), bad, "", Stand::Failed, Exit::Failed, "swap"),
            (
                code(0),
                "hello",
                "",
                Stand::Silent,
                Exit::Failed,
                "no answer",
            ),
            (code(0), "{}", "", Stand::Silent, Exit::Failed, "no answer"),
            (
                code(1),
                "",
                "sudo: a password is required\n",
                Stand::Silent,
                Exit::Failed,
                "password",
            ),
            (
                code(127),
                "",
                "sh: pf9ctl: not found",
                Stand::Silent,
                Exit::Failed,
                "not there",
            ),
            (
                code(255),
                "",
                "Host key verification failed.\r\n",
                Stand::Unknown,
                Exit::Untrusted,
                "key",
            ),
            (
                code(255),
                "",
                "connect: refused",
                Stand::Unreachable,
                Exit::Unavailable,
                "refused",
            ),
            (
                ProgramEnd::Signal(9),
                "",
                "",
                Stand::Unreachable,
                Exit::Unavailable,
                "",
            ),
            (
                ProgramEnd::Late,
                good,
                "",
                Stand::Silent,
                Exit::Unavailable,
                "in time",
            ),
        ] {
            let answer = judged(ended, stdout, stderr);
            assert_eq!(
                (answer.stand, answer.exit),
                (stand, exit.code()),
                "{stdout} {stderr}"
            );
            assert!(answer.said.contains(words), "{answer:?}");
        }
    }

    #[test]
    fn a_terminal_obeys_nothing_that_a_host_says() {
        let long = "x".repeat(1000);
        let text = format!(
            r#"{{"fault":{{"what":"a\u001b[2J\u0007b","why":"{long}","fix":"\u009b31m\nc"}}}}"#
        );
        let answer = judged(ProgramEnd::Code(1), &text, "");
        assert!(
            !answer
                .said
                .chars()
                .chain(answer.fix.chars())
                .any(char::is_control),
            "{answer:?}"
        );
        assert!(answer.said.chars().count() <= SHOWN + 1);
        let answer = judged(ProgramEnd::Code(255), "", "a\u{1b}]0;title\u{7}");
        assert!(!answer.said.chars().any(char::is_control), "{answer:?}");
    }

    #[test]
    fn some_and_none_are_told_apart() {
        let done = judged(ProgramEnd::Code(0), r#"{"host_id":"x"}"#, "");
        let used = judged(
            ProgramEnd::Code(77),
            r#"{"fault":{"what":"a","why":"b"}}"#,
            "",
        );
        let away = judged(ProgramEnd::Code(255), "", "");
        for (answers, want) in [
            (vec![done.clone(), done.clone()], Exit::Ok),
            (vec![done.clone(), used.clone()], Exit::Partial),
            (vec![away.clone(), done], Exit::Partial),
            (vec![used.clone(), used.clone()], Exit::Refused),
            (vec![used, away.clone()], Exit::Failed),
            (vec![away], Exit::Unavailable),
        ] {
            assert_eq!(exit(&answers), want, "{answers:?}");
        }
    }
}
