//! Whether a spec is accepted: a function of the document and of what the host has.

use crate::model::{
    Digest, DocumentKind, Envelope, Fault, Generation, HostId, Spec, TrustStore, Untrusted,
};

use super::board::Accepted;

/// What becomes of an offered spec.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is newer and good.
    New(Box<Accepted>),
    /// It is the one in force.
    Same,
    /// It is refused.
    Refused(Refusal),
}

/// Why, and what to ask for next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The reason in words.
    pub(super) fault: Fault,
    /// The refused document, to report each one once.
    pub(super) document: Option<Digest>,
    /// Its generation, if it was signed by the plane: the next long-poll asks for newer ones, so
    /// that the same one is not sent again and again.
    pub(super) generation: Option<Generation>,
}

/// Judges `envelope` for `host`, which has `have`.
pub(super) fn judge(
    envelope: Envelope,
    trust: &TrustStore,
    host: HostId,
    have: Option<&Accepted>,
) -> Verdict {
    let document = envelope.payload_digest().ok();
    let refuse = |fault: Fault, generation| {
        Verdict::Refused(Refusal {
            fault,
            document,
            generation,
        })
    };
    let spec: Spec = match envelope.open(DocumentKind::Spec, trust) {
        Ok(spec) => spec,
        Err(untrusted) => {
            let generation = signed_generation(&untrusted, &envelope, trust);
            return refuse(untrusted.fault(&name(generation)), generation);
        }
    };
    let generation = spec.generation;
    if let Err(fault) = spec.validate(host) {
        return refuse(fault, Some(generation));
    }
    match have {
        Some(have) if generation < have.spec.generation => refuse(
            Fault::new(
                "spec-older",
                format!("{} refused", name(Some(generation))),
                format!(
                    "this host has generation {}, which stays in force",
                    have.spec.generation
                ),
            )
            .fix("if the plane was restored from a backup, let it send a greater generation"),
            Some(generation),
        ),
        Some(have) if generation == have.spec.generation => {
            if have.spec == spec {
                return Verdict::Same;
            }
            refuse(
                Fault::new(
                    "spec-conflict",
                    format!("{} refused", name(Some(generation))),
                    "this host has another spec of the same generation",
                )
                .fix("send the change with a greater generation"),
                Some(generation),
            )
        }
        Some(_) | None => Verdict::New(Box::new(Accepted { envelope, spec })),
    }
}

fn name(generation: Option<Generation>) -> String {
    generation.map_or_else(|| "spec".to_owned(), |g| format!("spec generation {g}"))
}

/// The generation of a document that is signed but malformed elsewhere.
fn signed_generation(
    why: &Untrusted,
    envelope: &Envelope,
    trust: &TrustStore,
) -> Option<Generation> {
    #[derive(serde::Deserialize)]
    struct Only {
        generation: Generation,
    }
    match why {
        Untrusted::Malformed(_) => envelope
            .open::<Only>(DocumentKind::Spec, trust)
            .ok()
            .map(|only| only.generation),
        Untrusted::Schema(_)
        | Untrusted::Kind
        | Untrusted::UnknownKey(_)
        | Untrusted::BadSignature
        | Untrusted::Damaged => None,
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
            let bytes = serde_json::to_vec(spec).expect("json");
            self.0.sign(DocumentKind::Spec, &bytes)
        }
        fn have(&self, generation: u64) -> Accepted {
            let spec = spec(self.2, generation);
            Accepted {
                envelope: self.sign(&spec),
                spec,
            }
        }
        fn judge(&self, envelope: Envelope, have: Option<&Accepted>) -> Verdict {
            judge(envelope, &self.1, self.2, have)
        }
        fn refused(&self, envelope: Envelope, have: Option<&Accepted>) -> Refusal {
            match self.judge(envelope, have) {
                Verdict::Refused(refusal) => refusal,
                other => panic!("not refused: {other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn only_a_greater_generation_is_new(have in 0u64..5, offered in 0u64..5) {
            let plane = plane();
            let verdict = plane.judge(plane.sign(&spec(plane.2, offered)), Some(&plane.have(have)));
            match verdict {
                Verdict::New(accepted) => {
                    prop_assert!(offered > have);
                    prop_assert_eq!(accepted.spec.generation.0, offered);
                }
                Verdict::Same => prop_assert_eq!(offered, have),
                Verdict::Refused(refusal) => {
                    prop_assert!(offered < have);
                    prop_assert_eq!(refusal.fault.code, "spec-older");
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
                prop_assert!(matches!(plane.judge(envelope, None), Verdict::Refused(_)));
            }
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
             if the plane was restored from a backup, let it send a greater generation"
        );

        let foreign = plane.refused(plane.sign(&spec(HostId::random(), 6)), Some(&have));
        assert_eq!(foreign.generation, Some(Generation(6)));
        assert!(foreign.fault.to_string().contains("host_id"), "{foreign:?}");

        let mut other = spec(plane.2, 5);
        other.issued_at = Timestamp::MAX;
        let conflict = plane.refused(plane.sign(&other), Some(&have));
        assert_eq!(conflict.fault.code, "spec-conflict");

        let stranger = SigningKey::generate().expect("key").0;
        let bytes = serde_json::to_vec(&spec(plane.2, 6)).expect("json");
        let unsigned = plane.refused(stranger.sign(DocumentKind::Spec, &bytes), Some(&have));
        assert_eq!(unsigned.fault.code, "document-untrusted");
        assert_eq!(
            unsigned.generation, None,
            "its number is not to be believed"
        );
    }

    #[test]
    fn a_malformed_spec_names_the_field_and_its_generation() {
        let plane = plane();
        let text = serde_json::json!({"schema": 1, "generation": 8, "host_id": plane.2,
            "issued_at": "2026-01-01T00:00:00Z", "assignment": {"role": "none"}, "colour": 1});
        let envelope = plane
            .0
            .sign(DocumentKind::Spec, text.to_string().as_bytes());
        let refusal = plane.refused(envelope, None);
        assert_eq!(refusal.generation, Some(Generation(8)));
        assert!(refusal.fault.why.contains("colour"), "{refusal:?}");
    }
}
