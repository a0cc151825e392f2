//! Output of the verbs: tables, JSON, files.

use std::io::Write as _;
use std::path::Path;

use http::Method;
use serde_json::Value;

use super::Listing;
use crate::admin;
use pf9_hostagent::host::fs::{Attrs, HostFs};
use pf9_hostagent::model::{Fault, FaultCode};

/// Prints a list: JSON, or a table of these fields.
pub(super) async fn show(list: &Listing, path: &str, columns: &[&str]) -> Result<(), Fault> {
    let rows = admin::ask(&list.state.state_dir, Method::GET, path, &Value::Null).await?;
    if list.json {
        return put(None, &format!("{rows:#}\n"));
    }
    let mut table = vec![columns.iter().map(|c| c.to_uppercase()).collect::<Vec<_>>()];
    for row in rows.as_array().into_iter().flatten() {
        table.push(columns.iter().map(|c| cell(row, c)).collect());
    }
    put(None, &align(&table))
}

/// A table with aligned columns.
pub(super) fn align(table: &[Vec<String>]) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let width = |i: usize| table.iter().filter_map(|r| r.get(i)).map(String::len).max();
    let widths: Vec<usize> = (0..columns).map(|i| width(i).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in table {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// A field of a row as shown in a cell; `path` may be nested, with dots.
pub(super) fn cell(row: &Value, path: &str) -> String {
    match row.pointer(&format!("/{}", path.replace('.', "/"))) {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(words)) if words.is_empty() => "-".into(),
        Some(Value::Array(words)) if words.iter().all(Value::is_string) => {
            let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
            words.join(" / ")
        }
        Some(other) => other.to_string(),
    }
}

/// A field that is text.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Writes to a file that only its owner can read, or to standard output.
pub(super) fn put(out: Option<&Path>, text: &str) -> Result<(), Fault> {
    let cannot = |why: String| Fault::new(FaultCode::OutputFailed, "cannot write the result", why);
    match out {
        None => {
            let mut stdout = std::io::stdout().lock();
            let wrote = stdout
                .write_all(text.as_bytes())
                .and_then(|()| stdout.flush());
            wrote.map_err(|e| cannot(e.to_string()))
        }
        Some(path) => {
            let path = std::path::absolute(path).map_err(|e| cannot(e.to_string()))?;
            HostFs::real()
                .write(&path, text.as_bytes(), &Attrs::mode(0o600))
                .map_err(|e| cannot(crate::refusal::chain(&e)))
        }
    }
}
