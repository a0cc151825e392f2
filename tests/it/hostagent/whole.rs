//! hostagent as a program of its own, broken at every point and started again: see [`crate::whole`].
//!
//! ```text
//! documents:  first start of an enrolled host ─► spec, stack, certificates ─► the node is ok, and its status is there
//!             ─► a certificate is renewed
//! an outage:  steady state ─► the plane goes away, repairs happen ─► it is back, and has each event
//! ```

use std::collections::{BTreeMap, BTreeSet};

use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::model::{
    Authority, CertPurpose, CertificateRequest, CertificateStatus, Digest, Envelope, Event,
    EventBatch, Generation, NodeState, RepairStatus, Role, StackRef, Timestamp, paths,
};
use pf9_hostagent::seam::walk::files;

use super::fixture::Bed;
use crate::whole::{Place, Whole, walk};

/// Cases of a quick run: of each most is waiting, for about a minute together.
const FEW: usize = 8;
/// In a time that no test comes to: what runs out soon is warned of.
const YEAR_2100: i64 = 4_102_444_800;
/// Events of what happened once; the others tell of what this process did, and saw on its way.
const ONCE: [&str; 3] = ["spec-accepted", "certificate-new", "repaired"];

struct Documents;
struct Outage;

struct Host {
    bed: Bed,
    stack: StackRef,
    spec: Envelope,
    /// How far the peers are with what they do.
    stage: u32,
    /// As this life began, or as nodelet changed last.
    statuses: usize,
    specs: usize,
    calls: u64,
    config: BTreeMap<String, String>,
    place: Place,
}

fn begin() -> Host {
    let place = Place::new();
    let bed = Bed::on(HostFs::new(place.root()));
    for made in ["/var/log/pf9/hostagent", paths::HOSTAGENT_STATE] {
        std::fs::create_dir_all(bed.fs.at(made)).expect("directory");
    }
    // It has enrolled, and root has told nothing of the machine yet.
    bed.plane.change(|p| p.facts = None);
    let stack = bed.publish("1.37.2-1", 30_000);
    let spec = bed.sign(1, bed.worker(&stack));
    bed.plane.offer(spec.clone());
    Host {
        stage: 0,
        statuses: 0,
        specs: 0,
        calls: 0,
        config: config(&bed.fs),
        bed,
        stack,
        spec,
        place,
    }
}

/// What hostagent only reads, with all content.
fn config(fs: &HostFs) -> BTreeMap<String, String> {
    let mut all = files(fs, |path| !path.starts_with("/etc/"));
    all.retain(|path, _| path.starts_with("/etc/"));
    all
}

fn certificate(of: &str, life: i64) -> CertificateStatus {
    CertificateStatus {
        name: "kubelet/server".into(),
        authority: Authority::Cluster,
        not_before: Timestamp::UNIX_EPOCH,
        not_after: Timestamp::from_second(YEAR_2100 + life).expect("a time"),
        digest: Digest::of(of.as_bytes()),
        issuer: Digest::of(b"authority"),
    }
}

fn request(csr: &str) -> CertificateRequest {
    CertificateRequest {
        purpose: CertPurpose::KubeletServer,
        csr: csr.into(),
    }
}

fn repair(number: u64) -> RepairStatus {
    RepairStatus {
        number,
        at: Timestamp::UNIX_EPOCH,
        what: format!("start service {number}"),
        why: "it did not run".into(),
    }
}

impl Host {
    fn starts(&mut self) {
        self.statuses = self.bed.plane.read(|p| p.statuses.len());
        self.specs = self.bed.node.read(|n| n.specs.len());
    }

    /// nodelet has the spec of this life.
    fn has_spec(&self) -> bool {
        let specs = |n: &crate::support::node::NodeSide| {
            n.specs.len() > self.specs && n.specs.last() == Some(&self.spec)
        };
        self.bed.node.read(specs)
    }

    fn has_certificate(&self, csr: &str) -> bool {
        let signed = format!("signed {csr}");
        self.bed.node.read(|n| {
            let mut all = n.batches.iter().flat_map(|b| &b.certificates);
            all.any(|c| c.certificate == signed)
        })
    }

    /// hostagent asked again after nodelet changed: it has heard of it.
    fn has_heard(&self) -> bool {
        self.bed.node.read(|n| n.calls > self.calls)
    }

    fn nodelet_changed(&mut self) {
        self.calls = self.bed.node.read(|n| n.calls);
    }

    fn is_told(&self, kind: &str, words: &str) -> bool {
        self.bed.plane.read(|p| {
            let mut events = p.events.iter();
            events.any(|e| e.kind == kind && e.message.contains(words))
        })
    }

    /// Nothing is on its way: the plane has a status of this life and every event, nodelet the spec, the stack is here.
    fn is_at_rest(&self) -> bool {
        let told = self.bed.plane.read(|p| {
            let of_this_life = p.statuses.get(self.statuses..).unwrap_or_default();
            let ok = of_this_life.last().is_some_and(|s| {
                s.state == NodeState::Ok
                    && s.observed_generation == Generation(1)
                    && s.download.is_none()
            });
            let state = p.events.iter().rfind(|e| e.kind == "state");
            ok && !p.reports.is_empty() && state.is_some_and(|e| e.message == "state ok")
        });
        let staged = self.bed.fs.list(paths::STAGING).unwrap_or_default();
        let stack = self.stack.manifest;
        let whole = [format!("{stack}.manifest.json"), format!("{stack}.tar.zst")];
        // A file of what was delivered whose removal was refused goes with the next start.
        told && self.has_spec() && staged == whole && self.bed.spooled() <= 1
    }

    fn end(&self) -> BTreeMap<String, String> {
        let fs = &self.bed.fs;
        let mut end = files(fs, |_| true);
        // History, and what is kept for people; of a document that was written twice there is the one before it. What
        // happens as it stops waits for its next start: what was told is compared below.
        const PASSING: [&str; 2] = ["/var/log/", "/var/opt/pf9/hostagent/events/"];
        end.retain(|path, _| {
            let kept = path.contains(".broken-") || path.ends_with(".prev");
            !kept && !PASSING.iter().any(|dir| path.starts_with(dir))
        });
        let stored = fs.read_text("/var/opt/pf9/hostagent/spec.json", 1 << 20);
        let stored: Envelope = serde_json::from_str(&stored.expect("read").expect("a spec"))
            .expect("the stored spec is whole");
        let mut say = |what: &str, so: String| drop(end.insert(what.to_owned(), so));
        say("the spec in force", (stored == self.spec).to_string());
        say("/etc as it was", (config(fs) == self.config).to_string());
        let (once, wrong) = self.events();
        say("events", once.join("; "));
        say("what is wrong with them", wrong.join("; "));
        end
    }

    /// What the plane has: events of what happened once, and what must not be with any.
    fn events(&self) -> (Vec<String>, Vec<String>) {
        let came = self.bed.plane.read(|p| p.came.clone());
        let batches = came.iter().filter(|(path, _)| path.ends_with("/events"));
        let mut by_id: BTreeMap<String, Event> = BTreeMap::new();
        let mut by_number = BTreeMap::new();
        let mut in_order: Vec<Event> = Vec::new();
        let mut wrong = BTreeSet::new();
        for (_, bytes) in batches {
            let batch: EventBatch = serde_json::from_slice(bytes).expect("events");
            let spool = format!("{:?}", batch.spool);
            for event in batch.events {
                let place = (spool.clone(), event.seq);
                let id = by_number.entry(place).or_insert_with(|| event.id.clone());
                if *id != event.id {
                    wrong.insert(format!("two events have number {:?}", event.seq));
                }
                match by_id.get(&event.id) {
                    None => {
                        by_id.insert(event.id.clone(), event.clone());
                        in_order.push(event);
                    }
                    Some(before) if *before != event => {
                        wrong.insert(format!("{} came as another one", event.message));
                    }
                    Some(_) => {}
                }
            }
        }
        let states: Vec<_> = in_order.iter().filter(|e| e.kind == "state").collect();
        for pair in states.windows(2) {
            if pair[0].message == pair[1].message {
                wrong.insert(format!("{:?} came twice", pair[0].message));
            }
        }
        let of_once = in_order.iter().filter(|e| ONCE.contains(&&*e.kind));
        let mut once: Vec<_> = of_once.map(|e| e.message.clone()).collect();
        once.sort();
        (once, wrong.into_iter().collect())
    }
}

impl Whole for Documents {
    const NAME: &'static str = "hostagent's documents";
    const PROGRAM: &'static str = "pf9-hostagent";
    type World = Host;

    async fn begin(&self) -> Host {
        begin()
    }

    fn place(host: &Host) -> &Place {
        &host.place
    }

    fn starts(&self, host: &mut Host, _: usize) {
        host.starts();
    }

    async fn turn(&self, host: &mut Host) -> bool {
        let (cluster, node) = (host.bed.cluster, &host.bed.node);
        match host.stage {
            0 if host.has_spec() => node.say(|s| {
                s.generation = Generation(1);
                s.role = Role::Worker;
                s.cluster_id = Some(cluster);
                s.state = NodeState::Converging;
                s.certificate_requests = vec![request("first")];
            }),
            1 if host.has_certificate("first") => node.say(|s| {
                s.state = NodeState::Ok;
                s.certificate_requests.clear();
                s.certificates = vec![certificate("first", 0)];
            }),
            2 if host.is_told("certificate-new", "2100-01-01") => node.say(|s| {
                s.certificate_requests = vec![request("second")];
            }),
            3 if host.has_certificate("second") => node.say(|s| {
                s.certificate_requests.clear();
                s.certificates = vec![certificate("second", 24 * 3600)];
            }),
            4 => return host.is_told("certificate-new", "2100-01-02") && host.is_at_rest(),
            _ => return false,
        }
        host.stage += 1;
        false
    }

    async fn end(&self, host: &mut Host) -> BTreeMap<String, String> {
        host.end()
    }
}

impl Whole for Outage {
    const NAME: &'static str = "hostagent's events";
    const PROGRAM: &'static str = "pf9-hostagent";
    type World = Host;

    async fn begin(&self) -> Host {
        begin()
    }

    fn place(host: &Host) -> &Place {
        &host.place
    }

    fn starts(&self, host: &mut Host, _: usize) {
        host.starts();
    }

    async fn turn(&self, host: &mut Host) -> bool {
        match host.stage {
            0 if host.has_spec() => host.bed.node.say(|s| {
                s.generation = Generation(1);
                s.role = Role::Worker;
                s.state = NodeState::Ok;
            }),
            1 if host.is_at_rest() => {
                host.bed.plane.go_away();
                host.nodelet_changed();
                host.bed.node.say(|s| {
                    s.state = NodeState::Retrying;
                    s.repairs = vec![repair(1)];
                });
            }
            2 if host.has_heard() => {
                host.nodelet_changed();
                host.bed.node.say(|s| {
                    s.state = NodeState::Ok;
                    s.repairs = vec![repair(1), repair(2)];
                });
            }
            3 if host.has_heard() && host.bed.spooled() > 0 => host.bed.plane.come_back().await,
            4 => return host.is_told("repaired", "service 2") && host.is_at_rest(),
            _ => return false,
        }
        host.stage += 1;
        false
    }

    async fn end(&self, host: &mut Host) -> BTreeMap<String, String> {
        host.end()
    }
}

#[tokio::test]
async fn hostagent_broken_anywhere_carries_each_document_and_leaves_nothing() {
    walk(&Documents, FEW).await;
}

#[tokio::test]
async fn hostagent_broken_anywhere_tells_each_event_once() {
    walk(&Outage, FEW).await;
}
