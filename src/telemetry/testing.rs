//! Numbers, read by others.

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Has Prometheus' own tool read the text: its format, and what it says of names.
pub(crate) fn promtool(text: &str) {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool: of Debian's prometheus");
    let mut stdin = child.stdin.take().expect("stdin");
    stdin.write_all(text.as_bytes()).expect("written");
    drop(stdin);
    let said = child.wait_with_output().expect("promtool");
    let words = [said.stdout, said.stderr].concat();
    let words = String::from_utf8_lossy(&words);
    assert!(
        said.status.success() && words.trim().is_empty(),
        "{words}\n{text}"
    );
}
