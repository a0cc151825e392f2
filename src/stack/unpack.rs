//! One pass over the archive, by three threads:
//!
//! ```text
//! hash what is read, decompress ─► check every entry, write ─► see to it that what was written is on the disk
//! ```
//!
//! The archive is opened once and read once, so what was checked is what was written, also when
//! the staged file changes meanwhile.
//!
//! What an earlier try has written is compared with what comes, and stays when it is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::libc::O_NOFOLLOW;

use super::coming::Coming;
use super::install::OnDisk;
use super::{StackError, io_error};
use crate::host::Lost;
use crate::model::{Hasher, Hashing, StackFile, StackManifest};
use crate::seam::carried;
use crate::seam::disk::{self, Options};

/// Largest zstd window (32 MiB): what `zstd -19` uses fits, a hostile frame cannot ask for more.
pub(crate) const WINDOW_LOG_MAX: u32 = 25;

/// Read at once: large enough that the system call is cheap.
const CHUNK: usize = 128 * 1024;

/// So many of them may be decompressed and not yet written: one is no more than a moment's work of either side.
const CHUNKS_AHEAD: usize = 8;

/// What unpacking holds: the window, and what is between decompressing and writing, with one at each end.
#[cfg(test)]
pub(crate) const MEMORY: usize = (1 << WINDOW_LOG_MAX) + (CHUNKS_AHEAD + 2) * CHUNK;

/// Bytes of tar framing that one entry may cost: header, padding, its directory's header.
const ENTRY_OVERHEAD: u64 = 4 * 512;

/// Zero blocks at the end of a tar, and the record padding of common writers.
const TRAILER: u64 = 64 * 1024;

/// Files that may be written before those that wait for the disk are on it: what a crash leaves is bounded
/// anyway, this bounds what is open.
const AHEAD: usize = 16;

/// Unpacks into the directory `into`; every file is on disk when this returns, or on its way there. Each file
/// that is whole is passed to `seen` at once: it may be run, and is not yet on the disk.
pub(super) fn unpack(
    archive: Coming,
    manifest: &StackManifest,
    into: &Path,
    on_disk: OnDisk,
    seen: &mut dyn FnMut(&StackFile),
) -> Result<(), StackError> {
    let dirs = make_all_directories(manifest, into)?;
    let source = Hashing {
        inner: archive,
        hasher: Hasher::new(),
    };
    let mut decoder = zstd::Decoder::new(source).map_err(damaged)?;
    decoder
        .window_log_max(WINDOW_LOG_MAX)
        .map_err(io_error("set up decompression of", into))?;
    let capped = decoder.take(cap(manifest, dirs.len()));
    let (to_sync, written) = mpsc::sync_channel(AHEAD);
    let (mut plain, decompressed) = Plain::new();
    let (done, capped) = thread::scope(|s| -> Result<_, StackError> {
        let reader = begin(s, move || decompressed.all_of(capped));
        let reader = reader.map_err(io_error("unpack", into))?;
        let kept = move |path: PathBuf| match on_disk {
            // Not on the disk, and nothing that is read of it from memory says so.
            OnDisk::Now => sync(&path).inspect_err(|_| drop(disk::remove_file(&path))),
            OnDisk::Later => on_its_way(&path),
        };
        let synced = begin(s, carried(move || written.iter().try_for_each(kept)));
        let synced = synced.map_err(io_error("unpack", into))?;
        let done = write_entries(&mut plain, manifest, &dirs, into, &mut |file, path| {
            seen(file);
            // Its end without ours is its failure, which is asked below.
            to_sync.send(path).ok();
        });
        drop(to_sync);
        // What was not asked for is not decompressed.
        drop(plain);
        let gone = |_| io_error("sync", into)(io::Error::other("the writer ended"));
        let done = done.and(synced.join().map_err(gone).flatten());
        Ok((done, reader.join()))
    })?;
    let gone = |_| io_error("unpack", into)(io::Error::other("the reader ended"));
    let capped = capped.map_err(gone)?;
    // A damaged archive often shows up as a strange entry first; the digest says which it is.
    let mut rest = capped.into_inner().finish();
    let drained = io::copy(&mut rest, &mut io::sink());
    let source = rest.into_inner();
    if source.inner.was_given_up() {
        return Err(StackError::NotWhole);
    }
    drained.map_err(damaged)?;
    let digest = source.hasher.finish();
    match done {
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
    match on_disk {
        OnDisk::Now => sync_directories(manifest, into),
        OnDisk::Later => Ok(()),
    }
}

/// A thread of its own, or the error that the machine has none.
fn begin<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<thread::ScopedJoinHandle<'scope, T>> {
    let begun = thread::Builder::new().spawn_scoped(scope, work);
    begun.map_err(|_| Lost::NoThread.into())
}

/// Makes `into` and what the files of a stack are in.
pub(super) fn make_all_directories(
    manifest: &StackManifest,
    into: &Path,
) -> Result<BTreeSet<PathBuf>, StackError> {
    let dirs = directories(manifest);
    make_directories(into, &dirs)?;
    Ok(dirs)
}

/// Flushes the entries of every directory of a stack to disk.
pub(super) fn sync_directories(manifest: &StackManifest, of: &Path) -> Result<(), StackError> {
    for dir in directories(manifest).iter().rev().map(|d| of.join(d)) {
        sync_dir(&dir)?;
    }
    sync_dir(of)
}

/// Begins to write it to the disk: free memory is small compared to a stack.
fn on_its_way(path: &Path) -> Result<(), StackError> {
    let advised = File::open(path).and_then(|f| {
        let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        posix_fadvise(&f, 0, 0, advice).map_err(Into::into)
    });
    advised.map_err(io_error("write", path))
}

/// A file is on the disk when this returns.
pub(super) fn sync(path: &Path) -> Result<(), StackError> {
    disk::sync_file(path).map_err(io_error("sync", path))
}

/// Flushes a directory's entries to disk.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StackError> {
    disk::sync_dir(dir).map_err(io_error("sync", dir))
}

/// Where decompressed bytes come from, while another thread goes on decompressing.
struct Plain {
    chunks: mpsc::Receiver<io::Result<Chunk>>,
    /// Where those go back to that were read.
    free: mpsc::SyncSender<Vec<u8>>,
    now: Chunk,
    at: usize,
}

/// The other end of it.
struct Decompressed {
    chunks: mpsc::SyncSender<io::Result<Chunk>>,
    free: mpsc::Receiver<Vec<u8>>,
}

#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// So many of them were read.
    len: usize,
}

impl Plain {
    fn new() -> (Self, Decompressed) {
        let (chunks, received) = mpsc::sync_channel(CHUNKS_AHEAD);
        let (free, again) = mpsc::sync_channel(CHUNKS_AHEAD);
        let plain = Self {
            chunks: received,
            free,
            now: Chunk::default(),
            at: 0,
        };
        let other = Decompressed {
            chunks,
            free: again,
        };
        (plain, other)
    }
}

impl Read for Plain {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.now.len {
            // Its end without a word is the end of the archive.
            let Ok(next) = self.chunks.recv() else {
                return Ok(0);
            };
            let read = std::mem::replace(&mut self.now, next?);
            self.at = 0;
            // No room for it, or nobody there: it is not needed.
            self.free.try_send(read.bytes).ok();
        }
        let left = self.now.bytes.get(self.at..self.now.len);
        let n = left.unwrap_or_default().read(buf)?;
        self.at += n;
        Ok(n)
    }
}

impl Decompressed {
    /// Passes on everything that comes, as it comes, for as long as somebody reads. Returns the source: what is left of it
    /// belongs to the digest.
    fn all_of<R: Read>(self, mut source: R) -> R {
        loop {
            let used = self.free.try_recv().ok().filter(|b| b.len() == CHUNK);
            let mut bytes = used.unwrap_or_else(|| vec![0; CHUNK]);
            let chunk = match source.read(&mut bytes) {
                Ok(0) => return source,
                Ok(len) => Ok(Chunk { bytes, len }),
                Err(e) => Err(e),
            };
            let last = chunk.is_err();
            if self.chunks.send(chunk).is_err() || last {
                return source;
            }
        }
    }
}

fn write_entries(
    reader: &mut impl Read,
    manifest: &StackManifest,
    dirs: &BTreeSet<PathBuf>,
    into: &Path,
    whole: &mut dyn FnMut(&StackFile, PathBuf),
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
            return Err(refuse("is not listed, or a duplicate"));
        };
        if entry.size() != file.size {
            return Err(refuse("has another size"));
        }
        let to = into.join(&file.path);
        if !write_file(&mut entry, file, &to)? {
            return Err(refuse("has another SHA-256"));
        }
        whole(file, to);
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
    let mut out = Writing::open(to, file).map_err(io_error("create", to))?;
    let full = |e| {
        // What is no file yet takes no room from those that are.
        disk::remove_file(to).ok();
        io_error("write", to)(e)
    };
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = entry.read(&mut chunk).map_err(damaged)?;
        let Some(bytes) = chunk.get(..n).filter(|b| !b.is_empty()) else {
            break;
        };
        hasher.update(bytes);
        out.add(bytes).map_err(full)?;
    }
    if hasher.finish() != file.sha256 {
        return Ok(false);
    }
    out.file
        .set_permissions(Permissions::from_mode(file.mode))
        .map_err(io_error("write", to))?;
    Ok(true)
}

/// A file on its way to the disk. One that an earlier try wrote is read beside what comes, and written only
/// from where it says something else.
struct Writing {
    file: disk::File,
    same: bool,
    at: u64,
    there: Vec<u8>,
}

impl Writing {
    fn open(to: &Path, want: &StackFile) -> io::Result<Self> {
        // The directory is root's alone, and was when it was written.
        let options = Options::write().read().flags(O_NOFOLLOW);
        let whole = |f: &disk::File| {
            let meta = f.metadata()?;
            let whole = meta.is_file() && meta.len() == want.size;
            Ok::<_, io::Error>(whole && meta.permissions().mode() & 0o7777 == want.mode)
        };
        let (file, same) = match options.open(to) {
            Ok(file) => {
                let same = whole(&file)?;
                if !same {
                    file.set_len(0)?;
                }
                (file, same)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                (options.create_new(0o600).open(to)?, false)
            }
            Err(e) => return Err(e),
        };
        Ok(Self {
            file,
            same,
            at: 0,
            there: vec![0; if same { CHUNK } else { 0 }],
        })
    }

    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.same {
            let there = self.there.get_mut(..bytes.len()).unwrap_or_default();
            let read = self.file.read_exact(there);
            self.same = read.is_ok() && there == bytes;
        }
        if !self.same {
            self.file.write_all_at(bytes, self.at)?;
        }
        self.at += bytes.len() as u64;
        Ok(())
    }
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
    make_directory(into)?;
    // Sorted: a parent comes before what is in it.
    for dir in dirs.iter().map(|d| into.join(d)) {
        make_directory(&dir)?;
        disk::set_permissions(&dir, Permissions::from_mode(0o755))
            .map_err(io_error("set mode of", &dir))?;
    }
    disk::set_permissions(into, Permissions::from_mode(0o755))
        .map_err(io_error("set mode of", into))
}

fn make_directory(dir: &Path) -> Result<(), StackError> {
    match disk::make_dir(dir, 0o755) {
        // From an earlier try; anything else fails when files are put into it.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(io_error("make directory", dir)),
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives its bytes in reads of at most so many, and then an error.
    struct Source {
        bytes: Vec<u8>,
        at: usize,
        most: usize,
        fails: bool,
    }

    impl Read for Source {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let left = self.bytes.get(self.at..).unwrap_or_default();
            if left.is_empty() && self.fails {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let most = buf.len().min(self.most);
            let n = left.take(most as u64).read(buf)?;
            self.at += n;
            Ok(n)
        }
    }

    /// What is read of it, by reads of this size, and the error after that, if one comes.
    fn read_all(source: Source, by: usize) -> (Vec<u8>, Option<io::ErrorKind>) {
        let (mut plain, decompressed) = Plain::new();
        thread::scope(|s| {
            s.spawn(move || decompressed.all_of(source));
            let (mut all, mut buf) = (Vec::new(), vec![0; by]);
            loop {
                match plain.read(&mut buf) {
                    Ok(0) => return (all, None),
                    Ok(n) => all.extend(buf.iter().take(n)),
                    Err(e) => return (all, Some(e.kind())),
                }
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_comes(
            bytes in proptest::collection::vec(any::<u8>(), 0..3000), most in 1usize..900, by in 1usize..900,
            fails in any::<bool>(),
        ) {
            let source = Source { bytes: bytes.clone(), at: 0, most, fails };
            let (read, error) = read_all(source, by);
            prop_assert_eq!(read, bytes);
            prop_assert_eq!(error, fails.then_some(io::ErrorKind::TimedOut));
        }
    }

    /// More than fits between the two, and one chunk after the other used again.
    #[test]
    fn much_more_comes_than_is_held() {
        let bytes: Vec<u8> = (0..40 * CHUNK).map(|i| (i / 7).to_le_bytes()[0]).collect();
        let source = Source {
            bytes: bytes.clone(),
            at: 0,
            most: CHUNK,
            fails: false,
        };
        assert!(read_all(source, 70_000) == (bytes, None), "other bytes");
    }

    #[test]
    fn what_nobody_reads_is_not_decompressed() {
        let (mut plain, decompressed) = Plain::new();
        thread::scope(|s| {
            let source = s.spawn(move || decompressed.all_of(io::repeat(7)));
            plain.read_exact(&mut [0; 10]).expect("some of it");
            drop(plain);
            source.join().expect("it ends");
        });
    }
}
