//! Keys, certificates and configuration of both ends, as enrolment leaves them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::identity::{self, Identity, Owners};
use pf9_hostagent::model::{HostId, MachineMarks, Secret, paths};
use pf9_hostagent::{mux, tls};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the authority and the plane's certificate are; made when they are not.
    #[arg(long)]
    dir: PathBuf,
    /// A node's root directory to fill.
    #[arg(long, requires = "plane", requires = "target")]
    node: Option<PathBuf>,
    /// Where the node's tunnel connects.
    #[arg(long)]
    plane: Option<SocketAddr>,
    /// What the node's services lead to.
    #[arg(long)]
    target: Option<SocketAddr>,
    /// Seconds between the node's pings; its default when not given.
    #[arg(long)]
    ping_s: Option<u64>,
}

/// The one service of the node.
pub(crate) const SERVICE: &str = "target";
/// As many streams as the protocol allows.
const STREAMS: u32 = pf9_hostagent::wire::limits::STREAMS_MAX;

pub(crate) fn run(args: &Args) -> Result<()> {
    fs::create_dir_all(&args.dir)?;
    if !args.dir.join("ca.pem").exists() {
        authority(&args.dir)?;
    }
    if let (Some(root), Some(plane), Some(target)) = (&args.node, args.plane, args.target) {
        node(&args.dir, root, plane, target)?;
        if let Some(seconds) = args.ping_s {
            let folder = HostFs::new(root).at(paths::CONFIG_DIR);
            fs::create_dir_all(&folder)?;
            let text = format!("[comms]\nping_s = {seconds}\n");
            fs::write(folder.join("50-bench.toml"), text)?;
        }
    }
    Ok(())
}

fn authority(dir: &Path) -> Result<()> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "bench CA");
    fs::write(dir.join("ca.pem"), ca.self_signed(&ca_key)?.pem())?;
    fs::write(dir.join("ca.key"), ca_key.serialize_pem())?;
    let key = KeyPair::generate()?;
    let mut plane = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
    plane.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let issuer = Issuer::new(ca, ca_key);
    let certificate = plane.signed_by(&key, &issuer)?.pem();
    fs::write(dir.join("server.crt"), &certificate)?;
    fs::write(dir.join("server.key"), key.serialize_pem())?;
    // Certificate and key in one file, as haproxy and stunnel want them.
    let both = format!("{certificate}{}", key.serialize_pem());
    fs::write(dir.join("server.pem"), both)?;
    Ok(())
}

fn node(dir: &Path, root: &Path, plane: SocketAddr, target: SocketAddr) -> Result<()> {
    let host_id = HostId::random();
    let (certificate, key) = client_pair(dir, &host_id.to_string())?;
    let endpoint = format!("wss://{plane}{}", mux::TUNNEL_PATH);
    let identity = Identity {
        host_id,
        key: Secret::new(key),
        certificate,
        plane_ca: fs::read_to_string(dir.join("ca.pem"))?,
        trust: Vec::new(),
        endpoints: vec![endpoint],
        trust_version: None,
        machine: MachineMarks::default(),
    };
    let host = HostFs::new(root);
    identity::save(&host, &identity, &Owners::current_user())?;
    let services = host.at(paths::SERVICES_DIR);
    fs::create_dir_all(&services)?;
    let list = format!(
        "[[service]]\nname = \"{SERVICE}\"\nconnect = \"{target}\"\nmax_streams = {STREAMS}\n"
    );
    fs::write(services.join("bench.toml"), list)?;
    for folder in [host.at("/run/pf9"), host.at(paths::LOG_DIR).join("comms")] {
        fs::create_dir_all(folder)?;
    }
    Ok(())
}

/// A node's certificate and key, PEM.
fn client_pair(dir: &Path, name: &str) -> Result<(String, String)> {
    let ca_key = KeyPair::from_pem(&fs::read_to_string(dir.join("ca.key"))?)?;
    let issuer = Issuer::from_ca_cert_pem(&fs::read_to_string(dir.join("ca.pem"))?, ca_key)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
}

/// The plane's TLS: 1.3, client certificates asked for, tickets to come back with, as the plane does.
pub(crate) fn server_config(dir: &Path) -> Result<Arc<ServerConfig>> {
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(dir)?), tls::provider())
            .allow_unauthenticated()
            .build()?;
    let chain = vec![
        CertificateDer::from_pem_file(dir.join("server.crt"))?,
        CertificateDer::from_pem_file(dir.join("ca.pem"))?,
    ];
    let key = PrivateKeyDer::from_pem_file(dir.join("server.key"))?;
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// A node's TLS: 1.3 with a certificate of its own, as the node does.
pub(crate) fn client_config(dir: &Path) -> Result<ClientConfig> {
    let (certificate, key) = client_pair(dir, &HostId::random().to_string())?;
    client_of(Arc::new(roots(dir)?), &certificate, &key)
}

/// The same with this certificate and key, PEM.
pub(crate) fn client_of(
    roots: Arc<RootCertStore>,
    certificate: &str,
    key: &str,
) -> Result<ClientConfig> {
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    Ok(config)
}

/// The authority of a directory.
pub(crate) fn roots(dir: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.pem"))?)?;
    Ok(roots)
}
