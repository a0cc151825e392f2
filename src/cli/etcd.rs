//! `etcd`: the cluster's memory on this master. One file for each verb, its arguments with it.
//!
//! | file | holds |
//! |---|---|
//! | `status` | `etcd status`: the member, its backups, what is wrong |
//! | `list`   | `etcd list`: every backup on this master and in the archive |
//! | `backup` | `etcd backup`: one more, now |
//! | `drill`  | `etcd drill`: the newest one restored into a scratch etcd |
//! | `restore` | `etcd restore`, `etcd rejoin`: the cluster starts over from one |
//! | `defrag` | `etcd defrag`: the member's database, smaller |
//! | `alarm`  | `etcd alarm`: what is raised, and what is done about it |
//! | `verify` | `etcd verify`: whether a backup is whole, and opens |
//! | `brought` | a backup of the archive, for as long as it is looked at |
//! | `recovery_key` | `etcd recovery-key`: the key that opens backups with the plane away |

mod alarm;
mod backup;
mod brought;
mod defrag;
mod drill;
mod list;
mod recovery_key;
mod restore;
mod status;
mod verify;

use std::time::Duration;

use clap::{Parser, Subcommand};

use super::context::CommandContext;
use super::output::Ink;
use crate::app::Exit;
use crate::local::{LocalError, Method};
use crate::model::{ChoreAnswer, EtcdView, Fault, paths};

/// Longest a call that orders something waits for its answer: a little more than nodelet does.
const ORDER: Duration = Duration::from_secs(150);

#[derive(Debug, Parser)]
pub(super) struct EtcdArgs {
    #[command(subcommand)]
    pub(super) verb: EtcdVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum EtcdVerb {
    /// The member, its database and its backups; ends with 1 when something is wrong.
    Status(status::StatusArgs),
    /// Every backup on this master and in the archive, newest first.
    List(list::ListArgs),
    /// Make a backup now: taken, sealed, verified.
    Backup(backup::BackupArgs),
    /// Restore the newest backup into a separate etcd, count its keys, and remove it again.
    Drill(drill::DrillArgs),
    /// Restore the cluster from a snapshot, on this master; the others rejoin.
    Restore(restore::RestoreArgs),
    /// Put this master's data aside and join the restored cluster.
    Rejoin(restore::RejoinArgs),
    /// Defragment this member's database now, if every member is healthy.
    Defrag(defrag::DefragArgs),
    /// The alarms that are raised, and what to do; ends with 1 when there is one.
    Alarm(alarm::AlarmArgs),
    /// Check whether a backup is whole and, with a key, whether it opens and matches its manifest.
    Verify(verify::VerifyArgs),
    /// Make the key that opens backups without the plane; run it on a machine that is kept offline.
    RecoveryKey(recovery_key::RecoveryKeyArgs),
}

impl EtcdVerb {
    /// JSON is asked for.
    pub(super) fn json(&self) -> bool {
        match self {
            Self::Status(args) => args.json,
            Self::List(args) => args.json,
            Self::Backup(args) => args.json,
            Self::Drill(args) => args.json,
            Self::Restore(args) => args.json,
            Self::Rejoin(args) => args.json,
            Self::Defrag(args) => args.json,
            Self::Alarm(args) => args.json,
            Self::Verify(args) => args.json,
            Self::RecoveryKey(args) => args.json,
        }
    }
}

pub(super) async fn run(ctx: &CommandContext, verb: &EtcdVerb) -> Result<Exit, Fault> {
    match verb {
        EtcdVerb::Status(_) => status::run(ctx).await,
        EtcdVerb::List(args) => list::run(ctx, args).await,
        EtcdVerb::Backup(_) => backup::run(ctx).await,
        EtcdVerb::Drill(args) => drill::run(ctx, args).await,
        EtcdVerb::Restore(args) => restore::run(ctx, args).await,
        EtcdVerb::Rejoin(args) => restore::rejoin(ctx, args).await,
        EtcdVerb::Defrag(_) => defrag::run(ctx).await,
        EtcdVerb::Alarm(args) => alarm::run(ctx, args).await,
        EtcdVerb::Verify(args) => verify::run(ctx, args).await,
        EtcdVerb::RecoveryKey(args) => recovery_key::run(ctx, args),
    }
}

/// Says how an order ended, or that it has not.
fn ended(ctx: &CommandContext, said: serde_json::Value) -> Exit {
    match serde_json::from_value::<ChoreAnswer>(said) {
        Ok(answer) => ctx.out.step(Ink::Good, &answer.done),
        Err(_) => {
            let words = "it is under way; pf9ctl etcd status shows the result";
            ctx.out.step(Ink::Warn, words);
        }
    }
    Exit::Ok
}

/// What the keeper knows.
async fn view(ctx: &CommandContext, what: &str) -> Result<EtcdView, Fault> {
    let view = ctx.get(paths::NODELET_SOCKET, "/v1/etcd").await;
    view.map_err(|e| silent(ctx, what, &e))
}

/// Orders a chore. `None`: it is under way and takes longer.
async fn order(
    ctx: &CommandContext,
    chore: &str,
    body: &serde_json::Value,
    what: &str,
) -> Result<serde_json::Value, Fault> {
    ctx.need_root(what)?;
    let client = ctx.socket(paths::NODELET_SOCKET);
    let what = format!("cannot {what}");
    let client = client.map_err(|e| e.fault(&what))?;
    let path = format!("/v1/etcd/{chore}");
    let sent = client.send(Method::POST, &path, body, ORDER).await;
    sent.map(Option::unwrap_or_default)
        .map_err(|e| silent(ctx, &what, &e))
}

/// Shows how an order ended, or where that will be seen.
fn told(ctx: &CommandContext, said: serde_json::Value) {
    match serde_json::from_value::<ChoreAnswer>(said) {
        Ok(answer) => ctx.out.step(Ink::Good, &answer.done),
        Err(_) => {
            let words = "it is under way; pf9ctl etcd status shows the result";
            ctx.out.step(Ink::Warn, words);
        }
    }
}

/// nodelet did not answer, or refuses.
fn silent(ctx: &CommandContext, what: &str, error: &LocalError) -> Fault {
    let fault = error.fault(what);
    match error {
        LocalError::Refused { .. } => fault,
        LocalError::Unreachable { .. } if ctx.uid != 0 => {
            fault.fix("only root and the group pf9 may ask: use sudo")
        }
        LocalError::Unreachable { .. }
        | LocalError::Timeout { .. }
        | LocalError::Malformed { .. } => {
            fault.fix("systemctl status pf9-nodeletd; journalctl -n 30 -u pf9-nodeletd")
        }
    }
}
