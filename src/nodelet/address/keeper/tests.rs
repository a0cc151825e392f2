//! The real task, real TLS, and an API server of our own.

mod link;

use std::convert::Infallible;
use std::path::Path;
use std::sync::Mutex;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::app::TaskGroup;
use crate::host::fs::HostFs;
use crate::model::{CertPurpose, FaultCode, Generation, NodeStatus};
use crate::nodelet::job::Work;
use crate::nodelet::status::NodeBoard;
use crate::nodelet::testing::{Cas, acceptor, node, pair, put_pair, serve};

/// No machine has a network with it: it is of those that are kept for the future.
const NOWHERE: &str = "240.0.0.250";
/// What the watch waits for comes within seconds.
const SOON: Duration = Duration::from_secs(30);

/// What the API server does with what it is asked.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Mood {
    #[default]
    Answers,
    /// It takes connections and requests, and never says a word.
    Hangs,
    /// As where its etcd has no quorum.
    Refuses,
}

/// What the API server has and was asked.
#[derive(Default)]
struct Api {
    mood: Mood,
    lease: Option<Value>,
    looks: u32,
    writes: u32,
}

type Shared = Arc<Mutex<Api>>;

async fn answer(
    api: Shared,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let method = request.method().clone();
    let body = request
        .into_body()
        .collect()
        .await
        .expect("body")
        .to_bytes();
    let mood = api.lock().expect("lock").mood;
    if mood == Mood::Hangs {
        std::future::pending::<()>().await;
    }
    let mut api = api.lock().expect("lock");
    let (status, value) = match (method, api.lease.clone()) {
        _ if mood == Mood::Refuses => {
            let said = json!({"message": "etcdserver: request timed out"});
            (StatusCode::INTERNAL_SERVER_ERROR, said)
        }
        (Method::GET, Some(lease)) => (StatusCode::OK, lease),
        (Method::GET, None) => (StatusCode::NOT_FOUND, json!({"message": "no such lease"})),
        _ => {
            api.writes += 1;
            api.lease = serde_json::from_slice(&body).ok();
            (StatusCode::OK, api.lease.clone().unwrap_or_default())
        }
    };
    api.looks += 1;
    let body = Full::new(Bytes::from(value.to_string()));
    Ok(Response::builder()
        .status(status)
        .body(body)
        .expect("answer"))
}

struct World {
    api: Shared,
    job: watch::Sender<Job>,
    status: watch::Receiver<NodeStatus>,
    stop: CancellationToken,
    handover: Handover,
    group: TaskGroup,
    _board: NodeBoard,
    _dir: tempfile::TempDir,
}

/// A master that is to share an address that it cannot have, and its API server.
async fn world(lease: Option<Value>) -> World {
    world_of(NOWHERE, None, lease).await
}

/// A master that is to share this address, with this one as its own.
async fn world_of(shared: &str, own: Option<&str>, lease: Option<Value>) -> World {
    let cas = Cas::new();
    let mut node = node(cas.authorities.clone());
    if let Some(own) = own {
        node.node_ip = own.parse().expect("ip");
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind");
    node.api.port = listener.local_addr().expect("address").port();
    node.api.host = shared.into();
    node.api.shared = true;
    // Another master, by its member.
    node.etcd.members.extend(node.etcd.members.clone());
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    put_pair(&fs, &cas, CertPurpose::Admin, &node);
    // The machine's own tool, below the root that everything is looked up in.
    for program in ["/usr/bin/ip", "/sbin/ip"]
        .iter()
        .filter(|p| Path::new(p).exists())
    {
        fs.link("/usr/bin/ip", program).expect("link");
    }
    let server = acceptor(pair(&cas, CertPurpose::ApiServer, &node));
    let api = Shared::default();
    api.lock().expect("lock").lease = lease;
    let stop = CancellationToken::new();
    let mut group = TaskGroup::new(stop.clone());
    let asked = Arc::clone(&api);
    let answers = move |request| answer(Arc::clone(&asked), request);
    group.finite("API server", serve(listener, server, answers));
    let (job, working) = watch::channel(Job::Node(Work {
        generation: Generation(1),
        role: Role::Master,
        node: Arc::new(node),
    }));
    let (board, status) = NodeBoard::new(&fs);
    let beat = group.progress().beat("api address");
    let (handover, leaving) = handover();
    let keeper = AddressKeeper::new(
        Host::new(fs),
        working,
        board.address(),
        beat,
        stop.clone(),
        leaving,
    );
    group.finite("api address", keeper.run());
    World {
        api,
        job,
        status,
        stop,
        handover,
        group,
        _board: board,
        _dir: dir,
    }
}

/// A lease that was had before. Empty: it was given back.
fn lease(holder: &str) -> Value {
    lease_of(NOWHERE, holder)
}

fn lease_of(ip: &str, holder: &str) -> Value {
    let ip = ip.parse().expect("ip");
    let mut lease = lease::begun(Timestamp::UNIX_EPOCH);
    lease["metadata"]["resourceVersion"] = "1".into();
    let begun = lease::read(&lease, ip).expect("a lease");
    lease::written(&begun, Some(holder), false, ip, Timestamp::UNIX_EPOCH)
}

/// Waits for a status that says so.
async fn says(
    status: &mut watch::Receiver<NodeStatus>,
    is: impl Fn(Option<&ApiAddressStatus>) -> bool,
) {
    let seen = status.wait_for(|s| is(s.api_address.as_ref()));
    let seen = tokio::time::timeout(SOON, seen).await;
    assert!(seen.is_ok_and(|s| s.is_ok()), "it does not say so");
}

/// A master without such a network says so and writes nothing, not even where the address is free; the holder is seen
/// anyway. A role that goes takes all of it along.
#[tokio::test]
async fn a_master_that_cannot_have_it_says_so_and_leaves_it_to_the_others() {
    let World {
        api,
        job,
        mut status,
        stop,
        handover,
        group,
        _board,
        _dir,
    } = world(Some(lease(""))).await;
    let watched = async {
        // It has nothing to give away: no wait.
        handover.away().await;
        let off = |a: &ApiAddressStatus| {
            let code = a.fault.as_ref().map(|f| f.code);
            code == Some(FaultCode::ApiAddressOffLink) && !a.here
        };
        says(&mut status, |a| a.is_some_and(off)).await;
        api.lock().expect("lock").lease = Some(lease("n2"));
        let named = |a: &ApiAddressStatus| a.holder.as_deref() == Some("n2") && off(a);
        says(&mut status, |a| a.is_some_and(named)).await;
        assert_eq!(api.lock().expect("lock").writes, 0);
        // The named holder no longer writes it: the address is free, and the report says so beside what keeps this
        // master from it.
        let nobodys = |a: &ApiAddressStatus| {
            let why = a.fault.as_ref().map(|f| f.why.as_str()).unwrap_or_default();
            a.holder.is_none() && off(a) && why.ends_with("no other master has it either")
        };
        says(&mut status, |a| a.is_some_and(nobodys)).await;
        job.send_replace(Job::Nothing(Generation(2)));
        says(&mut status, |a| a.is_none()).await;
        stop.cancel();
    };
    tokio::join!(group.run(Duration::from_secs(5)), watched);
    assert!(api.lock().expect("lock").looks > 1);
}
