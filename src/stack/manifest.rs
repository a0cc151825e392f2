//! [`Manifest`]: a stack's table of contents that was verified.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use super::{StackError, io_error, other_manifest};
use crate::host::fs::HostFs;
use crate::model::{
    Digest, DocumentKind, Envelope, PAYLOAD_MAX, StackManifest, StackRef, TrustStore, document,
    paths,
};

/// Where an installed stack keeps the envelope of its manifest.
pub(super) const INSIDE: &str = ".manifest.json";

/// Largest envelope file: the payload in base64 and what is around it.
pub(super) const ENVELOPE_MAX: u64 = (PAYLOAD_MAX as u64) / 3 * 4 + 4096;

/// A manifest whose signature, digest and rules were checked. There is no other way to get one.
#[derive(Clone, Debug)]
pub struct Manifest {
    envelope: Envelope,
    content: StackManifest,
    reference: StackRef,
}

/// The staged manifest of a stack.
pub fn staged_manifest(digest: &Digest) -> PathBuf {
    Path::new(paths::STAGING).join(format!("{digest}.manifest.json"))
}

/// The staged archive of a stack.
pub fn staged_archive(digest: &Digest) -> PathBuf {
    Path::new(paths::STAGING).join(format!("{digest}.tar.zst"))
}

/// The part of it that has come.
pub fn staged_part(digest: &Digest) -> PathBuf {
    staged_archive(digest).with_extension("zst.part")
}

/// What differs from a stack that the node has, staged whole. Its name says from which.
pub fn staged_delta(digest: &Digest, from: &Digest) -> PathBuf {
    Path::new(paths::STAGING).join(format!("{digest}.from-{from}.delta"))
}

/// The part of it that has come.
pub fn staged_delta_part(digest: &Digest, from: &Digest) -> PathBuf {
    staged_delta(digest, from).with_extension("delta.part")
}

// === impl Manifest ===

impl Manifest {
    /// Verifies an envelope as the manifest that `want` names.
    pub fn open(
        envelope: Envelope,
        want: &StackRef,
        trust: &TrustStore,
    ) -> Result<Self, StackError> {
        let content: StackManifest = envelope
            .open(DocumentKind::StackManifest, trust)
            .map_err(StackError::Untrusted)?;
        let digest = envelope.payload_digest().map_err(StackError::Untrusted)?;
        if digest != want.manifest {
            return Err(other_manifest(&want.manifest, &digest));
        }
        content.validate().map_err(|f| StackError::Invalid(f.why))?;
        check_paths(&content)?;
        if (&content.name, &content.version) != (&want.name, &want.version) {
            return Err(StackError::Invalid(format!(
                "it is {} {}",
                content.name, content.version
            )));
        }
        Ok(Self {
            envelope,
            content,
            reference: want.clone(),
        })
    }

    /// Reads and verifies the staged manifest of `want`.
    pub fn open_staged(
        fs: &HostFs,
        want: &StackRef,
        trust: &TrustStore,
    ) -> Result<Self, StackError> {
        let path = fs.at(staged_manifest(&want.manifest));
        Self::open(read_envelope(&path)?, want, trust)
    }

    /// The table of contents.
    pub fn content(&self) -> &StackManifest {
        &self.content
    }

    /// What the spec calls it.
    pub fn reference(&self) -> &StackRef {
        &self.reference
    }

    /// The signed document.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }
}

/// Opens a file that a less privileged user may have put there: no link is followed, a pipe does not block, and only a
/// regular file is accepted.
pub(super) fn open_untrusted(path: &Path) -> Result<(File, u64), StackError> {
    let missing = || StackError::NotStaged {
        path: path.to_path_buf(),
    };
    let file = match File::options()
        .read(true)
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(path)
    {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
        Err(e) => return Err(io_error("open", path)(e)),
    };
    let meta = file.metadata().map_err(io_error("look at", path))?;
    if !meta.is_file() {
        return Err(missing());
    }
    Ok((file, meta.len()))
}

/// Reads an envelope; nothing in it is verified yet.
pub(super) fn read_envelope(path: &Path) -> Result<Envelope, StackError> {
    let (file, _) = open_untrusted(path)?;
    let mut bytes = Vec::new();
    file.take(ENVELOPE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(io_error("read", path))?;
    if bytes.len() as u64 > ENVELOPE_MAX {
        return Err(StackError::Untrusted(crate::model::Untrusted::Damaged));
    }
    document::read(&bytes).map_err(|e| StackError::Untrusted(e.into()))
}

/// What an installed manifest says about itself. Its directory is root's and was filled after
/// verification, so this may be used to *name* a stack; to trust one use [`Manifest::open`].
pub(super) fn reference_of(envelope: &Envelope) -> Option<StackRef> {
    let payload = BASE64.decode(&envelope.payload).ok()?;
    let content = content_of(envelope)?;
    Some(StackRef {
        name: content.name,
        version: content.version,
        manifest: Digest::of(&payload),
    })
}

/// What an installed manifest lists; as believable as [`reference_of`].
pub(super) fn content_of(envelope: &Envelope) -> Option<StackManifest> {
    let payload = BASE64.decode(&envelope.payload).ok()?;
    serde_json::from_slice(&payload).ok()
}

fn check_paths(content: &StackManifest) -> Result<(), StackError> {
    let mut seen = BTreeSet::new();
    for file in &content.files {
        if !seen.insert(file.path.as_str()) {
            return Err(StackError::Invalid(format!(
                "{:?} is a duplicate",
                file.path
            )));
        }
        if file.path == INSIDE {
            return Err(StackError::Invalid(format!("{INSIDE:?} is reserved")));
        }
    }
    for path in &seen {
        let inside_a_file = Path::new(path)
            .ancestors()
            .skip(1)
            .filter_map(Path::to_str)
            .any(|parent| seen.contains(parent));
        if inside_a_file {
            return Err(StackError::Invalid(format!("{path:?} lies inside a file")));
        }
    }
    Ok(())
}
