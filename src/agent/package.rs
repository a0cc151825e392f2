//! A package of ours, opened: the programs and units in it, beside what runs.
//!
//! Nothing is written that is not of a closed list, in bounded sizes. Whose package it is says its SHA-256, which stands
//! in the plane's signed word; that it is one of ours, of that version and for this machine, is looked at anyway,
//! before it counts as one.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use semver::Version;

use super::links::Name;
use crate::host::fs::{Attrs, HostFs};
use crate::host::package::{NotOurs, PACKAGE, PackageInfo, about, each_file, label};
use crate::model::{PackageFormat, paths};

/// The program of a version: all that a node has, in one file.
pub(super) const PROGRAM: &str = "pf9-agent";
/// The names it is called by, which say what it is: links beside it. A package has them too; here they are created and
/// not extracted from it, because a package must not decide where a link leads.
pub(super) const NAMES: [&str; 4] = ["pf9-comms", "pf9-hostagent", "pf9-nodeletd", "pf9ctl"];
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
/// Largest program: ours has 20 MiB.
const PROGRAM_MAX: u64 = 128 * 1024 * 1024;
/// Largest unit.
const UNIT_MAX: u64 = 256 * 1024;
/// Why a package is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum PackageError {
    /// It is damaged, or another one.
    #[error(transparent)]
    NotOurs(#[from] NotOurs),
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
pub(super) fn said_by(file: &Path, format: PackageFormat) -> Result<PackageInfo, PackageError> {
    Ok(about(open(file)?, format)?)
}

fn open(file: &Path) -> Result<File, NotOurs> {
    File::open(file).map_err(NotOurs::Damaged)
}

/// Unpacks programs and units of `version` into its directory, complete and on the disk before it has its name.
pub(super) fn unpack(
    fs: &HostFs,
    file: &Path,
    format: PackageFormat,
    version: &Version,
    arch: &str,
) -> Result<(), PackageError> {
    let found = label(open(file)?, format)?;
    if (&found.version, found.arch) != (version, arch) {
        return Err(PackageError::NotOurs(NotOurs::Other(format!(
            "{PACKAGE} {} for {}, not {version} for {arch}",
            found.version, found.arch
        ))));
    }
    let name = Name::of(version);
    let begun = format!("{}/.{name}.begun", paths::AGENT_PROGRAMS);
    fs.remove_tree(&begun).map_err(PackageError::Write)?;
    let mut taken = Taken {
        fs,
        prefix: name.dir(),
        into: begun.clone(),
        names: Vec::new(),
    };
    each_file(open(file)?, format, &mut |path, size, data| {
        taken.take(path, size, data)
    })?;
    let names = taken.names;
    let wanted = std::iter::once(format!("bin/{PROGRAM}"));
    let wanted = wanted.chain(UNITS.map(|u| format!("units/{u}")));
    for want in wanted {
        if !names.contains(&want) {
            return Err(PackageError::Lacks(format!("{}/{want}", name.dir())));
        }
    }
    let place = || {
        for name in NAMES {
            fs.link(format!("{begun}/bin/{name}"), PROGRAM)?;
        }
        fs.sync_tree(&begun)?;
        fs.remove_tree(name.dir())?;
        fs.rename(&begun, name.dir())
    };
    place().map_err(PackageError::Write)
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
            return Err(io::Error::other(format!("{name} is truncated")));
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
        "bin" if file == PROGRAM => Some(Place {
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

#[cfg(test)]
mod tests;
