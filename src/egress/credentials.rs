//! What the proxy wants to know: `user:password`, in a file of its own.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use nix::unistd::{User, geteuid};

use crate::host::fs::{Found, FsError, HostFs};
use crate::model::{Fault, FaultCode, Secret, paths};

/// User and password of a proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    password: Secret<String>,
}

/// Largest user name and password together: they travel in one header line.
const CREDENTIALS_MAX: u64 = 1024;

// === impl Credentials ===

impl Credentials {
    /// User and password, checked to be sendable.
    pub fn new(user: &str, password: Secret<String>) -> Result<Self, &'static str> {
        if user.is_empty() {
            return Err("the user name is empty");
        }
        if user.contains(':') {
            return Err("a user name cannot hold a colon");
        }
        let all = [user, password.expose()];
        if all.iter().any(|t| t.chars().any(char::is_control)) {
            return Err("they are more than one line or hold control characters");
        }
        if all.iter().map(|t| t.len() as u64).sum::<u64>() >= CREDENTIALS_MAX {
            return Err("they are longer than 1 KiB");
        }
        Ok(Self {
            user: user.to_owned(),
            password,
        })
    }

    /// One line `user:password`.
    pub fn parse(line: &str) -> Result<Self, &'static str> {
        let line = line.strip_suffix('\n').unwrap_or(line);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let (user, password) = line
            .split_once(':')
            .ok_or("it is not one line user:password")?;
        Self::new(user, Secret::new(password.to_owned()))
    }

    /// The line, as the file holds it.
    pub fn line(&self) -> Secret<String> {
        Secret::new(format!("{}:{}\n", self.user, self.password.expose()))
    }

    /// The user name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Reads [`paths::PROXY_CREDENTIALS`]; `None` when there is no such file. A file that others may read, or that
    /// another user owns, is refused.
    pub fn load(host: &HostFs) -> Result<Option<Self>, Fault> {
        let path = paths::PROXY_CREDENTIALS;
        match host.found(path).map_err(|e| unreadable(&e))? {
            Found::Nothing => return Ok(None),
            Found::File { mode, uid, .. } => guarded(mode, uid)?,
            Found::Dir { .. } | Found::Link(_) | Found::Other => {
                return Err(unsafe_file("it is not a regular file".to_owned()));
            }
        }
        let text = host
            .read_text(path, CREDENTIALS_MAX)
            .map_err(|e| unreadable(&e))?
            .unwrap_or_default();
        Self::parse(&text).map(Some).map_err(|why| {
            let why = format!("{path}: {why}");
            Fault::new(
                FaultCode::ConfigInvalid,
                "cannot use the proxy's credentials",
                why,
            )
            .fix("run pf9ctl proxy set URL --user USER --password-file FILE")
        })
    }

    /// Value of `Proxy-Authorization`.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let both = format!("{}:{}", self.user, self.password.expose());
        let text = format!("Basic {}", BASE64_STANDARD.encode(both));
        let mut value = HeaderValue::try_from(text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:***", self.user)
    }
}

fn guarded(mode: u32, uid: u32) -> Result<(), Fault> {
    if mode & 0o077 != 0 {
        let why = format!(
            "{} has mode {mode:04o}: others may read it",
            paths::PROXY_CREDENTIALS
        );
        return Err(unsafe_file(why));
    }
    let comms = || User::from_name(paths::USER_COMMS).ok().flatten();
    let is_ours = uid == 0
        || uid == geteuid().as_raw()
        || comms().is_some_and(|user| user.uid.as_raw() == uid);
    match is_ours {
        true => Ok(()),
        false => Err(unsafe_file(format!(
            "{} belongs to user id {uid}",
            paths::PROXY_CREDENTIALS
        ))),
    }
}

fn unsafe_file(why: String) -> Fault {
    Fault::new(
        FaultCode::ProxyCredentialsUnsafe,
        "the proxy's credentials are not used",
        why,
    )
    .fix(format!(
        "chown {user} {path} && chmod 0600 {path}; if others may have read it, change the password first",
        user = paths::USER_COMMS,
        path = paths::PROXY_CREDENTIALS
    ))
}

fn unreadable(error: &FsError) -> Fault {
    Fault::new(
        FaultCode::ProxyCredentialsUnreadable,
        "the proxy's credentials cannot be read",
        crate::telemetry::chain(error),
    )
    .fix(format!(
        "the tunnel's own user must be able to read them: chown {} {}",
        paths::USER_COMMS,
        paths::PROXY_CREDENTIALS
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;

    fn load(text: &str, mode: u32) -> Result<Option<Credentials>, Fault> {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        host.write(
            paths::PROXY_CREDENTIALS,
            text.as_bytes(),
            &Attrs::mode(mode),
        )
        .expect("write");
        Credentials::load(&host)
    }

    #[test]
    fn only_a_file_that_nobody_else_reads_is_used() {
        for mode in [0o600, 0o400] {
            let read = load("u:p:w\n", mode).expect("read").expect("some");
            assert_eq!(
                (read.user(), read.line().expose().as_str()),
                ("u", "u:p:w\n")
            );
            let header = read.header().expect("header");
            assert_eq!(header.as_bytes(), b"Basic dTpwOnc=");
            assert_eq!(format!("{read:?} {header:?}"), "u:*** Sensitive");
        }
        for mode in [0o640, 0o604, 0o644, 0o660] {
            let fault = load("u:hunter2\n", mode).expect_err("open to others");
            assert_eq!(fault.code, FaultCode::ProxyCredentialsUnsafe);
        }
        let link = {
            let dir = tempfile::tempdir().expect("tempdir");
            let host = HostFs::new(dir.path());
            host.link(paths::PROXY_CREDENTIALS, "/etc/shadow")
                .expect("link");
            Credentials::load(&host).expect_err("a link")
        };
        assert_eq!(link.code, FaultCode::ProxyCredentialsUnsafe);
    }

    #[test]
    fn somebody_elses_file_is_not_used() {
        assert!(guarded(0o600, 0).is_ok());
        let fault = guarded(0o600, 4_000_000_000).expect_err("a stranger's");
        assert!(fault.why.contains("4000000000"), "{fault}");
    }

    #[test]
    fn what_is_not_one_line_is_refused_without_being_repeated() {
        for bad in [
            "",
            "hunter2",
            ":hunter2",
            "u:hunter2\nmore\n",
            "u:hun\0ter2",
        ] {
            let fault = load(bad, 0o600).expect_err(bad);
            assert_eq!(fault.code, FaultCode::ConfigInvalid);
            assert!(!fault.to_string().contains("hunter2"), "{fault}");
        }
        assert!(load(&format!("u:{}", "x".repeat(2000)), 0o600).is_err());
        assert_eq!(load("u:\n", 0o600).map(|c| c.is_some()), Ok(true));
    }
}
