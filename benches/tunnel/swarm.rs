//! Very many nodes that are connected and do nothing, or no more than an agent does then. Each comes back by the node's own
//! rules when its plane was away.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderValue};
use pf9_hostagent::app::Backoff;
use pf9_hostagent::model::HostId;
use pf9_hostagent::mux::{self, Handle, HandshakeError};
use pf9_hostagent::wire::limits::COME_BACK_MAX;
use pf9_hostagent::wire::{Config, Side};
use rustls::ClientConfig;
use rustls::client::Resumption;
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

use super::agent::{self, Agent};
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
    /// Each waits for specs and operations, and reports its status each minute.
    #[arg(long, requires = "hosts")]
    agents: bool,
}

/// One node.
struct Node {
    tls: Arc<ClientConfig>,
    own: Option<Own>,
    agents: bool,
}

/// What a host says of itself when it connects.
struct Own {
    agent: Agent,
    instance: HostId,
    /// For the next session, as the plane gave it.
    ticket: RefCell<Option<HeaderValue>>,
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
        None => {
            let one = no_tickets(prepare::client_config(&args.dir)?);
            vec![(one, None); args.count]
        }
    };
    let up = Rc::new(Cell::new(0));
    let nodes = LocalSet::new();
    for (tls, host) in all {
        let node = Node {
            tls,
            own: host.map(|(host, number)| Own {
                agent: Agent::new(host, number),
                instance: HostId::random(),
                ticket: RefCell::default(),
            }),
            agents: args.agents,
        };
        nodes.spawn_local(stay(args.plane, node, Rc::clone(&up)));
    }
    // They end with the program.
    nodes.await;
    Ok(())
}

/// No session is resumed: nodes with the same configuration would use each other's tickets, and a
/// plane that was restarted knows none.
fn no_tickets(mut tls: ClientConfig) -> Arc<ClientConfig> {
    tls.resumption = Resumption::disabled();
    Arc::new(tls)
}

/// TLS of a node, and which host it is.
type Whose = (Arc<ClientConfig>, Option<(HostId, u32)>);

/// What `enrol` wrote, a line a node.
fn of_their_own(dir: &Path, hosts: &Path) -> Result<Vec<Whose>> {
    let roots = Arc::new(prepare::roots(dir)?);
    let mut all = Vec::new();
    for line in std::fs::read_to_string(hosts)?.lines() {
        let host: Value = serde_json::from_str(line)?;
        let text = |what: &str| host[what].as_str().context("a line without what it is for");
        let tls = prepare::client_of(Arc::clone(&roots), text("certificate")?, text("key")?)?;
        let id: HostId = text("host")?.parse()?;
        let number = u32::try_from(host["number"].as_u64().context("a host without a number")?)?;
        all.push((no_tickets(tls), Some((id, number))));
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
async fn stay(plane: SocketAddr, node: Node, up: Rc<Cell<usize>>) {
    let count = |more: isize| {
        up.set(up.get().saturating_add_signed(more));
        tell(up.get());
    };
    let mut backoff = Backoff::full(FIRST, RECONNECT_CAP);
    loop {
        let tried = tokio::time::timeout(TRY, node.session(plane)).await;
        let hint = match tried {
            Ok(Ok((session, driver))) => {
                count(1);
                // Why it ended is the plane's to tell.
                tokio::select! {
                    _ = driver => {}
                    () = node.live(session) => {}
                }
                count(-1);
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

impl Node {
    async fn session(&self, plane: SocketAddr) -> Result<(Handle, mux::Driver)> {
        let tcp = match &self.own {
            Some(own) => from(own.agent.number, plane).await?,
            None => TcpStream::connect(plane).await?,
        };
        tcp.set_nodelay(true)?;
        let name = plane.ip().into();
        let tls = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, tcp)
            .await?;
        let headers = self
            .own
            .as_ref()
            .map(Own::headers)
            .transpose()?
            .unwrap_or_default();
        let (socket, mut answer) =
            mux::connect(tls, &plane.to_string(), mux::TUNNEL_PATH, headers).await?;
        if let Some(own) = &self.own {
            own.ticket.replace(answer.remove(mux::TICKET_HEADER));
        }
        // The plane opens nothing: the queue of its streams may go.
        let (handle, _, driver) = mux::session(socket, Side::Node, Config::default());
        Ok((handle, driver))
    }

    async fn live(&self, session: Handle) {
        match &self.own {
            Some(own) if self.agents => own.agent.live(&session).await,
            Some(_) | None => {
                // Nothing is opened: the handle may go.
                drop(session);
                std::future::pending().await
            }
        }
    }
}

/// From an address of its own: a fleet that shares one would run out of ports.
async fn from(number: u32, plane: SocketAddr) -> Result<TcpStream> {
    // 127.64.0.0 and up.
    let own = Ipv4Addr::from_bits(0x7f40_0001 + number);
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((own, 0)))?;
    Ok(socket.connect(plane).await?)
}

impl Own {
    fn headers(&self) -> Result<HeaderMap> {
        const CHAIN: &str = "1";
        let agent = &self.agent;
        let marks = serde_json::to_vec(&agent::marks(agent.host))?;
        let instance = self.instance.0.simple().to_string();
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (mux::INSTANCE_HEADER, instance.as_str()),
            (mux::SLOT_HEADER, "0"),
            (mux::MACHINE_HEADER, &BASE64.encode(marks)),
            (mux::BOOT_HEADER, agent.boot_id()),
            (mux::CHAIN_HEADER, CHAIN),
        ] {
            headers.insert(name, HeaderValue::from_str(value)?);
        }
        if let Some(ticket) = self.ticket.borrow().as_ref() {
            let shown = format!("{CHAIN}:{}", ticket.to_str()?);
            headers.insert(mux::TICKETS_HEADER, HeaderValue::from_str(&shown)?);
        }
        Ok(headers)
    }
}
