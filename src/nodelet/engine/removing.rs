//! A round that removes what is installed. While that is held the node is kept in repair: what holds it may be a master
//! that needs this one.

use std::time::Duration;

use tokio::sync::watch;

use super::super::apply::Effects;
use super::super::context;
use super::super::inbox;
use super::super::job::{self, Job, Orders, RemovalOrder, Work};
use super::super::ledger::{Installed, LedgerFile};
use super::super::removal::{self, Removal};
use super::super::run::Stop;
use super::{Engine, Next, Turn, failed};
use crate::model::{Fault, FaultCode, Generation, HostId, Role, TrustStore};
use crate::telemetry::chain;

/// Pause after a removal that could not begin.
const AGAIN: Next = Next {
    after: Duration::from_secs(10),
    watching: false,
    may_exit: false,
};

impl Engine {
    /// Takes away what the ledger knows.
    pub(super) async fn remove(&mut self, order: RemovalOrder, generation: Generation) -> Next {
        self.watch.clear();
        match order {
            RemovalOrder::NoRole | RemovalOrder::Local | RemovalOrder::Begun => {
                self.board.spec(generation, Role::None, None);
            }
            RemovalOrder::Another => self
                .board
                .say("this host was another node: that role is removed first"),
        }
        if let Err(fault) = self.assume(generation) {
            self.happened(failed("removal", fault));
            return AGAIN;
        }
        let Some(installed) = self.ledger.ledger.installed.clone() else {
            return AGAIN;
        };
        let Installed { role, node, .. } = &installed;
        let role = *role;
        // Removal needs no signature.
        let (trust, host_id) = inbox::trust_anchors(&self.host.fs)
            .unwrap_or_else(|_| (TrustStore::default(), HostId(Default::default())));
        let now = crate::seam::clock::now();
        let gathered = context::gather(&self.host, &trust, host_id, role, node, None, now);
        let ctx = match gathered {
            Ok((ctx, _)) => ctx,
            Err(fault) => {
                self.happened(failed("removal", fault));
                return AGAIN;
            }
        };
        self.board.say(&format!(
            "removal of role {role} started (cluster {})",
            node.cluster_name
        ));
        let stop = Stop {
            shutdown: self.told.shutdown.clone(),
            ..Stop::default()
        };
        let force = self.told.orders.borrow().force();
        let stands = stands(self.told.orders.clone());
        let mut removal = Removal {
            effects: Effects {
                host: &self.host,
                trust: &trust,
                ctx: &ctx,
                memory: &mut self.memory,
                ledger: &mut self.ledger,
            },
            journal: &self.journal,
            board: &mut self.board,
            generation,
            force,
            stands: &stands,
        };
        let end = removal.run(&stop).await;
        self.removal_ended(end, &installed).await
    }

    /// Nothing was destroyed: the node continues as it is installed, and the removal is asked for again.
    async fn keep_meanwhile(&mut self, installed: &Installed, fault: Fault) -> Next {
        if self.held.as_ref().is_none_or(|held| held.why != fault.why) {
            self.board.say(&format!("  held: {fault}"));
            tracing::warn!(code = fault.code.word(), "{fault}");
        }
        self.held = Some(fault.clone());
        self.show_job();
        Box::pin(self.node(Work::kept(installed), Some(fault), Turn::default())).await
    }

    /// Where the ledger is lost and root says that the role goes: what is ours is known by its name.
    fn assume(&mut self, generation: Generation) -> Result<(), Fault> {
        if !self.ledger.is_in_doubt() {
            return Ok(());
        }
        let known = job::lost_node(&self.told.orders.borrow(), self.ledger.authority());
        let known = known.map(|work| work.installed());
        self.board
            .say("the ledger is lost: what is ours is recognised by name and removed");
        self.ledger.assume(known, generation).map_err(|e| {
            let what = "cannot record what is removed";
            Fault::new(FaultCode::Ledger, what, chain(&e))
                .fix("check the disk that holds /var/opt/pf9/nodelet")
        })
    }

    async fn removal_ended(&mut self, end: removal::RemovalEnd, installed: &Installed) -> Next {
        let role = installed.role;
        if !matches!(end, removal::RemovalEnd::Held(_)) {
            self.held = None;
            self.show_job();
        }
        match end {
            removal::RemovalEnd::Done => {
                self.board
                    .say("removal finished: nothing of the role remains");
                tracing::info!(%role, "role removed");
            }
            removal::RemovalEnd::Withdrawn => {
                let words = "the order of removal was withdrawn before anything was destroyed: the role stays";
                self.board.say(words);
                tracing::info!(%role, "{words}");
            }
            removal::RemovalEnd::Interrupted => {}
            removal::RemovalEnd::Held(fault) => return self.keep_meanwhile(installed, fault).await,
            removal::RemovalEnd::Left(faults) => {
                for fault in &faults {
                    tracing::warn!(code = fault.code.word(), "{fault}");
                    self.board.say(&format!("  left: {fault}"));
                }
                if let Some(first) = faults.into_iter().next() {
                    self.happened(failed("removal", first));
                }
                return Next::retry(&self.lifecycle).unwatched();
            }
        }
        Next::now()
    }
}

/// Whether what is installed is still to be removed, by what is ordered when it is asked.
pub(super) fn stands(orders: watch::Receiver<Orders>) -> impl Fn(&LedgerFile) -> bool + Sync {
    move |ledger| {
        let job = job::decide(&orders.borrow(), &ledger.seen());
        matches!(job, Job::Remove(..))
    }
}
