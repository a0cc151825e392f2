//! An archive of given texts, with the guard that knows this machine's secrets or without one.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

use super::archive::{About, Archive};
use super::collect::{Content, Span};
use super::known::Known;
use super::plan::{Item, Kind};
use super::redact::{Cleaned, Redactor};
use crate::cli::context::CommandContext;
use crate::cli::output::Output;
use crate::host::fs::HostFs;

/// What was made.
pub(in crate::cli) struct Made {
    /// Without its compression.
    pub(in crate::cli) tar: Vec<u8>,
}

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Texts that were not scanned before.
pub(in crate::cli) fn archive_of(host: &HostFs, texts: &[(&str, &str)], guard: bool) -> Made {
    let known = match guard {
        true => Known::of(host),
        false => Known::default(),
    };
    let redactor = Redactor::new(known);
    let ctx = CommandContext::new(host.at("/").as_path(), Output::memory(false));
    let now = crate::seam::clock::now();
    let sink = Shared::default();
    let span = Span {
        since: now,
        until: None,
        lines: None,
    };
    let about = About::new(&ctx, now, &span, 64 << 20, false);
    let mut archive = Archive::new(Box::new(sink.clone()), &[], about).expect("archive");
    for (name, text) in texts {
        let item = Item {
            name: (*name).to_owned(),
            source: "a test".to_owned(),
            kind: Kind::Text(String::new()),
        };
        let content = Content {
            cleaned: Cleaned {
                text: (*text).to_owned(),
                redactions: 0,
            },
            cut: None,
        };
        archive
            .add(&item, Ok(Some(content)), &redactor)
            .expect("added");
    }
    archive.finish(&redactor).expect("finished");
    let bytes = sink.0.borrow().clone();
    Made {
        tar: zstd::decode_all(bytes.as_slice()).expect("zstd"),
    }
}
