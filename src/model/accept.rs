//! Whether to accept a spec: a function of the document, of the trust anchors, and of what is in force. hostagent calls
//! it before it hands a spec on, nodelet calls it again with root's own trust directory; both give the same reasons.

use super::document;
use super::{
    Digest, DocumentKind, Envelope, Fault, FaultCode, Generation, HostId, Spec, TrustStore,
    Untrusted,
};

/// A spec that was verified, with the document it came in.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// The document.
    pub envelope: Envelope,
    /// What it says.
    pub spec: Spec,
}

/// What becomes of an offered spec.
#[derive(Debug)]
pub enum Verdict {
    /// It is newer and good; with the names of fields that this program does not know.
    New(Box<Accepted>, Vec<String>),
    /// It is the one in force.
    Same,
    /// It is refused; what is in force stays.
    Refused(Box<Refusal>),
}

/// Why a spec is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason in words.
    pub fault: Fault,
    /// What kind of reason.
    pub because: Because,
    /// The refused document, to report each one once.
    pub document: Option<Digest>,
    /// Its generation, if it was signed by the plane: the next long-poll asks for newer ones, so
    /// that the same one is not sent again and again.
    pub generation: Option<Generation>,
}

/// What kind of reason there is against a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// Its signer is not trusted here.
    Untrusted,
    /// Its bytes are not what was signed, or no document at all: damage, or an attempt.
    Damaged,
    /// Signed, and not what this program can work by.
    NotUnderstood,
    /// Something newer, or another one of the same generation, is in force.
    NotNewer,
}

/// Judges `envelope` for `host`, where `have` is in force. A document in force that is no longer trusted (the host has
/// another plane now) does not count.
pub fn accept(
    envelope: Envelope,
    trust: &TrustStore,
    host: HostId,
    have: Option<&Accepted>,
) -> Verdict {
    let (spec, ignored) = match believe(&envelope, trust, host) {
        Ok(believed) => believed,
        Err(refusal) => return Verdict::Refused(refusal),
    };
    let believed = |have: &&Accepted| have.envelope.verify(DocumentKind::Spec, trust).is_ok();
    let (have, got) = match have.filter(believed) {
        None => return Verdict::New(Box::new(Accepted { envelope, spec }), ignored),
        Some(have) => (have, spec.generation),
    };
    let fault = match got.cmp(&have.spec.generation) {
        std::cmp::Ordering::Greater => {
            return Verdict::New(Box::new(Accepted { envelope, spec }), ignored);
        }
        std::cmp::Ordering::Equal if same_bytes(&envelope, &have.envelope) => {
            return Verdict::Same;
        }
        std::cmp::Ordering::Equal => Fault::new(
            FaultCode::SpecConflict,
            format!("{} refused", name(Some(got))),
            "this host has a different spec of the same generation",
        )
        .fix("send the change with a greater generation; after a restore: pf9-plane recover"),
        std::cmp::Ordering::Less => Fault::new(
            FaultCode::SpecOlder,
            format!("{} refused", name(Some(got))),
            format!(
                "this host has generation {}, which stays in force",
                have.spec.generation
            ),
        )
        .fix("if the plane was restored from a backup, run pf9-plane recover there"),
    };
    Verdict::Refused(Box::new(Refusal {
        fault,
        because: Because::NotNewer,
        document: envelope.payload_digest().ok(),
        generation: Some(got),
    }))
}

fn same_bytes(a: &Envelope, b: &Envelope) -> bool {
    matches!((a.payload_digest(), b.payload_digest()), (Ok(a), Ok(b)) if a == b)
}

fn believe(
    envelope: &Envelope,
    trust: &TrustStore,
    host: HostId,
) -> Result<(Spec, Vec<String>), Box<Refusal>> {
    let document = envelope.payload_digest().ok();
    let bytes = envelope.verify(DocumentKind::Spec, trust);
    let generation = bytes.as_deref().ok().and_then(generation_of);
    let refuse = |why: Untrusted| {
        Box::new(Refusal {
            fault: why.fault(&name(generation)),
            because: Because::of(&why),
            document,
            generation,
        })
    };
    let bytes = bytes.map_err(refuse)?;
    let spec: Spec = document::read(&bytes).map_err(|e| refuse(e.into()))?;
    spec.validate(host).map_err(|fault| {
        Box::new(Refusal {
            fault,
            because: Because::NotUnderstood,
            document,
            generation,
        })
    })?;
    let ignored = document::ignored(&bytes, &spec);
    Ok((spec, ignored))
}

fn name(generation: Option<Generation>) -> String {
    generation.map_or_else(|| "spec".to_owned(), |g| format!("spec generation {g}"))
}

/// The generation of a document whose signature is good and whose rest may be anything.
fn generation_of(bytes: &[u8]) -> Option<Generation> {
    #[derive(serde::Deserialize)]
    struct Only {
        generation: Generation,
    }
    let only: Only = serde_json::from_slice(bytes).ok()?;
    Some(only.generation)
}

impl Because {
    /// What kind of reason this is.
    pub fn of(why: &Untrusted) -> Self {
        match why {
            Untrusted::UnknownKey(_) => Self::Untrusted,
            Untrusted::BadSignature | Untrusted::Damaged => Self::Damaged,
            Untrusted::Schema(_)
            | Untrusted::Kind
            | Untrusted::Newer(_)
            | Untrusted::Malformed(_) => Self::NotUnderstood,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Assignment, SigningKey, Timestamp};

    fn spec(host: HostId, generation: u64) -> Spec {
        Spec {
            schema: 1,
            host_id: host,
            generation: Generation(generation),
            issued_at: Timestamp::UNIX_EPOCH,
            assignment: Assignment::None,
            force: false,
            agent: None,
            maintenance: None,
        }
    }

    struct Plane(SigningKey, TrustStore, HostId);

    fn plane() -> Plane {
        let (key, _) = SigningKey::generate().expect("key");
        let trust = TrustStore::new([key.trusted()]).expect("trust");
        Plane(key, trust, HostId::random())
    }

    impl Plane {
        fn sign(&self, spec: &Spec) -> Envelope {
            let bytes = spec.document().expect("document");
            self.0.sign(DocumentKind::Spec, &bytes)
        }
        fn have(&self, generation: u64) -> Accepted {
            let spec = spec(self.2, generation);
            Accepted {
                envelope: self.sign(&spec),
                spec,
            }
        }
        fn accept(&self, envelope: Envelope, have: Option<&Accepted>) -> Verdict {
            accept(envelope, &self.1, self.2, have)
        }
        fn refused(&self, envelope: Envelope, have: Option<&Accepted>) -> Refusal {
            match self.accept(envelope, have) {
                Verdict::Refused(refusal) => *refusal,
                other => panic!("not refused: {other:?}"),
            }
        }
        /// Reads a golden document as if this plane had sent it to its host.
        fn sign_golden(&self, text: &str) -> Envelope {
            let text = text.replace("{host}", &self.2.to_string());
            self.0.sign(DocumentKind::Spec, text.as_bytes())
        }
    }

    proptest! {
        #[test]
        fn only_a_greater_generation_is_new(have in 0u64..5, offered in 0u64..5) {
            let plane = plane();
            let verdict = plane.accept(plane.sign(&spec(plane.2, offered)), Some(&plane.have(have)));
            match verdict {
                Verdict::New(accepted, ignored) => {
                    prop_assert!(offered > have);
                    prop_assert_eq!(accepted.spec.generation.0, offered);
                    prop_assert!(ignored.is_empty());
                }
                Verdict::Same => prop_assert_eq!(offered, have),
                Verdict::Refused(refusal) => {
                    prop_assert!(offered < have);
                    prop_assert_eq!(refusal.fault.code, FaultCode::SpecOlder);
                    prop_assert_eq!(refusal.because, Because::NotNewer);
                    prop_assert_eq!(refusal.generation, Some(Generation(offered)));
                }
            }
        }

        #[test]
        fn no_damage_is_accepted(at in 0usize..200, bit in 0u8..6) {
            let plane = plane();
            let mut envelope = plane.sign(&spec(plane.2, 9));
            let mut bytes = envelope.payload.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(payload) = String::from_utf8(bytes) {
                envelope.payload = payload;
                let refusal = plane.refused(envelope, None);
                prop_assert_eq!(refusal.because, Because::Damaged);
                prop_assert_eq!(refusal.generation, None);
            }
        }

        #[test]
        fn what_is_not_believed_any_more_does_not_count(have in 0u64..9, offered in 0u64..9) {
            let (before, now) = (plane(), plane());
            let old = Accepted { envelope: before.have(have).envelope, spec: spec(now.2, have) };
            let verdict = now.accept(now.sign(&spec(now.2, offered)), Some(&old));
            prop_assert!(matches!(verdict, Verdict::New(..)));
        }
    }

    #[test]
    fn the_words_name_document_and_reason() {
        let plane = plane();
        let have = plane.have(5);
        let older = plane.refused(plane.sign(&spec(plane.2, 3)), Some(&have));
        assert_eq!(
            older.fault.to_string(),
            "spec generation 3 refused: this host has generation 5, which stays in force; \
             if the plane was restored from a backup, run pf9-plane recover there"
        );
        assert!(older.fault.code.wants_greater_generation());

        let foreign = plane.refused(plane.sign(&spec(HostId::random(), 6)), Some(&have));
        assert_eq!(foreign.generation, Some(Generation(6)));
        assert!(foreign.fault.to_string().contains("host_id"), "{foreign:?}");
        assert!(!foreign.fault.code.wants_greater_generation());

        let mut other = spec(plane.2, 5);
        other.issued_at = Timestamp::MAX;
        let conflict = plane.refused(plane.sign(&other), Some(&have));
        assert_eq!(conflict.fault.code, FaultCode::SpecConflict);
        assert!(conflict.fault.code.wants_greater_generation());

        let stranger = SigningKey::generate().expect("key").0;
        let bytes = spec(plane.2, 6).document().expect("document");
        let unsigned = plane.refused(stranger.sign(DocumentKind::Spec, &bytes), Some(&have));
        assert_eq!(unsigned.fault.code, FaultCode::DocumentUntrusted);
        assert_eq!(unsigned.because, Because::Untrusted);
        assert_eq!(
            unsigned.generation, None,
            "its number is not to be believed"
        );
    }

    #[test]
    fn a_malformed_spec_names_the_field_and_its_generation() {
        let plane = plane();
        let text = serde_json::json!({"schema": 1, "generation": 8, "host_id": plane.2,
            "issued_at": "2026-01-01T00:00:00Z", "assignment": {"role": "purple"}});
        let envelope = plane
            .0
            .sign(DocumentKind::Spec, text.to_string().as_bytes());
        let refusal = plane.refused(envelope, None);
        assert_eq!(refusal.generation, Some(Generation(8)));
        assert_eq!(refusal.because, Because::NotUnderstood);
        assert!(refusal.fault.why.contains("purple"), "{refusal:?}");
    }

    /// What a plane of later signs, and this agent reads: additions that it may ignore.
    #[test]
    fn an_older_agent_works_by_a_newer_spec_and_names_what_it_ignores() {
        let plane = plane();
        let envelope = plane.sign_golden(include_str!("golden/spec-with-additions.json"));
        let Verdict::New(accepted, ignored) = plane.accept(envelope, None) else {
            panic!("an addition that may be ignored is refused");
        };
        assert_eq!(accepted.spec.generation, Generation(12));
        let node = accepted.spec.assignment.node().expect("a node");
        assert_eq!(node.node_name.as_str(), "n1");
        assert_eq!(
            ignored,
            [
                "assignment.kubelet.image_gc",
                "assignment.network.peers[].zone",
                "assignment.rack",
                "signed_by"
            ]
        );
    }

    /// What a plane of later signs, and this agent must not work by.
    #[test]
    fn an_older_agent_refuses_what_it_could_not_do_in_words() {
        let plane = plane();
        let envelope = plane.sign_golden(include_str!("golden/spec-needs-newer-agent.json"));
        let refusal = plane.refused(envelope, Some(&plane.have(5)));
        assert_eq!(refusal.fault.code, FaultCode::DocumentNewer);
        assert_eq!(refusal.because, Because::NotUnderstood);
        assert_eq!(refusal.generation, Some(Generation(13)));
        let words = refusal.fault.to_string();
        let wanted = format!(
            "spec generation 13 refused: it needs agent 0.5 or newer (this is {}); upgrade the \
             agent",
            document::AGENT_VERSION
        );
        assert!(words.starts_with(&wanted), "{words}");
    }
}
