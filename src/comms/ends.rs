//! Tells this machine's other daemons where the tunnel goes ([`crate::host::tunnel_ends`]), whenever that changes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::sessions::{Live, Sessions};
use crate::host::fs::HostFs;
use crate::host::tunnel_ends::tell_tunnel_ends;
use crate::telemetry::chain;

/// After one that could not be written: the next try. Where there is no room in /run that takes a person.
const RETRY: Duration = Duration::from_secs(5);

/// Until `shutdown`; then the file is removed.
pub(super) async fn keep(fs: HostFs, sessions: Arc<Sessions>, shutdown: CancellationToken) {
    let mut changes = sessions.changes();
    // The file of a killed process may be there.
    let mut told = None;
    loop {
        let ends = match shutdown.is_cancelled() {
            true => Vec::new(),
            false => ends_of(&changes.borrow_and_update()),
        };
        if told.as_ref() != Some(&ends) {
            // A few bytes in memory (/run); readers can do without them.
            told = match tell_tunnel_ends(&fs, &ends) {
                Ok(()) => Some(ends),
                Err(e) => {
                    tracing::warn!(error = %chain(&e), "cannot tell where the tunnel goes");
                    None
                }
            };
        }
        if shutdown.is_cancelled() {
            return;
        }
        tokio::select! {
            // cancel-safe: all only wait
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(RETRY), if told.is_none() => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

fn ends_of(all: &[Arc<Live>]) -> Vec<IpAddr> {
    let mut ends: Vec<IpAddr> = all.iter().filter_map(|live| live.far_end()).collect();
    ends.sort_unstable();
    ends.dedup();
    ends
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use bytes::Bytes;
    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    use super::super::sessions::NewSession;
    use super::super::tcp::Probe;
    use super::*;
    use crate::host::testing::in_namespaces;
    use crate::host::tunnel_ends::tunnel_ends;
    use crate::model::SessionKind;
    use crate::mux::{Role, Websocket};
    use crate::wire::{Config, Side};

    /// A connection between two addresses of this machine, as to another one, and both of its ends.
    async fn connected(here: &str, there: &str) -> (TcpStream, TcpStream) {
        let at = |ip: &str| SocketAddr::new(ip.parse().expect("ip"), 0);
        let listener = TcpListener::bind(at(there)).await.expect("listen");
        let socket = match at(here) {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        };
        let socket = socket.expect("socket");
        socket.bind(at(here)).expect("bind");
        let to = listener.local_addr().expect("address");
        let (near, far) = tokio::join!(socket.connect(to), listener.accept());
        (near.expect("connect"), far.expect("accept").0)
    }

    fn begin(sessions: &Sessions, slot: u8, tcp: &TcpStream) -> Arc<Live> {
        let (io, _) = tokio::io::duplex(64);
        let io = Websocket::new(Box::new(io), Role::Client, Bytes::new());
        let (handle, _, _) = crate::mux::session(io, Side::Node, Config::default());
        sessions.begin(NewSession {
            slot,
            kind: SessionKind::Full,
            endpoint: format!("wss://{slot}"),
            failures: 0,
            ping_interval: Duration::from_secs(8),
            handle,
            probe: Some(Probe::of(tcp).expect("probe")),
        })
    }

    /// Polled until it is there: the file system has no event that is worth the code here.
    async fn until(fs: &HostFs, wanted: &[&str]) {
        let wanted: Vec<IpAddr> = wanted.iter().map(|ip| ip.parse().expect("ip")).collect();
        let so = async {
            while tunnel_ends(fs) != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(20), so).await;
        assert!(
            in_time.is_ok(),
            "{:?} is told, not {wanted:?}",
            tunnel_ends(fs)
        );
    }

    #[test]
    fn where_the_tunnel_goes_is_told_for_as_long_as_it_goes_there() {
        const TEST: &str =
            "comms::ends::tests::where_the_tunnel_goes_is_told_for_as_long_as_it_goes_there";
        let before = "ip link set lo up && ip addr add 10.7.0.1/32 dev lo && ip addr add 10.7.0.2/32 dev lo && \
                      ip -6 addr add fd00:7::1/128 dev lo nodad && ip -6 addr add fd00:7::2/128 dev lo nodad";
        if in_namespaces(TEST, &["--net"], before).is_none() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(async {
            let dir = tempfile::tempdir().expect("tempdir");
            let fs = HostFs::new(dir.path());
            // Of one that was killed.
            tell_tunnel_ends(&fs, &["10.9.9.9".parse().expect("ip")]).expect("told");
            let sessions = Arc::new(Sessions::new(Default::default()));
            let shutdown = CancellationToken::new();
            let kept = tokio::spawn(keep(fs.clone(), Arc::clone(&sessions), shutdown.clone()));
            until(&fs, &[]).await;

            let v4 = connected("10.7.0.1", "10.7.0.2").await;
            let v6 = connected("fd00:7::1", "fd00:7::2").await;
            // What stays on this machine is no way out.
            let own = [
                connected("127.0.0.1", "127.0.0.2").await,
                connected("10.7.0.1", "10.7.0.1").await,
            ];
            let first = begin(&sessions, 0, &v4.0);
            for (tcp, _) in &own {
                begin(&sessions, 1, tcp);
            }
            until(&fs, &["10.7.0.2"]).await;
            let second = begin(&sessions, 1, &v6.0);
            until(&fs, &["10.7.0.2", "fd00:7::2"]).await;
            sessions.over(&first);
            until(&fs, &["fd00:7::2"]).await;
            sessions.over(&second);
            until(&fs, &[]).await;

            begin(&sessions, 0, &v4.0);
            until(&fs, &["10.7.0.2"]).await;
            // What could not be written is, when it can be.
            let (run, away) = (fs.at("/run/pf9"), fs.at("/run/away"));
            std::fs::rename(&run, &away).expect("away");
            std::fs::write(&run, b"").expect("in its place");
            begin(&sessions, 1, &v6.0);
            // There is one thread: what is to be told was tried when this goes on.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            std::fs::remove_file(&run).expect("out of the way");
            std::fs::rename(&away, &run).expect("back");
            until(&fs, &["10.7.0.2", "fd00:7::2"]).await;
            shutdown.cancel();
            kept.await.expect("kept");
            assert_eq!(
                tunnel_ends(&fs),
                [] as [IpAddr; 0],
                "who stops tells nothing more"
            );
        });
    }
}
