//! Root's list: `/etc/pf9/operations.toml`.
//!
//! ```toml
//! allow = ["ping", "resend-status", "run-checks", "backup", "log-level", "restart"]
//! ```
//!
//! Without the file the harmless ones are allowed. One that is wrong, or that others than root could have written,
//! allows nothing, with the reason: it may have been meant to allow less.

use serde::Deserialize;

use crate::host::fs::{Found, HostFs};
use crate::host::rooted;
use crate::model::{Fault, FaultCode, OperationKind, paths};

/// A handful of words.
const FILE_MAX: u64 = 4096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    allow: Vec<String>,
}

/// The words that are allowed.
pub(super) fn list(fs: &HostFs) -> Result<Vec<String>, Fault> {
    let path = paths::OPERATIONS_ALLOWED;
    if matches!(fs.found(path), Ok(Found::Nothing)) {
        return Ok(OperationKind::HARMLESS.map(str::to_owned).to_vec());
    }
    let wrong = |why: String| {
        let what = "operations of the plane are off on this host";
        Fault::new(
            FaultCode::OperationNotAllowed,
            what,
            format!("{path}: {why}"),
        )
        .fix("root of the host: correct the file, or remove it")
    };
    if let Some(why) = rooted::fault(fs, path) {
        return Err(wrong(why));
    }
    let text = fs.read_text(path, FILE_MAX);
    let text = text.map_err(|e| wrong(crate::telemetry::chain(&e)))?;
    let file: File =
        toml::from_str(&text.unwrap_or_default()).map_err(|e| wrong(e.message().to_owned()))?;
    match file
        .allow
        .iter()
        .find(|a| !OperationKind::WORDS.contains(&a.as_str()))
    {
        Some(unknown) => Err(wrong(format!(
            "{unknown:?} is not an operation; choose from: {}",
            OperationKind::WORDS.join(", ")
        ))),
        None => Ok(file.allow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;

    #[test]
    fn without_a_file_the_harmless_ones_and_with_a_wrong_one_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        assert_eq!(list(&fs).expect("default"), OperationKind::HARMLESS);
        let put = |text: &str, mode| {
            let attrs = Attrs::mode(mode);
            fs.write(paths::OPERATIONS_ALLOWED, text.as_bytes(), &attrs)
                .expect("write");
            list(&fs)
        };
        assert_eq!(
            put("allow = [\"restart\"]", 0o644),
            Ok(vec!["restart".to_owned()])
        );
        assert_eq!(put("allow = []", 0o600), Ok(Vec::new()));
        for (text, mode, words) in [
            (
                "allow = [\"shell\"]",
                0o644,
                "\"shell\" is not an operation",
            ),
            ("allow = [\"ping\"]\nmore = 1", 0o644, "more"),
            ("", 0o644, "allow"),
            ("allow = [\"ping\"]", 0o666, "written by others"),
        ] {
            let fault = put(text, mode).expect_err(text);
            assert!(fault.why.contains(words), "{fault}");
        }
    }
}
