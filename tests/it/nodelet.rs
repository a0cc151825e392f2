//! nodelet as a program of its own, broken at every point and started again: see [`crate::whole`].
//!
//! ```text
//! first life:  a host without a role ─► the plane's spec ─► root begins a maintenance, and ends it ─► the next spec
//!              ─► root's own order that there is no role ─► stop
//! second one:  all of it is there
//! ```
//!
//! A role is another matter: its steps load modules, set the kernel, and speak to services, below whatever root they work.
//! They are walked inside one process (`src/nodelet/tests/walk.rs`) and on machines (`tests/node`).

use std::collections::BTreeMap;
use std::time::Duration;

use pf9_hostagent::host::fs::{Attrs, HostFs};
use pf9_hostagent::host::maintenance;
use pf9_hostagent::identity::{self, order_key};
use pf9_hostagent::local::{Client, Method};
use pf9_hostagent::model::{
    Assignment, DocumentKind, Envelope, Generation, HostId, MaintenanceRequest, NodeState,
    NodeStatus, SigningKey, Spec, Timestamp, paths,
};
use pf9_hostagent::seam::walk::files;
use serde::Serialize;
use serde_json::{Value, json};

use crate::whole::{Place, Whole, walk};

/// Cases of a quick run: of each most is waiting.
const FEW: usize = 8;
/// A program that stands, or ended in the middle of a question, does not answer it.
const ANSWERED: Duration = Duration::from_secs(5);
const SPEC: &str = "/var/opt/pf9/nodelet/spec.json";
const DESK: &str = "/v1/maintenance";

struct Orders;

struct Host {
    fs: HostFs,
    specs: [Envelope; 2],
    /// How far plane and root are with what they do.
    stage: u32,
    /// The newest spec was handed to this life.
    handed: bool,
    place: Place,
}

impl Host {
    /// Which spec is the newest, from 1.
    fn newest(&self) -> usize {
        if self.stage < 4 { 1 } else { 2 }
    }

    fn socket(&self) -> Client {
        Client::unix(self.fs.at(paths::NODELET_SOCKET)).expect("client")
    }

    /// True once it is done.
    async fn asks(&self, method: Method, path: &str, body: &impl Serialize) -> bool {
        let asked = self.socket();
        let answer = asked.send::<_, Value>(method, path, body, ANSWERED).await;
        answer.is_ok()
    }

    async fn status(&self) -> Option<NodeStatus> {
        let answer = self.socket().get("/v1/status", ANSWERED).await;
        answer.ok()
    }
}

fn spec(host_id: HostId, generation: u64) -> Vec<u8> {
    let spec = Spec {
        schema: 1,
        host_id,
        generation: Generation(generation),
        issued_at: Timestamp::UNIX_EPOCH,
        force: false,
        agent: None,
        maintenance: None,
        assignment: Assignment::None,
    };
    serde_json::to_vec(&spec).expect("json")
}

impl Whole for Orders {
    const NAME: &'static str = "nodelet";
    const PROGRAM: &'static str = "pf9-nodeletd";
    type World = Host;

    async fn begin(&self) -> Host {
        let place = Place::new();
        let fs = HostFs::new(place.root());
        for made in [
            "/run/pf9",
            "/var/log/pf9/kube",
            "/var/log/pf9/nodelet",
            paths::NODELET_STATE,
        ] {
            std::fs::create_dir_all(fs.at(made)).expect("directory");
        }
        let host = HostId::random();
        let key = SigningKey::generate().expect("key").0;
        identity::write_host_id(&fs, host).expect("host id");
        order_key::ensure(&fs, host).expect("order key");
        let trusted = serde_json::to_vec(&key.trusted()).expect("json");
        let pinned = format!("{}/{}.json", paths::TRUST_DIR, key.trusted().id);
        for (path, bytes) in [
            (pinned.as_str(), trusted.as_slice()),
            ("/proc/self/mountinfo", &b""[..]),
            ("/proc/sys/kernel/random/boot_id", &b"0b6d1a7c-boot\n"[..]),
        ] {
            let written = fs.write(path, bytes, &Attrs::mode(0o644));
            written.expect(path);
        }
        Host {
            specs: [1, 2].map(|n| key.sign(DocumentKind::Spec, &spec(host, n))),
            fs,
            stage: 0,
            handed: false,
            place,
        }
    }

    fn place(host: &Host) -> &Place {
        &host.place
    }

    fn starts(&self, host: &mut Host, _: usize) {
        host.handed = false;
    }

    async fn turn(&self, host: &mut Host) -> bool {
        let newest = host.newest();
        if !host.handed {
            // As hostagent does with each of its starts and nodelet's.
            let spec = &host.specs[newest - 1];
            host.handed = host.asks(Method::PUT, "/v1/spec", spec).await;
            return false;
        }
        let Some(status) = host.status().await else {
            return false;
        };
        if status.generation != Generation(newest as u64) {
            return false;
        }
        let done = match host.stage {
            0 => {
                let wanted = MaintenanceRequest {
                    for_s: 3600,
                    reason: "a disk is replaced".into(),
                };
                host.asks(Method::POST, DESK, &wanted).await
            }
            1 => status.state == NodeState::Maintenance,
            2 => host.asks(Method::DELETE, DESK, &Value::Null).await,
            3 => {
                host.handed = status.state != NodeState::Ok;
                !host.handed
            }
            4 => {
                let order = json!({"force": false});
                host.asks(Method::PUT, "/v1/assignment-none", &order).await
            }
            _ => return status.state == NodeState::Ok,
        };
        host.stage += u32::from(done);
        false
    }

    async fn end(&self, host: &mut Host) -> BTreeMap<String, String> {
        let fs = &host.fs;
        let mut end = files(fs, |_| true);
        // History, and what is kept for people; of a document that was written twice there is the one before it.
        end.retain(|path, _| {
            let kept = path.contains(".broken-") || path.ends_with(".prev");
            !kept && !path.starts_with("/var/log/")
        });
        let text = |path: &str| {
            let text = fs.read_text(path, 1 << 20).expect("read");
            text.unwrap_or_else(|| panic!("no {path}"))
        };
        let stored: Envelope = serde_json::from_str(&text(SPEC)).expect("the spec is whole");
        let local: Value = serde_json::from_str(&text(paths::LOCAL_ORDER)).expect("whole");
        let mut say = |what: &str, so: String| drop(end.insert(what.to_owned(), so));
        say(
            "the newest spec is stored",
            (stored == host.specs[1]).to_string(),
        );
        say("root's order is of spec", local["generation"].to_string());
        say("and by force", local["force"].to_string());
        say(
            "it is in maintenance",
            maintenance::is_noted(fs).to_string(),
        );
        end
    }
}

#[tokio::test]
async fn nodelet_broken_anywhere_keeps_each_order_and_leaves_nothing() {
    walk(&Orders, FEW).await;
}
