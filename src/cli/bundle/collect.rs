//! The content of each entry: bounded in bytes and in time, and clean.

use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use futures_util::StreamExt;
use serde::Serialize;
use serde_json::Value;

use super::plan::{Item, Kind, Own};
use super::redact::{Cleaned, Redactor};
use super::{machine, settings};
use crate::cli::check::look;
use crate::cli::context::{CommandContext, NODE_UNITS};
use crate::cli::{logs, status, version};
use crate::host::exec::{self, Cmd};
use crate::host::noise;
use crate::model::Timestamp;
use crate::preflight::{Report, Skips};
use crate::telemetry::chain;

/// The newest part of a file that is kept: days of one daemon. With what it becomes it is what is in memory at a time.
pub(super) const FILE_MAX: u64 = 4 * 1024 * 1024;
/// A text of a page or two.
const TEXT_MAX: u64 = 256 * 1024;
/// Newest lines of a unit's journal.
const JOURNAL_LINES: u32 = 2000;
/// journald reads files of days.
const JOURNAL: Duration = Duration::from_secs(15);
/// Daemons that are dead, a plane that is away: each has its own bound within this one.
const DOCUMENT: Duration = Duration::from_secs(30);

/// Which part of the logs is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) since: Timestamp,
    /// None: up to now.
    pub(super) until: Option<Timestamp>,
    /// At most so many lines of each, the newest.
    pub(super) lines: Option<u32>,
}

/// What was had.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) cleaned: Cleaned,
    /// The missing part of it.
    pub(super) cut: Option<String>,
}

/// Has entries.
pub(super) struct Collector<'a> {
    ctx: &'a CommandContext,
    redactor: &'a Redactor,
    span: Span,
    /// What the journals so far have against the node's programs, as text.
    complaints: String,
}

impl<'a> Collector<'a> {
    pub(super) fn new(ctx: &'a CommandContext, redactor: &'a Redactor, span: Span) -> Self {
        Self {
            ctx,
            redactor,
            span,
            complaints: String::new(),
        }
    }

    /// The entry's content, or why there is none. `None`: there is no such thing on this machine.
    pub(super) async fn collect(&mut self, item: &Item) -> Result<Option<Content>, String> {
        match &item.kind {
            Kind::Own(own) => {
                let value = tokio::time::timeout(DOCUMENT, Box::pin(self.own(*own))).await;
                let value = value.map_err(|_| "it was not available in time".to_owned())??;
                Ok(Some(whole(self.redactor.clean_json(value))))
            }
            Kind::Machine(what) => {
                let text = machine::said(&self.ctx.host, *what);
                Ok(Some(whole(self.redactor.clean_known(&text))))
            }
            Kind::Text(path) => {
                let read = self.read(path, TEXT_MAX)?;
                Ok(read.map(|(text, cut)| Content {
                    cleaned: self.redactor.clean(&text),
                    cut,
                }))
            }
            Kind::Settings(path) => self.settings(path, &settings::AGENT),
            Kind::Services(path) => self.settings(path, &settings::SERVICES),
            Kind::Log(path) => self.log(path),
            Kind::Journal(unit) => self.journal(unit).await,
            Kind::Complaints => {
                let none = "no program of the node complains of anything that matters\n";
                let told = match self.complaints.as_str() {
                    "" => none,
                    told => told,
                };
                Ok(Some(whole(self.redactor.clean(told))))
            }
        }
    }

    async fn own(&self, own: Own) -> Result<Value, String> {
        match own {
            Own::Check => {
                let skips = Skips::default();
                let mut parts = look::parts(self.ctx, None, &skips);
                let mut checks = Vec::new();
                while let Some(part) = parts.next().await {
                    checks.extend(part.map_err(|fault| fault.to_string())?);
                }
                json(&Report::new(checks))
            }
            Own::Status => json(&status::gather(self.ctx).await),
            Own::Version => json(&version::gather(self.ctx).await),
        }
    }

    fn settings(&self, path: &str, keys: &[&str]) -> Result<Option<Content>, String> {
        let Some((text, cut)) = self.read(path, TEXT_MAX)? else {
            return Ok(None);
        };
        if cut.is_some() {
            return Err("it is larger than a configuration may be".to_owned());
        }
        settings::shown(&text, keys, self.redactor).map(|cleaned| Some(whole(cleaned)))
    }

    fn log(&self, path: &str) -> Result<Option<Content>, String> {
        let Some((text, cut)) = self.read(path, FILE_MAX)? else {
            return Ok(None);
        };
        let newer = logs::since(&text, self.span.since);
        let older = newer.len() < text.len();
        let within = match self.span.until {
            Some(until) => newer
                .strip_suffix(logs::since(newer, until))
                .unwrap_or(newer),
            None => newer,
        };
        let asked = last_lines(within, self.span.lines);
        let cut = match (
            asked.len() < within.len(),
            within.len() < newer.len(),
            older,
        ) {
            (true, _, _) => Some("more lines than were asked for".to_owned()),
            (false, true, _) => Some("lines from after the time asked for".to_owned()),
            (false, false, true) => Some("lines from before the time asked for".to_owned()),
            (false, false, false) => cut,
        };
        let cleaned = self.redactor.clean(asked);
        Ok(Some(Content { cleaned, cut }))
    }

    async fn journal(&mut self, unit: &str) -> Result<Option<Content>, String> {
        let program = exec::program(&self.ctx.host, "journalctl");
        let cmd = Cmd::new(program, JOURNAL).args([
            "--quiet".to_owned(),
            "--no-pager".to_owned(),
            "--output=short-iso".to_owned(),
            format!("--lines={}", self.span.lines.unwrap_or(JOURNAL_LINES)),
            format!("--since=@{}", self.span.since.as_second().max(0)),
            format!("--unit={unit}"),
        ]);
        let until = self.span.until.map(|t| t.as_second().max(0));
        let cmd = cmd.args(until.map(|t| format!("--until=@{t}")));
        let text = exec::run(cmd).await.map_err(|e| chain(&e))?.text();
        if text.is_empty() {
            return Ok(None);
        }
        if NODE_UNITS.contains(&unit) {
            self.complaints.push_str(&complaints_of(unit, &text));
        }
        let cut = (text.len() as u64 > FILE_MAX).then(|| "older lines".to_owned());
        let cleaned = self.redactor.clean(newest(&text, FILE_MAX));
        Ok(Some(Content { cleaned, cut }))
    }

    /// The newest part of a file that may be another user's, up to its present size: what is appended meanwhile is
    /// left out.
    fn read(&self, path: &str, max: u64) -> Result<Option<(String, Option<String>)>, String> {
        let mut file = match self.ctx.host.open_plain(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.to_string()),
        };
        let size = file.metadata().map_err(|e| e.to_string())?.len();
        let skipped = size.saturating_sub(max);
        // As much as it takes and no more: what is in memory twice is what a bundle is bounded by.
        let room = usize::try_from(size.min(max)).unwrap_or(0);
        let mut bytes = Vec::with_capacity(room.saturating_add(1));
        file.seek(SeekFrom::Start(skipped))
            .and_then(|_| file.take(size.min(max)).read_to_end(&mut bytes))
            .map_err(|e| e.to_string())?;
        let mut text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
        };
        if skipped == 0 {
            return Ok(Some((text, None)));
        }
        // Not half a line: its beginning may have said what the rest is.
        text.drain(..text.find('\n').map_or(text.len(), |at| at + 1));
        Ok(Some((text, Some(format!("the older {skipped} bytes")))))
    }
}

/// Read first by an operator on call: the journal has dozens of errors after a good start as well.
fn complaints_of(unit: &str, journal: &str) -> String {
    let found = noise::complaints(unit, journal);
    if found == noise::Complaints::default() {
        return String::new();
    }
    let mut text = format!(
        "{unit}: {} kinds of errors that matter; left out: {} of every start, {} about pods\n",
        found.told.len(),
        found.of_every_start,
        found.of_pods
    );
    for (line, often) in &found.told {
        text.push_str(&format!("  {often:>4} x  {line}\n"));
    }
    text
}

fn whole(cleaned: Cleaned) -> Content {
    Content { cleaned, cut: None }
}

/// The newest lines of a text.
fn last_lines(text: &str, lines: Option<u32>) -> &str {
    let Some(lines) = lines.and_then(|n| usize::try_from(n).ok()) else {
        return text;
    };
    let starts = text.split_inclusive('\n').rev().take(lines);
    let kept: usize = starts.map(str::len).sum();
    text.get(text.len() - kept..).unwrap_or(text)
}

fn newest(text: &str, max: u64) -> &str {
    let skip = (text.len() as u64).saturating_sub(max);
    let Ok(mut at) = usize::try_from(skip) else {
        return "";
    };
    if at == 0 {
        return text;
    }
    while !text.is_char_boundary(at) {
        at += 1;
    }
    let rest = text.get(at..).unwrap_or_default();
    rest.split_once('\n').map_or("", |(_, rest)| rest)
}

fn json<T: Serialize>(value: &T) -> Result<Value, String> {
    serde_json::to_value(value).map_err(|e| e.to_string())
}
