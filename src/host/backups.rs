//! One backup of etcd in its directory: a sealed file, and beside it the manifest that makes it count.

use super::fs::{Found, FsError, HostFs};
use crate::model::{FoundManifest, NoManifest, SIGNED_MANIFEST_MAX};

/// End of the sealed file's name.
pub const SEALED: &str = ".db.age";
/// End of the manifest's name.
pub const MANIFEST: &str = ".json";
/// So a broken one fills no memory.
pub const MANIFEST_MAX: u64 = SIGNED_MANIFEST_MAX as u64;

/// What is found below one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupFiles {
    /// Both files, and the sealed one has the size that the manifest says. Who signed it is not looked at.
    Whole(Box<FoundManifest>),
    /// One of both is missing, is no file, or is not what belongs to the other.
    Broken,
    /// A later version of this program wrote the manifest.
    Foreign,
}

/// Looks at both files of this name. A file that cannot be read is an error: it may be a good one.
pub fn look(fs: &HostFs, dir: &str, name: &str) -> Result<BackupFiles, FsError> {
    let beside = format!("{dir}/{name}{MANIFEST}");
    let sealed = fs.found(format!("{dir}/{name}{SEALED}"))?;
    // A pipe is waited for.
    let is_file = matches!(fs.found(&beside)?, Found::File { .. });
    let bytes = match is_file && sealed != Found::Nothing {
        true => fs.read(&beside, MANIFEST_MAX)?,
        false => None,
    };
    let found = match bytes.map(|bytes| FoundManifest::read(&bytes)) {
        Some(Ok(found)) => found,
        Some(Err(NoManifest::Later)) => return Ok(BackupFiles::Foreign),
        Some(Err(NoManifest::Malformed(_))) | None => return Ok(BackupFiles::Broken),
    };
    let says = found.says();
    let of_its_size = matches!(sealed, Found::File { size, .. } if size == says.sealed_bytes);
    match says.name == name && of_its_size {
        true => Ok(BackupFiles::Whole(Box::new(found))),
        false => Ok(BackupFiles::Broken),
    }
}
