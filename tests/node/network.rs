//! An operator's work through the tunnel while the network is bad and the line is full.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{ChildStdin, Command};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::Value;

use crate::demo::{Outcome, demo, eventually, kubectl, shell};
use crate::running::{Following, Running, line_with, lines, start};

/// Conditions of the path between plane and machines.
const BAD: [&str; 4] = ["--rtt", "80", "--loss", "1"];
/// The pod everything is tried on.
const POD: &str = "hello-worker-1";
/// Concurrent downloads beside people's work.
const DOWNLOADS: usize = 4;
/// Longest time a person may have to wait for anything on this path.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Echo of a line on this path: one or two round trips (a packet in a hundred is retransmitted), with any congestion
/// control. Without limits on data in flight it is seconds; with 64 KiB or more it was 400 ms where TCP halves its
/// window at each loss.
const TYPED_WITHIN: Duration = Duration::from_millis(250);
/// The same for all keys but two: a packet lost at the end of a burst is only missed by a retransmission timeout of
/// TCP, 0.3 s here, and one lost twice costs that again.
const TYPED_ALL_WITHIN: Duration = Duration::from_secs(1);
/// Keys that only have to arrive at all.
const UNLUCKY: usize = 2;
/// A file that is copied there and back.
const COPIED_MIB: usize = 8;
/// Lines typed.
const KEYS: usize = 21;

/// A round trip around the world.
const FAR: &str = "150";
/// Echo of a line on it: two and a half round trips.
const TYPED_FAR_WITHIN: Duration = Duration::from_millis(375);
/// Two and a half pings of 8 s until a dead path is noticed, and a poll.
const NOTICED_WITHIN: Duration = Duration::from_secs(22);

/// Everything at once, and a restart of the plane in the middle.
pub(crate) fn people_work_beside_downloads(nodes: &[&str]) -> Outcome {
    for node in nodes {
        demo(&[&["path", node][..], &BAD].concat())?;
    }
    // The way to every pod is through the master's tunnel.
    let mut bulk = downloads("master-1")?;
    let mut typing = Typing::begin()?;
    let typed = typing.times(KEYS)?;
    let (middle, slowest) = (typed[KEYS / 2], typed[KEYS - 1 - UNLUCKY]);
    println!(
        "a line there and back beside {DOWNLOADS} downloads: {middle:?}, all but {UNLUCKY}: {slowest:?}"
    );
    assert!(middle <= TYPED_WITHIN, "{typed:?}");
    assert!(slowest <= TYPED_ALL_WITHIN, "{typed:?}");
    tried("get -w", watch_sees_a_change)?;
    tried("logs -f", logs_follow)?;
    tried("exec -it", terminal_resizes)?;
    tried("port-forward", ports_are_forwarded)?;
    tried("cp", || copies(COPIED_MIB))?;
    bulk.still_run()?;
    let (watch, logs) = (watch()?, follow()?);
    demo(&["plane", "stop"])?;
    demo(&["plane", "start"])?;
    eventually(
        "typing goes on after a restart of the plane",
        PATIENCE * 2,
        || Typing::begin().map(drop),
    )?;
    let mark = mark("again");
    relabel(&mark)?;
    watch.goes_on_or_ends("get -w", &mark)?;
    log_a_line(&mark)?;
    logs.goes_on_or_ends("logs -f", &mark)?;
    bulk.end()?;
    for node in nodes {
        demo(&["path", node])?;
    }
    Ok(())
}

/// A long distance is slow and nothing else.
pub(crate) fn people_work_from_far(nodes: &[&str]) -> Outcome {
    for node in nodes {
        demo(&["path", node, "--rtt", FAR])?;
    }
    let typed = Typing::begin()?.times(5)?;
    println!("a line there and back from far: {typed:?}");
    assert!(typed[2] <= TYPED_FAR_WITHIN, "{typed:?}");
    tried("exec from far", || {
        let said = kubectl(&["exec", POD, "--", "echo", "hello"])?;
        match said.trim() {
            "hello" => Ok(()),
            other => Err(format!("exec: {other:?}")),
        }
    })?;
    tried("cp from far", || copies(1))?;
    for node in nodes {
        demo(&["path", node])?;
    }
    Ok(())
}

fn tried(what: &str, does: impl FnOnce() -> Outcome) -> Outcome {
    let began = Instant::now();
    does()?;
    println!("{what}: {:.1} s", began.elapsed().as_secs_f32());
    Ok(())
}

/// On the machine: downloads end when it exists.
const STOP: &str = "/run/enough-downloads";

/// Bulk: the stack's archive, downloaded through the tunnel again and again.
struct Downloads(Vec<Running>, String);

fn downloads(node: &str) -> Outcome<Downloads> {
    let spec = shell(node, "cat /var/opt/pf9/hostagent/spec.json")?;
    let envelope: Value = serde_json::from_str(&spec).map_err(|e| e.to_string())?;
    let payload = base64::engine::general_purpose::STANDARD
        .decode(envelope["payload"].as_str().unwrap_or_default())
        .map_err(|e| e.to_string())?;
    let spec: Value = serde_json::from_slice(&payload).map_err(|e| e.to_string())?;
    let digest = spec
        .pointer("/assignment/stack/manifest")
        .and_then(Value::as_str)
        .ok_or("the spec names no stack")?;
    let script = format!(
        "while [ ! -e {STOP} ] && curl -sS --unix-socket /run/pf9/plane.sock -o /dev/null \
         http://plane/v1/stacks/{digest}/archive; do :; done"
    );
    shell(node, &format!("rm -f {STOP}"))?;
    let mut running = Vec::new();
    for n in 0..DOWNLOADS {
        running.push(start(&[
            "shell",
            node,
            "sh",
            "-c",
            &script,
            &n.to_string(),
        ])?);
    }
    Ok(Downloads(running, node.to_owned()))
}

impl Downloads {
    /// All of them still run: the test ran beside them.
    fn still_run(&mut self) -> Outcome {
        for running in &mut self.0 {
            if let Ok(Some(status)) = running.0.try_wait() {
                return Err(format!("a download ended: {status}"));
            }
        }
        Ok(())
    }

    /// The loops on the machine are not our children: a file stops them.
    fn end(mut self) -> Outcome {
        shell(&self.1, &format!("touch {STOP}; pkill -x curl || :"))?;
        for running in &mut self.0 {
            drop(running.0.wait());
        }
        Ok(())
    }
}

/// A terminal's echo: a line into a pod's `cat` and back, repeatedly.
struct Typing {
    _running: Running,
    to: ChildStdin,
    from: mpsc::Receiver<String>,
}

impl Typing {
    fn begin() -> Outcome<Self> {
        let mut running = start(&["kubectl", "exec", "-i", POD, "--", "cat"])?;
        let to = running.0.stdin.take().ok_or("no stdin")?;
        let from = lines(running.0.stdout.take().ok_or("no stdout")?);
        let mut typing = Self {
            _running: running,
            to,
            from,
        };
        typing.key()?;
        Ok(typing)
    }

    /// How long one line takes to echo.
    fn key(&mut self) -> Outcome<Duration> {
        let began = Instant::now();
        self.to.write_all(b"x\n").map_err(|e| e.to_string())?;
        match self.from.recv_timeout(PATIENCE) {
            Ok(line) if line == "x" => Ok(began.elapsed()),
            Ok(line) => Err(format!("cat answered {line:?}")),
            Err(e) => Err(format!("cat within {PATIENCE:?}: {e}")),
        }
    }

    /// Of many, the fastest first.
    fn times(&mut self, keys: usize) -> Outcome<Vec<Duration>> {
        let mut times = (0..keys).map(|_| self.key()).collect::<Outcome<Vec<_>>>()?;
        times.sort_unstable();
        Ok(times)
    }
}

/// A unique word.
fn mark(what: &str) -> String {
    format!("{what}-{}", std::process::id())
}

fn relabel(mark: &str) -> Outcome {
    kubectl(&["label", "--overwrite", "pod", POD, &format!("tried={mark}")]).map(drop)
}

/// Output of process 1 of the container is its log.
fn log_a_line(mark: &str) -> Outcome {
    let script = format!("echo {mark} >/proc/1/fd/1");
    kubectl(&["exec", POD, "--", "sh", "-c", &script]).map(drop)
}

fn watch() -> Outcome<Following> {
    Following::begin(&[
        "kubectl",
        "get",
        "pod",
        POD,
        "-w",
        "-o",
        "jsonpath={.metadata.labels.tried}{\"\\n\"}",
    ])
}

/// `kubectl get -w` shows a change when it happens.
fn watch_sees_a_change() -> Outcome {
    let (watch, mark) = (watch()?, mark("t"));
    relabel(&mark)?;
    line_with(&watch.seen, &mark, PATIENCE).map(drop)
}

fn follow() -> Outcome<Following> {
    Following::begin(&["kubectl", "logs", "-f", POD])
}

/// `kubectl logs -f` shows a line when it is written.
fn logs_follow() -> Outcome {
    let (logs, mark) = (follow()?, mark("mark"));
    log_a_line(&mark)?;
    line_with(&logs.seen, &mark, PATIENCE).map(drop)
}

/// `kubectl exec -it` in a real terminal that is resized.
fn terminal_resizes() -> Outcome {
    let script = r#"
import fcntl, os, pty, select, signal, struct, sys, termios, time
pid, fd = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
text, until = "", time.monotonic() + 60
for rows, columns in ((31, 101), (17, 63)):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    os.kill(pid, signal.SIGWINCH)
    # The size travels on a channel of its own: it is asked for until it is there.
    while f"{rows} {columns}" not in text:
        if time.monotonic() > until:
            sys.exit(f"{rows} {columns} was never seen: {text!r}")
        os.write(fd, b"stty size\n")
        while select.select([fd], [], [], 0.5)[0]:
            text += os.read(fd, 4096).decode("utf-8", "replace")
os.write(fd, b"exit\n")
os.waitpid(pid, 0)
"#;
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/demo");
    let output = Command::new("python3")
        .args([
            "-c", script, program, "kubectl", "exec", "-it", POD, "--", "sh",
        ])
        .env("TERM", "xterm")
        .output()
        .map_err(|e| format!("python3: {e}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!(
            "exec -it: {}",
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

/// `kubectl port-forward`: many connections, each a request and its answer.
fn ports_are_forwarded() -> Outcome {
    // It lives as long as this holds its other end.
    let _server = start(&[
        "kubectl", "exec", "-i", POD, "--", "httpd", "-f", "-p", "8080", "-h", "/bin",
    ])?;
    // Who forwards is not asked to tell a pod that is not that far from a tunnel that fails.
    let listens = "netstat -ltn | grep :8080";
    eventually("the pod listens", PATIENCE, || {
        kubectl(&["exec", POD, "--", "sh", "-c", listens]).map(drop)
    })?;
    let mut forward = start(&["kubectl", "port-forward", POD, ":8080"])?;
    let seen = lines(forward.0.stdout.take().ok_or("no stdout")?);
    let line = line_with(&seen, "Forwarding from 127.0.0.1:", PATIENCE)?;
    let port: u16 = line
        .split("127.0.0.1:")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .and_then(|port| port.parse().ok())
        .ok_or(format!("no port in {line:?}"))?;
    let get = || {
        let say = |e: std::io::Error| format!("port-forward: {e}");
        let mut socket = TcpStream::connect(("127.0.0.1", port)).map_err(say)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(say)?;
        let request = b"GET /busybox HTTP/1.0\r\nHost: pod\r\n\r\n";
        socket.write_all(request).map_err(say)?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).map_err(say)?;
        // The binary itself, after the headers.
        match answer.starts_with(b"HTTP/1.") && answer.len() > 500_000 {
            true => Ok(()),
            false => Err(format!("the answer has {} bytes", answer.len())),
        }
    };
    (0..5).try_for_each(|_| get())
}

/// `kubectl cp` there and back: the same bytes.
fn copies(mib: usize) -> Outcome {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (there, back) = (dir.path().join("there"), dir.path().join("back"));
    let mut random = fastrand::Rng::new();
    let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
        .take(mib << 20)
        .collect();
    std::fs::write(&there, &bytes).map_err(|e| e.to_string())?;
    let remote = format!("{POD}:/tmp/copied");
    kubectl(&["cp", &there.to_string_lossy(), &remote])?;
    kubectl(&["cp", &remote, &back.to_string_lossy()])?;
    kubectl(&["exec", POD, "--", "rm", "/tmp/copied"])?;
    let returned = std::fs::read(&back).map_err(|e| e.to_string())?;
    assert!(
        returned == bytes,
        "{} bytes came back of {}",
        returned.len(),
        bytes.len()
    );
    Ok(())
}

/// Whether the plane counts the host as reachable.
fn plane_reaches(node: &str) -> Outcome<bool> {
    let targets = demo(&["metrics"])?;
    // Its certificate metrics come from the last status: they exist without a tunnel as well.
    Ok(targets.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(node) && words.next() == Some("tunnel")
    }))
}

/// A path that drops everything, in the middle of downloads: noticed in time at both ends, and reconnected when it
/// works again.
pub(crate) fn black_hole_is_noticed(node: &str) -> Outcome {
    let connected = |want: &str| {
        let text = shell(node, "pf9ctl status --json || :")?;
        let status: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let state = status
            .pointer("/tunnel/state")
            .map(Value::to_string)
            .unwrap_or_default();
        if state.contains(want) {
            Ok(())
        } else {
            Err(format!("the tunnel is {state}"))
        }
    };
    let back = Duration::from_secs(75);
    eventually("the tunnel is up", back, || connected("connected"))?;
    assert!(
        plane_reaches(node)?,
        "the plane does not count {node} in before"
    );
    // Data in flight when the path dies are never acknowledged: both ends have queues then.
    let mut bulk = downloads(node)?;
    eventually("downloads run", PATIENCE, || {
        shell(node, "pgrep -x curl").map(drop)
    })?;
    bulk.still_run()?;
    demo(&["path", node, "--blackhole"])?;
    std::thread::scope(|both| {
        let plane = both.spawn(|| {
            eventually(
                "the plane notices that nothing comes any more",
                NOTICED_WITHIN,
                || match plane_reaches(node)? {
                    true => Err("it counts the host in".to_owned()),
                    false => Ok(()),
                },
            )
        });
        let here = eventually(
            "the node notices that nothing comes any more",
            NOTICED_WITHIN,
            || connected("waiting").or_else(|_| connected("connecting")),
        );
        let there = plane.join().map_err(|_| "asking the plane panicked")?;
        here.and(there)
    })?;
    demo(&["path", node])?;
    bulk.end()?;
    eventually("the tunnel is up again", back, || connected("connected"))?;
    eventually(
        "the plane reaches it again",
        back,
        || match plane_reaches(node)? {
            true => Ok(()),
            false => Err("it does not count the host in".to_owned()),
        },
    )
}
