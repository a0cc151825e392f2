//! Hosts by the thousand, enrolled at a real plane: a token, a key and a request each, as nodes do.
//!
//! Keys are made before, as machines do for themselves; what is timed is a token and an enrolment of each, several at
//! once. Prints how many, and in how many seconds.

use std::fs::OpenOptions as Options;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use pf9_hostagent::model::{
    Digest, DocumentKind, EnrolToken, Enrolment, HostId, NodeFacts, ORDER_SCHEMA, SigningKey,
};
use pf9_hostagent::tls;
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::{agent, prepare};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The plane's state directory: its authority, its administrator's socket.
    #[arg(long)]
    state: PathBuf,
    /// Where it listens.
    #[arg(long)]
    plane: SocketAddr,
    /// How many hosts.
    #[arg(long)]
    count: usize,
    /// Number of the first: names and addresses follow.
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// Where certificates and keys are added: one JSON object a line.
    #[arg(long)]
    out: PathBuf,
    /// The plane is of the first release: it is told the host's name, and nothing that root signed.
    #[arg(long)]
    first_release: bool,
}

/// A machine that wants to be a host.
struct Machine {
    number: u32,
    id: HostId,
    key: KeyPair,
    /// Root's, for orders.
    order: SigningKey,
    csr: String,
}

/// Time a token is good for: longer than all of this takes.
const TOKEN_SECONDS: u32 = 3600;
/// Machines that enrol at the same time.
const AT_ONCE: usize = 8;

pub(crate) fn run(args: &Args) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(all(args))
}

async fn all(args: &Args) -> Result<()> {
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(prepare::roots(&args.state)?)
        .with_no_client_auth();
    let config = Arc::new(config);
    let mut each: Vec<Vec<Machine>> = (0..AT_ONCE).map(|_| Vec::new()).collect();
    for (number, one) in (args.first..args.first + args.count).zip((0..AT_ONCE).cycle()) {
        let machine = Machine::new(u32::try_from(number)?)?;
        each.get_mut(one).context("one of them")?.push(machine);
    }
    let began = Instant::now();
    let mut running = JoinSet::new();
    for machines in each {
        let admin = UnixStream::connect(args.state.join("admin.sock")).await?;
        let tcp = TcpStream::connect(args.plane).await?;
        tcp.set_nodelay(true)?;
        let name = args.plane.ip().into();
        let tls = TlsConnector::from(Arc::clone(&config)).connect(name, tcp);
        let (admin, plane) = (talk(admin).await?, talk(tls.await?).await?);
        running.spawn(some(machines, admin, plane, args.first_release));
    }
    let mut lines = String::new();
    while let Some(done) = running.join_next().await {
        lines.push_str(&done??);
    }
    let seconds = began.elapsed().as_secs_f64();
    let mut out = Options::new().append(true).create(true).open(&args.out)?;
    out.write_all(lines.as_bytes())?;
    println!("{}", json!({ "count": args.count, "seconds": seconds }));
    Ok(())
}

/// One after the other, on connections of their own.
async fn some(
    machines: Vec<Machine>,
    mut admin: SendRequest<Full<Bytes>>,
    mut plane: SendRequest<Full<Bytes>>,
    first_release: bool,
) -> Result<String> {
    let mut lines = String::new();
    for machine in machines {
        let made = ask(&mut admin, "/tokens", &json!({ "ttl_s": TOKEN_SECONDS })).await?;
        let token: EnrolToken = made["token"].as_str().context("no token")?.parse()?;
        let wanted = machine.request(&token, first_release)?;
        let mut answer = ask(&mut plane, "/v1/enrol", &wanted).await?;
        let line = json!({
            "host": machine.id,
            "number": machine.number,
            "certificate": answer["certificate"].take(),
            "key": machine.key.serialize_pem(),
        });
        lines.push_str(&format!("{line}\n"));
    }
    Ok(lines)
}

impl Machine {
    fn new(number: u32) -> Result<Self> {
        let key = KeyPair::generate()?;
        let csr = CertificateParams::default()
            .serialize_request(&key)?
            .pem()?;
        let order = SigningKey::generate()
            .map_err(|fault| anyhow!("{fault}"))?
            .0;
        Ok(Self {
            number,
            id: HostId::random(),
            key,
            order,
            csr,
        })
    }

    fn request(&self, token: &EnrolToken, first_release: bool) -> Result<Value> {
        let name = agent::name(self.number);
        let mut wanted = json!({
            "schema": 1,
            "token": token.secret.expose(),
            "host_id": self.id,
            "csr": self.csr,
        });
        if first_release {
            wanted["hostname"] = json!(name);
            return Ok(wanted);
        }
        let said = Enrolment {
            schema: ORDER_SCHEMA,
            host_id: self.id,
            token: Digest::of(token.secret.expose().as_bytes()),
            csr: Digest::of(self.csr.as_bytes()),
            facts: NodeFacts::new(&name, &[agent::address(self.number)]),
        };
        let said = serde_json::to_vec(&said)?;
        wanted["order_key"] = json!(self.order.trusted());
        wanted["statement"] = json!(self.order.sign(DocumentKind::Enrolment, &said));
        wanted["machine"] = json!(agent::marks(self.id));
        Ok(wanted)
    }
}

/// HTTP on a connection, one request after the other.
async fn talk<S>(socket: S) -> Result<SendRequest<Full<Bytes>>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    // That it broke is what the next request says.
    tokio::spawn(async { drop(connection.await) });
    Ok(sender)
}

async fn ask(to: &mut SendRequest<Full<Bytes>>, path: &str, body: &Value) -> Result<Value> {
    let request = Request::post(path)
        .header(header::HOST, "plane")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body.to_string()))?;
    to.ready().await?;
    let (head, body) = to.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    let said = || String::from_utf8_lossy(&body).into_owned();
    ensure!(
        head.status.is_success(),
        "{path}: {} {}",
        head.status,
        said()
    );
    Ok(serde_json::from_slice(&body)?)
}
