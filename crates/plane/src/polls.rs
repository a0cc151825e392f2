//! Polls of hosts: requests that wait for news, on streams of their own, for as long as a host is connected.
//!
//! An HTTP library holds its buffers while a request waits, and every host has two that do: they were most of what an
//! idle host cost. So a stream is looked at before anything is read from it. Between two requests, and while a poll
//! waits, there are no buffers; what is not such a poll goes to the library as it came.

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderName, Method, Request, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use super::hostapi::{OPERATIONS, Peer, SPEC};
use super::refusal::chain;
use super::serve::{HEADER_DEADLINE, Until, serve_http};
use pf9_hostagent::mux::MuxStream;
use pf9_hostagent::seam::clock;

/// More headers than an agent sends; a request with more goes to the library.
const HEADERS_MAX: usize = 32;

/// What comes next on a stream.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Poll(Uri),
    /// Another request, or the beginning of one.
    Other,
    /// Nothing comes any more.
    Over,
}

/// Serves a host's stream until it ends.
pub(super) async fn serve(mut stream: MuxStream, router: Router, peer: Peer, until: Until) {
    let mut answered = false;
    loop {
        let next = tokio::select! {
            // cancel-safe: nothing is taken before it is returned
            next = next(&mut stream) => next,
            // Whether a first request is still on its way is the other's to find out.
            () = until.shutdown.cancelled() => if answered { Next::Over } else { Next::Other },
            () = until.cut.cancelled() => return,
        };
        let uri = match next {
            Next::Poll(uri) => uri,
            Next::Other => return Box::pin(serve_http(stream, router, Some(peer), until)).await,
            Next::Over => break,
        };
        let answer = tokio::select! {
            answer = ask(&router, peer, uri) => answer,
            () = gone(&mut stream) => return,
            () = until.cut.cancelled() => return,
        };
        let last = until.shutdown.is_cancelled();
        let said = match written(answer, last).await {
            Ok(said) => said,
            Err(e) => {
                tracing::debug!(why = chain(&e), "a poll has no answer");
                return;
            }
        };
        if send(&mut stream, &said).await.is_err() {
            return;
        }
        if last {
            break;
        }
        answered = true;
    }
    if let Err(e) = stream.shutdown().await {
        tracing::debug!(why = %e, "stream ended");
    }
}

async fn next(stream: &mut MuxStream) -> Next {
    let Ok(Ok(bytes)) = tokio::time::timeout(HEADER_DEADLINE, stream.fill_buf()).await else {
        return Next::Over;
    };
    if bytes.is_empty() {
        return Next::Over;
    }
    let Some((uri, length)) = poll_at(bytes) else {
        return Next::Other;
    };
    stream.consume(length);
    Next::Poll(uri)
}

/// The poll that these bytes begin with, and the length of its head. Nothing that has a body, or asks for anything about
/// the connection.
fn poll_at(bytes: &[u8]) -> Option<(Uri, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = request.parse(bytes) else {
        return None;
    };
    let is_plain = |h: &httparse::Header<'_>| {
        let is = |name: HeaderName| h.name.eq_ignore_ascii_case(name.as_str());
        match () {
            () if is(header::CONTENT_LENGTH) => h.value == b"0",
            () => {
                !is(header::TRANSFER_ENCODING)
                    && !is(header::CONNECTION)
                    && !is(header::UPGRADE)
                    && !is(header::EXPECT)
            }
        }
    };
    let is_poll = |uri: &Uri| [SPEC, OPERATIONS].contains(&uri.path()) && uri.query().is_some();
    let good = request.method == Some(Method::GET.as_str())
        && request.version == Some(1)
        && request.headers.iter().all(is_plain);
    let uri: Uri = request.path.filter(|_| good)?.parse().ok()?;
    is_poll(&uri).then_some((uri, length))
}

async fn ask(router: &Router, peer: Peer, uri: Uri) -> Response {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = uri;
    request.extensions_mut().insert(peer);
    let service = TowerToHyperService::new(router.clone());
    match hyper::service::Service::call(&service, request).await {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

/// The caller does not wait any more.
async fn gone(stream: &mut MuxStream) {
    if let Ok([_, ..]) = stream.fill_buf().await {
        // Its next request, ahead of the answer.
        std::future::pending().await
    }
}

/// An answer as HTTP/1.1 has it; `last`: of this connection.
async fn written(answer: Response, last: bool) -> Result<Vec<u8>, axum::Error> {
    let (head, body) = answer.into_parts();
    let body = body.collect().await?.to_bytes();
    let (status, reason) = (head.status, head.status.canonical_reason());
    let mut said = format!(
        "HTTP/1.1 {} {}\r\n",
        status.as_str(),
        reason.unwrap_or_default()
    );
    said.push_str(&format!(
        "date: {}\r\n",
        clock::now().strftime("%a, %d %b %Y %H:%M:%S GMT")
    ));
    if status != StatusCode::NO_CONTENT {
        said.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    if last {
        said.push_str("connection: close\r\n");
    }
    let mut said = said.into_bytes();
    let others = head.headers.iter();
    for (name, value) in others.filter(|(name, _)| *name != header::CONTENT_LENGTH) {
        said.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    said.extend(b"\r\n");
    said.extend(body);
    Ok(said)
}

async fn send(stream: &mut MuxStream, said: &[u8]) -> std::io::Result<()> {
    stream.write_all(said).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn polls(text: &str) -> Option<String> {
        poll_at(text.as_bytes()).map(|(uri, length)| format!("{uri} {length}"))
    }

    #[test]
    fn only_a_poll_without_a_body_is_taken_from_the_library() {
        let agents = "GET /v1/hosts/self/spec?after=1&seen=1&wait=30 HTTP/1.1\r\nhost: plane\r\naccept: */*\r\n\r\n";
        let taken = format!(
            "/v1/hosts/self/spec?after=1&seen=1&wait=30 {}",
            agents.len()
        );
        assert_eq!(polls(agents), Some(taken.clone()));
        // With the beginning of the next one behind it.
        assert_eq!(polls(&format!("{agents}GET /")), Some(taken));
        let operations =
            "GET /v1/hosts/self/operations?wait=30 HTTP/1.1\r\ncontent-length: 0\r\n\r\n";
        assert!(polls(operations).is_some());
        for other in [
            "",
            "GET /v1/hosts/self/spec?wait=30 HTTP/1.1\r\nhost: pl",
            "GET /v1/hosts/self/spec HTTP/1.1\r\n\r\n",
            "GET /v1/hosts/self/specs?wait=1 HTTP/1.1\r\n\r\n",
            "GET /v1/hosts/self/spec?wait=1 HTTP/1.0\r\n\r\n",
            "POST /v1/hosts/self/operations?wait=1 HTTP/1.1\r\n\r\n",
            "GET /v1/hosts/self/spec?wait=1 HTTP/1.1\r\ncontent-length: 1\r\n\r\nx",
            "GET /v1/hosts/self/spec?wait=1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /v1/hosts/self/spec?wait=1 HTTP/1.1\r\nconnection: close\r\n\r\n",
            "GET /v1/hosts/self/spec?wait=1 HTTP/1.1\r\nexpect: 100-continue\r\n\r\n",
            "GET /v1/hosts/self/spec?wait=1 HTTP/1.1\r\nupgrade: websocket\r\n\r\n",
            "\u{1}\u{2}",
        ] {
            assert_eq!(polls(other), None, "{other:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_whole() {
        let answer = Response::builder()
            .status(200)
            .header("content-type", "application/json")
            .body(Body::from("{}"))
            .expect("an answer");
        let said = String::from_utf8(written(answer, false).await.expect("written")).expect("text");
        assert!(said.starts_with("HTTP/1.1 200 OK\r\ndate: "), "{said}");
        let (head, body) = said.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(" GMT\r\ncontent-length: 2\r\n"), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        assert_eq!(body, "{}");
        let nothing = Response::builder().status(204).body(Body::empty());
        let said = written(nothing.expect("an answer"), true)
            .await
            .expect("written");
        let said = String::from_utf8(said).expect("text");
        assert!(said.starts_with("HTTP/1.1 204 No Content\r\n") && said.ends_with("\r\n\r\n"));
        assert!(!said.contains("content-length"), "{said}");
        assert!(said.contains("\r\nconnection: close\r\n"), "{said}");
    }
}
