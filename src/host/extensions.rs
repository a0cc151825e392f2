//! Operators' extensions: found where only root writes, and run where they can do no harm.
//!
//! ```text
//! /etc/pf9/check.d, inventory.d ─► those that count (root's, for everybody to run) ─► each a transient unit of systemd:
//!    no network, a user of its own, its own memory, processes and time ─► bytes ─► `model::extension` judges
//! ```
//!
//! A unit, not a child: nodelet may change no user id and make no namespace, and a program that forks away ends with
//! its unit's control group. Where systemd does not run there is no sandbox, and nothing is run. All are run at once,
//! so a bad one costs the others nothing but processor time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::exec::{self, Cmd, ProgramEnd};
use super::fs::{Found, HostFs};
use super::rooted;
use crate::model::{
    EXTENSION_OUTPUT_MAX, EXTENSIONS_MAX, ExtensionsStatus, extension_checks, extension_facts,
    is_extension_name, paths,
};
use crate::telemetry::chain;

/// Longest a program runs: systemd ends it, with all that it started.
const RUN_MAX: Duration = Duration::from_secs(10);
/// Then the call is given up: what ends a unit has a moment more.
const CALL_MAX: Duration = Duration::from_secs(20);
/// Most memory of one, in MiB: 16 of them fit into what a small machine spares.
const MEMORY_MIB: u32 = 32;
/// Most processes and threads of one.
const TASKS: u32 = 16;
/// Longest end of its output that is shown of one that failed.
const WORDS_MAX: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Check,
    Inventory,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Check, Self::Inventory];

    fn dir(self) -> &'static str {
        match self {
            Self::Check => paths::CHECK_D,
            Self::Inventory => paths::INVENTORY_D,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Check => "check.d",
            Self::Inventory => "inventory.d",
        }
    }
}

/// A program to run.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    kind: Kind,
    name: String,
}

/// Whether there is anything in the two directories.
pub fn any(fs: &HostFs) -> bool {
    Kind::ALL
        .iter()
        .any(|k| fs.list(k.dir()).is_ok_and(|names| !names.is_empty()))
}

/// Runs all of them, and says what they said.
pub async fn run(fs: &HostFs) -> ExtensionsStatus {
    let mut status = ExtensionsStatus::default();
    let found = find(fs, &mut status.bad);
    if found.is_empty() {
        return status;
    }
    if !fs.at("/run/systemd/system").is_dir() {
        let why = "not run: systemd does not run here, and there is no other sandbox";
        for Program { kind, name } in found {
            let at = format!("{}/{name}", kind.word());
            status.bad.insert(at, why.to_owned());
        }
        return status;
    }
    let said = join_all(found.iter().map(|program| one(fs, program))).await;
    for (Program { kind, name }, said) in found.iter().zip(said) {
        let judged = said.and_then(|bytes| take(&mut status, *kind, name, &bytes));
        if let Err(why) = judged {
            status.bad.insert(format!("{}/{name}", kind.word()), why);
        }
    }
    status
}

fn take(status: &mut ExtensionsStatus, kind: Kind, name: &str, bytes: &[u8]) -> Result<(), String> {
    match kind {
        Kind::Check => {
            let checks = extension_checks(bytes)?.into_iter();
            let named = checks.map(|(check, how)| (format!("{name}/{check}"), how));
            status.checks.extend(named);
        }
        Kind::Inventory => {
            status
                .facts
                .insert(name.to_owned(), extension_facts(bytes)?);
        }
    }
    Ok(())
}

/// Those that count. What does not is named with the reason, but for what editors and package managers leave.
fn find(fs: &HostFs, bad: &mut BTreeMap<String, String>) -> Vec<Program> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        let (dir, word) = (kind.dir(), kind.word());
        let mut names = match fs.list(dir) {
            Ok(names) => names,
            Err(e) => {
                bad.insert(word.to_owned(), chain(&e));
                continue;
            }
        };
        names.retain(|n| !is_leftover(n));
        names.sort_unstable();
        if names.is_empty() {
            continue;
        }
        if let Some(why) = rooted::fault(fs, dir) {
            bad.insert(word.to_owned(), format!("none of it is run: {why}"));
            continue;
        }
        if names.len() > EXTENSIONS_MAX {
            let why = format!(
                "{} programs, only the first {EXTENSIONS_MAX} are run",
                names.len()
            );
            bad.insert(word.to_owned(), why);
        }
        for name in names.into_iter().take(EXTENSIONS_MAX) {
            match unfit(fs, dir, &name) {
                Some(why) => {
                    let shown: String = name.chars().take(64).collect();
                    bad.insert(format!("{word}/{shown}"), format!("not run: {why}"));
                }
                None => all.push(Program { kind, name }),
            }
        }
    }
    all
}

fn is_leftover(name: &str) -> bool {
    name.starts_with('.')
        || name.ends_with('~')
        || [
            ".rpmsave",
            ".rpmnew",
            ".dpkg-old",
            ".dpkg-new",
            ".dpkg-dist",
        ]
        .iter()
        .any(|end| name.ends_with(end))
}

fn unfit(fs: &HostFs, dir: &str, name: &str) -> Option<String> {
    if !is_extension_name(name) {
        return Some(
            "its name has characters other than letters, digits, dots and dashes".to_owned(),
        );
    }
    let path = format!("{dir}/{name}");
    if let Some(why) = rooted::fault(fs, &path) {
        return Some(why);
    }
    match fs.found(&path) {
        Ok(Found::File { mode, .. }) if mode & 0o005 == 0o005 => None,
        Ok(Found::File { mode, .. }) => Some(format!(
            "not everybody can read and run it (mode {mode:04o}), and it runs as a user of its own"
        )),
        Ok(_) => Some("it is not a file".to_owned()),
        Err(e) => Some(chain(&e)),
    }
}

async fn one(fs: &HostFs, program: &Program) -> Result<Vec<u8>, String> {
    let path = fs.at(format!("{}/{}", program.kind.dir(), program.name));
    let cmd = Cmd::new(exec::program(fs, "systemd-run"), CALL_MAX)
        .keeps(EXTENSION_OUTPUT_MAX + 1)
        .args(sandbox())
        .arg("--")
        .arg(path);
    let began = Instant::now();
    let answer = exec::ask(cmd).await.map_err(|e| chain(&e))?;
    match why(answer.ended, began.elapsed(), &answer.stderr) {
        None => Ok(answer.stdout.into_bytes()),
        Some(why) => Err(why),
    }
}

/// Why nothing counts that it said. Of a unit whose time is over `systemd-run` says nothing, and ends with 1 (systemd 252).
fn why(ended: ProgramEnd, took: Duration, stderr: &str) -> Option<String> {
    let words: String = stderr.trim().chars().take(WORDS_MAX).collect();
    // On a busy machine the start of many units takes seconds: what says why it failed is believed.
    let was_ended = took >= RUN_MAX && words.is_empty();
    let words = match words.is_empty() {
        true => format!("it said nothing (it may have {MEMORY_MIB} MiB and {TASKS} processes)"),
        false => words,
    };
    match ended {
        ProgramEnd::Code(0) => None,
        ProgramEnd::Code(1) | ProgramEnd::Signal(_) if was_ended => Some(late()),
        ProgramEnd::Code(code) => Some(format!("it ended with code {code}: {words}")),
        ProgramEnd::Signal(signal) => Some(format!("it was ended by signal {signal}: {words}")),
        ProgramEnd::Late => Some(late()),
    }
}

fn late() -> String {
    format!(
        "it did not end within {} s, and was ended",
        RUN_MAX.as_secs()
    )
}

/// Arguments of `systemd-run`: the bounds of one program.
fn sandbox() -> Vec<String> {
    let run_max = format!("RuntimeMaxSec={}", RUN_MAX.as_secs());
    let (memory, tasks) = (
        format!("MemoryMax={MEMORY_MIB}M"),
        format!("TasksMax={TASKS}"),
    );
    exec::in_unit([
        run_max.as_str(),
        memory.as_str(),
        tasks.as_str(),
        "MemorySwapMax=0",
        "CPUQuota=50%",
        "TimeoutStopSec=2",
        "KillSignal=SIGKILL",
        "LimitNOFILE=256",
        "LimitFSIZE=1M",
        "LimitCORE=0",
        // A user of its own, for as long as it runs.
        "DynamicUser=yes",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "PrivateNetwork=yes",
        "RestrictAddressFamilies=AF_UNIX",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "ProtectKernelTunables=yes",
        "ProtectControlGroups=yes",
        "RestrictNamespaces=yes",
        "RestrictSUIDSGID=yes",
        "LockPersonality=yes",
        "InaccessiblePaths=-/run/pf9",
        "UMask=0077",
        "OOMScoreAdjust=900",
    ])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::host::fs::Attrs;

    /// Runs what it is given, and ends it and its group at a deadline: the bounds of a unit are systemd's own.
    const SYSTEMD_RUN: &str = "#!/bin/sh
while [ \"$1\" != -- ]; do shift; done; shift
exec timeout -s KILL 2 \"$@\"
";

    fn host() -> (tempfile::TempDir, HostFs) {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let run = Attrs::mode(0o755);
        fs.write("/usr/bin/systemd-run", SYSTEMD_RUN.as_bytes(), &run)
            .expect("systemd-run");
        std::fs::create_dir_all(fs.at("/run/systemd/system")).expect("systemd");
        (dir, fs)
    }

    fn put(fs: &HostFs, path: &str, script: &str, mode: u32) {
        let text = format!("#!/bin/sh\n{script}\n");
        fs.write(path, text.as_bytes(), &Attrs::mode(mode))
            .expect("script");
    }

    const GOOD: &str =
        r#"echo '{"schema": 1, "checks": [{"name": "md0", "ok": false, "found": "1 of 2"}]}'"#;

    #[tokio::test]
    async fn bad_ones_are_named_and_cost_the_good_ones_nothing() {
        let (_dir, fs) = host();
        put(&fs, "/etc/pf9/check.d/raid", GOOD, 0o755);
        put(&fs, "/etc/pf9/check.d/hangs", "sleep 600", 0o755);
        put(&fs, "/etc/pf9/check.d/floods", "exec yes", 0o755);
        put(
            &fs,
            "/etc/pf9/check.d/fails",
            "echo broken >&2; exit 3",
            0o755,
        );
        put(&fs, "/etc/pf9/check.d/garbage", "echo '{'", 0o755);
        put(
            &fs,
            "/etc/pf9/inventory.d/rack",
            r#"echo '{"schema": 1, "facts": {"rack": "r12"}}'"#,
            0o755,
        );
        put(
            &fs,
            "/etc/pf9/inventory.d/leaks",
            r#"echo '{"schema": 1, "facts": {"token": "x"}}'"#,
            0o755,
        );
        put(&fs, "/etc/pf9/inventory.d/old.rpmsave", "exit 1", 0o755);
        let began = std::time::Instant::now();
        let status = run(&fs).await;
        assert!(began.elapsed() < CALL_MAX, "all at once");
        assert_eq!(status.checks.keys().collect::<Vec<_>>(), ["raid/md0"]);
        assert_eq!(status.facts.keys().collect::<Vec<_>>(), ["rack"]);
        let words = |name: &str| status.bad.get(name).cloned().unwrap_or_default();
        assert!(
            words("check.d/hangs").contains("signal 9"),
            "{:?}",
            status.bad
        );
        assert!(!words("check.d/floods").is_empty());
        assert!(words("check.d/fails").contains("code 3: broken"));
        assert!(words("check.d/garbage").contains("not the expected JSON"));
        assert!(words("inventory.d/leaks").contains("token"));
        assert_eq!(status.bad.len(), 5, "{:?}", status.bad);
    }

    #[test]
    fn one_whose_time_was_over_is_told_from_one_that_failed() {
        let soon = Duration::from_secs(1);
        let said = |ended, took, text| why(ended, took, text).unwrap_or_default();
        assert_eq!(why(ProgramEnd::Code(0), RUN_MAX, ""), None);
        for ended in [ProgramEnd::Code(1), ProgramEnd::Signal(9), ProgramEnd::Late] {
            let text = said(ended, RUN_MAX, "");
            assert!(text.contains("did not end within 10 s"), "{text}");
        }
        let slow = said(ProgramEnd::Code(3), RUN_MAX, "no disk");
        assert!(slow.ends_with("code 3: no disk"), "{slow}");
        assert!(said(ProgramEnd::Code(1), soon, "no disk\n").ends_with("code 1: no disk"));
        let text = said(ProgramEnd::Code(1), soon, "");
        assert!(text.contains("32 MiB"), "{text}");
    }

    #[tokio::test]
    async fn what_others_than_root_could_have_written_is_not_run() {
        let (_dir, fs) = host();
        put(&fs, "/etc/pf9/check.d/good", GOOD, 0o755);
        put(&fs, "/etc/pf9/check.d/writable", GOOD, 0o777);
        put(&fs, "/etc/pf9/check.d/private", GOOD, 0o700);
        put(&fs, "/elsewhere", GOOD, 0o755);
        symlink(fs.at("/elsewhere"), fs.at("/etc/pf9/check.d/link")).expect("link");
        put(&fs, "/etc/pf9/check.d/bad name", GOOD, 0o755);
        let status = run(&fs).await;
        assert_eq!(status.checks.len(), 1);
        for (name, words) in [
            ("check.d/writable", "written by others"),
            ("check.d/private", "not everybody can"),
            ("check.d/link", "is a link"),
            ("check.d/bad name", "its name"),
        ] {
            assert!(status.bad[name].contains(words), "{:?}", status.bad);
        }
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(fs.at("/etc/pf9/check.d"), open).expect("mode");
        let status = run(&fs).await;
        assert!(status.checks.is_empty());
        assert!(
            status.bad["check.d"].contains("none of it is run"),
            "{:?}",
            status.bad
        );
    }

    #[tokio::test]
    async fn without_a_sandbox_nothing_is_run() {
        let (_dir, fs) = host();
        std::fs::remove_dir_all(fs.at("/run/systemd")).expect("no systemd");
        put(&fs, "/etc/pf9/check.d/raid", GOOD, 0o755);
        let status = run(&fs).await;
        assert!(status.checks.is_empty());
        assert!(
            status.bad["check.d/raid"].contains("no other sandbox"),
            "{:?}",
            status.bad
        );
    }

    #[test]
    fn a_program_has_a_user_and_no_network_and_an_end() {
        let words = sandbox().join(" ");
        for bound in [
            "DynamicUser=yes",
            "PrivateNetwork=yes",
            "NoNewPrivileges=yes",
            "MemoryMax=32M",
            "TasksMax=16",
            "RuntimeMaxSec=10",
            "ProtectSystem=strict",
        ] {
            assert!(words.contains(bound), "{bound}");
        }
    }
}
