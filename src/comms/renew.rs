//! The host's certificate, renewed in time: a new key, a certificate for it over the tunnel, a
//! connection that shows the pair, and only then the old one goes.
//!
//! ```text
//!   due, or of an authority that issues no more, or a session that is for the renewal only
//!     └► ask (on a session) ─► next.pem ─► show it to the plane ─► take over, go as its holder
//!          │ refused, away                   │ refused, or no connection in time and the old one works
//!          └────────── wait, say why ◄───────┘ next.pem is gone
//! ```
//!
//! Sessions that are up are left alone: the plane lets them live as long as the certificate that
//! opened them, so a renewal cuts no stream. A crash at any instant leaves a pair that works
//! (`identity::pair`); what it cut off is taken up at the next start.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use super::dial::{DialError, TunnelRoute};
use super::endpoints::FIRST;
use super::link::Link;
use super::sessions::Sessions;
use super::status::StatusBoard;
use crate::app::Backoff;
use crate::egress::Journey;
use crate::host::fs::{FsError, HostFs};
use crate::host::unchanged::FileMark;
use crate::host::work::brief;
use crate::identity::{self, IdentityError, NewKey, Pair, TlsPolicy, TunnelIdentity};
use crate::model::{
    Digest, Expiry, Fault, FaultCode, Life, RenewAnswer, RenewRequest, SessionKind, paths,
};
use crate::mux::{self, MuxStream};
use crate::telemetry::chain;
use crate::wire::{Class, Meta};

/// Longest wait without a look at the clock, which may be set while the machine may sleep, and at the
/// plane's authorities: a small file, that root replaces while an administrator waits for the hosts.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// After so many looks the authorities are read again, whatever the file system says of their file: one may have failed.
const LOOKS_MAX: u32 = 12;
/// Longest a session and then its answer are waited for.
const ASK: Duration = Duration::from_secs(30);
/// Largest answer: one certificate, or a fault.
const ANSWER_MAX: usize = 64 * 1024;
/// Longest a new pair may take to be shown to the plane before the old one is tried instead.
const SHOW_MAX: Duration = Duration::from_secs(120);
/// Longest wait between two tries: a hundred of them in the third of a year that is left, times two.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// An authority of the plane that has only this part of its life left is spoken of.
const AUTHORITY_DUE: f64 = 0.95;

/// The task.
pub(super) struct Renewal {
    pub(super) fs: HostFs,
    pub(super) policy: TlsPolicy,
    pub(super) link: Arc<Link>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) board: Arc<StatusBoard>,
}

/// What one endpoint says to a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// It takes it.
    Yes,
    /// It does not know it: forbidden.
    No,
    /// Nothing about it: there was no connection, or no time.
    Nothing,
}

/// What becomes of the next pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    TakeOver,
    Drop,
    Again,
}

/// Judges the next pair by what the endpoints say to it; and, once it took too long, by what they say
/// to the one in use. A plane that took the next pair refuses the other: so the next one may be
/// dropped only when it is refused everywhere, or when the one in use is known to be good.
fn verdict(next: &[Said], in_use: Option<&[Said]>) -> Verdict {
    let refused = !next.is_empty() && next.iter().all(|s| *s == Said::No);
    if next.contains(&Said::Yes) {
        Verdict::TakeOver
    } else if refused || in_use.is_some_and(|s| s.contains(&Said::Yes)) {
        Verdict::Drop
    } else {
        Verdict::Again
    }
}

/// The times of a renewal, by the life of the certificate: what is short for a year is long for
/// a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    show: Duration,
    pause: Duration,
}

impl Pace {
    fn of(life: Life) -> Self {
        let second = Duration::from_secs(1);
        Self {
            show: life.part(1.0 / 12.0).clamp(second, SHOW_MAX),
            pause: life.part(1.0 / 24.0).clamp(second, PAUSE_MAX),
        }
    }
}

// === impl Renewal ===

impl Renewal {
    /// Renews for as long as comms runs.
    pub(super) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        tokio::select! {
            // cancel-safe: every file is written whole, and what is interrupted is taken up again
            () = shutdown.cancelled() => {}
            () = self.keep() => {}
        }
    }

    async fn keep(&self) {
        self.tell(None);
        let mut next = self.files(identity::settle).await.unwrap_or_else(|e| {
            tracing::warn!(why = chain(&e), "the next pair cannot be read");
            None
        });
        let mut backoff = Backoff::full(FIRST, self.pace().pause);
        // What the plane issued since these authorities are trusted is not asked for again.
        let mut renewed_under = None;
        loop {
            let done = match next.take() {
                Some(pair) => {
                    let done = self.show(&pair).await;
                    // The plane knows this pair only, and the disk did not take all of it: another one in its place would
                    // lose its key.
                    let is_used = self.link.route().identity().certificate == pair.digest;
                    next = (done.is_err() && is_used).then_some(pair);
                    done
                }
                None => {
                    self.until_due(renewed_under).await;
                    match self.ask().await {
                        Ok(pair) => {
                            next = Some(pair);
                            continue;
                        }
                        Err(fault) => Err(fault),
                    }
                }
            };
            match done {
                Ok(()) => {
                    backoff = Backoff::full(FIRST, self.pace().pause);
                    renewed_under = Some(self.link.route().identity().bundle);
                    self.tell(None);
                    self.rest_if_due_again().await;
                }
                Err(fault) => {
                    let wait = backoff.failed();
                    let now = crate::seam::clock::now();
                    let fault = fault.next_try(now.checked_add(wait).unwrap_or(now));
                    tracing::warn!(code = fault.code.word(), "{fault}");
                    self.tell(Some(fault));
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// By a clock that is far ahead what the plane has just issued is due again, and so would be the next one.
    async fn rest_if_due_again(&self) {
        let renew_at = self.link.route().identity().renew_at();
        if renew_at <= crate::seam::clock::now() {
            tracing::warn!(%renew_at, "the renewed host certificate is due again: this machine's clock is wrong");
            tokio::time::sleep(self.pace().pause).await;
        }
    }

    fn pace(&self) -> Pace {
        Pace::of(self.link.route().identity().life)
    }

    /// What is known of the certificates, for everybody who asks.
    fn tell(&self, fault: Option<Fault>) {
        let route = self.link.route();
        self.board.certificates(expiries(&route.identity(), fault));
    }

    /// Waits until the certificate is due by this clock, or ended by the plane's, or is of another
    /// authority than the one that issues now: then the old one cannot be retired while this
    /// certificate is in use.
    async fn until_due(&self, renewed_under: Option<Digest>) {
        let mut changes = self.sessions.changes();
        let mut told = self.link.route().identity().bundle;
        let bundle = self.fs.at(paths::PLANE_CA);
        loop {
            let mark = FileMark::of(&bundle);
            let identity = self.link.route().identity();
            if identity.bundle != told {
                told = identity.bundle;
                self.tell(None);
            }
            if wants_another_issuer(&identity, renewed_under) {
                return;
            }
            let all = changes.borrow_and_update().clone();
            let ended = |kind: SessionKind| kind == SessionKind::RenewalOnly;
            if all
                .iter()
                .any(|live| ended(live.kind) && !live.handle.is_leaving())
            {
                return;
            }
            let due = identity.renew_at();
            let left = || Duration::try_from(due.duration_since(crate::seam::clock::now()));
            let news = async {
                for _ in 0..LOOKS_MAX {
                    let left = left().unwrap_or_default();
                    tokio::time::sleep(left.min(LOOK_AGAIN)).await;
                    if left.is_zero() || FileMark::of(&bundle) != mark {
                        return;
                    }
                }
            };
            if left().unwrap_or_default().is_zero() {
                return;
            }
            tokio::select! {
                // cancel-safe: both are
                () = news => {}
                changed = changes.changed() => {
                    if changed.is_err() {
                        // The sender is ours: it cannot be gone while this runs.
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    }

    /// A new key, and the plane's certificate for it: kept on the disk beside the pair in use.
    async fn ask(&self) -> Result<Pair, Fault> {
        let new = NewKey::make(self.link.route().identity().host_id)
            .map_err(|e| failed(FaultCode::IdentityKey, chain(&e)))?;
        let body = RenewRequest {
            schema: 1,
            csr: new.csr.clone(),
        };
        let body =
            serde_json::to_vec(&body).map_err(|e| failed(FaultCode::Internal, e.to_string()))?;
        let away = || {
            failed(FaultCode::PlaneAway, "there is no tunnel".to_owned())
                .fix("nothing to do: it is retried automatically")
        };
        let stream = self.stream().await.ok_or_else(away)?;
        let answer = tokio::time::timeout(ASK, post(stream, body)).await;
        let (status, bytes) = answer
            .unwrap_or_else(|_| Err("it did not answer in time".to_owned()))
            .map_err(|why| failed(FaultCode::PlaneAway, why))?;
        if !status.is_success() {
            return Err(match serde_json::from_slice::<Fault>(&bytes) {
                Ok(said) => failed(said.code, format!("{}: {}", said.what, said.why)).fix(said.fix),
                Err(_) => failed(
                    FaultCode::PlaneGarbage,
                    format!("the plane answered {status}"),
                ),
            });
        }
        let answer: RenewAnswer = serde_json::from_slice(&bytes).map_err(|e| {
            failed(
                FaultCode::PlaneGarbage,
                format!("its answer cannot be read: {e}"),
            )
        })?;
        let pair = new
            .with(&answer)
            .map_err(|why| failed(FaultCode::PlaneGarbage, why))?;
        let kept = pair.clone();
        self.files(move |fs| Ok(identity::keep_next(fs, &kept)?))
            .await
            .map_err(|e| e.fault(WHAT))?;
        Ok(pair)
    }

    /// A stream to the host API, on the session that is best.
    async fn stream(&self) -> Option<MuxStream> {
        let ready = tokio::time::timeout(ASK, self.sessions.ready()).await;
        let live = ready.ok()?;
        let opened = live
            .handle
            .open(mux::HOST_API, Class::Interactive, Meta::new());
        opened
            .inspect_err(|error| tracing::debug!(%error, "cannot open a stream to the plane"))
            .ok()
    }

    /// Shows the next pair to the plane, and takes it over; or drops it and says why.
    async fn show(&self, next: &Pair) -> Result<(), Fault> {
        let identity = identity::with(&self.fs, &self.policy, next);
        let route = match identity {
            Ok(identity) => self.link.route().as_holder(identity),
            Err(e) => return self.drop_next(e.fault(WHAT)).await,
        };
        let pace = self.pace();
        let late = tokio::time::Instant::now() + pace.show;
        let mut backoff = Backoff::full(FIRST, pace.show);
        loop {
            let (said, fault) = try_all(&route).await;
            let in_use = match tokio::time::Instant::now() >= late {
                true => Some(try_all(&self.link.route()).await.0),
                false => None,
            };
            match verdict(&said, in_use.as_deref()) {
                Verdict::TakeOver => return self.take_over(next, route).await,
                Verdict::Drop => {
                    let why = fault.map_or_else(String::new, |f| format!("{}: {}", f.what, f.why));
                    return self.drop_next(unproven(why)).await;
                }
                Verdict::Again => {
                    let fault = fault.map(|f| unproven(format!("{}: {}", f.what, f.why)));
                    self.tell(fault.filter(|_| in_use.is_some()));
                    tokio::time::sleep(backoff.failed()).await;
                }
            }
        }
    }

    async fn take_over(&self, next: &Pair, route: TunnelRoute) -> Result<(), Fault> {
        // From here on the plane knows this pair only: it is gone with although the disk fails, and
        // after a restart the file that is there already is shown again.
        let not_after = next.life.not_after;
        self.link.go_as(route);
        let pair = next.clone();
        self.files(move |fs| Ok(identity::take_over(fs, &pair)?))
            .await
            .map_err(|e| e.fault("cannot store the renewed host certificate"))?;
        tracing::info!(%not_after, "host certificate renewed");
        Ok(())
    }

    async fn drop_next(&self, why: Fault) -> Result<(), Fault> {
        self.files(|fs| Ok(identity::drop_next(fs)?))
            .await
            .map_err(|e| e.fault(WHAT))?;
        Err(why)
    }

    /// Work with files, beside the event loop: it waits for the disk.
    async fn files<T, F>(&self, work: F) -> Result<T, IdentityError>
    where
        T: Send + 'static,
        F: FnOnce(&HostFs) -> Result<T, IdentityError> + Send + 'static,
    {
        let fs = self.fs.clone();
        let done = brief(move || work(&fs)).await;
        done.unwrap_or_else(|e| {
            Err(IdentityError::Fs(FsError {
                action: "write",
                path: self.fs.at(crate::model::paths::HOST_NEXT),
                source: e.into(),
            }))
        })
    }
}

const WHAT: &str = "cannot renew the host certificate";

fn failed(code: FaultCode, why: String) -> Fault {
    Fault::new(code, WHAT, why)
}

fn unproven(why: String) -> Fault {
    let what = "the new host certificate does not work; the old one stays in use";
    Fault::new(FaultCode::CertificateUnproven, what, why)
        .fix("nothing to do: another one is requested; if it persists, see the plane's log")
}

/// Whether the certificate must be replaced although its time has not come. Once for each bundle of
/// authorities: a plane that is a step ahead of this host issues by one that is not the first here.
fn wants_another_issuer(identity: &TunnelIdentity, renewed_under: Option<Digest>) -> bool {
    !identity.is_of_first && renewed_under != Some(identity.bundle)
}

/// What every endpoint says to the holder of a route's certificate; why the last one said no.
async fn try_all(route: &TunnelRoute) -> (Vec<Said>, Option<Fault>) {
    let (mut all, mut last) = (Vec::new(), None);
    for endpoint in route.endpoints() {
        let done = route.try_endpoint(endpoint, &mut Journey::default()).await;
        all.push(said(&done));
        if let Err(error) = done {
            last = Some(error.fault(endpoint));
        }
    }
    (all, last)
}

fn said(done: &Result<(), DialError>) -> Said {
    match done {
        Ok(()) => Said::Yes,
        Err(error) if error.is_forbidden() => Said::No,
        Err(_) => Said::Nothing,
    }
}

/// The certificates of the tunnel; `fault`: why the host's own was not renewed.
fn expiries(identity: &TunnelIdentity, fault: Option<Fault>) -> Vec<Expiry> {
    let host = Expiry {
        renew_at: Some(identity.renew_at()),
        fault,
        ..Expiry::new("host", identity.life.not_after)
    };
    let authority = |(number, life): (usize, &Life)| {
        let name = match number {
            1 => "plane-ca".to_owned(),
            more => format!("plane-ca-{more}"),
        };
        Expiry {
            renew_at: Some(life.at(AUTHORITY_DUE)),
            ..Expiry::new(name, life.not_after)
        }
    };
    let authorities = (1..).zip(&identity.authorities).map(authority);
    std::iter::once(host).chain(authorities).collect()
}

/// `POST /v1/hosts/self/renew` on a stream of the tunnel.
async fn post(stream: MuxStream, body: Vec<u8>) -> Result<(StatusCode, Bytes), String> {
    let request = Request::post("/v1/hosts/self/renew")
        .header(header::HOST, "plane")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| e.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| chain(&e))?;
    let exchange = async move {
        let answer = sender.send_request(request).await.map_err(|e| chain(&e))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
        let bytes = body.map_err(|e| e.to_string())?.to_bytes();
        Ok::<_, String>((status, bytes))
    };
    // The connection is driven beside the call; its own error shows up in the call.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Timestamp;

    fn any_said() -> impl Strategy<Value = Vec<Said>> {
        let one = prop_oneof![Just(Said::Yes), Just(Said::No), Just(Said::Nothing)];
        prop::collection::vec(one, 0..3)
    }

    proptest! {
        /// Whatever the endpoints say: the next pair is dropped only if every plane refused it or
        /// one is known to take the other, and taken over exactly when one takes it.
        #[test]
        fn no_pair_is_given_up_that_could_be_the_only_one(
            next in any_said(),
            in_use in prop::option::of(any_said()),
        ) {
            let verdict = verdict(&next, in_use.as_deref());
            prop_assert_eq!(verdict == Verdict::TakeOver, next.contains(&Said::Yes));
            if verdict == Verdict::Drop {
                let all_no = !next.is_empty() && next.iter().all(|s| *s == Said::No);
                prop_assert!(all_no || in_use.is_some_and(|s| s.contains(&Said::Yes)));
            }
        }

        #[test]
        fn the_pace_is_bounded_whatever_the_life(seconds in 0i64..4_000_000_000) {
            let life = Life {
                not_before: Timestamp::UNIX_EPOCH,
                not_after: Timestamp::from_second(seconds).expect("time"),
            };
            let Pace { show, pause } = Pace::of(life);
            prop_assert!(show >= Duration::from_secs(1) && show <= SHOW_MAX);
            prop_assert!(pause >= Duration::from_secs(1) && pause <= PAUSE_MAX);
        }
    }
}
