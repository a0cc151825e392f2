//! `host order HOST …`, `host operations HOST`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::Value;

use super::{State, absolute, put, seconds, text};
use crate::admin;
use crate::operations::{LIFE, Wanted};
use pf9_hostagent::model::{
    CertPurpose, Fault, FaultCode, HostId, LogLevel, LogOf, OperationKind, OurUnit,
};

/// How often to check for the answer.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct OrderArgs {
    /// The host's id.
    host: HostId,
    #[command(subcommand)]
    what: OrderVerb,
    // Accepted before or after the verb, like the other two. An argument known at both places cannot be a required one.
    /// The plane's state directory.
    #[arg(long, global = true, value_name = "DIR", value_parser = absolute)]
    state_dir: Option<PathBuf>,
    /// How long it may wait for the host: a number and s or m, at most an hour.
    #[arg(long, global = true, value_parser = seconds, default_value_t = LIFE.into())]
    life: i64,
    /// Do not wait for the answer.
    #[arg(long, global = true)]
    no_wait: bool,
}

/// The closed list. Root of the host says which of them are done: /etc/pf9/operations.toml there; without that file
/// all but restart and rotate are.
#[derive(Debug, Subcommand)]
enum OrderVerb {
    /// Check that the host answers, down to nodelet.
    Ping,
    /// Take inventory and send the status now.
    ResendStatus,
    /// Check the whole node now and report what differs.
    RunChecks,
    /// Restart one of our units.
    Restart {
        /// Which.
        unit: UnitWord,
    },
    /// Renew a certificate of the node before it is due.
    Rotate {
        /// Which: its directory below /etc/pf9/kube.d/certs, e.g. kubelet/server.
        #[arg(value_parser = purpose)]
        certificate: CertPurpose,
    },
    /// Back up etcd on a master now.
    Backup,
    /// Change a program's log level for a time.
    LogLevel {
        /// Which program.
        program: ProgramWord,
        /// The level.
        level: LevelWord,
        /// For how long: a number and s, m or h; at most a day.
        #[arg(long = "for", value_name = "TIME", value_parser = seconds, default_value = "10m")]
        time: i64,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum UnitWord {
    Kubelet,
    KubeProxy,
    Containerd,
    Comms,
    Hostagent,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProgramWord {
    Hostagent,
    Nodelet,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LevelWord {
    Warn,
    Info,
    Debug,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// The host's id.
    host: HostId,
    #[command(flatten)]
    state: State,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn purpose(text: &str) -> Result<CertPurpose, String> {
    let known = CertPurpose::ALL.iter().find(|p| p.dir() == text).copied();
    known.ok_or_else(|| {
        let all: Vec<_> = CertPurpose::ALL.iter().map(|p| p.dir()).collect();
        format!("unknown name; choose one of: {}", all.join(", "))
    })
}

pub(super) fn number(value: i64, what: &str) -> Result<u32, Fault> {
    u32::try_from(value).map_err(|_| {
        let why = format!("{value} s is not a valid {what}");
        Fault::new(FaultCode::Usage, "the operation is not ordered", why)
    })
}

fn what(verb: &OrderVerb) -> Result<OperationKind, Fault> {
    Ok(match verb {
        OrderVerb::Ping => OperationKind::Ping,
        OrderVerb::ResendStatus => OperationKind::ResendStatus,
        OrderVerb::RunChecks => OperationKind::RunChecks,
        OrderVerb::Restart { unit } => OperationKind::Restart {
            unit: match unit {
                UnitWord::Kubelet => OurUnit::Kubelet,
                UnitWord::KubeProxy => OurUnit::KubeProxy,
                UnitWord::Containerd => OurUnit::Containerd,
                UnitWord::Comms => OurUnit::Comms,
                UnitWord::Hostagent => OurUnit::Hostagent,
            },
        },
        OrderVerb::Rotate { certificate } => OperationKind::Rotate {
            certificate: *certificate,
        },
        OrderVerb::Backup => OperationKind::Backup,
        OrderVerb::LogLevel {
            program,
            level,
            time,
        } => OperationKind::LogLevel {
            program: match program {
                ProgramWord::Hostagent => LogOf::Hostagent,
                ProgramWord::Nodelet => LogOf::Nodelet,
            },
            level: match level {
                LevelWord::Warn => LogLevel::Warn,
                LevelWord::Info => LogLevel::Info,
                LevelWord::Debug => LogLevel::Debug,
            },
            for_s: number(*time, "time")?,
        },
    })
}

impl OrderArgs {
    pub(super) fn dir(&self) -> Result<&Path, Fault> {
        self.state_dir.as_deref().ok_or_else(|| {
            let what = "the operation is not ordered";
            Fault::new(FaultCode::Usage, what, "--state-dir DIR is missing")
        })
    }
}

pub(super) async fn order(args: OrderArgs) -> Result<(), Fault> {
    let dir = args.dir()?;
    let path = format!("/hosts/{}/operations", args.host);
    let body = Wanted {
        what: what(&args.what)?,
        life_s: number(args.life, "life")?,
    };
    let mut row = admin::ask(dir, Method::POST, &path, &body).await?;
    let id = text(&row, "id").to_owned();
    if args.no_wait {
        return put(
            None,
            &format!("ordered: {id}; see host operations {}\n", args.host),
        );
    }
    while text(&row, "state") == "pending" {
        tokio::time::sleep(LOOK_EVERY).await;
        let all = admin::ask(dir, Method::GET, &path, &Value::Null).await?;
        let mut all = all.as_array().cloned().unwrap_or_default().into_iter();
        row = all.find(|r| text(r, "id") == id).unwrap_or_default();
    }
    match text(&row, "state") {
        "done" => put(None, &format!("{}\n", text(&row, "said"))),
        state => {
            let what = format!("{} was not done", text(&row, "what"));
            let why = match text(&row, "said") {
                "" => format!("it is {state}: the host did not answer in time"),
                said => said.to_owned(),
            };
            Err(Fault::new(FaultCode::OperationFailed, what, why))
        }
    }
}

pub(super) async fn list(args: ListArgs) -> Result<(), Fault> {
    let path = format!("/hosts/{}/operations", args.host);
    let all = admin::ask(&args.state.state_dir, Method::GET, &path, &Value::Null).await?;
    if args.json {
        return put(None, &format!("{all:#}\n"));
    }
    let mut out = String::new();
    for row in all.as_array().into_iter().flatten() {
        let (at, what, state) = (
            text(row, "orderedAt"),
            text(row, "what"),
            text(row, "state"),
        );
        let said = match text(row, "said") {
            "" => state,
            said => said,
        };
        out += &format!("{at}  {what}  {said}\n");
    }
    put(None, &out)
}
