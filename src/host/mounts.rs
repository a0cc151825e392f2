//! Mount points, from the kernel's own list.

use super::fs::{FsError, HostFs};

/// Largest `/proc/self/mountinfo`: thousands of pods' mounts.
const MOUNTINFO_MAX: u64 = 64 * 1024 * 1024;

/// Every mount point of this host.
pub fn points(fs: &HostFs) -> Result<Vec<String>, FsError> {
    let text = fs.read("/proc/self/mountinfo", MOUNTINFO_MAX)?;
    Ok(String::from_utf8_lossy(&text.unwrap_or_default())
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(unescape)
        .collect())
}

/// Mount points at a path or below it, as (the path itself is one, those below).
pub fn at_or_below(fs: &HostFs, path: &str) -> Result<(bool, Vec<String>), FsError> {
    let points = points(fs)?;
    let below = format!("{}/", path.trim_end_matches('/'));
    Ok((
        points.iter().any(|p| p == path),
        points
            .into_iter()
            .filter(|p| p.starts_with(&below))
            .collect(),
    ))
}

/// Mount points in `mountinfo` have blanks as octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}
