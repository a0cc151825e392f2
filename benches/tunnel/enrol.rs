//! Hosts by the thousand, enrolled at a real plane: a token, a key and a request each, as nodes do.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use pf9_hostagent::model::{EnrolToken, HostId};
use pf9_hostagent::tls;
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::prepare;

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
    /// Where certificates and keys go: one JSON object a line.
    #[arg(long)]
    out: PathBuf,
}

/// Time a token is good for: longer than all of this takes.
const TOKEN_SECONDS: u32 = 3600;

pub(crate) fn run(args: &Args) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(all(args))
}

async fn all(args: &Args) -> Result<()> {
    let admin = UnixStream::connect(args.state.join("admin.sock")).await?;
    let mut admin = talk(admin).await?;
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(prepare::roots(&args.state)?)
        .with_no_client_auth();
    let tcp = TcpStream::connect(args.plane).await?;
    tcp.set_nodelay(true)?;
    let name = args.plane.ip().into();
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    let mut plane = talk(tls.await?).await?;
    let mut lines = String::new();
    for n in 0..args.count {
        let made = ask(&mut admin, "/tokens", &json!({ "ttl_s": TOKEN_SECONDS })).await?;
        let token: EnrolToken = made["token"].as_str().context("no token")?.parse()?;
        let key = KeyPair::generate()?;
        let request = CertificateParams::default().serialize_request(&key)?;
        let wanted = json!({
            "schema": 1,
            "token": token.secret.expose(),
            "host_id": HostId::random(),
            "hostname": format!("node-{n}"),
            "csr": request.pem()?,
        });
        let mut answer = ask(&mut plane, "/v1/enrol", &wanted).await?;
        let line =
            json!({ "certificate": answer["certificate"].take(), "key": key.serialize_pem() });
        lines.push_str(&format!("{line}\n"));
    }
    fs::write(&args.out, lines)?;
    Ok(())
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
