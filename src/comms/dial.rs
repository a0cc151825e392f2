//! One try to reach the plane: the way out, TLS, websocket.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::own::Own;
use super::tcp::Probe;
use crate::app::tune;
use crate::egress::{self, Egress, Hop, Journey, ReachError};
use crate::host::fs::HostFs;
use crate::identity::{self, Distrust, TlsPolicy, TunnelIdentity};
use crate::model::{Envelope, Fault, FaultCode, SessionKind, Timestamp};
use crate::mux::{self, HandshakeError, Websocket};

/// A websocket to the plane, and what the plane says it is good for.
pub(super) struct Dialled {
    pub(super) socket: Websocket,
    /// Where the kernel can be asked.
    pub(super) probe: Option<Probe>,
    pub(super) kind: SessionKind,
}

/// How this host connects to its plane: its identity, and the way out.
#[derive(Clone)]
pub struct TunnelRoute {
    identity: TunnelIdentity,
    egress: Egress,
    own: Option<Arc<Own>>,
}

/// A question to an endpoint, and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Our time when it was asked.
    pub sent: Timestamp,
    /// Our time when the answer was there.
    pub got: Timestamp,
    /// The answer's time, as HTTP writes it.
    pub date: Option<String>,
}

/// What the plane says to a copy.
#[derive(Debug, Deserialize)]
pub(super) struct Copied {
    #[serde(flatten)]
    pub(super) fault: Fault,
    /// Signed: a trust document for nodelet to verify.
    #[serde(default)]
    pub(super) documents: Vec<Envelope>,
}

/// Why the plane was not reached, by the hop that failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The endpoint is no `wss://host[:port][/path]`.
    #[error("{0:?} is not a wss:// URL")]
    Url(String),
    /// There is no connection: DNS, TCP, or the proxy in between.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// The other side's certificate is not trusted.
    #[error("the certificate of {host} is not trusted: {why}")]
    Foreign {
        /// Which host.
        host: String,
        /// Why not.
        why: String,
    },
    /// This machine's clock is behind.
    #[error("{}", identity::early(host, *by))]
    Early {
        /// Which host.
        host: String,
        /// How far, at least.
        by: Duration,
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
    /// The plane said no, or the server does not speak our websocket.
    #[error("no tunnel at this address")]
    Handshake(#[source] HandshakeError),
    /// It took too long.
    #[error("no answer within {} s: the time went into {hop}", after.as_secs())]
    Timeout {
        /// Where it hung.
        hop: Hop,
        /// The deadline of the whole try.
        after: Duration,
    },
}

/// Longest a whole try may take.
pub(super) const TRY: Duration = Duration::from_secs(20);
/// A host that is not enrolled tries again no sooner than this, and no later than twice this: only a
/// person changes it. Enrolling again restarts this program; a host that the plane lets in again (a
/// restored store, a whole fleet of hosts) comes by itself, spread over these minutes.
const FORBIDDEN: Duration = Duration::from_secs(300);
/// A copy is looked at again after this, and at most twice this: a person may just have said that it
/// is the host.
const COPIED_AGAIN: Duration = Duration::from_secs(30);
const DEFAULT_PORT: u16 = 443;

// === impl Route ===

impl TunnelRoute {
    /// The identity's endpoints, this way.
    pub fn new(identity: TunnelIdentity, egress: Egress) -> Self {
        Self {
            identity,
            egress,
            own: None,
        }
    }

    /// The route of the machine itself: it says which machine it is, shows and takes tickets, and
    /// trusts the authorities that are on the disk when it dials.
    pub fn of_this_machine(self, fs: HostFs, policy: TlsPolicy) -> Self {
        let own = Own::new(fs, policy, self.identity.host_id);
        Self {
            own: Some(Arc::new(own)),
            ..self
        }
    }

    /// `wss://…`, best first.
    pub fn endpoints(&self) -> &[String] {
        &self.identity.endpoints
    }

    /// The same way, as the holder of another certificate.
    pub(super) fn as_holder(&self, identity: TunnelIdentity) -> Self {
        Self {
            identity,
            egress: self.egress.clone(),
            own: self.own.clone(),
        }
    }

    /// Its identity and its present trust anchors.
    pub(super) fn identity(&self) -> TunnelIdentity {
        match &self.own {
            Some(own) => own.believing_now(&self.identity),
            None => self.identity.clone(),
        }
    }

    /// Whether both go with the same certificate.
    pub(super) fn shows_what(&self, other: &Self) -> bool {
        self.identity.certificate == other.identity.certificate
    }

    /// Dials `endpoint`. `more` are headers of the handshake.
    pub(super) async fn dial(&self, endpoint: &str, more: HeaderMap) -> Result<Dialled, DialError> {
        let mut journey = Journey::default();
        let dialled = in_time(TRY, &mut journey, async |journey| {
            let (tls, at) = self.secure(endpoint, journey).await?;
            journey.begin(Hop::Websocket);
            let mut headers = more;
            if let Some(own) = &self.own {
                headers.extend(own.headers(endpoint));
            }
            let probe = Probe::of(tls.get_ref().0.get_ref())
                .inspect_err(|error| tracing::debug!(%error, "the kernel reports no metrics"))
                .ok();
            let tls = mux::Secured::new(tls);
            let connected = mux::connect(tls, &at.authority(), &at.path, headers).await;
            let (socket, answer) = connected.map_err(DialError::Handshake)?;
            if let Some(own) = &self.own {
                own.heard(endpoint, &answer).await;
            }
            let kind = kind_of(&answer);
            journey.end("it accepts this host's tunnel");
            Ok(Dialled {
                socket,
                probe,
                kind,
            })
        })
        .await;
        tracing::debug!(endpoint, hops = ?journey.passed(), "dialled");
        dialled
    }

    /// Goes the same way to the same place as the tunnel does, and asks there whether it would be
    /// taken. No session begins: one that runs is not disturbed.
    pub async fn try_endpoint(
        &self,
        endpoint: &str,
        journey: &mut Journey,
    ) -> Result<(), DialError> {
        let asked = self.ask_endpoint(endpoint, TRY, journey).await;
        asked.map(drop)
    }

    /// The same within a time of the caller's, with what the plane's clock says.
    pub async fn ask_endpoint(
        &self,
        endpoint: &str,
        longest: Duration,
        journey: &mut Journey,
    ) -> Result<Answered, DialError> {
        in_time(longest, journey, async |journey| {
            let (tls, at) = self.secure(endpoint, journey).await?;
            journey.begin(Hop::Websocket);
            let own = self.own.as_ref().map(|own| own.headers(endpoint));
            let sent = crate::seam::clock::now();
            let date = mux::ask(tls, &at.authority(), &at.path, own.unwrap_or_default())
                .await
                .map_err(DialError::Handshake)?;
            journey.end("it knows this host and accepts tunnels");
            Ok(Answered {
                sent,
                got: crate::seam::clock::now(),
                date,
            })
        })
        .await
    }

    async fn secure(
        &self,
        endpoint: &str,
        journey: &mut Journey,
    ) -> Result<(TlsStream<mux::Ahead<TcpStream>>, Endpoint), DialError> {
        let at = split(endpoint)?;
        let name = ServerName::try_from(at.host.clone())
            .map_err(|_| DialError::Url(endpoint.to_owned()))?;
        let tcp = self.egress.reach(&at.host, at.port, journey).await?;
        let host = at.host.clone();
        let failed = |source| match identity::not_believed(&source) {
            Some(Distrust::Early(by)) => DialError::Early { host, by },
            Some(Distrust::Foreign(why)) => DialError::Foreign { host, why },
            None => DialError::Tls { host, source },
        };
        journey.begin(Hop::Tls);
        tune(&tcp).map_err(|source| DialError::Tls {
            host: at.host.clone(),
            source,
        })?;
        let tls = TlsConnector::from(self.identity().tls)
            .connect(name, mux::Ahead::new(tcp))
            .await
            .map_err(|e| match self.egress.cut(&at.host, at.port, &e) {
                Some(cut) => cut.into(),
                None => failed(e),
            })?;
        journey.end(session_words(&tls));
        Ok((tls, at))
    }
}

/// Runs one try under its deadline; the hop at which it strikes is named.
async fn in_time<T>(
    longest: Duration,
    journey: &mut Journey,
    work: impl AsyncFnOnce(&mut Journey) -> Result<T, DialError>,
) -> Result<T, DialError> {
    let done = tokio::time::timeout(longest, work(journey)).await;
    done.unwrap_or_else(|_| {
        Err(DialError::Timeout {
            hop: journey.at().map_or(Hop::Resolve, |(hop, _)| hop),
            after: longest,
        })
    })
}

/// The kind of session that the plane announces. An unknown word is a kind we could not use: the plane refuses what
/// does not fit, with a reason.
fn kind_of(headers: &HeaderMap) -> SessionKind {
    let said = headers.get(mux::SESSION_HEADER).map(HeaderValue::as_bytes);
    let is_it = |kind: &SessionKind| said == Some(kind.as_str().as_bytes());
    SessionKind::ALL.into_iter().find(is_it).unwrap_or_default()
}

/// Version and kind of a handshake, for people.
fn session_words(tls: &TlsStream<mux::Ahead<TcpStream>>) -> String {
    let connection = tls.get_ref().1;
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(_) | None => "TLS",
    };
    match connection.handshake_kind() {
        Some(HandshakeKind::Resumed) => format!("{version}, resumed"),
        Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest) | None => {
            version.to_owned()
        }
    }
}

/// A `wss://` URL, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    host: String,
    port: u16,
    path: String,
}

impl Endpoint {
    fn authority(&self) -> String {
        egress::authority(&self.host, self.port)
    }
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

// === impl DialError ===

impl DialError {
    /// Whether the plane refuses this host, or the certificate it showed.
    pub(super) fn is_forbidden(&self) -> bool {
        match self {
            Self::Handshake(HandshakeError::Refused { status, .. }) => {
                *status == StatusCode::FORBIDDEN
            }
            Self::Handshake(_)
            | Self::Url(_)
            | Self::Reach(_)
            | Self::Foreign { .. }
            | Self::Early { .. }
            | Self::Tls { .. }
            | Self::Timeout { .. } => false,
        }
    }

    /// How long the plane wants to be left alone; `random`: uniform in [0, 1).
    pub fn retry_after(&self, random: f64) -> Option<Duration> {
        match self {
            Self::Handshake(_) if self.copied().is_some() => {
                Some(COPIED_AGAIN.mul_f64(1.0 + random.clamp(0.0, 1.0)))
            }
            Self::Handshake(_) if self.is_forbidden() => {
                Some(FORBIDDEN.mul_f64(1.0 + random.clamp(0.0, 1.0)))
            }
            Self::Handshake(HandshakeError::Refused { retry_after, .. }) => *retry_after,
            Self::Handshake(_)
            | Self::Url(_)
            | Self::Reach(_)
            | Self::Foreign { .. }
            | Self::Early { .. }
            | Self::Tls { .. }
            | Self::Timeout { .. } => None,
        }
    }

    /// The plane's word that this machine is a copy, and its signed orders.
    pub(super) fn copied(&self) -> Option<Copied> {
        let Self::Handshake(HandshakeError::Refused { said, .. }) = self else {
            return None;
        };
        let said = serde_json::from_slice::<Copied>(said).ok();
        said.filter(|s| s.fault.code == FaultCode::IdentityCopied)
    }

    /// The failure in words a person can act on.
    pub fn fault(&self, endpoint: &str) -> Fault {
        if let Some(copied) = self.copied() {
            return copied.fault;
        }
        let (code, fix) = match self {
            Self::Url(_) => (
                FaultCode::PlaneUrl,
                "run pf9ctl node prep again with the right --plane URL",
            ),
            Self::Reach(why) => why.code_and_fix(),
            Self::Foreign { .. } => (
                FaultCode::PlaneForeignCertificate,
                "check that nothing in between inspects TLS, and that the host is still enrolled",
            ),
            Self::Early { .. } => (FaultCode::ClockOff, identity::SET_THE_CLOCK),
            Self::Tls { .. } => (
                FaultCode::PlaneGarbage,
                "check that the URL is the plane's and that nothing in between inspects or forbids TLS",
            ),
            Self::Handshake(_) if self.is_forbidden() => (
                FaultCode::PlaneForbidden,
                "the plane no longer knows this host, or its key: see pf9-plane host list \
                 there; pf9ctl node prep with a new token makes it a host again",
            ),
            Self::Handshake(HandshakeError::Refused { status, .. })
                if status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS =>
            {
                (
                    FaultCode::PlaneBusy,
                    "nothing to do: it is retried automatically",
                )
            }
            Self::Handshake(_) => (
                FaultCode::PlaneGarbage,
                "check that the URL is the plane's and that no proxy answers in its place",
            ),
            Self::Timeout { hop, .. } if hop.is_the_proxys() => (
                FaultCode::ProxyTimeout,
                "check the proxy in [comms.proxy] and that it gets through to the plane",
            ),
            Self::Timeout { .. } => (
                FaultCode::PlaneTimeout,
                "check that the firewall lets this host out to the plane",
            ),
        };
        let what = format!("cannot connect to {endpoint}");
        Fault::new(code, what, crate::telemetry::chain(self)).fix(fix)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::app::socket;

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

    #[tokio::test]
    async fn every_socket_option_is_set() {
        let (server, client) = socket::testing::tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let endpoint = format!("wss://{}", listener.local_addr().expect("address"));
        let identity = TunnelIdentity::of_nobody(&endpoint, client);
        let route = TunnelRoute::new(identity, Egress::direct());
        let mut journey = Journey::default();
        let (dialled, accepted) = tokio::join!(route.secure(&endpoint, &mut journey), async {
            let (tcp, _) = listener.accept().await.expect("accept");
            TlsAcceptor::from(server).accept(tcp).await
        });
        accepted.expect("accepted");
        let (tls, _) = dialled.expect("dialled");
        socket::testing::check(tls.get_ref().0.get_ref());
    }

    /// The plane's certificate is younger than this machine's time.
    #[tokio::test]
    async fn a_clock_that_is_behind_is_named_as_what_it_is() {
        let (server, client) = socket::testing::tls_with(|params| {
            params.not_before = rcgen::date_time_ymd(2999, 1, 1)
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let endpoint = format!("wss://{}", listener.local_addr().expect("address"));
        let identity = TunnelIdentity::of_nobody(&endpoint, client);
        let route = TunnelRoute::new(identity, Egress::direct());
        let mut journey = Journey::default();
        let (dialled, _) = tokio::join!(route.secure(&endpoint, &mut journey), async {
            let (tcp, _) = listener.accept().await.expect("accept");
            TlsAcceptor::from(server).accept(tcp).await
        });
        let fault = dialled.map(drop).expect_err("early").fault(&endpoint);
        assert_eq!(fault.code, FaultCode::ClockOff, "{fault}");
        assert!(fault.why.contains("the clock is behind"), "{fault}");
        assert!(fault.fix.contains("set the clock"), "{fault}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_named_after_the_hop_it_strikes_at() {
        for (hop, code) in [
            (Hop::ProxyResolve, FaultCode::ProxyTimeout),
            (Hop::ProxyConnect, FaultCode::ProxyTimeout),
            (Hop::ProxyTunnel, FaultCode::ProxyTimeout),
            (Hop::Resolve, FaultCode::PlaneTimeout),
            (Hop::Connect, FaultCode::PlaneTimeout),
            (Hop::Tls, FaultCode::PlaneTimeout),
            (Hop::Websocket, FaultCode::PlaneTimeout),
        ] {
            let mut journey = Journey::default();
            let hangs = in_time(TRY, &mut journey, async |journey| {
                journey.begin(hop);
                std::future::pending::<Result<(), _>>().await
            });
            let fault = hangs.await.expect_err("late").fault("wss://plane.example");
            assert_eq!(fault.code, code);
            assert!(fault.why.contains(&hop.to_string()), "{fault}");
        }
    }
}
