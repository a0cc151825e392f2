//! `host bundle order|list|fetch|remove`, `host logs`: logs are a bundle with nothing else in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;
use uuid::Uuid;

use super::operations::number;
use super::{State, put, seconds, text};
use crate::admin;
use crate::bundles::{BYTES, KEEP, LINES, Only, SINCE, Wanted};
use crate::refusal::chain;
use pf9_hostagent::host::fs::{Attrs, HostFs};
use pf9_hostagent::model::{Fault, FaultCode, HostId};

/// How often to check for the arrival.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// MiB.
const MIB: u64 = 1024 * 1024;
/// Logs of a few hours, compressed.
const LOGS_MIB: u64 = 16;

#[derive(Debug, Args)]
pub(super) struct BundleArgs {
    #[command(subcommand)]
    verb: BundleVerb,
}

#[derive(Debug, Subcommand)]
enum BundleVerb {
    /// Order a bundle of a machine, and wait until it is here or the machine says why not.
    ///
    /// Root of the machine must have agreed, there: pf9ctl config set support.bundle_on_request true. It is made like
    /// that of pf9ctl bundle, without keys and passwords, and kept encrypted.
    Order(OrderArgs),
    /// List the bundles that were ordered.
    List(ListArgs),
    /// Write a bundle that is here to a file.
    Fetch(FetchArgs),
    /// Remove a bundle.
    Remove(OneArgs),
}

#[derive(Debug, Args)]
struct OrderArgs {
    /// The host's id.
    host: HostId,
    #[command(flatten)]
    state: State,
    /// Logs of this time: a number and s, m, h or d; at most 30 days.
    #[arg(long, value_parser = seconds, default_value_t = SINCE.into())]
    since: i64,
    /// At most so large, MiB: 1 to 128.
    #[arg(long, value_name = "MIB", default_value_t = BYTES / MIB)]
    max_size: u64,
    /// How long it is kept: a number and s, m, h or d; at most 30 days.
    #[arg(long, value_parser = seconds, default_value_t = KEEP.into())]
    keep: i64,
    /// Only the holder of this key can open it, not the plane either (a public key of age, age1…).
    #[arg(long, value_name = "KEY")]
    seal_for: Option<String>,
    /// Do not wait for it.
    #[arg(long)]
    no_wait: bool,
}

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// The host's id.
    host: HostId,
    #[command(flatten)]
    state: State,
    /// From so long ago: a number and s, m, h or d; at most 30 days.
    #[arg(long, value_parser = seconds, default_value = "1h")]
    since: i64,
    /// To so long ago: a number and s, m, h or d. Default: now.
    #[arg(long, value_parser = seconds)]
    until: Option<i64>,
    /// Of each log at most so many lines, the newest: 1 to 20000.
    #[arg(long, default_value_t = LINES)]
    lines: u32,
    /// At most so large, MiB: 1 to 128.
    #[arg(long, value_name = "MIB", default_value_t = LOGS_MIB)]
    max_size: u64,
    /// How long they are kept: a number and s, m, h or d; at most 30 days.
    #[arg(long, value_parser = seconds, default_value_t = KEEP.into())]
    keep: i64,
    /// Only the holder of this key can open them, not the plane either (a public key of age, age1…).
    #[arg(long, value_name = "KEY")]
    seal_for: Option<String>,
    /// Where to: a file that is not there yet. Default: pf9-logs-ID.tar.zst, here.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// The host's id.
    host: HostId,
    #[command(flatten)]
    state: State,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct OneArgs {
    /// The host's id.
    host: HostId,
    /// Which: see list.
    id: Uuid,
    #[command(flatten)]
    state: State,
}

#[derive(Debug, Args)]
struct FetchArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Where to: a file that is not there yet. Default: pf9-bundle-ID.tar.zst, here.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) async fn run(args: BundleArgs) -> Result<(), Fault> {
    match args.verb {
        BundleVerb::Order(args) => order(args).await,
        BundleVerb::List(args) => list(args).await,
        BundleVerb::Fetch(args) => fetch(args).await,
        BundleVerb::Remove(args) => {
            let path = format!("/hosts/{}/bundles/{}", args.host, args.id);
            admin::ask(&args.state.state_dir, Method::DELETE, &path, &Value::Null).await?;
            put(None, &format!("bundle {} is removed\n", args.id))
        }
    }
}

/// Orders logs, waits for them, and writes them to a file. The plane keeps them for their retention: `host bundle`
/// lists, fetches and removes them.
pub(super) async fn logs(args: LogsArgs) -> Result<(), Fault> {
    let dir = &args.state.state_dir;
    let until = args.until.map(|s| number(s, "time")).transpose()?;
    let body = Wanted {
        only: Some(Only::Logs),
        until_seconds: until,
        lines: Some(args.lines),
        since_seconds: number(args.since, "time")?,
        max_bytes: args.max_size.saturating_mul(MIB),
        keep_seconds: number(args.keep, "time")?,
        seal_for: args.seal_for,
    };
    let bundles = format!("/hosts/{}/bundles", args.host);
    let row = admin::ask(dir, Method::POST, &bundles, &body).await?;
    let id = text(&row, "id").to_owned();
    arrives(dir, args.host, &id).await?;
    let name = || PathBuf::from(format!("pf9-logs-{id}.tar.zst"));
    write(dir, args.host, &id, &args.output.unwrap_or_else(name)).await
}

async fn order(args: OrderArgs) -> Result<(), Fault> {
    let dir = &args.state.state_dir;
    let body = Wanted {
        only: None,
        until_seconds: None,
        lines: None,
        since_seconds: number(args.since, "time")?,
        max_bytes: args.max_size.saturating_mul(MIB),
        keep_seconds: number(args.keep, "time")?,
        seal_for: args.seal_for,
    };
    let bundles = format!("/hosts/{}/bundles", args.host);
    let row = admin::ask(dir, Method::POST, &bundles, &body).await?;
    let id = text(&row, "id").to_owned();
    let fetch = format!(
        "pf9-plane host bundle fetch {} {id} --state-dir {}",
        args.host,
        dir.display()
    );
    if args.no_wait {
        return put(
            None,
            &format!("ordered: {id}; fetch it once it has arrived: {fetch}\n"),
        );
    }
    let bytes = arrives(dir, args.host, &id).await?;
    put(None, &format!("arrived: {id}, {bytes} bytes; {fetch}\n"))
}

/// Waits for the arrival: returns the size, or why it does not arrive.
async fn arrives(dir: &Path, host: HostId, id: &str) -> Result<u64, Fault> {
    let bundles = format!("/hosts/{host}/bundles");
    let operations = format!("/hosts/{host}/operations");
    loop {
        let all = admin::ask(dir, Method::GET, &bundles, &Value::Null).await?;
        let row = of(&all, id);
        match text(row, "state") {
            "here" => return Ok(row.get("bytes").and_then(Value::as_u64).unwrap_or_default()),
            "awaited" => {}
            _ => return Err(not_here("it did not arrive in time".to_owned())),
        }
        let all = admin::ask(dir, Method::GET, &operations, &Value::Null).await?;
        let said = of(&all, id);
        match text(said, "state") {
            "pending" | "done" => tokio::time::sleep(LOOK_EVERY).await,
            "expired" => return Err(not_here("the host did not answer in time".to_owned())),
            _ => return Err(not_here(text(said, "said").to_owned())),
        }
    }
}

fn not_here(why: String) -> Fault {
    Fault::new(
        FaultCode::OperationFailed,
        "no bundle arrived from that host",
        why,
    )
}

fn of<'a>(all: &'a Value, id: &str) -> &'a Value {
    let mut rows = all.as_array().into_iter().flatten();
    rows.find(|r| text(r, "id") == id).unwrap_or(&Value::Null)
}

async fn list(args: ListArgs) -> Result<(), Fault> {
    let path = format!("/hosts/{}/bundles", args.host);
    let all = admin::ask(&args.state.state_dir, Method::GET, &path, &Value::Null).await?;
    if args.json {
        return put(None, &format!("{all:#}\n"));
    }
    let mut out = String::new();
    for row in all.as_array().into_iter().flatten() {
        let bytes = row.get("bytes").and_then(Value::as_u64);
        let size = bytes.map_or_else(|| "-".to_owned(), |b| format!("{b} bytes"));
        let (id, state, keep) = (text(row, "id"), text(row, "state"), text(row, "keepUntil"));
        let by = text(row, "by");
        let of = match text(row, "only") {
            "" => "everything",
            only => only,
        };
        out += &format!("{id}  {state}  {of}  {size}  until {keep}  by {by}\n");
    }
    put(None, &out)
}

async fn fetch(args: FetchArgs) -> Result<(), Fault> {
    let one = &args.one;
    let name = || PathBuf::from(format!("pf9-bundle-{}.tar.zst", one.id));
    let to = args.output.unwrap_or_else(name);
    write(&one.state.state_dir, one.host, &one.id.to_string(), &to).await
}

/// Writes an arrived one to a file that must not exist yet.
async fn write(dir: &Path, host: HostId, id: &str, to: &Path) -> Result<(), Fault> {
    let cannot = |why: String| {
        let why = format!("{}: {why}", to.display());
        Fault::new(FaultCode::OutputFailed, "the bundle is not downloaded", why)
            .fix("name another file with -o FILE")
    };
    let at = std::path::absolute(to).map_err(|e| cannot(e.to_string()))?;
    if at.symlink_metadata().is_ok() {
        return Err(cannot("the file exists already".to_owned()));
    }
    // It has no name until it is complete.
    let mut file = HostFs::real()
        .begin(&at, &Attrs::mode(0o600))
        .map_err(|e| cannot(chain(&e)))?;
    let path = format!("/hosts/{host}/bundles/{id}");
    let bytes = admin::download(dir, &path, &mut file).await?;
    file.place().map_err(|e| cannot(chain(&e)))?;
    put(None, &format!("{}: {bytes} bytes\n", to.display()))
}
