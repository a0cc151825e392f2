//! The real client, real TLS, and an API server of our own that counts what it is asked.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::app::TaskGroup;
use crate::host::Host;
use crate::host::fs::HostFs;
use crate::model::{CertPurpose, TrustStore};
use crate::nodelet::ledger::Ledger;
use crate::nodelet::observe::Memory;
use crate::nodelet::phase::{PhaseContext, samples};
use crate::nodelet::testing::{Cas, acceptor, node, pair, put_pair, serve};

const OURS: &str = "pf9-nodelet";

/// Objects by their path, and what was asked for since it was looked at last.
#[derive(Default)]
struct Server {
    objects: BTreeMap<String, Value>,
    asked: Vec<String>,
    version: u64,
    /// It answers no list.
    lists_fail: bool,
}

type Shared = Arc<Mutex<Server>>;

impl Server {
    fn put(&mut self, name: &str, labelled: bool, data: &str) {
        self.version += 1;
        let mut object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"x": data},
            "metadata": {
                "name": name, "namespace": "kube-system", "uid": format!("u{}", self.version),
                "resourceVersion": self.version.to_string(),
                "managedFields": [{"manager": OURS}],
            },
        });
        if labelled {
            object["metadata"]["labels"][ADDON_LABEL] = "test".into();
        }
        self.objects.insert(path(name), object);
    }

    fn answer(&mut self, path: &str, query: &str) -> (StatusCode, Value) {
        self.asked.push(match query {
            "" => path.to_owned(),
            query => format!("{path}?{query}"),
        });
        let labelled = |o: &&Value| o["metadata"]["labels"][ADDON_LABEL].is_string();
        match path {
            "/api/v1" => {
                let kind = json!({"name": "configmaps", "kind": "ConfigMap", "namespaced": true});
                (StatusCode::OK, json!({"resources": [kind]}))
            }
            "/api/v1/configmaps" if self.lists_fail => {
                (StatusCode::INTERNAL_SERVER_ERROR, json!({"message": "no"}))
            }
            "/api/v1/configmaps" => {
                let items: Vec<_> = self.objects.values().filter(labelled).collect();
                (StatusCode::OK, json!({"items": items}))
            }
            path => match self.objects.get(path) {
                Some(object) => (StatusCode::OK, object.clone()),
                None => (StatusCode::NOT_FOUND, json!({"message": "not found"})),
            },
        }
    }
}

fn path(name: &str) -> String {
    format!("/api/v1/namespaces/kube-system/configmaps/{name}")
}

struct World {
    host: Host,
    ctx: PhaseContext,
    memory: Memory,
    server: Shared,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new(group: &mut TaskGroup) -> Self {
        let cas = Cas::new();
        let mut node = node(cas.authorities.clone());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind");
        node.api.port = listener.local_addr().expect("address").port();
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        put_pair(&fs, &cas, CertPurpose::Admin, &node);
        let server = Shared::default();
        let asked = Arc::clone(&server);
        let answer = move |request: Request<Incoming>| {
            let uri = request.uri();
            let (path, query) = (uri.path(), uri.query().unwrap_or_default());
            let (status, value) = asked.lock().expect("lock").answer(path, query);
            let body = Full::new(Bytes::from(value.to_string()));
            let answer = Response::builder().status(status).body(body);
            std::future::ready(Ok::<_, Infallible>(answer.expect("answer")))
        };
        let tls = acceptor(pair(&cas, CertPurpose::ApiServer, &node));
        let serve = serve(listener, tls, answer);
        let stop = group.shutdown();
        let ends = stop.clone();
        group.finite("API server", async move {
            ends.run_until_cancelled(serve).await;
        });
        Self {
            host: Host::new(fs),
            ctx: PhaseContext {
                node,
                ..samples::master("1.37.2")
            },
            memory: Memory::default(),
            server,
            stop,
            _dir: dir,
        }
    }

    /// One sweep: the object `a` should be there, `b` should not; and what was asked for that.
    async fn sweep(&mut self) -> (Observed, Observed, Vec<String>) {
        let (ledger, trust) = (Ledger::default(), TrustStore::default());
        let memory = &mut self.memory;
        let mut sweep = Sweep::begin(&self.host, &ledger, &trust, &self.ctx, memory, &[]).await;
        let object = |name: &str| {
            json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": "kube-system"}})
        };
        let mut a = object("a");
        a["data"]["x"] = "right".into();
        a["metadata"]["labels"][ADDON_LABEL] = "test".into();
        let here = sweep.object("a", &a).await;
        let gone = sweep.addon_gone("gone", &[object("b")]).await;
        let mut server = self.server.lock().expect("lock");
        (here, gone, std::mem::take(&mut server.asked))
    }
}

fn differs(seen: &Observed) -> bool {
    matches!(seen, Observed::Differs { .. })
}

#[tokio::test]
async fn what_did_not_change_is_one_question_for_all_of_its_kind_and_each_change_is_seen() {
    let mut group = TaskGroup::new(CancellationToken::new());
    let mut world = World::new(&mut group).await;
    let server = Arc::clone(&world.server);
    let change = |what: &dyn Fn(&mut Server)| what(&mut server.lock().expect("lock"));
    let list = format!("/api/v1/configmaps?labelSelector={ADDON_LABEL}&resourceVersion=0");
    let looks = async {
        change(&|s| s.put("a", true, "right"));
        let each = [path("a"), path("b")];
        let (here, gone, asked) = world.sweep().await;
        assert_eq!((here, gone), (Observed::Same, Observed::Same));
        assert_eq!(asked, [&["/api/v1".to_owned()][..], &each].concat());
        for _ in 0..3 {
            let (here, gone, asked) = world.sweep().await;
            assert_eq!((here, gone), (Observed::Same, Observed::Same));
            assert_eq!(asked, [list.as_str()]);
        }
        // Whatever becomes of one, the very next sweep says so.
        change(&|s| s.put("a", true, "wrong"));
        assert!(differs(&world.sweep().await.0));
        change(&|s| s.put("a", true, "right"));
        assert_eq!(world.sweep().await.0, Observed::Same);
        change(&|s| s.put("a", false, "right"));
        assert!(differs(&world.sweep().await.0), "it lost its label");
        change(&|s| s.put("a", true, "right"));
        change(&|s| s.put("b", true, "back"));
        let (here, gone, _) = world.sweep().await;
        assert_eq!(here, Observed::Same);
        assert!(differs(&gone), "it is back");
        change(&|s| s.objects.clear());
        let (here, gone, _) = world.sweep().await;
        assert_eq!((here, gone), (Observed::Missing, Observed::Same));
        // A server without lists is asked for each.
        change(&|s| s.put("a", true, "right"));
        change(&|s| s.lists_fail = true);
        world.sweep().await;
        let (here, gone, asked) = world.sweep().await;
        assert_eq!((here, gone), (Observed::Same, Observed::Same));
        assert_eq!(asked, [&[list.clone()][..], &each].concat());
        world.stop.cancel();
    };
    let (failed, ()) = tokio::join!(group.run(Duration::ZERO), looks);
    assert_eq!(failed, None);
}

#[test]
fn what_was_found_is_good_for_the_same_question_and_not_for_ever() {
    let mut objects = Objects::default();
    let now = Instant::now();
    let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
    assert_eq!(objects.find("k", &one, now), None);
    objects.keep("k", one, vec![None]);
    let last = now + WHOLE_EVERY - Duration::from_millis(1);
    assert_eq!(objects.find("k", &one, last), Some(vec![None]));
    assert_eq!(objects.find("k", &other, last), None);
    assert_eq!(objects.find("k", &one, now + WHOLE_EVERY), None);
    objects.keep("k", one, vec![None]);
    assert!(objects.find("k", &one, now + WHOLE_EVERY).is_some());
}
