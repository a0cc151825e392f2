//! A fire drill: a backup is opened, restored into an etcd of its own, started and counted, and all of it is removed
//! again. What was never restored is no backup.
//!
//! ```text
//! room and memory ─► open the seal ─► etcdutl opens it ─► etcdutl restores it ─► etcd starts on a
//! private socket ─► its revision and keys against the manifest and the live cluster ─► gone
//! ```
//!
//! Everything is in one directory, which is removed with the drill, with an interrupted process, or by the next look
//! ([`sweep`]). The scratch etcd listens on a socket in that directory and on an unpublished port of the loopback
//! address; the kernel bounds its memory and the size of its files, and where systemd runs it is in a scope of its own
//! that ends with nodelet.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::seal::Opener;
use super::verify;
use crate::host::etcd::{Etcd, EtcdError, Keys};
use crate::host::exec::{self, Cmd};
use crate::host::fs::{Attrs, HostFs};
use crate::host::ours::units;
use crate::host::{facts, noise, space};
use crate::model::{BackupManifest, DrillReport, Fault, FaultCode, Timestamp};
use crate::seam::disk;
use crate::telemetry::chain;

/// Where a drill is; nothing else is there.
pub const DIR: &str = "/var/opt/pf9/nodelet/etcd-drill";
/// It writes what it reads once: 8 GiB at 10 MiB/s, the slowest of disks.
const RESTORE: Duration = Duration::from_secs(15 * 60);
/// It reads its database once, and elects itself.
const START: Duration = Duration::from_secs(5 * 60);
/// Between two questions whether it has started.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// An etcd with nothing in it has 84 MiB of data, most of it never touched.
const MEMORY_BASE: u64 = 160 * MIB;
/// What it remembers of each key beside the database.
const MEMORY_PER_KEY: u64 = 640;
/// What it remembers of old revisions, which no manifest counts, as a part of the file: two fifths. A revision of a small
/// object takes 118 bytes of the file and about 40 of memory: measured with etcd 3.7.3 and 3 million of them.
const MEMORY_OF_FILE: (u64, u64) = (2, 5);
/// However many keys: the machine has a live cluster to keep.
const MEMORY_MOST: u64 = 2048 * MIB;
/// What the machine keeps for itself while a drill runs.
const MEMORY_LEFT: u64 = 256 * MIB;
/// etcd makes its log in files of this size, one ahead.
const LOG: u64 = 64 * MIB;
const MIB: u64 = 1024 * 1024;
/// Nobody is at this address: a member that is alone calls no other.
const NOWHERE: &str = "http://127.0.0.1:1";
const NAME: &str = "drill";
/// How often a directory is emptied into which something still writes.
const REMOVALS: usize = 10;
/// Longest words of a program that are repeated.
const SAID_MAX: usize = 400;

const WHAT: &str = "the fire drill of etcd's backups failed";

/// What to try.
pub struct Drill<'a> {
    /// The machine.
    pub fs: &'a HostFs,
    /// The directory of the stack's programs, of the machine.
    pub bin: &'a str,
    /// The sealed file, of the machine.
    pub sealed: &'a str,
    /// Its manifest.
    pub manifest: &'a BackupManifest,
    /// What can open it.
    pub keys: Vec<Opener>,
    /// The member that has the live data, if it is of the same cluster and answers.
    pub live: Option<&'a Etcd>,
}

/// Limits of a drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    /// Without this much the drill does not start: enough for the running node.
    memory: u64,
    /// With old revisions of small objects alone in the file, as much as the machine can spare.
    memory_most: u64,
    /// Of one file, in bytes.
    file: u64,
    /// Of all files together, in bytes.
    room: u64,
}

/// What the live cluster says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Live {
    revision: u64,
    /// Keys at the backup's revision; `None` where history no longer reaches back to it.
    keys_then: Option<u64>,
}

/// The directory of a drill for which there is room and memory; goes with the value.
pub struct Scratch {
    at: PathBuf,
    bounds: Bounds,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A program that was killed a moment ago may be at its last write. What is left after all is removed by the
        // next look.
        for _ in 0..REMOVALS {
            match disk::remove_dir_all(&self.at) {
                Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                    std::thread::yield_now()
                }
                Ok(()) | Err(_) => return,
            }
        }
    }
}

/// Takes away what a drill left that was killed.
pub fn sweep(fs: &HostFs) -> Result<(), Fault> {
    let failed = |e| Fault::new(FaultCode::EtcdDrill, WHAT, chain(&e));
    fs.remove_tree(DIR).map_err(failed)
}

/// Makes ready for a drill of this backup, or refuses where the live cluster could be hurt. Before anybody
/// is asked for a key: a machine that is busy tries again, and every key that is given is noted.
pub fn begin(fs: &HostFs, manifest: &BackupManifest) -> Result<Scratch, Fault> {
    sweep(fs)?;
    let mut scratch = Scratch {
        at: fs.at(DIR),
        bounds: bounds_of(manifest.plain_bytes, manifest.keys),
    };
    fs.make_dir(DIR, &Attrs::mode(0o700))
        .map_err(|e| Fault::new(FaultCode::EtcdDrill, WHAT, chain(&e)))?;
    scratch.bounds = enough(fs, &scratch.at, scratch.bounds)?;
    Ok(scratch)
}

/// Does it, whatever comes of it. Dropped, it ends, and nothing of it stays.
pub async fn run(scratch: Scratch, drill: Drill<'_>, now: Timestamp) -> DrillReport {
    let began = Instant::now();
    let backup = drill.manifest.name.clone();
    let done = tried(&scratch, drill).await;
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (keys, behind, fault) = match done {
        Ok((keys, behind)) => (keys, behind, None),
        Err(fault) => (0, 0, Some(fault)),
    };
    DrillReport {
        backup,
        at: now,
        took_ms,
        keys,
        behind,
        fault,
    }
}

/// Keys that were there again, and how far the live cluster has gone on since.
async fn tried(scratch: &Scratch, drill: Drill<'_>) -> Result<(u64, u64), Fault> {
    let (fs, manifest, bounds) = (drill.fs, drill.manifest, scratch.bounds);
    let failed = |why: String| Fault::new(FaultCode::EtcdDrill, WHAT, why);
    let program = |name: &str| fs.at(format!("{}/{name}", drill.bin));
    let to = format!("{DIR}/snapshot.db");
    let (etcdutl, sealed) = (program("etcdutl"), fs.at(drill.sealed));
    let opened = verify::opened(fs, &etcdutl, &sealed, manifest, drill.keys, &to).await?;
    let placed = super::blocking(move || opened.place()).await;
    placed.map_err(|e| failed(chain(&e)))?;
    let plain = fs.at(&to);
    let data = scratch.at.join("data");
    let restore = restore(fs, &etcdutl, &plain, &data, bounds);
    let restored = exec::run(restore).await;
    restored.map_err(|e| failed(format!("etcdutl does not restore it: {}", chain(&e))))?;
    disk::remove_file(&plain).map_err(|e| failed(e.to_string()))?;
    let socket = scratch.at.join("socket");
    let server = serve(fs, &program("etcd"), &data, &socket, bounds);
    let there = tokio::select! {
        // cancel-safe: what is dropped is killed
        ended = exec::ask(server) => {
            let said = ended.map_or_else(|e| chain(&e), |a| last_words(&a.stderr));
            return Err(ended_early(bounds, &said));
        }
        counted = counted(&socket) => counted.map_err(|e| failed(chain(&e)))?,
    };
    let live = match drill.live {
        Some(etcd) => live(etcd, manifest.revision).await,
        None => None,
    };
    let behind = compare(manifest.revision, there, live).map_err(failed)?;
    Ok((there.keys, behind))
}

/// What a backup with so many bytes and keys may take.
fn bounds_of(plain: u64, keys: u64) -> Bounds {
    let index = keys.saturating_mul(MEMORY_PER_KEY);
    let memory = MEMORY_BASE.saturating_add(index).min(MEMORY_MOST);
    let (part, of) = MEMORY_OF_FILE;
    let old = (plain / of).saturating_mul(part);
    Bounds {
        memory,
        memory_most: memory.saturating_add(old).min(MEMORY_MOST),
        // bbolt grows a file by doubling while it is small, and by 16 MiB later.
        file: plain.saturating_mul(2).max(2 * LOG),
        // Plain and restored at once, and two files of the log.
        room: plain.saturating_mul(2).saturating_add(4 * LOG),
    }
}

/// Refuses where the live cluster could be hurt; else what the machine can spare.
fn enough(fs: &HostFs, dir: &Path, bounds: Bounds) -> Result<Bounds, Fault> {
    let room = space::of(dir).map_err(|e| Fault::new(FaultCode::EtcdDrill, WHAT, e.to_string()))?;
    room.require(Path::new(DIR), bounds.room)
        .map_err(|e| Fault::new(FaultCode::DiskFull, WHAT, e.to_string()).fix(space::FIX))?;
    spared(bounds, facts::memory_available(fs))
}

/// What a drill may take of so much free memory. A machine that does not tell is taken to have what is needed.
fn spared(bounds: Bounds, free: Option<u64>) -> Result<Bounds, Fault> {
    let need = bounds.memory.saturating_add(MEMORY_LEFT);
    let free = free.unwrap_or(need);
    match free >= need {
        true => Ok(Bounds {
            memory: bounds.memory_most.min(free - MEMORY_LEFT),
            ..bounds
        }),
        false => {
            let why = format!(
                "{} MiB of memory are free, {} MiB are needed",
                free / MIB,
                need / MIB
            );
            let fix = "nothing was restored; it is retried automatically within hours, or run it at a quieter time: \
                pf9ctl etcd drill";
            Err(Fault::new(FaultCode::MemoryLow, WHAT, why).fix(fix))
        }
    }
}

fn restore(fs: &HostFs, etcdutl: &Path, plain: &Path, data: &Path, bounds: Bounds) -> Cmd {
    caged(fs, etcdutl, bounds, RESTORE)
        .args(["snapshot", "restore"])
        .arg(plain)
        .arg("--data-dir")
        .arg(data)
        .args(alone())
}

fn serve(fs: &HostFs, etcd: &Path, data: &Path, socket: &Path, bounds: Bounds) -> Cmd {
    let mut listen = OsString::from("unix://");
    listen.push(socket);
    caged(fs, etcd, bounds, START)
        .arg("--data-dir")
        .arg(data)
        .args(alone())
        .arg("--listen-client-urls")
        .arg(listen)
        .args(["--advertise-client-urls", NOWHERE])
        // Any free port: etcd below 3.7 takes no socket for it.
        .args(["--listen-peer-urls", "http://127.0.0.1:0"])
        // Nothing of it is to survive.
        .arg("--unsafe-no-fsync")
        .args(["--log-level", "warn"])
}

/// A cluster of one, under an address without a listener.
fn alone() -> Vec<String> {
    let pairs = [
        ("--name", NAME.to_owned()),
        ("--initial-cluster", format!("{NAME}={NOWHERE}")),
        ("--initial-advertise-peer-urls", NOWHERE.to_owned()),
        ("--initial-cluster-token", NAME.to_owned()),
    ];
    pairs
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
}

/// A program with bounds that the kernel holds.
fn caged(fs: &HostFs, program: &Path, bounds: Bounds, deadline: Duration) -> Cmd {
    let mut words: Vec<OsString> = Vec::new();
    // Where systemd runs, as its own documentation tells it.
    if fs.at("/run/systemd/system").is_dir() {
        words.push(exec::program(fs, "systemd-run").into());
        words.extend(scope(bounds).map(OsString::from));
    }
    words.push(exec::program(fs, "prlimit").into());
    words.extend(limits(bounds).map(OsString::from));
    words.push(program.into());
    let mut words = words.into_iter();
    let first = words.next().unwrap_or_default();
    // Go collects in time to stay below the bound.
    let soft = bounds.memory / 4 * 3;
    Cmd::new(PathBuf::from(first), deadline)
        .args(words)
        .env("GOMEMLIMIT", soft.to_string())
}

/// A scope of its own: what it takes is not counted to nodelet, and it ends with nodelet.
fn scope(bounds: Bounds) -> [String; 14] {
    let property = |text: String| ["-p".to_owned(), text];
    let [unit, quiet, collect, kind] =
        ["--unit=pf9-etcd-drill", "--quiet", "--collect", "--scope"].map(str::to_owned);
    let [a, b] = property(format!("MemoryMax={}", bounds.memory));
    let [c, d] = property("MemorySwapMax=0".to_owned());
    let [e, f] = property("BindsTo=pf9-nodeletd.service".to_owned());
    let [g, h] = property("After=pf9-nodeletd.service".to_owned());
    // As nodelet's own: the live etcd goes before it.
    let [i, j] = property("CPUWeight=30".to_owned());
    [unit, quiet, collect, kind, a, b, c, d, e, f, g, h, i, j]
}

/// The database is mapped from its file and not counted as data.
fn limits(bounds: Bounds) -> [String; 3] {
    [
        format!("--data={}", bounds.memory),
        format!("--fsize={}", bounds.file),
        "--core=0".to_owned(),
    ]
}

/// What the scratch etcd has, as soon as it answers.
async fn counted(socket: &Path) -> Result<Keys, EtcdError> {
    let etcd = Etcd::at_socket(socket)?;
    loop {
        if etcd.healthy().await.is_ok() {
            return etcd.keys(None).await;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// What the live cluster has. One that does not answer spoils no drill: backups are for such days.
async fn live(etcd: &Etcd, revision: u64) -> Option<Live> {
    let now = etcd.keys(None).await.ok()?;
    // Refused where it was compacted since.
    let then = etcd.keys(Some(revision)).await.ok();
    Some(Live {
        revision: now.revision,
        keys_then: then.map(|k| k.keys),
    })
}

/// How far the live cluster has gone on, or what is wrong with what was restored.
fn compare(revision: u64, there: Keys, live: Option<Live>) -> Result<u64, String> {
    if there.revision != revision {
        return Err(format!(
            "the restored etcd is at revision {}, the backup is of {revision}",
            there.revision
        ));
    }
    if there.keys == 0 {
        return Err("the restored etcd has no keys".to_owned());
    }
    let Some(live) = live else { return Ok(0) };
    match live.keys_then {
        Some(then) if then != there.keys => Err(format!(
            "the live cluster had {then} keys at revision {revision}, the restored etcd has {}",
            there.keys
        )),
        // A cluster that was restored since may be at a lower revision.
        Some(_) | None => Ok(live.revision.saturating_sub(revision)),
    }
}

/// Where the machine could not spare what a file of this size may take, that says nothing of the backup.
fn ended_early(bounds: Bounds, said: &str) -> Fault {
    let why = format!("the restored etcd ended: {said}");
    match bounds.memory < bounds.memory_most {
        false => Fault::new(FaultCode::EtcdDrill, WHAT, why),
        true => {
            let why = format!(
                "{why}; it had {} MiB of memory, and up to {} MiB may be needed",
                bounds.memory / MIB,
                bounds.memory_most / MIB
            );
            let fix =
                "try it at a quieter time, or on a master with more memory: pf9ctl etcd drill";
            Fault::new(FaultCode::MemoryLow, WHAT, why).fix(fix)
        }
    }
}

/// What etcd has against what it was given; of one that says nothing of the kind, the end of its words.
fn last_words(stderr: &str) -> String {
    if let Some(fault) = noise::last_fault(units::ETCD, stderr) {
        return fault;
    }
    let lines: Vec<_> = stderr.lines().filter(|l| !l.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(2);
    let words = lines.get(from..).unwrap_or_default().join("; ");
    words.chars().take(SAID_MAX).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn there(revision: u64, keys: u64) -> Keys {
        Keys { revision, keys }
    }

    #[test]
    fn an_etcd_that_ended_is_quoted_by_its_fault_and_not_by_its_end() {
        let info = |msg: &str| format!("{{\"level\":\"info\",\"msg\":\"{msg}\"}}\n");
        let fatal = "{\"level\":\"fatal\",\"msg\":\"cannot open\",\"error\":\"bad magic\",\"stacktrace\":\"x\"}\n";
        let log = [
            info("begin"),
            fatal.to_owned(),
            info("closing"),
            info("closed"),
        ]
        .concat();
        assert_eq!(last_words(&log), "cannot open: bad magic");
        let died =
            info("begin") + "fatal error: runtime: out of memory\n\ngoroutine 1 [running]:\nx\n";
        assert_eq!(last_words(&died), "fatal error: runtime: out of memory");
        assert_eq!(last_words("a\n\nb\nc\n"), "b; c");
    }

    proptest! {
        /// A drill is good when everything that is known agrees, and only then.
        #[test]
        fn what_agrees_is_good(
            revision in 1u64..50, restored in 1u64..50, keys in 0u64..5, now in 0u64..100, then in prop::option::of(0u64..5),
        ) {
            let live = Live { revision: now, keys_then: then };
            let judged = compare(revision, there(restored, keys), Some(live));
            let good = revision == restored && keys > 0 && then.is_none_or(|then| then == keys);
            prop_assert_eq!(judged.is_ok(), good);
            if let Ok(behind) = judged {
                prop_assert_eq!(behind, now.saturating_sub(revision));
            }
        }

    }

    proptest! {
        /// Never more than the machine can spare, nor than the file may need; never less than what is alive needs.
        #[test]
        fn a_drill_takes_what_it_may_need_and_leaves_the_machine_its_own(
            plain in any::<u64>(), keys in any::<u64>(), free in prop::option::of(0u64..16 << 30),
        ) {
            let asked = bounds_of(plain, keys);
            let need = asked.memory + MEMORY_LEFT;
            prop_assert!(asked.memory <= asked.memory_most && asked.memory_most <= MEMORY_MOST);
            match spared(asked, free) {
                Ok(given) => {
                    let free = free.unwrap_or(need);
                    prop_assert!(given.memory + MEMORY_LEFT <= free);
                    prop_assert!(given.memory >= asked.memory && given.memory <= asked.memory_most);
                    prop_assert!(given.memory == asked.memory_most || given.memory == free - MEMORY_LEFT);
                }
                Err(fault) => {
                    prop_assert_eq!(fault.code, FaultCode::MemoryLow);
                    prop_assert!(free.is_some_and(|free| free < need));
                }
            }
        }
    }

    /// As measured: what an etcd with so many revisions of few keys died with, and what it lived with.
    #[test]
    fn old_revisions_that_no_manifest_counts_have_room() {
        for (file, died, lived) in [(135, 130, 160), (342, 160, 200)] {
            let most = bounds_of(file * MIB, 100).memory_most / MIB;
            assert!(most > died && most >= lived, "{file} MiB: {most}");
        }
    }

    #[test]
    fn one_that_ends_for_want_of_memory_blames_the_machine() {
        let asked = bounds_of(1024 * MIB, 100);
        let given = spared(asked, Some(512 * MIB)).expect("enough to begin");
        assert_eq!(
            ended_early(given, "out of memory").code,
            FaultCode::MemoryLow
        );
        let given = spared(asked, Some(8192 * MIB)).expect("enough");
        assert_eq!(ended_early(given, "a panic").code, FaultCode::EtcdDrill);
    }

    #[test]
    fn a_cluster_that_does_not_answer_spoils_no_drill() {
        assert_eq!(compare(7, there(7, 3), None), Ok(0));
        assert!(compare(7, there(6, 3), None).is_err());
    }
}
