//! Against a peer that speaks etcd's protocol on a real socket, and breaks it in each way.

use std::convert::Infallible;

use futures_util::stream;
use http::HeaderValue;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::service::service_fn;
use proptest::prelude::*;
use tokio::net::TcpListener;

use super::*;
use crate::host::tls::ClientIdentity;

fn number(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n > 0x7f {
        bytes.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

/// A message with its prefix, as etcd sends it; and an unknown field.
fn message(remains: u64, blob: &[u8]) -> Vec<u8> {
    let mut inner = Vec::new();
    for (key, bytes) in [
        (3 << 3 | 2, blob),
        (4 << 3 | 2, b"3.7.0"),
        (9 << 3 | 2, b"x"),
    ] {
        inner.extend(number(key));
        inner.extend(number(bytes.len() as u64));
        inner.extend(bytes);
    }
    if remains > 0 {
        inner.extend(number(2 << 3));
        inner.extend(number(remains));
    }
    let mut bytes = vec![0];
    bytes.extend((inner.len() as u32).to_be_bytes());
    bytes.extend(inner);
    bytes
}

/// What a peer sends, and whether it says at the end that all is well.
struct Script {
    messages: Vec<Vec<u8>>,
    trailers: Option<&'static str>,
}

fn good() -> (Vec<u8>, Script) {
    let blobs: Vec<Vec<u8>> = (0..5_u8).map(|n| vec![n; 1000]).collect();
    let mut remains = 5000;
    let mut messages = Vec::new();
    for blob in &blobs {
        remains -= blob.len() as u64;
        messages.push(message(remains, blob));
    }
    let mut file = blobs.concat();
    let sum = crate::model::Digest::of(&file).0;
    messages.push(message(0, &sum));
    file.extend(sum);
    let trailers = Some("0");
    (file, Script { messages, trailers })
}

/// A peer that sends this to every client.
async fn peer(script: Script) -> (Etcd, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let base = format!("http://{}", listener.local_addr().expect("address"));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (tcp, _) = listener.accept().await.expect("accept");
        let answer = service_fn(move |_| {
            let mut frames: Vec<Result<Frame<Bytes>, std::io::Error>> = script
                .messages
                .iter()
                .map(|m| Ok(Frame::data(Bytes::from(m.clone()))))
                .collect();
            frames.push(match script.trailers {
                Some(status) => {
                    let status = HeaderValue::from_static(status);
                    Ok(Frame::trailers(
                        [(STATUS.parse().expect("name"), status)]
                            .into_iter()
                            .collect(),
                    ))
                }
                None => Err(std::io::Error::other("it dies")),
            });
            let body = StreamBody::new(stream::iter(frames));
            let answer = http::Response::builder().header("content-type", "application/grpc");
            async move { Ok::<_, Infallible>(answer.body(body).expect("answer")) }
        });
        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        drop(http.serve_connection(TokioIo::new(tcp), answer).await);
    });
    (client(&base), tasks)
}

/// One that sends a whole snapshot, once.
#[cfg(feature = "fault")]
pub(crate) async fn whole() -> (Etcd, JoinSet<()>) {
    peer(good().1).await
}

fn client(base: &str) -> Etcd {
    crate::tls::install();
    let key = rcgen::KeyPair::generate().expect("key");
    let params = rcgen::CertificateParams::new(vec!["etcd".into()]).expect("params");
    let certificate = params.self_signed(&key).expect("certificate").pem();
    let identity = ClientIdentity {
        authority: certificate.as_bytes(),
        certificate: certificate.as_bytes(),
        key: key.serialize_pem().into_bytes().leak(),
    };
    Etcd::new(base, identity).expect("client")
}

/// All bytes that came, and how it ended.
async fn read(etcd: &Etcd) -> (Vec<u8>, Result<Option<String>, String>) {
    let mut bytes = Vec::new();
    let mut snapshot = match etcd.snapshot().await {
        Ok(snapshot) => snapshot,
        Err(e) => return (bytes, Err(e.to_string())),
    };
    loop {
        match snapshot.next().await {
            Ok(Some(piece)) => bytes.extend(piece),
            Ok(None) => return (bytes, Ok(snapshot.storage_version().map(str::to_owned))),
            Err(e) => return (bytes, Err(e.to_string())),
        }
    }
}

#[tokio::test]
async fn a_whole_snapshot_is_the_file() {
    let (file, script) = good();
    let (etcd, _peer) = peer(script).await;
    assert_eq!(read(&etcd).await, (file, Ok(Some("3.7.0".into()))));
}

/// So many blobs more after the last promised byte, and the checksum that is right for all.
fn after_the_end(script: &mut Script, blob: &[u8], count: usize) {
    script.messages.pop();
    let mut file: Vec<u8> = (0..5_u8).flat_map(|n| vec![n; 1000]).collect();
    for _ in 0..count {
        script.messages.push(message(0, blob));
        file.extend(blob);
    }
    let sum = crate::model::Digest::of(&file).0;
    script.messages.push(message(0, &sum));
}

#[tokio::test]
async fn what_is_not_whole_or_not_what_etcd_read_is_none() {
    type Change = fn(&mut Script);
    let cases: [(&str, Change); 10] = [
        ("it dies", |s| {
            s.messages.truncate(3);
            s.trailers = None;
        }),
        ("status 14", |s| s.trailers = Some("14")),
        ("is not whole", |s| s.messages.truncate(3)),
        // All that was promised, and no checksum of it.
        ("is not whole", |s| s.messages.truncate(5)),
        ("checksum differs", |s| {
            let last = s.messages[2].len() - 20;
            s.messages[2][last] ^= 1;
        }),
        ("bytes should remain", |s| drop(s.messages.remove(2))),
        ("more than announced", |s| {
            s.messages[1] = message(0, &[0; 9000])
        }),
        ("is empty", |s| s.messages.clear()),
        // What comes after the last promised byte is the checksum alone: not more data, with a checksum of
        // them all, however large their pieces are.
        ("more than announced", |s| after_the_end(s, &[9; 1000], 1)),
        ("more than announced", |s| after_the_end(s, &[9; 32], 3)),
    ];
    for (words, change) in cases {
        let (file, mut script) = good();
        change(&mut script);
        let dies = script.trailers.is_none();
        let (etcd, _peer) = peer(script).await;
        let (came, ended) = read(&etcd).await;
        let why = ended.expect_err(words);
        assert!(dies || why.contains(words), "{words}: {why}");
        assert!(came.len() < file.len(), "{words}");
    }
}

#[tokio::test]
async fn who_speaks_another_protocol_is_told_from_etcd() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let etcd = client(&format!(
        "http://{}",
        listener.local_addr().expect("address")
    ));
    let other = async {
        let (mut tcp, _) = listener.accept().await.expect("accept");
        let text = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut tcp, text)
            .await
            .expect("write");
    };
    let ((_, ended), ()) = tokio::join!(read(&etcd), other);
    ended.expect_err("no snapshot");
    drop(listener);
    let (_, ended) = read(&etcd).await;
    ended.expect_err("nobody there");
}

proptest! {
    /// However the bytes are cut on their way, the messages are the same; and no bytes make it panic.
    #[test]
    fn messages_are_put_together(cuts in prop::collection::vec(1usize..700, 0..20)) {
        let (_, script) = good();
        let all = script.messages.concat();
        let mut buffer = BytesMut::new();
        let mut found = Vec::new();
        let mut rest = all.as_slice();
        for cut_at in cuts.into_iter().chain([all.len()]) {
            let (piece, left) = rest.split_at(cut_at.min(rest.len()));
            rest = left;
            buffer.extend_from_slice(piece);
            while let Some(message) = cut(&mut buffer).expect("good") {
                found.push(Message::read(&message).expect("good").remains);
            }
        }
        prop_assert_eq!(found, vec![4000, 3000, 2000, 1000, 0, 0]);
    }

    #[test]
    fn no_bytes_are_too_wild(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut buffer = BytesMut::from(bytes.as_slice());
        drop(Message::read(&Bytes::from(bytes)));
        while let Ok(Some(message)) = cut(&mut buffer) {
            drop(Message::read(&message));
        }
    }
}
