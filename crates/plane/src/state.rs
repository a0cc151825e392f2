//! The plane's shared state, and the one way to change it.
//!
//! [`Plane::change`] runs a change and the computation of every spec it touches in one
//! transaction, then wakes the hosts. A change can therefore neither forget a node nor be seen
//! before it is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use http::StatusCode;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::alerts;
use super::audit::Ledger;
use super::budget::{Budget, Full};
use super::bundles::Receiving;
use super::ca::CaError;
use super::keys::{Ca, Keys, Ring, Signer};
use super::nonces::Nonces;
use super::page::Changes;
use super::passwords::Passwords;
use super::peers::Relayed;
use super::proxy::Upstreams;
use super::records::{CLUSTERS, Cluster, HOSTS, Host};
use super::refusal::{Answer, Refusal};
use super::refused::Refused;
use super::rights::Rights;
use super::rolls::automatic::Looks;
use super::secrets::NoRandomness;
use super::sessions::Sessions;
use super::specs::{self, Announcer};
use super::stacks::ahead::Ahead;
use super::store::{Read, Snapshot, Store, StoreError, Write};
use super::terminal::Terminal;
use super::whereabouts::Whereabouts;
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::host::work::{brief, long};
use pf9_hostagent::model::{ClusterId, Fault, FaultCode, Generation, HostId};

/// Everything the plane's parts share.
pub(super) struct Plane {
    pub(super) store: Store,
    /// Files below the state directory.
    pub(super) files: HostFs,
    /// The state directory.
    pub(super) dir: PathBuf,
    /// Its own keys; `ca` and `signing` are the ones in use.
    pub(super) keys: Keys,
    pub(super) ca: Ca,
    pub(super) signing: Signer,
    /// `https://host:port`, the plane's address for everybody.
    pub(super) public_url: String,
    /// `wss://…`, the endpoints given to nodes.
    pub(super) endpoints: Vec<String>,
    pub(super) whereabouts: Whereabouts,
    /// Lifetime of a host's certificate.
    pub(super) host_life: SignedDuration,
    pub(super) specs: Announcer,
    /// Wakes hosts that have an operation.
    pub(super) operations: Announcer,
    /// Support bundles being uploaded.
    pub(super) receiving: Receiving,
    pub(super) nonces: Nonces,
    pub(super) refused: Refused,
    pub(super) sessions: Sessions,
    /// New tunnels; its times count from `began`.
    budget: Mutex<Budget>,
    began: Instant,
    /// Lifetime of certificates signed for nodes.
    pub(super) certificate_life: SignedDuration,
    /// When this run of the plane began: an earlier report may come from a backup.
    pub(super) started: Timestamp,
    pub(super) upstreams: Upstreams,
    pub(super) rights: Rights,
    /// State of alerts between two passes.
    pub(super) alerts: alerts::Board,
    /// Notified when a host reported something that may advance the fleet's roll.
    pub(super) agents: Notify,
    /// Clusters whose policy may start a patch now.
    pub(super) patches: Looks,
    /// Audit entries that are not stored yet.
    pub(super) audit: Ledger,
    /// Notified of every change, for pages that show it.
    pub(super) changes: Changes,
    pub(super) passwords: Passwords,
    /// Connections that other planes pass on.
    pub(super) relayed: Relayed,
    /// `HOST:PORT` at which other planes reach it, if any do.
    pub(super) peer: Option<String>,
    pub(super) terminal: Arc<Terminal>,
    /// What differs between stacks, made before it is needed.
    pub(super) ahead: Ahead,
    /// The plane stops: nothing new starts.
    pub(super) shutdown: CancellationToken,
    /// What is still in progress then is cut.
    pub(super) cut: CancellationToken,
    /// Every task of the plane; finished before it exits.
    pub(super) tasks: TaskTracker,
    /// Turns of changes: the store takes one at a time, and each that waited for it on a thread would hold the memory of
    /// one.
    turns: Arc<Semaphore>,
}

/// What [`Plane::new`] needs.
pub(super) struct Parts {
    pub(super) store: Store,
    pub(super) dir: PathBuf,
    pub(super) ring: Ring,
    pub(super) passwords: Passwords,
    pub(super) public_url: String,
    pub(super) endpoints: Vec<String>,
    pub(super) tunnels_per_s: u32,
    pub(super) certificate_life: SignedDuration,
    pub(super) host_life: SignedDuration,
    pub(super) relayed: Relayed,
    pub(super) peer: Option<String>,
    pub(super) terminal: Terminal,
    /// Where receivers of projects may be besides the internet.
    pub(super) receiver_networks: Vec<IpNet>,
    /// Where they may not be, besides the networks of this machine.
    pub(super) inside_networks: Vec<IpNet>,
}

/// Changes that are on a thread: one that is being written, and the next.
const TURNS: usize = 2;

/// Retry-After while the store is away, seconds: an election of etcd is over by then.
const AWAY_RETRY_S: u64 = 5;

/// A change in progress: an open write and the hosts whose specs it affects.
pub(super) struct Change<'a> {
    write: &'a mut Write,
    touched: BTreeSet<HostId>,
    /// The new keys, if they change.
    keys: Option<Arc<Ring>>,
    /// Clusters whose rights change.
    clusters: BTreeSet<ClusterId>,
    raised: BTreeMap<HostId, Generation>,
    /// Clusters whose policy may start a patch afterwards.
    considered: BTreeSet<ClusterId>,
    /// The time of the change.
    pub(super) now: Timestamp,
}

// === impl Plane ===

impl Plane {
    pub(super) fn new(parts: Parts) -> Self {
        let keys = Keys::new(parts.ring);
        let public = std::slice::from_ref(&parts.public_url);
        let urls = [&parts.endpoints[..], public].concat();
        Self {
            whereabouts: Whereabouts::new(&urls),
            files: HostFs::new(&parts.dir),
            store: parts.store,
            dir: parts.dir,
            ca: keys.ca(),
            signing: keys.signer(),
            keys,
            public_url: parts.public_url,
            endpoints: parts.endpoints,
            host_life: parts.host_life,
            specs: Announcer::default(),
            operations: Announcer::default(),
            receiving: Receiving::default(),
            nonces: Nonces::default(),
            refused: Refused::default(),
            sessions: Sessions::default(),
            budget: Mutex::new(Budget::new(parts.tunnels_per_s)),
            began: Instant::now(),
            certificate_life: parts.certificate_life,
            started: pf9_hostagent::seam::clock::now(),
            upstreams: Upstreams::default(),
            rights: Rights::default(),
            alerts: alerts::Board::reaching(parts.receiver_networks, parts.inside_networks),
            agents: Notify::new(),
            patches: Looks::default(),
            audit: Ledger::default(),
            changes: Changes::default(),
            passwords: parts.passwords,
            relayed: parts.relayed,
            peer: parts.peer,
            terminal: Arc::new(parts.terminal),
            ahead: Ahead::default(),
            shutdown: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
            turns: Arc::new(Semaphore::new(TURNS)),
        }
    }

    /// Admits a tunnel of this host; otherwise says after how many seconds to retry.
    pub(super) fn admit_tunnel(&self, host: HostId) -> Result<(), Full> {
        let now = self.began.elapsed();
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.admit(host, now)
    }

    /// A consistent view of the rows. Reads touch cached pages only, so no blocking thread is used.
    pub(super) fn read(&self) -> Answer<Snapshot> {
        Ok(self.store.read()?)
    }

    /// Makes a change durable, with the specs that follow from it, and wakes the hosts.
    pub(super) async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Change<'_>) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let plane = Arc::clone(self);
        let now = pf9_hostagent::seam::clock::now();
        let turns = Arc::clone(&self.turns);
        let patience = self.store.patience();
        let making = async move {
            // Nobody closes it.
            let turn = turns.acquire_owned().await.ok();
            let change = move || {
                let _turn = turn;
                plane.change_now(now, work)
            };
            // A commit waits for the disk: not on a thread that moves bytes, while there is another. One that waits for
            // etcd, for seconds, never runs on such a thread: it is refused instead, and the caller tries again. (Boxed:
            // every handler would hold both.)
            match patience {
                None => Box::pin(brief(change)).await,
                Some(_) => Box::pin(long(change)).await,
            }
        };
        let done = match patience {
            None => making.await,
            Some(patience) => match tokio::time::timeout(patience, making).await {
                Ok(done) => done,
                // It continues, with all its consequences, if the store accepts it after all.
                Err(_) => return Err(unconfirmed()),
            },
        };
        done.map_err(|e| Refusal::internal("a write task failed", &e))?
    }

    fn change_now<T>(
        &self,
        now: Timestamp,
        work: impl FnOnce(&mut Change<'_>) -> Answer<T>,
    ) -> Answer<T> {
        let mut before = None;
        let done = self.store.write(|write| {
            let mut change = Change::new(write, now);
            let out = work(&mut change)?;
            let touched = std::mem::take(&mut change.touched);
            let clusters = std::mem::take(&mut change.clusters);
            let raised = std::mem::take(&mut change.raised);
            let considered = std::mem::take(&mut change.considered);
            let keys = change.keys.take();
            let ring = keys.clone().unwrap_or_else(|| self.keys.ring());
            let key = &ring.signing.current;
            let mut changed = specs::refresh(write, &touched, key, now)?;
            changed.extend(specs::raise(write, &raised, key, now)?);
            // Replaced under the store's lock: every change sees the keys that its rows name.
            before = keys.map(|new| self.keys.replace(new));
            Ok::<_, Refusal>((out, changed, clusters, considered))
        });
        if let (Err(_), Some(before)) = (&done, before) {
            self.keys.replace(before);
        }
        let (out, changed, clusters, considered) = done?;
        for (host, generation) in &changed {
            tracing::info!(%host, %generation, "spec signed");
        }
        let hosts = changed.iter().map(|(host, _)| *host);
        self.specs.announce(hosts);
        self.changes.tell();
        for cluster in clusters {
            self.rights.poke(cluster);
        }
        self.patches.poke(considered);
        Ok(out)
    }

    /// Where a stack's archive is.
    pub(super) fn archive_path(&self, manifest: &pf9_hostagent::model::Digest) -> PathBuf {
        Path::new("/stacks").join(format!("{manifest}.tar.zst"))
    }
}

// === impl Change ===

impl<'a> Change<'a> {
    pub(super) fn new(write: &'a mut Write, now: Timestamp) -> Self {
        Self {
            write,
            touched: BTreeSet::new(),
            keys: None,
            clusters: BTreeSet::new(),
            raised: BTreeMap::new(),
            considered: BTreeSet::new(),
            now,
        }
    }

    /// Recomputes the spec of this host.
    pub(super) fn touch(&mut self, host: HostId) {
        self.touched.insert(host);
    }

    /// Replaces the plane's keys with the change; if another key signs now, every spec of `hosts` is signed again.
    pub(super) fn keys(&mut self, ring: Arc<Ring>, hosts: impl IntoIterator<Item = HostId>) {
        self.keys = Some(ring);
        self.touched.extend(hosts);
    }

    /// Gives this host a spec beyond this generation, whether its content changed or not.
    pub(super) fn raise(&mut self, host: HostId, above: Generation) {
        self.raised.insert(host, above);
    }

    /// Has this cluster's patch policy looked at.
    pub(super) fn consider(&mut self, cluster: ClusterId) {
        self.considered.insert(cluster);
    }

    /// Reconciles the API of this cluster.
    pub(super) fn reconcile(&mut self, cluster: ClusterId) {
        self.clusters.insert(cluster);
    }

    /// Recomputes the specs of all nodes of this cluster, and reconciles its API.
    pub(super) fn touch_cluster(&mut self, cluster: &Cluster) {
        self.touched.extend(cluster.members.iter().map(|m| m.host));
        self.clusters.insert(cluster.id);
    }
}

impl Deref for Change<'_> {
    type Target = Write;
    fn deref(&self) -> &Write {
        self.write
    }
}

impl DerefMut for Change<'_> {
    fn deref_mut(&mut self) -> &mut Write {
        self.write
    }
}

/// A host, or the refusal that there is none.
pub(super) fn host(rows: &impl Read, id: HostId) -> Answer<Host> {
    rows.get(&HOSTS, &id.to_string())?
        .ok_or_else(|| no_host(id))
}

/// There is none, or none the caller may see.
pub(super) fn no_host(id: HostId) -> Refusal {
    let what = format!("no host {id}");
    Refusal::missing(FaultCode::HostUnknown, what, "it is not enrolled")
}

/// A cluster, or the refusal that there is none.
pub(super) fn cluster(rows: &impl Read, id: ClusterId) -> Answer<Cluster> {
    rows.get(&CLUSTERS, &id.to_string())?
        .ok_or_else(|| no_cluster(id))
}

/// There is none, or none the caller may see.
pub(super) fn no_cluster(id: ClusterId) -> Refusal {
    let what = format!("no cluster {id}");
    let why = "it never existed, or was deleted";
    Refusal::missing(FaultCode::ClusterUnknown, what, why)
}

/// The cluster that a host is in.
pub(super) fn cluster_of(rows: &impl Read, host: HostId) -> Answer<Option<Cluster>> {
    let row = rows.get(&HOSTS, &host.to_string())?;
    let id = row.and_then(|row| row.cluster).map(|id| id.to_string());
    Ok(id.map_or(Ok(None), |id| rows.get(&CLUSTERS, &id))?)
}

impl From<StoreError> for Refusal {
    fn from(e: StoreError) -> Self {
        match &e {
            StoreError::Away(_)
            | StoreError::Lost(_)
            | StoreError::Etcd(_)
            | StoreError::Stopped => {
                let why = super::refusal::chain(&e);
                let refusal = Self::busy("nothing is changed", &why, AWAY_RETRY_S);
                match e.fix() {
                    Some(fix) => refusal.fix(fix),
                    None => refusal,
                }
            }
            StoreError::Disk(_) => Self::internal("nothing is changed", &e),
            StoreError::Closed => {
                let refusal = Self::internal("nothing is changed", &e);
                match e.fix() {
                    Some(fix) => refusal.fix(fix),
                    None => refusal,
                }
            }
            StoreError::Open { .. }
            | StoreError::Newer { .. }
            | StoreError::NotNewer { .. }
            | StoreError::Copy { .. }
            | StoreError::Redb(_)
            | StoreError::TooLong { .. }
            | StoreError::Place(_)
            | StoreError::Row { .. } => Self::internal("the plane's store failed", &e),
        }
    }
}

/// The outcome is not known yet.
fn unconfirmed() -> Refusal {
    let why = "the store (etcd) did not answer in time; the change may still be applied";
    Refusal::busy("the outcome of this change is unknown", why, AWAY_RETRY_S)
        .fix("check whether it was applied before you retry")
}

impl From<NoRandomness> for Refusal {
    fn from(e: NoRandomness) -> Self {
        Self::internal("no secret can be generated", &e)
    }
}

impl From<CaError> for Refusal {
    fn from(e: CaError) -> Self {
        match e {
            CaError::Unreadable | CaError::Unproven | CaError::Weak(_) => Self::new(
                StatusCode::BAD_REQUEST,
                Fault::new(
                    FaultCode::CsrRefused,
                    "the certificate is not signed",
                    e.to_string(),
                ),
            ),
            CaError::Library(_) | CaError::Damaged | CaError::Ended(_) | CaError::Random(_) => {
                Self::internal("the certificate is not signed", &e)
            }
        }
    }
}
