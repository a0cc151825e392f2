//! Keys, requests and certificates of the node.
//!
//! A private key is made here and never leaves. A certificate counts only when it belongs to the
//! key, is signed by an authority the spec trusts and says exactly what its profile says: the
//! plane is trusted for nothing that the signed spec does not say. Which authority should have
//! signed it, and whether it has expired, is judged where the next request is decided.

use std::collections::{BTreeMap, BTreeSet};

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use super::phase::{AuthoritySeen, CertificateSeen, Material};
use crate::host::fs::{Attrs, Found, FsError, HostFs};
use crate::host::refusals;
use crate::host::unchanged::Unchanged;
use crate::model::{
    Authority, CertProfile, CertPurpose, CertificateBatch, CertificateRequest, Digest, Fault,
    FaultCode, NodeSpec, Role, Timestamp, UID_ATTRIBUTE, paths,
};
use crate::telemetry::chain;

/// Keys, requests and certificates are a few KiB; an authority may be a chain.
const PEM_MAX: u64 = 256 * 1024;
/// A certificate whose life begins this much later than our clock says is still trusted: clocks
/// of two machines differ.
const CLOCK_SLACK_S: i64 = 600;

/// Each sweep asks for all of them, and they change a few times a year. What is kept holds no private key.
static MATERIAL: Unchanged<Material> = Unchanged::new();
static HAS_KEY: Unchanged<bool> = Unchanged::new();
static SERVICE_ACCOUNT: Unchanged<Option<String>> = Unchanged::new();

/// Why a certificate is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadCertificate {
    /// Not PEM, or not one certificate.
    #[error("it is not a certificate")]
    Unreadable,
    /// Made for another key.
    #[error("it does not belong to the key of this node")]
    OtherKey,
    /// Signed by another authority.
    #[error("it is not signed by the cluster's {0} authority")]
    Issuer(Authority),
    /// It says something else than its profile.
    #[error("its {field} is {found}, not {want}")]
    Profile {
        /// Which field.
        field: &'static str,
        /// What it says.
        found: String,
        /// What it must say.
        want: String,
    },
    /// Expired, or not yet valid.
    #[error("it is valid from {not_before} to {not_after}, now is {now}")]
    Time {
        /// Begin.
        not_before: Timestamp,
        /// End.
        not_after: Timestamp,
        /// The host's clock.
        now: Timestamp,
    },
}

/// Path of a file in a purpose's directory.
pub fn path_of(purpose: CertPurpose, file: &str) -> String {
    format!("{}/{}/{file}", paths::KUBE_CERTS, purpose.dir())
}

/// What is on the host for every purpose of a role.
pub fn material(
    fs: &HostFs,
    role: Role,
    node: &NodeSpec,
) -> Result<BTreeMap<CertPurpose, Material>, FsError> {
    let spec = serde_json::to_vec(node).map(|spec| Digest::of(&spec)).ok();
    let seen = |purpose: CertPurpose| {
        let Some(spec) = spec else {
            return material_of(fs, purpose, node);
        };
        let files = [paths::CERT_KEY_FILE, paths::CERT_CSR_FILE, paths::CERT_FILE];
        let files = files.map(|file| fs.at(path_of(purpose, file)));
        MATERIAL.get(&files, Some(spec), || material_of(fs, purpose, node))
    };
    CertPurpose::ALL
        .iter()
        .filter(|p| p.applies_to(role))
        .map(|p| Ok((*p, seen(*p)?)))
        .collect()
}

/// The certificate that is in use for a purpose.
pub fn in_use(
    fs: &HostFs,
    purpose: CertPurpose,
    node: &NodeSpec,
) -> Result<Option<CertificateSeen>, FsError> {
    Ok(material_of(fs, purpose, node)?.certificate)
}

/// Makes a key and its request where there is none. A key that is there is kept.
pub fn make_key(fs: &HostFs, purpose: CertPurpose, node: &NodeSpec) -> Result<(), Fault> {
    let what = format!("cannot make the key for {}", purpose.dir());
    let fail = |e: &(dyn std::error::Error + 'static)| refusals::fault(FaultCode::Key, &what, e);
    let key_path = path_of(purpose, paths::CERT_KEY_FILE);
    let key = match read_key(fs, &key_path).map_err(|e| fail(&e))? {
        Some(key) => key,
        None => {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| fail(&e))?;
            fs.write(
                &key_path,
                key.serialize_pem().as_bytes(),
                &Attrs::mode(0o600),
            )
            .map_err(|e| fail(&e))?;
            key
        }
    };
    let mut params = CertificateParams::default();
    // For people who look at the request; the plane signs by its own table.
    params
        .distinguished_name
        .push(DnType::CommonName, purpose.profile(node).common_name);
    let request = params.serialize_request(&key).map_err(|e| fail(&e))?;
    let pem = request.pem().map_err(|e| fail(&e))?;
    fs.write(
        path_of(purpose, paths::CERT_CSR_FILE),
        pem.as_bytes(),
        &Attrs::mode(0o644),
    )
    .map_err(|e| fail(&e))
}

/// True when key and request are there and belong together.
pub fn has_key(fs: &HostFs, purpose: CertPurpose) -> Result<bool, FsError> {
    let path = path_of(purpose, paths::CERT_KEY_FILE);
    let files = [&path, &path_of(purpose, paths::CERT_CSR_FILE)].map(|file| fs.at(file));
    HAS_KEY.get(&files, None, || {
        if !matches!(fs.found(&path)?, Found::File { mode: 0o600, .. }) {
            return Ok(false);
        }
        let Some(key) = read_key(fs, &path)? else {
            return Ok(false);
        };
        Ok(request_of(fs, purpose, &key)?.is_some())
    })
}

/// Makes the service-account key pair where there is none.
pub fn make_service_account_key(fs: &HostFs) -> Result<(), Fault> {
    let fail = |e: &(dyn std::error::Error + 'static)| {
        refusals::fault(FaultCode::Key, "cannot generate the service-account key", e)
    };
    let key = match read_key(fs, paths::SERVICE_ACCOUNT_KEY).map_err(|e| fail(&e))? {
        Some(key) => key,
        None => {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| fail(&e))?;
            let pem = key.serialize_pem();
            fs.write(
                paths::SERVICE_ACCOUNT_KEY,
                pem.as_bytes(),
                &Attrs::mode(0o600),
            )
            .map_err(|e| fail(&e))?;
            key
        }
    };
    fs.write(
        paths::SERVICE_ACCOUNT_PUBLIC,
        key.public_key_pem().as_bytes(),
        &Attrs::mode(0o644),
    )
    .map_err(|e| fail(&e))
}

/// The public service-account key (PEM), if the pair is whole.
pub fn service_account_key(fs: &HostFs) -> Result<Option<String>, FsError> {
    let files = [paths::SERVICE_ACCOUNT_KEY, paths::SERVICE_ACCOUNT_PUBLIC].map(|file| fs.at(file));
    SERVICE_ACCOUNT.get(&files, None, || {
        let Some(key) = read_key(fs, paths::SERVICE_ACCOUNT_KEY)? else {
            return Ok(None);
        };
        let public = fs.read_text(paths::SERVICE_ACCOUNT_PUBLIC, PEM_MAX)?;
        Ok(public.filter(|p| *p == key.public_key_pem()))
    })
}

/// Verifies certificates from the plane and stores the good ones. All are looked at; the fault
/// names the first bad one.
pub fn accept(
    fs: &HostFs,
    role: Role,
    node: &NodeSpec,
    batch: &CertificateBatch,
    now: Timestamp,
) -> Result<usize, Fault> {
    if batch.cluster_id != node.cluster_id {
        return Err(Fault::new(
            FaultCode::CertificateForeign,
            "certificates refused",
            format!(
                "they are for cluster {}, this node is in {}",
                batch.cluster_id, node.cluster_id
            ),
        ));
    }
    let mut stored = 0;
    let mut first = None;
    for issued in &batch.certificates {
        let result = accept_one(fs, role, node, issued.purpose, &issued.certificate, now);
        match result {
            Ok(()) => stored += 1,
            Err(fault) => drop(first.get_or_insert(fault)),
        }
    }
    first.map_or(Ok(stored), Err)
}

fn accept_one(
    fs: &HostFs,
    role: Role,
    node: &NodeSpec,
    purpose: CertPurpose,
    pem: &str,
    now: Timestamp,
) -> Result<(), Fault> {
    let dir = purpose.dir();
    let refuse = |why: String| {
        Fault::new(
            FaultCode::CertificateRefused,
            format!("certificate for {dir} refused"),
            why,
        )
        .fix("the plane signs a new one; if it does not, check its authorities")
    };
    if !purpose.applies_to(role) {
        return Err(refuse(format!("a {role} has none")));
    }
    let key = read_key(fs, &path_of(purpose, paths::CERT_KEY_FILE))
        .map_err(|e| refuse(chain(&e)))?
        .ok_or_else(|| refuse("there is no key for it on this node".into()))?;
    let seen = check(pem, &key, purpose, node).map_err(|e| refuse(e.to_string()))?;
    in_time(&seen, now).map_err(|e| {
        refuse(e.to_string()).fix(
            "check this machine's clock (timedatectl); it is retried automatically once it is right",
        )
    })?;
    let believed = node.authorities.believed(purpose.profile(node).authority);
    let believed = believed.as_str();
    // The authority first: a certificate never stands beside another's authority.
    for (file, text) in [(paths::CERT_CA_FILE, believed), (paths::CERT_FILE, pem)] {
        let written = fs.write(path_of(purpose, file), text.as_bytes(), &Attrs::mode(0o644));
        written.map_err(|e| match refusals::of(&e) {
            Some((code, fix)) => Fault {
                code,
                ..refuse(chain(&e)).fix(fix)
            },
            None => refuse(chain(&e)),
        })?;
    }
    Ok(())
}

fn material_of(fs: &HostFs, purpose: CertPurpose, node: &NodeSpec) -> Result<Material, FsError> {
    let none = Material {
        request: None,
        certificate: None,
    };
    let Some(key) = read_key(fs, &path_of(purpose, paths::CERT_KEY_FILE))? else {
        return Ok(none);
    };
    let Some(csr) = request_of(fs, purpose, &key)? else {
        return Ok(none);
    };
    let request = Some(CertificateRequest { purpose, csr });
    let pem = fs.read_text(path_of(purpose, paths::CERT_FILE), PEM_MAX)?;
    let certificate = pem.and_then(|pem| check(&pem, &key, purpose, node).ok());
    Ok(Material {
        request,
        certificate,
    })
}

/// Checks everything but time.
fn check(
    pem: &str,
    key: &KeyPair,
    purpose: CertPurpose,
    node: &NodeSpec,
) -> Result<CertificateSeen, BadCertificate> {
    let der =
        CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| BadCertificate::Unreadable)?;
    let (_, cert) = X509Certificate::from_der(&der).map_err(|_| BadCertificate::Unreadable)?;
    if cert.public_key().raw != key.subject_public_key_info() {
        return Err(BadCertificate::OtherKey);
    }
    let profile = purpose.profile(node);
    let issuer = issuer_of(&cert, node.authorities.of(profile.authority))
        .ok_or(BadCertificate::Issuer(profile.authority))?;
    says(&cert, &profile)?;
    let (not_before, not_after) = life_of(&cert).ok_or(BadCertificate::Unreadable)?;
    Ok(CertificateSeen {
        digest: Digest::of(pem.as_bytes()),
        not_before,
        not_after,
        own: Digest::of(&der),
        issuer,
    })
}

fn in_time(seen: &CertificateSeen, now: Timestamp) -> Result<(), BadCertificate> {
    let begun = seen.not_before.as_second() <= now.as_second().saturating_add(CLOCK_SLACK_S);
    if begun && seen.not_after > now {
        return Ok(());
    }
    Err(BadCertificate::Time {
        not_before: seen.not_before,
        not_after: seen.not_after,
        now,
    })
}

/// Which of these authorities signed it: the digest of its certificate.
fn issuer_of(cert: &X509Certificate<'_>, authorities: &str) -> Option<Digest> {
    CertificateDer::pem_slice_iter(authorities.as_bytes())
        .filter_map(Result::ok)
        .find(|der| {
            X509Certificate::from_der(der).is_ok_and(|(_, ca)| {
                ca.is_ca()
                    && ca.subject() == cert.issuer()
                    && cert.verify_signature(Some(ca.public_key())).is_ok()
            })
        })
        .map(|der| Digest::of(&der))
}

/// Begin and end of a certificate's life.
fn life_of(cert: &X509Certificate<'_>) -> Option<(Timestamp, Timestamp)> {
    let time = |t: x509_parser::time::ASN1Time| Timestamp::from_second(t.timestamp()).ok();
    let life = cert.validity();
    Some((time(life.not_before)?, time(life.not_after)?))
}

/// The authorities of a spec. What cannot be read signs nothing and is left out.
pub fn authorities(node: &NodeSpec) -> Vec<AuthoritySeen> {
    let of = |authority: Authority| {
        CertificateDer::pem_slice_iter(node.authorities.of(authority).as_bytes())
            .enumerate()
            .filter_map(move |(i, der)| {
                let der = der.ok()?;
                let (_, cert) = X509Certificate::from_der(&der).ok()?;
                let (not_before, not_after) = life_of(&cert)?;
                Some(AuthoritySeen {
                    authority,
                    digest: Digest::of(&der),
                    not_before,
                    not_after,
                    signs: i == 0,
                })
            })
    };
    Authority::ALL.iter().flat_map(|a| of(*a)).collect()
}

fn says(cert: &X509Certificate<'_>, profile: &CertProfile) -> Result<(), BadCertificate> {
    let text =
        |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().unwrap_or("?").to_owned();
    let names: Vec<String> = cert.subject().iter_common_name().map(text).collect();
    let mut groups: Vec<String> = cert.subject().iter_organization().map(text).collect();
    groups.sort();
    let is_uid = |a: &&x509_parser::x509::AttributeTypeAndValue<'_>| {
        let numbers = a.attr_type().iter();
        numbers.is_some_and(|mut n| n.by_ref().eq(UID_ATTRIBUTE.iter().copied()))
    };
    let uids = cert.subject().iter_attributes().filter(is_uid);
    let uids: Vec<String> = uids.map(text).collect();
    let mut want_groups = profile.organisations.clone();
    want_groups.sort();
    let usage = cert.extended_key_usage().ok().flatten().map(|u| u.value);
    let (server, client, more) = usage.map_or((false, false, true), |u| {
        let more = u.any || u.code_signing || u.email_protection || !u.other.is_empty();
        (u.server_auth, u.client_auth, more)
    });
    let uses = |s: bool, c: bool| format!("server {s}, client {c}");
    let rows = [
        ("common name", names.join(","), profile.common_name.clone()),
        ("organisation", groups.join(","), want_groups.join(",")),
        (
            "user id",
            uids.join(","),
            profile.uid.map_or_else(String::new, String::from),
        ),
        (
            "alternative names",
            list(&sans(cert)),
            list(&normal(&profile.sans)),
        ),
        (
            "extended key usage",
            format!(
                "{}{}",
                uses(server, client),
                if more { " and more" } else { "" }
            ),
            uses(profile.server, profile.client),
        ),
        ("CA flag", cert.is_ca().to_string(), false.to_string()),
    ];
    for (field, found, want) in rows {
        if found != want {
            return Err(BadCertificate::Profile { field, found, want });
        }
    }
    Ok(())
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "another library's enum: any other kind of name is compared as it is shown"
)]
fn sans(cert: &X509Certificate<'_>) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for extension in cert.extensions() {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
            continue;
        };
        for name in &names.general_names {
            out.insert(match name {
                GeneralName::DNSName(dns) => (*dns).to_owned(),
                GeneralName::IPAddress(bytes) => ip_text(bytes),
                other => format!("{other:?}"),
            });
        }
    }
    out
}

fn ip_text(bytes: &[u8]) -> String {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return std::net::Ipv4Addr::from(v4).to_string();
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(v6) => std::net::Ipv6Addr::from(v6).to_string(),
        Err(_) => "an address of no known length".to_owned(),
    }
}

/// Addresses in the one spelling that certificates are compared in.
fn normal(sans: &BTreeSet<String>) -> BTreeSet<String> {
    sans.iter()
        .map(|s| match s.parse::<std::net::IpAddr>() {
            Ok(ip) => ip.to_string(),
            Err(_) => s.clone(),
        })
        .collect()
}

fn list(names: &BTreeSet<String>) -> String {
    names.iter().cloned().collect::<Vec<_>>().join(",")
}

/// The key at a path; `None` when there is none that can be used.
fn read_key(fs: &HostFs, path: &str) -> Result<Option<KeyPair>, FsError> {
    let pem = fs.read(path, PEM_MAX)?;
    Ok(pem
        .and_then(|p| String::from_utf8(p).ok())
        .and_then(|p| KeyPair::from_pem(&p).ok()))
}

/// The request beside a key, if it is for that key.
fn request_of(fs: &HostFs, purpose: CertPurpose, key: &KeyPair) -> Result<Option<String>, FsError> {
    let pem = fs.read(path_of(purpose, paths::CERT_CSR_FILE), PEM_MAX)?;
    let Some(pem) = pem.and_then(|p| String::from_utf8(p).ok()) else {
        return Ok(None);
    };
    let der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(pem.as_bytes());
    let ours = der.is_ok_and(|der| {
        X509CertificationRequest::from_der(&der).is_ok_and(|(_, csr)| {
            csr.certification_request_info.subject_pki.raw == key.subject_public_key_info()
        })
    });
    Ok(ours.then_some(pem))
}

#[cfg(test)]
mod tests;
