//! One try to reach the plane: DNS, TCP, TLS, websocket.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::identity::TunnelIdentity;
use crate::model::Fault;
use crate::mux::{self, HandshakeError, Websocket};

/// A websocket to the plane.
pub(super) type Socket = Websocket<TlsStream<TcpStream>>;

/// Why the plane was not reached, by the hop that failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The endpoint is no `wss://host[:port][/path]`.
    #[error("{0:?} is no wss:// URL")]
    Url(String),
    /// DNS does not know the name.
    #[error("the name {host} cannot be resolved")]
    Dns {
        /// Which name.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No address answered.
    #[error("no connection to {address}")]
    Tcp {
        /// The last address that was tried.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// TLS failed.
    #[error("TLS with {host} failed")]
    Tls {
        /// Which host.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The plane said no, or whoever answered does not speak our websocket.
    #[error("no tunnel at this address")]
    Handshake(#[source] HandshakeError),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// Longest a whole try may take.
const TRY: Duration = Duration::from_secs(20);
/// Head start of one address over the next (RFC 8305 calls it the connection attempt delay).
const STAGGER: Duration = Duration::from_millis(250);
/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// Bytes the kernel may hold unsent: what a key stroke finds ahead of itself there.
const UNSENT_MAX: u32 = 128 * 1024;
/// How long sent bytes may stay unacknowledged before the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(20);
const DEFAULT_PORT: u16 = 443;

/// Dials `endpoint`. DNS is asked anew each time.
pub(super) async fn dial(identity: &TunnelIdentity, endpoint: &str) -> Result<Socket, DialError> {
    tokio::time::timeout(TRY, try_dial(identity, endpoint))
        .await
        .map_err(|_| DialError::Timeout(TRY))?
}

async fn try_dial(identity: &TunnelIdentity, endpoint: &str) -> Result<Socket, DialError> {
    let Endpoint { host, port, path } = split(endpoint)?;
    let tcp = connect(&host, port).await?;
    tune(&tcp).map_err(|source| DialError::Tcp {
        address: host.clone(),
        source,
    })?;
    let name =
        ServerName::try_from(host.clone()).map_err(|_| DialError::Url(endpoint.to_owned()))?;
    let tls = TlsConnector::from(Arc::clone(&identity.tls))
        .connect(name, tcp)
        .await
        .map_err(|source| DialError::Tls {
            host: host.clone(),
            source,
        })?;
    let authority = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    mux::connect(tls, &authority, &path)
        .await
        .map_err(DialError::Handshake)
}

/// A `wss://` URL, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    host: String,
    port: u16,
    path: String,
}

fn split(endpoint: &str) -> Result<Endpoint, DialError> {
    let bad = || DialError::Url(endpoint.to_owned());
    let uri: http::Uri = endpoint.parse().map_err(|_| bad())?;
    if uri.scheme_str() != Some("wss") {
        return Err(bad());
    }
    let host = uri.host().ok_or_else(bad)?;
    // A literal IPv6 address stands in brackets in a URL and without them everywhere else.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok(Endpoint {
        host: host.to_owned(),
        port: uri.port_u16().unwrap_or(DEFAULT_PORT),
        path: match uri.path() {
            "" | "/" => mux::TUNNEL_PATH.to_owned(),
            path => path.to_owned(),
        },
    })
}

/// Races the addresses of a name, each with a head start over the next.
async fn connect(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let found = tokio::net::lookup_host((host, port))
        .await
        .map_err(|source| DialError::Dns {
            host: host.to_owned(),
            source,
        })?;
    let mut waiting = interleave(found.take(ADDRESSES_MAX).collect()).into_iter();
    let mut running = JoinSet::new();
    let mut last = DialError::Dns {
        host: host.to_owned(),
        source: io::Error::new(io::ErrorKind::NotFound, "it has no address"),
    };
    let mut next = waiting.next();
    loop {
        if let Some(address) = next.take() {
            running.spawn(async move { (address, TcpStream::connect(address).await) });
        }
        if running.is_empty() {
            return Err(last);
        }
        tokio::select! {
            // cancel-safe: join_next and sleep are
            Some(ended) = running.join_next() => match ended {
                Ok((_, Ok(stream))) => return Ok(stream),
                Ok((address, Err(source))) => {
                    last = DialError::Tcp { address: address.to_string(), source };
                    next = waiting.next();
                }
                Err(_) => next = waiting.next(),
            },
            () = tokio::time::sleep(STAGGER), if waiting.len() > 0 => next = waiting.next(),
        }
    }
}

/// IPv6 and IPv4 in turns, so that a family without a path costs one head start.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (six, four): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv6);
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    let mut out = Vec::new();
    loop {
        match (six.next(), four.next()) {
            (None, None) => return out,
            (a, b) => out.extend(a.into_iter().chain(b)),
        }
    }
}

fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_notsent_lowat(UNSENT_MAX)
}

// === impl DialError ===

impl DialError {
    /// The plane's own wish for the next try.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Handshake(HandshakeError::Refused { retry_after, .. }) => *retry_after,
            Self::Handshake(_)
            | Self::Url(_)
            | Self::Dns { .. }
            | Self::Tcp { .. }
            | Self::Tls { .. }
            | Self::Timeout(_) => None,
        }
    }

    /// The failure in words a person can act on.
    pub fn fault(&self, endpoint: &str) -> Fault {
        let (code, fix) = match self {
            Self::Url(_) => (
                "plane-url",
                "run pf9ctl prep-node again with the right --plane URL",
            ),
            Self::Dns { .. } => (
                "plane-unresolvable",
                "check the name, /etc/resolv.conf and the name server",
            ),
            Self::Tcp { .. } => (
                "plane-refused",
                "check that the plane runs and that the firewall lets this host out to it",
            ),
            Self::Tls { .. } => (
                "plane-foreign-certificate",
                "check that nothing in between opens TLS, and that the host is still enrolled",
            ),
            Self::Handshake(HandshakeError::Refused { status, .. })
                if *status == StatusCode::FORBIDDEN =>
            {
                (
                    "plane-forbidden",
                    "the plane does not know this host any more: run pf9ctl prep-node again",
                )
            }
            Self::Handshake(HandshakeError::Refused { .. }) => {
                ("plane-busy", "nothing to do: it is tried again")
            }
            Self::Handshake(_) => (
                "plane-garbage",
                "check that the URL is the plane's and that no proxy answers in its place",
            ),
            Self::Timeout(_) => (
                "plane-timeout",
                "check that the firewall lets this host out to the plane",
            ),
        };
        let what = format!("cannot connect to {endpoint}");
        Fault::new(code, what, crate::telemetry::chain(self)).fix(fix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_wss_urls() {
        let ok = |e: &str| {
            let Endpoint { host, port, path } = split(e).expect(e);
            format!("{host} {port} {path}")
        };
        assert_eq!(ok("wss://plane.example"), "plane.example 443 /v1/tunnel");
        assert_eq!(ok("wss://10.0.0.1:8443/x"), "10.0.0.1 8443 /x");
        assert_eq!(ok("wss://[fd00::1]:1/x"), "fd00::1 1 /x");
        for bad in ["", "http://a", "ws://a", "wss://", "plane"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn families_take_turns() {
        let a = |s: &str| s.parse::<SocketAddr>().expect(s);
        let all = vec![a("1.1.1.1:1"), a("2.2.2.2:1"), a("[::1]:1")];
        let want = vec![a("[::1]:1"), a("1.1.1.1:1"), a("2.2.2.2:1")];
        assert_eq!(interleave(all), want);
    }

    #[tokio::test]
    async fn each_hop_that_fails_is_named() {
        let refused = connect("127.0.0.1", 1).await.expect_err("nobody there");
        assert_eq!(refused.fault("wss://127.0.0.1:1").code, "plane-refused");
        let unknown = connect("no-such-name.invalid", 1)
            .await
            .expect_err("no name");
        assert_eq!(unknown.fault("wss://x").code, "plane-unresolvable");
    }
}
