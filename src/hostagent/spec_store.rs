//! The accepted spec on disk, and the one before it.
//!
//! A broken file is put aside and the one before it is used: a node never forgets what it is to be
//! because of one bad sector.

use std::path::Path;

use super::accept::{self, Verdict};
use super::board::Accepted;
use crate::host::fs::{Attrs, Found, FsError, HostFs};
use crate::model::{Envelope, Fault, HostId, PAYLOAD_MAX, TrustStore, paths};
use crate::stack::space;

const SPEC: &str = "/var/opt/pf9/hostagent/spec.json";
const PREVIOUS: &str = "/var/opt/pf9/hostagent/spec.json.prev";
const BROKEN: &str = "/var/opt/pf9/hostagent/spec.json.broken";
/// Whether nodelet has something of a role on this machine: `true` or `false`.
const NEEDED: &str = "/var/opt/pf9/hostagent/nodelet-needed.json";

/// An envelope of the largest payload.
const ENVELOPE_MAX: u64 = (PAYLOAD_MAX as u64) / 3 * 4 + 4096;

/// Nobody but us and root needs to read it.
const MODE: u32 = 0o640;

/// Reads and writes the accepted spec.
#[derive(Clone)]
pub(super) struct SpecStore {
    fs: HostFs,
}

/// What was found at start.
pub(super) struct Loaded {
    /// The spec to go on with.
    pub(super) spec: Option<Accepted>,
    /// What was wrong with a file.
    pub(super) fault: Option<Fault>,
}

impl Loaded {
    pub(super) fn nothing(fault: Fault) -> Self {
        Self {
            spec: None,
            fault: Some(fault),
        }
    }
}

impl SpecStore {
    pub(super) fn new(fs: HostFs) -> Self {
        Self { fs }
    }

    /// The last good spec.
    pub(super) fn load(&self, trust: &TrustStore, host: HostId) -> Loaded {
        let mut fault = None;
        for path in [SPEC, PREVIOUS] {
            match self.read(path, trust, host) {
                Ok(None) => {}
                Ok(Some(spec)) => {
                    return Loaded {
                        spec: Some(spec),
                        fault,
                    };
                }
                Err(why) => {
                    self.put_aside(path);
                    fault.get_or_insert(why);
                }
            }
        }
        Loaded { spec: None, fault }
    }

    /// Puts a spec in force: durable when this returns.
    pub(super) fn save(&self, envelope: &Envelope) -> Result<(), Fault> {
        let write = || -> Result<(), FsError> {
            if let Some(old) = self.fs.read(SPEC, ENVELOPE_MAX)? {
                self.fs.write(PREVIOUS, &old, &Attrs::mode(MODE))?;
            }
            // An envelope is text and numbers: it can always be written as JSON.
            let bytes = serde_json::to_vec(envelope).unwrap_or_default();
            self.fs.write(SPEC, &bytes, &Attrs::mode(MODE))
        };
        write().map_err(|e| store_fault(&e))
    }

    /// Whether nodelet has, or may have, something of a role. Without a note of our own the
    /// machine is asked: a lost state directory must not leave a role behind unseen.
    pub(super) fn nodelet_needed(&self) -> bool {
        const NOTE_MAX: u64 = 64;
        match self.fs.read_text(NEEDED, NOTE_MAX) {
            Ok(Some(text)) => text.trim() != "false",
            Ok(None) | Err(_) => [paths::KUBE_STATUS, paths::STACK_CURRENT]
                .into_iter()
                .any(|p| !matches!(self.fs.found(p), Ok(Found::Nothing))),
        }
    }

    /// Notes it for the next start.
    pub(super) fn note_nodelet_needed(&self, needed: bool) -> Result<(), Fault> {
        let text = if needed { "true\n" } else { "false\n" };
        self.fs
            .write(NEEDED, text.as_bytes(), &Attrs::mode(MODE))
            .map_err(|e| store_fault(&e))
    }

    fn read(
        &self,
        path: &str,
        trust: &TrustStore,
        host: HostId,
    ) -> Result<Option<Accepted>, Fault> {
        let bad = |why: String| {
            Fault::new(
                "spec-damaged",
                format!("cannot use the stored spec {path}"),
                why,
            )
            .fix("nothing: the spec before it is used, and the plane sends the newest again")
        };
        let Some(bytes) = self
            .fs
            .read(path, ENVELOPE_MAX)
            .map_err(|e| bad(crate::telemetry::chain(&e)))?
        else {
            return Ok(None);
        };
        let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        match accept::judge(envelope, trust, host, None) {
            Verdict::New(accepted) => Ok(Some(*accepted)),
            // Nothing is in force yet, so nothing can be the same.
            Verdict::Same => Ok(None),
            Verdict::Refused(refusal) => Err(bad(refusal.fault.why)),
        }
    }

    /// Best effort: what matters is that it is not used.
    fn put_aside(&self, path: &str) {
        let moved = std::fs::rename(self.fs.at(path), self.fs.at(Path::new(BROKEN)));
        if let Err(error) = moved {
            tracing::warn!(path, %error, "cannot put a broken spec aside");
        }
    }
}

fn store_fault(error: &FsError) -> Fault {
    let (code, fix) = if space::is_full(&error.source) {
        ("disk-full", space::FIX)
    } else {
        ("state-io", "look at the disk and the named path")
    };
    let why = crate::telemetry::chain(error);
    Fault::new(code, "cannot store the spec", why).fix(fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Assignment, DocumentKind, Generation, SigningKey, Spec, Timestamp};

    struct Fixture {
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
            };
            let bytes = serde_json::to_vec(&spec).expect("json");
            self.key.sign(DocumentKind::Spec, &bytes)
        }
        fn load(&self) -> (Option<u64>, Option<String>) {
            let loaded = self.store.load(&self.trust, self.host);
            (
                loaded.spec.map(|s| s.spec.generation.0),
                loaded.fault.map(|f| f.code),
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
    fn a_broken_one_is_put_aside_and_the_one_before_is_used() {
        for damage in [&b"{\"schema\":1"[..], b"", &[0xff; 64], b"null"] {
            let f = fixture();
            f.store.save(&f.envelope(1)).expect("save");
            f.store.save(&f.envelope(2)).expect("save");
            f.store
                .fs
                .write(SPEC, damage, &Attrs::mode(MODE))
                .expect("damage");
            assert_eq!(f.load(), (Some(1), Some("spec-damaged".into())));
            assert_eq!(f.load(), (Some(1), None), "reported once");
            let kept = f.store.fs.read(BROKEN, 100).expect("read");
            assert_eq!(kept.as_deref(), Some(damage), "kept for a person");
        }
    }

    #[test]
    fn another_plane_s_spec_is_not_used() {
        let f = fixture();
        f.store.save(&f.envelope(1)).expect("save");
        let other = SigningKey::generate().expect("key").0;
        let trust = TrustStore::new([other.trusted()]).expect("trust");
        let loaded = f.store.load(&trust, f.host);
        assert!(loaded.spec.is_none() && loaded.fault.is_some());
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
        f.store.note_nodelet_needed(true).expect("note");
        assert!(f.store.nodelet_needed());
    }
}
