//! The store across versions of the plane: upgraded in one transaction after a copy, downgraded by that copy.
//!
//! ```text
//! plane.redb ──copy──► plane.redb.schema-1      (complete and durable, before anything is changed)
//!     └─ one transaction: every step, and the new number ─► plane.redb has schema 2
//! ```
//!
//! A plane that is killed before the transaction commits has the old store, after it the new one. New kinds of rows and
//! new fields with a default are no new schema: an older plane ignores them. The schema rises when existing rows have
//! to be rewritten, or when an older plane would do harm by reading them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, TableError};

use pf9_hostagent::seam::disk::{self, Options};

use super::{CACHE_BYTES, META, Read, Snapshot, StoreError, Write, redb_failed};

/// One step: converts rows of a schema to the next.
pub(super) type Step = fn(&mut Write) -> Result<(), StoreError>;

/// All steps from the first schema on; their number is the schema that this version writes.
pub(super) const STEPS: &[Step] = &[crate::people::make::from_one];

/// The schema after these steps.
pub(super) fn schema(steps: &[Step]) -> u64 {
    1 + steps.len() as u64
}

/// Path of the copy of a store of this schema.
pub(super) fn copy_of(store: &Path, schema: u64) -> PathBuf {
    let mut name = store.file_name().unwrap_or_default().to_owned();
    name.push(format!(".schema-{schema}"));
    store.with_file_name(name)
}

/// Opens or creates the file: 0600 from the first byte, because the clusters' authority keys are in it.
pub(super) fn open_file(path: &Path) -> Result<Database, StoreError> {
    let open = |source: redb::Error| StoreError::Open {
        path: path.to_path_buf(),
        source,
    };
    let made = || {
        let new = !path.exists();
        let file = Options::write().read().create(0o600).open(path)?;
        if new {
            // What is acknowledged must be durable, including the file's name.
            disk::sync_dir(path.parent().unwrap_or(path))?;
        }
        Ok(file.into_std())
    };
    let file = made().map_err(|e| open(redb::Error::Io(e)))?;
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    #[cfg(feature = "fault")]
    let made =
        super::backend::Points::of(file).and_then(|points| builder.create_with_backend(points));
    #[cfg(not(feature = "fault"))]
    let made = builder.create_file(file);
    made.map_err(|e| open(e.into()))
}

/// The schema of an existing store; none: it is new.
pub(super) fn found(db: &Database) -> Result<Option<u64>, StoreError> {
    let read = db.begin_read().map_err(redb_failed)?;
    match read.open_table(META.table()) {
        Ok(_) => {}
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(e) => return Err(redb_failed(e)),
    }
    Snapshot(read).get(&META, "schema")
}

/// The store, in a schema that this version can use: an older one is copied first, because its steps run when it is
/// opened.
pub(super) fn ready(path: &Path, steps: &[Step]) -> Result<Database, StoreError> {
    let db = open_file(path)?;
    let (found, knows) = (found(&db)?, schema(steps));
    match found {
        Some(found) if found > knows => {
            let copy = Some(copy_of(path, knows)).filter(|copy| copy.exists());
            Err(StoreError::Newer { found, knows, copy })
        }
        Some(found) if found < knows => {
            // Closed: the file is complete, and nobody else had it open a moment ago.
            drop(db);
            let to = copy_of(path, found);
            copy(path, &to).map_err(|source| StoreError::Copy {
                to: to.clone(),
                source,
            })?;
            tracing::info!(from = found, to = knows, copy = %to.display(), "migrating the store to the next schema");
            open_file(path)
        }
        Some(_) | None => Ok(db),
    }
}

/// Runs the missing steps, inside the transaction that opens the store.
pub(super) fn step_on(write: &mut Write, steps: &[Step]) -> Result<(), StoreError> {
    let knows = schema(steps);
    let Some(found) = write.get(&META, "schema")? else {
        return write.put(&META, "schema", &knows);
    };
    if found == knows {
        return Ok(());
    }
    let done = usize::try_from(found.saturating_sub(1)).unwrap_or(usize::MAX);
    for step in steps.iter().skip(done) {
        step(write)?;
    }
    write.put(&META, "schema", &knows)
}

/// Replaces a newer store with the copy of this version's schema; the newer one stays beside it. Returns where.
///
/// What was acknowledged since the copy is not in it: hosts may then be ahead of it, as with any backup.
pub(super) fn put_back(path: &Path, steps: &[Step]) -> Result<PathBuf, StoreError> {
    let knows = schema(steps);
    let copied = copy_of(path, knows);
    let missing = |source| StoreError::Copy {
        to: copied.clone(),
        source,
    };
    File::open(&copied).map_err(missing)?;
    // Held open to the end: a running plane would have it locked, and must not lose it.
    let db = open_file(path)?;
    let found = match found(&db)? {
        Some(found) if found > knows => found,
        Some(_) | None => return Err(StoreError::NotNewer { knows }),
    };
    let kept = copy_of(path, found);
    let failed = |to: &Path| {
        let to = to.to_path_buf();
        move |source| StoreError::Copy { to, source }
    };
    // A second name first, then one rename over the first: the store exists at every instant.
    match disk::remove_file(&kept) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(&kept)(e)),
    }
    disk::hard_link(path, &kept).map_err(failed(&kept))?;
    copy(&copied, path).map_err(failed(path))?;
    drop(db);
    Ok(kept)
}

/// A complete copy under its name, or none.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let temp = to.with_file_name(name);
    let done = (|| {
        let mut source = File::open(from)?;
        let mut out = Options::write().create(0o600).truncate().open(&temp)?;
        io::copy(&mut source, &mut out)?;
        out.sync_all()?;
        disk::rename(&temp, to)?;
        disk::sync_dir(to.parent().unwrap_or(to))
    })();
    if done.is_err() {
        // The file is ours; the error matters more.
        drop(disk::remove_file(&temp));
    }
    done
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::{Rows, Store};

    const NUMBERS: Rows<u32> = Rows::new("numbers");

    fn double(write: &mut Write) -> Result<(), StoreError> {
        for (key, number) in write.all(&NUMBERS)? {
            write.put(&NUMBERS, &key, &(number * 2))?;
        }
        Ok(())
    }

    fn fails(write: &mut Write) -> Result<(), StoreError> {
        write.put(&NUMBERS, "a", &99)?;
        Err(StoreError::NotNewer { knows: 0 })
    }

    struct World {
        dir: tempfile::TempDir,
    }

    impl World {
        /// A store of the first schema that contains 7.
        fn new() -> Self {
            let world = Self {
                dir: tempfile::tempdir().expect("tempdir"),
            };
            let store = world.open(&[]).expect("open");
            store.write(|w| w.put(&NUMBERS, "a", &7)).expect("write");
            world
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("s.redb")
        }

        fn open(&self, steps: &[Step]) -> Result<Store, StoreError> {
            Store::open_as(&self.path(), &[NUMBERS.name].into(), steps)
        }

        fn says(&self, steps: &[Step]) -> Option<u32> {
            let read = self.open(steps).expect("open").read().expect("read");
            read.get(&NUMBERS, "a").expect("get")
        }
    }

    #[test]
    fn it_goes_forward_once_and_what_was_is_beside_it() {
        let world = World::new();
        assert_eq!(world.says(&[double]), Some(14));
        assert_eq!(world.says(&[double]), Some(14), "once");
        let copy = copy_of(&world.path(), 1);
        let mode = fs::metadata(&copy).expect("copy").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(world.says(&[double, double]), Some(28), "from where it is");
        assert!(copy_of(&world.path(), 2).exists());
    }

    #[cfg(feature = "fault")]
    mod power {
        use super::*;

        /// The file of a new store survives a power loss once its first row is acknowledged.
        #[test]
        fn what_a_new_store_acknowledged_outlives_the_power() {
            use pf9_hostagent::seam::fault::{PowerLoss, Scope};

            let world = World {
                dir: tempfile::tempdir().expect("tempdir"),
            };
            let scope = Scope::whole();
            let here = scope.enter();
            let store = world.open(&[]).expect("open");
            store.write(|w| w.put(&NUMBERS, "a", &7)).expect("write");
            scope.end();
            drop((store, here));
            scope.lose(PowerLoss::Everything);
            let store = world.open(&[]).expect("open");
            let read = store.read().expect("read");
            assert_eq!(read.get(&NUMBERS, "a").expect("get"), Some(7));
        }
    }

    #[test]
    fn a_step_that_fails_changes_nothing() {
        let world = World::new();
        assert!(world.open(&[double, fails]).is_err());
        assert_eq!(world.says(&[]), Some(7));
    }

    #[test]
    fn without_a_copy_it_goes_nowhere() {
        let world = World::new();
        // A directory in the copy's place.
        let in_the_way = copy_of(&world.path(), 1);
        fs::create_dir_all(in_the_way.join("x")).expect("dir");
        let refused = world.open(&[double]).err().expect("refused");
        assert!(matches!(refused, StoreError::Copy { .. }), "{refused}");
        assert_eq!(world.says(&[]), Some(7));
    }

    #[test]
    fn a_newer_one_is_refused_and_put_back_by_its_copy() {
        let world = World::new();
        world.open(&[double]).expect("forward");
        let refused = world.open(&[]).err().expect("refused");
        let said = refused.to_string();
        assert!(
            said.contains("schema 2") && said.contains("up to 1"),
            "{said}"
        );
        assert!(
            refused.fix().expect("what to do").contains("put-back"),
            "{said}"
        );
        let kept = put_back(&world.path(), &[]).expect("back");
        assert_eq!(world.says(&[]), Some(7));
        assert_eq!(kept, copy_of(&world.path(), 2));
        assert!(matches!(
            put_back(&world.path(), &[]),
            Err(StoreError::NotNewer { .. })
        ));
        fs::rename(kept, world.path()).expect("the newer again");
        assert_eq!(world.says(&[double]), Some(14), "nothing of it was lost");
    }

    #[test]
    fn who_has_no_copy_is_told_so_and_a_plane_that_runs_keeps_its_store() {
        let world = World::new();
        let running = world.open(&[double]).expect("forward");
        assert!(matches!(
            put_back(&world.path(), &[]),
            Err(StoreError::Open { .. })
        ));
        drop(running);
        fs::remove_file(copy_of(&world.path(), 1)).expect("gone");
        let refused = world.open(&[]).err().expect("refused");
        assert!(
            !refused.fix().expect("what to do").contains("put-back"),
            "{refused}"
        );
        assert!(matches!(
            put_back(&world.path(), &[]),
            Err(StoreError::Copy { .. })
        ));
        assert_eq!(world.says(&[double]), Some(14));
    }

    /// An upgrade of a store and a write, broken at every point: see [`pf9_hostagent::seam::walk`].
    #[cfg(feature = "fault")]
    mod walk {
        use std::collections::BTreeMap;

        use super::*;
        use pf9_hostagent::seam::walk::{Scenario, walk};

        struct NextSchema;

        struct Opening(World);

        impl Scenario for NextSchema {
            const NAME: &'static str = "the plane's store";
            type World = Opening;

            async fn begin(&self) -> Opening {
                Opening(World::new())
            }

            async fn life(&self, Opening(world): &mut Opening, _starts: bool) -> bool {
                let Ok(store) = world.open(&[double]) else {
                    return false;
                };
                let number = store.read().and_then(|r| r.get(&NUMBERS, "a"));
                assert!(matches!(number, Ok(Some(14))), "{number:?}");
                store.write(|w| w.put(&NUMBERS, "b", &1)).is_ok()
            }

            async fn end(&self, Opening(world): &mut Opening) -> BTreeMap<String, String> {
                let store = world.open(&[double]).expect("open");
                let read = store.read().expect("read");
                let rows = read.all(&NUMBERS).expect("rows");
                let mut names: Vec<_> = fs::read_dir(world.dir.path())
                    .expect("directory")
                    .map(|e| e.expect("entry").file_name())
                    .collect();
                names.sort();
                let copy = Database::open(copy_of(&world.path(), 1)).expect("the copy is whole");
                drop(copy);
                [
                    ("rows".to_owned(), format!("{rows:?}")),
                    ("names".to_owned(), format!("{names:?}")),
                ]
                .into()
            }
        }

        /// Points of the seam that only the store passes.
        #[tokio::test]
        async fn the_stores_own_points_are_passed() {
            use pf9_hostagent::seam::fault::CallKind;
            let passed = pf9_hostagent::seam::walk::reference(&NextSchema).await;
            for kind in [CallKind::Write, CallKind::Sync] {
                let own = passed.points.iter().filter(|p| p.kind == kind);
                assert!(own.clone().any(|p| p.about == "store"), "{kind:?}");
            }
        }

        #[tokio::test]
        async fn a_store_broken_anywhere_is_of_the_next_schema_and_has_its_rows() {
            walk(&NextSchema, 60).await;
        }
    }
}
