//! The archive: tar, compressed, perhaps sealed, as it comes; never larger than was asked for.

use std::cell::Cell;
use std::io::{self, Write};
use std::rc::Rc;

use age::stream::StreamWriter;
use age::x25519::Recipient;
use serde::Serialize;
use tar::{Builder, Header};

use super::collect::{Content, Span};
use super::plan::Item;
use super::redact::Redactor;
use crate::cli::context::CommandContext;
use crate::model::{Digest, HostId, Timestamp, document};

/// Version of the manifest.
const SCHEMA: u32 = 1;
/// Fast, and a fifth of a log's size; a higher level takes more memory.
const LEVEL: i32 = 3;
/// Part of the bound that is kept for the manifest, the archive's end and incompressible data.
const RESERVE: u64 = 256 * 1024;
/// Longest line about what is not in it.
const WORDS_MAX: usize = 300;

/// The manifest of a bundle.
#[derive(Clone, Debug, Serialize)]
pub(super) struct About {
    schema: u32,
    made_at: Timestamp,
    host_id: Option<HostId>,
    host_name: String,
    version: &'static str,
    since: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<u32>,
    max_bytes: u64,
    encrypted: bool,
}

/// `MANIFEST.json`.
#[derive(Serialize)]
struct Manifest<'a> {
    #[serde(flatten)]
    about: &'a About,
    /// The most memory this program had so far.
    peak_memory_bytes: Option<u64>,
    files: &'a [Entry],
}

/// An entry, or why there is none.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    source: String,
    bytes: u64,
    sha256: Option<Digest>,
    redactions: u64,
    /// The missing part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cut: Option<String>,
    /// Why it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What was written.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) encrypted: bool,
    pub(super) files: usize,
    pub(super) redactions: u64,
    pub(super) left_out: Vec<String>,
}

/// One that is being written.
pub(super) struct Archive {
    tar: Builder<zstd::Encoder<'static, Seal>>,
    written: Rc<Cell<u64>>,
    about: About,
    entries: Vec<Entry>,
}

/// The end of the pipe.
enum Seal {
    Plain(Counted),
    Sealed(StreamWriter<Counted>),
}

struct Counted {
    inner: Box<dyn Write>,
    written: Rc<Cell<u64>>,
}

// === impl About ===

impl About {
    pub(super) fn new(
        ctx: &CommandContext,
        now: Timestamp,
        span: &Span,
        max_bytes: u64,
        encrypted: bool,
    ) -> Self {
        Self {
            schema: SCHEMA,
            made_at: now,
            host_id: crate::identity::host_id(&ctx.host).ok().flatten(),
            host_name: crate::cli::status::host_name(ctx),
            version: document::AGENT_VERSION,
            since: span.since,
            until: span.until,
            lines: span.lines,
            max_bytes,
            encrypted,
        }
    }

    /// The directory that everything is in when it is unpacked.
    fn root(&self) -> String {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '_'
            }
        };
        let host: String = self.host_name.chars().take(63).map(plain).collect();
        format!(
            "pf9-bundle-{host}-{}",
            self.made_at.strftime("%Y%m%dT%H%M%SZ")
        )
    }

    /// The name of its file.
    pub(super) fn file_name(&self) -> String {
        let end = if self.encrypted { ".age" } else { "" };
        format!("{}.tar.zst{end}", self.root())
    }
}

// === impl Archive ===

impl Archive {
    pub(super) fn new(
        sink: Box<dyn Write>,
        recipients: &[Recipient],
        about: About,
    ) -> io::Result<Self> {
        let written = Rc::new(Cell::new(0));
        let counted = Counted {
            inner: sink,
            written: Rc::clone(&written),
        };
        let seal = match recipients {
            [] => Seal::Plain(counted),
            some => {
                let some = some.iter().map(|r| r as &dyn age::Recipient);
                let sealer = age::Encryptor::with_recipients(some).map_err(io::Error::other)?;
                Seal::Sealed(sealer.wrap_output(counted)?)
            }
        };
        Ok(Self {
            tar: Builder::new(zstd::Encoder::new(seal, LEVEL)?),
            written,
            about,
            entries: Vec::new(),
        })
    }

    /// Adds an entry, or why there is none. An error is the archive's own: it cannot be written on.
    pub(super) fn add(
        &mut self,
        item: &Item,
        content: Result<Option<Content>, String>,
        redactor: &Redactor,
    ) -> io::Result<()> {
        let mut entry = Entry {
            name: item.name.clone(),
            source: item.source.clone(),
            bytes: 0,
            sha256: None,
            redactions: 0,
            cut: None,
            error: None,
        };
        let content = match content {
            // Not there is not worth a line.
            Ok(None) => return Ok(()),
            Ok(Some(content)) => content,
            Err(why) => {
                // Words of others: they may repeat what could not be read.
                entry.error = Some(redactor.clean(&clip(&why)).text);
                self.entries.push(entry);
                return Ok(());
            }
        };
        entry.redactions = content.cleaned.redactions;
        entry.cut = content.cut;
        let mut bytes = content.cleaned.text.into_bytes();
        // Whatever was overlooked before: what is known to be a secret of this machine does not leave it.
        if redactor.leaks(&bytes) {
            entry.error = Some("left out: a secret of this machine was still in it".to_owned());
            self.entries.push(entry);
            return Ok(());
        }
        let room = self.room();
        if bytes.len() as u64 > room {
            let keep = usize::try_from(room).unwrap_or(usize::MAX);
            let lost = bytes.len() - keep;
            bytes.drain(..lost);
            let half = bytes
                .iter()
                .position(|b| *b == b'\n')
                .map_or(bytes.len(), |at| at + 1);
            bytes.drain(..half);
            entry.cut = Some("truncated: the bundle has reached its size limit".to_owned());
        }
        if bytes.is_empty() && entry.cut.is_some() {
            entry.error = entry.cut.take().map(|cut| format!("left out: {cut}"));
        } else {
            self.append(&entry.name, &bytes)?;
            entry.bytes = bytes.len() as u64;
            entry.sha256 = Some(Digest::of(&bytes));
        }
        self.entries.push(entry);
        Ok(())
    }

    /// What may still be written, if nothing of it can be compressed.
    fn room(&self) -> u64 {
        let used = self.written.get().saturating_add(RESERVE);
        self.about.max_bytes.saturating_sub(used)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o640);
        header.set_mtime(u64::try_from(self.about.made_at.as_second()).unwrap_or(0));
        let path = format!("{}/{name}", self.about.root());
        self.tar.append_data(&mut header, path, bytes)?;
        // What is written is known then, and a pipe has it.
        self.tar.get_mut().flush()
    }

    /// The manifest, and the end.
    pub(super) fn finish(mut self, redactor: &Redactor) -> io::Result<Written> {
        let manifest = Manifest {
            about: &self.about,
            peak_memory_bytes: crate::host::proc::peak_memory(),
            files: &self.entries,
        };
        let text = serde_json::to_string_pretty(&manifest).map_err(io::Error::other)?;
        // Names of files and words of errors are others' text.
        let text = redactor.clean_known(&text).text + "\n";
        self.append("MANIFEST.json", text.as_bytes())?;
        let seal = self.tar.into_inner()?.finish()?;
        let mut counted = match seal {
            Seal::Plain(counted) => counted,
            Seal::Sealed(sealed) => sealed.finish()?,
        };
        counted.flush()?;
        let odd = self.entries.iter().filter_map(|e| {
            let why = e.error.as_ref().or(e.cut.as_ref())?;
            let whole = if e.error.is_some() { "" } else { "not in it: " };
            Some(format!("{}: {whole}{why}", e.name))
        });
        Ok(Written {
            bytes: self.written.get(),
            encrypted: self.about.encrypted,
            files: self.entries.iter().filter(|e| e.error.is_none()).count(),
            redactions: self.entries.iter().map(|e| e.redactions).sum(),
            left_out: odd.collect(),
        })
    }
}

fn clip(words: &str) -> String {
    words
        .chars()
        .filter(|c| !c.is_control())
        .take(WORDS_MAX)
        .collect()
}

impl Write for Seal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(to) => to.write(bytes),
            Self::Sealed(to) => to.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(to) => to.flush(),
            Self::Sealed(to) => to.flush(),
        }
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.written
            .set(self.written.get().saturating_add(n as u64));
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
