//! The identity as it was before prep-node, and the way back to it.
//!
//! A backup is hard links below `/etc/pf9/.before`: the same inodes, so owner and mode come back
//! too, and nothing is copied. Writing an identity replaces names, never contents. The directory
//! survives a crash, and its name says how far the run had come:
//!
//! ```text
//! .before-making   being made, or being taken away: never gone back to
//! .before          the new identity is being written: the next run goes back first, and keeps the
//!                  new key that root orders with where nothing else names the host id, which the
//!                  plane may have by now
//! .before-written  the new identity is whole and the plane has it: only the run that wrote it goes
//!                  back; for every later one it is the identity, however that run ended
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::host::fs::{FsError, HostFs, fail};
use crate::identity;
use crate::identity::order_key::{self, Had};
use crate::model::paths;

const BEFORE: &str = "/etc/pf9/.before";
const WRITTEN: &str = "/etc/pf9/.before-written";
const MAKING: &str = "/etc/pf9/.before-making";
/// A file that is put back is given this name first; one that a crash leaves goes with the next way
/// back, which knows every name that was there.
const RESTORING: &str = ".before-restoring";
/// Everything that enrolment writes is one of these or below one of these.
const IDENTITY: [&str; 9] = [
    paths::ROOT_DIR,
    paths::HOST_ID,
    paths::MACHINE,
    paths::TICKETS,
    paths::HOLD,
    paths::ENDPOINTS,
    "/etc/pf9/certs/hostagent",
    "/etc/pf9/certs/ca",
    paths::TRUST_DIR,
];
/// Inner ones first.
const MADE: [&str; 5] = [
    paths::ROOT_DIR,
    "/etc/pf9/certs/hostagent",
    "/etc/pf9/certs/ca",
    "/etc/pf9/certs",
    paths::TRUST_DIR,
];

/// The identity as it was.
#[derive(Debug)]
pub(super) struct Before;

impl Before {
    /// Remembers what is there, just before another identity is written. A key that root orders with
    /// and that this run made (`had`) was not there before; one that it replaced has its second name.
    pub(super) fn remember(host: &HostFs, had: Had) -> Result<(), FsError> {
        Self::recover_identity(host)?;
        // Complete under another name first: a half-made backup must never be gone back to.
        let making = host.at(MAKING);
        remove_dir(&making)?;
        for file in files(host)? {
            if file == paths::ORDER_KEY && had != Had::Kept {
                continue;
            }
            let to = making.join(file.trim_start_matches('/'));
            let dir = to.parent().unwrap_or(&making);
            fs::create_dir_all(dir).map_err(|e| fail("make directory", dir, e))?;
            fs::hard_link(host.at(&file), &to).map_err(|e| fail("link", &to, e))?;
        }
        fs::create_dir_all(&making).map_err(|e| fail("make directory", &making, e))?;
        rename(host, MAKING, BEFORE)
    }

    /// The new identity is written, whole: from now on a crash does not take it away. The plane has
    /// pinned it, and comms may have renewed it since.
    pub(super) fn written(host: &HostFs) -> Result<(), FsError> {
        rename(host, BEFORE, WRITTEN)
    }

    /// The new identity stays.
    pub(super) fn forget(host: &HostFs) -> Result<(), FsError> {
        order_key::settle(host)?;
        for kept in [BEFORE, WRITTEN] {
            take_away(host, kept)?;
        }
        remove_dir(&host.at(MAKING))
    }

    /// What a run that was interrupted left: an identity that was not written to its end is undone,
    /// one that was stays. The order key is then the one that goes with the identity that is there.
    pub(super) fn recover(host: &HostFs) -> Result<(), FsError> {
        Self::recover_identity(host)?;
        recover_order_key(host)
    }

    fn recover_identity(host: &HostFs) -> Result<(), FsError> {
        if host.at(WRITTEN).exists() {
            return Self::forget(host);
        }
        let is_named = names_host(&HostFs::new(host.at(BEFORE)));
        go_back(host, (!is_named).then_some(paths::ORDER_KEY))
    }

    /// The remembered identity is back; what was not there is not there. Nothing is done where
    /// nothing is remembered.
    pub(super) fn back(host: &HostFs) -> Result<(), FsError> {
        if host.at(WRITTEN).exists() {
            rename(host, WRITTEN, BEFORE)?;
        }
        go_back(host, None)?;
        recover_order_key(host)
    }
}

/// The key that was replaced is there again, unless only the new one names a host.
fn recover_order_key(host: &HostFs) -> Result<(), FsError> {
    let is_new_alone = !names_host(host) && order_key::host_id(host).is_some();
    match is_new_alone {
        true => Ok(()),
        false => order_key::put_back(host),
    }
}

/// Whether the next run would know from this which host it is, without an order key that was made since. With another id
/// it would be another host, and leave this one dead on the plane.
fn names_host(fs: &HostFs) -> bool {
    let id = identity::host_id(fs).ok().flatten();
    id.or_else(|| order_key::replaced_host_id(fs)).is_some()
}

/// `stays`: a file that stays although it was not there before.
fn go_back(host: &HostFs, stays: Option<&str>) -> Result<(), FsError> {
    let backup = host.at(BEFORE);
    if !backup.exists() {
        return remove_dir(&host.at(MAKING));
    }
    for file in files(host)? {
        let at = host.at(&file);
        let old = backup.join(file.trim_start_matches('/'));
        if !old.exists() && stays != Some(file.as_str()) {
            fs::remove_file(&at).map_err(|e| fail("remove", &at, e))?;
        }
    }
    for old in walk(&backup)? {
        let name = old.strip_prefix(&backup).unwrap_or(&old);
        let at = host.at(Path::new("/").join(name));
        if let Some(dir) = at.parent() {
            fs::create_dir_all(dir).map_err(|e| fail("make directory", dir, e))?;
        }
        restore(&old, &at)?;
    }
    // Directories that enrolment made; one with something in it was there before.
    for dir in MADE {
        drop(fs::remove_dir(host.at(dir)));
    }
    take_away(host, BEFORE)?;
    remove_dir(&host.at(MAKING))
}

/// Puts a remembered file back. It stays remembered until all are back: one that was moved would
/// look, after a crash, like one that was not there before.
fn restore(old: &Path, at: &Path) -> Result<(), FsError> {
    let mut name = at.file_name().unwrap_or_default().to_owned();
    name.push(RESTORING);
    let new = at.with_file_name(name);
    remove_file(&new)?;
    fs::hard_link(old, &new).map_err(|e| fail("link", &new, e))?;
    fs::rename(&new, at).map_err(|e| fail("restore", at, e))?;
    // Renaming one hard link over another of the same file does nothing.
    remove_file(&new)
}

/// A backup goes as a whole: half of one would be gone back to as if it were all.
fn take_away(host: &HostFs, backup: &str) -> Result<(), FsError> {
    if !host.at(backup).exists() {
        return Ok(());
    }
    remove_dir(&host.at(MAKING))?;
    rename(host, backup, MAKING)?;
    remove_dir(&host.at(MAKING))
}

fn rename(host: &HostFs, from: &str, to: &str) -> Result<(), FsError> {
    let to = host.at(to);
    fs::rename(host.at(from), &to).map_err(|e| fail("rename", &to, e))
}

fn remove_file(path: &Path) -> Result<(), FsError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(fail("remove", path, e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Files of the identity that are there, as paths of the host.
fn files(host: &HostFs) -> Result<Vec<String>, FsError> {
    let mut all = Vec::new();
    let root = host.at("/");
    for path in IDENTITY {
        for file in walk(&host.at(path))? {
            let name = file.strip_prefix(&root).unwrap_or(&file);
            all.push(format!("/{}", name.display()));
        }
    }
    Ok(all)
}

fn walk(path: &Path) -> Result<Vec<PathBuf>, FsError> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(fail("look at", path, e)),
    };
    if !meta.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(path).map_err(|e| fail("list", path, e))? {
        all.extend(walk(&entry.map_err(|e| fail("list", path, e))?.path())?);
    }
    Ok(all)
}

fn remove_dir(path: &Path) -> Result<(), FsError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(fail("remove", path, e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::{Attrs, Found};
    use crate::model::HostId;

    fn write(host: &HostFs, path: &str, text: &str, mode: u32) {
        host.write(path, text.as_bytes(), &Attrs::mode(mode))
            .expect("write");
    }

    fn read(host: &HostFs, path: &str) -> Option<String> {
        host.read_text(path, 4096).expect("read")
    }

    #[test]
    fn the_way_back_restores_contents_modes_and_absence() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        write(&host, paths::HOST_ID, "old id", 0o644);
        write(&host, paths::HOST_KEY, "old key", 0o400);
        write(&host, "/etc/pf9/trust/a.json", "a", 0o644);
        write(&host, paths::CONFIG, "mine", 0o644);
        Before::remember(&host, Had::Kept).expect("remember");
        write(&host, paths::HOST_ID, "new id", 0o644);
        write(&host, paths::HOST_KEY, "new key", 0o440);
        write(&host, paths::PLANE_CA, "new ca", 0o644);
        host.remove_file("/etc/pf9/trust/a.json").expect("remove");
        write(&host, "/etc/pf9/trust/b.json", "b", 0o644);
        Before::back(&host).expect("back");
        assert_eq!(read(&host, paths::HOST_ID).as_deref(), Some("old id"));
        assert_eq!(read(&host, paths::HOST_KEY).as_deref(), Some("old key"));
        let found = host.found(paths::HOST_KEY).expect("found");
        assert!(
            matches!(found, Found::File { mode: 0o400, .. }),
            "{found:?}"
        );
        assert_eq!(read(&host, paths::PLANE_CA), None);
        assert_eq!(host.list(paths::TRUST_DIR).expect("list"), ["a.json"]);
        assert_eq!(read(&host, paths::CONFIG).as_deref(), Some("mine"));
        assert_eq!(host.found(BEFORE).expect("found"), Found::Nothing);
    }

    #[test]
    fn an_order_key_that_is_new_goes_with_what_is_undone_and_stays_with_what_was_cut_off() {
        type Undo = fn(&HostFs) -> Result<(), FsError>;
        for (undo, stays) in [
            (Before::back as Undo, false),
            (Before::recover as Undo, true),
        ] {
            let dir = tempfile::tempdir().expect("tempdir");
            let host = HostFs::new(dir.path());
            write(&host, paths::ORDER_KEY, "names the host id", 0o600);
            Before::remember(&host, Had::Made).expect("remember");
            write(&host, paths::HOST_ID, "new id", 0o644);
            undo(&host).expect("undone");
            assert_eq!(read(&host, paths::HOST_ID), None);
            assert_eq!(read(&host, paths::ORDER_KEY).is_some(), stays);
        }
    }

    fn order_key_of(host: &HostFs, id: HostId) -> Option<String> {
        order_key::ensure(host, id).expect("order key");
        read(host, paths::ORDER_KEY)
    }

    /// As a run leaves it that is killed after it replaced the order key: before it remembers, or while it writes.
    fn replaced(host: &HostFs, id: HostId, writes: bool) -> Option<String> {
        let new = order_key_of(host, id);
        if writes {
            Before::remember(host, Had::Replaced).expect("remember");
            write(host, paths::HOST_ID, "half new", 0o644);
        }
        new
    }

    /// Nothing of the old identity names the host, and the plane has the new one by now.
    #[test]
    fn an_order_key_that_replaced_a_damaged_one_stays_where_it_alone_names_the_host() {
        for writes in [false, true] {
            let dir = tempfile::tempdir().expect("tempdir");
            let host = HostFs::new(dir.path());
            write(&host, paths::ORDER_KEY, "damaged", 0o600);
            let id = HostId::random();
            let new = replaced(&host, id, writes);
            Before::recover(&host).expect("the next run");
            assert_eq!(read(&host, paths::ORDER_KEY), new, "{writes}");
            assert_eq!(order_key::host_id(&host), Some(id), "{writes}");
            assert_eq!(read(&host, paths::HOST_ID), None, "{writes}");
            // That run has it already; it ends, or is undone itself.
            let (_, had) = order_key::ensure(&host, id).expect("order key");
            assert_eq!(had, Had::Kept, "{writes}");
            Before::remember(&host, had).expect("remember");
            write(&host, paths::HOST_ID, "new id", 0o644);
            Before::back(&host).expect("back");
            assert_eq!(read(&host, paths::ORDER_KEY), new, "{writes}");
            Before::remember(&host, had).expect("remember");
            write(&host, paths::HOST_ID, "new id", 0o644);
            Before::written(&host).expect("written");
            Before::recover(&host).expect("the run after it");
            assert_eq!(read(&host, paths::ORDER_KEY), new, "{writes}");
            let left = host.list(paths::ROOT_DIR).expect("list");
            assert_eq!(left, ["order-key.json"], "{writes}");
        }
    }

    #[test]
    fn a_replaced_order_key_comes_back_with_the_host_that_it_or_the_identity_names() {
        type Undo = fn(&HostFs) -> Result<(), FsError>;
        for (undo, has_id) in [
            (Before::recover as Undo, true),
            (Before::recover as Undo, false),
            (Before::back as Undo, true),
            (Before::back as Undo, false),
        ] {
            let dir = tempfile::tempdir().expect("tempdir");
            let host = HostFs::new(dir.path());
            let id = HostId::random();
            let old = order_key_of(&host, id);
            if has_id {
                identity::write_host_id(&host, id).expect("id");
            }
            let new = replaced(&host, HostId::random(), true);
            assert_ne!(new, old);
            undo(&host).expect("undone");
            assert_eq!(read(&host, paths::ORDER_KEY), old);
            assert_eq!(identity::host_id(&host).expect("id").is_some(), has_id);
            let left = host.list(paths::ROOT_DIR).expect("list");
            assert_eq!(left, ["order-key.json"]);
        }
    }

    /// It would pass for the key of a host whose plane has another one.
    #[test]
    fn an_order_key_that_a_named_host_had_lost_goes_with_the_identity_that_is_undone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        let id = HostId::random();
        identity::write_host_id(&host, id).expect("id");
        order_key_of(&host, id);
        Before::remember(&host, Had::Made).expect("remember");
        write(&host, paths::HOST_ID, "half new", 0o644);
        Before::recover(&host).expect("the next run");
        assert_eq!(read(&host, paths::ORDER_KEY), None);
        assert_eq!(identity::host_id(&host).expect("id"), Some(id));
    }

    #[test]
    fn a_cut_off_run_is_undone_by_the_next() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        write(&host, paths::HOST_ID, "old id", 0o644);
        // Cut off: neither forgotten nor gone back to.
        Before::remember(&host, Had::Kept).expect("remember");
        write(&host, paths::HOST_ID, "half new", 0o644);
        Before::recover(&host).expect("again");
        assert_eq!(read(&host, paths::HOST_ID).as_deref(), Some("old id"));
        Before::remember(&host, Had::Kept).expect("remember");
        write(&host, paths::HOST_ID, "new", 0o644);
        Before::forget(&host).expect("forget");
        Before::recover(&host).expect("nothing is remembered");
        assert_eq!(read(&host, paths::HOST_ID).as_deref(), Some("new"));
        assert_eq!(host.found(BEFORE).expect("found"), Found::Nothing);
    }

    #[test]
    fn an_identity_that_was_written_to_its_end_is_not_taken_back_by_a_later_run() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        write(&host, paths::HOST_KEY, "old key", 0o400);
        Before::remember(&host, Had::Kept).expect("remember");
        write(&host, paths::HOST_KEY, "new key", 0o400);
        Before::written(&host).expect("written");
        // Killed; comms has renewed the pair since.
        write(&host, paths::HOST_KEY, "renewed key", 0o400);
        Before::recover(&host).expect("the next run");
        assert_eq!(read(&host, paths::HOST_KEY).as_deref(), Some("renewed key"));
        assert_eq!(host.list("/etc/pf9").expect("list"), ["certs"]);
    }

    #[test]
    fn a_way_back_that_was_cut_off_goes_on_and_loses_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        write(&host, paths::HOST_ID, "old id", 0o644);
        write(&host, paths::HOST_KEY, "old key", 0o400);
        Before::remember(&host, Had::Kept).expect("remember");
        write(&host, paths::HOST_ID, "new id", 0o644);
        write(&host, paths::HOST_KEY, "new key", 0o400);
        // As far as the first file, and with what a crash leaves of the next.
        let old = |path: &str| host.at(BEFORE).join(path.trim_start_matches('/'));
        restore(&old(paths::HOST_ID), &host.at(paths::HOST_ID)).expect("restored");
        let half = format!("{}{RESTORING}", paths::HOST_KEY);
        fs::hard_link(old(paths::HOST_KEY), host.at(half)).expect("link");
        Before::recover(&host).expect("again");
        assert_eq!(read(&host, paths::HOST_ID).as_deref(), Some("old id"));
        assert_eq!(read(&host, paths::HOST_KEY).as_deref(), Some("old key"));
        assert_eq!(
            host.list("/etc/pf9/certs/hostagent").expect("list"),
            ["key.pem"]
        );
        assert_eq!(host.found(BEFORE).expect("found"), Found::Nothing);
    }
}
