//! The files of a new stack from a delta and those of the old one.
//!
//! The delta comes from the less privileged side and is trusted in nothing: every number is bounded by the signed
//! manifests, files are written below one directory under the manifest's names alone, and each is compared with its
//! digest when it is whole. What was read of the old files is not compared before: wrong bytes make a wrong file.

use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::libc::O_NOFOLLOW;

use super::{MADE, MAGIC, PIECES_MAX, Piece, SAME, WHOLE};
use crate::model::{Digest, Hasher, StackFile, StackManifest};
use crate::seam::disk::{self, Options};
use crate::stack::unpack::WINDOW_LOG_MAX;
use crate::stack::{StackError, io_error};

/// Copied at once.
const CHUNK: usize = 128 * 1024;
/// Bytes of a delta beside those of files: its head, and for each file a tag, two numbers and its pieces.
const NUMBER_MAX: u64 = 10;

/// What a delta is from and to.
pub(crate) struct Pair<'a> {
    /// The digests of the two manifests, the old one's first.
    pub(crate) digests: [Digest; 2],
    pub(crate) old: &'a StackManifest,
    pub(crate) old_dir: &'a Path,
    pub(crate) new: &'a StackManifest,
}

/// Makes every file of the new stack in `into`, whose directories are there. Each that is whole is passed to `whole`.
pub(crate) fn apply(
    delta: impl Read,
    pair: &Pair<'_>,
    into: &Path,
    whole: &mut dyn FnMut(&StackFile) -> Result<(), StackError>,
) -> Result<(), StackError> {
    let mut decoder = zstd::Decoder::new(delta).map_err(damaged)?;
    decoder
        .window_log_max(WINDOW_LOG_MAX)
        .map_err(io_error("set up decompression of", into))?;
    let mut delta = decoder.take(cap(pair.new));
    let mut head = [0; MAGIC.len() + 64];
    delta.read_exact(&mut head).map_err(damaged)?;
    let [old, new] = &pair.digests;
    if head != [&MAGIC[..], &old.0, &new.0].concat()[..] {
        return Err(wrong("it is not a delta between these stacks"));
    }
    for file in &pair.new.files {
        make(&mut delta, pair, file, into)?;
        whole(file)?;
    }
    match delta.read(&mut [0]).map_err(damaged)? {
        0 => Ok(()),
        _ => Err(wrong("there are data after its last file")),
    }
}

fn make(
    delta: &mut impl Read,
    pair: &Pair<'_>,
    file: &StackFile,
    into: &Path,
) -> Result<(), StackError> {
    let to = into.join(&file.path);
    let out = Options::write()
        .read()
        .create(0o600)
        .truncate()
        .flags(O_NOFOLLOW)
        .open(&to)
        .map_err(io_error("create", &to))?;
    let mut tag = [0];
    delta.read_exact(&mut tag).map_err(damaged)?;
    match tag {
        [SAME] => {
            let (old, size) = old_file(delta, pair)?;
            if size != file.size {
                return Err(wrong("an unchanged file has another size"));
            }
            let piece = Piece {
                old: 0,
                add: size,
                extra: 0,
            };
            add(&mut io::repeat(0), &old, piece, &out, 0, &to)?;
        }
        [WHOLE] => extra(delta, file.size, &out, 0, &to)?,
        [MADE] => made(delta, pair, file, &out, &to)?,
        _ => return Err(wrong("it has an unknown kind of file")),
    }
    if digest_of(&out).map_err(io_error("read", &to))? != file.sha256 {
        return Err(StackError::Entry {
            entry: file.path.clone(),
            why: "has another SHA-256",
        });
    }
    out.set_permissions(Permissions::from_mode(file.mode))
        .map_err(io_error("write", &to))
}

fn made(
    delta: &mut impl Read,
    pair: &Pair<'_>,
    file: &StackFile,
    out: &disk::File,
    to: &Path,
) -> Result<(), StackError> {
    let (old, size) = old_file(delta, pair)?;
    let pieces = pieces(delta, size, file.size)?;
    let mut at = 0;
    for piece in &pieces {
        add(delta, &old, *piece, out, at, to)?;
        at += piece.add + piece.extra;
    }
    let mut at = 0;
    for piece in &pieces {
        extra(delta, piece.extra, out, at + piece.add, to)?;
        at += piece.add + piece.extra;
    }
    Ok(())
}

/// The pieces of a file, which are all of it and read nothing outside of the old one.
fn pieces(delta: &mut impl Read, old: u64, new: u64) -> Result<Vec<Piece>, StackError> {
    let count = number(delta)?;
    if count > PIECES_MAX as u64 {
        return Err(wrong("a file has too many pieces"));
    }
    let (mut pieces, mut at, mut left) = (Vec::new(), 0u64, new);
    let outside = || wrong("a piece is outside of its file");
    for _ in 0..count {
        let (add, extra, moved) = (number(delta)?, number(delta)?, number(delta)?);
        let moved = ((moved >> 1) as i64) ^ -((moved & 1) as i64);
        let from = at.checked_add_signed(moved).ok_or_else(outside)?;
        at = from
            .checked_add(add)
            .filter(|end| *end <= old)
            .ok_or_else(outside)?;
        let size = add.checked_add(extra).ok_or_else(outside)?;
        left = left.checked_sub(size).ok_or_else(outside)?;
        pieces.push(Piece {
            old: from,
            add,
            extra,
        });
    }
    match left {
        0 => Ok(pieces),
        _ => Err(wrong("the pieces of a file do not cover it")),
    }
}

fn old_file(delta: &mut impl Read, pair: &Pair<'_>) -> Result<(File, u64), StackError> {
    let n = usize::try_from(number(delta)?).ok();
    let file = n.and_then(|n| pair.old.files.get(n));
    let file = file.ok_or_else(|| wrong("it names a file that the old stack does not have"))?;
    let path = pair.old_dir.join(&file.path);
    let open = File::options()
        .read(true)
        .custom_flags(O_NOFOLLOW)
        .open(&path);
    let open = open.map_err(io_error("open", &path))?;
    Ok((open, file.size))
}

/// Old bytes plus differences.
fn add(
    differences: &mut impl Read,
    old: &File,
    piece: Piece,
    out: &disk::File,
    at: u64,
    to: &Path,
) -> Result<(), StackError> {
    let (mut new, mut before) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut done = 0;
    while done < piece.add {
        let n = usize::try_from(piece.add - done).map_or(CHUNK, |left| left.min(CHUNK));
        let (Some(new), Some(before)) = (new.get_mut(..n), before.get_mut(..n)) else {
            break;
        };
        differences.read_exact(new).map_err(damaged)?;
        old.read_exact_at(before, piece.old + done)
            .map_err(io_error("read the old file of", to))?;
        for (new, before) in new.iter_mut().zip(before) {
            *new = new.wrapping_add(*before);
        }
        out.write_all_at(new, at + done)
            .map_err(io_error("write", to))?;
        done += n as u64;
    }
    Ok(())
}

/// Bytes that are in the delta.
fn extra(
    delta: &mut impl Read,
    size: u64,
    out: &disk::File,
    at: u64,
    to: &Path,
) -> Result<(), StackError> {
    let mut chunk = vec![0; CHUNK];
    let mut done = 0;
    while done < size {
        let n = usize::try_from(size - done).map_or(CHUNK, |left| left.min(CHUNK));
        let Some(chunk) = chunk.get_mut(..n) else {
            break;
        };
        delta.read_exact(chunk).map_err(damaged)?;
        out.write_all_at(chunk, at + done)
            .map_err(io_error("write", to))?;
        done += n as u64;
    }
    Ok(())
}

fn digest_of(file: &disk::File) -> io::Result<Digest> {
    let (mut hasher, mut chunk, mut at) = (Hasher::new(), vec![0; CHUNK], 0);
    loop {
        let n = file.read_at(&mut chunk, at)?;
        match chunk.get(..n) {
            Some(bytes) if n > 0 => hasher.update(bytes),
            Some(_) | None => return Ok(hasher.finish()),
        }
        at += n as u64;
    }
}

fn number(delta: &mut impl Read) -> Result<u64, StackError> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        delta.read_exact(&mut byte).map_err(damaged)?;
        let [byte] = byte;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        n |= bits << shift;
        if byte < 0x80 {
            return Ok(n);
        }
    }
    Err(wrong("a number is too large"))
}

/// More decompressed bytes than this are in no honest delta.
fn cap(new: &StackManifest) -> u64 {
    let pieces = new.files.len() as u64 * (PIECES_MAX as u64 * 3 + 3) * NUMBER_MAX;
    new.unpacked_size()
        .saturating_add(pieces)
        .saturating_add(1024)
}

fn damaged(e: io::Error) -> StackError {
    StackError::Damaged(e.to_string())
}

fn wrong(what: &str) -> StackError {
    StackError::Damaged(what.to_owned())
}
