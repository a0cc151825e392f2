//! Stacks on a node: verified, unpacked, activated, kept or collected.
//!
//! Nothing in the staging directory is trusted: it belongs to the less privileged
//! hostagent. A manifest is trusted by its signature and by the digest the spec names; every byte
//! of the archive is trusted by the manifest.
//!
//! ```text
//! staging/<digest>.manifest.json ─ Manifest::open ─► Manifest (signature, digest, rules)
//! staging/<digest>.tar.zst(.part) ─ prepare ─► /opt/pf9/stacks/.incoming-<digest>/ ─ put_in_place ─► <name>-<version>/
//!                                          │ programs::check                    activate ─► current, previous
//!                                          └ does each of them run here?
//! ```
//!
//! | file | does |
//! |---|---|
//! | `manifest` | [`Manifest`]: a manifest that was verified, with its envelope |
//! | `unpack`   | one pass over the archive: decompress, check, write |
//! | `coming`   | the archive, while it comes |
//! | `delta`    | a stack as what differs from another one |
//! | `install`  | [`prepare`], [`PreparedStack`], [`activate`], [`current`], [`verify_installed`], [`collect_garbage`] |
//! | `programs` | whether a stack's programs run on this machine |
//! | `format`   | for which machine a file is a program |
//! | `image`    | a program out of an image's archive |

mod coming;
pub mod delta;
mod format;
pub mod image;
mod install;
mod manifest;
mod one;
pub mod programs;
pub(crate) mod unpack;

#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::path::{Path, PathBuf};

pub use coming::Stops;
pub use install::{
    Depth, PreparedStack, Staged, activate, activate_etcd, active_content, collect_garbage,
    current, current_etcd, etcd_content, incoming_of, keep_on_disk, prepare, renew_signature,
    signer, staged, verify_installed,
};
pub use manifest::{
    Manifest, staged_archive, staged_delta, staged_delta_part, staged_manifest, staged_part,
};
pub use one::file_of;

use crate::host::fs::FsError;
use crate::host::{refusals, space};
use crate::model::{Digest, Fault, FaultCode, StackRef, Untrusted};

/// Why a stack could not be installed, or is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// The manifest is not signed as it must be.
    #[error("its manifest is not trusted")]
    Untrusted(#[source] Untrusted),
    /// A properly signed manifest, but not the one the spec names.
    #[error("its manifest is {got}, the spec names {want}")]
    OtherManifest {
        /// The digest in the spec.
        want: String,
        /// The digest of what is there.
        got: String,
    },
    /// The manifest breaks a rule.
    #[error("its manifest is invalid: {0}")]
    Invalid(String),
    /// There is no such file in the staging directory, or it is no regular file.
    #[error("{path} does not exist")]
    NotStaged {
        /// What is missing.
        path: PathBuf,
    },
    /// Too little free space; nothing was started.
    #[error(transparent)]
    Space(#[from] space::NoSpace),
    /// The archive as a whole is not what the manifest says.
    #[error("its archive is damaged: {0}")]
    Damaged(String),
    /// One entry of the archive is not what the manifest says.
    #[error("its archive does not match the manifest: {entry:?} {why}")]
    Entry {
        /// Its path, as the archive spells it (shortened).
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Only a part of the archive came.
    #[error("its archive is incomplete")]
    NotWhole,
    /// The stack is not installed.
    #[error("it is not installed")]
    NotInstalled,
    /// An installed stack that changed after it was installed.
    #[error("{path} {how}")]
    Drifted {
        /// The file.
        path: PathBuf,
        /// How it differs.
        how: String,
    },
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Another operating system call failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl StackError {
    /// The error as a fault: stable code, the same words everywhere.
    pub fn fault(&self, stack: &StackRef) -> Fault {
        let what = format!("cannot install stack {stack}");
        let why = crate::telemetry::chain(self);
        if let Some(path) = self.lacks_room() {
            return Fault::new(FaultCode::DiskFull, what, why).fix(space::fix(path));
        }
        if let Self::Fs(FsError { source, path, .. }) | Self::Io { source, path, .. } = self
            && let Some((code, fix)) = refusals::of_call(source, Some(path))
        {
            return Fault::new(code, what, why).fix(fix);
        }
        let (code, fix) = match self {
            Self::Untrusted(untrusted) => {
                let fault = untrusted.fault(&format!("stack {stack}"));
                return Fault { what, ..fault };
            }
            Self::Space(_) | Self::Fs(_) | Self::Io { .. } => {
                (FaultCode::StackIo, "check the disk and the named path")
            }
            Self::OtherManifest { .. } => (
                FaultCode::StackOtherManifest,
                "nothing: the right manifest is downloaded again from the plane",
            ),
            Self::Invalid(_) => (FaultCode::StackManifestInvalid, "build the stack again"),
            Self::NotStaged { .. } | Self::NotWhole => {
                (FaultCode::StackNotStaged, "it is fetched from the plane")
            }
            Self::Damaged(_) => (
                FaultCode::StackDamaged,
                "it is fetched again; if that does not help, import the stack on the plane again",
            ),
            Self::Entry { .. } => (
                FaultCode::StackDamaged,
                "build the stack again and import it on the plane",
            ),
            Self::NotInstalled | Self::Drifted { .. } => {
                (FaultCode::StackDrifted, "it is installed again")
            }
        };
        Fault::new(code, what, why).fix(fix)
    }

    /// Where there was no room for it.
    fn lacks_room(&self) -> Option<&Path> {
        match self {
            Self::Space(e) => Some(&e.path),
            Self::Fs(FsError { source, path, .. }) | Self::Io { source, path, .. } => {
                space::is_full(source).then_some(path)
            }
            Self::Untrusted(_)
            | Self::OtherManifest { .. }
            | Self::Invalid(_)
            | Self::NotStaged { .. }
            | Self::Damaged(_)
            | Self::Entry { .. }
            | Self::NotWhole
            | Self::NotInstalled
            | Self::Drifted { .. } => None,
        }
    }

    /// True when the staged files are no use and must be fetched again.
    pub fn staged_files_are_bad(&self) -> bool {
        match self {
            Self::Untrusted(_)
            | Self::OtherManifest { .. }
            | Self::Invalid(_)
            | Self::Damaged(_)
            | Self::Entry { .. } => true,
            Self::NotStaged { .. }
            | Self::NotWhole
            | Self::Space(_)
            | Self::NotInstalled
            | Self::Drifted { .. }
            | Self::Fs(_)
            | Self::Io { .. } => false,
        }
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StackError {
    let path = path.to_path_buf();
    move |source| StackError::Io {
        action,
        path,
        source,
    }
}

fn other_manifest(want: &Digest, got: &Digest) -> StackError {
    StackError::OtherManifest {
        want: want.short(),
        got: got.short(),
    }
}
