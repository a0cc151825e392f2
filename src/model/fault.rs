//! A failure in words a person can act on.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::FaultCode;

/// What failed, why, what to do and when the next try is.
///
/// One value travels from the place that saw the failure to `pf9ctl status`, the log, the status
/// document and the plane, so that all of them use the same words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// For programs; it travels as a word, e.g. `disk-full`.
    pub code: FaultCode,
    /// What did not happen, e.g. `cannot store stack pf9-kube 1.20.2-1`.
    pub what: String,
    /// The cause, e.g. `/var/opt/pf9 has 120 MiB free, 900 MiB are needed`.
    pub why: String,
    /// What a person can do; empty when nothing needs doing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fix: String,
    /// When it is tried again, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try: Option<Timestamp>,
}

/// Longest text of one field that is kept; a peer's message cannot fill a disk.
pub const FAULT_TEXT_MAX: usize = 2048;

impl Fault {
    /// A fault with code, what and why; see [`Fault::fix`] and [`Fault::next_try`] for the rest.
    pub fn new(code: FaultCode, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            code,
            what: clip(what.into()),
            why: clip(why.into()),
            fix: String::new(),
            next_try: None,
        }
    }

    /// Adds what a person can do.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = clip(fix.into());
        self
    }

    /// Adds the time of the next try.
    #[must_use]
    pub fn next_try(mut self, at: Timestamp) -> Self {
        self.next_try = Some(at);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)?;
        if !self.fix.is_empty() {
            write!(f, "; {}", self.fix)?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

fn clip(mut text: String) -> String {
    if text.len() > FAULT_TEXT_MAX {
        let end = (0..=FAULT_TEXT_MAX)
            .rev()
            .find(|i| text.is_char_boundary(*i))
            .unwrap_or(0);
        text.truncate(end);
    }
    // One line: a fault is shown in tables and log lines.
    if text.contains(['\n', '\r']) {
        text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_with_the_remedy_last() {
        let f = Fault::new(FaultCode::Internal, "cannot do a", "b is\n missing").fix("install b");
        assert_eq!(f.to_string(), "cannot do a: b is missing; install b");
    }

    #[test]
    fn long_texts_are_cut_on_a_character() {
        let f = Fault::new(FaultCode::Internal, "é".repeat(3000), "w");
        assert!(f.what.len() <= FAULT_TEXT_MAX);
    }
}
