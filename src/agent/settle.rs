//! The package manager made to know of what runs: the very file, installed by the distribution's own tool.
//!
//! Maintainer scripts see from the environment that the version runs already, and restart nothing. What is held or full is
//! reported and retried; the programs run meanwhile.

use std::time::Duration;

use super::pause;
use super::prepare::{file_for, kept};
use super::record::{Database, Record};
use crate::host::Host;
use crate::host::exec::{self, Cmd, ExecError};
use crate::model::{Fault, FaultCode, PackageFormat, Timestamp};
use crate::telemetry::chain;

/// A question to the package manager.
const ASK: Duration = Duration::from_secs(30);
/// An installation of two dozen files on a slow disk, with other programs' triggers behind it.
const INSTALL: Duration = Duration::from_secs(900);

/// Installs it, unless it is; what the record says of it then.
pub(super) async fn settle(host: &Host, record: &Record, now: Timestamp) -> Database {
    match installed(host, record).await {
        Ok(true) => Database::Agrees,
        Ok(false) => match install(host, record).await {
            Ok(()) => Database::Agrees,
            Err(why) => pending(record, why, now),
        },
        Err(why) => pending(record, why, now),
    }
}

/// Later.
pub(super) fn pending(record: &Record, why: Fault, now: Timestamp) -> Database {
    let before = match &record.database {
        Database::Agrees => 0,
        Database::Pending { attempts, .. } => *attempts,
    };
    let at = now.checked_add(pause(before)).unwrap_or(Timestamp::MAX);
    Database::Pending {
        why: Some(why.next_try(at)),
        attempts: before.saturating_add(1),
        next_try: Some(at),
    }
}

fn fault(why: String) -> Fault {
    let what = "the package manager does not know the running version";
    Fault::new(FaultCode::AgentDatabase, what, why).fix(
        "check what blocks the package manager (ps, df, apt, dnf); it is retried automatically",
    )
}

fn told(error: &ExecError) -> Fault {
    fault(chain(error))
}

pub(super) async fn installed(host: &Host, record: &Record) -> Result<bool, Fault> {
    let file = file_for(&host.fs, record.target())?;
    let cmd = match file.format {
        PackageFormat::Deb => Cmd::new(exec::program(&host.fs, "dpkg-query"), ASK).args([
            "-W",
            "-f=${db:Status-Status} ${Version}",
            "pf9-hostagent",
        ]),
        PackageFormat::Rpm => Cmd::new(exec::program(&host.fs, "rpm"), ASK).args([
            "-q",
            "--qf=installed %{VERSION}-%{RELEASE}",
            "pf9-hostagent",
        ]),
    };
    // Neither knows a package that is not there: it is installed then.
    let Ok(said) = exec::run(cmd).await else {
        return Ok(false);
    };
    Ok(is_installed(
        &said.text(),
        &record.target().version.to_string(),
    ))
}

fn is_installed(said: &str, version: &str) -> bool {
    let there = said.trim().strip_prefix("installed ");
    there
        .and_then(|v| v.rsplit_once('-'))
        .is_some_and(|(upstream, _)| upstream == version)
}

async fn install(host: &Host, record: &Record) -> Result<(), Fault> {
    let file = file_for(&host.fs, record.target())?;
    let path = host.fs.at(kept(file));
    let cmd = match file.format {
        // Local changes of the configuration stay, without a prompt.
        PackageFormat::Deb => Cmd::new(exec::program(&host.fs, "dpkg"), INSTALL)
            .args([
                "--force-confdef",
                "--force-confold",
                "--force-downgrade",
                "-i",
            ])
            .arg(path)
            .env("DEBIAN_FRONTEND", "noninteractive"),
        PackageFormat::Rpm => Cmd::new(exec::program(&host.fs, "rpm"), INSTALL)
            .args(["-U", "--oldpackage", "--replacepkgs"])
            .arg(path),
    };
    let cmd = cmd.env("PF9_AGENT_SETTLES", record.target().version.to_string());
    exec::run(cmd).await.map(drop).map_err(|e| told(&e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::record::Stage;
    use crate::agent::testing::record_at;

    #[test]
    fn only_what_is_wholly_installed_counts() {
        for (said, want) in [
            ("installed 0.2.0-1", true),
            ("installed 0.2.0-1\n", true),
            ("unpacked 0.2.0-1", false),
            ("half-configured 0.2.0-1", false),
            ("installed 0.1.0-1", false),
            ("installed 0.2.0", false),
            ("", false),
        ] {
            assert_eq!(is_installed(said, "0.2.0"), want, "{said}");
        }
    }

    #[test]
    fn what_holds_it_is_said_and_tried_again_ever_more_rarely() {
        let mut record = record_at(Stage::Proven, 1, "0.2.0");
        let now = Timestamp::UNIX_EPOCH;
        let mut last = Duration::ZERO;
        for n in 1..12 {
            record.database = pending(&record, fault("held".into()), now);
            let Database::Pending {
                why,
                attempts,
                next_try,
            } = &record.database
            else {
                panic!("it is not known");
            };
            let wait = next_try.expect("a time").duration_since(now).unsigned_abs();
            assert!(wait >= last && wait <= crate::agent::PAUSE_MAX, "{wait:?}");
            assert_eq!(
                (*attempts, why.as_ref().map(|w| w.code)),
                (n, Some(FaultCode::AgentDatabase))
            );
            last = wait;
        }
        assert_eq!(last, crate::agent::PAUSE_MAX);
    }
}
