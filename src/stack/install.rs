//! Installed stacks: put there, activated, verified, collected.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::coming::{Coming, STANDS_STILL, Stops};
use super::manifest::{self, INSIDE, Manifest, open_untrusted, read_envelope};
use super::{StackError, delta, io_error, other_manifest, unpack};
use crate::host::fs::{Attrs, Found, HostFs};
use crate::host::mounts;
use crate::host::space;
use crate::host::unchanged::Unchanged;
use crate::model::{Digest, Hasher, StackFile, StackManifest, StackRef, TrustStore, paths};
use crate::seam::disk;

/// Unpacked here first; the prefix tells what a crash left.
const INCOMING: &str = ".incoming-";

/// Symlink to the stack that was active before.
const PREVIOUS: &str = "previous";

/// Which stack an installed manifest names, and by whom it is signed: asked a dozen times in each sweep.
static LINKED: Unchanged<(Option<StackRef>, String)> = Unchanged::new();
/// Installed manifests that were verified, by the keys that are trusted. Of their files nothing is kept.
static VERIFIED: Unchanged<Arc<Manifest>> = Unchanged::new();

/// How closely an installed stack is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Presence, kind, size and mode of every file: cheap enough for every sweep.
    Cheap,
    /// Every byte.
    Full,
}

/// A whole stack that is not active yet: what has to be asked of its programs is asked now, while
/// nothing was changed.
#[derive(Debug)]
pub struct PreparedStack {
    manifest: Manifest,
    /// Still beside its place: where it was unpacked.
    incoming: Option<PathBuf>,
}

/// Unpacks the archive of a stack beside its place, as far as it is staged, and continues while more of it comes, until
/// `stops`. Each file that is whole is passed to `seen`. Without a stack that is active the files are on their way to
/// the disk when it has its place ([`keep_on_disk`] waits for that). A stack that is installed and whole is left alone;
/// what an earlier try left of another stack is removed.
pub fn prepare(
    fs: &HostFs,
    want: &StackRef,
    trust: &TrustStore,
    stops: Stops,
    seen: &mut dyn FnMut(&StackFile),
) -> Result<PreparedStack, StackError> {
    if let Ok(manifest) = verify_installed(fs, want, trust, Depth::Full) {
        return Ok(PreparedStack {
            manifest,
            incoming: None,
        });
    }
    let manifest = Manifest::open_staged(fs, want, trust)?;
    let incoming = unpack_beside(fs, &manifest, stops, seen)?;
    Ok(PreparedStack {
        manifest,
        incoming: Some(incoming),
    })
}

/// When what is unpacked has to be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnDisk {
    /// Before it is used.
    Now,
    /// When it is asked for.
    Later,
}

/// Every byte of an installed stack is on the disk when this returns.
pub fn keep_on_disk(
    fs: &HostFs,
    want: &StackRef,
    content: &StackManifest,
) -> Result<(), StackError> {
    let dir = fs.at(dir_of(want));
    for file in &content.files {
        unpack::sync(&dir.join(&file.path))?;
    }
    unpack::sync_directories(content, &dir)
}

/// How much of a stack's archive is staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staged {
    /// Nothing to start with now.
    Nothing,
    /// A part, and more of it came a moment ago.
    Comes,
    /// All of it.
    Whole,
}

/// How much of the archive of this manifest is staged now.
pub fn staged(fs: &HostFs, want: &StackRef, content: &StackManifest) -> Staged {
    let size = content.archive.size;
    if let Ok((_, there)) = open_untrusted(&fs.at(manifest::staged_archive(&want.manifest)))
        && there == size
    {
        return Staged::Whole;
    }
    if delta_of(fs, &want.manifest).is_ok_and(|delta| delta.is_some()) {
        return Staged::Whole;
    }
    let part = fs.at(manifest::staged_part(&want.manifest));
    let Ok((file, there)) = open_untrusted(&part) else {
        return Staged::Nothing;
    };
    let changed = file.metadata().and_then(|m| m.modified()).ok();
    // A clock that was set back makes it look older or newer than it is: it is waited for once in vain.
    let age = changed.and_then(|at| at.elapsed().ok());
    match age.is_some_and(|age| age < STANDS_STILL) && there <= size {
        true => Staged::Comes,
        false => Staged::Nothing,
    }
}

impl PreparedStack {
    /// Its table of contents.
    pub fn content(&self) -> &StackManifest {
        self.manifest.content()
    }

    /// Where its files are now (a path of the host).
    pub fn dir(&self) -> PathBuf {
        let own = || dir_of(self.manifest.reference());
        self.incoming.clone().unwrap_or_else(own)
    }

    /// It was unpacked just now.
    pub fn is_new(&self) -> bool {
        self.incoming.is_some()
    }

    /// Puts it where it belongs, in one step.
    pub fn put_in_place(self, fs: &HostFs) -> Result<(), StackError> {
        let Some(incoming) = &self.incoming else {
            return Ok(());
        };
        let done = put_in_place(fs, incoming, self.manifest.reference());
        // After success this removes the replaced version, after a failure the started one. If it fails, the next
        // preparation removes it.
        self.discard(fs);
        done
    }

    /// It is not wanted: what was unpacked goes.
    pub fn discard(self, fs: &HostFs) {
        if let Some(incoming) = self.incoming {
            drop(remove_tree(fs, &incoming));
        }
    }
}

fn unpack_beside(
    fs: &HostFs,
    manifest: &Manifest,
    stops: Stops,
    seen: &mut dyn FnMut(&StackFile),
) -> Result<PathBuf, StackError> {
    let content = manifest.content();
    let stack = manifest.reference();
    let incoming = incoming_of(stack);
    remove_incoming(fs, Some(&incoming))?;
    let source = source_of(fs, manifest, stops)?;
    let stacks = fs.at(paths::STACKS);
    let free = space::of(&stacks).map_err(io_error("ask free space of", &stacks))?;
    let missing = content
        .unpacked_size()
        .saturating_sub(unpacked_before(fs, &incoming, content));
    match current(fs)? {
        // Once it is the active one its images lie with the runtime a second time.
        Some(active) if active != *stack => {
            free.require_beside(&stacks, missing.saturating_add(content.images_size()))?;
        }
        Some(_) | None => free.require(&stacks, missing)?,
    }
    disk::make_dirs(&stacks).map_err(io_error("make directory", &stacks))?;

    // What takes the place of another stack is on the disk before; where there was none, power that fails
    // loses nothing that ran.
    let on_disk = match current(fs)? {
        Some(_) => OnDisk::Now,
        None => OnDisk::Later,
    };
    let into = fs.at(&incoming);
    let done = match source {
        Source::Archive(archive) => unpack::unpack(archive, content, &into, on_disk, seen),
        Source::Delta(delta) => {
            let made = unpack_delta(fs, &delta, manifest, &into, seen);
            // Made wrong, or of files that are not what they were: the archive is fetched then.
            if made.as_ref().is_err_and(|e| e.lacks_room().is_none()) {
                drop(fs.remove_file(&delta.path));
            }
            made
        }
    };
    match done.and_then(|()| write_inside(fs, &incoming, manifest)) {
        Ok(()) => Ok(incoming),
        // Each file that is whole is a verified one: the next try continues with them.
        Err(e @ StackError::NotWhole) => Err(e),
        Err(e) if e.lacks_room().is_some() => Err(e),
        Err(e) => {
            drop(remove_tree(fs, &incoming));
            Err(e)
        }
    }
}

/// What an earlier try has written of it.
fn unpacked_before(fs: &HostFs, incoming: &Path, content: &StackManifest) -> u64 {
    let there = |f: &StackFile| match fs.found(incoming.join(&f.path)) {
        Ok(Found::File { size, .. }) => size.min(f.size),
        Ok(Found::Nothing | Found::Dir { .. } | Found::Link(_) | Found::Other) | Err(_) => 0,
    };
    content.files.iter().map(there).sum()
}

/// What a stack is made of.
enum Source {
    Archive(Coming),
    Delta(Box<Delta>),
}

/// A staged delta from the stack that is active.
struct Delta {
    /// A path of the host.
    path: PathBuf,
    from: StackRef,
    old: StackManifest,
}

/// The archive, or what is there of it; without any, what differs from the active stack.
fn source_of(fs: &HostFs, manifest: &Manifest, stops: Stops) -> Result<Source, StackError> {
    match archive_of(fs, manifest, stops) {
        Err(e @ StackError::NotStaged { .. }) => {
            let delta = delta_of(fs, &manifest.reference().manifest)?;
            delta.map(|delta| Source::Delta(Box::new(delta))).ok_or(e)
        }
        other => other.map(Source::Archive),
    }
}

fn delta_of(fs: &HostFs, want: &Digest) -> Result<Option<Delta>, StackError> {
    let (Some(from), Some(old)) = (current(fs)?, active_content(fs)) else {
        return Ok(None);
    };
    let path = manifest::staged_delta(want, &from.manifest);
    Ok(match fs.found(&path)? {
        Found::File { .. } => Some(Delta { path, from, old }),
        Found::Nothing | Found::Dir { .. } | Found::Link(_) | Found::Other => None,
    })
}

fn unpack_delta(
    fs: &HostFs,
    delta: &Delta,
    manifest: &Manifest,
    into: &Path,
    seen: &mut dyn FnMut(&StackFile),
) -> Result<(), StackError> {
    let (file, _) = open_untrusted(&fs.at(&delta.path))?;
    let pair = delta::Pair {
        digests: [delta.from.manifest, manifest.reference().manifest],
        old: &delta.old,
        old_dir: &fs.at(dir_of(&delta.from)),
        new: manifest.content(),
    };
    unpack::make_all_directories(manifest.content(), into)?;
    delta::apply(file, &pair, into, &mut |file| {
        seen(file);
        unpack::sync(&into.join(&file.path))
    })?;
    unpack::sync_directories(manifest.content(), into)
}

/// The archive, or what is there of it.
fn archive_of(fs: &HostFs, manifest: &Manifest, stops: Stops) -> Result<Coming, StackError> {
    let (digest, size) = (
        &manifest.reference().manifest,
        manifest.content().archive.size,
    );
    match whole_archive(fs, digest, size) {
        Err(StackError::NotStaged { .. }) => {}
        other => return other,
    }
    match open_untrusted(&fs.at(manifest::staged_part(digest))) {
        Ok((file, _)) => Ok(Coming::part(file, size, stops)),
        // The last byte came, and it got its name, between the two looks; or there is none.
        Err(_) => whole_archive(fs, digest, size),
    }
}

fn whole_archive(fs: &HostFs, digest: &Digest, want: u64) -> Result<Coming, StackError> {
    let (file, size) = open_untrusted(&fs.at(manifest::staged_archive(digest)))?;
    if size != want {
        return Err(StackError::Damaged(format!(
            "it has {size} bytes, the manifest says {want}"
        )));
    }
    Ok(Coming::whole(file, size))
}

/// Makes an installed stack the current one: one atomic flip of a symbolic link.
pub fn activate(fs: &HostFs, stack: &StackRef) -> Result<(), StackError> {
    let target = target_of(fs, stack)?;
    match fs.found(paths::STACK_CURRENT)? {
        Found::Link(now) if now == target => return Ok(()),
        // First the way back, then the way forward: a crash in between leaves both links right.
        Found::Link(now) => fs.link(Path::new(paths::STACKS).join(PREVIOUS), now)?,
        Found::Nothing | Found::File { .. } | Found::Dir { .. } | Found::Other => {}
    }
    fs.link(paths::STACK_CURRENT, target)?;
    Ok(())
}

/// Makes etcd's programs those of an installed stack: a link of their own, and one flip of it.
pub fn activate_etcd(fs: &HostFs, stack: &StackRef) -> Result<(), StackError> {
    let target = target_of(fs, stack)?;
    Ok(fs.link(paths::STACK_ETCD, target)?)
}

/// What a link to this stack says, if it is installed.
fn target_of(fs: &HostFs, stack: &StackRef) -> Result<PathBuf, StackError> {
    let dir = fs.at(dir_of(stack));
    if !dir.is_dir() {
        return Err(StackError::NotInstalled);
    }
    let found = read_envelope(&dir.join(INSIDE))?
        .payload_digest()
        .map_err(StackError::Untrusted)?;
    if found != stack.manifest {
        return Err(other_manifest(&stack.manifest, &found));
    }
    Ok(PathBuf::from(stack.dir_name()))
}

/// Which stack is active; `None` when there is none or the link leads nowhere.
pub fn current(fs: &HostFs) -> Result<Option<StackRef>, StackError> {
    linked(fs, paths::STACK_CURRENT)
}

/// The stack of etcd's programs; `None` as with [`current`].
pub fn current_etcd(fs: &HostFs) -> Result<Option<StackRef>, StackError> {
    linked(fs, paths::STACK_ETCD)
}

fn linked(fs: &HostFs, link: &str) -> Result<Option<StackRef>, StackError> {
    let Found::Link(target) = fs.found(link)? else {
        return Ok(None);
    };
    match named(fs, &target) {
        Ok((stack, _)) => Ok(stack),
        Err(StackError::NotStaged { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// What the manifest in a directory of stacks says of itself.
fn named(fs: &HostFs, dir: &Path) -> Result<(Option<StackRef>, String), StackError> {
    let inside = fs.at(Path::new(paths::STACKS).join(dir).join(INSIDE));
    LINKED.get(std::slice::from_ref(&inside), None, || {
        let envelope = read_envelope(&inside)?;
        Ok((manifest::reference_of(&envelope), envelope.key_id))
    })
}

/// What the active stack consists of, as it says: for people. To trust it see
/// [`verify_installed`].
pub fn active_content(fs: &HostFs) -> Option<StackManifest> {
    content_of(fs, paths::STACK_CURRENT)
}

/// The same of the stack that etcd's programs are of.
pub fn etcd_content(fs: &HostFs) -> Option<StackManifest> {
    content_of(fs, paths::STACK_ETCD)
}

fn content_of(fs: &HostFs, link: &str) -> Option<StackManifest> {
    let Found::Link(target) = fs.found(link).ok()? else {
        return None;
    };
    let inside = fs.at(Path::new(paths::STACKS).join(target).join(INSIDE));
    manifest::content_of(&read_envelope(&inside).ok()?)
}

/// Whether an installed stack is whole; returns its manifest.
pub fn verify_installed(
    fs: &HostFs,
    stack: &StackRef,
    trust: &TrustStore,
    depth: Depth,
) -> Result<Manifest, StackError> {
    let inside = fs.at(dir_of(stack)).join(INSIDE);
    let open = || match read_envelope(&inside) {
        Err(StackError::NotStaged { .. }) => Err(StackError::NotInstalled),
        envelope => Manifest::open(envelope?, stack, trust),
    };
    let manifest = match depth {
        Depth::Cheap => {
            let by = Digest::of(format!("{stack:?} {trust:?}").as_bytes());
            let files = std::slice::from_ref(&inside);
            VERIFIED.get(files, Some(by), || open().map(Arc::new))?
        }
        Depth::Full => Arc::new(open()?),
    };
    check_files(fs, &manifest, depth)?;
    Ok(Arc::unwrap_or_clone(manifest))
}

/// Which key signed the manifest of the active stack, as it says; for people and the plane.
pub fn signer(fs: &HostFs) -> Option<String> {
    let stack = current(fs).ok().flatten()?;
    let (_, key) = named(fs, stack.dir_name().as_ref()).ok()?;
    Some(key)
}

/// Gives the active stack's manifest the signature of the staged one, when that is of the same
/// content and by another key that is trusted. True when it was replaced. Nothing else of the stack
/// is touched: its bytes match the signed content under either key.
pub fn renew_signature(fs: &HostFs, trust: &TrustStore) -> Result<bool, StackError> {
    let Some(stack) = current(fs)? else {
        return Ok(false);
    };
    let staged = match Manifest::open_staged(fs, &stack, trust) {
        Err(StackError::NotStaged { .. }) => return Ok(false),
        other => other?,
    };
    let installed = read_envelope(&fs.at(dir_of(&stack)).join(INSIDE))?;
    let same = installed.payload_digest().ok() == Some(stack.manifest);
    if !same || installed == *staged.envelope() {
        return Ok(false);
    }
    write_inside(fs, &dir_of(&stack), &staged)?;
    Ok(true)
}

/// Removes every stack but the current one, the one before it, the one that etcd is of and those in `keep`.
/// Returns the directories that went.
pub fn collect_garbage(fs: &HostFs, keep: &[StackRef]) -> Result<Vec<String>, StackError> {
    let stacks = Path::new(paths::STACKS);
    let mut kept: Vec<PathBuf> = keep.iter().map(|s| s.dir_name().into()).collect();
    let previous = stacks.join(PREVIOUS);
    for link in [
        Path::new(paths::STACK_CURRENT),
        &previous,
        Path::new(paths::STACK_ETCD),
    ] {
        if let Found::Link(target) = fs.found(link)? {
            kept.push(target);
        }
    }
    let (mut gone, mut failed) = (Vec::new(), None);
    for name in fs.list(stacks)? {
        let is_dir = matches!(fs.found(stacks.join(&name))?, Found::Dir { .. });
        if is_dir && !kept.iter().any(|k| k.as_os_str() == name.as_str()) {
            // One that cannot be removed keeps none of the others.
            match remove_tree(fs, &stacks.join(&name)) {
                Ok(()) => gone.push(name),
                Err(e) => failed = failed.or(Some(e)),
            }
        }
    }
    failed.map_or(Ok(gone), Err)
}

fn check_files(fs: &HostFs, manifest: &Manifest, depth: Depth) -> Result<(), StackError> {
    let dir = dir_of(manifest.reference());
    manifest
        .content()
        .files
        .iter()
        .try_for_each(|file| check_file(fs, &dir.join(&file.path), file, depth))
}

fn check_file(fs: &HostFs, path: &Path, file: &StackFile, depth: Depth) -> Result<(), StackError> {
    let drifted = |how: String| {
        Err(StackError::Drifted {
            path: path.to_path_buf(),
            how,
        })
    };
    match fs.found(path)? {
        Found::File { size, .. } if size != file.size => {
            drifted(format!("has {size} bytes, not {}", file.size))
        }
        Found::File { mode, .. } if mode != file.mode => {
            drifted(format!("has mode {mode:04o}, not {:04o}", file.mode))
        }
        Found::File { .. } => match depth {
            Depth::Cheap => Ok(()),
            Depth::Full if digest_of(&fs.at(path))? == file.sha256 => Ok(()),
            Depth::Full => drifted("has other bytes".to_owned()),
        },
        Found::Nothing => drifted("is missing".to_owned()),
        Found::Dir { .. } | Found::Link(_) | Found::Other => {
            drifted("is not a regular file".to_owned())
        }
    }
}

fn digest_of(path: &Path) -> Result<Digest, StackError> {
    const CHUNK: usize = 128 * 1024;
    let mut file = File::open(path).map_err(io_error("open", path))?;
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = file.read(&mut chunk).map_err(io_error("read", path))?;
        match chunk.get(..n) {
            Some(bytes) if !bytes.is_empty() => hasher.update(bytes),
            Some(_) | None => return Ok(hasher.finish()),
        }
    }
}

fn write_inside(fs: &HostFs, dir: &Path, manifest: &Manifest) -> Result<(), StackError> {
    let path = dir.join(INSIDE);
    let bytes = serde_json::to_vec(manifest.envelope())
        .map_err(|e| io_error("write", &path)(io::Error::other(e)))?;
    Ok(fs.write(path, &bytes, &Attrs::mode(0o644))?)
}

fn put_in_place(fs: &HostFs, incoming: &Path, stack: &StackRef) -> Result<(), StackError> {
    let from = fs.at(incoming);
    let to = fs.at(dir_of(stack));
    // Another build of the same version, or a damaged one, is exchanged in one step: there is no
    // instant without a stack.
    let placed = match fs.found(dir_of(stack))? {
        Found::Nothing => disk::rename_new(&from, &to),
        Found::File { .. } | Found::Dir { .. } | Found::Link(_) | Found::Other => {
            disk::exchange(&from, &to)
        }
    };
    placed.map_err(io_error("put in place", &to))?;
    unpack::sync_dir(&fs.at(paths::STACKS))
}

fn remove_incoming(fs: &HostFs, but: Option<&Path>) -> Result<(), StackError> {
    let stacks = Path::new(paths::STACKS);
    for name in fs.list(stacks)? {
        if name.starts_with(INCOMING) && but != Some(stacks.join(&name).as_path()) {
            remove_tree(fs, &stacks.join(name))?;
        }
    }
    Ok(())
}

/// Refused while something is mounted there or below: an operator's plugins over ours, say. To remove them through the mount
/// would delete them where they are kept.
fn remove_tree(fs: &HostFs, path: &Path) -> Result<(), StackError> {
    let (is_mount, _) = mounts::at_or_below(fs, path)?;
    if is_mount {
        let why = format!("something is mounted at {}", path.display());
        return Err(io_error("remove", &fs.at(path))(io::Error::other(why)));
    }
    Ok(fs.remove_tree(path)?)
}

fn dir_of(stack: &StackRef) -> PathBuf {
    Path::new(paths::STACKS).join(stack.dir_name())
}

/// Where a stack is unpacked (a path of the host).
pub fn incoming_of(stack: &StackRef) -> PathBuf {
    Path::new(paths::STACKS).join(format!("{INCOMING}{}", stack.manifest))
}
