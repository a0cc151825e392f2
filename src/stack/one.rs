//! One file of a stack's archive, by itself: for the plane, which runs a program of it and is no node.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::unpack::WINDOW_LOG_MAX;
use crate::model::{Digest, StackFile};

/// Its bytes, if they are those of the manifest. Nothing else of the archive is believed.
pub fn file_of(archive: &Path, file: &StackFile) -> io::Result<Vec<u8>> {
    let mut decoder = zstd::Decoder::new(File::open(archive)?)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    let mut tar = tar::Archive::new(decoder);
    let none = || {
        let why = format!(
            "{} has no {} as its manifest says",
            archive.display(),
            file.path
        );
        io::Error::new(io::ErrorKind::InvalidData, why)
    };
    for entry in tar.entries()?.raw(true) {
        let entry = entry?;
        if entry.path_bytes().as_ref() != file.path.as_bytes() {
            continue;
        }
        let mut bytes = Vec::new();
        entry.take(file.size + 1).read_to_end(&mut bytes)?;
        return match Digest::of(&bytes) == file.sha256 {
            true => Ok(bytes),
            false => Err(none()),
        };
    }
    Err(none())
}
