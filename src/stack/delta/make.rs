//! Writes a delta: what the plane does once for a pair of stacks.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{MADE, MAGIC, PIECES_MAX, Piece, SAME, WHOLE, pieces};
use crate::host::fs::HostFs;
use crate::host::space;
use crate::model::{DeltaOffer, Digest, Hasher, StackFile, StackManifest};
use crate::seam::disk::{self, Options};
use crate::stack::coming::Coming;
use crate::stack::install::OnDisk;
use crate::stack::unpack::{self, WINDOW_LOG_MAX};
use crate::stack::{StackError, io_error};

/// zstd's level: a higher one saves two hundredths and takes five times as long.
const LEVEL: i32 = 9;

/// One of the two stacks: its manifest, that one's digest, and where its files are.
pub(crate) struct Side<'a> {
    pub(crate) digest: Digest,
    pub(crate) manifest: &'a StackManifest,
    pub(crate) dir: &'a Path,
}

/// A stack as it is kept.
pub struct Packed<'a> {
    /// That its manifest has.
    pub digest: Digest,
    /// What is in it.
    pub manifest: &'a StackManifest,
    /// Where it is.
    pub archive: PathBuf,
}

/// Makes the file `to` of two archives, which are unpacked below `scratch` meanwhile (both are paths of the host).
///
/// # Errors
///
/// What cannot be read, unpacked or written.
pub fn make_of_archives(
    fs: &HostFs,
    old: &Packed<'_>,
    new: &Packed<'_>,
    scratch: &str,
    to: &Path,
) -> Result<DeltaOffer, StackError> {
    fs.remove_tree(scratch)?;
    let made = make_in(fs, old, new, scratch, to);
    let swept = fs.remove_tree(scratch);
    let made = made?;
    swept?;
    Ok(made)
}

fn make_in<'a>(
    fs: &HostFs,
    old: &Packed<'a>,
    new: &Packed<'a>,
    scratch: &str,
    to: &Path,
) -> Result<DeltaOffer, StackError> {
    let dir = fs.at(scratch);
    disk::make_dirs(&dir).map_err(io_error("make directory", &dir))?;
    let size = |packed: &Packed<'_>| packed.manifest.unpacked_size();
    let free = space::of(&dir).map_err(io_error("ask free space of", &dir))?;
    free.require(&dir, size(old).saturating_add(size(new)))?;
    let unpacked = |packed: &Packed<'_>, name: &str| {
        let (into, path) = (dir.join(name), &packed.archive);
        let file = fs::File::open(path).map_err(io_error("open", path))?;
        let archive = Coming::whole(file, packed.manifest.archive.size);
        unpack::unpack(archive, packed.manifest, &into, OnDisk::Later, &mut |_| {})?;
        Ok::<_, StackError>(into)
    };
    let (before, after) = (unpacked(old, "old")?, unpacked(new, "new")?);
    let part = dir.join("delta");
    let write = |e| io_error("write", &part)(e);
    let file = Options::write()
        .create_new(0o600)
        .open(&part)
        .map_err(write)?;
    let mut counted = Counted {
        inner: &file,
        hasher: Hasher::new(),
        bytes: 0,
    };
    let side = |packed: &Packed<'a>, dir| Side {
        digest: packed.digest,
        manifest: packed.manifest,
        dir,
    };
    make(&side(old, &before), &side(new, &after), &mut counted).map_err(write)?;
    let offer = DeltaOffer {
        sha256: counted.hasher.finish(),
        bytes: counted.bytes,
    };
    file.sync_all().map_err(write)?;
    fs.rename(Path::new(scratch).join("delta"), to)?;
    Ok(offer)
}

/// Knows what was written.
struct Counted<'a> {
    inner: &'a disk::File,
    hasher: Hasher,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hasher.update(buf.get(..n).unwrap_or_default());
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes what differs. In memory are two files at a time, and once the size of the old one again.
pub(crate) fn make(old: &Side<'_>, new: &Side<'_>, out: impl Write) -> io::Result<()> {
    let mut out = zstd::Encoder::new(out, LEVEL)?;
    out.long_distance_matching(true)?;
    out.window_log(WINDOW_LOG_MAX)?;
    out.write_all(MAGIC)?;
    for side in [old, new] {
        out.write_all(&side.digest.0)?;
    }
    let files = || old.manifest.files.iter().zip(0u64..);
    let by_digest: BTreeMap<_, _> = files().map(|(f, n)| (f.sha256, n)).collect();
    let by_path: BTreeMap<_, _> = files().map(|(f, n)| (f.path.as_str(), (f, n))).collect();
    for file in &new.manifest.files {
        if let Some(n) = by_digest.get(&file.sha256) {
            out.write_all(&[SAME])?;
            number(&mut out, *n)?;
            continue;
        }
        let bytes = fs::read(new.dir.join(&file.path))?;
        match by_path.get(file.path.as_str()) {
            Some((before, n)) => changed(&mut out, *n, &read(old, before)?, &bytes)?,
            None => whole(&mut out, &bytes)?,
        }
    }
    out.finish().map(drop)
}

fn read(side: &Side<'_>, file: &StackFile) -> io::Result<Vec<u8>> {
    fs::read(side.dir.join(&file.path))
}

fn whole(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(&[WHOLE])?;
    out.write_all(bytes)
}

fn changed(out: &mut impl Write, number_of_old: u64, old: &[u8], new: &[u8]) -> io::Result<()> {
    let pieces = pieces::between(old, new);
    if pieces.len() > PIECES_MAX {
        return whole(out, new);
    }
    out.write_all(&[MADE])?;
    number(out, number_of_old)?;
    number(out, pieces.len() as u64)?;
    let mut at = 0i64;
    for piece in &pieces {
        number(out, piece.add)?;
        number(out, piece.extra)?;
        let moved = (piece.old as i64).wrapping_sub(at);
        number(out, ((moved << 1) ^ (moved >> 63)) as u64)?;
        at = (piece.old + piece.add) as i64;
    }
    let mut left = new;
    for piece in &pieces {
        let (bytes, rest) = left.split_at((piece.add + piece.extra) as usize);
        let (like, _) = bytes.split_at(piece.add as usize);
        let from = old.get(piece.old as usize..).unwrap_or_default();
        let differences: Vec<u8> = like
            .iter()
            .zip(from)
            .map(|(n, o)| n.wrapping_sub(*o))
            .collect();
        out.write_all(&differences)?;
        left = rest;
    }
    let mut left = new;
    for Piece { add, extra, .. } in pieces {
        let (bytes, rest) = left.split_at((add + extra) as usize);
        out.write_all(bytes.get(add as usize..).unwrap_or_default())?;
        left = rest;
    }
    Ok(())
}

fn number(out: &mut impl Write, mut n: u64) -> io::Result<()> {
    while n >= 0x80 {
        out.write_all(&[(n & 0x7f) as u8 | 0x80])?;
        n >>= 7;
    }
    out.write_all(&[n as u8])
}
