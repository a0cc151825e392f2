//! `phases list`, `status`, `start`, `stop`: the stages that make a host a node.

use clap::{Parser, Subcommand};
use serde::Serialize;

use super::context::{ASK, CommandContext};
use super::maintenance::{self, PlainArgs, StartArgs};
use super::output::{Ink, Screen, Show};
use super::words;
use crate::app::Exit;
use crate::local::Method;
use crate::model::{
    Fault, FaultCode, HostStatus, NodeStatus, PhaseId, PhaseState, PhaseStatus, Role, paths,
};

#[derive(Debug, Parser)]
pub(super) struct PhasesArgs {
    #[command(subcommand)]
    pub(super) verb: PhasesVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum PhasesVerb {
    /// Every phase with its order number, and which roles have it.
    List(ListArgs),
    /// How far this node is, phase by phase.
    Status(PhasesStatusArgs),
    /// Run all of them now: repair what differs. Ends a maintenance.
    Start(PlainArgs),
    /// Suspend all phases for a time: the same as maintenance start. What runs keeps running.
    ///
    /// What was installed stays until the host leaves its cluster (host detach, node leave), or until node
    /// decommission.
    Stop(StartArgs),
}

#[derive(Debug, Parser)]
pub(super) struct ListArgs {
    /// One JSON value instead of a table.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Parser)]
pub(super) struct PhasesStatusArgs {
    /// One JSON value instead of a table.
    #[arg(long)]
    pub(super) json: bool,
}

impl PhasesVerb {
    pub(super) fn json(&self) -> bool {
        match self {
            Self::List(args) => args.json,
            Self::Status(args) => args.json,
            Self::Start(args) => args.json,
            Self::Stop(args) => args.json,
        }
    }
}

#[derive(Debug, Serialize)]
struct List {
    phases: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    order: u16,
    id: PhaseId,
    name: &'static str,
    roles: Vec<Role>,
}

#[derive(Debug, Serialize)]
struct Progress {
    role: Role,
    phases: Vec<PhaseStatus>,
}

pub(super) async fn run(ctx: &CommandContext, verb: &PhasesVerb) -> Result<Exit, Fault> {
    match verb {
        PhasesVerb::List(_) => {
            let row = |id: &PhaseId| Row {
                order: id.order(),
                id: *id,
                name: id.name(),
                roles: [Role::Master, Role::Worker]
                    .into_iter()
                    .filter(|role| id.applies_to(*role))
                    .collect(),
            };
            ctx.out.show(&List {
                phases: PhaseId::ALL.iter().map(row).collect(),
            });
        }
        PhasesVerb::Status(_) => ctx.out.show(&progress(ctx).await?),
        PhasesVerb::Start(_) => ctx.out.show(&start(ctx).await?),
        PhasesVerb::Stop(args) => return maintenance::start(ctx, args).await,
    }
    Ok(Exit::Ok)
}

/// nodelet was woken.
#[derive(Debug, Serialize)]
struct Started {
    /// The host's maintenance has ended.
    maintenance_ended: bool,
}

async fn start(ctx: &CommandContext) -> Result<Started, Fault> {
    let what = "the phases are not run";
    ctx.need_root("run the phases")?;
    let maintenance_ended = maintenance::end(ctx, what).await?.is_some();
    let client = ctx
        .socket(paths::NODELET_SOCKET)
        .map_err(|e| e.fault(what))?;
    let nothing = serde_json::json!({});
    let woken = client
        .send::<_, serde_json::Value>(Method::POST, "/v1/wake", &nothing, ASK)
        .await;
    woken.map_err(|e| e.fault(what))?;
    Ok(Started { maintenance_ended })
}

impl Show for Started {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        let ended = match self.maintenance_ended {
            true => "maintenance has ended; ",
            false => "",
        };
        let text = format!(
            "{ended}nodelet looks at the node now; pf9ctl phases status shows how far it is"
        );
        screen.wrapped(0, &text, width);
        screen
    }
}

async fn progress(ctx: &CommandContext) -> Result<Progress, Fault> {
    let what = "cannot show the phases";
    let status = ctx
        .get::<HostStatus>(paths::HOSTAGENT_SOCKET, "/v1/status")
        .await
        .map_err(|e| e.fault(what))?;
    let node: Option<NodeStatus> = status.node.filter(|n| n.role != Role::None);
    let node = node.ok_or_else(|| {
        Fault::new(
            FaultCode::NotPrepared,
            what,
            "this host has no role, so it has no phases",
        )
        .fix("attach it to a cluster on the plane")
    })?;
    Ok(Progress {
        role: node.role,
        phases: node.phases,
    })
}

/// Columns.
const ORDER: usize = 5;
const NAME: usize = 44;
const STATE: usize = 16;
const TOOK: usize = 8;
/// `master, worker`.
const ROLES: usize = 14;

/// For a name, beside columns of this width.
fn name_room(width: usize, others: usize) -> usize {
    NAME.min(width.saturating_sub(ORDER + 4 + others))
}

impl Show for List {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        for row in &self.phases {
            let roles: Vec<&str> = row.roles.iter().map(|r| r.as_str()).collect();
            let lead = vec![(Ink::Dim, format!("  {:>ORDER$}  ", row.order))];
            let rest = vec![(Ink::Dim, roles.join(", "))];
            screen.cells(lead, (Ink::Plain, row.name), name_room(width, ROLES), rest);
        }
        screen.gap();
        screen
    }
}

impl Show for Progress {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        for phase in &self.phases {
            let (ink, state) = match phase.state {
                PhaseState::Running => (Ink::Good, "done"),
                PhaseState::NotStarted => (Ink::Dim, "not started"),
                PhaseState::Executing => (Ink::Warn, "under way"),
                PhaseState::Waiting => (Ink::Warn, "waits"),
                PhaseState::Failed => (Ink::Bad, "failed"),
            };
            let took = phase.took_ms.map(words::took).unwrap_or_default();
            let lead = vec![(Ink::Dim, format!("  {:>ORDER$}  ", phase.order))];
            let rest = vec![(ink, format!("{state:<STATE$}")), (Ink::Dim, took)];
            let room = name_room(width, STATE + TOOK);
            screen.cells(lead, (Ink::Plain, phase.name.as_str()), room, rest);
            if let Some(message) = &phase.message {
                let mut sub = Screen::default();
                sub.wrapped(0, message, width.saturating_sub(ORDER + 4));
                screen.indented(sub, ORDER + 4);
            }
        }
        screen.gap();
        screen
    }
}
