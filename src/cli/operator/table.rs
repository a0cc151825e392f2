//! An answer of the plane, as JSON whole, and for people the columns of its rows.

use serde::Serialize;
use serde_json::Value;

use crate::cli::output::{Ink, Screen, Show};

/// A column: its head, and where its values are in an answer.
pub(super) type Column = (&'static str, &'static str);

pub(super) const CLUSTERS: [Column; 6] = [
    ("NAME", "/name"),
    ("ID", "/uuid"),
    ("STATUS", "/status"),
    ("STACK", "/stack"),
    ("MASTERS", "/numMasters"),
    ("WORKERS", "/numWorkers"),
];
pub(super) const HOSTS: [Column; 4] = [
    ("ID", "/id"),
    ("NAME", "/info/hostname"),
    ("RESPONDS", "/info/responding"),
    ("ROLE", "/role_status"),
];

/// Between two columns.
const GAP: usize = 2;
/// Most of a cell that is shown: a name has 253 at most, and is known by less.
const CELL_MAX: usize = 100;

/// An answer of the plane.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Table {
    answer: Value,
    #[serde(skip)]
    columns: &'static [Column],
}

impl Table {
    pub(super) fn new(columns: &'static [Column], answer: Value) -> Self {
        Self { answer, columns }
    }
}

impl Show for Table {
    fn screen(&self, _: usize) -> Screen {
        let rows = match &self.answer {
            Value::Array(rows) => rows.as_slice(),
            one => std::slice::from_ref(one),
        };
        let widths = widths(self.columns, rows);
        let mut screen = head(self.columns, &widths);
        lines(&mut screen, self.columns, &widths, rows);
        screen
    }
}

/// As wide as the widest of these rows.
pub(super) fn widths(columns: &[Column], rows: &[Value]) -> Vec<usize> {
    let widest = |(head, at): &Column| {
        let cells = rows.iter().map(|row| cell(row, at).chars().count());
        cells.max().unwrap_or_default().max(head.len())
    };
    columns.iter().map(widest).collect()
}

pub(super) fn head(columns: &[Column], widths: &[usize]) -> Screen {
    let mut screen = Screen::default();
    let names = columns.iter().map(|(head, _)| (*head).to_owned());
    screen.line([(Ink::Dim, padded(names, widths))]);
    screen
}

pub(super) fn lines(screen: &mut Screen, columns: &[Column], widths: &[usize], rows: &[Value]) {
    for row in rows {
        let cells = columns.iter().map(|(_, at)| cell(row, at));
        screen.line([(Ink::Plain, padded(cells, widths))]);
    }
}

/// One that is wider than its column, as rows that came later may be, moves the others of its row.
fn padded(cells: impl Iterator<Item = String>, widths: &[usize]) -> String {
    let padded = cells.zip(widths).map(|(text, w)| format!("{text:<w$}"));
    let line = padded.collect::<Vec<_>>().join(&" ".repeat(GAP));
    line.trim_end().to_owned()
}

fn cell(row: &Value, at: &str) -> String {
    let text = match row.pointer(at) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(true)) => "yes".to_owned(),
        Some(Value::Bool(false)) => "no".to_owned(),
        None | Some(Value::Null) => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    // Another machine's words: none that moves a terminal's cursor.
    let plain = text.chars().filter(|c| !c.is_control());
    plain.take(CELL_MAX).collect()
}
