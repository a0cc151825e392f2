//! The whole loop on a temporary root whose stack has not come yet.

mod coming;
mod disks;
mod held;
mod proving;
mod refused;
mod resting;
mod rolling;
mod stacks;
mod starting;
mod unfit;
mod updating;
mod walking;

use std::sync::Arc;

use jiff::SignedDuration;

use super::super::address::handover;
use super::super::inbox::Inbox;
use super::super::ledger::{Artefact, ArtefactKind, Before, UnitRecord};
use super::super::phase::{layout, samples};
use super::super::rig::{every_file, take_log};
use super::super::testing::{Cas, enrolled, node, spec, uid};
use super::converging::WAIT_SWEEP;
use super::*;
use crate::egress::Egress;
use crate::host::fs::{Attrs, HostFs};
use crate::host::ours;
use crate::model::{
    Assignment, Digest, DocumentKind, Envelope, FaultCode, NodeState, NodeStatus, PhaseId,
    SigningKey, Spec, Timestamp, paths,
};

/// Data of etcd: what must never go by mistake.
const DATA: &str = "/var/lib/pf9/etcd/member/snap/db";
const SPEC: &str = "/var/opt/pf9/nodelet/spec.json";
const LEDGER: &str = "/var/opt/pf9/nodelet/ledger.json";

struct Machine {
    fs: HostFs,
    key: SigningKey,
    cas: Cas,
    _dir: tempfile::TempDir,
}

/// One life of the process.
struct Life {
    engine: Engine,
    inbox: Arc<Inbox>,
    status: watch::Receiver<NodeStatus>,
    wake: watch::Sender<u64>,
}

/// A kubelet that has nothing against its configuration but what every trial puts there.
const KUBELET: &[u8] = b"#!/bin/sh
[ \"$1\" = --version ] && exec echo Kubernetes
echo 'E run.go:72] \"command failed\" err=\"failed to validate kubelet configuration, error: invalid configuration: healthzPort (--healthz-port) -1 must be between 1 and 65535, inclusive\"' >&2
exit 1
";
/// And such a kube-proxy.
const KUBE_PROXY: &[u8] = b"#!/bin/sh
[ \"$1\" = --version ] && exec echo Kubernetes
echo 'E run.go:72] \"command failed\" err=\"failed complete: KubeProxyConfiguration.KubeProxyLinuxConfiguration.OOMScoreAdj: Invalid value: -5000: must be within the range [-1000, 1000]\"' >&2
exit 1
";

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let put = |path: &str, text: &str, mode| {
            let attrs = Attrs::mode(mode);
            fs.write(path, text.as_bytes(), &attrs).expect("write");
        };
        put("/usr/bin/systemctl", "#!/bin/sh\nexit 0\n", 0o755);
        put("/proc/self/mountinfo", "", 0o644);
        put("/etc/resolv.conf", "nameserver 10.0.0.1\n", 0o644);
        put("/proc/swaps", "Filename\n", 0o644);
        std::fs::create_dir_all(fs.at("/var/log/pf9/kube")).expect("log dir");
        Self {
            key: enrolled(&fs),
            fs,
            cas: Cas::new(),
            _dir: dir,
        }
    }

    /// One that was made a node by generation 5, with data that must not be lost.
    fn node() -> Self {
        let machine = Self::new();
        machine.damage(DATA, b"data");
        let (mut ledger, _) = LedgerFile::load(&machine.fs, Timestamp::UNIX_EPOCH);
        // Rewritten: the data is there already.
        ledger.ledger.installed = Some(Work::installed(&Work {
            generation: Generation(5),
            role: Role::Worker,
            node: Arc::new(node(machine.cas.authorities.clone())),
        }));
        let path = paths::ETCD_DATA.to_owned();
        ledger.ledger.artefacts = vec![Artefact {
            what: ArtefactKind::Tree { path },
            before: Before::Nothing,
        }];
        ledger.save().expect("ledger");
        machine
    }

    fn sign(&self, spec: &Spec) -> Envelope {
        let bytes = spec.document().expect("document");
        self.key.sign(DocumentKind::Spec, &bytes)
    }

    fn worker(&self, generation: u64) -> Envelope {
        let wanted = Box::new(node(self.cas.authorities.clone()));
        self.sign(&spec(generation, Assignment::Worker(wanted)))
    }

    /// After it was detached and attached.
    fn again(&self, generation: u64) -> Envelope {
        let mut wanted = node(self.cas.authorities.clone());
        wanted.uid = Some(uid(2));
        self.sign(&spec(generation, Assignment::Worker(Box::new(wanted))))
    }

    fn none(&self, generation: u64) -> Envelope {
        self.sign(&spec(generation, Assignment::None))
    }

    fn begin(&self) -> Life {
        let host = Host::new(self.fs.clone());
        let (inbox, orders) = Inbox::open(self.fs.clone(), Timestamp::UNIX_EPOCH);
        let (mut board, status) = NodeBoard::new(&self.fs);
        let (wake, woken) = watch::channel(0);
        let ledger = ledger(&host, &mut board);
        let (job, _) = watch::channel(job::decide(&orders.borrow(), &ledger.seen()));
        let told = Told {
            orders,
            wake: woken,
            maintenance: MaintenanceHandle::open(host.clone()),
            shutdown: CancellationToken::new(),
            handover: handover().0,
        };
        let sweep = Duration::from_secs(60);
        Life {
            engine: Engine::new(host, ledger, board, job, told, sweep, Ok(Egress::direct())),
            inbox,
            status,
            wake,
        }
    }

    /// Two lives with two rounds each; the data is there after every one. Answers what is said.
    async fn keeps_it(&self) -> NodeStatus {
        let mut last = None;
        for _ in 0..2 {
            let mut life = self.begin();
            for _ in 0..2 {
                life.engine.round().await;
                assert!(self.fs.at(DATA).exists(), "the data is gone");
            }
            last = Some(life.status.borrow().clone());
        }
        last.expect("a status")
    }

    fn damage(&self, path: &str, text: &[u8]) {
        let attrs = Attrs::mode(0o600);
        self.fs.write(path, text, &attrs).expect("damage");
    }
}

fn says(status: &NodeStatus, code: FaultCode, words: &str) {
    let reason = status.reason.clone().expect("it says why");
    assert_eq!(reason.code, code, "{reason}");
    assert!(reason.to_string().contains(words), "{reason}");
    assert_ne!(status.state, NodeState::Ok);
    let installed = status.installed.as_ref();
    assert_eq!(installed.map(|i| i.generation), Some(Generation(5)));
    assert_eq!(status.role, Role::Worker, "it is still what it was");
}

/// Whether or not a certificate is due: what would fail in months is said at the next look.
#[tokio::test]
async fn an_order_key_that_cannot_be_used_is_said_before_it_is_needed() {
    let machine = Machine::node();
    let fs = &machine.fs;
    let mut life = machine.begin();
    let key = fs.read(paths::ORDER_KEY, 4096).expect("read").expect("key");
    let put = |bytes: &[u8], mode| {
        fs.write(paths::ORDER_KEY, bytes, &Attrs::mode(mode))
            .expect("write");
    };
    // What else is said is of the machine that the test runs on.
    let of_the_key = |life: &Life| -> Vec<Fault> {
        let mut warnings = life.status.borrow().warnings.clone();
        warnings.retain(|w| w.code == FaultCode::OrderKeyUnusable);
        warnings
    };
    life.engine.round().await;
    assert_eq!(of_the_key(&life), []);
    for why in ["is missing", "cannot be used", "others than root"] {
        match why {
            "is missing" => fs.remove_file(paths::ORDER_KEY).expect("remove"),
            "cannot be used" => put(&key[..20], 0o600),
            _ => put(&key, 0o644),
        }
        // The second look has nothing new to say.
        for _ in 0..2 {
            life.engine.round().await;
        }
        let warnings = of_the_key(&life);
        let codes: Vec<_> = warnings.iter().map(|w| w.code).collect();
        assert_eq!(codes, [FaultCode::OrderKeyUnusable], "{why}");
        assert!(warnings[0].why.contains(why), "{}", warnings[0]);
        assert!(warnings[0].fix.contains("allow-reenrol"), "{}", warnings[0]);
    }
    put(&key, 0o600);
    life.engine.round().await;
    assert_eq!(of_the_key(&life), []);
    let log = fs.read_text(paths::KUBE_LOG, 1 << 20).expect("read");
    let told = log
        .expect("log")
        .matches(" warning: this host cannot order")
        .count();
    assert_eq!(told, 3, "each once");
}

#[tokio::test]
async fn a_round_without_news_writes_its_line_and_nothing_else() {
    let machine = Machine::new();
    let Life {
        mut engine, inbox, ..
    } = machine.begin();
    inbox.put(machine.worker(1)).expect("a good spec");
    engine.round().await;
    let fs = &machine.fs;
    let mut before = every_file(fs);
    let mut story = take_log(fs, &mut before);
    assert!(fs.at(paths::KUBE_STATUS).exists());
    for _ in 0..2 {
        engine.round().await;
        let mut after = every_file(fs);
        let now = take_log(fs, &mut after);
        assert_eq!(after, before);
        let (line, earlier) = now.split_last().expect("a line");
        assert_eq!(earlier, story);
        let told = " status check: waits for download of stack pf9-kube 1.37.2-1 - 0 of ";
        assert!(line.contains(told), "{line}");
        story = now;
    }
}

/// Calls without end, during every look and every step: the run is done anyway, whole, and
/// one more look follows. Several times, because whether a call or a step comes first is chance.
#[tokio::test]
async fn calls_do_not_end_a_run() {
    for _ in 0..12 {
        let machine = Machine::new();
        let mut bed = machine.begin();
        bed.inbox.put(machine.worker(1)).expect("a good spec");
        let calls = tokio::spawn(async move {
            loop {
                bed.wake.send_modify(|n| *n += 1);
                tokio::task::yield_now().await;
            }
        });
        let next = bed.engine.round().await;
        assert_eq!(
            next.after, WAIT_SWEEP,
            "all was done but what is waited for"
        );
        assert!(bed.engine.told.wake.has_changed().expect("callers"));
        calls.abort();
    }
}

/// With nothing to do: as many looks as the bucket allows, however often it is called.
#[tokio::test(start_paused = true)]
async fn calls_are_merged() {
    let machine = Machine::new();
    let mut bed = machine.begin();
    bed.inbox.put(machine.worker(1)).expect("a good spec");
    bed.engine.told.orders.mark_unchanged();
    let began = Instant::now();
    let minute = Duration::from_secs(60);
    let most = CALLED_BURST + 60 / CALLED_EVERY.as_secs() as u32 + 1;
    let mut looks = 0;
    while began.elapsed() < minute && looks <= most {
        bed.wake.send_modify(|n| *n += 1);
        assert!(bed.engine.sleep(minute, false).await, "woken");
        bed.engine.told.wake.borrow_and_update();
        looks += 1;
    }
    assert!((CALLED_BURST..=most).contains(&looks), "{looks}");
    // A spec does not wait for that.
    bed.wake.send_modify(|n| *n += 1);
    bed.inbox.put_none(false).expect("root removes the role");
    let asked = Instant::now();
    bed.engine.sleep(minute, false).await;
    assert_eq!(asked.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn renewed_after_their_end_certificates_start_kubelet_anew_and_in_time_they_do_not() {
    let machine = Machine::new();
    let mut engine = machine.begin().engine;
    let runs = UnitRecord {
        inputs: Some(Digest::of(b"inputs")),
        intent: None,
    };
    for unit in layout::UNITS {
        let units = &mut engine.ledger.ledger.units;
        units.insert((*unit).to_owned(), runs.clone());
    }
    let started_anew = |engine: &Engine| -> Vec<String> {
        let units = engine.ledger.ledger.units.iter();
        let anew = units.filter(|(_, record)| record.inputs.is_none());
        anew.map(|(unit, _)| unit.clone()).collect()
    };
    let good = samples::master("1.37.2");
    let mut ended = good.clone();
    ended.now += SignedDuration::from_hours(24 * 400);
    engine.renewed(&good);
    engine.renewed(&ended);
    assert!(started_anew(&engine).is_empty(), "waiting changes nothing");
    engine.renewed(&good);
    assert_eq!(
        started_anew(&engine),
        ["pf9-kube-proxy.service", "pf9-kubelet.service"]
    );
}

#[tokio::test]
async fn a_missing_spec_removes_nothing() {
    let machine = Machine::node();
    let status = Box::pin(machine.keeps_it()).await;
    says(
        &status,
        FaultCode::SpecLost,
        "its spec is lost: it is missing",
    );
    assert!(status.wants_spec);
}

#[tokio::test]
async fn a_broken_spec_whose_predecessor_says_none_removes_nothing() {
    let machine = Machine::node();
    let life = machine.begin();
    // Detached and attached again; the removal never started.
    life.inbox.put(machine.none(6)).expect("put");
    life.inbox.put(machine.worker(7)).expect("put");
    drop(life);
    machine.damage(SPEC, b"{\"schema\": 1,");
    let status = Box::pin(machine.keeps_it()).await;
    says(&status, FaultCode::SpecLost, "the previous one is used");
    assert!(status.wants_spec);
    // Handed over again, it is worked by, and noted.
    let mut life = machine.begin();
    life.inbox.put(machine.worker(7)).expect("put");
    life.engine.round().await;
    assert!(machine.fs.at(DATA).exists());
    let installed = life.status.borrow().installed.clone().expect("installed");
    assert_eq!(installed.generation, Generation(7));
    assert!(!life.status.borrow().wants_spec);
}

#[tokio::test]
async fn a_spec_of_another_version_removes_nothing_and_stays() {
    let machine = Machine::node();
    let later = br#"{"schema": 2, "sealed": "by a later program"}"#;
    machine.damage(SPEC, later);
    let status = Box::pin(machine.keeps_it()).await;
    says(&status, FaultCode::SpecLost, "this program knows schema 1");
    let kept = machine.fs.read(SPEC, 1000).expect("read");
    assert_eq!(kept.as_deref(), Some(&later[..]));
}

#[tokio::test]
async fn a_spec_nobody_believes_any_more_removes_nothing() {
    let machine = Machine::node();
    machine.begin().inbox.put(machine.none(6)).expect("put");
    enrolled(&machine.fs);
    let status = Box::pin(machine.keeps_it()).await;
    says(
        &status,
        FaultCode::SpecLost,
        "which this host does not trust",
    );
}

#[tokio::test]
async fn another_plane_that_knows_no_role_removes_nothing() {
    let mut machine = Machine::node();
    machine.key = enrolled(&machine.fs);
    machine.begin().inbox.put(machine.none(1)).expect("put");
    let status = Box::pin(machine.keeps_it()).await;
    says(
        &status,
        FaultCode::RoleKept,
        "was installed by generation 5",
    );
    assert!(!status.wants_spec);
}

#[tokio::test]
async fn a_ledger_of_another_version_or_a_lost_one_removes_nothing() {
    for ledger in [None, Some(&b"{"[..]), Some(br#"{"schema": 9}"#)] {
        let machine = Machine::node();
        machine.begin().inbox.put(machine.none(6)).expect("put");
        match ledger {
            None => machine.fs.remove_file(LEDGER).expect("remove"),
            Some(text) => machine.damage(LEDGER, text),
        }
        let status = Box::pin(machine.keeps_it()).await;
        let reason = status.reason.expect("it says why");
        assert_eq!(reason.code, FaultCode::LedgerLost, "{reason}");
        if ledger.is_some_and(|l| l.len() > 1) {
            let kept = machine.fs.read(LEDGER, 1000).expect("read");
            assert_eq!(
                kept.as_deref(),
                ledger,
                "the program that wrote it needs it"
            );
        }
    }
}

#[tokio::test]
async fn a_lost_ledger_of_the_same_cluster_is_written_anew() {
    let machine = Machine::node();
    machine.begin().inbox.put(machine.worker(6)).expect("put");
    machine.fs.remove_file(LEDGER).expect("remove");
    let authority = format!(
        "{}/{}/{}",
        paths::KUBE_CERTS,
        crate::model::CertPurpose::KubeletClient.dir(),
        paths::CERT_CA_FILE
    );
    machine.damage(&authority, machine.cas.authorities.cluster.as_bytes());
    machine.begin().engine.round().await;
    assert!(machine.fs.at(DATA).exists());
    let ledger = LedgerFile::look(&machine.fs);
    assert_eq!(ledger.generation(), Generation(6));
    assert!(!ledger.is_in_doubt());
}

#[tokio::test]
async fn a_newer_signed_order_and_roots_own_remove_it() {
    let machine = Machine::node();
    let mut life = machine.begin();
    life.inbox.put(machine.none(6)).expect("put");
    life.engine.round().await;
    assert!(!machine.fs.at(DATA).exists());
    assert!(LedgerFile::look(&machine.fs).ledger.is_empty());

    // Although its spec is lost.
    let machine = Machine::node();
    let mut life = machine.begin();
    assert_eq!(life.inbox.put_none(false), Ok(Generation(5)));
    life.engine.round().await;
    assert!(!machine.fs.at(DATA).exists());
}

#[tokio::test]
async fn on_roots_word_it_goes_although_its_ledger_is_lost() {
    // The spec is there, or nothing but the machine itself.
    for spec in [false, true] {
        let machine = Machine::node();
        let foreign = "/var/lib/other/data";
        machine.damage(foreign, b"theirs");
        machine.damage("/etc/systemd/system/pf9-kubelet.service", b"ours");
        if spec {
            machine.begin().inbox.put(machine.worker(6)).expect("put");
        }
        machine.fs.remove_file(LEDGER).expect("remove");
        let mut life = machine.begin();
        life.inbox.put_none(false).expect("root says so");
        life.engine.round().await;
        assert!(!machine.fs.at(DATA).exists(), "{spec}");
        assert!(machine.fs.at(foreign).exists());
        let ledger = LedgerFile::look(&machine.fs);
        assert!(ledger.ledger.is_empty() && !ledger.is_in_doubt(), "{spec}");
        life.engine.round().await;
        let status = life.status.borrow().clone();
        assert_eq!(
            (status.role, status.state),
            (Role::None, NodeState::Ok),
            "{status:?}"
        );
    }
    // What a later program made is unknown here.
    let machine = Machine::node();
    machine.damage(LEDGER, br#"{"schema": 9}"#);
    let mut life = machine.begin();
    life.inbox.put_none(false).expect("root says so");
    life.engine.round().await;
    assert!(machine.fs.at(DATA).exists());
}

#[tokio::test]
async fn what_was_obeyed_is_noted_although_nothing_is_to_do() {
    let machine = Machine::node();
    let mut life = machine.begin();
    life.inbox.put(machine.worker(9)).expect("put");
    life.engine.round().await;
    let noted = LedgerFile::look(&machine.fs).generation();
    assert_eq!(noted, Generation(9), "an older order must not count");
}

/// What the removal asks between its steps; see also `nodelet::tests`.
#[tokio::test]
async fn a_spec_that_comes_back_takes_the_order_of_removal_back() {
    let machine = Machine::node();
    let life = machine.begin();
    life.inbox.put(machine.none(6)).expect("put");
    let stands = removing::stands(life.engine.told.orders.clone());
    let (mut ledger, _) = LedgerFile::load(&machine.fs, Timestamp::UNIX_EPOCH);
    assert!(stands(&ledger));
    life.inbox.put(machine.worker(7)).expect("put");
    assert!(!stands(&ledger));
    life.inbox.put_none(false).expect("root's own");
    assert!(stands(&ledger));
    life.inbox.put(machine.worker(8)).expect("put");
    assert!(stands(&ledger), "it is the very node that root took away");
    life.inbox.put(machine.again(9)).expect("put");
    assert!(!stands(&ledger));
    ledger.ledger.removing = true;
    assert!(stands(&ledger), "half of it is gone");
}

#[tokio::test]
async fn a_spec_that_comes_back_too_late_waits_for_the_end_of_the_removal() {
    let machine = Machine::node();
    {
        let (mut ledger, _) = LedgerFile::load(&machine.fs, Timestamp::UNIX_EPOCH);
        ledger.ledger.removing = true;
        ledger.save().expect("ledger");
    }
    let mut life = machine.begin();
    life.inbox.put(machine.worker(7)).expect("put");
    life.engine.round().await;
    assert!(!machine.fs.at(DATA).exists(), "half of it was gone already");
    assert!(LedgerFile::look(&machine.fs).ledger.is_empty());
    let job = job::decide(&life.inbox.orders(), &life.engine.ledger.seen());
    assert!(
        matches!(job, Job::Node(_)),
        "then it is made a node again: {job:?}"
    );
}

/// What `pf9ctl plan` prints is what the next round does, in that order and in those words.
#[tokio::test]
async fn a_dry_run_writes_nothing_and_says_what_the_round_does() {
    let machine = Machine::new();
    // Its link is what can be made before the stack has come.
    let unit = format!("/lib/systemd/system/{}", ours::units::NODELET);
    machine.damage(&unit, b"[Unit]");
    let mut life = machine.begin();
    life.inbox.put(machine.worker(1)).expect("a good spec");
    let host = Host::new(machine.fs.clone());
    let before = every_file(&machine.fs);
    let orders = life.inbox.orders();
    let said = dry_run(&host, &orders).await.expect("a plan");
    assert_eq!(every_file(&machine.fs), before);
    life.engine.round().await;
    let story = take_log(&machine.fs, &mut every_file(&machine.fs));
    // What phases do concurrently is logged as it comes; each does its own in the order of the plan.
    let steps = said.steps.iter();
    let steps: Vec<_> = steps
        .map(|s| format!("  {} done: {} ({})", s.phase.order(), s.what, s.why))
        .collect();
    assert!(!steps.is_empty());
    let all = story.iter().filter_map(|l| l.split_once("Z "));
    let done: Vec<&str> = all.map(|l| l.1).filter(|l| l.contains(" done: ")).collect();
    assert_eq!(done.len(), steps.len(), "{done:#?}");
    for phase in PhaseId::ALL {
        let number = format!("  {} done: ", phase.order());
        let of = |l: &&str| l.starts_with(&number);
        let planned = steps.iter().map(String::as_str).filter(of);
        assert!(
            done.iter().copied().filter(of).eq(planned),
            "{phase}: {done:#?}"
        );
    }
    let waits = said.waits.expect("it waits").what;
    let reason = life.status.borrow().reason.clone().expect("it says so");
    assert_eq!(reason.why, format!("for {waits}"));
}
