//! Operations, and what came of them.

use super::super::*;
use super::{at, envelope, fault, host, shape};

pub(super) fn shapes_of_the_plane() {
    shape("operation", &operation());
    let pending = PendingOperation {
        id: operation().id,
        envelope: envelope(),
    };
    shape(
        "pending-operations",
        &PendingOperations {
            operations: vec![pending],
        },
    );
}

pub(super) fn shapes_of_the_host() {
    shape("operation-result", &operation_result());
}

fn operation() -> Operation {
    Operation {
        schema: OPERATION_SCHEMA,
        id: uuid::Uuid::from_u128(8),
        host_id: host(),
        number: 9,
        issued_at: at(),
        expires_at: at(),
        what: OperationKind::LogLevel {
            program: LogOf::Nodelet,
            level: LogLevel::Debug,
            for_s: 60,
        },
    }
}

fn operation_result() -> OperationResult {
    OperationResult {
        schema: OPERATION_SCHEMA,
        id: operation().id,
        at: at(),
        outcome: Outcome::Failed { fault: fault() },
    }
}
