//! The accepted spec on disk, and whether nodelet is needed.
//!
//! Where the newest document cannot be used, the one before it is what there is: nodelet and the
//! plane judge by themselves whether it is still of use.

use serde::{Deserialize, Serialize};

use crate::host::documents::{Document, Store, stored_spec};
use crate::host::fs::{Found, FsError, HostFs};
use crate::host::refusals;
use crate::model::{Accepted, Envelope, Fault, FaultCode, HostId, Timestamp, TrustStore, paths};

/// The accepted spec.
const SPEC: &str = "/var/opt/pf9/hostagent/spec.json";
/// Whether nodelet has something of a role on this machine.
const NEEDED: &str = "/var/opt/pf9/hostagent/nodelet-needed.json";

/// One word and a number.
const NOTE_MAX: u64 = 1024;

/// Nobody but us and root needs to read it.
const MODE: u32 = 0o640;

/// Reads and writes what hostagent must remember.
#[derive(Clone)]
pub(super) struct SpecStore {
    fs: HostFs,
    spec: Store,
    needed: Store,
}

/// What was found at start.
pub(super) struct Loaded {
    /// The spec to go on with.
    pub(super) spec: Option<Accepted>,
    /// Why it is not the newest.
    pub(super) fault: Option<Fault>,
    /// The damaged ones that are kept for people, newest first.
    pub(super) quarantined: Vec<String>,
    /// The newest of them is what the fault speaks of.
    pub(super) is_new: bool,
}

/// Whether nodelet has, or may have, something of a role.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    schema: u32,
    needed: bool,
}

impl Document for Note {
    const SCHEMA: u32 = 1;
}

impl Loaded {
    pub(super) fn nothing(fault: Fault) -> Self {
        Self {
            spec: None,
            fault: Some(fault),
            quarantined: Vec::new(),
            is_new: false,
        }
    }
}

impl SpecStore {
    pub(super) fn new(fs: HostFs) -> Self {
        Self {
            spec: Store::of_envelope(fs.clone(), SPEC, MODE).at_all_costs(),
            needed: Store::new(fs.clone(), NEEDED, MODE, NOTE_MAX).at_all_costs(),
            fs,
        }
    }

    /// The last good spec.
    pub(super) fn load(&self, trust: &TrustStore, host: HostId, now: Timestamp) -> Loaded {
        let before = self.spec.quarantined();
        let loaded = self.spec.load(now, stored_spec(trust, host));
        let quarantined = self.spec.quarantined();
        Loaded {
            spec: loaded.value,
            fault: loaded.fault,
            is_new: quarantined.iter().any(|name| !before.contains(name)),
            quarantined,
        }
    }

    /// Puts a spec in force: durable when this returns.
    pub(super) fn save(&self, envelope: &Envelope) -> Result<(), Fault> {
        self.spec.save(envelope).map_err(|e| store_fault(&e))
    }

    /// Whether nodelet has, or may have, something of a role. Without a note of our own that can be
    /// trusted the machine is asked: a lost state directory must not leave a role behind unseen.
    pub(super) fn nodelet_needed(&self) -> bool {
        let note = self.needed.look(|note: Note| Ok(note.needed));
        match (note.value, note.fault) {
            (Some(needed), None) => needed,
            // The note before may say no where the newest said yes.
            (_, Some(_)) => true,
            (None, None) => [paths::KUBE_STATUS, paths::STACK_CURRENT]
                .into_iter()
                .any(|p| !matches!(self.fs.found(p), Ok(Found::Nothing))),
        }
    }

    /// Notes it for the next start.
    pub(super) fn note_nodelet_needed(&self, needed: bool) -> Result<(), Fault> {
        let note = Note {
            schema: Note::SCHEMA,
            needed,
        };
        self.needed.save(&note).map_err(|e| store_fault(&e))
    }
}

fn store_fault(error: &FsError) -> Fault {
    let fault = refusals::fault(FaultCode::StateIo, "cannot store the spec", error);
    match fault.fix.is_empty() {
        true => fault.fix("check the disk and the named path"),
        false => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;
    use crate::model::{Assignment, DocumentKind, Generation, SigningKey, Spec};

    pub(crate) struct Fixture {
        store: SpecStore,
        key: SigningKey,
        trust: TrustStore,
        host: HostId,
        _dir: tempfile::TempDir,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().expect("tempdir");
        let (key, _) = SigningKey::generate().expect("key");
        Fixture {
            store: SpecStore::new(HostFs::new(dir.path())),
            trust: TrustStore::new([key.trusted()]).expect("trust"),
            key,
            host: HostId::random(),
            _dir: dir,
        }
    }

    impl Fixture {
        fn envelope(&self, generation: u64) -> Envelope {
            let spec = Spec {
                schema: 1,
                host_id: self.host,
                generation: Generation(generation),
                issued_at: Timestamp::UNIX_EPOCH,
                assignment: Assignment::None,
                force: false,
                agent: None,
                maintenance: None,
            };
            let bytes = serde_json::to_vec(&spec).expect("json");
            self.key.sign(DocumentKind::Spec, &bytes)
        }
        fn load(&self) -> (Option<u64>, Option<String>) {
            let loaded = self
                .store
                .load(&self.trust, self.host, Timestamp::UNIX_EPOCH);
            (
                loaded.spec.map(|s| s.spec.generation.0),
                loaded.fault.map(|f| f.code.to_string()),
            )
        }
    }

    #[test]
    fn the_newest_is_found_again() {
        let f = fixture();
        assert_eq!(f.load(), (None, None));
        f.store.save(&f.envelope(1)).expect("save");
        f.store.save(&f.envelope(2)).expect("save");
        assert_eq!(f.load(), (Some(2), None));
    }

    #[test]
    fn when_the_newest_is_damaged_the_one_before_it_is_used_and_that_is_said() {
        let f = fixture();
        f.store.save(&f.envelope(1)).expect("save");
        f.store.save(&f.envelope(2)).expect("save");
        let mut damaged = f.envelope(3);
        damaged.payload.truncate(damaged.payload.len() - 4);
        let text = serde_json::to_vec(&damaged).expect("json");
        let path = "/var/opt/pf9/hostagent/spec.json";
        f.store
            .fs
            .write(path, &text, &Attrs::mode(MODE))
            .expect("damage");
        assert_eq!(f.load(), (Some(1), Some("state-broken".into())));
        f.store.save(&f.envelope(3)).expect("save");
        assert_eq!(f.load(), (Some(3), None), "the plane sent it again");
    }

    #[test]
    fn another_plane_s_spec_is_not_used_and_stays() {
        let f = fixture();
        f.store.save(&f.envelope(1)).expect("save");
        let other = SigningKey::generate().expect("key").0;
        let trust = TrustStore::new([other.trusted()]).expect("trust");
        let loaded = f.store.load(&trust, f.host, Timestamp::UNIX_EPOCH);
        assert!(loaded.spec.is_none());
        let said = loaded.fault.expect("said");
        assert_eq!(said.code, FaultCode::StateNotUnderstood);
        // Another version of the agent would trust it no more.
        assert!(said.fix.contains("node prep --force"), "{said}");
        assert_eq!(f.load(), (Some(1), None));
    }

    #[test]
    fn without_a_note_the_machine_is_asked() {
        let f = fixture();
        assert!(!f.store.nodelet_needed());
        f.store
            .fs
            .write(paths::KUBE_STATUS, b"{}", &Attrs::mode(0o644))
            .expect("write");
        assert!(f.store.nodelet_needed());
        f.store.note_nodelet_needed(false).expect("note");
        assert!(!f.store.nodelet_needed());
        f.store
            .fs
            .write(NEEDED, b"no note", &Attrs::mode(MODE))
            .expect("damage");
        assert!(f.store.nodelet_needed(), "the note before it is none");
        f.store.note_nodelet_needed(true).expect("note");
        assert!(f.store.nodelet_needed());
    }

    /// A newer spec in place of one that was damaged, broken at every point: see [`crate::seam::walk`].
    #[cfg(feature = "fault")]
    pub(crate) mod walk {
        use std::collections::BTreeMap;

        use super::*;
        use crate::host::ours::paths::WRITTEN_BY_HOSTAGENT;
        use crate::host::temps;
        use crate::seam::walk::{Scenario, files, walk};

        pub(crate) struct NewSpec<const DAMAGED: bool>;

        pub(crate) struct Storing(Fixture, Envelope);

        impl<const DAMAGED: bool> Scenario for NewSpec<DAMAGED> {
            const NAME: &'static str = if DAMAGED {
                "spec in place of a damaged one"
            } else {
                "spec"
            };
            type World = Storing;

            async fn begin(&self) -> Storing {
                let f = fixture();
                f.store.save(&f.envelope(1)).expect("save");
                f.store.save(&f.envelope(2)).expect("save");
                if DAMAGED {
                    let attrs = Attrs::mode(MODE);
                    f.store.fs.write(SPEC, b"{", &attrs).expect("damage");
                }
                let next = f.envelope(3);
                Storing(f, next)
            }

            async fn life(&self, Storing(f, next): &mut Storing, starts: bool) -> bool {
                if starts {
                    temps::collect(&f.store.fs, WRITTEN_BY_HOSTAGENT);
                }
                let (generation, _) = f.load();
                assert!(generation.is_some(), "there is one at every instant");
                generation == Some(3) || (f.store.save(next).is_ok() && f.load().0 == Some(3))
            }

            async fn end(&self, Storing(f, _): &mut Storing) -> BTreeMap<String, String> {
                assert_eq!(f.load(), (Some(3), None));
                let mut end = files(&f.store.fs, |path| path.contains(".json"));
                // Kept for people when it was damaged, if the one that kept it was not cut off.
                end.retain(|path, _| !path.contains(".broken-"));
                end
            }
        }

        #[tokio::test]
        async fn a_spec_broken_anywhere_is_the_new_one() {
            walk(&NewSpec::<false>, 60).await;
        }

        #[tokio::test]
        async fn a_damaged_spec_broken_anywhere_is_replaced() {
            walk(&NewSpec::<true>, 60).await;
        }
    }
}
