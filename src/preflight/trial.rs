//! Whether the runtime can work where its data will be: an overlay is mounted there, once, and used.
//!
//! Whatever carries the directory may refuse: another overlay, a network file system, one without the types of its
//! entries (`ftype=0`), one without the attributes that deleted directories need. No list of names says that as well as
//! a try at the very place. All of it is in one directory ([`SCRATCH`]) that goes again; the mount is in a namespace of
//! one thread, which ends with it, so nobody sees it and nothing is left when this program is killed in the middle but
//! an empty tree, which the next one removes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

use crate::host::fs::HostFs;
use crate::host::space::is_full;
use crate::model::paths;

/// The one directory that a try makes, in the nearest directory that is there.
pub const SCRATCH: &str = ".pf9-check";

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverlayTrial {
    /// As it should.
    Works,
    /// It could not be tried, and why.
    NotTried(String),
    /// No file can be made: there is no room, or a quota is reached.
    Full {
        /// Where it was tried.
        at: String,
        /// What the kernel says.
        why: String,
    },
    /// It does not work.
    Fails {
        /// Where it was tried.
        at: String,
        /// What did not.
        why: String,
    },
}

/// What went wrong on the way.
enum Wrong {
    /// Says nothing about the file system.
    NotHere(String),
    Full(String),
    Here(String),
}

/// Tries it at the runtime's directory, or above it if it does not exist yet.
pub(super) fn overlay(host: &HostFs) -> OverlayTrial {
    let at = host.at(paths::CONTAINERD_ROOT);
    let Some(there) = at.ancestors().find(|p| p.is_dir()) else {
        return OverlayTrial::NotTried("there is no directory above it".into());
    };
    match tried(there) {
        Ok(()) => OverlayTrial::Works,
        Err(Wrong::NotHere(why)) => OverlayTrial::NotTried(why),
        Err(Wrong::Full(why)) => OverlayTrial::Full {
            at: format!("/{}", shown(host, there).display()),
            why,
        },
        Err(Wrong::Here(why)) => OverlayTrial::Fails {
            at: format!("/{}", shown(host, there).display()),
            why,
        },
    }
}

fn shown(host: &HostFs, there: &Path) -> PathBuf {
    let below = there.strip_prefix(host.at("/"));
    below.unwrap_or(there).to_path_buf()
}

fn tried(there: &Path) -> Result<(), Wrong> {
    let scratch = there.join(SCRATCH);
    let clear = || match fs::remove_dir_all(&scratch) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    };
    clear().map_err(no_file)?;
    let result = made(&scratch).and_then(|()| {
        // A thread of its own: its view of mounts ends with it.
        let scratch = scratch.clone();
        let thread = std::thread::Builder::new().spawn(move || used(&scratch));
        let joined = thread.map_err(no_file)?.join();
        joined.unwrap_or_else(|_| Err(Wrong::NotHere("the test itself failed".into())))
    });
    let cleared = clear();
    result?;
    cleared.map_err(no_file)
}

/// Two layers, the upper one empty.
fn made(scratch: &Path) -> Result<(), Wrong> {
    for dir in ["lower/dir", "upper", "work", "merged"] {
        fs::create_dir_all(scratch.join(dir)).map_err(no_file)?;
    }
    for (file, text) in [
        ("lower/dir/file", "x"),
        ("lower/gone", "x"),
        ("lower/run", "#!/bin/sh\nexit 0\n"),
    ] {
        put(&scratch.join(file), text).map_err(no_file)?;
    }
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(scratch.join("lower/run"), mode).map_err(no_file)?;
    typed(&scratch.join("lower"))
}

/// Entries tell what they are, or deleted files come back.
fn typed(dir: &Path) -> Result<(), Wrong> {
    let dir = Dir::open(dir, OFlag::O_RDONLY, Mode::empty()).map_err(|e| no_file(e.into()))?;
    let untyped = |e: Result<nix::dir::Entry, Errno>| e.is_ok_and(|e| e.file_type().is_none());
    match dir.into_iter().any(untyped) {
        true => Err(Wrong::Here(
            "its directories do not report the type of their entries (d_type; XFS made with ftype=0)"
                .into(),
        )),
        false => Ok(()),
    }
}

/// What a container does: runs a program, changes a file, deletes one, makes a directory again.
fn used(scratch: &Path) -> Result<(), Wrong> {
    let merged = scratch.join("merged");
    let not_here = |what: &'static str| move |e: Errno| Wrong::NotHere(format!("{what}: {e}"));
    unshare(CloneFlags::CLONE_NEWNS).map_err(not_here("a namespace of mounts"))?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(not_here("mounts of its own"))?;
    let part = |name: &str| scratch.join(name).display().to_string();
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        part("lower"),
        part("upper"),
        part("work")
    );
    mount(
        Some("overlay"),
        &merged,
        Some("overlay"),
        MsFlags::empty(),
        Some(layers.as_str()),
    )
    .map_err(|e| match e {
        // The kernel has none, or the caller has no right to it: other checks say that.
        Errno::ENODEV | Errno::EPERM | Errno::EACCES => not_here("an overlay")(e),
        other => Wrong::Here(format!("an overlay cannot be mounted: {}", other.desc())),
    })?;
    let step = |what: &'static str| {
        move |e: io::Error| {
            let words = format!("in an overlay {what}: {e}");
            match is_full(&e) {
                true => Wrong::Full(words),
                false => Wrong::Here(words),
            }
        }
    };
    let ran = Command::new(merged.join("run")).status();
    let ran = ran.map_err(step("no program can be run"))?;
    if !ran.success() {
        return Err(Wrong::Here(format!(
            "in an overlay a program ended with {ran}"
        )));
    }
    put(&merged.join("dir/file"), "y").map_err(step("no file can be changed"))?;
    fs::remove_file(merged.join("gone")).map_err(step("no file can be deleted"))?;
    let dir = merged.join("dir");
    fs::remove_dir_all(&dir)
        .and_then(|()| fs::create_dir(&dir))
        .map_err(step("no directory can be recreated"))?;
    let back = fs::read_dir(&dir).map_err(step("no directory can be read"))?;
    if back.count() > 0 || merged.join("gone").exists() {
        return Err(Wrong::Here("in an overlay deleted files come back".into()));
    }
    Ok(())
}

/// Not atomic and not durable: it is gone before anybody reads it.
fn put(path: &Path, text: &str) -> io::Result<()> {
    File::create(path)?.write_all(text.as_bytes())
}

/// A file system that takes no file at all is another check's; but only this one sees a quota.
fn no_file(error: io::Error) -> Wrong {
    let words = format!("no file can be created there: {error}");
    match is_full(&error) {
        true => Wrong::Full(words),
        false => Wrong::NotHere(words),
    }
}
