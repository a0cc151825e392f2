//! A verifier that, after another one said yes, wants one of the pinned keys in the chain.
//!
//! That a certificate with a pinned key was *shown* proves nothing: anybody can send the plane's
//! certificates along. The pinned key must be the server's own, or have signed its way to it: so a
//! certificate with that key is taken as the only anchor and the chain is built once more.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::policy::believing;
use crate::tls::KeyPin;

/// See the module.
#[derive(Debug)]
pub(super) struct PinnedKeys {
    inner: Arc<dyn ServerCertVerifier>,
    pins: Vec<KeyPin>,
    /// Authorities that `inner` believes; they need not be shown.
    anchors: Vec<CertificateDer<'static>>,
}

#[derive(Debug, thiserror::Error)]
#[error("none of the keys in comms.tls.pin_sha256 is in its chain")]
struct NotPinned;

/// Most certificates of a chain that are looked at; honest ones have two to four.
const CHAIN_MAX: usize = 16;

impl PinnedKeys {
    pub(super) fn new(
        inner: Arc<dyn ServerCertVerifier>,
        pins: Vec<KeyPin>,
        anchors: Vec<CertificateDer<'static>>,
    ) -> Self {
        Self {
            inner,
            pins,
            anchors,
        }
    }

    fn is_pinned(&self, certificate: &CertificateDer<'_>) -> bool {
        X509Certificate::from_der(certificate)
            .is_ok_and(|(_, parsed)| self.pins.contains(&KeyPin::of(parsed.public_key().raw)))
    }
}

impl ServerCertVerifier for PinnedKeys {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        if self.is_pinned(end_entity) {
            return Ok(verified);
        }
        let shown = intermediates.iter().take(CHAIN_MAX);
        let pinned: Vec<CertificateDer<'static>> = shown
            .chain(&self.anchors)
            .filter(|c| self.is_pinned(c))
            .map(|c| c.clone().into_owned())
            .collect();
        let not_pinned = || CertificateError::Other(OtherError(Arc::new(NotPinned)));
        if pinned.is_empty() {
            return Err(not_pinned().into());
        }
        believing(&pinned)?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .map_err(|_| not_pinned().into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
