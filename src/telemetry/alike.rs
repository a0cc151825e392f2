//! Refusals that are alike are written once and then counted: pure.
//!
//! A peer that is refused can come again as fast as the tunnel carries it. Were each refusal a line, it
//! would push everything else out of the log.

use std::collections::BTreeMap;
use std::time::Duration;

/// For how long refusals of one kind are counted before the number is written.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Most kinds that are kept apart within a window; callers choose their names. With the rest, which
/// is counted together, these are at most 66 lines of about a kilobyte a minute: the log's 50 MiB
/// last half a day of the worst caller.
pub const KINDS_MAX: usize = 32;

/// How many more of a kind there were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct More<Kind> {
    /// `None`: of kinds there was no place for.
    pub kind: Option<Kind>,
    /// How many.
    pub more: u64,
}

/// What was written of late, by what refusals have in common. Times are measured from any fixed moment.
#[derive(Debug)]
pub struct Fold<Kind> {
    /// At most [`KINDS_MAX`], and the rest below `None`.
    rows: BTreeMap<Option<Kind>, Row>,
}

#[derive(Debug)]
struct Row {
    began: Duration,
    more: u64,
}

impl<Kind> Default for Fold<Kind> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
        }
    }
}

impl<Kind: Ord> Fold<Kind> {
    /// A refusal: whether it is written; if not, it is counted. Those that are due go first.
    pub fn note(&mut self, kind: Kind, now: Duration) -> bool {
        let mut kind = Some(kind);
        if !self.rows.contains_key(&kind) && self.rows.len() >= KINDS_MAX {
            kind = None;
        }
        if let Some(row) = self.rows.get_mut(&kind) {
            row.more += 1;
            return false;
        }
        let began = now;
        self.rows.insert(kind, Row { began, more: 0 });
        true
    }

    /// Ends the windows that are over; answers what was counted in them.
    pub fn due(&mut self, now: Duration) -> Vec<More<Kind>> {
        let over = |row: &Row| now >= row.began + WINDOW;
        let rows = self.rows.extract_if(.., |_, row| over(row));
        rows.filter_map(|(kind, row)| row.told(kind)).collect()
    }

    /// When the next window is over; none while there is none.
    pub fn next(&self) -> Option<Duration> {
        self.rows.values().map(|row| row.began + WINDOW).min()
    }

    /// Ends all windows.
    pub fn rest(&mut self) -> Vec<More<Kind>> {
        let rows = std::mem::take(&mut self.rows).into_iter();
        rows.filter_map(|(kind, row)| row.told(kind)).collect()
    }
}

impl Row {
    fn told<Kind>(self, kind: Option<Kind>) -> Option<More<Kind>> {
        let more = self.more;
        (more > 0).then_some(More { kind, more })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind(who: u32) -> String {
        format!("{who} is not allowed")
    }

    #[test]
    fn the_first_of_a_kind_is_written_and_the_others_are_counted() {
        let (mut fold, now) = (Fold::default(), Duration::from_secs(7));
        assert!(fold.note(kind(1), now));
        for _ in 0..312 {
            assert!(!fold.note(kind(1), now + WINDOW / 2));
        }
        assert!(fold.note(kind(2), now + WINDOW / 2), "of another kind");
        assert_eq!(fold.next(), Some(now + WINDOW));
        assert_eq!(fold.due(now + WINDOW * 99 / 100), []);
        let more = More {
            kind: Some(kind(1)),
            more: 312,
        };
        assert_eq!(fold.due(now + WINDOW), [more]);
        assert!(fold.note(kind(1), now + WINDOW), "a new window");
        assert_eq!(fold.rest(), [], "none beyond those that were written");
        assert_eq!(fold.next(), None);
    }

    proptest! {
        /// However many names a caller has: a bounded table, a bounded number of lines, and none
        /// is forgotten.
        #[test]
        fn names_without_end_do_not_fill_the_log(whos in prop::collection::vec(0u32..100, 1..2000)) {
            let mut fold = Fold::default();
            let total = whos.len() as u64;
            let written = whos.into_iter().filter(|who| fold.note(kind(*who), Duration::ZERO)).count();
            prop_assert!(written <= KINDS_MAX + 1 && fold.rows.len() <= KINDS_MAX + 1);
            let more: u64 = fold.due(WINDOW).iter().map(|m| m.more).sum();
            prop_assert_eq!(written as u64 + more, total);
        }
    }
}
