//! Temporary files of writes that were interrupted: found, and taken away.
//!
//! [`super::fs`] names a temporary file after the process that writes it and its start time, so no guess is needed:
//! either the writer lives, and the write is in progress, or it does not, and the file is abandoned. A daemon removes
//! them where it writes when it starts, and `pf9ctl node decommission` at the end.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::fs::{HostFs, Writer, writer_of};
use super::proc::Proc;

/// Most entries that one look goes through: our own directories have a few thousand. What lies
/// behind is found another time, when there is less.
const ENTRIES_MAX: usize = 200_000;
/// Where the writer may be hidden from who looks (another user's process, where `/proc` shows only
/// one's own), a write is given up on only after this: it takes seconds, on a dying disk minutes.
const OLD: Duration = Duration::from_secs(3600);

/// A directory in which we write, and how many levels below it.
pub type Root<'a> = (&'a str, usize);

/// What was seen of a temporary file.
#[derive(Clone, Copy, Debug)]
struct TempSeen {
    writer: Writer,
    /// When the process with the writer's id started, if there is one.
    running: Option<u64>,
    /// It belongs to who looks, so its writer would be seen.
    own: bool,
    age: Duration,
}

/// Takes away what is abandoned below these directories. What could not be removed is reported and left: it
/// costs a few bytes, and the next start tries again.
pub fn collect(fs: &HostFs, roots: &[Root<'_>]) {
    for path in abandoned(fs, roots) {
        match fs.remove_file(&path) {
            Ok(()) => tracing::info!(%path, "removed leftovers of an interrupted write"),
            Err(e) => {
                let error = crate::telemetry::chain(&e);
                tracing::warn!(%error, "a leftover of an interrupted write cannot be removed");
            }
        }
    }
}

/// Abandoned temporary files below these directories, as paths of the host. Links are not followed and other file
/// systems not entered.
pub fn abandoned(fs: &HostFs, roots: &[Root<'_>]) -> Vec<String> {
    let proc = Proc::new(fs.clone());
    let me = nix::unistd::geteuid().as_raw();
    let now = SystemTime::now();
    let mut look = Look {
        base: fs.at("/"),
        found: Vec::new(),
        left: ENTRIES_MAX,
    };
    for (root, depth) in roots {
        let at = fs.at(root);
        if let Ok(meta) = std::fs::symlink_metadata(&at)
            && meta.is_dir()
        {
            look.dir(&at, meta.dev(), *depth, &|writer, meta| {
                let age = meta
                    .modified()
                    .ok()
                    .and_then(|m| now.duration_since(m).ok());
                is_abandoned(TempSeen {
                    writer,
                    running: proc.start(writer.pid),
                    own: meta.uid() == me,
                    age: age.unwrap_or_default(),
                })
            });
        }
    }
    if look.left == 0 {
        tracing::warn!("too many files in our directories to check all of them");
    }
    look.found.sort();
    look.found.dedup();
    look.found
}

/// Nothing will come of it. Never true of what a living process of ours writes, this one included.
fn is_abandoned(seen: TempSeen) -> bool {
    let lives = seen.writer == Writer::this() || seen.running == Some(seen.writer.start);
    !lives && (seen.own || seen.age >= OLD)
}

struct Look {
    base: PathBuf,
    found: Vec<String>,
    left: usize,
}

impl Look {
    fn dir(
        &mut self,
        dir: &Path,
        device: u64,
        depth: usize,
        is_orphan: &dyn Fn(Writer, &std::fs::Metadata) -> bool,
    ) {
        // What cannot be listed is not ours to clean.
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        for entry in entries {
            if self.left == 0 {
                return;
            }
            self.left -= 1;
            let path = entry.path();
            let Ok(meta) = std::fs::symlink_metadata(&path) else {
                continue;
            };
            if meta.is_dir() {
                if depth > 0 && meta.dev() == device {
                    self.dir(&path, device, depth - 1, is_orphan);
                }
                continue;
            }
            let writer = entry.file_name().to_str().and_then(writer_of);
            if writer.is_some_and(|writer| is_orphan(writer, &meta)) {
                let short = path.strip_prefix(&self.base).unwrap_or(&path);
                self.found.push(format!("/{}", short.display()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::{Attrs, temp_name};
    use proptest::prelude::*;

    const ROOTS: &[Root] = &[("/etc/pf9", 3), ("/etc/sysctl.d", 0)];

    fn machine(files: &[String]) -> (tempfile::TempDir, HostFs) {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        for file in files {
            fs.write(file, b"half", &Attrs::mode(0o600)).expect("write");
        }
        (dir, fs)
    }

    fn named(pid: u32, start: u64, name: &str) -> String {
        temp_name(Writer { pid, start }, 7, name)
    }

    #[test]
    fn only_what_a_dead_process_wrote_goes() {
        let this = Writer::this();
        let files = [
            format!("/etc/pf9/kube.d/certs/{}", named(41, 100, "key.pem")),
            format!("/etc/pf9/{}", named(42, 200, "host_id.conf")),
            // Its number was given to another process since.
            format!("/etc/sysctl.d/{}", named(42, 199, "90-pf9.conf")),
            format!("/etc/pf9/{}", temp_name(this, 1, "mine")),
            // Deeper than we write, in another directory, by another program.
            format!("/etc/pf9/a/b/c/d/{}", named(41, 100, "x")),
            format!("/etc/{}", named(41, 100, "x")),
            "/etc/pf9/.pf9-tmp-41-theirs".to_owned(),
            "/proc/42/stat".to_owned(),
        ];
        let (_dir, fs) = machine(&files);
        let stat = format!("42 (pf9ctl) S {} 200 0", "0 ".repeat(18).trim());
        fs.write("/proc/42/stat", stat.as_bytes(), &Attrs::mode(0o444))
            .expect("stat");
        let mut gone = [files[0].clone(), files[2].clone()];
        gone.sort();
        assert_eq!(abandoned(&fs, ROOTS), gone);
        collect(&fs, ROOTS);
        for (i, file) in files.iter().enumerate() {
            assert_eq!(fs.at(file).exists(), ![0, 2].contains(&i), "{file}");
        }
    }

    #[test]
    fn what_links_lead_to_is_not_looked_at() {
        let elsewhere = format!("/home/{}", named(41, 1, "x"));
        let (dir, fs) = machine(std::slice::from_ref(&elsewhere));
        fs.link("/etc/pf9/away", dir.path().join("home"))
            .expect("link");
        fs.link(format!("/etc/pf9/{}", named(41, 1, "link")), "/x")
            .expect("a link that was cut off");
        collect(&fs, ROOTS);
        assert!(fs.at(&elsewhere).exists());
        assert_eq!(fs.list("/etc/pf9").expect("list"), ["away"]);
    }

    #[test]
    fn a_writer_that_may_be_hidden_is_given_time() {
        let seen = TempSeen {
            writer: Writer { pid: 41, start: 1 },
            running: None,
            own: false,
            age: OLD - Duration::from_secs(1),
        };
        assert!(!is_abandoned(seen));
        assert!(is_abandoned(TempSeen { age: OLD, ..seen }));
        assert!(is_abandoned(TempSeen { own: true, ..seen }));
        let alive = TempSeen {
            running: Some(1),
            own: true,
            age: OLD * 100,
            ..seen
        };
        assert!(!is_abandoned(alive), "however old");
    }

    proptest! {
        #[test]
        fn names_are_told_from_all_others(pid: u32, start: u64, n: u32, name in "\\PC{0,300}") {
            let writer = Writer { pid, start };
            let temp = temp_name(writer, n, &name);
            prop_assert!(temp.len() <= 255, "{} bytes are more than a name may have", temp.len());
            prop_assert_eq!(writer_of(&temp), Some(writer));
            prop_assert_eq!(writer_of(&name), None);
        }
    }
}
