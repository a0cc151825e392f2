//! `etcd restore`: the cluster starts over from a snapshot, on this master. `etcd rejoin`: this master puts its data
//! aside and joins the one that was restored. nodelet does it, and continues with it whatever becomes of this program.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use serde::Serialize;
use uuid::Uuid;

use super::super::context::CommandContext;
use super::super::output::{Ink, Screen, Show};
use crate::app::Exit;
use crate::backup::shelf;
use crate::local::Method;
use crate::model::{Fault, FaultCode, NodeStatus, paths};
use crate::nodelet::etcd::restore::ask::{PATH, REJOIN_PATH, RestoreView};
use crate::nodelet::etcd::restore::{RestoreGoal, Source};

/// nodelet notes the order and answers; the work comes after.
const ORDER: Duration = Duration::from_secs(20);
/// Between two questions how far it is.
const POLL: Duration = Duration::from_secs(1);

#[derive(Debug, Parser)]
pub(in super::super) struct RestoreArgs {
    /// The snapshot: a file, plain or sealed, or the name of a backup, on this master or in the archive
    /// (see list).
    #[arg(value_name = "FILE", required_unless_present_any = ["show", "withdraw"])]
    file: Option<String>,
    /// The file of the recovery key that opens a sealed one; without it the plane opens it.
    #[arg(long, value_name = "KEYFILE")]
    recovery_key: Option<PathBuf>,
    /// It may be of another cluster.
    #[arg(long)]
    any_cluster: bool,
    /// Believe these as well: a file that `pf9-plane cluster backups NAME signers` wrote, kept beside the recovery
    /// key. Without it one of this cluster's masters has to have signed it, as the last spec of the plane names them.
    #[arg(long, value_name = "FILE", conflicts_with = "unsigned")]
    signers: Option<PathBuf>,
    /// Skip the signature check, for a file whose origin you know: anybody who could write there can have made it. A
    /// plain snapshot is never signed and does not name its cluster.
    #[arg(long)]
    unsigned: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Only show what is under way, and how the last one ended.
    #[arg(long, conflicts_with_all = ["file", "withdraw"])]
    show: bool,
    /// End the one that is under way, if no data were moved yet.
    #[arg(long, conflicts_with = "file")]
    withdraw: bool,
    /// One JSON value instead of lines for people.
    #[arg(long)]
    pub(in super::super) json: bool,
}

#[derive(Debug, Parser)]
pub(in super::super) struct RejoinArgs {
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// One JSON value instead of lines for people.
    #[arg(long)]
    pub(in super::super) json: bool,
}

pub(super) async fn run(ctx: &CommandContext, args: &RestoreArgs) -> Result<Exit, Fault> {
    if args.show {
        ctx.out.show(&Shown(look(ctx).await?));
        return Ok(Exit::Ok);
    }
    ctx.need_root("restore etcd")?;
    if args.withdraw {
        let view = send(ctx, Method::DELETE, PATH, &serde_json::json!({})).await?;
        ctx.out.waiting("cancelling the restore");
        return follow(ctx, &view).await;
    }
    let source = source(args)?;
    sure(
        ctx,
        args.yes,
        &format!(
            "Restore etcd from {}?{} What was written since it was taken is lost to the cluster; the present data \
             are kept aside.",
            source.file,
            match source.unsigned {
                true => " Its signature is not checked.",
                false => "",
            }
        ),
    )?;
    let view = send(ctx, Method::POST, PATH, &source).await?;
    ctx.out.waiting("checking the snapshot and making the data");
    follow(ctx, &view).await
}

pub(super) async fn rejoin(ctx: &CommandContext, args: &RejoinArgs) -> Result<Exit, Fault> {
    ctx.need_root("rejoin etcd")?;
    sure(
        ctx,
        args.yes,
        "Stop etcd and the control plane here, and join the master that is restored? The present data are kept \
         aside.",
    )?;
    let view = send(ctx, Method::POST, REJOIN_PATH, &serde_json::json!({})).await?;
    ctx.out.waiting("stopping etcd and the control plane");
    follow(ctx, &view).await
}

fn source(args: &RestoreArgs) -> Result<Source, Fault> {
    let wrong = |why: &str| {
        let what = "nothing was started";
        Fault::new(FaultCode::Usage, what, why).fix("name a file, or a backup: pf9ctl etcd list")
    };
    let file = args
        .file
        .as_deref()
        .ok_or_else(|| wrong("no file is named"))?;
    let file = match shelf::is_name(file) {
        // nodelet knows where it is.
        true => file.to_owned(),
        false => absolute(Path::new(file)).map_err(|e| wrong(&e))?,
    };
    let key = args.recovery_key.as_deref().map(absolute).transpose();
    let signers = args.signers.as_deref().map(absolute).transpose();
    Ok(Source {
        file,
        recovery_key: key.map_err(|e| wrong(&e))?,
        any_cluster: args.any_cluster,
        signers: signers.map_err(|e| wrong(&e))?,
        unsigned: args.unsigned,
    })
}

/// As nodelet finds it, wherever this was called.
fn absolute(path: &Path) -> Result<String, String> {
    let full = std::path::absolute(path).map_err(|e| e.to_string())?;
    let text = full.to_str().map(str::to_owned);
    text.ok_or_else(|| format!("{} is not UTF-8 text", full.display()))
}

fn sure(ctx: &CommandContext, yes: bool, question: &str) -> Result<(), Fault> {
    if yes {
        return Ok(());
    }
    let what = "nothing was started";
    if !ctx.out.can_ask() {
        let fault = Fault::new(FaultCode::Usage, what, "no terminal to ask on");
        return Err(fault.fix("give --yes to go ahead"));
    }
    if ctx.out.ask(question) {
        return Ok(());
    }
    Err(Fault::new(
        FaultCode::Interrupted,
        what,
        "the answer was no",
    ))
}

async fn look(ctx: &CommandContext) -> Result<RestoreView, Fault> {
    let view = ctx.get(paths::NODELET_SOCKET, PATH).await;
    view.map_err(|e| super::silent(ctx, "cannot show the restore", &e))
}

async fn send(
    ctx: &CommandContext,
    method: Method,
    path: &str,
    body: &(impl Serialize + Sync),
) -> Result<RestoreView, Fault> {
    let what = "nothing was started";
    let client = ctx.socket(paths::NODELET_SOCKET);
    let client = client.map_err(|e| e.fault(what))?;
    let sent = client.send(method, path, body, ORDER).await;
    sent.map(Option::unwrap_or_default)
        .map_err(|e| super::silent(ctx, what, &e))
}

/// Says how it goes until it has ended.
async fn follow(ctx: &CommandContext, begun: &RestoreView) -> Result<Exit, Fault> {
    let Some(id) = begun.run.as_ref().map(|run| run.id) else {
        ctx.out.step(Ink::Good, "none is under way");
        return Ok(Exit::Ok);
    };
    let mut said = String::new();
    loop {
        tokio::select! {
            // cancel-safe: both are
            () = ctx.stop.cancelled() => {
                let words = "it continues without this program: pf9ctl etcd restore --show";
                ctx.out.step(Ink::Warn, words);
                return Ok(Exit::Ok);
            }
            () = tokio::time::sleep(POLL) => {}
        }
        // nodelet may be starting again: that ends nothing.
        let Ok(view) = look(ctx).await else { continue };
        if let Some(end) = ended(&view, id) {
            for warning in view.last.iter().flat_map(|last| &last.warnings) {
                ctx.out.step(Ink::Warn, warning);
            }
            return end.map(|()| {
                let words = "done; etcd and the control plane start again: pf9ctl status";
                ctx.out.step(Ink::Good, words);
                Exit::Ok
            });
        }
        let status = ctx.get::<NodeStatus>(paths::NODELET_SOCKET, "/v1/status");
        if let Ok(Some(reason)) = status.await.map(|status| status.reason)
            && said != reason.why
        {
            said.clone_from(&reason.why);
            ctx.out.waiting(&said);
        }
    }
}

fn ended(view: &RestoreView, id: Uuid) -> Option<Result<(), Fault>> {
    let last = view.last.as_ref().filter(|last| last.id == id)?;
    Some(last.refused.clone().map_or(Ok(()), Err))
}

#[derive(Serialize)]
#[serde(transparent)]
struct Shown(RestoreView);

impl Show for Shown {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        match &self.0.run {
            Some(run) => {
                let words = format!("{} since {}", goal(&run.goal), run.asked_at);
                screen.row("under way", Ink::Warn, &words, width);
                for warning in &run.warnings {
                    screen.row("", Ink::Warn, warning, width);
                }
            }
            None => screen.row("under way", Ink::Plain, "nothing", width),
        }
        if let Some(last) = &self.0.last {
            let (ink, how) = match &last.refused {
                None => (Ink::Good, "done".to_owned()),
                Some(fault) => (Ink::Warn, format!("not done: {}", fault.why)),
            };
            let words = format!("{}, {how}, {}", goal(&last.goal), last.ended_at);
            screen.row("last", ink, &words, width);
            for warning in &last.warnings {
                screen.row("", Ink::Warn, warning, width);
            }
        }
        screen.gap();
        screen
    }
}

fn goal(goal: &RestoreGoal) -> String {
    match goal {
        RestoreGoal::Restored(source) => format!("restore from {}", source.file),
        RestoreGoal::Rejoined => "join the restored master".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ClusterId, Timestamp};
    use crate::nodelet::etcd::restore::{By, RestoreRun};

    fn args(line: &[&str]) -> RestoreArgs {
        RestoreArgs::try_parse_from([&["restore"], line].concat()).expect("arguments")
    }

    #[test]
    fn a_name_means_the_backup_and_a_path_the_file() {
        let named = source(&args(&["20261128T143000Z-r1234"])).expect("source");
        assert_eq!(named.file, "20261128T143000Z-r1234");
        let path = source(&args(&["s.db", "--recovery-key", "/k"])).expect("source");
        assert!(path.file.starts_with('/') && path.file.ends_with("/s.db"));
        assert_eq!(path.recovery_key.as_deref(), Some("/k"));
        RestoreArgs::try_parse_from(["restore"]).expect_err("a file is needed");
        assert!(args(&["--show"]).show);
    }

    #[test]
    fn what_is_under_way_and_what_was_is_shown() {
        let now = Timestamp::UNIX_EPOCH;
        let run = RestoreRun::asked(
            Uuid::nil(),
            By::Root,
            ClusterId(Uuid::nil()),
            RestoreGoal::Rejoined,
            now,
        );
        let view = RestoreView {
            run: Some(run),
            last: None,
        };
        let shown = Shown(view).screen(100).text(false);
        assert!(
            shown.contains("join the restored master since 1970"),
            "{shown}"
        );
    }
}
