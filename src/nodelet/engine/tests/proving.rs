//! A node that proves itself, and what the cluster's API says of it.

use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::rolling::order;
use super::*;
use crate::model::{CertPurpose, UpgradeStage};
use crate::nodelet::roll::{At, RollRecord, Said};
use crate::nodelet::testing::{acceptor, pair, put_pair};

/// The API of a cluster whose node is as it should be, and has this probe pod.
async fn serves(listener: TcpListener, tls: TlsAcceptor, pod: &Mutex<Option<Value>>) {
    let node = json!({"status": {
        "nodeInfo": {"kubeletVersion": "v1.36.3", "containerRuntimeVersion": "containerd://2.4.2"},
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    loop {
        let (tcp, _) = listener.accept().await.expect("a connection");
        let mut stream = tls.accept(tcp).await.expect("TLS");
        let mut head = Vec::new();
        while stream.read_buf(&mut head).await.is_ok_and(|n| n > 0) {
            if !head.ends_with(b"\r\n\r\n") {
                continue;
            }
            let said = if head.starts_with(b"GET /api/v1/nodes/n1 ") {
                Some(node.clone())
            } else {
                let path = b"GET /api/v1/namespaces/kube-system/pods/pf9-probe-n1 ";
                assert!(head.starts_with(path), "{}", head.escape_ascii());
                pod.lock().expect("lock").clone()
            };
            head.clear();
            let (status, body) = match said {
                Some(object) => ("200 OK", object.to_string()),
                None => ("404 Not Found", "{}".to_owned()),
            };
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.expect("answer");
        }
    }
}

/// A plane that is away is no fault of the node; a pod that was created and does not run is one.
#[tokio::test]
async fn proving_time_runs_only_once_the_plane_has_created_the_probe_pod() {
    let (machine, old) = Machine::running();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind");
    let mut node = machine.node_with(&old);
    node.api.host = "127.0.0.1".into();
    node.api.port = listener.local_addr().expect("address").port();
    put_pair(&machine.fs, &machine.cas, CertPurpose::Nodelet, &node);
    let tls = acceptor(pair(&machine.cas, CertPurpose::ApiServer, &node));
    let mut life = machine.begin();
    let from = life.engine.ledger.ledger.installed.clone().expect("a node");
    let mut ordered = order(UpgradeStage::Node, &old);
    ordered.probe = true;
    let now = crate::seam::clock::now();
    let record = RollRecord::new(&ordered, At::Proving, &from, None, now);
    let record = life.engine.note_roll(record).expect("noted");
    let work = Work {
        generation: Generation(5),
        role: Role::Worker,
        node: Arc::new(node),
    };

    let pod = Mutex::new(None);
    let of = |condition: &str| {
        json!({
            "spec": {"nodeName": "n1"},
            "status": {"conditions": [{"type": "Ready", "status": condition, "message": "no address"}]},
        })
    };
    let mut ends = of("False");
    ends["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    let seen = [
        // What is there, whether its time runs, what is waited for.
        (Some(ends), true, "still ending"),
        (None, false, "the plane to create the probe pod"),
        (None, false, "the plane to create the probe pod"),
        (Some(of("False")), true, "no address"),
        // Evicted, and taken away to be created again.
        (None, true, "the plane to create the probe pod"),
        (Some(of("False")), true, "no address"),
    ];
    let story = async {
        let engine = &mut life.engine;
        for (there, runs, words) in seen {
            *pod.lock().expect("lock") = there;
            let before = engine.until(&record).expect("a deadline");
            let (said, _) = engine.proven(&work, true, Next::now()).await;
            assert_eq!(said, Said::Nothing, "{words}");
            let after = engine.until(&record).expect("a deadline");
            assert_eq!(after == before, runs, "{words}");
            let reason = life.status.borrow().reason.clone().expect("it says why");
            assert_eq!(reason.code, FaultCode::Waiting);
            assert!(reason.why.contains(words), "{reason}");
        }
        *pod.lock().expect("lock") = Some(of("True"));
        let (said, _) = engine.proven(&work, true, Next::now()).await;
        assert_eq!(said, Said::Well);
    };
    tokio::select! {
        () = serves(listener, tls, &pod) => {}
        () = story => {}
    }
}
