//! What an archive's files mean, what goes and how a file is cut: pure.
//!
//! A backup is two files, `NAME.db.age` and `NAME.json`; the second is written last and taken away
//! first, so it says that the first is whole. NAME begins with the time, so names sort by it.

use std::collections::BTreeMap;

use crate::backup::shelf::{MANIFEST, SEALED, is_name};

/// A piece of an upload: few requests, and little to send again when one breaks off. At least 5 MiB,
/// by the protocol.
const PIECE: u64 = 8 * 1024 * 1024;
/// Pieces of one upload: one page of a listing has a thousand.
const PIECES_MAX: u64 = 1000;
/// Largest piece that the protocol knows.
const PIECE_MAX: u64 = 5 * 1024 * 1024 * 1024;

/// A file in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Its name, without directories.
    pub(super) file: String,
    /// Its size.
    pub(super) bytes: u64,
}

/// A whole backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// Bytes of its files.
    pub bytes: u64,
}

/// What is in one host's place of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shelf {
    /// Whole backups, oldest first.
    pub(super) backups: Vec<Stored>,
    /// Files of ours that are no part of one: what an upload or a removal that was interrupted left.
    pub(super) litter: Vec<String>,
}

/// How a file is cut for its upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pieces {
    total: u64,
    piece: u64,
}

/// Whether a file name is a backup's, and which part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sealed,
    Manifest,
}

/// The shelf that these files make.
pub(super) fn shelf(items: impl IntoIterator<Item = Item>) -> Shelf {
    let mut found: BTreeMap<String, (Option<u64>, Option<u64>)> = BTreeMap::new();
    let mut shelf = Shelf::default();
    for Item { file, bytes } in items {
        match kind(&file) {
            Some((name, Kind::Sealed)) => found.entry(name.to_owned()).or_default().0 = Some(bytes),
            Some((name, Kind::Manifest)) => {
                found.entry(name.to_owned()).or_default().1 = Some(bytes);
            }
            // A foreign file.
            None => {}
        }
    }
    for (name, files) in found {
        match files {
            (Some(sealed), Some(manifest)) => shelf.backups.push(Stored {
                name,
                bytes: sealed.saturating_add(manifest),
            }),
            (Some(_), None) => shelf.litter.push(format!("{name}{SEALED}")),
            (None, Some(_)) => shelf.litter.push(format!("{name}{MANIFEST}")),
            (None, None) => {}
        }
    }
    shelf
}

/// Names of those that are too many or too large together, oldest first. The newest always stays.
pub(super) fn surplus(backups: &[Stored], keep: u32, max_bytes: u64) -> Vec<String> {
    let mut sum = 0u64;
    let stays = backups
        .iter()
        .rev()
        .take(keep.max(1) as usize)
        .enumerate()
        .take_while(|(nth, backup)| {
            sum = sum.saturating_add(backup.bytes);
            *nth == 0 || sum <= max_bytes
        })
        .count();
    let goes = backups.len() - stays;
    backups.iter().take(goes).map(|b| b.name.clone()).collect()
}

/// Names of backups that are here and not there and would stay there, newest first.
pub(super) fn missing(
    here: impl IntoIterator<Item = Stored>,
    there: Vec<Stored>,
    keep: u32,
    max_bytes: u64,
) -> Vec<String> {
    let there: BTreeMap<_, _> = there.into_iter().map(|b| (b.name, b.bytes)).collect();
    let mut all = there.clone();
    for backup in here {
        all.entry(backup.name).or_insert(backup.bytes);
    }
    let all: Vec<_> = all
        .into_iter()
        .map(|(name, bytes)| Stored { name, bytes })
        .collect();
    let goes = surplus(&all, keep, max_bytes).len();
    let stays = all.into_iter().skip(goes).rev();
    let missing = stays.filter(|b| !there.contains_key(&b.name));
    missing.map(|b| b.name).collect()
}

/// The files of a backup in the order in which they go: first what says that it is one.
pub(super) fn files(name: &str) -> [String; 2] {
    [format!("{name}{MANIFEST}"), format!("{name}{SEALED}")]
}

fn kind(file: &str) -> Option<(&str, Kind)> {
    let sealed = file.strip_suffix(SEALED).map(|n| (n, Kind::Sealed));
    let manifest = || file.strip_suffix(MANIFEST).map(|n| (n, Kind::Manifest));
    sealed.or_else(manifest).filter(|(name, _)| is_name(name))
}

// === impl Pieces ===

impl Pieces {
    /// How `total` bytes are cut; `None` when they are more than the protocol can carry.
    pub(super) fn of(total: u64) -> Option<Self> {
        let least = total.div_ceil(PIECES_MAX).max(PIECE);
        // Whole mebibytes, so that a person who looks at a listing sees round numbers.
        let piece = least.div_ceil(1024 * 1024) * 1024 * 1024;
        (piece <= PIECE_MAX).then_some(Self { total, piece })
    }

    /// How many; 1 goes up as one object.
    pub(super) fn count(self) -> u16 {
        let count = self.total.div_ceil(self.piece).max(1);
        // PIECES_MAX at most.
        u16::try_from(count).unwrap_or(u16::MAX)
    }

    /// First byte and length of a piece; pieces are counted from 1.
    pub(super) fn range(self, number: u16) -> (u64, u64) {
        let from = (u64::from(number).saturating_sub(1) * self.piece).min(self.total);
        (from, self.piece.min(self.total - from))
    }

    /// The tags of those pieces that are there as they should be, out of what the service lists as
    /// (number, size, tag).
    pub(super) fn there(
        self,
        listed: impl IntoIterator<Item = (u16, u64, String)>,
    ) -> BTreeMap<u16, String> {
        listed
            .into_iter()
            .filter(|(number, size, tag)| {
                (1..=self.count()).contains(number)
                    && self.range(*number).1 == *size
                    && !tag.is_empty()
            })
            .map(|(number, _, tag)| (number, tag))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(n: u32) -> String {
        format!("20261128T{n:06}Z-r{n}")
    }

    fn item(file: String, bytes: u64) -> Item {
        Item { file, bytes }
    }

    #[test]
    fn what_is_not_ours_is_not_seen() {
        let foreign = ["notes.txt", "a.json", "a.db.age", "20261128T120000Z-r1.db"];
        let items = foreign.map(|f| item(f.to_owned(), 1));
        assert_eq!(shelf(items), Shelf::default());
    }

    proptest! {
        /// A backup is there when both of its files are, and every file of ours is in one of both lists.
        #[test]
        fn half_a_backup_is_none(files in prop::collection::btree_map(0u32..40, 0u8..4, 0..40)) {
            let mut items = Vec::new();
            for (n, has) in &files {
                if has & 1 != 0 {
                    items.push(item(format!("{}{SEALED}", name(*n)), 10));
                }
                if has & 2 != 0 {
                    items.push(item(format!("{}{MANIFEST}", name(*n)), 1));
                }
            }
            let count = items.len();
            let shelf = shelf(items);
            let whole: Vec<_> = files.iter().filter(|(_, has)| **has == 3).map(|(n, _)| name(*n)).collect();
            let names: Vec<_> = shelf.backups.iter().map(|b| b.name.clone()).collect();
            prop_assert_eq!(names, whole);
            prop_assert!(shelf.backups.iter().all(|b| b.bytes == 11));
            prop_assert_eq!(shelf.backups.len() * 2 + shelf.litter.len(), count);
        }

        /// What stays is the newest few within both bounds, and as many of them as fit.
        #[test]
        fn the_newest_that_fit_stay(
            sizes in prop::collection::vec(0u64..100, 0..30),
            keep in 0u32..40,
            max in 0u64..1500,
        ) {
            let backups: Vec<_> = (0u32..)
                .zip(&sizes)
                .map(|(n, bytes)| Stored { name: name(n), bytes: *bytes })
                .collect();
            let goes = surplus(&backups, keep, max);
            let stays = &backups[goes.len()..];
            prop_assert!(goes.iter().eq(backups.iter().take(goes.len()).map(|b| &b.name)));
            prop_assert_eq!(stays.is_empty(), backups.is_empty());
            let sum = |some: &[Stored]| some.iter().map(|b| b.bytes).sum::<u64>();
            prop_assert!(stays.len() <= 1 || (stays.len() <= keep as usize && sum(stays) <= max));
            if let Some(more) = goes.len().checked_sub(1).map(|from| &backups[from..]) {
                prop_assert!(more.len() > keep.max(1) as usize || sum(more) > max, "one more would fit");
            }
        }

        /// What is copied stays, however often both are looked at; and there is an end to it, with the newest there.
        #[test]
        fn what_is_copied_stays(
            all in prop::collection::btree_map(0u32..40, (1u64..100, 1u8..4), 0..40),
            keep in 1u32..30,
            max in 0u64..2000,
        ) {
            let at = |place: u8| -> Vec<_> {
                let there = all.iter().filter(|(_, (_, places))| places & place != 0);
                there.map(|(n, (bytes, _))| Stored { name: name(*n), bytes: *bytes }).collect()
            };
            let (here, mut there) = (at(1), at(2));
            let newest = here.iter().chain(&there).map(|b| b.name.clone()).max();
            let mut looks = 0;
            loop {
                let copied = missing(here.clone(), there.clone(), keep, max);
                if copied.is_empty() {
                    break;
                }
                looks += 1;
                prop_assert!(looks <= here.len(), "no end");
                for name in &copied {
                    prop_assert!(there.iter().all(|b| b.name != *name));
                    there.extend(here.iter().filter(|b| b.name == *name).cloned());
                }
                there.sort_by(|a, b| a.name.cmp(&b.name));
                let goes = surplus(&there, keep, max);
                prop_assert!(copied.iter().all(|name| !goes.contains(name)));
                there.retain(|b| !goes.contains(&b.name));
            }
            prop_assert_eq!(there.last().map(|b| b.name.clone()), newest, "the newest is there");
        }

        /// Pieces cover the file without a gap, each of a size that the protocol takes.
        #[test]
        fn pieces_are_the_file(total in prop_oneof![0u64..100_000_000, 0u64..5_000_000_000_000]) {
            let pieces = Pieces::of(total).expect("not too large");
            prop_assert!(u64::from(pieces.count()) <= PIECES_MAX);
            let mut at = 0;
            for number in 1..=pieces.count() {
                let (from, len) = pieces.range(number);
                prop_assert_eq!(from, at);
                prop_assert!(number == pieces.count() || (PIECE..=PIECE_MAX).contains(&len));
                at += len;
            }
            prop_assert_eq!(at, total);
        }

        /// Whatever was interrupted, and whatever else the service lists: what is taken for there is right, and the
        /// rest is sent.
        #[test]
        fn only_right_pieces_are_not_sent_again(
            total in 1u64..200_000_000,
            listed in prop::collection::vec((0u16..40, prop_oneof![Just(PIECE), 0u64..PIECE], "[a-f]{0,3}"), 0..40),
        ) {
            let pieces = Pieces::of(total).expect("not too large");
            for (number, tag) in pieces.there(listed.clone()) {
                let (_, len) = pieces.range(number);
                prop_assert!(number >= 1 && number <= pieces.count() && !tag.is_empty());
                prop_assert!(listed.contains(&(number, len, tag)));
            }
        }
    }

    #[test]
    fn what_no_service_takes_is_refused() {
        assert_eq!(Pieces::of(PIECE_MAX * PIECES_MAX + 1), None);
        assert_eq!(Pieces::of(0).map(Pieces::count), Some(1));
        assert_eq!(Pieces::of(PIECE).map(Pieces::count), Some(1));
        assert_eq!(Pieces::of(PIECE + 1).map(Pieces::count), Some(2));
    }
}
