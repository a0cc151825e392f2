//! `/proc`: processes and who listens. Read here and nowhere else, each file with a bound; what
//! cannot be read counts as not seen, as a process may end between two looks.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};

use super::fs::HostFs;
use super::mounts;
use super::ours::processes::{Process, ProcessRule, TUNNELS, process, tunnels_elsewhere};

/// Most processes that are looked at: more than any machine has that still works; the kernel's own
/// bound is 16 times that.
const PROCESSES_MAX: usize = 262_144;
/// Of the kernel's process clock, on every supported processor.
const TICK_MS: u64 = 10;
/// A name is 15 bytes, `stat` a line.
const SMALL_MAX: u64 = 16 * 1024;
/// What the kernel writes of such a file at once.
const PAGE: usize = 4096;
/// A command line; what says who we deal with stands at its beginning.
const ARGS_MAX: u64 = 64 * 1024;
/// A process's mounts; its root is among the first.
const MOUNTS_MAX: u64 = 4 * 1024 * 1024;
/// Sockets of TCP, of both versions.
const TCP: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// A connection table of a busy master.
const SOCKETS_MAX: u64 = 64 * 1024 * 1024;
/// Most descriptors of one process that are looked at: the kernel's default bound (`nr_open`).
const DESCRIPTORS_MAX: usize = 1_048_576;

/// `/proc` of one host.
#[derive(Clone, Debug)]
pub struct Proc {
    fs: HostFs,
}

/// A TCP socket that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub port: u16,
    /// The holder; `None` where it cannot be seen: a process of another namespace, or, unless we
    /// are root, of another user.
    pub holder: Option<Process>,
}

// === impl Proc ===

impl Proc {
    /// `/proc` below this root.
    pub fn new(fs: HostFs) -> Self {
        Self { fs }
    }

    /// Ids of all processes, in order.
    pub fn pids(&self) -> Vec<u32> {
        let entries = std::fs::read_dir(self.fs.at("/proc"));
        let names = entries.into_iter().flatten().flatten();
        let mut pids: Vec<u32> = names
            .filter_map(|e| e.file_name().to_str()?.parse().ok())
            .take(PROCESSES_MAX)
            .collect();
        pids.sort_unstable();
        pids
    }

    /// Every process that is ours, with the rule that says so.
    pub fn ours(&self) -> Vec<(Process, ProcessRule)> {
        let seen = self.pids().into_iter().map(|pid| self.look(pid));
        seen.filter_map(|p| process(&p).map(|rule| (p, rule)))
            .collect()
    }

    /// Daemons of flannel of ours that tunnel by another address than this.
    pub fn tunnels_elsewhere(&self, ip: IpAddr) -> Vec<Process> {
        let named = self
            .pids()
            .into_iter()
            .filter(|pid| self.name(*pid) == TUNNELS);
        let seen = named.map(|pid| self.look(pid));
        seen.filter(|p| tunnels_elsewhere(p, ip)).collect()
    }

    /// What can be seen of a process; of one that is gone, nothing.
    pub fn look(&self, pid: u32) -> Process {
        let program = std::fs::read_link(self.fs.at(format!("/proc/{pid}/exe")));
        let args = self.text(pid, "cmdline", ARGS_MAX);
        let args = args.split('\0').filter(|a| !a.is_empty());
        Process {
            pid,
            name: self.name(pid),
            program: program
                .map(|p| p.to_string_lossy().into_owned())
                .unwrap_or_default(),
            args: args.map(str::to_owned).collect(),
            root: self.root(pid),
        }
    }

    /// The kernel's name of a process; empty when it is gone.
    pub fn name(&self, pid: u32) -> String {
        self.text(pid, "comm", SMALL_MAX).trim().to_owned()
    }

    /// What a process was started with, `NAME=value` each; empty when it is gone.
    pub fn environment(&self, pid: u32) -> Vec<String> {
        let text = self.text(pid, "environ", ARGS_MAX);
        let all = text.split('\0').filter(|a| !a.is_empty());
        all.map(str::to_owned).collect()
    }

    /// When a process started, in clock ticks since boot; `None` when it is gone. With the process
    /// id it names one process for ever (of one boot).
    pub fn start(&self, pid: u32) -> Option<u64> {
        start_of(&self.text(pid, "stat", SMALL_MAX))
    }

    /// How long this boot has lasted, `up` after the kernel's start: as long as its process 1. A container that boots has
    /// the kernel of its host, which may have run for months. Where process 1 says nothing, that time is all there is.
    pub fn boot_lasted(&self, up: Duration) -> Duration {
        lasted_of(&self.text(1, "stat", SMALL_MAX), up)
    }

    /// The processor time that a process has used; `None` when it is gone.
    pub fn worked(&self, pid: u32) -> Option<Duration> {
        worked_of(&self.text(pid, "stat", SMALL_MAX))
    }

    /// Listeners on the TCP ports that `wanted` picks; each holder of a port once.
    pub fn listeners(&self, wanted: impl Fn(u16) -> bool) -> Vec<Listener> {
        let mut sockets = BTreeMap::new();
        for table in TCP {
            let text = self.read(&self.fs.at(table), SOCKETS_MAX);
            let found = listening(&text).filter(|(_, port)| wanted(*port));
            sockets.extend(found.map(|(inode, port)| (format!("socket:[{inode}]"), port)));
        }
        let mut found: Vec<Listener> = Vec::new();
        if sockets.is_empty() {
            return found;
        }
        let mut held = Vec::new();
        for pid in self.pids() {
            for link in self.descriptors(pid) {
                if let Some(port) = sockets.get(&link) {
                    held.push(link);
                    let same = |l: &Listener| {
                        l.port == *port && l.holder.as_ref().is_some_and(|h| h.pid == pid)
                    };
                    if !found.iter().any(same) {
                        let holder = Some(self.look(pid));
                        found.push(Listener {
                            port: *port,
                            holder,
                        });
                    }
                }
            }
        }
        sockets.retain(|link, _| !held.contains(link));
        found.extend(
            sockets
                .into_values()
                .map(|port| Listener { port, holder: None }),
        );
        found.sort_by_key(|l| (l.port, l.holder.as_ref().map(|h| h.pid)));
        found
    }

    /// Whether a process holds a lock (of the kind that package managers take) on this file, and which; the kernel is
    /// asked, so a stale lock file does not count. `None`: no process does, or it may not be read.
    pub fn lock_holder(&self, path: &str) -> Option<Option<Process>> {
        let mut open = std::fs::File::options();
        // A pipe in its place does not hold us up.
        let open = open.read(true).custom_flags(nix::libc::O_NONBLOCK);
        let file = open.open(self.fs.at(path)).ok()?;
        let mut lock = nix::libc::flock {
            l_type: nix::libc::F_WRLCK as i16,
            l_whence: nix::libc::SEEK_SET as i16,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_GETLK(&mut lock)).ok()?;
        if lock.l_type == nix::libc::F_UNLCK as i16 {
            return None;
        }
        // A process of another namespace has no number here.
        let pid = u32::try_from(lock.l_pid).ok().filter(|pid| *pid > 0);
        Some(pid.map(|pid| self.look(pid)))
    }

    /// What a process's descriptors lead to.
    fn descriptors(&self, pid: u32) -> impl Iterator<Item = String> {
        let entries = std::fs::read_dir(self.fs.at(format!("/proc/{pid}/fd")));
        let entries = entries.into_iter().flatten().flatten();
        entries
            .take(DESCRIPTORS_MAX)
            .filter_map(|e| Some(std::fs::read_link(e.path()).ok()?.to_str()?.to_owned()))
    }

    /// Where its root is mounted from; nothing for who lives on the machine's own, which most do:
    /// their list of mounts is not read.
    fn root(&self, pid: u32) -> Vec<String> {
        let namespace =
            |of: &str| std::fs::read_link(self.fs.at(format!("/proc/{of}/ns/mnt"))).ok();
        let own = namespace("self");
        if own.is_some() && own == namespace(&pid.to_string()) {
            return Vec::new();
        }
        mounts::root_sources(&self.text(pid, "mountinfo", MOUNTS_MAX))
    }

    fn text(&self, pid: u32, file: &str, max: u64) -> String {
        self.read(&self.fs.at(format!("/proc/{pid}/{file}")), max)
    }

    /// The beginning of a file, at most `max` bytes; empty when it cannot be read.
    fn read(&self, at: &Path, max: u64) -> String {
        // A page in one call: without room std asks for 32 bytes first, then twice as many each time, and these files do
        // not say how large they are.
        let mut bytes = Vec::with_capacity(PAGE);
        if let Ok(file) = std::fs::File::open(at) {
            // A process that ends meanwhile ends its file: what was read is judged.
            drop(file.take(max).read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The most memory that this process has had so far, bytes.
pub fn peak_memory() -> Option<u64> {
    let proc = Proc::new(HostFs::real());
    let status = proc.read(Path::new("/proc/self/status"), SMALL_MAX);
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// `starttime` of `/proc/<pid>/stat`; `None` of one that has ended.
pub(super) fn start_of(stat: &str) -> Option<u64> {
    // The name may hold anything, a bracket too.
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    // `starttime` is field 22; the state was field 3.
    fields.nth(18)?.parse().ok()
}

/// How long a process with this `/proc/<pid>/stat` has run, `up` after the kernel's start; `up` where that cannot be.
fn lasted_of(stat: &str, up: Duration) -> Duration {
    let started = start_of(stat).map(ticks);
    started.and_then(|s| up.checked_sub(s)).unwrap_or(up)
}

/// `utime` and `stime` of `/proc/<pid>/stat`.
fn worked_of(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    // Fields 14 and 15; the state is field 3.
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(ticks(user.saturating_add(system)))
}

fn ticks(of: u64) -> Duration {
    Duration::from_millis(of.saturating_mul(TICK_MS))
}

/// Listening sockets of `/proc/net/tcp`: inode and port.
fn listening(table: &str) -> impl Iterator<Item = (u64, u16)> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if *fields.get(3)? != LISTEN {
            return None;
        }
        let port = fields.get(1)?.rsplit_once(':')?.1;
        let port = u16::from_str_radix(port, 16).ok()?;
        Some((fields.get(9)?.parse().ok()?, port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;
    use proptest::prelude::*;

    #[test]
    fn a_listener_is_found_by_its_port_and_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let proc = Proc::new(HostFs::real());
        let found = proc.listeners(|p| p == port);
        let [one] = found.as_slice() else {
            panic!("one socket, one holder: {found:?}");
        };
        let holder = one.holder.as_ref().expect("it is this process");
        assert_eq!(holder.pid, std::process::id());
        assert!(!holder.name.is_empty() && process(holder).is_none());
        drop(listener);
        assert_eq!(proc.listeners(|p| p == port), []);
    }

    #[test]
    fn who_holds_a_lock_is_named_and_a_file_alone_is_no_lock() {
        use std::io::BufRead;
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("lock");
        std::fs::write(&path, "").expect("write");
        let proc = Proc::new(HostFs::real());
        let at = path.display().to_string();
        assert_eq!(proc.lock_holder(&at), None);
        assert_eq!(proc.lock_holder("/nowhere"), None);
        let hold = "import fcntl,sys,time\nf=open(sys.argv[1],'w')\nfcntl.lockf(f,fcntl.LOCK_EX)\n\
                    print('held',flush=True)\nsys.stdin.read()";
        let mut child = std::process::Command::new("python3")
            .args(["-c", hold, &at])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("python3");
        let mut line = String::new();
        let out = child.stdout.take().expect("stdout");
        std::io::BufReader::new(out)
            .read_line(&mut line)
            .expect("line");
        let holder = proc.lock_holder(&at).expect("held").expect("seen");
        assert_eq!((line.trim(), holder.pid), ("held", child.id()));
        assert!(holder.name.starts_with("python3"), "{holder}");
        drop(child.stdin.take());
        child.wait().expect("ended");
        assert_eq!(proc.lock_holder(&at), None);
    }

    #[test]
    fn processes_are_named_by_their_start() {
        let proc = Proc::new(HostFs::real());
        assert!(proc.start(std::process::id()).is_some());
        assert!(proc.start(u32::MAX).is_none());
        assert!(proc.worked(u32::MAX).is_none());
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 30 0 0";
        assert_eq!(worked_of(stat), Some(Duration::from_millis(2800)));
        assert!(proc.pids().contains(&std::process::id()));
    }

    /// A line of `/proc/1/stat` as kernels write it, and lines that are none.
    #[test]
    fn a_boot_has_lasted_as_long_as_its_first_process() {
        const UP: Duration = Duration::from_secs(1000);
        let line = |name: &str, state: &str, start: &str| {
            format!(
                "1 ({name}) {state} 0 1 1 0 -1 4194560 20151 8371 91 51 35 60 14 17 20 0 1 0 {start} 22142976 3271 \
                 18446744073709551615 1 1 0 0 0 0 671173123 4096 1260 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
            )
        };
        let lasted = |stat: &str| lasted_of(stat, UP).as_secs();
        assert_eq!(lasted(&line("systemd", "S", "1")), 999, "a machine's own");
        for name in ["systemd", "a b", "(sd-pam)", "x) S 1 2 (3", "", ") R 7 7"] {
            assert_eq!(lasted(&line(name, "S", "90000")), 100, "{name}");
        }
        // A container of this day on a host of three years.
        let years = Duration::from_secs(94_608_000);
        let of_today = lasted_of(&line("systemd", "S", "9460000000"), years);
        assert_eq!(of_today.as_secs(), 8000);
        let large = u64::MAX.to_string();
        for start in ["100001", &large, "-5", "x", ""] {
            assert_eq!(lasted(&line("systemd", "S", start)), 1000, "{start:?}");
        }
        for odd in ["", "\n", "1 (systemd", "1 (systemd) S 0 1", ")))", "\0"] {
            assert_eq!(lasted(odd), 1000, "{odd:?}");
        }
        assert_eq!(lasted(&line("systemd", "Z", "90000")), 1000, "it has ended");
        let dir = tempfile::tempdir().expect("tempdir");
        let proc = Proc::new(HostFs::new(dir.path()));
        assert_eq!(proc.boot_lasted(UP), UP, "no such file");
    }

    /// A machine with processes of three kinds that hold the same port, as files.
    #[test]
    fn every_holder_of_a_port_is_found_and_judged() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let put = |path: &str, text: &str| {
            fs.write(path, text.as_bytes(), &Attrs::mode(0o644))
                .expect("write");
        };
        let row =
            |inode: u32| format!(" 0: 0100007F:280A 00000000:0000 0A 0:0 0:0 0 0 0 {inode} 1 0\n");
        put(
            "/proc/net/tcp",
            &format!("head\n{}{}{}", row(1), row(2), row(3)),
        );
        put("/proc/20/comm", "kubelet\n");
        fs.link("/proc/20/exe", "/opt/pf9/stacks/k/bin/kubelet")
            .expect("link");
        fs.link("/proc/20/fd/3", "socket:[1]").expect("link");
        put("/proc/21/comm", "nginx\n");
        // It sees our containers' mounts below its own root, and is none of them.
        put(
            "/proc/21/mountinfo",
            "1 2 0:1 / / rw - overlay overlay rw,upperdir=/var/lib/docker/x/diff\n\
             2 1 0:2 / /host/var/lib/pf9/containerd/x rw - overlay overlay \
             rw,upperdir=/var/lib/pf9/containerd/x\n",
        );
        fs.link("/proc/21/fd/7", "socket:[2]").expect("link");
        let found = Proc::new(fs).listeners(|p| p == 10250);
        let judged: Vec<_> = found
            .iter()
            .map(|l| l.holder.as_ref().map(|h| (h.pid, process(h))))
            .collect();
        assert_eq!(
            judged,
            [
                None,
                Some((20, Some(ProcessRule::StackProgram))),
                Some((21, None))
            ]
        );
    }

    proptest! {
        #[test]
        fn whatever_stands_there_is_read_without_a_panic(text in "\\PC{0,200}") {
            drop((start_of(&text), lasted_of(&text, Duration::ZERO), listening(&text).count(), mounts::root_sources(&text)));
        }
    }
}
