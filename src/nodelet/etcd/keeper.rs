//! The keeper: one task, one chore at a time.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::archive;
use super::backup::{self, Shelves};
use super::chore::{self, Chore, ChoreSeen, Next};
use super::desk::{Inside, NOT_DONE, Order, Ordered};
use super::drill;
use super::look;
use super::trust;
use super::upkeep::Upkeep;
use crate::app::Beat;
use crate::backup::{drill as drill_files, shelf};
use crate::egress::Egress;
use crate::host::Host;
use crate::model::{
    ArchivePolicy, ArchiveStatus, ChoreAnswer, DrillReport, EtcdStatus, EtcdView, Fault, FaultCode,
    HostId, Role, Timestamp,
};
use crate::nodelet::job::{Job, Work};
use crate::nodelet::peers::Peers;
use crate::nodelet::roll;
use crate::nodelet::status::EtcdBoard;
use crate::nodelet::trust::held;

/// Time between two looks at the member that nothing asked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Longest one look takes: a few calls of etcd with bounds of their own, and a directory.
const LOOK_MAX: Duration = Duration::from_secs(120);

/// The task's state.
pub struct EtcdKeeper {
    host: Host,
    job: watch::Receiver<Job>,
    board: EtcdBoard,
    inside: Inside,
    beat: Beat,
    shutdown: CancellationToken,
    peers: Peers,
    looking: Shelves,
    view: EtcdView,
    seen: ChoreSeen,
    egress: Result<Egress, Fault>,
    /// The archive that was last looked at, and when the newest backup there was taken.
    archived: Option<(ArchivePolicy, Option<Timestamp>)>,
    /// The key file that root named with an order of a drill.
    drill_key: Option<String>,
    upkeep: Upkeep,
}

/// A master's work, and whose.
#[derive(Clone, PartialEq)]
pub(super) struct Master {
    pub(super) host_id: HostId,
    pub(super) work: Work,
}

impl EtcdKeeper {
    /// A keeper of this host's member.
    pub fn new(
        host: Host,
        job: watch::Receiver<Job>,
        board: EtcdBoard,
        inside: Inside,
        beat: Beat,
        shutdown: CancellationToken,
        egress: Result<Egress, Fault>,
    ) -> Self {
        Self {
            host,
            job,
            board,
            inside,
            beat,
            shutdown,
            peers: Peers::default(),
            looking: Shelves::default(),
            view: EtcdView::default(),
            seen: ChoreSeen::default(),
            egress,
            archived: None,
            drill_key: None,
            upkeep: Upkeep::default(),
        }
    }

    /// Works until shutdown.
    pub async fn run(mut self) {
        // What a drill left that was killed.
        if let Err(fault) = drill_files::sweep(&self.host.fs) {
            tracing::warn!(code = fault.code.word(), "{fault}");
        }
        while !self.shutdown.is_cancelled() {
            let master = master(&self.job.borrow_and_update());
            match master {
                // A copy of a machine does nothing in the original's name.
                Some(master) if held(&self.host.fs).is_none() => self.keep(&master).await,
                Some(_) | None => self.idle().await,
            }
        }
    }

    /// No master: nothing is shown, and orders are refused.
    async fn idle(&mut self) {
        self.forget();
        self.beat.rests();
        tokio::select! {
            // cancel-safe: all are; in this order, as below
            biased;
            () = self.shutdown.cancelled() => {}
            changed = self.job.changed() => if changed.is_err() {
                // The loop has ended, and the process with it.
                self.shutdown.cancelled().await;
            },
            Some(ordered) = self.inside.orders.recv() => {
                let why = "this host has no member of etcd";
                answer(ordered, Err(Fault::new(FaultCode::NoMaster, NOT_DONE, why)));
            }
        }
    }

    /// One look, and what follows from it.
    async fn keep(&mut self, master: &Master) {
        self.beat.within(LOOK_MAX);
        self.look(master).await;
        let policy = &master.work.node.etcd.backup;
        let now = crate::seam::clock::now();
        self.seen.rests = self.board.rests();
        let pause = match chore::next(now, master.host_id, policy, &self.seen) {
            Next::Now(due) => {
                // What is wrong is in the status.
                drop(self.work_on(master, due).await);
                return;
            }
            Next::At(at) => until(now, at).min(LOOK_EVERY),
            Next::Never => LOOK_EVERY,
        };
        self.beat.within(pause);
        tokio::select! {
            // cancel-safe: all are. In this order: an order is for the present node.
            biased;
            () = self.shutdown.cancelled() => {}
            changed = self.job.changed() => if changed.is_err() {
                self.shutdown.cancelled().await;
            },
            Some(ordered) = self.inside.orders.recv() => {
                let chore = match &ordered.order {
                    Order::Backup => Chore::Backup,
                    Order::Drill { recovery_key } => {
                        self.drill_key.clone_from(recovery_key);
                        Chore::Drill
                    }
                    Order::List => Chore::List,
                    Order::Defragment => Chore::Defragment,
                    Order::Heal => Chore::Heal,
                };
                let done = self.work_on(master, chore).await;
                // The caller sees the result.
                self.beat.within(LOOK_MAX);
                self.look(master).await;
                answer(ordered, done);
            }
            () = tokio::time::sleep(pause) => {}
        }
    }

    async fn look(&mut self, master: &Master) {
        let now = crate::seam::clock::now();
        let node = &master.work.node;
        let mut etcd = self.view.etcd.take().unwrap_or_default();
        self.seen.healthy = false;
        match self.peers.etcd(&self.host.fs, node) {
            Ok(client) => {
                look::member(&client, now, &mut etcd).await;
                let (fs, seen) = (&self.host.fs, &mut self.seen);
                self.upkeep.look(fs, node, &client, &mut etcd, seen).await;
            }
            Err(why) => {
                let what = "etcd is not healthy";
                etcd.fault = Some(Fault::new(FaultCode::EtcdNotHealthy, what, why));
            }
        }
        self.seen.since.get_or_insert(now);
        self.seen.wanted = roll::wants_backup(&self.host.fs);
        let shelf = (&mut self.looking, &self.host.fs);
        self.view.backups = backup::look(shelf, master, now, &mut etcd, &mut self.seen).await;
        self.view.dir = shelf::dir(&node.etcd.backup).to_owned();
        let wanted = node.etcd.backup.archive.as_ref();
        let there = self.archived.as_ref();
        let there = there.filter(|(to, _)| Some(to) == wanted);
        self.seen.archive = wanted.map(|_| there.and_then(|(_, newest)| *newest));
        self.seen.archive_looked = there.is_some();
        self.view.archive = wanted.cloned();
        self.view.signers = trust::signers(&self.host.fs, node);
        self.view.masters = node.etcd.members.iter().map(|m| m.host_id).collect();
        self.view.cluster_id = Some(node.cluster_id);
        if wanted.is_none() {
            etcd.backups.archive = None;
        }
        if etcd.drill.is_none() {
            etcd.drill = drill::last(&self.host.fs);
        }
        self.seen.last_drill = etcd.drill.as_ref().map(|d| d.at);
        self.view.etcd = Some(etcd);
        self.show();
    }

    /// Does a chore, at most until its deadline, and while this host is this master.
    async fn work_on(&mut self, master: &Master, chore: Chore) -> Result<ChoreAnswer, Fault> {
        tracing::debug!(chore = chore.words(), "begins");
        self.status_mut().chore = Some(chore.words().to_owned());
        self.show();
        self.beat.within(chore.deadline());
        let ended = {
            let stop = another(self.job.clone(), master);
            let doing = Doing {
                host: &self.host,
                peers: &mut self.peers,
                upkeep: &mut self.upkeep,
                master,
                view: &self.view,
                egress: &self.egress,
                drill_key: self.drill_key.take(),
            };
            let work = doing.done(chore);
            tokio::select! {
                // What is dropped half done is nothing: each chore's last act makes it count.
                done = tokio::time::timeout(chore.deadline(), work) => {
                    done.unwrap_or_else(|_| Err(late(chore)))
                }
                () = self.shutdown.cancelled() => Err(cut_off("the agent is stopping")),
                () = stop => Err(cut_off("this host is becoming another node, or none")),
            }
        };
        let ended = self.noted(master, chore, ended);
        if let Err(fault) = &ended {
            tracing::warn!(code = fault.code.word(), "{fault}");
        }
        self.status_mut().chore = None;
        self.show();
        ended
    }

    /// Notes how a chore ended: for the schedule, and for people.
    fn noted(
        &mut self,
        master: &Master,
        chore: Chore,
        ended: Result<Done, Fault>,
    ) -> Result<ChoreAnswer, Fault> {
        let now = crate::seam::clock::now();
        let done = ended.is_ok();
        let ended = ended.and_then(|done| match done {
            Done::Plain(answer) => Ok(answer),
            Done::Archived(answer, status) => {
                self.status_mut().backups.archive = Some(status);
                Ok(answer)
            }
            Done::Drilled(report) => {
                let answer = drill::answer(&report);
                self.status_mut().drill = Some(report);
                answer
            }
        });
        let fault = ended.as_ref().err().cloned();
        let failed = fault.is_some().then_some(now);
        match chore {
            Chore::Backup => {
                self.seen.backup_failed = failed;
                if failed.is_none() {
                    self.seen.made = Some(now);
                }
                self.status_mut().backups.failing = fault;
            }
            Chore::Archive => {
                self.seen.archive_failed = failed;
                self.archived(master, fault);
            }
            Chore::Drill => {
                // One that was tried is an answer, however it went.
                self.seen.drill_failed = failed.filter(|_| !done);
                self.status_mut().drill_failing = fault.filter(|_| !done);
            }
            Chore::List => {}
            Chore::Prune => self.seen.prune_failed = failed,
            Chore::Heal | Chore::Defragment => self.seen.upkeep_failed = failed,
        }
        ended
    }

    fn archived(&mut self, master: &Master, fault: Option<Fault>) {
        let Some(policy) = &master.work.node.etcd.backup.archive else {
            return;
        };
        if fault.is_none() {
            self.archived = Some((policy.clone(), self.seen.last_backup));
        }
        let shown = self.status_mut().backups.archive.get_or_insert_default();
        shown.place = policy.target.to_string();
        shown.failing = fault;
    }

    fn status_mut(&mut self) -> &mut EtcdStatus {
        self.view.etcd.get_or_insert_default()
    }

    fn show(&self) {
        self.board.show(self.view.etcd.clone());
        self.inside.view.send_replace(self.view.clone());
    }

    fn forget(&mut self) {
        self.view = EtcdView::default();
        self.seen = ChoreSeen::default();
        self.archived = None;
        self.upkeep = Upkeep::default();
        self.show();
    }
}

/// What a chore works on.
struct Doing<'a> {
    host: &'a Host,
    peers: &'a mut Peers,
    upkeep: &'a mut Upkeep,
    master: &'a Master,
    view: &'a EtcdView,
    egress: &'a Result<Egress, Fault>,
    drill_key: Option<String>,
}

impl Doing<'_> {
    async fn done(self, chore: Chore) -> Result<Done, Fault> {
        let (host, node) = (self.host, &self.master.work.node);
        let own = |peers: &mut Peers| {
            let client = peers.etcd(&host.fs, node);
            client.map_err(|why| Fault::new(FaultCode::EtcdNotTended, NOT_DONE, why))
        };
        let answer = match chore {
            Chore::Backup => backup::make(host, self.peers, self.master, self.view).await?,
            Chore::Archive => {
                let egress = self.egress.as_ref().map_err(Clone::clone)?;
                let (answer, status) = archive::copy(host, egress, self.master).await?;
                return Ok(Done::Archived(answer, status));
            }
            Chore::Drill => {
                let key = self.drill_key.as_deref();
                let report = drill::run(host, self.peers, self.master, key).await?;
                return Ok(Done::Drilled(report));
            }
            Chore::List => {
                let egress = self.egress.as_ref().map_err(Clone::clone)?;
                archive::list(host, egress, self.master).await?
            }
            Chore::Prune => backup::prune(host, self.master).await?,
            Chore::Heal => self.upkeep.heal(&own(self.peers)?).await?,
            Chore::Defragment => {
                let own = own(self.peers)?;
                self.upkeep.defragment(&host.fs, node, &own).await?
            }
        };
        Ok(Done::Plain(answer))
    }
}

/// A chore that is done, and what its status says from now on.
enum Done {
    /// The look shows it.
    Plain(ChoreAnswer),
    /// The archive is asked by its chore only.
    Archived(ChoreAnswer, ArchiveStatus),
    /// How it went, good or bad.
    Drilled(DrillReport),
}

/// What the keeper works for, if this host is, or holds as, a master.
fn master(job: &Job) -> Option<Master> {
    let work = job.clone().work()?.clone();
    let host_id = work.node.host_id;
    (work.role == Role::Master).then_some(Master { host_id, work })
}

/// Until this host is no longer this master. A newer spec of the same node ends nothing.
async fn another(mut job: watch::Receiver<Job>, is: &Master) {
    let same =
        |job: &Job| master(job).is_some_and(|m| m.work.node.cluster_id == is.work.node.cluster_id);
    // Without the loop the process ends.
    drop(job.wait_for(|job| !same(job)).await);
}

fn answer(ordered: Ordered, done: Result<ChoreAnswer, Fault>) {
    // The caller may have gone.
    drop(ordered.answer.send(done));
}

fn until(now: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

fn late(chore: Chore) -> Fault {
    let why = format!("it took longer than {} s", chore.deadline().as_secs());
    Fault::new(
        FaultCode::Deadline,
        format!("cannot {}", chore.words()),
        why,
    )
}

fn cut_off(why: &str) -> Fault {
    Fault::new(FaultCode::Interrupted, NOT_DONE, why)
}

#[cfg(test)]
mod tests;
