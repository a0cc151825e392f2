//! What a plane that could not be told is told later: a file that root of this host signs while it still can.
//!
//! The identity goes with everything else, so nobody could say it afterwards. The file holds no secret, and is believed
//! for the certificate that it names alone.

use super::super::context::CommandContext;
use super::fs_fault;
use crate::host::fs::Attrs;
use crate::identity::{self, order_key};
use crate::model::{DocumentKind, Farewell, Fault, FaultCode, HostId, ORDER_SCHEMA};

/// Where it is kept: beside nothing of ours, because all of that goes.
pub(super) fn path(host: HostId) -> String {
    format!("/root/pf9-farewell-{host}.json")
}

/// Signs and writes it; where it is.
pub(super) fn write(ctx: &CommandContext, host: HostId) -> Result<String, Fault> {
    let what = "no farewell can be written for the plane";
    let key = order_key::load(&ctx.host, host).map_err(|e| e.fault(what))?;
    let certificate = identity::certificate(&ctx.host).map_err(|e| e.fault(what))?;
    let certificate = certificate
        .ok_or_else(|| Fault::new(FaultCode::NotEnrolled, what, "this host has no certificate"))?;
    let said = Farewell {
        schema: ORDER_SCHEMA,
        host_id: host,
        certificate,
        at: ctx.now(),
    };
    let signed = key.sign(DocumentKind::Farewell, &said)?;
    let bytes = serde_json::to_vec(&signed)
        .map_err(|e| Fault::new(FaultCode::Files, what, e.to_string()))?;
    let path = path(host);
    let written = ctx.host.write(&path, &bytes, &Attrs::mode(0o600));
    written.map_err(|e| fs_fault(&e))?;
    Ok(path)
}
