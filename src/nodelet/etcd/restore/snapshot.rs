//! What is in a snapshot, as its file and `etcdutl` say. `etcdutl` of the active stack is asked,
//! never `etcdctl snapshot status`: since 3.6 that prints its help and succeeds for any file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use semver::Version;

use crate::backup::verify::{Opened, test_open};
use crate::host::exec::{self, Cmd};
use crate::host::work::long;
use crate::model::{Digest, Hasher, loose_version};
use crate::telemetry::chain;

/// A snapshot ends with the digest of everything before it.
const TRAILER: u64 = 32;
/// The database before it is made of such pieces.
const PIECE: u64 = 512;
/// Read at once: no file is held in memory.
const CHUNK: usize = 256 * 1024;
/// Its version is said at once.
const ASK: Duration = Duration::from_secs(15);
/// From this release on a database says which one wrote it.
const SAYS_ITS_RELEASE: Version = Version::new(3, 6, 0);

/// What is in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Bytes of the database.
    pub bytes: u64,
    /// The newest revision in it.
    pub revision: u64,
    /// Keys in it.
    pub keys: u64,
    /// etcd's own checksum of them.
    pub hash: u32,
    /// The release whose form it has, `None`: older than 3.6, which says none.
    pub storage: Option<Version>,
}

/// Why a file is no snapshot that could be restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOne {
    /// The disk does not say.
    #[error("it cannot be read: {0}")]
    Unread(String),
    /// Nothing is in it.
    #[error("it is empty")]
    Empty,
    /// It does not end as a snapshot does.
    #[error(
        "it has {0} bytes, which no snapshot has: it is truncated, a copy of a data directory's \
         file, or something else"
    )]
    Size(u64),
    /// Its bytes are not those that etcd sent.
    #[error("its bytes are not those that etcd sent: the digest at its end differs")]
    Damaged,
    /// `etcdutl` does not open it, or answers in an unknown form.
    #[error("etcdutl does not open it: {0}")]
    Unopened(String),
}

/// Looks at the whole file: its end, its digest, then a test-open.
pub async fn look(etcdutl: &Path, file: &Path) -> Result<Content, NotOne> {
    let at = file.to_owned();
    let whole = long(move || whole(&at)).await;
    whole.map_err(|e| NotOne::Unread(e.to_string()))??;
    let opened = test_open(etcdutl, file).await;
    read(opened.map_err(|fault| NotOne::Unopened(fault.why))?)
}

/// The release of this `etcdutl`, and so of the etcd beside it.
pub async fn release(etcdutl: &Path) -> Result<Version, String> {
    let cmd = Cmd::new(etcdutl, ASK).arg("version");
    let said = exec::run(cmd).await.map_err(|e| chain(&e))?.text();
    let line = said
        .lines()
        .find_map(|l| l.strip_prefix("etcdutl version:"));
    line.and_then(loose_version)
        .ok_or_else(|| format!("etcdutl reports no version: {said:?}"))
}

fn read(opened: Opened) -> Result<Content, NotOne> {
    let storage = match opened.version.as_str() {
        "" => None,
        text => {
            let version = loose_version(text).filter(|v| *v >= SAYS_ITS_RELEASE);
            let why = || NotOne::Unopened(format!("it reports data of version {text:?}"));
            Some(version.ok_or_else(why)?)
        }
    };
    Ok(Content {
        bytes: opened.total_size,
        revision: opened.revision,
        keys: opened.total_key,
        hash: opened.hash,
        storage,
    })
}

/// The file is as etcd sent it.
fn whole(file: &Path) -> Result<(), NotOne> {
    let unread = |e: io::Error| NotOne::Unread(e.to_string());
    let mut file = File::open(file).map_err(unread)?;
    let meta = file.metadata().map_err(unread)?;
    if !meta.is_file() {
        return Err(NotOne::Unread("it is not a file".into()));
    }
    let size = meta.len();
    if size == 0 {
        return Err(NotOne::Empty);
    }
    if size <= TRAILER || size % PIECE != TRAILER {
        return Err(NotOne::Size(size));
    }
    let mut hasher = Hasher::new();
    let mut left = size - TRAILER;
    let mut chunk = vec![0; CHUNK];
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let part = chunk.get_mut(..want).unwrap_or_default();
        file.read_exact(part).map_err(unread)?;
        hasher.update(part);
        left -= want as u64;
    }
    let mut trailer = [0; TRAILER as usize];
    file.seek(SeekFrom::Start(size - TRAILER)).map_err(unread)?;
    file.read_exact(&mut trailer).map_err(unread)?;
    if hasher.finish() == Digest(trailer) {
        Ok(())
    } else {
        Err(NotOne::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_of_the_data_is_read_or_the_file_is_refused() {
        let opened = |version: &str| Opened {
            hash: 1,
            revision: 6,
            total_key: 5,
            total_size: 20480,
            version: version.into(),
        };
        let storage = |version| read(opened(version)).map(|content| content.storage);
        assert_eq!(storage("3.7.0"), Ok(Some(Version::new(3, 7, 0))));
        assert_eq!(storage(""), Ok(None), "those of before 3.6 say none");
        for odd in ["x", "3.5.0", "-"] {
            storage(odd).expect_err(odd);
        }
    }

    #[test]
    fn a_file_that_is_cut_empty_damaged_or_foreign_is_told() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("s.db");
        let body = vec![7; 4096];
        let mut good = body.clone();
        good.extend(Digest::of(&body).0);
        let mut damaged = good.clone();
        damaged[100] = 8;
        for (bytes, said) in [
            (good.clone(), Ok(())),
            (Vec::new(), Err(NotOne::Empty)),
            (good[..3000].to_vec(), Err(NotOne::Size(3000))),
            (body, Err(NotOne::Size(4096))),
            (good[4096..].to_vec(), Err(NotOne::Size(32))),
            (damaged, Err(NotOne::Damaged)),
        ] {
            std::fs::write(&path, bytes).expect("write");
            assert_eq!(whole(&path), said);
        }
        assert!(matches!(whole(dir.path()), Err(NotOne::Unread(_))));
        assert!(matches!(
            whole(&dir.path().join("none")),
            Err(NotOne::Unread(_))
        ));
    }
}
