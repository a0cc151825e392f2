//! Very many nodes that are connected and do nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use pf9_hostagent::mux;
use pf9_hostagent::wire::{Config, Side};
use rustls::ClientConfig;
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
}

/// Longest one try takes; a plane that is busy with the others is tried again.
const TRY: Duration = Duration::from_secs(20);

pub(crate) fn run(args: Args) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(all(args))
}

async fn all(args: Args) -> Result<()> {
    // One certificate for all: what is measured is the plane's side.
    let tls = prepare::client_config(&args.dir)?;
    let failed = Arc::new(AtomicU64::new(0));
    let mut nodes = JoinSet::new();
    for _ in 0..args.count {
        let (tls, failed) = (Arc::clone(&tls), Arc::clone(&failed));
        nodes.spawn(async move {
            loop {
                let tried = tokio::time::timeout(TRY, node(args.plane, Arc::clone(&tls))).await;
                let Ok(Ok(driver)) = tried else {
                    failed.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_secs_f64(fastrand::f64())).await;
                    continue;
                };
                return driver.await;
            }
        });
    }
    while let Some(closed) = nodes.join_next().await {
        println!("down {}", closed.context("a node panicked")?);
    }
    Ok(())
}

type Node = mux::Driver<tokio_rustls::client::TlsStream<TcpStream>>;

async fn node(plane: SocketAddr, tls: Arc<ClientConfig>) -> Result<Node> {
    let tcp = TcpStream::connect(plane).await?;
    tcp.set_nodelay(true)?;
    let name = plane.ip().into();
    let tls = TlsConnector::from(tls).connect(name, tcp).await?;
    let socket = mux::connect(
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
