//! The seat: which of several planes writes. A key under a lease, which expires when its holder dies.
//!
//! ```text
//!            free           lease kept alive            etcd silent for long
//! waiting ─────────► ours ◄──────────────────► ours ◄───────────────────────► ours, away
//!    ▲                                           │ the lease expired meanwhile
//!    └── the next start ──────── lost ◄──────────┤
//!                                another wrote   └──► taken again, if nobody has written since
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::gateway::{self, CallError, Kv, Txn};
use super::{Away, Shared, Standing};

/// Lifetime of the lease: the seat of a plane that dies is free after it. Longer than a member's death and an election.
const LIFE: Duration = Duration::from_secs(15);
/// Interval of keep-alives.
const KEEP: Duration = Duration::from_secs(3);
/// etcd counts as away after this long without an answer: an election takes one or two seconds.
const AWAY_AFTER: Duration = Duration::from_secs(6);
/// Pause after a failed call.
pub(super) const AGAIN: Duration = Duration::from_millis(500);
/// How often a waiting plane checks whether the seat is free.
const LOOK: Duration = Duration::from_secs(1);
/// How often a transaction that takes the seat is repeated before a new one is made.
const TRIES: u32 = 5;

/// The holder of the seat: one run of a plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    life: Uuid,
    /// Its address, for people.
    pub(crate) at: String,
    /// `HOST:PORT` where other planes reach it; nothing: they do not.
    #[serde(default)]
    pub(crate) peer: Option<String>,
}

/// Our seat.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    pub(super) revision: i64,
    lease: i64,
}

/// The seat, and the last step before it.
pub(super) struct Sitting {
    pub(super) seat: Seat,
    pub(super) head: String,
}

/// Result of an attempt to take the seat.
enum Tried {
    Ours(Seat, Option<String>),
    Anothers(Holder),
}

/// Result of a check of the seat.
enum Look {
    Ours(Seat),
    Lost(String),
}

impl Holder {
    pub(super) fn new(at: &str, peer: Option<&str>) -> Self {
        Self {
            life: Uuid::new_v4(),
            at: at.to_owned(),
            peer: peer.map(str::to_owned),
        }
    }

    fn of(kv: &Kv) -> Self {
        serde_json::from_slice(&kv.value).unwrap_or_else(|_| Self {
            life: Uuid::nil(),
            at: "an unknown place".into(),
            peer: None,
        })
    }
}

/// Takes the seat as soon as it is free.
pub(super) async fn take(
    shared: &Shared,
    holder: &Holder,
    waits: impl Fn(&Holder),
) -> Result<Sitting, CallError> {
    let key = shared.gateway.key("seat");
    let mut told: Option<Holder> = None;
    let mut silent = false;
    loop {
        let tried = match shared.gateway.get(&key).await {
            Ok(None) => sit(shared, holder).await,
            Ok(Some(_)) if crate::mutant("seat-waits") => sit(shared, holder).await,
            Ok(Some(kv)) => Ok(Tried::Anothers(Holder::of(&kv))),
            Err(e) => Err(e),
        };
        match tried {
            Ok(Tried::Ours(seat, Some(head))) => return Ok(Sitting { seat, head }),
            Ok(Tried::Ours(seat, None)) => return first(shared, seat).await,
            Ok(Tried::Anothers(other)) => {
                silent = false;
                if told.as_ref() != Some(&other) {
                    waits(&other);
                    told = Some(other);
                }
            }
            Err(CallError::Silent { at, why }) => {
                if !silent {
                    tracing::warn!(
                        at,
                        why,
                        "etcd does not answer: the plane waits for its store"
                    );
                }
                silent = true;
                shared.gateway.reload();
            }
            Err(e) => return Err(e),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Nothing was ever written here.
async fn first(shared: &Shared, seat: Seat) -> Result<Sitting, CallError> {
    let (key, head) = (shared.gateway.key("head"), Uuid::new_v4().to_string());
    let txn = Txn::default()
        .when(gateway::made_at(&shared.gateway.key("seat"), seat.revision))
        .when(gateway::made_at(&key, 0))
        .then([gateway::put(&key, head.as_bytes(), None)])
        .otherwise([gateway::read(&key)]);
    let mut left = TRIES;
    loop {
        left -= 1;
        match shared.gateway.txn(&txn).await {
            Ok(done) if done.made => return Ok(Sitting { seat, head }),
            Ok(done) => {
                let now = done.read.into_iter().next().flatten();
                // Our own, whose answer was lost; if it is another's, the steps will find out.
                let head = now.map_or(head, |kv| text(&kv));
                return Ok(Sitting { seat, head });
            }
            Err(CallError::Silent { .. }) if left > 0 => tokio::time::sleep(AGAIN).await,
            Err(e) => return Err(e),
        }
    }
}

/// Takes the seat, if it is free.
async fn sit(shared: &Shared, holder: &Holder) -> Result<Tried, CallError> {
    let lease = shared.gateway.grant(LIFE).await?;
    let (seat, head) = (shared.gateway.key("seat"), shared.gateway.key("head"));
    let said = serde_json::to_vec(holder).unwrap_or_default();
    let free = (!crate::mutant("seat-waits")).then(|| gateway::made_at(&seat, 0));
    let txn = Txn::default()
        .only_when(free)
        .then([
            gateway::put(
                &seat,
                &said,
                (!crate::mutant("seat-lease")).then_some(lease),
            ),
            gateway::read(&head),
        ])
        .otherwise([gateway::read(&seat), gateway::read(&head)]);
    let mut left = TRIES;
    let done = loop {
        left -= 1;
        match shared.gateway.txn(&txn).await {
            Err(CallError::Silent { .. }) if left > 0 => tokio::time::sleep(AGAIN).await,
            done => break done?,
        }
    };
    let mut read = done.read.into_iter();
    if done.made {
        let head = read.next().flatten().map(|kv| text(&kv));
        let revision = done.revision;
        return Ok(Tried::Ours(Seat { revision, lease }, head));
    }
    let (now, head) = (read.next().flatten(), read.next().flatten());
    match now {
        // From an earlier attempt, whose answer was lost.
        Some(kv) if kv.lease == lease => {
            let revision = kv.create_revision;
            let seat = Seat { revision, lease };
            Ok(Tried::Ours(seat, head.map(|kv| text(&kv))))
        }
        now => {
            // If this does not arrive, it expires.
            drop(shared.gateway.revoke(lease).await);
            Ok(Tried::Anothers(now.as_ref().map_or_else(
                || Holder::new("a plane that left", None),
                Holder::of,
            )))
        }
    }
}

/// Keeps it while the plane runs, or until another plane has it.
pub(super) async fn keep(shared: Arc<Shared>, holder: Holder, mut seat: Seat) {
    let mut heard = (Instant::now(), pf9_hostagent::seam::clock::now());
    let mut pause = KEEP;
    loop {
        tokio::select! {
            // cancel-safe: all are
            () = tokio::time::sleep(pause) => {}
            () = shared.look.notified() => {}
            () = shared.stop.cancelled() => break,
        }
        match look(&shared, &holder, seat).await {
            Ok(Look::Ours(now)) => {
                seat = now;
                heard = (Instant::now(), pf9_hostagent::seam::clock::now());
                pause = KEEP;
                back(&shared, seat);
            }
            Ok(Look::Lost(to)) => {
                tracing::error!(to, "the seat is lost: this plane no longer writes");
                shared.standing.send_replace(Standing::Lost(to));
                return;
            }
            Err(e) => {
                pause = AGAIN;
                if heard.0.elapsed() > AWAY_AFTER {
                    away(&shared, seat, heard.1, &e);
                    shared.gateway.reload();
                }
            }
        }
    }
    // A clean end: the next holder need not wait for the lease to expire.
    drop(shared.gateway.revoke(seat.lease).await);
    let stops = Standing::Lost("nobody: the plane stops".into());
    shared.standing.send_replace(stops);
}

/// Waits until the seat is released, which its keeper does when it is told to stop.
pub(super) async fn leave(shared: &Shared) {
    let mut standing = shared.standing.subscribe();
    let over = standing.wait_for(|s| matches!(s, Standing::Lost(_)));
    drop(over.await);
}

fn back(shared: &Shared, seat: Seat) {
    shared.standing.send_if_modified(|standing| {
        let now = Standing::Ours {
            seat: seat.revision,
            away: None,
        };
        if let Standing::Ours {
            away: Some(away), ..
        } = standing
        {
            tracing::info!(since = %away.since, "etcd answers again");
        }
        let differs = *standing != now;
        *standing = now;
        differs
    });
}

fn away(shared: &Shared, seat: Seat, since: Timestamp, e: &CallError) {
    shared.standing.send_if_modified(|standing| match standing {
        Standing::Ours { away: None, .. } => {
            let why = e.to_string();
            tracing::warn!(%since, why, "etcd does not answer: changes are refused, tunnels stay up");
            *standing = Standing::Ours {
                seat: seat.revision,
                away: Some(Away { since, why }),
            };
            true
        }
        Standing::Ours { away: Some(_), .. } | Standing::Lost(_) => false,
    });
}

/// Checks that it is ours, keeps it alive, and takes it again if it expired and nobody has written since.
async fn look(shared: &Shared, holder: &Holder, seat: Seat) -> Result<Look, CallError> {
    let key = shared.gateway.key("seat");
    let now = shared.gateway.get(&key).await?;
    let ours = now.is_some_and(|kv| kv.create_revision == seat.revision);
    if ours && shared.gateway.keep_alive(seat.lease).await? {
        return Ok(Look::Ours(seat));
    }
    let (seat, head) = match sit(shared, holder).await? {
        Tried::Ours(seat, head) => (seat, head.unwrap_or_default()),
        // Our own expired lease, which etcd has not removed yet.
        Tried::Anothers(other) if other == *holder => {
            return Err(CallError::Silent {
                at: "the seat".into(),
                why: "its lease is ending".into(),
            });
        }
        Tried::Anothers(other) => return Ok(Look::Lost(other.at)),
    };
    let nobody_wrote = {
        let ours = shared.lock();
        head == ours.known || ours.trying.as_ref() == Some(&head)
    };
    if nobody_wrote || crate::mutant("seat-nobody-wrote") {
        tracing::warn!(
            "the seat's lease had expired; the seat is taken again, without writes in between"
        );
        return Ok(Look::Ours(seat));
    }
    // What another plane wrote is not in this plane's memory.
    drop(shared.gateway.revoke(seat.lease).await);
    Ok(Look::Lost("a plane that wrote and left".into()))
}

fn text(kv: &Kv) -> String {
    String::from_utf8_lossy(&kv.value).into_owned()
}
