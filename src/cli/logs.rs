//! `logs`: what the daemons wrote, by their files: where systemd's journal is gone or full, these are not.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use jiff::SignedDuration;
use serde::Serialize;

use super::context::CommandContext;
use super::output::{Ink, Screen, Show};
use super::words;
use crate::app::Exit;
use crate::model::{Fault, FaultCode, Timestamp, paths};

/// How often a file that is followed is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// Read at a time.
const PIECE: u64 = 1024 * 1024;
/// Most older files that are read for `--since`: as many as a daemon keeps, and a few.
const OLDER_MAX: u32 = 100;

#[derive(Debug, Parser)]
pub(super) struct LogsArgs {
    /// Whose log.
    #[arg(value_enum, default_value_t = Which::Kube)]
    which: Which,
    /// Every log with its file, size and age; none is printed.
    #[arg(long)]
    list: bool,
    /// Only what is newer: 30s, 15m, 24h, 7d.
    #[arg(long, value_name = "TIME", value_parser = ago)]
    since: Option<SignedDuration>,
    /// At most so many lines, the newest; with --since all of them.
    #[arg(long, short = 'n', value_name = "LINES")]
    lines: Option<usize>,
    /// Go on with what is written, until Ctrl-C.
    #[arg(long, short)]
    follow: bool,
    /// The list as one JSON value.
    #[arg(long, requires = "list")]
    pub(super) json: bool,
}

/// A log of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Which {
    /// The story of the node in plain words.
    Kube,
    /// The tunnel.
    Comms,
    /// Who opened which stream, and what was refused.
    Audit,
    /// Documents: specs, status, downloads.
    Hostagent,
    /// What was done to the machine.
    Nodelet,
    /// Changes of the agent's version.
    Agent,
}

const ALL: [Which; 6] = [
    Which::Kube,
    Which::Comms,
    Which::Audit,
    Which::Hostagent,
    Which::Nodelet,
    Which::Agent,
];
/// Lines that are shown when nothing is said.
const LINES: usize = 50;

impl Which {
    fn path(self) -> String {
        let file = match self {
            Self::Kube => "kube/kube.log",
            Self::Comms => "comms/comms.log",
            Self::Audit => "comms/audit.log",
            Self::Hostagent => "hostagent/hostagent.log",
            Self::Nodelet => "nodelet/nodelet.log",
            Self::Agent => "agent/agent.log",
        };
        format!("{}/{file}", paths::LOG_DIR)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Kube => "kube",
            Self::Comms => "comms",
            Self::Audit => "audit",
            Self::Hostagent => "hostagent",
            Self::Nodelet => "nodelet",
            Self::Agent => "agent",
        }
    }
}

/// `30s`, `15m`, `24h`, `7d`.
pub(super) fn ago(text: &str) -> Result<SignedDuration, String> {
    let bad = || format!("{text:?} is not a time like 30s, 15m, 24h or 7d");
    let unit = text.chars().next_back().map_or(0, char::len_utf8);
    let (number, unit) = text.split_at(text.len() - unit);
    let number: i64 = number.parse().map_err(|_| bad())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    // A hundred years are long enough, and no number overflows.
    match number.checked_mul(seconds) {
        Some(s) if (0..=100 * 366 * 86_400).contains(&s) => Ok(SignedDuration::from_secs(s)),
        Some(_) | None => Err(bad()),
    }
}

pub(super) async fn run(ctx: &CommandContext, args: &LogsArgs) -> Result<Exit, Fault> {
    if args.list {
        ctx.out.show(&List::of(ctx));
        return Ok(Exit::Ok);
    }
    let path = args.which.path();
    let fault = |e: std::io::Error| unreadable(&path, &e);
    let mut file = match ctx.host.open_plain(&path) {
        Ok(file) => Some(file),
        Err(e) if args.follow && e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(fault(e)),
    };
    let since = args.since.map(|ago| ctx.now() - ago);
    let lines = match (args.lines, since) {
        (Some(n), _) => n,
        (None, Some(_)) => usize::MAX,
        (None, None) => LINES,
    };
    if let (Some(since), true) = (since, args.lines.is_none()) {
        for n in (1..=OLDER_MAX).rev() {
            let Ok(mut older) = ctx.host.open_plain(format!("{path}.{n}")) else {
                continue;
            };
            let newest = older.metadata().map_err(fault)?.mtime();
            if newest >= since.as_second() {
                print(ctx, &mut older, Some(since))?;
            }
        }
    }
    if let Some(file) = &mut file {
        match lines {
            usize::MAX => print(ctx, file, since)?,
            some => tail(ctx, file, some, since).map_err(fault)?,
        }
    }
    if args.follow {
        follow(ctx, &path, file).await?;
    }
    Ok(Exit::Ok)
}

/// All of it, in pieces of whole lines, from a time on.
fn print(ctx: &CommandContext, file: &mut File, from: Option<Timestamp>) -> Result<(), Fault> {
    let mut left = Vec::new();
    let mut begun = from.is_none();
    loop {
        let got = file.by_ref().take(PIECE).read_to_end(&mut left);
        let n = got.map_err(|e| unreadable("the log", &e))?;
        let whole = match n {
            0 => left.len(),
            _ => left
                .iter()
                .rposition(|b| *b == b'\n')
                .map_or(0, |at| at + 1),
        };
        let text = String::from_utf8_lossy(left.get(..whole).unwrap_or_default()).into_owned();
        let shown = match from {
            Some(from) if !begun => since(&text, from),
            Some(_) | None => &text,
        };
        begun |= !shown.is_empty();
        ctx.out.raw(shown);
        left.drain(..whole);
        if n == 0 {
            return Ok(());
        }
    }
}

/// The last lines, read from the end.
fn tail(
    ctx: &CommandContext,
    file: &mut File,
    lines: usize,
    from: Option<Timestamp>,
) -> std::io::Result<()> {
    let size = file.metadata()?.len();
    let mut want = PIECE.min(size);
    let text = loop {
        file.seek(SeekFrom::Start(size - want))?;
        let mut bytes = Vec::new();
        file.by_ref().take(want).read_to_end(&mut bytes)?;
        let breaks = bytes.iter().filter(|b| **b == b'\n').count();
        if breaks > lines || want == size {
            break String::from_utf8_lossy(&bytes).into_owned();
        }
        want = want.saturating_mul(2).min(size);
    };
    let count = text.lines().count();
    let shown: String = text
        .split_inclusive('\n')
        .skip(count.saturating_sub(lines))
        .collect();
    ctx.out
        .raw(from.map_or(shown.as_str(), |from| since(&shown, from)));
    Ok(())
}

/// Follows a log, also across its rotation.
async fn follow(ctx: &CommandContext, path: &str, mut file: Option<File>) -> Result<(), Fault> {
    loop {
        if let Some(file) = &mut file {
            print(ctx, file, None)?;
        }
        tokio::select! {
            // cancel-safe: both are
            () = ctx.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = ctx.host.open_plain(path).ok();
        let is_other = |new: &File| {
            let id = |f: &File| f.metadata().ok().map(|m| (m.dev(), m.ino()));
            let at = file
                .as_mut()
                .and_then(|f| f.stream_position().ok())
                .unwrap_or(0);
            let shorter = new.metadata().is_ok_and(|m| m.len() < at);
            shorter || file.as_ref().is_none_or(|old| id(old) != id(new))
        };
        if let Some(new) = now.filter(is_other) {
            // The last lines of the old one.
            if let Some(old) = &mut file {
                print(ctx, old, None)?;
            }
            file = Some(new);
        }
    }
}

fn unreadable(path: &str, error: &std::io::Error) -> Fault {
    let why = format!("{path}: {error}");
    let fault = Fault::new(FaultCode::Log, "cannot show the log", why);
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            fault.fix("nothing was logged there yet; pf9ctl logs --list shows the logs that exist")
        }
        std::io::ErrorKind::PermissionDenied => fault.fix("run it with sudo"),
        _ => fault.fix("journalctl -u 'pf9-*' has most of it, too"),
    }
}

/// The part of a log from a time on: its lines are in the order of their times, and begin with one (or say one first,
/// as JSON). Lines without one belong to the line before them.
pub(super) fn since(text: &str, from: Timestamp) -> &str {
    let from = from.strftime("%Y-%m-%dT%H:%M:%S").to_string();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if time_of(line).is_some_and(|time| time >= from.as_str()) {
            return text.get(at..).unwrap_or_default();
        }
        at += line.len();
    }
    ""
}

/// `2026-11-21T10:00:00`; both forms are in UTC, so their order is that of the times.
fn time_of(line: &str) -> Option<&str> {
    const LENGTH: usize = 19;
    let line = line.strip_prefix("{\"timestamp\":\"").unwrap_or(line);
    let time = line.get(..LENGTH)?;
    let shape = |(n, c): (usize, char)| match n {
        4 | 7 => c == '-',
        10 => c == 'T',
        13 | 16 => c == ':',
        _ => c.is_ascii_digit(),
    };
    time.chars().enumerate().all(shape).then_some(time)
}

#[derive(Debug, Serialize)]
struct List {
    logs: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: Which,
    path: String,
    bytes: Option<u64>,
    written_at: Option<Timestamp>,
    #[serde(skip)]
    now: Timestamp,
}

impl List {
    fn of(ctx: &CommandContext) -> Self {
        let row = |name: Which| {
            let path = name.path();
            let about = ctx.host.open_plain(&path).and_then(|f| f.metadata()).ok();
            Row {
                name,
                bytes: about.as_ref().map(std::fs::Metadata::len),
                written_at: about.and_then(|m| Timestamp::from_second(m.mtime()).ok()),
                path,
                now: ctx.now(),
            }
        };
        Self {
            logs: ALL.map(row).into(),
        }
    }
}

impl Show for List {
    fn screen(&self, _: usize) -> Screen {
        let mut screen = Screen::default();
        for row in &self.logs {
            let about = match (row.bytes, row.written_at) {
                (Some(bytes), Some(at)) => {
                    format!("{:>10}  {}", words::bytes(bytes), words::ago(row.now, at))
                }
                (_, _) => format!("{:>10}", "none"),
            };
            screen.line([
                (Ink::Bold, format!("  {:<11}", row.name.word())),
                (Ink::Plain, format!("{:<38}", row.path)),
                (Ink::Dim, about),
            ]);
        }
        screen
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_log_is_cut_at_a_time_and_not_within_a_message() {
        let from: Timestamp = "2026-11-21T10:00:00Z".parse().expect("time");
        let text = "2026-11-21T09:59:59.9Z old\n  more of it\n2026-11-21T10:00:00.1Z new\n  more\n2026-11-21T10:01:00Z x\n";
        assert!(since(text, from).starts_with("2026-11-21T10:00:00.1Z new\n  more"));
        let json = "{\"timestamp\":\"2026-11-21T09:00:00Z\",\"a\":1}\n{\"timestamp\":\"2026-11-21T11:00:00Z\",\"b\":1}\n";
        assert!(since(json, from).contains("\"b\"") && !since(json, from).contains("\"a\""));
        assert_eq!(since("no times\nat all\n", from), "");
    }

    #[test]
    fn times_are_said_shortly() {
        for (text, seconds) in [("30s", 30), ("15m", 900), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(ago(text).map(|d| d.as_secs()), Ok(seconds));
        }
        for bad in ["", "h", "5", "-1h", "1w", "99999999999999d", "1.5h", "µ"] {
            assert!(ago(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_log_holds_is_cut_without_a_panic(text in "\\PC{0,100}", line in "[0-9TZ:.-]{0,40}") {
            let text = format!("{text}\n{line}\n");
            let part = since(&text, Timestamp::UNIX_EPOCH);
            prop_assert!(text.ends_with(part));
            drop(ago(&text));
        }
    }
}
