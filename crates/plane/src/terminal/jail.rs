//! Where kubectl runs: `pf9-plane kubectl-jail DIR PROGRAM -- ARGUMENTS…`, a process of its own that the plane starts.
//!
//! ```text
//! plane ── DIR/api.sock ──┐ bind mount
//! jail:  /api.sock ◄── 127.0.0.1:port ◄── /kubectl        (nothing else is there, and all of it is read-only)
//! ```
//!
//! kubectl has namespaces of its own (mounts, network, processes, names, IPC; of users too, where the plane is not root), an
//! empty root, no environment, no credential and no way out but the plane's socket, which asks the cluster's API as the
//! person: there is nothing in here to take along. It is nobody, cannot become anybody, writes no file, and has bounds of
//! memory, files and processor time, of which the plane takes what it needs first. Rejected: `systemd-run`, which an
//! unprivileged plane may not call, and a container runtime, which the plane's machine need not have.
//!
//! Everything here happens before a second thread is there: the kernel gives a process with several no namespace of users.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use nix::unistd::{Gid, Uid, chdir, getegid, geteuid, pivot_root, setgroups, setresgid, setresuid};
use std::os::fd::AsRawFd;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::Command;
use tokio::task::JoinSet;

use pf9_hostagent::app::Exit;
use pf9_hostagent::model::{Fault, FaultCode};
use pf9_hostagent::seam::disk::Options;

/// The first argument.
pub(crate) const NAME: &str = "kubectl-jail";
/// Whom it runs as.
const NOBODY: u32 = 65_534;
/// In DIR: the socket, and where the root is made.
pub(super) const SOCKET: &str = "api.sock";
pub(super) const ROOT: &str = "root";
/// Connections at a time: kubectl has a handful.
pub(super) const CONNECTIONS_MAX: usize = 32;
/// kubectl needs some 60 MiB; a list of a large cluster several times that.
const MEMORY_MAX: u64 = 1024 * 1024 * 1024;
/// The kernel's word for it: after everything else of the plane, which serves others meanwhile.
const NICE: i32 = 19;
/// The kernel's word for it.
const OOM_FIRST: &str = "1000";
const FILES_MAX: u64 = 256;
/// Processor time, in seconds: a command ends or follows, it does not compute.
const CPU_S: u64 = 120;

/// The program: how kubectl ended, or why it did not begin.
pub(crate) fn main(mut args: impl Iterator<Item = OsString>) -> Result<Exit, Fault> {
    let (Some(dir), Some(program), Some(_)) = (args.next(), args.next(), args.next()) else {
        return Ok(Exit::Usage);
    };
    let fault = |what: &str, why: io::Error| {
        let why = format!("cannot {what}: {why}");
        Fault::new(FaultCode::NoTerminal, "kubectl was not run", why)
    };
    enter(Path::new(&dir), Path::new(&program)).map_err(|(what, why)| fault(what, why))?;
    let ended = run(args.collect()).map_err(|why| fault("start it", why))?;
    Ok(match ended.success() {
        true => Exit::Ok,
        false => Exit::Failed,
    })
}

type Entered = Result<(), (&'static str, io::Error)>;

fn enter(dir: &Path, program: &Path) -> Entered {
    let is_root = geteuid().is_root();
    // Where the machine's memory ends, this ends before the plane does.
    say("/proc/self/oom_score_adj", OOM_FIRST).map_err(|e| ("be the first to go", e))?;
    rustix::process::setpriority_process(None, NICE)
        .map_err(|e| ("run behind others", io::Error::from(e)))?;
    own_namespaces(is_root).map_err(|e| ("have namespaces of its own", e))?;
    own_root(dir, program).map_err(|e| ("have a root of its own", e))?;
    loopback_up().map_err(|e| ("have a loopback interface", e))?;
    bounds().map_err(|e| ("have bounds", e))?;
    if is_root {
        nobody().map_err(|e| ("become nobody", e))?;
    }
    prctl::set_no_new_privs().map_err(|e| ("give up privileges", e.into()))
}

fn own_namespaces(is_root: bool) -> io::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    let mut own = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    if !is_root {
        own |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(own)?;
    if !is_root {
        // Of groups it has its own alone, before it may say which that is.
        say("/proc/self/setgroups", "deny")?;
        say("/proc/self/uid_map", &format!("{NOBODY} {uid} 1"))?;
        say("/proc/self/gid_map", &format!("{NOBODY} {gid} 1"))?;
    }
    Ok(())
}

fn say(path: &str, text: &str) -> io::Result<()> {
    use std::io::Write;
    Options::write().open(path)?.write_all(text.as_bytes())
}

fn own_root(dir: &Path, program: &Path) -> io::Result<()> {
    const NONE: Option<&Path> = None;
    const TIGHT: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
    let root = dir.join(ROOT);
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    mount(
        Some("tmpfs"),
        &root,
        Some("tmpfs"),
        TIGHT,
        Some("size=64k,nr_inodes=16,mode=755"),
    )?;
    for (from, to) in [(program.to_owned(), "kubectl"), (dir.join(SOCKET), SOCKET)] {
        let to: PathBuf = root.join(to);
        drop(Options::write().create_new(0o444).open(&to)?);
        mount(Some(&from), &to, NONE, MsFlags::MS_BIND, NONE)?;
    }
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | TIGHT;
    mount(NONE, &root.join("kubectl"), NONE, read_only, NONE)?;
    mount(NONE, &root, NONE, read_only, NONE)?;
    chdir(&root)?;
    // The new root above the old one, and the old one away: there is no name that leads out.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    Ok(())
}

/// By netlink (RTM_NEWLINK): no program for it is in here.
fn loopback_up() -> io::Result<()> {
    const NEWLINK: u16 = 16;
    const REQUEST_ACK: u16 = 0x1 | 0x4;
    const LOOPBACK: i32 = 1;
    const UP: u32 = 1;
    const LENGTH: u32 = 32;
    /// Where an answer has its error; 0: done.
    const ERROR_AT: std::ops::Range<usize> = 16..20;
    let route = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let mut message = Vec::new();
    message.extend(LENGTH.to_ne_bytes());
    message.extend(NEWLINK.to_ne_bytes());
    message.extend(REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]);
    message.extend(LOOPBACK.to_ne_bytes());
    message.extend(UP.to_ne_bytes());
    message.extend(UP.to_ne_bytes());
    sendto(
        route.as_raw_fd(),
        &message,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut answer = [0; 1024];
    let len = recv(route.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let error = answer
        .get(..len)
        .and_then(|a| a.get(ERROR_AT))
        .and_then(|e| e.try_into().ok());
    match error.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
        None => Err(io::Error::other("the kernel's answer is too short")),
    }
}

fn bounds() -> io::Result<()> {
    for (what, most) in [
        (Resource::RLIMIT_CORE, 0),
        // Sockets are none.
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_NOFILE, FILES_MAX),
        (Resource::RLIMIT_DATA, MEMORY_MAX),
        (Resource::RLIMIT_CPU, CPU_S),
    ] {
        setrlimit(what, most, most)?;
    }
    Ok(())
}

fn nobody() -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

/// kubectl, and what carries its connections to the socket, until it ends.
fn run(argv: Vec<OsString>) -> io::Result<ExitStatus> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let server = format!("--server=http://{}", listener.local_addr()?);
        let mut kubectl = Command::new("/kubectl")
            .env_clear()
            // Without one it looks for its user in files that are not here.
            .env("HOME", "/")
            .env("GOMEMLIMIT", "512MiB")
            .arg(server)
            .args(argv)
            .kill_on_drop(true)
            .spawn()?;
        let mut carried = JoinSet::new();
        loop {
            tokio::select! {
                ended = kubectl.wait() => return ended,
                taken = listener.accept(), if carried.len() < CONNECTIONS_MAX => {
                    let (stream, _) = taken?;
                    carried.spawn(carry(stream));
                }
                Some(_) = carried.join_next() => {}
            }
        }
    })
}

/// How it ended concerns both ends only.
async fn carry(mut from: TcpStream) {
    if let Ok(mut to) = UnixStream::connect(format!("/{SOCKET}")).await {
        drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
    }
}
