//! Rounds that go on with a restore of etcd, in the place of those that keep the node: these would
//! start again what a restore stops.

use std::time::Duration;

use super::next::{Next, failed};
use super::Engine;
use crate::model::{NodeSpec, Role, Timestamp};
use crate::nodelet::etcd::restore::run::{Went, step};
use crate::nodelet::etcd::restore::stage::Hands;
use crate::nodelet::lifecycle::Happened;

/// Between two looks whether what is waited for is there.
const WAIT: Duration = Duration::from_secs(3);
/// Longest that a step takes: making the data of the largest database on a slow disk, with the
/// checks before.
const STEP_MAX: Duration = Duration::from_secs(3600);

impl Engine {
    /// Goes on with the restore that is under way. `None`: there is none any more.
    pub(super) async fn restoring(&mut self, role: Role, node: &NodeSpec) -> Option<Next> {
        if role != Role::Master {
            return None;
        }
        loop {
            self.board.expects(STEP_MAX);
            let host = self.host.clone();
            let hands = Hands { host: &host, node };
            let went = tokio::select! {
                // A step that is cut off is begun again.
                went = step(hands, Timestamp::now()) => went,
                () = self.told.shutdown.cancelled() => return Some(Next::now()),
            };
            match went {
                Went::Nothing => return None,
                Went::On(words) => self.board.say(&format!("restore of etcd: {words}")),
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
