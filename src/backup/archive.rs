//! The backup archive: a directory (any mount) or a bucket of an S3-compatible service.
//!
//! ```text
//! PLACE/<host id>/NAME.db.age    the sealed snapshot, first
//! PLACE/<host id>/NAME.json      its manifest, last: the backup counts from here on
//! ```
//!
//! Each host has a place of its own and changes nothing outside of it. What a copy that was interrupted left is never a
//! backup: it is continued, or taken away by [`Archive::prune`].
//!
//! | file | holds |
//! |---|---|
//! | `plan`        | what files mean, what goes, how a file is cut; pure |
//! | `dir`         | a directory |
//! | `s3`          | a bucket |
//! | `find`        | backups in the places of all hosts |
//! | `credentials` | the one file that a bucket's key may be in |
//! | `error`       | [`ArchiveError`]: what can go wrong, as text |

mod credentials;
mod dir;
mod error;
mod find;
mod plan;
mod s3;

#[cfg(test)]
mod tests;

use std::path::Path;

use dir::Dir;
pub use error::ArchiveError;
pub use find::{Kept, everything, find};
pub use plan::Stored;
use s3::S3;

use crate::backup::blocking;
use crate::backup::seal::{self, Sealed};
use crate::backup::shelf;
use crate::egress::Egress;
use crate::host::fs::HostFs;
use crate::model::{ArchivePolicy, ArchiveTarget, BackupManifest, HostId};
use crate::seam::disk;

/// One host's place in an archive.
pub struct Archive {
    place: Place,
    policy: ArchivePolicy,
}

enum Place {
    Dir(Dir),
    S3(Box<S3>),
}

// === impl Archive ===

impl Archive {
    /// The place of `owner` in the archive of this policy. Connects to nothing yet.
    pub fn open(
        host: &HostFs,
        policy: &ArchivePolicy,
        owner: HostId,
        egress: &Egress,
    ) -> Result<Self, ArchiveError> {
        policy
            .check()
            .map_err(|(field, why)| ArchiveError::Policy(format!("{field}: {why}")))?;
        let owner = owner.to_string();
        let place = match &policy.target {
            ArchiveTarget::Dir { path, mount } => {
                Place::Dir(Dir::new(host, path, mount.as_deref(), &owner))
            }
            ArchiveTarget::S3 {
                endpoint,
                region,
                bucket,
                prefix,
                path_style,
                authority,
            } => {
                let target = s3::Target {
                    endpoint,
                    region,
                    bucket,
                    prefix,
                    path_style: *path_style,
                    authority: authority.as_deref(),
                };
                let credentials = credentials::load(host)?;
                Place::S3(Box::new(S3::open(
                    host,
                    target,
                    &owner,
                    credentials,
                    egress,
                )?))
            }
        };
        Ok(Self {
            place,
            policy: policy.clone(),
        })
    }

    /// Where it is, for words.
    pub fn target(&self) -> &ArchiveTarget {
        &self.policy.target
    }

    /// Copies a backup there. The manifest goes last, so that an interrupted copy does not count.
    pub async fn put(
        &self,
        name: &str,
        sealed: &Path,
        manifest: &[u8],
    ) -> Result<(), ArchiveError> {
        let name = named(name)?;
        let [text, file] = plan::files(name);
        match &self.place {
            Place::Dir(dir) => {
                dir.put(&file, sealed).await?;
                dir.put_text(&text, manifest).await
            }
            Place::S3(s3) => {
                s3.put(&file, sealed).await?;
                s3.put_text(&text, manifest).await
            }
        }
    }

    /// The whole backups that are there, oldest first.
    pub async fn list(&self) -> Result<Vec<Stored>, ArchiveError> {
        Ok(self.shelf().await?.backups)
    }

    /// Names of the shelf's backups (oldest first) that have to be copied there, newest first: those that are missing,
    /// as many as fit in one turn.
    pub async fn missing<'a>(
        &self,
        shelf: impl Iterator<Item = &'a BackupManifest>,
    ) -> Result<Vec<String>, ArchiveError> {
        let there = self.list().await?;
        let here = shelf.map(|m| Stored {
            name: m.name.clone(),
            // With the manifest at its largest: what is copied is not too much once it is there.
            bytes: m.sealed_bytes.saturating_add(shelf::MANIFEST_MAX),
        });
        let (keep, max_bytes) = (self.policy.keep, self.policy.max_bytes);
        Ok(plan::missing(here, there, keep, max_bytes))
    }

    /// The manifest of a backup.
    pub async fn manifest(&self, name: &str) -> Result<String, ArchiveError> {
        let [text, _] = plan::files(named(name)?);
        let manifest = match &self.place {
            Place::Dir(dir) => dir.text(&text, shelf::MANIFEST_MAX).await?,
            Place::S3(s3) => s3.text(&text).await?,
        };
        match manifest.len() as u64 <= shelf::MANIFEST_MAX {
            true => Ok(manifest),
            false => Err(ArchiveError::Damaged {
                file: text,
                why: format!("it has more than {} bytes", shelf::MANIFEST_MAX),
            }),
        }
    }

    /// Brings the sealed file of a backup to `into`. It continues after what an earlier try brought there, and what is
    /// there in the end is what `sealed` says, or it is gone.
    pub async fn get(&self, name: &str, sealed: Sealed, into: &Path) -> Result<(), ArchiveError> {
        let [_, file] = plan::files(named(name)?);
        match &self.place {
            Place::Dir(dir) => dir.get(&file, into, sealed.bytes).await?,
            Place::S3(s3) => s3.get(&file, into, sealed.bytes).await?,
        }
        let at = into.to_path_buf();
        let io = |action| {
            let path = into.to_path_buf();
            move |source| ArchiveError::Io {
                action,
                path,
                source,
            }
        };
        let found = blocking(move || seal::digest(&at)).await;
        if found.map_err(io("read"))? == sealed {
            return Ok(());
        }
        // The next try is to start over.
        disk::remove_file(into).map_err(io("remove"))?;
        Err(ArchiveError::Damaged {
            file,
            why: "its SHA-256 is not what its manifest says".to_owned(),
        })
    }

    /// Takes away what is too much by count or bytes, oldest first, and what copies that were
    /// interrupted left. Answers the names of the backups that went.
    pub async fn prune(&self) -> Result<Vec<String>, ArchiveError> {
        let shelf = self.shelf().await?;
        let goes = plan::surplus(&shelf.backups, self.policy.keep, self.policy.max_bytes);
        let files = goes.iter().flat_map(|name| plan::files(name));
        for file in files.chain(shelf.litter) {
            match &self.place {
                Place::Dir(dir) => dir.remove(&file).await?,
                Place::S3(s3) => s3.remove(&file).await?,
            }
        }
        if let Place::Dir(dir) = &self.place {
            dir.sweep().await?;
        }
        Ok(goes)
    }

    async fn shelf(&self) -> Result<plan::Shelf, ArchiveError> {
        let items = match &self.place {
            Place::Dir(dir) => dir.list().await?,
            Place::S3(s3) => s3.list().await?,
        };
        Ok(plan::shelf(items))
    }
}

/// A name becomes a path and part of an address: no other is taken.
fn named(name: &str) -> Result<&str, ArchiveError> {
    match shelf::is_name(name) {
        true => Ok(name),
        false => Err(ArchiveError::Missing {
            file: name.chars().filter(|c| !c.is_control()).take(100).collect(),
        }),
    }
}
