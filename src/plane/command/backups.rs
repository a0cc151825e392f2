//! `pf9-plane cluster backups`.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use super::{State, cell, put};
use crate::model::{Fault, FaultCode};
use crate::plane::admin;
use crate::plane::backups::NewBackups;

#[derive(Debug, Args)]
pub(super) struct Backups {
    /// Name or id of the cluster.
    cluster: String,
    #[command(subcommand)]
    verb: BackupsVerb,
}

#[derive(Debug, Subcommand)]
enum BackupsVerb {
    /// Show the newest backup of each master, as the masters reported it.
    Show {
        #[command(flatten)]
        state: State,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say how masters make them. What is not named is as it is without a word: every 30 minutes,
    /// 48, 16 GiB, the agent's own directory, and the plane's key alone can open them.
    Set {
        #[command(flatten)]
        state: State,
        /// Minutes between two; 0: none by themselves.
        #[arg(long, value_name = "MINUTES")]
        every: Option<u32>,
        /// How many each master keeps.
        #[arg(long, value_name = "N")]
        keep: Option<u32>,
        /// Most bytes that they may have together on each master.
        #[arg(long, value_name = "BYTES")]
        max_bytes: Option<u64>,
        /// Another directory on the masters, e.g. a mount.
        #[arg(long, value_name = "DIR")]
        dir: Option<String>,
        /// Public half (age1…) of a key that is kept offline: it opens backups with the plane away.
        /// `pf9ctl etcd recovery-key FILE` makes one.
        #[arg(long, value_name = "age1…")]
        recovery_recipient: Option<String>,
    },
}

impl Backups {
    pub(super) async fn run(self) -> Result<(), Fault> {
        let at = format!("/clusters/{}/backups", self.cluster);
        match self.verb {
            BackupsVerb::Show { state, json } => {
                let answer = admin::ask(&state.state_dir, Method::GET, &at, &Value::Null).await?;
                let text = if json {
                    format!("{answer:#}\n")
                } else {
                    screen(&answer)
                };
                put(None, &text)
            }
            BackupsVerb::Set {
                state,
                every,
                keep,
                max_bytes,
                dir,
                recovery_recipient,
            } => {
                let wanted = NewBackups {
                    every_minutes: every,
                    keep,
                    max_bytes,
                    dir,
                    recovery_recipient,
                };
                let body = serde_json::to_value(wanted).map_err(|e| {
                    Fault::new(FaultCode::OutputFailed, "cannot ask", e.to_string())
                })?;
                let answer = admin::ask(&state.state_dir, Method::POST, &at, &body).await?;
                put(None, &format!("{:#}\n", answer["policy"]))
            }
        }
    }
}

fn screen(answer: &Value) -> String {
    let mut text = String::new();
    for master in answer["masters"].as_array().into_iter().flatten() {
        let columns = [
            "hostname",
            "last.taken_at",
            "last.name",
            "last.sealed_bytes",
            "count",
        ];
        let row: Vec<String> = columns.iter().map(|path| cell(master, path)).collect();
        text.push_str(&row.join("  "));
        text.push('\n');
        for wrong in ["stale", "failing"] {
            if let Some(why) = master[wrong]["why"].as_str() {
                text.push_str(&format!("  {wrong}: {why}\n"));
            }
        }
    }
    if text.is_empty() {
        text.push_str("no master has told of a backup\n");
    }
    text
}
