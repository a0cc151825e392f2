//! A client certificate verifier that accepts one defect: an expired certificate.
//!
//! A machine that slept past the expiry of its certificate could not even identify itself; TLS would reject it before
//! the plane could look. It is admitted with very few rights: [`super::hostkey::standing`]. Authority, signature, usage
//! and possession of the key are checked as usual, at the last moment the certificate was valid.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::ca;

/// See the module.
#[derive(Debug)]
pub(super) struct ExpiryExcused {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ExpiryExcused {
    pub(super) fn new(inner: Arc<dyn ClientCertVerifier>) -> Self {
        Self { inner }
    }
}

/// The last moment of a certificate that has expired.
fn last_moment(end_entity: &[u8], now: UnixTime) -> Option<UnixTime> {
    let end = ca::life(end_entity)?.not_after.as_second();
    let end = Duration::from_secs(u64::try_from(end).ok()?);
    let end = UnixTime::since_unix_epoch(end);
    (end < now).then_some(end)
}

impl ClientCertVerifier for ExpiryExcused {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .inner
            .verify_client_cert(end_entity, intermediates, now);
        match (&verified, last_moment(end_entity, now)) {
            (
                Err(Error::InvalidCertificate(
                    CertificateError::Expired | CertificateError::ExpiredContext { .. },
                )),
                Some(then),
            ) => self
                .inner
                .verify_client_cert(end_entity, intermediates, then),
            _ => verified,
        }
    }

    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
