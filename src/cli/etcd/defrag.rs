//! `etcd defrag`: returns the unused space of this member's database file.

use clap::Parser;

use super::super::context::CommandContext;
use crate::app::Exit;
use crate::model::Fault;

#[derive(Debug, Parser)]
pub(in super::super) struct DefragArgs {
    /// One JSON value instead of lines for people.
    #[arg(long)]
    pub(in super::super) json: bool,
}

pub(super) async fn run(ctx: &CommandContext) -> Result<Exit, Fault> {
    ctx.out
        .waiting("the member does not answer while its file is rewritten");
    let said = super::order(
        ctx,
        "defrag",
        &serde_json::json!({}),
        "defragment etcd's database",
    )
    .await?;
    Ok(super::ended(ctx, said))
}
