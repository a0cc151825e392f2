//! [`Identity`]: what a host needs to be itself.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::model::{
    Digest, EnrolAnswer, HostId, MachineMarks, Secret, TrustStore, TrustVersion, TrustedKey,
};

/// Everything enrolment yields; checked to belong together.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The host's id.
    pub host_id: HostId,
    /// Private key, PKCS#8 PEM. Made here, never sent.
    pub key: Secret<String>,
    /// The host certificate, PEM.
    pub certificate: String,
    /// Authorities of the plane's certificate, PEM.
    pub plane_ca: String,
    /// Keys whose signatures are trusted.
    pub trust: Vec<TrustedKey>,
    /// Where the tunnel connects, best first.
    pub endpoints: Vec<String>,
    /// The version of the plane's document that `plane_ca` and `trust` come from.
    pub trust_version: Option<TrustVersion>,
    /// The machine it was made on.
    pub machine: MachineMarks,
}

/// Most endpoints and trusted keys of one plane; more is no honest answer.
const LIST_MAX: usize = 32;

/// A fresh key (P-256) and a signing request for it, PEM.
pub(super) fn key_and_request(host: HostId) -> Result<(KeyPair, String), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let request = request(&key, host.to_string())?;
    Ok((key, request))
}

/// A signing request of a key, PEM.
pub(super) fn request(key: &KeyPair, common_name: String) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.serialize_request(key)?.pem()
}

impl Identity {
    /// Puts key and answer together; says in words what does not fit.
    pub(super) fn assemble(
        host_id: HostId,
        key: &KeyPair,
        answer: EnrolAnswer,
        authority: Digest,
        machine: MachineMarks,
    ) -> Result<Self, String> {
        if answer.schema != 1 {
            return Err(format!("schema {} is not 1", answer.schema));
        }
        check_certificate(&answer.certificate, host_id, key)?;
        let authorities = parse_all(&answer.ca)?;
        if !authorities.iter().any(|a| Digest::of(a) == authority) {
            return Err("its authorities do not include the one the token names".to_owned());
        }
        if answer.trust.is_empty() || answer.trust.len() > LIST_MAX {
            return Err(format!("it names {} signing keys", answer.trust.len()));
        }
        TrustStore::new(answer.trust.clone()).map_err(|fault| fault.to_string())?;
        if answer.endpoints.is_empty() || answer.endpoints.len() > LIST_MAX {
            return Err(format!("it names {} endpoints", answer.endpoints.len()));
        }
        if let Some(bad) = answer.endpoints.iter().find(|e| !e.starts_with("wss://")) {
            return Err(format!("endpoint {bad:?} is not a wss:// URL"));
        }
        Ok(Self {
            host_id,
            key: Secret::new(key.serialize_pem()),
            certificate: answer.certificate,
            plane_ca: answer.ca,
            trust: answer.trust,
            endpoints: answer.endpoints,
            trust_version: answer.trust_version,
            machine,
        })
    }
}

/// All certificates of a PEM text; at least one.
pub(super) fn parse_all(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("a certificate is not PEM: {e}"))?;
    if all.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(all)
}

pub(super) fn check_certificate(pem: &str, host: HostId, key: &KeyPair) -> Result<(), String> {
    let chain = parse_all(pem)?;
    let leaf = chain.first().map(AsRef::as_ref).unwrap_or_default();
    let (_, cert) = X509Certificate::from_der(leaf)
        .map_err(|e| format!("the host certificate cannot be read: {e}"))?;
    if cert.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err("the host certificate is for another key".to_owned());
    }
    let names: Vec<_> = cert
        .subject()
        .iter_common_name()
        .filter_map(|n| n.as_str().ok())
        .collect();
    if names != [host.to_string().as_str()] {
        return Err(format!("the host certificate names {names:?}, not {host}"));
    }
    Ok(())
}
