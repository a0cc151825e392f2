//! The identity on disk.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::machine::pin;
use super::material::Identity;
use super::pair::{self, Pair};
use super::policy::TlsPolicy;
use super::trust::note_version;
use super::verify::believing;
use crate::host::fs::{Attrs, FsError, HostFs, fail};
use crate::model::{
    Digest, Fault, FaultCode, HostId, Life, TrustStore, TrustedKey, authority_hints, paths,
};
use crate::seam::disk;
use crate::tls::TlsConfig;

/// Owners of the files of the tunnel identity.
#[derive(Clone, Debug)]
pub struct Owners {
    comms: Option<String>,
}

/// What comms needs to dial the plane.
#[derive(Clone)]
pub struct TunnelIdentity {
    /// The host's id.
    pub host_id: HostId,
    /// The plane's authorities, the host's certificate and key. One for all connections: it keeps
    /// the tickets with which the next handshake is a short one.
    pub tls: Arc<ClientConfig>,
    /// `wss://…`, best first.
    pub endpoints: Vec<String>,
    /// The host's certificate.
    pub certificate: Digest,
    /// The file of the plane's authorities.
    pub bundle: Digest,
    /// Whether the first of them, which issues from now on, has issued the certificate.
    pub is_of_first: bool,
    /// What is shown.
    pair: Pair,
    /// When that is good.
    pub life: Life,
    /// When the plane's authorities are good.
    pub authorities: Vec<Life>,
}

/// Why the identity could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Some of the files are there, this one is not.
    #[error("{0} is missing")]
    Incomplete(&'static str),
    /// A file does not hold what it should.
    #[error("{path} cannot be used: {why}")]
    Damaged {
        /// Which.
        path: String,
        /// Why not.
        why: String,
    },
    /// Key and certificate do not belong together, or TLS refuses them.
    #[error("the host's key and certificate cannot be used")]
    Tls(#[source] rustls::Error),
}

/// Largest file of the identity.
pub(super) const FILE_MAX: u64 = 256 * 1024;

/// Most files that are read from the trust directory.
const TRUST_MAX: usize = 64;

/// Directory of key and certificate.
const HOST_CERTS: &str = "/etc/pf9/certs/hostagent";

// === impl Owners ===

impl Owners {
    /// The owners on an installed host.
    pub fn system() -> Self {
        Self {
            comms: Some(format!("{}:{}", paths::USER_COMMS, paths::GROUP)),
        }
    }

    /// The current user: for a host below another root.
    pub fn current_user() -> Self {
        Self { comms: None }
    }

    /// Attributes of the file with the proxy's credentials: only the tunnel's user reads it.
    pub fn proxy_credentials(&self) -> Attrs {
        self.comms(0o600)
    }

    fn comms(&self, mode: u32) -> Attrs {
        Attrs {
            mode,
            owner: self.comms.clone(),
        }
    }
}

/// Writes an identity, each file atomically. The certificate comes last: while it is not there,
/// the host counts as not enrolled.
pub fn save(fs: &HostFs, identity: &Identity, owners: &Owners) -> Result<(), IdentityError> {
    let world = Attrs::mode(0o644);
    fs.remove_file(paths::HOST_CERT)?;
    pair::drop_next(fs)?;
    write_host_id(fs, identity.host_id)?;
    for key in &identity.trust {
        let path = format!("{}/{}.json", paths::TRUST_DIR, key.id);
        fs.write(&path, &json(&path, key)?, &world)?;
    }
    let keep: Vec<_> = identity
        .trust
        .iter()
        .map(|k| format!("{}.json", k.id))
        .collect();
    for name in trust_files(fs)?.into_iter().filter(|n| !keep.contains(n)) {
        fs.remove_file(Path::new(paths::TRUST_DIR).join(name))?;
    }
    match &identity.trust_version {
        Some(version) => note_version(fs, version)?,
        None => fs.remove_file(paths::TRUST_VERSION)?,
    }
    pin(fs, &identity.machine)?;
    // What belonged to the identity before.
    fs.remove_file(paths::TICKETS)?;
    fs.remove_file(paths::HOLD)?;
    let endpoints = json(paths::ENDPOINTS, &identity.endpoints)?;
    fs.write(paths::ENDPOINTS, &endpoints, &world)?;
    fs.write(paths::PLANE_CA, identity.plane_ca.as_bytes(), &world)?;
    fs.make_dir(HOST_CERTS, &owners.comms(0o750))?;
    fs.write(
        paths::HOST_KEY,
        identity.key.expose().as_bytes(),
        &owners.comms(0o400),
    )?;
    fs.write(
        paths::HOST_CERT,
        identity.certificate.as_bytes(),
        &owners.comms(0o444),
    )?;
    Ok(())
}

/// What comms needs; `None` while the host is not enrolled.
pub fn load(fs: &HostFs, policy: &TlsPolicy) -> Result<Option<TunnelIdentity>, IdentityError> {
    let Some(pair) = pair::present(fs)? else {
        return Ok(None);
    };
    with(fs, policy, &pair).map(Some)
}

/// Which certificate the host has; `None` while it is not enrolled.
pub fn certificate(fs: &HostFs) -> Result<Option<Digest>, IdentityError> {
    Ok(pair::present(fs)?.map(|pair| pair.digest))
}

/// What comms starts with; or why it cannot start, for its log and for diagnostics.
pub fn for_tunnel(fs: &HostFs, config: &TlsConfig) -> Result<(TlsPolicy, TunnelIdentity), Fault> {
    let what = "comms cannot start the tunnel";
    let policy = TlsPolicy::load(fs, config)?;
    let identity = load(fs, &policy).map_err(|e| e.fault(what))?;
    let identity = identity.ok_or_else(|| {
        Fault::new(FaultCode::NotEnrolled, what, "this host is not enrolled")
            .fix("run pf9ctl node prep")
    })?;
    Ok((policy, identity))
}

/// What comms needs, to go as the holder of this pair.
pub fn with(fs: &HostFs, policy: &TlsPolicy, pair: &Pair) -> Result<TunnelIdentity, IdentityError> {
    let need = |path: &'static str| {
        fs.read(path, FILE_MAX)?
            .ok_or(IdentityError::Incomplete(path))
    };
    let host_id = host_id(fs)?.ok_or(IdentityError::Incomplete(paths::HOST_ID))?;
    let chain = certificates(paths::HOST_CERT, pair.certificate.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.expose().as_bytes())
        .map_err(|e| damaged(paths::HOST_KEY, e))?;
    let bundle = need(paths::PLANE_CA)?;
    let mut anchors = certificates(paths::PLANE_CA, &bundle)?;
    believing(&anchors).map_err(|e| damaged(paths::PLANE_CA, e))?;
    let hints = authority_hints(anchors.iter().map(|a| Digest::of(a)));
    let authorities = pair::ends(&anchors);
    let is_of_first =
        matches!((anchors.first(), chain.first()), (Some(a), Some(c)) if pair::issued(a, c));
    anchors.extend(policy.extra.iter().cloned());
    let endpoints: Vec<String> = serde_json::from_slice(&need(paths::ENDPOINTS)?)
        .map_err(|e| damaged(paths::ENDPOINTS, e))?;
    if endpoints.is_empty() {
        return Err(damaged(paths::ENDPOINTS, "it names none"));
    }
    let mut tls = believing(&anchors)
        .and_then(|verifier| policy.client(verifier, anchors))
        .and_then(|builder| builder.with_client_auth_cert(chain, key))
        .map_err(IdentityError::Tls)?;
    tls.alpn_protocols = hints;
    Ok(TunnelIdentity {
        host_id,
        tls: Arc::new(tls),
        endpoints,
        certificate: pair.digest,
        bundle: Digest::of(&bundle),
        is_of_first,
        pair: pair.clone(),
        life: pair.life,
        authorities,
    })
}

/// The same holder with the plane's authorities that are on the disk now; `None`: they are those it
/// has.
pub fn believing_anew(
    fs: &HostFs,
    policy: &TlsPolicy,
    holder: &TunnelIdentity,
) -> Result<Option<TunnelIdentity>, IdentityError> {
    let bundle = fs.read(paths::PLANE_CA, FILE_MAX)?;
    match bundle.is_none_or(|b| Digest::of(&b) == holder.bundle) {
        true => Ok(None),
        false => with(fs, policy, &holder.pair).map(Some),
    }
}

/// The pinned signing keys; an empty store while the host is not enrolled.
pub fn trust(fs: &HostFs) -> Result<TrustStore, IdentityError> {
    let mut keys = Vec::new();
    for name in trust_files(fs)?.into_iter().take(TRUST_MAX) {
        let path = format!("{}/{name}", paths::TRUST_DIR);
        let bytes = fs.read(&path, FILE_MAX)?.unwrap_or_default();
        let key: TrustedKey = serde_json::from_slice(&bytes).map_err(|e| damaged(&path, e))?;
        keys.push(key);
    }
    TrustStore::new(keys).map_err(|fault| damaged(paths::TRUST_DIR, fault))
}

/// The host's id; `None` when it never had one.
pub fn host_id(fs: &HostFs) -> Result<Option<HostId>, IdentityError> {
    let Some(text) = fs.read_text(paths::HOST_ID, FILE_MAX)? else {
        return Ok(None);
    };
    parse_host_id(&text)
        .map(Some)
        .map_err(|why| damaged(paths::HOST_ID, why))
}

/// Writes the host's id, in the form operators of such agents know.
pub fn write_host_id(fs: &HostFs, id: HostId) -> Result<(), IdentityError> {
    let text = format!("[hostagent]\nhost_id = {id}\n");
    Ok(fs.write(paths::HOST_ID, text.as_bytes(), &Attrs::mode(0o644))?)
}

/// Takes everything away that [`save`] and [`super::order_key::ensure`] wrote, and the directories
/// that are empty then.
pub fn remove(fs: &HostFs) -> Result<(), IdentityError> {
    fs.remove_tree(paths::ORDER_KEYS_OFFERED)?;
    // The certificate first: from then on the host counts as not enrolled.
    for file in [
        paths::HOST_CERT,
        paths::HOST_NEXT,
        paths::HOST_KEY,
        paths::PLANE_CA,
        paths::ENDPOINTS,
        paths::MACHINE,
        paths::MACHINE_NOW,
        paths::TRUST_VERSION,
        paths::TICKETS,
        paths::HOLD,
        // It names the host id, too, and is asked where that is not there.
        paths::ORDER_KEY,
        paths::HOST_ID,
    ] {
        fs.remove_file(file)?;
    }
    for name in trust_files(fs)? {
        fs.remove_file(Path::new(paths::TRUST_DIR).join(name))?;
    }
    for dir in [
        HOST_CERTS,
        "/etc/pf9/certs/ca",
        "/etc/pf9/certs",
        paths::TRUST_DIR,
        paths::ROOT_DIR,
    ] {
        match disk::remove_dir(&fs.at(dir)) {
            Ok(()) => {}
            Err(e) => match e.kind() {
                // Foreign files stay, and so does their directory.
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty => {}
                _ => {
                    return Err(fail("remove", &fs.at(dir), e).into());
                }
            },
        }
    }
    Ok(())
}

// === impl TunnelIdentity ===

impl TunnelIdentity {
    /// One that no file is behind.
    #[cfg(test)]
    pub(crate) fn of_nobody(endpoint: &str, tls: Arc<ClientConfig>) -> Self {
        let pair = Pair::of_nobody();
        Self {
            host_id: HostId::random(),
            tls,
            endpoints: vec![endpoint.to_owned()],
            certificate: pair.digest,
            bundle: Digest::of(b"bundle"),
            is_of_first: true,
            life: pair.life,
            authorities: Vec::new(),
            pair,
        }
    }

    /// When the host's certificate is due for renewal.
    pub fn renew_at(&self) -> crate::model::Timestamp {
        self.life.due(pair::jitter(&self.certificate))
    }
}

impl IdentityError {
    /// The error as a fault about `what`.
    pub fn fault(&self, what: &str) -> Fault {
        // Without its key a host cannot prove that it is the one the plane knows.
        let key_is_lost = match self {
            Self::Incomplete(path) => *path == paths::HOST_KEY,
            Self::Damaged { path, .. } => path == paths::HOST_KEY,
            Self::Fs(_) | Self::Tls(_) => false,
        };
        let again = match key_is_lost {
            true => {
                "allow another key on the plane (pf9-plane host allow-reenrol HOST), then run \
                 pf9ctl node prep again with a new token; role and workloads stay"
            }
            false => "run pf9ctl node prep again with a new token; role and workloads stay",
        };
        let (code, fix) = match self {
            Self::Fs(_) => (FaultCode::IdentityIo, "check the disk and the named path"),
            Self::Incomplete(_) => (FaultCode::IdentityIncomplete, again),
            Self::Damaged { .. } | Self::Tls(_) => (FaultCode::IdentityDamaged, again),
        };
        Fault::new(code, what, crate::telemetry::chain(self)).fix(fix)
    }
}

fn parse_host_id(text: &str) -> Result<HostId, String> {
    let mut section = "hostagent";
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name.trim();
        }
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        if section == "hostagent" && key.trim() == "host_id" {
            return value.trim().parse().map_err(|e| format!("{e}"));
        }
    }
    Err("it has no host_id in section hostagent".to_owned())
}

pub(super) fn certificates(
    path: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let text = std::str::from_utf8(pem).map_err(|e| damaged(path, e))?;
    super::material::parse_all(text).map_err(|why| damaged(path, why))
}

pub(super) fn trust_files(fs: &HostFs) -> Result<Vec<String>, FsError> {
    let mut names = fs.list(paths::TRUST_DIR)?;
    // A name that begins with a dot is what a crash left of an atomic write.
    names.retain(|n| n.ends_with(".json") && !n.starts_with('.'));
    Ok(names)
}

pub(super) fn json<T: serde::Serialize>(path: &str, value: &T) -> Result<Vec<u8>, IdentityError> {
    serde_json::to_vec_pretty(value).map_err(|e| damaged(path, e))
}

pub(super) fn damaged(path: &str, why: impl std::fmt::Display) -> IdentityError {
    IdentityError::Damaged {
        path: path.to_owned(),
        why: why.to_string(),
    }
}
