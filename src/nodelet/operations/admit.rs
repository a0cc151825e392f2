//! Whether to do an operation. Pure.

use jiff::SignedDuration;

use crate::app::Agreed;
use crate::model::{
    Fault, FaultCode, HostId, MaintenanceStatus, OPERATION_LIFE_MAX, Operation, Timestamp,
};

/// What one is judged by.
pub(super) struct OperationSeen {
    pub(super) host: HostId,
    pub(super) now: Timestamp,
    /// The highest number that was started or refused here.
    pub(super) last: u64,
    /// This machine is a copy.
    pub(super) copy: Option<Fault>,
    /// Words that root allows, or why they are unknown.
    pub(super) allowed: Result<Vec<String>, Fault>,
    /// How the operator of this host agreed to what leaves it by this operation, where something does; or why it may not.
    pub(super) consent: Result<Option<Agreed>, Fault>,
    pub(super) maintenance: Option<MaintenanceStatus>,
}

/// Why it is not to be done, if so. The signature was verified.
pub(super) fn admit(operation: &Operation, seen: &OperationSeen) -> Result<(), Fault> {
    let refused = |code, why: String| Fault::new(code, "operation refused", why);
    if operation.host_id != seen.host {
        let why = format!(
            "it is for {}, this host is {}",
            operation.host_id, seen.host
        );
        return Err(refused(FaultCode::OperationForeign, why));
    }
    if let Some(copy) = &seen.copy {
        return Err(copy.clone());
    }
    if operation.number <= seen.last {
        let why = format!(
            "its number is {}, and {} was done or refused here already",
            operation.number, seen.last
        );
        return Err(refused(FaultCode::OperationReplayed, why).fix(
            "order it again; a plane that was restored from a backup then uses a greater number",
        ));
    }
    let (end, now) = (operation.expires_at, seen.now);
    let clock = "compare the clocks of this host and of the plane, then order it again";
    if now >= end {
        let why = format!("it had to start by {end}, and it is {now} here");
        return Err(refused(FaultCode::OperationExpired, why).fix(clock));
    }
    let longest = SignedDuration::try_from(OPERATION_LIFE_MAX).unwrap_or(SignedDuration::MAX);
    if end.duration_since(now) > longest {
        let why = format!(
            "it would be valid until {end}, and it is {now} here: none is valid for more than {} s",
            OPERATION_LIFE_MAX.as_secs()
        );
        return Err(refused(FaultCode::OperationExpired, why).fix(clock));
    }
    if let Some(why) = operation.what.fault() {
        return Err(refused(FaultCode::OperationInvalid, why));
    }
    let word = operation.what.word();
    let allowed = seen.allowed.as_ref().map_err(Clone::clone)?;
    if !allowed.iter().any(|a| a == word) {
        let why = format!("root of this host does not allow {word}");
        return Err(refused(FaultCode::OperationNotAllowed, why).fix(format!(
            "root of the host allows it with {:?} in the list `allow` of {}",
            word,
            crate::model::paths::OPERATIONS_ALLOWED
        )));
    }
    if operation.what.consent().is_some() {
        seen.consent.clone()?;
    }
    match &seen.maintenance {
        Some(order) if operation.what.changes_the_node() => Err(order.fault(None)),
        Some(_) | None => Ok(()),
    }
}
