//! One identity and who may use it: the real plane, and machines with the real comms, hostagent and nodelet, each below
//! a root of its own. The plane's keys are rotated meanwhile; disks are copied.

use std::path::Path;
use std::time::Duration;

use pf9_hostagent::app::{Config, TaskGroup};
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::identity::{self, Owners};
use pf9_hostagent::local::{Client, LocalError, Method};
use pf9_hostagent::model::{
    EnrolToken, Fault, FaultCode, HostId, HostStatus, NodeStatus, Timestamp, TunnelState,
    TunnelStatus, paths,
};
use pf9_hostagent::{comms, hostagent, nodelet};
use pf9_plane::{ServeConfig, Server};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, enrol, within};

struct Plane {
    dir: tempfile::TempDir,
    server: Server,
}

impl Plane {
    async fn start() -> Self {
        pf9_hostagent::tls::install();
        drop(tracing_subscriber::fmt().with_test_writer().try_init());
        let dir = tempfile::tempdir().expect("tempdir");
        let listen = "127.0.0.1:0".parse().expect("address");
        let server = Server::start(ServeConfig::new(dir.path(), listen)).await;
        Self {
            server: server.expect("plane"),
            dir,
        }
    }

    async fn admin(&self, method: Method, path: &str, body: &Value) -> Result<Value, Fault> {
        let client = Client::unix(self.dir.path().join("admin.sock")).expect("client");
        let answer = client.send(method, path, body, PATIENCE).await;
        match answer {
            Ok(answer) => Ok(answer.expect("answer")),
            Err(LocalError::Refused { fault, .. }) => Err(*fault),
            Err(e) => panic!("{path}: {e}"),
        }
    }

    async fn token(&self) -> EnrolToken {
        let made = self
            .admin(Method::POST, "/tokens", &json!({"ttl_s": 600}))
            .await;
        let text = made.expect("token")["token"]
            .as_str()
            .expect("text")
            .to_owned();
        text.parse().expect("token")
    }

    async fn keys(&self, step: &str, kind: &str) -> Result<Value, Fault> {
        let wanted = json!({"step": step, "kind": kind});
        self.admin(Method::POST, "/keys", &wanted).await
    }

    /// Waits until this many hosts are ready for the next step of this kind.
    async fn ready(&self, kind: &str, hosts: u64) -> Value {
        within(async {
            loop {
                let keys = self
                    .admin(Method::GET, "/keys", &Value::Null)
                    .await
                    .expect("keys");
                let all = keys.as_array().expect("kinds").clone();
                let one = all.into_iter().find(|k| k["kind"] == kind).expect("kind");
                if one["ready"] == hosts {
                    return one;
                }
                // The administrator's socket has no long-poll.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
    }

    async fn host(&self, host: HostId) -> Value {
        let hosts = self
            .admin(Method::GET, "/hosts", &Value::Null)
            .await
            .expect("hosts");
        let all = hosts.as_array().expect("list").clone();
        let id = host.to_string();
        all.into_iter()
            .find(|h| h["id"] == id.as_str())
            .expect("host")
    }

    /// Waits until the plane knows the host as wanted.
    async fn until(&self, host: HostId, wanted: impl Fn(&Value) -> bool) -> Value {
        within(async {
            loop {
                let found = self.host(host).await;
                if wanted(&found) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
    }
}

/// A machine's disk and its parts.
struct Machine {
    fs: HostFs,
    _dir: tempfile::TempDir,
}

impl Machine {
    /// One with this network card.
    fn new(card: &str) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let machine = Self {
            fs: HostFs::new(dir.path()),
            _dir: dir,
        };
        machine.made(card);
        machine
    }

    fn made(&self, card: &str) {
        for made in [
            "/run/pf9",
            "/var/log/pf9/comms",
            "/sys/class/net/eth0/device",
        ] {
            std::fs::create_dir_all(self.fs.at(made)).expect("mkdir");
        }
        std::os::unix::fs::symlink("/proc", self.fs.at("/proc")).expect("proc");
        std::fs::write(self.fs.at("/sys/class/net/eth0/address"), card).expect("card");
    }

    /// Its disk in a machine with this card.
    fn copied(&self, card: &str) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        for tree in ["/etc", "/var"] {
            copy(&self.fs.at(tree), &fs.at(tree));
        }
        let copied = Self { fs, _dir: dir };
        copied.made(card);
        copied
    }

    async fn enrol(&self, plane: &Plane, token: &EnrolToken) -> HostId {
        let host_id = HostId::random();
        let identity = enrol(plane.server.public_url(), token, host_id, &self.fs).await;
        let identity = identity.expect("enrolled");
        identity::save(&self.fs, &identity, &Owners::current_user()).expect("save");
        host_id
    }

    async fn start(&self) -> Daemons {
        let stop = CancellationToken::new();
        let mut group = TaskGroup::new(stop.clone());
        let mut config = Config::default();
        // The plane's news comes with the answer to a status.
        config.hostagent.status_s = 1;
        let fs = || self.fs.clone();
        let nodelet = tokio::spawn(keep_nodelet(fs(), config.clone(), stop.clone()));
        comms::start(fs(), config.clone(), &mut group)
            .await
            .expect("comms");
        hostagent::start(fs(), config, &mut group)
            .await
            .expect("hostagent");
        Daemons {
            stop,
            run: tokio::spawn(group.run(PATIENCE)),
            nodelet,
            fs: fs(),
        }
    }
}

/// Runs nodelet, and restarts it when it ended idle, as its socket would.
pub(crate) async fn keep_nodelet(fs: HostFs, config: Config, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let mut group = TaskGroup::new(stop.child_token());
        let started = nodelet::start(fs.clone(), Ok(config.clone()), &mut group);
        started.await.expect("nodelet");
        assert_eq!(group.run(PATIENCE).await, None);
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("mkdir");
    for entry in std::fs::read_dir(from).expect("list") {
        let entry = entry.expect("entry");
        let (kind, to) = (entry.file_type().expect("type"), to.join(entry.file_name()));
        match kind.is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).expect("copy")),
        }
    }
}

struct Daemons {
    stop: CancellationToken,
    run: JoinHandle<Option<&'static str>>,
    nodelet: JoinHandle<()>,
    fs: HostFs,
}

impl Daemons {
    async fn stop(self) {
        self.stop.cancel();
        assert_eq!(within(self.run).await.expect("ends"), None);
        within(self.nodelet).await.expect("ends");
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, socket: &str) -> T {
        let client = Client::unix(self.fs.at(socket)).expect("client");
        client.get("/v1/status", PATIENCE).await.expect("status")
    }

    /// A daemon's status, once it is as wanted; not all of them have a long-poll.
    async fn until<T, U>(&self, socket: &str, look: impl Fn(T) -> Option<U>) -> U
    where
        T: serde::de::DeserializeOwned,
    {
        within(async {
            loop {
                // One that was just started may not listen yet.
                let client = Client::unix(self.fs.at(socket)).expect("client");
                let said = client.get("/v1/status", PATIENCE).await.ok();
                if let Some(found) = said.and_then(&look) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    /// Since when the tunnel is up.
    async fn up(&self) -> Timestamp {
        self.until(paths::COMMS_SOCKET, |s: TunnelStatus| match s.state {
            TunnelState::Connected { since } => Some(since),
            TunnelState::Connecting | TunnelState::NotEnrolled | TunnelState::Waiting { .. } => {
                None
            }
        })
        .await
    }

    /// Why the plane refuses this machine.
    async fn refused(&self) -> Fault {
        self.until(paths::COMMS_SOCKET, |s: TunnelStatus| s.last_fault)
            .await
    }

    /// Why nodelet changes nothing.
    async fn holds(&self) -> Fault {
        let why = |s: NodeStatus| s.reason.filter(|r| r.code == FaultCode::IdentityCopied);
        self.until(paths::NODELET_SOCKET, why).await
    }
}

#[tokio::test]
async fn a_signing_key_is_replaced_and_nobody_enrols_again() {
    let plane = Plane::start().await;
    let (here, away) = (
        Machine::new("52:54:00:00:00:01"),
        Machine::new("52:54:00:00:00:02"),
    );
    let host = here.enrol(&plane, &plane.token().await).await;
    let other = away.enrol(&plane, &plane.token().await).await;
    let daemons = here.start().await;
    let since = daemons.up().await;
    let first = plane.ready("signing", 2).await["current"].clone();
    assert_eq!(
        plane
            .keys("take-over", "signing")
            .await
            .expect_err("none")
            .code,
        FaultCode::KeysTurn
    );

    let announced = plane.keys("announce", "signing").await.expect("announced");
    let second = announced[0]["next"].clone();
    assert_ne!(first, second);
    plane.ready("signing", 1).await;
    // One was away: the rotation waits for it.
    let waits = plane
        .keys("take-over", "signing")
        .await
        .expect_err("one is away");
    assert_eq!(waits.code, FaultCode::KeysHostsWait);
    assert!(waits.why.contains(&other.to_string()), "{waits}");
    let late = away.start().await;
    plane.ready("signing", 2).await;

    plane
        .keys("take-over", "signing")
        .await
        .expect("taken over");
    let signed = |h: &Value| h["pf9"]["trust"]["spec_key"] == second;
    for id in [host, other] {
        let found = plane.until(id, signed).await;
        assert_eq!(found["pf9"]["state"], "ok");
        assert_eq!(found["pf9"]["refused"], Value::Null);
    }
    plane.ready("signing", 2).await;
    plane.keys("retire", "signing").await.expect("retired");
    let alone = |h: &Value| h["pf9"]["trust"]["keys"] == json!([second]);
    for id in [host, other] {
        plane.until(id, alone).await;
    }
    // All of it on the first session.
    assert_eq!(daemons.up().await, since);
    let status: TunnelStatus = daemons.get(paths::COMMS_SOCKET).await;
    assert_eq!(status.sessions[0].reconnects, 0);
    // The next run trusts what is on the disk.
    daemons.stop().await;
    let again = here.start().await;
    plane
        .until(host, |h| h["pf9"]["connected"] == true && signed(h))
        .await;
    let status: HostStatus = again.get(paths::HOSTAGENT_SOCKET).await;
    assert!(status.accepted_generation.0 >= 2, "{status:?}");
    again.stop().await;
    late.stop().await;
    plane.server.stop().await;
}

#[tokio::test]
async fn an_authority_takes_over_and_hosts_of_the_old_one_go_on() {
    let plane = Plane::start().await;
    let machine = Machine::new("52:54:00:00:00:01");
    let host = machine.enrol(&plane, &plane.token().await).await;
    let old_token = plane.token().await;
    let daemons = machine.start().await;
    daemons.up().await;
    plane
        .keys("announce", "authority")
        .await
        .expect("announced");
    plane.ready("authority", 1).await;
    plane
        .keys("take-over", "authority")
        .await
        .expect("taken over");
    let refused = plane
        .keys("retire", "authority")
        .await
        .expect_err("one needs it");
    assert_eq!(refused.code, FaultCode::KeysHostsWait);
    assert!(refused.why.contains(&host.to_string()), "{refused}");
    // The running session is not touched; the next one meets the new authority, and thereby gets a certificate from it,
    // although its own would have been valid for long.
    daemons.stop().await;
    let shown = || std::fs::read(machine.fs.at(paths::HOST_CERT)).expect("certificate");
    let before = shown();
    let daemons = machine.start().await;
    daemons.up().await;
    let now = plane.ready("authority", 1).await;
    let new = now["current"].as_str().expect("digest");
    // An older token names the old authority, and is valid while that is trusted.
    let late = Machine::new("52:54:00:00:00:03");
    let joined = late.enrol(&plane, &old_token).await;
    let late = late.start().await;
    late.up().await;
    let found = plane
        .until(joined, |h| h["pf9"]["trust"]["authorities"][0] == new)
        .await;
    assert_eq!(
        found["pf9"]["trust"]["authorities"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    plane.ready("authority", 2).await;
    plane.keys("retire", "authority").await.expect("retired");
    for id in [host, joined] {
        let alone = |h: &Value| h["pf9"]["trust"]["authorities"] == json!([new]);
        plane.until(id, alone).await;
    }
    assert_ne!(shown(), before);
    // Nobody enrolled again, and what is on the disk opens the next session.
    daemons.stop().await;
    let daemons = machine.start().await;
    daemons.up().await;
    late.stop().await;
    daemons.stop().await;
    plane.server.stop().await;
}

/// The note of the machine's identity, lost or truncated: reported, and rewritten from what the plane recorded when the
/// machine enrolled, not from the present machine.
#[tokio::test]
async fn a_lost_note_of_the_machine_is_reported_and_restored_by_the_plane() {
    let plane = Plane::start().await;
    let machine = Machine::new("52:54:00:00:00:01");
    machine.enrol(&plane, &plane.token().await).await;
    let daemons = machine.start().await;
    daemons.up().await;
    let warned = |s: HostStatus| s.acknowledged_at.is_some().then_some(s.health.warnings);
    daemons.until(paths::HOSTAGENT_SOCKET, warned).await;
    let at = machine.fs.at(paths::MACHINE);
    let noted = identity::pinned_machine(&machine.fs).expect("read");
    assert!(noted.is_some());
    for damaged in [None, Some("{\"schema\": 1, \"inter")] {
        std::fs::remove_file(&at).expect("gone");
        if let Some(text) = damaged {
            std::fs::write(&at, text).expect("cut");
        }
        let said = identity::machine_fault(&machine.fs).expect("said");
        assert_eq!(said.code, FaultCode::MachineUnknown);
        within(async {
            while identity::machine_fault(&machine.fs).is_some() {
                // Files have no long-poll.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        let now = identity::pinned_machine(&machine.fs).expect("read");
        assert_eq!(now, noted, "what the plane has noted");
    }
    daemons.stop().await;
    plane.server.stop().await;
}

#[tokio::test]
async fn a_disk_in_another_machine_is_named_and_does_nothing_until_it_is_accepted() {
    let plane = Plane::start().await;
    let original = Machine::new("52:54:00:00:00:01");
    let host = original.enrol(&plane, &plane.token().await).await;
    let daemons = original.start().await;
    let since = daemons.up().await;
    let copy = original.copied("52:54:00:00:00:99");
    let clone = copy.start().await;

    let said = clone.refused().await;
    assert_eq!(said.code, FaultCode::IdentityCopied, "{said}");
    assert!(said.why.contains("network interfaces"), "{said}");
    assert_eq!(clone.holds().await.why, said.why);
    let nodelet = Client::unix(copy.fs.at(paths::NODELET_SOCKET)).expect("client");
    let plan = nodelet.get::<Value>("/v1/plan", PATIENCE).await;
    let no_plan = plan.expect_err("nothing would be done").fault("plan");
    assert_eq!(no_plan.why, said.why);
    // The plane reports it with the same words, and so does the original, which continues.
    let known = plane.until(host, |h| !h["pf9"]["copy"].is_null()).await;
    assert_eq!(known["pf9"]["copy"]["fault"]["why"], said.why.as_str());
    let warns = |s: HostStatus| {
        s.health
            .warnings
            .into_iter()
            .find(|w| w.code == FaultCode::IdentityCopied)
    };
    assert_eq!(
        daemons.until(paths::HOSTAGENT_SOCKET, warns).await.why,
        said.why
    );
    assert_eq!(daemons.up().await, since);
    let path = format!("/hosts/{host}/accept-machine");
    let named = known["pf9"]["copy"]["boot_id"].clone();
    let named = json!({ "boot_id": named });
    let refused = plane.admin(Method::POST, &path, &named).await;
    assert_eq!(
        refused.expect_err("it is connected").code,
        FaultCode::HostConnected
    );

    // It was no copy: the disk moved. The old machine is gone, and a person confirms the new one.
    daemons.stop().await;
    clone.stop().await;
    plane.until(host, |h| h["pf9"]["connected"] == false).await;
    plane
        .admin(Method::POST, &path, &named)
        .await
        .expect("accepted");
    let moved = copy.start().await;
    moved.up().await;
    plane.until(host, |h| h["pf9"]["copy"].is_null()).await;
    let free = |s: NodeStatus| s.reason.is_none().then_some(());
    moved.until(paths::NODELET_SOCKET, free).await;
    // Once: the previous machine is the copy now.
    let before = original.start().await;
    assert_eq!(before.refused().await.code, FaultCode::IdentityCopied);
    before.stop().await;
    moved.stop().await;
    plane.server.stop().await;
}

#[tokio::test]
async fn a_full_clone_shows_itself_by_its_old_ticket() {
    let plane = Plane::start().await;
    let card = "52:54:00:00:00:01";
    let original = Machine::new(card);
    let host = original.enrol(&plane, &plane.token().await).await;
    let daemons = original.start().await;
    daemons.up().await;
    daemons.stop().await;
    let copy = original.copied(card);
    for _ in 0..2 {
        let daemons = original.start().await;
        daemons.up().await;
        daemons.stop().await;
    }
    let daemons = original.start().await;
    let since = daemons.up().await;
    let clone = copy.start().await;
    let said = clone.refused().await;
    assert_eq!(said.code, FaultCode::IdentityCopied, "{said}");
    assert!(said.why.contains("ticket"), "{said}");
    // Its marks are the original's: only the plane can tell, and nodelet trusts it.
    assert_eq!(clone.holds().await.why, said.why);
    assert_eq!(daemons.up().await, since, "the original was not disturbed");
    let known = plane.until(host, |h| !h["pf9"]["copy"].is_null()).await;
    assert_eq!(known["pf9"]["connected"], true);
    // The order stays in force, even if it is not repeated.
    clone.stop().await;
    let again = copy.start().await;
    assert_eq!(again.holds().await.why, said.why);
    again.stop().await;
    daemons.stop().await;
    plane.server.stop().await;
}

#[tokio::test]
async fn a_crash_before_storing_a_ticket_locks_nobody_out() {
    let plane = Plane::start().await;
    let machine = Machine::new("52:54:00:00:00:01");
    machine.enrol(&plane, &plane.token().await).await;
    let tickets = machine.fs.at(paths::TICKETS);
    let mut stored: Option<Vec<u8>> = None;
    // The first is lost, then one is stored, then two in a row are lost.
    for lost in [true, false, true, true, false, false] {
        let daemons = machine.start().await;
        daemons.up().await;
        daemons.stop().await;
        let now = std::fs::read(&tickets).expect("stored by now");
        assert_ne!(Some(&now), stored.as_ref(), "a fresh one each time");
        match (lost, &stored) {
            (true, Some(before)) => std::fs::write(&tickets, before).expect("as before"),
            (true, None) => std::fs::remove_file(&tickets).expect("as before"),
            (false, _) => stored = Some(now),
        }
    }
    plane.server.stop().await;
}
