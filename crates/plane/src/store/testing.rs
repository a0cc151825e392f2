//! The contract of every store, whatever is below it: the same tests for each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Page, Read, Rows, Store, StoreError, schema};

/// A kind of rows.
pub(crate) const NUMBERS: Rows<u64> = Rows::new("numbers");
const OTHERS: Rows<u64> = Rows::new("others");
const TEXTS: Rows<String> = Rows::new("texts");
/// The kinds of rows in these tests.
pub(crate) const TABLES: [&str; 3] = ["numbers", "others", "texts"];

/// Writes over which the store is compared with a map.
const COMPARED: usize = 60;
/// Counting threads, and how far each counts.
const COUNTERS: u64 = 3;
const COUNTED: u64 = 10;

fn again(place: &mut impl Place, store: Store) -> Store {
    place.close(store);
    place.open()
}

/// Opens a store as a version that has one more step, which changes nothing.
pub(crate) fn ahead(path: &Path, tables: &BTreeSet<&'static str>) {
    let nothing: schema::Step = |_| Ok(());
    let steps = [schema::STEPS, &[nothing][..]].concat();
    drop(Store::open_as(path, tables, &steps).expect("the next schema"));
}

/// A location of a store, which can be closed and opened again.
pub(crate) trait Place {
    fn open(&mut self) -> Store;
    /// As a plane that stops closes it.
    fn close(&mut self, store: Store);
}

/// Runs all of them.
pub(crate) fn keep(place: &mut impl Place) {
    let store = place.open();
    what_fails_leaves_nothing(&store);
    a_write_sees_itself_and_a_snapshot_does_not(&store);
    pages(&store);
    let store = long_ones(store, |store| again(place, store));
    counting(&store);
    let store = compared(store, |store| again(place, store));
    place.close(store);
}

fn write<T>(store: &Store, work: impl FnOnce(&mut super::Write) -> Result<T, StoreError>) -> T {
    store.write(work).expect("a write")
}

fn emptied(store: &Store) {
    write(store, |w| {
        for (key, _) in w.all(&NUMBERS)? {
            w.remove(&NUMBERS, &key)?;
        }
        for (key, _) in w.all(&OTHERS)? {
            w.remove(&OTHERS, &key)?;
        }
        for (key, _) in w.all(&TEXTS)? {
            w.remove(&TEXTS, &key)?;
        }
        Ok(())
    });
}

fn what_fails_leaves_nothing(store: &Store) {
    write(store, |w| w.put(&NUMBERS, "there", &1));
    let failed: Result<(), StoreError> = store.write(|w| {
        w.put(&NUMBERS, "x", &1)?;
        w.remove(&NUMBERS, "there")?;
        Err(StoreError::NotNewer { knows: 9 })
    });
    assert!(failed.is_err());
    let read = store.read().expect("read");
    assert_eq!(read.get(&NUMBERS, "x").expect("get"), None);
    assert_eq!(read.get(&NUMBERS, "there").expect("get"), Some(1));
}

fn a_write_sees_itself_and_a_snapshot_does_not(store: &Store) {
    emptied(store);
    let before = store.read().expect("read");
    write(store, |w| {
        w.put(&NUMBERS, "a", &1)?;
        assert_eq!(w.get(&NUMBERS, "a")?, Some(1));
        assert_eq!(w.count(&NUMBERS)?, 1);
        w.put(&NUMBERS, "a", &2)?;
        assert_eq!(w.all(&NUMBERS)?, [("a".to_owned(), 2)]);
        w.put(&NUMBERS, "b", &3)?;
        w.remove(&NUMBERS, "b")?;
        w.remove(&NUMBERS, "was never there")
    });
    assert_eq!(before.get(&NUMBERS, "a").expect("get"), None);
    let after = store.read().expect("read");
    assert_eq!(after.all(&NUMBERS).expect("all"), [("a".to_owned(), 2)]);
}

fn pages(store: &Store) {
    emptied(store);
    write(store, |w| {
        for (n, key) in ["a/9", "b/1", "b/2", "b/3", "b/4", "c/1"]
            .iter()
            .enumerate()
        {
            w.put(&NUMBERS, key, &(n as u64))?;
        }
        Ok(())
    });
    let read = store.read().expect("read");
    let page = |beyond, backwards, most| {
        let page = Page {
            prefix: "b/",
            beyond,
            backwards,
            most,
        };
        let rows = read.page(&NUMBERS, page).expect("page");
        rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    assert_eq!(page(None, false, 2), ["b/1", "b/2"]);
    assert_eq!(page(Some("b/2"), false, 9), ["b/3", "b/4"]);
    assert_eq!(page(Some("a/0"), false, 1), ["b/1"], "of another prefix");
    assert_eq!(page(None, true, 2), ["b/4", "b/3"]);
    assert_eq!(page(Some("b/3"), true, 9), ["b/2", "b/1"]);
    assert_eq!(page(Some("c/0"), true, 1), ["b/4"]);
    assert!(page(Some("b/4"), false, 9).is_empty());
    assert!(page(Some("b/1"), true, 9).is_empty());
}

/// More rows, and more bytes, than any single transaction takes; with unusual keys.
fn long_ones(store: Store, again: impl FnOnce(Store) -> Store) -> Store {
    emptied(&store);
    let text = |n: usize| "\u{fc}\"\\/".repeat(n);
    let sizes: Vec<usize> = (0..420)
        .map(|n| if n % 40 == 0 { 60_000 } else { n })
        .collect();
    let key = |n: usize| match n % 3 {
        0 => format!("plain-{n:04}"),
        1 => format!("with/slash and \u{20ac} {n:04}"),
        _ => format!("\"quoted\\{n:04}\u{0}"),
    };
    write(&store, |w| {
        for (n, size) in sizes.iter().enumerate() {
            w.put(&TEXTS, &key(n), &text(*size))?;
        }
        w.put(&NUMBERS, "beside", &1)
    });
    let look = |store: &Store| {
        let read = store.read().expect("read");
        for (n, size) in sizes.iter().enumerate() {
            let found = read.get(&TEXTS, &key(n)).expect("get").expect("a row");
            assert_eq!(found.len(), text(*size).len(), "{n}");
        }
        assert_eq!(read.all(&TEXTS).expect("all").len(), sizes.len());
    };
    look(&store);
    let store = again(store);
    look(&store);
    store
}

/// No update is lost under concurrent writes.
fn counting(store: &Store) {
    emptied(store);
    std::thread::scope(|scope| {
        for _ in 0..COUNTERS {
            scope.spawn(|| {
                for _ in 0..COUNTED {
                    write(store, |w| {
                        let now = w.get(&NUMBERS, "n")?.unwrap_or(0);
                        w.put(&NUMBERS, "n", &(now + 1))
                    });
                }
            });
        }
    });
    let read = store.read().expect("read");
    let counted = read.get(&NUMBERS, "n").expect("get");
    assert_eq!(counted, Some(COUNTERS * COUNTED));
}

/// For any writes in any order: it equals a map, before and after it was closed.
fn compared(store: Store, again: impl FnOnce(Store) -> Store) -> Store {
    emptied(&store);
    let mut random = fastrand::Rng::with_seed(11);
    let mut map: BTreeMap<String, u64> = BTreeMap::new();
    let mut others: BTreeMap<String, u64> = BTreeMap::new();
    let same = |store: &Store, map: &BTreeMap<String, u64>, others: &BTreeMap<String, u64>| {
        let read = store.read().expect("read");
        let is = |rows| -> BTreeMap<_, _> { read.all(rows).expect("all").into_iter().collect() };
        assert_eq!((&is(&NUMBERS), &is(&OTHERS)), (map, others));
    };
    for _ in 0..COMPARED {
        let (mut numbers, mut more) = (map.clone(), others.clone());
        let fails = random.u8(..) < 50;
        let done: Result<(), StoreError> = store.write(|w| {
            for _ in 0..random.usize(0..6) {
                let (key, value) = (format!("k{}", random.u8(0..12)), random.u64(..));
                match random.u8(0..4) {
                    0 => {
                        w.remove(&NUMBERS, &key)?;
                        numbers.remove(&key);
                    }
                    1 => {
                        w.put(&OTHERS, &key, &value)?;
                        more.insert(key, value);
                    }
                    _ => {
                        w.put(&NUMBERS, &key, &value)?;
                        numbers.insert(key, value);
                    }
                }
            }
            match fails {
                true => Err(StoreError::NotNewer { knows: 9 }),
                false => Ok(()),
            }
        });
        assert_eq!(done.is_err(), fails);
        if !fails {
            (map, others) = (numbers, more);
        }
        same(&store, &map, &others);
    }
    let store = again(store);
    same(&store, &map, &others);
    store
}
