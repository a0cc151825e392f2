//! comms against peers at the other end of real sockets: planes that go down and come back, that are busy, that ask for
//! more than they may.

mod exhausted;
mod peer;
mod renewal;
mod services;
mod soak;
mod whole;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use pf9_hostagent::app::{Config, TaskGroup};
use pf9_hostagent::comms;
use pf9_hostagent::host::fs::{Attrs, HostFs};
use pf9_hostagent::local::{Client, Method};
use pf9_hostagent::model::{
    FaultCode, SessionState, Timestamp, TunnelPing, TunnelStatus, TunnelStreams, paths,
};
use pf9_hostagent::mux::Closed;
use pf9_hostagent::wire::{Class, Meta};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, within};
use peer::{CHUNKS, Peer, World, long_answer};
use services::echo;

pub(crate) struct Comms {
    stop: CancellationToken,
    run: JoinHandle<Option<&'static str>>,
    pub(crate) api: Client,
}

impl Comms {
    pub(crate) async fn start(fs: &HostFs) -> Self {
        Self::start_with(fs, Config::default()).await
    }

    pub(crate) async fn start_with(fs: &HostFs, config: Config) -> Self {
        let stop = CancellationToken::new();
        let mut group = TaskGroup::new(stop.clone());
        comms::start(fs.clone(), config, &mut group)
            .await
            .expect("comms");
        Self {
            stop,
            run: tokio::spawn(group.run(PATIENCE)),
            api: Client::unix(fs.at(paths::COMMS_SOCKET)).expect("client"),
        }
    }

    pub(crate) async fn status(&self) -> TunnelStatus {
        self.api.get("/v1/status", PATIENCE).await.expect("status")
    }

    /// The status, once it is as wanted; it has no long-poll.
    pub(crate) async fn until(&self, wanted: impl Fn(&TunnelStatus) -> bool) -> TunnelStatus {
        within(async {
            loop {
                let status = self.status().await;
                if wanted(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        assert_eq!(within(self.run).await.expect("ends"), None);
    }
}

/// One request on a connection of its own.
pub(crate) async fn get(fs: &HostFs, path: &str) -> Result<Vec<u8>, String> {
    let socket = UnixStream::connect(fs.at(paths::PLANE_SOCKET))
        .await
        .map_err(|e| format!("connect: {e}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .map_err(|e| format!("handshake: {e}"))?;
    let request = Request::get(path)
        .header("host", "plane")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .expect("request");
    let exchange = async {
        let answer = sender.send_request(request).await;
        let body = answer.map_err(|e| format!("answer: {e:?}"))?.into_body();
        let body = body.collect().await.map_err(|e| format!("body: {e:?}"))?;
        Ok(body.to_bytes().to_vec())
    };
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

/// Both slots connected.
pub(crate) fn both_up(status: &TunnelStatus) -> bool {
    let up =
        |s: &pf9_hostagent::model::SessionStatus| matches!(s.state, SessionState::Connected { .. });
    status.sessions.iter().filter(|s| up(s)).count() == 2
}

#[tokio::test]
async fn a_plane_that_goes_away_costs_no_request_and_cuts_no_stream() {
    let world = World::new();
    let (a, b) = (Peer::start(&world).await, Peer::start(&world).await);
    world.enrol(&[&a, &b]);
    let comms = Comms::start(&world.fs).await;
    comms.until(both_up).await;

    let fs = world.fs.clone();
    let long = tokio::spawn(async move { get(&fs, "/long").await });
    // Whichever session carries it: that peer goes down first.
    let on_a = within(async {
        tokio::select! {
            _ = a.until(|s| s.long_begun == 1) => true,
            _ = b.until(|s| s.long_begun == 1) => false,
        }
    })
    .await;
    let (mut first, mut second) = if on_a { (a, b) } else { (b, a) };
    first.release(3);

    // Continuous requests, each on a stream of its own.
    let mut loops = JoinSet::new();
    let over = CancellationToken::new();
    for _ in 0..4 {
        let (fs, over) = (world.fs.clone(), over.clone());
        loops.spawn(async move {
            let mut done = Vec::new();
            while !over.is_cancelled() {
                done.push(get(&fs, "/hello").await);
            }
            done
        });
    }
    let more = |peer: &Peer, n: u64| {
        let want = peer.state().answered + n;
        move |s: &peer::State| s.answered >= want
    };
    first.until(more(&first, 20)).await;

    let come_back = Duration::from_millis(200);
    let old = first.state().sessions.pop().expect("session");
    first.stop_listening().await;
    first.leave(come_back);
    second.until(more(&second, 50)).await;
    let status = comms.status().await;
    let drains = |s: &TunnelStatus| {
        let drains = |s: &pf9_hostagent::model::SessionStatus| {
            matches!(s.state, SessionState::Draining { .. })
        };
        s.sessions.iter().filter(|s| drains(s)).count()
    };
    assert_eq!(drains(&status), 1, "{status:?}");
    first.release(10);

    // Back again: beside the old session, which still drains.
    first.listen().await;
    let state = first.until(|s| s.sessions.len() == 2).await;
    assert_eq!(
        (&state.sessions[0].instance, &state.sessions[0].slot),
        (&state.sessions[1].instance, &state.sessions[1].slot)
    );
    let other = second.state().sessions.pop().expect("session");
    assert_eq!(other.instance, old.instance);
    assert_ne!(other.slot, old.slot);
    let status = comms.until(both_up).await;
    assert_eq!(drains(&status), 1, "{status:?}");

    // Now the second one goes.
    second.stop_listening().await;
    second.leave(come_back);
    first.until(more(&first, 50)).await;
    second.listen().await;
    second.until(|s| s.sessions.len() == 2).await;
    comms.until(both_up).await;

    first.release(CHUNKS);
    let answer = within(long).await.expect("task").expect("the long answer");
    assert!(answer == long_answer(), "{} bytes", answer.len());
    assert_eq!(within(old.handle.closed()).await, Closed::Drained);
    over.cancel();
    let done: Vec<_> = within(loops.join_all())
        .await
        .into_iter()
        .flatten()
        .collect();
    let failed: Vec<_> = done.iter().filter(|r| r.is_err()).collect();
    assert!(failed.is_empty(), "of {}: {failed:?}", done.len());
    assert!(done.iter().all(|r| r.as_deref() == Ok(b"hello".as_slice())));
    comms.stop().await;
}

#[tokio::test]
async fn one_endpoint_is_one_session_and_a_stop_lets_it_finish() {
    let world = World::new();
    let peer = Peer::start(&world).await;
    world.enrol(&[&peer, &peer]);
    let comms = Comms::start(&world.fs).await;
    let fs = world.fs.clone();
    let long = tokio::spawn(async move { get(&fs, "/long").await });
    peer.until(|s| s.long_begun == 1).await;
    assert_eq!(comms.status().await.sessions.len(), 1);
    let session = peer.state().sessions.pop().expect("session");
    comms.stop.cancel();
    let farewell = within(session.handle.peer_leaves())
        .await
        .expect("farewell");
    assert_eq!(farewell.words, "pf9-comms stops");
    peer.release(CHUNKS);
    let answer = within(long).await.expect("task").expect("the long answer");
    assert!(answer == long_answer(), "{} bytes", answer.len());
    comms.stop().await;
    assert_eq!(peer.state().sessions.len(), 1);
}

/// The node ensures that the plane could read everything; nothing waits for that.
#[tokio::test]
async fn a_session_that_is_over_is_replaced_at_once_although_the_plane_does_not_end_it() {
    let world = World::new();
    let peer = Peer::start(&world).await;
    peer.mute_once();
    world.enrol(&[&peer]);
    let comms = Comms::start(&world.fs).await;
    // Far less than the time the old connection is kept.
    let soon = tokio::time::timeout(PATIENCE / 3, async {
        peer.until(|s| s.muted == 1 && s.sessions.len() == 1).await;
        let one = |s: &TunnelStatus| match s.sessions.as_slice() {
            [only] => matches!(only.state, SessionState::Connected { .. }),
            _ => false,
        };
        comms.until(one).await;
        get(&world.fs, "/hello").await.expect("an answer")
    });
    assert_eq!(soon.await.expect("soon"), b"hello");
    peer.release(1);
    comms.stop().await;
}

/// comms with every attempt refused with this code; the shortest and longest wait in seconds of each slot.
async fn refused(world: &World, code: FaultCode) -> (Comms, Vec<(f64, f64)>) {
    let before = Timestamp::now();
    let comms = Comms::start(&world.fs).await;
    let status = comms
        .until(|s| s.sessions.iter().all(|s| s.last_end.is_some()))
        .await;
    let after = Timestamp::now();
    let mut bounds = Vec::new();
    for session in &status.sessions {
        let end = session.last_end.as_ref().expect("end");
        assert_eq!(end.fault.code, code, "{end:?}");
        let waits = matches!(session.state, SessionState::Waiting { .. });
        assert!(waits, "{session:?}");
        let next_try = end.fault.next_try.expect("next try");
        let least = next_try.duration_since(after).as_secs_f64();
        let most = next_try.duration_since(before).as_secs_f64();
        bounds.push((least, most));
    }
    bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    (comms, bounds)
}

#[tokio::test]
async fn a_plane_that_does_not_know_the_host_is_left_alone() {
    let world = World::new();
    let (a, b) = (Peer::start(&world).await, Peer::start(&world).await);
    a.refuse(StatusCode::FORBIDDEN, None);
    b.refuse(StatusCode::FORBIDDEN, Some(1));
    world.enrol(&[&a, &b]);
    let (comms, bounds) = refused(&world, FaultCode::PlaneForbidden).await;
    for (least, most) in bounds {
        assert!(most >= 300.0 && least <= 601.0, "{least} {most}");
    }
    assert_eq!((a.state().refused, b.state().refused), (1, 1));
    comms.stop().await;
}

#[tokio::test]
async fn a_busy_plane_is_waited_for_and_said_so() {
    let world = World::new();
    let (soon, late) = (Peer::start(&world).await, Peer::start(&world).await);
    soon.busy(7);
    late.busy(1_000_000);
    world.enrol(&[&soon, &late]);
    let (comms, bounds) = refused(&world, FaultCode::PlaneBusy).await;
    // The requested wait, and up to a second of jitter; a request beyond ten minutes is ten minutes.
    for ((least, most), wish) in bounds.into_iter().zip([7.0, 600.0]) {
        assert!(most >= wish && least <= wish + 1.0, "{least} {most}");
    }
    assert_eq!((soon.state().refused, late.state().refused), (1, 1));
    comms.stop().await;
}

#[tokio::test]
async fn the_tunnel_shows_its_streams_and_measures_itself() {
    let world = World::new();
    let (a, b) = (Peer::start(&world).await, Peer::start(&world).await);
    world.enrol(&[&a, &b]);
    let mut tasks = JoinSet::new();
    let list = echo(&mut tasks, "echo", "").await;
    world
        .fs
        .write(
            "/etc/pf9/services.d/x.toml",
            list.as_bytes(),
            &Attrs::mode(0o644),
        )
        .expect("write");
    let comms = Comms::start(&world.fs).await;
    comms.until(both_up).await;
    let status = comms
        .until(|s| s.sessions.iter().all(|s| s.rtt_us.is_some()))
        .await;
    for session in &status.sessions {
        let tcp = session.tcp.expect("TCP_INFO");
        assert!(tcp.rtt_us > 0 && tcp.cwnd > 0, "{tcp:?}");
    }

    let meta = Meta::from([("who".to_owned(), "operator".to_owned())]);
    let tunnel = a.state().sessions.pop().expect("session").handle;
    let mut stream = tunnel.open("echo", Class::Interactive, meta).expect("open");
    stream.write_all(&[7; 1000]).await.expect("write");
    within(stream.read_exact(&mut [0; 1000]))
        .await
        .expect("echo");
    let seen: TunnelStreams = comms
        .api
        .get("/v1/streams", PATIENCE)
        .await
        .expect("streams");
    assert_eq!((seen.open, seen.streams.len()), (1, 1));
    let row = &seen.streams[0];
    assert_eq!(
        (
            row.service.as_str(),
            row.who.as_str(),
            row.direction.as_str()
        ),
        ("echo", "operator", "to-node")
    );
    assert_eq!(
        (row.class.as_str(), row.bytes_in, row.bytes_out),
        ("interactive", 1000, 1000)
    );
    assert!(row.endpoint.contains(&a.address.to_string()) && row.window >= 32 * 1024);

    for _ in 0..3 {
        let pinged: Option<TunnelPing> = comms
            .api
            .send(Method::POST, "/v1/ping", &(), PATIENCE)
            .await
            .expect("ping");
        let sessions = pinged.expect("answer").sessions;
        assert_eq!(sessions.len(), 2);
        for (slot, session) in (0u8..).zip(&sessions) {
            assert_eq!(session.slot, slot);
            assert!(session.rtt_us.is_some_and(|us| us > 0), "{session:?}");
        }
    }
    drop(stream);
    comms.stop().await;
}

/// Neither its log nor its tickets can be written, and a program that has neither open can connect both ways anyway.
#[tokio::test]
async fn a_disk_that_takes_nothing_does_not_stop_the_tunnel() {
    let world = World::new();
    let (a, b) = (Peer::start(&world).await, Peer::start(&world).await);
    world.enrol(&[&a, &b]);
    let mut tasks = JoinSet::new();
    let list = echo(&mut tasks, "echo", "").await;
    let list_at = "/etc/pf9/services.d/x.toml";
    world
        .fs
        .write(list_at, list.as_bytes(), &Attrs::mode(0o644))
        .expect("write");
    // Also for root: nothing can be created below a file.
    for dir in ["/var/log/pf9/comms", paths::COMMS_STATE] {
        drop(std::fs::remove_dir_all(world.fs.at(dir)));
        let attrs = Attrs::mode(0o600);
        world.fs.write(dir, b"", &attrs).expect("block");
    }
    let comms = Comms::start(&world.fs).await;
    comms.until(both_up).await;
    let tunnel = a.state().sessions.pop().expect("session").handle;
    for _ in 0..3 {
        let mut stream = tunnel
            .open("echo", Class::Interactive, Meta::new())
            .expect("open");
        stream.write_all(b"ping").await.expect("write");
        within(stream.read_exact(&mut [0; 4])).await.expect("echo");
        let answer = get(&world.fs, "/hello").await;
        assert_eq!(answer.as_deref(), Ok(b"hello".as_slice()));
    }
    comms.stop().await;
}
