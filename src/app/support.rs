//! What root of this host allows support to fetch: standing, by the configuration, or once, by a file that is
//! used up with the first that is sent.
//!
//! Read again with each request: what is taken back counts at once. A configuration that is wrong, or that others than
//! root could have written, agrees to nothing; a consent for once that cannot be read agrees to nothing either.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::Config;
use crate::host::fs::{Attrs, Found, HostFs};
use crate::host::rooted;
use crate::model::{Consent, Fault, FaultCode, paths};
use crate::telemetry::chain;

/// Longest that a consent for once may wait: a day of helping.
pub const ONCE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Version of its file.
const SCHEMA: u32 = 1;
/// A few fields.
const FILE_MAX: u64 = 4096;
/// Nobody but root reads or writes it.
const MODE: u32 = 0o600;
const WHAT: &str = "operation refused";

/// How root agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreed {
    /// Until it is taken back.
    Standing,
    /// For one.
    Once,
}

/// A consent for once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Once {
    schema: u32,
    given_at: Timestamp,
    /// It counts for nothing from then on.
    pub until: Timestamp,
}

impl Once {
    /// From now on.
    pub fn new(now: Timestamp, length: Duration) -> Self {
        let length = SignedDuration::try_from(length.min(ONCE_MAX)).unwrap_or_default();
        Self {
            schema: SCHEMA,
            given_at: now,
            until: now.checked_add(length).unwrap_or(now),
        }
    }

    /// A clock that was set back makes none longer than it was to be.
    fn counts(&self, now: Timestamp) -> bool {
        let longest = SignedDuration::try_from(ONCE_MAX).unwrap_or_default();
        self.schema == SCHEMA
            && self.given_at <= now
            && now < self.until
            && self.until.duration_since(self.given_at) <= longest
    }

    /// The one that counts now, if there is one.
    pub fn load(fs: &HostFs, now: Timestamp) -> Result<Option<Self>, Fault> {
        let path = paths::LOGS_ONCE;
        let wrong = |why: String| {
            Fault::new(FaultCode::OperationNotAllowed, WHAT, why)
                .fix("root of the host: take it back with pf9ctl support withdraw, then agree anew")
        };
        let text = fs.read_text(path, FILE_MAX).map_err(|e| wrong(chain(&e)))?;
        let Some(text) = text else { return Ok(None) };
        let once: Self = serde_json::from_str(&text).map_err(|e| wrong(format!("{path}: {e}")))?;
        Ok(Some(once).filter(|once| once.counts(now)))
    }

    /// Written for nodelet to find.
    pub fn save(&self, fs: &HostFs) -> Result<(), Fault> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let written = fs.write(paths::LOGS_ONCE, &text, &Attrs::mode(MODE));
        written.map_err(|e| io(&chain(&e)))
    }

    /// Taken back, or used.
    pub fn remove(fs: &HostFs) -> Result<(), Fault> {
        fs.remove_file(paths::LOGS_ONCE).map_err(|e| io(&chain(&e)))
    }
}

fn io(why: &str) -> Fault {
    Fault::new(FaultCode::StateIo, "the consent stays as it was", why)
        .fix("check the disk that holds /var/opt/pf9/nodelet")
}

/// How root of this host agreed to that, or why it may not be had.
pub fn agreed(fs: &HostFs, to: Consent, now: Timestamp) -> Result<Agreed, Fault> {
    let config = Config::load(fs)?;
    let standing = match to {
        Consent::Bundle => config.support.bundle_on_request,
        // A bundle has them, and more.
        Consent::Logs => config.support.logs || config.support.bundle_on_request,
    };
    if standing {
        return roots_alone(fs).map(|()| Agreed::Standing);
    }
    let not =
        |why: &str, fix: &str| Err(Fault::new(FaultCode::OperationNotAllowed, WHAT, why).fix(fix));
    match to {
        Consent::Bundle => not(
            "the operator of this host has not agreed that the plane may have support bundles of it \
             (support.bundle_on_request is false)",
            "root of the host agrees with pf9ctl config set support.bundle_on_request true, or makes one here: \
             pf9ctl bundle",
        ),
        Consent::Logs => match Once::load(fs, now)? {
            Some(_) => Ok(Agreed::Once),
            None => not(
                "the operator of this host has not agreed that the plane may have its logs (support.logs is false, and \
                 no one-time consent is pending)",
                "root of the host agrees once with pf9ctl support allow, or for good with pf9ctl config set support.logs \
                 true",
            ),
        },
    }
}

/// Whether only root could have written the configuration.
fn roots_alone(fs: &HostFs) -> Result<(), Fault> {
    let mut files = vec![paths::CONFIG.to_owned(), paths::CONFIG_DIR.to_owned()];
    let below = fs.list(paths::CONFIG_DIR).unwrap_or_default();
    files.extend(below.iter().map(|n| format!("{}/{n}", paths::CONFIG_DIR)));
    for path in files {
        if matches!(fs.found(&path), Ok(Found::Nothing)) {
            continue;
        }
        if let Some(why) = rooted::fault(fs, &path) {
            return Err(Fault::new(FaultCode::OperationNotAllowed, WHAT, why)
                .fix("root of the host: check who wrote that consent, then chmod go-w"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> (tempfile::TempDir, HostFs) {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        (dir, fs)
    }

    fn put(fs: &HostFs, path: &str, text: &str, mode: u32) {
        fs.write(path, text.as_bytes(), &Attrs::mode(mode))
            .expect("write");
    }

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + s).expect("time")
    }

    fn consent(fs: &HostFs) -> Result<Agreed, Fault> {
        agreed(fs, Consent::Bundle, at(0))
    }

    #[test]
    fn nobody_has_agreed_before_he_did_and_what_others_wrote_agrees_to_nothing() {
        let (_dir, fs) = host();
        let fault = consent(&fs).expect_err("no configuration");
        assert_eq!(fault.code, FaultCode::OperationNotAllowed);
        assert!(fault.why.contains("has not agreed"), "{fault}");
        assert!(fault.fix.contains("support.bundle_on_request"), "{fault}");
        put(&fs, paths::CONFIG, "[log]\nlevel = \"info\"\n", 0o644);
        consent(&fs).expect_err("it says nothing of it");
        let yes = "[support]\nbundle_on_request = true\n";
        put(&fs, "/etc/pf9/conf.d/60-pf9ctl.toml", yes, 0o644);
        consent(&fs).expect("root agreed");
        let no = "/etc/pf9/conf.d/70-no.toml";
        put(&fs, no, "[support]\nbundle_on_request = false\n", 0o644);
        consent(&fs).expect_err("taken back");
        put(&fs, no, "[support]\nbundle_on_request = 1\n", 0o644);
        assert_eq!(
            consent(&fs).expect_err("wrong").code,
            FaultCode::ConfigInvalid
        );
        put(&fs, no, "", 0o644);
        for (path, mode) in [
            (paths::CONFIG_DIR, 0o777),
            (paths::CONFIG, 0o666),
            ("/etc/pf9/conf.d/60-pf9ctl.toml", 0o666),
        ] {
            let at = fs.at(path);
            let before = std::fs::metadata(&at).expect("there").permissions();
            let open = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(&at, open).expect("mode");
            let fault = consent(&fs).expect_err(path);
            assert!(fault.why.contains("written by others"), "{fault}");
            std::fs::set_permissions(&at, before).expect("mode");
        }
        consent(&fs).expect("as before");
    }

    #[test]
    fn consent_to_logs_stands_alone_and_comes_with_consent_to_bundles() {
        let (_dir, fs) = host();
        let logs = || agreed(&fs, Consent::Logs, at(0));
        let fault = logs().expect_err("nobody did");
        assert!(fault.fix.contains("pf9ctl support allow"), "{fault}");
        put(&fs, paths::CONFIG, "[support]\nlogs = true\n", 0o644);
        assert_eq!(logs(), Ok(Agreed::Standing));
        consent(&fs).expect_err("logs are no bundle");
        let more = "[support]\nbundle_on_request = true\n";
        put(&fs, paths::CONFIG, more, 0o644);
        assert_eq!(logs(), Ok(Agreed::Standing));
    }

    #[test]
    fn a_consent_for_once_has_an_end_whatever_the_clock_does_and_is_for_logs_alone() {
        let (_dir, fs) = host();
        let logs = |s| agreed(&fs, Consent::Logs, at(s));
        Once::new(at(0), Duration::from_secs(600))
            .save(&fs)
            .expect("saved");
        assert_eq!(logs(0), Ok(Agreed::Once));
        assert_eq!(logs(599), Ok(Agreed::Once));
        logs(600).expect_err("over");
        logs(-1).expect_err("the clock was set back");
        consent(&fs).expect_err("for logs alone");
        Once::remove(&fs).expect("taken back");
        Once::remove(&fs).expect("there is none");
        logs(0).expect_err("taken back");
        // None lasts longer than the maximum, whatever wrote the file.
        let long = Once::new(at(0), Duration::from_secs(7 * 24 * 3600));
        assert_eq!(long.until, at(24 * 3600));
        let text = format!(
            "{{\"schema\":1,\"given_at\":\"{}\",\"until\":\"{}\"}}",
            at(0),
            at(48 * 3600)
        );
        put(&fs, paths::LOGS_ONCE, &text, 0o600);
        logs(1).expect_err("longer than may be");
        put(&fs, paths::LOGS_ONCE, "{", 0o600);
        let fault = logs(1).expect_err("broken");
        assert!(fault.fix.contains("withdraw"), "{fault}");
    }
}
