//! A restrictive umask in the shell that starts a program: our programs' files must still be readable by their own
//! users. Run as root, as all of scripts/test is.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Runs pf9ctl in a shell with umask 077.
fn in_a_shy_shell(root: &Path, arguments: &[&str]) {
    let ran = Command::new("sh")
        .args(["-c", "umask 077; exec \"$@\"", "sh"])
        .arg(crate::support::program("pf9ctl"))
        .arg("--root")
        .arg(root)
        .args(arguments)
        .output()
        .expect("sh");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(!said.contains("usage"), "{said}");
}

fn mode(root: &Path, path: &str) -> u32 {
    let at = root.join(path);
    let meta = std::fs::metadata(&at).unwrap_or_else(|e| panic!("{path}: {e}"));
    meta.permissions().mode() & 0o7777
}

#[test]
fn a_restrictive_umask_does_not_break_our_files() {
    let dir = tempfile::tempdir().expect("tempdir");
    let root = dir.path();
    std::fs::create_dir(root.join("run")).expect("directory");
    // Whether or not the services can be restarted here, the files are written first.
    in_a_shy_shell(root, &["proxy", "set", "http://proxy.example:3128"]);
    in_a_shy_shell(root, &["config", "set", "comms.ping_s", "20"]);
    for (path, wanted) in [
        ("etc", 0o755),
        ("etc/pf9", 0o755),
        ("etc/pf9/conf.d", 0o755),
        ("etc/pf9/conf.d/50-proxy.toml", 0o644),
        ("etc/pf9/conf.d/60-pf9ctl.toml", 0o644),
    ] {
        assert_eq!(mode(root, path), wanted, "{path}");
    }
    std::fs::write(
        root.join("etc/pf9/host_id.conf"),
        "host_id = 6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11\n",
    )
    .expect("id");
    in_a_shy_shell(root, &["identity", "note"]);
    assert_eq!(mode(root, "run/pf9-machine.json"), 0o644);
}
