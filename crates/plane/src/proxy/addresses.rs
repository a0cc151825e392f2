//! Rewrites addresses of the API server in its answers to how the client reaches it.
//!
//! ```text
//! client asks   /k8s/clusters/ID/api/v1/…/proxy        plane asks   /api/v1/…/proxy
//! client reads  Location: proxy/                   ◄── answer says  Location: /api/v1/…/proxy/
//! ```
//! An address is parsed the way browsers parse it, so that what is checked is what is followed: dot segments,
//! backslashes and missing slashes are resolved first. It is the API server's if its host is the name the API server
//! was called by; any other address is left as it is. If the client's path and the API server's agree, the result is
//! relative to the request, so that it also works behind another proxy with a path of its own; otherwise it is the full
//! path. Neither can leave the cluster's path.
//!
//! Browsers cannot send the bearer token, so dashboards are opened through `kubectl proxy --append-server-path` on the
//! person's own machine: its root is the cluster's path, and there full paths and cookies are the API server's own. It
//! is recognised by the loopback address it was called from ([`is_behind_own_proxy`]). Links within a page work there
//! as the API server writes them: pages are passed through unchanged, for everybody, because Kubernetes' conformance
//! tests compare them byte for byte.
//!
//! The plane and all clusters share one origin: cookies are limited to the path of their cluster, and headers that
//! affect a whole origin are removed ([`OF_THE_ORIGIN`]). Scripts in a page are not filtered: a browser without the
//! bearer token gets no page from here.

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use reqwest::Url;

use super::{PREFIX, SERVER_NAME};
use pf9_hostagent::model::ClusterId;

/// Longest address that is parsed: as long as servers accept.
const ADDRESS_MAX: usize = 8 * 1024;
/// Most addresses of one `Link`: each grows by the cluster's path.
const LINKS_MAX: usize = 64;
/// Longest name a client may call the plane by: a DNS name and a port.
const NAME_MAX: usize = 260;

/// Response headers that affect the whole origin, or a proxy before the plane: not for a cluster to set.
const OF_THE_ORIGIN: [&str; 13] = [
    "alt-svc",
    "clear-site-data",
    "expect-ct",
    "nel",
    "public-key-pins",
    "public-key-pins-report-only",
    "report-to",
    "reporting-endpoints",
    "service-worker-allowed",
    "set-cookie2",
    "strict-transport-security",
    "x-accel-redirect",
    "x-sendfile",
];
/// Headers that are one address.
const ADDRESSES: [HeaderName; 2] = [header::LOCATION, header::CONTENT_LOCATION];
/// Attributes of a cookie that do not affect where it is sent.
const COOKIE_ATTRIBUTES: [&str; 7] = [
    "expires",
    "httponly",
    "max-age",
    "partitioned",
    "priority",
    "samesite",
    "secure",
];

/// Where one request went: needed to read its answer.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// The cluster's path on the plane, without a trailing slash.
    prefix: String,
    /// The same as the client sees it.
    root: String,
    /// The URL on the API server, with the name it was called by.
    url: Url,
    /// The client's path below the prefix is that of `url`, and everybody resolves it alike.
    same: bool,
    /// The client's path continues below the prefix.
    below: bool,
}

/// The request came through a proxy on the client's own machine, which put the cluster's path before the requested one.
/// A client that claims it wrongly gets addresses that lead nowhere.
pub(super) fn is_behind_own_proxy(headers: &HeaderMap) -> bool {
    let said = headers.get("x-forwarded-for").and_then(text);
    // The first entry is the original client; proxies append themselves.
    let first = said.and_then(|list| list.split(',').next());
    let address = first.and_then(|ip| ip.trim_ascii().parse::<IpAddr>().ok());
    address.is_some_and(|ip| ip.is_loopback())
}

/// The name the client uses for the plane, if it is valid.
pub(super) fn name_of(headers: &HeaderMap) -> Option<&str> {
    let name = headers.get(header::HOST)?.to_str().ok()?;
    let authority: Authority = name.parse().ok()?;
    (name.len() <= NAME_MAX && !name.contains('@') && !authority.host().is_empty()).then_some(name)
}

// === impl Asked ===

impl Asked {
    /// A request for `path` (and query) below the path of a cluster, whose API server was called by `name`. `None`: not
    /// a valid path.
    pub(super) fn new(
        cluster: ClusterId,
        name: &str,
        path: &str,
        query: Option<&str>,
    ) -> Option<Self> {
        let mut url = Url::parse(&format!("https://{name}/")).ok()?;
        // Set, not parsed: a path that begins with two slashes must not become a host.
        url.set_path(path);
        url.set_query(query);
        Some(Self {
            prefix: format!("{PREFIX}{cluster}"),
            root: format!("{PREFIX}{cluster}"),
            same: url.path() == path && !path.contains("//"),
            below: path.starts_with('/'),
            url,
        })
    }

    /// The client's root is the cluster's path: see [`is_behind_own_proxy`].
    pub(super) fn behind_own_proxy(self) -> Self {
        Self {
            root: String::new(),
            ..self
        }
    }

    /// Rewrites every address of the API server in the head of an answer. Unreadable ones are removed.
    pub(super) fn turn(&self, headers: &mut HeaderMap) {
        for name in OF_THE_ORIGIN {
            headers.remove(name);
        }
        for name in ADDRESSES {
            // With more than one, readers disagree: the first counts.
            let said = headers.remove(&name);
            put(headers, name, said.and_then(|v| self.address(text(&v)?)));
        }
        let refresh = headers.remove(header::REFRESH);
        let refresh = refresh.and_then(|v| self.refresh(text(&v)?));
        put(headers, header::REFRESH, refresh);
        each(headers, header::LINK, |said| self.links(said));
        each(headers, header::SET_COOKIE, |said| self.cookie(said));
    }

    /// An address for the client to follow. One of another host is returned as it was parsed.
    pub(super) fn address(&self, said: &str) -> Option<String> {
        if said.len() > ADDRESS_MAX {
            return None;
        }
        let to = self.url.join(said).ok()?;
        let path = match self.whose(&to) {
            Whose::Elsewhere => return Some(to.into()),
            Whose::ApiServer => to.path(),
            // An API server that knows its client's address may use it.
            Whose::Plane => match to.path().strip_prefix(&self.prefix) {
                Some("") => "/",
                Some(path) if path.starts_with('/') => path,
                Some(_) | None => to.path(),
            },
        };
        let mut shown = if self.same && !path.contains("//") {
            relative(self.url.path(), path)
        } else {
            format!("{}{path}", self.root)
        };
        for (mark, part) in [('?', to.query()), ('#', to.fragment())] {
            if let Some(part) = part {
                shown.push(mark);
                shown.push_str(part);
            }
        }
        Some(shown)
    }

    fn whose(&self, to: &Url) -> Whose {
        let host = |url: &Url| url.host_str().map(|h| h.trim_end_matches('.').to_owned());
        let Some(named) = host(to) else {
            return Whose::Elsewhere;
        };
        // With any scheme: what is behind the API server does not know that the client uses TLS.
        let port = to.port() == self.url.port()
            || to.port_or_known_default() == self.url.port_or_known_default();
        if host(&self.url).as_deref() == Some(named.as_str()) && port {
            Whose::Plane
        } else if named == SERVER_NAME {
            Whose::ApiServer
        } else {
            Whose::Elsewhere
        }
    }

    /// `5; url=…`
    fn refresh(&self, said: &str) -> Option<String> {
        let said = said.trim_ascii();
        let digits = |c: char| c.is_ascii_digit() || c == '.';
        let (time, rest) = said.split_at(said.find(|c| !digits(c)).unwrap_or(said.len()));
        let rest = rest.trim_ascii_start();
        if time.is_empty() {
            return None;
        }
        if rest.is_empty() {
            return Some(time.to_owned());
        }
        let rest = rest
            .strip_prefix([';', ','])
            .unwrap_or(rest)
            .trim_ascii_start();
        let named = rest.get(..3).filter(|w| w.eq_ignore_ascii_case("url"));
        let value = named.and_then(|_| rest[3..].trim_ascii_start().strip_prefix('='));
        let address = value.unwrap_or(rest).trim_ascii_start();
        let address = match address.chars().next() {
            Some(quote @ ('"' | '\'')) => address[1..].split(quote).next().unwrap_or_default(),
            Some(_) | None => address,
        };
        Some(format!("{time}; url={}", self.address(address)?))
    }

    /// `<…>; rel=next; anchor="…", <…>`
    fn links(&self, said: &str) -> Option<String> {
        let mut turned = Vec::new();
        for entry in outside(said, ',', '<').map(str::trim_ascii) {
            if entry.is_empty() {
                continue;
            }
            let (address, params) = entry.strip_prefix('<')?.split_once('>')?;
            let mut link = format!("<{}>", self.address(address)?);
            for param in outside(params, ';', '"').map(str::trim_ascii) {
                let (name, value) = param.split_once('=').unwrap_or((param, ""));
                if name.trim_ascii().eq_ignore_ascii_case("anchor") {
                    let value = value.trim_ascii().trim_matches('"');
                    link.push_str(&format!("; anchor=\"{}\"", self.address(value)?));
                } else if !param.is_empty() {
                    link.push_str(&format!("; {param}"));
                }
            }
            turned.push(link);
        }
        (1..=LINKS_MAX)
            .contains(&turned.len())
            .then(|| turned.join(", "))
    }

    /// Limits a cookie to this cluster's path and the plane's host. Only attributes known not to affect path or domain
    /// are kept.
    fn cookie(&self, said: &str) -> Option<String> {
        let mut parts = said.split(';').map(str::trim_ascii);
        let pair = parts.next()?;
        // A cookie without a name could be mistaken for any other when it is sent back.
        if pair
            .split_once('=')
            .is_none_or(|(name, _)| name.trim_ascii().is_empty())
        {
            return None;
        }
        let mut cookie = pair.to_owned();
        let mut path = None;
        for attribute in parts {
            let name = attribute.split('=').next().unwrap_or_default().trim_ascii();
            let is = |known: &&str| name.eq_ignore_ascii_case(known);
            if COOKIE_ATTRIBUTES.iter().any(&is) {
                cookie.push_str("; ");
                cookie.push_str(attribute);
            } else if is(&"path") {
                let value = attribute
                    .split_once('=')
                    .map_or("", |(_, v)| v.trim_ascii());
                // The last one counts, and an invalid one is ignored.
                path = value.starts_with('/').then_some(value);
            }
        }
        match path {
            Some(path) if is_plain(path) => {
                cookie.push_str(&format!("; Path={}{path}", self.root));
            }
            Some(_) => return None,
            // The client's default: the directory of the requested path.
            None if self.below => {}
            None => cookie.push_str(&format!("; Path={}/", self.root)),
        }
        Some(cookie)
    }
}

/// What an address leads to.
enum Whose {
    /// The API server, by the client's name for the plane.
    Plane,
    /// The API server, by the name in its certificate.
    ApiServer,
    Elsewhere,
}

/// Every parser reads the same path in it.
fn is_plain(path: &str) -> bool {
    let dots = |segment: &str| {
        let segment = segment.to_ascii_lowercase().replace("%2e", ".");
        segment == "." || segment == ".."
    };
    path.bytes()
        .all(|b| b.is_ascii_graphic() && !b"\\?#,\"".contains(&b))
        && !path.split('/').any(dots)
}

/// `to` relative to `from`; both are full paths without dot segments or empty ones.
fn relative(from: &str, to: &str) -> String {
    let from: Vec<&str> = from.split('/').collect();
    let to: Vec<&str> = to.split('/').collect();
    // The last segment of each is a file, not a directory.
    let dirs = &from[..from.len() - 1];
    let both = dirs.iter().zip(&to[..to.len() - 1]);
    let common = both.take_while(|(a, b)| a == b).count();
    let up = "../".repeat(dirs.len() - common);
    let rest = to[common..].join("/");
    // A result that could be read as a scheme, a quote or nothing begins with its directory.
    let plain = rest.starts_with(|c: char| c.is_ascii_alphanumeric()) && !rest.contains(':');
    let dot = if up.is_empty() && !plain { "./" } else { "" };
    format!("{dot}{up}{rest}")
}

/// Splits a list; a separator inside `<…>` (where `open` says so) or `"…"` does not count.
fn outside(list: &str, separator: char, open: char) -> impl Iterator<Item = &str> {
    let (mut angle, mut quoted, mut escaped) = (false, false, false);
    list.split(move |c: char| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' if !angle => quoted = !quoted,
            '<' if !quoted && open == '<' => angle = true,
            '>' if !quoted => angle = false,
            _ => {}
        }
        c == separator && !angle && !quoted
    })
}

fn text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: Option<String>) {
    if let Some(value) = value.and_then(|v| HeaderValue::try_from(v).ok()) {
        headers.append(name, value);
    }
}

/// Rewrites every value of a header that may occur more than once.
fn each(headers: &mut HeaderMap, name: HeaderName, turn: impl Fn(&str) -> Option<String>) {
    let said: Vec<HeaderValue> = headers.get_all(&name).iter().cloned().collect();
    headers.remove(&name);
    for value in said {
        put(headers, name.clone(), text(&value).and_then(&turn));
    }
}
