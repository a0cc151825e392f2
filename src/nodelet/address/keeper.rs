//! The keeper of the shared address: one task.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::lease;
use super::turn::{Ask, KERNEL_LATE, LEASE, LEAVING_MAX, NOTICE, Record, Turn};
use super::words::{configured, foreign, nobodys, nor_others, off_link, unasked, unheard, unlent};
use crate::app::Beat;
use crate::host::kube::{Kube, KubeError};
use crate::host::neighbours::{self, Link};
use crate::host::{Host, interfaces};
use crate::model::{ApiAddressStatus, Fault, NodeSpec, Role, Timestamp};
use crate::nodelet::job::Job;
use crate::nodelet::peers::Peers;
use crate::nodelet::status::AddressBoard;
use crate::nodelet::trust;

/// Longest one question to the API server may take: what is left of a hold after it is of no use.
const CALL: Duration = Duration::from_secs(3);
/// Longest the way back may take when this master stops: others wait for the lease's time otherwise.
const GIVE_BACK: Duration = Duration::from_secs(2);
/// An answer to a question on the link is there by then.
const ANSWER: Duration = Duration::from_millis(500);
/// How often it is asked whether anybody has the address before it is taken for the first time: one
/// question may be lost.
const QUESTIONS: u32 = 3;
/// After an answer: wait this long before asking again.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// Announcements at once after it was taken, one with each write: one may be lost.
const ANNOUNCED_FIRST: u32 = 3;
/// And so often from then on: for switches that forget. Then it is also asked who else has it.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(30);
/// So often it is looked what this machine has against it: is it configured with the address, is it a
/// copy.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// Nobody has had it for so long: another one would have taken it over by now.
const NOBODYS: Duration = Duration::from_secs(10);
/// Longest one round takes: a few calls and commands, each with a bound.
const ROUND: Duration = Duration::from_secs(30);

/// Longest the loop waits for another master to have the address: the word, the notice, its turn.
const HANDOVER: Duration = LEAVING_MAX
    .saturating_add(NOTICE)
    .saturating_add(Duration::from_secs(2));

/// The loop's way to say that this master's API server is about to stop.
#[derive(Clone, Debug)]
pub struct Handover(mpsc::Sender<oneshot::Sender<()>>);

/// The keeper's end of it.
pub struct Leaving(mpsc::Receiver<oneshot::Sender<()>>);

/// Both ends. One question at a time: there is one loop.
pub fn handover() -> (Handover, Leaving) {
    let (ask, asked) = mpsc::channel(1);
    (Handover(ask), Leaving(asked))
}

impl Handover {
    /// Returns when another master has the address, when there is none that could, or after eight seconds at most: the
    /// caller proceeds anyway.
    pub async fn away(&self) {
        let (done, over) = oneshot::channel();
        if self.0.try_send(done).is_ok() {
            // An answer and a closed channel mean the same here.
            drop(tokio::time::timeout(HANDOVER, over).await);
        }
    }
}

/// The task's state.
pub struct AddressKeeper {
    host: Host,
    job: watch::Receiver<Job>,
    board: AddressBoard,
    beat: Beat,
    shutdown: CancellationToken,
    leaving: Leaving,
    peers: Peers,
    sharing: Option<Sharing>,
}

/// The shared address, and its masters.
#[derive(Clone)]
struct Wanted {
    ip: IpAddr,
    node: Arc<NodeSpec>,
}

/// This master's part in it.
struct Sharing {
    wanted: Wanted,
    turn: Turn,
    /// The interface that has it because we lent it.
    on: Option<String>,
    since: Option<Timestamp>,
    announced: u32,
    announced_at: Duration,
    /// Why this master cannot have it, until then.
    barred: Option<(Fault, Duration)>,
    /// Somebody else answers for it, although we have it.
    rival: Option<Fault>,
    /// Since when the lease could not be asked, and why.
    unasked: Option<(Duration, Fault)>,
    /// When it was last looked what the machine itself has against it.
    checked: Option<Duration>,
    /// This machine is a copy, and does nothing in the original's name.
    held: bool,
    /// Waits until another master has it.
    waits: Option<oneshot::Sender<()>>,
}

impl AddressKeeper {
    /// A keeper of this host's part.
    pub fn new(
        host: Host,
        job: watch::Receiver<Job>,
        board: AddressBoard,
        beat: Beat,
        shutdown: CancellationToken,
        leaving: Leaving,
    ) -> Self {
        Self {
            host,
            job,
            board,
            beat,
            shutdown,
            leaving,
            peers: Peers::default(),
            sharing: None,
        }
    }

    /// Works until shutdown, and gives the address back then: another master takes it within a second.
    pub async fn run(mut self) {
        while !self.shutdown.is_cancelled() {
            let wanted = wanted(&self.job.borrow_and_update());
            self.beat.within(ROUND);
            self.begin_or_end(wanted).await;
            let pause = match self.sharing.take() {
                None => None,
                Some(mut sharing) => {
                    let pause = self.round(&mut sharing).await;
                    self.sharing = Some(sharing);
                    Some(pause)
                }
            };
            self.wait(pause).await;
        }
        self.beat.within(ROUND);
        self.begin_or_end(None).await;
    }

    async fn wait(&mut self, pause: Option<Duration>) {
        let sleep = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        match pause {
            Some(_) => self.beat.within(ROUND),
            None => self.beat.rests(),
        }
        tokio::select! {
            // cancel-safe: all are
            () = self.shutdown.cancelled() => {}
            changed = self.job.changed() => if changed.is_err() {
                // The loop has ended, and the process with it.
                self.shutdown.cancelled().await;
            },
            () = sleep => {}
            Some(asked) = self.leaving.0.recv() => self.leave(asked),
        }
    }

    /// What was shared is given back where something else, or nothing, is desired.
    async fn begin_or_end(&mut self, wanted: Option<Wanted>) {
        let same = |s: &Sharing, w: &Wanted| {
            (
                s.wanted.ip,
                &s.wanted.node.node_name,
                s.wanted.node.cluster_id,
            ) == (w.ip, &w.node.node_name, w.node.cluster_id)
        };
        if let Some(sharing) = &mut self.sharing
            && let Some(wanted) = &wanted
            && same(sharing, wanted)
        {
            sharing.wanted = wanted.clone();
            return;
        }
        if let Some(mut old) = self.sharing.take() {
            self.give_back(&mut old).await;
        }
        if wanted.is_none() {
            self.board.show(None);
        }
        if let Some(wanted) = wanted {
            self.sharing = Some(self.begun(wanted).await);
        }
    }

    async fn begun(&self, wanted: Wanted) -> Sharing {
        let name = wanted.node.node_name.to_string();
        // What a run before this one had: the lease may still name us, and then it continues.
        let there = self.host.net.lent(wanted.ip).await.ok().flatten();
        Sharing {
            turn: Turn::new(name),
            on: there.filter(|l| !l.for_ever).map(|l| l.interface),
            wanted,
            since: None,
            announced: 0,
            announced_at: Duration::ZERO,
            barred: None,
            rival: None,
            unasked: None,
            checked: None,
            held: false,
            waits: None,
        }
    }

    /// It goes to another master; who asked is answered when that is so. Where it is not here, or no other master could
    /// take it, that is now.
    fn leave(&mut self, asked: oneshot::Sender<()>) {
        let Some(s) = &mut self.sharing else {
            return;
        };
        // The caller has gone on meanwhile: to leave now would be for nothing.
        if asked.is_closed() {
            return;
        }
        if s.on.is_some() && s.wanted.node.etcd.members.len() > 1 {
            tracing::info!(ip = %s.wanted.ip, "the API server here is about to stop: its address moves to another master");
            s.turn.leave(since_boot());
            s.waits = Some(asked);
        }
    }

    /// One question, if it is time, and what follows from what is known. Answers when to come again.
    async fn round(&mut self, s: &mut Sharing) -> Duration {
        let now = since_boot();
        let link = interfaces::link_of(s.wanted.ip, s.wanted.node.node_ip);
        self.check(s, link.as_ref(), now).await;
        let able = s.barred.is_none() && !s.held;
        if (!able && s.on.is_some()) || s.turn.goes(now) {
            self.give_back(s).await;
        }
        if let Some(ask) = s.turn.next(now, able) {
            self.ask(s, ask, link.as_ref()).await;
        }
        self.settle(s, link.as_ref()).await;
        self.board.show(Some(s.shown(link.as_ref())));
        let now = since_boot();
        if s.turn.has_left(now) {
            s.waits = None;
        }
        s.turn.wakes(now, able).saturating_sub(now)
    }

    /// What this machine has against it.
    async fn check(&self, s: &mut Sharing, link: Option<&Link>, now: Duration) {
        s.barred = s.barred.take().filter(|(_, until)| *until > now);
        if link.is_none() {
            s.barred = Some((off_link(s.wanted.ip), now));
        } else if s.checked.is_none_or(|at| now >= at + CHECK_EVERY) {
            s.checked = Some(now);
            s.held = trust::held(&self.host.fs).is_some();
            let there = self.host.net.lent(s.wanted.ip).await.ok().flatten();
            if let Some(there) = there.filter(|l| l.for_ever) {
                let fault = configured(s.wanted.ip, &there.interface);
                // Another holder's: not ours to remove.
                s.on = None;
                s.barred = Some((fault, now + CHECK_EVERY + ROUND));
            }
        }
    }

    async fn ask(&mut self, s: &mut Sharing, ask: Ask, link: Option<&Link>) {
        if let (Ask::Write(over), Some(link)) = (&ask, link)
            && !over.proved
            && let Some(fault) = somebody_has(link, s.wanted.ip).await
        {
            let again = since_boot() + ASK_AGAIN;
            s.barred = Some((fault, again));
            return;
        }
        let sent = since_boot();
        let done = match self.peers.admin(&self.host.fs, &s.wanted.node) {
            Err(why) => Err(Asked::Unanswered(why)),
            Ok(kube) => match tokio::time::timeout(
                CALL,
                asked(&kube, &s.wanted, &ask, s.turn.is_leaving(sent)),
            )
            .await
            {
                Ok(done) => done,
                Err(_) => Err(Asked::Unanswered("no answer in time".to_owned())),
            },
        };
        let now = since_boot();
        match (ask, done) {
            (Ask::Look | Ask::Begin, Ok(record)) => s.turn.looked(now, record),
            (Ask::Write(_), Ok(Some(record))) => {
                s.turn.written(sent, now, record);
                self.lend(s, link).await;
            }
            (Ask::Write(_), Ok(None)) | (_, Err(Asked::Refused)) => {
                s.turn.refused(now);
            }
            (_, Err(Asked::Unanswered(why))) => {
                s.turn.unanswered(now);
                let since = s.unasked.take().map_or(now, |(since, _)| since);
                s.unasked = Some((since, unasked(s.wanted.ip, why)));
                return;
            }
        }
        s.unasked = None;
    }

    /// Lends it to the interface for what is left.
    async fn lend(&self, s: &mut Sharing, link: Option<&Link>) {
        let now = since_boot();
        // The kernel counts whole seconds; what is less is nothing.
        let left = s.turn.left(now).map_or(0, |left| left.as_secs());
        let Some(link) = link.filter(|_| left > 0) else {
            return;
        };
        let (net, ip) = (&self.host.net, s.wanted.ip);
        let first = s.on.is_none();
        if let Some(other) = s.on.take_if(|on| *on != link.name)
            && let Err(e) = net.take_back(ip, &other).await
        {
            tracing::warn!(%ip, "{e}");
        }
        match net.lend(ip, &link.name, left).await {
            Ok(()) => s.on = Some(link.name.clone()),
            Err(e) => {
                s.barred = Some((unlent(ip, &e), now + ASK_AGAIN));
                return;
            }
        }
        // This program, or the machine, stood still in between: the kernel counts from now on, and for
        // too long.
        let late = since_boot().saturating_sub(now) > KERNEL_LATE / 4;
        if late && let Err(e) = net.take_back(ip, &link.name).await {
            tracing::warn!(%ip, "{e}");
        }
        if late {
            s.on = None;
        } else if first || s.since.is_none() {
            s.since = Some(crate::seam::clock::now());
            s.announced = 0;
            tracing::info!(%ip, interface = link.name, "this node has the API's address now");
        }
    }

    /// Takes it from the interface where this master has it no more; else says that it is here.
    async fn settle(&self, s: &mut Sharing, link: Option<&Link>) {
        let now = since_boot();
        if s.turn.left(now).is_none() {
            // After a start it stays as it is until the lease was read; the kernel ends it in time.
            let anothers = s.turn.record().is_some() && !s.is_mine();
            if anothers || s.since.is_some() {
                self.drop_from(s).await;
            }
            return;
        }
        let due = s.announced < ANNOUNCED_FIRST || now >= s.announced_at + ANNOUNCE_EVERY;
        let Some(link) = link.filter(|_| due && s.on.is_some()) else {
            return;
        };
        let ip = s.wanted.ip;
        if let Err(e) = neighbours::announce(link, ip).await {
            tracing::warn!(%ip, interface = link.name, why = %e, "the API's address was not announced");
        }
        if s.announced >= ANNOUNCED_FIRST {
            s.rival = rival(link, ip).await;
        }
        s.announced = s.announced.saturating_add(1);
        s.announced_at = now;
    }

    async fn drop_from(&self, s: &mut Sharing) {
        let ip = s.wanted.ip;
        s.since = None;
        s.rival = None;
        if let Some(on) = s.on.take() {
            match self.host.net.take_back(ip, &on).await {
                Ok(()) => tracing::info!(%ip, interface = on, "the API's address left this node"),
                // The kernel takes it in seconds.
                Err(e) => tracing::warn!(%ip, "{e}"),
            }
        }
    }

    /// First off the interface, then in the lease: a master that reads the lease takes it at once.
    async fn give_back(&mut self, s: &mut Sharing) {
        let record = s.turn.yields(since_boot());
        self.drop_from(s).await;
        let Some(record) = record.filter(|_| !s.held) else {
            return;
        };
        let Ok(kube) = self.peers.admin(&self.host.fs, &s.wanted.node) else {
            return;
        };
        let free = lease::written(&record, None, false, s.wanted.ip, crate::seam::clock::now());
        let path = lease::path();
        // If that fails, the next master takes over when the time is over.
        drop(tokio::time::timeout(GIVE_BACK, kube.replace(&path, free)).await);
    }
}

impl Sharing {
    fn is_mine(&self) -> bool {
        let holder = self.turn.record().and_then(|r| r.holder.as_deref());
        holder == Some(self.wanted.node.node_name.as_str())
    }

    fn shown(&self, link: Option<&Link>) -> ApiAddressStatus {
        let now = since_boot();
        let here = self.on.is_some() && self.turn.left(now).is_some();
        let barred = self.barred.as_ref().map(|(fault, _)| fault);
        // What is over before anybody takes the address is not worth a word.
        let unasked = self.unasked.as_ref();
        let unasked = unasked.filter(|(since, _)| now >= *since + LEASE);
        let fault = barred.or(self.rival.as_ref());
        let fault = fault.or(unasked.map(|(_, fault)| fault)).cloned();
        let named = self.turn.record().and_then(|r| r.holder.clone());
        // What the lease says while it cannot be asked is old.
        let for_long = self.turn.nobodys(now).is_some_and(|long| long >= NOBODYS);
        let nobody = for_long && self.unasked.is_none();
        let fault = match fault {
            _ if !nobody => fault,
            Some(fault) => Some(nor_others(fault)),
            None => Some(nobodys(self.wanted.ip, named.as_deref())),
        };
        ApiAddressStatus {
            address: self.wanted.ip,
            here,
            interface: link.map(|l| l.name.clone()),
            holder: named.filter(|_| !nobody),
            since: self.since.filter(|_| here),
            fault,
        }
    }
}

/// Why a question has no answer.
enum Asked {
    /// Somebody was faster.
    Refused,
    Unanswered(String),
}

async fn asked(
    kube: &Kube,
    wanted: &Wanted,
    ask: &Ask,
    leaving: bool,
) -> Result<Option<Record>, Asked> {
    let path = lease::path();
    let me = wanted.node.node_name.as_str();
    let now = crate::seam::clock::now();
    let answer = match ask {
        Ask::Look => match kube.get(&path).await.map_err(why)? {
            None => return Ok(None),
            Some(object) => object,
        },
        Ask::Begin => {
            let object = lease::begun(now);
            kube.create(lease::COLLECTION, object).await.map_err(why)?
        }
        Ask::Write(over) => {
            let object = lease::written(over, Some(me), leaving, wanted.ip, now);
            kube.replace(&path, object).await.map_err(why)?
        }
    };
    read(&answer, wanted.ip)
}

fn read(object: &Value, ip: IpAddr) -> Result<Option<Record>, Asked> {
    let unread = || Asked::Unanswered("the lease cannot be read".to_owned());
    lease::read(object, ip).map(Some).ok_or_else(unread)
}

fn why(e: KubeError) -> Asked {
    use reqwest::StatusCode;
    match e.status() {
        // It is there already, is of another version, or is there no more.
        Some(StatusCode::CONFLICT | StatusCode::NOT_FOUND) => Asked::Refused,
        Some(_) | None => Asked::Unanswered(e.to_string()),
    }
}

/// A master of a cluster whose masters share an address.
fn wanted(job: &Job) -> Option<Wanted> {
    let work = job.clone().work()?.clone();
    let ip = work.node.api.shared_address()?;
    (work.role == Role::Master).then_some(Wanted {
        ip,
        node: work.node,
    })
}

/// The time since boot, sleep included: a machine that slept has not had the address in its sleep.
fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME);
    // The kernel has had it since 2.6.39.
    time.map_or(Duration::ZERO, Duration::from)
}

/// Before it is taken for the first time it is free, or another machine holds it.
async fn somebody_has(link: &Link, ip: IpAddr) -> Option<Fault> {
    for _ in 0..QUESTIONS {
        match neighbours::who_has(link, ip, ANSWER).await {
            Ok(None) => {}
            Ok(Some(mac)) => return Some(foreign(ip, mac, link)),
            Err(e) => return Some(unheard(ip, link, &e)),
        }
    }
    None
}

async fn rival(link: &Link, ip: IpAddr) -> Option<Fault> {
    let mac = neighbours::who_has(link, ip, ANSWER).await.ok().flatten()?;
    Some(foreign(ip, mac, link))
}

#[cfg(test)]
mod tests;
