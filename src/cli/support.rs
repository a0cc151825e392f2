//! `support allow`, `withdraw`, `show`: what support may fetch from this machine. A consent for once is a file that
//! nodelet uses up with the first that it sends; a standing one is a setting, `support.logs`.

use std::time::Duration;

use clap::{Parser, Subcommand};
use serde::Serialize;

use super::context::CommandContext;
use super::logs;
use super::output::{Ink, Screen, Show};
use super::words::until;
use crate::app::{Agreed, Exit, ONCE_MAX, Once, agreed};
use crate::model::{Consent, Fault, FaultCode, Timestamp};

#[derive(Debug, Parser)]
pub(super) struct SupportArgs {
    #[command(subcommand)]
    pub(super) verb: SupportVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum SupportVerb {
    /// Let the plane fetch the components' own logs of this machine, once.
    ///
    /// These are the logs of the agent, kubelet, etcd and the runtime, without keys and passwords, and never those of
    /// containers: pf9ctl bundle --only logs --list shows which. The first request uses up the consent; unused it ends by
    /// itself. To allow every request: pf9ctl config set support.logs true.
    Allow(AllowArgs),
    /// Withdraw that consent.
    Withdraw(PlainArgs),
    /// Show what is allowed.
    Show(PlainArgs),
}

#[derive(Debug, Parser)]
pub(super) struct AllowArgs {
    /// How long it may wait for the request: a number and s, m or h; at most 24h.
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = length)]
    length: Duration,
    /// One JSON value instead of lines for people.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Parser)]
pub(super) struct PlainArgs {
    /// One JSON value instead of lines for people.
    #[arg(long)]
    json: bool,
}

impl SupportVerb {
    pub(super) fn json(&self) -> bool {
        match self {
            Self::Allow(args) => args.json,
            Self::Withdraw(args) | Self::Show(args) => args.json,
        }
    }
}

fn length(text: &str) -> Result<Duration, String> {
    let length = logs::ago(text)?;
    match Duration::try_from(length) {
        Ok(length) if !length.is_zero() && length <= ONCE_MAX => Ok(length),
        Ok(_) | Err(_) => Err(format!(
            "{text:?} is not between 1s and {}h",
            ONCE_MAX.as_secs() / 3600
        )),
    }
}

/// What is agreed to.
#[derive(Debug, Serialize)]
struct Shown {
    /// Support bundles, until it is taken back.
    bundles: bool,
    /// Logs, until it is taken back.
    logs: bool,
    /// Logs once, until then.
    logs_once_until: Option<Timestamp>,
    /// Why it is unknown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    wrong: Vec<String>,
    #[serde(skip)]
    now: Timestamp,
}

pub(super) fn run(ctx: &CommandContext, verb: &SupportVerb) -> Result<Exit, Fault> {
    match verb {
        SupportVerb::Allow(args) => {
            ctx.need_root("agree to that")?;
            Once::new(ctx.now(), args.length).save(&ctx.host)?;
        }
        SupportVerb::Withdraw(_) => {
            ctx.need_root("withdraw a consent")?;
            Once::remove(&ctx.host)?;
        }
        SupportVerb::Show(_) => ctx.need_root("show the consents")?,
    }
    ctx.out.show(&look(ctx));
    Ok(Exit::Ok)
}

fn look(ctx: &CommandContext) -> Shown {
    let now = ctx.now();
    let mut wrong = Vec::new();
    let mut standing = |to| match agreed(&ctx.host, to, now) {
        Ok(how) => how == Agreed::Standing,
        Err(fault) => {
            // A missing consent is not a fault; an unreadable one is.
            if fault.code == FaultCode::ConfigInvalid && wrong.is_empty() {
                wrong.push(fault.why);
            }
            false
        }
    };
    let (bundles, logs) = (standing(Consent::Bundle), standing(Consent::Logs));
    let once = Once::load(&ctx.host, now).unwrap_or_else(|fault| {
        wrong.push(fault.why);
        None
    });
    Shown {
        bundles,
        logs,
        logs_once_until: once.map(|once| once.until),
        wrong,
        now,
    }
}

impl Show for Shown {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        let word = |yes| if yes { "available" } else { "no" };
        screen.row("bundles", Ink::Plain, word(self.bundles), width);
        let once = self.logs_once_until.map(|at| {
            let left = until(self.now, at);
            format!("available once; expires {left}")
        });
        let logs = match (self.logs, once) {
            (true, _) => word(true).to_owned(),
            (false, Some(once)) => once,
            (false, None) => word(false).to_owned(),
        };
        screen.row("logs", Ink::Plain, &logs, width);
        for why in &self.wrong {
            screen.row("wrong", Ink::Warn, why, width);
        }
        screen.gap();
        screen
    }
}
