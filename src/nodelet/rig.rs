//! The real engine on a temporary root: files, ledger, journal, runner and removal are the
//! product's own; systemd is a small program below the root that keeps its state in files.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User};
use tokio::time::Instant;

use super::apply::Effects;
use super::check;
use super::context::{self, StackSeen};
use super::journal::Journal;
use super::ledger::{Installed, LedgerFile, UnitRecord};
use super::lifecycle::Lifecycle;
use super::observe::{Memory, Snapshot, Sweep};
use super::phase::{PhaseContext, PhaseSteps, layout};
use super::plan::{Plan, plan};
use super::removal::{self, Removal};
use super::run::{RunEnd, Runner, Stop};
use super::status::NodeBoard;
use super::step::{DirStep, FileStep, Step, UnitStep};
use super::testing::{Cas, host_id, node};
use crate::host::Host;
use crate::host::fs::{Attrs, HostFs};
use crate::model::{
    Digest, EtcdMember, Generation, HostId, PhaseId, PhaseStatus, Role, Timestamp, TrustStore,
    paths,
};

/// Units are loaded when their file is there; every call but questions is logged.
pub(crate) const SYSTEMCTL: &str = r#"#!/bin/sh
root=$(cd "$(dirname "$0")/../.." && pwd)
state=$root/run/fake-systemd
mkdir -p "$state"
shift # --no-ask-password
verb=$1; shift
while [ $# -gt 0 ]; do case $1 in -p) shift 2 ;; --) shift; break ;; -*) shift ;; *) break ;; esac; done
[ "$verb" = show ] || echo "$verb $*" >> "$state/calls"
number() { n=$(cat "$state/n" 2>/dev/null || echo 0); n=$((n + 1)); echo $n > "$state/n"; }
case $verb in
show)
  for u in "$@"; do
    echo "Id=$u"
    if [ -e "$root/etc/systemd/system/$u" ]; then echo LoadState=loaded; else echo LoadState=not-found; fi
    if [ -e "$state/$u.comes" ]; then echo ActiveState=activating; echo "InvocationID=9$(cat "$state/$u.up")"
    elif [ -e "$state/$u.up" ]; then echo ActiveState=active; echo "InvocationID=$(cat "$state/$u.up")"
    else echo ActiveState=inactive; fi
    if [ -e "$state/$u.enabled" ]; then echo UnitFileState=enabled; fi
    echo "SubState=x"; echo "Result=success"; echo
  done ;;
start|restart)
  cp "$root/var/opt/pf9/nodelet/journal.jsonl" "$state/journal"
  if grep -q broken "$root/etc/systemd/system/$1"; then echo "unit $1 is broken" >&2; exit 1; fi
  if grep -q waits-for-b "$root/etc/systemd/system/$1"; then
    tries=0
    while [ ! -e "$state/pf9-b.service.up" ]; do
      tries=$((tries + 1)); [ $tries -lt 400 ] || exit 1; sleep 0.05
    done
  fi
  number; echo "$n" > "$state/$1.up"; rm -f "$state/$1.comes"
  if grep -q hangs-when-up "$root/etc/systemd/system/$1"; then exec sleep 60; fi ;;
stop|kill) rm -f "$state/$1.up" ;;
enable) : > "$state/$1.enabled" ;;
disable) rm -f "$state/$1.enabled" ;;
esac
exit 0
"#;

/// One machine of a test.
pub(crate) struct Rig {
    _dir: tempfile::TempDir,
    pub(crate) fs: HostFs,
    host: Host,
    pub(crate) life: Life,
}

/// What a process has in memory; gone with a crash.
pub(crate) struct Life {
    ctx: PhaseContext,
    memory: Memory,
    pub(crate) ledger: LedgerFile,
    board: NodeBoard,
    journal: Journal,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let write = |path: &str, text: &str, mode: u32| {
            fs.write(path, text.as_bytes(), &Attrs::mode(mode))
                .expect("write");
        };
        write("/usr/bin/systemctl", SYSTEMCTL, 0o755);
        write("/proc/self/mountinfo", "", 0o644);
        write("/proc/sys/net/ipv4/ip_forward", "0\n", 0o644);
        for dir in [
            "/var/log/pf9/kube",
            "/run/fake-systemd",
            paths::NODELET_STATE,
        ] {
            std::fs::create_dir_all(fs.at(dir)).expect("directory");
        }
        let host = Host::new(fs.clone());
        let life = Life::begin(&host);
        Self {
            _dir: dir,
            fs,
            host,
            life,
        }
    }

    /// Everything in memory is lost.
    pub(crate) fn crash(&mut self) {
        self.life = Life::begin(&self.host);
    }

    pub(crate) async fn plan(&mut self, phases: &[PhaseSteps]) -> Plan {
        let units = ["pf9-a.service".to_owned(), "pf9-b.service".to_owned()];
        let trust = TrustStore::default();
        let life = &mut self.life;
        let mut sweep = Sweep::begin(
            &self.host,
            &life.ledger.ledger,
            &trust,
            &life.ctx,
            &mut life.memory,
            &units,
        )
        .await;
        let order = check::order(&self.host.fs, &life.ledger);
        let seen: Snapshot = sweep.all(phases, order).await;
        plan(phases, &seen, order)
    }

    /// A status check as the loop makes it.
    pub(crate) async fn check(&mut self, phases: &[PhaseSteps]) -> Plan {
        let trust = TrustStore::default();
        let life = &mut self.life;
        life.board.spec(Generation(1), Role::Worker, None);
        let effects = Effects {
            host: &self.host,
            trust: &trust,
            ctx: &life.ctx,
            memory: &mut life.memory,
            ledger: &mut life.ledger,
        };
        let stack = StackSeen::default();
        let began = Instant::now();
        let checked = check::check(effects, &mut life.board, phases, &stack, began).await;
        if checked.plan.is_settled() {
            life.board.lifecycle(&Lifecycle::Ok);
        }
        checked.plan
    }

    pub(crate) async fn run(&mut self, plan: &Plan) -> RunEnd {
        self.run_until(plan, &never()).await
    }

    pub(crate) async fn run_until(&mut self, plan: &Plan, stop: &Stop) -> RunEnd {
        let trust = TrustStore::default();
        let life = &mut self.life;
        life.ledger.ledger.installed = Some(Installed {
            role: Role::Worker,
            node: life.ctx.node.clone(),
            generation: Generation(1),
        });
        let mut runner = Runner {
            effects: Effects {
                host: &self.host,
                trust: &trust,
                ctx: &life.ctx,
                memory: &mut life.memory,
                ledger: &mut life.ledger,
            },
            journal: &life.journal,
            board: &mut life.board,
            generation: Generation(1),
        };
        runner.run(plan, stop).await
    }

    /// What is shown of them.
    pub(crate) fn phases(&self) -> Vec<PhaseStatus> {
        self.life.board.shown().phases.clone()
    }

    pub(crate) async fn converge(&mut self, phases: &[PhaseSteps]) -> RunEnd {
        let plan = self.plan(phases).await;
        self.run(&plan).await
    }

    /// Makes it a master whose etcd was started and whose certificates are lost, so that no member
    /// of etcd can be asked.
    pub(crate) fn master_of_several(&mut self) {
        let ctx = &mut self.life.ctx;
        ctx.role = Role::Master;
        ctx.node.etcd.members.push(EtcdMember {
            host_id: HostId::random(),
            ip: "10.1.2.4".parse().expect("address"),
            joins: false,
        });
        let units = &mut self.life.ledger.ledger.units;
        units.insert(layout::ETCD_UNIT.into(), UnitRecord::default());
    }

    pub(crate) async fn remove(&mut self) -> removal::RemovalEnd {
        self.remove_while(&|_| true, false).await
    }

    /// Whatever others lose by it.
    pub(crate) async fn remove_by_force(&mut self) -> removal::RemovalEnd {
        self.remove_while(&|_| true, true).await
    }

    /// Removes as long as the order stands.
    pub(crate) async fn remove_while(
        &mut self,
        stands: &(dyn Fn(&LedgerFile) -> bool + Sync),
        force: bool,
    ) -> removal::RemovalEnd {
        let trust = TrustStore::default();
        let life = &mut self.life;
        let mut removal = Removal {
            effects: Effects {
                host: &self.host,
                trust: &trust,
                ctx: &life.ctx,
                memory: &mut life.memory,
                ledger: &mut life.ledger,
            },
            journal: &life.journal,
            board: &mut life.board,
            generation: Generation(2),
            force,
            stands,
        };
        removal.run(&never()).await
    }

    /// Its program died, and systemd is about to start it again, or does.
    pub(crate) fn comes_again(&self, unit: &str) {
        let path = format!("/run/fake-systemd/{unit}.comes");
        let attrs = Attrs::mode(0o644);
        self.fs.write(&path, b"", &attrs).expect("write");
    }

    /// Commands that systemd got since the last question, beside `daemon-reload`.
    pub(crate) fn calls(&self) -> Vec<String> {
        let path = "/run/fake-systemd/calls";
        let text = self.fs.read_text(path, 1 << 20).expect("calls");
        self.fs.remove_file(path).expect("forget");
        text.unwrap_or_default()
            .lines()
            .map(|l| l.trim().to_owned())
            .filter(|l| l.starts_with("start") || l.starts_with("restart") || l.starts_with("stop"))
            .collect()
    }

    /// Every file outside of nodelet's own state with its bytes and mode.
    pub(crate) fn listing(&self) -> BTreeMap<String, (u32, String)> {
        let mut out = BTreeMap::new();
        walk(&self.fs.at("/"), &mut out);
        let root = self.fs.at("/").to_string_lossy().into_owned();
        let ours = [
            paths::NODELET_STATE,
            "/run/fake-systemd",
            "/var/log",
            paths::KUBE_STATUS,
        ];
        out.into_iter()
            .map(|(p, v)| {
                (
                    p.trim_start_matches(root.trim_end_matches('/')).to_owned(),
                    v,
                )
            })
            .filter(|(p, _)| !ours.iter().any(|o| p.starts_with(o)))
            .collect()
    }

    /// The machine's state: every file outside of nodelet's own state, with its content.
    #[cfg(feature = "fault")]
    pub(crate) fn state(&self) -> BTreeMap<String, String> {
        let files = self.listing().into_iter();
        let mut state: BTreeMap<_, _> = files
            // A file of the kernel has no length of its own.
            .filter(|(path, _)| !path.starts_with("/proc"))
            .map(|(path, (mode, bytes))| (path, format!("{mode:o} {bytes}")))
            .collect();
        let mut own = BTreeMap::new();
        walk(&self.fs.at(paths::NODELET_STATE), &mut own);
        for (path, (mode, _)) in own {
            let name = path.split(paths::NODELET_STATE).last().unwrap_or_default();
            state.insert(format!("own {name}"), format!("{mode:o}"));
        }
        // The one before the newest, and the story of it: both as they came.
        state.retain(|path, _| !path.ends_with(".prev") && !path.contains("journal.jsonl"));
        let ledger = &self.life.ledger.ledger;
        let mut artefacts: Vec<_> = ledger.artefacts.iter().map(|a| format!("{a:?}")).collect();
        artefacts.sort();
        state.insert("ledger".to_owned(), artefacts.join("\n"));
        for (unit, record) in &ledger.units {
            // A start that was seen to have happened counts like one that was noted.
            let started = record.intent.as_ref().map(|i| i.inputs);
            let runs_with = record.inputs.or(started);
            state.insert(format!("unit {unit}"), format!("{runs_with:?}"));
        }
        let up = self.fs.list("/run/fake-systemd").expect("list");
        // Of a unit that is gone nothing runs once the machine has restarted.
        let is_there = |name: &String| {
            let unit = name.rsplit_once('.').map_or("", |(unit, _)| unit);
            unit.ends_with(".service") && self.fs.at(format!("/etc/systemd/system/{unit}")).exists()
        };
        let up = up.into_iter().filter(is_there);
        state.extend(up.map(|name| (name, String::new())));
        state
    }

    /// The machine restarts: what is enabled runs, and nothing else does.
    #[cfg(feature = "fault")]
    pub(crate) fn boot(&mut self) {
        let state = "/run/fake-systemd";
        let names = self.fs.list(state).expect("list");
        for name in names.iter().filter(|name| name.ends_with(".up")) {
            std::fs::remove_file(self.fs.at(format!("{state}/{name}"))).expect("down");
        }
        for unit in names.iter().filter_map(|n| n.strip_suffix(".enabled")) {
            if self.fs.at(format!("/etc/systemd/system/{unit}")).exists() {
                let at = format!("{state}/{unit}.up");
                let text = format!("boot-{unit}");
                let up = self.fs.write(at, text.as_bytes(), &Attrs::mode(0o644));
                up.expect("up");
            }
        }
        self.crash();
    }

    /// Of everything on the machine, nodelet's state included: which file it is, when it changed,
    /// what it says. A rewrite with the same bytes shows too.
    pub(crate) fn every_file(&self) -> BTreeMap<String, String> {
        every_file(&self.fs)
    }
}

pub(crate) fn every_file(fs: &HostFs) -> BTreeMap<String, String> {
    use std::os::unix::fs::MetadataExt;
    let mut files = BTreeMap::new();
    walk(&fs.at("/"), &mut files);
    files
        .into_iter()
        .filter(|(path, _)| !path.contains("fake-systemd"))
        .map(|(path, (mode, bytes))| {
            let meta = std::fs::symlink_metadata(&path).expect("meta");
            let times = (
                (meta.mtime(), meta.mtime_nsec()),
                (meta.ctime(), meta.ctime_nsec()),
            );
            (path, format!("{} {mode:o} {times:?} {bytes}", meta.ino()))
        })
        .collect()
}

/// Takes `kube.log` out of what [`every_file`] saw and reads its lines.
pub(crate) fn take_log(fs: &HostFs, files: &mut BTreeMap<String, String>) -> Vec<String> {
    let path = fs.at(paths::KUBE_LOG);
    let taken = files.remove(path.to_string_lossy().as_ref());
    assert!(taken.is_some(), "no kube.log");
    let text = std::fs::read_to_string(path).expect("kube.log");
    text.lines().map(str::to_owned).collect()
}

impl Life {
    fn begin(host: &Host) -> Self {
        let now = Timestamp::UNIX_EPOCH;
        let (ledger, fault) = LedgerFile::load(&host.fs, now);
        assert_eq!(fault, None);
        let node = node(Cas::new().authorities);
        let trust = TrustStore::default();
        let (ctx, _) = context::gather(host, &trust, host_id(), Role::Worker, &node, None, now)
            .expect("context");
        Self {
            ctx,
            memory: Memory::default(),
            ledger,
            board: NodeBoard::new(&host.fs).0,
            journal: Journal::new(&host.fs),
        }
    }
}

pub(crate) fn never() -> Stop {
    Stop::default()
}

fn walk(dir: &Path, out: &mut BTreeMap<String, (u32, String)>) {
    for entry in std::fs::read_dir(dir).expect("read dir") {
        let path = entry.expect("entry").path();
        let meta = std::fs::symlink_metadata(&path).expect("meta");
        let bytes = if meta.is_file() {
            String::from_utf8_lossy(&std::fs::read(&path).expect("read")).into_owned()
        } else {
            String::new()
        };
        let mode = meta.permissions().mode();
        out.insert(path.to_string_lossy().into_owned(), (mode, bytes));
        if meta.is_dir() {
            walk(&path, out);
        }
    }
}

/// The user who runs the tests: need not be root.
fn owner() -> String {
    let user = User::from_uid(Uid::effective())
        .expect("user")
        .expect("user");
    let group = Group::from_gid(Gid::effective())
        .expect("group")
        .expect("group");
    format!("{}:{}", user.name, group.name)
}

pub(crate) fn file(path: &str, content: &str) -> Step {
    Step::File(FileStep {
        path: path.into(),
        content: content.into(),
        encoding: Default::default(),
        mode: 0o644,
        owner: owner(),
    })
}

pub(crate) fn dir(path: &str, remove_with_content: bool) -> Step {
    Step::Dir(DirStep {
        path: path.into(),
        mode: 0o755,
        owner: owner(),
        remove_with_content,
    })
}

pub(crate) fn unit(name: &str, inputs: &str, reads: &[&str]) -> Step {
    let file = format!("/etc/systemd/system/{name}");
    let reads = reads.iter().map(|r| (*r).to_owned());
    Step::Unit(UnitStep {
        unit: name.into(),
        inputs: Digest::of(inputs.as_bytes()),
        restart_on: std::iter::once(file).chain(reads).collect(),
        oneshot: false,
    })
}

pub(crate) fn phase(id: PhaseId, steps: Vec<Step>) -> PhaseSteps {
    PhaseSteps {
        id,
        steps: Ok(steps),
    }
}

/// Two services with a configuration each, and what a node has beside them.
pub(crate) fn small_node(a: &str, b: &str) -> Vec<PhaseSteps> {
    const UNITS: &str = "/etc/systemd/system";
    vec![
        phase(
            PhaseId::RuntimeConfigure,
            vec![
                dir("/var/lib/pf9", false),
                dir("/var/lib/pf9/a", true),
                file("/etc/pf9/kube.d/a.conf", a),
                file(&format!("{UNITS}/pf9-a.service"), "unit a"),
            ],
        ),
        phase(
            PhaseId::RuntimeStart,
            vec![unit("pf9-a.service", a, &["/etc/pf9/kube.d/a.conf"])],
        ),
        phase(
            PhaseId::Kubelet,
            vec![
                file("/etc/crictl.yaml", "ours"),
                Step::Sysctl {
                    key: "net.ipv4.ip_forward".into(),
                    value: "1".into(),
                },
                file("/etc/pf9/kube.d/b.conf", b),
                file(&format!("{UNITS}/pf9-b.service"), &format!("unit b {b}")),
                unit("pf9-b.service", b, &["/etc/pf9/kube.d/b.conf"]),
            ],
        ),
    ]
}
