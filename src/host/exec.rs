//! Processes: an absolute program, an argument list, a deadline. Never a shell.
//!
//! ```text
//! Cmd ──► run ──► Output        own process group, cleared environment, capped output
//!    │        └─► ExecError     program, arguments, how it ended, its last words, how long it took
//!    └──► ask ──► Answer        the same, where a failure is an answer too
//! ```

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::seam::{point, point_soon};

/// What children search: the distribution's own directories and nothing a person could prepend.
const CHILD_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Most standard output that is kept: `iptables-save` of a node with thousands of services.
pub(crate) const STDOUT_MAX: usize = 16 * 1024 * 1024;
/// Most standard error that is kept: what an error message can show.
const STDERR_MAX: usize = 4 * 1024;
/// Most standard error of an answer: the trace of a program that gave up.
const ANSWER_STDERR_MAX: usize = 256 * 1024;
/// Longest argument list an error shows.
const ARGS_SHOWN: usize = 256;

/// One program to be run.
#[derive(Clone, Debug)]
pub struct Cmd {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: Vec<u8>,
    deadline: Duration,
    keeps: usize,
}

/// What a program that ended well said.
#[derive(Clone, Debug)]
pub struct Output {
    /// Standard output, at most 16 MiB.
    pub stdout: Vec<u8>,
    /// The end of its standard error: some say there what they are asked.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

/// What a program said, however it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramOutput {
    /// How it ended.
    pub ended: ProgramEnd,
    /// Its standard output, at most 16 MiB.
    pub stdout: String,
    /// Its standard error, at most 256 KiB.
    pub stderr: String,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramEnd {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Not in time: it was killed.
    Late,
}

/// A program that did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It could not be started.
    #[error("cannot run {program}")]
    Start {
        /// The program with its arguments.
        program: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It ended with a failure.
    #[error("{program} failed ({status}, {} ms): {stderr}", took.as_millis())]
    Failed {
        /// The program with its arguments.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its standard error.
        stderr: String,
        /// How long it ran.
        took: Duration,
    },
    /// It did not end in time; its process group was killed.
    #[error("{program} did not end within {} s and was killed: {stderr}", deadline.as_secs())]
    Timeout {
        /// The program with its arguments.
        program: String,
        /// How long it had.
        deadline: Duration,
        /// The end of its standard error.
        stderr: String,
    },
}

impl Cmd {
    /// A program by its absolute path, with a deadline.
    pub fn new(program: impl Into<PathBuf>, deadline: Duration) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: Vec::new(),
            deadline,
            keeps: STDOUT_MAX,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<T: Into<OsString>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable; nothing is inherited.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// What the program reads on its standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: Vec<u8>) -> Self {
        self.stdin = bytes;
        self
    }

    /// Keeps no more of its standard output; the rest is read and thrown away.
    #[must_use]
    pub fn keeps(mut self, bytes: usize) -> Self {
        self.keeps = bytes.min(STDOUT_MAX);
        self
    }

    /// The program with its arguments, for messages.
    fn shown(&self) -> String {
        let mut text = self.program.display().to_string();
        for arg in &self.args {
            text.push(' ');
            text.push_str(&arg.to_string_lossy());
            if text.len() > ARGS_SHOWN {
                text = text.chars().take(ARGS_SHOWN).collect();
                text.push('…');
                break;
            }
        }
        text
    }
}

impl Output {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs it to its end, at most until its deadline. Dropping the future kills the process group.
pub async fn run(cmd: Cmd) -> Result<Output, ExecError> {
    let started = Instant::now();
    let program = cmd.shown();
    let said = talked(&cmd, STDERR_MAX).await.map_err(start(&program))?;
    let (took, stderr) = (started.elapsed(), last_words(&said.stderr));
    match said.status {
        None => Err(ExecError::Timeout {
            program,
            deadline: cmd.deadline,
            stderr,
        }),
        Some(status) if status.success() => Ok(Output {
            stdout: said.stdout,
            stderr,
            took,
        }),
        Some(status) => Err(ExecError::Failed {
            program,
            status,
            stderr,
            took,
        }),
    }
}

/// Runs it as [`run`] does; whatever it says, and however it ends, is an answer.
pub async fn ask(cmd: Cmd) -> Result<ProgramOutput, ExecError> {
    let program = cmd.shown();
    let said = talked(&cmd, ANSWER_STDERR_MAX)
        .await
        .map_err(start(&program))?;
    let ended = match said.status {
        None => ProgramEnd::Late,
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => ProgramEnd::Code(code),
            (None, signal) => ProgramEnd::Signal(signal.unwrap_or_default()),
        },
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(ProgramOutput {
        ended,
        stdout: text(&said.stdout),
        stderr: text(&said.stderr),
    })
}

/// What a child said; without a status it was killed at its deadline.
#[derive(Default)]
struct Said {
    status: Option<ExitStatus>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

fn start(program: &str) -> impl FnOnce(std::io::Error) -> ExecError {
    let program = program.to_owned();
    move |source| ExecError::Start { program, source }
}

async fn talked(cmd: &Cmd, stderr_max: usize) -> std::io::Result<Said> {
    if !cmd.program.is_absolute() {
        return Err(std::io::Error::other("its path is not absolute"));
    }
    point!(Spawn, cmd.program)?;
    let mut child = Command::new(&cmd.program)
        .args(&cmd.args)
        .env_clear()
        .env("PATH", CHILD_PATH)
        .env("LC_ALL", "C")
        .envs(cmd.env.iter().map(|(k, v)| (k, v)))
        .current_dir("/")
        .process_group(0)
        .kill_on_drop(true)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut group = Group::of(&child);
    let mut said = Said::default();
    let talk = talk(&mut child, cmd, &mut said, stderr_max);
    // Late: reaped in the background by tokio (`kill_on_drop`), the group killed by its drop.
    if let Ok(talked) = tokio::time::timeout(cmd.deadline, talk).await {
        talked?;
        group.disarm();
    }
    Ok(said)
}

/// Finds a program of the distribution below `root`: not every distribution has `/bin` merged.
pub fn program(root: &super::fs::HostFs, name: &str) -> PathBuf {
    let dirs = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
    dirs.iter()
        .map(|dir| root.at(Path::new(dir).join(name)))
        .find(|path| path.is_file())
        .unwrap_or_else(|| root.at(Path::new("/usr/bin").join(name)))
}

/// Arguments of `systemd-run`: a program that is waited for, in a unit of its own with these properties.
pub fn in_unit<'a>(properties: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let begin = [
        "--quiet",
        "--wait",
        "--collect",
        "--pipe",
        "--service-type=exec",
    ];
    let properties = properties.into_iter().flat_map(|property| ["-p", property]);
    let words = begin.into_iter().chain(properties);
    words.map(str::to_owned).collect()
}

async fn talk(
    child: &mut Child,
    cmd: &Cmd,
    said: &mut Said,
    stderr_max: usize,
) -> std::io::Result<()> {
    let mut input = child.stdin.take();
    let feed = async {
        if let Some(mut pipe) = input.take()
            && let Err(e) = pipe.write_all(&cmd.stdin).await
            && e.kind() != std::io::ErrorKind::BrokenPipe
        {
            return Err(e);
        }
        Ok(())
    };
    let out = child.stdout.take();
    let err = child.stderr.take();
    let (fed, read_out, read_err) = tokio::join!(
        feed,
        read_capped(out, &mut said.stdout, cmd.keeps),
        read_capped(err, &mut said.stderr, stderr_max),
    );
    fed?;
    read_out?;
    read_err?;
    let status = child.wait().await?;
    point_soon!(Exit, cmd.program).await?;
    said.status = Some(status);
    Ok(())
}

/// Keeps the first `max` bytes and discards the rest, so that the child never blocks on a pipe.
async fn read_capped(
    pipe: Option<impl AsyncRead + Unpin>,
    into: &mut Vec<u8>,
    max: usize,
) -> std::io::Result<()> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut chunk = vec![0u8; 16 * 1024];
    loop {
        let n = pipe.read(&mut chunk).await?;
        if n == 0 {
            return Ok(());
        }
        let room = max.saturating_sub(into.len()).min(n);
        into.extend_from_slice(&chunk[..room]);
    }
}

fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    let from = lines.len().saturating_sub(5);
    lines[from..].join("; ")
}

/// Kills the whole process group when dropped, unless disarmed.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(
            child
                .id()
                .and_then(|id| i32::try_from(id).ok())
                .map(Pid::from_raw),
        )
    }
    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.take() {
            // Already gone is what was wanted.
            killpg(pid, Signal::SIGKILL).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn output_input_and_environment() {
        let cmd = Cmd::new("/bin/sh", SOON)
            .args(["-c", "cat; env"])
            .env("A", "b")
            .stdin(b"hello\n".to_vec());
        let text = run(cmd).await.expect("run").text();
        assert!(text.starts_with("hello\n"), "{text}");
        assert!(text.contains("A=b") && text.contains("PATH=/usr/sbin"));
        assert!(!text.contains("CARGO"), "environment leaked: {text}");
    }

    #[tokio::test]
    async fn failures_carry_the_last_words() {
        let cmd = Cmd::new("/bin/sh", SOON).args(["-c", "echo no such thing >&2; exit 3"]);
        let text = run(cmd).await.expect_err("fails").to_string();
        assert!(
            text.contains("no such thing") && text.contains("exit status: 3"),
            "{text}"
        );
        assert!(matches!(
            run(Cmd::new("sh", SOON)).await,
            Err(ExecError::Start { .. })
        ));
    }

    #[tokio::test]
    async fn a_failure_and_a_late_end_are_answers_too() {
        let sh = |script: &str, deadline| {
            let cmd = Cmd::new("/bin/sh", deadline).args(["-c", script]);
            ask(cmd)
        };
        let answer = sh("echo out; echo err >&2; exit 3", SOON).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.ended, ProgramEnd::Code(3));
        assert_eq!((&*answer.stdout, &*answer.stderr), ("out\n", "err\n"));
        let killed = sh("kill -9 $$", SOON).await.expect("an answer");
        assert_eq!(killed.ended, ProgramEnd::Signal(9));
        let late = sh("echo begun; sleep 600", Duration::from_millis(700)).await;
        let late = late.expect("an answer");
        assert_eq!((late.ended, &*late.stdout), (ProgramEnd::Late, "begun\n"));
    }

    #[tokio::test]
    async fn a_late_group_is_killed_with_its_children() {
        let dir = tempfile::tempdir().expect("tempdir");
        let pids = dir.path().join("pids");
        let script = format!("sleep 600 & echo $! >{}; wait", pids.display());
        let cmd = Cmd::new("/bin/sh", Duration::from_millis(700)).args(["-c", &script]);
        assert!(matches!(run(cmd).await, Err(ExecError::Timeout { .. })));
        let pid: i32 = std::fs::read_to_string(&pids)
            .expect("pids")
            .trim()
            .parse()
            .expect("number");
        let gone = async {
            while std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|s| !s.contains(") Z "))
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, gone)
            .await
            .expect("the child of the child is killed");
    }
}
