#!/bin/bash
# A server that judges its caller at accept answers 503 with a reason and closes, without waiting for a request.
# One would have guessed that hyper's client hands that answer to the request that follows: it lies in the socket,
# whole. The request ends as "operation was canceled" instead, the words are lost, and the connection's own future
# ends with Ok, so that nothing anywhere says that there was an answer. Sent after the request it arrives.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat > "$dir/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
hyper = { version = "=1.7.0", features = ["client", "http1"] }
hyper-util = { version = "=0.1.17", features = ["tokio"] }
http-body-util = "=0.1.3"
bytes = "1"
tokio = { version = "=1.48.0", features = ["rt", "macros", "net", "io-util"] }
TOML
cat > "$dir/src/main.rs" <<'RUST'
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

const WORDS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy";

async fn ask(early: bool) -> String {
    let (client, mut server) = tokio::net::UnixStream::pair().unwrap();
    if early {
        server.write_all(WORDS).await.unwrap();
    }
    let io = TokioIo::new(client);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let driven = tokio::spawn(connection);
    // The driver of the connection looks at the socket once.
    tokio::task::yield_now().await;
    let request = hyper::Request::get("http://local/").body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(request);
    let answer = if early {
        answer.await
    } else {
        let words = async {
            tokio::task::yield_now().await;
            server.write_all(WORDS).await.unwrap();
        };
        tokio::join!(answer, words).0
    };
    let said = match answer {
        Ok(r) => format!("{} {:?}", r.status(), r.into_body().collect().await.unwrap().to_bytes()),
        Err(e) => format!("error: {e}"),
    };
    let ended = driven.await.unwrap().map_or_else(|e| e.to_string(), |()| "ok".to_owned());
    format!("{said}; connection: {ended}")
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("answer after the request: {}", ask(false).await);
    println!("answer before the request: {}", ask(true).await);
}
RUST
cd "$dir"
echo "hyper 1.7.0, hyper-util 0.1.17, tokio 1.48.0"
seen=$(cargo run --quiet)
echo "$seen"
want='answer after the request: 503 Service Unavailable b"busy"; connection: ok
answer before the request: error: operation was canceled; connection: ok'
[ "$seen" = "$want" ] || { echo "it behaves otherwise now" >&2; exit 1; }
