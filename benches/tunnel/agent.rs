//! What a node's agent says when nothing happens: it waits for a spec and for operations, and reports its status.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::{SignedDuration, Timestamp};
use pf9_hostagent::model::{
    Authority, CertPurpose, CertificateStatus, ClusterId, DaemonHealth, Digest, DiskHealth,
    Envelope, Expiry, Generation, Health, HostId, HostStatus, Interface, Inventory, MACHINE_SCHEMA,
    MachineMarks, NodeState, NodeStatus, PhaseId, PhaseState, PhaseStatus, Role, STATUS_SCHEMA,
};
use pf9_hostagent::mux::{self, Handle, MuxStream};
use pf9_hostagent::wire::{Class, Meta};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// How long the plane holds a poll, as hostagent asks.
const WAIT_S: u64 = 30;
/// Time between two reports, by default.
const PERIOD: Duration = Duration::from_secs(60);
/// The first ones of a fleet spread over this.
const FIRST: Duration = Duration::from_secs(30);
/// As the agent's waits after a refusal begin.
const RETRY: Duration = Duration::from_secs(1);
/// A node's certificates: three of kubelet and kube-proxy, each with its authority.
const CERTIFICATES: [&str; 6] = [
    "kubelet/server",
    "kubelet/apiserver",
    "kube-proxy/apiserver",
    "cluster authority",
    "etcd authority",
    "front-proxy authority",
];
const DAEMONS: [&str; 6] = [
    "pf9-comms.service",
    "pf9-hostagent.service",
    "pf9-nodeletd.service",
    "pf9-containerd.service",
    "pf9-kubelet.service",
    "pf9-kube-proxy.service",
];

/// One of the fleet.
pub(crate) struct Agent {
    pub(crate) host: HostId,
    /// Which of them: its name and address follow.
    pub(crate) number: u32,
    boot_id: String,
    began: Instant,
    generation: Cell<Generation>,
    report_at: Cell<Instant>,
}

pub(crate) fn name(number: u32) -> String {
    format!("node-{number}")
}

pub(crate) fn address(number: u32) -> IpAddr {
    // 10.1.0.0 and up.
    Ipv4Addr::from_bits(0x0a01_0000 + number).into()
}

pub(crate) fn marks(host: HostId) -> MachineMarks {
    let mark = |kind| MachineMarks::digest(host, kind, "of the bench");
    MachineMarks {
        schema: MACHINE_SCHEMA,
        uuid: Some(mark("uuid")),
        serial: Some(mark("serial")),
        interfaces: [mark("interface")].into(),
    }
}

impl Agent {
    pub(crate) fn new(host: HostId, number: u32) -> Self {
        let now = Instant::now();
        Self {
            host,
            number,
            boot_id: HostId::random().to_string(),
            began: now,
            generation: Cell::default(),
            report_at: Cell::new(now + FIRST.mul_f64(fastrand::f64())),
        }
    }

    pub(crate) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// All of it, for as long as the session lives.
    pub(crate) async fn live(&self, session: &Handle) {
        // What goes wrong is tried again; where the session is over nobody waits for this.
        tokio::join!(
            self.specs(session),
            operations(session),
            self.reports(session)
        );
    }

    async fn specs(&self, session: &Handle) {
        let mut wait = 0;
        let mut kept = None;
        loop {
            let have = self.generation.get();
            let path = format!("/v1/hosts/self/spec?after={have}&seen={have}&wait={wait}");
            match asked(session, &mut kept, &path).await {
                Ok((200, body)) => {
                    if let Ok(generation) = generation_of(&body) {
                        self.generation.set(generation);
                    }
                }
                Ok((204, _)) => wait = WAIT_S,
                Ok(_) | Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    async fn reports(&self, session: &Handle) {
        loop {
            tokio::time::sleep_until(self.report_at.get()).await;
            let body = self.status().to_string();
            // hostagent keeps a connection for less than its period: each report has one of its own.
            let said = asked_once(session, "POST", "/v1/hosts/self/status", body.as_bytes()).await;
            match said {
                Ok((200 | 204, _)) => self.report_at.set(Instant::now() + PERIOD),
                Ok(_) | Err(_) => self.report_at.set(Instant::now() + RETRY),
            }
        }
    }

    /// Of a worker that is well.
    fn status(&self) -> Value {
        let now = Timestamp::now();
        let generation = self.generation.get();
        let node = NodeStatus {
            generation,
            role: Role::Worker,
            cluster_id: Some(ClusterId::random()),
            state: NodeState::Ok,
            phases: PhaseId::ALL.iter().map(|id| phase(*id, now)).collect(),
            last_sweep_at: Some(now),
            certificates: CERTIFICATES.iter().map(|n| certificate(n, now)).collect(),
            ..NodeStatus::default()
        };
        let status = HostStatus {
            schema: STATUS_SCHEMA,
            host_id: self.host,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.boot_id.clone(),
            uptime_s: self.began.elapsed().as_secs(),
            sent_at: now,
            acknowledged_at: Some(now),
            accepted_generation: generation,
            observed_generation: generation,
            state: NodeState::Ok,
            reason: None,
            refused: None,
            node: Some(node),
            download: None,
            certificates: CERTIFICATES.iter().map(|n| expiry(n, now)).collect(),
            inventory: self.inventory(),
            health: health(),
            trust: None,
            agent: Default::default(),
        };
        let mut whole = json!(status);
        // What the first release knows a certificate by.
        let all = whole.pointer_mut("/node/certificates");
        for one in all.and_then(Value::as_array_mut).into_iter().flatten() {
            one["purpose"] = json!(CertPurpose::EtcdClient);
        }
        whole
    }

    fn inventory(&self) -> Inventory {
        let interface = |name: &str, addresses: Vec<IpAddr>| Interface {
            name: name.to_owned(),
            mac: "52:54:00:12:34:56".to_owned(),
            addresses,
            networks: Vec::new(),
        };
        Inventory {
            hostname: name(self.number),
            os: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            os_id: "debian".to_owned(),
            os_version: "12".to_owned(),
            kernel: "6.1.0-28-amd64".to_owned(),
            systemd: "252".to_owned(),
            cgroup: Some(2),
            arch: "amd64".to_owned(),
            cpus: 8,
            cpu_model: "Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz".to_owned(),
            memory_bytes: 32 << 30,
            addresses: vec![address(self.number)],
            interfaces: vec![
                interface("eth0", vec![address(self.number)]),
                interface("eth1", Vec::new()),
                interface("cbr0", Vec::new()),
            ],
            ..Inventory::default()
        }
    }
}

fn phase(id: PhaseId, now: Timestamp) -> PhaseStatus {
    PhaseStatus {
        id,
        name: id.name().to_owned(),
        order: id.order(),
        state: PhaseState::Running,
        message: None,
        started_at: Some(now),
        took_ms: Some(41),
    }
}

fn certificate(name: &str, now: Timestamp) -> CertificateStatus {
    let digest = Digest::of(name.as_bytes());
    CertificateStatus {
        name: name.to_owned(),
        authority: Authority::Cluster,
        not_before: now,
        not_after: now + SignedDuration::from_hours(24 * 365),
        digest,
        issuer: digest,
    }
}

fn expiry(name: &str, now: Timestamp) -> Expiry {
    let hours = |n| now + SignedDuration::from_hours(n);
    Expiry {
        renew_at: Some(hours(24 * 250)),
        ..Expiry::new(name, hours(24 * 365))
    }
}

fn health() -> Health {
    let disk = |path: &str| DiskHealth {
        path: path.to_owned(),
        total_bytes: 100 << 30,
        available_bytes: 60 << 30,
        total_inodes: 6_000_000,
        free_inodes: 5_000_000,
    };
    let daemon = |unit: &&str| DaemonHealth {
        unit: (*unit).to_owned(),
        memory_bytes: 20 << 20,
        limit_bytes: 200 << 20,
    };
    Health {
        load1: 0.21,
        memory_available_bytes: 24 << 30,
        disks: ["/", "/var/lib/pf9", "/var/log"].map(disk).into(),
        warnings: Vec::new(),
        daemons: DAEMONS.iter().map(daemon).collect(),
        ..Health::default()
    }
}

fn generation_of(envelope: &[u8]) -> Result<Generation> {
    let envelope: Envelope = serde_json::from_slice(envelope)?;
    let mut spec: Value = serde_json::from_slice(&BASE64.decode(envelope.payload)?)?;
    Ok(serde_json::from_value(spec["generation"].take())?)
}

async fn operations(session: &Handle) {
    let path = format!("/v1/hosts/self/operations?wait={WAIT_S}");
    let mut kept = None;
    loop {
        match asked(session, &mut kept, &path).await {
            Ok((204, _)) => {}
            // The first release has none; nobody orders any here.
            Ok(_) => return,
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// A question on a connection that is kept for the next one.
async fn asked(
    session: &Handle,
    kept: &mut Option<MuxStream>,
    path: &str,
) -> Result<(u16, Vec<u8>)> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => opened(session)?,
    };
    let said = ask(&mut stream, "GET", path, &[]).await?;
    *kept = Some(stream);
    Ok(said)
}

async fn asked_once(
    session: &Handle,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<(u16, Vec<u8>)> {
    let mut stream = opened(session)?;
    let said = ask(&mut stream, method, path, body).await?;
    stream.shutdown().await?;
    Ok(said)
}

fn opened(session: &Handle) -> Result<MuxStream> {
    Ok(session.open(mux::HOST_API, Class::Bulk, Meta::new())?)
}

/// HTTP/1.1, as far as these questions need it: ten thousand clients of a library would be the larger part of the load.
async fn ask(
    stream: &mut MuxStream,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<(u16, Vec<u8>)> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: plane\r\naccept: */*\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await?;
    stream.flush().await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let status = line.split(' ').nth(1).context("no answer")?.parse()?;
    let mut length = 0;
    loop {
        line.clear();
        ensure!(stream.read_line(&mut line).await? > 0, "half an answer");
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse()?;
        }
    }
    let mut said = vec![0; length];
    stream.read_exact(&mut said).await?;
    Ok((status, said))
}
