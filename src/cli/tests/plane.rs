//! A plane behind real TLS on loopback: one answer per connection.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::model::{Digest, EnrolAnswer, EnrolRequest, EnrolToken, Fault, Secret, SigningKey};

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// What the plane does with an enrolment.
#[derive(Clone)]
pub(super) enum Manner {
    Accept,
    Refuse(Fault),
    Garbage,
}

pub(super) struct Plane {
    pub(super) url: String,
    pub(super) token: String,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn authority() -> Issuer {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("ca")
}

fn acceptor(ca: &Issuer) -> TlsAcceptor {
    let key = KeyPair::generate().expect("key");
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("params");
    let cert = params.signed_by(&key, ca).expect("sign");
    let config = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone(), ca.der().clone()],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .expect("config");
    TlsAcceptor::from(Arc::new(config))
}

fn token(ca: &Issuer) -> String {
    let token = EnrolToken {
        ca: Digest::of(ca.der()),
        secret: Secret::new("s3cret".into()),
    };
    token.to_text().expose().clone()
}

/// A token of another plane.
pub(super) fn foreign_token() -> String {
    token(&authority())
}

impl Plane {
    pub(super) async fn start(manner: Manner) -> Self {
        let ca = authority();
        let tls = acceptor(&ca);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("https://{}", listener.local_addr().expect("address"));
        let token = token(&ca);
        let endpoint = format!("{}/v1/tunnel", url.replace("https", "wss"));
        let serving = tokio::spawn(async move {
            loop {
                let Ok((tcp, _)) = listener.accept().await else {
                    return;
                };
                let Ok(mut stream) = tls.accept(tcp).await else {
                    continue;
                };
                let request = read_request(&mut stream).await;
                let (status, body) = answer(&ca, &manner, &endpoint, request);
                let head = format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                // A client that went away is not this test's matter.
                drop(stream.write_all(&[head.as_bytes(), &body].concat()).await);
                drop(stream.shutdown().await);
            }
        });
        Self {
            url,
            token,
            serving,
        }
    }
}

fn answer(ca: &Issuer, manner: &Manner, endpoint: &str, request: EnrolRequest) -> (u16, Vec<u8>) {
    match manner {
        Manner::Garbage => (200, b"<html>hello</html>".to_vec()),
        Manner::Refuse(fault) => (403, serde_json::to_vec(fault).expect("json")),
        Manner::Accept => {
            assert_eq!(request.token.expose(), "s3cret");
            let mut csr =
                rcgen::CertificateSigningRequestParams::from_pem(&request.csr).expect("csr");
            csr.params.distinguished_name = rcgen::DistinguishedName::new();
            csr.params
                .distinguished_name
                .push(rcgen::DnType::CommonName, request.host_id.to_string());
            let (signing, _) = SigningKey::generate().expect("key");
            let answer = EnrolAnswer {
                schema: 1,
                certificate: csr.signed_by(ca).expect("sign").pem(),
                ca: ca.pem(),
                trust: vec![signing.trusted()],
                endpoints: vec![endpoint.to_owned()],
                trust_version: None,
            };
            (200, serde_json::to_vec(&answer).expect("json"))
        }
    }
}

async fn read_request(
    stream: &mut tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
) -> EnrolRequest {
    let mut all = Vec::new();
    loop {
        if let Some(at) = all.windows(4).position(|w| w == b"\r\n\r\n") {
            let body: &[u8] = &all[at + 4..];
            if let Ok(request) = serde_json::from_slice(body) {
                return request;
            }
        }
        let mut chunk = [0; 4096];
        let n = stream.read(&mut chunk).await.expect("read");
        assert!(n > 0, "the request broke off");
        all.extend_from_slice(&chunk[..n]);
    }
}
