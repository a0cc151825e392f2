//! Tests that need a file system or a network of their own: they run the same test again, in namespaces.

use std::path::PathBuf;
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Tells the inner one where it is.
const INSIDE: &str = "PF9_TEST_INSIDE";

/// In the inner one: a directory for it, which `before` (a line of shell, the directory is `$1`) has made ready.
/// In the outer one `None`: the inner one has run, and passed. `test` is its full name, `kinds` are options of
/// `unshare`.
pub(crate) fn in_namespaces(test: &str, kinds: &[&str], before: &str) -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(INSIDE) {
        return Some(dir.into());
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let own = std::env::current_exe().expect("this program");
    let line = format!("{before} && exec \"$2\" --exact \"$3\"");
    let mut command = Command::new("unshare");
    if !nix::unistd::Uid::effective().is_root() {
        command.arg("--map-root-user");
    }
    command.args(kinds).args(["sh", "-c", &line, "sh"]);
    command.arg(dir.path()).arg(own).arg(test);
    let output = command.env(INSIDE, dir.path()).output().expect("unshare");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    None
}

/// Until it is dropped this process cannot start another thread: it has memory for small things, and none for a stack.
pub(crate) struct NoThreads {
    soft: u64,
    hard: u64,
}

impl NoThreads {
    /// To be called in a process of its own.
    pub(crate) fn begin() -> Self {
        // tokio says by a panic that it has no thread, and a backtrace of it takes memory.
        std::panic::set_hook(Box::new(|said| println!("{said}")));
        let status = std::fs::read_to_string("/proc/self/status").expect("status");
        let size = status.lines().find_map(|l| l.strip_prefix("VmSize:"));
        let size = size.and_then(|l| l.trim().strip_suffix(" kB"));
        let kib: u64 = size.expect("its size").parse().expect("a number");
        let (soft, hard) = getrlimit(Resource::RLIMIT_AS).expect("limit");
        setrlimit(Resource::RLIMIT_AS, (kib + 1024) * 1024, hard).expect("a limit");
        let thread = std::thread::Builder::new().spawn(|| ());
        thread.expect_err("there is no room for its stack");
        Self { soft, hard }
    }
}

impl Drop for NoThreads {
    fn drop(&mut self) {
        setrlimit(Resource::RLIMIT_AS, self.soft, self.hard).expect("as before");
    }
}

/// Fills a file system until it takes nothing more; dropping the file makes room again.
pub(crate) fn fill_up(dir: &std::path::Path) -> tempfile::NamedTempFile {
    use std::io::Write;
    let mut ballast = tempfile::NamedTempFile::new_in(dir).expect("ballast");
    for size in [1024 * 1024, 4096, 1] {
        let bytes = vec![7; size];
        while ballast.write_all(&bytes).is_ok() {}
    }
    ballast
}
