//! The desired state: the newest spec that was verified, on disk before it is answered.
//!
//! A spec is trusted by its signature alone; who brought it does not matter. A person who is root
//! may take the role away without the plane: what was installed until then goes, and only a newer
//! spec makes the host a node again. What that means for what is installed: [`super::job`].

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::job::{LocalSeen, Orders, SpecSeen};
use super::ledger::LedgerFile;
use crate::host::documents::{Document, Store, stored_spec};
use crate::host::fs::{FsError, HostFs};
use crate::identity;
use crate::model::{
    Accepted, Envelope, Fault, FaultCode, Generation, HostId, NodeUid, Refusal, Spec, Timestamp,
    TrustStore, Verdict, accept, paths,
};
use crate::telemetry::chain;

/// Root's.
const MODE: u32 = 0o600;
/// A number and a name.
const LOCAL_MAX: u64 = 4096;

/// A person took the role away.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LocalOrder {
    schema: u32,
    /// The node of all specs up to this one has to be removed, and they no longer count.
    generation: Generation,
    /// Whose specs: the key that signed the newest one then.
    #[serde(default)]
    key_id: Option<String>,
    /// Which node was removed, by the newest spec then: specs that ask for it again ask for nothing
    /// new.
    #[serde(default)]
    uid: Option<NodeUid>,
    /// Whatever others lose by it.
    #[serde(default)]
    force: bool,
}

impl Document for LocalOrder {
    const SCHEMA: u32 = 1;
}

/// Why a spec was not taken.
#[derive(Clone, Debug, PartialEq)]
pub enum NotTaken {
    /// It is not to be obeyed.
    Refused(Box<Refusal>),
    /// It could not be stored, or this host has no usable trust anchors.
    Broken(Fault),
}

/// Where specs arrive.
pub struct Inbox {
    fs: HostFs,
    spec: Store,
    local: Store,
    state: Mutex<State>,
    orders: watch::Sender<Orders>,
}

#[derive(Default)]
struct State {
    /// The newest that can be read.
    have: Option<Accepted>,
    local: Option<LocalOrder>,
}

impl Inbox {
    /// Takes up what was stored; works on it at once, whether anybody calls or not. To who receives only what comes after
    /// that is news.
    pub fn open(fs: HostFs, now: Timestamp) -> (Arc<Self>, watch::Receiver<Orders>) {
        let at = |name: &str| format!("{}/{name}", paths::NODELET_STATE);
        let inbox = Self {
            spec: Store::of_envelope(fs.clone(), at("spec.json"), MODE).at_all_costs(),
            local: Store::new(fs.clone(), paths::LOCAL_ORDER, MODE, LOCAL_MAX).at_all_costs(),
            fs,
            state: Mutex::default(),
            orders: watch::Sender::default(),
        };
        inbox.take_up(now);
        let received = inbox.orders.subscribe();
        (Arc::new(inbox), received)
    }

    /// A spec arrived. It is on the disk when this returns.
    pub fn put(&self, envelope: Envelope) -> Result<Generation, NotTaken> {
        let (trust, host) = trust_anchors(&self.fs).map_err(NotTaken::Broken)?;
        let mut state = self.lock();
        let had = state.have.is_some();
        let (new, ignored) = match accept(envelope, &trust, host, state.have.as_ref()) {
            Verdict::New(new, ignored) => (new, ignored),
            Verdict::Same => return Ok(self.orders.borrow().generation()),
            Verdict::Refused(refusal) => return Err(NotTaken::Refused(refusal)),
        };
        if !ignored.is_empty() {
            tracing::warn!(generation = %new.spec.generation, fields = ignored.join(", "),
                "the spec has fields that this agent does not know; they are ignored");
        }
        let broken = |e: &FsError| {
            NotTaken::Broken(Fault::new(
                FaultCode::State,
                "cannot store the spec",
                chain(e),
            ))
        };
        let generation = new.spec.generation;
        let over = self.is_over(&state, &new.spec, &trust, had);
        // Before the spec: were the power to go in between, it would be one that the order does not
        // cover.
        if let Some(order) = state
            .local
            .as_mut()
            .filter(|o| !over && generation > o.generation)
        {
            order.generation = generation;
            self.local.save(order).map_err(|e| broken(&e))?;
            self.orders
                .send_modify(|o| o.local = LocalSeen::UpTo(generation));
        }
        self.spec.save(&new.envelope).map_err(|e| broken(&e))?;
        // After the spec: were the power to go in between, the order still does not cover it.
        if over {
            self.local.forget().map_err(|e| broken(&e))?;
            state.local = None;
            self.orders.send_modify(|o| o.local = LocalSeen::No);
        }
        let seen = SpecSeen::Newest(Arc::new(new.spec.clone()));
        state.have = Some(*new);
        self.orders.send_modify(|o| o.spec = seen);
        Ok(generation)
    }

    /// True when root's order is none against this new spec: it is newer and does not ask for the
    /// very node that root took away, or it is of a plane that the host did not have then. (A spec
    /// is newer for many reasons that are none: another key signs, another node came.)
    fn is_over(&self, state: &State, new: &Spec, trust: &TrustStore, had: bool) -> bool {
        match (&state.local, &self.orders.borrow().local) {
            (Some(order), _) => {
                let key = order.key_id.as_deref();
                let uid = new.assignment.node().and_then(|n| n.uid);
                let same = uid.is_some() && uid == order.uid;
                (new.generation > order.generation && !same) || key.is_some_and(|k| !trust.knows(k))
            }
            // An order that cannot be read was of a time when the spec before this one was there.
            (None, LocalSeen::Lost(_)) => had,
            (None, LocalSeen::No | LocalSeen::UpTo(_)) => false,
        }
    }

    /// A person takes the role away, without the plane.
    /// `force`: whatever others lose by it, as a cluster its etcd.
    pub fn put_none(&self, force: bool) -> Result<Generation, Fault> {
        let what = "cannot remove the role";
        let mut state = self.lock();
        let spec = state.have.as_ref();
        let asked = spec.map_or(Generation::default(), |s| s.spec.generation);
        // A lost spec may leave behind what a newer one installed.
        let generation = asked.max(LedgerFile::look(&self.fs).generation());
        let order = LocalOrder {
            schema: LocalOrder::SCHEMA,
            generation,
            key_id: spec.map(|s| s.envelope.key_id.clone()),
            uid: spec
                .and_then(|s| s.spec.assignment.node())
                .and_then(|n| n.uid),
            force,
        };
        self.local.save(&order).map_err(|e| {
            Fault::new(FaultCode::State, what, chain(&e)).fix("check the disk, then try again")
        })?;
        state.local = Some(order);
        self.orders.send_modify(|o| {
            o.local = LocalSeen::UpTo(generation);
            o.local_force = force;
        });
        Ok(generation)
    }

    /// What was ordered.
    pub fn orders(&self) -> Orders {
        self.orders.borrow().clone()
    }

    fn take_up(&self, now: Timestamp) {
        let mut state = self.lock();
        let local = self.local.load(now, Ok::<LocalOrder, _>);
        let local = match (local.value, local.fault) {
            (_, Some(why)) => {
                tracing::error!(code = why.code.word(), "{why}");
                LocalSeen::Lost(why)
            }
            (None, None) => LocalSeen::No,
            (Some(order), None) => {
                let upto = order.generation;
                state.local = Some(order);
                LocalSeen::UpTo(upto)
            }
        };
        let spec = match trust_anchors(&self.fs) {
            // The trust document is unreadable: whatever is stored stays as it is.
            Err(why) if self.fs.at(self.spec.path()).exists() => {
                SpecSeen::Lost { why, before: None }
            }
            Err(_) => SpecSeen::Never,
            Ok((trust, host)) => {
                let loaded = self.spec.load(now, stored_spec(&trust, host));
                state.have = loaded.value;
                let known = state.have.as_ref().map(|a| Arc::new(a.spec.clone()));
                match (known, loaded.fault) {
                    (before, Some(why)) => {
                        tracing::error!(code = why.code.word(), "{why}");
                        SpecSeen::Lost { why, before }
                    }
                    (Some(newest), None) => SpecSeen::Newest(newest),
                    (None, None) => SpecSeen::Never,
                }
            }
        };
        let local_force = state.local.as_ref().is_some_and(|order| order.force);
        self.orders.send_replace(Orders {
            spec,
            local,
            local_force,
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NotTaken {
    /// In words.
    pub fn fault(&self) -> &Fault {
        match self {
            Self::Refused(refusal) => &refusal.fault,
            Self::Broken(fault) => fault,
        }
    }
}

/// The pinned keys and this host's id.
pub fn trust_anchors(fs: &HostFs) -> Result<(TrustStore, HostId), Fault> {
    let what = "cannot read the trust anchors";
    let trust = identity::trust(fs).map_err(|e| e.fault(what))?;
    let host = identity::host_id(fs).map_err(|e| e.fault(what))?;
    let host = host.ok_or_else(|| {
        Fault::new(FaultCode::NotEnrolled, what, "this host is not enrolled")
            .fix("run pf9ctl node prep with the plane's URL and a token")
    })?;
    Ok((trust, host))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::{Assignment, Because, DocumentKind, Role, SigningKey, Spec};
    use crate::nodelet::testing::{Cas, enrolled, node, spec};

    struct Plane {
        key: SigningKey,
        cas: Cas,
    }

    impl Plane {
        fn envelope(&self, spec: &Spec) -> Envelope {
            let bytes = serde_json::to_vec(spec).expect("json");
            self.key.sign(DocumentKind::Spec, &bytes)
        }
        fn worker(&self, generation: u64) -> Envelope {
            self.worker_of(generation, 1)
        }
        /// After it was detached and attached.
        fn again(&self, generation: u64) -> Envelope {
            self.worker_of(generation, 2)
        }
        fn worker_of(&self, generation: u64, time: i64) -> Envelope {
            let mut node = node(self.cas.authorities.clone());
            node.uid = Some(crate::nodelet::testing::uid(time));
            self.envelope(&spec(generation, Assignment::Worker(Box::new(node))))
        }
    }

    fn fixture() -> (tempfile::TempDir, HostFs, Plane) {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let key = enrolled(&fs);
        let cas = Cas::new();
        (dir, fs, Plane { key, cas })
    }

    fn open(fs: &HostFs) -> Arc<Inbox> {
        Inbox::open(fs.clone(), Timestamp::UNIX_EPOCH).0
    }

    fn refused(result: Result<Generation, NotTaken>) -> (Because, String) {
        match result {
            Err(NotTaken::Refused(refusal)) => (refusal.because, refusal.fault.code.to_string()),
            other => panic!("not refused: {other:?}"),
        }
    }

    const SPEC: &str = "/var/opt/pf9/nodelet/spec.json";

    fn damage(fs: &HostFs, path: &str) {
        let attrs = crate::host::fs::Attrs::mode(0o600);
        fs.write(path, b"{", &attrs).expect("damage");
    }

    #[test]
    fn only_newer_believed_specs_are_taken_and_they_survive() {
        let (_dir, fs, plane) = fixture();
        let inbox = open(&fs);
        assert_eq!(inbox.orders(), Orders::default());
        assert_eq!(inbox.put(plane.worker(3)), Ok(Generation(3)));
        assert_eq!(
            inbox.put(plane.worker(3)),
            Ok(Generation(3)),
            "again is fine"
        );
        let older = (Because::NotNewer, "spec-older".to_owned());
        assert_eq!(refused(inbox.put(plane.worker(2))), older);
        let other = plane.envelope(&spec(3, Assignment::None));
        let conflict = (Because::NotNewer, "spec-conflict".to_owned());
        assert_eq!(refused(inbox.put(other)), conflict);
        let (stranger, _) = SigningKey::generate().expect("key");
        let bytes = serde_json::to_vec(&spec(9, Assignment::None)).expect("json");
        let foreign = stranger.sign(DocumentKind::Spec, &bytes);
        assert_eq!(refused(inbox.put(foreign)).0, Because::Untrusted);
        let mut elsewhere = spec(9, Assignment::None);
        elsewhere.host_id = HostId::random();
        let elsewhere = plane.envelope(&elsewhere);
        assert_eq!(refused(inbox.put(elsewhere)).0, Because::NotUnderstood);
        let orders = open(&fs).orders();
        let SpecSeen::Newest(newest) = orders.spec else {
            panic!("{orders:?}");
        };
        assert_eq!(newest.generation, Generation(3));
        assert_eq!(newest.assignment.role(), Role::Worker);
    }

    #[test]
    fn what_is_lost_is_said_and_the_one_before_is_only_that() {
        let (_dir, fs, plane) = fixture();
        let inbox = open(&fs);
        inbox.put(plane.worker(1)).expect("put");
        inbox.put(plane.worker(2)).expect("put");
        damage(&fs, SPEC);
        for _ in 0..2 {
            let SpecSeen::Lost { why, before } = open(&fs).orders().spec else {
                panic!("the newest is lost");
            };
            assert_eq!(why.code, FaultCode::StateBroken);
            assert_eq!(before.expect("before").generation, Generation(1));
        }
        // What is handed over again is newer than the one before it.
        let inbox = open(&fs);
        assert_eq!(inbox.put(plane.worker(2)), Ok(Generation(2)));
        assert!(matches!(inbox.orders().spec, SpecSeen::Newest(_)));
        assert!(matches!(open(&fs).orders().spec, SpecSeen::Newest(_)));
    }

    #[test]
    fn a_document_of_another_version_stays_where_it_is() {
        let (_dir, fs, plane) = fixture();
        open(&fs).put(plane.worker(1)).expect("put");
        let later = br#"{"schema": 2, "kind": "pf9-spec", "what": "is this"}"#;
        let attrs = crate::host::fs::Attrs::mode(0o600);
        fs.write(SPEC, later, &attrs).expect("a later program's");
        let SpecSeen::Lost { why, before } = open(&fs).orders().spec else {
            panic!("it cannot be read");
        };
        assert_eq!((why.code, before), (FaultCode::StateNotUnderstood, None));
        assert_eq!(
            fs.read(SPEC, 1000).expect("read").as_deref(),
            Some(&later[..])
        );
    }

    #[test]
    fn a_local_removal_holds_until_something_newer_comes() {
        let (_dir, fs, plane) = fixture();
        let inbox = open(&fs);
        inbox.put(plane.worker(5)).expect("put");
        assert_eq!(inbox.put_none(false).expect("none"), Generation(5));
        let upto = LocalSeen::UpTo(Generation(5));
        assert_eq!(inbox.orders().local, upto);
        inbox.put(plane.worker(5)).expect("the same again");
        assert_eq!(inbox.orders().local, upto);
        assert_eq!(open(&fs).orders().local, upto, "after a restart too");
        // The spec is lost and handed over again: it is not newer for that.
        fs.remove_file(SPEC).expect("lost");
        let inbox = open(&fs);
        inbox.put(plane.worker(5)).expect("again");
        assert_eq!(inbox.orders().local, upto);
        // Newer, by another key or for another peer's sake, and the very node that root took away.
        inbox.put(plane.worker(6)).expect("newer");
        let upto = LocalSeen::UpTo(Generation(6));
        assert_eq!(inbox.orders().local, upto);
        assert_eq!(open(&fs).orders().local, upto);
        // Attached again.
        inbox.put(plane.again(7)).expect("another time as a node");
        assert_eq!(inbox.orders().local, LocalSeen::No);
        assert_eq!(open(&fs).orders().local, LocalSeen::No);
    }

    #[test]
    fn a_plane_that_agrees_ends_roots_order() {
        let (_dir, fs, plane) = fixture();
        let inbox = open(&fs);
        inbox.put(plane.worker(5)).expect("put");
        inbox.put_none(false).expect("none");
        let none = plane.envelope(&spec(6, Assignment::None));
        inbox.put(none).expect("no role");
        assert_eq!(inbox.orders().local, LocalSeen::No);
    }

    #[test]
    fn force_is_remembered_and_so_is_its_withdrawal() {
        let (_dir, fs, plane) = fixture();
        let inbox = open(&fs);
        inbox.put(plane.worker(5)).expect("put");
        inbox.put_none(false).expect("none");
        assert!(!inbox.orders().force());
        inbox.put_none(true).expect("none, by force");
        assert!(inbox.orders().force() && open(&fs).orders().force());
        // Another spec for the same node changes nothing about root's order.
        inbox.put(plane.worker(6)).expect("put");
        assert!(open(&fs).orders().force());
        inbox.put_none(false).expect("none");
        assert!(!open(&fs).orders().force());
        // By the plane: with the spec that takes the role away.
        let (_dir, fs, plane) = fixture();
        let inbox = open(&fs);
        let mut none = spec(7, Assignment::None);
        none.force = true;
        inbox.put(plane.envelope(&none)).expect("put");
        assert!(open(&fs).orders().force());
        none.generation = Generation(8);
        none.force = false;
        inbox.put(plane.envelope(&none)).expect("put");
        assert!(!inbox.orders().force());
    }

    #[test]
    fn a_local_order_that_cannot_be_read_is_not_taken_for_none() {
        let (_dir, fs, plane) = fixture();
        let inbox = open(&fs);
        inbox.put(plane.worker(5)).expect("put");
        inbox.put_none(false).expect("none");
        damage(&fs, "/var/opt/pf9/nodelet/local-none.json");
        let inbox = open(&fs);
        assert!(matches!(inbox.orders().local, LocalSeen::Lost(_)));
        inbox.put(plane.worker(6)).expect("newer");
        assert_eq!(inbox.orders().local, LocalSeen::No);
    }

    #[test]
    fn another_plane_starts_counting_anew() {
        let (_dir, fs, plane) = fixture();
        let inbox = open(&fs);
        inbox.put(plane.worker(50)).expect("put");
        inbox.put_none(false).expect("none");
        let other = Plane {
            key: enrolled(&fs),
            cas: Cas::new(),
        };
        let inbox = open(&fs);
        assert!(
            matches!(inbox.orders().spec, SpecSeen::Lost { .. }),
            "the old one is not believed"
        );
        assert_eq!(inbox.put(other.worker(1)), Ok(Generation(1)));
        let orders = inbox.orders();
        assert!(matches!(orders.spec, SpecSeen::Newest(_)));
        assert_eq!(
            orders.local,
            LocalSeen::No,
            "that was about the other plane's"
        );
    }

    /// A spec that comes over the socket, broken at every point: see [`crate::seam::walk`].
    #[cfg(feature = "fault")]
    pub(crate) mod walk {
        use std::collections::BTreeMap;
        use std::time::Duration;

        use tokio_util::sync::CancellationToken;

        use super::*;
        use crate::host::ours::paths::WRITTEN_BY_ROOT;
        use crate::host::temps;
        use crate::local::{Client, Policy, Reply, StatusCode, bind, serve};
        use crate::seam::walk::{Scenario, files, walk};

        pub(crate) struct HandedOver;

        pub(crate) struct Handing(
            HostFs,
            Envelope,
            #[expect(dead_code, reason = "it goes with it")] tempfile::TempDir,
        );

        impl Scenario for HandedOver {
            const NAME: &'static str = "spec that is handed over";
            type World = Handing;

            async fn begin(&self) -> Handing {
                let (dir, fs, plane) = fixture();
                open(&fs).put(plane.worker(1)).expect("the first");
                std::fs::create_dir_all(fs.at("/run/pf9")).expect("directory");
                Handing(fs, plane.worker(2), dir)
            }

            async fn life(&self, Handing(fs, next, _): &mut Handing, _starts: bool) -> bool {
                temps::collect(fs, WRITTEN_BY_ROOT);
                let inbox = open(fs);
                let found = matches!(inbox.orders().spec, SpecSeen::Newest(_));
                assert!(found, "there is one at every instant");
                let at = fs.at("/run/pf9/nodelet.sock");
                let Ok(listener) = bind(&at, 0o600) else {
                    return false;
                };
                let stop = CancellationToken::new();
                let policy = Policy {
                    body_bound: Arc::new(|_| Ok(1024 * 1024)),
                    ..Policy::default()
                };
                let server = serve(listener, policy, stop.clone(), move |request| {
                    let envelope: Envelope = serde_json::from_slice(&request.body).expect("signed");
                    let reply = match inbox.put(envelope) {
                        Ok(_) => Reply::empty(),
                        Err(e) => Reply::fault(StatusCode::CONFLICT, e.fault()),
                    };
                    std::future::ready(reply)
                });
                let _ends = stop.drop_guard();
                let client = Client::unix(&at).expect("client");
                let within = Duration::from_secs(30);
                let put = client.send::<_, ()>(http::Method::PUT, "/v1/spec", &*next, within);
                tokio::select! {
                    done = put => done.is_ok(),
                    () = server => false,
                }
            }

            async fn end(&self, Handing(fs, ..): &mut Handing) -> BTreeMap<String, String> {
                let SpecSeen::Newest(spec) = open(fs).orders().spec else {
                    panic!("it is lost");
                };
                assert_eq!(spec.generation, Generation(2));
                let mut end = files(fs, |path| path.contains('.'));
                end.retain(|path, _| !path.starts_with("/run") && !path.contains("/trust/"));
                end
            }
        }

        #[tokio::test]
        async fn a_spec_that_is_handed_over_broken_anywhere_is_in_force() {
            walk(&HandedOver, 60).await;
        }
    }
}
