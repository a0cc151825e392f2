//! What both ends of the tunnel ask of the kernel for a TCP connection.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Bytes the kernel may hold unsent: what a key stroke finds ahead of itself there.
const UNSENT_MAX: u32 = 128 * 1024;
/// How long sent bytes may stay unacknowledged before the kernel gives the connection up: as long
/// as a silent peer is assumed to live.
const USER_TIMEOUT: Duration = Duration::from_secs(20);
/// An idle connection is probed, so that one whose other end is gone does not stay for ever: there are no pings before
/// a tunnel is up, or in an operator's idle connection.
const IDLE: Duration = Duration::from_secs(15);
/// How often it is asked about then, and how often in vain.
const IDLE_EVERY: Duration = Duration::from_secs(5);
const IDLE_RETRIES: u32 = 3;

/// Sets all of it.
pub fn tune(tcp: &TcpStream) -> io::Result<()> {
    // Frames and prompts are small: they must not wait for company.
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    let keepalive = TcpKeepalive::new()
        .with_time(IDLE)
        .with_interval(IDLE_EVERY)
        .with_retries(IDLE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_notsent_lowat(UNSENT_MAX)
}

/// What tests of both ends share.
#[cfg(any(test, feature = "fault"))]
pub mod testing {
    use std::sync::Arc;

    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::{ClientConfig, RootCertStore, ServerConfig};

    use super::*;

    /// Asks the kernel for everything that [`tune`] sets.
    pub fn check(tcp: &TcpStream) {
        let socket = SockRef::from(tcp);
        assert!(tcp.nodelay().expect("nodelay"));
        assert!(socket.keepalive().expect("keepalive"));
        assert_eq!(socket.tcp_keepalive_time().expect("time"), IDLE);
        let every = socket.tcp_keepalive_interval().expect("interval");
        assert_eq!(every, IDLE_EVERY);
        let retries = socket.tcp_keepalive_retries().expect("retries");
        assert_eq!(retries, IDLE_RETRIES);
        let timeout = socket.tcp_user_timeout().expect("user timeout");
        assert_eq!(timeout, Some(USER_TIMEOUT));
        let unsent = socket.tcp_notsent_lowat().expect("notsent_lowat");
        assert_eq!(unsent, UNSENT_MAX);
    }

    /// TLS for 127.0.0.1, and who trusts it.
    pub fn tls() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
        tls_with(|_| {})
    }

    /// The same with another certificate.
    pub fn tls_with(
        change: impl FnOnce(&mut CertificateParams),
    ) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("params");
        change(&mut params);
        let cert = params.self_signed(&key).expect("certificate");
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let server = ServerConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], PrivateKeyDer::Pkcs8(key))
            .expect("identity");
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).expect("root");
        let client = ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        (Arc::new(server), Arc::new(client))
    }
}
