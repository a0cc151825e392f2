//! How this host recognises its plane: the TLS verifiers, one type.
//!
//! ```text
//! look    any         nothing is sent over it
//! enrol   authority   of the token, or the operator's (`comms.tls.ca_file`)   ─┐ and, where the operator pinned keys,
//! tunnel  believing   what enrolment pinned, and the operator's               ─┴► keys: one of them in the chain
//! ```
//!
//! The first contact with a plane needs no public authority: the token carries the SHA-256 of the
//! plane's CA certificate. The server must show that certificate in its chain, and its own
//! certificate must be issued by it, be in date and carry the name that was dialled.
//!
//! That a certificate with a pinned key was *shown* proves nothing: anybody can send the plane's certificates along.
//! The pinned key must be the server's own, or have signed its chain: so a certificate with that key is taken as the
//! only anchor and the chain is built again.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::model::Digest;
use crate::tls::KeyPin;

/// See the module.
#[derive(Debug)]
pub(super) struct Verifier {
    takes: Takes,
    provider: Arc<CryptoProvider>,
}

/// Which certificate is taken.
#[derive(Debug)]
enum Takes {
    /// Every one: for a connection that nothing is sent over.
    Any,
    /// One that the authority with this digest, which is shown, or one of `extra` issued.
    Authority {
        authority: Digest,
        extra: Vec<CertificateDer<'static>>,
    },
    /// One that `inner` takes, with one of the keys in its chain.
    Keys {
        inner: Arc<dyn ServerCertVerifier>,
        pins: Vec<KeyPin>,
        /// Authorities that `inner` trusts; they need not be shown.
        anchors: Vec<CertificateDer<'static>>,
    },
}

#[derive(Debug, thiserror::Error)]
#[error("none of the keys in comms.tls.pin_sha256 is in its chain")]
struct NotPinned;

/// Most certificates of a chain that are looked at; honest ones have two to four.
const CHAIN_MAX: usize = 16;

impl Verifier {
    pub(super) fn any() -> Self {
        Self::new(Takes::Any)
    }

    pub(super) fn authority(authority: Digest, extra: Vec<CertificateDer<'static>>) -> Self {
        Self::new(Takes::Authority { authority, extra })
    }

    pub(super) fn keys(
        inner: Arc<dyn ServerCertVerifier>,
        pins: Vec<KeyPin>,
        anchors: Vec<CertificateDer<'static>>,
    ) -> Self {
        Self::new(Takes::Keys {
            inner,
            pins,
            anchors,
        })
    }

    fn new(takes: Takes) -> Self {
        Self {
            takes,
            provider: crate::tls::provider(),
        }
    }
}

/// A verifier that trusts these authorities, as rustls' own does.
pub(super) fn believing(
    anchors: &[CertificateDer<'static>],
) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for anchor in anchors {
        roots.add(anchor.clone())?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crate::tls::provider())
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))
}

fn is_pinned(certificate: &CertificateDer<'_>, pins: &[KeyPin]) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| pins.contains(&KeyPin::of(parsed.public_key().raw)))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let by = |verifier: &dyn ServerCertVerifier| {
            verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now)
        };
        match &self.takes {
            Takes::Any => Ok(ServerCertVerified::assertion()),
            Takes::Authority { authority, extra } => {
                let mut anchors = extra.clone();
                let shown = intermediates.iter().find(|c| Digest::of(c) == *authority);
                anchors.extend(shown.map(|c| c.clone().into_owned()));
                if anchors.is_empty() {
                    return Err(CertificateError::UnknownIssuer.into());
                }
                by(&*believing(&anchors)?)
            }
            Takes::Keys {
                inner,
                pins,
                anchors,
            } => {
                let verified = by(&**inner)?;
                if is_pinned(end_entity, pins) {
                    return Ok(verified);
                }
                let shown = intermediates.iter().take(CHAIN_MAX);
                let pinned: Vec<CertificateDer<'static>> = shown
                    .chain(anchors)
                    .filter(|c| is_pinned(c, pins))
                    .map(|c| c.clone().into_owned())
                    .collect();
                let not_pinned = || CertificateError::Other(OtherError(Arc::new(NotPinned)));
                if pinned.is_empty() {
                    return Err(not_pinned().into());
                }
                by(&*believing(&pinned)?).map_err(|_| not_pinned().into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
