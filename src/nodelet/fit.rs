//! Whether the stack that is wanted may come onto this machine; asked before anything is changed.
//!
//! ```text
//! job ─► its stack is active ──────────────────────────────────► job (what is active is not judged)
//!     ─► nothing is installed, and the cluster's networks meet the machine's own (`ground`),
//!        refused by the matrix, its programs do not run here,
//!        or its etcd may not have the data of this master ──────► Hold: what is installed stays
//!     ─► else ─────────────────────────────────────────────────► job
//! ```
//!
//! A hold repairs the installed node by the ledger's copy of its spec; so the ledger describes what
//! is installed until the new stack is active (see the engine).

use tokio::time::{Duration, Instant};

use super::context;
use super::etcd::version::{self, Gate};
use super::ground;
use super::inbox;
use super::job::{self, Hold, Job, LedgerSeen, Orders, RemovalOrder, Work};
use crate::host::fs::HostFs;
use crate::model::{Digest, Fault, Matrix, Role, StackRef};
use crate::stack::{self, programs};

/// What does not run is tried again after this long, whether the machine looks changed or not: a
/// label or a policy may have been put right. It costs an unpacking.
const TRIED_AGAIN: Duration = Duration::from_secs(600);

/// A stack on a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    stack: StackRef,
    machine: Digest,
}

/// One whose programs do not run here.
#[derive(Clone, Debug)]
pub struct Unfit {
    ran: Ran,
    fault: Fault,
    since: Instant,
}

impl Ran {
    /// This stack on the machine as it is now.
    pub fn now(fs: &HostFs, stack: &StackRef) -> Self {
        Self {
            stack: stack.clone(),
            machine: programs::machine_mark(fs),
        }
    }
}

impl Unfit {
    /// Observed just now.
    pub fn new(ran: Ran, fault: Fault) -> Self {
        Self {
            ran,
            fault,
            since: Instant::now(),
        }
    }

    /// Still so, as far as is known.
    pub fn holds(&self, fs: &HostFs, stack: &StackRef) -> bool {
        self.ran.stack == *stack
            && self.since.elapsed() < TRIED_AGAIN
            && self.ran.machine == programs::machine_mark(fs)
    }
}

/// The job, or a hold when the stack it would bring does not fit.
pub(super) async fn or_hold(
    fs: &HostFs,
    job: Job,
    orders: &Orders,
    ledger: &LedgerSeen<'_>,
    unfit: Option<&Unfit>,
) -> Job {
    let after;
    let work = match &job {
        Job::Node(work) => work,
        // The other node would come after this one is gone.
        Job::Remove(RemovalOrder::Another, _) => match job::after_removal(orders) {
            Some(work) => {
                after = work;
                &after
            }
            None => return job,
        },
        Job::Nothing(_) | Job::Remove(..) | Job::Hold(_) => return job,
    };
    // A node that is there is kept, whatever its machine becomes.
    let begins = matches!(ledger, LedgerSeen::Empty) || !matches!(job, Job::Node(_));
    let met = begins.then(|| ground::refusal(fs, &work.node)).flatten();
    let fault = match met {
        Some(fault) => Some(fault),
        None => refusal(fs, work, unfit).await,
    };
    let Some(fault) = fault else {
        return job;
    };
    let keeps = match ledger {
        LedgerSeen::Installed(now) => Some(Work::kept(now)),
        LedgerSeen::Empty | LedgerSeen::Removing(_) | LedgerSeen::Unknown { .. } => None,
    };
    let goes_on = keeps
        .as_ref()
        .map(|k| format!("; stack {} keeps running", k.node.stack));
    let why = format!("{}{}", fault.why, goes_on.unwrap_or_default());
    Job::Hold(Box::new(Hold {
        generation: work.generation,
        fault: Fault::new(fault.code, fault.what, why).fix(fault.fix),
        keeps,
        wants_spec: false,
    }))
}

/// Why the stack of this work may not come onto this machine; what is active may.
pub(super) async fn refusal(fs: &HostFs, work: &Work, unfit: Option<&Unfit>) -> Option<Fault> {
    let want = &work.node.stack;
    if stack::current(fs).ok().flatten().as_ref() == Some(want) {
        return None;
    }
    // The trust document is unreadable, or the manifest has not come: reported elsewhere.
    let (trust, _) = inbox::trust_anchors(fs).ok()?;
    if let Some(manifest) = context::stack_of(fs, &trust, want).manifest {
        let fit = Matrix::ours().fits(&manifest, &programs::machine(fs));
        if let Some(fault) = fit.refusal() {
            return Some(fault);
        }
        if work.role == Role::Master
            && let Some(wants) = manifest.etcd()
            // An older one does not come with the node: see `context::other_etcd`.
            && version::active(fs).is_none_or(|has| wants > has)
            && let Gate::Refused(fault) = version::at_hand(fs, &wants).await
        {
            return Some(*fault);
        }
    }
    let unfit = unfit.filter(|u| u.holds(fs, want))?;
    Some(unfit.fault.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FaultCode;

    /// A policy or a label may have been put right, which changes no mark.
    #[tokio::test(start_paused = true)]
    async fn what_did_not_run_is_tried_again_some_time() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let stack = StackRef {
            name: "pf9-kube".into(),
            version: "1.37.2-1".into(),
            manifest: Digest::of(b""),
        };
        let fault = Fault::new(FaultCode::StackProgram, "a", "b");
        let unfit = Unfit::new(Ran::now(&fs, &stack), fault);
        tokio::time::advance(TRIED_AGAIN - Duration::from_secs(1)).await;
        assert!(unfit.holds(&fs, &stack));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!unfit.holds(&fs, &stack));
    }

    /// Nobody mends a node from afar that its own pods cut off. One that is there is not taken away for that.
    #[tokio::test]
    async fn where_networks_meet_no_node_is_begun_and_none_is_taken_away() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let attrs = crate::host::fs::Attrs::mode(0o644);
        let resolver = |ip: &str| {
            let text = format!("nameserver {ip}\n");
            fs.write("/etc/resolv.conf", text.as_bytes(), &attrs)
        };
        let work = Work {
            generation: crate::model::Generation(3),
            role: Role::Worker,
            node: std::sync::Arc::new(crate::nodelet::phase::samples::worker("1.37.2").node),
        };
        let (orders, installed) = (Orders::default(), work.installed());
        let (empty, there) = (LedgerSeen::Empty, LedgerSeen::Installed(&installed));
        resolver("10.244.0.53").expect("write");
        let job = or_hold(&fs, Job::Node(work.clone()), &orders, &empty, None).await;
        let Job::Hold(hold) = job else {
            panic!("{job:?}");
        };
        assert_eq!(
            (hold.fault.code, hold.keeps),
            (FaultCode::NetworksMeet, None)
        );
        let job = or_hold(&fs, Job::Node(work.clone()), &orders, &there, None).await;
        assert_eq!(job, Job::Node(work.clone()));
        // The cause goes.
        resolver("10.1.0.53").expect("write");
        let job = or_hold(&fs, Job::Node(work.clone()), &orders, &empty, None).await;
        assert_eq!(job, Job::Node(work));
    }
}
