//! The host's key with its certificate: the pair in use, and the one that is to follow it.
//!
//! ```text
//!  ask ─► next.pem ─ shown to the plane ─► key.pem ─ cert.pem ─ next.pem is gone
//!             └ does not work ─► next.pem is gone
//! ```
//!
//! The next pair is one file, so it is there whole or not at all. Taking it over replaces two files,
//! and a crash between them leaves the key of one pair with the certificate of the other: then the
//! next pair is the one that counts, because it is taken over only after the plane has seen it.

use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::material;
use super::store::{FILE_MAX, IdentityError, damaged, host_id};
use crate::host::fs::{Attrs, FsError, HostFs};
use crate::model::{Digest, EnrolRequest, HostId, Life, RenewAnswer, Secret, Timestamp, paths};

/// A key and the certificate for it, checked to belong together and to name the host.
#[derive(Clone, Debug)]
pub struct Pair {
    /// PKCS#8 PEM.
    pub(super) key: Secret<String>,
    /// PEM, the host's own first.
    pub(super) certificate: String,
    /// SHA-256 of the certificate.
    pub digest: Digest,
    /// When it is good.
    pub life: Life,
}

/// A fresh key, and the request that is made for it.
pub struct NewKey {
    host: HostId,
    key: KeyPair,
    /// PKCS#10, PEM.
    pub csr: String,
}

// === impl NewKey ===

impl NewKey {
    /// A fresh key for this host.
    pub fn make(host: HostId) -> Result<Self, rcgen::Error> {
        let (key, csr) = material::key_and_request(host)?;
        Ok(Self { host, key, csr })
    }

    /// The pair, if the plane's answer fits; else in words why not.
    pub fn with(&self, answer: &RenewAnswer) -> Result<Pair, String> {
        if answer.schema != 1 {
            return Err(format!("schema {} is not 1", answer.schema));
        }
        Pair::of(self.host, &self.key.serialize_pem(), &answer.certificate)
    }
}

// === impl Pair ===

impl Pair {
    fn of(host: HostId, key: &str, certificate: &str) -> Result<Self, String> {
        let parsed = KeyPair::from_pem(key).map_err(|e| format!("the key cannot be read: {e}"))?;
        material::check_certificate(certificate, host, &parsed)?;
        let chain = material::parse_all(certificate)?;
        let leaf = chain.first().map(AsRef::as_ref).unwrap_or_default();
        Ok(Self {
            key: Secret::new(key.to_owned()),
            certificate: certificate.to_owned(),
            digest: Digest::of(leaf),
            life: life(leaf).ok_or("the time of the host certificate cannot be read")?,
        })
    }

    #[cfg(test)]
    pub(super) fn of_nobody() -> Self {
        Self {
            key: Secret::new(String::new()),
            certificate: String::new(),
            digest: Digest::of(b"certificate"),
            life: Life {
                not_before: Timestamp::MIN,
                not_after: Timestamp::MAX,
            },
        }
    }

    fn text(&self) -> Secret<String> {
        Secret::new(format!("{}{}", self.key.expose(), self.certificate))
    }
}

/// Spreads the renewals of a fleet: from 0 to 1, the same at every look.
pub(super) fn jitter(certificate: &Digest) -> f64 {
    let [a, b, ..] = certificate.0;
    f64::from(u16::from_be_bytes([a, b])) / f64::from(u16::MAX)
}

/// When a certificate, DER, is good.
pub(super) fn life(der: &[u8]) -> Option<Life> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let at = |t: x509_parser::time::ASN1Time| {
        // "No well-defined end" is beyond what our clock can say.
        Timestamp::from_second(t.timestamp()).unwrap_or(Timestamp::MAX)
    };
    Some(Life {
        not_before: at(parsed.validity().not_before),
        not_after: at(parsed.validity().not_after),
    })
}

/// Reads of the pair in use until one falls between two take-overs. A take-over is three writes, and
/// renewals lie hours apart: a second read suffices, the others are for a machine that stalls.
const READS_MAX: usize = 5;

/// The pair in use; `None` while the host is not enrolled.
///
/// A reader beside comms may find the old certificate, and then the key that has followed it: a
/// certificate that is another one by now is no damage, and the pair is read again. A lock was
/// rejected: a reader must not be able to hold up a renewal.
pub(super) fn present(fs: &HostFs) -> Result<Option<Pair>, IdentityError> {
    let mut certificate = fs.read_text(paths::HOST_CERT, FILE_MAX)?;
    let mut reads = 1;
    loop {
        let Some(text) = certificate else {
            return Ok(None);
        };
        let found = with_key(fs, &text);
        certificate = fs.read_text(paths::HOST_CERT, FILE_MAX)?;
        if found.is_ok() || reads == READS_MAX || certificate.as_ref() == Some(&text) {
            return found.map(Some);
        }
        reads += 1;
    }
}

/// This certificate with the key on the disk, or the pair that is being taken over.
fn with_key(fs: &HostFs, certificate: &str) -> Result<Pair, IdentityError> {
    let need = |path: &'static str| {
        fs.read_text(path, FILE_MAX)?
            .ok_or(IdentityError::Incomplete(path))
    };
    let host = host_id(fs)?.ok_or(IdentityError::Incomplete(paths::HOST_ID))?;
    let key = need(paths::HOST_KEY)?;
    match Pair::of(host, &key, certificate) {
        Ok(pair) => Ok(pair),
        Err(why) => match next(fs)? {
            // Between the two files of a take-over.
            Some(next) if *next.key.expose() == key => Ok(next),
            Some(_) | None => {
                let path = match KeyPair::from_pem(&key) {
                    Ok(_) => paths::HOST_CERT,
                    Err(_) => paths::HOST_KEY,
                };
                Err(damaged(path, why))
            }
        },
    }
}

/// The pair that is to follow. One that cannot be used is none: another is asked for.
pub(super) fn next(fs: &HostFs) -> Result<Option<Pair>, IdentityError> {
    let (Some(text), Some(host)) = (fs.read_text(paths::HOST_NEXT, FILE_MAX)?, host_id(fs)?) else {
        return Ok(None);
    };
    const CERTIFICATES: &str = "-----BEGIN CERTIFICATE-----";
    let (key, certificate) = text.split_at(text.find(CERTIFICATES).unwrap_or(text.len()));
    Ok(Pair::of(host, key, certificate)
        .inspect_err(|why| tracing::warn!(path = paths::HOST_NEXT, why, "cannot be used"))
        .ok())
}

/// Keeps the pair that is to follow beside the one in use.
pub fn keep_next(fs: &HostFs, pair: &Pair) -> Result<(), FsError> {
    let text = pair.text();
    fs.write(
        paths::HOST_NEXT,
        text.expose().as_bytes(),
        &Attrs::mode(0o400),
    )
}

/// Nothing is to follow the pair in use.
pub fn drop_next(fs: &HostFs) -> Result<(), FsError> {
    fs.remove_file(paths::HOST_NEXT)
}

type Write = fn(&HostFs, &Pair) -> Result<(), FsError>;

/// What taking over is made of. After each of them there is a pair that works.
const TAKE_OVER: [Write; 3] = [
    |fs, pair| {
        let key = pair.key.expose().as_bytes();
        fs.write(paths::HOST_KEY, key, &Attrs::mode(0o400))
    },
    |fs, pair| {
        let certificate = pair.certificate.as_bytes();
        fs.write(paths::HOST_CERT, certificate, &Attrs::mode(0o444))
    },
    |fs, _| drop_next(fs),
];

/// The next pair becomes the one in use. Only after the plane has seen it.
pub fn take_over(fs: &HostFs, pair: &Pair) -> Result<(), FsError> {
    TAKE_OVER.iter().try_for_each(|step| step(fs, pair))
}

/// Ends a take-over that a crash cut off; answers the pair that still waits for the plane to see it.
pub fn settle(fs: &HostFs) -> Result<Option<Pair>, IdentityError> {
    let Some(next) = next(fs)? else {
        // Also what cannot be used.
        drop_next(fs)?;
        return Ok(None);
    };
    let used = present(fs)?.is_some_and(|now| now.digest == next.digest);
    if used {
        take_over(fs, &next)?;
    }
    Ok((!used).then_some(next))
}

/// Proves to a plane that this machine holds the key it has pinned, for one enrolment.
pub fn possession(fs: &HostFs, token: &Secret<String>, host: HostId, csr: &str) -> Option<String> {
    let pair = present(fs).ok().flatten()?;
    let key = KeyPair::from_pem(pair.key.expose()).ok()?;
    let statement = EnrolRequest::possession(token, host, csr).to_string();
    material::request(&key, statement).ok()
}

/// Whether this authority signed this certificate, both DER. Authorities may share a name, so the
/// signature is what tells.
pub(super) fn issued(authority: &[u8], certificate: &[u8]) -> bool {
    let parsed = |der| X509Certificate::from_der(der).map(|(_, parsed)| parsed);
    let (Ok(authority), Ok(certificate)) = (parsed(authority), parsed(certificate)) else {
        return false;
    };
    let key = authority.public_key();
    certificate.verify_signature(Some(key)).is_ok()
}

/// The end of each authority of a bundle.
pub(super) fn ends(authorities: &[CertificateDer<'_>]) -> Vec<Life> {
    authorities.iter().filter_map(|a| life(a)).collect()
}

#[cfg(test)]
mod tests;
