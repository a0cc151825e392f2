//! A host as the plane sees it: a key, a certificate, a tunnel. It shares the protocol with the agent and nothing else.

use std::future::{IntoFuture, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use pf9_hostagent::model::{
    CertPurpose, CertificateOrder, CertificateRequest, ClusterId, Digest, DocumentKind,
    EnrolAnswer, EnrolToken, Enrolment, Envelope, FactsReport, FreshNonce, HostId, NodeFacts,
    Nonce, SigningKey, Spec, Timestamp, TrustStore,
};
use pf9_hostagent::mux::{self, Closed, Handle, HandshakeError, Incoming, Websocket};
use pf9_hostagent::wire::{Class, Config, Meta, Side};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::bed::{Bed, within};

pub(super) struct Node {
    pub(super) id: HostId,
    pub(super) key: KeyPair,
    /// Root's order key: not available to a thief of the tunnel.
    pub(super) root: Arc<SigningKey>,
    /// Root's statement of name and addresses.
    pub(super) facts: NodeFacts,
    pub(super) answer: Option<EnrolAnswer>,
    pub(super) tunnel: Option<Handle>,
    pub(super) incoming: Option<Incoming>,
    /// Additional headers of its handshake.
    pub(super) headers: HeaderMap,
    /// What its newest session allows, as the plane answered.
    pub(super) kind: String,
    tasks: JoinSet<()>,
    /// Its newest session is frozen: its connection exists and nobody reads or writes it.
    frozen: Arc<AtomicBool>,
}

/// A request for a key; its other content must not matter.
pub(super) fn csr(key: &KeyPair) -> String {
    let params = CertificateParams::new(vec!["liar.example".to_owned()]).expect("params");
    params
        .serialize_request(key)
        .expect("csr")
        .pem()
        .expect("pem")
}

impl Node {
    pub(super) fn new(id: HostId) -> Self {
        Self {
            id,
            key: KeyPair::generate().expect("key"),
            root: Arc::new(SigningKey::generate().expect("key").0),
            facts: NodeFacts::new("host", &[]),
            answer: None,
            tunnel: None,
            incoming: None,
            headers: HeaderMap::new(),
            kind: String::new(),
            tasks: JoinSet::new(),
            frozen: Arc::default(),
        }
    }

    /// From now on its session is like a dead path.
    pub(super) fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
    }

    /// The same host with the same keys and certificate, not connected.
    pub(super) fn twin(&self) -> Self {
        Self {
            key: KeyPair::from_pem(&self.key.serialize_pem()).expect("key"),
            root: Arc::clone(&self.root),
            facts: self.facts.clone(),
            answer: self.answer.clone(),
            ..Self::new(self.id)
        }
    }

    /// Enrols; on refusal, status and fault.
    pub(super) async fn enrol(
        &mut self,
        bed: &Bed,
        token: &EnrolToken,
    ) -> Result<(), (u16, Value)> {
        self.enrol_with(bed, &self.enrolment(token, &csr(&self.key)))
            .await
    }

    /// An enrolment with this tunnel key and root's statement.
    pub(super) fn enrolment(&self, token: &EnrolToken, csr: &str) -> Value {
        let said = Enrolment {
            schema: 1,
            host_id: self.id,
            token: Digest::of(token.secret.expose().as_bytes()),
            csr: Digest::of(csr.as_bytes()),
            facts: self.facts.clone(),
        };
        json!({"schema": 1, "token": token.secret.expose(), "host_id": self.id, "csr": csr,
               "order_key": self.root.trusted(),
               "statement": self.signed(DocumentKind::Enrolment, &said)})
    }

    /// Signed as root of this host.
    pub(super) fn signed(&self, kind: DocumentKind, said: &impl serde::Serialize) -> Envelope {
        self.root
            .sign(kind, &serde_json::to_vec(said).expect("json"))
    }

    /// A nonce.
    pub(super) async fn nonce(&self) -> Nonce {
        let path = "/v1/hosts/self/nonce";
        let (status, body) = self.call(Method::POST, path, &json!({})).await;
        assert_eq!(status, 200, "{body}");
        let fresh: FreshNonce = serde_json::from_value(body).expect("nonce");
        fresh.nonce
    }

    /// An order as nodelet makes it.
    pub(super) async fn order(
        &self,
        cluster: ClusterId,
        key: &KeyPair,
        purposes: &[CertPurpose],
    ) -> CertificateOrder {
        let request = |purpose: &CertPurpose| CertificateRequest {
            purpose: *purpose,
            csr: csr(key),
        };
        CertificateOrder {
            schema: 1,
            host_id: self.id,
            cluster_id: cluster,
            generation: self.current().await.generation,
            nonce: self.nonce().await,
            requests: purposes.iter().map(request).collect(),
            service_account_key: None,
        }
    }

    /// The order with root's signature.
    pub(super) fn signed_order(&self, order: &CertificateOrder) -> Value {
        json!(self.signed(DocumentKind::Order, order))
    }

    /// Posts a possible order to the plane.
    pub(super) async fn bring(&self, said: &Value) -> (u16, Value) {
        let path = "/v1/hosts/self/certificates";
        self.call(Method::POST, path, said).await
    }

    /// Root reports another name or address.
    pub(super) async fn say(&self, name: &str, ip: &str) -> (u16, Value) {
        let report = FactsReport {
            schema: 1,
            host_id: self.id,
            nonce: self.nonce().await,
            facts: NodeFacts::new(name, &[ip.parse().expect("ip")]),
        };
        let said = json!(self.signed(DocumentKind::Facts, &report));
        self.call(Method::POST, "/v1/hosts/self/facts", &said).await
    }

    pub(super) async fn enrol_with(&mut self, bed: &Bed, body: &Value) -> Result<(), (u16, Value)> {
        let url = format!("{}/v1/enrol", bed.url);
        let answer = within(bed.http.post(url).json(body).send())
            .await
            .expect("answer");
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.expect("json");
        if status != 200 {
            return Err((status, body));
        }
        self.answer = Some(serde_json::from_value(body).expect("enrol answer"));
        Ok(())
    }

    /// Opens the tunnel; a refusal is its HTTP status.
    pub(super) async fn connect(&mut self, bed: &Bed) -> Result<(), u16> {
        self.try_connect(bed).await.map_err(|(status, _)| status)
    }

    /// Presents its certificate at the tunnel's address, without opening one.
    pub(super) async fn show(&self, bed: &Bed) -> Result<(), u16> {
        let answer = self.answer.as_ref().expect("enrolled");
        let address = bed.url.trim_start_matches("https://");
        let tls = secure(bed, answer, self.identity()).await.expect("tls");
        match within(mux::ask(
            tls,
            address,
            mux::TUNNEL_PATH,
            self.headers.clone(),
        ))
        .await
        {
            Ok(_) => Ok(()),
            Err(HandshakeError::Refused { status, .. }) => Err(status.as_u16()),
            Err(e) => panic!("{e}"),
        }
    }

    fn identity(&self) -> Option<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
        let answer = self.answer.as_ref().expect("enrolled");
        let certificate = CertificateDer::from_pem_slice(answer.certificate.as_bytes());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        Some((certificate.expect("certificate"), key))
    }

    /// Opens the tunnel.
    pub(super) async fn try_connect(&mut self, bed: &Bed) -> Result<(), Refused> {
        let answer = self.answer.as_ref().expect("enrolled");
        let headers = self.headers.clone();
        let (socket, kind) = dial(bed, answer, self.identity(), headers).await?;
        self.kind = kind;
        let (handle, incoming, driver) = mux::session(socket, Side::Node, Config::default());
        let frozen = Arc::new(AtomicBool::new(false));
        self.frozen = Arc::clone(&frozen);
        let mut driver = Box::pin(driver.into_future());
        let run = poll_fn(move |cx| match frozen.load(Ordering::Relaxed) {
            true => Poll::Pending,
            false => driver.as_mut().poll(cx),
        });
        self.tasks.spawn(async move { drop(run.await) });
        self.tunnel = Some(handle);
        self.incoming = Some(incoming);
        Ok(())
    }

    pub(super) async fn closed(&self) -> Closed {
        within(self.tunnel.as_ref().expect("connected").closed()).await
    }

    /// A host API request through the tunnel.
    pub(super) async fn call(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let (status, _, bytes) = self.call_raw(method, path, body, &HeaderMap::new()).await;
        (
            status,
            serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        )
    }

    pub(super) async fn call_raw(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        headers: &HeaderMap,
    ) -> (u16, HeaderMap, Bytes) {
        let tunnel = self.tunnel.as_ref().expect("connected");
        let stream = tunnel
            .open(mux::HOST_API, Class::Interactive, Meta::new())
            .expect("open");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("handshake");
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "plane");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let request = request.body(Full::new(Bytes::from(text))).expect("request");
        let exchange = async {
            let response = sender.send_request(request).await.expect("answer");
            let (parts, body) = response.into_parts();
            let bytes = body.collect().await.expect("body").to_bytes();
            (parts.status.as_u16(), parts.headers, bytes)
        };
        within(async {
            tokio::select! {
                answer = exchange => answer,
                Err(e) = connection => panic!("connection: {e}"),
            }
        })
        .await
    }

    /// Requests a certificate for a new key; returns the host with that.
    pub(super) async fn renew(&self) -> Result<Self, (u16, Value)> {
        let mut next = self.twin();
        next.key = KeyPair::generate().expect("key");
        let body = json!({"schema": 1, "csr": csr(&next.key)});
        let (status, answer) = self.call(Method::POST, "/v1/hosts/self/renew", &body).await;
        if status != 200 {
            return Err((status, answer));
        }
        let certificate = answer["certificate"].as_str().expect("pem").to_owned();
        next.answer.as_mut().expect("enrolled").certificate = certificate;
        Ok(next)
    }

    /// The next spec after a generation, with a long poll.
    pub(super) async fn spec(&self, after: u64) -> Option<Spec> {
        let path = format!("/v1/hosts/self/spec?after={after}&wait=20");
        let (status, body) = self.call(Method::GET, &path, &Value::Null).await;
        if status == 204 {
            return None;
        }
        assert_eq!(status, 200, "{body}");
        let envelope: Envelope = serde_json::from_value(body).expect("envelope");
        let trust = self.answer.as_ref().expect("enrolled").trust.clone();
        let trust = TrustStore::new(trust).expect("trust");
        let spec: Spec = envelope.open(DocumentKind::Spec, &trust).expect("signed");
        spec.validate(self.id).expect("a host takes it");
        Some(spec)
    }

    /// The plane's present spec for this host, however old.
    pub(super) async fn current(&self) -> Spec {
        self.spec(0).await.expect("every enrolled host has one")
    }

    pub(super) fn status(&self, name: &str, ip: &str) -> Value {
        json!({
            "schema": 1, "host_id": self.id, "agent_version": "0", "boot_id": "b", "uptime_s": 1,
            "sent_at": Timestamp::now(), "accepted_generation": 0, "observed_generation": 0,
            "state": "ok", "reason": null, "refused": null, "node": null, "download": null,
            "inventory": {
                "hostname": name, "os": "Debian", "os_id": "debian", "os_version": "12",
                "kernel": "6", "arch": "amd64", "cpus": 2, "cpu_model": "x", "memory_bytes": 1,
                "addresses": [ip], "interfaces": [],
            },
            "health": {"load1": 0.0, "memory_available_bytes": 1, "disks": [], "warnings": []},
        })
    }

    pub(super) async fn report(&self, name: &str, ip: &str) -> (u16, Value) {
        self.call(
            Method::POST,
            "/v1/hosts/self/status",
            &self.status(name, ip),
        )
        .await
    }
}

/// A refusal: its HTTP status (0 for a TLS failure) and Retry-After.
pub(super) type Refused = (u16, Option<Duration>);

/// Dials the tunnel's endpoint.
pub(super) async fn dial(
    bed: &Bed,
    answer: &EnrolAnswer,
    identity: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    headers: HeaderMap,
) -> Result<(Websocket, String), Refused> {
    let address = bed.url.trim_start_matches("https://");
    let tls = secure(bed, answer, identity).await?;
    match within(mux::connect(tls, address, mux::TUNNEL_PATH, headers)).await {
        Ok((socket, headers)) => {
            let kind = headers[mux::SESSION_HEADER].to_str().expect("a word");
            Ok((socket, kind.to_owned()))
        }
        Err(HandshakeError::Refused {
            status,
            retry_after,
            ..
        }) => Err((status.as_u16(), retry_after)),
        // TLS 1.3 rejects a client certificate after the client is done: seen at the first read.
        Err(HandshakeError::Http(_)) => Err((0, None)),
        Err(e) => panic!("{e}"),
    }
}

async fn secure(
    bed: &Bed,
    answer: &EnrolAnswer,
    identity: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Refused> {
    let mut roots = rustls::RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(answer.ca.as_bytes()) {
        roots.add(ca.expect("ca")).expect("root");
    }
    let builder = rustls::ClientConfig::builder_with_provider(pf9_hostagent::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("tls 1.3")
        .with_root_certificates(roots);
    let config = match identity {
        Some((certificate, key)) => builder
            .with_client_auth_cert(vec![certificate], key)
            .expect("identity"),
        None => builder.with_no_client_auth(),
    };
    let address = bed.url.trim_start_matches("https://");
    assert_eq!(
        answer.endpoints[0],
        format!("wss://{address}{}", mux::TUNNEL_PATH)
    );
    let tcp = within(TcpStream::connect(address)).await.expect("tcp");
    let name = ServerName::try_from("127.0.0.1").expect("name");
    let connector = TlsConnector::from(Arc::new(config));
    within(connector.connect(name, tcp))
        .await
        .map_err(|_| (0, None))
}
