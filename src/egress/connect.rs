//! HTTP CONNECT. The proxy's answer is hostile input: hyper reads it, its head is bounded, and
//! nothing of its text is repeated.

use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::upgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::error::ReachError;
use super::{Proxy, authority};

/// Largest head of an answer; error pages of proxies are in the body, which is never read.
const HEAD_MAX: usize = 16 * 1024;
/// Most header lines of an answer.
const HEADERS_MAX: usize = 64;
/// Most authentication schemes of a proxy's list that are shown.
const SCHEMES_MAX: usize = 5;

/// Has the proxy at the other end of `tcp` connect to `host:port`.
pub(super) async fn through(
    tcp: TcpStream,
    proxy: &Proxy,
    host: &str,
    port: u16,
) -> Result<TcpStream, ReachError> {
    let name = proxy.url.to_string();
    let garbage = |why: String| ReachError::ProxyGarbage {
        proxy: name.clone(),
        why,
    };
    let target = authority(host, port);
    let mut request = Request::connect(target.as_str()).header(header::HOST, &target);
    if let Some(value) = proxy.credentials.as_ref().and_then(|c| c.header()) {
        request = request.header(header::PROXY_AUTHORIZATION, value);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|e| garbage(e.to_string()))?;
    let broken = &|e: hyper::Error| garbage(crate::telemetry::chain(&e));
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(tcp))
        .await
        .map_err(broken)?;
    let connection = connection.with_upgrades();
    // Owns the sender: a refusal drops it, and the connection ends instead of reading the body.
    let target = target.as_str();
    let asked = async move {
        let answer = sender.send_request(request).await.map_err(broken)?;
        if !answer.status().is_success() {
            return Err(refusal(proxy, target, &answer));
        }
        upgrade::on(answer).await.map_err(broken)
    };
    let (upgraded, _) = tokio::join!(asked, connection);
    let parts = upgraded?
        .downcast::<TokioIo<TcpStream>>()
        .map_err(|_| garbage("the connection is not the one that was made".to_owned()))?;
    // In TLS the client speaks first: whatever is there already is not the plane's.
    if !parts.read_buf.is_empty() {
        return Err(garbage("it answers in place of the plane".to_owned()));
    }
    Ok(parts.io.into_inner())
}

fn refusal(proxy: &Proxy, target: &str, answer: &http::Response<Incoming>) -> ReachError {
    let name = proxy.url.to_string();
    if answer.status().is_informational() {
        return ReachError::ProxyGarbage {
            proxy: name,
            why: format!("it answers CONNECT with {}", answer.status()),
        };
    }
    // 401 is for origin servers, but tinyproxy answers a wrong password with it.
    let wants = [
        StatusCode::PROXY_AUTHENTICATION_REQUIRED,
        StatusCode::UNAUTHORIZED,
    ];
    if !wants.contains(&answer.status()) {
        return ReachError::ProxyDenied {
            proxy: name,
            target: target.to_owned(),
            status: answer.status(),
        };
    }
    let offered = schemes(answer.headers());
    match &proxy.credentials {
        _ if !offered.is_empty() && !offered.iter().any(|s| s == "basic") => {
            ReachError::ProxyScheme {
                proxy: name,
                offered: offered.join(", "),
            }
        }
        None => ReachError::ProxyWantsCredentials { proxy: name },
        Some(credentials) => ReachError::ProxyRejects {
            proxy: name,
            user: credentials.user().to_owned(),
        },
    }
}

/// First words of `Proxy-Authenticate`, as far as they are words.
fn schemes(headers: &http::HeaderMap) -> Vec<String> {
    let all = headers.get_all(header::PROXY_AUTHENTICATE).iter();
    all.filter_map(|value| {
        let word = value.to_str().ok()?.split([' ', ',']).next()?;
        let is_word =
            (1..=20).contains(&word.len()) && word.chars().all(|c| c.is_ascii_alphanumeric());
        is_word.then(|| word.to_lowercase())
    })
    .take(SCHEMES_MAX)
    .collect()
}
