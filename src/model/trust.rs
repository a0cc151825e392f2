//! A host's trust anchors, and how they change without enrolling again.
//!
//! The plane says it in a [`TrustDocument`], signed by each of its keys, so that a host finds one
//! that it trusts already. hostagent carries it; nodelet, as root, verifies and applies it.
//!
//! ```text
//! announce    keys: [a, b]  the second is trusted beside the first; every host says that it is
//! take over   keys: [b, a]  the first of the list signs from now on
//! retire      keys: [b]
//! ```

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Digest, Envelope, Fault, FaultCode, HostId, MachineMarks, Timestamp, TrustStore, TrustedKey,
};

/// Version of [`TrustDocument`] this program writes and reads.
pub const TRUST_SCHEMA: u32 = 1;
/// Most signing keys and most authorities of a document: the one that signs, one that is announced
/// and one that leaves, times a margin.
pub const TRUST_LIST_MAX: usize = 8;
/// Largest bundle of authorities, PEM: eight certificates of the largest keys.
pub const TRUST_BUNDLE_MAX: usize = 64 * 1024;
/// Most documents of one answer: one per signing key.
pub const TRUST_ANSWER_MAX: usize = TRUST_LIST_MAX;

/// Which of a plane's documents this is. Both numbers only rise, so a document that was recorded
/// cannot be played back to bring a retired key to life again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustVersion {
    /// Which plane counts. Another plane (the host enrolled elsewhere) restarts.
    pub plane: Uuid,
    /// Rises with every change of the plane's keys and authorities.
    pub serial: u64,
    /// Rises with every change of what the plane holds of this machine.
    pub revision: u64,
}

/// The trust anchors. Fields that a reader does not know are ignored: what it must know is in
/// `schema`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustDocument {
    /// [`TRUST_SCHEMA`].
    pub schema: u32,
    /// The host it is for.
    pub host_id: HostId,
    /// Which one it is.
    pub version: TrustVersion,
    /// When it was signed; for people.
    pub issued_at: Timestamp,
    /// Keys that sign specs and stacks; the first one signs what is new.
    pub keys: Vec<TrustedKey>,
    /// Authorities of the plane and of host certificates, PEM; the first one issues what is new.
    pub authorities: String,
    /// The machine that the plane takes for this host, if it said what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineMarks>,
    /// The machine this is for is a copy: it is to do nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldOrder>,
}

/// An order to hold: nothing on the machine is changed, what runs keeps running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldOrder {
    /// The boot it is for: the same document does not hold another machine with this identity.
    pub boot_id: String,
    /// Why, in the words that the plane uses as well.
    pub fault: Fault,
}

/// What a host trusts, in its status document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustStatus {
    /// The newest document that was applied; none before the first.
    #[serde(default)]
    pub version: Option<TrustVersion>,
    /// Ids of the signing keys that are trusted.
    pub keys: Vec<String>,
    /// Digests of the authorities that are trusted.
    pub authorities: Vec<Digest>,
    /// Key that signed the spec in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_key: Option<String>,
    /// Key that signed the manifest of the active stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack_key: Option<String>,
}

/// The same document under each signature that the plane can give; the host takes one it trusts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrustAnswer {
    /// At most [`TRUST_ANSWER_MAX`].
    pub documents: Vec<Envelope>,
}

/// What the plane answers to a status when it has something to say; nothing (204) otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusAnswer {
    /// There is a newer [`TrustDocument`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<TrustVersion>,
    /// What a person at the host should know; at most [`NOTICES_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Fault>,
}

/// Most notices of an answer that are shown.
pub const NOTICES_MAX: usize = 8;

/// ALPN names with which a client says whose certificates it trusts, and that it speaks HTTP: a
/// server with two authorities shows each client the certificate that this client can check. Names
/// of authorities would do in TLS 1.3 too, but a client that knows one only by its digest (an
/// enrolment token) has no name.
pub fn authority_hints(authorities: impl IntoIterator<Item = Digest>) -> Vec<Vec<u8>> {
    let hints = authorities.into_iter().take(TRUST_LIST_MAX);
    let mut names: Vec<_> = hints.map(|digest| authority_hint(&digest)).collect();
    names.push(b"http/1.1".to_vec());
    names
}

/// The name of one authority among them.
pub fn authority_hint(digest: &Digest) -> Vec<u8> {
    format!("pf9-ca.{}", digest.short()).into_bytes()
}

// === impl TrustVersion ===

impl TrustVersion {
    /// Whether a document of this version may follow one of `have`: it is no older in either
    /// number. The same one again is fine: to apply it twice changes nothing.
    pub fn may_follow(&self, have: Option<&Self>) -> bool {
        have.filter(|have| have.plane == self.plane)
            .is_none_or(|have| self.serial >= have.serial && self.revision >= have.revision)
    }
}

// === impl TrustDocument ===

impl TrustDocument {
    /// Checks what types cannot say.
    pub fn validate(&self, host: HostId) -> Result<(), Fault> {
        let bad = |why: String| {
            Err(Fault::new(
                FaultCode::TrustInvalid,
                "trust document refused",
                why,
            ))
        };
        if self.schema != TRUST_SCHEMA {
            return Err(Fault::new(
                FaultCode::TrustInvalid,
                "trust document refused",
                format!("schema {} is not {TRUST_SCHEMA}", self.schema),
            )
            .fix("upgrade the agent"));
        }
        if self.host_id != host {
            return bad(format!("it is for {}, this host is {host}", self.host_id));
        }
        if self.keys.is_empty() || self.keys.len() > TRUST_LIST_MAX {
            let n = self.keys.len();
            return bad(format!("it names {n} keys, not 1 to {TRUST_LIST_MAX}"));
        }
        if self.authorities.len() > TRUST_BUNDLE_MAX {
            return bad(format!(
                "its authorities are larger than {TRUST_BUNDLE_MAX} bytes"
            ));
        }
        TrustStore::new(self.keys.iter().cloned()).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::SigningKey;

    fn version(plane: u128, serial: u64, revision: u64) -> TrustVersion {
        TrustVersion {
            plane: Uuid::from_u128(plane),
            serial,
            revision,
        }
    }

    proptest! {
        /// Whatever is played back: of one plane's documents no number ever falls, and so nothing
        /// that was left behind comes back.
        #[test]
        fn nothing_older_follows(
            offered in prop::collection::vec((0u64..6, 0u64..6), 1..40),
        ) {
            let mut have: Option<TrustVersion> = None;
            for (serial, revision) in offered {
                let new = version(1, serial, revision);
                let taken = new.may_follow(have.as_ref());
                if let Some(have) = have {
                    prop_assert_eq!(taken, serial >= have.serial && revision >= have.revision);
                } else {
                    prop_assert!(taken);
                }
                if taken {
                    have = Some(new);
                }
            }
        }
    }

    #[test]
    fn another_plane_starts_anew() {
        let have = version(1, 9, 9);
        assert!(version(2, 1, 0).may_follow(Some(&have)));
        assert!(version(1, 9, 9).may_follow(Some(&have)));
        assert!(!version(1, 10, 8).may_follow(Some(&have)));
    }

    #[test]
    fn a_document_names_at_least_one_good_key_and_its_host() {
        let host = HostId::random();
        let good = TrustDocument {
            schema: TRUST_SCHEMA,
            host_id: host,
            version: version(1, 1, 0),
            issued_at: Timestamp::UNIX_EPOCH,
            keys: vec![SigningKey::generate().expect("key").0.trusted()],
            authorities: String::new(),
            machine: None,
            hold: None,
        };
        assert_eq!(good.validate(host), Ok(()));
        assert!(good.validate(HostId::random()).is_err());
        let none = TrustDocument {
            keys: Vec::new(),
            ..good.clone()
        };
        assert!(none.validate(host).is_err());
        let mut wrong = good.clone();
        wrong.keys[0].id = "0".repeat(16);
        assert!(wrong.validate(host).is_err());
        let many = TrustDocument {
            keys: vec![good.keys[0].clone(); 9],
            ..good.clone()
        };
        assert!(many.validate(host).is_err());
        let newer = TrustDocument { schema: 2, ..good };
        assert_eq!(
            newer.validate(host).expect_err("newer").fix,
            "upgrade the agent"
        );
    }
}
