//! Versions that the fleet takes automatically, by its policy; the same terms as for clusters.
//!
//! Evaluated when a version is imported, when the policy changes and when a roll ends.

use semver::Version;

use super::http::{Begin, begin};
use super::repository::{Release, list, trusted};
use super::{AgentRoll, Policy, runner};
use crate::refusal::Answer;
use crate::rolls::{By, Patches};
use crate::state::Change;
use pf9_hostagent::model::TrustStore;

/// A version for the fleet to take.
#[derive(Debug, PartialEq, Eq)]
struct Patch {
    to: Version,
    /// Hosts do not wait for the window.
    at_once: bool,
}

/// A version was imported.
pub(crate) fn imported(change: &mut Change<'_>) -> Answer<()> {
    consider(change)
}

/// Starts the roll that the policy asks for, if any.
pub(super) fn consider(change: &mut Change<'_>) -> Answer<()> {
    let policy = runner::settings(&**change)?.patches;
    if policy == Patches::Off {
        return Ok(());
    }
    let (roll, parts) = runner::load(&**change)?;
    let what = "patch not started";
    if runner::require_free(roll.as_ref(), &parts, what).is_err() {
        return Ok(());
    }
    let newest = runner::running(&**change)?.into_values().max();
    let all = list(&**change)?;
    let trust = trusted(&**change)?;
    let Some(patch) = wanted(policy, newest.as_ref(), roll.as_ref(), &all, &trust) else {
        return Ok(());
    };
    let wanted = Begin {
        to: patch.to,
        hosts: Vec::new(),
        policy: Policy {
            any_time: patch.at_once,
            ..Policy::default()
        },
        by: By::PatchPolicy,
        despite: Vec::new(),
    };
    match begin(change, wanted) {
        Ok(()) => Ok(()),
        // A refusal must not fail the import or report that triggered this.
        Err(refusal) if refusal.status.is_client_error() => {
            tracing::warn!("{what}: {}", refusal.fault);
            Ok(())
        }
        Err(refusal) => Err(refusal),
    }
}

/// The newest patch of the fleet's minor, if newer than the last decision.
fn wanted(
    policy: Patches,
    newest: Option<&Version>,
    roll: Option<&AgentRoll>,
    all: &[Release],
    trust: &TrustStore,
) -> Option<Patch> {
    let newest = newest?;
    // A version that a person rolled back or cancelled is not started again automatically.
    let since = roll.map(|r| r.began_at);
    let follows = |r: &&Release| {
        let v = &r.package.version;
        (v.major, v.minor) == (newest.major, newest.minor)
            && v > newest
            && since.is_none_or(|since| r.imported_at > since)
    };
    let newer: Vec<&Release> = all.iter().filter(follows).collect();
    let to = newer.iter().map(|r| &r.package.version).max()?.clone();
    let at_once = match policy {
        Patches::AtOnce => newer.iter().any(|r| r.mends(trust)),
        Patches::Window | Patches::Off => false,
    };
    Some(Patch { to, at_once })
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use jiff::SignedDuration;

    use super::*;
    use crate::agents::tests::roll;
    use crate::compute::tests::now;
    use pf9_hostagent::model::{AgentPackage, DocumentKind, SigningKey};

    /// The plane's key.
    fn key() -> &'static SigningKey {
        static KEY: OnceLock<SigningKey> = OnceLock::new();
        KEY.get_or_init(|| SigningKey::generate().expect("key").0)
    }

    fn release(version: &str, hour: i64, security: bool) -> Release {
        let package = AgentPackage {
            version: version.parse().expect("version"),
            packages: Vec::new(),
            security,
        };
        let bytes = serde_json::to_vec(&package).expect("json");
        Release {
            package,
            imported_at: now() + SignedDuration::from_hours(hour),
            envelope: Some(key().sign(DocumentKind::AgentRelease, &bytes)),
        }
    }

    fn of(policy: Patches, all: &[Release], began: Option<i64>) -> Option<(String, bool)> {
        let at: Version = "0.2.1".parse().expect("version");
        let mut before = roll("0.2.1", &[100]);
        before.began_at = now() + SignedDuration::from_hours(began.unwrap_or_default());
        let trust = TrustStore::new([key().trusted()]).expect("trust");
        let found = wanted(policy, Some(&at), began.map(|_| &before), all, &trust)?;
        Some((found.to.to_string(), found.at_once))
    }

    #[test]
    fn the_newest_patch_of_the_minor_and_at_once_only_security_fixes() {
        let all = [
            release("0.2.2", 1, true),
            release("0.2.3", 2, false),
            release("0.3.0", 3, true),
        ];
        assert_eq!(
            of(Patches::Window, &all, None),
            Some(("0.2.3".into(), false))
        );
        assert_eq!(
            of(Patches::AtOnce, &all, None),
            Some(("0.2.3".into(), true))
        );
        let plain = [release("0.2.2", 1, false)];
        assert_eq!(
            of(Patches::AtOnce, &plain, None),
            Some(("0.2.2".into(), false))
        );
        let old = [release("0.2.0", 1, true), release("0.2.1", 1, true)];
        assert_eq!(of(Patches::AtOnce, &old, None), None);
    }

    /// A row alone proves nothing, nor does a signature by another key or over something else.
    #[test]
    fn only_the_planes_signature_proves_a_security_fix() {
        let signed = || release("0.2.2", 1, true);
        let at_once = |release: Release| {
            let found = of(Patches::AtOnce, &[release], None);
            found.expect("it follows").1
        };
        assert!(at_once(signed()));
        let plain = release("0.2.2", 1, false);
        let mut unsigned = signed();
        unsigned.envelope = None;
        let mut of_the_plain = signed();
        of_the_plain.envelope = plain.envelope.clone();
        let mut of_another = signed();
        of_another.envelope = release("0.2.1", 1, true).envelope;
        let (stranger, _) = SigningKey::generate().expect("key");
        let bytes = serde_json::to_vec(&signed().package).expect("json");
        let mut foreign = signed();
        foreign.envelope = Some(stranger.sign(DocumentKind::AgentRelease, &bytes));
        let mut of_a_kind = signed();
        of_a_kind.envelope = Some(key().sign(DocumentKind::StackManifest, &bytes));
        let mut changed = plain;
        let envelope = changed.envelope.as_mut().expect("signed");
        envelope.payload = signed().envelope.expect("signed").payload;
        for forged in [
            unsigned,
            of_the_plain,
            of_another,
            foreign,
            of_a_kind,
            changed,
        ] {
            assert!(!at_once(forged.clone()), "{forged:?}");
        }
    }

    #[test]
    fn a_version_that_was_rolled_back_by_hand_is_not_restarted() {
        let all = [release("0.2.2", 1, true)];
        assert_eq!(of(Patches::AtOnce, &all, Some(2)), None);
        assert!(of(Patches::AtOnce, &all, Some(0)).is_some());
    }
}
