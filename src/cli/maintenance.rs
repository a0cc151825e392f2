//! `maintenance start`, `end`, `show`: for a time nothing on this host is repaired or changed. nodelet counts the
//! time; the plane is not needed.

use std::time::Duration;

use clap::{Parser, Subcommand};
use serde::Serialize;

use super::context::CommandContext;
use super::output::{Ink, Screen, Show};
use super::words::{ago, until};
use crate::app::Exit;
use crate::local::Method;
use crate::model::{
    Fault, MAINTENANCE_MAX, MaintenanceRequest, MaintenanceStatus, NodeStatus, Timestamp, paths,
};

/// nodelet notes the order and answers; systemd may have to start it first.
const ORDER: Duration = Duration::from_secs(20);
const PATH: &str = "/v1/maintenance";

#[derive(Debug, Parser)]
pub(super) struct MaintenanceArgs {
    #[command(subcommand)]
    pub(super) verb: MaintenanceVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum MaintenanceVerb {
    /// Begin: no repair, upgrade or order of the plane is carried out here until it ends. What runs keeps running.
    ///
    /// It survives reboots and ends by itself. Certificates that are due are still renewed. The role is
    /// removed only on root's order, which ends the maintenance.
    Start(StartArgs),
    /// End it, also if the plane began it.
    End(PlainArgs),
    /// Show it.
    Show(PlainArgs),
}

#[derive(Debug, Parser)]
pub(super) struct StartArgs {
    /// For how long: a number and s, m or h; at most 72h.
    #[arg(long = "for", value_name = "TIME", value_parser = length)]
    length: u32,
    /// Why, in one line; shown with this host's status.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// One JSON value instead of lines for people.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Parser)]
pub(super) struct PlainArgs {
    /// One JSON value instead of lines for people.
    #[arg(long)]
    pub(super) json: bool,
}

impl MaintenanceVerb {
    pub(super) fn json(&self) -> bool {
        match self {
            Self::Start(args) => args.json,
            Self::End(args) | Self::Show(args) => args.json,
        }
    }
}

/// What there is now.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pub(super) maintenance: Option<MaintenanceStatus>,
    #[serde(skip)]
    pub(super) now: Timestamp,
}

pub(super) async fn run(ctx: &CommandContext, verb: &MaintenanceVerb) -> Result<Exit, Fault> {
    let maintenance = match verb {
        MaintenanceVerb::Show(_) => look(ctx).await?,
        MaintenanceVerb::Start(args) => return start(ctx, args).await,
        MaintenanceVerb::End(_) => {
            ctx.need_root("end a maintenance")?;
            let was = end(ctx, "maintenance is not ended").await?;
            let words = match was {
                Some(_) => "maintenance has ended: reconciling again",
                None => "this host was not in maintenance",
            };
            ctx.out.step(Ink::Good, words);
            None
        }
    };
    ctx.out.show(&Shown {
        maintenance,
        now: ctx.now(),
    });
    Ok(Exit::Ok)
}

pub(super) async fn start(ctx: &CommandContext, args: &StartArgs) -> Result<Exit, Fault> {
    let what = "maintenance is not started";
    ctx.need_root("start a maintenance")?;
    let wanted = MaintenanceRequest {
        for_s: args.length,
        reason: args.reason.clone(),
    };
    let maintenance = send(ctx, Method::POST, &wanted, what).await?;
    tell_what_runs(ctx).await;
    ctx.out.show(&Shown {
        maintenance,
        now: ctx.now(),
    });
    Ok(Exit::Ok)
}

/// Ends it, also one of the plane; answers what there was.
pub(super) async fn end(
    ctx: &CommandContext,
    what: &str,
) -> Result<Option<MaintenanceStatus>, Fault> {
    send(ctx, Method::DELETE, &serde_json::json!({}), what).await
}

/// A step is not torn in two: it comes to its end, and nothing after it.
async fn tell_what_runs(ctx: &CommandContext) {
    let status = ctx.get::<NodeStatus>(paths::NODELET_SOCKET, "/v1/status");
    if let Ok(Some(step)) = status.await.map(|s| s.current_step) {
        let words = format!("finishes first, and nothing after it: {step}");
        ctx.out.step(Ink::Warn, &words);
    }
}

async fn look(ctx: &CommandContext) -> Result<Option<MaintenanceStatus>, Fault> {
    let what = "cannot show the maintenance";
    let client = ctx.socket(paths::NODELET_SOCKET);
    let client = client.map_err(|e| e.fault(what))?;
    client.get(PATH, ORDER).await.map_err(|e| e.fault(what))
}

async fn send(
    ctx: &CommandContext,
    method: Method,
    body: &(impl Serialize + Sync),
    what: &str,
) -> Result<Option<MaintenanceStatus>, Fault> {
    let client = ctx.socket(paths::NODELET_SOCKET);
    let client = client.map_err(|e| e.fault(what))?;
    let sent = client
        .send::<_, Option<MaintenanceStatus>>(method, PATH, body, ORDER)
        .await;
    sent.map(Option::flatten).map_err(|e| e.fault(what))
}

fn length(text: &str) -> Result<u32, String> {
    let wrong = || {
        let most = MAINTENANCE_MAX.as_secs() / 3600;
        format!("{text} is not a time: a number and s, m or h, at most {most}h")
    };
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3600),
        _ => None,
    };
    seconds
        .filter(|s| Duration::from_secs((*s).into()) <= MAINTENANCE_MAX)
        .ok_or_else(wrong)
}

impl Show for Shown {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        match &self.maintenance {
            Some(order) => row(&mut screen, order, self.now, width),
            None => screen.row("maintenance", Ink::Plain, "none", width),
        }
        screen.gap();
        screen
    }
}

/// The maintenance as one row, for the screen of `status` as well.
pub(super) fn row(screen: &mut Screen, order: &MaintenanceStatus, now: Timestamp, width: usize) {
    let text = format!(
        "ends {} · ordered by {} {} · {}",
        until(now, order.until),
        order.by,
        ago(now, order.since),
        order.reason
    );
    screen.row("maintenance", Ink::Warn, &text, width);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_with_a_unit_and_has_an_end() {
        assert_eq!(length("90s"), Ok(90));
        assert_eq!(length("30m"), Ok(1800));
        assert_eq!(length("72h"), Ok(72 * 3600));
        for wrong in ["", "h", "2", "2d", "-1h", "73h", "4294967295h", "1h30m"] {
            length(wrong).expect_err(wrong);
        }
    }
}
