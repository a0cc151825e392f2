//! What wakes the loop before its next sweep: an owned file was touched, a service of ours died.
//!
//! Files are watched by their directories with inotify; services by their process: looking whether
//! a process lives costs one small read, so it can be done every few seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::net::unix::pipe::Receiver;

use super::phase::PhaseSteps;
use crate::host::Host;

/// Time between two looks at our services' processes.
const LIFE_CHECK: Duration = Duration::from_secs(5);
/// Changes that come together are one: an editor writes several times.
const SETTLE: Duration = Duration::from_millis(300);
/// Most directories watched; a node has about forty.
const DIRS_MAX: usize = 512;

/// Watches a host.
pub struct Watch {
    host: Host,
    notices: Option<Notices>,
    dirs: BTreeMap<String, WatchDescriptor>,
    /// By directory: the names in it that are ours.
    names: BTreeMap<String, BTreeSet<String>>,
    /// Unit → its process and when that started.
    processes: BTreeMap<String, (u32, u64)>,
}

/// What woke it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Woken {
    /// This file was touched.
    File(String),
    /// The process of this unit is gone.
    Unit(String),
}

/// The kernel's notices: made through one descriptor, read through a second one of the same.
struct Notices {
    inotify: Inotify,
    pipe: Receiver,
}

/// Most bytes of notices read at once.
const NOTICES_MAX: usize = 64 * 1024;

impl Notices {
    fn new() -> std::io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let second = inotify.as_fd().try_clone_to_owned()?;
        // Readable like a pipe, which is all that is asked of it.
        let pipe = Receiver::from_file_unchecked(File::from(second))?;
        Ok(Self { inotify, pipe })
    }

    /// What is there: numbers of directories and names in them.
    fn read(&self) -> Vec<(i32, String)> {
        let mut out = Vec::new();
        let mut buffer = vec![0u8; NOTICES_MAX];
        while let Ok(n @ 1..) = self.pipe.try_read(&mut buffer) {
            out.extend(parse(&buffer[..n]));
        }
        out
    }
}

/// `struct inotify_event`: number, mask, cookie, length, then the name with zeros.
fn parse(mut bytes: &[u8]) -> Vec<(i32, String)> {
    const HEAD: usize = 16;
    let mut out = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(HEAD) {
        let word = |i: usize| <[u8; 4]>::try_from(&head[i * 4..i * 4 + 4]).unwrap_or_default();
        let number = i32::from_ne_bytes(word(0));
        let length = usize::try_from(u32::from_ne_bytes(word(3))).unwrap_or(usize::MAX);
        let Some((name, rest)) = rest.split_at_checked(length) else {
            break;
        };
        let end = name.iter().position(|b| *b == 0).unwrap_or(length);
        out.push((number, String::from_utf8_lossy(&name[..end]).into_owned()));
        bytes = rest;
    }
    out
}

impl Watch {
    /// Watches nothing yet. Without inotify the sweeps find everything, only later.
    pub fn new(host: Host) -> Self {
        let notices = match Notices::new() {
            Ok(notices) => Some(notices),
            Err(error) => {
                tracing::warn!(%error, "files are not watched; only sweeps find drift");
                None
            }
        };
        Self {
            host,
            notices,
            dirs: BTreeMap::new(),
            names: BTreeMap::new(),
            processes: BTreeMap::new(),
        }
    }

    /// Watches what these phases own, and these processes; forgets what was before.
    pub fn set(&mut self, phases: &[PhaseSteps], pids: &BTreeMap<String, u32>) {
        self.processes = pids
            .iter()
            .filter_map(|(unit, pid)| Some((unit.clone(), (*pid, self.host.proc.start(*pid)?))))
            .collect();
        self.names.clear();
        let steps = phases
            .iter()
            .filter_map(|p| p.steps.as_ref().ok())
            .flatten();
        for path in steps.filter_map(|s| s.traits().watched) {
            if let Some((dir, name)) = path.rsplit_once('/') {
                let names = self.names.entry(dir.to_owned()).or_default();
                names.insert(name.to_owned());
            }
        }
        self.watch_dirs();
        self.drain();
    }

    /// Watches nothing.
    pub fn clear(&mut self) {
        self.set(&[], &BTreeMap::new());
    }

    /// Waits for something to look at. Cancel-safe: what is lost by cancelling is found by the
    /// look that follows.
    pub async fn woken(&mut self) -> Woken {
        loop {
            let life = tokio::time::sleep(LIFE_CHECK);
            let event = async {
                match &self.notices {
                    Some(notices) if notices.pipe.readable().await.is_ok() => {}
                    Some(_) | None => std::future::pending().await,
                }
            };
            tokio::select! {
                // cancel-safe: both are
                () = event => {
                    if let Some(path) = self.touched() {
                        tokio::time::sleep(SETTLE).await;
                        self.drain();
                        return Woken::File(path);
                    }
                }
                () = life => {
                    if let Some(unit) = self.dead() {
                        return Woken::Unit(unit);
                    }
                }
            }
        }
    }

    fn dead(&mut self) -> Option<String> {
        let proc = &self.host.proc;
        let unit = self
            .processes
            .iter()
            .find(|(_, (pid, start))| proc.start(*pid) != Some(*start))
            .map(|(unit, _)| unit.clone())?;
        // Told once: the sweep that follows watches its successor.
        self.processes.remove(&unit);
        Some(unit)
    }

    fn watch_dirs(&mut self) {
        let Some(Notices { inotify, .. }) = &self.notices else {
            return;
        };
        let gone: Vec<String> = self
            .dirs
            .keys()
            .filter(|d| !self.names.contains_key(*d))
            .cloned()
            .collect();
        for dir in gone {
            if let Some(wd) = self.dirs.remove(&dir) {
                // The kernel may have dropped it with its directory.
                inotify.rm_watch(wd).ok();
            }
        }
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_ONLYDIR;
        for dir in self.names.keys().take(DIRS_MAX) {
            // Added again each time: a directory that was removed and made again is another one.
            match inotify.add_watch(&self.host.fs.at(dir), flags) {
                Ok(wd) => {
                    self.dirs.insert(dir.clone(), wd);
                }
                Err(error) => tracing::debug!(%dir, %error, "directory is not watched"),
            }
        }
    }

    /// The first owned file among the notices that are there.
    fn touched(&self) -> Option<String> {
        let notices = self.notices.as_ref()?.read();
        notices.into_iter().find_map(|(number, name)| {
            let (dir, _) = self.dirs.iter().find(|(_, wd)| wd.as_raw() == number)?;
            let ours = self.names.get(dir)?.contains(&name);
            ours.then(|| format!("{dir}/{name}"))
        })
    }

    /// Forgets what happened so far: it was we, or the look that follows sees it.
    fn drain(&self) {
        self.touched();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::{Attrs, HostFs};
    use crate::model::PhaseId;
    use crate::nodelet::step::{FileStep, Step};

    #[tokio::test]
    async fn an_edited_file_and_a_dead_process_wake_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let write = |path: &str| {
            fs.write(path, b"x", &Attrs::mode(0o644)).expect("write");
        };
        write("/etc/pf9/a");
        let phases = [PhaseSteps {
            id: PhaseId::Misc,
            steps: Ok(vec![Step::File(FileStep {
                path: "/etc/pf9/a".into(),
                content: "x".into(),
                encoding: Default::default(),
                mode: 0o644,
                owner: "root:root".into(),
            })]),
        }];
        let mut watch = Watch::new(Host::new(fs.clone()));
        watch.set(&phases, &BTreeMap::new());
        write("/etc/pf9/foreign");
        let quiet = tokio::time::timeout(Duration::from_millis(500), watch.woken()).await;
        assert!(quiet.is_err(), "a foreign file woke it");
        write("/etc/pf9/a");
        let woken = tokio::time::timeout(Duration::from_secs(20), watch.woken()).await;
        assert_eq!(woken.expect("in time"), Woken::File("/etc/pf9/a".into()));

        let mut watch = Watch::new(Host::real());
        let mut child = tokio::process::Command::new("/bin/sleep")
            .arg("600")
            .spawn()
            .expect("child");
        let pid = child.id().expect("pid");
        watch.set(&[], &[("u".to_owned(), pid)].into());
        child.kill().await.expect("kill");
        let woken = tokio::time::timeout(Duration::from_secs(20), watch.woken()).await;
        assert_eq!(woken.expect("in time"), Woken::Unit("u".into()));
    }
}
