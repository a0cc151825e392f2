//! Long runs on a simulated clock: what a node keeps on disk and in memory after a year is what it kept after a week.
//!
//! ```text
//! hostagent::soak   status documents, specs, events, orders, a plane that is away   real hostagent, real sockets
//! comms::soak       reconnects, renewals, streams with their audit                  real comms, real TLS
//! here              the story, logs, journal, ledger, backups                       their real files
//! ```
//!
//! Time passes as the test says (`tokio::time::advance`, and the seam's clock), never by itself. A quick run has a few
//! weeks; `scripts/bench soak` runs a year of whole days and reads the lines that begin with `soak:`. Each is a process of
//! its own: memory is that of the process.
//!
//! The first week is for what is had once and kept: each kind of thing happens in it (a renewal, a plane that is away, a
//! shelf that fills), which takes memory for good. What there is after it is what the second week shows.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use jiff::SignedDuration;
use pf9_hostagent::backup::shelf::{self, MANIFEST, SEALED, Shelf};
use pf9_hostagent::host::fs::{Attrs, HostFs};
use pf9_hostagent::model::{
    BACKUP_SCHEMA, BackupManifest, BackupPolicy, BackupSettings, BackupSigner, BackupTrust,
    ClusterId, Digest, DocumentKind, Generation, HostId, PhaseId, SigningKey, StackRef, Timestamp,
    paths,
};
use pf9_hostagent::nodelet::journal::{Journal, JournalEntry, JournalEvent};
use pf9_hostagent::nodelet::ledger::{LedgerFile, UnitRecord};
use pf9_hostagent::seam::fault::{Clock, Entered, Scope};
use pf9_hostagent::telemetry::{self, KubeLog, LogConfig, RotatingFile};

const INSIDE: &str = "PF9_TEST_INSIDE";
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The second and the last of them are compared.
const WEEK: usize = 7;
/// A document that is being replaced, or an event that was not delivered yet, is one file more at that moment.
const ON_ITS_WAY: u64 = 1;
/// What an allocator keeps more or less of at a moment; a twentieth of these few MiB is less.
const NOISE: u64 = 512 * 1024;
/// How long a thread of the runtime waits for more work. Ten seconds as usual are weeks here: a thread that was needed once
/// would stay for good, with its stack, where a daemon's ends before the next status.
const THREAD_WAITS: Duration = Duration::from_millis(1);
/// Threads at rest: the program's, the test's, and the one that holds the time.
const THREADS: u64 = 3;
/// Looks at the threads until they have ended.
const ENDS: u32 = 200;
/// Longest real time of a quick run, and of the bench's.
const LONGEST: [&str; 2] = ["110", "7200"];

/// How long, and in what steps.
pub(crate) struct Length {
    pub(crate) days: u32,
    /// Steps of a day.
    pub(crate) steps: u32,
}

impl Length {
    /// Three weeks, coarsely; or what the bench says.
    pub(crate) fn told() -> Self {
        let told = |name: &str, usual| match std::env::var(name) {
            Ok(text) => text.parse().expect("a number"),
            Err(_) => usual,
        };
        Self {
            days: told("PF9_SOAK_DAYS", 21),
            steps: told("PF9_SOAK_STEPS", 6),
        }
    }

    pub(crate) fn step(&self) -> Duration {
        DAY / self.steps
    }
}

/// True in a process of its own; in the one of `cargo test` that one has run then, and passed.
pub(crate) fn alone(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let bench = std::env::var_os("PF9_SOAK_DAYS").is_some();
    let ran = Command::new("timeout")
        .args(["--signal=KILL", LONGEST[usize::from(bench)]])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "--show-output", test])
        .env(INSIDE, test)
        // As the units have it.
        .env("MALLOC_ARENA_MAX", "1")
        .env("MALLOC_TRIM_THRESHOLD_", "131072")
        // As that of comms has it.
        .env("MALLOC_MMAP_THRESHOLD_", "65536")
        // The log goes there as well: a year of it.
        .stderr(std::process::Stdio::null())
        .output()
        .expect("timeout");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success() && said.contains("1 passed"),
        "{}\n{said}",
        ran.status
    );
    for line in said.lines().filter(|l| l.starts_with("soak:")) {
        println!("{line}");
    }
    false
}

/// Does it on a clock that stands until the test moves it: by `tokio::time::advance`, and the seam's by
/// [`Simulated::goes`].
pub(crate) fn simulated(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .thread_keep_alive(THREAD_WAITS)
        .build();
    runtime.expect("runtime").block_on(async {
        // Time would pass by itself where nothing else happens, and does not while work is on another thread.
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let held = tokio::task::spawn_blocking(move || wait.recv().is_ok());
        Box::pin(work).await;
        drop(done);
        held.await.expect("it only waits");
    });
}

/// What there is at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    state: u64,
    files: u64,
    logs: u64,
    memory: u64,
}

/// What there was, day by day: the most of each.
pub(crate) struct Soak {
    fs: HostFs,
    what: &'static str,
    /// What all logs may take.
    logs_most: u64,
    days: Vec<Kept>,
}

/// The seam's clock of this thread.
pub(crate) struct Simulated {
    scope: std::sync::Arc<Scope>,
    passed: SignedDuration,
    stands: bool,
    _here: Entered,
}

impl Simulated {
    pub(crate) fn begin() -> Self {
        let scope = Scope::with_a_clock();
        Self {
            _here: scope.enter(),
            passed: SignedDuration::ZERO,
            stands: false,
            scope,
        }
    }

    /// The machine's clock is later by so much.
    pub(crate) fn goes(&mut self, by: Duration) {
        let by = SignedDuration::try_from(by).expect("less than an age");
        if !self.stands {
            self.is_set(by, false);
        }
    }

    /// Somebody set it, and from then on it goes, or stands.
    pub(crate) fn is_set(&mut self, by: SignedDuration, stands: bool) {
        self.passed += by;
        self.stands = stands;
        self.scope.set_clock(match stands {
            true => Clock::Stands(Timestamp::now() + self.passed),
            false => Clock::Off(self.passed),
        });
    }

    /// Its life, for what else a test wants of it.
    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(crate) fn passed(&self) -> SignedDuration {
        self.passed
    }
}

impl Soak {
    pub(crate) fn of(what: &'static str, fs: &HostFs, logs_most: u64) -> Self {
        Self {
            fs: fs.clone(),
            what,
            logs_most,
            days: Vec::new(),
        }
    }

    pub(crate) fn day_begins(&mut self) {
        self.days.push(Kept::default());
    }

    /// At rest: nothing is on its way.
    pub(crate) fn look(&mut self) {
        threads_end();
        let mut now = Kept {
            memory: memory(),
            ..Kept::default()
        };
        let root = self.fs.at("/");
        measure(&root, &root.join("var/log"), &mut now);
        let most = self.days.last_mut().expect("a day");
        most.state = most.state.max(now.state);
        most.files = most.files.max(now.files);
        most.logs = most.logs.max(now.logs);
        most.memory = most.memory.max(now.memory);
    }

    /// Prints each figure, and fails when one has grown by more than a twentieth since the week after the first. Logs may also
    /// grow to their bound: a week does not fill them on every node.
    pub(crate) fn judge(self) {
        let count = self.days.len();
        assert!(count >= 3 * WEEK, "{count} days");
        let mut grown = Vec::new();
        type Of = fn(&Kept) -> u64;
        let figures: [(&str, Of); 4] = [
            ("bytes of state", |k| k.state),
            ("files of state", |k| k.files),
            ("bytes of logs", |k| k.logs),
            ("bytes of memory", |k| k.memory),
        ];
        for (name, of) in figures {
            let most = |days: &[Kept]| days.iter().map(of).max().expect("a day");
            let week = most(&self.days[WEEK..2 * WEEK]);
            let end = most(&self.days[count - WEEK..]);
            println!(
                "soak: {}: {name}: {week} after a week, {end} after {count} days",
                self.what
            );
            let bound = match name {
                "bytes of logs" => self.logs_most.max(week + week / 20),
                "bytes of memory" => week + week / 20 + NOISE,
                "files of state" => week + week / 20 + ON_ITS_WAY,
                _ => week + week / 20,
            };
            if end > bound {
                grown.push(format!("{name}: {week} after a week, {end} in the end"));
            }
        }
        let months = self.days.chunks(4 * WEEK);
        let most = |days: &[Kept]| days.iter().map(|k| k.memory / 1024).max().expect("a day");
        let months: Vec<u64> = months.map(most).collect();
        println!(
            "soak: {}: KiB of memory by four weeks: {months:?}",
            self.what
        );
        assert!(grown.is_empty(), "{} grows: {grown:#?}", self.what);
    }
}

/// Regular files below, links not followed.
fn measure(dir: &Path, logs: &Path, into: &mut Kept) {
    for entry in std::fs::read_dir(dir).expect("directory") {
        let path = entry.expect("entry").path();
        let meta = std::fs::symlink_metadata(&path).expect("metadata");
        if meta.is_dir() {
            measure(&path, logs, into);
        } else if path.starts_with(logs) {
            into.logs += meta.len();
        } else if meta.is_file() && !path.ends_with("hostagent/reserve") {
            // The reserve has its size always, and would hide what grows beside it.
            into.state += meta.len();
            into.files += 1;
        }
    }
}

/// Of this process, what is neither a file's nor shared.
fn memory() -> u64 {
    own("RssAnon:") * 1024
}

/// Those of the runtime that have nothing to do end, and give back what they held. One that a disk keeps stays.
fn threads_end() {
    for _ in 0..ENDS {
        if own("Threads:") <= THREADS {
            return;
        }
        std::thread::sleep(THREAD_WAITS);
    }
}

/// What the kernel says of this process, in KiB where it has a unit.
fn own(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    let number = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok());
    number.expect("a number")
}

/// The logs of a daemon that says so much that a week fills them, and what they take at most.
pub(crate) fn loud(fs: &HostFs, program: &str) -> u64 {
    let config = LogConfig {
        level: "debug".into(),
        max_mib: 1,
        keep: 1,
        ..LogConfig::default()
    };
    let dir = fs.at(paths::LOG_DIR);
    let own = dir.join(program.trim_start_matches("pf9-"));
    std::fs::create_dir_all(own).expect("directory");
    telemetry::init(program, &dir, &config).expect("the first of this process");
    2 * 1024 * 1024
}

/// Root's part: what nodelet adds to its files, with each look, each repair, each renewal, each backup.
#[test]
fn the_files_of_root_take_after_weeks_what_a_week_takes() {
    if !alone("soak::the_files_of_root_take_after_weeks_what_a_week_takes") {
        return;
    }
    let length = Length::told();
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    std::fs::create_dir_all(fs.at(paths::LOG_DIR).join("kube")).expect("directory");
    let mut root = Root::begin(&fs, &length);
    // Twice: with the one before it, which is kept.
    for day in 0..2 {
        root.week(day);
    }
    let mut soak = Soak::of("files of root", &fs, Root::LOGS_MOST);
    let mut now = Timestamp::now();
    for day in 0..length.days {
        soak.day_begins();
        for _ in 0..length.steps {
            now += SignedDuration::try_from(length.step()).expect("a day");
            root.step(now);
            soak.look();
        }
        if day % 7 == 6 {
            root.week(2 + day);
        }
    }
    soak.judge();
}

struct Root {
    fs: HostFs,
    story: KubeLog,
    log: RotatingFile,
    journal: Journal,
    ledger: LedgerFile,
    policy: BackupPolicy,
    key: SigningKey,
    host: HostId,
    trust: BackupTrust,
    /// Lines of the story in a step: one a minute.
    minutes: u32,
}

impl Root {
    /// Of the story's newest file with the lines it folded, and of the log.
    const LOGS_MOST: u64 = (768 + 1024 + 2 * 1024) * 1024;
    const WHY_OF_A_DAY: usize = 420 * 1024;

    fn begin(fs: &HostFs, length: &Length) -> Self {
        let (key, _) = SigningKey::generate().expect("key");
        let host = HostId::random();
        let signer = BackupSigner {
            host_id: host,
            key: key.trusted(),
        };
        let log = fs.at(paths::LOG_DIR).join("nodelet.log");
        Self {
            story: KubeLog::at(fs.at(paths::KUBE_LOG)),
            log: RotatingFile::new(log, 1024 * 1024, 1),
            journal: Journal::new(fs),
            ledger: LedgerFile::load(fs, Timestamp::UNIX_EPOCH).0,
            policy: BackupPolicy {
                // Two days, however many a day has: the shelf is full within the week.
                keep: length.steps * 2,
                ..BackupPolicy::default()
            },
            key,
            host,
            trust: BackupTrust::Signers(vec![signer]),
            minutes: 24 * 60 / length.steps,
            fs: fs.clone(),
        }
    }

    fn step(&mut self, now: Timestamp) {
        use std::io::Write;
        for _ in 0..self.minutes {
            let well = "status check: ok - 18 of 18 phases converged (took 0.4 s)";
            self.story.say(now, well);
            for what in ["begins", "ends"] {
                let line = format!(
                    "{now} INFO nodelet: a look at the whole node {what}; the stack is pf9-kube 1.37.2-1\n"
                );
                self.log.write_all(line.as_bytes()).expect("never refused");
            }
        }
        // A repair that fails, with what its program said: in a week as much as both files of the journal hold.
        let why = "x"
            .repeat(Self::WHY_OF_A_DAY * usize::try_from(self.minutes).expect("few") / (24 * 60));
        for what in [JournalEvent::Intent, JournalEvent::Failed { why: &why }] {
            let entry = JournalEntry {
                at: now,
                generation: Generation(1),
                phase: PhaseId::Certs,
                step: "unit:pf9-kubelet.service",
                what,
            };
            self.journal.add(&entry).expect("journal");
        }
        self.back_up(now);
    }

    /// A certificate is renewed: its unit is started with another input, after a trial.
    fn week(&mut self, day: u32) {
        let inputs = Digest::of(&day.to_be_bytes());
        let ledger = &mut self.ledger.ledger;
        for unit in ["pf9-kubelet.service", "pf9-etcd.service"] {
            ledger.must_restart(unit);
            let record = UnitRecord {
                inputs: Some(inputs),
                intent: None,
            };
            ledger.units.insert(unit.to_owned(), record);
            ledger.pass(unit, inputs);
        }
        self.ledger.save().expect("ledger");
        let reopened = LedgerFile::load(&self.fs, Timestamp::UNIX_EPOCH).0;
        assert_eq!(reopened.ledger, self.ledger.ledger);
    }

    /// One is put onto the shelf as `backup::take` does, and the shelf is pruned as nodelet does.
    fn back_up(&self, now: Timestamp) {
        let dir = shelf::dir(&self.policy);
        let name = shelf::free_name(&self.fs, dir, now, 7).expect("a name");
        let sealed = [7; 8 * 1024];
        let manifest = self.manifest(&name, now, &sealed);
        let manifest = serde_json::to_vec(&manifest).expect("json");
        let signed = self.key.sign(DocumentKind::Backup, &manifest);
        let signed = serde_json::to_vec(&signed).expect("json");
        let put = |end: &str, bytes: &[u8]| {
            let at = format!("{dir}/{name}{end}");
            self.fs
                .write(at, bytes, &Attrs::mode(0o600))
                .expect("written");
        };
        put(SEALED, &sealed);
        put(MANIFEST, &signed);
        let look = || Shelf::look(&self.fs, dir, &self.trust).expect("a shelf");
        for name in look().to_go(&self.policy) {
            shelf::remove(&self.fs, dir, &name).expect("goes");
        }
        let kept = look();
        assert_eq!(kept.good.last().map(|m| &m.manifest().name), Some(&name));
    }

    fn manifest(&self, name: &str, now: Timestamp, sealed: &[u8]) -> BackupManifest {
        let stack = StackRef {
            name: "pf9-kube".into(),
            version: "1".into(),
            manifest: Digest::of(b"m"),
        };
        BackupManifest {
            schema: BACKUP_SCHEMA,
            name: name.to_owned(),
            taken_at: now,
            host_id: self.host,
            cluster_id: ClusterId(uuid::Uuid::from_u128(1)),
            etcd_cluster_id: "cafe".into(),
            member_id: "beef".into(),
            revision: 7,
            keys: 3,
            hash: 1,
            plain_bytes: 10,
            sealed_bytes: sealed.len() as u64,
            sealed_sha256: Digest::of(sealed),
            etcd_version: "3.7.3".into(),
            storage_version: None,
            kubernetes_version: "1.37.2".into(),
            recipients: Vec::new(),
            settings: BackupSettings {
                cluster_name: "c".into(),
                api_host: "192.0.2.1".into(),
                api_port: 6443,
                pods_cidr: "10.20.0.0/16".parse().expect("network"),
                services_cidr: "10.21.0.0/16".parse().expect("network"),
                cluster_domain: "cluster.local".into(),
                stack,
            },
        }
    }
}
