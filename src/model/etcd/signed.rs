//! Who made a backup: its manifest, which names the checksum of its file, is signed by root of the master that
//! took it. Sealing proves nothing: anyone who knows the public keys can seal other content.
//!
//! ```text
//! NAME.json ─► FoundManifest (nobody looked yet) ─► believed(BackupTrust) ─► BelievedManifest
//! ```
//!
//! Trusted are the order keys of the cluster's masters, present and past: a backup outlives the machine that made it.
//! Each for its own host id alone. The manifest names its cluster, so the key of a host that was in two clusters cannot
//! turn a backup of one into one of the other.

use serde::{Deserialize, Serialize};

use super::{BACKUP_SCHEMA, BackupManifest, is_backup_name};
use crate::model::{
    DocumentKind, Envelope, Fault, FaultCode, HostId, TrustStore, TrustedKey, Untrusted,
};

/// Most keys of one cluster: more masters than were ever replaced while a backup of theirs lies anywhere.
pub const BACKUP_SIGNERS_MAX: usize = 64;
/// Largest text of a signed manifest: one has about a KiB, half as much again in base64.
pub const SIGNED_MANIFEST_MAX: usize = 64 * 1024;

/// A key that signs backups of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSigner {
    /// Whose: it signs for no other.
    pub host_id: HostId,
    /// Public half of its order key.
    pub key: TrustedKey,
}

/// Whose signature on a backup is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupTrust {
    /// These.
    Signers(Vec<BackupSigner>),
    /// No signature is checked: a person said that they know where it comes from.
    Unchecked,
}

/// What stands beside a backup, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundManifest(BelievedManifest);

/// The manifest of a backup, signed by a trusted signer, or accepted unsigned by an operator's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BelievedManifest {
    manifest: BackupManifest,
    envelope: Envelope,
}

/// Why a text is no manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoManifest {
    /// It may be a good one.
    #[error("a later version of this program wrote it")]
    Later,
    /// Nobody signed it.
    #[error("it is not a signed manifest of a backup: {0}")]
    Malformed(String),
}

impl BackupSigner {
    /// The form in which people keep it: host and key, a line each.
    pub fn line(&self) -> String {
        format!("{} {}", self.host_id, self.key.public_key)
    }

    /// Those of a text: one a line, `#` begins a comment. Refused with the number of the line.
    pub fn lines(text: &str) -> Result<Vec<Self>, String> {
        let lines = text.lines().zip(1..).map(|(line, n)| (line.trim(), n));
        let lines = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
        let read = |(line, n): (&str, usize)| {
            let both = line.split_once(char::is_whitespace);
            let signer = both.and_then(|(host, key)| {
                Some(Self {
                    host_id: host.parse().ok()?,
                    key: TrustedKey::of(key.trim())?,
                })
            });
            signer.ok_or_else(|| format!("line {n} is not a valid host id with a public key"))
        };
        let signers: Vec<Self> = lines.map(read).collect::<Result<_, _>>()?;
        match signers.len() {
            1..=BACKUP_SIGNERS_MAX => Ok(signers),
            n => Err(format!("{n} keys, not 1 to {BACKUP_SIGNERS_MAX}")),
        }
    }
}

impl FoundManifest {
    /// Reads the text that stands beside a backup. Nothing of it is trusted yet.
    pub fn read(text: &[u8]) -> Result<Self, NoManifest> {
        let malformed = |why: String| NoManifest::Malformed(why);
        if text.len() > SIGNED_MANIFEST_MAX {
            return Err(malformed(format!("it has {} bytes", text.len())));
        }
        let envelope: Envelope =
            serde_json::from_slice(text).map_err(|e| malformed(e.to_string()))?;
        Self::of(envelope)
    }

    /// The same, of what a host sent.
    pub fn of(envelope: Envelope) -> Result<Self, NoManifest> {
        let malformed = |why: String| NoManifest::Malformed(why);
        if envelope.payload.len() > SIGNED_MANIFEST_MAX {
            return Err(malformed("it is too large".to_owned()));
        }
        let said: serde_json::Value = envelope.claims().map_err(|e| malformed(e.to_string()))?;
        let schema = said.get("schema").and_then(serde_json::Value::as_u64);
        if schema.is_some_and(|schema| schema > u64::from(BACKUP_SCHEMA)) {
            return Err(NoManifest::Later);
        }
        let manifest: BackupManifest =
            serde_json::from_value(said).map_err(|e| malformed(e.to_string()))?;
        // Faults repeat it, and paths are made from it.
        if !is_backup_name(&manifest.name) {
            return Err(malformed("its name is not that of a backup".to_owned()));
        }
        Ok(Self(BelievedManifest { manifest, envelope }))
    }

    /// What it says, unverified.
    pub fn says(&self) -> &BackupManifest {
        &self.0.manifest
    }

    /// The key that is said to have signed it, unverified.
    pub fn key_id(&self) -> &str {
        &self.0.envelope.key_id
    }

    /// Looks who signed it.
    pub fn believed(self, trust: &BackupTrust) -> Result<BelievedManifest, Fault> {
        match trust {
            BackupTrust::Unchecked => Ok(self.0),
            BackupTrust::Signers(signers) => match self.signed_by(signers) {
                Ok(()) => Ok(self.0),
                Err(why) => Err(self.unbelieved(why)),
            },
        }
    }

    /// One of the host that it names has to have signed it: another master has its own backups.
    fn signed_by(&self, signers: &[BackupSigner]) -> Result<(), String> {
        let host = self.says().host_id;
        let own = signers.iter().filter(|signer| signer.host_id == host);
        let keys = TrustStore::new(own.map(|signer| signer.key.clone())).map_err(|f| f.why)?;
        let envelope = &self.0.envelope;
        envelope
            .verify(DocumentKind::Backup, &keys)
            .map(drop)
            .map_err(|e| match e {
                Untrusted::UnknownKey(key) => format!(
                    "it is signed with key {key}, which host {host} never had as a master of this cluster"
                ),
                Untrusted::BadSignature => {
                    "it is not what was signed: its manifest was changed".to_owned()
                }
                Untrusted::Schema(_)
                | Untrusted::Kind
                | Untrusted::Newer(_)
                | Untrusted::Malformed(_)
                | Untrusted::Damaged => format!("its signature is invalid: {e}"),
            })
    }

    fn unbelieved(&self, why: String) -> Fault {
        let what = format!(
            "backup {} is not signed by a master of this cluster",
            self.says().name
        );
        Fault::new(FaultCode::BackupUntrusted, what, why).fix(
            "use another one; for the keys of another cluster's masters: --signers FILE; if you trust its origin: \
             --unsigned",
        )
    }
}

impl BelievedManifest {
    /// What it says.
    pub fn manifest(&self) -> &BackupManifest {
        &self.manifest
    }

    /// As it was signed.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::{ClusterId, Digest, SigningKey};

    /// A manifest, signed.
    pub(crate) fn signed(key: &SigningKey, manifest: &BackupManifest) -> Envelope {
        let bytes = serde_json::to_vec(manifest).expect("json");
        key.sign(DocumentKind::Backup, &bytes)
    }

    fn host(n: u128) -> HostId {
        HostId(uuid::Uuid::from_u128(n))
    }

    fn key() -> SigningKey {
        SigningKey::generate().expect("key").0
    }

    fn of(host_id: HostId, key: &SigningKey) -> BackupSigner {
        BackupSigner {
            host_id,
            key: key.trusted(),
        }
    }

    fn manifest(host_id: HostId) -> BackupManifest {
        BackupManifest {
            host_id,
            ..crate::model::golden::backup_manifest()
        }
    }

    fn judged(envelope: Envelope, signers: &[BackupSigner]) -> Result<BelievedManifest, Fault> {
        let text = serde_json::to_vec(&envelope).expect("json");
        let found = FoundManifest::read(&text).expect("a manifest");
        found.believed(&BackupTrust::Signers(signers.to_vec()))
    }

    #[test]
    fn what_a_master_of_the_cluster_signed_is_believed_also_with_a_key_of_before() {
        let (old, new) = (key(), key());
        let signers = [of(host(1), &old), of(host(1), &new), of(host(2), &key())];
        for key in [&old, &new] {
            let believed = judged(signed(key, &manifest(host(1))), &signers).expect("believed");
            assert_eq!(believed.manifest(), &manifest(host(1)));
        }
    }

    #[test]
    fn what_was_changed_or_signed_by_anybody_else_is_not() {
        let (own, other) = (key(), key());
        let signers = [of(host(1), &own), of(host(2), &other)];
        let why = |envelope: Envelope| {
            let fault = judged(envelope, &signers).expect_err("not believed");
            assert_eq!(fault.code, FaultCode::BackupUntrusted);
            fault.why
        };
        // Another cluster's host; another master of this one in this one's name; an unknown key of an unknown host.
        assert!(why(signed(&key(), &manifest(host(1)))).contains("never had as a master"));
        assert!(why(signed(&other, &manifest(host(1)))).contains("never had as a master"));
        assert!(why(signed(&own, &manifest(host(3)))).contains("never had as a master"));
        // Every field is under the signature.
        let good = signed(&own, &manifest(host(1)));
        let mut changed = manifest(host(1));
        changed.sealed_sha256 = Digest::of(b"other content");
        let mut elsewhere = manifest(host(1));
        elsewhere.cluster_id = ClusterId::random();
        for manifest in [changed, elsewhere] {
            let forged = Envelope {
                payload: signed(&other, &manifest).payload,
                ..good.clone()
            };
            assert!(why(forged).contains("manifest was changed"));
        }
        // What it signed as another document is no backup.
        let bytes = serde_json::to_vec(&manifest(host(1))).expect("json");
        let order = own.sign(DocumentKind::Order, &bytes);
        assert!(why(order.clone()).contains("is invalid"));
        let relabelled = Envelope {
            kind: DocumentKind::Backup,
            ..order
        };
        assert!(why(relabelled).contains("manifest was changed"));
    }

    #[test]
    fn a_person_may_take_it_on_his_word() {
        let envelope = signed(&key(), &manifest(host(1)));
        let found = FoundManifest::of(envelope).expect("a manifest");
        found.believed(&BackupTrust::Unchecked).expect("taken");
    }

    #[test]
    fn what_is_no_signed_manifest_is_told() {
        let plain = serde_json::to_vec(&manifest(host(1))).expect("json");
        let malformed = |text: &[u8]| {
            let read = FoundManifest::read(text);
            assert!(matches!(read, Err(NoManifest::Malformed(_))), "{read:?}");
        };
        malformed(&plain);
        malformed(b"{");
        malformed(&vec![b' '; SIGNED_MANIFEST_MAX + 1]);
        let mut other = manifest(host(1));
        other.name = "../../etc/passwd".into();
        malformed(&serde_json::to_vec(&signed(&key(), &other)).expect("json"));
        other = manifest(host(1));
        other.schema += 1;
        let later = serde_json::to_vec(&signed(&key(), &other)).expect("json");
        assert_eq!(FoundManifest::read(&later), Err(NoManifest::Later));
    }

    #[test]
    fn keys_are_kept_in_a_file_of_lines() {
        let signers = vec![of(host(1), &key()), of(host(2), &key())];
        let lines: Vec<String> = signers.iter().map(BackupSigner::line).collect();
        let text = format!("# masters of c\n\n{}\r\n", lines.join("\n"));
        assert_eq!(BackupSigner::lines(&text), Ok(signers));
        let many = format!("{}\n", lines[0]).repeat(BACKUP_SIGNERS_MAX + 1);
        for bad in [
            "",
            "# none\n",
            "x y\n",
            &format!("{} AAAA\n", host(1)),
            &many,
        ] {
            BackupSigner::lines(bad).expect_err(bad);
        }
    }
}
