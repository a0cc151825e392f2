//! Whether the node's services work: a live process may hang, and then nothing restarts it.
//!
//! ```text
//! every 20 s: ask each service ─► Said ─► verdict (pure) ─► its process is killed ─► systemd restarts it
//!                                                        └► status, kube.log; hostagent makes an event of it
//! ```
//!
//! | file | what |
//! |---|---|
//! | here | the task |
//! | `ask` | what each service is asked, and how long it has to answer |
//! | `verdict` | when probe results are enough to act: pure |
//!
//! A task of its own, not a part of the sweep: a sweep may be at work on something else for half an hour, and one that
//! found nothing has a minute to the next. Only a main process is killed, never a unit restarted: that works for a
//! process that takes no other signal, has nothing to wait for, and starts nothing that is being stopped at that moment
//! (a removal, a roll). What comes then is what comes after any death: systemd starts it, and the loop looks.
//!
//! The static pods are not asked here: kubelet asks them, and ends those that do not answer; whether it did is looked at
//! in every sweep. systemd's watchdog would do for kubelet alone, and has no words.

mod ask;
mod verdict;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::job::Job;
use super::peers::Peers;
use super::status::PulseBoard;
use super::trust;
use crate::app::Beat;
use crate::host::Host;
use crate::host::units::UnitState;
use crate::model::{NodeSpec, RevivedStatus, Role, ServiceState, ServiceStatus, Timestamp};
use crate::telemetry::chain;

use ask::{ANSWER, Asks, Heard};
use verdict::{Mend, Pulse, Said, Service, Up};

/// Time from one round of questions to the next: each costs a service about a millisecond.
const EVERY: Duration = Duration::from_secs(20);
/// The pause after a round that took nearly as long, or longer: some did not answer.
const PAUSE: Duration = Duration::from_secs(5);
/// Longest one round takes: questions are asked at once, the API server and systemd after them.
const ROUND: Duration = Duration::from_secs(90);
/// Longest time between two rounds on a machine that works: what is asked, what is asked because of the answers, and
/// the pause.
const IN_TIME: Duration = ANSWER
    .saturating_add(ANSWER)
    .saturating_add(PAUSE)
    .saturating_add(Duration::from_secs(10));

/// The task's state.
pub struct PulseKeeper {
    host: Host,
    job: watch::Receiver<Job>,
    board: PulseBoard,
    beat: Beat,
    shutdown: CancellationToken,
    peers: Peers,
    heard: Heard,
    pulse: Pulse,
    began: Instant,
    revived: Vec<RevivedStatus>,
    services: Vec<ServiceStatus>,
}

impl PulseKeeper {
    /// A keeper of this host's services.
    pub fn new(
        host: Host,
        job: watch::Receiver<Job>,
        board: PulseBoard,
        beat: Beat,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            host,
            job,
            board,
            beat,
            shutdown,
            peers: Peers::default(),
            heard: Heard::default(),
            pulse: Pulse::default(),
            began: Instant::now(),
            revived: Vec::new(),
            services: Vec::new(),
        }
    }

    /// Works until shutdown.
    pub async fn run(mut self) {
        while !self.shutdown.is_cancelled() {
            let node = kept(&self.job.borrow_and_update());
            // A copy changes nothing, and what hangs on it is not its own.
            let node = node.filter(|_| trust::held(&self.host.fs).is_none());
            let began = Instant::now();
            match &node {
                Some((role, node)) => {
                    self.beat.within(ROUND + EVERY);
                    self.round(*role, node).await;
                }
                None => {
                    self.beat.rests();
                    self.pulse = Pulse::default();
                    self.revived.clear();
                    self.services.clear();
                    self.board.show(&self.revived, &self.services);
                }
            }
            let pause = async {
                match node {
                    Some(_) => tokio::time::sleep_until(next(began, Instant::now())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // cancel-safe: all are
                () = self.shutdown.cancelled() => {}
                () = pause => {}
                changed = self.job.changed(), if node.is_none() => if changed.is_err() {
                    // The loop has ended, and the process with it.
                    self.shutdown.cancelled().await;
                },
            }
        }
    }

    async fn round(&mut self, role: Role, node: &NodeSpec) {
        if self.board.rests() {
            // Nothing is ended in maintenance, and results from before it count for nothing after it.
            return;
        }
        let now = self.began.elapsed();
        let mut asks = Asks {
            host: &self.host,
            peers: &mut self.peers,
            heard: &mut self.heard,
            role,
            node,
            now,
        };
        let halted = self.board.halts_etcd();
        let asked = asks.all().await;
        // Also where that has begun, or has ended, while the question waited.
        let asked = excused(asked, halted || self.board.halts_etcd());
        if !self.pulse.is_in_time(now, IN_TIME) {
            return;
        }
        self.services = told(&self.services, &asked, crate::seam::clock::now());
        self.board.show(&self.revived, &self.services);
        let unwell: Vec<String> = asked
            .iter()
            .filter(|(_, said)| !said.is_well())
            .map(|(service, _)| service.unit().to_owned())
            .collect();
        // systemd is asked only where something is wrong.
        let units = match self.host.units.show(&unwell).await {
            Ok(units) => units,
            Err(error) => {
                tracing::warn!(%error, "systemd does not answer");
                return;
            }
        };
        for (service, said) in asked {
            let state = units.get(service.unit()).filter(|u| u.active.is_up());
            self.act_on(service, said, state, now);
        }
    }

    fn act_on(&mut self, service: Service, said: Said, state: Option<&UnitState>, now: Duration) {
        let pid = state.and_then(|s| s.main_pid);
        let up = state.zip(pid).map(|(state, pid)| Up {
            invocation: state.invocation.clone(),
            // Where systemd does not say it: long enough.
            age: state.active_for().unwrap_or(Duration::MAX),
            worked: self.host.proc.worked(pid),
        });
        let Some(mend) = self.pulse.hear(service, said, up, now) else {
            return;
        };
        if let Some(pid) = pid {
            self.revive(service, pid, mend);
        }
    }

    fn revive(&mut self, service: Service, pid: u32, mend: Mend) {
        let unit = service.unit();
        let Mend { why, times } = mend;
        tracing::warn!(
            unit,
            why,
            times,
            "runs but does not work: killing its process"
        );
        let killed = i32::try_from(pid).map_err(|_| nix::Error::ESRCH);
        if let Err(error) = killed.and_then(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL)) {
            tracing::warn!(unit, error = %chain(&error), "its process cannot be killed");
            return;
        }
        self.board.say(&format!(
            "{unit} runs but does not work and is restarted ({times} times so far): {why}"
        ));
        self.revived.retain(|r| r.unit != unit);
        self.revived.push(RevivedStatus {
            unit: unit.to_owned(),
            times,
            last_at: crate::seam::clock::now(),
            why,
        });
        self.board.show(&self.revived, &self.services);
    }
}

/// What an etcd that is defragmented does not answer says nothing of it.
fn excused(mut asked: Vec<(Service, Said)>, halted: bool) -> Vec<(Service, Said)> {
    for (service, said) in &mut asked {
        if halted && *service == Service::Etcd && !said.is_well() {
            *said = Said::Nothing;
        }
    }
    asked
}

/// When the round after this one begins: also one in which a question waited for its answer in vain counts as a third of a
/// minute, so that a service is ended two minutes after it fell silent, and not three.
fn next(began: Instant, ended: Instant) -> Instant {
    (began + EVERY).max(ended + PAUSE)
}

/// How the services are, for the status; unchanged where nothing was learned.
fn told(before: &[ServiceStatus], asked: &[(Service, Said)], now: Timestamp) -> Vec<ServiceStatus> {
    let one = |(service, said): &(Service, Said)| {
        let unit = service.unit();
        let was = before.iter().find(|s| s.unit == unit);
        let (state, why) = match said {
            Said::Nothing => return was.cloned(),
            Said::Well => (ServiceState::Well, None),
            Said::Ill(why) => (ServiceState::Ill, Some(why)),
            Said::Silent(why) => (ServiceState::Silent, Some(why)),
        };
        let same = was.filter(|was| was.state == state);
        Some(ServiceStatus {
            unit: unit.to_owned(),
            state,
            since: same.map_or(now, |was| was.since),
            // The first words: a count of seconds in them is no news.
            why: same.map_or_else(|| why.cloned(), |was| was.why.clone()),
        })
    };
    asked.iter().filter_map(one).collect()
}

/// The node whose services are to work.
fn kept(job: &Job) -> Option<(Role, Arc<NodeSpec>)> {
    let work = job.clone().work()?.clone();
    Some((work.role, work.node))
}
