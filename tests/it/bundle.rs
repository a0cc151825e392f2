//! The program `pf9ctl` makes a support bundle of a machine with full logs: to a pipe, within its memory, while they
//! grow. Run as root, as all of scripts/test is.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What a bundle may take, whatever the logs have.
const MEMORY_MAX: u64 = 32 * 1024 * 1024;
/// Pages of a program that was not optimised, beside those of one that was: the kernel's to take back.
const UNOPTIMISED: u64 = if cfg!(debug_assertions) {
    20 * 1024 * 1024
} else {
    0
};

/// Logs as large as the daemons let them become.
fn full_logs(root: &Path) {
    let mut random = fastrand::Rng::with_seed(1);
    let line = |random: &mut fastrand::Rng| {
        let word: String = (0..30).map(|_| random.alphanumeric()).collect();
        format!(
            "2999-01-01T00:00:00.000Z  INFO a line of a log like many others word={word} n={}\n",
            random.u32(..)
        )
    };
    let text: String = (0..100_000).map(|_| line(&mut random)).collect();
    for part in ["comms", "hostagent", "nodelet"] {
        let dir = root.join("var/log/pf9").join(part);
        fs::create_dir_all(&dir).expect("dir");
        for end in ["", ".1", ".2"] {
            fs::write(dir.join(format!("{part}.log{end}")), &text).expect("write");
        }
    }
}

#[test]
fn a_bundle_of_full_logs_is_had_within_its_memory_and_while_they_grow() {
    let dir = tempfile::tempdir().expect("tempdir");
    let root = dir.path();
    full_logs(root);
    let done = AtomicBool::new(false);
    let tar = std::thread::scope(|scope| {
        scope.spawn(|| {
            let path = root.join("var/log/pf9/comms/comms.log");
            let mut log = OpenOptions::new().append(true).open(path).expect("log");
            while !done.load(Ordering::Relaxed) {
                log.write_all(b"2999-01-01T00:00:00.000Z  INFO it grows\n")
                    .expect("write");
            }
        });
        let began = Instant::now();
        let made = Command::new(crate::support::program("pf9ctl"))
            .arg("--root")
            .arg(root)
            .args(["bundle", "-o", "-"])
            .stdin(Stdio::null())
            .output()
            .expect("pf9ctl");
        done.store(true, Ordering::Relaxed);
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{said}");
        println!(
            "a bundle of {} bytes in {:?}",
            made.stdout.len(),
            began.elapsed()
        );
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "{:?}",
            began.elapsed()
        );
        zstd::decode_all(made.stdout.as_slice()).expect("whole, and compressed")
    });
    let mut names = Vec::new();
    let mut manifest = Value::Null;
    for entry in tar::Archive::new(tar.as_slice()).entries().expect("tar") {
        let mut entry = entry.expect("entry");
        let path = entry.path().expect("path").display().to_string();
        if path.ends_with("/MANIFEST.json") {
            manifest = serde_json::from_reader(&mut entry).expect("json");
        }
        names.push(path);
    }
    assert!(
        names.iter().any(|n| n.ends_with("/logs/comms/comms.log")),
        "{names:?}"
    );
    assert!(
        names.last().is_some_and(|n| n.ends_with("/MANIFEST.json")),
        "it comes last"
    );
    let peak = manifest["peak_memory_bytes"].as_u64().expect("known");
    println!("at most {} MiB of memory", peak >> 20);
    assert!(peak < MEMORY_MAX + UNOPTIMISED, "{peak} bytes");
}
