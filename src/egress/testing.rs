//! A small HTTP proxy for tests: a peer at the other end of a real socket, honest or not. It knows
//! its own names, so a test sees who resolved one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// How the proxy behaves.
#[allow(dead_code, reason = "each test binary needs some of them")]
#[derive(Clone, Debug)]
pub(crate) enum Manner {
    /// Connects to the requested target.
    Honest,
    /// The same, in HTTP/1.0 as older ones do.
    Old,
    /// The same, but only for this `user:password`.
    Basic(&'static str),
    /// Says this, then closes.
    Say(Vec<u8>),
    /// Says this for ever.
    Flood(&'static [u8]),
    /// Takes the request and never answers.
    Silent,
}

pub(crate) struct FakeProxy {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl FakeProxy {
    /// `names` are what its DNS knows, with the address that each leads to.
    pub(crate) async fn start(manner: Manner, names: &[(&str, SocketAddr)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let names: BTreeMap<String, SocketAddr> = names
            .iter()
            .map(|(name, at)| ((*name).to_owned(), *at))
            .collect();
        let seen = Arc::clone(&heads);
        let serving = tokio::spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                clients.spawn(client(
                    tcp,
                    manner.clone(),
                    names.clone(),
                    Arc::clone(&seen),
                ));
            }
        });
        Self {
            address,
            heads,
            serving,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The targets it was asked for.
    pub(crate) fn targets(&self) -> Vec<String> {
        let heads = self.heads.lock().expect("lock");
        let target = |head: &String| head.split(' ').nth(1).unwrap_or_default().to_owned();
        heads.iter().map(target).collect()
    }
}

impl Drop for FakeProxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn client(
    mut tcp: TcpStream,
    manner: Manner,
    names: BTreeMap<String, SocketAddr>,
    seen: Arc<Mutex<Vec<String>>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match tcp.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).expect("text");
    seen.lock().expect("lock").push(head.clone());
    // What a client that has gone away makes of the answer is no matter of the proxy's.
    let done = match manner {
        Manner::Honest => connect(tcp, &head, &names, "HTTP/1.1").await,
        Manner::Old => connect(tcp, &head, &names, "HTTP/1.0").await,
        Manner::Basic(both) => {
            let wanted = format!("Basic {}", BASE64_STANDARD.encode(both));
            let shows = |line: &str| {
                let shown = line.split_once(": ");
                shown.is_some_and(|(name, value)| {
                    name.eq_ignore_ascii_case("proxy-authorization") && value == wanted
                })
            };
            if head.lines().any(shows) {
                connect(tcp, &head, &names, "HTTP/1.1").await
            } else {
                let no = "HTTP/1.1 407 Proxy Authentication Required\r\n\
                          Proxy-Authenticate: Basic realm=\"corp\"\r\nContent-Length: 5\r\n\r\nNo <a";
                tcp.write_all(no.as_bytes()).await
            }
        }
        Manner::Say(text) => {
            let said = tcp.write_all(&text).await;
            // Not before the client had what was said.
            drop(tcp.shutdown().await);
            said
        }
        Manner::Flood(text) => loop {
            if let Err(e) = tcp.write_all(text).await {
                break Err(e);
            }
        },
        Manner::Silent => tcp.read_u8().await.map(drop),
    };
    drop(done);
}

async fn connect(
    mut tcp: TcpStream,
    head: &str,
    names: &BTreeMap<String, SocketAddr>,
    version: &str,
) -> std::io::Result<()> {
    let mut words = head.split(' ');
    if words.next() != Some("CONNECT") {
        let no = format!("{version} 405 Method Not Allowed\r\n\r\n");
        return tcp.write_all(no.as_bytes()).await;
    }
    let target = words.next().unwrap_or_default();
    let (name, port) = target.rsplit_once(':').expect("host:port");
    let found = names.get(name).copied();
    let address = found.or_else(|| format!("{name}:{port}").parse().ok());
    let far = match address {
        Some(address) => TcpStream::connect(address).await,
        None => Err(std::io::ErrorKind::NotFound.into()),
    };
    let Ok(mut far) = far else {
        let no = format!("{version} 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
        return tcp.write_all(no.as_bytes()).await;
    };
    let yes = format!("{version} 200 Connection established\r\nVia: fake\r\n\r\n");
    tcp.write_all(yes.as_bytes()).await?;
    copy_bidirectional(&mut tcp, &mut far).await.map(drop)
}
