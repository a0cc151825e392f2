//! A package of ours, opened: what it says it is, and the programs and units in it.
//!
//! Read here and not by `dpkg-deb` or `rpm2cpio`: what comes through is bounded by names and sizes of a closed list, and nothing
//! is written that is not one of them. Whose package it is says its SHA-256, which stands in the plane's signed word; that
//! it is one of ours, of that version and for this machine, is looked at all the same, before it is believed to be.

mod deb;
mod rpm;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use semver::Version;

use super::links::Name;
use crate::host::fs::{Attrs, HostFs};
use crate::model::{PackageFormat, paths};

/// What our packages are called.
const PACKAGE: &str = "pf9-hostagent";
/// The programs of a version.
pub(super) const PROGRAMS: [&str; 4] = ["pf9-comms", "pf9-hostagent", "pf9-nodeletd", "pf9ctl"];
/// The units of a version.
pub(super) const UNITS: [&str; 7] = [
    "pf9-agent-boot.service",
    "pf9-agent-switch.service",
    "pf9-comms.service",
    "pf9-hostagent.service",
    "pf9-nodeletd.service",
    "pf9-nodeletd.socket",
    "pf9-os-update.service",
];
/// Largest program: ours are 10 to 20 MiB.
const PROGRAM_MAX: u64 = 128 * 1024 * 1024;
/// Largest unit.
const UNIT_MAX: u64 = 256 * 1024;
/// Most that a package unpacks to, with what is not wanted of it.
const UNPACKED_MAX: u64 = 640 * 1024 * 1024;
/// Largest zstd window (8 MiB is what level 19 asks for; rpm's nine and dpkg's nine ask for less): 32 MiB.
const WINDOW_LOG_MAX: u32 = 25;
/// Most entries of a package: ours has two dozen.
const ENTRIES_MAX: usize = 4096;

/// What a package says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct About {
    /// Its name.
    pub(super) name: String,
    /// Its version, with the release behind a `-`.
    pub(super) version: String,
    /// For which machines, as the package manager calls them.
    pub(super) arch: String,
    /// What dpkg is told that it needs; of an `.rpm` nothing, for rpm looks itself.
    pub(super) depends: String,
}

/// Why a package is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum PackageError {
    /// It is damaged, or is none.
    #[error("it cannot be read as a package")]
    Damaged(#[source] io::Error),
    /// It is another one.
    #[error("it is {0}")]
    Other(String),
    /// It lacks something.
    #[error("it has no {0}")]
    Lacks(String),
    /// The disk.
    #[error("its programs cannot be written")]
    Write(#[source] crate::host::fs::FsError),
}

/// Where a file of the list goes.
struct Place {
    path: String,
    mode: u32,
    max: u64,
}

/// What a package says it is.
pub(super) fn about(file: &Path, format: PackageFormat) -> Result<About, PackageError> {
    let open = File::open(file).map_err(PackageError::Damaged)?;
    match format {
        PackageFormat::Deb => deb::about(open),
        PackageFormat::Rpm => rpm::about(open),
    }
    .map_err(PackageError::Damaged)
}

/// Unpacks programs and units of `version` into its directory, complete and on the disk before it has its name.
pub(super) fn unpack(
    fs: &HostFs,
    file: &Path,
    format: PackageFormat,
    version: &Version,
    arch: &str,
) -> Result<(), PackageError> {
    let open = || File::open(file).map_err(PackageError::Damaged);
    is_ours(&about(file, format)?, version, arch)?;
    let name = Name::of(version);
    let begun = format!("{}/.{name}.begun", paths::AGENT_PROGRAMS);
    fs.remove_tree(&begun).map_err(PackageError::Write)?;
    let mut taken = Taken {
        fs,
        prefix: name.dir(),
        into: begun.clone(),
        names: Vec::new(),
    };
    let payload = match format {
        PackageFormat::Deb => deb::each_file(open()?, &mut |path, size, data| {
            taken.take(path, size, data)
        }),
        PackageFormat::Rpm => rpm::each_file(open()?, &mut |path, size, data| {
            taken.take(path, size, data)
        }),
    };
    payload.map_err(PackageError::Damaged)?;
    let names = taken.names;
    let wanted = PROGRAMS.map(|p| format!("bin/{p}")).into_iter();
    let wanted = wanted.chain(UNITS.map(|u| format!("units/{u}")));
    for want in wanted {
        if !names.contains(&want) {
            return Err(PackageError::Lacks(format!("{}/{want}", name.dir())));
        }
    }
    let place = || {
        fs.sync_tree(&begun)?;
        fs.remove_tree(&name.dir())?;
        fs.rename(&begun, name.dir())
    };
    place().map_err(PackageError::Write)
}

fn is_ours(about: &About, version: &Version, arch: &str) -> Result<(), PackageError> {
    let (upstream, _) = about
        .version
        .rsplit_once('-')
        .unwrap_or((&about.version, ""));
    let ours = about.name == PACKAGE && upstream == version.to_string() && about.arch == arch;
    match ours {
        true => Ok(()),
        false => {
            let shown = |text: &str| text.chars().take(64).collect::<String>();
            Err(PackageError::Other(format!(
                "package {} {} for {}, not {PACKAGE} {version} for {arch}",
                shown(&about.name),
                shown(&about.version),
                shown(&about.arch)
            )))
        }
    }
}

/// What was taken out of a package.
struct Taken<'a> {
    fs: &'a HostFs,
    prefix: String,
    into: String,
    names: Vec<String>,
}

impl Taken<'_> {
    /// One regular file of the package; whatever is not of the list is passed over.
    fn take(&mut self, path: &str, size: u64, data: &mut dyn Read) -> io::Result<()> {
        let path = format!("/{}", path.trim_start_matches("./").trim_start_matches('/'));
        let Some(name) = path
            .strip_prefix(&self.prefix)
            .and_then(|p| p.strip_prefix('/'))
        else {
            return Ok(());
        };
        let Some(place) = place(&self.into, name) else {
            return Ok(());
        };
        if size > place.max {
            let why = format!("{name} has {size} bytes, at most {}", place.max);
            return Err(io::Error::other(why));
        }
        // One at a time, and no larger than a program.
        let mut bytes = Vec::new();
        data.take(place.max).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            return Err(io::Error::other(format!("{name} is cut off")));
        }
        self.fs
            .write(&place.path, &bytes, &Attrs::mode(place.mode))
            .map_err(io::Error::other)?;
        self.names.push(name.to_owned());
        Ok(())
    }
}

fn place(into: &str, name: &str) -> Option<Place> {
    let (dir, file) = name.split_once('/')?;
    let path = format!("{into}/{dir}/{file}");
    match dir {
        "bin" if PROGRAMS.contains(&file) => Some(Place {
            path,
            mode: 0o755,
            max: PROGRAM_MAX,
        }),
        "units" if UNITS.contains(&file) => Some(Place {
            path,
            mode: 0o644,
            max: UNIT_MAX,
        }),
        _ => None,
    }
}

/// A zstd stream, as far as a package may unpack to.
fn unzstd<'a>(source: impl Read + 'a) -> io::Result<impl Read + 'a> {
    let mut decoder = zstd::Decoder::new(source)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(decoder.take(UNPACKED_MAX))
}

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

#[cfg(test)]
mod tests;
