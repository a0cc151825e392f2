//! A real comms renews its certificate at a real plane: in time, late, and when it fails.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::SignedDuration;
use pf9_hostagent::host::fs::{Attrs, Found, HostFs};
use pf9_hostagent::identity::{self, Owners, TlsPolicy};
use pf9_hostagent::local::{Client, Method};
use pf9_hostagent::model::{
    Digest, EnrolToken, Expiry, FaultCode, HostId, SessionKind, SessionState, Timestamp,
    TunnelStatus, paths,
};
use pf9_plane::{ServeConfig, Server};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::comms::{Comms, get};
use crate::support::{PATIENCE, enrol, make_stack, within};

/// More than fits into all the buffers between the plane and a reader that does not read.
const ARCHIVE: usize = 8 * 1024 * 1024;
const QUESTION: &str = "/v1/hosts/self/spec?after=0";

struct World {
    dir: tempfile::TempDir,
    plane: Server,
    fs: HostFs,
    host: HostId,
    _root: tempfile::TempDir,
}

async fn serve(dir: &Path, listen: SocketAddr, life: i64) -> Server {
    let config = ServeConfig {
        host_certificate: SignedDuration::from_secs(life),
        ..ServeConfig::new(dir, listen)
    };
    Server::start(config).await.expect("plane")
}

impl World {
    /// A plane whose host certificates live for this many seconds, and a host of it.
    async fn new(life: i64) -> Self {
        pf9_hostagent::tls::install();
        drop(tracing_subscriber::fmt().with_test_writer().try_init());
        let dir = tempfile::tempdir().expect("tempdir");
        let plane = serve(dir.path(), "127.0.0.1:0".parse().expect("address"), life).await;
        let made = admin(dir.path(), "/tokens", &json!({"ttl_s": 600})).await;
        let token: EnrolToken = made["token"]
            .as_str()
            .expect("text")
            .parse()
            .expect("token");
        let host = HostId::random();
        let root = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(root.path());
        for made in ["/run/pf9", "/var/log/pf9/comms"] {
            std::fs::create_dir_all(fs.at(made)).expect("mkdir");
        }
        let attrs = Attrs::mode(0o644);
        fs.write("/proc/sys/kernel/hostname", b"n1\n", &attrs)
            .expect("name");
        let identity = enrol(plane.public_url(), &token, host, &fs)
            .await
            .expect("enrolled");
        identity::save(&fs, &identity, &Owners::current_user()).expect("save");
        Self {
            dir,
            plane,
            fs,
            host,
            _root: root,
        }
    }

    /// The same plane, from now on with another lifetime of certificates.
    async fn restart(self, life: i64) -> Self {
        let address = self.plane.address();
        within(self.plane.stop()).await;
        let plane = serve(self.dir.path(), address, life).await;
        Self { plane, ..self }
    }

    fn on_disk(&self) -> (Digest, Timestamp) {
        let identity = identity::load(&self.fs, &TlsPolicy::default()).expect("a pair");
        let identity = identity.expect("enrolled");
        (identity.certificate, identity.life.not_after)
    }

    /// The certificate on disk, once it has changed.
    async fn renewed(&self, old: Digest) -> Digest {
        within(async {
            loop {
                let (now, _) = self.on_disk();
                if now != old {
                    return now;
                }
                // Watching the file system is not worth its code here.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }
}

async fn admin(dir: &Path, path: &str, body: &Value) -> Value {
    let client = Client::unix(dir.join("admin.sock")).expect("client");
    let answer = client.send(Method::POST, path, body, PATIENCE).await;
    answer.expect("admin").expect("answer")
}

fn host_of(status: &TunnelStatus) -> &Expiry {
    let host = status.certificates.iter().find(|c| c.name == "host");
    host.expect("comms tells of its certificate")
}

fn up_for(status: &TunnelStatus, kind: SessionKind) -> bool {
    let up = |s: &SessionState| matches!(s, SessionState::Connected { .. });
    status
        .sessions
        .iter()
        .any(|s| up(&s.state) && s.kind == kind)
}

/// Requests continuously, each on a stream of its own; returns the failures.
fn ask_all_the_time(fs: &HostFs, over: &Arc<AtomicBool>) -> JoinSet<(u64, Vec<String>)> {
    let mut tasks = JoinSet::new();
    for _ in 0..2 {
        let (fs, over) = (fs.clone(), Arc::clone(over));
        tasks.spawn(async move {
            let (mut answered, mut failed) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                match within(get(&fs, QUESTION)).await {
                    Ok(body) if body.starts_with(b"{\"schema\"") => answered += 1,
                    Ok(body) => failed.push(String::from_utf8_lossy(&body).into_owned()),
                    Err(why) => failed.push(why),
                }
            }
            (answered, failed)
        });
    }
    tasks
}

#[tokio::test]
async fn a_certificate_is_renewed_twice_while_streams_continue() {
    let world = World::new(12).await;
    let (manifest, archive) = make_stack("1.37.2-1", ARCHIVE);
    let stack = tempfile::tempdir().expect("tempdir");
    std::fs::write(stack.path().join("manifest.json"), manifest).expect("write");
    std::fs::write(stack.path().join("stack.tar.zst"), &archive).expect("write");
    let path = json!({"path": stack.path()});
    let digest = admin(world.dir.path(), "/stacks", &path).await["manifest"].clone();
    let digest = digest.as_str().expect("digest");
    let comms = Comms::start(&world.fs).await;
    comms.until(|s| up_for(s, SessionKind::Full)).await;

    // A download with a slow reader, across both renewals.
    let mut long = UnixStream::connect(world.fs.at(paths::PLANE_SOCKET))
        .await
        .expect("connect");
    let ask = format!(
        "GET /v1/stacks/{digest}/archive HTTP/1.1\r\nhost: plane\r\nconnection: close\r\n\r\n"
    );
    long.write_all(ask.as_bytes()).await.expect("write");
    let mut got = vec![0; 1000];
    within(long.read_exact(&mut got)).await.expect("read");
    let over = Arc::new(AtomicBool::new(false));
    let asking = ask_all_the_time(&world.fs, &over);

    let (first, ends) = world.on_disk();
    let key = std::fs::read(world.fs.at(paths::HOST_KEY)).expect("key");
    let second = world.renewed(first).await;
    assert!(Timestamp::now() < ends, "in time");
    assert_ne!(
        std::fs::read(world.fs.at(paths::HOST_KEY)).expect("key"),
        key
    );
    let status = comms.until(|s| host_of(s).not_after > ends).await;
    assert_eq!(host_of(&status).warning(Timestamp::now()), None);
    world.renewed(second).await;

    // The first certificate has expired, and with it its session: another one carries on.
    comms
        .until(|s| s.sessions.iter().any(|s| s.reconnects > 0))
        .await;
    within(long.read_to_end(&mut got)).await.expect("read");
    drop(long);
    assert!(got.ends_with(&archive), "{} bytes", got.len());
    over.store(true, Ordering::Relaxed);
    let done = within(asking.join_all()).await;
    let answered: u64 = done.iter().map(|(n, _)| n).sum();
    let failed: Vec<_> = done.into_iter().flat_map(|(_, failed)| failed).collect();
    assert!(
        failed.is_empty() && answered > 100,
        "of {answered}: {failed:?}"
    );
    let next = world.fs.found(paths::HOST_NEXT).expect("found");
    assert_eq!(next, Found::Nothing);
    comms.stop().await;
    world.plane.stop().await;
}

#[tokio::test]
async fn a_host_asleep_past_the_expiry_reconnects_on_its_own() {
    let world = World::new(1).await;
    let (old, ends) = world.on_disk();
    within(async {
        // TLS counts whole seconds, and a certificate is valid to the end of its last one.
        while Timestamp::now() <= ends + SignedDuration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // From now on certificates live long: the recovery does not come from a short lifetime.
    let world = world.restart(3600).await;
    let comms = Comms::start(&world.fs).await;
    world.renewed(old).await;
    comms.until(|s| up_for(s, SessionKind::Full)).await;
    let body = within(get(&world.fs, QUESTION)).await.expect("answer");
    assert!(
        body.starts_with(b"{\"schema\""),
        "{}",
        String::from_utf8_lossy(&body)
    );
    comms.stop().await;
    world.plane.stop().await;
}

#[tokio::test]
async fn an_interrupted_renewal_is_completed_by_the_next_start() {
    let world = World::new(3600).await;
    // The plane signs, comms stores the pair, and is killed: before it presented the pair, or after the plane has seen
    // it.
    for is_shown in [false, true] {
        let (old, _) = world.on_disk();
        let comms = Comms::start(&world.fs).await;
        comms.until(|s| up_for(s, SessionKind::Full)).await;
        let new = identity::NewKey::make(world.host).expect("key");
        let pair = new.with(&renew(&world.fs, &new.csr).await).expect("a pair");
        comms.stop().await;
        identity::keep_next(&world.fs, &pair).expect("kept");
        if is_shown {
            let next = identity::with(&world.fs, &TlsPolicy::default(), &pair).expect("a pair");
            let egress = pf9_hostagent::egress::Egress::direct();
            let route = pf9_hostagent::comms::TunnelRoute::new(next, egress)
                .of_this_machine(world.fs.clone(), TlsPolicy::default());
            let mut journey = pf9_hostagent::egress::Journey::default();
            let endpoint = route.endpoints()[0].clone();
            route
                .try_endpoint(&endpoint, &mut journey)
                .await
                .expect("taken");
        }
        let comms = Comms::start(&world.fs).await;
        assert_eq!(world.renewed(old).await, pair.digest);
        // Also if the old pair was refused first: there is no wait of minutes.
        comms.until(|s| up_for(s, SessionKind::Full)).await;
        comms.stop().await;
    }
    world.plane.stop().await;
}

/// Requests a renewal through the tunnel, as comms does.
async fn renew(fs: &HostFs, csr: &str) -> pf9_hostagent::model::RenewAnswer {
    let client = Client::unix(fs.at(paths::PLANE_SOCKET)).expect("client");
    let body = json!({"schema": 1, "csr": csr});
    let answer = client
        .send(Method::POST, "/v1/hosts/self/renew", &body, PATIENCE)
        .await;
    answer.expect("renew").expect("answer")
}

#[tokio::test]
async fn a_removed_host_is_refused_and_renews_nothing() {
    let world = World::new(3600).await;
    let comms = Comms::start(&world.fs).await;
    comms.until(|s| up_for(s, SessionKind::Full)).await;
    let client = Client::unix(world.fs.at(paths::PLANE_SOCKET)).expect("client");
    let left: Option<Value> = client
        .send(Method::POST, "/v1/hosts/self/leave", &json!({}), PATIENCE)
        .await
        .expect("left");
    assert_eq!(left, None);
    let status = comms
        .until(|s| {
            s.last_fault
                .as_ref()
                .is_some_and(|f| f.code == FaultCode::PlaneForbidden)
        })
        .await;
    assert!(!up_for(&status, SessionKind::Full), "{status:?}");
    comms.stop().await;
    world.plane.stop().await;
}
