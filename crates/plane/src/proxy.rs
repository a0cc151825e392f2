//! The Kubernetes API of each cluster, through the tunnel of a connected master.
//!
//! ```text
//! kubectl ──TLS, bearer token──► plane ──stream `kube-apiserver`──► node ──► 127.0.0.1:6443
//!                                  └─────────── TLS inside: plane's own certificate ─────────┘
//! ```
//! The API server is called in the person's name ([`impersonated`]): its own rules decide what they may, and its audit
//! names them.
//!
//! Bodies are streamed both ways; nothing is buffered, so watches and logs are live. A request that upgrades (exec,
//! attach, port-forward) becomes two byte streams copied into each other. The API server is trusted only if the
//! cluster's authority signed it as `kubernetes`; addresses in its answers are rewritten by [`addresses`].
//!
//! Its `Host` is the name the client uses for the plane: with that the API server rewrites the addresses of what is
//! behind its own proxies (pods, services), and what is there compares it with a browser's `Origin`. The API server
//! ignores `X-Forwarded-Host` and `-Prefix`, but forwards both, and what is behind it would take them for another host
//! or path: so neither is sent.

mod addresses;
mod upstreams;

use std::io;
use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio_rustls::TlsConnector;

use addresses::Asked;
pub(super) use upstreams::Upstreams;

use super::guard::{Person, Who};
use super::records::Cluster;
use super::refusal::{Answer, Refusal, Shape, chain, reshape};
use super::state::{self, Plane};
use super::trace::Trace;
use super::ways::{self, Failed};
use pf9_hostagent::model::{ClusterId, Fault, FaultCode, HostId};
use pf9_hostagent::wire::{Class, Meta};

/// The node's service for its API server.
const SERVICE: &str = "kube-apiserver";
/// Bytes read at once from an upgraded connection: a TLS record, which would be two with Tokio's own buffer.
const PIECE: usize = 16 * 1024;
/// Largest head of an answer: four times what most servers accept, so that large cookies pass.
const HEAD_MAX: usize = 64 * 1024;
/// Most headers of an answer.
const HEADERS_MAX: usize = 100;
/// Name the API server's certificate must have.
const SERVER_NAME: &str = "kubernetes";
/// Prefixes of request headers that speak for the client: identity, origin, address. The API server's audit trusts some
/// of them.
const CLAIMS: [&str; 6] = [
    // Those are refused earlier; removing them again is harmless.
    IMPERSONATE,
    "forwarded",
    "x-forwarded-",
    "x-original-",
    "x-real-ip",
    "x-remote-",
];
/// How a browser, which cannot say `Authorization` with a websocket, says its token: as one of the
/// protocols, which the API server's proxies hand on to the pod that is asked.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
/// Prefix of the impersonation headers.
const IMPERSONATE: &str = "impersonate-";
const IMPERSONATE_USER: HeaderName = HeaderName::from_static("impersonate-user");
const IMPERSONATE_UID: HeaderName = HeaderName::from_static("impersonate-uid");
const IMPERSONATE_GROUP: HeaderName = HeaderName::from_static("impersonate-group");
/// Where the clusters' APIs are.
pub(super) const PREFIX: &str = "/k8s/clusters/";

/// Any request below `/k8s/clusters/{uuid}`.
pub(super) async fn handle(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
    Extension(trace): Extension<Trace>,
    request: Request,
) -> Response {
    match forward(&plane, &who, request, &trace).await {
        Ok(response) => response,
        Err(refusal) => reshape(Shape::Kubernetes, refusal.into_response()),
    }
}

async fn forward(
    plane: &Arc<Plane>,
    who: &Who,
    mut request: Request,
    trace: &Trace,
) -> Answer<Response> {
    let (id, target) = split_path(request.uri())?;
    let asked = asked(id, &request)?;
    let cluster = state::cluster(&plane.read()?, id)?;
    refuse_impersonation(request.headers())?;
    let person = impersonated(who, &cluster)?;
    let client_side = wants_upgrade(request.headers())
        .then(|| request.extensions_mut().remove::<OnUpgrade>())
        .flatten();
    clean_request(request.headers_mut(), client_side.is_some());
    // Added last, after the headers that a client could remove by naming them in `Connection`.
    request.headers_mut().extend(person);
    *request.uri_mut() = target;
    let mut response = ask(plane, &cluster, (&who.name(), trace), request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client_side) = client_side else {
            return Err(broken(
                &cluster,
                "its API server upgraded the connection unasked".into(),
            ));
        };
        splice(plane, client_side, hyper::upgrade::on(&mut response));
    } else {
        strip_hop_by_hop(response.headers_mut());
    }
    asked.turn(response.headers_mut());
    Ok(response.map(Body::new))
}

/// Sends the request; and again to another master, if it only reads and got no answer: an API server that stops closes
/// connections it has accepted.
async fn ask(
    plane: &Arc<Plane>,
    cluster: &Cluster,
    (who, trace): (&str, &Trace),
    request: Request,
) -> Answer<Response<Incoming>> {
    let again = repeatable(&request);
    let (first, mut sender) = reach(plane, cluster, (who, trace), None).await?;
    let refusal = match sender.send_request(request).await {
        Ok(response) => return Ok(response),
        Err(e) => broken(
            cluster,
            format!("its API server did not answer: {}", chain(&e)),
        ),
    };
    let Some(again) = again else {
        return Err(refusal);
    };
    tracing::debug!(%first, fault = %refusal.fault, "retried at another master");
    let Ok((_, mut sender)) = reach(plane, cluster, (who, trace), Some(first)).await else {
        return Err(refusal);
    };
    sender.send_request(again).await.map_err(|_| refusal)
}

/// The same request again, if that is harmless: it only reads, and has no body that was already sent.
fn repeatable(request: &Request) -> Option<Request> {
    let plain = request.method().is_safe()
        && request.body().is_end_stream()
        && !request.headers().contains_key(header::UPGRADE);
    plain.then(|| {
        let mut again = Request::new(Body::empty());
        again.method_mut().clone_from(request.method());
        again.uri_mut().clone_from(request.uri());
        again.headers_mut().clone_from(request.headers());
        again
    })
}

/// Copies both upgraded connections into each other until they end; a plane that stops lets them, within its time to
/// drain.
fn splice(plane: &Arc<Plane>, client: OnUpgrade, node: OnUpgrade) {
    let cut = plane.cut.clone();
    plane.tasks.spawn(async move {
        let both = async {
            let (client, node) = tokio::try_join!(client, node)?;
            // How it ended concerns only the two ends; both see the end of their stream.
            drop(joined(TokioIo::new(client), TokioIo::new(node)).await);
            Ok::<_, hyper::Error>(())
        };
        tokio::select! {
            done = both => if let Err(e) = done {
                tracing::debug!(why = chain(&e), "upgraded connection was not taken over");
            },
            () = cut.cancelled() => {}
        }
    });
}

/// Both directions, until both ended or the client is gone. Not `copy_bidirectional`, which ends at the first error of
/// either: an API server that has sent everything accepts no more, and the rest of its answer is still on its way when
/// the client's next ping fails.
async fn joined<C, N>(client: C, node: N) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite,
    N: AsyncRead + AsyncWrite,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (from_node, mut to_node) = tokio::io::split(node);
    let mut from_node = BufReader::with_capacity(PIECE, from_node);
    let asks = async {
        let mut piece = vec![0; PIECE];
        loop {
            let len = from_client.read(&mut piece).await?;
            let said = piece.get(..len).unwrap_or_default();
            let taken = async {
                to_node.write_all(said).await?;
                to_node.flush().await
            };
            if len == 0 || taken.await.is_err() {
                // Refused or not: its answer comes by the other direction.
                return to_node.shutdown().await.or(Ok(()));
            }
        }
    };
    let answers = async {
        tokio::io::copy_buf(&mut from_node, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(asks, answers).map(drop)
}

/// What is needed to read the answer.
fn asked(id: ClusterId, request: &Request) -> Answer<Asked> {
    let uri = request.uri();
    let (_, path) = id_and_path(uri);
    let name = addresses::name_of(request.headers()).unwrap_or(SERVER_NAME);
    let asked = Asked::new(id, name, path, uri.query()).ok_or_else(no_path)?;
    Ok(match addresses::is_behind_own_proxy(request.headers()) {
        true => asked.behind_own_proxy(),
        false => asked,
    })
}

fn no_path() -> Refusal {
    Refusal::bad(
        FaultCode::PathInvalid,
        "request refused",
        "its path is not a valid path",
    )
}

/// The path after [`PREFIX`], verbatim.
fn id_and_path(uri: &Uri) -> (&str, &str) {
    let rest = uri.path().strip_prefix(PREFIX).unwrap_or_default();
    rest.split_at(rest.find('/').unwrap_or(rest.len()))
}

/// The cluster's id, and the path on its API server.
fn split_path(uri: &Uri) -> Answer<(ClusterId, Uri)> {
    let (id, path) = id_and_path(uri);
    let id = super::qbert::cluster_id(id)?;
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let path = if path.is_empty() { "/" } else { path };
    let target = format!("{path}{query}").parse().map_err(|_| no_path())?;
    Ok((id, target))
}

/// The identity for the API server: the person, with the group of their role there. The plane's own certificate may do
/// everything, so no request is forwarded without these.
fn impersonated(who: &Who, cluster: &Cluster) -> Answer<Vec<(Option<HeaderName>, HeaderValue)>> {
    let role = who.rights.in_clusters_of(&cluster.project);
    let role = role.ok_or_else(|| state::no_cluster(cluster.id))?;
    let name = who.name();
    let said = [
        (IMPERSONATE_USER, name.as_str()),
        (IMPERSONATE_UID, who.user.id.as_str()),
        (IMPERSONATE_GROUP, role.group()),
    ];
    let value = |(header, text): (HeaderName, &str)| {
        let value = HeaderValue::from_str(text);
        value.map(|value| (Some(header), value))
    };
    let headers: Result<Vec<_>, _> = said.into_iter().map(value).collect();
    headers.map_err(|e| Refusal::internal("a person has a name that no request can carry", &e))
}

/// Clients may not impersonate: the plane sets the identity, exactly one.
fn refuse_impersonation(headers: &HeaderMap) -> Answer<()> {
    let is_claim = |name: &HeaderName| name.as_str().starts_with(IMPERSONATE);
    if !headers.keys().any(is_claim) {
        return Ok(());
    }
    let why =
        "it impersonates another user (Impersonate-…, kubectl --as), which the plane allows nobody";
    Err(
        Refusal::forbidden(FaultCode::NotAllowed, "request refused", why)
            .fix("ask as yourself; rights of others: kubectl auth can-i, on a master as root"),
    )
}

/// A connection to the API server of the first connected master that answers.
pub(super) async fn connect(
    plane: &Arc<Plane>,
    cluster: &Cluster,
    who: &str,
    trace: &Trace,
) -> Answer<SendRequest<Body>> {
    let reached = reach(plane, cluster, (who, trace), None).await;
    reached.map(|(_, sender)| sender)
}

/// The same, with its host; skips `not`. A master that has just died is not known to be dead yet: while another one is
/// left it gets little time.
async fn reach(
    plane: &Arc<Plane>,
    cluster: &Cluster,
    (who, trace): (&str, &Trace),
    but: Option<HostId>,
) -> Answer<(HostId, SendRequest<Body>)> {
    let meta = Meta::from([("who".to_owned(), who.to_owned()), trace.entry()]);
    let tls = TlsConnector::from(
        plane
            .upstreams
            .of(cluster, pf9_hostagent::seam::clock::now())?,
    );
    let mut why = "none of its masters is connected".to_owned();
    let mut masters = plane.upstreams.in_order(cluster);
    masters.retain(|m| Some(m.host) != but && !plane.sessions.ways(m.host).is_empty());
    let mut left = masters.len();
    for member in masters {
        left -= 1;
        let wanted = (SERVICE, Class::Interactive, &meta);
        // No request is sent before the handshake is done: it may be repeated elsewhere.
        let begin = |stream| handshake(plane, &tls, stream, member.host);
        let reached = ways::reach(plane, member.host, wanted, begin);
        let reached = match left {
            0 => reached.await,
            _ => tokio::time::timeout(ways::IMPATIENT_DEADLINE, reached)
                .await
                .unwrap_or_else(|_| Some(Err("it did not answer in time".to_owned()))),
        };
        match reached {
            Some(Ok(sender)) => {
                plane.upstreams.answers(cluster.id, member.host);
                return Ok((member.host, sender));
            }
            Some(Err(e)) => why = format!("the API server of master {}: {e}", member.node_name),
            None => {}
        }
    }
    Err(away(cluster, why))
}

async fn handshake<S>(
    plane: &Arc<Plane>,
    tls: &TlsConnector,
    stream: S,
    host: HostId,
) -> Result<SendRequest<Body>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let name = ServerName::try_from(SERVER_NAME).map_err(|e| Failed::Host(e.to_string()))?;
    let connected = tls.connect(name, stream).await;
    speak(plane, connected.map_err(|e| Failed::of(&e))?, host).await
}

/// HTTP over a connection to something on a node.
pub(super) async fn speak<S>(
    plane: &Arc<Plane>,
    connected: S,
    host: HostId,
) -> Result<SendRequest<Body>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(connected))
        .await
        .map_err(|e| Failed::of(&e))?;
    let cut = plane.cut.clone();
    plane.tasks.spawn(async move {
        tokio::select! {
            done = connection.with_upgrades() => if let Err(e) = done {
                tracing::debug!(%host, why = chain(&e), "connection to a node's service ended");
            },
            () = cut.cancelled() => {}
        }
    });
    Ok(sender)
}

fn away(cluster: &Cluster, why: String) -> Refusal {
    let what = format!("cluster {} cannot be reached", cluster.name);
    Refusal::new(
        StatusCode::SERVICE_UNAVAILABLE,
        Fault::new(FaultCode::ClusterAway, what, why),
    )
}

fn broken(cluster: &Cluster, why: String) -> Refusal {
    let what = format!("request to cluster {} failed", cluster.name);
    Refusal::new(
        StatusCode::BAD_GATEWAY,
        Fault::new(FaultCode::ClusterBroken, what, why),
    )
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
        && headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
}

/// Removes hop-by-hop headers, and those that claim another identity.
fn clean_request(headers: &mut HeaderMap, upgrade: bool) {
    let protocol = headers.get(header::UPGRADE).cloned().filter(|_| upgrade);
    strip_hop_by_hop(headers);
    headers.remove(header::AUTHORIZATION);
    headers.remove("x-auth-token");
    without_token_protocols(headers);
    let claims: Vec<HeaderName> = headers
        .keys()
        .filter(|name| CLAIMS.iter().any(|claim| name.as_str().starts_with(claim)))
        .cloned()
        .collect();
    for name in claims {
        headers.remove(name);
    }
    if addresses::name_of(headers).is_none() {
        headers.insert(header::HOST, HeaderValue::from_static(SERVER_NAME));
    }
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    if let Some(protocol) = protocol {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}

/// The plane's token is not passed on to what is behind it.
fn without_token_protocols(headers: &mut HeaderMap) {
    let said = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let protocols = said.iter().filter_map(|v| v.to_str().ok());
    let kept: Vec<&str> = protocols
        .flat_map(|list| list.split(','))
        .map(str::trim_ascii)
        .filter(|protocol| !protocol.is_empty() && !protocol.starts_with(TOKEN_PROTOCOL))
        .collect();
    let kept = HeaderValue::from_str(&kept.join(", ")).ok();
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if let Some(kept) = kept.filter(|kept| !kept.is_empty()) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, kept);
    }
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_sees_its_own_paths() {
        let id = ClusterId::random();
        for (tail, seen) in [
            ("", "/"),
            ("/", "/"),
            (
                "/api/v1/pods?watch=true&x=%2F",
                "/api/v1/pods?watch=true&x=%2F",
            ),
            ("/apis/a%20b/", "/apis/a%20b/"),
        ] {
            let uri = format!("{PREFIX}{id}{tail}").parse().expect("uri");
            let (found, target) = split_path(&uri).expect("split");
            assert_eq!((found, target.to_string().as_str()), (id, seen));
        }
        let uri = "/k8s/clusters/nonsense/api".parse().expect("uri");
        assert!(split_path(&uri).is_err());
    }

    /// An API server that sent everything and closed, to a client that has not read it and keeps sending.
    #[tokio::test]
    async fn an_answer_is_complete_although_its_server_stopped_reading() {
        const ANSWER: usize = 1 << 20;
        let (mut client, far) = tokio::io::duplex(1024);
        let (closed, _) = tokio::io::duplex(1);
        let node = tokio::io::join(io::Cursor::new(vec![7; ANSWER]), closed);
        client.write_all(b"ping").await.expect("room");
        let both = joined(far, node);
        let mut got = Vec::new();
        let (ended, read) = tokio::join!(both, client.read_to_end(&mut got));
        ended.expect("no client is gone");
        read.expect("the end");
        assert_eq!(got.len(), ANSWER);
    }

    #[test]
    fn a_token_among_the_protocols_of_a_websocket_stays_here() {
        let left = |said: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in said {
                let value = HeaderValue::from_static(value);
                headers.append(header::SEC_WEBSOCKET_PROTOCOL, value);
            }
            clean_request(&mut headers, true);
            let all = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
            all.map(|v| v.to_str().expect("text").to_owned())
                .collect::<Vec<_>>()
        };
        let token = "base64url.bearer.authorization.k8s.io.c2VjcmV0, v5.channel.k8s.io";
        assert_eq!(left(&[token]), ["v5.channel.k8s.io"]);
        assert_eq!(left(&["a,b", token]), ["a, b, v5.channel.k8s.io"]);
        assert_eq!(left(&["v5.channel.k8s.io"]), ["v5.channel.k8s.io"]);
        assert_eq!(left(&["base64url.bearer.authorization.k8s.io.x"]), [""; 0]);
        assert_eq!(left(&[]), [""; 0]);
    }

    #[test]
    fn only_hop_by_hop_headers_are_removed() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("x-auth-token", "x"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("connection", "Upgrade, X-Mine"),
            ("upgrade", "SPDY/3.1"),
            ("x-mine", "1"),
            ("x-remote-user", "root"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-host", "elsewhere"),
            ("x-real-ip", "10.0.0.1"),
            ("forwarded", "host=elsewhere"),
            ("host", "plane.example:8443"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ("accept", "application/json"),
        ] {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        let mut upgraded = headers.clone();
        assert!(wants_upgrade(&headers));
        clean_request(&mut headers, false);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        let kept = [
            "accept",
            "host",
            "x-forwarded-proto",
            "x-stream-protocol-version",
        ];
        assert_eq!(left, kept);
        assert_eq!(headers[header::HOST], "plane.example:8443");
        assert_eq!(headers["x-forwarded-proto"], "https");
        headers.insert(header::HOST, HeaderValue::from_static("a@b"));
        clean_request(&mut headers, false);
        assert_eq!(
            headers[header::HOST],
            SERVER_NAME,
            "what is not a valid name"
        );
        clean_request(&mut upgraded, true);
        assert_eq!(upgraded[header::UPGRADE], "SPDY/3.1");
        assert_eq!(upgraded[header::CONNECTION], "Upgrade");
    }
}
