//! `identity show`: who this machine is to its plane, and whether it is the machine it says it is.
//! `identity reset`: a machine that is a copy stops being the host it was copied from.
//!
//! ```text
//! reset:  ask ─ agent and node units stop ─ credentials go ─ what the plane said goes ─ identity goes
//! ```
//!
//! The node's own credentials go before anything else can use them: whatever is left of the role is
//! removed later without the rights of the host it belongs to.

use serde::Serialize;

use super::args::{IdentityResetArgs, IdentityShowArgs};
use super::before::Before;
use super::context::{AGENT_UNITS, CommandContext, NODE_UNITS, NODELET_UNIT};
use super::leftovers;
use super::output::{Ink, Screen, Show};
use crate::app::Exit;
use crate::host::exec::ExecError;
use crate::host::fs::FsError;
use crate::identity;
use crate::model::{Fault, FaultCode, HostId, Likeness, TrustStatus, copied_by_marks, paths};
use crate::nodelet;
use crate::telemetry::chain;

/// Who this machine is.
#[derive(Debug, Serialize)]
pub(super) struct IdentityReport {
    host_id: Option<HostId>,
    /// Parts of the machine that its identity is bound to.
    bound_to: Vec<&'static str>,
    /// Why it is not the machine it says it is.
    copy: Option<Fault>,
    /// Its trust anchors.
    trust: Option<TrustStatus>,
}

/// What reset did.
#[derive(Debug, Serialize)]
pub(super) struct ResetReport {
    /// Who it was.
    was: Option<HostId>,
    /// Units that were stopped.
    stopped: Vec<&'static str>,
    /// What was removed.
    removed: Vec<String>,
    next: Vec<&'static str>,
}

/// State of the other machine: specs, events, tickets. The ledger stays: it knows what of a role has to be removed.
const STATE: [&str; 5] = [
    paths::COMMS_STATE,
    paths::HOSTAGENT_STATE,
    "/var/opt/pf9/nodelet/spec.json",
    "/var/opt/pf9/nodelet/spec.json.prev",
    paths::LOCAL_ORDER,
];

pub(super) fn show(ctx: &CommandContext, _: &IdentityShowArgs) -> Result<Exit, Fault> {
    let what = "cannot read this host's identity";
    let fault = |e: identity::IdentityError| e.fault(what);
    let host_id = identity::host_id(&ctx.host).map_err(fault)?;
    let pinned = identity::pinned_machine(&ctx.host).map_err(fault)?;
    let copy = match host_id {
        Some(host) => copy(ctx, host)?,
        None => None,
    };
    let trust = match host_id {
        Some(_) => Some(identity::trust_status(&ctx.host).map_err(fault)?),
        None => None,
    };
    let report = IdentityReport {
        host_id,
        bound_to: pinned.map(|p| p.known()).unwrap_or_default(),
        trust,
        copy,
    };
    ctx.out.show(&report);
    Ok(match report.copy {
        Some(_) => Exit::Failed,
        None => Exit::Ok,
    })
}

/// The plane's word, which root alone can read, or else what can be seen here.
fn copy(ctx: &CommandContext, host: HostId) -> Result<Option<Fault>, Fault> {
    if ctx.uid == 0 {
        return Ok(nodelet::trust::held(&ctx.host));
    }
    let seen = identity::this_machine(&ctx.host, host);
    let likeness = identity::is_our_machine(&ctx.host, &seen)
        .map_err(|e| e.fault("cannot tell which machine this identity belongs to"))?;
    Ok(match likeness {
        Likeness::Another(differs) => Some(copied_by_marks(host, &differs)),
        Likeness::Same(_) | Likeness::Unknown => None,
    })
}

/// Notes what the machine is, for the tunnel's user, who may read less.
pub(super) fn note(ctx: &CommandContext) -> Result<Exit, Fault> {
    ctx.need_root("look at this machine")?;
    let fault = |e: identity::IdentityError| e.fault("cannot record what this machine is");
    if let Some(host) = identity::host_id(&ctx.host).map_err(fault)? {
        let marks = identity::look_at_machine(&ctx.host, host);
        identity::note_machine(&ctx.host, &marks).map_err(fault)?;
    }
    Ok(Exit::Ok)
}

pub(super) async fn reset(ctx: &CommandContext, args: &IdentityResetArgs) -> Result<Exit, Fault> {
    ctx.need_root("give this machine another identity")?;
    let _lock = ctx.lock("give this machine another identity")?;
    // A damaged one is what this may be for.
    let was = identity::host_id(&ctx.host).ok().flatten();
    let role = leftovers::role_traces(&ctx.host);
    confirm(ctx, args, was, role)?;
    let stopped = stop(ctx).await?;
    let removed = forget(ctx)?;
    let next = match role {
        true => vec![
            "pf9ctl node decommission --local (removes what is left of the copied node)",
            "pf9ctl node prep with a new token",
        ],
        false => vec!["pf9ctl node prep with a new token"],
    };
    ctx.out.show(&ResetReport {
        was,
        stopped,
        removed,
        next,
    });
    Ok(Exit::Ok)
}

fn confirm(
    ctx: &CommandContext,
    args: &IdentityResetArgs,
    was: Option<HostId>,
    role: bool,
) -> Result<(), Fault> {
    let who = was.map_or_else(|| "this machine".to_owned(), |id| format!("host {id}"));
    let node = match role {
        true => "stop the Kubernetes node that runs here, remove its certificates, ",
        false => "",
    };
    let does = format!("Stop the agent, {node}remove key, tickets and specs of {who}?");
    if args.yes {
        return Ok(());
    }
    if !ctx.out.can_ask() {
        let why = "no terminal to ask on";
        return Err(
            Fault::new(FaultCode::Usage, "this machine keeps its identity", why)
                .fix(format!("give --yes to go ahead: {does}")),
        );
    }
    if ctx.out.ask(&does) {
        return Ok(());
    }
    let what = "this machine keeps its identity";
    Err(Fault::new(
        FaultCode::Interrupted,
        what,
        "the answer was no",
    ))
}

/// No program of ours keeps acting under the other machine's identity.
async fn stop(ctx: &CommandContext) -> Result<Vec<&'static str>, Fault> {
    let fault = |e: ExecError| {
        Fault::new(
            FaultCode::Units,
            "this machine keeps its identity",
            chain(&e),
        )
    };
    let all: Vec<&'static str> = AGENT_UNITS
        .into_iter()
        .rev()
        .chain([NODELET_UNIT])
        .chain(NODE_UNITS.into_iter().rev())
        .collect();
    let names: Vec<String> = all.iter().map(|u| (*u).to_owned()).collect();
    let states = ctx.units.show(&names).await.map_err(fault)?;
    let mut stopped = Vec::new();
    for unit in all {
        if states.get(unit).is_some_and(|s| s.active.is_up()) {
            ctx.units.stop(unit).await.map_err(fault)?;
            stopped.push(unit);
        }
    }
    Ok(stopped)
}

fn forget(ctx: &CommandContext) -> Result<Vec<String>, Fault> {
    let host = &ctx.host;
    let fault = |e: &(dyn std::error::Error + 'static)| {
        Fault::new(
            FaultCode::Files,
            "the identity is not completely removed",
            chain(e),
        )
        .fix("look at the named path, then run it again")
    };
    let mut removed = Vec::new();
    let mut remove = |path: String| -> Result<(), FsError> {
        if host.found(&path)? != crate::host::fs::Found::Nothing {
            host.remove_tree(&path)?;
            removed.push(path);
        }
        Ok(())
    };
    // Certificates and kubeconfigs first: they are what reaches the other machine's cluster.
    remove(paths::KUBE_DIR.to_owned()).map_err(|e| fault(&e))?;
    for path in STATE {
        let inside = host.list(path).map_err(|e| fault(&e));
        // The directories stay with their owners.
        match inside {
            Ok(names) if !names.is_empty() => {
                for name in names {
                    remove(format!("{path}/{name}")).map_err(|e| fault(&e))?;
                }
            }
            Ok(_) | Err(_) if path.ends_with("hostagent") || path.ends_with("comms") => {}
            Ok(_) | Err(_) => remove(path.to_owned()).map_err(|e| fault(&e))?,
        }
    }
    // What a prep-node that was interrupted kept is the other machine's as well, and would come back.
    Before::forget(host).map_err(|e| fault(&e))?;
    identity::remove(host).map_err(|e| fault(&e))?;
    removed.push("/etc/pf9: key, certificate, host id, trust".to_owned());
    Ok(removed)
}

impl Show for IdentityReport {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        let host = self
            .host_id
            .map_or_else(|| "none".to_owned(), |id| id.to_string());
        screen.row("host", Ink::Plain, &host, width);
        let bound = match self.bound_to.as_slice() {
            [] => "nothing: this machine has no identifying marks".to_owned(),
            parts => parts.join(", "),
        };
        screen.row("bound to", Ink::Plain, &bound, width);
        match &self.copy {
            None => screen.row("machine", Ink::Good, "no sign of a copy", width),
            Some(fault) => {
                screen.row(
                    "machine",
                    Ink::Bad,
                    &format!("{}: {}", fault.what, fault.why),
                    width,
                );
                screen.row("what to do", Ink::Plain, &fault.fix, width);
            }
        }
        if let Some(trust) = &self.trust {
            screen.row("trusts keys", Ink::Plain, &trust.keys.join(", "), width);
            let short: Vec<String> = trust.authorities.iter().map(|a| a.short()).collect();
            screen.row("authorities", Ink::Plain, &short.join(", "), width);
        }
        screen.gap();
        screen
    }
}

impl Show for ResetReport {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        screen.line([
            (Ink::Plain, "  ".into()),
            (Ink::GoodBlock, " RESET ".into()),
            (Ink::Bold, "  this machine is no longer a host".into()),
        ]);
        screen.gap();
        for unit in &self.stopped {
            screen.row("stopped", Ink::Plain, unit, width);
        }
        for path in &self.removed {
            screen.row("removed", Ink::Plain, path, width);
        }
        for next in &self.next {
            screen.row("next", Ink::Plain, next, width);
        }
        screen.gap();
        screen
    }
}
