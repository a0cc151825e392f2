//! One pass over the archive: hash what is read, decompress, check every entry, write.
//!
//! The archive is opened once and read once, so what was checked is what was written, whoever
//! changes the staged file meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{StackError, io_error};
use crate::model::{Hasher, StackFile, StackManifest};

/// Largest zstd window (32 MiB): what `zstd -19` uses fits, a hostile frame cannot ask for more.
pub(crate) const WINDOW_LOG_MAX: u32 = 25;

/// Read at once: large enough that the system call is cheap.
const CHUNK: usize = 128 * 1024;

/// Bytes of tar framing that one entry may cost: header, padding, its directory's header.
const ENTRY_OVERHEAD: u64 = 4 * 512;

/// Zero blocks at the end of a tar, and the record padding of common writers.
const TRAILER: u64 = 64 * 1024;

/// Unpacks into the fresh directory `into`; every file is on disk when this returns.
pub(super) fn unpack(
    archive: File,
    manifest: &StackManifest,
    into: &Path,
) -> Result<(), StackError> {
    let dirs = directories(manifest);
    make_directories(into, &dirs)?;

    let source = Hashing {
        inner: archive.take(manifest.archive.size.saturating_add(1)),
        hasher: Hasher::new(),
    };
    let mut decoder = zstd::Decoder::new(source).map_err(damaged)?;
    decoder
        .window_log_max(WINDOW_LOG_MAX)
        .map_err(io_error("set up decompression of", into))?;
    let mut capped = decoder.take(cap(manifest, dirs.len()));
    let written = write_entries(&mut capped, manifest, &dirs, into);

    // A damaged archive often shows up as a strange entry first; the digest says which it is.
    let mut rest = capped.into_inner().finish();
    io::copy(&mut rest, &mut io::sink()).map_err(damaged)?;
    let digest = rest.into_inner().hasher.finish();
    match written {
        Err(e @ (StackError::Fs(_) | StackError::Io { .. })) => return Err(e),
        _ if digest != manifest.archive.sha256 => {
            return Err(StackError::Damaged(format!(
                "its SHA-256 is {}, the manifest says {}",
                digest.short(),
                manifest.archive.sha256.short()
            )));
        }
        other => other?,
    }
    for dir in dirs.iter().rev().map(|d| into.join(d)) {
        sync_dir(&dir)?;
    }
    sync_dir(into)
}

/// Flushes a directory's entries to disk.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StackError> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(io_error("sync", dir))
}

fn write_entries(
    reader: &mut impl Read,
    manifest: &StackManifest,
    dirs: &BTreeSet<PathBuf>,
    into: &Path,
) -> Result<(), StackError> {
    let mut wanted: BTreeMap<&str, &StackFile> = manifest
        .files
        .iter()
        .map(|f| (f.path.as_str(), f))
        .collect();
    let mut tar = tar::Archive::new(reader);
    // Raw: extension headers (long names, sparse maps) are not interpreted but seen as entries of
    // their own kind, and refused like everything that is neither a file nor a directory.
    for entry in tar.entries().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let refuse = |why| StackError::Entry {
            entry: path.chars().take(120).collect(),
            why,
        };
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            if dirs.contains(Path::new(path.trim_end_matches('/'))) {
                continue;
            }
            return Err(refuse("is a directory of no listed file"));
        }
        if !kind.is_file() {
            return Err(refuse("is neither a regular file nor a directory"));
        }
        let Some(file) = wanted.remove(path.as_str()) else {
            return Err(refuse("is not listed, or there twice"));
        };
        if entry.size() != file.size {
            return Err(refuse("has another size"));
        }
        if !write_file(&mut entry, file, &into.join(&file.path))? {
            return Err(refuse("has another SHA-256"));
        }
    }
    match wanted.keys().next() {
        None => Ok(()),
        Some(path) => Err(StackError::Entry {
            entry: (*path).to_owned(),
            why: "is missing",
        }),
    }
}

/// Writes one file; false when its bytes are not those the manifest lists.
fn write_file(entry: &mut impl Read, file: &StackFile, to: &Path) -> Result<bool, StackError> {
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(io_error("create", to))?;
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = entry.read(&mut chunk).map_err(damaged)?;
        let Some(bytes) = chunk.get(..n).filter(|b| !b.is_empty()) else {
            break;
        };
        hasher.update(bytes);
        out.write_all(bytes).map_err(io_error("write", to))?;
    }
    if hasher.finish() != file.sha256 {
        return Ok(false);
    }
    out.set_permissions(Permissions::from_mode(file.mode))
        .and_then(|()| out.sync_all())
        .map_err(io_error("write", to))?;
    Ok(true)
}

fn directories(manifest: &StackManifest) -> BTreeSet<PathBuf> {
    let parents = |f: &StackFile| {
        let path = PathBuf::from(&f.path);
        let all: Vec<_> = path.ancestors().skip(1).map(Path::to_path_buf).collect();
        all
    };
    manifest
        .files
        .iter()
        .flat_map(parents)
        .filter(|p| !p.as_os_str().is_empty())
        .collect()
}

fn make_directories(into: &Path, dirs: &BTreeSet<PathBuf>) -> Result<(), StackError> {
    DirBuilder::new()
        .mode(0o755)
        .create(into)
        .map_err(io_error("make directory", into))?;
    // Sorted: a parent comes before what is in it.
    for dir in dirs.iter().map(|d| into.join(d)) {
        DirBuilder::new()
            .mode(0o755)
            .create(&dir)
            .map_err(io_error("make directory", &dir))?;
        fs::set_permissions(&dir, Permissions::from_mode(0o755))
            .map_err(io_error("set mode of", &dir))?;
    }
    fs::set_permissions(into, Permissions::from_mode(0o755)).map_err(io_error("set mode of", into))
}

/// More decompressed bytes than this are in no honest archive.
fn cap(manifest: &StackManifest, dirs: usize) -> u64 {
    let entries = (manifest.files.len() + dirs) as u64;
    manifest
        .unpacked_size()
        .saturating_add(entries * ENTRY_OVERHEAD)
        .saturating_add(TRAILER)
}

fn damaged(e: io::Error) -> StackError {
    StackError::Damaged(e.to_string())
}

/// Hashes what is read through it.
struct Hashing<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(buf.get(..n).unwrap_or_default());
        Ok(n)
    }
}
