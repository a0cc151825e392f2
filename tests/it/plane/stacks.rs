//! Stacks: import verifies, hosts get the signed bytes, also in ranges.

use std::path::Path;

use http::{HeaderMap, Method};
use pf9_hostagent::model::{Assignment, Digest, DocumentKind, Envelope, StackManifest, TrustStore};
use serde_json::{Value, json};

use super::bed::Bed;

/// A stack with these bytes as its archive.
pub(super) fn write(dir: &Path, version: &str, archive: &[u8]) {
    write_of(dir, version, archive, "1.37.2", json!([]));
}

/// One with this Kubernetes and these components.
pub(super) fn write_of(
    dir: &Path,
    version: &str,
    archive: &[u8],
    kubernetes: &str,
    components: Value,
) {
    write_with(dir, version, archive, kubernetes, components, &[]);
}

/// And with images of these components.
pub(super) fn write_with(
    dir: &Path,
    version: &str,
    archive: &[u8],
    kubernetes: &str,
    components: Value,
    images: &[&str],
) {
    let path = |name: &&str| format!("images/{name}.tar");
    let file = |name: &&str| {
        json!({"path": path(name), "mode": "0644", "sha256": Digest::of(name.as_bytes()), "size": 1,
               "component": name})
    };
    let image = |name: &&str| {
        json!({"reference": format!("pf9.local/{name}:1"), "path": path(name), "component": name,
               "roles": ["master", "worker"]})
    };
    let files: Vec<Value> = images.iter().map(file).collect();
    let images: Vec<Value> = images.iter().map(image).collect();
    let manifest = json!({
        "schema": 1, "name": "pf9-kube", "version": version, "kubernetes": kubernetes,
        "arch": "amd64", "archive": {"sha256": Digest::of(archive), "size": archive.len()},
        "components": components, "files": files, "images": images,
    });
    std::fs::write(dir.join("manifest.json"), manifest.to_string()).expect("write");
    std::fs::write(dir.join("stack.tar.zst"), archive).expect("write");
}

#[tokio::test]
async fn only_what_matches_the_manifest_is_imported() {
    let bed = Bed::new().await;
    let dir = tempfile::tempdir().expect("tempdir");
    let import = || bed.admin("/stacks", json!({"path": dir.path()}));
    let code =
        |answer: (u16, Value)| (answer.0, answer.1["code"].as_str().unwrap_or("").to_owned());
    let refused = |code: &str| (422, code.to_owned());

    assert_eq!(code(import().await), refused("stack-unreadable"));
    write(dir.path(), "1", b"abcdef");
    std::fs::write(dir.path().join("stack.tar.zst"), b"abcdeX").expect("flip");
    assert_eq!(code(import().await), refused("stack-archive-wrong"));
    std::fs::write(dir.path().join("stack.tar.zst"), b"abcde").expect("truncate");
    assert_eq!(code(import().await), refused("stack-archive-wrong"));
    std::fs::write(dir.path().join("stack.tar.zst"), b"abcdefg").expect("extend");
    assert_eq!(code(import().await), refused("stack-archive-wrong"));
    std::fs::write(dir.path().join("manifest.json"), b"{\"schema\": 1}").expect("manifest");
    assert_eq!(code(import().await), refused("stack-manifest-invalid"));
    let left = std::fs::read_dir(bed.file("stacks")).expect("dir").count();
    assert_eq!(left, 0, "nothing of a refused stack stays");

    write(dir.path(), "1", b"abcdef");
    assert_eq!(import().await.0, 200);
    assert_eq!(import().await.0, 200, "the same again is fine");
    write(dir.path(), "1", b"other");
    assert_eq!(code(import().await), refused("stack-version-taken"));
}

#[tokio::test]
async fn a_host_gets_the_signed_manifest_and_any_part_of_the_archive() {
    let bed = Bed::new().await;
    let archive: Vec<u8> = (0..700_000u32).map(|i| (i % 251) as u8).collect();
    let dir = tempfile::tempdir().expect("tempdir");
    write(dir.path(), "1", &archive);
    let (_, stack) = bed.admin("/stacks", json!({"path": dir.path()})).await;
    let digest = stack["manifest"].as_str().expect("digest").to_owned();
    let node = bed.host("a", "10.1.0.1").await;

    let path = format!("/v1/stacks/{digest}/manifest");
    let (status, body) = node.call(Method::GET, &path, &Value::Null).await;
    assert_eq!(status, 200);
    let envelope: Envelope = serde_json::from_value(body).expect("envelope");
    let trust = node.answer.as_ref().expect("enrolled").trust.clone();
    let trust = TrustStore::new(trust).expect("trust");
    let manifest: StackManifest = envelope
        .open(DocumentKind::StackManifest, &trust)
        .expect("signed by the pinned key");
    assert_eq!(
        envelope.payload_digest().expect("digest").to_string(),
        digest
    );
    assert_eq!(manifest.archive.sha256, Digest::of(&archive));

    let path = format!("/v1/stacks/{digest}/archive");
    let fetch = async |range: &str| {
        let mut headers = HeaderMap::new();
        if !range.is_empty() {
            headers.insert("range", range.parse().expect("header"));
        }
        node.call_raw(Method::GET, &path, &Value::Null, &headers)
            .await
    };
    let (status, _, bytes) = fetch("").await;
    assert_eq!((status, bytes[..] == archive[..]), (200, true));
    let (status, headers, bytes) = fetch("bytes=300000-").await;
    assert_eq!((status, bytes[..] == archive[300_000..]), (206, true));
    assert_eq!(headers["content-range"], "bytes 300000-699999/700000");
    let (status, _, bytes) = fetch("bytes=5-9").await;
    assert_eq!((status, &bytes[..]), (206, &archive[5..10]));
    assert_eq!(fetch("bytes=700000-").await.0, 416);
    let unknown = format!("/v1/stacks/{}/archive", Digest::of(b"?"));
    let (status, fault) = node.call(Method::GET, &unknown, &Value::Null).await;
    assert_eq!(
        (status, fault["code"].as_str()),
        (404, Some("stack-unknown"))
    );
    // The repository is for hosts only.
    let public = bed
        .http
        .get(format!("{}{path}", bed.url))
        .send()
        .await
        .expect("answer");
    assert_eq!(public.status(), 404);
}

#[tokio::test]
async fn an_unfit_stack_is_refused_and_an_untested_one_warns() {
    let bed = Bed::new().await;
    let dir = tempfile::tempdir().expect("tempdir");
    let import = async |version: &str, kubernetes: &str, containerd: &str| {
        let components = json!([{"name": "containerd", "version": containerd}]);
        write_of(
            dir.path(),
            version,
            version.as_bytes(),
            kubernetes,
            components,
        );
        bed.admin("/stacks", json!({"path": dir.path()})).await
    };
    for (kubernetes, containerd, words) in [
        ("1.33.1", "2.4.2", "Kubernetes 1.33 is not supported"),
        ("1.99.0", "2.4.2", "upgrade the plane first"),
        ("1.37.2", "1.7.28", "containerd 1.7.28"),
    ] {
        let (status, fault) = import("x", kubernetes, containerd).await;
        assert_eq!(
            (status, fault["code"].as_str()),
            (422, Some("stack-unfit")),
            "{fault}"
        );
        assert!(fault.to_string().contains(words), "{fault}");
        assert!(
            !fault["fix"].as_str().unwrap_or_default().is_empty(),
            "{fault}"
        );
    }
    let left = std::fs::read_dir(bed.file("stacks")).expect("dir").count();
    assert_eq!(left, 0, "nothing of a refused stack stays");

    let (status, stack) = import("a", "1.37.2", "2.2.9").await;
    assert_eq!(status, 200, "{stack}");
    let warnings = stack["warnings"].to_string();
    assert!(
        warnings.contains("no test ran Kubernetes 1.37 with containerd 2.2"),
        "{warnings}"
    );
}

/// A plane has it for the nodes of clusters that come from it.
#[tokio::test]
async fn what_only_an_upgrade_starts_from_is_imported_and_no_cluster_is_made_with_it() {
    let bed = Bed::new().await;
    let dir = tempfile::tempdir().expect("tempdir");
    let import = async |version: &str, kubernetes: &str| {
        write_of(
            dir.path(),
            version,
            version.as_bytes(),
            kubernetes,
            json!([]),
        );
        let (status, stack) = bed.admin("/stacks", json!({"path": dir.path()})).await;
        assert_eq!(status, 200, "{stack}");
    };
    import("old", "1.34.4").await;
    import("new", "1.35.4").await;
    let make = async |stack: &str| {
        let wanted = json!({"name": stack, "containersCidr": "10.20.0.0/16", "servicesCidr": "10.21.0.0/16",
                            "networkPlugin": "bridge", "stack": stack});
        bed.ask(Method::POST, "/qbert/v4/{project}/clusters", wanted)
            .await
    };
    let (status, fault) = make("old").await;
    assert_eq!(status, 422, "{fault}");
    let said = fault.to_string();
    assert!(
        said.contains("stack-unfit") && said.contains("only as the start of an upgrade"),
        "{said}"
    );
    let (status, made) = make("new").await;
    assert_eq!(status, 200, "{made}");
}

/// What the matrix knows of systemd and control groups the plane asks as well, before anything goes to the host.
#[tokio::test]
async fn a_machine_that_the_matrix_refuses_is_not_attached() {
    let bed = Bed::new().await;
    bed.stack("1.37.2-1").await;
    let cluster = bed.cluster("one").await;
    let node = bed.host("m1", "10.1.0.1").await;
    let mut status = node.status("m1", "10.1.0.1");
    let mut attach = async |systemd: &str, cgroup: u8| {
        status["inventory"]["systemd"] = json!(systemd);
        status["inventory"]["cgroup"] = json!(cgroup);
        node.call(Method::POST, "/v1/hosts/self/status", &status)
            .await;
        bed.attach(cluster, &[(&node, true)]).await
    };
    let (code, said) = attach("258", 1).await;
    assert_eq!(code, 422, "{said}");
    let text = said.to_string();
    let words = "systemd 258 does not support control groups of version 1";
    assert!(
        text.contains("stack-unfit") && text.contains(words),
        "{text}"
    );
    assert!(text.contains(&format!("host {}", node.id)), "{text}");
    assert_eq!(node.current().await.assignment, Assignment::None);
    let (code, said) = attach("258", 2).await;
    assert_eq!(code, 200, "{said}");
}

#[tokio::test]
async fn a_host_of_another_architecture_is_not_attached() {
    let bed = Bed::new().await;
    bed.stack("1.37.2-1").await;
    let cluster = bed.cluster("one").await;
    let node = bed.host("m1", "10.1.0.1").await;
    let mut status = node.status("m1", "10.1.0.1");
    status["inventory"]["arch"] = json!("arm64");
    node.call(Method::POST, "/v1/hosts/self/status", &status)
        .await;
    let (status, said) = bed.attach(cluster, &[(&node, true)]).await;
    assert_eq!(status, 422, "{said}");
    let text = said.to_string();
    assert!(text.contains("stack-other-arch"), "{text}");
    assert!(text.contains(&format!("host {}", node.id)), "{text}");
    assert_eq!(node.current().await.assignment, Assignment::None);
}
