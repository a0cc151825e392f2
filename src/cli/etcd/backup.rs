//! `etcd backup`: one more, now.

use clap::Parser;

use super::super::context::CommandContext;
use crate::app::Exit;
use crate::model::Fault;

#[derive(Debug, Parser)]
pub(in super::super) struct BackupArgs {
    /// One JSON value instead of lines for people.
    #[arg(long)]
    pub(in super::super) json: bool,
}

pub(super) async fn run(ctx: &CommandContext) -> Result<Exit, Fault> {
    ctx.out.waiting("taking a snapshot of etcd");
    let said = super::order(ctx, "backup", &serde_json::json!({}), "make a backup").await?;
    Ok(super::ended(ctx, said))
}
