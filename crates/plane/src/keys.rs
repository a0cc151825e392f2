//! The plane's own keys: one signs documents, one issues certificates; during a rotation each has a successor that is
//! announced, or a predecessor that is still trusted.
//!
//! ```text
//!           announce           take over              retire
//! [current] ───────► [current, next] ───────► [current, old] ───────► [current]
//!                        └── retire (cancels the rotation) ────────────────────▲
//! ```
//!
//! All of it is one row of the store, and one value in memory that is replaced as a whole: nobody sees a mix of old and
//! new keys.

use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use rcgen::PublicKeyData;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use super::bootstrap::BootError;
use super::ca::{Authority, CaError, Issued, Leaf};
use super::secrets;
use super::store::Rows;
use pf9_hostagent::model::{
    Digest, DocumentKind, Envelope, Fault, FaultCode, Secret, SigningKey, TrustedKey,
};

/// The row.
pub(super) const IDENTITY: Rows<Identity> = Rows::new("identity");
/// Its key.
pub(super) const IDENTITY_ROW: &str = "plane";

/// The stored form.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Identifies the plane, for hosts that number its documents.
    plane: Uuid,
    /// Increases with every change of the fields below.
    serial: u64,
    authorities: Turn<StoredAuthority>,
    signing: Turn<StoredKey>,
    /// Marks session tickets as ours, base64.
    #[serde(serialize_with = "expose")]
    tickets: Secret<String>,
}

#[derive(Clone, Serialize, Deserialize)]
struct StoredAuthority {
    certificate: String,
    #[serde(serialize_with = "expose")]
    key: Secret<String>,
}

/// PKCS#8, base64.
#[derive(Clone, Serialize, Deserialize)]
struct StoredKey(#[serde(serialize_with = "expose")] Secret<String>);

/// One kind of key, and its state of rotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Turn<T> {
    /// Signs.
    pub(super) current: T,
    /// Announced: trusted, and signs nothing yet.
    pub(super) next: Option<T>,
    /// Signed before, and is still trusted.
    pub(super) old: Option<T>,
}

/// Why a rotation cannot proceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoTurn {
    /// One is already announced.
    Announced,
    /// The previous one is not retired yet.
    NotRetired,
    /// None is announced.
    NoneAnnounced,
    /// There is none besides the current one.
    NoneToRetire,
}

/// Which kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// Signs specs, stacks and trust documents.
    Signing,
    /// Issues the plane's and the hosts' certificates.
    Authority,
}

/// Everything in memory, ready to use.
pub(super) struct Ring {
    pub(super) authorities: Turn<Arc<Authority>>,
    pub(super) signing: Turn<Arc<SigningKey>>,
    pub(super) tickets: aws_lc_rs::hmac::Key,
    stored: Identity,
}

/// The keys as the plane's parts share them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Keys(Arc<Shared>);

struct Shared {
    ring: RwLock<Arc<Ring>>,
    changed: watch::Sender<u64>,
}

/// The authority that currently issues.
#[derive(Clone)]
pub(super) struct Ca(Keys);

/// The key that currently signs.
#[derive(Clone)]
pub(super) struct Signer(Keys);

// === impl Turn ===

impl<T> Turn<T> {
    pub(super) fn of(current: T) -> Self {
        Self {
            current,
            next: None,
            old: None,
        }
    }

    /// All trusted keys, the current one first.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.current)
            .chain(&self.next)
            .chain(&self.old)
    }

    /// Keys to sign with for receivers that trust nothing newer.
    pub(super) fn signers(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.current).chain(&self.old)
    }

    /// Adds a successor.
    pub(super) fn announce(self, next: T) -> Result<Self, NoTurn> {
        match (&self.next, &self.old) {
            (Some(_), _) => Err(NoTurn::Announced),
            (None, Some(_)) => Err(NoTurn::NotRetired),
            (None, None) => Ok(Self {
                next: Some(next),
                ..self
            }),
        }
    }

    /// The successor becomes the current key.
    pub(super) fn take_over(self) -> Result<Self, NoTurn> {
        match self.next {
            Some(next) => Ok(Self {
                current: next,
                next: None,
                old: Some(self.current),
            }),
            None => Err(NoTurn::NoneAnnounced),
        }
    }

    /// Drops trust in the key that does not sign.
    pub(super) fn retire(self) -> Result<Self, NoTurn> {
        match (&self.next, &self.old) {
            (None, None) => Err(NoTurn::NoneToRetire),
            (Some(_), _) | (_, Some(_)) => Ok(Self::of(self.current)),
        }
    }

    fn try_map<U, E>(&self, mut map: impl FnMut(&T) -> Result<U, E>) -> Result<Turn<U>, E> {
        Ok(Turn {
            current: map(&self.current)?,
            next: self.next.as_ref().map(&mut map).transpose()?,
            old: self.old.as_ref().map(&mut map).transpose()?,
        })
    }
}

impl NoTurn {
    /// The fault for people.
    pub(super) fn fault(self) -> Fault {
        let what = "the keys are unchanged";
        let fault = |why: &str, fix: &str| Fault::new(FaultCode::KeysTurn, what, why).fix(fix);
        match self {
            Self::Announced => fault("a key is announced already", "take it over, or retire it"),
            Self::NotRetired => fault("the previous key is still trusted", "retire it first"),
            Self::NoneAnnounced => fault("no key is announced", "announce one first"),
            Self::NoneToRetire => fault("only the signing key exists", "nothing to do"),
        }
    }
}

// === impl Identity ===

impl Identity {
    /// The keys of a new plane.
    pub(super) fn make(now: Timestamp) -> Result<Self, BootError> {
        let tickets = secrets::random::<32>()?;
        Ok(Self {
            plane: Uuid::new_v4(),
            serial: 1,
            authorities: Turn::of(StoredAuthority::make(now)?),
            signing: Turn::of(StoredKey::make()?),
            tickets: Secret::new(BASE64.encode(tickets)),
        })
    }

    /// Announces a successor of this kind.
    pub(super) fn announce(mut self, kind: Kind, now: Timestamp) -> Result<Self, Announce> {
        match kind {
            Kind::Signing => self.signing = self.signing.announce(StoredKey::make()?)?,
            Kind::Authority => {
                self.authorities = self.authorities.announce(StoredAuthority::make(now)?)?;
            }
        }
        Ok(self.counted())
    }

    /// The announced successor becomes current.
    pub(super) fn take_over(mut self, kind: Kind) -> Result<Self, NoTurn> {
        match kind {
            Kind::Signing => self.signing = self.signing.take_over()?,
            Kind::Authority => self.authorities = self.authorities.take_over()?,
        }
        Ok(self.counted())
    }

    /// Only the current key stays trusted.
    pub(super) fn retire(mut self, kind: Kind) -> Result<Self, NoTurn> {
        match kind {
            Kind::Signing => self.signing = self.signing.retire()?,
            Kind::Authority => self.authorities = self.authorities.retire()?,
        }
        Ok(self.counted())
    }

    /// The same keys with a greater serial: hosts have seen greater ones.
    pub(super) fn raised(self, serial: u64) -> Self {
        Self {
            serial: serial.max(self.serial),
            ..self
        }
    }

    fn counted(mut self) -> Self {
        self.serial += 1;
        self
    }
}

/// Why no successor was announced.
#[derive(Debug)]
pub(super) enum Announce {
    /// The rotation's state does not allow it.
    NoTurn(NoTurn),
    /// No key can be made.
    Make(BootError),
}

impl From<NoTurn> for Announce {
    fn from(no: NoTurn) -> Self {
        Self::NoTurn(no)
    }
}

impl From<BootError> for Announce {
    fn from(e: BootError) -> Self {
        Self::Make(e)
    }
}

impl StoredAuthority {
    fn make(now: Timestamp) -> Result<Self, BootError> {
        let (authority, key) = Authority::generate("pf9 management plane", now)?;
        Ok(Self {
            certificate: authority.pem().to_owned(),
            key,
        })
    }
}

impl StoredKey {
    fn make() -> Result<Self, BootError> {
        let (_, pkcs8) = SigningKey::generate()?;
        Ok(Self(Secret::new(BASE64.encode(pkcs8))))
    }
}

// === impl Ring ===

impl Ring {
    /// Loads a row, ready for use.
    pub(super) fn load(stored: Identity) -> Result<Self, BootError> {
        let authorities = stored.authorities.try_map(|a| {
            let authority = Authority::load(&a.certificate, &a.key)?;
            Ok::<_, BootError>(Arc::new(authority))
        })?;
        let signing = stored.signing.try_map(|key| {
            let pkcs8 = BASE64.decode(key.0.expose()).unwrap_or_default();
            Ok::<_, BootError>(Arc::new(SigningKey::from_pkcs8(&pkcs8)?))
        })?;
        let tickets = BASE64.decode(stored.tickets.expose()).unwrap_or_default();
        Ok(Self {
            authorities,
            signing,
            tickets: aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &tickets),
            stored,
        })
    }

    /// The row it was loaded from.
    pub(super) fn stored(&self) -> &Identity {
        &self.stored
    }

    /// The plane's identity.
    pub(super) fn plane(&self) -> Uuid {
        self.stored.plane
    }

    /// Number of changes.
    pub(super) fn serial(&self) -> u64 {
        self.stored.serial
    }

    /// Certificates of all trusted authorities, PEM; the issuing one first.
    pub(super) fn bundle(&self) -> String {
        self.authorities.all().map(|a| a.pem()).collect()
    }

    /// All trusted keys; the signing one first.
    pub(super) fn trusted(&self) -> Vec<TrustedKey> {
        self.signing.all().map(|key| key.trusted()).collect()
    }

    /// Which of the authorities issued a certificate, DER.
    pub(super) fn issuer_of(&self, certificate: &[u8]) -> Option<Digest> {
        let issued = |a: &&Arc<Authority>| a.has_issued(certificate);
        let authority = self.authorities.all().find(issued)?;
        Some(Digest::of(authority.der()))
    }
}

// === impl Keys ===

impl Keys {
    pub(super) fn new(ring: Ring) -> Self {
        let changed = watch::Sender::new(ring.serial());
        Self(Arc::new(Shared {
            ring: RwLock::new(Arc::new(ring)),
            changed,
        }))
    }

    /// The present keys.
    pub(super) fn ring(&self) -> Arc<Ring> {
        let ring = self.0.ring.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&ring)
    }

    /// Replaces them; returns the previous ones.
    pub(super) fn replace(&self, ring: Arc<Ring>) -> Arc<Ring> {
        let serial = ring.serial();
        let before = {
            let mut now = self.0.ring.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *now, ring)
        };
        self.0.changed.send_replace(serial);
        before
    }

    /// Notified of every replacement.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    pub(super) fn ca(&self) -> Ca {
        Ca(self.clone())
    }

    pub(super) fn signer(&self) -> Signer {
        Signer(self.clone())
    }
}

// === impl Ca ===

impl Ca {
    /// Certificates of all trusted authorities, PEM; the issuing one first.
    pub(super) fn pem(&self) -> String {
        self.0.ring().bundle()
    }

    /// SHA-256 of the certificate of the issuing one.
    pub(super) fn digest(&self) -> Digest {
        Digest::of(self.0.ring().authorities.current.der())
    }

    /// Signs a certificate.
    pub(super) fn issue(
        &self,
        key: &impl PublicKeyData,
        leaf: &Leaf,
        now: Timestamp,
    ) -> Result<Issued, CaError> {
        self.0.ring().authorities.current.issue(key, leaf, now)
    }
}

// === impl Signer ===

impl Signer {
    /// Signs these bytes as a document of `kind`.
    pub(super) fn sign(&self, kind: DocumentKind, payload: &[u8]) -> Envelope {
        self.0.ring().signing.current.sign(kind, payload)
    }
}

fn expose<S: serde::Serializer>(secret: &Secret<String>, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(secret.expose())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// For any sequence of requests: something always signs, at most two are trusted, and what signs was trusted
        /// the step before; no host meets a signature of an unknown key.
        #[test]
        fn the_signing_key_was_trusted_before(asked in prop::collection::vec(0u8..3, 0..40)) {
            let mut turn = Turn::of(0u32);
            let mut made = 0;
            for what in asked {
                let trusted: Vec<u32> = turn.all().copied().collect();
                let next = match what {
                    0 => {
                        made += 1;
                        turn.clone().announce(made)
                    }
                    1 => turn.clone().take_over(),
                    _ => turn.clone().retire(),
                };
                if let Ok(next) = next {
                    prop_assert!(trusted.contains(&next.current));
                    prop_assert!(next.all().count() <= 2);
                    turn = next;
                }
            }
        }
    }

    #[test]
    fn a_rotation_goes_in_order() {
        let one = Turn::of(1);
        assert_eq!(one.clone().take_over(), Err(NoTurn::NoneAnnounced));
        assert_eq!(one.clone().retire(), Err(NoTurn::NoneToRetire));
        let two = one.announce(2).expect("announced");
        assert_eq!(two.clone().announce(3), Err(NoTurn::Announced));
        assert_eq!(two.clone().retire(), Ok(Turn::of(1)));
        let over = two.take_over().expect("taken over");
        assert_eq!(over.all().collect::<Vec<_>>(), [&2, &1]);
        assert_eq!(over.clone().announce(3), Err(NoTurn::NotRetired));
        assert_eq!(over.retire(), Ok(Turn::of(2)));
    }
}
