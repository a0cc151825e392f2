//! Tests that need a file system or a network of their own: they run the same test again, in namespaces.

use std::path::PathBuf;
use std::process::Command;

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

/// Fills a file system until it takes nothing more; dropping the file makes room again.
pub(crate) fn fill_up(dir: &std::path::Path) -> tempfile::NamedTempFile {
    let mut ballast = tempfile::NamedTempFile::new_in(dir).expect("ballast");
    fill_more(&mut ballast);
    ballast
}

/// The same where something was removed since.
pub(crate) fn fill_more(ballast: &mut tempfile::NamedTempFile) {
    use std::io::Write;
    for size in [1024 * 1024, 4096, 1] {
        let bytes = vec![7; size];
        while ballast.write_all(&bytes).is_ok() {}
    }
}
