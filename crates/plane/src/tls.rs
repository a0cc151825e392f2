//! The server's TLS: short-lived certificates from the plane's own authorities, renewed while running; client
//! certificates are optional.
//!
//! During a rotation of the authority there are two certificates. A client names in ALPN the authority it can verify
//! (`model::authority_hints`); one that names none (an operator's tool with an older kubeconfig) gets the older one,
//! until that authority is retired.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::KeyPair;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use super::ca::{Authority, CaError, Leaf};
use super::excuse::ExpiryExcused;
use super::keys::Ring;
use super::refusal::chain;
use super::state::Plane;
use pf9_hostagent::model::{Digest, authority_hint};

/// Lifetime of the server's certificates.
const LIFE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How often their age is checked; they are replaced well before their expiry.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(20 * 24);

/// The server's TLS, replaced while connections use it.
pub(super) struct ServerTls {
    names: BTreeSet<String>,
    now: RwLock<Now>,
}

struct Now {
    acceptor: TlsAcceptor,
    shown: Arc<Shown>,
    not_after: Timestamp,
}

/// A certificate from each authority, by its name in ALPN.
type Certificates = Vec<(Vec<u8>, Arc<CertifiedKey>)>;

/// Certificates to present, by the authority that the client names in ALPN.
#[derive(Debug)]
struct Shown(RwLock<Certificates>);

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("cannot make the server's certificate")]
    Ca(#[from] CaError),
    #[error("cannot make the server's key")]
    Key(#[from] rcgen::Error),
    #[error("cannot use the server's certificate")]
    Tls(#[from] rustls::Error),
    #[error("cannot check clients")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
}

impl ServerTls {
    /// New certificates for these names and addresses.
    pub(super) fn new(
        ring: &Ring,
        names: BTreeSet<String>,
        now: Timestamp,
    ) -> Result<Self, TlsError> {
        let made = Now::make(ring, &names, now)?;
        Ok(Self {
            names,
            now: RwLock::new(made),
        })
    }

    /// For the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        now.acceptor.clone()
    }

    /// Replaces the certificates in time, and everything when the authorities change, while the plane runs.
    pub(super) async fn keep_fresh(self: Arc<Self>, plane: Arc<Plane>) {
        let mut changed = plane.keys.subscribe();
        loop {
            let keys = tokio::select! {
                // cancel-safe: all are
                () = tokio::time::sleep(LOOK_EVERY) => false,
                changed = changed.changed() => changed.is_ok(),
                () = plane.shutdown.cancelled() => return,
            };
            let (ring, now) = (plane.keys.ring(), pf9_hostagent::seam::clock::now());
            let result = match keys {
                true => self.replace(&ring, now),
                false => self.renew(&ring, now),
            };
            if let Err(e) = result {
                tracing::error!(why = chain(&e), "cannot renew the server certificate");
            }
        }
    }

    /// Other authorities: sessions resumed under the old ones must not continue either.
    fn replace(&self, ring: &Ring, now: Timestamp) -> Result<(), TlsError> {
        let made = Now::make(ring, &self.names, now)?;
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = made;
        tracing::info!("server's certificates and client authorities replaced");
        Ok(())
    }

    /// The same authorities: sessions can still be resumed.
    fn renew(&self, ring: &Ring, now: Timestamp) -> Result<(), TlsError> {
        let mut state = self.now.write().unwrap_or_else(PoisonError::into_inner);
        if now + RENEW_BEFORE < state.not_after {
            return Ok(());
        }
        let (shown, not_after) = certificates(ring, &self.names, now)?;
        let mut certificates = state
            .shown
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *certificates = shown;
        drop(certificates);
        state.not_after = not_after;
        tracing::info!(%not_after, "server certificate renewed");
        Ok(())
    }
}

impl Now {
    fn make(ring: &Ring, names: &BTreeSet<String>, now: Timestamp) -> Result<Self, TlsError> {
        let (certificates, not_after) = certificates(ring, names, now)?;
        let shown = Arc::new(Shown(RwLock::new(certificates)));
        let provider = pf9_hostagent::tls::provider();
        let mut roots = RootCertStore::empty();
        for authority in ring.authorities.all() {
            roots.add(CertificateDer::from(authority.der().to_vec()))?;
        }
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(ExpiryExcused::new(clients)))
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Hosts reconnect with TLS tickets, all at once after an outage: a resumed handshake costs neither side a
        // signature. The state is in the ticket and not here, so the number of hosts does not matter; the key belongs
        // to this process, so after a restart handshakes are full ones. A resumed session carries the certificate it
        // began with: `tunnel::identify` checks it again.
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            shown,
            not_after,
        })
    }
}

/// A certificate from each authority that may be the only one a client knows, the issuing one first.
fn certificates(
    ring: &Ring,
    names: &BTreeSet<String>,
    now: Timestamp,
) -> Result<(Certificates, Timestamp), TlsError> {
    let mut all = Vec::new();
    let mut first_end = Timestamp::MAX;
    for authority in ring.authorities.signers() {
        let (key, not_after) = issue(authority, names, now)?;
        first_end = first_end.min(not_after);
        all.push((authority_hint(&Digest::of(authority.der())), Arc::new(key)));
    }
    Ok((all, first_end))
}

fn issue(
    ca: &Authority,
    names: &BTreeSet<String>,
    now: Timestamp,
) -> Result<(CertifiedKey, Timestamp), TlsError> {
    let key = KeyPair::generate()?;
    let leaf = Leaf {
        common_name: "pf9-plane".to_owned(),
        organisations: Vec::new(),
        uid: None,
        sans: names.clone(),
        server: true,
        client: false,
        life: LIFE,
    };
    let issued = ca.issue(&key, &leaf, now)?;
    // The authority is included: an enrolling node knows it only by its digest.
    let chain = vec![issued.der.into(), CertificateDer::from(ca.der().to_vec())];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok((
        CertifiedKey::from_der(chain, key, &pf9_hostagent::tls::provider())?,
        issued.not_after,
    ))
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let known: Vec<&[u8]> = hello.alpn().into_iter().flatten().collect();
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let can_check = |hint: &Vec<u8>| known.contains(&hint.as_slice());
        all.iter()
            .find(|(hint, _)| can_check(hint))
            .or_else(|| all.last())
            .map(|(_, key)| Arc::clone(key))
    }
}
