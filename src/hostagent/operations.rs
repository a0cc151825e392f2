//! Task: operations of the plane to nodelet, and what came of them back. Carries; judges nothing.
//!
//! One that the plane got no answer to is sent again; nodelet answers again what it answered, and does it once.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Agent;
use crate::app::Backoff;
use crate::local::{LocalError, Method};
use crate::model::{
    Fault, LogOf, OPERATION_SCHEMA, OPERATIONS_PENDING_MAX, Operation, OperationKind,
    OperationResult, Outcome, PendingOperation, PendingOperations,
};
use crate::telemetry;

/// How long the plane holds a question that has no answer yet.
const WAIT_S: u64 = 30;
/// That, and a slow link.
const DEADLINE: Duration = Duration::from_secs(WAIT_S + 15);
/// nodelet may look at the whole host, or take a backup, before it answers.
const DONE_MAX: Duration = Duration::from_secs(150);
/// Waits after a failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// A person waits for what they ordered.
const RETRY_CAP: Duration = Duration::from_secs(30);
/// An older plane does not know the question.
const OLDER_PLANE: Duration = Duration::from_secs(600);

pub(super) async fn run(agent: Agent) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
    let path = format!("/v1/hosts/self/operations?wait={WAIT_S}");
    loop {
        let pause = match agent.plane.poll::<PendingOperations>(&path, DEADLINE).await {
            Ok(None) => {
                backoff.reset();
                continue;
            }
            Ok(Some(pending)) => match all(&agent, pending).await {
                Ok(()) => {
                    backoff.reset();
                    continue;
                }
                Err(fault) => {
                    tracing::warn!(code = fault.code.word(), "{fault}");
                    backoff.failed()
                }
            },
            Err(LocalError::Refused { status, .. }) if status.as_u16() == 404 => OLDER_PLANE,
            Err(_) => backoff.failed(),
        };
        agent.plane.pause(pause).await;
    }
}

async fn all(agent: &Agent, pending: PendingOperations) -> Result<(), Fault> {
    for one in pending.operations.into_iter().take(OPERATIONS_PENDING_MAX) {
        let result = done(agent, &one).await?;
        let sent = agent
            .plane
            .post::<_, serde_json::Value>("/v1/hosts/self/operations", &result)
            .await;
        match sent {
            // The plane no longer knows it, so nothing waits for it.
            Ok(_) | Err(LocalError::Refused { .. }) => {}
            Err(error) => {
                return Err(super::plane::fault(
                    &error,
                    "the result of an operation is not reported",
                ));
            }
        }
    }
    Ok(())
}

/// nodelet's word on it.
async fn done(agent: &Agent, one: &PendingOperation) -> Result<OperationResult, Fault> {
    let answer = agent
        .nodelet
        .send::<_, OperationResult>(Method::POST, "/v1/operations", &one.envelope, DONE_MAX)
        .await;
    match answer {
        Ok(Some(result)) => {
            if let Outcome::Done { .. } = result.outcome {
                own_part(agent, one);
            }
            Ok(result)
        }
        Ok(None) => Err(nothing_said()),
        // No signer that root trusts signed it.
        Err(LocalError::Refused { fault, status }) if status.as_u16() == 403 => {
            Ok(OperationResult {
                schema: OPERATION_SCHEMA,
                id: one.id,
                at: agent.now(),
                outcome: Outcome::Refused { fault: *fault },
            })
        }
        Err(error) => Err(error.fault("an operation of the plane is not carried out")),
    }
}

fn nothing_said() -> Fault {
    let what = "an operation of the plane is not carried out";
    Fault::new(
        crate::model::FaultCode::LocalMalformed,
        what,
        "nodelet did not report it",
    )
}

/// What of it is this program's own: nodelet has verified it, and said that it may.
fn own_part(agent: &Agent, one: &PendingOperation) {
    let payload = BASE64.decode(&one.envelope.payload).unwrap_or_default();
    let Ok(operation) = serde_json::from_slice::<Operation>(&payload) else {
        return;
    };
    match operation.what {
        OperationKind::ResendStatus => agent.board.update(|f| f.resend = f.resend.wrapping_add(1)),
        OperationKind::LogLevel {
            program: LogOf::Hostagent,
            level,
            for_s,
        } => {
            let time = Duration::from_secs(for_s.into());
            if let Err(why) = telemetry::level_for(level.as_str(), time) {
                tracing::warn!(why, "the log level is unchanged");
            }
        }
        OperationKind::Ping
        | OperationKind::RunChecks
        | OperationKind::Restart { .. }
        | OperationKind::Rotate { .. }
        | OperationKind::Backup
        | OperationKind::Bundle { .. }
        | OperationKind::Logs { .. }
        | OperationKind::LogLevel {
            program: LogOf::Nodelet,
            ..
        } => {}
    }
}
