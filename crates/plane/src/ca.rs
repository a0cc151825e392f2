//! Certificate authorities: the plane's own and three per cluster; requests and leaves.
//!
//! Only the public key of a request is used, after its signature proved that the requester holds the private key.
//! Subject and extensions of a request never get into a certificate: its content is decided here, by a [`Leaf`].

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PublicKeyData, RevocationReason, RevokedCertParams, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use x509_parser::prelude::FromDer;

use super::secrets;
use pf9_hostagent::model::{
    BACKDATED, CertProfile, Digest, Life, NodeUid, REVOKED_LABEL, Secret, UID_ATTRIBUTE,
    backdating, pem_bytes,
};

/// Lifetime of an authority: longer than a fleet's; its replacement is a rotation.
const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
/// Lifetime of certificates for nodes; never beyond the authority's own end.
pub(super) const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Longest request that is parsed: RSA-4096 with extensions is 2 KiB.
const CSR_MAX: usize = 16 * 1024;
/// Shortest RSA key.
const RSA_BITS_MIN: usize = 2048;

/// An authority: its certificate and its private key.
pub(super) struct Authority {
    pem: String,
    der: Vec<u8>,
    not_before: Timestamp,
    not_after: Timestamp,
    issuer: Issuer<'static, KeyPair>,
}

/// Content of a certificate.
pub(super) struct Leaf {
    pub(super) common_name: String,
    pub(super) organisations: Vec<String>,
    pub(super) uid: Option<NodeUid>,
    pub(super) sans: BTreeSet<String>,
    pub(super) server: bool,
    pub(super) client: bool,
    pub(super) life: SignedDuration,
}

/// A public key whose holder proved to have the private key.
pub(super) struct ProvenKey {
    key: SubjectPublicKeyInfo,
    digest: Digest,
    named: Option<String>,
}

/// Why no certificate is issued.
#[derive(Debug, thiserror::Error)]
pub(super) enum CaError {
    /// The request cannot be read.
    #[error("the signing request is not a PKCS#10 PEM of at most {CSR_MAX} bytes")]
    Unreadable,
    /// The requester does not hold the private key.
    #[error("the signature of the signing request is wrong")]
    Unproven,
    /// A key that is too weak or of an unknown kind.
    #[error("the key of the signing request is {0}")]
    Weak(&'static str),
    /// The library refused.
    #[error("cannot make the certificate")]
    Library(#[from] rcgen::Error),
    /// A stored certificate cannot be read back.
    #[error("the authority's certificate is damaged")]
    Damaged,
    /// The authority is about to expire.
    #[error("the authority expires at {0}")]
    Ended(Timestamp),
    /// No serial number can be drawn.
    #[error("cannot generate a serial number")]
    Random(#[from] secrets::NoRandomness),
}

// === impl Authority ===

impl Authority {
    /// A new authority; also returns its private key as PKCS#8 PEM.
    pub(super) fn generate(name: &str, now: Timestamp) -> Result<(Self, Secret<String>), CaError> {
        let key = KeyPair::generate()?;
        let pem = Secret::new(key.serialize_pem());
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params.serial_number = Some(serial()?);
        set_life(&mut params, now - BACKDATED, now + AUTHORITY_LIFE);
        let certificate = params.self_signed(&key)?.pem();
        Ok((Self::load(&certificate, &pem)?, pem))
    }

    /// Reads a stored authority.
    pub(super) fn load(certificate: &str, key: &Secret<String>) -> Result<Self, CaError> {
        let key = KeyPair::from_pem(key.expose())?;
        let der = der_of(certificate).ok_or(CaError::Damaged)?;
        let life = life(&der).ok_or(CaError::Damaged)?;
        Ok(Self {
            pem: certificate.to_owned(),
            issuer: Issuer::from_ca_cert_der(&der.as_slice().into(), key)?,
            der,
            not_before: life.not_before,
            not_after: life.not_after,
        })
    }

    /// The certificate, PEM.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificate, DER.
    pub(super) fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether this authority signed a certificate, DER. Authorities may share a name, so the signature decides.
    pub(super) fn has_issued(&self, certificate: &[u8]) -> bool {
        use x509_parser::certificate::X509Certificate;
        let Ok((_, own)) = X509Certificate::from_der(&self.der) else {
            return false;
        };
        X509Certificate::from_der(certificate)
            .is_ok_and(|(_, leaf)| leaf.verify_signature(Some(own.public_key())).is_ok())
    }

    /// Signs this authority's revocation list, PEM. It is valid as long as the authority: a new one is made with the
    /// next revocation, and a list that expired on its own would lock everybody out.
    pub(super) fn revoke<'a>(
        &self,
        serials: impl IntoIterator<Item = &'a str>,
        now: Timestamp,
    ) -> Result<String, CaError> {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let revoked = |serial: &str| {
            let number = SerialNumber::from_slice(&hex_bytes(serial).ok_or(CaError::Damaged)?);
            Ok(RevokedCertParams {
                serial_number: number,
                revocation_time: epoch + since_epoch(now),
                reason_code: Some(RevocationReason::PrivilegeWithdrawn),
                invalidity_date: None,
            })
        };
        let revoked: Result<Vec<_>, CaError> = serials.into_iter().map(revoked).collect();
        let params = CertificateRevocationListParams {
            this_update: epoch + since_epoch((now - BACKDATED).max(self.not_before)),
            next_update: epoch + since_epoch(self.not_after),
            // Rising: microseconds since 1970.
            crl_number: SerialNumber::from(u64::try_from(now.as_microsecond()).unwrap_or(0)),
            issuing_distribution_point: None,
            revoked_certs: revoked?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }

    /// Whether a list made by [`Self::revoke`], PEM, is signed by this authority and contains all of these.
    pub(super) fn has_revoked(&self, list: &str, serials: &[&str]) -> bool {
        use x509_parser::certificate::X509Certificate;
        use x509_parser::revocation_list::CertificateRevocationList;
        let Some(der) = pem_bytes(list, REVOKED_LABEL) else {
            return false;
        };
        let (Ok((_, list)), Ok((_, own))) = (
            CertificateRevocationList::from_der(&der),
            X509Certificate::from_der(&self.der),
        ) else {
            return false;
        };
        // Leading zeros of a number do not count.
        let number = |bytes: &[u8]| {
            let zeros = bytes.iter().take_while(|b| **b == 0).count();
            bytes.get(zeros..).unwrap_or_default().to_vec()
        };
        let named: BTreeSet<Vec<u8>> = list
            .iter_revoked_certificates()
            .map(|r| number(r.raw_serial()))
            .collect();
        list.verify_signature(own.public_key()).is_ok()
            && serials
                .iter()
                .all(|serial| hex_bytes(serial).is_some_and(|b| named.contains(&number(&b))))
    }

    /// Signs a certificate.
    pub(super) fn issue(
        &self,
        key: &impl PublicKeyData,
        leaf: &Leaf,
        now: Timestamp,
    ) -> Result<Issued, CaError> {
        if now + BACKDATED >= self.not_after {
            return Err(CaError::Ended(self.not_after));
        }
        let mut params = CertificateParams::default();
        let names: Vec<&str> = leaf.organisations.iter().map(String::as_str).collect();
        params.distinguished_name = subject(&leaf.common_name, &names);
        if let Some(uid) = leaf.uid {
            let kind = DnType::CustomDnType(UID_ATTRIBUTE.to_vec());
            params.distinguished_name.push(kind, uid.to_string());
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        if leaf.server {
            params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if leaf.client {
            params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
        }
        for san in &leaf.sans {
            params.subject_alt_names.push(match san.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(san.as_str().try_into()?),
            });
        }
        params.use_authority_key_identifier_extension = true;
        let serial = serial()?;
        params.serial_number = Some(serial.clone());
        let not_after = (now + leaf.life).min(self.not_after);
        set_life(
            &mut params,
            (now - backdating(leaf.life)).max(self.not_before),
            not_after,
        );
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(Issued {
            pem: certificate.pem(),
            digest: Digest::of(certificate.der()),
            serial: hex(&serial.to_bytes()),
            der: certificate.der().to_vec(),
            not_after,
        })
    }
}

/// An issued certificate.
pub(super) struct Issued {
    pub(super) pem: String,
    pub(super) der: Vec<u8>,
    /// SHA-256 of the DER.
    pub(super) digest: Digest,
    /// Its serial number, in hex digits.
    pub(super) serial: String,
    pub(super) not_after: Timestamp,
}

// === impl Leaf ===

impl Leaf {
    /// A node's certificate, as the shared table defines it.
    pub(super) fn of_profile(profile: CertProfile, life: SignedDuration) -> Self {
        Self {
            common_name: profile.common_name,
            organisations: profile.organisations,
            uid: profile.uid,
            sans: profile.sans,
            server: profile.server,
            client: profile.client,
            life,
        }
    }

    /// A client without subject alternative names: a host at the tunnel, or the plane at an API server.
    pub(super) fn client(name: &str, groups: &[&str], life: SignedDuration) -> Self {
        Self {
            common_name: name.to_owned(),
            organisations: groups.iter().map(|g| (*g).to_owned()).collect(),
            uid: None,
            sans: BTreeSet::new(),
            server: false,
            client: true,
            life,
        }
    }
}

// === impl ProvenKey ===

impl ProvenKey {
    /// Extracts the public key of a request, after checking that the requester holds the private key.
    pub(super) fn from_csr(pem: &str) -> Result<Self, CaError> {
        if pem.len() > CSR_MAX {
            return Err(CaError::Unreadable);
        }
        let (_, block) =
            x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| CaError::Unreadable)?;
        if !block.label.ends_with("CERTIFICATE REQUEST") {
            return Err(CaError::Unreadable);
        }
        let (rest, csr) =
            x509_parser::certification_request::X509CertificationRequest::from_der(&block.contents)
                .map_err(|_| CaError::Unreadable)?;
        if !rest.is_empty() {
            return Err(CaError::Unreadable);
        }
        csr.verify_signature().map_err(|_| CaError::Unproven)?;
        let spki = &csr.certification_request_info.subject_pki;
        check_strength(spki)?;
        let key = SubjectPublicKeyInfo::from_der(spki.raw)
            .map_err(|_| CaError::Weak("of an unknown kind"))?;
        let subject = &csr.certification_request_info.subject;
        let named = subject.iter_common_name().next().map(|n| n.as_str());
        Ok(Self {
            key,
            digest: Digest::of(spki.raw),
            named: named.and_then(Result::ok).map(str::to_owned),
        })
    }

    /// The common name in the request: what a host claims, never used as its name.
    pub(super) fn states(&self) -> Option<&str> {
        self.named.as_deref()
    }

    /// SHA-256 of the public key.
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }
}

impl PublicKeyData for ProvenKey {
    fn der_bytes(&self) -> &[u8] {
        self.key.der_bytes()
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.key.algorithm()
    }
}

fn check_strength(spki: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Result<(), CaError> {
    use x509_parser::public_key::PublicKey;
    match spki.parsed() {
        Ok(PublicKey::RSA(rsa)) if rsa.key_size() < RSA_BITS_MIN => {
            Err(CaError::Weak("RSA of fewer than 2048 bits"))
        }
        Ok(PublicKey::RSA(_) | PublicKey::EC(_)) => Ok(()),
        // Ed25519 parses as unknown; rcgen recognises it by its identifier.
        Ok(PublicKey::Unknown(_)) => Ok(()),
        Ok(PublicKey::DSA(_) | PublicKey::GostR3410(_) | PublicKey::GostR3410_2012(_)) | Err(_) => {
            Err(CaError::Weak("of an unknown kind"))
        }
    }
}

/// Whether `pem` is one public key, the form in which service-account keys are reported.
pub(super) fn is_public_key(pem: &str) -> bool {
    x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .ok()
        .filter(|(_, block)| block.label == "PUBLIC KEY")
        .is_some_and(|(_, block)| {
            x509_parser::x509::SubjectPublicKeyInfo::from_der(&block.contents)
                .is_ok_and(|(rest, spki)| rest.is_empty() && check_strength(&spki).is_ok())
        })
}

/// The DER of the first certificate in `pem`.
pub(super) fn der_of(pem: &str) -> Option<Vec<u8>> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    (block.label == "CERTIFICATE").then_some(block.contents)
}

/// The common name of a certificate, DER.
pub(super) fn common_name(der: &[u8]) -> Option<String> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(der).ok()?;
    let name = parsed.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

/// When a certificate, DER, expires.
pub(super) fn not_after(der: &[u8]) -> Option<Timestamp> {
    life(der).map(|life| life.not_after)
}

/// The validity of a certificate, DER.
pub(super) fn life(der: &[u8]) -> Option<Life> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(der).ok()?;
    let at = |t: x509_parser::time::ASN1Time| Timestamp::from_second(t.timestamp()).ok();
    Some(Life {
        not_before: at(parsed.validity().not_before)?,
        not_after: at(parsed.validity().not_after)?,
    })
}

fn subject(name: &str, organisations: &[&str]) -> DistinguishedName {
    let mut out = DistinguishedName::new();
    for group in organisations {
        out.push(DnType::OrganizationName, *group);
    }
    out.push(DnType::CommonName, name);
    out
}

fn serial() -> Result<SerialNumber, CaError> {
    let mut bytes = secrets::random::<16>()?;
    // Positive and of fixed length: the first bits are fixed.
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

/// Validity, in rcgen's own time type.
fn set_life(params: &mut CertificateParams, from: Timestamp, until: Timestamp) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(from);
    params.not_after = epoch + since_epoch(until);
}

fn since_epoch(time: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn hex_bytes(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::pem::PemObject;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).expect("time")
    }

    fn csr(key: &KeyPair) -> String {
        let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).expect("params");
        params.distinguished_name = subject("system:masters", &["system:masters"]);
        params
            .serialize_request(key)
            .expect("csr")
            .pem()
            .expect("pem")
    }

    #[test]
    fn a_leaf_has_the_decided_content_and_nothing_from_the_request() {
        let (ca, key_pem) = Authority::generate("test ca", now()).expect("ca");
        let ca = Authority::load(ca.pem(), &key_pem).expect("load");
        let key = KeyPair::generate().expect("key");
        let proven = ProvenKey::from_csr(&csr(&key)).expect("csr");
        let leaf = Leaf {
            common_name: "me".into(),
            organisations: vec!["group".into()],
            uid: None,
            sans: ["10.0.0.1".to_owned(), "a.example".to_owned()].into(),
            server: true,
            client: false,
            life: LEAF_LIFE,
        };
        let issued = ca.issue(&proven, &leaf, now()).expect("issue");
        assert_eq!(common_name(&issued.der).as_deref(), Some("me"));
        let says = life(&issued.der).expect("life");
        assert_eq!((says.begun(), says.not_after), (now(), issued.not_after));
        assert_eq!(life(b"no certificate"), None);
        let (_, x) = x509_parser::certificate::X509Certificate::from_der(&issued.der).expect("x");
        assert_eq!(x.subject().to_string(), "O=group, CN=me");
        assert_eq!(x.public_key().raw, key.subject_public_key_info());
        let (_, parent) = x509_parser::certificate::X509Certificate::from_der(ca.der()).expect("x");
        x.verify_signature(Some(parent.public_key()))
            .expect("signature");
        assert!(!x.is_ca());
        assert_eq!(issued.not_after, now() + LEAF_LIFE);
        assert_eq!(der_of(&issued.pem), Some(issued.der.clone()));
        let pem = rustls_pki_types::CertificateDer::from_pem_slice(issued.pem.as_bytes());
        assert_eq!(pem.expect("pem").as_ref(), issued.der);
    }

    #[test]
    fn no_leaf_outlives_its_authority() {
        let (ca, _) = Authority::generate("test ca", now()).expect("ca");
        let key = KeyPair::generate().expect("key");
        let leaf = Leaf::client("x", &[], LEAF_LIFE);
        let late = now() + AUTHORITY_LIFE - SignedDuration::from_hours(1);
        let issued = ca.issue(&key, &leaf, late).expect("issue");
        assert_eq!(issued.not_after, now() + AUTHORITY_LIFE);
        let over = ca.issue(&key, &leaf, now() + AUTHORITY_LIFE);
        assert!(matches!(over, Err(CaError::Ended(_))));
    }

    #[test]
    fn a_request_that_proves_nothing_is_refused() {
        let key = KeyPair::generate().expect("key");
        let good = csr(&key);
        assert!(ProvenKey::from_csr(&good).is_ok());
        assert!(matches!(
            ProvenKey::from_csr("hello"),
            Err(CaError::Unreadable)
        ));
        let long = "x".repeat(CSR_MAX + 1);
        assert!(matches!(
            ProvenKey::from_csr(&long),
            Err(CaError::Unreadable)
        ));
        // The signature is last in a request: one changed bit there proves nothing.
        let (_, block) = x509_parser::pem::parse_x509_pem(good.as_bytes()).expect("pem");
        let mut der = block.contents;
        *der.last_mut().expect("bytes") ^= 1;
        let forged = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der)
        );
        assert!(ProvenKey::from_csr(&forged).is_err());
    }

    #[test]
    fn public_keys_are_told_from_other_pem() {
        let key = KeyPair::generate().expect("key");
        assert!(is_public_key(&key.public_key_pem()));
        assert!(!is_public_key(&key.serialize_pem()));
        assert!(!is_public_key("x"));
    }
}
