//! A package of ours, read: what it says it is, and its files.
//!
//! Read here and not by `dpkg-deb` or `rpm2cpio`: every length of the input is bounded. Plane
//! and node read by this alone, so what one of them takes the other does not refuse.
//!
//! | file | reads |
//! |---|---|
//! | `deb` | an `ar` archive of `tar`s |
//! | `rpm` | two headers and a `cpio` archive |

mod deb;
mod rpm;

use std::io::{self, Read, Seek};

use semver::Version;

use crate::model::{PackageFormat, agent_version_fault};

/// What our packages are called.
pub const PACKAGE: &str = "pf9-hostagent";
/// Most that a package unpacks to, with what is not wanted of it.
const UNPACKED_MAX: u64 = 640 * 1024 * 1024;
/// Largest zstd window (8 MiB is what level 19 asks for; rpm's nine and dpkg's nine ask for less): 32 MiB.
const WINDOW_LOG_MAX: u32 = 25;
/// Most entries of a package: ours has two dozen.
const ENTRIES_MAX: usize = 4096;
/// Longest piece of a package's own words that is shown.
const SHOWN_MAX: usize = 64;

/// What a package says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageInfo {
    /// Its name.
    pub name: String,
    /// Its version, with the release behind a `-`.
    pub version: String,
    /// For which machines, as the package manager calls them.
    pub arch: String,
    /// Its dependencies, for dpkg; of an `.rpm` nothing, for rpm checks itself.
    pub depends: String,
}

/// Which of ours a package is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// For which package manager.
    pub format: PackageFormat,
    /// What its programs say of themselves.
    pub version: Version,
    /// For which machines, in Debian's words.
    pub arch: &'static str,
}

/// Why a package is none of ours.
#[derive(Debug, thiserror::Error)]
pub enum NotOurs {
    /// It is damaged, or is none.
    #[error("it cannot be read as a package")]
    Damaged(#[source] io::Error),
    /// It is another one.
    #[error("it is {0}")]
    Other(String),
}

/// A file of a package: its path, its size, its bytes.
pub type Take<'a> = dyn FnMut(&str, u64, &mut dyn Read) -> io::Result<()> + 'a;

/// What it says it is.
pub fn about(file: impl Read, format: PackageFormat) -> Result<PackageInfo, NotOurs> {
    let about = match format {
        PackageFormat::Deb => deb::about(file),
        PackageFormat::Rpm => rpm::about(file),
    };
    about.map_err(NotOurs::Damaged)
}

/// Which of ours it is.
pub fn label(file: impl Read, format: PackageFormat) -> Result<Label, NotOurs> {
    about(file, format)?.label(format)
}

/// Each regular file of it.
pub fn each_file(
    file: impl Read,
    format: PackageFormat,
    take: &mut Take<'_>,
) -> Result<(), NotOurs> {
    let payload = match format {
        PackageFormat::Deb => deb::each_file(file, take),
        PackageFormat::Rpm => rpm::each_file(file, take),
    };
    payload.map_err(NotOurs::Damaged)
}

/// Reads all of a file of either format: which of ours it is, and that it can be unpacked to its end.
pub fn read(file: &mut (impl Read + Seek)) -> Result<Label, NotOurs> {
    file.rewind().map_err(NotOurs::Damaged)?;
    let format = format_of(file).map_err(NotOurs::Damaged)?;
    let format = format.ok_or_else(|| NotOurs::Other("neither a .deb nor an .rpm".into()))?;
    file.rewind().map_err(NotOurs::Damaged)?;
    let label = label(&mut *file, format)?;
    file.rewind().map_err(NotOurs::Damaged)?;
    each_file(
        file,
        format,
        &mut |_, size, data| match io::copy(data, &mut io::sink())? == size {
            true => Ok(()),
            false => Err(bad("one of its files is truncated")),
        },
    )?;
    Ok(label)
}

fn format_of(file: &mut impl Read) -> io::Result<Option<PackageFormat>> {
    let mut magic = [0; deb::MAGIC.len()];
    file.read_exact(&mut magic)?;
    Ok(if &magic == deb::MAGIC {
        Some(PackageFormat::Deb)
    } else {
        magic
            .starts_with(&rpm::LEAD_MAGIC)
            .then_some(PackageFormat::Rpm)
    })
}

impl PackageInfo {
    fn label(&self, format: PackageFormat) -> Result<Label, NotOurs> {
        let other = |what: String| Err(NotOurs::Other(what));
        if self.name != PACKAGE {
            return other(format!("package {}, not {PACKAGE}", shown(&self.name)));
        }
        let arch = match self.arch.as_str() {
            "amd64" | "x86_64" => "amd64",
            "arm64" | "aarch64" => "arm64",
            _ => return other(format!("for {}, which is not supported", shown(&self.arch))),
        };
        // A package's version is that of its programs, and its own revision behind.
        let (ours, _) = self.version.rsplit_once('-').unwrap_or((&self.version, ""));
        // Both package managers write what comes before a release so.
        let version: Version = match ours.replacen('~', "-", 1).parse() {
            Ok(version) => version,
            Err(e) => {
                let text = shown(&self.version);
                return other(format!("of version {text}, which cannot be read: {e}"));
            }
        };
        match agent_version_fault(&version) {
            None => Ok(Label {
                format,
                version,
                arch,
            }),
            Some(why) => other(format!("of an invalid version: {why}")),
        }
    }
}

/// A zstd stream, as far as a package may unpack to.
fn unzstd<'a>(source: impl Read + 'a) -> io::Result<impl Read + 'a> {
    let mut decoder = zstd::Decoder::new(source)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(decoder.take(UNPACKED_MAX))
}

fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(SHOWN_MAX).collect::<String>())
}

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

#[cfg(test)]
pub(crate) mod tests;
