//! Everything that checks look at, gathered at once. Each part has its bound: the whole takes as long as the slowest of
//! them, which is the plane where it does not answer.

use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;

use crate::app::Config;
use crate::cli::context::CommandContext;
use crate::cli::status::{self, StatusReport};
use crate::cli::way::Way;
use crate::comms::TunnelRoute;
use crate::egress::Journey;
use crate::identity;
use crate::model::{Expiry, Fault, FaultCode, Timestamp, TunnelState, paths};
use crate::preflight::{
    AgentSeen, Check, CheckInput, CheckRule, ClockSeen, Daemons, EndpointSeen, HopSeen,
    MachineFacts, NetworkSeen, PlaneSeen, Skips, SyncTrial, Thresholds, evaluate, http_date,
};

/// Files, an overlay and a few writes. A file system that hangs never answers.
const LOCAL: Duration = Duration::from_secs(10);
/// Systemd and three daemons answer from memory; of a hanging one the check says so.
const AGENT: Duration = Duration::from_secs(10);
/// As long as nothing is wrong with it a check of this kind takes a fraction of a second.
const NETWORK: Duration = Duration::from_secs(5);

/// Parts of the check, each ready when it is.
pub(in crate::cli) type Parts<'a> = FuturesUnordered<BoxFuture<'a, Result<Vec<Check>, Fault>>>;

/// Begins to gather everything; `plane`: go there instead of to this host's own.
pub(in crate::cli) fn parts<'a>(
    ctx: &'a CommandContext,
    plane: Option<&'a str>,
    skips: &'a Skips,
) -> Parts<'a> {
    let parts = Parts::new();
    parts.push(Box::pin(machine(ctx, skips)));
    parts.push(Box::pin(disk(ctx, skips)));
    parts.push(Box::pin(async move {
        let began = Instant::now();
        let looked = tokio::time::timeout(NETWORK, NetworkSeen::look(&ctx.host, ctx.uid)).await;
        let seen = looked.unwrap_or_else(|_| NetworkSeen {
            not_seen: Some("nft did not answer".to_owned()),
            ..NetworkSeen::default()
        });
        Ok(evaluate(CheckInput::Network(&seen), skips, began.elapsed()))
    }));
    parts.push(Box::pin(async move {
        let began = Instant::now();
        let seen = match skips.all_of(|e| matches!(e.rule, CheckRule::Plane(_))) {
            true => PlaneSeen::none("left out"),
            false => reached(ctx, plane).await,
        };
        Ok(evaluate(CheckInput::Plane(&seen), skips, began.elapsed()))
    }));
    parts.push(Box::pin(async move {
        let began = Instant::now();
        let seen = agent(ctx).await;
        Ok(evaluate(CheckInput::Agent(&seen), skips, began.elapsed()))
    }));
    parts
}

async fn machine(ctx: &CommandContext, skips: &Skips) -> Result<Vec<Check>, Fault> {
    let began = Instant::now();
    let (host, uid, now) = (ctx.host.clone(), ctx.uid, ctx.now());
    let read = beside(move || MachineFacts::read(&host, uid, now)).await;
    let facts = read.unwrap_or_else(|| {
        let why = format!("a file system did not answer within {} s", LOCAL.as_secs());
        let fault = Fault::new(FaultCode::Facts, "cannot inspect this machine", why);
        Err(fault.fix("look for a mount that hangs: mount -t nfs,nfs4,fuse"))
    })?;
    Ok(evaluate(
        CheckInput::Machine(&facts),
        skips,
        began.elapsed(),
    ))
}

async fn disk(ctx: &CommandContext, skips: &Skips) -> Result<Vec<Check>, Fault> {
    let began = Instant::now();
    let (host, uid) = (ctx.host.clone(), ctx.uid);
    let trial = match skips.all_of(|e| matches!(e.rule, CheckRule::Disk(_))) {
        true => SyncTrial::NotTried("left out".to_owned()),
        false => beside(move || SyncTrial::run(&host, uid))
            .await
            .unwrap_or_else(|| SyncTrial::NotTried("a write did not finish".to_owned())),
    };
    Ok(evaluate(CheckInput::Disk(&trial), skips, began.elapsed()))
}

/// Work that waits for disks, on a thread of its own: one that never ends keeps this program from nothing.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, told) = oneshot::channel();
    // A caller that stopped waiting gets no answer.
    let thread = std::thread::Builder::new().spawn(move || drop(done.send(work())));
    thread.ok()?;
    tokio::time::timeout(LOCAL, told).await.ok()?.ok()
}

/// Goes to every endpoint at once, as the tunnel does.
async fn reached(ctx: &CommandContext, plane: Option<&str>) -> PlaneSeen {
    let config = match Config::load(&ctx.host) {
        Ok(config) => config,
        Err(_) => return PlaneSeen::none("the configuration cannot be used"),
    };
    let enrolled = ctx.host.at(paths::HOST_CERT).exists();
    match (plane, enrolled) {
        (None, false) => {
            return PlaneSeen::none(
                "this machine is not a host yet: name the plane with --plane URL",
            );
        }
        // The host's key and the proxy's password are not everybody's.
        (_, _) if ctx.uid != 0 => {
            return PlaneSeen::none("only root can connect as the tunnel does");
        }
        (Some(_), _) | (None, true) => {}
    }
    let way = match Way::load(ctx, &config) {
        Ok(way) => way,
        Err(fault) => return PlaneSeen::unusable(fault),
    };
    let longest = Duration::from_millis(Thresholds::ours().plane.try_ms);
    if let Some(plane) = plane {
        return PlaneSeen {
            endpoints: vec![unproven(plane, &way, longest).await],
            ..PlaneSeen::default()
        };
    }
    let what = "cannot connect to the plane";
    let identity = match identity::load(&ctx.host, &way.tls) {
        Ok(Some(identity)) => identity,
        Ok(None) => return PlaneSeen::none("this machine is not a host yet"),
        // What is wrong with it says the check of the identity.
        Err(e) => return PlaneSeen::unusable(e.fault(what)),
    };
    let route = TunnelRoute::new(identity, way.egress);
    let tries = route.endpoints().iter().map(async |endpoint| {
        let mut journey = Journey::default();
        let asked = route.ask_endpoint(endpoint, longest, &mut journey).await;
        let (clock, fault) = match asked {
            Ok(answer) => (
                clock(answer.sent, answer.got, answer.date.as_deref(), true),
                None,
            ),
            Err(e) => (None, Some(e.fault(endpoint))),
        };
        seen(endpoint, &journey, fault, clock)
    });
    PlaneSeen {
        endpoints: join_all(tries).await,
        ..PlaneSeen::default()
    }
}

/// A plane that this machine is no host of: up to TLS, and its clock.
async fn unproven(plane: &str, way: &Way, longest: Duration) -> EndpointSeen {
    let mut journey = Journey::default();
    let looked = identity::look_at_clock(plane, &way.egress, &way.tls, longest, &mut journey).await;
    let (clock, fault) = match looked {
        Ok(answer) => {
            let clock = answer.and_then(|a| clock(a.sent, a.got, Some(&a.date), false));
            (clock, None)
        }
        Err(e) => {
            let what = format!("cannot connect to {plane}");
            (None, Some(Fault { what, ..e.fault() }))
        }
    };
    seen(plane, &journey, fault, clock)
}

fn clock(sent: Timestamp, got: Timestamp, date: Option<&str>, proven: bool) -> Option<ClockSeen> {
    Some(ClockSeen {
        sent,
        got,
        date: http_date(date?)?,
        proven,
    })
}

fn seen(
    endpoint: &str,
    journey: &Journey,
    fault: Option<Fault>,
    clock: Option<ClockSeen>,
) -> EndpointSeen {
    let hops = journey.passed().iter().map(|hop| HopSeen {
        name: hop.hop.to_string(),
        us: hop.took_us,
        found: hop.found.clone(),
    });
    EndpointSeen {
        endpoint: endpoint.to_owned(),
        hops: hops.collect(),
        failed: fault
            .as_ref()
            .and(journey.at())
            .map(|(hop, _)| hop.to_string()),
        fault,
        clock,
    }
}

/// What the daemons, systemd and the identity's files say.
async fn agent(ctx: &CommandContext) -> AgentSeen {
    let config = Config::load(&ctx.host);
    let report = tokio::time::timeout(AGENT, status::gather(ctx)).await.ok();
    let host_id = identity::host_id(&ctx.host);
    let enrolled = ctx.host.at(paths::HOST_CERT).exists();
    let may = ctx.uid == 0;
    let what = "this host's identity cannot be used";
    let (mut broken, mut own) = (None, Vec::new());
    match &host_id {
        Err(e) => broken = Some(e.fault(what)),
        Ok(Some(host)) if enrolled && may => {
            if let Ok(config) = &config {
                match identity::for_tunnel(&ctx.host, &config.comms.tls) {
                    Ok((_, tunnel)) => own = ends(&tunnel),
                    Err(fault) => broken = Some(fault),
                }
            }
            broken = broken
                .or_else(|| identity::machine_fault(&ctx.host))
                .or_else(|| identity::order_key::fault(&ctx.host, *host));
        }
        Ok(_) => {}
    }
    let told = report.as_ref().map(|r| r.certificates.clone());
    AgentSeen {
        now: ctx.now(),
        host_id: host_id.ok().flatten().filter(|_| enrolled),
        identity: broken,
        not_read: (!may).then(|| "only root can read all of it".to_owned()),
        // The daemons know more than the files, where they answer.
        certificates: told.filter(|c| !c.is_empty()).unwrap_or(own),
        config: config.err(),
        daemons: daemons(report.as_ref()),
        connected: report
            .as_ref()
            .and_then(|r| r.tunnel.as_ref())
            .is_some_and(|t| matches!(t.state, TunnelState::Connected { .. })),
        heard: report.and_then(|r| r.acknowledged_at),
    }
}

/// When the tunnel's certificates end, by its files alone.
fn ends(tunnel: &identity::TunnelIdentity) -> Vec<Expiry> {
    let mut host = Expiry::new("host", tunnel.life.not_after);
    host.renew_at = Some(tunnel.renew_at());
    let authorities = tunnel.authorities.iter();
    let authorities = authorities.map(|life| Expiry::new("plane-ca", life.not_after));
    std::iter::once(host).chain(authorities).collect()
}

fn daemons(report: Option<&StatusReport>) -> Daemons {
    let Some(report) = report else {
        let why = format!(
            "systemd or a daemon did not answer within {} s",
            AGENT.as_secs()
        );
        let fault = Fault::new(FaultCode::SystemdSilent, "the agent does not answer", why);
        return Daemons {
            states: Vec::new(),
            fault: Some(fault.fix("systemctl status 'pf9-*'")),
        };
    };
    let down = match report.state {
        status::Overall::AgentDown => report.reason.clone(),
        status::Overall::NotPrepared
        | status::Overall::Offline
        | status::Overall::Idle
        | status::Overall::Ok
        | status::Overall::Maintenance
        | status::Overall::Converging
        | status::Overall::Retrying
        | status::Overall::Failed => None,
    };
    let states = report.agent.iter();
    Daemons {
        states: states
            .map(|u| (u.name.clone(), u.state.clone(), u.restarts))
            .collect(),
        fault: down,
    }
}
