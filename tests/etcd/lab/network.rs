//! A bridge, and machines on it.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, setns};

/// The test's own address on the bridge: for servers that machines call.
pub(crate) const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 7, 254));

/// The address of machine `n`.
pub(super) fn address(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 99, 7, n))
}

/// A machine's namespaces.
pub(super) struct Namespace {
    /// Ends, and everything in its process namespace with it, when the pipe to it closes: also when the test is killed.
    holder: Child,
}

/// Creates the bridge in this thread's network.
pub(super) fn bridge() {
    ip(&["link", "set", "lo", "up"]);
    ip(&["link", "add", "br0", "type", "bridge"]);
    ip(&["addr", "add", &format!("{OUTSIDE}/24"), "dev", "br0"]);
    ip(&["link", "set", "br0", "up"]);
}

impl Namespace {
    pub(super) fn new(n: u8) -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let ready = holder.stdout.as_mut().expect("a pipe");
        ready
            .read_exact(&mut [0])
            .expect("the namespaces are there");
        let namespace = Self { holder };
        let (link, pid) = (format!("m{n}"), namespace.holder.id().to_string());
        ip(&[
            "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &pid,
        ]);
        ip(&["link", "set", &link, "master", "br0", "up"]);
        let address = format!("{}/24", address(n));
        for words in [
            &["link", "set", "lo", "up"][..],
            &["addr", "add", &address, "dev", "eth0"],
            &["link", "set", "eth0", "up"],
        ] {
            run(namespace.command(Path::new("ip")).args(words));
        }
        namespace
    }

    /// Moves the machine to the address of `n` alone.
    pub(super) fn moves(&self, n: u8) {
        let flush = ["addr", "flush", "dev", "eth0"];
        run(self.command(Path::new("ip")).args(flush));
        self.adds(n);
    }

    /// Adds the address of `n` to the machine's.
    pub(super) fn adds(&self, n: u8) {
        let address = format!("{}/24", address(n));
        let add = ["addr", "add", &address, "dev", "eth0"];
        run(self.command(Path::new("ip")).args(add));
    }

    /// The path of its namespaces.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/ns", self.holder.id())
    }

    /// Moves this thread into the machine's network.
    pub(super) fn enter(&self) {
        let file = File::open(format!("{}/net", self.path())).expect("namespace");
        setns(file, CloneFlags::CLONE_NEWNET).expect("enter");
    }

    /// A program in the machine's network.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}/net", self.path()))
            .arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        drop(self.holder.wait());
    }
}

fn ip(words: &[&str]) {
    run(Command::new("ip").args(words));
}

fn run(command: &mut Command) {
    let done = command.output().expect("it runs");
    let why = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {why}");
}
