//! `version`: this program's, those of the daemons that run, the version that is installed and proven, and the stack.

use serde::Serialize;

use super::context::{AGENT_UNITS, CommandContext, NODELET_UNIT};
use super::output::{Ink, Screen, Show};
use crate::app::Exit;
use crate::host::proc::Proc;
use crate::model::{Fault, HostStatus, NodeStatus, StackRef, document, paths};

/// Versions of everything of ours.
#[derive(Debug, Serialize)]
pub(super) struct VersionReport {
    /// This program's version.
    client: &'static str,
    /// The one that `current` leads to.
    installed: Option<String>,
    /// The one that was proven on this machine last.
    proven: Option<String>,
    daemons: Vec<Daemon>,
    /// The stack of the node, where there is one.
    stack: Option<StackRef>,
}

/// A daemon that runs.
#[derive(Debug, Serialize)]
struct Daemon {
    name: String,
    /// The version whose program it is; unknown where that cannot be seen.
    version: Option<String>,
}

pub(super) async fn run(ctx: &CommandContext) -> Result<Exit, Fault> {
    ctx.out.show(&gather(ctx).await);
    Ok(Exit::Ok)
}

/// Asks each daemon; one that does not answer is left out.
pub(super) async fn gather(ctx: &CommandContext) -> VersionReport {
    let names: Vec<String> = AGENT_UNITS
        .iter()
        .chain([&NODELET_UNIT])
        .filter(|u| u.ends_with(".service"))
        .map(|u| (*u).to_owned())
        .collect();
    let units = ctx.units.show(&names).await.unwrap_or_default();
    let proc = Proc::new(ctx.host.clone());
    let daemons = names.iter().filter_map(|unit| {
        let pid = units.get(unit)?.main_pid?;
        let program = proc.look(pid).program;
        Some(Daemon {
            name: unit.trim_end_matches(".service").to_owned(),
            version: version_of(&program),
        })
    });
    let daemons = daemons.collect();
    let status = ctx
        .get::<HostStatus>(paths::HOSTAGENT_SOCKET, "/v1/status")
        .await;
    let stack = match status {
        Ok(status) => status.node.and_then(|n: NodeStatus| n.stack),
        Err(_) => None,
    };
    VersionReport {
        client: document::AGENT_VERSION,
        installed: link(ctx, paths::AGENT_CURRENT),
        proven: link(ctx, paths::AGENT_LAST_GOOD),
        daemons,
        stack,
    }
}

fn link(ctx: &CommandContext, path: &str) -> Option<String> {
    let to = std::fs::read_link(ctx.host.at(path)).ok()?;
    Some(to.file_name()?.to_str()?.to_owned())
}

/// `/opt/pf9/agent/0.2.0/bin/pf9-comms`, perhaps ` (deleted)` → `0.2.0`.
fn version_of(program: &str) -> Option<String> {
    let rest = program.strip_prefix(paths::AGENT_PROGRAMS)?;
    let version = rest.trim_start_matches('/').split('/').next()?;
    (!version.is_empty()).then(|| version.to_owned())
}

impl Show for VersionReport {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        let unknown = || "unknown".to_owned();
        screen.row("pf9ctl", Ink::Bold, self.client, width);
        if let Some(version) = &self.installed {
            let text = match &self.proven {
                Some(proven) if proven != version => format!("{version}; proven is {proven}"),
                Some(_) | None => version.clone(),
            };
            screen.row("installed", Ink::Plain, &text, width);
        }
        for daemon in &self.daemons {
            let version = daemon.version.clone().unwrap_or_else(unknown);
            screen.row(&daemon.name, Ink::Plain, &version, width);
        }
        if self.daemons.is_empty() {
            screen.row("daemons", Ink::Dim, "none runs", width);
        }
        if let Some(stack) = &self.stack {
            let text = format!("{} {}", stack.name, stack.version);
            screen.row("stack", Ink::Plain, &text, width);
        }
        screen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_version_is_its_directorys() {
        let of = |p: &str| version_of(p);
        assert_eq!(
            of("/opt/pf9/agent/0.2.0/bin/pf9-comms").as_deref(),
            Some("0.2.0")
        );
        assert_eq!(
            of("/opt/pf9/agent/0.2.0/bin/pf9-comms (deleted)").as_deref(),
            Some("0.2.0")
        );
        assert_eq!(of("/usr/bin/pf9-comms"), None);
    }
}
