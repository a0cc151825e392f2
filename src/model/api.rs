//! Bodies of the host API (node → plane, over the tunnel), of enrolment (node → plane, before
//! there is a tunnel) and of nodelet's socket.
//!
//! | call | body → answer |
//! |---|---|
//! | `POST /v1/enrol` (public HTTPS)                  | [`EnrolRequest`] → [`EnrolAnswer`] |
//! | `GET  /v1/hosts/self/spec?after=N&seen=G&wait=S` | → [`super::Envelope`], 204 when there is no other |
//! | `POST /v1/hosts/self/status`                     | [`super::HostStatus`] → 204, or [`super::StatusAnswer`] |
//! | `GET  /v1/hosts/self/trust`                      | → [`super::TrustAnswer`] |
//! | `POST /v1/hosts/self/events`                     | [`EventBatch`] → 204 |
//! | `POST /v1/hosts/self/renew`                      | [`RenewRequest`] → [`RenewAnswer`] |
//! | `POST /v1/hosts/self/nonce`                      | → [`super::FreshNonce`] |
//! | `POST /v1/hosts/self/certificates`               | [`super::CertificateOrder`], signed → [`CertificateBatch`] |
//! | `GET  /v1/hosts/self/facts`                      | → [`super::NodeFacts`], 204 when none were taken yet |
//! | `POST /v1/hosts/self/facts`                      | [`super::FactsReport`], signed → 204 |
//! | `POST /v1/hosts/self/leave`                      | → 204; the host is enrolled no more. Twice is fine |
//! | `GET  /v1/stacks/{manifest-digest}/manifest`     | → [`super::Envelope`] |
//! | `GET  /v1/stacks/{manifest-digest}/archive`      | → bytes, with `Range` |
//! | `GET  /v1/stacks/{manifest-digest}/from/{of-another}` | → [`super::DeltaOffer`], 404 when there is none |
//! | `GET  …/from/{of-another}/delta`                 | → bytes, with `Range` |
//!
//! Every error answer is a [`super::Fault`] as JSON. What a session is good for is
//! [`super::SessionKind`]: one for renewal only takes `renew`, one for removal only `spec`, `status`
//! and `leave`.
//!
//! A host asks for its spec with the generation it saw last, accepted or refused (`seen`): whatever
//! the plane has instead is answered at once, an older one too. A plane that was restored from a
//! backup so learns from the host's refusal that it speaks of the past, and the host stays with what
//! it has. A plane that does not know `seen` answers what is newer than `after`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    CertPurpose, ClusterId, Envelope, Fault, FaultCode, HostId, MachineMarks, Secret, TrustVersion,
    TrustedKey,
};

/// A node asks to become a host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// Version of this document; 1.
    pub schema: u32,
    /// The secret half of the one-time token; see [`EnrolToken`].
    #[serde(serialize_with = "expose")]
    pub token: Secret<String>,
    /// The id the node chose, or had before.
    pub host_id: HostId,
    /// The public half of the key that root of this host orders with; the plane pins it.
    pub order_key: TrustedKey,
    /// A [`super::Enrolment`], signed with that key.
    pub statement: Envelope,
    /// PKCS#10 request, PEM. Its subject is ignored.
    pub csr: String,
    /// What the machine is; absent from an agent that does not look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineMarks>,
    /// Where the host has a key already: a PKCS#10 request by that key, PEM, whose common name is
    /// [`EnrolRequest::possession`]. Without it a plane lets no other key take over a host's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
}

/// A host asks for a certificate for a new key, on a session of the key it has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RenewRequest {
    /// Version of this document; 1.
    pub schema: u32,
    /// PKCS#10 request by the new key, PEM. Its subject is ignored.
    pub csr: String,
}

/// The certificate for the new key. The one before stays good until a connection shows this one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RenewAnswer {
    /// Version of this document; 1.
    pub schema: u32,
    /// PEM; common name is the host id.
    pub certificate: String,
}

/// A node has become a host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrolAnswer {
    /// Version of this document; 1.
    pub schema: u32,
    /// The host certificate, PEM; common name is the host id.
    pub certificate: String,
    /// Authorities of the plane's own certificate, PEM.
    pub ca: String,
    /// Keys that sign specs and stacks.
    pub trust: Vec<TrustedKey>,
    /// Where to connect the tunnel, `wss://…`, best first.
    pub endpoints: Vec<String>,
    /// Version of `ca` and `trust`: an older document no longer applies to this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_version: Option<TrustVersion>,
}

/// A one-time token: `pf9t1.<digest of the plane's CA certificate, hex>.<secret>`.
///
/// It names the plane as well as the host: the first contact is safe without a public CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolToken {
    /// SHA-256 of the plane's CA certificate (DER).
    pub ca: super::Digest,
    /// What the plane knows it by.
    pub secret: Secret<String>,
}

/// Certificates the plane signed; also the body of `PUT /v1/certificates` on nodelet's socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CertificateBatch {
    /// The cluster they are for.
    pub cluster_id: ClusterId,
    /// One for each request.
    pub certificates: Vec<IssuedCertificate>,
}

/// One certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IssuedCertificate {
    /// What for.
    pub purpose: CertPurpose,
    /// PEM.
    pub certificate: String,
}

/// Something that happened on a host; delivered at least once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Unique. The plane drops what it has seen.
    pub id: String,
    /// Its number in the host's spool: one that is missing was given up. Absent: it is the plane's own, or of an
    /// older agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The host's clock.
    pub at: Timestamp,
    /// Stable kebab-case word, e.g. `spec-accepted`, `spec-refused`, `stack-staged`, `state`.
    pub kind: String,
    /// For people.
    pub message: String,
    /// If something failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// Events, oldest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventBatch {
    /// Whose numbers they are: another one where the host lost its spool. Absent: of an older agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool: Option<Uuid>,
    /// At most [`EVENT_BATCH_MAX`].
    pub events: Vec<Event>,
}

/// Most events of one delivery.
pub const EVENT_BATCH_MAX: usize = 256;

// === impl EnrolRequest ===

impl EnrolRequest {
    /// What the key a host has must sign to bring another one: this enrolment and no other.
    pub fn possession(token: &Secret<String>, host: HostId, csr: &str) -> super::Digest {
        let text = format!("pf9-enrol-possession.v1\n{host}\n{}\n{csr}", token.expose());
        super::Digest::of(text.as_bytes())
    }
}

// === impl EnrolToken ===

const TOKEN_PREFIX: &str = "pf9t1";

impl std::str::FromStr for EnrolToken {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self, Fault> {
        let bad = |why: &str| {
            Fault::new(
                FaultCode::TokenMalformed,
                "cannot read the enrolment token",
                why,
            )
            .fix("copy the whole line that the plane printed")
        };
        let mut parts = text.trim().split('.');
        let (Some(prefix), Some(ca), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad("it does not have three parts"));
        };
        if prefix != TOKEN_PREFIX {
            return Err(bad("it does not start with pf9t1."));
        }
        if secret.is_empty() || secret.len() > 128 {
            return Err(bad("its secret part is empty or too long"));
        }
        Ok(Self {
            ca: ca
                .parse()
                .map_err(|_| bad("its second part is not a SHA-256 digest"))?,
            secret: Secret::new(secret.to_owned()),
        })
    }
}

impl EnrolToken {
    /// The whole token as text: a secret.
    pub fn to_text(&self) -> Secret<String> {
        Secret::new(format!(
            "{TOKEN_PREFIX}.{}.{}",
            self.ca,
            self.secret.expose()
        ))
    }
}

fn expose<S: serde::Serializer>(secret: &Secret<String>, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(secret.expose())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Digest;

    #[test]
    fn token_text_round_trips() {
        let token = EnrolToken {
            ca: Digest::of(b"ca"),
            secret: Secret::new("abc".into()),
        };
        assert_eq!(token.to_text().expose().parse(), Ok(token));
        for bad in ["", "pf9t1.x.y", "a.b", "pf9t2.00.x"] {
            assert!(bad.parse::<EnrolToken>().is_err(), "{bad}");
        }
    }
}
