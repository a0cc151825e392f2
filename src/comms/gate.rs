//! `/run/pf9/plane.sock`: a local connection becomes a stream to the plane's host API.
//!
//! A stream stays on the session it was opened on. Only while the plane has not looked at it may it
//! move: a plane that leaves says which streams it never saw, and those are opened again elsewhere
//! with the bytes that were sent so far. So a plane's restart loses no request.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::sessions::{Live, Named, Sessions};
use crate::local::{Callers, Door, Share};
use crate::mux::{self, MuxStream};
use crate::wire::limits::INITIAL_WINDOW;
use crate::wire::{Class, Meta};

/// Connections at once: hostagent's long-poll, its calls and a download, times a margin; and root
/// with curl.
pub(super) const SHARE: Share = Share {
    all: 48,
    each: 40,
    root: 16,
};
/// How long a connection waits for the tunnel before it is closed; its caller tries again.
const TUNNEL_WAIT: Duration = Duration::from_secs(5);
/// Bytes kept for a second opening: what can be sent before the plane has looked at a stream.
const KEPT_MAX: usize = INITIAL_WINDOW as usize;
/// Streams one connection may be opened as. Each further one means that a session said farewell in
/// the very round trip of the opening.
const OPENINGS_MAX: usize = 4;

pub(super) async fn run(
    listener: UnixListener,
    sessions: Arc<Sessions>,
    shutdown: CancellationToken,
) {
    let mut door = Door::new(listener, Callers::ByMode, SHARE);
    // Bounded by the door.
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            // cancel-safe: all are
            () = shutdown.cancelled() => break,
            Some(_) = running.join_next() => {}
            caller = door.next() => {
                let sessions = Arc::clone(&sessions);
                running.spawn(async move {
                    let _place = caller.place;
                    carry(caller.stream, sessions).await;
                });
            }
        }
    }
    drop(door);
    // What is under way ends with its session, and those drain with a bound.
    while running.join_next().await.is_some() {}
}

async fn carry(mut socket: UnixStream, sessions: Arc<Sessions>) {
    let mut kept = Kept::default();
    for _ in 0..OPENINGS_MAX {
        // Without a tunnel the connection is closed: its caller knows how to wait.
        let Ok((stream, _named)) = tokio::time::timeout(TUNNEL_WAIT, open(&sessions)).await else {
            return;
        };
        let Some(mut stream) = stream else {
            return;
        };
        match begin(&mut stream, &mut socket, &mut kept).await {
            Begun::Taken => {
                let (_, result) = mux::splice(stream, Box::new(socket)).await;
                if let Err(error) = result {
                    tracing::debug!(%error, "connection to the plane ended early");
                }
                return;
            }
            Begun::NotLookedAt => tracing::debug!("stream is opened again on another session"),
            Begun::Broken(error) => {
                tracing::debug!(%error, "connection to the plane ended early");
                return;
            }
        }
    }
}

/// A stream on the session that is best now. `None`: the sessions take no stream.
async fn open(sessions: &Sessions) -> (Option<MuxStream>, Option<Named>) {
    loop {
        let live: Arc<Live> = sessions.ready().await;
        // Documents and downloads share this service; a download must not delay a key stroke.
        match live.handle.open(mux::HOST_API, Class::Bulk, Meta::new()) {
            Ok(stream) => {
                let named = live.name(stream.id(), mux::HOST_API, "");
                return (Some(stream), Some(named));
            }
            // It left since it was chosen: the next choice is another one.
            Err(error) if live.handle.is_leaving() => {
                tracing::debug!(%error, "session left");
                tokio::task::yield_now().await;
            }
            Err(error) => {
                tracing::debug!(%error, "cannot open a stream to the plane");
                return (None, None);
            }
        }
    }
}

/// What the local side said so far.
#[derive(Default)]
struct Kept {
    bytes: BytesMut,
    /// It said all it had to say.
    finished: bool,
}

/// How a stream began.
enum Begun {
    /// The plane answered, or so much was sent that it must have looked: there is no way back.
    Taken,
    /// The plane left without having looked at it.
    NotLookedAt,
    /// Either side broke.
    Broken(io::Error),
}

async fn begin(stream: &mut MuxStream, socket: &mut UnixStream, kept: &mut Kept) -> Begun {
    match try_begin(stream, socket, kept).await {
        Ok(()) => Begun::Taken,
        // Refused before it was looked at; see `mux::stream`. The plane dials nothing for us.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Begun::NotLookedAt,
        Err(error) => Begun::Broken(error),
    }
}

async fn try_begin(
    stream: &mut MuxStream,
    socket: &mut UnixStream,
    kept: &mut Kept,
) -> io::Result<()> {
    // Fits into what a stream may queue, so none of the writes waits for the plane.
    stream.write_all(&kept.bytes).await?;
    if kept.finished {
        stream.shutdown().await?;
    }
    while kept.bytes.len() < KEPT_MAX {
        let had = kept.bytes.len();
        let room = KEPT_MAX - had;
        tokio::select! {
            // cancel-safe: filling a buffer is, and so is one read into one
            answer = stream.fill_buf() => {
                // Not consumed: the splice finds it again. The end of the stream is an answer too.
                return answer.map(|_| ());
            }
            read = read_some(socket, &mut kept.bytes, room), if !kept.finished => {
                match read? {
                    0 => {
                        kept.finished = true;
                        stream.shutdown().await?;
                    }
                    _ => stream.write_all(kept.bytes.get(had..).unwrap_or_default()).await?,
                }
            }
        }
    }
    Ok(())
}

async fn read_some(socket: &mut UnixStream, into: &mut BytesMut, room: usize) -> io::Result<usize> {
    into.reserve(room.min(4096));
    let mut limited = (&mut *socket).take(room as u64);
    limited.read_buf(into).await
}

#[cfg(test)]
mod tests {
    use std::future::IntoFuture;

    use bytes::Bytes;

    use super::super::sessions::NewSession;
    use super::*;
    use crate::model::SessionKind;
    use crate::mux::{Driver, Handle, Incoming, Role, Websocket};
    use crate::wire::{Code, Config, Side};

    type End = (Handle, Incoming, Driver);

    fn pair() -> (End, End) {
        let (a, b) = tokio::io::duplex(64 * 1024);
        let a = Websocket::new(Box::new(a), Role::Client, Bytes::new());
        let b = Websocket::new(Box::new(b), Role::Server, Bytes::new());
        let config = Config::default();
        (
            mux::session(a, Side::Node, config),
            mux::session(b, Side::Plane, config),
        )
    }

    /// A node with one more session; answers the plane's end of it.
    fn session(sessions: &Sessions, slot: u8, tasks: &mut JoinSet<()>) -> End {
        let ((handle, incoming, driver), plane) = pair();
        sessions.begin(NewSession {
            slot,
            kind: SessionKind::Full,
            endpoint: format!("wss://{slot}"),
            failures: 0,
            ping_interval: Duration::from_secs(8),
            handle,
            probe: None,
        });
        tasks.spawn(async move {
            drop(driver.into_future().await);
            drop(incoming);
        });
        plane
    }

    /// The plane leaves while the OPEN and its data are on their way: it looks at neither.
    #[tokio::test]
    async fn what_the_plane_did_not_look_at_goes_to_another_session() {
        let sessions = Arc::new(Sessions::new(Default::default()));
        let mut tasks = JoinSet::new();
        let (leaving, _incoming, first) = session(&sessions, 0, &mut tasks);
        let (mut client, gate) = UnixStream::pair().expect("pair");
        client.write_all(b"question").await.expect("write");
        client.shutdown().await.expect("half-close");
        let mut carried = JoinSet::new();
        carried.spawn(carry(gate, Arc::clone(&sessions)));
        // Until the stream is open on the first session, whose plane has not run yet.
        while sessions.all()[0].handle.stats().opened == 0 {
            tokio::task::yield_now().await;
        }
        leaving.leave(Code::GoingAway, Duration::ZERO, "restart");
        let (_plane, mut incoming, second) = session(&sessions, 1, &mut tasks);
        tasks.spawn(async move { drop(first.await) });
        tasks.spawn(async move { drop(second.await) });

        let opened = incoming.next().await.expect("opened again");
        assert_eq!(opened.open.service, mux::HOST_API);
        let mut stream = opened.accept().expect("accept");
        let mut asked = Vec::new();
        stream.read_to_end(&mut asked).await.expect("read");
        assert_eq!(asked, b"question");
        stream.write_all(b"answer").await.expect("write");
        stream.shutdown().await.expect("finish");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("read");
        assert_eq!(answer, b"answer");
        carried.join_next().await.expect("task").expect("carried");
    }

    /// More than can be kept: from then on the stream belongs to its session.
    #[tokio::test]
    async fn a_large_request_is_handed_over_whole() {
        let sessions = Arc::new(Sessions::new(Default::default()));
        let mut tasks = JoinSet::new();
        let (_plane, mut incoming, driver) = session(&sessions, 0, &mut tasks);
        tasks.spawn(async move { drop(driver.await) });
        let (client, gate) = UnixStream::pair().expect("pair");
        let mut carried = JoinSet::new();
        carried.spawn(carry(gate, sessions));
        let large: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let (mut from, mut to) = client.into_split();
        let sent = large.clone();
        tasks.spawn(async move {
            to.write_all(&sent).await.expect("write");
            to.shutdown().await.expect("half-close");
        });
        let mut stream = incoming.next().await.expect("open").accept().expect("take");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.expect("read");
        assert!(got == large, "{} bytes", got.len());
        stream.write_all(b"ok").await.expect("write");
        stream.shutdown().await.expect("finish");
        let mut answer = Vec::new();
        from.read_to_end(&mut answer).await.expect("read");
        assert_eq!(answer, b"ok");
    }
}
