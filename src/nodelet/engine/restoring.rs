//! Rounds that go on with a restore of etcd, in the place of those that keep the node: these would
//! restart what a restore stops.

use std::time::Duration;

use super::Engine;
use super::next::{Next, failed};
use crate::host::fs::FsError;
use crate::model::{Fault, FaultCode, NodeSpec, RestoreStatus, Role};
use crate::nodelet::etcd::restore::Restores;
use crate::nodelet::etcd::restore::order::{self, Ordered};
use crate::nodelet::etcd::restore::run::{Went, step};
use crate::nodelet::etcd::restore::stage::RestoreContext;
use crate::nodelet::lifecycle::Happened;
use crate::telemetry::chain;

/// Between two looks whether what is waited for is there.
const WAIT: Duration = Duration::from_secs(3);
/// Longest that a step takes: making the data of the largest database on a slow disk, with the
/// checks before.
const STEP_MAX: Duration = Duration::from_secs(3600);

impl Engine {
    /// Continues the restore in progress. `None`: there is none left.
    pub(super) async fn restoring(&mut self, role: Role, node: &NodeSpec) -> Option<Next> {
        if role != Role::Master {
            return None;
        }
        self.take_up_order(node);
        let next = self.restore(node).await;
        self.show_restore();
        next
    }

    /// The plane's order is in the spec until every master has followed it.
    fn take_up_order(&mut self, node: &NodeSpec) {
        let restores = Restores::of(&self.host.fs);
        let (run, last, now) = (
            restores.run().value,
            restores.last(),
            crate::seam::clock::now(),
        );
        let noted = match order::ordered(node, run.as_ref(), last.as_ref(), now) {
            Ordered::Nothing => Ok(()),
            Ordered::Begin(run) => {
                self.board.say("restore of etcd: the plane orders it");
                restores.save(&run).map_err(|e| not_noted(&e))
            }
            Ordered::End => restores.ask_to_end(now),
        };
        if let Err(fault) = noted {
            tracing::error!(code = fault.code.word(), "{fault}");
        }
    }

    fn show_restore(&self) {
        let restores = Restores::of(&self.host.fs);
        let (run, last) = (restores.run().value, restores.last());
        let fault = self.lifecycle.failing().map(|f| f.fault.clone());
        let status = order::status(run.as_ref(), last.as_ref());
        self.board.restore(status.map(|status| RestoreStatus {
            fault: status.fault.or(fault.filter(|_| run.is_some())),
            ..status
        }));
    }

    async fn restore(&mut self, node: &NodeSpec) -> Option<Next> {
        loop {
            self.board.expects(STEP_MAX);
            let host = self.host.clone();
            let hands = RestoreContext {
                host: &host,
                node,
                egress: &self.egress,
                shelves: &self.shelves,
            };
            let went = tokio::select! {
                // A step that is interrupted is started over.
                went = step(hands, crate::seam::clock::now()) => went,
                () = self.told.shutdown.cancelled() => return Some(Next::now()),
            };
            match went {
                Went::Nothing => return None,
                Went::On(words) => {
                    self.board.say(&format!("restore of etcd: {words}"));
                    self.show_restore();
                }
                Went::Ended(None) => {
                    self.board
                        .say("restore of etcd: etcd and the control plane start again");
                    return None;
                }
                Went::Ended(Some(fault)) => {
                    tracing::error!(code = fault.code.word(), "{fault}");
                    self.board.say(&format!("restore of etcd: {fault}"));
                    return None;
                }
                Went::Waits(what) => {
                    self.happened(Happened::Waits { what });
                    return Some(Next {
                        after: WAIT,
                        watching: false,
                        may_exit: false,
                    });
                }
                Went::Failed(fault) => {
                    self.happened(failed("etcd-restore", fault));
                    return Some(Next::retry(&self.lifecycle));
                }
            }
        }
    }
}

fn not_noted(e: &FsError) -> Fault {
    Fault::new(FaultCode::EtcdRestore, "cannot start the restore", chain(e)).fix("check the disk")
}
