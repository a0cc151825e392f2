//! `prep-node`: check, enrol, start, wait for the first report to reach the plane. Undone when it fails.
//!
//! ```text
//! root ─ lock ─ arguments ─ checks ─ already a host of this plane? ──yes──┐
//!                                        │ no                             ▼
//!                              enrol ─ remember ─ save ──────► enable, start ─ wait ─ done
//!                                 ▲                                  │ any failure, any signal
//!                                 └──────────── back ◄───────────────┘
//! ```

mod fix;
mod plan;
mod wait;

use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use serde::Serialize;

use super::args::PrepArgs;
use super::before::Before;
use super::context::{AGENT_UNITS, CommandContext};
use super::output::{Ink, Screen, Show};
use super::remote;
use super::way::{Way, not_read};
use crate::app::{Config, Exit};
use crate::host::exec::{self, Cmd};
use crate::host::fs::FsError;
use crate::host::interfaces::node_facts;
use crate::host::space;
use crate::identity::order_key::{self, Had};
use crate::identity::{self, EnrolOrder, Identity};
use crate::model::{EnrolToken, Fault, FaultCode, HostId, paths};
use crate::preflight::{CheckOutcome, MachineFacts, Report, Skips};
use crate::telemetry::chain;

/// A token is about 120 bytes.
const TOKEN_MAX: u64 = 4096;
/// Name look-up, connection, TLS and one request; a plane far away takes two seconds.
const ENROL: Duration = Duration::from_secs(30);
/// Making directories and users.
const TOOL: Duration = Duration::from_secs(20);

/// What prep-node did.
#[derive(Debug, Serialize)]
pub(super) struct PrepReport {
    host_id: HostId,
    plane: String,
    /// False: it was a host of this plane before.
    enrolled: bool,
    /// Checks that a person should know about.
    warnings: Vec<String>,
    /// Round-trip time to the plane, microseconds.
    rtt_us: Option<u64>,
    took_ms: u64,
}

pub(super) async fn run(ctx: &CommandContext, args: &PrepArgs) -> Result<Exit, Fault> {
    if !args.remote.hosts.is_empty() {
        Skips::parse(&args.skips())?;
        return Box::pin(remote::prep(ctx, args)).await;
    }
    let started = Instant::now();
    ctx.need_root("prepare this machine")?;
    let _lock = ctx.lock("prepare this machine")?;
    // The configuration is the daemons' to use; a wrong one would only show after enrolment.
    let config = Config::load(&ctx.host)?;
    let way = Way::load(ctx, &config)?;
    if args.skip_connected
        && let Some(rtt_us) = wait::connected(ctx).await
        && let Some(host_id) = already(ctx, args, &way)?
    {
        let text = "already a host of this plane, and connected: nothing was done";
        ctx.out.step(Ink::Good, text);
        ctx.out.show(&PrepReport {
            host_id,
            plane: args.plane.clone(),
            enrolled: false,
            warnings: Vec::new(),
            rtt_us,
            took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
        return Ok(Exit::Ok);
    }
    if args.skip_checks {
        let text = "--skip-checks: a recommended check stops nothing in any case; skip a required \
                    one by its name, with --skip ID=REASON";
        ctx.out.step(Ink::Warn, text);
    }
    // A run that changes nothing uses no token up, and needs none.
    let token = match args.dry_run {
        true => None,
        false => Some(read_token(args)?),
    };
    if args.dry_run {
        let plan = dry_run(ctx, args, &way).await?;
        let exit = plan.refused.as_ref().map_or(Exit::Ok, |_| Exit::NotReady);
        ctx.out.show(&plan);
        return Ok(exit);
    }
    if args.fix {
        let (facts, report) = look(ctx, args)?;
        fix::put_right(ctx, args, &fix::fixes(&facts, &report)).await?;
    }
    let warnings = check(ctx, args)?;
    let installed = ctx
        .host
        .at(format!("{}/bin/pf9-comms", paths::AGENT_CURRENT))
        .exists();
    if !installed {
        return Err(Fault::new(
            FaultCode::NotInstalled,
            "cannot prepare this machine",
            "the package pf9-hostagent is not installed completely",
        )
        .fix("install it again"));
    }
    directories(ctx).await?;
    // Only what a run that was interrupted left is gone back to here: while nothing is enrolled
    // comms may renew its pair, and an older one must not take its place.
    Before::recover(&ctx.host).map_err(|e| fs_fault(&e))?;
    let ran = running(ctx).await?;
    let stage = Cell::new(Stage::Nothing);
    let Some(token) = &token else {
        return Ok(Exit::Ok);
    };
    let work = prepare(ctx, args, token, &config, &way, &stage);
    let result = tokio::select! {
        // cancel-safe: what was started is undone below
        result = work => result,
        () = ctx.stop.cancelled() => Err(ctx.interrupted("this machine is not prepared")),
    };
    match result {
        Ok(done) => {
            Before::forget(&ctx.host).map_err(|e| fs_fault(&e))?;
            ctx.out.show(&PrepReport {
                host_id: done.host_id,
                plane: args.plane.clone(),
                enrolled: done.enrolled,
                warnings,
                rtt_us: done.rtt_us,
                took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
            Ok(Exit::Ok)
        }
        Err(fault) => {
            let fault = not_read(fault, &config, |name| std::env::var(name).ok());
            undo(ctx, &ran, stage.get()).await;
            Err(fault)
        }
    }
}

/// How far it came: what has to be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was changed.
    Nothing,
    /// Units were started, with the previous identity.
    Started,
    /// A new identity is being written, and then used; with a key to order with that was made for this host, if it was.
    Enrolled(Option<HostId>),
}

struct Done {
    host_id: HostId,
    enrolled: bool,
    rtt_us: Option<u64>,
}

async fn prepare(
    ctx: &CommandContext,
    args: &PrepArgs,
    token: &EnrolToken,
    config: &Config,
    way: &Way,
    stage: &Cell<Stage>,
) -> Result<Done, Fault> {
    let (host_id, enrolled) = match already(ctx, args, way)? {
        Some(host_id) => {
            let text = format!("already host {host_id} of this plane; the token is not used");
            ctx.out.step(Ink::Good, &text);
            (host_id, false)
        }
        None => {
            let (identity, had) = enrol(ctx, args, token, way).await?;
            Before::remember(&ctx.host).map_err(|e| fs_fault(&e))?;
            let made = had.is_new().then_some(identity.host_id);
            stage.set(Stage::Enrolled(made));
            identity::save(&ctx.host, &identity, &ctx.owners)
                .map_err(|e| e.fault("cannot store the identity of this host"))?;
            order_key::accept(&ctx.host, identity.host_id, had).map_err(|e| fs_fault(&e))?;
            Before::written(&ctx.host).map_err(|e| fs_fault(&e))?;
            let text = format!("enrolled as host {}", identity.host_id);
            ctx.out.step(Ink::Good, &text);
            (identity.host_id, true)
        }
    };
    // A host that enrolled earlier reports in its own time; what the plane took lately counts.
    let lately = SignedDuration::from_secs(2 * config.hostagent.status_s.cast_signed());
    let since = match enrolled {
        true => ctx.now(),
        false => ctx.now() - lately,
    };
    if !enrolled {
        stage.set(Stage::Started);
    }
    start(ctx, enrolled).await?;
    ctx.out.step(Ink::Good, "agent started");
    let wait = wait::heard(ctx, Duration::from_secs(args.wait), since).await;
    let rtt_us = wait.map_err(|fault| match enrolled {
        true => {
            let fix = format!("{}; the next try needs a new token", fault.fix);
            fault.fix(fix)
        }
        false => fault,
    })?;
    Ok(Done {
        host_id,
        enrolled,
        rtt_us,
    })
}

fn read_token(args: &PrepArgs) -> Result<EnrolToken, Fault> {
    let bad = |why: String| {
        Fault::new(
            FaultCode::TokenMalformed,
            "cannot read the enrolment token",
            why,
        )
        .fix("give the file with the line that pf9-plane token create printed")
    };
    let path = args.token_file.as_deref().unwrap_or(Path::new("-"));
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().take(TOKEN_MAX).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|f| f.take(TOKEN_MAX).read_to_string(&mut text))
    };
    read.map_err(|e| bad(format!("{}: {e}", path.display())))?;
    text.parse()
}

fn look(ctx: &CommandContext, args: &PrepArgs) -> Result<(MachineFacts, Report), Fault> {
    let skips = Skips::parse(&args.skips())?;
    let facts = MachineFacts::read(&ctx.host, ctx.uid, ctx.now())?;
    let report = Report::of_machine(&facts, &skips);
    Ok((facts, report))
}

/// What a run would do, from the same questions that it asks.
async fn dry_run(ctx: &CommandContext, args: &PrepArgs, way: &Way) -> Result<plan::Plan, Fault> {
    let (facts, report) = look(ctx, args)?;
    let fixes = match args.fix {
        true => fix::fixes(&facts, &report),
        false => Vec::new(),
    };
    let mut left = report.clone();
    left.checks
        .retain(|c| fixes.iter().all(|f| f.name() != c.id));
    let refused = left.fault().map(|f| f.why);
    let mut steps = Vec::new();
    if refused.is_none() {
        let ran = running(ctx).await?;
        let same = already(ctx, args, way)?;
        steps.push(plan::Step::UsersAndDirectories);
        if same.is_none() {
            let had = identity::host_id(&ctx.host).ok().flatten();
            let had = args
                .host_id
                .or(had)
                .or_else(|| order_key::host_id(&ctx.host));
            if had.is_none_or(|id| !order_key::is_there(&ctx.host, id)) {
                steps.push(plan::Step::MakeOrderKey);
            }
            steps.push(plan::Step::Enrol {
                plane: args.plane.clone(),
                host_id: had,
            });
            let paths = plan::WRITES.to_vec();
            steps.push(plan::Step::Write { paths });
        }
        for unit in AGENT_UNITS {
            if !ran.enabled.contains(&unit) {
                steps.push(plan::Step::Enable { unit });
            }
            steps.push(match same {
                Some(_) => plan::Step::Start { unit },
                None => plan::Step::Restart { unit },
            });
        }
        steps.push(plan::Step::Wait { seconds: args.wait });
    }
    Ok(plan::Plan {
        refused,
        fixes,
        steps,
    })
}

fn check(ctx: &CommandContext, args: &PrepArgs) -> Result<Vec<String>, Fault> {
    let (_, report) = look(ctx, args)?;
    if let Some(fault) = report.fault() {
        for check in &report.checks {
            if check.outcome == CheckOutcome::Fail {
                let text = format!("{}: {}; {}", check.id, check.found, check.why);
                ctx.out.step(Ink::Bad, &text);
            }
        }
        return Err(fault);
    }
    let warnings: Vec<String> = report
        .checks
        .iter()
        .filter(|c| c.outcome == CheckOutcome::Warn)
        .map(|c| format!("{}: {}; {}", c.id, c.found, c.why))
        .collect();
    let text = format!("checked: {} good", report.count(CheckOutcome::Ok));
    ctx.out.step(Ink::Good, &text);
    for warning in &warnings {
        ctx.out.step(Ink::Warn, warning);
    }
    Ok(warnings)
}

/// Users and directories: the package made them, a decommission took the directories away.
async fn directories(ctx: &CommandContext) -> Result<(), Fault> {
    for tool in ["systemd-sysusers", "systemd-tmpfiles"] {
        let mut cmd = Cmd::new(exec::program(&ctx.host, tool), TOOL);
        if tool == "systemd-tmpfiles" {
            cmd = cmd.arg("--create");
        }
        exec::run(cmd.arg("pf9-hostagent.conf"))
            .await
            .map_err(|e| {
                Fault::new(
                    FaultCode::Directories,
                    "cannot create users and directories",
                    chain(&e),
                )
                .fix("install the package pf9-hostagent again")
            })?;
    }
    Ok(())
}

/// `Some` when this machine is a host of the same plane already and that may stay so.
fn already(ctx: &CommandContext, args: &PrepArgs, way: &Way) -> Result<Option<HostId>, Fault> {
    if args.force {
        return Ok(None);
    }
    // A damaged identity counts as none: enrolling again is its remedy.
    let Ok(Some(tunnel)) = identity::load(&ctx.host, &way.tls) else {
        return Ok(None);
    };
    let have = tunnel.endpoints.first().map(|e| authority(e));
    let want = authority(&args.plane);
    let other = |why: String| {
        Err(
            Fault::new(FaultCode::OtherPlane, "cannot prepare this machine", why)
                .fix("pf9ctl node decommission first, or --force to leave that plane behind"),
        )
    };
    if have.as_deref() != Some(want.as_str()) {
        let have = have.unwrap_or_default();
        return other(format!("it is a host of the plane {have}, not {want}"));
    }
    match args.host_id {
        Some(id) if id != tunnel.host_id => other(format!(
            "it is host {} of that plane, not {id}",
            tunnel.host_id
        )),
        Some(_) | None => {
            let missing = missing(ctx, tunnel.host_id);
            if let Some(what) = &missing {
                let text = format!("already host {} of this plane, but {what}", tunnel.host_id);
                ctx.out.step(Ink::Warn, &format!("{text}: it enrols again"));
            }
            Ok(missing.is_none().then_some(tunnel.host_id))
        }
    }
}

/// What of the identity, beside what the tunnel needs, an enrolment has to bring again.
fn missing(ctx: &CommandContext, host: HostId) -> Option<String> {
    match identity::trust(&ctx.host) {
        Ok(trust) if trust.is_empty() => return Some("it has no trust anchor".to_owned()),
        Ok(_) => {}
        Err(e) => return Some(chain(&e)),
    }
    order_key::load(&ctx.host, host).err().map(|e| chain(&e))
}

/// `host:port` of a URL, with the port written out.
fn authority(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest).to_lowercase();
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port {
        host
    } else {
        format!("{host}:443")
    }
}

/// Asks the plane. Nothing is written but a key for root to order with, which stays where the answer did not come.
async fn enrol(
    ctx: &CommandContext,
    args: &PrepArgs,
    token: &EnrolToken,
    way: &Way,
) -> Result<(Identity, Had), Fault> {
    // A host keeps its id: the plane knows it by that. Where its own file is lost, the key that it orders with names
    // it, or the one of an enrolment that was interrupted: another id would orphan role and workloads.
    let had = identity::host_id(&ctx.host).ok().flatten();
    let had = had.or_else(|| order_key::host_id(&ctx.host));
    let host_id = args.host_id.or(had).unwrap_or_else(HostId::random);
    ctx.out.waiting(&format!("enrolling with {}", args.plane));
    let facts = node_facts(&ctx.host).map_err(|e| fs_fault(&e))?;
    let (root, had_key) = order_key::offer(&ctx.host, host_id)?;
    if had_key == Had::Replaced {
        let text = "the order key of this host could not be used, so a new one was generated; a plane that knows \
            the host has to allow it first";
        ctx.out.step(Ink::Warn, text);
    }
    let order = EnrolOrder {
        plane: &args.plane,
        token,
        host_id,
        present: Some(&ctx.host),
        machine: identity::look_at_machine(&ctx.host, host_id),
        facts: &facts,
        root: &root,
        egress: &way.egress,
        tls: &way.tls,
        deadline: ENROL,
    };
    match identity::enrol(&order).await {
        Ok(identity) => Ok((identity, had_key)),
        Err(e) => {
            if had_key.is_new()
                && !e.may_have_arrived()
                && let Err(e) = order_key::withdraw(&ctx.host, host_id)
            {
                ctx.out.step(Ink::Bad, &chain(&e));
            }
            Err(e.fault())
        }
    }
}

/// Which of our units ran and which were enabled, to go back to.
#[derive(Debug)]
struct Ran {
    enabled: Vec<&'static str>,
    active: Vec<&'static str>,
}

async fn running(ctx: &CommandContext) -> Result<Ran, Fault> {
    let names = AGENT_UNITS.map(str::to_owned);
    let all = ctx.units.show(&names).await.map_err(|e| unit_fault(&e))?;
    let which = |wanted: fn(&crate::host::units::UnitState) -> bool| {
        AGENT_UNITS
            .into_iter()
            .filter(|u| all.get(*u).is_some_and(wanted))
            .collect()
    };
    Ok(Ran {
        enabled: which(|s| s.enabled),
        active: which(|s| s.active.is_up()),
    })
}

async fn start(ctx: &CommandContext, fresh: bool) -> Result<(), Fault> {
    for unit in AGENT_UNITS {
        ctx.out.waiting(&format!("starting {unit}"));
        let fault = |e| unit_fault(&e);
        ctx.units.enable(unit).await.map_err(fault)?;
        // A daemon that ran before has the old identity in memory.
        if fresh {
            ctx.units.restart(unit).await.map_err(fault)?;
        } else {
            ctx.units.start(unit).await.map_err(fault)?;
        }
    }
    Ok(())
}

/// Back to what was: identity, units. What cannot be undone is said, the first fault stays.
/// Units that ran before and still have their identity are not disturbed.
async fn undo(ctx: &CommandContext, ran: &Ran, stage: Stage) {
    let fresh = matches!(stage, Stage::Enrolled(_));
    let mut kept = Vec::new();
    let mut keep = |error: &(dyn std::error::Error + 'static)| kept.push(chain(error));
    let units_too = match stage {
        Stage::Nothing => false,
        Stage::Started | Stage::Enrolled(_) => true,
    };
    if units_too {
        for unit in AGENT_UNITS.into_iter().rev() {
            if !ran.enabled.contains(&unit)
                && let Err(e) = ctx.units.disable(unit).await
            {
                keep(&e);
            }
            if (fresh || !ran.active.contains(&unit))
                && let Err(e) = ctx.units.stop(unit).await
            {
                keep(&e);
            }
        }
    }
    if fresh {
        let back = Before::back(&ctx.host);
        // The plane has the key: where this machine is that host again, the next run enrols with it.
        let is = identity::host_id(&ctx.host).ok().flatten();
        let back = back.and_then(|()| match stage {
            Stage::Enrolled(Some(made)) if is != Some(made) => order_key::withdraw(&ctx.host, made),
            Stage::Enrolled(_) | Stage::Started | Stage::Nothing => Ok(()),
        });
        if let Err(e) = back {
            keep(&e);
        }
        for unit in &ran.active {
            if let Err(e) = ctx.units.start(unit).await {
                keep(&e);
            }
        }
    }
    match (kept.as_slice(), stage) {
        ([], Stage::Nothing) => {}
        ([], Stage::Started | Stage::Enrolled(_)) => {
            ctx.out
                .step(Ink::Warn, "undone: everything is as it was before");
        }
        (some, _) => {
            let text = format!("not everything could be undone: {}", some.join("; "));
            ctx.out.step(Ink::Bad, &text);
        }
    }
}

fn unit_fault(error: &exec::ExecError) -> Fault {
    Fault::new(FaultCode::Units, "cannot start the agent", chain(error))
        .fix("see systemctl status 'pf9-*' and journalctl -u 'pf9-*'")
}

fn fs_fault(error: &FsError) -> Fault {
    let code = space::code_of(&error.source, FaultCode::Files);
    Fault::new(code, "cannot prepare this machine", chain(error))
}

impl Show for PrepReport {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        screen.line([
            (Ink::Plain, "  ".into()),
            (Ink::GoodBlock, " PREPARED ".into()),
            (Ink::Bold, format!("  host {}", self.host_id)),
        ]);
        screen.gap();
        let rtt = self.rtt_us.map(super::words::rtt);
        let plane = match rtt {
            Some(rtt) => format!("{} · {rtt} away", self.plane),
            None => self.plane.clone(),
        };
        screen.row("plane", Ink::Plain, &plane, width);
        screen.row("took", Ink::Plain, &super::words::took(self.took_ms), width);
        screen.row(
            "next",
            Ink::Plain,
            "attach this host to a cluster on the plane; watch it with: pf9ctl status --watch",
            width,
        );
        screen.gap();
        screen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_are_compared_by_host_and_port() {
        let same = ["https://Plane.example", "wss://plane.example:443/v1/tunnel"];
        assert_eq!(authority(same[0]), authority(same[1]));
        assert_eq!(authority("https://[::1]:8443/"), "[::1]:8443");
        assert_eq!(authority("https://[::1]"), "[::1]:443");
        assert_ne!(authority("https://a:1"), authority("https://a:2"));
    }
}
