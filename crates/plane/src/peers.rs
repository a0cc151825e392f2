//! Planes of one fleet among themselves: any of them answers, whichever has the seat.
//!
//! ```text
//! client ───────────── its own TLS ──────────────────────────────────► plane with the seat
//!          │ plane that stands by                                        ▲
//!          └─ door ══ mutual TLS, plane to plane ══► relay ── local ──────┘
//! ```
//!
//! A plane that stands by takes connections and passes their bytes on; the client's TLS ends at the plane with the seat, which
//! alone reads tokens and documents and knows tunnels. So one place judges each client, by its own address, and a host whose
//! tunnel ends at one plane is reached through each of them. Planes that each serve by themselves were rejected: what
//! is in memory (sessions, rolls, alerts) would need an agreement for every change, and etcd takes one write at a time anyway.
//!
//! | file | what |
//! |---|---|
//! | here     | what both ends know: path, header, certificate |
//! | `door`   | of the plane that stands by: connections in, by the seat's holder out |
//! | `hello`  | what a connection begins with: a client's, or another door's |
//! | `relay`  | of the plane with the seat: what a door passes on becomes a connection of its own |

mod door;
mod hello;
mod relay;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::uri::Authority;
use jiff::{SignedDuration, Timestamp};
use rcgen::KeyPair;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf};

use super::ca::{self, CaError, Leaf};
use super::keys::Ring;
use super::tunnel::Shown;
use pf9_hostagent::model::{Fault, FaultCode};

pub(super) use door::stand_by;
pub(super) use relay::{Relayed, accept};

/// Where a plane takes what another passes on.
pub(super) const PATH: &str = "/v1/planes/relay";
/// What the connection is upgraded to. A door's hello names it, too.
const PROTOCOL: &str = "pf9-relay";
/// Names the client's address, `IP:PORT`. Believed of a plane only.
const FROM: &str = "x-pf9-from";
/// Bytes that are held for each direction of a passed connection: twenty thousand of them are 640 MiB.
const BUFFER: usize = 16 * 1024;
/// How long a client may take to end after the plane has ended its side: it may still read what is on its way, and would lose
/// that by a reset. As long as the last bytes of a tunnel may take.
const LINGER: Duration = Duration::from_secs(30);
/// Life of the certificate by which planes know one another; it is made anew long before.
const LIFE: SignedDuration = SignedDuration::from_hours(24);

/// Where other planes of the fleet reach this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PeerAddress {
    /// `HOST:PORT`.
    pub(super) at: String,
    /// For the certificate.
    pub(super) host: String,
}

/// What the operator named, or the address that is listened at. Nothing where that is none that others could connect to:
/// then planes that stand by let clients wait.
pub(super) fn own_address(
    named: Option<&str>,
    listening: SocketAddr,
) -> Result<Option<PeerAddress>, Fault> {
    let Some(named) = named else {
        let single = !listening.ip().is_unspecified();
        return Ok(single.then(|| PeerAddress {
            at: listening.to_string(),
            host: listening.ip().to_string(),
        }));
    };
    let bad = |why: &str| {
        let why = format!("--peer-address: {named:?} {why}");
        let fault = Fault::new(FaultCode::Usage, "cannot start the plane", why);
        fault.fix("name the address at which the other planes reach this one, and no other")
    };
    let parsed = named.parse::<Authority>().ok();
    let parsed = parsed.filter(|a| a.port_u16().is_some_and(|p| p > 0) && !named.contains('@'));
    let parsed = parsed.ok_or_else(|| bad("is not HOST:PORT"))?;
    let host = parsed.host().trim_matches(['[', ']']).to_owned();
    // Who connects there connects to itself.
    if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        return Err(bad("is no single address"));
    }
    Ok(Some(PeerAddress {
        at: parsed.to_string(),
        host,
    }))
}

/// A certificate and its key, PEM.
struct Credential {
    certificate: String,
    key: String,
}

/// What planes of one fleet are called in certificates. No host's and no node's is called so: those are identifiers and
/// `system:…`, and the plane chooses all of them.
fn name(ring: &Ring) -> String {
    format!("pf9-plane-{}", ring.plane())
}

/// Shows that a plane has the fleet's keys.
fn credential(ring: &Ring, now: Timestamp) -> Result<Credential, CaError> {
    let key = KeyPair::generate()?;
    let leaf = Leaf::client(&name(ring), &[], LIFE);
    let issued = ring.authorities.current.issue(&key, &leaf, now)?;
    Ok(Credential {
        certificate: issued.pem,
        key: key.serialize_pem(),
    })
}

/// Whether a connection is a plane's. TLS has checked that our authority signed what it showed, and excuses its end.
fn is_plane(ring: &Ring, shown: &Shown, now: Timestamp) -> bool {
    let lives = ca::life(&shown.0).is_some_and(|l| l.not_before <= now && now < l.not_after);
    (lives || crate::mutant("relay-plane-life"))
        && (crate::mutant("relay-plane-name")
            || ca::common_name(&shown.0).is_some_and(|n| n == name(ring)))
}

/// Bytes both ways, until both sides have ended, or the plane's has: then what the client may still say is left, which
/// nobody reads. The plane's side is ended in either case.
async fn pass_on<C, P>(client: C, plane: P) -> io::Result<Option<ReadHalf<C>>>
where
    C: AsyncRead + AsyncWrite,
    P: AsyncRead + AsyncWrite,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_plane, mut to_plane) = tokio::io::split(plane);
    {
        let mut up = std::pin::pin!(one_way(&mut from_client, &mut to_plane));
        let mut down = std::pin::pin!(one_way(&mut from_plane, &mut to_client));
        tokio::select! {
            // cancel-safe: `down` is kept, and what `up` has read nobody would take any more
            ended = &mut up => {
                ended?;
                down.await?;
                return Ok(None);
            }
            ended = &mut down => ended?,
        }
    }
    // Not its client's to delay: the plane keeps nothing for a connection that it has ended.
    to_plane.shutdown().await?;
    Ok(Some(from_client))
}

/// Waits until this client has ended, too.
async fn linger(mut client: impl AsyncRead + Unpin) {
    let mut nowhere = tokio::io::sink();
    let rest = tokio::io::copy(&mut client, &mut nowhere);
    // Timed out or broken: either way it is over.
    drop(tokio::time::timeout(LINGER, rest).await);
}

async fn one_way(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut from = BufReader::with_capacity(BUFFER, from);
    tokio::io::copy_buf(&mut from, to).await?;
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::keys::Identity;

    #[test]
    fn others_reach_it_where_the_operator_says_or_where_it_listens() {
        let one: SocketAddr = "10.0.0.1:8443".parse().expect("address");
        let any: SocketAddr = "0.0.0.0:8443".parse().expect("address");
        let at = |named, listening| {
            let own = own_address(named, listening);
            own.map(|own| own.map(|p| (p.at, p.host)))
                .map_err(|f| f.why)
        };
        let is = |at: &str, host: &str| Ok(Some((at.to_owned(), host.to_owned())));
        assert_eq!(at(None, one), is("10.0.0.1:8443", "10.0.0.1"));
        assert_eq!(at(None, any), Ok(None));
        assert_eq!(at(Some("a.plane:443"), any), is("a.plane:443", "a.plane"));
        assert_eq!(
            at(Some("[fd00::1]:443"), any),
            is("[fd00::1]:443", "fd00::1")
        );
        for wrong in [
            "a.plane",
            "https://a.plane:443",
            "me@a.plane:443",
            "",
            ":443:",
            "a.plane:0",
            "0.0.0.0:443",
            "[::]:443",
        ] {
            let why = at(Some(wrong), any).expect_err(wrong);
            assert!(why.contains("--peer-address"), "{why}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_plane_that_has_ended_waits_for_no_client() {
        use tokio::io::{AsyncReadExt, duplex};
        let (mut client, door) = duplex(64);
        let (holder, mut plane) = duplex(64);
        let passing = tokio::spawn(pass_on(door, holder));
        client.write_all(b"asks").await.expect("written");
        client.shutdown().await.expect("half closed");
        let mut asked = String::new();
        plane.read_to_string(&mut asked).await.expect("all of it");
        plane
            .write_all(b"answers")
            .await
            .expect("after the client's end");
        drop(plane);
        let mut answered = String::new();
        client
            .read_to_string(&mut answered)
            .await
            .expect("all of it");
        assert_eq!((asked.as_str(), answered.as_str()), ("asks", "answers"));
        let rest = passing.await.expect("no panic").expect("both ended");
        assert!(rest.is_none());

        let (mut client, door) = duplex(64);
        let (holder, mut plane) = duplex(64);
        let began = tokio::time::Instant::now();
        let passing = tokio::spawn(pass_on(door, holder));
        plane.write_all(b"last").await.expect("written");
        plane.shutdown().await.expect("ended");
        let mut last = String::new();
        client.read_to_string(&mut last).await.expect("all of it");
        let mut none = String::new();
        plane.read_to_string(&mut none).await.expect("its end");
        assert_eq!((last.as_str(), none.as_str()), ("last", ""));
        assert_eq!(began.elapsed(), Duration::ZERO, "the plane has it at once");
        let rest = passing.await.expect("no panic").expect("it is over");
        client.write_all(b"to nobody").await.expect("written");
        linger(rest.expect("the client's side")).await;
        assert_eq!(began.elapsed(), LINGER, "the client has its time");
    }

    #[test]
    fn only_a_plane_with_the_same_keys_is_one_and_only_for_a_day() {
        let now = Timestamp::from_second(1_800_000_000).expect("time");
        let ring = || Ring::load(Identity::make(now).expect("keys")).expect("ring");
        let (ring, other) = (ring(), ring());
        let shown = |pem: &str| Shown(Arc::from(ca::der_of(pem).expect("der")));
        let ours = shown(&credential(&ring, now).expect("made").certificate);
        assert!(is_plane(&ring, &ours, now));
        assert!(!is_plane(&other, &ours, now), "of another fleet");
        assert!(
            !is_plane(&ring, &ours, now + LIFE),
            "its end is not excused"
        );
        let key = KeyPair::generate().expect("key");
        for called in [
            "0190163d-8694-739b-aea5-966c26f8ad90".to_owned(),
            ring.plane().to_string(),
            "system:node:pf9-plane".to_owned(),
        ] {
            let leaf = Leaf::client(&called, &["pf9:planes"], LIFE);
            let issued = ring
                .authorities
                .current
                .issue(&key, &leaf, now)
                .expect("issued");
            assert!(!is_plane(&ring, &shown(&issued.pem), now), "{called}");
        }
    }
}
