//! A program's system calls for one small file: its text is on disk before it has its name, and the name is.
//!
//! No test that only reads files can see that: after a kill the kernel has everything, only a lost machine shows it.
//! `strace` (scripts/test installs it) records the calls of a whole program. Run as root, as all of scripts/test is:
//! `pf9ctl identity note` needs root.

use std::process::Command;

const NOTE: &str = "run/pf9-machine.json";

#[test]
fn a_file_is_on_the_disk_before_it_has_its_name() {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::create_dir_all(dir.path().join("etc/pf9")).expect("directory");
    let id = "host_id = 6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11\n";
    std::fs::write(dir.path().join("etc/pf9/host_id.conf"), id).expect("id");
    std::fs::create_dir_all(dir.path().join("run")).expect("directory");
    let calls = dir.path().join("calls");
    let ran = Command::new("strace")
        .args(["-f", "-y", "-e", "trace=write,fsync,/^rename", "-o"])
        .arg(&calls)
        .arg(crate::support::program("pf9ctl"))
        .arg("--root")
        .arg(dir.path())
        .args(["identity", "note"])
        .status()
        .expect("strace");
    assert!(ran.success(), "{ran}");
    let calls = std::fs::read_to_string(calls).expect("calls");
    let of_the_note = |line: &&str| line.contains("pf9-machine.json") || line.contains("fsync(");
    let named: Vec<&str> = calls.lines().filter(of_the_note).collect();
    let (run, note) = (dir.path().join("run"), dir.path().join(NOTE));
    let (run, note) = (run.display().to_string(), note.display().to_string());
    let [written, synced, renamed, kept] = named.as_slice() else {
        panic!("{calls}");
    };
    assert!(written.contains(" write(") && written.contains(".pf9-tmp-"));
    assert!(synced.contains(" fsync(") && synced.contains(".pf9-tmp-"));
    assert!(renamed.contains(" rename") && renamed.contains(&format!("\"{note}\"")));
    assert!(
        kept.contains(&format!("<{run}>)")),
        "the directory: {calls}"
    );
}
