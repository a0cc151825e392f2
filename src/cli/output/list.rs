//! A list that is printed while the rest of it is on its way.

use serde::Serialize;

use super::{Output, Screen};

impl Output {
    /// For people lines, else one JSON array, which is closed when this goes out of scope. A failure in between is written
    /// after it, as a second value: a reader that expects one value notices.
    pub(in crate::cli) fn list(&self) -> List<'_> {
        List {
            out: self,
            printed: None,
        }
    }
}

/// A list that is printed as it comes.
pub(in crate::cli) struct List<'a> {
    out: &'a Output,
    /// How many values were printed; none: the list has not started.
    printed: Option<usize>,
}

impl List<'_> {
    /// Some more of it, in either form.
    pub(in crate::cli) fn more<T: Serialize>(&mut self, values: &[T], screen: &Screen) {
        if !self.out.json {
            return self.out.part(screen);
        }
        let mut text = String::new();
        let mut printed = self.printed.unwrap_or_else(|| {
            text.push('[');
            0
        });
        for value in values {
            let value = serde_json::to_string_pretty(value).unwrap_or_default();
            text.push_str(if printed == 0 { "\n" } else { ",\n" });
            text.push_str(&indented(&value));
            printed += 1;
        }
        self.printed = Some(printed);
        self.out.print(&text);
    }
}

impl Drop for List<'_> {
    fn drop(&mut self) {
        match self.printed {
            None => {}
            Some(0) => self.out.print("]\n"),
            Some(_) => self.out.print("\n]\n"),
        }
    }
}

/// As an element of an array is.
fn indented(text: &str) -> String {
    let lines = text.lines().map(|line| format!("  {line}"));
    lines.collect::<Vec<_>>().join("\n")
}
