//! The part of a roll that installs the distribution's updates: a step starts a run of the package manager, which is
//! then watched until it is over. The node is kept meanwhile.

use std::time::Duration;

use super::super::job::Work;
use super::super::lifecycle::Happened;
use super::super::roll::{OsMove, OsSaid, RollRecord, Said};
use super::super::step::Step;
use super::Engine;
use super::converging::Turn;
use super::next::Next;
use crate::model::{Fault, FaultCode};
use crate::os::{self, LOG, OsGoal, OsRun, OsRunState};
use crate::telemetry::chain;

/// Between two looks at a run: a list is fetched in seconds, and installed is nothing in less.
const LOOK_AGAIN: Duration = Duration::from_secs(3);

impl Engine {
    /// Does what comes next for the distribution's updates.
    pub(super) async fn updates(
        &mut self,
        record: &RollRecord,
        what: OsMove,
        kept: Work,
        turn: Turn,
    ) -> (Said, Next) {
        match what {
            OsMove::Rest(left) => {
                let next = self.node(kept, None, turn).await;
                let why = record
                    .fault
                    .as_ref()
                    .map_or_else(String::new, |f| f.why.clone());
                let what = format!("the distribution's updates are retried: {why}");
                self.happened(Happened::Waits { what });
                let after = next.after.min(left);
                (Said::Nothing, Next { after, ..next })
            }
            OsMove::Run(run) => self.runs(run, kept, turn).await,
            OsMove::Reboot { boot } => self.reboots(boot, kept, turn).await,
        }
    }

    async fn runs(&mut self, run: OsRun, kept: Work, mut turn: Turn) -> (Said, Next) {
        turn.does = Some(Step::OsUpdate { run: run.clone() });
        let mut next = self.node(kept, None, turn).await;
        next.after = next.after.min(LOOK_AGAIN);
        let standing = match os::standing(&self.host, &run).await {
            Ok(standing) => standing,
            Err(why) => {
                tracing::warn!("cannot query the state of the distribution's updates: {why}");
                return (Said::Nothing, next);
            }
        };
        let said = match standing {
            OsRunState::NotBegun | OsRunState::UnderWay => {
                let what = match run.goal {
                    OsGoal::Fetch => "the distribution's updates to be fetched",
                    OsGoal::Install => "the distribution's updates to be installed",
                };
                self.happened(Happened::Waits { what: what.into() });
                Said::Nothing
            }
            OsRunState::CutOff => Said::Failed(cut_off()),
            OsRunState::Over(outcome) => match (outcome.fault, self.host.kernel.boot_id()) {
                (Some(fault), _) => Said::Failed(fault),
                (None, Ok(boot)) => Said::Os(OsSaid::Came {
                    report: outcome.report,
                    unfinished: outcome.unfinished,
                    boot,
                }),
                (None, Err(e)) => {
                    tracing::warn!("cannot tell which boot this is: {}", chain(&e));
                    Said::Nothing
                }
            },
        };
        (said, next)
    }

    async fn reboots(&mut self, boot: String, kept: Work, mut turn: Turn) -> (Said, Next) {
        // An unknown boot id does not count as another one.
        if self.host.kernel.boot_id().is_ok_and(|now| now != boot) {
            return (Said::Os(OsSaid::Booted), Next::now());
        }
        turn.does = Some(Step::Reboot { boot });
        let next = self.node(kept, None, turn).await;
        let what = "the machine to reboot".to_owned();
        self.happened(Happened::Waits { what });
        let after = next.after.min(LOOK_AGAIN);
        (Said::Nothing, Next { after, ..next })
    }
}

fn cut_off() -> Fault {
    let what = "the distribution's updates are not all installed";
    let why = "the package manager was interrupted: this machine, or its unit, was stopped";
    Fault::new(FaultCode::OsUpdateFailed, what, why).fix(format!(
        "it is repaired and retried automatically; if it is interrupted again see {LOG} and journalctl -u \
         pf9-os-update"
    ))
}
