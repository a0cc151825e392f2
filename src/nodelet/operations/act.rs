//! The effect of each operation: the closed list, without a wildcard.

use std::time::Duration;

use tokio::sync::watch;

use super::super::engine;
use super::super::etcd;
use super::super::inbox::Inbox;
use super::super::job::Job;
use super::super::maintenance;
use super::super::rotate;
use super::bundle;
use crate::host::Host;
use crate::host::ours::units;
use crate::local::StatusCode;
use crate::model::{
    CertPurpose, Fault, FaultCode, LogLevel, LogOf, MaintenanceStatus, Operation, OperationKind,
    OurUnit, Outcome,
};
use crate::telemetry::{self, chain};

/// Longest look at the whole node that an operation waits for: less than its caller does.
const LOOK_MAX: Duration = Duration::from_secs(120);
/// Steps that are named.
const NAMED: usize = 5;

/// What operations work with.
pub struct OperationContext<'a> {
    /// The machine.
    pub host: &'a Host,
    /// What was ordered of the node.
    pub inbox: &'a Inbox,
    /// What the loop works on.
    pub job: Job,
    /// The keeper of etcd.
    pub etcd: &'a etcd::EtcdHandle,
    /// Whether changes are suspended.
    pub desk: &'a maintenance::MaintenanceHandle,
    /// Wakes the loop.
    pub wake: &'a watch::Sender<u64>,
}

impl OperationContext<'_> {
    pub(super) fn maintenance(&self) -> Option<MaintenanceStatus> {
        self.desk.now()
    }

    fn wake(&self) {
        self.wake.send_modify(|n| *n = n.wrapping_add(1));
    }
}

pub(super) async fn act(operation: &Operation, hands: &OperationContext<'_>) -> Outcome {
    match &operation.what {
        OperationKind::Ping => Outcome::done(format!(
            "nodelet {} answers",
            crate::model::document::AGENT_VERSION
        )),
        OperationKind::ResendStatus => {
            hands.wake();
            Outcome::done("the machine is observed, and hostagent sends its status")
        }
        OperationKind::RunChecks => run_checks(hands).await,
        OperationKind::Restart { unit } => restart(hands.host, *unit).await,
        OperationKind::Rotate { certificate } => rotate(hands, *certificate),
        OperationKind::Backup => backup(hands).await,
        OperationKind::LogLevel {
            program,
            level,
            for_s,
        } => log_level(*program, *level, *for_s),
        OperationKind::Bundle {
            since_s,
            max_bytes,
            seal_for,
        } => {
            let order = bundle::Order {
                id: operation.id,
                since_s: *since_s,
                only_logs: None,
                max_bytes: *max_bytes,
                seal_for,
            };
            bundle::make(hands.host, &order).await
        }
        OperationKind::Logs {
            since_s,
            until_s,
            lines,
            max_bytes,
            seal_for,
        } => {
            let order = bundle::Order {
                id: operation.id,
                since_s: *since_s,
                only_logs: Some(bundle::OnlyLogs {
                    until_s: *until_s,
                    lines: *lines,
                }),
                max_bytes: *max_bytes,
                seal_for,
            };
            bundle::make(hands.host, &order).await
        }
    }
}

pub(super) fn failed(what: &str, why: impl Into<String>) -> Outcome {
    Outcome::Failed {
        fault: Fault::new(FaultCode::OperationFailed, what, why),
    }
}

async fn run_checks(hands: &OperationContext<'_>) -> Outcome {
    let orders = hands.inbox.orders();
    let look = engine::dry_run(hands.host, &orders);
    let plan = match tokio::time::timeout(LOOK_MAX, look).await {
        Ok(Ok(plan)) => plan,
        Ok(Err(fault)) => return Outcome::Failed { fault },
        Err(_) => {
            let why = format!(
                "the check of the node took longer than {} s",
                LOOK_MAX.as_secs()
            );
            return failed("the checks did not finish", why);
        }
    };
    let waits = plan.waits.map(|w| format!("waits for {}", w.what));
    if plan.steps.is_empty() {
        return Outcome::done(waits.unwrap_or_else(|| "ok: nothing differs".to_owned()));
    }
    let steps = plan.steps.iter().take(NAMED);
    let mut said: Vec<String> = steps.map(|s| format!("{} ({})", s.what, s.why)).collect();
    let more = plan.steps.len().saturating_sub(NAMED);
    said.extend((more > 0).then(|| format!("and {more} more")));
    said.extend(waits);
    Outcome::done(format!("differs: {}", said.join(", ")))
}

async fn restart(host: &Host, which: OurUnit) -> Outcome {
    let unit = match which {
        OurUnit::Kubelet => units::KUBELET,
        OurUnit::KubeProxy => units::KUBE_PROXY,
        OurUnit::Containerd => units::CONTAINERD,
        OurUnit::Comms => units::COMMS,
        OurUnit::Hostagent => units::HOSTAGENT,
    };
    let what = format!("{which} was not restarted");
    let state = match host.units.show(&[unit.to_owned()]).await {
        Ok(mut all) => all.remove(unit),
        Err(e) => return failed(&what, chain(&e)),
    };
    if !state.is_some_and(|s| s.loaded) {
        return failed(&what, format!("this host has no {unit}"));
    }
    match host.units.restart(unit).await {
        Ok(()) => Outcome::done(format!("{unit} was restarted")),
        Err(e) => failed(&what, chain(&e)),
    }
}

fn rotate(hands: &OperationContext<'_>, purpose: CertPurpose) -> Outcome {
    let what = "the certificate is not rotated";
    let work = hands.job.work().filter(|w| purpose.applies_to(w.role));
    let Some(work) = work else {
        let why = format!("this host has no certificate {}", purpose.dir());
        return failed(what, why);
    };
    match rotate::order(&hands.host.fs, purpose, &work.node) {
        Ok(until) => {
            hands.wake();
            Outcome::done(format!(
                "certificate {}, valid until {until}, is requested again; the status shows when the new one is in \
                 use",
                purpose.dir()
            ))
        }
        Err(why) => failed(what, why),
    }
}

async fn backup(hands: &OperationContext<'_>) -> Outcome {
    match hands.etcd.back_up().await {
        (StatusCode::OK, said) => Outcome::done(said),
        (StatusCode::ACCEPTED, _) => {
            Outcome::done("it is being made; the status shows it when it is done")
        }
        (_, why) => failed("no backup of etcd was taken", why),
    }
}

/// hostagent's own is its own to change, once nodelet has said that it may.
fn log_level(program: LogOf, level: LogLevel, for_s: u32) -> Outcome {
    let said = format!("{program} logs {level} for {for_s} s");
    match program {
        LogOf::Hostagent => Outcome::done(said),
        LogOf::Nodelet => {
            match telemetry::level_for(level.as_str(), Duration::from_secs(for_s.into())) {
                Ok(()) => Outcome::done(said),
                Err(why) => failed("the log level is unchanged", why),
            }
        }
    }
}
