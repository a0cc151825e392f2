//! One line per stream the plane asked for: who, what, how it went, how many bytes.
//!
//! Metadata only; never a byte of what passed.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use crate::telemetry::RotatingFile;

/// Bounds of the audit log: 5 × 10 MiB are about a quarter of a million streams.
const AUDIT_BYTES: u64 = 10 * 1024 * 1024;
const AUDIT_KEEP: u32 = 4;

pub(super) struct Audit(Mutex<RotatingFile>);

/// What is written; one JSON object a line.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    pub(super) at: Timestamp,
    /// `open`, `refuse`, `close`.
    pub(super) what: &'static str,
    pub(super) stream: u32,
    pub(super) service: &'a str,
    /// Who asked, as the plane says.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) who: &'a str,
    /// Why it was refused or broke.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) why: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes_out: Option<u64>,
}

impl Audit {
    pub(super) fn at(path: PathBuf) -> Self {
        Self(Mutex::new(RotatingFile::new(path, AUDIT_BYTES, AUDIT_KEEP)))
    }

    pub(super) fn write(&self, line: &Line<'_>) {
        let Ok(mut text) = serde_json::to_string(line) else {
            return;
        };
        text.push('\n');
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // `RotatingFile::write` never fails: it counts what is lost.
        drop(file.write(text.as_bytes()));
    }
}
