//! The chore of the fire drill: the newest backup, a key, and how the last one went, on disk.

use serde::{Deserialize, Serialize};

use super::keeper::Master;
use crate::backup::drill::{self, Drill, Opener};
use crate::backup::shelf::{self, SEALED, Shelf};
use crate::backup::{private, seal};
use crate::host::Host;
use crate::host::documents::{Document, Store};
use crate::host::fs::HostFs;
use crate::model::{ChoreAnswer, DrillReport, Fault, FaultCode, Timestamp};
use crate::nodelet::peers::Peers;
use crate::nodelet::phase::layout::BIN;
use crate::telemetry::chain;

const LAST: &str = "/var/opt/pf9/nodelet/etcd-drilled.json";
/// A report with a fault.
const LAST_MAX: u64 = 16 * 1024;
const NOT_TRIED: &str = "no backup of etcd was tried";

/// How the last drill went: a restart makes no new one due.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Last {
    schema: u32,
    report: DrillReport,
}

impl Document for Last {
    const SCHEMA: u32 = 1;
}

/// How the last one went, as far as anybody knows.
pub(super) fn last(fs: &HostFs) -> Option<DrillReport> {
    let loaded = store(fs).load(Timestamp::now(), |last: Last| Ok(last.report));
    if let Some(fault) = &loaded.fault {
        tracing::warn!(code = fault.code.word(), "{fault}");
    }
    loaded.value
}

/// Tries the newest backup of this cluster, opened by the key in this file. What could not even begin is
/// a report, too: somebody has to see it.
pub(super) async fn run(
    host: &Host,
    peers: &mut Peers,
    master: &Master,
    key: Option<&str>,
) -> DrillReport {
    let now = Timestamp::now();
    let report = tried(host, peers, master, key, now).await;
    let report = report.unwrap_or_else(|fault| DrillReport {
        backup: String::new(),
        at: now,
        took_ms: 0,
        keys: 0,
        behind: 0,
        fault: Some(fault),
    });
    let kept = Last {
        schema: Last::SCHEMA,
        report: report.clone(),
    };
    if let Err(error) = store(&host.fs).save(&kept) {
        // It is in the status until the next start, and the next drill comes early then.
        tracing::warn!(error = chain(&error), "how the drill went is not on disk");
    }
    report
}

async fn tried(
    host: &Host,
    peers: &mut Peers,
    master: &Master,
    key: Option<&str>,
    now: Timestamp,
) -> Result<DrillReport, Fault> {
    let (fs, node) = (&host.fs, &master.work.node);
    let not = |code, why: String| Fault::new(code, NOT_TRIED, why);
    let dir = shelf::dir(&node.etcd.backup);
    let look = Shelf::look(fs, dir).map_err(|e| not(FaultCode::EtcdDrill, chain(&e)))?;
    let Some(manifest) = look.newest_of(node.cluster_id) else {
        let why = "there is none of this cluster on this machine";
        return Err(not(FaultCode::EtcdDrill, why.to_owned()).fix("pf9ctl etcd backup"));
    };
    let keys = openers(fs, key.or(node.etcd.backup.drill_key.as_deref()))?;
    let live = peers.etcd(fs, node).ok();
    let sealed = format!("{dir}/{}{SEALED}", manifest.name);
    let drill = Drill {
        fs,
        bin: BIN,
        sealed: &sealed,
        manifest,
        keys,
        live: live.as_ref(),
    };
    Ok(drill::run(drill, now).await)
}

/// What a drill answers to who ordered it.
pub(super) fn answer(report: &DrillReport) -> Result<ChoreAnswer, Fault> {
    match &report.fault {
        Some(fault) => Err(fault.clone()),
        None => Ok(ChoreAnswer {
            done: format!(
                "backup {} was restored into an etcd of its own in {} s: {} keys, {} revisions behind the live cluster",
                report.backup,
                report.took_ms / 1000,
                report.keys,
                report.behind
            ),
            backup: None,
        }),
    }
}

fn openers(fs: &HostFs, file: Option<&str>) -> Result<Vec<Opener>, Fault> {
    let not = |why: String| Fault::new(FaultCode::EtcdDrill, NOT_TRIED, why);
    let Some(file) = file else {
        let why = "no key is known that opens it";
        return Err(not(why.to_owned()).fix(
            "pf9ctl etcd drill --recovery-key FILE, or name a file on the masters as drill_key in the cluster's settings",
        ));
    };
    let text = private::text(fs, file, seal::KEY_FILE_MAX).map_err(|why| {
        not(format!("{file}: {why}")).fix(format!("chown root {file} && chmod 0600 {file}"))
    })?;
    let keys = seal::keys(&text)?.into_iter();
    Ok(keys.map(|key| Box::new(key) as Opener).collect())
}

fn store(fs: &HostFs) -> Store {
    Store::new(fs.clone(), LAST, 0o600, LAST_MAX)
}
