//! The door of a local socket: which callers come in.
//!
//! The kernel says who called when the connection is made, and that is when it is judged: a caller that
//! may not call, or has its share of connections, gets the reason in one write and is closed before a byte
//! is read. Nothing waits in the kernel's backlog for a place inside: otherwise a caller that
//! fills the places would fill the backlog too, and root would wait behind it.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use nix::sys::socket::Backlog;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;

use super::share::{Held, Share};
use crate::model::{Fault, FaultCode};
use crate::seam::disk;

/// Connections that the kernel holds until they are looked at. Each is looked at within some ten
/// microseconds, so this is for the time in which a daemon does something else; the units of
/// sockets that systemd makes say the same number.
const BACKLOG: i32 = 1024;
/// Refusals of one door are logged at most this often; the others are counted.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// Out of file descriptors: a pause lets some close; without it the door would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The caller, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id.
    pub pid: Option<i32>,
}

/// Who may call at all.
#[derive(Clone, Default)]
pub enum Callers {
    /// Whomever the socket's owner and mode let in.
    #[default]
    ByMode,
    /// Those of them for which it returns true.
    Only(Arc<dyn Fn(Peer) -> bool + Send + Sync>),
}

/// The door of one socket.
pub struct Door {
    listener: UnixListener,
    callers: Callers,
    held: Arc<Mutex<Held>>,
    refusals: Refusals,
}

/// Somebody who was let in.
pub struct Caller {
    /// The connection.
    pub stream: UnixStream,
    /// The caller.
    pub peer: Peer,
    /// Its place, given back when dropped.
    pub place: Place,
}

/// A place inside.
pub struct Place {
    held: Arc<Mutex<Held>>,
    uid: u32,
}

/// What was not logged yet.
#[derive(Default)]
struct Refusals {
    told: Option<Instant>,
    untold: u64,
}

/// Binds `path` with the given mode, replacing what a former process left there.
///
/// The caller owns the directory; group access is by the directory's or the socket's group.
pub fn bind(path: &Path, mode: u32) -> std::io::Result<UnixListener> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, listen, socket};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;

    match disk::remove_file(path) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    // Not `UnixListener::bind`: the length of its backlog is whatever the library likes.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    bind(made.as_raw_fd(), &UnixAddr::new(path)?)?;
    disk::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    listen(&made, Backlog::new(BACKLOG)?)?;
    UnixListener::from_std(std::os::unix::net::UnixListener::from(made))
}

// === impl Door ===

impl Door {
    /// A door before `listener`.
    pub fn new(listener: UnixListener, callers: Callers, share: Share) -> Self {
        Self {
            listener,
            callers,
            held: Arc::new(Mutex::new(Held::new(share))),
            refusals: Refusals::default(),
        }
    }

    /// The next one that is let in. Cancel-safe.
    pub async fn next(&mut self) -> Caller {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a local connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(cred) = stream.peer_cred() else {
                continue;
            };
            let peer = Peer {
                uid: cred.uid(),
                gid: cred.gid(),
                pid: cred.pid(),
            };
            match self.admit(peer) {
                Ok(place) => {
                    return Caller {
                        stream,
                        peer,
                        place,
                    };
                }
                Err(no) => {
                    let (status, fault) = *no;
                    self.refusals.tell(peer, &fault);
                    refuse(&stream, status, &fault);
                }
            }
        }
    }

    fn admit(&self, peer: Peer) -> Result<Place, Box<(StatusCode, Fault)>> {
        if !self.callers.may(peer) {
            let why = format!("user {} may not call", peer.uid);
            let fault = Fault::new(FaultCode::NotAllowed, "call refused", why);
            return Err(Box::new((StatusCode::FORBIDDEN, fault)));
        }
        lock(&self.held).admit(peer.uid).map_err(|full| {
            let why = format!("user {}: {full}", peer.uid);
            let fault = Fault::new(FaultCode::TooMany, "call refused", why)
                .fix("close some, or find the program of this user that keeps them open");
            Box::new((StatusCode::SERVICE_UNAVAILABLE, fault))
        })?;
        Ok(Place {
            held: Arc::clone(&self.held),
            uid: peer.uid,
        })
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An HTTP answer to a question that was not read. What the kernel does not take at once is not
/// said: nobody waits here for a caller that does not read.
fn refuse(stream: &UnixStream, status: StatusCode, fault: &Fault) {
    let body = serde_json::to_string(fault).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    drop(stream.try_write(answer.as_bytes()));
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.held).leave(self.uid);
    }
}

// === impl Callers, Refusals ===

impl Callers {
    fn may(&self, peer: Peer) -> bool {
        match self {
            Self::ByMode => true,
            Self::Only(may) => may(peer),
        }
    }
}

impl Refusals {
    fn tell(&mut self, peer: Peer, fault: &Fault) {
        let lately = self.told.is_some_and(|at| at.elapsed() < TELL_AGAIN);
        if lately {
            self.untold += 1;
            return;
        }
        let more = std::mem::take(&mut self.untold);
        self.told = Some(Instant::now());
        tracing::warn!(code = fault.code.word(), pid = peer.pid, more, "{fault}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_that_systemd_makes_has_the_same_backlog() {
        let unit = include_str!("../../systemd/pf9-nodeletd.socket");
        let line = format!("Backlog={BACKLOG}");
        assert!(unit.lines().any(|l| l == line), "{line}");
    }
}
