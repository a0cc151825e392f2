//! Doing a step. Thin: what to do was decided by the plan, whether it helped is asked afterwards.
//!
//! Every step has a deadline of its kind; a step that is interrupted is simply tried again. Steps of phases that do not
//! wait for each other are done at once ([`Shared`]).
//!
//! | file | what |
//! |---|---|
//! | here    | every other kind of step |
//! | `etcd`  | who is a member of etcd, and what was noted of this one |
//! | `restart` | a member of etcd waits for its turn to be restarted |
//! | `stack` | a stack: unpacked, its programs tried, put in place, activated |
//! | `early` | trials of configurations, while a stack is unpacked |

mod early;
mod etcd;
mod restart;
mod stack;

use std::sync::PoisonError;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::{Mutex, MutexGuard};

pub(super) use self::early::Passed;
use super::certs;
use super::etcd::version;
use super::ledger::{LedgerFile, StartIntent, UnitRecord};
use super::observe::{Applied, Memory, digest, version_of};
use super::phase::PhaseContext;
use super::step::{Step, TrialStep, UnitStep};
use super::trial;
use super::words;
use crate::host::Host;
use crate::host::deadlines::{DRAIN, UNIT_CALL};
use crate::host::exec::{self, Cmd};
use crate::host::fs::{Attrs, Found, FsError, HostFs};
use crate::host::host_ports;
use crate::host::kube::Kube;
use crate::host::mounts;
use crate::host::ours;
use crate::host::refusals;
use crate::host::runtime::ImageError;
use crate::host::space;
use crate::host::units::{Active, UnitState};
use crate::model::{Digest, Fault, FaultCode, ProxyMode, TrustStore};
use crate::os;
use crate::stack::Stops;
use crate::telemetry::chain;

/// Pause between two looks at kube-proxy's rules.
const PROXY_PAUSE: Duration = Duration::from_millis(500);

/// What a step works on.
pub struct Effects<'a> {
    /// The machine.
    pub host: &'a Host,
    /// Whose signatures are trusted.
    pub trust: &'a TrustStore,
    /// The node.
    pub ctx: &'a PhaseContext,
    /// Clients and their settings.
    pub memory: &'a mut Memory,
    /// What was installed.
    pub ledger: &'a mut LedgerFile,
}

/// What concurrent steps share. A change of memory or ledger is exclusive for as long as it takes; what only waits for
/// the machine (files, a program, systemd) blocks no other step.
pub struct Shared<'s, 'a> {
    host: &'a Host,
    trust: &'a TrustStore,
    ctx: &'a PhaseContext,
    stops: Stops,
    effects: Mutex<&'s mut Effects<'a>>,
    /// Of trials that a step made beside its own work, until they are told.
    early: std::sync::Mutex<Vec<Passed>>,
}

impl Effects<'_> {
    /// Does one step, within the deadline of its kind.
    pub async fn apply(&mut self, step: &Step) -> Result<(), Fault> {
        // What can be left is nothing that is done one by one.
        Shared::new(self, Stops::default())
            .apply(step)
            .await
            .map(drop)
    }
}

/// How the doing of a step ended, if nothing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepEnd {
    /// It was done.
    Done,
    /// It was left: what it needs from elsewhere does not come on, or there is news. What was made stays.
    Left,
}

impl<'s, 'a> Shared<'s, 'a> {
    /// To be shared; what waits for more to come is left when one of `stops` says so.
    pub fn new(effects: &'s mut Effects<'a>, stops: Stops) -> Self {
        Self {
            host: effects.host,
            trust: effects.trust,
            ctx: effects.ctx,
            stops,
            effects: Mutex::new(effects),
            early: std::sync::Mutex::default(),
        }
    }

    /// Trials that were made while a stack was unpacked and are not told yet: their own steps find nothing to do.
    pub(super) fn early(&self) -> std::sync::MutexGuard<'_, Vec<Passed>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it, alone.
    pub async fn alone(&self) -> MutexGuard<'_, &'s mut Effects<'a>> {
        self.effects.lock().await
    }

    /// The machine.
    pub fn host(&self) -> &'a Host {
        self.host
    }

    /// Does one step, within the deadline of its kind.
    pub async fn apply(&self, step: &Step) -> Result<StepEnd, Fault> {
        let deadline = step.traits().deadline;
        let done = tokio::time::timeout(deadline, self.apply_now(step)).await;
        let why = match done {
            Ok(Ok(())) => return Ok(StepEnd::Done),
            Ok(Err(Failed::Left)) => return Ok(StepEnd::Left),
            Ok(Err(Failed::Fault(fault))) => return Err(fault),
            Ok(Err(Failed::Machine { code, why, fix })) => {
                let what = format!("cannot {}", words::doing(step));
                return Err(Fault::new(code, what, why).fix(fix));
            }
            Ok(Err(Failed::Why(why))) => why,
            Err(_) => format!("it did not finish within {} s", deadline.as_secs()),
        };
        Err(fault_of(step, why))
    }

    async fn apply_now(&self, step: &Step) -> Result<(), Failed> {
        let fs = &self.host.fs;
        match step {
            Step::File(f) => {
                let attrs = Attrs::owned(f.mode, &f.owner);
                let bytes = f.bytes().ok_or_else(|| {
                    Failed::Why("its content is not a PEM list of revoked certificates".into())
                })?;
                Ok(fs.write(&f.path, &bytes, &attrs)?)
            }
            Step::Dir(d) => {
                no_link(fs, &d.path)?;
                Ok(fs.make_dir(&d.path, &Attrs::owned(d.mode, &d.owner))?)
            }
            Step::Link { path, target } => Ok(fs.link(path, target)?),
            Step::Absent { path } if ours::paths::of_the_role(path) => Ok(fs.remove_tree(path)?),
            Step::Absent { path } => Err(Failed::Why(format!("{path} is not ours to remove"))),
            Step::Key { purpose } => Ok(certs::make_key(fs, *purpose, &self.ctx.node)?),
            Step::ServiceAccountKey => Ok(certs::make_service_account_key(fs)?),
            Step::Unpacked { stack } => self.unpacked(stack).await,
            Step::Tried(trial) => self.tried(trial).await,
            Step::EtcdDataReady { wants, .. } => self.alone().await.etcd_data_ready(wants).await,
            Step::Stack { stack } => {
                crate::stack::activate(fs, stack).map_err(|e| Failed::Fault(e.fault(stack)))
            }
            Step::EtcdStack { stack } => {
                crate::stack::activate_etcd(fs, stack).map_err(|e| Failed::Fault(e.fault(stack)))
            }
            Step::StackOnDisk { stack } => self.stack_on_disk(stack).await,
            Step::Module { name, optional } => self.module(step, name, *optional).await,
            Step::Sysctl { key, value } => self
                .host
                .kernel
                .set_sysctl(key, value)
                .map_err(|e| Failed::of(&e)),
            Step::Image {
                reference,
                archive,
                bytes,
            } => self.image(reference, archive, *bytes).await,
            Step::Unit(unit) => self.unit(unit).await,
            // Asked by the runner.
            Step::Probe(_) => Ok(()),
            Step::Object { object } => self.alone().await.object(&step.key(), object).await,
            Step::AddonGone { objects, .. } => self.alone().await.addon_gone(objects).await,
            Step::Uncordon { node } => Ok(self.alone().await.kube()?.uncordon(node).await?),
            Step::Drain { node } => self.alone().await.drain(node).await,
            Step::EtcdMemberGone { member, force } => {
                self.alone().await.etcd_member_gone(member, *force).await
            }
            Step::EtcdJoined { member, settings } | Step::EtcdFounds { member, settings } => {
                self.alone().await.etcd_joined(member, settings).await
            }
            Step::EtcdNoted => self.alone().await.etcd_noted(),
            Step::EtcdAddress { member } => self.alone().await.etcd_address(member).await,
            Step::EtcdMemberOut { gone } => self.alone().await.etcd_member_out(gone).await,
            Step::EtcdVotes { member } => self.alone().await.etcd_votes(member).await,
            Step::UnitGone { unit } => self.alone().await.unit_gone(unit).await,
            Step::ContainersGone => Ok(self.host.runtime.clear().await?),
            Step::NetworkGone {
                links,
                routes,
                chains,
                tables,
                sets,
            } => {
                for link in self.host.net.links(links) {
                    self.host.net.delete_link(&link).await?;
                }
                self.host.net.delete_routes(*routes).await?;
                self.host.net.delete_chains(chains).await?;
                self.host.net.delete_tables(tables).await?;
                Ok(self.host.net.delete_sets(sets)?)
            }
            Step::PodNetwork { script, .. } => {
                let cmd = Cmd::new(self.host.fs.at(script), UNIT_CALL).arg("up");
                Ok(exec::run(cmd).await.map(drop)?)
            }
            Step::HostPorts { network, plugins } => {
                let fs = &self.host.fs;
                let lost = host_ports::lost(fs, network, plugins).await;
                let lost = lost.map_err(|e| Failed::of(&e))?;
                let made = host_ports::put_back(fs, &lost, plugins).await;
                made.map_err(|e| Failed::of(&e))
            }
            Step::TunnelledBy { ip } => {
                for process in self.host.proc.tunnels_elsewhere(*ip) {
                    if let Ok(pid) = i32::try_from(process.pid) {
                        // Gone in the meantime is what was wanted.
                        kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
                    }
                }
                Ok(())
            }
            Step::ProxyRules { by, v6 } => self.proxy_rules(*by, *v6).await,
            Step::OsUpdate { run } => os::begin(self.host, run).await.map_err(Failed::Why),
            Step::Reboot { boot } => {
                self.host.units.reboot().await?;
                self.alone().await.memory.ends = Some(boot.clone());
                Ok(())
            }
            Step::PolicyRulesGone => {
                let net = &self.host.net;
                net.delete_chains(&ours::network::policy_chain_prefixes())
                    .await?;
                Ok(net.delete_sets(&ours::network::policy_set_prefixes())?)
            }
            Step::ProxyRulesGone { of } => match of {
                ProxyMode::Iptables => {
                    let prefixes = ours::network::proxy_chain_prefixes();
                    Ok(self.host.net.delete_chains(&prefixes).await?)
                }
                ProxyMode::Nftables => {
                    let tables = ours::network::proxy_tables();
                    Ok(self.host.net.delete_tables(&tables).await?)
                }
            },
        }
    }

    /// kube-proxy writes all of its rules only when it starts, and once an hour.
    async fn proxy_rules(&self, by: ProxyMode, v6: bool) -> Result<(), Failed> {
        self.host.units.restart(ours::units::KUBE_PROXY).await?;
        // Bounded by the step's deadline.
        while !self.host.net.leads_to_services(by, v6).await? {
            tokio::time::sleep(PROXY_PAUSE).await;
        }
        Ok(())
    }

    async fn tried(&self, trial: &TrialStep) -> Result<(), Failed> {
        trial::run(self.host, trial).await?;
        let mut all = self.alone().await;
        all.ledger.ledger.pass(&trial.program, trial.digest());
        Ok(all.ledger.save()?)
    }

    async fn image(
        &self,
        reference: &str,
        archive: &str,
        bytes: Option<Digest>,
    ) -> Result<(), Failed> {
        self.host.runtime.import(archive).await?;
        let there = self.host.runtime.images().await;
        let there = there.map_err(|e| Failed::of(&e))?;
        let mut all = self.alone().await;
        all.memory.imported.insert(reference.to_owned());
        all.ledger.ledger.note_image(reference, bytes, &there);
        all.ledger.save()?;
        if !all.ledger.ledger.stack_is_on_disk(&self.ctx.node.stack) {
            return Ok(());
        }
        drop(all);
        // The ledger calls the stack whole, and nothing that comes later will.
        let kept = self.host.runtime.keep_on_disk().await;
        kept.map_err(|e| Failed::of(&e))
    }

    async fn module(&self, step: &Step, name: &str, optional: bool) -> Result<(), Failed> {
        match self.host.kernel.load_module(name).await {
            Ok(()) => Ok(()),
            Err(e) if optional => {
                // A container may see the host's modules and not be allowed to load them.
                tracing::warn!(module = name, error = %chain(&e), "optional module not loaded");
                self.alone().await.memory.given_up.insert(step.key());
                Ok(())
            }
            Err(e) => Err(Failed::of(&e)),
        }
    }

    async fn unit(&self, want: &UnitStep) -> Result<(), Failed> {
        let name = &want.unit;
        let units = &self.host.units;
        let before = units.show(std::slice::from_ref(name)).await?.remove(name);
        let stale = before.as_ref().is_none_or(|u| !u.loaded || u.need_reload);
        if stale {
            units.reload().await?;
        }
        let now = units.show(std::slice::from_ref(name)).await?.remove(name);
        let Some(now) = now.filter(|u| u.loaded) else {
            return Err(Failed::Why("systemd does not know it".into()));
        };
        if !now.enabled {
            units.enable(name).await?;
        }
        let stand = self.alone().await.stand(want, &now)?;
        if stand == Stand::Runs {
            return Ok(());
        }
        // With the intent noted: should it die meanwhile, systemd starts it as it is to run.
        if now.active.is_up() && name == ours::units::ETCD {
            Box::pin(self.etcd_turn()).await?;
        }
        match now.active {
            Active::Inactive | Active::Failed => units.start(name).await?,
            // systemd starts it after its pause, or is starting it: wait for it.
            Active::Activating if stand == Stand::Comes => units.start(name).await?,
            // One that is on its way may be on its way with older inputs.
            Active::Active
            | Active::Reloading
            | Active::Activating
            | Active::Deactivating
            | Active::Other => units.restart(name).await?,
        }
        let done = UnitRecord {
            inputs: Some(want.inputs),
            intent: None,
        };
        let mut all = self.alone().await;
        all.ledger.ledger.units.insert(name.clone(), done);
        Ok(all.ledger.save()?)
    }
}

/// A unit, beside what it is to run with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// It is up with that.
    Runs,
    /// It is not up; were it started by anybody, it would be with that.
    Comes,
    /// It is up, or would come up, with something else.
    Differs,
}

impl Effects<'_> {
    /// Whether a unit that is in this state runs with what is wanted. If not, that it is going to be
    /// started is on the disk before systemd is asked: a start that is interrupted is recognised by
    /// its new invocation and not repeated.
    fn stand(&mut self, want: &UnitStep, now: &UnitState) -> Result<Stand, Failed> {
        let ledger = &mut self.ledger.ledger;
        let right = ledger.runs_with(&want.unit, &want.inputs, &now.invocation);
        let record = ledger.units.entry(want.unit.clone()).or_default();
        let runs = now.active.is_up() && right;
        if runs {
            record.inputs = Some(want.inputs);
            record.intent = None;
        } else {
            record.intent = Some(StartIntent {
                inputs: want.inputs,
                before: now.invocation.clone(),
            });
        }
        self.ledger.save()?;
        Ok(match (runs, right) {
            (true, _) => Stand::Runs,
            (false, true) => Stand::Comes,
            (false, false) => Stand::Differs,
        })
    }

    async fn unit_gone(&mut self, unit: &str) -> Result<(), Failed> {
        let units = &self.host.units;
        let state = units.show(&[unit.to_owned()]).await?.remove(unit);
        if state.is_some_and(|s| s.loaded) {
            if let Err(e) = units.stop_of_the_node(unit).await {
                tracing::warn!(unit, error = %e, "did not stop, killing it");
                units.kill(unit).await?;
            }
            units.disable(unit).await?;
        }
        let file = format!("/etc/systemd/system/{unit}");
        // What somebody mounted over it stays, and is told with the node's other files.
        if !mounts::at_or_below(&self.host.fs, &file)?.0 {
            self.host.fs.remove_file(&file)?;
        }
        units.reload().await?;
        units.forget_failure(unit).await;
        self.ledger.ledger.units.remove(unit);
        Ok(self.ledger.save()?)
    }

    async fn etcd_data_ready(&mut self, wants: &semver::Version) -> Result<(), Failed> {
        let (fs, node) = (&self.host.fs, &self.ctx.node);
        let own = self.memory.peers.etcd(fs, node).map_err(Failed::Why)?;
        let has = version::active(fs);
        Ok(version::prepare(&own, fs, has.as_ref(), wants).await?)
    }

    async fn object(&mut self, key: &str, object: &serde_json::Value) -> Result<(), Failed> {
        let admin = self.memory.peers.admin(&self.host.fs, &self.ctx.node);
        let live = admin.map_err(Failed::Why)?.apply(object).await?;
        let applied = Applied {
            desired: digest(object),
            version: version_of(&live),
        };
        self.memory.applied.insert(key.to_owned(), applied);
        Ok(())
    }

    async fn addon_gone(&mut self, objects: &[serde_json::Value]) -> Result<(), Failed> {
        let admin = self.memory.peers.admin(&self.host.fs, &self.ctx.node);
        let admin = admin.map_err(Failed::Why)?;
        for object in objects {
            admin.forget(object).await?;
        }
        Ok(())
    }

    async fn drain(&mut self, node: &str) -> Result<(), Failed> {
        let kube = self.kube()?;
        // Nobody there: nothing is waited for.
        kube.ready().await?;
        let outcome = kube.drain(node, DRAIN).await?;
        if outcome.left > 0 {
            let keeps = outcome.keeps.map(|why| format!(": {why}"));
            return Err(Failed::Why(format!(
                "{} of {} pods were still there after {} s{}",
                outcome.left,
                outcome.asked,
                DRAIN.as_secs(),
                keeps.unwrap_or_default()
            )));
        }
        Ok(())
    }

    fn kube(&mut self) -> Result<Kube, Failed> {
        let fs = &self.host.fs;
        self.memory
            .peers
            .kube(fs, self.ctx.role, &self.ctx.node)
            .map_err(Failed::Why)
    }
}

/// An operator made a link in place of a directory, and has to resolve it.
fn no_link(fs: &HostFs, path: &str) -> Result<(), Failed> {
    match fs.found(path)? {
        Found::Link(target) => {
            let why = format!("it is a symbolic link to {}", target.display());
            let fault = Fault::new(FaultCode::PathIsLink, format!("cannot use {path}"), why);
            Err(fault.fix(ours::paths::LINK_FIX).into())
        }
        Found::Nothing | Found::File { .. } | Found::Dir { .. } | Found::Other => Ok(()),
    }
}

/// Why a step was not done.
enum Failed {
    /// In words of its own.
    Fault(Fault),
    /// See [`StepEnd::Left`].
    Left,
    /// The machine is the cause, e.g. a file system that accepts no writes: why, and what to do.
    Machine {
        code: FaultCode,
        why: String,
        fix: String,
    },
    /// The cause; what was tried is known from the step.
    Why(String),
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

macro_rules! failed_from {
    ($($error:ty),*) => { $(
        impl From<$error> for Failed {
            fn from(e: $error) -> Self {
                Self::of(&e)
            }
        }
    )* };
}
failed_from!(
    FsError,
    crate::host::exec::ExecError,
    crate::host::kube::KubeError,
    std::io::Error,
    crate::host::runtime::Leftovers
);

impl From<ImageError> for Failed {
    fn from(e: ImageError) -> Self {
        match &e {
            ImageError::Full { at, .. } => Self::Machine {
                code: FaultCode::DiskFull,
                why: chain(&e),
                fix: space::fix(at),
            },
            ImageError::Tool(tool) => Self::of(tool),
        }
    }
}

impl Failed {
    fn of(e: &(dyn std::error::Error + 'static)) -> Self {
        let why = chain(e);
        match refusals::of(e) {
            Some((code, fix)) => Self::Machine { code, why, fix },
            None => Self::Why(why),
        }
    }
}

/// The fault of a step that was not done.
pub fn fault_of(step: &Step, why: impl Into<String>) -> Fault {
    let what = format!("cannot {}", words::doing(step));
    Fault::new(words::code(step), what, why).fix(words::remedy(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_the_place_of_a_directory_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        fs.link("/var/lib/pf9", "/data/pf9").expect("link");
        let Err(Failed::Fault(fault)) = no_link(&fs, "/var/lib/pf9") else {
            panic!("taken");
        };
        assert_eq!(fault.code, FaultCode::PathIsLink);
        assert!(
            fault.what.contains("/var/lib/pf9") && fault.why.contains("/data/pf9"),
            "{fault}"
        );
        assert!(fault.fix.contains("mount --bind"), "{fault}");
        // Links above are everybody's own affair.
        assert!(no_link(&fs, "/var/lib/pf9/kubelet").is_ok());
    }
}
