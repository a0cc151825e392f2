//! A containerd of our own: its services as far as an import asks them, over real sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use crate::host::fs::HostFs;
use crate::host::protobuf::{Message, Value, fields};
use crate::model::{Digest, paths};

/// What it does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    Serves,
    /// With this code of gRPC and these words.
    Refuses(u32, &'static str),
    /// It never answers.
    Hangs,
    /// It does it, and never answers.
    ServesAndHangs,
}

/// What it keeps.
#[derive(Default)]
pub(super) struct State {
    /// Each call: what, and under which lease.
    pub(super) calls: Vec<(String, Option<String>)>,
    pub(super) leases: BTreeSet<String>,
    /// Name of a snapshot that is committed, and its number.
    pub(super) snapshots: BTreeMap<String, usize>,
    /// Those that were started or looked at.
    pub(super) active: BTreeMap<String, usize>,
    pub(super) content: BTreeMap<String, (Vec<u8>, BTreeMap<String, String>)>,
    pub(super) images: BTreeMap<String, String>,
    /// Where it says that snapshots are, if not there.
    pub(super) elsewhere: Option<PathBuf>,
    made: usize,
}

type Script = Box<dyn FnMut(usize, &str) -> Does + Send>;

pub(super) struct Daemon {
    /// Told of every call that hangs.
    pub(super) hangs: Arc<tokio::sync::Notify>,
    _serving: JoinSet<()>,
}

/// Begins to listen; what it keeps is what it was left with. `script` says what becomes of the n-th call.
pub(super) fn daemon(fs: &HostFs, state: Arc<Mutex<State>>, script: Script) -> Daemon {
    let socket = fs.at(paths::CONTAINERD_SOCKET);
    std::fs::create_dir_all(socket.parent().expect("parent")).expect("directory");
    std::fs::remove_file(&socket).ok();
    let listener = UnixListener::bind(&socket).expect("bind");
    let hangs = Arc::new(tokio::sync::Notify::new());
    let (fs, script) = (fs.clone(), Arc::new(Mutex::new((0, script))));
    let mut serving = JoinSet::new();
    let told = Arc::clone(&hangs);
    serving.spawn(async move {
        let mut all = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (fs, state) = (fs.clone(), Arc::clone(&state));
            let (script, told) = (Arc::clone(&script), Arc::clone(&told));
            let service = service_fn(move |request| {
                answer(
                    fs.clone(),
                    Arc::clone(&state),
                    Arc::clone(&script),
                    Arc::clone(&told),
                    request,
                )
            });
            let connection = http2::Builder::new(TokioExecutor::new());
            let connection = connection.serve_connection(TokioIo::new(stream), service);
            all.spawn(async move { drop(connection.await) });
        }
    });
    Daemon {
        hangs,
        _serving: serving,
    }
}

type Answer = Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>;

async fn answer(
    fs: HostFs,
    state: Arc<Mutex<State>>,
    script: Arc<Mutex<(usize, Script)>>,
    hangs: Arc<tokio::sync::Notify>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let what = head.uri.path().rsplit('.').next().unwrap_or_default();
    let what = what.trim_start_matches("v1.").to_owned();
    let lease = head.headers.get("containerd-lease");
    let lease = lease.and_then(|l| l.to_str().ok()).map(str::to_owned);
    let body = body.collect().await.expect("a question").to_bytes();
    let does = {
        let mut script = script.lock().expect("lock");
        let n = script.0;
        script.0 += 1;
        (script.1)(n, &what)
    };
    state
        .lock()
        .expect("lock")
        .calls
        .push((what.clone(), lease));
    let served = match does {
        Does::Refuses(code, words) => Err((code, words.to_owned())),
        Does::Hangs => Ok(Message::default()),
        Does::Serves | Does::ServesAndHangs => {
            serve(&fs, &mut state.lock().expect("lock"), &what, &body[5..])
        }
    };
    if matches!(does, Does::Hangs | Does::ServesAndHangs) {
        hangs.notify_one();
        std::future::pending::<()>().await;
    }
    let mut end = HeaderMap::new();
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(match served {
        Ok(message) => {
            end.insert("grpc-status", HeaderValue::from_static("0"));
            let message = message.done();
            let mut framed = vec![0];
            framed.extend((message.len() as u32).to_be_bytes());
            framed.extend(message);
            let body = Full::new(Bytes::from(framed)).with_trailers(async { Some(Ok(end)) });
            response.body(body.boxed())
        }
        Err((code, words)) => response
            .header("grpc-status", code)
            .header("grpc-message", words)
            .body(Full::new(Bytes::new()).boxed()),
    }
    .expect("an answer"))
}

/// The text of a field, all of them by number.
fn texts(message: &[u8]) -> BTreeMap<u64, Vec<Vec<u8>>> {
    let mut all: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    for field in fields(message) {
        if let Ok((number, Value::Bytes(bytes))) = field {
            all.entry(number).or_default().push(bytes.to_vec());
        }
    }
    all
}

type Fields = BTreeMap<u64, Vec<Vec<u8>>>;

fn text(fields: &Fields, number: u64) -> String {
    let first = fields.get(&number).and_then(|all| all.first());
    String::from_utf8(first.cloned().unwrap_or_default()).expect("text")
}

fn map(fields: &Fields, number: u64) -> BTreeMap<String, String> {
    let entries = fields.get(&number).into_iter().flatten();
    let entry = |e: &Vec<u8>| {
        let e = texts(e);
        (text(&e, 1), text(&e, 2))
    };
    entries.map(entry).collect()
}

fn inside(fields: &Fields, number: u64) -> Fields {
    let first = fields.get(&number).and_then(|all| all.first());
    texts(first.map(Vec::as_slice).unwrap_or_default())
}

type Served = Result<Message, (u32, String)>;

fn serve(fs: &HostFs, state: &mut State, what: &str, message: &[u8]) -> Served {
    let asked = texts(message);
    let there = || Err((6, "already exists".to_owned()));
    let missing = || Err((5, "not found".to_owned()));
    let done = Ok(Message::default());
    match what {
        "RuntimeService/Status" => {
            let verbose: Result<Vec<_>, _> = fields(message).collect();
            assert_eq!(verbose, Ok(vec![(1, Value::Number(1))]));
            let ready = Message::default().text(1, "RuntimeReady").number(2, 1);
            let network = Message::default().text(1, "NetworkReady");
            let conditions = Message::default()
                .inside(1, &ready)
                .inside(1, &network.text(4, "no plugin"));
            let status = Message::default().inside(1, &conditions);
            Ok(status.entry(2, "config", "{}"))
        }
        "Leases/Create" => {
            assert!(map(&asked, 3).contains_key("containerd.io/gc.expire"));
            state.leases.insert(text(&asked, 1));
            done
        }
        "Leases/Delete" => {
            state.leases.remove(&text(&asked, 1));
            done
        }
        "Snapshots/Stat" if state.snapshots.contains_key(&text(&asked, 2)) => done,
        "Snapshots/Stat" => missing(),
        "Snapshots/Prepare" | "Snapshots/View" => {
            let parent = text(&asked, 3);
            let id = match (what, state.snapshots.get(&parent)) {
                ("Snapshots/View", Some(id)) => *id,
                _ => {
                    assert_eq!((what, &*parent), ("Snapshots/Prepare", ""));
                    state.made += 1;
                    state.made
                }
            };
            state.active.insert(text(&asked, 2), id);
            Ok(Message::default().inside(1, &mount(fs, state, id)))
        }
        "Snapshots/Commit" => {
            if state.snapshots.contains_key(&text(&asked, 2)) {
                return there();
            }
            let id = state.active.remove(&text(&asked, 3)).expect("it is begun");
            state.snapshots.insert(text(&asked, 2), id);
            done
        }
        "Snapshots/Remove" => match state.active.remove(&text(&asked, 2)) {
            Some(id) => {
                let committed = state.snapshots.values().any(|known| *known == id);
                if !committed && state.elsewhere.is_none() {
                    std::fs::remove_dir_all(dir(fs, state, id)).ok();
                }
                done
            }
            None => missing(),
        },
        "Content/Write" => {
            let (digest, bytes) = (text(&asked, 4), asked[&6][0].clone());
            assert_eq!(digest, format!("sha256:{}", Digest::of(&bytes)));
            if state.content.contains_key(&digest) {
                return there();
            }
            state.content.insert(digest, (bytes, map(&asked, 7)));
            done
        }
        "Content/Update" => {
            let info = inside(&asked, 1);
            let known = state.content.get_mut(&text(&info, 1)).expect("it is there");
            known.1.extend(map(&info, 5));
            done
        }
        "Images/Create" | "Images/Update" => {
            let image = inside(&asked, 1);
            let (name, target) = (text(&image, 1), text(&inside(&image, 3), 2));
            if what == "Images/Create" && state.images.contains_key(&name) {
                return there();
            }
            state.images.insert(name, target);
            done
        }
        other => panic!("it is asked for {other}"),
    }
}

fn dir(fs: &HostFs, state: &State, id: usize) -> PathBuf {
    let own = || {
        let at = format!("io.containerd.snapshotter.v1.overlayfs/snapshots/{id}/fs");
        fs.at(paths::CONTAINERD_ROOT).join(at)
    };
    state.elsewhere.clone().unwrap_or_else(own)
}

fn mount(fs: &HostFs, state: &State, id: usize) -> Message {
    let at = dir(fs, state, id);
    std::fs::create_dir_all(&at).expect("directory");
    Message::default()
        .text(1, "bind")
        .text(2, at.to_str().expect("text"))
        .text(4, "rw")
}
