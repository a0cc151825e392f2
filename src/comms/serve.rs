//! Streams from the plane to local services: allow-list, limits, dial, join, audit.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::admit::{Admission, Refusal};
use super::audit::{Audit, Line};
use super::carry::{Ended, Passed, join};
use super::local_tcp::LocalTcp;
use super::services::{Service, Services, Target};
use super::sessions::Live;
use crate::mux::{Incoming, MuxStream, Opened};
use crate::wire::Code;

/// Longest a local service may take to accept; the opener waits 15 s.
const DIAL: Duration = Duration::from_secs(10);

/// What serving needs, shared by all sessions: limits count over all of them.
pub(super) struct Serve {
    services: Services,
    pub(super) audit: Audit,
    admission: Admission,
    began: Instant,
    /// Refused streams by the word of their code: as many rows as there are codes.
    refused: Mutex<BTreeMap<&'static str, u64>>,
}

/// One stream's way through here, for its audit lines.
struct Story<'a> {
    serve: &'a Serve,
    stream: u32,
    service: &'a str,
    who: &'a str,
    trace: &'a str,
}

// === impl Serve ===

impl Serve {
    pub(super) fn new(services: Services, audit: Audit) -> Self {
        Self {
            services,
            audit,
            admission: Admission::default(),
            began: Instant::now(),
            refused: Mutex::default(),
        }
    }

    /// Refused streams so far, by reason.
    pub(super) fn refused(&self) -> BTreeMap<&'static str, u64> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.clone()
    }
}

/// Serves streams until the connection is over, and each of them to its end.
pub(super) async fn run(mut incoming: Incoming, live: Arc<Live>, serve: Arc<Serve>) {
    let mut running = JoinSet::new();
    while let Some(opened) = incoming.next().await {
        while running.try_join_next().is_some() {}
        let (live, serve) = (Arc::clone(&live), Arc::clone(&serve));
        // Bounded by the session's limit on streams.
        running.spawn(async move { one(opened, &live, &serve).await });
    }
    while running.join_next().await.is_some() {}
}

async fn one(opened: Opened, live: &Arc<Live>, serve: &Serve) {
    let name = opened.open.service.clone();
    let meta = |key| opened.open.meta.get(key).cloned().unwrap_or_default();
    let (who, trace): (String, String) = (meta("who"), meta("trace"));
    let story = Story {
        serve,
        stream: opened.id(),
        service: &name,
        who: &who,
        trace: &trace,
    };
    let Some(service) = serve.services.get(&name) else {
        let words = "not on this host's allow-list";
        return story.refuse(opened, Code::UnknownService, 0, "unknown service", words);
    };
    let now = serve.began.elapsed();
    let _place = match serve.admission.admit(&name, service, &who, now) {
        Ok(place) => place,
        Err(Refusal { code, why }) => {
            let words = format!("{name}: {why}");
            return story.refuse(opened, code, 0, &why, &words);
        }
    };
    let dialled = tokio::select! {
        // cancel-safe: a dial that is dropped leaves nothing behind
        dialled = tokio::time::timeout(DIAL, connect(&service.target)) => dialled,
        closed = live.ended() => {
            let why = format!("the tunnel is down: {closed}");
            return story.refuse(opened, Code::GoingAway, 0, &why, "");
        }
    };
    let socket = match dialled {
        Ok(Ok(socket)) => socket,
        Ok(Err(e)) => {
            let errno = e.raw_os_error().and_then(|n| u32::try_from(n).ok());
            let (why, words) = (e.to_string(), format!("{name}: {e}"));
            return story.refuse(opened, Code::DialFailed, errno.unwrap_or(0), &why, &words);
        }
        Err(_) => {
            let words = "the service did not accept in time";
            return story.refuse(opened, Code::TimedOut, 0, words, words);
        }
    };
    let Ok(accepted) = opened.accept() else {
        return;
    };
    story.write("open", "", None);
    let _named = live.name(story.stream, &name, &who);
    let passed = Arc::new(Passed::default());
    let ended = socket.join(accepted, live, service, &passed).await;
    let why = match ended {
        Ended::Done(Ok(())) => String::new(),
        // The opener may let go first: that is an end like any other.
        Ended::Done(Err(e)) if e.kind() == io::ErrorKind::BrokenPipe => String::new(),
        Ended::Done(Err(e)) => e.to_string(),
        Ended::Idle(idle) => format!("idle for {} s", idle.as_secs()),
        Ended::SessionOver(why) => format!("the tunnel is down: {why}"),
    };
    story.write("close", &why, Some(passed.both()));
}

// === impl Story ===

impl Story<'_> {
    fn refuse(&self, opened: Opened, code: Code, detail: u32, why: &str, words: &str) {
        let line = self.line("refuse", why, None);
        self.serve.audit.refuse(&line, code.word());
        {
            let refused = &self.serve.refused;
            let mut refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
            *refused.entry(code.word()).or_default() += 1;
        }
        opened.refuse(code, detail, words);
    }

    fn write(&self, what: &'static str, why: &str, passed: Option<(u64, u64)>) {
        self.serve.audit.write(&self.line(what, why, passed));
    }

    fn line<'a>(
        &'a self,
        what: &'static str,
        why: &'a str,
        passed: Option<(u64, u64)>,
    ) -> Line<'a> {
        Line {
            at: crate::seam::clock::now(),
            what,
            stream: Some(self.stream),
            service: self.service,
            who: self.who,
            trace: self.trace,
            why,
            bytes_in: passed.map(|(to_service, _)| to_service),
            bytes_out: passed.map(|(_, to_plane)| to_plane),
            more: None,
        }
    }
}

enum Local {
    Tcp(LocalTcp),
    Unix(UnixStream),
}

impl Local {
    async fn join(
        self,
        stream: MuxStream,
        session: &Live,
        service: &Service,
        passed: &Arc<Passed>,
    ) -> Ended {
        match self {
            Self::Tcp(socket) => join(stream, socket, session, service.idle, passed).await,
            Self::Unix(socket) => join(stream, socket, session, service.idle, passed).await,
        }
    }
}

async fn connect(target: &Target) -> io::Result<Local> {
    match target {
        Target::Tcp(address) => LocalTcp::connect(*address).await.map(Local::Tcp),
        Target::Unix(path) => UnixStream::connect(path).await.map(Local::Unix),
    }
}
