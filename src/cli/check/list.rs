//! `node check --list`: every check there is.

use serde::Serialize;

use crate::cli::output::{Ink, Screen, Show, wrap};
use crate::preflight::{Group, Severity, TABLE};

/// Every check.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct List {
    checks: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    id: &'static str,
    group: Group,
    severity: Severity,
    what: &'static str,
}

impl List {
    pub(in crate::cli) fn ours() -> Self {
        let rows = TABLE.iter().map(|entry| Row {
            id: entry.id,
            group: entry.group,
            severity: entry.severity,
            what: entry.what,
        });
        Self {
            checks: rows.collect(),
        }
    }
}

/// Columns, after the longest word of each.
const ID: usize = 21;
const SEVERITY: usize = 13;

impl Show for List {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        let mut group = None;
        let column = 2 + ID + SEVERITY;
        for row in &self.checks {
            if group != Some(row.group) {
                group = Some(row.group);
                screen.gap();
                screen.line([(Ink::Bold, format!("  {}", row.group.as_str()))]);
            }
            let room = width.saturating_sub(column).max(20);
            for (n, part) in wrap(row.what, room).into_iter().enumerate() {
                let (id, severity) = match n {
                    0 => (row.id, row.severity.as_str()),
                    _ => ("", ""),
                };
                screen.line([
                    (Ink::Plain, format!("  {id:<ID$}")),
                    (Ink::Dim, format!("{severity:<SEVERITY$}")),
                    (Ink::Plain, part),
                ]);
            }
        }
        screen.gap();
        screen
    }
}
