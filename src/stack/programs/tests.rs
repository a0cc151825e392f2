//! Real files: scripts and programs that run, and one of each kind that does not.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;
use crate::host::testing::in_namespaces;
use crate::model::{StackArchive, StackComponent};

/// A directory that looks like an unpacked stack.
struct Tree {
    fs: HostFs,
    stack: StackManifest,
    _dir: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        Self::within(tempfile::tempdir().expect("tempdir"))
    }

    fn within(dir: tempfile::TempDir) -> Self {
        let component = |name: &str, version: &str| StackComponent {
            name: name.into(),
            version: version.into(),
        };
        Self {
            fs: HostFs::new(dir.path()),
            stack: StackManifest {
                schema: 1,
                name: "pf9-kube".into(),
                version: "1.37.2-1".into(),
                kubernetes: semver::Version::new(1, 37, 2),
                arch: arch().into(),
                archive: StackArchive {
                    sha256: Digest::of(b""),
                    size: 0,
                },
                components: vec![
                    component("kubelet", "1.37.2"),
                    component("runc", "1.5.3"),
                    component("cni-plugins", "1.10.0"),
                ],
                files: Vec::new(),
                images: Vec::new(),
                addons: Vec::new(),
                requires: Vec::new(),
                security: false,
            },
            _dir: dir,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.fs.at("/s").join(name)
    }

    fn add(&mut self, path: &str, component: &str, bytes: &[u8]) -> &mut Self {
        let at = self.path(path);
        std::fs::create_dir_all(at.parent().expect("parent")).expect("directory");
        std::fs::write(&at, bytes).expect("write");
        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o755)).expect("mode");
        self.stack.files.push(StackFile {
            path: path.into(),
            mode: 0o755,
            sha256: Digest::of(bytes),
            size: bytes.len() as u64,
            component: component.into(),
        });
        self
    }

    async fn check(&self) -> Result<(), Fault> {
        check(&self.fs, Path::new("/s"), &self.stack).await
    }

    async fn refused(&self) -> String {
        let fault = self.check().await.expect_err("it runs");
        assert_eq!(fault.code, FaultCode::StackProgram);
        assert!(!fault.fix.is_empty(), "no way out: {fault}");
        fault.to_string()
    }
}

fn script(body: &str) -> Vec<u8> {
    format!("#!/bin/sh\n{body}\n").into_bytes()
}

/// A dynamic program of this machine.
fn program() -> Vec<u8> {
    std::fs::read("/usr/bin/true").expect("a program")
}

#[tokio::test]
async fn programs_that_run_and_say_their_version_pass() {
    let mut tree = Tree::new();
    let asked = "[ \"$*\" = --version ] || exit 1; echo Kubernetes v1.37.2";
    tree.add("bin/kubelet", "kubelet", &script(asked))
        .add(
            "bin/runc",
            "runc",
            &script("printf 'runc version 1.5.3\\ncommit: v1.5.3-0-g1\\n'"),
        )
        // A plug-in says on standard error what it is.
        .add(
            "cni/bridge",
            "cni-plugins",
            &script("echo CNI bridge plugin v1.10.0 >&2"),
        )
        // Nobody knows this one: that it starts is enough.
        .add("bin/helper", "helper", &script("echo 9.9.9; exit 3"))
        .add("bin/kube-proxy", "kube-proxy", &program())
        // No program is no program.
        .add("images/pause.tar", "pause", b"tar");
    tree.stack.files.last_mut().expect("file").mode = 0o644;
    tree.check().await.expect("all of them run");
}

#[tokio::test]
async fn each_program_that_does_not_run_is_named_with_the_reason_and_the_way_out() {
    let mut other_machine = program();
    other_machine[18] = if cfg!(target_arch = "x86_64") {
        183
    } else {
        62
    };
    let mut no_loader = program();
    let at = no_loader
        .windows(4)
        .position(|w| w == b"/lib")
        .expect("a loader");
    no_loader[at + 1] = b'n';
    let glibc =
        "echo \"x: /lib/libc.so.6: version \\`GLIBC_2.99' not found (required by x)\" >&2; exit 1";
    let library =
        "echo 'x: error while loading shared libraries: libseccomp.so.2: none' >&2; exit 127";
    for (bytes, words) in [
        (
            b"echo without a first line\n".to_vec(),
            "neither a program for",
        ),
        (other_machine, "it is built for"),
        (
            no_loader,
            "/nib64/ld-linux-x86-64.so.2 is not on this machine",
        ),
        (
            b"#!/no/such/shell\n".to_vec(),
            "its interpreter is not on this machine",
        ),
        (script(glibc), "C library of this machine is too old"),
        (script(library), "loading shared libraries: libseccomp.so.2"),
        (script(library), "install the package that has the library"),
        (
            script("kill -ILL $$"),
            "instructions that this processor lacks",
        ),
        (script("kill -SEGV $$"), "ended by SIGSEGV"),
        (script("echo oh >&2; exit 2"), "ends with status 2: oh"),
        (
            script("echo Kubernetes v1.36.3"),
            "it is version 1.36.3, the manifest says 1.37.2",
        ),
    ] {
        if words.starts_with("/nib64") && !cfg!(target_arch = "x86_64") {
            continue;
        }
        let mut tree = Tree::new();
        tree.add("bin/runc", "runc", &script("echo runc version 1.5.3"));
        tree.add("bin/kubelet", "kubelet", &bytes);
        let text = tree.refused().await;
        assert!(
            text.contains("bin/kubelet does not run") && text.contains(words),
            "{words}: {text}"
        );
    }
}

#[tokio::test]
async fn what_the_kernel_does_not_allow_is_said_as_what_it_is() {
    let mut tree = Tree::new();
    tree.add("bin/kubelet", "kubelet", &script("echo"));
    let kubelet = tree.path("bin/kubelet");
    std::fs::set_permissions(&kubelet, std::fs::Permissions::from_mode(0o644)).expect("mode");
    let text = tree.refused().await;
    assert!(text.contains("permission denied"), "{text}");
    let attrs = crate::host::fs::Attrs::mode(0o644);
    // It would only note.
    tree.fs.write(ENFORCING, b"0", &attrs).expect("selinux");
    let text = tree.refused().await;
    assert!(text.contains("permission denied"), "{text}");
    let before = machine_mark(&tree.fs);
    tree.fs.write(ENFORCING, b"1", &attrs).expect("selinux");
    let text = tree.refused().await;
    assert!(
        text.contains("SELinux") && text.contains("restorecon"),
        "{text}"
    );
    let enforcing = machine_mark(&tree.fs);
    assert_ne!(enforcing, before, "it is looked at again when that changes");
    tree.fs.write(LIBRARIES[0], b"new", &attrs).expect("cache");
    assert_ne!(machine_mark(&tree.fs), enforcing, "and with the libraries");
}

/// The C library's own way to start a program hands what the kernel does not know to a shell.
#[tokio::test]
async fn what_is_no_program_is_not_given_to_a_shell() {
    let mut tree = Tree::new();
    let mark = tree.path("mark");
    let line = format!("touch {}\n", mark.display());
    tree.add("bin/kubelet", "kubelet", line.as_bytes());
    tree.refused().await;
    assert!(!mark.exists());
}

/// Of an unknown program only that it starts counts, and a shell says with these codes that it did not.
#[tokio::test]
async fn a_program_that_nobody_knows_has_to_start() {
    for status in [126, 127] {
        let mut tree = Tree::new();
        let line = format!("echo none >&2; exit {status}");
        tree.add("bin/helper", "helper", &script(&line));
        let text = tree.refused().await;
        assert!(text.contains("bin/helper"), "{text}");
    }
}

/// A child of ours that was forked meanwhile holds a file that was just written for a moment.
#[tokio::test]
async fn a_file_that_is_held_for_a_moment_is_tried_again() {
    let mut tree = Tree::new();
    tree.add("bin/kube-proxy", "kube-proxy", &program());
    let path = tree.path("bin/kube-proxy");
    let held = std::fs::OpenOptions::new().append(true).open(path);
    let let_go = async {
        tokio::time::sleep(BUSY_PAUSE * 2).await;
        drop(held.expect("open"));
    };
    let (checked, ()) = tokio::join!(tree.check(), let_go);
    checked.expect("it runs");
}

/// Each says when it begins and ends, and waits between for the one after it.
#[tokio::test]
async fn two_run_beside_each_other_and_no_third() {
    const MANY: usize = 6;
    let mut tree = Tree::new();
    for n in 0..MANY {
        let gate = tree.path(&format!("gate-{n}"));
        std::fs::create_dir_all(tree.path("")).expect("directory");
        nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
        let log = tree.path("log").display().to_string();
        let gate = gate.display();
        let body = format!("echo in-{n} >> {log}; read go < {gate}; echo out-{n} >> {log}");
        tree.add(&format!("bin/helper-{n}"), "helper", &script(&body));
    }
    let log = tree.path("log");
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    let gates = async {
        for n in 0..MANY {
            let beside = format!("in-{}\n", (n + 1).min(MANY - 1));
            while !lines().contains(&beside) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let gate = tree.path(&format!("gate-{n}"));
            let opened = tokio::task::spawn_blocking(move || std::fs::write(gate, "go\n"));
            opened.await.expect("joined").expect("open");
        }
    };
    let both = async { tokio::join!(tree.check(), gates).0 };
    let checked = tokio::time::timeout(DEADLINE / 2, both).await;
    checked
        .expect("the second begins before the first ends")
        .expect("all run");
    let beside = lines().lines().fold((0usize, 0usize), |(now, most), line| {
        let now = if line.starts_with("in") {
            now + 1
        } else {
            now - 1
        };
        (now, most.max(now))
    });
    assert_eq!(beside, (0, 2), "{}", lines());
}

#[test]
fn who_does_not_answer_is_said_and_tried_again() {
    let asked = Asked {
        file: StackFile {
            path: "bin/kubelet".into(),
            mode: 0o755,
            sha256: Digest::of(b""),
            size: 0,
            component: "kubelet".into(),
        },
        wanted: None,
        format: Ok(Format::Script),
        answer: Err(ExecError::Timeout {
            program: "kubelet".into(),
            deadline: DEADLINE,
            stderr: String::new(),
        }),
    };
    let bad = unfit(&asked, &Place::default()).expect("refused");
    assert_eq!(bad.why, "it did not answer within 30 s");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_said_as_that() {
    let mut tree = Tree::new();
    tree.add("bin/kubelet", "kubelet", &script("echo"));
    std::fs::remove_file(tree.path("bin/kubelet")).expect("remove");
    let text = tree.refused().await;
    assert!(text.contains("it cannot be read: No such file"), "{text}");
}

/// Runs this program again in a mount namespace of its own, with a file system there.
#[tokio::test]
async fn a_file_system_without_programs_is_named() {
    const NAME: &str = "stack::programs::tests::a_file_system_without_programs_is_named";
    let mount = "mount -t tmpfs -o noexec none \"$1\"";
    let Some(dir) = in_namespaces(NAME, &["--mount"], mount) else {
        return;
    };
    let dir = tempfile::tempdir_in(dir).expect("directory");
    let mut tree = Tree::within(dir);
    tree.add("bin/kubelet", "kubelet", &script("echo Kubernetes v1.37.2"));
    let text = tree.refused().await;
    assert!(
        text.contains("mounted noexec") && text.contains("remount,exec"),
        "{text}"
    );
}
