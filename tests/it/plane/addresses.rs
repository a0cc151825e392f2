//! Addresses of a cluster's API server, followed through the plane by a real client: redirects, cookies, links. The API
//! server answers as the real one does for its proxies of pods and services.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use pf9_hostagent::model::CertPurpose;

use super::bed::{Bed, within};
use super::kube::{master_with, world};

const POD: &str = "/api/v1/namespaces/n/pods/http:p:80/proxy";

/// As the conformance test "should proxy through a service and a pod" expects it, byte for byte.
const PAGE: &str = r#"<a href="/api/v1/namespaces/n/pods/http:p:80/proxy/next">test</a>"#;

/// kube-apiserver's answer for the proxy of a pod, and its rewrite of the pod's own addresses: `PathPrepend` before
/// every path on the host it was called by, its own host unchanged.
fn answer(request: &Request<Incoming>) -> std::io::Result<Response<Full<Bytes>>> {
    let (path, host) = (
        request.uri().path().to_owned(),
        request.headers()["host"].to_str().expect("host").to_owned(),
    );
    let query = request
        .uri()
        .query()
        .map(|q| format!("?{q}"))
        .unwrap_or_default();
    let made = Response::builder();
    let safe = [Method::GET, Method::HEAD].contains(request.method());
    let say = |text: String| Full::new(Bytes::from(text));
    let tail = path.strip_prefix(POD).unwrap_or("none");
    let made = match tail {
        "" if safe => made
            .status(StatusCode::MOVED_PERMANENTLY)
            .header("location", format!("{path}/{query}")),
        "/moved" => made
            .status(StatusCode::FOUND)
            .header("location", format!("http://{host}{POD}/landed?x=%2F")),
        "/relative" => made
            .status(StatusCode::SEE_OTHER)
            .header("location", "../proxy/landed"),
        "/elsewhere" => made
            .status(StatusCode::FOUND)
            .header("location", "https://other.example/x"),
        "/hostile" => made
            .status(StatusCode::FOUND)
            .header(
                "location",
                format!("https://{host}/../../../keystone/v3/auth/tokens"),
            )
            .header("set-cookie", format!("a=1; Path=/; Domain={host}"))
            .header("set-cookie", "b=1; Path=/k8s/clusters/../..")
            .header("service-worker-allowed", "/")
            .header("proxy-authenticate", "Basic")
            .header("keep-alive", "timeout=1000"),
        "/switch" => made.status(StatusCode::SWITCHING_PROTOCOLS),
        "/cookie" => made
            .status(StatusCode::OK)
            .header("set-cookie", "session=1; Path=/; HttpOnly")
            .header("link", format!("<{POD}/next>; rel=next"))
            .header("content-location", format!("{POD}/this"))
            .header("refresh", format!("1; url={POD}/later")),
        "/page" => made.header("content-type", "text/html; charset=utf-8"),
        "/large" => made.header("x-large", "x".repeat(100_000)),
        _ => made.status(StatusCode::OK),
    };
    let body = match tail {
        // The pod wrote `/next`: links in a page are rewritten by the API server itself.
        "/page" => PAGE.to_owned(),
        _ => format!("{} {path}{query}|{host}", request.method()),
    };
    Ok(made.body(say(body)).expect("response"))
}

#[tokio::test]
async fn what_an_answer_leads_to_is_reached_through_the_plane() {
    let bed = Bed::new().await;
    let (cluster, mut node, server, token) = world(&bed).await;
    let _api = master_with(cluster, &mut node, CertPurpose::ApiServer, answer).await;
    let host = bed.url.trim_start_matches("https://").to_owned();
    let ask = async |method: Method, path: &str| {
        let url = format!("{server}{path}");
        let asked = bed.http.request(method, url).bearer_auth(&token).send();
        within(asked).await.expect("answer")
    };
    // Every method, with and without the slash: only GET and HEAD are redirected.
    for method in ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"] {
        let method: Method = method.parse().expect("method");
        let safe = method == Method::GET || method == Method::HEAD;
        for slash in ["", "/"] {
            let answer = ask(method.clone(), &format!("{POD}{slash}?q=1")).await;
            assert_eq!(answer.status(), StatusCode::OK, "{method}");
            let seen = if safe { "/" } else { slash };
            if method != Method::HEAD {
                let text = answer.text().await.expect("text");
                assert_eq!(text, format!("{method} {POD}{seen}?q=1|{host}"));
            }
        }
    }
    for (path, landed) in [("/moved", "landed?x=%2F"), ("/relative", "landed")] {
        let answer = ask(Method::GET, &format!("{POD}{path}")).await;
        let text = answer.text().await.expect("text");
        assert_eq!(text, format!("GET {POD}/{landed}|{host}"));
    }
    let answer = ask(Method::GET, &format!("{POD}/cookie")).await;
    let said = |name: &str| answer.headers()[name].to_str().expect("text").to_owned();
    let below = |said: &str| answer.url().join(said).expect("address").to_string();
    let cookie = format!("session=1; HttpOnly; Path=/k8s/clusters/{cluster}/");
    assert_eq!(said("set-cookie"), cookie);
    assert_eq!(
        below(&said("content-location")),
        format!("{server}{POD}/this")
    );
    assert_eq!(said("link"), "<next>; rel=next");
    assert_eq!(said("refresh"), "1; url=later");
}

/// A page is not rewritten: Kubernetes' own tests compare it with the API server's output, and a browser reaches it
/// only through `kubectl proxy`, for which its links are right.
#[tokio::test]
async fn a_page_is_unchanged_and_works_through_kubectl_proxy() {
    let bed = Bed::new().await;
    let (cluster, mut node, server, token) = world(&bed).await;
    let _api = master_with(cluster, &mut node, CertPurpose::ApiServer, answer).await;
    let ask = async |path: &str, from: Option<&str>| {
        let asked = bed.http.get(format!("{server}{path}")).bearer_auth(&token);
        let asked = asked.header("accept", "text/html,*/*;q=0.8");
        let asked = match from {
            Some(from) => asked.header("x-forwarded-for", from),
            None => asked,
        };
        let answer = within(asked.send()).await.expect("answer");
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.text().await.expect("text")
    };
    // Its cookies are for the root that it shows.
    let asked = bed.http.get(format!("{server}{POD}/cookie"));
    let asked = asked.bearer_auth(&token).header("x-forwarded-for", "::1");
    let answer = within(asked.send()).await.expect("answer");
    let cookie = answer.headers()["set-cookie"].to_str().expect("text");
    assert_eq!(cookie, "session=1; HttpOnly; Path=/");
    let page = format!("{POD}/page");
    assert_eq!(ask(&page, None).await, PAGE);
    // What `kubectl proxy` requests for a browser, whose root is the cluster's path.
    let shown = ask(&page, Some("127.0.0.1")).await;
    let link = shown.split('"').nth(1).expect("a link");
    let landed = ask(link, Some("127.0.0.1")).await;
    assert!(landed.starts_with(&format!("GET {POD}/next|")), "{landed}");
}

#[tokio::test]
async fn an_answer_cannot_lead_to_another_part_of_the_plane() {
    let bed = Bed::new().await;
    let (cluster, mut node, server, token) = world(&bed).await;
    let _api = master_with(cluster, &mut node, CertPurpose::ApiServer, answer).await;
    let pem = std::fs::read(bed.file("ca.pem")).expect("ca.pem");
    let ca = reqwest::Certificate::from_pem(&pem).expect("certificate");
    let still = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([ca])
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("client");
    let ask = async |path: &str| {
        let asked = still
            .get(format!("{server}{POD}{path}"))
            .bearer_auth(&token);
        within(asked.send()).await.expect("answer")
    };
    let answer = ask("/hostile").await;
    let location = answer.headers()["location"].to_str().expect("text");
    let followed = answer.url().join(location).expect("address");
    assert_eq!(
        followed.as_str(),
        format!("{server}/keystone/v3/auth/tokens")
    );
    let cookies: Vec<_> = answer.headers().get_all("set-cookie").iter().collect();
    assert_eq!(cookies, [&format!("a=1; Path=/k8s/clusters/{cluster}/")]);
    for name in ["service-worker-allowed", "proxy-authenticate", "keep-alive"] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
    // A protocol switch that nobody requested.
    assert_eq!(ask("/switch").await.status(), StatusCode::BAD_GATEWAY);
    let answer = ask("/elsewhere").await;
    assert_eq!(answer.headers()["location"], "https://other.example/x");
    // A head that never ends is not a valid answer.
    assert_eq!(ask("/large").await.status(), StatusCode::BAD_GATEWAY);
}
