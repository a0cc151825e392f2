use proptest::prelude::*;

use super::*;

/// The name that the client of these tests uses for the plane.
const PLANE: &str = "plane.example:8443";

fn cluster() -> ClusterId {
    "5f0c3b1e-5d6f-4a6e-9a40-3b2f1d0e9c87".parse().expect("id")
}

fn prefix() -> String {
    format!("{PREFIX}{}", cluster())
}

fn asked(path: &str) -> Asked {
    Asked::new(cluster(), PLANE, path, None).expect("a path")
}

#[test]
fn behind_kubectl_proxy_the_clusters_path_is_the_root() {
    let from = |said: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static(said));
        is_behind_own_proxy(&headers)
    };
    assert!(from("127.0.0.1") && from("::1, 10.0.0.1"));
    assert!(!from("10.0.0.1, 127.0.0.1") && !from("localhost") && !from(""));
    assert!(!is_behind_own_proxy(&HeaderMap::new()));
    let asked = |path| asked(path).behind_own_proxy();
    assert_eq!(asked("/a/b").address("/a/c").as_deref(), Some("c"));
    assert_eq!(asked("").address("/a/c").as_deref(), Some("/a/c"));
    let cookie = asked("/a/b").cookie("s=1; Path=/; Domain=x");
    assert_eq!(cookie.as_deref(), Some("s=1; Path=/"));
}

/// Where a client arrives that requested `path` below the cluster and follows `said`: by a browser's rules.
fn followed(path: &str, said: &str) -> Url {
    let base = format!("https://{PLANE}{}{path}", prefix());
    Url::parse(&base)
        .expect("base")
        .join(said)
        .expect("address")
}

/// The same by RFC 3986, section 5.2, if the client stays on the plane: the path there.
fn followed_by_the_book(path: &str, said: &str) -> Option<String> {
    let said = said.split(['?', '#']).next().unwrap_or_default();
    let first = said.split('/').next().unwrap_or_default();
    let said = match first.split_once(':') {
        Some((scheme, _)) if scheme == "https" || scheme == "http" => &said[scheme.len() + 1..],
        Some(_) => return None,
        None => said,
    };
    let path = match said.strip_prefix("//") {
        Some(rest) => {
            let (host, _) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            if host != PLANE {
                return None;
            }
            rest[host.len()..].to_owned()
        }
        None if said.starts_with('/') => said.to_owned(),
        None => {
            let base = format!("{}{path}", prefix());
            let dir = &base[..=base.rfind('/').expect("slash")];
            format!("{dir}{said}")
        }
    };
    let mut out: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(out.pop()),
            segment => out.push(segment),
        }
    }
    Some(format!("/{}", out.join("/")))
}

fn is_inside(path: &str) -> bool {
    path.strip_prefix(&prefix())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[test]
fn addresses_of_the_api_server_lead_back_to_it() {
    let pod = "/api/v1/namespaces/n/pods/p/proxy";
    for (path, said, shown) in [
        // The API server's redirect for a proxy path without a trailing slash.
        (pod, "/api/v1/namespaces/n/pods/p/proxy/", "proxy/"),
        (pod, "/api/v1/namespaces/n/pods/p/proxy/?a=b", "proxy/?a=b"),
        (
            "/api/v1/a/proxy/x/y",
            "/api/v1/a/proxy/login#top",
            "../login#top",
        ),
        // Its rewrite of an absolute address of what is behind it.
        (
            "/api/v1/a/proxy/",
            "http://plane.example:8443/api/v1/a/proxy/x",
            "x",
        ),
        (
            "/api/v1/a/proxy/",
            "https://kubernetes/api/v1/a/proxy/x",
            "x",
        ),
        ("/a/b", "//kubernetes:6443/c:d", "../c:d"),
        ("/a/b", "c:d/e", "c:d/e"),
        ("/a/b", "./c:d", "./c:d"),
        ("/a/b", "", "b"),
        ("/a/b", ".", "./"),
        // An API server that knows its client's address.
        ("/a/b", &format!("https://{PLANE}{}/a/c", prefix()), "c"),
        ("/a/b", &format!("https://{PLANE}{}", prefix()), "../"),
        // The name is only a prefix.
        (
            "/a/b",
            &format!("https://{PLANE}{}x/c", prefix()),
            &format!("..{}x/c", prefix()),
        ),
        // The operator API's own.
        (
            "/a/b",
            "https://PLANE.example.:8443/keystone/v3",
            "../keystone/v3",
        ),
        (
            "/a/b",
            "https://u:p@plane.example:8443/keystone/v3",
            "../keystone/v3",
        ),
        ("/a/b", "/../../../keystone/v3", "../keystone/v3"),
        ("/a/b", "\\\\plane.example:8443\\keystone", "../keystone"),
        ("/a/b", "..\\..\\%2e%2e/keystone", "../keystone"),
        // Elsewhere.
        (
            "/a/b",
            "https://other.example/x?y=z",
            "https://other.example/x?y=z",
        ),
        ("/a/b", "//other.example/x", "https://other.example/x"),
        (
            "/a/b",
            "https://plane.example:9/x",
            "https://plane.example:9/x",
        ),
        ("/a/b", "mailto:a@b", "mailto:a@b"),
    ] {
        assert_eq!(
            asked(path).address(said).as_deref(),
            Some(shown),
            "{path} {said}"
        );
    }
    // Where parsers disagree about the client's path, the full path is used.
    let whole = format!("{}/c", prefix());
    for path in ["", "/a//b", "/a/../b", "/a/%2e%2E/b"] {
        assert_eq!(
            asked(path).address("/c").as_deref(),
            Some(whole.as_str()),
            "{path}"
        );
    }
    let slashes = format!("{}/a//c", prefix());
    assert_eq!(
        asked("/a/b").address("/a//c").as_deref(),
        Some(slashes.as_str())
    );
    assert_eq!(asked("/a").address("http://["), None);
    assert_eq!(asked("/a").address(&"x".repeat(ADDRESS_MAX + 1)), None);
}

#[test]
fn cookies_keep_to_their_cluster() {
    let p = prefix();
    for (path, said, kept) in [
        (
            "/a/b",
            "s=1; Path=/; HttpOnly; Secure",
            format!("s=1; HttpOnly; Secure; Path={p}/"),
        ),
        ("/a/b", "s=1;path=/a;PATH=/c", format!("s=1; Path={p}/c")),
        (
            "/a/b",
            "s=1; Domain=plane.example; SameSite=Lax",
            "s=1; SameSite=Lax".into(),
        ),
        ("/a/b", "s=1; Path=nonsense", "s=1".into()),
        ("/a/b", "s=1; Path=/x; Path", "s=1".into()),
        ("/a/b", "s=1; Whatever=/", "s=1".into()),
        // Its directory would be that of all clusters.
        ("", "s=1", format!("s=1; Path={p}/")),
    ] {
        assert_eq!(asked(path).cookie(said), Some(kept), "{path} {said}");
    }
    for said in [
        "",
        "s",
        "=1",
        "s=1; Path=/../x",
        "s=1; Path=/%2E./x",
        "s=1; Path=/a\\b",
    ] {
        assert_eq!(asked("/a/b").cookie(said), None, "{said}");
    }
}

#[test]
fn all_headers_of_an_answer_are_rewritten() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("location", "/a/c"),
        ("location", "https://other.example/"),
        ("content-location", "/a/d"),
        ("refresh", "5; URL='/a/e'"),
        (
            "link",
            "</a/f>; rel=\"next, or <not>\", <g>; anchor=\"/a/h\"; rel=x",
        ),
        ("link", "</a/f; rel=broken"),
        ("set-cookie", "a=1; Path=/"),
        ("set-cookie", "b=2; Path=/x"),
        ("service-worker-allowed", "/"),
        ("clear-site-data", "\"*\""),
        ("x-accel-redirect", "/secret"),
        ("content-type", "text/plain"),
    ] {
        headers.append(name, value.parse().expect("value"));
    }
    asked("/a/b").turn(&mut headers);
    let said = |name: &str| -> Vec<String> {
        let all = headers.get_all(name).iter();
        all.map(|v| v.to_str().expect("text").to_owned()).collect()
    };
    assert_eq!(said("location"), ["c"]);
    assert_eq!(said("content-location"), ["d"]);
    assert_eq!(said("refresh"), ["5; url=e"]);
    let links = "<f>; rel=\"next, or <not>\", <g>; anchor=\"h\"; rel=x";
    assert_eq!(said("link"), [links]);
    let p = prefix();
    let cookies = [format!("a=1; Path={p}/"), format!("b=2; Path={p}/x")];
    assert_eq!(said("set-cookie"), cookies);
    assert_eq!(said("content-type"), ["text/plain"]);
    assert_eq!(headers.len(), 7, "{headers:?}");
}

#[test]
fn a_list_of_links_is_bounded() {
    let links = |count| asked("/a/b").links(&"</a/f>,".repeat(count));
    assert!(links(LINKS_MAX).is_some());
    assert_eq!(links(LINKS_MAX + 1), None);
}

#[test]
fn a_refresh_is_read_as_browsers_do() {
    let asked = asked("/a/b");
    for (said, shown) in [
        ("5", Some("5")),
        ("0;/a/c", Some("0; url=c")),
        ("1.5 , url = \"/a/c\" x", Some("1.5; url=c")),
        (
            "0; url=https://other.example/",
            Some("0; url=https://other.example/"),
        ),
        ("url=/a/c", None),
        ("", None),
    ] {
        assert_eq!(asked.refresh(said).as_deref(), shown, "{said}");
    }
}

#[test]
fn a_name_is_a_host_and_a_port() {
    let name = |said: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, said.parse().expect("value"));
        name_of(&headers).map(str::to_owned)
    };
    for good in ["plane.example", "10.0.0.1:8443", "[fd00::1]:443"] {
        assert_eq!(name(good).as_deref(), Some(good));
    }
    let long = "a".repeat(NAME_MAX + 1);
    for bad in ["", "a@b", "a/b", ":1", long.as_str()] {
        assert_eq!(name(bad), None, "{bad}");
    }
}

/// A request's path, as clients send them.
fn path() -> impl Strategy<Value = String> {
    "(/[a-z0-9:.%~'!*(),;=@-]{0,6}){0,6}/?"
}

fn is_a_drive(segment: &str) -> bool {
    let mut chars = segment.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic()) && matches!(chars.next(), Some(':' | '|'))
}

proptest! {
    /// What the client follows leads back to the address that the API server named.
    #[test]
    fn what_is_followed_leads_back(
        path in path(),
        to in "/?([a-z0-9:.'|~-]{0,5}/){0,5}[a-z0-9:.'-]{0,5}(\\?[a-z=&/]{0,6})?(#[a-z]{0,4})?",
        host in prop_oneof![
            Just(""), Just("//kubernetes/"), Just("https://kubernetes:6443/"),
            Just("http://plane.example:8443/"), Just("//plane.example:8443/"),
        ],
    ) {
        let asked = asked(&path);
        let said = format!("{host}{to}");
        // `a:` is a drive to the parser (url 2.5), in addresses of every scheme: `..` does not leave it.
        prop_assume!(!format!("{path}{to}").split('/').any(is_a_drive));
        if let Ok(meant) = asked.url.join(&said) {
            prop_assume!(!matches!(asked.whose(&meant), Whose::Elsewhere));
            let shown = asked.address(&said).expect("read");
            let end = followed(&path, &shown);
            prop_assert_eq!(end.host_str(), Some("plane.example"));
            let back = format!("{}{}", prefix(), meant.path());
            prop_assert_eq!(end.path(), back.as_str(), "{} {}", said, shown);
            prop_assert_eq!((end.query(), end.fragment()), (meant.query(), meant.fragment()));
        }
    }

    /// For any answer: nobody is led out of the cluster's path to another path of the plane.
    #[test]
    fn nothing_leads_to_another_path_of_the_plane(
        path in path(),
        said in prop_oneof![
            "[a-z0-9:/.%\\\\?#@ \t-]{0,40}",
            "(https?:)?[/\\\\]{0,3}(plane\\.example:8443|PLANE.example.:8443|kubernetes)?([/\\\\](\\.|%2e|%2E|[a-z]){0,3}){0,6}",
            "\\PC{0,40}",
        ],
    ) {
        if let Some(shown) = asked(&path).address(&said) {
            let end = followed(&path, &shown);
            let here = end.host_str() == Some("plane.example") && end.port() == Some(8443);
            prop_assert!(!here || is_inside(end.path()), "{:?} {:?}", said, shown);
            if let Some(end) = followed_by_the_book(&path, &shown) {
                prop_assert!(is_inside(&end), "{:?} {:?} {:?}", said, shown, end);
            }
        }
    }

    /// For any cookie: it is sent only below the cluster's path, and only to the plane's host.
    #[test]
    fn no_cookie_leaves_its_cluster(
        path in path(),
        said in "[a-z]{0,3}=?[a-z]{0,3}(; ?(Path|path|PATH |Domain|Secure|x)=?[/a-z.%\"2e-]{0,8}){0,4}",
    ) {
        if let Some(cookie) = asked(&path).cookie(&said) {
            let attributes: Vec<String> = cookie.split(';').skip(1)
                .map(|a| a.trim().to_owned()).collect();
            let lower = |a: &String| a.to_ascii_lowercase();
            prop_assert!(!attributes.iter().any(|a| lower(a).starts_with("domain")));
            let paths: Vec<&String> = attributes.iter()
                .filter(|a| lower(a).starts_with("path")).collect();
            // Without a path it is the directory of the requested path.
            prop_assert!(paths.len() <= 1 && (paths.len() == 1 || path.starts_with('/')));
            for path in paths {
                let value = path.strip_prefix("Path=").expect("said once, so");
                prop_assert!(value.starts_with(&format!("{}/", prefix())), "{}", cookie);
                let end = followed("", value);
                prop_assert_eq!(end.path(), value);
            }
        }
    }

    /// No header can crash the plane, and growth is bounded.
    #[test]
    fn any_link_and_refresh_is_read(said in "[<>\",;=a-z /\\\\]{0,60}") {
        let asked = asked("/a/b");
        if let Some(links) = asked.links(&said) {
            let most = said.len() + (LINKS_MAX + 1) * (prefix().len() + 40);
            prop_assert!(links.len() <= most);
        }
        drop(asked.refresh(&said));
    }
}
