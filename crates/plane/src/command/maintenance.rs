//! `host maintenance HOST start | end`.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use super::{State, put, seconds, text};
use crate::admin;
use pf9_hostagent::model::{Fault, FaultCode, HostId, MaintenanceRequest};

#[derive(Debug, Args)]
pub(super) struct MaintenanceArgs {
    /// The host's id.
    host: HostId,
    #[command(subcommand)]
    verb: MaintenanceVerb,
}

#[derive(Debug, Subcommand)]
enum MaintenanceVerb {
    /// Begin: it is in the host's signed spec, and takes effect when the host receives it. Upgrades leave the host
    /// out meanwhile, and a detach waits. It ends after its time, by `end`, or by root of the host.
    Start {
        /// For how long: a number and s, m, h or d; at most three days.
        #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
        length: i64,
        /// Why, in one line.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        state: State,
    },
    /// End what the plane ordered. A maintenance that root of the host began stays.
    End {
        #[command(flatten)]
        state: State,
    },
}

pub(super) async fn run(args: MaintenanceArgs) -> Result<(), Fault> {
    let host = args.host;
    let path = format!("/hosts/{host}/maintenance");
    match args.verb {
        MaintenanceVerb::Start {
            length,
            reason,
            state,
        } => {
            let for_s = u32::try_from(length).map_err(|_| {
                let what = "the maintenance is not ordered";
                let why = format!("{length} s is not an allowed duration");
                Fault::new(FaultCode::Usage, what, why)
            })?;
            let body = MaintenanceRequest { for_s, reason };
            let answer = admin::ask(&state.state_dir, Method::POST, &path, &body).await?;
            let order = answer.get("maintenance").unwrap_or(&Value::Null);
            let until = text(order, "until");
            put(
                None,
                &format!("host {host} will be in maintenance until {until}; see host list\n"),
            )
        }
        MaintenanceVerb::End { state } => {
            let answer = admin::ask(&state.state_dir, Method::DELETE, &path, &Value::Null).await?;
            let ended = answer.get("ended").and_then(Value::as_bool);
            put(
                None,
                &match ended {
                    Some(true) => format!("the maintenance of host {host} is withdrawn\n"),
                    Some(false) | None => {
                        format!("the plane had ordered none for host {host}\n")
                    }
                },
            )
        }
    }
}
