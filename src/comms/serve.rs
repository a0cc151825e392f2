//! Streams from the plane to local services: allow-list, dial, splice, audit.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

use super::audit::{Audit, Line};
use super::services::{Services, Target};
use crate::mux::{Incoming, MuxStream, Opened, Spliced, splice};
use crate::wire::Code;

/// Longest a local service may take to accept; the opener waits 15 s.
const DIAL: Duration = Duration::from_secs(10);

/// Streams per service, for its limit.
type Counts = Arc<Mutex<BTreeMap<String, u32>>>;

/// Serves streams until the connection is over.
pub(super) async fn run(mut incoming: Incoming, services: Arc<Services>, audit: Arc<Audit>) {
    let counts = Counts::default();
    let mut running = JoinSet::new();
    while let Some(opened) = incoming.next().await {
        while running.try_join_next().is_some() {}
        let (services, audit, counts) = (
            Arc::clone(&services),
            Arc::clone(&audit),
            Arc::clone(&counts),
        );
        // Bounded by the session's limit on streams.
        running.spawn(async move { one(opened, &services, &audit, &counts).await });
    }
}

async fn one(opened: Opened, services: &Services, audit: &Audit, counts: &Counts) {
    let name = opened.open.service.clone();
    let who = opened.open.meta.get("who").cloned().unwrap_or_default();
    let stream = opened.id();
    let line = |what, why: &str, passed: Option<Spliced>| {
        audit.write(&Line {
            at: Timestamp::now(),
            what,
            stream,
            service: &name,
            who: &who,
            why,
            bytes_in: passed.map(|p| p.to_socket),
            bytes_out: passed.map(|p| p.to_stream),
        });
    };
    let Some(service) = services.get(&name) else {
        line("refuse", "unknown service", None);
        opened.refuse(Code::UnknownService, 0, "not on this host's allow-list");
        return;
    };
    let Some(_slot) = Slot::take(counts, &name, service.max_streams) else {
        line("refuse", "too many streams", None);
        let words = format!("{} streams of {name} are open", service.max_streams);
        opened.refuse(Code::TooMany, 0, &words);
        return;
    };
    let dialled = tokio::time::timeout(DIAL, connect(&service.target)).await;
    let socket = match dialled {
        Ok(Ok(socket)) => socket,
        Ok(Err(e)) => {
            line("refuse", &e.to_string(), None);
            let errno = e.raw_os_error().and_then(|n| u32::try_from(n).ok());
            opened.refuse(
                Code::DialFailed,
                errno.unwrap_or(0),
                &format!("{name}: {e}"),
            );
            return;
        }
        Err(_) => {
            line("refuse", "the service did not accept in time", None);
            opened.refuse(Code::TimedOut, 0, "the service did not accept in time");
            return;
        }
    };
    let Ok(accepted) = opened.accept() else {
        return;
    };
    line("open", "", None);
    let (passed, result) = socket.join(accepted).await;
    // The opener may let go first: that is an end like any other.
    let why = match result {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => e.to_string(),
        Ok(()) | Err(_) => String::new(),
    };
    line("close", &why, Some(passed));
}

enum Local {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Local {
    async fn join(self, stream: MuxStream) -> (Spliced, io::Result<()>) {
        match self {
            Self::Tcp(socket) => splice(stream, socket).await,
            Self::Unix(socket) => splice(stream, socket).await,
        }
    }
}

async fn connect(target: &Target) -> io::Result<Local> {
    match target {
        Target::Tcp(address) => {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            Ok(Local::Tcp(socket))
        }
        Target::Unix(path) => UnixStream::connect(path).await.map(Local::Unix),
    }
}

/// One of a service's streams; given back when dropped.
struct Slot {
    counts: Counts,
    name: String,
}

impl Slot {
    fn take(counts: &Counts, name: &str, max: u32) -> Option<Self> {
        let mut map = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let n = map.entry(name.to_owned()).or_default();
        if *n >= max {
            return None;
        }
        *n += 1;
        Some(Self {
            counts: Arc::clone(counts),
            name: name.to_owned(),
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut map = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = map.get_mut(&self.name) {
            *n = n.saturating_sub(1);
        }
    }
}
