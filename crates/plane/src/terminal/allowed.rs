//! Which commands of kubectl there are here, and with which flags: a closed table. Pure.
//!
//! What comes out is written anew: verb, then every flag as `--name=value`, then names. So kubectl reads exactly what was
//! judged, however it was typed (`-nx`, `-n x`, `--namespace x`): nothing that was taken for a value is a flag to it.
//!
//! | not here | for |
//! |---|---|
//! | `exec`, `attach`, `debug`, `run`, `cp`, `port-forward`, `proxy` | they open shells, ports and files; their streams are nobody's audit |
//! | `edit`, `diff`, `config`, `plugin`, `completion`, `kustomize` | they start programs, or read and write files of the plane's machine |
//! | `create`, `replace`, `patch`, `set`, `label`, … | `apply` of a pasted text does it, and shows what is done |
//! | where to ask and as whom, files, `--raw` | the page says it |

/// A command as it is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    /// kubectl's arguments.
    pub(super) argv: Vec<String>,
    /// It runs until it is ended, or waits until something is done.
    pub(super) lasts: bool,
    /// It reads the pasted text.
    pub(super) reads_text: bool,
}

impl Command {
    /// As a person could type it and the audit has it: what a shell would read otherwise is in quotes, so no name of a thing
    /// looks like a flag or like two names.
    pub(super) fn shown(&self) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+.,:/@%".contains(c);
        let mut shown = "kubectl".to_owned();
        for word in &self.argv {
            match word.chars().all(plain) {
                true => shown.extend([" ", word]),
                false => shown.extend([" '", &word.replace('\'', "'\\''"), "'"]),
            }
        }
        shown
    }
}

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Nothing,
    Value,
    /// A format of `--output`; none that names a file.
    Output,
}

use Takes::{Nothing, Output, Value};

/// Its name, its letter (a space: none), what it takes.
type Flag = (&'static str, char, Takes);

struct Verb {
    name: &'static str,
    /// Words of which one follows; none: names follow.
    subs: &'static [&'static str],
    flags: &'static [Flag],
    reads_text: bool,
}

const WHERE: Flag = ("namespace", 'n', Value);
const EVERYWHERE: Flag = ("all-namespaces", 'A', Nothing);
const SELECTOR: Flag = ("selector", 'l', Value);
const FIELDS: Flag = ("field-selector", ' ', Value);
const OUTPUT: Flag = ("output", 'o', Output);
const WATCH: Flag = ("watch", 'w', Nothing);
const NO_HEADERS: Flag = ("no-headers", ' ', Nothing);
const DRY_RUN: Flag = ("dry-run", ' ', Value);
const TIMEOUT: Flag = ("timeout", ' ', Value);
const GRACE: Flag = ("grace-period", ' ', Value);
const ALL: Flag = ("all", ' ', Nothing);

const fn verb(name: &'static str, subs: &'static [&'static str], flags: &'static [Flag]) -> Verb {
    Verb {
        name,
        subs,
        flags,
        reads_text: false,
    }
}

const VERBS: [Verb; 17] = [
    verb(
        "get",
        &[],
        &[
            WHERE,
            EVERYWHERE,
            SELECTOR,
            FIELDS,
            OUTPUT,
            WATCH,
            NO_HEADERS,
            ("watch-only", ' ', Nothing),
            ("show-labels", ' ', Nothing),
            ("show-kind", ' ', Nothing),
            ("label-columns", 'L', Value),
            ("sort-by", ' ', Value),
            ("ignore-not-found", ' ', Nothing),
            ("subresource", ' ', Value),
        ],
    ),
    verb(
        "describe",
        &[],
        &[WHERE, EVERYWHERE, SELECTOR, ("show-events", ' ', Nothing)],
    ),
    verb(
        "logs",
        &[],
        &[
            WHERE,
            SELECTOR,
            ("container", 'c', Value),
            ("follow", 'f', Nothing),
            ("previous", 'p', Nothing),
            ("tail", ' ', Value),
            ("since", ' ', Value),
            ("since-time", ' ', Value),
            ("timestamps", ' ', Nothing),
            ("prefix", ' ', Nothing),
            ("all-containers", ' ', Nothing),
            ("all-pods", ' ', Nothing),
            ("limit-bytes", ' ', Value),
        ],
    ),
    verb(
        "top",
        &["node", "nodes", "no", "pod", "pods", "po"],
        &[
            WHERE,
            EVERYWHERE,
            SELECTOR,
            FIELDS,
            NO_HEADERS,
            ("sort-by", ' ', Value),
            ("containers", ' ', Nothing),
            ("sum", ' ', Nothing),
        ],
    ),
    verb(
        "explain",
        &[],
        &[("recursive", ' ', Nothing), ("api-version", ' ', Value)],
    ),
    verb(
        "api-resources",
        &[],
        &[
            OUTPUT,
            NO_HEADERS,
            ("namespaced", ' ', Nothing),
            ("api-group", ' ', Value),
            ("verbs", ' ', Value),
            ("sort-by", ' ', Value),
        ],
    ),
    verb("api-versions", &[], &[]),
    verb("version", &[], &[OUTPUT]),
    verb(
        "events",
        &[],
        &[
            WHERE,
            EVERYWHERE,
            OUTPUT,
            WATCH,
            NO_HEADERS,
            ("for", ' ', Value),
            ("types", ' ', Value),
        ],
    ),
    verb(
        "auth",
        &["can-i", "whoami"],
        &[
            WHERE,
            EVERYWHERE,
            OUTPUT,
            NO_HEADERS,
            ("list", ' ', Nothing),
            ("subresource", ' ', Value),
        ],
    ),
    verb(
        "rollout",
        &["status", "history", "restart", "undo", "pause", "resume"],
        &[
            WHERE,
            SELECTOR,
            OUTPUT,
            TIMEOUT,
            WATCH,
            ("revision", ' ', Value),
            ("to-revision", ' ', Value),
            DRY_RUN,
        ],
    ),
    verb(
        "scale",
        &[],
        &[
            WHERE,
            SELECTOR,
            OUTPUT,
            TIMEOUT,
            ALL,
            DRY_RUN,
            ("replicas", ' ', Value),
            ("current-replicas", ' ', Value),
        ],
    ),
    verb("cordon", &[], &[SELECTOR, DRY_RUN]),
    verb("uncordon", &[], &[SELECTOR, DRY_RUN]),
    verb(
        "drain",
        &[],
        &[
            SELECTOR,
            DRY_RUN,
            GRACE,
            TIMEOUT,
            ("force", ' ', Nothing),
            ("ignore-daemonsets", ' ', Nothing),
            ("delete-emptydir-data", ' ', Nothing),
            ("pod-selector", ' ', Value),
        ],
    ),
    verb(
        "delete",
        &[],
        &[
            WHERE,
            EVERYWHERE,
            SELECTOR,
            FIELDS,
            OUTPUT,
            TIMEOUT,
            GRACE,
            ALL,
            DRY_RUN,
            ("now", ' ', Nothing),
            ("wait", ' ', Nothing),
            ("force", ' ', Nothing),
            ("ignore-not-found", ' ', Nothing),
            ("cascade", ' ', Value),
        ],
    ),
    Verb {
        reads_text: true,
        ..verb(
            "apply",
            &[],
            &[
                WHERE,
                OUTPUT,
                DRY_RUN,
                ("server-side", ' ', Nothing),
                ("force-conflicts", ' ', Nothing),
                ("validate", ' ', Value),
            ],
        )
    },
];

/// What waits until something is done: pods move away, finalizers run, a new version is everywhere.
const WAITS: [&[&str]; 3] = [&["drain"], &["delete"], &["rollout", "status"]];

/// Commands that are not here, and why.
const NOT_HERE: [(&[&str], &str); 3] = [
    (
        &[
            "exec",
            "attach",
            "debug",
            "run",
            "cp",
            "port-forward",
            "proxy",
        ],
        "opens a shell, a port or files, which this page does not; use kubectl with a kubeconfig of yours",
    ),
    (
        &[
            "edit",
            "diff",
            "config",
            "plugin",
            "completion",
            "kustomize",
            "alpha",
            "options",
            "kuberc",
        ],
        "starts programs or reads files where kubectl runs, which is the plane's machine",
    ),
    (
        &[
            "create",
            "replace",
            "patch",
            "set",
            "label",
            "annotate",
            "expose",
            "autoscale",
            "taint",
            "certificate",
            "wait",
            "cluster-info",
        ],
        "is not among the commands of this page; apply a text, or use kubectl with a kubeconfig of yours",
    ),
];

/// Flags that no command may have.
const NOBODYS: [&str; 24] = [
    "as",
    "as-group",
    "as-uid",
    "cache-dir",
    "certificate-authority",
    "client-certificate",
    "client-key",
    "cluster",
    "context",
    "filename",
    "insecure-skip-tls-verify",
    "kubeconfig",
    "kuberc",
    "kustomize",
    "password",
    "profile",
    "profile-output",
    "raw",
    "server",
    "template",
    "tls-server-name",
    "token",
    "user",
    "username",
];

/// Forms of output; those with a `=` take the rest as it is.
const FORMS: [&str; 10] = [
    "json",
    "yaml",
    "wide",
    "name",
    "jsonpath=",
    "jsonpath-as-json=",
    "custom-columns=",
    "go-template=",
    "kyaml",
    "plaintext",
];

/// What is run for these words; else why nothing is.
pub(super) fn command(words: &[String]) -> Result<Command, String> {
    let mut words = words.iter().map(String::as_str).peekable();
    // People type what they are used to.
    words.next_if(|word| matches!(*word, "kubectl" | "k"));
    let name = words.next().ok_or("say a command: get pods")?;
    if name.starts_with('-') {
        return Err(format!("begin with a command; {name:?} is a flag"));
    }
    let Some(verb) = VERBS.iter().find(|verb| verb.name == name) else {
        let here = NOT_HERE.iter().find(|(names, _)| names.contains(&name));
        let why = here.map_or("is no command of this page", |(_, why)| why);
        let all: Vec<&str> = VERBS.iter().map(|verb| verb.name).collect();
        return Err(format!(
            "{:?} {why}; there are: {}",
            clip(name),
            all.join(", ")
        ));
    };
    let mut argv = vec![verb.name.to_owned()];
    if !verb.subs.is_empty() {
        let sub = words.next().filter(|sub| verb.subs.contains(sub));
        let sub =
            sub.ok_or_else(|| format!("after {name} comes one of: {}", verb.subs.join(", ")))?;
        argv.push(sub.to_owned());
    }
    let mut lasts = WAITS.iter().any(|waits| argv == *waits);
    let mut names = Vec::new();
    while let Some(word) = words.next() {
        let given = match word.strip_prefix('-') {
            None if word.is_empty() => return Err("a word is empty".to_owned()),
            None => {
                names.push(word.to_owned());
                continue;
            }
            Some("" | "-") => return Err(format!("{word:?} is not taken here")),
            Some(rest) => match rest.strip_prefix('-') {
                Some(long) => vec![of_long(verb, long, &mut || words.next())?],
                None => of_letters(verb, rest, &mut || words.next())?,
            },
        };
        for (flag, value) in given {
            lasts |= matches!(flag, "watch" | "watch-only" | "follow") && value != "false";
            argv.push(format!("--{flag}={value}"));
        }
    }
    if verb.reads_text {
        if !names.is_empty() {
            return Err("apply takes the pasted text, and no names".to_owned());
        }
        argv.push("--filename=-".to_owned());
    }
    argv.extend(names);
    Ok(Command {
        argv,
        lasts,
        reads_text: verb.reads_text,
    })
}

type Given = (&'static str, String);

fn of_long<'a>(
    verb: &Verb,
    said: &str,
    next: &mut dyn FnMut() -> Option<&'a str>,
) -> Result<Given, String> {
    let (name, value) = match said.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (said, None),
    };
    let flag = known(verb, name, |flag| flag.0 == name)?;
    let value = match (flag.2, value) {
        (_, Some(value)) => value.to_owned(),
        (Nothing, None) => "true".to_owned(),
        // Upstream takes it without a value in the next word.
        (Value | Output, None) => next()
            .ok_or_else(|| format!("--{name} wants a value"))?
            .to_owned(),
    };
    judged(flag, value)
}

/// `-Aw`, `-n x`, `-nx`, `-n=x`.
fn of_letters<'a>(
    verb: &Verb,
    said: &str,
    next: &mut dyn FnMut() -> Option<&'a str>,
) -> Result<Vec<Given>, String> {
    let mut given = Vec::new();
    let mut rest = said.chars();
    while let Some(letter) = rest.next() {
        let flag = known(verb, &letter.to_string(), |flag| {
            flag.1 == letter && letter != ' '
        })?;
        if flag.2 == Nothing {
            given.push(judged(flag, "true".to_owned())?);
            continue;
        }
        let value = match rest.as_str() {
            "" => next().ok_or_else(|| format!("-{letter} wants a value"))?,
            value => value.strip_prefix('=').unwrap_or(value),
        };
        given.push(judged(flag, value.to_owned())?);
        break;
    }
    Ok(given)
}

fn known(verb: &Verb, said: &str, is: impl Fn(&Flag) -> bool) -> Result<&'static Flag, String> {
    if let Some(flag) = verb.flags.iter().find(|flag| is(flag)) {
        return Ok(flag);
    }
    if NOBODYS.contains(&said) || matches!(said, "f" | "k" | "s") {
        let said = clip(said);
        return Err(format!(
            "flag {said:?}: where kubectl asks, as whom, and which files it reads is the page's to say"
        ));
    }
    let all: Vec<String> = verb
        .flags
        .iter()
        .map(|flag| format!("--{}", flag.0))
        .collect();
    Err(format!(
        "{} has no flag {:?} here; there are: {}",
        verb.name,
        clip(said),
        all.join(", ")
    ))
}

fn judged(flag: &Flag, value: String) -> Result<Given, String> {
    let good = match flag.2 {
        Nothing => matches!(value.as_str(), "true" | "false"),
        Value => true,
        Output => FORMS.iter().any(|form| match form.strip_suffix('=') {
            Some(_) => value.starts_with(form),
            None => value == *form,
        }),
    };
    match good {
        true => Ok((flag.0, value)),
        false => Err(format!(
            "--{} does not take {:?} here",
            flag.0,
            clip(&value)
        )),
    }
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
