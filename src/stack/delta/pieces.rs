//! How a new file is made of an old one: as bsdiff does it (Percival 2003), but for how a match is found.
//!
//! bsdiff sorts all suffixes of the old file, which takes minutes and seventeen times its size for a program of 100 MB.
//! Here every fourth place of the old file is in a table by the hash of its next bytes: seconds, and once its size.
//! What is found is not always the longest match; what continues where the last one was is taken by its merits either
//! way, and that is nearly all of a program that was built again.

use super::Piece;

/// Bytes that a match begins with. Shorter ones are found everywhere in a program.
const SEED: usize = 24;
/// Every so many bytes of the old file are in the table.
const EVERY: usize = 4;
/// A match elsewhere has to win this many bytes over going on in step with the last one.
const WIN: usize = 8;

/// The places of the old file by what is there.
struct Table {
    bits: u32,
    places: Vec<u32>,
}

impl Table {
    fn of(old: &[u8]) -> Self {
        let entries = (old.len() / EVERY).max(1024);
        let bits = usize::BITS - entries.leading_zeros();
        let mut places = vec![u32::MAX; 1 << bits];
        for (n, seed) in old.windows(SEED).enumerate().step_by(EVERY) {
            // The first of equal ones stays: runs of zeros would push it out again and again.
            if let (Some(place), Ok(n)) = (places.get_mut(hash(seed, bits)), u32::try_from(n))
                && *place == u32::MAX
            {
                *place = n;
            }
        }
        Self { bits, places }
    }

    fn find(&self, new: &[u8]) -> Option<usize> {
        let place = *self.places.get(hash(new.get(..SEED)?, self.bits))?;
        (place != u32::MAX).then_some(place as usize)
    }
}

fn hash(seed: &[u8], bits: u32) -> usize {
    let mut h = 0u64;
    let (eights, _) = seed.as_chunks::<8>();
    for eight in eights {
        h = (h ^ u64::from_le_bytes(*eight)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        h ^= h >> 29;
    }
    (h >> (64 - bits)) as usize
}

/// A place of the new file and the one of the old file that it is like.
#[derive(Clone, Copy, Default)]
struct Place {
    new: usize,
    old: usize,
}

/// The pieces of the new file, without a gap, from its beginning to its end.
pub(super) fn between(old: &[u8], new: &[u8]) -> Vec<Piece> {
    let table = Table::of(old);
    let mut out = Vec::new();
    let (mut last, mut scan) = (Place::default(), 0);
    while scan < new.len() {
        let (next, matched) = next_match(&table, old, new, last, scan);
        let mut ahead = forward(old, new, last, next.new);
        let mut back = match next.new < new.len() {
            true => backward(old, new, last, next),
            false => 0,
        };
        let (end, begin) = (last.new + ahead, next.new - back);
        if end > begin {
            let both = end - begin;
            let keep = shared(old, new, last, next, begin, both);
            ahead = ahead + keep - both;
            back -= keep;
        }
        out.push(Piece {
            old: last.old as u64,
            add: ahead as u64,
            extra: (next.new - back - last.new - ahead) as u64,
        });
        last = Place {
            new: next.new - back,
            old: next.old - back,
        };
        scan = next.new + matched;
    }
    if last.new < new.len() {
        let ahead = forward(old, new, last, new.len());
        out.push(Piece {
            old: last.old as u64,
            add: ahead as u64,
            extra: (new.len() - last.new - ahead) as u64,
        });
    }
    out
}

/// The first match from `scan` on that is worth more than going on in step with `last`, and its length; the end of
/// the new file when there is none.
fn next_match(
    table: &Table,
    old: &[u8],
    new: &[u8],
    last: Place,
    mut scan: usize,
) -> (Place, usize) {
    let in_step =
        |at: usize| new.get(at).is_some() && old.get(last.old + at - last.new) == new.get(at);
    // How many bytes from `scan` to `seen` going on in step has right.
    let (mut right, mut seen) = (0usize, scan);
    while scan < new.len() {
        let rest = new.get(scan..).unwrap_or_default();
        let (at, len) = match table.find(rest) {
            Some(at) => (at, same(old.get(at..).unwrap_or_default(), rest)),
            None => (0, 0),
        };
        while seen < scan + len {
            right += usize::from(in_step(seen));
            seen += 1;
        }
        if len > right + WIN {
            return (Place { new: scan, old: at }, len);
        }
        if len != 0 && len == right {
            // In step it is as good: nothing is looked up within.
            (scan, right, seen) = (scan + len, 0, scan + len);
            continue;
        }
        if seen > scan {
            right -= usize::from(in_step(scan));
        }
        scan += 1;
        seen = seen.max(scan);
    }
    let end = Place {
        new: new.len(),
        old: old.len(),
    };
    (end, 0)
}

fn same(old: &[u8], new: &[u8]) -> usize {
    old.iter().zip(new).take_while(|(a, b)| a == b).count()
}

/// How far `last` is worth going on, up to `end`: as long as more than half of the bytes are right.
fn forward(old: &[u8], new: &[u8], last: Place, end: usize) -> usize {
    let old = old.get(last.old..).unwrap_or_default();
    let new = new.get(last.new..end).unwrap_or_default();
    best(old.iter().zip(new).map(|(a, b)| a == b))
}

/// How far before `next` it begins to be worth it.
fn backward(old: &[u8], new: &[u8], last: Place, next: Place) -> usize {
    let old = old.get(..next.old).unwrap_or_default();
    let new = new.get(last.new..next.new).unwrap_or_default();
    best(old.iter().rev().zip(new.iter().rev()).map(|(a, b)| a == b))
}

/// The length at which right bytes outnumber wrong ones by most.
fn best(right: impl Iterator<Item = bool>) -> usize {
    let (mut now, mut most, mut length) = (0i64, 0, 0);
    for (n, right) in right.enumerate() {
        now += if right { 1 } else { -1 };
        if now > most {
            (most, length) = (now, n + 1);
        }
    }
    length
}

/// How many of the `both` bytes from `begin` on, which either piece could have, the first one keeps.
fn shared(old: &[u8], new: &[u8], last: Place, next: Place, begin: usize, both: usize) -> usize {
    let (mut now, mut most, mut keep) = (0i64, 0, 0);
    for n in 0..both {
        let byte = new.get(begin + n);
        let (first, second) = (begin - last.new + last.old, next.old - (next.new - begin));
        now += i64::from(old.get(first + n) == byte) - i64::from(old.get(second + n) == byte);
        if now > most {
            (most, keep) = (now, n + 1);
        }
    }
    keep
}
