//! `etcd list`: every backup on this master.

use clap::Parser;
use serde::Serialize;

use super::super::context::Context;
use super::super::output::{Ink, Screen, Show};
use super::super::words::{ago, bytes};
use crate::app::Exit;
use crate::model::{BackupInfo, Fault, Timestamp};

#[derive(Debug, Parser)]
pub(in super::super) struct ListArgs {
    /// One JSON value instead of a table.
    #[arg(long)]
    pub(in super::super) json: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct List {
    taken_at: Timestamp,
    backups: Vec<BackupInfo>,
}

pub(super) async fn run(ctx: &Context) -> Result<Exit, Fault> {
    let mut view = super::view(ctx, "cannot show the backups").await?;
    view.backups.reverse();
    ctx.out.show(&List {
        taken_at: ctx.now(),
        backups: view.backups,
    });
    Ok(Exit::Ok)
}

impl Show for List {
    fn screen(&self, _width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        for backup in &self.backups {
            let age = ago(self.taken_at, backup.taken_at);
            let text = format!(
                "  {:<32} {:>10}  {:>9} keys  {age}",
                backup.name,
                bytes(backup.sealed_bytes),
                backup.keys
            );
            screen.line([(Ink::Plain, text)]);
        }
        if self.backups.is_empty() {
            screen.line([(Ink::Warn, "  there is no backup".to_owned())]);
        }
        screen.gap();
        screen
    }
}
