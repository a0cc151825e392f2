//! The load tool of `scripts/bench etcd`: what a master does with its etcd, by the agent's own code, and
//! what an API server does meanwhile.
//!
//! | role | does |
//! |---|---|
//! | `prepare` | an authority, and one certificate for everybody |
//! | `fill`    | writes objects until there are so many bytes |
//! | `writes`  | writes as an API server does, at a fixed rate; how long they take |
//! | `backup`  | takes a backup |
//! | `drill`   | opens, restores, starts and counts the newest one |
//!
//! Each prints one JSON object. `peak_kib` is the most memory that this process had.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::{Parser, Subcommand};
use pf9_hostagent::backup::drill::{self, Drill};
use pf9_hostagent::backup::seal;
use pf9_hostagent::backup::shelf::{SEALED, Shelf};
use pf9_hostagent::backup::take::{BackupOrigin, Taking, take};
use pf9_hostagent::host::etcd::Etcd;
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::host::tls::{self, ClientIdentity};
use pf9_hostagent::identity::order_key;
use pf9_hostagent::model::{
    BackupManifest, BackupSettings, BackupTrust, ClusterId, Digest, DocumentKind, HostId, Secret,
    StackRef, Timestamp, paths,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Where the programs are, below the root.
const BIN: &str = "/programs";
/// Writes under way at once while a database is filled.
const FILLERS: usize = 16;
/// Objects that `writes` changes: as many as a cluster's nodes and leases.
const OBJECTS: u64 = 500;
const CA: &str = "ca.pem";
const CERT: &str = "cert.pem";
const KEY: &str = "key.pem";
const RECOVERY: &str = "recovery.key";

#[derive(Parser)]
#[command(about = "Load tool of scripts/bench etcd")]
struct Args {
    /// Certificates and keys.
    #[arg(long)]
    dir: PathBuf,
    /// The member, `https://127.0.0.1:port`.
    #[arg(long, default_value = "")]
    url: String,
    /// The machine's root: `/programs` below it has etcd's.
    #[arg(long, default_value = "/")]
    root: PathBuf,
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    Prepare,
    Fill {
        #[arg(long)]
        bytes: u64,
        /// Of one object.
        #[arg(long, default_value_t = 8192)]
        value: usize,
    },
    Writes {
        #[arg(long)]
        seconds: u64,
        #[arg(long, default_value_t = 50)]
        per_second: u64,
    },
    Backup,
    Drill,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let said = match args.role {
        Role::Prepare => prepare(&args.dir)?,
        Role::Fill { bytes, value } => fill(&args, bytes, value).await?,
        Role::Writes {
            seconds,
            per_second,
        } => writes(&args, seconds, per_second).await?,
        Role::Backup => backup(&args).await?,
        Role::Drill => drilled(&args).await?,
    };
    use std::io::Write;
    writeln!(std::io::stdout(), "{said}")?;
    Ok(())
}

fn prepare(dir: &Path) -> Result<Value> {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
    fs::write(dir.join(CA), made.cert.pem())?;
    fs::write(dir.join(CERT), made.cert.pem())?;
    fs::write(dir.join(KEY), made.signing_key.serialize_pem())?;
    let (key, public) = seal::new_key();
    fs::write(dir.join(RECOVERY), key.expose())?;
    fs::write(dir.join("recovery.pub"), public)?;
    Ok(json!({}))
}

/// etcd's client of the agent, and one for what the agent never does: writing.
fn clients(args: &Args) -> Result<(Etcd, reqwest::Client)> {
    let read = |name: &str| fs::read(args.dir.join(name)).with_context(|| name.to_owned());
    let (authority, certificate, key) = (read(CA)?, read(CERT)?, read(KEY)?);
    let identity = ClientIdentity {
        authority: &authority,
        certificate: &certificate,
        key: &key,
    };
    Ok((Etcd::new(&args.url, identity)?, tls::client(identity)?))
}

async fn put(client: &reqwest::Client, url: &str, key: &str, value: &[u8]) -> Result<()> {
    let body = json!({
        "key": BASE64_STANDARD.encode(key),
        "value": BASE64_STANDARD.encode(value),
    });
    let answer = client
        .post(format!("{url}/v3/kv/put"))
        .json(&body)
        .send()
        .await?;
    if !answer.status().is_success() {
        bail!("{}: {}", answer.status(), answer.text().await?);
    }
    answer.bytes().await?;
    Ok(())
}

async fn fill(args: &Args, bytes: u64, value: usize) -> Result<Value> {
    let (_, client) = clients(args)?;
    let count = bytes.div_ceil(value as u64);
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut fillers = JoinSet::new();
    for _ in 0..FILLERS {
        let (client, url, next) = (client.clone(), args.url.clone(), Arc::clone(&next));
        fillers.spawn(async move {
            let mut object = vec![0; value];
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok::<_, anyhow::Error>(());
                }
                // Nothing compresses, and no two are alike.
                fastrand::fill(&mut object);
                put(&client, &url, &format!("/registry/pods/ns/{n:09}"), &object).await?;
            }
        });
    }
    while let Some(done) = fillers.join_next().await {
        done??;
    }
    Ok(json!({"keys": count, "seconds": began.elapsed().as_secs_f64()}))
}

/// One write at each tick, whether the one before it has ended or not: waiting for a slow server would
/// measure the client instead.
async fn writes(args: &Args, seconds: u64, per_second: u64) -> Result<Value> {
    let (_, client) = clients(args)?;
    let mut tick = tokio::time::interval(Duration::from_secs(1) / u32::try_from(per_second)?);
    let mut under_way = JoinSet::new();
    let mut took = Vec::new();
    let mut object = vec![0; 1024];
    for n in 0..seconds * per_second {
        tick.tick().await;
        fastrand::fill(&mut object);
        let (client, url, object) = (client.clone(), args.url.clone(), object.clone());
        under_way.spawn(async move {
            let began = Instant::now();
            put(
                &client,
                &url,
                &format!("/registry/leases/{}", n % OBJECTS),
                &object,
            )
            .await?;
            Ok::<_, anyhow::Error>(began.elapsed())
        });
        while let Some(done) = under_way.try_join_next() {
            took.push(done??);
        }
    }
    while let Some(done) = under_way.join_next().await {
        took.push(done??);
    }
    took.sort();
    let at = |share: usize| {
        let place = (took.len() * share / 100).min(took.len().saturating_sub(1));
        took.get(place).map_or(0.0, |t| t.as_secs_f64() * 1000.0)
    };
    Ok(json!({"writes": took.len(), "p50_ms": at(50), "p99_ms": at(99)}))
}

async fn backup(args: &Args) -> Result<Value> {
    let (etcd, _) = clients(args)?;
    let recipient = fs::read_to_string(args.dir.join("recovery.pub"))?;
    let (host, etcdutl) = (HostFs::new(&args.root), format!("{BIN}/etcdutl"));
    let host_id = HostId::random();
    let (key, _) = order_key::ensure(&host, host_id).map_err(|f| anyhow!("{f}"))?;
    let sign = |manifest: &BackupManifest| key.sign(DocumentKind::Backup, manifest);
    let began = Instant::now();
    let made = take(Taking {
        fs: &host,
        etcd: &etcd,
        etcdutl: &etcdutl,
        dir: paths::ETCD_BACKUPS,
        recipients: vec![recipient],
        db_bytes: 0,
        now: Timestamp::now(),
        about: about(host_id)?,
        sign: &sign,
    });
    let made = made.await.map_err(|f| anyhow!("{f}"))?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(
        json!({"seconds": seconds, "bytes": made.plain_bytes, "keys": made.keys, "peak_kib": peak_kib()?}),
    )
}

fn about(host_id: HostId) -> Result<BackupOrigin> {
    Ok(BackupOrigin {
        host_id,
        cluster_id: ClusterId::random(),
        etcd_cluster_id: "0".to_owned(),
        member_id: "0".to_owned(),
        etcd_version: String::new(),
        kubernetes_version: String::new(),
        settings: BackupSettings {
            cluster_name: "bench".to_owned(),
            api_host: "127.0.0.1".to_owned(),
            api_port: 6443,
            pods_cidr: "10.20.0.0/16".parse()?,
            services_cidr: "10.21.0.0/16".parse()?,
            cluster_domain: "cluster.local".to_owned(),
            stack: StackRef {
                name: "bench".to_owned(),
                version: "0".to_owned(),
                manifest: Digest::of(b""),
            },
        },
    })
}

async fn drilled(args: &Args) -> Result<Value> {
    let host = HostFs::new(&args.root);
    let shelf = Shelf::look(&host, paths::ETCD_BACKUPS, &BackupTrust::Unchecked)?;
    let manifest = shelf.manifests().last().context("no backup")?;
    let key = Secret::new(fs::read_to_string(args.dir.join(RECOVERY))?);
    let keys = seal::keys(&key).map_err(|f| anyhow!("{f}"))?;
    let sealed = format!("{}/{}{SEALED}", paths::ETCD_BACKUPS, manifest.name);
    let drill = Drill {
        fs: &host,
        bin: BIN,
        sealed: &sealed,
        manifest,
        keys,
        live: None,
    };
    let scratch = drill::begin(&host, manifest).map_err(|f| anyhow!("{f}"))?;
    let report = drill::run(scratch, drill, Timestamp::now()).await;
    if let Some(fault) = report.fault {
        bail!("{fault}");
    }
    let seconds = Duration::from_millis(report.took_ms).as_secs_f64();
    Ok(json!({"seconds": seconds, "keys": report.keys, "peak_kib": peak_kib()?}))
}

fn peak_kib() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().next());
    Ok(kib.context("no VmHWM")?.parse()?)
}
