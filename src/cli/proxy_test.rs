//! `proxy test`: the way to the plane as the tunnel goes it, hop by hop.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::ProxyTestArgs;
use super::context::CommandContext;
use super::output::{Ink, Screen, Show};
use super::way::Way;
use super::words;
use crate::app::{Config, Exit};
use crate::comms::TunnelRoute;
use crate::egress::{Hop, Journey, Passed, ProxyUrl};
use crate::identity;
use crate::model::{Fault, FaultCode};

/// As long as the tunnel gives one try.
const TRY: Duration = Duration::from_secs(20);

/// Every way that was tried.
#[derive(Debug, Serialize)]
pub(super) struct TestReport {
    pub(super) proxy: Option<ProxyUrl>,
    pub(super) tries: Vec<Trial>,
}

/// One endpoint.
#[derive(Debug, Serialize)]
pub(super) struct Trial {
    pub(super) endpoint: String,
    /// The hops that went well, in their order.
    pub(super) passed: Vec<Passed>,
    /// The hop that did not.
    pub(super) failed: Option<Hop>,
    pub(super) fault: Option<Fault>,
    pub(super) took_us: u64,
}

pub(super) async fn run(ctx: &CommandContext, args: &ProxyTestArgs) -> Result<Exit, Fault> {
    // The host's key and the proxy's password are not everybody's.
    ctx.need_root("test the way to the plane")?;
    let config = Config::load(&ctx.host)?;
    let way = Way::load(ctx, &config)?;
    let tries = tokio::select! {
        // cancel-safe: a try that is dropped leaves nothing behind
        tries = try_all(ctx, args, way) => tries?,
        () = ctx.stop.cancelled() => return Err(ctx.interrupted("the test did not finish")),
    };
    let report = TestReport {
        proxy: config.comms.proxy.url,
        tries,
    };
    ctx.out.show(&report);
    let mut faults = report.tries.iter().filter_map(|t| t.fault.as_ref());
    Ok(faults.next().map_or(Exit::Ok, Exit::of))
}

async fn try_all(
    ctx: &CommandContext,
    args: &ProxyTestArgs,
    way: Way,
) -> Result<Vec<Trial>, Fault> {
    if let Some(plane) = &args.plane {
        ctx.out.waiting(&format!("trying {plane}"));
        let (began, mut journey) = (Instant::now(), Journey::default());
        let done = identity::look(plane, &way.egress, &way.tls, TRY, &mut journey).await;
        let fault = done.err().map(|e| Fault {
            what: format!("cannot connect to {plane}"),
            ..e.fault()
        });
        return Ok(vec![Trial::new(plane, began, &journey, fault)]);
    }
    let identity = identity::load(&ctx.host, &way.tls)
        .map_err(|e| e.fault("cannot test the way to the plane"))?
        .ok_or_else(|| {
            Fault::new(
                FaultCode::Usage,
                "cannot test the way to the plane",
                "this host is not enrolled, so it knows none",
            )
            .fix("name it: pf9ctl proxy test --plane https://HOST")
        })?;
    let route = TunnelRoute::new(identity, way.egress);
    let mut tries = Vec::new();
    for endpoint in route.endpoints() {
        ctx.out.waiting(&format!("trying {endpoint}"));
        let (began, mut journey) = (Instant::now(), Journey::default());
        let done = route.try_endpoint(endpoint, &mut journey).await;
        let fault = done.err().map(|e| e.fault(endpoint));
        tries.push(Trial::new(endpoint, began, &journey, fault));
    }
    Ok(tries)
}

impl Trial {
    fn new(endpoint: &str, began: Instant, journey: &Journey, fault: Option<Fault>) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            passed: journey.passed().to_vec(),
            failed: journey.at().map(|(hop, _)| hop),
            fault,
            took_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
        }
    }
}

/// Column of the times, after the longest name of a hop.
const TIME_COLUMN: usize = 20;

impl Show for TestReport {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        let proxy = match &self.proxy {
            Some(proxy) => proxy.to_string(),
            None => "none: directly to the plane".to_owned(),
        };
        screen.row("proxy", Ink::Plain, &proxy, width);
        for trial in &self.tries {
            screen.row("to", Ink::Bold, &trial.endpoint, width);
            for hop in &trial.passed {
                let name = hop.hop.to_string();
                let time = words::rtt(hop.took_us);
                screen.line([
                    (Ink::Good, "  ✓ ".into()),
                    (Ink::Plain, format!("{name:<TIME_COLUMN$}{time:>9}  ")),
                    (Ink::Dim, hop.found.clone()),
                ]);
            }
            if let Some(hop) = trial.failed {
                screen.line([(Ink::Bad, "  ✗ ".into()), (Ink::Plain, hop.to_string())]);
            }
            match &trial.fault {
                None => {
                    let time = words::rtt(trial.took_us);
                    screen.row("result", Ink::Good, &format!("good, in {time}"), width);
                }
                Some(fault) => {
                    screen.row("why", Ink::Bad, &fault.why, width);
                    screen.row("fix", Ink::Plain, &fault.fix, width);
                }
            }
        }
        screen.gap();
        screen
    }
}
