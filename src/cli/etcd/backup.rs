//! `etcd backup`: one more, now.

use clap::Parser;

use super::super::context::Context;
use super::super::output::Ink;
use crate::app::Exit;
use crate::model::{ChoreAnswer, Fault};

#[derive(Debug, Parser)]
pub(in super::super) struct BackupArgs {
    /// One JSON value instead of lines for people.
    #[arg(long)]
    pub(in super::super) json: bool,
}

pub(super) async fn run(ctx: &Context) -> Result<Exit, Fault> {
    ctx.out.waiting("taking a snapshot of etcd");
    let said = super::order(ctx, "backup", "make a backup").await?;
    match serde_json::from_value::<ChoreAnswer>(said) {
        Ok(answer) => ctx.out.step(Ink::Good, &answer.done),
        Err(_) => {
            let words = "it is under way; pf9ctl etcd status shows how it ended";
            ctx.out.step(Ink::Warn, words);
        }
    }
    Ok(Exit::Ok)
}
