//! `pf9ctl node prep` that is killed, or that stands still until somebody kills it: run again, it ends as if nothing had
//! been, on the machine and on the plane.
//!
//! The real program against a real plane; systemd and the two daemons that it waits for are peers of this test. Run as
//! root, as all of scripts/test is: the program gives files to the tunnel's user, whom a namespace of its own has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::future::ready;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::identity;
use pf9_hostagent::local::{self, Policy, Reply, Request, StatusCode};
use pf9_hostagent::model::{EnrolAnswer, HostId, Timestamp, paths};
use pf9_hostagent::mux;
use pf9_hostagent::preflight::TABLE;
use pf9_hostagent::seam::fault::{CallKind, InjectedFault};
use pf9_hostagent::seam::program::{ENV, ENV_POINTS, PassedPoint};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::bed::{Bed, until, within};
use super::node::Node;
use crate::sample;

/// Keeps the state of units as files.
const SYSTEMCTL: &str = r#"#!/bin/sh
d=@ROOT@/units
shift
verb=$1; shift
for unit; do :; done
case $verb in
show)
    shift 3
    for u; do
        a=inactive s=dead e=disabled
        [ -e "$d/$u.active" ] && a=active s=running
        [ -e "$d/$u.enabled" ] && e=enabled
        printf 'Id=%s\nLoadState=loaded\nActiveState=%s\nSubState=%s\nUnitFileState=%s\nResult=success\n\n' \
            "$u" "$a" "$s" "$e"
    done ;;
enable) : > "$d/$unit.enabled" ;;
disable) rm -f "$d/$unit.enabled" ;;
start|restart) : > "$d/$unit.active" ;;
stop) rm -f "$d/$unit.active" ;;
esac
"#;
/// Runs the program where the machine has the agent's users: `$1` and `$2` are the lists of users and groups.
const WITH_USERS: &str =
    "mount --bind \"$1\" /etc/passwd && mount --bind \"$2\" /etc/group && shift 2 && exec \"$@\"";
/// In no range that distributions give to users.
const COMMS: u32 = 64_011;

/// A bare machine: its files are below `root`, its daemons are up.
struct Machine {
    dir: tempfile::TempDir,
    _stop: DropGuard,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let stop = CancellationToken::new();
        let this = Self {
            dir,
            _stop: stop.clone().drop_guard(),
        };
        let root = this.root();
        for made in ["units", "run/pf9", "usr/bin", "etc/pf9"] {
            fs::create_dir_all(root.join(made)).expect("directory");
        }
        let systemctl = SYSTEMCTL.replace("@ROOT@", &root.display().to_string());
        for (path, text) in [
            ("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n"),
            ("proc/sys/kernel/hostname", "worker-1\n"),
            ("opt/pf9/agent/current/bin/pf9-comms", ""),
            ("usr/bin/systemctl", systemctl.as_str()),
            ("usr/bin/systemd-sysusers", "#!/bin/sh\n"),
            ("usr/bin/systemd-tmpfiles", "#!/bin/sh\n"),
        ] {
            let at = root.join(path);
            fs::create_dir_all(at.parent().expect("parent")).expect("directory");
            fs::write(&at, text).expect("write");
            fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).expect("mode");
        }
        let (user, group) = (paths::USER_COMMS, paths::GROUP);
        for (list, line) in [
            (
                "passwd",
                format!("{user}:x:{COMMS}:{COMMS}::/:/bin/false\n"),
            ),
            ("group", format!("{group}:x:{COMMS}:\n")),
        ] {
            let all = fs::read_to_string(Path::new("/etc").join(list)).expect("list");
            // The first of a name counts.
            fs::write(this.dir.path().join(list), line + &all).expect("write");
        }
        this.serve(paths::COMMS_SOCKET, &stop, comms());
        this.serve(paths::HOSTAGENT_SOCKET, &stop, hostagent());
        this
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn fs(&self) -> HostFs {
        HostFs::new(self.root())
    }

    fn serve(&self, socket: &str, stop: &CancellationToken, status: Value) {
        let listener = local::bind(&self.fs().at(socket), 0o600).expect("bind");
        let answer = move |_: Request| {
            let status = status.clone();
            async move { Reply::json(StatusCode::OK, &status) }
        };
        let policy = Policy::default();
        tokio::spawn(local::serve(listener, policy, stop.clone(), answer));
    }

    /// The program with a new token. What it passes it tells this file.
    async fn program(&self, bed: &Bed, points: &Path) -> Command {
        let at = |name: &str| self.dir.path().join(name);
        let token = bed.new_token().await.to_text();
        fs::write(at("token"), token.expose()).expect("token");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", WITH_USERS, "sh"])
            .args([at("passwd"), at("group")])
            .arg(crate::support::program("pf9ctl"))
            .arg("--root")
            .arg(self.root())
            .args(["node", "prep", "--plane", &bed.url, "--token-file"])
            .arg(at("token"))
            // What a machine has to have is another test's.
            .args(TABLE.iter().map(|entry| format!("--skip={}=", entry.id)))
            .env(ENV_POINTS, points)
            // What the seam keeps is on the same file system, and goes with the place.
            .env("TMPDIR", self.dir.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs it, and kills it there; how it ended, and what it passed.
    async fn prep(&self, bed: &Bed, breaks: Option<&PassedPoint>) -> (Output, Vec<PassedPoint>) {
        let points = self.dir.path().join("points");
        let mut command = self.program(bed, &points).await;
        if let Some(point) = breaks {
            command.env(ENV, point.with(InjectedFault::Kill));
        }
        let output = within(command.output()).await.expect("unshare");
        let told = fs::read_to_string(&points).unwrap_or_default();
        assert!(!told.is_empty(), "it passes points: {output:?}");
        fs::remove_file(&points).expect("another run tells its own");
        (output, PassedPoint::all(&told))
    }

    /// Runs it until it stands at this point; then it is killed from outside. Beside one that does not go on by itself
    /// another run is refused, and changes nothing.
    async fn stands(&self, bed: &Bed, point: &PassedPoint) {
        let name = &point.name;
        let points = self.dir.path().join("points-of-one-that-stands");
        let mut command = self.program(bed, &points).await;
        command.env(ENV, point.with(InjectedFault::Stop));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut stands = command.spawn().expect("unshare");
        until(|| {
            let told = fs::read_to_string(&points).unwrap_or_default();
            let is_there = PassedPoint::any_broke(&told);
            let ended = stands.try_wait().expect("its state");
            assert!(ended.is_none(), "{name}: {ended:?}, and not stopped there");
            ready(is_there.then_some(()))
        })
        .await;
        // A task that waits for others has a deadline; a call to the kernel has none.
        if !matches!(point.kind, CallKind::Exit | CallKind::Reply) {
            let before = self.left();
            let mut beside = self
                .program(bed, &self.dir.path().join("points-beside"))
                .await;
            let beside = within(beside.output()).await.expect("unshare");
            let why = said(&beside);
            assert!(!beside.status.success(), "{name}: two at once: {why}");
            assert!(why.contains("pf9ctl.lock"), "{name}: {why}");
            assert_eq!(self.left(), before, "{name}: the one beside it");
        }
        within(stands.kill()).await.expect("it is killed");
    }

    /// Every file and directory that is left, with mode and owner, and the state of units. The daemons take away what a
    /// write left that was cut off: its name says so.
    fn left(&self) -> BTreeMap<String, (u32, u32)> {
        let mut all = BTreeMap::new();
        let mut todo = vec![self.root().join("etc/pf9"), self.root().join("units")];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).expect("list") {
                let path = entry.expect("entry").path();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if name.starts_with(".pf9-tmp-") {
                    continue;
                }
                let meta = fs::symlink_metadata(&path).expect("there");
                let below = path.strip_prefix(self.root()).expect("below");
                all.insert(below.display().to_string(), (meta.mode(), meta.uid()));
                if meta.is_dir() {
                    todo.push(path);
                }
            }
        }
        all
    }

    /// The plane takes it for the host that it says it is.
    async fn connects(&self, bed: &Bed) -> HostId {
        let id = identity::host_id(&self.fs()).expect("id").expect("a host");
        let text = |path: &str| fs::read_to_string(self.fs().at(path)).expect(path);
        let address = bed.url.trim_start_matches("https://");
        let mut node = Node::new(id);
        node.key = KeyPair::from_pem(&text(paths::HOST_KEY)).expect("key");
        node.answer = Some(EnrolAnswer {
            schema: 1,
            certificate: text(paths::HOST_CERT),
            ca: text(paths::PLANE_CA),
            trust: Vec::new(),
            endpoints: vec![format!("wss://{address}{}", mux::TUNNEL_PATH)],
            trust_version: None,
        });
        assert_eq!(node.connect(bed).await, Ok(()));
        id
    }
}

fn comms() -> Value {
    json!({
        "schema": 1, "state": {"is": "connected", "since": Timestamp::now()}, "endpoint": null,
        "rtt_us": 4100, "streams": 0, "bytes_in": 0, "bytes_out": 0, "last_contact": null,
        "last_fault": null,
    })
}

/// Whatever is asked of it, the plane has just taken a status.
fn hostagent() -> Value {
    let mut status = Node::new(HostId::random()).status("worker-1", "10.1.0.1");
    status["acknowledged_at"] = json!(Timestamp::MAX);
    status
}

fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// What an undisturbed preparation passes and leaves, and the hosts that the plane has to know.
struct Calm {
    bed: Bed,
    points: Vec<PassedPoint>,
    left: BTreeMap<String, (u32, u32)>,
    hosts: BTreeSet<String>,
}

impl Calm {
    async fn new() -> Self {
        let bed = Bed::new().await;
        let machine = Machine::new();
        let (output, points) = machine.prep(&bed, None).await;
        assert!(output.status.success(), "{}", said(&output));
        Self {
            hosts: [machine.connects(&bed).await.to_string()].into(),
            left: machine.left(),
            points,
            bed,
        }
    }

    /// This machine, on which one was cut off there, is prepared by the next run: as if nothing had been, and one host.
    async fn ends(&mut self, machine: &Machine, name: &str) {
        let (output, _) = machine.prep(&self.bed, None).await;
        assert!(output.status.success(), "{name}: {}", said(&output));
        assert_eq!(machine.left(), self.left, "{name}");
        let host = machine.connects(&self.bed).await;
        self.hosts.insert(host.to_string());
        let known = self.bed.admin_get("/hosts").await.1;
        let known = known.as_array().expect("hosts").iter();
        let known: BTreeSet<String> = known
            .filter_map(|host| host["id"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(known, self.hosts, "{name}: one machine, one host");
    }
}

/// Cases of a sample: each takes two preparations, and a host that connects.
const FEW: usize = 6;

#[tokio::test]
async fn a_preparation_that_is_killed_anywhere_is_ended_by_the_next_run_as_one_host() {
    let mut calm = Calm::new().await;
    // Between two of these lie only parts of one write.
    let is_stage = |point: &PassedPoint| {
        matches!(
            point.kind,
            CallKind::Spawn | CallKind::Rename | CallKind::Remove
        )
    };
    let mut stages = calm.points.clone();
    stages.retain(is_stage);
    assert!(stages.len() > 15, "{stages:#?}");
    for stage in sample::of("stages of a preparation", stages, FEW) {
        let name = &stage.name;
        let machine = Machine::new();
        let (output, passed) = machine.prep(&calm.bed, Some(&stage)).await;
        assert!(output.status.signal().is_some(), "{name}: {output:?}");
        assert!(passed.iter().any(|p| p.broke), "{name}");
        calm.ends(&machine, name).await;
    }
}

/// Every point and not the stages alone: what stands has ended no write, and holds the lock.
#[tokio::test]
async fn a_preparation_that_stands_still_anywhere_is_ended_by_the_next_run_as_one_host() {
    let mut calm = Calm::new().await;
    let kinds: BTreeSet<CallKind> = calm.points.iter().map(|point| point.kind).collect();
    for kind in [CallKind::Write, CallKind::Exit, CallKind::Reply] {
        assert!(kinds.contains(&kind), "{kind:?} is none of {kinds:?}");
    }
    let points = calm.points.clone();
    for point in sample::of("points where a preparation stands still", points, FEW) {
        let machine = Machine::new();
        machine.stands(&calm.bed, &point).await;
        calm.ends(&machine, &point.name).await;
    }
}
