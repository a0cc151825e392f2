//! Separate programs that are broken where their environment says (`src/seam.rs`).

use std::path::Path;
use std::process::{Command, Output};

use crate::support::program;

const NOTE: &str = "run/pf9-machine.json";

fn host() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::create_dir_all(dir.path().join("etc/pf9")).expect("directory");
    let id = "host_id = 6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11\n";
    std::fs::write(dir.path().join("etc/pf9/host_id.conf"), id).expect("id");
    dir
}

fn note(root: &Path, fault: Option<String>) -> Output {
    let mut command = Command::new(program("pf9ctl"));
    command.arg("--root").arg(root).args(["identity", "note"]);
    // What the seam keeps of a program that is killed goes with the test's own directory.
    command.env("TMPDIR", root);
    if let Some(fault) = fault {
        command.env("PF9_FAULT", fault);
    }
    command.output().expect("pf9ctl")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let names = entries.map(|e| e.expect("entry").file_name().into_string().expect("text"));
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Each point in turn until the program passes fewer: its note is complete or absent, another run writes it, and
/// leftovers are recognisable by name.
#[test]
fn a_program_broken_anywhere_leaves_its_note_whole_or_none() {
    for fault in ["kill", "power", "torn", "5", "28"] {
        let mut broke = 0;
        for point in 0.. {
            assert!(point < 50, "it never passes fewer");
            let host = host();
            let at = host.path().join(NOTE);
            let ended = note(host.path(), Some(format!("{point}:{fault}")));
            let whole = |at: &Path| {
                let text = std::fs::read_to_string(at).unwrap_or_else(|_| "null".to_owned());
                serde_json::from_str::<serde_json::Value>(&text).expect("whole")
            };
            let first = whole(&at);
            if ended.status.success() {
                assert_ne!(first, serde_json::Value::Null, "{fault} {point}");
                // A read of the clock cannot fail.
                if point > 12 {
                    break;
                }
                continue;
            }
            broke += 1;
            let again = note(host.path(), None);
            assert!(again.status.success(), "{fault} {point}: {again:?}");
            assert_ne!(whole(&at), serde_json::Value::Null);
            let left = names(&host.path().join("run"));
            let strange: Vec<_> = left
                .iter()
                .filter(|n| !n.starts_with(".pf9-tmp-") && *n != "pf9-machine.json")
                .collect();
            assert!(strange.is_empty(), "{fault} {point}: {left:?}");
            // Refused or without power, not even that.
            if fault != "kill" && fault != "torn" {
                assert_eq!(left, ["pf9-machine.json"], "{fault} {point}");
            }
        }
        assert!(broke >= 5, "{fault} broke it only {broke} times");
    }
}

/// The packager checks, whatever a build is called.
#[test]
fn a_program_that_can_be_broken_is_packed_by_nobody() {
    let programs = tempfile::tempdir().expect("tempdir");
    let of_tests = env!("CARGO_BIN_EXE_pf9-agent-of-tests");
    std::fs::copy(of_tests, programs.path().join("pf9-agent")).expect("copy");
    let to = tempfile::tempdir().expect("tempdir");
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let packed = Command::new("python3")
        .arg(root.join("scripts/lib/packager.py"))
        .args([programs.path(), to.path()])
        .arg("--deb-only")
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&packed.stderr).into_owned();
    assert!(!packed.status.success(), "it was packed");
    assert!(said.contains("feature fault"), "{said}");
    assert_eq!(names(to.path()), Vec::<String>::new());
}
