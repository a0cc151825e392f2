//! A trial: a program of the stack reads the configuration that it is going to be started with, in a
//! temporary root, before anything of it is in place.
//!
//! All trials are steps between the unpacking of a stack and its activation, and before any file of
//! a later phase is written. A refused configuration therefore leaves the old files, the old programs
//! and the old processes in force, also over a reboot.
//!
//! To add one: a `trial` function beside the phase that writes the files, called by
//! `phase::trials`; a variant of [`Judge`]; its pure judge below `nodelet::trial`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Digest, Hasher};

/// Stands for the temporary root, in arguments, in the environment, and where a file names another.
pub const TRIAL_ROOT: &str = "{root}";
/// A file of containerd's trial that is in no place afterwards. containerd prints the settings of plugins that it does not
/// have as if it read them; in this file each plugin that is named anywhere gets [`NOBODY_READS`], which a plugin that
/// there is drops.
pub const CONTAINERD_ASKS: &str = "asks.toml";
/// A setting that no plugin has.
pub const NOBODY_READS: &str = "pf9-nobody-reads-this";
/// Longest any program is given: its file is read from a cold, slow disk.
pub const TRIAL_WAIT_MAX: Duration = Duration::from_secs(20);

/// One program and what it is asked to read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialStep {
    /// Whose configuration, e.g. `containerd`. One trial for each.
    pub program: String,
    /// The program, in the stack that is going to be active.
    pub path: String,
    /// [`Self::path`] is an image's archive, and the program this file in the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<String>,
    /// The bytes of [`Self::path`]; absent when the stack lists no such file.
    pub bytes: Option<Digest>,
    /// Arguments, with [`TRIAL_ROOT`].
    pub args: Vec<String>,
    /// Environment, with [`TRIAL_ROOT`]; nothing is inherited.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What is in the temporary root: relative path and content, exactly as it is going to be
    /// written. Text, and nothing secret.
    pub files: BTreeMap<String, String>,
    /// How long it may take. Bounded by [`TRIAL_WAIT_MAX`].
    pub within: Duration,
    /// The judge that compares its output with the desired configuration.
    pub judge: Judge,
}

/// The judges, each with its part of the desired configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "judge", rename_all = "kebab-case")]
pub enum Judge {
    /// `containerd config dump`, compared key by key with the files.
    Containerd {
        /// The schema that this containerd reads.
        schema: i64,
        /// Drop-ins that could not be taken over, as text.
        unread: Vec<String>,
    },
    /// A program that ends at one value that it must refuse.
    Stopped {
        /// What it says to that.
        expects: Vec<String>,
        /// Names that the spec gave it: gates and flags.
        theirs: Vec<String>,
    },
}

impl TrialStep {
    /// Everything that the verdict depends on: program, files, question, and who judges. A trial
    /// whose digest the ledger knows was passed and is not made again.
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(crate::model::document::AGENT_VERSION.as_bytes());
        // Maps and texts only: it cannot fail; an empty text would only mean one more trial.
        hasher.update(&serde_json::to_vec(self).unwrap_or_default());
        hasher.finish()
    }
}
