//! Credentials of an archive's service: a key and its secret, in one file that root owns.

use rusty_s3::Credentials;

use super::ArchiveError;
use crate::backup::private;
use crate::host::fs::HostFs;
use crate::model::paths;

/// Largest file of credentials: a session token has one or two KiB.
const FILE_MAX: u64 = 16 * 1024;

/// Reads [`paths::ETCD_ARCHIVE_CREDENTIALS`], written as the tools of such services write theirs.
pub(super) fn load(host: &HostFs) -> Result<Credentials, ArchiveError> {
    let text = private::text(host, paths::ETCD_ARCHIVE_CREDENTIALS, FILE_MAX);
    let read = text.and_then(|text| parse(text.expose()).map_err(str::to_owned));
    read.map_err(|why| ArchiveError::Credentials { why })
}

/// Words of an error never repeat what stands in the file.
fn parse(text: &str) -> Result<Credentials, &'static str> {
    let (mut key, mut secret, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';', '[']) {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or("a line is not name = value")?;
        let value = value.trim();
        if value.is_empty() || value.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err("a value is empty or contains spaces");
        }
        let place = match name.trim() {
            "aws_access_key_id" => &mut key,
            "aws_secret_access_key" => &mut secret,
            "aws_session_token" => &mut token,
            _ => {
                return Err(
                    "a line is not one of aws_access_key_id, aws_secret_access_key and aws_session_token",
                );
            }
        };
        if place.replace(value).is_some() {
            return Err("a name occurs twice; the file holds one key only");
        }
    }
    let key = key.ok_or("aws_access_key_id is missing")?;
    let secret = secret.ok_or("aws_secret_access_key is missing")?;
    Ok(match token {
        Some(token) => Credentials::new_with_token(key, secret, token),
        None => Credentials::new(key, secret),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;

    const GOOD: &str = "[default]\naws_access_key_id = K1\naws_secret_access_key=hunter2/+=\n";

    fn load_text(text: &str, mode: u32) -> Result<Credentials, ArchiveError> {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        let path = paths::ETCD_ARCHIVE_CREDENTIALS;
        host.write(path, text.as_bytes(), &Attrs::mode(mode))
            .expect("write");
        load(&host)
    }

    #[test]
    fn only_a_file_that_nobody_else_reads_is_used() {
        for mode in [0o600, 0o400] {
            let read = load_text(GOOD, mode).expect("read");
            assert_eq!((read.key(), read.secret()), ("K1", "hunter2/+="));
        }
        let error = load_text(GOOD, 0o640).expect_err("open to others");
        assert!(error.to_string().contains("others may read"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_said_without_being_repeated() {
        for bad in [
            "",
            "hunter2",
            "aws_access_key_id = K1",
            "aws_secret_access_key = hunter2",
            "aws_access_key_id = K1\naws_access_key_id = K2\naws_secret_access_key = hunter2",
            "aws_access_key_id = K1\naws_secret_access_key = hunter2 x",
            "aws_access_key_id = K1\naws_secret_access_key =",
            "aws_access_key_id = K1\naws_secret_access_key = hunter2\nregion = x",
        ] {
            let error = load_text(bad, 0o600).expect_err(bad);
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let with = format!("{GOOD}aws_session_token = t\n");
        assert_eq!(load_text(&with, 0o600).expect("read").token(), Some("t"));
    }
}
