//! How a host is gone to, and what runs there. Pure.

use std::ffi::OsString;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::host::exec::Cmd;

/// Longest name of a host: that of DNS.
const NAME_MAX: usize = 253;
/// Longest name of a user that systems allow.
const USER_MAX: usize = 32;
/// Most of an answer that is kept: a report of a check has 30 KiB.
const ANSWER_MAX: usize = 256 * 1024;
/// Root does it as it is, everybody else by sudo, which asks for nothing. A password has no way there: on standard input
/// it would stand before a token, and whether sudo takes it away depends on how it was asked the last time.
const THERE: &str = "test \"$(id -u)\" = 0 || set -- sudo -n -- \"$@\"; exec \"$@\"";

/// A host, as ssh is given it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cli) struct Target(String);

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// How all hosts are gone to.
pub(super) struct Way {
    pub(super) ssh: PathBuf,
    pub(super) user: Option<String>,
    pub(super) key: Option<PathBuf>,
    pub(super) config: Option<PathBuf>,
    /// The person's SSH agent.
    pub(super) agent: Option<OsString>,
}

/// What resolvers take for an IPv4 address although it is none: as `inet_aton(3)` reads it, in parts, octal and
/// hexadecimal, by its last part alone.
fn is_short(text: &str) -> bool {
    let number = |part: &str| {
        let hex = part.strip_prefix("0x").or_else(|| part.strip_prefix("0X"));
        let digits = hex.unwrap_or(part);
        let digit = |c: char| c.is_digit(if hex.is_some() { 16 } else { 10 });
        (hex.is_some() || !digits.is_empty()) && digits.chars().all(digit)
    };
    text.split('.').all(number) && text.parse::<Ipv4Addr>().is_err()
}

/// An address, a name, or one of ssh's own configuration.
pub(in crate::cli) fn target(text: &str) -> Result<Target, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    let good = !text.is_empty() && text.len() <= NAME_MAX && text.chars().all(plain);
    // Resolvers read 10.1.2 as 10.1.0.2, and 7 as 0.0.0.7: another machine than was meant.
    if good && is_short(text) {
        return Err("resolvers read this as an IPv4 address, and not as the one it looks like; write all four numbers in decimal, \
             without leading zeros"
            .into());
    }
    match good && !text.starts_with('-') {
        true => Ok(Target(text.to_owned())),
        false => Err("not the name or the address of a host; a user is given by --user, a port in ~/.ssh/config".into()),
    }
}

/// A name of a user.
pub(super) fn user(text: &str) -> Result<String, String> {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '$' | '@' | '\\');
    let good = !text.is_empty() && text.len() <= USER_MAX && text.chars().all(plain);
    match good && !text.starts_with('-') {
        true => Ok(text.to_owned()),
        false => Err("not the name of a user".into()),
    }
}

/// The first one that is named again.
pub(super) fn twice(hosts: &[Target]) -> Option<&Target> {
    let mut sorted: Vec<&Target> = hosts.iter().collect();
    sorted.sort_unstable();
    let same = sorted.windows(2).find(|two| two.first() == two.last());
    same.and_then(|two| two.first().copied())
}

/// `ssh` to this host, with our program and these arguments there.
///
/// The command line overrides every file: whatever a user's configuration says, an unknown key is refused, and nothing
/// of this machine (agent, screen, ports) is open to the other one.
pub(super) fn command(way: &Way, host: &Target, args: &[String], deadline: Duration) -> Cmd {
    let mut cmd = Cmd::new(&way.ssh, deadline).keeps(ANSWER_MAX);
    if let Some(agent) = &way.agent {
        cmd = cmd.env("SSH_AUTH_SOCK", agent);
    }
    if let Some(config) = &way.config {
        cmd = cmd.arg("-F").arg(config);
    }
    for option in [
        "StrictHostKeyChecking=yes",
        "BatchMode=yes",
        "ConnectTimeout=15",
        "ServerAliveInterval=15",
        "ServerAliveCountMax=4",
        "ForwardAgent=no",
        "ForwardX11=no",
        "ClearAllForwardings=yes",
        "PermitLocalCommand=no",
        "RequestTTY=no",
    ] {
        cmd = cmd.arg("-o").arg(option);
    }
    if let Some(key) = &way.key {
        cmd = cmd.args(["-o", "IdentitiesOnly=yes", "-i"]).arg(key);
    }
    if let Some(user) = &way.user {
        cmd = cmd.arg("-l").arg(user);
    }
    cmd.arg("--").arg(&host.0).arg(there(args))
}

/// One line for the login shell: every word is quoted, so the shell interprets none of it.
fn there(args: &[String]) -> String {
    let words = ["sh", "-c", THERE, "pf9", "pf9ctl"].map(str::to_owned);
    let words = words.iter().chain(args).map(|word| quoted(word));
    words.collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_host_is_a_name_and_never_an_option_or_a_command() {
        for good in [
            "10.0.0.5",
            "node-1",
            "fe80::1%eth0",
            "a_b.example",
            "10.example",
            "0xcafe.example",
        ] {
            assert_eq!(target(good).map(|t| t.to_string()).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "-oProxyCommand=x",
            "a b",
            "root@a",
            "a;b",
            "$(a)",
            "a\n",
            "10.1.2",
            "7",
            "10.0.0.05",
            "0x0a000005",
            &"a".repeat(254),
        ] {
            target(bad).expect_err(bad);
        }
        for bad in ["", "-l", "a b", "a'b", &"a".repeat(33)] {
            user(bad).expect_err(bad);
        }
        let hosts = ["b", "a", "b"].map(|t| target(t).expect("host"));
        assert_eq!(twice(&hosts), hosts.first());
        assert_eq!(twice(&hosts[..2]), None);
    }

    proptest! {
        #![proptest_config(crate::sample::cases(20, 200))]
        /// Whatever stands in an argument, the shell there gives it to the program as it is.
        #[test]
        fn a_shell_takes_nothing_out_of_an_argument(words in prop::collection::vec("[^\0]{0,20}", 0..4)) {
            let line = words.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(" ");
            let script = format!("for w in {line}; do printf '%s\\0' \"$w\"; done");
            let out = std::process::Command::new("sh").args(["-c", &script]).output().expect("sh");
            let want: String = words.iter().map(|w| format!("{w}\0")).collect();
            prop_assert_eq!(String::from_utf8(out.stdout).expect("text"), want);
        }
    }
}
