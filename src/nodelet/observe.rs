//! Asking the host: what does it say about each step?
//!
//! One [`Sweep`] shares what is expensive among the steps: one question to systemd for all units, one
//! image list, one verdict about the API server. A sweep that finds nothing to do writes nothing.
//!
//! | file | what |
//! |---|---|
//! | here      | the sweep, units, stack, images, files |
//! | `cluster` | pods, the node |
//! | `etcd`    | members of etcd |
//! | `images`  | whether an image is the one that the stack has |
//! | `network` | rules, routes and links in the kernel |
//! | `objects` | of the stack's manifests |
//! | `probes`  | what must answer |

mod cluster;
mod etcd;
mod images;
mod network;
mod objects;
mod probes;

pub(super) use cluster::{digest, ready, ready_since, unheard, version_of};

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::certs;
use super::context::RefusedStack;
use super::etcd::version::{self, Gate};
use super::fit::{Ran, Unfit};
use super::ledger::{Ledger, StackRecord};
use super::peers::Peers;
use super::phase::{PhaseContext, PhaseOrder, PhaseSteps};
use super::step::{DirStep, FileStep, Observed, Step, TrialStep, UnitStep};
use crate::host::Host;
use crate::host::fs::{Attrs, Found, FsError};
use crate::host::kernel::ModuleState;
use crate::host::kube::Kube;
use crate::host::ours;
use crate::host::units::UnitState;
use crate::host::work::long;
use crate::model::{Digest, Hasher, PhaseId, StackManifest, StackRef, TrustStore, paths};
use crate::os;
use crate::stack::{self, Depth, StackError};
use crate::telemetry::chain;

/// Most stacks that are remembered as whole: what is kept on the disk is three at most.
const WHOLE_MAX: usize = 4;

/// What the host says about every step of every phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// By [`Step::key`].
    pub seen: BTreeMap<String, Observed>,
}

/// What is remembered between sweeps, beside the ledger.
#[derive(Debug, Default)]
pub struct Memory {
    /// Clients.
    pub peers: Peers,
    /// Objects as they were when our apply was accepted: the server may write them differently.
    pub applied: HashMap<String, Applied>,
    /// Objects that were as they should be.
    pub objects: objects::Objects,
    /// Optional steps that cannot be done on this machine; asked again after a restart.
    pub given_up: BTreeSet<String>,
    /// What is staged and turned out to be of no use.
    pub refused_stack: Option<RefusedStack>,
    /// A stack whose programs do not run here.
    pub unfit: Option<Unfit>,
    /// One whose programs do.
    pub ran: Option<Ran>,
    /// Since when each probe is waited for: a wait continues across runs that were interrupted.
    pub waiting_since: HashMap<String, Instant>,
    /// Stacks that were verified byte by byte, by directory: while one is refused, it and the one of
    /// before are looked at by turns.
    pub whole: BTreeMap<String, StackRecord>,
    /// Images that this process imported: until the whole stack is on the disk no other counts as whole.
    pub imported: BTreeSet<String>,
    /// A stack that is staged beside that of the node.
    pub beside: Option<StackRef>,
    /// Static pods of this master that kubelet has not shown in the API, or has only started to, and that are the first
    /// ones of their kind.
    pub first_pods: BTreeSet<String>,
    /// The boot that this process told the machine to end.
    pub ends: Option<String>,
}

impl Memory {
    /// Every byte of a stack was compared with its manifest.
    pub(super) fn is_whole(&mut self, record: StackRecord) {
        if self.whole.len() >= WHOLE_MAX {
            self.whole.clear();
        }
        self.whole.insert(record.stack.dir_name(), record);
    }
}

/// An object after our apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What we asked for.
    pub desired: Digest,
    /// What the server counts changes of the object by.
    pub version: String,
}

/// One look at the host.
pub struct Sweep<'a> {
    host: &'a Host,
    ledger: &'a Ledger,
    trust: &'a TrustStore,
    ctx: &'a PhaseContext,
    memory: &'a mut Memory,
    units: BTreeMap<String, UnitState>,
    images: Option<Result<BTreeMap<String, String>, String>>,
    api: Option<Result<(), String>>,
    kube: Option<Kube>,
    admin: Option<Kube>,
    listed: objects::Listed,
}

impl<'a> Sweep<'a> {
    /// Begins a look; asks systemd for all `units` at once.
    pub async fn begin(
        host: &'a Host,
        ledger: &'a Ledger,
        trust: &'a TrustStore,
        ctx: &'a PhaseContext,
        memory: &'a mut Memory,
        units: &[String],
    ) -> Self {
        let units = match host.units.show(units).await {
            Ok(units) => units,
            Err(e) => {
                tracing::warn!(error = %chain(&e), "systemd does not answer");
                BTreeMap::new()
            }
        };
        Self {
            host,
            ledger,
            trust,
            ctx,
            memory,
            units,
            images: None,
            api: None,
            kube: None,
            admin: None,
            listed: objects::Listed::default(),
        }
    }

    /// Looks at every step of the phases that need none that waits.
    pub async fn all(&mut self, phases: &[PhaseSteps], order: PhaseOrder) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let mut held: Vec<PhaseId> = Vec::new();
        for phase in phases {
            if held.iter().any(|h| order.waits_for(phase.id, *h)) {
                continue;
            }
            let steps = match &phase.steps {
                Ok(steps) => steps,
                Err(wait) => &wait.meanwhile,
            };
            for step in steps {
                let seen = self.look(step).await;
                snapshot.seen.insert(step.key(), seen);
            }
            if phase.steps.is_err() {
                held.push(phase.id);
            }
        }
        snapshot
    }

    /// The main process of every unit that runs.
    pub fn main_pids(&self) -> BTreeMap<String, u32> {
        self.units
            .iter()
            .filter(|(_, u)| u.active.is_up())
            .filter_map(|(name, u)| Some((name.clone(), u.main_pid?)))
            .collect()
    }

    /// Looks at one step.
    pub async fn look(&mut self, step: &Step) -> Observed {
        if self.memory.given_up.contains(&step.key()) {
            return Observed::Same;
        }
        if step.traits().asks_api
            && let Err(why) = self.api().await
        {
            return Observed::Unknown { why };
        }
        match step {
            Step::File(file) => or_unknown(self.file(file)),
            Step::Dir(dir) => or_unknown(self.dir(dir)),
            Step::Link { path, target } => or_unknown(self.link(path, target)),
            Step::Absent { path } => or_unknown(self.absent(path)),
            Step::Key { purpose } => {
                let has = certs::has_key(&self.host.fs, *purpose);
                or_unknown(has.map(|has| {
                    if has {
                        Observed::Same
                    } else {
                        Observed::Missing
                    }
                }))
            }
            Step::ServiceAccountKey => {
                let key = certs::service_account_key(&self.host.fs);
                or_unknown(key.map(|key| key.map_or(Observed::Missing, |_| Observed::Same)))
            }
            Step::Unpacked { stack } => self.unpacked(stack).await,
            Step::Tried(trial) => self.tried(trial),
            Step::EtcdDataReady { stack, wants } => self.etcd_data_ready(stack, wants).await,
            Step::Stack { stack } => is_linked(stack::current(&self.host.fs), stack),
            Step::EtcdStack { stack } => is_linked(stack::current_etcd(&self.host.fs), stack),
            Step::StackOnDisk { stack } => self.stack_on_disk(stack),
            Step::Module { name, optional } => self.module(name, *optional),
            Step::Sysctl { key, value } => self.sysctl(key, value),
            Step::Image {
                reference,
                archive,
                bytes,
            } => self.image(reference, archive, *bytes).await,
            Step::Unit(unit) => self.unit_in_turn(unit).await,
            Step::Probe(probe) => self.probe(&probe.probe).await,
            Step::Object { object } => self.object(&step.key(), object).await,
            Step::AddonGone { objects, .. } => self.addon_gone(&step.key(), objects).await,
            Step::Uncordon { node } => self.cordoned(node).await,
            // Done once, on the way out.
            Step::Drain { .. } => Observed::Missing,
            Step::OsUpdate { run } if os::begun(&self.host.fs).as_ref() == Some(run) => {
                Observed::Same
            }
            Step::OsUpdate { .. } => Observed::Missing,
            Step::Reboot { boot } if self.memory.ends.as_ref() == Some(boot) => Observed::Same,
            Step::Reboot { .. } => Observed::Missing,
            Step::EtcdMemberGone { member, .. } => self.etcd_member(member).await,
            Step::EtcdFounds { member, settings } => self.etcd_founds(member, settings).await,
            Step::EtcdNoted => self.etcd_noted(),
            Step::EtcdAddress { member } => self.etcd_address(member).await,
            Step::EtcdMemberOut { gone } => self.etcd_member_out(gone).await,
            Step::EtcdJoined { member, settings } => self.etcd_joined(member, settings).await,
            Step::EtcdVotes { member } => self.etcd_votes(member).await,
            Step::UnitGone { unit } => self.unit_gone(unit),
            Step::ContainersGone if self.host.runtime.is_clear() => Observed::Same,
            Step::ContainersGone => differs("some remain"),
            Step::NetworkGone {
                links,
                routes,
                chains,
                tables,
                sets,
            } => {
                let seen = self.network_gone(links, *routes, chains, tables).await;
                if seen != Observed::Same {
                    return seen;
                }
                self.sets_gone(sets)
            }
            Step::PodNetwork { script, routes } => self.pod_network(script, routes).await,
            Step::HostPorts { network, plugins } => self.host_ports(network, plugins).await,
            Step::TunnelledBy { ip } => self.tunnelled_by(*ip),
            Step::ProxyRules { by, v6 } => self.proxy_rules(*by, *v6).await,
            Step::PolicyRulesGone => self.policy_rules_gone().await,
            Step::ProxyRulesGone { of } => self.proxy_rules_gone(*of).await,
        }
    }

    async fn etcd_data_ready(&self, stack: &StackRef, wants: &semver::Version) -> Observed {
        let fs = &self.host.fs;
        if stack::current_etcd(fs).ok().flatten().as_ref() == Some(stack) {
            return Observed::Same;
        }
        match version::at_hand(fs, wants).await {
            Gate::Open => Observed::Same,
            Gate::Prepare(_) => differs("etcd has not written them in the next version's format"),
            Gate::Refused(fault) => Observed::Unknown { why: fault.why },
        }
    }

    fn file(&self, want: &FileStep) -> Result<Observed, FsError> {
        let fs = &self.host.fs;
        let (mode, uid, gid, size) = match fs.found(&want.path)? {
            Found::Nothing => return Ok(Observed::Missing),
            Found::File {
                mode,
                uid,
                gid,
                size,
            } => (mode, uid, gid, size),
            Found::Dir { .. } => return Ok(differs("it is a directory")),
            Found::Link(_) | Found::Other => return Ok(differs("it is not a regular file")),
        };
        let wanted = want.bytes().unwrap_or_default();
        if size != wanted.len() as u64 {
            return Ok(differs("its content differs"));
        }
        let content = fs.read(&want.path, size)?;
        if content.as_deref() != Some(&*wanted) {
            return Ok(differs("its content differs"));
        }
        Ok(attributes(mode, (uid, gid), want.mode, &want.owner))
    }

    fn dir(&self, want: &DirStep) -> Result<Observed, FsError> {
        Ok(match self.host.fs.found(&want.path)? {
            Found::Nothing => Observed::Missing,
            Found::Dir { mode, uid, gid } => attributes(mode, (uid, gid), want.mode, &want.owner),
            Found::File { .. } | Found::Link(_) | Found::Other => differs("it is not a directory"),
        })
    }

    fn link(&self, path: &str, target: &str) -> Result<Observed, FsError> {
        Ok(match self.host.fs.found(path)? {
            Found::Nothing => Observed::Missing,
            Found::Link(says) if says.to_str() == Some(target) => Observed::Same,
            Found::Link(says) => differs(&format!("it points to {}", says.display())),
            Found::File { .. } | Found::Dir { .. } | Found::Other => differs("it is not a link"),
        })
    }

    fn absent(&self, path: &str) -> Result<Observed, FsError> {
        Ok(match self.host.fs.found(path)? {
            Found::Nothing => Observed::Same,
            Found::File { .. } | Found::Dir { .. } | Found::Link(_) | Found::Other => {
                differs("it is there")
            }
        })
    }

    fn module(&self, name: &str, optional: bool) -> Observed {
        match self.host.kernel.module(name) {
            Ok(ModuleState::Present) => Observed::Same,
            Ok(ModuleState::Unknown) if optional => Observed::Same,
            Ok(ModuleState::Loadable | ModuleState::Unknown) => Observed::Missing,
            Err(e) => Observed::Unknown { why: chain(&e) },
        }
    }

    fn sysctl(&self, key: &str, want: &str) -> Observed {
        let want = want.split_whitespace().collect::<Vec<_>>().join(" ");
        match self.host.kernel.sysctl(key) {
            Ok(Some(value)) if value == want => Observed::Same,
            Ok(Some(value)) => differs(&format!("it is {value}")),
            Ok(None) => Observed::Missing,
            Err(e) => Observed::Unknown { why: chain(&e) },
        }
    }

    fn unit(&self, want: &UnitStep) -> Observed {
        let Some(now) = self.units.get(&want.unit) else {
            return Observed::Unknown {
                why: "systemd does not answer".into(),
            };
        };
        if !now.loaded {
            return Observed::Missing;
        }
        let how = if !now.active.is_up() {
            format!("it is not running ({}, {})", now.sub, now.result)
        } else if !self
            .ledger
            .runs_with(&want.unit, &want.inputs, &now.invocation)
        {
            "it runs with an outdated configuration".to_owned()
        } else if !now.enabled {
            "it does not start at boot".to_owned()
        } else if now.need_reload {
            "systemd has not loaded its current unit file".to_owned()
        } else {
            return Observed::Same;
        };
        Observed::Differs { how }
    }

    /// A member of etcd that runs is restarted only where the others can do without it.
    async fn unit_in_turn(&mut self, want: &UnitStep) -> Observed {
        let seen = self.unit(want);
        let restarts = self.units.get(&want.unit).is_some_and(|now| {
            let ledger = self.ledger;
            now.active.is_up() && !ledger.runs_with(&want.unit, &want.inputs, &now.invocation)
        });
        if seen == Observed::Missing || !restarts || want.unit != ours::units::ETCD {
            return seen;
        }
        match Box::pin(self.etcd_held()).await {
            Some(what) => Observed::Later { what },
            None => seen,
        }
    }

    fn unit_gone(&self, unit: &str) -> Observed {
        match self.units.get(unit) {
            Some(state) if state.loaded || state.active.is_up() => differs("it is there"),
            Some(_) => Observed::Same,
            None => Observed::Unknown {
                why: "systemd does not answer".into(),
            },
        }
    }

    /// The image list, asked once a sweep: it also shows that the runtime answers.
    async fn images(&mut self) -> Result<BTreeMap<String, String>, String> {
        if let Some(known) = &self.images {
            return known.clone();
        }
        let asked = self.host.runtime.images().await.map_err(|e| chain(&e));
        self.images.insert(asked).clone()
    }

    /// Presence and size of every file each time; every byte when anything about a file changed
    /// since every byte was read last.
    async fn unpacked(&mut self, want: &StackRef) -> Observed {
        let fs = self.host.fs.clone();
        let manifest = match stack::verify_installed(&fs, want, self.trust, Depth::Cheap) {
            Ok(manifest) => manifest,
            Err(StackError::NotInstalled) => return Observed::Missing,
            Err(e) => return differs(&e.to_string()),
        };
        let record = match record_of(self.host, want, manifest.content()) {
            Ok(record) => record,
            Err(e) => return Observed::Unknown { why: chain(&e) },
        };
        let whole = self.memory.whole.get(&want.dir_name());
        let known = [self.ledger.stack.as_ref(), whole];
        if known.contains(&Some(&record)) {
            return Observed::Same;
        }
        let (trust, stack) = (self.trust.clone(), want.clone());
        // Hundreds of MiB are read: not on the thread that serves the socket.
        let read =
            long(move || stack::verify_installed(&fs, &stack, &trust, Depth::Full).map(drop));
        match read.await {
            Ok(Ok(())) => {
                self.memory.is_whole(record);
                Observed::Same
            }
            Ok(Err(e)) => differs(&e.to_string()),
            Err(e) => Observed::Unknown { why: chain(&e) },
        }
    }

    /// Not asked of an incomplete stack: that is unpacked again first.
    fn stack_on_disk(&self, want: &StackRef) -> Observed {
        let content = self.ctx.manifest.as_ref();
        let now = content.and_then(|content| record_of(self.host, want, content).ok());
        match (&self.ledger.stack, now) {
            (Some(kept), Some(now)) if *kept == now => Observed::Same,
            (_, Some(_)) => differs("it may not survive a power loss"),
            (_, None) => Observed::Missing,
        }
    }

    fn tried(&self, trial: &TrialStep) -> Observed {
        let program = &trial.program;
        if self.ledger.passed(program, &trial.digest()) {
            return Observed::Same;
        }
        match self.ledger.tried.get(program) {
            Some(_) => differs("its program or configuration changed since it started"),
            None => Observed::Missing,
        }
    }
}

/// Whether a link leads to this stack.
fn is_linked(now: Result<Option<StackRef>, StackError>, stack: &StackRef) -> Observed {
    match now {
        Ok(Some(now)) if now == *stack => Observed::Same,
        Ok(Some(now)) => differs(&format!("{now} is active")),
        Ok(None) => Observed::Missing,
        Err(e) => Observed::Unknown { why: chain(&e) },
    }
}

/// What is remembered of an installed stack whose every byte is right, as its files are now.
pub(super) fn record_of(
    host: &Host,
    stack: &StackRef,
    content: &StackManifest,
) -> std::io::Result<StackRecord> {
    use std::os::unix::fs::MetadataExt;
    let dir = host.fs.at(paths::STACKS).join(stack.dir_name());
    let mut hasher = Hasher::new();
    for file in content.files.iter().map(|f| f.path.as_str()) {
        let meta = std::fs::symlink_metadata(dir.join(file))?;
        let line = format!(
            "{file}\0{}\0{:o}\0{}\0{}.{}\0{}.{}\n",
            meta.len(),
            meta.mode(),
            meta.ino(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        );
        hasher.update(line.as_bytes());
    }
    Ok(StackRecord {
        stack: stack.clone(),
        fingerprint: hasher.finish(),
    })
}

/// Mode and owner as they should be.
fn attributes(mode: u32, ids: (u32, u32), want_mode: u32, want_owner: &str) -> Observed {
    if mode != want_mode {
        return differs(&format!("its mode is {mode:04o}, not {want_mode:04o}"));
    }
    let want = match want_owner {
        // Nearly everything is root's: no look into the user database.
        "root:root" => Ok(Some((0, 0))),
        owner => Attrs::owned(want_mode, owner).ids(),
    };
    match want {
        Ok(Some(want)) if want != ids => differs(&format!("its owner is not {want_owner}")),
        Ok(_) => Observed::Same,
        Err(e) => Observed::Unknown { why: chain(&e) },
    }
}

fn differs(how: &str) -> Observed {
    Observed::Differs { how: how.into() }
}

fn or_unknown<E: std::error::Error + 'static>(result: Result<Observed, E>) -> Observed {
    result.unwrap_or_else(|e| Observed::Unknown { why: chain(&e) })
}
