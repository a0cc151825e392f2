//! Planes that stand by answer for the one that has the seat.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http::StatusCode;
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::host::tls::{self, ClientIdentity};
use pf9_hostagent::identity::{self, Identity, Owners};
use pf9_hostagent::local::Method;
use pf9_hostagent::model::{EnrolToken, HostId, SessionState, TunnelStatus};
use serde_json::{Value, json};

use super::cluster::{Cluster, free};
use super::killed::Process;
use super::{admin, soon};
use crate::comms::{Comms, get};
use crate::support::{enrol, within};

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

/// What is answered at this plane's port.
async fn ready(at: SocketAddr, authority: &[u8]) -> Result<(u16, String), String> {
    let https = tls::outside(Some(authority), |b| b).expect("client");
    let answer = https.get(format!("https://{at}/ready")).send().await;
    let answer = answer.map_err(|e| e.to_string())?;
    let status = answer.status().as_u16();
    Ok((status, answer.text().await.map_err(|e| e.to_string())?))
}

async fn until_ready(at: SocketAddr, authority: &[u8]) {
    soon(async {
        while ready(at, authority).await != Ok((200, "ok\n".into())) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

fn up(status: &TunnelStatus) -> bool {
    let mut all = status.sessions.iter();
    all.any(|s| matches!(s.state, SessionState::Connected { .. }))
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
    comms.until(up).await;
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
