//! Enrolment against a server in this process, over real TLS on loopback.

mod policy;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::egress::Egress;
use crate::host::fs::{Found, HostFs};
use crate::model::{
    Digest, DocumentKind, EnrolAnswer, EnrolRequest, EnrolToken, Enrolment, Fault, FaultCode,
    HostId, MachineMarks, NodeFacts, Secret, SigningKey, TrustStore, paths,
};

struct Authority(CertifiedIssuer<'static, KeyPair>);

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("key");
    Authority(CertifiedIssuer::self_signed(params, key).expect("ca"))
}

impl Authority {
    fn token(&self) -> EnrolToken {
        EnrolToken {
            ca: Digest::of(self.0.der()),
            secret: Secret::new("s3cret".into()),
        }
    }

    fn server(&self, name: &str) -> TlsAcceptor {
        self.server_with(name, |_| {})
    }

    fn server_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> TlsAcceptor {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new([name.to_owned()]).expect("params");
        change(&mut params);
        let cert = params.signed_by(&key, &self.0).expect("sign");
        let chain = vec![cert.der().clone(), self.0.der().clone()];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(crate::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("config");
        TlsAcceptor::from(Arc::new(config))
    }

    /// What an honest plane answers.
    fn answer(&self, request: &EnrolRequest) -> EnrolAnswer {
        let mut csr = rcgen::CertificateSigningRequestParams::from_pem(&request.csr).expect("csr");
        csr.params.distinguished_name = rcgen::DistinguishedName::new();
        csr.params
            .distinguished_name
            .push(rcgen::DnType::CommonName, request.host_id.to_string());
        let (signing, _) = SigningKey::generate().expect("key");
        EnrolAnswer {
            schema: 1,
            certificate: csr.signed_by(&self.0).expect("sign").pem(),
            ca: self.0.pem(),
            trust: vec![signing.trusted()],
            endpoints: vec!["wss://127.0.0.1:1/v1/tunnel".into()],
            trust_version: None,
        }
    }
}

/// Serves one connection; returns the plane's URL.
async fn serve_once(
    tls: TlsAcceptor,
    reply: impl FnOnce(EnrolRequest) -> (u16, Vec<u8>) + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("addr").port();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.expect("accept");
        let Ok(mut stream) = tls.accept(tcp).await else {
            return;
        };
        let body = read_body(&mut stream).await;
        let (status, answer) = reply(serde_json::from_slice(&body).expect("request"));
        let head = format!(
            "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all(head.as_bytes()).await.expect("head");
        stream.write_all(&answer).await.expect("body");
        stream.shutdown().await.expect("end");
    });
    format!("https://127.0.0.1:{port}")
}

async fn read_body(stream: &mut tokio_rustls::server::TlsStream<TcpStream>) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        if let Some(at) = all.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&all[..at]).to_lowercase();
            let length: usize = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "))
                .and_then(|n| n.trim().parse().ok())
                .expect("length");
            if all.len() >= at + 4 + length {
                return all[at + 4..].to_vec();
            }
        }
        let mut chunk = [0; 4096];
        let n = stream.read(&mut chunk).await.expect("read");
        assert!(n > 0, "the request broke off");
        all.extend_from_slice(&chunk[..n]);
    }
}

async fn call(plane: &str, token: &EnrolToken, host_id: HostId) -> Result<Identity, Fault> {
    let (_dir, fs) = host();
    let (root, _) = order_key::ensure(&fs, host_id)?;
    enrol(&EnrolOrder {
        plane,
        token,
        host_id,
        present: None,
        machine: MachineMarks::default(),
        facts: &NodeFacts::new("n1", &[]),
        root: &root,
        egress: &Egress::direct(),
        tls: &TlsPolicy::default(),
        deadline: Duration::from_secs(10),
    })
    .await
    .map_err(|e| e.fault())
}

fn host() -> (tempfile::TempDir, HostFs) {
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    (dir, fs)
}

/// Answers honestly, then bends the answer.
fn honest(
    ca: &Arc<Authority>,
    bend: impl FnOnce(&mut EnrolAnswer) + Send + 'static,
) -> impl FnOnce(EnrolRequest) -> (u16, Vec<u8>) + Send + 'static {
    let ca = Arc::clone(ca);
    move |request| {
        let mut answer = ca.answer(&request);
        bend(&mut answer);
        (200, serde_json::to_vec(&answer).expect("json"))
    }
}

#[tokio::test]
async fn a_host_enrols_and_its_identity_survives_on_disk() {
    let ca = Arc::new(authority());
    let seen = Arc::new(Mutex::new(None));
    let (note, signer) = (Arc::clone(&seen), Arc::clone(&ca));
    let url = serve_once(ca.server("127.0.0.1"), move |request| {
        let answer = signer.answer(&request);
        let trust = TrustStore::new([request.order_key.clone()]).expect("trust");
        let said: Enrolment = request
            .statement
            .open(DocumentKind::Enrolment, &trust)
            .expect("root signed it");
        assert_eq!(said.csr, Digest::of(request.csr.as_bytes()));
        assert_eq!(said.token, Digest::of(b"s3cret"));
        *note.lock().expect("lock") = Some((said.host_id, said.facts.hostname));
        (200, serde_json::to_vec(&answer).expect("json"))
    })
    .await;
    let id = HostId::random();
    let identity = call(&url, &ca.token(), id).await.expect("enrolled");
    let sent = seen.lock().expect("lock").take();
    assert_eq!(sent, Some((id, "n1".to_owned())));

    let (_dir, fs) = host();
    assert!(
        load(&fs, &TlsPolicy::default())
            .expect("nothing yet")
            .is_none()
    );
    assert!(trust(&fs).expect("nothing yet").is_empty());
    save(&fs, &identity, &Owners::current_user()).expect("save");
    assert!(matches!(
        fs.found(paths::HOST_KEY).expect("found"),
        Found::File { mode: 0o400, .. }
    ));
    let loaded = load(&fs, &TlsPolicy::default())
        .expect("load")
        .expect("enrolled");
    assert_eq!(loaded.host_id, id);
    assert_eq!(loaded.endpoints, ["wss://127.0.0.1:1/v1/tunnel"]);
    assert!(!trust(&fs).expect("trust").is_empty());

    // A second enrolment replaces the pinned keys.
    let mut again = identity.clone();
    again.trust = vec![SigningKey::generate().expect("key").0.trusted()];
    save(&fs, &again, &Owners::current_user()).expect("save");
    assert_eq!(fs.list(paths::TRUST_DIR).expect("list").len(), 1);

    remove(&fs).expect("remove");
    remove(&fs).expect("twice is harmless");
    assert_eq!(fs.list("/etc/pf9").expect("list"), Vec::<String>::new());
}

/// Whatever is damaged: the file is named, and the words are those that comms logs and root is shown.
#[tokio::test]
async fn a_damaged_identity_names_its_file_and_what_helps() {
    let (_dir, fs) = host();
    let ca = Arc::new(authority());
    let url = serve_once(ca.server("127.0.0.1"), honest(&ca, |_| ())).await;
    let identity = call(&url, &ca.token(), HostId::random()).await;
    save(&fs, &identity.expect("enrolled"), &Owners::current_user()).expect("save");
    let why = || for_tunnel(&fs, &Default::default()).err();
    assert_eq!(why(), None);
    for (path, damaged) in [
        (paths::HOST_CERT, Some("-----BEGIN CERTIFICATE-----\nMIIB")),
        (paths::HOST_CERT, Some("")),
        (paths::HOST_KEY, Some("")),
        (paths::HOST_KEY, None),
        (paths::PLANE_CA, Some("-----BEGIN CERTIFICATE-----\nMIIB")),
        (paths::PLANE_CA, None),
        (paths::ENDPOINTS, Some("[\"wss")),
        (paths::ENDPOINTS, None),
    ] {
        let good = std::fs::read(fs.at(path)).expect("there");
        std::fs::remove_file(fs.at(path)).expect("gone");
        if let Some(text) = damaged {
            std::fs::write(fs.at(path), text).expect("cut");
        }
        let fault = why().expect("it cannot start");
        assert!(fault.why.contains(path), "{path}: {fault}");
        let wants_leave = fault.fix.contains("allow-reenrol");
        assert_eq!(wants_leave, path == paths::HOST_KEY, "{path}: {fault}");
        assert!(fault.fix.contains("pf9ctl node prep"), "{path}: {fault}");
        drop(std::fs::remove_file(fs.at(path)));
        std::fs::write(fs.at(path), good).expect("good again");
    }
    assert_eq!(why(), None);
}

#[tokio::test]
async fn a_plane_of_another_authority_is_foreign() {
    let (ours, theirs) = (authority(), Arc::new(authority()));
    let url = serve_once(theirs.server("127.0.0.1"), honest(&theirs, |_| {})).await;
    let fault = call(&url, &ours.token(), HostId::random())
        .await
        .expect_err("foreign");
    assert_eq!(fault.code, FaultCode::PlaneForeignCertificate);
    assert!(
        fault.why.contains("the authority that the token named"),
        "{fault}"
    );
}

#[tokio::test]
async fn showing_the_authority_is_not_enough() {
    // A stranger can send the plane's CA certificate along, but cannot be issued by it.
    let (ours, theirs) = (authority(), authority());
    let key = KeyPair::generate().expect("key");
    let cert = CertificateParams::new(["127.0.0.1".to_owned()])
        .expect("params")
        .signed_by(&key, &theirs.0)
        .expect("sign");
    let config = ServerConfig::builder_with_provider(crate::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone(), ours.0.der().clone()],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .expect("config");
    let url = serve_once(TlsAcceptor::from(Arc::new(config)), |_| (200, Vec::new())).await;
    let fault = call(&url, &ours.token(), HostId::random())
        .await
        .expect_err("foreign");
    assert_eq!(fault.code, FaultCode::PlaneForeignCertificate);
}

/// Not called a foreign plane: the token is good, and the time is not.
#[tokio::test]
async fn enrolment_with_a_clock_that_is_behind_says_so() {
    let ca = Arc::new(authority());
    let early = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2999, 1, 1);
    };
    let url = serve_once(ca.server_with("127.0.0.1", early), honest(&ca, |_| {})).await;
    let fault = call(&url, &ca.token(), HostId::random())
        .await
        .expect_err("early");
    assert_eq!(fault.code, FaultCode::ClockOff, "{fault}");
    assert!(fault.fix.contains("set the clock"), "{fault}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_foreign() {
    let ca = Arc::new(authority());
    let url = serve_once(ca.server("plane.example"), honest(&ca, |_| {})).await;
    let fault = call(&url, &ca.token(), HostId::random())
        .await
        .expect_err("foreign");
    assert_eq!(fault.code, FaultCode::PlaneForeignCertificate);
}

#[tokio::test]
async fn what_the_plane_says_about_the_token_is_passed_on() {
    let ca = authority();
    let url = serve_once(ca.server("127.0.0.1"), |_| {
        let said = Fault::new(
            FaultCode::TokenUsed,
            "cannot enrol this host",
            "the token was used",
        );
        (403, serde_json::to_vec(&said).expect("json"))
    })
    .await;
    let fault = call(&url, &ca.token(), HostId::random())
        .await
        .expect_err("used");
    assert_eq!(fault.code, FaultCode::TokenUsed);
}

#[tokio::test]
async fn answers_that_do_not_fit_are_garbage() {
    type Bend = fn(&mut EnrolAnswer);
    let bends: [(&str, Bend); 6] = [
        ("is not 1", |a| a.schema = 2),
        ("another key", |a| a.certificate = a.ca.clone()),
        ("do not include", |a| a.ca = authority().0.pem()),
        ("0 signing keys", |a| a.trust.clear()),
        ("0 endpoints", |a| a.endpoints.clear()),
        ("not a wss:// URL", |a| {
            a.endpoints = vec!["http://x".into()]
        }),
    ];
    for (words, bend) in bends {
        let ca = Arc::new(authority());
        let url = serve_once(ca.server("127.0.0.1"), honest(&ca, bend)).await;
        let fault = call(&url, &ca.token(), HostId::random())
            .await
            .expect_err(words);
        assert_eq!(fault.code, FaultCode::PlaneGarbage);
        assert!(fault.why.contains(words), "{fault}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_host_is_garbage() {
    let ca = Arc::new(authority());
    let signer = Arc::clone(&ca);
    let url = serve_once(ca.server("127.0.0.1"), move |mut request| {
        request.host_id = HostId::random();
        let answer = signer.answer(&request);
        (200, serde_json::to_vec(&answer).expect("json"))
    })
    .await;
    let fault = call(&url, &ca.token(), HostId::random())
        .await
        .expect_err("other host");
    assert!(fault.why.contains("the host certificate names"), "{fault}");
}

#[tokio::test]
async fn each_way_not_to_reach_a_plane_has_its_code() {
    let token = authority().token();
    let code = async |url: &str| {
        call(url, &token, HostId::random())
            .await
            .expect_err(url)
            .code
    };
    assert_eq!(
        code("https://no-such-host.invalid").await,
        FaultCode::PlaneUnresolvable
    );
    for url in ["", "http://x", "https://u@x", "https://x/path", "https:///"] {
        assert_eq!(code(url).await, FaultCode::Usage, "{url}");
    }

    // A port without a listener: taken, then given back.
    let free = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("https://{}", free.local_addr().expect("addr"));
    drop(free);
    assert_eq!(code(&url).await, FaultCode::PlaneRefused);

    // Something that does not speak TLS.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("https://{}", listener.local_addr().expect("addr"));
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.expect("accept");
        tcp.write_all(b"SSH-2.0-OpenSSH_9.2\r\n")
            .await
            .expect("write");
    });
    assert_eq!(code(&url).await, FaultCode::PlaneGarbage);

    // Something that never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("https://{}", listener.local_addr().expect("addr"));
    let host_id = HostId::random();
    let (_dir, fs) = host();
    let (root, _) = order_key::ensure(&fs, host_id).expect("order key");
    let order = EnrolOrder {
        plane: &url,
        token: &token,
        host_id,
        present: None,
        machine: MachineMarks::default(),
        facts: &NodeFacts::new("n1", &[]),
        root: &root,
        egress: &Egress::direct(),
        tls: &TlsPolicy::default(),
        deadline: Duration::from_millis(50),
    };
    let late = enrol(&order).await.expect_err("late").fault();
    assert_eq!(late.code, FaultCode::PlaneTimeout);
}

#[test]
fn the_host_id_file_reads_as_operators_write_it() {
    let (_dir, fs) = host();
    assert_eq!(host_id(&fs).expect("none"), None);
    let id = HostId::random();
    write_host_id(&fs, id).expect("write");
    assert_eq!(host_id(&fs).expect("read"), Some(id));
    for (text, good) in [
        (format!("host_id={id}"), true),
        (
            format!("[other]\nhost_id = x\n[hostagent]\n host_id =  {id} \n"),
            true,
        ),
        ("[hostagent]\nhost_id = nonsense\n".to_owned(), false),
        (format!("[other]\nhost_id = {id}\n"), false),
        (String::new(), false),
    ] {
        let attrs = crate::host::fs::Attrs::mode(0o644);
        fs.write(paths::HOST_ID, text.as_bytes(), &attrs)
            .expect("write");
        assert_eq!(host_id(&fs).is_ok(), good, "{text}");
    }
}

#[tokio::test]
async fn a_key_of_another_certificate_is_said_to_be_so() {
    let ca = Arc::new(authority());
    let url = serve_once(ca.server("127.0.0.1"), honest(&ca, |_| {})).await;
    let identity = call(&url, &ca.token(), HostId::random())
        .await
        .expect("enrolled");
    let (_dir, fs) = host();
    save(&fs, &identity, &Owners::current_user()).expect("save");
    let other = KeyPair::generate().expect("key").serialize_pem();
    let attrs = crate::host::fs::Attrs::mode(0o400);
    fs.write(paths::HOST_KEY, other.as_bytes(), &attrs)
        .expect("write");
    let fault = load(&fs, &TlsPolicy::default())
        .err()
        .expect("mismatch")
        .fault("cannot connect");
    assert_eq!(fault.code, FaultCode::IdentityDamaged);
    fs.remove_file(paths::HOST_KEY).expect("remove");
    let fault = load(&fs, &TlsPolicy::default())
        .err()
        .expect("missing")
        .fault("cannot connect");
    assert_eq!(fault.code, FaultCode::IdentityIncomplete);
}
