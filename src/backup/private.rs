//! Files with secrets: keys of an archive, keys that open a backup.

use nix::unistd::geteuid;

use crate::host::fs::{Found, FsError, HostFs};
use crate::model::Secret;
use crate::telemetry::chain;

/// The text of such a file of at most `max` bytes; otherwise why it is not used. A file that others may read, or that
/// another user owns, is refused.
pub fn text(host: &HostFs, path: &str, max: u64) -> Result<Secret<String>, String> {
    let said = |e: FsError| chain(&e);
    match host.found(path).map_err(said)? {
        Found::Nothing => return Err("there is no such file".to_owned()),
        Found::File { mode, uid, .. } => {
            if mode & 0o077 != 0 {
                return Err(format!("it has mode {mode:04o}: others may read it"));
            }
            if uid != 0 && uid != geteuid().as_raw() {
                return Err(format!("it belongs to user id {uid}"));
            }
        }
        Found::Dir { .. } | Found::Link(_) | Found::Other => {
            return Err("it is not a regular file".to_owned());
        }
    }
    let text = host.read_text(path, max).map_err(said)?;
    Ok(Secret::new(text.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;

    #[test]
    fn only_a_file_that_nobody_else_reads_is_used() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        for (mode, why) in [
            (0o600, ""),
            (0o400, ""),
            (0o640, "others"),
            (0o604, "others"),
            (0o660, "others"),
        ] {
            host.write("/k", b"secret", &Attrs::mode(mode))
                .expect("write");
            match text(&host, "/k", 100) {
                Ok(read) => assert_eq!((read.expose().as_str(), why), ("secret", "")),
                Err(said) => assert!(!why.is_empty() && said.contains(why), "{mode:o} {said}"),
            }
        }
        assert!(text(&host, "/none", 100).is_err());
        host.link("/link", "/k").expect("link");
        let said = text(&host, "/link", 100).expect_err("a link");
        assert!(said.contains("regular file"), "{said}");
        host.write("/k", &[b'x'; 101], &Attrs::mode(0o600))
            .expect("write");
        assert!(text(&host, "/k", 100).is_err(), "too long");
    }
}
