//! The ledger: what was installed, in which order, what was there before, with which inputs each unit was last started,
//! which images were imported (`images`). Removal reads it backwards; one that is lost is rewritten (`lost`). What a step leaves
//! is one table (`artefacts`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::artefacts::artefacts_of;
use super::job::LedgerSeen;
use super::phase::layout;
use super::step::Step;
use crate::host::Host;
use crate::host::documents::{Document, Store};
use crate::host::fs::{Attrs, Found, FsError, HostFs};
use crate::host::ours;
use crate::model::{
    CertPurpose, Digest, Fault, FaultCode, Generation, InstalledStatus, NodeSpec, Role, StackRef,
    Timestamp, paths,
};

mod artefacts;
pub mod images;
mod lost;

/// A few thousand artefacts, and the spec of a large cluster.
const LEDGER_MAX: u64 = 16 * 1024 * 1024;
/// A few certificates.
const AUTHORITY_MAX: u64 = 256 * 1024;
/// Trials of a program that are remembered: with one, what runs and what is beside it would be tried by turns.
const TRIED_KEPT: usize = 2;
/// Largest foreign file that is kept so that removal can put it back.
const ORIGINAL_MAX: u64 = 1024 * 1024;

/// What is known about our own work on this host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    schema: u32,
    /// For what the artefacts were installed; absent on a host that is no node.
    pub installed: Option<Installed>,
    /// A removal has destroyed something of it, by the order of that time: it goes on to the end,
    /// whatever comes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removing: bool,
    /// Units of ours that were started.
    pub units: BTreeMap<String, UnitRecord>,
    /// Everything that was made or changed, oldest first.
    pub artefacts: Vec<Artefact>,
    /// The stack whose every byte was verified last.
    pub stack: Option<StackRecord>,
    /// Programs, and the digests of the trials that each passed last: of what runs, and of what is beside it.
    #[serde(default)]
    pub tried: BTreeMap<String, Vec<Digest>>,
    #[serde(default)]
    images: BTreeMap<String, images::ImageRecord>,
}

/// The node this host was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Installed {
    /// Master or worker.
    pub role: Role,
    /// The verified spec's part about it: removal needs names, addresses and authorities, and a node
    /// whose spec is lost is kept in repair by it.
    pub node: NodeSpec,
    /// The newest spec that it was worked on by; what takes it away must be newer.
    pub generation: Generation,
}

impl Document for Ledger {
    const SCHEMA: u32 = 1;
}

/// How a unit was last started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitRecord {
    /// The inputs it runs with; absent: it must be restarted.
    pub inputs: Option<Digest>,
    /// A start that was under way.
    pub intent: Option<StartIntent>,
}

/// A start that was under way when this was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartIntent {
    /// The inputs it is started with.
    pub inputs: Digest,
    /// The invocation that was to end: another one means that the start happened.
    pub before: String,
}

/// A stack that was verified byte by byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StackRecord {
    /// Which.
    pub stack: StackRef,
    /// Digest of name, size, mode and change time of every file then.
    pub fingerprint: Digest,
}

/// One thing that was made or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artefact {
    /// What.
    pub what: ArtefactKind,
    /// What was there before.
    pub before: Before,
}

/// What was made or changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum ArtefactKind {
    /// A file or link.
    File {
        /// Where.
        path: String,
    },
    /// A directory that is removed when it is empty.
    Dir {
        /// Where.
        path: String,
    },
    /// A directory whose content is ours.
    Tree {
        /// Where.
        path: String,
    },
    /// A unit that was enabled and started.
    Unit {
        /// Its name.
        unit: String,
    },
    /// A kernel parameter.
    Sysctl {
        /// Its name.
        key: String,
        /// What we set.
        value: String,
    },
}

/// What was there before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "was", rename_all = "kebab-case")]
pub enum Before {
    /// Nothing: removal takes it away.
    Nothing,
    /// A foreign object that stays.
    Foreign,
    /// A foreign file; its bytes are kept under this digest.
    File {
        /// Digest of its bytes.
        saved: Digest,
        /// Permission bits.
        mode: u32,
        /// Owner's id.
        uid: u32,
        /// Group's id.
        gid: u32,
    },
    /// A foreign link.
    Link {
        /// What it said.
        target: String,
    },
    /// Another value of a kernel parameter.
    Value {
        /// Which.
        value: String,
    },
}

/// The ledger with its place on disk; writes only what changed.
#[derive(Debug)]
pub struct LedgerFile {
    store: Store,
    fs: HostFs,
    saved: Option<Ledger>,
    doubt: Option<Doubt>,
    /// The ledger; [`LedgerFile::save`] after a change.
    pub ledger: Ledger,
}

/// The machine shows traces of a role, and no ledger that can be used tells of it.
#[derive(Debug)]
struct Doubt {
    why: Fault,
    /// The cluster's authority that the machine has, if the ledger may be rewritten.
    authority: Option<String>,
    /// A later program wrote it.
    of_another_version: bool,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            schema: Self::SCHEMA,
            installed: None,
            removing: false,
            units: BTreeMap::new(),
            artefacts: Vec::new(),
            stack: None,
            tried: BTreeMap::new(),
            images: BTreeMap::new(),
        }
    }
}

impl Ledger {
    /// True when removal has nothing to do.
    pub fn is_empty(&self) -> bool {
        self.installed.is_none() && self.artefacts.is_empty() && self.units.is_empty()
    }

    /// True when the running unit was started with these inputs. A start that was under way when
    /// the power went counts when the unit runs under another invocation than before it.
    pub fn runs_with(&self, unit: &str, inputs: &Digest, invocation: &str) -> bool {
        let Some(record) = self.units.get(unit) else {
            return false;
        };
        record.inputs.as_ref() == Some(inputs)
            || record
                .intent
                .as_ref()
                .is_some_and(|i| i.inputs == *inputs && i.before != invocation)
    }

    /// Every byte of this stack, and of its images as the runtime has them, outlives the power.
    pub fn stack_is_on_disk(&self, stack: &StackRef) -> bool {
        self.stack.as_ref().is_some_and(|kept| kept.stack == *stack)
    }

    /// Whether a program passed this trial.
    pub fn passed(&self, program: &str, trial: &Digest) -> bool {
        self.tried
            .get(program)
            .is_some_and(|all| all.contains(trial))
    }

    /// A program passed this trial.
    pub fn pass(&mut self, program: &str, trial: Digest) {
        let all = self.tried.entry(program.to_owned()).or_default();
        all.retain(|known| *known != trial);
        all.push(trial);
        let surplus = all.len().saturating_sub(TRIED_KEPT);
        all.drain(..surplus);
    }

    /// The unit must be restarted, whatever it was started with.
    pub fn must_restart(&mut self, unit: &str) {
        if let Some(record) = self.units.get_mut(unit) {
            *record = UnitRecord::default();
        }
    }

    fn knows(&self, what: &ArtefactKind) -> bool {
        let same = |a: &ArtefactKind| match (a, what) {
            // The value may change, the thing is the same.
            (ArtefactKind::Sysctl { key: a, .. }, ArtefactKind::Sysctl { key: b, .. }) => a == b,
            (a, b) => a == b,
        };
        self.artefacts.iter().any(|a| same(&a.what))
    }
}

impl LedgerFile {
    /// Reads it; a broken one is put aside, and the fault tells of it.
    pub fn load(fs: &HostFs, now: Timestamp) -> (Self, Option<Fault>) {
        Self::read(fs, Some(now))
    }

    /// Reads it and changes nothing.
    pub fn look(fs: &HostFs) -> Self {
        Self::read(fs, None).0
    }

    fn read(fs: &HostFs, now: Option<Timestamp>) -> (Self, Option<Fault>) {
        let path = format!("{}/ledger.json", paths::NODELET_STATE);
        let store = Store::new(fs.clone(), path, 0o600, LEDGER_MAX).at_all_costs();
        let loaded = match now {
            Some(now) => store.load(now, Ok::<Ledger, _>),
            None => store.look(Ok::<Ledger, _>),
        };
        // The one before it tells who is installed, and most of what: with that the node is kept,
        // and what is missing is noted again. One of another version is not replaced.
        let usable = loaded.value.filter(|l| {
            loaded.fault.is_none() || (l.installed.is_some() && !loaded.not_understood)
        });
        let doubt = match (&usable, &loaded.fault) {
            (Some(_), _) => None,
            (None, Some(why)) if loaded.not_understood => Some(Doubt {
                why: why.clone(),
                authority: None,
                of_another_version: true,
            }),
            (None, fault) => traces(fs).map(|authority| Doubt {
                why: fault.clone().unwrap_or_else(|| {
                    let why = "it is missing, and units or data of a role exist";
                    Fault::new(
                        FaultCode::StateBroken,
                        format!("cannot use {}", store.path()),
                        why,
                    )
                }),
                authority,
                of_another_version: false,
            }),
        };
        let file = Self {
            store,
            fs: fs.clone(),
            saved: usable.clone().filter(|_| loaded.fault.is_none()),
            doubt,
            ledger: usable.unwrap_or_default(),
        };
        (file, loaded.fault)
    }

    /// What is installed, as [`super::job`] asks.
    pub fn seen(&self) -> LedgerSeen<'_> {
        match (&self.doubt, &self.ledger.installed) {
            (Some(doubt), _) => LedgerSeen::Unknown {
                why: doubt.why.clone(),
                authority: doubt.authority.as_deref(),
                of_another_version: doubt.of_another_version,
            },
            (None, Some(now)) if self.ledger.removing => LedgerSeen::Removing(now),
            (None, Some(now)) => LedgerSeen::Installed(now),
            (None, None) => LedgerSeen::Empty,
        }
    }

    /// True while the ledger does not tell what is on the machine.
    pub fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// The cluster's authority that the machine has, while the ledger does not tell what is on it.
    pub fn authority(&self) -> Option<&str> {
        self.doubt.as_ref()?.authority.as_deref()
    }

    /// The newest spec that what is installed was worked on by.
    pub fn generation(&self) -> Generation {
        let now = self.ledger.installed.as_ref();
        now.map_or(Generation::default(), |i| i.generation)
    }

    /// What is installed, to be shown.
    pub fn shown(&self) -> Option<InstalledStatus> {
        let now = self.ledger.installed.as_ref()?;
        Some(InstalledStatus {
            role: now.role,
            cluster_id: now.node.cluster_id,
            generation: now.generation,
        })
    }

    /// Writes it, if it changed.
    pub fn save(&mut self) -> Result<(), FsError> {
        let unchanged = match &self.saved {
            Some(saved) => *saved == self.ledger,
            None => self.ledger == Ledger::default(),
        };
        if unchanged {
            return Ok(());
        }
        self.store.save(&self.ledger)?;
        self.saved = Some(self.ledger.clone());
        self.doubt = None;
        Ok(())
    }

    /// Notes what these steps are going to make, with what is there before. Call before the first
    /// of them is applied; one write for all.
    pub fn note<'a>(
        &mut self,
        host: &Host,
        steps: impl IntoIterator<Item = &'a Step>,
    ) -> Result<(), FsError> {
        for step in steps {
            for what in artefacts_of(step) {
                if self.ledger.knows(&what) {
                    continue;
                }
                let before = self.before(host, &what)?;
                self.ledger.artefacts.push(Artefact { what, before });
            }
        }
        self.save()
    }

    /// Where the bytes of a replaced foreign file are kept.
    pub fn original(digest: &Digest) -> String {
        format!("{}/{digest}", Self::originals())
    }

    /// Where they are.
    pub fn originals() -> String {
        format!("{}/originals", paths::NODELET_STATE)
    }

    fn before(&self, host: &Host, what: &ArtefactKind) -> Result<Before, FsError> {
        let path = match what {
            ArtefactKind::Unit { .. } => return Ok(Before::Nothing),
            ArtefactKind::Sysctl { key, .. } => {
                let value = host.kernel.sysctl(key).ok().flatten();
                return Ok(value.map_or(Before::Foreign, |value| Before::Value { value }));
            }
            ArtefactKind::File { path }
            | ArtefactKind::Dir { path }
            | ArtefactKind::Tree { path } => path,
        };
        match self.fs.found(path)? {
            Found::Nothing => Ok(Before::Nothing),
            // Left by an earlier life of ours whose ledger was lost: ours anyway.
            _ if ours::paths::of_the_role(path) => Ok(Before::Nothing),
            Found::Link(target) => Ok(Before::Link {
                target: target.to_string_lossy().into_owned(),
            }),
            Found::File { mode, uid, gid, .. } => {
                let bytes = self.fs.read(path, ORIGINAL_MAX)?.unwrap_or_default();
                let saved = Digest::of(&bytes);
                self.fs
                    .write(Self::original(&saved), &bytes, &Attrs::mode(0o600))?;
                Ok(Before::File {
                    saved,
                    mode,
                    uid,
                    gid,
                })
            }
            Found::Dir { .. } | Found::Other => Ok(Before::Foreign),
        }
    }
}

/// Whether the machine shows that it is or was a node, though nothing tells which; with the
/// cluster's authority that it has.
fn traces(fs: &HostFs) -> Option<Option<String>> {
    let units = layout::UNITS.iter();
    let units = units.map(|unit| format!("{}/{unit}", layout::UNIT_DIR));
    let data = [
        paths::ETCD_DATA,
        paths::KUBELET_ROOT,
        paths::CONTAINERD_ROOT,
    ];
    let mut all = units.chain(data.map(str::to_owned));
    // What cannot be looked at counts as there.
    if all.all(|path| matches!(fs.found(path), Ok(Found::Nothing))) {
        return None;
    }
    let authority = format!(
        "{}/{}/{}",
        paths::KUBE_CERTS,
        CertPurpose::KubeletClient.dir(),
        paths::CERT_CA_FILE
    );
    Some(fs.read_text(authority, AUTHORITY_MAX).ok().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodelet::step::FileStep;

    /// The packages' scripts look for this line.
    #[test]
    fn a_removal_is_written_as_packages_look_for_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let (mut book, _) = LedgerFile::load(&fs, Timestamp::UNIX_EPOCH);
        let path = format!("{}/ledger.json", paths::NODELET_STATE);
        let text = || {
            fs.read_text(&path, 1 << 16)
                .expect("read")
                .unwrap_or_default()
        };
        book.ledger.must_restart("pf9-kubelet.service");
        book.save().expect("saved");
        assert!(!text().contains("removing"), "{}", text());
        book.ledger.removing = true;
        book.save().expect("saved");
        assert!(text().contains("\"removing\": true"), "{}", text());
    }

    fn file(path: &str) -> Step {
        Step::File(FileStep {
            path: path.into(),
            content: "new".into(),
            encoding: Default::default(),
            mode: 0o644,
            owner: "root:root".into(),
        })
    }

    #[test]
    fn foreign_files_are_remembered_and_unchanged_ledgers_not_written() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = Host::new(HostFs::new(dir.path()));
        host.fs
            .write("/etc/crictl.yaml", b"theirs", &Attrs::mode(0o640))
            .expect("write");
        let now = Timestamp::UNIX_EPOCH;
        let (mut file_, fault) = LedgerFile::load(&host.fs, now);
        assert_eq!(fault, None);
        file_.save().expect("save");
        assert_eq!(host.fs.list(paths::NODELET_STATE).expect("list").len(), 0);
        let steps = [file("/etc/crictl.yaml"), file("/etc/pf9/kube.d/x")];
        file_.note(&host, &steps).expect("note");
        file_.note(&host, &steps).expect("note twice");
        assert_eq!(file_.ledger.artefacts.len(), 2);
        let Before::File { saved, mode, .. } = &file_.ledger.artefacts[0].before else {
            panic!(
                "the foreign file was not kept: {:?}",
                file_.ledger.artefacts
            );
        };
        assert_eq!((*mode, *saved), (0o640, Digest::of(b"theirs")));
        assert_eq!(file_.ledger.artefacts[1].before, Before::Nothing);
        let (again, _) = LedgerFile::load(&host.fs, now);
        assert_eq!(again.ledger, file_.ledger);
    }

    /// Else what runs and what is ready beside it were tried by turns, with every look.
    #[test]
    fn trials_of_two_stacks_are_remembered_and_no_more() {
        let mut ledger = Ledger::default();
        let trial = |n: u8| Digest::of(&[n]);
        for n in [1, 2, 1] {
            ledger.pass("kubelet", trial(n));
        }
        let passed = |ledger: &Ledger| [1, 2, 3].map(|n| ledger.passed("kubelet", &trial(n)));
        assert_eq!(passed(&ledger), [true, true, false]);
        ledger.pass("kubelet", trial(3));
        assert_eq!(passed(&ledger), [true, false, true]);
        assert!(!ledger.passed("etcd", &trial(1)));
    }

    #[test]
    fn an_interrupted_start_counts_when_the_invocation_changed() {
        let (old, new) = (Digest::of(b"1"), Digest::of(b"2"));
        let mut ledger = Ledger::default();
        assert!(!ledger.runs_with("u", &old, "a"));
        let record = UnitRecord {
            inputs: Some(old),
            intent: Some(StartIntent {
                inputs: new,
                before: "a".into(),
            }),
        };
        ledger.units.insert("u".into(), record);
        assert!(ledger.runs_with("u", &old, "a"));
        assert!(!ledger.runs_with("u", &new, "a"), "it was not yet started");
        assert!(ledger.runs_with("u", &new, "b"), "it was");
        ledger.must_restart("u");
        assert!(!ledger.runs_with("u", &new, "b"));
    }
}
