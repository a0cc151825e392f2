//! What nodelet was told to do: the newest spec that was verified, on disk before it is answered.
//!
//! A spec is believed by its signature alone; who brought it does not matter. A person who is root
//! may take the role away without the plane; that holds until the plane sends something newer.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::store::Store;
use crate::host::fs::HostFs;
use crate::identity;
use crate::model::{
    Assignment, Digest, DocumentKind, Envelope, Fault, Generation, HostId, NodeSpec, Role, Spec,
    Timestamp, TrustStore, Untrusted, paths,
};
use crate::telemetry::chain;

/// Version of the note that a person took the role away.
const LOCAL_SCHEMA: u32 = 1;

/// The job of the loop.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Job {
    /// The newest spec.
    pub generation: Generation,
    /// What the host is to be; `None`: no role.
    pub node: Option<(Role, Arc<NodeSpec>)>,
    /// Why there is no job although there was one: the stored spec cannot be used.
    pub fault: Option<Fault>,
}

/// A person took the role away.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LocalNone {
    schema: u32,
    /// Specs up to this one do not count.
    generation: Generation,
}

/// Why a spec was not taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Refused {
    /// Not signed by a key that is believed.
    Untrusted(Fault),
    /// Signed, and not what a spec must be.
    Invalid(Fault),
    /// Older than what is in force.
    Older(Fault),
    /// It could not be stored, or this host does not know whom to believe.
    Broken(Fault),
}

/// Where specs arrive.
pub struct Inbox {
    fs: HostFs,
    spec: Store,
    local: Store,
    state: Mutex<State>,
    job: watch::Sender<Job>,
}

#[derive(Default)]
struct State {
    envelope: Option<Envelope>,
    local: Option<Generation>,
}

struct Believed {
    spec: Spec,
    digest: Digest,
}

impl Inbox {
    /// Takes up what was stored; works on it at once, whether anybody calls or not.
    pub fn open(fs: HostFs, now: Timestamp) -> (Arc<Self>, watch::Receiver<Job>) {
        let at = |name: &str| Store::new(fs.clone(), format!("{}/{name}", paths::NODELET_STATE));
        let (job, rx) = watch::channel(Job::default());
        let inbox = Self {
            spec: at("spec.json"),
            local: at("local-none.json"),
            fs,
            state: Mutex::default(),
            job,
        };
        inbox.take_up(now);
        (Arc::new(inbox), rx)
    }

    /// A spec arrived. It is on the disk when this returns.
    pub fn put(&self, envelope: Envelope) -> Result<Generation, Refused> {
        let (trust, host) = whom_to_believe(&self.fs).map_err(Refused::Broken)?;
        let new = believe(&envelope, &trust, host)?;
        let mut state = self.lock();
        // One that is no longer believed (the host has another plane now) does not count.
        let now = state
            .envelope
            .as_ref()
            .and_then(|e| believe(e, &trust, host).ok());
        if let Some(now) = now {
            let (have, got) = (now.spec.generation, new.spec.generation);
            if got == have && new.digest == now.digest {
                return Ok(have);
            }
            if got <= have {
                let why = format!("generation {got} is not newer than {have}, which is in force");
                let fault = Fault::new("spec-older", "spec refused", why);
                return Err(Refused::Older(fault));
            }
        }
        let broken = |e: &crate::host::fs::FsError| {
            Refused::Broken(Fault::new("state", "cannot store the spec", chain(e)))
        };
        self.spec.save(&envelope).map_err(|e| broken(&e))?;
        state.envelope = Some(envelope);
        let generation = new.spec.generation;
        self.publish(&state, Ok(Some(new)));
        Ok(generation)
    }

    /// A person takes the role away, without the plane.
    pub fn put_none(&self) -> Result<Generation, Fault> {
        let mut state = self.lock();
        let generation = self.job.borrow().generation;
        let note = LocalNone {
            schema: LOCAL_SCHEMA,
            generation,
        };
        self.local
            .save(&note)
            .map_err(|e| Fault::new("state", "cannot take the role away", chain(&e)))?;
        state.local = Some(generation);
        let job = self.job.borrow().clone();
        self.job.send_replace(Job {
            node: None,
            fault: None,
            ..job
        });
        Ok(generation)
    }

    /// The job now.
    pub fn job(&self) -> Job {
        self.job.borrow().clone()
    }

    fn take_up(&self, now: Timestamp) {
        let mut state = self.lock();
        let local = self.local.load(now, |n: &LocalNone| {
            (n.schema == LOCAL_SCHEMA)
                .then_some(())
                .ok_or_else(|| format!("schema {}", n.schema))
        });
        state.local = local.ok().and_then(|l| l.value).map(|n| n.generation);
        let result = whom_to_believe(&self.fs).and_then(|(trust, host)| {
            let good = |e: &Envelope| match believe(e, &trust, host) {
                Ok(_) => Ok(()),
                // Somebody else's signature is no damage: the file stays as it is.
                Err(Refused::Untrusted(_)) => Ok(()),
                Err(Refused::Invalid(f) | Refused::Older(f) | Refused::Broken(f)) => {
                    Err(f.to_string())
                }
            };
            let loaded = self
                .spec
                .load(now, good)
                .map_err(|e| Fault::new("state", "cannot read the stored spec", chain(&e)))?;
            if let Some(fault) = &loaded.fault {
                tracing::error!(code = fault.code, "{fault}");
            }
            let believed = match &loaded.value {
                None => None,
                Some(envelope) => Some(believe(envelope, &trust, host).map_err(Refused::fault)?),
            };
            state.envelope = loaded.value;
            match (believed, loaded.fault) {
                (None, Some(fault)) => Err(fault),
                (believed, _) => Ok(believed),
            }
        });
        self.publish(&state, result);
    }

    fn publish(&self, state: &State, believed: Result<Option<Believed>, Fault>) {
        let job = match believed {
            Err(fault) => Job {
                fault: Some(fault),
                ..Job::default()
            },
            Ok(None) => Job::default(),
            Ok(Some(Believed { spec, .. })) => {
                let generation = spec.generation;
                let overruled = state.local.is_some_and(|local| generation <= local);
                Job {
                    generation,
                    fault: None,
                    node: match spec.assignment {
                        _ if overruled => None,
                        Assignment::None => None,
                        Assignment::Master(node) => Some((Role::Master, Arc::from(node))),
                        Assignment::Worker(node) => Some((Role::Worker, Arc::from(node))),
                    },
                }
            }
        };
        self.job.send_if_modified(|old| {
            let changed = *old != job;
            *old = job;
            changed
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Refused {
    /// In words.
    pub fn fault(self) -> Fault {
        match self {
            Self::Untrusted(f) | Self::Invalid(f) | Self::Older(f) | Self::Broken(f) => f,
        }
    }
}

/// The pinned keys and this host's id.
pub fn whom_to_believe(fs: &HostFs) -> Result<(TrustStore, HostId), Fault> {
    let what = "cannot tell whom to believe";
    let trust = identity::trust(fs).map_err(|e| e.fault(what))?;
    let host = identity::host_id(fs).map_err(|e| e.fault(what))?;
    let host = host.ok_or_else(|| {
        Fault::new("not-enrolled", what, "this host is not enrolled")
            .fix("run pf9ctl prep-node with the plane's URL and a token")
    })?;
    Ok((trust, host))
}

fn believe(envelope: &Envelope, trust: &TrustStore, host: HostId) -> Result<Believed, Refused> {
    let refuse = |e: &Untrusted| {
        let fault = e.fault("spec");
        match e {
            Untrusted::UnknownKey(_) | Untrusted::BadSignature => Refused::Untrusted(fault),
            Untrusted::Schema(_)
            | Untrusted::Kind
            | Untrusted::Malformed(_)
            | Untrusted::Damaged => Refused::Invalid(fault),
        }
    };
    let spec: Spec = envelope
        .open(DocumentKind::Spec, trust)
        .map_err(|e| refuse(&e))?;
    spec.validate(host).map_err(Refused::Invalid)?;
    let digest = envelope.payload_digest().map_err(|e| refuse(&e))?;
    Ok(Believed { spec, digest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SigningKey;
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
            let node = node(self.cas.authorities.clone());
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

    #[test]
    fn only_newer_believed_specs_are_taken_and_they_survive() {
        let (_dir, fs, plane) = fixture();
        let inbox = open(&fs);
        assert_eq!(inbox.put(plane.worker(3)), Ok(Generation(3)));
        assert_eq!(
            inbox.put(plane.worker(3)),
            Ok(Generation(3)),
            "again is fine"
        );
        assert!(matches!(inbox.put(plane.worker(2)), Err(Refused::Older(_))));
        let other = plane.envelope(&spec(3, Assignment::None));
        assert!(matches!(inbox.put(other), Err(Refused::Older(_))));
        let (stranger, _) = SigningKey::generate().expect("key");
        let bytes = serde_json::to_vec(&spec(9, Assignment::None)).expect("json");
        let foreign = stranger.sign(DocumentKind::Spec, &bytes);
        assert!(matches!(inbox.put(foreign), Err(Refused::Untrusted(_))));
        let mut elsewhere = spec(9, Assignment::None);
        elsewhere.host_id = HostId::random();
        let elsewhere = plane.envelope(&elsewhere);
        assert!(matches!(inbox.put(elsewhere), Err(Refused::Invalid(_))));
        let job = open(&fs).job();
        assert_eq!(job.generation, Generation(3));
        assert_eq!(job.node.map(|(role, _)| role), Some(Role::Worker));
    }

    #[test]
    fn a_broken_store_falls_back_to_the_spec_before() {
        let (_dir, fs, plane) = fixture();
        let inbox = open(&fs);
        inbox.put(plane.worker(1)).expect("put");
        inbox.put(plane.worker(2)).expect("put");
        let path = format!("{}/spec.json", paths::NODELET_STATE);
        let attrs = crate::host::fs::Attrs::mode(0o600);
        fs.write(&path, b"{", &attrs).expect("break");
        assert_eq!(open(&fs).job().generation, Generation(1));
    }

    #[test]
    fn a_local_removal_holds_until_something_newer_comes() {
        let (_dir, fs, plane) = fixture();
        let inbox = open(&fs);
        inbox.put(plane.worker(5)).expect("put");
        assert_eq!(inbox.put_none().expect("none"), Generation(5));
        assert_eq!(inbox.job().node, None);
        inbox.put(plane.worker(5)).expect("the same again");
        assert_eq!(inbox.job().node, None);
        assert_eq!(open(&fs).job().node, None, "after a restart too");
        inbox.put(plane.worker(6)).expect("newer");
        assert!(inbox.job().node.is_some());
    }

    #[test]
    fn another_plane_starts_counting_anew() {
        let (_dir, fs, plane) = fixture();
        open(&fs).put(plane.worker(50)).expect("put");
        let other = Plane {
            key: enrolled(&fs),
            cas: Cas::new(),
        };
        let inbox = open(&fs);
        assert!(inbox.job().fault.is_some(), "the old one is not believed");
        assert_eq!(inbox.put(other.worker(1)), Ok(Generation(1)));
        assert!(inbox.job().node.is_some());
    }
}
