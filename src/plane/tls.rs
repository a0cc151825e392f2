//! The server's TLS: a short certificate of the plane's own authority, renewed while running;
//! client certificates are asked for, not demanded.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::KeyPair;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::ca::{Authority, CaError, Leaf};
use super::excuse::ExpiryExcused;
use super::refusal::chain;
use super::state::Plane;

/// Life of the server's certificate.
const LIFE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How often its age is looked at, and when it is replaced: well before the end.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(20 * 24);

/// The server's certificate, replaced while connections use it.
pub(super) struct ServerIdentity {
    names: BTreeSet<String>,
    current: Arc<Current>,
    not_after: Timestamp,
}

#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

/// Why there is no TLS.
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

impl ServerIdentity {
    /// A fresh certificate for these names and addresses.
    pub(super) fn new(
        ca: &Authority,
        names: BTreeSet<String>,
        now: Timestamp,
    ) -> Result<Self, TlsError> {
        let (key, not_after) = issue(ca, &names, now)?;
        Ok(Self {
            names,
            current: Arc::new(Current(RwLock::new(Arc::new(key)))),
            not_after,
        })
    }

    /// The configuration of the listener.
    pub(super) fn config(&self, ca: &Authority) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = crate::tls::provider();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(ca.der().to_vec()))?;
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(ExpiryExcused::new(clients)))
            .with_cert_resolver(Arc::clone(&self.current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Hosts come back with tickets, all at once after an outage: a short handshake costs neither
        // side a signature. The state is in the ticket and not here, so the number of hosts does not
        // matter; the key is this process's, so after a restart handshakes are full ones. A resumed
        // session carries the certificate it began with: `tunnel::identify` looks at it anew.
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        Ok(Arc::new(config))
    }

    /// Replaces the certificate in time, for as long as the plane runs.
    pub(super) async fn keep_fresh(mut self, plane: Arc<Plane>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = plane.shutdown.cancelled() => return,
            }
            let now = Timestamp::now();
            if now + RENEW_BEFORE < self.not_after {
                continue;
            }
            match issue(&plane.ca, &self.names, now) {
                Ok((key, not_after)) => {
                    let mut current = self
                        .current
                        .0
                        .write()
                        .unwrap_or_else(PoisonError::into_inner);
                    *current = Arc::new(key);
                    self.not_after = not_after;
                    tracing::info!(%not_after, "server certificate renewed");
                }
                Err(e) => tracing::error!(why = chain(&e), "cannot renew the server certificate"),
            }
        }
    }
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
        sans: names.clone(),
        server: true,
        client: false,
        life: LIFE,
    };
    let issued = ca.issue(&key, &leaf, now)?;
    // The authority goes along: a node that enrols knows it only by its digest.
    let chain = vec![issued.der.into(), CertificateDer::from(ca.der().to_vec())];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok((
        CertifiedKey::from_der(chain, key, &crate::tls::provider())?,
        issued.not_after,
    ))
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self.0.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}
