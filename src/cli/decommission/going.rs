//! What a decommission is going to take away, looked up where it will be looked up then.

use serde::Serialize;

use super::super::args::DecommissionArgs;
use super::super::context::{AGENT_UNITS, CommandContext, NODELET_UNIT};
use super::super::leftovers;
use super::super::output::{Ink, Screen, Show};
use super::{farewell, fs_fault, unit_fault};
use crate::host::ours::units::ROLE;
use crate::model::{Fault, HostId};

/// See the module.
#[derive(Debug, Serialize)]
pub(super) struct Going {
    host_id: Option<HostId>,
    /// The machine is a node, with everything that runs and is stored there.
    role: bool,
    /// Units of ours that are stopped.
    units: Vec<String>,
    /// Files and directories; what stands in them goes as well.
    paths: Vec<String>,
    /// Links, routes, packet-filter chains, mounts, processes.
    others: Vec<String>,
    /// Tell the plane.
    tells: bool,
    /// A person's own: drop-ins for units of ours, and what is mounted over paths of ours.
    kept: Vec<String>,
}

pub(super) async fn look(
    ctx: &CommandContext,
    args: &DecommissionArgs,
    host_id: Option<HostId>,
) -> Result<Going, Fault> {
    let names = AGENT_UNITS.into_iter().chain([NODELET_UNIT]).chain(ROLE);
    let names: Vec<String> = names.map(str::to_owned).collect();
    let states = ctx.units.show(&names).await.map_err(|e| unit_fault(&e))?;
    let there = |unit: &String| {
        states
            .get(unit)
            .is_some_and(|s| s.active.is_up() || s.enabled)
    };
    let paths = leftovers::trees(&ctx.host, !args.keep_logs).map_err(|e| fs_fault(&e))?;
    let left = leftovers::left(&ctx.host, !args.keep_logs).map_err(|e| fs_fault(&e))?;
    let mut others: Vec<String> = left.into_iter().filter(|l| !paths.contains(l)).collect();
    others.extend(leftovers::network_left(&ctx.host).await);
    Ok(Going {
        host_id,
        role: leftovers::role_traces(&ctx.host),
        units: names.into_iter().filter(there).collect(),
        paths,
        others,
        tells: !args.local && host_id.is_some(),
        kept: leftovers::kept(&ctx.host).map_err(|e| fs_fault(&e))?,
    })
}

impl Show for Going {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        let who = self
            .host_id
            .map_or_else(|| "this machine".to_owned(), |id| format!("host {id}"));
        screen.line([(Ink::Bold, format!("  What goes of {who}"))]);
        screen.gap();
        let role = match self.role {
            true => "a Kubernetes node, with every pod and everything that is stored on it",
            false => "none",
        };
        screen.row(
            "role",
            if self.role { Ink::Warn } else { Ink::Plain },
            role,
            width,
        );
        let mut list = |label: &str, all: &[String]| {
            for (n, text) in all.iter().enumerate() {
                screen.row(if n == 0 { label } else { "" }, Ink::Plain, text, width);
            }
        };
        list("stopped", &self.units);
        list("removed", &self.paths);
        list("", &self.others);
        list("stays", &self.kept);
        let plane = match (self.tells, self.host_id) {
            (true, _) => "is told".to_owned(),
            (false, Some(id)) => format!(
                "is not told; {} is written, to be taken to it later",
                farewell::path(id)
            ),
            (false, None) => "has nothing to be told".to_owned(),
        };
        screen.row("the plane", Ink::Plain, &plane, width);
        screen.gap();
        screen
    }
}
