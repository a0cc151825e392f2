//! The program `pf9ctl` makes a support bundle of a machine with full logs: to a pipe, within its memory limit, while
//! they grow. Run as root, as all of scripts/test is.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Response;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pf9_hostagent::model::paths;
use serde_json::Value;
use tokio::net::UnixListener;

/// Memory limit of a bundle, however large the logs.
const MEMORY_MAX: u64 = 32 * 1024 * 1024;
/// Additional pages of an unoptimised program: the kernel can reclaim them.
const UNOPTIMISED: u64 = if cfg!(debug_assertions) {
    20 * 1024 * 1024
} else {
    0
};

/// Logs as large as the daemons let them become.
fn full_logs(root: &Path) {
    logs(root, &["", ".1", ".2"]);
}

fn logs(root: &Path, ends: &[&str]) {
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
        for end in ends {
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
    whole_and_within_its_memory(&tar);
}

/// Its content, and the memory used.
fn whole_and_within_its_memory(tar: &[u8]) {
    let mut names = Vec::new();
    let mut manifest = Value::Null;
    for entry in tar::Archive::new(tar).entries().expect("tar") {
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

/// An unoptimised program, on a machine that compiles beside it.
const PATIENCE: Duration = Duration::from_secs(300);
const ID: &str = "6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11";

/// The plane behind comms' socket: one call, answered with this status, after its whole body was read or none of it.
async fn plane(root: &Path, status: u16, reads: bool) -> tokio::task::JoinHandle<(String, Bytes)> {
    let at = root.join("run/pf9/plane.sock");
    fs::create_dir_all(at.parent().expect("parent")).expect("dir");
    drop(fs::remove_file(&at));
    let listener = UnixListener::bind(&at).expect("bind");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accept");
        let (told, mut heard) = tokio::sync::mpsc::channel(1);
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let told = told.clone();
            async move {
                let line = format!("{} {}", request.method(), request.uri());
                let body = match reads {
                    true => match request.into_body().collect().await {
                        Ok(whole) => whole.to_bytes(),
                        Err(e) => {
                            told.send((line, Bytes::new())).await.expect("heard");
                            return Err(e);
                        }
                    },
                    false => Bytes::new(),
                };
                told.send((line, body)).await.expect("heard");
                let said = match status {
                    204 => String::new(),
                    _ => r#"{"code": "not-found", "what": "no bundle", "why": "it was never ordered", "fix": ""}"#.to_owned(),
                };
                let answer = Response::builder().status(status);
                Ok(answer.body(Full::new(Bytes::from(said))).expect("answer"))
            }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            _ = served => {}
            () = tokio::time::sleep(PATIENCE) => {}
        }
        heard.recv().await.expect("a call")
    })
}

async fn sends(root: &Path, key: &str) -> std::process::Output {
    let to = format!("--to-plane={ID}");
    let made = tokio::process::Command::new(crate::support::program("pf9ctl"))
        .arg("--root")
        .arg(root)
        .args(["bundle", "--json", &to, "--encrypt-to", key])
        .stdin(Stdio::null())
        .output();
    tokio::time::timeout(PATIENCE, made)
        .await
        .expect("in time")
        .expect("pf9ctl")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_the_plane_asked_for_goes_to_it_as_it_is_made_within_its_memory() {
    let dir = tempfile::tempdir().expect("tempdir");
    let root = dir.path();
    logs(root, &[""]);
    let key = age::x25519::Identity::generate();
    let plane = plane(root, 204, true).await;
    let made = sends(root, &key.to_public().to_string()).await;
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(made.status.success(), "{said}");
    let (line, body) = plane.await.expect("a call");
    assert_eq!(line, format!("PUT /v1/hosts/self/bundles/{ID}"));
    let report: Value = serde_json::from_str(&said).expect("json");
    assert_eq!(report["bytes"].as_u64(), Some(body.len() as u64));
    assert_eq!(report["encrypted"], true);
    let opened = age::Decryptor::new(&body[..]).expect("sealed");
    let reader = opened.decrypt(std::iter::once(&key as &dyn age::Identity));
    let tar = zstd::decode_all(reader.expect("for this key")).expect("whole, and compressed");
    whole_and_within_its_memory(&tar);
    // No part of it is left on this machine's disk.
    let left: Vec<_> = fs::read_dir(root.join("run/pf9"))
        .expect("list")
        .map(|e| e.expect("entry").file_name())
        .collect();
    assert_eq!(left, ["plane.sock"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_plane_says_to_one_that_it_did_not_ask_for_is_said() {
    let dir = tempfile::tempdir().expect("tempdir");
    let root = dir.path();
    let key = age::x25519::Identity::generate().to_public().to_string();
    let plane = plane(root, 404, true).await;
    let made = sends(root, &key).await;
    plane.await.expect("a call");
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(
        !made.status.success() && said.contains("it was never ordered"),
        "{said}"
    );
    // And where nobody listens: on a machine that is no host nobody does, and on a host somebody should.
    fs::remove_file(root.join("run/pf9/plane.sock")).expect("gone");
    for words in ["this machine is not a host", "no answer on"] {
        let made = sends(root, &key).await;
        let said = String::from_utf8_lossy(&made.stdout).into_owned();
        assert!(!made.status.success() && said.contains(words), "{said}");
        let certificate = root.join(paths::HOST_CERT.trim_start_matches('/'));
        fs::create_dir_all(certificate.parent().expect("parent")).expect("dir");
        fs::write(certificate, "a certificate").expect("write");
    }
}

/// A body that just ended would look complete, and be kept.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_broken_off_does_not_look_whole() {
    let dir = tempfile::tempdir().expect("tempdir");
    let root = dir.path();
    logs(root, &[""]);
    let at = root.join("run/pf9/plane.sock");
    fs::create_dir_all(at.parent().expect("parent")).expect("dir");
    let listener = UnixListener::bind(&at).expect("bind");
    let (begun, mut begins) = tokio::sync::mpsc::channel(1);
    let (ended, mut ends) = tokio::sync::mpsc::channel(1);
    let serve = async move {
        let (stream, _) = listener.accept().await.expect("accept");
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let (begun, ended) = (begun.clone(), ended.clone());
            async move {
                let mut body = request.into_body();
                let first = body.frame().await.expect("a frame").expect("whole");
                drop(first);
                begun.send(()).await.expect("heard");
                let rest = body.collect().await;
                ended.send(rest.is_ok()).await.expect("heard");
                Response::builder()
                    .status(204)
                    .body(Full::new(Bytes::new()))
            }
        });
        let connection = hyper::server::conn::http1::Builder::new();
        drop(
            connection
                .serve_connection(TokioIo::new(stream), service)
                .await,
        );
    };
    let serve = tokio::spawn(serve);
    let key = age::x25519::Identity::generate().to_public().to_string();
    let mut child = tokio::process::Command::new(crate::support::program("pf9ctl"))
        .arg("--root")
        .arg(root)
        .args([
            "bundle",
            "--json",
            &format!("--to-plane={ID}"),
            "--encrypt-to",
            &key,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("pf9ctl");
    let patience = PATIENCE;
    tokio::time::timeout(patience, begins.recv())
        .await
        .expect("in time")
        .expect("it begins");
    let pid = i32::try_from(child.id().expect("it runs")).expect("pid");
    let told = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGTERM,
    );
    told.expect("told");
    let whole = tokio::time::timeout(patience, ends.recv()).await;
    assert_eq!(whole.expect("in time"), Some(false), "it looks whole");
    let status = tokio::time::timeout(patience, child.wait()).await;
    let status = status.expect("in time").expect("ended");
    assert!(!status.success(), "{status}");
    serve.abort();
}
