//! nodelet's socket against a user of its own group: connections that another program of that user holds count against
//! that user only.
//!
//! The other user is a real one: a Python program with a user id of its own. Run as root, as all of scripts/test is;
//! without root the test cannot become another user, and fails.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pf9_hostagent::local::{self, Callers, Client, Reply, StatusCode};
use pf9_hostagent::nodelet::server;
use tokio::io::AsyncReadExt;
use tokio_util::sync::{CancellationToken, DropGuard};

/// In no range that distributions give to users.
const HOSTAGENT: u32 = 64_001;
const STRANGER: u32 = 64_002;
/// Root is answered within this, whatever others do.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Connects as often as its first argument says, and stays silent. Keeps as many as its descriptors allow, prints how
/// many are still open, then `done`, and continues until its input ends.
const SILENT: &str = r#"
import resource, socket, sys, threading
path, times, again = sys.argv[1], int(sys.argv[2]), sys.argv[3] == 'again'
room = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)
resource.setrlimit(resource.RLIMIT_NOFILE, (room, room))
kept = []
def knock():
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.connect(path)
    kept.append(s)
    if len(kept) > room - 64:
        kept.pop(0).close()
for _ in range(times):
    knock()
def is_open(s):
    s.setblocking(False)
    try:
        while s.recv(4096):
            pass
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
# Who comes to the last one came to all of them: it is closed, or it is let in and says nothing.
last = kept[-1]
last.settimeout(5)
try:
    while last.recv(4096):
        pass
except OSError:
    pass
print(sum(is_open(s) for s in kept), flush=True)
ends = threading.Event()
def wait():
    sys.stdin.read()
    ends.set()
threading.Thread(target=wait, daemon=True).start()
while not ends.is_set():
    if again:
        knock()
    else:
        ends.wait()
"#;

struct Silent {
    child: Child,
    _stdin: ChildStdin,
}

impl Drop for Silent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A program of that user, and how many connections it holds.
async fn silent(socket: &Path, uid: u32, times: u32, again: bool) -> (Silent, usize) {
    let more = if again { "again" } else { "" };
    let mut child = Command::new("python3")
        .args(["-c", SILENT])
        .arg(socket)
        .args([&times.to_string(), more])
        .uid(uid)
        .gid(uid)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3, as another user: this test must be root");
    let stdin = child.stdin.take().expect("stdin");
    let stdout = child.stdout.take().expect("stdout");
    let mut stdout = tokio::process::ChildStdout::from_std(stdout).expect("pipe");
    let mut said = String::new();
    while !said.ends_with('\n') {
        let mut some = [0; 64];
        let n = stdout.read(&mut some).await.expect("read");
        assert!(n > 0, "it ended early");
        said.push_str(std::str::from_utf8(&some[..n]).expect("text"));
    }
    let holds = said.trim().parse().expect("number");
    (
        Silent {
            child,
            _stdin: stdin,
        },
        holds,
    )
}

/// nodelet's socket, with a handler that returns the caller.
fn start() -> (tempfile::TempDir, std::path::PathBuf, DropGuard) {
    let dir = tempfile::tempdir().expect("tempdir");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).expect("mode");
    let path = dir.path().join("nodelet.sock");
    let listener = local::bind(&path, 0o666).expect("bind");
    let stop = CancellationToken::new();
    let callers = Callers::Only(Arc::new(|peer| peer.is_root() || peer.uid == HOSTAGENT));
    tokio::spawn(local::serve(
        listener,
        server::policy(callers),
        stop.clone(),
        |request| async move { Reply::json(StatusCode::OK, &request.peer.uid) },
    ));
    (dir, path, stop.drop_guard())
}

async fn root_is_answered(path: &Path) {
    // A new connection each time: an open one proves nothing.
    let client = Client::unix(path).expect("client");
    let who: u32 = client.get("/v1/status", AT_ONCE).await.expect("answered");
    assert_eq!(who, 0);
}

/// As many as the whole socket once accepted, from one user: they use up that user's share, and root is answered.
#[tokio::test]
async fn silent_connections_of_one_user_do_not_lock_root_out() {
    let (_dir, path, _stop) = start();
    let (_silent, holds) = silent(&path, HOSTAGENT, 32, false).await;
    let share = server::policy(Callers::ByMode).share;
    assert_eq!(holds, share.each);
    root_is_answered(&path).await;
}

/// Ten thousand, and then continuously, from allowed and other users: the backlog does not fill, what exceeds a share
/// is closed unread, and root is answered all the while.
#[tokio::test]
async fn a_flood_of_connections_does_not_lock_root_out() {
    let (_dir, path, _stop) = start();
    let (_stranger, holds) = silent(&path, STRANGER, 1_000, true).await;
    assert_eq!(holds, 0, "who may not call holds nothing");
    let (_hostagent, holds) = silent(&path, HOSTAGENT, 10_000, true).await;
    assert!(
        holds <= server::policy(Callers::ByMode).share.each,
        "{holds}"
    );
    for _ in 0..20 {
        root_is_answered(&path).await;
    }
}

/// A person queries the daemons with a short-lived program: its startup reads delay each call.
#[test]
fn the_machines_authorities_are_not_read_to_ask_a_socket() {
    let dir = tempfile::tempdir().expect("tempdir");
    // An open blocks until there is a writer, and there is none.
    let pipe = dir.path().join("authorities");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).expect("pipe");
    let mut asks = std::process::Command::new(crate::support::program("pf9ctl"))
        .arg("--root")
        .arg(dir.path())
        .args(["status", "--json"])
        .env("SSL_CERT_FILE", &pipe)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("pf9ctl");
    let patience = Duration::from_secs(60);
    let began = std::time::Instant::now();
    while asks.try_wait().expect("state").is_none() {
        if began.elapsed() > patience {
            asks.kill().expect("ended");
            panic!("it reads them");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
