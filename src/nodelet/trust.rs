//! This host's trust anchors, applied as root; and the order to hold on a machine that is a copy.
//!
//! ```text
//! documents (one content, several signatures)
//!   └─ one signed by a key that is trusted? ─ for this host? ─ not older? ─┬─► apply: keys,
//!                                                                        │   authorities, machine
//!                                                                        └─► hold: noted, for good
//! ```
//!
//! A hold stays until the plane says in a newer document that this machine is the host, or until
//! root gives the machine another identity.

use serde::{Deserialize, Serialize};

use super::inbox::{self, NotTaken};
use crate::host::documents::{Document, Store};
use crate::host::fs::HostFs;
use crate::identity;
use crate::model::{
    Because, DocumentKind, Envelope, Fault, FaultCode, HostId, Likeness, Refusal, TRUST_ANSWER_MAX,
    TrustAnswer, TrustDocument, TrustStore, TrustVersion, copied_by_marks, paths,
};
use crate::stack;
use crate::telemetry::chain;

/// Root's.
const HOLD_MODE: u32 = 0o600;
/// A version and a fault.
const HOLD_MAX: u64 = 64 * 1024;
/// A boot id is a UUID.
const BOOT_ID_MAX: u64 = 128;

/// The note of a hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Held {
    schema: u32,
    /// The document that said it.
    version: TrustVersion,
    fault: Fault,
}

impl Document for Held {
    const SCHEMA: u32 = 1;
}

/// The result for a document.
#[derive(Debug, PartialEq)]
enum Verdict {
    Apply,
    Hold(Fault),
}

/// Applies what the plane says, if it is trusted.
pub fn put(fs: &HostFs, answer: &TrustAnswer) -> Result<TrustVersion, NotTaken> {
    let (trust, host) = inbox::trust_anchors(fs).map_err(NotTaken::Broken)?;
    let document = believed(answer, &trust, host)?;
    let broken =
        |e: &identity::IdentityError| NotTaken::Broken(e.fault("trust document not applied"));
    let have = identity::trust_version(fs).map_err(|e| broken(&e))?;
    let held = note(fs).look(Ok::<Held, _>).value;
    match verdict(&document, have.as_ref(), held.as_ref(), &boot_id(fs))? {
        Verdict::Hold(fault) => {
            let held = Held {
                schema: Held::SCHEMA,
                version: document.version,
                fault,
            };
            note(fs).save(&held).map_err(|e| {
                NotTaken::Broken(Fault::new(
                    FaultCode::State,
                    "cannot record the hold",
                    chain(&e),
                ))
            })?;
            tracing::error!(code = held.fault.code.word(), "{}", held.fault);
        }
        Verdict::Apply => {
            identity::apply_trust(fs, &document).map_err(|e| broken(&e))?;
            release(fs).map_err(NotTaken::Broken)?;
            renew_stacks(fs);
            let keys: Vec<_> = document.keys.iter().map(|k| k.id.as_str()).collect();
            tracing::info!(serial = document.version.serial, ?keys, "trust applied");
        }
    }
    Ok(document.version)
}

/// Why nothing may be changed on this machine; `None`: it is the host it says it is, as far as that can be told.
pub fn held(fs: &HostFs) -> Option<Fault> {
    if let Ok(Some(bytes)) = fs.read(paths::HOLD, HOLD_MAX) {
        let said = serde_json::from_slice::<Held>(&bytes).map(|held| held.fault);
        // A note that cannot be read is a hold anyway: what it stands for is not lost.
        return Some(said.unwrap_or_else(|e| {
            Fault::new(
                FaultCode::IdentityCopied,
                "nothing is changed on this machine",
                {
                    format!(
                        "it was ordered to hold, and {} cannot be read: {e}",
                        paths::HOLD
                    )
                },
            )
            .fix("pf9ctl identity reset, if it is a copy")
        }));
    }
    let host = identity::host_id(fs).ok().flatten()?;
    let seen = identity::look_at_machine(fs, host);
    match identity::is_our_machine(fs, &seen) {
        Ok(Likeness::Another(differs)) => Some(copied_by_marks(host, &differs)),
        Ok(Likeness::Same(_) | Likeness::Unknown) => None,
        // hostagent says so, and fetches again what the plane has noted.
        Err(_) => None,
    }
}

/// The document under a signature that this host trusts.
fn believed(
    answer: &TrustAnswer,
    trust: &TrustStore,
    host: HostId,
) -> Result<TrustDocument, NotTaken> {
    let known = |e: &&Envelope| trust.knows(&e.key_id);
    let envelope = answer.documents.iter().take(TRUST_ANSWER_MAX).find(known);
    let Some(envelope) = envelope else {
        let signed: Vec<_> = answer
            .documents
            .iter()
            .take(TRUST_ANSWER_MAX)
            .map(|e| e.key_id.chars().take(32).collect::<String>())
            .collect();
        let why = format!(
            "signed by {}, none of which is a trust anchor of this host",
            signed.join(", ")
        );
        let fault = Fault::new(FaultCode::DocumentUntrusted, "trust document refused", why)
            .fix("run pf9ctl node prep --force with a new token");
        return Err(refused(Because::Untrusted, fault));
    };
    let document: TrustDocument = envelope
        .open(DocumentKind::Trust, trust)
        .map_err(|e| refused(Because::of(&e), e.fault("trust document")))?;
    let invalid = |fault| refused(Because::NotUnderstood, fault);
    document.validate(host).map_err(invalid)?;
    Ok(document)
}

/// Whether a trusted document counts: pure.
fn verdict(
    document: &TrustDocument,
    have: Option<&TrustVersion>,
    held: Option<&Held>,
    boot_id: &str,
) -> Result<Verdict, NotTaken> {
    let refuse = |code: FaultCode, why: String| Fault::new(code, "trust document refused", why);
    if !document.version.may_follow(have) {
        let why = "it is older than the one in force".to_owned();
        return Err(refused(
            Because::NotNewer,
            refuse(FaultCode::TrustOlder, why),
        ));
    }
    if let Some(hold) = &document.hold {
        // It is for another machine: the same identity, other marks.
        if hold.boot_id != boot_id {
            let why = "its hold is for another machine".to_owned();
            return Err(refused(
                Because::NotUnderstood,
                refuse(FaultCode::TrustInvalid, why),
            ));
        }
        return Ok(Verdict::Hold(hold.fault.clone()));
    }
    let same_plane = |h: &&Held| h.version.plane == document.version.plane;
    // What was signed before the hold, or beside it for the other machine, does not end it.
    match held.filter(same_plane) {
        Some(held) if document.version.revision <= held.version.revision => {
            Err(refused(Because::NotNewer, held.fault.clone()))
        }
        Some(_) | None => Ok(Verdict::Apply),
    }
}

/// The manifests of installed stacks under the key that signs now, where hostagent staged them so.
fn renew_stacks(fs: &HostFs) {
    let renewed = identity::trust(fs).map(|trust| stack::renew_signature(fs, &trust));
    match renewed {
        Ok(Ok(true)) => tracing::info!("stack's manifest is signed by the plane's new key"),
        Ok(Ok(false)) => {}
        Ok(Err(e)) => tracing::warn!(why = chain(&e), "stack's manifest keeps its old signature"),
        Err(e) => tracing::warn!(why = chain(&e), "stack's manifest keeps its old signature"),
    }
}

fn release(fs: &HostFs) -> Result<(), Fault> {
    let gone = note(fs).forget();
    gone.map_err(|e| Fault::new(FaultCode::State, "cannot release the hold", chain(&e)))
}

fn note(fs: &HostFs) -> Store {
    Store::new(fs.clone(), paths::HOLD, HOLD_MODE, HOLD_MAX)
}

fn refused(because: Because, fault: Fault) -> NotTaken {
    NotTaken::Refused(Box::new(Refusal {
        fault,
        because,
        document: None,
        generation: None,
    }))
}

fn boot_id(fs: &HostFs) -> String {
    let text = fs.read_text("/proc/sys/kernel/random/boot_id", BOOT_ID_MAX);
    let text = text.ok().flatten().unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HoldOrder, SigningKey, TRUST_SCHEMA, Timestamp, TrustedKey};
    use crate::nodelet::testing::enrolled;

    struct Plane {
        fs: HostFs,
        host: HostId,
        authority: String,
        _dir: tempfile::TempDir,
    }

    const BOOT: &str = "0b6d1a7c-boot";

    impl Plane {
        fn new() -> (Self, SigningKey) {
            let dir = tempfile::tempdir().expect("tempdir");
            let fs = HostFs::new(dir.path());
            let key = enrolled(&fs);
            let at = fs.at("/proc/sys/kernel/random/boot_id");
            std::fs::create_dir_all(at.parent().expect("parent")).expect("dir");
            std::fs::write(at, format!("{BOOT}\n")).expect("boot id");
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let ca = rcgen::KeyPair::generate().expect("key");
            let plane = Self {
                host: identity::host_id(&fs).expect("read").expect("enrolled"),
                authority: params.self_signed(&ca).expect("ca").pem(),
                fs,
                _dir: dir,
            };
            (plane, key)
        }

        fn document(&self, serial: u64, revision: u64, keys: &[TrustedKey]) -> TrustDocument {
            TrustDocument {
                schema: TRUST_SCHEMA,
                host_id: self.host,
                version: TrustVersion {
                    plane: uuid::Uuid::from_u128(1),
                    serial,
                    revision,
                },
                issued_at: Timestamp::UNIX_EPOCH,
                keys: keys.to_vec(),
                authorities: self.authority.clone(),
                machine: None,
                hold: None,
            }
        }

        fn put(
            &self,
            signers: &[&SigningKey],
            document: &TrustDocument,
        ) -> Result<u64, (Because, Box<Fault>)> {
            let bytes = serde_json::to_vec(document).expect("json");
            let sign = |k: &&SigningKey| k.sign(DocumentKind::Trust, &bytes);
            let documents = signers.iter().map(sign).collect();
            let answer = TrustAnswer { documents };
            put(&self.fs, &answer)
                .map(|v| v.serial)
                .map_err(|e| match e {
                    NotTaken::Refused(refusal) => (refusal.because, Box::new(refusal.fault)),
                    NotTaken::Broken(fault) => panic!("{fault}"),
                })
        }

        fn keys(&self) -> Vec<String> {
            identity::trust_status(&self.fs).expect("status").keys
        }
    }

    #[test]
    fn a_key_is_believed_because_a_trusted_one_says_so_and_a_retired_one_never_again() {
        let (plane, a) = Plane::new();
        let (b, _) = SigningKey::generate().expect("key");
        let (stranger, _) = SigningKey::generate().expect("key");
        let both = plane.document(2, 0, &[a.trusted(), b.trusted()]);
        let own = plane.document(9, 0, &[stranger.trusted()]);
        assert!(matches!(
            plane.put(&[&stranger], &own),
            Err((Because::Untrusted, _))
        ));
        assert_eq!(plane.put(&[&a], &both), Ok(2));
        assert_eq!(plane.keys().len(), 2);
        // Retired: under the new key alone, or under both.
        let only = plane.document(3, 0, &[b.trusted()]);
        assert_eq!(plane.put(&[&a, &b], &only), Ok(3));
        assert_eq!(plane.keys(), [b.id().to_owned()]);
        assert_eq!(plane.put(&[&b], &only), Ok(3), "the same again is fine");
        // Recorded documents: by the new key, from when the old one was trusted; by the old one.
        assert!(matches!(
            plane.put(&[&b], &both),
            Err((Because::NotNewer, _))
        ));
        let back = plane.document(4, 0, &[a.trusted()]);
        assert!(matches!(
            plane.put(&[&a], &back),
            Err((Because::Untrusted, _))
        ));
        let mut elsewhere = plane.document(5, 0, &[a.trusted()]);
        elsewhere.host_id = HostId::random();
        assert!(matches!(
            plane.put(&[&b], &elsewhere),
            Err((Because::NotUnderstood, _))
        ));
        assert_eq!(plane.keys(), [b.id().to_owned()]);
    }

    #[test]
    fn a_hold_is_for_one_boot_and_ends_with_the_planes_newer_word_only() {
        let (plane, key) = Plane::new();
        assert_eq!(held(&plane.fs), None);
        let trusted = plane.document(1, 4, &[key.trusted()]);
        assert_eq!(plane.put(&[&key], &trusted), Ok(1));
        let copied = Fault::new(
            FaultCode::IdentityCopied,
            "host x is used by two machines",
            "y",
        );
        let hold = |boot: &str| TrustDocument {
            hold: Some(HoldOrder {
                boot_id: boot.to_owned(),
                fault: copied.clone(),
            }),
            ..trusted.clone()
        };
        assert!(matches!(
            plane.put(&[&key], &hold("other")),
            Err((Because::NotUnderstood, _))
        ));
        assert_eq!(held(&plane.fs), None);
        plane.put(&[&key], &hold(BOOT)).expect("held");
        assert_eq!(held(&plane.fs), Some(copied.clone()));
        // Another boot is held anyway, and what was signed for the other machine releases no hold.
        std::fs::write(plane.fs.at("/proc/sys/kernel/random/boot_id"), "next").expect("boot");
        assert_eq!(
            plane.put(&[&key], &trusted),
            Err((Because::NotNewer, Box::new(copied.clone())))
        );
        let announced = plane.document(2, 4, &[key.trusted()]);
        assert_eq!(
            plane.put(&[&key], &announced),
            Err((Because::NotNewer, Box::new(copied.clone())))
        );
        assert_eq!(held(&plane.fs), Some(copied));
        let accepted = plane.document(2, 5, &[key.trusted()]);
        assert_eq!(plane.put(&[&key], &accepted), Ok(2));
        assert_eq!(held(&plane.fs), None);
    }

    #[test]
    fn a_copied_disk_in_another_machine_holds_without_the_plane() {
        let (plane, key) = Plane::new();
        let card = |address: &str| {
            let dir = plane.fs.at("/sys/class/net/eth0");
            std::fs::create_dir_all(dir.join("device")).expect("dir");
            std::fs::write(dir.join("address"), address).expect("address");
        };
        card("52:54:00:00:00:01");
        let mut document = plane.document(1, 1, &[key.trusted()]);
        document.machine = Some(identity::look_at_machine(&plane.fs, plane.host));
        plane.put(&[&key], &document).expect("applied");
        assert_eq!(held(&plane.fs), None);
        card("52:54:00:00:00:02");
        let fault = held(&plane.fs).expect("held");
        assert_eq!(fault.code, FaultCode::IdentityCopied);
        assert!(fault.why.contains("network interfaces"), "{fault}");
        // The plane takes this machine for the host from now on.
        document.version.revision = 2;
        document.machine = Some(identity::look_at_machine(&plane.fs, plane.host));
        plane.put(&[&key], &document).expect("applied");
        assert_eq!(held(&plane.fs), None);
    }
}
