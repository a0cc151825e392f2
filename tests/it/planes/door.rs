//! Planes that stand by answer for the one that has the seat.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::host::tls::{self, ClientIdentity};
use pf9_hostagent::identity::{self, Identity, Owners};
use pf9_hostagent::local::Method;
use pf9_hostagent::model::{EnrolToken, HostId};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::cluster::{Cluster, free};
use super::killed::Process;
use super::{admin, soon};
use crate::comms::{Comms, get};
use crate::support::{enrol, tunnel_is_up, within};

/// A machine of its own that has enrolled at this plane, with its certificate.
async fn host(at: SocketAddr, token: &EnrolToken, fs: &HostFs) -> (HostId, Identity) {
    for made in ["/run/pf9", "/var/log/pf9/comms"] {
        std::fs::create_dir_all(fs.at(made)).expect("mkdir");
    }
    std::os::unix::fs::symlink("/proc", fs.at("/proc")).expect("proc");
    let id = HostId::random();
    let enrolled = enrol(&format!("https://{at}"), token, id, fs).await;
    let identity = enrolled.expect("enrolled");
    identity::save(fs, &identity, &Owners::current_user()).expect("save");
    (id, identity)
}

async fn token(dir: &Path) -> EnrolToken {
    let made = admin(dir, Method::POST, "/tokens", &json!({"ttl_s": 600})).await;
    let made = made.expect("a token");
    let text = made["token"].as_str().expect("text");
    text.parse().expect("token")
}

/// A door has heard a client, given it its turn and opened the way by then, or let it go.
const ANSWER: Duration = Duration::from_secs(20);

/// What is answered at this plane's port. One that is not answered stands in the way of no other try.
async fn ready(at: SocketAddr, authority: &[u8]) -> Result<(u16, String), String> {
    let https = tls::outside(Some(authority), |b| b).expect("client");
    let asking = async {
        let answer = https.get(format!("https://{at}/ready")).send().await;
        let answer = answer.map_err(|e| e.to_string())?;
        let status = answer.status().as_u16();
        Ok((status, answer.text().await.map_err(|e| e.to_string())?))
    };
    let answer = tokio::time::timeout(ANSWER, asking).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {ANSWER:?}")))
}

async fn until_ready(at: SocketAddr, authority: &[u8]) {
    soon(async {
        while ready(at, authority).await != Ok((200, "ok\n".into())) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

/// A host enrols and has its tunnel at a plane that stands by; whoever asks there or at the plane with the seat finds it
/// connected. Then that plane is killed: the one that stood by has the seat, serves at the port at which it let others
/// through, and the host comes back to it with what it was.
#[tokio::test]
async fn any_plane_answers_and_the_tunnel_at_one_is_reached_through_each() {
    let cluster = Cluster::start();
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("tempdir"));
    let (one, two) = (free(), free());
    let endpoints = [format!("wss://{two}")];
    let mut first = Process::start_at(&cluster, dirs[0].path(), one, &endpoints);
    first.serves().await;
    let mut second = Process::start_at(&cluster, dirs[1].path(), two, &endpoints);
    let authority = std::fs::read(dirs[0].path().join("ca.pem")).expect("authority");
    until_ready(two, &authority).await;

    let root = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(root.path());
    let (id, _) = host(two, &token(&first.dir).await, &fs).await;
    let comms = Comms::start(&fs).await;
    comms.until(tunnel_is_up).await;
    let spec = within(get(&fs, "/v1/hosts/self/spec?after=0")).await;
    assert!(spec.expect("through the tunnel").starts_with(b"{"));
    let connected = async |dir: &Path| {
        let hosts = admin(dir, Method::GET, "/hosts", &Value::Null).await;
        let hosts = hosts.expect("a list");
        let mut all = hosts.as_array().expect("a list").iter();
        all.any(|h| h["id"] == id.to_string() && h["pf9"]["connected"] == true)
    };
    assert!(connected(&first.dir).await, "its tunnel ends at the seat");

    first.kill();
    second.serves().await;
    until_ready(two, &authority).await;
    soon(async {
        while !connected(&second.dir).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let spec = within(get(&fs, "/v1/hosts/self/spec?after=0")).await;
    assert!(spec.expect("through the tunnel").starts_with(b"{"));
    comms.stop().await;
    second.kill();
}

/// What another plane passes on is believed to be of the client that it names: from a plane only.
#[tokio::test]
async fn nobody_but_a_plane_of_the_fleet_passes_connections_on() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().expect("tempdir");
    let at = free();
    let mut plane = Process::start_at(&cluster, dir.path(), at, &[]);
    plane.serves().await;
    let root = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(root.path());
    let (_, identity) = host(at, &token(&plane.dir).await, &fs).await;
    let authority = std::fs::read(dir.path().join("ca.pem")).expect("authority");
    let stranger = tls::outside(Some(&authority), |b| b).expect("client");
    let a_host = tls::client(ClientIdentity {
        authority: &authority,
        certificate: identity.certificate.as_bytes(),
        key: identity.key.expose().as_bytes(),
    });
    for (who, client) in [
        ("a stranger", stranger),
        ("a host", a_host.expect("client")),
    ] {
        let asked = client.get(format!("https://{at}/v1/planes/relay"));
        let asked = asked
            .header("connection", "upgrade")
            .header("upgrade", "pf9-relay")
            .header("x-pf9-from", "192.0.2.7:4711");
        let answer = within(asked.send()).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{who}");
        let said = answer.text().await.expect("text");
        assert!(said.contains("certificate of a plane"), "{who}: {said}");
    }
    plane.kill();
}

/// Two planes, of which the second one stands by.
struct Two {
    cluster: Cluster,
    _dirs: [tempfile::TempDir; 2],
    first: Process,
    second: Process,
    at: [SocketAddr; 2],
    authority: Vec<u8>,
}

impl Two {
    /// `peer`: where the second one is told that the first one is.
    async fn at(at: [SocketAddr; 2], peer: Option<SocketAddr>) -> Self {
        let cluster = Cluster::start();
        let dirs = [(); 2].map(|()| tempfile::tempdir().expect("tempdir"));
        let peer = peer.map(|peer| peer.to_string());
        let more: Vec<&str> = peer
            .iter()
            .flat_map(|p| ["--peer-address", p.as_str()])
            .collect();
        let mut first = Process::start_with(&cluster, dirs[0].path(), at[0], &more);
        first.serves().await;
        let second = Process::start_at(&cluster, dirs[1].path(), at[1], &[]);
        let authority = std::fs::read(dirs[0].path().join("ca.pem")).expect("authority");
        Self {
            cluster,
            _dirs: dirs,
            first,
            second,
            at,
            authority,
        }
    }

    async fn new() -> Self {
        let two = Self::at([free(), free()], None).await;
        until_ready(two.at[1], &two.authority).await;
        two
    }

    fn end(self) {
        self.second.kill();
        self.first.kill();
    }
}

/// A wrong password, from this address, which says that it is from another; how that is answered.
async fn guess(from: &str, at: SocketAddr, authority: &[u8]) -> StatusCode {
    let own: IpAddr = from.parse().expect("address");
    let https = tls::outside(Some(authority), |b| b.local_address(own)).expect("client");
    let domain = json!({"id": "default"});
    let user = json!({"name": "somebody", "password": "a guess", "domain": domain});
    let body = json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}});
    let asked = https
        .post(format!("https://{at}/keystone/v3/auth/tokens"))
        .header("x-pf9-from", "127.0.0.3:4711")
        .header("x-forwarded-for", "127.0.0.3")
        .json(&body);
    let answer = soon(asked.send()).await.expect("an answer");
    answer.status()
}

/// What a plane allows an address it allows it through all planes together, and whoever else is behind the same one has their
/// own share.
#[tokio::test]
async fn limits_are_by_the_address_of_the_client_behind_a_plane_that_stands_by() {
    const ACCOUNT_MAX: usize = 75;
    let two = Two::new().await;
    let [one, other] = two.at;
    let mut wrong = 0;
    loop {
        match guess("127.0.0.2", other, &two.authority).await {
            StatusCode::UNAUTHORIZED => wrong += 1,
            StatusCode::TOO_MANY_REQUESTS => break,
            status => panic!("{status}"),
        }
        // Some come back meanwhile.
        assert!(wrong < ACCOUNT_MAX + 20, "nobody counts them");
    }
    assert!(wrong >= ACCOUNT_MAX, "{wrong}");
    let of = async |from: &str, at| guess(from, at, &two.authority).await;
    assert_eq!(of("127.0.0.2", one).await, StatusCode::TOO_MANY_REQUESTS);
    // Whom it named; and the address that the planes themselves have.
    assert_eq!(of("127.0.0.3", other).await, StatusCode::UNAUTHORIZED);
    assert_eq!(of("127.0.0.1", one).await, StatusCode::UNAUTHORIZED);
    assert_eq!(of("127.0.0.1", other).await, StatusCode::UNAUTHORIZED);
    two.end();
}

#[tokio::test]
async fn planes_pass_on_over_ipv6_too() {
    let free = || {
        let listener = std::net::TcpListener::bind("[::1]:0").expect("bind");
        listener.local_addr().expect("address")
    };
    let two = Two::at([free(), free()], None).await;
    until_ready(two.at[1], &two.authority).await;
    let status = guess("::1", two.at[1], &two.authority).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    two.end();
}

/// The fleet's own authority, as its etcd has it.
fn keys(cluster: &Cluster) -> (String, Issuer<'static, KeyPair>) {
    let row = cluster.ctl(&[
        "get",
        "--print-value-only",
        &Cluster::key("rows/identity/plane"),
    ]);
    let row: Value = serde_json::from_str(&row).expect("the keys");
    let text = |at: &str| row.pointer(at).and_then(Value::as_str).expect("text");
    let key = KeyPair::from_pem(text("/authorities/current/key")).expect("key");
    let certificate = text("/authorities/current/certificate");
    let issuer = Issuer::from_ca_cert_pem(certificate, key).expect("authority");
    (format!("pf9-plane-{}", text("/plane")), issuer)
}

/// Of the authority that a fleet's planes know one another by a certificate must have a plane's name, be for clients, and be
/// within its time.
#[tokio::test]
async fn a_certificate_that_is_nearly_a_planes_passes_nothing_on() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().expect("tempdir");
    let at = free();
    let mut plane = Process::start_at(&cluster, dir.path(), at, &[]);
    plane.serves().await;
    let authority = std::fs::read(dir.path().join("ca.pem")).expect("authority");
    let (name, ours) = keys(&cluster);
    let stranger = {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Issuer::new(params, key)
    };
    let asked = async |name: &str,
                       by: &Issuer<'_, KeyPair>,
                       purpose: ExtendedKeyUsagePurpose,
                       years: [i32; 2],
                       from: &str| {
        let key = KeyPair::generate().expect("key");
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        leaf.distinguished_name.push(DnType::CommonName, name);
        leaf.extended_key_usages = vec![purpose];
        let [begin, end] = years.map(|year| rcgen::date_time_ymd(year, 1, 1));
        (leaf.not_before, leaf.not_after) = (begin, end);
        let signed = leaf.signed_by(&key, by).expect("signed");
        let client = tls::client(ClientIdentity {
            authority: &authority,
            certificate: signed.pem().as_bytes(),
            key: key.serialize_pem().as_bytes(),
        });
        let asked = client.expect("client");
        let asked = asked.get(format!("https://{at}/v1/planes/relay"));
        let asked = asked
            .header("connection", "upgrade")
            .header("upgrade", "pf9-relay")
            .header("x-pf9-from", from);
        within(asked.send()).await.ok().map(|a| a.status())
    };
    let (now, from) = ([2020, 2100], "192.0.2.7:4711");
    let one = asked(&name, &ours, ClientAuth, now, from).await;
    assert_eq!(one, Some(StatusCode::SWITCHING_PROTOCOLS));
    let forbidden = Some(StatusCode::FORBIDDEN);
    let ended = asked(&name, &ours, ClientAuth, [2020, 2021], from).await;
    assert_eq!(ended, forbidden, "its end is excused of hosts");
    let later = asked(&name, &ours, ClientAuth, [2099, 2100], from).await;
    assert!(later.is_none() || later == forbidden, "{later:?}");
    for named in ["pf9-plane", "pf9-plane-", &name.to_uppercase()] {
        let named = asked(named, &ours, ClientAuth, now, from).await;
        assert_eq!(named, forbidden);
    }
    let server = asked(&name, &ours, ServerAuth, now, from).await;
    assert_eq!(server, None, "no handshake with what servers show");
    let foreign = asked(&name, &stranger, ClientAuth, now, from).await;
    assert_eq!(foreign, None, "nor with another authority's");
    for from in [
        "",
        "192.0.2.7",
        "a.client:4711",
        "192.0.2.7:4711, 127.0.0.1:1",
    ] {
        let whose = asked(&name, &ours, ClientAuth, now, from).await;
        assert_eq!(whose, Some(StatusCode::BAD_REQUEST), "{from:?}");
    }
    plane.kill();
}

/// Connections that lead to this plane, then to that; and how many there were.
struct Balancer {
    at: SocketAddr,
    to: watch::Sender<SocketAddr>,
    carried: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Balancer {
    async fn to(first: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let at = listener.local_addr().expect("address");
        let (to, now) = watch::channel(first);
        let carried = Arc::new(AtomicUsize::new(0));
        let (mut tasks, count) = (JoinSet::new(), Arc::clone(&carried));
        tasks.spawn(async move {
            let mut passing = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.expect("accept");
                count.fetch_add(1, Ordering::SeqCst);
                let to = *now.borrow();
                passing.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(to).await {
                        drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
                    }
                });
            }
        });
        Self {
            at,
            to,
            carried,
            _tasks: tasks,
        }
    }

    fn carried(&self) -> usize {
        self.carried.load(Ordering::SeqCst)
    }
}

/// The seat's address is a load balancer's, which leads back to the plane that stands by: it says so, and does not connect to
/// itself for ever. As soon as the address leads to the seat, so does the door.
#[tokio::test]
async fn planes_that_are_led_to_themselves_say_so_and_do_not_go_in_circles() {
    const ASKED: usize = 4;
    let (one, other) = (free(), free());
    let balancer = Balancer::to(other).await;
    let two = Two::at([one, other], Some(balancer.at)).await;
    let says = |word: &str| two.second.log().contains(word);
    soon(async {
        while !says("standing by") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    // It notices it by a client that is led back. On a busy machine none of the first need be: a way is given up after some
    // seconds, and while the store does not answer there is none.
    let mut asked = 0;
    soon(async {
        while asked < ASKED || !says("a load balancer") {
            let answer = ready(other, &two.authority).await;
            assert!(answer.is_err(), "{answer:?}: {}", two.second.log());
            asked += 1;
        }
    })
    .await;
    let carried = balancer.carried();
    assert!((1..=2 * asked).contains(&carried), "{carried} connections");
    balancer.to.send_replace(one);
    until_ready(other, &two.authority).await;
    two.end();
}

/// Who is silent, or does not speak TLS, costs the plane with the seat nothing.
#[tokio::test]
async fn who_does_not_begin_is_not_passed_on() {
    let (one, other) = (free(), free());
    let balancer = Balancer::to(one).await;
    let two = Two::at([one, other], Some(balancer.at)).await;
    until_ready(other, &two.authority).await;
    let before = balancer.carried();
    let ends = async |first: &'static [u8]| {
        let mut client = TcpStream::connect(other).await.expect("connected");
        client.write_all(first).await.expect("written");
        let mut rest = Vec::new();
        let began = Instant::now();
        // Closed or reset: it is over.
        drop(client.read_to_end(&mut rest).await);
        assert!(rest.is_empty(), "{rest:?}");
        began.elapsed()
    };
    let silent = join_all((0..20).map(|_| ends(b"")));
    let stopped = join_all((0..20).map(|_| ends(&[22, 3, 1])));
    let other_words = join_all((0..20).map(|_| ends(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")));
    let all = soon(async { tokio::join!(silent, stopped, other_words) }).await;
    for waited in [&all.0[..], &all.1[..]].concat() {
        assert!((8..15).contains(&waited.as_secs()), "{waited:?}");
    }
    for waited in &all.2 {
        assert!(waited.as_secs() < 5, "{waited:?}");
    }
    assert_eq!(balancer.carried(), before, "the seat has heard of none");
    until_ready(other, &two.authority).await;
    assert!(balancer.carried() > before);
    two.end();
}

/// The plane with the seat hangs for a while. Those who are connecting just then are let go; none of them makes others wait
/// when it goes on.
#[tokio::test]
async fn a_plane_that_hangs_is_waited_for_once_and_not_once_for_each_client() {
    const CLIENTS: usize = 40;
    let two = Two::new().await;
    let [_, other] = two.at;
    two.first.signal("-STOP");
    let asked = (0..CLIENTS).map(|_| ready(other, &two.authority));
    let answers = soon(join_all(asked)).await;
    two.first.signal("-CONT");
    assert!(answers.iter().all(Result::is_err), "{answers:?}");
    let began = Instant::now();
    join_all((0..CLIENTS).map(|_| until_ready(other, &two.authority))).await;
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(10), "{waited:?}");
    two.end();
}

/// A handshake, and then nothing.
async fn idle(at: SocketAddr, authority: &[u8]) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(authority).expect("authority");
    roots.add(authority).expect("authority");
    let config = rustls::ClientConfig::builder_with_provider(pf9_hostagent::tls::provider());
    let config = config.with_safe_default_protocol_versions();
    let config = config.expect("versions").with_root_certificates(roots);
    let connector = TlsConnector::from(Arc::new(config.with_no_client_auth()));
    let name = ServerName::from(at.ip());
    let stream = TcpStream::connect(at).await.expect("connected");
    soon(connector.connect(name, stream)).await.expect("shaken")
}

/// The plane with the seat is gone without a word, as with its machine: who was passed on to it is let go when another one
/// has the seat, and comes back to that through either door.
#[tokio::test]
async fn who_is_passed_on_is_let_go_when_the_seat_is_anothers() {
    let two = Two::new().await;
    let (dir, third) = (tempfile::tempdir().expect("tempdir"), free());
    let last = Process::start_at(&two.cluster, dir.path(), third, &[]);
    until_ready(third, &two.authority).await;
    let mut clients = Vec::new();
    for at in [two.at[1], third] {
        clients.push(idle(at, &two.authority).await);
    }
    two.first.signal("-STOP");
    let ended = clients.into_iter().map(|mut client| async move {
        let mut rest = Vec::new();
        // Closed or reset: it is over.
        drop(client.read_to_end(&mut rest).await);
    });
    soon(join_all(ended)).await;
    for at in [two.at[1], third] {
        until_ready(at, &two.authority).await;
    }
    last.kill();
    two.end();
}
