//! Very many nodes that are connected and do nothing. Each comes back by the node's own rules when its
//! plane was away.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use pf9_hostagent::app::Backoff;
use pf9_hostagent::mux::{self, HandshakeError};
use pf9_hostagent::wire::limits::COME_BACK_MAX;
use pf9_hostagent::wire::{Config, Side};
use rustls::ClientConfig;
use rustls::client::Resumption;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::prepare;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What `prepare` wrote.
    #[arg(long)]
    dir: PathBuf,
    /// Where the nodes connect.
    #[arg(long)]
    plane: SocketAddr,
    /// How many nodes.
    #[arg(long, default_value_t = 10_000)]
    count: usize,
    /// What `enrol` wrote: each node is a host of its own. `dir` is the plane's state directory then.
    #[arg(long)]
    hosts: Option<PathBuf>,
}

/// Longest one try takes, as with pf9-comms.
const TRY: Duration = Duration::from_secs(20);
/// Longest wait between two tries, as pf9-comms has it without a configuration.
const RECONNECT_CAP: Duration = Duration::from_secs(60);
/// Bound of the first wait, as with pf9-comms.
const FIRST: Duration = Duration::from_secs(1);

pub(crate) fn run(args: Args) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(all(args))
}

async fn all(args: Args) -> Result<()> {
    // One certificate for all, where the plane does not look: what is measured is its side.
    let all = match &args.hosts {
        Some(hosts) => of_their_own(&args.dir, hosts)?,
        None => vec![no_tickets(prepare::client_config(&args.dir)?); args.count],
    };
    let up = Arc::new(AtomicUsize::new(0));
    let mut nodes = JoinSet::new();
    for tls in all {
        nodes.spawn(stay(args.plane, tls, Arc::clone(&up)));
    }
    // They end with the program.
    while nodes.join_next().await.is_some() {}
    Ok(())
}

/// No session is resumed: nodes with the same configuration would use each other's tickets, and a
/// plane that was restarted knows none.
fn no_tickets(mut tls: ClientConfig) -> Arc<ClientConfig> {
    tls.resumption = Resumption::disabled();
    Arc::new(tls)
}

/// What `enrol` wrote, a line a node.
fn of_their_own(dir: &Path, hosts: &Path) -> Result<Vec<Arc<ClientConfig>>> {
    let roots = Arc::new(prepare::roots(dir)?);
    let mut all = Vec::new();
    for line in std::fs::read_to_string(hosts)?.lines() {
        let host: Value = serde_json::from_str(line)?;
        let text = |what: &str| host[what].as_str().context("a line without what it is for");
        let tls = prepare::client_of(Arc::clone(&roots), text("certificate")?, text("key")?)?;
        all.push(no_tickets(tls));
    }
    Ok(all)
}

/// A line whenever more or fewer nodes are connected.
fn tell(up: usize) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more: then nobody misses it.
    drop(writeln!(out, "up {up}").and_then(|()| out.flush()));
}

/// One node, for ever.
async fn stay(plane: SocketAddr, tls: Arc<ClientConfig>, up: Arc<AtomicUsize>) {
    let mut backoff = Backoff::full(FIRST, RECONNECT_CAP);
    loop {
        let tried = tokio::time::timeout(TRY, node(plane, Arc::clone(&tls))).await;
        let hint = match tried {
            Ok(Ok(driver)) => {
                tell(1 + up.fetch_add(1, Ordering::AcqRel));
                // Why it ended is the plane's to tell.
                let _: mux::Closed = driver.await;
                tell(up.fetch_sub(1, Ordering::AcqRel) - 1);
                // Every session counts as a healthy one, as a fleet's are when its plane restarts: the waits begin with
                // the shortest, which is the hardest for the plane.
                backoff.reset();
                None
            }
            Ok(Err(e)) => told(&e),
            Err(_) => None,
        };
        let hint = hint.unwrap_or_default().min(COME_BACK_MAX);
        tokio::time::sleep(hint + backoff.failed()).await;
    }
}

/// When the plane wants to see the node again, if it said so.
fn told(e: &anyhow::Error) -> Option<Duration> {
    match e.downcast_ref() {
        Some(HandshakeError::Refused { retry_after, .. }) => *retry_after,
        Some(_) | None => None,
    }
}

async fn node(plane: SocketAddr, tls: Arc<ClientConfig>) -> Result<mux::Driver> {
    let tcp = TcpStream::connect(plane).await?;
    tcp.set_nodelay(true)?;
    let name = plane.ip().into();
    let tls = TlsConnector::from(tls).connect(name, tcp).await?;
    let (socket, _) = mux::connect(
        tls,
        &plane.to_string(),
        mux::TUNNEL_PATH,
        http::HeaderMap::new(),
    )
    .await?;
    // Nothing is opened: handle and queue may go.
    let (_, _, driver) = mux::session(socket, Side::Node, Config::default());
    Ok(driver)
}
