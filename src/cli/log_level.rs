//! `log-level`: how much the daemons log, for a time and without a restart; each is asked at its own socket.

use clap::{Parser, ValueEnum};
use serde::Serialize;

use super::context::{ASK, CommandContext, NODELET_UNIT};
use super::output::{Ink, Screen, Show};
use super::{logs, words};
use crate::app::Exit;
use crate::local::{LOG_LEVEL, Method};
use crate::model::{
    Fault, FaultCode, LOUD_MAX, LogLevel, LogLevelRequest, LogLevelStatus, Timestamp, paths,
};

#[derive(Debug, Parser)]
pub(super) struct LogLevelArgs {
    /// How much. Without it: what is logged now.
    #[arg(value_enum, value_name = "LEVEL")]
    level: Option<Level>,
    /// For how long: 30s, 15m, 2h; at most 24h. Then it is as configured again, and after a restart of the daemon too.
    #[arg(long = "for", value_name = "TIME", default_value = "15m", value_parser = length)]
    for_s: u32,
    /// Of this daemon alone; can be repeated. Default: all that run.
    #[arg(long = "of", value_name = "DAEMON", value_enum)]
    of: Vec<Daemon>,
    /// One JSON value instead of lines for people.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Level {
    /// Only what went wrong.
    Warn,
    /// What changed.
    Info,
    /// What a developer asks for.
    Debug,
    /// As configured (log.level).
    Usual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Daemon {
    /// The tunnel.
    Comms,
    /// Documents.
    Hostagent,
    /// What changes the machine.
    Nodelet,
}

const ALL: [Daemon; 3] = [Daemon::Comms, Daemon::Hostagent, Daemon::Nodelet];

impl Daemon {
    fn word(self) -> &'static str {
        match self {
            Self::Comms => "comms",
            Self::Hostagent => "hostagent",
            Self::Nodelet => "nodelet",
        }
    }

    fn socket(self) -> &'static str {
        match self {
            Self::Comms => paths::COMMS_SOCKET,
            Self::Hostagent => paths::HOSTAGENT_SOCKET,
            Self::Nodelet => paths::NODELET_SOCKET,
        }
    }
}

/// `30s`, `15m`, `24h`.
fn length(text: &str) -> Result<u32, String> {
    let most = LOUD_MAX.as_secs();
    let seconds = logs::ago(text)?.as_secs();
    match u32::try_from(seconds) {
        Ok(s) if s > 0 && u64::from(s) <= most => Ok(s),
        _ => Err(format!("{text:?} is not 1s to {}h", most / 3600)),
    }
}

/// What each of them logs.
#[derive(Debug, Serialize)]
struct Report {
    daemons: Vec<Row>,
    #[serde(skip)]
    now: Timestamp,
}

#[derive(Debug, Serialize)]
struct Row {
    daemon: Daemon,
    #[serde(flatten)]
    said: Said,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Said {
    Is(LogLevelStatus),
    Failed { fault: Fault },
}

pub(super) async fn run(ctx: &CommandContext, args: &LogLevelArgs) -> Result<Exit, Fault> {
    if args.level.is_some() {
        ctx.need_root("change how much is logged")?;
    }
    let mut daemons = Vec::new();
    for daemon in ALL {
        if daemon_is_meant(ctx, args, daemon).await {
            let said = match ask(ctx, args, daemon).await {
                Ok(status) => Said::Is(status),
                Err(fault) => Said::Failed { fault },
            };
            daemons.push(Row { daemon, said });
        }
    }
    let failed = |row: &&Row| matches!(row.said, Said::Failed { .. });
    let exit = match daemons.iter().filter(failed).count() {
        0 => Exit::Ok,
        n if n < daemons.len() => Exit::Partial,
        _ => {
            // Nobody answered: one line says why.
            let first = daemons.into_iter().find_map(|row| match row.said {
                Said::Failed { fault } => Some(fault),
                Said::Is(_) => None,
            });
            return first.map_or(Ok(Exit::Ok), Err);
        }
    };
    ctx.out.show(&Report {
        daemons,
        now: ctx.now(),
    });
    Ok(exit)
}

/// Without a name: nodelet only when it runs. Asking at its socket would start it.
async fn daemon_is_meant(ctx: &CommandContext, args: &LogLevelArgs, daemon: Daemon) -> bool {
    match (args.of.as_slice(), daemon) {
        ([], Daemon::Nodelet) => {
            let units = ctx.units.show(&[NODELET_UNIT.to_owned()]).await;
            units.is_ok_and(|all| all.get(NODELET_UNIT).is_some_and(|u| u.active.is_up()))
        }
        ([], Daemon::Comms | Daemon::Hostagent) => true,
        (some, daemon) => some.contains(&daemon),
    }
}

async fn ask(
    ctx: &CommandContext,
    args: &LogLevelArgs,
    daemon: Daemon,
) -> Result<LogLevelStatus, Fault> {
    let what = format!("the log level of {} is unchanged", daemon.word());
    let client = ctx.socket(daemon.socket()).map_err(|e| e.fault(&what))?;
    let level = match args.level {
        None => {
            let what = format!("the log level of {} is unknown", daemon.word());
            return client.get(LOG_LEVEL, ASK).await.map_err(|e| e.fault(&what));
        }
        Some(Level::Warn) => Some(LogLevel::Warn),
        Some(Level::Info) => Some(LogLevel::Info),
        Some(Level::Debug) => Some(LogLevel::Debug),
        Some(Level::Usual) => None,
    };
    let said = match level {
        Some(level) => {
            let wanted = LogLevelRequest {
                level,
                for_s: args.for_s,
            };
            client.send(Method::POST, LOG_LEVEL, &wanted, ASK).await
        }
        None => {
            let nothing = serde_json::json!({});
            client.send(Method::DELETE, LOG_LEVEL, &nothing, ASK).await
        }
    };
    said.map_err(|e| e.fault(&what))?
        .ok_or_else(|| Fault::new(FaultCode::LocalMalformed, what, "it answers nothing"))
}

impl Show for Report {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        for row in &self.daemons {
            let (ink, text) = match &row.said {
                Said::Failed { fault } => (Ink::Bad, fault.to_string()),
                Said::Is(LogLevelStatus {
                    level,
                    usual,
                    until: Some(until),
                }) => {
                    let when = words::until(self.now, *until);
                    (Ink::Warn, format!("{level}; {when} {usual} again"))
                }
                Said::Is(status) => (Ink::Plain, format!("{}, as configured", status.level)),
            };
            screen.row(row.daemon.word(), ink, &text, width);
        }
        screen
    }
}
