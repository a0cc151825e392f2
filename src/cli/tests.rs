//! The verbs, against a machine below a temporary root: its files, a `systemctl` that keeps its
//! state in files, daemons' sockets served by this process, and a plane behind real TLS.
//!
//! | file | tests |
//! |---|---|
//! | `screens`      | help, status and check screens are the reviewed ones |
//! | `bundle`       | bundle: no secret of a machine is in it |
//! | `config`       | config, logs, version, phases |
//! | `check`        | node check: everything at once, schema, plane and clock |
//! | `schema`       | what is written as JSON fits the schemas that are published |
//! | `status`       | what is gathered when who is silent |
//! | `prep`         | prep-node: the good way, and every bad input |
//! | `fixes`        | node prep: dry run and fixes |
//! | `proxy`        | proxy set, show, test, against a real proxy and plane |
//! | `identity`     | identity show, reset |
//! | `etcd`         | etcd verify: whose a backup is, and where |
//! | `decommission` | the way back |
//! | `tunnel`       | tunnel status, ping, top |
//! | `operator`     | host, cluster, node join and leave: an operator API behind real TLS |
//! | `manual`       | manual pages and completions are made of the program |
//! | `packaged`     | what the package ships is what the programs read |
//! | `troubleshooting` | the page of fault codes, and that it names only what there is |

mod bundle;
mod check;
mod cloud_init;
mod config;
mod decommission;
mod etcd;
mod fixes;
mod identity;
mod manual;
mod operator;
mod packaged;
mod plane;
mod prep;
mod proxy;
mod remote;
mod schema;
mod screens;
mod scripts;
mod status;
mod support;
mod troubleshooting;
mod tunnel;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::FromArgMatches;

use super::args::{Args, command};
use super::context::CommandContext;
use super::output::Output;
use crate::app::Exit;
use crate::host::fs::{Attrs, HostFs};
use crate::identity::Owners;
use crate::local::{Policy, Reply, Request, StatusCode};
use crate::model::{Fault, FaultCode};

/// A machine nothing is wrong with, as files.
const MACHINE: &[(&str, &str)] = &[
    (
        "/etc/os-release",
        "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian 12\"\n",
    ),
    ("/proc/meminfo", "MemTotal:        4194304 kB\n"),
    ("/proc/cpuinfo", "processor\t: 0\nprocessor\t: 1\n"),
    ("/proc/swaps", "Filename Type Size Used Priority\n"),
    ("/proc/sys/kernel/hostname", "worker-1\n"),
    ("/proc/filesystems", "nodev\toverlay\n"),
    ("/proc/sys/net/bridge/x", ""),
    ("/proc/sys/net/netfilter/nf_conntrack_max", "1\n"),
    (
        "/sys/fs/cgroup/cgroup.controllers",
        "cpu cpuset memory pids\n",
    ),
    ("/run/systemd/system/x", ""),
    ("/run/systemd/container", "x"),
    ("/dev/kmsg", ""),
    ("/usr/lib64/libseccomp.so.2", ""),
    ("/opt/pf9/agent/current/bin/pf9-comms", ""),
    ("/etc/resolv.conf", "nameserver 10.0.0.1\n"),
    ("/etc/pf9/hostagent.toml", "# a person's own\n"),
];
const TOOLS: [&str; 8] = [
    "iptables",
    "iptables-save",
    "conntrack",
    "ip",
    "mount",
    "umount",
    "modprobe",
    "nsenter",
];

/// Keeps the state of units as files; what was asked is in `calls`.
const SYSTEMCTL: &str = r#"#!/bin/sh
d=@ROOT@/units
shift
verb=$1; shift
for unit; do :; done
case $verb in
show)
    shift 3
    for u; do
        a=inactive s=dead e=disabled l=loaded
        [ -e "$d/$u.active" ] && a=active s=running
        [ -e "$d/$u.failed" ] && a=failed s=failed
        [ -e "$d/$u.enabled" ] && e=enabled
        case $u in *nodeletd.s*|*comms*|*hostagent*) ;; *) [ -e "$d/$u.active" ] || l=not-found ;; esac
        printf 'Id=%s\nLoadState=%s\nActiveState=%s\nSubState=%s\nUnitFileState=%s\nResult=exit-code\n\n' \
            "$u" "$l" "$a" "$s" "$e"
    done
    exit ;;
esac
echo "$verb $unit" >> @ROOT@/calls
[ ! -e "$d/$unit.broken" ] || { echo "$unit is broken" >&2; exit 1; }
case $verb in
enable) : > "$d/$unit.enabled" ;;
disable) rm -f "$d/$unit.enabled" ;;
start|restart) : > "$d/$unit.active" ;;
stop) rm -f "$d/$unit.active" ;;
esac
"#;

/// A machine below a temporary root.
struct Rig {
    dir: tempfile::TempDir,
    host: HostFs,
    uid: u32,
    json: bool,
}

/// What one run of a verb did.
struct Ran {
    exit: Exit,
    text: String,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        let rig = Self {
            dir,
            host,
            uid: 0,
            json: false,
        };
        for (path, text) in MACHINE {
            rig.file(path, text);
        }
        for tool in TOOLS {
            rig.program(&format!("/usr/sbin/{tool}"), "#!/bin/sh\n");
        }
        let root = rig.dir.path().display().to_string();
        rig.program("/usr/bin/systemctl", &SYSTEMCTL.replace("@ROOT@", &root));
        rig.program("/usr/bin/systemd-sysusers", "#!/bin/sh\n");
        rig.program("/usr/bin/systemd-tmpfiles", "#!/bin/sh\n");
        for dir in ["/units", "/run/pf9"] {
            rig.host.make_dir(dir, &Attrs::mode(0o755)).expect("dir");
        }
        rig
    }

    fn file(&self, path: &str, text: &str) {
        self.host
            .write(path, text.as_bytes(), &Attrs::mode(0o644))
            .expect("write");
    }

    fn program(&self, path: &str, text: &str) {
        self.host
            .write(path, text.as_bytes(), &Attrs::mode(0o755))
            .expect("write");
    }

    fn unit(&self, unit: &str, states: &[&str]) {
        for state in states {
            self.file(&format!("/units/{unit}.{state}"), "");
        }
    }

    fn unit_is(&self, unit: &str, state: &str) -> bool {
        self.host.at(format!("/units/{unit}.{state}")).exists()
    }

    fn calls(&self) -> String {
        let text = self.host.read_text("/calls", 1 << 20).expect("calls");
        text.unwrap_or_default()
    }

    fn context(&self) -> CommandContext {
        let mut ctx = CommandContext::new(self.dir.path(), Output::memory(self.json));
        ctx.owners = Owners::current_user();
        ctx.uid = self.uid;
        ctx.pause = Duration::from_millis(5);
        ctx
    }

    /// Runs a command line, as `main` does.
    async fn run(&self, line: &[&str]) -> Ran {
        self.run_in(&self.context(), line).await
    }

    async fn run_in(&self, ctx: &CommandContext, line: &[&str]) -> Ran {
        let words = std::iter::once("pf9ctl").chain(line.iter().copied());
        let matches = command().try_get_matches_from(words).expect("command line");
        let args = Args::from_arg_matches(&matches).expect("arguments");
        let exit = super::run(ctx, &args.verb).await;
        Ran {
            exit,
            text: ctx.out.printed(),
        }
    }

    /// Serves one of our sockets with what `answer` says.
    fn serve(
        &self,
        socket: &str,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> tokio::task::JoinHandle<()> {
        let listener = crate::local::bind(&self.host.at(socket), 0o600).expect("bind");
        let answer = Arc::new(answer);
        let stop = tokio_util::sync::CancellationToken::new();
        tokio::spawn(crate::local::serve(
            listener,
            Policy::default(),
            stop,
            move |request| {
                let answer = Arc::clone(&answer);
                async move { answer(&request) }
            },
        ))
    }

    /// Every file, with its text; sockets, `calls` and unit states left out.
    fn files(&self) -> BTreeMap<PathBuf, String> {
        let mut all = BTreeMap::new();
        let mut todo = vec![self.dir.path().to_path_buf()];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(dir).expect("list") {
                let path = entry.expect("entry").path();
                let name = path
                    .strip_prefix(self.dir.path())
                    .expect("below")
                    .to_path_buf();
                if name.starts_with("units") || name.starts_with("calls") || name.starts_with("run")
                {
                    continue;
                }
                if let Ok(to) = std::fs::read_link(&path) {
                    all.insert(name, to.display().to_string());
                } else if path.is_dir() {
                    todo.push(path);
                } else {
                    let bytes = std::fs::read(&path).expect("read");
                    all.insert(name, String::from_utf8_lossy(&bytes).into_owned());
                }
            }
        }
        all
    }
}

/// A text against the reviewed one in `tests/golden/cli`.
fn golden(name: &str, text: &str) {
    golden_at(&format!("tests/golden/cli/{name}"), text);
}

/// Likewise a file anywhere in the checkout that is made of the program.
fn golden_at(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("PF9_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        std::fs::write(&path, text).expect("write");
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        want == text,
        "{} differs; PF9_BLESS=1 writes it anew\n{text}",
        path.display()
    );
}

/// What a socket answers can be changed while it is served.
#[derive(Clone, Default)]
struct Shared<T>(Arc<Mutex<T>>);

impl<T: Clone> Shared<T> {
    fn new(value: T) -> Self {
        Self(Arc::new(Mutex::new(value)))
    }
    fn get(&self) -> T {
        self.0.lock().expect("lock").clone()
    }
    fn set(&self, value: T) {
        *self.0.lock().expect("lock") = value;
    }
}

fn ok_json<T: serde::Serialize>(value: &T) -> Reply {
    Reply::json(StatusCode::OK, value)
}

fn no(code: FaultCode, why: &str) -> Reply {
    Reply::fault(StatusCode::CONFLICT, &Fault::new(code, "call refused", why))
}
