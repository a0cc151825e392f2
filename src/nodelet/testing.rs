//! What the tests of this module share: a node, its authorities, a way to sign.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::certs;
use crate::host::fs::{Attrs, HostFs};
use crate::model::{
    ApiSpec, Assignment, Authorities, Authority, CertPurpose, ClusterId, Digest, EtcdMember,
    EtcdSpec, Generation, HostId, NetworkPlugin, NetworkSpec, NodeSpec, NodeUid, SigningKey, Spec,
    StackRef, Timestamp, UID_ATTRIBUTE, paths,
};

/// The three authorities of a cluster, as the plane has them.
pub(crate) struct Cas {
    cluster: Issuer<'static, KeyPair>,
    etcd: Issuer<'static, KeyPair>,
    front: Issuer<'static, KeyPair>,
    pub(crate) authorities: Authorities,
}

impl Cas {
    pub(crate) fn new() -> Self {
        let ca = |name: &str| {
            let key = KeyPair::generate().expect("key");
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            let pem = params.self_signed(&key).expect("ca").pem();
            (Issuer::new(params, key), pem)
        };
        let ((cluster, c), (etcd, e), (front, f)) = (ca("cluster"), ca("etcd"), ca("front"));
        Self {
            cluster,
            etcd,
            front,
            authorities: Authorities {
                cluster: c,
                etcd: e,
                front_proxy: f,
            },
        }
    }

    /// Signs a request by the table, after `change`.
    pub(crate) fn sign(
        &self,
        csr: &str,
        purpose: CertPurpose,
        node: &NodeSpec,
        change: impl FnOnce(&mut CertificateParams),
    ) -> String {
        let profile = purpose.profile(node);
        let mut request = CertificateSigningRequestParams::from_pem(csr).expect("csr");
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, &profile.common_name);
        for group in &profile.organisations {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        if let Some(uid) = profile.uid {
            let kind = DnType::CustomDnType(UID_ATTRIBUTE.to_vec());
            params.distinguished_name.push(kind, uid.to_string());
        }
        let mut uses = BTreeSet::new();
        uses.extend(profile.server.then_some(0));
        uses.extend(profile.client.then_some(1));
        params.extended_key_usages = uses
            .into_iter()
            .map(|u| match u {
                0 => ExtendedKeyUsagePurpose::ServerAuth,
                _ => ExtendedKeyUsagePurpose::ClientAuth,
            })
            .collect();
        params.subject_alt_names = profile
            .sans
            .iter()
            .map(|s| match s.parse() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(s.as_str().try_into().expect("dns name")),
            })
            .collect();
        change(&mut params);
        request.params = params;
        let issuer = match profile.authority {
            Authority::Cluster => &self.cluster,
            Authority::Etcd => &self.etcd,
            Authority::FrontProxy => &self.front,
        };
        request.signed_by(issuer).expect("sign").pem()
    }
}

/// A host that is always the same.
pub(crate) fn host_id() -> HostId {
    "6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11".parse().expect("id")
}

/// What a node's certificates say since the `n`th time that the host became one.
pub(crate) fn uid(n: i64) -> NodeUid {
    let at = jiff::Timestamp::from_second(n).expect("time");
    NodeUid::of(ClusterId(uuid::Uuid::nil()), host_id(), at)
}

/// A node with these authorities.
pub(crate) fn node(authorities: Authorities) -> NodeSpec {
    let ip = "10.1.2.3".parse().expect("ip");
    NodeSpec {
        host_id: host_id(),
        cluster_id: ClusterId("11111111-2222-4333-8444-555555555555".parse().expect("id")),
        cluster_name: "c".into(),
        node_name: "n1".parse().expect("name"),
        node_ip: ip,
        pod_cidr: "10.20.1.0/24".parse().expect("net"),
        uid: Some(uid(1)),
        refused_uids: Vec::new(),
        labels: Default::default(),
        upgrade: None,
        addons: None,
        addons_off: Vec::new(),
        stack: StackRef {
            name: "pf9-kube".into(),
            version: "1.37.2-1".into(),
            manifest: Digest::of(b"m"),
        },
        authorities,
        api: ApiSpec {
            host: "10.1.2.1".into(),
            port: 6443,
            extra_sans: Vec::new(),
            shared: false,
            extra_args: Default::default(),
            oidc: Vec::new(),
            pod_security: Default::default(),
            audit: Default::default(),
        },
        network: NetworkSpec {
            plugin: NetworkPlugin::Bridge,
            pods_cidr: "10.20.0.0/16".parse().expect("net"),
            services_cidr: "10.21.0.0/16".parse().expect("net"),
            cluster_domain: "cluster.local".into(),
            mtu: None,
            peers: Vec::new(),
            policies: Default::default(),
            load_balancer: Vec::new(),
        },
        etcd: EtcdSpec {
            members: vec![EtcdMember {
                host_id: host_id(),
                ip,
                joins: false,
            }],
            ..EtcdSpec::default()
        },
        service_account_keys: Vec::new(),
        runtime: Default::default(),
        kubelet: Default::default(),
        kube_proxy: Default::default(),
        allow_workloads_on_master: false,
        feature_gates: Default::default(),
    }
}

/// A spec of this generation.
pub(crate) fn spec(generation: u64, assignment: Assignment) -> Spec {
    Spec {
        schema: 1,
        host_id: host_id(),
        generation: Generation(generation),
        issued_at: Timestamp::UNIX_EPOCH,
        assignment,
        force: false,
        agent: None,
        maintenance: None,
    }
}

/// Makes the host one that trusts a fresh key; forgets others.
pub(crate) fn enrolled(fs: &HostFs) -> SigningKey {
    let attrs = Attrs::mode(0o644);
    fs.remove_tree(paths::TRUST_DIR).expect("forget");
    let (key, _) = SigningKey::generate().expect("key");
    let trusted = key.trusted();
    let bytes = serde_json::to_vec(&trusted).expect("json");
    let path = format!("{}/{}.json", paths::TRUST_DIR, trusted.id);
    fs.write(path, &bytes, &attrs).expect("pin");
    let text = format!("[hostagent]\nhost_id = {}\n", host_id());
    fs.write(paths::HOST_ID, text.as_bytes(), &attrs)
        .expect("id");
    crate::identity::order_key::ensure(fs, host_id()).expect("order key");
    key
}

/// A certificate of this purpose, and its key.
pub(crate) fn pair(cas: &Cas, purpose: CertPurpose, node: &NodeSpec) -> (String, String) {
    let key = KeyPair::generate().expect("key");
    let request = CertificateParams::default().serialize_request(&key);
    let request = request.expect("request").pem().expect("pem");
    (
        cas.sign(&request, purpose, node, |_| {}),
        key.serialize_pem(),
    )
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

/// A server with this certificate and key.
pub(crate) fn acceptor((certificate, key): (String, String)) -> TlsAcceptor {
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
