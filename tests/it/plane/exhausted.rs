//! A plane whose machine has no more of something: tunnels stay, reads go on, a change is refused with the mount and what
//! helps, and all is well again by itself with everything that was acknowledged.

use std::path::Path;

use http::Method;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bed::{Bed, until, within};
use super::node::Node;
use crate::soak::alone;
use crate::support::namespaces::{fill_up, in_namespaces};

const CLUSTERS: &str = "/qbert/v4/{project}/clusters";

/// The names of all clusters.
async fn clusters(bed: &Bed) -> Vec<String> {
    let all = bed.get(CLUSTERS).await;
    let all = all.as_array().expect("a list").iter();
    let mut names: Vec<_> = all
        .map(|c| c["name"].as_str().expect("a name").to_owned())
        .collect();
    names.sort();
    names
}

/// What a new cluster is answered with.
async fn tried(bed: &Bed, name: &str) -> (u16, Value) {
    let body = json!({"name": name, "containersCidr": "10.20.0.0/16",
                      "servicesCidr": "10.21.0.0/22", "networkPlugin": "bridge"});
    bed.ask(Method::POST, CLUSTERS, body).await
}

/// Over the session that it has.
async fn is_served(node: &Node) {
    node.nonce().await;
    node.current().await;
}

#[tokio::test]
async fn a_plane_without_room_reads_refuses_in_words_and_goes_on_with_it() {
    let test = "plane::exhausted::a_plane_without_room_reads_refuses_in_words_and_goes_on_with_it";
    let before = "mount --make-rprivate / && mount -t tmpfs -o size=64m,nr_inodes=400 none \"$1\"";
    let Some(disk) = in_namespaces(test, &["--mount"], before) else {
        return;
    };
    let dir = tempfile::tempdir_in(&disk).expect("tempdir");
    let bed = Bed::at(dir).await;
    let node = bed.host("a", "10.1.0.1").await;
    bed.stack("0").await;
    bed.cluster("first").await;
    let named = |words: &str| format!("{words} on {}", disk.display());

    let full = fill_up(&disk);
    for _ in 0..3 {
        let (status, said) = tried(&bed, "refused").await;
        assert_eq!(status, 503, "{said}");
        assert!(
            said.to_string().contains(&named("free some space")),
            "{said}"
        );
        assert_eq!(clusters(&bed).await, ["first"]);
        is_served(&node).await;
    }
    drop(full);
    bed.cluster("second").await;

    // Without inodes a row finds room, and a file does not.
    let many = tempfile::tempdir_in(&disk).expect("tempdir");
    (0..)
        .map(|n| std::fs::File::create(many.path().join(n.to_string())))
        .take_while(Result::is_ok)
        .for_each(drop);
    let stack = stack();
    let import = json!({"path": stack.path()});
    let (status, said) = bed.admin("/stacks", import.clone()).await;
    assert_ne!(status, 200, "{said}");
    assert!(
        said.to_string().contains(&named("delete unneeded files")),
        "{said}"
    );
    bed.cluster("third").await;
    is_served(&node).await;
    drop(many);
    let (status, said) = bed.admin("/stacks", import).await;
    assert_eq!(status, 200, "{said}");

    // What was acknowledged is on the disk.
    let bed = bed.restart().await;
    assert_eq!(clusters(&bed).await, ["first", "second", "third"]);
}

/// On another file system.
fn stack() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    super::stacks::write(dir.path(), "1", b"an archive of no importance");
    dir
}

/// One is left, and the one who calls takes it.
#[tokio::test]
async fn without_descriptors_sessions_go_on_and_who_calls_waits_for_one() {
    // The bound is the process's.
    if !alone("plane::exhausted::without_descriptors_sessions_go_on_and_who_calls_waits_for_one") {
        return;
    }
    let bed = Bed::new().await;
    bed.stack("0").await;
    let node = bed.host("a", "10.1.0.1").await;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
    let address = bed.url.trim_start_matches("https://").to_owned();
    setrlimit(Resource::RLIMIT_NOFILE, next_descriptor() + 1, hard).expect("one is left");
    let mut calls = within(TcpStream::connect(&address)).await.expect("queued");
    // The plane is in this process, and may have ended what came before.
    let freed: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    for _ in 0..3 {
        is_served(&node).await;
        let (status, said) = node.report("a", "10.1.0.1").await;
        assert_eq!(status, 204, "{said}");
    }
    drop(freed);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("as before");
    // It is no TLS: what is listened to is answered by an end.
    calls
        .write_all(b"GET / HTTP/1.0\r\n\r\n")
        .await
        .expect("sent");
    let mut said = Vec::new();
    // An answer, an end or a reset: all of them are from one who listens.
    drop(within(calls.read_to_end(&mut said)).await);
    until(|| async { TcpStream::connect(&address).await.ok() }).await;
    bed.host("b", "10.1.0.2").await;
    bed.cluster("first").await;
    is_served(&node).await;
}

/// The number that the next file gets; all below it are taken.
fn next_descriptor() -> u64 {
    use std::os::fd::AsRawFd;
    let file = std::fs::File::open(Path::new("/dev/null")).expect("a file");
    u64::try_from(file.as_raw_fd()).expect("a number")
}
