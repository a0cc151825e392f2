//! nodelet on a machine of the lab: its own context, phases, plan, runner and ledger. Only etcd's phases are used, or,
//! for a node with a stack's manifest, those of the runtime.

use std::time::Duration;

use pf9_hostagent::host::Host;
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::identity::order_key;
use pf9_hostagent::model::{
    BackupManifest, BackupTrust, DocumentKind, Envelope, Fault, Generation, NodeSpec, PhaseId,
    Role, StackManifest, Timestamp, TrustStore,
};
use pf9_hostagent::nodelet::apply::Effects;
use pf9_hostagent::nodelet::check;
use pf9_hostagent::nodelet::context::{self, StackSeen};
use pf9_hostagent::nodelet::etcd::trust;
use pf9_hostagent::nodelet::journal::Journal;
use pf9_hostagent::nodelet::ledger::{Installed, LedgerFile};
use pf9_hostagent::nodelet::observe::Memory;
use pf9_hostagent::nodelet::phase::{self, PhaseContext, PhaseSteps};
use pf9_hostagent::nodelet::plan::Plan;
use pf9_hostagent::nodelet::removal::{self, Removal};
use pf9_hostagent::nodelet::run::{RunEnd, Runner, Stop};
use pf9_hostagent::nodelet::status::NodeBoard;
use pf9_hostagent::nodelet::step::Step;
use tokio::time::Instant;

/// Members that found together on a busy machine.
const SETTLED: Duration = Duration::from_secs(90);

/// The in-memory state of a nodelet process.
pub(crate) struct Node {
    pub(crate) host: Host,
    pub(crate) ctx: PhaseContext,
    pub(crate) memory: Memory,
    pub(crate) ledger: LedgerFile,
    pub(crate) board: NodeBoard,
    pub(crate) journal: Journal,
    /// The manifest of the stack; nothing is unpacked.
    pub(crate) manifest: Option<StackManifest>,
    trust: TrustStore,
}

impl Node {
    pub(super) fn begin(fs: &HostFs, spec: NodeSpec) -> Self {
        let host = Host::new(fs.clone());
        order_key::ensure(fs, spec.host_id).expect("order key");
        let (ledger, fault) = LedgerFile::load(fs, Timestamp::now());
        assert_eq!(fault, None);
        let trust = TrustStore::default();
        let ctx = gather(&host, &trust, &spec);
        let mut board = NodeBoard::new(fs).0;
        board.spec(Generation(1), Role::Master, Some(spec.cluster_id));
        Self {
            ctx,
            memory: Memory::default(),
            ledger,
            board,
            journal: Journal::new(fs),
            manifest: None,
            trust,
            host,
        }
    }

    /// Signs backups as root of this machine.
    pub(crate) fn signs(
        &self,
    ) -> impl Fn(&BackupManifest) -> Result<Envelope, Fault> + Sync + use<> {
        let (key, _) = order_key::ensure(&self.host.fs, self.ctx.node.host_id).expect("order key");
        move |manifest: &BackupManifest| key.sign(DocumentKind::Backup, manifest)
    }

    /// The keys it trusts.
    pub(crate) fn believes(&self) -> BackupTrust {
        trust::of(&self.host.fs, &self.ctx.node)
    }

    /// The node's spec.
    pub(crate) fn spec(&self) -> &NodeSpec {
        &self.ctx.node
    }

    /// The spec, to change it.
    pub(crate) fn spec_mut(&mut self) -> &mut NodeSpec {
        &mut self.ctx.node
    }

    /// One status check of etcd's phases.
    pub(crate) async fn check(&mut self) -> Plan {
        let node = self.ctx.node.clone();
        self.ctx = gather(&self.host, &self.trust, &node);
        let phases = match &self.manifest {
            None => etcd_phases(&self.ctx),
            Some(manifest) => {
                self.ctx.manifest = Some(manifest.clone());
                self.ctx.stack_at_hand = true;
                runtime_phases(&self.ctx)
            }
        };
        let effects = Effects {
            host: &self.host,
            trust: &self.trust,
            ctx: &self.ctx,
            memory: &mut self.memory,
            ledger: &mut self.ledger,
        };
        let stack = StackSeen::default();
        check::check(effects, &mut self.board, &phases, &stack, Instant::now())
            .await
            .plan
    }

    /// Runs its plans until nothing is left, as the loop would.
    pub(crate) async fn settle(&mut self) -> RunEnd {
        let end = Instant::now() + SETTLED;
        loop {
            let plan = self.check().await;
            if plan.todo.is_empty() {
                return RunEnd::Done;
            }
            match self.run(&plan).await {
                // It waits for something longer than one run allows.
                RunEnd::Done | RunEnd::Interrupted if Instant::now() < end => {}
                other => return other,
            }
        }
    }

    /// Removes the role.
    pub(crate) async fn remove(&mut self, force: bool) -> removal::RemovalEnd {
        self.remove_while(force, &|_| true).await
    }

    /// The same, while the order stands; checked before every step until one has destroyed something.
    pub(crate) async fn remove_while(
        &mut self,
        force: bool,
        stands: &(dyn Fn(&LedgerFile) -> bool + Sync),
    ) -> removal::RemovalEnd {
        let node = self.ctx.node.clone();
        self.ctx = gather(&self.host, &self.trust, &node);
        let stop = Stop::default();
        let mut removal = Removal {
            effects: Effects {
                host: &self.host,
                trust: &self.trust,
                ctx: &self.ctx,
                memory: &mut self.memory,
                ledger: &mut self.ledger,
            },
            journal: &self.journal,
            board: &mut self.board,
            generation: Generation(2),
            force,
            stands,
        };
        removal.run(&stop).await
    }

    /// Runs a plan.
    pub(crate) async fn run(&mut self, plan: &Plan) -> RunEnd {
        self.ledger.ledger.installed = Some(Installed {
            role: Role::Master,
            node: self.ctx.node.clone(),
            generation: Generation(1),
        });
        let mut runner = Runner {
            effects: Effects {
                host: &self.host,
                trust: &self.trust,
                ctx: &self.ctx,
                memory: &mut self.memory,
                ledger: &mut self.ledger,
            },
            journal: &self.journal,
            board: &mut self.board,
            generation: Generation(1),
        };
        runner.run(plan, &Stop::default()).await
    }
}

/// The phases of etcd, in order.
fn etcd_phases(ctx: &PhaseContext) -> Vec<PhaseSteps> {
    [PhaseId::EtcdConfigure, PhaseId::EtcdStart]
        .map(|id| PhaseSteps {
            id,
            steps: phase::steps(id, ctx),
        })
        .into()
}

/// The phases of the runtime, after its trial.
fn runtime_phases(ctx: &PhaseContext) -> Vec<PhaseSteps> {
    let tried = phase::steps(PhaseId::Stack, ctx).map(|steps| {
        let own = |s: &Step| matches!(s, Step::Tried(trial) if trial.program == "containerd");
        steps.into_iter().filter(own).collect()
    });
    let steps = |id| PhaseSteps {
        id,
        steps: phase::steps(id, ctx),
    };
    let tried = PhaseSteps {
        id: PhaseId::Stack,
        steps: tried,
    };
    vec![
        tried,
        steps(PhaseId::RuntimeConfigure),
        steps(PhaseId::RuntimeStart),
    ]
}

fn gather(host: &Host, trust: &TrustStore, spec: &NodeSpec) -> PhaseContext {
    let now = Timestamp::now();
    let (ctx, _) =
        context::gather(host, trust, spec.host_id, Role::Master, spec, None, now).expect("context");
    ctx
}
