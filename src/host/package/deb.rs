//! A `.deb`: an `ar` archive of `debian-binary`, `control.tar.*` and `data.tar.*`, in this order.

use std::io::{self, Read};

use super::{ENTRIES_MAX, PackageInfo, Take, bad, unzstd};

pub(super) const MAGIC: &[u8; 8] = b"!<arch>\n";
/// The head of a member.
const HEAD: usize = 60;
/// Largest `control`.
const CONTROL_MAX: u64 = 256 * 1024;

/// What its `control` says.
pub(super) fn about(file: impl Read) -> io::Result<PackageInfo> {
    let mut control = None;
    member(file, "control.tar.zst", &mut |path, _, data| {
        if path.trim_start_matches("./") == "control" {
            let mut text = String::new();
            data.take(CONTROL_MAX).read_to_string(&mut text)?;
            control = Some(text);
        }
        Ok(())
    })?;
    let control = control.ok_or_else(|| bad("it has no control file"))?;
    let field = |name: &str| {
        let mut lines = control.lines().filter_map(|l| l.split_once(": "));
        let found = lines.find(|(key, _)| *key == name);
        found
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    Ok(PackageInfo {
        name: field("Package"),
        version: field("Version"),
        arch: field("Architecture"),
        depends: field("Depends"),
    })
}

/// Each regular file of it, with its size.
pub(super) fn each_file(file: impl Read, take: &mut Take<'_>) -> io::Result<()> {
    member(file, "data.tar.zst", take)
}

/// Each regular file of the archive that is this member.
fn member(mut file: impl Read, name: &str, take: &mut Take<'_>) -> io::Result<()> {
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic)?;
    if &magic != MAGIC {
        return Err(bad("it is not a .deb"));
    }
    // Three are in one; a signature beside them is a fourth.
    for _ in 0..8 {
        let mut head = [0; HEAD];
        file.read_exact(&mut head)?;
        let text = std::str::from_utf8(&head)
            .map_err(|_| bad("the head of a member is not UTF-8 text"))?;
        let called = text
            .get(..16)
            .unwrap_or_default()
            .trim_end()
            .trim_end_matches('/');
        let size: u64 = text
            .get(48..58)
            .and_then(|s| s.trim_end().parse().ok())
            .ok_or_else(|| bad("the head of a member has no size"))?;
        if called == name {
            let mut archive = tar::Archive::new(unzstd(file.take(size))?);
            for (at, entry) in archive.entries()?.enumerate() {
                let mut entry = entry?;
                if at >= ENTRIES_MAX {
                    return Err(bad("it has too many entries"));
                }
                if entry.header().entry_type().is_file() {
                    let path = entry.path()?.to_string_lossy().into_owned();
                    let size = entry.size();
                    take(&path, size, &mut entry)?;
                }
            }
            return Ok(());
        }
        // Members begin at even bytes.
        let skip = size
            .checked_add(size % 2)
            .ok_or_else(|| bad("a member has no size"))?;
        let skipped = io::copy(&mut file.by_ref().take(skip), &mut io::sink())?;
        if skipped != skip {
            return Err(bad("it is truncated"));
        }
    }
    Err(bad(format!("it has no {name}")))
}
