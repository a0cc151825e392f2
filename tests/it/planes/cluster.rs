//! A real etcd of three members, with TLS and client certificates; and a network path to it that can be cut.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pf9_plane::EtcdPlace;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The newest built version.
const VERSION: &str = "3.7.3";
/// Prefix of the rows of these tests.
const PREFIX: &str = "/fleet/";

pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    members: Vec<Member>,
}

struct Member {
    client: SocketAddr,
    arguments: Vec<String>,
    child: Option<Child>,
}

/// State of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Open,
    /// Silent: nothing arrives, and nothing is refused.
    Cut,
    /// Requests arrive, and no answer comes back.
    Deaf,
}

/// A path to one member.
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    mode: watch::Sender<Mode>,
    _tasks: JoinSet<()>,
}

/// An address where nobody listens.
pub(crate) fn free() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("address")
}

/// The directory of etcd's programs: the one that `PF9_ETCD_3_7_3` names, or built by `scripts/lib/parts.py`.
fn programs() -> PathBuf {
    let name = format!("PF9_ETCD_{}", VERSION.replace('.', "_"));
    if let Some(dir) = std::env::var_os(&name) {
        return dir.into();
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/lib/parts.py");
    let done = Command::new("python3")
        .args([script, "etcd", VERSION, "--made"])
        .output()
        .expect("python3 runs");
    let why = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "etcd {VERSION} is not built (python3 scripts/lib/parts.py etcd): {why}"
    );
    String::from_utf8_lossy(&done.stdout).trim().into()
}

impl Cluster {
    pub(crate) fn start() -> Self {
        pf9_hostagent::tls::install();
        let dir = tempfile::tempdir().expect("directory");
        certificates(dir.path());
        let places: Vec<_> = (0..3).map(|_| (free(), free())).collect();
        let everybody: Vec<_> = places
            .iter()
            .enumerate()
            .map(|(n, (_, peer))| format!("m{n}=http://{peer}"))
            .collect();
        let file = |name: &str| dir.path().join(name).display().to_string();
        let mut members = Vec::new();
        for (n, (client, peer)) in places.iter().enumerate() {
            let (client_url, peer_url) = (format!("https://{client}"), format!("http://{peer}"));
            let arguments = [
                ("--name", format!("m{n}")),
                ("--data-dir", file(&format!("m{n}"))),
                ("--listen-client-urls", client_url.clone()),
                ("--advertise-client-urls", client_url),
                ("--listen-peer-urls", peer_url.clone()),
                ("--initial-advertise-peer-urls", peer_url),
                ("--initial-cluster", everybody.join(",")),
                ("--trusted-ca-file", file("ca.pem")),
                ("--cert-file", file("server.pem")),
                ("--key-file", file("server.key")),
                ("--client-cert-auth", "true".into()),
                ("--log-level", "error".into()),
            ];
            members.push(Member {
                client: *client,
                arguments: arguments
                    .map(|(name, value)| format!("{name}={value}"))
                    .into(),
                child: None,
            });
        }
        let mut cluster = Self { dir, members };
        for n in 0..3 {
            cluster.begin(n);
        }
        cluster
    }

    pub(crate) fn begin(&mut self, n: usize) {
        let member = &mut self.members[n];
        let child = Command::new(programs().join("etcd"))
            .args(&member.arguments)
            .stdin(Stdio::null())
            .spawn();
        member.child = Some(child.expect("etcd"));
    }

    /// As if its machine lost power.
    pub(crate) fn kill(&mut self, n: usize) {
        let mut child = self.members[n].child.take().expect("it runs");
        child.kill().expect("killed");
        child.wait().expect("gone");
    }

    pub(crate) fn clients(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|m| m.client).collect()
    }

    /// A way to each member, and where each begins.
    pub(crate) async fn ways(&self) -> (Vec<Way>, Vec<SocketAddr>) {
        let mut ways = Vec::new();
        for member in self.clients() {
            ways.push(Way::to(member).await);
        }
        let by = ways.iter().map(|way| way.address).collect();
        (ways, by)
    }

    /// For a plane that uses these addresses.
    pub(crate) fn place_by(&self, addresses: &[SocketAddr]) -> EtcdPlace {
        EtcdPlace {
            endpoints: addresses.iter().map(|a| format!("https://{a}")).collect(),
            authority: self.dir.path().join("ca.pem"),
            certificate: self.dir.path().join("client.pem"),
            key: self.dir.path().join("client.key"),
            prefix: PREFIX.into(),
        }
    }

    pub(crate) fn place(&self) -> EtcdPlace {
        self.place_by(&self.clients())
    }

    /// The same as command-line arguments.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let place = self.place();
        let mut all = Vec::new();
        for endpoint in place.endpoints {
            all.extend(["--etcd-endpoint".into(), endpoint]);
        }
        for (name, file) in [
            ("--etcd-ca", place.authority),
            ("--etcd-cert", place.certificate),
            ("--etcd-key", place.key),
        ] {
            all.extend([name.into(), file.display().to_string()]);
        }
        all.extend(["--etcd-prefix".into(), place.prefix]);
        all
    }

    /// Output of etcd's own client.
    pub(crate) fn ctl(&self, words: &[&str]) -> String {
        let place = self.place();
        let done = Command::new(programs().join("etcdctl"))
            .args(["--endpoints", &place.endpoints.join(",")])
            .arg("--cacert")
            .arg(place.authority)
            .arg("--cert")
            .arg(place.certificate)
            .arg("--key")
            .arg(place.key)
            .args(words)
            .output()
            .expect("etcdctl");
        let why = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{words:?}: {why}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    pub(crate) fn key(name: &str) -> String {
        format!("{PREFIX}{name}")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                drop(child.kill());
                drop(child.wait());
            }
        }
    }
}

impl Way {
    async fn to(member: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let mode = watch::Sender::new(Mode::Open);
        let (mut tasks, seen) = (JoinSet::new(), mode.subscribe());
        tasks.spawn(async move {
            let mut passing = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.expect("accept");
                passing.spawn(pass(near, member, seen.clone()));
            }
        });
        Self {
            address,
            mode,
            _tasks: tasks,
        }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn pass(near: TcpStream, member: SocketAddr, mut mode: watch::Receiver<Mode>) {
    let seen = mode.clone();
    let bytes = async {
        // Connections made while it is cut wait for the end of that, and are then closed.
        if *seen.borrow() == Mode::Cut {
            return;
        }
        let Ok(far) = TcpStream::connect(member).await else {
            return;
        };
        let ((mut from_near, mut to_near), (mut from_far, mut to_far)) =
            (near.into_split(), far.into_split());
        let asked = async {
            drop(tokio::io::copy(&mut from_near, &mut to_far).await);
            drop(to_far.shutdown().await);
        };
        let answered = async {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(n) = from_far.read(&mut buffer).await {
                let passes = *seen.borrow() != Mode::Deaf;
                if n == 0 || (passes && to_near.write_all(&buffer[..n]).await.is_err()) {
                    break;
                }
            }
            drop(to_near.shutdown().await);
        };
        tokio::join!(asked, answered);
    };
    tokio::select! {
        () = bytes => {}
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => {}
    }
    drop(mode.wait_for(|mode| *mode != Mode::Cut).await);
}

fn certificates(dir: &Path) {
    let write = |name: &str, text: String| fs::write(dir.join(name), text).expect("write");
    let key = KeyPair::generate().expect("key");
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority
        .distinguished_name
        .push(DnType::CommonName, "etcd of a test");
    write(
        "ca.pem",
        authority.self_signed(&key).expect("authority").pem(),
    );
    let issuer = Issuer::new(authority, key);
    for name in ["server", "client"] {
        let key = KeyPair::generate().expect("key");
        let mut leaf = CertificateParams::new(vec!["127.0.0.1".into()]).expect("names");
        // etcd's gateway calls etcd itself, with the server's certificate.
        leaf.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let signed = leaf.signed_by(&key, &issuer).expect("signed");
        write(&format!("{name}.pem"), signed.pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}
