//! `decommission-node`: the way back to a bare machine; works without the plane.
//!
//! ```text
//! hostagent stops (no new spec) ─ nodelet removes the role ─ the plane is told ─ units stop
//!      │                              └─ from the order on hostagent does not start at boot either
//!      └─ when the order cannot be given, or the role takes longer than was waited for: hostagent runs
//!         again, identity and files stay. A given order is remembered: nodelet goes on with it by itself,
//!         also over a boot, and this verb is run again for the rest
//! (what is going to go is shown before anybody is asked, and by --dry-run: `going`)
//! ─ files go ─ look again: what is left is listed, and then it did not work
//! ```
//!
//! | file | holds |
//! |---|---|
//! | here       | the way back, step by step |
//! | `going`    | what is going to go |
//! | `farewell` | what the plane is told later, where it cannot be told now |

mod farewell;
mod going;

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::args::DecommissionArgs;
use super::context::{AGENT_UNITS, CommandContext, NODELET_UNIT};
use super::leftovers;
use super::output::{Ink, Screen, Show};
use crate::app::Exit;
use crate::host::deadlines::LEAVE;
use crate::host::facts::os_release;
use crate::host::ours::paths::may_be_disk;
use crate::host::ours::units::{HOSTAGENT, NODELET_SOCKET};
use crate::local::{LocalError, Method};
use crate::model::{Fault, FaultCode, HostId, NodeState, NodeStatus, Role, paths};
use crate::telemetry::chain;

/// nodelet takes the order and answers; the work comes after.
const ORDER: Duration = Duration::from_secs(20);
/// For an order that was given: it is on the disk, and only a newer one of the plane, for another node, ends it.
const GOES_ON: &str = "nodelet continues until the role is gone (pf9ctl status shows it); then run pf9ctl \
    node decommission again for the rest, which was not touched";
/// How long nodelet may hold a question for the next change.
const POLL: Duration = Duration::from_secs(2);

/// What was done.
#[derive(Debug, Serialize)]
pub(super) struct DecommissionReport {
    host_id: Option<HostId>,
    /// The role that was removed.
    role: Option<Role>,
    /// `told`; or why not, and how it is told later.
    plane: String,
    removed: Vec<String>,
    /// Must be empty.
    left: Vec<String>,
    /// A person's own: drop-ins for units of ours, and what is mounted over paths of ours.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kept: Vec<String>,
    next: String,
}

pub(super) async fn run(ctx: &CommandContext, args: &DecommissionArgs) -> Result<Exit, Fault> {
    ctx.need_root("decommission this machine")?;
    let _lock = ctx.lock("decommission this machine")?;
    let host_id = crate::identity::host_id(&ctx.host).ok().flatten();
    if args.dry_run || !args.yes {
        let going = going::look(ctx, args, host_id).await?;
        if args.dry_run {
            ctx.unlock();
            ctx.out.show(&going);
            return Ok(Exit::Ok);
        }
        ctx.out.part(&going.screen(ctx.out.width()));
    }
    confirm(ctx, args, host_id)?;
    let role = remove_role(ctx, args).await?;
    let plane = leave(ctx, args, host_id).await;
    stop_agent(ctx).await?;
    let removed = remove_files(ctx, args)?;
    let mut left = leftovers::left(&ctx.host, !args.keep_logs).map_err(|e| fs_fault(&e))?;
    left.extend(leftovers::network_left(&ctx.host).await);
    ctx.unlock();
    let report = DecommissionReport {
        host_id,
        role,
        plane,
        removed,
        left,
        kept: leftovers::kept(&ctx.host).map_err(|e| fs_fault(&e))?,
        next: purge_command(ctx),
    };
    ctx.out.show(&report);
    if report.left.is_empty() {
        return Ok(Exit::Ok);
    }
    Ok(Exit::Failed)
}

fn confirm(
    ctx: &CommandContext,
    args: &DecommissionArgs,
    host_id: Option<HostId>,
) -> Result<(), Fault> {
    if args.yes {
        return Ok(());
    }
    let why = match (args.no_prompt, ctx.out.can_ask()) {
        (false, true) => None,
        (true, _) => Some("prompts are off (--no-prompt)"),
        (false, false) => Some("no terminal to ask on"),
    };
    if let Some(why) = why {
        let what = "cannot decommission this machine";
        return Err(Fault::new(FaultCode::Usage, what, why).fix("give --yes to go ahead"));
    }
    let who = match host_id {
        Some(id) => format!("host {id}"),
        None => "this machine".to_owned(),
    };
    let role = match leftovers::role_traces(&ctx.host) {
        true => "its Kubernetes node with everything that runs and is stored there, ",
        false => "",
    };
    let question = format!("Remove {role}identity, state and logs of {who}?");
    if ctx.out.ask(&question) {
        return Ok(());
    }
    Err(Fault::new(
        FaultCode::Interrupted,
        "this machine is not decommissioned",
        "the answer was no",
    ))
}

/// Has nodelet remove the role. Nothing else is touched before that worked.
async fn remove_role(ctx: &CommandContext, args: &DecommissionArgs) -> Result<Option<Role>, Fault> {
    let socket = ctx.host.at(paths::NODELET_SOCKET).exists();
    if !socket && !leftovers::role_traces(&ctx.host) {
        ctx.out.step(Ink::Good, "no role to remove");
        return Ok(None);
    }
    let hostagent_ran = is_up(ctx, HOSTAGENT).await;
    // From here on nodelet gets no other spec.
    if hostagent_ran {
        ctx.units
            .stop(HOSTAGENT)
            .await
            .map_err(|e| unit_fault(&e))?;
    }
    let work = order_removal(ctx, args, hostagent_ran);
    let result = tokio::select! {
        // cancel-safe: nodelet continues by itself; it is only not waited for
        result = work => result,
        () = ctx.stop.cancelled() => Err(ctx.interrupted("the role is not removed")),
    };
    if result.is_err() && hostagent_ran {
        let back = async {
            ctx.units.enable(HOSTAGENT).await?;
            ctx.units.start(HOSTAGENT).await
        };
        if let Err(e) = back.await {
            ctx.out
                .step(Ink::Bad, &format!("{HOSTAGENT}: {}", chain(&e)));
        }
    }
    result
}

async fn order_removal(
    ctx: &CommandContext,
    args: &DecommissionArgs,
    hostagent_ran: bool,
) -> Result<Option<Role>, Fault> {
    let (longest, force) = (Duration::from_secs(args.wait), args.force);
    let what = "the role could not be removed; nothing else was touched";
    if !ctx.host.at(paths::NODELET_SOCKET).exists() {
        ctx.units.start(NODELET_SOCKET).await.map_err(|e| {
            Fault::new(FaultCode::Units, what, chain(&e))
                .fix("install the package pf9-hostagent again")
        })?;
    }
    let deadline = Instant::now() + longest;
    let before: NodeStatus = ctx
        .socket(paths::NODELET_SOCKET)
        .map_err(|e| e.fault(what))?
        .get("/v1/status", ORDER)
        .await
        .map_err(|e| e.fault(what))?;
    ctx.socket(paths::NODELET_SOCKET)
        .map_err(|e| e.fault(what))?
        .send::<_, serde_json::Value>(
            Method::PUT,
            "/v1/assignment-none",
            &serde_json::json!({"force": force}),
            ORDER,
        )
        .await
        .map_err(|e| e.fault(what))?;
    // Root's order is on the disk. Were this program or the machine to end now, a boot must not bring
    // hostagent back, with a newer spec that makes the machine a node again.
    let what = "the role is not removed yet";
    if hostagent_ran {
        let disabled = ctx.units.disable(HOSTAGENT).await;
        disabled.map_err(|e| unit_fault(&e))?;
    }
    let mut last = Some(before.clone());
    loop {
        if let Some(status) = &last {
            let gone = status.role == Role::None && status.state == NodeState::Ok;
            if gone && !leftovers::role_units(&ctx.host) {
                break;
            }
            // nodelet waits for others now, perhaps for days; the command does not wait with it.
            if !force && is_held(status) {
                return Err(late(what, longest, last.as_ref()));
            }
            ctx.out.waiting(&progress(status));
        }
        if Instant::now() >= deadline {
            return Err(late(what, longest, last.as_ref()));
        }
        let revision = last.as_ref().map_or(0, |s| s.revision);
        match next_status(ctx, revision).await {
            Ok(status) => last = Some(status),
            // It may be restarting; the deadline bounds this.
            Err(_) => last = None,
        }
        tokio::time::sleep(ctx.pause).await;
    }
    let role = Some(before.role).filter(|r| *r != Role::None);
    let words = match role {
        Some(_) => "role removed",
        None => "no role to remove",
    };
    ctx.out.step(Ink::Good, words);
    Ok(role)
}

async fn next_status(ctx: &CommandContext, revision: u64) -> Result<NodeStatus, LocalError> {
    let path = format!("/v1/status?after={revision}&wait={}", POLL.as_secs());
    ctx.socket(paths::NODELET_SOCKET)?
        .get(&path, POLL + ORDER)
        .await
}

/// Others need what would go.
fn is_held(status: &NodeStatus) -> bool {
    let reason = status.reason.as_ref();
    status.role == Role::None && reason.is_some_and(|f| f.code == FaultCode::EtcdQuorum)
}

fn progress(status: &NodeStatus) -> String {
    let now = status.current_step.as_deref().unwrap_or("looking");
    // A person need not wait for the end to learn why there is none.
    match &status.reason {
        Some(fault) => format!(
            "removing the role: {now}; so far: {}: {}",
            fault.what, fault.why
        ),
        None => format!("removing the role: {now}"),
    }
}

fn late(what: &str, longest: Duration, last: Option<&NodeStatus>) -> Fault {
    let reason = last.and_then(|s| s.reason.as_ref());
    let why = match reason {
        Some(fault) => format!("{}: {}", fault.what, fault.why),
        None => format!("it did not finish within {} s", longest.as_secs()),
    };
    let fix = reason.map(|f| f.fix.clone()).filter(|f| !f.is_empty());
    let fix = fix.map_or_else(String::new, |fix| format!("{fix}; "));
    Fault::new(FaultCode::RoleStays, what, why).fix(format!("{fix}{GOES_ON}"))
}

/// Takes leave of the plane, best effort. Where that fails, root's signed word is kept, to be brought there.
async fn leave(ctx: &CommandContext, args: &DecommissionArgs, host_id: Option<HostId>) -> String {
    let Some(host) = host_id else {
        return "not told: this machine was not a host".to_owned();
    };
    let why = match args.local {
        true => "--local".to_owned(),
        false => match tell(ctx).await {
            Ok(()) => {
                ctx.out.step(Ink::Good, "the plane was told");
                return "told".to_owned();
            }
            Err(fault) => {
                ctx.out.step(Ink::Warn, &fault.to_string());
                fault.why
            }
        },
    };
    format!(
        "not told: {why}; when it is back, {}",
        later(ctx, args, host)
    )
}

/// How the plane is told later.
fn later(ctx: &CommandContext, args: &DecommissionArgs, host: HostId) -> String {
    let written = match args.no_farewell {
        true => None,
        false => match farewell::write(ctx, host) {
            Ok(file) => Some(file),
            Err(fault) => {
                ctx.out.step(Ink::Warn, &fault.to_string());
                None
            }
        },
    };
    match written {
        Some(file) => {
            let text = format!("farewell written to {file}");
            ctx.out.step(Ink::Good, &text);
            format!("take {file} to it, and run there: pf9-plane host farewell FILE")
        }
        None => format!("run there: pf9-plane host remove {host}"),
    }
}

async fn tell(ctx: &CommandContext) -> Result<(), Fault> {
    let fault = |e: LocalError| e.fault("the plane could not be told");
    ctx.out.waiting("telling the plane");
    ctx.socket(paths::PLANE_SOCKET)
        .map_err(fault)?
        .send::<_, serde_json::Value>(
            Method::POST,
            "/v1/hosts/self/leave",
            &serde_json::json!({}),
            LEAVE,
        )
        .await
        .map_err(fault)?;
    Ok(())
}

async fn stop_agent(ctx: &CommandContext) -> Result<(), Fault> {
    let names: Vec<String> = AGENT_UNITS
        .iter()
        .chain([&NODELET_UNIT])
        .map(|u| (*u).to_owned())
        .collect();
    let all = ctx.units.show(&names).await.map_err(|e| unit_fault(&e))?;
    // The last started is the first stopped; nodelet after the socket that would start it again.
    for unit in AGENT_UNITS.into_iter().rev().chain([NODELET_UNIT]) {
        // A package that is being purged has no units left.
        let Some(state) = all.get(unit).filter(|s| s.loaded) else {
            continue;
        };
        if state.enabled {
            ctx.units.disable(unit).await.map_err(|e| unit_fault(&e))?;
        }
        ctx.units.stop(unit).await.map_err(|e| unit_fault(&e))?;
        ctx.units.forget_failure(unit).await;
    }
    ctx.out.step(Ink::Good, "agent stopped and disabled");
    Ok(())
}

fn remove_files(ctx: &CommandContext, args: &DecommissionArgs) -> Result<Vec<String>, Fault> {
    let trees = leftovers::trees(&ctx.host, !args.keep_logs).map_err(|e| fs_fault(&e))?;
    let mut removed = Vec::new();
    for tree in trees {
        // Mounts of others are shown at the end.
        match ctx.host.remove_tree_around(&tree, may_be_disk) {
            Ok(mounted) if mounted.is_empty() => removed.push(tree),
            Ok(_) => {}
            Err(e) => ctx.out.step(Ink::Bad, &chain(&e)),
        }
    }
    leftovers::remove_empty_parents(&ctx.host);
    Ok(removed)
}

async fn is_up(ctx: &CommandContext, unit: &str) -> bool {
    let all = ctx.units.show(&[unit.to_owned()]).await;
    all.is_ok_and(|all| all.get(unit).is_some_and(|s| s.active.is_up()))
}

fn purge_command(ctx: &CommandContext) -> String {
    let os = os_release(&ctx.host).unwrap_or_default();
    let debian = |id: &str| matches!(id, "debian" | "ubuntu");
    if debian(&os.id) || os.like.iter().any(|l| debian(l)) {
        "apt purge pf9-hostagent".to_owned()
    } else {
        "dnf remove pf9-hostagent".to_owned()
    }
}

fn unit_fault(error: &crate::host::exec::ExecError) -> Fault {
    Fault::new(FaultCode::Units, "cannot stop the agent", chain(error))
        .fix("see systemctl status 'pf9-*', then try again")
}

fn fs_fault(error: &crate::host::fs::FsError) -> Fault {
    Fault::new(FaultCode::Files, "cannot clean this machine", chain(error))
}

impl Show for DecommissionReport {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        let (ink, word) = match self.left.is_empty() {
            true => (Ink::GoodBlock, " CLEAN "),
            false => (Ink::BadBlock, " NOT CLEAN "),
        };
        screen.gap();
        screen.line([(Ink::Plain, "  ".into()), (ink, word.into())]);
        screen.gap();
        for path in &self.removed {
            screen.row("removed", Ink::Dim, path, width);
        }
        for path in &self.left {
            screen.row("left", Ink::Bad, path, width);
        }
        for path in &self.kept {
            let text = format!("{path} is yours and is kept");
            screen.row("kept", Ink::Plain, &text, width);
        }
        screen.row("plane", Ink::Plain, &self.plane, width);
        let next = match self.left.is_empty() {
            true => format!("{} takes the package and its configuration", self.next),
            false => "look at what is left, then run this again".to_owned(),
        };
        screen.row("next", Ink::Plain, &next, width);
        screen.gap();
        screen
    }
}
