//! Rounds in maintenance: the host is observed, drift is reported, and nothing is done about it.
//!
//! The look is at the installed node, by the spec that keeps it: what a newer spec asks for is not started.
//! Certificates that are due are requested anyway, with what the look shows; see [`super::super::maintenance`].

use std::time::Duration;

use tokio::time::Instant;

use super::super::inbox;
use super::super::job::{Job, RemovalOrder, SpecSeen, Work};
use super::super::lifecycle::Happened;
use super::super::status::named;
use super::clock::until;
use super::converging::{Node, Turn};
use super::next::Next;
use super::{Engine, Stage};
use crate::model::{Fault, MaintenanceStatus, Role};

/// An order that ends is seen within this.
const AGAIN: Duration = Duration::from_secs(60);

impl Engine {
    /// Whether this round changes nothing, and by whose order.
    pub(super) fn rests(&mut self, job: &Job) -> Option<MaintenanceStatus> {
        let desk = &self.told.maintenance;
        match &self.told.orders.borrow().spec {
            SpecSeen::Newest(spec) => desk.heed(spec.maintenance.as_ref()),
            // The content of the lost one is unknown: the counted order ends by its time.
            SpecSeen::Never | SpecSeen::Lost { .. } => {}
        }
        let now = desk.now().filter(|_| self.may_rest(job));
        self.board.maintenance(now.as_ref());
        now
    }

    /// Root takes the role away, or something of it is destroyed already: that goes to its end, and ends the
    /// maintenance.
    fn may_rest(&self, job: &Job) -> bool {
        if !is_roots_removal(job) {
            return true;
        }
        match self.told.maintenance.end() {
            Ok(_) => {}
            Err(fault) => tracing::warn!(code = fault.code.word(), "{fault}"),
        }
        false
    }

    /// Looks, tells, and does nothing.
    pub(super) async fn rest(&mut self, job: &Job, order: &MaintenanceStatus) -> Next {
        let began = Instant::now();
        self.clean = false;
        self.watch.clear();
        let left = match self.ledger.ledger.installed.as_ref().map(Work::kept) {
            Some(work) => {
                let cluster = Some(work.node.cluster_id);
                self.board.spec(job.generation(), work.role, cluster);
                Some(self.differs(work).await)
            }
            None => {
                self.board.spec(job.generation(), Role::None, None);
                None
            }
        };
        // What a roll waits for is not late by it.
        if let Some(stage) = &mut self.stage {
            Stage::passes(stage, true, began);
        }
        let asked = asked(job).map(str::to_owned);
        let said: Vec<String> = asked.into_iter().chain(left.flatten()).collect();
        let said = (!said.is_empty()).then(|| said.join("; "));
        self.happened(Happened::Rests {
            why: order.fault(said.as_deref()),
        });
        let left = until(order.until, crate::seam::clock::now());
        Next {
            after: self.sweep.min(AGAIN).min(left.max(Duration::from_secs(1))),
            watching: false,
            may_exit: false,
        }
    }

    /// What is not as it should be, as text.
    async fn differs(&mut self, work: Work) -> Option<String> {
        let look = match inbox::trust_anchors(&self.host.fs) {
            Ok((trust, host_id)) => {
                let node = Node {
                    work,
                    host_id,
                    trust,
                    hold: None,
                    held: false,
                    keeps_drop_ins: false,
                    turn: Turn::default(),
                };
                self.look(&node).await
            }
            Err(fault) => Err(fault),
        };
        let unseen = |fault: Fault| format!("it cannot be observed: {fault}");
        match look {
            Ok(look) => named(&look.plan).map(|steps| format!("left as it is: {steps}")),
            Err(fault) => Some(unseen(fault)),
        }
    }
}

/// What is ordered and not started.
fn asked(job: &Job) -> Option<&'static str> {
    match job {
        Job::Remove(..) => Some("the plane's order to remove the role waits"),
        Job::Nothing(_) | Job::Node(_) | Job::Hold(_) => None,
    }
}

pub(super) fn is_roots_removal(job: &Job) -> bool {
    match job {
        Job::Remove(RemovalOrder::Local | RemovalOrder::Begun, _) => true,
        Job::Remove(RemovalOrder::NoRole | RemovalOrder::Another, _)
        | Job::Nothing(_)
        | Job::Node(_)
        | Job::Hold(_) => false,
    }
}
