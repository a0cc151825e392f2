//! The identity as it was before prep-node, and the way back to it.
//!
//! A backup is hard links below `/etc/pf9/.before`: the same inodes, so owner and mode come back
//! too, and nothing is copied. Writing an identity replaces names, never contents. The directory
//! survives a crash: the next prep-node finds it and goes back first.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::host::fs::{FsError, HostFs};
use crate::model::paths;

const BEFORE: &str = "/etc/pf9/.before";
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
    /// Remembers what is there, just before another identity is written; but for `new`, which this
    /// run has made already.
    pub(super) fn remember(host: &HostFs, new: Option<&str>) -> Result<(), FsError> {
        Self::recover(host)?;
        // Complete under another name first: a half-made backup must never be gone back to.
        let making = host.at("/etc/pf9/.before-making");
        remove_dir(&making)?;
        for file in files(host)?.iter().filter(|f| Some(f.as_str()) != new) {
            let to = making.join(file.trim_start_matches('/'));
            let dir = to.parent().unwrap_or(&making);
            fs::create_dir_all(dir).map_err(|e| fail("make directory", dir, e))?;
            fs::hard_link(host.at(file), &to).map_err(|e| fail("link", &to, e))?;
        }
        fs::create_dir_all(&making).map_err(|e| fail("make directory", &making, e))?;
        let to = host.at(BEFORE);
        fs::rename(&making, &to).map_err(|e| fail("rename", &to, e))
    }

    /// The new identity stays.
    pub(super) fn forget(host: &HostFs) -> Result<(), FsError> {
        remove_dir(&host.at(BEFORE))
    }

    /// The remembered identity is back, whoever remembered it; what was not there is not there.
    /// Nothing is done where nothing is remembered.
    pub(super) fn recover(host: &HostFs) -> Result<(), FsError> {
        let backup = host.at(BEFORE);
        if !backup.exists() {
            return Ok(());
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
            // Renaming one hard link over another of the same file does nothing: that is fine too.
            fs::rename(&old, &at).map_err(|e| fail("restore", &at, e))?;
        }
        // Directories that enrolment made; one with something in it was there before.
        for dir in MADE {
            drop(fs::remove_dir(host.at(dir)));
        }
        remove_dir(&backup)
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

fn fail(action: &'static str, path: &Path, source: io::Error) -> FsError {
    FsError {
        action,
        path: path.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::{Attrs, Found};

    fn write(host: &HostFs, path: &str, text: &str, mode: u32) {
        host.write(path, text.as_bytes(), &Attrs::mode(mode))
            .expect("write");
    }

    fn read(host: &HostFs, path: &str) -> Option<String> {
        host.read_text(path, 100).expect("read")
    }

    #[test]
    fn the_way_back_restores_contents_modes_and_absence() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        write(&host, paths::HOST_ID, "old id", 0o644);
        write(&host, paths::HOST_KEY, "old key", 0o400);
        write(&host, "/etc/pf9/trust/a.json", "a", 0o644);
        write(&host, paths::CONFIG, "mine", 0o644);
        Before::remember(&host, None).expect("remember");
        write(&host, paths::HOST_ID, "new id", 0o644);
        write(&host, paths::HOST_KEY, "new key", 0o440);
        write(&host, paths::PLANE_CA, "new ca", 0o644);
        host.remove_file("/etc/pf9/trust/a.json").expect("remove");
        write(&host, "/etc/pf9/trust/b.json", "b", 0o644);
        Before::recover(&host).expect("back");
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
    fn a_cut_off_run_is_undone_by_the_next() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        write(&host, paths::HOST_ID, "old id", 0o644);
        // Cut off: neither forgotten nor gone back to.
        Before::remember(&host, None).expect("remember");
        write(&host, paths::HOST_ID, "half new", 0o644);
        Before::recover(&host).expect("again");
        assert_eq!(read(&host, paths::HOST_ID).as_deref(), Some("old id"));
        Before::remember(&host, None).expect("remember");
        write(&host, paths::HOST_ID, "new", 0o644);
        Before::forget(&host).expect("forget");
        Before::recover(&host).expect("nothing is remembered");
        assert_eq!(read(&host, paths::HOST_ID).as_deref(), Some("new"));
        assert_eq!(host.found(BEFORE).expect("found"), Found::Nothing);
    }
}
