//! A machine that starts: what is installed comes up by itself, and a look at all of it takes the
//! processors from what it waits for (on two cores a node is Ready a second later by it).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::super::observe::ready_since;
use super::{Engine, LOOK_MAX};
use crate::host::ours::units;
use crate::host::units::{Active, UnitState};
use crate::seam::clock;

/// How long what comes up is left alone: several times what it takes. What does not come up by then
/// needs a look.
const LEFT_ALONE: Duration = Duration::from_secs(10);
/// How often it is asked: a question is a process, a few hundredths of a second of one core.
const EVERY: Duration = Duration::from_millis(500);

/// What systemd says of the node as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comes {
    /// Something is on its way up.
    Up,
    /// kubelet was started so long ago; what it says of the node follows, on a master after the API server.
    Kubelet(Duration),
    /// Nothing does: it is up, or does not come.
    No,
}

impl Engine {
    /// Before the first round: waits until what is installed is up, if it is just being started.
    pub(super) async fn let_it_come_up(&mut self) {
        let Some(installed) = self.ledger.ledger.installed.clone() else {
            return;
        };
        let names: Vec<String> = units::ROLE.iter().map(|u| (*u).to_owned()).collect();
        let end = Instant::now() + LEFT_ALONE;
        self.board.expects(LOOK_MAX);
        while Instant::now() < end {
            let Ok(seen) = self.host.units.show(&names).await else {
                return;
            };
            match comes(&seen) {
                Comes::Up => {}
                Comes::Kubelet(since) if since < LEFT_ALONE => {
                    let (fs, node) = (&self.host.fs, &installed.node);
                    let api = self.memory.peers.kube(fs, installed.role, node);
                    // Whom nobody can ask needs a look.
                    let Ok(api) = api else { return };
                    // One that hangs is no reason to wait longer than for one that is not there.
                    let asked = api.node(node.node_name.as_str());
                    let said = tokio::time::timeout_at(end, asked).await;
                    if said.is_ok_and(|said| is_ready(said.ok().flatten().as_ref(), since)) {
                        return;
                    }
                }
                Comes::Kubelet(_) | Comes::No => return,
            }
            tokio::select! {
                // cancel-safe: all are; the first round takes up what was ordered
                () = self.told.shutdown.cancelled() => return,
                _ = self.told.orders.changed() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        tracing::info!(
            after_s = LEFT_ALONE.as_secs(),
            "the node's services are not up yet: reconciling anyway"
        );
    }
}

/// Whether the cluster has heard from the kubelet that was started so long ago that its node is Ready.
fn is_ready(node: Option<&Value>, kubelet_for: Duration) -> bool {
    let now = clock::now();
    let started = now.checked_sub(kubelet_for).unwrap_or(now);
    node.is_some_and(|node| ready_since(node, started))
}

/// Whether the node is coming up.
fn comes(seen: &BTreeMap<String, UnitState>) -> Comes {
    if seen.values().any(|unit| unit.active == Active::Activating) {
        return Comes::Up;
    }
    match seen.get(units::KUBELET) {
        // Waits for another one's start; who stopped it has had it up before.
        Some(kubelet) if kubelet.active == Active::Inactive => {
            let waits = kubelet.loaded && kubelet.enabled && kubelet.active_at.is_none();
            if waits { Comes::Up } else { Comes::No }
        }
        Some(kubelet) if kubelet.active.is_up() => {
            kubelet.active_for().map_or(Comes::No, Comes::Kubelet)
        }
        Some(_) | None => Comes::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(active: Active, active_at: Option<Duration>) -> UnitState {
        UnitState {
            loaded: true,
            active,
            sub: String::new(),
            enabled: true,
            need_reload: false,
            main_pid: None,
            invocation: String::new(),
            restarts: 0,
            result: String::new(),
            active_at,
        }
    }

    #[test]
    fn only_what_is_being_started_is_left_alone() {
        let said = |runtime: Active, kubelet: UnitState| {
            let runtime = unit(runtime, None);
            comes(
                &[
                    (units::CONTAINERD.into(), runtime),
                    (units::KUBELET.into(), kubelet),
                ]
                .into(),
            )
        };
        let once = Some(Duration::from_micros(1));
        // A boot: kubelet waits for the runtime, then is on its way itself.
        assert_eq!(
            said(Active::Activating, unit(Active::Inactive, None)),
            Comes::Up
        );
        assert_eq!(
            said(Active::Active, unit(Active::Inactive, None)),
            Comes::Up
        );
        assert_eq!(
            said(Active::Active, unit(Active::Activating, None)),
            Comes::Up
        );
        // Somebody stopped it, it failed, it is not to start: a look is what it needs.
        assert_eq!(
            said(Active::Active, unit(Active::Inactive, once)),
            Comes::No
        );
        assert_eq!(said(Active::Active, unit(Active::Failed, None)), Comes::No);
        let disabled = UnitState {
            enabled: false,
            ..unit(Active::Inactive, None)
        };
        assert_eq!(said(Active::Active, disabled), Comes::No);
        let gone = UnitState {
            loaded: false,
            ..unit(Active::Inactive, None)
        };
        assert_eq!(said(Active::Active, gone), Comes::No);
        assert_eq!(comes(&BTreeMap::new()), Comes::No);
        let up = said(Active::Active, unit(Active::Active, once));
        assert!(matches!(up, Comes::Kubelet(since) if since > Duration::from_secs(1)));
    }
}
