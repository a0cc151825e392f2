//! Support bundles of hosts at the plane: ordered, received complete and sealed, given to authorised callers, removed
//! when they expire.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::{Method, Request};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use pf9_hostagent::model::{DocumentKind, Operation, OperationKind, PendingOperations, TrustStore};
use pf9_hostagent::mux;
use pf9_hostagent::wire::{Class, Meta};
use serde_json::{Value, json};

use super::bed::{Bed, until, within};
use super::node::Node;

fn bundles(node: &Node) -> String {
    format!("/resmgr/v1/hosts/{}/bundles", node.id)
}

impl Node {
    /// The order, as a document the host trusts.
    async fn asked_for(&self) -> Operation {
        let path = "/v1/hosts/self/operations?wait=5";
        let (status, body) = self.call(Method::GET, path, &Value::Null).await;
        assert_eq!(status, 200, "{body}");
        let pending: PendingOperations = serde_json::from_value(body).expect("pending");
        let trust = self.answer.as_ref().expect("enrolled").trust.clone();
        let trust = TrustStore::new(trust).expect("trust");
        let one = pending.operations.last().expect("one");
        one.envelope
            .open(DocumentKind::Operation, &trust)
            .expect("signed")
    }

    /// Sends chunks, one after the other; an error breaks the upload off.
    async fn send(&self, id: &str, pieces: Vec<Result<Vec<u8>, ()>>) -> Option<(u16, Value)> {
        self.sends(id, stream::iter(pieces)).await
    }

    async fn sends(
        &self,
        id: &str,
        pieces: impl Stream<Item = Result<Vec<u8>, ()>> + Send + 'static,
    ) -> Option<(u16, Value)> {
        let tunnel = self.tunnel.as_ref().expect("connected");
        let stream = tunnel
            .open(mux::HOST_API, Class::Interactive, Meta::new())
            .expect("open");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("handshake");
        let frames = pieces.map(|piece| match piece {
            Ok(bytes) => Ok(Frame::data(Bytes::from(bytes))),
            Err(()) => Err(std::io::Error::from(std::io::ErrorKind::Interrupted)),
        });
        let request = Request::put(format!("/v1/hosts/self/bundles/{id}"))
            .header("host", "plane")
            .body(StreamBody::new(Box::pin(frames)))
            .expect("request");
        let exchange = async {
            let response = sender.send_request(request).await.ok()?;
            let status = response.status().as_u16();
            let bytes = response.into_body().collect().await.ok()?.to_bytes();
            Some((
                status,
                serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            ))
        };
        within(async {
            tokio::select! {
                answer = exchange => answer,
                Err(_) = connection => None,
            }
        })
        .await
    }
}

/// Orders one from a host.
async fn order(bed: &Bed, node: &Node, wanted: Value) -> Value {
    let (status, row) = bed.ask(Method::POST, &bundles(node), wanted).await;
    assert_eq!(status, 202, "{row}");
    row
}

fn sealed(plain: &[u8], seal_for: &str) -> Vec<u8> {
    let to: age::x25519::Recipient = seal_for.parse().expect("key");
    let to = age::Encryptor::with_recipients(std::iter::once(&to as &dyn age::Recipient));
    let mut out = Vec::new();
    let mut writer = to.expect("sealer").wrap_output(&mut out).expect("head");
    writer.write_all(plain).expect("sealed");
    writer.finish().expect("finished");
    out
}

fn key_of(operation: &Operation) -> String {
    match &operation.what {
        OperationKind::Bundle { seal_for, .. } | OperationKind::Logs { seal_for, .. } => {
            seal_for.clone()
        }
        other => panic!("{other}"),
    }
}

fn in_pieces(bytes: &[u8]) -> Vec<Result<Vec<u8>, ()>> {
    bytes.chunks(100_000).map(|c| Ok(c.to_vec())).collect()
}

/// Files on the plane's disk.
fn files(bed: &Bed) -> Vec<String> {
    let all = std::fs::read_dir(bed.file("bundles"));
    let mut names: Vec<String> = all
        .into_iter()
        .flatten()
        .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

async fn kinds(bed: &Bed, node: &Node) -> Vec<String> {
    let told = bed
        .get(&format!("/resmgr/v1/hosts/{}/events", node.id))
        .await;
    let all = told.as_array().expect("events").iter();
    all.map(|e| e["event"]["kind"].as_str().unwrap_or_default().to_owned())
        .filter(|k| k.starts_with("bundle-"))
        .collect()
}

#[tokio::test]
async fn a_bundle_is_stored_sealed_read_by_authorised_callers_and_removed() {
    let bed = Bed::new().await;
    let node = bed.host("n1", "10.0.0.1").await;
    let list = bundles(&node);
    let row = order(&bed, &node, json!({"sinceSeconds": 600})).await;
    let id = row["id"].as_str().expect("id").to_owned();
    assert_eq!(
        (&row["state"], &row["opensHere"]),
        (&json!("awaited"), &json!(true))
    );
    let operation = node.asked_for().await;
    assert_eq!(operation.id.to_string(), id);
    let plain: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let answer = node
        .send(&id, in_pieces(&sealed(&plain, &key_of(&operation))))
        .await;
    assert_eq!(answer.expect("answer").0, 204);

    // At rest nobody can read it without the store.
    assert_eq!(files(&bed), [format!("{id}.age")]);
    let path = bed.file(&format!("bundles/{id}.age"));
    let kept = std::fs::read(&path).expect("file");
    assert!(kept.starts_with(b"age-encryption.org/v1\n"));
    assert!(!kept.windows(64).any(|w| plain[..64] == *w));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&path).expect("file").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);

    let (status, bytes) = bed.bytes(&format!("{list}/{id}")).await;
    assert_eq!((status, bytes.len()), (200, plain.len()));
    assert!(bytes == plain);
    let rows = bed.get(&list).await;
    assert_eq!(rows[0]["state"], "here");
    assert!(!rows.to_string().contains("AGE-SECRET"), "{rows}");
    // Once: a stolen host cannot replace it.
    let again = node
        .send(&id, in_pieces(&sealed(b"other", &key_of(&operation))))
        .await;
    assert_eq!(again.expect("answer").0, 409);

    let (status, _) = bed
        .ask(Method::DELETE, &format!("{list}/{id}"), Value::Null)
        .await;
    assert_eq!(status, 204);
    assert_eq!(files(&bed), Vec::<String>::new());
    assert_eq!(bed.bytes(&format!("{list}/{id}")).await.0, 404);
    assert_eq!(
        kinds(&bed, &node).await,
        ["bundle-arrived", "bundle-read", "bundle-removed"]
    );
}

#[tokio::test]
async fn a_large_unsealed_interrupted_or_foreign_bundle_is_not_kept() {
    let bed = Bed::new().await;
    let node = bed.host("n1", "10.0.0.1").await;
    let other = bed.host("n2", "10.0.0.2").await;
    let mib = 1 << 20;
    let row = order(&bed, &node, json!({"maxBytes": mib})).await;
    let id = row["id"].as_str().expect("id").to_owned();
    let operation = node.asked_for().await;
    let key = key_of(&operation);
    let good = sealed(&vec![7; 300_000], &key);
    let code = |answer: Option<(u16, Value)>| answer.map(|(status, _)| status);

    let large = sealed(&vec![7; mib + 1], &key);
    // The client may not even wait for the answer: what counts is that nothing is kept.
    let answer = code(node.send(&id, in_pieces(&large)).await);
    assert!(answer.is_none_or(|s| s == 413), "{answer:?}");
    for (name, bytes) in [
        ("plain", vec![7; 1000]),
        ("nothing", Vec::new()),
        ("cut off", good[..good.len() - 1].to_vec()),
        ("for another key", {
            let stranger = age::x25519::Identity::generate().to_public();
            sealed(b"x", &stranger.to_string())
        }),
    ] {
        let answer = code(node.send(&id, in_pieces(&bytes)).await);
        assert_eq!(answer, Some(400), "{name}");
        assert_eq!(files(&bed), Vec::<String>::new(), "{name}");
    }
    let mut broken = in_pieces(&good);
    broken.truncate(2);
    broken.push(Err(()));
    assert_ne!(code(node.send(&id, broken).await), Some(204));
    // These are answered before the body is read; a client that is still sending may miss the answer.
    let unknown = uuid::Uuid::nil().to_string();
    for (host, id) in [(&other, &id), (&node, &unknown)] {
        let answer = code(host.send(id, in_pieces(&good)).await);
        assert!(answer.is_none_or(|s| s == 404), "{answer:?}");
    }
    // An interrupted upload leaves nothing, as soon as the plane has noticed.
    until(|| async { files(&bed).is_empty().then_some(()) }).await;
    // And it can still be uploaded.
    assert_eq!(code(node.send(&id, in_pieces(&good)).await), Some(204));
}

/// A stolen hostagent has the tunnel as well: it may upload first, whatever it likes, but cannot replace another one.
#[tokio::test]
async fn a_second_upload_is_refused_during_the_first() {
    let bed = Bed::new().await;
    let node = bed.host("n1", "10.0.0.1").await;
    let row = order(&bed, &node, json!({})).await;
    let id = row["id"].as_str().expect("id").to_owned();
    let good = sealed(&vec![7; 300_000], &key_of(&node.asked_for().await));
    let (more, rest) = tokio::sync::mpsc::channel::<Vec<u8>>(1);
    let rest = stream::unfold(rest, |mut rest| async move {
        Some((Ok(rest.recv().await?), rest))
    });
    let first = node.sends(&id, rest);
    let second = async {
        let (head, tail) = good.split_at(100_000);
        more.send(head.to_vec()).await.expect("taken");
        // It has started.
        until(|| async { (!files(&bed).is_empty()).then_some(()) }).await;
        let refused = node.send(&id, in_pieces(&good)).await;
        // A client that is still sending may miss the answer.
        assert!(refused.is_none_or(|(status, _)| status == 409));
        more.send(tail.to_vec()).await.expect("taken");
        drop(more);
    };
    let (first, ()) = tokio::join!(first, second);
    assert_eq!(first.expect("answer").0, 204);
    let (status, bytes) = bed.bytes(&format!("{}/{id}", bundles(&node))).await;
    assert_eq!((status, bytes.len()), (200, 300_000));
}

#[tokio::test]
async fn a_bundle_for_the_callers_key_is_closed_to_the_plane() {
    let bed = Bed::new().await;
    let node = bed.host("n1", "10.0.0.1").await;
    let mine = age::x25519::Identity::generate();
    let public = mine.to_public().to_string();
    let row = order(&bed, &node, json!({"sealFor": public})).await;
    assert_eq!(row["opensHere"], false);
    let id = row["id"].as_str().expect("id").to_owned();
    assert_eq!(key_of(&node.asked_for().await), public);
    // The plane cannot open it, and keeps nothing that anybody could open, nor what takes for ever to open.
    let endless = [
        b"age-encryption.org/v1\n".as_slice(),
        &b"-> x\n\n".repeat(1000),
    ]
    .concat();
    for (bytes, why) in [
        (b"plain\n--- text\nof a log".as_slice(), "not sealed"),
        (&endless, "its head is longer"),
    ] {
        let (status, said) = node.send(&id, in_pieces(bytes)).await.expect("answer");
        assert_eq!(status, 400, "{said}");
        assert!(said.to_string().contains(why), "{said}");
    }
    let answer = node.send(&id, in_pieces(&sealed(b"words", &public))).await;
    assert_eq!(answer.expect("answer").0, 204);
    let (status, bytes) = bed.bytes(&format!("{}/{id}", bundles(&node))).await;
    assert_eq!(status, 200);
    let opened = age::Decryptor::new(bytes.as_slice()).expect("sealed");
    let mut plain = Vec::new();
    let mut reader = opened
        .decrypt(std::iter::once(&mine as &dyn age::Identity))
        .expect("opened");
    reader.read_to_end(&mut plain).expect("read");
    assert_eq!(plain, b"words");
    // A bare operation has no row to upload to.
    let what =
        json!({"what": {"do": "bundle", "since_s": 60, "max_bytes": 1 << 20, "seal_for": public}});
    let path = format!("/resmgr/v1/hosts/{}/operations", node.id);
    let (status, body) = bed.ask(Method::POST, &path, what).await;
    assert_eq!(status, 400, "{body}");
}

#[tokio::test]
async fn logs_alone_are_ordered_and_stored_like_a_bundle() {
    let bed = Bed::new().await;
    let node = bed.host("n1", "10.0.0.1").await;
    let wanted = json!({"only": "logs", "sinceSeconds": 7200, "untilSeconds": 3600, "lines": 100});
    let row = order(&bed, &node, wanted).await;
    assert_eq!(row["only"], "logs");
    let id = row["id"].as_str().expect("id").to_owned();
    let operation = node.asked_for().await;
    let is_logs = matches!(
        operation.what,
        OperationKind::Logs {
            since_s: 7200,
            until_s: 3600,
            lines: 100,
            ..
        }
    );
    assert!(is_logs, "{}", operation.what);
    let answer = node
        .send(&id, in_pieces(&sealed(b"words", &key_of(&operation))))
        .await;
    assert_eq!(answer.expect("answer").0, 204);
    let (status, bytes) = bed.bytes(&format!("{}/{id}", bundles(&node))).await;
    assert_eq!((status, bytes.as_slice()), (200, b"words".as_slice()));
    let until: jiff::Timestamp = row["keepUntil"]
        .as_str()
        .and_then(|t| t.parse().ok())
        .expect("time");
    assert!(until > jiff::Timestamp::now(), "{row}");
    let (status, body) = bed
        .ask(Method::POST, &bundles(&node), json!({"only": "everything"}))
        .await;
    assert_eq!(status, 400, "{body}");
}
