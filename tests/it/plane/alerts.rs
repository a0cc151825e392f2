//! Alerts: from a host's report to its receivers, with the plane restarted and the delivery broken; and the documents
//! sent equal those of the distribution's own Alertmanager.

mod failover;
mod receivers;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming as Body;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pf9_hostagent::model::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::bed::{Bed, until, within};
use super::node::Node;

/// In files that the plane reads, and nowhere else.
const TOKEN: &str = "dGVsbC1ub2JvZHktb2YtdGhpcw";
/// Closes the connection after reading a request, like a peer that dies.
const DIES: u16 = 0;

/// A receiver.
struct Hook {
    address: SocketAddr,
    answers: Arc<AtomicU16>,
    /// The id of a host whose alerts it answers with 400.
    refuses: Arc<Mutex<Option<Value>>>,
    got: Arc<Mutex<Vec<(HeaderMap, Value)>>>,
    _tasks: JoinSet<()>,
}

impl Hook {
    /// One that answers every request with this.
    async fn new(answers: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("address");
        let answers = Arc::new(AtomicU16::new(answers));
        let (refuses, got): (Refuses, Got) = Default::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(
            listener,
            Arc::clone(&answers),
            Arc::clone(&refuses),
            Arc::clone(&got),
        ));
        Self {
            address,
            answers,
            refuses,
            got,
            _tasks: tasks,
        }
    }

    fn answer(&self, status: u16) {
        self.answers.store(status, Ordering::SeqCst);
    }

    fn refuse(&self, host: Option<Value>) {
        *self.refuses.lock().expect("lock") = host;
    }

    /// What it was told of this host.
    fn of(&self, host: &Value) -> Vec<Value> {
        let all = self.all().into_iter().map(|(_, d)| d);
        all.filter(|d| d["alert"]["host"] == *host).collect()
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    fn all(&self) -> Vec<(HeaderMap, Value)> {
        self.got.lock().expect("lock").clone()
    }

    /// The n-th document it received, counted from one.
    async fn nth(&self, n: usize) -> (HeaderMap, Value) {
        until(|| async { self.all().get(n - 1).cloned() }).await
    }
}

type Got = Arc<Mutex<Vec<(HeaderMap, Value)>>>;
type Refuses = Arc<Mutex<Option<Value>>>;

async fn serve(listener: TcpListener, answers: Arc<AtomicU16>, refuses: Refuses, got: Got) {
    let mut streams = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (answers, refuses) = (Arc::clone(&answers), Arc::clone(&refuses));
        let got = Arc::clone(&got);
        let service = service_fn(move |request: Request<Body>| {
            let (answers, refuses) = (Arc::clone(&answers), Arc::clone(&refuses));
            let got = Arc::clone(&got);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.expect("body").to_bytes();
                let document: Value = serde_json::from_slice(&body).expect("json");
                let refused = refuses.lock().expect("lock").clone();
                let is_refused = refused.is_some_and(|host| document["alert"]["host"] == host);
                got.lock().expect("lock").push((head.headers, document));
                let answer = match is_refused {
                    true => 400,
                    false => answers.load(Ordering::SeqCst),
                };
                match answer {
                    DIES => Err("it dies"),
                    status => Ok(Response::builder()
                        .status(status)
                        .body(Full::new(Bytes::new()))
                        .expect("answer")),
                }
            }
        });
        let http = hyper::server::conn::http1::Builder::new();
        let served = http.serve_connection(TokioIo::new(stream), service);
        streams.spawn(async move { drop(served.await) });
    }
}

/// A host reports that its certificate expired a minute ago, or is valid.
pub(super) async fn certificate(node: &Node, good: bool) {
    let day = Duration::from_secs(86_400);
    let now = Timestamp::now();
    let ends = match good {
        true => now + 90 * day,
        false => now - Duration::from_secs(60),
    };
    let mut status = node.status("n1", "10.1.0.1");
    status["certificates"] = json!([{"name": "kubelet/server", "not_after": ends}]);
    let (status, said) = node
        .call(Method::POST, "/v1/hosts/self/status", &status)
        .await;
    assert_eq!(status, 204, "{said}");
}

async fn tell(bed: &Bed, name: &str, kind: &str, url: &str) {
    let body = json!({"name": name, "kind": kind, "url": url});
    let (status, said) = bed.admin("/notify", body).await;
    assert_eq!(status, 200, "{said}");
}

fn key(told: &(HeaderMap, Value)) -> String {
    told.0["idempotency-key"].to_str().expect("text").to_owned()
}

#[tokio::test]
async fn every_receiver_gets_begin_and_end_of_an_alert() {
    let bed = Bed::new().await;
    let (ops, jira) = (Hook::new(200).await, Hook::new(200).await);
    tell(&bed, "ops", "alertmanager", &ops.url()).await;
    tell(&bed, "jira", "ticket", &jira.url()).await;
    let node = bed.host("n1", "10.1.0.1").await;
    certificate(&node, false).await;
    let (_, firing) = ops.nth(1).await;
    assert_eq!(firing["status"], "firing");
    assert_eq!(
        firing["alerts"][0]["labels"]["alertname"],
        "CertificateExpiring"
    );
    assert_eq!(firing["alerts"][0]["labels"]["host_id"], json!(node.id));
    let (_, made) = jira.nth(1).await;
    assert_eq!(made["action"], "create");
    assert_eq!(made["alert"]["part"], "kubelet/server");

    let listed = bed.get("/alerts/v1/alerts").await;
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(listed[0]["state"], "firing");
    let id = listed[0]["id"].as_str().expect("id").to_owned();
    assert_eq!(made["key"], json!(id));
    let ack = json!({"who": "ann", "why": "it is renewed by hand", "forSeconds": 3600});
    let path = format!("/alerts/v1/alerts/{id}/acknowledge");
    let seen_to = bed.post(&path, ack).await;
    assert_eq!(seen_to["acknowledged"]["who"], "Default/admin@pf9.local");

    certificate(&node, true).await;
    let (_, over) = ops.nth(2).await;
    assert_eq!(over["status"], "resolved");
    let (_, ended) = jira.nth(2).await;
    assert_eq!(
        (&ended["action"], &ended["key"]),
        (&json!("resolve"), &made["key"])
    );
    assert_eq!(bed.get("/alerts/v1/alerts").await, json!([]));
    let past = bed.get("/alerts/v1/alerts?state=past").await;
    assert_eq!(past[0]["id"], json!(id));
    assert_eq!(bed.get(&format!("/alerts/v1/alerts/{id}")).await, past[0]);
    let of_host = format!("/alerts/v1/alerts?state=past&host={}", node.id);
    assert_eq!(bed.get(&of_host).await, past);
    assert_eq!(past[0]["acknowledged"]["who"], "Default/admin@pf9.local");
    // A second occurrence: a new alert.
    certificate(&node, false).await;
    let (_, again) = jira.nth(3).await;
    assert_eq!(again["action"], "create");
    assert_ne!(again["key"], made["key"]);
    assert_eq!(
        ops.all().len() + jira.all().len(),
        6,
        "nothing is told twice"
    );
}

#[tokio::test]
async fn a_silenced_alert_is_listed_and_sent_after_the_silence() {
    let bed = Bed::new().await;
    let hook = Hook::new(200).await;
    tell(&bed, "ops", "ticket", &hook.url()).await;
    let node = bed.host("n1", "10.1.0.1").await;
    let body = json!({"rule": "CertificateExpiring", "host": node.id, "who": "ann", "why": "known", "forSeconds": 600});
    let (status, silence) = bed.ask(Method::POST, "/alerts/v1/silences", body).await;
    assert_eq!(status, 201, "{silence}");
    certificate(&node, false).await;
    let held = until(|| async {
        let all = bed.get("/alerts/v1/alerts").await;
        all.get(0).filter(|a| a["state"] == "held").cloned()
    })
    .await;
    assert!(
        held["held"]["why"]
            .as_str()
            .is_some_and(|w| w.starts_with("silenced by Default/admin@pf9.local")),
        "{held}"
    );
    let path = format!(
        "/alerts/v1/silences/{}",
        silence["id"].as_str().expect("id")
    );
    let (status, ended) = bed.ask(Method::DELETE, &path, Value::Null).await;
    assert_eq!((status, &ended["ended"]), (200, &json!(true)));
    let (_, told) = hook.nth(1).await;
    assert_eq!(
        (&told["action"], &told["key"]),
        (&json!("create"), &held["id"])
    );
    assert_eq!(bed.get("/alerts/v1/silences").await, json!([]));
}

#[tokio::test]
async fn the_outbox_survives_broken_deliveries_and_restarts() {
    let mut bed = Bed::new().await;
    // The target reads it and dies before it answers: whether it arrived is unknown.
    let hook = Hook::new(DIES).await;
    tell(&bed, "ops", "ticket", &hook.url()).await;
    let node = bed.host("n1", "10.1.0.1").await;
    certificate(&node, false).await;
    let first = hook.nth(1).await;
    certificate(&node, true).await;
    until(|| async {
        let past = bed.get("/alerts/v1/alerts?state=past").await;
        past.get(0).cloned()
    })
    .await;
    bed = bed.restart().await;
    hook.answer(503);
    let tried = hook.all().len();
    hook.nth(tried + 1).await;
    let (status, targets) = bed.admin_get("/notify").await;
    assert_eq!((status, &targets[0]["waiting"]), (200, &json!(1)));
    hook.answer(200);
    let last = until(|| async {
        let all = hook.all();
        all.last()
            .filter(|(_, d)| d["action"] == "resolve")
            .cloned()
    })
    .await;
    assert_eq!(last.1["key"], first.1["key"]);
    let all = hook.all();
    let begun: Vec<_> = all.iter().filter(|t| t.1["action"] == "create").collect();
    assert!(begun.len() >= 2, "told again");
    assert!(
        begun.iter().all(|told| key(told) == key(&first)),
        "and known as the same"
    );
    assert_ne!(key(&last), key(&first));
    until(|| async {
        let (_, targets) = bed.admin_get("/notify").await;
        (targets[0]["waiting"] == 0 && targets[0]["failing"].is_null()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_that_is_refused_or_slow_delays_nobody_else() {
    let bed = Bed::new().await;
    let (deaf, ops) = (Hook::new(DIES).await, Hook::new(400).await);
    tell(&bed, "deaf", "ticket", &deaf.url()).await;
    tell(&bed, "ops", "ticket", &ops.url()).await;
    let first = bed.host("n1", "10.1.0.1").await;
    let second = bed.host("n2", "10.1.0.2").await;
    certificate(&first, false).await;
    ops.nth(1).await;
    // The target refuses the first one; the second overtakes it.
    certificate(&second, false).await;
    until(|| async {
        let of_second = |d: &Value| d["alert"]["host"] == json!(second.id);
        ops.all().iter().any(|(_, d)| of_second(d)).then_some(())
    })
    .await;
}

/// The target is well, and does not want this one: it has its own pauses, and others have none.
#[tokio::test]
async fn a_notice_that_is_refused_waits_by_itself() {
    let bed = Bed::new().await;
    let ops = Hook::new(200).await;
    let first = bed.host("n1", "10.1.0.1").await;
    let second = bed.host("n2", "10.1.0.2").await;
    let (refused, taken) = (json!(first.id), json!(second.id));
    ops.refuse(Some(refused.clone()));
    tell(&bed, "ops", "ticket", &ops.url()).await;
    certificate(&first, false).await;
    // The next try is sixteen seconds from the fourth: what arrives before it did not wait for it.
    ops.nth(4).await;
    certificate(&second, false).await;
    let made = until(|| async { ops.of(&taken).pop() }).await;
    assert_eq!(made["action"], "create");
    assert_eq!(ops.of(&refused).len(), 4);
    let of_ops = async || bed.admin_get("/notify").await.1[0].clone();
    let shown = until(|| async {
        let shown = of_ops().await;
        (shown["waiting"] == 1 && shown["arrivedAt"].is_string()).then_some(shown)
    })
    .await;
    assert_eq!(shown["failing"], "it answers 400 Bad Request");
    assert_eq!(
        (&shown["refused"], &shown["givenUp"]),
        (&json!(0), &json!(0))
    );
    // What is over waits for its beginning.
    certificate(&second, true).await;
    certificate(&first, true).await;
    until(|| async { (ops.of(&taken).len() == 2).then_some(()) }).await;
    until(|| async {
        let past = bed.get("/alerts/v1/alerts?state=past").await;
        (past.as_array().map(Vec::len) == Some(2)).then_some(())
    })
    .await;
    assert!(ops.of(&refused).iter().all(|d| d["action"] == "create"));
    // A target that is set anew is tried at once.
    ops.refuse(None);
    tell(&bed, "ops", "ticket", &ops.url()).await;
    until(|| async {
        let shown = of_ops().await;
        (shown["waiting"] == 0 && shown["failing"].is_null()).then_some(())
    })
    .await;
    let mut told = ops.of(&refused);
    assert_eq!(told.pop().expect("its end")["action"], "resolve");
    assert!(told.iter().all(|d| d["action"] == "create"));
}

/// Secrets in files are read for each delivery, are sent where they belong, and are nowhere else.
#[tokio::test]
async fn secrets_of_targets_are_stored_nowhere() {
    let bed = Bed::new().await;
    let hook = Hook::new(200).await;
    let (token, url) = (bed.file("token-of-ops"), bed.file("url-of-ops"));
    std::fs::write(&token, format!("{TOKEN}\n")).expect("write");
    std::fs::write(&url, format!("{}?key={TOKEN}\n", hook.url())).expect("write");
    let body = json!({"name": "ops", "kind": "alertmanager", "urlFile": url, "tokenFile": token});
    let (status, said) = bed.admin("/notify", body).await;
    assert_eq!(status, 200, "{said}");
    let node = bed.host("n1", "10.1.0.1").await;
    certificate(&node, false).await;
    let (head, document) = hook.nth(1).await;
    assert_eq!(head["authorization"], format!("Bearer {TOKEN}"));
    // The file has changed, and the delivery fails: the error names neither secret.
    std::fs::write(&token, "another\n").expect("write");
    hook.answer(DIES);
    certificate(&node, true).await;
    let (head, _) = hook.nth(2).await;
    assert_eq!(head["authorization"], "Bearer another");
    let targets = until(|| async {
        let (_, targets) = bed.admin_get("/notify").await;
        targets[0]["failing"].is_string().then_some(targets)
    })
    .await;
    let (_, past) = bed.admin_get("/alerts?state=past").await;
    let store = std::fs::read(bed.file("plane.redb")).expect("the store");
    for (place, text) in [
        ("what is told", document.to_string()),
        ("the list of targets", targets.to_string()),
        ("the list of alerts", past.to_string()),
        ("the store", String::from_utf8_lossy(&store).into_owned()),
    ] {
        assert!(!text.contains(TOKEN), "{place} has it");
    }
    // The search would find it there.
    let kept = json!({"who": "ann", "why": TOKEN, "forSeconds": 60, "rule": "DiskLow"});
    assert_eq!(
        bed.ask(Method::POST, "/alerts/v1/silences", kept).await.0,
        201
    );
    let store = std::fs::read(bed.file("plane.redb")).expect("the store");
    assert!(String::from_utf8_lossy(&store).contains(TOKEN));
}

/// The distribution's Alertmanager (scripts/test installs it), which forwards to a hook.
struct Alertmanager {
    child: tokio::process::Child,
    url: String,
    _dir: tempfile::TempDir,
}

impl Alertmanager {
    async fn start(hook: &Hook, receiver: &str, outside: &str) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = format!(
            "route:\n  receiver: {receiver}\n  group_by: ['...']\n  group_wait: 0s\n  group_interval: 1s\n\
             receivers:\n- name: {receiver}\n  webhook_configs:\n  - url: {}\n",
            hook.url()
        );
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config).expect("write");
        // A free one: it is not assigned again in between.
        let free = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = free.local_addr().expect("address");
        drop(free);
        let child = tokio::process::Command::new("prometheus-alertmanager")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.path={}", dir.path().display()))
            .arg(format!("--web.listen-address={address}"))
            .arg(format!("--web.external-url={outside}"))
            .args(["--web.route-prefix=/", "--cluster.listen-address="])
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("prometheus-alertmanager: install the distribution's package of that name");
        Self {
            child,
            url: format!("http://{address}"),
            _dir: dir,
        }
    }

    /// Sends it these, once it listens.
    async fn post(&self, alerts: &Value) {
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("client");
        let url = format!("{}/api/v2/alerts", self.url);
        let answer = until(|| async { client.post(&url).json(alerts).send().await.ok() }).await;
        let status = answer.status();
        assert!(
            status.is_success(),
            "{status}: {}",
            answer.text().await.unwrap_or_default()
        );
    }
}

/// The real one's document about an alert equals the plane's, field by field.
#[tokio::test]
async fn notices_equal_alertmanagers() {
    let bed = Bed::new().await;
    let (ours, theirs) = (Hook::new(200).await, Hook::new(200).await);
    let mut real = Alertmanager::start(&theirs, "ops", &bed.url).await;
    tell(&bed, "ops", "alertmanager", &ours.url()).await;
    let node = bed.host("n1", "10.1.0.1").await;
    for (n, good) in [(1, false), (2, true)] {
        certificate(&node, good).await;
        let (_, told) = ours.nth(n).await;
        let mut alert = told["alerts"][0].clone();
        let fields = alert.as_object_mut().expect("an alert");
        // Its API names this differently.
        fields.remove("status");
        fields.remove("fingerprint");
        if !good {
            fields.remove("endsAt");
        }
        real.post(&json!([alert])).await;
        let (_, same) = theirs.nth(n).await;
        assert_eq!(told, same);
    }
    within(real.child.kill()).await.expect("ended");
}
