//! Why a call failed, in our own words. Pure.
//!
//! What a package manager says is never passed on as it is: it names addresses of repositories, with the passwords that
//! some have in them, and whatever a maintainer script prints. That is in the log on the machine. Passed on is what kind
//! of failure it was, with names that can be nothing else: of packages and of hosts.

use super::{Call, LOG};
use crate::host::exec::{ProgramEnd, ProgramOutput};
use crate::model::{Fault, FaultCode};

/// Packages, or repositories, that are named.
const NAMED: usize = 5;
/// Longest name that is repeated.
const NAME_MAX: usize = 100;

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Somebody else has the package manager: trying again soon helps.
    Locked,
    Full,
    Repository,
    Packages,
    Broken,
    Late,
    Other,
}

/// What the answer of a call that failed means.
pub(super) fn kind(answer: &ProgramOutput) -> Kind {
    match answer.ended {
        ProgramEnd::Late => return Kind::Late,
        ProgramEnd::Code(_) | ProgramEnd::Signal(_) => {}
    }
    let said = |words: &[&str]| {
        words
            .iter()
            .any(|w| answer.stderr.contains(w) || answer.stdout.contains(w))
    };
    // The first that fits: a full disk makes packages fail, and not the other way round.
    let kinds: [(Kind, &[&str]); 5] = [
        (
            Kind::Full,
            &[
                "No space left on device",
                "don't have enough free space",
                "more space needed on the",
                "Disk quota exceeded",
            ],
        ),
        (
            Kind::Locked,
            &[
                "Could not get lock",
                "Unable to acquire the dpkg frontend lock",
                "Unable to lock",
                "locked by another process",
                "Failed to obtain the transaction lock",
            ],
        ),
        (
            Kind::Repository,
            &[
                "Failed to fetch",
                "Some index files failed",
                "Could not resolve",
                "Unable to fetch",
                "Failed to download",
                "Cannot download",
                "NO_PUBKEY",
                "is not signed",
                "cannot be authenticated",
                "No more mirrors",
            ],
        ),
        (
            Kind::Packages,
            &[
                "Errors were encountered while processing",
                "scriptlet failed",
                "Error: Transaction failed",
                "Sub-process /usr/bin/dpkg returned an error code",
            ],
        ),
        (
            Kind::Broken,
            &[
                "Unmet dependencies",
                "unmet dependencies",
                "held broken packages",
                "Packages need to be removed",
                "dpkg was interrupted",
                "conflicting requests",
                "nothing provides",
            ],
        ),
    ];
    let found = kinds.iter().find(|(_, words)| said(words));
    found.map_or(Kind::Other, |(kind, _)| *kind)
}

/// The failure of a call, for everybody.
pub(super) fn why(call: &Call, answer: &ProgramOutput, within_s: u64) -> Fault {
    let verb = verb(call);
    let (code, why, fix) = match kind(answer) {
        Kind::Late => (
            FaultCode::OsUpdateFailed,
            format!("{verb} did not finish within {within_s} s and was stopped"),
            "see the log for what it did; resume with more time (--within)",
        ),
        Kind::Locked => (
            FaultCode::OsUpdateFailed,
            "another program holds the package manager's lock".to_owned(),
            "find it (ps, systemctl list-units 'apt*' 'dnf*' 'unattended*'), wait for it, then resume",
        ),
        Kind::Full => (
            FaultCode::DiskFull,
            format!("{verb} ran out of space"),
            "free some space on /, /var and /boot (df -h), then resume",
        ),
        Kind::Repository => (
            FaultCode::OsUpdateFailed,
            format!(
                "a repository is not available{}",
                named(&hosts(&answer.stderr))
            ),
            "check that the machine reaches its repositories and trusts their keys, then resume",
        ),
        Kind::Packages => (
            FaultCode::OsUpdateFailed,
            format!(
                "packages could not be installed{}",
                named(&super::apt::failed(&answer.stderr))
            ),
            "see the log for the output of their scripts, fix it on the machine, then resume",
        ),
        Kind::Broken => (
            FaultCode::OsUpdateFailed,
            "packages of this machine conflict, or something would have to be removed".to_owned(),
            "see the log, fix it with the package manager, then resume",
        ),
        Kind::Other => (
            FaultCode::OsUpdateFailed,
            match answer.ended {
                ProgramEnd::Code(code) => format!("{verb} ended with code {code}"),
                ProgramEnd::Signal(signal) => format!("{verb} was ended by signal {signal}"),
                ProgramEnd::Late => format!("{verb} timed out"),
            },
            "see the log",
        ),
    };
    fault(code, why).fix(format!("{fix}; the log: {LOG}"))
}

/// A failure of this kind.
pub(super) fn fault(code: FaultCode, why: impl Into<String>) -> Fault {
    Fault::new(
        code,
        "the distribution's updates are not all installed",
        why,
    )
}

/// The program and what it was to do.
fn verb(call: &Call) -> String {
    const VERBS: [&str; 7] = [
        "update",
        "upgrade",
        "install",
        "makecache",
        "check-update",
        "needs-restarting",
        "--configure",
    ];
    let what = call.args.iter().find(|a| VERBS.contains(&a.as_str()));
    what.map_or_else(
        || call.program.to_owned(),
        |what| format!("{} {what}", call.program),
    )
}

fn named(names: &[String]) -> String {
    let plain = |name: &&String| {
        let good = |c: char| c.is_ascii_alphanumeric() || "+-.:_~".contains(c);
        (1..=NAME_MAX).contains(&name.len()) && name.chars().all(good)
    };
    let mut names: Vec<&str> = names.iter().filter(plain).map(String::as_str).collect();
    names.dedup();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    match (names.is_empty(), more) {
        (true, _) => String::new(),
        (false, 0) => format!(": {}", names.join(", ")),
        (false, more) => format!(": {} and {more} more", names.join(", ")),
    }
}

/// Whom addresses in it are of; never a user or a password in one.
fn hosts(said: &str) -> Vec<String> {
    let after = said.split("://").skip(1);
    let authority = after.filter_map(|rest| rest.split(['/', ' ', '\n', '\'', '"']).next());
    let host = authority.filter_map(|a| a.rsplit('@').next());
    let mut hosts: Vec<String> = host.map(str::to_owned).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(stderr: &str) -> ProgramOutput {
        ProgramOutput {
            ended: ProgramEnd::Code(100),
            stdout: String::new(),
            stderr: stderr.into(),
        }
    }

    fn told(stderr: &str) -> Fault {
        why(&super::super::apt::install("/p"), &said(stderr), 60)
    }

    #[test]
    fn failures_are_told_apart() {
        for (stderr, want) in [
            (
                "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (unattended-upgr)",
                Kind::Locked,
            ),
            (
                "dpkg: error: dpkg frontend lock was locked by another process with pid 7",
                Kind::Locked,
            ),
            (
                "E: You don't have enough free space in /var/cache/apt/archives/.",
                Kind::Full,
            ),
            (
                "dpkg: error processing x: cannot copy: No space left on device\nErrors were encountered while processing:\n x",
                Kind::Full,
            ),
            (
                "E: Failed to fetch http://deb.example/dists/x  Could not resolve 'deb.example'",
                Kind::Repository,
            ),
            (
                "Errors were encountered while processing:\n x\nE: Sub-process /usr/bin/dpkg returned an error code (1)",
                Kind::Packages,
            ),
            (
                "E: Unmet dependencies. Try 'apt --fix-broken install'",
                Kind::Broken,
            ),
            (
                "E: Packages need to be removed but remove is disabled.",
                Kind::Broken,
            ),
            ("E: something new", Kind::Other),
        ] {
            assert_eq!(kind(&said(stderr)), want, "{stderr}");
        }
    }

    #[test]
    fn no_password_and_no_script_s_words_leave_the_machine() {
        let fault = told(
            "E: Failed to fetch https://me:s3cret@deb.example:8443/dists/x/InRelease  401 Unauthorized for token=s3cret",
        );
        assert!(fault.why.contains("deb.example:8443"), "{fault}");
        let text = serde_json::to_string(&fault).expect("json");
        assert!(!text.contains("s3cret") && !text.contains("me:"), "{text}");
        let fault = told(
            "customer-database-password\nErrors were encountered while processing:\n good-name\n $(rm)\n",
        );
        assert!(fault.why.ends_with(": good-name"), "{fault}");
        let fault = told("whatever: secret");
        assert_eq!(fault.why, "apt-get upgrade ended with code 100");
    }

    #[test]
    fn what_is_late_says_its_bound() {
        let late = ProgramOutput {
            ended: ProgramEnd::Late,
            ..said("")
        };
        let fault = why(&super::super::dnf::check(), &late, 60);
        assert!(fault.why.contains("60 s"), "{fault}");
    }
}
