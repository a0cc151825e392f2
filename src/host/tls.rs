//! HTTPS clients: for the node's own services (one authority, one client certificate) and for services
//! outside. HTTP/1.1 with connections kept, every answer bounded.

use std::error::Error;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::work::long;

/// Longest a connection to a service on this node, or on its master, may take.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection lives through the pause between two sweeps (servers close after 90 s).
const KEEP_IDLE: Duration = Duration::from_secs(80);

/// Trusted authorities, and our own identity; all PEM.
#[derive(Clone, Copy)]
pub struct ClientIdentity<'a> {
    /// The only authority trusted.
    pub authority: &'a [u8],
    /// Client certificate.
    pub certificate: &'a [u8],
    /// Its private key.
    pub key: &'a [u8],
}

/// Material that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the {what}: {why}")]
pub struct TlsError {
    what: &'static str,
    why: String,
}

/// A client that trusts one authority and shows one certificate.
pub fn client(identity: ClientIdentity<'_>) -> Result<reqwest::Client, TlsError> {
    client_naming(identity, &[])
}

/// The same, whose hello names these protocols (ALPN). The other end takes one of them: HTTP/1.1 must be there.
pub fn client_naming(
    identity: ClientIdentity<'_>,
    protocols: &[&str],
) -> Result<reqwest::Client, TlsError> {
    let mut config = config(identity)?;
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    base()
        .tls_backend_preconfigured(config)
        .build()
        .map_err(|e| TlsError {
            what: "client",
            why: e.to_string(),
        })
}

/// The same trust and certificate for a connection that speaks HTTP/2.
pub fn http2(identity: ClientIdentity<'_>) -> Result<ClientConfig, TlsError> {
    let mut config = config(identity)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn config(identity: ClientIdentity<'_>) -> Result<ClientConfig, TlsError> {
    let bad = |what, why: String| TlsError { what, why };
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(identity.authority) {
        let cert = cert.map_err(|e| bad("authority", e.to_string()))?;
        roots
            .add(cert)
            .map_err(|e| bad("authority", e.to_string()))?;
    }
    let chain = CertificateDer::pem_slice_iter(identity.certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| bad("client certificate", e.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key)
        .map_err(|e| bad("client key", e.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("protocol versions", e.to_string()))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|e| bad("client certificate", e.to_string()))
}

/// A client for plain HTTP on the loopback address.
pub fn plain() -> Result<reqwest::Client, TlsError> {
    without_tls(base())
}

fn without_tls(client: reqwest::ClientBuilder) -> Result<reqwest::Client, TlsError> {
    // The client is never used for https, and must not read the machine's certificate store at every
    // start.
    client
        .tls_backend_preconfigured(believing_nobody()?)
        .build()
        .map_err(|e| TlsError {
            what: "client",
            why: e.to_string(),
        })
}

/// A configuration with which no handshake succeeds.
pub fn believing_nobody() -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError {
            what: "protocol versions",
            why: e.to_string(),
        })?;
    let nobody = versions.with_root_certificates(RootCertStore::empty());
    Ok(nobody.with_no_client_auth())
}

/// A client for plain HTTP on a socket of this machine.
pub fn at_socket(socket: &std::path::Path) -> Result<reqwest::Client, TlsError> {
    without_tls(base().unix_socket(socket))
}

/// A client for services outside of the node: nothing of ours is shown to them. With `authorities` (PEM)
/// these are trusted and no others, without them those of the machine. `way` says how it gets there.
pub fn outside(
    authorities: Option<&[u8]>,
    way: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> Result<reqwest::Client, TlsError> {
    by(trusting(authorities)?, way)
}

/// What [`outside`] trusts, to be read once for many clients.
pub fn trusting(authorities: Option<&[u8]>) -> Result<ClientConfig, TlsError> {
    let bad = |what, why: String| TlsError { what, why };
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(pem) => {
            for cert in CertificateDer::pem_slice_iter(pem) {
                let added = cert.map_err(|e| e.to_string());
                let added = added.and_then(|c| roots.add(c).map_err(|e| e.to_string()));
                added.map_err(|why| bad("authority", why))?;
            }
            if roots.is_empty() {
                return Err(bad("authority", "it holds no certificate".to_owned()));
            }
        }
        // One that cannot be read is one that is not trusted; that is said when it is met.
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("protocol versions", e.to_string()))?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}

/// A client that trusts what `config` does. `way` says how it gets there.
pub fn by(
    config: ClientConfig,
    way: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> Result<reqwest::Client, TlsError> {
    way(base().tls_backend_preconfigured(config))
        .build()
        .map_err(|e| TlsError {
            what: "client",
            why: e.to_string(),
        })
}

fn base() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .dns_resolver(Arc::new(Names))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .pool_idle_timeout(KEEP_IDLE)
        .pool_max_idle_per_host(4)
}

/// Asks the machine for addresses. The library's own question is a panic where no thread can be started for it.
struct Names;

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let name = name.as_str().to_owned();
        Box::pin(async move {
            let found = long(move || (name, 0).to_socket_addrs()).await??;
            Ok::<_, Box<dyn Error + Send + Sync>>(Box::new(found) as Addrs)
        })
    }
}

/// Reads a whole answer of at most `max` bytes; `None` when it is longer.
pub async fn body(
    mut answer: reqwest::Response,
    max: usize,
) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if bytes.len() + chunk.len() > max {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::no_threads::NoThreads;
    use crate::host::refusals;
    use crate::host::testing::in_namespaces;
    use crate::model::FaultCode;

    /// Who makes the request goes on, and makes it again later.
    #[test]
    fn a_name_is_a_failure_of_the_request_while_no_thread_can_ask_for_it() {
        let test =
            "host::tls::tests::a_name_is_a_failure_of_the_request_while_no_thread_can_ask_for_it";
        // The bound is the process's.
        if in_namespaces(test, &["--mount"], ":").is_none() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async {
            let client = plain().expect("client");
            let none = NoThreads::begin();
            let asked = client.get("http://localhost:1/").send().await;
            drop(none);
            let failed = asked.expect_err("no thread");
            let (code, _) = refusals::of(&failed).expect("the machine's");
            assert_eq!(code, FaultCode::ProcessesFull, "{failed:?}");
        });
    }
}
