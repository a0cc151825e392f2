//! A verifier that trusts exactly the certificate authority whose digest is known.
//!
//! The first contact with a plane needs no public authority: the token carries the SHA-256 of the
//! plane's CA certificate. The server must show that certificate in its chain, and its own
//! certificate must be issued by it, be in date and carry the name that was dialled. Where the
//! operator named further authorities (`comms.tls.ca_file`), one of those may have issued it instead.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};

use super::policy::believing;
use crate::model::Digest;

/// See the module.
#[derive(Debug)]
pub(super) struct PinnedAuthority {
    authority: Digest,
    extra: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl PinnedAuthority {
    pub(super) fn new(authority: Digest, extra: Vec<CertificateDer<'static>>) -> Self {
        Self {
            authority,
            extra,
            provider: crate::tls::provider(),
        }
    }
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut anchors = self.extra.clone();
        let shown = intermediates
            .iter()
            .find(|cert| Digest::of(cert) == self.authority);
        anchors.extend(shown.map(|cert| cert.clone().into_owned()));
        if anchors.is_empty() {
            return Err(CertificateError::UnknownIssuer.into());
        }
        believing(&anchors)?.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )
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
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
