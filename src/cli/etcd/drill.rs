//! `etcd drill`: the newest backup, restored into an etcd of its own.

use std::path::PathBuf;

use clap::Parser;

use super::super::context::CommandContext;
use crate::app::Exit;
use crate::model::{DrillOrder, Fault, FaultCode};

#[derive(Debug, Parser)]
pub(in super::super) struct DrillArgs {
    /// A file with a private key that opens the backup (AGE-SECRET-KEY-1…); otherwise the one that the
    /// cluster's settings name, or the plane opens it.
    #[arg(long, value_name = "FILE")]
    recovery_key: Option<PathBuf>,
    /// One JSON value instead of lines for people.
    #[arg(long)]
    pub(in super::super) json: bool,
}

pub(super) async fn run(ctx: &CommandContext, args: &DrillArgs) -> Result<Exit, Fault> {
    let order = DrillOrder {
        recovery_key: args.recovery_key.as_deref().map(absolute).transpose()?,
    };
    ctx.out
        .waiting("restoring the newest backup of etcd into an etcd of its own");
    let body = serde_json::json!(order);
    let said = super::order(ctx, "drill", &body, "run a fire drill").await?;
    super::told(ctx, said);
    Ok(Exit::Ok)
}

/// nodelet works in another directory.
fn absolute(file: &std::path::Path) -> Result<String, Fault> {
    let bad = |why: String| Fault::new(FaultCode::Usage, "cannot run a fire drill", why);
    let path = std::path::absolute(file).map_err(|e| bad(e.to_string()))?;
    let text = path.into_os_string().into_string();
    text.map_err(|_| bad("the key file's path is not UTF-8".to_owned()))
}
