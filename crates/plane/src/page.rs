//! The web page: files that are part of this program, and a stream that says when to reload.
//!
//! | file of `page/` | what |
//! |---|---|
//! | `main.js`                     | which view is shown, and when it is drawn again |
//! | `api.js`                      | the plane's API, as everybody else calls it; the stream of changes |
//! | `dom.js`                      | elements, tables, states, moments: text is never markup |
//! | `sign-in.js`, `hosts.js`, `clusters.js`, `wizard.js`, `alerts.js`, `audit.js`, `terminal.js`, `plane.js` | the views |
//! | `networks.js`                 | whether two networks have an address in common |
//! | `style.css`, `index.html`     | how it looks, and the frame |
//!
//! The page has no API of its own but that stream: what it can do, tools can. It carries the token in a header that no
//! other site can make a browser send, so there is no cookie and nothing to forge. It loads nothing from elsewhere and runs
//! no script that is not in these files ([`POLICY`]). Rejected: a framework, whose build would be part of every release, and
//! markup made on the server, which would be a second reader of every row.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::guard::Person;
use super::http::Path;
use super::refusal::{Answer, Refusal};
use super::state::Plane;
use pf9_hostagent::model::{Digest, Fault, FaultCode};

/// Nothing but this plane's own files, and no framing.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";
/// Most listeners at a time: people with a tab open. Each costs a task and a connection.
const LISTENERS_MAX: usize = 256;
/// A fleet changes all the time; people do not read faster.
const PACE: Duration = Duration::from_secs(1);
/// A keep-alive, so that proxies keep the connection and a dead one is noticed.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// Then the listener reconnects, and its token is checked again.
const LIFE: Duration = Duration::from_secs(600);

macro_rules! files {
    ($($name:literal: $media:literal),* $(,)?) => {
        &[$(File { name: $name, media: $media, text: include_str!(concat!("page/", $name)) }),*]
    };
}

/// One file of the page.
struct File {
    name: &'static str,
    media: &'static str,
    text: &'static str,
}

const FILES: &[File] = files! {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "main.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "dom.js": "text/javascript; charset=utf-8",
    "sign-in.js": "text/javascript; charset=utf-8",
    "hosts.js": "text/javascript; charset=utf-8",
    "clusters.js": "text/javascript; charset=utf-8",
    "wizard.js": "text/javascript; charset=utf-8",
    "alerts.js": "text/javascript; charset=utf-8",
    "audit.js": "text/javascript; charset=utf-8",
    "terminal.js": "text/javascript; charset=utf-8",
    "networks.js": "text/javascript; charset=utf-8",
    "plane.js": "text/javascript; charset=utf-8",
};

/// Tells listeners that something changed on the plane.
pub(super) struct Changes {
    count: watch::Sender<u64>,
    listeners: Arc<Semaphore>,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            count: watch::Sender::new(0),
            listeners: Arc::new(Semaphore::new(LISTENERS_MAX)),
        }
    }
}

impl Changes {
    /// Something changed.
    pub(super) fn tell(&self) {
        self.count.send_modify(|n| *n = n.wrapping_add(1));
    }
}

/// `GET /`: where the page is.
pub(super) async fn root() -> Response {
    let to = HeaderValue::from_static("/ui/");
    (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response()
}

/// `GET /ui/`.
pub(super) async fn index(headers: HeaderMap) -> Response {
    FILES.first().map_or_else(
        || StatusCode::NOT_FOUND.into_response(),
        |f| f.answer(&headers),
    )
}

/// `GET /ui/{name}`: one of its files.
pub(super) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Answer<Response> {
    let found = FILES.iter().find(|f| f.name == name);
    let found = found.ok_or_else(|| {
        Refusal::missing(
            FaultCode::NoSuchPath,
            "no such file",
            "the page has no file of this name",
        )
    })?;
    Ok(found.answer(&headers))
}

/// `GET /ui/changes`: a line whenever something changed, as server-sent events.
pub(super) async fn changes(_: Person, State(plane): State<Arc<Plane>>) -> Answer<Response> {
    let place = Arc::clone(&plane.changes.listeners).try_acquire_owned();
    let place = place.map_err(|_| {
        let why = format!("{LISTENERS_MAX} pages are open");
        let fault = Fault::new(FaultCode::TooOften, "not followed", why)
            .fix("close pages that nobody looks at");
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, fault)
    })?;
    let media = HeaderValue::from_static("text/event-stream");
    let mut response = Body::from_stream(lines(plane, place)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    let never = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, never);
    Ok(response)
}

/// One that listens.
struct Listener {
    plane: Arc<Plane>,
    count: watch::Receiver<u64>,
    end: Instant,
    said: bool,
    _place: OwnedSemaphorePermit,
}

fn lines(
    plane: Arc<Plane>,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
    let listener = Listener {
        count: plane.changes.count.subscribe(),
        end: Instant::now() + LIFE,
        said: false,
        plane,
        _place: place,
    };
    stream::unfold(listener, async |mut listener| {
        let line = listener.next().await?;
        Some((Ok(Bytes::from(line)), listener))
    })
}

impl Listener {
    /// The next message; `None` when the plane stops, or the listener's time is over.
    async fn next(&mut self) -> Option<String> {
        if !self.said {
            // The answer begins, so the client knows that it is subscribed.
            self.said = true;
            return Some(": here\n\n".into());
        }
        let (plane, end) = (Arc::clone(&self.plane), self.end);
        tokio::select! {
            line = self.line() => line,
            () = plane.shutdown.cancelled() => None,
            () = sleep_until(end) => None,
        }
    }

    async fn line(&mut self) -> Option<String> {
        match timeout(HEARTBEAT, self.count.changed()).await {
            Ok(Ok(())) => {
                // Whatever else changes meanwhile is the same news.
                sleep(PACE).await;
                let count = *self.count.borrow_and_update();
                Some(format!("data: {count}\n\n"))
            }
            Ok(Err(_)) => None,
            Err(_) => Some(": here\n\n".into()),
        }
    }
}

impl File {
    fn answer(&self, asked: &HeaderMap) -> Response {
        let tag = format!("\"{}\"", Digest::of(self.text.as_bytes()));
        let known = asked.get(header::IF_NONE_MATCH);
        let same = known.is_some_and(|known| known.as_bytes() == tag.as_bytes());
        let mut response = match same {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => self.text.into_response(),
        };
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value: &'static str| {
            headers.insert(name, HeaderValue::from_static(value));
        };
        set(header::CONTENT_TYPE, self.media);
        // Asked for again each time, by its tag: an upgraded plane has no page of before.
        set(header::CACHE_CONTROL, "no-cache");
        set(header::CONTENT_SECURITY_POLICY, POLICY);
        set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(header::X_FRAME_OPTIONS, "DENY");
        set(header::REFERRER_POLICY, "no-referrer");
        set(
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        );
        set(
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        );
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, tag);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use pf9_hostagent::model::NetworkPlugin;

    use super::*;

    /// Every file of the directory is on the list: else the page asks for what is not served.
    #[test]
    fn every_file_that_another_one_names_is_served() {
        let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/page");
        for entry in std::fs::read_dir(here).expect("directory") {
            let name = entry.expect("entry").file_name();
            assert!(FILES.iter().any(|f| *f.name == *name), "{name:?}");
        }
        for file in FILES {
            let named = file.text.split('"').filter_map(|w| w.strip_prefix("./"));
            for name in named {
                let found = FILES.iter().any(|f| f.name == name);
                assert!(found, "{} names {name}", file.name);
            }
        }
    }

    #[test]
    fn the_wizard_offers_the_pod_networks_that_there_are_and_no_other() {
        let wizard = FILES.iter().find(|f| f.name == "wizard.js").expect("file");
        let (_, list) = wizard
            .text
            .split_once("const PLUGINS = ")
            .expect("the list");
        let (list, _) = list.split_once(';').expect("its end");
        let offered: Vec<NetworkPlugin> = serde_json::from_str(list).expect("names of networks");
        let every = [
            NetworkPlugin::Bridge,
            NetworkPlugin::Flannel,
            NetworkPlugin::Calico,
            NetworkPlugin::None,
        ];
        assert_eq!(offered, every);
    }

    /// What the policy would refuse is not in the files: a browser says so only on its console.
    #[test]
    fn no_file_holds_what_the_policy_refuses() {
        for file in FILES {
            for word in [
                "innerHTML",
                "eval(",
                "style=\"",
                "onclick=\"",
                "http://",
                "https://",
                "document.write",
            ] {
                assert!(!file.text.contains(word), "{}: {word}", file.name);
            }
        }
    }
}
