//! `bundle`: everything that support asks for first, in one archive, without a secret in it.
//!
//! ```text
//! plan ─► collect (one entry at a time) ─► redact ─► guard ─► tar ─ zstd ─ age? ─► file, or standard output
//!                                                                 MANIFEST.json comes last: what is in, what is not, why
//! ```
//!
//! Works with every daemon dead, without a network and with a full disk (`-o -`); holds one entry of a few MiB in memory.
//!
//! | file | holds |
//! |---|---|
//! | `plan`     | which entries there are |
//! | `collect`  | the content of each |
//! | `machine`  | what is said of the machine: routes, disks, listings, certificates |
//! | `redact`   | secrets out of text, by what they look like |
//! | `known`    | secrets of this machine, by what they are |
//! | `settings` | configuration by a list of what may be shown |
//! | `archive`  | the archive, its bound, its manifest |
//! | `send`     | to the plane, which asked for it |

mod archive;
mod collect;
mod known;
mod machine;
mod plan;
mod redact;
mod send;
mod settings;

#[cfg(test)]
pub(super) mod testing;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use age::x25519::Recipient;
use clap::{Parser, ValueEnum};
use jiff::SignedDuration;
use serde::Serialize;
use uuid::Uuid;

use super::context::CommandContext;
use super::output::{Ink, Screen, Show, wrap};
use super::{logs, words};
use crate::app::Exit;
use crate::backup::seal;
use crate::host::space;
use crate::model::{Fault, FaultCode, Timestamp};

use archive::{About, Archive, Written};
use collect::{Collector, Span};
use known::Known;
use redact::Redactor;

const WHAT: &str = "cannot make a support bundle";
/// Smallest bound that the small entries fit into.
const SIZE_MIN: u64 = 1024 * 1024;

#[derive(Debug, Parser)]
pub(super) struct BundleArgs {
    /// What would be in it; nothing is made.
    #[arg(long)]
    list: bool,
    /// Where to write it: a file that is not there yet, a directory, or - for standard output. Default: a file of its own
    /// name, here.
    #[arg(long, short, value_name = "FILE")]
    output: Option<String>,
    /// Logs of this time: 30m, 24h, 7d.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = logs::ago)]
    since: SignedDuration,
    /// Nothing newer than so long ago, in logs.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = logs::ago)]
    until: SignedDuration,
    /// Of each log at most so many lines, the newest.
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..))]
    lines: Option<u32>,
    /// Nothing else than this.
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// At most so large: 1M, 10M, 1G.
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size)]
    max_size: u64,
    /// Only the holder of this key can open it (a public key of age, age1…); can be repeated.
    #[arg(long, value_name = "KEY")]
    encrypt_to: Vec<String>,
    /// Send it to the plane, which asked for it by this id: nodelet does.
    #[arg(long, value_name = "ID", hide = true, conflicts_with_all = ["output", "list"])]
    to_plane: Option<Uuid>,
    /// One JSON value instead of lines for people.
    #[arg(long)]
    pub(super) json: bool,
}

/// A part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Only {
    /// What the agent, kubelet, etcd and the runtime logged; never what containers did.
    Logs,
}

/// `1M`, `10M`, `1G`.
fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size like 1M, 10M or 1G");
    let unit = text.chars().next_back().map_or(0, char::len_utf8);
    let (number, unit) = text.split_at(text.len() - unit);
    let shift = match unit {
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        _ => return Err(bad()),
    };
    let number: u32 = number.parse().map_err(|_| bad())?;
    match u64::from(number) << shift {
        bytes if bytes >= SIZE_MIN => Ok(bytes),
        _ => Err(format!("{text:?} is less than 1M, which is too small")),
    }
}

/// What was made.
#[derive(Debug, Serialize)]
pub(super) struct BundleReport {
    /// Where it is.
    path: String,
    /// Its size.
    bytes: u64,
    /// Whether only the holder of a key can open it.
    encrypted: bool,
    /// Entries, without the manifest.
    files: usize,
    /// How often something was taken out.
    redactions: u64,
    /// Entries that are not in it, or not whole, and why.
    left_out: Vec<String>,
}

pub(super) async fn run(ctx: &CommandContext, args: &BundleArgs) -> Result<Exit, Fault> {
    let mut items = plan::plan(&ctx.host);
    if let Some(Only::Logs) = args.only {
        items.retain(|item| item.kind.is_a_log());
    }
    if args.list {
        ctx.out.show(&List::of(&items));
        return Ok(Exit::Ok);
    }
    ctx.need_root("make a support bundle")?;
    let recipients = match args.encrypt_to.as_slice() {
        [] => Vec::new(),
        some => seal::recipients(some).map_err(|e| Fault {
            what: WHAT.to_owned(),
            code: FaultCode::Usage,
            ..e
        })?,
    };
    let now = ctx.now();
    let before = |ago| now.checked_sub(ago).unwrap_or(Timestamp::MIN);
    let span = Span {
        since: before(args.since),
        until: (!args.until.is_zero()).then(|| before(args.until)),
        lines: args.lines,
    };
    if span.until.is_some_and(|until| until <= span.since) {
        let why = "--until is not after --since: the time ends before it begins";
        return Err(Fault::new(FaultCode::Usage, WHAT, why));
    }
    let about = About::new(ctx, now, &span, args.max_size, !recipients.is_empty());
    let making = Making {
        items,
        redactor: Redactor::new(Known::of(&ctx.host)),
        recipients,
        span,
    };
    if let Some(id) = args.to_plane {
        let written = Box::pin(send::run(ctx, &making, about, id)).await?;
        ctx.out.show(&report("the plane".to_owned(), &written));
        return Ok(Exit::Ok);
    }
    let mut place = Place::open(args.output.as_deref(), &about)?;
    let sink = place.sink()?;
    let said = |item: &plan::Item| {
        if !place.is_a_pipe() {
            ctx.out.waiting(&format!("collecting {}", item.name));
        }
    };
    let made = making.make(ctx, sink, about, said, async || Ok(())).await;
    let written = made.map_err(|broke| match broke {
        Broke::Stopped(fault) => {
            place.take_away();
            fault
        }
        Broke::Io(e) => place.failed(&e),
    })?;
    place.keep().map_err(|e| place.failed(&e))?;
    if !place.is_a_pipe() {
        ctx.out.show(&report(place.shown(), &written));
    }
    Ok(Exit::Ok)
}

/// Input of a bundle.
struct Making {
    items: Vec<plan::Item>,
    redactor: Redactor,
    recipients: Vec<Recipient>,
    span: Span,
}

/// Why one is not made.
enum Broke {
    /// It was cancelled.
    Stopped(Fault),
    /// Writing failed.
    Io(io::Error),
}

impl From<io::Error> for Broke {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Making {
    /// Writes one entry after the other into `sink`, which is flushed after each and at the end.
    async fn make(
        &self,
        ctx: &CommandContext,
        sink: Box<dyn io::Write>,
        about: About,
        begins: impl Fn(&plan::Item),
        mut hand_on: impl AsyncFnMut() -> io::Result<()>,
    ) -> Result<Written, Broke> {
        let mut archive = Archive::new(sink, &self.recipients, about)?;
        let mut collector = Collector::new(ctx, &self.redactor, self.span);
        for item in &self.items {
            if ctx.stop.is_cancelled() {
                return Err(Broke::Stopped(
                    ctx.interrupted("no support bundle was made"),
                ));
            }
            begins(item);
            let content = collector.collect(item).await;
            archive.add(item, content, &self.redactor)?;
            hand_on().await?;
        }
        let written = archive.finish(&self.redactor)?;
        hand_on().await?;
        Ok(written)
    }
}

fn report(path: String, written: &Written) -> BundleReport {
    BundleReport {
        path,
        bytes: written.bytes,
        encrypted: written.encrypted,
        files: written.files,
        redactions: written.redactions,
        left_out: written.left_out.clone(),
    }
}

/// Where it goes.
enum Place {
    Stdout,
    /// A file of this name; taken away again unless it is kept.
    File {
        path: PathBuf,
        file: Option<File>,
    },
}

impl Place {
    fn open(output: Option<&str>, about: &About) -> Result<Self, Fault> {
        if output == Some("-") {
            return Ok(Self::Stdout);
        }
        let path = match output {
            Some(path) if Path::new(path).is_dir() => Path::new(path).join(about.file_name()),
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(about.file_name()),
        };
        let mut options = OpenOptions::new();
        // Never through a link, and never over what is there: root writes where others may have been.
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|e| {
            let why = format!("{}: {e}", path.display());
            Fault::new(FaultCode::OutputFailed, WHAT, why).fix(
                "name another file with -o FILE; -o - writes to standard output, over ssh for example",
            )
        })?;
        Ok(Self::File {
            path,
            file: Some(file),
        })
    }

    fn sink(&mut self) -> Result<Box<dyn io::Write>, Fault> {
        match self {
            Self::Stdout => Ok(super::output::bytes_out()),
            Self::File { file, .. } => {
                let cloned = file.as_ref().map(File::try_clone).transpose();
                match cloned {
                    Ok(Some(file)) => Ok(Box::new(file)),
                    Ok(None) => Err(Fault::new(FaultCode::OutputFailed, WHAT, "it is closed")),
                    Err(e) => Err(self.failed(&e)),
                }
            }
        }
    }

    fn is_a_pipe(&self) -> bool {
        matches!(self, Self::Stdout)
    }

    fn shown(&self) -> String {
        match self {
            Self::Stdout => "-".to_owned(),
            Self::File { path, .. } => path.display().to_string(),
        }
    }

    /// Durably on disk.
    fn keep(&self) -> io::Result<()> {
        match self {
            Self::Stdout | Self::File { file: None, .. } => Ok(()),
            Self::File {
                file: Some(file), ..
            } => file.sync_all(),
        }
    }

    fn take_away(&self) {
        if let Self::File { path, .. } = self {
            // Half of one is of no use, and a full disk has better use for its room.
            drop(std::fs::remove_file(path));
        }
    }

    fn failed(&self, error: &io::Error) -> Fault {
        self.take_away();
        let why = format!("{}: {error}", self.shown());
        match space::is_full(error) {
            true => Fault::new(FaultCode::DiskFull, WHAT, why).fix(
                "write it elsewhere with -o FILE, or to standard output with -o - (over ssh: ssh HOST sudo pf9ctl \
                 bundle -o - > bundle.tar.zst)",
            ),
            false => Fault::new(FaultCode::OutputFailed, WHAT, why).fix("name another place with -o FILE"),
        }
    }
}

/// `--list`: what would be in one made now.
#[derive(Debug, Serialize)]
struct List {
    files: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    source: String,
}

impl List {
    fn of(items: &[plan::Item]) -> Self {
        let row = |item: &plan::Item| Row {
            name: item.name.clone(),
            source: item.source.clone(),
        };
        Self {
            files: items.iter().map(row).collect(),
        }
    }
}

/// Column of the sources.
const SOURCE_COLUMN: usize = 36;

impl Show for List {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        for row in &self.files {
            let room = width.saturating_sub(SOURCE_COLUMN).max(20);
            for (n, part) in wrap(&row.source, room).into_iter().enumerate() {
                let name = if n == 0 { row.name.as_str() } else { "" };
                let lead = SOURCE_COLUMN - 2;
                screen.line([(Ink::Plain, format!("  {name:<lead$}")), (Ink::Dim, part)]);
            }
        }
        screen.gap();
        let text = "  Values of settings that are not on a list, keys, passwords and tokens are \
                    removed; no key file is opened.";
        screen.wrapped(0, text, width);
        screen.gap();
        screen
    }
}

impl Show for BundleReport {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        let open = match self.encrypted {
            true => "only with the private key",
            false => {
                "by anybody who has the file: it has no keys or passwords, but names and addresses"
            }
        };
        screen.row("bundle", Ink::Bold, &self.path, width);
        screen.row("size", Ink::Plain, &words::bytes(self.bytes), width);
        let files = format!("{}, and MANIFEST.json", self.files);
        screen.row("files", Ink::Plain, &files, width);
        let redactions = format!("{} places", self.redactions);
        screen.row("taken out", Ink::Plain, &redactions, width);
        screen.row("opened", Ink::Plain, open, width);
        for (n, line) in self.left_out.iter().enumerate() {
            let label = if n == 0 { "not in it" } else { "" };
            screen.row(label, Ink::Warn, line, width);
        }
        screen.gap();
        screen
    }
}
