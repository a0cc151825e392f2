//! The ledger: what was installed, in which order, what was there before, and with which inputs
//! each unit was last started. Removal reads it backwards.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::step::Step;
use super::store::{Loaded, Store};
use crate::host::Host;
use crate::host::fs::{Attrs, Found, FsError, HostFs};
use crate::host::ours;
use crate::model::{ClusterId, Digest, Fault, NodeSpec, Role, StackRef, Timestamp, paths};

/// Version of the document.
const LEDGER_SCHEMA: u32 = 1;
/// Largest foreign file that is kept so that removal can put it back.
const ORIGINAL_MAX: u64 = 1024 * 1024;

/// What is known about our own work on this host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    schema: u32,
    /// For what the artefacts were installed; absent on a host that is no node.
    pub installed: Option<Installed>,
    /// Units of ours that were started.
    pub units: BTreeMap<String, UnitRecord>,
    /// Everything that was made or changed, oldest first.
    pub artefacts: Vec<Artefact>,
    /// The stack whose every byte was verified last.
    pub stack: Option<StackRecord>,
}

/// The node this host was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Installed {
    /// Master or worker.
    pub role: Role,
    /// The spec's part about it: removal needs names, addresses and authorities.
    pub node: NodeSpec,
}

/// How a unit was last started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitRecord {
    /// The inputs it runs with; absent: it must be started again.
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
    pub what: What,
    /// What was there before.
    pub before: Before,
}

/// What was made or changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum What {
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
    /// Something of somebody else that stays.
    Foreign,
    /// A file of somebody else; its bytes are kept under this digest.
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
    /// A link of somebody else.
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
    /// The ledger; [`LedgerFile::save`] after a change.
    pub ledger: Ledger,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            schema: LEDGER_SCHEMA,
            installed: None,
            units: BTreeMap::new(),
            artefacts: Vec::new(),
            stack: None,
        }
    }
}

impl Ledger {
    /// True when removal has nothing to do.
    pub fn is_empty(&self) -> bool {
        self.installed.is_none() && self.artefacts.is_empty() && self.units.is_empty()
    }

    /// True when what is installed belongs to this node: an update, not a removal, leads to it.
    pub fn belongs_to(&self, role: Role, node: &NodeSpec) -> bool {
        match &self.installed {
            None => self.artefacts.is_empty(),
            Some(now) => {
                now.role == role
                    && now.node.cluster_id == node.cluster_id
                    && now.node.node_name == node.node_name
            }
        }
    }

    /// The cluster that things are installed for.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.installed.as_ref().map(|i| i.node.cluster_id)
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

    /// The unit must be started again, whatever it was started with.
    pub fn must_restart(&mut self, unit: &str) {
        if let Some(record) = self.units.get_mut(unit) {
            *record = UnitRecord::default();
        }
    }

    fn knows(&self, what: &What) -> bool {
        let same = |a: &What| match (a, what) {
            // The value may change, the thing is the same.
            (What::Sysctl { key: a, .. }, What::Sysctl { key: b, .. }) => a == b,
            (a, b) => a == b,
        };
        self.artefacts.iter().any(|a| same(&a.what))
    }
}

impl LedgerFile {
    /// Reads it; the fault tells of a broken one.
    pub fn load(fs: &HostFs, now: Timestamp) -> Result<(Self, Option<Fault>), FsError> {
        let store = Store::new(fs.clone(), format!("{}/ledger.json", paths::NODELET_STATE));
        let Loaded { value, fault } = store.load(now, |l: &Ledger| {
            if l.schema == LEDGER_SCHEMA {
                Ok(())
            } else {
                Err(format!("schema {} is not {LEDGER_SCHEMA}", l.schema))
            }
        })?;
        let file = Self {
            store,
            fs: fs.clone(),
            saved: value.clone(),
            ledger: value.unwrap_or_default(),
        };
        Ok((file, fault))
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
        format!("{}/originals/{digest}", paths::NODELET_STATE)
    }

    fn before(&self, host: &Host, what: &What) -> Result<Before, FsError> {
        let path = match what {
            What::Unit { .. } => return Ok(Before::Nothing),
            What::Sysctl { key, .. } => {
                let value = host.kernel.sysctl(key).ok().flatten();
                return Ok(value.map_or(Before::Foreign, |value| Before::Value { value }));
            }
            What::File { path } | What::Dir { path } | What::Tree { path } => path,
        };
        match self.fs.found(path)? {
            Found::Nothing => Ok(Before::Nothing),
            // Left by an earlier life of ours whose ledger was lost: ours all the same.
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

/// What a step leaves on the host.
fn artefacts_of(step: &Step) -> Vec<What> {
    match step {
        Step::File(f) => vec![What::File {
            path: f.path.clone(),
        }],
        Step::Link { path, .. } => vec![What::File { path: path.clone() }],
        Step::EtcdJoined { settings, .. } => vec![What::File {
            path: settings.clone(),
        }],
        Step::Dir(d) if d.remove_with_content => vec![What::Tree {
            path: d.path.clone(),
        }],
        Step::Dir(d) => vec![What::Dir {
            path: d.path.clone(),
        }],
        Step::Key { .. } | Step::ServiceAccountKey => vec![What::Tree {
            path: paths::KUBE_CERTS.to_owned(),
        }],
        Step::Stack { .. } => vec![
            What::Dir {
                path: "/opt/pf9".to_owned(),
            },
            What::Tree {
                path: paths::STACKS.to_owned(),
            },
        ],
        Step::Sysctl { key, value } => vec![What::Sysctl {
            key: key.clone(),
            value: value.clone(),
        }],
        Step::Unit(u) => vec![What::Unit {
            unit: u.unit.clone(),
        }],
        // A module stays loaded: somebody else may use it by now. Images go with the runtime's
        // data, objects with the cluster. The rest makes nothing.
        Step::Module { .. }
        | Step::Image { .. }
        | Step::Absent { .. }
        | Step::Probe(_)
        | Step::Object { .. }
        | Step::Uncordon { .. }
        | Step::Drain { .. }
        | Step::EtcdMemberGone { .. }
        | Step::EtcdVotes { .. }
        | Step::UnitGone { .. }
        | Step::ContainersGone
        | Step::NetworkGone { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodelet::step::FileStep;

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
        let (mut file_, fault) = LedgerFile::load(&host.fs, now).expect("load");
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
        let (again, _) = LedgerFile::load(&host.fs, now).expect("load");
        assert_eq!(again.ledger, file_.ledger);
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
