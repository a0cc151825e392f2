//! A host's service, through the best of the host's sessions; through the next one if that fails before anything was
//! done.

use std::error::Error;
use std::io;
use std::time::Duration;

use super::refusal::chain;
use super::state::Plane;
use pf9_hostagent::model::HostId;
use pf9_hostagent::mux::MuxStream;
use pf9_hostagent::telemetry::causes;
use pf9_hostagent::wire::{Class, Meta};

/// How long a node may take to dial its service and complete the handshake.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// The same while another session is left: a path that has just died is not known to be dead yet. In total, if another
/// host could serve instead. Longer than a healthy one takes; if it was only slow, the last one has all the time.
pub(super) const IMPATIENT_DEADLINE: Duration = Duration::from_secs(3);

/// Why a service was not reached over a session.
#[derive(Debug)]
pub(super) enum Failed {
    /// The session, or something behind it; another session may work.
    Way(String),
    /// The host itself refused, or is not who it should be: that is the same on every session.
    Host(String),
}

impl Failed {
    /// Classifies an error by where it happened. Only for errors before a request was sent: a later one may have been
    /// executed, and must not be repeated.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let io = causes(error).find_map(|e| e.downcast_ref::<io::Error>());
        let kind = io.map(io::Error::kind);
        match kind {
            // No such service, not allowed, an untrusted certificate.
            Some(
                io::ErrorKind::NotFound
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::InvalidData,
            ) => Self::Host(chain(error)),
            Some(_) | None => Self::Way(chain(error)),
        }
    }
}

/// Opens a stream to a host's service and starts with `begin`, which must be safe to repeat. `None`: the host is not
/// connected.
pub(super) async fn reach<T, F>(
    plane: &Plane,
    host: HostId,
    (service, class, meta): (&str, Class, &Meta),
    begin: impl Fn(MuxStream) -> F,
) -> Option<Result<T, String>>
where
    F: Future<Output = Result<T, Failed>>,
{
    let mut ways = plane.sessions.ways(host).into_iter().peekable();
    let mut failed = None;
    while let Some(way) = ways.next() {
        let deadline = match ways.peek() {
            Some(_) => IMPATIENT_DEADLINE,
            None => CONNECT_DEADLINE,
        };
        let stream = match way.tunnel.open(service, class, meta.clone()) {
            Ok(stream) => stream,
            Err(e) => {
                failed = Some(format!("it accepts no stream: {}", chain(&e)));
                continue;
            }
        };
        match tokio::time::timeout(deadline, begin(stream)).await {
            Ok(Ok(done)) => {
                plane.sessions.prefer(host, way.number);
                return Some(Ok(done));
            }
            Ok(Err(Failed::Host(why))) => return Some(Err(why)),
            Ok(Err(Failed::Way(why))) => failed = Some(why),
            Err(_) => failed = Some("it did not answer in time".to_owned()),
        }
        tracing::debug!(%host, session = way.number, service, why = failed, "not reached on this session");
    }
    failed.map(Err)
}
