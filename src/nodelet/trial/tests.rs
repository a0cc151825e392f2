use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::host::fs::{Found, HostFs};

/// A program below a temporary root that says what it is given.
fn machine(script: &str) -> (tempfile::TempDir, Host) {
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    let text = format!("#!/bin/sh\n{script}\n");
    fs.write(PROGRAM, text.as_bytes(), &Attrs::mode(0o755))
        .expect("write");
    fs.write("/proc/self/mountinfo", b"", &Attrs::mode(0o644))
        .expect("write");
    (dir, Host::new(fs))
}

const PROGRAM: &str = "/opt/pf9/stacks/x-1/bin/containerd";

fn trial() -> TrialStep {
    TrialStep {
        program: "containerd".into(),
        path: PROGRAM.into(),
        inside: None,
        bytes: None,
        args: vec!["--config".into(), format!("{TRIAL_ROOT}/config.toml")],
        env: BTreeMap::from([("HERE".into(), TRIAL_ROOT.into())]),
        files: BTreeMap::from([
            ("config.toml".into(), "version = 4\nroot = \"/r\"\n".into()),
            ("conf.d/1.toml".into(), "version = 4\n".into()),
        ]),
        within: Duration::from_secs(20),
        judge: Judge::Containerd {
            schema: 4,
            unread: Vec::new(),
        },
    }
}

fn left(host: &Host) -> bool {
    let at = format!("{}/trials/containerd", paths::NODELET_STATE);
    !matches!(host.fs.found(at), Ok(Found::Nothing))
}

#[tokio::test]
async fn the_program_reads_the_files_in_a_root_that_is_gone_afterwards() {
    let (_dir, host) = machine("[ -e \"$HERE/conf.d/1.toml\" ] && cat \"$2\"");
    run(&host, &trial())
        .await
        .expect("it says all that was meant");
    assert!(!left(&host));
    let (_dir, host) = machine("grep -v root \"$2\"");
    let fault = run(&host, &trial()).await.expect_err("a key is lost");
    assert_eq!(fault.code, FaultCode::ConfigRefused);
    assert!(fault.why.contains("root is dropped"), "{fault}");
    assert!(!left(&host), "a refusal leaves nothing either");
}

#[tokio::test]
async fn a_program_that_does_not_run_here_and_one_that_hangs_are_told_apart() {
    let (_dir, host) = machine("exec sleep 600");
    let slow = TrialStep {
        within: Duration::from_millis(300),
        ..trial()
    };
    let fault = run(&host, &slow).await.expect_err("late");
    assert!(fault.why.contains("in time"), "{fault}");
    host.fs
        .write(PROGRAM, b"\x7fELF nonsense", &Attrs::mode(0o755))
        .expect("write");
    let fault = run(&host, &trial())
        .await
        .expect_err("no program of this machine");
    assert_eq!(fault.code, FaultCode::ProgramNotRunnable);
    assert!(fault.fix.contains(PROGRAM), "{fault}");
    assert!(!left(&host));
}

/// An image's archive, as far as one program goes.
fn archive(inside: &str, script: &[u8]) -> Vec<u8> {
    let tar = |path: &str, bytes: &[u8]| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        builder
            .append_data(&mut header, path, bytes)
            .expect("append");
        builder.into_inner().expect("tar")
    };
    tar("1/layer.tar", &tar(inside, script))
}

#[tokio::test]
async fn a_program_that_is_in_an_image_only_is_taken_out_of_it() {
    const ARCHIVE: &str = "/opt/pf9/stacks/x-1/images/x.tar";
    let (_dir, host) = machine("exit 1");
    let script = b"#!/bin/sh\ncat \"$2\"\n";
    let bytes = archive("usr/local/bin/x", script);
    host.fs
        .write(ARCHIVE, &bytes, &Attrs::mode(0o644))
        .expect("write");
    let inside = |path: &str| TrialStep {
        path: ARCHIVE.into(),
        inside: Some(path.into()),
        ..trial()
    };
    run(&host, &inside("usr/local/bin/x"))
        .await
        .expect("it says all that was meant");
    assert!(!left(&host));
    let fault = run(&host, &inside("usr/local/bin/y")).await;
    let fault = fault.expect_err("the image has no such program");
    assert!(fault.why.contains("usr/local/bin/y"), "{fault}");
    assert!(!left(&host));
}

/// What was passed is known by all that the verdict depends on.
#[test]
fn a_trial_is_made_again_when_anything_of_it_changes() {
    let first = trial();
    let changed: [fn(&mut TrialStep); 4] = [
        |t| t.bytes = Some(crate::model::Digest::of(b"another program")),
        |t| {
            drop(
                t.files
                    .insert("conf.d/1.toml".into(), "version = 3\n".into()),
            )
        },
        |t| t.args.push("x".into()),
        |t| {
            t.judge = Judge::Containerd {
                schema: 3,
                unread: Vec::new(),
            }
        },
    ];
    assert_eq!(first.digest(), trial().digest());
    for change in changed {
        let mut other = trial();
        change(&mut other);
        assert_ne!(first.digest(), other.digest());
    }
}
