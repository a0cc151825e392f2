//! The door of a plane that stands by: who connects is passed on to the plane with the seat.
//!
//! ```text
//! silent or no TLS: ends ◄── [hello] ──► [turn, by address] ──► [way opens] ──► passed on ──► the plane has ended: lingers
//!                    └ a stranger, who makes room ───────────────────┘              └ the seat is another's: ends
//! ```
//!
//! Where the plane with the seat is not reached (it died, and its seat's lease has not ended yet), who connects waits in the
//! kernel's queue. The port stays the same: with the seat this plane serves it, and those who waited.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{StatusCode, header};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::hello::{self, Hello};
use super::{FROM, PATH, PROTOCOL, PeerAddress, credential, linger, pass_on};
use crate::bootstrap::{self, BootError, Started};
use crate::fair::{Fair, Origin};
use crate::keys::{IDENTITY, IDENTITY_ROW, Ring};
use crate::refusal::chain;
use crate::serve::{ACCEPT_PAUSE, CONNECTIONS_MAX, ServeConfig};
use crate::store::{EtcdPlace, Holder, Remote, StoreError, glance};
use crate::strangers::{Stranger, Strangers};
use pf9_hostagent::app::tune;
use pf9_hostagent::host::tls::{self, ClientIdentity};
use pf9_hostagent::host::work::long;

/// How long the way to the plane with the seat may take to open: its handshake, and its answer.
const OPEN: Duration = Duration::from_secs(5);
/// Ways that open at a time: each is a handshake there, of a thousand that it makes at once.
const OPENING_MAX: usize = 256;
/// How long a client may wait for its turn: as long as a way may take that it waits for.
const TURN: Duration = OPEN;
/// Pause after a way that did not open.
const REST: Duration = Duration::from_secs(1);
/// After so long the fleet's keys are read again: they may have been replaced, and the own certificate has an end.
const FRESH: Duration = Duration::from_secs(3600);
/// A way whose keys cannot be read again is used for so long until the next try: etcd may be away from this plane alone.
const STALE: Duration = Duration::from_secs(60);

/// Passes connections on while it is polled.
pub(crate) struct Door<'a> {
    place: &'a EtcdPlace,
    /// Who has the seat, as far as it is known.
    holder: watch::Receiver<Option<Holder>>,
    /// Ways that were made.
    made: u64,
}

/// How the plane with the seat is reached.
#[derive(Clone)]
struct Way {
    number: u64,
    /// Whom it leads to.
    holder: Holder,
    /// `HOST:PORT`.
    to: String,
    client: reqwest::Client,
    /// It is made again after that.
    until: Instant,
}

/// Who has connected.
struct Guest {
    client: TcpStream,
    from: SocketAddr,
    /// Until its way is open: from then on the plane with the seat says who stays.
    stranger: Stranger,
    /// It makes room for others.
    cut: CancellationToken,
    strangers: Strangers,
    turns: Fair,
    holder: watch::Receiver<Option<Holder>>,
}

/// How a connection ended that was not refused.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Over,
    /// Another plane takes this one for the plane with the seat.
    Plane,
}

/// A way that did not open.
struct Failed {
    number: u64,
    why: Unreached,
}

/// Why a connection was not passed on.
#[derive(Debug, thiserror::Error)]
enum Unreached {
    #[error("etcd has no keys of a fleet")]
    NoKeys,
    #[error("the fleet's keys cannot be used: {0}")]
    Keys(String),
    #[error("it does not answer: {0}")]
    Silent(String),
    #[error("it answers {0}")]
    Refused(StatusCode),
}

/// Waits for the seat, and passes connections on meanwhile; then everything of the store is read.
pub(crate) async fn stand_by(
    config: &ServeConfig,
    place: &EtcdPlace,
    listener: &TcpListener,
    reached_at: &str,
    peer: Option<&PeerAddress>,
) -> Result<Started, BootError> {
    let (told, holder) = watch::channel(None);
    let waits = move |holder: &Holder| {
        tracing::info!(at = holder.at, "another plane has the store: standing by");
        told.send_replace(Some(holder.clone()));
    };
    let mut door = Door {
        place,
        holder,
        made: 0,
    };
    let remote = tokio::select! {
        // cancel-safe: a connection that is lost with the door comes again
        taken = Remote::take(place, reached_at, peer.map(|p| p.at.as_str()), waits) => taken?,
        never = door.serve(listener) => match never {},
    };
    let (dir, now) = (config.state_dir.clone(), pf9_hostagent::seam::clock::now());
    let opening = long(move || bootstrap::start_with(&dir, Some(remote), now));
    opening.await.map_err(|_| StoreError::Stopped)?
}

impl Door<'_> {
    async fn serve(&mut self, listener: &TcpListener) -> Infallible {
        let strangers = Strangers::default();
        let turns = Fair::new(OPENING_MAX, CONNECTIONS_MAX);
        let mut passing = JoinSet::new();
        let mut way: Option<Way> = None;
        let mut told = None;
        loop {
            let now = match way.take() {
                Some(now) if self.leads(&now) => now,
                before => self.find(before).await,
            };
            way = Some(now.clone());
            tokio::select! {
                // cancel-safe: all are; a connection is accepted or it is not
                accepted = listener.accept() => match accepted {
                    // Full: one that has not begun, or is over, makes room.
                    Ok(_) if passing.len() >= CONNECTIONS_MAX && !strangers.make_room() => {
                        tracing::warn!("connection refused: too many connections");
                    }
                    Ok((client, from)) => {
                        let cut = CancellationToken::new();
                        let guest = Guest {
                            client,
                            from,
                            stranger: strangers.enter(Origin::of(from), cut.clone()),
                            cut,
                            strangers: strangers.clone(),
                            turns: turns.clone(),
                            holder: self.holder.clone(),
                        };
                        passing.spawn(guest.pass(now));
                    }
                    Err(e) => {
                        tracing::warn!(why = %e, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(passed) = passing.join_next(), if !passing.is_empty() => match passed {
                    // Of those that failed on the same way the first one says it for all.
                    Ok(Err(failed)) if failed.number == now.number => {
                        // No connection is accepted until the way is made again.
                        let why = chain(&failed.why);
                        tracing::warn!(to = now.to, why, "the plane that has the store is not reached");
                        way = Some(Way { until: Instant::now(), ..now });
                        tokio::time::sleep(REST).await;
                    }
                    Ok(Ok(End::Plane)) if told != Some(now.number) => {
                        told = Some(now.number);
                        tracing::warn!(
                            holder = now.to,
                            "another plane took this one for the plane that has the store: the seat changed just now, or the \
                             holder's --peer-address leads here, as a load balancer's does"
                        );
                    }
                    Ok(_) | Err(_) => {}
                },
                // Another one has it, if any.
                changed = self.holder.changed() => if changed.is_err() {
                    std::future::pending().await
                },
            }
        }
    }

    /// Whether this is still the way to the one that has the seat.
    fn leads(&self, way: &Way) -> bool {
        self.holder.borrow().as_ref() == Some(&way.holder) && Instant::now() < way.until
    }

    /// The way to the holder of the seat, or the one `before` where that leads to it and the keys cannot be read. Waits
    /// while there is no holder, or its address is unknown.
    async fn find(&mut self, before: Option<Way>) -> Way {
        let mut told = None;
        loop {
            let holder = self.holder.borrow_and_update().clone();
            let known = holder.and_then(|h| Some((h.peer.clone()?, h)));
            match known {
                Some((to, holder)) => match self.way(&to, &holder).await {
                    Ok(way) => return way,
                    Err(e) => {
                        if let Some(before) = before.clone().filter(|b| b.to == to) {
                            let until = Instant::now() + STALE;
                            let number = self.number();
                            return Way {
                                number,
                                holder,
                                until,
                                ..before
                            };
                        }
                        let why = chain(&e);
                        if told.as_ref() != Some(&why) {
                            tracing::warn!(to, why, "no connection can be passed on");
                            told = Some(why);
                        }
                        tokio::time::sleep(REST).await;
                    }
                },
                // Nobody tells any more: the seat is this plane's, and the door is about to go.
                None => {
                    if self.holder.changed().await.is_err() {
                        std::future::pending().await
                    }
                }
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    async fn way(&mut self, to: &str, holder: &Holder) -> Result<Way, Unreached> {
        let bad = |why: String| Unreached::Keys(why);
        let row = glance(self.place, &IDENTITY, IDENTITY_ROW).await;
        let row = row.map_err(|e| bad(chain(&e)))?.ok_or(Unreached::NoKeys)?;
        let ring = Ring::load(row).map_err(|e| bad(chain(&e)))?;
        let shown = credential(&ring, pf9_hostagent::seam::clock::now());
        let shown = shown.map_err(|e| bad(chain(&e)))?;
        let authority = ring.bundle();
        let identity = ClientIdentity {
            authority: authority.as_bytes(),
            certificate: shown.certificate.as_bytes(),
            key: shown.key.as_bytes(),
        };
        let client = tls::client_naming(identity, &[PROTOCOL, "http/1.1"]);
        Ok(Way {
            number: self.number(),
            holder: holder.clone(),
            to: to.to_owned(),
            client: client.map_err(|e| bad(e.to_string()))?,
            until: Instant::now() + FRESH,
        })
    }
}

impl Way {
    /// Opens it for one client.
    async fn open(&self, client: String) -> Result<reqwest::Upgraded, Unreached> {
        let silent = |e: reqwest::Error| Unreached::Silent(chain(&e));
        let asked = self.client.get(format!("https://{}{PATH}", self.to));
        let asked = asked
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, PROTOCOL)
            .header(FROM, client);
        let opening = async {
            let answer = asked.send().await.map_err(silent)?;
            match answer.status() {
                StatusCode::SWITCHING_PROTOCOLS => answer.upgrade().await.map_err(silent),
                other => Err(Unreached::Refused(other)),
            }
        };
        let late = |_| Unreached::Silent(format!("not within {} s", OPEN.as_secs()));
        tokio::time::timeout(OPEN, opening).await.map_err(late)?
    }
}

impl Guest {
    /// One connection, until it ends.
    async fn pass(self, way: Way) -> Result<End, Failed> {
        let cut = self.cut.clone();
        tokio::select! {
            // cancel-safe: nothing is kept of a connection that ends
            ended = self.whole(way) => ended,
            () = cut.cancelled() => Ok(End::Over),
        }
    }

    async fn whole(mut self, way: Way) -> Result<End, Failed> {
        // Who has gone already cannot be tuned.
        if tune(&self.client).is_err() {
            return Ok(End::Over);
        }
        let begun = match hello::read(&mut self.client).await {
            Some(Hello::Client(bytes)) => bytes,
            Some(Hello::Plane) => return Ok(End::Plane),
            None => return Ok(End::Over),
        };
        let origin = self.stranger.origin();
        let turn = tokio::time::timeout(TURN, self.turns.place(origin)).await;
        let Ok(Ok(turn)) = turn else {
            return Ok(End::Over);
        };
        let opened = way.open(self.from.to_string()).await;
        drop(turn);
        let number = way.number;
        let mut plane = opened.map_err(|why| Failed { number, why })?;
        self.stranger.known();
        let client = self.client;
        let passing = async {
            plane.write_all(&begun).await?;
            pass_on(client, plane).await
        };
        let passed = tokio::select! {
            // cancel-safe: nothing is kept of a connection that ends
            passed = passing => passed,
            // Its plane may be gone without a word; one that still runs ends, too.
            _ = self.holder.wait_for(|now| now.as_ref() != Some(&way.holder)) => return Ok(End::Over),
        };
        match passed {
            Ok(None) => {}
            Ok(Some(rest)) => {
                let _stranger = self.strangers.enter(origin, self.cut);
                linger(rest).await;
            }
            Err(e) => tracing::debug!(from = %self.from, why = %e, "a passed connection ended"),
        }
        Ok(End::Over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An etcd that cannot be asked: its files are missing.
    fn nowhere() -> EtcdPlace {
        EtcdPlace {
            endpoints: vec!["https://127.0.0.1:1".into()],
            authority: "/nowhere/ca.pem".into(),
            certificate: "/nowhere/cert.pem".into(),
            key: "/nowhere/key.pem".into(),
            prefix: "/fleet/".into(),
        }
    }

    fn holder(peer: &str) -> Holder {
        let text = serde_json::json!({"life": uuid::Uuid::nil(), "at": "https://a", "peer": peer});
        serde_json::from_value(text).expect("a holder")
    }

    #[tokio::test]
    async fn a_way_whose_keys_cannot_be_read_again_is_kept_while_its_plane_has_the_seat() {
        let place = nowhere();
        let (told, holder_now) = watch::channel(Some(holder("10.0.0.1:8443")));
        let mut door = Door {
            place: &place,
            holder: holder_now,
            made: 0,
        };
        let way = Way {
            number: 0,
            holder: holder("10.0.0.1:8443"),
            to: "10.0.0.1:8443".into(),
            client: tls::plain().expect("client"),
            until: Instant::now(),
        };
        assert!(!door.leads(&way), "it is due");
        let kept = door.find(Some(way)).await;
        assert!(door.leads(&kept));
        assert_ne!(kept.number, 0, "what failed before says nothing of it");
        told.send_replace(Some(holder("10.0.0.2:8443")));
        assert!(!door.leads(&kept), "another plane has the seat");
        let finding = door.find(Some(kept));
        let found = tokio::time::timeout(Duration::from_millis(50), finding).await;
        assert!(found.is_err(), "and a way to it needs the keys");
    }

    #[tokio::test]
    async fn where_nobody_can_tell_of_a_holder_any_more_the_door_waits_without_turning() {
        let place = nowhere();
        let (told, holder_now) = watch::channel(None);
        drop(told);
        let mut door = Door {
            place: &place,
            holder: holder_now,
            made: 0,
        };
        let mut finding = std::pin::pin!(door.find(None));
        let once = std::future::poll_fn(|cx| std::task::Poll::Ready(finding.as_mut().poll(cx)));
        // Polled outside of the scheduler's budget, a loop would not come back.
        assert!(tokio::task::unconstrained(once).await.is_pending());
    }
}
