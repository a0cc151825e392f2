//! Signed documents.
//!
//! An [`Envelope`] carries the exact bytes that were signed, so no two programs have to agree on
//! how JSON is written. The signature covers the document kind as well: a signature made for a
//! stack manifest can never be presented as one for a spec.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::document::{self, Unread};
use super::{Digest, Fault, FaultCode};

/// What a signed document is. The word is part of what is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DocumentKind {
    /// A [`super::Spec`].
    #[serde(rename = "pf9-spec")]
    Spec,
    /// A [`super::StackManifest`].
    #[serde(rename = "pf9-stack-manifest")]
    StackManifest,
    /// A [`super::TrustDocument`].
    #[serde(rename = "pf9-trust")]
    Trust,
    /// A [`super::Enrolment`].
    #[serde(rename = "pf9-enrolment")]
    Enrolment,
    /// A [`super::FactsReport`].
    #[serde(rename = "pf9-facts")]
    Facts,
    /// A [`super::CertificateOrder`].
    #[serde(rename = "pf9-order")]
    Order,
    /// A [`super::UnwrapOrder`].
    #[serde(rename = "pf9-unwrap")]
    Unwrap,
    /// A [`super::BackupManifest`].
    #[serde(rename = "pf9-backup")]
    Backup,
    /// A [`super::AgentPackage`].
    #[serde(rename = "pf9-agent-release")]
    AgentRelease,
    /// A [`super::Operation`].
    #[serde(rename = "pf9-operation")]
    Operation,
    /// A [`super::Farewell`].
    #[serde(rename = "pf9-farewell")]
    Farewell,
}

/// Largest signed document, in bytes before base64: a manifest of a few thousand files fits.
pub const PAYLOAD_MAX: usize = 4 * 1024 * 1024;

/// A signed document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Version of this wrapping; 1.
    pub schema: u32,
    /// What the payload is.
    pub kind: DocumentKind,
    /// Which key signed: see [`TrustedKey::id`].
    pub key_id: String,
    /// The signed bytes, base64.
    pub payload: String,
    /// Ed25519 signature over `kind NUL payload-bytes`, base64.
    pub signature: String,
}

/// A public key whose signatures are trusted; pinned at enrolment in `/etc/pf9/trust/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedKey {
    /// First 16 hex digits of the SHA-256 of the public key.
    pub id: String,
    /// The Ed25519 public key (32 bytes), base64.
    pub public_key: String,
}

/// The keys a process trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustStore(BTreeMap<String, Vec<u8>>);

/// A private signing key: the plane's, or the one that root of a host orders with.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    id: String,
}

/// Why a document was refused. Each variant has one sentence for people ([`Self::fault`]).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Untrusted {
    /// The wrapping is of a version this program does not know.
    #[error("envelope schema {0} is not supported")]
    Schema(u32),
    /// A document of one kind stands where another is expected.
    #[error("a document of another kind was sent")]
    Kind,
    /// The key is not pinned on this host.
    #[error("signed by key {0}, which this host does not trust")]
    UnknownKey(String),
    /// The signature does not match the bytes.
    #[error("the signature does not match the document")]
    BadSignature,
    /// Signed, and for a later program; see [`document`].
    #[error("it {}", Unread::Newer(.0.clone()))]
    Newer(String),
    /// Signed, but not the JSON that was expected; names the field.
    #[error("the signed document is malformed: {0}")]
    Malformed(String),
    /// Not base64, or larger than [`PAYLOAD_MAX`].
    #[error("the envelope is damaged or over {PAYLOAD_MAX} bytes")]
    Damaged,
}

// === impl Envelope ===

impl Envelope {
    /// Verifies the signature and reads the payload, by the rule of [`document`].
    pub fn open<T: DeserializeOwned>(
        &self,
        kind: DocumentKind,
        trust: &TrustStore,
    ) -> Result<T, Untrusted> {
        let bytes = self.verify(kind, trust)?;
        document::read(&bytes).map_err(Untrusted::from)
    }

    /// Verifies the signature and returns the signed bytes.
    pub fn verify(&self, kind: DocumentKind, trust: &TrustStore) -> Result<Vec<u8>, Untrusted> {
        if self.schema != 1 {
            return Err(Untrusted::Schema(self.schema));
        }
        if self.kind != kind {
            return Err(Untrusted::Kind);
        }
        let bytes = self.payload_bytes()?;
        let signature = BASE64
            .decode(&self.signature)
            .map_err(|_| Untrusted::Damaged)?;
        let key = trust
            .0
            .get(&self.key_id)
            .ok_or_else(|| Untrusted::UnknownKey(self.key_id.chars().take(32).collect()))?;
        UnparsedPublicKey::new(&ED25519, key)
            .verify(&signed_bytes(kind, &bytes), &signature)
            .map_err(|_| Untrusted::BadSignature)?;
        Ok(bytes)
    }

    /// What it says, *without* verifying that anybody said it.
    pub fn claims<T: DeserializeOwned>(&self) -> Result<T, Untrusted> {
        serde_json::from_slice(&self.payload_bytes()?)
            .map_err(|e| Untrusted::Malformed(e.to_string()))
    }

    /// The digest of the signed bytes, *without* verifying them.
    pub fn payload_digest(&self) -> Result<Digest, Untrusted> {
        Ok(Digest::of(&self.payload_bytes()?))
    }

    fn payload_bytes(&self) -> Result<Vec<u8>, Untrusted> {
        if self.payload.len() > PAYLOAD_MAX / 3 * 4 + 4 {
            return Err(Untrusted::Damaged);
        }
        BASE64.decode(&self.payload).map_err(|_| Untrusted::Damaged)
    }
}

fn signed_bytes(kind: DocumentKind, payload: &[u8]) -> Vec<u8> {
    let word: &[u8] = match kind {
        DocumentKind::Spec => b"pf9-spec",
        DocumentKind::StackManifest => b"pf9-stack-manifest",
        DocumentKind::Trust => b"pf9-trust",
        DocumentKind::Enrolment => b"pf9-enrolment",
        DocumentKind::Facts => b"pf9-facts",
        DocumentKind::Order => b"pf9-order",
        DocumentKind::Unwrap => b"pf9-unwrap",
        DocumentKind::Backup => b"pf9-backup",
        DocumentKind::AgentRelease => b"pf9-agent-release",
        DocumentKind::Operation => b"pf9-operation",
        DocumentKind::Farewell => b"pf9-farewell",
    };
    [word, &[0], payload].concat()
}

// === impl TrustedKey ===

impl TrustedKey {
    /// The key with these bytes, in base64; `None`: it is no Ed25519 key.
    pub fn of(public_key: &str) -> Option<Self> {
        let bytes = BASE64.decode(public_key).ok()?;
        (bytes.len() == 32).then(|| Self {
            id: key_id(&bytes),
            public_key: public_key.to_owned(),
        })
    }
}

// === impl TrustStore ===

impl TrustStore {
    /// A store of these keys; a key whose id does not match its bytes is refused.
    pub fn new(keys: impl IntoIterator<Item = TrustedKey>) -> Result<Self, Fault> {
        let mut map = BTreeMap::new();
        for key in keys {
            let bytes = BASE64.decode(&key.public_key).unwrap_or_default();
            if bytes.len() != 32 || key_id(&bytes) != key.id {
                return Err(Fault::new(
                    FaultCode::TrustDamaged,
                    format!("cannot use trusted key {}", key.id),
                    "its id does not belong to its bytes",
                )
                .fix("run pf9ctl node prep again with a new token"));
            }
            map.insert(key.id, bytes);
        }
        Ok(Self(map))
    }

    /// True when this key is among them.
    pub fn knows(&self, key_id: &str) -> bool {
        self.0.contains_key(key_id)
    }

    /// Ids of the keys, in order.
    pub fn ids(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// True when no key is trusted: nothing can be trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

// === impl SigningKey ===

impl SigningKey {
    /// A fresh key; also returns its PKCS#8 document, to be stored with mode 0600.
    pub fn generate() -> Result<(Self, Vec<u8>), Fault> {
        let doc = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new())
            .map_err(|_| bad_key("cannot make a signing key"))?;
        let bytes = doc.as_ref().to_vec();
        Ok((Self::from_pkcs8(&bytes)?, bytes))
    }

    /// Reads a key back from its PKCS#8 document.
    pub fn from_pkcs8(doc: &[u8]) -> Result<Self, Fault> {
        let pair = Ed25519KeyPair::from_pkcs8(doc).map_err(|_| bad_key("cannot read a key"))?;
        let id = key_id(pair.public_key().as_ref());
        Ok(Self { pair, id })
    }

    /// Its id, as envelopes name it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public half, as hosts pin it.
    pub fn trusted(&self) -> TrustedKey {
        TrustedKey {
            id: self.id.clone(),
            public_key: BASE64.encode(self.pair.public_key().as_ref()),
        }
    }

    /// Signs these bytes as a document of `kind`.
    pub fn sign(&self, kind: DocumentKind, payload: &[u8]) -> Envelope {
        Envelope {
            schema: 1,
            kind,
            key_id: self.id.clone(),
            payload: BASE64.encode(payload),
            signature: BASE64.encode(self.pair.sign(&signed_bytes(kind, payload)).as_ref()),
        }
    }
}

fn key_id(public: &[u8]) -> String {
    Digest::of(public).to_string().chars().take(16).collect()
}

fn bad_key(what: &str) -> Fault {
    Fault::new(
        FaultCode::SigningKey,
        what,
        "the cryptography library refused the key",
    )
}

impl Untrusted {
    /// The refusal as a fault about `what`.
    pub fn fault(&self, what: &str) -> Fault {
        let code = match self {
            Self::Schema(_) | Self::Kind | Self::Malformed(_) | Self::Damaged => {
                FaultCode::DocumentMalformed
            }
            Self::Newer(_) => FaultCode::DocumentNewer,
            Self::UnknownKey(_) | Self::BadSignature => FaultCode::DocumentUntrusted,
        };
        let fix = match self {
            Self::Malformed(_) => "correct the named field on the plane",
            Self::Schema(_) => "upgrade the agent, or send a document of an older schema",
            Self::Newer(_) => {
                "upgrade the agent (package pf9-hostagent), or revert what is new on the plane; \
                 the last good document stays in force"
            }
            Self::Kind | Self::Damaged => "send the document again",
            Self::UnknownKey(_) | Self::BadSignature => {
                "the last good document stays in force; if the plane's key was replaced while this host was away, \
                 it learns the new one automatically; if the old one was retired meanwhile (pf9-plane keys list), run \
                 pf9ctl node prep --force with a new token"
            }
        };
        Fault::new(code, format!("{what} refused"), self.to_string()).fix(fix)
    }
}

impl From<Unread> for Untrusted {
    fn from(why: Unread) -> Self {
        match why {
            Unread::Newer(needs) => Self::Newer(needs),
            Unread::Malformed(why) => Self::Malformed(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> (SigningKey, TrustStore) {
        let (key, _) = SigningKey::generate().expect("key");
        let trust = TrustStore::new([key.trusted()]).expect("trust");
        (key, trust)
    }

    #[test]
    fn opens_what_was_signed_and_nothing_else() {
        let (key, trust) = fixture();
        let env = key.sign(DocumentKind::Spec, b"[1,2]");
        assert_eq!(
            env.open::<Vec<u8>>(DocumentKind::Spec, &trust),
            Ok(vec![1, 2])
        );
        assert_eq!(
            env.verify(DocumentKind::StackManifest, &trust),
            Err(Untrusted::Kind)
        );

        let mut relabelled = env.clone();
        relabelled.kind = DocumentKind::StackManifest;
        assert_eq!(
            relabelled.verify(DocumentKind::StackManifest, &trust),
            Err(Untrusted::BadSignature)
        );

        let mut flipped = env.clone();
        flipped.payload = BASE64.encode(b"[1,3]");
        assert_eq!(
            flipped.verify(DocumentKind::Spec, &trust),
            Err(Untrusted::BadSignature)
        );

        let (_, other) = fixture();
        assert!(matches!(
            env.verify(DocumentKind::Spec, &other),
            Err(Untrusted::UnknownKey(_))
        ));
    }

    #[test]
    fn a_key_must_match_its_id() {
        let (key, _) = fixture();
        let mut pinned = key.trusted();
        pinned.id = "0".repeat(16);
        assert!(TrustStore::new([pinned]).is_err());
    }
}
