//! One command: a directory with a socket, a process in the jail beside it, and its words on their way to the page. Whatever
//! ends first ends all: the command, the page that does not listen any more, the plane, the time, too many words.

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::output::Text;
use super::{LAST, OUTPUT_MAX, Seat, allowed, jail};
use crate::access::Action;
use crate::audit::Asked;
use crate::guard::{self, Person};
use crate::people::find;
use crate::proxy;
use crate::records::Cluster;
use crate::refusal::{Answer, Refusal, Shape, chain, reshape};
use crate::state::{self, Plane};
use crate::trace::Trace;
use pf9_hostagent::app::Exit;
use pf9_hostagent::host::fs::Attrs;
use pf9_hostagent::seam::disk;

/// Read at once.
const PIECE: usize = 16 * 1024;
/// Where commands have their directories, below the plane's.
pub(super) const DIR: &str = "/terminal";

/// One that is about to run.
pub(super) struct Run {
    pub(super) plane: Arc<Plane>,
    pub(super) cluster: Cluster,
    pub(super) command: allowed::Command,
    pub(super) text: String,
    pub(super) program: PathBuf,
    /// The person's, as it is kept.
    pub(super) login: String,
    pub(super) _seat: Seat,
}

/// How it ended.
struct End {
    is_done: bool,
    why: Option<String>,
}

/// The processes of one command: nothing of it is left when this goes.
struct Processes {
    jail: Child,
    group: Option<Pid>,
}

impl Drop for Processes {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // One that is gone already is as good.
            match killpg(group, Signal::SIGKILL) {
                Ok(()) | Err(_) => {}
            }
        }
    }
}

/// A directory of its own, and away with it.
struct Place {
    plane: Arc<Plane>,
    path: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(e) = self.plane.files.remove_tree(&self.path) {
            tracing::warn!(
                path = self.path,
                why = chain(&e),
                "a command's directory stays"
            );
        }
    }
}

impl Run {
    /// All of it; the page hears how it ended, and so does the audit.
    pub(super) async fn whole(self, asked: Asked, events: mpsc::Sender<Bytes>) {
        let began = Instant::now();
        let plane = Arc::clone(&self.plane);
        let time = match self.command.lasts {
            true => plane.terminal.time_long,
            false => plane.terminal.time,
        };
        let end = tokio::select! {
            end = self.run(&events) => Some(end),
            () = events.closed() => None,
            () = sleep(time) => Some(End::because(format!("it was ended after {} s", time.as_secs()))),
            () = plane.shutdown.cancelled() => Some(End::because("the plane stops".to_owned())),
        };
        // Its place is free, however long its page takes to read.
        drop(self);
        // Without an answer: who asked did not wait for it.
        let Some(end) = end else { return };
        let status = if end.is_done {
            StatusCode::OK
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        asked.answered(status.as_u16()).await;
        let seconds = began.elapsed().as_secs_f64();
        let told = json!({"end": {"done": end.is_done, "why": end.why, "seconds": seconds}});
        last(&events, event(&told)).await;
    }

    async fn run(&self, events: &mpsc::Sender<Bytes>) -> End {
        match self.tried(events).await {
            Ok(end) => end,
            Err(e) => {
                tracing::warn!(cluster = %self.cluster.id, why = chain(&e), "a command could not be run");
                End::because(format!("it could not be run: {e}"))
            }
        }
    }

    async fn tried(&self, events: &mpsc::Sender<Bytes>) -> std::io::Result<End> {
        let place = self.place()?;
        let dir = self.plane.files.at(&place.path);
        let socket = dir.join(jail::SOCKET);
        let listener = UnixListener::bind(&socket)?;
        // In the jail permissions do not matter; only we can enter its directory.
        disk::set_permissions(&socket, std::fs::Permissions::from_mode(0o666))?;
        let mut command = Command::new(&self.plane.terminal.jail);
        command
            .arg(jail::NAME)
            .arg(&dir)
            .arg(&self.program)
            .arg("--")
            .args(&self.command.argv);
        command.env_clear().kill_on_drop(true).process_group(0);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn()?;
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .map(Pid::from_raw);
        let mut processes = Processes { jail: child, group };
        tokio::select! {
            end = self.heard(&mut processes.jail, events) => end,
            () = self.answers(listener) => Ok(End::because("the plane's socket ended".to_owned())),
        }
    }

    fn place(&self) -> std::io::Result<Place> {
        let path = format!("{DIR}/{:08x}", fastrand::u32(..));
        let files = &self.plane.files;
        let made = files.make_dir(DIR, &Attrs::mode(0o700));
        let made = made
            .and_then(|()| files.make_dir(format!("{path}/{}", jail::ROOT), &Attrs::mode(0o700)));
        made.map_err(std::io::Error::other)?;
        Ok(Place {
            plane: Arc::clone(&self.plane),
            path,
        })
    }

    /// What it says, until it has said all.
    async fn heard(&self, child: &mut Child, events: &mpsc::Sender<Bytes>) -> std::io::Result<End> {
        let (Some(mut stdin), Some(mut out), Some(mut err)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(std::io::Error::other("it has no streams"));
        };
        let writes = async {
            // One that ended before it read all says why itself.
            drop(stdin.write_all(self.text.as_bytes()).await);
            drop(stdin);
        };
        let reads = async {
            let (mut said, mut complained) = (Text::default(), Text::default());
            let (mut has_out, mut has_err) = (true, true);
            let (mut from_out, mut from_err) = (vec![0; PIECE], vec![0; PIECE]);
            let mut all = 0;
            while has_out || has_err {
                let (word, text, len) = tokio::select! {
                    len = piece(&mut out, &mut from_out), if has_out => {
                        let len = len?;
                        has_out = len > 0;
                        ("out", said.add(from_out.get(..len).unwrap_or_default()), len)
                    }
                    len = piece(&mut err, &mut from_err), if has_err => {
                        let len = len?;
                        has_err = len > 0;
                        ("err", complained.add(from_err.get(..len).unwrap_or_default()), len)
                    }
                };
                all += len;
                if !text.is_empty() && events.send(event(&json!({word: text}))).await.is_err() {
                    return Ok(None);
                }
                if all > OUTPUT_MAX {
                    return Ok(Some(End::because(format!(
                        "it said more than {OUTPUT_MAX} bytes, and was ended"
                    ))));
                }
            }
            Ok::<_, std::io::Error>(None)
        };
        let ((), cut) = tokio::join!(writes, reads);
        if let Some(end) = cut? {
            return Ok(end);
        }
        let status = child.wait().await?;
        if status.success() {
            return Ok(End {
                is_done: true,
                why: None,
            });
        }
        let unsupported = Some(i32::from(Exit::Unsupported.code()));
        Ok(End::because(match status.code() == unsupported {
            true => "kubectl was not run; what stands above says why".to_owned(),
            false => "kubectl says that it did not work".to_owned(),
        }))
    }

    /// The only way out of the jail. Connections end with the command, and there are not more than kubectl needs.
    async fn answers(&self, listener: UnixListener) {
        let mut open = JoinSet::new();
        let http = hyper::server::conn::http1::Builder::new();
        loop {
            let stream = tokio::select! {
                taken = listener.accept(), if open.len() < jail::CONNECTIONS_MAX => match taken {
                    Ok((stream, _)) => stream,
                    Err(_) => return,
                },
                Some(_) = open.join_next() => continue,
            };
            let (plane, cluster, login) = (
                Arc::clone(&self.plane),
                self.cluster.clone(),
                self.login.clone(),
            );
            let service = service_fn(move |request: Request<Incoming>| {
                let (plane, cluster, login) = (Arc::clone(&plane), cluster.clone(), login.clone());
                async move { Ok::<_, Infallible>(answer(&plane, &cluster, login, request).await) }
            });
            let serve = http.serve_connection(TokioIo::new(stream), service);
            open.spawn(async move { drop(serve.await) });
        }
    }
}

impl End {
    fn because(why: String) -> Self {
        Self {
            is_done: false,
            why: Some(why),
        }
    }
}

async fn piece(from: &mut (impl AsyncRead + Unpin), into: &mut [u8]) -> std::io::Result<usize> {
    from.read(into).await
}

fn event(told: &Value) -> Bytes {
    // JSON has no line feed in it.
    Bytes::from(format!("data: {told}\n\n"))
}

/// The last event of a command. For a page that does not read it is held in memory no longer than this.
async fn last(events: &mpsc::Sender<Bytes>, event: Bytes) {
    match timeout(LAST, events.send(event)).await {
        Ok(_) | Err(_) => {}
    }
}

async fn answer(
    plane: &Arc<Plane>,
    cluster: &Cluster,
    login: String,
    request: Request<Incoming>,
) -> Response {
    match as_the_person(plane, cluster, login, request).await {
        Ok(response) => response,
        Err(refusal) => reshape(Shape::Kubernetes, refusal.into_response()),
    }
}

/// As the guard of the proxy's route does it: with each request, because revoked rights end at once.
async fn as_the_person(
    plane: &Arc<Plane>,
    cluster: &Cluster,
    login: String,
    request: Request<Incoming>,
) -> Answer<Response> {
    let who = {
        let rows = plane.read()?;
        let who = guard::who_of(&rows, login)?;
        let owner = find::owner_of_project(&rows, &cluster.project)?;
        who.require(
            Action::UseKubernetes,
            &owner.ok_or_else(|| state::no_cluster(cluster.id))?,
        )?;
        Arc::new(who)
    };
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
    let path = format!("{}{}{path}", proxy::PREFIX, cluster.id);
    head.uri = path
        .parse()
        .map_err(|e| Refusal::internal("a command's request has no path", &e))?;
    // The login alone says who asks, and only requests and answers are passed on.
    for name in [header::AUTHORIZATION, header::UPGRADE, header::CONNECTION] {
        head.headers.remove(name);
    }
    let request = Request::from_parts(head, Body::new(body));
    let project = Some(cluster.project.clone());
    let asked = (!matches!(*request.method(), Method::GET | Method::HEAD))
        .then(|| Asked::by(plane, &who, Action::UseKubernetes, project, ("", &request)));
    let state = State(Arc::clone(plane));
    let response = proxy::handle(Person(who), state, Extension(Trace::new()), request).await;
    if let Some(asked) = asked {
        asked.answered(response.status().as_u16()).await;
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_page_that_does_not_read_is_waited_for_and_not_for_ever() {
        let (events, mut seen) = mpsc::channel(1);
        last(&events, Bytes::from_static(b"heard")).await;
        let began = Instant::now();
        last(&events, Bytes::from_static(b"never read")).await;
        assert_eq!(began.elapsed(), LAST);
        drop(events);
        assert_eq!(seen.recv().await.as_deref(), Some(&b"heard"[..]));
        assert_eq!(seen.recv().await, None);
    }
}
