//! What was seen of the machine, and executing one [`Stage`]. Thin: [`plan`](super::plan) decides what to do, and each
//! stage is idempotent.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::order;
use super::plan::{RestoreSeen, Stage};
use super::prepare::{self, member_of};
use super::source::Shelves;
use super::{ASIDE, ASIDE_KEPT, RestoreGoal, RestoreRun, Restores, State};
use crate::egress::Egress;
use crate::host::Host;
use crate::host::documents::Document;
use crate::host::etcd_data;
use crate::host::fs::{Attrs, Found, FsError, HostFs};
use crate::host::mounts;
use crate::host::ours::processes::{self, Process, ProcessRule};
use crate::host::ours::{ports, units};
use crate::host::proc::Listener;
use crate::host::units::{Active, UnitState};
use crate::model::{Fault, FaultCode, NodeSpec, Timestamp, paths};
use crate::nodelet::etcd::record::{self, Began, EtcdRecord};
use crate::nodelet::peers;
use crate::nodelet::phase::layout;
use crate::telemetry::chain;

/// Static pods of a master. Their manifests are what makes kubelet run them.
const CONTROL_PLANE: [&str; 3] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];
/// kubelet sees at once that a manifest is gone, and gives an API server 30 s to end.
const ENDS_WITHIN: Duration = Duration::from_secs(45);
/// A killed process is gone, and not restarted.
const KILLED_WITHIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// A machine that runs takes a connection at once, one that does not run never.
const CONNECT: Duration = Duration::from_secs(2);
const PRIVATE: u32 = 0o700;
const AGAIN: &str = "it is retried automatically";

/// What a restore works on.
#[derive(Clone, Copy, Debug)]
pub struct RestoreContext<'a> {
    /// The machine.
    pub host: &'a Host,
    /// The node it is.
    pub node: &'a NodeSpec,
    /// The way to the backup archive.
    pub egress: &'a Result<Egress, Fault>,
    /// The look at its backups that hangs, if one does.
    pub shelves: &'a Shelves,
}

impl RestoreContext<'_> {
    /// The facts needed before the next stage.
    pub async fn look(&self, run: &RestoreRun) -> Result<RestoreSeen, Fault> {
        let fs = &self.host.fs;
        let there = |path: &str| match fs.found(path) {
            Ok(found) => Ok(found != Found::Nothing),
            Err(e) => Err(failed("cannot read the progress of the restore", &e)),
        };
        let mut seen = RestoreSeen {
            control_plane: self.manifests()?.next().is_some() || !self.control_plane().is_empty(),
            etcd: self.etcd_may_run().await?,
            member: there(layout::ETCD_MEMBER_DIR)?,
            aside: there(&member_of(&run.aside_dir()))?,
            fresh: there(&member_of(&run.fresh_dir()))?,
            others: Vec::new(),
            may_go: order::may_go(run, self.node.etcd.restore.as_ref()),
            withdrawn: Restores::of(fs).is_to_end(run),
            restored_one: false,
        };
        match (&run.goal, run.state) {
            (RestoreGoal::Restored(_), State::Ready) => seen.others = self.others_that_run().await,
            (RestoreGoal::Restored(_), State::Asked | State::Placing) => {}
            (RestoreGoal::Rejoined, State::Asked | State::Ready | State::Placing) => {
                seen.restored_one = self.restored_one_answers().await;
            }
        }
        Ok(seen)
    }

    /// Does one stage.
    pub async fn act(
        &self,
        run: &mut RestoreRun,
        stage: Stage,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let fs = &self.host.fs;
        let moved = |e: &FsError| failed("cannot move etcd's data", e);
        match stage {
            Stage::StopControlPlane => self.stop_control_plane().await,
            Stage::StopEtcd => self.stop_etcd().await,
            Stage::PutAside => {
                let aside = run.aside_dir();
                fs.make_dir(&aside, &Attrs::mode(PRIVATE))
                    .and_then(|()| fs.rename(layout::ETCD_MEMBER_DIR, member_of(&aside)))
                    .map_err(|e| moved(&e))
            }
            Stage::NotePlacing => {
                run.state = State::Placing;
                let restores = Restores::of(fs);
                // Twice: should the newest be damaged, the one before it says the same.
                let saved = restores.save(run).and_then(|()| restores.save(run));
                saved.map_err(|e| failed("cannot record the progress of the restore", &e))
            }
            Stage::Place => fs
                .rename(member_of(&run.fresh_dir()), layout::ETCD_MEMBER_DIR)
                .map_err(|e| moved(&e)),
            Stage::End => self.end(run, now),
        }
    }

    fn end(&self, run: &RestoreRun, now: Timestamp) -> Result<(), Fault> {
        let fs = &self.host.fs;
        match &run.goal {
            // Before the restore counts as ended: data of another member than the noted one are not started.
            RestoreGoal::Restored(_) => note_restored(fs, now)?,
            // The note says which member it was, and that is how it knows to join.
            RestoreGoal::Rejoined => {}
        }
        let ended = || {
            prepare::clear(fs)?;
            keep_newest(fs, run)?;
            Restores::of(fs).end(run, None, now)
        };
        ended().map_err(|e| failed("cannot record that the restore has ended", &e))
    }

    /// Manifests of the control plane that are there.
    fn manifests(&self) -> Result<impl Iterator<Item = String>, Fault> {
        let names = self.host.fs.list(layout::MANIFESTS);
        let names =
            names.map_err(|e| failed("cannot tell which parts of the control plane run", &e))?;
        let ours = |name: &String| CONTROL_PLANE.iter().any(|c| *name == format!("{c}.yaml"));
        Ok(names.into_iter().filter(ours))
    }

    /// What runs of the control plane: containers of ours, on the ports of this node itself. (A pod may run an API
    /// server of its own: it has its own network.)
    fn control_plane(&self) -> Vec<Listener> {
        let own = [
            self.node.api.port,
            ports::CONTROLLER_MANAGER,
            ports::SCHEDULER,
        ];
        let mut all = self.host.proc.listeners(|port| own.contains(&port));
        let in_a_container = |l: &Listener| {
            let rule = l.holder.as_ref().and_then(processes::process);
            rule == Some(ProcessRule::Container)
        };
        all.retain(in_a_container);
        all
    }

    async fn stop_control_plane(&self) -> Result<(), Fault> {
        let fs = &self.host.fs;
        for name in self.manifests()? {
            fs.remove_file(format!("{}/{name}", layout::MANIFESTS))
                .map_err(|e| failed("cannot stop the control plane", &e))?;
        }
        if self.ends_within(ENDS_WITHIN).await {
            return Ok(());
        }
        // kubelet is down or hangs: nothing restarts them.
        for listener in self.control_plane() {
            if let Some(holder) = &listener.holder {
                tracing::warn!(process = %holder, "did not stop, killing it");
                kill(holder);
            }
        }
        if self.ends_within(KILLED_WITHIN).await {
            return Ok(());
        }
        let left: Vec<String> = self.control_plane().iter().map(told).collect();
        let why = format!("it does not exit: {}", left.join(", "));
        Err(
            Fault::new(FaultCode::EtcdRestore, "cannot stop the control plane", why)
                .fix("find out why these processes do not exit; it is retried automatically"),
        )
    }

    async fn ends_within(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while !self.control_plane().is_empty() {
            if Instant::now() >= end {
                return false;
            }
            sleep(LOOK_AGAIN).await;
        }
        true
    }

    async fn etcd_may_run(&self) -> Result<bool, Fault> {
        let shown = self.host.units.show(&[units::ETCD.to_owned()]).await;
        let mut shown = shown.map_err(|e| failed("cannot tell whether etcd runs", &e))?;
        Ok(shown.remove(units::ETCD).is_some_and(|unit| may_run(&unit)))
    }

    async fn stop_etcd(&self) -> Result<(), Fault> {
        let systemd = &self.host.units;
        let stopped = async {
            // First, so that a boot in between starts nothing.
            systemd.disable(units::ETCD).await?;
            if let Err(e) = systemd.stop_of_the_node(units::ETCD).await {
                tracing::warn!(unit = units::ETCD, error = %chain(&e), "did not stop, killing it");
                systemd.kill(units::ETCD).await?;
                systemd.stop_of_the_node(units::ETCD).await?;
            }
            Ok::<_, crate::host::exec::ExecError>(())
        };
        let stopped = stopped.await;
        stopped.map_err(|e| failed("cannot stop etcd", &e))
    }

    /// Other masters whose etcd takes connections. Not asked for its health: one whose certificates
    /// have ended, or that has lost its quorum, runs anyway and may come back.
    async fn others_that_run(&self) -> Vec<String> {
        let mut running = Vec::new();
        let own = self.node.node_ip;
        for member in self.node.etcd.members.iter().filter(|m| m.ip != own) {
            let at = SocketAddr::new(member.ip, ports::ETCD);
            if let Ok(Ok(_)) = timeout(CONNECT, TcpStream::connect(at)).await {
                running.push(format!("{} ({})", member.host_id, member.ip));
            }
        }
        running
    }

    /// In the old cluster everybody counts this master; the restored one begins without it.
    async fn restored_one_answers(&self) -> bool {
        let Ok(others) = peers::other_etcd_members(&self.host.fs, self.node) else {
            return false;
        };
        let own = self.node.host_id.to_string();
        for other in others {
            if let Ok(members) = other.members().await
                && !members.iter().any(|m| m.name == own)
            {
                return true;
            }
        }
        false
    }
}

/// Notes which member this master is now.
fn note_restored(fs: &HostFs, now: Timestamp) -> Result<(), Fault> {
    let what = "cannot record which member of etcd this is now";
    let unread = |why: String| Fault::new(FaultCode::EtcdRestore, what, why).fix(AGAIN);
    let data = etcd_data::identity(fs, paths::ETCD_DATA).map_err(unread)?;
    let data = data.ok_or_else(|| unread(format!("there are no data in {}", paths::ETCD_DATA)))?;
    let record = EtcdRecord {
        schema: EtcdRecord::SCHEMA,
        data,
        began: Began::Restored,
        since: now,
        mount: mounts::under(fs, paths::ETCD_DATA).map_err(|e| failed(what, &e))?,
        expected: false,
    };
    record::save(fs, &record).map_err(|e| failed(what, &e))
}

/// Runs, is about to, or will after a boot.
fn may_run(unit: &UnitState) -> bool {
    match unit.active {
        Active::Active | Active::Reloading | Active::Activating | Active::Deactivating => true,
        Active::Inactive | Active::Failed | Active::Other => unit.enabled,
    }
}

/// Old data of a few restores are kept; this one's always, whatever the clock said.
fn keep_newest(fs: &HostFs, run: &RestoreRun) -> Result<(), FsError> {
    let own = run.aside_dir();
    let mut old: Vec<String> = fs.list(paths::ETCD_DATA)?;
    old.retain(|name| name.starts_with(ASIDE) && !own.ends_with(name.as_str()));
    let surplus = (old.len() + 1).saturating_sub(ASIDE_KEPT);
    old.iter()
        .take(surplus)
        .try_for_each(|name| fs.remove_tree(format!("{}/{name}", paths::ETCD_DATA)))
}

fn kill(process: &Process) {
    if let Ok(pid) = i32::try_from(process.pid) {
        // Gone in the meantime is what was wanted.
        signal::kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
}

fn told(listener: &Listener) -> String {
    let holder = listener.holder.as_ref();
    let holder = holder.map_or_else(|| "somebody".to_owned(), ToString::to_string);
    format!("{holder} on port {}", listener.port)
}

fn failed(what: &str, e: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::new(FaultCode::EtcdRestore, what, chain(e)).fix(AGAIN)
}
