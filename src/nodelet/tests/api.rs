//! An API server of a test's own: real TLS, the answers are the test's.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::host::fs::{Attrs, HostFs};
use crate::model::{CertPurpose, NodeSpec, paths};
use crate::nodelet::certs;
use crate::nodelet::testing::Cas;

/// Answers every caller, until it is dropped.
pub(crate) async fn serve<F, R>(listener: TcpListener, tls: TlsAcceptor, answer: F)
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + 'static,
{
    let mut all = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let (tls, answer) = (tls.clone(), answer.clone());
        all.spawn(async move {
            let Ok(stream) = tls.accept(tcp).await else {
                return;
            };
            let connection = hyper::server::conn::http1::Builder::new();
            drop(
                connection
                    .serve_connection(TokioIo::new(stream), service_fn(answer))
                    .await,
            );
        });
    }
}

/// Who the server is.
pub(crate) fn acceptor(cas: &Cas, node: &NodeSpec) -> TlsAcceptor {
    let (certificate, key) = pair(cas, CertPurpose::ApiServer, node);
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("certificate");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("key");
    let config = ServerConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("configuration");
    TlsAcceptor::from(Arc::new(config))
}

/// The node has a pair of this purpose.
pub(crate) fn put_pair(fs: &HostFs, cas: &Cas, purpose: CertPurpose, node: &NodeSpec) {
    let (certificate, key) = pair(cas, purpose, node);
    for (file, text) in [(paths::CERT_FILE, certificate), (paths::CERT_KEY_FILE, key)] {
        let path = certs::path_of(purpose, file);
        fs.write(path, text.as_bytes(), &Attrs::mode(0o600))
            .expect("write");
    }
}

/// A certificate of this purpose, and its key.
fn pair(cas: &Cas, purpose: CertPurpose, node: &NodeSpec) -> (String, String) {
    let key = KeyPair::generate().expect("key");
    let request = CertificateParams::default().serialize_request(&key);
    let request = request.expect("request").pem().expect("pem");
    (
        cas.sign(&request, purpose, node, |_| {}),
        key.serialize_pem(),
    )
}
