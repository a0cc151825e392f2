//! `status`: one report of everything a person asks first, gathered from the daemons that answer.
//!
//! hostagent knows most; comms knows the tunnel; systemd knows who runs. Each may be silent: then
//! the report says so and shows the rest. nodelet is asked only when it runs already, so that
//! looking does not start anything.
//!
//! | file | holds |
//! |---|---|
//! | `used` | what is ours on the disks |
//! | `rows` | rows of the screen that are lists; the screen itself is `status_screen` |

pub(super) mod rows;
pub(super) mod used;

use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::StatusArgs;
use super::context::{AGENT_UNITS, CommandContext, MAKE_HOST, NO_HOST, NODE_UNITS, NODELET_UNIT};
use crate::agent;
use crate::app::{Config, Exit};
use crate::host::fs::Found;
use crate::host::ours::units;
use crate::host::units::{Active, UnitState};
use crate::identity;
use crate::local::LocalError;
use crate::model::{
    AgentStatus, Expiry, Fault, FaultCode, Generation, HostId, HostStatus, LinkChange, NodeState,
    NodeStatus, Pressure, Role, TimeKeeping, Timestamp, TunnelState, TunnelStatus, paths,
};
use crate::nodelet::plan::{PlanWords, StepWords};

/// Version of the report document.
pub(super) const REPORT_SCHEMA: u32 = 1;
/// How often `--watch` looks.
const WATCH: Duration = Duration::from_secs(1);
/// How often it asks what differs.
const DRIFT_EVERY: Duration = Duration::from_secs(15);

/// Everything a person asks first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct StatusReport {
    /// [`REPORT_SCHEMA`].
    pub(super) schema: u32,
    /// When it was gathered.
    pub(super) taken_at: Timestamp,
    /// The one word.
    pub(super) state: Overall,
    /// Why it is not good, what to do, when the next try is.
    pub(super) reason: Option<Fault>,
    /// This machine.
    pub(super) host_name: String,
    /// Who it is to the plane.
    pub(super) host_id: Option<HostId>,
    /// Version of this program.
    pub(super) version: &'static str,
    /// The version that is ordered, and how far that is.
    pub(super) change: AgentStatus,
    /// Our daemons.
    pub(super) agent: Vec<UnitReport>,
    /// The tunnel, if comms answers.
    pub(super) tunnel: Option<TunnelStatus>,
    /// When the plane last took a status.
    pub(super) acknowledged_at: Option<Timestamp>,
    /// The newest spec that was accepted.
    pub(super) generation: Option<Generation>,
    /// The newest document that was refused, and why.
    pub(super) refused: Option<Fault>,
    /// A stack on its way.
    pub(super) download: Option<crate::model::DownloadStatus>,
    /// The role.
    pub(super) node: Option<NodeStatus>,
    /// The node's services.
    pub(super) services: Vec<UnitReport>,
    /// File systems that matter.
    pub(super) disks: Vec<crate::model::DiskHealth>,
    /// How long programs waited for what is scarce, if hostagent answers.
    pub(super) pressure: Option<Pressure>,
    /// What keeps the clock, if hostagent answers.
    pub(super) time: Option<TimeKeeping>,
    /// What changed of the machine's interfaces lately.
    pub(super) link_changes: Vec<LinkChange>,
    /// What is ours on them.
    pub(super) used: Vec<used::Used>,
    /// What is not as it should be, where `--drift` asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) drift: Option<Vec<StepWords>>,
    /// When certificates end: the tunnel's, and the node's own.
    pub(super) certificates: Vec<Expiry>,
    /// What is wrong with the machine itself, and certificates that are not renewed.
    pub(super) warnings: Vec<Fault>,
}

/// The one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Overall {
    /// prep-node has not been run.
    NotPrepared,
    /// A daemon of ours does not run.
    AgentDown,
    /// The plane cannot be reached; the node continues by itself.
    Offline,
    /// A host without a role.
    Idle,
    /// Everything is as the plane wants it.
    Ok,
    /// Work is under way.
    Converging,
    /// A step failed and is tried again soon.
    Retrying,
    /// It failed too often; a person is needed.
    Failed,
    /// Somebody ordered that nothing is repaired or changed for a time.
    Maintenance,
}

/// One unit, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct UnitReport {
    /// e.g. `comms`.
    pub(super) name: String,
    /// e.g. `pf9-comms.service`.
    pub(super) unit: String,
    /// It does what it should: runs, or waits for its socket.
    pub(super) good: bool,
    /// e.g. `running`, `failed (exit-code)`.
    pub(super) state: String,
    /// Automatic restarts.
    pub(super) restarts: u32,
}

pub(super) async fn run(ctx: &CommandContext, args: &StatusArgs) -> Result<Exit, Fault> {
    if args.drift {
        ctx.need_root("ask nodelet what differs")?;
    }
    let mut asked: Option<(Instant, Result<PlanWords, Fault>)> = None;
    if !args.watch {
        let mut report = gather(ctx).await;
        drift(ctx, args, &mut report, &mut asked).await;
        ctx.out.show(&report);
        return Ok(report.state.exit());
    }
    ctx.out.live(true);
    loop {
        let mut report = gather(ctx).await;
        tokio::select! {
            biased;
            // cancel-safe: a question that nobody waits for changes nothing
            () = drift(ctx, args, &mut report, &mut asked) => {}
            () = ctx.stop.cancelled() => break,
        }
        ctx.out.repaint(&report);
        tokio::select! {
            // cancel-safe: both are
            () = ctx.stop.cancelled() => break,
            () = tokio::time::sleep(WATCH) => {}
        }
    }
    ctx.out.live(false);
    Ok(Exit::Ok)
}

/// What nodelet would do now. It looks at everything for it: a screen that stays has an answer that is not quite new.
async fn drift(
    ctx: &CommandContext,
    args: &StatusArgs,
    report: &mut StatusReport,
    asked: &mut Option<(Instant, Result<PlanWords, Fault>)>,
) {
    if !args.drift {
        return;
    }
    let old = asked
        .as_ref()
        .is_none_or(|(at, _)| at.elapsed() >= DRIFT_EVERY);
    if old {
        *asked = Some((
            Instant::now(),
            super::plan::ask(ctx, "cannot show what differs").await,
        ));
    }
    match asked {
        Some((_, Ok(plan))) => report.drift = Some(plan.steps.clone()),
        Some((_, Err(fault))) => report.warnings.push(fault.clone()),
        None => {}
    }
}

/// Asks everybody, and looks at the machine's files while they answer: systemctl is a process that starts.
pub(super) async fn gather(ctx: &CommandContext) -> StatusReport {
    let ((daemons, services, systemd), status, tunnel, files) = tokio::join!(
        units(ctx),
        ctx.get::<HostStatus>(paths::HOSTAGENT_SOCKET, "/v1/status"),
        ctx.get::<TunnelStatus>(paths::COMMS_SOCKET, "/v1/status"),
        async { Files::look(ctx) },
    );
    let nodelet_runs = daemons
        .iter()
        .any(|u| u.unit == NODELET_UNIT && u.state == "running");
    let node = match &status {
        Ok(status) => status.node.clone(),
        Err(_) if nodelet_runs => ctx
            .get::<NodeStatus>(paths::NODELET_SOCKET, "/v1/status")
            .await
            .ok(),
        Err(_) => None,
    };
    let mut report = StatusReport {
        schema: REPORT_SCHEMA,
        taken_at: ctx.now(),
        state: Overall::Ok,
        reason: None,
        host_name: host_name(ctx),
        host_id: files.host_id.as_ref().ok().copied().flatten(),
        version: crate::model::document::AGENT_VERSION,
        change: match &status {
            Ok(status) => status.agent.clone(),
            // What is on the disk says it also while hostagent is restarted.
            Err(_) => agent::status(&ctx.host, None, None),
        },
        agent: daemons,
        tunnel: tunnel.as_ref().ok().cloned(),
        acknowledged_at: None,
        generation: None,
        refused: None,
        download: None,
        node,
        services,
        disks: Vec::new(),
        pressure: None,
        time: None,
        link_changes: Vec::new(),
        used: files.used,
        drift: None,
        certificates: Vec::new(),
        warnings: Vec::new(),
    };
    if let Ok(status) = &status {
        report.acknowledged_at = status.acknowledged_at;
        report.generation = Some(status.accepted_generation);
        report.refused.clone_from(&status.refused);
        report.download.clone_from(&status.download);
        report.disks.clone_from(&status.health.disks);
        report.pressure = status.health.pressure;
        report.time.clone_from(&status.health.time);
        report.link_changes.clone_from(&status.health.link_changes);
        report.warnings.clone_from(&status.health.warnings);
    }
    certificates(&mut report, status.as_ref().ok());
    for fault in files.faults {
        if report.warnings.iter().all(|w| w.code != fault.code) {
            report.warnings.push(fault);
        }
    }
    let (config, enrolled) = (files.config, files.enrolled);
    let identity = files
        .host_id
        .map_err(|e| e.fault("cannot read this host's identity"));
    let seen = StatusSeen {
        enrolled,
        identity: identity.err(),
        no_tunnel: no_tunnel(ctx, config.as_ref().ok(), &report.agent),
        leaves: ctx.uid == 0 && ctx.host.at(paths::LOCAL_ORDER).exists(),
        config: config.err(),
        systemd,
        status: status.as_ref(),
        tunnel: tunnel.as_ref(),
        may_ask: ctx.uid == 0,
    };
    (report.state, report.reason) = overall(&report, &seen);
    report
}

/// comms knows more about the tunnel's certificates, and sooner, than hostagent last read; the report follows from
/// that.
fn certificates(report: &mut StatusReport, status: Option<&HostStatus>) {
    let now = report.taken_at;
    let node = report.node.iter().flat_map(|n| &n.certificates);
    let told = status.map(|s| s.certificates.clone()).unwrap_or_default();
    // Why one of the node's cannot be had is known where it is asked for.
    let of_node = |certificate| {
        let mut expiry = Expiry::from(certificate);
        let told = told.iter().find(|t| t.name == expiry.name);
        expiry.fault = told.and_then(|t| t.fault.clone());
        expiry
    };
    report.certificates = match &report.tunnel {
        Some(tunnel) if !tunnel.certificates.is_empty() => {
            let tunnel = tunnel.certificates.iter().cloned();
            tunnel.chain(node.map(of_node)).collect()
        }
        Some(_) | None => told,
    };
    report.warnings.retain(|w| !w.code.is_expiry());
    let new = report.certificates.iter().filter_map(|c| c.warning(now));
    report.warnings.extend(new);
}

/// What the machine's files say without anybody's help.
struct Files {
    host_id: Result<Option<HostId>, identity::IdentityError>,
    config: Result<Config, Fault>,
    used: Vec<used::Used>,
    enrolled: bool,
    /// What root sees of the identity: nodelet sleeps on a host without a role.
    faults: Vec<Fault>,
}

impl Files {
    fn look(ctx: &CommandContext) -> Self {
        let host_id = identity::host_id(&ctx.host);
        let config = Config::load(&ctx.host);
        let log = config.as_ref().map(|c| c.log.clone()).unwrap_or_default();
        let found = ctx.host.found(paths::HOST_CERT);
        let enrolled = !matches!(found, Ok(Found::Nothing));
        let own = host_id.as_ref().ok().copied().flatten();
        let own = own.filter(|_| enrolled && ctx.uid == 0);
        let faults = own.map(|host| {
            let order_key = identity::order_key::fault(&ctx.host, host);
            let machine = identity::machine_fault(&ctx.host);
            order_key.into_iter().chain(machine).collect()
        });
        Self {
            host_id,
            config,
            used: used::look(&ctx.host, &log),
            enrolled,
            faults: faults.unwrap_or_default(),
        }
    }
}

/// Why comms does not run with the files it has: the words it logs. Only root may read them all, and where it runs there is
/// nothing to say: every authority of the machine would be read for it.
fn no_tunnel(ctx: &CommandContext, config: Option<&Config>, agent: &[UnitReport]) -> Option<Fault> {
    let config = config.filter(|_| ctx.uid == 0)?;
    agent.iter().find(|u| u.unit == units::COMMS && !u.good)?;
    identity::for_tunnel(&ctx.host, &config.comms.tls).err()
}

/// What [`overall`] looks at beside the report.
struct StatusSeen<'a> {
    enrolled: bool,
    identity: Option<Fault>,
    config: Option<Fault>,
    /// Why comms cannot start, as far as its files tell.
    no_tunnel: Option<Fault>,
    /// Root ordered that the role goes.
    leaves: bool,
    systemd: Option<Fault>,
    status: Result<&'a HostStatus, &'a LocalError>,
    tunnel: Result<&'a TunnelStatus, &'a LocalError>,
    may_ask: bool,
}

/// The one word and its reason. What a person must see first wins: a machine that is no host, then
/// a dead agent, a node in trouble, a lost plane, and only then what is going well.
fn overall(report: &StatusReport, seen: &StatusSeen<'_>) -> (Overall, Option<Fault>) {
    if let Some(fault) = &seen.identity {
        return (Overall::AgentDown, Some(fault.clone()));
    }
    if !seen.enrolled {
        let fault = Fault::new(
            FaultCode::NotPrepared,
            NO_HOST,
            "pf9ctl node prep has not been run",
        )
        .fix(MAKE_HOST);
        return (Overall::NotPrepared, Some(fault));
    }
    if let Some(fault) = &seen.systemd {
        return (Overall::AgentDown, Some(fault.clone()));
    }
    if let Some(unit) = report.agent.iter().find(|u| !u.good) {
        // It does not start with this, so the unit's own words would only lead there.
        let why = seen.config.clone().or_else(|| match unit.unit.as_str() {
            units::COMMS => seen.no_tunnel.clone(),
            units::HOSTAGENT => seen.leaves.then(|| unfinished(unit)),
            _ => None,
        });
        return (Overall::AgentDown, why.or_else(|| Some(down(unit))));
    }
    let status = match seen.status {
        Ok(status) => status,
        Err(error) => return (Overall::AgentDown, Some(silent("hostagent", error, seen))),
    };
    // Whatever the node says, it is not this machine's to do.
    if let Some(fault) = seen.tunnel.ok().and_then(copied) {
        return (Overall::Failed, Some(fault));
    }
    match status.state {
        NodeState::Retrying => return (Overall::Retrying, status.reason.clone()),
        NodeState::Failed => return (Overall::Failed, status.reason.clone()),
        NodeState::Ok | NodeState::Converging | NodeState::Maintenance => {}
    }
    match seen.tunnel {
        Err(error) => return (Overall::AgentDown, Some(silent("comms", error, seen))),
        Ok(tunnel) => {
            if let Some(fault) = offline(tunnel) {
                return (Overall::Offline, Some(fault));
            }
        }
    }
    match (status.state, &status.node) {
        (NodeState::Ok, None) => (Overall::Idle, None),
        (NodeState::Ok, Some(node)) if node.role == Role::None => (Overall::Idle, None),
        (NodeState::Ok, Some(_)) => (Overall::Ok, None),
        (NodeState::Maintenance, _) => (Overall::Maintenance, status.reason.clone()),
        (NodeState::Converging | NodeState::Retrying | NodeState::Failed, _) => {
            (Overall::Converging, status.reason.clone())
        }
    }
}

/// The plane refuses this machine: it is a copy of its host.
fn copied(tunnel: &TunnelStatus) -> Option<Fault> {
    let said = tunnel
        .last_fault
        .as_ref()
        .filter(|f| f.code == FaultCode::IdentityCopied);
    match tunnel.state {
        TunnelState::Connected { .. } => None,
        TunnelState::Connecting | TunnelState::NotEnrolled | TunnelState::Waiting { .. } => {
            said.cloned()
        }
    }
}

fn offline(tunnel: &TunnelStatus) -> Option<Fault> {
    let (code, why) = match &tunnel.last_fault {
        Some(fault) => (fault.code, format!("{}: {}", fault.what, fault.why)),
        None => (
            FaultCode::PlaneUnreachable,
            "no connection was made yet".to_owned(),
        ),
    };
    let fault = Fault::new(code, "the plane cannot be reached", why);
    let fix = match &tunnel.last_fault {
        Some(f) if !f.fix.is_empty() => f.fix.clone(),
        _ => "the node keeps running meanwhile; check network and plane".to_owned(),
    };
    match tunnel.state {
        TunnelState::Connected { .. } => None,
        TunnelState::Connecting | TunnelState::NotEnrolled => Some(fault.fix(fix)),
        TunnelState::Waiting { next_try } => Some(fault.fix(fix).next_try(next_try)),
    }
}

fn down(unit: &UnitReport) -> Fault {
    Fault::new(
        FaultCode::AgentDown,
        format!("{} does not run", unit.name),
        format!("{} is {}", unit.unit, unit.state),
    )
    .fix(format!(
        "journalctl -n 30 -u {u}; then systemctl restart {u}; the node itself keeps running",
        u = unit.unit
    ))
}

/// `decommission-node` stops hostagent, and was interrupted before its end.
fn unfinished(unit: &UnitReport) -> Fault {
    Fault::new(
        FaultCode::DecommissionUnfinished,
        "this machine is being decommissioned, and that has not finished",
        format!(
            "root ordered the removal of the role, and {} is {}",
            unit.unit, unit.state
        ),
    )
    .fix(format!(
        "pf9ctl node decommission again; to be a host again: systemctl enable --now {}, then \
         attach it on the plane",
        unit.unit
    ))
}

fn silent(name: &str, error: &LocalError, seen: &StatusSeen<'_>) -> Fault {
    let fault = error.fault(&format!("{name} does not answer"));
    if seen.may_ask {
        return fault.fix(format!("journalctl -n 30 -u pf9-{name}"));
    }
    fault.fix("only root and the group pf9 may ask: use sudo")
}

async fn units(ctx: &CommandContext) -> (Vec<UnitReport>, Vec<UnitReport>, Option<Fault>) {
    let names: Vec<String> = AGENT_UNITS
        .iter()
        .chain([&NODELET_UNIT])
        .chain(&NODE_UNITS)
        .map(|u| (*u).to_owned())
        .collect();
    let all = match ctx.units.show(&names).await {
        Ok(all) => all,
        Err(e) => {
            let why = crate::telemetry::chain(&e);
            let fault = Fault::new(FaultCode::SystemdSilent, "cannot ask systemd", why);
            return (Vec::new(), Vec::new(), Some(fault));
        }
    };
    let listening = all
        .get(units::NODELET_SOCKET)
        .is_some_and(|s| s.active.is_up());
    let agent = [units::COMMS, units::HOSTAGENT, NODELET_UNIT]
        .iter()
        .filter_map(|u| {
            let mut report = unit_report(u, all.get(*u)?);
            // Started by its socket, and ended when idle.
            if *u == NODELET_UNIT && !report.good && listening && report.state == "stopped" {
                report.good = true;
                "idle".clone_into(&mut report.state);
            }
            Some(report)
        })
        .collect();
    let services = NODE_UNITS
        .iter()
        .filter_map(|u| Some((u, all.get(*u)?)))
        .filter(|(_, state)| state.loaded)
        .map(|(u, state)| unit_report(u, state))
        .collect();
    (agent, services, None)
}

fn unit_report(unit: &str, state: &UnitState) -> UnitReport {
    let name = match unit {
        NODELET_UNIT => "nodelet",
        other => other.trim_start_matches("pf9-"),
    };
    let name = name.split('.').next().unwrap_or(name);
    let words = if !state.loaded {
        "not installed".to_owned()
    } else {
        match state.active {
            Active::Active | Active::Reloading => match state.sub.as_str() {
                "" => "running".to_owned(),
                "exited" => "done".to_owned(),
                sub => sub.to_owned(),
            },
            Active::Activating => format!("starting ({})", state.sub),
            Active::Deactivating => "stopping".to_owned(),
            Active::Inactive => "stopped".to_owned(),
            Active::Failed => format!("failed ({})", state.result),
            Active::Other => state.sub.clone(),
        }
    };
    UnitReport {
        name: name.to_owned(),
        unit: unit.to_owned(),
        good: state.active.is_up(),
        state: words,
        restarts: state.restarts,
    }
}

pub(super) fn host_name(ctx: &CommandContext) -> String {
    const NAME_MAX: u64 = 4096;
    let text = ctx.host.read_text("/proc/sys/kernel/hostname", NAME_MAX);
    let text = text.ok().flatten().unwrap_or_default();
    text.trim().to_owned()
}

// === impl Overall ===

impl Overall {
    /// The word in documents.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NotPrepared => "not prepared",
            Self::AgentDown => "agent down",
            Self::Offline => "offline",
            Self::Idle => "idle",
            Self::Ok => "ok",
            Self::Converging => "converging",
            Self::Retrying => "retrying",
            Self::Failed => "failed",
            Self::Maintenance => "maintenance",
        }
    }

    /// 0: nothing is wrong. 69: a daemon or the plane is silent. 1: anything else.
    pub(super) fn exit(self) -> Exit {
        match self {
            Self::Ok | Self::Idle | Self::Converging | Self::Maintenance => Exit::Ok,
            Self::AgentDown | Self::Offline => Exit::Unavailable,
            Self::NotPrepared | Self::Retrying | Self::Failed => Exit::Failed,
        }
    }
}
