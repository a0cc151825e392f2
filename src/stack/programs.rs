//! Do a stack's programs run on this machine? Each is started once, with a question that changes
//! nothing, before the stack takes the place of another.
//!
//! ```text
//! head of the file ─┐
//! how it ended     ─┼─ unfit ─► nothing, or the program, the reason and the way out
//! mount, SELinux   ─┘
//! ```
//!
//! It costs less than two seconds of a small machine, and an answer holds for as long as the
//! machine is the same ([`machine_mark`]).

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::statvfs::{FsFlags, statvfs};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::format::{self, Format, HEAD_MAX};
use crate::host::exec::{self, Cmd, ExecError, Output};
use crate::host::fs::HostFs;
use crate::model::{
    Digest, Fault, FaultCode, Hasher, Machine, STACK_FILES_MAX, StackFile, StackManifest,
    loose_version, paths,
};
use crate::telemetry::chain;

/// How long a program may take to say its version: a hundred megabytes are read from a slow disk.
const DEADLINE: Duration = Duration::from_secs(30);
/// How often it is tried again while "text file busy": a child of ours that was forked while the file
/// was written holds it until its own program begins, which is at once.
const BUSY_TRIES: u32 = 20;
/// Between two of these tries.
const BUSY_PAUSE: Duration = Duration::from_millis(25);
/// As many at once: a small machine has other things to do, and what they hold counts as nodelet's.
const AT_ONCE: usize = 2;
/// Says whether SELinux forbids, or only notes.
const ENFORCING: &str = "/sys/fs/selinux/enforce";
/// What changes with the machine's libraries.
const LIBRARIES: [&str; 3] = [
    "/etc/ld.so.cache",
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
];

/// Starts every program of a stack whose files are below `dir` (a path of the host); the first
/// that does not run is the fault.
pub async fn check(fs: &HostFs, dir: &Path, stack: &StackManifest) -> Result<(), Fault> {
    let programs = stack.files.iter().filter(|f| is_program(f));
    let (tell, files) = mpsc::channel(STACK_FILES_MAX);
    for file in programs {
        // As many as a manifest may list have room.
        tell.try_send(file.clone()).ok();
    }
    drop(tell);
    check_as_they_come(fs, dir, stack, files, &|_| async {}.boxed()).await
}

/// The same, for files that come when they are whole. `then` is done with each one, with a program once it is known to run,
/// and takes its place among those that are asked at once.
pub async fn check_as_they_come(
    fs: &HostFs,
    dir: &Path,
    stack: &StackManifest,
    mut files: mpsc::Receiver<StackFile>,
    then: &(dyn Fn(&StackFile) -> BoxFuture<'static, ()> + Sync),
) -> Result<(), Fault> {
    let place = Place::of(fs, dir);
    let mut running = JoinSet::new();
    let mut more = true;
    while more || !running.is_empty() {
        // Those that still run end with the set.
        let answer = tokio::select! {
            // cancel-safe: both are
            file = files.recv(), if more && running.len() < AT_ONCE => {
                match file {
                    None => more = false,
                    Some(file) => {
                        let wanted = stack.component(&file.component).map(str::to_owned);
                        let path = fs.at(dir).join(&file.path);
                        running.spawn(look_at(path, file.clone(), wanted, place, then(&file)));
                    }
                }
                continue;
            }
            Some(answer) = running.join_next(), if !running.is_empty() => answer,
        };
        let answer = answer.map_err(|e| failed_to_ask(stack, &e))?;
        if let Err((path, Bad { why, fix })) = answer {
            let what = format!("stack {} {} is refused", stack.name, stack.version);
            let why = format!("{path} does not run on this machine: {why}");
            return Err(Fault::new(FaultCode::StackProgram, what, why).fix(fix));
        }
    }
    Ok(())
}

/// A file of a stack that is a program.
pub fn is_program(file: &StackFile) -> bool {
    file.mode & 0o111 != 0
}

/// Changes when what was refused may run, or the other way round: the kernel, the C library, how
/// the stacks' directory is mounted, whether SELinux enforces.
pub fn machine_mark(fs: &HostFs) -> Digest {
    let mut hasher = Hasher::new();
    let mut add = |text: String| hasher.update(text.as_bytes());
    add(format!("{}\n", kernel(fs).unwrap_or_default()));
    for path in LIBRARIES {
        if let Ok(meta) = std::fs::metadata(fs.at(path)) {
            add(format!(
                "{path} {} {} {}\n",
                meta.len(),
                meta.mtime(),
                meta.mtime_nsec()
            ));
        }
    }
    let place = Place::of(fs, Path::new(paths::STACKS));
    add(format!("{} {}\n", place.noexec, place.enforcing));
    hasher.finish()
}

/// What the matrix asks of this machine.
pub fn machine(fs: &HostFs) -> Machine {
    Machine {
        arch: Some(arch().to_owned()),
        systemd: crate::host::facts::systemd_version(fs),
        cgroup: crate::host::kernel::Kernel::new(fs.clone()).cgroup_version(),
        kernel: kernel(fs),
    }
}

/// The word for this machine's processor in manifests.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn kernel(fs: &HostFs) -> Option<String> {
    let text = fs.read_text("/proc/sys/kernel/osrelease", 4096).ok()??;
    Some(text.trim().to_owned())
}

/// A program that was asked.
struct Asked {
    file: StackFile,
    /// The version that the manifest says.
    wanted: Option<String>,
    format: Result<Format, String>,
    answer: Result<Output, ExecError>,
}

/// Where the programs are.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    noexec: bool,
    enforcing: bool,
}

/// What is wrong with one, and the way out.
struct Bad {
    why: String,
    fix: String,
}

impl Place {
    fn of(fs: &HostFs, dir: &Path) -> Self {
        let at = fs.at(dir);
        let there = at.ancestors().find(|p| p.exists());
        let flags = there.and_then(|p| statvfs(p).ok()).map(|s| s.flags());
        let enforcing = fs.read_text(ENFORCING, 16).ok().flatten();
        Self {
            noexec: flags.is_some_and(|f| f.contains(FsFlags::ST_NOEXEC)),
            enforcing: enforcing.is_some_and(|text| text.trim() == "1"),
        }
    }
}

/// How a program is called, and whether its exit status matters: of an unknown one only that it starts counts.
fn question(file: &StackFile) -> (&'static [&'static str], bool) {
    let name = file.path.rsplit('/').next().unwrap_or_default();
    match name {
        "kubelet" | "kube-proxy" | "containerd" | "ctr" | "etcd" | "runc" | "crictl" => {
            (&["--version"], true)
        }
        "kubectl" => (&["version", "--client"], true),
        "etcdctl" | "etcdutl" => (&["version"], true),
        "containerd-shim-runc-v2" => (&["-v"], true),
        // Without CNI_COMMAND a plugin says what it is.
        _ if file.path.starts_with("cni/") => (&[], true),
        _ => (&["--version"], false),
    }
}

/// A program says its version; what runs, or is none, is what the rest is done with.
async fn look_at(
    path: std::path::PathBuf,
    file: StackFile,
    wanted: Option<String>,
    place: Place,
    then: BoxFuture<'static, ()>,
) -> Result<(), (String, Bad)> {
    if is_program(&file) {
        let asked = ask(path, file, wanted).await;
        if let Some(bad) = unfit(&asked, &place) {
            return Err((asked.file.path, bad));
        }
    }
    then.await;
    Ok(())
}

async fn ask(path: std::path::PathBuf, file: StackFile, wanted: Option<String>) -> Asked {
    let format = head(&path)
        .map(|h| format::of(&h))
        .map_err(|e| e.to_string());
    let (args, _) = question(&file);
    // A program of another machine is not started: a shell would be asked to make sense of it.
    let answer = match &format {
        Ok(Format::Other) => Err(ExecError::Start {
            program: file.path.clone(),
            source: std::io::Error::from_raw_os_error(libc::ENOEXEC),
        }),
        Ok(Format::Script | Format::Elf { .. }) | Err(_) => {
            run(Cmd::new(path, DEADLINE).args(args.iter().copied())).await
        }
    };
    Asked {
        file,
        wanted,
        format,
        answer,
    }
}

async fn run(cmd: Cmd) -> Result<Output, ExecError> {
    let mut tries = 0;
    loop {
        match exec::run(cmd.clone()).await {
            Err(ExecError::Start { source, .. })
                if source.raw_os_error() == Some(libc::ETXTBSY) && tries < BUSY_TRIES =>
            {
                tries += 1;
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            answer => return answer,
        }
    }
}

fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    std::fs::File::open(path)?
        .take(HEAD_MAX)
        .read_to_end(&mut head)?;
    Ok(head)
}

/// Pure: what was seen of a program decides.
fn unfit(asked: &Asked, place: &Place) -> Option<Bad> {
    match &asked.format {
        Ok(Format::Other) => {
            return bad(
                format!("it is neither a program for {} nor a script", arch()),
                "build the stack for the architecture of this host",
            );
        }
        Ok(Format::Elf { arch: own, .. }) if own != arch() => {
            return bad(
                format!("it is built for {own}, this machine is {}", arch()),
                "build the stack for the architecture of this host",
            );
        }
        Ok(Format::Script | Format::Elf { .. }) => {}
        Err(why) => return bad(format!("it cannot be read: {why}"), "check the disk"),
    }
    let (_, judged) = question(&asked.file);
    match &asked.answer {
        Ok(output) => other_version(asked, output),
        Err(ExecError::Start { source, .. }) => not_started(asked, source, *place),
        Err(ExecError::Timeout { deadline, .. }) => bad(
            format!("it did not answer within {} s", deadline.as_secs()),
            "check the load of the machine; it is retried automatically",
        ),
        Err(ExecError::Failed { status, stderr, .. }) => {
            ended_badly(stderr, status.signal(), status.code(), judged)
        }
    }
}

fn not_started(asked: &Asked, source: &std::io::Error, place: Place) -> Option<Bad> {
    let dir = paths::STACKS;
    match source.raw_os_error() {
        Some(libc::EACCES) if place.noexec => bad(
            format!("the file system of {dir} is mounted noexec"),
            "mount it without noexec (mount -o remount,exec, and in /etc/fstab); it is retried automatically",
        ),
        Some(libc::EACCES | libc::EPERM) if place.enforcing => bad(
            "SELinux does not allow it".to_owned(),
            "restorecon -R /opt/pf9, and check ausearch -m avc -ts recent; it is retried automatically",
        ),
        Some(libc::EACCES | libc::EPERM) => bad(
            "the kernel does not allow it (permission denied)".to_owned(),
            "look for a security module (AppArmor, fapolicyd) that forbids programs there",
        ),
        Some(libc::ENOENT) => {
            let loader = match &asked.format {
                Ok(Format::Elf {
                    loader: Some(loader),
                    ..
                }) => format!("loader {loader}"),
                Ok(Format::Elf { .. } | Format::Script | Format::Other) | Err(_) => {
                    "interpreter".to_owned()
                }
            };
            bad(
                format!("its {loader} is not on this machine"),
                "use a stack whose programs are static, or one for this distribution's C library",
            )
        }
        Some(_) | None => bad(chain(source), "build the stack for this machine"),
    }
}

fn ended_badly(stderr: &str, signal: Option<i32>, code: Option<i32>, judged: bool) -> Option<Bad> {
    const STATIC: &str = "use a stack whose programs are static, or a newer distribution";
    let word = |part: &str| stderr.split("; ").find(|line| line.contains(part));
    // The loader's own words, whatever the exit status.
    if let Some(line) = word("version `GLIBC_").or_else(|| word("GLIBCXX_")) {
        return bad(
            format!("the C library of this machine is too old: {line}"),
            STATIC,
        );
    }
    if let Some(line) = word("error while loading shared libraries") {
        let fix =
            "install the package that has the library, or use a stack whose programs are static";
        return bad(line.to_owned(), fix);
    }
    match (signal, code) {
        (Some(libc::SIGILL), _) => bad(
            "it uses instructions that this processor lacks".to_owned(),
            "build the stack for an older level of the architecture (GOAMD64=v1)",
        ),
        (Some(signal), _) => {
            let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
            bad(format!("it was ended by {name}: {stderr}"), "see dmesg")
        }
        (None, Some(126 | 127)) => bad(stderr.to_owned(), "build the stack for this machine"),
        (None, Some(code)) if judged => bad(
            format!("it ends with status {code}: {stderr}"),
            "build the stack again, and run the program by hand",
        ),
        (None, Some(_) | None) => None,
    }
}

/// Says another version than the manifest does.
fn other_version(asked: &Asked, output: &Output) -> Option<Bad> {
    let wanted = loose_version(asked.wanted.as_deref()?)?;
    let said = format!("{} {}", output.text(), output.stderr);
    let printed = said.split_whitespace().find_map(version_word)?;
    (printed != wanted).then(|| Bad {
        why: format!("it is version {printed}, the manifest says {wanted}"),
        fix: "build the stack again".to_owned(),
    })
}

/// `v2.4.2`, `1.5.3,`: a word that is a version and nothing else.
fn version_word(word: &str) -> Option<semver::Version> {
    let word = word.trim_matches(|c: char| ",;:()\"".contains(c));
    let number = word.strip_prefix('v').unwrap_or(word);
    let starts = number.starts_with(|c: char| c.is_ascii_digit());
    (starts && number.contains('.')).then(|| loose_version(number))?
}

fn bad(why: String, fix: &str) -> Option<Bad> {
    Some(Bad {
        why,
        fix: fix.to_owned(),
    })
}

fn failed_to_ask(stack: &StackManifest, e: &tokio::task::JoinError) -> Fault {
    let what = format!(
        "cannot test the programs of stack {} {}",
        stack.name, stack.version
    );
    Fault::new(FaultCode::Internal, what, e.to_string())
}

#[cfg(test)]
mod tests;
