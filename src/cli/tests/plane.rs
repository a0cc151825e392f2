//! A plane behind real TLS on loopback: one answer per connection.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::model::{Digest, EnrolAnswer, EnrolRequest, EnrolToken, Fault, Secret, SigningKey};

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// What the plane does with an enrolment.
#[derive(Clone)]
pub(super) enum Manner {
    Accept,
    Refuse(Fault),
    Garbage,
    /// It is asked nothing but the time, and its clock is wrong by so many seconds.
    Clock(i64),
    /// The operator API: method, path, token and body of a call, and its answer.
    Api(fn(&str, &str, &str, &str) -> (u16, String)),
}

pub(super) struct Plane {
    pub(super) url: String,
    pub(super) token: String,
    /// The certificate of its authority, PEM.
    pub(super) authority: String,
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
        let (token, authority) = (token(&ca), ca.pem());
        let endpoint = format!("{}/v1/tunnel", url.replace("https", "wss"));
        let serving = tokio::spawn(async move {
            loop {
                let Ok((tcp, _)) = listener.accept().await else {
                    return;
                };
                let Ok(mut stream) = tls.accept(tcp).await else {
                    continue;
                };
                if let Manner::Api(api) = manner {
                    answer_call(&mut stream, api).await;
                    continue;
                }
                if let Manner::Clock(wrong) = manner {
                    tell_time(&mut stream, wrong).await;
                    continue;
                }
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
            authority,
            serving,
        }
    }
}

async fn answer_call(
    stream: &mut TlsStream<TcpStream>,
    api: fn(&str, &str, &str, &str) -> (u16, String),
) {
    let mut asked = Vec::new();
    let mut part = [0; 4096];
    let (head, body) = loop {
        let n = stream.read(&mut part).await.unwrap_or(0);
        asked.extend_from_slice(&part[..n]);
        let text = String::from_utf8_lossy(&asked).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_lowercase();
            let length = length.split_once("content-length: ").map_or(0, |(_, l)| {
                l.lines()
                    .next()
                    .and_then(|l| l.trim().parse().ok())
                    .unwrap_or(0)
            });
            if body.len() >= length {
                break (head.to_owned(), body.to_owned());
            }
        }
        if n == 0 {
            return;
        }
    };
    let mut words = head.split(' ');
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let token = head.lines().find_map(|l| l.strip_prefix("x-auth-token: "));
    let (status, said) = api(method, path, token.unwrap_or_default(), &body);
    let head = format!(
        "HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        said.len()
    );
    drop(stream.write_all(format!("{head}{said}").as_bytes()).await);
    drop(stream.shutdown().await);
}

/// As a server does that has no such page.
async fn tell_time(stream: &mut TlsStream<TcpStream>, wrong: i64) {
    let mut asked = [0; 4096];
    let n = stream.read(&mut asked).await.unwrap_or(0);
    let asked = String::from_utf8_lossy(&asked[..n]).into_owned();
    if !asked.starts_with("HEAD / HTTP/1.1\r\n") {
        return;
    }
    let now = crate::seam::clock::now() + jiff::SignedDuration::from_secs(wrong);
    let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT");
    let head = format!("HTTP/1.1 404 Not Found\r\nDate: {date}\r\ncontent-length: 0\r\n\r\n");
    drop(stream.write_all(head.as_bytes()).await);
    drop(stream.shutdown().await);
}

fn answer(ca: &Issuer, manner: &Manner, endpoint: &str, request: EnrolRequest) -> (u16, Vec<u8>) {
    match manner {
        Manner::Clock(_) | Manner::Api(_) | Manner::Garbage => {
            (200, b"<html>hello</html>".to_vec())
        }
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
