//! The package verified and unpacked beside what runs, and its programs tried: nothing that runs is touched.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use super::links::{self, Name};
use super::needs;
use super::package::{self, NAMES};
use super::record::package_path;
use crate::host::exec::{self, Cmd};
use crate::host::fs::{Attrs, HostFs};
use crate::host::{Host, blocking, space};
use crate::model::{
    AgentPackage, AgentSpec, Fault, FaultCode, Hasher, PackageFile, PackageFormat, paths,
};
use crate::seam::disk::{self, Options};
use crate::telemetry::chain;

/// A program says its version, or what is wrong with the configuration, from two small files.
const TRY: Duration = Duration::from_secs(20);
/// What a package unpacks to, as a multiple of its size: ours to less than four.
const UNPACKED: u64 = 6;
/// The package manager looks whether it could install it: it reads its own lists.
const COULD: Duration = Duration::from_secs(60);
const CHUNK: usize = 128 * 1024;

/// What this machine is, as packages are named by.
pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Which package manager has this software; none where it was not installed by one.
pub fn format(fs: &HostFs) -> Option<PackageFormat> {
    let has = |path: &str| fs.at(path).exists();
    if has("/var/lib/dpkg/info/pf9-hostagent.list") {
        return Some(PackageFormat::Deb);
    }
    let rpm = ["/usr/lib/sysimage/rpm", "/var/lib/rpm"]
        .into_iter()
        .any(has);
    (rpm && has("/usr/bin/rpm")).then_some(PackageFormat::Rpm)
}

/// Where hostagent leaves a package.
pub fn staged(file: &PackageFile) -> String {
    format!(
        "{}/{}.{}",
        paths::AGENT_STAGING,
        file.sha256,
        file.format.as_str()
    )
}

/// Where root keeps one that was verified.
pub fn kept(file: &PackageFile) -> String {
    package_path(&file.sha256.to_string(), file.format.as_str())
}

/// The package of a version for this machine.
pub(super) fn file_for<'a>(
    fs: &HostFs,
    package: &'a AgentPackage,
) -> Result<&'a PackageFile, Fault> {
    let refused =
        |why: String| refused(package, why).fix("import a package for this machine on the plane");
    let format = format(fs).ok_or_else(|| {
        refused("this software was not installed by a supported package manager".into())
    })?;
    let none = || {
        refused(format!(
            "there is no {} of it for {}",
            format.as_str(),
            arch()
        ))
    };
    package.file(format, arch()).ok_or_else(none)
}

/// Has everything ready. What is wrong with the package is said with [`FaultCode::AgentPackage`]: only another order cures it.
pub(super) async fn prepare(host: &Host, order: &AgentSpec) -> Result<(), Fault> {
    let target = &order.target;
    let file = file_for(&host.fs, target)?.clone();
    let name = Name::of(&target.version);
    let link = |path| links::read(&host.fs, path);
    let there = [paths::AGENT_CURRENT, paths::AGENT_LAST_GOOD].map(link);
    require_room(&host.fs, target, &file)?;
    let (fs, package) = (host.fs.clone(), file.clone());
    let version = target.version.to_string();
    blocking(move || take_in(&fs, &package))
        .await
        .map_err(|e| not_had(&version, &e))?;
    keep_only(&host.fs, order);
    // What runs, or is what it goes back to, is not written over.
    if !there.contains(&Some(name.clone())) {
        let (fs, version) = (host.fs.clone(), target.version.clone());
        let at = host.fs.at(kept(&file));
        blocking(move || package::unpack(&fs, &at, file.format, &version, arch()))
            .await
            .map_err(|e| refused(target, chain(&e)))?;
        try_programs(host, target, &name).await?;
    }
    could_install(host, target).await
}

fn refused(package: &AgentPackage, why: impl Into<String>) -> Fault {
    let what = format!("agent version {} is refused", package.version);
    Fault::new(FaultCode::AgentPackage, what, why)
}

fn not_had(version: &str, error: &io::Error) -> Fault {
    let code = space::code_of(error, FaultCode::AgentFetch);
    let what = format!("agent version {version} is not staged");
    Fault::new(code, what, chain(error)).fix("nothing while hostagent runs: it is downloaded again")
}

fn require_room(fs: &HostFs, package: &AgentPackage, file: &PackageFile) -> Result<(), Fault> {
    for (path, bytes) in [
        (paths::AGENT_PROGRAMS, file.bytes.saturating_mul(UNPACKED)),
        (paths::AGENT_STATE, file.bytes),
    ] {
        let at = fs.at(path);
        let room = space::of(&at).map_err(|e| not_had(&package.version.to_string(), &e))?;
        room.require(&at, bytes).map_err(|e| {
            let what = format!("agent version {} is not staged", package.version);
            Fault::new(FaultCode::DiskFull, what, e.to_string()).fix(space::FIX)
        })?;
    }
    Ok(())
}

/// Copies a staged package to where only root writes, and looks at the copy's bytes: what lies in staging is another user's.
fn take_in(fs: &HostFs, file: &PackageFile) -> io::Result<()> {
    let to = kept(file);
    if is_it(&fs.at(&to), file)? {
        return Ok(());
    }
    let from = fs.at(staged(file));
    let open = File::options()
        .read(true)
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(&from)?;
    if !open.metadata()?.is_file() {
        return Err(io::Error::other("the staged package is not a file"));
    }
    fs.make_dir(paths::AGENT_STATE, &Attrs::mode(0o755))
        .map_err(io::Error::other)?;
    let begun = fs.at(format!("{to}.begun"));
    let copied = copy(open, &begun, file);
    let placed = copied.and_then(|()| {
        fs.rename(format!("{to}.begun"), &to)
            .map_err(io::Error::other)
    });
    if placed.is_err() {
        drop(disk::remove_file(&begun));
    }
    placed
}

fn copy(from: File, to: &Path, file: &PackageFile) -> io::Result<()> {
    let mut target = Options::write()
        .create(0o600)
        .truncate()
        .flags(O_NOFOLLOW)
        .open(to)?;
    let digest = hashed(from, file.bytes, &mut |bytes| target.write_all(bytes))?;
    if digest != file.sha256 && !crate::mutant("agent-digest") {
        return Err(io::Error::other(
            "the staged package does not have the SHA-256 that the plane signed",
        ));
    }
    target.sync_all()
}

fn is_it(path: &Path, file: &PackageFile) -> io::Result<bool> {
    match File::open(path) {
        Ok(open) => Ok(hashed(open, file.bytes, &mut |_| Ok(()))? == file.sha256),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// The digest of a file; one byte more than it may have makes it another one.
fn hashed(
    from: File,
    most: u64,
    each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<crate::model::Digest> {
    let mut from = from.take(most.saturating_add(1));
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = from.read(&mut chunk)?;
        let bytes = chunk.get(..n).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(hasher.finish());
        }
        hasher.update(bytes);
        each(bytes)?;
    }
}

/// Packages that no order names are removed; so is what an interrupted copy left.
fn keep_only(fs: &HostFs, order: &AgentSpec) {
    let named = [Some(&order.target), order.previous.as_ref()];
    let files = named.into_iter().flatten().flat_map(|p| &p.packages);
    let keep: Vec<String> = files.map(kept).collect();
    for name in fs.list(paths::AGENT_STATE).unwrap_or_default() {
        let path = format!("{}/{name}", paths::AGENT_STATE);
        let package = name.contains(".deb") || name.contains(".rpm");
        if package && !keep.contains(&path) {
            drop(fs.remove_file(&path));
        }
    }
}

/// By each of its names the program is started, says which it is, and reads the configuration that it would have.
async fn try_programs(host: &Host, target: &AgentPackage, name: &Name) -> Result<(), Fault> {
    for program in NAMES {
        let path = host.fs.at(name.program(program));
        let cmd = Cmd::new(&path, TRY).arg("--version");
        let said = exec::run(cmd).await.map_err(|e| {
            refused(
                target,
                format!("{program} does not run here: {}", chain(&e)),
            )
        })?;
        let words = said.text();
        if words.split_whitespace().nth(1) != Some(target.version.to_string().as_str()) {
            let why = format!("{program} reports version {:.64}", words.trim());
            return Err(refused(target, why));
        }
        // pf9ctl has no configuration of its own.
        if program == "pf9ctl" {
            continue;
        }
        let cmd = Cmd::new(&path, TRY).arg("--check-config");
        exec::run(cmd).await.map_err(|e| {
            let why = format!(
                "{program} rejects this machine's configuration: {}",
                chain(&e)
            );
            refused(target, why).fix("correct the configuration, then order the version again")
        })?;
    }
    Ok(())
}

/// Whether the package manager would take it: what it needs is there.
async fn could_install(host: &Host, target: &AgentPackage) -> Result<(), Fault> {
    let file = file_for(&host.fs, target)?;
    let (path, format) = (host.fs.at(kept(file)), file.format);
    let lacks = match format {
        PackageFormat::Deb => {
            let about = blocking(move || package::said_by(&path, format)).await;
            let about = about.map_err(|e| refused(target, chain(&e)))?;
            needs::unmet(host, &about.depends).await
        }
        PackageFormat::Rpm => {
            let cmd = Cmd::new(exec::program(&host.fs, "rpm"), COULD)
                .args(["-U", "--test", "--oldpackage", "--replacepkgs"])
                .arg(path);
            exec::run(cmd).await.err().map(|e| chain(&e))
        }
    };
    let Some(lacks) = lacks else { return Ok(()) };
    let what = format!("agent version {} is not staged", target.version);
    let why = format!("the package manager would not install it: this machine lacks {lacks}");
    Err(Fault::new(FaultCode::AgentDatabase, what, why)
        .fix("install what is missing; it is retried automatically"))
}

#[cfg(test)]
mod tests;
