//! The identity as it was before prep-node, and the way back to it.
//!
//! A backup is hard links below `/etc/pf9/.before`: the same inodes, so owner and mode come back
//! too, and nothing is copied. Writing an identity replaces names, never contents. The directory
//! survives a crash, and its name says how far the run had come:
//!
//! ```text
//! .before-making   being made, or being taken away: never gone back to
//! .before          the new identity is being written: the next run goes back first. The new key that
//!                  root orders with is then offered again, under its host's name: the plane has it
//! .before-written  the new identity is whole and the plane has it: only the run that wrote it goes
//!                  back; for every later one it is the identity, however that run ended
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::host::fs::{FsError, HostFs, fail};
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
const MADE: [&str; 6] = [
    paths::ORDER_KEYS_OFFERED,
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
    /// Remembers what is there, just before another identity is written: also the key that root offered with it.
    pub(super) fn remember(host: &HostFs) -> Result<(), FsError> {
        Self::recover(host)?;
        // Complete under another name first: a half-made backup must never be gone back to.
        let making = host.at(MAKING);
        remove_dir(&making)?;
        for file in files(host)? {
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
        for kept in [BEFORE, WRITTEN] {
            take_away(host, kept)?;
        }
        remove_dir(&host.at(MAKING))
    }

    /// What a run that was interrupted left: an identity that was not written to its end is undone,
    /// one that was stays.
    pub(super) fn recover(host: &HostFs) -> Result<(), FsError> {
        match host.at(WRITTEN).exists() {
            true => Self::forget(host),
            false => go_back(host),
        }
    }

    /// The remembered identity is back; what was not there is not there. Nothing is done where
    /// nothing is remembered.
    pub(super) fn back(host: &HostFs) -> Result<(), FsError> {
        if host.at(WRITTEN).exists() {
            rename(host, WRITTEN, BEFORE)?;
        }
        go_back(host)
    }
}

fn go_back(host: &HostFs) -> Result<(), FsError> {
    let backup = host.at(BEFORE);
    if !backup.exists() {
        return remove_dir(&host.at(MAKING));
    }
    for file in files(host)? {
        let at = host.at(&file);
        let old = backup.join(file.trim_start_matches('/'));
        if !old.exists() {
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
    use crate::identity;
    use crate::identity::order_key::{self, Had};
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
        Before::remember(&host).expect("remember");
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

    /// What a machine has to order with before a run: nothing, what cannot be read, or another host's.
    fn machines() -> Vec<(tempfile::TempDir, HostFs)> {
        let all = [None, Some("damaged"), Some("another's")];
        let machine = |had: Option<&str>| {
            let dir = tempfile::tempdir().expect("tempdir");
            let host = HostFs::new(dir.path());
            match had {
                None => {}
                Some("damaged") => write(&host, paths::ORDER_KEY, "damaged", 0o600),
                Some(_) => drop(order_key::ensure(&host, HostId::random()).expect("key")),
            }
            (dir, host)
        };
        all.map(machine).into()
    }

    /// A run is killed at each of its points, before and after the plane has taken the key: the next one has the identity
    /// and the key of before, and offers the new key again, unless the new identity was whole.
    #[test]
    fn no_key_to_order_with_is_lost_wherever_a_run_is_killed() {
        for killed_at in 0..6 {
            for ((_dir, host), has_id) in machines().into_iter().zip([false, true, true]) {
                let (old, new) = (HostId::random(), HostId::random());
                if has_id {
                    identity::write_host_id(&host, old).expect("id");
                }
                let before = read(&host, paths::ORDER_KEY);
                let at = format!("{}/{new}.json", paths::ORDER_KEYS_OFFERED);
                let steps: [&dyn Fn(); 5] = [
                    &|| drop(order_key::offer(&host, new).expect("offered")),
                    &|| Before::remember(&host).expect("remember"),
                    &|| write(&host, paths::HOST_ID, "new id", 0o644),
                    &|| order_key::accept(&host, new, Had::Made).expect("accepted"),
                    &|| Before::written(&host).expect("written"),
                ];
                let mut offered = None;
                for step in steps.iter().take(killed_at) {
                    step();
                    offered = read(&host, &at).or(offered);
                }
                Before::recover(&host).expect("the next run");
                let is_whole = killed_at == steps.len();
                let id = read(&host, paths::HOST_ID);
                let (key, left) = (read(&host, paths::ORDER_KEY), read(&host, &at));
                let case = format!("{killed_at} {before:?}");
                assert_eq!(offered.is_some(), killed_at > 0, "{case}");
                match is_whole {
                    true => assert_eq!((key, left), (offered, None), "{case}"),
                    false => assert_eq!((key, left), (before, offered), "{case}"),
                }
                let is_new = id.as_deref() == Some("new id");
                assert_eq!((is_new, id.is_some()), (is_whole, is_whole || has_id));
                assert_eq!(host.found(BEFORE).expect("found"), Found::Nothing);
            }
        }
    }

    /// A run that is undone by itself leaves the key to the run: it is withdrawn there, or was offered before.
    #[test]
    fn an_identity_that_is_undone_leaves_the_key_offered() {
        for (_dir, host) in machines() {
            let before = read(&host, paths::ORDER_KEY);
            let new = HostId::random();
            order_key::offer(&host, new).expect("offered");
            Before::remember(&host).expect("remember");
            order_key::accept(&host, new, Had::Made).expect("accepted");
            Before::written(&host).expect("written");
            Before::back(&host).expect("back");
            assert_eq!(read(&host, paths::ORDER_KEY), before);
            let (_, had) = order_key::offer(&host, new).expect("there");
            assert_eq!(had, Had::Offered);
            order_key::withdraw(&host, new).expect("withdrawn");
            assert_eq!(read(&host, paths::ORDER_KEY), before);
            let left = host.found(paths::ROOT_DIR).expect("found");
            assert_eq!(left != Found::Nothing, before.is_some());
        }
    }

    #[test]
    fn a_cut_off_run_is_undone_by_the_next() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        write(&host, paths::HOST_ID, "old id", 0o644);
        // Cut off: neither forgotten nor gone back to.
        Before::remember(&host).expect("remember");
        write(&host, paths::HOST_ID, "half new", 0o644);
        Before::recover(&host).expect("again");
        assert_eq!(read(&host, paths::HOST_ID).as_deref(), Some("old id"));
        Before::remember(&host).expect("remember");
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
        Before::remember(&host).expect("remember");
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
        Before::remember(&host).expect("remember");
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
