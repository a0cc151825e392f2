//! Two real planes and one real comms: the second plane has a copy of the first one's state, so the same authority,
//! keys and hosts, and listens at another address.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::identity::{self, Owners};
use pf9_hostagent::local::{Client, Method};
use pf9_hostagent::model::{SessionState, TunnelStreams, paths};
use pf9_plane::{ServeConfig, Server};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::comms::{Comms, both_up, get};
use crate::support::{PATIENCE, enrolled, make_stack, within};

/// More than fits into all the buffers between the plane and a reader that does not read.
const ARCHIVE: usize = 8 * 1024 * 1024;
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(600);
/// The request that the node repeats.
const QUESTION: &str = "/v1/hosts/self/spec?after=0";

/// An address where nobody listens yet.
fn free() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("address")
}

async fn serve(dir: &Path, listen: SocketAddr, planes: [SocketAddr; 2]) -> Server {
    let config = ServeConfig {
        endpoints: planes.iter().map(|p| format!("wss://{p}")).collect(),
        drain: LONG,
        ..ServeConfig::new(dir, listen)
    };
    Server::start(config).await.expect("plane")
}

async fn admin(dir: &Path, path: &str, body: &Value) -> Value {
    let client = Client::unix(dir.join("admin.sock")).expect("client");
    let answer = client.send(Method::POST, path, body, PATIENCE).await;
    answer.expect("admin").expect("answer")
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("state") {
        let entry = entry.expect("entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            std::fs::create_dir_all(&to).expect("directory");
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("copy");
        }
    }
}

/// Requests continuously, each on a stream of its own; counts, and keeps the failures.
struct Asking {
    tasks: JoinSet<Vec<String>>,
    over: Arc<AtomicBool>,
    answered: watch::Sender<u64>,
}

impl Asking {
    fn begin(fs: &HostFs, wanted: &[u8]) -> Self {
        let (mut tasks, over) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        let answered = watch::Sender::new(0);
        for _ in 0..4 {
            let (fs, over, wanted) = (fs.clone(), Arc::clone(&over), wanted.to_vec());
            let answered = answered.clone();
            tasks.spawn(async move {
                let mut failed = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    match within(get(&fs, QUESTION)).await {
                        Ok(body) if body == wanted => answered.send_modify(|n| *n += 1),
                        Ok(body) => failed.push(String::from_utf8_lossy(&body).into_owned()),
                        Err(why) => failed.push(why),
                    }
                }
                failed
            });
        }
        Self {
            tasks,
            over,
            answered,
        }
    }

    async fn more(&self, n: u64) {
        let want = *self.answered.borrow() + n;
        let mut answered = self.answered.subscribe();
        within(answered.wait_for(|n| *n >= want))
            .await
            .expect("asks");
    }

    async fn end(self) -> Vec<String> {
        self.over.store(true, Ordering::Relaxed);
        within(self.tasks.join_all()).await.concat()
    }
}

#[tokio::test]
async fn one_of_two_planes_stops_and_nothing_is_lost() {
    pf9_hostagent::tls::install();
    drop(tracing_subscriber::fmt().with_test_writer().try_init());
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("tempdir"));
    let places = [free(), free()];
    let first = serve(dirs[0].path(), places[0], places).await;
    let made = admin(dirs[0].path(), "/tokens", &json!({"ttl_s": 600})).await;
    let (_root, fs, identity) = enrolled(first.public_url(), &made).await;
    let endpoints = places.map(|p| format!("wss://{p}/v1/tunnel"));
    assert_eq!(identity.endpoints, endpoints);
    let (manifest, archive) = make_stack("1.37.2-1", ARCHIVE);
    let stack = tempfile::tempdir().expect("tempdir");
    std::fs::write(stack.path().join("manifest.json"), manifest).expect("write");
    std::fs::write(stack.path().join("stack.tar.zst"), &archive).expect("write");
    let path = json!({"path": stack.path()});
    let digest = admin(dirs[0].path(), "/stacks", &path).await["manifest"].clone();
    within(first.stop()).await;
    copy(dirs[0].path(), dirs[1].path());
    let mut planes = Vec::new();
    for (dir, place) in dirs.iter().zip(places) {
        planes.push(serve(dir.path(), place, places).await);
    }

    identity::save(&fs, &identity, &Owners::current_user()).expect("save");
    let comms = Comms::start(&fs).await;
    let status = comms.until(both_up).await;
    let mut connected: Vec<_> = status
        .sessions
        .into_iter()
        .filter_map(|s| s.endpoint)
        .collect();
    connected.sort();
    let mut wanted = endpoints.to_vec();
    wanted.sort();
    assert_eq!(connected, wanted, "a session to each");

    // A download with a slow reader, and the plane it comes from.
    let mut long = UnixStream::connect(fs.at(paths::PLANE_SOCKET))
        .await
        .expect("connect");
    let digest = digest.as_str().expect("digest");
    let ask = format!(
        "GET /v1/stacks/{digest}/archive HTTP/1.1\r\nhost: plane\r\nconnection: close\r\n\r\n"
    );
    long.write_all(ask.as_bytes()).await.expect("write");
    let mut got = vec![0; 1000];
    within(long.read_exact(&mut got)).await.expect("read");
    assert!(got.starts_with(b"HTTP/1.1 200 "), "{got:?}");
    let seen: TunnelStreams = comms
        .api
        .get("/v1/streams", PATIENCE)
        .await
        .expect("streams");
    let from = &seen.streams.first().expect("the download").endpoint;
    let stops = endpoints.iter().position(|e| e == from).expect("a plane's");
    let (stops, stays) = (planes.remove(stops), planes.remove(0));

    let wanted = within(get(&fs, QUESTION)).await.expect("spec");
    assert!(
        wanted.starts_with(b"{"),
        "{}",
        String::from_utf8_lossy(&wanted)
    );
    let asking = Asking::begin(&fs, &wanted);
    asking.more(50).await;
    let stop = tokio::spawn(stops.stop());
    let drains = |s: &SessionState| matches!(s, SessionState::Draining { .. });
    comms
        .until(|s| s.sessions.iter().any(|s| drains(&s.state)))
        .await;
    asking.more(100).await;
    assert!(!stop.is_finished(), "it waits for the download");
    within(long.read_to_end(&mut got)).await.expect("read");
    assert!(got.ends_with(&archive), "{} bytes", got.len());
    drop(long);
    within(stop).await.expect("stopped");
    asking.more(50).await;
    let failed = asking.end().await;
    assert!(failed.is_empty(), "{failed:?}");
    comms.stop().await;
    within(stays.stop()).await;
}
