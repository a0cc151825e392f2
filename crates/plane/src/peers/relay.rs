//! What a door passes on, at the plane with the seat: a local connection to its own port, which is accepted, judged and
//! counted as any other, by the address of the client that is behind it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};

use super::{FROM, PROTOCOL, is_plane, linger, pass_on};
use crate::refusal::{Answer, Refusal};
use crate::state::Plane;
use crate::strangers::Outside;
use pf9_hostagent::app::tune;
use pf9_hostagent::model::FaultCode;

/// How long a connection to the own port may take: longer means that it is not served.
const CONNECT: Duration = Duration::from_secs(2);
const REFUSED: &str = "connection not passed on";

/// Local connections that stand for a client elsewhere.
#[derive(Debug)]
pub(crate) struct Relayed {
    /// The own port.
    at: SocketAddr,
    /// By the address of the local one, the client's.
    clients: Mutex<BTreeMap<SocketAddr, SocketAddr>>,
}

/// One of them, until it is dropped.
struct Standing<'a> {
    relayed: &'a Relayed,
    local: SocketAddr,
}

impl Relayed {
    /// For a plane that listens at this address.
    pub(crate) fn new(listening: SocketAddr) -> Self {
        let ip = match listening.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Self {
            at: SocketAddr::new(ip, listening.port()),
            clients: Mutex::default(),
        }
    }

    /// Whose connection this is: what comes from this address, or the client that it stands for.
    pub(crate) fn client(&self, address: SocketAddr) -> SocketAddr {
        self.clients().get(&address).copied().unwrap_or(address)
    }

    /// A connection to the own port that stands for this client.
    async fn connect(&self, client: SocketAddr) -> io::Result<(TcpStream, Standing<'_>)> {
        let socket = match self.at {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // Its address is known, and noted, before anybody can accept it.
        socket.bind(SocketAddr::new(self.near(), 0))?;
        let local = socket.local_addr()?;
        self.clients().insert(local, client);
        let standing = Standing {
            relayed: self,
            local,
        };
        let connected = tokio::time::timeout(CONNECT, socket.connect(self.at)).await;
        let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok((stream, standing))
    }

    /// An address of this machine. One alone has 28 000 ports, each of which rests for a minute after its use: clients that
    /// come and go would leave none.
    fn near(&self) -> IpAddr {
        match self.at.ip() {
            IpAddr::V4(_) => {
                let [_, a, b, c] = fastrand::u32(..).to_be_bytes();
                Ipv4Addr::new(127, a, b, c.clamp(1, 254)).into()
            }
            ip @ IpAddr::V6(_) => ip,
        }
    }

    fn clients(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, SocketAddr>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.relayed.clients().remove(&self.local);
    }
}

/// `GET /v1/planes/relay`.
pub(crate) async fn accept(State(plane): State<Arc<Plane>>, mut parts: Parts) -> Answer<Response> {
    let outside = parts.extensions.remove::<Outside>();
    let now = pf9_hostagent::seam::clock::now();
    let ring = plane.keys.ring();
    let anybody = crate::mutant("relay-plane");
    let outside =
        outside.filter(|o| anybody || o.shown.as_ref().is_some_and(|s| is_plane(&ring, s, now)));
    let Some(outside) = outside else {
        let why = "the connection showed no certificate of a plane of this fleet";
        return Err(Refusal::forbidden(
            FaultCode::CertificateForeign,
            REFUSED,
            why,
        ));
    };
    let bad = |code, why| Refusal::bad(code, REFUSED, why);
    let client = parts.headers.get(FROM).and_then(|v| v.to_str().ok());
    let client = client.and_then(|text| text.parse::<SocketAddr>().ok());
    let client =
        client.ok_or_else(|| bad(FaultCode::HandshakeInvalid, "it does not say whose it is"))?;
    let upgrade = parts.extensions.remove::<OnUpgrade>().ok_or_else(|| {
        bad(
            FaultCode::UpgradeImpossible,
            "this connection cannot upgrade",
        )
    })?;
    // How many there are is the client's to account for: by its own address, when it is accepted.
    outside.stranger.known();
    plane.tasks.spawn(pass(Arc::clone(&plane), client, upgrade));
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static(PROTOCOL)),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

async fn pass(plane: Arc<Plane>, client: SocketAddr, upgrade: OnUpgrade) {
    let passing = async {
        let door = upgrade.await.map_err(io::Error::other)?;
        let (local, _standing) = plane.relayed.connect(client).await?;
        tune(&local)?;
        if let Some(rest) = pass_on(TokioIo::new(door), local).await? {
            // A door follows at once.
            linger(rest).await;
        }
        Ok::<_, io::Error>(())
    };
    tokio::select! {
        // cancel-safe: nothing is kept of a connection that ends
        passed = passing => if let Err(e) = passed {
            tracing::debug!(%client, why = %e, "a passed connection ended");
        },
        () = plane.cut.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_local_connection_is_its_clients_and_no_longer_than_it_lasts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let relayed = Relayed::new(listener.local_addr().expect("address"));
        let client: SocketAddr = "192.0.2.7:4711".parse().expect("address");
        let (stream, standing) = relayed.connect(client).await.expect("connected");
        let (_, from) = listener.accept().await.expect("accepted");
        assert_eq!(relayed.client(from), client);
        let other = SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!(relayed.client(other), other, "anybody else's is its own");
        drop((stream, standing));
        assert_eq!(relayed.client(from), from);
        assert!(from.ip().is_loopback(), "{from}");
        let near: std::collections::BTreeSet<_> = (0..100).map(|_| relayed.near()).collect();
        assert!(near.len() > 90, "{near:?}");
    }

    #[test]
    fn the_own_port_is_on_this_machine() {
        let at = |text: &str| Relayed::new(text.parse().expect("address")).at.to_string();
        assert_eq!(at("0.0.0.0:443"), "127.0.0.1:443");
        assert_eq!(at("[::]:443"), "[::1]:443");
        assert_eq!(at("10.0.0.1:8443"), "10.0.0.1:8443");
    }
}
