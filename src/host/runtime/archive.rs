//! An archive of an image as `docker save` writes it, where it is a plain one: one layer that is not compressed,
//! of directories, files and symbolic links that are root's.
//!
//! ```text
//! archive ─► manifest.json ─► names, configuration, where in the archive the layer is
//!                             layer: entries, each with its place ─► fill(): straight into a directory
//! ```
//!
//! Images of stacks that are made by `scripts/stack` are such; of any other nothing is said here, and the
//! runtime's own tool takes it.

use std::collections::BTreeSet;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Take};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::libc::O_NOFOLLOW;
use serde::Deserialize;

use crate::model::{Hasher, Hashing};
use crate::seam::disk::{self, Options};

/// Longest list of what is in an archive, and longest configuration of an image.
const DOCUMENT_MAX: u64 = 1024 * 1024;
/// Most entries of a layer that is taken here: images with a distribution in them are for the runtime's tool.
const ENTRIES_MAX: usize = 10_000;
/// Read at once.
const CHUNK: usize = 128 * 1024;
/// Its entries hide something of a layer below.
const WHITEOUT: &str = ".wh.";

/// A plain archive.
#[derive(Debug)]
pub(super) struct Plain {
    file: File,
    /// By these the image is known.
    pub names: Vec<String>,
    /// Its configuration, as it is in the archive.
    pub config: Vec<u8>,
    /// `sha256:…` of the layer's bytes, which are these bytes.
    pub layer: String,
    /// How many they are.
    pub layer_size: u64,
    entries: Vec<Entry>,
}

/// What is in the layer.
#[derive(Debug)]
struct Entry {
    path: PathBuf,
    mode: u32,
    changed: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Dir,
    /// Its bytes, in the archive.
    File {
        at: u64,
        size: u64,
    },
    Link(PathBuf),
}

/// `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// What is needed of a configuration.
#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl Plain {
    /// The archive at this path; `None`: it is no plain one.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        let places = places(&file)?;
        let find = |name: &str| places.iter().find(|p| p.0 == name);
        let document = |name: &str| -> io::Result<Option<Vec<u8>>> {
            let Some((_, at, size)) = find(name).filter(|p| p.2 <= DOCUMENT_MAX) else {
                return Ok(None);
            };
            let mut bytes = Vec::new();
            part(&file, *at, *size)?.read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        };
        let Some(listed) = document("manifest.json")? else {
            return Ok(None);
        };
        let listed: Vec<Listed> = serde_json::from_slice(&listed).unwrap_or_default();
        let Ok([image]) = <[Listed; 1]>::try_from(listed) else {
            return Ok(None);
        };
        let names = image.repo_tags.unwrap_or_default();
        if names.is_empty() || !names.iter().all(|n| is_full(n)) {
            return Ok(None);
        }
        let (Some(config), [layer]) = (document(&image.config)?, &*image.layers) else {
            return Ok(None);
        };
        let Some((_, at, size)) = find(layer) else {
            return Ok(None);
        };
        let Some((entries, digest)) = entries(&file, *at, *size)? else {
            return Ok(None);
        };
        let said: Option<Config> = serde_json::from_slice(&config).ok();
        // Another digest: it is compressed, or damaged, and not for us to say which.
        if said.is_none_or(|c| c.rootfs.diff_ids != [digest.clone()]) {
            return Ok(None);
        }
        let layer_size = *size;
        Ok(Some(Self {
            file,
            names,
            config,
            layer: digest,
            layer_size,
            entries,
        }))
    }

    /// Makes the directory what the layer says. What is so already stays as it is.
    pub(super) fn fill(&self, root: &Path) -> io::Result<()> {
        for entry in &self.entries {
            let to = root.join(&entry.path);
            match &entry.kind {
                Kind::Dir => make_dir(&to, entry.mode)?,
                Kind::File { at, size } => self.make_file(&to, entry, *at, *size)?,
                Kind::Link(target) => make_link(&to, target)?,
            }
        }
        // Last, and from within: what is put into a directory changes its time.
        let dirs = self.entries.iter().rev();
        for entry in dirs.filter(|e| matches!(e.kind, Kind::Dir)) {
            File::open(root.join(&entry.path))?.set_times(times(entry.changed))?;
        }
        Ok(())
    }

    fn make_file(&self, to: &Path, entry: &Entry, at: u64, size: u64) -> io::Result<()> {
        if self.is_there(to, entry.mode, at, size)? {
            return Ok(());
        }
        match disk::remove_file(to) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
        let mut file = Options::write().create_new(0o600).open(to)?;
        if io::copy(&mut part(&self.file, at, size)?, &mut file)? != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.set_permissions(Permissions::from_mode(entry.mode))?;
        file.set_times(times(entry.changed))
    }

    /// A file with these very bytes is there.
    fn is_there(&self, path: &Path, mode: u32, at: u64, size: u64) -> io::Result<bool> {
        let mut options = File::options();
        let there = match options.read(true).custom_flags(O_NOFOLLOW).open(path) {
            Ok(there) => there,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            // Whatever it is, it is no such file.
            Err(_) => return Ok(false),
        };
        let meta = there.metadata()?;
        if !meta.is_file() || meta.len() != size || meta.permissions().mode() & 0o7777 != mode {
            return Ok(false);
        }
        let (mut ours, mut theirs) = (vec![0; CHUNK], vec![0; CHUNK]);
        let mut done = 0;
        while done < size {
            let n = usize::try_from(size - done).map_or(CHUNK, |left| left.min(CHUNK));
            let (Some(a), Some(b)) = (ours.get_mut(..n), theirs.get_mut(..n)) else {
                return Ok(false);
            };
            self.file.read_exact_at(a, at + done)?;
            there.read_exact_at(b, done)?;
            if a != b {
                return Ok(false);
            }
            done += n as u64;
        }
        Ok(true)
    }
}

/// Name, place and length of each file of the archive.
fn places(file: &File) -> io::Result<Vec<(String, u64, u64)>> {
    let mut tar = tar::Archive::new(file);
    let mut places = Vec::new();
    for entry in tar.entries_with_seek()?.take(ENTRIES_MAX) {
        let entry = entry?;
        if entry.header().entry_type().is_file() {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            places.push((name, entry.raw_file_position(), entry.size()));
        }
    }
    Ok(places)
}

/// What the layer consists of, and the digest of its bytes; `None`: not only of what is written here.
fn entries(file: &File, at: u64, size: u64) -> io::Result<Option<(Vec<Entry>, String)>> {
    let (mut dirs, mut known) = (BTreeSet::from([PathBuf::new()]), BTreeSet::new());
    let mut all = Vec::new();
    // Read once, from its first byte to its last.
    let mut hashing = Hashing {
        inner: part(file, at, size)?,
        hasher: Hasher::new(),
    };
    let mut tar = tar::Archive::new(&mut hashing);
    // Raw: what an extension header says of an entry is not looked for, and is an entry of another kind.
    for entry in tar.entries()?.raw(true) {
        // Gzip, or damaged.
        let Ok(entry) = entry else { return Ok(None) };
        let header = entry.header();
        let root = (header.uid().ok(), header.gid().ok()) == (Some(0), Some(0));
        let (Ok(mode), Ok(changed)) = (header.mode(), header.mtime()) else {
            return Ok(None);
        };
        let path = plain_path(&entry.path_bytes());
        let parent = path.as_deref().and_then(Path::parent);
        let (Some(path), true) = (&path, root && parent.is_some_and(|p| dirs.contains(p))) else {
            return Ok(None);
        };
        let kind = match header.entry_type() {
            tar::EntryType::Directory => Kind::Dir,
            tar::EntryType::Regular => Kind::File {
                at: at + entry.raw_file_position(),
                size: entry.size(),
            },
            tar::EntryType::Symlink => match entry.link_name()? {
                Some(target) => Kind::Link(target.into_owned()),
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        let first = known.insert(path.clone());
        if !first || all.len() >= ENTRIES_MAX {
            return Ok(None);
        }
        if let Kind::Dir = kind {
            dirs.insert(path.clone());
        }
        all.push(Entry {
            path: path.clone(),
            mode: mode & 0o7777,
            changed,
            kind,
        });
    }
    io::copy(&mut hashing, &mut io::sink())?;
    Ok(Some((all, format!("sha256:{}", hashing.hasher.finish()))))
}

/// A path that leads nowhere but down, and hides nothing.
fn plain_path(bytes: &[u8]) -> Option<PathBuf> {
    let text = std::str::from_utf8(bytes).ok()?;
    let path: PathBuf = Path::new(text.trim_end_matches('/')).components().collect();
    let plain = path.components().all(|c| match c {
        Component::Normal(name) => name.to_str().is_some_and(|n| !n.starts_with(WHITEOUT)),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => {
            false
        }
    });
    (plain && path.file_name().is_some()).then_some(path)
}

/// `registry/…:tag`: the runtime would read a shorter name as one of another registry.
fn is_full(name: &str) -> bool {
    let Some((registry, rest)) = name.split_once('/') else {
        return false;
    };
    registry.contains(['.', ':']) && rest.contains(':') && !name.contains(['@', ' '])
}

fn part(file: &File, at: u64, size: u64) -> io::Result<Take<&File>> {
    let mut file = file;
    file.seek(SeekFrom::Start(at))?;
    Ok(file.take(size))
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    match disk::make_dir(path, mode) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        Ok(()) | Err(_) => {}
    }
    if !fs::symlink_metadata(path)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    disk::set_permissions(path, Permissions::from_mode(mode))
}

fn make_link(path: &Path, target: &Path) -> io::Result<()> {
    if fs::read_link(path).is_ok_and(|t| t == target) {
        return Ok(());
    }
    match disk::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    disk::symlink(target, path)
}

fn times(changed: u64) -> FileTimes {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(changed.min(u64::from(u32::MAX)));
    FileTimes::new().set_accessed(at).set_modified(at)
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
